//! Machines that are killed at any point of a boot: the next boot comes up, and its root is the list.
//!
//! Points lie between the lines of a boot that nobody disturbed, where a seed has put them. `make soak KILLS=50` draws others.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::chance::Chance;
use zstrap_qemu_tests::disk::{Disk, OUR_NAME, OUR_TYPE, run};
use zstrap_qemu_tests::dump::Dump;
use zstrap_qemu_tests::kill::{Point, Versions, Victim};
use zstrap_qemu_tests::site::Scene;

/// What all of these draw their points from.
const SEED: u64 = 5;

/// How many points a boot has, and how many of them a test goes through, so that several do at once.
const POINTS: usize = 15;
const EACH: usize = 5;

const BLOCK: usize = 4096;

/// Kills a victim at the points of one of the tests. What had a version before also boots without a server, at every other
/// point.
fn kill(mut victim: Victim, part: usize) -> Result<()> {
    let points = Point::draw(&mut Chance::new(SEED), victim.gaps(), POINTS);
    for (number, point) in points.into_iter().enumerate().skip(part * EACH).take(EACH) {
        let also_alone = victim.had_a_version() && number % 2 == 0;
        eprintln!("{}", victim.survives(point, &format!("killed-{number}"), also_alone)?);
    }
    Ok(())
}

#[test]
fn first_boots_killed_at_points_1_to_5_leave_what_the_next_boot_completes() -> Result<()> {
    kill(Victim::of_first_boots("kills-first-1")?, 0)
}

#[test]
#[ignore = "long: make test-all"]
fn first_boots_killed_at_points_6_to_10_leave_what_the_next_boot_completes() -> Result<()> {
    kill(Victim::of_first_boots("kills-first-2")?, 1)
}

#[test]
#[ignore = "long: make test-all"]
fn first_boots_killed_at_points_11_to_15_leave_what_the_next_boot_completes() -> Result<()> {
    kill(Victim::of_first_boots("kills-first-3")?, 2)
}

#[test]
#[ignore = "long: make test-all"]
fn updates_killed_at_points_1_to_5_leave_one_version_or_the_other() -> Result<()> {
    kill(Victim::of_updates("kills-update-1")?, 0)
}

#[test]
fn updates_killed_at_points_6_to_10_leave_one_version_or_the_other() -> Result<()> {
    kill(Victim::of_updates("kills-update-2")?, 1)
}

#[test]
#[ignore = "long: make test-all"]
fn updates_killed_at_points_11_to_15_leave_one_version_or_the_other() -> Result<()> {
    kill(Victim::of_updates("kills-update-3")?, 2)
}

/// What a cut leaves while a file system grows: the journal has all of it, the superblock nothing. Linux 6.1 replays it when
/// it mounts, and goes by the old size all the same: what it writes into the groups it does not know of is lost, and no call
/// fails.
#[test]
fn a_growth_that_only_the_journal_has_is_there_for_the_next_boot() -> Result<()> {
    let mut scene = Scene::new("kills-grown")?;
    let versions = Versions::publish(&mut scene, &json!({ "size": "700MiB" }))?;
    let (disk, dump) = (scene.disk("disk", 702 << 20)?, Dump::new(&scene, "dump")?);
    let ours = disk.partition(&OUR_TYPE.to_string(), OUR_NAME)?;
    let (small, large) = (disk.path().with_extension("small"), disk.path().with_extension("large"));
    let features = ["-t", "ext4", "-b", "4096", "-J", "size=4", "-O", "meta_bg,^resize_inode"];
    run(Command::new("mke2fs").arg("-q").args(features).arg(&small).arg("64M"))?;
    run(Command::new("cp").arg("--sparse=always").args([&small, &large]))?;
    let blocks = (ours.bytes.end - ours.bytes.start) / BLOCK as u64;
    File::options().write(true).open(&large)?.set_len(blocks * BLOCK as u64)?;
    run(Command::new("resize2fs").arg(&large).arg(blocks.to_string()))?;
    log_difference(&small, &large)?;
    // What the small one has no blocks for stands in its place before the journal is committed.
    write(&disk, ours.bytes.start, &large)?;
    write(&disk, ours.bytes.start, &small)?;
    let vm = expect_payload(dump.by(scene.machine()?.disk(&disk)), BOUND)?;
    vm.assert_line("] root: ready kind=disk ")?;
    vm.assert_never("Data will be lost")?;
    dump.expect(&vm, &versions.first)?;
    disk.check(&ours)
}

/// Writes a file to a place on a disk, without what is zero.
fn write(disk: &Disk, start: u64, file: &Path) -> Result<()> {
    for (number, bytes) in fs::read(file)?.chunks(BLOCK).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            disk.write(start + (number * BLOCK) as u64, bytes)?;
        }
    }
    Ok(())
}

/// Writes each block of the first that differs into its journal, as `debugfs` does.
fn log_difference(small: &Path, large: &Path) -> Result<()> {
    let (old, new) = (fs::read(small)?, fs::read(large)?);
    let both = old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate();
    let (numbers, blocks): (Vec<String>, Vec<&[u8]>) =
        both.filter(|(_, (old, new))| old != new).map(|(number, (_, new))| (number.to_string(), new)).unzip();
    let (content, script) = (small.with_extension("blocks"), small.with_extension("script"));
    fs::write(&content, blocks.concat())?;
    let write = format!("journal_write -b {} {}", numbers.join(","), content.display());
    fs::write(&script, format!("journal_open -c -v 3\n{write}\njournal_close\n"))?;
    let said = run(Command::new("debugfs").arg("-w").arg("-f").arg(&script).arg(small))?;
    let features = run(Command::new("dumpe2fs").arg("-h").arg(small))?;
    ensure!(features.contains("needs_recovery"), "debugfs has written nothing to the journal: {said}");
    Ok(())
}
