//! `zstrap promote`: what was tried becomes what nodes boot. The judge of signatures is minisign(1).
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use support::{Work, all_below, done, ended, refused, text, value};

/// A bundle `next` for these architectures, each with a file of its own.
fn next(archs: &[&str]) -> Work {
    let work = Work::new();
    for arch in archs {
        work.write("tree/program", format!("program for {arch}\n").repeat(1000));
        done(publish(&work, "next", arch, &[]));
    }
    work
}

fn publish(work: &Work, bundle: &str, arch: &str, more: &[&str]) -> Command {
    let mut command = work.zstrap(&["publish", "tree", "--site", "site", "--bundle", bundle, "--arch", arch]);
    command.args(["--key", "keys/admin.key"]).args(more);
    command
}

fn promote(work: &Work, more: &[&str]) -> Command {
    let mut command = work.zstrap(&["promote", "stable", "--from", "next", "--site", "site"]);
    command.args(["--key", "keys/admin.key"]).args(more);
    command
}

fn latest(work: &Work, bundle: &str, arch: &str) -> String {
    let serial = text(&work.read(format!("site/bundles/{bundle}/{arch}/latest")));
    format!("site/bundles/{bundle}/{arch}/{}.mtree", serial.trim_end())
}

fn serial(path: &str) -> u64 {
    path.rsplit('/').next().unwrap().split('.').next().unwrap().parse().unwrap()
}

/// All files of the site with their bytes.
fn state(work: &Work) -> Vec<(PathBuf, Vec<u8>)> {
    let site = all_below(&work.path("site")).into_iter();
    let files = site.filter(|path| path.is_file() && !path.starts_with(work.path("site/.tmp")));
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn refused_and_nothing_changed(work: &Work, command: Command, expected: &str) {
    let before = state(work);
    let said = refused(command);
    assert!(said.contains(expected), "{said}\nexpected: {expected}");
    assert!(state(work) == before, "the site has changed: {said}");
}

#[test]
fn the_same_content_is_signed_under_the_name_of_the_channel_for_all_architectures() {
    let work = next(&["amd64", "arm64"]);
    let before = state(&work);
    let said = done(promote(&work, &[]));
    assert_eq!(said.lines().count(), 2, "{said}");
    for (arch, line) in ["amd64", "arm64"].into_iter().zip(said.lines()) {
        let (from, to) = (latest(&work, "next", arch), latest(&work, "stable", arch));
        assert_eq!(
            (value(line, "from_serial"), value(line, "serial")),
            (serial(&from).to_string().as_str(), serial(&to).to_string().as_str())
        );
        assert!(serial(&to) > serial(&from));
        assert_eq!(work.read(&from), work.read(&to));
        assert_eq!(work.read(from.replace(".mtree", ".packed")), work.read(to.replace(".mtree", ".packed")));
        let judged = done(work.command("minisign", &["-Vm", &to, "-p", "keys/admin.pub"]));
        assert!(judged.contains(&format!(" name=stable arch={arch} serial={} ", serial(&to))), "{judged}");
        done(work.zstrap(&["verify", &to, "--key", "keys/admin.pub", "--site", "site"]));
    }
    let after = state(&work);
    assert!(before.iter().all(|file| after.contains(file)), "a file that was there has changed");
}

#[test]
fn one_architecture_is_promoted_alone_and_the_other_stays() {
    let work = next(&["amd64", "arm64"]);
    done(promote(&work, &[]));
    let before = latest(&work, "stable", "arm64");
    assert_eq!(done(promote(&work, &["--arch", "amd64"])).lines().count(), 1);
    assert_eq!(latest(&work, "stable", "arm64"), before);
    assert_eq!(ended(promote(&work, &["--arch", "x86"])).0, 2);
}

#[test]
fn says_which_architecture_of_the_channel_is_left_behind() {
    let work = next(&["amd64"]);
    done(publish(&work, "stable", "arm64", &[]));
    let output = promote(&work, &[]).output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("bundle stable for arm64 stays as it is: next is not there for it"), "{said}");
    assert_eq!(text(&output.stdout).lines().count(), 1);
    refused_and_nothing_changed(
        &work,
        promote(&work, &["--arch", "arm64"]),
        "bundle next is not on the site for arm64",
    );
}

