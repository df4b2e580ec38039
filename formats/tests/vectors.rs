//! Reads every committed vector and says exactly what it must give.
//!
//! In: `formats/vectors/`. What these tests hold is the format itself: a change that breaks one of them breaks
//! images and sites that people already have.

#![allow(clippy::unwrap_used)]

#[path = "../examples/make-vectors/content/mod.rs"]
mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::config::{
    Config, ConfigError, Disk, DiskSelector, Headroom, LogLevel, OnFailure, PeerAddress, Root,
};
use zstrap_formats::digest::{ContentDigest, sha256};
use zstrap_formats::identity::{Clock, Identity, Pin};
use zstrap_formats::key::{KeyId, PublicKey, SecretKey};
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::name::Arch;
use zstrap_formats::network::{Bond, BondMode, LinkName, Method, Network, Route, bootif};
use zstrap_formats::packed::Packed;
use zstrap_formats::signature::{
    Accept, ArchField, Keyring, Kind, Signature, SignatureError, Subject, TrustedComment,
};
use zstrap_formats::{digest, site, slot};

/// The clock of a node that meets the vectors.
const NOW: &str = "2026-11-21T10:00:00Z";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn bytes(name: &str) -> Vec<u8> {
    let path = root().join("v1").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
}

fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).unwrap()
}

/// Paths of all files below `folder`, relative to it.
fn files_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn the_generator_makes_the_committed_files() {
    for (name, made) in content::all() {
        let committed = std::fs::read(root().join(&name)).unwrap_or_else(|e| panic!("reading {name}: {e}"));
        assert!(committed == made, "{name} is not what the generator makes");
    }
}

#[test]
fn every_committed_file_is_made_or_judged() {
    let made: BTreeSet<String> = content::all().into_iter().map(|(name, _)| name).collect();
    let others = files_below(&root()).into_iter().filter(|name| !made.contains(name)).collect::<Vec<_>>();
    let known = [
        "README.md",
        "make-judged",
        "v1/hostile/refusals.txt",
        "v1/judged/bsdtar.mtree",
        "v1/judged/message",
        "v1/judged/message.default.minisig",
        "v1/judged/message.legacy.minisig",
        "v1/judged/message.minisig",
        "v1/judged/minisign.key",
        "v1/judged/minisign.pub",
    ];
    assert_eq!(others, known);
}

#[test]
fn every_vector_is_a_fuzz_seed_byte_for_byte() {
    let seeds = root().join("../../fuzz/seeds");
    let mut used = BTreeSet::new();
    for seed in files_below(&seeds) {
        let Some(vector) = seed.split('/').nth(1).filter(|name| name.starts_with("v1__")) else { continue };
        let vector = vector.replace("__", "/");
        let same = std::fs::read(seeds.join(&seed)).unwrap() == std::fs::read(root().join(&vector)).unwrap();
        assert!(same, "fuzz/seeds/{seed} is not {vector}: run fuzz/make-seeds");
        used.insert(vector);
    }
    // Nothing parses an archive here, and text of this kind is for people.
    let parsed = |name: &String| {
        name.starts_with("v1/")
            && !name.contains("/cpio/")
            && !name.ends_with(".txt")
            && !name.ends_with("/message")
    };
    let cmdlines = ["demo", "network"].map(|name| format!("v1/cmdline/{name}.txt"));
    let expected: BTreeSet<String> =
        files_below(&root()).into_iter().filter(parsed).chain(cmdlines).collect();
    assert_eq!(used, expected, "vectors that are seeds: run fuzz/make-seeds");
}

fn entry(path: &[u8], mode: u16, kind: EntryKind) -> Entry {
    Entry { path: path.to_vec(), mode, uid: 0, gid: 0, kind }
}

fn file(path: &[u8], mode: u16, content: &[u8]) -> Entry {
    entry(path, mode, EntryKind::File(ContentDigest::of(content)))
}

/// Reads a list both ways and checks that it is written as it was read.
fn canonical_list(name: &str) -> List {
    let list = List::parse(&bytes(name)).unwrap();
    assert_eq!(list.to_text().as_bytes(), bytes(name), "{name}");
    assert_eq!(List::parse_mtree(&bytes(name)).unwrap(), list, "{name}");
    list
}

