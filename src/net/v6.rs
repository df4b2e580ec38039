//! IPv6 on one link, as its routers want it: autoconfigured addresses, and the names that routers and DHCPv6 give.
//!
//! In: a link, best before it comes up, and the time. Out: [`Settings`] once the link has an address and a router,
//! and from then on each change of them. Addresses and default routes are the kernel's (SLAAC, RFC 4862): this
//! watches them, asks routers sooner than the kernel does, and learns what the kernel leaves to programs. A kernel
//! without IPv6 refuses the sockets, and that is the only failure; all else is silence of the network.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use zstrap_wire::dhcp6::{self, Client};
use zstrap_wire::ra::{self, Advertisement, Discovery};

use crate::fail::random;
use crate::net::links::Link;
use crate::net::settings::{Autoconfigured, Settings};

/// How long DHCPv6 is waited for when it is the only source of name servers.
const DHCP6_PATIENCE: Duration = Duration::from_secs(3);
/// The same when a router has named some already, and only time servers are still to come.
const DHCP6_EXTRA: Duration = Duration::from_millis(100);
/// How often to look when the kernel sends no news, before and after the link is ready.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_WHEN_READY: Duration = Duration::from_secs(60);
/// Packets taken in at a turn: a flood must not keep the rest of the boot waiting.
const PACKETS: usize = 64;
/// As many name servers, search domains and time servers as are handed on.
const MAX_NAMES: usize = 8;

/// What is set before the link comes up (Documentation/networking/ip-sysctl.rst). It stays after handoff: a node
/// whose network came from a router must keep it when the bundle forwards packets for its containers, which is
/// what `accept_ra` 2 means. Addresses are used while their uniqueness is still being checked (RFC 4429), and that
/// check begins at once; a kernel that cannot do so takes up to four seconds longer.
const ALLOW: [(&str, &str); 5] = [
    ("accept_ra", "2"),
    ("autoconf", "1"),
    ("optimistic_dad", "1"),
    ("use_optimistic", "1"),
    ("router_solicitation_delay", "0"),
];

/// Milliseconds between two questions for a neighbour (RFC 4861, `RETRANS_TIMER`; also how long an address is
/// checked): while the node boots, and what the kernel has else. A neighbour cannot be asked for while all addresses
/// are still being checked, so with the usual second a server on the same link would be reached two seconds late.
const RETRANS: &str = "retrans_time_ms";
// A whole number of ticks at every HZ that kernels have, so that it reads back as it was written.
const RETRANS_AT_BOOT: &str = "240";
const RETRANS_USUAL: &str = "1000";

/// Takes all addresses and routes from the link; what is left is a link-local address, and deaf ears for routers.
const FORBID: [(&str, &str); 3] = [("accept_ra", "0"), ("disable_ipv6", "1"), ("disable_ipv6", "0")];

// rtnetlink(7): links, IPv6 addresses, IPv6 routes.
const NEWS: u32 = 0x1 | 0x100 | 0x400;

/// Routers that the operator is told of; a stranger can invent any number of them.
const MOST_TOLD: usize = 8;

/// A filter of raw ICMPv6 sockets (RFC 3542, section 3.2): a bit for each type that is *not* wanted.
const ICMP6_FILTER: libc::c_int = 1;
sockopt_impl!(Icmp6Filter, SetOnly, libc::IPPROTO_ICMPV6, ICMP6_FILTER, [u32; 8]);

/// IPv6 on one link.
pub struct V6 {
    link: Link,
    routers: OwnedFd,
    news: OwnedFd,
    discovery: Discovery,
    dhcp: Option<Dhcp>,
    kernel: Kernel,
    look_at: Duration,
    /// Whether [`RETRANS_AT_BOOT`] may still be set.
    hurried: bool,
    /// Routers of which the operator has been told that they want what we cannot do.
    told: Vec<Ipv6Addr>,
    last: Option<Settings>,
}

struct Dhcp {
    client: Client,
    /// Open only while an answer is awaited: a bundle may have a client of its own.
    socket: Option<OwnedFd>,
    begun: Duration,
    patience_over: bool,
}

