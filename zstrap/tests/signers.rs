//! More than one signer: `publish --threshold`, `sign`, `verify --threshold`, each with its key on a machine of its own.
//! The judge of every signature is minisign(1).
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Work, all_below, done, ended, refused, text, value};
use zstrap_formats::key::SecretKey;

const CONFIG: &str = r#"{"version":1,"description":"A farm","bundle":"demo","exec":["/sbin/init"]}"#;

/// A folder with the keys of Anna, Ben and Carol, and a tree.
fn three() -> Work {
    let work = Work::new();
    for name in ["anna", "ben", "carol"] {
        done(work.zstrap(&["key", "new", "--out", "keys", "--name", name, "--no-password"]));
    }
    work.write("tree/a", "one");
    work.write("farm.json", CONFIG);
    work
}

fn with_keys(mut command: Command, keys: &[&str]) -> Command {
    for key in keys {
        command.args(["--key", &format!("keys/{key}.key")]);
    }
    command
}

fn publish(work: &Work, keys: &[&str], more: &[&str]) -> Command {
    let mut command =
        work.zstrap(&["publish", "tree", "--site", "site", "--bundle", "demo", "--arch", "amd64"]);
    command.args(more);
    with_keys(command, keys)
}

fn add(work: &Work, keys: &[&str], more: &[&str]) -> Command {
    let mut command = work.zstrap(&["config", "add", "farm.json", "--site", "site"]);
    command.args(more);
    with_keys(command, keys)
}

fn sign(work: &Work, files: &[&str], key: &str, trust: &[&str], more: &[&str]) -> Command {
    let mut command = work.zstrap(&["sign"]);
    command.args(files).args(["--key", &format!("keys/{key}.key")]).args(more);
    for key in trust {
        command.args(["--trust", &format!("keys/{key}.pub")]);
    }
    command
}

fn verify(work: &Work, file: &str, keys: &[&str], threshold: &str) -> Command {
    let mut command = work.zstrap(&["verify", file, "--threshold", threshold]);
    for key in keys {
        command.args(["--key", &format!("keys/{key}.pub")]);
    }
    command
}

/// As it stands in file names: 16 digits.
fn id(work: &Work, key: &str) -> String {
    let text = text(&work.read(format!("keys/{key}.pub")));
    format!("{:0>16}", text.lines().next().unwrap().rsplit(' ').next().unwrap())
}

/// The list or config that a command has just made.
fn list(said: &str) -> String {
    format!("site/bundles/demo/amd64/{}.mtree", value(said, "serial"))
}

fn config(said: &str) -> String {
    format!("site/configs/farm/{}.json", value(said, "serial"))
}

/// What minisign says of this signer's signature.
fn judged(work: &Work, file: &str, key: &str) -> String {
    let signature = format!("{file}.{}.minisig", id(work, key));
    done(work.command("minisign", &["-Vm", file, "-x", &signature, "-p", &format!("keys/{key}.pub")]))
}

fn names(work: &Work, folder: &str) -> Vec<PathBuf> {
    all_below(&work.path(folder))
        .into_iter()
        .filter(|path| !path.starts_with(work.path("site/.tmp")))
        .collect()
}

/// All files of the site with their bytes.
fn state(work: &Work) -> Vec<(PathBuf, Vec<u8>)> {
    let files = names(work, "site").into_iter().filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_list_waits_until_enough_have_signed() {
    let work = three();
    let said = done(publish(&work, &["anna"], &["--threshold", "2"]));
    let (list, latest) = (list(&said), "site/bundles/demo/amd64/latest");
    assert!(!work.path(latest).exists());
    // Another day: the first signer's comment is taken as it is.
    let first = judged(&work, &list, "anna");
    let before = state(&work);
    let said = done(sign(&work, &[&list], "ben", &["anna"], &["--threshold", "2"]));
    assert_eq!((value(&said, "signers"), value(&said, "latest")), ("2", "yes"));
    assert_eq!(judged(&work, &list, "ben"), first);
    assert_eq!(text(&work.read(latest)), format!("{}\n", value(&said, "serial")));
    let after = state(&work);
    assert!(before.iter().all(|file| after.contains(file)), "a file that was there has changed");
    assert_eq!(after.len(), before.len() + 2);
    done(verify(&work, &list, &["anna", "ben", "carol"], "2"));
}

#[test]
fn without_a_threshold_a_signature_is_added_and_nothing_else() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let said = done(sign(&work, &[&list], "ben", &["anna"], &[]));
    assert_eq!((value(&said, "signers"), value(&said, "latest")), ("2", "no"));
    assert!(!work.path("site/bundles/demo/amd64/latest").exists());
    // Signed again it is the same, and now nodes get it.
    let said = done(sign(&work, &[&list], "ben", &["anna"], &["--threshold", "2"]));
    assert_eq!((value(&said, "signers"), value(&said, "latest")), ("2", "yes"));
}

