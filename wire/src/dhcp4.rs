//! DHCPv4 (RFC 2131, options of RFC 2132): packets and the client's state machine, without I/O.
//!
//! In: the time since start and the packets that came. Out: packets to broadcast, when to wake, and at last a
//! [`Lease`]. Packets that are not for us are dropped without a word: a network may carry anything.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The port clients listen at.
pub const CLIENT_PORT: u16 = 68;
/// The port servers listen at.
pub const SERVER_PORT: u16 = 67;

const FIXED: usize = 236;
/// Where a packet says for how many seconds its client has been asking.
const SECS: std::ops::Range<usize> = 8..10;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The least size that every relay forwards (RFC 1542, section 2.1).
const MIN_PACKET: usize = 300;
/// Servers answer to the broadcast address, as we have none of our own yet.
const BROADCAST_FLAG: [u8; 2] = [0x80, 0];

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// First retransmission; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Requests without an answer before the search starts anew.
const REQUESTS: u32 = 4;
/// Pause before starting anew after a refusal, so that a server that refuses for ever is not flooded.
const AFTER_NAK: Duration = Duration::from_secs(2);

/// What a server gave us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Default gateways, best first (option 3).
    pub gateways: Vec<Ipv4Addr>,
    /// Name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// Our name (option 12), if it is a valid one.
    pub hostname: Option<String>,
    /// Search domain (option 15), if it is a valid one.
    pub domain: Option<String>,
    /// Largest packet of the link in bytes (option 26), if the server says so.
    pub mtu: Option<u16>,
    /// The server that leased (option 54).
    pub server: Ipv4Addr,
    /// How long, in seconds (option 51).
    pub seconds: u32,
}

/// A client on one link.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    xid: u32,
    state: State,
    begun: Duration,
    wake: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Discovering { sent: u32 },
    Requesting { sent: u32, address: Ipv4Addr, server: Ipv4Addr },
    Bound,
}

impl Client {
    /// A client that sends its first packet at once. `xid` should be random.
    #[must_use]
    pub fn new(mac: [u8; 6], xid: u32, now: Duration) -> Self {
        Self { mac, xid, state: State::Discovering { sent: 0 }, begun: now, wake: now }
    }

    /// When [`Client::poll`] is to be called next; never when bound.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        (self.state != State::Bound).then_some(self.wake)
    }

    /// The packet to broadcast now, if it is time for one.
    pub fn poll(&mut self, now: Duration) -> Option<Vec<u8>> {
        if now < self.wake {
            return None;
        }
        if matches!(self.state, State::Requesting { sent: REQUESTS, .. }) {
            self.state = State::Discovering { sent: 0 };
        }
        let (sent, mut packet) = match &mut self.state {
            State::Discovering { sent } => (sent, packet(self.mac, self.xid, DISCOVER, None)),
            State::Requesting { sent, address, server } => {
                (sent, packet(self.mac, self.xid, REQUEST, Some((*address, *server))))
            }
            State::Bound => return None,
        };
        // Servers that stand in for others answer only those who have waited for a while.
        let waited = u16::try_from((now - self.begun).as_secs()).unwrap_or(u16::MAX);
        packet[SECS].copy_from_slice(&waited.to_be_bytes());
        self.wake = now + FIRST_PAUSE.saturating_mul(1 << (*sent).min(3)).min(LONGEST_PAUSE);
        *sent += 1;
        Some(packet)
    }

    /// Takes a packet from the link; a lease when it was the acknowledgement we asked for.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Option<Lease> {
        let reply = Reply::parse(bytes)?;
        if reply.xid != self.xid || reply.mac != self.mac {
            return None;
        }
        match (self.state, reply.kind) {
            (State::Discovering { sent }, OFFER) if sent > 0 => {
                let lease = reply.lease()?;
                self.state = State::Requesting { sent: 0, address: lease.address, server: lease.server };
                self.wake = now;
                None
            }
            (State::Requesting { server, .. }, NAK) if reply.server == Some(server) => {
                self.state = State::Discovering { sent: 0 };
                self.wake = now + AFTER_NAK;
                None
            }
            (State::Requesting { address, server, .. }, ACK) => {
                let lease = reply.lease()?;
                if lease.address != address || lease.server != server {
                    return None;
                }
                self.state = State::Bound;
                Some(lease)
            }
            _ => None,
        }
    }
}

