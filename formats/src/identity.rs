//! The identity: what an image carries for one user, as the JSON payload of a slot.
//!
//! In: JSON from a slot, or the fields. Out: an [`Identity`] whose keys, servers and labels are checked. Trust
//! comes from here alone, so unknown fields are refused: an init must not skip a restriction it does not know.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::LogLevel;
use crate::digest::{Md5, Sha256};
use crate::key::{KeyError, PublicKey};
use crate::name::{Label, Name};
use crate::network::{Network, NetworkError};
use crate::signature::{Keyring, KeyringError};
use crate::time::{TimeError, Timestamp};
use crate::url::{Scheme, Url, UrlError};

/// The version this crate reads and writes.
pub const VERSION: u32 = 1;
/// More servers than anyone waits for.
const MAX_SERVERS: usize = 16;
/// The most keys that an image trusts.
pub const MAX_KEYS: usize = 16;

/// Why an identity is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Not JSON, or a field of another type, missing, repeated or unknown.
    #[error("identity: {0}")]
    Json(String),
    /// Of another version.
    #[error("identity has version {0}, expected {VERSION}")]
    Version(u32),
    /// None, or too many.
    #[error("identity names {0} servers, expected 1 to {MAX_SERVERS}")]
    Servers(usize),
    /// None, or too many.
    #[error("identity names {0} keys, expected 1 to {MAX_KEYS}")]
    Keys(usize),
    /// A pin by one hash only.
    #[error("identity pins its config by one hash, expected md5 and sha256 or neither")]
    HalfPin,
    /// A certificate that is none, or a section of PEM that is another thing: an identity is public.
    #[error("identity field ca: expected PEM certificates and nothing else")]
    Ca,
    /// A proxy that is not spoken to over HTTP.
    #[error("identity field proxy: expected an http URL")]
    Proxy,
    /// A server, or the proxy.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Keys and threshold together.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The build time.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// The network settings.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Which clock a node believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The hardware clock, within its window.
    #[default]
    Hardware,
    /// Network time, never below the build time.
    Network,
}

impl FromStr for Clock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Hardware, Self::Network]
            .into_iter()
            .find(|clock| clock.to_string() == text)
            .ok_or_else(|| format!("clock {text:?} is neither hardware nor network"))
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware",
            Self::Network => "network",
        })
    }
}

/// Which config an image boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChoice {
    /// Its name.
    pub name: Name,
    /// Exactly this content, if pinned.
    pub pin: Option<Pin>,
}

/// The hashes of one exact config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The additional check of the specification.
    pub md5: Md5,
    /// The one that counts.
    pub sha256: Sha256,
}

/// A checked identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// When the image was built: no clock of its node can be earlier.
    pub build_time: Timestamp,
    /// Bootstrap servers in order of preference.
    pub servers: Vec<Url>,
    /// Trusted keys and how many must sign.
    pub keyring: Keyring,
    /// Which config.
    pub config: ConfigChoice,
    /// Which of that config's bundles, if not its first.
    pub bundle: Option<Name>,
    /// Whose farm.
    pub farmer_id: Label,
    /// Which pool of machines in it.
    pub farming_pool_id: Label,
    /// Certificates (PEM) that servers must chain to, instead of the public ones.
    pub ca: Option<String>,
    /// HTTP proxy.
    pub proxy: Option<Url>,
    /// How to configure the network.
    pub network: Network,
    /// Which clock to believe.
    pub clock: Clock,
    /// How much the init says, until the config says otherwise.
    pub log: Option<LogLevel>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdentity {
    version: u32,
    build_time: String,
    servers: Vec<String>,
    keys: Vec<String>,
    threshold: usize,
    config: RawChoice,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<Name>,
    farmer_id: Label,
    farming_pool_id: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(default)]
    clock: Clock,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChoice {
    name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    md5: Option<Md5>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
}

