//! The program that test machines boot into: it reports the world that a handoff made for it.
//!
//! In: whatever the kernel and the init left behind (descriptors, signals, mounts, environment, files).
//! Out: `payload: KEY=VALUE` lines on standard output, `payload: end` last; then the machine is powered off.
//! Words on the kernel command line have it do more before that: with `zstrap.payload=dump` it writes the root to a disk,
//! with `zstrap.payload=fill` it fills the state directory first. With `zstrap.payload=wait` it stays instead of switching
//! off, so that a test can look around.
//! Failure: a fact that can't be read is reported as `KEY=error: …`; the report always reaches its end.
//!
//! `main` is the C one: Rust's own start-up code would ignore SIGPIPE, open missing descriptors and install
//! signal handlers before the first line ran, and the report would describe that instead of the handoff.
#![no_main]

mod dump;

use std::ffi::c_int;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::system::RebootCommand;

/// Where a handoff leaves the program that answers questions about the node.
const NODE: &str = "/run/zstrap/bin/zstrap-node";

/// The word on the kernel command line that keeps the payload running.
const WAIT: &str = "zstrap.payload=wait";
/// The one that has it write the root to a disk.
const DUMP: &str = "zstrap.payload=dump";
/// The one that has it fill the state directory.
const FILL: &str = "zstrap.payload=fill";

/// The one place that keeps what is written there.
const STATE: &str = "/var/lib/zstrap-state";

/// A report: keys may repeat, order is kept.
type Facts = Vec<(String, String)>;

// SAFETY: the only definition of `main` in this program, with the signature that the C start-up code calls;
// the arguments are not touched, they are read from /proc instead.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const u8) -> c_int {
    ensure_proc();
    for (key, value) in report() {
        say(&format!("{key}={value}"));
    }
    let cmdline = read("/proc/cmdline");
    let is_told = |word: &str| cmdline.split_whitespace().any(|said| said == word);
    if is_told(FILL) {
        let filled = fill();
        say(&format!("filled={}", filled.map_or_else(error, |bytes| format!("{bytes} bytes"))));
    }
    if is_told(DUMP) {
        say(&format!("dump={}", dump::root().map_or_else(error, |count| format!("{count} members"))));
    }
    say("end");
    if is_told(WAIT) {
        say("waiting");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    power_off()
}

/// Most of the report stands in /proc. A handoff mounts it; where the payload is the `/init` of an initramfs
/// nobody did, so it does it itself, and says so.
fn ensure_proc() {
    if Path::new("/proc/self").exists() {
        return;
    }
    let made = fs::create_dir_all("/proc").and_then(|()| {
        Ok(rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None)?)
    });
    say(&format!("proc={}", made.map_or_else(error, |()| "mounted by the payload".to_owned())));
}

/// Everything the payload knows, in the order of the report. The descriptors come first: later steps open more.
fn report() -> Facts {
    let mut facts = descriptors();
    facts.extend(process());
    facts.extend(signals());
    facts.extend(environment());
    facts.extend(lines("mount", &read("/proc/mounts")));
    facts.extend(filesystem());
    facts.extend(network());
    facts.extend(lines("dns", &read("/run/zstrap/resolv.conf")));
    facts.push(fact("clock", clock()));
    facts.push(fact("tree", tree()));
    facts.extend(memory());
    facts.extend(disks());
    facts.extend(node());
    facts
}

/// One line to standard output; a console that is gone must not stop the report.
fn say(text: &str) {
    let line: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    // Ignored on purpose: there is no other place to complain to.
    let _ = writeln!(std::io::stdout().lock(), "payload: {line}");
}

/// The open descriptors as `fd=N -> TARGET`, without the one that lists them.
fn descriptors() -> Facts {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return vec![fact("fd", "error: /proc/self/fd can't be read")];
    };
    let mut found: Vec<(u32, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
        })
        .filter(|(_, target)| !(target.starts_with("/proc/") && target.ends_with("/fd")))
        .collect();
    found.sort();
    found.into_iter().map(|(number, target)| fact("fd", format!("{number} -> {target}"))).collect()
}

