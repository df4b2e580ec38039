//! Where the time of a boot goes, step by step.
//!
//! In: the stamps of boots. Out: a table with the median of each step. Failure: a step without its stamp is named.

use anyhow::{Context, Result};

use crate::report::{Table, median};
use crate::stamps::Stamps;

/// What the kernel logs right before it runs `/init`.
pub const BEGIN: &str = "Run /init as init process";

/// What the final program logs first.
pub const END: &str = "bench: program";

/// The steps of our init, each with the line that ends it.
pub const OURS: [(&str, &str); 10] = [
    ("early: mounts, modules", "zstrap: early: ready "),
    ("identity", "zstrap: identity: ok "),
    ("network: lease", "zstrap: network: lease "),
    ("network: server answers", "zstrap: network: online "),
    ("config", "zstrap: config: ok "),
    ("list", "zstrap: list: ok "),
    ("root", "zstrap: root: ready "),
    ("fetch: all files, verified", "zstrap: fetch: done "),
    ("handoff: until its line", "zstrap: handoff: "),
    ("handoff: until the program", END),
];

/// The steps of the script.
pub const PEER: [(&str, &str); 7] = [
    ("mounts, insmod", "bench: modules"),
    ("udhcpc", "bench: lease"),
    ("list", "bench: list"),
    ("wget of all files", "bench: fetched"),
    ("md5sum", "bench: md5"),
    ("sha256sum", "bench: sha256"),
    ("switch_root, until the program", END),
];

/// From `/init` to the program.
pub fn total(stamps: &Stamps) -> Result<f64> {
    stamps.between(BEGIN, END)
}

/// The table of `steps`: one column of medians for each set of boots.
pub fn table(title: &str, steps: &[(&str, &str)], plain: &[Stamps], counted: &[Stamps]) -> Result<Table> {
    let mut lines = Vec::new();
    let mut from = BEGIN;
    for (step, to) in steps {
        lines.push(vec![(*step).to_owned(), shown(plain, from, to)?, shown(counted, from, to)?]);
        from = to;
    }
    lines.push(vec!["all".to_owned(), shown(plain, BEGIN, END)?, shown(counted, BEGIN, END)?]);
    Ok(Table { title: title.to_owned(), head: vec!["step", "as it runs", "counted"], lines })
}

fn shown(boots: &[Stamps], from: &str, to: &str) -> Result<String> {
    let times = boots.iter().map(|stamps| stamps.between(from, to)).collect::<Result<Vec<_>>>()?;
    let middle = median(times).context("no boots to take a median of")?;
    Ok(format!("{:.1} ms", middle * 1e3))
}
