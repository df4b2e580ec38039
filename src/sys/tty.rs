//! What standard interfaces to terminals lack.
//!
//! In: an open terminal. Out: its numbers. Failure: the kernel's refusal, for what is no terminal.

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `TIOCOUTQ`, tty_ioctl(2); the same number on both architectures.
const TIOCOUTQ: Opcode = 0x5411;

/// `TIOCGDEV`, the same on both, too.
const TIOCGDEV: Opcode = 0x8004_5432;

/// Which terminal it is, also where it was opened by another name, such as `/dev/console`.
///
/// # Errors
/// The kernel's refusal.
pub fn number(terminal: impl AsFd) -> io::Result<c_uint> {
    // SAFETY: TIOCGDEV writes one unsigned int, and nothing else, through its argument.
    Ok(unsafe { ioctl(terminal, Getter::<TIOCGDEV, c_uint>::new()) }?)
}

/// Bytes that were written and are not on the line yet.
///
/// # Errors
/// The kernel's refusal.
pub fn unsent(terminal: impl AsFd) -> io::Result<usize> {
    // SAFETY: TIOCOUTQ writes one int, and nothing else, through its argument.
    let count = unsafe { ioctl(terminal, Getter::<TIOCOUTQ, c_int>::new()) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}
