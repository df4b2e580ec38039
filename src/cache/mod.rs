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

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
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
use crate::signed::{self, Request, Signed, Texts};
use crate::watchdog;

pub use keep::Keep;
pub use store::{CONTENTS, Room};
pub use verify::Verified;

/// How long a disk may take for one answer: drivers try again and again before they give up.
pub const DISK: Duration = Duration::from_secs(180);
/// How the source calls itself.
const URL: &str = "file:///disk/site";
/// So many records that are passed over are said, not thousands.
const MOST_LINES: u32 = 32;
/// The file that has the path of the list that was booted last.
const LAST: &str = "last";
const LONGEST_PATH: u64 = 512;

/// What is kept, for one identity.
pub struct Cache {
    store: store::Store,
    media: Media,
    identity: Identity,
    has_failed: AtomicBool,
    /// So many records were passed over.
    ignored: AtomicU32,
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
        let (has_failed, ignored) = (AtomicBool::new(false), AtomicU32::new(0));
        Ok(Self { store, media, identity: identity.clone(), has_failed, ignored })
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

    /// Whether the disk has failed while it was asked what this node has seen: no answer is not "nothing".
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// The highest serial of a folder that can be booted, be it expired or not.
    fn newest(&self, folder: &str) -> Option<u64> {
        self.records(folder, 1).first().map(|signed| signed.comment.serial)
    }

    /// The highest serial that the keys have signed for this folder, as far as this node knows; with the signatures that
    /// prove it, which may stand there without the file.
    #[must_use]
    pub fn seen(&self, folder: &str) -> Option<(u64, Texts)> {
        let folder = Folder::parse(folder)?;
        self.candidates(&folder).next().map(|(serial, _, signatures)| (serial, signatures))
    }

    /// The newest files of a folder that are signed for it, at most so many.
    fn records(&self, folder: &str, most: usize) -> Vec<Signed> {
        let Some(folder) = Folder::parse(folder) else { return Vec::new() };
        let candidates = self.candidates(&folder);
        let good = candidates
            .filter_map(|(serial, request, _)| self.or_ignore(&folder, serial, self.record(&request)));
        good.take(most).collect()
    }

    /// What signatures of a folder speak of, the highest serial first. Whoever plants others costs us a look at each, but
    /// hides nothing: no file is read before somebody trusted has signed its serial.
    fn candidates<'a>(
        &'a self,
        folder: &'a Folder<'a>,
    ) -> impl Iterator<Item = (u64, Request<'a>, Texts)> + 'a {
        let names = self.store.names(folder.path).unwrap_or_else(|error| self.fail(folder.path, &error));
        let signatures =
            names.iter().filter_map(|name| name.strip_suffix(".minisig")?.split_once(folder.ending()));
        let serials: BTreeSet<u64> =
            signatures.filter_map(|(serial, _)| site::parse_latest(serial.as_bytes())).collect();
        serials.into_iter().rev().filter_map(|serial| {
            watchdog::expect_within(DISK);
            let request = folder.request(serial);
            let said = request.comment(&self.media, &self.identity, None);
            let said = said.and_then(|(comment, signatures)| {
                signed::check_serial(&comment, serial).map(|()| signatures)
            });
            self.or_ignore(folder, serial, said).map(|signatures| (serial, request, signatures))
        })
    }

    fn record(&self, request: &Request<'_>) -> Result<Signed, signed::Error> {
        let bytes = request.bytes_unverified(&self.media)?;
        request.verify_of_any_time(&self.media, &self.identity, bytes)
    }

    /// What is no record is passed over, with a line for the first ones.
    fn or_ignore<T>(&self, folder: &Folder<'_>, serial: u64, record: Result<T, signed::Error>) -> Option<T> {
        let error = match record {
            Ok(record) => return Some(record),
            // Seen, and never whole on this disk.
            Err(signed::Error::Get { source: HttpError::NotFound { .. }, .. }) => return None,
            Err(error) => error,
        };
        let path = format!("{}/{serial}{}", folder.path, folder.ending());
        if let signed::Error::Get { source: HttpError::Transport { source, .. }, .. } = &error
            && is_of_disk(source)
        {
            return self.fail(&path, source);
        }
        if self.ignored.fetch_add(1, Ordering::Relaxed) < MOST_LINES {
            log::warn!(target: "cache", "ignored record={path} why={}", Chain(&error));
        }
        None
    }

    /// The disk does not answer. From now on it is not used.
    fn fail<T: Default>(&self, path: &str, error: &io::Error) -> T {
        log::warn!(target: "cache", "not used: reading {path}: {error}");
        self.has_failed.store(true, Ordering::Relaxed);
        T::default()
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

    /// Waits until the contents that were fetched are on the disk: a list must not be there without them, nor a program
    /// run from what the disk did not take.
    ///
    /// # Errors
    /// The disk's.
    pub fn settle(&self) -> io::Result<()> {
        self.store.sync()
    }

    /// This version is whole: what it names is here, and [settled](Self::settle). From now on it is what is booted.
    ///
    /// # Errors
    /// The kernel's refusal: then the one before still is, or this one already.
    pub fn commit(&self, config: &NodeConfig, list: &VerifiedList) -> io::Result<()> {
        let Some(signed) = list.signed() else { return Ok(()) };
        let (records, last) = ([signed, config.signed()], signed.path.as_bytes());
        if records.iter().all(|signed| self.is_kept(signed)) && self.store.has(LAST, last) {
            return Ok(());
        }
        let before = self.last();
        for signed in records {
            self.store.put(&signed.path, &signed.bytes)?;
            self.put_signatures(signed)?;
        }
        self.store.put(LAST, last)?;
        self.store.sync()?;
        log::info!(target: "cache", "kept config={} list={}", config.serial(), list.serial());
        self.tidy(config, before.as_ref())?;
        self.collect(&self.needed(config.bundle(), list, 2, before.as_ref()));
        Ok(())
    }

    /// The version was not kept, as there is no room for it; that it was seen is.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remember(&self, config: &NodeConfig, list: &VerifiedList) -> io::Result<()> {
        let mut signed = list.signed().into_iter().chain([config.signed()]);
        signed.try_for_each(|signed| self.put_signatures(signed))?;
        self.tidy(config, self.last().as_ref())
    }

    fn put_signatures(&self, signed: &Signed) -> io::Result<()> {
        signed.signatures.iter().try_for_each(|(path, text)| self.store.put(path, text).map(drop))
    }

    /// The list that was booted last, of whatever bundle. Nobody has signed that it was the last one: it only stays.
    #[must_use]
    pub fn last(&self) -> Option<Signed> {
        let path = String::from_utf8(self.media.get(LAST, LONGEST_PATH).ok()?).ok()?;
        let (folder, name) = path.rsplit_once('/')?;
        let folder = Folder::parse(folder)?;
        let serial = site::parse_latest(name.strip_suffix(folder.ending())?.as_bytes())?;
        self.record(&folder.request(serial)).ok()
    }

    fn is_kept(&self, signed: &Signed) -> bool {
        let files = signed.signatures.iter().map(|(path, text)| (path, text));
        files.chain([(&signed.path, &signed.bytes)]).all(|(path, bytes)| self.store.has(path, bytes))
    }
}