#[test]
fn three_of_three_need_all() {
    let work = three();
    let list = list(&done(publish(&work, &["anna", "ben"], &["--threshold", "3"])));
    let said = done(sign(&work, &[&list], "ben", &["anna"], &["--threshold", "3"]));
    assert_eq!((value(&said, "signers"), value(&said, "latest")), ("2", "no"));
    let said = done(sign(&work, &[&list], "carol", &["anna", "ben"], &["--threshold", "3"]));
    assert_eq!((value(&said, "signers"), value(&said, "latest")), ("3", "yes"));
}

#[test]
fn a_config_waits_by_hash_too() {
    let work = three();
    let first = done(add(&work, &["anna", "ben"], &["--threshold", "2"]));
    let by_hash = format!("site/configs/by-hash/{}.json", value(&first, "sha256"));
    let renewed = |key: &str| text(&work.read(format!("{by_hash}.{}.minisig", id(&work, key))));
    let before = state(&work);
    let second = done(add(&work, &["anna"], &["--threshold", "2"]));
    // Images that pin it and want two signers boot on, with those of the first day.
    let after = state(&work);
    assert!(before.iter().all(|file| after.contains(file)), "a file that was there has changed");
    let serial = value(&second, "serial").to_owned();
    assert!(!renewed("anna").contains(&format!(" serial={serial} ")));
    let said = done(sign(&work, &[&config(&second)], "ben", &["anna"], &["--threshold", "2"]));
    assert_eq!(value(&said, "latest"), "yes");
    for key in ["anna", "ben"] {
        assert!(renewed(key).contains(&format!(" serial={serial} ")), "{key}");
        judged(&work, &by_hash, key);
        judged(&work, &config(&second), key);
    }
    assert_eq!(text(&work.read("site/configs/farm/latest")), format!("{serial}\n"));
    let index: serde_json::Value = serde_json::from_slice(&work.read("site/configs.json")).unwrap();
    assert_eq!(index["configs"][0]["serial"].to_string(), serial);
}

/// A power cut while a config is renewed by hash: there are signatures of two days.
#[test]
fn a_config_that_is_half_renewed_by_hash_is_named_and_repaired() {
    let work = three();
    let first = done(add(&work, &["anna", "ben"], &[]));
    let by_hash = format!("site/configs/by-hash/{}.json", value(&first, "sha256"));
    let second = config(&done(add(&work, &["anna"], &["--threshold", "2"])));
    done(sign(&work, &[&second], "ben", &["anna"], &[]));
    let anna = format!(".{}.minisig", id(&work, "anna"));
    std::fs::copy(work.path(format!("{second}{anna}")), work.path(format!("{by_hash}{anna}"))).unwrap();
    done(publish(&work, &["anna", "ben"], &[]));
    let fault = verify(&work, "site", &["anna", "ben"], "2").output().unwrap();
    let fault = text(&fault.stdout);
    assert!(fault.contains(&format!("\n{}: ", by_hash.trim_start_matches("site/"))), "{fault}");
    assert!(fault.trim_end().ends_with(" differ, expected the same bytes"), "{fault}");
    done(sign(&work, &[&second], "ben", &["anna"], &["--threshold", "2"]));
    done(verify(&work, "site", &["anna", "ben"], "2"));
    assert_eq!(judged(&work, &by_hash, "anna"), judged(&work, &by_hash, "ben"));
}

#[test]
fn a_third_signer_of_a_config_counts_by_hash_too() {
    let work = three();
    let said = done(add(&work, &["anna", "ben"], &[]));
    done(sign(&work, &[&config(&said)], "carol", &["anna", "ben"], &["--threshold", "2"]));
    judged(&work, &format!("site/configs/by-hash/{}.json", value(&said, "sha256")), "carol");
}

/// That a command is refused with this text, and that the site is as it was.
fn refused_and_nothing_changed(work: &Work, command: Command, expected: &str) {
    let before = state(work);
    let said = refused(command);
    assert!(said.contains(expected), "{said}\nexpected: {expected}");
    assert!(state(work) == before, "the site has changed: {said}");
}

