//! Third stage: a link through which one of our servers answers.
//!
//! In: the links of the machine and the servers of the identity. Out: [`Online`]. DHCP runs on every link that
//! has a carrier, all at once; each lease is tried in the order in which it came, and the first link through
//! which a server answers is used. A lease alone is no success: a link that leads nowhere is left again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zstrap_formats::config::MAX_CONFIG;
use zstrap_formats::identity::Identity;
use zstrap_formats::site;

use crate::early::Machine;
use crate::fail::{Chain, Refusal, random};
use crate::http::{Server, ServerError, Source};
use crate::modules::Modules;
use crate::net::links::Link;
use crate::net::netlink;
use crate::net::packet::{ArpSocket, BUFFER, DhcpSocket};
use crate::sys::System;
use zstrap_wire::dhcp4::{Client, Event, Lease, Output};

/// How long all of this may take before the attempt ends.
const DEADLINE: Duration = Duration::from_secs(90);
/// How long the other links get once a lease has led to no server.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// How often to look for new links and carriers when the kernel sends no news.
const LOOK: Duration = Duration::from_millis(500);

/// When to say for the first time what is waited for, and how often after that.
const FIRST_WORD: Duration = Duration::from_secs(5);
const NEXT_WORD: Duration = Duration::from_secs(15);

/// Where programs of the bundle find what DHCP said.
pub const RESOLV_CONF: &str = "/run/zstrap/resolv.conf";
/// Names that need no server.
pub const HOSTS: &str = "/run/zstrap/hosts";

/// A network with a server that answered through it. Made here only.
pub struct Online {
    server: Box<dyn Source>,
    connection: Connection,
}

/// How the node is connected, for facts.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Name of the link.
    pub link: String,
    /// Its hardware address.
    pub mac: String,
    /// What DHCP gave.
    pub lease: Lease,
    /// The server that answered.
    pub server: String,
    /// Our name.
    pub hostname: String,
}

impl Online {
    /// The server.
    #[must_use]
    pub fn server(&self) -> &dyn Source {
        &*self.server
    }

    /// How we got to it.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A network that is only pretended.
    #[cfg(test)]
    pub fn pretended(server: Box<dyn Source>, connection: Connection) -> Self {
        Self { server, connection }
    }
}

/// Why the node is not online.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Ethernet link at all.
    #[error("no network link found within {}s", .0.as_secs())]
    NoLink(Duration),
    /// Links, but none with a carrier.
    #[error("no carrier on {links} within {}s", .waited.as_secs())]
    NoCarrier {
        /// Names of the links.
        links: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Carriers, but no DHCP server.
    #[error("no DHCP lease on {links} within {}s", .waited.as_secs())]
    NoLease {
        /// Names of the links with a carrier.
        links: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Leases, but no server behind them.
    #[error("no server answered: {0}")]
    NoServer(String),
    /// The identity names what this version cannot speak to.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The kernel refused.
    #[error("{what}")]
    System {
        /// Which operation.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::NoLink(_) => "no-link",
            Self::NoCarrier { .. } => "no-carrier",
            Self::NoLease { .. } => "no-lease",
            Self::NoServer(_) => "no-server",
            Self::Server(_) => "unsupported",
            Self::System { .. } => "io",
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NoLink(_) => "check that the kernel has a driver for this network card (zstrap.log=debug)",
            Self::NoCarrier { .. } => "check the cable and the switch port",
            Self::NoLease { .. } => "check that a DHCP server serves this network",
            Self::NoServer(_) => "check that a server of the image runs and can be reached from this network",
            Self::Server(_) => "make the image with a server that this version can speak to",
            Self::System { .. } => "report this line; it is a defect of the init or the kernel",
        }
        .to_owned()
    }
}

/// Brings the network up until a server answers.
///
/// # Errors
/// [`Error`] after [`DEADLINE`], saying how far it came.
pub fn bring_up(system: &dyn System, machine: &mut Machine, identity: &Identity) -> Result<Online, Error> {
    let started = Instant::now();
    loopback_up();
    // An earlier attempt came this far: its address and route must not shadow those of another link.
    if let Some((link, lease)) = machine.connected.take() {
        leave(&link, &lease, "new-attempt");
    }
    let mut search = Search::begin(&mut machine.modules)?;
    let mut refusals = Vec::new();
    while let Some((link, lease)) = search.next_lease()? {
        match try_lease(system, identity, &link, &lease, started)? {
            Ok(online) => {
                log_online(&online, started);
                machine.connected = Some((link, lease));
                return Ok(online);
            }
            Err(mut reasons) => refusals.append(&mut reasons),
        }
        leave(&link, &lease, "no-server");
        search.hurry();
    }
    if refusals.is_empty() { Err(search.why_not()) } else { Err(Error::NoServer(refusals.join("; "))) }
}

