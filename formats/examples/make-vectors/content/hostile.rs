//! One vector for each refusal: what a mirror, a signer of something else or a broken disk could present.

use base64ct::{Base64, Encoding};
use blake2::{Blake2b256, Digest as _};
use zstrap_formats::key::{PublicKey, SecretKey};
use zstrap_formats::slot;

use super::{LIST_COMMENT, config, good, key};

type Files = Vec<(String, Vec<u8>)>;

pub fn all() -> Files {
    let parts = [lists(), signatures(), keys(), slots(), latests()];
    let texts = [config::hostile(), config::hostile_identities()];
    parts.into_iter().chain(texts).flatten().collect()
}

const DIGESTS: &str = "md5digest=d41d8cd98f00b204e9800998ecf8427e \
    sha256digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn lists() -> Files {
    let file = format!("type=file mode=0644 size=0 {DIGESTS}");
    let without = |word: &str| {
        let words: Vec<&str> = file.split(' ').filter(|w| !w.starts_with(word)).collect();
        format!("./a {}", words.join(" "))
    };
    let instead = |from: &str, to: &str| format!("./a {}", file.replacen(from, to, 1));
    let dir = |path: &str| format!("{path} type=dir mode=0755");
    let huge = file.replacen("size=0", "size=9223372036854775807", 1);
    let long = "x".repeat(256);
    let lines = [
        ("path-absolute", dir("/etc")),
        ("path-bad-escape", dir("./a\\x41")),
        ("path-component-too-long", dir(&format!("./{long}"))),
        ("path-dot", dir("./a/./b")),
        ("path-dot-dot", dir("./../etc")),
        ("path-dot-dot-escaped", dir("./\\056\\056/etc")),
        ("path-empty-component", dir("./a//b")),
        ("path-escape-too-big", dir("./\\400")),
        ("path-escaped-slash", dir("./a\\057b")),
        ("path-nul", dir("./a\\000")),
        ("path-relative", dir("etc")),
        ("path-trailing-slash", dir("./a/")),
        ("path-up-alone", dir("..")),
        ("path-up-first", dir("../etc")),
        ("parent-a-file", format!("./a {file}\n{}", dir("./a/b"))),
        ("parent-a-link", format!("./a type=link link=/etc\n{}", dir("./a/b"))),
        ("parent-missing", dir("./a/b")),
        ("twice", format!("{}\n{}", dir("./a"), dir("./a"))),
        ("out-of-order", format!("{}\n{}", dir("./b"), dir("./a"))),
        ("root-a-file", format!(". {file}")),
        ("digest-short", instead("d41d8", "d41d")),
        ("digest-upper-case", instead("d41d8", "D41D8")),
        ("keyword-of-another-type", instead(" size", " link=/x size")),
        ("keyword-twice", instead(" size", " mode=0644 size")),
        ("keyword-unknown", instead(" size", " flags=uchg size")),
        ("keyword-without-value", instead(" size", " optional size")),
        ("link-empty", "./a type=link link=".to_owned()),
        ("link-missing", "./a type=link".to_owned()),
        ("link-nul", "./a type=link link=x\\000".to_owned()),
        ("missing-md5", without("md5")),
        ("missing-mode", without("mode")),
        ("missing-sha256", without("sha256")),
        ("missing-size", without("size")),
        ("missing-type", without("type")),
        ("mode-not-octal", instead("mode=0644", "mode=0648")),
        ("mode-too-big", instead("mode=0644", "mode=10000")),
        ("size-negative", instead("size=0", "size=-1")),
        ("size-too-big", instead("size=0", "size=18446744073709551616")),
        ("sizes-add-up-to-too-much", format!("./a {huge}\n./b {huge}")),
        ("type-device", "./a type=block mode=0600".to_owned()),
        ("uid-of-nobody-at-all", instead(" size", " uid=4294967295 size")),
        ("uid-too-big", instead(" size", " uid=4294967296 size")),
        ("line-bare-hash", instead("type", "#type")),
        ("line-comment", "# a comment".to_owned()),
        ("line-continued", format!("{} \\\n uid=0", dir("./a"))),
        ("line-empty", String::new()),
        ("line-set", "/set type=file".to_owned()),
        ("line-tab", "./a\ttype=dir mode=0755".to_owned()),
        ("line-utf8", dir("./gr\u{fc}n")),
        ("line-with-cr", format!("{}\r", dir("./a"))),
    ];
    let mut files: Files =
        lines.iter().map(|(name, body)| (name.to_string(), format!("#mtree\n{body}\n"))).map(list).collect();
    files.push(list(("not-a-list".to_owned(), "<!doctype html>\n".to_owned())));
    files.push(list(("no-bytes".to_owned(), String::new())));
    files.push(list(("cut-off".to_owned(), format!("#mtree\n{}", dir("./a")))));
    files
}

