//! How many boots in a row have failed, where the machine can remember it: in a variable of its EFI firmware, or, where
//! there is no EFI, in a small file on a disk of ours.
//!
//! In: what the firmware, or the disk, has kept. Out: the number of this failure, for the pause before the reboot. It is written when
//! a boot has failed, and deleted when one has not, so a machine that boots never writes. Failure: none. Without EFI and
//! without a disk, or with one that refuses, nobody counts, and the pause stays what it is.
//!
//! The firmware is called in one thread, and nobody waits for that longer than [`PATIENCE`]. Only exec does: the kernel
//! ends all other threads first, and none of them within a call of the firmware. One that never answers costs the
//! handoff, until a watchdog resets the machine.
//!
//! Nobody has signed what stands there. It is a number and nothing else, and all it can do is to lengthen a pause, up to
//! the cap of `fail`. Other memories that the kernel offers are not used: efi-pstore lies in the same variables and is
//! larger, ramoops must be told which memory outlives a reset, and ACPI ERST takes whole logs.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::modules::Modules;
use crate::sys::{System, efi};

/// What the kernel has where the firmware is EFI.
const EFI: &str = "/sys/firmware/efi";
/// Where the file of the disk is shown, so that the programs after handoff find it: the disk itself is out of sight.
const FILE: &str = "/run/zstrap/loops";
/// How long the firmware may take to write or delete; to say what it has kept, it has had all the time of the boot.
pub const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);
/// Nothing is counted beyond it: a flash memory bears no write each ten minutes for years.
const MOST: u32 = 99;

/// A file that is written in place: four bytes, or none.
struct Kept(File);

impl Kept {
    fn open() -> io::Result<Self> {
        Ok(Self(File::options().read(true).write(true).open(FILE)?))
    }
}

impl Store for Kept {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.0).take(u64::from(MOST)).read_to_end(&mut bytes)?;
        if bytes.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(bytes) }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.set_len(bytes.len() as u64)?;
        self.0.write_all_at(bytes, 0)?;
        self.0.sync_all()
    }

    fn delete(&self) -> io::Result<()> {
        // Not waited for: a machine that loses power now had come up.
        self.0.set_len(0)
    }
}

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
    /// How many boots failed before this one.
    before: u32,
    /// Whether something stands there, be it a number or not.
    is_kept: bool,
}

impl<S: Store> Count<S> {
    fn read(store: S) -> Self {
        let kept = store.read();
        let before = kept.as_deref().map_or(0, number);
        // What cannot be read may be there all the same.
        let is_kept = !kept.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        Self { store, before, is_kept }
    }

    /// One more boot has failed after so many; how many that makes, if the firmware has taken it. Nothing is logged: the
    /// log may be what a panicking thread holds.
    fn failed(&mut self, before: u32) -> Option<u32> {
        let failed = (before + 1).min(MOST);
        if !self.is_kept || failed != self.before {
            self.store.write(&failed.to_le_bytes()).ok()?;
            self.is_kept = true;
        }
        Some(failed)
    }

    /// This boot has not failed.
    fn succeeded(&mut self) {
        if self.is_kept {
            match self.store.delete() {
                Ok(()) => self.is_kept = false,
                Err(error) => log::debug!(target: "handoff", "boot loops stay counted: {error}"),
            }
        }
    }

    /// Does what is wished, again and again.
    fn serve(mut self, desk: &Desk) -> ! {
        let mut done = NOTHING;
        loop {
            let wish = desk.wish.load(Ordering::SeqCst);
            if wish == done {
                // What is wished meanwhile ends it at once.
                thread::park();
                continue;
            }
            let failed = match wish {
                FAILED => self.failed(self.before),
                FAILED_LATER => self.failed(0),
                SUCCEEDED => {
                    self.succeeded();
                    None
                }
                _ => None,
            };
            desk.failed.store(failed.unwrap_or(0), Ordering::SeqCst);
            desk.done.store(wish, Ordering::SeqCst);
            done = wish;
        }
    }
}

/// Four bytes are a number; whatever else stands there is none.
fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes).min(MOST)
}

/// What this boot has come to, as far as the firmware is to know it.
const NOTHING: u32 = 0;
const SUCCEEDED: u32 = 1;
const FAILED: u32 = 2;
/// It had succeeded before.
const FAILED_LATER: u32 = 3;
/// There is nobody who could do it.
const NOBODY: u32 = 4;

