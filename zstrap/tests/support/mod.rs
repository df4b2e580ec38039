//! What the command's tests share: running the real program and the judges, trees with odd names, stand-ins
//! for a kernel and an init.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use zstrap_formats::digest::ContentDigest;
use zstrap_formats::key::PublicKey;
use zstrap_formats::list::{EntryKind, List};
use zstrap_formats::name::Arch;
use zstrap_formats::signature::{Accept, ArchField, Keyring, Kind, Signature, Subject, TrustedComment};
use zstrap_formats::site;

pub const ZSTRAP: &str = env!("CARGO_BIN_EXE_zstrap");

/// A folder with a key, a site and a tree to publish.
pub struct Work {
    folder: tempfile::TempDir,
}

impl Work {
    /// Makes the key `admin`; site and tree are for the test.
    pub fn new() -> Self {
        let work = Work { folder: tempfile::tempdir().unwrap() };
        done(work.zstrap(&["key", "new", "--out", "keys", "--name", "admin", "--no-password"]));
        work
    }

    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, below: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn read(&self, below: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(below);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A command that runs in the work folder, and speaks English and UTC wherever the tests run.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).env_remove("SOURCE_DATE_EPOCH");
        command.env("LC_ALL", "C").env("TZ", "UTC").env_remove("LANGUAGE");
        command
    }

    pub fn zstrap(&self, arguments: &[&str]) -> Command {
        self.command(ZSTRAP, arguments)
    }

    /// Publishes `tree` as bundle demo for amd64, with more arguments.
    pub fn publish(&self, more: &[&str]) -> Command {
        let first = ["publish", "tree", "--site", "site", "--bundle", "demo", "--arch", "amd64"];
        let mut command = self.zstrap(&first);
        command.args(["--key", "keys/admin.key"]).args(more);
        command
    }

    /// Path of the list that `latest` of bundle demo names, below the work folder.
    pub fn list(&self) -> String {
        format!("site/bundles/demo/amd64/{}.mtree", self.serial())
    }

    pub fn serial(&self) -> u64 {
        site::parse_latest(&self.read("site/bundles/demo/amd64/latest")).unwrap()
    }

    /// Adds a config for bundle demo.
    pub fn add_config(&self, name: &str, description: &str) -> String {
        let text = format!(
            "{{\"version\":1,\"description\":\"{description}\",\"bundle\":\"demo\",\"exec\":[\"/sbin/init\"]}}\n"
        );
        self.write(format!("{name}.json"), text);
        let file = format!("{name}.json");
        done(self.zstrap(&["config", "add", &file, "--site", "site", "--key", "keys/admin.key"]))
    }
}

/// For tests that make devices, set capabilities or give files away.
pub fn needs_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
}

/// A command of the work folder under umask 077.
pub fn private(work: &Work, command: &Command) -> Command {
    let mut private = work.command("sh", &["-c", "umask 077; exec \"$@\"", "sh"]);
    private.arg(command.get_program()).args(command.get_args());
    private
}

/// All paths below a folder, in order.
pub fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Runs a command that must succeed, and returns what it prints.
pub fn done(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must end with exit code 1 and one error line, and returns that line.
pub fn refused(command: Command) -> String {
    let (code, line) = ended(command);
    assert_eq!(code, 1, "{line}");
    line
}

/// The exit code of a command that fails, and the last line of what it says.
pub fn ended(mut command: Command) -> (i32, String) {
    let output: Output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{command:?} succeeded: {said}");
    (output.status.code().unwrap_or(-1), said.lines().last().unwrap_or_default().to_owned())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The value of `key=value` in a line of words.
pub fn value<'a>(line: &'a str, key: &str) -> &'a str {
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key}= in {line:?}"))
}

/// File names that are hard on formats. None has a character of globs: mtree(8) takes those as such even when
/// they are escaped.
pub fn odd_names() -> Vec<&'static OsStr> {
    let names: [&[u8]; 10] = [
        b"plain",
        b"with space",
        b"#comment",
        b"a=b",
        b"back\\slash",
        b"back\\040slash",
        b"line\nbreak",
        "gr\u{fc}n \u{65e5}\u{672c}".as_bytes(),
        b"raw\xff\xfe",
        b"-dash",
    ];
    names.into_iter().map(OsStr::from_bytes).collect()
}

/// A tree with odd names, links, empty files, folders and modes.
pub fn odd_tree(work: &Work) {
    for name in odd_names() {
        work.write(Path::new("tree/odd").join(name), name.as_bytes());
        std::os::unix::fs::symlink(name, work.path("tree").join([b"to ", name.as_bytes()].concat().as_os()))
            .unwrap();
    }
    work.write("tree/empty", "");
    work.write("tree/sbin/init", "#!/bin/sh\n");
    mode(&work.path("tree/sbin/init"), 0o755);
    std::fs::create_dir(work.path("tree/tmp")).unwrap();
    mode(&work.path("tree/tmp"), 0o1777);
    std::os::unix::fs::symlink("/absolute/a b", work.path("tree/link")).unwrap();
}

/// Bytes as a path's name.
pub trait AsOs {
    fn as_os(&self) -> &OsStr;
}

impl AsOs for Vec<u8> {
    fn as_os(&self) -> &OsStr {
        OsStr::from_bytes(self)
    }
}

pub fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What a node would accept of bundle demo: the list that `latest` names, signed by key `admin`, with all its
/// blobs present and whole, and the compressed ones that the hint beside it names.
pub fn whole_bundle(work: &Work, site: &Path) -> (u64, List) {
    let read = |path: &str| std::fs::read(site.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let name = "demo".parse().unwrap();
    let serial = site::parse_latest(&read(&site::bundle_latest(&name, Arch::Amd64))).unwrap();
    let path = site::list(&name, Arch::Amd64, serial);
    let bytes = read(&path);
    let key = PublicKey::parse(&text(&work.read("keys/admin.pub"))).unwrap();
    let signature = Signature::parse(&read(&site::signature(&path))).unwrap();
    let verified = Keyring::new(vec![key], 1).unwrap().verify(&bytes, &[signature], Accept::PrehashedOnly);
    let comment: TrustedComment = verified.unwrap().parse().unwrap();
    let arch = ArchField::One(Arch::Amd64);
    comment.check_subject(&Subject { kind: Kind::List, name: &name, arch }).unwrap();
    assert_eq!(comment.serial, serial);
    let list = List::parse(&bytes).unwrap();
    for entry in list.entries() {
        if let EntryKind::File(digest) = &entry.kind {
            assert_eq!(
                ContentDigest::of(&read(&site::blob(&digest.sha256))),
                *digest,
                "{}",
                entry.display_path()
            );
        }
    }
    done(work.zstrap(&[
        "verify",
        &site.join(path).display().to_string(),
        "--key",
        "keys/admin.pub",
        "--site",
        &site.display().to_string(),
    ]));
    (serial, list)
}

/// The head of a bzImage of release 6.1.0-test, as far as images look.
pub fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 4096];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    kernel[0x300..0x30b].copy_from_slice(b"6.1.0-test ");
    kernel
}

/// The header of a static program for amd64.
pub fn init() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf[20] = 1;
    elf[52] = 64;
    elf
}
