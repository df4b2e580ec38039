//! What the kernel log of a machine says about when things happened in it.
//!
//! In: the console of a machine whose program printed the log's stamps as `bench-log: [ SECONDS] TEXT`. Out: the
//! lines with their times, all of one clock: the kernel's. Failure: a stamp that is not there is named.

use anyhow::{Context, Result};
use zstrap_qemu_tests::vm::Vm;

/// What the program puts in front of each line of the kernel log.
const PREFIX: &str = "bench-log: [";

/// The lines of a kernel log and when they were written, in seconds since the kernel started.
pub struct Stamps(Vec<(f64, String)>);

impl Stamps {
    /// The stamps that a machine printed before it ended.
    pub fn of(vm: &Vm) -> Self {
        Self(vm.console().iter().filter_map(|line| parse(&line.text)).collect())
    }

    /// When the first line that contains `text` was written.
    pub fn at(&self, text: &str) -> Result<f64> {
        let found = self.0.iter().find(|(_, line)| line.contains(text));
        found.map(|(at, _)| *at).with_context(|| format!("no line `{text}` in the kernel log"))
    }

    /// Seconds from the line with `from` to the line with `to`.
    pub fn between(&self, from: &str, to: &str) -> Result<f64> {
        Ok(self.at(to)? - self.at(from)?)
    }

    /// All lines that contain `text`.
    pub fn lines(&self, text: &str) -> impl Iterator<Item = &str> {
        let lines = self.0.iter().map(|(_, line)| line.as_str());
        lines.filter(move |line| line.contains(text))
    }
}

/// A stamp from a line of the console.
fn parse(line: &str) -> Option<(f64, String)> {
    let (seconds, text) = line.strip_prefix(PREFIX)?.split_once("] ")?;
    Some((seconds.trim_start().parse().ok()?, text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_stamp_of_a_line_and_no_other_lines() {
        let line = "bench-log: [    4.115402] zstrap: early: ready modules=9";
        assert_eq!(parse(line), Some((4.115_402, "zstrap: early: ready modules=9".to_owned())));
        assert_eq!(parse("[    4.115402] zstrap: early: ready"), None);
        assert_eq!(parse("bench-log: [ soon] zstrap: early: ready"), None);
    }

    #[test]
    fn names_the_line_that_is_missing() {
        let stamps = Stamps(vec![(1.0, "Run /init as init process".to_owned())]);
        let missing = stamps.between("Run /init", "bench: program").unwrap_err().to_string();
        assert_eq!(missing, "no line `bench: program` in the kernel log");
    }
}
