//! Keeps a network, without I/O: what to send, what to change, what to say, and when. The core of `zstrap-node lease`,
//! and of the renewals while the init fetches.
//!
//! In: packets, carriers, what routers say, and the time since the kernel started (CLOCK_BOOTTIME, so that a lease
//! runs out while the machine sleeps). Out: [`Action`]s. An address is in use until its lease ends, another one takes
//! its place or a server refuses it; silence alone takes nothing away.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use log::Level;
use zstrap_formats::network::Network;
use zstrap_wire::dhcp4::{Client, Event, Lease, Output};

use crate::net::settings::Settings;

/// How long routers get to advertise themselves again when a cable comes back, before what they said is forgotten.
const ROUTER: Duration = Duration::from_secs(30);

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A packet; never an event.
    Send(Output),
    /// The link is to be brought from one to the other.
    Change {
        /// What it has. Nothing, when all of it is to be set again.
        old: Box<Settings>,
        /// What it is to have.
        new: Box<Settings>,
    },
    /// The lease or what the node has has changed: files are to be written.
    Publish,
    /// A line for whoever keeps the log.
    Say(Level, String),
}

/// A network that is kept.
pub struct Keeper {
    mac: [u8; 6],
    random: fn() -> u32,
    network: Network,
    /// None when DHCPv4 is not followed.
    client: Option<Client>,
    lease: Option<Kept>,
    /// Why there is none any more.
    lost: &'static str,
    /// What routers say; none when nothing was heard yet.
    router: Option<Settings>,
    /// Whether that was heard by who kept the network before. It is believed until a router speaks, or a cable was out.
    router_is_inherited: bool,
    /// Until when routers may be silent.
    router_patience: Duration,
    /// What the link has.
    has: Settings,
    has_carrier: bool,
    /// Whether it was said that the server is silent.
    is_rebinding: bool,
    actions: VecDeque<Action>,
}

/// A lease in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What the server gave.
    pub lease: Lease,
    /// When it was asked for, since the kernel started.
    pub obtained: Duration,
}

impl Kept {
    fn end(&self) -> Option<Duration> {
        let is_bounded = !self.lease.is_infinite();
        is_bounded.then(|| self.obtained + Duration::from_secs(self.lease.seconds.into()))
    }
}

/// What a [`Keeper`] begins with.
pub struct Start {
    /// Hardware address of the link.
    pub mac: [u8; 6],
    /// Where transaction numbers come from.
    pub random: fn() -> u32,
    /// The network settings in effect.
    pub network: Network,
    /// Whether DHCPv4 is followed.
    pub v4: bool,
    /// The lease in use.
    pub lease: Option<Kept>,
    /// What routers have said to who kept the network before.
    pub router: Option<Settings>,
    /// Whether the link has a carrier.
    pub has_carrier: bool,
}

impl Keeper {
    /// A keeper of what the init has left, or an earlier keeper.
    #[must_use]
    pub fn new(start: Start, now: Duration) -> Self {
        let Start { mac, random, network, v4, lease, router, has_carrier } = start;
        let client = v4.then(|| match &lease {
            Some(Kept { lease, obtained }) => Client::bound(mac, random(), lease.clone(), *obtained, now),
            None => Client::new(mac, random(), now),
        });
        let mut keeper = Self {
            mac,
            random,
            network,
            client,
            lease,
            lost: "",
            router_is_inherited: router.is_some(),
            router,
            router_patience: now + ROUTER,
            has: Settings::default(),
            has_carrier,
            is_rebinding: false,
            actions: VecDeque::new(),
        };
        keeper.has = keeper.wanted();
        keeper
    }

    /// The lease in use.
    #[must_use]
    pub fn lease(&self) -> Option<&Kept> {
        self.lease.as_ref()
    }

