//! The node's own disk: made where nothing is, grown, and kept away from all that is somebody else's.
//!
//! Each refusal is told with the disk's name and what was found on it, the node boots in RAM all the same, and the disk has
//! the same bytes afterwards. Cuts at any point are in `cache`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::disk::{Bus, Disk, Flaw, run};
use zstrap_qemu_tests::site::{SMALL, Scene};
use zstrap_qemu_tests::vm::{Vm, VmBuilder};

const MIB: u64 = 1 << 20;
/// What disks of these tests have.
const SIZE: u64 = 256 * MIB;

/// A scene whose config asks for a disk.
fn scene(name: &str, root: &Value) -> Result<Scene> {
    let mut scene = Scene::new(&format!("own-disk-{name}"))?;
    ask(&mut scene, root)?;
    Ok(scene)
}

/// Another config of the same name.
fn ask(scene: &mut Scene, root: &Value) -> Result<()> {
    let config = json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/init"], "root": root });
    scene.add_config(SMALL, &config)
}

fn boot(machine: VmBuilder, disks: &[&Disk]) -> Result<Vm> {
    let vm = expect_payload(disks.iter().fold(machine, |machine, disk| machine.disk(disk)), BOUND)?;
    vm.assert_never("] fail:")?;
    Ok(vm)
}

/// What the kernel has of a disk after a boot: one partition of ours of this size, with a file system without a fault, that
/// fills it.
fn expect_partition(disk: &Disk, size_mib: u64) -> Result<()> {
    let ours = disk.ours()?;
    ensure!(ours.bytes == (MIB..(1 + size_mib) * MIB), "{ours:?}");
    disk.check(&ours)?;
    let said = disk.debugfs(&ours, "show_super_stats -h")?;
    let blocks =
        said.lines().find_map(|line| line.strip_prefix("Block count:")).context("no count of blocks")?;
    let blocks: u64 = blocks.trim().parse()?;
    ensure!(blocks == size_mib * 256, "a file system of {blocks} blocks, expected {}", size_mib * 256);
    let uuid = said.lines().find(|line| line.starts_with("Filesystem UUID:")).context("no UUID")?;
    ensure!(!uuid.contains("7a737472"), "it has the UUID of the template");
    Ok(())
}

/// No disk lost a byte, and the node said why it has none.
fn expect_kept(machine: VmBuilder, disks: &[&Disk], code: &str, lines: &[&str]) -> Result<()> {
    let before = disks.iter().map(|disk| disk.hash()).collect::<Result<Vec<_>>>()?;
    let vm = boot(machine, disks)?;
    for line in lines {
        vm.assert_line(line)?;
    }
    vm.assert_line(&format!("] root: in RAM instead of on a disk why={code}: "))?;
    vm.assert_never("] disk: made ")?;
    for (disk, before) in disks.iter().zip(before) {
        ensure!(disk.hash()? == before, vm.failed(&format!("{} was written to", disk.path().display())));
    }
    Ok(())
}