fn process() -> Facts {
    let argv = read("/proc/self/cmdline");
    let argv: Vec<&str> = argv.trim_end_matches('\0').split('\0').collect();
    vec![
        fact("pid", std::process::id()),
        fact("ppid", rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get())),
        fact("uid", rustix::process::geteuid().as_raw()),
        fact("argv", format!("{argv:?}")),
        fact("cwd", std::env::current_dir().map_or_else(error, |path| path.display().to_string())),
        fact("hostname", rustix::system::uname().nodename().to_string_lossy()),
    ]
}

/// The signal masks of /proc/self/status, in the kernel's hexadecimal.
fn signals() -> Facts {
    let status = read("/proc/self/status");
    let masks = status.lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"));
    masks.filter_map(|line| line.split_once(':')).map(|(key, value)| fact(key, value.trim())).collect()
}

fn environment() -> Facts {
    let mut pairs: Vec<_> = std::env::vars_os().collect();
    pairs.sort();
    let show = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        fact("env", format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
    };
    pairs.into_iter().map(show).collect()
}

fn filesystem() -> Facts {
    let mut facts: Facts = names("/").into_iter().map(|name| fact("root", name)).collect();
    facts.extend(names("/lib/modules").into_iter().map(|name| fact("modules", name)));
    facts.extend(lines("resolv", &read("/etc/resolv.conf")));
    facts.extend(lines("hosts", &read("/etc/hosts")));
    facts
}

