//! Third stage: a link through which one of our servers answers.
//!
//! In: the links of the machine and the servers of the identity. Out: [`Online`]. DHCP runs on every link that
//! has a carrier, all at once; each lease is tried in the order in which it came, and the first link through
//! which a server answers is used. A lease alone is no success: a link that leads nowhere is left again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zstrap_formats::identity::Identity;

use crate::early::Machine;
use crate::fail::{Chain, Refusal, random};
use crate::http::ServerError;
use crate::modules::Modules;
use crate::net::links::Link;
use crate::net::netlink;
use crate::servers::Servers;
use crate::sys::System;
use zstrap_wire::dhcp4::{CLIENT_PORT, Client, Lease, SERVER_PORT};

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
    servers: Servers,
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
    /// The servers, the one that answered first in front.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// How we got to it.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A network that is only pretended.
    #[cfg(test)]
    pub fn pretended(servers: Servers, connection: Connection) -> Self {
        Self { servers, connection }
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
    let memory = machine.memory.clone();
    let mut search = Search::begin(&mut machine.modules)?;
    let mut refusals = Vec::new();
    while let Some((link, lease)) = search.next_lease()? {
        let servers = Servers::new(identity, &memory)?;
        match try_lease(system, identity, servers, &link, &lease, started)? {
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
    servers: Servers,
    link: &Link,
    lease: &Lease,
    started: Instant,
) -> Result<Result<Online, Vec<String>>, Error> {
    let hostname = match configure(system, link, lease, started) {
        Ok(hostname) => hostname,
        Err(error) => {
            let reason = Chain(&error).to_string();
            log::warn!(target: "network", "lease not usable link={} {reason}", link.name);
            return Ok(Err(vec![reason]));
        }
    };
    Ok(match servers.first_answer(identity) {
        Ok(server) => {
            let mac = link.mac_text();
            let connection =
                Connection { mac, link: link.name.clone(), lease: lease.clone(), server, hostname };
            Ok(Online { servers, connection })
        }
        Err(refused) => Err(refused.reasons),
    })
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
    if let Some(gateway) = lease.gateways.first() {
        let on_link = same_network(*gateway, lease.address, lease.prefix);
        netlink::set_default_route(link.index, *gateway, on_link).map_err(refused("setting the route"))?;
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
    let gateway = lease.gateways.first().map_or_else(|| "none".to_owned(), Ipv4Addr::to_string);
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
    if let Some(domain) = &lease.domain {
        writeln!(text, "search {domain}").expect("a String takes all text");
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
    socket: OwnedFd,
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
            self.asking().for_each(|asking| asking.send(now));
            self.wait()?;
            let now = self.started.elapsed();
            self.say_what_is_missing(now);
            let leased = self.asking().find_map(|asking| Some((asking.link.clone(), asking.receive(now)?)));
            if let Some((link, lease)) = leased {
                self.links.insert(link.index, State::Leased);
                return Ok(Some((link, lease)));
            }
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
        fds.extend(self.links.values().filter_map(|state| match state {
            State::Asking(asking) => Some(PollFd::from_borrowed_fd(asking.socket.as_fd(), PollFlags::IN)),
            State::Waiting | State::Leased => None,
        }));
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
        let socket = broadcast_socket(&link)?;
        let client = Client::new(link.mac, random(), now);
        Ok(Self { link, socket, client })
    }

    fn send(&mut self, now: Duration) {
        let Some(packet) = self.client.poll(now) else { return };
        let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        // A lost packet and a refused one are mended by the same retransmission.
        if let Err(error) = rustix::net::sendto(&self.socket, &packet, SendFlags::empty(), &everyone) {
            log::debug!(target: "network", "DHCP packet not sent link={} error={error}", self.link.name);
        }
    }

    fn receive(&mut self, now: Duration) -> Option<Lease> {
        let mut buffer = [0; 2048];
        while let Ok((length, _)) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            let lease = self.client.receive(&buffer[..length], now);
            if lease.is_some() {
                return lease;
            }
        }
        // An offer is answered at once, not at the next turn.
        self.send(now);
        None
    }
}

/// A UDP socket that speaks on one link only, before that link has an address.
fn broadcast_socket(link: &Link) -> io::Result<OwnedFd> {
    use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    setsockopt(&socket, BindToDevice, &link.name.clone().into())?;
    rustix::net::sockopt::set_socket_broadcast(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
    Ok(socket)
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
    fn resolv_conf_names_three_servers_at_most() {
        let lease = Lease {
            dns: (1..=5).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect(),
            domain: Some("farm.example".to_owned()),
            ..fake::connection().lease
        };
        let text = resolv_conf(&lease);
        assert!(text.starts_with("search farm.example\nnameserver 10.0.0.1\n"));
        assert_eq!(text.lines().count(), 4);
    }
}
