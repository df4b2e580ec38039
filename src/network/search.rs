//! Looking for a network on all links at once.
//!
//! In: a [`Plan`]. Out: [`Candidate`]s, each a link with settings that may lead to a server, in the order in which
//! they came. DHCPv4 and router advertisements run side by side; whatever a link learns later makes it a candidate
//! once more, with all that is known by then. While one is tried, the others hear no router: the kernel takes the routes
//! of every router, and an answer through another link would be taken for one through this.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zstrap_formats::network::{Method, Network};
use zstrap_wire::dhcp4::{Event, Lease};

use super::plan::{NotMade, Plan, Role};
use super::{Asked, Error};
use crate::console::since_boot;
use crate::modules::{self, Modules};
use crate::net::dhcp::Dhcp;
use crate::net::links::Link;
use crate::net::netlink;
use crate::net::settings::{Autoconfigured, Settings};
use crate::net::v6::{self, V6};
use crate::watchdog;

/// How long the other links get once a link has led to no server.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// How many refusals of one link give the others more time.
const MAX_EXTENSIONS: u32 = 3;
/// How long a hint keeps the other links waiting. All of it, also for a link that is not there: the kernel never says
/// that it has found all, and adapters at USB need seconds.
const HEAD_START: Duration = Duration::from_secs(10);
/// How long the others wait without a word: a link with a network behind it has learned of it by then.
const SILENT_START: Duration = Duration::from_secs(1);
/// A network without a router advertisement for this long has no IPv6: routers answer within half a second.
const ROUTER: Duration = Duration::from_secs(5);
/// How often to look for new links and carriers when the kernel sends no news.
const LOOK: Duration = Duration::from_millis(500);

/// When to say for the first time what is waited for; each time after that the pause doubles, up to the last.
const FIRST_WORD: Duration = Duration::from_secs(5);
const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// A link that may lead to a server.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub link: Link,
    /// What it is to have.
    pub settings: Settings,
    /// The lease, if the settings come from one.
    pub lease: Option<Lease>,
    /// When it was obtained, since the kernel started.
    pub obtained: Duration,
    /// What the kernel made of a router's advertisement, if there was one.
    pub made: Option<Autoconfigured>,
}

/// The search on all links.
pub struct Search<'a> {
    modules: &'a mut Modules,
    news: OwnedFd,
    plan: &'a Plan,
    wants_v6: bool,
    started: Instant,
    deadline: Duration,
    next_word: Duration,
    silence: Duration,
    hint_is_said: bool,
    links: BTreeMap<u32, Watch>,
    /// What could not be made, and when that was tried last.
    not_made: NotMade,
}

/// A link in use, and what it has learned.
struct Watch {
    link: Link,
    has_carrier: bool,
    since: Duration,
    dhcp: Option<Dhcp>,
    v6: Option<V6>,
    lease: Option<Lease>,
    obtained: Duration,
    router: Option<Settings>,
    /// Since when it hears no router because another link is tried.
    hushed: Option<Duration>,
    /// A router was heard before that, and not again yet.
    is_router_missed: bool,
    /// Routers that were complained of before that.
    told: Vec<Ipv6Addr>,
    tried: Option<Tried>,
    refusals: u32,
}

/// With what a link was tried.
#[derive(PartialEq, Eq)]
struct Tried {
    lease: Option<Settings>,
    router: Option<Settings>,
}

