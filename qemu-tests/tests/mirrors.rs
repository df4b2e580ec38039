//! Several servers of which some are dead, stalled, slow or lying; servers behind a proxy; sites on boot media.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal};
use zstrap_qemu_tests::dhcp::{Mute, Script};
use zstrap_qemu_tests::http::{Fault, FaultServer, Place, Rule};
use zstrap_qemu_tests::lab::Lab;
use zstrap_qemu_tests::proxy::Proxy;
use zstrap_qemu_tests::site::{Big, Scene, Tree, noise};
use zstrap_qemu_tests::tls::{Authority, Key};
use zstrap_qemu_tests::vm::{Vm, VmBuilder};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

/// A scene with a bundle of the payload and one larger file, and a second server for the same site, which comes first
/// in the identity.
struct Mirrors {
    scene: Scene,
    first: FaultServer,
    big: Big,
}

fn mirrors(name: &str, size: usize) -> Result<Mirrors> {
    let mut scene = Scene::new(name)?;
    let big = scene.publish_big(&noise(size))?;
    let first = FaultServer::start(&scene.site())?;
    scene.identity["servers"] = json!([first.url(), scene.server.url()]);
    Ok(Mirrors { scene, first, big })
}

impl Mirrors {
    /// Boots; the tree must be whole, and the first server be left for the second, with this reason.
    fn boot_leaving_the_first(&self, why: &str) -> Result<Vm> {
        let vm = expect_payload(self.scene.machine()?, BOUND)?;
        vm.assert_line(&format!("payload: tree={}", self.big.tree.fingerprint()?))?;
        let (first, second) = (self.first.url(), self.scene.server.url());
        vm.assert_line(&format!("] servers: left server={first} why={why} for={second}"))?;
        vm.assert_never("] fail:")?;
        Ok(vm)
    }

    /// What was asked of this server of the larger file.
    fn ranges(&self, server: &FaultServer) -> Vec<Option<String>> {
        server.requests_for(&self.big.path).into_iter().map(|request| request.range).collect()
    }
}

#[test]
fn loses_little_time_with_a_first_server_that_swallows_all() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = lab.scene("mirrors-black-hole")?;
    Script::new(2, 50).play_on(&lab.segment);
    lab.segment.host(Mute { address: Ipv4Addr::new(10, 77, 0, 66) });
    let second = scene.server.url();
    scene.identity["servers"] = json!(["http://10.77.0.66", second]);
    let vm = expect_payload(lab.machine(&scene)?, BOUND)?;
    let lease = vm.assert_line("] network: lease ")?;
    let online = vm.assert_line(&format!("] network: online server={second} "))?;
    vm.assert_line("] network: no answer server=http://10.77.0.66 yet")?;
    ensure!(online.at < lease.at + Duration::from_secs(5), vm.failed("the dead server cost too much"));
    vm.assert_never("] fail:")
}

#[test]
fn boots_when_the_first_server_refuses_connections() -> Result<()> {
    let mut mirrors = mirrors("mirrors-refused", 1 << 20)?;
    mirrors.first.pause();
    let vm = mirrors.boot_leaving_the_first("dead")?;
    vm.assert_line(&format!("] network: no answer server={} ", mirrors.first.url()))?;
    vm.assert_line(&format!("] network: online server={} ", mirrors.scene.server.url())).map(drop)
}

#[test]
fn goes_on_at_the_second_server_when_the_first_stalls_half_way() -> Result<()> {
    let mirrors = mirrors("mirrors-stalled", 4 << 20)?;
    let Big { path, size, .. } = &mirrors.big;
    mirrors.first.rule(Rule::always(path, Fault::StallAfter(size / 2, FOR_EVER)));
    let vm = mirrors.boot_leaving_the_first("stalled")?;
    let ranges = mirrors.ranges(&mirrors.scene.server);
    ensure!(ranges == [Some(format!("bytes={}-", size / 2))], vm.failed(&format!("{ranges:?}")));
    Ok(())
}

#[test]
fn goes_on_at_the_second_server_when_the_first_cuts_connections() -> Result<()> {
    let mirrors = mirrors("mirrors-cut", 4 << 20)?;
    let Big { path, size, .. } = &mirrors.big;
    mirrors.first.rule(Rule::always(path, Fault::CutAfter(size / 4)));
    let vm = mirrors.boot_leaving_the_first("cut")?;
    let ranges = mirrors.ranges(&mirrors.scene.server);
    ensure!(!ranges.contains(&None), vm.failed(&format!("asked again for what was there: {ranges:?}")));
    Ok(())
}

