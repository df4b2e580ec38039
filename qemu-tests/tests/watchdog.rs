//! The hardware watchdog: it lets a boot wait as long as that has said it would, and resets what stands still.
//!
//! The machines have the watchdog `i6300esb`, and Debian's generic kernel, whose driver for it is a module. The harness
//! tells a reset by the watchdog from any other. Time is real: where it leaps while nothing happens (`-icount sleep=off`),
//! a boot gives up its servers before they can answer.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::artefacts::patience;
use zstrap_qemu_tests::dhcp::Script;
use zstrap_qemu_tests::lab::Lab;
use zstrap_qemu_tests::site::Scene;
use zstrap_qemu_tests::vm::{Reason, Vm, VmBuilder};

const ARMED: &str = "] watchdog: armed device=/dev/watchdog0 timeout=60s identity=i6300ESB timer";
/// A boot of a generic kernel, beside others.
const BOOT: Duration = Duration::from_secs(180);
const WAIT: &str = "zstrap.payload=wait";

/// A machine that carries out this config.
fn machine(name: &str, config: &serde_json::Value) -> Result<(Scene, VmBuilder)> {
    let mut scene = Scene::new(name)?;
    let mut whole = json!({ "version": 1, "description": name, "bundle": "small", "exec": ["/sbin/init"] });
    let fields = whole.as_object_mut().into_iter().zip(config.as_object());
    fields.for_each(|(whole, config)| whole.extend(config.clone()));
    scene.add_config(name, &whole)?;
    let machine = scene.generic_machine()?.watchdog().append(WAIT);
    Ok((scene, machine))
}

#[test]
fn a_dhcp_server_that_is_silent_for_60_s_is_waited_for() -> Result<()> {
    let silence = Duration::from_secs(60);
    let (lab, scene, _) = Lab::scripted("watchdog-silence", Script::new(2, 50).silent(silence))?;
    let mut vm = scene.generic_machine()?.nics(0).wire(&lab.segment)?.watchdog().start()?;
    vm.expect_exit(&Reason::PowerOff, BOOT + silence)?;
    let (armed, lease) = (vm.assert_line(ARMED)?, vm.assert_line("] network: lease addr=10.77.0.50/24 ")?);
    ensure!(lease.at - armed.at > silence, vm.failed("the silence was too short for the watchdog"));
    vm.assert_line("] watchdog: stopped device=/dev/watchdog0")?;
    vm.assert_never("] watchdog: not fed")
}

/// How long a machine must be up after handoff.
const FIVE_MINUTES: Duration = Duration::from_secs(300);

#[test]
fn five_minutes_after_the_handoff_the_machine_is_still_up() -> Result<()> {
    let (_scene, machine) = machine("watchdog-stopped", &json!({}))?;
    let mut vm = machine.start()?;
    vm.wait_line("payload: waiting", BOOT)?;
    vm.assert_line(ARMED)?;
    vm.assert_line("] watchdog: stopped device=/dev/watchdog0")?;
    stays_up(&mut vm)
}

#[test]
fn five_minutes_after_the_handoff_the_supervisor_still_feeds() -> Result<()> {
    let config = json!({ "supervise": true, "watchdog": "30s" });
    let (_scene, machine) = machine("watchdog-supervised", &config)?;
    let mut vm = machine.start()?;
    vm.wait_line("payload: waiting", BOOT)?;
    let handed =
        vm.assert_line("] watchdog: handed over device=/dev/watchdog0 timeout=60s: the supervisor feeds it")?;
    let armed = "] watchdog: armed device=/dev/watchdog0 timeout=30s identity=i6300ESB timer";
    vm.wait_line_after(&handed, armed, BOOT)?;
    stays_up(&mut vm)
}

fn stays_up(vm: &mut Vm) -> Result<()> {
    std::thread::sleep(FIVE_MINUTES);
    ensure!(vm.is_running()?, vm.failed("the machine has ended"));
    Ok(())
}

#[test]
fn a_program_that_does_not_feed_what_it_was_given_is_reset() -> Result<()> {
    let (_scene, machine) = machine("watchdog-handed-over", &json!({ "watchdog": "20s" }))?;
    let mut vm = machine.start()?;
    let waiting = vm.wait_line("payload: waiting", BOOT)?;
    let (armed, loaded) = (vm.assert_line(ARMED)?, vm.assert_line("] early: ready ")?);
    ensure!(armed.index < loaded.index, vm.failed("drivers were loaded before the watchdog ran"));
    vm.assert_line("] watchdog: handed over device=/dev/watchdog0 timeout=20s: the program must feed it")?;
    let exit = vm.expect_exit(&Reason::Watchdog, BOOT)?;
    ensure!(exit.after > waiting.at + Duration::from_secs(10), vm.failed("it had no time to feed"));
    Ok(())
}

