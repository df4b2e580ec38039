//! What machines see of the disks that tests give them, and what comes back on one.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_formats::name::Arch;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::disk::{Bus, Flaw, SIZE};
use zstrap_qemu_tests::dump::{self, Dump};
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::vm::VmBuilder;

/// Each kind, as the kernel finds it. A disk on USB needs longer to be found than this machine runs.
#[test]
fn a_machine_takes_a_disk_of_each_kind() -> Result<()> {
    let scene = Scene::new("disks-kinds")?;
    let disk = |name, bus| scene.disk(name, SIZE).map(|disk| disk.bus(bus));
    let machine = with_drivers(&scene)?
        .disk(&disk("one", Bus::Virtio)?.sectors(4096, 4096).slot(0x10))
        .disk(&disk("two", Bus::Nvme)?.sectors(4096, 4096))
        .disk(&disk("three", Bus::Ahci)?.wwn(0x5000_0000_0000_0003))
        .disk(&disk("four", Bus::Usb)?.removable())
        .disk(&disk("five", Bus::Scsi)?.wwn(0x5000_0000_0000_0005).serial("other").read_only())
        .disk(&disk("six", Bus::Virtio)?.flaw(Flaw::Unreadable(0..8192)).flaw(Flaw::WritesEnd(3)).serial(""));
    let vm = expect_payload(machine, BOUND)?;
    for found in [
        "vd* size=2097152 sector=4096 ro=0 removable=0 serial=one wwid=",
        "nvme0n1 size=2097152 sector=4096 ro=0 removable=0 serial=two wwid=nvme.",
        "sd* size=2097152 sector=512 ro=0 removable=0 serial=*three wwid=naa.5000000000000003",
        "sd* size=2097152 sector=512 ro=1 removable=0 serial=*other wwid=naa.5000000000000005",
        "vd* size=2097152 sector=512 ro=0 removable=0 serial= wwid=",
    ] {
        vm.assert_line(&format!("payload: disk={found}"))?;
    }
    // The partition table of a disk is looked for at its start.
    vm.assert_line("I/O error, dev vd*, sector 0 ").map(drop)
}

/// Debian's cloud kernel for amd64 has no drivers of real hardware.
fn with_drivers(scene: &Scene) -> Result<VmBuilder> {
    match artefacts::arch() {
        Arch::Amd64 => scene.generic_machine(),
        Arch::Arm64 => scene.machine(),
    }
}

#[test]
fn a_running_root_is_its_list_and_mtree_sees_what_is_not() -> Result<()> {
    let mut scene = Scene::new("disks-dump")?;
    let tree = Tree::small()?;
    dump::add_mount_points(&tree)?;
    scene.publish(&tree, "dumped")?;
    scene.add_config("dumped", &json!({ "version": 1, "bundle": "dumped", "exec": ["/sbin/init"] }))?;
    let list = dump::keep_list(&scene, "dumped")?;
    let dump = Dump::new(&scene, "dump")?;
    let vm = expect_payload(dump.by(scene.machine()?), BOUND)?;
    // A list that says another text.
    tree.file("etc/motd", b"Welcome\n", 0o644)?;
    scene.publish(&tree, "dumped")?;
    let other = dump::keep_list(&scene, "dumped")?;
    let said = dump.expect(&vm, &other).err().context("mtree has not seen what changed")?.to_string();
    ensure!(said.contains("etc/motd") && said.contains("mtree ended with"), vm.failed(&said));
    dump.expect(&vm, &list)
}
