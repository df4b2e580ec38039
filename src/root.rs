//! Sixth stage: a place for the files.
//!
//! In: the config and the list. Out: a [`Root`] that is big enough, or a refusal before the first byte is fetched. In RAM
//! that is a tmpfs, sized by the list plus the config's headroom. On a disk it is an overlay that is made anew at every
//! boot: below, read-only, what the list says: a tmpfs of directories, links and names alone, above the contents of the
//! disk, each of which was hashed in this boot; above it RAM. Failure: too little memory. Where a disk cannot be used,
//! the root is in RAM, and why is said.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::mount::MountFlags;
use zstrap_formats::digest::Sha256;
use zstrap_formats::identity::Identity;
use zstrap_formats::list::{EntryKind, List};

use crate::cache::{CONTENTS, Cache, Keep, Room, Verified};
use crate::config::NodeConfig;
use crate::console::status;
use crate::disk;
use crate::fail::{Code, Refusal};
use crate::list::VerifiedList;
use crate::modules::Modules;
use crate::signed;
use crate::sys::{Meta, Mount, NO_EXEC, RootDir, System};

/// Where the new root stands until it is the root.
pub const NEW_ROOT: &str = "/newroot";
/// What an overlay is made of, until it is the root: the list's names, and what programs change.
const LAYERS: &str = "/layers";
/// What the kernel keeps of a file whose content is on the disk: as of [`ENTRY`], and where the content stands.
const STUB: u64 = 1536;
const MIB: u64 = 1 << 20;
/// What the init and the kernel need beside the files, in bytes; with less, the kernel would end in a panic.
pub const MEMORY_TO_RUN: u64 = 32 * MIB;
/// What the kernel keeps of an entry beside its bytes: an inode of tmpfs, and its name.
const ENTRY: u64 = 1024;
/// Inodes beyond those of the list.
const SPARE_INODES: u64 = 16384;

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files do not fit beside what it takes to run.
    #[error("bundle needs {needed} MiB of memory, {available} MiB are available")]
    NoMemory {
        /// Files and what it takes to run, in MiB.
        needed: u64,
        /// Memory, in MiB.
        available: u64,
    },
    /// The disk, which came only now, knows of something newer.
    #[error(transparent)]
    Older(#[from] Box<signed::Error>),
    /// The kernel refused.
    #[error("{what}")]
    System {
        /// Which operation.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoMemory { .. } => Code::NoMemory,
            Self::Older(error) => error.code(),
            Self::System { .. } => Code::RootIo,
        }
    }
}

/// A root that is being filled, or is.
pub struct Root {
    dir: Box<dyn RootDir>,
    disk: Option<OnDisk>,
}

/// The contents of a root that are on the disk, or will be.
struct OnDisk {
    cache: Arc<Cache>,
    missing: BTreeSet<Sha256>,
    missing_bytes: u64,
}

impl Root {
    /// The verbs to fill it with.
    #[must_use]
    pub fn dir(&self) -> &dyn RootDir {
        &*self.dir
    }

    /// Where contents go that are not in the root itself; none in RAM.
    #[must_use]
    pub fn contents(&self) -> Option<&dyn RootDir> {
        self.disk.as_ref().map(|disk| disk.cache.store().contents())
    }

    /// Whether this content is still to come.
    #[must_use]
    pub fn lacks(&self, content: &Sha256) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.missing.contains(content))
    }

    /// Bytes that are to come, of a list with so many.
    #[must_use]
    pub fn bytes_to_come(&self, total: u64) -> u64 {
        self.disk.as_ref().map_or(total, |disk| disk.missing_bytes)
    }

    /// Whether contents come to the disk that were not there.
    #[must_use]
    pub fn has_new_contents(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.missing.is_empty())
    }

    /// Whether its files are on a disk.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// A root on disk gets its files, now that all contents are there, and becomes one tree; one in RAM is one.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn finish(mut self, system: &dyn System, list: &List) -> Result<Self, Error> {
        let Some(disk) = &self.disk else { return Ok(self) };
        let failed = |what| move |source| Error::System { what, source };
        for entry in list.entries() {
            let EntryKind::File(content) = &entry.kind else { continue };
            let meta = Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid };
            let made = match content.size {
                0 => self.dir.create(&entry.path).and_then(|file| file.commit(meta)),
                size => {
                    self.dir.make_stub(&entry.path, &format!("/{CONTENTS}/{}", content.sha256), size, meta)
                }
            };
            made.map_err(failed("making a file of the overlay"))?;
        }
        self.dir.hide(CONTENTS.as_bytes()).map_err(failed("hiding the contents"))?;
        // metacopy and redirect_dir: names are above, contents below. xino: files are on the device of their root, as
        // programs expect that stay on one file system.
        let options = format!(
            "lowerdir={LAYERS}/list:{},upperdir={LAYERS}/upper,workdir={LAYERS}/work,metacopy=on,redirect_dir=on,xino=on",
            disk.cache.store().blobs_path(),
        );
        let mount =
            Mount { kind: "overlay", target: NEW_ROOT, flags: MountFlags::empty(), options: &options };
        system.mount(&mount).map_err(failed("mounting an overlay on /newroot"))?;
        self.dir = system.open_root(NEW_ROOT).map_err(failed("opening /newroot"))?;
        Ok(self)
    }
}

