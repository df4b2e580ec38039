//! Keeps the documents true: examples are the vectors they name, tables name the fields, defaults and limits that
//! the code has, links and paths lead somewhere.
//!
//! In: `docs/formats.md`, `docs/network.md`, `docs/threat-model.md`, `formats/vectors/`. A fenced block whose first line names
//! `vector=FILE` is that file; `lines=A..B` (from 1, both included) and `bytes=A..B` (from 0, a hex dump) show a part.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zstrap_formats::network::{LinkName, MAX_EACH, MAX_TEXT, METHODS, Network, SETTINGS, bootif};
use zstrap_formats::{cmdline, config, list, signature, site, slot, url};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Vec<u8> {
    let path = root().join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
}

fn text(path: &str) -> String {
    String::from_utf8(read(path)).unwrap()
}

const FORMATS: &str = "docs/formats.md";
const NETWORK: &str = "docs/network.md";
const DOCUMENTS: [&str; 5] = [FORMATS, NETWORK, "docs/threat-model.md", "docs/config.md", "docs/zinit.md"];

/// The words after the language of a fenced block, and what stands in it.
struct Block {
    info: BTreeMap<String, String>,
    body: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body = lines.by_ref().take_while(|line| *line != "```").fold(String::new(), |b, l| b + l + "\n");
        let words = info.split(' ').filter_map(|word| word.split_once('='));
        blocks.push(Block { info: words.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(), body });
    }
    blocks
}

fn range(text: &str) -> (usize, usize) {
    let (from, to) = text.split_once("..").unwrap();
    (from.parse().unwrap(), to.parse().unwrap())
}

/// What a block must show of the vector it names.
fn shown(info: &BTreeMap<String, String>) -> String {
    let bytes = read(&format!("formats/vectors/{}", info["vector"]));
    if let Some(part) = info.get("bytes") {
        let (from, to) = range(part);
        return hex_dump(&bytes[from..to], from);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (from, to) = info.get("lines").map_or((1, usize::MAX), |part| range(part));
    text.lines().skip(from - 1).take(to - from + 1).fold(String::new(), |all, line| all + line + "\n")
}

fn hex_dump(bytes: &[u8], offset: usize) -> String {
    let mut out = String::new();
    for (i, row) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = row.iter().map(|b| format!("{b:02x}")).collect();
        let plain = row.iter().map(|b| if (b' '..=b'~').contains(b) { char::from(*b) } else { '.' });
        let plain: String = plain.collect();
        writeln!(out, "{:06x}  {:47}  {plain}", offset + i * 16, hex.join(" ")).unwrap();
    }
    out
}

#[test]
fn every_example_is_its_vector() {
    let mut folders = BTreeSet::new();
    for block in blocks(&text(FORMATS)).iter().filter(|block| block.info.contains_key("vector")) {
        let name = &block.info["vector"];
        assert_eq!(block.body, shown(&block.info), "{name} as it stands in {FORMATS}");
        folders.insert(name.split('/').nth(1).unwrap().to_owned());
    }
    let all = ["cmdline", "config", "cpio", "identity", "keys", "list", "site", "slot"];
    assert_eq!(folders.iter().map(String::as_str).collect::<Vec<_>>(), all, "formats with an example");
}

/// The rows of the table whose head begins with these columns, as trimmed cells.
fn table(document: &str, head: &str) -> Vec<Vec<String>> {
    let lines = document.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = lines.take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "no table {head:?}");
    rows
}

/// The part of the document under one heading.
fn section(document: &str, heading: &str) -> String {
    let body = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}")).1;
    body.split("\n## ").next().unwrap().to_owned()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// Dotted names and values of all fields; objects of free names count as one field.
fn fields(value: &Value, prefix: &str, out: &mut BTreeMap<String, Value>) {
    for (name, value) in value.as_object().unwrap() {
        let name = format!("{prefix}{name}");
        match value {
            Value::Object(_) if name != "env" => fields(value, &format!("{name}."), out),
            _ => drop(out.insert(name, value.clone())),
        }
    }
}

