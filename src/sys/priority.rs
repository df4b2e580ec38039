//! The scheduler: who runs first.

use std::io;

use nix::libc;

/// Puts this thread before every ordinary one. Threads and children that it starts are ordinary again. sched(7)
///
/// # Errors
/// The kernel's refusal.
pub fn run_first() -> io::Result<()> {
    // The kernel's sched_param is this one number.
    let lowest: libc::c_int = 1;
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel only reads the number, which outlives the call. musl's own wrapper refuses whatever is asked.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const lowest) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