fn list((name, text): (String, String)) -> (String, Vec<u8>) {
    (format!("list/{name}.mtree"), text.into_bytes())
}

/// Signatures that pretend to be over `v1/list/demo.mtree` for a node that trusts alice.
fn signatures() -> Files {
    let demo = demo_list();
    let good = key("alice").sign(&demo, LIST_COMMENT).to_file();
    let lines: Vec<&str> = good.lines().collect();
    let line = |at: usize, text: &str| {
        let mut copy = lines.clone();
        copy[at] = text;
        format!("{}\n", copy.join("\n"))
    };
    let with_comment = |comment: &str| key("alice").sign(&demo, comment).to_file();
    let comment = |from: &str, to: &str| with_comment(&LIST_COMMENT.replacen(from, to, 1));
    let thief = SecretKey::from_seed([66; 32], key("alice").public().id().0);
    let texts = [
        ("by-unknown-key", key("mallory").sign(&demo, LIST_COMMENT).to_file()),
        ("by-a-borrowed-id", thief.sign(&demo, LIST_COMMENT).to_file()),
        ("over-other-bytes", key("alice").sign(b"#mtree\n", LIST_COMMENT).to_file()),
        ("comment-changed", good.replacen("2027-02-20", "2037-02-20", 1)),
        ("relabelled-as-legacy", line(1, &relabel(lines[1], *b"Ed"))),
        ("algorithm-unknown", line(1, &relabel(lines[1], *b"XX"))),
        ("kind-config", comment("kind=list", "kind=config")),
        ("kind-unknown", comment("kind=list", "kind=lists")),
        ("name-other", comment("name=demo", "name=demo2")),
        ("name-path", comment("name=demo", "name=../demo")),
        ("arch-other", comment("arch=amd64", "arch=arm64")),
        ("arch-any", comment("arch=amd64", "arch=any")),
        ("arch-unknown", comment("arch=amd64", "arch=x86_64")),
        ("expired", comment("expires=2027-02-20", "expires=2026-11-21")),
        ("from-the-future", comment("created=2026-11-20", "created=2026-11-23")),
        ("comment-of-minisign", with_comment("timestamp:1795161600\tfile:demo.mtree\thashed")),
        ("comment-of-version-2", comment("zstrap1", "zstrap2")),
        ("comment-disordered", comment("name=demo arch=amd64", "arch=amd64 name=demo")),
        ("comment-field-missing", comment(" arch=amd64", "")),
        ("comment-field-more", with_comment(&format!("{LIST_COMMENT} key=bob"))),
        ("comment-leading-zero", comment("serial=1", "serial=01")),
        ("comment-two-blanks", comment(" kind", "  kind")),
        ("date-of-no-calendar", comment("2027-02-20", "2027-02-30")),
        ("serial-negative", comment("serial=", "serial=-")),
        ("serial-too-big", comment("serial=1795161600", "serial=18446744073709551616")),
        ("line-1-other", line(0, "hello")),
        ("line-2-not-base64", line(1, "*")),
        ("line-2-short", line(1, "RWQ=")),
        ("line-3-untrusted", line(2, &lines[2].replacen("trusted", "untrusted", 1))),
        ("line-4-missing", format!("{}\n", lines[..3].join("\n"))),
        ("line-5-more", format!("{good}more\n")),
        ("no-bytes", String::new()),
        ("not-a-signature", "<!doctype html>\n".to_owned()),
    ];
    let mut files: Files = texts.map(|(name, text)| (name.to_owned(), text.into_bytes())).to_vec();
    files.push(("not-utf8".to_owned(), [good.as_bytes(), b"\xff\n"].concat()));
    files.push(("too-long".to_owned(), [good.as_bytes(), &[b'\n'; 16 * 1024]].concat()));
    files.into_iter().map(|(name, bytes)| (format!("signature/{name}.minisig"), bytes)).collect()
}

