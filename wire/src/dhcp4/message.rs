//! DHCPv4 packets: what a client asks (RFC 2131, section 4.4) and what servers answer (options of RFC 2132).
//!
//! In: bytes of anyone on the link. Out: a [`Reply`], from which a [`Lease`] can be read. A packet without a usable
//! address is none; an option that cannot be is as if it were not there, as a node with half of its settings can
//! still be repaired from afar.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::text;

const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where a packet says for how many seconds its client has been asking.
const SECS: std::ops::Range<usize> = 8..10;
const CIADDR: std::ops::Range<usize> = 12..16;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..FIXED;
/// The least size that every relay forwards (RFC 1542, section 2.1).
const MIN_PACKET: usize = 300;
/// Asks servers to answer to the broadcast address, as we have none of our own yet.
const BROADCAST_FLAG: [u8; 2] = [0x80, 0];
/// 1,472 bytes: what fits into an Ethernet frame without fragments.
const MAX_PACKET: [u8; 2] = [0x05, 0xc0];

/// Vendor class, for servers that treat kinds of clients apart (dnsmasq's `dhcp-vendorclass`).
const VENDOR: &[u8] = if cfg!(target_arch = "aarch64") { b"zstrap:arm64" } else { b"zstrap:amd64" };

const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOST_NAME: u8 = 12;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const NTP: u8 = 42;
const REQUESTED: u8 = 50;
const SECONDS: u8 = 51;
const OVERLOAD: u8 = 52;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const WISHES: u8 = 55;
const MAX_SIZE: u8 = 57;
const T1: u8 = 58;
const T2: u8 = 59;
const VENDOR_CLASS: u8 = 60;
const CLIENT_ID: u8 = 61;
const SEARCH: u8 = 119;
const ROUTES: u8 = 121;

/// What we wish to be told. Classless routes stand before the router, as RFC 3442 has it.
const WISHED: [u8; 12] = [MASK, ROUTES, ROUTER, DNS, HOST_NAME, DOMAIN, MTU, NTP, SECONDS, T1, T2, SEARCH];

/// Kinds of packets (option 53).
pub(super) const DISCOVER: u8 = 1;
pub(super) const OFFER: u8 = 2;
pub(super) const REQUEST: u8 = 3;
pub(super) const DECLINE: u8 = 4;
pub(super) const ACK: u8 = 5;
pub(super) const NAK: u8 = 6;

/// More servers than this of one sort help nobody.
const MAX_SERVERS: usize = 8;
const MAX_ROUTES: usize = 64;
/// A lease without a time, or an hour: what udhcpc takes too.
const DEFAULT_SECONDS: u32 = 3600;
/// Shorter ones are taken as this long: renewing would be all that the node does.
const LEAST_SECONDS: u32 = 10;
/// No renewal before this, whatever the server says.
const LEAST_RENEWAL: u32 = 5;
/// The address never expires (RFC 2131, section 3.3).
const INFINITE: u32 = u32::MAX;

/// What a server gave us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits (option 1), 1 to 32.
    pub prefix: u8,
    /// Ways to other networks: option 121 alone where it is (RFC 3442), else a default route of option 3.
    pub routes: Vec<Route4>,
    /// Name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// Our name (option 12), if it is a valid one.
    pub hostname: Option<String>,
    /// Search domains (option 119, else 15) that are valid ones.
    pub search: Vec<String>,
    /// Largest packet of the link in bytes (option 26), if the server says so: 576 or more.
    pub mtu: Option<u16>,
    /// Time servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// The server that leased (option 54).
    pub server: Ipv4Addr,
    /// How long, in seconds (option 51); `u32::MAX` is for ever.
    pub seconds: u32,
    /// When to ask this server again, in seconds (option 58, or half).
    pub renew_after: u32,
    /// When to ask any server, in seconds (option 59, or seven eighths). Never before `renew_after`.
    pub rebind_after: u32,
}

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route4 {
    /// The network; 0.0.0.0 with prefix 0 is everything.
    pub destination: Ipv4Addr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Through whom; none when it is on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

impl Lease {
    /// The gateway of the default route, if there is one.
    #[must_use]
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.routes.iter().find(|route| route.prefix == 0)?.gateway
    }

    /// Whether it never ends.
    #[must_use]
    pub fn is_infinite(&self) -> bool {
        self.seconds == INFINITE
    }
}

