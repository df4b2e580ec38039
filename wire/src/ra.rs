//! Router advertisements (RFC 4861; DNS options of RFC 8106): the parser, and what a link has learned by them.
//!
//! In: ICMPv6 messages with their source and hop limit, and the time. Out: when to solicit a router, and the name
//! servers and search domains that still count. Addresses and routes are made of the same messages by the kernel.
//! Messages that RFC 4861 calls invalid are dropped without a word, and of what routers say only so much is kept.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::text;

/// ICMPv6 type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6 type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// All routers of the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// A solicitation without options: ours may leave while its source is still optimistic, and must not make routers
/// learn our hardware address then (RFC 4429, section 3.2). The kernel fills in the checksum.
pub const SOLICITATION: [u8; 8] = [ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];

/// Only a neighbour can send this: every router on the way takes one off.
const HOP_LIMIT: u8 = 255;
const FIXED: usize = 16;
/// Less than RFC 4861 has (4 s): a switch often loses what comes in the instant after the carrier.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A lifetime that never ends.
const FOREVER: u32 = u32::MAX;
/// The least MTU of IPv6 (RFC 8200, section 5).
const MIN_MTU: u32 = 1280;

/// How many routers, name servers and search domains are kept. resolv.conf(5) takes three and six.
pub const MAX_KEPT: usize = 8;

const PREFIX: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// One router advertisement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Addresses are to be had by DHCPv6 (M).
    pub managed: bool,
    /// Other settings are to be had by DHCPv6 (O).
    pub other: bool,
    /// For how many seconds its sender is a default router; 0 when it is none.
    pub lifetime: u16,
    /// Prefixes of the link.
    pub prefixes: Vec<Prefix>,
    /// Largest packet of the link in bytes.
    pub mtu: Option<u16>,
    /// Name servers, each with the seconds it may be used; 0 takes it back.
    pub dns: Vec<(Ipv6Addr, u32)>,
    /// Search domains, each with the seconds it may be used; 0 takes it back.
    pub search: Vec<(String, u32)>,
}

/// A prefix of the link (RFC 4861, section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub address: Ipv6Addr,
    /// Its length in bits.
    pub length: u8,
    /// Whether its addresses are on this link (L).
    pub on_link: bool,
    /// Whether hosts make addresses of it (A).
    pub autonomous: bool,
    /// For how many seconds its addresses are valid.
    pub valid: u32,
}

impl Advertisement {
    /// Reads an ICMPv6 message whose checksum has been verified (the kernel does so on raw sockets). None unless it
    /// is an advertisement that RFC 4861, section 6.1.2, calls valid.
    #[must_use]
    pub fn parse(message: &[u8], source: Ipv6Addr, hop_limit: u8) -> Option<Self> {
        let (fixed, options) = message.split_at_checked(FIXED)?;
        let from_a_neighbour = hop_limit == HOP_LIMIT && source.is_unicast_link_local();
        if !from_a_neighbour || fixed[..2] != [ROUTER_ADVERTISEMENT, 0] {
            return None;
        }
        let mut advertisement = Self {
            managed: fixed[5] & 0x80 != 0,
            other: fixed[5] & 0x40 != 0,
            lifetime: u16::from_be_bytes([fixed[6], fixed[7]]),
            ..Self::default()
        };
        let mut rest = options;
        while let [kind, eights, ..] = *rest {
            let (option, tail) = rest.split_at_checked(usize::from(eights) * 8)?;
            // An option of length 0 makes the whole message invalid.
            advertisement.take(kind, option.get(2..)?);
            rest = tail;
        }
        rest.is_empty().then_some(advertisement)
    }

    /// Takes one option; one that is itself malformed, or unknown, is passed over.
    fn take(&mut self, kind: u8, value: &[u8]) {
        match kind {
            PREFIX => self.prefixes.extend(prefix(value)),
            MTU => self.mtu = mtu(value).or(self.mtu),
            RDNSS => self.dns.extend(name_servers(value).into_iter().flatten()),
            DNSSL => self.search.extend(search_domains(value).into_iter().flatten()),
            _ => {}
        }
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*word), rest))
}

