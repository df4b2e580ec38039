//! How a node is to configure its network: one syntax for the identity's `network` and for `zstrap.net=`.
//!
//! In: text, comma-separated, such as `dhcp` or `addr=192.0.2.7/24,gw=192.0.2.1,dns=192.0.2.1`. Out: checked
//! settings, and one text for each of them. What is not known, or contradicts itself, is refused, not ignored:
//! a node on the wrong network is lost. `docs/network.md` says what each setting does.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The longest text in bytes, here and in its canonical form.
pub const MAX_TEXT: usize = 1024;
/// The most addresses, servers, routes, links of a bond: no node has more, and an init must not store more.
pub const MAX_EACH: usize = 16;
/// The words that may stand first, alone: where addresses come from.
pub const METHODS: [&str; 3] = ["dhcp", "dhcp4", "auto6"];
/// The names that take a value.
pub const SETTINGS: [&str; 11] =
    ["addr", "gw", "dns", "search", "ntp", "route", "link", "bond", "vlan", "mtu", "hostname"];

/// VLAN 0 is no VLAN, and 4095 is reserved (IEEE 802.1Q, table 9-2).
const VLANS: RangeInclusive<u16> = 1..=4094;
/// From what every IPv4 host must take (RFC 1122, 3.3.3) to what switches call jumbo frames.
const MTUS: RangeInclusive<u16> = 576..=9216;
/// Below this the kernel switches IPv6 off on the link (RFC 8200, 5).
const LEAST_MTU_OF_IPV6: u16 = 1280;
/// Longest name of a link, `IFNAMSIZ` less the zero byte.
const MAX_LINK: usize = 15;
/// Longest host name (`HOST_NAME_MAX`, gethostname(2)).
const MAX_HOSTNAME: usize = 64;
/// Longest domain name as text (RFC 1035, 2.3.4), and its longest label.
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// What is said of a setting without a beginning.
const EMPTY: &str = "empty, or begins with a blank: a comma too many, or a blank after a comma";
/// How much of a wrong setting an error shows.
const MAX_SHOWN: usize = 100;

/// The network settings of an identity, or of the kernel command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Where addresses come from.
    pub method: Method,
    /// The only link to use; else all are tried. With `vlan`, the link below it.
    pub link: Option<LinkName>,
    /// Links to be joined into one, `bond0`, which is then the only one to use.
    pub bond: Option<Bond>,
    /// VLAN to use on the link or bond (IEEE 802.1Q), 1 to 4094.
    pub vlan: Option<u16>,
    /// Largest packet of the link in bytes, 576 to 9216 (1280 and more where IPv6 is to work).
    pub mtu: Option<u16>,
    /// Name servers instead of those that the network names.
    pub dns: Vec<IpAddr>,
    /// Search domains instead of those that the network names.
    pub search: Vec<String>,
    /// Time servers instead of those that the network names.
    pub ntp: Vec<IpAddr>,
    /// Routes beside those that the network names.
    pub routes: Vec<Route>,
    /// The node's name instead of the one that the network gives.
    pub hostname: Option<String>,
}

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// From the network: `dhcp` (both), `dhcp4` (DHCPv4 alone), `auto6` (router advertisements alone).
    Auto {
        /// DHCPv4.
        v4: bool,
        /// SLAAC, with name servers of router advertisements or stateless DHCPv6.
        v6: bool,
    },
    /// From here alone. At least one address.
    Static {
        /// Addresses with the length of their network's prefix.
        addresses: Vec<(IpAddr, u8)>,
        /// Default gateways, at most one a family.
        gateways: Vec<IpAddr>,
    },
}

impl Default for Method {
    fn default() -> Self {
        Self::Auto { v4: true, v6: true }
    }
}

/// How a link is named by people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkName {
    /// By the kernel's name, such as `eth0`.
    Name(String),
    /// By hardware address, such as `52:54:00:12:34:56`.
    Mac([u8; 6]),
}

/// Several links as one (the kernel's bonding driver).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    /// How they share the work.
    pub mode: BondMode,
    /// The links, at least one.
    pub links: Vec<LinkName>,
}

