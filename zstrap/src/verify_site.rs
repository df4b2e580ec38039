//! `zstrap verify SITE`: all that nodes get from a site today.
//!
//! In: a site, the keys and the threshold of its images. Out: a line for each config and list that a `latest` names, and
//! for each config by its hash; a line for each that waits for signatures; how many blobs were looked at; a line for
//! each fault. Failure: any fault. Lists and configs that no `latest` names any more are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use zstrap_formats::config::Config;
use zstrap_formats::digest::{ContentDigest, Sha256};
use zstrap_formats::list::List;
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::packed::Packed;
use zstrap_formats::signature::{ArchField, Kind, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use crate::clock;
use crate::config::{self, BY_HASH};
use crate::output;
use crate::parallel::on_all_cores;
use crate::place::Place;
use crate::progress::Progress;
use crate::signatures::{Stand, Trusted, beside};
use crate::site::Site;
use crate::verify::{contents_of, faults_of, strangers};

/// Checks a site.
///
/// # Errors
/// See the head of this file.
pub(crate) fn run(root: &Path, trusted: &Trusted, threshold: usize) -> anyhow::Result<()> {
    trusted.keyring(threshold)?;
    let site = Site::open(root)?;
    let mut check =
        Check { site, trusted, threshold, now: clock::now()?, faults: Vec::new(), blobs: BTreeMap::new() };
    let places = check.places()?;
    ensure!(!places.is_empty(), "site {} names no list and no config", root.display());
    check.something_for_nodes(&places);
    for place in &places {
        check.note(&place.path(), |check| check.published(place))?;
        check.waiting(place)?;
    }
    check.by_hash()?;
    check.index();
    check.contents()?;
    check.faults.iter().try_for_each(output::line)?;
    match check.faults.len() {
        0 => Ok(()),
        1 => bail!("site {} has 1 fault", root.display()),
        count => bail!("site {} has {count} faults", root.display()),
    }
}

struct Check<'a> {
    site: Site,
    trusted: &'a Trusted,
    threshold: usize,
    now: Timestamp,
    faults: Vec<String>,
    /// What the lists name, each once, with the lengths that their hints say of the compressed ones.
    blobs: BTreeMap<Sha256, (ContentDigest, BTreeSet<u64>)>,
}

