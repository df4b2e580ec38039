//! What a person in front of the machine sees, and what else keeps the log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{Scene, Tree, noise};
use zstrap_qemu_tests::vm::{Reason, Vm};

/// A scene whose files take half a minute to come.
fn slow(name: &str) -> Result<Scene> {
    const SIZE: usize = 6 << 20;
    let mut scene = Scene::new(name)?;
    let tree = Tree::payload()?;
    tree.file("srv/big", &noise(SIZE), 0o644)?;
    scene.publish(&tree, "big")?;
    let config = json!({ "version": 1, "description": "A picture of a boot", "bundle": "big", "exec": ["/sbin/init"] });
    scene.add_config("big", &config)?;
    let (blob, _) = scene.blob("big", "./srv/big")?;
    scene.server.rule(Rule::always(&format!("/{blob}"), Fault::Trickle(300_000)));
    Ok(scene)
}

#[test]
fn shows_a_calm_picture_of_a_good_boot() -> Result<()> {
    let scene = slow("screens-good")?;
    let mut vm = scene.machine()?.with_screen().start()?;
    let rows = vm.wait_screen(&["A picture of a boot", "√ list", "► fetch", "KiB/s", " s left"], BOUND)?;
    println!("{}", rows.join("\n"));
    vm.screenshot(std::path::Path::new("/tmp/C/good.png"))?;
    for text in ["zstrap", "farmer-7", "of 6.5 MiB", "received ", "eth0   52:54:00:12:34:56", "10.0.2.15/24", "10.0.2.2", &scene.server.url()] {
        ensure!(rows.iter().any(|row| row.contains(text)), vm.failed(&format!("no `{text}` in\n{}", rows.join("\n"))));
    }
    Ok(())
}