fn prefix(value: &[u8]) -> Option<Prefix> {
    let [length, flags, rest @ ..] = value else { return None };
    let (valid, rest) = word(rest)?;
    // Preferred lifetime and a reserved field stand before the prefix.
    let address = rest.get(8..)?.first_chunk::<16>()?;
    let good = *length <= 128;
    good.then(|| Prefix {
        address: Ipv6Addr::from(*address),
        length: *length,
        on_link: flags & 0x80 != 0,
        autonomous: flags & 0x40 != 0,
        valid,
    })
}

fn mtu(value: &[u8]) -> Option<u16> {
    let (mtu, _) = word(value.get(2..)?)?;
    u16::try_from(mtu).ok().filter(|_| mtu >= MIN_MTU)
}

fn name_servers(value: &[u8]) -> Option<impl Iterator<Item = (Ipv6Addr, u32)>> {
    let (lifetime, addresses) = word(value.get(2..)?)?;
    // RFC 8106, section 5.3.1: at least one address, and only whole ones.
    let whole = !addresses.is_empty() && addresses.len() % 16 == 0;
    whole.then(|| addresses_in(addresses).map(move |address| (address, lifetime)))
}

fn search_domains(value: &[u8]) -> Option<impl Iterator<Item = (String, u32)>> {
    let (lifetime, domains) = word(value.get(2..)?)?;
    Some(text::domains(domains).into_iter().map(move |domain| (domain, lifetime)))
}

/// The addresses, one after the other, that a server can have.
pub(crate) fn addresses_in(bytes: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    bytes.as_chunks::<16>().0.iter().map(|octets| Ipv6Addr::from(*octets)).filter(|address| {
        !address.is_unspecified()
            && !address.is_loopback()
            && !address.is_multicast()
            && address.to_ipv4_mapped().is_none()
    })
}

/// What the routers of a link have said, as long as it counts.
#[derive(Clone, Debug)]
pub struct Discovery {
    routers: Kept<Router>,
    dns: Kept<Ipv6Addr>,
    search: Kept<String>,
    backoff: Backoff,
    /// Whether routers are to be asked although there is one.
    anew: bool,
    solicit_at: Duration,
}

#[derive(Clone, Debug)]
struct Router {
    address: Ipv6Addr,
    asks_for_dhcp6: bool,
}

impl PartialEq for Router {
    /// A router is its address; what it says may change.
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Discovery {
    /// Nothing is known, and a solicitation is due at once. `seed` should be random.
    #[must_use]
    pub fn new(seed: u32, now: Duration) -> Self {
        Self {
            routers: Kept::default(),
            dns: Kept::default(),
            search: Kept::default(),
            backoff: Backoff::new(FIRST_PAUSE, seed, now),
            anew: true,
            solicit_at: now,
        }
    }

    /// When something is due: a solicitation while there is no router, or the end of what has been said.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let solicit = self.is_soliciting().then_some(self.solicit_at);
        let ends = [self.routers.next_end(), self.dns.next_end(), self.search.next_end()];
        ends.into_iter().chain([solicit]).flatten().min()
    }

    /// Forgets what counts no more. When the last router or name server has gone without a word, its word may only
    /// have been lost on the way: routers are asked again.
    pub fn expire(&mut self, now: Duration) {
        let lost = [self.routers.expire(now), self.dns.expire(now), self.search.expire(now)];
        if lost.contains(&true) {
            self.restart(now);
        }
    }

    /// Whether [`SOLICITATION`] is to be sent to [`ALL_ROUTERS`] now.
    pub fn poll(&mut self, now: Duration) -> bool {
        let is_due = self.is_soliciting() && now >= self.solicit_at;
        if is_due {
            self.solicit_at = now + self.backoff.pause(now);
        }
        is_due
    }

    fn is_soliciting(&self) -> bool {
        self.anew || !self.has_router()
    }

    /// Solicits anew, as on a link whose carrier has come back. What was learned stays until it ends.
    pub fn restart(&mut self, now: Duration) {
        self.backoff = Backoff::new(FIRST_PAUSE, self.backoff.next_random(), now);
        self.anew = true;
        self.solicit_at = now;
    }

