//! What a node keeps on its disk: verified files, and the signed files that name them.
//!
//! In: our partition, mounted. Out: a [`Cache`]: a site like that of any server, and believed as little, from which the
//! same stages boot when no server is there; and the serials that this node has seen, which no server may go below. The
//! partition holds `site/` in the layout of all sites but for `latest`, and `state/`, which the programs of bundles have.
//! Failure: what cannot be read, or was not signed, is as if it was not there, but for a line.
//!
//! A list stands there only once all that it names does, so that a machine that is switched off at any moment finds
//! either the old version or the new one. Whoever was root on this machine could write anything to the disk: nothing of it
//! counts but what the keys of the image have signed, and contents only after they were hashed again.

mod collect;
mod keep;
mod store;
mod verify;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zstrap_formats::config::MAX_CONFIG;
use zstrap_formats::identity::Identity;
use zstrap_formats::list::MAX_LIST;
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::signature::{ArchField, Kind, Subject};
use zstrap_formats::site;

use crate::clock::{self, Now};
use crate::config::NodeConfig;
use crate::fail::Chain;
use crate::http::{Body, From, HttpError, Source};
use crate::list::VerifiedList;
use crate::media::Media;
use crate::signed::{self, Request, Signed};

pub use keep::Keep;
pub use store::{CONTENTS, Room};
pub use verify::Verified;

/// How long a disk may take for one answer: drivers try again and again before they give up.
const DISK: Duration = Duration::from_secs(180);
/// How the source calls itself.
const URL: &str = "file:///disk/site";
/// So many of the records of a folder are looked at, the newest first: nobody can make a boot look at thousands.
const MOST_RECORDS: usize = 16;

/// What is kept, for one identity.
pub struct Cache {
    store: store::Store,
    media: Media,
    identity: Identity,
    /// The newest record of each folder that was asked for.
    newest: Mutex<BTreeMap<String, Option<u64>>>,
}

/// A folder of signed files of one name, the newest of which counts.
struct Folder<'a> {
    path: &'a str,
    kind: Kind,
    name: Name,
    arch: Option<Arch>,
}

impl<'a> Folder<'a> {
    /// `configs/NAME` or `bundles/NAME/ARCH`.
    fn parse(path: &'a str) -> Option<Self> {
        let words: Vec<&str> = path.split('/').collect();
        let (kind, arch) = match words[..] {
            ["configs", _] => (Kind::Config, None),
            ["bundles", _, arch] => (Kind::List, Some(arch.parse().ok()?)),
            _ => return None,
        };
        Some(Self { path, kind, name: words[1].parse().ok()?, arch })
    }

    fn ending(&self) -> &'static str {
        if self.arch.is_some() { ".mtree" } else { ".json" }
    }

    fn request(&self, serial: u64) -> Request<'_> {
        let (path, limit, arch) = match self.arch {
            Some(arch) => (site::list(&self.name, arch, serial), MAX_LIST, ArchField::One(arch)),
            None => (site::config(&self.name, serial), MAX_CONFIG, ArchField::Any),
        };
        // The time is asked by whoever uses it, not here.
        let now = Now { time: clock::now(), is_known: true };
        Request {
            path,
            limit,
            subject: Subject { kind: self.kind, name: &self.name, arch },
            terms: now.into(),
        }
    }
}