/// Modes of a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// One works, the others stand by (mode 1).
    ActiveBackup,
    /// LACP with the switch (mode 4, IEEE 802.3ad).
    Lacp,
}

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub destination: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Through whom; none when it is on the link itself.
    pub gateway: Option<IpAddr>,
}

/// A setting that this version cannot act on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("network setting {setting:?}: {problem}")]
pub struct NetworkError {
    /// The part that is wrong.
    pub setting: String,
    /// What is wrong, or what was expected.
    pub problem: String,
}

/// A value, or what is wrong with it; who asks knows the setting.
type Checked<T> = Result<T, Cow<'static, str>>;

impl NetworkError {
    fn new(setting: impl Display, problem: impl Into<Cow<'static, str>>) -> Self {
        let setting = setting.to_string().chars().take(MAX_SHOWN).collect();
        Self { setting, problem: problem.into().into_owned() }
    }
}

// ---- text ----

/// The canonical text: where addresses come from, then the other settings, always in the same order.
impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        each(f, "dns", &self.dns)?;
        each(f, "search", &self.search)?;
        each(f, "ntp", &self.ntp)?;
        each(f, "route", &self.routes)?;
        each(f, "link", &self.link)?;
        each(f, "bond", &self.bond)?;
        each(f, "vlan", self.vlan)?;
        each(f, "mtu", self.mtu)?;
        each(f, "hostname", &self.hostname)
    }
}

fn each<T: Display>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> fmt::Result {
    values.into_iter().try_for_each(|value| write!(f, ",{name}={value}"))
}

impl Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto { v4: true, v6: true } => f.write_str("dhcp"),
            Self::Auto { v4: true, v6: false } => f.write_str("dhcp4"),
            Self::Auto { v4: false, v6: true } => f.write_str("auto6"),
            // No text gives this, so none reads back as it.
            Self::Auto { v4: false, v6: false } => f.write_str("none"),
            Self::Static { addresses, gateways } => {
                let addresses = addresses.iter().map(|(address, prefix)| format!("addr={address}/{prefix}"));
                let gateways = gateways.iter().map(|gateway| format!("gw={gateway}"));
                f.write_str(&addresses.chain(gateways).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, "@{gateway}"))
    }
}

impl Display for Bond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links: Vec<String> = self.links.iter().map(LinkName::to_string).collect();
        write!(f, "{}:{}", self.mode, links.join("+"))
    }
}

impl Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ActiveBackup => "active-backup",
            Self::Lacp => "802.3ad",
        })
    }
}

impl Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Mac([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
        }
    }
}

// ---- reading ----

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let too_long = || NetworkError::new(text, format!("expected at most {MAX_TEXT} bytes in all"));
        if text.len() > MAX_TEXT {
            return Err(too_long());
        }
        let mut draft = Draft::default();
        for (at, setting) in text.split(',').enumerate() {
            let taken = match setting.split_once('=') {
                _ if matches!(setting.as_bytes().first(), None | Some(b' ')) => Err(EMPTY.into()),
                Some((name, value)) => draft.take(name, value),
                None => draft.take_method(setting, at == 0),
            };
            taken.map_err(|problem| NetworkError::new(setting, problem))?;
        }
        let network = draft.finish()?;
        // The canonical text may be longer, by `dhcp,` or by a zero that `::` stood for.
        if network.to_string().len() > MAX_TEXT { Err(too_long()) } else { Ok(network) }
    }
}

/// Settings each good alone, not yet together.
#[derive(Default)]
struct Draft {
    method: Option<Method>,
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    network: Network,
}

impl Draft {
    fn take_method(&mut self, word: &str, first: bool) -> Checked<()> {
        let (v4, v6) = match word {
            "dhcp" => (true, true),
            "dhcp4" => (true, false),
            "auto6" => (false, true),
            _ => return Err(expected_settings()),
        };
        if !first {
            return Err("expected as the first word".into());
        }
        self.method = Some(Method::Auto { v4, v6 });
        Ok(())
    }

