//! scratch
use anyhow::Result;
use std::time::Duration;
use zstrap_qemu_tests::site::*;
use zstrap_qemu_tests::vm::*;
fn show(vm: &Vm) { for l in vm.console() { println!("{l}"); } }
#[test]
fn dead_first() -> Result<()> {
    let scene = Scene::new("probe-dead")?;
    let mut vm = scene.machine()?.nics(0).append("zstrap.tries=2 zstrap.reboot_after=1").arguments(&["-netdev","hubport,id=h0,hubid=0","-device","virtio-net-pci,netdev=h0,romfile=","-netdev","user,id=n1,net=10.9.0.0/24,host=10.0.2.2","-device","virtio-net-pci,netdev=n1,romfile="]).start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); show(&vm); println!("{e:?}");
    Ok(())
}
#[test]
fn dead_second_server() -> Result<()> {
    let scene = Scene::new("probe-nonet")?;
    let mut vm = scene.machine()?.nics(0).append("zstrap.tries=2 zstrap.reboot_after=1").start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); show(&vm); println!("{e:?}");
    Ok(())
}
#[test]
fn dead_nic() -> Result<()> {
    let scene = Scene::new("probe-deadnic")?;
    let mut vm = scene.machine()?.nics(0).append("zstrap.tries=2 zstrap.reboot_after=1").arguments(&["-netdev","hubport,id=h0,hubid=0","-device","virtio-net-pci,netdev=h0,romfile="]).start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); show(&vm); println!("{e:?}");
    Ok(())
}
#[test]
fn two_servers_first_dead() -> Result<()> {
    let mut scene = Scene::new("probe-2srv")?;
    let url = scene.server.url();
    scene.identity["servers"] = serde_json::json!(["http://10.0.2.2:9", "http://10.255.255.1", url]);
    let mut vm = scene.machine()?.append("zstrap.tries=2 zstrap.reboot_after=1").start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); show(&vm); println!("{e:?}");
    Ok(())
}
#[test]
fn small_memory() -> Result<()> {
    let scene = Scene::new("probe-mem")?;
    for m in [160, 128, 112, 96] {
    let mut vm = scene.machine()?.memory_mib(m).append("zstrap.tries=2 zstrap.reboot_after=1").start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); println!("{m}"); for l in vm.find_all("]") {println!("{l}")}; println!("{e:?}");
    }
    Ok(())
}
#[test]
fn cmdline_bundle() -> Result<()> {
    let scene = Scene::new("probe-cmdline")?;
    let mut vm = scene.machine()?.append("zstrap.tries=1 zstrap.reboot_after=1 zstrap.bundle=evil").start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); show(&vm); println!("{e:?}");
    let mut vm = scene.machine()?.append("zstrap.tries=1 zstrap.reboot_after=1 zstrap.farmer_id=other zstrap.log=debug").start()?;
    let e = vm.wait_exit(Duration::from_secs(100)); show(&vm); println!("{e:?}");
    Ok(())
}
