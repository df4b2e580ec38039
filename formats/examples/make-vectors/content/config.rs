//! Configs and identities as JSON text: what people write, so it stands here as text.

use serde_json::{Value, json};
use zstrap_formats::digest;

use super::key;

/// The least config there is.
pub const MINIMAL: &str = r#"{
  "version": 1,
  "bundle": "demo",
  "exec": ["/sbin/zinit", "init"]
}
"#;

/// The least config with each default written out.
const DEFAULTS: &str = r#"{
  "version": 1,
  "description": "",
  "bundle": "demo",
  "bundles": [],
  "root": {
    "size": "0",
    "headroom": "25%",
    "disk": null
  },
  "registrars": [],
  "mycelium": {
    "peers": [],
    "listen": []
  },
  "debug": {
    "enabled": false,
    "allow": [],
    "password_hash": null
  },
  "exec": ["/sbin/zinit", "init"],
  "supervise": false,
  "env": {},
  "log": null,
  "on_failure": "reboot",
  "watchdog": null,
  "report": null,
  "grace": "10s",
  "min_serial": 0,
  "allow_setuid": false,
  "must_understand": []
}
"#;

/// The same with the fields that came after 1.0.
const EVERY_DEFAULT: &str = r#"{
  "version": 1,
  "description": "",
  "bundle": "demo",
  "bundles": [],
  "root": {
    "size": "0",
    "headroom": "25%",
    "disk": null,
    "offline_grace": "0"
  },
  "registrars": [],
  "mycelium": {
    "peers": [],
    "listen": [],
    "interface": "mycelium"
  },
  "debug": {
    "enabled": false,
    "allow": [],
    "password_hash": null
  },
  "exec": ["/sbin/zinit", "init"],
  "supervise": false,
  "env": {},
  "log": null,
  "on_failure": "reboot",
  "watchdog": null,
  "report": null,
  "grace": "10s",
  "min_serial": 0,
  "allow_setuid": false,
  "must_understand": []
}
"#;

/// Every field of 1.0.
const FULL: &str = r#"{
  "version": 1,
  "description": "Zero-OS, production",
  "bundle": "zos-prod",
  "bundles": ["zos-dev", "demo"],
  "root": {
    "size": "20GiB",
    "headroom": "256MiB",
    "disk": { "serial": "S4EVNX0M", "erase": true }
  },
  "registrars": ["https://registrar.example.org/v1"],
  "mycelium": {
    "peers": ["tcp://192.0.2.7:9651", "quic://[2001:db8::7]:9651"],
    "listen": ["tcp://[::]:9651"]
  },
  "debug": {
    "enabled": true,
    "allow": ["10.0.0.0/8", "2001:db8::1"],
    "password_hash": "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWRWJTmaaJObG"
  },
  "exec": ["/sbin/zinit-server", "--config", "/etc/zinit"],
  "supervise": true,
  "env": { "RUST_LOG": "info" },
  "log": "debug",
  "on_failure": "power-off",
  "watchdog": "60s",
  "report": "https://boot.example.org/report",
  "grace": "20s",
  "min_serial": 1795161600,
  "allow_setuid": true,
  "must_understand": ["root.disk", "debug"]
}
"#;

/// Every field there is now.
const EVERY_FIELD: &str = r#"{
  "version": 1,
  "description": "Zero-OS, production",
  "bundle": "zos-prod",
  "bundles": ["zos-dev", "demo"],
  "root": {
    "size": "20GiB",
    "headroom": "256MiB",
    "disk": { "serial": "S4EVNX0M", "erase": true },
    "offline_grace": "7d"
  },
  "registrars": ["https://registrar.example.org/v1"],
  "mycelium": {
    "peers": ["tcp://192.0.2.7:9651", "quic://[2001:db8::7]:9651"],
    "listen": ["tcp://[::]:9651"],
    "interface": "mycelium"
  },
  "debug": {
    "enabled": true,
    "allow": ["400:1234::/32", "2001:db8::1"],
    "password_hash": "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWRWJTmaaJObG"
  },
  "exec": ["/sbin/zinit-server", "--config", "/etc/zinit"],
  "supervise": true,
  "env": { "RUST_LOG": "info" },
  "log": "debug",
  "on_failure": "power-off",
  "watchdog": "60s",
  "report": "https://boot.example.org/report",
  "grace": "20s",
  "min_serial": 1795161600,
  "allow_setuid": true,
  "must_understand": ["root.offline_grace", "mycelium.interface"]
}
"#;