    /// Why there is no lease any more.
    #[must_use]
    pub fn lost(&self) -> &'static str {
        self.lost
    }

    /// Whether the link has learned how it is to be used.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.lease.is_some() || self.router.is_some()
    }

    /// The network settings in effect.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What the link has.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.has
    }

    /// Whether routers can be expected to speak soon. Where they have been silent for a while there may be none at all.
    #[must_use]
    pub fn expects_router(&self, now: Duration) -> bool {
        self.router.is_some() || now < self.router_patience
    }

    /// When [`Keeper::poll`] is to be called next at the latest; `None` when nothing will ever be due.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let client = self.client.as_ref().and_then(Client::wake);
        let end = self.lease.as_ref().and_then(Kept::end);
        client.into_iter().chain(end).min()
    }

    /// What is to be done now; to be called until it says nothing.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            let output = self.client.as_mut().and_then(|client| client.poll(now));
            match output {
                Some(output) => self.output(output, now),
                None if self.lease.as_ref().and_then(Kept::end).is_some_and(|end| now >= end) => {
                    self.expire()
                }
                None if self.actions.is_empty() => return None,
                None => {}
            }
        }
    }

    /// A DHCP packet has come.
    pub fn receive(&mut self, payload: &[u8], now: Duration) {
        let event = self.client.as_mut().and_then(|client| client.receive(payload, now));
        if let Some(event) = event {
            self.event(event, now);
        }
    }

    /// An ARP packet has come.
    pub fn receive_arp(&mut self, packet: &[u8], now: Duration) {
        let event = self.client.as_mut().and_then(|client| client.receive_arp(packet, now));
        if let Some(event) = event {
            self.event(event, now);
        }
    }

    /// The link has another hardware address now.
    pub fn set_mac(&mut self, mac: [u8; 6]) {
        self.mac = mac;
    }

    /// The carrier as it is now. A cable that comes back may end in another network: the lease is to be confirmed at
    /// once (RFC 2131, section 3.7), and all settings are made again, as the kernel forgets routes of a link that was
    /// down.
    pub fn carrier(&mut self, has_carrier: bool, now: Duration) {
        match (self.has_carrier, has_carrier) {
            (true, false) => self.warn(format!("carrier-lost addr={}", self.address())),
            (false, true) => self.came_back(now),
            _ => {}
        }
        self.has_carrier = has_carrier;
    }

    /// What routers say now; none is believed only when they have had the time to speak, and have spoken before.
    pub fn router(&mut self, says: Option<Settings>, now: Duration) {
        if says.is_none() && (self.router_is_inherited || now < self.router_patience) {
            return;
        }
        self.router_is_inherited = false;
        if says != self.router {
            self.router = says;
            self.refresh();
        }
    }

    /// Routers are listened to from the start, as after a change of the link's name.
    pub fn ask_routers_anew(&mut self, now: Duration) {
        self.router_patience = now + ROUTER;
    }

    fn came_back(&mut self, now: Duration) {
        self.say(format!("carrier-back addr={}", self.address()));
        self.ask_routers_anew(now);
        self.router_is_inherited = false;
        self.is_rebinding = false;
        self.change(Settings::default());
        let (mac, xid) = (self.mac, (self.random)());
        self.client = self.client.take().map(|_| match &self.lease {
            // The address stays while servers are asked for it, and then for any: until its time is up, another lease
            // comes, or somebody refuses it.
            Some(kept) => Client::reboot(mac, xid, kept.lease.clone(), now),
            None => Client::new(mac, xid, now),
        });
    }

    fn output(&mut self, output: Output, now: Duration) {
        match output {
            Output::Event(event) => return self.event(event, now),
            Output::Broadcast(_) => self.note_rebinding(),
            Output::Unicast { .. } | Output::Arp(_) => {}
        }
        // Into a link without a carrier nothing can be sent; the client goes on counting its time.
        if self.has_carrier {
            self.actions.push_back(Action::Send(output));
        }
    }

    /// A broadcast of a client that has a lease is the question to any server whether it will renew.
    fn note_rebinding(&mut self) {
        let is_bound = self.client.as_ref().is_some_and(|client| client.lease().is_some());
        if is_bound && !self.is_rebinding {
            self.is_rebinding = true;
            let server = self.lease.as_ref().map(|kept| kept.lease.server);
            self.warn(format!("rebind addr={} silent={}", self.address(), shown(server)));
        }
    }

    fn event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Leased(lease) => self.leased("obtained", lease, now),
            Event::Renewed(lease) => self.leased("renewed", lease, now),
            Event::Refused { server } => {
                self.warn(format!("refused addr={} server={server}", self.address()));
                self.lose("refused");
            }
            Event::Conflict { address } => {
                self.warn(format!(
                    "declined addr={} conflict={address}: another machine has it",
                    self.address()
                ));
                self.lose("conflict");
            }
            Event::Expired => self.expire(),
        }
    }

    fn leased(&mut self, verb: &str, lease: Lease, now: Duration) {
        self.is_rebinding = false;
        let time = if lease.is_infinite() { "ever".to_owned() } else { format!("{}s", lease.seconds) };
        let server = lease.server;
        let obtained = self.client.as_ref().and_then(Client::obtained).unwrap_or(now);
        self.lease = Some(Kept { lease, obtained });
        self.say(format!("{verb} addr={} for={time} server={server}", self.address()));
        self.refresh();
    }

    fn expire(&mut self) {
        // Its client has begun anew by itself, or was at it already.
        self.warn(format!("expired addr={}", self.address()));
        self.lose("expired");
    }

    /// The address must not be used any longer.
    fn lose(&mut self, why: &'static str) {
        self.is_rebinding = false;
        (self.lease, self.lost) = (None, why);
        self.refresh();
    }

    /// Brings the link to what it is to have now.
    fn refresh(&mut self) {
        let wanted = self.wanted();
        if wanted != self.has {
            let old = std::mem::replace(&mut self.has, wanted);
            self.change(old);
            self.say(changed(&self.has));
        }
        self.actions.push_back(Action::Publish);
    }

    /// Brings the link from `old` to what it has from now on.
    fn change(&mut self, old: Settings) {
        let new = Box::new(self.has.clone());
        self.actions.push_back(Action::Change { old: Box::new(old), new });
    }

    /// What the link is to have: lease, routers and settings together, as the init puts them together.
    fn wanted(&self) -> Settings {
        let lease = self.lease.as_ref().map(|kept| Settings::of_lease(&kept.lease)).unwrap_or_default();
        let learned = lease.merged_with(self.router.clone().unwrap_or_default());
        let mut wanted =
            learned.merged_with(Settings::of_network(&self.network)).with_wishes_of(&self.network);
        if !wanted.addresses.iter().any(|(address, _)| address.is_ipv4()) {
            // Without an address the kernel takes no route.
            wanted.routes.retain(|route| route.destination.is_ipv6());
        }
        wanted
    }

    fn say(&mut self, line: String) {
        self.actions.push_back(Action::Say(Level::Info, line));
    }

    fn warn(&mut self, line: String) {
        self.actions.push_back(Action::Say(Level::Warn, line));
    }

    /// The address in use, for the log.
    fn address(&self) -> String {
        shown(self.lease.as_ref().map(|Kept { lease, .. }| format!("{}/{}", lease.address, lease.prefix)))
    }
}