impl<'a> Search<'a> {
    /// Begins to look, for `deadline` at most. `wants_v6`: whether IPv6 could be of use.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn begin(
        modules: &'a mut Modules,
        plan: &'a Plan,
        wants_v6: bool,
        deadline: Duration,
    ) -> Result<Self, Error> {
        let failed = |source| Error::System { what: "opening rtnetlink".to_owned(), source };
        let news = netlink::open_link_news().map_err(failed)?;
        Ok(Self {
            modules,
            news,
            plan,
            wants_v6,
            started: Instant::now(),
            deadline,
            next_word: FIRST_WORD,
            silence: FIRST_WORD,
            hint_is_said: false,
            links: BTreeMap::new(),
            not_made: NotMade::new(),
        })
    }

    /// The next candidate; none after the deadline, or when every link has been tried with all that it can learn. From
    /// here to the next call, IPv6 leaves by the candidate's link alone.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn next_candidate(&mut self) -> Result<Option<Candidate>, Error> {
        let now = self.started.elapsed();
        self.links.values_mut().for_each(|watch| watch.resume(now));
        while self.started.elapsed() < self.deadline {
            watchdog::expect_within(watchdog::WORK);
            self.look_at_links();
            let now = self.started.elapsed();
            self.links.values_mut().for_each(|watch| watch.work(now));
            if let Some(candidate) = self.candidate(now) {
                let others = self.links.values_mut().filter(|watch| watch.link.index != candidate.link.index);
                others.for_each(|watch| watch.hush(now));
                return Ok(Some(candidate));
            }
            if self.is_exhausted(now) {
                break;
            }
            self.wait()?;
            self.say_what_is_missing(self.started.elapsed());
        }
        Ok(None)
    }

    /// A link led nowhere, which may have taken longer than all the time there was: the others get a little longer.
    /// All the time that was left is for links that somebody is at the other end of, and that have not learned
    /// anything yet: their switch may forward nothing for a minute. What a router gave the link must not shadow
    /// the others.
    pub fn refused(&mut self, link: &Link) {
        let soon = self.started.elapsed() + AFTER_REFUSAL;
        let is_awaited = self.links.values().any(Watch::is_awaited);
        let Some(watch) = self.links.get_mut(&link.index) else { return };
        watch.refusals += 1;
        // A link that changes its mind again and again does not make the search endless.
        if watch.refusals <= MAX_EXTENSIONS {
            self.deadline = if is_awaited { self.deadline.max(soon) } else { soon };
        }
        if watch.router.is_some() {
            watch.leave_routers();
        }
    }

    /// One link was chosen: what routers give the others must not shadow it, now or after handoff.
    pub fn settle_on(&mut self, link: &Link) {
        if !self.plan.listens_to_routers() {
            return;
        }
        // Those that were hushed for its trial have been left.
        let others = |watch: &&mut Watch| watch.link.index != link.index && watch.hushed.is_none();
        self.links.values_mut().filter(others).for_each(Watch::leave_routers);
    }

    /// Whether another machine has the lease's address, which may turn out only while it is in use. The lease is
    /// then declined, and another will come.
    pub fn is_contested(&mut self, candidate: &Candidate) -> bool {
        let now = self.started.elapsed();
        let Some(watch) = self.links.get_mut(&candidate.link.index) else { return false };
        let before = watch.lease.clone();
        watch.work(now);
        candidate.lease.is_some() && before.is_some() && watch.lease.is_none()
    }

    fn candidate(&mut self, now: Duration) -> Option<Candidate> {
        let (network, plan) = (self.plan.network(), self.plan);
        let is_open = self.is_open(now);
        if !is_open {
            self.say_what_hint_costs(now);
        }
        let waits = |link: &Link| !is_open && plan.prefers_another(link);
        self.links
            .values_mut()
            .filter(|watch| !waits(&watch.link))
            .find_map(|watch| watch.candidate(network, now))
    }

    /// Whether a hint keeps no other link waiting: it never came, or led nowhere.
    fn is_open(&self, now: Duration) -> bool {
        let is_hinted = |watch: &Watch| !self.plan.prefers_another(&watch.link);
        now >= HEAD_START || self.links.values().any(|watch| watch.tried.is_some() && is_hinted(watch))
    }

    /// Once, and only when it costs something.
    fn say_what_hint_costs(&mut self, now: Duration) {
        let Some(hint) = self.plan.hint().filter(|_| !self.hint_is_said && now >= SILENT_START) else {
            return;
        };
        let Some(missing) = missing_at_hint(self.links.values(), self.plan) else { return };
        self.hint_is_said = true;
        let left = HEAD_START.saturating_sub(now).as_secs();
        log::info!(target: "network", "hint link={hint} at-most={left}s longer: {missing}, and the others wait");
    }

    fn is_exhausted(&self, now: Duration) -> bool {
        !self.links.is_empty() && self.links.values().all(|watch| watch.is_exhausted(now))
    }

    fn look_at_links(&mut self) {
        netlink::drain(&self.news);
        let (now, mut links) = (self.started.elapsed(), Link::all());
        if self.plan.make_links(&links, self.modules, &mut self.not_made, now) {
            links = Link::all();
        }
        self.links.retain(|index, _| links.iter().any(|link| link.index == *index));
        for link in links {
            let role = self.plan.role(&link);
            if role == Role::Used && !self.links.contains_key(&link.index) {
                self.watch(&link, now);
            }
            if role == Role::Below {
                v6::deafen(&link);
            }
            // Links of a bond come up with it.
            if matches!(role, Role::Used | Role::Below)
                && !link.is_up()
                && let Err(error) = netlink::link_up(link.index)
            {
                log::debug!(target: "network", "link stays down link={} error={error}", link.name);
            }
            if role == Role::Used {
                self.look_at(link, now);
            }
        }
    }

    /// A link to use. IPv6 begins before it is up, so that its addresses need not wait for the check of their
    /// uniqueness; where routers are not to be listened to, the kernel must not do so by itself.
    fn watch(&mut self, link: &Link, now: Duration) {
        let mut watch = Watch::new(link.clone());
        if !self.plan.listens_to_routers() {
            v6::deafen(link);
        } else if self.wants_v6 {
            watch.v6 = begun(&link.name, "IPv6", V6::begin(link, now));
        }
        self.links.insert(link.index, watch);
    }

    fn look_at(&mut self, link: Link, now: Duration) {
        let Some(watch) = self.links.get_mut(&link.index) else { return };
        let begins = link.has_carrier() && !watch.has_carrier;
        watch.has_carrier = link.has_carrier();
        watch.link = link;
        if begins {
            watch.begin(&self.plan.network().method, now);
        }
    }

    /// A wait is never silent: somebody may stand before the screen.
    fn say_what_is_missing(&mut self, now: Duration) {
        // While a hint is waited for, that was said, and the others may lack nothing.
        if self.hint_is_said && !self.is_open(now) {
            self.next_word = now + FIRST_WORD;
        }
        if now < self.next_word {
            return;
        }
        self.silence = (self.silence * 2).min(LONGEST_SILENCE);
        self.next_word = now + self.silence;
        let missing = self.why_not();
        let left = self.deadline.saturating_sub(now).as_secs();
        log::info!(target: "network", "waiting at-most={left}s longer: {missing}");
    }

    /// Sleeps until a packet comes, a link changes, or it is time to send or to look again.
    fn wait(&mut self) -> Result<(), Error> {
        let now = self.started.elapsed();
        let wake = self.links.values().filter_map(Watch::wake).min().unwrap_or(now + LOOK);
        let pause = wake.saturating_sub(now).min(LOOK);
        let mut fds = vec![PollFd::from_borrowed_fd(self.news.as_fd(), PollFlags::IN)];
        for watch in self.links.values() {
            let dhcp = watch.dhcp.iter().flat_map(Dhcp::fds);
            let v6 = watch.v6.iter().flat_map(V6::fds);
            fds.extend(dhcp.chain(v6).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            // Quiet: time to see whether a driver has brought new devices.
            Ok(0) if self.modules.load_for_hardware() > 0 => watchdog::arm(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::System { what: "waiting for links".to_owned(), source: errno.into() });
            }
        }
        Ok(())
    }

    /// What is missing on the links that the plan uses, or on those that its links are to be made of.
    pub fn why_not(&self) -> Error {
        let waited = self.started.elapsed();
        let links = Link::all();
        let mut used: Vec<&Link> = links.iter().filter(|link| self.plan.role(link) == Role::Used).collect();
        if used.is_empty() {
            used = links.iter().filter(|link| self.plan.role(link) != Role::Ignored).collect();
        }
        let names = |chosen: &dyn Fn(&Link) -> bool| {
            let names: Vec<&str> = used.iter().filter(|l| chosen(l)).map(|l| l.name.as_str()).collect();
            names.join(" ")
        };
        if used.is_empty() {
            let others = links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(" ");
            Error::NoLink { waited, others, cards: modules::cards_without_driver().join(" ") }
        } else if used.iter().any(|link| link.has_carrier()) {
            let asked = asked(self.plan, self.wants_v6);
            Error::NoLease { asked, links: names(&Link::has_carrier), waited }
        } else {
            Error::NoCarrier { links: names(&|_| true), waited }
        }
    }
}

