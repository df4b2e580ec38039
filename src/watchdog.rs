//! The hardware watchdog: a machine whose init stands still is reset by its own hardware.
//!
//! In: [`expect_within`], by which whoever waits says how long that may take, and the watchdogs that the kernel shows
//! in sysfs (Documentation/ABI/testing/sysfs-class-watchdog). Out: a device that is fed as long as what was said has
//! not passed, and stopped, or left running, at handoff. Failure: without a device that can be stopped again there is
//! none; that is said, and the boot goes on. docs/init.md tells who declares what.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::console::since_boot;
use crate::sys::End;
use crate::sys::watchdog::{self as device, Device, MAGIC_CLOSE};

/// Where the kernel tells of its watchdogs.
const CLASS: &str = "/sys/class/watchdog";
/// Seconds without food after which the hardware resets the machine, while the init runs.
const TIMEOUT: u32 = 60;
/// It is fed so many times in that time: one that comes late must not be the last.
const MEALS: u32 = 6;
/// What the end of a machine may take at once without feeding: services that are killed, a disk that is flushed.
const ENDING: u32 = 60;
/// How often whoever is to feed one looks for it, while there is none.
const LOOK: Duration = Duration::from_secs(10);
/// How often the one that feeds looks whether that is due.
const FEEDER_LOOK: Duration = Duration::from_secs(1);

/// Work between two waits: checking a list, making its folders, lines on a console that takes a second for each.
pub const WORK: Duration = Duration::from_secs(60);
/// Nothing longer can be declared, so that nothing waits for ever.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

static EXPECTED: Expected = Expected::new();
static DOG: Mutex<Option<Dog>> = Mutex::new(None);

/// Says that the next sign of life, which is the next call of this, comes within this time. What the main thread says
/// replaces what it said before; what other threads say can only prolong it, as long as one of them has something to
/// wait for.
pub fn expect_within(limit: Duration) {
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    EXPECTED.within(since_boot(), limit, is_main);
}

/// Until when signs of life are expected, in milliseconds since the kernel started.
struct Expected {
    by_main: AtomicU64,
    by_others: AtomicU64,
    /// When the last one came.
    last: AtomicU64,
}

impl Expected {
    const fn new() -> Self {
        Self { by_main: AtomicU64::new(0), by_others: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    fn within(&self, now: Duration, limit: Duration, is_main: bool) {
        let until = millis(now + limit.min(LONGEST));
        match is_main {
            true => self.by_main.store(until, Ordering::Relaxed),
            false => drop(self.by_others.fetch_max(until, Ordering::Relaxed)),
        }
        self.last.fetch_max(millis(now), Ordering::Relaxed);
    }

    /// How long nothing has happened, if something should have.
    fn overdue(&self, now: Duration) -> Option<Duration> {
        let read = |at: &AtomicU64| Duration::from_millis(at.load(Ordering::Relaxed));
        let until = read(&self.by_main).max(read(&self.by_others));
        (now >= until).then(|| now.saturating_sub(read(&self.last)))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the kernel says of one watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// `watchdog0`.
    name: String,
    number: u32,
    identity: String,
    /// It can be stopped once it is open. What is not told counts as no.
    can_stop: bool,
    /// Somebody has started it.
    is_active: bool,
    timeout: u32,
}

impl Found {
    /// `read` gives a file of its folder.
    fn of(name: String, read: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = name.strip_prefix("watchdog")?.parse().ok()?;
        let can_stop = read("nowayout").as_deref() == Some("0");
        let is_active = read("state").as_deref() == Some("active");
        let timeout = read("timeout").and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Self {
            number,
            identity: read("identity").unwrap_or_default(),
            can_stop,
            is_active,
            timeout,
            name,
        })
    }

    fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Of several, the one that runs already and waits for food; then hardware, which needs no working kernel.
    fn rank(&self) -> (bool, bool, u32) {
        (!self.is_active, self.identity.starts_with("Software"), self.number)
    }
}

fn read_of(name: &str, file: &str) -> Option<String> {
    fs::read_to_string(format!("{CLASS}/{name}/{file}")).ok().map(|text| text.trim().to_owned())
}

fn all_found() -> Vec<Found> {
    let names = fs::read_dir(CLASS).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Found::of(name.clone(), |file| read_of(&name, file))).collect()
}

/// Those to try, best first; one that can't be stopped again only where somebody will feed it to the end.
fn choose(mut found: Vec<Found>, fed_for_ever: bool) -> Result<Vec<Found>, String> {
    found.sort_by_key(Found::rank);
    let refused = found.first().map(|one| format!("nowayout device={}", one.path()));
    found.retain(|one| fed_for_ever || one.can_stop);
    if found.is_empty() { Err(refused.unwrap_or_else(|| "no-device".to_owned())) } else { Ok(found) }
}

/// Opens a watchdog by its path.
type Open = fn(&str) -> io::Result<Box<dyn Device>>;

/// What is to be said once nobody waits for us: a console that is stuck must not keep the one that feeds.
type Notes = Vec<(log::Level, String)>;

fn say(notes: Notes) {
    notes.into_iter().for_each(|(level, text)| log::log!(target: "watchdog", level, "{text}"));
}

/// An open watchdog: it runs.
struct Dog {
    device: Box<dyn Device>,
    found: Found,
    timeout: u32,
    fed: Instant,
    notes: Notes,
}

impl Dog {
    fn start(timeout: u32, fed_for_ever: bool) -> Result<Self, String> {
        Self::first_of(choose(all_found(), fed_for_ever)?, timeout, fed_for_ever, device::open)
    }

