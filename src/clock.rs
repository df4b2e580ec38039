//! Which time it is, and whom the node believes about it.
//!
//! In: what the hardware clock said, the image's build time, the identity's `clock` setting, and refusals that a
//! wrong clock may have caused. Out: the system clock, set, and whether it can be believed. The hardware clock
//! itself is left alone. Failure: the clock stays as it is, never before the build time, and one line says why.
//!
//! A wrong clock must not stop a boot, and the network must not turn it back: plain network time is only taken where
//! the hardware clock is not believed, and a time that is taken in its place must come with a certificate chain.

mod https;
mod ntp;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use rustls::CertificateError;
use zstrap_formats::identity::{Clock as Setting, Identity};
use zstrap_formats::signature::SignatureError;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_formats::url::{Scheme, Url};
use zstrap_wire::sntp;

use crate::http::BadCertificate;
use crate::watchdog;

/// How long after its build an image believes the hardware clock.
const WINDOW: u64 = 15 * 365 * DAY;
/// How long all NTP servers together may take.
const NTP: Duration = Duration::from_secs(3);
/// How long all HTTPS servers together may take, names and proxy included.
const HTTPS: Duration = Duration::from_secs(8);
/// Clocks that differ by no more than this agree: a `Date` has whole seconds, and took a moment to come.
const AGREES: Duration = Duration::from_secs(2);

/// The system clock as it stands, within the years that a time can name.
#[must_use]
pub fn now() -> Timestamp {
    stamp(Kernel.time())
}

/// Puts the system clock forward, never back.
pub fn raise_clock(floor: Timestamp, why: &str) {
    raise(&Kernel, floor, why);
}

/// The clock, and how far it can be believed.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What it says.
    pub time: Timestamp,
    /// Whether the hardware or the network said so; else it is only the earliest time that it can be.
    pub is_known: bool,
}

/// A time that somebody told, as it is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    /// Since 1970.
    time: Duration,
    /// When it was that, by our own count.
    at: Instant,
    /// Who said so.
    server: String,
}

impl Told {
    fn now(&self) -> Duration {
        self.time + self.at.elapsed()
    }
}

/// Clock and network as the machine has them; tests have others.
trait World {
    /// The system clock, since 1970.
    fn time(&self) -> Duration;
    /// Sets the system clock.
    fn set(&self, time: Duration) -> io::Result<()>;
    /// Time since the machine began, whatever its clock says.
    fn uptime(&self) -> Duration;
    /// The first time at or after `floor` that one of these servers tells; else an earlier one.
    fn ask_ntp(&self, servers: &[IpAddr], floor: Duration) -> Option<Told>;
    /// The latest of the times that these servers tell under a certificate that is valid then.
    fn ask_https(&self, servers: &[Url], identity: &Identity) -> Option<Told>;
}

/// The clock of one boot, over all its attempts.
pub struct Clock {
    world: Box<dyn World>,
    /// What the hardware clock said, and how long the machine ran by then. Read once: later, the system clock is ours.
    hardware: Option<(Duration, Duration)>,
    /// No time is earlier: when the image was built.
    floor: Timestamp,
    setting: Setting,
    belief: Belief,
    asked: Asked,
    ntp: Vec<IpAddr>,
    https: Vec<Url>,
}

/// Whose time the system clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    /// Nobody's: the earliest that it can be.
    Nobody,
    /// The hardware clock's, within its window.
    Hardware,
    /// A time server's.
    Ntp,
    /// A server's whose certificate chain is valid at that time.
    Https,
}

/// Who was asked already. Each is asked once an attempt and link.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    ntp: bool,
    https: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self::of(Box::new(Kernel))
    }
}

impl Clock {
    fn of(world: Box<dyn World>) -> Self {
        Self {
            world,
            hardware: None,
            floor: stamp(Duration::ZERO),
            setting: Setting::Hardware,
            belief: Belief::Hardware,
            asked: Asked::default(),
            ntp: Vec::new(),
            https: Vec::new(),
        }
    }

