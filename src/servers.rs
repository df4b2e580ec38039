//! The servers of the identity, and how good each of them has been.
//!
//! In: an identity. Out: answers: the first server that answers at all, a signed file that is whole and good at one
//! server, and the order in which to ask for blobs. A server that is dead, stalled, slow or lying is left for the
//! next, and stands behind the others for a while. Failure: every server was asked, and the best reason is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use zstrap_formats::config::MAX_CONFIG;
use zstrap_formats::identity::Identity;
use zstrap_formats::site;
use zstrap_formats::url::Scheme;

use crate::console::status;
use crate::fail::{Chain, Code, Refusal};
use crate::http::{self, HttpError, Patience, Server, ServerError, Source};
use crate::media::Media;
use crate::watchdog;

/// A server that has not answered for this long is no longer waited for alone.
const HEAD_START: Duration = Duration::from_secs(1);
/// Longer than any probe lasts.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// How often to do something else while waiting.
const MEANWHILE: Duration = Duration::from_millis(250);
/// How long a failure counts.
const LATELY: Duration = Duration::from_secs(300);

/// Why a server is left for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection, or no answer on it.
    Dead,
    /// The connection broke.
    Cut,
    /// The connection stands, and nothing comes.
    Stalled,
    /// Too little comes.
    Slow,
    /// It does not have the file.
    Missing,
    /// It answered with another status than success.
    Status,
    /// It gave another part than it was asked for.
    Range,
    /// It gave bytes that cannot be right.
    Lying,
    /// Its copy of a signed file was refused, for this reason.
    Refused(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "dead",
            Self::Cut => "cut",
            Self::Stalled => "stalled",
            Self::Slow => "slow",
            Self::Missing => "missing",
            Self::Status => "status",
            Self::Range => "range",
            Self::Lying => "lying",
            Self::Refused(word) => word,
        })
    }
}

impl Why {
    /// Why a server is left whose answer to a request was this.
    #[must_use]
    pub fn of(error: &HttpError) -> Self {
        match error {
            HttpError::NotFound { .. } => Self::Missing,
            HttpError::Status { .. } => Self::Status,
            HttpError::TooLarge { .. } => Self::Lying,
            HttpError::Range { .. } => Self::Range,
            HttpError::Certificate { .. } | HttpError::Transport { .. } => Self::Dead,
        }
    }

    /// Why a server is left whose signed file was refused for this reason.
    fn of_reason(reason: &'static str) -> Self {
        match reason {
            "io" => Self::Dead,
            "not-found" => Self::Missing,
            "http-status" => Self::Status,
            _ => Self::Refused(reason),
        }
    }

    /// How much a person learns from it: what a server said is worth more than its silence, and a lie more than that.
    fn weight(self) -> u8 {
        match self {
            Self::Dead | Self::Cut | Self::Stalled | Self::Slow | Self::Range => 0,
            Self::Missing | Self::Status => 1,
            Self::Lying | Self::Refused(_) => 2,
        }
    }
}

/// Of several errors the one that is told: the first of the greatest weight, and the last of those that weigh nothing.
#[derive(Debug)]
pub struct Best<E> {
    kept: Option<(u8, E)>,
}

impl<E> Default for Best<E> {
    fn default() -> Self {
        Self { kept: None }
    }
}

impl<E> Best<E> {
    /// One more error.
    pub fn add(&mut self, why: Why, error: E) {
        let weight = why.weight();
        if self.kept.as_ref().is_none_or(|(kept, _)| weight > *kept || weight == 0 && *kept == 0) {
            self.kept = Some((weight, error));
        }
    }

    /// The one to tell.
    #[must_use]
    pub fn into_inner(self) -> Option<E> {
        self.kept.map(|(_, error)| error)
    }
}

/// What time it is, and waiting: real in the init, virtual in tests.
pub trait Time: Send + Sync {
    /// Since a start of its own.
    fn now(&self) -> Duration;

    /// Waits.
    fn pause(&self, pause: Duration);
}

struct RealTime(Instant);

impl Time for RealTime {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self, pause: Duration) {
        watchdog::expect_within(pause + watchdog::WORK);
        thread::sleep(pause);
    }
}

/// What is known of one server.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// Failures since it last gave a whole file.
    failures: u32,
    failed_at: Option<Duration>,
    has_lied: bool,
    /// What it gave in all, and in which time of one connection.
    bytes: u64,
    time: Duration,
    /// Bytes a second when it was left for being slow.
    slow: Option<u64>,
    /// Until when it wants to be left alone.
    busy_until: Option<Duration>,
}

impl Health {
    fn busy_for(&self, now: Duration) -> Duration {
        self.busy_until.map_or(Duration::ZERO, |at| at.saturating_sub(now))
    }
}

