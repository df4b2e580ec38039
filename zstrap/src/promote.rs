//! `zstrap promote`: what is on the site under one name is signed under another.
//!
//! In: a site with the bundle that was tried, the name of the channel that nodes boot, keys. Out: the same content as
//! the channel's newest list, for every architecture it is there for; `latest` last. With the channel's own name and
//! an older serial it is the way back; with its own newest, it is signed anew. Failure: the source is not signed by
//! enough trusted keys, not for this name, expired, not whole; then nothing is written.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use zstrap_formats::list::{EntryKind, List};
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::packed::Packed;
use zstrap_formats::signature::{ArchField, Kind, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use crate::clock::{self, Expiry};
use crate::output;
use crate::place::Place;
use crate::publish::{first_of, say_waiting};
use crate::signatures::Trusted;
use crate::signers::{PRESENT, Signers, parse_threshold};
use crate::site::{Site, Writer};

/// Written out: clap would make one line of it, whatever its length.
const USAGE: &str = "\
zstrap promote <CHANNEL> --from <NAME> --site <SITE> --key <FILE>
                      [OPTIONS]";

/// Arguments of `zstrap promote`.
#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
pub struct Arguments {
    /// The name that nodes boot, such as stable
    pub channel: Name,
    /// The bundle to take; its newest list, unless --serial says which
    #[arg(long, value_name = "NAME")]
    pub from: Name,
    /// The site
    #[arg(long, value_name = "SITE")]
    pub site: PathBuf,
    /// The key to sign with; more than one for images with a threshold
    #[arg(long = "key", value_name = "FILE", required = true)]
    pub keys: Vec<PathBuf>,
    /// A public key that may have signed what is taken, beside those of --key
    #[arg(long, value_name = "PUB")]
    pub trust: Vec<PathBuf>,
    /// How many keys must have signed what is taken, and must sign before nodes
    /// get it: with fewer, it waits for `zstrap sign` [default: the keys given]
    #[arg(long, value_name = "N", value_parser = parse_threshold)]
    pub threshold: Option<usize>,
    /// The architecture; repeatable [default: all it is there for]
    #[arg(long = "arch", value_name = "ARCH")]
    pub archs: Vec<Arch>,
    /// An older list of the bundle, by its serial
    #[arg(long, value_name = "SERIAL")]
    pub serial: Option<u64>,
    /// How long nodes accept the list: 90d, 12h, 30m, or a time such as
    /// 2027-02-20T08:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "90d")]
    pub expires: Expiry,
    /// Checks all, says what would be signed and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A list that may be signed again.
struct Source {
    arch: Arch,
    serial: u64,
    bytes: Vec<u8>,
    list: List,
    /// The hint beside it, if there is a good one.
    packed: Option<Vec<u8>>,
}

/// What a source becomes.
struct Step {
    source: Source,
    comment: TrustedComment,
    is_latest: bool,
}

/// Runs the command.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let signers = Signers::read(&arguments.keys)?;
    let now = clock::now()?;
    let steps = if arguments.dry_run {
        steps(arguments, &Site::open(&arguments.site)?, &signers, now)?
    } else {
        Site::open(&arguments.site)?;
        let writer = Writer::lock(&arguments.site)?;
        let steps = steps(arguments, writer.site(), &signers, now)?;
        write(&writer, &signers, &steps)?;
        steps
    };
    steps.iter().try_for_each(|step| say(arguments, step))
}

fn say(arguments: &Arguments, step: &Step) -> anyhow::Result<()> {
    let Step { source, comment: TrustedComment { name, serial, expires, .. }, is_latest } = step;
    if !is_latest && !arguments.dry_run {
        say_waiting(&arguments.site.join(site::list(name, source.arch, *serial)));
    }
    let (from, arch, from_serial) = (&arguments.from, source.arch, source.serial);
    let (entries, bytes) = (source.list.entries().len(), source.list.total_size());
    output::line(format_args!(
        "bundle={name} arch={arch} serial={serial} from={from} from_serial={from_serial} entries={entries} \
         bytes={bytes} expires={expires}"
    ))
}

/// All that is to be signed, checked; nothing is written.
fn steps(arguments: &Arguments, site: &Site, signers: &Signers, now: Timestamp) -> anyhow::Result<Vec<Step>> {
    let own = signers.public().map(|key| (key, "--key".to_owned()));
    let trusted = Trusted::read(&arguments.trust)?.and(own);
    // Else one leaked key would do: what it alone has signed would get the signatures of all others here.
    let threshold = arguments.threshold.unwrap_or(signers.count());
    let expires = arguments.expires.from(now)?;
    let sources = archs(arguments, site)?;
    let step = |(arch, serial)| {
        let source = source(arguments, site, (&trusted, threshold), (arch, serial), now)?;
        let before = signers_before(site, &arguments.channel, arch)?;
        // A channel that is new here has images, too: those ask for as many as what was tried.
        let tried = site.count_signers(&site::list(&arguments.from, arch, serial))?;
        let is_latest = signers.are_enough(arguments.threshold, (before, PRESENT))?;
        signers.are_enough(arguments.threshold, (tried, &format!("bundle {}", arguments.from)))?;
        let comment = TrustedComment {
            kind: Kind::List,
            name: arguments.channel.clone(),
            arch: ArchField::One(arch),
            serial: next_serial(site, &arguments.channel, &source, now)?,
            created: now,
            expires,
        };
        Ok(Step { source, comment, is_latest })
    };
    sources.into_iter().map(step).collect()
}

/// Which architectures to take, each with its serial.
fn archs(arguments: &Arguments, site: &Site) -> anyhow::Result<Vec<(Arch, u64)>> {
    let Arguments { from, channel, .. } = arguments;
    let asked_for = if arguments.archs.is_empty() { &Arch::ALL[..] } else { &arguments.archs };
    let mut found = Vec::new();
    let mut there = BTreeSet::new();
    for arch in Arch::ALL.into_iter().filter(|arch| asked_for.contains(arch)) {
        let serials = serials(site, from, arch)?;
        let has_serial = |serial: &u64| serials.contains(serial);
        let serial = match arguments.serial {
            Some(serial) => Some(serial).filter(has_serial),
            None => site.latest(&site::bundle_latest(from, arch))?,
        };
        match serial {
            Some(serial) => found.push((arch, serial)),
            None if !arguments.archs.is_empty() => bail!("{}", missing(arguments, Some(arch), &serials)),
            None if site.place(&site::bundle_latest(channel, arch)).exists() => {
                log::warn!("bundle {channel} for {arch} stays as it is: {from} is not there for it");
            }
            None => {}
        }
        there.extend(serials);
    }
    ensure!(!found.is_empty(), missing(arguments, None, &there));
    Ok(found)
}

/// The lists of a bundle, whether nodes get them or not.
pub(crate) fn serials(site: &Site, name: &Name, arch: Arch) -> anyhow::Result<BTreeSet<u64>> {
    let names = site.names(&site::bundle_folder(name, arch))?;
    Ok(names.iter().filter_map(|file| site::parse_latest(file.strip_suffix(".mtree")?.as_bytes())).collect())
}

/// Why there is nothing to take, with what there is instead.
fn missing(arguments: &Arguments, arch: Option<Arch>, there: &BTreeSet<u64>) -> String {
    let from = &arguments.from;
    let arch = arch.map(|arch| format!(" for {arch}")).unwrap_or_default();
    let serials: Vec<String> = there.iter().rev().map(u64::to_string).collect();
    match (arguments.serial, serials.is_empty()) {
        (_, true) => format!("bundle {from} is not on the site{arch}"),
        (Some(serial), _) => {
            format!("bundle {from} has no list {serial}{arch}; there are: {}", first_of(&serials, ", "))
        }
        (None, _) => format!(
            "bundle {from}{arch} waits for signatures, and nodes get none of it; --serial takes one of: {}",
            first_of(&serials, ", ")
        ),
    }
}

/// Reads a list as a node would, by the keys that are trusted here.
fn source(
    arguments: &Arguments,
    site: &Site,
    (trusted, threshold): (&Trusted, usize),
    (arch, serial): (Arch, u64),
    now: Timestamp,
) -> anyhow::Result<Source> {
    let from = &arguments.from;
    let path = site::list(from, arch, serial);
    let bytes = site.read(&path)?.with_context(|| format!("{path} is missing on the site"))?;
    let comment = trusted.accept(&site.place(&path), &bytes, threshold)?;
    let (kind, name) = (Kind::List, from.clone());
    Place { site: PathBuf::new(), kind, name, arch: ArchField::One(arch), serial }.check(&comment)?;
    comment.check_time(now).with_context(|| format!("checking {path}"))?;
    let list = List::parse(&bytes).with_context(|| format!("reading {path}"))?;
    check_blobs(site, &list).with_context(|| format!("checking the blobs of {path}"))?;
    let packed = site.read(&site::packed(from, arch, serial))?;
    let packed = packed.filter(|text| Packed::parse(text).is_ok());
    Ok(Source { arch, serial, bytes, list, packed })
}

/// That all are there, in their lengths: their content is for `zstrap verify --site`.
pub(crate) fn check_blobs(site: &Site, list: &List) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for entry in list.entries() {
        let EntryKind::File(content) = &entry.kind else { continue };
        let place = site.place(&site::blob(&content.sha256));
        let is_there =
            place.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == content.size);
        // Nodes ask for no empty file.
        if !is_there && content.size > 0 {
            missing.push(entry.display_path());
        }
    }
    ensure!(missing.is_empty(), "missing or of another length: {}", first_of(&missing, ", "));
    Ok(())
}

