//! Fourth stage: what this node is to become.
//!
//! In: servers and the identity's choice of config. Out: a [`NodeConfig`], signed by the identity's keys and, if
//! the image pins it, exactly the pinned bytes. Only this module makes one.

use std::time::Instant;

use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::config::{self, Config, ConfigError};
use zstrap_formats::digest;
use zstrap_formats::identity::{Identity, Pin};
use zstrap_formats::name::Name;
use zstrap_formats::signature::{ArchField, Kind, Subject};
use zstrap_formats::site;

use crate::console::status;
use crate::fail::{Code, Refusal};
use crate::http::Source;
use crate::servers::Servers;
use crate::signed::{self, Request, Signed, Terms};

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not come, or is not signed for this.
    #[error(transparent)]
    Signed(#[from] signed::Error),
    /// Other bytes than those that the image pins, by SHA-256.
    #[error("config has SHA-256 {found}, the image pins {expected}")]
    Sha256Pin {
        /// In the slot.
        expected: digest::Sha256,
        /// Of the bytes.
        found: digest::Sha256,
    },
    /// Other bytes than those that the image pins, by MD5.
    #[error("config has MD5 {found}, the image pins {expected}")]
    Md5Pin {
        /// In the slot.
        expected: digest::Md5,
        /// Of the bytes.
        found: digest::Md5,
    },
    /// Not a config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel command line or the image asks for a bundle that the config does not list.
    #[error("{by} {asked} is not among the bundles of the config: {allowed}")]
    Bundle {
        /// Who asks.
        by: &'static str,
        /// On the command line or in the slot.
        asked: String,
        /// In the config.
        allowed: String,
    },
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::Signed(error) => error.code(),
            Self::Sha256Pin { .. } => Code::Sha256Pin,
            Self::Md5Pin { .. } => Code::Md5Pin,
            Self::Config(ConfigError::MustUnderstand(_)) => Code::MustUnderstand,
            Self::Config(_) => Code::ConfigSyntax,
            Self::Bundle { .. } => Code::WrongBundle,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Signed(error) => error.advice(),
            _ => None,
        }
    }
}

/// The config that this node follows.
#[derive(Debug)]
pub struct NodeConfig {
    config: Config,
    bundle: Name,
    signed: Signed,
}

impl NodeConfig {
    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> &Config {
        &self.config
    }

    /// The bundle to boot: the config's own, or the one of its others that was chosen.
    #[must_use]
    pub fn bundle(&self) -> &Name {
        &self.bundle
    }

    /// The serial it was signed with.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.signed.comment.serial
    }

    /// This one in place of a newer one that cannot be booted: what that does not allow any more, this does not, either.
    ///
    /// # Errors
    /// [`Error::Bundle`].
    pub fn within(mut self, newer: &Self) -> Result<Self, Error> {
        allowed_bundle(&newer.config, "the older config's", self.bundle.as_str())?;
        self.config.min_serial = self.config.min_serial.max(newer.config.min_serial);
        Ok(self)
    }

    /// The file that it was read from, to keep it.
    #[must_use]
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}

/// Gets and checks the config of the identity.
///
/// # Errors
/// [`Error`].
pub fn obtain(
    servers: &Servers,
    identity: &Identity,
    cmdline: &Cmdline,
    terms: Terms<'_>,
) -> Result<NodeConfig, Error> {
    let started = Instant::now();
    let signed = servers.ask(|source| match &identity.config.pin {
        Some(pin) => pinned(source, identity, pin, terms),
        None => newest(source, identity, terms),
    })?;
    let config = Config::parse_node(&signed.bytes)?;
    check_lateness(&config, &signed, identity, terms)?;
    status::described(&config.description);
    let bundle = chosen_bundle(&config, identity, cmdline)?;
    check_demands(&config)?;
    mention(&config);
    let (name, serial, after) =
        (&identity.config.name, signed.comment.serial, started.elapsed().as_secs_f64());
    log::info!(target: "config", "ok name={name} serial={serial} bundle={bundle} after={after:.3}s");
    Ok(NodeConfig { config, bundle, signed })
}

