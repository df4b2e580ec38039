//! The init's log: one line a fact on every console, in the kernel's own log, and in a file; on the first virtual
//! console a calm picture of it.
//!
//! In: records of the `log` crate, their target being the stage; what stages say of themselves ([`status`]). Out:
//! `[   3.412] network: lease …`, in seconds since the kernel started. A console that cannot take a line loses
//! it: a serial cable whose far end has stopped must not stop the boot. Nothing here can fail in a way that
//! anyone would notice but by its absence.

mod bootlog;
mod letters;
mod ports;
mod screen;
pub mod status;
mod terminal;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::time::{ClockId, clock_gettime};
use zstrap_formats::config::LogLevel;

use bootlog::BootLog;
pub use bootlog::PATH as BOOT_LOG;
use ports::Port;
pub use status::stage_begins;
use terminal::Terminal;

use crate::fail::panic::{is_ending, stop_if_panicked};

/// The kernel's own log, for whoever has a line for it.
pub const KERNEL_LOG: &str = "/dev/kmsg";
/// Without this, the kernel drops all but ten lines in five seconds.
const KERNEL_LOG_LIMIT: &str = "/proc/sys/kernel/printk_devkmsg";
/// The longest line in bytes; the rest is cut, as the kernel log does.
const MAX_LINE: usize = 900;
/// How often the screen is drawn, and keys are looked for.
const TURN: Duration = Duration::from_millis(250);
/// How long the last lines have to get out of all ports: at 9600 baud four full kilobytes take this.
const LAST_LINES: Duration = Duration::from_secs(5);
/// How many lines a person is shown who asks for them; a screen has hardly more.
const KEPT_LINES: usize = 120;

/// Since the kernel started.
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// Opens the kernel's consoles, and takes over all logging: for who comes after the boot. Needs `/dev`, `/proc` and `/sys`.
pub fn start(level: LogLevel) {
    open(level, |outputs| outputs.ports = kernel_ports(&ports::active()));
    log::set_max_level(filter(level));
}

/// The same for the boot: with every serial port that is there, the screen, and the file. Needs `/run`, too.
pub fn start_boot(level: LogLevel) {
    open(level, Outputs::open_for_boot);
    // The file has everything.
    log::set_max_level(LevelFilter::Debug);
    // Small: the pictures are on the heap.
    let watch = thread::Builder::new().stack_size(128 * 1024).spawn(watch);
    match watch {
        Ok(_) => {
            CONSOLES.lock().terminal.iter_mut().for_each(|terminal| terminal.is_drawn = true);
            set_level(level);
        }
        Err(error) => log::warn!(target: "early", "no screen: {error}"),
    }
}

/// Changes how much is said from now on.
pub fn set_level(level: LogLevel) {
    let mut outputs = CONSOLES.lock();
    outputs.level = filter(level);
    let Outputs { terminal, lines, level, .. } = &mut *outputs;
    terminal.iter_mut().for_each(|terminal| terminal.follow(*level, lines));
}

/// Leaves every console to who comes after us, as the kernel made it, with the newest lines on the first one. Nothing is
/// written there afterwards: the kernel would wait for it when it runs the next program, with nobody to feed a watchdog.
pub fn hand_over() {
    let mut outputs = CONSOLES.lock();
    stop_if_panicked();
    outputs.is_over = true;
    let Outputs { terminal, ports, lines, level, .. } = &mut *outputs;
    terminal.iter_mut().for_each(|terminal| terminal.leave(*level, lines));
    let until = Instant::now() + LAST_LINES;
    ports.iter_mut().for_each(|port| port.leave(until));
    stop_if_panicked();
}

/// Nobody has come after us: every console shows again what it showed before [`hand_over`].
pub fn take_back() {
    let mut outputs = CONSOLES.lock();
    outputs.is_over = false;
    let Outputs { terminal, ports, .. } = &mut *outputs;
    terminal.iter_mut().for_each(Terminal::take_back);
    ports.iter_mut().for_each(Port::take);
}

/// Says lines of a thread that panics. Whatever the log holds or has come to, all is opened anew, and no lock is taken.
pub fn last_words(lines: &[String]) {
    let mut outputs = Outputs { kernel: open_kernel_log(), ..Outputs::NONE };
    outputs.open_consoles();
    outputs.terminal.iter_mut().for_each(Terminal::clear_screen);
    lines.iter().for_each(|line| outputs.write(Level::Error, &one_line(line)));
}

fn open(level: LogLevel, open: impl FnOnce(&mut Outputs)) {
    // The kernel may have locked this on its command line; then its limit stays, and the consoles have it all.
    let _ = fs::write(KERNEL_LOG_LIMIT, "on\n");
    let mut outputs = CONSOLES.lock();
    outputs.level = filter(level);
    outputs.kernel = open_kernel_log();
    open(&mut outputs);
    drop(outputs);
    // Only a second call can fail, and a second logger would write the same lines.
    let _ = log::set_logger(&CONSOLES);
}

fn open_kernel_log() -> Option<File> {
    OpenOptions::new().write(true).open(KERNEL_LOG).ok()
}

fn kernel_ports(names: &[String]) -> Vec<Port> {
    let mut ports: Vec<Port> = names.iter().filter_map(|name| Port::open(name)).collect();
    if ports.is_empty() {
        ports.extend(Port::open("console"));
    }
    ports
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Quiet => LevelFilter::Warn,
        LogLevel::Normal => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    }
}

