//! The files of the partition, by descriptor.
//!
//! In: the folder where our partition is mounted. Out: its folders, made if missing, and the few things that are done to
//! files in them. Whoever was root on this machine may have left anything there: links, pipes, attributes, other mounts
//! do not lead anywhere, as no path is followed through them. Failure: what the kernel says; nobody's fault is guessed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use zstrap_formats::digest::Sha256;

use crate::sys::linux::Linux;
use crate::sys::{RootDir, System as _};
use crate::watchdog;

/// Who may look into what is kept: root.
const FOLDER: Mode = Mode::from_raw_mode(0o700);
/// A record can be read by whoever takes the disk out and looks; nothing in it is secret.
const RECORD: Mode = Mode::from_raw_mode(0o600);
/// What is left free beside the files that are to come: the file system's own blocks, and records.
const SPARE_BYTES: u64 = 4 << 20;
const SPARE_INODES: u64 = 64;
/// Of each so many bytes of files, the file system takes one for itself.
const OVERHEAD: u64 = 256;

/// Folders of ours lie in folders, but not deeper.
const DEEPEST: u32 = 8;

/// What a file system has left, or files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// In bytes, whole blocks.
    pub bytes: u64,
    /// Files.
    pub inodes: u64,
}

impl Room {
    /// What files of these sizes take in blocks of 4 KiB, with what they need beside.
    #[must_use]
    pub fn for_files(sizes: impl Iterator<Item = u64>) -> Self {
        let (mut bytes, mut inodes) = (0_u64, 0);
        for size in sizes {
            bytes = bytes.saturating_add(size.div_ceil(4096).saturating_mul(4096));
            inodes += 1;
        }
        let bytes = bytes.saturating_add(bytes / OVERHEAD).saturating_add(SPARE_BYTES);
        Self { bytes, inodes: inodes + SPARE_INODES }
    }

    /// Whether so much fits in here.
    #[must_use]
    pub fn holds(self, need: Self) -> bool {
        need.bytes <= self.bytes && need.inodes <= self.inodes
    }
}

/// The folders of the partition.
pub struct Store {
    partition: OwnedFd,
    site: OwnedFd,
    blobs: OwnedFd,
    contents: OwnedFd,
    root: Box<dyn RootDir>,
}