/// A packet of ours in the making.
pub(super) struct Request {
    pub(super) mac: [u8; 6],
    pub(super) xid: u32,
    pub(super) kind: u8,
    /// For how many seconds we have been asking.
    pub(super) waited: u16,
    /// Whether the answer shall come to the broadcast address.
    pub(super) broadcast: bool,
    /// The address that we have and may answer from.
    pub(super) own: Option<Ipv4Addr>,
    /// The wanted address, and the server that offered it.
    pub(super) chosen: Option<(Ipv4Addr, Option<Ipv4Addr>)>,
}

impl Request {
    /// The bytes, from the BOOTP header on.
    pub(super) fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0; FIXED];
        // BOOTREQUEST, Ethernet, six bytes of hardware address.
        packet[..3].copy_from_slice(&[1, 1, 6]);
        packet[4..8].copy_from_slice(&self.xid.to_be_bytes());
        packet[SECS].copy_from_slice(&self.waited.to_be_bytes());
        if self.broadcast {
            packet[10..12].copy_from_slice(&BROADCAST_FLAG);
        }
        packet[CIADDR].copy_from_slice(&self.own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        packet[28..34].copy_from_slice(&self.mac);
        packet.extend_from_slice(&COOKIE);
        self.options(|code, value| {
            let length = u8::try_from(value.len()).expect("options here are short");
            packet.extend_from_slice(&[code, length]);
            packet.extend_from_slice(value);
        });
        packet.push(255);
        packet.resize(packet.len().max(MIN_PACKET), 0);
        packet
    }

    fn options(&self, mut put: impl FnMut(u8, &[u8])) {
        let [a, b, c, d, e, f] = self.mac;
        put(KIND, &[self.kind]);
        // Hardware type 1, then the address: what servers also make of a client without an identifier.
        put(CLIENT_ID, &[1, a, b, c, d, e, f]);
        if let Some((address, server)) = self.chosen {
            put(REQUESTED, &address.octets());
            if let Some(server) = server {
                put(SERVER, &server.octets());
            }
        }
        // RFC 2131, table 5: a refusal of ours wishes for nothing.
        if self.kind != DECLINE {
            put(WISHES, &WISHED);
            put(MAX_SIZE, &MAX_PACKET);
            put(VENDOR_CLASS, VENDOR);
        }
    }
}

/// The address that the client of a packet already has.
pub(super) fn own_address(packet: &[u8]) -> Option<Ipv4Addr> {
    packet.get(CIADDR)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// A server's packet, as far as it concerns us.
pub(super) struct Reply<'a> {
    pub(super) xid: u32,
    pub(super) mac: [u8; 6],
    pub(super) kind: u8,
    address: Ipv4Addr,
    pub(super) server: Option<Ipv4Addr>,
    options: Options<'a>,
}

impl<'a> Reply<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        let options = Options::read(fixed, rest.strip_prefix(&COOKIE)?);
        // BOOTREPLY to an Ethernet client.
        if fixed[..3] != [2, 1, 6] {
            return None;
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&fixed[28..34]);
        Some(Self {
            xid: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            mac,
            kind: *options.value(KIND).first()?,
            address: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            server: options.addresses(SERVER).first().copied(),
            options,
        })
    }

    /// What is leased or offered, if its address can be used.
    pub(super) fn lease(&self) -> Option<Lease> {
        let options = &self.options;
        let address = Some(self.address).filter(is_host)?;
        let (seconds, renew_after, rebind_after) =
            times(options.number(SECONDS), options.number(T1), options.number(T2));
        let search = match text::domains(&options.value(SEARCH)) {
            domains if domains.is_empty() => options.words(DOMAIN),
            domains => domains,
        };
        Some(Lease {
            address,
            prefix: prefix(options.addresses(MASK).first().copied(), address)?,
            routes: routes(options, address),
            dns: options.servers(DNS),
            hostname: text::host_name(&options.value(HOST_NAME)),
            search,
            mtu: options.mtu(),
            ntp: options.servers(NTP),
            server: self.server.filter(is_host)?,
            seconds,
            renew_after,
            rebind_after,
        })
    }
}

