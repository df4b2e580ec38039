//! What the init tells `zstrap-node lease` about the network that it leaves: `/run/zstrap/network.json`.
//!
//! In: the network in use at handoff, and later whatever has become of it. Out: one JSON file, replaced by rename, so
//! that a `lease` that is started again goes on where the last one stopped. Failure: the kernel's refusal, or what is
//! wrong with the file, with its path.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zstrap_formats::network::Network;
use zstrap_wire::dhcp4::Lease;

use crate::net::settings::Settings;
use crate::network::Via;

/// Where the file stands.
pub const HANDOVER: &str = "/run/zstrap/network.json";

/// A network in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The network settings in effect, in the syntax of the identity's `network`: they say whether DHCPv4 and routers
    /// are followed.
    pub network: String,
    /// The link in use, after VLAN and bond; none when the node booted without a network.
    pub link: Option<String>,
    /// Its index, by which it is known when something has given it another name.
    pub index: u32,
    /// The DHCPv4 lease in use.
    pub lease: Option<Lease>,
    /// When it was asked for: milliseconds of CLOCK_BOOTTIME, which nobody sets and which counts while the machine
    /// sleeps (clock_gettime(2)).
    pub obtained_ms: u64,
    /// What routers have named. It is in use until they are heard again, which may take minutes.
    pub routers: FromRouters,
}

/// Names that came from routers and DHCPv6; the kernel has the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromRouters {
    /// Name servers, best first.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
}

impl FromRouters {
    /// What is in use, without what the lease gave and what a person has set.
    fn of(network: &Network, via: &Via) -> Self {
        let lease = via.lease.as_ref().map(Settings::of_lease).unwrap_or_default();
        Self {
            dns: others(&via.settings.dns, &lease.dns, &network.dns),
            search: others(&via.settings.search, &lease.search, &network.search),
            ntp: others(&via.settings.ntp, &lease.ntp, &network.ntp),
        }
    }

    /// As settings of a link; none when routers have named nothing.
    #[must_use]
    pub fn settings(self) -> Option<Settings> {
        let is_empty = self == Self::default();
        let Self { dns, search, ntp } = self;
        (!is_empty).then(|| Settings { dns, search, ntp, ..Settings::default() })
    }
}

/// What comes from neither. Each name of the lease is taken off once, as a router may have said the same; where a
/// person has set something, nothing else counts.
fn others<T: Clone + PartialEq>(used: &[T], leased: &[T], wished: &[T]) -> Vec<T> {
    let mut others = if wished.is_empty() { used.to_vec() } else { Vec::new() };
    for name in leased {
        if let Some(at) = others.iter().position(|other| other == name) {
            others.remove(at);
        }
    }
    others
}

impl Handover {
    /// Settings in effect, and the link in use; none when the node booted without a network.
    #[must_use]
    pub fn of(network: &Network, via: Option<&Via>) -> Self {
        let without_link = Self { network: network.to_string(), ..Self::default() };
        let Some(via) = via else { return without_link };
        Self {
            link: Some(via.link.name.clone()),
            index: via.link.index,
            lease: via.lease.clone(),
            obtained_ms: milliseconds(via.obtained),
            routers: FromRouters::of(network, via),
            ..without_link
        }
    }

    /// The same with the lease as it was renewed last, and when.
    #[must_use]
    pub fn with_lease(self, (lease, obtained): (Lease, Duration)) -> Self {
        Self { lease: Some(lease), obtained_ms: milliseconds(obtained), ..self }
    }

    /// When the lease was asked for, since the kernel started.
    #[must_use]
    pub fn obtained(&self) -> Duration {
        Duration::from_millis(self.obtained_ms)
    }

    /// The text of the file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("text and numbers always serialize");
        json.push('\n');
        json
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `NotFound` when there is none; else what is wrong with it.
    pub fn load(path: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("reading {}: {error}", path.display()));
        let text = std::fs::read(path).map_err(named)?;
        serde_json::from_slice(&text).map_err(|error| named(error.into()))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::net::links::Link;
    use crate::sys::fake;

    fn handover() -> Handover {
        Handover {
            network: "dhcp,vlan=10".to_owned(),
            link: Some("eth0.10".to_owned()),
            index: 3,
            routers: FromRouters { dns: vec!["2001:db8::53".parse().unwrap()], ..FromRouters::default() },
            ..Handover::default()
        }
    }

    fn lease() -> Lease {
        Lease { search: vec!["example.org".to_owned()], ..fake::lease() }
    }

    fn handover_of(lease: Option<Lease>, network: &Network) -> Handover {
        let router = Settings {
            dns: vec!["2001:db8::53".parse().unwrap()],
            search: vec!["example.org".to_owned(), "example.net".to_owned()],
            ..Settings::default()
        };
        let leased = lease.as_ref().map(Settings::of_lease).unwrap_or_default();
        let learned = leased.merged_with(router).merged_with(Settings::of_network(network));
        let via = Via {
            link: Link { name: "eth0".to_owned(), index: 2, mac: [2, 0, 0, 0, 0, 1], has_master: false },
            settings: learned.with_wishes_of(network),
            lease,
            obtained: Duration::from_secs(3),
            made: None,
        };
        Handover::of(network, Some(&via))
    }

    #[test]
    fn names_of_routers_were_lost_at_the_handover() {
        for lease in [None, Some(lease())] {
            let handover = handover_of(lease, &Network::default());
            assert_eq!(handover.routers.dns, ["2001:db8::53".parse::<IpAddr>().unwrap()]);
            assert_eq!(handover.routers.search, ["example.org", "example.net"]);
        }
    }

    #[test]
    fn what_a_person_has_set_is_no_name_of_a_router() {
        let network = Network { dns: vec!["192.0.2.53".parse().unwrap()], ..Network::default() };
        let routers = handover_of(Some(lease()), &network).routers;
        assert_eq!((routers.dns.len(), routers.search.len()), (0, 2));
        assert_eq!(FromRouters::default().settings(), None);
    }

    #[test]
    fn the_lease_as_renewed_last_is_handed_over() {
        let before = handover_of(Some(lease()), &Network::default());
        let renewed = Lease { seconds: 60, ..lease() };
        let after = before.clone().with_lease((renewed.clone(), Duration::from_secs(13)));
        assert_eq!((after.lease.clone(), after.obtained()), (Some(renewed), Duration::from_secs(13)));
        assert_eq!((after.routers, after.index), (before.routers, 2));
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.json");
        std::fs::write(&path, handover().to_json()).unwrap();
        assert_eq!(Handover::load(&path).unwrap(), handover());
    }

    #[test]
    fn a_file_that_is_missing_or_damaged_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.json");
        let error = Handover::load(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, &handover().to_json()[..40]).unwrap();
        let error = Handover::load(&path).unwrap_err().to_string();
        assert!(error.contains("network.json: EOF"), "{error}");
    }
}