fn demo_list() -> Vec<u8> {
    let list = good::all().into_iter().find(|(name, _)| name == "list/demo.mtree");
    list.map(|(_, bytes)| bytes).expect("it is among the good ones")
}

fn relabel(line: &str, algorithm: [u8; 2]) -> String {
    let mut bytes = Base64::decode_vec(line).expect("it is base64");
    bytes[..2].copy_from_slice(&algorithm);
    Base64::encode_string(&bytes)
}

fn keys() -> Files {
    let public = key("alice").public();
    let line = |bytes: &[u8]| format!("untrusted comment: vector\n{}\n", Base64::encode_string(bytes));
    let raw = Base64::decode_vec(&public.to_base64()).expect("it is base64");
    let weak: Vec<u8> = raw[..10].iter().copied().chain([1]).chain([0; 31]).collect();
    let publics = [
        ("other-algorithm", line(&[b"EC", &raw[2..]].concat())),
        ("short", line(&raw[..41])),
        ("long", line(&[&raw[..], b"x"].concat())),
        ("weak", line(&weak)),
        ("two-keys", format!("{}\n{}\n", public.to_base64(), public.to_base64())),
        ("a-secret-key", key("alice").to_file()),
        ("not-a-key", "<!doctype html>\n".to_owned()),
    ];
    let secret = secret_bytes();
    let at = |offset: usize, bytes: &[u8]| {
        let mut copy = secret.clone();
        copy[offset..offset + bytes.len()].copy_from_slice(bytes);
        line(&copy)
    };
    let secrets = [
        ("password", at(2, b"Sc")),
        ("other-derivation", at(2, b"Ar")),
        ("other-checksum", at(4, b"B3")),
        ("damaged", at(100, &[secret[100] ^ 1])),
        ("mixed-halves", line(&mixed_halves(&secret))),
        ("a-public-key", public.to_file()),
        ("no-bytes", String::new()),
    ];
    let publics = publics.map(|(name, text)| (format!("public-key/{name}.pub"), text.into_bytes()));
    let secrets = secrets.map(|(name, text)| (format!("secret-key/{name}.key"), text.into_bytes()));
    publics.into_iter().chain(secrets).collect()
}

fn secret_bytes() -> Vec<u8> {
    let text = key("alice").to_file();
    Base64::decode_vec(text.lines().nth(1).unwrap_or_default()).expect("it is base64")
}

/// Alice's secret half with bob's public half, under a checksum that holds.
fn mixed_halves(secret: &[u8]) -> Vec<u8> {
    let bob = |public: PublicKey| Base64::decode_vec(&public.to_base64()).expect("it is base64");
    let mut bytes = secret.to_vec();
    bytes[94..126].copy_from_slice(&bob(key("bob").public())[10..]);
    let checksum = Blake2b256::digest([b"Ed", &bytes[54..126]].concat());
    bytes[126..].copy_from_slice(&checksum);
    bytes
}

fn slots() -> Files {
    let good = slot::write(config::identity().as_bytes()).expect("it fits");
    let at = |offset: usize, byte: u8| {
        let mut copy = good.clone();
        copy[offset] = byte;
        copy
    };
    let slots = [
        ("blank", slot::write(b"").expect("it fits")),
        ("damaged-hash", at(16, good[16] ^ 1)),
        ("damaged-length", at(12, good[12] ^ 1)),
        ("damaged-payload", at(60, good[60] ^ 1)),
        ("length-too-big", at(15, 0xff)),
        ("other-magic", at(0, b'z')),
        ("padding-not-zero", at(slot::SLOT_SIZE - 1, 1)),
        ("short", good[..slot::SLOT_SIZE - 1].to_vec()),
        ("version-2", at(8, 2)),
    ];
    slots.map(|(name, bytes)| (format!("slot/{name}.slot"), bytes)).to_vec()
}

fn latests() -> Files {
    let texts = [
        ("empty", ""),
        ("html", "<!doctype html>\n"),
        ("negative", "-1\n"),
        ("plus", "+1\n"),
        ("too-big", "18446744073709551616\n"),
        ("two-lines", "1\n2\n"),
        ("two-line-breaks", "1\n\n"),
    ];
    texts.map(|(name, text)| (format!("latest/{name}"), text.as_bytes().to_vec())).to_vec()
}
