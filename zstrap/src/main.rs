//! The command `zstrap`: reads the command line, runs one command, and turns its result into an exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Data goes to stdout, talk to stderr.

use std::process::ExitCode;

use clap::Parser;
use zstrap::cli::{Cli, UsageError, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    zstrap::cli::start_log(cli.verbose);
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("zstrap: {error:#}");
            if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::from(1) }
        }
    }
}