#[test]
fn leaves_a_slow_server_for_a_quick_one() -> Result<()> {
    let mirrors = mirrors("mirrors-slow", 4 << 20)?;
    // All of it would take a quarter of an hour.
    mirrors.first.rule(Rule::always(&mirrors.big.path, Fault::Trickle(4 * 1024)));
    let vm = mirrors.boot_leaving_the_first("slow")?;
    let ranges = mirrors.ranges(&mirrors.scene.server);
    ensure!(ranges.len() == 1 && ranges != [None], vm.failed(&format!("{ranges:?}")));
    Ok(())
}

#[test]
fn leaves_a_server_that_sends_other_bytes() -> Result<()> {
    let mirrors = mirrors("mirrors-garbage", 1 << 20)?;
    mirrors.first.rule(Rule::always("/blobs/*", Fault::FlipByte(7)));
    mirrors.boot_leaving_the_first("lying")?;
    // All of the file, and not a part that is to complete the garbage.
    let ranges = mirrors.ranges(&mirrors.scene.server);
    ensure!(ranges.last() == Some(&None), "{ranges:?}");
    Ok(())
}

#[test]
fn leaves_a_server_that_does_not_have_the_file() -> Result<()> {
    let mirrors = mirrors("mirrors-missing", 1 << 20)?;
    mirrors.first.rule(Rule::always(&mirrors.big.path, Fault::Status(404)));
    mirrors.boot_leaving_the_first("missing").map(drop)
}

#[test]
fn leaves_a_server_whose_list_is_not_signed_for() -> Result<()> {
    let mirrors = mirrors("mirrors-bad-list", 1 << 20)?;
    mirrors.first.rule(Rule::always("/bundles/*.mtree", Fault::FlipByte(40)));
    let vm = mirrors.boot_leaving_the_first("bad-signature")?;
    vm.assert_line(&format!("] servers: no good answer server={} ", mirrors.first.url())).map(drop)
}

#[test]
fn takes_no_web_page_for_a_server_of_ours() -> Result<()> {
    let mirrors = mirrors("mirrors-hotspot", 1 << 20)?;
    mirrors.first.rule(Rule::always("*", Fault::Html));
    let vm = expect_payload(mirrors.scene.machine()?, BOUND)?;
    vm.assert_line(&format!("] network: no answer server={} *not a serial number", mirrors.first.url()))?;
    vm.assert_line(&format!("] network: online server={} ", mirrors.scene.server.url()))?;
    vm.assert_never("] fail:")
}

#[test]
fn refuses_when_all_servers_lie() -> Result<()> {
    let mirrors = mirrors("mirrors-all-lie", 1 << 20)?;
    for server in [&mirrors.first, &mirrors.scene.server] {
        server.rule(Rule::always(&mirrors.big.path, Fault::FlipByte(7)));
    }
    expect_refusal(&mirrors.scene, "fetch", "sha256").map(drop)
}

/// Nobody but the proxy knows the name of the server.
#[test]
fn boots_through_a_proxy() -> Result<()> {
    let proxy = Proxy::start()?;
    let mut scene = Scene::at("mirrors-proxy", Place::user().named("boot.test"))?;
    scene.identity["proxy"] = json!(proxy.url());
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] network: online server=http://boot.test:")?;
    let asked = proxy.asked();
    ensure!(!asked.is_empty() && asked.iter().all(|line| line.contains("boot.test:")), "{asked:?}");
    vm.assert_never("] fail:")
}

#[test]
fn boots_over_https_through_a_proxy() -> Result<()> {
    let (proxy, authority) = (Proxy::start()?, Authority::new(Key::Ec)?);
    let place = Place::user().named("boot.test").tls(authority.server("DNS:boot.test")?);
    let mut scene = Scene::at("mirrors-proxy-tls", place)?;
    scene.identity["proxy"] = json!(proxy.url());
    scene.identity["ca"] = json!(authority.pem()?);
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] network: online server=https://boot.test:")?;
    let asked = proxy.asked();
    let tunnels = asked.iter().all(|line| line.starts_with("CONNECT boot.test:"));
    ensure!(!asked.is_empty() && tunnels, "{asked:?}");
    vm.assert_never("] fail:")
}

