//! `zstrap publish`: a folder becomes a bundle.
//!
//! In: a folder, a site, a name, keys. Out: the folder's files as blobs, compressed ones beside those that are worth
//! it, a signed list, and a `latest` that names it. Failure: the folder holds what a list cannot or a secret key (the file is named), a file changes
//! while it is read, the disk fails. `latest` is exchanged last, by rename, so that whatever happens before
//! leaves the old list whole.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use tempfile::TempPath;
use zstrap_formats::digest::{ContentDigest, Sha256};
use zstrap_formats::key::{KeyError, SecretKey};
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::packed::{LEAST, Packed};
use zstrap_formats::signature::{ArchField, Kind, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use crate::clock::{self, Expiry};
use crate::output;
use crate::pack::{self, Gain};
use crate::parallel::on_all_cores;
use crate::progress::Progress;
use crate::signers::{PRESENT, Signers, parse_threshold};
use crate::site::{Site, Writer};
use crate::tree::{self, Item, ItemKind, Stamp, shown};

/// Files up to this size stand in memory between being hashed and being written.
const MAX_SMALL: u64 = 1 << 20;
/// Refused entries that an error names; the rest are counted.
const MAX_NAMED: usize = 10;
/// No file with a secret key is longer.
const MAX_KEY_FILE: u64 = 4096;

/// Written out: clap would make one line of it, whatever its length.
const USAGE: &str = "\
zstrap publish <DIR> --site <SITE> --bundle <NAME> --arch <ARCH>
                      --key <FILE> [OPTIONS]";

/// Arguments of `zstrap publish`.
#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
pub struct Arguments {
    /// The folder to publish: it becomes the root of the node
    pub dir: PathBuf,
    /// The site to publish to; it is made if it is not there
    #[arg(long, value_name = "SITE")]
    pub site: PathBuf,
    /// The name of the bundle
    #[arg(long, value_name = "NAME")]
    pub bundle: Name,
    /// The architecture of its programs: amd64 or arm64
    #[arg(long)]
    pub arch: Arch,
    /// The key to sign with; more than one for images with a threshold
    #[arg(long = "key", value_name = "FILE", required = true)]
    pub keys: Vec<PathBuf>,
    /// How many keys must sign before nodes get it: with fewer, it waits, and
    /// `zstrap sign` adds the rest [default: the keys given are enough]
    #[arg(long, value_name = "N", value_parser = parse_threshold)]
    pub threshold: Option<usize>,
    /// How long nodes accept the list: 90d, 12h, 30m, or a time such as
    /// 2027-02-20T08:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "90d")]
    pub expires: Expiry,
    /// Keeps owners and groups instead of making all root's
    #[arg(long)]
    pub keep_owner: bool,
    /// Accepts files with set-user-id and set-group-id bits; the config must, too
    #[arg(long)]
    pub allow_setuid: bool,
    /// Leaves out compressed blobs, which nodes on slow lines would fetch
    #[arg(long)]
    pub no_zstd: bool,
    /// Prints the list and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which parts of a folder are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Owners and groups as they are; otherwise all is root's.
    pub keep_owner: bool,
    /// Set-user-id and set-group-id files are taken; otherwise they are refused.
    pub allow_setuid: bool,
}

/// What to publish, where, as what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder.
    pub dir: PathBuf,
    /// The site.
    pub site: PathBuf,
    /// The bundle's name.
    pub bundle: Name,
    /// The bundle's architecture.
    pub arch: Arch,
    /// Key files that sign.
    pub keys: Vec<PathBuf>,
    /// How many keys must sign before `latest` names the list; if nobody says, these are enough.
    pub threshold: Option<usize>,
    /// When the list ends to be accepted.
    pub expires: Expiry,
    /// Which parts of the folder are taken.
    pub rules: Rules,
    /// Whether files are stored compressed, too, where that saves a tenth.
    pub zstd: bool,
    /// The time it is done at.
    pub now: Timestamp,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The serial of the list.
    pub serial: u64,
    /// When nodes stop accepting it.
    pub expires: Timestamp,
    /// The list.
    pub list: List,
    /// What compressing its blobs has brought, if that was asked for.
    pub gain: Option<Gain>,
    /// Whether `latest` names it; else it waits for more signatures.
    pub is_latest: bool,
}

