//! One big file: fetched, verified and written by our init, against the peer's wget that throws it away.
//!
//! In: the site and the server of the other boots. Out: a row. Failure: a boot that does not end as it should.

use anyhow::{Context, Result};
use serde_json::json;
use zstrap_qemu_tests::site::Tree;

use crate::boot::{Clock, Setup, files, noise, run};
use crate::report::{Budget, Report, Row, Unit, median};
use crate::say;

/// The bundle and its config.
const BUNDLE: &str = "bench-big";

/// The file.
const BYTES: usize = 300_000_000;
const PATH: &str = "srv/big";

/// Memory of both machines in MiB.
const MEMORY: u32 = 1024;

/// Boots of each.
const BOOTS: usize = 3;

/// The design asks for 0.9 of the peer's speed.
const MOST: f64 = 1.0 / 0.9;

/// Measures the big file.
pub fn measure(setup: &mut Setup, report: &mut Report) -> Result<()> {
    say(&format!("publishing a file of 300 MB, booting {BOOTS} times each to fetch it"));
    publish(setup)?;
    let (blob, _) = setup.scene.blob(BUNDLE, &format!("./{PATH}"))?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..BOOTS {
        let stamps = run(setup.scene.machine()?.memory_mib(MEMORY), Clock::Real)?;
        ours.push(stamps.between("zstrap: root: ready ", "zstrap: fetch: done ")?);
        let machine = setup.peer(&format!("bench=download blob={blob}"))?;
        let stamps = run(machine.memory_mib(MEMORY), Clock::Real)?;
        peer.push(stamps.between("bench: download-begin", "bench: download-end")?);
    }
    report.note(
        "300 MB: the emulated processor has no SHA instructions, and the peer hashes and keeps nothing",
    );
    let what = "300 MB: fetch, verify, write; peer: wget to /dev/null".to_owned();
    let figure = median(ours).context("no boots to take a median of")?;
    report.row(Row { what, unit: Unit::Seconds, figure, peer: median(peer), budget: Budget::Ratio(MOST) });
    Ok(())
}

fn publish(setup: &mut Setup) -> Result<()> {
    let tree = Tree::payload()?;
    for (path, bytes, mode) in files()?.iter().filter(|(path, ..)| !path.starts_with("srv/")) {
        tree.file(path, bytes, *mode)?;
    }
    tree.file(PATH, &noise(4, BYTES), 0o644)?;
    setup.scene.publish(&tree, BUNDLE)?;
    setup.scene.add_config(BUNDLE, &json!({ "version": 1, "bundle": BUNDLE, "exec": ["/sbin/init"] }))
}
