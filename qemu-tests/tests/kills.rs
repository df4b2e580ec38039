//! Machines that are killed at any point of a boot: the next boot comes up, and its root is the list.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::chance::Chance;
use zstrap_qemu_tests::disk::{Disk, SIZE};
use zstrap_qemu_tests::dump::Dump;
use zstrap_qemu_tests::kill::{Course, FIRST, Killed, Point, UPDATE, Versions};
use zstrap_qemu_tests::site::Scene;

/// What all of these draw their points from; another one is another set of them, as `make soak` makes it.
const SEED: u64 = 5;

/// How many points a boot has, and how many of them a test goes through, so that several do at once.
const POINTS: usize = 15;
const EACH: usize = 5;

/// The points of one of the tests.
fn points(course: &Course, part: usize) -> Vec<Point> {
    let points = Point::draw(&mut Chance::new(SEED), course.gaps(), POINTS);
    points.into_iter().skip(part * EACH).take(EACH).collect()
}

fn scene(name: &str) -> Result<(Scene, Versions, Disk)> {
    let mut scene = Scene::new(name)?;
    let versions = Versions::publish(&mut scene, &json!({ "size": "700MiB" }))?;
    let disk = scene.disk("disk", SIZE)?;
    Ok((scene, versions, disk))
}

/// First boots: the disk is empty, and the next boot finds whatever the kill has left.
fn first_boots(name: &str, part: usize) -> Result<()> {
    let (scene, versions, disk) = scene(name)?;
    let course = Course::of(&scene, disk, FIRST)?;
    let dump = Dump::new(&scene, "dump")?;
    for (number, point) in points(&course, part).into_iter().enumerate() {
        let killed = course.killed(&scene, point, &format!("killed-{number}"))?;
        course.recovers(&scene, &killed, &dump, &[&versions.first])?;
        killed.discard()?;
    }
    Ok(())
}

#[test]
fn first_boots_killed_at_points_1_to_5_leave_what_the_next_boot_completes() -> Result<()> {
    first_boots("kills-first-1", 0)
}

#[test]
fn first_boots_killed_at_points_6_to_10_leave_what_the_next_boot_completes() -> Result<()> {
    first_boots("kills-first-2", 1)
}

#[test]
fn first_boots_killed_at_points_11_to_15_leave_what_the_next_boot_completes() -> Result<()> {
    first_boots("kills-first-3", 2)
}

/// Updates: the disk has a version, the server another. Whatever the kill has left, a boot without the server then has one
/// of the two as a whole, and one with it the newer.
fn updates(name: &str, part: usize) -> Result<()> {
    let (mut scene, versions, disk) = scene(name)?;
    let first = Course::of(&scene, disk, FIRST)?;
    let newer = versions.update(&scene)?;
    let course = Course::of(&scene, first.done().clone(), UPDATE)?;
    let dump = Dump::new(&scene, "dump")?;
    for (number, point) in points(&course, part).into_iter().enumerate() {
        let killed = course.killed(&scene, point, &format!("killed-{number}"))?;
        if number % 2 == 0 {
            alone(&mut scene, &course, &killed, &dump, &[&versions.first, &newer])?;
        }
        course.recovers(&scene, &killed, &dump, &[&newer])?;
        killed.discard()?;
    }
    Ok(())
}

/// A version was complete before the kill, so there is one to boot.
fn alone(scene: &mut Scene, course: &Course, killed: &Killed, dump: &Dump, lists: &[&Path]) -> Result<()> {
    scene.server.pause();
    let booted = course.recovers_alone(scene, killed, dump, lists)?;
    scene.server.resume()?;
    ensure!(booted, "{killed}: nothing to boot from without a server");
    Ok(())
}

#[test]
fn updates_killed_at_points_1_to_5_leave_one_version_or_the_other() -> Result<()> {
    updates("kills-update-1", 0)
}

#[test]
fn updates_killed_at_points_6_to_10_leave_one_version_or_the_other() -> Result<()> {
    updates("kills-update-2", 1)
}

#[test]
fn updates_killed_at_points_11_to_15_leave_one_version_or_the_other() -> Result<()> {
    updates("kills-update-3", 2)
}