#[test]
fn the_list_of_a_bundle() {
    let list = canonical_list("list/demo.mtree");
    let expected = [
        entry(b"", 0o755, EntryKind::Dir),
        entry(b"etc", 0o755, EntryKind::Dir),
        file(b"etc/empty", 0o644, b""),
        file(b"etc/motd", 0o644, b"hello\n"),
        entry(b"sbin", 0o755, EntryKind::Dir),
        entry(b"sbin/init", 0o777, EntryKind::Link(b"zinit".to_vec())),
        file(b"sbin/zinit", 0o755, b"not really zinit\n"),
        entry(b"tmp", 0o1777, EntryKind::Dir),
    ];
    assert_eq!(list.entries(), expected);
    assert_eq!(list.total_size(), 23);
}

#[test]
fn a_list_of_odd_names() {
    let list = canonical_list("list/odd-names.mtree");
    let paths: Vec<&[u8]> = list.entries().iter().map(|e| e.path.as_slice()).collect();
    let expected: [&[u8]; 17] = [
        b"#hash",
        b"-dash",
        b"..dots",
        b"\\040",
        b"a b",
        b"a=b",
        b"back\\slash",
        b"d",
        b"d-x",
        b"d/x",
        b"glob*?[x]",
        "grün".as_bytes(),
        b"line\nbreak",
        b"link",
        b"owned",
        b"raw\xff\x01",
        b"~tilde",
    ];
    assert_eq!(paths, expected);
    assert_eq!(list.entries()[13].kind, EntryKind::Link(b"/abs tgt#=\\\xff".to_vec()));
    let owned = &list.entries()[14];
    assert_eq!((owned.mode, owned.uid, owned.gid), (0o4711, 1000, 4_294_967_294));
    assert!(owned.is_setuid());
}

#[test]
fn a_list_that_another_signer_wrote() {
    let list = List::parse(&bytes("list/loose.mtree")).unwrap();
    let link = Entry { gid: 7, ..entry(b"a/l", 0o777, EntryKind::Link(b"../x".to_vec())) };
    assert_eq!(list.entries(), [entry(b"a", 0o755, EntryKind::Dir), link]);
    assert!(canonical_list("list/empty.mtree").entries().is_empty());
}

#[test]
fn keys_and_their_ids() {
    for (name, id) in [("alice", "AF000E7FC906D82B"), ("bob", ALICE_BOB[1])] {
        let public = PublicKey::parse(&text(&format!("keys/{name}.pub"))).unwrap();
        let secret = SecretKey::parse(&text(&format!("keys/{name}.key"))).unwrap();
        assert_eq!(public.id().to_string(), id);
        assert_eq!(secret.public(), public);
        assert_eq!(public.to_file(), text(&format!("keys/{name}.pub")));
        assert_eq!(secret.to_file(), text(&format!("keys/{name}.key")));
    }
}

const ALICE_BOB: [&str; 2] = ["AF000E7FC906D82B", "DAC6D2FCD837B681"];

fn ring(names: &[&str], threshold: usize) -> Keyring {
    let key = |name: &&str| PublicKey::parse(&text(&format!("keys/{name}.pub"))).unwrap();
    Keyring::new(names.iter().map(key).collect(), threshold).unwrap()
}

fn signature(name: &str) -> Signature {
    let signature = Signature::parse(&bytes(name)).unwrap();
    assert_eq!(signature.to_file(), text(name));
    signature
}

#[test]
fn signatures_of_one_and_of_two() {
    let list = bytes("list/demo.mtree");
    let one = signature("list/demo.mtree.minisig");
    let comment = ring(&["alice"], 1).verify(&list, &[one], Accept::PrehashedOnly).unwrap();
    assert_eq!(comment, content::LIST_COMMENT);
    let both = ALICE_BOB.map(|id| signature(&format!("list/demo.mtree.{id}.minisig")));
    let two = ring(&["bob", "alice"], 2);
    assert_eq!(two.verify(&list, &both, Accept::PrehashedOnly).unwrap(), content::LIST_COMMENT);
    let error = two.verify(&list, &both[..1], Accept::PrehashedOnly).unwrap_err();
    assert_eq!(error, SignatureError::Threshold { found: 1, threshold: 2 });
}

