//! How far the boot is: what the stages say of themselves, for the screen.
//!
//! In: calls of the stages and of `fail`. Out: a [`Status`] that the screen draws. Failure: none; a boot of which
//! nothing is told goes on as it would.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::since_boot;
use crate::fail::Stage;

/// The stages in their order, by the words that begin their log lines.
pub const STAGES: [&str; 8] = ["early", "identity", "network", "config", "list", "root", "fetch", "handoff"];

/// What is known of this boot.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Of the config; empty until it is there, or when it has none.
    pub description: String,
    /// What this machine is to be, in a few words.
    pub identity: String,
    /// Which attempt this is, the first being 1.
    pub attempt: u32,
    /// The stage that runs, by its place in [`STAGES`], and since when.
    pub running: usize,
    /// When it began.
    pub since: Duration,
    /// How long each stage before it took.
    pub took: [Option<Duration>; STAGES.len()],
    /// Names and values, such as `address`, in the order in which they became known.
    pub facts: Vec<(&'static str, String)>,
    /// Why the attempt has ended.
    pub failure: Option<Trouble>,
    /// What comes after that, and when.
    pub next: Option<(&'static str, Duration)>,
    /// Bytes to write, bytes written, bytes that came over the network.
    pub bytes: Bytes,
}

/// How much of the files is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Of all files.
    pub total: u64,
    /// Written and verified so far.
    pub done: u64,
    /// Received for them.
    pub received: u64,
}

/// Why an attempt has ended, in words for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// What the page of errors calls it.
    pub code: String,
    /// What happened.
    pub sentence: String,
    /// What to try.
    pub advice: String,
}

static STATUS: Mutex<Status> = Mutex::new(Status {
    description: String::new(),
    identity: String::new(),
    attempt: 1,
    running: 0,
    since: Duration::ZERO,
    took: [None; STAGES.len()],
    facts: Vec::new(),
    failure: None,
    next: None,
    bytes: Bytes { total: 0, done: 0, received: 0 },
});
/// Added to for each piece of each file, so without a lock.
static DONE: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);

fn status() -> MutexGuard<'static, Status> {
    STATUS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The status of this moment.
#[must_use]
pub fn current() -> Status {
    let mut status = status().clone();
    status.bytes.done = DONE.load(Ordering::Relaxed);
    status.bytes.received = RECEIVED.load(Ordering::Relaxed);
    status
}

/// A stage begins. The first one of an attempt forgets the attempt before.
pub fn stage_begins(stage: Stage) {
    status().begin(stage.as_str(), since_boot());
}

/// Who this machine is, and what it is to be.
pub fn identified(text: String) {
    status().identity = text;
}

/// What the config says of itself.
pub fn described(text: &str) {
    text.clone_into(&mut status().description);
}

/// A fact of this boot, such as its address.
pub fn fact(name: &'static str, value: String) {
    let mut status = status();
    match status.facts.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => status.facts.push((name, value)),
    }
}

/// So many bytes of files are to be written.
pub fn expect_bytes(total: u64) {
    status().bytes.total = total;
    DONE.store(0, Ordering::Relaxed);
    RECEIVED.store(0, Ordering::Relaxed);
}

/// So many bytes were written.
pub fn wrote(bytes: u64) {
    DONE.fetch_add(bytes, Ordering::Relaxed);
}

/// So many bytes were thrown away again.
pub fn took_back(bytes: u64) {
    let less = |done: u64| Some(done.saturating_sub(bytes));
    // Never refused: there is always an answer.
    let _ = DONE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

/// So many bytes came over the network.
pub fn received(bytes: u64) {
    RECEIVED.fetch_add(bytes, Ordering::Relaxed);
}

/// The attempt has ended.
pub fn failed(code: &str, sentence: String, advice: &str) {
    let trouble = Trouble { code: code.to_owned(), sentence, advice: advice.to_owned() };
    status().failure = Some(trouble);
}

/// What comes next, such as `reboot`, and after how long.
pub fn next(what: &'static str, after: Duration) {
    status().next = Some((what, since_boot() + after));
}

impl Status {
    fn begin(&mut self, stage: &str, now: Duration) {
        let Some(place) = STAGES.iter().position(|known| *known == stage) else { return };
        if self.failure.take().is_some() {
            let early = self.took[0];
            let (attempt, identity) = (self.attempt + 1, std::mem::take(&mut self.identity));
            *self = Self { attempt, identity, running: place, since: now, ..Self::default() };
            self.took[0] = early;
            return;
        }
        if place > self.running {
            self.took[self.running] = Some(now.saturating_sub(self.since));
            (self.running, self.since) = (place, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_take_the_time_until_the_next_begins() {
        let seconds = Duration::from_secs;
        let mut status = Status { attempt: 1, ..Status::default() };
        status.begin("identity", seconds(2));
        status.begin("network", seconds(3));
        // Said again by a step that is tried twice.
        status.begin("network", seconds(4));
        status.begin("config", seconds(9));
        assert_eq!(status.took[..4], [Some(seconds(2)), Some(seconds(1)), Some(seconds(6)), None]);
        assert_eq!((status.running, status.since), (3, seconds(9)));
    }

    #[test]
    fn another_attempt_begins_with_nothing_done() {
        let mut status = Status { attempt: 1, identity: "farmer-7".to_owned(), ..Status::default() };
        status.begin("identity", Duration::from_secs(2));
        status.begin("network", Duration::from_secs(3));
        status.failure = Some(Trouble::default());
        status.next = Some(("next try", Duration::from_secs(60)));
        status.begin("identity", Duration::from_secs(60));
        assert_eq!((status.attempt, status.running, status.identity.as_str()), (2, 1, "farmer-7"));
        assert_eq!(status.took.iter().flatten().count(), 1);
        assert!(status.failure.is_none() && status.next.is_none());
    }
}