impl V6 {
    /// Lets the kernel configure the link by router advertisements, and begins to watch. Called before the link is
    /// up, it saves the seconds in which an address is checked for uniqueness. Keep it until handoff: the kernel's
    /// haste ends with it, or once all addresses have been checked.
    ///
    /// # Errors
    /// The kernel's refusal, as of one without IPv6.
    pub fn begin(link: &Link, now: Duration) -> io::Result<Self> {
        // Sockets come first: what a router says next is heard by the kernel and by us, or by neither.
        let v6 = Self::watch(link, now)?;
        set(link, &ALLOW);
        set_retrans(link, RETRANS_USUAL, RETRANS_AT_BOOT);
        Ok(v6)
    }

    /// Watches a link that has been allowed already, as after handoff. It changes no setting, but for ending the
    /// haste that [`V6::begin`] asked of the kernel.
    ///
    /// # Errors
    /// The kernel's refusal, as of one without IPv6.
    pub fn watch(link: &Link, now: Duration) -> io::Result<Self> {
        Ok(Self {
            link: link.clone(),
            routers: router_socket(link)?,
            news: news_socket()?,
            discovery: Discovery::new(random(), now),
            dhcp: None,
            kernel: Kernel::default(),
            look_at: now,
            hurried: true,
            told: Vec::new(),
            last: None,
        })
    }

    /// The same after [`V6::leave`], whose answer says what the operator knows already.
    #[must_use]
    pub fn having_told(self, told: Vec<Ipv6Addr>) -> Self {
        let mut v6 = self;
        v6.told = told;
        v6
    }

    /// Takes from the link what routers gave it, so that it does not shadow the next one. After that only
    /// [`V6::begin`] lets the kernel listen to routers again. Which routers the operator was told of is the answer.
    pub fn leave(mut self) -> Vec<Ipv6Addr> {
        forbid(&self.link);
        std::mem::take(&mut self.told)
    }

