//! `zstrap verify`: is this list signed, is this folder what it says, and does this site have what it names?
//!
//! A folder instead of a list is a whole site: `verify_site`.
//! In: a list (or a config) beside its signatures, public keys, perhaps a folder, perhaps a site. Out: on stdout, what
//! the signatures say, who has signed and who has not, each difference between list and folder, how many blobs of the site were looked at, and each
//! that it lacks or that is damaged.
//! Failure: too few good signatures, expired, not a list, any of these. Reads what others write, too: legacy signatures, bsdtar's lists.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use zstrap_formats::config::Config;
use zstrap_formats::digest::{ContentDigest, Sha256};
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::packed::Packed;
use zstrap_formats::signature::{Accept, Kind, TrustedComment};
use zstrap_formats::site;

use crate::cli::UsageError;
use crate::clock;
use crate::output;
use crate::pack;
use crate::parallel::on_all_cores;
use crate::signatures::{self, Beside, Stand, Trusted, beside};
use crate::signers::parse_threshold;
use crate::site::Site;
use crate::tree::{self, Item, ItemKind, shown};
use crate::verify_site;

/// Arguments of `zstrap verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The list or config; or a site, to check all that nodes get from it
    #[arg(value_name = "FILE")]
    pub list: PathBuf,
    /// A trusted public key; of several, any one may have signed
    #[arg(long = "key", value_name = "PUB", required = true)]
    pub keys: Vec<PathBuf>,
    /// How many of the keys must have signed, as for images
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threshold)]
    pub threshold: usize,
    /// The signature [default: LIST.minisig; above a threshold of 1,
    /// LIST.KEYID.minisig for each key]
    #[arg(long, value_name = "FILE", conflicts_with = "threshold")]
    pub signature: Option<PathBuf>,
    /// A folder to hold against the list
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// A site whose blobs to hold against the list, compressed ones too
    #[arg(long)]
    pub site: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.list.is_dir() {
        return run_site(arguments);
    }
    let bytes = read(&arguments.list)?;
    let comment = verify_signature(arguments, &bytes)?;
    comment.check_time(clock::now()?)?;
    match (comment.kind, &arguments.dir, &arguments.site) {
        (Kind::List, ..) => check_list(arguments, &bytes),
        (Kind::Config, None, None) => Config::parse_node(&bytes).map(drop).map_err(anyhow::Error::from),
        (kind, ..) => bail!("{} is a {kind}, expected a list", arguments.list.display()),
    }
}

fn run_site(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { list: site, keys, threshold, signature, dir, site: blobs } = arguments;
    if signature.is_some() || dir.is_some() || blobs.is_some() {
        let text = format!(
            "{} is a folder, so a site: --signature, --dir and --site are for one list",
            site.display()
        );
        return Err(UsageError(text).into());
    }
    verify_site::run(site, &Trusted::read(keys)?, *threshold)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The trusted comment, if nodes would accept the signatures; and who has signed, in any case.
fn verify_signature(arguments: &Arguments, bytes: &[u8]) -> anyhow::Result<TrustedComment> {
    let Arguments { list, threshold, .. } = arguments;
    let trusted = Trusted::read(&arguments.keys)?;
    let found = match &arguments.signature {
        Some(path) => vec![Beside::read(path.clone())?],
        None => beside(list)?,
    };
    let keyring = trusted.keyring(*threshold)?;
    let asked_for = match &arguments.signature {
        Some(_) => vec![found[0].signature.clone()],
        None => trusted.asked_for(list, *threshold)?,
    };
    let verified = keyring.verify(bytes, &asked_for, Accept::Legacy);
    match verified {
        Ok(text) => {
            let comment: TrustedComment = text.parse()?;
            let TrustedComment { kind, name, arch, serial, created, expires } = &comment;
            output::line(format_args!(
                "kind={kind} name={name} arch={arch} serial={serial} created={created} expires={expires}"
            ))?;
            signatures::report(&trusted, bytes, &found, Some(&text)).iter().try_for_each(output::line)?;
            Ok(comment)
        }
        Err(error) => {
            signatures::report(&trusted, bytes, &found, None).iter().try_for_each(output::line)?;
            let has_signed = |stand: &Stand| matches!(stand, Stand::Signed(_));
            let is_aside = arguments.signature.is_none()
                && *threshold == 1
                && trusted.stands(bytes, &found).iter().any(|(_, stand)| has_signed(stand));
            // Else it contradicts the line above that says who has signed.
            let why = if is_aside {
                ": with a threshold of 1, only its .minisig counts, no .KEYID.minisig"
            } else {
                ""
            };
            Err(error).with_context(|| format!("verifying {}{why}", list.display()))
        }
    }
}

fn check_list(arguments: &Arguments, bytes: &[u8]) -> anyhow::Result<()> {
    let list = parse_any(bytes)?;
    output::line(format_args!("entries={} bytes={}", list.entries().len(), list.total_size()))?;
    let (mut found, mut places) = (Vec::new(), Vec::new());
    if let Some(dir) = &arguments.dir {
        found.extend(differences(&list, dir)?);
        places.push(dir.display().to_string());
    }
    if let Some(root) = &arguments.site {
        let packed = packed_beside(&arguments.list, &mut found)?;
        let contents = contents_of(&list);
        output::line(extent(&contents, &packed))?;
        found.extend(faults(&contents, &packed, &Site::open(root)?)?);
        places.push(format!("site {}", root.display()));
    }
    found.iter().try_for_each(output::line)?;
    match found.len() {
        0 => Ok(()),
        1 => bail!("{} differs from the list in 1 place", places.join(" or ")),
        count => bail!("{} differs from the list in {count} places", places.join(" or ")),
    }
}

/// The hint beside a list, if there is one; one that nodes would not understand is a fault.
fn packed_beside(list: &Path, found: &mut Vec<String>) -> anyhow::Result<Packed> {
    let path = list.with_extension("packed");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Packed::default()),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let packed = Packed::parse(&text);
    Ok(packed.unwrap_or_else(|error| {
        found.push(format!("{}: {error}", path.display()));
        Packed::default()
    }))
}