#[test]
fn the_signature_of_a_config() {
    let signature = signature("config/minimal.json.minisig");
    let config = bytes("config/minimal.json");
    let comment = ring(&["alice"], 1).verify(&config, &[signature], Accept::PrehashedOnly).unwrap();
    let comment: TrustedComment = comment.parse().unwrap();
    let name = "demo".parse().unwrap();
    let expected = TrustedComment {
        kind: Kind::Config,
        name,
        arch: ArchField::Any,
        serial: 1_795_161_600,
        created: "2026-11-20T08:00:00Z".parse().unwrap(),
        expires: "2027-02-20T08:00:00Z".parse().unwrap(),
    };
    assert_eq!(comment, expected);
    assert_eq!(comment.created.unix(), comment.serial);
}

#[test]
fn the_least_config_is_the_one_with_all_defaults() {
    let minimal = Config::parse_strict(&bytes("config/minimal.json")).unwrap();
    assert_eq!(minimal, Config::parse_strict(&bytes("config/defaults.json")).unwrap());
    assert_eq!(minimal.bundle.as_str(), "demo");
    assert_eq!(minimal.exec, ["/sbin/zinit", "init"]);
}

#[test]
fn the_config_with_every_field() {
    let config = Config::parse_strict(&bytes("config/full.json")).unwrap();
    let debug = config.debug.clone().unwrap();
    let allow: Vec<_> = debug.allow.iter().map(|n| format!("{}/{}", n.address, n.prefix)).collect();
    assert_eq!(allow, ["10.0.0.0/8", "2001:db8::1/128"]);
    assert!(debug.password_hash.starts_with("$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$"));
    let peers: Vec<_> = config.mycelium.peers.iter().map(PeerAddress::as_str).collect();
    assert_eq!(peers, ["tcp://192.0.2.7:9651", "quic://[2001:db8::7]:9651"]);
    assert_eq!(config.mycelium.listen, ["tcp://[::]:9651".parse().unwrap()]);
    let bundles: Vec<_> = config.allowed_bundles().map(|name| name.as_str()).collect();
    let disk = Disk { selector: DiskSelector::Serial("S4EVNX0M".to_owned()), erase: true };
    let root =
        Root { size: 20 << 30, headroom: Headroom::Bytes(256 << 20), disk: Some(disk), offline_grace: 0 };
    assert_eq!(bundles, ["zos-prod", "zos-dev", "demo"]);
    assert_eq!((config.description.as_str(), config.root), ("Zero-OS, production", root));
    assert_eq!(config.registrars, ["https://registrar.example.org/v1".parse().unwrap()]);
    assert_eq!(config.exec, ["/sbin/zinit-server", "--config", "/etc/zinit"]);
    assert_eq!(config.env, BTreeMap::from([("RUST_LOG".to_owned(), "info".to_owned())]));
    assert_eq!((config.supervise, config.allow_setuid), (true, true));
    assert_eq!((config.log, config.on_failure), (Some(LogLevel::Debug), OnFailure::PowerOff));
    assert_eq!((config.watchdog, config.grace, config.min_serial), (Some(60), 20, 1_795_161_600));
    assert_eq!(config.report, Some("https://boot.example.org/report".parse().unwrap()));
    assert_eq!(config.must_understand, ["root.disk", "debug"]);
    assert!(config.unknown_fields.is_empty());
}

#[test]
fn the_config_with_every_field_of_today() {
    let mut config = Config::parse_strict(&bytes("config/every-field.json")).unwrap();
    assert_eq!((config.root.offline_grace, config.mycelium.interface.as_str()), (7 * 86_400, "mycelium"));
    assert_eq!(config.debug.as_ref().unwrap().allow[0], "400:1234::/32".parse().unwrap());
    assert_eq!(config.must_understand, ["root.offline_grace", "mycelium.interface"]);
    // All else is as in 1.0.
    let full = Config::parse_strict(&bytes("config/full.json")).unwrap();
    config.root.offline_grace = 0;
    config.debug.as_mut().unwrap().allow[0] = "10.0.0.0/8".parse().unwrap();
    config.must_understand.clone_from(&full.must_understand);
    assert_eq!(config, full);
    let minimal = Config::parse_strict(&bytes("config/minimal.json")).unwrap();
    assert_eq!(minimal, Config::parse_strict(&bytes("config/every-default.json")).unwrap());
    assert_eq!((minimal.root.offline_grace, minimal.mycelium.interface.as_str()), (0, "mycelium"));
}