/// Between the firmware's thread and all others. No locks: a thread that panics comes here, too.
struct Desk {
    thread: OnceLock<Thread>,
    /// What is to be done, and what is done. What comes too late to be seen is done all the same.
    wish: AtomicU32,
    done: AtomicU32,
    /// How many boots have failed; 0 where that is not kept.
    failed: AtomicU32,
}

static DESK: Desk = Desk::new();

impl Desk {
    const fn new() -> Self {
        let [wish, done, failed] = [const { AtomicU32::new(NOTHING) }; 3];
        Self { thread: OnceLock::new(), wish, done, failed }
    }

    /// Starts the thread in which alone the firmware is called.
    fn open<S: Store>(&'static self, open: impl FnOnce() -> io::Result<S> + Send + 'static) {
        let not_counted = |error| log::debug!(target: "early", "boot loops are not counted: {error}");
        let work = move || match open() {
            Ok(store) => Count::read(store).serve(self),
            Err(error) => {
                self.done.store(NOBODY, Ordering::SeqCst);
                not_counted(error);
            }
        };
        match thread::Builder::new().spawn(work) {
            Ok(thread) => drop(self.thread.set(thread.thread().clone())),
            Err(error) => not_counted(error),
        }
    }

    /// Whether this was done in time.
    fn ask(&self, wish: u32, patience: Duration) -> bool {
        let Some(thread) = self.thread.get() else { return false };
        let asked = Instant::now();
        self.wish.store(wish, Ordering::SeqCst);
        thread.unpark();
        loop {
            let done = self.done.load(Ordering::SeqCst);
            if done == wish || done == NOBODY || asked.elapsed() >= patience {
                return done == wish;
            }
            thread::sleep(LOOK);
        }
    }

    fn failed(&self, patience: Duration) -> Option<u32> {
        let wish = match self.wish.load(Ordering::SeqCst) {
            SUCCEEDED | FAILED_LATER => FAILED_LATER,
            _ => FAILED,
        };
        let failed = self.ask(wish, patience).then(|| self.failed.load(Ordering::SeqCst));
        failed.filter(|failed| *failed > 0)
    }
}

/// Begins to read what the firmware has kept.
pub fn begin(modules: &mut Modules) {
    if Path::new(EFI).exists() {
        modules.load("efivarfs");
        begin_reading();
    }
}

/// The same where the driver is there already, or the file is shown.
pub fn begin_reading() {
    if Path::new(EFI).exists() {
        DESK.open(efi::Variable::open);
    } else if Path::new(FILE).exists() {
        DESK.open(Kept::open);
    }
}

/// Counts in this file of our disk, a path that leads nowhere else, where there is no firmware that could.
pub fn begin_on_disk(system: &dyn System, file: &str) {
    if Path::new(EFI).exists() {
        return;
    }
    let shown = system.write_file(FILE, 0o600, &[]).and_then(|()| {
        let (folder, name) = FILE.rsplit_once('/').unwrap_or_default();
        system.bind_over(file, folder, name)
    });
    match shown {
        Ok(true) => DESK.open(Kept::open),
        Ok(false) => {}
        Err(error) => log::debug!(target: "early", "boot loops are not counted on the disk: {error}"),
    }
}

/// This boot has failed. The how many-th in a row it is; none where nobody counts, or not in time.
pub fn failed() -> Option<u32> {
    DESK.failed(PATIENCE)
}

/// This boot has not failed. Where this process goes on, the firmware need not be waited for.
pub fn succeeded(patience: Duration) {
    DESK.ask(SUCCEEDED, patience);
}

