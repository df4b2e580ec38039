//! The config: the JSON file that tells a node what to become.
//!
//! In: the bytes of a config file. Out: a [`Config`] whose every field is checked, whether this version acts on
//! it or not. People's tools read with [`Config::parse_strict`], where an unknown field is an error; nodes read
//! with [`Config::parse_node`], where it is an error only if the file says so in `must_understand`, so that old
//! images boot new configs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64ct::{Base64Unpadded, Encoding};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::name::Name;
use crate::time::{DAY, parse_span};
use crate::url::{HostPort, Scheme, Url};

/// The longest config in bytes.
pub const MAX_CONFIG: usize = 1024 * 1024;
/// The version this crate reads.
pub const VERSION: u64 = 1;

const MIB: u64 = 1024 * 1024;
/// The least room that a RAM root gets beyond its files, in bytes.
pub const MIN_HEADROOM: u64 = 64 * MIB;
const DEFAULT_HEADROOM_PERCENT: u64 = 25;
/// How long services may take to stop before a reboot, in seconds.
const DEFAULT_GRACE: u64 = 10;
const MAX_DESCRIPTION: usize = 500;
/// The longest time beyond its expiry that a list of the disk may boot, in seconds.
pub const MAX_OFFLINE_GRACE: u64 = 30 * DAY;
/// What the overlay interface is called.
const DEFAULT_INTERFACE: &str = "mycelium";
/// The longest name of an interface: what Linux takes.
const MAX_INTERFACE: usize = 15;

/// What a login may cost: less is guessed too fast, more is a way to stall a small node.
const ARGON2_KIB: RangeInclusive<u32> = 19_456..=65_536;
const ARGON2_PASSES: RangeInclusive<u32> = 1..=10;
const ARGON2_LANES: RangeInclusive<u32> = 1..=4;
const SALT_BYTES: RangeInclusive<usize> = 8..=48;
const HASH_BYTES: RangeInclusive<usize> = 12..=64;

/// Fields of each object of version 1, by its dotted name.
pub const KNOWN: [(&str, &[&str]); 5] = [
    (
        "",
        &[
            "version",
            "description",
            "bundle",
            "bundles",
            "root",
            "registrars",
            "mycelium",
            "debug",
            "exec",
            "supervise",
            "env",
            "log",
            "on_failure",
            "watchdog",
            "report",
            "grace",
            "min_serial",
            "allow_setuid",
            "must_understand",
        ],
    ),
    ("root", &["size", "headroom", "disk", "offline_grace"]),
    ("root.disk", &["serial", "wwn", "path", "size", "erase"]),
    ("mycelium", &["peers", "listen", "interface"]),
    ("debug", &["enabled", "allow", "password_hash"]),
];

/// Why a config is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Longer than [`MAX_CONFIG`].
    #[error("config has {0} bytes, expected at most {MAX_CONFIG}")]
    TooLong(usize),
    /// Not JSON, or a field of another type, missing or repeated.
    #[error("config: {0}")]
    Json(String),
    /// Of another version.
    #[error("config has version {0}, expected {VERSION}")]
    Version(u64),
    /// Fields that version 1 does not have.
    #[error("config has unknown fields: {0}")]
    Unknown(String),
    /// Fields that the config demands and this version does not know.
    #[error("config demands that these be understood, and they are not: {0}")]
    MustUnderstand(String),
    /// A value that breaks a rule.
    #[error("config field {field}: {problem}")]
    Field {
        /// Dotted name.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// A checked config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For people.
    pub description: String,
    /// The bundle to boot.
    pub bundle: Name,
    /// Others that may be chosen by name.
    pub bundles: Vec<Name>,
    /// Where the root stands.
    pub root: Root,
    /// Services at which a node registers.
    pub registrars: Vec<Url>,
    /// Overlay network.
    pub mycelium: Mycelium,
    /// Remote debugging; only present when enabled, and then never open to all.
    pub debug: Option<Debug>,
    /// The program that takes over, with its arguments.
    pub exec: Vec<String>,
    /// Whether the node program stays PID 1 above it.
    pub supervise: bool,
    /// Environment of that program.
    pub env: BTreeMap<String, String>,
    /// How much the init says.
    pub log: Option<LogLevel>,
    /// What a node does that gave up.
    pub on_failure: OnFailure,
    /// Seconds without life after which the hardware resets the node.
    pub watchdog: Option<u64>,
    /// Where a node tells how its boot went.
    pub report: Option<Url>,
    /// Seconds that services get to stop.
    pub grace: u64,
    /// Lists with a lower serial are refused.
    pub min_serial: u64,
    /// Whether a list may name set-user-ID files.
    pub allow_setuid: bool,
    /// Fields that a node must know.
    pub must_understand: Vec<String>,
    /// Fields that this version does not know, by dotted name.
    pub unknown_fields: Vec<String>,
}

/// Where the root stands and how big it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Bytes of the disk partition; 0 for a root in RAM.
    pub size: u64,
    /// Room beyond the files in a RAM root.
    pub headroom: Headroom,
    /// The one disk that may be used; absent is [`DiskSelector::Auto`].
    pub disk: Option<Disk>,
    /// Seconds beyond its expiry that a list or config of the disk may boot when no server is reachable.
    pub offline_grace: u64,
}

