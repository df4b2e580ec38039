//! What is not needed any more goes.
//!
//! In: what was booted. Out: room. The version of this boot and the one before stay, with all that they name; of every
//! other config and bundle that the keys of this image have signed, the newest record stays, as that is how this node
//! knows what it has seen. Failure: none; what cannot be deleted is said, and takes room.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use zstrap_formats::list::{EntryKind, List};
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::site;

use super::Cache;
use crate::config::NodeConfig;
use crate::list::VerifiedList;
use crate::signed::Signed;
use crate::watchdog;

/// Records of the version that was booted, and of those before.
const VERSIONS: usize = 2;
/// Of so many other configs, and so many other bundles, the newest record stays.
const OTHERS: usize = 16;
/// Folders that somebody has planted by the million do not hold up the boot; the next one goes on.
const LONGEST: Duration = Duration::from_secs(20);

impl Cache {
    /// The names of those contents that no collection takes: of this list, of the newest lists of its bundle that are
    /// kept, and of the list that was booted before, whatever its bundle.
    #[must_use]
    pub fn needed(
        &self,
        bundle: &Name,
        list: &VerifiedList,
        newest: usize,
        before: Option<&Signed>,
    ) -> Needed {
        let mut keep = BTreeSet::new();
        name_contents(list.list(), &mut keep);
        let folder = Arch::native().map(|arch| site::bundle_folder(bundle, arch)).unwrap_or_default();
        for signed in self.records(&folder, newest).iter().chain(before) {
            // A list that cannot be read cannot be booted, either.
            if let Ok(list) = List::parse(&signed.bytes) {
                name_contents(&list, &mut keep);
            }
        }
        keep
    }

    /// Deletes every content but these.
    pub fn collect(&self, keep: &Needed) {
        match self.store.retain_contents(&|name| keep.contains(name)) {
            Ok(removed) => {
                log::info!(target: "cache", "collected contents={removed} kept={}", keep.len());
            }
            Err(error) => log::warn!(target: "cache", "not collected: {error}"),
        }
    }

    /// Deletes records that are not needed, and whatever else stands among them.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn tidy(&self, config: &NodeConfig, before: Option<&Signed>) -> io::Result<()> {
        let own = Arch::native().map(|arch| site::bundle_folder(config.bundle(), arch));
        let mut tidy = Tidy {
            cache: self,
            own: [Some(site::config_folder(&self.identity.config.name)), own],
            signed: [Some(config.signed()), before],
            others: 0,
            until: Instant::now() + LONGEST,
        };
        let configs = self.kept("configs", &mut |folder| tidy.folder(folder))?;
        let bundles = self.kept("bundles", &mut |folder| {
            let arches = self.kept(folder, &mut |folder| tidy.folder(folder))?;
            self.store.retain(folder, &|name| arches.contains(name))?;
            Ok(!arches.is_empty())
        })?;
        self.store.retain("configs", &|name| configs.contains(name))?;
        self.store.retain("bundles", &|name| bundles.contains(name))
    }

    /// Those names in a folder whose own folders are needed.
    fn kept(&self, path: &str, is_kept: &mut dyn FnMut(&str) -> io::Result<bool>) -> io::Result<Needed> {
        let mut kept = Needed::new();
        for name in self.store.names(path)? {
            if is_kept(&format!("{path}/{name}"))? {
                kept.insert(name);
            }
        }
        Ok(kept)
    }
}

/// Which records are needed.
struct Tidy<'a> {
    cache: &'a Cache,
    /// The folders of this boot.
    own: [Option<String>; 2],
    /// What is needed in any case.
    signed: [Option<&'a Signed>; 2],
    /// So many of the others were kept.
    others: usize,
    until: Instant,
}

impl Tidy<'_> {
    /// Deletes what is not needed of a folder, and tells whether anything is.
    fn folder(&mut self, path: &str) -> io::Result<bool> {
        watchdog::expect_within(watchdog::WORK);
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let is_own = self.own.iter().flatten().any(|own| own == path);
        let keep = match is_own {
            true => VERSIONS,
            false => usize::from(self.others < OTHERS),
        };
        let records = self.cache.records(path, keep);
        let seen = self.cache.seen(path).filter(|_| keep > 0).map(|(_, signatures)| signatures);
        let named = records.iter().chain(self.signed.into_iter().flatten());
        let files =
            named.flat_map(|signed| signed.signatures.iter().map(|(path, _)| path).chain([&signed.path]));
        let seen = seen.iter().flatten().map(|(path, _)| path);
        let prefix = format!("{path}/");
        let needed: BTreeSet<&str> =
            files.chain(seen).filter_map(|file| file.strip_prefix(&prefix)).collect();
        self.others += usize::from(!is_own && !needed.is_empty());
        self.cache.store.retain(path, &|name| needed.contains(name))?;
        Ok(!needed.is_empty())
    }
}

/// Names of files.
pub type Needed = BTreeSet<String>;

fn name_contents(list: &List, names: &mut Needed) {
    names.extend(list.entries().iter().filter_map(|entry| match &entry.kind {
        EntryKind::File(content) if content.size > 0 => Some(content.sha256.to_string()),
        _ => None,
    }));
}