#[test]
fn refuses_to_sign_what_does_not_verify() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let by_ben = |trust: &[&str]| sign(&work, &[&list], "ben", trust, &["--threshold", "2"]);
    let anna = id(&work, "anna");
    refused_and_nothing_changed(
        &work,
        by_ben(&["carol"]),
        &format!(": signed by key {anna}, expected one of "),
    );
    let whole = work.read(&list);
    work.write(&list, [&whole[..], b"./b type=dir mode=0755\n"].concat());
    refused_and_nothing_changed(&work, by_ben(&["anna"]), "does not match the signed bytes");
    work.write(&list, whole);
    for name in [format!("{list}.minisig"), format!("{list}.{anna}.minisig")] {
        std::fs::remove_file(work.path(name)).unwrap();
    }
    refused_and_nothing_changed(&work, by_ben(&["anna"]), "has no signature yet");
}

#[test]
fn refuses_to_sign_where_signers_disagree() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let signature = format!("{list}.{}.minisig", id(&work, "carol"));
    let comment = "zstrap1 kind=list name=demo arch=amd64 serial=7 created=2026-11-01T00:00:00Z expires=2099-01-01T00:00:00Z";
    done(
        work.command(
            "minisign",
            &["-S", "-s", "keys/carol.key", "-m", &list, "-x", &signature, "-t", comment],
        ),
    );
    let by_ben = sign(&work, &[&list], "ben", &["anna", "carol"], &[]);
    refused_and_nothing_changed(&work, by_ben, " is over another comment than ");
}

#[test]
fn refuses_to_sign_what_has_expired() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2", "--expires", "1s"])));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    refused_and_nothing_changed(&work, sign(&work, &[&list], "ben", &["anna"], &[]), ": expired at ");
}

#[test]
fn refuses_to_sign_what_stands_in_another_place() {
    let work = three();
    let made = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let by_ben = |file: &str| sign(&work, &[file], "ben", &["anna"], &[]);
    for (folder, expected) in [
        ("site/bundles/stable/amd64", ": signature is over demo, expected stable"),
        ("site/bundles/demo/arm64", ": signature is for arch amd64, expected arm64"),
        ("loose", "is no list or config of a site, expected SITE/bundles/NAME/ARCH/SERIAL.mtree or SITE/"),
    ] {
        std::fs::create_dir_all(work.path(folder)).unwrap();
        let file = format!("{folder}/{}", made.rsplit('/').next().unwrap());
        for ending in ["", ".minisig"] {
            std::fs::copy(work.path(format!("{made}{ending}")), work.path(format!("{file}{ending}")))
                .unwrap();
        }
        refused_and_nothing_changed(&work, by_ben(&file), expected);
    }
    let later = "site/bundles/demo/amd64/9000000000.mtree";
    for ending in ["", ".minisig"] {
        std::fs::copy(work.path(format!("{made}{ending}")), work.path(format!("{later}{ending}"))).unwrap();
    }
    refused_and_nothing_changed(&work, by_ben(later), ", but stands under 9000000000");
}

/// A leaked key that poses as another signer: its signature under the other's name stays, and does not count.
#[test]
fn never_replaces_a_signature_and_counts_no_key_twice() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let [anna, ben] = ["anna", "ben"].map(|key| format!("{list}.{}.minisig", id(&work, key)));
    std::fs::copy(work.path(&anna), work.path(&ben)).unwrap();
    let said = done(sign(&work, &[&list], "anna", &["ben"], &["--threshold", "2"]));
    assert_eq!((value(&said, "signers"), value(&said, "latest")), ("1", "no"));
    let by_ben = sign(&work, &[&list], "ben", &["anna"], &["--threshold", "2"]);
    refused_and_nothing_changed(&work, by_ben, "minisig: File exists");
    let output = verify(&work, &list, &["anna", "ben"], "2").output().unwrap();
    let missing = format!("missing by={} file=keys/ben.pub", id(&work, "ben"));
    assert!(text(&output.stdout).lines().any(|line| line == missing), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("signed by 1 of the trusted keys, expected at least 2"));
}

/// One secret in two files, each with an id of its own, is one signer.
#[test]
fn a_key_under_another_id_is_the_same_key() {
    let work = three();
    let twin = SecretKey::from_seed([7; 32], [1; 8]);
    work.write("keys/twin.key", twin.to_file());
    work.write("keys/twin.pub", twin.public().to_file());
    work.write("keys/again.key", SecretKey::from_seed([7; 32], [2; 8]).to_file());
    for command in [
        publish(&work, &["twin", "again"], &["--threshold", "2"]),
        add(&work, &["twin", "again"], &["--threshold", "2"]),
    ] {
        let said = refused(command);
        assert!(said.ends_with("signing: key 0202020202020202 was given twice"), "{said}");
    }
    assert!(!work.path("site").exists());
    let list = list(&done(publish(&work, &["twin"], &["--threshold", "2"])));
    let by_again = sign(&work, &[&list], "again", &["twin"], &["--threshold", "2"]);
    refused_and_nothing_changed(&work, by_again, "key 0202020202020202 stands twice among the trusted keys");
}

