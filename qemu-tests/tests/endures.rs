//! What takes minutes: machines that wait for most of the time, while something is slow or has to go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::artefacts::patience;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::dhcp::{DISCOVER, Handle, LEASE_TIME, REQUEST, Script};
use zstrap_qemu_tests::efi::{EFI_BOUND, Firmware, fails};
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::lab::Lab;
use zstrap_qemu_tests::site::{SMALL, Scene, Tree, noise};
use zstrap_qemu_tests::vm::{Reason, Vm};

/// A port with spanning tree: the carrier is there at once, and for 35 s neither a question nor an answer passes.
const OPENS: Duration = Duration::from_secs(35);

/// What the node may lose once the port has opened: its longest pause between questions, and a slow test machine.
const LOST: Duration = Duration::from_secs(8 + 5);

#[test]
fn boots_once_a_switch_port_forwards_after_35_s() -> Result<()> {
    let lab = Lab::new()?;
    let scene = lab.scene("endures-spanning-tree")?;
    let dnsmasq = lab.dnsmasq(&["--dhcp-range=10.77.0.50,10.77.0.60,120"])?;
    lab.segment.set(|wire| wire.opens_after = Some(OPENS));
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    let ready = vm.assert_line("] identity: ok ")?;
    vm.assert_line("] network: waiting at-most=*s longer: no DHCP lease*on eth0 within ")?;
    let lease = vm.assert_line("] network: lease addr=10.77.0.*/24 gw=10.77.0.1 link=eth0 ")?;
    let waited = lease.at - ready.at;
    ensure!(waited >= OPENS - Duration::from_secs(1), vm.failed("the port was open before"));
    ensure!(waited <= OPENS + LOST, vm.failed(&format!("{waited:?} until there was a lease")));
    ensure!(dnsmasq.count("DHCPDISCOVER") <= 2, vm.failed("questions came through before"));
    vm.assert_never("] fail:")
}

#[test]
fn boots_once_a_silent_server_speaks_after_45_s() -> Result<()> {
    let script = Script::new(2, 50).silent(Duration::from_secs(45));
    let (lab, scene, heard) = Lab::scripted("endures-silent", script)?;
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: waiting at-most=*s longer: no DHCP lease*on eth0 within ")?;
    let lease = vm.assert_line("] network: lease addr=10.77.0.50/24 gw=10.77.0.1 link=eth0 ")?;
    let discovers: Vec<_> = heard.all().into_iter().filter(|message| message.kind == DISCOVER).collect();
    let last = discovers.last().map(|message| message.at).unwrap_or_default();
    // It asks often enough to lose no more than the longest pause of RFC 2131, 4.1, would.
    ensure!(last < Duration::from_secs(65), vm.failed(&format!("asked at {discovers:?}, lease at {lease}")));
    ensure!(discovers.len() >= 4, vm.failed(&format!("asked only at {discovers:?}")));
    Ok(())
}

#[test]
fn says_that_nobody_leases_addresses() -> Result<()> {
    let lab = Lab::new()?;
    let scene = lab.scene("endures-nobody")?;
    let mut vm = lab.machine(&scene)?.append("zstrap.tries=1 zstrap.reboot_after=1").start()?;
    vm.expect_exit(&Reason::Reset, Duration::from_secs(150))?;
    vm.assert_line("] network: refused reason=no-lease code=ZS-NET-04")?;
    vm.assert_line("] fail: because: no DHCP lease*on eth0 within ").map(drop)
}

/// No link is waited for as long as one that could still show up; within half of a second it is said which card has no
/// driver.
#[test]
fn says_that_there_is_no_network_card() -> Result<()> {
    no_link("endures-no-card", &[], "] fail: because: no network link to use found within 90s")
}

/// Debian's cloud kernel has no driver for this one.
#[test]
fn says_which_network_card_has_no_driver() -> Result<()> {
    let card = ["-netdev", "user,id=old", "-device", "e1000,netdev=old,romfile="];
    let because =
        "] fail: because: no network link to use found within *, no driver for network card 8086:100e";
    no_link("endures-no-driver", &card, because)
}

fn no_link(name: &str, card: &[&str], because: &str) -> Result<()> {
    let scene = Scene::new(name)?;
    let machine = scene.machine()?.nics(0).arguments(card).append("zstrap.tries=1 zstrap.reboot_after=1");
    let mut vm = machine.start()?;
    if !card.is_empty() {
        vm.wait_line("] early: no driver for network card id=8086:100e", Duration::from_secs(60))?;
    }
    vm.expect_exit(&Reason::Reset, Duration::from_secs(150))?;
    vm.assert_line("] network: refused reason=no-link code=ZS-NET-01")?;
    vm.assert_line(because)?;
    vm.assert_line("] fail: rebooting in 1s")?;
    vm.assert_never("payload:")
}

/// The list takes longer than a minute, of which there was not a word: it looked as if the machine hung.
#[test]
fn says_that_a_list_drips() -> Result<()> {
    let scene = Scene::new("endures-drips")?;
    let list = scene.list(SMALL)?;
    let rate = scene.read(&list)?.len() as u64 / 60;
    scene.server.rule(Rule::always(&format!("/{list}"), Fault::Trickle(rate)));
    let vm = expect_payload(scene.machine()?, BOUND)?;
    let said = vm.find_all(&format!("] servers: slow path={list} have="));
    ensure!(said.len() >= 2, vm.failed("it was not said how far the list is"));
    vm.assert_never("] fail:")
}

