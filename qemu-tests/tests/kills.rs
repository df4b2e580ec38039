//! Machines that are killed at any point of a boot: the next boot comes up, and its root is the list.
//!
//! Points lie between the lines of a boot that nobody disturbed, where a seed has put them. `make soak KILLS=50` draws others.

use anyhow::Result;
use zstrap_qemu_tests::chance::Chance;
use zstrap_qemu_tests::kill::{Point, Victim};

/// What all of these draw their points from.
const SEED: u64 = 5;

/// How many points a boot has, and how many of them a test goes through, so that several do at once.
const POINTS: usize = 15;
const EACH: usize = 5;

/// Kills a victim at the points of one of the tests; at every other one, it also boots without a server.
fn kill(mut victim: Victim, part: usize) -> Result<()> {
    let points = Point::draw(&mut Chance::new(SEED), victim.gaps(), POINTS);
    for (number, point) in points.into_iter().enumerate().skip(part * EACH).take(EACH) {
        eprintln!("{}", victim.survives(point, &format!("killed-{number}"), number % 2 == 0)?);
    }
    Ok(())
}

#[test]
fn first_boots_killed_at_points_1_to_5_leave_what_the_next_boot_completes() -> Result<()> {
    kill(Victim::of_first_boots("kills-first-1")?, 0)
}

#[test]
fn first_boots_killed_at_points_6_to_10_leave_what_the_next_boot_completes() -> Result<()> {
    kill(Victim::of_first_boots("kills-first-2")?, 1)
}

#[test]
fn first_boots_killed_at_points_11_to_15_leave_what_the_next_boot_completes() -> Result<()> {
    kill(Victim::of_first_boots("kills-first-3")?, 2)
}

#[test]
fn updates_killed_at_points_1_to_5_leave_one_version_or_the_other() -> Result<()> {
    kill(Victim::of_updates("kills-update-1")?, 0)
}

#[test]
fn updates_killed_at_points_6_to_10_leave_one_version_or_the_other() -> Result<()> {
    kill(Victim::of_updates("kills-update-2")?, 1)
}

#[test]
fn updates_killed_at_points_11_to_15_leave_one_version_or_the_other() -> Result<()> {
    kill(Victim::of_updates("kills-update-3")?, 2)
}
