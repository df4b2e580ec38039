//! Fifth stage: what the bundle consists of.
//!
//! In: servers, the identity, the bundle's name. Out: a [`VerifiedList`]: signed by enough keys, for this bundle
//! and this architecture, not expired, and without a path that leads anywhere else. Only this module makes one,
//! and without one nothing is fetched.

use std::time::Instant;

use zstrap_formats::identity::Identity;
use zstrap_formats::list::{List, ListError, MAX_LIST, Problem};
use zstrap_formats::name::Arch;
use zstrap_formats::signature::{ArchField, Kind, Subject};
use zstrap_formats::site;

use crate::config::NodeConfig;
use crate::console::status;
use crate::fail::{Code, Refusal};
use crate::http::Source;
use crate::servers::Servers;
use crate::signed::{self, Request, Signed, Terms};

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not come, or is not signed for this.
    #[error(transparent)]
    Signed(#[from] signed::Error),
    /// Signed, but breaks a rule of lists.
    #[error("list of {bundle}")]
    List {
        /// Which bundle.
        bundle: String,
        /// Which rule.
        source: ListError,
    },
    /// Older than the config allows.
    #[error("list has serial {found}, the config asks for at least {least}")]
    TooOld {
        /// In the comment.
        found: u64,
        /// In the config.
        least: u64,
    },
    /// A set-user-ID file that the config does not allow.
    #[error("{0} has a set-user-ID or set-group-ID bit, and the config does not say allow_setuid")]
    Setuid(String),
    /// Built for a processor that zstrap has no bundles for.
    #[error("no bundles exist for the architecture of this init")]
    Arch,
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::Signed(error) if error.is_about_latest() => Code::BundleMissing,
            Self::Signed(error) => error.code(),
            Self::List {
                source: ListError { problem: Problem::Path { .. } | Problem::Parent { .. }, .. },
                ..
            } => Code::BadPath,
            Self::List { .. } => Code::ListSyntax,
            Self::TooOld { .. } => Code::TooOld,
            Self::Setuid(_) => Code::Setuid,
            Self::Arch => Code::OtherArch,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Signed(error) => error.advice(),
            _ => None,
        }
    }
}

/// A list that may be fetched and run.
#[derive(Debug)]
pub struct VerifiedList {
    list: List,
    serial: u64,
    packed: String,
    signed: Option<Signed>,
}

impl VerifiedList {
    /// Its entries.
    #[must_use]
    pub fn list(&self) -> &List {
        &self.list
    }

    /// The serial it was signed with.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The path of the hint that says which of its blobs stand on the site compressed, too.
    #[must_use]
    pub fn packed(&self) -> &str {
        &self.packed
    }

    /// The file that it was read from, to keep it; none where the config has no disk to keep it on.
    #[must_use]
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }
}

/// Gets and checks the list of the config's bundle.
///
/// # Errors
/// [`Error`].
pub fn obtain(
    servers: &Servers,
    identity: &Identity,
    config: &NodeConfig,
    terms: Terms<'_>,
) -> Result<VerifiedList, Error> {
    let started = Instant::now();
    let arch = Arch::native().ok_or(Error::Arch)?;
    let bundle = config.bundle();
    let signed = servers.ask(|source| newest(source, identity, config, arch, terms))?;
    let serial = signed.comment.serial;
    let list =
        List::parse(&signed.bytes).map_err(|source| Error::List { bundle: bundle.to_string(), source })?;
    check_setuid(&list, config.fields().allow_setuid)?;
    status::fact("bundle", format!("{bundle}   serial {serial}"));
    log::info!(
        target: "list",
        "ok bundle={bundle} arch={arch} serial={serial} entries={} bytes={} after={:.3}s",
        list.entries().len(),
        list.total_size(),
        started.elapsed().as_secs_f64(),
    );
    // As text, a list may take as much memory as all that is read from it.
    let signed = (config.fields().root.size > 0).then_some(signed);
    Ok(VerifiedList { list, serial, packed: site::packed(bundle, arch, serial), signed })
}

/// The signed list that one server calls the newest; a server whose newest is too old is left for another.
fn newest(
    source: &dyn Source,
    identity: &Identity,
    config: &NodeConfig,
    arch: Arch,
    terms: Terms<'_>,
) -> Result<Signed, Error> {
    let bundle = config.bundle();
    let serial = signed::latest(source, &site::bundle_latest(bundle, arch))?;
    let subject = Subject { kind: Kind::List, name: bundle, arch: ArchField::One(arch) };
    let request = Request { path: site::list(bundle, arch, serial), limit: MAX_LIST, subject, terms };
    let bytes = request.bytes_unverified(source)?;
    let signed = request.verify(source, identity, bytes)?;
    signed::check_serial(&signed.comment, serial)?;
    terms.check_newest(&signed)?;
    let least = config.fields().min_serial;
    if serial < least { Err(Error::TooOld { found: serial, least }) } else { Ok(signed) }
}

fn check_setuid(list: &List, allowed: bool) -> Result<(), Error> {
    match list.entries().iter().find(|entry| entry.is_setuid()) {
        Some(entry) if !allowed => Err(Error::Setuid(entry.display_path())),
        _ => Ok(()),
    }
}
