//! One boot of a soak: started, watched, and judged.
//!
//! In: a plan. Out: how it ended, and when; an error if that is not what must come of the plan, with the end of the
//! console. A console that is silent for a minute is an error, too: a person before it would think that it hangs.

use std::time::Duration;

use anyhow::{Result, ensure};
use zstrap_qemu_tests::artefacts::patience;
use zstrap_qemu_tests::vm::{Exit, Reason, Vm};

use crate::expect::{Expected, Outcome};
use crate::plan::Plan;
use crate::world::World;

/// No wait of a node is silent for longer.
const SILENCE: Duration = Duration::from_secs(60);

/// How often the machine is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A boot that ended as it had to.
#[derive(Clone, Debug)]
pub struct Ended {
    /// From power-on to the end.
    pub after: Duration,
    /// The reasons of failed attempts.
    pub refusals: Vec<String>,
    /// The program ran to its end.
    pub has_booted: bool,
}

/// Boots this plan.
pub fn boot(plan: &Plan, expected: &Expected, name: &str) -> Result<Ended> {
    let mut world = World::make(plan, name)?;
    let mut vm = world.start(expected)?;
    let exit = watch(&mut world, &mut vm, expected)?;
    judge(&vm, &exit, expected, world.fingerprint()?.as_deref())
}

/// Until the machine has ended.
fn watch(world: &mut World, vm: &mut Vm, expected: &Expected) -> Result<Exit> {
    let (bound, silence) = (patience(expected.bound), patience(SILENCE));
    loop {
        if let Some(exit) = vm.ended()? {
            return Ok(exit);
        }
        let (age, silent) = vm.age_and_silence();
        ensure!(age < bound, vm.failed(&format!("still runs after {bound:?}")));
        ensure!(silent < silence, vm.failed(&format!("has been silent for {silence:?}")));
        if let Err(error) = world.turn(vm) {
            // What could not be done to a machine that has ended meanwhile does not matter.
            if vm.ended()?.is_none() {
                return Err(error);
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn judge(vm: &Vm, exit: &Exit, expected: &Expected, fingerprint: Option<&str>) -> Result<Ended> {
    let refusals = refusals(vm);
    let last = refusals.len().saturating_sub(1);
    let is_expected = |at: usize, reason: &str| {
        expected.reasons.contains(reason) || (at < last && expected.early.contains(&reason))
    };
    let strange = refusals.iter().enumerate().find(|(at, reason)| !is_expected(*at, reason));
    if let Some((_, strange)) = strange {
        return Err(vm.failed(&format!("refused for `{strange}`, expected one of {:?}", expected.reasons)));
    }
    let has_booted = exit.reason == Reason::PowerOff;
    match (expected.outcome, &exit.reason) {
        (Outcome::Boots | Outcome::Either, Reason::PowerOff) => check_program(vm, fingerprint)?,
        (Outcome::Refuses | Outcome::Either, Reason::Reset) => check_refusal(vm, expected, refusals.len())?,
        (outcome, reason) => return Err(vm.failed(&format!("ended by {reason:?}, expected: {outcome:?}"))),
    }
    Ok(Ended { after: exit.after, refusals, has_booted })
}

/// The reason of each failed attempt.
fn refusals(vm: &Vm) -> Vec<String> {
    let lines = vm.find_all("] fail: *reason=");
    let word = |text: &str| {
        text.split(' ').find_map(|word| word.strip_prefix("reason=")).unwrap_or_default().to_owned()
    };
    lines.iter().map(|line| word(&line.text)).collect()
}

fn check_program(vm: &Vm, fingerprint: Option<&str>) -> Result<()> {
    vm.assert_line("] handoff: ")?;
    match fingerprint {
        None => vm.assert_line("demo: end").map(drop),
        Some(tree) => {
            vm.assert_line(&format!("payload: tree={tree}"))?;
            vm.assert_line("payload: end").map(drop)
        }
    }
}

/// Explained at each attempt, nothing ran, and the machine starts again.
fn check_refusal(vm: &Vm, expected: &Expected, refusals: usize) -> Result<()> {
    let tries = expected.tries as usize;
    ensure!(refusals == tries, vm.failed(&format!("{refusals} failed attempts, expected {tries}")));
    for text in ["] fail: because: ", "] fail: not done: ", "] fail: try: "] {
        ensure!(vm.find_all(text).len() == tries, vm.failed(&format!("not {tries} times `{text}`")));
    }
    vm.assert_line("] fail: rebooting in 1s")?;
    ["] handoff: ", "payload:", "demo:"].iter().try_for_each(|text| vm.assert_never(text))
}