/// The fields of a packet in which options stand, in the order in which they are joined (RFC 3396, section 5).
struct Options<'a>([&'a [u8]; 3]);

impl<'a> Options<'a> {
    fn read(fixed: &'a [u8], options: &'a [u8]) -> Self {
        let first = Self([options, &[], &[]]);
        let used = first.value(OVERLOAD).first().copied().unwrap_or(0);
        let part = |bit: u8, field| if used & bit != 0 { &fixed[field] } else { &[][..] };
        Self([options, part(1, FILE), part(2, SNAME)])
    }

    /// All values of an option, one behind the other: this is how long ones are sent. Empty when it is not there.
    fn value(&self, wanted: u8) -> Vec<u8> {
        let mut joined = Vec::new();
        for field in self.0 {
            let mut rest = field;
            while let Some((code, value, tail)) = next(rest) {
                if code == wanted {
                    joined.extend_from_slice(value);
                }
                rest = tail;
            }
        }
        joined
    }

    fn number(&self, wanted: u8) -> Option<u32> {
        self.value(wanted).first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn addresses(&self, wanted: u8) -> Vec<Ipv4Addr> {
        self.value(wanted).chunks_exact(4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3])).collect()
    }

    fn servers(&self, wanted: u8) -> Vec<Ipv4Addr> {
        let mut servers = Vec::new();
        for server in self.addresses(wanted).into_iter().filter(is_host) {
            if !servers.contains(&server) && servers.len() < MAX_SERVERS {
                servers.push(server);
            }
        }
        servers
    }

    /// Option 15 is for one domain, but many a server is given several with spaces between them.
    fn words(&self, wanted: u8) -> Vec<String> {
        self.value(wanted).split(|byte| *byte == b' ').filter_map(text::domain).take(MAX_SERVERS).collect()
    }

    /// 576 is what every IPv4 host must take (RFC 791); less would break more than it mends.
    fn mtu(&self) -> Option<u16> {
        let bytes = self.value(MTU);
        bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)).filter(|mtu| *mtu >= 576)
    }
}

/// The next option of a field and what follows it; none at its end, or where it is damaged.
fn next(field: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let padding = field.iter().take_while(|byte| **byte == 0).count();
    match &field[padding..] {
        [255, ..] | [] | [_] => None,
        [code, length, tail @ ..] => {
            let (value, tail) = tail.split_at_checked(usize::from(*length))?;
            Some((*code, value, tail))
        }
    }
}

/// Whether an address can be one host's.
fn is_host(address: &Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && first < 224
}

/// The length of a contiguous mask; without a mask that of the address's class, as RFC 950 had it.
fn prefix(mask: Option<Ipv4Addr>, address: Ipv4Addr) -> Option<u8> {
    let Some(mask) = mask.map(u32::from) else {
        return Some(match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        });
    };
    let ones = mask.leading_ones();
    let contiguous = mask.count_ones() == ones && ones > 0;
    if contiguous { u8::try_from(ones).ok() } else { None }
}

fn routes(options: &Options, own: Ipv4Addr) -> Vec<Route4> {
    match classless(&options.value(ROUTES), own) {
        Some(routes) if !routes.is_empty() => routes,
        _ => {
            let gateway = options.addresses(ROUTER).into_iter().find(|a| is_host(a) && *a != own);
            let default = |gateway| Route4 { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway };
            gateway.map(|gateway| default(Some(gateway))).into_iter().collect()
        }
    }
}