#[test]
fn one_that_cannot_be_stopped_is_not_started() -> Result<()> {
    let (_scene, machine) = machine("watchdog-nowayout", &json!({ "watchdog": "20s" }))?;
    let vm = machine.append("i6300esb.nowayout=1").start()?;
    vm.wait_line("payload: waiting", BOOT)?;
    vm.assert_line("] watchdog: not armed why=nowayout device=/dev/watchdog0")?;
    vm.assert_line("] watchdog: not handed over: the config asks for one, and none is armed")?;
    vm.assert_never("] watchdog: armed")
}

#[test]
fn the_supervisor_starts_one_that_cannot_be_stopped() -> Result<()> {
    let config = json!({ "supervise": true, "watchdog": "30s" });
    let (_scene, machine) = machine("watchdog-nowayout-supervised", &config)?;
    let vm = machine.append("i6300esb.nowayout=1").start()?;
    let handoff = vm.wait_line("] handoff: supervise /sbin/init ", BOOT)?;
    vm.wait_line_after(&handoff, "] watchdog: armed device=/dev/watchdog0 timeout=30s ", BOOT)?;
    vm.assert_line("] watchdog: not armed why=nowayout device=/dev/watchdog0").map(drop)
}

/// When the init is stopped, which is a second after it has said this: it waits for a server then.
const WAITS_FOR_A_LEASE: &str = "carrier";
/// What the main thread has declared where it waits in these tests, and the time of the hardware.
const DECLARED: Duration = Duration::from_secs(60);
const HARDWARE: Duration = Duration::from_secs(60);
/// What a busy test machine may take for it.
const SLACK: Duration = Duration::from_secs(20);

/// A machine that waits for a lease, and is stopped meanwhile.
fn stopped(name: &str, mode: &str) -> Result<(Vm, Duration)> {
    let (lab, scene, _) = Lab::scripted(name, Script::new(2, 50).silent(Duration::from_secs(3600)))?;
    let machine = scene.generic_machine()?.nics(0).wire(&lab.segment)?.watchdog();
    let mut vm = machine.before(&format!("{mode}@{WAITS_FOR_A_LEASE}:1")).start()?;
    let stopped = vm.wait_line("before: done threads=", BOOT)?;
    vm.assert_line(ARMED)?;
    let exit = vm.expect_exit(&Reason::Watchdog, DECLARED + HARDWARE + BOOT)?;
    let after = exit.after - stopped.at;
    Ok((vm, after))
}

#[test]
fn an_init_that_is_stopped_is_reset() -> Result<()> {
    let (vm, after) = stopped("watchdog-stopped-whole", "stop")?;
    ensure!(after < patience(HARDWARE + SLACK), vm.failed(&format!("reset only {after:?} later")));
    Ok(())
}

#[test]
fn an_init_whose_main_thread_is_stopped_is_fed_as_long_as_that_has_declared() -> Result<()> {
    let (vm, after) = stopped("watchdog-stopped-main", "stop-main")?;
    let said = vm.assert_line(
        "] watchdog: not fed: nothing has happened for *s; the hardware resets the machine within 60s",
    )?;
    ensure!(after > DECLARED + HARDWARE / 2, vm.failed(&format!("reset already {after:?} later, {said}")));
    ensure!(after < patience(DECLARED + HARDWARE + SLACK), vm.failed(&format!("reset only {after:?} later")));
    Ok(())
}

#[test]
fn a_supervisor_that_is_stopped_is_reset() -> Result<()> {
    let config = json!({ "supervise": true, "watchdog": "20s" });
    let (_scene, machine) = machine("watchdog-stopped-supervisor", &config)?;
    let mut vm = machine.before("stop@timeout=20s:1").start()?;
    let stopped = vm.wait_line("before: done threads=", BOOT)?;
    let armed = vm.assert_line("] watchdog: armed device=/dev/watchdog0 timeout=20s ")?;
    ensure!(armed.index < stopped.index, vm.failed("it was no supervisor yet"));
    vm.expect_exit(&Reason::Watchdog, BOOT).map(drop)
}
