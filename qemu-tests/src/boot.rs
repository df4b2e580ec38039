//! What a boot must look like from outside: how it succeeds, how it refuses.
//!
//! In: a [`Scene`] or a machine made from one. Out: the machine that ended as it should. Failure: an error that
//! names the first thing that was not as it should be, with the end of the console.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::site::{IMPATIENT, Scene};
use crate::vm::{Reason, Vm, VmBuilder};

/// No boot here takes longer, failing ones with their retry included, unless a test moves hundreds of megabytes.
pub const BOUND: Duration = Duration::from_secs(90);

/// The line that each stage logs when it is done, in their order.
pub const DONE: [&str; 8] = [
    "] early: ready ",
    "] identity: ok ",
    "] network: online ",
    "] config: ok ",
    "] list: ok ",
    "] root: ready ",
    "] fetch: done ",
    "] handoff: ",
];

/// What the end of a failed attempt says, whatever the reason.
const EXPLAINED: [&str; 4] =
    ["] fail: because: ", "] fail: not done: ", "] fail: try: ", "] fail: retry 1 of 1 in "];

/// Boots a machine and waits until the payload has reported and switched off.
pub fn expect_payload(machine: VmBuilder, limit: Duration) -> Result<Vm> {
    let mut vm = machine.start()?;
    vm.expect_exit(&Reason::PowerOff, limit)?;
    let mut last = None;
    for done in DONE {
        let line = vm.assert_line(done)?;
        if last.is_some_and(|last| last > line.index) {
            return Err(vm.failed(&format!("stages out of order: {line}")));
        }
        last = Some(line.index);
    }
    vm.assert_line("payload: end")?;
    Ok(vm)
}

/// Boots the scene and expects a refusal in `stage` for exactly `reason`, at every attempt: explained on the
/// console, with no later stage begun, nothing run, and a reboot at the end.
pub fn expect_refusal(scene: &Scene, stage: &str, reason: &str) -> Result<Vm> {
    expect_refusal_by(scene.machine()?, stage, reason, BOUND)
}

/// The same of a machine with settings of its own.
pub fn expect_refusal_by(machine: VmBuilder, stage: &str, reason: &str, limit: Duration) -> Result<Vm> {
    let mut vm = machine.append(IMPATIENT).start()?;
    vm.expect_exit(&Reason::Reset, limit)?;
    let refusals = vm.find_all(": refused reason=");
    let wanted = (format!("] {stage}: refused "), format!("reason={reason}"));
    let as_wanted = |text: &str| text.contains(&wanted.0) && text.split(' ').any(|word| word == wanted.1);
    if refusals.len() != 2 || !refusals.iter().all(|line| as_wanted(&line.text)) {
        return Err(vm.failed(&format!("expected two times `{stage}: refused reason={reason}`")));
    }
    check_end(&vm, stage, reason)?;
    check_stages(&vm, stage)?;
    Ok(vm)
}

/// The texts of the failure, and the reboot that ends it.
fn check_end(vm: &Vm, stage: &str, reason: &str) -> Result<()> {
    let ends = vm.find_all(&format!("] fail: stage={stage} reason={reason}"));
    ensure!(ends.len() == 2, vm.failed(&format!("expected two `fail: stage={stage}` lines")));
    for text in EXPLAINED {
        vm.assert_line(text)?;
    }
    vm.assert_line("] fail: rebooting in 1s").map(drop)
}

/// Stages before the refusing one are done; it and the later ones are not, and nothing of the bundle ran.
fn check_stages(vm: &Vm, stage: &str) -> Result<()> {
    let refused = DONE.iter().position(|done| done.starts_with(&format!("] {stage}: ")));
    let (before, after) = DONE.split_at(refused.unwrap_or_default());
    before.iter().try_for_each(|done| vm.assert_line(done).map(drop))?;
    after.iter().try_for_each(|done| vm.assert_never(done))?;
    vm.assert_never("payload:")
}
