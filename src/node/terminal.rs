//! `zstrap-node terminal`: starts ttyd at the address that the overlay has given this node.
//!
//! In: the session that the init has left, and the address of its interface, which is waited for. Out: the packet filter
//! once more, since any service of root may have flushed it, then ttyd in place of this program. Failure: exit code 1 and a line; whoever started it may do so again. No session is one failure of them.
//!
//! ttyd gets the address and not the name of the interface: with a name, ttyd 1.7.7 also listens at 0.0.0.0.

use std::io;
use std::net::Ipv6Addr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::debug::{PORT, SESSION, Session};
use crate::net::nft;

use super::{NODE, environment, read};

/// How often the address is looked for, and the pause between: a minute in all.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
const ADDRESSES: &str = "/proc/net/if_inet6";
/// `IFA_F_TENTATIVE` and `IFA_F_DADFAILED`: nobody can be reached there.
const NOT_USABLE: u8 = 0x48;

/// Runs ttyd; returns only on failure.
pub fn run() -> ExitCode {
    let error = match start() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("zstrap-node: terminal: {error}");
    ExitCode::FAILURE
}

/// What the init has left; only a node with its packet filter has it.
pub fn session() -> io::Result<Session> {
    let text = read(SESSION).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("debug access is off"),
        _ => error,
    })?;
    Ok(serde_json::from_str(&text)?)
}

fn start() -> io::Result<std::convert::Infallible> {
    let session = session()?;
    let address = (0..LOOKS).find_map(|look| {
        if look > 0 {
            std::thread::sleep(PAUSE);
        }
        address(&read(ADDRESSES).unwrap_or_default(), &session.interface)
    });
    let interface = &session.interface;
    let address =
        address.ok_or_else(|| io::Error::other(format!("{interface} has no address of the overlay")))?;
    nft::load(&nft::allow_list(interface, PORT, &session.allow()?))
        .map_err(|error| io::Error::other(format!("loading the packet filter: {error}")))?;
    eprintln!("zstrap-node: terminal: listening at [{address}]:{PORT}");
    Err(Command::new(&session.program)
        .args(arguments(address))
        .env_clear()
        .envs(environment(""))
        .current_dir("/")
        .exec())
}

/// Tried with ttyd 1.7.7: IPv6, one client, which may write, and which comes from a page of this very server.
fn arguments(address: Ipv6Addr) -> Vec<String> {
    let (port, address) = (PORT.to_string(), address.to_string());
    let listen = ["--port", &port, "--ipv6", "--interface", &address];
    let guard = ["--check-origin", "--max-clients", "1", "--writable", NODE, "login"];
    listen.iter().chain(&guard).map(|&word| word.to_owned()).collect()
}

/// The first usable address of the overlay that this interface has: lines of `if_inet6`, proc_net(5).
fn address(table: &str, interface: &str) -> Option<Ipv6Addr> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _index, _prefix, _scope, flags, name] = words[..] else { return None };
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        (name == interface && nft::is_overlay(address) && flags & NOT_USABLE == 0).then_some(address)
    };
    table.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
05010000000000000000000000000009 02 40 00 80     eth0
fe800000000000000000000000000001 03 40 20 80 mycelium
05000000000000000000000000000003 03 40 00 c0 mycelium
06000000000000000000000000000004 03 40 00 80 mycelium
05ab0000000000000000000000000005 03 40 00 80 mycelium
";

    #[test]
    fn ttyd_gets_the_usable_overlay_address_of_the_interface() {
        assert_eq!(address(TABLE, "mycelium"), "5ab::5".parse().ok());
        assert_eq!(address(TABLE, "lo"), None);
        assert_eq!(address("odd\n", "mycelium"), None);
    }
}