/// RFC 3442: the length of a prefix, as many bytes of it as that needs, a gateway; none if anything is damaged.
fn classless(mut rest: &[u8], own: Ipv4Addr) -> Option<Vec<Route4>> {
    let mut routes: Vec<Route4> = Vec::new();
    while let [prefix @ 0..=32, tail @ ..] = rest {
        let (significant, tail) = tail.split_at_checked(usize::from(prefix.div_ceil(8)))?;
        let (gateway, tail) = tail.split_first_chunk::<4>()?;
        rest = tail;
        let mut octets = [0; 4];
        octets[..significant.len()].copy_from_slice(significant);
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
        let destination = Ipv4Addr::from(u32::from_be_bytes(octets) & mask);
        let gateway = Some(Ipv4Addr::from(*gateway)).filter(|gateway| !gateway.is_unspecified());
        let route = Route4 { destination, prefix: *prefix, gateway };
        // The kernel refuses a route through ourselves, and a second one to the same network.
        let is_new = routes.iter().all(|r| (r.destination, r.prefix) != (destination, *prefix));
        if gateway.is_none_or(|gateway| is_host(&gateway) && gateway != own) && is_new {
            routes.push(route);
        }
    }
    routes.truncate(MAX_ROUTES);
    rest.is_empty().then_some(routes)
}

