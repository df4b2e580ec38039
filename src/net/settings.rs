//! What a link is to have, wherever that came from: a lease, a router, the identity.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zstrap_formats::network::{Method, Network, Route};
use zstrap_wire::dhcp4::Lease;

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

/// What the kernel has made by itself from a router's advertisement (SLAAC, RFC 4862).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoconfigured {
    /// The address that it uses.
    pub address: Ipv6Addr,
    /// Length of its network's prefix in bits.
    pub prefix: u8,
    /// The router.
    pub gateway: Ipv6Addr,
}

/// All addresses of a link as text, those that it was given first.
#[must_use]
pub fn addresses_text(settings: &Settings, made: Option<&Autoconfigured>) -> String {
    let given = settings.addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}"));
    let made = made.map(|made| format!("{}/{}", made.address, made.prefix));
    given.chain(made).collect::<Vec<_>>().join(" ")
}

/// The gateway as text, or nothing.
#[must_use]
pub fn gateway_text(settings: &Settings, made: Option<&Autoconfigured>) -> String {
    let gateway = settings.gateway().or(made.map(|made| made.gateway.into()));
    gateway.map(|gateway| gateway.to_string()).unwrap_or_default()
}

impl Settings {
    /// What a DHCP server gave.
    #[must_use]
    pub fn of_lease(lease: &Lease) -> Self {
        let routes = lease.routes.iter().map(|route| Route {
            destination: route.destination.into(),
            prefix: route.prefix,
            gateway: route.gateway.map(IpAddr::from),
        });
        let all = |addresses: &[Ipv4Addr]| addresses.iter().copied().map(IpAddr::from).collect();
        Self {
            addresses: vec![(lease.address.into(), lease.prefix)],
            routes: routes.collect(),
            dns: all(&lease.dns),
            search: lease.search.clone(),
            ntp: all(&lease.ntp),
            hostname: lease.hostname.clone(),
            mtu: lease.mtu,
        }
    }

    /// What the network settings say by themselves: all of a static network, the additions to another.
    #[must_use]
    pub fn of_network(network: &Network) -> Self {
        let mut settings = Self { routes: network.routes.clone(), ..Self::default() };
        if let Method::Static { addresses, gateways } = &network.method {
            settings.addresses.clone_from(addresses);
            settings.routes.extend(gateways.iter().copied().map(default_route));
        }
        settings.with_wishes_of(network)
    }

    /// Both together; what `self` has comes first.
    #[must_use]
    pub fn merged_with(mut self, other: Self) -> Self {
        self.addresses.extend(other.addresses);
        self.routes.extend(other.routes);
        self.dns.extend(other.dns);
        self.search.extend(other.search);
        self.ntp.extend(other.ntp);
        self.hostname = self.hostname.or(other.hostname);
        // The smaller one passes everywhere.
        self.mtu = self.mtu.into_iter().chain(other.mtu).min();
        self
    }

    /// What a person has set wins over what the network says.
    #[must_use]
    pub fn with_wishes_of(mut self, network: &Network) -> Self {
        let instead = |ours: &mut Vec<IpAddr>, theirs: &[IpAddr]| {
            if !theirs.is_empty() {
                *ours = theirs.to_vec();
            }
        };
        instead(&mut self.dns, &network.dns);
        instead(&mut self.ntp, &network.ntp);
        if !network.search.is_empty() {
            self.search.clone_from(&network.search);
        }
        self.hostname = network.hostname.clone().or(self.hostname);
        self.mtu = network.mtu.or(self.mtu);
        self
    }

    /// The first default route's gateway.
    #[must_use]
    pub fn gateway(&self) -> Option<IpAddr> {
        self.routes.iter().find(|route| route.prefix == 0)?.gateway
    }
}

/// The way to everywhere.
#[must_use]
pub fn default_route(gateway: IpAddr) -> Route {
    let any = match gateway {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Route { destination: any, prefix: 0, gateway: Some(gateway) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Settings {
        Settings {
            addresses: vec![("192.0.2.7".parse().unwrap(), 24)],
            dns: vec!["192.0.2.1".parse().unwrap()],
            mtu: Some(1500),
            ..Settings::default()
        }
    }

    #[test]
    fn what_a_person_has_set_wins() {
        let network = Network {
            dns: vec!["198.51.100.1".parse().unwrap()],
            hostname: Some("node7".to_owned()),
            mtu: Some(9000),
            ..Network::default()
        };
        let settings = sample().with_wishes_of(&network);
        assert_eq!(settings.dns, network.dns);
        assert_eq!((settings.hostname.as_deref(), settings.mtu), (Some("node7"), Some(9000)));
        assert_eq!(sample().with_wishes_of(&Network::default()), sample());
    }

    #[test]
    fn two_sources_add_up_and_the_smaller_packet_wins() {
        let other =
            Settings { dns: vec!["2001:db8::1".parse().unwrap()], mtu: Some(1280), ..Settings::default() };
        let both = sample().merged_with(other);
        assert_eq!((both.dns.len(), both.mtu), (2, Some(1280)));
    }

    #[test]
    fn a_static_network_is_whole() {
        let network = Network {
            method: Method::Static {
                addresses: vec![("192.0.2.7".parse().unwrap(), 24)],
                gateways: vec!["192.0.2.1".parse().unwrap()],
            },
            ..Network::default()
        };
        let settings = Settings::of_network(&network);
        assert_eq!(settings.gateway(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(settings.addresses.len(), 1);
    }
}