    fn take(&mut self, name: &str, value: &str) -> Checked<()> {
        let network = &mut self.network;
        match name {
            "addr" => add(&mut self.addresses, own_address(value)?, |a, b| a.0 == b.0),
            "gw" => add(&mut self.gateways, host(value)?, |a, b| a.is_ipv4() == b.is_ipv4()),
            "dns" => add(&mut network.dns, host(value)?, IpAddr::eq),
            "search" => add(&mut network.search, domain(value)?, String::eq),
            "ntp" => add(&mut network.ntp, host(value)?, IpAddr::eq),
            "route" => add(&mut network.routes, route(value)?, Route::same_destination),
            "link" => set(&mut network.link, link(value)?),
            "bond" => set(&mut network.bond, bond(value)?),
            "vlan" => set(&mut network.vlan, number(value, VLANS)?),
            "mtu" => set(&mut network.mtu, number(value, MTUS)?),
            "hostname" => set(&mut network.hostname, hostname(value)?),
            _ => Err(expected_settings()),
        }
    }

    /// The settings together, without contradictions.
    fn finish(mut self) -> Result<Network, NetworkError> {
        self.check_gateways()?;
        self.network.method = match (self.method, self.addresses.is_empty()) {
            (method, true) => method.unwrap_or_default(),
            (None, false) => Method::Static { addresses: self.addresses, gateways: self.gateways },
            (Some(method), false) => {
                return Err(NetworkError::new(method, "expected no addr=, which gives the address itself"));
            }
        };
        self.network.check()?;
        Ok(self.network)
    }

    fn check_gateways(&self) -> Result<(), NetworkError> {
        for gateway in &self.gateways {
            let refuse = |problem: String| Err(NetworkError::new(format_args!("gw={gateway}"), problem));
            if !self.addresses.iter().any(|(own, _)| own.is_ipv4() == gateway.is_ipv4()) {
                return refuse(format!("expected addr= with an {} address beside it", family(gateway)));
            }
            if self.addresses.iter().any(|(own, _)| own == gateway) {
                return refuse("expected another address than the node's own".to_owned());
            }
        }
        Ok(())
    }
}

impl Network {
    /// Whether some addresses come in this family.
    fn has(&self, ipv4: bool) -> bool {
        match &self.method {
            Method::Auto { v4, v6 } => *(if ipv4 { v4 } else { v6 }),
            Method::Static { addresses, .. } => addresses.iter().any(|(own, _)| own.is_ipv4() == ipv4),
        }
    }

    /// What single settings cannot tell.
    fn check(&self) -> Result<(), NetworkError> {
        if let (Some(link), Some(_)) = (&self.link, &self.bond) {
            return Err(NetworkError::new(format_args!("link={link}"), "expected no bond= beside it"));
        }
        self.routes.iter().try_for_each(|route| self.check_route(route))?;
        // With DHCPv4 as well, a small MTU only costs the node its IPv6.
        let needs_ipv6 = self.has(false) && self.method != Method::default();
        match self.mtu {
            Some(mtu) if needs_ipv6 && mtu < LEAST_MTU_OF_IPV6 => {
                let problem = format!("expected at least {LEAST_MTU_OF_IPV6}, which IPv6 needs");
                Err(NetworkError::new(format_args!("mtu={mtu}"), problem))
            }
            _ => Ok(()),
        }
    }

    fn check_route(&self, route: &Route) -> Result<(), NetworkError> {
        let refuse = |problem: String| Err(NetworkError::new(format_args!("route={route}"), problem));
        let destination = route.destination;
        if !self.has(destination.is_ipv4()) {
            return refuse(format!(
                "expected a route of a family in which the node has addresses, not {}",
                family(&destination)
            ));
        }
        let Method::Static { addresses, gateways } = &self.method else {
            return Ok(());
        };
        if addresses.iter().any(|(own, _)| Some(*own) == route.gateway) {
            return refuse("expected another gateway than the node itself".to_owned());
        }
        if route.prefix == 0 && gateways.iter().any(|gateway| gateway.is_ipv4() == destination.is_ipv4()) {
            return refuse("expected no second default gateway beside gw=".to_owned());
        }
        Ok(())
    }
}

fn expected_settings() -> Cow<'static, str> {
    let names = SETTINGS.join("=, ");
    format!("expected {} as the first word, or one of {names}=", METHODS.join(", ")).into()
}

/// Adds what is not yet there.
fn add<T>(list: &mut Vec<T>, value: T, same: fn(&T, &T) -> bool) -> Checked<()> {
    if list.iter().any(|have| same(have, &value)) {
        return Err("expected once: an earlier one is the same, or excludes it".into());
    }
    if list.len() >= MAX_EACH {
        return Err(format!("expected at most {MAX_EACH} of them").into());
    }
    list.push(value);
    Ok(())
}

