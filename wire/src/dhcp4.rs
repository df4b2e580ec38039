//! DHCPv4 (RFC 2131): a client on one link, without I/O.
//!
//! In: the time since some start, and the packets that came. Out: packets to send, when to wake, and [`Event`]s: a
//! [`Lease`] was given, renewed, lost. A client never gives up: silence, refusals and conflicts make it start anew,
//! after pauses that grow up to a cap. Packets that are not for us are dropped without a word.
//!
//! ```text
//! Selecting -OFFER-> Requesting -ACK-> Checking -20 ms-> Held -T1-> asking its server -T2-> asking any server
//!     ^                  | NAK, silence    | conflict      | NAK, conflict, end of the lease
//!     +------------------+-----------------+---------------+
//!     +---------------- NAK, silence ---------------- Confirming (after a cable came back) -ACK-> Held
//! ```

mod message;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use message::{ACK, DECLINE, DISCOVER, NAK, OFFER, REQUEST, Reply, Request};
pub use message::{Lease, Route4};

use crate::arp::{self, Arp};

/// The port clients listen at.
pub const CLIENT_PORT: u16 = 68;
/// The port servers listen at.
pub const SERVER_PORT: u16 = 67;

/// First pause before asking again, also after a refusal; doubles up to [`LONGEST_PAUSE`]. A quarter of each may be
/// taken off at random, so that a hall of nodes that lost power together does not ask in step.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A server that comes back is met within this time, as somebody waits for this machine …
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// … but a network in which nobody has answered for so long …
const EAGER: Duration = Duration::from_secs(60);
/// … is left in peace: from then on pauses grow to this (RFC 2131, section 4.1, has 64 s).
const LONGEST_SEARCH_PAUSE: Duration = Duration::from_secs(60);
/// Requests without an answer before the search starts anew.
const REQUESTS: u32 = 4;
/// How long a better offer is waited for, after one without a route or a name server.
const OFFERS_WINDOW: Duration = Duration::from_secs(2);
/// How long an owner of the address has to say so after the acknowledgement, and it has had the time since the
/// request before. RFC 5227 would have us wait for seconds; we go on listening instead, as RFC 4429 does.
const CHECK: Duration = Duration::from_millis(20);
/// How long after that a first answer still is one to our question, and not somebody who has come later.
const STILL_CHECKING: Duration = Duration::from_secs(3);
/// A second claim within this time cannot be fended off (RFC 5227, section 2.4, `DEFEND_INTERVAL`).
const DEFEND: Duration = Duration::from_secs(10);
/// Pause after a conflict (RFC 2131, section 3.1, step 5).
const AFTER_CONFLICT: Duration = Duration::from_secs(10);
/// Pauses while renewing are half of the time that is left, but not less than this part of the lease …
const RENEWAL_PART: u32 = 20;
/// … or this (RFC 2131, section 4.4.5), whichever is less.
const RENEWAL_PAUSE: u32 = 60;

/// What the caller is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this DHCP payload to the broadcast address, from the address that it names as its client's own, or from
    /// 0.0.0.0 ([`broadcast_source`]).
    Broadcast(Vec<u8>),
    /// Send this DHCP payload to one server.
    Unicast {
        /// Our address, at [`CLIENT_PORT`].
        from: Ipv4Addr,
        /// The server's, at [`SERVER_PORT`].
        to: Ipv4Addr,
        /// The DHCP payload.
        payload: Vec<u8>,
    },
    /// Broadcast this ARP packet; it has no Ethernet header.
    Arp(Vec<u8>),
    /// Time has brought this about.
    Event(Event),
}

/// What has happened. After [`Event::Refused`], [`Event::Conflict`] and [`Event::Expired`] there is no lease any
/// more, and what it had set up is to be taken back; the client has started anew by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a lease, where there was none.
    Leased(Lease),
    /// The lease goes on. Anything in it may have changed, even the address.
    Renewed(Lease),
    /// A server has refused what we asked for (DHCPNAK).
    Refused {
        /// Which one.
        server: Ipv4Addr,
    },
    /// Somebody else has the address; the server has been told.
    Conflict {
        /// Which address.
        address: Ipv4Addr,
    },
    /// The lease has ended, as nobody has renewed it.
    Expired,
}

/// A client on one link.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    /// Number of the exchange that goes on, a new one for each.
    xid: u32,
    random: Random,
    state: State,
    /// When the exchange began, and when the last request of it was sent.
    begun: Duration,
    sent_at: Duration,
    /// When there is something to do; never while a lease without end is held.
    wake: Option<Duration>,
    /// What is to be sent before anything else.
    pending: VecDeque<Output>,
    refusals: u32,
    /// Whose offers are taken only when nobody else makes any.
    shunned: Option<Ipv4Addr>,
    /// Who was found to have an address, and which.
    claimed: Option<([u8; 6], Ipv4Addr)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Selecting { sent: u32, pause: Duration, best: Option<Lease> },
    Requesting { sent: u32, offer: Lease },
    Checking { lease: Lease },
    Confirming { sent: u32, lease: Lease },
    Held { lease: Lease, obtained: Duration, asking: bool, guard: Guard },
}

impl State {
    fn search() -> Self {
        Self::Selecting { sent: 0, pause: FIRST_PAUSE, best: None }
    }
}

/// How a claim on an address that is in use is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    /// Until when one claim is enough.
    until: Duration,
    /// When a claim was fended off last.
    defended: Option<Duration>,
}

impl Guard {
    fn of_new_address(now: Duration) -> Self {
        Self { until: now.saturating_add(STILL_CHECKING), defended: None }
    }
}

impl Client {
    /// A client that sends its first packet at once. `xid` should be random.
    #[must_use]
    pub fn new(mac: [u8; 6], xid: u32, now: Duration) -> Self {
        Self::in_state(mac, xid, State::search(), now, Some(now))
    }

