//! The tests that keep the processor busy, as one program: its threads have something to do until the end, and the
//! image that all machines start from is made once.

mod arrows;
mod boots;
mod cache;
mod clocks;
mod configs;
mod debug;
mod disks;
mod flaws;
mod handoff;
mod hardware;
mod kills;
mod links;
mod loops;
mod machine;
mod mirrors;
mod network;
mod own_disk;
mod packed;
mod recovers;
mod refuses;
mod screens;
mod servers;
mod supervise;
mod threshold;
mod tls;
mod zos;

/// With `autotests = false`, cargo would never look at a file that nobody names.
#[test]
#[allow(clippy::unwrap_used)]
fn every_file_of_tests_is_part_of_a_program() {
    const PROGRAMS: [(&str, &str); 2] =
        [("machines", include_str!("machines.rs")), ("waiting", include_str!("waiting.rs"))];
    let named = |name: &str| {
        let line = format!("mod {name};");
        PROGRAMS.iter().any(|(program, text)| *program == name || text.lines().any(|text| text == line))
    };
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).unwrap();
    let names = folder.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    let forgotten: Vec<String> = names.filter(|name| !named(name)).collect();
    assert!(forgotten.is_empty(), "no program runs {forgotten:?}");
}
