//! The first virtual console: the calm screen, or lines.
//!
//! In: a [`Status`](super::status::Status), lines, keys. Out: what stands on `tty1`. The kernel goes on printing there what it always does, and
//! is not kept from it: after a panic its words must be the last on the screen. What it prints otherwise moves the
//! cursor, by which it is noticed, and is drawn over. Failure: a machine without virtual consoles has no screen.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::LevelFilter;
use rustix::termios::tcgetwinsize;

use super::ports::Port;
use super::screen::{self, View};
use super::{Lines, status};

const NAME: &str = "tty1";
/// Its rows, columns and the place of its cursor, a byte each: vcs(4).
const CURSOR: &str = "/dev/vcsa1";
/// Where our cursor waits in the last row. What others print ends in the first column.
const WAITS_AT: u8 = 3;
/// Everything is drawn anew this often, should a message have come just while it was drawn.
const ANEW: Duration = Duration::from_secs(60);
/// No cursor, and no new line at the right edge.
const BEGIN: &str = "\x1b[0m\x1b[?25l\x1b[?7l\x1b[2J";
/// The console as the kernel made it, empty.
const END: &str = "\x1bc";
/// The rate is that of the last seconds.
const MEASURED: Duration = Duration::from_secs(5);

/// Whether the picture stands on the console, for a thread that panics: it may take no lock.
static IS_DRAWN: AtomicBool = AtomicBool::new(false);

/// What the first virtual console shows.
pub struct Terminal {
    port: Port,
    cursor: Option<File>,
    is_screen: bool,
    /// Somebody takes turns; without, there is no screen.
    pub is_drawn: bool,
    /// A person has chosen what it shows.
    is_chosen: bool,
    drawn: Vec<String>,
    size: (usize, usize),
    drawn_anew: Duration,
    meter: VecDeque<(Duration, u64)>,
}

impl Terminal {
    /// Opens the console, if there is one; at first it shows lines.
    #[must_use]
    pub fn open() -> Option<Self> {
        let port = Port::open(NAME)?;
        // What is no terminal has no size.
        tcgetwinsize(port.file()).ok()?;
        Some(Self::on(port))
    }

    fn on(port: Port) -> Self {
        let cursor = File::open(CURSOR).ok();
        let (drawn, meter) = (Vec::new(), VecDeque::new());
        let (is_screen, is_drawn, is_chosen, size, drawn_anew) =
            (false, false, false, (0, 0), Duration::ZERO);
        Self { port, cursor, is_screen, is_drawn, is_chosen, drawn, size, drawn_anew, meter }
    }

    /// Shows what belongs to this level, unless a person has chosen.
    pub fn follow(&mut self, level: LevelFilter, lines: &Lines) {
        let is_screen = level < LevelFilter::Debug;
        if self.is_drawn && !self.is_chosen && self.is_screen != is_screen {
            self.turn_to(is_screen, level, lines);
        }
    }

    /// Has keys come here.
    pub fn take_keys(&mut self) {
        self.port.take();
    }

    /// Shows the newest lines, and leaves the console to who comes after us.
    pub fn leave(&mut self, level: LevelFilter, lines: &Lines) {
        if self.is_screen {
            self.show_lines(level, lines);
        }
        // It takes lines at once.
        self.port.leave(Instant::now());
    }

    /// Nobody has come after us: all is as before [`Terminal::leave`].
    pub fn take_back(&mut self) {
        self.port.take();
        if self.is_screen {
            self.show_screen();
        }
    }

    /// Takes away what another terminal of this program may have drawn.
    pub fn clear_screen(&mut self) {
        if IS_DRAWN.swap(false, Ordering::Relaxed) {
            self.port.write(END.as_bytes());
        }
    }

    /// A line of this level.
    pub fn line(&mut self, line: &str, level: log::Level, of_all: LevelFilter) {
        // Who has pressed a key wants to see everything.
        let shown = if self.is_chosen { LevelFilter::Debug } else { of_all };
        if !self.is_screen && level <= shown {
            self.port.write(line.as_bytes());
        }
    }