#[test]
fn serials_grow_past_the_channel_and_past_the_source() {
    let work = next(&["amd64"]);
    work.write("site/bundles/next/amd64/latest", "8000000000\n");
    done(publish(&work, "next", "amd64", &[]));
    assert_eq!(value(&done(promote(&work, &[])), "serial"), "8000000002");
    work.write("site/bundles/stable/amd64/latest", "9000000000\n");
    assert_eq!(value(&done(promote(&work, &[])), "serial"), "9000000001");
    work.write("site/bundles/stable/amd64/latest", format!("{}\n", u64::MAX));
    refused_and_nothing_changed(&work, promote(&work, &[]), "has the highest serial there can be");
}

/// The way back: the content of an older list under a higher serial, so that no node takes it for a replay.
#[test]
fn an_older_list_of_the_same_name_is_the_way_back() {
    let work = next(&["amd64"]);
    let old = latest(&work, "next", "amd64");
    work.write("tree/program", "broken");
    done(publish(&work, "next", "amd64", &[]));
    let broken = latest(&work, "next", "amd64");
    let back = |serial: &str| {
        let mut command = work.zstrap(&["promote", "next", "--from", "next", "--serial", serial]);
        command.args(["--site", "site", "--key", "keys/admin.key"]);
        command
    };
    done(back(&serial(&old).to_string()));
    let now = latest(&work, "next", "amd64");
    assert!(serial(&now) > serial(&broken));
    assert_eq!(work.read(&now), work.read(&old));
    let expected = format!("bundle next has no list 7; there are: {}, ", serial(&now));
    refused_and_nothing_changed(&work, back("7"), &expected);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_writes_nothing() {
    let work = next(&["amd64", "arm64"]);
    let before = state(&work);
    let would = done(promote(&work, &["--dry-run", "--expires", "2099-01-01"]));
    assert!(state(&work) == before);
    let did = done(promote(&work, &["--expires", "2099-01-01"]));
    let same =
        |said: &str| said.lines().map(|line| value(line, "from_serial").to_owned()).collect::<Vec<_>>();
    assert_eq!(same(&would), same(&did));
    refused_and_nothing_changed(&work, promote(&work, &["--dry-run", "--serial", "7"]), "has no list 7; ");
}

#[test]
fn refuses_a_source_that_nobody_trusted_has_signed() {
    let work = next(&["amd64", "arm64"]);
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "other", "--no-password"]));
    let by_other = |more: &[&str]| {
        let mut command = work.zstrap(&["promote", "stable", "--from", "next", "--site", "site"]);
        command.args(["--key", "keys/other.key"]).args(more);
        command
    };
    refused_and_nothing_changed(&work, by_other(&[]), ": signed by key ");
    done(by_other(&["--trust", "keys/admin.pub"]));
    // Checked for all architectures before anything is written.
    let list = latest(&work, "next", "arm64");
    let whole = work.read(&list);
    work.write(&list, [&whole[..], b"./z type=dir mode=0755\n"].concat());
    refused_and_nothing_changed(&work, promote(&work, &[]), "does not match the signed bytes");
    work.write(&list, whole);
    std::fs::remove_file(work.path(format!("{list}.minisig"))).unwrap();
    refused_and_nothing_changed(&work, promote(&work, &[]), ".mtree.minisig: No such file");
}

#[test]
fn refuses_a_source_that_has_expired() {
    let work = next(&["amd64"]);
    done(publish(&work, "next", "amd64", &["--expires", "1s"]));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    refused_and_nothing_changed(&work, promote(&work, &[]), ": expired at ");
}

#[test]
fn refuses_a_list_of_another_name_serial_or_architecture_in_the_place_of_the_source() {
    let work = next(&["amd64", "arm64"]);
    let other = latest(&work, "next", "arm64");
    done(publish(&work, "other", "amd64", &[]));
    let foreign = latest(&work, "other", "amd64");
    for (from, to, expected) in [
        (&other, "site/bundles/next/amd64/9000000000.mtree", ": signature is for arch arm64, expected amd64"),
        (&foreign, "site/bundles/next/amd64/9000000000.mtree", ": signature is over other, expected next"),
        (&other, "site/bundles/next/arm64/9000000000.mtree", ", but stands under 9000000000"),
    ] {
        for ending in ["", ".minisig"] {
            std::fs::copy(work.path(format!("{from}{ending}")), work.path(format!("{to}{ending}"))).unwrap();
        }
        refused_and_nothing_changed(&work, promote(&work, &["--serial", "9000000000"]), expected);
        std::fs::remove_file(work.path(to)).unwrap();
    }
}

