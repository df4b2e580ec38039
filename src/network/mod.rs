//! Third stage: a link through which one of our servers answers.
//!
//! In: the links of the machine, the network settings and the servers of the identity. Out: [`Online`]. All links
//! are tried at once; each that learns how to be used becomes a candidate, and the first through which a server
//! answers is used. A lease alone is no success: a link that leads nowhere is left again.

mod plan;
mod search;

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::config::MAX_OFFLINE_GRACE;
use zstrap_formats::identity::Identity;
use zstrap_formats::network::{Method, Network, NetworkError};
use zstrap_formats::url::{Scheme, Url};
use zstrap_wire::dhcp4::Lease;

use self::plan::Plan;
use self::search::{Candidate, Search};
use crate::cache::Cache;
use crate::clock::{Clock, Now};
use crate::console::status;
use crate::early::Machine;
use crate::fail::{Code, Refusal};
use crate::http::ServerError;
use crate::media;
use crate::net::apply;
use crate::net::links::Link;
use crate::net::netlink;
use crate::net::renewal::Renewal;
use crate::net::settings::{Autoconfigured, Settings, addresses_text, gateway_text};
use crate::net::v6;
use crate::servers::{Cause, Servers};
use crate::signed::Terms;
use crate::sys::System;

/// How long a node that boots from media waits for the link that has fixed addresses: as long as a hint does, and a
/// little.
const FIXED: Duration = Duration::from_secs(12);

/// How long a node that boots from its disk waits for a link: as long as one with fixed addresses.
const WITHOUT_SERVER: Duration = FIXED;

/// How long each attempt may take until it ends; the last holds for all that follow. A switch port may forward
/// nothing for its first minute.
const DEADLINES: [Duration; 3] =
    [Duration::from_secs(90), Duration::from_secs(120), Duration::from_secs(180)];

/// Where programs of the bundle find the name servers.
pub const RESOLV_CONF: &str = "/run/zstrap/resolv.conf";
/// Names that need no server.
pub const HOSTS: &str = "/run/zstrap/hosts";

/// A network with a server that answered through it. Made here only.
pub struct Online {
    servers: Servers,
    connection: Connection,
    /// Keeps the lease while the files are fetched, which may take longer than it lasts.
    renewal: Option<Renewal>,
    is_from_disk: bool,
}

/// How the node is connected, for facts and for whoever keeps the network up after handoff.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The link; none when the server is a boot medium.
    pub via: Option<Via>,
    /// The network settings in effect.
    pub network: Network,
    /// The server that answered.
    pub server: String,
    /// Our name.
    pub hostname: String,
}

/// A link in use.
#[derive(Clone, Debug)]
pub struct Via {
    /// The link.
    pub link: Link,
    /// What it was given. Addresses that the kernel made itself are not here.
    pub settings: Settings,
    /// The lease, if the settings come from one.
    pub lease: Option<Lease>,
    /// When the lease was obtained, since the kernel started.
    pub obtained: Duration,
    /// What the kernel made of a router's advertisement, if there was one.
    pub made: Option<Autoconfigured>,
}

impl Online {
    /// The servers, the one that answered first.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// How we got to them.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The lease as it was renewed last, and when.
    #[must_use]
    pub fn renewed(&self) -> Option<(Lease, Duration)> {
        self.renewal.as_ref().map(Renewal::current)
    }

    /// The same network, where no server of it is of use: what is booted comes from the disk.
    #[must_use]
    pub fn with_disk(self, disk: Servers) -> Self {
        Self { servers: disk, is_from_disk: true, ..self }
    }

    /// By what signed files are judged that come through here.
    #[must_use]
    pub fn terms<'a>(&self, now: Now, cache: Option<&'a Cache>) -> Terms<'a> {
        let late = if self.is_from_disk { MAX_OFFLINE_GRACE } else { 0 };
        // Where there is nothing newer, what the disk has whole is good, whatever else was seen.
        let cache = cache.filter(|_| !self.is_from_disk);
        Terms { now, cache, late }
    }

    /// Whether what is booted comes from the disk.
    #[must_use]
    pub fn is_from_disk(&self) -> bool {
        self.is_from_disk
    }

    /// A network that is only pretended.
    #[cfg(test)]
    pub fn pretended(servers: Servers, connection: Connection) -> Self {
        Self { servers, connection, renewal: None, is_from_disk: false }
    }
}

