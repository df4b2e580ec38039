//! The init's log: one line a fact on every console of the kernel, and in the kernel's own log.
//!
//! In: records of the `log` crate, their target being the stage. Out: `[   3.412] network: lease …`, in seconds
//! since the kernel started. A console that cannot take a line within a second loses it: a serial cable whose
//! far end has stopped must not stop the boot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use zstrap_formats::config::LogLevel;

/// The consoles that the kernel writes to, by name.
const ACTIVE: &str = "/sys/class/tty/console/active";
const KERNEL_LOG: &str = "/dev/kmsg";
/// Without this, the kernel drops all but ten lines in five seconds.
const KERNEL_LOG_LIMIT: &str = "/proc/sys/kernel/printk_devkmsg";
/// How long one console may hold up a line.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The longest line in bytes; the rest is cut, as the kernel log does.
const MAX_LINE: usize = 900;

/// Since the kernel started.
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// Opens every console and takes over all logging. Needs `/dev`, `/proc` and `/sys`.
pub fn start(level: LogLevel) {
    // The kernel may have locked this on its command line; then its limit stays, and the consoles have it all.
    let _ = fs::write(KERNEL_LOG_LIMIT, "on\n");
    let consoles = Consoles { outputs: Mutex::new(open_all()) };
    set_level(level);
    // Only a second call can fail, and a second logger would write the same lines.
    let _ = log::set_boxed_logger(Box::new(consoles));
}

/// Changes how much is said from now on.
pub fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Quiet => LevelFilter::Warn,
        LogLevel::Normal => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    });
}

struct Consoles {
    outputs: Mutex<Outputs>,
}

struct Outputs {
    consoles: Vec<Console>,
    kernel: Option<File>,
}

/// A console and where it was opened: when a shell on it ends, the kernel hangs up all who had it open.
struct Console {
    path: PathBuf,
    file: File,
}

/// Says lines of a thread that panics. Whatever the log holds or has come to, all is opened anew, and no lock is taken.
pub fn last_words(lines: &[String]) {
    let mut outputs = open_all();
    lines.iter().for_each(|line| outputs.write(&one_line(line)));
}

impl Outputs {
    /// One clean line to every console and the kernel's log.
    fn write(&mut self, text: &str) {
        let line = format!("[{:8.3}] {text}\r\n", since_boot().as_secs_f64());
        for console in &mut self.consoles {
            console.write(line.as_bytes());
        }
        if let Some(kernel) = &mut self.kernel {
            // As debug messages of a user program: the kernel must not print them on the consoles again.
            let _ = kernel.write_all(format!("<15>zstrap: {text}\n").as_bytes());
        }
    }
}

fn open_all() -> Outputs {
    let names = fs::read_to_string(ACTIVE).unwrap_or_default();
    let console = |name: &str| {
        let path = Path::new("/dev").join(name);
        Some(Console { file: open(&path)?, path })
    };
    let mut consoles: Vec<Console> = names.split_whitespace().filter_map(console).collect();
    if consoles.is_empty() {
        consoles.extend(console("console"));
    }
    Outputs { consoles, kernel: open(Path::new(KERNEL_LOG)) }
}

fn open(path: &Path) -> Option<File> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("open flags fit a C int");
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

impl Log for Consoles {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries below us log every packet; their own targets are paths of modules.
        !metadata.target().contains("::") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = one_line(&format!("{}: {}", record.target(), record.args()));
        let Ok(mut outputs) = self.outputs.lock() else { return };
        outputs.write(&text);
    }

    fn flush(&self) {}
}

/// Control characters of foreign text must not move the cursor or forge a line.
fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    match clean.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_LINE) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

impl Console {
    fn write(&mut self, bytes: &[u8]) {
        if write_patiently(&mut self.file, bytes).is_err()
            && let Some(file) = open(&self.path)
        {
            self.file = file;
            // A second failure is that of a console which is gone; the others have the line.
            let _ = write_patiently(&mut self.file, bytes);
        }
    }
}

/// Writes, waiting for a slow console as long as [`PATIENCE`] allows; a console that does not move loses the line.
fn write_patiently(console: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(0) => return Ok(()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::from_borrowed_fd(console.as_fd(), PollFlags::OUT)];
                if !matches!(poll(&mut fds, Some(&PATIENCE)), Ok(1..)) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_forge_a_line() {
        assert_eq!(one_line("a\n[ 1.0] list: ok\x1b[2J"), "a?[ 1.0] list: ok?[2J");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = one_line(&"ü".repeat(MAX_LINE));
        assert!(line.len() <= MAX_LINE + '…'.len_utf8() && line.ends_with('…'));
    }
}
