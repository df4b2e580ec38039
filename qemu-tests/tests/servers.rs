//! What a server can answer in place of a file: each answer with the line that a person reads, how the boot ends, and
//! within how many seconds.
//!
//! One server, so there is nobody to go to instead; `mirrors` has several. Bytes of the right length that were changed
//! are in `refuses`, compressed blobs that are wrong in `packed`, connections that break or stall in `recovers`.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use zstrap_qemu_tests::boot::{expect_payload, expect_refusal_by};
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{Big, SMALL, Scene, Tree, noise};
use zstrap_qemu_tests::vm::VmBuilder;

/// What a node asks for first.
const FIRST: &str = "/configs/small/latest";
const LATEST_LIST: &str = "/bundles/*/latest";
const LISTS: &str = "/bundles/*.mtree";
/// The payload, which is the program of the bundle.
const BLOBS: &str = "/blobs/*";

/// A small part of a file, though all of it was asked for.
const PART: &[u8] =
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\nConnection: close\r\n\r\n1763";
const GZIP: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\x1f\x8b\x08\x00";

/// More than any machine here has memory for.
const HEADERS_WITHOUT_END: Fault = Fault::Headers { count: u64::MAX, length: 1000 };
const MANY_HEADERS: Fault = Fault::Headers { count: 100_000, length: 10 };
const LONG_HEADER: Fault = Fault::Headers { count: 1, length: 100 << 20 };

/// How a boot ends.
enum Ends {
    /// Refused at each attempt, in this stage, with this code; then a reboot. Nothing of the bundle has run.
    Refused(&'static str, &'static str),
    /// The program of the bundle runs.
    Boots,
}
use Ends::{Boots, Refused};

fn status(status: u16) -> Fault {
    Fault::Status(status)
}

fn empty() -> Fault {
    Fault::Replace(Vec::new())
}

fn redirect(to: &str) -> Fault {
    Fault::head(302, &format!("Location: {to}"))
}

fn busy(seconds: &str) -> Fault {
    Fault::head(429, &format!("Retry-After: {seconds}"))
}

/// Boots with these faults, and looks for this line.
fn boot(name: &str, rules: Vec<Rule>, ends: &Ends, line: &str, seconds: u64) -> Result<()> {
    let scene = Scene::new(&format!("servers-{name}"))?;
    rules.into_iter().for_each(|rule| scene.server.rule(rule));
    end(scene.machine()?, ends, line, seconds)
}

fn end(machine: VmBuilder, ends: &Ends, line: &str, seconds: u64) -> Result<()> {
    let limit = Duration::from_secs(seconds);
    // Little memory: what grows with an answer shows.
    let machine = machine.memory_mib(160);
    let vm = match ends {
        Refused(stage, reason) => expect_refusal_by(machine, stage, reason, limit)?,
        Boots => expect_payload(machine, limit)?,
    };
    vm.assert_never("reason=panic")?;
    vm.assert_never("Out of memory")?;
    vm.assert_line(line).map(drop)
}

/// `NAME: WHERE FAULT => END "LINE", SECONDS;`, where `FAULT; 1` strikes the first request only.
macro_rules! table {
    ($($name:ident: $path:ident $fault:expr $(; $times:literal)? => $ends:expr, $line:literal, $seconds:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            let rule = rule($path, $fault, [$($times,)? u32::MAX][0]);
            boot(stringify!($name), vec![rule], &$ends, $line, $seconds)
        })*
    };
}

fn rule(path: &str, fault: Fault, times: u32) -> Rule {
    Rule::first(times, path, fault)
}