/// How good each server was so far, by its URL. It outlives attempts; connections do not.
#[derive(Clone)]
pub struct Memory {
    time: Arc<dyn Time>,
    servers: Arc<Mutex<BTreeMap<String, Health>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_time(Arc::new(RealTime(Instant::now())))
    }
}

impl Memory {
    /// A memory that follows this clock.
    pub fn with_time(time: Arc<dyn Time>) -> Self {
        Self { time, servers: Arc::default() }
    }

    fn health(&self) -> MutexGuard<'_, BTreeMap<String, Health>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, server: &str) -> Health {
        self.health().get(server).copied().unwrap_or_default()
    }

    fn change(&self, server: &str, change: impl FnOnce(&mut Health)) {
        change(self.health().entry(server.to_owned()).or_default());
    }

    /// How long it is until one of the servers wants to be asked again: nothing, unless all have asked to be left alone.
    #[must_use]
    pub fn wait(&self) -> Duration {
        let now = self.time.now();
        self.health().values().map(|health| health.busy_for(now)).min().unwrap_or_default()
    }

    /// How far behind a server stands: liars last, then those that failed lately, the more often the further.
    fn rank(&self, server: &str) -> (bool, u32) {
        let health = self.of(server);
        let now = self.time.now();
        let is_lately = health.failed_at.is_some_and(|at| now.saturating_sub(at) < LATELY);
        (health.has_lied, if is_lately { health.failures } else { 0 })
    }
}

/// One server of [`Servers`], by its place in the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Index(usize);

struct Mirror {
    source: Arc<dyn Source>,
    name: String,
    /// What came from it through this network, over all connections.
    bytes: AtomicU64,
    /// It has lied: what it says is not asked for any more.
    is_out: AtomicBool,
}

/// All servers of an identity, for one attempt through one network: a connection kept from another link would lead
/// into nowhere.
pub struct Servers {
    mirrors: Vec<Mirror>,
    memory: Memory,
    head_start: Duration,
    /// What the kernel is asked for a thread with.
    threads: fn() -> thread::Builder,
}

/// The state of a search for the first answer.
struct Search {
    /// How many of the order were asked.
    asked: usize,
    last_asked: Option<Index>,
    /// Those that have not answered yet.
    open: Vec<Index>,
    /// Those that have answered, but not with what a server of ours has.
    lost: Vec<(Index, Why)>,
    /// When the next one is asked, or nothing more is waited for.
    next_at: Instant,
}

impl Search {
    fn begin() -> Self {
        Self { asked: 0, last_asked: None, open: Vec::new(), lost: Vec::new(), next_at: Instant::now() }
    }

    fn time_to_next(&self) -> Duration {
        self.next_at.saturating_duration_since(Instant::now())
    }

    fn opened(&mut self, index: Index, wait: Duration) {
        self.asked += 1;
        self.last_asked = Some(index);
        self.open.push(index);
        self.next_at = Instant::now() + wait;
    }

    fn closed(&mut self, index: Index, is_last: bool) {
        self.open.retain(|other| *other != index);
        // The newest one has answered: if it has failed, the next need not wait for its second to pass.
        if self.last_asked == Some(index) && !is_last {
            self.next_at = Instant::now();
        }
    }
}

/// What the image will ask for first, which a server of ours has.
struct Probe {
    path: String,
    limit: u64,
    is_pinned: bool,
}

/// Why what answers is no server of ours, or nothing answers.
struct NotOurs {
    why: Why,
    cause: Cause,
    may_be_clock: bool,
    /// How long it wants to be left alone.
    wait: Option<Duration>,
}

impl NotOurs {
    fn of(error: &HttpError) -> Self {
        let cause = Cause { code: error.code_of_probe(), text: Chain(error).to_string() };
        let (may_be_clock, wait) = (error.may_be_clock(), HttpError::wait_in(error));
        Self { why: Why::of(error), cause, may_be_clock, wait }
    }

    /// What went wrong may have done so somewhere else: a hotspot leads to a name that nobody here knows, or to a
    /// certificate for it.
    fn led_astray(mut self, error: &HttpError, server: &dyn Source, path: &str) -> Self {
        let is_elsewhere = match error {
            HttpError::Certificate { .. } => true,
            HttpError::Transport { source, .. } => !http::is_timeout(source),
            _ => false,
        };
        if is_elsewhere {
            self.cause.text.push_str(&place(server, path));
        }
        self
    }
}

/// Where a server leads to who asks for this, in words.
fn place(server: &dyn Source, path: &str) -> String {
    server.leads_to(path).map(|place| format!(" (it leads to {place})")).unwrap_or_default()
}

