//! The program that lives on after handoff: `zstrap-node`.
//!
//! In: arguments. Out: facts on standard output, or, as PID 1, the supervised program until the machine ends.
//! Exit codes: 0 done, 1 failed, 2 usage.

pub mod facts;
pub mod lease;
pub mod login;
pub mod supervise;
pub mod terminal;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use facts::{FACTS, Facts};

use crate::console::BOOT_LOG;
use crate::handoff::PATH;

/// Where the program stands in the new root.
pub const NODE: &str = "/run/zstrap/bin/zstrap-node";
/// The same program under the name by which `zinit poweroff` and `zinit reboot` know a PID 1 that takes their
/// signals: they look for `zinit` in the target of `/proc/1/exe`.
pub const SUPERVISOR: &str = "/run/zstrap/bin/zinit-supervisor";

const USAGE: &str = "\
usage: zstrap-node info                 all facts of this boot, as JSON
       zstrap-node get NAME             one of them, such as farmer_id
       zstrap-node log                  the log of this boot
       zstrap-node lease [--log quiet|normal|debug]
                                        keep the network of this boot: renew
                                        the lease, follow what changes
       zstrap-node terminal             start ttyd where the overlay has its
                                        address: a debug session
       zstrap-node login                ask for the password of debug
                                        sessions, then give a shell
       zstrap-node supervise [--grace SECONDS] [--log quiet|normal|debug]
                             [--watchdog SECONDS] -- PROGRAM [ARGUMENT…]
                                        run PROGRAM as PID 1 does: reap,
                                        restart, pass on power-off and reboot
";

/// Runs one command of `zstrap-node`.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("\u{fffd}")).collect();
    let result = match words[..] {
        ["info"] => read_facts().map(|facts| facts::to_json(&facts)),
        ["get", name] => get(name),
        ["log"] => read(BOOT_LOG),
        ["lease", ..] => return lease::run(&args[1..]),
        ["terminal"] => return terminal::run(),
        ["login"] => return login::run(),
        ["supervise", ..] => return supervise::run(&args[1..]),
        ["-h" | "--help" | "help"] => Ok(USAGE.to_owned()),
        _ => {
            let _ = io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match result.and_then(|text| io::stdout().write_all(text.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "zstrap-node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_facts() -> io::Result<Facts> {
    serde_json::from_str(&read(FACTS)?).map_err(|error| named(FACTS, error.into()))
}

fn read(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path).map_err(|error| named(path, error))
}

/// What a session of root has in its environment, and nothing of whoever opened it. An odd terminal is a plain one.
fn environment(terminal: &str) -> [(&'static str, String); 6] {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
    let is_good = (1..=64).contains(&terminal.len()) && terminal.bytes().all(is_plain);
    let terminal = if is_good { terminal } else { "linux" };
    let words = ["/root", PATH, terminal, "root", "root", "/bin/sh"].map(str::to_owned);
    let [home, path, terminal, user, name, shell] = words;
    [("HOME", home), ("PATH", path), ("TERM", terminal), ("USER", user), ("LOGNAME", name), ("SHELL", shell)]
}

fn named(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("reading {path}: {error}"))
}

fn get(name: &str) -> io::Result<String> {
    let facts = read_facts()?;
    match facts.get(name) {
        Some(value) => Ok(format!("{value}\n")),
        None => {
            let known = facts.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
            Err(io::Error::other(format!("no fact {name}; known: {known}")))
        }
    }
}