/// Makes the root of this list, on the disk that the config wants, or in RAM. `is_offline` is a boot from the disk: then
/// nothing is made or grown.
///
/// # Errors
/// [`Error`].
pub fn prepare(
    system: &dyn System,
    identity: &Identity,
    config: &NodeConfig,
    list: &VerifiedList,
    (keep, modules): (&mut Keep, &mut Modules),
    is_offline: bool,
) -> Result<Root, Error> {
    keep.why_ram = None;
    if config.fields().root.size == 0 {
        return in_ram(system, config, list);
    }
    let cache = match keep.shared() {
        Some(cache) if is_offline => Ok(cache),
        _ => keep.prepare(system, modules, &config.fields().root, identity),
    };
    if let Ok(cache) = &cache
        && !is_offline
    {
        let mut signed = list.signed().into_iter().chain([config.signed()]);
        signed.try_for_each(|signed| signed::check_newest(cache, signed)).map_err(Box::new)?;
    }
    match cache.and_then(|cache| on_disk(system, config, list, cache)) {
        Ok(root) => Ok(root),
        Err(why) => {
            in_ram_because(keep, why);
            in_ram(system, config, list)
        }
    }
}

/// The config wants a disk, and does not get it: that is said, and the node boots all the same.
pub fn in_ram_because(keep: &mut Keep, why: String) {
    log::warn!(target: "root", "in RAM instead of on a disk why={why}");
    status::fact("root", format!("RAM instead of a disk: {why}"));
    keep.why_ram = Some(why);
}

/// Takes away what an earlier attempt has left, and its memory with it.
fn clear(system: &dyn System) {
    system.unmount(NEW_ROOT);
    system.unmount(LAYERS);
}

/// What stands in the initramfs and is not to be seen any more: the programs of the bundle have what they need of it.
pub fn let_go(system: &dyn System) {
    system.unmount(LAYERS);
    system.unmount(disk::MOUNT);
}

/// A root over the contents of this cache, or why it cannot be.
fn on_disk(
    system: &dyn System,
    config: &NodeConfig,
    list: &VerifiedList,
    cache: Arc<Cache>,
) -> Result<Root, String> {
    let started = Instant::now();
    clear(system);
    if cache.has_failed() {
        return Err("the disk cannot be read".to_owned());
    }
    let verified = cache.verify(list);
    check_room(&cache, config, list, &verified)?;
    let entries = list.list().entries().len() as u64;
    let needed = entries.saturating_mul(STUB).saturating_add(MEMORY_TO_RUN);
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let available = system.memory_available().map_err(failed("reading the size of the memory"))?;
    if needed > available {
        return Err(format!("{entries} names need {} MiB of memory", needed.div_ceil(MIB)));
    }
    let files = stored_size(list.list(), 0);
    let size = config.fields().root.headroom.bytes(files);
    let inodes = entries + SPARE_INODES;
    let options = format!("mode=0700,size={size},nr_inodes={inodes}");
    let mount = Mount { kind: "tmpfs", target: LAYERS, flags: NO_EXEC, options: &options };
    system.mount(&mount).map_err(failed("mounting a tmpfs on /layers"))?;
    let dir = layers(system, list.list()).map_err(failed("making the layers"))?;
    let (after, missing) = (started.elapsed().as_secs_f64(), verified.missing.len());
    log::info!(target: "root", "ready kind=disk size={}MiB missing={missing} after={after:.3}s", size / MIB);
    let disk = OnDisk { missing: verified.missing(), missing_bytes: verified.missing_bytes(), cache };
    Ok(Root { dir, disk: Some(disk) })
}

/// The folders of an overlay. Its root has the owner and permissions of the upper one.
fn layers(system: &dyn System, list: &List) -> io::Result<Box<dyn RootDir>> {
    let dir = system.open_root(LAYERS)?;
    let root = list.entries().iter().find(|entry| entry.path.is_empty());
    let meta = root.map_or(Meta { mode: 0o755, uid: 0, gid: 0 }, |root| Meta {
        mode: root.mode,
        uid: root.uid,
        gid: root.gid,
    });
    for name in ["list", "upper", "work"] {
        dir.make_dir(name.as_bytes(), meta)?;
    }
    system.open_root(&format!("{LAYERS}/list"))
}

