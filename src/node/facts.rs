//! What a node knows of itself after boot, for anyone on it to query.
//!
//! In: what the stages found. Out: `/run/zstrap/facts.json`, one flat object whose values are text, so that
//! `zstrap-node get NAME` needs no query language, and `/run/zstrap/environment`, which shells and systemd read.

use std::collections::BTreeMap;

use zstrap_formats::identity::Identity;
use zstrap_formats::url::Url;

use crate::clock;
use crate::config::NodeConfig;
use crate::early::Machine;
use crate::list::VerifiedList;
use crate::net::settings::{addresses_text, gateway_text};
use crate::network::{Online, Via};

/// Where the facts stand.
pub const FACTS: &str = "/run/zstrap/facts.json";

/// Where what does not change stands as variables.
pub const ENVIRONMENT: &str = "/run/zstrap/environment";
/// Facts that stay what they are while the machine runs, and so may be variables of a service.
const LASTING: [&str; 9] = [
    "bundle",
    "bundle_serial",
    "config",
    "config_serial",
    "description",
    "farmer_id",
    "farming_pool_id",
    "registrars",
    "version",
];

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
    let fields = config.fields();
    let registrars: Vec<&str> = fields.registrars.iter().map(Url::as_str).collect();
    facts.insert("description".to_owned(), fields.description.clone());
    facts.insert("registrars".to_owned(), registrars.join(" "));
    facts.extend(fields.env.iter().map(|(name, value)| (format!("env.{name}"), value.clone())));
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

/// The lines of the environment file: the config's variables, and the lasting facts as `ZSTRAP_NAME`, which no config
/// can change. Values stand in double quotes, with a backslash before each of `"`, `\`, `` ` `` and `$`: so both `sh`
/// and systemd's `EnvironmentFile=` read them as they are, line ends included.
#[must_use]
pub fn environment(facts: &Facts, env: &BTreeMap<String, String>) -> String {
    let mut variables = env.clone();
    for name in LASTING {
        let value = facts.get(name).cloned().unwrap_or_default();
        variables.insert(format!("ZSTRAP_{}", name.to_ascii_uppercase()), value);
    }
    let mut text = String::new();
    for (name, value) in &variables {
        text.push_str(name);
        text.push_str("=\"");
        for letter in value.chars() {
            if matches!(letter, '"' | '\\' | '`' | '$') {
                text.push('\\');
            }
            text.push(letter);
        }
        text.push_str("\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_shell_reads_the_values_as_they_are() {
        let odd = [
            "",
            "a b",
            "'",
            "\"",
            "\\",
            "\\n",
            "$HOME ${HOME} $(id) `id`",
            "a\nb\n",
            "#;&|<>*?[]!~",
            "tab\there",
            " blanks ",
            "gr\u{fc}n",
            "a\\\nb",
        ];
        let env: BTreeMap<String, String> =
            odd.iter().enumerate().map(|(n, value)| (format!("ODD_{n}"), (*value).to_owned())).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), environment(&map(&[("farmer_id", "farm-7")]), &env)).unwrap();
        for shell in [["dash", "-c"].as_slice(), &["bash", "-c"], &["busybox", "sh", "-c"]] {
            let mut command = Command::new(shell[0]);
            command.args(&shell[1..]).arg("set -a; . \"$0\"; exec env -0").arg(file.path());
            let output = command.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let read: BTreeMap<&str, &str> = text.split('\0').filter_map(|v| v.split_once('=')).collect();
            for (name, value) in &env {
                assert_eq!(read.get(name.as_str()), Some(&value.as_str()), "{shell:?} {name}");
            }
            assert_eq!(read.get("ZSTRAP_FARMER_ID"), Some(&"farm-7"));
        }
    }

    /// `ConditionOSRelease=` reads a file of our choice with the parser of `EnvironmentFile=`. It compares one value.
    #[test]
    fn systemd_reads_the_values_as_they_are() {
        let odd = [
            "a b",
            "it's",
            "say \"q\"",
            "x\\y",
            "$HOME ${HOME} $(id) `id`",
            "l1\nl2",
            "#;&|<>!~",
            "gr\u{fc}n",
        ];
        let env: BTreeMap<String, String> =
            odd.iter().enumerate().map(|(n, value)| (format!("ODD_{n}"), (*value).to_owned())).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), environment(&map(&[("farmer_id", "farm-7")]), &env)).unwrap();
        let holds = |name: &str, value: &str| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let mut command = Command::new("systemd-analyze");
            command.env("SYSTEMD_OS_RELEASE", file.path());
            command.args(["condition", &format!("ConditionOSRelease=\"{name}={value}\"")]);
            command.output().unwrap().status.success()
        };
        for (name, value) in &env {
            assert!(holds(name, value), "{name}={value}");
            assert!(!holds(name, &format!("{value}x")), "{name}={value}x");
        }
        assert!(holds("ZSTRAP_FARMER_ID", "farm-7"));
    }

    #[test]
    fn no_config_can_say_whose_node_it_is() {
        let text = environment(
            &map(&[("farmer_id", "farm-7")]),
            &map(&[("ZSTRAP_FARMER_ID", "farm-8"), ("A", "b")]),
        );
        assert!(text.contains("ZSTRAP_FARMER_ID=\"farm-7\"\n") && text.contains("A=\"b\"\n"), "{text}");
        assert!(!text.contains("farm-8"), "{text}");
    }
}
