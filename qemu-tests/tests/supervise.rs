//! zinit 0.3.9 under our node program: `supervise: true` in the config.
//!
//! The bundle is the demo's (zinit, zinit-server, busybox) with services of these tests instead of its own. They
//! talk on the console in lines that begin with `test: `.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::vm::{Reason, Vm};

/// A program that stays, and says when it is told to go.
const DAEMON: &str = "\
trap 'echo test: daemon stopped; exit 0' TERM
echo \"test: daemon has $(grep SigBlk /proc/$$/status)\"
echo test: daemon runs
while :; do sleep 0.1; done
";

/// A scene with these shell scripts as services of zinit.
fn scene(name: &str, services: &[(&str, &str)]) -> Result<Scene> {
    let mut scene = Scene::new(name)?;
    let tree = Tree::copy_of("demo-tree")?;
    tree.remove("etc/zinit/services")?;
    for (service, script) in services {
        let script = format!("#!/bin/sh\nexec >/dev/console 2>&1\n{script}");
        tree.file(&format!("test/{service}"), script.as_bytes(), 0o755)?;
        let unit =
            format!("[service]\nname = \"{service}\"\nexec = \"exec /test/{service}\"\noneshot = true\n");
        tree.file(&format!("etc/zinit/services/{service}.toml"), unit.as_bytes(), 0o644)?;
    }
    scene.publish(&tree, "supervised")?;
    let server = ["/sbin/zinit-server", "--config-dir", "/etc/zinit/services", "--socket", "/run/zinit.sock"];
    let config = json!({ "version": 1, "bundle": "supervised", "exec": server, "supervise": true });
    scene.add_config("supervised", &config)?;
    Ok(scene)
}

fn boot(scene: &Scene) -> Result<Vm> {
    let vm = scene.machine()?.start()?;
    vm.wait_line("] handoff: supervise /sbin/zinit-server ", BOUND)?;
    Ok(vm)
}

#[test]
fn reaps_orphans_and_passes_on_power_off() -> Result<()> {
    let probe = "\
echo \"test: pid1 has $(tr '\\0' ' ' </proc/1/cmdline)\"
for number in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.3 &); done
(sleep 60 & echo $! >/run/orphan)
sleep 2
echo \"test: orphan has $(grep PPid /proc/$(cat /run/orphan)/status)\"
echo \"test: sleeping orphans: $(ps | grep -c '[s]leep 0.3')\"
echo \"test: zombies: $(cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z')\"
poweroff
";
    let scene = scene("supervise-orphans", &[("daemon", DAEMON), ("probe", probe)])?;
    let mut vm = boot(&scene)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line("test: pid1 has *supervise * -- /sbin/zinit-server ")?;
    vm.assert_line("test: orphan has PPid:\t1")?;
    vm.assert_line("test: sleeping orphans: 0")?;
    vm.assert_line("test: zombies: 0")?;
    vm.assert_line("test: daemon stopped").map(drop)
}

#[test]
fn passes_on_power_off_of_zinit() -> Result<()> {
    let vm = ends_by("supervise-zinit-poweroff", "zinit poweroff", &Reason::PowerOff)?;
    // A signal names its sender only while that lives: PID 1 must have looked before the sender goes on, let alone ends.
    let at = |line: &str| vm.find_all(line).first().map(|line| line.at);
    let (seen, sent) = (at("] supervise: ending how=PowerOff"), at("Poweroff signal sent to init"));
    ensure!(seen.is_some() && (sent.is_none() || seen < sent), vm.failed("the sender was faster than PID 1"));
    Ok(())
}

#[test]
fn passes_on_reboot_of_zinit() -> Result<()> {
    ends_by("supervise-zinit-reboot", "zinit reboot", &Reason::Reset).map(drop)
}

#[test]
fn passes_on_reboot_of_busybox() -> Result<()> {
    ends_by("supervise-busybox-reboot", "busybox reboot", &Reason::Reset).map(drop)
}

#[test]
fn passes_on_ctrl_alt_del() -> Result<()> {
    let probe = "until zinit status daemon | grep -q Running; do sleep 0.1; done\necho test: ready\n";
    let scene = scene("supervise-ctrl-alt-del", &[("daemon", DAEMON), ("probe", probe)])?;
    let mut vm = boot(&scene)?;
    vm.wait_line("test: ready", BOUND)?;
    vm.send_keys(&["ctrl", "alt", "delete"])?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line("test: daemon stopped").map(drop)
}

/// Gives a command once the daemon runs: the machine must end that way, with the daemon stopped before.
fn ends_by(name: &str, command: &str, reason: &Reason) -> Result<Vm> {
    let probe = format!("until zinit status daemon | grep -q Running; do sleep 0.1; done\n{command}\n");
    let scene = scene(name, &[("daemon", DAEMON), ("probe", &probe)])?;
    let mut vm = boot(&scene)?;
    vm.expect_exit(reason, BOUND)?;
    vm.assert_line("test: daemon runs")?;
    // Not one signal of PID 1's own bookkeeping may be blocked below it.
    vm.assert_line("test: daemon has SigBlk:\t0000000000000000")?;
    vm.assert_line("test: daemon stopped")?;
    Ok(vm)
}

#[test]
fn starts_a_crashed_zinit_again_with_growing_pauses() -> Result<()> {
    // Twice it kills its own supervisor; the third time it is content.
    let probe = "\
echo x >>/run/starts
starts=$(grep -c x /run/starts)
echo \"test: start $starts\"
[ \"$starts\" -lt 3 ] || exec poweroff
kill -9 $(busybox pidof zinit-server)
";
    let scene = scene("supervise-crash", &[("probe", probe)])?;
    let mut vm = boot(&scene)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    let starts: Vec<_> = vm.find_all("test: start ").into_iter().map(|line| line.at).collect();
    ensure!(starts.len() == 3, vm.failed("expected three starts"));
    ensure!(
        vm.find_all("] supervise: ended program=/sbin/zinit-server*signal=9").len() == 2,
        vm.failed("two ends")
    );
    vm.assert_line("] supervise: restart 1 of 9 in ")?;
    vm.assert_line("] supervise: restart 2 of 9 in ")?;
    // Three quarters of one and of two seconds at least.
    let pauses = (starts[1] - starts[0], starts[2] - starts[1]);
    let long = pauses.0 > Duration::from_millis(750) && pauses.1 > Duration::from_millis(1500);
    ensure!(long, vm.failed(&format!("restarted without a pause: {pauses:?}")));
    Ok(())
}
