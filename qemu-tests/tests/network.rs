//! What DHCP servers and networks do to a node that wants to boot.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal_by};
use zstrap_qemu_tests::dhcp::{
    DECLINE, DISCOVER, DNS, HOSTNAME, Handle, MTU, Mute, ROUTER as ROUTER_OPTION, ROUTES, SEARCH, Script,
};
use zstrap_qemu_tests::http::Place;
use zstrap_qemu_tests::lab::{Lab, ROUTER6, elsewhere};
use zstrap_qemu_tests::segment::Segment;
use zstrap_qemu_tests::site::Scene;
use zstrap_qemu_tests::vm::{Reason, Vm};

/// Boots with one card on a segment with such a server.
fn boot(name: &str, script: Script) -> Result<(Vm, Handle)> {
    let (lab, scene, heard) = Lab::scripted(name, script)?;
    Ok((expect_payload(lab.machine(&scene)?, BOUND)?, heard))
}

#[test]
fn boots_with_a_lease_of_dnsmasq() -> Result<()> {
    let lab = Lab::new()?;
    let scene = lab.scene("network-dnsmasq")?;
    let options = [
        "--dhcp-range=10.77.0.50,10.77.0.60,120",
        "--dhcp-option=option:ntp-server,10.77.0.1",
        "--dhcp-option=option:mtu,1400",
        "--dhcp-option=option:domain-search,one.test,two.test",
        "--dhcp-option=option:classless-static-route,198.51.100.0/24,10.77.0.9,0.0.0.0/0,10.77.0.1",
        "--dhcp-host=52:54:00:12:34:56,10.77.0.77,node7",
    ];
    let _dnsmasq = lab.dnsmasq(&options)?;
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: lease addr=10.77.0.77/24 gw=10.77.0.1 link=eth0 ")?;
    let told = [
        "hostname=node7",
        "mtu=eth0 1400",
        "dns=search one.test two.test",
        "route=198.51.100.0/255.255.255.0 via 10.77.0.9 eth0",
        "route=0.0.0.0/0.0.0.0 via 10.77.0.1 eth0",
    ];
    for told in told {
        vm.assert_line(&format!("payload: {told}"))?;
    }
    Ok(())
}

#[test]
fn boots_with_a_lease_of_kea() -> Result<()> {
    let lab = Lab::new()?;
    let scene = lab.scene("network-kea")?;
    let mut kea = lab.kea4(json!({ "valid-lifetime": 120 }))?;
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 gw=10.77.0.1 link=eth0 ")?;
    kea.check()
}

#[test]
fn boots_with_a_server_that_takes_5_s_for_each_answer() -> Result<()> {
    let (vm, _) = boot("network-late", Script::new(2, 50).late(Duration::from_secs(5)))?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 ").map(drop)
}

#[test]
fn boots_after_a_nak() -> Result<()> {
    let (vm, heard) = boot("network-nak", Script::new(2, 50).naks(1))?;
    vm.assert_line("] network: DHCP refused link=eth0 server=10.77.0.2")?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 ")?;
    // It began anew (RFC 2131, 3.1.4).
    ensure!(heard.count(DISCOVER) >= 2, vm.failed(&format!("heard {:?}", heard.all())));
    Ok(())
}

#[test]
fn boots_through_the_second_nic_when_the_first_gets_naks_for_ever() -> Result<()> {
    let (lab, scene, _) = Lab::scripted("network-naks", Script::new(2, 50).late(Duration::from_secs(3)))?;
    let (refusing, heard) = elsewhere(Script::new(3, 90).naks(u32::MAX))?;
    let machine = scene.machine()?.nics(0).wire(&refusing)?.wire(&lab.segment)?;
    let vm = expect_payload(machine, BOUND)?;
    vm.assert_line("] network: DHCP refused link=eth0 server=10.77.0.3")?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 gw=10.77.0.1 link=eth1 ")?;
    // A refusal is no reason to flood the network.
    ensure!(heard.all().len() < 30, vm.failed(&format!("{} messages", heard.all().len())));
    vm.assert_never("addr=10.77.0.90")
}

