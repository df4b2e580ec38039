//! zstrap's init: from a bare kernel to the program of a signed config.
//!
//! This file is the boot sequence. Each stage takes what the one before has made, and the types leave no other
//! order: there is no file without a `VerifiedList`, and no list without an `Online` and a `NodeConfig`. Every
//! failure comes back here, is explained on every console, and is tried again.
//!
//! After handoff the same program is `zstrap-node`.

mod clock;
mod config;
mod console;
mod debug;
mod disk;
mod download;
mod early;
mod fail;
mod fetch;
mod handoff;
mod http;
mod identity;
mod list;
mod loops;
mod media;
mod modules;
mod mycelium;
mod net;
mod network;
mod node;
mod retry;
mod root;
mod servers;
mod services;
mod signed;
mod sys;
mod transfer;
mod unzstd;
mod watchdog;

use std::ffi::OsStr;
use std::process::ExitCode;

use early::Machine;
use fail::{Failure, Policy, Stage};
use net::handover::Handover;
use network::Online;
use sys::System;
use sys::linux::Linux;
use zstrap_formats::identity::Identity;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let is_node = |name: &OsStr| name.as_encoded_bytes().ends_with(b"zstrap-node");
    // The kernel gives unknown words of its command line to /init as arguments, so the name decides, not they.
    if std::process::id() != 1 || is_node(&name) || name == node::SUPERVISOR {
        return node::run(args);
    }
    boot()
}

fn boot() -> ! {
    let system = Linux;
    let mut machine = early::prepare(&system);
    let policy = Policy::of(&machine.cmdline);
    for attempt in 1.. {
        let failure = attempt_boot(&system, &mut machine);
        watchdog::expect_within(watchdog::WORK);
        failure.explain();
        // What an image or a kernel command line gets wrong stays wrong. And once mounts have moved, this is no longer the
        // initramfs that a new attempt would need: what stands at its paths now was made by others.
        if failure.is_final() {
            policy.end(machine.on_failure);
        }
        policy.wait_or_end(attempt, machine.servers.wait(), machine.on_failure);
    }
    fail::reboot()
}

/// One whole attempt. It returns only when it has failed.
fn attempt_boot(system: &dyn System, machine: &mut Machine) -> Failure {
    watchdog::expect_within(watchdog::WORK);
    watchdog::arm();
    console::stage_begins(Stage::Identity);
    let identity = match identity::load(&machine.cmdline) {
        Ok(identity) => identity,
        Err(error) => return Failure::of(Stage::Identity, error),
    };
    machine.clock.begin(identity.build_time, identity.clock);
    console::set_level(machine.log_level_of(identity.log));
    console::stage_begins(Stage::Network);
    match network::bring_up(system, machine, &identity) {
        Ok(online) => become_program(system, machine, &identity, &online),
        Err(error) => Failure::of(Stage::Network, error),
    }
}

