//! A panic of the init: said on every console and in the kernel log, then a reboot.
//!
//! In: the panic of any thread, whatever it holds, the lock of the log included. Out: the lines of a failure, and a
//! reboot after the pause of one. Nothing here takes a lock that the rest of the program may hold, and nothing waits
//! without a bound. Failure: when even this panics, the standard library aborts, and a PID 1 that has ended is a panic
//! of the kernel, which reboots after the time that `early` has set; when this gets stuck, a thread of its own reboots.

use std::cell::Cell;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Code, Policy};
use crate::{console, watchdog};

/// How long the lines may take, in which consoles are opened and the firmware is asked, before the machine reboots without.
const LONGEST_WORDS: Duration = Duration::from_secs(60);

const NOT_DONE: &str = "the boot ends here; nothing more of it is done";

/// Whether a thread has panicked. The first one says it and reboots; all others stand still.
static PANICKED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread is to end the boot.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// Has every panic from here on end in a reboot.
pub fn set_hook(policy: Policy) {
    std::panic::set_hook(Box::new(move |info| {
        if !PANICKED.swap(true, Ordering::SeqCst) {
            ENDS.set(true);
            last_words(&policy, info);
        }
        stand_still()
    }));
}

/// Where nobody must pass while another thread panics: what it was doing may be half done.
pub fn stop_if_panicked() {
    is_ending();
}

/// Whether this thread ends a boot that has panicked. Any other stands still here when one has.
pub fn is_ending() -> bool {
    PANICKED.load(Ordering::SeqCst) && (ENDS.get() || stand_still())
}

/// Until the panicking thread has rebooted.
fn stand_still() -> ! {
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

fn last_words(policy: &Policy, info: &dyn Display) -> ! {
    watchdog::expect_within(LONGEST_WORDS + watchdog::WORK);
    // Without memory for a thread there is no bound but the kernel's patience with a console.
    let _ = thread::Builder::new().spawn(|| {
        ENDS.set(true);
        thread::sleep(LONGEST_WORDS);
        if !IS_SAID.load(Ordering::SeqCst) {
            super::reboot();
        }
    });
    console::last_words(&lines(info));
    let (next, time) = policy.reboot();
    console::last_words(&[format!("fail: {}", next.after(time))]);
    IS_SAID.store(true, Ordering::SeqCst);
    watchdog::expect_within(time + watchdog::WORK);
    thread::sleep(time);
    super::reboot()
}

/// Whether all lines are said, and only the pause is waited for.
static IS_SAID: AtomicBool = AtomicBool::new(false);

fn lines(info: &dyn Display) -> Vec<String> {
    let because = info.to_string().replace('\n', " ");
    let lines = super::lines(Code::Panic, "init", &because, NOT_DONE, Code::Panic.advice());
    lines.iter().map(|line| format!("fail: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_said_like_any_failure() {
        let lines = lines(&"panicked at src/main.rs:1:2:\nno such thing");
        assert_eq!(lines[1], "fail: because: panicked at src/main.rs:1:2: no such thing");
        assert_eq!(lines[0], "fail: code=ZS-BUG-01 stage=init reason=panic");
        let prefixes = ["fail: code=", "fail: because: ", "fail: not done: ", "fail: try: "];
        assert!(lines.iter().zip(prefixes).all(|(line, prefix)| line.starts_with(prefix)), "{lines:?}");
    }
}
