//! What a node must get over by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use zstrap_qemu_tests::boot::{BOUND, DONE, expect_payload};
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{Big, Scene, noise};
use zstrap_qemu_tests::vm::Reason;

#[test]
fn boots_once_the_server_is_back() -> Result<()> {
    let mut scene = Scene::new("recovers-server")?;
    scene.server.pause();
    // Without settings on the command line: six attempts are what a node makes by itself.
    let mut vm = scene.machine()?.start()?;
    vm.wait_line("] fail: code=ZS-SRV-01 stage=network reason=no-server", BOUND)?;
    vm.wait_line("] fail: retry 1 of 5 in ", BOUND)?;
    vm.assert_never("payload:")?;
    scene.server.resume()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line(DONE[7])?;
    vm.assert_line("payload: end")?;
    vm.assert_never("] fail: rebooting")
}

#[test]
fn goes_on_where_a_connection_was_cut_at_half_a_file() -> Result<()> {
    let mut scene = Scene::new("recovers-cut")?;
    let Big { tree, path, size } = scene.publish_big(&noise(8 << 20))?;
    scene.server.rule(Rule::first(1, &path, Fault::CutAfter(size / 2)));

    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line(&format!("payload: tree={}", tree.fingerprint()?))?;
    let ranges: Vec<_> = scene.server.requests_for(&path).into_iter().map(|request| request.range).collect();
    ensure!(ranges == [None, Some(format!("bytes={}-", size / 2))], "{ranges:?}");
    vm.assert_never("] fail:")
}

/// One file does not begin to come, another stops coming half-way; both connections stay open.
#[test]
fn asks_again_when_a_server_stalls() -> Result<()> {
    const FOR_EVER: Duration = Duration::from_secs(600);
    let mut scene = Scene::new("recovers-stall")?;
    let Big { tree, path: halting, size } = scene.publish_big(&noise(1 << 20))?;
    let (silent, _) = scene.blob("big", "./sbin/init")?;
    let silent = format!("/{silent}");
    scene.server.rule(Rule::first(1, &silent, Fault::Stall(FOR_EVER)));
    scene.server.rule(Rule::first(1, &halting, Fault::StallAfter(size / 2, FOR_EVER)));

    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line(&format!("payload: tree={}", tree.fingerprint()?))?;
    let ranges = |path| -> Vec<_> {
        scene.server.requests_for(path).into_iter().map(|request| request.range).collect()
    };
    let (silent, halting) = (ranges(&silent), ranges(&halting));
    ensure!(silent == [None, None], "the silent one was asked for {silent:?}");
    ensure!(halting == [None, Some(format!("bytes={}-", size / 2))], "the other was asked for {halting:?}");
    vm.assert_never("] fail:")
}