    /// Looks for keys, and draws what has changed.
    pub fn turn(&mut self, now: Duration, lines: &Lines) {
        if self.port.was_pressed() {
            self.is_chosen = true;
            self.turn_to(!self.is_screen, LevelFilter::Debug, lines);
        }
        let status = status::current();
        self.measure(now, status.bytes.done);
        if self.is_screen {
            self.look();
            let (rows, columns) = self.size;
            let newest = lines.newest(LevelFilter::Info);
            let view = View { status: &status, rate: self.rate(), newest, now, columns, rows };
            self.draw(screen::rows(&view), now);
        }
    }

    fn turn_to(&mut self, is_screen: bool, level: LevelFilter, lines: &Lines) {
        self.is_screen = is_screen;
        match is_screen {
            true => self.show_screen(),
            false => self.show_lines(level, lines),
        }
    }

    fn show_screen(&mut self) {
        IS_DRAWN.store(true, Ordering::Relaxed);
        self.drawn.clear();
        self.port.write(BEGIN.as_bytes());
    }

    fn show_lines(&mut self, level: LevelFilter, lines: &Lines) {
        IS_DRAWN.store(false, Ordering::Relaxed);
        self.port.write(END.as_bytes());
        self.look();
        let rows = self.size.0.saturating_sub(2);
        lines.tail(level, rows).for_each(|line| self.port.write(line.as_bytes()));
    }

    /// Another size, or a cursor that is not where it was left, means that nothing stands where it was drawn.
    fn look(&mut self) {
        let size = tcgetwinsize(self.port.file()).ok();
        let size = size.map_or((0, 0), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
        let mut place = [0; 4];
        let is_read = self.cursor.as_ref().is_some_and(|file| file.read_exact_at(&mut place, 0).is_ok());
        let is_moved = is_read && place[2] != WAITS_AT;
        if size != self.size || is_moved {
            self.drawn.clear();
        }
        self.size = size;
    }

    /// Only rows that are others than before are written.
    fn draw(&mut self, rows: Vec<String>, now: Duration) {
        if now.saturating_sub(self.drawn_anew) >= ANEW {
            self.drawn.clear();
        }
        let is_anew = self.drawn.is_empty();
        let mut text = String::new();
        for (place, row) in rows.iter().enumerate() {
            if self.drawn.get(place) != Some(row) {
                text.push_str(&format!("\x1b[{};1H\x1b[K{row}", place + 1));
            }
        }
        if is_anew {
            self.drawn_anew = now;
            text.push_str(&format!("\x1b[{};1H\x1b[K", self.size.0));
        }
        if !text.is_empty() {
            text.push_str(&format!("\x1b[{};{}H", self.size.0, WAITS_AT + 1));
            self.port.write(text.as_bytes());
        }
        self.drawn = rows;
    }

    fn measure(&mut self, now: Duration, done: u64) {
        let is_old = |(at, bytes): &(Duration, u64)| now.saturating_sub(*at) > MEASURED || *bytes > done;
        while self.meter.front().is_some_and(is_old) {
            self.meter.pop_front();
        }
        self.meter.push_back((now, done));
    }

    /// Bytes a second.
    fn rate(&self) -> Option<u64> {
        let ((begun, first), (ended, last)) = (self.meter.front()?, self.meter.back()?);
        let time = ended.saturating_sub(*begun);
        let bytes = last.saturating_sub(*first) as f64;
        (time >= Duration::from_secs(1)).then(|| (bytes / time.as_secs_f64()) as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;

    use super::*;

    /// A picture that nobody draws is an empty console.
    #[test]
    fn without_who_draws_lines_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("terminal");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut terminal = Terminal::on(Port::open(path.to_str().unwrap()).unwrap());
        let lines = Lines(VecDeque::new());
        let shown = |terminal: &Terminal| {
            let mut bytes = [0; 256];
            let count = terminal.port.file().read(&mut bytes).unwrap_or(0);
            String::from_utf8(bytes[..count].to_vec()).unwrap()
        };
        terminal.follow(LevelFilter::Info, &lines);
        terminal.line("a line", log::Level::Info, LevelFilter::Info);
        assert_eq!(shown(&terminal), "a line");
        terminal.is_drawn = true;
        terminal.follow(LevelFilter::Info, &lines);
        terminal.line("a line", log::Level::Info, LevelFilter::Info);
        assert_eq!(shown(&terminal), BEGIN);
        // Handed over and taken back, it is what it was.
        terminal.leave(LevelFilter::Info, &lines);
        terminal.take_back();
        assert_eq!(shown(&terminal), format!("{END}{BEGIN}"));
    }
}
