//! Giving a link its settings, changing them, and taking them back.
//!
//! In: the index of a link and [`Settings`]. Out: addresses and routes in the kernel. Failure: the kernel's refusal of
//! an address; all else is set nevertheless, and [`take_back`] removes it.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use zstrap_formats::network::Route;

use super::netlink;
use super::settings::Settings;
use super::v6;

/// The resolver of libc reads no more name servers (resolv.conf(5), MAXNS).
const MAX_NAME_SERVERS: usize = 3;
/// What an Ethernet link carries unless it is told otherwise (RFC 894).
pub const ETHERNET_MTU: u16 = 1500;

/// Gives a link all of these settings.
///
/// # Errors
/// The kernel's refusal of an address.
pub fn put(index: u32, settings: &Settings) -> io::Result<()> {
    change(index, &Settings::default(), settings)
}

/// Takes the settings back. What is gone already, or cannot go, does not matter: the next settings replace it.
pub fn take_back(index: u32, settings: &Settings) {
    // Nothing new is set, so nothing can be refused.
    let _ = change(index, settings, &Settings::default());
}

/// Brings a link from one set of settings to another: what is new first, so that nothing that stays is interrupted.
/// What is old goes whatever comes of the new; a route that the kernel does not take is said and left out, as a network
/// that names one bad route may still be good.
///
/// # Errors
/// The kernel's refusal of an address, with the address in its text.
pub fn change(index: u32, old: &Settings, new: &Settings) -> io::Result<()> {
    change_mtu(index, old.mtu, new.mtu);
    let result =
        add_addresses(index, new.addresses.iter().filter(|address| !old.addresses.contains(address)));
    let (old_routes, new_routes) = (all_routes(old), all_routes(new));
    add_routes(index, new_routes.iter().filter(|route| !old_routes.contains(route)));
    // A route that has a successor to the same network was replaced already.
    let is_replaced = |route: &Route| new_routes.iter().any(|new| target(new) == target(route));
    for route in old_routes.iter().rev().filter(|route| !is_replaced(route)) {
        ignore_gone(netlink::remove_route(index, route));
    }
    let mut gone = old.addresses.iter().filter(|address| !new.addresses.contains(address)).peekable();
    let something_goes = gone.peek().is_some();
    gone.for_each(|&(address, prefix)| ignore_gone(netlink::remove_address(index, address, prefix)));
    if something_goes {
        // With an address the kernel takes away those that it holds for secondary to it, and routes through them.
        let again = add_addresses(index, new.addresses.iter());
        add_routes(index, new_routes.iter());
        return result.and(again);
    }
    result
}

fn change_mtu(index: u32, old: Option<u16>, new: Option<u16>) {
    if old == new {
        return;
    }
    // A link that cannot carry what is wished for still carries what it can.
    let mtu = new.unwrap_or(ETHERNET_MTU);
    if let Err(error) = netlink::set_mtu(index, mtu) {
        log::warn!(target: "network", "MTU {mtu} not set error={error}");
    }
}

/// Adds all that can be added; the first refusal.
fn add_addresses<'a>(index: u32, addresses: impl Iterator<Item = &'a (IpAddr, u8)>) -> io::Result<()> {
    let mut first = Ok(());
    for &(address, prefix) in addresses {
        let result = netlink::add_address(index, address, prefix);
        first = first.and(result.map_err(|error| {
            io::Error::new(error.kind(), format!("setting the address {address}/{prefix}: {error}"))
        }));
    }
    first
}

fn add_routes<'a>(index: u32, routes: impl Iterator<Item = &'a Route>) {
    for route in routes {
        if let Err(error) = netlink::add_route(index, route) {
            let (destination, prefix) = (route.destination, route.prefix);
            log::warn!(target: "network", "route not set to={destination}/{prefix} error={error}");
        }
    }
}

fn target(route: &Route) -> (IpAddr, u8) {
    (route.destination, route.prefix)
}

fn ignore_gone(result: io::Result<()>) {
    if let Err(error) = result {
        log::debug!(target: "network", "rtnetlink: {error}");
    }
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

    /// The kernel itself is asked, in a network namespace that is made for it.
    #[test]
    fn another_address_of_the_same_network_takes_over_and_a_bad_route_is_left_out() {
        let mut program = std::process::Command::new("unshare");
        program.arg("-n").arg(std::env::current_exe().unwrap());
        let test = "net::apply::tests::in_a_namespace_of_its_own";
        let output = program.args(["--exact", test, "--ignored", "--nocapture"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run by the test above"]
    fn in_a_namespace_of_its_own() {
        const LOOPBACK: u32 = 1;
        let of = |last: u8| Settings {
            addresses: vec![(IpAddr::from([10, 0, 0, last]), 24)],
            // One gateway is a host, the other the broadcast address, which the kernel refuses.
            routes: vec![
                Route { destination: address("192.0.2.0"), prefix: 24, gateway: Some(address("10.0.0.255")) },
                default_route(address("10.0.0.1")),
            ],
            ..Settings::default()
        };
        let has = |words: &str, wanted: &str| {
            let output = std::process::Command::new("ip").args(words.split(' ')).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains(wanted)
        };
        netlink::link_up(LOOPBACK).unwrap();
        put(LOOPBACK, &of(15)).unwrap();
        change(LOOPBACK, &of(15), &of(16)).unwrap();
        assert!(has("-4 addr show dev lo", "10.0.0.16/24") && !has("-4 addr show dev lo", "10.0.0.15"));
        assert!(has("-4 route show", "default via 10.0.0.1"));
        take_back(LOOPBACK, &of(16));
        assert!(!has("-4 addr show dev lo", "10.0.0.16") && !has("-4 route show", "default"));
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
