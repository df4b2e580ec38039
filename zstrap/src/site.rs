//! A site on disk: where things stand, and how they get there without anyone seeing half of them.
//!
//! In: paths of the site layout and bytes. Out: files that appear whole, by rename, after their bytes are on
//! the disk. Only a [`Writer`] writes, and only one exists at a time. Failure: another writer; the disk's
//! errors. What a crash leaves behind lies in `.tmp` and goes with the next writer.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempPath};
use zstrap_formats::site::{MAX_LATEST, parse_latest};

/// Half-made files; no server serves a path with a segment that begins with a dot.
const HALF_MADE: &str = ".tmp";
const LOCK: &str = "lock";
const HALF_PREFIX: &str = "half-";
/// What a site holds is public, whatever the umask of who publishes: another user's web server reads it.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// A site to read.
#[derive(Debug, Clone)]
pub struct Site {
    root: PathBuf,
}

impl Site {
    /// The site in `root`.
    ///
    /// # Errors
    /// `root` is no folder.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let meta = std::fs::metadata(root).with_context(|| format!("opening site {}", root.display()))?;
        ensure!(meta.is_dir(), "opening site {}: expected a folder", root.display());
        Ok(Site { root: root.to_path_buf() })
    }

    /// Where a path of the site layout is on this machine.
    #[must_use]
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The bytes of a file, or none when it is not there.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let place = self.place(path);
        match std::fs::read(&place) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", place.display())),
        }
    }

    /// The serial in a `latest` file, or none when it is not there.
    ///
    /// # Errors
    /// It is there and is not a serial.
    pub fn latest(&self, path: &str) -> anyhow::Result<Option<u64>> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        let serial = if bytes.len() <= MAX_LATEST { parse_latest(&bytes) } else { None };
        serial.map(Some).with_context(|| format!("reading {}: expected a serial", self.place(path).display()))
    }

    /// The names in a folder, in order; none when it is not there.
    ///
    /// # Errors
    /// It is there and cannot be listed.
    pub fn names(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let place = self.place(path);
        let listing = || format!("listing {}", place.display());
        let entries = match std::fs::read_dir(&place) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(listing)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.with_context(listing)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// How many keys have signed this file, by the names of the signatures beside it: nobody looks into them.
    ///
    /// # Errors
    /// What [`Site::names`] reports.
    pub fn count_signers(&self, path: &str) -> anyhow::Result<usize> {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let names = self.names(folder)?;
        let is_signer = |name: &&String| {
            let rest = name.strip_prefix(file).and_then(|rest| rest.strip_prefix('.'));
            rest.and_then(|rest| rest.strip_suffix(".minisig")).is_some_and(|id| !id.contains('.'))
        };
        Ok(names.iter().filter(is_signer).count())
    }

    /// The serial for the next file in `folder`: above the one in `latest`, above every one that is there (an
    /// interrupted writer may have left it without `latest`), and at least `now`.
    ///
    /// # Errors
    /// What [`Site::latest`] and [`Site::names`] report.
    pub fn next_serial(&self, folder: &str, now: u64) -> anyhow::Result<u64> {
        let latest = self.latest(&format!("{folder}/latest"))?;
        let names = self.names(folder)?;
        let there = names.iter().filter_map(|name| parse_latest(name.split('.').next()?.as_bytes()));
        let highest = there.chain(latest).max();
        match highest.map(|serial| serial.checked_add(1)) {
            Some(None) => bail!("{folder} has the highest serial there can be"),
            Some(Some(next)) => Ok(next.max(now)),
            None => Ok(now),
        }
    }
}

/// The one who may write to a site.
#[derive(Debug)]
pub struct Writer {
    site: Site,
    /// The lock goes when it is closed, and so with the process.
    _lock: File,
}

impl Writer {
    /// Makes the site if it is not there, and takes its lock.
    ///
    /// # Errors
    /// Another writer is at work.
    pub fn lock(root: &Path) -> anyhow::Result<Self> {
        let half_made = root.join(HALF_MADE);
        make_public_folder(root)?;
        make_public_folder(&half_made)?;
        let path = half_made.join(LOCK);
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = opened.with_context(|| format!("opening {}", path.display()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!("site {} is being written to by another zstrap", root.display()),
            Err(errno) => return Err(errno).with_context(|| format!("locking {}", path.display())),
        }
        let writer = Writer { site: Site::open(root)?, _lock: lock };
        writer.remove_half_made()?;
        Ok(writer)
    }

    /// The site, to read.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    fn remove_half_made(&self) -> anyhow::Result<()> {
        for name in self.site.names(HALF_MADE)?.iter().filter(|name| name.starts_with(HALF_PREFIX)) {
            let place = self.site.place(HALF_MADE).join(name);
            std::fs::remove_file(&place).with_context(|| format!("removing {}", place.display()))?;
        }
        Ok(())
    }