/// A boot from this medium alone.
fn boots_from_medium(scene: &Scene, machine: VmBuilder, medium: &Path) -> Result<Vm> {
    let vm = expect_payload(machine.medium(medium), BOUND)?;
    vm.assert_line("] media: found url=file:///site device=vda ")?;
    vm.assert_line("] network: online server=file:///site ")?;
    vm.assert_line(&format!("payload: tree={}", Tree::small()?.fingerprint()?))?;
    ensure!(scene.server.requests().is_empty(), vm.failed("the network was used"));
    // Nothing of the medium stays mounted.
    vm.assert_never("payload: mount=/dev/vda")?;
    Ok(vm)
}

fn with_site_on_media(name: &str) -> Result<Scene> {
    let mut scene = Scene::new(name)?;
    scene.identity["servers"] = json!(["file:///site"]);
    Ok(scene)
}

#[test]
fn boots_from_an_iso_without_any_network() -> Result<()> {
    let scene = with_site_on_media("mirrors-iso")?;
    let medium = scene.site().with_file_name("medium");
    let folder = scene.site().with_file_name("");
    let mut make = Command::new("bsdtar");
    make.arg("-cf").arg(&medium).args(["--format=iso9660", "-C"]).arg(folder).arg("site");
    ensure!(make.status()?.success(), "the medium was not made");
    boots_from_medium(&scene, scene.machine()?.nics(0), &medium).map(drop)
}

#[test]
fn boots_from_a_fat_stick_without_any_network() -> Result<()> {
    let scene = with_site_on_media("mirrors-fat")?;
    boots_from_medium(&scene, scene.machine()?.nics(0), &scene.stick()?).map(drop)
}

/// Nothing is at port 9 of the host. The driver of the stick's file system is a module.
#[test]
fn boots_from_a_stick_when_the_server_before_it_is_dead() -> Result<()> {
    let mut scene = Scene::new("mirrors-then-stick")?;
    scene.identity["servers"] = json!(["http://10.0.2.2:9", "file:///site"]);
    let vm = boots_from_medium(&scene, scene.machine()?, &scene.stick()?)?;
    vm.assert_line("] network: online server=file:///site link=eth0 ")?;
    vm.assert_never("] media: not mounted ")?;
    vm.assert_never("] network: left ")
}

/// The boot needs no network, but the programs of the bundle may.
#[test]
fn boots_from_a_stick_with_its_static_address() -> Result<()> {
    let scene = with_site_on_media("mirrors-static")?;
    let machine = scene.machine()?.append("zstrap.net=addr=10.0.2.77/24,gw=10.0.2.2,dns=10.0.2.3");
    let vm = boots_from_medium(&scene, machine, &scene.stick()?)?;
    vm.assert_line("] network: online server=file:///site link=eth0 ")?;
    for told in ["address=10.0.2.77", "dns=nameserver 10.0.2.3", "route=0.0.0.0/0.0.0.0 via 10.0.2.2 eth0"] {
        vm.assert_line(&format!("payload: {told}"))?;
    }
    Ok(())
}

#[test]
fn boots_from_a_stick_without_a_cable_for_its_static_address() -> Result<()> {
    let scene = with_site_on_media("mirrors-static-out")?;
    let machine = scene.machine()?.append("zstrap.net=addr=10.0.2.77/24,gw=10.0.2.2").unplugged("nic0");
    let vm = boots_from_medium(&scene, machine, &scene.stick()?)?;
    vm.assert_line("] network: address not set: no carrier on eth0 within 12s")?;
    vm.assert_line("] network: online server=file:///site link=none ").map(drop)
}

/// The magic number of SquashFS, and nothing behind it.
#[test]
fn says_which_medium_cannot_be_mounted() -> Result<()> {
    let mut scene = Scene::new("mirrors-damaged-medium")?;
    let servers = json!(["file:///site", scene.identity["servers"][0]]);
    scene.identity["servers"] = servers;
    let medium = scene.site().with_file_name("medium");
    let mut bytes = b"hsqs".to_vec();
    bytes.resize(1 << 20, 0);
    std::fs::write(&medium, bytes)?;
    let vm = expect_payload(scene.machine()?.medium(&medium), BOUND)?;
    vm.assert_line("] media: not mounted device=vda kind=squashfs error=")?;
    ensure!(vm.find_all("] media: not mounted ").len() == 1, vm.failed("it was said more than once"));
    vm.assert_line("] network: no answer server=file:///site *within 10s, not mounted device=vda ")?;
    vm.assert_line("] network: online server=http://*link=eth0 ").map(drop)
}