table! {
    first_404: FIRST status(404) =>
        Refused("network", "ZS-SRV-04"), "] fail: because: no server answered: *latest: not found (404)", 60;
    first_429_for_good: FIRST busy("4") =>
        Refused("network", "ZS-SRV-05"), "] servers: busy server=*wait=4s", 60;
    first_500: FIRST status(500) =>
        Refused("network", "ZS-SRV-05"), "] fail: because: *server answered with status 500", 60;
    first_empty: FIRST empty() =>
        Refused("network", "ZS-SRV-12"), "] fail: because: *not a serial number: something other than a site ", 60;
    first_redirected_for_ever: FIRST redirect("/configs/small/latest") =>
        Refused("network", "ZS-SRV-12"), "] fail: because: *latest: too many redirects (it leads to /configs/small/latest)", 60;
    first_redirected_to_another_scheme: FIRST redirect("ftp://10.0.2.2/latest") =>
        Refused("network", "ZS-SRV-14"), "] fail: because: *bad uri: unknown scheme: ftp (it leads to ftp://10.0.2.2/latest)", 60;
    first_redirected_to_the_same_file_elsewhere: FIRST redirect("/configs/./small/latest"); 1 =>
        Boots, "] network: online server=http://10.0.2.2:", 60;
    first_too_long_for_its_header: FIRST Fault::Declares(-5) =>
        Refused("config", "ZS-SRV-15"), "] fail: because: *not found (404)", 60;
    first_too_short_for_its_header: FIRST Fault::Declares(5) =>
        Refused("network", "ZS-SRV-14"), "] fail: because: *latest: Peer disconnected", 60;
    first_is_a_part: FIRST Fault::Raw(PART.to_vec()) =>
        Refused("network", "ZS-SRV-05"), "] fail: because: *server sent another part than bytes=0-", 60;
    first_is_encoded: FIRST Fault::Raw(GZIP.to_vec()) =>
        Refused("network", "ZS-SRV-14"), "] fail: because: *content encoding gzip, expected none", 60;
    first_has_100000_headers: FIRST MANY_HEADERS =>
        Refused("network", "ZS-SRV-14"), "] fail: because: *latest: protocol: http parse resulted in too many headers", 60;
    first_has_a_header_of_100_mib: FIRST LONG_HEADER =>
        Refused("network", "ZS-SRV-14"), "] fail: because: *latest: response header is too big: * > 65536", 60;
    first_has_headers_without_end: FIRST HEADERS_WITHOUT_END =>
        Refused("network", "ZS-SRV-14"), "] fail: because: *latest: response header is too big: * > 65536", 60;

    serial_of_the_list_is_a_page: LATEST_LIST Fault::Html =>
        Refused("list", "ZS-SRV-19"), "] fail: because: bundles/small/*/latest is not a serial number", 60;

    list_404: LISTS status(404) =>
        Refused("list", "ZS-SRV-15"), "] fail: because: getting list small: *.mtree: not found (404)", 60;
    list_500: LISTS status(500) =>
        Refused("list", "ZS-SRV-17"), "] fail: because: getting list small: *status 500", 60;
    list_empty: LISTS empty() =>
        Refused("list", "ZS-SIG-04"), "] fail: because: checking list small: ", 60;
    list_is_a_page: LISTS Fault::Html =>
        Refused("list", "ZS-SIG-04"), "] fail: because: checking list small: ", 60;
    list_too_long_for_its_header: LISTS Fault::Declares(-5) =>
        Refused("list", "ZS-SIG-04"), "] fail: because: checking list small: ", 60;
    list_too_short_for_its_header: LISTS Fault::Declares(5) =>
        Refused("list", "ZS-SRV-21"), "] fail: because: getting list small: ", 60;
    list_without_end: LISTS Fault::Endless =>
        Refused("list", "ZS-SRV-18"), "] fail: because: getting list small: *.mtree: longer than ", 60;

    file_404: BLOBS status(404) =>
        Refused("fetch", "ZS-FIL-04"), "] fail: because: getting ./*not found (404)", 60;
    file_500_twice: BLOBS status(500); 2 =>
        Boots, "] fetch: interrupted path=*why=*status 500", 60;
    file_empty: BLOBS empty() =>
        Refused("fetch", "ZS-FIL-01"), "] fail: because: *has 0 bytes, the list says ", 60;
    file_redirected_for_ever: BLOBS redirect("/blobs/loop") =>
        Refused("fetch", "ZS-FIL-06"), "] fail: because: getting *too many redirects", 90;
    file_longer_than_listed: BLOBS Fault::Longer(4096) =>
        Refused("fetch", "ZS-FIL-01"), "] fail: because: *bytes, the list says ", 60;
    file_without_end: BLOBS Fault::Endless =>
        Refused("fetch", "ZS-FIL-01"), "] fail: because: *has more than *bytes, the list says ", 60;
    file_too_long_for_its_header: BLOBS Fault::Declares(-5) =>
        Refused("fetch", "ZS-FIL-01"), "] fail: because: *bytes, the list says ", 60;
    file_too_short_for_its_header: BLOBS Fault::Declares(5) =>
        Refused("fetch", "ZS-FIL-01"), "] fail: because: *bytes, the list says ", 60;
    file_is_a_part_once: BLOBS Fault::Raw(PART.to_vec()); 1 =>
        Boots, "] fetch: interrupted path=*why=*server sent another part than bytes=0-", 60;
    file_has_headers_without_end_twice: BLOBS HEADERS_WITHOUT_END; 2 =>
        Boots, "] fetch: interrupted path=*why=*response header is too big: * > 65536", 60;
}