fn set<T>(place: &mut Option<T>, value: T) -> Checked<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("expected only one of them".into()),
    }
}

// ---- values ----

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn number(text: &str, range: RangeInclusive<u16>) -> Checked<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && range.contains(number));
    number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()).into())
}

fn address(text: &str) -> Checked<IpAddr> {
    let address: IpAddr = text.parse().map_err(|_| "expected an IPv4 or IPv6 address")?;
    // An IPv4 address in IPv6 clothes would pass for the wrong family everywhere below.
    if address.to_canonical() == address {
        Ok(address)
    } else {
        Err("expected an IPv4 address as such".into())
    }
}

/// The address of one machine that is not this one.
fn host(text: &str) -> Checked<IpAddr> {
    let address = address(text)?;
    if is_host(address) { Ok(address) } else { Err("expected the address of one other machine".into()) }
}

fn is_host(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !special && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// `ADDRESS/PREFIX`.
fn network(text: &str, least: u16) -> Checked<(IpAddr, u8)> {
    let (before, after) = text.split_once('/').ok_or("expected ADDRESS/PREFIX")?;
    let address = address(before)?;
    let prefix = number(after, least..=u16::from(bits(&address)))?;
    Ok((address, prefix.try_into().expect("at most 128")))
}

fn bits(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn own_address(text: &str) -> Checked<(IpAddr, u8)> {
    let (address, prefix) = network(text, 1)?;
    if !is_host(address) {
        return Err("expected an address that one machine can have".into());
    }
    if is_broadcast(address, prefix) {
        return Err("expected an address within its network, not that of the network or its broadcast".into());
    }
    Ok((address, prefix))
}

/// All ones or all zeros behind the prefix (RFC 1122, 3.2.1.3); networks of two have none (RFC 3021).
fn is_broadcast(address: IpAddr, prefix: u8) -> bool {
    let IpAddr::V4(address) = address else {
        return false;
    };
    let host_mask = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let host = address.to_bits() & host_mask;
    prefix < 31 && (host == 0 || host == host_mask)
}

fn route(text: &str) -> Checked<Route> {
    let (destination, gateway) = match text.split_once('@') {
        None => (text, None),
        Some((destination, gateway)) => (destination, Some(host(gateway)?)),
    };
    let (destination, prefix) = network(destination, 0)?;
    let base = base(destination, prefix);
    if destination != base {
        return Err(format!("expected the network's own address, {base}/{prefix}").into());
    }
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != destination.is_ipv4()) {
        return Err(format!("expected an {} gateway", family(&destination)).into());
    }
    Ok(Route { destination, prefix, gateway })
}

/// The address with zeros behind the prefix.
fn base(address: IpAddr, prefix: u8) -> IpAddr {
    let shift = u32::from(bits(&address) - prefix);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()),
    }
}

impl Route {
    fn same_destination(&self, other: &Self) -> bool {
        (self.destination, self.prefix) == (other.destination, other.prefix)
    }
}

fn bond(text: &str) -> Checked<Bond> {
    let form = "expected active-backup:LINK+LINK or 802.3ad:LINK+LINK";
    let (mode, names) = text.split_once(':').ok_or(form)?;
    let mode = match mode {
        "active-backup" => BondMode::ActiveBackup,
        "802.3ad" => BondMode::Lacp,
        _ => return Err(form.into()),
    };
    let mut links = Vec::new();
    for name in names.split('+') {
        let link = link(name)?;
        add(&mut links, link, LinkName::eq).map_err(|problem| format!("{name}: {problem}"))?;
    }
    Ok(Bond { mode, links })
}

impl FromStr for LinkName {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        link(text).map_err(|problem| NetworkError::new(text, problem))
    }
}