#[test]
fn boots_with_a_lease_without_name_server() -> Result<()> {
    let (vm, _) = boot("network-no-dns", Script::new(2, 50).without(DNS))?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 gw=10.77.0.1 link=eth0 ")?;
    vm.assert_line("] network: lease without name server link=eth0").map(drop)
}

#[test]
fn boots_with_a_lease_without_gateway_when_the_server_is_near() -> Result<()> {
    let (vm, _) = boot("network-no-gateway", Script::new(2, 50).without(ROUTER_OPTION))?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 gw=none link=eth0 ")?;
    vm.assert_line("] network: lease without gateway link=eth0").map(drop)
}

/// A lease is no success: the first link has one that leads nowhere, the server is beyond the router of the second.
#[test]
fn leaves_a_link_whose_lease_has_no_gateway() -> Result<()> {
    let lab = Lab::new()?;
    lab.namespace.ip("address add 10.88.0.1/32 dev lo")?;
    let scene =
        Scene::at("network-leaves", Place::inside(&lab.namespace, Ipv4Addr::new(10, 88, 0, 1).into()))?;
    let (near, _) = elsewhere(Script::new(3, 90).without(ROUTER_OPTION))?;
    Script::new(2, 50).late(Duration::from_secs(2)).play_on(&lab.segment);
    let vm = expect_payload(scene.machine()?.nics(0).wire(&near)?.wire(&lab.segment)?, BOUND)?;
    let tried = vm.assert_line("] network: lease addr=10.77.0.90/24 gw=none link=eth0 ")?;
    let left = vm.assert_line("] network: left link=eth0 why=no-server")?;
    let online = vm.assert_line("] network: online server=*link=eth1 ")?;
    ensure!(tried.index < left.index && left.index < online.index, vm.failed("in another order"));
    Ok(())
}

#[test]
fn prefers_the_offer_that_has_all_that_is_needed() -> Result<()> {
    let (lab, scene, poor) =
        Lab::scripted("network-two-servers", Script::new(3, 90).without(ROUTER_OPTION).without(DNS))?;
    Script::new(2, 50).late(Duration::from_millis(500)).play_on(&lab.segment);
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 gw=10.77.0.1 link=eth0 ")?;
    ensure!(poor.count(DISCOVER) > 0, vm.failed("the other server was never asked"));
    vm.assert_never("addr=10.77.0.90")
}

#[test]
fn obeys_the_mtu_the_name_and_the_routes_of_a_lease() -> Result<()> {
    // 198.51.100.0/24 by 10.77.0.9 and everything by 10.77.0.1 (RFC 3442): option 3 no longer counts.
    let routes = [24, 198, 51, 100, 10, 77, 0, 9, 0, 10, 77, 0, 1];
    // one.test and two.test, the second by a pointer at the first's `test` (RFC 3397).
    let search = b"\x03one\x04test\x00\x03two\xc0\x04";
    let script = Script::new(2, 50)
        .with(MTU, &1280_u16.to_be_bytes())
        .with(HOSTNAME, b"node7")
        .with(ROUTER_OPTION, &[10, 77, 0, 200])
        .with(ROUTES, &routes)
        .with(SEARCH, search);
    let (vm, _) = boot("network-mtu", script)?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 gw=10.77.0.1 link=eth0 ")?;
    let told = [
        "mtu=eth0 1280",
        "hostname=node7",
        "dns=search one.test two.test",
        "route=198.51.100.0/255.255.255.0 via 10.77.0.9 eth0",
        "route=0.0.0.0/0.0.0.0 via 10.77.0.1 eth0",
    ];
    for told in told {
        vm.assert_line(&format!("payload: {told}"))?;
    }
    vm.assert_never("via 10.77.0.200")
}

