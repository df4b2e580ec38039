//! zstrap's init: from a bare kernel to the program of a signed config.
//!
//! This file is the boot sequence. Each stage takes what the one before has made, and the types leave no other
//! order: there is no file without a `VerifiedList`, and no list without an `Online` and a `NodeConfig`. Every
//! failure comes back here, is explained on every console, and is tried again.
//!
//! After handoff the same program is `zstrap-node`.

mod cache;
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

use std::convert::Infallible;
use std::ffi::OsStr;
use std::process::ExitCode;

use cache::{Cache, Keep};
use config::NodeConfig;
use console::status;
use early::Machine;
use fail::{Chain, Failure, Policy, Stage};
use fetch::Fetched;
use list::VerifiedList;
use net::handover::Handover;
use network::Online;
use servers::Servers;
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
    machine.keep.look(system, &mut machine.modules, &identity);
    console::stage_begins(Stage::Network);
    match network::bring_up(system, machine, &identity) {
        Ok(online) => become_program(system, machine, &identity, online),
        Err(error) => {
            let why = Failure::of(Stage::Network, error);
            become_last_good(system, machine, &identity, (None, None), why)
        }
    }
}

/// From a server that answers to the program of the config; if that fails, to the one that the disk has.
fn become_program(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    online: Online,
) -> Failure {
    let config = match obtain_config(machine, identity, &online) {
        Ok(config) => config,
        Err(why) => return become_last_good(system, machine, identity, (Some(online), None), why),
    };
    match stages_at(system, machine, identity, &online, &config) {
        Err(why) => become_last_good(system, machine, identity, (Some(online), Some(config)), why),
        Ok(never) => match never {},
    }
}

/// What the disk has, if it has something, since what the servers have cannot be booted. A config that they have is the
/// newest all the same: it holds, too, if the disk has its bundle, and bounds an older one if not.
fn become_last_good(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    (online, config): (Option<Online>, Option<NodeConfig>),
    why: Failure,
) -> Failure {
    let Some(cache) = machine.keep.shared().filter(|cache| cache.has_config()) else { return why };
    if why.is_final() {
        return why;
    }
    why.explain_briefly();
    let disk = Servers::of_sources(vec![cache.clone()], &machine.servers);
    let online = match online {
        Some(online) => online.with_disk(disk),
        None => network::without_server(system, machine, identity, disk),
    };
    match last_good(system, machine, identity, (&online, config), &cache, why.reason()) {
        Ok(never) => match never {},
        Err(second) if second.is_final() => second,
        // It is the servers that somebody will repair.
        Err(second) => {
            second.explain_briefly();
            why
        }
    }
}

fn last_good(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    (online, newest): (&Online, Option<NodeConfig>),
    cache: &Cache,
    why: &str,
) -> Result<Infallible, Failure> {
    let config = match newest {
        Some(config) if cache.has_list(config.bundle()) => config,
        Some(newer) => {
            let older = obtain_config(machine, identity, online)?;
            older.within(&newer).map_err(|error| Failure::of(Stage::Config, error))?
        }
        None => obtain_config(machine, identity, online)?,
    };
    log::warn!(target: "boot", "from disk config={} why={why}", config.serial());
    status::fact("source", format!("the disk, as the servers failed: {why}"));
    stages_at(system, machine, identity, online, &config)
}

fn obtain_config(machine: &mut Machine, identity: &Identity, online: &Online) -> Result<NodeConfig, Failure> {
    console::stage_begins(Stage::Config);
    let (cache, cmdline) = (machine.keep.cache(), &machine.cmdline);
    let obtain = |now| config::obtain(online.servers(), identity, cmdline, online.terms(now, cache));
    let config = machine.clock.corrected(identity, obtain);
    let config = config.map_err(|error| Failure::of(Stage::Config, error))?;
    console::set_level(machine.log_level_of(config.fields().log.or(identity.log)));
    machine.on_failure = config.fields().on_failure;
    Ok(config)
}