impl Cache {
    /// What stands on the partition that is mounted here. Its folders are made if missing.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(partition: &Path, identity: &Identity) -> io::Result<Self> {
        let store = store::Store::open(partition)?;
        let url = URL.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let media = Media::of_folder(&url, store.site()?);
        Ok(Self { store, media, identity: identity.clone(), newest: Mutex::default() })
    }

    /// Whether there is a config to boot with.
    #[must_use]
    pub fn has_config(&self) -> bool {
        match &self.identity.config.pin {
            Some(pin) => self.media.get(&site::config_by_hash(&pin.sha256), MAX_CONFIG as u64).is_ok(),
            None => self.newest(&site::config_folder(&self.identity.config.name)).is_some(),
        }
    }

    /// Whether there is a list of this bundle.
    #[must_use]
    pub fn has_list(&self, bundle: &Name) -> bool {
        Arch::native().is_some_and(|arch| self.newest(&site::bundle_folder(bundle, arch)).is_some())
    }

    /// The highest serial of those files of a folder that are signed for it, whether they have expired or not.
    #[must_use]
    pub fn newest(&self, folder: &str) -> Option<u64> {
        let known =
            |cache: &Self| cache.newest.lock().unwrap_or_else(PoisonError::into_inner).get(folder).copied();
        if let Some(newest) = known(self) {
            return newest;
        }
        let newest = self.records(folder, 1).first().map(|signed| signed.comment.serial);
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned(), newest);
        newest
    }

    /// The newest files of a folder that are signed for it, at most so many. Others are passed over with a line.
    fn records(&self, folder: &str, most: usize) -> Vec<Signed> {
        let Some(folder) = Folder::parse(folder) else { return Vec::new() };
        let names = self.store.names(folder.path);
        let serial = |name: &String| site::parse_latest(name.strip_suffix(folder.ending())?.as_bytes());
        let mut serials: Vec<u64> = names.iter().filter_map(serial).collect();
        serials.sort_unstable_by(|one, other| other.cmp(one));
        serials.truncate(MOST_RECORDS);
        let good = serials.into_iter().filter_map(|serial| match self.record(&folder, serial) {
            Ok(signed) => Some(signed),
            Err(error) => {
                let why = Chain(&error);
                log::warn!(target: "cache", "ignored record={}/{serial}{} why={why}", folder.path, folder.ending());
                None
            }
        });
        good.take(most).collect()
    }

    fn record(&self, folder: &Folder<'_>, serial: u64) -> Result<Signed, signed::Error> {
        let request = folder.request(serial);
        let bytes = request.bytes_unverified(&self.media)?;
        let signed = request.verify_of_any_time(&self.media, &self.identity, bytes)?;
        signed::check_serial(&signed, serial)?;
        Ok(signed)
    }

    /// Which of the contents of this list are here, each of them hashed. Those that are wrong are deleted.
    #[must_use]
    pub fn verify(&self, list: &VerifiedList) -> Verified {
        verify::contents(&self.store, list.list())
    }

    /// Where new contents go, and how much room there is for them.
    #[must_use]
    pub fn store(&self) -> &store::Store {
        &self.store
    }

    /// This version is whole: what it names is here. From now on it is the newest that this node has seen.
    ///
    /// # Errors
    /// The kernel's refusal: then the one before still is, or this one already.
    pub fn commit(&self, config: &NodeConfig, list: &VerifiedList) -> io::Result<()> {
        let records: Vec<&Signed> = list.signed().into_iter().chain([config.signed()]).collect();
        if records.iter().all(|signed| self.is_kept(signed)) {
            return Ok(());
        }
        // Contents first: the list must not be there without them.
        self.store.sync()?;
        for signed in records {
            self.store.put(&signed.path, &signed.bytes)?;
            for (path, text) in &signed.signatures {
                self.store.put(path, text)?;
            }
        }
        self.store.sync()?;
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clear();
        log::info!(target: "cache", "kept config={} list={}", config.serial(), list.serial());
        self.tidy(config);
        self.collect(config.bundle(), list, 2);
        Ok(())
    }

    fn is_kept(&self, signed: &Signed) -> bool {
        let files = signed.signatures.iter().map(|(path, text)| (path, text));
        files.chain([(&signed.path, &signed.bytes)]).all(|(path, bytes)| self.store.has(path, bytes))
    }
}