fn fields_of(vector: &str) -> BTreeMap<String, Value> {
    let value = serde_json::from_slice(&read(&format!("formats/vectors/v1/{vector}"))).unwrap();
    let mut out = BTreeMap::new();
    fields(&value, "", &mut out);
    out
}

/// Field and default of each row below a heading.
fn documented_fields(heading: &str) -> BTreeMap<String, String> {
    let section = section(&text(FORMATS), heading);
    let rows = table(&section, "| field | type | default | meaning | acted on |");
    rows.into_iter().map(|row| (code(&row[0]), row[2].clone())).collect()
}

#[test]
fn the_table_of_the_config_has_its_fields_and_defaults() {
    let documented = documented_fields("## Config");
    let mut expected = fields_of("config/every-field.json");
    // A disk is a word, or has one of four names.
    for name in ["root.disk", "root.disk.wwn", "root.disk.path", "root.disk.size"] {
        expected.insert(name.to_owned(), Value::Null);
    }
    assert_eq!(documented.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let (least, defaults) = (fields_of("config/minimal.json"), fields_of("config/every-default.json"));
    for (name, default) in documented {
        let expected = match defaults.get(&name) {
            _ if least.contains_key(&name) => "required".to_owned(),
            Some(Value::Null) => "—".to_owned(),
            Some(value) => format!("`{value}`"),
            // A disk that is not named has no fields; one that is keeps its content.
            None if name == "root.disk.erase" => "`false`".to_owned(),
            None => "—".to_owned(),
        };
        assert_eq!(default, expected, "default of {name}");
    }
}

#[test]
fn the_table_of_the_identity_has_its_fields_and_defaults() {
    let documented = documented_fields("## Identity");
    let names = fields_of("identity/every-field.json").into_keys().collect::<Vec<_>>();
    assert_eq!(documented.keys().cloned().collect::<Vec<_>>(), names);
    let (least, written) = (fields_of("identity/terse.json"), fields_of("identity/minimal.json"));
    for (name, default) in documented {
        let expected = match written.get(&name) {
            _ if least.contains_key(&name) => "required".to_owned(),
            Some(value) => format!("`{value}`"),
            None => "—".to_owned(),
        };
        assert_eq!(default, expected, "default of {name}");
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let rows = table(&text(FORMATS), "| limit | value |");
    let documented: Vec<(String, u64)> =
        rows.into_iter().map(|row| (row[0].clone(), row[1].replace(',', "").parse().unwrap())).collect();
    let expected = [
        ("bytes of a list", list::MAX_LIST as u64),
        ("entries of a list", list::MAX_ENTRIES as u64),
        ("bytes of a path in a list, `./` included", list::MAX_PATH as u64),
        ("bytes of one component of a path", list::MAX_COMPONENT as u64),
        ("bytes of a signature file", signature::MAX_SIGNATURE as u64),
        ("bytes of a config", config::MAX_CONFIG as u64),
        ("bytes of a slot", slot::SLOT_SIZE as u64),
        ("bytes of a slot's payload", slot::MAX_PAYLOAD as u64),
        ("bytes of a `latest` file", site::MAX_LATEST as u64),
        ("bytes of a URL", url::MAX_URL as u64),
        ("bytes of a kernel command line", cmdline::MAX_CMDLINE as u64),
        ("seconds a signature may be ahead of the clock", signature::MAX_AHEAD),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    assert_eq!(documented, expected);
}

#[test]
fn every_setting_of_the_example_line_is_documented_and_the_other_way_round() {
    let section = section(&text(FORMATS), "## Kernel command line");
    let rows = table(&section, "| setting | value | meaning |");
    let documented: BTreeSet<String> = rows.into_iter().map(|row| code(&row[0])).collect();
    let line = |name| cmdline::Cmdline::parse(&read(&format!("formats/vectors/v1/cmdline/{name}.txt")));
    let lines = [line("demo"), line("network")];
    let all = lines.iter().flat_map(cmdline::Cmdline::parameters);
    let ours = all.filter(|p| p.name.starts_with("zstrap.") || p.name == "BOOTIF");
    let shown: BTreeSet<String> = ours.map(|p| p.name.replace('-', "_")).collect();
    assert_eq!(documented, shown);
}

#[test]
fn every_network_setting_has_a_row_with_an_example_that_uses_it() {
    let rows = table(&section(&text(NETWORK), "## Settings"), "| setting | example | meaning | may repeat |");
    let names: Vec<String> = rows.iter().map(|row| code(&row[0])).collect();
    assert_eq!(names, [METHODS.as_slice(), &SETTINGS].concat(), "settings in {NETWORK} and in the code");
    for row in rows {
        let (name, example) = (code(&row[0]), code(&row[1]));
        let network: Network =
            example.parse().unwrap_or_else(|error| panic!("{NETWORK}: {example}: {error}"));
        assert_eq!(network.to_string(), example, "the canonical text of an example of {NETWORK}");
        let uses = |word: &str| word == name || word.starts_with(&format!("{name}="));
        assert!(example.split(',').any(uses), "{NETWORK}: {example} does not use {name}");
        // Another value than the one that is there, so that only the repeat can be wrong.
        let again = match name.as_str() {
            "addr" => "addr=198.51.100.7/24",
            "gw" => "gw=192.0.2.2",
            "dns" => "dns=192.0.2.54",
            "search" => "search=example.net",
            "ntp" => "ntp=192.0.2.124",
            "route" => "route=203.0.113.0/24",
            "link" => "link=eth1",
            "bond" => "bond=802.3ad:eth2+eth3",
            "vlan" => "vlan=11",
            "mtu" => "mtu=1500",
            "hostname" => "hostname=node8",
            method => method,
        };
        let may_repeat = format!("{example},{again}").parse::<Network>().is_ok();
        assert_eq!(may_repeat, row.get(3).is_some_and(|cell| cell == "yes"), "{NETWORK}: {name} may repeat");
    }
    let document = text(NETWORK).replace(',', "").replace('\n', " ");
    assert!(
        document.contains(&format!("At most {MAX_TEXT} bytes and {MAX_EACH} of each")),
        "limits of {NETWORK}"
    );
}

#[test]
fn every_network_example_parses_and_every_refused_one_does_not() {
    let document = text(NETWORK);
    let parse = |text: &str| text.parse::<Network>().map_err(|error| format!("{NETWORK}: {text}: {error}"));
    for row in table(&document, "| the machine room | setting |") {
        parse(&code(&row[1])).unwrap();
    }
    let plain = |line: &&str| !line.starts_with(['[', ' ']) && !line.starts_with("kernel ");
    for block in document.split("\n```text\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()) {
        for line in block.lines().filter(plain) {
            parse(line.strip_prefix("zstrap.net=").unwrap_or(line)).unwrap();
        }
    }
    for row in table(&document, "| refused | example |") {
        assert!(parse(&code(&row[1])).is_err(), "{NETWORK}: {} is not refused", row[1]);
    }
}

#[test]
fn every_hint_at_a_link_parses() {
    let rows = table(&section(&text(NETWORK), "## Hints"), "| on the kernel command line | does |");
    for hint in rows.iter().flat_map(|row| row[0].split(", ")).map(code) {
        let (name, value) = hint.split_once('=').unwrap();
        let link = if name == "BOOTIF" { bootif(value) } else { value.parse::<LinkName>().ok() };
        assert!(link.is_some(), "{NETWORK}: {hint}");
    }
}

#[test]
fn every_vector_and_every_link_that_a_document_names_exists() {
    for document in DOCUMENTS {
        let text = text(document);
        for word in text.split('`').filter(|word| word.starts_with("v1/")) {
            assert!(root().join("formats/vectors").join(word).exists(), "{document} names {word}");
        }
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.to_owned() } else { format!("docs/{file}") };
            assert!(root().join(&target).exists(), "{document} links to {link}");
            assert!(heading.is_empty() || anchors(&target).contains(heading), "{document} links to {link}");
        }
    }
}

/// What headings are called in links.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = text(document);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    headings.map(|line| anchor(line).replace([',', '.', ':', '`', '(', ')', '\''], "")).collect()
}
