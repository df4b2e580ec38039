//! Other people's programs judge our formats: minisign, mtree, bsdtar, GNU cpio.
//!
//! In: those programs on PATH; a missing one fails its test and names the package, because a format that only we
//! agree with is not the format we claim. Out: nothing stays behind but temporary folders that remove themselves.

#![allow(clippy::unwrap_used)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use zstrap_formats::cpio::Archive;
use zstrap_formats::digest::ContentDigest;
use zstrap_formats::key::{PublicKey, SecretKey};
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::signature::{Accept, Keyring, Signature, SignatureError};

const COMMENT: &str = "zstrap1 kind=list name=demo arch=amd64 serial=1795161600 \
     created=2026-11-20T08:00:00Z expires=2027-02-20T08:00:00Z";

/// Runs a judge in `folder`; `package` is Debian's name for what brings it.
fn judge(package: &str, program: &str, folder: &Path, args: &[&OsStr], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} judges this format; install the package {package}: {e}"));
    // A judge that has seen enough closes the pipe: its verdict counts, not the rest of our bytes.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

fn words<'a>(args: &[&'a str]) -> Vec<&'a OsStr> {
    args.iter().map(|word| OsStr::new(*word)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a judge printed, if it was content.
fn approved(out: &Output) -> String {
    assert!(out.status.success(), "{}\n{}{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

// ---- minisign ----

fn minisign(folder: &Path, args: &[&str]) -> Output {
    judge("minisign", "minisign", folder, &words(args), b"")
}

fn key() -> SecretKey {
    SecretKey::from_seed([42; 32], *b"\x01\x23\x45\x67\x89\xab\xcd\xef")
}

/// A folder with a file `m`, its signature by us and our public key.
fn signed_by_us(data: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m"), data).unwrap();
    fs::write(folder.path().join("m.minisig"), key().sign(data, COMMENT).to_file()).unwrap();
    fs::write(folder.path().join("our.pub"), key().public().to_file()).unwrap();
    folder
}

#[test]
fn minisign_verifies_our_signatures_and_prints_our_comment() {
    for data in [&b"#mtree\n"[..], b"", &[0xff; 100_000]] {
        let folder = signed_by_us(data);
        let out = minisign(folder.path(), &["-Vm", "m", "-p", "our.pub"]);
        let expected = format!("Signature and comment signature verified\nTrusted comment: {COMMENT}\n");
        assert_eq!(approved(&out), expected);
        let line = key().public().to_base64();
        let out = minisign(folder.path(), &["-VQH", "-m", "m", "-P", &line]);
        assert_eq!(approved(&out), format!("{COMMENT}\n"));
    }
}

#[test]
fn minisign_refuses_what_we_refuse() {
    let folder = signed_by_us(b"list");
    fs::write(folder.path().join("m"), b"lisT").unwrap();
    assert!(!minisign(folder.path(), &["-Vm", "m", "-p", "our.pub"]).status.success());
    fs::write(folder.path().join("m"), b"list").unwrap();
    approved(&minisign(folder.path(), &["-Vm", "m", "-p", "our.pub"]));
    let changed = key().sign(b"list", COMMENT).to_file().replace("arch=amd64", "arch=arm64");
    fs::write(folder.path().join("m.minisig"), changed).unwrap();
    assert!(!minisign(folder.path(), &["-Vm", "m", "-p", "our.pub"]).status.success());
}

/// A folder with a file `m` and keys that minisign made without a password.
fn minisign_keys() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m"), b"data").unwrap();
    approved(&minisign(folder.path(), &["-G", "-W", "-p", "m.pub", "-s", "m.key"]));
    folder
}

fn read(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap()
}

fn verify(folder: &TempDir, accept: Accept) -> Result<String, SignatureError> {
    let public = PublicKey::parse(&read(folder, "m.pub")).unwrap();
    let signature = Signature::parse(read(folder, "m.minisig").as_bytes()).unwrap();
    Keyring::new(vec![public], 1).unwrap().verify(b"data", &[signature], accept)
}

#[test]
fn we_verify_signatures_of_minisign() {
    let folder = minisign_keys();
    approved(&minisign(folder.path(), &["-Sm", "m", "-s", "m.key", "-t", COMMENT]));
    assert_eq!(verify(&folder, Accept::PrehashedOnly).as_deref(), Ok(COMMENT));
    approved(&minisign(folder.path(), &["-Sm", "m", "-s", "m.key"]));
    let usual = verify(&folder, Accept::PrehashedOnly).unwrap();
    assert!(usual.starts_with("timestamp:") && usual.ends_with("\tfile:m\thashed"), "{usual}");
}

#[test]
fn legacy_signatures_of_minisign_are_for_people_only() {
    let folder = minisign_keys();
    approved(&minisign(folder.path(), &["-S", "-l", "-m", "m", "-s", "m.key", "-t", "old"]));
    assert_eq!(verify(&folder, Accept::Legacy).as_deref(), Ok("old"));
    let error = verify(&folder, Accept::PrehashedOnly).unwrap_err();
    assert!(matches!(error, SignatureError::Legacy(_)), "{error}");
}

#[test]
fn a_key_of_minisign_signs_here() {
    let folder = minisign_keys();
    let secret = SecretKey::parse(&read(&folder, "m.key")).unwrap();
    assert_eq!(secret.public(), PublicKey::parse(&read(&folder, "m.pub")).unwrap());
    assert_eq!(secret.public().to_file(), with_whole_id(&read(&folder, "m.pub")), "public key file");
    fs::write(folder.path().join("m.minisig"), secret.sign(b"data", COMMENT).to_file()).unwrap();
    approved(&minisign(folder.path(), &["-Vm", "m", "-p", "m.pub"]));
}

/// A public key file of minisign, which leaves the zeros before an id out: one key in sixteen has such an id.
fn with_whole_id(file: &str) -> String {
    let (comment, key) = file.split_once('\n').expect("two lines");
    let (words, id) = comment.rsplit_once(' ').expect("words and an id");
    format!("{words} {id:0>16}\n{key}")
}

#[test]
fn a_key_of_minisign_whose_id_begins_with_zero_was_another_one_here() {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::from_seed([42; 32], [0x23, 0x01, 0, 0, 0, 0, 0, 0]);
    fs::write(folder.path().join("m.key"), key.to_file()).unwrap();
    approved(&minisign(folder.path(), &["-R", "-s", "m.key", "-p", "m.pub"]));
    let theirs = read(&folder, "m.pub");
    assert!(theirs.starts_with("untrusted comment: minisign public key 123\n"), "{theirs}");
    assert_eq!(PublicKey::parse(&theirs).unwrap(), key.public());
    assert_eq!(with_whole_id(&theirs), key.public().to_file());
}

#[test]
fn our_key_signs_with_minisign() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m"), b"data").unwrap();
    fs::write(folder.path().join("m.key"), key().to_file()).unwrap();
    approved(&minisign(folder.path(), &["-Sm", "m", "-s", "m.key", "-t", COMMENT]));
    approved(&minisign(folder.path(), &["-R", "-s", "m.key", "-p", "m.pub"]));
    assert_eq!(read(&folder, "m.pub"), key().public().to_file());
    assert_eq!(verify(&folder, Accept::PrehashedOnly).as_deref(), Ok(COMMENT));
    // Ed25519 is deterministic: minisign and we make the very same signature.
    let ours = key().sign(b"data", COMMENT).to_file();
    assert_eq!(
        read(&folder, "m.minisig").lines().skip(1).collect::<Vec<_>>(),
        ours.lines().skip(1).collect::<Vec<_>>()
    );
}

// ---- mtree and bsdtar ----

/// Names that break careless writers; none is a glob, which mtree(8) would expand.
fn odd_names() -> Vec<&'static [u8]> {
    vec![
        b"plain",
        b"a b",
        b" lead",
        b"trail ",
        b"#hash",
        b"a=b",
        b"back\\slash",
        b"\\040",
        b"line\nbreak",
        b"tab\tbed",
        b"cr\rx",
        "gr\u{fc}n".as_bytes(),
        b"raw\xff\x80\x01",
        b"del\x7f",
        b"-dash",
        b"~tilde",
        b"q'\"`$",
        b"..dots",
        b"%41",
    ]
}