/// A config of the disk may be as late as it says itself.
fn check_lateness(
    config: &Config,
    signed: &Signed,
    identity: &Identity,
    terms: Terms<'_>,
) -> Result<(), signed::Error> {
    if terms.late == 0 {
        return Ok(());
    }
    let what = format!("{} {}", Kind::Config, identity.config.name);
    let refused = |source| signed::Error::Signature { what, source };
    signed::check_time(&signed.comment, terms.now.time, config.root.offline_grace).map_err(refused)
}

fn request<'a>(identity: &'a Identity, path: String, terms: Terms<'a>) -> Request<'a> {
    let subject = Subject { kind: Kind::Config, name: &identity.config.name, arch: ArchField::Any };
    Request { path, limit: config::MAX_CONFIG, subject, terms }
}

/// The very bytes that the image pins. Their signature counts as well: a pin narrows trust, it gives none.
fn pinned(source: &dyn Source, identity: &Identity, pin: &Pin, terms: Terms<'_>) -> Result<Signed, Error> {
    let request = request(identity, site::config_by_hash(&pin.sha256), terms);
    let bytes = request.bytes_unverified(source)?;
    let (sha256, md5) = (digest::sha256(&bytes), digest::md5(&bytes));
    if sha256 != pin.sha256 {
        return Err(Error::Sha256Pin { expected: pin.sha256, found: sha256 });
    }
    if md5 != pin.md5 {
        return Err(Error::Md5Pin { expected: pin.md5, found: md5 });
    }
    Ok(request.verify(source, identity, bytes)?)
}

fn newest(source: &dyn Source, identity: &Identity, terms: Terms<'_>) -> Result<Signed, Error> {
    let name = &identity.config.name;
    let serial = signed::latest(source, &site::config_latest(name))?;
    let request = request(identity, site::config(name, serial), terms);
    let bytes = request.bytes_unverified(source)?;
    let signed = request.verify(source, identity, bytes)?;
    signed::check_serial(&signed.comment, serial)?;
    terms.check_newest(&signed)?;
    Ok(signed)
}

/// Whoever stands before the machine wins over who made its image; neither goes beyond what the config lists.
fn chosen_bundle(config: &Config, identity: &Identity, cmdline: &Cmdline) -> Result<Name, Error> {
    let (by, asked) = match (cmdline.value("zstrap.bundle"), &identity.bundle) {
        (Some(asked), _) => ("zstrap.bundle", asked),
        (None, Some(asked)) => ("the image's bundle", asked.as_str()),
        (None, None) => return Ok(config.bundle.clone()),
    };
    allowed_bundle(config, by, asked)
}

fn allowed_bundle(config: &Config, by: &'static str, asked: &str) -> Result<Name, Error> {
    config.allowed_bundles().find(|name| name.as_str() == asked).cloned().ok_or_else(|| Error::Bundle {
        by,
        asked: asked.to_owned(),
        allowed: config.allowed_bundles().map(Name::as_str).collect::<Vec<_>>().join(" "),
    })
}

/// Fields that are checked, but that this version does not act on.
const NOT_ACTED_ON: [&str; 1] = ["report"];

/// A field that must be understood must also be acted on: to know its name is not enough.
fn check_demands(config: &Config) -> Result<(), Error> {
    let below = |demand: &str, field: &str| demand == field || demand.starts_with(&format!("{field}."));
    let idle = |demand: &&String| NOT_ACTED_ON.iter().any(|field| below(demand, field));
    let demands: Vec<&str> = config.must_understand.iter().filter(idle).map(String::as_str).collect();
    if demands.is_empty() { Ok(()) } else { Err(ConfigError::MustUnderstand(demands.join(", ")).into()) }
}

