//! Our formats, judged by the programs that made them formats: minisign, mtree, bsdtar.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use support::{Work, done, mode, needs_root, odd_names, odd_tree, refused, text};

const COMMENT: &str = "zstrap1 kind=list name=demo arch=amd64 serial=7 created=2026-11-01T00:00:00Z expires=2099-01-01T00:00:00Z";

fn published() -> Work {
    let work = Work::new();
    odd_tree(&work);
    done(work.publish(&[]));
    work
}

#[test]
fn minisign_verifies_our_list_and_prints_its_comment() {
    let work = published();
    let said = done(work.command("minisign", &["-Vm", &work.list(), "-p", "keys/admin.pub"]));
    assert!(said.starts_with("Signature and comment signature verified\n"), "{said}");
    assert!(
        said.contains(&format!("zstrap1 kind=list name=demo arch=amd64 serial={} ", work.serial())),
        "{said}"
    );
}

#[test]
fn minisign_refuses_our_list_once_it_is_changed() {
    let work = published();
    let list = work.list();
    let mut bytes = work.read(&list);
    *bytes.last_mut().unwrap() = b' ';
    work.write(&list, bytes);
    assert!(!work.command("minisign", &["-Vm", &list, "-p", "keys/admin.pub"]).status().unwrap().success());
}

