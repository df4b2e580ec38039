//! Which links to use: all of them, one, a bond of some, a VLAN above any of these; and which to try first.
//!
//! In: the network settings and the hints of the kernel command line. Out: a [`Role`] for each link, and the links
//! that have to be made. What cannot be made is said, and the search goes on without it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::network::{BondMode, LinkName, Method, Network, bootif};

use crate::modules::Modules;
use crate::net::apply::ETHERNET_MTU;
use crate::net::links::Link;
use crate::net::netlink;

/// The bond that settings can ask for.
const BOND: &str = "bond0";
/// How long a bond waits for all its links to show up.
const LEGS: Duration = Duration::from_secs(10);
/// Pause after something could not be made.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The longest name of a link (IFNAMSIZ without its NUL).
const MAX_NAME: usize = 15;

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Ignored,
    /// To find a server through it.
    Used,
    /// To be part of the bond.
    Leg,
    /// To carry the VLAN.
    Below,
}

/// The links that settings ask for.
#[derive(Debug)]
pub struct Plan {
    network: Network,
    hint: Option<LinkName>,
}

impl Plan {
    /// A plan from settings, with `zstrap.link=` or else `BOOTIF=` as hint. A hint that is none is no reason to
    /// stay offline. Where settings leave one link, a hint has no choice, and must not keep that link waiting.
    #[must_use]
    pub fn new(network: Network, cmdline: &Cmdline) -> Self {
        let asked = cmdline.value("zstrap.link").and_then(|text| match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                log::warn!(target: "network", "hint ignored zstrap.link={text}: {error}");
                None
            }
        });
        let hint = asked.or_else(|| bootif(cmdline.value("BOOTIF")?));
        let hint = hint.filter(|_| network.link.is_none() && network.bond.is_none());
        Self { network, hint }
    }

    /// The settings.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The link to try first.
    #[must_use]
    pub fn hint(&self) -> Option<&LinkName> {
        self.hint.as_ref()
    }

    /// Whether there is a hint at another link than this.
    #[must_use]
    pub fn prefers_another(&self, link: &Link) -> bool {
        let Some(hint) = &self.hint else { return false };
        // A VLAN has the address of the link below it, and its name in front.
        let below = link.name.rsplit_once('.').filter(|_| self.is_our_vlan(link));
        !(link.is(hint)
            || below.is_some_and(|(below, _)| matches!(hint, LinkName::Name(name) if name == below)))
    }

    /// What this link is for.
    #[must_use]
    pub fn role(&self, link: &Link) -> Role {
        if self.is_our_vlan(link) {
            return Role::Used;
        }
        let above = if self.network.vlan.is_some() { Role::Below } else { Role::Used };
        match (&self.network.bond, &self.network.link) {
            (Some(_), _) if link.name == BOND => above,
            // A link of a bond has taken the address of the bond, so its own no longer tells it.
            (Some(bond), _) if link.has_master || bond.links.iter().any(|leg| link.is(leg)) => Role::Leg,
            (Some(_), _) => Role::Ignored,
            (None, Some(name)) if !link.is(name) => Role::Ignored,
            (None, _) => above,
        }
    }

    fn is_our_vlan(&self, link: &Link) -> bool {
        self.network
            .vlan
            .is_some_and(|id| link.name.ends_with(&format!(".{id}")) || link.name == format!("vlan{id}"))
    }

    /// Whether addresses may come from routers.
    #[must_use]
    pub fn listens_to_routers(&self) -> bool {
        matches!(self.network.method, Method::Auto { v6: true, .. })
    }

    /// Makes the bond and the VLANs whose links are there and that are not made yet. Whether links were changed.
    pub fn make_links(
        &self,
        links: &[Link],
        modules: &mut Modules,
        not_made: &mut NotMade,
        now: Duration,
    ) -> bool {
        let mut changed = false;
        for wish in self.wishes(links, now) {
            let name = wish.name();
            // Each try takes the link down and up again, which is news that wakes us.
            if not_made.get(&name).is_some_and(|tried| now < *tried + TRY_AGAIN) {
                continue;
            }
            // With the first leg, that is once a try: this is called at each packet.
            if matches!(wish, Wish::Join { .. }) && !changed {
                for leg in self.missing_legs(links) {
                    log::warn!(target: "network", "bond link={BOND} missing={leg}");
                }
            }
            match wish.make(modules) {
                Ok(()) => log::info!(target: "network", "{wish}"),
                Err(error) => {
                    log::warn!(target: "network", "not made: {wish} error={error}");
                    not_made.insert(name, now);
                }
            }
            changed = true;
        }
        changed
    }

    /// Links that the bond is to have and that are not there when it is made. Whoever has mistyped one would not learn of it.
    fn missing_legs(&self, links: &[Link]) -> Vec<&LinkName> {
        let legs = self.network.bond.iter().flat_map(|bond| &bond.links);
        let is_made = links.iter().any(|link| link.name == BOND);
        legs.filter(|leg| !is_made && !links.iter().any(|link| link.is(leg))).collect()
    }

    fn wishes<'a>(&self, links: &'a [Link], now: Duration) -> Vec<Wish<'a>> {
        let of_role = |role| links.iter().filter(move |link| self.role(link) == role);
        let mut wishes = Vec::new();
        if let Some(bond) = &self.network.bond {
            let is_time = now >= LEGS || of_role(Role::Leg).count() >= bond.links.len();
            let loose = of_role(Role::Leg).filter(|leg| is_time && !leg.has_master);
            wishes.extend(loose.map(|leg| Wish::Join { leg, mode: bond.mode }));
        }
        if let Some(id) = self.network.vlan {
            let is_new = |below: &&Link| !links.iter().any(|link| link.name == vlan_name(below, id));
            let mtu = self.network.mtu;
            wishes.extend(of_role(Role::Below).filter(is_new).map(|below| Wish::Vlan { below, id, mtu }));
        }
        wishes
    }
}