/// What a lease is good for here.
const LEASE: Duration = Duration::from_secs(20);

/// The file takes longer than two leases, and the network carries nothing for a machine whose lease is over.
#[test]
fn renews_a_lease_of_20_s_while_a_file_takes_50_s() -> Result<()> {
    const RATE: u64 = 40 * 1024;
    let script = Script::new(2, 50).with(LEASE_TIME, &(LEASE.as_secs() as u32).to_be_bytes());
    let (lab, mut scene, server) = Lab::scripted("endures-renewal", script)?;
    let big = scene.publish_big(&noise(50 * RATE as usize))?;
    scene.server.rule(Rule::always(&big.path, Fault::Trickle(RATE)));
    let mut vm = lab.machine(&scene)?.append("zstrap.log=debug").start()?;
    carry_only_while_leased(&lab, &server, &vm)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line(&format!("payload: tree={}", big.tree.fingerprint()?))?;

    let (list, done) = (vm.assert_line("] list: ok ")?, vm.assert_line("] fetch: done ")?);
    ensure!(done.at - list.at > 2 * LEASE, vm.failed("the file took too little time"));
    let renewed = vm.find_all("] network: lease renewed addr=10.77.0.50/24 for=20s ");
    let meanwhile = renewed.iter().filter(|line| line.index > list.index && line.index < done.index).count();
    // Each ten seconds; and the server heard all of them, besides the question for the lease itself.
    ensure!(meanwhile >= 3, vm.failed(&format!("renewed {meanwhile} times")));
    ensure!(server.count(REQUEST) > meanwhile, vm.failed(&format!("heard {:?}", server.all())));
    ensure!(scene.server.requests_for(&big.path).len() == 1, vm.failed("the file was asked for again"));
    vm.assert_never("] network: lease lost ")?;
    vm.assert_never("] fail:")
}

/// Cuts the wire once the lease is over that was asked for last, for good: nobody can ask for another. Until the
/// handoff.
fn carry_only_while_leased(lab: &Lab, server: &Handle, vm: &Vm) -> Result<()> {
    let deadline = Instant::now() + patience(BOUND);
    let (mut granted, mut since) = (0, Instant::now());
    while vm.find("] handoff: ").is_none() {
        ensure!(Instant::now() < deadline, vm.failed("the boot is not done"));
        let asked = server.count(REQUEST);
        if asked > granted {
            (granted, since) = (asked, Instant::now());
        }
        if granted > 0 && since.elapsed() > LEASE {
            lab.segment.set(|wire| wire.cut = true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn gives_up_and_reboots_when_the_program_never_stays_up() -> Result<()> {
    let mut scene = Scene::new("endures-hopeless")?;
    scene.publish(&Tree::copy_of("demo-tree")?, "demo")?;
    let config = json!({ "version": 1, "bundle": "demo", "exec": ["/bin/false"], "supervise": true });
    scene.add_config("hopeless", &config)?;
    let mut vm = scene.machine()?.start()?;
    // Nine pauses, 1 s to 30 s long: two and a half minutes at most.
    vm.expect_exit(&Reason::Reset, Duration::from_secs(240))?;
    ensure!(vm.find_all("] supervise: restart ").len() == 9, vm.failed("expected nine restarts"));
    ensure!(
        vm.find_all("] supervise: started program=/bin/false").len() == 10,
        vm.failed("expected ten starts")
    );
    vm.assert_line("] supervise: gave up program=/bin/false")?;
    vm.assert_line("] fail: code=ZS-RUN-07 stage=supervise reason=gave-up")?;
    vm.assert_line("] fail: rebooting in *s, boot loops are not counted here").map(drop)
}

/// Under our supervisor a boot has not failed once its program has stayed up for a minute, and not before.
#[test]
fn forgets_failed_boots_only_once_the_program_has_stayed_up() -> Result<()> {
    let (firmware, mut scene) = (Firmware::new()?, Scene::new("endures-stays-up")?);
    scene.publish(&Tree::copy_of("demo-tree")?, "demo")?;
    let supervised = |seconds: u32| {
        let exec = ["/bin/sh", "-c", &format!("sleep {seconds}; poweroff; sleep 60")];
        json!({ "version": 1, "bundle": "demo", "exec": exec, "supervise": true })
    };
    scene.add_config("short", &supervised(5))?;
    scene.add_config("long", &supervised(70))?;
    scene.add_config("wrong", &json!({ "version": 1, "bundle": "demo", "exec": ["/nothing"] }))?;
    let mut loops = Vec::new();
    for between in ["short", "long"] {
        loops.push(fails(&firmware, &scene)?.0);
        scene.use_config(between);
        let mut vm = firmware.boots(scene.machine()?).start()?;
        vm.expect_exit(&Reason::PowerOff, Duration::from_secs(90) + EFI_BOUND)?;
        vm.assert_line("] supervise: bye how=PowerOff")?;
        scene.use_config("wrong");
    }
    loops.push(fails(&firmware, &scene)?.0);
    ensure!(loops == [1, 2, 1], "{loops:?}");
    Ok(())
}