/// A request to broadcast; `chosen` is the offered address and the server that offered it.
fn packet(mac: [u8; 6], xid: u32, kind: u8, chosen: Option<(Ipv4Addr, Ipv4Addr)>) -> Vec<u8> {
    let mut packet = vec![0; FIXED];
    // BOOTREQUEST, Ethernet, six bytes of hardware address.
    packet[..3].copy_from_slice(&[1, 1, 6]);
    packet[4..8].copy_from_slice(&xid.to_be_bytes());
    packet[10..12].copy_from_slice(&BROADCAST_FLAG);
    packet[28..34].copy_from_slice(&mac);
    packet.extend_from_slice(&COOKIE);
    packet.extend_from_slice(&[53, 1, kind]);
    packet.extend_from_slice(&[61, 7, 1]);
    packet.extend_from_slice(&mac);
    if let Some((address, server)) = chosen {
        packet.extend_from_slice(&[50, 4]);
        packet.extend_from_slice(&address.octets());
        packet.extend_from_slice(&[54, 4]);
        packet.extend_from_slice(&server.octets());
    }
    packet.extend_from_slice(&[55, 6, 1, 3, 6, 12, 15, 26]);
    // 1,472 bytes: what fits into an Ethernet frame without fragments.
    packet.extend_from_slice(&[57, 2, 0x05, 0xc0]);
    packet.push(255);
    packet.resize(packet.len().max(MIN_PACKET), 0);
    packet
}

/// A server's packet, as far as it concerns us.
struct Reply<'a> {
    xid: u32,
    mac: [u8; 6],
    kind: u8,
    address: Ipv4Addr,
    server: Option<Ipv4Addr>,
    options: &'a [u8],
}

impl<'a> Reply<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        let options = rest.strip_prefix(&COOKIE)?;
        // BOOTREPLY to an Ethernet client.
        if fixed[..3] != [2, 1, 6] {
            return None;
        }
        let &[kind] = option(options, 53)? else { return None };
        let mut mac = [0; 6];
        mac.copy_from_slice(&fixed[28..34]);
        Some(Self {
            xid: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            mac,
            kind,
            address: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            server: addresses(options, 54).first().copied(),
            options,
        })
    }

    fn lease(&self) -> Option<Lease> {
        let usable =
            |a: &Ipv4Addr| !a.is_unspecified() && !a.is_broadcast() && !a.is_multicast() && !a.is_loopback();
        let address = Some(self.address).filter(usable)?;
        let seconds = match option(self.options, 51) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => return None,
        };
        Some(Lease {
            address,
            prefix: prefix(addresses(self.options, 1).first().copied(), address)?,
            gateways: addresses(self.options, 3).into_iter().filter(usable).collect(),
            dns: addresses(self.options, 6).into_iter().filter(usable).collect(),
            hostname: text(self.options, 12),
            domain: text(self.options, 15),
            mtu: mtu(self.options),
            server: self.server?,
            seconds,
        })
    }
}

/// The value of an option; the first one where a server repeats it.
fn option(options: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        match rest {
            [0, tail @ ..] => rest = tail,
            [255, ..] | [] | [_] => return None,
            [code, length, tail @ ..] => {
                let (value, tail) = tail.split_at_checked(usize::from(*length))?;
                if *code == wanted {
                    return Some(value);
                }
                rest = tail;
            }
        }
    }
}

fn addresses(options: &[u8], wanted: u8) -> Vec<Ipv4Addr> {
    let value = option(options, wanted).unwrap_or_default();
    value.chunks_exact(4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3])).collect()
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

/// A host or domain name: it goes into files that other programs parse, so letters, digits, dots, hyphens only.
fn text(options: &[u8], wanted: u8) -> Option<String> {
    let value = option(options, wanted)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let good = (1..=253).contains(&value.len()) && value.iter().all(allowed) && value[0] != b'-';
    if good { String::from_utf8(value.to_vec()).ok() } else { None }
}

