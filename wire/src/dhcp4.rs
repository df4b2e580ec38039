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
mod tests;
