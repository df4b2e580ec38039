//! Pulling the plug of a machine at a chosen moment, and looking at what it left on its disk.
//!
//! In: a [`Victim`], points between the lines of its boot. Out: the judgement of the boot that follows each kill: it comes up, its root is the list, the file system is
//! whole, and no byte outside of our partition is other than it would be without the kill. Failure: an error that says at
//! which point the machine was killed, with the console of the boot that went wrong.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zstrap_formats::digest::Sha256;

use crate::artefacts;
use crate::boot::{BOUND, expect_payload};
use crate::chance::Chance;
use crate::disk::{self, Disk, SIZE};
use crate::dump;
use crate::dump::Dump;
use crate::site::{IMPATIENT, Scene, Tree, noise};
use crate::vm::{Reason, Vm};

/// Lines of a boot that makes our partition and fills it, in any order; those that come are what points lie between.
const FIRST: &[&str] =
    &["] list: ok ", "] disk: made ", "] root: ready ", "] fetch: done ", "] cache: kept ", "] handoff: "];

/// Lines of a boot that finds our partition with an older version.
const UPDATE: &[&str] = &[
    "] disk: found ",
    "] config: ok ",
    "] list: ok ",
    "] root: ready ",
    "] fetch: done ",
    "] cache: kept ",
    "] handoff: ",
];

/// A moment of a boot: after which of its lines, and which share of the time to the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The number of the line.
    pub after: usize,
    /// From 0 up to, not including, 1.
    pub share: f64,
}

impl Point {
    /// Points of a boot with so many gaps between lines: each gap gets as many, at moments that chance draws.
    pub fn draw(chance: &mut Chance, gaps: usize, count: usize) -> Vec<Self> {
        (0..count).map(|number| Self { after: number % gaps, share: chance.share() }).collect()
    }
}

/// The time between two lines of the boot that nobody disturbed.
struct Gap {
    line: &'static str,
    length: Duration,
}

/// A boot that is killed again and again, always from the same disk.
struct Course {
    base: Disk,
    gaps: Vec<Gap>,
    /// What stands outside of our partition after the boot that nobody disturbed.
    outside: Sha256,
    /// The disk after that boot.
    done: Disk,
}

impl Course {
    /// Boots once from a copy of this disk, to see how long each part takes and what the disk is like then.
    fn of(scene: &Scene, base: Disk, lines: &[&'static str]) -> Result<Self> {
        let done = base.copy(&format!("{}-done", name_of(&base)))?;
        let vm = expect_payload(scene.machine()?.disk(&done), BOUND)?;
        on_disk(&vm)?;
        let ours = done.ours()?;
        done.check(&ours)?;
        let outside = done.hash_without(&ours.bytes)?;
        Ok(Self { base, gaps: gaps(&vm, lines)?, outside, done })
    }

    /// A disk whose machine was killed at this point.
    fn killed(&self, scene: &Scene, point: Point, name: &str) -> Result<Killed> {
        let gap = self.gaps.get(point.after).context("a point lies in a gap of its course")?;
        let disk = self.base.copy(name)?;
        let mut vm = scene.machine()?.disk(&disk).start()?;
        vm.wait_line(gap.line, BOUND)?;
        std::thread::sleep(gap.length.mul_f64(point.share));
        vm.kill()?;
        let last = vm.console().iter().rfind(|line| line.text.contains("] ")).map(|line| line.text.clone());
        Ok(Killed { disk, line: gap.line, share: point.share, last: last.unwrap_or_default() })
    }

    /// Boots that disk again and judges: the root must be one of these lists.
    fn recovers(&self, scene: &Scene, killed: &Killed, dump: &Dump, lists: &[&Path]) -> Result<Vm> {
        let judge = || -> Result<Vm> {
            let vm = expect_payload(dump.by(scene.machine()?.disk(&killed.disk)), BOUND)?;
            on_disk(&vm)?;
            dump.expect(&vm, one_of(&vm, lists)?)?;
            let ours = killed.disk.ours()?;
            killed.disk.check(&ours).map_err(|error| vm.failed(&format!("{error:#}")))?;
            let outside = killed.disk.hash_without(&ours.bytes)?;
            ensure!(outside == self.outside, vm.failed("bytes outside of our partition are other ones"));
            Ok(vm)
        };
        judge().with_context(|| killed.to_string())
    }

    /// The same while no server answers. A disk on which no version was complete has nothing to boot from: then the machine
    /// says so, runs nothing and reboots. Returns whether it booted.
    fn recovers_alone(&self, scene: &Scene, killed: &Killed, dump: &Dump, lists: &[&Path]) -> Result<bool> {
        let judge = || -> Result<bool> {
            let machine = scene.machine()?.append(IMPATIENT).disk(&killed.disk);
            let mut vm = dump.by(machine).start()?;
            if vm.wait_exit(BOUND)?.reason == Reason::Reset {
                vm.assert_never("] handoff: ")?;
                vm.assert_line("] fail: code=")?;
                return Ok(false);
            }
            vm.assert_line("] boot: from disk ")?;
            dump.expect(&vm, one_of(&vm, lists)?)?;
            Ok(true)
        };
        judge().with_context(|| killed.to_string())
    }
}

/// What a kill has left.
struct Killed {
    disk: Disk,
    line: &'static str,
    share: f64,
    last: String,
}

impl fmt::Display for Killed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, last) = (self.line.trim(), self.last.trim());
        write!(out, "killed after `{line}` and {:.2} of the time to the next, last line: {last}", self.share)
    }
}

