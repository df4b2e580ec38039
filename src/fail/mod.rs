//! The one place where errors end: what happened, what did not happen, what to try, and what comes next.
//!
//! In: the [`Failure`] of a stage. Out: lines on every console, then another try after a pause, and when all
//! tries are used, a reboot after a pause that grows from one failed boot to the next. Nothing here can fail in a way
//! that leaves the machine hanging: a firmware that does not count in time is not waited for.

mod code;
pub mod panic;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::config::OnFailure;

pub use code::Code;

use crate::console::status;
use crate::loops;
use crate::retry::Retry;
use crate::sys::End;
use crate::watchdog;

/// Boot attempts before the reboot, unless the kernel command line says otherwise.
const TRIES: u32 = 6;
const MAX_TRIES: u32 = 100;
/// Seconds for a person to read the reason before the screen goes dark.
const REBOOT_AFTER: u64 = 10;
const MAX_REBOOT_AFTER: u64 = 3600;
/// Pauses that double from one failed boot to the next end here, so that a machine is back soon after its server is.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The steps of a boot, by the word that begins their log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The slot of the image.
    Identity,
    /// A link and a server that answers.
    Network,
    /// What to become.
    Config,
    /// What it consists of.
    List,
    /// Where it goes.
    Root,
    /// The files.
    Fetch,
    /// The program that takes over.
    Handoff,
}

impl Stage {
    /// The word in log lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Network => "network",
            Self::Config => "config",
            Self::List => "list",
            Self::Root => "root",
            Self::Fetch => "fetch",
            Self::Handoff => "handoff",
        }
    }

    /// What an error in this stage has kept from happening.
    fn not_done(self) -> &'static str {
        match self {
            Self::Identity => "no network was touched, nothing was fetched, nothing of a bundle ran",
            Self::Network | Self::Config => "no list and no file was fetched, nothing of a bundle ran",
            Self::List | Self::Root => "no file was fetched, nothing of the bundle ran",
            Self::Fetch => "nothing of the bundle ran; files fetched so far are thrown away",
            Self::Handoff => "the program of the config did not take over",
        }
    }
}

/// An error of a stage, with the code that the log and a person need.
pub trait Refusal: Error + 'static {
    /// Which of all failures it is.
    fn code(&self) -> Code;

    /// What the reader can do about it, where this error knows more than its code.
    fn advice(&self) -> Option<String> {
        None
    }

    /// One stable word, in kebab case.
    fn reason(&self) -> &'static str {
        self.code().word()
    }
}

/// Why a boot attempt ended.
#[derive(Debug)]
pub struct Failure {
    stage: Stage,
    code: Code,
    advice: Option<String>,
    error: Box<dyn Error>,
    is_final: bool,
}

impl Failure {
    /// The failure of a stage.
    pub fn of(stage: Stage, error: impl Refusal) -> Self {
        let code = error.code();
        Self { stage, code, advice: error.advice(), is_final: code.is_final(), error: Box::new(error) }
    }

    /// The same failure, after which only a reboot helps.
    #[must_use]
    pub fn and_final(self) -> Self {
        Self { is_final: true, ..self }
    }

    /// Whether only a reboot helps, or not even that.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The word for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.code.word()
    }

    /// Says why in two lines, where the boot goes on another way.
    pub fn explain_briefly(&self) {
        let (stage, sentence) = (self.stage.as_str(), Chain(&*self.error));
        log::warn!(target: stage, "failed reason={} code={}", self.reason(), self.code.as_str());
        log::warn!(target: stage, "because: {sentence}");
    }

    /// Says all of it, one fact a line.
    pub fn explain(&self) {
        let (sentence, advice) = (Chain(&*self.error), self.advice.as_deref().unwrap_or(self.code.advice()));
        let lines = lines(self.code, self.stage.as_str(), &sentence, self.stage.not_done(), advice);
        status::failed(self.code.as_str(), sentence.to_string(), advice);
        log::error!(target: self.stage.as_str(), "refused reason={} code={}", self.reason(), self.code.as_str());
        lines.iter().for_each(|line| log::error!(target: "fail", "{line}"));
    }
}

/// Explains a failure that is that of no stage: what happened, and what did not.
pub fn explain(code: Code, stage: &str, because: &dyn fmt::Display, not_done: &str) {
    let lines = lines(code, stage, because, not_done, code.advice());
    lines.iter().for_each(|line| log::error!(target: "fail", "{line}"));
}

