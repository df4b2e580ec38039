//! `zstrap key`, `publish` and `verify`, by the real program.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use support::{
    Work, all_below, done, ended, mode, needs_root, odd_tree, private, refused, text, value, whole_bundle,
};

#[test]
fn a_key_is_private_and_never_overwritten() {
    let work = Work::new();
    let permissions = work.path("keys/admin.key").metadata().unwrap().permissions();
    assert_eq!(permissions.mode() & 0o7777, 0o600);
    let before = work.read("keys/admin.key");
    let said = refused(work.zstrap(&["key", "new", "--out", "keys", "--name", "admin", "--no-password"]));
    assert!(said.starts_with("zstrap: making keys/admin.key: "), "{said}");
    assert_eq!(work.read("keys/admin.key"), before);
}

#[test]
fn a_key_without_no_password_is_wrong_usage() {
    let work = Work::new();
    let (code, said) = ended(work.zstrap(&["key", "new", "--out", "keys", "--name", "other"]));
    assert_eq!(code, 2);
    assert!(said.contains("pass --no-password"), "{said}");
    assert!(!work.path("keys/other.key").exists());
}

#[test]
fn names_and_architectures_are_checked_as_usage() {
    let work = Work::new();
    work.write("tree/a", "a");
    for (bundle, arch) in [("../x", "amd64"), ("Demo", "amd64"), ("demo", "x86_64")] {
        let arguments = ["publish", "tree", "--site", "site", "--bundle", bundle, "--arch", arch];
        let mut command = work.zstrap(&arguments);
        command.args(["--key", "keys/admin.key"]);
        assert_eq!(ended(command).0, 2, "{bundle} {arch}");
    }
    assert!(!work.path("site").exists());
}

#[test]
fn publishes_a_bundle_that_a_node_accepts() {
    let work = Work::new();
    odd_tree(&work);
    let said = done(work.publish(&[]));
    let (serial, list) = whole_bundle(&work, &work.path("site"));
    assert_eq!(value(&said, "bundle"), "demo");
    assert_eq!(value(&said, "arch"), "amd64");
    assert_eq!(value(&said, "serial"), serial.to_string());
    assert_eq!(value(&said, "entries"), list.entries().len().to_string());
    assert_eq!(value(&said, "bytes"), list.total_size().to_string());
    done(work.zstrap(&["verify", &work.list(), "--key", "keys/admin.pub", "--dir", "tree"]));
}

