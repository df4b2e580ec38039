//! The disk of this machine, as far as this boot has come to know it.
//!
//! In: what `disk` finds or makes. Out: its [`Cache`], or why there is none. It is looked for once, before anything is
//! asked of the network, and asked for again when a config wants it. Failure: a sentence for people; the node then boots
//! in RAM.

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
    is_looked_for: bool,
    is_prepared: bool,
    disk: Option<Disk>,
    cache: Option<Arc<Cache>>,
    /// Why the root of this attempt is in RAM although the config wants it on a disk.
    pub why_ram: Option<String>,
}

impl Keep {
    /// Looks for our partition, if nobody has yet.
    pub fn look(&mut self, system: &dyn System, modules: &mut Modules, identity: &Identity) {
        if std::mem::replace(&mut self.is_looked_for, true) {
            return;
        }
        disk::load_modules(modules);
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
        self.cache.as_deref()
    }

    /// The same, to hold it.
    #[must_use]
    pub fn shared(&self) -> Option<Arc<Cache>> {
        self.cache.clone()
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
        root: &Root,
        identity: &Identity,
    ) -> Result<Arc<Cache>, String> {
        if !self.is_prepared {
            let found = self.disk.take();
            let disk = disk::prepare(system, root, found).map_err(|kept| kept.told())?;
            self.disk = Some(disk);
            self.is_prepared = true;
        }
        match self.shared() {
            Some(cache) => Ok(cache),
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
        Self { is_looked_for: true, is_prepared: true, cache: Some(Arc::new(cache)), ..Self::default() }
    }
}

/// The number of boots in a row that have failed stands on the disk, where the firmware has no place for it.
fn count_loops(system: &dyn System, cache: &Cache) {
    match cache.store().small_file(LOOPS) {
        Ok(file) => loops::begin_on_disk(system, &format!("/proc/self/fd/{}", file.as_raw_fd())),
        Err(error) => log::debug!(target: "cache", "boot loops are not counted: {error}"),
    }
}