/// Why the node is not online.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings on the kernel command line that cannot be followed.
    #[error("zstrap.net= of the kernel command line")]
    Settings(#[from] NetworkError),
    /// No Ethernet link at all, or none that the settings allow.
    #[error(
        "no network link to use found within {}s{}{others}{}{cards}",
        .waited.as_secs(),
        if .others.is_empty() { "" } else { ", only " },
        if .cards.is_empty() { "" } else { ", no driver for network card " },
    )]
    NoLink {
        /// How long was waited.
        waited: Duration,
        /// Names of links that may not be used.
        others: String,
        /// Network cards that no driver has taken.
        cards: String,
    },
    /// Links, but none with a carrier.
    #[error("no carrier on {links} within {}s", .waited.as_secs())]
    NoCarrier {
        /// Names of the links.
        links: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Carriers, but nobody who gave an address.
    #[error("{} on {links} within {}s", .asked.missing, .waited.as_secs())]
    NoLease {
        /// What was asked for.
        asked: Asked,
        /// Names of the links with a carrier.
        links: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Nothing that is asked for leads to a server, so nobody is asked.
    #[error("auto6 asks for IPv6 addresses alone, and all that has to be reached has IPv4 addresses")]
    OnlyV4,
    /// Networks, but no server behind them.
    #[error("no server answered: {}", texts(.0))]
    NoServer(Vec<Cause>),
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

fn texts(causes: &[Cause]) -> String {
    causes.iter().map(|cause| cause.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// Words for what a link is asked to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    missing: &'static str,
    code: Code,
    advice: &'static str,
}

impl Asked {
    /// By DHCPv4, by routers, by both; by neither where the settings say all, or where IPv6 alone would lead nowhere.
    const fn by(v4: bool, v6: bool) -> Self {
        let code = if v4 || v6 { Code::NoLease } else { Code::NothingAsked };
        let (missing, advice) = match (v4, v6) {
            (true, true) => (
                "no DHCP lease and no IPv6 address from a router",
                "check that a DHCP server or an IPv6 router serves this network",
            ),
            (true, false) => ("no DHCP lease", "check that a DHCP server serves this network"),
            (false, true) => {
                ("no IPv6 address from a router", "check that an IPv6 router serves this network")
            }
            (false, false) => {
                ("no server", "check that the network settings lead to a server: docs/network.md")
            }
        };
        Self { missing, code, advice }
    }
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::Settings(_) => Code::BadNetwork,
            Self::NoLink { others, .. } if !others.is_empty() => Code::OtherLinks,
            Self::NoLink { .. } => Code::NoLink,
            Self::NoCarrier { .. } => Code::NoCarrier,
            Self::NoLease { asked, .. } => asked.code,
            Self::OnlyV4 => Code::NothingAsked,
            Self::NoServer(causes) => most_telling(causes),
            Self::Server(ServerError::Ca(_)) => Code::BadCa,
            Self::Server(ServerError::Proxy(_)) => Code::BadProxy,
            Self::System { .. } => Code::NetworkIo,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::NoLease { asked, .. } => Some(asked.advice.to_owned()),
            _ => None,
        }
    }
}

/// Of what servers and links had to say, the code to look up: what somebody has answered tells more than that nobody
/// did. Among equals, the first that was tried.
fn most_telling(causes: &[Cause]) -> Code {
    let told = |code: Code| match code {
        Code::Unreachable | Code::NoMedium => 0,
        Code::NotUsable => 1,
        Code::NoNameServer | Code::NameUnknown => 2,
        Code::ConnectionRefused => 3,
        Code::NoAnswer => 4,
        Code::StatusAtFirst => 5,
        Code::NotOurs => 6,
        Code::NotPublished => 7,
        // A server whose certificate is not taken.
        _ => 8,
    };
    let first_of_most = causes.iter().rev().max_by_key(|cause| told(cause.code));
    first_of_most.map_or(Code::Unreachable, |cause| cause.code)
}

/// Brings the network up until a server answers. Boot media among the servers need no network: they are asked before
/// it when they come first, and after it when nothing else was to be had.
///
/// # Errors
/// [`Error`] after a deadline, saying how far it came.
pub fn bring_up(system: &dyn System, machine: &mut Machine, identity: &Identity) -> Result<Online, Error> {
    let started = Instant::now();
    let network = network_in_effect(&machine.cmdline, identity)?;
    loopback_up();
    // An earlier attempt came this far: what it set must not shadow another link.
    if let Some((link, settings)) = machine.connected.take() {
        leave(&link, &settings, "new-attempt");
        v6::forbid(&link);
    }
    let is_medium = |url: &&Url| url.scheme() == Scheme::File;
    let media_come_first = identity.servers.first().as_ref().is_some_and(is_medium);
    // Media behind other servers are looked at as soon as those do not answer, by a search that loads no modules for them.
    if identity.servers.iter().any(|url| is_medium(&url)) {
        media::load_modules(&mut machine.modules);
    }
    let mut reasons = Vec::new();
    if media_come_first {
        match on_media(system, machine, identity, &network, started) {
            Ok(online) => return Ok(online),
            Err(why) => reasons = why,
        }
    }
    if identity.servers.iter().all(|url| is_medium(&url)) {
        return Err(Error::NoServer(reasons));
    }
    match search(system, machine, identity, network.clone(), started) {
        Err(error) if !media_come_first && identity.servers.iter().any(|url| is_medium(&url)) => {
            on_media(system, machine, identity, &network, started).map_err(|_| error)
        }
        result => result,
    }
}

/// A site on boot media, or why there is none.
fn on_media(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    network: &Network,
    started: Instant,
) -> Result<Online, Vec<Cause>> {
    let servers = Servers::on_media(identity, &machine.servers).ok_or_else(Vec::new)?;
    let modules = &mut machine.modules;
    // Sticks and their drivers show up one after the other.
    let answer = servers.first_answer_while(identity, &mut || {
        modules.load_for_hardware();
    });
    let server = answer.map_err(|nobody| nobody.reasons)?;
    let (via, hostname) = match fixed_link(system, machine, identity, network, started) {
        Some((via, hostname)) => (Some(via), hostname),
        None => (None, unconnected(system, network)),
    };
    let (link, after) = (via.as_ref().map_or("none", |via| &via.link.name), started.elapsed().as_secs_f64());
    status::fact("server", server.clone());
    log::info!(target: "network", "online server={server} link={link} after={after:.3}s");
    let connection = Connection { via, network: network.clone(), server, hostname };
    Ok(Online { servers, connection, renewal: None, is_from_disk: false })
}

/// For a boot from the disk, as no server has answered: the network that the programs of the bundle will want. The first
/// link that learns how to be used is used, wherever it leads; with none, they have none yet.
#[must_use]
pub fn without_server(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    disk: Servers,
) -> Online {
    let network = network_in_effect(&machine.cmdline, identity).unwrap_or_default();
    let (started, deadline) = (Instant::now(), WITHOUT_SERVER);
    let found = first_link(system, machine, identity, &network, started, deadline);
    let (via, hostname) = match found {
        Some((via, hostname)) => (Some(via), hostname),
        None => (None, unconnected(system, &network)),
    };
    let renewal = via.as_ref().and_then(|via| {
        let lease = via.lease.as_ref()?;
        Some(Renewal::begin(&via.link, lease, via.obtained))
    });
    let link = via.as_ref().map_or("none", |via| &via.link.name);
    log::info!(target: "network", "without server link={link} after={:.3}s", started.elapsed().as_secs_f64());
    let connection = Connection { via, network, server: String::new(), hostname };
    Online { servers: disk, connection, renewal, is_from_disk: true }
}

/// Names a machine that has no link.
fn unconnected(system: &dyn System, network: &Network) -> String {
    let hostname = network.hostname.clone().unwrap_or_else(|| own_name(Link::all().first()));
    if let Err(error) = name_machine(system, &hostname, &Settings::default(), "") {
        log::warn!(target: "network", "without a name: {error}");
    }
    hostname
}

/// Addresses of the settings are set even where the boot needs none: the programs of the bundle may. The link's name and
/// that of the machine, or none where the settings have no address, or no link to set it on.
fn fixed_link(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    network: &Network,
    started: Instant,
) -> Option<(Via, String)> {
    let Method::Static { .. } = network.method else { return None };
    first_link(system, machine, identity, network, started, FIXED)
}

/// The first link that learns how to be used within this time, with its settings, and the name of the machine.
fn first_link(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    network: &Network,
    started: Instant,
    deadline: Duration,
) -> Option<(Via, String)> {
    let plan = Plan::new(network.clone(), &machine.cmdline);
    let found = Search::begin(&mut machine.modules, &plan, false, deadline).and_then(|mut search| {
        let candidate = search.next_candidate()?.ok_or_else(|| search.why_not())?;
        search.settle_on(&candidate.link);
        Ok(candidate)
    });
    let candidate = found.map_err(|why| log::warn!(target: "network", "address not set: {why}")).ok()?;
    let attempt = Attempt { system, identity, network, candidate: &candidate, started };
    let Ok(hostname) = attempt.configure() else {
        leave(&candidate.link, &candidate.settings, "not-usable");
        return None;
    };
    let via = attempt.via();
    machine.connected = Some((candidate.link, candidate.settings));
    Some((via, hostname))
}

/// Looks for a link through which a server answers.
fn search(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    network: Network,
    started: Instant,
) -> Result<Online, Error> {
    if matches!(network.method, Method::Auto { v4: false, v6: true }) && !wants_v6(identity) {
        return Err(Error::OnlyV4);
    }
    let deadline = DEADLINES[machine.network_attempts.min(DEADLINES.len() - 1)];
    machine.network_attempts += 1;
    let plan = Plan::new(network, &machine.cmdline);
    let mut search = Search::begin(&mut machine.modules, &plan, wants_v6(identity), deadline)?;
    let mut refusals = Vec::new();
    while let Some(candidate) = search.next_candidate()? {
        let attempt = Attempt { system, identity, network: plan.network(), candidate: &candidate, started };
        let servers = Servers::new(identity, &machine.servers)?;
        match attempt.run(servers, &mut machine.clock) {
            Ok(mut online) if !search.is_contested(&candidate) => {
                search.settle_on(&candidate.link);
                let Candidate { link, lease, obtained, .. } = &candidate;
                online.renewal = lease.as_ref().map(|lease| Renewal::begin(link, lease, *obtained));
                log_online(&online, &candidate.link, started);
                machine.connected = Some((candidate.link, candidate.settings));
                return Ok(online);
            }
            // The declined address is followed by another lease of the same link.
            Ok(_) => leave(&candidate.link, &candidate.settings, "address-in-use"),
            Err(mut reasons) => {
                refusals.append(&mut reasons);
                leave(&candidate.link, &candidate.settings, "no-server");
                search.refused(&candidate.link);
            }
        }
    }
    refusals.dedup();
    if refusals.is_empty() { Err(search.why_not()) } else { Err(Error::NoServer(refusals)) }
}

/// The settings of the kernel command line, which is what a person at the machine can reach; else the identity's.
fn network_in_effect(cmdline: &Cmdline, identity: &Identity) -> Result<Network, Error> {
    match cmdline.value("zstrap.net") {
        Some(text) => Ok(text.parse()?),
        None => Ok(identity.network.clone()),
    }
}

/// What has to be reached: the proxy if there is one, else the servers that are not boot media.
fn hosts_to_reach(identity: &Identity) -> Vec<&Url> {
    match &identity.proxy {
        Some(proxy) => vec![proxy],
        None => identity.servers.iter().filter(|url| url.scheme() != Scheme::File).collect(),
    }
}

/// Whether a host could be reached over IPv6: by address, or by a name that may have one.
fn wants_v6(identity: &Identity) -> bool {
    hosts_to_reach(identity).iter().any(|url| url.host().parse::<std::net::Ipv4Addr>().is_err())
}

/// Whether no host can be reached without a name server.
fn needs_dns(identity: &Identity) -> bool {
    let hosts = hosts_to_reach(identity);
    !hosts.is_empty() && hosts.iter().all(|url| url.host().parse::<IpAddr>().is_err())
}

/// A candidate that is put to use to look for a server through it.
struct Attempt<'a> {
    system: &'a dyn System,
    identity: &'a Identity,
    network: &'a Network,
    candidate: &'a Candidate,
    started: Instant,
}