/// What is said of every failure.
fn lines(code: Code, stage: &str, because: &dyn fmt::Display, not_done: &str, advice: &str) -> [String; 4] {
    [
        format!("code={} stage={stage} reason={}", code.as_str(), code.word()),
        format!("because: {because}"),
        format!("not done: {not_done}"),
        format!("try: {advice}"),
    ]
}

/// An error and its causes in one line. Messages do not contain their causes, so each is said once.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// What comes after a failure, and a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt: the how many-th of how many.
    Retry(u32, u32),
    /// The end of this boot, the how many-th that failed in a row; none where nobody counts.
    End(End, Option<u32>),
}

impl Next {
    /// What is said of it.
    fn after(self, pause: Duration) -> String {
        let seconds = pause.as_secs_f64();
        match self {
            Self::Retry(done, retries) => format!("retry {done} of {retries} in {seconds:.1}s"),
            Self::End(End::Reboot, Some(failed)) => format!("rebooting in {seconds:.0}s, boot loop {failed}"),
            Self::End(End::Reboot, None) => {
                format!("rebooting in {seconds:.0}s, boot loops are not counted here")
            }
            Self::End(End::PowerOff | End::Halt, _) => format!("powering off in {seconds:.0}s"),
        }
    }
}

/// How this machine goes on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    retry: Retry,
    reboot_after: Duration,
}

impl Policy {
    /// The policy of the kernel command line: `zstrap.tries=`, `zstrap.reboot_after=`. Values out of range are
    /// taken as the nearest in range: a typing error must not make a machine unreachable.
    #[must_use]
    pub fn of(cmdline: &Cmdline) -> Self {
        let number = |name: &str| cmdline.value(name).and_then(|text| text.parse::<u64>().ok());
        let tries = number("zstrap.tries").and_then(|n| u32::try_from(n).ok()).unwrap_or(TRIES);
        let reboot_after = number("zstrap.reboot_after").unwrap_or(REBOOT_AFTER);
        Self {
            retry: Retry {
                first: Duration::from_secs(1),
                cap: Duration::from_secs(60),
                tries: tries.clamp(1, MAX_TRIES),
            },
            reboot_after: Duration::from_secs(reboot_after.min(MAX_REBOOT_AFTER)),
        }
    }

    /// Waits before attempt `done + 1`, at least as long as servers have asked for; when all attempts are used, says so
    /// and ends this boot as `at_the_end` says.
    pub fn wait_or_end(&self, done: u32, asked: Duration, at_the_end: OnFailure) {
        match self.retry.pause_after(done, random()) {
            Some(time) => pause(Next::Retry(done, self.retry.tries - 1), time.max(asked)),
            None => self.end(at_the_end),
        }
    }

    /// Leaves a person time to read, then ends this boot.
    pub fn end(&self, how: OnFailure) -> ! {
        // It counts this boot itself.
        panic::stop_if_panicked();
        match how {
            OnFailure::Reboot => {
                let (next, time) = self.reboot();
                pause(next, time);
            }
            // Nothing comes back after it, so nothing is counted.
            OnFailure::PowerOff => {
                pause(Next::End(End::PowerOff, None), self.reboot_after);
                watchdog::stop();
                crate::sys::linux::end(End::PowerOff);
                // Refused: what was stopped for it is to reset the machine if that does not reboot, either.
                watchdog::arm();
            }
        }
        reboot()
    }

    /// Counts this boot as failed. What to say of the reboot, and how long to wait before it.
    pub fn reboot(&self) -> (Next, Duration) {
        let failed = loops::failed();
        (Next::End(End::Reboot, failed), self.pause_before_reboot(failed, random()))
    }

    /// Doubles from one failed boot to the next. Where nobody counts, it stays the first: a machine that cannot know
    /// better had better come back.
    fn pause_before_reboot(&self, failed: Option<u32>, random: u32) -> Duration {
        let (first, cap) = (self.reboot_after, self.reboot_after.max(LONGEST_PAUSE));
        let pauses = Retry { first, cap, tries: u32::MAX };
        let done = failed.unwrap_or(1).clamp(1, u32::MAX - 1);
        pauses.pause_after(done, random).unwrap_or(cap)
    }
}

/// Says what comes next, and waits for it. Every pause after a failure of the boot is in here.
fn pause(next: Next, time: Duration) {
    say(next, time);
    let what = match next {
        Next::Retry(..) => "next try",
        Next::End(End::Reboot, _) => "reboot",
        Next::End(End::PowerOff | End::Halt, _) => "power off",
    };
    status::next(what, time);
    watchdog::expect_within(time + watchdog::WORK);
    std::thread::sleep(time);
}