/// That what is missing will fit. What no version needs goes first, if that helps; nothing goes if it does not.
fn check_room(
    cache: &Cache,
    config: &NodeConfig,
    list: &VerifiedList,
    verified: &Verified,
) -> Result<(), String> {
    if verified.missing.is_empty() {
        return Ok(());
    }
    if cache.store().is_read_only() {
        return Err(format!("the disk is read-only, and {} files are not on it", verified.missing.len()));
    }
    let record = list.signed().map_or(0, |signed| signed.bytes.len() as u64);
    let need = Room::for_files(verified.missing.iter().map(|(_, size)| *size).chain([record]));
    let room = || cache.store().room().map_err(|error| format!("reading the size of the disk: {error}"));
    let mut has = room()?;
    let needed = cache.needed(config.bundle(), list, 1, cache.last().as_ref());
    let others = || cache.store().room_of_others(&|name| needed.contains(name)).unwrap_or_default();
    if !has.holds(need) && has.and(others()).holds(need) {
        cache.collect(&needed);
        has = room()?;
    }
    if has.holds(need) {
        return Ok(());
    }
    let (need_mib, has_mib) = (need.bytes.div_ceil(MIB), has.bytes / MIB);
    Err(format!(
        "the disk is full: {need_mib} MiB and {} files to come, {has_mib} MiB and {} files free",
        need.inodes, has.inodes
    ))
}

/// Makes a root in RAM.
///
/// # Errors
/// [`Error`].
pub fn in_ram(system: &dyn System, config: &NodeConfig, list: &VerifiedList) -> Result<Root, Error> {
    let started = Instant::now();
    let failed = |what| move |source| Error::System { what, source };
    clear(system);
    let available = system.memory_available().map_err(failed("reading the size of the memory"))?;
    let (files, entries) = (stored_size(list.list(), 0), list.list().entries().len() as u64);
    let needed = memory_for(files, entries);
    let (need, has) = (needed.div_ceil(MIB), available / MIB);
    log::info!(target: "root", "memory need={need}MiB available={has}MiB files={}MiB entries={entries}", files.div_ceil(MIB));
    if needed > available {
        return Err(Error::NoMemory { needed: need, available: has });
    }
    let files = stored_size(list.list(), 1);
    let size = files.saturating_add(config.fields().root.headroom.bytes(files));
    let inodes = entries + SPARE_INODES;
    let options = format!("mode=0755,size={size},nr_inodes={inodes}");
    let mount = Mount { kind: "tmpfs", target: NEW_ROOT, flags: MountFlags::empty(), options: &options };
    system.mount(&mount).map_err(failed("mounting a tmpfs on /newroot"))?;
    let dir = system.open_root(NEW_ROOT).map_err(failed("opening /newroot"))?;
    let after = started.elapsed().as_secs_f64();
    log::info!(target: "root", "ready kind=ram size={}MiB after={after:.3}s", size / MIB);
    Ok(Root { dir, disk: None })
}

/// What it takes to fetch files of this stored size, in so many entries, and to run.
fn memory_for(files: u64, entries: u64) -> u64 {
    files.saturating_add(entries.saturating_mul(ENTRY)).saturating_add(MEMORY_TO_RUN)
}

/// What the files take in whole pages, which tmpfs keeps them in, with so many pages for anything else: at most one, and
/// mostly none beside what [`ENTRY`] counts.
fn stored_size(list: &List, pages_of_others: u64) -> u64 {
    let page = rustix::param::page_size() as u64;
    let pages = list.entries().iter().map(|entry| match &entry.kind {
        EntryKind::File(content) => content.size.div_ceil(page),
        EntryKind::Dir | EntryKind::Link(_) => pages_of_others,
    });
    pages.sum::<u64>().saturating_mul(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fake;
    use zstrap_formats::digest::ContentDigest;
    use zstrap_formats::list::Entry;

    #[test]
    fn entries_without_content_take_memory_all_the_same() {
        assert_eq!(memory_for(0, 0), MEMORY_TO_RUN);
        assert_eq!(memory_for(3 * MIB, 100 * 1024), MEMORY_TO_RUN + 103 * MIB);
        assert_eq!(memory_for(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn files_take_whole_pages() {
        let page = rustix::param::page_size();
        let file = |name: &[u8], size| fake::file_entry(name, ContentDigest::of(&vec![0; size]));
        let link = Entry { kind: EntryKind::Link(b"a".to_vec()), ..file(b"d", 0) };
        let list = List::new(vec![file(b"a", 1), file(b"b", page + 1), file(b"c", 0), link]).expect("valid");
        assert_eq!(stored_size(&list, 0), 3 * page as u64);
        assert_eq!(stored_size(&list, 1), 4 * page as u64);
    }
}
