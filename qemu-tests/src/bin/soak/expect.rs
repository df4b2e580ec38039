//! What must come of a plan: a boot, a refusal for certain reasons, or either of them; and within which time.
//!
//! In: a [`Plan`]. Out: [`Expected`]. This is what the documentation promises, put as a function; it knows nothing of
//! the init's code.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::plan::{Clock, Damage, Nic, Part, Plan, Program, Server};

/// Attempts of a machine that cannot boot, before it reboots: enough to see that the second one says the same.
pub const FEW_TRIES: u32 = 2;
/// Attempts that a machine makes unless told otherwise.
const TRIES: u32 = 6;

/// How a boot may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a path and a good server: the program runs.
    Boots,
    /// There is not: the machine says why, and reboots.
    Refuses,
    /// Only several servers together have all of it.
    Either,
}

/// What must come of a plan.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The end.
    pub outcome: Outcome,
    /// Reasons that a failed attempt may give; also one before the attempt that boots.
    pub reasons: BTreeSet<&'static str>,
    /// Those that only an attempt before the last one may give as well.
    pub early: &'static [&'static str],
    /// Attempts before the reboot.
    pub tries: u32,
    /// From power-on to the end.
    pub bound: Duration,
}

impl Expected {
    /// Of this plan.
    pub fn of(plan: &Plan) -> Self {
        let no_path = reason_of_nics(&plan.nics);
        let (outcome, reasons) = match no_path {
            Some(reason) => (Outcome::Refuses, BTreeSet::from([reason])),
            None => at_servers(plan),
        };
        let tries = if outcome == Outcome::Refuses { FEW_TRIES } else { TRIES };
        // An attempt may be over before the card is there through which the servers can be asked.
        let is_late = no_path.is_none() && plan.nics.iter().any(|nic| matches!(nic, Nic::Late(_)));
        let early: &[_] = if is_late && outcome == Outcome::Refuses {
            &["no-carrier", "no-lease", "no-server"]
        } else {
            &[]
        };
        Self { outcome, reasons, early, tries, bound: bound(plan, no_path.is_none()) }
    }
}

/// Why no card leads to the servers; none if one does.
fn reason_of_nics(nics: &[Nic]) -> Option<&'static str> {
    let has = |wanted: &[Nic]| nics.iter().any(|nic| wanted.contains(nic));
    if nics.iter().any(|nic| matches!(nic, Nic::Lab | Nic::Late(_))) {
        None
    } else if has(&[Nic::Elsewhere]) {
        Some("no-server")
    } else if has(&[Nic::Silent, Nic::Refusing]) {
        Some("no-lease")
    } else {
        Some("no-carrier")
    }
}

/// With a path to the servers.
fn at_servers(plan: &Plan) -> (Outcome, BTreeSet<&'static str>) {
    let answers = |server: &Server| lacks(*server) != Some(Part::All);
    if !plan.servers.iter().any(answers) {
        return (Outcome::Refuses, BTreeSet::from(["no-server"]));
    }
    let mut reasons: BTreeSet<&'static str> =
        plan.servers.iter().flat_map(|one| reasons_of(*one)).copied().collect();
    let spoilt = plan.damage.map(reason_of_damage).into_iter().chain(reason_of_clock(plan.clock));
    let is_spoilt = spoilt.clone().count() > 0;
    reasons.extend(spoilt);
    // What a bad wire or a slow server costs an attempt, the next one makes good.
    let transient = ["io", "no-lease", "no-carrier", "no-server"];
    if is_spoilt || [Part::Config, Part::List, Part::Blobs].iter().any(|part| !is_had(plan, *part)) {
        (Outcome::Refuses, reasons)
    } else if plan.servers.iter().any(|server| lacks(*server).is_none()) {
        reasons.extend(transient);
        (Outcome::Boots, reasons)
    } else {
        reasons.extend(transient);
        (Outcome::Either, reasons)
    }
}

/// Whether some server gives this part as it is.
fn is_had(plan: &Plan, part: Part) -> bool {
    plan.servers.iter().any(|server| lacks(*server).is_none_or(|lacked| ![Part::All, part].contains(&lacked)))
}

/// What a server will not give, however often it is asked.
fn lacks(server: Server) -> Option<Part> {
    match server {
        Server::Dead | Server::Swallowing | Server::Html => Some(Part::All),
        Server::Status(part, _) | Server::Flips(part) => Some(part),
        Server::Cuts(0) => Some(Part::Blobs),
        Server::Healthy
        | Server::Cuts(_)
        | Server::Stalls(_)
        | Server::Hesitates(_)
        | Server::Slow(_)
        | Server::Drips(_)
        | Server::Moody(..)
        | Server::Restarts(_) => None,
    }
}

/// What a node may say of what this server gave, once another has answered it: then all are asked.
fn reasons_of(server: Server) -> &'static [&'static str] {
    match server {
        Server::Dead | Server::Swallowing | Server::Cuts(0) => &["io"],
        Server::Html => &["not-a-serial", "length"],
        Server::Status(_, 404) => &["not-found"],
        Server::Status(..) => &["http-status"],
        Server::Flips(Part::Blobs) => &["sha256"],
        Server::Flips(_) => &["bad-signature"],
        _ => &[],
    }
}

fn reason_of_damage(damage: Damage) -> &'static str {
    match damage {
        Damage::ExpiredConfig | Damage::ExpiredList => "expired",
        Damage::FutureList => "from-future",
        Damage::UnsignedConfig | Damage::UnsignedList => "missing-signature",
        Damage::ChangedBlob => "sha256",
        Damage::LongerBlob => "length",
        Damage::LostBlob => "not-found",
    }
}

