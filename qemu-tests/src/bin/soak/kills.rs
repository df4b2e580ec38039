//! Nodes with a disk that are killed at random points of a first boot or of an update, and must come back.
//!
//! In: how many kills, a seed. Out: a line for each on standard error, and how many of them came back. Failure: a node that
//! did not, or not as what its list says; the line says at which point it was killed, and how to repeat that.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use zstrap_qemu_tests::chance::Chance;
use zstrap_qemu_tests::kill::{Point, Victim};

use crate::{AT_A_TIME, Wanted};

/// Kills as many as wanted; returns how many did not come back.
pub fn run(wanted: &Wanted) -> u64 {
    let (next, failures) = (AtomicU64::new(wanted.first), AtomicU64::new(0));
    eprintln!("soak: {} kills from number {} on, SEED={}", wanted.boots, wanted.first, wanted.seed);
    std::thread::scope(|scope| {
        for worker in 0..AT_A_TIME {
            let (next, failures) = (&next, &failures);
            scope.spawn(move || {
                if let Err(error) = work(wanted, worker, next, failures) {
                    eprintln!("soak: FAILED: no boot to kill: {error:#}");
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let failures = failures.into_inner();
    println!("soak: {} kills, SEED={}: {failures} failed", wanted.boots, wanted.seed);
    failures
}

/// Goes on with one victim of each kind while there are numbers left.
fn work(wanted: &Wanted, worker: usize, next: &AtomicU64, failures: &AtomicU64) -> Result<()> {
    let mut first = Victim::of_first_boots(&format!("soak-first-{worker}"))?;
    let mut update = Victim::of_updates(&format!("soak-update-{worker}"))?;
    while let Some(number) =
        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| wanted.numbers().contains(number))
    {
        let mut chance = Chance::new(wanted.seed.wrapping_mul(0x1_0000_0001).wrapping_add(number));
        let (what, victim) =
            if chance.hits(0.5) { ("first boot", &mut first) } else { ("update", &mut update) };
        let after = chance.within(0..=victim.gaps() as u64 - 1) as usize;
        let (point, also_alone) = (Point { after, share: chance.share() }, chance.hits(0.5));
        match victim.survives(point, &format!("killed-{number}"), also_alone) {
            Ok(killed) => eprintln!("soak: {number}: {what} {killed}"),
            Err(error) => {
                failures.fetch_add(1, Ordering::Relaxed);
                let again = format!("make soak KILLS=1 SEED={} FIRST={number}", wanted.seed);
                eprintln!("soak: {number}: FAILED: {what} {error:#}\n  again:   {again}");
            }
        }
    }
    Ok(())
}