impl Identity {
    /// Reads the payload of a slot.
    ///
    /// # Errors
    /// [`IdentityError`] naming the field.
    pub fn parse(json: &[u8]) -> Result<Self, IdentityError> {
        let text_of = |e: serde_json::Error| IdentityError::Json(e.to_string());
        // The version first: a later one may have other fields, and the version is the better reason.
        let version: VersionOnly = serde_json::from_slice(json).map_err(text_of)?;
        if version.version != VERSION {
            return Err(IdentityError::Version(version.version));
        }
        let raw: RawIdentity = serde_json::from_slice(json).map_err(text_of)?;
        Self::try_from(raw)
    }

    /// The payload for a slot: the same identity always gives the same bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        let raw = RawIdentity {
            version: VERSION,
            build_time: self.build_time.to_string(),
            servers: self.servers.iter().map(Url::to_string).collect(),
            keys: self.keyring.keys().iter().map(PublicKey::to_base64).collect(),
            threshold: self.keyring.threshold(),
            config: RawChoice {
                name: self.config.name.clone(),
                md5: self.config.pin.map(|pin| pin.md5),
                sha256: self.config.pin.map(|pin| pin.sha256),
            },
            bundle: self.bundle.clone(),
            farmer_id: self.farmer_id.clone(),
            farming_pool_id: self.farming_pool_id.clone(),
            ca: self.ca.clone(),
            proxy: self.proxy.as_ref().map(Url::to_string),
            network: Some(self.network.to_string()),
            clock: self.clock,
            log: self.log.map(|level| level.as_str().to_owned()),
        };
        serde_json::to_string_pretty(&raw).expect("strings and numbers always serialize")
    }
}

impl TryFrom<RawIdentity> for Identity {
    type Error = IdentityError;

    fn try_from(raw: RawIdentity) -> Result<Self, IdentityError> {
        if !(1..=MAX_SERVERS).contains(&raw.servers.len()) {
            return Err(IdentityError::Servers(raw.servers.len()));
        }
        if !(1..=MAX_KEYS).contains(&raw.keys.len()) {
            return Err(IdentityError::Keys(raw.keys.len()));
        }
        let pin = match (raw.config.md5, raw.config.sha256) {
            (Some(md5), Some(sha256)) => Some(Pin { md5, sha256 }),
            (None, None) => None,
            _ => return Err(IdentityError::HalfPin),
        };
        let keys = raw.keys.iter().map(|key| PublicKey::parse(key)).collect::<Result<_, _>>()?;
        let log = raw.log.map(|text| text.parse()).transpose().map_err(IdentityError::Json)?;
        Ok(Self {
            build_time: raw.build_time.parse()?,
            servers: raw.servers.iter().map(|url| url.parse()).collect::<Result<_, _>>()?,
            keyring: Keyring::new(keys, raw.threshold)?,
            config: ConfigChoice { name: raw.config.name, pin },
            bundle: raw.bundle,
            farmer_id: raw.farmer_id,
            farming_pool_id: raw.farming_pool_id,
            ca: raw.ca.map(check_ca).transpose()?,
            proxy: raw.proxy.as_deref().map(check_proxy).transpose()?,
            network: raw.network.as_deref().map_or(Ok(Network::default()), str::parse)?,
            clock: raw.clock,
            log,
        })
    }
}

/// The certificates themselves are read by the TLS library; here only their frame is checked.
fn check_ca(pem: String) -> Result<String, IdentityError> {
    let begin = pem.matches("-----BEGIN ").count();
    let certificates = pem.matches("-----BEGIN CERTIFICATE-----").count();
    let end = pem.matches("-----END CERTIFICATE-----").count();
    if begin == 0 || [certificates, end] != [begin; 2] { Err(IdentityError::Ca) } else { Ok(pem) }
}

