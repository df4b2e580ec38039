//! What a link is to have, wherever that came from: a lease, a router, the identity.

use std::net::IpAddr;

use zstrap_formats::network::Route;

/// Addresses, routes and names for one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Addresses with the length of their network's prefix. Those that the kernel makes itself (SLAAC) are not here.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes, default routes included.
    pub routes: Vec<Route>,
    /// Name servers, best first.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// Our name.
    pub hostname: Option<String>,
    /// Largest packet in bytes.
    pub mtu: Option<u16>,
}