impl Store {
    /// The folders below this mount point; made where they are missing.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(partition: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let partition = rustix::fs::openat(CWD, partition, flags, Mode::empty())?;
        let site = folder(&partition, "site")?;
        let blobs = folder(&site, "blobs")?;
        let contents = folder(&blobs, "sha256")?;
        let root = Linux.open_root(&by_descriptor(&contents))?;
        Ok(Self { partition, site, blobs, contents, root })
    }

    /// A second descriptor of the site's folder.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn site(&self) -> io::Result<OwnedFd> {
        self.site.try_clone()
    }

    /// Where new contents go, each named by its digest.
    #[must_use]
    pub fn contents(&self) -> &dyn RootDir {
        &*self.root
    }

    /// A path of the folder `blobs`, whatever stands at its name: it holds [`CONTENTS`] and nothing else that is ours.
    #[must_use]
    pub fn blobs_path(&self) -> String {
        by_descriptor(&self.blobs)
    }

    /// The folder that outlives the bundles, as a path that leads nowhere else. It is made if missing.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn state(&self) -> io::Result<(OwnedFd, String)> {
        let state = folder(&self.partition, "state")?;
        let path = by_descriptor(&state);
        Ok((state, path))
    }

    /// A small file beside the site that is written in place; made if missing.
    ///
    /// # Errors
    /// The kernel's refusal, also for what is no plain file.
    pub fn small_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(below(&self.partition, name, flags, RECORD)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a plain file")) }
    }

    /// The content that is said to have this digest, to read it; not what is no plain file, or bears attributes: none
    /// that we have written does, and overlayfs obeys them.
    ///
    /// # Errors
    /// The kernel's refusal; [`io::ErrorKind::NotFound`] when there is none.
    pub fn content(&self, sha256: &Sha256) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = File::from(below(&self.contents, &sha256.to_string(), flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        match rustix::fs::flistxattr(&file, &mut [0_u8; 1]) {
            Ok(0) | Err(Errno::NOTSUP) => Ok(file),
            // The name of the shortest one is longer.
            Ok(_) | Err(Errno::RANGE) => Err(io::Error::other("has attributes")),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Deletes a content.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove_content(&self, name: &str) -> io::Result<()> {
        remove(&self.contents, name)
    }

    /// Names in the folder of contents.
    #[must_use]
    pub fn content_names(&self) -> Vec<String> {
        names(&self.contents)
    }

    /// Names in a folder of the site; none when it is not there.
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        below(&self.site, path, flags, Mode::empty()).map(|folder| names(&folder)).unwrap_or_default()
    }

    /// Writes a file of the site, unless it is there already. It has its name only once it is whole.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn put(&self, path: &str, bytes: &[u8]) -> io::Result<bool> {
        if self.has(path, bytes) {
            return Ok(false);
        }
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::TMPFILE | OFlags::WRONLY;
        let mut file = File::from(below(&parent, ".", flags, RECORD)?);
        file.write_all(bytes)?;
        // What stands there is something else, and so nothing.
        match remove(&parent, name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        rustix::fs::linkat(CWD, by_descriptor_of(&file), &parent, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(true)
    }

    /// Whether a file of the site is these bytes.
    #[must_use]
    pub fn has(&self, path: &str, bytes: &[u8]) -> bool {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(file) = below(&self.site, path, flags, Mode::empty()) else { return false };
        let (file, mut found) = (File::from(file), Vec::new());
        let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
        is_file && file.take(bytes.len() as u64 + 1).read_to_end(&mut found).is_ok() && found == bytes
    }

    /// Deletes a file or a folder of the site.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        remove(&parent, name)
    }

    /// The folder of a path, made if missing, and the name in it.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut parent = self.site.try_clone()?;
        for name in folders.split('/').filter(|name| !name.is_empty()) {
            parent = folder(&parent, name)?;
        }
        Ok((parent, name))
    }

    /// What is free.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn room(&self) -> io::Result<Room> {
        let stat = rustix::fs::fstatvfs(&self.partition)?;
        Ok(Room { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes: stat.f_favail })
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        // A disk may have as much in memory as the machine has, and take its time.
        watchdog::expect_within(super::DISK);
        let synced = rustix::fs::syncfs(&self.partition);
        watchdog::expect_within(watchdog::WORK);
        Ok(synced?)
    }
}

/// The name of the one folder in `blobs`.
pub const CONTENTS: &str = "sha256";

/// A path that leads to what this descriptor has open.
fn by_descriptor(file: &OwnedFd) -> String {
    by_descriptor_of(file)
}

fn by_descriptor_of(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A folder; made anew where something else stands.
fn folder(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match below(parent, name, flags, Mode::empty()) {
        Ok(folder) => return Ok(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            log::warn!(target: "cache", "removed name={name}: not a folder: {error}");
            remove(parent, name)?;
        }
    }
    rustix::fs::mkdirat(parent, name, FOLDER)?;
    below(parent, name, flags, Mode::empty())
}

fn below(parent: &OwnedFd, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(parent, path, flags | OFlags::CLOEXEC, mode, resolve)?)
}

/// Deletes what has this name, and what is in it.
fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    remove_within(parent, name, DEEPEST)
}

fn remove_within(parent: &OwnedFd, name: &str, depth: u32) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_folder {
        let inner = below(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        for name in names(&inner) {
            watchdog::expect_within(watchdog::WORK);
            let depth = depth.checked_sub(1).ok_or(io::ErrorKind::DirectoryNotEmpty)?;
            remove_within(&inner, &name, depth)?;
        }
    }
    let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::PERM) => {
            make_mutable(parent, name)?;
            Ok(rustix::fs::unlinkat(parent, name, flags)?)
        }
        result => Ok(result?),
    }
}