/// Says what comes next, for those that wait in a way of their own.
pub fn say(next: Next, time: Duration) {
    log::error!(target: "fail", "{}", next.after(time));
}

/// Reboots; if even that is refused, tries again for ever, slowly, saying so each time.
pub fn reboot() -> ! {
    // Declared once: where the kernel refuses, the hardware may still reset the machine.
    watchdog::expect_within(watchdog::WORK);
    loop {
        crate::sys::linux::end(End::Reboot);
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Random bits for jitter and transaction ids: differing between machines is all they need.
#[must_use]
pub fn random() -> u32 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    let bits = hasher.finish();
    (bits >> 32) as u32 ^ bits as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading {what}")]
    struct Sample {
        what: &'static str,
        source: std::io::Error,
    }

    impl Refusal for Sample {
        fn code(&self) -> Code {
            Code::SlotMissing
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let error = Sample { what: "the slot", source: std::io::Error::other("no medium") };
        let failure = Failure::of(Stage::Identity, error);
        assert_eq!(Chain(&*failure.error).to_string(), "reading the slot: no medium");
        assert_eq!((failure.reason(), failure.is_final()), ("bad-slot", true));
    }

    #[test]
    fn the_policy_stays_within_bounds() {
        let policy = |line: &str| Policy::of(&Cmdline::parse(line.as_bytes()));
        assert_eq!(policy("").retry.tries, TRIES);
        assert_eq!(policy("zstrap.tries=2 zstrap.reboot_after=1").retry.tries, 2);
        assert_eq!(policy("zstrap.tries=0").retry.tries, 1);
        assert_eq!(policy("zstrap.tries=1000000").retry.tries, MAX_TRIES);
        assert_eq!(policy("zstrap.tries=x").retry.tries, TRIES);
        assert_eq!(policy("zstrap.reboot_after=99999").reboot_after, Duration::from_secs(MAX_REBOOT_AFTER));
    }

    #[test]
    fn a_failing_boot_of_default_tries_pauses_for_half_a_minute() {
        let retry = Policy::of(&Cmdline::default()).retry;
        let total: Duration = (1..=TRIES).filter_map(|n| retry.pause_after(n, 0)).sum();
        assert_eq!(total, Duration::from_secs(1 + 2 + 4 + 8 + 16));
    }

    const EVERY: [Option<u32>; 8] =
        [None, Some(0), Some(1), Some(2), Some(3), Some(99), Some(u32::MAX - 1), Some(u32::MAX)];

    #[test]
    fn pauses_double_from_one_failed_boot_to_the_next_up_to_ten_minutes() {
        let policy = Policy::of(&Cmdline::default());
        let seconds: Vec<u64> =
            (1..=9).map(|failed| policy.pause_before_reboot(Some(failed), 0).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(policy.pause_before_reboot(None, 0), Duration::from_secs(10));
    }

    #[test]
    fn no_count_makes_a_pause_shorter_than_the_first_or_longer_than_the_cap() {
        for line in ["", "zstrap.reboot_after=0", "zstrap.reboot_after=3600", "zstrap.reboot_after=700"] {
            let policy = Policy::of(&Cmdline::parse(line.as_bytes()));
            let first = policy.reboot_after;
            for (failed, random) in EVERY.into_iter().flat_map(|n| [(n, 0), (n, 7 << 28), (n, u32::MAX)]) {
                let pause = policy.pause_before_reboot(failed, random);
                let in_bounds = pause >= first.mul_f64(0.75) && pause <= first.max(LONGEST_PAUSE);
                assert!(in_bounds, "{line} {failed:?}: {pause:?}");
            }
        }
    }

    #[test]
    fn what_comes_next_is_said_in_one_line() {
        let after = |next: Next, millis| next.after(Duration::from_millis(millis));
        assert_eq!(after(Next::Retry(1, 5), 900), "retry 1 of 5 in 0.9s");
        assert_eq!(after(Next::End(End::Reboot, Some(3)), 39_800), "rebooting in 40s, boot loop 3");
        assert_eq!(
            after(Next::End(End::Reboot, None), 750),
            "rebooting in 1s, boot loops are not counted here"
        );
        assert_eq!(after(Next::End(End::PowerOff, None), 10_000), "powering off in 10s");
    }
}