fn mtu(options: &[u8]) -> Option<u16> {
    match option(options, 26) {
        // 576 is what every IPv4 host must take (RFC 791); less would break more than it mends.
        Some(&[a, b]) => Some(u16::from_be_bytes([a, b])).filter(|mtu| *mtu >= 576),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const XID: u32 = 0x1234_5678;
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn reply(kind: u8, extra: &[u8]) -> Vec<u8> {
        let mut packet = packet(MAC, XID, kind, None);
        packet[0] = 2;
        packet[16..20].copy_from_slice(&[10, 0, 0, 15]);
        packet.truncate(FIXED + 4);
        packet.extend_from_slice(&[53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0x0e, 0x10]);
        packet.extend_from_slice(extra);
        packet.push(255);
        packet
    }

    fn kind_of(packet: &[u8]) -> u8 {
        option(&packet[FIXED + 4..], 53).unwrap()[0]
    }

    fn started() -> Client {
        let mut client = Client::new(MAC, XID, seconds(0));
        assert_eq!(kind_of(&client.poll(seconds(0)).unwrap()), DISCOVER);
        client
    }

    #[test]
    fn gets_a_lease_in_four_packets() {
        let mut client = started();
        assert_eq!(client.receive(&reply(OFFER, &[]), seconds(0)), None);
        let request = client.poll(seconds(0)).unwrap();
        assert_eq!(kind_of(&request), REQUEST);
        assert_eq!(option(&request[FIXED + 4..], 50).unwrap(), [10, 0, 0, 15]);
        assert_eq!(option(&request[FIXED + 4..], 54).unwrap(), SERVER.octets());
        let all = [
            1, 4, 255, 255, 255, 128, 3, 4, 10, 0, 0, 2, 6, 8, 10, 0, 0, 3, 10, 0, 0, 4, 12, 2, b'n', b'1',
            15, 3, b'a', b'.', b'b', 26, 2, 5, 0,
        ];
        let lease = client.receive(&reply(ACK, &all), seconds(0)).unwrap();
        let expected = Lease {
            address: Ipv4Addr::new(10, 0, 0, 15),
            prefix: 25,
            gateways: vec![Ipv4Addr::new(10, 0, 0, 2)],
            dns: vec![Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 4)],
            hostname: Some("n1".to_owned()),
            domain: Some("a.b".to_owned()),
            mtu: Some(1280),
            server: SERVER,
            seconds: 3600,
        };
        assert_eq!(lease, expected);
        assert_eq!(client.wake(), None);
    }

    #[test]
    fn asks_again_at_growing_pauses() {
        let mut client = Client::new(MAC, XID, seconds(0));
        let mut sent = Vec::new();
        for now in 0..40 {
            if let Some(packet) = client.poll(seconds(now)) {
                assert_eq!(packet[SECS], [0, now as u8]);
                sent.push(now);
            }
        }
        assert_eq!(sent, [0, 1, 3, 7, 15, 23, 31, 39]);
    }

    #[test]
    fn starts_anew_when_the_server_is_gone_after_its_offer() {
        let mut client = started();
        client.receive(&reply(OFFER, &[]), seconds(0));
        let kinds: Vec<u8> =
            (0..40).filter_map(|now| client.poll(seconds(now))).map(|packet| kind_of(&packet)).collect();
        assert_eq!(
            kinds,
            [REQUEST, REQUEST, REQUEST, REQUEST, DISCOVER, DISCOVER, DISCOVER, DISCOVER, DISCOVER, DISCOVER]
        );
    }

    #[test]
    fn a_refusal_starts_anew_after_a_pause() {
        let mut client = started();
        client.receive(&reply(OFFER, &[]), seconds(0));
        client.poll(seconds(0));
        assert_eq!(client.receive(&reply(NAK, &[]), seconds(1)), None);
        assert_eq!(client.poll(seconds(2)), None);
        assert_eq!(kind_of(&client.poll(seconds(3)).unwrap()), DISCOVER);
    }

    #[test]
    fn drops_what_is_not_for_us() {
        let good = reply(OFFER, &[]);
        let changed = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        let no_lease_time = {
            let mut packet = good.clone();
            packet[FIXED + 4 + 9] = 200;
            packet
        };
        let bad = [
            changed(0, 1),
            changed(4, 0),
            changed(28, 9),
            changed(FIXED, 0),
            good[..FIXED].to_vec(),
            good[..FIXED + 6].to_vec(),
            Vec::new(),
            no_lease_time,
            reply(OFFER, &[1, 4, 255, 0, 255, 0]),
            reply(ACK, &[]),
        ];
        for packet in bad {
            let mut client = started();
            assert_eq!(client.receive(&packet, seconds(0)), None);
            assert!(matches!(client.state, State::Discovering { .. }));
        }
    }

    #[test]
    fn names_that_would_break_files_are_dropped() {
        let mut client = started();
        client.receive(&reply(OFFER, &[]), seconds(0));
        client.poll(seconds(0));
        let lease =
            client.receive(&reply(ACK, &[12, 3, b'a', b'\n', b'b', 15, 2, b'-', b'x']), seconds(0)).unwrap();
        assert_eq!((lease.hostname, lease.domain), (None, None));
    }
}