/// Puts a lease to use and looks for a server through it; the reasons when there is none. What is wrong with one
/// lease must not keep the node from the next.
fn try_lease(
    system: &dyn System,
    identity: &Identity,
    link: &Link,
    lease: &Lease,
    started: Instant,
) -> Result<Result<Online, Vec<String>>, Error> {
    // Made anew for each link: a connection kept from another link would lead into nowhere.
    let servers: Vec<Server> =
        identity.servers.iter().map(|url| Server::new(url, identity)).collect::<Result<_, _>>()?;
    let hostname = match configure(system, link, lease, started) {
        Ok(hostname) => hostname,
        Err(error) => {
            let reason = Chain(&error).to_string();
            log::warn!(target: "network", "lease not usable link={} {reason}", link.name);
            return Ok(Err(vec![reason]));
        }
    };
    Ok(first_answer(servers, identity).map(|server| {
        let (mac, server_name) = (link.mac_text(), server.name());
        let connection =
            Connection { mac, link: link.name.clone(), lease: lease.clone(), server: server_name, hostname };
        Online { server: Box::new(server), connection }
    }))
}

fn log_online(online: &Online, started: Instant) {
    let (server, link) = (&online.connection.server, &online.connection.link);
    log::info!(target: "network", "online server={server} link={link} after={:.3}s", started.elapsed().as_secs_f64());
}

/// Programs of the bundle speak to each other on this machine; the kernel gives the address by itself.
fn loopback_up() {
    let result = Link::loopback_index().ok_or(io::ErrorKind::NotFound.into()).and_then(netlink::link_up);
    if let Err(error) = result {
        log::warn!(target: "network", "link stays down link=lo error={error}");
    }
}

/// The first server that has what the image will ask for first. Anything else that answers on its address, such
/// as the login page of a hotel, is not our server.
fn first_answer(servers: Vec<Server>, identity: &Identity) -> Result<Server, Vec<String>> {
    let mut reasons = Vec::new();
    for server in servers {
        match probe(&server, identity) {
            Ok(()) => return Ok(server),
            Err(reason) => {
                log::warn!(target: "network", "no answer server={} {reason}", server.name());
                reasons.push(reason);
            }
        }
    }
    Err(reasons)
}

fn probe(server: &dyn Source, identity: &Identity) -> Result<(), String> {
    let (path, limit, what) = match &identity.config.pin {
        Some(pin) => (site::config_by_hash(&pin.sha256), MAX_CONFIG, "the pinned config"),
        None => (site::config_latest(&identity.config.name), site::MAX_LATEST, "a serial number"),
    };
    let bytes = server.probe(&path, limit as u64).map_err(|error| Chain(&error).to_string())?;
    let is_ours = match &identity.config.pin {
        // A config of other bytes is one for the config stage to refuse; a page of a stranger is no config at all.
        Some(_) => bytes.trim_ascii_start().starts_with(b"{"),
        None => site::parse_latest(&bytes).is_some(),
    };
    if is_ours { Ok(()) } else { Err(format!("{}/{path}: not {what}", server.name())) }
}

/// Gives the link what the lease says, and the machine its name and name servers.
fn configure(system: &dyn System, link: &Link, lease: &Lease, started: Instant) -> Result<String, Error> {
    let refused = |what: &str| {
        let what = format!("{what} on {}", link.name);
        move |source| Error::System { what, source }
    };
    if let Some(mtu) = lease.mtu {
        // A link that cannot carry what the server wishes for still carries what it can.
        if let Err(error) = netlink::set_mtu(link.index, mtu) {
            log::warn!(target: "network", "MTU {mtu} not set link={} error={error}", link.name);
        }
    }
    netlink::add_address(link.index, lease.address, lease.prefix).map_err(refused("setting the address"))?;
    if let Some(gateway) = lease.gateway() {
        let on_link = same_network(gateway, lease.address, lease.prefix);
        netlink::set_default_route(link.index, gateway, on_link).map_err(refused("setting the route"))?;
    }
    let hostname = hostname(link, lease);
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|e| Error::System { what: "setting the host name".to_owned(), source: e.into() })?;
    let write = |path: &str, text: String| {
        let failed = |source| Error::System { what: format!("writing {path}"), source };
        system.write_file(path, 0o644, text.as_bytes()).map_err(failed)
    };
    for path in ["/etc/resolv.conf", RESOLV_CONF] {
        write(path, resolv_conf(lease))?;
    }
    for path in ["/etc/hosts", HOSTS] {
        write(path, format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n"))?;
    }
    log_lease(link, lease, started);
    Ok(hostname)
}

