//! The network of a node that booted without one, as from a stick whose cable was plugged in later.
//!
//! In: the network settings. Out: the service of the link that is the first to learn how it is to be used, by DHCPv4 or
//! from a router; the others are left. Cards alone are used, as bridges and tunnels are the bundle's own. A VLAN and a
//! bond are made while a node boots, with its kernel's modules: where the settings ask for one, there is no search.
//! Failure: the kernel's refusal to wait; a link that refuses is said, and tried again at the next turn.

use std::io;

use zstrap_formats::network::Network;

use super::Service;
use crate::fail::random;
use crate::net::keeper::Start;
use crate::net::links::Link;
use crate::net::netlink;
use crate::net::v6::{self, V6};

/// A search for the first link.
pub struct Search {
    /// The network settings in effect.
    pub network: Network,
    /// Whether they ask for DHCPv4.
    pub v4: bool,
    /// Whether they ask for routers.
    pub v6: bool,
}

impl Search {
    /// Not where the settings ask for what cannot be made any more.
    pub fn is_possible(network: &Network) -> bool {
        network.vlan.is_none() && network.bond.is_none()
    }

    /// Begins on the links that are new. One that was plugged in again is found by its service.
    pub fn begin_on_new_links(&self, services: &mut Vec<Service>) {
        for link in Link::all() {
            let is_known = services
                .iter()
                .any(|Service { link: old, .. }| old.index == link.index || old.name == link.name);
            if is_known || !is_used(&link, &self.network) || !link.is_card() {
                continue;
            }
            let name = link.name.clone();
            match self.begun(link) {
                Ok(service) => services.push(service),
                Err(error) => log::warn!(target: "lease", "not done link={name} error={error}"),
            }
        }
    }

    fn begun(&self, link: Link) -> io::Result<Service> {
        let (network, has_carrier) = (self.network.clone(), link.has_carrier());
        let (mac, index) = (link.mac, link.index);
        let start = Start { mac, random, network, v4: self.v4, lease: None, router: None, has_carrier };
        // IPv6 begins before the link is up, as in the init; unless it is asked for, the kernel must not begin it, either.
        if !self.v6 {
            v6::deafen(&link);
        }
        let service = Service::new(start, link, self.v6.then_some(V6::begin))?;
        netlink::link_up(index)?;
        Ok(service)
    }
}

/// One has something to keep: what routers give the others must not shadow it.
pub fn leave_others(services: &mut Vec<Service>) {
    if services.len() > 1 {
        services.retain_mut(|service| {
            let is_online = service.keeper.is_online();
            if !is_online {
                service.v6.take().into_iter().for_each(|v6| drop(v6.leave()));
            }
            is_online
        });
    }
}

fn is_used(link: &Link, network: &Network) -> bool {
    // A card that the bundle has made part of a bridge is not ours.
    !link.has_master && network.link.as_ref().is_none_or(|name| link.is(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vlan_or_a_bond_that_was_not_made_is_not_searched_for() {
        let is_possible = |network: &str| Search::is_possible(&network.parse().unwrap());
        assert!(is_possible("dhcp") && is_possible("auto6,link=eth0,mtu=1400"));
        assert!(!is_possible("dhcp,vlan=10") && !is_possible("dhcp,bond=active-backup:eth0+eth1"));
    }

    #[test]
    fn a_card_is_used_unless_another_one_is_named_or_the_bundle_has_taken_it() {
        let card = Link { name: "eth0".to_owned(), index: 2, mac: [2, 0, 0, 0, 0, 1], has_master: false };
        let used = |link: &Link, network: &str| is_used(link, &network.parse().unwrap());
        assert!(used(&card, "dhcp") && used(&card, "auto6,link=eth0"));
        assert!(used(&card, "dhcp,link=02:00:00:00:00:01"));
        assert!(!used(&card, "dhcp,link=eth1"));
        assert!(!used(&Link { has_master: true, ..card }, "dhcp"));
    }
}
