//! Looking for a network on all links at once.
//!
//! In: a [`Plan`]. Out: [`Candidate`]s, each a link with settings that may lead to a server, in the order in which
//! they came. DHCPv4 and router advertisements run side by side; whatever a link learns later makes it a candidate
//! once more, with all that is known by then.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zstrap_formats::network::Method;
use zstrap_wire::dhcp4::{Event, Lease};

use super::Error;
use super::plan::{NotMade, Plan, Role};
use crate::console::since_boot;
use crate::modules::Modules;
use crate::net::dhcp::Dhcp;
use crate::net::links::Link;
use crate::net::netlink;
use crate::net::settings::{Autoconfigured, Settings};
use crate::net::v6::{self, V6};

/// How long the other links get once a link has led to no server.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// How many refusals of one link give the others more time.
const MAX_EXTENSIONS: u32 = 3;
/// How long a hint keeps the other links waiting.
const HEAD_START: Duration = Duration::from_secs(10);
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
    tried: Option<Settings>,
    refusals: u32,
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
            links: BTreeMap::new(),
            not_made: NotMade::new(),
        })
    }

    /// The next candidate; none after the deadline, or when every link has been tried with all that it can learn.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn next_candidate(&mut self) -> Result<Option<Candidate>, Error> {
        while self.started.elapsed() < self.deadline {
            self.look_at_links();
            let now = self.started.elapsed();
            self.links.values_mut().for_each(|watch| watch.work(now));
            if let Some(candidate) = self.candidate(now) {
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
        let is_awaited = self.links.values().any(|watch| watch.has_carrier && watch.tried.is_none());
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
        self.links.values_mut().filter(|watch| watch.link.index != link.index).for_each(Watch::leave_routers);
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
        let hint_was_tried =
            self.links.values().any(|watch| watch.tried.is_some() && !plan.prefers_another(&watch.link));
        let is_open = now >= HEAD_START || hint_was_tried;
        let waits = |link: &Link| !is_open && plan.prefers_another(link);
        self.links.values_mut().filter(|watch| !waits(&watch.link)).find_map(|watch| watch.candidate(network))
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
            Ok(0) => drop(self.modules.load_for_hardware()),
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
            Error::NoLink { waited, others }
        } else if used.iter().any(|link| link.has_carrier()) {
            Error::NoLease { links: names(&Link::has_carrier), waited }
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
        self.tried = None;
        if matches!(method, Method::Auto { v4: true, .. }) {
            self.lease = None;
            self.dhcp = begun(name, "DHCP", Dhcp::begin(&self.link, now));
        }
    }

    fn leave_routers(&mut self) {
        match self.v6.take() {
            Some(v6) => v6.leave(),
            None => v6::forbid(&self.link),
        }
        self.router = None;
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
        }
    }

    fn wake(&self) -> Option<Duration> {
        let dhcp = self.dhcp.as_ref().and_then(Dhcp::wake);
        let v6 = self.v6.as_ref().and_then(V6::wake);
        dhcp.into_iter().chain(v6).min()
    }

    /// All that is known of this link, unless it was tried like that already.
    fn candidate(&mut self, network: &zstrap_formats::network::Network) -> Option<Candidate> {
        let is_static = matches!(network.method, Method::Static { .. });
        if !self.has_carrier || (!is_static && self.lease.is_none() && self.router.is_none()) {
            return None;
        }
        let lease = self.lease.as_ref().map(Settings::of_lease).unwrap_or_default();
        let learned = lease.merged_with(self.router.clone().unwrap_or_default());
        let settings = learned.merged_with(Settings::of_network(network)).with_wishes_of(network);
        if self.tried.as_ref() == Some(&settings) {
            return None;
        }
        self.tried = Some(settings.clone());
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

/// A client that cannot even begin must not keep the others from it.
fn begun<T>(link: &str, what: &str, result: std::io::Result<T>) -> Option<T> {
    result
        .map_err(|error| log::warn!(target: "network", "no {what} on this link link={link} error={error}"))
        .ok()
}