/// It is asked again no sooner than it wants.
fn asks_for_a_pause(name: &str, path: &str) -> Result<()> {
    let scene = Scene::new(&format!("servers-{name}"))?;
    scene.server.rule(Rule::first(1, path, busy("5")));
    end(scene.machine()?, &Boots, "] servers: busy server=*wait=5s", 60)?;
    let asked = scene.server.requests_for(path);
    let again = asked[1..].iter().find(|request| request.path == asked[0].path).context("asked once only")?;
    let pause = again.at - asked[0].at;
    assert!((5..30).contains(&pause.as_secs()), "{pause:?}");
    Ok(())
}

#[test]
fn first_429_once() -> Result<()> {
    asks_for_a_pause("first_429_once", FIRST)
}

#[test]
fn list_429_once() -> Result<()> {
    asks_for_a_pause("list_429_once", LISTS)
}

#[test]
fn file_429_once() -> Result<()> {
    asks_for_a_pause("file_429_once", BLOBS)
}

/// A hotspot: whatever is asked for leads to the page where people log in.
#[test]
fn captive_portal() -> Result<()> {
    let rules = vec![Rule::always("/login*", Fault::Html), Rule::always("*", redirect("/login?from=node"))];
    let line = "] fail: because: *not a serial number: something other than a site answers, such as the login page of a network (it leads to /login?from=node)";
    boot("portal", rules, &Refused("network", "ZS-SRV-12"), line, 60)
}

/// The file breaks off at its middle; what was asked for then is a part, and what comes is something else.
#[test]
fn part_was_asked_for_and_the_whole_comes() -> Result<()> {
    mixed("whole", Fault::NoRanges)
}

#[test]
fn part_was_asked_for_and_another_part_comes() -> Result<()> {
    mixed("part", Fault::Raw(PART.to_vec()))
}

fn mixed(name: &str, fault: Fault) -> Result<()> {
    let mut scene = Scene::new(&format!("servers-mixed-{name}"))?;
    let Big { tree, path, size } = scene.publish_big(&noise(4 << 20))?;
    scene.server.rule(Rule::first(1, &path, Fault::CutAfter(size / 2)));
    scene.server.rule(Rule::first(1, &path, fault));
    let whole = format!("payload: tree={}", tree.fingerprint()?);
    end(scene.machine()?, &Boots, &whole, 60)?;
    let ranges: Vec<_> = scene.server.requests_for(&path).into_iter().map(|request| request.range).collect();
    assert!(ranges.len() >= 2 && ranges[1].is_some(), "{ranges:?}");
    Ok(())
}

/// 8 KiB that become 256 MiB, in a machine with less. The hint, which nobody signs, is of the same hand.
#[test]
fn compressed_bomb() -> Result<()> {
    let mut scene = Scene::new("servers-bomb")?;
    let tree = Tree::payload()?;
    tree.file("srv/text", &b"a line of a text\n".repeat(100_000), 0o644)?;
    scene.publish_packed(&tree, SMALL)?;
    scene.add_config(SMALL, &json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/init"] }))?;
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 1).context("compressing nothing")?;
    let (blob, _) = scene.blob(SMALL, "./srv/text")?;
    let hint = scene.list(SMALL)?.replace(".mtree", ".packed");
    let sha256 = blob.rsplit('/').next().context("a blob has a name")?;
    scene.write(&format!("{blob}.zst"), &bomb)?;
    scene.write(&hint, format!("{sha256} {}\n", bomb.len()).as_bytes())?;
    end(
        scene.machine()?,
        &Boots,
        "] fetch: compressed blob not usable path=./srv/text have=* next=plain why=",
        60,
    )?;
    assert_eq!(scene.server.requests_for(&format!("/{blob}.zst")).len(), 1);
    Ok(())
}
