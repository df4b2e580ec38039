//! What standard interfaces to terminals lack.
//!
//! In: an open terminal. Out: its numbers. Failure: the kernel's refusal, for what is no terminal.

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `TIOCOUTQ`, tty_ioctl(2); the same number on both architectures.
const TIOCOUTQ: Opcode = 0x5411;

/// Bytes that were written and are not on the line yet.
///
/// # Errors
/// The kernel's refusal.
pub fn unsent(terminal: impl AsFd) -> io::Result<usize> {
    // SAFETY: TIOCOUTQ writes one int, and nothing else, through its argument.
    let count = unsafe { ioctl(terminal, Getter::<TIOCOUTQ, c_int>::new()) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}