/// The contents of a list that have blobs, each once.
pub(crate) fn contents_of(list: &List) -> Vec<ContentDigest> {
    let contents: BTreeMap<Sha256, ContentDigest> = list
        .entries()
        .iter()
        .filter_map(|entry| match entry.kind {
            // Nodes ask for no empty file.
            EntryKind::File(content) if content.size > 0 => Some((content.sha256, content)),
            _ => None,
        })
        .collect();
    contents.into_values().collect()
}

/// What of a site is held against a list: a check that finds nothing says how much it has looked at.
fn extent(contents: &[ContentDigest], packed: &Packed) -> String {
    let sum = |sum: u64, more: u64| sum.saturating_add(more);
    let bytes = contents.iter().map(|content| content.size).fold(0, sum);
    // Nobody signs these lengths.
    let compressed = packed.iter().map(|(_, length)| length).fold(0, sum);
    let (blobs, packed) = (contents.len(), packed.iter().count());
    format!("blobs={blobs} bytes={bytes} compressed={packed} compressed_bytes={compressed}")
}

/// One line for each blob of the list that the site lacks, or that holds something else; compressed ones, too.
fn faults(contents: &[ContentDigest], packed: &Packed, site: &Site) -> anyhow::Result<Vec<String>> {
    let faults = |content: &ContentDigest| faults_of(content, packed.claimed(&content.sha256), site);
    let found = on_all_cores(contents, |content| Ok(faults(content)))?;
    Ok(found.into_iter().flatten().chain(strangers(contents, packed)).collect())
}

/// What a hint names that no file of its list has.
pub(crate) fn strangers(contents: &[ContentDigest], packed: &Packed) -> Vec<String> {
    let known: BTreeSet<&Sha256> = contents.iter().map(|content| &content.sha256).collect();
    let strangers = packed.iter().filter(|(sha256, _)| !known.contains(sha256));
    strangers.map(|(sha256, _)| format!("{} is not in the list", site::packed_blob(sha256))).collect()
}

/// A line for the blob of a content, and one for each length that its compressed one is said to have, if they are wrong.
pub(crate) fn faults_of(
    content: &ContentDigest,
    lengths: impl IntoIterator<Item = u64>,
    site: &Site,
) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(fault(&site::blob(&content.sha256), site, |place| {
        let is = tree::content_of(place)?;
        ensure!(is == *content, "holds {} bytes with SHA-256 {}", is.size, is.sha256);
        Ok(())
    }));
    for length in lengths {
        found.extend(fault(&site::packed_blob(&content.sha256), site, |place| {
            let is = place.metadata().with_context(|| format!("opening {}", place.display()))?.len();
            ensure!(is == length, "has {is} bytes, expected {length}");
            pack::check(place, content)
        }));
    }
    found
}

fn fault(path: &str, site: &Site, check: impl Fn(&Path) -> anyhow::Result<()>) -> Option<String> {
    check(&site.place(path)).err().map(|error| format!("{path}: {error:#}"))
}

/// Our own lists by the rules of nodes, all others by those of mtree(5). The error is that of the wider reader.
fn parse_any(bytes: &[u8]) -> anyhow::Result<List> {
    match List::parse(bytes) {
        Ok(list) => Ok(list),
        Err(strict) => {
            let list = List::parse_mtree(bytes)?;
            log::info!("nodes would refuse this list: {strict}");
            Ok(list)
        }
    }
}

