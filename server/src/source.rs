//! Opens files below the site's folder, and nothing outside it.
//!
//! In: the site's folder and a [`SitePath`]. Out: a [`Source`]: an open regular file or its bytes, its length
//! and its strong entity tag. Failure: [`Refusal`], which says what the client may know; the cause is logged
//! here.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use zstrap_formats::digest::sha256;

use crate::path::SitePath;

/// Files up to this size are read at once and tagged by their content: `latest`, configs, signatures.
const MAX_SMALL: u64 = 128 * 1024;
/// openat2 asks to try again when a folder on the way is renamed at the same moment.
const OPEN_TRIES: usize = 8;

/// What a client may know of a file that it does not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such regular file that may be served.
    NotFound,
    /// The file may be there, and reading it failed.
    Failed,
}

/// A file of the site, ready to be sent.
pub(crate) struct Source {
    /// Its bytes, or where they are read from.
    pub(crate) content: Content,
    /// Its length in bytes when it was opened.
    pub(crate) len: u64,
    /// Its entity tag, with its quotes.
    pub(crate) etag: String,
}

/// Where the bytes of a [`Source`] are.
pub(crate) enum Content {
    /// All of a small file.
    Whole(Bytes),
    /// A large file, to be read as it is sent.
    Open(File),
}

/// Opens `path` below `site`. Blocks on the disk.
pub(crate) fn open(site: &Path, path: &SitePath) -> Result<Source, Refusal> {
    let file = open_beneath(site, path.relative()).map_err(|errno| refusal(path, errno))?;
    describe(file, path).map_err(|error| {
        log::error!("serving {}: {error:#}", path.relative());
        Refusal::Failed
    })?
}

/// The kernel resolves the whole path below the site's folder: a link that leads out, an absolute link and a
/// link that is swapped in meanwhile all fail. The folder is opened anew each time, so that a site can be
/// exchanged by rename while it is served.
fn open_beneath(site: &Path, relative: &str) -> Result<File, Errno> {
    let root =
        rustix::fs::openat(CWD, site, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // NONBLOCK: opening a fifo must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..OPEN_TRIES {
        match rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(File::from(file)),
            Err(Errno::AGAIN | Errno::INTR) => last = Errno::AGAIN,
            Err(errno) => return Err(errno),
        }
    }
    Err(last)
}

fn refusal(path: &SitePath, errno: Errno) -> Refusal {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO => Refusal::NotFound,
        Errno::XDEV | Errno::LOOP | Errno::ACCESS => {
            log::warn!("not serving {}: {errno}", path.relative());
            Refusal::NotFound
        }
        _ => {
            log::error!("serving {}: {errno}", path.relative());
            Refusal::Failed
        }
    }
}

/// The inner result is what the client may know; the outer error is for the log.
fn describe(mut file: File, path: &SitePath) -> anyhow::Result<Result<Source, Refusal>> {
    let meta = file.metadata().context("reading metadata")?;
    if !meta.is_file() {
        return Ok(Err(Refusal::NotFound));
    }
    if meta.len() <= MAX_SMALL {
        return Ok(Ok(whole(&mut file, path)?));
    }
    let etag = match path.blob_hash() {
        Some(hash) => format!("\"{hash}\""),
        None => stat_tag(&meta),
    };
    Ok(Ok(Source { content: Content::Open(file), len: meta.len(), etag }))
}

/// A small file: what is sent is what was tagged, even while it is being replaced.
fn whole(file: &mut File, path: &SitePath) -> anyhow::Result<Source> {
    let mut bytes = Vec::new();
    file.take(MAX_SMALL + 1).read_to_end(&mut bytes).context("reading")?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_SMALL, "reading: grows while it is read");
    let etag = match path.blob_hash() {
        Some(hash) => format!("\"{hash}\""),
        // 16 bytes of it are enough for a tag.
        None => format!("\"{:.32}\"", sha256(&bytes).to_string()),
    };
    Ok(Source { len: bytes.len() as u64, content: Content::Whole(Bytes::from(bytes)), etag })
}

/// Large files other than blobs: who replaces one changes its inode, who writes into it changes its times.
fn stat_tag(meta: &std::fs::Metadata) -> String {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let mtime = nanos(meta.mtime(), meta.mtime_nsec());
    let ctime = nanos(meta.ctime(), meta.ctime_nsec());
    format!("\"{:x}-{:x}-{mtime:x}-{ctime:x}\"", meta.len(), meta.ino())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    fn tag_of(site: &Path, raw: &str) -> String {
        open(site, &SitePath::from_request(raw).unwrap()).ok().unwrap().etag
    }

    fn refused(site: &Path, raw: &str) -> Refusal {
        open(site, &SitePath::from_request(raw).unwrap()).err().unwrap()
    }

    #[test]
    fn tag_of_a_file_follows_its_content() {
        let site = tempfile::tempdir().unwrap();
        let file = site.path().join("configs.json");
        std::fs::write(&file, "one").unwrap();
        let first = tag_of(site.path(), "/configs.json");
        assert_eq!(first, tag_of(site.path(), "/configs.json"));
        // Same length, same moment: times alone would not tell.
        std::fs::write(&file, "two").unwrap();
        assert_ne!(first, tag_of(site.path(), "/configs.json"));
    }

    #[test]
    fn tag_of_a_large_file_changes_when_it_is_replaced() {
        let site = tempfile::tempdir().unwrap();
        std::fs::create_dir(site.path().join("images")).unwrap();
        let file = site.path().join("images/a.img");
        std::fs::write(&file, vec![1; 200_000]).unwrap();
        let first = tag_of(site.path(), "/images/a.img");
        std::fs::write(site.path().join("new"), vec![2; 200_000]).unwrap();
        std::fs::rename(site.path().join("new"), &file).unwrap();
        assert_ne!(first, tag_of(site.path(), "/images/a.img"));
    }

    #[test]
    fn refuses_links_that_lead_out_of_the_site() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let site = tempfile::tempdir().unwrap();
        let images = site.path().join("images");
        std::fs::create_dir(&images).unwrap();
        symlink(outside.path().join("secret"), images.join("absolute")).unwrap();
        symlink("../../../../../../../../../etc/passwd", images.join("relative")).unwrap();
        symlink(outside.path(), images.join("folder")).unwrap();
        symlink("/proc/self/root", images.join("magic")).unwrap();
        for raw in
            ["/images/absolute", "/images/relative", "/images/folder/secret", "/images/magic/etc/passwd"]
        {
            assert_eq!(refused(site.path(), raw), Refusal::NotFound, "{raw}");
        }
    }

    #[test]
    fn follows_links_that_stay_in_the_site() {
        let site = tempfile::tempdir().unwrap();
        std::fs::create_dir(site.path().join("images")).unwrap();
        std::fs::write(site.path().join("images/real"), "here").unwrap();
        symlink("real", site.path().join("images/link")).unwrap();
        assert_eq!(tag_of(site.path(), "/images/link"), tag_of(site.path(), "/images/real"));
    }

    #[test]
    fn refuses_folders_and_fifos() {
        let site = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(site.path().join("images/folder")).unwrap();
        let fifo = site.path().join("images/fifo");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(refused(site.path(), "/images/folder"), Refusal::NotFound);
        assert_eq!(refused(site.path(), "/images/fifo"), Refusal::NotFound);
    }
}
