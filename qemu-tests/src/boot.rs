//! What a boot must look like from outside: how it succeeds, how it refuses.
//!
//! In: a [`Scene`] or a machine made from one. Out: the machine that ended as it should. Failure: an error that
//! names the first thing that was not as it should be, with the end of the console.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::errors::{self, Explained};
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
const EXPLAINED: [&str; 3] = ["] fail: because: ", "] fail: not done: ", "] fail: try: "];

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

/// Boots the scene and expects a refusal in `stage` for exactly `what`, a code or a reason of docs/errors.md, at every
/// attempt: explained on the console with the code of its section, with no later stage begun, nothing run, and a reboot at
/// the end.
pub fn expect_refusal(scene: &Scene, stage: &str, what: &str) -> Result<Vm> {
    expect_refusal_by(scene.machine()?, stage, what, BOUND)
}

/// The same of a machine with settings of its own.
pub fn expect_refusal_by(machine: VmBuilder, stage: &str, what: &str, limit: Duration) -> Result<Vm> {
    let mut vm = machine.append(IMPATIENT).start()?;
    vm.expect_exit(&Reason::Reset, limit)?;
    let first = vm.assert_line(": refused reason=")?;
    let explained = errors::explained(stage, what)?;
    let said = |one: &Explained| format!("] {stage}: refused reason={} code={}", one.reason, one.code);
    let Some(meant) = explained.iter().find(|one| first.text.ends_with(&said(one))) else {
        return Err(vm.failed(&format!("expected a refusal of {stage} like one of {explained:?}")));
    };
    let attempts = if meant.is_final { 1 } else { 2 };
    let refusals = vm.find_all(": refused reason=");
    if refusals.len() != attempts || !refusals.iter().all(|line| line.text.ends_with(&said(meant))) {
        return Err(vm.failed(&format!("expected {attempts} times `{}`", said(meant))));
    }
    check_end(&vm, stage, meant, attempts)?;
    check_stages(&vm, stage)?;
    Ok(vm)
}

/// The texts of the failure, and the reboot that ends it.
fn check_end(vm: &Vm, stage: &str, meant: &Explained, attempts: usize) -> Result<()> {
    let line = format!("] fail: code={} stage={stage} reason={}", meant.code, meant.reason);
    let ends = vm.find_all(&line);
    ensure!(ends.len() == attempts, vm.failed(&format!("expected {attempts} times `{line}`")));
    for text in EXPLAINED {
        vm.assert_line(text)?;
    }
    if meant.is_final {
        vm.assert_never("] fail: retry ")
    } else {
        vm.assert_line("] fail: retry 1 of 1 in ").map(drop)
    }?;
    vm.assert_line("] fail: rebooting in 1s, boot loops are not counted here").map(drop)
}

/// Stages before the refusing one are done; it and the later ones are not, and nothing of the bundle ran.
fn check_stages(vm: &Vm, stage: &str) -> Result<()> {
    let refused = DONE.iter().position(|done| done.starts_with(&format!("] {stage}: ")));
    let (before, after) = DONE.split_at(refused.unwrap_or_default());
    before.iter().try_for_each(|done| vm.assert_line(done).map(drop))?;
    after.iter().try_for_each(|done| vm.assert_never(done))?;
    vm.assert_never("payload:")
}
