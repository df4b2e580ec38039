//! A publish that is killed at twenty moments: whatever the moment, the site serves a bundle that a node
//! accepts, and the next publish succeeds.
//!
//! strace(1) kills the real program, as it is shipped, as it enters its n-th system call of a kind. The kinds
//! are those that change a site. A first run records them in order, held to one core so that the order is the
//! same each time; the twenty moments are spread over that record, the first and the last call among them.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use support::{Work, ZSTRAP, done, text, whole_bundle};

const KILLS: usize = 20;
const CALLS: &str = "mkdir,mkdirat,write,fsync,syncfs,rename,renameat,renameat2,unlink,unlinkat";

/// The n-th call of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moment {
    call: String,
    nth: usize,
}

/// Publishes the second version to `site`, under strace with these arguments.
fn publish_traced(work: &Work, site: &str, strace: &[&str]) -> Command {
    let mut command = work.command("taskset", &["-c", &first_core(), "strace", "-f", "-qq", "-o", "trace"]);
    command.args(strace).arg(ZSTRAP);
    command.args(["publish", "tree", "--site", site, "--bundle", "demo", "--arch", "amd64"]);
    command.args(["--key", "keys/admin.key"]);
    command
}

/// A container may not have core 0.
fn first_core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    allowed.trim().split(['-', ',']).next().unwrap().to_owned()
}

/// All calls that changed the site, in order; each with its number among those of its kind and thread, which is
/// how strace counts. A number that another thread reached before cannot be asked for, and is left out.
fn record(work: &Work) -> Vec<Moment> {
    copy(work, "site-1", "site");
    done(publish_traced(work, "site", &["-e", &format!("trace={CALLS}")]));
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let trace = text(&work.read("trace"));
    let calls = trace.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(char::is_whitespace)?;
        let (call, _) = rest.trim_start().split_once('(')?;
        let nth = counts.entry((thread.to_owned(), call.to_owned())).or_default();
        *nth += 1;
        Some(Moment { call: call.to_owned(), nth: *nth })
    });
    let mut first: Vec<Moment> = Vec::new();
    calls.for_each(|moment| {
        if !first.contains(&moment) {
            first.push(moment)
        }
    });
    first
}

fn copy(work: &Work, from: &str, to: &str) {
    done(work.command("rm", &["-rf", to]));
    done(work.command("cp", &["-a", from, to]));
}

/// A first version published to `site-1`, and a tree that has the second.
fn two_versions() -> Work {
    let work = Work::new();
    work.write("tree/same", "same");
    work.write("tree/changed", "one");
    work.write("tree/gone", "gone");
    work.write("tree/large", vec![1; 3 << 20]);
    let first = ["publish", "tree", "--site", "site-1", "--bundle", "demo", "--arch", "amd64"];
    let mut publish = work.zstrap(&first);
    publish.args(["--key", "keys/admin.key"]);
    done(publish);
    std::fs::remove_file(work.path("tree/gone")).unwrap();
    work.write("tree/changed", "two");
    work.write("tree/large", vec![2; 3 << 20]);
    for i in 0..6 {
        work.write(format!("tree/new/{i}"), format!("new {i}"));
    }
    work
}

fn spread(record: &[Moment]) -> Vec<Moment> {
    let last = record.len() - 1;
    let mut moments: Vec<Moment> = (0..KILLS).map(|i| record[i * last / (KILLS - 1)].clone()).collect();
    moments.dedup();
    moments
}

#[test]
fn killed_at_twenty_moments_the_site_serves_one_version_whole() {
    let work = two_versions();
    let (first_serial, first) = whole_bundle(&work, &work.path("site-1"));
    let record = record(&work);
    let (_, second) = whole_bundle(&work, &work.path("site"));
    assert_ne!(first, second);
    let moments = spread(&record);
    assert_eq!(moments.len(), KILLS, "{record:?}");
    let mut served = Vec::new();
    for moment in &moments {
        copy(&work, "site-1", "site");
        kill_at(&work, moment);
        let (serial, list) = whole_bundle(&work, &work.path("site"));
        let old = serial == first_serial && list == first;
        assert!(old || list == second, "{moment:?}: a list of neither version");
        served.push(if old { 1 } else { 2 });
        recovers(&work, &second, moment);
    }
    // The record begins before anything is served anew, and its last call comes after the exchange.
    assert_eq!((served.first(), served.last()), (Some(&1), Some(&2)), "{served:?} {moments:?}");
    assert!(served.is_sorted(), "{served:?}");
}

fn kill_at(work: &Work, moment: &Moment) {
    let inject = format!("inject={}:signal=SIGKILL:when={}", moment.call, moment.nth);
    let output =
        publish_traced(work, "site", &["-e", &format!("trace={CALLS}"), "-e", &inject]).output().unwrap();
    // strace ends as its program did.
    assert_eq!(output.status.signal(), Some(9), "{moment:?} was not reached: {}", text(&output.stderr));
}

/// The next publish is not hindered by what the killed one left, and removes it.
fn recovers(work: &Work, second: &zstrap_formats::list::List, moment: &Moment) {
    done(work.publish(&[]));
    let (_, list) = whole_bundle(work, &work.path("site"));
    assert!(list == *second, "{moment:?}");
    let left: Vec<_> = names(&work.path("site/.tmp"));
    assert_eq!(left, ["lock"], "{moment:?}");
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}