    /// A file in the making, removed on drop unless it is placed.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(&self) -> anyhow::Result<NamedTempFile> {
        let folder = self.site.place(HALF_MADE);
        let making = || format!("making a file in {}", folder.display());
        let half = tempfile::Builder::new().prefix(HALF_PREFIX).tempfile_in(&folder).with_context(making)?;
        half.as_file().set_permissions(Permissions::from_mode(FILE_MODE)).with_context(making)?;
        Ok(half)
    }

    /// Brings all that was written to this site onto the disk, in one call: cheaper than one for each file.
    ///
    /// # Errors
    /// The disk's, also for writes that seemed to succeed.
    pub fn sync(&self) -> anyhow::Result<()> {
        let root = File::open(&self.site.root).context("opening the site")?;
        rustix::fs::syncfs(&root).with_context(|| format!("syncing {}", self.site.root.display()))
    }

    /// Gives a file whose bytes are on the disk its name.
    ///
    /// # Errors
    /// The disk's.
    pub fn place(&self, half: TempPath, path: &str) -> anyhow::Result<()> {
        let place = self.site.place(path);
        half.persist(&place)
            .map_err(|error| error.error)
            .with_context(|| format!("placing {}", place.display()))
    }

    /// Makes a folder of the site and its parents.
    ///
    /// # Errors
    /// The disk's.
    pub fn make_folder(&self, path: &str) -> anyhow::Result<()> {
        let place = self.site.place(path);
        if place.is_dir() {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_folder(parent)?;
        }
        make_public_folder(&place)?;
        self.sync_folder(path.rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    /// Renames in a folder last once the folder is on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync_folder(&self, path: &str) -> anyhow::Result<()> {
        let place = self.site.place(path);
        let synced = File::open(&place).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("syncing {}", place.display()))
    }

    /// Writes a file whole: bytes to the disk, then the name, then the folder to the disk. On power loss there
    /// is the old file or the new one, never half of it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() {
            self.make_folder(folder)?;
        }
        let mut half = self.begin()?;
        let written = half.write_all(bytes).and_then(|()| half.as_file().sync_all());
        written.with_context(|| format!("writing {path}"))?;
        self.place(half.into_temp_path(), path)?;
        self.sync_folder(folder)
    }

    /// The same for a file that must not be there yet.
    ///
    /// # Errors
    /// It is there; the disk's.
    pub fn write_new(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut half = self.begin()?;
        let written = half.write_all(bytes).and_then(|()| half.as_file().sync_all());
        written.with_context(|| format!("writing {path}"))?;
        let place = self.site.place(path);
        let placed = half.into_temp_path().persist_noclobber(&place).map_err(|error| error.error);
        placed.with_context(|| format!("making {}", place.display()))?;
        self.sync_folder(path.rsplit_once('/').map_or("", |(folder, _)| folder))
    }

    /// Removes a file, for good: also after power loss.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, path: &str) -> anyhow::Result<()> {
        let place = self.site.place(path);
        std::fs::remove_file(&place).with_context(|| format!("removing {}", place.display()))?;
        self.sync_folder(path.rsplit_once('/').map_or("", |(folder, _)| folder))
    }
}

/// Makes a folder, unless it is there; then its mode is its owner's choice.
fn make_public_folder(place: &Path) -> anyhow::Result<()> {
    let public = Permissions::from_mode(FOLDER_MODE);
    match std::fs::create_dir(place).and_then(|()| std::fs::set_permissions(place, public)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.with_context(|| format!("making folder {}", place.display())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_writer_is_refused_until_the_first_ends() {
        let root = tempfile::tempdir().unwrap();
        let first = Writer::lock(root.path()).unwrap();
        let error = Writer::lock(root.path()).unwrap_err();
        assert!(error.to_string().ends_with("is being written to by another zstrap"), "{error}");
        drop(first);
        Writer::lock(root.path()).unwrap();
    }

    #[test]
    fn a_new_writer_removes_what_a_crash_left() {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::lock(root.path()).unwrap();
        let left = writer.begin().unwrap().into_temp_path().keep().unwrap();
        drop(writer);
        assert!(left.exists());
        Writer::lock(root.path()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn written_files_are_whole_and_public() {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::lock(root.path()).unwrap();
        writer.write("configs/demo/latest", b"1\n").unwrap();
        writer.write("configs/demo/latest", b"2\n").unwrap();
        let place = writer.site().place("configs/demo/latest");
        assert_eq!(place.metadata().unwrap().permissions().mode() & 0o777, FILE_MODE);
        assert_eq!(writer.site().latest("configs/demo/latest").unwrap(), Some(2));
        assert_eq!(writer.site().names(HALF_MADE).unwrap(), [LOCK]);
    }

    #[test]
    fn serials_grow_past_latest_past_leftovers_and_past_the_clock() {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::lock(root.path()).unwrap();
        let next = |now| writer.site().next_serial("bundles/demo/amd64", now).unwrap();
        assert_eq!(next(100), 100);
        writer.write("bundles/demo/amd64/latest", b"200\n").unwrap();
        assert_eq!(next(100), 201);
        assert_eq!(next(300), 300);
        writer.write("bundles/demo/amd64/250.mtree", b"").unwrap();
        assert_eq!(next(100), 251);
    }

    #[test]
    fn refuses_a_latest_that_is_no_serial() {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::lock(root.path()).unwrap();
        writer.write("configs/demo/latest", b"<html>").unwrap();
        assert!(
            writer
                .site()
                .latest("configs/demo/latest")
                .unwrap_err()
                .to_string()
                .ends_with("expected a serial")
        );
    }
}
