//! A DHCP server that behaves as badly as a test wants, and hosts that are in the way.
//!
//! In: a [`Script`] for a port of a [`Segment`]. Out: answers to what a client broadcasts
//! or sends to us, and a record of it. Failure: frames that are not for us, or no DHCP at all, are ignored. Well-behaved
//! servers are not made here: dnsmasq and Kea judge those. (RFC 2131, RFC 2132, RFC 826)

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::segment::{Host, Segment};

/// Message types (RFC 2132, 9.6).
pub const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
/// See [`DISCOVER`].
pub const REQUEST: u8 = 3;
/// See [`DISCOVER`].
pub const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Option codes (RFC 2132; 119: RFC 3397; 121: RFC 3442).
pub const NETMASK: u8 = 1;
/// See [`NETMASK`].
pub const ROUTER: u8 = 3;
/// See [`NETMASK`].
pub const DNS: u8 = 6;
/// See [`NETMASK`].
pub const HOSTNAME: u8 = 12;
/// See [`NETMASK`].
pub const MTU: u8 = 26;
/// See [`NETMASK`].
pub const NTP: u8 = 42;
const REQUESTED: u8 = 50;
/// See [`NETMASK`].
pub const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
/// See [`NETMASK`].
pub const SEARCH: u8 = 119;
/// See [`NETMASK`].
pub const ROUTES: u8 = 121;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];

/// Offsets in a BOOTP message.
const FLAGS: usize = 10;
const CIADDR: usize = 12;
const CHADDR: usize = 28;
const OPTIONS: usize = 240;

/// What the server does.
#[derive(Clone, Debug)]
pub struct Script {
    server: Ipv4Addr,
    mac: [u8; 6],
    pool: Vec<Ipv4Addr>,
    options: Vec<(u8, Vec<u8>)>,
    silent: Duration,
    late: Duration,
    naks: u32,
    obeys_broadcast_flag: bool,
}

impl Script {
    /// A server on 10.77.0.`host` with addresses from `first` on, with a lease of two minutes and the router and
    /// name server 10.77.0.1.
    pub fn new(host: u8, first: u8) -> Self {
        let router = Ipv4Addr::new(10, 77, 0, 1);
        Self {
            server: Ipv4Addr::new(10, 77, 0, host),
            mac: [0x02, 0, 0, 0, 0x77, host],
            pool: (0..16).map(|more| Ipv4Addr::new(10, 77, 0, first.saturating_add(more))).collect(),
            options: Vec::new(),
            silent: Duration::ZERO,
            late: Duration::ZERO,
            naks: 0,
            obeys_broadcast_flag: true,
        }
        .with(NETMASK, &[255, 255, 255, 0])
        .with(ROUTER, &router.octets())
        .with(DNS, &router.octets())
        .with(LEASE_TIME, &120_u32.to_be_bytes())
    }

    /// Sets an option of offers and leases.
    #[must_use]
    pub fn with(mut self, option: u8, value: &[u8]) -> Self {
        self.options.retain(|(code, _)| *code != option);
        self.options.push((option, value.to_vec()));
        self
    }

    /// Leaves an option out.
    #[must_use]
    pub fn without(mut self, option: u8) -> Self {
        self.options.retain(|(code, _)| *code != option);
        self
    }

    /// Leases this address from now on.
    #[must_use]
    pub fn leasing(mut self, host: u8) -> Self {
        self.pool = vec![Ipv4Addr::new(10, 77, 0, host)];
        self
    }

    /// Says nothing for so long after the first message.
    #[must_use]
    pub fn silent(mut self, time: Duration) -> Self {
        self.silent = time;
        self
    }

    /// Takes so long for each answer.
    #[must_use]
    pub fn late(mut self, time: Duration) -> Self {
        self.late = time;
        self
    }

    /// Refuses so many requests before it grants one.
    #[must_use]
    pub fn naks(mut self, times: u32) -> Self {
        self.naks = times;
        self
    }

