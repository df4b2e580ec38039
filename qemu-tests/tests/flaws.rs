//! Disks that fail: full, read-only, with sectors that cannot be read or written. The node boots, or it says why not; what it
//! runs is exactly the list, and nothing half-written is used.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::disk::{Disk, Flaw, Partition};
use zstrap_qemu_tests::dump::Dump;
use zstrap_qemu_tests::kill::{Versions, one_of};
use zstrap_qemu_tests::site::{IMPATIENT, Scene};
use zstrap_qemu_tests::vm::{Reason, Vm};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A site with a bundle in two versions, and a disk that has the first of them.
struct World {
    scene: Scene,
    versions: Versions,
    disk: Disk,
    dump: Dump,
}

impl World {
    fn new(name: &str) -> Result<Self> {
        let mut scene = Scene::new(name)?;
        let versions = Versions::publish(&mut scene, &json!({ "size": "96MiB" }))?;
        let disk = scene.disk("disk", 128 * MIB)?;
        let dump = Dump::new(&scene, "dump")?;
        Ok(Self { scene, versions, disk, dump })
    }

    fn with_first_version(name: &str) -> Result<Self> {
        let world = Self::new(name)?;
        let vm = world.boots(&world.disk, &world.versions.first)?;
        vm.assert_line("] root: ready kind=disk ")?;
        vm.assert_line("] cache: kept ")?;
        Ok(world)
    }

    /// Boots with this disk; the root is this list.
    fn boots(&self, disk: &Disk, list: &Path) -> Result<Vm> {
        let vm = expect_payload(self.dump.by(self.scene.machine()?.disk(disk)), BOUND)?;
        self.dump.expect(&vm, list)?;
        Ok(vm)
    }

    /// Boots with this disk while no server answers; the root is one of these lists, or the machine reboots and nothing ran.
    fn boots_alone(&mut self, disk: &Disk, lists: &[&Path]) -> Result<(bool, Vm)> {
        self.scene.server.pause();
        let mut vm = self.dump.by(self.scene.machine()?.append(IMPATIENT).disk(disk)).start()?;
        let has_booted = vm.wait_exit(BOUND)?.reason == Reason::PowerOff;
        self.scene.server.resume()?;
        if has_booted {
            vm.assert_line("] boot: from disk ")?;
            self.dump.expect(&vm, one_of(&vm, lists)?)?;
        } else {
            vm.expect_exit(&Reason::Reset, BOUND)?;
            vm.assert_never("] handoff: ")?;
            vm.assert_line("] fail: code=")?;
        }
        Ok((has_booted, vm))
    }

    fn first(&self) -> PathBuf {
        self.versions.first.clone()
    }

    /// Where the blob of a file stands on the disk.
    fn blob(&self, file: &str) -> Result<Range<u64>> {
        let (path, size) = self.scene.blob(Versions::BUNDLE, file)?;
        let ours = self.disk.ours()?;
        let first = first_block(&self.disk, &ours, &format!("/site/{path}"))?;
        let start = ours.bytes.start + first * BLOCK;
        // Of a file that was written at once, the blocks follow each other.
        Ok(start..start + size.min(8 * BLOCK))
    }
}

/// The number of the first block of a file.
fn first_block(disk: &Disk, partition: &Partition, path: &str) -> Result<u64> {
    let said = disk.debugfs(partition, &format!("blocks \"{path}\""))?;
    let first = said.split_whitespace().next().with_context(|| format!("no blocks of {path}"))?;
    first.parse().with_context(|| format!("blocks of {path}: {said}"))
}

#[test]
fn a_disk_that_a_service_has_filled_keeps_the_version_it_has_and_no_half_of_the_next() -> Result<()> {
    let mut world = World::with_first_version("flaws-full")?;
    let filled =
        expect_payload(world.scene.machine()?.disk(&world.disk).append("zstrap.payload=fill"), BOUND)?;
    filled.assert_line("payload: filled=* bytes")?;
    let first = world.first();
    world.boots(&world.disk, &first)?.assert_line("] root: ready kind=disk ")?;
    let newer = world.versions.update(&world.scene)?;
    let vm = world.boots(&world.disk, &newer)?;
    vm.assert_line("] root: in RAM instead of on a disk why=the disk is full: ")?;
    let (has_booted, vm) = world.boots_alone(&world.disk.clone(), &[&first])?;
    ensure!(has_booted, vm.failed("the first version is not there any more"));
    world.disk.check(&world.disk.ours()?)
}