    /// The first that will do; if none does, why the first one doesn't.
    fn first_of(found: Vec<Found>, timeout: u32, fed_for_ever: bool, open: Open) -> Result<Self, String> {
        let mut refused = None;
        for found in found {
            match Self::open(&found.path(), fed_for_ever, open) {
                Ok(device) => return Ok(Self::fed_from_now(device, found, timeout)),
                Err(why) => drop(refused.get_or_insert(why)),
            }
        }
        Err(refused.unwrap_or_default())
    }

    /// One that is refused is stopped again: it runs from the moment it is open.
    fn open(path: &str, fed_for_ever: bool, open: Open) -> Result<Box<dyn Device>, String> {
        let failed = |error| format!("io device={path} {error}");
        let device = open(path).map_err(failed)?;
        if fed_for_ever {
            return Ok(device);
        }
        // Kernels such as 6.1 do not tell this in sysfs. Without it, closing stops it, also at an exec: it can't be handed over.
        let why = match device.options() {
            Ok(options) if options & MAGIC_CLOSE != 0 => return Ok(device),
            Ok(_) => format!("no-magic-close device={path}"),
            Err(error) => failed(error),
        };
        // If it can't be stopped, either, it is not to be had.
        let _ = device.stop();
        Err(why)
    }

    fn fed_from_now(device: Box<dyn Device>, found: Found, timeout: u32) -> Self {
        let kept = found.timeout.max(1);
        let mut dog = Self { timeout: kept, device, found, fed: Instant::now(), notes: Vec::new() };
        dog.set_timeout(timeout);
        dog.feed();
        dog
    }

    /// A time that the hardware can't do leaves it as it was.
    fn set_timeout(&mut self, seconds: u32) {
        match self.device.set_timeout(seconds) {
            Ok(real) => self.timeout = real.max(1),
            Err(error) => {
                let (path, kept) = (self.found.path(), self.timeout);
                self.note(
                    log::Level::Warn,
                    format!("timeout not set device={path} asked={seconds}s kept={kept}s {error}"),
                );
            }
        }
    }

    /// What refuses its food resets the machine, and somebody should know why.
    fn feed(&mut self) {
        self.fed = Instant::now();
        if let Err(error) = self.device.feed() {
            self.note(log::Level::Error, format!("not fed device={} {error}", self.found.path()));
        }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(self.timeout.into()) / MEALS
    }

    fn note(&mut self, level: log::Level, text: String) {
        self.notes.push((level, text));
    }

    fn note_armed(&mut self) {
        let (path, timeout, identity) = (self.found.path(), self.timeout, &self.found.identity);
        let text = format!("armed device={path} timeout={timeout}s identity={identity}");
        self.note(log::Level::Info, text);
    }

    fn hand_over(&mut self, seconds: u32, supervise: bool) -> Notes {
        if !supervise {
            self.set_timeout(seconds);
        }
        self.feed();
        let feeder = if supervise { "the supervisor feeds it" } else { "the program must feed it" };
        let (path, timeout) = (self.found.path(), self.timeout);
        self.note(log::Level::Info, format!("handed over device={path} timeout={timeout}s: {feeder}"));
        self.take_notes()
    }

