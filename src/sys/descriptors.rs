//! Descriptors 0 to 2, before anything else.
//!
//! In: what the kernel gave to its first program: nothing, where it found no `/dev/console`. Out: three open
//! descriptors, on `/dev/null`. The standard library wants them before `main` and ends the program where it cannot have
//! them, which as PID 1 would be the end of the machine. So this runs before the standard library does, and
//! makes the device where the initramfs has none. Failure: none that could be told anyone.

#![cfg(target_env = "musl")]

use rustix::fs::{CWD, FileType, Mode, OFlags};

const NULL: &str = "/dev/null";

// SAFETY: the C library calls what stands in this section, as functions without a result, once, before `main` and
// while there is one thread. What is called needs nothing of the standard library's runtime, and ignores the
// arguments that the C library may pass.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = fill;

extern "C" fn fill() {
    // A descriptor is the lowest number that is free: once it is not one of the three, all of them are taken.
    for _ in 0..3 {
        let Some(null) = open_null() else { return };
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return;
        }
        std::mem::forget(null);
    }
}

fn open_null() -> Option<std::os::fd::OwnedFd> {
    let open = || rustix::fs::open(NULL, OFlags::RDWR, Mode::empty());
    let opened = open().or_else(|error| {
        // Only the first program of an initramfs may lay out /dev.
        if std::process::id() == 1 {
            let _ = rustix::fs::mkdir("/dev", Mode::from(0o755));
            rustix::fs::mknodat(
                CWD,
                NULL,
                FileType::CharacterDevice,
                Mode::from(0o666),
                rustix::fs::makedev(1, 3),
            )?;
            return open();
        }
        Err(error)
    });
    opened.ok()
}
