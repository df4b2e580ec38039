//! How many boots in a row have failed, where the machine can remember it: in a variable of its EFI firmware.
//!
//! In: what the firmware has kept. Out: the number of this failure, for the pause before the reboot. It is written when
//! a boot has failed, and deleted when one has not, so a machine that boots never writes. The firmware is asked in a
//! thread: a slow one costs the boot nothing. Failure: none. Without EFI, or with a firmware that refuses, nobody
//! counts, and the pause stays what it is.
//!
//! Nobody has signed what stands there. It is a number and nothing else, and all it can do is to lengthen a pause, up to
//! the cap of `fail`. Other memories that the kernel offers are not used: efi-pstore lies in the same variables and is
//! larger, ramoops must be told which memory outlives a reset, and ACPI ERST takes whole logs.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crate::modules::Modules;
use crate::sys::efi;

/// What the kernel has where the firmware is EFI.
const EFI: &str = "/sys/firmware/efi";
/// How long the firmware may take to say what it has kept. It has had all the time of the boot until then.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);
/// Nothing is counted beyond it: a flash memory bears no write each ten minutes for years.
const MOST: u32 = 99;

/// Something that outlives a reset.
pub trait Store: Send {
    /// The bytes that were written last.
    ///
    /// # Errors
    /// The firmware's refusal, [`io::ErrorKind::NotFound`] when there are none.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Replaces them.
    ///
    /// # Errors
    /// The firmware's refusal.
    fn write(&self, bytes: &[u8]) -> io::Result<()>;

    /// Deletes them.
    ///
    /// # Errors
    /// The firmware's refusal.
    fn delete(&self) -> io::Result<()>;
}

/// A store, and what it had kept.
struct Count<S> {
    store: S,
    failed: u32,
    /// Whether something stands there, be it a number or not.
    is_kept: bool,
}

impl<S: Store> Count<S> {
    fn read(store: S) -> Self {
        let kept = store.read();
        let failed = kept.as_deref().map_or(0, number);
        // What cannot be read may be there all the same.
        let is_kept = !kept.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        Self { store, failed, is_kept }
    }

    /// One more boot has failed; how many that makes, if the firmware has taken it. Nothing is logged: the log may be
    /// what a panicking thread holds.
    fn failed(&mut self) -> Option<u32> {
        let failed = (self.failed + 1).min(MOST);
        if failed > self.failed {
            self.store.write(&failed.to_le_bytes()).ok()?;
            (self.failed, self.is_kept) = (failed, true);
        }
        Some(failed)
    }

    /// This boot has not failed; how many had before it.
    fn succeeded(&mut self) -> u32 {
        if self.is_kept {
            match self.store.delete() {
                Ok(()) => self.is_kept = false,
                Err(error) => log::debug!(target: "handoff", "boot loops stay counted: {error}"),
            }
        }
        std::mem::take(&mut self.failed)
    }
}

/// Four bytes are a number; whatever else stands there is none.
fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes).min(MOST)
}

/// The firmware's count, once it has been read.
static COUNT: Mutex<Option<Count<efi::Variable>>> = Mutex::new(None);
/// How many threads are still reading it.
static READING: AtomicU32 = AtomicU32::new(0);

/// Begins to read what the firmware has kept.
pub fn begin(modules: &mut Modules) {
    if Path::new(EFI).exists() {
        modules.load("efivarfs");
        begin_reading();
    }
}

