//! What the init tells `zstrap-node lease` about the network that it leaves: `/run/zstrap/network.json`.
//!
//! In: the network in use at handoff, and later whatever has become of it. Out: one JSON file, replaced by rename, so
//! that a `lease` that is started again goes on where the last one stopped. Failure: the kernel's refusal, or what is
//! wrong with the file, with its path.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zstrap_wire::dhcp4::Lease;

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
    /// The DHCPv4 lease in use.
    pub lease: Option<Lease>,
    /// When it was asked for: milliseconds of CLOCK_BOOTTIME, which nobody sets and which counts while the machine
    /// sleeps (clock_gettime(2)).
    pub obtained_ms: u64,
}

impl Handover {
    /// A link in use, or none.
    #[must_use]
    pub fn of(via: Option<&Via>) -> Self {
        let Some(via) = via else { return Self::default() };
        Self {
            network: via.network.to_string(),
            link: Some(via.link.name.clone()),
            lease: via.lease.clone(),
            obtained_ms: u64::try_from(via.obtained.as_millis()).unwrap_or(u64::MAX),
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn handover() -> Handover {
        Handover {
            network: "dhcp,vlan=10".to_owned(),
            link: Some("eth0.10".to_owned()),
            ..Handover::default()
        }
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