    /// A client that holds a lease already, from a program that ran before.
    #[must_use]
    pub fn bound(mac: [u8; 6], xid: u32, lease: Lease, obtained: Duration, now: Duration) -> Self {
        let wake = renewal(&lease, obtained);
        let guard = Guard { until: now, defended: None };
        let state = State::Held { lease, obtained, asking: false, guard };
        Self::in_state(mac, xid, state, now, wake)
    }

    /// A client whose link was without a carrier and may be in another network now: it asks any server whether the lease
    /// still is good (RFC 2131, section 3.7), and for a new one when none of them answers. When the lease ends
    /// meanwhile is for the caller to see.
    #[must_use]
    pub fn reboot(mac: [u8; 6], xid: u32, lease: Lease, now: Duration) -> Self {
        Self::in_state(mac, xid, State::Confirming { sent: 0, lease }, now, Some(now))
    }

    fn in_state(mac: [u8; 6], xid: u32, state: State, now: Duration, wake: Option<Duration>) -> Self {
        let random = Random::new(xid, mac);
        let (refusals, shunned, claimed) = (0, None, None);
        let pending = VecDeque::new();
        Self { mac, xid, random, state, begun: now, sent_at: now, wake, pending, refusals, shunned, claimed }
    }

    /// When [`Client::poll`] is to be called next; never while a lease without end is held.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        if self.pending.is_empty() { self.wake } else { Some(Duration::ZERO) }
    }

    /// The lease that may be used now.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Held { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// When the lease was asked for, from which its times count.
    #[must_use]
    pub fn obtained(&self) -> Option<Duration> {
        match &self.state {
            State::Held { obtained, .. } => Some(*obtained),
            _ => None,
        }
    }

    /// What is to be done now. To be called until there is nothing, at each [`Client::wake`] and after each packet.
    pub fn poll(&mut self, now: Duration) -> Option<Output> {
        if let Some(output) = self.pending.pop_front() {
            return Some(output);
        }
        if self.wake.is_none_or(|wake| now < wake) {
            return None;
        }
        Some(match &mut self.state {
            State::Selecting { sent, pause, best: None } => {
                let round = *sent;
                *sent = sent.saturating_add(1);
                let is_eager = now.saturating_sub(self.begun) < EAGER;
                let meant = (*pause).min(if is_eager { LONGEST_PAUSE } else { LONGEST_SEARCH_PAUSE });
                *pause = meant * 2;
                self.discover(round, meant, now)
            }
            State::Selecting { best: Some(offer), .. } => {
                let offer = offer.clone();
                self.choose(offer, now)
            }
            State::Requesting { sent: REQUESTS, offer } => {
                self.shunned = Some(offer.server);
                self.start_anew(now, Duration::ZERO);
                return self.poll(now);
            }
            State::Requesting { sent, offer } => {
                let (round, chosen) = (*sent, (offer.address, Some(offer.server)));
                *sent += 1;
                self.request(round, chosen, now)
            }
            State::Confirming { sent: REQUESTS, .. } => {
                self.start_anew(now, Duration::ZERO);
                return self.poll(now);
            }
            State::Confirming { sent, lease } => {
                let (round, chosen) = (*sent, (lease.address, None));
                *sent += 1;
                self.request(round, chosen, now)
            }
            State::Checking { lease } => {
                let lease = lease.clone();
                self.hold(lease, now)
            }
            State::Held { lease, obtained, asking, .. } => {
                let (lease, obtained, is_first) = (lease.clone(), *obtained, !*asking);
                *asking = true;
                self.keep(&lease, obtained, is_first, now)
            }
        })
    }

    /// Takes a DHCP payload from the link.
    pub fn receive(&mut self, payload: &[u8], now: Duration) -> Option<Event> {
        let reply = Reply::parse(payload)?;
        if reply.xid != self.xid || reply.mac != self.mac {
            return None;
        }
        match (&self.state, reply.kind) {
            (State::Selecting { sent: 1.., .. }, OFFER) => {
                self.consider(reply.lease()?, now);
                None
            }
            (State::Requesting { sent: 1.., offer }, ACK) => {
                let lease = reply.lease()?;
                if (lease.address, lease.server) == (offer.address, offer.server) {
                    self.check(lease, now);
                }
                None
            }
            (State::Held { asking: true, lease, guard, .. }, ACK) => {
                let (before, guard) = (lease.address, *guard);
                Some(self.renew(reply.lease()?, before, guard, now))
            }
            (State::Requesting { sent: 1.., offer: lease }, NAK) if reply.server == Some(lease.server) => {
                Some(self.refused(lease.server, now))
            }
            (State::Confirming { sent: 1.., lease }, ACK) => {
                let before = lease.address;
                let lease = reply.lease().filter(|lease| lease.address == before)?;
                // Whoever has come to use the address meanwhile is to say so.
                self.pending.push_back(Output::Arp(arp::probe(self.mac, before)));
                self.enter_held(lease.clone(), Guard::of_new_address(now));
                Some(Event::Renewed(lease))
            }
            // The network that we are in now does not know the address.
            (State::Confirming { sent: 1.., .. }, NAK) => Some(self.refused(reply.server?, now)),
            (State::Held { asking: true, lease, obtained, .. }, NAK) => {
                // Only when everybody is asked may anybody refuse.
                let is_for_all = now >= after(*obtained, lease.rebind_after);
                let server = reply.server.filter(|server| is_for_all || *server == lease.server)?;
                Some(self.refused(server, now))
            }
            _ => None,
        }
    }

    /// Takes an ARP packet from the link, without its Ethernet header. A conflict is declined here; the event says
    /// that the address must no longer be used.
    pub fn receive_arp(&mut self, packet: &[u8], now: Duration) -> Option<Event> {
        let arp = Arp::parse(packet)?;
        let (address, in_use) = match &self.state {
            State::Requesting { sent: 1.., offer } => (offer.address, false),
            State::Checking { lease } => (lease.address, false),
            State::Held { lease, .. } => (lease.address, true),
            _ => return None,
        };
        let is_claim = arp.sender == address || (!in_use && arp.is_probe_for(address));
        if !is_claim
            || arp.sender_mac == self.mac
            || self.is_proxy(arp.sender_mac, address)
            || self.defend(now)
        {
            return None;
        }
        self.claimed = Some((arp.sender_mac, address));
        self.conflict(now);
        Some(Event::Conflict { address })
    }

    /// Declines the address, which somebody else was found to have, and starts anew after 10 s (RFC 2131, section
    /// 3.1, step 5). Nothing without an address.
    pub fn conflict(&mut self, now: Duration) {
        let (State::Requesting { offer: lease, .. } | State::Checking { lease } | State::Held { lease, .. }) =
            &self.state
        else {
            return;
        };
        let chosen = Some((lease.address, Some(lease.server)));
        self.start_anew(now, AFTER_CONFLICT);
        let decline = Request { chosen, broadcast: false, ..self.message(DECLINE, now) };
        self.pending.push_back(Output::Broadcast(decline.packet()));
    }

    /// Some routers answer for every address (proxy ARP), also for those that nobody has: who has claimed another
    /// address before is one of them.
    fn is_proxy(&self, mac: [u8; 6], address: Ipv4Addr) -> bool {
        self.claimed.is_some_and(|(claimer, claimed)| claimer == mac && claimed != address)
    }

    /// Once an address has been in use for a while, a first claim is fended off, as it may be a mistake.
    fn defend(&mut self, now: Duration) -> bool {
        let State::Held { lease, guard, .. } = &mut self.state else { return false };
        let twice = guard.defended.is_some_and(|defended| now < defended + DEFEND);
        if now < guard.until || twice {
            return false;
        }
        guard.defended = Some(now);
        self.pending.push_back(Output::Arp(arp::announcement(self.mac, lease.address)));
        true
    }

    fn start_anew(&mut self, now: Duration, pause: Duration) {
        self.xid = self.random.next();
        self.begun = now;
        self.state = State::search();
        self.pending.clear();
        self.wake = Some(now.saturating_add(pause));
    }

    fn discover(&mut self, round: u32, pause: Duration, now: Duration) -> Output {
        self.wake = Some(now.saturating_add(self.random.shorten(pause)));
        let message = Request { broadcast: is_even(round), ..self.message(DISCOVER, now) };
        Output::Broadcast(message.packet())
    }

    /// Keeps the better one of two offers; what cannot be better is taken at once.
    fn consider(&mut self, offer: Lease, now: Duration) {
        let worth = |offer: &Lease| {
            (self.shunned != Some(offer.server), !offer.routes.is_empty(), !offer.dns.is_empty())
        };
        let is_best = worth(&offer) == (true, true, true);
        let State::Selecting { best, .. } = &mut self.state else { return };
        match best {
            Some(known) if worth(known) >= worth(&offer) => {}
            Some(known) => *known = offer,
            None => {
                *best = Some(offer);
                self.wake = Some(now.saturating_add(OFFERS_WINDOW));
            }
        }
        if is_best {
            self.wake = Some(now);
        }
    }

    fn choose(&mut self, offer: Lease, now: Duration) -> Output {
        self.pending.push_back(Output::Arp(arp::probe(self.mac, offer.address)));
        let chosen = (offer.address, Some(offer.server));
        self.state = State::Requesting { sent: 1, offer };
        self.request(0, chosen, now)
    }

    fn request(&mut self, round: u32, chosen: (Ipv4Addr, Option<Ipv4Addr>), now: Duration) -> Output {
        self.sent_at = now;
        self.wake = Some(now.saturating_add(self.pause(round)));
        let chosen = Some(chosen);
        let message = Request { broadcast: is_even(round), chosen, ..self.message(REQUEST, now) };
        Output::Broadcast(message.packet())
    }

    fn check(&mut self, lease: Lease, now: Duration) {
        self.pending.push_back(Output::Arp(arp::probe(self.mac, lease.address)));
        self.state = State::Checking { lease };
        self.wake = Some(now.saturating_add(CHECK));
    }

    /// Nobody has claimed the address in time.
    fn hold(&mut self, lease: Lease, now: Duration) -> Output {
        (self.refusals, self.shunned) = (0, None);
        self.pending.push_back(Output::Arp(arp::announcement(self.mac, lease.address)));
        self.enter_held(lease.clone(), Guard::of_new_address(now));
        Output::Event(Event::Leased(lease))
    }

    fn enter_held(&mut self, lease: Lease, guard: Guard) {
        let obtained = self.sent_at;
        self.wake = renewal(&lease, obtained);
        self.state = State::Held { lease, obtained, asking: false, guard };
    }

    /// Asks for the lease to be prolonged, first its server, then anyone, until it has ended.
    fn keep(&mut self, lease: &Lease, obtained: Duration, is_first: bool, now: Duration) -> Output {
        let (rebind, end) = (after(obtained, lease.rebind_after), after(obtained, lease.seconds));
        if now >= end {
            self.start_anew(now, Duration::ZERO);
            return Output::Event(Event::Expired);
        }
        if is_first {
            self.begun = now;
            self.xid = self.random.next();
        }
        let (from, to) = (lease.address, lease.server);
        let until = if now < rebind { rebind } else { end };
        let least = (lease.seconds / RENEWAL_PART).clamp(1, RENEWAL_PAUSE);
        let pause = ((until - now) / 2).max(Duration::from_secs(least.into()));
        self.wake = Some(now.saturating_add(self.random.shorten(pause)).min(until));
        self.sent_at = now;
        let payload = Request { own: Some(from), ..self.message(REQUEST, now) }.packet();
        if now < rebind { Output::Unicast { from, to, payload } } else { Output::Broadcast(payload) }
    }

    fn renew(&mut self, lease: Lease, before: Ipv4Addr, guard: Guard, now: Duration) -> Event {
        if lease.address == before {
            self.enter_held(lease.clone(), guard);
        } else {
            self.pending.push_back(Output::Arp(arp::probe(self.mac, lease.address)));
            self.enter_held(lease.clone(), Guard::of_new_address(now));
        }
        Event::Renewed(lease)
    }

    fn refused(&mut self, server: Ipv4Addr, now: Duration) -> Event {
        self.shunned = Some(server);
        let pause = self.pause(self.refusals);
        self.refusals = self.refusals.saturating_add(1);
        self.start_anew(now, pause);
        Event::Refused { server }
    }

    fn pause(&mut self, round: u32) -> Duration {
        // The shift stops where the cap is reached anyhow.
        self.random.shorten(FIRST_PAUSE.saturating_mul(1 << round.min(8)).min(LONGEST_PAUSE))
    }

    fn message(&self, kind: u8, now: Duration) -> Request {
        // Servers that stand in for others answer only those who have waited for a while.
        let waited = u16::try_from(now.saturating_sub(self.begun).as_secs()).unwrap_or(u16::MAX);
        Request { mac: self.mac, xid: self.xid, kind, waited, broadcast: false, own: None, chosen: None }
    }
}

