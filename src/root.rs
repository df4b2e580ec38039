//! Sixth stage: a place for the files.
//!
//! In: the config and the list. Out: an empty [`Root`] that is big enough, or a refusal before the first byte is
//! fetched. In this version that is a tmpfs: RAM, sized by the list plus the config's headroom.

use std::io;
use std::time::Instant;

use rustix::mount::MountFlags;
use zstrap_formats::list::{EntryKind, List};

use crate::config::NodeConfig;
use crate::fail::{Code, Refusal};
use crate::list::VerifiedList;
use crate::sys::{Mount, RootDir, System};

/// Where the new root stands until it is the root.
pub const NEW_ROOT: &str = "/newroot";
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
            Self::System { .. } => Code::RootIo,
        }
    }
}

/// An empty root.
pub struct Root {
    dir: Box<dyn RootDir>,
}

impl Root {
    /// The verbs to fill it with.
    #[must_use]
    pub fn dir(&self) -> &dyn RootDir {
        &*self.dir
    }
}

/// Makes the root of this list.
///
/// # Errors
/// [`Error`].
pub fn prepare(system: &dyn System, config: &NodeConfig, list: &VerifiedList) -> Result<Root, Error> {
    let started = Instant::now();
    let failed = |what| move |source| Error::System { what, source };
    // Whatever an earlier attempt has left there is gone, and its memory free.
    system.unmount(NEW_ROOT);
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
    Ok(Root { dir })
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
