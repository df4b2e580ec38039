//! What goes wrong in one boot: a machine, a network, servers and a site, drawn from a seed.
//!
//! In: a seed and the number of the boot. Out: a [`Plan`], the same one each time. Nothing here touches the world.

use std::fmt;

use zstrap_qemu_tests::chance::Chance;

/// Everything about one boot.
#[derive(Clone, Debug)]
pub struct Plan {
    /// RAM in MiB.
    pub memory: u32,
    /// What the hardware clock says.
    pub clock: Clock,
    /// The network cards, in their order.
    pub nics: Vec<Nic>,
    /// Whether nodes and servers have IPv6 addresses alone.
    pub is_v6: bool,
    /// The DHCP server of the lab.
    pub dhcp: Dhcp,
    /// The wire of the lab.
    pub wire: Wire,
    /// So many seconds without a carrier once files are being fetched.
    pub flap: Option<u64>,
    /// The servers, in the order of the identity.
    pub servers: Vec<Server>,
    /// What is wrong with the site, whoever serves it.
    pub damage: Option<Damage>,
    /// What the node becomes.
    pub program: Program,
    /// Whether the site has compressed blobs, too.
    pub is_packed: bool,
}

/// A hardware clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The host's time.
    Right,
    /// This time: before the image was built, or too long after it to be believed.
    Unbelievable(&'static str),
    /// So many days ahead of the host's: believed, and past the life of all signatures.
    Ahead(u64),
}

/// A network card and what is at the other end of its cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// The lab, where the servers are.
    Lab,
    /// The lab, but the cable is plugged in so many seconds after power-on.
    Late(u64),
    /// Nothing: no carrier.
    Unplugged,
    /// A segment on which nobody answers.
    Silent,
    /// A segment with a DHCP server, and nobody else.
    Elsewhere,
    /// A segment with a DHCP server that refuses every request.
    Refusing,
}

/// The DHCP server of the lab; none of it matters with IPv6 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// Seconds without an answer, from the first question on.
    pub silent: u64,
    /// Milliseconds that each answer takes.
    pub late: u64,
    /// How many requests it refuses first.
    pub naks: u32,
    /// It sends to the address that it leases, whatever the client asked for.
    pub is_deaf: bool,
}

/// The wire of the lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Frames of a thousand that are lost.
    pub loss: u64,
    /// Frames of a thousand that come twice.
    pub duplicates: u64,
    /// Milliseconds on the wire.
    pub delay: u64,
    /// Up to so many more, for each frame by itself.
    pub jitter: u64,
    /// Megabits a second; 0 is no limit.
    pub rate: u64,
    /// The switch port opens so many seconds after the first frame.
    pub opens_after: u64,
}

/// A part of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All of it.
    All,
    /// Configs.
    Config,
    /// Lists.
    List,
    /// Files.
    Blobs,
}

/// A server and what it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Nothing.
    Healthy,
    /// Its port is closed.
    Dead,
    /// Its address takes connections for nobody: nothing ever comes back.
    Swallowing,
    /// A page of HTML, whatever is asked for.
    Html,
    /// This status instead of a part.
    Status(Part, u16),
    /// One byte of each file of a part is another.
    Flips(Part),
    /// Connections end after so many bytes of a file.
    Cuts(u64),
    /// Nothing more comes after so many bytes of a file, and the connection stays.
    Stalls(u64),
    /// Each answer takes so many seconds to begin.
    Hesitates(u64),
    /// So many KiB a second, for each file.
    Slow(u64),
    /// The list takes so many seconds to come.
    Drips(u64),
    /// This status for the first files that are asked for, so many times.
    Moody(u16, u32),
    /// It goes away for so many seconds as soon as a file is asked for.
    Restarts(u64),
}

/// What is wrong with a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The config's signature has expired.
    ExpiredConfig,
    /// The list's signature has.
    ExpiredList,
    /// The list was signed in ten days.
    FutureList,
    /// The config has no signature.
    UnsignedConfig,
    /// The list has none.
    UnsignedList,
    /// A blob holds other bytes, as many as before.
    ChangedBlob,
    /// A blob holds some more bytes.
    LongerBlob,
    /// A blob is gone.
    LostBlob,
}

/// What the node becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The tests' payload as PID 1, beside a file of so many KiB.
    Payload(u64),
    /// The demo: zinit under `supervise`.
    Zinit,
}

impl Plan {
    /// The boot of that number under that seed.
    pub fn draw(seed: u64, number: u64) -> Self {
        // Each boot has a stream of its own, so that one can be repeated without those before it.
        let mut chance = Chance::new(Chance::new(seed).bits() ^ Chance::new(!number).bits());
        let chance = &mut chance;
        let is_v6 = chance.hits(0.15);
        let nics = draw_nics(chance);
        let (dhcp, wire) = draw_lab(chance);
        let program =
            if chance.hits(0.25) { Program::Zinit } else { Program::Payload(chance.within(4..=3072)) };
        Self {
            memory: chance.of(&[192, 256, 384, 512]),
            clock: draw_clock(chance),
            flap: chance.hits(0.15).then(|| chance.within(1..=12)),
            servers: draw_servers(chance),
            damage: chance.hits(0.15).then(|| draw_damage(chance)),
            is_packed: chance.hits(0.5),
            is_v6,
            nics,
            dhcp,
            wire,
            program,
        }
    }
}

