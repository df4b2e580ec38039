//! DHCPv4. A client among arbitrary packets and times never panics, asks in bounded pauses, sends a bounded number of
//! packets, and every lease that it hands out can be used and survives being handed over as JSON.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use zstrap_wire::dhcp4::{Client, Event, Lease, Output};
use zstrap_wire::{arp, frame, text};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// From the hardware address on, a reply's bytes are the input's.
const MAC_AT: std::ops::Range<usize> = 28..34;
/// In the first minute of asking, somebody waits for the machine: pauses are short, that after a conflict included.
const FIRST_MINUTE: Duration = Duration::from_secs(60);
const LONGEST_AT_FIRST: Duration = Duration::from_secs(10);
/// Later they grow to a minute, in a network without a server.
const LONGEST: Duration = Duration::from_secs(60);

fuzz_target!(|data: &[u8]| {
    check_parsers(data);
    let [seed, rest @ ..] = data else { return };
    let client = Client::new(MAC, u32::from(*seed), Duration::ZERO);
    let mut run = Run { client, now: Duration::ZERO, xid: [0; 4], asks: Asks::Since(Duration::ZERO) };
    let mut rest = rest;
    run.drain();
    // Steps: a byte for what happens, two for a length or a time, and as many bytes of a packet.
    while let [deed, high, low, tail @ ..] = rest {
        let number = u16::from_be_bytes([*high, *low]);
        let (packet, tail) = tail.split_at(usize::from(number).min(tail.len()));
        rest = match deed % 8 {
            0 | 1 => run.receive(packet, tail),
            2 => run.receive_arp(packet, tail),
            3 => run.pass(Duration::from_millis(number.into()), rest),
            4 => run.pass(Duration::from_secs(u64::from(number) * 1000), rest),
            5 => run.wake(rest),
            6 => run.hand_over(rest),
            _ => run.conflict(rest),
        };
        run.drain();
    }
});

struct Run {
    client: Client,
    now: Duration,
    /// Of what was sent last: replies have to name it.
    xid: [u8; 4],
    asks: Asks,
}

/// When the client has begun to ask for a lease. Each time it does, its packets get another number.
#[derive(Clone, Copy)]
enum Asks {
    /// Its packets have the number by now.
    Since(Duration),
    /// It has said so by an event, and its first packet with the new number may come after a pause.
    ToBeSince(Duration),
}

impl Asks {
    /// A packet with another number is sent.
    fn renumbered(self, now: Duration) -> Self {
        match self {
            Self::Since(_) => Self::Since(now),
            Self::ToBeSince(begun) => Self::Since(begun),
        }
    }

    fn longest_pause(self, now: Duration) -> Duration {
        let (Self::Since(begun) | Self::ToBeSince(begun)) = self;
        if now < begun + FIRST_MINUTE { LONGEST_AT_FIRST } else { LONGEST }
    }
}

impl Run {
    fn receive<'a>(&mut self, packet: &[u8], tail: &'a [u8]) -> &'a [u8] {
        let mut packet = packet.to_vec();
        if packet.len() >= MAC_AT.end {
            packet[4..8].copy_from_slice(&self.xid);
            packet[MAC_AT].copy_from_slice(&MAC);
        }
        if let Some(event) = self.client.receive(&packet, self.now) {
            self.check(&event);
        }
        tail
    }

    fn receive_arp<'a>(&mut self, packet: &[u8], tail: &'a [u8]) -> &'a [u8] {
        if let Some(event) = self.client.receive_arp(packet, self.now) {
            self.check(&event);
        }
        tail
    }

    fn pass<'a>(&mut self, time: Duration, rest: &'a [u8]) -> &'a [u8] {
        self.now += time;
        &rest[3..]
    }

    fn wake<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        self.now = self.client.wake().map_or(self.now, |wake| wake.max(self.now));
        &rest[3..]
    }

    /// The lease goes on in another program.
    fn hand_over<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        if let (Some(lease), Some(obtained)) = (self.client.lease(), self.client.obtained()) {
            let json = serde_json::to_string(lease).expect("a lease is JSON");
            let again: Lease = serde_json::from_str(&json).expect("and comes back");
            assert_eq!(&again, lease);
            self.client = Client::bound(MAC, 7, again, obtained, self.now);
        }
        &rest[3..]
    }

    fn conflict<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        self.client.conflict(self.now);
        assert!(self.client.lease().is_none());
        &rest[3..]
    }

    /// Does all that is to be done now, after which there is nothing until later, but not much later.
    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.client.poll(self.now) {
            outputs += 1;
            assert!(outputs < 100, "it does not rest");
            match output {
                Output::Broadcast(payload) => self.sent(&payload),
                Output::Unicast { from, payload, .. } => {
                    assert_eq!(Some(from), self.client.lease().map(|lease| lease.address));
                    self.sent(&payload);
                }
                Output::Arp(packet) => {
                    assert!(arp::Arp::parse(&packet).is_some_and(|arp| arp.sender_mac == MAC))
                }
                Output::Event(event) => self.check(&event),
            }
        }
        match (self.client.wake(), self.client.lease()) {
            (None, lease) => assert!(lease.is_some_and(Lease::is_infinite)),
            (Some(wake), None) => {
                assert!(wake > self.now && wake - self.now <= self.asks.longest_pause(self.now));
            }
            (Some(wake), Some(lease)) => {
                let end =
                    self.client.obtained().expect("with a lease") + Duration::from_secs(lease.seconds.into());
                assert!(wake > self.now && wake <= end);
            }
        }
    }

    fn sent(&mut self, payload: &[u8]) {
        assert!((300..=548).contains(&payload.len()));
        if payload[4..8] != self.xid {
            self.xid.copy_from_slice(&payload[4..8]);
            self.asks = self.asks.renumbered(self.now);
        }
    }

    fn check(&mut self, event: &Event) {
        match event {
            Event::Leased(lease) | Event::Renewed(lease) => {
                assert_eq!(self.client.lease(), Some(lease));
                check_lease(lease);
            }
            Event::Refused { .. } | Event::Conflict { .. } | Event::Expired => {
                assert!(self.client.lease().is_none());
                self.asks = Asks::ToBeSince(self.now);
            }
        }
    }
}

fn check_lease(lease: &Lease) {
    assert!((1..=32).contains(&lease.prefix));
    assert!(
        lease.is_infinite() || lease.renew_after < lease.rebind_after && lease.rebind_after < lease.seconds
    );
    assert!(lease.renew_after > 1 && lease.seconds >= 10);
    for address in lease.dns.iter().chain(&lease.ntp).chain([&lease.address, &lease.server]) {
        assert!(!address.is_unspecified() && !address.is_broadcast() && !address.is_multicast());
    }
    for route in &lease.routes {
        assert!(route.prefix <= 32 && route.gateway != Some(lease.address));
    }
    let is_name = |name: &String| text::domain(name.as_bytes()).as_ref() == Some(name);
    assert!(lease.search.iter().chain(&lease.hostname).all(is_name));
    assert!(
        lease.dns.len() <= 8 && lease.ntp.len() <= 8 && lease.search.len() <= 16 && lease.routes.len() <= 64
    );
}

fn check_parsers(data: &[u8]) {
    if let Some(payload) = frame::udp_payload(data, 68) {
        assert!(payload.start <= payload.end && payload.end <= data.len());
    }
    for domain in text::domains(data) {
        assert!(
            domain.len() <= 253 && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        );
    }
    if let Some(name) = text::host_name(data) {
        assert!((1..=64).contains(&name.len()));
    }
}