/// Room beyond the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headroom {
    /// A share of the files' size.
    Percent(u64),
    /// Bytes.
    Bytes(u64),
}

impl Headroom {
    /// Bytes beyond `files` bytes; never less than [`MIN_HEADROOM`].
    #[must_use]
    pub fn bytes(self, files: u64) -> u64 {
        let wanted = match self {
            Self::Percent(percent) => (files / 100).saturating_mul(percent),
            Self::Bytes(bytes) => bytes,
        };
        wanted.max(MIN_HEADROOM)
    }
}

/// The disk that holds our partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Which one.
    pub selector: DiskSelector,
    /// Whether it may be erased although it is not free; only with a selector that one disk alone can match.
    pub erase: bool,
}

/// How a disk is chosen. All but the first three name disks; USB disks are chosen only by a serial, WWN or path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSelector {
    /// The one free disk; with two of them none.
    Auto,
    /// The smallest free disk.
    Smallest,
    /// The largest free disk.
    Largest,
    /// Serial number: printed on the disk.
    Serial(String),
    /// World Wide Name: printed on the disk.
    Wwn(String),
    /// Where it is plugged in, by its name in `/dev/disk/by-path`.
    Path(String),
    /// The one free disk of a size in this range, in bytes.
    Size {
        /// 0 if any.
        least: u64,
        /// `u64::MAX` if any.
        most: u64,
    },
}

/// Settings of the overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mycelium {
    /// Nodes to connect to.
    pub peers: Vec<PeerAddress>,
    /// Addresses to listen at.
    pub listen: Vec<PeerAddress>,
    /// Its network interface: one name that a program, a rule and a path can take as it is.
    pub interface: String,
}

/// `tcp://HOST:PORT` or `quic://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress(String);

impl PeerAddress {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("quic://"));
        let address = rest.and_then(HostPort::parse);
        match address.and_then(|a| a.port) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(format!("{text:?} is not tcp://HOST:PORT or quic://HOST:PORT")),
        }
    }
}

/// Who may debug a node, and with which password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// Networks that may connect.
    pub allow: Vec<Network>,
    /// The password as an argon2id hash in PHC form: configs are public.
    pub password_hash: String,
}

/// How many networks `debug.allow` may name: each becomes two rules of a batch that the kernel takes as a whole.
pub const MAX_DEBUG_NETWORKS: usize = 64;
/// What is wider is open to strangers: the largest private network, and the smallest that a provider gets.
const WIDEST_NETWORK: (u8, u8) = (8, 32);

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// First address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Network {
    /// Whether this address is one of it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |one: u128, other: u128, bits: u32| {
            (one ^ other).checked_shr(bits - u32::from(self.prefix)).unwrap_or(0) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => same(one.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(one), IpAddr::V6(other)) => same(one.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }

    fn is_too_wide(&self) -> bool {
        let (v4, v6) = WIDEST_NETWORK;
        self.prefix < if self.address.is_ipv4() { v4 } else { v6 }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address or ADDRESS/PREFIX");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |p| digits(p).ok_or_else(wrong))?;
        if prefix > most { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

/// How much the init says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only.
    Quiet,
    /// One line a stage.
    Normal,
    /// Every step.
    Debug,
}

impl LogLevel {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Normal => "normal",
            Self::Debug => "debug",
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Quiet, Self::Normal, Self::Debug]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not one of quiet, normal, debug"))
    }
}

/// What a node does that gave up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Start again from the firmware.
    #[default]
    Reboot,
    /// Switch off.
    PowerOff,
}

impl Config {
    /// Reads a config as `zstrap config check` and `add` do.
    ///
    /// # Errors
    /// [`ConfigError`], also for every unknown field, and for whatever [`Config::parse_node`] refuses.
    pub fn parse_strict(json: &[u8]) -> Result<Self, ConfigError> {
        let config = Self::parse_node(json)?;
        if config.unknown_fields.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Unknown(config.unknown_fields.join(", ")))
        }
    }

    /// Reads a config as nodes do; [`Config::unknown_fields`] names what was not understood.
    ///
    /// # Errors
    /// [`ConfigError`]; for unknown fields only if `must_understand` names them.
    pub fn parse_node(json: &[u8]) -> Result<Self, ConfigError> {
        let config = Self::parse(json)?;
        let missing: Vec<&str> =
            config.must_understand.iter().map(String::as_str).filter(|name| !is_known(name)).collect();
        if missing.is_empty() { Ok(config) } else { Err(ConfigError::MustUnderstand(missing.join(", "))) }
    }

    fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        if json.len() > MAX_CONFIG {
            return Err(ConfigError::TooLong(json.len()));
        }
        let text_of = |e: serde_json::Error| ConfigError::Json(e.to_string());
        // The version first: a later one may have other types everywhere.
        let value: Value = serde_json::from_slice(json).map_err(text_of)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => return Err(ConfigError::Version(other)),
            None => return Err(ConfigError::Json("expected an object with a number version".to_owned())),
        }
        let raw: RawConfig = serde_json::from_slice(json).map_err(text_of)?;
        let mut config = Self::try_from(raw)?;
        config.unknown_fields = unknown_fields(&value);
        Ok(config)
    }

    /// Every bundle that may be booted, the default one first.
    pub fn allowed_bundles(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.bundle).chain(&self.bundles)
    }
}

