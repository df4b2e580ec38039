//! The command `zstrap`: reads the command line, runs one command, and turns its result into an exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 141 when the reader of stdout went away. Data goes to stdout,
//! talk to stderr.

use std::process::ExitCode;

use clap::Parser;
use zstrap::cli::{Cli, UsageError, run};
use zstrap::output::ClosedOutput;

/// What shells report of a program that SIGPIPE ended. Not 0: a check that was cut short has found nothing.
const PIPE_CLOSED: u8 = 128 + 13;

fn main() -> ExitCode {
    let cli = Cli::parse();
    zstrap::cli::start_log(cli.verbose);
    match run(cli) {
        Ok(code) => code,
        Err(error) if error.is::<ClosedOutput>() => ExitCode::from(PIPE_CLOSED),
        Err(error) => {
            eprintln!("zstrap: {error:#}");
            if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::from(1) }
        }
    }
}
