//! What must hold for every input, not only for the examples: what is written reads back the same, what was
//! changed is refused, and no bytes whatever make a parser panic.
//!
//! In: random values of proptest. Failure: proptest prints the smallest input that breaks the property and keeps
//! it in `proptest-regressions/`; commit that file with the fix.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::{option, strategy};
use serde_json::{Map, Value, json};

use zstrap_formats::cmdline::{Cmdline, Parameter};
use zstrap_formats::config::{Config, ConfigError, LogLevel};
use zstrap_formats::digest::{self, ContentDigest, Md5};
use zstrap_formats::identity::{Clock, ConfigChoice, Identity, Pin};
use zstrap_formats::key::{PublicKey, SecretKey};
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::name::{Arch, Label, Name};
use zstrap_formats::network::{Bond, BondMode, LinkName, Method, Network, Route, SETTINGS, bootif};
use zstrap_formats::signature::{
    Accept, ArchField, Keyring, Kind, Signature, SignatureError, TrustedComment,
};
use zstrap_formats::time::{Timestamp, parse_span};
use zstrap_formats::url::Url;
use zstrap_formats::{site, slot};

// ---- strategies ----

/// The last second that a timestamp can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// Bytes that break careless readers, more often than chance would have them.
fn odd_byte() -> impl Strategy<Value = u8> {
    prop_oneof![2 => select(b" #=\\\n\r\t./*?[]\"-0".to_vec()), 1 => any::<u8>()]
}

/// One component of a path that Linux can name.
fn component() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![4 => vec(odd_byte(), 1..12), 1 => vec(odd_byte(), 250..=255)];
    bytes
        .prop_map(|bytes| bytes.into_iter().map(|b| if b == b'/' || b == 0 { b'_' } else { b }).collect())
        .prop_map(|name: Vec<u8>| if name == b"." || name == b".." { b"dots".to_vec() } else { name })
}

fn kind() -> impl Strategy<Value = EntryKind> {
    let target = vec(odd_byte(), 1..40).prop_map(|t| t.into_iter().map(|b| b.max(1)).collect());
    let content = (any::<[u8; 16]>(), any::<[u8; 32]>(), 0..1u64 << 40);
    prop_oneof![
        target.prop_map(EntryKind::Link),
        content.prop_map(|(md5, sha256, size)| {
            let (md5, sha256) = (digest::Digest(md5), digest::Digest(sha256));
            EntryKind::File(ContentDigest { size, md5, sha256 })
        }),
        strategy::Just(EntryKind::Dir),
    ]
}

fn leaf() -> impl Strategy<Value = (Vec<Vec<u8>>, u16, u32, u32, EntryKind)> {
    (vec(component(), 1..5), 0..=0o7777u16, 0..u32::MAX, 0..u32::MAX, kind())
}

/// Entries in any order, each with all its parents.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    vec(leaf(), 0..12).prop_map(|leaves| {
        let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for (components, mode, uid, gid, kind) in leaves {
            for depth in 1..components.len() {
                let path = components[..depth].join(&b'/');
                entries.insert(path.clone(), Entry { path, mode, uid, gid, kind: EntryKind::Dir });
            }
            let path = components.join(&b'/');
            entries.entry(path.clone()).or_insert(Entry { path, mode, uid, gid, kind });
        }
        entries.into_values().rev().collect()
    })
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9._-]{0,62}".prop_filter_map("no ..", |text| text.parse().ok())
}

fn label() -> impl Strategy<Value = Label> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| text.parse().unwrap())
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (0..=LAST_SECOND).prop_map(|seconds| Timestamp::from_unix(seconds).unwrap())
}

fn secret_key() -> impl Strategy<Value = SecretKey> {
    let seed = any::<[u8; 32]>().prop_filter("no entropy gives zeros", |seed| *seed != [0; 32]);
    (seed, any::<[u8; 8]>()).prop_map(|(seed, id)| SecretKey::from_seed(seed, id))
}

