//! Who may depend on whom: `formats` on nobody, nothing on the init, and so on. Kept by looking at what cargo
//! itself resolves, so a new arrow is a decision and not an accident.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Each package of the house and those it may depend on, tests included.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("zstrap-formats", &[]),
    ("zstrap-wire", &[]),
    ("zstrap-init", &["zstrap-formats", "zstrap-wire"]),
    ("zstrap-mkimage", &["zstrap-formats"]),
    ("zstrap-server", &["zstrap-formats"]),
    ("zstrap", &["zstrap-formats", "zstrap-mkimage", "zstrap-server"]),
    ("zstrap-qemu-tests", &["zstrap", "zstrap-formats", "zstrap-mkimage", "zstrap-server"]),
    ("zstrap-test-payload", &[]),
];

/// Direct dependencies within the house, by package.
fn arrows() -> BTreeMap<String, Vec<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let args = ["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path", manifest];
    let output =
        Command::new(env!("CARGO")).args(args).output().expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let ours = |dependency: &&Value| dependency["path"].is_string();
    let arrows = |package: &Value| {
        package["dependencies"].as_array().unwrap().iter().filter(ours).map(name).collect::<Vec<_>>()
    };
    packages.iter().map(|package| (name(package), arrows(package))).collect()
}

#[test]
fn every_arrow_is_allowed() {
    let arrows = arrows();
    let names: Vec<&str> = arrows.keys().map(String::as_str).collect();
    let mut expected: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "a new package needs its arrows said here");
    for (package, allowed) in ALLOWED {
        for dependency in &arrows[package] {
            assert!(allowed.contains(&dependency.as_str()), "{package} must not depend on {dependency}");
        }
    }
}