#[test]
fn an_older_list_that_was_signed_late_does_not_turn_nodes_back() {
    let work = three();
    let old = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let new = done(publish(&work, &["anna", "ben"], &["--threshold", "2"]));
    let said = done(sign(&work, &[&old], "ben", &["anna"], &["--threshold", "2"]));
    assert_eq!(value(&said, "latest"), "no");
    assert_eq!(text(&work.read("site/bundles/demo/amd64/latest")), format!("{}\n", value(&new, "serial")));
}

#[test]
fn several_files_are_all_checked_before_the_first_is_signed() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let config = config(&done(add(&work, &["carol"], &["--threshold", "2"])));
    let both = |trust: &[&str], more: &[&str]| sign(&work, &[&list, &config], "ben", trust, more);
    refused_and_nothing_changed(&work, both(&["anna"], &["--threshold", "2"]), ": signed by key ");
    let before = state(&work);
    assert_eq!(done(both(&["anna", "carol"], &["--threshold", "2", "--dry-run"])).lines().count(), 2);
    assert!(state(&work) == before);
    done(both(&["anna", "carol"], &["--threshold", "2"]));
    for (file, first) in [(&list, "anna"), (&config, "carol")] {
        assert_eq!(judged(&work, file, first), judged(&work, file, "ben"));
    }
}

/// What minisign signed by hand, in `FILE.minisig` alone, is there for nodes that ask by key id, too.
#[test]
fn a_signature_made_by_hand_gets_the_name_that_nodes_ask_for() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    std::fs::remove_file(work.path(format!("{list}.{}.minisig", id(&work, "anna")))).unwrap();
    done(sign(&work, &[&list], "ben", &["anna"], &[]));
    assert_eq!(judged(&work, &list, "anna"), judged(&work, &list, "ben"));
}

#[test]
fn fewer_signers_than_before_must_be_said() {
    let work = three();
    done(publish(&work, &["anna", "ben"], &[]));
    done(add(&work, &["anna", "ben"], &[]));
    for command in [publish(&work, &["anna"], &[]), add(&work, &["anna"], &[])] {
        refused_and_nothing_changed(
            &work,
            command,
            "signing with 1 where the present one has 2 signers: say --threshold 2, ",
        );
    }
    let latest = || work.read("site/bundles/demo/amd64/latest");
    let before = latest();
    done(publish(&work, &["anna"], &["--threshold", "2"]));
    assert_eq!(latest(), before);
    done(publish(&work, &["anna"], &["--threshold", "1"]));
    assert_ne!(latest(), before);
    for threshold in ["0", "17", "x"] {
        assert_eq!(ended(publish(&work, &["anna"], &["--threshold", threshold])).0, 2);
    }
}