    /// Sends its answers to the client's new address even if the client asked for broadcasts.
    #[must_use]
    pub fn deaf_to_the_broadcast_flag(mut self) -> Self {
        self.obeys_broadcast_flag = false;
        self
    }

    /// Puts the host that does all this on a segment.
    pub fn play_on(self, segment: &Segment) -> Handle {
        let (server, handle) = self.play();
        segment.host(server);
        handle
    }

    /// The host that does all this, and a handle to it.
    pub fn play(self) -> (Server, Handle) {
        let handle = Handle { heard: Arc::default(), script: Arc::new(Mutex::new(self)) };
        (Server { started: None, given: 0, handle: handle.clone() }, handle)
    }
}

/// What a server got, and what it does from now on; clones are of the same server.
#[derive(Clone, Debug)]
pub struct Handle {
    heard: Arc<Mutex<Vec<Message>>>,
    script: Arc<Mutex<Script>>,
}

/// A message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// [`DISCOVER`], [`REQUEST`], …
    pub kind: u8,
    /// When it came, since the first one.
    pub at: Duration,
    /// The address it names: option 50, or else its own.
    pub address: Ipv4Addr,
}

impl Handle {
    /// Has the server do something else.
    pub fn change(&self, change: impl FnOnce(Script) -> Script) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        *script = change(script.clone());
    }

    fn script(&self) -> Script {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All messages so far.
    pub fn all(&self) -> Vec<Message> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of that kind.
    pub fn count(&self, kind: u8) -> usize {
        self.all().iter().filter(|message| message.kind == kind).count()
    }

    fn add(&self, message: Message) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}

/// A [`Script`] that plays.
pub struct Server {
    started: Option<Instant>,
    /// How many addresses of the pool were declined.
    given: usize,
    handle: Handle,
}

impl Host for Server {
    fn receive(&mut self, frame: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        let script = self.handle.script();
        // The segment is a hub: what is for another server comes here as well.
        if !frame.starts_with(&script.mac) && !frame.starts_with(&BROADCAST_MAC) {
            return Vec::new();
        }
        if let Some(answer) = answer_arp(frame, script.server, script.mac) {
            return vec![(Duration::ZERO, answer)];
        }
        let Some(message) = client_message(frame) else { return Vec::new() };
        let age = self.started.get_or_insert_with(Instant::now).elapsed();
        let answer = self.answer(&script, message, age);
        answer.map(|answer| (script.late, answer)).into_iter().collect()
    }
}

impl Server {
    fn answer(&mut self, script: &Script, message: &[u8], age: Duration) -> Option<Vec<u8>> {
        let kind = *option(message, MESSAGE_TYPE)?.first()?;
        let named = option(message, REQUESTED).unwrap_or(&message[CIADDR..CIADDR + 4]);
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(named).ok()?);
        self.handle.add(Message { kind, at: age, address });
        let asks_another = option(message, SERVER_ID).is_some_and(|server| server != script.server.octets());
        if asks_another || age < script.silent {
            return None;
        }
        let kind = match kind {
            DISCOVER => OFFER,
            REQUEST if script.naks > 0 => {
                if script.naks < u32::MAX {
                    self.handle.change(|script| Script { naks: script.naks - 1, ..script });
                }
                NAK
            }
            REQUEST => ACK,
            DECLINE => {
                self.given += 1;
                return None;
            }
            _ => return None,
        };
        let address = script.pool.get(self.given).copied().filter(|_| kind != NAK);
        Some(script.frame(kind, address.unwrap_or(Ipv4Addr::UNSPECIFIED), message))
    }
}

impl Script {
    fn frame(&self, kind: u8, address: Ipv4Addr, request: &[u8]) -> Vec<u8> {
        let mut message = vec![0; OPTIONS - COOKIE.len()];
        message[..4].copy_from_slice(&[2, 1, 6, 0]);
        // The transaction, the flags and the hardware address are the client's.
        for range in [4..8, FLAGS..CIADDR, CHADDR..CHADDR + 16] {
            message[range.clone()].copy_from_slice(&request[range]);
        }
        message[16..20].copy_from_slice(&address.octets());
        message.extend(COOKIE);
        message.extend([MESSAGE_TYPE, 1, kind, SERVER_ID, 4]);
        message.extend(self.server.octets());
        for (code, value) in self.options.iter().filter(|_| kind != NAK) {
            message.extend([*code, value.len() as u8]);
            message.extend(value);
        }
        message.push(255);
        let (mac, to) = self.client(kind, address, request);
        udp_frame((self.mac, self.server, 67), (mac, to, 68), &message)
    }

