//! `make soak`: boots with randomly drawn faults, each of which must end in the program of the bundle or in an
//! explained refusal, as its plan demands. `make soak KILLS=50`: nodes with a disk, killed at random points instead.
//!
//! In: how many boots, a seed (drawn and printed if there is none), the number of the first boot. Out: a line for
//! each boot on standard error, figures on standard output. Failure: a boot that ends otherwise, is silent for a
//! minute or takes longer than its bound; its plan is printed, its console kept, and the exit code is 1.

mod boot;
mod expect;
mod kills;
mod plan;
mod report;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use zstrap_qemu_tests::chance::Chance;

use crate::boot::{Ended, boot};
use crate::expect::Expected;
use crate::plan::Plan;
use crate::report::Report;

/// Machines at a time: most of them wait for most of the time.
const AT_A_TIME: usize = 3;

const USAGE: &str = "usage: soak [--boots N | --kills N] [--seed NUMBER] [--first NUMBER] [--plan]";

fn main() -> ExitCode {
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("soak: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if wanted.only_plan {
        wanted.numbers().for_each(|number| println!("{}", described(&wanted, number)));
        return ExitCode::SUCCESS;
    }
    if wanted.only_kills {
        return if kills::run(&wanted) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let report = run(&wanted);
    print!("{report}");
    if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the command line asks for.
struct Wanted {
    boots: u64,
    first: u64,
    seed: u64,
    only_plan: bool,
    only_kills: bool,
}

impl Wanted {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let seed =
            u64::from(std::process::id()) ^ u64::from(zstrap_qemu_tests::site::now()?.unix() as u32) << 16;
        let seed = Chance::new(seed).bits() >> 32;
        let mut wanted = Self { boots: 40, first: 0, seed, only_plan: false, only_kills: false };
        let mut arguments = arguments;
        while let Some(option) = arguments.next() {
            let mut number = || -> Result<u64> {
                let text = arguments.next().with_context(|| format!("{option} wants a number"))?;
                text.parse().with_context(|| format!("{option} {text}"))
            };
            match option.as_str() {
                "--boots" => wanted.boots = number()?,
                "--kills" => (wanted.boots, wanted.only_kills) = (number()?, true),
                "--first" => wanted.first = number()?,
                "--seed" => wanted.seed = number()?,
                "--plan" => wanted.only_plan = true,
                _ => bail!("unknown option {option}"),
            }
        }
        Ok(wanted)
    }

    fn numbers(&self) -> std::ops::Range<u64> {
        self.first..self.first.saturating_add(self.boots)
    }
}

/// A plan, and what must come of it.
fn described(wanted: &Wanted, number: u64) -> String {
    let plan = Plan::draw(wanted.seed, number);
    let Expected { outcome, reasons, early, tries, bound } = Expected::of(&plan);
    format!(
        "boot {number} of seed {}: {outcome:?} within {} s and {tries} attempts, failures {reasons:?}, before the last also {early:?}\n{plan}",
        wanted.seed,
        bound.as_secs()
    )
}

fn run(wanted: &Wanted) -> Report {
    let (begun, next) = (Instant::now(), AtomicU64::new(wanted.first));
    let results = Mutex::new(Vec::new());
    eprintln!("soak: {} boots from number {} on, SEED={}", wanted.boots, wanted.first, wanted.seed);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(number) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| wanted.numbers().contains(n))
                {
                    let result = one(wanted, number);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Report { seed: wanted.seed, at_a_time: AT_A_TIME, took: begun.elapsed(), results }
}

/// One boot, and a line about it.
fn one(wanted: &Wanted, number: u64) -> Option<Ended> {
    let plan = Plan::draw(wanted.seed, number);
    let ended = boot(&plan, &Expected::of(&plan), &format!("soak-{}-{number}", wanted.seed));
    match &ended {
        Ok(ended) => eprintln!("soak: {number}: {ended}"),
        Err(error) => eprintln!(
            "soak: {number}: FAILED: {error:#}\n{}\n  again:   make soak N=1 SEED={} FIRST={number}",
            described(wanted, number),
            wanted.seed
        ),
    }
    ended.ok()
}
