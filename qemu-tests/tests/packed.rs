//! Compressed blobs: fetched where a site has them, and of no harm where they are wrong.

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::vm::Vm;

/// A scene whose bundle has a file that compresses well, besides the payload.
fn packed(name: &str) -> Result<(Scene, Tree)> {
    let mut scene = Scene::new(name)?;
    let tree = Tree::payload()?;
    let text: String = (0..100_000).map(|line| format!("line {line} of a text\n")).collect();
    tree.file("srv/text", text.as_bytes(), 0o644)?;
    scene.publish_packed(&tree, "packed")?;
    scene.add_config("packed", &json!({ "version": 1, "bundle": "packed", "exec": ["/sbin/init"] }))?;
    Ok((scene, tree))
}

/// Boots; the tree must be whole.
fn boot(scene: &Scene, tree: &Tree) -> Result<Vm> {
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line(&format!("payload: tree={}", tree.fingerprint()?))?;
    vm.assert_never("] fail:")?;
    Ok(vm)
}

#[test]
fn boots_from_compressed_blobs() -> Result<()> {
    let (scene, tree) = packed("packed")?;
    let vm = boot(&scene, &tree)?;
    let (compressed, all) =
        (scene.server.requests_for("/blobs/*.zst"), scene.server.requests_for("/blobs/*"));
    ensure!(compressed.len() == 2 && all.len() == 2, vm.failed(&format!("asked for {all:?}")));
    vm.assert_never("] fetch: compressed blob not usable ")
}

/// Compressed blobs with this fault cost a line of the log, and nothing else.
fn takes_plain_blobs(name: &str, fault: Fault) -> Result<()> {
    let (scene, tree) = packed(name)?;
    scene.server.rule(Rule::always("/blobs/*.zst", fault));
    let vm = boot(&scene, &tree)?;
    vm.assert_line("] fetch: compressed blob not usable path=./srv/text have=* next=plain why=").map(drop)
}

#[test]
fn takes_plain_blobs_where_compressed_ones_are_damaged() -> Result<()> {
    takes_plain_blobs("packed-flipped", Fault::FlipByte(1000))
}

#[test]
fn takes_plain_blobs_where_compressed_ones_are_web_pages() -> Result<()> {
    takes_plain_blobs("packed-html", Fault::Html)
}

#[test]
fn takes_plain_blobs_where_compressed_ones_are_missing() -> Result<()> {
    takes_plain_blobs("packed-missing", Fault::Status(404))
}

#[test]
fn takes_plain_blobs_where_compressed_ones_do_not_end() -> Result<()> {
    takes_plain_blobs("packed-endless", Fault::Endless)
}

#[test]
fn a_hint_that_is_no_hint_costs_nothing() -> Result<()> {
    let (scene, tree) = packed("packed-hint")?;
    scene.server.rule(Rule::always("/bundles/*.packed", Fault::Html));
    boot(&scene, &tree)?;
    ensure!(scene.server.requests_for("/blobs/*.zst").is_empty(), "compressed blobs were asked for");
    Ok(())
}