fn comment() -> impl Strategy<Value = TrustedComment> {
    let kinds = select(vec![Kind::List, Kind::Config, Kind::Keys, Kind::Images]);
    let archs = select(vec![ArchField::Any, ArchField::One(Arch::Amd64), ArchField::One(Arch::Arm64)]);
    (kinds, name(), archs, any::<u64>(), timestamp(), timestamp()).prop_map(
        |(kind, name, arch, serial, created, expires)| TrustedComment {
            kind,
            name,
            arch,
            serial,
            created,
            expires,
        },
    )
}

fn url() -> impl Strategy<Value = Url> {
    let host = prop_oneof![
        "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}",
        any::<std::net::Ipv4Addr>().prop_map(|a| a.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|a| format!("[{a}]")),
    ];
    let port = option::of(1..=u16::MAX).prop_map(|port| port.map_or(String::new(), |p| format!(":{p}")));
    let web = ("https?", host, port).prop_map(|(scheme, host, port)| format!("{scheme}://{host}{port}"));
    let base = prop_oneof![4 => web, 1 => Just("file://".to_owned())];
    let path = "(/[A-Za-z0-9%_~-]{0,6}){0,4}/{0,2}";
    (base, path).prop_map(|(base, path)| format!("{base}{path}").parse().unwrap())
}

/// Addresses that a machine can have, with a prefix that leaves them within their network.
fn own_address() -> impl Strategy<Value = (IpAddr, u8)> {
    let host = any::<u8>().prop_map(|n| n.clamp(1, 254));
    prop_oneof![
        (host.clone(), 8..=24u8).prop_map(|(n, prefix)| (Ipv4Addr::new(192, 0, 2, n).into(), prefix)),
        (host, any::<u16>(), 1..=128u8).prop_map(|(n, net, prefix)| {
            (Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, n.into()).into(), prefix)
        }),
    ]
}

fn other_host() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|n| Ipv4Addr::new(198, 51, 100, n).into()),
        any::<u16>().prop_map(|n| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 1, 0, n).into()),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    let auto = select(vec![(true, true), (true, false), (false, true)]);
    let fixed =
        (vec(own_address(), 1..4), vec(other_host(), 0..3)).prop_map(|(mut addresses, mut gateways)| {
            let mut seen = BTreeSet::new();
            addresses.retain(|(address, _)| seen.insert(*address));
            let mut families = BTreeSet::new();
            gateways.retain(|gateway| {
                addresses.iter().any(|(own, _)| own.is_ipv4() == gateway.is_ipv4())
                    && families.insert(gateway.is_ipv4())
            });
            Method::Static { addresses, gateways }
        });
    prop_oneof![auto.prop_map(|(v4, v6)| Method::Auto { v4, v6 }), fixed]
}

/// Routes of the families that the method has.
fn routes(method: &Method) -> impl Strategy<Value = Vec<Route>> + use<> {
    let has = |ipv4: bool| match method {
        Method::Auto { v4, v6 } => *(if ipv4 { v4 } else { v6 }),
        Method::Static { addresses, .. } => addresses.iter().any(|(own, _)| own.is_ipv4() == ipv4),
    };
    let families = (has(true), has(false));
    let route = (any::<u8>(), option::of(other_host())).prop_map(|(n, gateway)| {
        let ipv4 = gateway.map_or(n % 2 == 0, |gateway| gateway.is_ipv4());
        let v4 = (Ipv4Addr::new(10, n, 0, 0).into(), 16);
        let (destination, prefix) =
            if ipv4 { v4 } else { (Ipv6Addr::new(0xfd00, n.into(), 0, 0, 0, 0, 0, 0).into(), 32) };
        Route { destination, prefix, gateway }
    });
    vec(route, 0..4).prop_map(move |mut routes| {
        let mut seen = BTreeSet::new();
        routes.retain(|route| {
            let family = if route.destination.is_ipv4() { families.0 } else { families.1 };
            family && seen.insert((route.destination, route.prefix))
        });
        routes
    })
}

