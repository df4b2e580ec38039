//! `zstrap config`: checks and publishes what tells a node what to become.
//!
//! In: a JSON file. Out: the config on the site, signed, by serial and by hash; then `latest`; then
//! `configs.json` for people. Failure: the file breaks a rule (an unknown field does, too), or its exact bytes
//! are published under another name.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use zstrap_formats::config::{Config, Mycelium};
use zstrap_formats::digest::{ContentDigest, Md5, Sha256};
use zstrap_formats::key::KeyId;
use zstrap_formats::name::{Arch, Name};
use zstrap_formats::signature::{ArchField, Kind, Signature, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use crate::clock::{self, Expiry};
use crate::output;
use crate::password;
use crate::promote;
use crate::publish::say_waiting;
use crate::signers::{PRESENT, Signers, parse_threshold};
use crate::site::{Site, Writer};

/// The folder under `configs/` that is no config.
pub(crate) const BY_HASH: &str = "by-hash";
const INDEX_VERSION: u32 = 1;

/// The commands about configs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks a config, strictly: unknown fields are errors
    Check(Check),
    /// Checks a config, signs it and publishes it
    Add(Add),
    /// Makes a passphrase for debug sessions, and its hash for a config
    HashPassword(password::Arguments),
}

/// Arguments of `zstrap config check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The config
    pub file: PathBuf,
}

/// Written out: clap would make one line of it, whatever its length.
const USAGE_ADD: &str = "zstrap config add <FILE> --site <SITE> --key <FILE> [OPTIONS]";

/// Arguments of `zstrap config add`.
#[derive(Debug, Args)]
#[command(override_usage = USAGE_ADD)]
pub struct Add {
    /// The config
    pub file: PathBuf,
    /// The site to publish to; it is made if it is not there
    #[arg(long, value_name = "SITE")]
    pub site: PathBuf,
    /// The key to sign with; more than one for images with a threshold
    #[arg(long = "key", value_name = "FILE", required = true)]
    pub keys: Vec<PathBuf>,
    /// How many keys must sign before nodes get it: with fewer, it waits, and
    /// `zstrap sign` adds the rest [default: the keys given are enough]
    #[arg(long, value_name = "N", value_parser = parse_threshold)]
    pub threshold: Option<usize>,
    /// Its name [default: the file's, without .json]
    #[arg(long)]
    pub name: Option<Name>,
    /// How long nodes accept it: 365d, or a time such as 2027-02-20T08:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "365d")]
    pub expires: Expiry,
}

/// What to publish, where, as what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The config's bytes.
    pub json: Vec<u8>,
    /// The site.
    pub site: PathBuf,
    /// The config's name.
    pub name: Name,
    /// Key files that sign.
    pub keys: Vec<PathBuf>,
    /// How many keys must sign before `latest` names the config; if nobody says, these are enough.
    pub threshold: Option<usize>,
    /// When the config ends to be accepted.
    pub expires: Expiry,
    /// The time it is done at.
    pub now: Timestamp,
}

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// The config's serial.
    pub serial: u64,
    /// When nodes stop accepting it.
    pub expires: Timestamp,
    /// Its MD5.
    pub md5: Md5,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Whether nodes get it; else it waits for more signatures.
    pub is_latest: bool,
}

/// Runs one of the commands.
///
/// # Errors
/// See the head of this file.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::HashPassword(arguments) => password::run(arguments),
        Command::Check(check) => {
            let digest = ContentDigest::of(&read_strict(&check.file)?);
            output::line(format_args!("md5={} sha256={}", digest.md5, digest.sha256))
        }
        Command::Add(arguments) => {
            let name = name_of(arguments)?;
            let options = Options {
                json: read_strict(&arguments.file)?,
                site: arguments.site.clone(),
                name: name.clone(),
                keys: arguments.keys.clone(),
                threshold: arguments.threshold,
                expires: arguments.expires,
                now: clock::now()?,
            };
            let Added { serial, expires, md5, sha256, is_latest } = add(&options)?;
            if !is_latest {
                say_waiting(&arguments.site.join(site::config(&name, serial)));
            }
            output::line(format_args!(
                "config={name} serial={serial} expires={expires} md5={md5} sha256={sha256}"
            ))
        }
    }
}

fn read_strict(path: &Path) -> anyhow::Result<Vec<u8>> {
    let json = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let config = Config::parse_strict(&json).with_context(|| format!("checking {}", path.display()))?;
    warn_of_lonely_debug(&config);
    Ok(json)
}