    fn take_notes(&mut self) -> Notes {
        std::mem::take(&mut self.notes)
    }

    fn stop(mut self) -> Notes {
        let (path, result) = (self.found.path(), self.device.stop());
        let state = read_of(&self.found.name, "state");
        self.notes.push(match (result, state.as_deref()) {
            (Ok(()), Some("active")) => (
                log::Level::Warn,
                format!("not stopped device={path}: it resets the machine unless it is fed"),
            ),
            (Ok(()), _) => (log::Level::Info, format!("stopped device={path}")),
            (Err(error), _) => (log::Level::Warn, format!("not stopped device={path} {error}")),
        });
        self.notes
    }
}

fn dog() -> MutexGuard<'static, Option<Dog>> {
    DOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a watchdog if there is one that can be stopped again, and has it fed as long as signs of life come. May be
/// called again and again: drivers show up late.
pub fn arm() {
    if let Err(why) = try_to_arm() {
        say_once(log::Level::Info, &why);
    }
}

/// The same where more drivers will come, so that nothing is to be said of none.
pub fn arm_early() {
    let _ = try_to_arm();
}

fn try_to_arm() -> Result<(), String> {
    // That of a machine which only runs our tests is not ours.
    if std::process::id() != 1 || dog().is_some() {
        return Ok(());
    }
    let mut armed = Dog::start(TIMEOUT, false)?;
    if let Err(error) = spawn_feeder() {
        say(armed.stop());
        return Err(format!("no-thread {error}"));
    }
    armed.note_armed();
    let notes = armed.take_notes();
    *dog() = Some(armed);
    say(notes);
    Ok(())
}

fn say_once(level: log::Level, why: &str) {
    static SAID: Mutex<String> = Mutex::new(String::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if *said != why {
        log::log!(target: "watchdog", level, "not armed why={why}");
        why.clone_into(&mut said);
    }
}

/// One thread for all time: it has nothing to do while there is no watchdog.
fn spawn_feeder() -> io::Result<()> {
    static IS_THERE: AtomicBool = AtomicBool::new(false);
    if IS_THERE.load(Ordering::Relaxed) {
        return Ok(());
    }
    thread::Builder::new().spawn(|| {
        let mut is_said = false;
        loop {
            thread::sleep(meal(&mut is_said));
        }
    })?;
    IS_THERE.store(true, Ordering::Relaxed);
    Ok(())
}

/// Feeds, if that is due and signs of life come as they should. How long until the next look is the answer: a shorter
/// time may have been set meanwhile.
fn meal(is_said: &mut bool) -> Duration {
    let mut dog = dog();
    let Some(there) = dog.as_mut() else { return FEEDER_LOOK };
    let overdue = EXPECTED.overdue(since_boot());
    if overdue.is_none() && there.fed.elapsed() >= there.every() {
        there.feed();
    }
    let (every, timeout, mut notes) = (there.every(), there.timeout, there.take_notes());
    drop(dog);
    if let Some(silent) = overdue.filter(|_| !*is_said) {
        let silent = silent.as_secs();
        let text = format!(
            "not fed: nothing has happened for {silent}s; the hardware resets the machine within {timeout}s"
        );
        notes.push((log::Level::Error, text));
    }
    *is_said = overdue.is_some();
    say(notes);
    every.min(FEEDER_LOOK)
}

/// Stops it, where nothing more is to be waited for.
pub fn stop() {
    let taken = dog().take();
    taken.into_iter().for_each(|dog| say(dog.stop()));
}

/// What becomes of the watchdog when the program of the config takes over, by `watchdog` and `supervise` of the config.
/// One that is left running is closed by exec itself, and fed until then.
pub fn hand_over(seconds: Option<u64>, supervise: bool) {
    let Some(seconds) = seconds.map(clamped) else { return stop() };
    let notes = dog().as_mut().map(|dog| dog.hand_over(seconds, supervise));
    match notes {
        Some(notes) => say(notes),
        // The supervisor says what it has found.
        None if supervise => {}
        None => log::warn!(target: "watchdog", "not handed over: the config asks for one, and none is armed"),
    }
}

/// The program did not take over: what was handed over is ours again.
pub fn take_back() {
    let notes = dog().as_mut().map(|dog| {
        dog.set_timeout(TIMEOUT);
        dog.feed();
        dog.take_notes()
    });
    say(notes.unwrap_or_default());
    arm();
}

fn clamped(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// The watchdog of the supervisor, which feeds it between two waits of its own: if that loop stands still, so does the
/// feeding.
pub struct Kept {
    /// Seconds; none when the config asks for none.
    timeout: Option<u32>,
    dog: Option<Dog>,
    next: Option<Instant>,
}

impl Kept {
    /// One that is opened at the first [`Kept::tend`].
    #[must_use]
    pub fn new(timeout: Option<u32>) -> Self {
        Self { timeout, dog: None, next: None }
    }

    /// Feeds it if that is due. The next call must come within the time that is the answer.
    pub fn tend(&mut self) -> Duration {
        let Some(timeout) = self.timeout else { return Duration::MAX };
        let now = Instant::now();
        if let Some(next) = self.next.filter(|next| now < *next) {
            return next - now;
        }
        match &mut self.dog {
            Some(dog) => dog.feed(),
            None => match Dog::start(timeout, true) {
                Ok(mut dog) => {
                    dog.note_armed();
                    self.dog = Some(dog);
                }
                Err(why) => say_once(log::Level::Warn, &why),
            },
        }
        self.dog.iter_mut().for_each(|dog| say(dog.take_notes()));
        let every = self.dog.as_ref().map_or(LOOK, Dog::every);
        self.next = Some(now + every);
        every
    }

    /// The end of the machine has begun, some steps of which take longer than a short time allows.
    pub fn begin_end(&mut self) {
        if let Some(dog) = &mut self.dog {
            dog.set_timeout(dog.timeout.max(ENDING));
            dog.feed();
            say(dog.take_notes());
        }
    }

    /// The last act before the kernel ends this boot. One that goes on resets a machine whose reboot hangs, and would
    /// start one again that was switched off or halted.
    pub fn end(&mut self, how: End) {
        match (how, self.dog.take()) {
            (_, None) => {}
            (End::Reboot, Some(mut dog)) => {
                dog.feed();
                say(dog.take_notes());
                // Closed, some would stop.
                std::mem::forget(dog);
            }
            (End::PowerOff | End::Halt, Some(dog)) => say(dog.stop()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn found(name: &str, files: &[(&str, &str)]) -> Found {
        let read = |file: &str| {
            let found = files.iter().find(|(name, _)| *name == file);
            found.map(|(_, text)| (*text).to_owned())
        };
        Found::of(name.to_owned(), read).unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_is_chosen_only_if_it_can_be_stopped_or_is_fed_for_ever() {
        let [open, shut] = [[("nowayout", "0")], [("nowayout", "1")]];
        let chosen = |all: &[Found], fed| choose(all.to_vec(), fed).map(|all| all[0].name.clone());
        let (a, b) = (found("watchdog0", &shut), found("watchdog1", &open));
        assert_eq!(chosen(&[a.clone(), b.clone()], false).unwrap(), "watchdog1");
        assert_eq!(chosen(&[b, a.clone()], true).unwrap(), "watchdog0");
        assert_eq!(chosen(std::slice::from_ref(&a), false).unwrap_err(), "nowayout device=/dev/watchdog0");
        assert!(chosen(&[found("watchdog0", &[])], false).is_err(), "what is not told counts as no");
        assert_eq!(chosen(&[], true).unwrap_err(), "no-device");
    }

    #[test]
    fn hardware_comes_before_software_and_the_running_one_before_all() {
        let soft = found("watchdog0", &[("nowayout", "0"), ("identity", "Software Watchdog")]);
        let hard = found("watchdog10", &[("nowayout", "0"), ("identity", "i6300ESB timer")]);
        let running = found("watchdog11", &[("nowayout", "0"), ("state", "active")]);
        let chosen =
            |all: [&Found; 2]| choose(all.map(Clone::clone).to_vec(), false).unwrap()[0].name.clone();
        assert_eq!(chosen([&soft, &hard]), "watchdog10");
        assert_eq!(chosen([&hard, &running]), "watchdog11");
        assert_eq!(chosen([&found("watchdog2", &[("nowayout", "0")]), &hard]), "watchdog2");
        assert!(Found::of("wd".to_owned(), |_| None).is_none());
    }

    #[test]
    fn what_the_main_thread_says_replaces_what_it_said() {
        let expected = Expected::new();
        expected.within(seconds(10), seconds(300), true);
        expected.within(seconds(11), seconds(5), true);
        assert_eq!(expected.overdue(seconds(15)), None);
        assert_eq!(expected.overdue(seconds(17)), Some(seconds(6)));
    }

    #[test]
    fn other_threads_only_prolong() {
        let expected = Expected::new();
        expected.within(seconds(10), seconds(60), false);
        expected.within(seconds(10), seconds(5), false);
        expected.within(seconds(20), seconds(1), true);
        assert_eq!(expected.overdue(seconds(69)), None, "one of them still waits");
        assert_eq!(expected.overdue(seconds(70)), Some(seconds(50)));
    }

    #[test]
    fn nothing_waits_for_ever() {
        let expected = Expected::new();
        expected.within(seconds(0), Duration::MAX, true);
        assert!(expected.overdue(LONGEST).is_some());
    }

    /// Devices by their names: one that stops at each close, one whose driver says nothing of itself, a good one.
    fn pretended(path: &str) -> io::Result<Box<dyn Device>> {
        match path {
            "/dev/watchdog0" => Err(io::ErrorKind::ResourceBusy.into()),
            "/dev/watchdog1" => Ok(Box::new(Pretended(Ok(0)))),
            "/dev/watchdog2" => Ok(Box::new(Pretended(Err(io::ErrorKind::Unsupported)))),
            _ => Ok(Box::new(Pretended(Ok(MAGIC_CLOSE)))),
        }
    }

    struct Pretended(Result<u32, io::ErrorKind>);

    thread_local! {
        static STOPPED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    impl Device for Pretended {
        fn options(&self) -> io::Result<u32> {
            Ok(self.0?)
        }
        fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
            Ok(seconds)
        }
        fn feed(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn stop(self: Box<Self>) -> io::Result<()> {
            STOPPED.set(STOPPED.get() + 1);
            Ok(())
        }
    }

    #[test]
    fn one_that_will_not_do_was_left_running_and_no_other_was_tried() {
        let all = |numbers: std::ops::Range<u32>| -> Vec<Found> {
            numbers.map(|n| found(&format!("watchdog{n}"), &[])).collect()
        };
        let first_of = |found, fed| Dog::first_of(found, 60, fed, pretended).map(|dog| dog.found.name);
        assert_eq!(first_of(all(0..4), false).unwrap(), "watchdog3");
        assert_eq!(STOPPED.get(), 2, "those that were opened in vain");
        assert!(first_of(all(1..3), false).unwrap_err().starts_with("no-magic-close device=/dev/watchdog1"));
        assert_eq!(STOPPED.get(), 4);
        // Whoever feeds to the end minds neither.
        assert_eq!(first_of(all(0..4), true).unwrap(), "watchdog1");
        assert_eq!(first_of(all(2..4), true).unwrap(), "watchdog2");
        assert_eq!(STOPPED.get(), 4);
    }

    /// Where this program waits, how often, and what declares it. docs/init.md tells of each.
    const WAITS: [(&str, usize, &str); 21] = [
        ("cache/verify.rs", 1, "each chunk of each content"),
        ("clock/https.rs", 1, "Clock::hear_https"),
        ("clock/ntp.rs", 1, "Clock::hear_ntp"),
        ("console/mod.rs", 1, "a thread beside, that draws"),
        ("console/ports.rs", 2, "a second for a line, five for the last of all, within WORK"),
        ("disk/mod.rs", 1, "wait_for_disks; each answer of a disk within DISK"),
        ("fail/mod.rs", 2, "pause; reboot, which declares once"),
        ("fail/panic.rs", 3, "last_words; those that stand still meanwhile declare nothing"),
        ("fetch.rs", 1, "the threads that are waited for declare their own waits"),
        ("http.rs", 3, "each request, and Awaited for what comes"),
        (
            "loops.rs",
            6,
            "a thread beside, in which alone the firmware is called; five seconds for its answer, within WORK",
        ),
        ("media.rs", 1, "Media::find"),
        ("net/renewal.rs", 2, "a thread beside; its end answers within a packet"),
        ("network/search.rs", 1, "Search::next_candidate"),
        ("node/lease/mod.rs", 2, "a program of its own, after handoff"),
        ("node/supervise.rs", 3, "after handoff: Kept::tend, or shorter than ENDING"),
        ("servers.rs", 2, "Servers::first_answer_while, RealTime::pause"),
        ("sys/names.rs", 2, "part of a request"),
        ("modules.rs", 1, "Modules::insert"),
        ("watchdog.rs", 1, "the one that feeds"),
        ("sys/linux.rs", 1, "end, which fail::reboot declares"),
    ];

    /// What waits, as it stands in a line.
    const WAITING: [&str; 16] = [
        "thread::sleep(",
        "recv_timeout(",
        ".recv()",
        "thread::park(",
        "poll(&mut fds,",
        "poll(&mut [",
        ".join()",
        "thread::scope(",
        ".call()",
        ".0.read(buffer)",
        "finit_module(",
        "fs::sync()",
        // Calls of EFI firmware.
        "store.read()",
        "store.write(",
        "store.delete()",
        "efi::Variable::open",
    ];

    #[test]
    fn no_wait_is_undeclared() {
        let mut found = std::collections::BTreeMap::new();
        sources(Path::new("src"), &mut |path, text| {
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
            let count = code.lines().filter(|line| WAITING.iter().any(|wait| line.contains(wait))).count();
            found.insert(path.strip_prefix("src/").unwrap().to_owned(), count);
        });
        found.retain(|_, count| *count > 0);
        let known = WAITS.iter().map(|(file, count, _)| ((*file).to_owned(), *count)).collect();
        assert_eq!(found, known, "declare each new wait, and name it above");
    }

    fn sources(folder: &Path, see: &mut dyn FnMut(&str, &str)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, see);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("fake.rs") {
                see(path.to_str().unwrap(), &fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// What was done to a device.
    #[derive(Clone, Default)]
    struct Calls(Arc<Mutex<Vec<String>>>);

    impl Calls {
        fn add(&self, call: &str) {
            self.0.lock().unwrap().push(call.to_owned());
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }

        fn dog(&self, timeout: u32) -> Dog {
            let (device, found) = (Box::new(self.clone()), found("watchdog0", &[]));
            Dog { device, found, timeout, fed: Instant::now(), notes: Vec::new() }
        }

        fn kept(&self, timeout: u32) -> Kept {
            Kept { timeout: Some(timeout), dog: Some(self.dog(timeout)), next: None }
        }
    }

    impl Device for Calls {
        fn options(&self) -> io::Result<u32> {
            Ok(MAGIC_CLOSE)
        }

        fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
            self.add(&format!("timeout {seconds}"));
            if seconds > 100 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(seconds) }
        }

        fn feed(&mut self) -> io::Result<()> {
            self.add("feed");
            Ok(())
        }

        fn stop(self: Box<Self>) -> io::Result<()> {
            self.add("stop");
            Ok(())
        }
    }

    #[test]
    fn a_time_that_the_hardware_cannot_do_is_not_believed() {
        let mut dog = Calls::default().dog(60);
        dog.set_timeout(101);
        assert_eq!((dog.timeout, dog.every()), (60, seconds(10)));
        let said = dog.take_notes();
        assert!(
            said[0].1.starts_with("timeout not set device=/dev/watchdog0 asked=101s kept=60s "),
            "{said:?}"
        );
        dog.set_timeout(6);
        assert_eq!(dog.every(), seconds(1));
    }

    #[test]
    fn the_supervisor_feeds_no_more_often_than_is_due() {
        let calls = Calls::default();
        let mut kept = calls.kept(60);
        assert_eq!(kept.tend(), seconds(10));
        assert!(kept.tend() <= seconds(10));
        assert_eq!(calls.take(), ["feed"]);
        assert_eq!(Kept::new(None).tend(), Duration::MAX);
    }

    #[test]
    fn only_a_reboot_leaves_it_running() {
        for (how, last) in [(End::Reboot, "feed"), (End::PowerOff, "stop"), (End::Halt, "stop")] {
            let calls = Calls::default();
            let mut kept = calls.kept(5);
            kept.begin_end();
            assert_eq!(calls.take(), ["timeout 60", "feed"], "services get their time");
            kept.end(how);
            assert_eq!(calls.take(), [last], "{how:?}");
        }
    }
}