/// One config for each way of choosing a disk that is not in the others.
fn disks() -> Vec<(&'static str, String)> {
    let config = |disk: &str| {
        let exec = r#""exec": ["/sbin/zinit", "init"]"#;
        format!(
            "{{\n  \"version\": 1,\n  \"bundle\": \"demo\",\n  {exec},\n  \"root\": {{ \"size\": \"20GiB\", \"disk\": {disk} }}\n}}\n"
        )
    };
    [
        ("disk-auto.json", r#""auto""#),
        ("disk-smallest.json", r#""smallest""#),
        ("disk-largest.json", r#""largest""#),
        ("disk-by-path.json", r#"{ "path": "pci-0000:00:04.0-nvme-1" }"#),
        ("disk-by-size.json", r#"{ "size": "400GiB..600GiB" }"#),
        ("disk-at-least.json", r#"{ "size": "400GiB.." }"#),
        ("disk-at-most.json", r#"{ "size": "..1TiB" }"#),
    ]
    .map(|(name, disk)| (name, config(disk)))
    .to_vec()
}

/// A disk by its other name, and fields of a version that does not exist yet.
const LATER: &str = r#"{
  "version": 1,
  "bundle": "demo",
  "exec": ["/sbin/zinit", "init"],
  "root": { "size": "1TiB", "disk": { "wwn": "0x5002538e40a1b2c3" }, "encrypt": true },
  "colour": "green",
  "must_understand": ["root.size"]
}
"#;

/// Configs that a node reads; `later.json` is not for `parse_strict`.
pub fn good() -> Vec<(&'static str, String)> {
    let all =
        [("minimal.json", MINIMAL), ("defaults.json", DEFAULTS), ("full.json", FULL), ("later.json", LATER)];
    let later = [("every-default.json", EVERY_DEFAULT), ("every-field.json", EVERY_FIELD)];
    let texts = all.into_iter().chain(later).map(|(name, text)| (name, text.to_owned()));
    texts.chain(disks()).collect()
}

/// Configs that break one rule each.
pub fn hostile() -> Vec<(String, Vec<u8>)> {
    let hash = "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub";
    let debug = |allow: Value, hash: Value| json!({"enabled": true, "allow": allow, "password_hash": hash});
    let costs = |costs: &str| {
        debug(
            json!(["400:1234::/32"]),
            format!("$argon2id$v=19${costs}$c29tZXNhbHRzb21l$RdescudvJCsgt3ub").into(),
        )
    };
    let disk = |disk: Value| json!({"size": "1GiB", "disk": disk});
    let changes = [
        ("bundle-path", "bundle", json!("../demo")),
        ("bundles-upper-case", "bundles", json!(["Demo"])),
        ("debug-any-network", "debug", debug(json!([]), hash.into())),
        ("debug-clear-password", "debug", debug(json!(["10.0.0.0/8"]), "secret".into())),
        ("debug-network-too-long", "debug", debug(json!(["10.0.0.0/33"]), hash.into())),
        ("debug-network-of-all", "debug", debug(json!(["400::/7"]), hash.into())),
        ("debug-network-of-ipv4", "debug", debug(json!(["0.0.0.0/0"]), hash.into())),
        ("debug-networks-too-many", "debug", debug(json!(vec!["400:1::2"; 65]), hash.into())),
        (
            "debug-hash-of-no-base64",
            "debug",
            debug(json!(["400:1234::/32"]), hash.replace("c29t", "?").into()),
        ),
        ("debug-memory-too-little", "debug", costs("m=19455,t=2,p=1")),
        ("debug-memory-too-much", "debug", costs("m=65537,t=2,p=1")),
        ("debug-passes-too-many", "debug", costs("m=19456,t=11,p=1")),
        ("debug-lanes-too-many", "debug", costs("m=19456,t=2,p=5")),
        ("debug-no-password", "debug", json!({"enabled": true, "allow": ["10.0.0.0/8"]})),
        ("description-two-lines", "description", json!("a\nb")),
        ("disk-and-ram", "root", json!({"size": "0", "disk": {"serial": "S1"}})),
        ("disk-by-two-names", "root", json!({"size": "1GiB", "disk": {"serial": "S1", "wwn": "0x5"}})),
        ("disk-by-device", "root", disk(json!({"path": "/dev/sda"}))),
        ("disk-by-no-name", "root", disk(json!({"erase": false}))),
        ("disk-number", "root", disk(json!(1))),
        ("disk-path-erase", "root", disk(json!({"path": "pci-0000:00:04.0-nvme-1", "erase": true}))),
        ("disk-serial-blank", "root", disk(json!({"serial": "S1 S2"}))),
        ("disk-size-backwards", "root", disk(json!({"size": "2GiB..1GiB"}))),
        ("disk-size-erase", "root", disk(json!({"size": "1GiB..", "erase": true}))),
        ("disk-size-open", "root", disk(json!({"size": ".."}))),
        ("disk-size-single", "root", disk(json!({"size": "1GiB"}))),
        ("disk-word", "root", disk(json!("any"))),
        ("env-name", "env", json!({"1A": ""})),
        ("env-nul", "env", json!({"A": "\u{0}"})),
        ("exec-empty", "exec", json!([])),
        ("exec-is-text", "exec", json!("/sbin/zinit")),
        ("exec-nul", "exec", json!(["/sbin/zinit", "\u{0}"])),
        ("exec-relative", "exec", json!(["zinit"])),
        ("grace-too-long", "grace", json!("2d")),
        ("headroom-too-much", "root", json!({"headroom": "1001%"})),
        ("interface-option", "mycelium", json!({"interface": "-k"})),
        ("interface-too-long", "mycelium", json!({"interface": "sixteen-letters0"})),
        ("log-unknown", "log", json!("loud")),
        ("must-understand", "must_understand", json!(["exec", "root.encrypt"])),
        ("offline-grace-in-ram", "root", json!({"offline_grace": "7d"})),
        ("offline-grace-too-long", "root", json!({"size": "1GiB", "offline_grace": "31d"})),
        ("on-failure-unknown", "on_failure", json!("explode")),
        ("peer-without-port", "mycelium", json!({"peers": ["tcp://192.0.2.7"]})),
        ("listen-udp", "mycelium", json!({"listen": ["udp://192.0.2.7:1"]})),
        ("registrar-file", "registrars", json!(["file:///registrar"])),
        ("report-user", "report", json!("http://user@boot.example.org/")),
        ("size-decimal-unit", "root", json!({"size": "20GB"})),
        ("size-too-big", "root", json!({"size": "99999999999999TiB"})),
        ("version-2", "version", json!(2)),
        ("watchdog-too-short", "watchdog", json!("9s")),
        ("watchdog-zero", "watchdog", json!("0s")),
    ];
    let base: Value = serde_json::from_str(MINIMAL).expect("it is JSON");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, field, value) in changes {
        let mut config = base.clone();
        config[field] = value;
        files.push((format!("config/{name}.json"), format!("{config:#}\n").into_bytes()));
    }
    for (name, text) in [
        ("bundle-missing", r#"{"version": 1, "exec": ["/sbin/zinit"]}"#),
        ("bundle-twice", r#"{"version": 1, "bundle": "a", "bundle": "b", "exec": ["/sbin/zinit"]}"#),
        ("exec-missing", r#"{"version": 1, "bundle": "demo"}"#),
        ("not-an-object", "[1]"),
        ("not-json", "<!doctype html>"),
        ("version-missing", r#"{"bundle": "demo", "exec": ["/sbin/zinit"]}"#),
        ("version-twice", r#"{"version": 2, "version": 1, "bundle": "demo", "exec": ["/sbin/zinit"]}"#),
    ] {
        files.push((format!("config/{name}.json"), format!("{text}\n").into_bytes()));
    }
    files
}

fn identity_value() -> Value {
    json!({
        "version": 1,
        "build_time": "2026-11-20T08:00:00Z",
        "servers": ["http://boot.example.org:8080"],
        "keys": [key("alice").public().to_base64()],
        "threshold": 1,
        "config": {"name": "demo"},
        "farmer_id": "farm-7",
        "farming_pool_id": "pool-1"
    })
}

/// The least identity, as another program may write it.
pub fn identity() -> String {
    identity_value().to_string()
}

/// Every field there is now.
pub fn every_field_of_an_identity() -> String {
    let mut value: Value = serde_json::from_str(&full_identity()).expect("it is JSON");
    value["bundle"] = json!("zos-dev");
    value.to_string()
}

/// Every field of 1.0.
pub fn full_identity() -> String {
    let mut value = identity_value();
    value["servers"] =
        json!(["https://boot.example.org/site", "http://[2001:db8::5]:8080", "file:///media/site"]);
    value["keys"] = json!([key("alice").public().to_base64(), key("bob").public().to_base64()]);
    value["threshold"] = json!(2);
    let config = MINIMAL.as_bytes();
    value["config"] = json!({"name": "demo", "md5": digest::md5(config), "sha256": digest::sha256(config)});
    value["ca"] = json!("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    value["proxy"] = json!("http://proxy.example.org:3128");
    value["network"] = json!("dhcp");
    value["clock"] = json!("network");
    value["log"] = json!("normal");
    value.to_string()
}

/// Identities of nodes that are told about their network.
pub fn identities_with_network() -> Vec<(&'static str, String)> {
    let networks = [
        (
            "network-static",
            "addr=192.0.2.7/24,addr=2001:db8::7/64,gw=192.0.2.1,gw=fe80::1,dns=192.0.2.53,dns=2001:db8::53,\
             search=example.org,ntp=192.0.2.123,route=198.51.100.0/24@192.0.2.9,route=203.0.113.0/24,\
             link=52:54:00:12:34:56,vlan=10,mtu=1400,hostname=node7",
        ),
        ("network-bond", "dhcp4,bond=802.3ad:eth0+52:54:00:12:34:57,vlan=4094,mtu=9000"),
    ];
    let with = |network: &str| {
        let mut value = identity_value();
        value["network"] = json!(network);
        value.to_string()
    };
    networks.map(|(name, network)| (name, with(network))).into()
}

/// Identities that break one rule each.
pub fn hostile_identities() -> Vec<(String, Vec<u8>)> {
    let alice = key("alice").public().to_base64();
    let md5 = digest::md5(MINIMAL.as_bytes());
    let changes = [
        ("bundle-path", "bundle", json!("../demo")),
        ("build-time-local", "build_time", json!("2026-11-20T08:00:00+01:00")),
        ("ca-not-pem", "ca", json!("MIIB")),
        ("clock-unknown", "clock", json!("sundial")),
        ("farmer-id-blank", "farmer_id", json!("farm 7")),
        ("half-a-pin", "config", json!({"name": "demo", "md5": md5})),
        ("key-not-base64", "keys", json!(["RW?"])),
        ("key-twice", "keys", json!([alice, alice])),
        ("keys-none", "keys", json!([])),
        ("keys-too-many", "keys", json!(vec![alice.clone(); 17])),
        ("log-unknown", "log", json!("loud")),
        ("network-address-and-dhcp", "network", json!("dhcp,addr=192.0.2.7/24")),
        ("network-broadcast", "network", json!("addr=192.0.2.255/24")),
        ("network-gateway-alone", "network", json!("dhcp,gw=192.0.2.1")),
        ("network-gateway-other-family", "network", json!("addr=192.0.2.7/24,gw=fe80::1")),
        ("network-gateways-two", "network", json!("addr=192.0.2.7/24,gw=192.0.2.1,gw=192.0.2.2")),
        ("network-host-name-two-lines", "network", json!("dhcp,hostname=n7\n192.0.2.9")),
        ("network-link-and-bond", "network", json!("dhcp,link=eth0,bond=802.3ad:eth0+eth1")),
        ("network-mtu-too-small", "network", json!("dhcp,mtu=575")),
        ("network-too-long", "network", json!(format!("dhcp,search={}", "a".repeat(1024)))),
        ("network-unknown", "network", json!("static")),
        ("network-vlan-4095", "network", json!("dhcp,vlan=4095")),
        ("proxy-https", "proxy", json!("https://proxy.example.org")),
        ("server-ftp", "servers", json!(["ftp://boot.example.org"])),
        ("server-with-user", "servers", json!(["http://boot.example.org@192.0.2.9/"])),
        ("servers-none", "servers", json!([])),
        ("servers-too-many", "servers", json!(vec!["http://boot.example.org"; 17])),
        ("threshold-too-high", "threshold", json!(2)),
        ("threshold-zero", "threshold", json!(0)),
        ("unknown-field", "mirror", json!("http://mirror.example.org")),
        ("version-2", "version", json!(2)),
    ];
    let mut files = vec![("identity/not-json.json".to_owned(), b"no\n".to_vec())];
    for (name, field, changed) in changes {
        let mut value = identity_value();
        value[field] = changed;
        files.push((format!("identity/{name}.json"), format!("{value:#}\n").into_bytes()));
    }
    files
}
