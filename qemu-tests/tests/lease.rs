//! A node keeps its network after the handoff: `zstrap-node lease` as a service of zinit.
//!
//! The bundle is the demo's with its service `lease`, which speaks on the console here, and a probe that fetches from
//! the server every few seconds and says `test: fetched`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::dhcp::{DNS, Handle, LEASE_TIME, ROUTER as ROUTER_OPTION, Script};
use zstrap_qemu_tests::lab::Lab;
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::vm::{Reason, Vm};

const PROBE: &str = "\
turn=0
while [ $turn -lt TURNS ]; do
    sleep PAUSE
    turn=$((turn + 1))
    own=$(ip -o -4 addr show eth0 | sed 's/.*inet \\([^ ]*\\).*/\\1/')
    route=$(ip -4 route show default | head -n 1)
    names=$(grep -c '^nameserver 10.77.0.9$' /etc/resolv.conf)
    if printf 'GET /configs/kept/latest HTTP/1.0\\r\\n\\r\\n' | nc -w 5 10.77.0.1 PORT | grep -q '200 OK'; then
        echo \"test: fetched turn=$turn own=$own route=$route names=$names\"
    else
        echo \"test: nothing turn=$turn own=$own route=$route names=$names\"
    fi
done
poweroff
";

/// A scene whose bundle keeps its lease, and fetches so many times.
fn keeping(mut scene: Scene, turns: u32, pause: u32) -> Result<Scene> {
    let tree = Tree::copy_of("demo-tree")?;
    let lease = tree.read("etc/zinit/services/lease.toml")?;
    tree.remove("etc/zinit/services")?;
    let lease = lease.replace("zstrap-node lease\"", "zstrap-node lease 2>/dev/console\"");
    ensure!(lease.contains("console"), "the service of the demo is another one: {lease}");
    tree.file("etc/zinit/services/lease.toml", lease.as_bytes(), 0o644)?;
    let port = scene.server.address().port().to_string();
    let probe = PROBE.replace("TURNS", &turns.to_string()).replace("PAUSE", &pause.to_string());
    let probe = format!("#!/bin/sh\nexec >/dev/console 2>&1\n{}", probe.replace("PORT", &port));
    tree.file("test/probe", probe.as_bytes(), 0o755)?;
    let unit = "[service]\nname = \"probe\"\nexec = \"exec /test/probe\"\noneshot = true\n";
    tree.file("etc/zinit/services/probe.toml", unit.as_bytes(), 0o644)?;
    scene.publish(&tree, "kept")?;
    let server = ["/sbin/zinit-server", "--config-dir", "/etc/zinit/services", "--socket", "/run/zinit.sock"];
    scene
        .add_config("kept", &json!({ "version": 1, "bundle": "kept", "exec": server, "supervise": true }))?;
    Ok(scene)
}

/// So many fetches, all good, until the machine switches itself off.
fn check_fetches(vm: &mut Vm, turns: u32, limit: Duration) -> Result<()> {
    vm.expect_exit(&Reason::PowerOff, limit)?;
    vm.assert_never("test: nothing")?;
    let fetched = vm.find_all("test: fetched").len();
    ensure!(fetched == turns as usize, vm.failed(&format!("{fetched} fetches of {turns}")));
    Ok(())
}

#[test]
fn keeps_a_lease_of_20_s_for_two_minutes() -> Result<()> {
    let lab = Lab::new()?;
    let scene = keeping(lab.scene("lease-kea")?, 12, 10)?;
    let kea = lab.kea4(json!({
        "valid-lifetime": 20,
        "renew-timer": 10,
        "rebind-timer": 17,
        "calculate-tee-times": false,
    }))?;
    let mut vm = lab.machine(&scene)?.start()?;
    check_fetches(&mut vm, 12, Duration::from_secs(240))?;
    vm.assert_line("lease: keeping addr=10.77.0.50/24 link=eth0 for=20s ")?;
    let renewed = vm.find_all("lease: renewed addr=10.77.0.50/24 for=20s server=10.77.0.1").len();
    let allocated = kea.count("DHCP4_LEASE_ALLOC");
    // Each ten seconds, and the first one of all.
    ensure!(
        renewed >= 10 && allocated > renewed,
        vm.failed(&format!("{renewed} renewed, {allocated} at Kea"))
    );
    vm.assert_never("lease: expired")
}

/// A lab with a scripted server whose leases last 20 s, for a machine that fetches so many times.
fn short_leases(name: &str, turns: u32) -> Result<(Lab, Scene, Handle)> {
    let script = Script::new(2, 50).with(LEASE_TIME, &20_u32.to_be_bytes());
    let (lab, scene, server) = Lab::scripted(name, script)?;
    Ok((lab, keeping(scene, turns, 5)?, server))
}