fn log_lease(link: &Link, lease: &Lease, started: Instant) {
    let gateway = lease.gateway().map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
    log::info!(
        target: "network",
        "lease addr={}/{} gw={gateway} link={} after={:.3}s",
        lease.address,
        lease.prefix,
        link.name,
        started.elapsed().as_secs_f64(),
    );
}

/// Takes the lease's settings back, so that the next link is not shadowed by them.
fn leave(link: &Link, lease: &Lease, why: &str) {
    log::warn!(target: "network", "left link={} why={why}", link.name);
    if let Err(error) = netlink::remove_address(link.index, lease.address, lease.prefix) {
        log::warn!(target: "network", "address stays on {}: {error}", link.name);
    }
}

fn same_network(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    let differing = u32::from(a) ^ u32::from(b);
    differing.checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
}

/// The lease's name, or one that no other machine has.
fn hostname(link: &Link, lease: &Lease) -> String {
    let own = || format!("zstrap-{}", link.mac_text().replace(':', ""));
    // 64 bytes is what the kernel takes.
    lease.hostname.clone().filter(|name| name.len() <= 64).unwrap_or_else(own)
}

fn resolv_conf(lease: &Lease) -> String {
    let mut text = String::new();
    if !lease.search.is_empty() {
        writeln!(text, "search {}", lease.search.join(" ")).expect("a String takes all text");
    }
    // The resolver of libc reads three (resolv.conf(5), MAXNS).
    for server in lease.dns.iter().take(3) {
        writeln!(text, "nameserver {server}").expect("a String takes all text");
    }
    text
}

/// DHCP on all links at once.
struct Search<'a> {
    modules: &'a mut Modules,
    news: OwnedFd,
    started: Instant,
    deadline: Duration,
    /// When to say next what is waited for.
    next_word: Duration,
    links: BTreeMap<u32, State>,
}

/// How far a link has come.
enum State {
    /// Up, but nobody is at the other end yet.
    Waiting,
    /// Asking for a lease.
    Asking(Box<Asking>),
    /// Gave its lease.
    Leased,
}

struct Asking {
    link: Link,
    socket: DhcpSocket,
    arp: ArpSocket,
    client: Client,
}

impl<'a> Search<'a> {
    fn begin(modules: &'a mut Modules) -> Result<Self, Error> {
        let failed = |source| Error::System { what: "opening rtnetlink".to_owned(), source };
        let news = netlink::open_link_news().map_err(failed)?;
        let (started, links) = (Instant::now(), BTreeMap::new());
        Ok(Self { modules, news, started, deadline: DEADLINE, next_word: FIRST_WORD, links })
    }

    /// The next lease of any link; none after the deadline, or when every link has given one.
    fn next_lease(&mut self) -> Result<Option<(Link, Lease)>, Error> {
        while self.started.elapsed() < self.deadline {
            self.look_at_links();
            if !self.links.is_empty() && self.links.values().all(|state| matches!(state, State::Leased)) {
                break;
            }
            let now = self.started.elapsed();
            let leased = self.asking().find_map(|asking| Some((asking.link.clone(), asking.turn(now)?)));
            if let Some((link, lease)) = leased {
                self.links.insert(link.index, State::Leased);
                return Ok(Some((link, lease)));
            }
            self.wait()?;
            self.say_what_is_missing(self.started.elapsed());
        }
        Ok(None)
    }

    /// A lease led nowhere, which may have taken longer than all the time there was: the others get a little longer.
    fn hurry(&mut self) {
        self.deadline = self.started.elapsed() + AFTER_REFUSAL;
    }

    /// A wait is never silent: somebody may stand before the screen.
    fn say_what_is_missing(&mut self, now: Duration) {
        if now < self.next_word {
            return;
        }
        self.next_word = now + NEXT_WORD;
        let missing = self.why_not();
        let left = self.deadline.saturating_sub(now).as_secs();
        log::info!(target: "network", "waiting at-most={left}s longer: {missing}");
    }

    fn asking(&mut self) -> impl Iterator<Item = &mut Asking> {
        self.links.values_mut().filter_map(|state| match state {
            State::Asking(asking) => Some(&mut **asking),
            State::Waiting | State::Leased => None,
        })
    }

    fn look_at_links(&mut self) {
        netlink::drain(&self.news);
        for link in Link::all() {
            let state = self.links.entry(link.index).or_insert_with(|| {
                if let Err(error) = netlink::link_up(link.index) {
                    log::warn!(target: "network", "link stays down link={} error={error}", link.name);
                }
                State::Waiting
            });
            if matches!(state, State::Waiting) && link.has_carrier() {
                log::debug!(target: "network", "carrier link={} mac={}", link.name, link.mac_text());
                match Asking::begin(link, self.started.elapsed()) {
                    Ok(asking) => *state = State::Asking(Box::new(asking)),
                    Err(error) => log::warn!(target: "network", "no DHCP on this link: {error}"),
                }
            }
        }
    }