#[test]
fn verify_shows_who_has_signed() {
    let work = three();
    let list = list(&done(publish(&work, &["anna", "ben"], &[])));
    let [anna, ben, carol] = ["anna", "ben", "carol"].map(|key| id(&work, key));
    let said = done(verify(&work, &list, &["anna", "carol"], "1"));
    let lines: Vec<&str> = said.lines().skip(1).take(4).collect();
    let expected = [
        format!("signed by={anna} file=keys/anna.pub"),
        format!("missing by={carol} file=keys/carol.pub"),
        format!("unknown by={ben} file={list}.{ben}.minisig"),
        "entries=2 bytes=3".to_owned(),
    ];
    assert_eq!(lines, expected);
    let output = verify(&work, &list, &["anna", "carol"], "2").output().unwrap();
    let shown = text(&output.stdout);
    assert!(shown.starts_with(&format!("signed by={anna} file=keys/anna.pub comment=")), "{shown}");
    assert!(shown.contains(&format!("\nmissing by={carol} ")), "{shown}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).ends_with("signed by 1 of the trusted keys, expected at least 2\n"));
}

#[test]
fn verify_shows_a_signature_that_is_broken_or_over_another_comment() {
    let work = three();
    let list = list(&done(publish(&work, &["anna", "ben", "carol"], &[])));
    let [ben, carol] = ["ben", "carol"].map(|key| format!("{list}.{}.minisig", id(&work, key)));
    work.write(&ben, text(&work.read(&ben)).replace("arch=amd64", "arch=arm64"));
    done(
        work.command("minisign", &["-S", "-s", "keys/carol.key", "-m", &list, "-x", &carol, "-t", "another"]),
    );
    let said = done(verify(&work, &list, &["anna", "ben", "carol"], "1"));
    let broken = format!("\nbroken by={} file=keys/ben.pub why=", id(&work, "ben"));
    let differs = format!("\ndiffers by={} file=keys/carol.pub comment=\"another\"\n", id(&work, "carol"));
    assert!(said.contains(&broken) && said.contains(&differs), "{said}");
    // A node that wants two refuses it for the broken one.
    let said = refused(verify(&work, &list, &["anna", "ben", "carol"], "2"));
    assert!(said.ends_with("does not match its trusted comment"), "{said}");
}

/// `latest` is exchanged where the files are, and nowhere else.
#[test]
fn nodes_are_not_led_to_a_list_without_its_blobs() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    let by_ben = |more: &[&str]| sign(&work, &[&list], "ben", &["anna"], more);
    std::fs::rename(work.path("site/blobs"), work.path("blobs")).unwrap();
    for more in [&["--threshold", "2"][..], &["--threshold", "2", "--dry-run"]] {
        refused_and_nothing_changed(&work, by_ben(more), "missing or of another length: ./a");
    }
    assert_eq!(value(&done(by_ben(&[])), "signers"), "2");
    assert!(!work.path("site/bundles/demo/amd64/latest").exists());
    std::fs::rename(work.path("blobs"), work.path("site/blobs")).unwrap();
    // Whoever has both, files and signatures, signs once more, which changes nothing but `latest`.
    let by_anna = sign(&work, &[&list], "anna", &["ben"], &["--threshold", "2"]);
    assert_eq!(value(&done(by_anna), "latest"), "yes");
}

/// The signers' machines: each has its key and a copy of the lists and configs, without blobs.
#[test]
fn signers_need_neither_blobs_nor_the_keys_of_the_others() {
    let work = three();
    let made = list(&done(publish(&work, &["anna"], &["--threshold", "2"])));
    done(work.command(
        "sh",
        &["-ec", "mkdir -p ben/site && cp -r site/bundles ben/site && cp keys/ben.key keys/anna.pub ben"],
    ));
    let mut sign = work.zstrap(&["sign", made.as_str(), "--key", "ben.key", "--trust", "anna.pub"]);
    sign.current_dir(work.path("ben"));
    done(sign);
    let name = format!("{made}.{}.minisig", id(&work, "ben"));
    std::fs::copy(work.path(Path::new("ben").join(&name)), work.path(&name)).unwrap();
    done(verify(&work, &made, &["anna", "ben"], "2"));
}

/// Anna's signature stands in `FILE.minisig`, and nodes with a threshold of 1 ask for nothing else.
#[test]
fn verify_says_why_a_second_signer_alone_does_not_count() {
    let work = three();
    let list = list(&done(publish(&work, &["anna", "ben"], &[])));
    let aside = "with a threshold of 1, only its .minisig counts";
    assert!(refused(verify(&work, &list, &["ben"], "1")).contains(aside));
    let said = refused(verify(&work, &list, &["carol"], "1"));
    assert!(!said.contains(aside), "{said}");
    done(verify(&work, &list, &["anna"], "1"));
}

#[test]
fn a_config_whose_bundle_waits_is_not_told_that_it_is_missing() {
    let work = three();
    let said = |command: &mut Command| text(&command.output().unwrap().stderr);
    let missing = "bundle demo is not published on this site yet";
    let waits = "bundle demo waits for signatures: nodes get none of it yet";
    let two = ["--threshold", "2"];
    let first = said(&mut add(&work, &["anna"], &two));
    assert!(first.contains(missing) && !first.contains(waits), "{first}");
    done(publish(&work, &["anna"], &two));
    let second = said(&mut add(&work, &["anna"], &two));
    assert!(second.contains(waits) && !second.contains(missing), "{second}");
}

#[test]
fn a_secret_key_in_the_place_of_a_public_one_is_called_that() {
    let work = three();
    let list = list(&done(publish(&work, &["anna"], &[])));
    let said = refused(work.zstrap(&["verify", &list, "--key", "keys/anna.key"]));
    assert!(
        said.contains("reading key keys/anna.key: this is a secret key, expected the public one"),
        "{said}"
    );
    let said = refused(work.zstrap(&["verify", &list, "--key", "farm.json"]));
    assert!(!said.contains("secret"), "{said}");
}
