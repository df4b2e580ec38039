//! The disk of this machine, as far as this boot has come to know it.
//!
//! In: what `disk` finds or makes. Out: its [`Cache`], or why there is none. It is looked for before anything is asked of
//! the network, in each attempt until it is found, and asked for again when a config wants it. Failure: a sentence for
//! people; the node then boots in RAM.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use zstrap_formats::config::Root;
use zstrap_formats::identity::Identity;

use super::Cache;
use crate::disk::{self, Disk};
use crate::loops;
use crate::modules::Modules;
use crate::sys::System;

/// The file that counts failed boots.
const LOOPS: &str = "loops";

/// The disk, its cache, and what became of the root.
#[derive(Default)]
pub struct Keep {
    has_modules: bool,
    is_prepared: bool,
    disk: Option<Disk>,
    cache: Option<Arc<Cache>>,
    /// Why the root of this attempt is in RAM although the config wants it on a disk.
    pub why_ram: Option<String>,
}

impl Keep {
    /// Looks for our partition, if there is none yet.
    pub fn look(&mut self, system: &dyn System, modules: &mut Modules, identity: &Identity) {
        if self.disk.is_some() || self.cache.is_some() {
            return;
        }
        if !std::mem::replace(&mut self.has_modules, true) {
            disk::load_modules(modules);
        }
        self.disk = disk::find(system);
        if self.disk.is_none() {
            return;
        }
        match self.open(identity) {
            Ok(cache) => count_loops(system, &cache),
            Err(why) => log::warn!(target: "cache", "not used: {why}"),
        }
    }

    /// What is kept, if there is a disk.
    #[must_use]
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_deref().filter(|cache| !cache.has_failed())
    }

    /// The same, to hold it.
    #[must_use]
    pub fn shared(&self) -> Option<Arc<Cache>> {
        self.cache.clone().filter(|cache| !cache.has_failed())
    }

    /// The name of the partition, and whether nothing can be written to it.
    #[must_use]
    pub fn disk(&self) -> Option<(String, bool)> {
        self.disk.as_ref().map(|disk| (disk.name(), disk.is_read_only()))
    }

    /// The disk that a config wants, found, grown or made.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn prepare(
        &mut self,
        system: &dyn System,
        modules: &mut Modules,
        root: &Root,
        identity: &Identity,
    ) -> Result<Arc<Cache>, String> {
        if !self.is_prepared {
            let found = self.disk.take();
            // Another disk may come of it, or none: what is open is of the one that was found.
            self.cache = None;
            let disk = disk::prepare(system, modules, root, found).map_err(|kept| kept.told())?;
            self.disk = Some(disk);
            self.is_prepared = true;
        }
        match &self.cache {
            Some(cache) => Ok(Arc::clone(cache)),
            None => self.open(identity),
        }
    }

    fn open(&mut self, identity: &Identity) -> Result<Arc<Cache>, String> {
        let cache = Cache::open(Path::new(disk::MOUNT), identity);
        let cache = Arc::new(cache.map_err(|error| format!("opening {}: {error}", disk::MOUNT))?);
        self.cache = Some(Arc::clone(&cache));
        Ok(cache)
    }

    /// A disk that is only pretended.
    #[cfg(test)]
    pub fn pretended(cache: Cache) -> Self {
        Self { is_prepared: true, cache: Some(Arc::new(cache)), ..Self::default() }
    }
}

/// The number of boots in a row that have failed stands on the disk, where the firmware has no place for it.
fn count_loops(system: &dyn System, cache: &Cache) {
    match cache.store().small_file(LOOPS) {
        Ok(file) => loops::begin_on_disk(system, &format!("/proc/self/fd/{}", file.as_raw_fd())),
        Err(error) => log::debug!(target: "cache", "boot loops are not counted: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk::block::Block;
    use crate::sys::fake::{self, Recorder};

    /// Else the node would go on with the files of a disk that its config does not want.
    #[test]
    fn the_cache_of_a_disk_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("vda");
        std::fs::write(&device, vec![b'x'; 1 << 20]).unwrap();
        let system = Recorder::default();
        let disk = Block { name: "vda".to_owned(), device, size: 1 << 20, sector: 512, ..Block::default() };
        system.disks.lock().unwrap().push(disk);
        let identity = fake::identity();
        let cache = Cache::open(&folder.path().join("."), &identity).unwrap();
        let mut keep = Keep { cache: Some(Arc::new(cache)), ..Keep::default() };
        let json = br#"{"version":1,"bundle":"demo","exec":["/init"],"root":{"size":"64MiB"}}"#;
        let root = zstrap_formats::config::Config::parse_strict(json).unwrap().root;
        assert!(keep.prepare(&system, &mut Modules::default(), &root, &identity).is_err());
        assert!(keep.cache().is_none() && keep.shared().is_none() && keep.disk().is_none());
    }
}
