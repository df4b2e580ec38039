//! The client over virtual time: packets in, packets and events out. Nothing leaves the machine. A failure names the
//! packet, event or time that differs.

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
    assert!(again.len() > 4 && pauses(&again).into_iter().all(|pause| pause <= LONGEST_PAUSE), "{again:?}");
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
    assert_eq!((first("renew"), first("rebind"), first("expired")), (seconds(10), seconds(17), seconds(20)));
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
    let at = |now| Run { client: Client::bound(MAC, 9, lease.clone(), ms(0), now), now, last: Vec::new() };
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
    assert!(pauses(&deeds).into_iter().zip(meant).all(|(pause, meant)| is_about(pause, meant)), "{deeds:?}");
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