/// Runs the command.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let rules = Rules { keep_owner: arguments.keep_owner, allow_setuid: arguments.allow_setuid };
    if arguments.dry_run {
        check_keys_apart(&arguments.dir, &arguments.keys)?;
        return output::text(&list_of(&arguments.dir, rules)?.to_text());
    }
    let published = publish(&Options {
        dir: arguments.dir.clone(),
        site: arguments.site.clone(),
        bundle: arguments.bundle.clone(),
        arch: arguments.arch,
        keys: arguments.keys.clone(),
        threshold: arguments.threshold,
        expires: arguments.expires,
        rules,
        zstd: !arguments.no_zstd,
        now: clock::now()?,
    })?;
    let Published { serial, expires, list, gain, is_latest } = published;
    if let Some(gain) = gain {
        log::info!("compressed: {gain}");
    }
    let (bundle, arch) = (&arguments.bundle, arguments.arch);
    let (entries, bytes) = (list.entries().len(), list.total_size());
    if !is_latest {
        say_waiting(&arguments.site.join(site::list(bundle, arch, serial)));
    }
    output::line(format_args!(
        "bundle={bundle} arch={arch} serial={serial} entries={entries} bytes={bytes} expires={expires}"
    ))
}

/// Where the next signer finds it.
pub(crate) fn say_waiting(file: &Path) {
    log::warn!(
        "{} waits for more signatures (zstrap sign): until then, nodes get what they got",
        file.display()
    );
}

/// The list that publishing `dir` would give; nothing is written.
///
/// # Errors
/// See the head of this file.
pub fn list_of(dir: &Path, rules: Rules) -> anyhow::Result<List> {
    let items = items_of(dir, rules)?;
    let progress = Progress::bytes("hashing", total_size(&items));
    let digests = digests_of(&items, |item, stamp| {
        let count = |piece: &[u8]| {
            progress.add(piece.len() as u64);
            Ok(())
        };
        tree::digest(&item.place, stamp, count)
    })?;
    progress.finish();
    make_list(items, &digests, rules)
}

/// Publishes a folder.
///
/// # Errors
/// See the head of this file.
pub fn publish(options: &Options) -> anyhow::Result<Published> {
    let signers = Signers::read(&options.keys)?;
    let expires = options.expires.from(options.now)?;
    check_keys_apart(&options.dir, &options.keys)?;
    check_apart(&options.dir, &options.site)?;
    let items = items_of(&options.dir, options.rules)?;
    let writer = Writer::lock(&options.site)?;
    let before = Before::read(writer.site(), &options.bundle, options.arch)?;
    let is_latest = signers.are_enough(options.threshold, (before.signers, PRESENT))?;
    let digests = store_blobs(&writer, &items, &before.files)?;
    let list = make_list(items, &digests, options.rules)?;
    let packed = if options.zstd { Some(pack_blobs(&writer, &list, &before)?) } else { None };
    let (packed, gain) = packed.unzip();
    let serial = commit(&writer, options, &signers, &list, packed.as_ref(), expires)?;
    if is_latest {
        writer
            .write(&site::bundle_latest(&options.bundle, options.arch), format!("{serial}\n").as_bytes())?;
    }
    Ok(Published { serial, expires, list, gain, is_latest })
}

fn items_of(dir: &Path, rules: Rules) -> anyhow::Result<Vec<Item>> {
    let items = tree::read(dir)?;
    let refused: Vec<String> =
        on_all_cores(&items, |item| refusal(item, rules))?.into_iter().flatten().collect();
    ensure!(refused.is_empty(), "publishing {}: {}", dir.display(), first_of(&refused, "; "));
    warn_of_closed_root(&items);
    warn_of_private_files(&items);
    Ok(items)
}

/// The first few, and how many more there are.
pub(crate) fn first_of(names: &[String], separator: &str) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let more = if more == 0 { String::new() } else { format!("{separator}and {more} more") };
    names[..names.len().min(MAX_NAMED)].join(separator) + &more
}

