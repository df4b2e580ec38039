//! `zstrap verify SITE`: a whole site, and each thing that can be wrong with it.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use support::{Work, all_below, done, ended, refused, text, value};

/// Two bundles, one of them for both architectures, and two configs, one of which was renewed.
fn site() -> Work {
    let work = Work::new();
    work.write("tree/text", "a line of text\n".repeat(2000));
    for (bundle, arch) in [("demo", "amd64"), ("demo", "arm64"), ("other", "amd64")] {
        work.write("tree/own", format!("{bundle} {arch}"));
        done(publish(&work, bundle, arch, &[]));
    }
    work.add_config("farm", "A farm");
    work.add_config("barn", "A barn");
    work.add_config("barn", "A larger barn");
    work
}

fn publish(work: &Work, bundle: &str, arch: &str, more: &[&str]) -> Command {
    let mut command = work.zstrap(&["publish", "tree", "--site", "site", "--bundle", bundle, "--arch", arch]);
    command.args(["--key", "keys/admin.key"]).args(more);
    command
}

fn verify(work: &Work, more: &[&str]) -> Command {
    let mut command = work.zstrap(&["verify", "site", "--key", "keys/admin.pub"]);
    command.args(more);
    command
}

/// What is printed of a site with one fault: its line.
fn fault(work: &Work) -> String {
    let output = verify(work, &[]).output().unwrap();
    let (out, talk) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{talk}");
    assert!(talk.ends_with("zstrap: site site has 1 fault\n"), "{out}{talk}");
    out.lines().last().unwrap().to_owned()
}

fn plain_blobs(work: &Work) -> Vec<PathBuf> {
    all_below(&work.path("site/blobs/sha256")).into_iter().filter(|path| path.extension().is_none()).collect()
}

#[test]
fn all_that_nodes_get_is_shown() {
    let work = site();
    let before = all_below(&work.path("site"));
    let output = verify(&work, &[]).output().unwrap();
    let (out, talk) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{talk}");
    let lines: Vec<&str> = out.lines().collect();
    let seen: Vec<(&str, &str, &str)> = lines[..5]
        .iter()
        .map(|line| (value(line, "kind"), value(line, "name"), value(line, "arch")))
        .collect();
    let expected = [
        ("config", "barn", "any"),
        ("config", "farm", "any"),
        ("list", "demo", "amd64"),
        ("list", "demo", "arm64"),
        ("list", "other", "amd64"),
    ];
    assert_eq!(seen, expected);
    assert!(lines[..5].iter().all(|line| value(line, "signers") == "1"), "{out}");
    assert_eq!(
        lines[5..8].iter().filter(|line| line.starts_with("pinned kind=config name=")).count(),
        3,
        "{out}"
    );
    let bytes: u64 = plain_blobs(&work).iter().map(|blob| blob.metadata().unwrap().len()).sum();
    assert_eq!(lines[8..], [format!("blobs=4 bytes={bytes} compressed=1").as_str()]);
    assert!(talk.contains(&format!("checking: {bytes} bytes in ")), "{talk}");
    assert_eq!(all_below(&work.path("site")), before, "looking at a site has changed it");
}

#[test]
fn blobs_that_are_missing_or_damaged_are_faults() {
    let work = site();
    let mut blobs = plain_blobs(&work);
    blobs.sort_by_key(|blob| blob.metadata().unwrap().len());
    let (small, large) = (blobs[0].clone(), blobs[3].clone());
    let name = |blob: &PathBuf| format!("blobs/sha256/{}", blob.file_name().unwrap().to_str().unwrap());
    let mut bytes = std::fs::read(&small).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&small, &bytes).unwrap();
    assert!(fault(&work).starts_with(&format!("{}: holds ", name(&small))));
    bytes[0] ^= 1;
    std::fs::write(&small, bytes).unwrap();
    let compressed = large.with_extension("zst");
    std::fs::write(&compressed, "short").unwrap();
    assert!(fault(&work).starts_with(&format!("{}.zst: has 5 bytes, expected ", name(&large))));
    std::fs::remove_file(small).unwrap();
    let output = verify(&work, &[]).output().unwrap();
    assert!(text(&output.stderr).ends_with("site site has 2 faults\n"));
}

