//! Where lines go: the kernel's consoles, and serial ports that are there though nobody named them.
//!
//! In: what `/sys` and `/proc` say of terminals. Out: a [`Port`] each, to write lines to and read keys from. Failure: a
//! port that does not move costs [`PATIENCE`] once in its life and then loses lines; one that cannot be opened
//! is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr,
    tcsetattr,
};

use crate::sys::tty;

/// The consoles that the kernel writes to, by name.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// All terminal drivers, and for each of them a file with its ports.
const DRIVERS: &str = "/proc/tty/drivers";
const DRIVER: &str = "/proc/tty/driver";
/// More serial ports than a person looks at: cards with dozens of them cost time.
const MAX_SERIAL: usize = 8;
/// Baud of a port that nobody has set.
const SPEED: u32 = 115_200;
/// How long one port may hold up the boot, all lines together.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the last lines of a port have to get out: its end must not take what the kernel would wait, 30 s.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The names of the kernel's consoles.
#[must_use]
pub fn active() -> Vec<String> {
    let names = fs::read_to_string(ACTIVE).unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}

/// The names of serial ports that have hardware behind them.
#[must_use]
pub fn serial() -> Vec<String> {
    let read = |driver: &str| fs::read_to_string(Path::new(DRIVER).join(driver)).unwrap_or_default();
    let drivers = fs::read_to_string(DRIVERS).unwrap_or_default();
    let mut names: Vec<String> =
        serial_drivers(&drivers).flat_map(|(driver, device)| with_hardware(&read(driver), device)).collect();
    names.truncate(MAX_SERIAL);
    names
}

/// Driver and device name of each kind of serial port: `serial /dev/ttyS 4 64-95 serial`, proc_tty_driver(5).
fn serial_drivers(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [driver, device, _, _, "serial"] = words[..] else { return None };
        Some((driver, device.strip_prefix("/dev/")?))
    })
}

/// The ports of one driver that are there: `0: uart:16550A port:000003F8 irq:4`. Adapters on USB have no `uart:`; what
/// hangs on those may be a modem or a display.
fn with_hardware(text: &str, device: &str) -> Vec<String> {
    let port = |line: &str| {
        let (number, rest) = line.trim_start().split_once(": uart:")?;
        let is_there = !rest.starts_with("unknown") && number.bytes().all(|byte| byte.is_ascii_digit());
        is_there.then(|| format!("{device}{number}"))
    };
    text.lines().filter_map(port).collect()
}

/// One place for lines. Where it was opened is kept: when a shell on it ends, the kernel hangs up all who had it open.
pub struct Port {
    path: PathBuf,
    file: File,
    /// What is left of [`PATIENCE`].
    patience: Duration,
    /// The last line is not whole.
    is_torn: bool,
    /// Its settings as they were.
    before: Option<Termios>,
    /// Nobody but us has it open: it ends with us.
    is_ours: bool,
    /// What a person has chosen here, over the level of all.
    pub chosen: Option<LevelFilter>,
}

impl Port {
    /// Opens a console to write to.
    #[must_use]
    pub fn open(name: &str) -> Option<Self> {
        let path = Path::new("/dev").join(name);
        let file = open(&path)?;
        Some(Self {
            path,
            file,
            patience: PATIENCE,
            is_torn: false,
            before: None,
            is_ours: false,
            chosen: None,
        })
    }

    /// Opens a serial port that is no console of the kernel, and sets it as one.
    #[must_use]
    pub fn open_serial(name: &str) -> Option<Self> {
        let mut port = Self::open(name)?;
        let mut settings = tcgetattr(&port.file).ok()?;
        settings.make_raw();
        settings.control_modes.remove(
            ControlModes::PARENB | ControlModes::CSTOPB | ControlModes::CRTSCTS | ControlModes::HUPCL,
        );
        settings.control_modes.insert(ControlModes::CS8 | ControlModes::CLOCAL | ControlModes::CREAD);
        settings.set_speed(SPEED).ok()?;
        tcsetattr(&port.file, OptionalActions::Now, &settings).ok()?;
        port.is_ours = true;
        Some(port)
    }