/// This boot will fail after all: those before it count again.
pub fn take_back() {
    DESK.ask(NOTHING, Duration::ZERO);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

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

    fn fail(flash: &Flash) -> Option<u32> {
        let mut count = boot(flash);
        count.failed(count.before)
    }

    fn boot(flash: &Flash) -> Count<Flash> {
        Count::read(flash.clone())
    }

    #[test]
    fn failed_boots_are_counted_until_one_succeeds() {
        let flash = Flash::default();
        let failed: Vec<u32> = (0..3).filter_map(|_| fail(&flash)).collect();
        assert_eq!(failed, [1, 2, 3]);
        boot(&flash).succeeded();
        assert_eq!(flash.kept(), None);
        assert_eq!(fail(&flash), Some(1));
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
        let last = (0..1000).filter_map(|_| fail(&flash)).max();
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
            assert_eq!(fail(&flash), Some(expected), "{bytes:?}");
            // What a stranger has left there goes with the first good boot.
            boot(&flash).succeeded();
            assert_eq!(flash.kept(), None);
        }
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
        assert_eq!(count.failed(0), None);
        count.succeeded();
    }

    /// One that answers only when the test lets it.
    struct Slow(Flash, Arc<Mutex<()>>);

    impl Slow {
        fn wait(&self) -> &Flash {
            drop(self.1.lock().unwrap());
            &self.0
        }
    }

    impl Store for Slow {
        fn read(&self) -> io::Result<Vec<u8>> {
            self.wait().read()
        }
        fn write(&self, bytes: &[u8]) -> io::Result<()> {
            self.wait().write(bytes)
        }
        fn delete(&self) -> io::Result<()> {
            self.wait().delete()
        }
    }

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(30);

    fn desk<S: Store + 'static>(open: impl FnOnce() -> io::Result<S> + Send + 'static) -> &'static Desk {
        let desk: &Desk = Box::leak(Box::new(Desk::new()));
        desk.open(open);
        desk
    }

    #[test]
    fn a_firmware_that_hangs_is_not_waited_for() {
        let (flash, gate) = (Flash::with(&4_u32.to_le_bytes()), Arc::new(Mutex::new(())));
        let hang = gate.lock().unwrap();
        let (asked, store) = (Instant::now(), Slow(flash.clone(), Arc::clone(&gate)));
        let desk = desk(|| Ok(store));
        assert_eq!(desk.failed(SHORT), None);
        assert!(asked.elapsed() < LONG / 2);
        drop(hang);
        assert_eq!(desk.failed(LONG), Some(5), "what was asked for is done late, and once");
        assert_eq!((flash.kept(), flash.changes()), (Some(5_u32.to_le_bytes().to_vec()), 1));
    }

    #[test]
    fn a_handoff_that_is_taken_back_counts_on() {
        for is_slow in [false, true] {
            let (flash, gate) = (Flash::with(&4_u32.to_le_bytes()), Arc::new(Mutex::new(())));
            let hang = gate.lock().unwrap();
            let store = Slow(flash.clone(), Arc::clone(&gate));
            let desk = desk(|| Ok(store));
            // It had taken longer than the handoff waited, and then the count was lost.
            assert!(!desk.ask(SUCCEEDED, SHORT));
            let hang = is_slow.then_some(hang);
            assert_eq!(desk.ask(SUCCEEDED, if is_slow { SHORT } else { LONG }), !is_slow);
            desk.ask(NOTHING, Duration::ZERO);
            drop(hang);
            assert_eq!(desk.failed(LONG), Some(5), "slow={is_slow}");
            assert_eq!(flash.kept(), Some(5_u32.to_le_bytes().to_vec()));
        }
    }

    #[test]
    fn a_program_that_came_up_and_fails_later_is_the_first() {
        let flash = Flash::with(&4_u32.to_le_bytes());
        let store = flash.clone();
        let desk = desk(|| Ok(store));
        assert!(desk.ask(SUCCEEDED, LONG));
        assert_eq!(flash.kept(), None);
        assert_eq!((desk.failed(LONG), desk.failed(LONG)), (Some(1), Some(1)));
    }

    #[test]
    fn a_file_of_the_disk_counts_as_well() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kept = || Kept(file.reopen().unwrap());
        let fail = || {
            let mut count = Count::read(kept());
            count.failed(count.before)
        };
        assert_eq!([fail(), fail()], [Some(1), Some(2)]);
        Count::read(kept()).succeeded();
        assert_eq!(file.path().metadata().unwrap().len(), 0);
        assert_eq!(fail(), Some(1));
        // Whoever was root may have left anything.
        std::fs::write(file.path(), vec![0xff; 100_000]).unwrap();
        assert_eq!(fail(), Some(1));
        assert_eq!(file.path().metadata().unwrap().len(), 4);
    }

    #[test]
    fn nobody_waits_where_nobody_counts() {
        let asked = Instant::now();
        let desk = desk(|| Err::<Flash, _>(io::ErrorKind::Unsupported.into()));
        assert_eq!(desk.failed(LONG), None);
        assert_eq!(Desk::new().failed(LONG), None);
        assert!(asked.elapsed() < LONG / 2);
    }
}
