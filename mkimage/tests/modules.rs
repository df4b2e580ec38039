//! The selection of modules over a real kernel's, judged by depmod (package kmod).
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use support::{kernel_modules, kernel_modules_of, run};
use zstrap_formats::name::Arch;
use zstrap_mkimage::modules::{ModuleSet, Patterns, select};

fn shipped_selection() -> ModuleSet {
    select(&kernel_modules(), &Patterns::shipped()).unwrap()
}

fn shipped_selection_of_arm64() -> ModuleSet {
    select(&kernel_modules_of(Arch::Arm64), &Patterns::shipped()).unwrap()
}

/// Writes the set as a system that depmod can read, and lets it make its own tables.
fn depmod_tables(set: &ModuleSet) -> (String, String, String) {
    let root = tempfile::tempdir().unwrap();
    let release = set.release.as_deref().unwrap();
    let folder = root.path().join("lib/modules").join(release);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, content) in &set.files {
        std::fs::write(folder.join(name), content).unwrap();
    }
    run(Command::new("/sbin/depmod").arg("-b").arg(root.path()).arg(release));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    (read("modules.dep"), read("modules.alias"), read("modules.softdep"))
}

/// `a.ko: b.ko c.ko` as sets, by file.
fn needs(dep: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    dep.lines()
        .map(|line| line.split_once(':').unwrap())
        .map(|(m, n)| (m, n.split_whitespace().collect()))
        .collect()
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn tables_agree_with_depmod() {
    for set in [shipped_selection(), shipped_selection_of_arm64()] {
        let (dep, alias, softdep) = depmod_tables(&set);
        assert_eq!(needs(&set.dep), needs(&dep));
        assert_eq!(lines(&set.alias), lines(&alias));
        assert_eq!(lines(&set.softdep), lines(&softdep));
        assert!(set.files.len() > 20 && lines(&alias).len() > 100, "too small a set to judge by");
    }
}

#[test]
fn loading_from_the_right_meets_every_need() {
    let set = shipped_selection();
    let direct = needs(&set.dep);
    for line in set.dep.lines() {
        let (module, listed) = line.split_once(':').unwrap();
        let mut loaded = BTreeSet::new();
        for file in listed.split_whitespace().rev().chain([module]) {
            assert!(direct[file].iter().all(|need| loaded.contains(need)), "{file} too early in {line:?}");
            loaded.insert(file);
        }
    }
}

#[test]
fn brings_what_the_network_card_of_a_vm_needs() {
    let patterns = Patterns::parse("virtio_net\n").unwrap();
    let set = select(&kernel_modules(), &patterns).unwrap();
    assert!(set.files.contains_key("virtio_net.ko"));
    assert!(set.files.contains_key("net_failover.ko") && set.files.contains_key("failover.ko"));
    assert!(set.alias.contains("alias virtio:d00000001v* virtio_net\n"));
    assert!(!set.files.contains_key("virtio_blk.ko"));
}

#[test]
fn compressed_modules_give_the_same_set() {
    let plain = shipped_selection();
    for (suffix, tool) in [("xz", ["xz", "--check=crc32"]), ("zst", ["zstd", "-q"]), ("gz", ["gzip", "-n"])] {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in &plain.files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        compress_all(folder.path(), &tool);
        assert!(folder.path().join(format!("virtio_net.ko.{suffix}")).exists());
        assert!(select(folder.path(), &Patterns::shipped()).unwrap() == plain, "{suffix}");
    }
}

fn compress_all(folder: &Path, tool: &[&str]) {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    run(Command::new(tool[0]).args(&tool[1..]).args(&files));
    // zstd keeps its input, xz and gzip do not.
    files.iter().filter(|file| file.exists()).for_each(|file| std::fs::remove_file(file).unwrap());
}

#[test]
fn refuses_patterns_that_select_nothing() {
    let patterns = Patterns::parse("no_such_module\n").unwrap();
    let error = select(&kernel_modules(), &patterns).unwrap_err();
    assert!(error.to_string().contains("none of 1 patterns matches any of "), "{error}");
}

#[test]
fn a_kernel_without_modules_gives_an_empty_set() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(select(folder.path(), &Patterns::shipped()).unwrap(), ModuleSet::default());
}

#[test]
fn refuses_a_missing_dependency() {
    let folder = tempfile::tempdir().unwrap();
    let set = shipped_selection();
    for name in ["virtio_net.ko", "virtio.ko", "virtio_ring.ko", "net_failover.ko"] {
        std::fs::write(folder.path().join(name), &set.files[name]).unwrap();
    }
    let error = select(folder.path(), &Patterns::shipped()).unwrap_err();
    assert_eq!(error.to_string(), "module net_failover depends on failover, which is not there");
}

#[test]
fn refuses_a_file_that_is_no_module() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("virtio_net.ko.xz"), "<html>").unwrap();
    let error = select(folder.path(), &Patterns::shipped()).unwrap_err();
    assert!(format!("{error:#}").contains("virtio_net.ko.xz"), "{error:#}");
    std::fs::remove_file(folder.path().join("virtio_net.ko.xz")).unwrap();
    std::fs::write(folder.path().join("virtio_net.ko"), "<html>").unwrap();
    let error = select(folder.path(), &Patterns::shipped()).unwrap_err();
    assert!(format!("{error:#}").contains("expected an ELF file"), "{error:#}");
}

#[test]
fn refuses_modules_of_two_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let set = shipped_selection();
    let release = set.release.clone().unwrap();
    let other = release.replace(char::is_numeric, "9");
    std::fs::write(folder.path().join("failover.ko"), &set.files["failover.ko"]).unwrap();
    let mut changed = set.files["virtio_ring.ko"].clone();
    support::replace_all(&mut changed, release.as_bytes(), other.as_bytes());
    std::fs::write(folder.path().join("virtio_ring.ko"), changed).unwrap();
    let patterns = Patterns::parse("*").unwrap();
    let error = select(folder.path(), &patterns).unwrap_err();
    assert!(error.to_string().contains(&format!("is for kernel {other}")), "{error}");
}