impl Watch {
    fn new(link: Link) -> Self {
        Self {
            link,
            has_carrier: false,
            since: Duration::ZERO,
            dhcp: None,
            v6: None,
            lease: None,
            obtained: Duration::ZERO,
            router: None,
            hushed: None,
            is_router_missed: false,
            told: Vec::new(),
            tried: None,
            refusals: 0,
        }
    }

    /// Somebody is at the other end: asks for all that the method allows, anew after each loss of the carrier, as the
    /// cable may be in another socket now.
    fn begin(&mut self, method: &Method, now: Duration) {
        let name = &self.link.name;
        log::debug!(target: "network", "carrier link={name} mac={}", self.link.mac_text());
        self.since = now;
        (self.tried, self.is_router_missed) = (None, false);
        if matches!(method, Method::Auto { v4: true, .. }) {
            self.lease = None;
            self.dhcp = begun(name, "DHCP", Dhcp::begin(&self.link, now));
        }
    }

    /// Takes IPv6 from the link for as long as another one is tried: not the default route alone, as a server may also
    /// stand in this link's own network.
    fn hush(&mut self, now: Duration) {
        if let Some(v6) = self.v6.take() {
            self.told = v6.leave();
            (self.hushed, self.is_router_missed) = (Some(now), self.router.take().is_some());
        }
    }