fn changed(settings: &Settings) -> String {
    let addresses =
        settings.addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
    let dns = settings.dns.iter().map(IpAddr::to_string).collect();
    format!("changed addr={} gw={} dns={}", list(addresses), shown(settings.gateway()), list(dns))
}

fn list(values: Vec<String>) -> String {
    if values.is_empty() { "none".to_owned() } else { values.join(",") }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::sys::fake::{OURS, SERVER, dhcp_answer as answer, lease};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);
    const ANOTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 16);
    const DISCOVER: u8 = 1;
    const OFFER: u8 = 2;
    const REQUEST: u8 = 3;
    const DECLINE: u8 = 4;
    const ACK: u8 = 5;
    const NAK: u8 = 6;
    const DAY: u64 = 86_400;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn start(lease: Option<Lease>) -> Start {
        let lease = lease.map(|lease| Kept { lease, obtained: Duration::ZERO });
        let network = Network::default();
        Start { mac: MAC, random: || 7, network, v4: true, lease, router: None, has_carrier: true }
    }

    /// A keeper of a lease of 20 s that was obtained at 0 s.
    fn keeper() -> Keeper {
        Keeper::new(start(Some(lease())), Duration::ZERO)
    }

    /// All that is to be done at this time.
    fn at(keeper: &mut Keeper, now: u64) -> Vec<Action> {
        std::iter::from_fn(|| keeper.poll(seconds(now))).collect()
    }

    /// All that is done from one time to another, each thing when it is due.
    fn until(keeper: &mut Keeper, from: u64, to: u64) -> Vec<Action> {
        (from..=to).flat_map(|now| at(keeper, now)).collect()
    }

    fn lines(actions: &[Action]) -> Vec<&str> {
        let lines = actions.iter().filter_map(|action| match action {
            Action::Say(_, line) => Some(line.as_str()),
            _ => None,
        });
        lines.collect()
    }

    fn changes(actions: &[Action]) -> Vec<(&Settings, &Settings)> {
        let changes = actions.iter().filter_map(|action| match action {
            Action::Change { old, new } => Some((&**old, &**new)),
            _ => None,
        });
        changes.collect()
    }

    /// The DHCP packets among them.
    fn packets(actions: &[Action]) -> Vec<&[u8]> {
        let packet = |action| match action {
            &Action::Send(Output::Broadcast(ref payload) | Output::Unicast { ref payload, .. }) => {
                Some(payload.as_slice())
            }
            _ => None,
        };
        actions.iter().filter_map(packet).collect()
    }

    fn option(packet: &[u8], wanted: u8) -> Option<&[u8]> {
        let mut rest = &packet[240..];
        while let [code @ 1..=254, length, tail @ ..] = rest {
            let (value, tail) = tail.split_at(usize::from(*length));
            if *code == wanted {
                return Some(value);
            }
            rest = tail;
        }
        None
    }

    fn kind(packet: &[u8]) -> u8 {
        option(packet, 53).unwrap()[0]
    }

    fn acknowledge(keeper: &mut Keeper, actions: &[Action], address: Ipv4Addr, now: u64) -> Vec<Action> {
        let question = packets(actions).pop().expect("a question");
        keeper.receive(&answer(question, ACK, SERVER, address, 20), seconds(now));
        at(keeper, now)
    }

    /// Offer, acknowledgement, and the 20 ms in which nobody objects.
    fn lease_anew(keeper: &mut Keeper, actions: &[Action], address: Ipv4Addr, now: u64) -> Vec<Action> {
        let discover = packets(actions).pop().expect("a question");
        assert_eq!(kind(discover), DISCOVER);
        keeper.receive(&answer(discover, OFFER, OTHER_SERVER, address, 20), seconds(now));
        let requests = at(keeper, now);
        let request = packets(&requests).pop().expect("a request");
        keeper.receive(&answer(request, ACK, OTHER_SERVER, address, 20), seconds(now));
        [at(keeper, now), at(keeper, now + 1)].concat()
    }

    #[test]
    fn renews_with_its_server_at_half_of_the_time() {
        let mut keeper = keeper();
        assert_eq!(keeper.wake(), Some(seconds(10)));
        assert_eq!(until(&mut keeper, 0, 9), []);
        let asked = at(&mut keeper, 10);
        assert!(
            matches!(asked[..], [Action::Send(Output::Unicast { from: OURS, to: SERVER, .. })]),
            "{asked:?}"
        );
        let done = acknowledge(&mut keeper, &asked, OURS, 10);
        assert_eq!(lines(&done), ["renewed addr=10.0.0.15/24 for=20s server=10.0.0.1"]);
        assert_eq!(done.last(), Some(&Action::Publish));
        assert_eq!(changes(&done), []);
        assert_eq!(keeper.wake(), Some(seconds(20)));
    }

    #[test]
    fn asks_any_server_when_its_own_is_silent() {
        let mut keeper = keeper();
        until(&mut keeper, 0, 16);
        let asked = until(&mut keeper, 17, 19);
        assert_eq!(lines(&asked), ["rebind addr=10.0.0.15/24 silent=10.0.0.1"]);
        assert!(asked.iter().any(|action| matches!(action, Action::Send(Output::Broadcast(_)))), "{asked:?}");
        let question = packets(&asked).pop().unwrap().to_vec();
        keeper.receive(&answer(&question, ACK, OTHER_SERVER, OURS, 60), seconds(19));
        let done = at(&mut keeper, 19);
        assert_eq!(lines(&done), ["renewed addr=10.0.0.15/24 for=60s server=10.0.0.99"]);
        assert_eq!(keeper.lease().unwrap().lease.server, OTHER_SERVER);
    }

    #[test]
    fn an_address_whose_time_is_up_is_taken_away_and_another_is_asked_for() {
        let mut keeper = keeper();
        until(&mut keeper, 0, 19);
        let done = at(&mut keeper, 20);
        assert_eq!(lines(&done), ["expired addr=10.0.0.15/24", "changed addr=none gw=none dns=none"]);
        let [(old, new)] = changes(&done)[..] else { panic!("{done:?}") };
        assert_eq!((old.addresses.len(), new), (1, &Settings::default()));
        assert_eq!(packets(&done).into_iter().map(kind).collect::<Vec<_>>(), [DISCOVER]);
        let done = lease_anew(&mut keeper, &done, ANOTHER, 21);
        assert_eq!(
            lines(&done),
            [
                "obtained addr=10.0.0.16/24 for=20s server=10.0.0.99",
                "changed addr=10.0.0.16/24 gw=10.0.0.2 dns=10.0.0.3"
            ]
        );
    }

    #[test]
    fn another_address_comes_before_the_old_one_goes() {
        let mut keeper = keeper();
        let asked = at(&mut keeper, 10);
        let done = acknowledge(&mut keeper, &asked, ANOTHER, 10);
        let [(old, new)] = changes(&done)[..] else { panic!("{done:?}") };
        assert_eq!((old.addresses[0].0, new.addresses[0].0), (OURS.into(), ANOTHER.into()));
        assert_eq!(lines(&done)[1], "changed addr=10.0.0.16/24 gw=10.0.0.2 dns=10.0.0.3");
        let at_publish = done.iter().position(|action| *action == Action::Publish);
        let at_change = done.iter().position(|action| matches!(action, Action::Change { .. }));
        assert!(at_change < at_publish, "{done:?}");
    }

    #[test]
    fn a_refused_address_is_no_longer_used() {
        let mut keeper = keeper();
        let asked = at(&mut keeper, 10);
        let question = packets(&asked).pop().unwrap().to_vec();
        keeper.receive(&answer(&question, NAK, SERVER, Ipv4Addr::UNSPECIFIED, 20), seconds(10));
        let done = at(&mut keeper, 10);
        assert_eq!(lines(&done)[0], "refused addr=10.0.0.15/24 server=10.0.0.1");
        assert_eq!(changes(&done)[0].1, &Settings::default());
        let asked = until(&mut keeper, 11, 20);
        assert_eq!(kind(packets(&asked)[0]), DISCOVER);
    }

    #[test]
    fn a_cable_that_comes_back_has_the_lease_confirmed_at_once() {
        let mut keeper = keeper();
        keeper.carrier(false, seconds(3));
        let done = at(&mut keeper, 3);
        assert_eq!((lines(&done), done.len()), (vec!["carrier-lost addr=10.0.0.15/24"], 1));
        keeper.carrier(true, seconds(5));
        let done = at(&mut keeper, 5);
        assert_eq!(lines(&done), ["carrier-back addr=10.0.0.15/24"]);
        // The kernel has forgotten the routes of a link that was down.
        assert_eq!(changes(&done), [(&Settings::default(), keeper.settings())]);
        let [question] = packets(&done)[..] else { panic!("{done:?}") };
        assert_eq!((kind(question), option(question, 50)), (REQUEST, Some(&OURS.octets()[..])));
        assert_eq!((option(question, 54), &question[12..16]), (None, &[0; 4][..]));
        let done = acknowledge(&mut keeper, &done, OURS, 5);
        assert_eq!(lines(&done), ["renewed addr=10.0.0.15/24 for=20s server=10.0.0.1"]);
        assert_eq!(keeper.lease().unwrap().obtained, seconds(5));
    }

    #[test]
    fn an_address_that_another_machine_has_is_given_up() {
        let mut keeper = Keeper::new(start(None), Duration::ZERO);
        let asked = at(&mut keeper, 0);
        lease_anew(&mut keeper, &asked, OURS, 1);
        let (mut claim, theirs) = (zstrap_wire::arp::probe([2, 0, 0, 0, 0, 9], OURS), OURS.octets());
        claim[14..18].copy_from_slice(&theirs);
        keeper.receive_arp(&claim, seconds(2));
        let done = at(&mut keeper, 2);
        assert_eq!(lines(&done)[0], "declined addr=10.0.0.15/24 conflict=10.0.0.15: another machine has it");
        assert_eq!((keeper.settings(), kind(packets(&done)[0])), (&Settings::default(), DECLINE));
    }

    #[test]
    fn in_another_network_the_address_stays_until_a_new_one_comes() {
        let mut keeper = Keeper::new(start(Some(Lease { seconds: 3600, ..lease() })), Duration::ZERO);
        keeper.carrier(false, seconds(3));
        keeper.carrier(true, seconds(5));
        let asked = until(&mut keeper, 5, 40);
        assert_eq!(kind(packets(&asked)[0]), REQUEST);
        assert_eq!(changes(&asked).len(), 1);
        let done = lease_anew(&mut keeper, &asked, ANOTHER, 40);
        let [(old, new)] = changes(&done)[..] else { panic!("{done:?}") };
        assert_eq!((old.addresses[0].0, new.addresses[0].0), (OURS.into(), ANOTHER.into()));
    }

    #[test]
    fn a_server_of_another_network_refuses_the_address_that_it_does_not_know() {
        let mut keeper = keeper();
        keeper.carrier(false, seconds(3));
        keeper.carrier(true, seconds(5));
        let asked = at(&mut keeper, 5);
        let question = packets(&asked).pop().unwrap().to_vec();
        keeper.receive(&answer(&question, NAK, OTHER_SERVER, Ipv4Addr::UNSPECIFIED, 20), seconds(5));
        assert_eq!(lines(&at(&mut keeper, 5))[0], "refused addr=10.0.0.15/24 server=10.0.0.99");
        assert_eq!(keeper.settings(), &Settings::default());
    }

    #[test]
    fn nothing_is_sent_into_a_link_without_a_carrier() {
        let mut keeper = keeper();
        keeper.carrier(false, seconds(1));
        let done = until(&mut keeper, 1, 1000);
        assert_eq!(packets(&done), Vec::<&[u8]>::new());
        // The time of the address goes on.
        assert!(lines(&done).contains(&"expired addr=10.0.0.15/24"));
        keeper.carrier(true, seconds(1001));
        assert_eq!(kind(packets(&at(&mut keeper, 1001))[0]), DISCOVER);
    }

    #[test]
    fn a_machine_that_slept_through_the_end_of_its_lease_does_not_use_the_address() {
        let mut keeper = keeper();
        let done = at(&mut keeper, DAY);
        assert_eq!(lines(&done)[0], "expired addr=10.0.0.15/24");
        assert_eq!(keeper.settings(), &Settings::default());
        assert_eq!(kind(packets(&done)[0]), DISCOVER);
    }

    #[test]
    fn the_end_of_a_lease_counts_while_others_are_asked() {
        let mut keeper = keeper();
        keeper.carrier(false, seconds(3));
        keeper.carrier(true, seconds(4));
        let done = until(&mut keeper, 4, 20);
        assert_eq!(lines(&done)[2..], ["expired addr=10.0.0.15/24", "changed addr=none gw=none dns=none"]);
    }

    #[test]
    fn a_lease_without_end_is_left_alone() {
        let forever = Lease { seconds: u32::MAX, renew_after: u32::MAX, rebind_after: u32::MAX, ..lease() };
        let mut keeper = Keeper::new(start(Some(forever)), Duration::ZERO);
        assert_eq!(keeper.wake(), None);
        assert_eq!(at(&mut keeper, 400 * DAY), []);
    }

    #[test]
    fn without_a_lease_at_the_beginning_one_is_asked_for() {
        let mut keeper = Keeper::new(start(None), Duration::ZERO);
        let asked = at(&mut keeper, 0);
        let done = lease_anew(&mut keeper, &asked, OURS, 1);
        assert_eq!(lines(&done)[0], "obtained addr=10.0.0.15/24 for=20s server=10.0.0.99");
    }

    #[test]
    fn a_node_that_booted_without_a_network_was_never_given_one() {
        let mut keeper = Keeper::new(Start { has_carrier: false, ..start(None) }, Duration::ZERO);
        assert_eq!(until(&mut keeper, 0, 1000), []);
        keeper.carrier(true, seconds(1000));
        let asked = at(&mut keeper, 1000);
        assert!(!keeper.is_online());
        let done = lease_anew(&mut keeper, &asked, OURS, 1001);
        assert!(keeper.is_online());
        let [(old, new)] = changes(&done)[..] else { panic!("{done:?}") };
        assert_eq!((old, new.addresses[0].0), (&Settings::default(), OURS.into()));
        let at_publish = done.iter().position(|action| *action == Action::Publish);
        assert!(at_publish > done.iter().position(|action| matches!(action, Action::Change { .. })));
        // From then on it is a lease like any other.
        assert_eq!(kind(packets(&until(&mut keeper, 1003, 1011))[0]), REQUEST);
    }

    fn says(dns: &str) -> Settings {
        Settings { dns: vec![dns.parse().unwrap()], ..Settings::default() }
    }

    /// One without IPv4, after a start of the service.
    fn heir() -> Keeper {
        let router = Some(says("2001:db8::53"));
        Keeper::new(Start { v4: false, router, ..start(None) }, Duration::ZERO)
    }

    #[test]
    fn a_start_of_the_service_took_the_name_servers_of_silent_routers_away() {
        let mut keeper = heir();
        assert_eq!(keeper.settings(), &says("2001:db8::53"));
        for now in [0, 29, 31, DAY] {
            keeper.router(None, seconds(now));
            assert_eq!(at(&mut keeper, now), []);
        }
        keeper.router(Some(says("2001:db8::54")), seconds(DAY));
        assert_eq!(lines(&at(&mut keeper, DAY)), ["changed addr=none gw=none dns=2001:db8::54"]);
        keeper.router(None, seconds(DAY + 1));
        assert_eq!(lines(&at(&mut keeper, DAY + 1)), ["changed addr=none gw=none dns=none"]);
    }

    #[test]
    fn a_router_that_says_the_same_as_before_the_start_may_take_it_back() {
        let mut keeper = heir();
        keeper.router(Some(says("2001:db8::53")), seconds(1));
        assert_eq!(at(&mut keeper, 1), []);
        keeper.router(None, seconds(100));
        assert_eq!(lines(&at(&mut keeper, 100)), ["changed addr=none gw=none dns=none"]);
    }

    #[test]
    fn what_routers_said_before_the_start_is_forgotten_in_another_network() {
        let mut keeper = heir();
        keeper.carrier(false, seconds(3));
        keeper.carrier(true, seconds(5));
        keeper.router(None, seconds(34));
        assert_eq!(keeper.settings(), &says("2001:db8::53"));
        keeper.router(None, seconds(36));
        assert_eq!(keeper.settings(), &Settings::default());
    }

    #[test]
    fn a_change_of_the_name_gives_routers_the_time_to_speak_again() {
        let mut keeper = Keeper::new(Start { v4: false, ..start(None) }, Duration::ZERO);
        keeper.router(Some(says("2001:db8::53")), seconds(1));
        keeper.ask_routers_anew(seconds(100));
        keeper.router(None, seconds(101));
        assert_eq!(keeper.settings(), &says("2001:db8::53"));
    }

    #[test]
    fn name_servers_of_routers_are_followed() {
        let mut keeper = Keeper::new(Start { v4: false, ..start(None) }, Duration::ZERO);
        keeper.router(Some(says("2001:db8::53")), seconds(1));
        assert_eq!(lines(&at(&mut keeper, 1)), ["changed addr=none gw=none dns=2001:db8::53"]);
        keeper.router(Some(says("2001:db8::53")), seconds(2));
        assert_eq!(at(&mut keeper, 2), []);
        keeper.carrier(false, seconds(100));
        keeper.carrier(true, seconds(101));
        at(&mut keeper, 101);
        // A router has not had the time to speak yet.
        keeper.router(None, seconds(102));
        assert_eq!(at(&mut keeper, 102), []);
        keeper.router(None, seconds(140));
        assert_eq!(lines(&at(&mut keeper, 140)), ["changed addr=none gw=none dns=none"]);
    }

    #[test]
    fn what_a_person_has_set_stays_when_the_lease_changes() {
        let network = Network { dns: vec!["192.0.2.53".parse().unwrap()], ..Network::default() };
        let mut keeper = Keeper::new(Start { network, ..start(Some(lease())) }, Duration::ZERO);
        let asked = at(&mut keeper, 10);
        let done = acknowledge(&mut keeper, &asked, ANOTHER, 10);
        assert_eq!(lines(&done)[1], "changed addr=10.0.0.16/24 gw=10.0.0.2 dns=192.0.2.53");
    }

    #[test]
    fn months_of_renewals_leave_nothing_behind() {
        let mut keeper = keeper();
        let mut now = 0;
        for _ in 0..100_000 {
            now = keeper.wake().unwrap().as_secs();
            let asked = at(&mut keeper, now);
            assert_eq!(lines(&acknowledge(&mut keeper, &asked, OURS, now)).len(), 1);
        }
        assert_eq!(now, 1_000_000);
        assert!(keeper.actions.capacity() < 32);
    }
}