/// Says what stands in the config and is not acted on: an admin must not wait for what will not come.
fn mention(config: &Config) {
    if !config.unknown_fields.is_empty() {
        log::warn!(target: "config", "ignored fields={}", config.unknown_fields.join(","));
    }
    if config.report.is_some() {
        log::warn!(target: "config", "not acted on by this version field=report");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::{self, Site};

    fn obtain_with(site: &Site, identity: &Identity, line: &str) -> Result<NodeConfig, Error> {
        obtain(&fake::servers(site), identity, &Cmdline::parse(line.as_bytes()), fake::now().into())
    }

    fn reason(site: &Site, identity: &Identity, line: &str) -> &'static str {
        obtain_with(site, identity, line).unwrap_err().reason()
    }

    #[test]
    fn follows_the_newest_signed_config() {
        let (site, identity) = fake::site_with_config(fake::CONFIG);
        let config = obtain_with(&site, &identity, "").unwrap();
        assert_eq!((config.bundle().as_str(), config.serial()), ("demo", fake::SERIAL));
    }

    #[test]
    fn the_command_line_chooses_only_among_the_listed() {
        let json = r#"{"version":1,"bundle":"demo","bundles":["other"],"exec":["/init"]}"#;
        let (site, identity) = fake::site_with_config(json);
        assert_eq!(obtain_with(&site, &identity, "zstrap.bundle=other").unwrap().bundle().as_str(), "other");
        assert_eq!(reason(&site, &identity, "zstrap.bundle=third"), "wrong-bundle");
    }

    #[test]
    fn the_image_chooses_only_among_the_listed_and_the_command_line_wins() {
        let json = r#"{"version":1,"bundle":"demo","bundles":["other"],"exec":["/init"]}"#;
        let (site, mut identity) = fake::site_with_config(json);
        identity.bundle = Some("other".parse().unwrap());
        assert_eq!(obtain_with(&site, &identity, "").unwrap().bundle().as_str(), "other");
        assert_eq!(obtain_with(&site, &identity, "zstrap.bundle=demo").unwrap().bundle().as_str(), "demo");
        identity.bundle = Some("third".parse().unwrap());
        assert_eq!(reason(&site, &identity, ""), "wrong-bundle");
        // What the command line says is good, so nobody asks what the image says.
        assert_eq!(obtain_with(&site, &identity, "zstrap.bundle=demo").unwrap().bundle().as_str(), "demo");
    }

    #[test]
    fn a_pin_is_exact_in_both_hashes() {
        let (mut site, mut identity) = fake::site_with_config(fake::CONFIG);
        let pin = fake::pin(&mut site, &mut identity);
        assert!(obtain_with(&site, &identity, "").is_ok());
        identity.config.pin = Some(Pin { md5: digest::md5(b"other"), ..pin });
        assert_eq!(reason(&site, &identity, ""), "md5-pin");
        identity.config.pin = Some(pin);
        site.insert(&site::config_by_hash(&pin.sha256), b"{}");
        assert_eq!(reason(&site, &identity, ""), "sha256-pin");
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        let json = r#"{"version":1,"bundle":"demo","exec":["/init"],"x":1,"must_understand":["x"]}"#;
        let (site, identity) = fake::site_with_config(json);
        assert_eq!(reason(&site, &identity, ""), "must-understand");
        let json = r#"{"version":1,"bundle":"demo","exec":["/init"],"must_understand":["exec","report"]}"#;
        let (site, identity) = fake::site_with_config(json);
        assert_eq!(reason(&site, &identity, ""), "must-understand");
    }

    #[test]
    fn an_old_config_cannot_stand_under_a_new_serial() {
        let (mut site, identity) = fake::site_with_config(fake::CONFIG);
        let name = &identity.config.name;
        let (old, new) = (site::config(name, fake::SERIAL), site::config(name, fake::SERIAL + 1));
        site.copy(&old, &new);
        site.copy(&site::signature(&old), &site::signature(&new));
        site.insert(&site::config_latest(name), (fake::SERIAL + 1).to_string().as_bytes());
        assert_eq!(reason(&site, &identity, ""), "wrong-serial");
    }
}