#[test]
fn a_blob_that_cannot_be_read_is_fetched_anew_and_without_a_server_refused() -> Result<()> {
    let mut world = World::with_first_version("flaws-read")?;
    let first = world.first();
    let flaw = Flaw::Unreadable(world.blob("./srv/1/file-4")?);
    let bad = world.disk.copy("alone")?.flaw(flaw.clone());
    let (has_booted, vm) = world.boots_alone(&bad, &[&first])?;
    ensure!(!has_booted, vm.failed("it booted with a blob that it cannot read"));
    vm.assert_line("I/O error, dev vda")?;
    let bad = world.disk.copy("bad")?.flaw(flaw);
    world.boots(&bad, &first)?.assert_line("I/O error, dev vda").map(drop)
}

/// All writes fail from one on: while the partition is made, while it is filled.
#[test]
fn a_disk_that_fails_while_it_is_written_costs_the_disk_and_not_the_boot() -> Result<()> {
    let world = World::new("flaws-write")?;
    let first = world.first();
    for (number, writes) in [0, 20, 60].into_iter().enumerate() {
        let disk = world.disk.copy(&format!("bad-{number}"))?;
        let vm = world.boots(&disk.clone().flaw(Flaw::WritesEnd(writes)), &first)?;
        vm.assert_line("I/O error, dev vda")?;
        vm.assert_never("] cache: kept ")?;
        // The same disk, repaired: what it has been left with is no obstacle.
        world.boots(&disk, &first)?.assert_line("] cache: kept ")?;
        disk.check(&disk.ours()?)?;
    }
    Ok(())
}

#[test]
fn an_update_that_the_disk_fails_to_write_leaves_one_version_or_the_other() -> Result<()> {
    let mut world = World::with_first_version("flaws-update")?;
    let (first, newer) = (world.first(), world.versions.update(&world.scene)?);
    // What the disk did not take is not run from memory that the kernel may give up.
    let early = world.disk.copy("early")?.flaw(Flaw::WritesEnd(8));
    let vm = world.boots(&early, &newer)?;
    vm.assert_line("] root: in RAM instead of on a disk why=")?;
    vm.assert_line("] root: ready kind=ram ")?;
    let disk = world.disk.copy("bad")?;
    let vm = world.boots(&disk.clone().flaw(Flaw::WritesEnd(30)), &newer)?;
    vm.assert_line("I/O error, dev vda")?;
    vm.assert_never("] cache: kept ")?;
    let (has_booted, vm) = world.boots_alone(&disk, &[&first, &newer])?;
    ensure!(has_booted, vm.failed("no version is there any more"));
    world.boots(&disk, &newer)?.assert_line("] root: ready kind=disk ")?;
    disk.check(&disk.ours()?)
}

#[test]
fn a_read_only_disk_is_read_and_no_byte_of_it_changes() -> Result<()> {
    let empty = World::new("flaws-read-only-empty")?;
    let before = empty.disk.hash()?;
    let vm = empty.boots(&empty.disk.clone().read_only(), &empty.first())?;
    vm.assert_line("] root: ready kind=ram ")?;
    ensure!(empty.disk.hash()? == before, vm.failed("the disk has changed"));
    let mut world = World::with_first_version("flaws-read-only")?;
    let (first, disk) = (world.first(), world.disk.clone().read_only());
    let before = disk.hash()?;
    world.boots(&disk, &first)?;
    let (_, vm) = world.boots_alone(&disk, &[&first])?;
    ensure!(disk.hash()? == before, vm.failed("the disk has changed"));
    let newer = world.versions.update(&world.scene)?;
    world.boots(&disk, &newer)?;
    ensure!(disk.hash()? == before, "the disk has changed");
    Ok(())
}