/// Somebody has made it immutable (chattr(1)).
fn make_mutable(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let file = below(parent, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let flags = rustix::fs::ioctl_getflags(&file)? - IFlags::IMMUTABLE - IFlags::APPEND;
    Ok(rustix::fs::ioctl_setflags(&file, flags)?)
}

fn names(folder: &OwnedFd) -> Vec<String> {
    let entries = Dir::read_from(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| name != "." && name != "..").collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;
    use zstrap_formats::digest::sha256;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_record_is_written_once_and_replaced_when_it_differs() {
        let (dir, store) = store();
        assert!(store.put("configs/demo/7.json", b"{}").unwrap());
        assert!(!store.put("configs/demo/7.json", b"{}").unwrap());
        assert!(store.put("configs/demo/7.json", b"{ }").unwrap());
        assert_eq!(std::fs::read(dir.path().join("site/configs/demo/7.json")).unwrap(), b"{ }");
        assert_eq!(store.names("configs/demo"), ["7.json"]);
        store.remove("configs").unwrap();
        assert_eq!(store.names("configs/demo"), [""; 0]);
    }

    #[test]
    fn nothing_leads_out_of_the_partition() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("7.json"), "not ours").unwrap();
        let (dir, store) = store();
        symlink(outside.path(), dir.path().join("site/configs")).unwrap();
        assert_eq!(store.names("configs"), [""; 0]);
        // What stands where a folder belongs makes room for it.
        assert!(store.put("configs/demo/7.json", b"{}").unwrap());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        std::fs::remove_dir_all(dir.path().join("site/blobs")).unwrap();
        symlink(outside.path(), dir.path().join("site/blobs")).unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert!(std::fs::symlink_metadata(dir.path().join("site/blobs")).unwrap().is_dir());
        assert!(again.content_names().is_empty());
        symlink("/etc/passwd", dir.path().join("loops")).unwrap();
        assert!(again.small_file("loops").is_err());
        symlink(outside.path(), dir.path().join("state")).unwrap();
        assert!(again.state().is_ok());
        assert!(std::fs::symlink_metadata(dir.path().join("state")).unwrap().is_dir());
    }

    #[test]
    fn only_a_plain_file_without_attributes_is_a_content() {
        let (dir, store) = store();
        let (digest, folder) = (sha256(b"x"), dir.path().join("site/blobs/sha256"));
        let path = folder.join(digest.to_string());
        assert_eq!(store.content(&digest).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "x").unwrap();
        assert!(store.content(&digest).is_ok());
        rustix::fs::setxattr(&path, "user.x", b"", rustix::fs::XattrFlags::empty()).unwrap();
        assert!(store.content(&digest).is_err());
        store.remove_content(&digest.to_string()).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(store.content(&digest).is_err());
        store.remove_content(&digest.to_string()).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, RECORD, 0).unwrap();
        assert!(store.content(&digest).is_err());
        store.remove_content(&digest.to_string()).unwrap();
        std::fs::create_dir_all(path.join("deep")).unwrap();
        assert!(store.content(&digest).is_err());
        store.remove_content(&digest.to_string()).unwrap();
        assert_eq!(store.content_names(), [""; 0]);
    }

    #[test]
    fn room_counts_blocks_and_files() {
        let need = Room::for_files([1, 4097].into_iter());
        assert_eq!(
            need,
            Room { bytes: 3 * 4096 + 3 * 4096 / OVERHEAD + SPARE_BYTES, inodes: 2 + SPARE_INODES }
        );
        assert!(need.holds(need) && !Room { inodes: need.inodes - 1, ..need }.holds(need));
        assert!(!Room { bytes: need.bytes - 1, ..need }.holds(need));
        assert_eq!(Room::for_files([u64::MAX].into_iter()).bytes, u64::MAX);
    }
}
