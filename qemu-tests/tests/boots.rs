//! Machines that must boot.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::site::{FARMER, POOL, SMALL, Scene, Tree, now};
use zstrap_qemu_tests::vm::Reason;

#[test]
fn boots_with_one_nic() -> Result<()> {
    let scene = Scene::new("boots-one-nic")?;
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] network: lease addr=10.0.2.15/24 gw=10.0.2.2 link=eth0 ")?;
    vm.assert_line(&format!("payload: tree={}", Tree::small()?.fingerprint()?))?;
    vm.assert_never("refused")?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_two_thousand_small_files() -> Result<()> {
    let mut scene = Scene::new("boots-many-files")?;
    let tree = Tree::payload()?;
    for number in 0..2000 {
        let text = format!("file {number} of 2000\n").repeat(number % 50 + 1);
        tree.file(&format!("srv/{}/{number}", number / 100), text.as_bytes(), 0o644)?;
    }
    scene.publish(&tree, "many")?;
    scene.add_config("many", &json!({ "version": 1, "bundle": "many", "exec": ["/sbin/init"] }))?;
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] fetch: done files=2001 ")?;
    vm.assert_line(&format!("payload: tree={}", tree.fingerprint()?)).map(drop)
}

#[test]
fn boots_a_file_of_300_mb_in_768_mib() -> Result<()> {
    boots_big_file("boots-big-file", 768)
}

/// Where the file fits once, and with no room for half of it more.
#[test]
fn boots_a_file_of_300_mb_in_448_mib() -> Result<()> {
    boots_big_file("boots-big-file-tight", 448)
}

fn boots_big_file(name: &str, memory_mib: u32) -> Result<()> {
    const SIZE: usize = 300_000_000;
    let mut scene = Scene::new(name)?;
    let pattern: Vec<u8> = (0..SIZE).map(|place| (place / 4096 * 31 + place % 251) as u8).collect();
    let big = scene.publish_big(&pattern)?;
    let machine = scene.machine()?.memory_mib(memory_mib);
    let vm = expect_payload(machine, Duration::from_secs(300))?;
    vm.assert_line(&format!("payload: tree={}", big.tree.fingerprint()?))?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_a_config_with_a_field_of_the_future() -> Result<()> {
    let mut scene = Scene::new("boots-unknown-field")?;
    let config = json!({
        "version": 1,
        "bundle": SMALL,
        "exec": ["/sbin/init"],
        "quantum_safe": { "since": 2031 },
        "root": { "size": "0", "colour": "green" },
    });
    scene.force_config("future", &config)?;
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] config: ok name=future ")?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_a_pinned_config_although_the_latest_is_another() -> Result<()> {
    let mut scene = Scene::new("boots-pinned")?;
    let pinned = scene.read(&scene.config(SMALL)?)?;
    scene.force_config(SMALL, &json!({ "version": 1, "bundle": "nothing", "exec": ["/sbin/init"] }))?;
    scene.pin_config(&pinned, &pinned);
    let vm = expect_payload(scene.machine()?, BOUND)?;
    let asked = scene.server.requests_for("/configs/*");
    let first = asked.first().context("no config was asked for")?;
    ensure!(first.path.starts_with("/configs/by-hash/"), vm.failed(&format!("{} was asked for", first.path)));
    Ok(())
}

#[test]
fn boots_through_the_second_nic_when_the_first_leads_nowhere() -> Result<()> {
    let scene = Scene::new("boots-dead-nic")?;
    // A hub with nobody else on it: there is a carrier, and never an answer.
    let nics = [
        ["-netdev", "hubport,id=nowhere,hubid=0"],
        ["-device", "virtio-net-pci,netdev=nowhere,romfile="],
        ["-netdev", "user,id=somewhere"],
        ["-device", "virtio-net-pci,netdev=somewhere,romfile="],
    ];
    let vm = expect_payload(scene.machine()?.nics(0).arguments(nics.as_flattened()), BOUND)?;
    vm.assert_line("] network: lease addr=10.0.2.15/24 gw=10.0.2.2 link=eth1 ")?;
    vm.assert_line("] network: online server=*link=eth1 ")?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_with_a_dead_clock_what_was_signed_after_the_image_was_built() -> Result<()> {
    let mut scene = Scene::new("boots-dead-clock")?;
    let built = Timestamp::from_unix(now()?.unix() - 7 * DAY)?;
    scene.identity["build_time"] = json!(built.to_string());
    let vm = expect_payload(scene.machine()?.arguments(&["-rtc", "base=1970-01-02"]), BOUND)?;
    let raised = vm.find_all("] clock: raised from=");
    let reasons = [" why=before-image-was-built", " why=signed-later"];
    let as_wanted =
        raised.len() >= 2 && raised.iter().zip(reasons).all(|(line, why)| line.text.ends_with(why));
    ensure!(as_wanted, vm.failed(&format!("expected the clock raised for {reasons:?}")));
    vm.assert_line("] clock: raised from=1970-01-02T")?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_what_both_signers_have_signed() -> Result<()> {
    let mut scene = Scene::new("boots-two-signers")?;
    scene.add_signer("second")?;
    scene.publish(&Tree::small()?, SMALL)?;
    scene.add_config(SMALL, &json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/init"] }))?;
    let vm = expect_payload(scene.machine()?, BOUND)?;
    // Two signatures each of config and list, and not the one without a key in its name.
    let asked: Vec<_> = ["/configs/*.minisig", "/bundles/*.minisig"]
        .iter()
        .map(|path| scene.server.requests_for(path).len())
        .collect();
    ensure!(asked == [2, 2], vm.failed(&format!("expected two signatures each, asked for {asked:?}")));
    vm.assert_never("refused")
}

/// The demo's bundle with its own config: real zinit, and each of its services in the state that it should have.
#[test]
fn boots_the_demo_to_its_services_under_zinit() -> Result<()> {
    const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/demo/config.json");
    let mut scene = Scene::new("boots-demo")?;
    scene.publish(&Tree::copy_of("demo-tree")?, "demo")?;
    scene.add_config("demo", &serde_json::from_slice(&std::fs::read(CONFIG)?)?)?;
    let vm = scene.machine()?.start()?;
    vm.wait_line("demo: end", BOUND)?;
    vm.assert_line("] handoff: supervise /sbin/zinit-server ")?;
    vm.assert_line(&format!("demo: hello from farmer {FARMER} in pool {POOL}, "))?;
    for state in ["httpd*Running", "lease*Running", "hello*Exited"] {
        vm.assert_line(&format!("demo: *{state}"))?;
    }
    vm.assert_never("] fail:")
}

/// A screen and a serial line: what was said on the one stands on the other as well.
#[test]
fn talks_on_every_console() -> Result<()> {
    // What the kernel has for a screen, by its rows; there is one even where no graphics card is.
    const SHOW: &str = "#!/bin/sh\nbusybox fold -w 80 /dev/vcs1 | sed 's/^/test: screen /'\npoweroff -f\n";
    let mut scene = Scene::new("boots-two-consoles")?;
    let tree = Tree::copy_of("demo-tree")?;
    tree.file("show", SHOW.as_bytes(), 0o755)?;
    scene.publish(&tree, "show")?;
    scene.add_config("show", &json!({ "version": 1, "bundle": "show", "exec": ["/show"] }))?;
    let mut vm = scene.machine()?.start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    for said in ["*] early: ready ", "*] network: online server=", "*] handoff: exec /show "] {
        vm.assert_line(&format!("test: screen {said}"))?;
        ensure!(vm.find_all(said).len() == 2, vm.failed(&format!("expected `{said}` once on each console")));
    }
    Ok(())
}