    /// What to wait for, beside [`V6::wake`]. Ask at each turn: it changes.
    #[must_use]
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let dhcp = self.dhcp.as_ref().and_then(|dhcp| dhcp.socket.as_ref());
        [Some(&self.routers), Some(&self.news), dhcp].into_iter().flatten().map(AsFd::as_fd).collect()
    }

    /// When [`V6::poll`] and [`V6::receive`] are to be called, if nothing comes before.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let can_send = self.kernel.link_local;
        let discovery = self.discovery.wake().filter(|_| can_send);
        let asks = can_send && self.discovery.asks_for_dhcp6();
        let dhcp = self.dhcp.as_ref().filter(|_| asks).and_then(|dhcp| dhcp.client.wake());
        [Some(self.look_at), discovery, dhcp, self.waits_until()].into_iter().flatten().min()
    }

    /// Sends what is due and forgets what has ended.
    pub fn poll(&mut self, now: Duration) {
        if now >= self.look_at {
            self.look(now);
        }
        self.discovery.expire(now);
        if self.kernel.link_local {
            if self.discovery.poll(now) {
                self.solicit();
            }
            self.ask_dhcp6(now);
        }
        let is_over = self.waits_until().is_some_and(|until| now >= until);
        if let Some(dhcp) = self.dhcp.as_mut().filter(|_| is_over) {
            dhcp.patience_over = true;
        }
    }

    /// Takes in what came, and answers it. True when [`V6::ready`] says something else than at the last call.
    pub fn receive(&mut self, now: Duration) -> bool {
        if drain(&self.news) {
            self.look(now);
        }
        for _ in 0..PACKETS {
            let Some((message, source, hop_limit)) = read_advertisement(&self.routers) else { break };
            if let Some(said) = Advertisement::parse(&message, source, hop_limit) {
                self.hear(&said, source, now);
            }
        }
        self.hear_dhcp6(now);
        self.poll(now);
        let current = self.ready(now);
        let changed = current != self.last;
        self.last = current;
        changed
    }

    /// What the link has now: none before it has a router and an address that may be used, and none again when it
    /// has lost them. Addresses and routes are not named, as the kernel has them. Name servers with a link-local
    /// address count on this link only (see [`name_server`]).
    #[must_use]
    pub fn ready(&self, now: Duration) -> Option<Settings> {
        let is_up = self.kernel.address.is_some() && self.kernel.gateway.is_some();
        let names_to_come = match self.dhcp {
            Some(_) => self.waits_until().is_some_and(|until| now < until),
            None => self.discovery.asks_for_dhcp6(),
        };
        if !is_up || !self.discovery.has_router() || names_to_come {
            return None;
        }
        let info = self.info();
        // RFC 8106, section 5.3.1: what DHCP says comes first.
        let dns: Vec<Ipv6Addr> =
            info.iter().flat_map(|info| &info.dns).copied().chain(self.discovery.dns()).collect();
        let (wide, narrow): (Vec<_>, Vec<_>) = dns.into_iter().partition(is_wide);
        let search = info.iter().flat_map(|info| info.search.iter().map(String::as_str));
        let ntp = info.iter().flat_map(|info| info.ntp.iter().copied());
        Some(Settings {
            dns: each_once(wide.into_iter().chain(narrow)).map(IpAddr::V6).collect(),
            search: each_once(search.chain(self.discovery.search())).map(str::to_owned).collect(),
            // A time server is asked by its address alone, which for a link-local one is not enough.
            ntp: each_once(ntp.filter(is_wide)).map(IpAddr::V6).collect(),
            ..Settings::default()
        })
    }

    /// What the kernel has made, for logs and facts.
    #[must_use]
    pub fn made(&self) -> Option<Autoconfigured> {
        let ((address, prefix), gateway) = (self.kernel.address?, self.kernel.gateway?);
        Some(Autoconfigured { address, prefix, gateway })
    }

    /// What DHCPv6 said, while a router sends its hosts there.
    fn info(&self) -> Option<&dhcp6::Info> {
        self.dhcp.as_ref().filter(|_| self.discovery.asks_for_dhcp6())?.client.info()
    }

    fn waits_until(&self) -> Option<Duration> {
        let dhcp = self.dhcp.as_ref().filter(|dhcp| !dhcp.patience_over && dhcp.client.info().is_none())?;
        let has_names = self.discovery.dns().next().is_some();
        Some(dhcp.begun + if has_names { DHCP6_EXTRA } else { DHCP6_PATIENCE })
    }

    /// Looks at what the kernel has made of the link.
    fn look(&mut self, now: Duration) {
        let before = std::mem::replace(&mut self.kernel, Kernel::of(&self.link));
        let may_speak = |kernel: &Kernel| kernel.link_local && kernel.carrier;
        if may_speak(&self.kernel) && !may_speak(&before) {
            log::debug!(target: "network", "link-local address usable link={}", self.link.name);
            self.discovery.restart(now);
            if let Some(dhcp) = &mut self.dhcp {
                dhcp.client.ask_anew(now);
            }
        }
        let is_ready = self.ready(now).is_some();
        let pause = if is_ready && !self.hurried { LOOK_WHEN_READY } else { LOOK };
        self.look_at = now + pause;
        if is_ready && self.kernel.checked {
            self.calm_down();
        }
    }

    /// All addresses have been checked: neighbours are asked for as seldom as anywhere else.
    fn calm_down(&mut self) {
        if std::mem::take(&mut self.hurried) {
            set_retrans(&self.link, RETRANS_AT_BOOT, RETRANS_USUAL);
        }
    }

    fn solicit(&self) {
        let routers = SocketAddrV6::new(ra::ALL_ROUTERS, 0, 0, self.link.index);
        let sent = rustix::net::sendto(&self.routers, &ra::SOLICITATION, SendFlags::DONTWAIT, &routers);
        log::debug!(target: "network", "router solicitation link={} sent={sent:?}", self.link.name);
    }

    fn hear(&mut self, said: &Advertisement, source: Ipv6Addr, now: Duration) {
        if !self.discovery.learn(said, source, now) {
            return;
        }
        let (link, lifetime) = (&self.link.name, said.lifetime);
        let (managed, other) = (said.managed, said.other);
        log::debug!(
            target: "network",
            "router link={link} address={source} lifetime={lifetime}s managed={managed} other={other} dns={:?}",
            said.dns,
        );
        let makes_addresses = said.prefixes.iter().any(|prefix| prefix.autonomous && prefix.valid > 0);
        let is_news = !self.told.contains(&source) && self.told.len() < MOST_TOLD;
        if managed && !makes_addresses && is_news {
            self.told.push(source);
            // A sentence of its own: without it an operator would look for a fault of the cable.
            log::warn!(
                target: "network",
                "no address from this router link={link} router={source}: DHCPv6 for addresses (M) is not spoken",
            );
        }
    }

    fn ask_dhcp6(&mut self, now: Duration) {
        if !self.discovery.asks_for_dhcp6() {
            self.dhcp = self.dhcp.take().filter(|dhcp| dhcp.client.info().is_some());
        } else if self.dhcp.is_none() {
            let client = Client::new(self.link.mac, random(), now);
            self.dhcp = Some(Dhcp { client, socket: None, begun: now, patience_over: false });
        }
        let Some(dhcp) = self.dhcp.as_mut().filter(|_| self.discovery.asks_for_dhcp6()) else { return };
        if let Some(payload) = dhcp.client.poll(now) {
            // A packet that could not be sent is mended by the same retransmission as one that was lost.
            if let Err(error) = dhcp.send(&self.link, &payload) {
                log::debug!(target: "network", "DHCPv6 packet not sent link={} error={error}", self.link.name);
            }
        }
    }

    fn hear_dhcp6(&mut self, now: Duration) {
        let Some(dhcp) = &mut self.dhcp else { return };
        let Some(socket) = &dhcp.socket else { return };
        let mut buffer = [0; 4096];
        for _ in 0..PACKETS {
            let Ok((length, _)) = rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) else { return };
            if dhcp.client.receive(&buffer[..length], now) {
                log::debug!(target: "network", "DHCPv6 link={} info={:?}", self.link.name, dhcp.client.info());
                dhcp.socket = None;
                return;
            }
        }
    }
}