#[test]
fn boots_with_a_server_that_ignores_the_broadcast_flag() -> Result<()> {
    let (vm, heard) = boot("network-unicast", Script::new(2, 50).deaf_to_the_broadcast_flag())?;
    vm.assert_line("] network: lease addr=10.77.0.50/24 ")?;
    ensure!(heard.count(DISCOVER) == 1, vm.failed(&format!("heard {:?}", heard.all())));
    Ok(())
}

#[test]
fn declines_an_address_that_another_machine_has() -> Result<()> {
    let (lab, scene, heard) = Lab::scripted("network-conflict", Script::new(2, 50))?;
    lab.segment.host(Mute { address: Ipv4Addr::new(10, 77, 0, 50) });
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: lease declined addr=10.77.0.50 link=eth0: another machine has it")?;
    vm.assert_line("] network: lease addr=10.77.0.51/24 gw=10.77.0.1 link=eth0 ")?;
    let declined: Vec<_> = heard.all().into_iter().filter(|message| message.kind == DECLINE).collect();
    let addresses: Vec<_> = declined.iter().map(|message| message.address).collect();
    ensure!(addresses == [Ipv4Addr::new(10, 77, 0, 50)], vm.failed(&format!("declined {addresses:?}")));
    vm.assert_never("payload: address=10.77.0.50")
}

/// A room whose server is known by name only, and a segment elsewhere whose leases name nobody who knows it.
fn known_by_name(name: &str) -> Result<(Lab, Scene, Segment)> {
    let lab = Lab::new()?;
    let scene = Scene::at(name, lab.place().named("boot.test"))?;
    let (nameless, _) = elsewhere(Script::new(3, 90).without(DNS))?;
    Ok((lab, scene, nameless))
}

/// What a node says of a link whose lease names no name server, when it knows its servers by name only.
const NAMELESS: &str = "eth0: no name server, and servers are known by name only";

#[test]
fn leaves_a_link_whose_lease_has_no_name_server() -> Result<()> {
    let (lab, scene, nameless) = known_by_name("network-nameless")?;
    let options = [
        "--port=53",
        "--local=/test/",
        "--host-record=boot.test,10.77.0.1",
        "--dhcp-range=10.77.0.50,10.77.0.60,120",
    ];
    let _dnsmasq = lab.dnsmasq(&options)?;
    // A poor offer is not taken at once: without the hint the second link would always be tried before.
    let machine = scene.machine()?.nics(0).wire(&nameless)?.wire(&lab.segment)?.append("zstrap.link=eth0");
    let vm = expect_payload(machine, BOUND)?;
    let tried = vm.assert_line("] network: lease addr=10.77.0.90/24 gw=10.77.0.1 link=eth0 ")?;
    let said = vm.assert_line("] network: lease without name server link=eth0")?;
    let left = vm.assert_line("] network: left link=eth0 why=no-server")?;
    let online = vm.assert_line("] network: online server=http://boot.test:*link=eth1 ")?;
    let order = [tried.index, said.index, left.index, online.index];
    ensure!(order.is_sorted(), vm.failed("in another order"));
    vm.assert_never("] fail:")
}

#[test]
fn refuses_a_lease_without_name_server_when_servers_are_known_by_name_only() -> Result<()> {
    let (_lab, scene, nameless) = known_by_name("network-nameless-alone")?;
    let machine = scene.machine()?.nics(0).wire(&nameless)?;
    let vm = expect_refusal_by(machine, "network", "ZS-NET-08", BOUND)?;
    vm.assert_line("] network: lease addr=10.77.0.90/24 gw=10.77.0.1 link=eth0 ")?;
    vm.assert_line(&format!("] fail: because: no server answered: {NAMELESS}")).map(drop)
}

