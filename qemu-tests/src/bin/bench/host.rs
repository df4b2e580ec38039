//! How busy the machine is that measures: times as they run are worth as much as it is idle.
//!
//! In: `/proc/loadavg` (proc(5)). Out: a sentence below the figures. Failure: a load that can't be read.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context, Result};

/// Runnable threads of the last minute.
pub struct Load(f64);

/// Reads the load. Before the benchmark it is that of others; afterwards, ours is part of it.
pub fn load() -> Result<Load> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.map(Load).with_context(|| format!("no load in `{}`", text.trim_end()))
}

/// What to think of the times.
pub fn note(before: &Load) -> Result<String> {
    let cores = available_parallelism().context("counting the cores")?.get();
    Ok(judged(before.0, load()?.0, cores))
}

fn judged(before: f64, after: f64, cores: usize) -> String {
    let facts = format!("load of the host: {before:.1} before, {after:.1} after, on {cores} cores");
    // Others that take half of a core stretch what takes a whole one.
    match before > 0.5 {
        true => format!("{facts}. Others were at work: times as they run are stretched, each differently"),
        false => facts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_host_is_called_busy() {
        assert_eq!(judged(0.1, 2.0, 2), "load of the host: 0.1 before, 2.0 after, on 2 cores");
        assert!(judged(3.0, 5.0, 2).contains("Others were at work"));
    }
}