    /// Where an answer goes (RFC 2131, 4.1).
    fn client(&self, kind: u8, address: Ipv4Addr, request: &[u8]) -> ([u8; 6], Ipv4Addr) {
        let own = Ipv4Addr::from(<[u8; 4]>::try_from(&request[CIADDR..CIADDR + 4]).unwrap_or_default());
        let mac = <[u8; 6]>::try_from(&request[CHADDR..CHADDR + 6]).unwrap_or_default();
        let wants_broadcast = self.obeys_broadcast_flag && request[FLAGS] & 0x80 != 0;
        match own.is_unspecified() {
            _ if kind == NAK => (BROADCAST_MAC, Ipv4Addr::BROADCAST),
            false => (mac, own),
            true if wants_broadcast => (BROADCAST_MAC, Ipv4Addr::BROADCAST),
            true => (mac, address),
        }
    }
}

/// A host that has an address and a hardware address and does nothing else: a connection to it finds nobody, a lease
/// of its address is a conflict.
pub struct Mute {
    /// The address it answers for.
    pub address: Ipv4Addr,
}

impl Host for Mute {
    fn receive(&mut self, frame: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        let [.., last] = self.address.octets();
        let answer = answer_arp(frame, self.address, [0x02, 0, 0, 0, 0xdd, last]);
        answer.map(|answer| (Duration::ZERO, answer)).into_iter().collect()
    }
}

/// The answer to an ARP request for `address`, probes (RFC 5227) included.
fn answer_arp(frame: &[u8], address: Ipv4Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    // Ethernet and IPv4, six and four bytes, request.
    let packet = frame.get(14..42).filter(|_| frame[12..14] == [0x08, 0x06])?;
    if packet[..8] != [0, 1, 8, 0, 6, 4, 0, 1] || packet[24..28] != address.octets() {
        return None;
    }
    let mut answer = [&packet[8..14], mac.as_slice(), &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
    answer.extend(mac);
    answer.extend(address.octets());
    answer.extend(&packet[8..18]);
    answer.resize(60, 0);
    Some(answer)
}

/// The DHCP message in a frame to port 67.
fn client_message(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [0x08, 0x00])?;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_udp = *packet.get(9)? == 17;
    let datagram = packet.get(header..).filter(|_| is_udp)?;
    let message = datagram.get(8..).filter(|_| datagram[2..4] == 67_u16.to_be_bytes())?;
    (message.get(OPTIONS - 4..OPTIONS)? == COOKIE).then_some(message)
}

/// The value of an option.
fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = message.get(OPTIONS..)?;
    loop {
        let (&code, after) = rest.split_first()?;
        if code == 0 {
            rest = after;
            continue;
        }
        let (&length, after) = after.split_first()?;
        let (value, after) = after.split_at_checked(length.into())?;
        if code == wanted {
            return Some(value);
        }
        rest = after;
    }
}

/// A hardware address, an address, a port.
type End = ([u8; 6], Ipv4Addr, u16);

/// An Ethernet frame with IPv4 and UDP (RFC 791, RFC 768); the UDP checksum is left out, as UDP allows.
fn udp_frame(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend((20 + length).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(from.1.octets());
    header.extend(to.1.octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    // Ones' complement: what is carried out comes in again, once more than needed does no harm.
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(fold(fold(sum)) as u16)).to_be_bytes());
    let mut frame = [to.0.as_slice(), &from.0, &[0x08, 0x00], &header].concat();
    frame.extend(from.2.to_be_bytes());
    frame.extend(to.2.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