    /// Asks for routers again. A router that was heard has all its time to speak once more; where none was, the time of
    /// the trial does not count.
    fn resume(&mut self, now: Duration) {
        let Some(hushed) = self.hushed.take() else { return };
        self.since = if self.is_router_missed { now } else { self.since + now.saturating_sub(hushed) };
        let told = std::mem::take(&mut self.told);
        self.v6 = begun(&self.link.name, "IPv6", V6::begin(&self.link, now)).map(|v6| v6.having_told(told));
        self.is_router_missed &= self.v6.is_some();
    }

    fn leave_routers(&mut self) {
        match self.v6.take() {
            Some(v6) => drop(v6.leave()),
            None => v6::forbid(&self.link),
        }
        (self.router, self.is_router_missed) = (None, false);
    }

    /// Sends what it is time for and takes what has come.
    fn work(&mut self, now: Duration) {
        let event = self.dhcp.as_mut().and_then(|dhcp| dhcp.send(now).or_else(|| dhcp.receive(now)));
        let name = &self.link.name;
        match event {
            Some(Event::Leased(lease) | Event::Renewed(lease)) => {
                (self.lease, self.obtained) = (Some(lease), since_boot());
            }
            Some(Event::Refused { server }) => {
                log::warn!(target: "network", "DHCP refused link={name} server={server}");
                self.lease = None;
            }
            Some(Event::Conflict { address }) => {
                log::warn!(target: "network", "lease declined addr={address} link={name}: another machine has it");
                self.lease = None;
            }
            Some(Event::Expired) => self.lease = None,
            None => {}
        }
        if let Some(v6) = &mut self.v6 {
            v6.receive(now);
            self.router = v6.ready(now);
            self.is_router_missed &= self.router.is_none();
        }
    }

    fn wake(&self) -> Option<Duration> {
        let dhcp = self.dhcp.as_ref().and_then(Dhcp::wake);
        let v6 = self.v6.as_ref().and_then(V6::wake);
        dhcp.into_iter().chain(v6).min()
    }

    /// Whether it knows how it could be used.
    fn can_be_tried(&self, network: &Network) -> bool {
        let is_static = matches!(network.method, Method::Static { .. });
        self.has_carrier && (is_static || self.lease.is_some() || self.router.is_some())
    }