fn signers_before(site: &Site, channel: &Name, arch: Arch) -> anyhow::Result<usize> {
    match site.latest(&site::bundle_latest(channel, arch))? {
        Some(serial) => site.count_signers(&site::list(channel, arch, serial)),
        None => Ok(0),
    }
}

/// Above all of the channel, and above that of the source: a config's `min_serial` knows of no names.
fn next_serial(site: &Site, channel: &Name, source: &Source, now: Timestamp) -> anyhow::Result<u64> {
    let next = site.next_serial(&site::bundle_folder(channel, source.arch), now.unix())?;
    let above = source.serial.checked_add(1).context("the source has the highest serial there can be")?;
    Ok(next.max(above))
}

/// Hints, lists, signatures, and then the steps that nodes see.
fn write(writer: &Writer, signers: &Signers, steps: &[Step]) -> anyhow::Result<()> {
    for Step { source, comment, .. } in steps {
        let (name, arch, serial) = (&comment.name, source.arch, comment.serial);
        if let Some(packed) = &source.packed {
            writer.write(&site::packed(name, arch, serial), packed)?;
        }
        let path = site::list(name, arch, serial);
        writer.write(&path, &source.bytes)?;
        for (path, signature) in signers.sign(&path, &source.bytes, comment) {
            writer.write(&path, signature.as_bytes())?;
        }
    }
    for Step { source, comment, .. } in steps.iter().filter(|step| step.is_latest) {
        let latest = site::bundle_latest(&comment.name, source.arch);
        writer.write(&latest, format!("{}\n", comment.serial).as_bytes())?;
    }
    Ok(())
}