/// Why one server was no help through one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Which of all failures it would be, were it the only one.
    pub code: Code,
    /// Whose, and why.
    pub text: String,
}

type Answer = Result<(), NotOurs>;

impl Probe {
    fn of(identity: &Identity) -> Self {
        let (path, limit) = match &identity.config.pin {
            Some(pin) => (site::config_by_hash(&pin.sha256), MAX_CONFIG),
            None => (site::config_latest(&identity.config.name), site::MAX_LATEST),
        };
        Self { path, limit: limit as u64, is_pinned: identity.config.pin.is_some() }
    }

    /// Anything else that answers on a server's address, such as the login page of a hotel, is not our server.
    fn ask(&self, server: &dyn Source) -> Answer {
        let bytes = match server.probe(&self.path, self.limit) {
            Ok(bytes) => bytes,
            // A page of a stranger is longer than what was asked for.
            Err(HttpError::TooLarge { .. }) => Vec::new(),
            Err(error) => return Err(NotOurs::of(&error).led_astray(&error, server, &self.path)),
        };
        let (is_ours, what) = if self.is_pinned {
            // A config of other bytes is one for the config stage to refuse; a page of a stranger is no config at all.
            (bytes.trim_ascii_start().starts_with(b"{"), "the pinned config")
        } else {
            (site::parse_latest(&bytes).is_some(), "a serial number")
        };
        if is_ours {
            return Ok(());
        }
        // What is empty, or a page, was made by nobody who serves a site.
        let hint = "something other than a site answers, such as the login page of a network";
        let place = place(server, &self.path);
        let text = format!("{}/{}: not {what}: {hint}{place}", server.name(), self.path);
        let cause = Cause { code: Code::NotOurs, text };
        Err(NotOurs { why: Why::Lying, cause, may_be_clock: false, wait: None })
    }
}

/// Through this network, no server gave what the image asks for first.
#[derive(Debug)]
pub struct NoAnswer {
    /// What each of them said.
    pub reasons: Vec<Cause>,
    /// Whether a wrong clock of this machine could be why.
    pub may_be_clock: bool,
}

