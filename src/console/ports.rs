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
/// Where nothing gets out for this long, nothing will: a FIFO of 64 bytes takes 67 ms at 9600 baud.
const STUCK: Duration = Duration::from_millis(200);

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
    /// Its settings as they were before ours.
    before: Option<Termios>,
    /// Nobody has named it: it has no settings, and what hangs on it may be no person.
    is_unnamed: bool,
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
            is_unnamed: false,
            chosen: None,
        })
    }

    /// Opens a serial port that is no console of the kernel, and sets it as one.
    #[must_use]
    pub fn open_serial(name: &str) -> Option<Self> {
        let mut port = Self { is_unnamed: true, ..Self::open(name)? };
        port.take();
        port.before.is_some().then_some(port)
    }

    /// Sets it as we need it, until [`Port::leave`].
    pub fn take(&mut self) {
        let Ok(before) = tcgetattr(&self.file) else { return };
        let settings =
            if self.is_unnamed { for_lines(before.clone()) } else { Some(for_keys(before.clone())) };
        let is_set = settings.is_some_and(|new| tcsetattr(&self.file, OptionalActions::Now, &new).is_ok());
        // Taken twice, what it had before is still that of the first time.
        if is_set && self.before.is_none() {
            self.before = Some(before);
        }
    }

    /// Whether keys were pressed since the last time.
    pub fn was_pressed(&mut self) -> bool {
        let mut keys = [0; 64];
        !self.is_unnamed && self.before.is_some() && matches!(self.file.read(&mut keys), Ok(1..))
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

    /// Leaves the port to who comes after us, as it was. What has not got out until then is lost, but for the console
    /// that the next program has, too.
    pub fn leave(&mut self, until: Instant) {
        if !self.stays_open() {
            self.send_last_lines(until);
        }
        let Some(before) = self.before.take() else { return };
        // What is in the FIFO goes at its own speed. It is not waited for where more is to come.
        let is_empty = self.unsent() == 0;
        let when = if is_empty { OptionalActions::Drain } else { OptionalActions::Now };
        // A console that is gone needs no settings.
        let _ = tcsetattr(&self.file, when, &before);
    }

    /// Whether the next program inherits it, so that it does not end with us.
    fn stays_open(&self) -> bool {
        let ours = tty::number(&self.file);
        ours.is_ok_and(|ours| tty::number(std::io::stdout()).is_ok_and(|inherited| inherited == ours))
    }

    /// Where a port ends with us, its last lines are the kernel's to wait for, half a minute where nobody reads: so what
    /// cannot go out soon is thrown away.
    fn send_last_lines(&self, until: Instant) {
        let (mut left, mut moved) = (usize::MAX, Instant::now());
        while Instant::now() < until && moved.elapsed() < STUCK {
            let unsent = self.unsent();
            if unsent == 0 {
                return;
            }
            if unsent != left {
                (left, moved) = (unsent, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = tcflush(&self.file, QueueSelector::OFlush);
    }

    fn unsent(&self) -> usize {
        tty::unsent(&self.file).unwrap_or(0)
    }
}

/// Keys come one by one and without an echo.
fn for_keys(mut settings: Termios) -> Termios {
    let echo = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
    settings.local_modes.remove(echo);
    settings.input_modes.remove(InputModes::IXON);
    settings
}

/// As a console of the kernel. At its end no modem hangs up.
fn for_lines(mut settings: Termios) -> Option<Termios> {
    let other = ControlModes::PARENB | ControlModes::CSTOPB | ControlModes::CRTSCTS | ControlModes::HUPCL;
    settings.make_raw();
    settings.control_modes.remove(other);
    settings.control_modes.insert(ControlModes::CS8 | ControlModes::CLOCAL | ControlModes::CREAD);
    settings.set_speed(SPEED).ok()?;
    Some(settings)
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

    /// What belongs to nobody else, a new pseudoterminal, stands for a serial port.
    #[test]
    fn a_port_gets_its_settings_back() {
        let settings = |port: &Port| {
            let now = tcgetattr(port.file()).unwrap();
            (now.local_modes, now.control_modes, now.input_modes, now.output_modes, now.output_speed())
        };
        let untouched = settings(&Port::open("ptmx").unwrap());
        let mut named = Port::open("ptmx").unwrap();
        named.take();
        for mut port in [named, Port::open_serial("ptmx").unwrap()] {
            for _ in 0..2 {
                assert_ne!(settings(&port), untouched);
                port.leave(Instant::now() + PATIENCE);
                assert_eq!(settings(&port), untouched);
                port.take();
            }
        }
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