fn draw_clock(chance: &mut Chance) -> Clock {
    match chance.within(0..=19) {
        0..=1 => Clock::Unbelievable("1970-01-02T00:00:00Z"),
        2 => Clock::Unbelievable("2003-03-03T03:03:03Z"),
        3 => Clock::Unbelievable("2100-01-02T00:00:00Z"),
        4 => Clock::Ahead(400),
        _ => Clock::Right,
    }
}

/// One to three, of which one leads to the servers, but for one time in ten.
fn draw_nics(chance: &mut Chance) -> Vec<Nic> {
    let bad = [Nic::Unplugged, Nic::Silent, Nic::Elsewhere, Nic::Refusing];
    let mut nics: Vec<Nic> = (0..chance.within(1..=3)).map(|_| chance.of(&bad)).collect();
    if chance.hits(0.9) {
        let good = if chance.hits(0.2) { Nic::Late(chance.within(3..=25)) } else { Nic::Lab };
        let place = chance.within(0..=nics.len() as u64 - 1) as usize;
        nics[place] = good;
    }
    nics
}

/// At most one of the faults that cost half a minute: together they would only be a longer silence.
fn draw_lab(chance: &mut Chance) -> (Dhcp, Wire) {
    let (mut dhcp, mut wire) = (Dhcp::default(), Wire::default());
    match chance.within(0..=9) {
        0 => dhcp.silent = chance.within(2..=40),
        1 => wire.opens_after = chance.within(2..=40),
        2 => dhcp.naks = chance.within(1..=3) as u32,
        3 => dhcp.late = chance.within(100..=5000),
        _ => {}
    }
    dhcp.is_deaf = chance.hits(0.2);
    if chance.hits(0.4) {
        wire.loss = chance.within(0..=30);
        wire.duplicates = chance.within(0..=30);
        wire.delay = chance.within(0..=30);
        wire.jitter = chance.within(0..=15);
    }
    wire.rate = chance.of(&[0, 0, 0, 4, 20]);
    (dhcp, wire)
}

/// One to three; half of all are good enough.
fn draw_servers(chance: &mut Chance) -> Vec<Server> {
    (0..chance.of(&[1, 2, 2, 3])).map(|_| draw_server(chance)).collect()
}

fn draw_server(chance: &mut Chance) -> Server {
    let status = [404, 429, 500, 503];
    match chance.within(0..=24) {
        0..=4 => Server::Healthy,
        5..=6 => Server::Dead,
        7 => Server::Swallowing,
        8 => Server::Html,
        9 => Server::Status(Part::All, chance.of(&status)),
        10 => Server::Status(Part::Blobs, chance.of(&status)),
        11 => Server::Flips(Part::Config),
        12 => Server::Flips(Part::List),
        13 => Server::Flips(Part::Blobs),
        14 => Server::Cuts(0),
        15..=16 => Server::Cuts(chance.within(128..=1024) * 1024),
        17 => Server::Stalls(chance.within(512..=1024) * 1024),
        18 => Server::Hesitates(chance.within(1..=4)),
        19 => Server::Slow(chance.within(64..=512)),
        20 => Server::Drips(chance.within(20..=100)),
        21..=22 => Server::Moody(chance.of(&[429, 500, 503]), chance.within(1..=4) as u32),
        _ => Server::Restarts(chance.within(1..=8)),
    }
}

fn draw_damage(chance: &mut Chance) -> Damage {
    chance.of(&[
        Damage::ExpiredConfig,
        Damage::ExpiredList,
        Damage::FutureList,
        Damage::UnsignedConfig,
        Damage::UnsignedList,
        Damage::ChangedBlob,
        Damage::LongerBlob,
        Damage::LostBlob,
    ])
}

/// One line a subject.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        writeln!(f, "  machine: {} MiB, clock {:?}, cards {:?}", self.memory, self.clock, self.nics)?;
        writeln!(f, "  network: {family}, {:?}, {:?}, flap {:?}", self.dhcp, self.wire, self.flap)?;
        writeln!(f, "  servers: {:?}", self.servers)?;
        let packed = if self.is_packed { "compressed" } else { "plain" };
        write!(f, "  site:    {:?}, {packed} blobs, damage {:?}", self.program, self.damage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_boots() {
        let texts = |seed| (0..20).map(|number| Plan::draw(seed, number).to_string()).collect::<Vec<_>>();
        assert_eq!(texts(7), texts(7));
        assert_ne!(texts(7), texts(8));
        assert_ne!(texts(7)[0], texts(7)[1]);
    }

    #[test]
    fn every_kind_of_server_and_of_card_is_drawn() {
        let plans: Vec<Plan> = (0..400).map(|number| Plan::draw(1, number)).collect();
        let names = |text: String| text.split(['(', ' ']).next().unwrap_or_default().to_owned();
        let count = |mut kinds: Vec<String>| {
            kinds.sort_unstable();
            kinds.dedup();
            kinds.len()
        };
        let servers = plans.iter().flat_map(|plan| &plan.servers).map(|one| names(format!("{one:?}")));
        let nics = plans.iter().flat_map(|plan| &plan.nics).map(|one| names(format!("{one:?}")));
        let damages = plans.iter().filter_map(|plan| plan.damage).map(|one| format!("{one:?}"));
        assert_eq!((count(servers.collect()), count(nics.collect()), count(damages.collect())), (13, 6, 8));
    }
}