    /// The time of this moment.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { time: stamp(self.world.time()), is_known: self.belief != Belief::Nobody }
    }

    /// Begins an attempt. The first one judges the hardware clock: outside its window, which begins at the build time
    /// and is 15 years long, it is not believed, and the system clock stands at the build time instead, as no
    /// signature and no certificate that matters is older. A dead battery must not stop a boot.
    pub fn begin(&mut self, build_time: Timestamp, setting: Setting) {
        (self.floor, self.setting, self.asked) = (build_time, setting, Asked::default());
        if self.hardware.is_none() {
            self.judge_hardware();
        }
        raise(&*self.world, build_time, "before-image-was-built");
    }

    fn judge_hardware(&mut self) {
        let (time, until) = (self.world.time(), self.floor.plus(WINDOW));
        self.hardware = Some((time, self.world.uptime()));
        let is_believed = (self.floor..=until).contains(&stamp(time));
        self.belief = if is_believed { Belief::Hardware } else { Belief::Nobody };
        let (floor, believed) = (self.floor, if is_believed { "yes" } else { "no" });
        log::info!(target: "clock", "ok hardware={} floor={floor} until={until} believed={believed}", stamp(time));
        if stamp(time) > until {
            log::warn!(target: "clock", "lowered from={} to={floor} why=after-window", stamp(time));
            set(&*self.world, since_1970(floor));
        }
    }

    /// Once a link works and before a server is asked: asks these servers for the time, if the hardware clock is not
    /// believed or the identity wants network time. Of `https`, those that are HTTPS are asked; both lists are kept
    /// for [`Clock::ask_once`].
    pub fn settle(&mut self, ntp: &[IpAddr], https: &[Url], identity: &Identity) {
        self.ntp = ntp.to_vec();
        self.https = https.iter().filter(|url| url.scheme() == Scheme::Https).cloned().collect();
        // Another link, other servers: who did not answer through the last one may do so through this.
        self.asked = Asked::default();
        let is_wanted = match self.belief {
            Belief::Nobody => true,
            Belief::Hardware => self.setting == Setting::Network,
            Belief::Ntp | Belief::Https => false,
        };
        if !is_wanted {
            return;
        }
        if self.ntp.is_empty() && self.https.is_empty() {
            self.say("none", None, "no", "no-server");
        }
        self.hear_ntp();
        if self.belief != Belief::Ntp {
            self.hear_https(identity);
        }
    }

    /// Whether a refusal could be the clock's fault: a certificate that is not valid now, or a signature that has
    /// expired or is of the future. Errors are looked for through the whole chain of causes.
    #[must_use]
    pub fn blames(&self, error: &(dyn Error + 'static)) -> bool {
        is_about_time(error) || error.source().is_some_and(|cause| self.blames(cause))
    }

    /// Asks for the time because of a refusal; each source only once an attempt and link. Whether the clock was set,
    /// so that it is worth trying again.
    pub fn ask_once(&mut self, identity: &Identity) -> bool {
        self.hear_ntp() || self.hear_https(identity)
    }

    /// Does something that may be refused because of the clock; once more, if the clock was wrong indeed.
    ///
    /// # Errors
    /// Those of the last try.
    pub fn corrected<T, E: Error + 'static>(
        &mut self,
        identity: &Identity,
        mut run: impl FnMut(Now) -> Result<T, E>,
    ) -> Result<T, E> {
        match run(self.now()) {
            Err(error) if self.blames(&error) && self.ask_once(identity) => run(self.now()),
            result => result,
        }
    }

    fn hear_ntp(&mut self) -> bool {
        if std::mem::replace(&mut self.asked.ntp, true) || self.ntp.is_empty() {
            return false;
        }
        watchdog::expect_within(NTP + watchdog::WORK);
        let told = self.world.ask_ntp(&self.ntp, since_1970(self.floor));
        self.hear(Belief::Ntp, told)
    }

    fn hear_https(&mut self, identity: &Identity) -> bool {
        if std::mem::replace(&mut self.asked.https, true) || self.https.is_empty() {
            return false;
        }
        watchdog::expect_within(HTTPS + watchdog::WORK);
        let told = self.world.ask_https(&self.https, identity);
        self.hear(Belief::Https, told)
    }

    /// Takes what was told, or says why not. Whether the clock was set.
    fn hear(&mut self, source: Belief, told: Option<Told>) -> bool {
        let word = if source == Belief::Ntp { "ntp" } else { "https" };
        let Some(told) = told else {
            self.say(word, None, "no", "no-answer");
            return false;
        };
        let verdict = self.judge(source, told.now());
        let (taken, why) = match verdict {
            Verdict::Take(why) => ("yes", why),
            Verdict::Agrees => ("no", "agrees"),
            Verdict::Leave(why) => ("no", why),
        };
        self.say(word, Some(&told), taken, why);
        let is_set = matches!(verdict, Verdict::Take(_)) && set(&*self.world, told.now());
        if is_set || (verdict == Verdict::Agrees && self.may_take(source).is_ok()) {
            self.belief = source;
        }
        is_set
    }

    fn judge(&self, source: Belief, time: Duration) -> Verdict {
        if stamp(time) < self.floor {
            return Verdict::Leave("below-floor");
        }
        if time.abs_diff(self.world.time()) <= AGREES {
            return Verdict::Agrees;
        }
        match self.may_take(source) {
            Ok(why) => Verdict::Take(why),
            Err(why) => Verdict::Leave(why),
        }
    }

    /// Whether this source may set the clock, and why.
    fn may_take(&self, source: Belief) -> Result<&'static str, &'static str> {
        match (source, self.belief) {
            (Belief::Https, _) => Ok("valid-chain"),
            (_, Belief::Https) => Err("https-told-before"),
            _ if self.setting == Setting::Network => Ok("setting"),
            (_, Belief::Nobody | Belief::Ntp) => Ok("hardware-outside-window"),
            (_, Belief::Hardware) => Err("hardware-in-window"),
        }
    }

    /// Both clocks, in one line.
    fn say(&self, source: &str, told: Option<&Told>, taken: &str, why: &str) {
        let (said, at) = self.hardware.unwrap_or_default();
        let hardware = stamp(said + self.world.uptime().saturating_sub(at));
        let network = told.map_or_else(|| "none".to_owned(), |told| stamp(told.now()).to_string());
        let server = told.map_or("none", |told| &told.server);
        log::info!(
            target: "clock",
            "hardware={hardware} network={network} source={source} server={server} taken={taken} why={why}",
        );
    }
}

