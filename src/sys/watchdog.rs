//! The watchdog device of the kernel (Documentation/watchdog/watchdog-api.rst).
//!
//! In: a path such as `/dev/watchdog0`. Out: a device that runs from the moment it is open. Failure: the kernel's
//! refusal; one that is open already is busy.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

/// `WDIOC_GETSUPPORT`.
const GET_SUPPORT: Opcode = opcode::read::<Info>(b'W', 0);
/// `WDIOF_MAGICCLOSE`: it goes on when it is closed, unless the last byte was the magic one. All others stop.
pub const MAGIC_CLOSE: u32 = 0x100;
/// `WDIOC_SETTIMEOUT`: takes seconds, and gives those that the hardware makes of them.
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);
/// Closing after this byte stops the watchdog. Any other byte feeds it, and takes this one back.
const MAGIC: &[u8] = b"V";
const FOOD: &[u8] = b"\n";

/// `struct watchdog_info`.
#[repr(C)]
struct Info {
    options: u32,
    _firmware: u32,
    _identity: [u8; 32],
}

/// What a watchdog takes.
pub trait Device: Send {
    /// What its driver can do: `WDIOF_…`.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn options(&self) -> io::Result<u32>;

    /// Sets after how many seconds without food it resets the machine; those that it will really be are the answer.
    ///
    /// # Errors
    /// The kernel's refusal; the old time holds.
    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32>;

    /// Puts the reset off by its whole time.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn feed(&mut self) -> io::Result<()>;

    /// Stops it, if its driver lets it be stopped. Dropped without this, it goes on, and nobody feeds it.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn stop(self: Box<Self>) -> io::Result<()>;
}

struct Hardware(File);

/// Opens a watchdog, which starts it. Programs that are run do not inherit it.
///
/// # Errors
/// The kernel's refusal.
pub fn open(path: &str) -> io::Result<Box<dyn Device>> {
    Ok(Box::new(Hardware(OpenOptions::new().write(true).open(path)?)))
}

impl Device for Hardware {
    fn options(&self) -> io::Result<u32> {
        // SAFETY: this number is that of WDIOC_GETSUPPORT, which fills in a watchdog_info.
        let request = unsafe { Getter::<GET_SUPPORT, Info>::new() };
        // SAFETY: as above.
        Ok(unsafe { ioctl(&self.0, request) }?.options)
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
        let mut seconds = c_int::try_from(seconds).unwrap_or(c_int::MAX);
        // SAFETY: this number is that of WDIOC_SETTIMEOUT, which reads and writes one C int.
        let request = unsafe { Updater::<SET_TIMEOUT, c_int>::new(&mut seconds) };
        // SAFETY: as above; the int outlives the call.
        unsafe { ioctl(&self.0, request) }?;
        u32::try_from(seconds).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn feed(&mut self) -> io::Result<()> {
        self.0.write_all(FOOD)
    }

    fn stop(mut self: Box<Self>) -> io::Result<()> {
        self.0.write_all(MAGIC)
    }
}
