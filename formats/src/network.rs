//! How a node is to configure its network.

use std::str::FromStr;

/// The network settings of an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// DHCPv4 on every link with a carrier; the first link through which a server answers is used.
    #[default]
    Dhcp,
}

/// A setting that this version cannot act on. Refused, not ignored: a node on the wrong network is lost.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("network {0:?} is not known, expected \"dhcp\"")]
pub struct NetworkError(String);

impl Network {
    /// The text form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if text == "dhcp" { Ok(Self::Dhcp) } else { Err(NetworkError(text.chars().take(100).collect())) }
    }
}