/// A session comes over the overlay network alone, and that may also be a service of the bundle, which nobody sees here.
fn warn_of_lonely_debug(config: &Config) {
    let Mycelium { peers, listen, interface } = &config.mycelium;
    if config.debug.is_some() && peers.is_empty() && listen.is_empty() {
        log::warn!(
            "debug is on, and mycelium names no peers and no address to listen at: unless the bundle makes the interface \
             {interface} itself, nobody can connect"
        );
    }
}

fn name_of(arguments: &Add) -> anyhow::Result<Name> {
    if let Some(name) = &arguments.name {
        return Ok(name.clone());
    }
    let stem = arguments.file.file_stem().unwrap_or_default().to_string_lossy();
    stem.parse().with_context(|| format!("naming {} by its file (--name)", arguments.file.display()))
}

/// Publishes a config.
///
/// # Errors
/// See the head of this file.
pub fn add(options: &Options) -> anyhow::Result<Added> {
    let Options { json, name, now, .. } = options;
    let config = Config::parse_strict(json)?;
    ensure!(name.as_str() != BY_HASH, "config name {BY_HASH} is taken by the site's layout");
    let signers = Signers::read(&options.keys)?;
    let expires = options.expires.from(*now)?;
    let digest = ContentDigest::of(json);
    let writer = Writer::lock(&options.site)?;
    let before = signers_before(writer.site(), name)?;
    let is_latest = signers.are_enough(options.threshold, (before, PRESENT))?;
    check_replaced(writer.site(), &digest.sha256, name, signers.first())?;
    warn_of_missing_bundles(writer.site(), &config);
    let serial = writer.site().next_serial(&site::config_folder(name), now.unix())?;
    let (arch, name) = (ArchField::Any, name.clone());
    let comment = TrustedComment { kind: Kind::Config, name, arch, serial, created: *now, expires };
    let path = site::config(&comment.name, serial);
    writer.write(&path, json)?;
    for (path, signature) in signers.sign(&path, json, &comment) {
        writer.write(&path, signature.as_bytes())?;
    }
    if is_latest {
        release(&writer, &comment.name, serial)?;
    }
    Ok(Added { serial, expires, md5: digest.md5, sha256: digest.sha256, is_latest })
}

/// How many keys have signed the present config of this name.
fn signers_before(site: &Site, name: &Name) -> anyhow::Result<usize> {
    match site.latest(&site::config_latest(name))? {
        Some(serial) => site.count_signers(&site::config(name, serial)),
        None => Ok(0),
    }
}

/// Lets nodes see the config of this serial, which stands there with its signatures. By hash first: an image that
/// pins it must find it once `latest` has made it known. A signature at a time: a run that is cut here leaves signatures
/// of two rounds, of which neither may be enough, until a config of these bytes is released again.
pub(crate) fn release(writer: &Writer, name: &Name, serial: u64) -> anyhow::Result<()> {
    let path = site::config(name, serial);
    let json = writer.site().read(&path)?.with_context(|| format!("{path} is missing on the site"))?;
    let by_hash = site::config_by_hash(&ContentDigest::of(&json).sha256);
    writer.write(&by_hash, &json)?;
    let endings = signature_endings(writer.site(), &path)?;
    for ending in &endings {
        let from = format!("{path}{ending}");
        let signature = writer.site().read(&from)?.with_context(|| format!("{from} has just gone"))?;
        writer.write(&format!("{by_hash}{ending}"), &signature)?;
    }
    // Of keys that do not sign now there may be others. They are over another comment, and count for nothing together
    // with those of today.
    for ending in signature_endings(writer.site(), &by_hash)? {
        if !endings.contains(&ending) {
            let key = ending.trim_start_matches('.').trim_end_matches(".minisig");
            log::warn!(
                "config {name} by its hash loses the signature of key {key}: images that pin it and count on {key} \
                 refuse it from now on"
            );
            writer.remove(&format!("{by_hash}{ending}"))?;
        }
    }
    writer.write(&site::config_latest(name), format!("{serial}\n").as_bytes())?;
    write_index(writer)
}

/// What stands behind the path of a config in the paths of its signatures.
fn signature_endings(site: &Site, path: &str) -> anyhow::Result<Vec<String>> {
    let (folder, file) = path.rsplit_once('/').expect("configs stand in a folder");
    let names = site.names(folder)?;
    let endings = names.iter().filter_map(|name| name.strip_prefix(file));
    Ok(endings.filter(|ending| ending.ends_with(".minisig")).map(str::to_owned).collect())
}