/// The first name server is dead, the second knows the name.
#[test]
fn boots_by_name_although_the_first_name_server_is_dead() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at("network-dead-dns", lab.place().named("boot.test"))?;
    let options = [
        "--port=53",
        "--local=/test/",
        "--host-record=boot.test,10.77.0.1",
        "--dhcp-range=10.77.0.50,10.77.0.60,120",
        "--dhcp-option=option:dns-server,10.77.0.66,10.77.0.1",
    ];
    let _dnsmasq = lab.dnsmasq(&options)?;
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: online server=http://boot.test:*link=eth0 ").map(drop)
}

/// No name server answers at all: that costs some seconds, then the server that is known by address is asked.
#[test]
fn asks_the_next_server_when_a_name_is_not_answered() -> Result<()> {
    let mut scene = Scene::new("network-no-name")?;
    let second = scene.server.url();
    scene.identity["servers"] = json!(["http://boot.test:8080", second]);
    let network = ["-netdev", "user,id=net0,dns=10.0.2.99", "-device", "virtio-net-pci,netdev=net0,romfile="];
    let vm = expect_payload(scene.machine()?.nics(0).arguments(&network), BOUND)?;
    vm.assert_line("] network: no answer server=http://boot.test:8080 ")?;
    vm.assert_line(&format!("] network: online server={second} link=eth0 ")).map(drop)
}

#[test]
fn boots_on_a_bad_wire() -> Result<()> {
    let (lab, scene, _) = Lab::scripted("network-bad-wire", Script::new(2, 50))?;
    lab.segment.set(|wire| {
        (wire.loss, wire.duplicates) = (0.02, 0.02);
        (wire.delay, wire.jitter) = (Duration::from_millis(5), Duration::from_millis(10));
    });
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_on_a_user_network_of_ipv6_only() -> Result<()> {
    let scene = Scene::at("network-ipv6-user", Place::user6())?;
    let network = ["-netdev", "user,id=net0,ipv4=off", "-device", "virtio-net-pci,netdev=net0,romfile="];
    let vm = expect_payload(scene.machine()?.nics(0).arguments(&network), BOUND)?;
    // Whether it names a name server depends on what the host has.
    vm.assert_line("] network: auto6 addr=fec0::*/64 gw=fe80::2 link=eth0 ").map(drop)
}

/// Addresses by router advertisements, the name server by stateless DHCPv6, and a server that is known by name.
#[test]
fn boots_on_a_network_of_ipv6_only_by_name() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at("network-ipv6-dnsmasq", lab.place6().named("boot.test"))?;
    let options = [
        "--enable-ra",
        "--dhcp-range=fd00:77::,ra-stateless,64",
        "--dhcp-option=option6:dns-server,[fd00:77::1]",
        "--dhcp-option=option6:domain-search,one.test",
        "--port=53",
        "--local=/test/",
        &format!("--host-record=boot.test,{ROUTER6}"),
    ];
    let dnsmasq = lab.dnsmasq(&options)?;
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_line("] network: auto6 addr=fd00:77::*/64 gw=fe80::*link=eth0 ")?;
    vm.assert_line("] network: online server=http://boot.test:*link=eth0 ")?;
    vm.assert_line("payload: dns=nameserver fd00:77::1")?;
    vm.assert_line("payload: dns=search one.test")?;
    ensure!(dnsmasq.count("RTR-ADVERT") > 0, vm.failed("no router advertisement was sent"));
    Ok(())
}

/// The name server is one of the router's advertisements, and what the first attempt has left does not stand in the
/// way of the second.
#[test]
fn boots_on_a_network_of_ipv6_only_once_the_server_is_back() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::at("network-ipv6-again", lab.place6().named("boot.test"))?;
    let options = [
        "--enable-ra",
        "--dhcp-range=fd00:77::,ra-only,64",
        "--dhcp-option=option6:dns-server,[fd00:77::1]",
        "--port=53",
        "--local=/test/",
        &format!("--host-record=boot.test,{ROUTER6}"),
    ];
    let _dnsmasq = lab.dnsmasq(&options)?;
    scene.server.pause();
    let mut vm = lab.machine(&scene)?.start()?;
    vm.wait_line("] fail: code=ZS-SRV-* stage=network reason=no-server", BOUND)?;
    scene.server.resume()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line("] network: online server=http://boot.test:*link=eth0 ")?;
    vm.assert_line("payload: dns=nameserver fd00:77::1").map(drop)
}