#[test]
fn mtree_finds_the_tree_as_listed_and_sees_a_change() {
    let work = published();
    // mtree prints what differs; extra files change its output, not always its exit status.
    let judge = |work: &Work| {
        let output = work.command("mtree", &["-p", "tree", "-f", &work.list()]).output().unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    assert_eq!(judge(&work), (true, String::new()));
    work.write("tree/odd/plain", "plaim");
    let (ok, said) = judge(&work);
    assert!(!ok && said.contains("sha256") && said.contains("md5"), "{said}");
}

#[test]
fn mtree_agrees_with_kept_owners() {
    needs_root();
    let work = Work::new();
    work.write("tree/mine", "x");
    std::os::unix::fs::chown(work.path("tree/mine"), Some(1234), Some(2345)).unwrap();
    done(work.publish(&["--keep-owner"]));
    assert!(text(&work.read(work.list())).contains(" uid=1234 gid=2345"));
    let output = work.command("mtree", &["-p", "tree", "-f", &work.list()]).output().unwrap();
    assert_eq!((output.status.success(), text(&output.stdout)), (true, String::new()));
    std::os::unix::fs::chown(work.path("tree/mine"), Some(0), Some(0)).unwrap();
    let said = refused(work.zstrap(&["verify", &work.list(), "--key", "keys/admin.pub", "--dir", "tree"]));
    assert_eq!(said, "zstrap: tree differs from the list in 1 place");
}

#[test]
fn bsdtar_reads_every_name_of_our_list() {
    let work = published();
    let listing = done(work.command("bsdtar", &["-tf", &work.list()]));
    // 10 files, 10 links to them, tree, odd, empty, sbin, sbin/init, tmp, link
    assert_eq!(listing.lines().count(), 27, "{listing}");
    assert!(listing.contains("./odd/with space\n") && listing.contains("./odd/#comment\n"), "{listing}");
    // bsdtar prints backslashes and line breaks as escapes.
    assert!(
        listing.contains("./odd/back\\\\slash\n") && listing.contains("./odd/line\\nbreak\n"),
        "{listing}"
    );
}

#[test]
fn bsdtar_unpacks_the_tree_that_was_published() {
    let work = published();
    // With contents=, bsdtar takes the bytes from our blobs: the list is all it knows of the tree.
    let with_contents: String =
        text(&work.read(work.list())).lines().map(|line| contents(line) + "\n").collect();
    work.write("site/blobs/sha256/from.mtree", with_contents);
    std::fs::create_dir(work.path("out")).unwrap();
    let mut tar = work.command("bsdtar", &["-cf", "../../../packed.tar", "@from.mtree"]);
    tar.current_dir(work.path("site/blobs/sha256"));
    done(tar);
    done(work.command("bsdtar", &["-xpf", "packed.tar", "-C", "out"]));
    done(work.command("diff", &["-r", "--no-dereference", "tree", "out"]));
    for name in odd_names() {
        assert!(work.path("out/odd").join(name).exists(), "{name:?}");
    }
}

fn contents(line: &str) -> String {
    match line.split_once(" sha256digest=") {
        Some((_, rest)) => format!("{line} contents=./{}", rest.split(' ').next().unwrap()),
        None => line.to_owned(),
    }
}

/// Lets bsdtar write a list of the tree and minisign sign it.
fn made_by_others(work: &Work, sign: &[&str]) {
    odd_tree(work);
    let mut tar = work.command("bsdtar", &["-cf", "../x.mtree", "--format=mtree"]);
    tar.args(["--options=!all,type,mode,size,md5,sha256,link", "."]).current_dir(work.path("tree"));
    done(tar);
    let mut minisign =
        work.command("minisign", &["-S", "-s", "keys/admin.key", "-m", "x.mtree", "-t", COMMENT]);
    minisign.args(sign);
    done(minisign);
}

fn verify_others(work: &Work, more: &[&str]) -> std::process::Command {
    let mut command = work.zstrap(&["verify", "x.mtree", "--key", "keys/admin.pub"]);
    command.args(more);
    command
}

#[test]
fn we_verify_what_bsdtar_wrote_and_minisign_signed() {
    for sign in [&[][..], &["-l"]] {
        let work = Work::new();
        made_by_others(&work, sign);
        let said = done(verify_others(&work, &["--dir", "tree"]));
        assert!(
            said.starts_with("kind=list name=demo arch=amd64 serial=7 created=2026-11-01T00:00:00Z"),
            "{said}"
        );
        work.write("tree/odd/a=b", "changed");
        let said = refused(verify_others(&work, &["--dir", "tree"]));
        assert!(said.starts_with("zstrap: tree differs from the list in "), "{said}");
    }
}

#[test]
fn we_refuse_a_comment_that_is_not_ours_and_a_list_that_was_changed() {
    let work = Work::new();
    made_by_others(&work, &["-t", "just a comment"]);
    let said = refused(verify_others(&work, &[]));
    assert!(said.contains("expected it to begin with zstrap1"), "{said}");
    made_by_others_again(&work);
    let list = text(&work.read("x.mtree")).replace("mode=", "mode=0");
    work.write("x.mtree", list);
    let said = refused(verify_others(&work, &[]));
    assert!(said.contains("does not match the signed bytes"), "{said}");
}

fn made_by_others_again(work: &Work) {
    std::fs::remove_dir_all(work.path("tree")).unwrap();
    made_by_others(work, &[]);
}

#[test]
fn keys_move_both_ways() {
    let work = Work::new();
    done(work.command("minisign", &["-G", "-W", "-p", "keys/theirs.pub", "-s", "keys/theirs.key"]));
    mode(&work.path("keys/theirs.key"), 0o600);
    work.write("tree/a", "a");
    let mut publish =
        work.zstrap(&["publish", "tree", "--site", "site", "--bundle", "demo", "--arch", "amd64"]);
    publish.args(["--key", "keys/theirs.key"]);
    done(publish);
    done(work.command("minisign", &["-Vm", &work.list(), "-p", "keys/theirs.pub"]));
    done(work.zstrap(&["verify", &work.list(), "--key", "keys/theirs.pub", "--dir", "tree"]));
    let said = refused(work.zstrap(&["verify", &work.list(), "--key", "keys/admin.pub"]));
    assert!(said.contains("signed by key "), "{said}");
}

#[test]
fn two_keys_sign_one_comment_each_in_its_own_file() {
    let work = Work::new();
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "second", "--no-password"]));
    work.write("tree/a", "a");
    done(work.publish(&["--key", "keys/second.key"]));
    let list = work.list();
    let id = |key: &str| text(&work.read(key)).split_whitespace().nth(5).unwrap().to_owned();
    for key in ["keys/admin.pub", "keys/second.pub"] {
        let signature = format!("{list}.{}.minisig", id(key));
        done(work.command("minisign", &["-Vm", &list, "-p", key, "-x", &signature]));
    }
    assert!(Path::new(&work.path(format!("{list}.minisig"))).exists());
}

#[test]
fn a_second_signer_can_add_a_signature_to_that_of_the_first() {
    let work = Work::new();
    work.write("tree/a", "a");
    done(work.publish(&[]));
    let list = work.list();
    let id = text(&work.read("keys/admin.pub")).split_whitespace().nth(5).unwrap().to_owned();
    let own = work.read(format!("{list}.{id}.minisig"));
    assert_eq!(own, work.read(format!("{list}.minisig")));
}