    /// Has keys come one by one and without an echo. A console that refuses has no keys, and what hangs on a port that
    /// nobody named may be no person.
    pub fn take_keys(&mut self) {
        if self.is_ours {
            return;
        }
        let Ok(before) = tcgetattr(&self.file) else { return };
        let mut settings = before.clone();
        settings
            .local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN);
        settings.input_modes.remove(InputModes::IXON);
        if tcsetattr(&self.file, OptionalActions::Now, &settings).is_ok() {
            self.before = Some(before);
        }
    }

    /// Whether keys were pressed since the last time.
    pub fn was_pressed(&mut self) -> bool {
        let mut keys = [0; 64];
        self.before.is_some() && matches!(self.file.read(&mut keys), Ok(1..))
    }

    /// The device, for who draws on it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes whole lines, or as much of them as the port takes.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.write_patiently(bytes).is_err()
            && let Some(file) = open(&self.path)
        {
            self.file = file;
            // A second failure is that of a console which is gone; the others have the line.
            let _ = self.write_patiently(bytes);
        }
    }

    fn write_patiently(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.is_torn && matches!(self.file.write(b"\r\n"), Ok(2)) {
            self.is_torn = false;
        }
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(written @ 1..) => {
                    bytes = &bytes[written..];
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ if !self.has_room() => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for room, as long as patience lasts. A slow port uses none of it up: it has room again in time.
    fn has_room(&mut self) -> bool {
        let limit = Timespec { tv_sec: 0, tv_nsec: self.patience.as_nanos() as i64 };
        let limit = if self.patience == PATIENCE { Timespec { tv_sec: 1, tv_nsec: 0 } } else { limit };
        let mut fds = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::OUT)];
        let has_room = matches!(poll(&mut fds, Some(&limit)), Ok(1..));
        if !has_room {
            self.patience = Duration::ZERO;
        }
        has_room
    }

    /// Leaves the port to who comes after us, as it was.
    pub fn leave(&mut self) {
        if let Some(before) = self.before.take() {
            // A console that is gone needs no settings.
            let _ = tcsetattr(&self.file, OptionalActions::Now, &before);
        }
        if self.is_ours {
            self.send_last_lines();
        }
    }

    /// The last of a port is the kernel's to wait for, half a minute where nobody reads: so what cannot go out soon is
    /// thrown away.
    fn send_last_lines(&self) {
        let begun = Instant::now();
        let mut left = usize::MAX;
        while begun.elapsed() < LAST_LINES {
            let unsent = tty::unsent(&self.file).unwrap_or(0);
            if unsent == 0 {
                return;
            }
            // It moves by the length of its FIFO, 1.4 ms for 16 bytes.
            if unsent == left {
                break;
            }
            left = unsent;
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = tcflush(&self.file, QueueSelector::OFlush);
    }
}

fn open(path: &Path) -> Option<File> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("open flags fit a C int");
    let open = |read: bool| OpenOptions::new().read(read).write(true).custom_flags(flags).open(path).ok();
    open(true).or_else(|| open(false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn serial_ports_are_those_with_hardware() {
        let drivers = "/dev/tty             /dev/tty        5       0 system:/dev/tty\n\
                       usbserial            /dev/ttyUSB   188 0-511 serial\n\
                       serial               /dev/ttyS       4 64-95 serial\n\
                       pty_slave            /dev/pts      136 0-1048575 pty:slave\n";
        assert_eq!(
            serial_drivers(drivers).collect::<Vec<_>>(),
            [("usbserial", "ttyUSB"), ("serial", "ttyS")]
        );
        let ports = "serinfo:1.0 driver revision:\n\
                     0: uart:16550A port:000003F8 irq:4 tx:2213 rx:0 RTS|CTS|DTR|DSR|CD\n\
                     1: uart:unknown port:000002F8 irq:3\n\
                     12: uart:16550A port:000003E8 irq:4 tx:0 rx:0\n";
        assert_eq!(with_hardware(ports, "ttyS"), ["ttyS0", "ttyS12"]);
        let arm =
            "serinfo:1.0 driver revision:\n0: uart:PL011 rev1 mmio:0x09000000 irq:13 tx:8 rx:0 CTS|DSR|CD\n";
        assert_eq!(with_hardware(arm, "ttyAMA"), ["ttyAMA0"]);
        let usb = "usbserinfo:1.0 driver:2.0\n0: module:ftdi_sio name:\"FTDI\" vendor:0403 product:6001\n";
        assert_eq!(with_hardware(usb, "ttyUSB"), [""; 0]);
    }

    /// A pipe that nobody reads is what a serial port is whose far end has stopped.
    #[test]
    fn a_dead_port_cost_a_second_for_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut port = Port::open(path.to_str().unwrap()).unwrap();
        let begun = Instant::now();
        port.write(&[b'x'; 100_000]);
        assert!(port.is_torn);
        for _ in 0..1000 {
            port.write(&[b'y'; 900]);
        }
        assert_eq!(port.patience, Duration::ZERO);
        assert!(begun.elapsed() >= PATIENCE / 2 && begun.elapsed() < 20 * PATIENCE);
        // It moves again: the line that was torn is ended first.
        let mut taken = vec![0; 1 << 20];
        let taken = port.file.read(&mut taken).map(|count| taken.truncate(count)).map(|()| taken).unwrap();
        assert!(taken.len() < 100_000 && taken.iter().all(|byte| *byte == b'x'));
        port.write(b"[ 1.000] next\r\n");
        let mut rest = [0; 64];
        let count = port.file.read(&mut rest).unwrap();
        assert_eq!(&rest[..count], b"\r\n[ 1.000] next\r\n");
    }
}
