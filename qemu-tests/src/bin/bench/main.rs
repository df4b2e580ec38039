//! `make bench`: figures of this machine, each beside the figure of a peer and the budget it is held to.
//!
//! In: the artefacts of `make build`, busybox of the demo's tree, QEMU, coreutils. Out: tables on standard
//! output, talk on standard error. Failure: whatever keeps a figure from being measured ends the run with exit
//! code 1; a budget that is exceeded does not, it is printed: a benchmark is no test.

mod boot;
mod disk;
mod download;
mod host;
mod network;
mod peer;
mod publish;
mod report;
mod sizes;
mod stages;
mod stamps;

use std::process::ExitCode;

use anyhow::Result;

use report::Report;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A part of all that is measured.
type Measure = fn(&mut Report) -> Result<()>;

fn run() -> Result<()> {
    let mut report = Report::default();
    // `bench network`: only what takes lines and servers that are bad on purpose. `bench disk`: nodes that have one.
    // `bench sizes`: no machine at all.
    let measure = match std::env::args().nth(1).as_deref() {
        Some("network") => Some(network::measure as Measure),
        Some("disk") => Some(disk::measure as Measure),
        Some("sizes") => Some(sizes::measure as Measure),
        _ => None,
    };
    if let Some(measure) = measure {
        measure(&mut report)?;
        print!("{report}");
        return Ok(());
    }
    let before = host::load()?;
    let mut setup = boot::Setup::make()?;
    sizes::measure(&mut report)?;
    publish::measure(&mut report)?;
    boot::measure(&setup, &mut report)?;
    download::measure(&mut setup, &mut report)?;
    network::measure(&mut report)?;
    disk::measure(&mut report)?;
    report.note(&host::note(&before)?);
    print!("{report}");
    Ok(())
}

/// Talk: what is being measured now.
fn say(what: &str) {
    eprintln!("bench: {what}");
}