impl Servers {
    /// The servers of `identity`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn new(identity: &Identity, memory: &Memory) -> Result<Self, ServerError> {
        let patience = if identity.servers.len() > 1 { Patience::AMONG_OTHERS } else { Patience::ALONE };
        let sources = identity.servers.iter().map(|url| -> Result<Arc<dyn Source>, ServerError> {
            Ok(match url.scheme() {
                Scheme::File => Arc::new(Media::new(url)),
                Scheme::Http | Scheme::Https => Arc::new(Server::new(url, identity, patience)?),
            })
        });
        Ok(Self::of_sources(sources.collect::<Result<_, _>>()?, memory))
    }

    /// Those servers of `identity` that need no network; none when it has none of that kind. Their folder is looked
    /// for when they are first asked.
    #[must_use]
    pub fn on_media(identity: &Identity, memory: &Memory) -> Option<Self> {
        let urls = identity.servers.iter().filter(|url| url.scheme() == Scheme::File);
        let sources: Vec<_> = urls.map(|url| Arc::new(Media::new(url)) as Arc<dyn Source>).collect();
        (!sources.is_empty()).then(|| Self::of_sources(sources, memory))
    }

    /// Servers behind these sources.
    pub fn of_sources(sources: Vec<Arc<dyn Source>>, memory: &Memory) -> Self {
        let mirror = |source: Arc<dyn Source>| Mirror {
            name: source.name(),
            source,
            bytes: AtomicU64::new(0),
            is_out: AtomicBool::new(false),
        };
        let mirrors = sources.into_iter().map(mirror).collect();
        Self { mirrors, memory: memory.clone(), head_start: HEAD_START, threads: thread::Builder::new }
    }

    fn mirror(&self, index: Index) -> &Mirror {
        &self.mirrors[index.0]
    }

    /// The server itself.
    #[must_use]
    pub fn source(&self, index: Index) -> &dyn Source {
        &*self.mirror(index).source
    }

    /// How long it is until a server wants to be asked again.
    #[must_use]
    pub fn busy_for(&self, index: Index) -> Duration {
        self.memory.of(self.name(index)).busy_for(self.time().now())
    }

    /// Of these servers, those that may be asked now; while all of them want to be left alone, the first that may.
    #[must_use]
    pub fn due(&self, servers: Vec<Index>) -> Vec<Index> {
        let busy: Vec<_> = servers.into_iter().map(|index| (self.busy_for(index), index)).collect();
        let soonest = busy.iter().map(|(time, _)| *time).min().unwrap_or_default();
        busy.into_iter().filter(|(time, _)| *time == soonest).map(|(_, index)| index).collect()
    }

    /// Its URL.
    #[must_use]
    pub fn name(&self, index: Index) -> &str {
        &self.mirror(index).name
    }

    /// The clock that waits are measured with.
    #[must_use]
    pub fn time(&self) -> &dyn Time {
        &*self.memory.time
    }

    /// All servers, the best first: as in the identity, those that failed lately behind.
    fn ranked(&self) -> Vec<Index> {
        let mut all: Vec<Index> = (0..self.mirrors.len()).map(Index).collect();
        all.sort_by_cached_key(|index| self.memory.rank(self.name(*index)));
        all
    }

    /// Those that have not lied through this network, the best first.
    #[must_use]
    pub fn usable(&self) -> Vec<Index> {
        let mut usable = self.ranked();
        usable.retain(|index| !self.mirror(*index).is_out.load(Ordering::Relaxed));
        usable
    }

    /// Whether it has neither failed nor lied lately.
    #[must_use]
    pub fn is_healthy(&self, index: Index) -> bool {
        self.memory.rank(self.name(index)) == (false, 0)
    }

    /// A server has failed; one that brought something before it did has failed for the first time. It may want to be
    /// left alone for a while, which what comes on another connection does not shorten.
    pub fn failed(&self, index: Index, brought_something: bool, wait: Option<Duration>) {
        let now = self.time().now();
        if let Some(wait) = wait {
            log::warn!(target: "servers", "busy server={} wait={}s", self.name(index), wait.as_secs());
        }
        self.memory.change(self.name(index), |health| {
            health.failures = if brought_something { 1 } else { health.failures.saturating_add(1) };
            health.failed_at = Some(now);
            health.busy_until = health.busy_until.max(wait.map(|wait| now.saturating_add(wait)));
        });
    }

    /// A server is too slow: so many bytes a second.
    pub fn was_slow(&self, index: Index, rate: u64) {
        self.failed(index, true, None);
        self.memory.change(self.name(index), |health| health.slow = Some(rate));
    }

    /// A server gave a whole good file that it was asked for at `begun`. What it did wrong since then still counts, and
    /// nothing that it did before, not even a lie: a site that was repaired would stand behind a dead one for ever.
    pub fn succeeded(&self, index: Index, begun: Duration) {
        self.memory.change(self.name(index), |health| {
            if health.failed_at.is_none_or(|at| at < begun) {
                *health = Health { bytes: health.bytes, time: health.time, ..Health::default() };
            }
        });
    }

    /// A server gave a whole file of wrong bytes: it is asked for nothing more through this network, and later behind
    /// all others, until one of its files is good.
    pub fn has_lied(&self, index: Index) {
        self.mirror(index).is_out.store(true, Ordering::Relaxed);
        self.failed(index, false, None);
        self.memory.change(self.name(index), |health| health.has_lied = true);
    }

    /// Bytes came from a server.
    pub fn gave(&self, index: Index, bytes: u64) {
        self.mirror(index).bytes.fetch_add(bytes, Ordering::Relaxed);
        status::received(bytes);
    }

    /// One connection of a server brought this much in this time.
    pub fn brought(&self, index: Index, bytes: u64, time: Duration) {
        self.memory.change(self.name(index), |health| {
            health.bytes = health.bytes.saturating_add(bytes);
            health.time += time;
        });
    }

    /// All that came from a server through this network.
    #[must_use]
    pub fn bytes_of(&self, index: Index) -> u64 {
        self.mirror(index).bytes.load(Ordering::Relaxed)
    }

    /// All that came through this network.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.mirrors.iter().map(|mirror| mirror.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Whether leaving a server that brings `rate` bytes a second for this one is likely to help.
    #[must_use]
    pub fn is_likely_faster(&self, index: Index, rate: u64) -> bool {
        let health = self.memory.of(self.name(index));
        // Twice as fast, so that two slow ones do not take turns.
        self.is_healthy(index) || !health.has_lied && health.slow.is_some_and(|slow| slow / 2 > rate)
    }

    /// Says that a server is left, and for which.
    pub fn log_left(&self, index: Index, why: Why, next: Index) {
        let (left, next) = (self.name(index), self.name(next));
        log::warn!(target: "servers", "left server={left} why={why} for={next}");
    }

    /// Those that have brought something through this network.
    fn bringers(&self) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().filter(|mirror| mirror.bytes.load(Ordering::Relaxed) > 0)
    }

    /// Says what each of several servers has brought through this network, and how fast they were in this boot. One that
    /// has brought nothing was not needed, or it was said why it was left.
    pub fn log_brought(&self) {
        if self.mirrors.len() < 2 {
            return;
        }
        for mirror in self.bringers() {
            let health = self.memory.of(&mirror.name);
            let seconds = health.time.as_secs_f64();
            let rate = if seconds > 0.0 { health.bytes as f64 / seconds / 1024.0 } else { 0.0 };
            let (name, bytes) = (&mirror.name, mirror.bytes.load(Ordering::Relaxed));
            log::info!(target: "servers", "brought server={name} bytes={bytes} rate={rate:.0}KiB/s");
        }
    }

    /// Asks each server for a whole signed file until one gives a good one: a file and its signatures belong
    /// together, so what one server refuses is never patched with what another has.
    ///
    /// # Errors
    /// When all were asked: of what they said, what tells most.
    ///
    /// # Panics
    /// Without servers, which no identity is.
    pub fn ask<T, E: Refusal>(&self, mut ask: impl FnMut(&dyn Source) -> Result<T, E>) -> Result<T, E> {
        let (order, mut best) = (self.due(self.ranked()), Best::default());
        for (at, &index) in order.iter().enumerate() {
            let begun = self.time().now();
            let error = match ask(self.source(index)) {
                Ok(answer) => {
                    self.succeeded(index, begun);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let why = Why::of_reason(error.reason());
            self.failed(index, false, HttpError::wait_in(&error));
            if order.len() > 1 {
                log::warn!(target: "servers", "no good answer server={} {}", self.name(index), Chain(&error));
            }
            if let Some(&next) = order.get(at + 1) {
                self.log_left(index, why, next);
            }
            best.add(why, error);
        }
        Err(best.into_inner().expect("an identity has at least one server"))
    }

    /// The URL of the first server that has what the image will ask for first; the others stand behind it. They are
    /// asked in order, each a second after the one before or as soon as that has failed, so that a dead one costs a
    /// second.
    ///
    /// # Errors
    /// [`NoAnswer`] when none has it.
    pub fn first_answer(&self, identity: &Identity) -> Result<String, NoAnswer> {
        self.first_answer_while(identity, &mut || ())
    }

    /// The same, doing something again and again while waiting, such as loading drivers of media that show up late.
    ///
    /// # Errors
    /// [`NoAnswer`] when none has it.
    pub fn first_answer_while(
        &self,
        identity: &Identity,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<String, NoAnswer> {
        let (probe, order) = (Arc::new(Probe::of(identity)), self.due(self.ranked()));
        let (sender, answers) = mpsc::channel();
        let mut search = Search::begin();
        let mut nobody = NoAnswer { reasons: self.skipped(&order), may_be_clock: false };
        loop {
            watchdog::expect_within(watchdog::WORK);
            if search.time_to_next().is_zero() {
                // The last of them has got all the time that a probe may take.
                let Some(&index) = order.get(search.asked) else { return Err(nobody) };
                self.ask_for_probe(index, &probe, sender.clone());
                let is_last = search.asked + 1 == order.len();
                search.opened(index, if is_last { LAST_WAIT } else { self.head_start });
            }
            let Ok((index, answer)) = answers.recv_timeout(search.time_to_next().min(MEANWHILE)) else {
                meanwhile();
                continue;
            };
            search.closed(index, search.asked == order.len());
            match answer {
                Ok(()) => {
                    self.won(index, &order, &search);
                    return Ok(self.name(index).to_owned());
                }
                Err(refusal) => self.lost(index, refusal, &mut search, &mut nobody),
            }
            if search.open.is_empty() && search.asked == order.len() {
                return Err(nobody);
            }
        }
    }

    /// Why the others are not asked.
    fn skipped(&self, order: &[Index]) -> Vec<Cause> {
        let skipped = self.ranked().into_iter().filter(|index| !order.contains(index));
        let cause = |index: Index| {
            let (name, seconds) = (self.name(index), self.busy_for(index).as_secs());
            log::warn!(target: "servers", "busy server={name} wait={seconds}s");
            Cause {
                code: Code::StatusAtFirst,
                text: format!("{name}: wants to be left alone for another {seconds}s"),
            }
        };
        skipped.map(cause).collect()
    }

    fn ask_for_probe(&self, index: Index, probe: &Arc<Probe>, answers: mpsc::Sender<(Index, Answer)>) {
        let (source, probe) = (Arc::clone(&self.mirror(index).source), Arc::clone(probe));
        let answer = answers.clone();
        // Not waited for: it ends by its own bounds. Nobody listens any more once another server has won.
        let asked = (self.threads)().spawn(move || answer.send((index, probe.ask(&*source))));
        // Short of memory, the kernel gives no thread; that must not be the end of the first process.
        if let Err(error) = asked {
            let text = format!("{}: no thread to ask it: {error}", self.name(index));
            let cause = Cause { code: Code::Unreachable, text };
            let refusal = NotOurs { why: Why::Dead, cause, may_be_clock: false, wait: None };
            let _ = answers.send((index, Err(refusal)));
        }
    }

    fn lost(&self, index: Index, refusal: NotOurs, search: &mut Search, nobody: &mut NoAnswer) {
        log::warn!(target: "network", "no answer server={} {}", self.name(index), refusal.cause.text);
        self.failed(index, false, refusal.wait);
        search.lost.push((index, refusal.why));
        nobody.may_be_clock |= refusal.may_be_clock;
        nobody.reasons.push(refusal.cause);
    }

    /// Those that were asked before the winner, and have said nothing until now, stand behind it.
    fn won(&self, winner: Index, order: &[Index], search: &Search) {
        let place = |index: &Index| order.iter().position(|other| other == index);
        for &(index, why) in &search.lost {
            self.log_left(index, why, winner);
        }
        for &index in search.open.iter().filter(|index| place(index) < place(&winner)) {
            log::warn!(target: "network", "no answer server={} yet", self.name(index));
            self.failed(index, false, None);
            self.log_left(index, Why::Dead, winner);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;
    use crate::http::{Body, From};
    use crate::retry::Retry;
    use crate::signed;
    use crate::sys::fake::{self, Fault, Site};

    /// A site of the sample identity.
    fn good(name: &str) -> Site {
        fake::site_with_config(fake::CONFIG).0.called(name)
    }

    fn with_latest(name: &str, latest: &[u8]) -> Site {
        let mut site = good(name);
        site.insert(&site::config_latest(&fake::identity().config.name), latest);
        site
    }

    fn search(sites: &[&Site]) -> Result<String, NoAnswer> {
        let servers = fake::mirrors(sites);
        servers.first_answer(&fake::identity())
    }

    fn names(servers: &Servers) -> Vec<&str> {
        servers.usable().into_iter().map(|index| servers.name(index)).collect()
    }

    /// A server whose packets are dropped: it never says anything.
    struct BlackHole;

    impl Source for BlackHole {
        fn get(&self, _: &str, _: u64) -> Result<Vec<u8>, HttpError> {
            loop {
                thread::park();
            }
        }

        fn open(&self, path: &str, _: &From, _: u64) -> Result<Body, HttpError> {
            Err(HttpError::NotFound { url: path.to_owned() })
        }

        fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
            self.get(path, limit)
        }

        fn name(&self) -> String {
            "hole".to_owned()
        }
    }

    #[test]
    fn a_login_page_is_not_our_server() {
        let identity = fake::identity();
        let mut site = Site::default();
        let latest = site::config_latest(&identity.config.name);
        let ask = |site: &Site, identity: &Identity| {
            Probe::of(identity).ask(site).map_err(|refusal| refusal.cause.text)
        };
        assert!(ask(&site, &identity).unwrap_err().contains("not found"));
        site.insert(&latest, b"<html>log in</html>");
        assert!(ask(&site, &identity).unwrap_err().contains("not a serial number"));
        site.insert(&latest, b"1763625600\n");
        assert_eq!(ask(&site, &identity), Ok(()));
        let (mut site, mut identity) = fake::site_with_config(fake::CONFIG);
        let pin = fake::pin(&mut site, &mut identity);
        assert_eq!(ask(&site, &identity), Ok(()));
        site.insert(&site::config_by_hash(&pin.sha256), b"<html>log in</html>");
        assert!(ask(&site, &identity).unwrap_err().contains("not the pinned config"));
    }

    #[test]
    fn the_first_of_the_identity_that_answers_is_used() {
        assert_eq!(search(&[&good("a"), &good("b")]).unwrap(), "a");
        let dead = good("a").with(Fault::Dead);
        assert_eq!(search(&[&dead, &with_latest("b", b"<html>"), &good("c"), &good("d")]).unwrap(), "c");
        let none = search(&[&dead, &with_latest("b", b"<html>")]).unwrap_err();
        assert_eq!(none.reasons.len(), 2);
        assert!(!none.may_be_clock);
    }

    #[test]
    fn a_server_that_says_nothing_costs_its_head_start_and_no_more() {
        let memory = Memory::default();
        let sources: Vec<Arc<dyn Source>> =
            vec![Arc::new(BlackHole), Arc::new(good("b")), Arc::new(good("c"))];
        let servers =
            Servers { head_start: Duration::from_millis(20), ..Servers::of_sources(sources, &memory) };
        assert_eq!(servers.first_answer(&fake::identity()).unwrap(), "b");
        assert_eq!(names(&servers), ["b", "c", "hole"]);
    }

    #[test]
    fn servers_that_brought_nothing_are_not_said_to_have_brought_something() {
        let servers = fake::mirrors(&[&good("a").with(Fault::Dead), &good("b"), &good("c")]);
        let first = servers.first_answer(&fake::identity()).unwrap();
        servers.gave(servers.usable()[0], 7);
        let bringers: Vec<&str> = servers.bringers().map(|mirror| mirror.name.as_str()).collect();
        assert_eq!(bringers, [first]);
    }

    #[test]
    fn a_server_for_which_the_kernel_had_no_thread_was_a_panic() {
        // No machine has a stack of that size.
        let threads = || thread::Builder::new().stack_size(1 << 60);
        let servers = Servers { threads, ..fake::mirrors(&[&good("a"), &good("b")]) };
        let none = servers.first_answer(&fake::identity()).unwrap_err();
        assert_eq!(none.reasons.len(), 2);
        assert!(none.reasons[0].text.starts_with("a: no thread to ask it: "), "{:?}", none.reasons);
        assert!(!servers.is_healthy(servers.ranked()[0]));
    }

    #[test]
    fn a_failure_counts_for_a_while_and_a_lie_for_good() {
        let site = good("a");
        let servers = fake::mirrors(&[&site, &good("b"), &good("c")]);
        let index = |name: &str| servers.ranked().into_iter().find(|i| servers.name(*i) == name).unwrap();
        servers.failed(index("a"), false, None);
        assert_eq!(names(&servers), ["b", "c", "a"]);
        servers.failed(index("b"), false, None);
        servers.failed(index("b"), false, None);
        assert_eq!(names(&servers), ["c", "a", "b"]);
        servers.has_lied(index("c"));
        assert_eq!(names(&servers), ["a", "b"]);
        site.time.pass(LATELY);
        assert_eq!(names(&servers), ["a", "b"]);
        assert!(!servers.is_healthy(index("c")));
    }

    #[test]
    fn only_when_all_servers_ask_for_a_pause_there_is_one() {
        let a = good("a");
        let servers = fake::mirrors(&[&a, &good("b")]);
        let wait = || servers.memory.wait().as_secs();
        servers.failed(Index(0), false, Some(Duration::from_secs(60)));
        servers.failed(Index(1), false, Some(Duration::from_secs(20)));
        assert_eq!(wait(), 20);
        a.time.pass(Duration::from_secs(15));
        assert_eq!(wait(), 5);
        servers.succeeded(Index(1), a.time.now());
        assert_eq!(wait(), 0);
    }

    #[test]
    fn another_answer_without_a_wait_erased_the_one_that_a_server_asked_for() {
        let servers = fake::mirrors(&[&good("a")]);
        servers.failed(Index(0), false, Some(Duration::from_secs(60)));
        for _ in 1..http::CONNECTIONS {
            servers.failed(Index(0), true, None);
            servers.failed(Index(0), true, Some(Duration::from_secs(1)));
            servers.succeeded(Index(0), Duration::ZERO);
        }
        assert_eq!(servers.busy_for(Index(0)), Duration::from_secs(60));
    }

    const ATTEMPTS: Retry = Retry { first: Duration::from_secs(1), cap: Duration::from_secs(60), tries: 20 };

    fn refused(source: HttpError) -> config::Error {
        signed::Error::Get { what: "config".to_owned(), source }.into()
    }

    /// When a busy server and a dead one are asked in nine attempts, by these two kinds of questions in turn.
    fn asked_in_turn(ask: [fn(&Servers); 2]) -> [Vec<u64>; 2] {
        let busy = good("a").with(Fault::Busy).asking_for(60);
        let mut dead = good("b").with(Fault::Dead);
        dead.time = busy.time.clone();
        let memory = Memory::with_time(busy.time.clone());
        for (attempt, ask) in (1..=9).zip(ask.into_iter().cycle()) {
            ask(&fake::mirrors_known(&[&busy, &dead], &memory));
            busy.time.pause(ATTEMPTS.pause_after(attempt, 0).unwrap().max(memory.wait()));
        }
        [busy, dead].map(|site| site.gets().iter().map(Duration::as_secs).collect())
    }

    #[test]
    fn a_busy_server_was_asked_before_its_time_when_another_was_dead() {
        let search = |servers: &Servers| {
            let none = servers.first_answer(&fake::identity()).unwrap_err();
            assert_eq!(none.reasons.len(), 2);
        };
        let get = |servers: &Servers| {
            servers.ask(|server| server.get("latest", 10).map_err(refused)).unwrap_err();
        };
        for ask in [[search as fn(&Servers), get], [get as fn(&Servers), search]] {
            let [busy, dead] = asked_in_turn(ask);
            assert_eq!(dead, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
            assert_eq!(busy, [0, 63, 123, 183]);
        }
    }

    #[test]
    fn a_success_makes_up_for_earlier_failures_only() {
        let site = good("a");
        let servers = fake::mirrors(&[&site, &good("b")]);
        let a = servers.ranked()[0];
        site.time.pass(Duration::from_secs(1));
        servers.failed(a, true, None);
        // It was asked before that.
        servers.succeeded(a, Duration::ZERO);
        assert_eq!(names(&servers), ["b", "a"]);
        servers.succeeded(a, Duration::from_secs(2));
        assert_eq!(names(&servers), ["a", "b"]);
    }

    #[test]
    fn a_liar_that_gives_a_good_file_in_a_later_attempt_is_one_like_the_others() {
        let site = good("a");
        let memory = Memory::with_time(site.time.clone());
        let earlier = fake::mirrors_known(&[&site, &good("b")], &memory);
        earlier.has_lied(Index(0));
        let servers = fake::mirrors_known(&[&site, &good("b")], &memory);
        assert_eq!(names(&servers), ["b", "a"]);
        // It was asked before it lied.
        servers.succeeded(Index(0), Duration::ZERO);
        assert_eq!(names(&servers), ["b", "a"]);
        servers.succeeded(Index(0), Duration::from_secs(1));
        assert_eq!(names(&servers), ["a", "b"]);
        // Through the network on which it lied it stays out.
        assert_eq!(names(&earlier), ["b"]);
    }

    #[test]
    fn what_is_remembered_outlives_servers_and_connections_do_not() {
        let mut identity = fake::identity();
        identity.servers = ["http://a", "http://b"].map(|url| url.parse().unwrap()).to_vec();
        let memory = Memory::default();
        let first = Servers::new(&identity, &memory).unwrap();
        first.has_lied(first.usable()[0]);
        assert_eq!(names(&first), ["http://b"]);
        let second = Servers::new(&identity, &memory).unwrap();
        assert_eq!(names(&second), ["http://b", "http://a"]);
        for (old, new) in first.mirrors.iter().zip(&second.mirrors) {
            assert!(!Arc::ptr_eq(&old.source, &new.source), "{}", old.name);
        }
    }

    #[test]
    fn servers_on_media_are_asked_without_a_network() {
        let mut identity = fake::identity();
        assert!(Servers::on_media(&identity, &Memory::default()).is_none());
        identity.servers = ["http://a", "file:///site"].map(|url| url.parse().unwrap()).to_vec();
        let servers = Servers::on_media(&identity, &Memory::default()).unwrap();
        assert_eq!(names(&servers), ["file:///site"]);
    }

    fn config_of(sites: &[&Site]) -> Result<u64, &'static str> {
        let (identity, cmdline) = (fake::identity(), zstrap_formats::cmdline::Cmdline::default());
        let config = config::obtain(&fake::mirrors(sites), &identity, &cmdline, fake::now().into());
        config.map(|config| config.serial()).map_err(|error| error.reason())
    }

    /// A site whose config was signed by a stranger.
    fn forged(name: &str) -> Site {
        let mut site = good(name);
        let path = site::config(&fake::identity().config.name, fake::SERIAL);
        site.insert(&path, b"{}");
        site
    }

    #[test]
    fn a_signed_file_is_taken_whole_from_the_first_good_server() {
        let path = site::config(&fake::identity().config.name, fake::SERIAL);
        let unsigned = {
            let mut site = good("unsigned");
            site.remove(&site::signature(&path));
            site
        };
        let busy = good("busy").with(Fault::Busy);
        let html = with_latest("html", b"<html>");
        let ahead = with_latest("ahead", b"99999999999");
        for bad in [&unsigned, &busy, &html, &ahead, &forged("forged")] {
            assert_eq!(config_of(&[bad, &good("good")]), Ok(fake::SERIAL), "{}", bad.name);
        }
    }

    #[test]
    fn of_several_refusals_a_lie_is_told_rather_than_silence() {
        let dead = good("dead").with(Fault::Dead);
        let missing = Site::default().called("missing");
        assert_eq!(config_of(&[&dead, &forged("b"), &with_latest("c", b"<html>")]), Err("bad-signature"));
        assert_eq!(config_of(&[&dead, &with_latest("b", b"<html>"), &forged("c")]), Err("not-a-serial"));
        assert_eq!(config_of(&[&dead, &missing]), Err("not-found"));
        assert_eq!(config_of(&[&missing, &dead]), Err("not-found"));
        assert_eq!(config_of(&[&dead, &dead]), Err("io"));
    }

    #[test]
    fn several_servers_are_waited_for_less_than_one() {
        let (one, several) = (http::Patience::ALONE, http::Patience::AMONG_OTHERS);
        assert!(several.stall < one.stall && several.answer < one.answer && several.connect < one.connect);
    }
}