/// Whether a dotted name is a field of version 1.
fn is_known(name: &str) -> bool {
    let (object, field) = name.rsplit_once('.').unwrap_or(("", name));
    KNOWN.iter().any(|(known, fields)| *known == object && fields.contains(&field))
}

fn unknown_fields(value: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    for (object, _) in KNOWN {
        let pointer =
            if object.is_empty() { String::new() } else { format!("/{}", object.replace('.', "/")) };
        let Some(fields) = value.pointer(&pointer).and_then(Value::as_object) else { continue };
        for field in fields.keys() {
            let name = if object.is_empty() { field.clone() } else { format!("{object}.{field}") };
            // A field with a dot in its name must not pass as a field of an inner object.
            if field.contains('.') || !is_known(&name) {
                unknown.push(name);
            }
        }
    }
    unknown
}

#[derive(Deserialize)]
struct RawConfig {
    /// Read before the rest; named here so that a second one is refused as repeated.
    #[serde(rename = "version")]
    _version: IgnoredAny,
    #[serde(default)]
    description: String,
    bundle: String,
    #[serde(default)]
    bundles: Vec<String>,
    #[serde(default)]
    root: RawRoot,
    #[serde(default)]
    registrars: Vec<String>,
    #[serde(default)]
    mycelium: RawMycelium,
    #[serde(default)]
    debug: RawDebug,
    exec: Vec<String>,
    #[serde(default)]
    supervise: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
    log: Option<LogLevel>,
    #[serde(default)]
    on_failure: OnFailure,
    watchdog: Option<String>,
    report: Option<String>,
    grace: Option<String>,
    #[serde(default)]
    min_serial: u64,
    #[serde(default)]
    allow_setuid: bool,
    #[serde(default)]
    must_understand: Vec<String>,
}

#[derive(Deserialize, Default)]
struct RawRoot {
    size: Option<String>,
    headroom: Option<String>,
    disk: Option<RawDisk>,
    offline_grace: Option<String>,
}

/// A word, or an object that names disks.
enum RawDisk {
    Word(String),
    Named(RawNamed),
}

#[derive(Deserialize)]
struct RawNamed {
    serial: Option<String>,
    wwn: Option<String>,
    path: Option<String>,
    size: Option<String>,
    #[serde(default)]
    erase: bool,
}

/// By hand: serde's untagged enums forget where and what was wrong, and cost the init more.
impl<'de> Deserialize<'de> for RawDisk {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RawDisk;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or an object")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<RawDisk, E> {
                Ok(RawDisk::Word(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawDisk, A::Error> {
                RawNamed::deserialize(MapAccessDeserializer::new(map)).map(RawDisk::Named)
            }
        }
        from.deserialize_any(Either)
    }
}

#[derive(Deserialize, Default)]
struct RawMycelium {
    #[serde(default)]
    peers: Vec<String>,
    #[serde(default)]
    listen: Vec<String>,
    interface: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawDebug {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    allow: Vec<String>,
    password_hash: Option<String>,
}

fn field(field: &'static str, problem: impl ToString) -> ConfigError {
    ConfigError::Field { field, problem: problem.to_string() }
}

/// Parses text and says which field it stood in.
fn checked<T: FromStr<Err: ToString>>(name: &'static str, text: &str) -> Result<T, ConfigError> {
    text.parse().map_err(|e: T::Err| field(name, e))
}

fn all<T: FromStr<Err: ToString>>(name: &'static str, texts: &[String]) -> Result<Vec<T>, ConfigError> {
    texts.iter().map(|text| checked(name, text)).collect()
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        if raw.description.len() > MAX_DESCRIPTION || raw.description.chars().any(char::is_control) {
            return Err(field("description", "expected one line of at most 500 bytes"));
        }
        check_exec(&raw.exec)?;
        check_env(&raw.env)?;
        Ok(Self {
            description: raw.description,
            bundle: checked("bundle", &raw.bundle)?,
            bundles: all("bundles", &raw.bundles)?,
            root: raw.root.check()?,
            registrars: raw.registrars.iter().map(|u| web_url("registrars", u)).collect::<Result<_, _>>()?,
            mycelium: raw.mycelium.check()?,
            debug: raw.debug.check()?,
            exec: raw.exec,
            supervise: raw.supervise,
            env: raw.env,
            log: raw.log,
            on_failure: raw.on_failure,
            watchdog: raw.watchdog.map(|text| watchdog(&text)).transpose()?,
            report: raw.report.map(|text| web_url("report", &text)).transpose()?,
            grace: raw.grace.map_or(Ok(DEFAULT_GRACE), |text| span("grace", &text))?,
            min_serial: raw.min_serial,
            allow_setuid: raw.allow_setuid,
            must_understand: raw.must_understand,
            unknown_fields: Vec::new(),
        })
    }
}

/// `registrars` and `report` are spoken to over HTTP.
fn web_url(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url: Url = checked(name, text)?;
    if url.scheme() == Scheme::File {
        return Err(field(name, format!("{text:?} is not an http or https URL")));
    }
    Ok(url)
}