    /// Takes in what a router said. True when it was its first word on this link.
    pub fn learn(&mut self, said: &Advertisement, source: Ipv6Addr, now: Duration) -> bool {
        let router = Router { address: source, asks_for_dhcp6: said.managed || said.other };
        let is_new = !self.routers.has(&router);
        self.routers.put(router, u32::from(said.lifetime), now);
        for (server, seconds) in &said.dns {
            self.dns.put(*server, *seconds, now);
        }
        for (domain, seconds) in &said.search {
            self.search.put(domain.clone(), *seconds, now);
        }
        self.anew = false;
        is_new
    }

    /// Whether any default router has spoken, and its word still counts.
    #[must_use]
    pub fn has_router(&self) -> bool {
        !self.routers.items.is_empty()
    }

    /// Whether a router sends its hosts to DHCPv6, for addresses or for other settings.
    #[must_use]
    pub fn asks_for_dhcp6(&self) -> bool {
        self.routers.items.iter().any(|(router, _)| router.asks_for_dhcp6)
    }

    /// Name servers in the order in which they were announced.
    pub fn dns(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.dns.items.iter().map(|(server, _)| *server)
    }

    /// Search domains in the order in which they were announced.
    pub fn search(&self) -> impl Iterator<Item = &str> {
        self.search.items.iter().map(|(domain, _)| domain.as_str())
    }
}

/// A few things, each until its time.
#[derive(Clone, Debug)]
struct Kept<T> {
    items: Vec<(T, Option<Duration>)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<T: PartialEq> Kept<T> {
    fn has(&self, item: &T) -> bool {
        self.items.iter().any(|(kept, _)| kept == item)
    }

    fn put(&mut self, item: T, seconds: u32, now: Duration) {
        let end = (seconds != FOREVER).then(|| now + Duration::from_secs(seconds.into()));
        let known = self.items.iter().position(|(kept, _)| *kept == item);
        match known {
            Some(at) if seconds == 0 => drop(self.items.remove(at)),
            Some(at) => self.items[at] = (item, end),
            None if seconds == 0 => {}
            None => self.insert(item, end),
        }
    }

    /// Where there is no room, what ends first gives way (RFC 8106, section 6.2).
    fn insert(&mut self, item: T, end: Option<Duration>) {
        if self.items.len() < MAX_KEPT {
            return self.items.push((item, end));
        }
        let span = |end: Option<Duration>| end.unwrap_or(Duration::MAX);
        let first = self.items.iter_mut().min_by_key(|(_, kept_end)| span(*kept_end));
        if let Some(first) = first.filter(|(_, kept_end)| span(*kept_end) < span(end)) {
            *first = (item, end);
        }
    }

    fn next_end(&self) -> Option<Duration> {
        self.items.iter().filter_map(|(_, end)| *end).min()
    }

    /// Whether the last one has gone by this.
    fn expire(&mut self, now: Duration) -> bool {
        let before = self.items.len();
        self.items.retain(|(_, end)| end.is_none_or(|end| now < end));
        before > 0 && self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn message(flags: u8, lifetime: u16, options: &[&[u8]]) -> Vec<u8> {
        let [high, low] = lifetime.to_be_bytes();
        let mut bytes = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, flags, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        options.iter().for_each(|option| bytes.extend_from_slice(option));
        bytes
    }

    fn rdnss(lifetime: u32, servers: &[Ipv6Addr]) -> Vec<u8> {
        let mut option = vec![RDNSS, 1 + 2 * servers.len() as u8, 0, 0];
        option.extend_from_slice(&lifetime.to_be_bytes());
        servers.iter().for_each(|server| option.extend_from_slice(&server.octets()));
        option
    }

    fn dnssl(lifetime: u32, domain: &[u8]) -> Vec<u8> {
        let mut option = vec![DNSSL, 0, 0, 0];
        option.extend_from_slice(&lifetime.to_be_bytes());
        option.extend_from_slice(domain);
        option.resize(option.len().next_multiple_of(8), 0);
        option[1] = (option.len() / 8) as u8;
        option
    }

    fn prefix_option(length: u8) -> Vec<u8> {
        let mut option = vec![PREFIX, 4, length, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0, 1, 0, 0, 0, 0];
        option.extend_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).octets());
        option
    }