    /// Whether it would be given up too early: there is somebody at the other end, and it was not tried with all that
    /// it knew.
    fn is_awaited(&self) -> bool {
        self.has_carrier && (self.tried.is_none() || self.is_router_missed)
    }

    fn leased(&self) -> Option<Settings> {
        self.lease.as_ref().map(Settings::of_lease)
    }

    /// Whether it was tried with all that is known now, and perhaps more.
    fn was_tried(&self) -> bool {
        self.tried.as_ref().is_some_and(|Tried { lease, router }| {
            *lease == self.leased() && (self.router.is_none() || *router == self.router)
        })
    }

    /// All that is known of this link, unless it was tried like that already, or will soon know again what it did.
    fn candidate(&mut self, network: &Network, now: Duration) -> Option<Candidate> {
        let waits = self.is_router_missed && now < self.since + ROUTER;
        if waits || !self.can_be_tried(network) || self.was_tried() {
            return None;
        }
        let lease = self.leased();
        self.tried = Some(Tried { lease: lease.clone(), router: self.router.clone() });
        let learned = lease.unwrap_or_default().merged_with(self.router.clone().unwrap_or_default());
        let settings = learned.merged_with(Settings::of_network(network)).with_wishes_of(network);
        let made = self.router.as_ref().and(self.v6.as_ref()).and_then(V6::made);
        let (link, lease) = (self.link.clone(), self.lease.clone());
        Some(Candidate { link, settings, lease, obtained: self.obtained, made })
    }

    /// Whether nothing more will come of this link than what was tried.
    fn is_exhausted(&self, now: Duration) -> bool {
        let v4_is_done = self.dhcp.is_none() || self.lease.is_some();
        let v6_is_done = self.v6.is_none() || self.router.is_some() || now >= self.since + ROUTER;
        self.tried.is_some() && v4_is_done && v6_is_done
    }
}

/// What links are asked to be told.
fn asked(plan: &Plan, wants_v6: bool) -> Asked {
    let v4 = matches!(plan.network().method, Method::Auto { v4: true, .. });
    Asked::by(v4, wants_v6 && plan.listens_to_routers())
}

/// What the hinted link lacks while another one waits for it, and could be tried.
fn missing_at_hint<'a>(
    mut links: impl Iterator<Item = &'a Watch> + Clone,
    plan: &Plan,
) -> Option<&'static str> {
    let is_other = |watch: &Watch| plan.prefers_another(&watch.link);
    if !links.clone().any(|watch| is_other(watch) && watch.can_be_tried(plan.network())) {
        return None;
    }
    Some(match links.find(|watch| !is_other(watch)) {
        None => "no such link yet",
        Some(watch) if !watch.has_carrier => "no carrier yet",
        Some(_) => "no answer yet",
    })
}