impl Attempt<'_> {
    /// The node online, or the reasons when no server answers. What is wrong with one candidate must not keep the
    /// node from the next.
    fn run(&self, servers: Servers, clock: &mut Clock) -> Result<Online, Vec<Cause>> {
        let Candidate { link, settings, .. } = self.candidate;
        let cause = |code, text: &dyn Display| vec![Cause { code, text: format!("{}: {text}", link.name) }];
        let hostname = self.configure().map_err(|error| cause(Code::NotUsable, &error))?;
        if settings.dns.is_empty() && needs_dns(self.identity) {
            return Err(cause(Code::NoNameServer, &"no name server, and servers are known by name only"));
        }
        clock.settle(&settings.ntp, &self.identity.servers, self.identity);
        let answer = match servers.first_answer(self.identity) {
            // No server is to blame for a certificate that a wrong clock refuses.
            Err(nobody) if nobody.may_be_clock && clock.ask_once(self.identity) => {
                servers.first_answer(self.identity)
            }
            answer => answer,
        };
        let server = answer.map_err(|nobody| nobody.reasons)?;
        let connection =
            Connection { via: Some(self.via()), network: self.network.clone(), server, hostname };
        Ok(Online { servers, connection, renewal: None, is_from_disk: false })
    }

    fn via(&self) -> Via {
        let Candidate { link, settings, lease, obtained, made } = self.candidate.clone();
        Via { link, settings, lease, obtained, made }
    }

    /// Gives the link its settings, and the machine its name and name servers.
    fn configure(&self) -> io::Result<String> {
        let name = &self.candidate.link.name;
        self.put().inspect_err(|error| log::warn!(target: "network", "not usable link={name} {error}"))
    }

    fn put(&self) -> io::Result<String> {
        let Candidate { link, settings, .. } = self.candidate;
        apply::put(link.index, settings)?;
        // 64 bytes is what the kernel takes.
        let given = settings.hostname.clone().filter(|name| name.len() <= 64);
        let hostname = given.unwrap_or_else(|| own_name(Some(link)));
        name_machine(self.system, &hostname, settings, &link.name)?;
        self.log_settings();
        Ok(hostname)
    }

    fn log_settings(&self) {
        let Candidate { link, settings, lease, made, .. } = self.candidate;
        let how = match (lease, made) {
            (Some(_), _) => "lease",
            (None, Some(_)) => "auto6",
            (None, None) => "static",
        };
        let (name, after) = (&link.name, self.started.elapsed().as_secs_f64());
        let addresses = addresses_text(settings, made.as_ref());
        let address = addresses.split(' ').next().unwrap_or_default();
        let gateway = gateway_text(settings, made.as_ref());
        let gateway = if gateway.is_empty() { "none" } else { &gateway };
        status::fact("link", format!("{name}   {}", link.mac_text()));
        status::fact("address", format!("{addresses}   gateway {gateway}"));
        log::info!(target: "network", "{how} addr={address} gw={gateway} link={name} after={after:.3}s");
        if gateway == "none" {
            log::warn!(target: "network", "{how} without gateway link={name}");
        }
        if settings.dns.is_empty() {
            log::warn!(target: "network", "{how} without name server link={name}");
        }
    }
}

