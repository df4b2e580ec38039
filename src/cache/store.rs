//! The files of the partition, by descriptor.
//!
//! In: the folder where our partition is mounted. Out: its folders, made if missing, and the few things that are done to
//! files in them. Whoever was root on this machine may have left anything there: links, pipes, attributes, other mounts
//! do not lead anywhere, as no path is followed through them. Failure: what the kernel says; nobody's fault is guessed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, IFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
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

/// What is no longer to be there, until it is deleted: a folder goes at once, what is in it as time allows.
const ASIDE: &str = "aside";
/// What stands at the top of the partition.
const TOP: [&str; 5] = ["site", "state", "loops", "lost+found", ASIDE];
/// What stands in the site.
const SITE: [&str; 5] = ["configs", "bundles", "last", BLOBS, NEW_BLOBS];
const BLOBS: &str = "blobs";
/// What is to be [`BLOBS`].
const NEW_BLOBS: &str = "blobs.new";
/// How long a boot may spend with deleting at a time; the next one goes on with it.
const SWEEP: Duration = Duration::from_secs(10);
/// More names than this are no records of ours, nor worth a look: a node has seen a few bundles, of each a few lists.
const MOST_NAMES: usize = 4096;

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

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes + other.inodes }
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
        let [site, blobs, contents] =
            if is_read_only(&partition)? { as_it_is(&partition)? } else { in_order(&partition)? };
        let root = Linux.open_root(&by_descriptor(&contents))?;
        Ok(Self { partition, site, blobs, contents, root })
    }

    /// Whether nothing can be written there, or not any more.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        is_read_only(&self.partition).unwrap_or(true)
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

    /// A path of the folder `blobs`, whatever stands at its name: it holds [`CONTENTS`] and nothing else.
    #[must_use]
    pub fn blobs_path(&self) -> String {
        by_descriptor(&self.blobs)
    }

    /// The folder that outlives the bundles, as a path that leads nowhere else. It is made if missing.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn state(&self) -> io::Result<(OwnedFd, String)> {
        let state = folder(&self.partition, &self.partition, "state")?;
        let path = by_descriptor(&state);
        Ok((state, path))
    }

    /// A small file beside the site that is written in place; made if missing, and where something else stands: a file
    /// of two names may be a content.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn small_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = || match below(&self.partition, name, flags, RECORD).map(File::from) {
            Ok(file) => Ok(is_plain(&file)?.then_some(file)),
            Err(error) if is_of_another_kind(&error) => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(file) = open()? {
            return Ok(file);
        }
        log::warn!(target: "cache", "removed name={name}: not a plain file of one name");
        discard(&self.partition, &self.partition, name.as_bytes())?;
        open()?.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    /// The content that is said to have this digest, to read it; not what is no plain file, has another name, by which
    /// programs could write to it, or bears attributes: none that we have written does, and overlayfs obeys them.
    ///
    /// # Errors
    /// The kernel's refusal; [`io::ErrorKind::NotFound`] when there is none.
    pub fn content(&self, sha256: &Sha256) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = File::from(below(&self.contents, sha256.to_string(), flags, Mode::empty())?);
        if !is_plain(&file)? {
            return Err(io::Error::other("not a plain file of one name"));
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
        discard(&self.partition, &self.contents, name.as_bytes())
    }

    /// Deletes all contents but those that are kept, by their names; so many went.
    ///
    /// # Errors
    /// The kernel's refusal, or that it took too long: then some are left.
    pub fn retain_contents(&self, keep: &dyn Fn(&str) -> bool) -> io::Result<u64> {
        clear(&self.partition, &self.contents, keep, Instant::now() + SWEEP)
    }

    /// Deletes all of a folder of the site but what is kept.
    ///
    /// # Errors
    /// The kernel's refusal, or that it took too long: then some is left.
    pub fn retain(&self, path: &str, keep: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let until = Instant::now() + SWEEP;
        match self.folder(path)? {
            Some(folder) => clear(&self.partition, &folder, keep, until).map(drop),
            None => Ok(()),
        }
    }

    /// What the contents that are not kept take.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn room_of_others(&self, keep: &dyn Fn(&str) -> bool) -> io::Result<Room> {
        let (mut room, until) = (Room::default(), Instant::now() + SWEEP);
        for entry in Dir::read_from(&self.contents)? {
            watchdog::expect_within(watchdog::WORK);
            let name = entry?.file_name().to_owned();
            if is_itself(name.to_bytes()) || name.to_str().is_ok_and(keep) || Instant::now() >= until {
                continue;
            }
            let stat = rustix::fs::statat(&self.contents, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            room.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            room.inodes += 1;
        }
        Ok(room)
    }

    /// Names in a folder of the site; none when it is not there. One with too many is laid aside.
    ///
    /// # Errors
    /// The disk's.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let Some(folder) = self.folder(path)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for (number, entry) in Dir::read_from(&folder)?.enumerate() {
            if number > MOST_NAMES {
                log::warn!(target: "cache", "removed folder={path}: more than {MOST_NAMES} names");
                let (parent, name) = self.parent(path)?;
                discard(&self.partition, &parent, name.as_bytes())?;
                return Ok(Vec::new());
            }
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        names.retain(|name| !is_itself(name.as_bytes()));
        Ok(names)
    }

    /// A folder of the site, if it is one.
    fn folder(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match below(&self.site, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_of_another_kind(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file of the site, unless it is there already. It has its name only once it is whole, and what stood
    /// there before stands until then.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn put(&self, path: &str, bytes: &[u8]) -> io::Result<bool> {
        if self.has(path, bytes) {
            return Ok(false);
        }
        let (parent, name) = self.parent(path)?;
        let new = format!("{name}.new");
        let forget = |name: &str| match discard(&self.partition, &parent, name.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        forget(&new)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mut file = File::from(below(&parent, &new, flags, RECORD)?);
        watchdog::expect_within(super::DISK);
        file.write_all(bytes)?;
        file.sync_all()?;
        let rename = || rustix::fs::renameat(&parent, &new, &parent, name);
        match rename() {
            Err(Errno::ISDIR | Errno::PERM) => forget(name).and_then(|()| Ok(rename()?))?,
            result => result?,
        }
        Ok(true)
    }

    /// Whether a file of the site is these bytes.
    #[must_use]
    pub fn has(&self, path: &str, bytes: &[u8]) -> bool {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(file) = below(&self.site, path, flags, Mode::empty()) else { return false };
        let (file, mut found) = (File::from(file), Vec::new());
        let is_plain = is_plain(&file).unwrap_or(false);
        is_plain && file.take(bytes.len() as u64 + 1).read_to_end(&mut found).is_ok() && found == bytes
    }

    /// The folder of a path, made if missing, and the name in it.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut parent = self.site.try_clone()?;
        for name in folders.split('/').filter(|name| !name.is_empty()) {
            parent = folder(&self.partition, &parent, name)?;
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

/// The folders of a disk that can only be read: site, blobs, contents. What else stands in `blobs` would be in the root.
fn as_it_is(partition: &OwnedFd) -> io::Result<[OwnedFd; 3]> {
    let open =
        |parent: &OwnedFd, name: &str| below(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let site = open(partition, "site")?;
    let blobs = open(&site, BLOBS)?;
    let contents = open(&blobs, CONTENTS)?;
    for entry in Dir::read_from(&blobs)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !is_itself(name) && name != CONTENTS.as_bytes() {
            return Err(io::Error::other("something was put among the contents, and the disk is read-only"));
        }
    }
    Ok([site, blobs, contents])
}

/// The same where they can be made. A disk that is full to the last block has no room for another folder, and is used as it
/// is once nothing else stands in `blobs`.
fn in_order(partition: &OwnedFd) -> io::Result<[OwnedFd; 3]> {
    let error = match put_in_order(partition) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            error
        }
        result => return result,
    };
    log::warn!(target: "cache", "used as it is: {error}");
    let blobs = folder(partition, &folder(partition, partition, "site")?, BLOBS)?;
    clear(partition, &blobs, &|name| name == CONTENTS, Instant::now() + SWEEP)?;
    as_it_is(partition)
}

/// They are made where they are missing. `blobs` is another folder at each boot, as the whole of it is a layer of the root: of
/// what somebody has put there, only the contents are taken over, each of which is hashed. What nobody needs goes.
fn put_in_order(partition: &OwnedFd) -> io::Result<[OwnedFd; 3]> {
    let site = folder(partition, partition, "site")?;
    // First, as what is laid aside needs a free name there.
    if let Err(error) = sweep(partition, &site, Instant::now() + SWEEP) {
        log::warn!(target: "cache", "not all removed that is not needed: {error}");
    }
    let old = folder(partition, &site, BLOBS)?;
    let new = folder(partition, &site, NEW_BLOBS)?;
    // Left there by a cut right below.
    let has_contents = |blobs| rustix::fs::statat(blobs, CONTENTS, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if has_contents(&new) && !has_contents(&old) {
        rustix::fs::renameat(&new, CONTENTS, &old, CONTENTS)?;
    }
    discard(partition, &site, NEW_BLOBS.as_bytes())?;
    let contents = folder(partition, &old, CONTENTS)?;
    let new = folder(partition, &site, NEW_BLOBS)?;
    rustix::fs::renameat(&old, CONTENTS, &new, CONTENTS)?;
    discard(partition, &site, BLOBS.as_bytes())?;
    rustix::fs::renameat(&site, NEW_BLOBS, &site, BLOBS)?;
    Ok([site, new, contents])
}

/// A path that leads to what this descriptor has open.
fn by_descriptor(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn is_read_only(partition: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatvfs(partition)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// A file that nothing else leads to.
fn is_plain(file: &File) -> io::Result<bool> {
    let meta = file.metadata()?;
    Ok(meta.is_file() && meta.nlink() == 1)
}

/// That something else stands there than was to be opened. An error of the disk is not that.
fn is_of_another_kind(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::XDEV))
}

/// The names by which a folder calls itself and what it is in.
fn is_itself(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// A folder; made anew where something else stands.
fn folder(partition: &OwnedFd, parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match below(parent, name, flags, Mode::empty()) {
        Ok(folder) => {
            make_mutable(&folder);
            return Ok(folder);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if is_of_another_kind(&error) => {
            log::warn!(target: "cache", "removed name={name}: not a folder: {error}");
            discard(partition, parent, name.as_bytes())?;
        }
        Err(error) => return Err(error),
    }
    rustix::fs::mkdirat(parent, name, FOLDER)?;
    below(parent, name, flags, Mode::empty())
}

fn below(parent: &OwnedFd, path: impl rustix::path::Arg, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(parent, path, flags | OFlags::CLOEXEC, mode, resolve)?)
}

/// Takes away what has this name: a file is deleted, a folder is laid aside.
fn discard(partition: &OwnedFd, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let unlink = |flags| rustix::fs::unlinkat(parent, name, flags);
    let mut unlinked = unlink(AtFlags::empty());
    if unlinked == Err(Errno::PERM) {
        make_mutable(parent);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        below(parent, name, flags, Mode::empty()).iter().for_each(make_mutable);
        unlinked = unlink(AtFlags::empty());
    }
    if unlinked != Err(Errno::ISDIR) {
        return Ok(unlinked?);
    }
    match unlink(AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) => {}
        removed => return Ok(removed?),
    }
    let aside = folder(partition, partition, ASIDE)?;
    // As nothing else there is called.
    let inode = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
    Ok(rustix::fs::renameat(parent, name, &aside, inode.to_string())?)
}

/// Somebody may have made it immutable (chattr(1)). Not all file systems know that.
fn make_mutable(file: &OwnedFd) {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(fixed)
    {
        let _ = rustix::fs::ioctl_setflags(file, flags - fixed);
    }
}

/// Takes away what is in a folder but for what is kept; so much was.
fn clear(
    partition: &OwnedFd,
    folder: &OwnedFd,
    keep: &dyn Fn(&str) -> bool,
    until: Instant,
) -> io::Result<u64> {
    let mut removed = 0;
    for entry in Dir::read_from(folder)? {
        watchdog::expect_within(watchdog::WORK);
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let entry = entry?;
        let name = entry.file_name();
        if !is_itself(name.to_bytes()) && !name.to_str().is_ok_and(keep) {
            discard(partition, folder, name.to_bytes())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Deletes what is not ours, and what was laid aside. Folders in that are laid aside in turn, however deep they are.
fn sweep(partition: &OwnedFd, site: &OwnedFd, until: Instant) -> io::Result<()> {
    clear(partition, partition, &|name| TOP.contains(&name), until)?;
    clear(partition, site, &|name| SITE.contains(&name), until)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    while let Ok(aside) = below(partition, ASIDE, flags, Mode::empty()) {
        for entry in Dir::read_from(&aside)? {
            let name = entry?.file_name().to_owned();
            if is_itself(name.to_bytes()) {
                continue;
            }
            if let Ok(inner) = below(&aside, &name, flags, Mode::empty()) {
                make_mutable(&inner);
                clear(partition, &inner, &|_| false, until)?;
            }
            discard(partition, &aside, name.to_bytes())?;
        }
        // Once it is empty.
        match rustix::fs::unlinkat(partition, ASIDE, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if Instant::now() < until => {}
            removed => return Ok(removed?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use rustix::fs::FileType;
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
        assert_eq!(store.names("configs/demo").unwrap(), ["7.json"]);
        // A file of two names can be changed by its other one.
        std::fs::hard_link(dir.path().join("site/configs/demo/7.json"), dir.path().join("state.json"))
            .unwrap();
        assert!(store.put("configs/demo/7.json", b"{ }").unwrap());
        store.retain("configs", &|_| false).unwrap();
        assert_eq!(store.names("configs/demo").unwrap(), [""; 0]);
    }

    #[test]
    fn nothing_leads_out_of_the_partition() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("7.json"), "not ours").unwrap();
        let (dir, store) = store();
        symlink(outside.path(), dir.path().join("site/configs")).unwrap();
        assert_eq!(store.names("configs").unwrap(), [""; 0]);
        // What stands where a folder belongs makes room for it.
        assert!(store.put("configs/demo/7.json", b"{}").unwrap());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        std::fs::remove_dir_all(dir.path().join("site/blobs")).unwrap();
        symlink(outside.path(), dir.path().join("site/blobs")).unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert!(std::fs::symlink_metadata(dir.path().join("site/blobs")).unwrap().is_dir());
        assert!(names(&dir.path().join("site/blobs/sha256")).is_empty());
        symlink("/etc/passwd", dir.path().join("loops")).unwrap();
        assert!(again.small_file("loops").is_ok());
        assert!(std::fs::symlink_metadata(dir.path().join("loops")).unwrap().is_file());
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
        assert_eq!(names(&folder), [""; 0]);
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// All of `blobs` is a layer of the root: what stands there beside the contents would be in it.
    #[test]
    fn what_was_planted_beside_the_contents_is_gone_when_the_disk_is_opened() {
        let (dir, _) = store();
        let blobs = dir.path().join("site/blobs");
        let content = blobs.join("sha256").join(sha256(b"x").to_string());
        std::fs::write(&content, "x").unwrap();
        std::fs::create_dir_all(blobs.join("etc/deep/er/and/so/on/and/on/and/on")).unwrap();
        std::fs::write(blobs.join("etc/ld.so.preload"), "/evil.so").unwrap();
        std::fs::write(blobs.join("evil"), "").unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert_eq!(names(&blobs), ["sha256"]);
        assert_eq!(names(Path::new(&again.blobs_path())), ["sha256"]);
        assert!(again.content(&sha256(b"x")).is_ok());
        Store::open(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["site"]);
    }

    #[test]
    fn a_cut_while_blobs_are_made_anew_costs_no_content() {
        let cuts: [&dyn Fn(&PathBuf); 4] = [
            &|site| std::fs::create_dir(site.join(NEW_BLOBS)).unwrap(),
            &|site| {
                std::fs::create_dir(site.join(NEW_BLOBS)).unwrap();
                std::fs::rename(site.join("blobs/sha256"), site.join("blobs.new/sha256")).unwrap();
                std::fs::write(site.join("blobs.new/evil"), "").unwrap();
            },
            &|site| std::fs::rename(site.join(BLOBS), site.join(NEW_BLOBS)).unwrap(),
            // Somebody who has seen that, and plants another folder.
            &|site| {
                std::fs::create_dir_all(site.join("blobs.new/sha256")).unwrap();
                std::fs::write(site.join("blobs.new/sha256/evil"), "").unwrap();
            },
        ];
        for (number, cut) in cuts.into_iter().enumerate() {
            let (dir, _) = store();
            let site = dir.path().join("site");
            std::fs::write(site.join("blobs/sha256").join(sha256(b"x").to_string()), "x").unwrap();
            cut(&site);
            let again = Store::open(dir.path()).unwrap();
            assert!(again.content(&sha256(b"x")).is_ok(), "{number}");
            assert_eq!(names(&site), [BLOBS], "{number}");
            assert_eq!(names(&site.join(BLOBS)), ["sha256"], "{number}");
            assert_eq!(names(&site.join("blobs/sha256")), [sha256(b"x").to_string()], "{number}");
        }
    }

    /// `ln site/blobs/sha256/HEX state/app.log`: a service that writes its log would change a program.
    #[test]
    fn a_file_of_two_names_is_none() {
        let (dir, store) = store();
        let (digest, log) = (sha256(b"x"), dir.path().join("app.log"));
        let path = dir.path().join("site/blobs/sha256").join(digest.to_string());
        std::fs::write(&path, "x").unwrap();
        std::fs::hard_link(&path, &log).unwrap();
        assert!(store.content(&digest).is_err());
        let loops = dir.path().join("loops");
        std::fs::hard_link(&path, &loops).unwrap();
        store.small_file("loops").unwrap().set_len(0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        std::fs::remove_file(&log).unwrap();
        assert!(store.content(&digest).is_ok());
    }

    #[test]
    fn only_what_is_no_folder_makes_room_for_one() {
        let error = |errno: Errno| is_of_another_kind(&io::Error::from(errno));
        assert!([Errno::NOTDIR, Errno::LOOP, Errno::XDEV].into_iter().all(error));
        assert!(
            ![Errno::IO, Errno::UCLEAN, Errno::NOMEM, Errno::MFILE, Errno::ACCESS].into_iter().any(error)
        );
    }

    #[test]
    fn what_nobody_needs_gives_its_room_back() {
        let (dir, store) = store();
        let top = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(top("state/kept")).unwrap();
        std::fs::create_dir(top("lost+found")).unwrap();
        let bytes = std::os::unix::ffi::OsStrExt::from_bytes;
        let odd: &std::ffi::OsStr = bytes(b"\xff\xfe");
        std::fs::create_dir_all(top("big/a/b/c")).unwrap();
        std::fs::write(top("big/a/b/c").join(odd), "x").unwrap();
        std::fs::write(top("site/blobs/sha256").join(odd), "x").unwrap();
        std::fs::create_dir_all(top("site/etc/zinit")).unwrap();
        // Nobody hinders it by a name that is needed.
        std::fs::create_dir_all(top("aside/1/2/3/4/5/6/7/8/9/10")).unwrap();
        store.retain_contents(&|_| false).unwrap();
        assert_eq!(names(&top("site/blobs/sha256")), [""; 0]);
        Store::open(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["lost+found", "site", "state"]);
        assert_eq!(names(&top("site")), ["blobs"]);
        assert!(top("state/kept").exists());
    }

    #[test]
    fn a_folder_of_too_many_names_is_laid_aside() {
        let (dir, store) = store();
        let folder = dir.path().join("site/configs/demo");
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..MOST_NAMES + 2 {
            std::fs::write(folder.join(format!("{number}.json")), "").unwrap();
        }
        assert_eq!(store.names("configs/demo").unwrap(), [""; 0]);
        assert!(!folder.exists());
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
