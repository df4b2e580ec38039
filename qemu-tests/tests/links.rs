//! Cables, switches and which of several network cards to use.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal_by};
use zstrap_qemu_tests::dhcp::Script;
use zstrap_qemu_tests::http::{FaultServer, Place};
use zstrap_qemu_tests::lab::{Lab, elsewhere};
use zstrap_qemu_tests::segment::Segment;
use zstrap_qemu_tests::site::{Scene, noise};
use zstrap_qemu_tests::vm::{Reason, Vm, VmBuilder};

/// A lab with a scene in it, where dnsmasq leases addresses from 10.77.0.50 on.
fn leasing(name: &str) -> Result<(Lab, Scene, impl Drop)> {
    let lab = Lab::new()?;
    let scene = lab.scene(name)?;
    let dnsmasq = lab.dnsmasq(&["--dhcp-range=10.77.0.50,10.77.0.60,120"])?;
    Ok((lab, scene, dnsmasq))
}

/// Waits until somebody has asked for this file.
fn wait_for_request(server: &FaultServer, path: &str) -> Result<()> {
    let deadline = std::time::Instant::now() + BOUND;
    while server.requests_for(path).is_empty() {
        ensure!(std::time::Instant::now() < deadline, "nobody has asked for {path}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn boots_once_the_cable_is_in() -> Result<()> {
    let scene = Scene::new("links-no-carrier")?;
    let mut vm = scene.machine()?.unplugged("nic0").start()?;
    let first = vm.wait_line("] network: waiting at-most=*s longer: no carrier on eth0 within ", BOUND)?;
    // The second of these lines comes ten seconds later.
    vm.wait_line_after(&first, "] network: waiting at-most=*s longer: no carrier on eth0 within ", BOUND)?;
    vm.assert_never("] network: lease ")?;
    vm.set_link("nic0", true)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line("] network: lease addr=10.0.2.15/24 gw=10.0.2.2 link=eth0 ")?;
    vm.assert_line("payload: end")?;
    vm.assert_never("] fail:")
}

#[test]
fn goes_on_with_a_file_when_the_link_is_back() -> Result<()> {
    const SIZE: usize = 6 << 20;
    const DARK: Duration = Duration::from_secs(6);
    let (lab, mut scene, _dnsmasq) = leasing("links-flap")?;
    let big = scene.publish_big(&noise(SIZE))?;
    // The file alone takes six seconds.
    lab.segment.set(|wire| wire.rate = Some(8_000_000));
    let mut vm = lab.machine(&scene)?.start()?;
    wait_for_request(&scene.server, &big.path)?;
    std::thread::sleep(Duration::from_secs(1));
    vm.set_link("nic0", false)?;
    std::thread::sleep(DARK);
    vm.set_link("nic0", true)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line(&format!("payload: tree={}", big.tree.fingerprint()?))?;
    let list = vm.assert_line("] list: ok ")?;
    let done = vm.assert_line("] fetch: done files=2 ")?;
    ensure!(done.at > list.at + DARK, vm.failed("the file was there before the link was gone"));
    // It went on, and did not begin again.
    let ranges: Vec<_> =
        scene.server.requests_for(&big.path).into_iter().map(|request| request.range).collect();
    ensure!(ranges.iter().filter(|range| range.is_none()).count() == 1, vm.failed(&format!("{ranges:?}")));
    vm.assert_never("] fail:")
}

/// The first card is on a hub with nobody, the second has a lease and no server behind it.
#[test]
fn boots_through_the_last_of_three_nics() -> Result<()> {
    let scene = Scene::new("links-three-nics")?;
    let (stranger, _) = elsewhere(Script::new(3, 90))?;
    let nobody = Segment::new(3)?;
    // The card on the user network is on the highest slot of the bus, which makes it the last.
    let last = ["-netdev", "user,id=last", "-device", "virtio-net-pci,netdev=last,romfile=,addr=0x10"];
    let machine = scene.machine()?.nics(0).wire(&nobody)?.wire(&stranger)?.arguments(&last);
    let vm = expect_payload(machine, BOUND)?;
    vm.assert_line("] network: lease addr=10.0.2.15/24 gw=10.0.2.2 link=eth2 ")?;
    vm.assert_line("] network: online server=*link=eth2 ")?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_on_a_tagged_vlan() -> Result<()> {
    let (lab, scene, _dnsmasq) = leasing("links-vlan")?;
    lab.segment.set(|wire| wire.vlan = Some(10));
    let vm = expect_payload(lab.machine(&scene)?.append("zstrap.net=dhcp4,vlan=10"), BOUND)?;
    vm.assert_line("] network: vlan link=eth0.10 id=10 below=eth0")?;
    vm.assert_line("] network: lease addr=10.77.0.*/24 gw=10.77.0.1 link=eth0.10 ")?;
    vm.assert_line("] network: online server=*link=eth0.10 ").map(drop)
}

/// A machine with two cards on the segment, made one.
fn bonded(lab: &Lab, scene: &Scene, mode: &str) -> Result<VmBuilder> {
    Ok(lab.machine(scene)?.wire(&lab.segment)?.append(&format!("zstrap.net=dhcp4,bond={mode}:eth0+eth1")))
}

#[test]
fn boots_on_a_bond_with_a_dead_leg() -> Result<()> {
    let (lab, scene, _dnsmasq) = leasing("links-bond")?;
    let vm = expect_payload(bonded(&lab, &scene, "active-backup")?.unplugged("nic0"), BOUND)?;
    vm.assert_line("] network: bond link=bond0 leg=eth0")?;
    vm.assert_line("] network: bond link=bond0 leg=eth1")?;
    vm.assert_line("] network: lease addr=10.77.0.*/24 gw=10.77.0.1 link=bond0 ")?;
    vm.assert_line("payload: bond=bond0 eth1").map(drop)
}

#[test]
fn goes_on_with_a_file_when_a_leg_of_the_bond_dies() -> Result<()> {
    let (lab, mut scene, _dnsmasq) = leasing("links-bond-dies")?;
    let big = scene.publish_big(&noise(6 << 20))?;
    lab.segment.set(|wire| wire.rate = Some(8_000_000));
    let mut vm = bonded(&lab, &scene, "active-backup")?.start()?;
    wait_for_request(&scene.server, &big.path)?;
    std::thread::sleep(Duration::from_secs(1));
    vm.set_link("nic0", false)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line(&format!("payload: tree={}", big.tree.fingerprint()?))?;
    vm.assert_line("payload: bond=bond0 eth1")?;
    vm.assert_never("] fail:")
}

/// The whole tower: two cards to a trunk, of which one is dead, the bond of both, and the VLAN above.
#[test]
fn boots_on_a_vlan_above_a_bond_with_a_dead_leg() -> Result<()> {
    let (lab, scene, _dnsmasq) = leasing("links-bond-vlan")?;
    lab.segment.set(|wire| wire.vlan = Some(10));
    let machine = lab.machine(&scene)?.wire(&lab.segment)?.unplugged("nic0");
    let machine = machine.append("zstrap.net=dhcp4,bond=active-backup:eth0+eth1,vlan=10");
    let vm = expect_payload(machine, BOUND)?;
    vm.assert_line("] network: bond link=bond0 leg=eth0")?;
    vm.assert_line("] network: bond link=bond0 leg=eth1")?;
    vm.assert_line("] network: vlan link=bond0.10 id=10 below=bond0")?;
    vm.assert_line("] network: lease addr=10.77.0.*/24 gw=10.77.0.1 link=bond0.10 ")?;
    vm.assert_line("] network: online server=*link=bond0.10 ")?;
    vm.assert_line("payload: bond=bond0 eth1")?;
    vm.assert_never("] fail:")
}

#[test]
fn names_a_leg_of_the_bond_that_is_not_there() -> Result<()> {
    let (lab, scene, _dnsmasq) = leasing("links-bond-short")?;
    let machine = lab.machine(&scene)?.append("zstrap.net=dhcp4,bond=active-backup:eth0+eth5");
    let vm = expect_payload(machine, BOUND)?;
    vm.assert_line("] network: lease addr=10.77.0.*/24 gw=10.77.0.1 link=bond0 ")?;
    let named = vm.find_all("] network: bond link=bond0 missing=eth5").len();
    ensure!(named == 1, vm.failed(&format!("named {named} times")));
    vm.assert_never("] fail:")
}

/// The switch knows nothing of LACP: the bond works all the same, with one leg.
#[test]
fn boots_on_an_lacp_bond_without_a_partner() -> Result<()> {
    let (lab, scene, _dnsmasq) = leasing("links-lacp")?;
    let vm = expect_payload(bonded(&lab, &scene, "802.3ad")?, BOUND)?;
    vm.assert_line("] network: lease addr=10.77.0.*/24 gw=10.77.0.1 link=bond0 ").map(drop)
}

#[test]
fn boots_with_the_static_address_of_the_identity() -> Result<()> {
    let mut scene = Scene::new("links-static")?;
    scene.identity["network"] =
        json!("addr=10.0.2.77/24,gw=10.0.2.2,dns=10.0.2.3,search=one.test,hostname=node7,mtu=1400");
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] network: static addr=10.0.2.77/24 gw=10.0.2.2 link=eth0 ")?;
    let told = [
        "address=10.0.2.77",
        "hostname=node7",
        "mtu=eth0 1400",
        "dns=search one.test",
        "dns=nameserver 10.0.2.3",
        "route=0.0.0.0/0.0.0.0 via 10.0.2.2 eth0",
    ];
    for told in told {
        vm.assert_line(&format!("payload: {told}"))?;
    }
    vm.assert_never("] network: lease ")
}

/// Where the machines of [`beyond6`] are; their router has the address 1 in it.
const NETWORK6: &str = "2001:db8:77";
/// The server beyond that router.
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x88, 0, 0, 0, 0, 1);

/// A room of IPv6 only, without anybody who tells addresses, with the server beyond the router.
fn beyond6(name: &str, host: &str) -> Result<(Lab, Scene)> {
    let lab = Lab::new()?;
    lab.namespace.ip(&format!("address add {SERVER6}/128 dev lo nodad"))?;
    lab.namespace.ip(&format!("address add {NETWORK6}::1/64 dev tap0 nodad"))?;
    lab.namespace.ip("address add fe80::1/64 dev tap0 nodad")?;
    let place = Place::inside(&lab.namespace, SERVER6.into());
    let place = if host.is_empty() { place } else { place.named(host) };
    let scene = Scene::at(name, place)?;
    Ok((lab, scene))
}

/// Nothing but what was set: the router says nothing of itself, and the server would answer no machine with another
/// address.
fn boots_with_static_ipv6((lab, scene): &(Lab, Scene), gateway: &str, more: &str) -> Result<Vm> {
    let settings = format!("zstrap.net=addr={NETWORK6}::7/64,gw={gateway}{more}");
    let vm = expect_payload(lab.machine(scene)?.append(&settings), BOUND)?;
    vm.assert_line(&format!("] network: static addr={NETWORK6}::7/64 gw={gateway} link=eth0 "))?;
    vm.assert_line(&format!("payload: address={NETWORK6}::7/64 eth0"))?;
    vm.assert_never("] fail:")?;
    Ok(vm)
}

#[test]
fn boots_with_a_static_ipv6_address() -> Result<()> {
    let vm = boots_with_static_ipv6(&beyond6("links-static6", "")?, &format!("{NETWORK6}::1"), "")?;
    vm.assert_line(&format!("] network: online server=http://[{SERVER6}]:*link=eth0 ")).map(drop)
}

#[test]
fn boots_by_name_with_a_static_ipv6_address_and_a_link_local_gateway() -> Result<()> {
    let room = beyond6("links-static6-local", "boot.test")?;
    let record = format!("--host-record=boot.test,{SERVER6}");
    let _dnsmasq = room.0.dnsmasq(&["--port=53", "--local=/test/", &record])?;
    let vm = boots_with_static_ipv6(&room, "fe80::1", &format!(",dns={NETWORK6}::1"))?;
    vm.assert_line("] network: online server=http://boot.test:*link=eth0 ").map(drop)
}

#[test]
fn takes_the_network_of_the_command_line_before_that_of_the_identity() -> Result<()> {
    let mut scene = Scene::new("links-static-cmdline")?;
    scene.identity["network"] = json!("addr=192.0.2.7/24,gw=192.0.2.1");
    let words = "zstrap.net=addr=10.0.2.78/24,gw=10.0.2.2,link=52:54:00:12:34:56 zstrap.nett=dhcp";
    let vm = expect_payload(scene.machine()?.append(words), BOUND)?;
    vm.assert_line("] early: ignored setting=zstrap.nett: ")?;
    vm.assert_line("] network: static addr=10.0.2.78/24 gw=10.0.2.2 link=eth0 ")?;
    vm.assert_never("192.0.2.7")
}

#[test]
fn refuses_network_settings_that_say_nothing() -> Result<()> {
    let scene = Scene::new("links-bad-settings")?;
    let machine = scene.machine()?.append("zstrap.net=adr=10.0.2.78/24 zstrap.tries=3 zstrap.reboot_after=1");
    let mut vm = machine.start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line("] network: refused reason=bad-network code=ZS-CMD-02")?;
    vm.assert_line("] fail: because: *adr")?;
    // What is wrong stays wrong.
    vm.assert_line("] fail: rebooting in 1s")?;
    vm.assert_never("] fail: retry ")?;
    vm.assert_never("] network: lease ")
}

/// The server has an IPv4 address: an IPv6 router was waited for, for all of the 90 s, though none could have helped.
#[test]
fn refuses_at_once_what_cannot_lead_to_a_server() -> Result<()> {
    let scene = Scene::new("links-auto6")?;
    let vm = expect_refusal_by(scene.machine()?.append("zstrap.net=auto6"), "network", "no-lease", BOUND)?;
    vm.assert_line("] fail: code=ZS-NET-05 ")?;
    vm.assert_never("] network: waiting ")
}

/// Both cards lead to the server. The second is hinted at, and its lease comes later.
fn boots_through_the_hinted_link(name: &str, hint: &str) -> Result<()> {
    let scene = Scene::new(name)?;
    let vm = expect_payload(scene.machine()?.nics(2).append(hint), BOUND)?;
    vm.assert_line("] network: online server=*link=eth1 ")?;
    vm.assert_never("] network: online server=*link=eth0 ")
}

#[test]
fn boots_through_the_link_that_the_command_line_hints_at() -> Result<()> {
    boots_through_the_hinted_link("links-hint", "zstrap.link=eth1")
}

#[test]
fn boots_through_the_link_that_pxelinux_hints_at() -> Result<()> {
    boots_through_the_hinted_link("links-bootif", "BOOTIF=01-52-54-00-12-34-57")
}

/// A hint is no order: after its head start the others are tried.
#[test]
fn boots_through_another_link_than_the_hinted_one_when_that_is_dead() -> Result<()> {
    let scene = Scene::new("links-wrong-hint")?;
    let vm = expect_payload(scene.machine()?.nics(2).unplugged("nic1").append("zstrap.link=eth1"), BOUND)?;
    vm.assert_line("] network: hint link=eth1 at-most=*s longer: no carrier yet, ")?;
    let online = vm.assert_line("] network: online server=*link=eth0 ")?;
    let ready = vm.assert_line("] identity: ok ")?;
    ensure!(online.at > ready.at + Duration::from_secs(9), vm.failed("the hint had no head start"));
    Ok(())
}

/// Adapters at USB show up late, so a link that is not there has its head start, too; but not without a word.
#[test]
fn says_that_a_hinted_link_is_not_there() -> Result<()> {
    let scene = Scene::new("links-no-hinted")?;
    let vm = expect_payload(scene.machine()?.append("zstrap.link=eth9"), BOUND)?;
    let said = vm.assert_line("] network: hint link=eth9 at-most=*s longer: no such link yet, ")?;
    let online = vm.assert_line("] network: online server=*link=eth0 ")?;
    ensure!(online.at > said.at + Duration::from_secs(5), vm.failed("it was said when all was over"));
    Ok(())
}
