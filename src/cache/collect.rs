//! What is not needed any more goes.
//!
//! In: what was booted. Out: room. The version of this boot and the one before stay, with all that they name; of every
//! other config and bundle that the keys of this image have signed, the newest record stays, as that is how this node
//! knows what it has seen. Failure: none; what cannot be deleted is said, and takes room.

use std::collections::BTreeSet;

use zstrap_formats::list::{EntryKind, List};
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::site;

use super::Cache;
use crate::config::NodeConfig;
use crate::list::VerifiedList;
use crate::watchdog;

/// Records of the version that was booted, and of those before.
const VERSIONS: usize = 2;
/// Of so many other configs, and so many other bundles, the newest record stays.
const OTHERS: usize = 16;

impl Cache {
    /// Deletes every content but those of this list, and those of the newest lists of its bundle that are kept.
    pub fn collect(&self, bundle: &Name, list: &VerifiedList, newest: usize) {
        let mut keep = BTreeSet::new();
        name_contents(list.list(), &mut keep);
        let folder = Arch::native().map(|arch| site::bundle_folder(bundle, arch)).unwrap_or_default();
        for signed in self.records(&folder, newest) {
            // A list that cannot be read cannot be booted, either.
            if let Ok(list) = List::parse(&signed.bytes) {
                name_contents(&list, &mut keep);
            }
        }
        let mut removed = 0;
        for name in self.store.content_names() {
            watchdog::expect_within(watchdog::WORK);
            if keep.contains(&name) {
                continue;
            }
            match self.store.remove_content(&name) {
                Ok(()) => removed += 1,
                Err(error) => log::warn!(target: "cache", "not removed content={name} error={error}"),
            }
        }
        log::info!(target: "cache", "collected contents={removed} kept={}", keep.len());
    }

    /// Deletes records that are not needed, and whatever else stands among them.
    pub(super) fn tidy(&self, config: &NodeConfig) {
        let arch = Arch::native();
        let own = [
            site::config_folder(&self.identity.config.name),
            arch.map(|arch| site::bundle_folder(config.bundle(), arch)).unwrap_or_default(),
        ];
        let bundles = self.store.names("bundles").into_iter().flat_map(|name| {
            let folder = format!("bundles/{name}");
            self.store.names(&folder).into_iter().map(move |arch| format!("{folder}/{arch}"))
        });
        let configs = self.store.names("configs").into_iter().map(|name| format!("configs/{name}"));
        let mut others = 0;
        for folder in configs.chain(bundles) {
            watchdog::expect_within(watchdog::WORK);
            let keep = match own.contains(&folder) {
                true => VERSIONS,
                false if others < OTHERS => 1,
                false => 0,
            };
            others += usize::from(!own.contains(&folder));
            self.tidy_folder(&folder, keep, config);
        }
    }

    fn tidy_folder(&self, folder: &str, keep: usize, config: &NodeConfig) {
        let records = self.records(folder, keep);
        let signed = records.iter().chain([config.signed()]);
        let keep: BTreeSet<&str> = signed
            .flat_map(|signed| signed.signatures.iter().map(|(path, _)| path).chain([&signed.path]))
            .map(String::as_str)
            .collect();
        for name in self.store.names(folder) {
            let path = format!("{folder}/{name}");
            if !keep.contains(path.as_str())
                && let Err(error) = self.store.remove(&path)
            {
                log::warn!(target: "cache", "not removed record={path} error={error}");
            }
        }
    }
}

fn name_contents(list: &List, names: &mut BTreeSet<String>) {
    names.extend(list.entries().iter().filter_map(|entry| match &entry.kind {
        EntryKind::File(content) if content.size > 0 => Some(content.sha256.to_string()),
        _ => None,
    }));
}