/// The same where the driver is there already.
pub fn begin_reading() {
    if !Path::new(EFI).exists() {
        return;
    }
    READING.fetch_add(1, Ordering::SeqCst);
    let read = || {
        match efi::Variable::open() {
            Ok(variable) => {
                let count = Count::read(variable);
                if let Ok(mut place) = COUNT.lock() {
                    *place = Some(count);
                }
            }
            Err(error) => log::debug!(target: "early", "boot loops are not counted: {error}"),
        }
        READING.fetch_sub(1, Ordering::SeqCst);
    };
    if thread::Builder::new().spawn(read).is_err() {
        READING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The count, or none where nobody counts. It may be asked for by a thread that panics, so nothing is waited for longer
/// than [`PATIENCE`].
fn count() -> Option<MutexGuard<'static, Option<Count<efi::Variable>>>> {
    let asked = Instant::now();
    loop {
        let is_read = READING.load(Ordering::SeqCst) == 0;
        match COUNT.try_lock() {
            Ok(count) if is_read => return Some(count),
            Err(TryLockError::Poisoned(_)) => return None,
            Ok(_) | Err(TryLockError::WouldBlock) => {}
        }
        if asked.elapsed() >= PATIENCE {
            return None;
        }
        thread::sleep(LOOK);
    }
}

/// This boot has failed. The how many-th in a row it is; none where nobody counts.
pub fn failed() -> Option<u32> {
    count()?.as_mut()?.failed()
}

/// This boot has not failed. How many had before it, for [`take_back`].
pub fn succeeded() -> u32 {
    count().and_then(|mut count| Some(count.as_mut()?.succeeded())).unwrap_or(0)
}

/// This boot will fail after all, and so many had before it.
pub fn take_back(failed: u32) {
    if let Some(count) = count().as_mut().and_then(|count| count.as_mut()) {
        count.failed = failed;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    /// What outlives a boot of these tests, and how often it was written or deleted.
    #[derive(Clone, Default)]
    struct Flash(Arc<Mutex<(Option<Vec<u8>>, u32)>>);

    impl Flash {
        fn with(bytes: &[u8]) -> Self {
            Self(Arc::new(Mutex::new((Some(bytes.to_owned()), 0))))
        }

        fn kept(&self) -> Option<Vec<u8>> {
            self.0.lock().unwrap().0.clone()
        }

        fn changes(&self) -> u32 {
            self.0.lock().unwrap().1
        }

        fn change(&self, to: Option<Vec<u8>>) {
            let mut flash = self.0.lock().unwrap();
            *flash = (to, flash.1 + 1);
        }
    }

    impl Store for Flash {
        fn read(&self) -> io::Result<Vec<u8>> {
            self.kept().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn write(&self, bytes: &[u8]) -> io::Result<()> {
            self.change(Some(bytes.to_owned()));
            Ok(())
        }

        fn delete(&self) -> io::Result<()> {
            self.change(None);
            Ok(())
        }
    }

    fn boot(flash: &Flash) -> Count<Flash> {
        Count::read(flash.clone())
    }

    #[test]
    fn failed_boots_are_counted_until_one_succeeds() {
        let flash = Flash::default();
        let failed: Vec<u32> = (0..3).filter_map(|_| boot(&flash).failed()).collect();
        assert_eq!(failed, [1, 2, 3]);
        assert_eq!(boot(&flash).succeeded(), 3);
        assert_eq!(flash.kept(), None);
        assert_eq!(boot(&flash).failed(), Some(1));
    }

    #[test]
    fn a_boot_that_succeeds_writes_nothing() {
        let flash = Flash::default();
        boot(&flash).succeeded();
        assert_eq!(flash.changes(), 0);
    }

    #[test]
    fn a_machine_in_an_endless_boot_loop_does_not_write_for_ever() {
        let flash = Flash::default();
        let last = (0..1000).filter_map(|_| boot(&flash).failed()).max();
        assert_eq!((last, flash.changes()), (Some(MOST), MOST));
    }

    #[test]
    fn whatever_stands_there_is_a_number_or_none() {
        let hostile: [(&[u8], u32); 9] = [
            (b"", 1),
            (b"\x05", 1),
            (b"\x05\0\0", 1),
            (b"\x05\0\0\0\0", 1),
            (b"five", MOST),
            (&[0xff; 4], MOST),
            (&[0xff; 4096], 1),
            (&[0x05, 0, 0, 0], 6),
            (&[0xff, 0xff, 0xff, 0x7f], MOST),
        ];
        for (bytes, expected) in hostile {
            let flash = Flash::with(bytes);
            assert_eq!(boot(&flash).failed(), Some(expected), "{bytes:?}");
            // What a stranger has left there goes with the first good boot.
            boot(&flash).succeeded();
            assert_eq!(flash.kept(), None);
        }
    }

    #[test]
    fn a_handoff_that_is_taken_back_counts_on() {
        let flash = Flash::with(&4_u32.to_le_bytes());
        let mut count = boot(&flash);
        let before = count.succeeded();
        count.failed = before;
        assert_eq!((count.failed(), flash.kept()), (Some(5), Some(5_u32.to_le_bytes().to_vec())));
    }

    #[test]
    fn a_firmware_that_takes_nothing_keeps_nobody_from_rebooting() {
        struct Full;
        impl Store for Full {
            fn read(&self) -> io::Result<Vec<u8>> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
            fn write(&self, _: &[u8]) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn delete(&self) -> io::Result<()> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let mut count = Count::read(Full);
        assert_eq!((count.failed(), count.succeeded()), (None, 0));
    }
}