/// Files of all those names, in folders with all those names, with odd modes and links.
fn odd_tree(names: &[&[u8]]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (i, name) in names.iter().enumerate() {
        let folder = root.path().join(OsString::from_vec([b"d", *name].concat()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(OsStr::from_bytes(name)), vec![b'x'; i * 1000]).unwrap();
        fs::write(root.path().join(OsStr::from_bytes(name)), name).unwrap();
        symlink(OsStr::from_bytes(name), root.path().join(OsString::from_vec([b"l", *name].concat())))
            .unwrap();
    }
    symlink("/abs/../olute", root.path().join("out")).unwrap();
    for (name, mode) in [("plain", 0o4755), ("a b", 0o400), ("dplain", 0o1777), ("da b", 0o2750)] {
        fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    root
}

/// The list of a tree as it stands on disk.
fn list_of(root: &Path) -> List {
    let mut entries = Vec::new();
    walk(root, root, &mut entries);
    List::new(entries).unwrap()
}

fn walk(root: &Path, path: &Path, entries: &mut Vec<Entry>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = if meta.is_dir() {
        fs::read_dir(path).unwrap().for_each(|child| walk(root, &child.unwrap().path(), entries));
        EntryKind::Dir
    } else if meta.is_symlink() {
        EntryKind::Link(fs::read_link(path).unwrap().into_os_string().into_vec())
    } else {
        EntryKind::File(ContentDigest::of(&fs::read(path).unwrap()))
    };
    let mode = u16::try_from(meta.mode() & 0o7777).unwrap();
    let path = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
    entries.push(Entry { path, mode, uid: 0, gid: 0, kind });
}

/// Runs mtree over a tree and a list; content is silent and returns 0.
fn mtree(root: &Path, list: &[u8]) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), list).unwrap();
    let args = [OsStr::new("-p"), root.as_os_str(), OsStr::new("-f"), file.path().as_os_str()];
    let out = judge("mtree-netbsd", "mtree", root, &args, b"");
    let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
    if out.status.success() && said.is_empty() { Ok(()) } else { Err(format!("{}: {said}", out.status)) }
}