/// Each disk with its size in units of 512 bytes, its logical sectors, whether it is read-only, removable, and its names.
fn disks() -> Facts {
    let folder = "/sys/block";
    let of = |disk: &String, what: &str| {
        let bytes = fs::read(format!("{folder}/{disk}/{what}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    };
    let show = |disk: &String| {
        let [size, sector, ro, removable] =
            ["size", "queue/logical_block_size", "ro", "removable"].map(|what| of(disk, what));
        // Of SCSI, the serial number stands in a page behind a header.
        let serial = ["serial", "device/serial", "device/vpd_pg80"].map(|what| of(disk, what)).concat();
        let wwid = ["wwid", "device/wwid"].map(|what| of(disk, what)).concat();
        let line = format!("{disk} size={size} sector={sector} ro={ro} removable={removable}");
        fact("disk", format!("{line} serial={serial} wwid={wwid}"))
    };
    names(folder).iter().map(show).collect()
}

/// Each link with its MTU, the bond's working leg, our addresses, and IPv4 routes.
fn network() -> Facts {
    let folder = "/sys/class/net";
    let links = names(folder);
    let of =
        |link: &String, what: &str| format!("{link} {}", read(&format!("{folder}/{link}/{what}")).trim());
    let mut facts: Facts = links.iter().map(|link| fact("mtu", of(link, "mtu"))).collect();
    let bonds = links.iter().filter(|link| Path::new(&format!("{folder}/{link}/bonding")).exists());
    facts.extend(bonds.map(|bond| fact("bond", of(bond, "bonding/active_slave"))));
    facts.extend(addresses4(&read("/proc/net/fib_trie")).into_iter().map(|address| fact("address", address)));
    facts.extend(addresses6(&read("/proc/net/if_inet6")).into_iter().map(|address| fact("address", address)));
    facts.extend(read("/proc/net/route").lines().skip(1).filter_map(route).map(|route| fact("route", route)));
    facts
}

/// The local addresses of /proc/net/fib_trie: each stands in a line of its own, `/32 host LOCAL` in the next.
fn addresses4(trie: &str) -> Vec<String> {
    let lines: Vec<&str> = trie.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let mut found: Vec<String> =
        local.filter_map(|pair| pair[0].strip_prefix("|-- ")).map(str::to_owned).collect();
    found.sort();
    // The trie stands there once for each table.
    found.dedup();
    found
}

/// /proc/net/if_inet6: 32 hexadecimal digits, the index, the prefix, the scope, flags, the name.
fn addresses6(table: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = std::net::Ipv6Addr::from(u128::from_str_radix(words.first()?, 16).ok()?);
        let prefix = u8::from_str_radix(words.get(2)?, 16).ok()?;
        Some(format!("{address}/{prefix} {}", words.last()?))
    };
    table.lines().filter_map(line).collect()
}

/// A line of /proc/net/route as `DESTINATION/MASK via GATEWAY LINK`; its numbers are as they lie in memory.
fn route(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = |place: usize| {
        let number = u32::from_str_radix(words.get(place)?, 16).ok()?;
        Some(std::net::Ipv4Addr::from(number.to_ne_bytes()))
    };
    Some(format!("{}/{} via {} {}", address(1)?, address(7)?, address(2)?, words.first()?))
}

/// Seconds since 1970.
fn clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The regular files of the root filesystem itself, without what is mounted on it: how many, how many bytes, and
/// the FNV-1a hash over name, NUL and content of each, in bytewise order. A test that knows the tree knows these.
fn tree() -> String {
    let mut files = Vec::new();
    let Ok(device) = fs::metadata("/").map(|root| root.dev()) else {
        return "error: / can't be read".to_owned();
    };
    collect(Path::new("/"), device, &mut files);
    // Bytewise: paths compare by their parts otherwise.
    files.sort_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    let (mut bytes, mut hash) = (0, 0xcbf2_9ce4_8422_2325);
    for file in &files {
        hash = fnv(fnv(hash, file.as_os_str().as_bytes()), &[0]);
        let read = each_piece(file, |piece| {
            bytes += piece.len();
            hash = fnv(hash, piece);
        });
        if let Err(cause) = read {
            return format!("error: {}: {cause}", file.display());
        }
    }
    format!("files={} bytes={bytes} fnv={hash:016x}", files.len())
}

fn collect(folder: &Path, device: u64, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.dev() != device => {}
            Ok(meta) if meta.is_dir() => collect(&path, device, files),
            Ok(meta) if meta.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn each_piece(file: &Path, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut file = fs::File::open(file)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => each(&buffer[..count]),
        }
    }
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Memory in KiB. What an initramfs still holds is counted as cached, so a test can see whether it was emptied.
fn memory() -> Facts {
    let wanted = ["MemTotal", "MemFree", "Cached", "Shmem"];
    let text = read("/proc/meminfo");
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .filter(|(key, _)| wanted.contains(key))
        .map(|(key, value)| fact(key, value.trim().trim_end_matches(" kB")))
        .collect()
}

/// What the node program left in /run says about this machine.
fn node() -> Facts {
    let mut facts = vec![fact("node", Path::new(NODE).exists())];
    facts.extend(run("info", &["info"]));
    facts.extend(run("farmer_id", &["get", "farmer_id"]));
    facts.extend(run("get_unknown", &["get", "no-such-key"]));
    facts
}

/// Runs the node program; its output line by line as `KEY`, its exit status as `KEY.status`.
fn run(key: &str, arguments: &[&str]) -> Facts {
    let output = match Command::new(NODE).args(arguments).output() {
        Ok(output) => output,
        Err(cause) => return vec![fact(key, error(cause))],
    };
    let mut facts = lines(key, &String::from_utf8_lossy(&output.stdout));
    facts.extend(lines(&format!("{key}.stderr"), &String::from_utf8_lossy(&output.stderr)));
    facts.push(fact(&format!("{key}.status"), output.status.code().unwrap_or(-1)));
    facts
}

/// Writes to a file in the state directory until there is no room; returns how many bytes it has then.
fn fill() -> std::io::Result<u64> {
    let mut file = fs::File::create(Path::new(STATE).join("filler"))?;
    let block = vec![0x5a; 1 << 20];
    loop {
        match file.write_all(&block).and_then(|()| file.sync_data()) {
            Err(cause) if cause.kind() == std::io::ErrorKind::StorageFull => break,
            written => written?,
        }
    }
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Syncs and cuts the power; returns only when the kernel refuses, which the console then shows.
fn power_off() -> c_int {
    rustix::fs::sync();
    if let Err(cause) = rustix::system::reboot(RebootCommand::PowerOff) {
        say(&format!("power-off refused: {cause}"));
    }
    1
}

fn fact(key: &str, value: impl ToString) -> (String, String) {
    (key.to_owned(), value.to_string())
}

fn lines(key: &str, text: &str) -> Facts {
    text.lines().map(|line| fact(key, line)).collect()
}

fn error(cause: std::io::Error) -> String {
    format!("error: {cause}")
}

fn read(path: &str) -> String {
    fs::read(path).map_or_else(error, |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The sorted names in a folder; none when it can't be read.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