/// Why an item cannot be in a list, or must not be.
fn refusal(item: &Item, rules: Rules) -> anyhow::Result<Option<String>> {
    let path = shown(&item.path);
    if let ItemKind::Other(what) = item.kind {
        return Ok(Some(format!("{path} is {what}")));
    }
    if !item.attributes.is_empty() {
        let names = item.attributes.join(", ");
        return Ok(Some(format!("{path} has extended attributes ({names}), which a list cannot carry")));
    }
    let setuid = item.file().is_some() && item.mode & zstrap_formats::list::SETUID_BITS != 0;
    if setuid && !rules.allow_setuid {
        let expected = "expected no set-id bits (--allow-setuid)";
        return Ok(Some(format!("{path} has mode {:04o}, {expected}", item.mode)));
    }
    let secret = holds_secret_key(item)?;
    Ok(secret.then(|| format!("{path} is a secret key, and what is published is public")))
}

/// Whether a file is a secret key, usable, damaged or under a password: no node needs one that signs for it.
fn holds_secret_key(item: &Item) -> anyhow::Result<bool> {
    let Some(stamp) = item.file().filter(|stamp| stamp.size <= MAX_KEY_FILE) else { return Ok(false) };
    let mut content = Vec::new();
    tree::digest(&item.place, stamp, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })?;
    let parsed = std::str::from_utf8(&content).map(SecretKey::parse);
    Ok(matches!(parsed, Ok(Ok(_) | Err(KeyError::Password | KeyError::Checksum))))
}

/// A folder from mktemp has mode 0700, and would become a root that only root can enter.
fn warn_of_closed_root(items: &[Item]) {
    let closed = items.first().filter(|root| root.mode & 0o055 != 0o055);
    if let Some(root) = closed {
        log::warn!("{} has mode {:04o}, and so will / on the node", root.place.display(), root.mode);
    }
}

/// Whoever reads the site reads all files, whatever their modes here.
fn warn_of_private_files(items: &[Item]) {
    let private = items.iter().filter(|item| item.file().is_some() && item.mode & 0o004 == 0);
    let names: Vec<String> = private.map(|item| shown(&item.path)).collect();
    if !names.is_empty() {
        let (count, named) = (names.len(), first_of(&names, ", "));
        log::warn!("files that not everybody may read here become public: {count}, namely {named}");
    }
}

/// A site inside the folder would publish itself. It need not exist yet: then its nearest folder that does
/// decides, so that nothing is made before the answer.
fn check_apart(dir: &Path, site: &Path) -> anyhow::Result<()> {
    let here =
        |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_path_buf() };
    let nearest = site.ancestors().find_map(|path| here(path).canonicalize().ok());
    let nearest = nearest.with_context(|| format!("looking for site {}", site.display()))?;
    let inside = nearest.starts_with(real(dir)?);
    ensure!(!inside, "site {} is inside {}, expected it elsewhere", site.display(), dir.display());
    Ok(())
}

/// A signing key inside the folder would be published, and everybody could sign.
fn check_keys_apart(dir: &Path, keys: &[PathBuf]) -> anyhow::Result<()> {
    let folder = real(dir)?;
    for key in keys {
        // One that is not there is for its reader to report.
        let inside = key.canonicalize().is_ok_and(|key| key.starts_with(&folder));
        ensure!(!inside, "key {} is inside {}, expected it elsewhere", key.display(), dir.display());
    }
    Ok(())
}

fn real(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("opening {}", path.display()))
}

/// What the bundle was when it was last published. Only a hint: a list that is missing or damaged costs time, nothing
/// else.
#[derive(Default)]
struct Before {
    files: HashMap<Vec<u8>, ContentDigest>,
    /// What was compressed then; none if that was not tried.
    packed: Option<Packed>,
    /// How many keys have signed it.
    signers: usize,
}

impl Before {
    fn read(site: &Site, bundle: &Name, arch: Arch) -> anyhow::Result<Self> {
        let Some(serial) = site.latest(&site::bundle_latest(bundle, arch))? else {
            return Ok(Self::default());
        };
        let path = site::list(bundle, arch, serial);
        let signers = site.count_signers(&path)?;
        let Ok(list) = List::parse(&site.read(&path)?.unwrap_or_default()) else {
            log::warn!("the present list of {bundle}, serial {serial}, cannot be read");
            return Ok(Self { signers, ..Self::default() });
        };
        let files = list.entries().iter().filter_map(|entry| match entry.kind {
            EntryKind::File(digest) => Some((entry.path.clone(), digest)),
            _ => None,
        });
        let packed = site.read(&site::packed(bundle, arch, serial))?;
        let packed = packed.and_then(|text| Packed::parse(&text).ok());
        Ok(Self { files: files.collect(), packed, signers })
    }