/// A node that boots in RAM would pass every test of what is on its disk.
fn on_disk(vm: &Vm) -> Result<()> {
    vm.assert_line("] root: ready kind=disk ").map(drop)
}

/// The list that a machine said it has, of those that it may have: by serial.
pub fn one_of<'a>(vm: &Vm, lists: &[&'a Path]) -> Result<&'a Path> {
    let said = vm.find_all("] list: ok ");
    let said = said.last().with_context(|| "a machine that booted has a list")?;
    let has_serial = |list: &&&Path| {
        let serial = list.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        said.text.contains(&format!(" serial={serial} "))
    };
    let found = lists.iter().find(has_serial).copied();
    found.with_context(|| vm.failed(&format!("a list that is none of {lists:?}: {}", said.text)).to_string())
}

fn gaps(vm: &Vm, lines: &[&'static str]) -> Result<Vec<Gap>> {
    let mut seen: Vec<_> = lines.iter().filter_map(|line| Some((vm.find(line)?.at, *line))).collect();
    seen.sort();
    ensure!(seen.len() > 3, vm.failed(&format!("hardly one of the lines {lines:?}")));
    let end = vm.console().last().map(|line| line.at).unwrap_or_default();
    let ends = seen.iter().skip(1).map(|(at, _)| *at).chain([end]);
    Ok(seen.iter().zip(ends).map(|((at, line), end)| Gap { line, length: end.saturating_sub(*at) }).collect())
}

fn name_of(disk: &Disk) -> String {
    disk.path().file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A node that is killed again and again: its site, the disk it begins with, and what it may run afterwards.
pub struct Victim {
    scene: Scene,
    course: Course,
    dump: Dump,
    /// What it may run: the version of the disk, if it has one, then that of the server.
    lists: Vec<PathBuf>,
}

impl Victim {
    /// One that begins with an empty disk.
    pub fn of_first_boots(name: &str) -> Result<Self> {
        let mut scene = Scene::new(name)?;
        let versions = Versions::publish(&mut scene, &json!({ "size": "700MiB" }))?;
        let course = Course::of(&scene, scene.disk("disk", SIZE)?, FIRST)?;
        let dump = Dump::new(&scene, "dump")?;
        Ok(Self { scene, course, dump, lists: vec![versions.first] })
    }

    /// One that begins with a version on its disk, while the server has another.
    pub fn of_updates(name: &str) -> Result<Self> {
        let mut scene = Scene::new(name)?;
        let versions = Versions::publish(&mut scene, &json!({ "size": "700MiB" }))?;
        let first = Course::of(&scene, scene.disk("disk", SIZE)?, FIRST)?;
        let lists = vec![versions.first.clone(), versions.update(&scene)?];
        let course = Course::of(&scene, first.done, UPDATE)?;
        let dump = Dump::new(&scene, "dump")?;
        Ok(Self { scene, course, dump, lists })
    }

    /// How many gaps there are for a [`Point`] to lie in.
    pub fn gaps(&self) -> usize {
        self.course.gaps.len()
    }

    /// Kills a boot at this point and judges the next one. If asked to, it looks at a boot without a server first: where the
    /// disk had a version before the kill, there is one to boot.
    pub fn survives(&mut self, point: Point, name: &str, also_alone: bool) -> Result<String> {
        let killed = self.course.killed(&self.scene, point, name)?;
        let as_killed = killed.disk.copy(&format!("{name}-as-killed"))?;
        let judged = self.judge(&killed, also_alone);
        if judged.is_err() {
            keep(&as_killed, self.scene.name())?;
        }
        // Tests in RAM have no room for many disks.
        for disk in [&killed.disk, &as_killed] {
            std::fs::remove_file(disk.path()).context("deleting the disk of a killed machine")?;
        }
        judged.map(|()| killed.to_string())
    }

    fn judge(&mut self, killed: &Killed, also_alone: bool) -> Result<()> {
        let lists: Vec<&Path> = self.lists.iter().map(PathBuf::as_path).collect();
        if also_alone {
            self.scene.server.pause();
            let booted = self.course.recovers_alone(&self.scene, killed, &self.dump, &lists)?;
            self.scene.server.resume()?;
            ensure!(booted || lists.len() == 1, "{killed}: nothing to boot from without a server");
        }
        self.course.recovers(&self.scene, killed, &self.dump, &lists[lists.len() - 1..]).map(drop)
    }
}

/// Keeps a disk beside the log of its machine.
fn keep(disk: &Disk, name: &str) -> Result<()> {
    let kept = artefacts::out().join("qemu-tests").join(format!("{name}.raw"));
    disk::run(Command::new("cp").arg("--sparse=always").args([disk.path(), &kept])).map(drop)
}

/// A bundle of twenty files and 6 MB, and its next version: some files have other bytes, one is gone, one is new, one has
/// another mode.
pub struct Versions {
    tree: Tree,
    /// The list of the first version.
    pub first: PathBuf,
}

impl Versions {
    /// The name of that bundle and of its config.
    pub const BUNDLE: &'static str = "versions";

    /// Publishes the first version, and has the next machine boot it.
    pub fn publish(scene: &mut Scene, root: &Value) -> Result<Self> {
        let tree = Tree::payload()?;
        dump::add_mount_points(&tree)?;
        for number in 0..20 {
            tree.file(&name(number), &content(number, 1), 0o644)?;
        }
        scene.publish(&tree, Self::BUNDLE)?;
        let config = json!({ "version": 1, "bundle": Self::BUNDLE, "exec": ["/sbin/init"], "root": root });
        scene.add_config(Self::BUNDLE, &config)?;
        let first = dump::keep_list(scene, Self::BUNDLE)?;
        Ok(Self { tree, first })
    }

    /// Publishes the next one; returns its list.
    pub fn update(&self, scene: &Scene) -> Result<PathBuf> {
        for number in [3, 7, 11, 12] {
            self.tree.file(&name(number), &content(number, 2), 0o644)?;
        }
        self.tree.file(&name(5), &content(5, 1), 0o600)?;
        self.tree.file(&name(20), &content(20, 2), 0o644)?;
        self.tree.delete(&name(19))?;
        scene.publish(&self.tree, Self::BUNDLE)?;
        dump::keep_list(scene, Self::BUNDLE)
    }
}

fn name(number: usize) -> String {
    format!("srv/{}/file-{number}", number % 3)
}

/// 300,000 bytes that no other file or version has.
fn content(number: usize, version: usize) -> Vec<u8> {
    let mut bytes = noise(300_000);
    bytes.rotate_left(number * 1000 + version);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_spread_over_all_gaps_and_the_same_each_time() {
        let draw = || Point::draw(&mut Chance::new(5), 5, 15);
        assert_eq!(draw(), draw());
        let in_gap = |gap| draw().iter().filter(|point| point.after == gap).count();
        assert_eq!([0, 1, 2, 3, 4].map(in_gap), [3; 5]);
        assert!(draw().iter().all(|point| (0.0..1.0).contains(&point.share)));
    }
}