fn stages_at(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    online: &Online,
    config: &NodeConfig,
) -> Result<Infallible, Failure> {
    console::stage_begins(Stage::List);
    let cache = machine.keep.cache();
    let late = config.fields().root.offline_grace;
    let terms = |now| online.terms(now, cache).at_most(late);
    let list = machine
        .clock
        .corrected(identity, |now| list::obtain(online.servers(), identity, config, terms(now)))
        .map_err(|error| Failure::of(Stage::List, error))?;
    let fetched = fetched(system, machine, identity, online, config, &list)?;
    console::stage_begins(Stage::Handoff);
    let overlay = mycelium::plan(fetched.root().dir(), list.list(), config.fields());
    if overlay.is_some() {
        // Built in, or a module that only the initramfs has.
        machine.modules.load("tun");
    }
    let debug = debug::open(system, &mut machine.modules, fetched.root().dir(), list.list(), config.fields());
    let mut facts =
        node::facts::gather(machine, identity, online, (config, &list), fetched.root().is_on_disk());
    facts.insert("debug".to_owned(), if debug { "on" } else { "off" }.to_owned());
    let connection = online.connection();
    let handover = Handover::of(&connection.network, connection.via.as_ref());
    let handover = match online.renewed() {
        Some(newest) => handover.with_lease(newest),
        None => handover,
    };
    let left = handoff::Left { facts: &facts, handover: &handover, overlay: overlay.as_ref() };
    Err(handoff::to_program(system, machine, &fetched, config.fields(), &left))
}

/// The root with its files. A disk that fails while it is filled is no reason not to boot: then the root is in RAM.
fn fetched(
    system: &dyn System,
    machine: &mut Machine,
    identity: &Identity,
    online: &Online,
    config: &NodeConfig,
    list: &VerifiedList,
) -> Result<Fetched, Failure> {
    let (is_offline, keep) = (online.is_from_disk(), &mut machine.keep);
    let fill = |root| fetch::files(system, online.servers(), list, root);
    console::stage_begins(Stage::Root);
    let root = root::prepare(system, identity, config, list, (keep, &mut machine.modules), is_offline);
    let root = root.map_err(|error| Failure::of(Stage::Root, error))?;
    let is_on_disk = root.is_on_disk();
    console::stage_begins(Stage::Fetch);
    let filled = fill(root).and_then(|fetched| settled(keep, fetched));
    let fetched = match filled {
        Err(error) if is_on_disk && error.is_of_root() => {
            root::in_ram_because(keep, Chain(&error).to_string());
            let root = root::in_ram(system, config, list).map_err(|error| Failure::of(Stage::Root, error))?;
            fill(root)
        }
        filled => filled,
    };
    let fetched = fetched.map_err(|error| Failure::of(Stage::Fetch, error))?;
    if !is_offline {
        keep_version(keep, config, list, &fetched);
    }
    Ok(fetched)
}

/// What was fetched to the disk must be there before it is run: what the disk did not take is in memory for now, and then
/// something else.
fn settled(keep: &Keep, fetched: Fetched) -> Result<Fetched, fetch::Error> {
    let settled = match keep.cache().filter(|_| fetched.root().has_new_contents()) {
        Some(cache) => cache.settle(),
        None => Ok(()),
    };
    let refused = |source| fetch::Error::Write { path: "what was fetched".to_owned(), source };
    settled.map_err(refused).map(|()| fetched)
}

/// From now on this version is the one of the disk, if it is there; if not, it is one that this node has seen.
fn keep_version(keep: &Keep, config: &NodeConfig, list: &VerifiedList, fetched: &Fetched) {
    let Some(cache) = keep.cache() else { return };
    let kept = match fetched.root().is_on_disk() {
        true => cache.commit(config, list),
        false => cache.remember(config, list),
    };
    if let Err(error) = kept {
        log::warn!(target: "cache", "this version is not kept: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::sys::fake::{self, Recorder, Site};
    use zstrap_formats::digest::ContentDigest;
    use zstrap_formats::list::List;

    const PROGRAM: &[u8] = b"a program";

    fn machine() -> Machine {
        Machine { clock: Clock::pretended(fake::now().time), ..Machine::pretended() }
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
        let error = become_program(&recorder, &mut machine(), identity, online);
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