/// What could not be made, by name, and when that was tried last.
pub type NotMade = BTreeMap<String, Duration>;

/// A change of links that the plan asks for.
enum Wish<'a> {
    Join { leg: &'a Link, mode: BondMode },
    Vlan { below: &'a Link, id: u16, mtu: Option<u16> },
}

impl fmt::Display for Wish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { leg, .. } => write!(f, "bond link={BOND} leg={}", leg.name),
            Self::Vlan { below, id, .. } => {
                write!(f, "vlan link={} id={id} below={}", vlan_name(below, *id), below.name)
            }
        }
    }
}

impl Wish<'_> {
    fn name(&self) -> String {
        match self {
            Self::Join { leg, .. } => leg.name.clone(),
            Self::Vlan { below, id, .. } => vlan_name(below, *id),
        }
    }

    fn make(&self, modules: &mut Modules) -> io::Result<()> {
        match self {
            Self::Join { leg, mode } => netlink::join(leg.index, bond(*mode, modules)?),
            Self::Vlan { below, id, mtu } => {
                modules.load("8021q");
                // A VLAN carries no more than the link below it.
                if let Some(mtu) = mtu.filter(|mtu| *mtu > ETHERNET_MTU) {
                    netlink::set_mtu(below.index, mtu)?;
                }
                netlink::create_vlan(below.index, &vlan_name(below, *id), *id)
            }
        }
    }
}