impl Drop for V6 {
    fn drop(&mut self) {
        self.calm_down();
    }
}

impl Dhcp {
    fn send(&mut self, link: &Link, payload: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => dhcp6_socket(link)?,
        };
        let servers = SocketAddrV6::new(dhcp6::ALL_SERVERS, dhcp6::SERVER_PORT, 0, link.index);
        let sent = rustix::net::sendto(&socket, payload, SendFlags::DONTWAIT, &servers);
        self.socket = Some(socket);
        sent?;
        Ok(())
    }
}

/// Keeps routers from configuring a link, and takes away what they have: for links that are left, and for those
/// that are not to use IPv6 at all.
pub fn forbid(link: &Link) {
    set(link, &FORBID);
}

/// Keeps the kernel from listening to routers on a link, where nobody has asked for it. What it has stays.
pub fn deafen(link: &Link) {
    set(link, &FORBID[..1]);
}

/// A name server as `resolv.conf` names it. One with a link-local address needs the link beside it: glibc, musl and
/// Go read `fe80::1%eth0`.
#[must_use]
pub fn name_server(address: IpAddr, link: &str) -> String {
    match address {
        IpAddr::V6(v6) if !is_wide(&v6) => format!("{v6}%{link}"),
        _ => address.to_string(),
    }
}

fn is_wide(address: &Ipv6Addr) -> bool {
    !address.is_unicast_link_local()
}

