//! Reads a folder as a list would describe it.
//!
//! In: a folder. Out: its entries in bytewise order, with what `publish` must refuse noted beside each, and
//! the digests of files read exactly once. Failure: what cannot be read; a file that changes while it is read.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zstrap_formats::digest::{ContentDigest, ContentHasher};

/// Bytes read at a time: large enough that reading costs nothing beside hashing.
const CHUNK: usize = 1 << 20;
/// Every file of a host with SELinux bears this label. It belongs to that host's policy, the node has its own
/// or none, and the content means the same without it. No other attribute is so harmless.
const IGNORED_ATTRIBUTE: &[u8] = b"security.selinux";

/// One thing in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Path below the folder, raw; empty for the folder itself.
    pub(crate) path: Vec<u8>,
    /// Where it is on this machine.
    pub(crate) place: PathBuf,
    /// Permission bits.
    pub(crate) mode: u16,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// What it is.
    pub(crate) kind: ItemKind,
    /// Names of extended attributes, but those that say nothing.
    pub(crate) attributes: Vec<String>,
}

impl Item {
    /// The stamp of a regular file.
    pub(crate) fn file(&self) -> Option<&Stamp> {
        match &self.kind {
            ItemKind::File(stamp) => Some(stamp),
            _ => None,
        }
    }
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Dir,
    Link(Vec<u8>),
    File(Stamp),
    /// What no list can hold, in words.
    Other(&'static str),
}

/// What changes when a file is written to or exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Length in bytes.
    pub(crate) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Stamp {
            size: meta.len(),
            device: meta.dev(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// All of `folder`, itself first, in bytewise order of the paths.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Vec<Item>> {
    let meta = std::fs::metadata(folder).with_context(|| format!("opening {}", folder.display()))?;
    ensure!(meta.is_dir(), "opening {}: expected a folder", folder.display());
    let mut items = vec![item(Vec::new(), folder.to_path_buf(), &meta)?];
    let mut to_list = vec![(Vec::new(), folder.to_path_buf())];
    while let Some((path, place)) = to_list.pop() {
        for child in children(&path, &place)? {
            if child.kind == ItemKind::Dir {
                to_list.push((child.path.clone(), child.place.clone()));
            }
            items.push(child);
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

fn children(path: &[u8], place: &Path) -> anyhow::Result<Vec<Item>> {
    let listing = || format!("listing {}", place.display());
    let mut items = Vec::new();
    for entry in std::fs::read_dir(place).with_context(listing)? {
        let place = entry.with_context(listing)?.path();
        let meta = place.symlink_metadata().with_context(|| format!("looking at {}", place.display()))?;
        let name = place.file_name().unwrap_or_default().as_bytes();
        let path = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
        items.push(item(path, place, &meta)?);
    }
    Ok(items)
}

fn item(path: Vec<u8>, place: PathBuf, meta: &Metadata) -> anyhow::Result<Item> {
    let kind = kind(&place, meta)?;
    let attributes = attributes(&place)?;
    let mode = u16::try_from(meta.mode() & 0o7777).expect("twelve bits");
    Ok(Item { path, place, mode, uid: meta.uid(), gid: meta.gid(), kind, attributes })
}

fn kind(place: &Path, meta: &Metadata) -> anyhow::Result<ItemKind> {
    let file_type = meta.file_type();
    Ok(if file_type.is_dir() {
        ItemKind::Dir
    } else if file_type.is_file() {
        ItemKind::File(Stamp::of(meta))
    } else if file_type.is_symlink() {
        let target =
            std::fs::read_link(place).with_context(|| format!("reading link {}", place.display()))?;
        ItemKind::Link(target.into_os_string().into_vec())
    } else if file_type.is_block_device() || file_type.is_char_device() {
        ItemKind::Other("a device")
    } else if file_type.is_fifo() {
        ItemKind::Other("a fifo")
    } else if file_type.is_socket() {
        ItemKind::Other("a socket")
    } else {
        ItemKind::Other("of unknown type")
    })
}

/// The names of the extended attributes, links not followed. ACLs and file capabilities are among them.
fn attributes(place: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::with_capacity(1024);
    loop {
        match rustix::fs::llistxattr(place, rustix::buffer::spare_capacity(&mut names)) {
            Ok(_) => break,
            // The file system keeps none.
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            // More names than room; XATTR_LIST_MAX is 64 KiB.
            Err(Errno::RANGE) if names.capacity() < 128 * 1024 => names.reserve(names.capacity() * 2),
            Err(errno) => {
                return Err(errno).with_context(|| format!("listing attributes of {}", place.display()));
            }
        }
    }
    let kept = names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && *name != IGNORED_ATTRIBUTE);
    Ok(kept.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// Reads a file of any kind of origin to its end; links are followed.
pub(crate) fn content_of(place: &Path) -> anyhow::Result<ContentDigest> {
    let file = File::open(place).with_context(|| format!("opening {}", place.display()))?;
    hash(&file, place, CHUNK as u64, |_| Ok(()))
}

/// Reads to the end, in pieces that fit a file of about `size` bytes; each goes to `take` once it is hashed.
fn hash(
    mut file: &File,
    place: &Path,
    size: u64,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<ContentDigest> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK).max(1))];
    let mut hasher = ContentHasher::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                take(&buffer[..length])?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", place.display())),
        }
    }
}

/// Reads a file that [`read`] found, once: each piece goes to `take`, the digests are of exactly these pieces.
/// A file that is not the same before and after is an error, since nobody can say what was read.
pub(crate) fn digest(
    place: &Path,
    stamp: &Stamp,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<ContentDigest> {
    let file = open(place)?;
    check_same(&file, stamp, place)?;
    let mut left = stamp.size;
    let digest = hash(&file, place, stamp.size, |piece| {
        let rest = left.checked_sub(piece.len() as u64);
        left = rest.with_context(|| format!("{} changes while it is read", place.display()))?;
        take(piece)
    })?;
    check_same(&file, stamp, place)?;
    ensure!(digest.size == stamp.size, "{} changes while it is read", place.display());
    Ok(digest)
}

/// NOFOLLOW and NONBLOCK: what was a file a moment ago may be a link or a fifo by now.
fn open(place: &Path) -> anyhow::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("open(2) takes flags as an int");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(place);
    file.with_context(|| format!("opening {}", place.display()))
}

fn check_same(file: &File, stamp: &Stamp, place: &Path) -> anyhow::Result<()> {
    let meta = file.metadata().with_context(|| format!("looking at {}", place.display()))?;
    ensure!(Stamp::of(&meta) == *stamp, "{} changes while it is read", place.display());
    Ok(())
}

/// The path as people write it, from a raw one.
pub(crate) fn shown(path: &[u8]) -> String {
    Path::new(".").join(OsStr::from_bytes(path)).display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stamp_of(path: &Path) -> Stamp {
        Stamp::of(&path.metadata().unwrap())
    }

    #[test]
    fn finds_everything_in_bytewise_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        for name in ["a/x", "a-b", "a.b"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", folder.path().join("link")).unwrap();
        let items = read(folder.path()).unwrap();
        let paths: Vec<_> = items.iter().map(|item| shown(&item.path)).collect();
        assert_eq!(paths, ["./", "./a", "./a-b", "./a.b", "./a/x", "./link"]);
        assert_eq!(items[5].kind, ItemKind::Link(b"/nowhere".to_vec()));
    }

    #[test]
    fn notes_attributes() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "").unwrap();
        rustix::fs::setxattr(&file, "user.zstrap", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(read(folder.path()).unwrap()[1].attributes, ["user.zstrap"]);
    }

    #[test]
    fn digests_are_those_of_the_pieces_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..3 * CHUNK + 5).map(|i| (i % 251) as u8).collect();
        std::fs::write(file.path(), &content).unwrap();
        let mut taken = Vec::new();
        let found = digest(file.path(), &stamp_of(file.path()), |piece| {
            taken.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!(found.unwrap(), ContentDigest::of(&content));
        assert!(taken == content);
    }

    #[test]
    fn refuses_a_file_that_grows_or_shrinks_while_it_is_read() {
        for new_length in [10 * CHUNK as u64, 10] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), vec![1; 4 * CHUNK]).unwrap();
            let stamp = stamp_of(file.path());
            let error = digest(file.path(), &stamp, |_| Ok(file.as_file().set_len(new_length)?)).unwrap_err();
            assert!(error.to_string().ends_with("changes while it is read"), "{error}");
        }
    }

    #[test]
    fn refuses_a_file_that_was_exchanged_for_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "x").unwrap();
        let stamp = stamp_of(&file);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(digest(&file, &stamp, |_| Ok(())).unwrap_err().to_string().starts_with("opening "));
    }
}