#[test]
fn boots_on_a_bad_wire_of_ipv6_only() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at("network-ipv6-bad-wire", lab.place6())?;
    let _dnsmasq = lab.dnsmasq(&["--enable-ra", "--dhcp-range=fd00:77::,ra-only,64"])?;
    lab.segment.set(|wire| {
        (wire.loss, wire.duplicates) = (0.05, 0.02);
        (wire.delay, wire.jitter) = (Duration::from_millis(5), Duration::from_millis(10));
    });
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    vm.assert_never("] fail:")
}

/// A lab with a router that announces this prefix, knows of nothing beyond itself, and says so.
fn router(prefix: &str, preference: &str) -> Result<(Lab, impl Drop)> {
    let lab = Lab::new()?;
    lab.namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    if prefix != "fd00:77::" {
        lab.namespace.ip(&format!("address add {prefix}1/64 dev tap0 nodad"))?;
    }
    let range = format!("--dhcp-range={prefix},ra-only,64");
    let dnsmasq = lab.dnsmasq(&["--enable-ra", &range, &format!("--ra-param=tap0,{preference},0,1800")])?;
    Ok((lab, dnsmasq))
}

/// Three routers, of which only the last, which all would rather use, leads to the server. The second has the same
/// prefix as the last. An answer through another link was taken for one of the link that was tried.
#[test]
fn boots_through_the_last_of_three_routers_of_ipv6() -> Result<()> {
    let ((first, _one), (second, _two)) = (router("fd00:78::", "low")?, router("fd00:77::", "low")?);
    let (last, _three) = router("fd00:77::", "high")?;
    last.namespace.ip("address add fd00:88::1/128 dev lo")?;
    let server = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);
    let scene = Scene::at("network-ipv6-routers", Place::inside(&last.namespace, server.into()))?;
    // The first is heard when the others have been heard, and later the second before the last.
    first.segment.set(|wire| wire.delay = Duration::from_secs(1));
    last.segment.set(|wire| wire.delay = Duration::from_millis(200));
    let machine =
        scene.machine()?.nics(0).wire(&first.segment)?.wire(&second.segment)?.wire(&last.segment)?;
    let vm = expect_payload(machine.append("zstrap.link=eth0"), BOUND)?;
    let mut before = vm.assert_line("] network: auto6 addr=fd00:78::*/64 gw=fe80::* link=eth0 ")?;
    for pattern in
        ["left link=eth0 why=no-server", "left link=eth1 why=no-server", "online server=*link=eth2 "]
    {
        let line = vm.assert_line(&format!("] network: {pattern}"))?;
        ensure!(before.index < line.index, vm.failed(&format!("too early: {line}")));
        before = line;
    }
    vm.assert_never("] fail:")
}

/// A lease that leads nowhere, and the server in the network of a router on the other link, whose dnsmasq has these
/// options too.
fn leaves_a_link_for_the_router_of_the_other(name: &str, options: &[&str]) -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at(name, lab.place6())?;
    let options = [&["--enable-ra", "--dhcp-range=fd00:77::,ra-only,64"], options].concat();
    let _dnsmasq = lab.dnsmasq(&options)?;
    let (near, _) = elsewhere(Script::new(3, 90).late(Duration::from_secs(2)))?;
    let machine = scene.machine()?.nics(0).wire(&near)?.wire(&lab.segment)?;
    let vm = expect_payload(machine.append("zstrap.link=eth0"), BOUND)?;
    let tried = vm.assert_line("] network: lease addr=10.77.0.90/24 gw=10.77.0.1 link=eth0 ")?;
    let left = vm.assert_line("] network: left link=eth0 why=no-server")?;
    let online = vm.assert_line("] network: online server=*link=eth1 ")?;
    ensure!(tried.index < left.index && left.index < online.index, vm.failed("in another order"));
    vm.assert_never("] network: left link=eth1 ")?;
    vm.assert_never("] fail:")
}