fn each_once<T: PartialEq + Copy>(items: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let mut kept = Vec::new();
    for item in items {
        if kept.len() < MAX_NAMES && !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept.into_iter()
}

/// What a kernel refuses or does not know is left as it is: SLAAC works without, only slower.
fn set(link: &Link, values: &[(&str, &str)]) {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(&link.name);
    for (name, value) in values {
        if let Err(error) = fs::write(folder.join(name), value) {
            log::debug!(target: "network", "sysctl not set link={} name={name} error={error}", link.name);
        }
    }
}

/// Exchanges one value for another; where something else stands, a router has set it.
fn set_retrans(link: &Link, from: &str, to: &str) {
    let file = Path::new("/proc/sys/net/ipv6/neigh").join(&link.name).join(RETRANS);
    if fs::read_to_string(&file).is_ok_and(|text| text.trim() == from)
        && let Err(error) = fs::write(&file, to)
    {
        log::debug!(target: "network", "sysctl not set link={} name={RETRANS} error={error}", link.name);
    }
}

/// What the kernel has made of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    carrier: bool,
    /// Whether packets can be sent to the neighbours.
    link_local: bool,
    /// Whether no address is being checked for uniqueness any more.
    checked: bool,
    /// An address that reaches further, with the length of its prefix.
    address: Option<(Ipv6Addr, u8)>,
    /// A default router that has announced itself.
    gateway: Option<Ipv6Addr>,
}

impl Kernel {
    fn of(link: &Link) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let addresses = read("/proc/net/if_inet6");
        let usable = || usable_addresses(&addresses, link.index);
        Self {
            carrier: link.has_carrier(),
            link_local: usable().any(|address| address.scope == SCOPE_LINK),
            checked: usable().all(|address| address.flags & IFA_F_TENTATIVE == 0),
            address: usable()
                .find(|address| matches!(address.scope, SCOPE_GLOBAL | SCOPE_SITE))
                .map(|address| (address.address, address.prefix)),
            gateway: default_router(&read("/proc/net/ipv6_route"), &link.name),
        }
    }
}

// Scopes and flags of proc_net(5), `if_inet6`.
const SCOPE_GLOBAL: u32 = 0;
const SCOPE_LINK: u32 = 0x20;
const SCOPE_SITE: u32 = 0x40;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;

/// A line of `if_inet6`.
struct Address {
    address: Ipv6Addr,
    prefix: u8,
    scope: u32,
    flags: u32,
}

/// Addresses of a link that packets may leave from.
fn usable_addresses(text: &str, index: u32) -> impl Iterator<Item = Address> {
    let usable = |flags: u32| {
        let checked = flags & IFA_F_TENTATIVE == 0 || flags & IFA_F_OPTIMISTIC != 0;
        checked && flags & (IFA_F_DADFAILED | IFA_F_DEPRECATED) == 0
    };
    text.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let address = address_of(fields.next()?)?;
        let [link, prefix, scope, flags] = [(); 4].map(|()| hex(fields.next()));
        let (prefix, scope, flags) = (u8::try_from(prefix?).ok()?, scope?, flags?);
        let is_ours = link? == index && usable(flags);
        is_ours.then_some(Address { address, prefix, scope, flags })
    })
}

/// The first default route through a router that has announced itself on this link.
fn default_router(text: &str, link: &str) -> Option<Ipv6Addr> {
    // Flags of linux/route.h and linux/ipv6_route.h: RTF_UP, RTF_GATEWAY, RTF_ADDRCONF.
    const WANTED: u32 = 0x1 | 0x2 | 0x4_0000;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[_, prefix, _, source_prefix, gateway, _, _, _, flags, name] = &fields[..] else { return None };
        let is_default = prefix == "00" && source_prefix == "00" && name == link;
        let flags = hex(Some(flags)).filter(|_| is_default)?;
        if flags & WANTED == WANTED { address_of(gateway) } else { None }
    })
}

fn hex(field: Option<&str>) -> Option<u32> {
    u32::from_str_radix(field?, 16).ok()
}

fn address_of(digits: &str) -> Option<Ipv6Addr> {
    let is_whole = digits.len() == 32;
    u128::from_str_radix(digits, 16).ok().filter(|_| is_whole).map(Ipv6Addr::from_bits)
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A raw socket that hears router advertisements on one link, and can solicit them.
fn router_socket(link: &Link) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET6, SocketType::RAW, FLAGS, Some(ipproto::ICMPV6))?;
    let mut unwanted = [u32::MAX; 8];
    unwanted[usize::from(ra::ROUTER_ADVERTISEMENT / 32)] &= !(1 << (ra::ROUTER_ADVERTISEMENT % 32));
    setsockopt(&socket, Icmp6Filter, &unwanted)?;
    setsockopt(&socket, sockopt::BindToDevice, &link.name.clone().into())?;
    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    // Routers drop what has come further than one hop (RFC 4861, section 6.1.1).
    rustix::net::sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    Ok(socket)
}

