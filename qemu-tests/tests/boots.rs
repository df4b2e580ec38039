//! Machines that must boot.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::site::{SMALL, Scene, Tree};

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
    const SIZE: usize = 300_000_000;
    let mut scene = Scene::new("boots-big-file")?;
    let tree = Tree::payload()?;
    let pattern: Vec<u8> = (0..SIZE).map(|place| (place / 4096 * 31 + place % 251) as u8).collect();
    tree.file("srv/big", &pattern, 0o644)?;
    scene.publish(&tree, "big")?;
    scene.add_config("big", &json!({ "version": 1, "bundle": "big", "exec": ["/sbin/init"] }))?;
    let machine = scene.machine()?.memory_mib(768);
    let vm = expect_payload(machine, Duration::from_secs(300))?;
    vm.assert_line(&format!("payload: tree={}", tree.fingerprint()?))?;
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