#[test]
fn refuses_a_source_without_its_blobs() {
    let work = next(&["amd64"]);
    let blobs = all_below(&work.path("site/blobs/sha256"));
    let plain = blobs.iter().find(|path| path.extension().is_none()).unwrap();
    std::fs::write(plain, "cut").unwrap();
    refused_and_nothing_changed(&work, promote(&work, &[]), "missing or of another length: ./program");
    std::fs::remove_file(plain).unwrap();
    refused_and_nothing_changed(&work, promote(&work, &[]), "missing or of another length: ./program");
}

/// Two signers: what is taken must have both, and what it becomes waits for the second.
#[test]
fn with_a_threshold_the_channel_waits_for_the_second_signer() {
    let work = next(&["amd64"]);
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "second", "--no-password"]));
    let by_admin =
        |more: &[&str]| promote(&work, &[&["--trust", "keys/second.pub", "--threshold", "2"], more].concat());
    refused_and_nothing_changed(&work, by_admin(&[]), "signed by 1 of the trusted keys, expected at least 2");
    let sign = |list: &str| {
        let mut command =
            work.zstrap(&["sign", list, "--key", "keys/second.key", "--trust", "keys/admin.pub"]);
        command.args(["--threshold", "2"]);
        command
    };
    done(sign(&latest(&work, "next", "amd64")));
    let said = done(by_admin(&[]));
    assert!(!work.path("site/bundles/stable/amd64/latest").exists());
    let made = format!("site/bundles/stable/amd64/{}.mtree", value(&said, "serial"));
    done(sign(&made));
    assert_eq!(latest(&work, "stable", "amd64"), made);
    // Fewer signers than the channel has are a mistake, unless they are meant.
    refused_and_nothing_changed(
        &work,
        promote(&work, &[]),
        "signing with 1 where the present one has 2 signers",
    );
    done(promote(&work, &["--threshold", "1"]));
}

/// With both keys at hand, what one of them alone has signed is not promoted: that key may have leaked.
#[test]
fn a_source_that_one_of_two_keys_signed_is_refused_unless_one_is_asked_for() {
    let work = next(&["amd64"]);
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "second", "--no-password"]));
    let by_both = |more: &[&str]| promote(&work, &[&["--key", "keys/second.key"], more].concat());
    let expected = "signed by 1 of the trusted keys, expected at least 2";
    refused_and_nothing_changed(&work, by_both(&[]), expected);
    refused_and_nothing_changed(&work, by_both(&["--dry-run"]), expected);
    done(by_both(&["--threshold", "1"]));
    // What both have signed needs nothing said.
    done(publish(&work, "next", "amd64", &["--key", "keys/second.key"]));
    done(by_both(&[]));
}

/// A channel that is new has no signers of its own to compare with, but images that ask for both.
#[test]
fn fewer_signers_than_the_source_has_must_be_said() {
    let work = next(&["amd64"]);
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "second", "--no-password"]));
    done(publish(&work, "next", "amd64", &["--key", "keys/second.key"]));
    let expected = "signing with 1 where bundle next has 2 signers: say --threshold 2, ";
    refused_and_nothing_changed(&work, promote(&work, &[]), expected);
    done(promote(&work, &["--threshold", "2", "--trust", "keys/second.pub"]));
    assert!(!work.path("site/bundles/stable/amd64/latest").exists());
    done(promote(&work, &["--threshold", "1"]));
    assert!(work.path("site/bundles/stable/amd64/latest").exists());
}

#[test]
fn says_that_a_source_waits_for_signatures() {
    let work = Work::new();
    work.write("tree/program", "program");
    let said = done(publish(&work, "next", "amd64", &["--threshold", "2"]));
    for (more, arch) in [(&[][..], ""), (&["--arch", "amd64"], " for amd64")] {
        let expected = format!("bundle next{arch} waits for signatures, and nodes get none of it; ");
        let command = promote(&work, more);
        refused_and_nothing_changed(
            &work,
            command,
            &format!("{expected}--serial takes one of: {}", value(&said, "serial")),
        );
    }
}
