//! What a node knows of itself after boot, for anyone on it to query.
//!
//! In: what the stages found. Out: `/run/zstrap/facts.json`, one flat object whose values are text, so that
//! `zstrap-node get NAME` needs no query language.

use std::collections::BTreeMap;

use zstrap_formats::identity::Identity;

use crate::config::NodeConfig;
use crate::early::{self, Machine};
use crate::list::VerifiedList;
use crate::network::Online;

/// Where the facts stand.
pub const FACTS: &str = "/run/zstrap/facts.json";

/// Facts by name.
pub type Facts = BTreeMap<String, String>;

/// All facts of this boot.
#[must_use]
pub fn gather(
    machine: &Machine,
    identity: &Identity,
    online: &Online,
    config: &NodeConfig,
    list: &VerifiedList,
) -> Facts {
    let connection = online.connection();
    let lease = &connection.lease;
    let joined = |addresses: &[std::net::Ipv4Addr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let facts = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernel", machine.kernel.clone()),
        ("farmer_id", identity.farmer_id.to_string()),
        ("farming_pool_id", identity.farming_pool_id.to_string()),
        ("config", identity.config.name.to_string()),
        ("config_serial", config.serial().to_string()),
        ("bundle", config.bundle().to_string()),
        ("bundle_serial", list.serial().to_string()),
        ("image_built", identity.build_time.to_string()),
        ("server", connection.server.clone()),
        ("hostname", connection.hostname.clone()),
        ("link", connection.link.clone()),
        ("mac", connection.mac.clone()),
        ("address", format!("{}/{}", lease.address, lease.prefix)),
        ("gateway", lease.gateway().map(|gateway| gateway.to_string()).unwrap_or_default()),
        ("dns", joined(&lease.dns)),
        ("lease_seconds", lease.seconds.to_string()),
        ("booted", early::now().to_string()),
        ("boot_seconds", format!("{:.3}", machine.started.elapsed().as_secs_f64())),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The text of the facts file.
#[must_use]
pub fn to_json(facts: &Facts) -> String {
    let mut json = serde_json::to_string_pretty(facts).expect("text always serializes");
    json.push('\n');
    json
}