impl Source for Cache {
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        // Nobody has signed a `latest`, so none is kept: it is what the signatures say.
        match path.strip_suffix("/latest") {
            Some(folder) => match self.newest(folder) {
                Some(serial) => Ok(serial.to_string().into_bytes()),
                None => Err(HttpError::NotFound { url: format!("{URL}/{path}") }),
            },
            None => self.media.get(path, limit),
        }
    }

    fn open(&self, path: &str, from: &From, size: u64) -> Result<Body, HttpError> {
        self.media.open(path, from, size)
    }

    fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.get(path, limit)
    }

    fn name(&self) -> String {
        URL.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::Clock;
    use crate::early::Machine;
    use crate::fail::Failure;
    use crate::network::Online;
    use crate::sys::fake::{self, Fault, Recorder, Site};
    use zstrap_formats::digest::{ContentDigest, sha256};
    use zstrap_formats::list::List;

    const CONFIG: &str = r#"{"version":1,"bundle":"demo","exec":["/init"],"root":{"size":"64MiB"}}"#;
    const LISTS: &str = "bundles/demo";

    /// A site with this serial, whose program is this.
    fn site_of(serial: u64, program: &[u8]) -> Site {
        let (mut site, name, arch) = (Site::default(), "demo".parse().unwrap(), Arch::native().unwrap());
        let list = List::new(vec![fake::file_entry(b"init", ContentDigest::of(program))]).unwrap();
        let files = [
            (site::config(&name, serial), CONFIG.to_owned(), fake::comment("config", "any")),
            (site::list(&name, arch, serial), list.to_text(), fake::comment("list", arch.as_str())),
        ];
        for (path, text, comment) in files {
            site.insert(&path, text.as_bytes());
            site.sign(&path, &comment.replace(&fake::SERIAL.to_string(), &serial.to_string()));
        }
        for latest in [site::config_latest(&name), site::bundle_latest(&name, arch)] {
            site.insert(&latest, serial.to_string().as_bytes());
        }
        site.insert(&site::blob(&sha256(program)), program);
        site
    }

    fn identity() -> Identity {
        Identity { build_time: fake::now().time, ..fake::identity() }
    }

    /// Boots with this disk; why the fake machine could not, and what was done to it.
    fn boot(site: &Site, disk: &Path) -> (Failure, Recorder) {
        let cache = Cache::open(disk, &identity()).unwrap();
        let mut machine = Machine {
            clock: Clock::pretended(fake::now().time),
            keep: Keep::pretended(cache),
            ..Machine::pretended()
        };
        let recorder = Recorder::default();
        let online = Online::pretended(fake::servers(site), fake::connection());
        (crate::become_program(&recorder, &mut machine, &identity(), online), recorder)
    }

    fn reason(site: &Site, disk: &Path) -> &'static str {
        boot(site, disk).0.reason()
    }

    /// What a good boot comes to in a fake machine.
    const RUNS: &str = "exec";

    fn names(disk: &Path, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(disk.join("site").join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn lists() -> String {
        format!("{LISTS}/{}", Arch::native().unwrap())
    }

    fn dead() -> Site {
        Site::default().with(Fault::Dead)
    }

    #[test]
    fn what_was_fetched_once_boots_again_without_a_server() {
        let disk = tempfile::tempdir().unwrap();
        assert_ne!(reason(&dead(), disk.path()), RUNS);
        let site = site_of(fake::SERIAL, b"a program");
        let (failure, recorder) = boot(&site, disk.path());
        assert_eq!(failure.reason(), RUNS);
        let calls = recorder.calls();
        let at =
            |call: &str| calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
        let order = [
            at("mount tmpfs /layers"),
            at("stub init"),
            at("hide sha256"),
            at("mount overlay /newroot"),
            at("bind FD /newroot/var/lib/zstrap-state"),
            at("move /run /newroot/run"),
            calls.iter().rposition(|call| call == "unmount /disk").unwrap(),
            at("switch /newroot"),
        ];
        assert!(order.is_sorted(), "{calls:?}");
        assert_eq!(recorder.file(b"init").unwrap(), format!("/sha256/{}", sha256(b"a program")).into_bytes());
        assert_eq!(site.offsets().len(), 1);
        let again = site_of(fake::SERIAL, b"a program");
        assert_eq!(reason(&again, disk.path()), RUNS);
        assert_eq!(again.offsets(), [0; 0], "all was there");
        assert_eq!(reason(&dead(), disk.path()), RUNS);
    }

    #[test]
    fn a_server_with_older_files_is_refused_and_the_disk_boots() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(reason(&site_of(fake::SERIAL + 1, b"new"), disk.path()), RUNS);
        let old = site_of(fake::SERIAL, b"old");
        assert_eq!(reason(&old, disk.path()), RUNS);
        assert_eq!(old.offsets(), [0; 0], "nothing of the old version was fetched");
        // The disk has nothing to boot any more, but knows what it has seen.
        for name in names(disk.path(), "blobs/sha256") {
            std::fs::remove_file(disk.path().join("site/blobs/sha256").join(name)).unwrap();
        }
        assert_eq!(reason(&old, disk.path()), "older-than-seen");
    }

    #[test]
    fn what_nobody_has_signed_does_not_count() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(reason(&site_of(fake::SERIAL, b"a program"), disk.path()), RUNS);
        let folder = disk.path().join("site").join(lists());
        let copy =
            |from: &str, to: &str| std::fs::copy(folder.join(from), folder.join(to)).map(drop).unwrap();
        let (own, newer) = (format!("{}.mtree", fake::SERIAL), format!("{}.mtree", fake::SERIAL + 7));
        // Another serial than the one that was signed; a list without a signature; no list at all.
        copy(&own, &newer);
        copy(&format!("{own}.minisig"), &format!("{newer}.minisig"));
        copy(&own, &format!("{}.mtree", fake::SERIAL + 8));
        std::fs::write(folder.join(format!("{}.mtree", u64::MAX)), "#mtree\n").unwrap();
        std::fs::create_dir(folder.join(format!("{}.mtree", fake::SERIAL + 9))).unwrap();
        std::fs::write(folder.join("latest"), u64::MAX.to_string()).unwrap();
        let cache = Cache::open(disk.path(), &identity()).unwrap();
        assert_eq!(cache.newest(&lists()), Some(fake::SERIAL));
        assert_eq!(cache.newest("configs/demo"), Some(fake::SERIAL));
        assert_eq!(
            [cache.newest("configs/other"), cache.newest("configs"), cache.newest("../demo")],
            [None; 3]
        );
        assert_eq!(reason(&dead(), disk.path()), RUNS);
        // Whoever has another image sees nothing of this.
        let mut other = identity();
        other.keyring = zstrap_formats::signature::Keyring::new(vec![fake::key(9).public()], 1).unwrap();
        assert_eq!(Cache::open(disk.path(), &other).unwrap().newest(&lists()), None);
        // With the next version, all of it goes.
        assert_eq!(reason(&site_of(fake::SERIAL + 1, b"a program"), disk.path()), RUNS);
        let next = format!("{}.mtree", fake::SERIAL + 1);
        let kept = [own.clone(), format!("{own}.minisig"), next.clone(), format!("{next}.minisig")];
        assert_eq!(names(disk.path(), &lists()), kept);
    }

    #[test]
    fn the_version_before_stays_and_those_before_go() {
        let disk = tempfile::tempdir().unwrap();
        let programs: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
        for (serial, program) in (fake::SERIAL..).zip(programs) {
            assert_eq!(reason(&site_of(serial, program), disk.path()), RUNS);
        }
        let mut kept: Vec<String> = programs[2..].iter().map(|program| sha256(program).to_string()).collect();
        kept.sort();
        assert_eq!(names(disk.path(), "blobs/sha256"), kept);
        assert_eq!(names(disk.path(), "configs/demo").len(), 4);
    }

    #[test]
    fn a_version_that_is_not_whole_does_not_replace_the_one_that_is() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(reason(&site_of(fake::SERIAL, b"one"), disk.path()), RUNS);
        let broken = site_of(fake::SERIAL + 1, b"two").with(Fault::Missing);
        let (failure, recorder) = boot(&broken, disk.path());
        assert_eq!(failure.reason(), RUNS);
        assert_eq!(recorder.file(b"init").unwrap(), format!("/sha256/{}", sha256(b"one")).into_bytes());
        let cache = Cache::open(disk.path(), &identity()).unwrap();
        assert_eq!(cache.newest(&lists()), Some(fake::SERIAL));
    }

    #[test]
    fn a_changed_content_is_fetched_anew() {
        let disk = tempfile::tempdir().unwrap();
        let content = disk.path().join("site/blobs/sha256").join(sha256(b"one").to_string());
        assert_eq!(reason(&site_of(fake::SERIAL, b"one"), disk.path()), RUNS);
        for other in ["ONE", "one more", ""] {
            std::fs::write(&content, other).unwrap();
            let site = site_of(fake::SERIAL, b"one");
            assert_eq!(reason(&site, disk.path()), RUNS);
            assert_eq!((site.offsets().len(), std::fs::read(&content).unwrap()), (1, b"one".to_vec()));
        }
    }
}