/// From a server that answers to the program of the config.
fn become_program(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    online: &Online,
) -> Failure {
    match stages_at(system, machine, identity, online) {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

fn stages_at(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    online: &Online,
) -> Result<std::convert::Infallible, Failure> {
    console::stage_begins(Stage::Config);
    let config = machine
        .clock
        .corrected(identity, |now| config::obtain(online.servers(), identity, &machine.cmdline, now))
        .map_err(|error| Failure::of(Stage::Config, error))?;
    console::set_level(machine.log_level_of(config.fields().log.or(identity.log)));
    machine.on_failure = config.fields().on_failure;
    console::stage_begins(Stage::List);
    let list = machine
        .clock
        .corrected(identity, |now| list::obtain(online.servers(), identity, &config, now))
        .map_err(|error| Failure::of(Stage::List, error))?;
    console::stage_begins(Stage::Root);
    // Our partition is made or grown; what the root could take from it stays in RAM for now.
    if config.fields().root.size > 0 {
        disk::load_modules(system, &mut machine.modules);
        let found = disk::find(system);
        if let Err(kept) = disk::prepare(system, &config.fields().root, found) {
            log::warn!(target: "disk", "none code={} why=\"{kept}\": this node boots in RAM", fail::Refusal::code(&kept).as_str());
        }
    }
    let root = root::prepare(system, &config, &list).map_err(|error| Failure::of(Stage::Root, error))?;
    console::stage_begins(Stage::Fetch);
    let fetched =
        fetch::files(online.servers(), &list, root).map_err(|error| Failure::of(Stage::Fetch, error))?;
    console::stage_begins(Stage::Handoff);
    let overlay = mycelium::plan(fetched.root().dir(), list.list(), config.fields());
    if overlay.is_some() {
        // Built in, or a module that only the initramfs has.
        machine.modules.load("tun");
    }
    debug::open(system, &mut machine.modules, fetched.root().dir(), list.list(), config.fields());
    let facts = node::facts::gather(machine, identity, online, &config, &list);
    let connection = online.connection();
    let handover = Handover::of(&connection.network, connection.via.as_ref());
    let handover = match online.renewed() {
        Some(newest) => handover.with_lease(newest),
        None => handover,
    };
    let left = handoff::Left { facts: &facts, handover: &handover, overlay: overlay.as_ref() };
    Err(handoff::to_program(system, machine, &fetched, config.fields(), &left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::modules::Modules;
    use crate::sys::fake::{self, Recorder, Site};
    use zstrap_formats::digest::ContentDigest;
    use zstrap_formats::list::List;

    const PROGRAM: &[u8] = b"a program";

    fn machine() -> Machine {
        Machine {
            cmdline: Default::default(),
            kernel: "6.1".to_owned(),
            modules: Modules::default(),
            started: std::time::Instant::now(),
            connected: None,
            clock: Clock::pretended(fake::now().time),
            servers: Default::default(),
            network_attempts: 0,
            on_failure: Default::default(),
        }
    }

    fn site() -> (Site, Identity) {
        let (mut site, mut identity) = fake::site_with_config(fake::CONFIG);
        let list = List::new(vec![fake::file_entry(b"init", ContentDigest::of(PROGRAM))]).expect("valid");
        site.publish(&list.to_text());
        let blob = zstrap_formats::site::blob(&zstrap_formats::digest::sha256(PROGRAM));
        site.insert(&blob, PROGRAM);
        identity.build_time = fake::now().time;
        (site, identity)
    }

    fn boot_from(site: Site, identity: &Identity) -> (&'static str, Recorder) {
        let recorder = Recorder::default();
        let online = Online::pretended(fake::servers(&site), fake::connection());
        let error = stages_at(&recorder, &mut machine(), identity, &online).expect_err("a fake exec fails");
        (error.reason(), recorder)
    }

    #[test]
    fn everything_is_done_in_the_order_of_the_handoff() {
        let (site, identity) = site();
        let (reason, recorder) = boot_from(site, &identity);
        assert_eq!(reason, "exec");
        let calls = recorder.calls();
        let at =
            |call: &str| calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
        let order = [
            at("mount tmpfs /newroot"),
            at("file init"),
            at("copy /init /run/zstrap/bin/zstrap-node"),
            at("mount tmpfs /newroot/tmp"),
            at("move /proc /newroot/proc"),
            at("switch /newroot"),
            at("exec /init"),
        ];
        assert!(order.is_sorted(), "{calls:?}");
        assert_eq!(calls.last().map(String::as_str), Some("exec /init"));
    }

    #[test]
    fn nothing_is_written_when_the_signature_is_bad() {
        let (mut site, identity) = site();
        let name = "demo".parse().expect("a name");
        let arch = zstrap_formats::name::Arch::native().expect("tests run where zstrap runs");
        site.insert(
            &zstrap_formats::site::list(&name, arch, fake::SERIAL),
            b"#mtree\n. type=dir mode=0755\n",
        );
        let (reason, recorder) = boot_from(site, &identity);
        assert_eq!(reason, "bad-signature");
        assert_eq!(recorder.calls(), Vec::<String>::new());
    }

    #[test]
    fn nothing_runs_when_a_file_is_bad() {
        let (mut site, identity) = site();
        site.fault = fake::Fault::Flipped;
        let (reason, recorder) = boot_from(site, &identity);
        assert_eq!(reason, "sha256");
        let calls = recorder.calls();
        assert!(
            !calls.iter().any(|c| c.starts_with("exec") || c.starts_with("switch") || c.starts_with("file"))
        );
    }
}