    fn parsed(bytes: &[u8]) -> Option<Advertisement> {
        Advertisement::parse(bytes, ROUTER, 255)
    }

    fn said(dns: &[(Ipv6Addr, u32)]) -> Advertisement {
        Advertisement { lifetime: 1800, dns: dns.to_vec(), ..Advertisement::default() }
    }

    fn server(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)
    }

    #[test]
    fn reads_what_a_router_says() {
        let source_link_address: &[u8] = &[1, 1, 2, 0, 0, 0, 0, 1];
        let mtu: &[u8] = &[MTU, 1, 0, 0, 0, 0, 0x05, 0x78];
        let options: [&[u8]; 5] = [
            source_link_address,
            &prefix_option(64),
            mtu,
            &rdnss(600, &[DNS, ROUTER]),
            &dnssl(FOREVER, b"\x04farm\x07example\x00\x03lab\x00"),
        ];
        let expected = Advertisement {
            managed: false,
            other: true,
            lifetime: 1800,
            prefixes: vec![Prefix {
                address: server(0),
                length: 64,
                on_link: true,
                autonomous: true,
                valid: 3600,
            }],
            mtu: Some(1400),
            dns: vec![(DNS, 600), (ROUTER, 600)],
            search: vec![("farm.example".to_owned(), FOREVER), ("lab".to_owned(), FOREVER)],
        };
        assert_eq!(parsed(&message(0x40, 1800, &options)), Some(expected));
    }

    #[test]
    fn only_neighbours_are_believed() {
        let bytes = message(0, 1800, &[]);
        assert!(parsed(&bytes).is_some());
        for hop_limit in [0, 1, 64, 254] {
            assert_eq!(Advertisement::parse(&bytes, ROUTER, hop_limit), None);
        }
        for source in [DNS, Ipv6Addr::UNSPECIFIED, ALL_ROUTERS] {
            assert_eq!(Advertisement::parse(&bytes, source, 255), None);
        }
    }

    #[test]
    fn drops_messages_that_are_no_advertisements() {
        let good = message(0, 1800, &[&rdnss(600, &[DNS])]);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let no_length = changed(FIXED + 1, 0);
        let too_long = changed(FIXED + 1, 255);
        for bad in [changed(0, ROUTER_SOLICITATION), changed(1, 1), no_length, too_long] {
            assert_eq!(parsed(&bad), None);
        }
        for length in (0..good.len()).filter(|length| *length != FIXED) {
            assert_eq!(parsed(&good[..length]), None, "{length}");
        }
    }

    #[test]
    fn passes_over_options_that_say_nothing_usable() {
        let half_an_address = [RDNSS, 2, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8];
        let nobody = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, ALL_ROUTERS];
        let options: [&[u8]; 8] = [
            &rdnss(600, &[]),
            &half_an_address,
            &rdnss(600, &nobody),
            &dnssl(600, b"\x04a\nb;\x00"),
            &dnssl(600, b"\x3fcut"),
            &prefix_option(129),
            &[PREFIX, 1, 64, 0xc0, 0, 0, 0, 0],
            &[MTU, 1, 0, 0, 0, 0, 4, 0xff],
        ];
        let nothing = Advertisement { lifetime: 9, ..Advertisement::default() };
        assert_eq!(parsed(&message(0, 9, &options)), Some(nothing));
    }

    #[test]
    fn solicits_until_a_router_has_spoken() {
        let mut discovery = Discovery::new(1, seconds(0));
        let sent = |discovery: &mut Discovery, range: std::ops::Range<u64>| {
            range.filter(|second| discovery.poll(seconds(*second))).count()
        };
        assert!((8..=11).contains(&sent(&mut discovery, 0..50)));
        assert!(discovery.learn(&said(&[]), ROUTER, seconds(50)));
        assert!(!discovery.learn(&said(&[]), ROUTER, seconds(50)));
        assert_eq!(sent(&mut discovery, 50..1000), 0);
        assert_eq!(discovery.wake(), Some(seconds(1850)));
        discovery.restart(seconds(1000));
        assert!(discovery.poll(seconds(1000)) && discovery.has_router());
        discovery.learn(&said(&[]), ROUTER, seconds(1000));
        assert_eq!(sent(&mut discovery, 1001..1100), 0);
    }

    #[test]
    fn a_router_whose_time_has_passed_is_asked_for_again() {
        let mut discovery = Discovery::new(1, seconds(0));
        discovery.poll(seconds(0));
        discovery.learn(&said(&[]), ROUTER, seconds(0));
        discovery.expire(seconds(1799));
        assert!(discovery.has_router());
        discovery.expire(seconds(1800));
        assert!(!discovery.has_router() && discovery.poll(seconds(1800)));
        discovery.learn(&said(&[]), ROUTER, seconds(1801));
        let farewell = Advertisement { lifetime: 0, ..said(&[]) };
        discovery.learn(&farewell, ROUTER, seconds(1802));
        assert!(!discovery.has_router());
    }

    #[test]
    fn name_servers_stay_until_their_time_or_until_taken_back() {
        let mut discovery = Discovery::new(1, seconds(0));
        let (first, second, third) = (server(1), server(2), server(3));
        discovery.learn(&said(&[(first, 10), (second, 20), (third, FOREVER)]), ROUTER, seconds(0));
        discovery.expire(seconds(9));
        assert_eq!(discovery.wake(), Some(seconds(10)));
        assert_eq!(discovery.dns().collect::<Vec<_>>(), [first, second, third]);
        discovery.expire(seconds(10));
        assert_eq!(discovery.dns().collect::<Vec<_>>(), [second, third]);
        discovery.learn(&said(&[(second, 20)]), ROUTER, seconds(15));
        discovery.expire(seconds(34));
        assert_eq!(discovery.dns().collect::<Vec<_>>(), [second, third]);
        discovery.learn(&said(&[(second, 0), (third, 0), (first, 0)]), ROUTER, seconds(34));
        assert_eq!(discovery.dns().count(), 0);
        assert!(!discovery.poll(seconds(34)), "what was taken back is not asked for");
        discovery.learn(&said(&[(first, 5)]), ROUTER, seconds(35));
        discovery.expire(seconds(40));
        assert!(discovery.has_router() && discovery.poll(seconds(40)), "what ended in silence is");
    }

    #[test]
    fn a_flood_of_servers_and_routers_is_bounded() {
        let mut discovery = Discovery::new(1, seconds(0));
        for n in 1..1000 {
            let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n);
            let mut flood = said(&[(server(n), 100)]);
            flood.search = vec![(format!("n{n}.example"), 100)];
            discovery.learn(&flood, from, seconds(0));
        }
        // Those that last no longer than what is there change nothing.
        assert_eq!(discovery.dns().collect::<Vec<_>>(), (1..=8).map(server).collect::<Vec<_>>());
        assert_eq!(discovery.search().count(), MAX_KEPT);
        assert_eq!(discovery.routers.items.len(), MAX_KEPT);
        discovery.learn(&said(&[(DNS, 101)]), ROUTER, seconds(0));
        assert!(discovery.dns().any(|kept| kept == DNS));
        assert_eq!(discovery.dns().count(), MAX_KEPT);
    }

    #[test]
    fn dhcp6_is_wanted_while_a_router_says_so() {
        let mut discovery = Discovery::new(1, seconds(0));
        discovery.learn(&Advertisement { other: true, ..said(&[]) }, ROUTER, seconds(0));
        assert!(discovery.asks_for_dhcp6());
        discovery.learn(&Advertisement { managed: true, ..said(&[]) }, ROUTER, seconds(0));
        assert!(discovery.asks_for_dhcp6());
        discovery.learn(&said(&[]), ROUTER, seconds(1));
        assert!(!discovery.asks_for_dhcp6());
    }
}