#[test]
fn leaves_a_link_with_a_lease_although_the_other_has_ipv6() -> Result<()> {
    leaves_a_link_for_the_router_of_the_other("network-ipv6-beside", &[])
}

/// The router names nothing that the lease does not: a trial with the lease alone must not be taken for one with both.
#[test]
fn leaves_a_link_with_a_lease_although_the_other_has_a_lease_and_ipv6() -> Result<()> {
    let lease = "--dhcp-range=10.77.0.50,10.77.0.60,120";
    leaves_a_link_for_the_router_of_the_other("network-ipv6-and-lease", &[lease])
}

/// Addresses by stateful DHCPv6 alone.
#[test]
fn says_that_a_router_sends_it_to_what_it_does_not_speak() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at("network-ipv6-stateful", lab.place6())?;
    let _dnsmasq = lab.dnsmasq(&["--enable-ra", "--dhcp-range=fd00:77::50,fd00:77::60,64"])?;
    let vm = lab.machine(&scene)?.start()?;
    vm.wait_line("] network: no address from this router link=eth0 router=fe80::*: DHCPv6 for ", BOUND)?;
    vm.wait_line("] network: waiting at-most=*on eth0 within ", BOUND)?;
    vm.assert_never("] network: auto6 ")
}

/// While another link is tried, this one hears no router, and it was complained of anew afterwards.
#[test]
fn says_once_of_a_router_that_it_gives_no_address() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at("network-ipv6-told", lab.place6())?;
    let dnsmasq = lab.dnsmasq(&["--enable-ra", "--dhcp-range=fd00:77::50,fd00:77::60,64"])?;
    let (near, _) = elsewhere(Script::new(3, 90).late(Duration::from_secs(2)))?;
    let vm = scene.machine()?.nics(0).wire(&near)?.wire(&lab.segment)?.start()?;
    let told = "] network: no address from this router link=eth1 ";
    let first = vm.wait_line(told, BOUND)?;
    let heard = dnsmasq.count("RTR-ADVERT");
    let left = vm.wait_line_after(&first, "] network: left link=eth0 why=no-server", BOUND)?;
    vm.wait_line_after(&left, "] network: waiting at-most=", BOUND)?;
    ensure!(dnsmasq.count("RTR-ADVERT") > heard, vm.failed("the router did not speak again"));
    ensure!(vm.find_all(told).len() == 1, vm.failed("it was said again"));
    Ok(())
}

/// A name server without others behind it refuses to say whether there is an IPv6 address, too (dnsmasq from 2.86 on), and
/// the resolver of libc waits five seconds for a better answer.
#[test]
fn boots_by_name_although_the_name_server_refuses_to_look_for_ipv6() -> Result<()> {
    let lab = Lab::new()?;
    let scene = Scene::at("network-refused-dns", lab.place().named("boot.test"))?;
    let options =
        ["--port=53", "--host-record=boot.test,10.77.0.1", "--dhcp-range=10.77.0.50,10.77.0.60,120"];
    let _dnsmasq = lab.dnsmasq(&options)?;
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    let online = vm.assert_line("] network: online server=http://boot.test:*link=eth0 ")?;
    // Config, list and fetch have connections of their own, which waited forty seconds together.
    let done = vm.assert_line("] handoff: exec ")?;
    ensure!(done.at - online.at < Duration::from_secs(20), vm.failed("each connection waited"));
    vm.assert_never("] fail:")
}
