//! How far a long step is: a bar on a terminal, one plain line at the end without.
//!
//! In: the bytes to do, then the bytes done, from any thread. Out: talk on stderr. Failure: none.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step in progress.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    done: AtomicU64,
    started: Instant,
}

impl Progress {
    /// Begins the step `what` over `total` bytes.
    #[must_use]
    pub fn bytes(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total));
        Progress { bar, what, done: AtomicU64::new(0), started: Instant::now() }
    }

    /// Counts bytes as done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.pass(bytes);
    }

    /// Passes over bytes that need no work: the bar moves on, but they do not count as done.
    pub fn pass(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Ends the step and says how long it took.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        log::info!("{}", summary(self.what, self.done.into_inner(), seconds));
    }
}

fn summary(what: &str, done: u64, seconds: f64) -> String {
    match done {
        0 => format!("{what}: nothing new"),
        done => format!("{what}: {done} bytes in {seconds:.2}s"),
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("a constant that a test renders");
    let bar = ProgressBar::new(total).with_style(style).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_counts() {
        let bar = bar("hashing", 10);
        bar.inc(4);
        assert_eq!(bar.position(), 4);
    }

    #[test]
    fn a_step_without_work_took_no_bytes_and_a_tenth_of_a_second() {
        assert_eq!(summary("compressing", 0, 0.1), "compressing: nothing new");
        assert_eq!(summary("storing", 6, 0.126), "storing: 6 bytes in 0.13s");
    }

    #[test]
    fn what_was_passed_over_counted_as_done() {
        let progress = Progress::bytes("compressing", 10);
        progress.add(4);
        progress.pass(6);
        assert_eq!(progress.done.into_inner(), 4);
    }
}