    /// The contents that were tried then, and did not become short enough.
    fn hopeless(&self) -> HashSet<Sha256> {
        let Some(packed) = &self.packed else { return HashSet::new() };
        let contents =
            self.files.values().filter(|digest| packed.length(&digest.sha256, digest.size).is_none());
        contents.map(|digest| digest.sha256).collect()
    }
}

fn total_size(items: &[Item]) -> u64 {
    items.iter().filter_map(Item::file).fold(0, |sum, stamp| sum.saturating_add(stamp.size))
}

/// Calls `read` for all files on all cores, the largest first so that no core ends alone with it.
fn digests_of<R: Send>(
    items: &[Item],
    read: impl Fn(&Item, &Stamp) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<HashMap<Vec<u8>, R>> {
    let mut files: Vec<(&Item, &Stamp)> =
        items.iter().filter_map(|item| Some((item, item.file()?))).collect();
    files.sort_by_key(|(_, stamp)| std::cmp::Reverse(stamp.size));
    let results = on_all_cores(&files, |(item, stamp)| read(item, stamp))?;
    Ok(files.iter().map(|(item, _)| item.path.clone()).zip(results).collect())
}

/// Brings the content of all files into the site, and returns their digests by path.
fn store_blobs(
    writer: &Writer,
    items: &[Item],
    before: &HashMap<Vec<u8>, ContentDigest>,
) -> anyhow::Result<HashMap<Vec<u8>, ContentDigest>> {
    let store = Store { writer, before, progress: Progress::bytes("storing", total_size(items)) };
    let mut stored = digests_of(items, |item, stamp| store.file(item, stamp))?;
    // One sync for all, before the first of them gets its name.
    writer.sync()?;
    writer.make_folder("blobs/sha256")?;
    for (digest, half) in stored.values_mut() {
        if let Some(half) = half.take() {
            writer.place(half, &site::blob(&digest.sha256))?;
        }
    }
    writer.sync_folder("blobs/sha256")?;
    store.progress.finish();
    Ok(stored.into_iter().map(|(path, (digest, _))| (path, digest)).collect())
}

/// Compresses the blobs of a list, the largest first.
fn pack_blobs(writer: &Writer, list: &List, before: &Before) -> anyhow::Result<(Packed, Gain)> {
    let mut contents: Vec<ContentDigest> = list
        .entries()
        .iter()
        .filter_map(|entry| match entry.kind {
            EntryKind::File(digest) => Some(digest).filter(|digest| digest.size >= LEAST),
            _ => None,
        })
        .collect();
    contents.sort_by_key(|digest| (std::cmp::Reverse(digest.size), digest.sha256));
    contents.dedup_by_key(|digest| digest.sha256);
    let hopeless = before.hopeless();
    pack::pack(writer, &contents, |content| hopeless.contains(&content.sha256))
}

/// What a file's content is and, if the site lacks it, where its bytes stand half-made.
type Stored = (ContentDigest, Option<TempPath>);

/// Reads files into half-made blobs. What is written is the very buffer that was hashed.
struct Store<'a> {
    writer: &'a Writer,
    /// What the files were when they were last published.
    before: &'a HashMap<Vec<u8>, ContentDigest>,
    progress: Progress,
}