#[test]
fn follows_a_change_of_address_route_and_name_server() -> Result<()> {
    let (lab, scene, server) = short_leases("lease-change", 8)?;
    let mut vm = lab.machine(&scene)?.start()?;
    vm.wait_line("test: fetched turn=1 own=10.77.0.50/24 route=default via 10.77.0.1 *names=0", BOUND)?;
    server.change(|script| {
        script.naks(1).leasing(99).with(DNS, &[10, 77, 0, 9]).with(ROUTER_OPTION, &[10, 77, 0, 9])
    });
    let refused = vm.wait_line("lease: refused addr=10.77.0.50/24 server=10.77.0.2", BOUND)?;
    let obtained = vm.wait_line_after(&refused, "lease: obtained addr=10.77.0.99/24 for=20s ", BOUND)?;
    let changed = "lease: changed addr=10.77.0.99/24 gw=10.77.0.9 dns=10.77.0.9";
    let changed = vm.wait_line_after(&obtained, changed, BOUND)?;
    vm.wait_line_after(
        &changed,
        "test: fetched *own=10.77.0.99/24 route=default via 10.77.0.9 *names=1",
        BOUND,
    )?;
    // Between the two addresses it has none, and a fetch may have fallen into that.
    vm.expect_exit(&Reason::PowerOff, BOUND).map(drop)
}

#[test]
fn rebinds_with_another_server_when_its_own_is_gone() -> Result<()> {
    let (lab, scene, server) = short_leases("lease-rebind", 8)?;
    let mut vm = lab.machine(&scene)?.start()?;
    vm.wait_line("test: fetched turn=1 own=10.77.0.50/24 ", BOUND)?;
    server.change(|script| script.silent(Duration::MAX));
    Script::new(3, 50).with(LEASE_TIME, &60_u32.to_be_bytes()).play_on(&lab.segment);
    vm.wait_line("lease: rebind addr=10.77.0.50/24 silent=10.77.0.2", BOUND)?;
    vm.wait_line("lease: renewed addr=10.77.0.50/24 for=60s server=10.77.0.3", BOUND)?;
    check_fetches(&mut vm, 8, BOUND)
}

#[test]
fn asks_for_its_address_again_when_the_cable_is_back() -> Result<()> {
    let (lab, scene, server) = short_leases("lease-cable", 6)?;
    let mut vm = lab.machine(&scene)?.start()?;
    vm.wait_line("test: fetched turn=1 ", BOUND)?;
    vm.set_link("nic0", false)?;
    vm.wait_line("lease: carrier-lost addr=10.77.0.50/24", BOUND)?;
    let asked = server.all().len();
    vm.set_link("nic0", true)?;
    let back = vm.wait_line("lease: carrier-back addr=10.77.0.50/24", BOUND)?;
    let renewed = vm.wait_line_after(&back, "lease: renewed addr=10.77.0.50/24 ", BOUND)?;
    ensure!(renewed.at < back.at + Duration::from_secs(5), vm.failed("it waited for T1"));
    ensure!(server.all().len() > asked, vm.failed("nobody was asked"));
    check_fetches(&mut vm, 6, BOUND)
}

/// The probe's fetches fail until the cable is plugged in, and each counts.
#[test]
fn a_node_from_a_stick_gets_its_network_when_the_cable_is_plugged_in() -> Result<()> {
    let (lab, mut scene, server) = short_leases("lease-stick", 60)?;
    scene.identity["servers"] = json!(["file:///site"]);
    let mut vm = lab.machine(&scene)?.unplugged("nic0").medium(&scene.stick()?).start()?;
    vm.wait_line("] network: online server=file:///site link=none ", BOUND)?;
    let searching = vm.wait_line("lease: searching link=none network=dhcp", BOUND)?;
    vm.wait_line_after(&searching, "test: nothing turn=* own= route= names=0", BOUND)?;
    ensure!(server.all().is_empty(), vm.failed("it asked through a cable that was out"));
    vm.set_link("nic0", true)?;
    let obtained = vm.wait_line("lease: obtained addr=10.77.0.50/24 for=20s server=10.77.0.2", BOUND)?;
    let fetched = "test: fetched turn=* own=10.77.0.50/24 route=default via 10.77.0.1 ";
    vm.wait_line_after(&obtained, fetched, BOUND)?;
    // It is kept, as one of a boot over the network.
    vm.wait_line_after(&obtained, "lease: renewed addr=10.77.0.50/24 for=20s server=10.77.0.2", BOUND)?;
    vm.assert_never("lease: expired")
}