/// The index of the bond, which is made if it is not there.
fn bond(mode: BondMode, modules: &mut Modules) -> io::Result<u32> {
    // The kernel's numbers: BOND_MODE_ACTIVEBACKUP, BOND_MODE_8023AD.
    let mode = match mode {
        BondMode::ActiveBackup => 1,
        BondMode::Lacp => 4,
    };
    modules.load("bonding");
    match netlink::create_bond(BOND, mode) {
        // The driver has made one by itself, in another mode; or it was made for the link before, and keeps its mode.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let folder = format!("/sys/class/net/{BOND}/bonding");
            let _ = fs::write(format!("{folder}/mode"), mode.to_string());
            let _ = fs::write(format!("{folder}/miimon"), "100");
        }
        result => result?,
    }
    Link::index_of(BOND).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn vlan_name(below: &Link, id: u16) -> String {
    let name = format!("{}.{id}", below.name);
    if name.len() <= MAX_NAME { name } else { format!("vlan{id}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn link(name: &str, last: u8) -> Link {
        Link { name: name.to_owned(), index: u32::from(last), mac: [2, 0, 0, 0, 0, last], has_master: false }
    }

    fn plan(network: &str, cmdline: &str) -> Plan {
        Plan::new(network.parse().unwrap(), &Cmdline::parse(cmdline.as_bytes()))
    }

    #[test]
    fn all_links_are_used_unless_one_is_named() {
        assert_eq!(plan("dhcp", "").role(&link("eth0", 1)), Role::Used);
        let one = plan("dhcp,link=eth1", "");
        assert_eq!([one.role(&link("eth0", 1)), one.role(&link("eth1", 2))], [Role::Ignored, Role::Used]);
        assert_eq!(plan("dhcp,link=02:00:00:00:00:01", "").role(&link("x", 1)), Role::Used);
    }

    #[test]
    fn a_vlan_is_used_and_the_link_below_is_not() {
        let plan = plan("dhcp,vlan=10,link=eth0", "");
        let roles =
            [("eth0", 1), ("eth0.10", 1), ("eth1", 2), ("eth0.11", 1)].map(|(n, i)| plan.role(&link(n, i)));
        assert_eq!(roles, [Role::Below, Role::Used, Role::Ignored, Role::Ignored]);
        assert_eq!(vlan_name(&link("enp175s0f1np1x", 1), 4000), "vlan4000");
    }

    #[test]
    fn a_leg_that_is_not_there_is_named_when_the_bond_is_made() {
        let plan = plan("dhcp,bond=active-backup:eth0+eth5", "");
        assert_eq!(plan.missing_legs(&[link("eth0", 1)]), [&"eth5".parse().unwrap()]);
        assert!(plan.missing_legs(&[link("eth0", 1), link("eth5", 2)]).is_empty());
        assert!(plan.missing_legs(&[link("eth0", 1), link("bond0", 1)]).is_empty());
    }

    #[test]
    fn links_of_a_bond_stay_its_links() {
        let plan = plan("dhcp,bond=active-backup:02:00:00:00:00:01+eth1", "");
        // Both have the address of the first by now.
        let joined = Link { has_master: true, ..link("eth1", 1) };
        let roles = [link("eth0", 1), joined, link("bond0", 1), link("eth2", 3)].map(|link| plan.role(&link));
        assert_eq!(roles, [Role::Leg, Role::Leg, Role::Used, Role::Ignored]);
        let above = Plan::new("dhcp,bond=802.3ad:eth0+eth1,vlan=7".parse().unwrap(), &Cmdline::default());
        assert_eq!(above.role(&link("bond0", 1)), Role::Below);
        assert_eq!(above.role(&link("bond0.7", 1)), Role::Used);
    }

    #[test]
    fn a_hint_prefers_its_link() {
        let asked = plan("dhcp", "BOOTIF=01-02-00-00-00-00-01 zstrap.link=eth1");
        assert!(!asked.prefers_another(&link("eth1", 2)) && asked.prefers_another(&link("eth0", 1)));
        let loader = plan("dhcp", "BOOTIF=01-02-00-00-00-00-01");
        assert!(!loader.prefers_another(&link("eth0", 1)) && loader.prefers_another(&link("eth1", 2)));
        assert!(!plan("dhcp", "").prefers_another(&link("eth1", 2)));
    }

    #[test]
    fn a_hint_at_the_link_below_was_none_at_its_vlan() {
        let plan = plan("dhcp,vlan=10", "zstrap.link=eth1");
        assert!(!plan.prefers_another(&link("eth1.10", 2)) && plan.prefers_another(&link("eth0.10", 1)));
    }

    #[test]
    fn a_hint_kept_the_only_link_waiting() {
        for network in ["dhcp,link=eth1", "dhcp,bond=active-backup:eth1+eth2", "dhcp,link=eth1,vlan=7"] {
            let plan = plan(network, "zstrap.link=eth0");
            let links = ["eth1", "bond0", "eth1.7"].map(|name| link(name, 1));
            let mut used = links.iter().filter(|link| plan.role(link) == Role::Used);
            assert!(used.all(|link| !plan.prefers_another(link)), "{network}");
        }
    }
}