#[test]
fn files_are_public_whatever_the_umask() {
    let work = Work::new();
    work.write("tree/a", "a");
    let site = work.path("site");
    done(private(&work, &work.publish(&[])));
    let blob = std::fs::read_dir(site.join("blobs/sha256")).unwrap().next().unwrap().unwrap().path();
    for (path, mode) in
        [(blob, 0o644), (work.path(work.list()), 0o644), (site.join("bundles/demo"), 0o755), (site, 0o755)]
    {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn a_dry_run_prints_the_list_and_writes_nothing() {
    let work = Work::new();
    odd_tree(&work);
    let list = done(work.publish(&["--dry-run"]));
    assert!(!work.path("site").exists());
    done(work.publish(&[]));
    assert_eq!(text(&work.read(work.list())), list);
}

#[test]
fn serials_grow_and_old_lists_stay() {
    let work = Work::new();
    work.write("tree/a", "one");
    done(work.publish(&[]));
    let (first, old) = (work.serial(), work.list());
    work.write("tree/a", "two");
    done(work.publish(&[]));
    assert!(work.serial() > first);
    assert!(work.path(&old).exists());
    done(work.zstrap(&["verify", &old, "--key", "keys/admin.pub"]));
    // A serial ahead of the clock, as after a clock that ran fast, is followed by the next one.
    work.write("site/bundles/demo/amd64/latest", "9000000000\n");
    done(work.publish(&[]));
    assert_eq!(work.serial(), 9_000_000_001);
}

#[test]
fn what_is_there_is_not_written_again() {
    let work = Work::new();
    work.write("tree/small", "small");
    work.write("tree/large", vec![7; 5 << 20]);
    done(work.publish(&[]));
    let inodes = || {
        use std::os::unix::fs::MetadataExt;
        let blobs = std::fs::read_dir(work.path("site/blobs/sha256")).unwrap();
        let mut inodes: Vec<_> = blobs.map(|blob| blob.unwrap().metadata().unwrap().ino()).collect();
        inodes.sort_unstable();
        inodes
    };
    let before = inodes();
    done(work.publish(&[]));
    assert_eq!(inodes(), before);
}

#[test]
fn a_blob_cut_short_is_written_again() {
    let work = Work::new();
    work.write("tree/a", "content");
    done(work.publish(&[]));
    let blob = std::fs::read_dir(work.path("site/blobs/sha256")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&blob, "con").unwrap();
    done(work.publish(&[]));
    whole_bundle(&work, &work.path("site"));
}

#[test]
fn a_damaged_blob_of_the_right_size_is_written_again() {
    let work = Work::new();
    work.write("tree/small", "content");
    work.write("tree/large", vec![1; 3 << 20]);
    done(work.publish(&[]));
    for blob in std::fs::read_dir(work.path("site/blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&blob, bytes).unwrap();
    }
    done(work.publish(&[]));
    whole_bundle(&work, &work.path("site"));
}

#[test]
fn a_large_file_that_changed_within_its_size_is_stored_anew() {
    let work = Work::new();
    let mut content = vec![1; 3 << 20];
    work.write("tree/large", &content);
    done(work.publish(&[]));
    content[2 << 20] = 2;
    work.write("tree/large", &content);
    let output = work.publish(&[]).output().unwrap();
    let said = text(&output.stderr);
    // It is read twice, once to see that it changed, and is one file of its size all the same.
    assert!(said.contains(&format!("storing: {} bytes in ", content.len())), "{said}");
    whole_bundle(&work, &work.path("site"));
    done(work.zstrap(&["verify", &work.list(), "--key", "keys/admin.pub", "--dir", "tree"]));
}

#[test]
fn refuses_what_a_list_cannot_hold_and_names_it() {
    needs_root();
    let work = Work::new();
    work.write("tree/a", "a");
    done(work.command("mkfifo", &["tree/pipe"]));
    let _socket = std::os::unix::net::UnixListener::bind(work.path("tree/sock")).unwrap();
    done(work.command("mknod", &["tree/null", "c", "1", "3"]));
    let said = refused(work.publish(&[]));
    for expected in ["./pipe is a fifo", "./sock is a socket", "./null is a device"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!work.path("site").exists());
}

#[test]
fn refuses_set_id_bits_unless_allowed() {
    for bits in [0o4755, 0o2755] {
        let work = Work::new();
        work.write("tree/su", "a");
        mode(&work.path("tree/su"), bits);
        let said = refused(work.publish(&[]));
        assert!(said.contains(&format!("./su has mode {bits:04o}, expected no set-id bits")), "{said}");
        done(work.publish(&["--allow-setuid"]));
        assert!(text(&work.read(work.list())).contains(&format!("./su type=file mode={bits:04o} ")));
    }
}

/// A place on the file system of the build, which keeps attributes; a tmpfs of older kernels does not.
fn tree_with_attributes(set: impl Fn(&std::path::Path)) -> (Work, tempfile::TempDir) {
    let work = Work::new();
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    mode(tree.path(), 0o755);
    std::fs::write(tree.path().join("f"), "f").unwrap();
    set(&tree.path().join("f"));
    std::os::unix::fs::symlink(tree.path(), work.path("tree")).unwrap();
    (work, tree)
}

fn set_attribute(path: &std::path::Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

#[test]
fn refuses_extended_attributes_and_file_capabilities() {
    needs_root();
    let (work, _tree) = tree_with_attributes(|file| set_attribute(file, "user.note", b"1"));
    let said = refused(work.publish(&[]));
    assert!(said.contains("./f has extended attributes (user.note)"), "{said}");
    // cap_net_raw=ep, version 2 of the format.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (work, _tree) = tree_with_attributes(|file| set_attribute(file, "security.capability", &capability));
    let said = refused(work.publish(&[]));
    assert!(said.contains("./f has extended attributes (security.capability)"), "{said}");
}

#[test]
fn refuses_a_site_inside_the_tree() {
    let work = Work::new();
    work.write("tree/a", "a");
    let mut command = work.zstrap(&["publish", "tree", "--site", "tree/site", "--bundle", "demo"]);
    command.args(["--arch", "amd64", "--key", "keys/admin.key"]);
    assert_eq!(refused(command), "zstrap: site tree/site is inside tree, expected it elsewhere");
}

#[test]
fn a_refused_site_inside_the_tree_leaves_nothing_there() {
    let work = Work::new();
    work.write("tree/a", "a");
    std::os::unix::fs::symlink("tree", work.path("link")).unwrap();
    for site in ["tree/site", "tree/deep/site", "tree", "link/site"] {
        let mut command = work.zstrap(&["publish", "tree", "--site", site, "--bundle", "demo"]);
        command.args(["--arch", "amd64", "--key", "keys/admin.key"]);
        let said = refused(command);
        assert_eq!(said, format!("zstrap: site {site} is inside tree, expected it elsewhere"));
        assert_eq!(all_below(&work.path("tree")), [work.path("tree/a")], "{site}");
    }
}

#[test]
fn refuses_to_publish_the_key_that_signs() {
    let work = Work::new();
    work.write("tree/a", "a");
    std::fs::rename(work.path("keys"), work.path("tree/keys")).unwrap();
    std::os::unix::fs::symlink("tree/keys", work.path("keys")).unwrap();
    for more in [&[][..], &["--dry-run"]] {
        let said = refused(work.publish(more));
        assert_eq!(said, "zstrap: key keys/admin.key is inside tree, expected it elsewhere");
    }
    assert!(!work.path("site").exists());
}

#[test]
fn refuses_files_that_are_secret_keys_whatever_their_names() {
    let work = Work::new();
    let key = text(&work.read("keys/admin.key"));
    // The marks at its begin say whether a key is under a password: none, or scrypt.
    let locked = key.replace("\nRWQAAEIy", "\nRWRTY0Iy");
    assert_ne!(locked, key);
    work.write("tree/etc/plain", &key);
    work.write("tree/etc/locked", &locked);
    work.write("tree/etc/admin.pub", work.read("keys/admin.pub"));
    for more in [&[][..], &["--dry-run"]] {
        let said = refused(work.publish(more));
        assert!(said.contains("./etc/plain is a secret key"), "{said}");
        assert!(said.contains("./etc/locked is a secret key") && !said.contains("admin.pub"), "{said}");
    }
    assert!(!work.path("site").exists());
}

#[test]
fn warns_of_private_files_that_become_public() {
    let work = Work::new();
    for name in ["open", "shadow", "token"] {
        work.write(format!("tree/{name}"), name);
    }
    mode(&work.path("tree/shadow"), 0o640);
    mode(&work.path("tree/token"), 0o600);
    let output = work.publish(&[]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("become public: 2, namely ./shadow, ./token"), "{said}");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_word() {
    let work = Work::new();
    work.write("tree/a", "a");
    done(work.publish(&[]));
    work.write("tree/a", "b");
    let list = work.list();
    let verify = work.zstrap(&["verify", &list, "--key", "keys/admin.pub", "--dir", "tree"]);
    for mut command in [work.publish(&["--dry-run"]), verify] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        let said = text(&output.stderr);
        // As shells report a program that SIGPIPE ended; 0 would say that the tree is as listed.
        assert_eq!(output.status.code(), Some(141), "{said}");
        assert!(!said.contains("panicked") && !said.contains("zstrap: "), "{said}");
    }
}

#[test]
fn a_new_key_is_on_the_disk_with_its_folder() {
    let work = Work::new();
    let mut traced = work.command("strace", &["-f", "-y", "-e", "trace=fsync", "-o", "trace"]);
    traced.args([support::ZSTRAP, "key", "new", "--out", "keys", "--name", "other", "--no-password"]);
    done(traced);
    let trace = text(&work.read("trace"));
    let synced: Vec<&str> =
        trace.lines().filter_map(|line| line.split_once('<')?.1.split('>').next()).collect();
    let names: Vec<_> = synced.iter().filter_map(|path| path.rsplit('/').next()).collect();
    assert_eq!(names, ["other.key", "other.pub", "keys"], "{trace}");
}

#[test]
fn refuses_while_another_publishes() {
    let work = Work::new();
    work.write("tree/a", "a");
    done(work.publish(&[]));
    let lock = std::fs::File::open(work.path("site/.tmp/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = refused(work.publish(&[]));
    assert_eq!(said, "zstrap: site site is being written to by another zstrap");
    drop(lock);
    done(work.publish(&[]));
}

#[test]
fn expiry_is_a_span_or_a_time() {
    let work = Work::new();
    work.write("tree/a", "a");
    let said = done(work.publish(&["--expires", "2099-01-02"]));
    assert_eq!(value(&said, "expires"), "2099-01-02T00:00:00Z");
    assert!(refused(work.publish(&["--expires", "2020-01-02T00:00:00Z"])).contains("is not after now"));
    assert_eq!(ended(work.publish(&["--expires", "soon"])).0, 2);
}

#[test]
fn verify_refuses_a_list_whose_time_has_passed() {
    let work = Work::new();
    work.write("tree/a", "a");
    done(work.publish(&["--expires", "1s"]));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let said = refused(work.zstrap(&["verify", &work.list(), "--key", "keys/admin.pub"]));
    assert!(said.starts_with("zstrap: expired at "), "{said}");
}

#[test]
fn errors_print_their_chain_once() {
    let work = Work::new();
    work.write("tree/a", "a");
    work.write("keys/bad.key", "nonsense\n");
    let mut command = work.zstrap(&["publish", "tree", "--site", "site", "--bundle", "demo"]);
    command.args(["--arch", "amd64", "--key", "keys/bad.key"]);
    let said = refused(command);
    assert!(said.starts_with("zstrap: reading key keys/bad.key: secret key: "), "{said}");
    assert_eq!(said.matches("secret key").count(), 1, "{said}");
}

/// A tree with a file that compresses well, one that does not at all, and one that is too small to.
fn packable_tree(work: &Work) {
    work.write("tree/text", "a line of text\n".repeat(2000));
    let noise = done(work.command("sh", &["-c", "openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c 300000 >noise; echo done"]));
    assert_eq!(noise, "done\n");
    work.write("tree/noise", work.read("noise"));
    work.write("tree/small", "0".repeat(4095));
}

/// What a command that must succeed says on stderr.
fn talk_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

fn compressed_blobs(work: &Work) -> Vec<std::path::PathBuf> {
    let blobs = all_below(&work.path("site/blobs/sha256"));
    blobs.into_iter().filter(|blob| blob.extension().is_some_and(|name| name == "zst")).collect()
}

#[test]
fn what_saves_a_tenth_is_stored_compressed_too() {
    let work = Work::new();
    packable_tree(&work);
    let said = talk_of(work.publish(&[]));
    let blobs = compressed_blobs(&work);
    assert_eq!(blobs.len(), 1);
    let length = blobs[0].metadata().unwrap().len();
    assert!(said.contains(&format!("compressed: blobs=1 new=1 before=30000 after={length}\n")), "{said}");
    // The judge is zstd(1), with the memory that a node allows.
    let unpack = ["-dcq", "--memory=2MB", blobs[0].to_str().unwrap()];
    assert_eq!(done(work.command("zstd", &unpack)), text(&work.read("tree/text")));
    let hint = text(&work.read(work.list().replace(".mtree", ".packed")));
    let name = blobs[0].file_stem().unwrap().to_str().unwrap();
    assert_eq!(hint, format!("{name} {}\n", blobs[0].metadata().unwrap().len()));
    whole_bundle(&work, &work.path("site"));
}

#[test]
fn publishing_again_compresses_nothing_again() {
    let work = Work::new();
    packable_tree(&work);
    let first = talk_of(work.publish(&[]));
    let second = talk_of(work.publish(&[]));
    let gain = |said: &str| said.split_once("compressed: ").unwrap().1.to_owned();
    assert_eq!(gain(&second), gain(&first).replace("new=1", "new=0"));
    // An unchanged site gives its blobs to another bundle, too.
    let other = ["publish", "tree", "--site", "site", "--bundle", "other", "--arch", "amd64"];
    let mut other = work.zstrap(&other);
    other.args(["--key", "keys/admin.key"]);
    assert_eq!(gain(&talk_of(other)), gain(&second));
}

#[test]
fn the_same_content_is_compressed_to_the_same_bytes() {
    let bytes = || {
        let work = Work::new();
        packable_tree(&work);
        work.write("tree/large", "0123456789".repeat(500_000));
        done(work.publish(&[]));
        compressed_blobs(&work).iter().map(|blob| std::fs::read(blob).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn without_zstd_there_is_no_hint_and_a_later_publish_compresses() {
    let work = Work::new();
    packable_tree(&work);
    done(work.publish(&["--no-zstd"]));
    assert_eq!(compressed_blobs(&work).len(), 0);
    assert!(!work.path(work.list().replace(".mtree", ".packed")).exists());
    done(work.publish(&[]));
    assert_eq!(compressed_blobs(&work).len(), 1);
}

#[test]
fn verify_says_how_much_of_a_site_it_has_checked() {
    let work = Work::new();
    packable_tree(&work);
    work.write("tree/empty", "");
    work.write("tree/twice", work.read("tree/text"));
    done(work.publish(&[]));
    let length = compressed_blobs(&work)[0].metadata().unwrap().len();
    let said = done(work.zstrap(&["verify", &work.list(), "--key", "keys/admin.pub", "--site", "site"]));
    let expected = format!("blobs=3 bytes=334095 compressed=1 compressed_bytes={length}");
    assert_eq!(said.lines().last(), Some(expected.as_str()), "{said}");
}

#[test]
fn verify_names_blobs_that_are_missing_or_damaged() {
    let work = Work::new();
    packable_tree(&work);
    done(work.publish(&[]));
    let compressed = compressed_blobs(&work).remove(0);
    let mut bytes = std::fs::read(&compressed).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&compressed, bytes).unwrap();
    let plain = compressed.with_extension("");
    std::fs::remove_file(&plain).unwrap();
    let list = work.list();
    let verify = || work.zstrap(&["verify", &list, "--key", "keys/admin.pub", "--site", "site"]);
    let output = verify().output().unwrap();
    let found = text(&output.stdout);
    let name = plain.file_name().unwrap().to_str().unwrap();
    assert!(found.contains(&format!("\nblobs/sha256/{name}: opening ")), "{found}");
    assert!(found.contains(&format!("\nblobs/sha256/{name}.zst: ")), "{found}");
    assert!(refused(verify()).ends_with("site site differs from the list in 2 places"));
    done(work.publish(&[]));
    whole_bundle(&work, &work.path("site"));
}

#[test]
fn hard_links_become_files_over_one_blob() {
    let work = Work::new();
    work.write("tree/one", "content");
    std::fs::hard_link(work.path("tree/one"), work.path("tree/two")).unwrap();
    done(work.publish(&[]));
    assert_eq!(text(&work.read(work.list())).matches(" type=file ").count(), 2);
    assert_eq!(std::fs::read_dir(work.path("site/blobs/sha256")).unwrap().count(), 1);
}

/// Not a test of time: the log must name what was done, without a terminal's control codes.
#[test]
fn talk_goes_to_stderr_in_plain_lines() {
    let work = Work::new();
    work.write("tree/a", "a");
    let mut command: Command = work.publish(&[]);
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("storing: 1 bytes in "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\r'), "{said:?}");
    assert_eq!(text(&output.stdout).lines().count(), 1);
}