/// Length of the lease, T1 and T2. Servers are wrong in many ways, so the times are put in order (RFC 2131, section
/// 4.4.5): T1 < T2 < end, each with its usual part of the lease if the server's will not do.
fn times(seconds: Option<u32>, t1: Option<u32>, t2: Option<u32>) -> (u32, u32, u32) {
    let seconds = seconds.unwrap_or(DEFAULT_SECONDS).max(LEAST_SECONDS);
    if seconds == INFINITE {
        return (INFINITE, INFINITE, INFINITE);
    }
    let usual = (seconds / 2, seconds - seconds.div_ceil(8));
    let t2 = t2.filter(|t2| *t2 > LEAST_RENEWAL && *t2 < seconds).unwrap_or(usual.1);
    let t1 = t1.filter(|t1| *t1 > 0).map(|t1| t1.max(LEAST_RENEWAL));
    let t1 = [t1.unwrap_or(usual.0), usual.0].into_iter().find(|t1| *t1 < t2).unwrap_or(t2 / 2);
    (seconds, t1, t2)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn request(kind: u8) -> Request {
        let chosen = Some((Ipv4Addr::new(10, 0, 0, 15), Some(Ipv4Addr::new(10, 0, 0, 1))));
        Request { mac: MAC, xid: 7, kind, waited: 3, broadcast: true, own: None, chosen }
    }

    /// A server's answer to a request of ours.
    pub(crate) fn answer(request: &[u8], kind: u8, address: Ipv4Addr, options: &[u8]) -> Vec<u8> {
        let mut packet = request[..FIXED].to_vec();
        packet[0] = 2;
        packet[16..20].copy_from_slice(&address.octets());
        packet.extend_from_slice(&COOKIE);
        packet.extend_from_slice(&[53, 1, kind]);
        packet.extend_from_slice(options);
        packet.push(255);
        packet
    }

    /// An option of one of our own packets.
    pub(crate) fn asked(packet: &[u8], code: u8) -> Vec<u8> {
        Options([&packet[FIXED + 4..], &[], &[]]).value(code)
    }

    /// An acknowledgement with a server and these options.
    fn ack(options: &[u8]) -> Vec<u8> {
        let options = [&[54, 4, 10, 0, 0, 1][..], options].concat();
        answer(&request(REQUEST).packet(), ACK, Ipv4Addr::new(10, 0, 0, 15), &options)
    }

    fn lease(options: &[u8]) -> Option<Lease> {
        Reply::parse(&ack(options)).unwrap().lease()
    }

    #[test]
    fn a_request_says_what_servers_look_at() {
        let packet = request(REQUEST).packet();
        assert_eq!(packet.len(), MIN_PACKET);
        assert_eq!((&packet[..4], &packet[4..8]), (&[1, 1, 6, 0][..], &[0, 0, 0, 7][..]));
        assert_eq!((&packet[8..12], &packet[12..16]), (&[0, 3, 0x80, 0][..], &[0; 4][..]));
        assert_eq!(packet[28..34], MAC);
        assert_eq!(asked(&packet, 53), [REQUEST]);
        assert_eq!(asked(&packet, 50), [10, 0, 0, 15]);
        assert_eq!(asked(&packet, 54), [10, 0, 0, 1]);
        assert_eq!(asked(&packet, 55), [1, 121, 3, 6, 12, 15, 26, 42, 51, 58, 59, 119]);
        assert_eq!(asked(&packet, 57), [5, 0xc0]);
        assert!(asked(&packet, 60).starts_with(b"zstrap:"));
        assert_eq!(asked(&packet, 61), [1, 2, 0, 0, 0, 0, 1]);
        let decline = request(DECLINE).packet();
        assert_eq!((asked(&decline, 50), asked(&decline, 55)), (vec![10, 0, 0, 15], vec![]));
    }

    #[test]
    fn an_address_of_our_own_is_the_one_to_answer_to() {
        let own = Some(Ipv4Addr::new(10, 0, 0, 15));
        let packet = Request { own, broadcast: false, chosen: None, ..request(REQUEST) }.packet();
        assert_eq!(own_address(&packet), own);
        assert_eq!((&packet[10..12], asked(&packet, 50)), (&[0, 0][..], vec![]));
        assert_eq!(own_address(&packet[..14]), None);
    }

    #[test]
    fn all_options_reach_the_lease() {
        let all = [
            &[1, 4, 255, 255, 255, 128, 3, 8, 10, 0, 0, 2, 10, 0, 0, 9][..],
            &[6, 12, 10, 0, 0, 3, 10, 0, 0, 4, 10, 0, 0, 3, 12, 2, b'n', b'1', 15, 3, b'a', b'.', b'b'],
            &[26, 2, 5, 0, 42, 4, 10, 0, 0, 5],
            &[51, 4, 0, 0, 0x0e, 0x10, 58, 4, 0, 0, 4, 0, 59, 4, 0, 0, 8, 0],
        ];
        let default = Route4 {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(Ipv4Addr::new(10, 0, 0, 2)),
        };
        let expected = Lease {
            address: Ipv4Addr::new(10, 0, 0, 15),
            prefix: 25,
            routes: vec![default],
            dns: vec![Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 4)],
            hostname: Some("n1".to_owned()),
            search: vec!["a.b".to_owned()],
            mtu: Some(1280),
            ntp: vec![Ipv4Addr::new(10, 0, 0, 5)],
            server: Ipv4Addr::new(10, 0, 0, 1),
            seconds: 3600,
            renew_after: 1024,
            rebind_after: 2048,
        };
        let found = lease(&all.concat()).unwrap();
        assert_eq!(found, expected);
        assert_eq!(found.gateway(), Some(Ipv4Addr::new(10, 0, 0, 2)));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), expected);
    }

    #[test]
    fn a_lease_without_anything_is_an_hour_in_the_network_of_its_class() {
        let lease = lease(&[]).unwrap();
        assert_eq!(
            (lease.prefix, lease.seconds, lease.renew_after, lease.rebind_after),
            (8, 3600, 1800, 3150)
        );
        assert!(lease.routes.is_empty() && lease.dns.is_empty() && lease.gateway().is_none());
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let route = |destination: [u8; 4], prefix, gateway: Option<[u8; 4]>| Route4 {
            destination: destination.into(),
            prefix,
            gateway: gateway.map(Ipv4Addr::from),
        };
        let options = [
            &[3, 4, 10, 0, 0, 2, 121, 31][..],
            &[0, 10, 0, 0, 3][..],
            &[32, 169, 254, 169, 254, 0, 0, 0, 0],
            // Host bits are cut off.
            &[12, 172, 0x1f, 10, 0, 0, 4],
            // Through ourselves, and to the first one's network again.
            &[0, 10, 0, 0, 15],
            &[0, 10, 0, 0, 9],
        ];
        let expected = [
            route([0, 0, 0, 0], 0, Some([10, 0, 0, 3])),
            route([169, 254, 169, 254], 32, None),
            route([172, 16, 0, 0], 12, Some([10, 0, 0, 4])),
        ];
        assert_eq!(lease(&options.concat()).unwrap().routes, expected);
    }

    #[test]
    fn damaged_routes_leave_the_router() {
        for bad in [&[33, 10, 0, 0, 0, 0, 10, 0, 0, 1][..], &[0, 10, 0, 0], &[0, 10, 0, 0, 1, 24, 10], &[]] {
            let options = [&[121, bad.len() as u8][..], bad, &[3, 4, 10, 0, 0, 2]].concat();
            let lease = lease(&options).unwrap();
            assert_eq!((lease.routes.len(), lease.gateway()), (1, Some(Ipv4Addr::new(10, 0, 0, 2))));
        }
    }

    #[test]
    fn a_default_route_of_many_that_stays_on_the_link_has_no_gateway() {
        let lease = lease(&[121, 5, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!((lease.routes.len(), lease.gateway()), (1, None));
    }

    #[test]
    fn long_options_are_joined_across_the_fields_of_the_packet() {
        // A route of nine bytes in three parts: options, file, then sname.
        let mut packet = ack(&[52, 1, 3, 121, 2, 32, 192]);
        packet[FILE][..7].copy_from_slice(&[0, 121, 4, 0, 2, 7, 10]);
        packet[FILE][7] = 255;
        packet[SNAME][..6].copy_from_slice(&[121, 3, 0, 0, 2, 255]);
        let lease = Reply::parse(&packet).unwrap().lease().unwrap();
        assert_eq!(lease.routes[0].destination, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(lease.routes[0].gateway, Some(Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn fields_hold_options_only_when_the_packet_says_so() {
        let mut packet = ack(&[]);
        packet[FILE][..4].copy_from_slice(&[12, 2, b'n', b'1']);
        packet[SNAME][..4].copy_from_slice(&[12, 2, b'n', b'2']);
        assert_eq!(Reply::parse(&packet).unwrap().lease().unwrap().hostname, None);
        for (used, name) in [(1, "n1"), (2, "n2"), (3, "n1n2")] {
            let mut packet = ack(&[52, 1, used]);
            packet[FILE][..4].copy_from_slice(&[12, 2, b'n', b'1']);
            packet[SNAME][..4].copy_from_slice(&[12, 2, b'n', b'2']);
            assert_eq!(Reply::parse(&packet).unwrap().lease().unwrap().hostname.as_deref(), Some(name));
        }
    }

    #[test]
    fn a_search_list_goes_before_the_domain() {
        let both = [&[15, 3, b'x', b'.', b'y', 119, 5, 1, b'a', 1, b'b', 0][..]].concat();
        assert_eq!(lease(&both).unwrap().search, ["a.b"]);
        assert_eq!(lease(&[15, 7, b'x', b'.', b'y', b' ', b'a', b'.', b'b']).unwrap().search, ["x.y", "a.b"]);
        assert_eq!(lease(&[15, 3, b'x', b'.', b'y', 119, 2, 0xc0, 0]).unwrap().search, ["x.y"]);
    }

    #[test]
    fn names_that_would_break_files_are_dropped() {
        let lease = lease(&[12, 3, b'a', b'\n', b'b', 15, 2, b'-', b'x']).unwrap();
        assert_eq!((lease.hostname, lease.search), (None, vec![]));
    }

    #[test]
    fn servers_that_cannot_be_are_dropped() {
        let options = [
            &[6, 20, 0, 0, 0, 0, 127, 0, 0, 1, 224, 0, 0, 1, 255, 255, 255, 255, 10, 0, 0, 3][..],
            &[3, 12, 0, 0, 0, 0, 10, 0, 0, 15, 10, 0, 0, 2, 26, 2, 1, 0],
        ];
        let lease = lease(&options.concat()).unwrap();
        assert_eq!(lease.dns, [Ipv4Addr::new(10, 0, 0, 3)]);
        assert_eq!((lease.gateway(), lease.mtu), (Some(Ipv4Addr::new(10, 0, 0, 2)), None));
    }

    #[test]
    fn addresses_that_cannot_be_ours_are_no_lease() {
        for address in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            let mut packet = ack(&[]);
            packet[16..20].copy_from_slice(&address);
            assert_eq!(Reply::parse(&packet).unwrap().lease(), None);
        }
        assert_eq!(lease(&[1, 4, 255, 0, 255, 0]), None);
        assert_eq!(lease(&[1, 4, 0, 0, 0, 0]), None);
        let nameless = answer(&request(REQUEST).packet(), ACK, Ipv4Addr::new(10, 0, 0, 15), &[]);
        assert_eq!(Reply::parse(&nameless).unwrap().lease(), None);
    }

    #[test]
    fn cut_and_foreign_packets_are_no_replies() {
        let good = ack(&[]);
        for length in 0..FIXED + 7 {
            assert!(Reply::parse(&good[..length]).is_none(), "{length}");
        }
        for at in [0, 1, 2, FIXED, FIXED + 3] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Reply::parse(&bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn an_option_longer_than_the_packet_ends_it() {
        let mut packet = ack(&[26, 2, 5, 0, 12, 200, b'n']);
        packet.pop();
        let lease = Reply::parse(&packet).unwrap().lease().unwrap();
        assert_eq!((lease.mtu, lease.hostname), (Some(1280), None));
    }

    #[test]
    fn times_of_any_server_are_put_in_order() {
        let day = 86_400;
        for (seconds, t1, t2, expected) in [
            (Some(20), None, None, (20, 10, 17)),
            (Some(20), Some(10), Some(17), (20, 10, 17)),
            (Some(day), Some(100), Some(200), (day, 100, 200)),
            // T1 after T2, T2 after the end, both after it, both the same.
            (Some(day), Some(80_000), Some(70_000), (day, 43_200, 70_000)),
            (Some(day), Some(100), Some(90_000), (day, 100, 75_600)),
            (Some(day), Some(90_000), Some(95_000), (day, 43_200, 75_600)),
            (Some(day), Some(200), Some(200), (day, 100, 200)),
            // Nothing at all, and as often as it could be.
            (Some(0), Some(0), Some(0), (10, 5, 8)),
            (Some(1), Some(1), Some(1), (10, 5, 8)),
            (Some(day), Some(1), Some(2), (day, 5, 75_600)),
            (Some(INFINITE - 1), None, None, (INFINITE - 1, INFINITE / 2, 3_758_096_382)),
            (Some(INFINITE), Some(1), Some(2), (INFINITE, INFINITE, INFINITE)),
            (Some(day), Some(INFINITE), Some(INFINITE), (day, 43_200, 75_600)),
            (None, None, None, (3600, 1800, 3150)),
        ] {
            assert_eq!(times(seconds, t1, t2), expected, "{seconds:?} {t1:?} {t2:?}");
        }
    }

    #[test]
    fn times_are_in_order_whatever_comes() {
        let edges = [0, 1, 4, 5, 6, 7, 9, 10, 11, 20, 100, INFINITE / 2, INFINITE - 1, INFINITE];
        for seconds in edges {
            for t1 in edges {
                for t2 in edges {
                    let (end, t1, t2) = times(Some(seconds), Some(t1), Some(t2));
                    assert!((1 < t1 && t1 < t2 && t2 < end) || end == INFINITE, "{t1} {t2} {end}");
                }
            }
        }
    }
}