/// What to do with a time that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Set the clock.
    Take(&'static str),
    /// The clock says the same.
    Agrees,
    /// Not to be believed.
    Leave(&'static str),
}

fn is_about_time(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<SignatureError>() {
        return matches!(error, SignatureError::Expired { .. } | SignatureError::FromFuture { .. });
    }
    if let Some(rustls::Error::InvalidCertificate(error)) = error.downcast_ref() {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        return matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. });
    }
    if let Some(error) = error.downcast_ref::<BadCertificate>() {
        return error.is_about_time();
    }
    // The `source` of these two skips the very error that they wrap.
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().is_some_and(|wrapped| is_about_time(wrapped));
    }
    match error.downcast_ref() {
        Some(ureq::Error::Io(wrapped)) => is_about_time(wrapped),
        Some(ureq::Error::Rustls(wrapped)) => is_about_time(wrapped),
        _ => false,
    }
}

fn raise(world: &dyn World, floor: Timestamp, why: &str) {
    let before = stamp(world.time());
    if before >= floor {
        return;
    }
    log::warn!(target: "clock", "raised from={before} to={floor} why={why}");
    set(world, since_1970(floor));
}

/// Sets the clock; whether the kernel would.
fn set(world: &dyn World, time: Duration) -> bool {
    let result = world.set(time);
    if let Err(error) = &result {
        log::warn!(target: "clock", "stays at {}, not {}: {error}", stamp(world.time()), stamp(time));
    }
    result.is_ok()
}

