//! `zstrap-node login`: asks for the password of the config, then becomes a shell.
//!
//! In: the session that the init has left, a terminal, and what it says. Out: a shell of root, in place of this program.
//! Every try is said in the kernel log and in the log of the boot, with the addresses that are connected, and never with
//! what was typed. Failure: exit code 1; the terminal says as little as possible.
//!
//! Tries are counted in a file, before the answer is known: who hangs up and comes again waits as long as who stays. The
//! pause doubles with each try in vain, up to a minute, and one that succeeds ends it; their number halves every ten minutes.
//! The packet filter has let in whoever is connected; that they are on the list is looked at again, in case it is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64Unpadded, Encoding as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use zstrap_formats::config::Network;

use crate::console::{BOOT_LOG, KERNEL_LOG, since_boot};
use crate::debug::PORT;

use super::terminal::session;
use super::{environment, read};

/// How often the password may be wrong on one connection.
const TRIES: u32 = 3;
/// How long it may take to type it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection may last without: there is one only, and somebody else may want it.
const LONGEST_LOGIN: Duration = Duration::from_secs(90);
/// How many tries in vain there were and when the last one was; locked by whoever is asked.
const RECORD: &str = "/run/zstrap/login";
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How many tries in vain lead to it.
const LONGEST_PAUSE_AFTER: u32 = 7;
/// After so long, half as many tries count.
const HALVED_AFTER: Duration = Duration::from_secs(600);
/// Who goes first when memory is short: 1000 is before everybody else.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
const LONGEST_PASSWORD: usize = 1024;
const SHELL: &str = "/bin/sh";
/// `<5>` and `<4>` of syslog(2): a notice, a warning.
const NOTICE: u8 = 5;
const WARNING: u8 = 4;
/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` as in /proc/net/tcp: who has said that nothing more comes can still read.
const CONNECTED: [&str; 2] = ["01", "08"];

/// Asks, and runs the shell; returns only without one.
pub fn run() -> ExitCode {
    let error = match admit() {
        Ok(()) => shell(),
        Err(error) => error,
    };
    eprintln!("zstrap-node: login: {error}");
    ExitCode::FAILURE
}

fn admit() -> io::Result<()> {
    let end = since_boot() + LONGEST_LOGIN;
    let session = session()?;
    if !are_allowed(&connected(), &session.allow()?) {
        say(WARNING, "refused reason=not-allowed");
        return Err(io::Error::other("somebody is connected who is not on the list"));
    }
    let hash = Hash::parse(&session.password_hash)?;
    let mut record = Record::lock(Path::new(RECORD), since_boot())?;
    for _ in 0..TRIES {
        pause(record.pause(since_boot()), end)?;
        let Some(password) = ask(end.saturating_sub(since_boot()))? else {
            say(WARNING, "ended without a password");
            return Err(io::Error::other("no password"));
        };
        let failures = record.begin(since_boot())?;
        if as_first_to_go(Path::new(OOM_SCORE), || hash.matches(&password))? {
            record.end()?;
            say(NOTICE, "accepted");
            return Ok(());
        }
        let pause = pause_after(failures).as_secs();
        say(WARNING, &format!("refused reason=wrong-password failures={failures} pause={pause}s"));
        eprintln!("wrong password");
    }
    Err(io::Error::other("too many tries"))
}

fn pause(pause: Duration, end: Duration) -> io::Result<()> {
    if !pause.is_zero() {
        writeln!(io::stderr(), "next try in {} s", pause.as_secs() + 1)?;
        if since_boot() + pause >= end {
            return Err(io::Error::other("connect again then"));
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Does something that takes much memory: where there is too little, this program ends and not a service. `score` is a file
/// of proc(5).
fn as_first_to_go<T>(score: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = std::fs::read(score)?;
    std::fs::write(score, "1000")?;
    let done = work();
    // A shell is no reason to go first.
    std::fs::write(score, before)?;
    done
}

/// The shell of the bundle, as a login shell: it reads /etc/profile.
fn shell() -> io::Error {
    let home = if Path::new("/root").is_dir() { "/root" } else { "/" };
    let terminal = std::env::var("TERM").unwrap_or_default();
    Command::new(SHELL).arg0("-sh").env_clear().envs(environment(&terminal)).current_dir(home).exec()
}

/// What was typed, without its end of line; nothing when nobody answers.
fn ask(left: Duration) -> io::Result<Option<Vec<u8>>> {
    let terminal = io::stdin();
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes -= LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK;
    // What was typed before the question is no answer to it.
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    io::stderr().write_all(b"password: ")?;
    let mut line = [0; LONGEST_PASSWORD];
    let seconds = i64::try_from(left.min(PATIENCE).as_secs()).unwrap_or(0);
    let patience = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let is_there = poll(&mut [PollFd::new(&terminal, PollFlags::IN)], Some(&patience))? > 0;
    let length = if is_there { rustix::io::read(&terminal, &mut line)? } else { 0 };
    tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    io::stderr().write_all(b"\n")?;
    // Without an end of line it was longer, or the terminal is gone.
    Ok(line[..length].strip_suffix(b"\n").map(<[u8]>::to_vec))
}

/// The parts of `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`, as `Config` has checked them.
struct Hash {
    params: Params,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Hash {
    fn parse(text: &str) -> io::Result<Self> {
        Self::parts(text).ok_or_else(|| io::Error::other("the password hash of the config is damaged"))
    }

    fn parts(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "argon2id", "v=19", costs, salt, hash] = parts[..] else { return None };
        let costs = costs.split(',').map(|cost| cost.split_once('=')?.1.parse().ok());
        let [memory, passes, lanes]: [u32; 3] = costs.collect::<Option<Vec<_>>>()?.try_into().ok()?;
        let (salt, hash) = (Base64Unpadded::decode_vec(salt).ok()?, Base64Unpadded::decode_vec(hash).ok()?);
        let params = Params::new(memory, passes, lanes, Some(hash.len())).ok()?;
        Some(Self { params, salt, hash })
    }

    fn matches(&self, password: &[u8]) -> io::Result<bool> {
        let mut found = vec![0; self.hash.len()];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
            .hash_password_into(password, &self.salt, &mut found)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(is_equal(&found, &self.hash))
    }
}

/// In a time that does not tell where they differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let differ =
        one.iter().zip(other).fold(0, |differ, (one, other)| std::hint::black_box(differ | (one ^ other)));
    one.len() == other.len() && differ == 0
}

/// Tries in vain, and when the last was, in milliseconds since the kernel started.
struct Record {
    file: File,
    failures: u32,
    last: Duration,
}

impl Record {
    fn lock(path: &Path, now: Duration) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => io::Error::other("somebody else is just being asked"),
            errno => errno.into(),
        })?;
        let mut text = [0; 64];
        let length = file.read_at(&mut text, 0)?;
        let (failures, last) = match parse(&text[..length]) {
            Some((failures, last)) => {
                let halvings = now.saturating_sub(last).as_secs() / HALVED_AFTER.as_secs();
                let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
                (failures.checked_shr(halvings).unwrap_or(0), last)
            }
            None if length == 0 => (0, Duration::ZERO),
            // Whoever was able to damage it has no advantage of that.
            None => (LONGEST_PAUSE_AFTER, now),
        };
        Ok(Self { file, failures, last })
    }

    /// How long the next try has to wait.
    fn pause(&self, now: Duration) -> Duration {
        pause_after(self.failures).saturating_sub(now.saturating_sub(self.last))
    }

    /// Counts a try as one in vain until it ends well. The number of those is the answer.
    fn begin(&mut self, now: Duration) -> io::Result<u32> {
        (self.failures, self.last) = (self.failures.saturating_add(1), now);
        self.write()?;
        Ok(self.failures)
    }

    fn end(&mut self) -> io::Result<()> {
        self.failures = 0;
        self.write()
    }

    /// In one call and always as long, so that neither a signal nor a full /run leaves less than there was.
    fn write(&mut self) -> io::Result<()> {
        let text = format!("{:10} {:20}\n", self.failures, self.last.as_millis());
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

fn parse(text: &[u8]) -> Option<(u32, Duration)> {
    let mut words = std::str::from_utf8(text).ok()?.split_whitespace();
    let (failures, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((failures, Duration::from_millis(last)))
}

/// 1, 2, 4 … 60 seconds.
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(before) => Duration::from_secs(1u64.checked_shl(before).unwrap_or(u64::MAX)).min(LONGEST_PAUSE),
    }
}

/// One line to the kernel log and to that of the boot. A log that cannot be written keeps nobody out.
fn say(priority: u8, text: &str) {
    let from: Vec<String> = connected().iter().map(IpAddr::to_string).collect();
    let from = if from.is_empty() { "unknown".to_owned() } else { from.join(",") };
    let kernel_log = OpenOptions::new().write(true).open(KERNEL_LOG);
    let _ = kernel_log.and_then(|mut log| {
        log.write_all(format!("<{priority}>zstrap: login: {text} from={from}\n").as_bytes())
    });
    let at = since_boot().as_secs_f64();
    let boot_log = OpenOptions::new().append(true).open(BOOT_LOG);
    let _ = boot_log
        .and_then(|mut log| log.write_all(format!("[{at:8.3}] login: {text} from={from}\n").as_bytes()));
}

/// Who is connected to ttyd now. It does not say which of them is typing, but it has one client only.
fn connected() -> Vec<IpAddr> {
    peers(&read("/proc/net/tcp6").unwrap_or_default(), &read("/proc/net/tcp").unwrap_or_default())
}

/// One of them is typing, so each has to be on the list; that nobody is there is no answer to who types.
fn are_allowed(peers: &[IpAddr], allow: &[Network]) -> bool {
    let is_allowed = |peer: &IpAddr| allow.iter().any(|network| network.contains(*peer));
    !peers.is_empty() && peers.iter().all(is_allowed)
}

fn peers(tcp6: &str, tcp4: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = tcp6.lines().chain(tcp4.lines()).filter_map(peer).collect();
    found.sort();
    found.dedup();
    found
}

/// The other end of a connection of [`PORT`]: a line of /proc/net/tcp or tcp6, whose addresses are words of 32 bits as
/// they lie in memory.
fn peer(line: &str) -> Option<IpAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, remote, state, ..] = words[..] else { return None };
    if !CONNECTED.contains(&state) || u16::from_str_radix(local.split_once(':')?.1, 16).ok()? != PORT {
        return None;
    }
    let digits = remote.split_once(':')?.0.as_bytes();
    let word =
        |word: &[u8]| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes);
    let bytes: Vec<u8> = digits.chunks(8).map(word).collect::<Option<Vec<_>>>()?.concat();
    let v4 = |bytes: [u8; 4]| IpAddr::from(bytes);
    let v6 = |bytes: [u8; 16]| IpAddr::from(bytes);
    let address = <[u8; 16]>::try_from(bytes.as_slice()).map(v6);
    address.or_else(|_| bytes.try_into().map(v4)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Made with the reference implementation: `printf 'correct horse' | argon2 somesaltsomesalt -id -t 2 -k 19456 -p 1 -l 24 -e`.
    const REFERENCE: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$Be/rDk3EobsySwn8jVF6OTlDb6W1shFg";

    #[test]
    fn hashes_of_the_reference_implementation_are_matched() {
        let hash = Hash::parse(REFERENCE).unwrap();
        assert!(hash.matches(b"correct horse").unwrap());
        assert!(!hash.matches(b"correct horsf").unwrap());
        assert!(!hash.matches(b"").unwrap());
    }

    #[test]
    fn what_differs_in_length_is_not_equal() {
        assert!(is_equal(b"ab", b"ab"));
        assert!(!is_equal(b"ab", b"a"));
        assert!(!is_equal(b"ab", b"ac"));
    }

    #[test]
    fn pauses_grow_and_end_at_a_minute() {
        let pauses: Vec<u64> =
            [0, 1, 2, 3, 6, 7, 64, 65, u32::MAX].map(|n| pause_after(n).as_secs()).to_vec();
        assert_eq!(pauses, [0, 1, 2, 4, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn hanging_up_does_not_shorten_the_pause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        let mut record = Record::lock(&path, SECOND).unwrap();
        assert_eq!(record.pause(SECOND), Duration::ZERO);
        assert_eq!((record.begin(SECOND).unwrap(), record.begin(2 * SECOND).unwrap()), (1, 2));
        assert!(Record::lock(&path, SECOND).is_err());
        // The connection is gone before its answer.
        drop(record);
        let mut record = Record::lock(&path, SECOND).unwrap();
        assert_eq!((record.pause(2 * SECOND), record.pause(3 * SECOND)), (2 * SECOND, SECOND));
        assert_eq!(record.pause(9 * SECOND), Duration::ZERO);
        record.end().unwrap();
        drop(record);
        assert_eq!(Record::lock(&path, SECOND).unwrap().pause(2 * SECOND), Duration::ZERO);
    }

    #[test]
    fn a_damaged_record_counts_as_the_longest_pause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        for damaged in ["x y z", "1", "1 ", "4294967296 0", "\u{0}"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Record::lock(&path, SECOND).unwrap().pause(SECOND), LONGEST_PAUSE, "{damaged:?}");
        }
        assert_eq!(pause_after(LONGEST_PAUSE_AFTER), LONGEST_PAUSE);
        assert!(pause_after(LONGEST_PAUSE_AFTER - 1) < LONGEST_PAUSE);
    }

    #[test]
    fn a_record_never_gets_shorter_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        let mut record = Record::lock(&path, SECOND).unwrap();
        for (failures, now) in [(0, SECOND), (u32::MAX, Duration::from_secs(u64::MAX / 1000)), (0, SECOND)] {
            record.failures = failures;
            record.begin(now).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 32);
        }
    }

    #[test]
    fn tries_in_vain_count_half_after_ten_minutes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        let mut record = Record::lock(&path, SECOND).unwrap();
        record.failures = 11;
        record.begin(SECOND).unwrap();
        drop(record);
        let failures = |minutes: u32| Record::lock(&path, SECOND + 60 * minutes * SECOND).unwrap().failures;
        assert_eq!([0, 9, 10, 20, 40, 100_000].map(failures), [12, 12, 6, 3, 0, 0]);
    }

    #[test]
    fn nobody_waits_longer_than_a_login_may_take() {
        let end = since_boot() + 5 * SECOND;
        assert!(pause(Duration::ZERO, end).is_ok());
        assert_eq!(pause(60 * SECOND, end).unwrap_err().to_string(), "connect again then");
    }

    #[test]
    fn hashing_is_the_first_to_go_and_the_shell_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let score = folder.path().join("oom_score_adj");
        std::fs::write(&score, "-5\n").unwrap();
        let text = || std::fs::read_to_string(&score);
        assert_eq!(as_first_to_go(&score, text).unwrap(), "1000");
        assert_eq!(text().unwrap(), "-5\n");
        assert!(as_first_to_go(&score, || Err::<(), _>(io::Error::other("no memory"))).is_err());
        assert_eq!(text().unwrap(), "-5\n");
    }

    #[test]
    fn everybody_who_is_connected_has_to_be_on_the_list() {
        let allow: Vec<Network> = ["400:1::2", "500:2::/64"].map(|network| network.parse().unwrap()).to_vec();
        let are_allowed = |peers: &[&str]| {
            are_allowed(&peers.iter().map(|peer| peer.parse().unwrap()).collect::<Vec<_>>(), &allow)
        };
        assert!(are_allowed(&["400:1::2"]) && are_allowed(&["400:1::2", "500:2::3"]));
        assert!(!are_allowed(&["400:1::4"]) && !are_allowed(&["400:1::2", "400:1::4"]));
        assert!(!are_allowed(&[]));
    }

    #[test]
    fn the_log_names_who_is_connected() {
        // The same as the kernel would print it on a machine of this byte order.
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let local = format!("{}:1E01", word([4, 0, 0, 1]).repeat(4));
        let remote = [[4, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]].map(word).concat();
        let line = |state: &str| format!("   0: {local} {remote}:C001 {state} 00000000:00000000\n");
        let peers = |tcp6: &str, tcp4: &str| -> Vec<String> {
            peers(tcp6, tcp4).iter().map(IpAddr::to_string).collect()
        };
        assert_eq!(peers(&line("01"), ""), ["400:1::2"]);
        assert_eq!(peers(&line("08"), ""), ["400:1::2"]);
        assert_eq!(peers(&line("0A"), "  sl  local_address rem_address   st\n"), [""; 0]);
        // A connection that is only asked for, as everybody can.
        assert_eq!(peers(&line("03"), ""), [""; 0]);
        let four = format!("   1: {}:1E01 {}:C002 01 \n", word([10, 0, 0, 1]), word([10, 0, 0, 2]));
        assert_eq!(peers(&line("01"), &four), ["10.0.0.2", "400:1::2"]);
    }
}