#[test]
fn mtree_finds_the_tree_that_our_list_describes() {
    let root = odd_tree(&odd_names());
    assert_eq!(mtree(root.path(), list_of(root.path()).to_text().as_bytes()), Ok(()));
}

#[test]
fn mtree_sees_every_change_through_our_list() {
    let root = odd_tree(&odd_names());
    let list = list_of(root.path()).to_text();
    let at = |name: &str| root.path().join(name);
    let disagrees = |what: &str| {
        let said = mtree(root.path(), list.as_bytes()).expect_err(what);
        assert!(said.contains("a b"), "{what}: {said}");
    };
    fs::set_permissions(at("a b"), fs::Permissions::from_mode(0o644)).unwrap();
    disagrees("mode");
    fs::write(at("a b"), b"a=b").unwrap();
    fs::set_permissions(at("a b"), fs::Permissions::from_mode(0o400)).unwrap();
    disagrees("content of the same length");
    fs::write(at("a b"), b"a b").unwrap();
    assert_eq!(mtree(root.path(), list.as_bytes()), Ok(()));
    fs::remove_file(at("la b")).unwrap();
    symlink("elsewhere", at("la b")).unwrap();
    disagrees("link target");
}

/// The name of a path as `bsdtar -t` prints it in the C locale.
fn printed(path: &[u8]) -> String {
    let mut out = String::from(if path.is_empty() { "." } else { "./" });
    for byte in path {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b' '..=b'~' => out.push(char::from(*byte)),
            other => out.push_str(&format!("\\{other:03o}")),
        }
    }
    out
}

#[test]
fn bsdtar_reads_the_names_of_our_list() {
    let names = [odd_names(), vec![b"glob*?[x]", b"{a,b}"]].concat();
    let root = odd_tree(&names);
    let list = list_of(root.path());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), list.to_text()).unwrap();
    let args = [OsStr::new("-tf"), file.path().as_os_str()];
    let printed_names = approved(&judge("libarchive-tools", "bsdtar", root.path(), &args, b""));
    let mut seen: Vec<&str> = printed_names.lines().collect();
    let mut expected: Vec<String> = list.entries().iter().map(|e| printed(&e.path)).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn a_list_of_bsdtar_equals_ours() {
    let names = [odd_names(), vec![b"glob*?[x]", b"{a,b}"]].concat();
    let root = odd_tree(&names);
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = "--options=!all,type,mode,size,md5,sha256,link";
    let args = [
        OsStr::new("-cf"),
        file.path().as_os_str(),
        OsStr::new("--format=mtree"),
        OsStr::new(options),
        OsStr::new("."),
    ];
    approved(&judge("libarchive-tools", "bsdtar", root.path(), &args, b""));
    let theirs = fs::read(file.path()).unwrap();
    assert_eq!(List::parse_mtree(&theirs).unwrap(), list_of(root.path()));
}

// ---- cpio ----

/// An archive as it stands in front of an initramfs: data aligned by padding its name, then the usual.
fn archive(slot: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    assert_eq!(archive.aligned_file("identity.slot", 0o600, slot, 4096).unwrap(), 4096);
    archive.dir("lib", 0o755).unwrap();
    archive.file("lib/odd name", 0o644, b"12345").unwrap();
    archive.file("lib/empty", 0o600, b"").unwrap();
    archive.file("init", 0o755, &[0xa5; 4097]).unwrap();
    archive.link("bin", "lib/odd name").unwrap();
    archive.finish(4096)
}

const MEMBERS: [&str; 4] = ["identity.slot", "lib/odd name", "lib/empty", "init"];

fn contents(slot: &[u8]) -> [Vec<u8>; 4] {
    [slot.to_vec(), b"12345".to_vec(), Vec::new(), vec![0xa5; 4097]]
}

#[test]
fn gnu_cpio_unpacks_our_archive_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let slot: Vec<u8> = (0..16_384u32).map(|i| i.to_le_bytes()[0]).collect();
    let out = judge("cpio", "cpio", folder.path(), &words(&["-id", "--quiet"]), &archive(&slot));
    assert_eq!(approved(&out) + &text(&out.stderr), "");
    for (name, content) in MEMBERS.iter().zip(contents(&slot)) {
        assert!(fs::read(folder.path().join(name)).unwrap() == content, "{name}");
    }
    assert_eq!(fs::read_link(folder.path().join("bin")).unwrap(), Path::new("lib/odd name"));
    let mode = |name: &str| fs::symlink_metadata(folder.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("init"), mode("identity.slot"), mode("lib")), (0o755, 0o600, 0o755));
}

#[test]
fn bsdtar_unpacks_our_archive_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let slot = vec![7; 16_384];
    for (name, content) in MEMBERS.iter().zip(contents(&slot)) {
        let out =
            judge("libarchive-tools", "bsdtar", folder.path(), &words(&["-xOf", "-", name]), &archive(&slot));
        approved(&out);
        assert!(out.stdout == content, "{name}");
    }
}