/// A clock that is believed makes all signatures look old, and nobody in the lab could say better with a certificate.
fn reason_of_clock(clock: Clock) -> Option<&'static str> {
    matches!(clock, Clock::Ahead(_)).then_some("expired")
}

/// From power-on to the end, in seconds: what the faults of the plan cost by docs/network.md and docs/init.md, counted
/// for two attempts. It is generous, and yet far below what all waits of a node together may last.
fn bound(plan: &Plan, has_path: bool) -> Duration {
    const POWER_ON: u64 = 60;
    const ATTEMPTS: u64 = 2;
    // The whole time of the first two searches; with a path, what hides it, and what leads astray.
    let search = if has_path { ATTEMPTS * hidden(plan) } else { 90 + 120 };
    let astray = 40 * plan.nics.len() as u64;
    let servers: u64 = plan.servers.iter().map(|server| spent_on(*server, largest(plan))).sum();
    // No server here, and no line, brings less than 32 KiB a second; after a flap, TCP waits as long again.
    let fetch = largest(plan) / 32 + 4 * plan.flap.unwrap_or(0);
    // Time servers and HTTPS servers are asked twice an attempt at most.
    let clock = 2 * 11;
    Duration::from_secs(POWER_ON + search + ATTEMPTS * (astray + servers + fetch + clock))
}

/// KiB of the largest file.
fn largest(plan: &Plan) -> u64 {
    match plan.program {
        Program::Payload(kib) => kib,
        Program::Zinit => 4 * 1024,
    }
}

/// How long the lab may be out of reach.
fn hidden(plan: &Plan) -> u64 {
    let late = |nic: &Nic| if let Nic::Late(seconds) = nic { *seconds } else { 0 };
    let plugged = plan.nics.iter().map(late).max().unwrap_or(0);
    let dhcp = plan.dhcp.silent + u64::from(plan.dhcp.naks) * 10 + plan.dhcp.late.div_ceil(1000) * 4;
    plugged + dhcp + plan.wire.opens_after + 20
}

/// What a server may cost an attempt, for files of that many KiB.
fn spent_on(server: Server, kib: u64) -> u64 {
    // A first question 30 s, and each of the other small files 20 s.
    const SMALL_FILES: u64 = 30 + 4 * 20;
    match server {
        Server::Stalls(bytes) => SMALL_FILES + 20 * (kib * 1024).div_ceil(bytes) + 6 * 20,
        Server::Hesitates(seconds) => SMALL_FILES + 40 * seconds,
        Server::Drips(seconds) => SMALL_FILES + 2 * seconds,
        Server::Restarts(seconds) => SMALL_FILES + 4 * seconds,
        _ => SMALL_FILES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Dhcp, Wire};

    fn plan(servers: &[Server]) -> Plan {
        Plan {
            memory: 256,
            clock: Clock::Right,
            nics: vec![Nic::Silent, Nic::Lab],
            is_v6: false,
            dhcp: Dhcp::default(),
            wire: Wire::default(),
            flap: None,
            servers: servers.to_vec(),
            damage: None,
            program: Program::Payload(4),
            is_packed: false,
        }
    }

    fn refuses(plan: &Plan) -> Vec<&'static str> {
        let expected = Expected::of(plan);
        assert_eq!(expected.outcome, Outcome::Refuses);
        expected.reasons.into_iter().collect()
    }

    #[test]
    fn one_good_server_among_bad_ones_is_enough() {
        let servers = [Server::Dead, Server::Flips(Part::Blobs), Server::Slow(64)];
        assert_eq!(Expected::of(&plan(&servers)).outcome, Outcome::Boots);
    }

    #[test]
    fn a_server_that_has_only_a_part_refuses_for_what_it_lacks() {
        assert_eq!(refuses(&plan(&[Server::Dead, Server::Html])), ["no-server"]);
        assert_eq!(refuses(&plan(&[Server::Dead, Server::Flips(Part::List)])), ["bad-signature", "io"]);
        assert_eq!(refuses(&plan(&[Server::Status(Part::Blobs, 404), Server::Cuts(0)])), ["io", "not-found"]);
        let parts = [Server::Flips(Part::List), Server::Flips(Part::Blobs)];
        assert_eq!(Expected::of(&plan(&parts)).outcome, Outcome::Either);
    }

    #[test]
    fn what_is_spoilt_for_all_is_refused_by_all() {
        let damaged = Plan { damage: Some(Damage::UnsignedList), ..plan(&[Server::Healthy]) };
        assert_eq!(refuses(&damaged), ["missing-signature"]);
        let late = Plan { clock: Clock::Ahead(400), ..plan(&[Server::Healthy]) };
        assert_eq!(refuses(&late), ["expired"]);
    }

    #[test]
    fn without_a_path_the_best_card_gives_the_reason() {
        let without = |nics: &[Nic]| refuses(&Plan { nics: nics.to_vec(), ..plan(&[Server::Healthy]) });
        assert_eq!(without(&[Nic::Unplugged, Nic::Unplugged]), ["no-carrier"]);
        assert_eq!(without(&[Nic::Unplugged, Nic::Refusing]), ["no-lease"]);
        assert_eq!(without(&[Nic::Silent, Nic::Elsewhere]), ["no-server"]);
    }

    #[test]
    fn only_the_last_attempt_must_have_seen_a_card_that_comes_late() {
        let late = Plan { nics: vec![Nic::Elsewhere, Nic::Late(11)], ..spoilt() };
        let expected = Expected::of(&late);
        assert!(expected.early.contains(&"no-server") && !expected.reasons.contains("no-server"));
        assert!(Expected::of(&spoilt()).early.is_empty());
    }

    fn spoilt() -> Plan {
        Plan { damage: Some(Damage::LongerBlob), ..plan(&[Server::Healthy]) }
    }
}
