//! The one place where errors end: what happened, what did not happen, what to try, and what comes next.
//!
//! In: the [`Failure`] of a stage. Out: lines on every console, then another try after a pause, and when all
//! tries are used, a reboot. Nothing here can fail in a way that leaves the machine hanging.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use zstrap_formats::cmdline::Cmdline;

use crate::retry::Retry;
use crate::sys::End;

/// Boot attempts before the reboot, unless the kernel command line says otherwise.
const TRIES: u32 = 6;
const MAX_TRIES: u32 = 100;
/// Seconds for a person to read the reason before the screen goes dark.
const REBOOT_AFTER: u64 = 10;
const MAX_REBOOT_AFTER: u64 = 3600;

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

/// An error of a stage, with the words that the log and a person need.
pub trait Refusal: Error + 'static {
    /// One stable word, in kebab case.
    fn reason(&self) -> &'static str;

    /// What the reader can do about it.
    fn advice(&self) -> String;

    /// Whether another attempt would find the very same, so that only a reboot helps.
    fn is_final(&self) -> bool {
        false
    }
}

/// Why a boot attempt ended.
#[derive(Debug)]
pub struct Failure {
    stage: Stage,
    reason: &'static str,
    advice: String,
    error: Box<dyn Error>,
    is_final: bool,
}

impl Failure {
    /// The failure of a stage.
    pub fn of(stage: Stage, error: impl Refusal) -> Self {
        Self {
            stage,
            reason: error.reason(),
            advice: error.advice(),
            is_final: error.is_final(),
            error: Box::new(error),
        }
    }

    /// The same failure, after which only a reboot helps.
    #[must_use]
    pub fn and_final(self) -> Self {
        Self { is_final: true, ..self }
    }

    /// Whether only a reboot helps.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The word for the log.
    #[cfg(test)]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// Says all of it, one fact a line.
    pub fn explain(&self) {
        let stage = self.stage.as_str();
        log::error!(target: stage, "refused reason={}", self.reason);
        log::error!(target: "fail", "stage={stage} reason={}", self.reason);
        log::error!(target: "fail", "because: {}", Chain(&*self.error));
        log::error!(target: "fail", "not done: {}", self.stage.not_done());
        log::error!(target: "fail", "try: {}", self.advice);
    }
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
    /// and ends this boot.
    pub fn wait_or_reboot(&self, done: u32, asked: Duration) {
        match self.retry.pause_after(done, random()) {
            Some(pause) => {
                let pause = pause.max(asked);
                let retries = self.retry.tries - 1;
                log::error!(target: "fail", "retry {done} of {retries} in {:.1}s", pause.as_secs_f64());
                std::thread::sleep(pause);
            }
            None => self.reboot(),
        }
    }

    /// Leaves a person time to read, then ends this boot.
    pub fn reboot(&self) -> ! {
        log::error!(target: "fail", "rebooting in {}s", self.reboot_after.as_secs());
        std::thread::sleep(self.reboot_after);
        reboot()
    }
}

/// Reboots; if even that is refused, tries again for ever, slowly, saying so each time.
pub fn reboot() -> ! {
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
        fn reason(&self) -> &'static str {
            "io"
        }

        fn advice(&self) -> String {
            "look at the cable".to_owned()
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let error = Sample { what: "the slot", source: std::io::Error::other("no medium") };
        let failure = Failure::of(Stage::Identity, error);
        assert_eq!(Chain(&*failure.error).to_string(), "reading the slot: no medium");
        assert_eq!(failure.reason(), "io");
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
}
