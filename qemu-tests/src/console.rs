//! What a machine printed: lines with the time they arrived, and waiting for one of them.
//!
//! In: the bytes of a serial port. Out: clean lines (no carriage returns, no terminal control sequences) that
//! several threads may search. Failure: waiting ends when the deadline passes or the machine closes its console.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A line is cut here: a machine gone wild must not fill our memory with one line.
const LONGEST_LINE: usize = 16 * 1024;

/// One line of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 0.
    pub index: usize,
    /// When its end arrived, since the machine was started.
    pub at: Duration,
    /// The text without its line end.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:9.3} | {}", self.at.as_secs_f64(), self.text)
    }
}

/// What to look for in a line: pieces of text in their order, written `first*second`.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<String>);

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }
}

impl Pattern {
    /// Whether `text` contains all pieces, one after the other.
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text;
        self.0.iter().all(|piece| match rest.split_once(piece.as_str()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("*"))
    }
}

/// Why a wait found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The machine closed its console before such a line came.
    Closed,
    /// The deadline passed.
    Deadline,
}

/// The lines of one machine, growing while it runs.
pub struct Console {
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    writers: usize,
    closed: bool,
}

impl Console {
    /// An empty console with its clock at zero. It closes when the last of `writers` has closed it.
    pub fn new(writers: usize) -> Self {
        let state = Mutex::new(State { writers, closed: writers == 0, ..State::default() });
        Self { started: Instant::now(), state, changed: Condvar::new() }
    }

    /// Adds one line.
    pub fn push(&self, text: String) {
        let mut state = self.lock();
        let index = state.lines.len();
        state.lines.push(Line { index, at: self.started.elapsed(), text });
        self.changed.notify_all();
    }

    /// One writer is done.
    pub fn close(&self) {
        let mut state = self.lock();
        state.writers = state.writers.saturating_sub(1);
        state.closed = state.writers == 0;
        self.changed.notify_all();
    }

    /// The first line from number `from` on that matches, as soon as it is there.
    pub fn wait(&self, pattern: &Pattern, from: usize, limit: Duration) -> Result<Line, Missed> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        let mut next = from;
        loop {
            let fresh = state.lines.get(next..).unwrap_or_default();
            if let Some(line) = fresh.iter().find(|line| pattern.matches(&line.text)) {
                return Ok(line.clone());
            }
            next = next.max(state.lines.len());
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return Err(if state.closed { Missed::Closed } else { Missed::Deadline });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.lock().lines.clone()
    }

    /// The last `count` lines as text, one below the other.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        let skipped = lines.len().saturating_sub(count);
        lines.iter().skip(skipped).map(|line| format!("{line}\n")).collect()
    }

    /// Time since the machine was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a serial port to clean lines: a small machine that knows ECMA-48 control sequences.
#[derive(Default)]
pub struct Cleaner {
    line: Vec<u8>,
    mode: Mode,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// Inside `ESC [ … FINAL`.
    Sequence,
    /// Inside `ESC ] … BEL`, a title or the like.
    Title,
}

impl Cleaner {
    /// Feeds bytes; returns the lines that they completed.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        bytes.iter().filter_map(|&byte| self.step(byte)).collect()
    }

    /// The unfinished line at the end, when there is one.
    pub fn finish(&mut self) -> Option<String> {
        if self.line.is_empty() { None } else { Some(self.take()) }
    }

    fn step(&mut self, byte: u8) -> Option<String> {
        self.mode = match (self.mode, byte) {
            (_, 0x1b) => Mode::Escape,
            (_, b'\n') => {
                self.mode = Mode::Text;
                return Some(self.take());
            }
            (Mode::Escape, b'[') => Mode::Sequence,
            (Mode::Escape, b']') => Mode::Title,
            (Mode::Sequence, 0x20..=0x3f) => Mode::Sequence,
            (Mode::Title, 0x20..=0xff) => Mode::Title,
            (Mode::Text, b'\t' | 0x20..=0x7e | 0x80..=0xff) => {
                self.line.push(byte);
                Mode::Text
            }
            // Carriage returns, other control bytes, and the last byte of a sequence.
            _ => Mode::Text,
        };
        if self.line.len() >= LONGEST_LINE { Some(self.take()) } else { None }
    }

    fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    fn clean(bytes: &[u8]) -> Vec<String> {
        let mut cleaner = Cleaner::default();
        let mut lines = cleaner.feed(bytes);
        lines.extend(cleaner.finish());
        lines
    }

    #[test]
    fn cleaner_drops_carriage_returns_and_control_sequences() {
        let bytes = b"\x1b[2J\x1b[01;31mred\x1b[0m text\r\n\x1b]0;title\x07tab\tkept\x1bc\r\nlast";
        assert_eq!(clean(bytes), ["red text", "tab\tkept", "last"]);
    }

    #[test]
    fn cleaner_keeps_sequences_that_arrive_in_pieces_together() {
        let mut cleaner = Cleaner::default();
        let mut lines = Vec::new();
        for byte in b"a\x1b[1mb\xc3\xa9\n" {
            lines.extend(cleaner.feed(&[*byte]));
        }
        assert_eq!(lines, ["abé"]);
    }

    #[test]
    fn cleaner_cuts_a_line_without_end() {
        let lines = clean(&vec![b'x'; LONGEST_LINE + 5]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE, 5]);
    }

    #[test]
    fn pattern_wants_its_pieces_in_order() {
        let pattern = Pattern::from("list: refused*reason=expired");
        assert!(pattern.matches("[   4.004] list: refused reason=expired expires=2026-01-04"));
        assert!(!pattern.matches("reason=expired list: refused"));
        assert!(!pattern.matches("list: refused reason=wrong-kind"));
    }

    #[test]
    fn wait_finds_a_line_that_comes_later() {
        let console = Arc::new(Console::new(1));
        console.push("early: ready".into());
        let writer = Arc::clone(&console);
        let thread = std::thread::spawn(move || writer.push("list: ok".into()));
        let line = console.wait(&"list: ok".into(), 0, Duration::from_secs(10)).unwrap();
        assert_eq!(line.index, 1);
        thread.join().unwrap();
    }

    #[test]
    fn wait_says_whether_time_or_the_console_ended() {
        let console = Console::new(1);
        console.push("early: ready".into());
        let short = Duration::from_millis(10);
        assert_eq!(console.wait(&"early".into(), 1, short), Err(Missed::Deadline));
        console.close();
        assert_eq!(console.wait(&"never".into(), 0, Duration::from_secs(60)), Err(Missed::Closed));
        assert_eq!(console.wait(&"early".into(), 0, short).map(|line| line.index), Ok(0));
    }
}