/// One message with its source and hop limit; none when there is none. One without a hop limit counts as forged.
fn read_advertisement(socket: &OwnedFd) -> Option<(Vec<u8>, Ipv6Addr, u8)> {
    let (mut buffer, mut space) = ([0; 4096], nix::cmsg_space!(i32));
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
    let hop_limit = message.cmsgs().ok()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
        _ => None,
    });
    let (source, length) = (message.address?.ip(), message.bytes);
    Some((buffer[..length].to_vec(), source, hop_limit.unwrap_or(0)))
}

/// A socket that is readable whenever a link, an IPv6 address or an IPv6 route has changed.
fn news_socket() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, FLAGS, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, NEWS))?;
    Ok(socket)
}

/// Reads pending news away: they say only that it is time to look. Whether there were any is the answer.
fn drain(socket: &OwnedFd) -> bool {
    let mut buffer = [0; 8192];
    let read = |_: &usize| rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT).is_ok();
    (0..PACKETS).take_while(read).count() > 0
}

fn dhcp6_socket(link: &Link) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, FLAGS, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &link.name.clone().into())?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, dhcp6::CLIENT_PORT, 0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::net::netlink;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec};

    const ADDRESSES: &str = "\
        00000000000000000000000000000001 01 80 10 80       lo\n\
        20010db8000000000000000000000001 03 40 00 80     eth1\n\
        20010db8000000000000000000000002 02 40 00 40     eth0\n\
        20010db8000000000000000000000003 02 40 00 4c     eth0\n\
        20010db8000000000000000000000004 02 40 00 20     eth0\n\
        fe800000000000000000000000000001 02 40 20 44     eth0\n\
        fec00000000000000000000000000005 02 38 40 00     eth0\n\
        damaged\n";

    #[test]
    fn addresses_count_when_packets_may_leave_from_them() {
        let found: Vec<_> =
            usable_addresses(ADDRESSES, 2).map(|found| (found.address, found.prefix, found.scope)).collect();
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        assert_eq!(found, [(address("fe80::1"), 64, SCOPE_LINK), (address("fec0::5"), 56, SCOPE_SITE)]);
    }

    #[test]
    fn default_routes_count_when_routers_announced_them() {
        let zero = "0".repeat(32);
        let router = "fe800000000000000000000000000001";
        let line = |prefix: &str, gateway: &str, flags: &str, name: &str| {
            format!("{zero} {prefix} {zero} 00 {gateway} 00000400 00000001 00000000 {flags}     {name}\n")
        };
        let found = |line: String| default_router(&line, "eth0");
        assert_eq!(found(line("00", router, "00450003", "eth0")), Some("fe80::1".parse().unwrap()));
        let others = [
            line("40", router, "00450003", "eth0"),
            line("00", router, "00450003", "eth1"),
            line("00", &zero, "00200200", "lo"),
            line("00", router, "00000003", "eth0"),
            "0 0 0\n".to_owned(),
        ];
        assert!(others.into_iter().all(|line| found(line).is_none()));
    }

    #[test]
    fn link_local_name_servers_are_named_with_their_link() {
        assert_eq!(name_server("fe80::1".parse().unwrap(), "eth0.10"), "fe80::1%eth0.10");
        assert_eq!(name_server("2001:db8::1".parse().unwrap(), "eth0"), "2001:db8::1");
        assert_eq!(name_server("192.0.2.1".parse().unwrap(), "eth0"), "192.0.2.1");
    }

    /// A router and a node, each in a network namespace of its own, with a link `eth0` in the node's. The router's
    /// end is in a bridge with another link, so that it is up before the node is.
    struct Pair {
        router: String,
        node: String,
        servers: Vec<Child>,
    }

    impl Pair {
        fn new(name: &str) -> Self {
            let [router, node] = ["r", "n"].map(|end| format!("zstrap-{end}-{name}-{}", std::process::id()));
            let pair = Self { router, node, servers: Vec::new() };
            for namespace in [&pair.router, &pair.node] {
                ip(&format!("netns add {namespace}"));
            }
            pair.in_router("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0");
            for command in [
                "link add br0 type bridge",
                "link add p0 type veth peer name p1",
                &format!("link add v0 type veth peer name eth0 netns {}", pair.node),
                "link set p0 master br0 up",
                "link set p1 up",
                "link set v0 master br0 up",
                "link set br0 up",
                "addr add 2001:db8:5::1/64 dev br0 nodad",
            ] {
                ip(&format!("-n {} {command}", pair.router));
            }
            pair
        }

        fn in_router(&self, command: &str) {
            ip(&format!("netns exec {} {command}", self.router));
        }

        /// dnsmasq, once it says that it advertises.
        fn dnsmasq(&mut self, range: &str, more: &[&str]) {
            let mut command = Command::new("ip");
            command.args([
                "netns",
                "exec",
                &self.router,
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
            ]);
            command.args(["--log-facility=-", "--no-hosts", "--no-resolv", "--interface=br0", "--user=root"]);
            command.args(["--enable-ra", "--leasefile-ro", "--pid-file", &format!("--dhcp-range={range}")]);
            let mut child = command.args(more).stderr(Stdio::piped()).spawn().unwrap();
            let log = io::BufRead::lines(io::BufReader::new(child.stderr.take().unwrap()));
            self.servers.push(child);
            let mut log = log.map_while(Result::ok);
            assert!(log.any(|line| line.contains("router advertisement")), "dnsmasq ended");
            std::thread::spawn(move || log.for_each(drop));
        }

        /// Runs the ignored test `on_the_node` there; what it says on standard output.
        fn node(&self, scenario: &str) -> String {
            let test = std::env::current_exe().unwrap();
            let run = Command::new("ip")
                .args(["netns", "exec", &self.node])
                .arg(test)
                .args(["--exact", "net::v6::tests::on_the_node", "--ignored", "--nocapture"])
                .env("ZSTRAP_TEST_V6", scenario)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&run.stdout).into_owned();
            assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
            println!("{text}");
            text
        }
    }

    impl Drop for Pair {
        fn drop(&mut self) {
            for server in &mut self.servers {
                server.kill().unwrap();
                server.wait().unwrap();
            }
            for namespace in [&self.router, &self.node] {
                Command::new("ip").args(["netns", "del", namespace]).status().unwrap();
            }
        }
    }

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    /// Turns until `done` is content; the time since `begun`.
    fn turn_until(
        v6: &mut V6,
        begun: Instant,
        mut done: impl FnMut(&V6, bool, Duration) -> bool,
    ) -> Duration {
        loop {
            let now = begun.elapsed();
            v6.poll(now);
            let changed = v6.receive(now);
            if done(v6, changed, now) {
                return now;
            }
            assert!(now < Duration::from_secs(60), "{:?} {:?}", v6.kernel, v6.discovery);
            let pause = v6.wake().unwrap().saturating_sub(now).min(Duration::from_secs(5));
            let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
            let fds = v6.fds();
            let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            rustix::event::poll(&mut fds, Some(&pause)).unwrap();
        }
    }

    fn is_ready(v6: &V6, _: bool, now: Duration) -> bool {
        v6.ready(now).is_some()
    }

    fn ready_after(scenario: &str) -> (V6, Instant) {
        let link = Link::all().into_iter().find(|link| link.name == "eth0").unwrap();
        let begun = Instant::now();
        let mut v6 = V6::begin(&link, begun.elapsed()).unwrap();
        // To measure what each setting wins.
        if scenario.contains("slow-dad") {
            set(&link, &[("optimistic_dad", "0"), ("use_optimistic", "0")]);
        }
        if scenario.contains("slow-retrans") {
            set_retrans(&link, RETRANS_AT_BOOT, RETRANS_USUAL);
        }
        assert_eq!(v6.ready(begun.elapsed()), None);
        netlink::link_up(link.index).unwrap();
        let up = begun.elapsed();
        let ready = turn_until(&mut v6, begun, is_ready);
        println!("ready after={}ms", (ready - up).as_millis());
        println!("made={:?}", v6.made());
        println!("{:?}", v6.ready(ready).unwrap());
        (v6, begun)
    }

    #[test]
    #[ignore = "runs in the namespace that another test makes"]
    fn on_the_node() {
        let scenario = std::env::var("ZSTRAP_TEST_V6").unwrap();
        let (mut v6, begun) = ready_after(&scenario);
        if scenario.contains("reach") {
            let up = Instant::now();
            let target: SocketAddrV6 = "[2001:db8:5::1]:53".parse().unwrap();
            std::net::TcpStream::connect_timeout(&target.into(), Duration::from_secs(10)).unwrap();
            println!("neighbour after={}ms", up.elapsed().as_millis());
        }
        if scenario.contains("leave") {
            let link = v6.link.clone();
            v6.leave();
            let kernel = Kernel::of(&link);
            assert_eq!((kernel.address, kernel.gateway), (None, None));
            let mut v6 = V6::begin(&link, begun.elapsed()).unwrap();
            turn_until(&mut v6, begun, is_ready);
            println!("back");
        } else if scenario.contains("watch") {
            let mut second = V6::watch(&v6.link, begun.elapsed()).unwrap();
            turn_until(&mut second, begun, is_ready);
            assert_eq!(second.ready(begun.elapsed()), v6.ready(begun.elapsed()));
            println!("watched");
        } else if scenario.contains("follow") {
            turn_until(&mut v6, begun, |v6, changed, now| {
                if changed {
                    println!("after={:.1}s {:?}", now.as_secs_f64(), v6.ready(now));
                }
                now > Duration::from_secs(30)
            });
        } else {
            turn_until(&mut v6, begun, |v6, _, _| !v6.hurried);
            let file = Path::new("/proc/sys/net/ipv6/neigh/eth0").join(RETRANS);
            assert_eq!(fs::read_to_string(file).unwrap().trim(), RETRANS_USUAL);
        }
    }

    #[test]
    fn a_link_is_ready_by_router_advertisements_alone() {
        let mut pair = Pair::new("slaac");
        let more = [
            "--dhcp-option=option6:dns-server,[2001:db8:5::1]",
            "--dhcp-option=option6:domain-search,farm.example",
        ];
        pair.dnsmasq("2001:db8:5::,ra-only,64,600", &more);
        let said = pair.node("slaac reach leave");
        assert!(said.contains("address: 2001:db8:5:0:") && said.contains("gateway: fe80::"), "{said}");
        assert!(said.contains("dns: [2001:db8:5::1], search: [\"farm.example\"], ntp: []"), "{said}");
        assert!(said.contains("back"), "{said}");
    }

    #[test]
    fn stateless_dhcp6_adds_name_and_time_servers() {
        let mut pair = Pair::new("dhcp6");
        let more = [
            "--dhcp-option=option6:dns-server,[2001:db8:5::1],[2001:db8:5::2]",
            "--dhcp-option=option6:ntp-server,[2001:db8:5::3]",
            "--dhcp-option=option6:sntp-server,[2001:db8:5::4]",
        ];
        pair.dnsmasq("2001:db8:5::,ra-stateless,64,600", &more);
        let said = pair.node("dhcp6 watch");
        assert!(said.contains("dns: [2001:db8:5::1, 2001:db8:5::2]"), "{said}");
        assert!(
            said.contains("ntp: [2001:db8:5::4]") || said.contains("ntp: [2001:db8:5::3, 2001:db8:5::4]"),
            "{said}"
        );
        assert!(said.contains("watched"), "{said}");
        ip(&format!("-n {} link set eth0 down", pair.node));
        pair.node("calm");
    }
}