/// As a time that can be written; beyond the year 9999, its last second.
fn stamp(time: Duration) -> Timestamp {
    Timestamp::from_unix(0).expect("0 is a valid time").plus(time.as_secs())
}

fn since_1970(time: Timestamp) -> Duration {
    Duration::from_secs(time.unix())
}

/// The running kernel and the network.
struct Kernel;

impl World for Kernel {
    fn time(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    fn set(&self, time: Duration) -> io::Result<()> {
        let seconds = i64::try_from(time.as_secs()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let time = Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
        Ok(clock_settime(ClockId::Realtime, time)?)
    }

    fn uptime(&self) -> Duration {
        Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
    }

    fn ask_ntp(&self, servers: &[IpAddr], floor: Duration) -> Option<Told> {
        let servers: Vec<_> = servers.iter().map(|server| SocketAddr::new(*server, sntp::PORT)).collect();
        ntp::ask(&servers, floor, NTP)
    }

    fn ask_https(&self, servers: &[Url], identity: &Identity) -> Option<Told> {
        https::ask(servers, identity, HTTPS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;
    use crate::http::HttpError;
    use crate::signed;
    use crate::sys::fake;

    const YEAR: i64 = 365 * 86_400;
    const MONTH: i64 = 30 * 86_400;
    /// 2026-06-01, when the image was built.
    const BUILT: i64 = 1_780_272_000;
    /// 2026-11-21, when the node boots.
    const TRUE_TIME: i64 = 1_795_219_200;

    fn at(seconds: i64) -> Duration {
        Duration::from_secs(seconds.try_into().unwrap())
    }

    fn time(seconds: i64) -> Timestamp {
        stamp(at(seconds))
    }

    /// A machine room: clocks that say what a test wants, and what happened to them.
    #[derive(Clone, Default)]
    struct Room {
        clock: Rc<Cell<Duration>>,
        uptime: Rc<Cell<Duration>>,
        ntp: Option<i64>,
        https: Option<i64>,
        asked: Rc<RefCell<Vec<&'static str>>>,
    }

    impl Room {
        fn told(&self, who: &'static str, time: Option<i64>) -> Option<Told> {
            self.asked.borrow_mut().push(who);
            time.map(|seconds| Told { time: at(seconds), at: Instant::now(), server: who.to_owned() })
        }

        fn says(&self) -> i64 {
            self.clock.get().as_secs().try_into().unwrap()
        }
    }

    impl World for Room {
        fn time(&self) -> Duration {
            self.clock.get()
        }

        fn set(&self, time: Duration) -> io::Result<()> {
            self.clock.set(time);
            Ok(())
        }

        fn uptime(&self) -> Duration {
            self.uptime.get()
        }

        fn ask_ntp(&self, _: &[IpAddr], _: Duration) -> Option<Told> {
            self.told("ntp", self.ntp)
        }

        fn ask_https(&self, _: &[Url], _: &Identity) -> Option<Told> {
            self.told("https", self.https)
        }
    }

    impl Clock {
        /// A hardware clock that is right, and nobody to ask.
        pub(crate) fn pretended(time: Timestamp) -> Self {
            let room = Room { clock: Rc::new(Cell::new(since_1970(time))), ..Room::default() };
            Self::of(Box::new(room))
        }
    }

    fn tls(error: CertificateError) -> HttpError {
        let below = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error));
        HttpError::Transport { url: "https://boot.example.org".to_owned(), source: below }
    }

    fn signature(source: SignatureError) -> signed::Error {
        signed::Error::Signature { what: "list demo".to_owned(), source }
    }

    /// Why a site does not let a node boot at a time.
    #[derive(Debug, thiserror::Error)]
    enum Refused {
        #[error(transparent)]
        Tls(#[from] HttpError),
        #[error(transparent)]
        Signed(#[from] signed::Error),
    }

    /// A site over https. By default its certificate is a month old and good for two more, its list a day old.
    #[derive(Clone, Copy)]
    struct Site {
        certificate: (i64, i64),
        list: (i64, i64),
    }

    impl Default for Site {
        fn default() -> Self {
            let certificate = (TRUE_TIME - MONTH, TRUE_TIME + 2 * MONTH);
            Self { certificate, list: (TRUE_TIME - 86_400, TRUE_TIME + 3 * MONTH) }
        }
    }

    impl Site {
        fn answers(&self, now: Now) -> Result<(), Refused> {
            if now.time < time(self.certificate.0) {
                return Err(tls(CertificateError::NotValidYet).into());
            }
            if now.time > time(self.certificate.1) {
                return Err(tls(CertificateError::Expired).into());
            }
            Ok(())
        }

        fn gives_list(&self, now: Now) -> Result<(), Refused> {
            self.answers(now)?;
            let (created, expires, now) = (time(self.list.0), time(self.list.1), now.time);
            if now > expires {
                return Err(signature(SignatureError::Expired { expires, now }).into());
            }
            if created > now.plus(DAY) {
                return Err(signature(SignatureError::FromFuture { created, now }).into());
            }
            Ok(())
        }
    }

    fn room(hardware: i64, ntp: Option<i64>, https: Option<i64>) -> Room {
        Room { clock: Rc::new(Cell::new(at(hardware))), ntp, https, ..Room::default() }
    }

    /// One attempt: the stages that ask the clock, in their order.
    fn attempt(clock: &mut Clock, setting: Setting, site: Site) -> Result<(), Refused> {
        let identity = fake::identity();
        clock.begin(time(BUILT), setting);
        let (ntp, https) = ([IpAddr::from([192, 0, 2, 123])], ["https://boot.example.org".parse().unwrap()]);
        clock.settle(&ntp, &https, &identity);
        clock.corrected(&identity, |now| site.answers(now))?;
        clock.corrected(&identity, |now| site.gives_list(now))
    }

    fn boot(room: &Room, setting: Setting, site: Site) -> Result<(), Refused> {
        attempt(&mut Clock::of(Box::new(room.clone())), setting, site)
    }

    const CLOCKS: [i64; 4] = [0, 4_102_444_800, TRUE_TIME + 3 * YEAR, TRUE_TIME - 3 * MONTH];

    #[test]
    fn each_wrong_clock_boots_over_https_when_servers_tell_the_time() {
        for hardware in CLOCKS {
            for ntp in [None, Some(TRUE_TIME)] {
                let room = room(hardware, ntp, Some(TRUE_TIME));
                boot(&room, Setting::Hardware, Site::default())
                    .unwrap_or_else(|error| panic!("{hardware} {ntp:?}: {error}"));
                assert_eq!(room.says(), TRUE_TIME, "{hardware} {ntp:?}");
            }
        }
    }

    #[test]
    fn a_right_clock_asks_nobody() {
        let room = room(TRUE_TIME, Some(0), Some(0));
        boot(&room, Setting::Hardware, Site::default()).unwrap();
        assert!(room.asked.borrow().is_empty());
    }

    #[test]
    fn outside_the_window_plain_ntp_is_enough() {
        for hardware in [0, BUILT - 1, BUILT + 15 * YEAR + 1, 4_102_444_800] {
            let room = room(hardware, Some(TRUE_TIME), None);
            boot(&room, Setting::Hardware, Site::default()).unwrap();
            assert_eq!((room.says(), &room.asked.borrow()[..]), (TRUE_TIME, &["ntp"][..]), "{hardware}");
        }
    }

    #[test]
    fn within_the_window_plain_ntp_changes_nothing() {
        for hardware in [TRUE_TIME + 3 * YEAR, TRUE_TIME - 3 * MONTH, BUILT, BUILT + 15 * YEAR] {
            let room = room(hardware, Some(TRUE_TIME), None);
            boot(&room, Setting::Hardware, Site::default()).unwrap_err();
            assert_eq!((room.says(), &room.asked.borrow()[..]), (hardware, &["ntp", "https"][..]));
        }
    }

    #[test]
    fn the_setting_network_takes_plain_ntp_within_the_window() {
        for hardware in [TRUE_TIME, TRUE_TIME + 3 * YEAR, TRUE_TIME - 3 * MONTH] {
            let room = room(hardware, Some(TRUE_TIME), None);
            boot(&room, Setting::Network, Site::default()).unwrap();
            assert_eq!((room.says(), &room.asked.borrow()[..]), (TRUE_TIME, &["ntp"][..]));
        }
        let silent = room(TRUE_TIME, None, None);
        boot(&silent, Setting::Network, Site::default()).unwrap();
        assert_eq!(silent.says(), TRUE_TIME);
    }

    #[test]
    fn without_a_network_clock_the_earliest_time_is_used_and_signatures_may_raise_it() {
        for hardware in [0, 4_102_444_800] {
            let mut clock = Clock::of(Box::new(room(hardware, None, None)));
            clock.begin(time(BUILT), Setting::Hardware);
            assert_eq!((clock.now().time, clock.now().is_known), (time(BUILT), false));
        }
    }

    #[test]
    fn no_network_turns_the_clock_before_the_build_time() {
        for hardware in [0, TRUE_TIME, TRUE_TIME + 3 * YEAR] {
            for setting in [Setting::Hardware, Setting::Network] {
                let room = room(hardware, Some(BUILT - 1), Some(BUILT - 1));
                let site = Site { certificate: (0, BUILT - 1), ..Site::default() };
                boot(&room, setting, site).unwrap_err();
                assert_eq!(room.says(), hardware.max(BUILT));
            }
        }
    }

    #[test]
    fn ntp_that_lies_is_set_right_by_a_valid_chain() {
        let room = room(0, Some(BUILT + 1000), Some(TRUE_TIME));
        boot(&room, Setting::Hardware, Site::default()).unwrap();
        assert_eq!((room.says(), &room.asked.borrow()[..]), (TRUE_TIME, &["ntp", "https"][..]));
    }

    #[test]
    fn a_valid_chain_is_not_overruled_by_ntp_in_the_next_attempt() {
        let mut room = room(TRUE_TIME + 3 * YEAR, None, Some(TRUE_TIME));
        let mut clock = Clock::of(Box::new(room.clone()));
        attempt(&mut clock, Setting::Network, Site::default()).unwrap();
        room.ntp = Some(BUILT + 1000);
        clock.world = Box::new(room.clone());
        let expired = Site { list: (BUILT, TRUE_TIME - MONTH), ..Site::default() };
        attempt(&mut clock, Setting::Network, expired).unwrap_err();
        assert_eq!(room.says(), TRUE_TIME);
    }

    #[test]
    fn an_expired_list_stays_refused() {
        let expired = Site { list: (BUILT, TRUE_TIME - 1), ..Site::default() };
        for hardware in CLOCKS.into_iter().chain([TRUE_TIME]) {
            let room = room(hardware, Some(TRUE_TIME), Some(TRUE_TIME));
            let error = boot(&room, Setting::Hardware, expired).unwrap_err();
            let is_expired = SignatureError::Expired { expires: time(TRUE_TIME - 1), now: time(TRUE_TIME) };
            let Refused::Signed(signed::Error::Signature { source, .. }) = error else { panic!("{error}") };
            assert_eq!(source.to_string(), is_expired.to_string(), "{hardware}");
        }
    }

    #[test]
    fn nobody_is_asked_twice_in_one_attempt_and_link() {
        let identity = fake::identity();
        let room = room(TRUE_TIME, None, None);
        let mut clock = Clock::of(Box::new(room.clone()));
        let (ntp, https) = ([IpAddr::from([192, 0, 2, 123])], ["https://boot.example.org".parse().unwrap()]);
        clock.begin(time(BUILT), Setting::Hardware);
        clock.settle(&ntp, &https, &identity);
        assert!(!clock.ask_once(&identity) && !clock.ask_once(&identity));
        assert_eq!(room.asked.borrow()[..], ["ntp", "https"]);
        clock.begin(time(BUILT), Setting::Hardware);
        clock.ask_once(&identity);
        assert_eq!(room.asked.borrow().len(), 4);
    }

    #[test]
    fn plain_http_servers_are_not_asked_for_a_date() {
        let room = room(0, None, None);
        let mut clock = Clock::of(Box::new(room.clone()));
        clock.begin(time(BUILT), Setting::Hardware);
        let servers = ["http://192.0.2.1", "file:///media"].map(|url| url.parse().unwrap());
        clock.settle(&[], &servers, &fake::identity());
        assert!(room.asked.borrow().is_empty());
    }

    #[test]
    fn clocks_that_agree_give_no_reason_to_try_again() {
        let room = room(TRUE_TIME + 1, None, Some(TRUE_TIME));
        let mut clock = Clock::of(Box::new(room.clone()));
        clock.begin(time(BUILT), Setting::Hardware);
        clock.settle(&[], &["https://boot.example.org".parse().unwrap()], &fake::identity());
        assert!(!clock.ask_once(&fake::identity()));
        assert_eq!(room.says(), TRUE_TIME + 1);
    }

    #[test]
    fn the_hardware_clock_is_judged_once() {
        let room = room(0, None, None);
        let mut clock = Clock::of(Box::new(room.clone()));
        clock.begin(time(BUILT), Setting::Hardware);
        // A second attempt sees the system clock that the first has raised, which says nothing of the hardware.
        clock.begin(time(BUILT), Setting::Hardware);
        assert!(!clock.now().is_known);
    }

    #[test]
    fn blames_the_clock_for_times_and_for_nothing_else() {
        let clock = Clock::pretended(time(TRUE_TIME));
        let (early, late) = (time(BUILT), time(TRUE_TIME));
        let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::ZERO);
        for error in [
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::ExpiredContext { time: now, not_after: now },
            CertificateError::NotValidYetContext { time: now, not_before: now },
        ] {
            assert!(clock.blames(&tls(error.clone())), "{error:?}");
            let direct = ureq::Error::Rustls(rustls::Error::InvalidCertificate(error.clone())).into_io();
            assert!(clock.blames(&direct), "{error:?}");
        }
        let certificate = |source| HttpError::Certificate { url: String::new(), source };
        assert!(clock.blames(&certificate(BadCertificate::Expired { until: early, now: late })));
        assert!(!clock.blames(&certificate(BadCertificate::UnknownCa)));
        for error in [CertificateError::UnknownIssuer, CertificateError::NotValidForName] {
            assert!(!clock.blames(&tls(error)));
        }
        let expired = || SignatureError::Expired { expires: early, now: late };
        assert!(clock.blames(&signature(expired())));
        assert!(clock.blames(&crate::list::Error::Signed(signature(expired()))));
        assert!(clock.blames(&crate::config::Error::Signed(signature(expired()))));
        assert!(clock.blames(&signature(SignatureError::FromFuture { created: late, now: early })));
        assert!(!clock.blames(&HttpError::NotFound { url: String::new() }));
        assert!(!clock.blames(&io::Error::from(io::ErrorKind::TimedOut)));
    }
}