impl Store<'_> {
    fn file(&self, item: &Item, stamp: &Stamp) -> anyhow::Result<Stored> {
        if stamp.size <= MAX_SMALL { self.small(item, stamp) } else { self.large(item, stamp) }
    }

    fn small(&self, item: &Item, stamp: &Stamp) -> anyhow::Result<Stored> {
        let mut content = Vec::with_capacity(usize::try_from(stamp.size)?);
        let digest = tree::digest(&item.place, stamp, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        self.progress.add(stamp.size);
        if self.has(&digest) {
            return Ok((digest, None));
        }
        let mut half = self.writer.begin()?;
        half.write_all(&content).context("writing a blob")?;
        Ok((digest, Some(half.into_temp_path())))
    }

    /// A large file that looks as it did is hashed before anything is written: it nearly always is the same.
    fn large(&self, item: &Item, stamp: &Stamp) -> anyhow::Result<Stored> {
        let known = self.before.get(&item.path).filter(|digest| digest.size == stamp.size);
        let hash_first = known.is_some_and(|digest| self.looks_stored(digest));
        if hash_first {
            let digest = tree::digest(&item.place, stamp, |piece| self.count(piece))?;
            if self.has(&digest) {
                return Ok((digest, None));
            }
        }
        let mut half = self.writer.begin()?;
        let digest = tree::digest(&item.place, stamp, |piece| {
            if !hash_first {
                self.count(piece)?;
            }
            half.write_all(piece).context("writing a blob")
        })?;
        let half = (!self.has(&digest)).then(|| half.into_temp_path());
        Ok((digest, half))
    }

    /// Never fails; its type is that of what takes pieces.
    fn count(&self, piece: &[u8]) -> anyhow::Result<()> {
        self.progress.add(piece.len() as u64);
        Ok(())
    }

    /// Whether the site has this content, whole: a blob that was damaged since is written anew. That is what the
    /// node advises when it refuses one, so its hash is looked at, not only its size.
    fn has(&self, digest: &ContentDigest) -> bool {
        if !self.looks_stored(digest) {
            return false;
        }
        let whole = tree::content_of(&self.place_of(digest)).is_ok_and(|found| found == *digest);
        if !whole {
            log::warn!("blob {} is damaged; it is written anew", digest.sha256);
        }
        whole
    }

    fn looks_stored(&self, digest: &ContentDigest) -> bool {
        let meta = self.place_of(digest).symlink_metadata();
        meta.is_ok_and(|meta| meta.is_file() && meta.len() == digest.size)
    }

    fn place_of(&self, digest: &ContentDigest) -> PathBuf {
        self.writer.site().place(&site::blob(&digest.sha256))
    }
}

/// The list of these items, which nodes have been asked whether they would read it.
fn make_list(
    items: Vec<Item>,
    digests: &HashMap<Vec<u8>, ContentDigest>,
    rules: Rules,
) -> anyhow::Result<List> {
    let entry = |item: Item| {
        let (uid, gid) = if rules.keep_owner { (item.uid, item.gid) } else { (0, 0) };
        let (kind, mode) = match item.kind {
            ItemKind::Dir => (EntryKind::Dir, item.mode),
            // Linux gives links no mode of their own.
            ItemKind::Link(target) => (EntryKind::Link(target), 0o777),
            ItemKind::File(_) => (EntryKind::File(digests[&item.path]), item.mode),
            ItemKind::Other(what) => bail!("{} is {what}", shown(&item.path)),
        };
        Ok(Entry { path: item.path, mode, uid, gid, kind })
    };
    let list = List::new(items.into_iter().map(entry).collect::<anyhow::Result<_>>()?)?;
    let read = List::parse(list.to_text().as_bytes()).context("reading the list as a node does")?;
    ensure!(read == list, "the list does not read back as it was written");
    Ok(list)
}

/// The hint, the list, signatures: all but the one step that nodes see.
fn commit(
    writer: &Writer,
    options: &Options,
    signers: &Signers,
    list: &List,
    packed: Option<&Packed>,
    expires: Timestamp,
) -> anyhow::Result<u64> {
    let Options { bundle, arch, now, .. } = options;
    let serial = writer.site().next_serial(&site::bundle_folder(bundle, *arch), now.unix())?;
    let path = site::list(bundle, *arch, serial);
    let comment = TrustedComment {
        kind: Kind::List,
        name: bundle.clone(),
        arch: ArchField::One(*arch),
        serial,
        created: *now,
        expires,
    };
    let text = list.to_text();
    if let Some(packed) = packed {
        writer.write(&site::packed(bundle, *arch, serial), packed.to_text().as_bytes())?;
    }
    writer.write(&path, text.as_bytes())?;
    for (path, signature) in signers.sign(&path, text.as_bytes(), &comment) {
        writer.write(&path, signature.as_bytes())?;
    }
    Ok(serial)
}