/// What stands by hash is replaced. Images that trust only who signed it before would no longer boot.
fn check_replaced(site: &Site, sha256: &Sha256, name: &Name, signer: KeyId) -> anyhow::Result<()> {
    let before = signer_by_hash(site, sha256, name)?;
    if let Some(before) = before.filter(|before| *before != signer) {
        log::warn!(
            "config {name} was signed by key {before}, now by {signer}: images that pin it and trust only \
             {before} refuse it from now on"
        );
    }
    Ok(())
}

/// Who signed what stands by hash. A signature there names one config: the same bytes under two names would have room
/// for one of them only.
pub(crate) fn signer_by_hash(site: &Site, sha256: &Sha256, name: &Name) -> anyhow::Result<Option<KeyId>> {
    let path = site::signature(&site::config_by_hash(sha256));
    let Some(text) = site.read(&path)? else { return Ok(None) };
    let signature = Signature::parse(&text).with_context(|| format!("reading {path}"))?;
    let comment: TrustedComment =
        signature.comment_unverified().parse().with_context(|| format!("reading {path}"))?;
    if comment.name != *name {
        let other = comment.name;
        bail!(
            "config {name} has the very bytes of config {other}: change its description to tell them apart"
        );
    }
    Ok(Some(signature.key_id()))
}

fn warn_of_missing_bundles(site: &Site, config: &Config) {
    for bundle in config.allowed_bundles() {
        let is_there = |arch: &Arch| site.place(&site::bundle_latest(bundle, *arch)).exists();
        let waits = |arch: &Arch| promote::serials(site, bundle, *arch).is_ok_and(|there| !there.is_empty());
        if Arch::ALL.iter().any(is_there) {
            continue;
        }
        match Arch::ALL.iter().any(waits) {
            true => log::warn!("bundle {bundle} waits for signatures: nodes get none of it yet"),
            false => log::warn!("bundle {bundle} is not published on this site yet"),
        }
    }
}

#[derive(Serialize)]
struct Index {
    version: u32,
    configs: Vec<IndexEntry>,
}

#[derive(Serialize)]
struct IndexEntry {
    name: String,
    description: String,
    bundle: String,
    serial: u64,
}

/// Names and descriptions for people and pages; nodes never read it.
fn write_index(writer: &Writer) -> anyhow::Result<()> {
    writer.write(site::CONFIGS_INDEX, index(writer.site())?.as_bytes())
}

/// What `configs.json` says of the configs that are there now.
pub(crate) fn index(site: &Site) -> anyhow::Result<String> {
    let mut configs = Vec::new();
    for name in names(site)? {
        match index_entry(site, &name) {
            Ok(entry) => configs.push(entry),
            Err(error) => log::warn!("config {name} is left out of {}: {error:#}", site::CONFIGS_INDEX),
        }
    }
    let index = Index { version: INDEX_VERSION, configs };
    Ok(serde_json::to_string_pretty(&index).expect("strings and numbers always serialize") + "\n")
}

fn index_entry(site: &Site, name: &Name) -> anyhow::Result<IndexEntry> {
    let (serial, json) = latest(site, name)?;
    let config = Config::parse_node(&json)?;
    let (name, bundle) = (name.to_string(), config.bundle.to_string());
    Ok(IndexEntry { name, description: config.description, bundle, serial })
}

/// The names of all configs that a site publishes, in order.
///
/// # Errors
/// The site cannot be read.
pub fn names(site: &Site) -> anyhow::Result<Vec<Name>> {
    let found = site.names("configs")?;
    let names = found.iter().filter(|name| *name != BY_HASH).filter_map(|name| name.parse::<Name>().ok());
    Ok(names.filter(|name| site.place(&site::config_latest(name)).exists()).collect())
}

/// The serial and the bytes of the present config of this name.
///
/// # Errors
/// It is not there, which names those that are; or it cannot be read.
pub fn latest(site: &Site, name: &Name) -> anyhow::Result<(u64, Vec<u8>)> {
    let Some(serial) = site.latest(&site::config_latest(name))? else {
        let names: Vec<String> = names(site)?.iter().map(Name::to_string).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        bail!("config {name} is not on the site, which has: {there}");
    };
    let path = site::config(name, serial);
    let json = site
        .read(&path)?
        .with_context(|| format!("config {name} names serial {serial}, but {path} is missing"))?;
    Ok((serial, json))
}