fn log_online(online: &Online, link: &Link, started: Instant) {
    let (server, link) = (&online.connection.server, &link.name);
    status::fact("server", server.clone());
    log::info!(target: "network", "online server={server} link={link} after={:.3}s", started.elapsed().as_secs_f64());
}

/// Programs of the bundle speak to each other on this machine; the kernel gives the address by itself.
fn loopback_up() {
    let result = Link::index_of("lo").ok_or(io::ErrorKind::NotFound.into()).and_then(netlink::link_up);
    if let Err(error) = result {
        log::warn!(target: "network", "link stays down link=lo error={error}");
    }
}

/// Takes the settings back, so that the next link is not shadowed by them.
fn leave(link: &Link, settings: &Settings, why: &str) {
    log::warn!(target: "network", "left link={} why={why}", link.name);
    apply::take_back(link.index, settings);
}

/// A name that no other machine has.
fn own_name(link: Option<&Link>) -> String {
    link.map_or_else(|| "zstrap".to_owned(), |link| format!("zstrap-{}", link.mac_text().replace(':', "")))
}

/// Names the machine, and writes what the resolvers of programs read.
fn name_machine(system: &dyn System, hostname: &str, settings: &Settings, link: &str) -> io::Result<()> {
    rustix::system::sethostname(hostname.as_bytes())?;
    let (resolv_conf, hosts) = (apply::resolv_conf(settings, link), apply::hosts(hostname));
    let files = [
        ("/etc/resolv.conf", &resolv_conf),
        (RESOLV_CONF, &resolv_conf),
        ("/etc/hosts", &hosts),
        (HOSTS, &hosts),
    ];
    for (path, text) in files {
        let failed = |error| io::Error::other(format!("writing {path}: {error}"));
        system.write_file(path, 0o644, text.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fail::{Failure, Stage};
    use crate::sys::fake;

    fn identity(servers: &[&str]) -> Identity {
        Identity { servers: servers.iter().map(|url| url.parse().unwrap()).collect(), ..fake::identity() }
    }

    #[test]
    fn ipv6_and_dns_are_waited_for_where_they_are_of_use() {
        let needs = |servers: &[&str]| (wants_v6(&identity(servers)), needs_dns(&identity(servers)));
        assert_eq!(needs(&["http://192.0.2.1"]), (false, false));
        assert_eq!(needs(&["http://[2001:db8::1]:8080"]), (true, false));
        assert_eq!(needs(&["https://boot.example"]), (true, true));
        assert_eq!(needs(&["https://boot.example", "http://192.0.2.1"]), (true, false));
        assert_eq!(needs(&["file:///site"]), (false, false));
    }

    #[test]
    fn the_kernel_command_line_wins() {
        let network = |line: &str| network_in_effect(&Cmdline::parse(line.as_bytes()), &fake::identity());
        assert_eq!(network("").unwrap(), Network::default());
        assert_eq!(network("zstrap.net=dhcp,vlan=7").unwrap().vlan, Some(7));
        assert_eq!(network("zstrap.net=dhpc").unwrap_err().reason(), "bad-network");
    }

    #[test]
    fn a_command_line_that_cannot_change_was_read_six_times() {
        let cmdline = Cmdline::parse(b"zstrap.net=dhcp4, vlan=7");
        let error = network_in_effect(&cmdline, &fake::identity()).unwrap_err();
        assert!(Failure::of(Stage::Network, error).is_final());
        let refused = Cause { code: Code::ConnectionRefused, text: "http://192.0.2.1".to_owned() };
        assert!(!Failure::of(Stage::Network, Error::NoServer(vec![refused])).is_final());
    }

    #[test]
    fn of_several_causes_the_one_that_tells_most_has_the_code() {
        let code = |codes: &[Code]| {
            let cause = |code: &Code| Cause { code: *code, text: String::new() };
            Error::NoServer(codes.iter().map(cause).collect()).code()
        };
        assert_eq!(code(&[Code::Unreachable, Code::ConnectionRefused]), Code::ConnectionRefused);
        assert_eq!(code(&[Code::UnknownCa, Code::NotPublished, Code::Unreachable]), Code::UnknownCa);
        assert_eq!(code(&[Code::OtherName, Code::UnknownCa]), Code::OtherName);
        assert_eq!(code(&[Code::NoNameServer, Code::NameUnknown]), Code::NoNameServer);
        assert_eq!(code(&[]), Code::Unreachable);
    }

    #[test]
    fn what_nobody_was_asked_for_is_another_failure_than_what_nobody_gave() {
        let code = |v4, v6| {
            let (asked, waited) = (Asked::by(v4, v6), std::time::Duration::from_secs(90));
            Error::NoLease { asked, links: "eth0".to_owned(), waited }.code()
        };
        assert_eq!([code(true, true), code(false, true)], [Code::NoLease; 2]);
        assert_eq!(code(false, false), Code::NothingAsked);
    }
}