fn check_proxy(text: &str) -> Result<Url, IdentityError> {
    let url: Url = text.parse()?;
    if url.scheme() == Scheme::Http { Ok(url) } else { Err(IdentityError::Proxy) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::digest;
    use crate::key::SecretKey;
    use serde_json::{Value, json};

    fn sample() -> Value {
        json!({
            "version": 1, "build_time": "2026-11-20T08:00:00Z", "servers": ["http://10.0.2.2:8080"],
            "keys": [SecretKey::from_seed([1; 32], [1; 8]).public().to_base64()], "threshold": 1,
            "config": {"name": "demo"}, "farmer_id": "farm-1", "farming_pool_id": "pool-1"
        })
    }

    fn with(key: &str, value: Value) -> Result<Identity, IdentityError> {
        let mut identity = sample();
        identity[key] = value;
        Identity::parse(identity.to_string().as_bytes())
    }

    #[test]
    fn survives_its_json() {
        let (md5, sha256) = (digest::md5(b"x"), digest::sha256(b"x"));
        let identity = with("config", json!({"name": "demo", "md5": md5, "sha256": sha256})).unwrap();
        let again = Identity::parse(identity.to_json().as_bytes()).unwrap();
        assert_eq!(again.to_json(), identity.to_json());
        assert_eq!(again.config.pin, Some(Pin { md5, sha256 }));
        assert_eq!(again.bundle, None);
        let other = with("bundle", json!("zos-dev")).unwrap();
        assert_eq!(
            Identity::parse(other.to_json().as_bytes()).unwrap().bundle,
            Some("zos-dev".parse().unwrap())
        );
        assert_eq!((again.network, again.clock, again.log), (Network::default(), Clock::Hardware, None));
    }

    #[test]
    fn clocks_have_one_word_in_json_and_elsewhere() {
        for clock in [Clock::Hardware, Clock::Network] {
            assert_eq!(clock.to_string().parse(), Ok(clock));
            assert_eq!(json!(clock), json!(clock.to_string()));
        }
        assert!("sundial".parse::<Clock>().is_err());
    }

    #[test]
    fn refuses_half_a_pin() {
        let half = json!({"name": "demo", "md5": digest::md5(b"x")});
        assert_eq!(with("config", half).unwrap_err(), IdentityError::HalfPin);
    }

    #[test]
    fn refuses_identities_without_trust_or_servers() {
        assert_eq!(with("keys", json!([])).unwrap_err(), IdentityError::Keys(0));
        assert_eq!(with("servers", json!([])).unwrap_err(), IdentityError::Servers(0));
        assert!(matches!(with("threshold", json!(2)), Err(IdentityError::Keyring(_))));
        assert!(matches!(with("threshold", json!(0)), Err(IdentityError::Keyring(_))));
        assert!(matches!(with("keys", json!(["x"])), Err(IdentityError::Key(_))));
    }

    #[test]
    fn a_later_version_is_named_before_its_new_fields() {
        let mut later = sample();
        later["version"] = json!(2);
        later["mirror"] = json!("x");
        assert_eq!(Identity::parse(later.to_string().as_bytes()).unwrap_err(), IdentityError::Version(2));
    }

    #[test]
    fn refuses_unknown_fields_and_other_versions() {
        assert!(matches!(with("extra", json!(1)), Err(IdentityError::Json(_))));
        assert!(matches!(with("farmer_id", json!("a b")), Err(IdentityError::Json(_))));
        assert!(matches!(with("bundle", json!("../x")), Err(IdentityError::Json(_))));
        assert!(matches!(with("log", json!("loud")), Err(IdentityError::Json(_))));
        assert_eq!(with("version", json!(2)).unwrap_err(), IdentityError::Version(2));
        assert!(matches!(with("network", json!("static")), Err(IdentityError::Network(_))));
        assert!(matches!(with("servers", json!(["ftp://x"])), Err(IdentityError::Url(_))));
        assert!(matches!(with("build_time", json!("now")), Err(IdentityError::Time(_))));
        assert_eq!(with("ca", json!("x")).unwrap_err(), IdentityError::Ca);
        let section = |label| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let (certificate, key) = (section("CERTIFICATE"), section("PRIVATE KEY"));
        assert!(with("ca", json!(certificate.repeat(2))).is_ok());
        assert_eq!(with("ca", json!(key + &certificate)).unwrap_err(), IdentityError::Ca);
        assert_eq!(with("proxy", json!("https://p")).unwrap_err(), IdentityError::Proxy);
    }
}