fn link(text: &str) -> Checked<LinkName> {
    if text.contains(':') {
        let mac = mac(&text.split(':').collect::<Vec<_>>());
        return mac
            .map(LinkName::Mac)
            .ok_or("expected a link by hardware address, such as 52:54:00:12:34:56".into());
    }
    // The kernel takes more, but these words are paths below /sys and /proc, and our syntax has signs of its own.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let reserved = matches!(text, "." | ".." | "all" | "default" | "lo");
    if !(1..=MAX_LINK).contains(&text.len()) || !text.bytes().all(allowed) || reserved {
        return Err(
            format!("expected a link, such as eth0: letters, digits, . _ -, at most {MAX_LINK}").into()
        );
    }
    Ok(LinkName::Name(text.to_owned()))
}

/// The hardware address of one card: neither zeros nor a group's.
fn mac(parts: &[&str]) -> Option<[u8; 6]> {
    let byte = |text: &&str| {
        let hex = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    let bytes: Vec<u8> = parts.iter().map(byte).collect::<Option<_>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac != [0; 6] && mac[0] & 1 == 0).then_some(mac)
}

/// The link that the boot loader used, from the value of `BOOTIF=`: PXELINUX and iPXE write the hardware type
/// (01, Ethernet) and the address, `01-52-54-00-12-34-56`; others the address alone, with `-` or `:`.
#[must_use]
pub fn bootif(value: &str) -> Option<LinkName> {
    let separator = if value.contains(':') { ':' } else { '-' };
    let parts: Vec<&str> = value.split(separator).collect();
    let address = if parts.len() == 7 { parts.strip_prefix(&["01"])? } else { &parts };
    mac(address).map(LinkName::Mac)
}

fn hostname(text: &str) -> Checked<String> {
    let last = text.rsplit('.').next().unwrap_or_default();
    // Resolvers take a name that ends in a number for an address (RFC 1123, 2.1).
    let number = last.bytes().all(|b| b.is_ascii_digit());
    if !is_domain(text) || text.contains('_') || text.len() > MAX_HOSTNAME || number {
        return Err(format!(
            "expected a host name: letters, digits, - and ., at most {MAX_HOSTNAME}, not a number"
        )
        .into());
    }
    Ok(text.to_owned())
}

fn domain(text: &str) -> Checked<String> {
    if is_domain(text) { Ok(text.to_owned()) } else { Err("expected a domain, such as example.org".into()) }
}