/// A client that cannot even begin must not keep the others from it.
fn begun<T>(link: &str, what: &str, result: std::io::Result<T>) -> Option<T> {
    result
        .map_err(|error| log::warn!(target: "network", "no {what} on this link link={link} error={error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake;
    use zstrap_formats::cmdline::Cmdline;

    const SECOND: Duration = Duration::from_secs(1);

    const STATIC: &str = "addr=192.0.2.7/24";

    fn watch(name: &str, has_carrier: bool) -> Watch {
        let link = Link { name: name.to_owned(), index: 1, mac: [2, 0, 0, 0, 0, 1], has_master: false };
        Watch { has_carrier, ..Watch::new(link) }
    }

    fn missing(network: &str, cmdline: &str, links: &[Watch]) -> Option<&'static str> {
        let plan = Plan::new(network.parse().unwrap(), &Cmdline::parse(cmdline.as_bytes()));
        missing_at_hint(links.iter(), &plan)
    }

    #[test]
    fn ten_seconds_for_a_hint_were_lost_without_a_word() {
        let missing = |links: &[Watch]| missing(STATIC, "zstrap.link=eth1", links);
        assert_eq!(missing(&[watch("eth0", true)]), Some("no such link yet"));
        assert_eq!(missing(&[watch("eth0", true), watch("eth1", false)]), Some("no carrier yet"));
        assert_eq!(missing(&[watch("eth0", true), watch("eth1", true)]), Some("no answer yet"));
    }

    #[test]
    fn a_hint_that_costs_nothing_is_not_spoken_of() {
        // Nothing could be tried instead: no carrier, no lease.
        assert_eq!(missing(STATIC, "zstrap.link=eth1", &[watch("eth0", false)]), None);
        assert_eq!(missing("dhcp", "zstrap.link=eth1", &[watch("eth0", true)]), None);
        assert_eq!(missing(STATIC, "", &[watch("eth0", true)]), None);
        assert_eq!(missing(STATIC, "zstrap.link=eth0", &[watch("eth0", true)]), None);
    }

    fn why_not(network: &str, wants_v6: bool) -> String {
        let plan = Plan::new(network.parse().unwrap(), &Cmdline::default());
        let waited = Duration::from_secs(5);
        Error::NoLease { asked: asked(&plan, wants_v6), links: "eth0".to_owned(), waited }.to_string()
    }

    #[test]
    fn routers_were_missed_where_nobody_had_asked_for_ipv6() {
        assert_eq!(
            why_not("dhcp", true),
            "no DHCP lease and no IPv6 address from a router on eth0 within 5s"
        );
        assert_eq!(why_not("dhcp", false), "no DHCP lease on eth0 within 5s");
        assert_eq!(why_not("dhcp4", true), "no DHCP lease on eth0 within 5s");
        assert_eq!(why_not("auto6", true), "no IPv6 address from a router on eth0 within 5s");
        assert_eq!(why_not(STATIC, true), "no server on eth0 within 5s");
    }

    /// A link that does not exist, and has a lease.
    fn leased() -> Watch {
        Watch { lease: Some(fake::lease()), since: SECOND, ..watch("zstrap-none", true) }
    }

    fn router() -> Option<Settings> {
        Some(Settings::default())
    }

    fn candidate(watch: &mut Watch, seconds: u64) -> Option<Candidate> {
        watch.candidate(&Network::default(), Duration::from_secs(seconds))
    }

    #[test]
    fn the_trial_of_another_link_took_the_time_that_routers_have_to_speak() {
        let mut watch = Watch { hushed: Some(3 * SECOND), ..leased() };
        watch.resume(30 * SECOND);
        assert_eq!((watch.since, watch.hushed), (28 * SECOND, None));
        watch.resume(40 * SECOND);
        assert_eq!(watch.since, 28 * SECOND);
    }

    #[test]
    fn a_router_that_was_heard_before_a_trial_has_its_time_anew() {
        let mut watch = Watch { hushed: Some(3 * SECOND), is_router_missed: true, ..leased() };
        assert!(watch.is_awaited());
        watch.resume(30 * SECOND);
        assert_eq!(watch.since, 30 * SECOND);
        // This link has no IPv6, so nothing is waited for.
        assert!(!watch.is_router_missed && candidate(&mut watch, 30).is_some());
    }

    #[test]
    fn a_lease_was_tried_without_the_router_that_had_been_heard_before() {
        let missing = || Watch { is_router_missed: true, ..leased() };
        assert!(candidate(&mut missing(), 5).is_none());
        assert!(candidate(&mut missing(), 6).is_some());
        assert!(candidate(&mut Watch { router: router(), ..leased() }, 5).is_some());
    }

    #[test]
    fn a_router_without_names_was_no_reason_to_try_a_link_again() {
        let mut watch = leased();
        assert!(candidate(&mut watch, 5).is_some() && candidate(&mut watch, 5).is_none());
        watch.router = router();
        assert!(candidate(&mut watch, 5).is_some() && candidate(&mut watch, 5).is_none());
        // Refused with both: with less than that it would be refused again.
        watch.router = None;
        assert!(candidate(&mut watch, 5).is_none());
        watch.lease = Some(Lease { address: [10, 0, 0, 99].into(), ..fake::lease() });
        assert!(candidate(&mut watch, 5).is_some());
    }
}
