//! Giving a link its settings, changing them, and taking them back.
//!
//! In: the index of a link and [`Settings`]. Out: addresses and routes in the kernel. Failure: the kernel's refusal
//! with what was refused; what was set before stays, and [`take_back`] removes it.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use zstrap_formats::network::Route;

use super::netlink;
use super::settings::Settings;
use super::v6;

/// The resolver of libc reads no more name servers (resolv.conf(5), MAXNS).
const MAX_NAME_SERVERS: usize = 3;

/// Gives a link all of these settings.
///
/// # Errors
/// The kernel's refusal, with the address or route in its text.
pub fn put(index: u32, settings: &Settings) -> io::Result<()> {
    change(index, &Settings::default(), settings)
}

/// Takes the settings back. What is gone already, or cannot go, does not matter: the next settings replace it.
pub fn take_back(index: u32, settings: &Settings) {
    // Nothing new is set, so nothing can be refused.
    let _ = change(index, settings, &Settings::default());
}

/// Brings a link from one set of settings to another: what is new first, so that nothing that stays is interrupted.
///
/// # Errors
/// The kernel's refusal, with the address or route in its text.
pub fn change(index: u32, old: &Settings, new: &Settings) -> io::Result<()> {
    if let Some(mtu) = new.mtu.filter(|mtu| old.mtu != Some(*mtu)) {
        // A link that cannot carry what is wished for still carries what it can.
        if let Err(error) = netlink::set_mtu(index, mtu) {
            log::warn!(target: "network", "MTU {mtu} not set error={error}");
        }
    }
    for &(address, prefix) in new.addresses.iter().filter(|address| !old.addresses.contains(address)) {
        netlink::add_address(index, address, prefix)
            .map_err(|error| named(&error, format!("setting the address {address}/{prefix}")))?;
    }
    let (old_routes, new_routes) = (all_routes(old), all_routes(new));
    for route in new_routes.iter().filter(|route| !old_routes.contains(route)) {
        netlink::add_route(index, route).map_err(|error| {
            named(&error, format!("setting the route to {}/{}", route.destination, route.prefix))
        })?;
    }
    // A route that has a successor to the same network was replaced already.
    let is_replaced = |route: &Route| new_routes.iter().any(|new| target(new) == target(route));
    for route in old_routes.iter().rev().filter(|route| !is_replaced(route)) {
        ignore_gone(netlink::remove_route(index, route));
    }
    for &(address, prefix) in old.addresses.iter().filter(|address| !new.addresses.contains(address)) {
        ignore_gone(netlink::remove_address(index, address, prefix));
    }
    // With an address go routes that the kernel believes to be its own.
    if !old.addresses.is_empty() && old.addresses != new.addresses {
        new_routes.iter().for_each(|route| ignore_gone(netlink::add_route(index, route)));
    }
    Ok(())
}

fn target(route: &Route) -> (IpAddr, u8) {
    (route.destination, route.prefix)
}

fn ignore_gone(result: io::Result<()>) {
    if let Err(error) = result {
        log::debug!(target: "network", "rtnetlink: {error}");
    }
}

fn named(error: &io::Error, what: String) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The routes in the order in which the kernel takes them: what is on the link first. A gateway outside the link's
/// networks, as some hosters have it, gets a route of its own.
fn all_routes(settings: &Settings) -> Vec<Route> {
    let (mut near, far): (Vec<Route>, Vec<Route>) =
        settings.routes.iter().copied().partition(|route| route.gateway.is_none());
    for gateway in far.iter().filter_map(|route| route.gateway) {
        let networks = settings.addresses.iter().copied();
        let is_near = networks
            .chain(near.iter().map(|route| (route.destination, route.prefix)))
            .any(|(address, prefix)| same_network(address, gateway, prefix));
        if !is_near && !is_link_local(gateway) {
            let prefix = if gateway.is_ipv4() { 32 } else { 128 };
            near.push(Route { destination: gateway, prefix, gateway: None });
        }
    }
    near.extend(far);
    near
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let (bits, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a) ^ u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b), 128),
        _ => return false,
    };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0) == 0
}

/// The text of resolv.conf(5). A name server with a link-local address is one of this link.
#[must_use]
pub fn resolv_conf(settings: &Settings, link: &str) -> String {
    let mut text = String::new();
    if !settings.search.is_empty() {
        writeln!(text, "search {}", settings.search.join(" ")).expect("a String takes all text");
    }
    for server in settings.dns.iter().take(MAX_NAME_SERVERS) {
        writeln!(text, "nameserver {}", v6::name_server(*server, link)).expect("a String takes all text");
    }
    text
}

/// The text of hosts(5): names that need no server.
#[must_use]
pub fn hosts(hostname: &str) -> String {
    format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::settings::default_route;
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_told_apart() {
        let (us, near, far) = (address("10.0.2.15"), address("10.0.2.2"), address("10.0.3.2"));
        assert!(same_network(us, near, 24) && !same_network(us, far, 24));
        assert!(same_network(us, far, 0) && !same_network(us, near, 32));
        assert!(same_network(address("2001:db8::1"), address("2001:db8::2"), 64));
        assert!(!same_network(address("2001:db8::1"), near, 0));
    }

    #[test]
    fn a_gateway_outside_the_network_gets_a_route_of_its_own() {
        let settings = Settings {
            addresses: vec![(address("192.0.2.7"), 32)],
            routes: vec![default_route(address("198.51.100.1"))],
            ..Settings::default()
        };
        let routes = all_routes(&settings);
        assert_eq!(routes[0], Route { destination: address("198.51.100.1"), prefix: 32, gateway: None });
        assert_eq!(routes.len(), 2);
        let near = Settings { addresses: vec![(address("198.51.100.7"), 24)], ..settings };
        assert_eq!(all_routes(&near), [default_route(address("198.51.100.1"))]);
    }

    #[test]
    fn resolv_conf_names_three_servers_at_most() {
        let settings = Settings {
            dns: (1..=5).map(|n| IpAddr::from([10, 0, 0, n])).collect(),
            search: vec!["farm.example".to_owned(), "example".to_owned()],
            ..Settings::default()
        };
        let text = resolv_conf(&settings, "eth0");
        assert!(text.starts_with("search farm.example example\nnameserver 10.0.0.1\n"));
        assert_eq!(text.lines().count(), 4);
    }
}
