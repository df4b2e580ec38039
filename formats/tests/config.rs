//! What people read about configs before they write one: `docs/config.md` and `docs/config.schema.json`.
//!
//! In: those two files and the vectors. These tests hold them to the code: every field has a row with an example that
//! parses, every example is a good config, and the schema has the same fields. The judge of the schema is Debian's
//! python3-jsonschema.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use zstrap_formats::config::{Config, KNOWN};

/// What a schema cannot tell: names that stand twice, sums, ranges of numbers in texts.
const BEYOND_THE_SCHEMA: [&str; 11] = [
    "bundle-twice",
    "debug-memory-too-little",
    "debug-memory-too-much",
    "disk-size-backwards",
    "grace-too-long",
    "headroom-too-much",
    "must-understand",
    "offline-grace-too-long",
    "size-too-big",
    "watchdog-too-short",
    "watchdog-zero",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("reading {path}: {error}"))
}

fn schema() -> Value {
    serde_json::from_str(&read("docs/config.schema.json")).unwrap()
}

/// Whether the judge accepts each of these texts.
fn judged(texts: &[String]) -> Vec<bool> {
    let script = "\
import sys, json, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
judge = jsonschema.Draft202012Validator(schema)
print(json.dumps([judge.is_valid(json.loads(text)) for text in json.load(sys.stdin)]))
";
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), serde_json::to_string(texts).unwrap()).unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).arg(repository().join("docs/config.schema.json"));
    let output = python.stdin(std::fs::File::open(input.path()).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names and texts of the vectors of a folder.
fn vectors(folder: &str) -> BTreeMap<String, String> {
    let folder = repository().join("formats/vectors/v1").join(folder);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The whole configs of the document.
fn examples() -> Vec<String> {
    let document = read("docs/config.md");
    let blocks = document.split("\n```json\n").skip(1);
    blocks.map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// The object of the schema with the fields of a dotted name.
fn properties<'a>(schema: &'a Value, object: &str) -> &'a serde_json::Map<String, Value> {
    let mut at = schema;
    for name in object.split('.').filter(|name| !name.is_empty()) {
        at = &at["properties"][name];
    }
    // A disk is a word or an object.
    let choices = at["oneOf"].as_array().into_iter().flatten();
    let object = choices.chain([at]).find_map(|choice| choice["properties"].as_object());
    object.unwrap_or_else(|| panic!("the schema has no fields of {object:?}"))
}

#[test]
fn the_schema_has_the_fields_of_the_code_and_says_what_each_is() {
    let schema = schema();
    for (object, fields) in KNOWN {
        let properties = properties(&schema, object);
        let found: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(found, fields.iter().copied().collect(), "fields of {object:?}");
        for (name, field) in properties {
            assert!(field["description"].is_string(), "{object}.{name} has no description");
        }
    }
}

#[test]
fn the_schema_has_the_defaults_of_the_code() {
    let schema = schema();
    let defaults: Value = serde_json::from_str(&vectors("config")["every-default"]).unwrap();
    for (object, fields) in KNOWN {
        for name in fields {
            let pointer =
                format!("{}/{name}", object.split('.').fold(String::new(), |at, part| at + "/" + part));
            let Some(default) = defaults.pointer(&pointer.replace("//", "/")) else { continue };
            let property = &properties(&schema, object)[*name];
            let required = schema["required"].as_array().unwrap().contains(&json!(name));
            if !required && !default.is_object() {
                assert_eq!(&property["default"], default, "default of {object}.{name}");
            }
        }
    }
}

#[test]
fn the_schema_accepts_what_people_may_write() {
    let mut good: Vec<String> = vectors("config")
        .into_iter()
        .filter(|(_, text)| Config::parse_strict(text.as_bytes()).is_ok())
        .map(|(_, text)| text)
        .collect();
    assert!(good.len() > 10);
    good.extend(examples());
    good.extend(rows().into_values().map(|value| value.to_string()));
    for (text, accepted) in good.iter().zip(judged(&good)) {
        assert!(accepted, "refused by the schema: {text}");
    }
}

#[test]
fn the_schema_refuses_what_it_can_tell() {
    let hostile = vectors("hostile/config").into_iter();
    let hostile = hostile.filter(|(_, text)| serde_json::from_str::<Value>(text).is_ok());
    let (names, texts): (Vec<String>, Vec<String>) = hostile.unzip();
    let accepted: Vec<String> = names
        .into_iter()
        .zip(judged(&texts))
        .filter(|(_, accepted)| *accepted)
        .map(|(name, _)| name)
        .collect();
    // Python takes the last of two.
    let expected: Vec<&str> = [BEYOND_THE_SCHEMA.as_slice(), &["version-twice"]].concat();
    assert_eq!(accepted.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected.into_iter().collect());
    // A misspelt field, anywhere.
    let typos =
        [r#""colour": 1"#, r#""root": {"syze": "0"}"#, r#""mycelium": {"peer": []}"#, r#""debug": {"x": 1}"#];
    let whole = |part: &&str| format!(r#"{{"version": 1, "bundle": "a", "exec": ["/x"], {part}}}"#);
    assert_eq!(judged(&typos.iter().map(whole).collect::<Vec<_>>()), [false; 4]);
}

#[test]
fn every_example_of_the_document_is_a_good_config() {
    let examples = examples();
    assert!(examples.len() >= 6, "{} examples", examples.len());
    for example in examples {
        Config::parse_strict(example.as_bytes()).unwrap_or_else(|error| panic!("{error}: {example}"));
    }
}

/// The example of each field in the table, as a whole config.
fn rows() -> BTreeMap<String, Value> {
    let document = read("docs/config.md");
    let table = document.split_once("| field | example | what it does |\n| --- | --- | --- |\n").unwrap().1;
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let whole = |row: &str| {
        let cells: Vec<&str> =
            row.trim_matches('|').splitn(3, " | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let mut config = json!({ "version": 1, "bundle": "demo", "exec": ["/sbin/zinit", "init"] });
        let part: Value =
            serde_json::from_str(&format!("{{{}}}", cells[1])).unwrap_or_else(|e| panic!("{e}: {row}"));
        for (name, value) in part.as_object().unwrap() {
            config[name] = value.clone();
        }
        (cells[0].to_owned(), config)
    };
    rows.map(whole).collect()
}

#[test]
fn every_field_has_a_row_with_an_example_that_uses_it() {
    let rows = rows();
    let objects: BTreeSet<&str> = KNOWN.iter().map(|(object, _)| *object).collect();
    let dotted = |object: &str, name: &str| {
        if object.is_empty() { name.to_owned() } else { format!("{object}.{name}") }
    };
    let fields = KNOWN.iter().flat_map(|(object, names)| names.iter().map(|name| dotted(object, name)));
    // A disk is also a word.
    let fields: BTreeSet<String> =
        fields.filter(|name| !objects.contains(name.as_str()) || name == "root.disk").collect();
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), fields);
    for (name, config) in rows {
        let value = config.pointer(&format!("/{}", name.replace('.', "/")));
        assert!(value.is_some(), "the example of {name} does not use it: {config}");
        Config::parse_strict(config.to_string().as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