#[test]
fn is_made_on_a_free_disk_grows_with_the_config_and_never_shrinks() -> Result<()> {
    let mut scene = scene("grows", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?;
    let vm = boot(scene.machine()?, &[&disk])?;
    vm.assert_line("] disk: made name=vda1 disk=vda size=100MiB after=")?;
    expect_partition(&disk, 100)?;
    ensure!(disk.run("sgdisk", &["-v"])?.contains("No problems found"));

    let vm = boot(scene.machine()?, &[&disk])?;
    vm.assert_line("] disk: found name=vda1 size=100MiB")?;
    vm.assert_never("] disk: grown")?;
    let table = |disk: &Disk| -> Result<Vec<u8>> {
        Ok([disk.read(0, 17_408)?, disk.read(SIZE - 16_896, 16_896)?].concat())
    };
    let small = table(&disk)?;

    ask(&mut scene, &json!({ "size": "200MiB" }))?;
    let vm = boot(scene.machine()?, &[&disk])?;
    vm.assert_line("] disk: grown name=vda1 size=200MiB")?;
    vm.assert_never("] disk: made ")?;
    expect_partition(&disk, 200)?;
    ensure!(disk.run("sgdisk", &["-v"])?.contains("No problems found"));
    let large = table(&disk)?;
    ensure!(small != large);

    ask(&mut scene, &json!({ "size": "100MiB" }))?;
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: found name=vda1 size=200MiB")?;
    ensure!(table(&disk)? == large, "the table was written to");
    expect_partition(&disk, 200)
}

#[test]
fn is_made_on_nvme() -> Result<()> {
    let scene = scene("nvme", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?.bus(Bus::Nvme);
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: made name=nvme0n1p1 disk=nvme0n1 size=100MiB ")?;
    expect_partition(&disk, 100)
}

#[test]
fn is_made_and_found_on_sectors_of_4_kib() -> Result<()> {
    let scene = scene("4k", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?.sectors(4096, 4096);
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: made name=vda1 disk=vda size=100MiB ")?;
    expect_partition(&disk, 100)?;
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: found name=vda1 size=100MiB").map(drop)
}

/// Its drivers are modules of the generic kernel, as is ext4, which no device asks for.
#[test]
fn is_made_on_sata_named_by_its_wwn() -> Result<()> {
    let scene = scene("ahci", &json!({ "size": "100MiB", "disk": { "wwn": "0x5000c500a1b2c3d4" } }))?;
    let disk = scene.disk("one", SIZE)?.bus(Bus::Ahci).wwn(0x5000_c500_a1b2_c3d4);
    boot(scene.generic_machine()?, &[&disk])?.assert_line("] disk: made name=sda1 disk=sda size=100MiB ")?;
    expect_partition(&disk, 100)
}

#[test]
fn is_made_on_the_disk_at_a_path() -> Result<()> {
    let scene = scene("path", &json!({ "size": "100MiB", "disk": { "path": "pci-0000:00:0a.0" } }))?;
    let (other, disk) = (scene.disk("other", SIZE)?.slot(9), scene.disk("one", SIZE)?.slot(10));
    let before = other.hash()?;
    boot(scene.machine()?, &[&other, &disk])?.assert_line("] disk: made name=vdb1 disk=vdb size=100MiB ")?;
    ensure!(other.hash()? == before);
    expect_partition(&disk, 100)
}

/// Something on each of eight disks; the first bytes of what cannot be made without a kernel's help are put there.
#[test]
fn nothing_of_somebody_else_loses_a_byte() -> Result<()> {
    let scene = scene("foreign", &json!({ "size": "50MiB" }))?;
    let disk = |name: &str| scene.disk(name, 64 * MIB);
    let mbr = disk("mbr")?;
    shell(&mbr, "printf '2048,16384,83\\n,16384,82\\n' | sfdisk -q -X dos FILE")?;
    shell(&mbr, "mkfs.ext4 -q -E offset=1048576 FILE 8M")?;
    let gpt = disk("gpt")?;
    shell(&gpt, "sgdisk -n 1:2048:+30M -n 2:0:0 FILE && mkfs.ext4 -q -E offset=1048576 FILE 30M")?;
    let lvm = disk("lvm")?;
    lvm.write(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001")?;
    let luks = disk("luks")?;
    shell(&luks, "echo x | cryptsetup -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luksFormat FILE -")?;
    let zfs = disk("zfs")?;
    for label in [0, 256, 64 * 1024 - 512, 64 * 1024 - 256] {
        for block in 0..8 {
            zfs.write((label + 128 + block) * 1024, &0x00ba_b10c_u64.to_le_bytes())?;
        }
    }
    let raid = disk("raid")?;
    // Version 1.0, whose superblock stands at the end only.
    raid.write(64 * MIB - 16 * 512, &0xa92b_4efc_u32.to_le_bytes())?;
    let bare = disk("bare")?;
    bare.run("mkfs.ext4", &["-q"])?;
    let noise = disk("noise")?;
    let mut state = 7_u64;
    let bytes: Vec<u8> = (0..MIB)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    noise.write(40 * MIB, &bytes)?;
    let disks = [&mbr, &gpt, &lvm, &luks, &zfs, &raid, &bare, &noise];
    let lines = [
        "] disk: kept disk=vda why=\"MBR with 2 partitions: ext4, nothing known\"",
        "] disk: kept disk=vdb why=\"GPT with 2 partitions: ext4, nothing known\"",
        "] disk: kept disk=vdc why=\"LVM\"",
        "] disk: kept disk=vdd why=\"LUKS2\"",
        "] disk: kept disk=vde why=\"ZFS\"",
        "] disk: kept disk=vdf why=\"RAID (mdraid 1.0)\"",
        "] disk: kept disk=vdg why=\"ext4\"",
        "] disk: kept disk=vdh why=\"data of a kind that is not known, at byte 41943040\"",
    ];
    expect_kept(scene.machine()?, &disks, "ZS-DSK-01", &lines)
}

fn shell(disk: &Disk, command: &str) -> Result<()> {
    let path = disk.path().to_str().context("a path that is no text")?;
    run(Command::new("sh").args(["-ec", &command.replace("FILE", path)])).map(drop)
}

#[test]
fn of_two_free_disks_none_is_taken_until_the_config_says_which() -> Result<()> {
    let mut scene = scene("two", &json!({ "size": "100MiB" }))?;
    let (one, two) = (scene.disk("one", SIZE)?, scene.disk("two", 2 * SIZE)?);
    let line = "why=ZS-DSK-02: there are several free disks, and nothing says which to use: vda, vdb";
    expect_kept(scene.machine()?, &[&one, &two], "ZS-DSK-02", &[line])?;
    ask(&mut scene, &json!({ "size": "100MiB", "disk": "largest" }))?;
    let before = one.hash()?;
    boot(scene.machine()?, &[&one, &two])?.assert_line("] disk: made name=vdb1 disk=vdb ")?;
    ensure!(one.hash()? == before);
    expect_partition(&two, 100)
}

#[test]
fn only_the_disk_that_the_config_names_is_erased() -> Result<()> {
    let mut scene = scene("erase", &json!({ "size": "100MiB", "disk": { "serial": "two" } }))?;
    let (one, two) = (scene.disk("one", SIZE)?, scene.disk("two", SIZE)?);
    for disk in [&one, &two] {
        disk.run("mkfs.ext4", &["-q"])?;
    }
    let lines = [
        "] disk: kept disk=vda why=\"the config asks for one with serial two\"",
        "] disk: kept disk=vdb why=\"ext4\"",
    ];
    expect_kept(scene.machine()?, &[&one, &two], "ZS-DSK-01", &lines)?;
    ask(&mut scene, &json!({ "size": "100MiB", "disk": { "serial": "two", "erase": true } }))?;
    let before = one.hash()?;
    let vm = boot(scene.machine()?, &[&one, &two])?;
    vm.assert_line("] disk: erasing disk=vdb why=\"the config names it, with erase\"")?;
    vm.assert_line("] disk: made name=vdb1 disk=vdb size=100MiB ")?;
    ensure!(one.hash()? == before, vm.failed("the other disk was written to"));
    expect_partition(&two, 100)
}

#[test]
fn a_disk_on_usb_is_taken_only_by_its_name() -> Result<()> {
    let mut scene = scene("usb", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?.bus(Bus::Usb).serial("STICK-7");
    let line = "why=ZS-DSK-03: there is no disk that is not removable";
    expect_kept(scene.generic_machine()?, &[&disk], "ZS-DSK-03", &[line])?;
    ask(&mut scene, &json!({ "size": "100MiB", "disk": { "serial": "STICK-7" } }))?;
    boot(scene.generic_machine()?, &[&disk])?.assert_line("] disk: made name=sda1 disk=sda size=100MiB ")?;
    expect_partition(&disk, 100)
}

/// The stick has the site that this machine boots, and no slot.
#[test]
fn a_medium_of_this_boot_is_never_erased() -> Result<()> {
    let mut scene =
        scene("medium", &json!({ "size": "50MiB", "disk": { "serial": "stick", "erase": true } }))?;
    let stick = scene.disk("stick", 64 * MIB)?;
    std::fs::copy(scene.stick()?, stick.path()).context("copying the stick")?;
    scene.identity["servers"] = json!(["file:///site"]);
    let lines = [
        "] media: found url=file:///site device=vda ",
        "why=ZS-DSK-01: no disk is free: vda: it is a medium of this boot",
    ];
    expect_kept(scene.machine()?, &[&stick], "ZS-DSK-01", &lines)
}

#[test]
fn a_disk_with_an_unreadable_sector_is_kept() -> Result<()> {
    let scene = scene("unreadable", &json!({ "size": "100MiB" }))?;
    let bad = 5 * MIB..5 * MIB + 4096;
    let disk = scene.disk("one", SIZE)?.flaw(Flaw::Unreadable(bad));
    let line = "] disk: kept disk=vda why=\"it cannot be read: I/O error";
    expect_kept(scene.machine()?, &[&disk], "ZS-DSK-01", &[line])
}

#[test]
fn a_read_only_disk_is_kept_when_it_is_free_and_read_when_it_is_ours() -> Result<()> {
    let scene = scene("read-only", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?;
    let line = "] disk: kept disk=vda why=\"it is read-only\"";
    expect_kept(scene.machine()?, &[&disk.clone().read_only()], "ZS-DSK-01", &[line])?;
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: made name=vda1 ")?;
    let before = disk.hash()?;
    boot(scene.machine()?, &[&disk.clone().read_only()])?.assert_line("] disk: read-only name=vda1")?;
    ensure!(disk.hash()? == before);
    Ok(())
}

#[test]
fn a_file_system_of_ours_that_is_damaged_is_made_anew() -> Result<()> {
    let scene = scene("damaged", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?;
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: made name=vda1 ")?;
    disk.write(MIB + 1024 + 40, &[0xff; 32])?;
    boot(scene.machine()?, &[&disk])?.assert_line("] disk: made anew name=vda1 why=\"mounting it: ")?;
    expect_partition(&disk, 100)
}

#[test]
fn a_disk_that_fails_while_it_is_written_does_not_end_the_boot() -> Result<()> {
    let scene = scene("unwritable", &json!({ "size": "100MiB" }))?;
    let disk = scene.disk("one", SIZE)?.flaw(Flaw::WritesEnd(3));
    let vm = boot(scene.machine()?, &[&disk])?;
    vm.assert_line("why=ZS-DSK-05: making a partition on vda: I/O error")?;
    ensure!(disk.partitions()?.is_empty(), "the table counts before all of it is there");
    Ok(())
}