#[test]
fn the_configs_that_choose_a_disk() {
    const GIB: u64 = 1 << 30;
    let path = "pci-0000:00:04.0-nvme-1".to_owned();
    for (name, selector) in [
        ("auto", DiskSelector::Auto),
        ("smallest", DiskSelector::Smallest),
        ("largest", DiskSelector::Largest),
        ("by-path", DiskSelector::Path(path)),
        ("by-size", DiskSelector::Size { least: 400 * GIB, most: 600 * GIB }),
        ("at-least", DiskSelector::Size { least: 400 * GIB, most: u64::MAX }),
        ("at-most", DiskSelector::Size { least: 0, most: 1024 * GIB }),
    ] {
        let config = Config::parse_strict(&bytes(&format!("config/disk-{name}.json"))).unwrap();
        assert_eq!(config.root.disk, Some(Disk { selector, erase: false }), "{name}");
    }
}

#[test]
fn a_config_of_a_later_version_boots_old_images() {
    let later = Config::parse_node(&bytes("config/later.json")).unwrap();
    assert_eq!(later.unknown_fields, ["colour", "root.encrypt"]);
    let disk = Disk { selector: DiskSelector::Wwn("0x5002538e40a1b2c3".to_owned()), erase: false };
    assert_eq!((later.root.size, later.root.disk), (1 << 40, Some(disk)));
    let error = Config::parse_strict(&bytes("config/later.json")).unwrap_err();
    assert_eq!(error, ConfigError::Unknown("colour, root.encrypt".to_owned()));
}

#[test]
fn the_least_identity() {
    let identity = Identity::parse(&bytes("identity/terse.json")).unwrap();
    assert_eq!(identity.to_json(), text("identity/minimal.json"));
    assert_eq!(identity.build_time.to_string(), "2026-11-20T08:00:00Z");
    assert_eq!(identity.servers, ["http://boot.example.org:8080".parse().unwrap()]);
    assert_eq!(identity.keyring.keys(), ring(&["alice"], 1).keys());
    assert_eq!((identity.config.name.as_str(), identity.config.pin), ("demo", None));
    assert_eq!((identity.farmer_id.as_str(), identity.farming_pool_id.as_str()), ("farm-7", "pool-1"));
    assert_eq!((identity.ca, identity.proxy, identity.log), (None, None, None));
    assert_eq!((identity.network, identity.clock), (Network::default(), Clock::Hardware));
}