/// One line for each thing that is missing, extra or different in `dir`, in order of the paths.
///
/// # Errors
/// The folder cannot be read.
pub fn differences(list: &List, dir: &Path) -> anyhow::Result<Vec<String>> {
    let items: BTreeMap<Vec<u8>, Item> =
        tree::read(dir)?.into_iter().map(|item| (item.path.clone(), item)).collect();
    // A list that was made with --keep-owner says so by any owner but root.
    let owners = list.entries().iter().any(|entry| entry.uid != 0 || entry.gid != 0);
    let mut lines: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    let compared = on_all_cores(list.entries(), |entry| match items.get(&entry.path) {
        Some(item) => compare(entry, item, owners),
        None => Ok(vec!["is missing".to_owned()]),
    })?;
    for (entry, found) in list.entries().iter().zip(compared) {
        items_lines(&mut lines, &entry.path, found);
    }
    let listed: std::collections::BTreeSet<&[u8]> =
        list.entries().iter().map(|e| e.path.as_slice()).collect();
    // bsdtar and mtree may leave out the folder itself.
    for path in items.keys().filter(|path| !path.is_empty() && !listed.contains(path.as_slice())) {
        items_lines(&mut lines, path, vec!["is not in the list".to_owned()]);
    }
    Ok(lines.into_values().flatten().collect())
}

fn items_lines(lines: &mut BTreeMap<Vec<u8>, Vec<String>>, path: &[u8], found: Vec<String>) {
    let named = found.into_iter().map(|what| format!("{} {what}", shown(path)));
    lines.entry(path.to_vec()).or_default().extend(named);
}

fn compare(entry: &Entry, item: &Item, owners: bool) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut differ = |what: &str, is: String, expected: String| {
        if is != expected {
            found.push(format!("has {what} {is}, expected {expected}"));
        }
    };
    let (is, expected) = (type_of_item(&item.kind), type_of_entry(&entry.kind));
    if is != expected {
        differ("type", is.to_owned(), expected.to_owned());
        return Ok(found);
    }
    if !matches!(entry.kind, EntryKind::Link(_)) {
        differ("mode", format!("{:04o}", item.mode), format!("{:04o}", entry.mode));
    }
    if owners {
        differ("owner", format!("{}:{}", item.uid, item.gid), format!("{}:{}", entry.uid, entry.gid));
    }
    match (&entry.kind, &item.kind) {
        (EntryKind::Link(expected), ItemKind::Link(is)) => differ("target", quoted(is), quoted(expected)),
        (EntryKind::File(expected), ItemKind::File(stamp)) => {
            differ("size", stamp.size.to_string(), expected.size.to_string());
            let is = tree::digest(&item.place, stamp, |_| Ok(()))?;
            differ("md5", is.md5.to_string(), expected.md5.to_string());
            differ("sha256", is.sha256.to_string(), expected.sha256.to_string());
        }
        _ => {}
    }
    Ok(found)
}

fn quoted(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

fn type_of_item(kind: &ItemKind) -> &'static str {
    match kind {
        ItemKind::Dir => "dir",
        ItemKind::Link(_) => "link",
        ItemKind::File(_) => "file",
        ItemKind::Other(_) => "special",
    }
}

fn type_of_entry(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Dir => "dir",
        EntryKind::Link(_) => "link",
        EntryKind::File(_) => "file",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::publish::{Rules, list_of};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_folder_equals_its_own_list() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a b"), "x").unwrap();
        let list = list_of(dir.path(), Rules::default()).unwrap();
        assert_eq!(differences(&list, dir.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn names_every_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["content", "gone", "longer", "mode", "type"] {
            std::fs::write(path(name), "1").unwrap();
        }
        symlink("one", path("link")).unwrap();
        let list = list_of(dir.path(), Rules::default()).unwrap();
        std::fs::write(path("content"), "2").unwrap();
        std::fs::write(path("longer"), "11").unwrap();
        std::fs::remove_file(path("gone")).unwrap();
        std::fs::set_permissions(path("mode"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::remove_file(path("type")).unwrap();
        std::fs::create_dir(path("type")).unwrap();
        std::fs::remove_file(path("link")).unwrap();
        symlink("two", path("link")).unwrap();
        std::fs::write(path("more"), "").unwrap();
        let found = differences(&list, dir.path()).unwrap();
        let begins = |line: &str| found.iter().filter(|found| found.starts_with(line)).count();
        assert_eq!(begins("./content has md5 "), 1);
        assert_eq!(begins("./content has sha256 "), 1);
        assert_eq!(begins("./longer has size 2, expected 1"), 1);
        assert_eq!(begins("./gone is missing"), 1);
        assert_eq!(begins("./mode has mode 0600, expected 0644"), 1);
        assert_eq!(begins("./type has type dir, expected file"), 1);
        assert_eq!(begins("./link has target \"two\", expected \"one\""), 1);
        assert_eq!(begins("./more is not in the list"), 1);
        assert_eq!(found.len(), 10, "{found:?}");
    }
}