impl Check<'_> {
    /// Does a part, and keeps what is wrong with it.
    fn note(
        &mut self,
        what: &str,
        part: impl FnOnce(&mut Self) -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<()> {
        match part(self) {
            Ok(Some(line)) => output::line(line),
            Ok(None) => Ok(()),
            Err(error) => {
                self.faults.push(format!("{what}: {error:#}"));
                Ok(())
            }
        }
    }

    /// Where the `latest` files of the site lead; a folder without one has the serial 0, which no list has.
    fn places(&mut self) -> anyhow::Result<Vec<Place>> {
        let mut places = Vec::new();
        for name in self.names("configs")?.into_iter().filter(|name| name.as_str() != BY_HASH) {
            places.extend(self.place(Kind::Config, name, ArchField::Any));
        }
        for name in self.names("bundles")? {
            for arch in Arch::ALL {
                if self.site.place(&site::bundle_folder(&name, arch)).is_dir() {
                    places.extend(self.place(Kind::List, name.clone(), ArchField::One(arch)));
                }
            }
        }
        Ok(places)
    }

    fn names(&self, folder: &str) -> anyhow::Result<Vec<Name>> {
        Ok(self.site.names(folder)?.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn place(&mut self, kind: Kind, name: Name, arch: ArchField) -> Option<Place> {
        let mut place = Place { site: self.site.place(""), kind, name, arch, serial: 0 };
        match self.site.latest(&place.latest()) {
            Ok(serial) => place.serial = serial.unwrap_or_default(),
            Err(error) => {
                self.faults.push(format!("{}: {error:#}", place.latest()));
                return None;
            }
        }
        Some(place)
    }

    /// Nodes begin at a `latest`: where all wait for signatures, no node boots.
    fn something_for_nodes(&mut self, places: &[Place]) {
        for (folder, what) in [("bundles", Kind::List), ("configs", Kind::Config)] {
            let mut serials =
                places.iter().filter(|place| place.kind == what).map(|place| place.serial).peekable();
            if serials.peek().is_some() && serials.all(|serial| serial == 0) {
                self.faults.push(format!("{folder}: no `latest` names a {what}, so nodes get none"));
            }
        }
    }

    /// The list or config that a `latest` names.
    fn published(&mut self, place: &Place) -> anyhow::Result<Option<String>> {
        if place.serial == 0 {
            return Ok(None);
        }
        let path = place.path();
        let bytes =
            self.site.read(&path)?.with_context(|| format!("missing, and {} names it", place.latest()))?;
        let line = self.signed(place, &path, &bytes)?;
        match place.kind {
            Kind::Config => self.config(&bytes)?,
            _ => self.list(place, &bytes)?,
        }
        Ok(Some(line))
    }

    /// That enough keys have signed this file for its place, and that its time has not passed.
    fn signed(&self, place: &Place, path: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let file = self.site.place(path);
        let comment = self.trusted.accept(&file, bytes, self.threshold)?;
        place.check(&comment)?;
        comment.check_time(self.now)?;
        let TrustedComment { kind, name, arch, serial, expires, .. } = &comment;
        let signers = self.signers(&file, bytes)?;
        Ok(format!("kind={kind} name={name} arch={arch} serial={serial} expires={expires} signers={signers}"))
    }

    fn signers(&self, file: &Path, bytes: &[u8]) -> anyhow::Result<usize> {
        let stands = self.trusted.stands(bytes, &beside(file)?);
        Ok(stands.iter().filter(|(_, stand)| matches!(stand, Stand::Signed(_))).count())
    }

    fn config(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let config = Config::parse_node(bytes)?;
        for bundle in config.allowed_bundles() {
            let is_there = |arch: &Arch| self.site.place(&site::bundle_latest(bundle, *arch)).exists();
            ensure!(Arch::ALL.iter().any(is_there), "bundle {bundle} is not published");
        }
        Ok(())
    }

    fn list(&mut self, place: &Place, bytes: &[u8]) -> anyhow::Result<()> {
        let contents = contents_of(&List::parse(bytes)?);
        for content in &contents {
            self.blobs.entry(content.sha256).or_insert_with(|| (*content, BTreeSet::new()));
        }
        let ArchField::One(arch) = place.arch else { bail!("a list is for one architecture") };
        let hint = site::packed(&place.name, arch, place.serial);
        let Some(text) = self.site.read(&hint)? else { return Ok(()) };
        let packed = Packed::parse(&text).with_context(|| format!("reading {hint}"))?;
        let strangers = strangers(&contents, &packed);
        self.faults.extend(strangers.iter().map(|stranger| format!("{hint}: {stranger}")));
        for (sha256, length) in packed.iter() {
            if let Some((_, lengths)) = self.blobs.get_mut(sha256) {
                lengths.insert(length);
            }
        }
        Ok(())
    }

    /// What is newer than the serial that nodes get.
    fn waiting(&mut self, place: &Place) -> anyhow::Result<()> {
        let path = place.path();
        let (folder, file) = path.rsplit_once('/').context("all stand in folders")?;
        let (_, ending) = file.rsplit_once('.').context("all have endings")?;
        let names = self.site.names(folder)?;
        let serials = names.iter().filter_map(|name| {
            let serial = name.strip_suffix(ending)?.strip_suffix('.')?;
            site::parse_latest(serial.as_bytes())
        });
        let newer: BTreeSet<u64> = serials.filter(|serial| *serial > place.serial).collect();
        for serial in newer {
            let path = Place { serial, ..place.clone() }.path();
            self.note(&path, |check| {
                let (file, bytes) = (check.site.place(&path), check.site.read(&path)?);
                let signers = check.signers(&file, &bytes.context("has just gone")?)?;
                Ok(Some(format!("waiting file={} signers={signers}", file.display())))
            })?;
        }
        Ok(())
    }

    /// Configs for images that pin them. Those whose time has passed are left over, and boot nothing.
    fn by_hash(&mut self) -> anyhow::Result<()> {
        let folder = format!("configs/{BY_HASH}");
        for name in self.site.names(&folder)?.iter().filter(|name| name.ends_with(".json")) {
            let path = format!("{folder}/{name}");
            self.note(&path, |check| check.pinned(&path))?;
        }
        Ok(())
    }

    fn pinned(&mut self, path: &str) -> anyhow::Result<Option<String>> {
        let bytes = self.site.read(path)?.context("has just gone")?;
        let sha256 = ContentDigest::of(&bytes).sha256;
        ensure!(site::config_by_hash(&sha256) == path, "has SHA-256 {sha256}");
        let comment = self.trusted.accept(&self.site.place(path), &bytes, self.threshold)?;
        ensure!(comment.kind == Kind::Config, "was signed as a {}", comment.kind);
        let TrustedComment { name, serial, expires, .. } = &comment;
        let has_expired = comment.check_time(self.now).is_err();
        let state = if has_expired { "expired" } else { "pinned" };
        Ok(Some(format!("{state} kind=config name={name} serial={serial} expires={expires} sha256={sha256}")))
    }

    /// The page for people.
    fn index(&mut self) {
        let configs = config::names(&self.site).unwrap_or_default();
        let said = self.site.read(site::CONFIGS_INDEX);
        let expected = config::index(&self.site);
        match (said, expected) {
            (Ok(None), _) if configs.is_empty() => {}
            (Ok(Some(said)), Ok(expected)) if said == expected.as_bytes() => {}
            (Err(error), _) | (_, Err(error)) => {
                self.faults.push(format!("{}: {error:#}", site::CONFIGS_INDEX))
            }
            _ => self.faults.push(format!("{}: not what the configs say", site::CONFIGS_INDEX)),
        }
    }

    /// The blobs of all lists.
    fn contents(&mut self) -> anyhow::Result<()> {
        let blobs: Vec<_> = std::mem::take(&mut self.blobs).into_values().collect();
        let bytes = blobs.iter().fold(0, |sum: u64, (content, _)| sum.saturating_add(content.size));
        let progress = Progress::bytes("checking", bytes);
        let found = on_all_cores(&blobs, |(content, lengths)| {
            let faults = faults_of(content, lengths.iter().copied(), &self.site);
            progress.add(content.size);
            Ok(faults)
        })?;
        progress.finish();
        let compressed: usize = blobs.iter().map(|(_, lengths)| lengths.len()).sum();
        output::line(format_args!("blobs={} bytes={bytes} compressed={compressed}", blobs.len()))?;
        self.faults.extend(found.into_iter().flatten());
        Ok(())
    }
}