fn span(name: &'static str, text: &str) -> Result<u64, ConfigError> {
    match parse_span(text) {
        Ok(seconds) if (1..=DAY).contains(&seconds) => Ok(seconds),
        Ok(_) => Err(field(name, format!("{text:?} is not between 1s and 1d"))),
        Err(error) => Err(field(name, error)),
    }
}

/// The shortest time without food that a watchdog may be set to, in seconds.
const LEAST_WATCHDOG: u64 = 10;

/// The supervisor feeds between waits of its own, of which one may take five seconds.
fn watchdog(text: &str) -> Result<u64, ConfigError> {
    let seconds = span("watchdog", text)?;
    if seconds < LEAST_WATCHDOG {
        return Err(field("watchdog", format!("{text:?} is less than {LEAST_WATCHDOG}s")));
    }
    Ok(seconds)
}

fn check_exec(exec: &[String]) -> Result<(), ConfigError> {
    match exec.first() {
        Some(program) if program.starts_with('/') => {}
        _ => return Err(field("exec", "expected a program by its absolute path, then its arguments")),
    }
    if exec.iter().any(|word| word.contains('\0')) {
        return Err(field("exec", "contains a NUL byte"));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in env {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(word) || name.as_bytes()[0].is_ascii_digit() {
            return Err(field("env", format!("{name:?} does not match [A-Za-z_][A-Za-z0-9_]*")));
        }
        if value.contains('\0') {
            return Err(field("env", format!("value of {name} contains a NUL byte")));
        }
    }
    Ok(())
}

impl RawRoot {
    fn check(self) -> Result<Root, ConfigError> {
        let size = self.size.map_or(Ok(0), |text| size("root.size", &text))?;
        let headroom = match self.headroom.as_deref() {
            None => Headroom::Percent(DEFAULT_HEADROOM_PERCENT),
            Some(text) => match text.strip_suffix('%').map(digits::<u64>) {
                Some(Some(percent)) if percent <= 1000 => Headroom::Percent(percent),
                Some(_) => return Err(field("root.headroom", format!("{text:?} is not 0% to 1000%"))),
                None => Headroom::Bytes(size_of("root.headroom", text)?),
            },
        };
        let disk = self.disk.map(RawDisk::check).transpose()?;
        let offline_grace = self.offline_grace.map_or(Ok(0), |text| offline_grace(&text))?;
        if size == 0 && disk.is_some() {
            return Err(field("root.disk", "names a disk, but root.size is \"0\": a root in RAM"));
        }
        if size == 0 && offline_grace != 0 {
            return Err(field("root.offline_grace", "is for a disk, but root.size is \"0\": a root in RAM"));
        }
        Ok(Root { size, headroom, disk, offline_grace })
    }
}

/// `"0"` or a span.
fn offline_grace(text: &str) -> Result<u64, ConfigError> {
    match if text == "0" { Ok(0) } else { parse_span(text) } {
        Ok(seconds) if seconds <= MAX_OFFLINE_GRACE => Ok(seconds),
        Ok(_) => Err(field("root.offline_grace", format!("{text:?} is more than 30d"))),
        Err(error) => Err(field("root.offline_grace", error)),
    }
}

/// A number of digits only: Rust's own parser would take a plus sign, too.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `"0"` or a size with its unit.
fn size(name: &'static str, text: &str) -> Result<u64, ConfigError> {
    if text == "0" { Ok(0) } else { size_of(name, text) }
}

fn size_of(name: &'static str, text: &str) -> Result<u64, ConfigError> {
    let wrong = || field(name, format!("{text:?} is not a number followed by MiB, GiB or TiB"));
    let units = [("MiB", MIB), ("GiB", 1024 * MIB), ("TiB", 1024 * 1024 * MIB)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .ok_or_else(wrong)?;
    let bytes = digits::<u64>(number).and_then(|n| n.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

impl RawDisk {
    fn check(self) -> Result<Disk, ConfigError> {
        let word = match self {
            Self::Named(named) => return named.check(),
            Self::Word(word) => word,
        };
        let selector = match word.as_str() {
            "auto" => DiskSelector::Auto,
            "smallest" => DiskSelector::Smallest,
            "largest" => DiskSelector::Largest,
            _ => return Err(field("root.disk", format!("{word:?} is not one of auto, smallest, largest"))),
        };
        Ok(Disk { selector, erase: false })
    }
}

impl RawNamed {
    fn check(self) -> Result<Disk, ConfigError> {
        let selector = match (self.serial, self.wwn, self.path, self.size) {
            (Some(serial), None, None, None) => DiskSelector::Serial(disk_word("root.disk.serial", serial)?),
            (None, Some(wwn), None, None) => DiskSelector::Wwn(disk_word("root.disk.wwn", wwn)?),
            (None, None, Some(path), None) => DiskSelector::Path(disk_path(path)?),
            (None, None, None, Some(sizes)) => size_range(&sizes)?,
            _ => return Err(field("root.disk", "expected exactly one of serial, wwn, path and size")),
        };
        // A size or a socket may be that of another disk tomorrow.
        if self.erase && !matches!(selector, DiskSelector::Serial(_) | DiskSelector::Wwn(_)) {
            return Err(field(
                "root.disk.erase",
                "expected a serial or a wwn beside it: one disk and no other",
            ));
        }
        Ok(Disk { selector, erase: self.erase })
    }
}

fn disk_word(name: &'static str, text: String) -> Result<String, ConfigError> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text)
    } else {
        Err(field(name, format!("{text:?} is not one word of at most 128 bytes of visible ASCII")))
    }
}

fn disk_path(text: String) -> Result<String, ConfigError> {
    let text = disk_word("root.disk.path", text)?;
    if text.contains('/') {
        return Err(field("root.disk.path", format!("{text:?} is not a name in /dev/disk/by-path")));
    }
    Ok(text)
}

/// `LEAST..MOST`, each a size with its unit, one of them optional.
fn size_range(text: &str) -> Result<DiskSelector, ConfigError> {
    const NAME: &str = "root.disk.size";
    let wrong = || field(NAME, format!("{text:?} is not LEAST..MOST, LEAST.. or ..MOST, the least first"));
    let (least, most) = text.split_once("..").ok_or_else(wrong)?;
    let bound = |side: &str, open: u64| if side.is_empty() { Ok(open) } else { size_of(NAME, side) };
    let (least, most) = (bound(least, 0)?, bound(most, u64::MAX)?);
    if text == ".." || least > most { Err(wrong()) } else { Ok(DiskSelector::Size { least, most }) }
}

impl RawMycelium {
    fn check(self) -> Result<Mycelium, ConfigError> {
        let interface = self.interface.unwrap_or_else(|| DEFAULT_INTERFACE.to_owned());
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = interface.len() <= MAX_INTERFACE
            && interface.bytes().all(|b| letter(b) || b == b'-' || b == b'_')
            // It becomes an argument: none that looks like an option.
            && interface.bytes().next().is_some_and(letter);
        if !good {
            return Err(field(
                "mycelium.interface",
                format!("{interface:?} does not match [a-z0-9][a-z0-9_-]{{0,14}}"),
            ));
        }
        Ok(Mycelium {
            peers: all("mycelium.peers", &self.peers)?,
            listen: all("mycelium.listen", &self.listen)?,
            interface,
        })
    }
}

impl RawDebug {
    fn check(self) -> Result<Option<Debug>, ConfigError> {
        let allow: Vec<Network> = all("debug.allow", &self.allow)?;
        if let Some(hash) = &self.password_hash {
            check_argon2id(hash).map_err(|problem| field("debug.password_hash", problem))?;
        }
        if allow.len() > MAX_DEBUG_NETWORKS {
            return Err(field("debug.allow", format!("expected at most {MAX_DEBUG_NETWORKS} networks")));
        }
        if let Some(wide) = allow.iter().find(|network| network.is_too_wide()) {
            let (v4, v6) = WIDEST_NETWORK;
            return Err(field("debug.allow", format!("{wide} is wider than /{v4} of IPv4 or /{v6} of IPv6")));
        }
        match (self.enabled, self.password_hash) {
            (false, _) => Ok(None),
            (true, Some(password_hash)) if !allow.is_empty() => Ok(Some(Debug { allow, password_hash })),
            (true, Some(_)) => Err(field("debug.allow", "expected networks: debug is enabled")),
            (true, None) => Err(field("debug.password_hash", "expected a hash: debug is enabled")),
        }
    }
}

/// The PHC string form: `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`, within what a node is willing to compute.
fn check_argon2id(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split('$').collect();
    let ["", "argon2id", "v=19", costs, salt, hash] = parts[..] else {
        return Err("expected an argon2id hash ($argon2id$v=19$m=…)".to_owned());
    };
    let costs: Vec<&str> = costs.split(',').collect();
    let [memory, passes, lanes] = costs[..] else {
        return Err("expected the costs m=…,t=…,p=…".to_owned());
    };
    check_cost("m", memory, ARGON2_KIB)?;
    check_cost("t", passes, ARGON2_PASSES)?;
    check_cost("p", lanes, ARGON2_LANES)?;
    check_base64("salt", salt, SALT_BYTES)?;
    check_base64("hash", hash, HASH_BYTES)
}

fn check_cost(name: &str, text: &str, range: RangeInclusive<u32>) -> Result<(), String> {
    let value = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    // As PHC wants numbers: no sign, no zeros before them.
    let value = value.filter(|v| !v.starts_with('0')).and_then(digits::<u32>);
    if value.is_some_and(|value| range.contains(&value)) {
        return Ok(());
    }
    Err(format!("{text:?} is not {name}= and a number from {} to {}", range.start(), range.end()))
}

fn check_base64(name: &str, text: &str, bytes: RangeInclusive<usize>) -> Result<(), String> {
    let decoded = Base64Unpadded::decode_vec(text).ok();
    if decoded.is_some_and(|decoded| bytes.contains(&decoded.len())) {
        return Ok(());
    }
    Err(format!("{name} is not {} to {} bytes in base64 without padding", bytes.start(), bytes.end()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    const HASH: &str = "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";

    fn minimal() -> Value {
        json!({"version": 1, "bundle": "demo", "exec": ["/sbin/init"]})
    }

    fn with(key: &str, value: Value) -> Result<Config, ConfigError> {
        let mut config = minimal();
        config[key] = value;
        Config::parse_strict(config.to_string().as_bytes())
    }

    fn problem_field(key: &str, value: Value) -> &'static str {
        match with(key, value.clone()) {
            Err(ConfigError::Field { field, .. }) => field,
            other => panic!("{key}: {value} gave {other:?}"),
        }
    }

    #[test]
    fn the_least_config_has_documented_defaults() {
        let config = Config::parse_strict(minimal().to_string().as_bytes()).unwrap();
        assert_eq!(
            config.root,
            Root { size: 0, headroom: Headroom::Percent(25), disk: None, offline_grace: 0 }
        );
        assert_eq!(config.mycelium, Mycelium { peers: vec![], listen: vec![], interface: "mycelium".into() });
        assert_eq!((config.grace, config.min_serial, config.supervise), (10, 0, false));
        assert_eq!(config.on_failure, OnFailure::Reboot);
        assert_eq!(config.allowed_bundles().count(), 1);
    }

    #[test]
    fn every_field_is_read() {
        let config = json!({
            "version": 1, "description": "Färm", "bundle": "zos", "bundles": ["zos-dev"],
            "root": {"size": "1GiB", "headroom": "256MiB", "disk": {"serial": "S1", "erase": true},
                     "offline_grace": "7d"},
            "registrars": ["https://registrar.example.org/v1"],
            "mycelium": {"peers": ["tcp://1.2.3.4:9651", "quic://[2001:db8::1]:9651"], "listen": ["tcp://[::]:9651"],
                         "interface": "my-net_0"},
            "debug": {"enabled": true, "allow": ["10.0.0.0/8", "2001:db8::1"], "password_hash": HASH},
            "exec": ["/sbin/zinit", "init"], "supervise": true, "env": {"A": "b"}, "log": "debug",
            "on_failure": "power-off", "watchdog": "60s", "report": "http://r.example.org", "grace": "20s",
            "min_serial": 7, "allow_setuid": true, "must_understand": ["root.disk", "debug"]
        });
        let config = Config::parse_strict(config.to_string().as_bytes()).unwrap();
        assert_eq!(config.root.size, 1 << 30);
        assert_eq!(config.root.headroom.bytes(1), 256 * MIB);
        assert_eq!(config.root.offline_grace, 7 * DAY);
        assert_eq!(config.mycelium.interface, "my-net_0");
        assert_eq!(config.mycelium.peers[1].as_str(), "quic://[2001:db8::1]:9651");
        assert_eq!(config.debug.unwrap().allow[1].prefix, 128);
        assert_eq!((config.watchdog, config.grace, config.min_serial), (Some(60), 20, 7));
        assert_eq!((config.log, config.on_failure), (Some(LogLevel::Debug), OnFailure::PowerOff));
    }

    #[test]
    fn debug_is_never_open_to_all() {
        let debug =
            |allow: Value, hash: Value| json!({"enabled": true, "allow": allow, "password_hash": hash});
        assert_eq!(problem_field("debug", json!({"enabled": true, "allow": ["::1"]})), "debug.password_hash");
        assert_eq!(problem_field("debug", debug(json!([]), HASH.into())), "debug.allow");
        for network in ["10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "10.0.0.0/8/8", "10.0.0"] {
            assert_eq!(problem_field("debug", debug(json!([network]), HASH.into())), "debug.allow");
        }
        for all in ["::/0", "0.0.0.0/0", "400::/7", "400::/31", "10.0.0.0/7"] {
            let refusal =
                with("debug", debug(json!(["400:1::2", all]), HASH.into())).unwrap_err().to_string();
            assert!(refusal.contains(&format!("{all} is wider than /8 of IPv4 or /32 of IPv6")), "{refusal}");
        }
        let many = |count: usize| debug(json!(vec!["500:2::/32"; count]), HASH.into());
        assert!(with("debug", many(MAX_DEBUG_NETWORKS)).is_ok());
        assert_eq!(problem_field("debug", many(MAX_DEBUG_NETWORKS + 1)), "debug.allow");
        for clear in
            ["secret", "$argon2i$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub", "$argon2id$", ""]
        {
            assert_eq!(problem_field("debug", debug(json!(["::1"]), clear.into())), "debug.password_hash");
        }
        assert_eq!(with("debug", json!({"enabled": false})).unwrap().debug, None);
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("500:2::/64", "500:2::ffff") && contains("500:2::9/64", "500:2::1"));
        assert!(!contains("500:2::/64", "500:2:0:1::"));
        assert!(contains("400:1::2", "400:1::2") && !contains("400:1::2", "400:1::3"));
        assert!(contains("10.1.2.3/23", "10.1.3.255") && !contains("10.1.2.3/23", "10.1.4.0"));
        assert!(contains("::/0", "ffff::") && !contains("::/0", "10.0.0.1") && !contains("0.0.0.0/0", "::"));
    }

    #[test]
    fn a_hash_costs_neither_too_little_nor_too_much() {
        let hash = |costs: &str| format!("$argon2id$v=19${costs}$c29tZXNhbHRzb21l$RdescudvJCsgt3ub");
        for good in ["m=19456,t=2,p=1", "m=65536,t=10,p=4", "m=20000,t=1,p=1"] {
            assert_eq!(check_argon2id(&hash(good)), Ok(()), "{good}");
        }
        for bad in [
            "m=19455,t=2,p=1",
            "m=65537,t=2,p=1",
            "m=19456,t=0,p=1",
            "m=19456,t=11,p=1",
            "m=19456,t=2,p=0",
            "m=19456,t=2,p=5",
            "m=019456,t=2,p=1",
            "m=+19456,t=2,p=1",
            "t=2,m=19456,p=1",
            "m=19456,t=2",
            "m=19456,t=2,p=1,keyid=x",
        ] {
            assert!(check_argon2id(&hash(bad)).is_err(), "{bad}");
        }
        let parts = |salt: &str, hash: &str| {
            check_argon2id(&format!("$argon2id$v=19$m=19456,t=2,p=1${salt}${hash}")).is_ok()
        };
        assert!(parts("c29tZXNhbHRzb21l", "RdescudvJCsgt3ub"));
        for (salt, hash) in [
            ("c29tZXNhbA", "RdescudvJCsgt3ub"),
            ("c29tZXNhbHRzb21l", "RdescudvJCsgt3s"),
            ("c29tZXNhbHRzb21l", "RdescudvJCsgt3ub="),
            ("c29tZXNhbHRzb21l", "RdescudvJCsgt3ub$"),
            ("c29tZXNhbHRzb21_", "RdescudvJCsgt3ub"),
        ] {
            assert!(!parts(salt, hash), "{salt} {hash}");
        }
    }

    #[test]
    fn a_disk_is_chosen_in_seven_ways() {
        let chosen = |disk: Value| {
            let disk = with("root", json!({"size": "1GiB", "disk": disk})).unwrap().root.disk.unwrap();
            assert!(!disk.erase);
            disk.selector
        };
        let sizes = |text: &str| chosen(json!({"size": text}));
        assert_eq!(chosen(json!("auto")), DiskSelector::Auto);
        assert_eq!(chosen(json!("smallest")), DiskSelector::Smallest);
        assert_eq!(chosen(json!("largest")), DiskSelector::Largest);
        assert_eq!(chosen(json!({"serial": "S1"})), DiskSelector::Serial("S1".into()));
        assert_eq!(chosen(json!({"wwn": "0x5"})), DiskSelector::Wwn("0x5".into()));
        let path = "pci-0000:00:04.0-nvme-1";
        assert_eq!(chosen(json!({"path": path})), DiskSelector::Path(path.into()));
        let gib = 1024 * MIB;
        assert_eq!(sizes("400GiB..600GiB"), DiskSelector::Size { least: 400 * gib, most: 600 * gib });
        assert_eq!(sizes("1GiB..1GiB"), DiskSelector::Size { least: gib, most: gib });
        assert_eq!(sizes("1GiB.."), DiskSelector::Size { least: gib, most: u64::MAX });
        assert_eq!(sizes("..1GiB"), DiskSelector::Size { least: 0, most: gib });
    }

    #[test]
    fn a_disk_is_erased_only_by_a_name_that_no_other_has() {
        let erase = |disk: Value| with("root", json!({"size": "1GiB", "disk": disk}));
        assert!(erase(json!({"serial": "x", "erase": true})).unwrap().root.disk.unwrap().erase);
        assert!(erase(json!({"wwn": "x", "erase": true})).unwrap().root.disk.unwrap().erase);
        for (name, value) in [("path", "pci-0"), ("size", "1GiB..")] {
            let error = erase(json!({name: value, "erase": true})).unwrap_err();
            assert!(matches!(error, ConfigError::Field { field: "root.disk.erase", .. }), "{error}");
        }
    }

    #[test]
    fn nodes_ignore_what_they_need_not_understand() {
        let mut config = minimal();
        config["later"] = json!({"x": 1});
        config["root"] = json!({"size": "0", "encrypt": true});
        let text = config.to_string();
        let error = Config::parse_strict(text.as_bytes()).unwrap_err();
        assert_eq!(error, ConfigError::Unknown("later, root.encrypt".to_owned()));
        assert_eq!(Config::parse_node(text.as_bytes()).unwrap().unknown_fields, ["later", "root.encrypt"]);
        config["must_understand"] = json!(["exec", "root.encrypt"]);
        let error = Config::parse_node(config.to_string().as_bytes()).unwrap_err();
        assert_eq!(error, ConfigError::MustUnderstand("root.encrypt".to_owned()));
    }

    #[test]
    fn strict_refuses_a_demand_that_every_node_would_refuse() {
        let error = with("must_understand", json!(["root.encypt"])).unwrap_err();
        assert_eq!(error, ConfigError::MustUnderstand("root.encypt".to_owned()));
    }

    #[test]
    fn a_dotted_field_is_not_an_inner_one() {
        let mut config = minimal();
        config["root.size"] = json!("1GiB");
        let error = Config::parse_strict(config.to_string().as_bytes()).unwrap_err();
        assert_eq!(error, ConfigError::Unknown("root.size".to_owned()));
    }

    #[test]
    fn refuses_values_that_break_a_rule() {
        for (key, value, field) in [
            ("bundle", json!("../x"), "bundle"),
            ("bundles", json!(["A"]), "bundles"),
            ("exec", json!([]), "exec"),
            ("exec", json!(["init"]), "exec"),
            ("exec", json!(["/a\u{0}"]), "exec"),
            ("env", json!({"1A": ""}), "env"),
            ("env", json!({"A": "\u{0}"}), "env"),
            ("root", json!({"size": "1GB"}), "root.size"),
            ("root", json!({"size": "0GiB"}), "root.size"),
            ("root", json!({"size": "99999999999999TiB"}), "root.size"),
            ("root", json!({"headroom": "2000%"}), "root.headroom"),
            ("root", json!({"headroom": "+25%"}), "root.headroom"),
            ("root", json!({"size": "+1GiB"}), "root.size"),
            ("root", json!({"disk": {"serial": "x"}}), "root.disk"),
            ("root", json!({"size": "1GiB", "disk": {"serial": "x", "wwn": "y"}}), "root.disk"),
            ("root", json!({"size": "1GiB", "disk": {"erase": true}}), "root.disk"),
            ("root", json!({"size": "1GiB", "disk": "any"}), "root.disk"),
            ("root", json!({"disk": "auto"}), "root.disk"),
            ("root", json!({"size": "1GiB", "disk": {"serial": "a b"}}), "root.disk.serial"),
            ("root", json!({"size": "1GiB", "disk": {"wwn": ""}}), "root.disk.wwn"),
            ("root", json!({"size": "1GiB", "disk": {"path": "/dev/sda"}}), "root.disk.path"),
            ("root", json!({"size": "1GiB", "disk": {"size": "1GiB"}}), "root.disk.size"),
            ("root", json!({"size": "1GiB", "disk": {"size": ".."}}), "root.disk.size"),
            ("root", json!({"size": "1GiB", "disk": {"size": "2GiB..1GiB"}}), "root.disk.size"),
            ("root", json!({"size": "1GiB", "disk": {"size": "1GiB..2"}}), "root.disk.size"),
            ("root", json!({"size": "1GiB", "offline_grace": "31d"}), "root.offline_grace"),
            ("root", json!({"size": "1GiB", "offline_grace": "7"}), "root.offline_grace"),
            ("root", json!({"offline_grace": "7d"}), "root.offline_grace"),
            ("mycelium", json!({"interface": ""}), "mycelium.interface"),
            ("mycelium", json!({"interface": "sixteen-letters-"}), "mycelium.interface"),
            ("mycelium", json!({"interface": "-k"}), "mycelium.interface"),
            ("mycelium", json!({"interface": "a/b"}), "mycelium.interface"),
            ("mycelium", json!({"peers": ["tcp://1.2.3.4"]}), "mycelium.peers"),
            ("mycelium", json!({"listen": ["udp://1.2.3.4:1"]}), "mycelium.listen"),
            ("registrars", json!(["file:///x"]), "registrars"),
            ("report", json!("gopher://x"), "report"),
            ("watchdog", json!("0s"), "watchdog"),
            ("watchdog", json!("9s"), "watchdog"),
            ("grace", json!("2d"), "grace"),
            ("description", json!("a\nb"), "description"),
        ] {
            assert_eq!(problem_field(key, value.clone()), field, "{value}");
        }
    }

    #[test]
    fn refuses_other_types_versions_and_repeated_fields() {
        assert!(matches!(with("exec", json!("x")), Err(ConfigError::Json(_))));
        assert!(matches!(with("log", json!("loud")), Err(ConfigError::Json(_))));
        for disk in [json!(1), json!(["auto"]), json!({"serial": 1})] {
            let root = json!({"size": "1GiB", "disk": disk});
            assert!(matches!(with("root", root), Err(ConfigError::Json(_))), "{disk}");
        }
        let serials = r#"{"version":1,"bundle":"a","exec":["/x"],
            "root":{"size":"1GiB","disk":{"serial":"a","serial":"b"}}}"#;
        assert!(
            matches!(Config::parse_node(serials.as_bytes()), Err(ConfigError::Json(text)) if text.contains("duplicate"))
        );
        assert_eq!(with("version", json!(2)).unwrap_err(), ConfigError::Version(2));
        let twice = r#"{"version":1,"bundle":"a","bundle":"b","exec":["/x"]}"#;
        assert!(
            matches!(Config::parse_strict(twice.as_bytes()), Err(ConfigError::Json(text)) if text.contains("duplicate"))
        );
        let two_versions = r#"{"version":2,"version":1,"bundle":"a","exec":["/x"]}"#;
        assert!(
            matches!(Config::parse_node(two_versions.as_bytes()), Err(ConfigError::Json(text)) if text.contains("duplicate"))
        );
        for text in ["", "[]", "null", "{", "{\"version\":\"1\"}"] {
            assert!(matches!(Config::parse_strict(text.as_bytes()), Err(ConfigError::Json(_))), "{text}");
        }
    }

    #[test]
    fn small_bundles_get_the_least_headroom() {
        assert_eq!(Headroom::Percent(25).bytes(4 * MIB), MIN_HEADROOM);
        assert_eq!(Headroom::Percent(25).bytes(400 * MIB), 100 * MIB);
    }
}
