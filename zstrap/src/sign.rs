//! `zstrap sign`: one more signature beside those of a list or config.
//!
//! In: a list or config on (a copy of) a site, one secret key, the public keys of those who have signed it. Out: a
//! signature over the byte-identical trusted comment; once enough keys have signed, nodes get it: `latest`, and for
//! configs what stands by hash. Failure: what is there does not verify, is about something else, has expired, or the
//! signers disagree, or nodes would get a list without its files; then nothing is written. No signature of anyone is ever replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use zstrap_formats::config::Config;
use zstrap_formats::digest::ContentDigest;
use zstrap_formats::key::SecretKey;
use zstrap_formats::list::List;
use zstrap_formats::signature::{Kind, Signature, TrustedComment};
use zstrap_formats::site::signature_by;
use zstrap_formats::time::Timestamp;

use crate::clock;
use crate::config;
use crate::output;
use crate::place::Place;
use crate::promote::check_blobs;
use crate::signatures::{Beside, Stand, Trusted, beside};
use crate::signers::{parse_threshold, read_secret};
use crate::site::{Site, Writer};

/// Written out: clap would make one line of it, whatever its length.
const USAGE: &str = "\
zstrap sign <FILE>... --key <FILE> --trust <PUB>
                   [--threshold <N>] [--dry-run]";

/// Arguments of `zstrap sign`.
#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
pub struct Arguments {
    /// Lists and configs where they stand on a site, or a copy of it:
    /// SITE/bundles/NAME/ARCH/SERIAL.mtree, SITE/configs/NAME/SERIAL.json
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The key to sign with
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// A public key of another signer, whose signature is there; repeatable
    #[arg(long, value_name = "PUB", required = true)]
    pub trust: Vec<PathBuf>,
    /// Lets nodes get it (writes `latest`) once so many keys have signed
    #[arg(long, value_name = "N", value_parser = parse_threshold)]
    pub threshold: Option<usize>,
    /// Checks all and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Who signs, together with whom.
struct Signer {
    secret: SecretKey,
    trusted: Trusted,
    threshold: Option<usize>,
}

/// A file that may be signed: all that is there has been verified.
struct Ready {
    place: Place,
    comment: TrustedComment,
    /// The signature files to add, by path below the site.
    add: Vec<(String, String)>,
    /// How many of the trusted keys have signed it then.
    signers: usize,
}

/// Runs the command. All files are checked before the first is signed.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let signer = Signer::read(arguments)?;
    let now = clock::now()?;
    let ready: Vec<Ready> =
        arguments.files.iter().map(|file| signer.check(file, now)).collect::<anyhow::Result<_>>()?;
    for ready in &ready {
        let TrustedComment { kind, name, arch, serial, expires, .. } = &ready.comment;
        let signers = ready.signers;
        let is_latest = !arguments.dry_run && signer.write(ready)?;
        let latest = if is_latest { "yes" } else { "no" };
        output::line(format_args!(
            "kind={kind} name={name} arch={arch} serial={serial} expires={expires} signers={signers} latest={latest}"
        ))?;
    }
    Ok(())
}

impl Signer {
    fn read(arguments: &Arguments) -> anyhow::Result<Self> {
        let secret = read_secret(&arguments.key)?;
        let own = (secret.public(), arguments.key.display().to_string());
        let trusted = Trusted::read(&arguments.trust)?.and([own]);
        Ok(Signer { secret, trusted, threshold: arguments.threshold })
    }

    fn check(&self, file: &Path, now: Timestamp) -> anyhow::Result<Ready> {
        let place = Place::of(file)?;
        let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let found = beside(file)?;
        let (text, _) = self.trusted.common_comment(file, &bytes, &found)?;
        let comment: TrustedComment = text.parse()?;
        place.check(&comment)?;
        comment.check_time(now).with_context(|| format!("checking {}", file.display()))?;
        check_content(&place, &bytes).with_context(|| format!("checking {}", file.display()))?;
        let add = self.lacking(&place, self.secret.sign(&bytes, &text), &found);
        let signers = self.signers_with_own(&bytes, &found);
        if self.releases(signers) {
            check_whole(&place, &bytes)?;
        }
        Ok(Ready { place, comment, add, signers })
    }

    /// Our signature, and copies of those that stand in `FILE.minisig` alone: where more than one key must sign, nodes
    /// ask for each by its id.
    fn lacking(&self, place: &Place, own: Signature, found: &[Beside]) -> Vec<(String, String)> {
        let mut lacking = BTreeMap::new();
        for signature in found.iter().map(|beside| &beside.signature).chain([&own]) {
            let path = signature_by(&place.path(), signature.key_id());
            let is_there = |beside: &Beside| {
                beside.path.file_name() == Path::new(&path).file_name()
                    && beside.signature.key_id() == signature.key_id()
            };
            if !found.iter().any(is_there) {
                lacking.insert(path, signature.to_file());
            }
        }
        lacking.into_iter().collect()
    }

    fn signers_with_own(&self, bytes: &[u8], found: &[Beside]) -> usize {
        let own = self.secret.public();
        let stands = self.trusted.stands(bytes, found);
        stands.iter().filter(|(name, stand)| *name.key == own || matches!(stand, Stand::Signed(_))).count()
    }

    /// Returns whether nodes get it now.
    fn write(&self, ready: &Ready) -> anyhow::Result<bool> {
        let writer = Writer::lock(&ready.place.site)?;
        for (path, signature) in &ready.add {
            writer.write_new(path, signature.as_bytes())?;
        }
        if self.releases(ready.signers) { release(&writer, &ready.place) } else { Ok(false) }
    }

    /// Whether what so many have signed is for nodes to get.
    fn releases(&self, signers: usize) -> bool {
        self.threshold.is_some_and(|threshold| signers >= threshold)
    }
}

/// Nobody signs what nodes would refuse.
fn check_content(place: &Place, bytes: &[u8]) -> anyhow::Result<()> {
    if place.kind == Kind::List {
        List::parse(bytes)?;
        return Ok(());
    }
    Config::parse_strict(bytes)?;
    let sha256 = ContentDigest::of(bytes).sha256;
    config::signer_by_hash(&Site::open(&place.site)?, &sha256, &place.name).map(drop)
}

/// Nodes are not led to a list whose files are not on this site: a signer's copy of it may have no blobs.
fn check_whole(place: &Place, bytes: &[u8]) -> anyhow::Result<()> {
    if place.kind != Kind::List {
        return Ok(());
    }
    check_blobs(&Site::open(&place.site)?, &List::parse(bytes)?).with_context(|| {
        let path = place.path();
        format!(
            "checking the blobs of {path} (without --threshold, it is signed and nodes do not get it yet)"
        )
    })
}

/// The one step that nodes see, unless they see a newer one already.
fn release(writer: &Writer, place: &Place) -> anyhow::Result<bool> {
    let latest = writer.site().latest(&place.latest())?;
    if let Some(newer) = latest.filter(|latest| *latest > place.serial) {
        log::warn!("{} stays at serial {newer}, which is newer than {}", place.latest(), place.serial);
        return Ok(false);
    }
    match place.kind {
        Kind::Config => config::release(writer, &place.name, place.serial)?,
        _ => writer.write(&place.latest(), format!("{}\n", place.serial).as_bytes())?,
    }
    Ok(true)
}