    /// Sleeps until a packet comes, a link changes, or it is time to send or to look again.
    fn wait(&mut self) -> Result<(), Error> {
        let now = self.started.elapsed();
        let wake = self.asking().filter_map(|asking| asking.client.wake()).min().unwrap_or(now + LOOK);
        let pause = wake.saturating_sub(now).min(LOOK);
        let mut fds = vec![PollFd::from_borrowed_fd(self.news.as_fd(), PollFlags::IN)];
        for state in self.links.values() {
            if let State::Asking(asking) = state {
                fds.push(PollFd::from_borrowed_fd(asking.socket.as_fd(), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(asking.arp.as_fd(), PollFlags::IN));
            }
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

    fn why_not(&self) -> Error {
        let waited = self.started.elapsed();
        let links = Link::all();
        let names = |chosen: &dyn Fn(&Link) -> bool| {
            let names: Vec<&str> = links.iter().filter(|l| chosen(l)).map(|l| l.name.as_str()).collect();
            names.join(" ")
        };
        if links.is_empty() {
            Error::NoLink(waited)
        } else if links.iter().any(Link::has_carrier) {
            Error::NoLease { links: names(&Link::has_carrier), waited }
        } else {
            Error::NoCarrier { links: names(&|_| true), waited }
        }
    }
}

impl Asking {
    fn begin(link: Link, now: Duration) -> io::Result<Self> {
        let (socket, arp) = (DhcpSocket::open(&link)?, ArpSocket::open(&link)?);
        let client = Client::new(link.mac, random(), now);
        Ok(Self { link, socket, arp, client })
    }

    /// Takes what has come and sends what is due; the lease when there is one.
    fn turn(&mut self, now: Duration) -> Option<Lease> {
        let mut buffer = [0; BUFFER];
        while let Some(payload) = self.socket.receive(&mut buffer) {
            if let Some(event) = self.client.receive(payload, now) {
                self.say(&event);
            }
        }
        while let Some(packet) = self.arp.receive(&mut buffer) {
            if let Some(event) = self.client.receive_arp(packet, now) {
                self.say(&event);
            }
        }
        while let Some(output) = self.client.poll(now) {
            let sent = match &output {
                Output::Broadcast(payload) => self.socket.broadcast(payload),
                Output::Unicast { from, to, payload } => self.socket.unicast(*from, *to, payload),
                Output::Arp(packet) => self.arp.broadcast(packet),
                Output::Event(Event::Leased(lease)) => return Some(lease.clone()),
                Output::Event(event) => {
                    self.say(event);
                    Ok(())
                }
            };
            // A lost packet and a refused one are mended by the same retransmission.
            if let Err(error) = sent {
                log::debug!(target: "network", "packet not sent link={} error={error}", self.link.name);
            }
        }
        None
    }

    fn say(&self, event: &Event) {
        let link = &self.link.name;
        match event {
            Event::Refused { server } => {
                log::warn!(target: "network", "refused by=dhcp server={server} link={link}");
            }
            Event::Conflict { address } => {
                log::warn!(target: "network", "conflict addr={address} link={link}");
            }
            Event::Leased(_) | Event::Renewed(_) | Event::Expired => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake;

    #[test]
    fn gateways_outside_the_network_are_recognised() {
        let (us, near, far) =
            (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 3, 2));
        assert!(same_network(us, near, 24) && !same_network(us, far, 24));
        assert!(same_network(us, far, 0) && !same_network(us, near, 32));
    }

    #[test]
    fn a_login_page_is_not_our_server() {
        let identity = fake::identity();
        let mut site = fake::Site::default();
        let latest = site::config_latest(&identity.config.name);
        assert!(probe(&site, &identity).unwrap_err().contains("not found"));
        site.insert(&latest, b"<html>log in</html>");
        assert!(probe(&site, &identity).unwrap_err().contains("not a serial number"));
        site.insert(&latest, b"1763625600\n");
        assert_eq!(probe(&site, &identity), Ok(()));
        let (mut site, mut identity) = fake::site_with_config(fake::CONFIG);
        let pin = fake::pin(&mut site, &mut identity);
        assert_eq!(probe(&site, &identity), Ok(()));
        site.insert(&site::config_by_hash(&pin.sha256), b"<html>log in</html>");
        assert!(probe(&site, &identity).unwrap_err().contains("not the pinned config"));
    }

    #[test]
    fn resolv_conf_names_three_servers_at_most() {
        let lease = Lease {
            dns: (1..=5).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect(),
            search: vec!["farm.example".to_owned()],
            ..fake::connection().lease
        };
        let text = resolv_conf(&lease);
        assert!(text.starts_with("search farm.example\nnameserver 10.0.0.1\n"));
        assert_eq!(text.lines().count(), 4);
    }
}