/// Draws and looks for keys until another program runs.
fn watch() {
    loop {
        thread::sleep(TURN);
        CONSOLES.lock().turn();
    }
}

static CONSOLES: Consoles = Consoles { outputs: Mutex::new(Outputs::NONE) };

struct Consoles {
    outputs: Mutex<Outputs>,
}

impl Consoles {
    fn lock(&self) -> MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Outputs {
    level: LevelFilter,
    ports: Vec<Port>,
    terminal: Option<Terminal>,
    kernel: Option<File>,
    file: Option<BootLog>,
    lines: Lines,
    /// The consoles are left to others.
    is_over: bool,
}

impl Outputs {
    const NONE: Self = Self {
        level: LevelFilter::Info,
        ports: Vec::new(),
        terminal: None,
        kernel: None,
        file: None,
        lines: Lines(VecDeque::new()),
        is_over: false,
    };

    fn open_for_boot(&mut self) {
        self.open_consoles();
        self.terminal.iter_mut().for_each(Terminal::take_keys);
        self.ports.iter_mut().for_each(Port::take);
        self.file = BootLog::create(BOOT_LOG).ok();
    }

    fn open_consoles(&mut self) {
        self.terminal = Terminal::open();
        let mut names = ports::active();
        // The first virtual console is the one in front, too.
        names.retain(|name| self.terminal.is_none() || !["tty0", "tty1"].contains(&name.as_str()));
        let serial: Vec<String> = ports::serial().into_iter().filter(|name| !names.contains(name)).collect();
        self.ports =
            if names.is_empty() && self.terminal.is_some() { Vec::new() } else { kernel_ports(&names) };
        self.ports.extend(serial.iter().filter_map(|name| Port::open_serial(name)));
    }

    /// One turn of who draws.
    fn turn(&mut self) {
        // What is drawn now would hide what a panic says.
        stop_if_panicked();
        let Self { terminal, lines, ports, is_over, .. } = self;
        if *is_over {
            return;
        }
        terminal.iter_mut().for_each(|terminal| terminal.turn(since_boot(), lines));
        for port in ports.iter_mut().filter_map(|port| port.was_pressed().then_some(port)) {
            port.chosen = port.chosen.map_or(Some(LevelFilter::Debug), |_| None);
        }
    }

    fn write(&mut self, level: Level, text: &str) {
        let line = format!("[{:8.3}] {text}\r\n", since_boot().as_secs_f64());
        if !self.is_over {
            self.show(level, &line);
        }
        if let Some(kernel) = &mut self.kernel {
            // As debug messages of a user program: the kernel must not print them on the consoles again.
            let _ = kernel.write_all(format!("<15>zstrap: {text}\n").as_bytes());
        }
        // What finds no room would find none later.
        if self.file.as_mut().is_some_and(|file| file.add(&line.replace('\r', "")).is_err()) {
            self.file = None;
        }
        self.lines.push(level, line);
    }

    fn show(&mut self, level: Level, line: &str) {
        for port in &mut self.ports {
            if level <= port.chosen.unwrap_or(self.level) {
                port.write(line.as_bytes());
            }
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.line(line, level, self.level);
        }
    }
}

/// The newest lines and their levels, for who asks for them.
struct Lines(VecDeque<(Level, String)>);

impl Lines {
    fn push(&mut self, level: Level, line: String) {
        if self.0.len() >= KEPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back((level, line));
    }

    /// The last so many up to a level.
    fn tail(&self, level: LevelFilter, count: usize) -> impl Iterator<Item = &str> {
        let shown = || self.0.iter().filter(move |(of, _)| *of <= level);
        shown().skip(shown().count().saturating_sub(count)).map(|(_, line)| line.as_str())
    }

    /// The last one up to a level, without its time; empty if there is none.
    fn newest(&self, level: LevelFilter) -> &str {
        let line = self.tail(level, 1).next().unwrap_or_default();
        line.split_once("] ").map_or(line, |(_, text)| text).trim_end()
    }
}

impl Log for Consoles {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries below us log every packet; their own targets are paths of modules.
        !metadata.target().contains("::") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // Who ends a boot that has panicked may hold the lock itself.
        if !self.enabled(record.metadata()) || is_ending() {
            return;
        }
        let text = one_line(&format!("{}: {}", record.target(), record.args()));
        self.lock().write(record.level(), &text);
    }

    fn flush(&self) {}
}

/// Control characters of foreign text must not move the cursor or forge a line.
fn one_line(text: &str) -> String {
    let clean = without_controls(text);
    match clean.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_LINE) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

fn without_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
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

    #[test]
    fn the_newest_lines_are_those_that_a_person_may_see() {
        let mut lines = Lines(VecDeque::new());
        assert_eq!(lines.newest(LevelFilter::Info), "");
        for number in 0..2 * KEPT_LINES {
            lines.push(Level::Info, format!("[   1.000] fetch: {number}\r\n"));
            lines.push(Level::Debug, "[   1.000] fetch: packet\r\n".to_owned());
        }
        assert_eq!(lines.0.len(), KEPT_LINES);
        assert_eq!(lines.newest(LevelFilter::Info), format!("fetch: {}", 2 * KEPT_LINES - 1));
        assert_eq!(lines.newest(LevelFilter::Debug), "fetch: packet");
        assert_eq!(lines.tail(LevelFilter::Info, 3).count(), 3);
    }
}