#[test]
fn the_identity_with_every_field() {
    let identity = Identity::parse(&bytes("identity/full.json")).unwrap();
    assert_eq!(identity.to_json(), text("identity/full.json"));
    let servers: Vec<_> = identity.servers.iter().map(|url| url.as_str()).collect();
    assert_eq!(servers, ["https://boot.example.org/site", "http://[2001:db8::5]:8080", "file:///media/site"]);
    assert_eq!(identity.keyring.keys(), ring(&["alice", "bob"], 2).keys());
    assert_eq!(identity.keyring.threshold(), 2);
    let config = bytes("config/minimal.json");
    let pin = Pin { md5: digest::md5(&config), sha256: digest::sha256(&config) };
    assert_eq!(identity.config.pin, Some(pin));
    assert!(identity.ca.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(identity.proxy, Some("http://proxy.example.org:3128".parse().unwrap()));
    assert_eq!((identity.clock, identity.log), (Clock::Network, Some(LogLevel::Normal)));
    assert_eq!(identity.bundle, None);
}

#[test]
fn the_identity_with_every_field_of_today() {
    let mut identity = Identity::parse(&bytes("identity/every-field.json")).unwrap();
    assert_eq!(identity.to_json(), text("identity/every-field.json"));
    assert_eq!(identity.bundle.take(), Some("zos-dev".parse().unwrap()));
    // All else is as in 1.0.
    assert_eq!(identity.to_json(), text("identity/full.json"));
}

#[test]
fn the_identities_that_say_how_the_network_is() {
    let network = |name: &str| {
        let identity = Identity::parse(&bytes(&format!("identity/{name}.json"))).unwrap();
        assert_eq!(identity.to_json(), text(&format!("identity/{name}.json")));
        identity.network
    };
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let fixed = network("network-static");
    let addresses = vec![(address("192.0.2.7"), 24), (address("2001:db8::7"), 64)];
    let gateways = vec![address("192.0.2.1"), address("fe80::1")];
    assert_eq!(fixed.method, Method::Static { addresses, gateways });
    assert_eq!(fixed.dns, [address("192.0.2.53"), address("2001:db8::53")]);
    assert_eq!((fixed.search, fixed.ntp), (vec!["example.org".to_owned()], vec![address("192.0.2.123")]));
    let routes: Vec<String> = fixed.routes.iter().map(Route::to_string).collect();
    assert_eq!(routes, ["198.51.100.0/24@192.0.2.9", "203.0.113.0/24"]);
    assert_eq!(fixed.link, Some(LinkName::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
    assert_eq!((fixed.vlan, fixed.mtu, fixed.hostname.as_deref()), (Some(10), Some(1400), Some("node7")));
    let bonded = network("network-bond");
    assert_eq!(bonded.method, Method::Auto { v4: true, v6: false });
    let links = vec![LinkName::Name("eth0".to_owned()), LinkName::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57])];
    assert_eq!(bonded.bond, Some(Bond { mode: BondMode::Lacp, links }));
}

#[test]
fn slots_and_the_archive_around_one() {
    for name in ["minimal", "full"] {
        let slot = bytes(&format!("slot/{name}.slot"));
        assert_eq!(slot::read(&slot).unwrap(), bytes(&format!("identity/{name}.json")));
    }
    let front = bytes("cpio/front.cpio");
    assert_eq!(&front[4096..4096 + slot::SLOT_SIZE], bytes("slot/minimal.slot"));
    assert_eq!(front.len() % slot::SLOT_ALIGN, 0);
}

#[test]
fn the_kernel_command_line() {
    let line = Cmdline::parse(&bytes("cmdline/demo.txt"));
    let seen: Vec<_> = line.parameters().iter().map(|p| (p.name.as_str(), p.value.as_deref())).collect();
    let expected = [
        ("BOOT_IMAGE", Some("/kernel")),
        ("console", Some("ttyS0,115200")),
        ("quiet", None),
        ("zstrap.log", Some("debug")),
        ("zstrap.bundle", Some("demo")),
        ("zstrap.farmer_id", Some("farm-7")),
        ("zstrap.farming-pool-id", Some("pool-1")),
        ("zstrap.tries", Some("3")),
        ("zstrap.reboot_after", Some("0")),
        ("note", Some("two words")),
        ("whole word", Some("in quotes")),
    ];
    assert_eq!(seen, expected);
    assert_eq!(line.value("zstrap.farming_pool_id"), Some("pool-1"));
    assert_eq!(line.value("zstrap.log"), Some("debug"));
}

#[test]
fn the_kernel_command_line_about_the_network() {
    let line = Cmdline::parse(&bytes("cmdline/network.txt"));
    let network: Network = line.value("zstrap.net").unwrap().parse().unwrap();
    assert_eq!(network.to_string(), "addr=192.0.2.7/24,gw=192.0.2.1,dns=192.0.2.53");
    assert_eq!(line.value("zstrap.link").unwrap().parse(), Ok(LinkName::Name("eth1".to_owned())));
    let card = LinkName::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(line.value("BOOTIF").and_then(bootif), Some(card));
}

#[test]
fn the_latest_file() {
    assert_eq!(site::parse_latest(&bytes("site/latest")), Some(1_795_161_600));
}

#[test]
fn the_hint_that_names_compressed_blobs() {
    let packed = Packed::parse(&bytes("site/packed")).unwrap();
    assert_eq!(
        packed.iter().collect::<Vec<_>>(),
        [(&sha256(b"hello"), 4096), (&sha256(b"hello world"), 70_000)]
    );
}

#[test]
fn keys_and_signatures_of_minisign() {
    let public = PublicKey::parse(&text("judged/minisign.pub")).unwrap();
    assert_eq!(public.id(), KeyId(0x6799_EF5F_B308_331C_u64.to_le_bytes()));
    assert_eq!(SecretKey::parse(&text("judged/minisign.key")).unwrap().public(), public);
    let ring = Keyring::new(vec![public], 1).unwrap();
    let verify = |name: &str, accept| {
        let signature = Signature::parse(&bytes(&format!("judged/{name}"))).unwrap();
        ring.verify(&bytes("judged/message"), &[signature], accept)
    };
    let comment = verify("message.minisig", Accept::PrehashedOnly).unwrap();
    let comment: TrustedComment = comment.parse().unwrap();
    assert_eq!((comment.serial, comment.arch), (7, ArchField::One(Arch::Arm64)));
    let usual = verify("message.default.minisig", Accept::PrehashedOnly).unwrap();
    assert!(usual.ends_with("\tfile:message\thashed"), "{usual}");
    assert_eq!(verify("message.legacy.minisig", Accept::Legacy).unwrap(), "an old signature");
    let error = verify("message.legacy.minisig", Accept::PrehashedOnly).unwrap_err();
    assert!(matches!(error, SignatureError::Legacy(_)), "{error}");
}

#[test]
fn a_list_of_bsdtar() {
    let list = List::parse_mtree(&bytes("judged/bsdtar.mtree")).unwrap();
    let expected = [
        entry(b"", 0o700, EntryKind::Dir),
        entry(b"d d", 0o700, EntryKind::Dir),
        file(b"d d/#=\\", 0o644, b"x"),
        file(b"empty", 0o755, b""),
        file(b"g*?[x]", 0o644, b"glob"),
        file("grün".as_bytes(), 0o644, "grün".as_bytes()),
        entry(b"link", 0o777, EntryKind::Link(b"/abs tgt#".to_vec())),
        file(b"raw\xff\x01", 0o644, b"raw"),
    ];
    assert_eq!(list.entries(), expected);
}

#[test]
fn every_hostile_vector_is_refused_for_its_own_reason() {
    let folder = root().join("v1/hostile");
    let mut expected = BTreeMap::new();
    for line in text("hostile/refusals.txt").lines().filter(|line| !line.starts_with('#')) {
        let (name, reason) = line.split_once(": ").unwrap_or_else(|| panic!("no \": \" in {line:?}"));
        assert!(expected.insert(name.to_owned(), reason.to_owned()).is_none(), "{name} stands twice");
    }
    let mut files = files_below(&folder);
    files.remove("refusals.txt");
    assert_eq!(files, expected.keys().cloned().collect(), "files and reasons");
    for (name, reason) in expected {
        assert_eq!(refusal(&name, &bytes(&format!("hostile/{name}"))), reason, "{name}");
    }
}

/// What a node says when it reads this file.
fn refusal(name: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (kind, _) = name.split_once('/').unwrap();
    let result = match kind {
        "list" => List::parse(bytes).map(drop).map_err(|e| e.to_string()),
        "signature" => obtain(bytes).map_err(|e| e.to_string()),
        "public-key" => PublicKey::parse(&text).map(drop).map_err(|e| e.to_string()),
        "secret-key" => SecretKey::parse(&text).map(drop).map_err(|e| e.to_string()),
        "config" => Config::parse_node(bytes).map(drop).map_err(|e| e.to_string()),
        "identity" => Identity::parse(bytes).map(drop).map_err(|e| e.to_string()),
        "slot" => slot::read(bytes).map(drop).map_err(|e| e.to_string()),
        "latest" => site::parse_latest(bytes).map(drop).ok_or_else(|| "not a serial".to_owned()),
        other => panic!("{name}: nothing reads {other}"),
    };
    result.expect_err(name)
}

/// What a node does with a signature over the list of bundle demo for amd64 when it trusts alice.
fn obtain(signature: &[u8]) -> Result<(), SignatureError> {
    let signature = Signature::parse(signature)?;
    let comment =
        ring(&["alice"], 1).verify(&bytes("list/demo.mtree"), &[signature], Accept::PrehashedOnly)?;
    let comment: TrustedComment = comment.parse()?;
    let name = "demo".parse().unwrap();
    comment.check_subject(&Subject { kind: Kind::List, name: &name, arch: ArchField::One(Arch::Amd64) })?;
    comment.check_time(NOW.parse().unwrap())
}

#[test]
fn the_good_signature_passes_where_the_hostile_ones_are_refused() {
    assert_eq!(obtain(&bytes("list/demo.mtree.minisig")), Ok(()));
}