#[test]
fn each_list_and_config_must_be_there_signed_and_in_its_place() {
    let work = site();
    let serial = text(&work.read("site/bundles/other/amd64/latest")).trim_end().to_owned();
    let path = format!("bundles/other/amd64/{serial}.mtree");
    let (list, signature) = (format!("site/{path}"), format!("site/{path}.minisig"));
    let (whole, signed) = (work.read(&list), work.read(&signature));
    work.write(&list, [&whole[..], b"./z type=dir mode=0755\n"].concat());
    assert!(fault(&work).starts_with(&format!("{path}: verifying site/{path}: ")));
    work.write(&list, &whole);
    std::fs::remove_file(work.path(&signature)).unwrap();
    assert!(fault(&work).starts_with(&format!("{path}: reading site/{path}.minisig: No such file")));
    work.write(&signature, text(&work.read(work.list())));
    work.write(&list, work.read(work.list()));
    work.write(&signature, work.read(format!("{}.minisig", work.list())));
    assert!(fault(&work).contains(": signature is over demo, expected other"));
    work.write(&list, &whole);
    work.write(&signature, &signed);
    work.write("site/bundles/other/amd64/latest", "7\n");
    let output = verify(&work, &[]).output().unwrap();
    let out = text(&output.stdout);
    assert!(
        out.contains("bundles/other/amd64/7.mtree: missing, and bundles/other/amd64/latest names it"),
        "{out}"
    );
    work.write("site/bundles/other/amd64/latest", "<html>");
    assert!(fault(&work).starts_with("bundles/other/amd64/latest: reading "));
}

#[test]
fn a_list_whose_time_has_passed_is_a_fault() {
    let work = site();
    done(publish(&work, "other", "amd64", &["--expires", "1s"]));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(fault(&work).contains(": expired at "));
}

#[test]
fn a_config_whose_bundle_is_not_there_is_a_fault() {
    let work = site();
    std::fs::remove_dir_all(work.path("site/bundles/demo")).unwrap();
    let said = refused(verify(&work, &[]));
    assert_eq!(said, "zstrap: site site has 2 faults");
    let out = text(&verify(&work, &[]).output().unwrap().stdout);
    assert_eq!(out.matches(": bundle demo is not published").count(), 2, "{out}");
}

#[test]
fn configs_by_hash_and_the_page_for_people_are_looked_at() {
    let work = site();
    let by_hash = all_below(&work.path("site/configs/by-hash"));
    let json = by_hash.iter().find(|path| path.extension().is_some_and(|ending| ending == "json")).unwrap();
    let whole = std::fs::read(json).unwrap();
    std::fs::write(json, [&whole[..], b"\n"].concat()).unwrap();
    let name = json.file_name().unwrap().to_str().unwrap();
    assert!(fault(&work).starts_with(&format!("configs/by-hash/{name}: has SHA-256 ")));
    std::fs::write(json, whole).unwrap();
    work.write("site/configs.json", "{}\n");
    assert_eq!(fault(&work), "configs.json: not what the configs say");
}

#[test]
fn a_hint_that_names_what_its_list_has_not_is_a_fault() {
    let work = site();
    let hint = work.list().replace(".mtree", ".packed");
    let before = text(&work.read(&hint));
    work.write(&hint, format!("{before}{} 5\n", "f".repeat(64)));
    let below = hint.strip_prefix("site/").unwrap();
    assert_eq!(fault(&work), format!("{below}: blobs/sha256/{}.zst is not in the list", "f".repeat(64)));
    work.write(&hint, "<html>");
    assert!(fault(&work).contains(&format!(": reading {below}: line 1 ")));
}

/// Images with a threshold ask for other files than those without.
#[test]
fn with_a_threshold_all_signers_count_and_what_waits_is_shown() {
    let work = site();
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "second", "--no-password"]));
    let with_second = ["--key", "keys/second.pub", "--threshold", "2"];
    assert_eq!(refused(verify(&work, &with_second)), "zstrap: site site has 8 faults");
    let said = done(publish(&work, "demo", "amd64", &["--threshold", "2"]));
    let out = done(verify(&work, &[]));
    let file = format!("site/bundles/demo/amd64/{}.mtree", value(&said, "serial"));
    let waiting: Vec<&str> = out.lines().filter(|line| line.starts_with("waiting ")).collect();
    assert_eq!(waiting, [format!("waiting file={file} signers=1")]);
}

#[test]
fn a_site_where_all_waits_gives_nodes_nothing() {
    let work = Work::new();
    work.write("tree/text", "text");
    done(publish(&work, "demo", "amd64", &["--threshold", "2"]));
    assert_eq!(fault(&work), "bundles: no `latest` names a list, so nodes get none");
    done(publish(&work, "other", "amd64", &[]));
    done(verify(&work, &[]));
    work.write("farm.json", r#"{"version":1,"bundle":"other","exec":["/sbin/init"]}"#);
    let add = ["config", "add", "farm.json", "--site", "site", "--key", "keys/admin.key"];
    let mut waiting = work.zstrap(&add);
    waiting.args(["--threshold", "2"]);
    done(waiting);
    assert_eq!(fault(&work), "configs: no `latest` names a config, so nodes get none");
    done(work.zstrap(&add));
    done(verify(&work, &[]));
}

#[test]
fn what_is_no_site_is_refused() {
    let work = Work::new();
    let verify = |more: &[&str]| {
        let mut command = work.zstrap(&["verify", "keys", "--key", "keys/admin.pub"]);
        command.args(more);
        command
    };
    assert_eq!(refused(verify(&[])), "zstrap: site keys names no list and no config");
    let (code, said) = ended(verify(&["--dir", "keys"]));
    assert_eq!((code, said.contains("--dir and --site are for one list")), (2, true), "{said}");
}