/// That the disk has failed, or its file system is damaged; anything else may be what somebody has left there.
fn is_of_disk(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG))
}

impl Source for Cache {
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        // Nobody has signed a `latest`, so none is kept: it is what the signatures say.
        match path.strip_suffix("/latest") {
            Some(folder) => match self.newest(folder).filter(|_| !self.has_failed()) {
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
    use crate::fail::{Failure, Refusal as _};
    use crate::network::Online;
    use crate::sys::fake::{self, Fault, Recorder, Site};
    use zstrap_formats::digest::{ContentDigest, sha256};
    use zstrap_formats::list::List;

    const CONFIG: &str = r#"{"version":1,"bundle":"demo","exec":["/init"],"root":{"size":"64MiB"}}"#;
    const LISTS: &str = "bundles/demo";

    /// A site with this serial, whose program is this.
    fn site_of(serial: u64, program: &[u8]) -> Site {
        site_with(serial, CONFIG, Some(("demo", program)))
    }

    /// A site with a config that says this, and this program in a bundle, if any.
    fn site_with(serial: u64, config: &str, bundle: Option<(&str, &[u8])>) -> Site {
        let (mut site, arch, signed) = (Site::default(), Arch::native().unwrap(), fake::SERIAL.to_string());
        let mut publish = |path: String, text: &str, latest: String, comment: String| {
            site.insert(&path, text.as_bytes());
            site.sign(&path, &comment.replace(&signed, &serial.to_string()));
            site.insert(&latest, serial.to_string().as_bytes());
        };
        let demo = "demo".parse().unwrap();
        let comment = fake::comment("config", "any");
        publish(site::config(&demo, serial), config, site::config_latest(&demo), comment);
        if let Some((name, program)) = bundle {
            let list = List::new(vec![fake::file_entry(b"init", ContentDigest::of(program))]).unwrap();
            let comment = fake::comment("list", arch.as_str()).replace("name=demo", &format!("name={name}"));
            let name = name.parse().unwrap();
            let (path, latest) = (site::list(&name, arch, serial), site::bundle_latest(&name, arch));
            publish(path, &list.to_text(), latest, comment);
            site.insert(&site::blob(&sha256(program)), program);
        }
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
        // Nor do many of them hide what counts.
        for serial in fake::SERIAL + 100..fake::SERIAL + 150 {
            copy(&format!("{own}.minisig"), &format!("{serial}.mtree.minisig"));
            copy(&own, &format!("{serial}.mtree"));
        }
        let cache = Cache::open(disk.path(), &identity()).unwrap();
        assert_eq!(cache.newest(&lists()), Some(fake::SERIAL));
        assert_eq!(cache.newest("configs/demo"), Some(fake::SERIAL));
        assert_eq!(cache.seen(&lists()).unwrap().0, fake::SERIAL);
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

    fn other_config(more: &str) -> String {
        CONFIG.replace(r#""bundle":"demo""#, &format!(r#""bundle":"other"{more}"#))
    }

    #[test]
    fn the_version_before_stays_although_the_bundle_changes() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(reason(&site_of(fake::SERIAL, b"one"), disk.path()), RUNS);
        let other = site_with(fake::SERIAL + 1, &other_config(""), Some(("other", b"two")));
        assert_eq!(reason(&other, disk.path()), RUNS);
        let mut both = [sha256(b"one").to_string(), sha256(b"two").to_string()];
        both.sort();
        assert_eq!(names(disk.path(), "blobs/sha256"), both);
        assert_eq!(names(disk.path(), &lists()).len(), 2);
        // Back again: nothing has to be fetched.
        let back = site_of(fake::SERIAL + 2, b"one");
        assert_eq!((reason(&back, disk.path()), back.offsets()), (RUNS, vec![]));
    }

    #[test]
    fn a_newer_config_that_cannot_be_booted_bounds_the_older_one_of_the_disk() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(reason(&site_of(fake::SERIAL, b"one"), disk.path()), RUNS);
        let with = |more: &str| site_with(fake::SERIAL + 1, &other_config(more), None);
        // The list of the new bundle is not there.
        assert_eq!(reason(&with(r#","bundles":["demo"]"#), disk.path()), RUNS);
        assert_eq!(reason(&with(""), disk.path()), "not-found");
        let least = fake::SERIAL + 1;
        let newer = format!(r#","bundles":["demo"],"min_serial":{least}"#);
        assert_eq!(reason(&with(&newer), disk.path()), "not-found");
    }

    #[test]
    fn what_was_seen_without_being_kept_counts_and_the_version_of_the_disk_boots() {
        let disk = tempfile::tempdir().unwrap();
        let old = site_of(fake::SERIAL, b"old");
        assert_eq!(reason(&old, disk.path()), RUNS);
        let (new, identity) = (site_of(fake::SERIAL + 1, b"new"), identity());
        let terms = || fake::now().into();
        let config =
            crate::config::obtain(&fake::servers(&new), &identity, &Default::default(), terms()).unwrap();
        let list = crate::list::obtain(&fake::servers(&new), &identity, &config, terms()).unwrap();
        let cache = Cache::open(disk.path(), &identity).unwrap();
        cache.remember(&config, &list).unwrap();
        assert_eq!(
            (cache.seen(&lists()).unwrap().0, cache.newest(&lists())),
            (fake::SERIAL + 1, Some(fake::SERIAL))
        );
        assert_eq!(reason(&dead(), disk.path()), RUNS);
        // A server that has the version of the disk is older than what was seen.
        let (failure, _) = boot(&old, disk.path());
        assert_eq!(failure.reason(), RUNS);
        std::fs::remove_file(disk.path().join("site/blobs/sha256").join(sha256(b"old").to_string())).unwrap();
        assert_eq!(reason(&old, disk.path()), "older-than-seen");
    }

    #[test]
    fn a_disk_that_comes_late_knows_what_was_seen() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(reason(&site_of(fake::SERIAL + 1, b"new"), disk.path()), RUNS);
        let (old, identity) = (site_of(fake::SERIAL, b"old"), identity());
        let terms = || fake::now().into();
        let config =
            crate::config::obtain(&fake::servers(&old), &identity, &Default::default(), terms()).unwrap();
        let list = crate::list::obtain(&fake::servers(&old), &identity, &config, terms()).unwrap();
        let mut keep = Keep::pretended(Cache::open(disk.path(), &identity).unwrap());
        let root = crate::root::prepare(
            &Recorder::default(),
            &identity,
            &config,
            &list,
            (&mut keep, &mut Default::default()),
            false,
        );
        assert_eq!(root.err().unwrap().reason(), "older-than-seen");
    }

    #[test]
    fn a_disk_that_cannot_be_read_has_not_seen_nothing() {
        let disk = tempfile::tempdir().unwrap();
        let cache = Cache::open(disk.path(), &identity()).unwrap();
        let path = lists();
        let folder = Folder::parse(&path).unwrap();
        let ignore = |errno: Errno| {
            let source = HttpError::Transport { url: String::new(), source: errno.into() };
            let error = signed::Error::Get { what: String::new(), source };
            assert!(cache.or_ignore::<()>(&folder, 1, Err(error)).is_none());
            cache.has_failed()
        };
        // What somebody has left there is none.
        assert!(![Errno::LOOP, Errno::NXIO, Errno::ISDIR].into_iter().any(ignore));
        assert!(ignore(Errno::IO));
        let keep = Keep::pretended(cache);
        assert!(keep.cache().is_none() && keep.shared().is_none());
    }
}
