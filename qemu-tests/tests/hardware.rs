//! What a machine can lack, or do to the init: each case with the line that a person reads, and how the machine ends.

use std::time::Duration;

use anyhow::Result;
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal_by};
use zstrap_qemu_tests::site::{IMPATIENT, Scene};
use zstrap_qemu_tests::vm::Reason;

#[test]
fn boots_with_closed_descriptors() -> Result<()> {
    let vm = expect_payload(Scene::new("hardware-closed")?.machine()?.before("closed-descriptors"), BOUND)?;
    vm.assert_line("before: closed-descriptors")?;
    // The program of the config has all three, on the console.
    for fd in 0..3 {
        vm.assert_line(&format!("payload: fd={fd} -> /dev/console"))?;
    }
    Ok(())
}

#[test]
fn boots_without_a_console_node() -> Result<()> {
    let scene = Scene::new("hardware-no-node")?;
    let mut vm = scene.machine()?.before("no-console").before("closed-descriptors").start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    // What the payload reports went to /dev/null; it was there all the same, and switched the power off.
    vm.assert_line("] handoff: ")?;
    vm.assert_never("payload:")
}

#[test]
fn boots_without_any_console() -> Result<()> {
    let scene = Scene::new("hardware-no-console")?;
    let machine = scene.machine()?.without_consoles();
    let mut vm = machine.before("no-console").before("closed-descriptors").start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    // The serial port is there, though nobody named it.
    vm.assert_line("] handoff: ").map(drop)
}

#[test]
fn panic_of_the_init_is_told_and_ends_in_a_reboot() -> Result<()> {
    let mut scene = Scene::new("hardware-panic")?;
    scene.server.pause();
    let mut vm = scene.machine()?.append(IMPATIENT).before("panic:1").start()?;
    vm.wait_line("before: done threads=1", BOUND)?;
    vm.wait_line("reason=panic", Duration::from_secs(10))?;
    vm.expect_exit(&Reason::Reset, BOUND).map(drop)
}

#[test]
fn without_threads_it_says_so_and_does_not_panic() -> Result<()> {
    let scene = Scene::new("hardware-threads")?;
    let vm = expect_refusal_by(scene.machine()?.before("no-threads"), "network", "no-server", BOUND)?;
    vm.assert_line("] fail: because: *: no thread to ask it: Resource temporarily unavailable")?;
    vm.assert_never("reason=panic")
}

/// What other tests rely on when they stop an init: it stands still, and so does the machine.
#[test]
fn stopped_init_stands_still() -> Result<()> {
    for mode in ["stop:0", "stop-main:0"] {
        let vm = Scene::new("hardware-stopped")?.machine()?.before(mode).start()?;
        vm.wait_line("before: done threads=*", BOUND)?;
        let moved = vm.wait_line("payload: end", Duration::from_secs(10));
        assert!(moved.is_err(), "{mode}: {moved:?}");
    }
    Ok(())
}