/// The address that a broadcast payload is to be sent from: that which its sender already has, or none.
#[must_use]
pub fn broadcast_source(payload: &[u8]) -> Ipv4Addr {
    message::own_address(payload).unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// Some servers and relays fail at answers to the broadcast address, others at answers to an address that nobody
/// has yet: so each second request asks for the other.
fn is_even(round: u32) -> bool {
    round.is_multiple_of(2)
}

fn renewal(lease: &Lease, obtained: Duration) -> Option<Duration> {
    (!lease.is_infinite()).then(|| after(obtained, lease.renew_after))
}

fn after(start: Duration, seconds: u32) -> Duration {
    start.saturating_add(Duration::from_secs(seconds.into()))
}

/// Marsaglia's xorshift: enough to keep nodes out of step and exchanges apart, and no secret.
#[derive(Debug)]
struct Random(u32);

impl Random {
    /// Nodes may be started with equal seeds, but not with equal addresses.
    fn new(seed: u32, mac: [u8; 6]) -> Self {
        Self((seed ^ u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]).rotate_left(16)).max(1))
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// Takes up to a quarter off.
    fn shorten(&mut self, pause: Duration) -> Duration {
        pause - pause / 1024 * (self.next() % 256)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::message::tests::{answer, asked};
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const XID: u32 = 0x1234_5678;
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 15);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const ROUTE: &[u8] = &[3, 4, 10, 0, 0, 1];
    const DNS: &[u8] = &[6, 4, 10, 0, 0, 1];
    const SHORT: u32 = 20;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A client in virtual time, with what it last broadcast or sent to its server.
    struct Run {
        client: Client,
        now: Duration,
        last: Vec<u8>,
    }

    /// What a client did: when, and a word for it.
    type Deed = (Duration, &'static str);

    impl Run {
        fn new() -> Self {
            Self { client: Client::new(MAC, XID, Duration::ZERO), now: Duration::ZERO, last: Vec::new() }
        }

        /// One that holds a lease of this many seconds, given at the start, from now on.
        fn leased(length: u32) -> Self {
            let mut run = Self::new();
            assert_eq!(words(&run.go(ms(0))), ["discover"]);
            run.reply(OFFER, ADDRESS, SERVER, length, &[ROUTE, DNS].concat());
            assert_eq!(words(&run.go(ms(0))), ["request", "arp"]);
            run.reply(ACK, ADDRESS, SERVER, length, &[ROUTE, DNS].concat());
            assert_eq!(words(&run.go(ms(19))), ["arp"]);
            assert_eq!(run.client.lease(), None);
            assert_eq!(words(&run.go(ms(20))), ["leased", "arp"]);
            assert_eq!(run.client.lease().unwrap().address, ADDRESS);
            run
        }

        /// Lets time pass, waking the client exactly when it asks for it.
        fn go(&mut self, until: Duration) -> Vec<Deed> {
            let mut deeds = Vec::new();
            loop {
                while let Some(output) = self.client.poll(self.now) {
                    deeds.push((self.now, self.word(output)));
                    assert!(deeds.len() < 10_000, "it does not rest: {deeds:?}");
                }
                match self.client.wake() {
                    Some(wake) if wake <= until => self.now = self.now.max(wake),
                    _ => break,
                }
            }
            self.now = until;
            deeds
        }

        fn word(&mut self, output: Output) -> &'static str {
            let (payload, to_server) = match output {
                Output::Broadcast(payload) => (payload, false),
                Output::Unicast { from, to, payload } => {
                    assert_eq!((from, Some(to)), (ADDRESS, self.client.lease().map(|lease| lease.server)));
                    (payload, true)
                }
                Output::Arp(packet) => {
                    assert_eq!(Arp::parse(&packet).unwrap().sender_mac, MAC);
                    return "arp";
                }
                Output::Event(Event::Leased(_)) => return "leased",
                Output::Event(Event::Expired) => return "expired",
                Output::Event(event) => panic!("not brought about by time: {event:?}"),
            };
            let kind = asked(&payload, 53)[0];
            let has_own = !broadcast_source(&payload).is_unspecified();
            self.last = payload;
            match (kind, to_server, has_own) {
                (DISCOVER, false, false) => "discover",
                (REQUEST, false, false) => "request",
                (REQUEST, true, true) => "renew",
                (REQUEST, false, true) => "rebind",
                (DECLINE, false, false) => "decline",
                other => panic!("odd packet {other:?}"),
            }
        }

        fn reply(
            &mut self,
            kind: u8,
            address: Ipv4Addr,
            server: Ipv4Addr,
            length: u32,
            more: &[u8],
        ) -> Option<Event> {
            let mut options = [&[54, 4][..], &server.octets(), &[51, 4], &length.to_be_bytes()].concat();
            options.extend_from_slice(more);
            let packet = answer(&self.last, kind, address, &options);
            self.client.receive(&packet, self.now)
        }

        fn full(&mut self, kind: u8, server: Ipv4Addr) -> Option<Event> {
            self.reply(kind, ADDRESS, server, 3600, &[ROUTE, DNS].concat())
        }

        fn nak(&mut self, server: Ipv4Addr) -> Option<Event> {
            let packet =
                answer(&self.last, NAK, Ipv4Addr::UNSPECIFIED, &[&[54, 4][..], &server.octets()].concat());
            self.client.receive(&packet, self.now)
        }

        /// An ARP packet of another machine.
        fn arp(&mut self, mac: [u8; 6], address: Ipv4Addr) -> Option<Event> {
            self.client.receive_arp(&arp::announcement(mac, address), self.now)
        }
    }

    fn words(deeds: &[Deed]) -> Vec<&'static str> {
        deeds.iter().map(|deed| deed.1).collect()
    }

    /// The times between deeds.
    fn pauses(deeds: &[Deed]) -> Vec<Duration> {
        deeds.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }

    /// Whether a pause is what is meant, with at most a quarter taken off.
    fn is_about(pause: Duration, meant: Duration) -> bool {
        pause <= meant && pause >= meant * 3 / 4
    }

    #[test]
    fn gets_a_lease_in_four_packets_and_20_ms() {
        let run = Run::leased(3600);
        assert_eq!(run.client.wake(), Some(seconds(1800)));
        assert_eq!(run.client.obtained(), Some(ms(0)));
        assert_eq!(run.client.lease().unwrap().gateway(), Some(SERVER));
    }

    #[test]
    fn the_request_names_the_address_and_the_server_that_offered_it() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        assert_eq!((asked(&run.last, 50), asked(&run.last, 54)), (vec![10, 0, 0, 15], vec![10, 0, 0, 1]));
    }

    #[test]
    fn asks_again_at_growing_pauses_up_to_8_s() {
        let deeds = Run::new().go(seconds(60));
        assert!(deeds.iter().all(|deed| deed.1 == "discover"));
        let pauses = pauses(&deeds);
        for (n, pause) in pauses.iter().enumerate() {
            assert!(is_about(*pause, seconds(8.min(1 << n))), "{n}: {pause:?}");
        }
        assert!(pauses.len() >= 8);
    }

    #[test]
    fn a_server_that_was_silent_for_45_s_is_met_within_8_s() {
        for seed in 0..200 {
            let mut client = Client::new(MAC, seed, Duration::ZERO);
            let mut now = Duration::ZERO;
            while now < seconds(45) {
                while client.poll(now).is_some() {}
                now = client.wake().unwrap();
            }
            assert!(now <= seconds(53), "seed {seed}: {now:?}");
        }
    }

    #[test]
    fn a_network_without_a_server_was_asked_every_8_s_for_ever() {
        let deeds = Run::new().go(seconds(3600));
        let (early, late): (Vec<Deed>, Vec<Deed>) = deeds.into_iter().partition(|deed| deed.0 < EAGER);
        assert!(pauses(&early).into_iter().all(|pause| pause <= LONGEST_PAUSE), "{early:?}");
        let late = pauses(&late);
        for (pause, meant) in late.iter().zip([16, 32, 60, 60]) {
            assert!(is_about(*pause, seconds(meant)), "{late:?}");
        }
        assert!(late.len() < 90 && late[3..].iter().all(|pause| is_about(*pause, seconds(60))), "{late:?}");
    }

    #[test]
    fn a_server_that_answers_ends_the_patience_of_a_long_search() {
        let mut run = Run::new();
        run.go(seconds(1000));
        run.full(OFFER, SERVER);
        let asked = run.go(seconds(1060));
        // It falls silent again: what follows is a new search, with short pauses.
        assert_eq!(words(&asked)[..2], ["request", "arp"]);
        let again: Vec<Deed> = asked.into_iter().filter(|deed| deed.1 == "discover").collect();
        assert!(
            again.len() > 4 && pauses(&again).into_iter().all(|pause| pause <= LONGEST_PAUSE),
            "{again:?}"
        );
    }

    #[test]
    fn nodes_do_not_ask_in_step() {
        let asked_at = |mac, seed| {
            let mut run = Run { client: Client::new(mac, seed, ms(0)), ..Run::new() };
            run.client.poll(ms(0));
            run.client.wake().unwrap()
        };
        assert_ne!(asked_at(MAC, XID), asked_at(MAC, XID + 1));
        assert_ne!(asked_at(MAC, XID), asked_at(OTHER, XID));
        assert_eq!(asked_at(MAC, XID), asked_at(MAC, XID));
    }

    #[test]
    fn packets_say_for_how_long_we_have_asked_and_ask_for_both_kinds_of_answers() {
        let mut run = Run::new();
        let mut flags = Vec::new();
        while run.now < seconds(30) {
            while let Some(output) = run.client.poll(run.now) {
                run.word(output);
                assert_eq!(run.last[8..10], [0, run.now.as_secs() as u8]);
                flags.push(run.last[10]);
            }
            run.now = run.client.wake().unwrap();
        }
        assert_eq!(flags[..4], [0x80, 0, 0x80, 0]);
    }

    #[test]
    fn an_offer_with_all_that_is_needed_is_taken_at_once() {
        let mut run = Run::new();
        run.go(ms(100));
        run.full(OFFER, SERVER);
        assert_eq!(run.go(ms(100)), [(ms(100), "request"), (ms(100), "arp")]);
    }

    #[test]
    fn a_poor_offer_waits_two_seconds_for_a_better_one() {
        let mut run = Run::new();
        run.go(ms(100));
        run.reply(OFFER, ADDRESS, SERVER, 3600, DNS);
        assert_eq!(run.go(ms(2099)), []);
        assert_eq!(words(&run.go(ms(2100))), ["request", "arp"]);
        assert_eq!(asked(&run.last, 54), SERVER.octets());
    }

    #[test]
    fn the_best_of_poor_offers_is_taken_and_a_full_one_ends_the_wait() {
        let mut run = Run::new();
        run.go(ms(0));
        run.reply(OFFER, ADDRESS, Ipv4Addr::new(10, 0, 0, 4), 3600, &[]);
        run.reply(OFFER, ADDRESS, Ipv4Addr::new(10, 0, 0, 3), 3600, DNS);
        run.reply(OFFER, ADDRESS, SECOND, 3600, ROUTE);
        run.reply(OFFER, ADDRESS, SERVER, 3600, ROUTE);
        run.reply(OFFER, ADDRESS, SERVER, 3600, DNS);
        assert_eq!(run.go(ms(1999)), []);
        run.go(ms(2000));
        assert_eq!(asked(&run.last, 54), SECOND.octets());

        let mut run = Run::new();
        run.go(ms(0));
        run.reply(OFFER, ADDRESS, SECOND, 3600, ROUTE);
        assert_eq!(run.go(ms(500)), []);
        run.full(OFFER, SERVER);
        assert_eq!(words(&run.go(ms(500))), ["request", "arp"]);
        assert_eq!(asked(&run.last, 54), SERVER.octets());
    }

    #[test]
    fn drops_what_is_not_for_us() {
        let mut run = Run::new();
        run.go(ms(0));
        for (at, byte) in [(0, 1), (4, 0), (28, 9)] {
            let mut packet = answer(&run.last, OFFER, ADDRESS, &[54, 4, 10, 0, 0, 1]);
            packet[at] = byte;
            assert_eq!(run.client.receive(&packet, ms(0)), None);
        }
        run.full(ACK, SERVER);
        assert_eq!(run.nak(SERVER), None);
        assert_eq!(run.go(ms(100)), []);
        assert!(matches!(run.client.state, State::Selecting { best: None, .. }));
    }

    #[test]
    fn nothing_is_taken_before_it_was_asked_for() {
        let mut run = Run::new();
        run.last = run.client.message(DISCOVER, ms(0)).packet();
        run.full(OFFER, SERVER);
        assert_eq!(words(&run.go(ms(0))), ["discover"]);
    }

    #[test]
    fn a_lost_acknowledgement_is_asked_for_again() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        let again = run.go(seconds(1));
        assert_eq!(words(&again), ["request"]);
        run.full(ACK, SERVER);
        assert_eq!(words(&run.go(seconds(2))), ["arp", "leased", "arp"]);
        // Its time counts from the request that was answered.
        assert_eq!(run.client.obtained(), Some(again[0].0));
    }

    #[test]
    fn starts_anew_when_the_server_is_gone_after_its_offer() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        let deeds = run.go(seconds(60));
        let expected = ["request", "arp", "request", "request", "request", "discover", "discover"];
        assert_eq!(words(&deeds)[..7], expected);
        assert!(pauses(&deeds).iter().all(|pause| *pause <= seconds(8)));
    }

    #[test]
    fn an_acknowledgement_of_something_else_is_dropped() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        run.full(ACK, SECOND);
        run.reply(ACK, Ipv4Addr::new(10, 0, 0, 16), SERVER, 3600, &[]);
        assert_eq!(run.nak(SECOND), None);
        assert!(matches!(run.client.state, State::Requesting { .. }));
    }

    #[test]
    fn a_refusal_starts_anew_after_a_pause() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        assert_eq!(run.nak(SERVER), Some(Event::Refused { server: SERVER }));
        let deeds = run.go(seconds(1));
        assert_eq!(words(&deeds), ["discover"]);
        assert!(is_about(deeds[0].0, seconds(1)));
        // Answers to what was asked before come too late.
        let old = XID.to_be_bytes();
        assert_ne!(run.last[4..8], old);
    }

    #[test]
    fn a_server_that_refuses_for_ever_is_not_flooded() {
        let mut run = Run::new();
        let (mut refusals, mut packets) = (0, 0);
        while run.now < seconds(600) {
            let deeds = run.go(run.now + ms(10));
            packets += deeds.iter().filter(|deed| deed.1 != "arp").count();
            match words(&deeds).last() {
                Some(&"discover") => drop(run.full(OFFER, SERVER)),
                Some(_) => refusals += usize::from(run.nak(SERVER).is_some()),
                None => {}
            }
        }
        // A round is a pause of up to 8 s and a wait of 2 s for somebody better.
        assert!((60..=80).contains(&refusals), "{refusals}");
        assert!(packets <= 2 * refusals + 2, "{packets}");
    }

    #[test]
    fn another_server_is_preferred_to_one_that_has_refused() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        run.nak(SERVER);
        run.go(seconds(1));
        run.full(OFFER, SERVER);
        assert_eq!(run.go(ms(1500)), []);
        run.full(OFFER, SECOND);
        assert_eq!(words(&run.go(ms(1500))), ["request", "arp"]);
        assert_eq!(asked(&run.last, 54), SECOND.octets());
    }

    #[test]
    fn a_conflict_before_the_lease_declines_and_waits_10_s() {
        for with_ack in [false, true] {
            let mut run = Run::new();
            run.go(ms(0));
            run.full(OFFER, SERVER);
            run.go(ms(0));
            if with_ack {
                run.full(ACK, SERVER);
                run.go(ms(10));
            }
            assert_eq!(run.arp(OTHER, ADDRESS), Some(Event::Conflict { address: ADDRESS }));
            let start = run.now;
            let deeds = run.go(seconds(10) + start);
            assert_eq!(words(&deeds), ["decline", "discover"]);
            assert_eq!(pauses(&deeds), [AFTER_CONFLICT]);
        }
    }

    #[test]
    fn a_decline_names_the_address_and_its_server() {
        let mut run = Run::leased(3600);
        run.client.conflict(run.now);
        assert_eq!(words(&run.go(seconds(1))), ["decline"]);
        assert_eq!((asked(&run.last, 50), asked(&run.last, 54)), (vec![10, 0, 0, 15], vec![10, 0, 0, 1]));
        assert_eq!(run.client.lease(), None);
        run.client.conflict(run.now);
        assert_eq!(run.go(seconds(2)), []);
    }

    #[test]
    fn a_late_answer_to_our_question_takes_the_lease_away() {
        let mut run = Run::leased(3600);
        run.go(seconds(2));
        assert_eq!(run.arp(OTHER, ADDRESS), Some(Event::Conflict { address: ADDRESS }));
        assert_eq!(run.client.lease(), None);
        assert_eq!(words(&run.go(seconds(12))), ["decline", "discover"]);
    }

    #[test]
    fn a_claim_on_an_address_in_use_is_fended_off_once() {
        let mut run = Run::leased(3600);
        run.go(seconds(100));
        assert_eq!(run.arp(OTHER, ADDRESS), None);
        assert_eq!(words(&run.go(seconds(111))), ["arp"]);
        assert_eq!(run.arp(OTHER, ADDRESS), None);
        assert_eq!(words(&run.go(seconds(120))), ["arp"]);
        assert_eq!(run.arp(OTHER, ADDRESS), Some(Event::Conflict { address: ADDRESS }));
    }

    #[test]
    fn arp_of_our_own_and_of_other_addresses_is_no_conflict() {
        let mut run = Run::leased(3600);
        assert_eq!(run.arp(MAC, ADDRESS), None);
        assert_eq!(run.arp(OTHER, SECOND), None);
        // Somebody asks whether the address is free: the kernel answers that it is not.
        assert_eq!(run.client.receive_arp(&arp::probe(OTHER, ADDRESS), run.now), None);
        assert_eq!(run.client.receive_arp(b"no ARP", run.now), None);
        assert!(run.client.lease().is_some());
    }

    #[test]
    fn two_that_ask_for_the_same_address_at_once_both_decline() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        assert_eq!(run.client.receive_arp(&arp::probe(MAC, ADDRESS), run.now), None);
        let event = run.client.receive_arp(&arp::probe(OTHER, ADDRESS), run.now);
        assert_eq!(event, Some(Event::Conflict { address: ADDRESS }));
    }

    #[test]
    fn a_router_that_answers_for_every_address_is_no_conflict_twice() {
        let mut run = Run::new();
        let second = Ipv4Addr::new(10, 0, 0, 16);
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        assert!(run.arp(OTHER, ADDRESS).is_some());
        run.go(seconds(10));
        run.reply(OFFER, second, SERVER, 3600, &[ROUTE, DNS].concat());
        run.go(seconds(10));
        assert_eq!(run.arp(OTHER, second), None);
        assert!(run.arp([2, 0, 0, 0, 0, 8], second).is_some());
    }

    #[test]
    fn renews_at_half_of_a_20_s_lease_again_and_again() {
        let mut run = Run::leased(SHORT);
        let mut start = ms(0);
        for _ in 0..10 {
            let deeds = run.go(start + seconds(10));
            assert_eq!(deeds, [(start + seconds(10), "renew")]);
            start = run.now;
            let event = run.reply(ACK, ADDRESS, SERVER, SHORT, &[ROUTE, DNS].concat());
            assert!(matches!(event, Some(Event::Renewed(lease)) if lease.seconds == SHORT));
        }
        assert_eq!(run.client.obtained(), Some(start));
    }

    #[test]
    fn without_an_answer_renews_then_rebinds_then_expires_and_starts_anew() {
        let mut run = Run::leased(SHORT);
        let deeds = run.go(seconds(25));
        let mut order = words(&deeds);
        order.dedup();
        assert_eq!(order, ["renew", "rebind", "expired", "discover"]);
        let first = |word| deeds.iter().find(|deed| deed.1 == word).unwrap().0;
        assert_eq!(
            (first("renew"), first("rebind"), first("expired")),
            (seconds(10), seconds(17), seconds(20))
        );
        assert_eq!(first("discover"), seconds(20));
        let renewals = deeds.iter().filter(|deed| deed.1 == "renew").count();
        assert!((3..=8).contains(&renewals), "{deeds:?}");
        assert_eq!(run.client.lease(), None);
    }

    #[test]
    fn a_day_long_lease_asks_seldom() {
        let mut run = Run::leased(86_400);
        let deeds = run.go(seconds(86_399));
        assert!((15..80).contains(&deeds.len()), "{}", deeds.len());
        assert!(run.client.lease().is_some());
    }

    #[test]
    fn another_server_may_answer_a_rebinding() {
        let mut run = Run::leased(SHORT);
        run.go(seconds(18));
        let event = run.reply(ACK, ADDRESS, SECOND, SHORT, &[]);
        assert!(matches!(event, Some(Event::Renewed(lease)) if lease.server == SECOND));
        let next = run.go(seconds(28));
        assert_eq!(words(&next)[0], "renew");
    }

    #[test]
    fn a_renewal_may_change_all_but_keeps_the_lease_up() {
        let mut run = Run::leased(SHORT);
        run.go(seconds(10));
        let moved = Ipv4Addr::new(10, 0, 0, 77);
        let changed = [&[3, 4, 10, 0, 0, 2, 6, 4, 10, 0, 0, 8][..]].concat();
        let event = run.reply(ACK, moved, SERVER, SHORT, &changed);
        let Some(Event::Renewed(lease)) = event else { panic!("{event:?}") };
        assert_eq!(
            (lease.address, lease.gateway(), &lease.dns[..]),
            (moved, Some(SECOND), &[Ipv4Addr::new(10, 0, 0, 8)][..])
        );
        assert_eq!(run.client.lease(), Some(&lease));
        assert_eq!(words(&run.go(seconds(11))), ["arp"]);
        assert_eq!(run.arp(OTHER, moved), Some(Event::Conflict { address: moved }));
    }

    #[test]
    fn a_refused_renewal_takes_the_lease_away() {
        let mut run = Run::leased(SHORT);
        run.go(seconds(10));
        assert_eq!(run.nak(SECOND), None);
        assert_eq!(run.nak(SERVER), Some(Event::Refused { server: SERVER }));
        assert_eq!(run.client.lease(), None);
        assert_eq!(words(&run.go(seconds(11))), ["discover"]);
    }

    #[test]
    fn a_rebinding_may_be_refused_by_anyone_who_says_who_it_is() {
        let mut run = Run::leased(SHORT);
        run.go(seconds(17));
        let nameless = answer(&run.last, NAK, Ipv4Addr::UNSPECIFIED, &[]);
        assert_eq!(run.client.receive(&nameless, run.now), None);
        assert_eq!(run.nak(SECOND), Some(Event::Refused { server: SECOND }));
    }

    #[test]
    fn an_acknowledgement_that_nobody_asked_for_changes_nothing() {
        let mut run = Run::leased(SHORT);
        let before = run.client.lease().cloned();
        assert_eq!(run.reply(ACK, ADDRESS, SERVER, 3600, &[]), None);
        assert_eq!(run.nak(SERVER), None);
        assert_eq!(run.client.lease().cloned(), before);
    }

    #[test]
    fn a_lease_without_end_is_left_alone() {
        let mut run = Run::leased(u32::MAX);
        assert_eq!(run.client.wake(), None);
        assert_eq!(run.go(seconds(10_000_000_000)), []);
        assert!(run.client.lease().is_some());
    }

    #[test]
    fn a_lease_handed_over_goes_on_where_it_was() {
        let lease = Run::leased(SHORT).client.lease().cloned().unwrap();
        let at =
            |now| Run { client: Client::bound(MAC, 9, lease.clone(), ms(0), now), now, last: Vec::new() };
        assert_eq!(at(seconds(5)).go(seconds(10)), [(seconds(10), "renew")]);
        assert_eq!(words(&at(seconds(12)).go(seconds(12))), ["renew"]);
        assert_eq!(words(&at(seconds(18)).go(seconds(18))), ["rebind"]);
        assert_eq!(words(&at(seconds(20)).go(seconds(20))), ["expired", "discover"]);
        let mut run = at(seconds(12));
        run.go(seconds(12));
        assert!(run.full(ACK, SERVER).is_some());
        let endless = Lease { seconds: u32::MAX, ..lease.clone() };
        assert_eq!(Client::bound(MAC, 9, endless, ms(0), seconds(1)).wake(), None);
    }

    /// One whose cable came back.
    fn plugged_in_again() -> Run {
        let lease = Run::leased(SHORT).client.lease().cloned().unwrap();
        Run { client: Client::reboot(MAC, 9, lease, seconds(5)), now: seconds(5), last: Vec::new() }
    }

    #[test]
    fn a_cable_that_comes_back_has_the_lease_confirmed_by_any_server() {
        let mut run = plugged_in_again();
        assert_eq!(words(&run.go(seconds(5))), ["request"]);
        assert_eq!((asked(&run.last, 50), asked(&run.last, 54)), (ADDRESS.octets().to_vec(), Vec::new()));
        assert_eq!(run.client.lease(), None);
        assert_eq!(run.reply(ACK, Ipv4Addr::new(10, 0, 0, 99), SECOND, SHORT, ROUTE), None);
        let event = run.reply(ACK, ADDRESS, SECOND, SHORT, ROUTE);
        assert!(matches!(event, Some(Event::Renewed(lease)) if lease.server == SECOND));
        assert_eq!(run.client.obtained(), Some(seconds(5)));
        assert_eq!(words(&run.go(seconds(5))), ["arp"]);
        // Somebody may have taken it while the cable was out.
        assert_eq!(run.arp(OTHER, ADDRESS), Some(Event::Conflict { address: ADDRESS }));
    }

    #[test]
    fn a_lease_that_another_network_does_not_know_is_refused_by_any_server() {
        let mut run = plugged_in_again();
        run.go(seconds(5));
        assert_eq!(run.nak(SECOND), Some(Event::Refused { server: SECOND }));
        assert_eq!(words(&run.go(seconds(6))), ["discover"]);
    }

    #[test]
    fn a_lease_that_nobody_confirms_is_followed_by_another() {
        let mut run = plugged_in_again();
        let deeds = run.go(seconds(21));
        assert_eq!(words(&deeds)[..5], ["request", "request", "request", "request", "discover"]);
        let meant = [seconds(1), seconds(2), seconds(4), seconds(8)];
        assert!(
            pauses(&deeds).into_iter().zip(meant).all(|(pause, meant)| is_about(pause, meant)),
            "{deeds:?}"
        );
    }

    #[test]
    fn a_clock_that_jumps_ahead_ends_the_lease_and_one_that_jumps_back_does_no_harm() {
        let mut run = Run::leased(SHORT);
        run.now = seconds(1_000_000);
        assert_eq!(words(&run.go(seconds(1_000_000))), ["expired", "discover"]);
        let mut run = Run::leased(SHORT);
        run.go(seconds(15));
        for now in [ms(0), seconds(3), Duration::MAX, ms(0)] {
            for _ in 0..4 {
                run.client.poll(now);
            }
            run.client.receive(&run.last, now);
            run.client.conflict(now);
        }
        assert!(run.client.wake().is_some());
    }

    #[test]
    fn the_first_lease_ends_the_memory_of_refusals() {
        let mut run = Run::new();
        run.go(ms(0));
        run.full(OFFER, SERVER);
        run.go(ms(0));
        run.nak(SERVER);
        run.go(seconds(1));
        run.full(OFFER, SERVER);
        run.go(seconds(3));
        run.full(ACK, SERVER);
        run.go(seconds(4));
        assert!(run.client.lease().is_some());
        assert_eq!((run.client.refusals, run.client.shunned), (0, None));
    }
}