fn link_name() -> impl Strategy<Value = LinkName> {
    let name = "[a-z][a-z0-9._-]{0,14}".prop_filter("reserved", |name| name.parse::<LinkName>().is_ok());
    let mac = any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| LinkName::Mac([0x52, a, b, c, d, e]));
    prop_oneof![name.prop_map(LinkName::Name), mac]
}

/// At most one of them, and of the bond each link once.
fn links() -> impl Strategy<Value = (Option<LinkName>, Option<Bond>)> {
    let mode = select(vec![BondMode::ActiveBackup, BondMode::Lacp]);
    let bond = (mode, vec(link_name(), 1..4)).prop_map(|(mode, mut links)| {
        let mut seen = BTreeSet::new();
        links.retain(|link| seen.insert(link.to_string()));
        Bond { mode, links }
    });
    prop_oneof![
        Just((None, None)),
        link_name().prop_map(|link| (Some(link), None)),
        bond.prop_map(|bond| (None, Some(bond))),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    let method = method().prop_flat_map(|method| (routes(&method), Just(method)));
    let servers = || btree_set(other_host(), 0..4).prop_map(|servers| servers.into_iter().collect());
    let search = btree_set("[a-zA-Z0-9_]{1,9}([.][a-z]{1,9}){0,2}", 0..3)
        .prop_map(|domains| domains.into_iter().collect());
    let numbers = (option::of(1..=4094u16), option::of(1280..=9216u16));
    let hostname = option::of("[a-zA-Z0-9-]{0,9}[a-z]([.][0-9]{0,9}[a-zA-Z]){0,2}")
        .prop_map(|name| name.map(|name| name.trim_start_matches('-').to_owned()));
    (method, servers(), search, servers(), links(), numbers, hostname).prop_map(
        |((routes, method), dns, search, ntp, (link, bond), (vlan, mtu), hostname)| Network {
            method,
            link,
            bond,
            vlan,
            mtu,
            dns,
            search,
            ntp,
            routes,
            hostname,
        },
    )
}

fn identity() -> impl Strategy<Value = Identity> {
    let keys = btree_set(1..=255u8, 1..=16).prop_flat_map(|seeds| {
        let count = seeds.len();
        (Just(seeds), 1..=count)
    });
    let keyring = keys.prop_map(|(seeds, threshold)| {
        let key = |seed: u8| SecretKey::from_seed([seed; 32], [seed / 2; 8]).public();
        Keyring::new(seeds.into_iter().map(key).collect(), threshold).unwrap()
    });
    let pin = option::of((any::<[u8; 16]>(), any::<[u8; 32]>()))
        .prop_map(|pin| pin.map(|(a, b)| Pin { md5: digest::Digest(a), sha256: digest::Digest(b) }));
    let proxy =
        option::of("[a-z]{1,9}").prop_map(|host| host.map(|h| format!("http://{h}").parse().unwrap()));
    let ca = option::of("[ -~]{0,40}").prop_map(|body| {
        body.map(|text| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"))
    });
    let log = option::of(select(vec![LogLevel::Quiet, LogLevel::Normal, LogLevel::Debug]));
    let clock = select(vec![Clock::Hardware, Clock::Network]);
    let choice = (name(), pin, option::of(name()));
    let web = (ca, proxy, network());
    (timestamp(), vec(url(), 1..=16), keyring, choice, (label(), label()), web, clock, log).prop_map(
        |(build_time, servers, keyring, (name, pin, bundle), labels, (ca, proxy, network), clock, log)| {
            Identity {
                build_time,
                servers,
                keyring,
                config: ConfigChoice { name, pin },
                bundle,
                farmer_id: labels.0,
                farming_pool_id: labels.1,
                ca,
                proxy,
                network,
                clock,
                log,
            }
        },
    )
}

/// Of the kernel command line. Names may hold the byte 0xa0 in a letter, which no quoting of the kernel carries.
fn parameter() -> impl Strategy<Value = Parameter> {
    let any = ("[^\\s\"=[:cntrl:]]{1,12}", option::of("[^\"[:cntrl:]]{0,20}"));
    any.prop_map(|(name, value)| Parameter { name, value })
        .prop_filter("no byte 0xa0 in names", |parameter| parameter.to_text().is_ok())
}

/// Any JSON, a few levels deep.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z.]{1,6}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// How many pieces make a text: with more, hardly any would be a good one.
const PIECES: usize = 10;

/// Text made of the pieces of a format, so that parsers are entered deeply.
fn text_of(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        30 => select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..PIECES).prop_map(|pieces| pieces.concat())
}

const LIST_PIECES: &[&str] = &[
    "./a type=dir mode=0755\n",
    "./a/b type=link link=x\n",
    "./a\\040b uid=7 type=dir mode=755 nlink=3\n",
    "./f type=file mode=0644 size=0 md5digest=d41d8cd98f00b204e9800998ecf8427e sha256digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
    ". type=dir mode=1777\n",
    "d type=dir mode=0700\n",
    "\te\tmode=0700 \\\n",
    "\\043 type=link link=y\n",
    "g type=file size=0\n",
    "/set type=dir mode=0755\n",
    "/set md5=d41d8cd98f00b204e9800998ecf8427e sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
    "/unset mode type\n",
    "..\n",
    "h \\\n",
    " type=dir mode=0\n",
    "# remark\n",
    "\n",
    " ",
    "\\",
    "./a/",
];

// ---- the list ----

proptest! {
    #[test]
    fn lists_read_back_as_they_were_written(entries in entries()) {
        let list = List::new(entries.clone()).unwrap();
        let text = list.to_text();
        prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\n'), "{text}");
        prop_assert_eq!(List::parse(text.as_bytes()).unwrap(), list.clone());
        prop_assert_eq!(List::parse_mtree(text.as_bytes()).unwrap(), list.clone());
        let mut sorted = entries;
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        prop_assert_eq!(list.entries(), sorted);
    }

    #[test]
    fn parents_stand_before_their_children_and_exist(entries in entries()) {
        let list = List::new(entries).unwrap();
        let mut folders = BTreeSet::new();
        for entry in list.entries() {
            if let Some(slash) = entry.path.iter().rposition(|b| *b == b'/') {
                prop_assert!(folders.contains(&entry.path[..slash]), "{}", entry.display_path());
            }
            if entry.kind == EntryKind::Dir {
                folders.insert(entry.path.as_slice());
            }
        }
    }

    #[test]
    fn a_list_without_one_parent_is_refused(entries in entries(), which in any::<Index>()) {
        let list = List::new(entries).unwrap();
        let is_parent = |path: &[u8]| {
            list.entries().iter().any(|e| e.path.len() > path.len() && e.path.starts_with(path) && e.path[path.len()] == b'/')
        };
        let parents: Vec<_> = list.entries().iter().filter(|e| is_parent(&e.path)).collect();
        prop_assume!(!parents.is_empty());
        let missing = which.get(&parents);
        let rest: Vec<Entry> = list.entries().iter().filter(|e| e != missing).cloned().collect();
        prop_assert!(List::new(rest).is_err());
    }

    #[test]
    fn what_looks_like_a_list_is_read_or_refused(body in text_of(LIST_PIECES)) {
        let text = [b"#mtree\n", body.as_slice()].concat();
        for list in [List::parse(&text), List::parse_mtree(&text)].into_iter().flatten() {
            for entry in list.entries() {
                prop_assert!(entry.path.split(|b| *b == b'/').all(|part| part != b".." && part != b"."));
                prop_assert!(!entry.path.contains(&0) && entry.mode <= 0o7777);
            }
            prop_assert_eq!(List::parse(list.to_text().as_bytes()).unwrap(), list);
        }
        if let Ok(list) = List::parse(&text) {
            prop_assert_eq!(List::parse_mtree(&text).unwrap(), list, "a node's list is also an mtree list");
        }
    }
}

// ---- signatures and keys ----

fn verify(key: &SecretKey, data: &[u8], file: &[u8]) -> Result<String, SignatureError> {
    let ring = Keyring::new(vec![key.public()], 1).unwrap();
    ring.verify(data, &[Signature::parse(file)?], Accept::Legacy)
}

fn flip(bytes: &mut [u8], at: Index) {
    let bit = at.index(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

proptest! {
    #[test]
    fn what_was_signed_verifies_with_its_comment(
        key in secret_key(), data in vec(any::<u8>(), 0..300), text in "[^\r\n]{0,200}"
    ) {
        let file = key.sign(&data, &text).to_file();
        prop_assert_eq!(verify(&key, &data, file.as_bytes()), Ok(text));
    }

    #[test]
    fn any_flipped_bit_of_the_data_is_refused(
        key in secret_key(), mut data in vec(any::<u8>(), 1..300), text in "[ -~]{0,60}", at in any::<Index>()
    ) {
        let file = key.sign(&data, &text).to_file();
        flip(&mut data, at);
        prop_assert_eq!(verify(&key, &data, file.as_bytes()), Err(SignatureError::BadSignature(key.public().id())));
    }

    /// All but the text of the untrusted comment, which nobody signs.
    #[test]
    fn any_flipped_bit_of_the_signature_file_is_refused(
        key in secret_key(), data in vec(any::<u8>(), 0..50), text in "[ -~]{0,60}", at in any::<Index>()
    ) {
        let mut file = key.sign(&data, &text).to_file().into_bytes();
        let first_line = file.iter().position(|b| *b == b'\n').unwrap();
        flip(&mut file[first_line..], at);
        prop_assert!(verify(&key, &data, &file).is_err(), "{}", String::from_utf8_lossy(&file));
    }

    #[test]
    fn another_key_verifies_nothing(key in secret_key(), other in secret_key(), data in vec(any::<u8>(), 0..50)) {
        prop_assume!(key.public() != other.public());
        let file = key.sign(&data, "x").to_file();
        prop_assert!(verify(&other, &data, file.as_bytes()).is_err());
    }

    #[test]
    fn fewer_signers_than_the_threshold_are_refused(signers in btree_set(1..=6u8, 0..=6), threshold in 1..=6usize) {
        let key = |n: u8| SecretKey::from_seed([n; 32], [1; 8]);
        let ring = Keyring::new((1..=6).map(|n| key(n).public()).collect(), threshold).unwrap();
        let signatures: Vec<_> = signers.iter().map(|n| key(*n).sign(b"x", "y")).collect();
        // The same signer again is not one more.
        let doubled = [signatures.clone(), signatures].concat();
        let verified = ring.verify(b"x", &doubled, Accept::PrehashedOnly);
        prop_assert_eq!(verified.is_ok(), signers.len() >= threshold);
    }

    #[test]
    fn keys_survive_their_files_and_no_damage(key in secret_key(), at in any::<Index>()) {
        let public = key.public();
        prop_assert_eq!(&PublicKey::parse(&public.to_file()).unwrap(), &public);
        prop_assert_eq!(&PublicKey::parse(&public.to_base64()).unwrap(), &public);
        let file = key.to_file();
        prop_assert_eq!(&SecretKey::parse(&file).unwrap().public(), &public);
        let mut damaged = file.into_bytes();
        let first_line = damaged.iter().position(|b| *b == b'\n').unwrap() + 1;
        flip(&mut damaged[first_line..], at);
        // Only the key derivation's salt and limits, which no password means, may change unseen.
        if let Ok(read) = SecretKey::parse(&String::from_utf8_lossy(&damaged)) {
            prop_assert_eq!(read.public(), public);
        }
    }

    #[test]
    fn trusted_comments_read_back(comment in comment()) {
        let text = comment.to_string();
        prop_assert_eq!(text.parse::<TrustedComment>().unwrap(), comment);
    }

    #[test]
    fn a_changed_comment_is_another_comment_or_none(comment in comment(), at in any::<Index>(), byte in 0x20..0x7fu8) {
        let text = comment.to_string();
        let mut changed = text.clone().into_bytes();
        *at.get_mut(&mut changed) = byte;
        let changed = String::from_utf8(changed).unwrap();
        if let Ok(read) = changed.parse::<TrustedComment>() {
            prop_assert_eq!(read == comment, changed == text);
            prop_assert_eq!(read.to_string(), changed);
        }
    }
}

// ---- config and identity ----

fn base_config() -> Map<String, Value> {
    let text = include_str!("../vectors/v1/config/full.json");
    serde_json::from_str(text).unwrap()
}

proptest! {
    #[test]
    fn fields_of_later_versions_change_nothing(
        extra in btree_map("later_[a-z.]{1,8}", json_value(), 1..5),
        inner in select(vec!["", "/root", "/root/disk", "/mycelium", "/debug"]),
    ) {
        let base = Value::Object(base_config());
        let mut later = base.clone();
        let object = later.pointer_mut(inner).unwrap().as_object_mut().unwrap();
        object.extend(extra.clone());
        let old = Config::parse_node(base.to_string().as_bytes()).unwrap();
        let mut new = Config::parse_node(later.to_string().as_bytes()).unwrap();
        prop_assert_eq!(new.unknown_fields.len(), extra.len());
        let refused = matches!(Config::parse_strict(later.to_string().as_bytes()), Err(ConfigError::Unknown(_)));
        prop_assert!(refused);
        // Demanded, each of them refuses.
        for name in &new.unknown_fields {
            later["must_understand"] = json!([name]);
            let demanded = Config::parse_node(later.to_string().as_bytes());
            prop_assert_eq!(demanded, Err(ConfigError::MustUnderstand(name.clone())));
        }
        new.unknown_fields.clear();
        prop_assert_eq!(new, old);
    }

    #[test]
    fn the_order_of_fields_means_nothing(at in any::<Index>()) {
        let mut fields: Vec<_> = base_config().into_iter().collect();
        let middle = at.index(fields.len());
        fields.rotate_left(middle);
        let body: Vec<_> = fields.iter().map(|(k, v)| format!("{}:{v}", json!(k))).collect();
        let text = format!("{{{}}}", body.join(","));
        let expected = Config::parse_strict(Value::Object(base_config()).to_string().as_bytes());
        prop_assert_eq!(Config::parse_strict(text.as_bytes()), expected);
    }

    #[test]
    fn a_field_of_any_value_is_read_or_refused(field in any::<Index>(), value in json_value()) {
        let mut config = base_config();
        let name = config.keys().nth(field.index(config.len())).unwrap().clone();
        config[&name] = value;
        let text = Value::Object(config).to_string();
        if let Ok(read) = Config::parse_strict(text.as_bytes()) {
            prop_assert!(read.exec[0].starts_with('/'));
            prop_assert!(read.debug.is_none_or(|d| !d.allow.is_empty()));
            prop_assert_eq!(Config::parse_node(text.as_bytes()).is_ok(), true);
        }
    }

    #[test]
    fn identities_read_back(identity in identity()) {
        let text = identity.to_json();
        let again = Identity::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(again.to_json(), text);
        prop_assert_eq!(again.servers, identity.servers);
        prop_assert_eq!(again.keyring.keys(), identity.keyring.keys());
        prop_assert_eq!(again.keyring.threshold(), identity.keyring.threshold());
        prop_assert_eq!((again.config, again.build_time), (identity.config, identity.build_time));
        prop_assert_eq!((again.farmer_id, again.farming_pool_id), (identity.farmer_id, identity.farming_pool_id));
        prop_assert_eq!((again.ca, again.proxy), (identity.ca, identity.proxy));
        prop_assert_eq!((again.clock, again.log), (identity.clock, identity.log));
        prop_assert_eq!(again.network, identity.network);
    }

    #[test]
    fn an_identity_with_one_more_field_is_refused(identity in identity(), field in "x[a-z_]{0,12}", value in json_value()) {
        let mut json: Map<String, Value> = serde_json::from_str(&identity.to_json()).unwrap();
        json.insert(field, value);
        prop_assert!(Identity::parse(Value::Object(json).to_string().as_bytes()).is_err());
    }
}

// ---- network settings ----

const NETWORK_PIECES: &[&str] = &[
    "dhcp,",
    "dhcp4,",
    "auto6,",
    "addr=192.0.2.7/24,",
    "addr=2001:db8::7/64,",
    "gw=192.0.2.1,",
    "gw=fe80::1,",
    "dns=",
    "192.0.2.1",
    "ntp=2001:db8:0:0:1:0:0:2,",
    "search=Example.org,",
    "route=10.0.0.0/8",
    "route=::/0",
    "@192.0.2.9,",
    "link=eth0,",
    "bond=802.3ad:",
    "eth0+",
    "52:54:00:AB:cd:ef",
    "vlan=010,",
    "mtu=1279,",
    "mtu=1400",
    "hostname=n7",
    ",",
];

proptest! {
    #[test]
    fn networks_read_back(network in network()) {
        let text = network.to_string();
        prop_assert_eq!(text.parse::<Network>(), Ok(network), "{}", text);
    }

    #[test]
    fn the_order_of_network_settings_means_nothing(
        network in network(), order in Just(SETTINGS.to_vec()).prop_shuffle()
    ) {
        let text = network.to_string();
        let mut settings: Vec<&str> = text.split(',').collect();
        // The sort keeps the order of settings of one name, which counts, and a bare method stays first.
        settings.sort_by_key(|setting| {
            let name = setting.split('=').next().unwrap();
            order.iter().position(|known| *known == name).map_or(0, |at| at + 1)
        });
        prop_assert_eq!(settings.join(",").parse::<Network>(), Ok(network));
    }

    #[test]
    fn what_looks_like_network_settings_is_read_or_refused(bytes in text_of(NETWORK_PIECES)) {
        let text = String::from_utf8_lossy(&bytes);
        match text.trim_end_matches(',').parse::<Network>() {
            Ok(network) => prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network)),
            Err(error) => prop_assert!(!error.problem.is_empty()),
        }
    }

    #[test]
    fn link_names_read_back(link in link_name()) {
        prop_assert_eq!(link.to_string().parse::<LinkName>(), Ok(link.clone()));
        if let LinkName::Mac(_) = link {
            let hyphens = link.to_string().replace(':', "-");
            prop_assert_eq!(bootif(&hyphens.to_uppercase()), Some(link.clone()));
            prop_assert_eq!(bootif(&format!("01-{hyphens}")), Some(link));
        }
    }
}

// ---- slot, command line, small texts ----

proptest! {
    #[test]
    fn slots_give_back_their_payload(payload in vec(any::<u8>(), 1..slot::MAX_PAYLOAD)) {
        let slot = slot::write(&payload).unwrap();
        prop_assert_eq!(slot.len(), slot::SLOT_SIZE);
        prop_assert_eq!(slot::read(&slot).unwrap(), payload);
    }

    #[test]
    fn any_flipped_bit_of_a_slot_is_refused(payload in vec(any::<u8>(), 0..400), at in any::<Index>(), head in any::<bool>()) {
        let mut slot = slot::write(&payload).unwrap();
        let end = if head { 48 + payload.len() } else { slot.len() };
        flip(&mut slot[..end], at);
        prop_assert!(slot::read(&slot).is_err());
    }

    #[test]
    fn command_lines_read_back(parameters in vec(parameter(), 0..12), blanks in "[ \t]{1,3}") {
        let texts: Vec<_> = parameters.iter().map(|parameter| parameter.to_text().unwrap()).collect();
        let line = texts.join(&blanks);
        let read = Cmdline::parse(format!("{blanks}{line}{blanks}\n").as_bytes());
        prop_assert_eq!(read.parameters(), &parameters[..]);
        if let Some(last) = parameters.last() {
            prop_assert!(read.has(&last.name));
            prop_assert_eq!(read.value(&last.name), last.value.as_deref());
        }
    }

    #[test]
    fn nothing_after_the_dashes_is_a_setting(before in "[a-z =\"]{0,20}", after in ".{0,40}") {
        prop_assume!(before.matches('"').count() % 2 == 0);
        let without = Cmdline::parse(before.as_bytes());
        let with = Cmdline::parse(format!("{before} -- {after}").as_bytes());
        prop_assert_eq!(with, without);
    }

    #[test]
    fn timestamps_read_back_and_keep_their_order(a in timestamp(), b in timestamp()) {
        prop_assert_eq!(a.to_string().parse::<Timestamp>().unwrap(), a);
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        prop_assert_eq!(a.plus(b.unix()).unix(), (a.unix() + b.unix()).min(LAST_SECOND));
    }

    #[test]
    fn a_timestamp_has_one_spelling(text in "[0-9]{4}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z") {
        if let Ok(read) = text.parse::<Timestamp>() {
            prop_assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn spans_are_their_number_times_their_unit(n in 0..1u64 << 32, unit in select(vec![('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('y', 31_536_000)])) {
        prop_assert_eq!(parse_span(&format!("{n}{}", unit.0)).unwrap(), n * unit.1);
    }

    #[test]
    fn urls_read_back_and_join(url in url()) {
        prop_assert_eq!(url.as_str().parse::<Url>().unwrap(), url.clone());
        let below = url.join("configs.json");
        prop_assert!(below.parse::<Url>().is_ok(), "{below}");
    }

    #[test]
    fn serials_read_back(serial in any::<u64>(), line_break in any::<bool>()) {
        let text = format!("{serial}{}", if line_break { "\n" } else { "" });
        prop_assert_eq!(site::parse_latest(text.as_bytes()), Some(serial));
    }

    #[test]
    fn site_paths_stay_inside_the_site(name in name(), serial in any::<u64>()) {
        let path = site::list(&name, Arch::Arm64, serial);
        prop_assert!(path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "{path}");
    }
}

// ---- no bytes whatever ----

const JSON_PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"version\"",
    "1",
    "2",
    "\"bundle\"",
    "\"demo\"",
    "\"exec\"",
    "[\"/x\"]",
    "\"root\"",
    "\"size\"",
    "\"1GiB\"",
    "null",
    "true",
    "\"keys\"",
    "\"config\"",
    "1e999",
    "\"\\u0000\"",
    "\"\\ud800\"",
];

fn read_with_everything(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    drop(List::parse(bytes));
    drop(List::parse_mtree(bytes));
    drop(Signature::parse(bytes));
    drop(text.parse::<TrustedComment>());
    drop(PublicKey::parse(&text));
    drop(SecretKey::parse(&text));
    drop(Config::parse_node(bytes));
    drop(Config::parse_strict(bytes));
    drop(Identity::parse(bytes));
    drop(slot::read(bytes));
    drop(Cmdline::parse(bytes));
    let _ = site::parse_latest(bytes);
    drop(text.parse::<Url>());
    drop(text.parse::<Timestamp>());
    drop(parse_span(&text));
    drop(text.parse::<Name>());
    drop(text.parse::<Label>());
    drop(Md5::parse(&text));
    drop(text.parse::<Network>());
    drop(text.parse::<LinkName>());
    let _ = bootif(&text);
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..600)) {
        read_with_everything(&bytes);
    }

    #[test]
    fn no_broken_json_makes_a_parser_panic(bytes in text_of(JSON_PIECES)) {
        read_with_everything(&bytes);
    }

    #[test]
    fn no_broken_slot_makes_a_reader_panic(header in vec(any::<u8>(), 0..48), fill in any::<u8>()) {
        let mut slot = [slot::MAGIC.as_slice(), &header].concat();
        slot.resize(slot::SLOT_SIZE, fill);
        drop(slot::read(&slot));
    }
}
