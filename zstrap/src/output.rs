//! What commands print for other programs.
//!
//! In: text. Out: the same text on stdout, at once. Failure: [`ClosedOutput`] when the reader has gone, as in
//! `zstrap verify ... | head -1`; an error that names stdout otherwise.

use std::fmt;
use std::io::{ErrorKind, Write};

use anyhow::Context;

/// Nobody reads what is printed any more. No mistake of anyone's: the command ends without a word.
#[derive(Debug)]
pub struct ClosedOutput;

impl fmt::Display for ClosedOutput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("stdout was closed by its reader")
    }
}

impl std::error::Error for ClosedOutput {}

/// Prints a line.
pub(crate) fn line(line: impl fmt::Display) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints text that ends its own lines.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ClosedOutput.into()),
        written => written.context("writing to stdout"),
    }
}