/// Labels that stand in resolv.conf(5) and hosts(5) without breaking a line.
fn is_domain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let label = |label: &str| {
        let hyphens = label.starts_with('-') || label.ends_with('-');
        (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(allowed) && !hyphens
    };
    text.len() <= MAX_DOMAIN && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Network {
        text.parse().unwrap()
    }

    /// The setting that is named, and what is said of it.
    fn refusal(text: &str) -> (String, String) {
        let error = text.parse::<Network>().unwrap_err();
        (error.setting, error.problem)
    }

    /// Each of these texts is refused, names `setting` and says `problem`.
    fn check_refusals(cases: &[(&str, &str, &str)]) {
        for (text, setting, problem) in cases {
            let (named, said) = refusal(text);
            assert_eq!(named, *setting, "{text}");
            assert!(said.contains(problem), "{text}: {said}");
        }
    }

    #[test]
    fn reads_every_setting() {
        let network = read(
            "dhcp4,dns=192.0.2.1,dns=2001:db8::1,search=example.org,ntp=192.0.2.2,route=198.51.100.0/24@192.0.2.9,\
             route=203.0.113.0/24,bond=802.3ad:eth0+52:54:00:12:34:56,vlan=10,mtu=1400,hostname=node7.example.org",
        );
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network.method, Method::Auto { v4: true, v6: false });
        assert_eq!(network.dns, [address("192.0.2.1"), address("2001:db8::1")]);
        assert_eq!(
            (network.search, network.ntp),
            (vec!["example.org".to_owned()], vec![address("192.0.2.2")])
        );
        let route =
            Route { destination: address("198.51.100.0"), prefix: 24, gateway: Some(address("192.0.2.9")) };
        let on_link = Route { destination: address("203.0.113.0"), prefix: 24, gateway: None };
        assert_eq!(network.routes, [route, on_link]);
        let links = vec![LinkName::Name("eth0".to_owned()), LinkName::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])];
        assert_eq!(network.bond, Some(Bond { mode: BondMode::Lacp, links }));
        assert_eq!((network.vlan, network.mtu), (Some(10), Some(1400)));
        assert_eq!(network.hostname.as_deref(), Some("node7.example.org"));
    }

    #[test]
    fn an_address_makes_it_static() {
        let network = read("gw=fe80::1,addr=192.0.2.7/24,addr=2001:db8::7/64,gw=192.0.2.1");
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let addresses = vec![(address("192.0.2.7"), 24), (address("2001:db8::7"), 64)];
        let gateways = vec![address("fe80::1"), address("192.0.2.1")];
        assert_eq!(network.method, Method::Static { addresses, gateways });
    }

    #[test]
    fn without_a_method_it_is_dhcp() {
        assert_eq!(read("mtu=1400").method, Method::default());
        assert_eq!(read("auto6").method, Method::Auto { v4: false, v6: true });
    }

    #[test]
    fn has_one_canonical_text() {
        for (text, canonical) in [
            ("dhcp", "dhcp"),
            ("mtu=1400", "dhcp,mtu=1400"),
            ("auto6,hostname=n7,mtu=01400,vlan=7", "auto6,vlan=7,mtu=1400,hostname=n7"),
            ("link=52:54:00:AB:CD:EF", "dhcp,link=52:54:00:ab:cd:ef"),
            ("gw=192.0.2.1,addr=192.0.2.7/24", "addr=192.0.2.7/24,gw=192.0.2.1"),
            ("addr=2001:DB8:0:0::7/64,dns=2001:db8::2", "addr=2001:db8::7/64,dns=2001:db8::2"),
            ("bond=active-backup:eth0+eth1", "dhcp,bond=active-backup:eth0+eth1"),
            ("route=0.0.0.0/0@192.0.2.1", "dhcp,route=0.0.0.0/0@192.0.2.1"),
        ] {
            assert_eq!(read(text).to_string(), canonical);
            assert_eq!(read(canonical), read(text));
        }
    }

    #[test]
    fn refuses_unknown_settings_and_shapes() {
        let all = "expected dhcp, dhcp4, auto6 as the first word, or one of addr=, gw=";
        check_refusals(&[
            ("", "", "empty, "),
            ("static", "static", all),
            ("dhcp,", "", "a comma too many, or a blank after a comma"),
            ("dhcp,,vlan=7", "", "a comma too many, or a blank after a comma"),
            ("DHCP", "DHCP", all),
            ("dhcp,ip=192.0.2.1", "ip=192.0.2.1", all),
            (" dhcp", " dhcp", "begins with a blank"),
            ("dhcp, vlan=10", " vlan=10", "a blank after a comma"),
            ("dhcp, ", " ", "a blank after a comma"),
            ("mtu=1400,dhcp", "dhcp", "first word"),
            ("dhcp,auto6", "auto6", "first word"),
            ("mtu", "mtu", all),
        ]);
    }

    #[test]
    fn refuses_repeats_and_too_many() {
        check_refusals(&[
            ("mtu=1400,mtu=1400", "mtu=1400", "only one"),
            ("link=eth0,link=eth1", "link=eth1", "only one"),
            ("dns=192.0.2.1,dns=192.0.2.1", "dns=192.0.2.1", "once"),
            ("addr=192.0.2.7/24,addr=192.0.2.7/25", "addr=192.0.2.7/25", "once"),
            ("route=10.0.0.0/8,route=10.0.0.0/8@192.0.2.1", "route=10.0.0.0/8@192.0.2.1", "once"),
            ("addr=192.0.2.7/24,gw=192.0.2.1,gw=192.0.2.2", "gw=192.0.2.2", "once"),
        ]);
        let many: Vec<String> = (1..=17).map(|n| format!("dns=192.0.2.{n}")).collect();
        assert_eq!(refusal(&many.join(",")).0, "dns=192.0.2.17");
        let links: Vec<String> = (1..=17).map(|n| format!("eth{n}")).collect();
        assert!(
            refusal(&format!("bond=802.3ad:{}", links.join("+"))).1.contains("eth17: expected at most 16")
        );
    }

    #[test]
    fn refuses_contradictions() {
        check_refusals(&[
            ("dhcp,addr=192.0.2.7/24", "dhcp", "no addr="),
            ("auto6,addr=192.0.2.7/24", "auto6", "no addr="),
            ("dhcp,gw=192.0.2.1", "gw=192.0.2.1", "expected addr= with an IPv4"),
            ("addr=192.0.2.7/24,gw=fe80::1", "gw=fe80::1", "expected addr= with an IPv6"),
            ("addr=192.0.2.7/24,gw=192.0.2.7", "gw=192.0.2.7", "own"),
            ("link=eth0,bond=802.3ad:eth0", "link=eth0", "no bond="),
            ("dhcp4,route=2001:db8::/32", "route=2001:db8::/32", "not IPv6"),
            ("addr=2001:db8::7/64,route=10.0.0.0/8", "route=10.0.0.0/8", "not IPv4"),
            ("addr=192.0.2.7/24,route=10.0.0.0/8@192.0.2.7", "route=10.0.0.0/8@192.0.2.7", "itself"),
            ("addr=192.0.2.7/24,gw=192.0.2.1,route=0.0.0.0/0", "route=0.0.0.0/0", "second default"),
            ("auto6,mtu=1279", "mtu=1279", "IPv6 needs"),
            ("addr=2001:db8::7/64,mtu=1279", "mtu=1279", "IPv6 needs"),
        ]);
        for good in ["dhcp,mtu=576", "auto6,mtu=1280", "addr=192.0.2.7/24,mtu=576", "dhcp,route=::/0@fe80::1"]
        {
            read(good);
        }
    }

    #[test]
    fn refuses_numbers_out_of_range() {
        let vlan = "expected a number from 1 to 4094";
        let mtu = "expected a number from 576 to 9216";
        check_refusals(&[
            ("vlan=0", "vlan=0", vlan),
            ("vlan=4095", "vlan=4095", vlan),
            ("vlan=+7", "vlan=+7", vlan),
            ("vlan=", "vlan=", vlan),
            ("mtu=575", "mtu=575", mtu),
            ("mtu=9217", "mtu=9217", mtu),
            ("mtu=65537", "mtu=65537", mtu),
            ("addr=192.0.2.7/33", "addr=192.0.2.7/33", "from 1 to 32"),
            ("addr=192.0.2.7/0", "addr=192.0.2.7/0", "from 1 to 32"),
            ("addr=2001:db8::7/129", "addr=2001:db8::7/129", "from 1 to 128"),
            ("route=10.0.0.0/33", "route=10.0.0.0/33", "from 0 to 32"),
            ("addr=192.0.2.7", "addr=192.0.2.7", "ADDRESS/PREFIX"),
        ]);
    }

    #[test]
    fn refuses_addresses_that_no_node_can_have() {
        for address in [
            "0.0.0.0/8",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "255.255.255.255/32",
            "192.0.2.255/24",
            "192.0.2.0/24",
            "::/64",
            "::1/128",
            "ff02::1/64",
            "::ffff:192.0.2.7/120",
            "192.0.2/24",
            "fe80::1%eth0/64",
        ] {
            let setting = format!("addr={address}");
            assert_eq!(refusal(&setting).0, setting);
        }
        for good in ["192.0.2.0/31", "192.0.2.255/32", "192.0.2.255/23", "fe80::7/64", "2001:db8::/128"] {
            read(&format!("addr={good}"));
        }
        for name in ["dns", "ntp"] {
            for address in ["0.0.0.0", "::", "127.0.0.53", "ff02::1", "255.255.255.255", "example.org", ""] {
                let setting = format!("{name}={address}");
                assert_eq!(refusal(&setting).0, setting);
            }
        }
    }

    #[test]
    fn refuses_routes_that_lead_nowhere() {
        check_refusals(&[
            ("route=10.1.0.0/8", "route=10.1.0.0/8", "own address, 10.0.0.0/8"),
            ("route=2001:db8::1/64", "route=2001:db8::1/64", "2001:db8::/64"),
            ("route=10.0.0.0/8@fe80::1", "route=10.0.0.0/8@fe80::1", "an IPv4 gateway"),
            ("route=10.0.0.0/8@0.0.0.0", "route=10.0.0.0/8@0.0.0.0", "one other machine"),
            ("route=10.0.0.0/8@", "route=10.0.0.0/8@", "expected an IPv4 or IPv6 address"),
            ("route=10.0.0.0", "route=10.0.0.0", "ADDRESS/PREFIX"),
        ]);
    }

    #[test]
    fn refuses_bonds_without_links_or_with_one_twice() {
        check_refusals(&[
            ("bond=802.3ad", "bond=802.3ad", "expected active-backup:LINK+LINK"),
            ("bond=802.3ad:", "bond=802.3ad:", "expected a link"),
            ("bond=round-robin:eth0", "bond=round-robin:eth0", "or 802.3ad:LINK+LINK"),
            ("bond=802.3ad:eth0+eth0", "bond=802.3ad:eth0+eth0", "eth0: expected once"),
            ("bond=802.3ad:eth0+", "bond=802.3ad:eth0+", "expected a link"),
        ]);
        let twice = "bond=802.3ad:52:54:00:12:34:ab+52:54:00:12:34:AB";
        assert!(refusal(twice).1.contains("expected once"));
    }

    #[test]
    fn refuses_names_that_break_files() {
        let long = "a".repeat(MAX_LABEL + 1);
        for name in ["", "a b", "a\nb", "a/b", "-a", "a-", ".a", "a.", "a..b", "ü", "a:b", "a#", &long] {
            for setting in [format!("hostname={name}"), format!("search={name}")] {
                assert_eq!(refusal(&setting).0, setting.chars().take(MAX_SHOWN).collect::<String>());
            }
        }
        let long = format!("{0}.{0}", "a".repeat(32));
        for name in ["7", "10.0.0.7", "node.7", "a_b", long.as_str()] {
            assert_eq!(refusal(&format!("hostname={name}")).0, format!("hostname={name}"));
        }
        assert_eq!(read("hostname=7a,search=_tcp.example.org").hostname.as_deref(), Some("7a"));
    }

    #[test]
    fn link_names_are_words_or_hardware_addresses() {
        let mac = LinkName::Mac([2, 0, 0, 0, 0, 0xab]);
        assert_eq!("02:00:00:00:00:AB".parse(), Ok(mac.clone()));
        assert_eq!(mac.to_string(), "02:00:00:00:00:ab");
        for good in ["eth0", "enp0s31f6", "eth0.10", "wan_1", "a23456789012345"] {
            assert_eq!(good.parse::<LinkName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "lo",
            "all",
            "default",
            "a/b",
            "a b",
            "a+b",
            "a234567890123456",
            "ü",
            "eth0:1",
            "52:54",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "52:54:00:12:34:5",
            "52:54:00:12:34:+5",
            "52:54:00:12:34:56:78",
        ] {
            assert_eq!(bad.parse::<LinkName>().unwrap_err().setting, bad);
        }
    }

    #[test]
    fn the_boot_loaders_link_comes_in_several_spellings() {
        let mac = Some(LinkName::Mac([0x52, 0x54, 0, 0x12, 0x34, 0xab]));
        for good in [
            "01-52-54-00-12-34-ab",
            "01-52-54-00-12-34-AB",
            "52-54-00-12-34-ab",
            "52:54:00:12:34:ab",
            "52:54:00:12:34:AB",
            "01:52:54:00:12:34:ab",
        ] {
            assert_eq!(bootif(good), mac, "{good}");
        }
        for bad in [
            "",
            "eth0",
            "01",
            "20-52-54-00-12-34-ab",
            "01-52-54-00-12-34",
            "52-54-00-12-34",
            "52:54-00:12:34:ab",
            "01-00-00-00-00-00-00",
        ] {
            assert_eq!(bootif(bad), None, "{bad}");
        }
    }

    #[test]
    fn refuses_long_texts_also_when_only_their_canonical_form_is_long() {
        let label = |n: usize| "a".repeat(n);
        let settings = |last: usize| {
            let domain = format!("{0}.{0}.{0}", label(63));
            let many: Vec<String> = (0..5).map(|n| format!("search={n}.{domain}")).collect();
            format!("{},search={}", many.join(","), label(last))
        };
        assert_eq!(settings(7).len(), 1024 - 5);
        read(&settings(7));
        assert!(refusal(&settings(8)).1.contains("at most 1024 bytes"));
        let long = refusal(&format!("hostname={}", label(1024)));
        assert_eq!((long.0.len(), long.1.as_str()), (MAX_SHOWN, "expected at most 1024 bytes in all"));
    }
}
