//! The command line: every command, its arguments and its help.
//!
//! In: arguments. Out: a call of the command's module and its exit code. Failure: clap ends wrong usage with
//! code 2; [`UsageError`] marks what only the command itself can tell.

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use simplelog::{ColorChoice, ConfigBuilder, LevelFilter, TermLogger, TerminalMode};

use crate::{boot, config, image, key, promote, publish, serve, sign, verify};

/// Starts machines from nothing but a signed list of files.
#[derive(Debug, Parser)]
#[command(name = "zstrap", version, max_term_width = 80, arg_required_else_help = true)]
pub struct Cli {
    /// Says more on stderr
    #[arg(long, short, global = true, display_order = 900)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes keys that sign lists and configs
    #[command(subcommand)]
    Key(key::Command),
    /// Publishes a folder as a bundle: blobs, a signed list, then `latest`
    Publish(publish::Arguments),
    /// Adds a signature to a list or config, where more than one key must sign
    Sign(sign::Arguments),
    /// Signs a bundle of the site under another name: what was tried becomes stable
    Promote(promote::Arguments),
    /// Checks a signed list or config, who has signed it, and a folder against it
    Verify(verify::Arguments),
    /// Checks and publishes what tells a node what to become
    #[command(subcommand)]
    Config(config::Command),
    /// Makes images that boot machines
    #[command(subcommand)]
    Image(image::Command),
    /// Serves a site over HTTP
    Serve(serve::Arguments),
    /// Boots an image in QEMU, with its console on this terminal
    Boot(boot::Arguments),
}

/// Wrong usage that clap cannot see; ends with code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Log lines go to stderr; `verbose` shows debug lines, too.
pub fn start_log(verbose: bool) {
    let level = if verbose { LevelFilter::Debug } else { LevelFilter::Info };
    let mut config = ConfigBuilder::new();
    config
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .add_filter_allow_str("zstrap");
    // The logger's own automatic choice colours files and pipes, too.
    let colours = if std::io::stderr().is_terminal() { ColorChoice::Auto } else { ColorChoice::Never };
    // A second call, as in tests, finds a logger in place and changes nothing.
    let _already_set = TermLogger::init(level, config.build(), TerminalMode::Stderr, colours);
}

/// Runs one command.
///
/// # Errors
/// What the command reports; the chain is printed once, by the caller.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Key(command) => key::run(&command)?,
        Command::Publish(arguments) => publish::run(&arguments)?,
        Command::Sign(arguments) => sign::run(&arguments)?,
        Command::Promote(arguments) => promote::run(&arguments)?,
        Command::Verify(arguments) => verify::run(&arguments)?,
        Command::Config(command) => config::run(&command)?,
        Command::Image(command) => image::run(&command)?,
        Command::Serve(arguments) => serve::run(&arguments)?,
        Command::Boot(arguments) => return boot::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn check_width(command: &mut clap::Command) {
        for help in [command.render_help(), command.render_long_help()] {
            for line in help.to_string().lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
        command.get_subcommands_mut().for_each(check_width);
    }

    #[test]
    fn the_help_of_every_command_fits_80_columns() {
        let mut command = Cli::command();
        command.build();
        check_width(&mut command);
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
