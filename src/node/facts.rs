//! What a node knows of itself after boot, for anyone on it to query.
//!
//! In: what the stages found. Out: `/run/zstrap/facts.json`, one flat object whose values are text, so that
//! `zstrap-node get NAME` needs no query language.

use std::collections::BTreeMap;

use zstrap_formats::identity::Identity;

use crate::clock;
use crate::config::NodeConfig;
use crate::early::Machine;
use crate::list::VerifiedList;
use crate::net::settings::{addresses_text, gateway_text};
use crate::network::{Online, Via};

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
    (config, list): (&NodeConfig, &VerifiedList),
    is_on_disk: bool,
) -> Facts {
    let connection = online.connection();
    let (keep, source) = (&machine.keep, if online.is_from_disk() { "disk" } else { "server" });
    let root = if is_on_disk { "disk" } else { "ram" };
    let mut facts: Facts = [
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
        ("source", source.to_owned()),
        ("root", root.to_owned()),
        ("root_why", keep.why_ram.clone().unwrap_or_default()),
        ("disk", keep.disk().filter(|_| is_on_disk).map_or_else(String::new, |(name, _)| name)),
        ("hostname", connection.hostname.clone()),
        ("booted", clock::now().to_string()),
        ("boot_seconds", format!("{:.3}", machine.started.elapsed().as_secs_f64())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(via) = &connection.via {
        set_network(&mut facts, via);
    }
    facts
}

/// What the facts say of the network; changed again by whoever keeps it up after handoff.
pub fn set_network(facts: &mut Facts, via: &Via) {
    let made = via.made.as_ref();
    let news = [
        ("link", via.link.name.clone()),
        ("mac", via.link.mac_text()),
        ("address", addresses_text(&via.settings, made)),
        ("gateway", gateway_text(&via.settings, made)),
        ("dns", via.settings.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        ("lease_seconds", via.lease.as_ref().map(|lease| lease.seconds.to_string()).unwrap_or_default()),
    ];
    facts.extend(news.map(|(name, value)| (name.to_owned(), value)));
}

/// The text of the facts file.
#[must_use]
pub fn to_json(facts: &Facts) -> String {
    let mut json = serde_json::to_string_pretty(facts).expect("text always serializes");
    json.push('\n');
    json
}
