//! The overlay network of the config: mycelium, if the bundle delivers it.
//!
//! In: the config's peers, addresses and interface, the list, the filled root. Out: a key that stays with the node,
//! and a service file that starts the program with it. Failure: lines of the log. A node without its overlay still has
//! its work to do, and an admin who cannot reach it that way can read why.
//!
//! The key is 32 random bytes, made once, in the state directory. Whatever stands there is never written over: a key is
//! an address that others know. What cannot be a key, or cannot be read, is left for people to look at, and the node
//! has another key until the next boot. No link is followed on the way, as whoever was root on this node may have laid one.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use zstrap_formats::config::{Config, PeerAddress};
use zstrap_formats::list::List;

use crate::handoff::STATE;
use crate::root::NEW_ROOT;
use crate::services::{self, Dialect, Service, Written};
use crate::sys::{RootDir, System};
use crate::watchdog;

/// Where the program of the bundle is looked for, in this order; `PATH` of the handoff without our own folder.
pub const FOLDERS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Below [`STATE`].
const FOLDER: &str = "mycelium";
const KEY: &str = "key";
/// Where a key is made that lasts as long as the machine runs, when the state directory cannot have it.
const OTHER_KEY: &str = "/run/zstrap/mycelium.key";
const KEY_BYTES: usize = 32;
/// `TMPFS_MAGIC` of statfs(2).
const TMPFS: u64 = 0x0102_1994;

/// What is to be done before the handoff.
#[derive(Debug)]
pub struct Overlay {
    program: String,
    dialect: Result<Dialect, String>,
    options: Vec<String>,
}

/// Whether this config and this bundle together make an overlay; says so if they do not although the config wants one.
#[must_use]
pub fn plan(root: &dyn RootDir, list: &List, config: &Config) -> Option<Overlay> {
    let mycelium = &config.mycelium;
    if mycelium.peers.is_empty() && mycelium.listen.is_empty() {
        return None;
    }
    let programs = FOLDERS.map(|folder| format!("{folder}/mycelium"));
    let found = programs.into_iter().find(|path| root.is_executable(path.trim_start_matches('/').as_bytes()));
    let Some(program) = found else {
        log::warn!(target: "mycelium", "not started why=\"the bundle has no program mycelium in {}\"", FOLDERS.join(" "));
        return None;
    };
    Some(Overlay { program, dialect: Dialect::of(list, config), options: options(config) })
}

/// All arguments but that of the key.
fn options(config: &Config) -> Vec<String> {
    let mycelium = &config.mycelium;
    let mut options = vec!["--tun-name".to_owned(), mycelium.interface.clone()];
    for (scheme, option) in [("tcp://", "--tcp-listen-port"), ("quic://", "--quic-listen-port")] {
        let of_scheme = |address: &&PeerAddress| address.as_str().starts_with(scheme);
        let mut addresses = mycelium.listen.iter().filter(of_scheme);
        if let Some(first) = addresses.next() {
            options.extend([option.to_owned(), port(first).to_owned()]);
            let everywhere =
                ["[::]", "0.0.0.0"].iter().any(|host| first.as_str().contains(&format!("//{host}:")));
            if !everywhere {
                log::warn!(target: "mycelium", "listens at all addresses, not only at {}", first.as_str());
            }
        }
        for more in addresses {
            log::warn!(target: "mycelium", "does not listen at {}: it takes one port of {scheme}", more.as_str());
        }
    }
    if !mycelium.peers.is_empty() {
        // Last: it takes all words that follow.
        options.push("--peers".to_owned());
        options.extend(mycelium.peers.iter().map(|peer| peer.as_str().to_owned()));
    }
    options
}

/// A peer address always has one.
fn port(address: &PeerAddress) -> &str {
    address.as_str().rsplit(':').next().unwrap_or_default()
}

impl Overlay {
    /// Makes the key and writes the service. To be called when the state directory is mounted in the new root.
    pub fn leave(&self, system: &dyn System, root: &dyn RootDir) {
        let key = match kept_key() {
            Ok(key) => key,
            Err(why) => match other_key(system) {
                Ok(()) => {
                    log::warn!(target: "mycelium", "key made path={OTHER_KEY} lasts=no why=\"{why}\"");
                    OTHER_KEY.to_owned()
                }
                Err(error) => {
                    log::warn!(target: "mycelium", "not started why=\"{why}\" error={error}");
                    return;
                }
            },
        };
        match &self.dialect {
            Ok(dialect) => self.write_service(root, dialect, key),
            Err(why) => log::warn!(target: "mycelium", "not started why=\"{why}\""),
        }
    }

    fn write_service(&self, root: &dyn RootDir, dialect: &Dialect, key: String) {
        let head = [self.program.clone(), "--key-file".to_owned(), key];
        let exec = head.into_iter().chain(self.options.iter().cloned()).map(Cow::Owned).collect();
        let service = Service { name: "mycelium", exec, after: Vec::new() };
        match services::write(root, dialect, &service) {
            Ok(Written::New(path)) => {
                log::info!(target: "mycelium", "service path={path} program={}", self.program);
            }
            Ok(Written::Kept(path)) => {
                log::info!(target: "mycelium", "service path={path}: that of the bundle stays as it is");
            }
            Err(error) => log::warn!(target: "mycelium", "not started error={error}"),
        }
    }
}

/// The key of the state directory, by its path for programs.
fn kept_key() -> io::Result<String> {
    let new_root =
        rustix::fs::open(NEW_ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let state = rustix::fs::openat2(new_root, STATE, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let made = key_in(&state)?;
    let path = format!("{STATE}/{FOLDER}/{KEY}");
    let verb = if made { "made" } else { "kept" };
    if u64::try_from(rustix::fs::fstatfs(&state)?.f_type) == Ok(TMPFS) {
        log::info!(target: "mycelium", "key {verb} path={path} lasts=no: new at each boot, as the state is in RAM");
    } else {
        log::info!(target: "mycelium", "key {verb} path={path} lasts=yes");
    }
    Ok(path)
}

/// Makes the key in this state directory unless there is one. Whether it was made now is the answer.
fn key_in(state: &OwnedFd) -> io::Result<bool> {
    // The disk may be slow, and randomness take a second right after the kernel started.
    watchdog::expect_within(watchdog::WORK);
    match rustix::fs::mkdirat(state, FOLDER, Mode::from_raw_mode(0o700)) {
        Ok(()) => rustix::fs::fsync(state)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat2(state, FOLDER, flags, Mode::empty(), beneath)?;
    // A pipe that was planted there must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(&folder, KEY, flags, Mode::empty()) {
        Ok(file) => check_key(file).map(|()| false),
        Err(Errno::NOENT) => make_key(&folder).map(|()| true),
        Err(errno) => Err(named(errno.into())),
    }
}

fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{STATE}/{FOLDER}/{KEY}: {error}"))
}

fn check_key(file: OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(&file).map_err(|errno| named(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(named(io::Error::other("expected a regular file")));
    }
    // What it is another name of would get other permissions.
    if stat.st_nlink != 1 {
        return Err(named(io::Error::other(format!("expected one name, it has {}", stat.st_nlink))));
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).or_else(unwritable).map_err(named)?;
    let mut bytes = Vec::new();
    File::from(file).take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() != KEY_BYTES {
        return Err(named(io::Error::other(format!("expected {KEY_BYTES} bytes"))));
    }
    Ok(())
}

/// A disk that can only be read has a key all the same.
fn unwritable(errno: Errno) -> io::Result<()> {
    if errno == Errno::ROFS { Ok(()) } else { Err(errno.into()) }
}

/// The rename comes after the bytes are on the disk: on power loss there is a whole key or none.
fn make_key(folder: &OwnedFd) -> io::Result<()> {
    const NEW: &str = "key.new";
    match rustix::fs::unlinkat(folder, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(named(errno.into())),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(folder, NEW, flags, Mode::from_raw_mode(0o600)).map_err(|e| named(e.into()))?;
    let mut file = File::from(file);
    file.write_all(&random()?).map_err(named)?;
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(0o600))?;
    file.sync_all().map_err(named)?;
    rustix::fs::renameat_with(folder, NEW, folder, KEY, RenameFlags::NOREPLACE)
        .map_err(|e| named(e.into()))?;
    Ok(rustix::fs::fsync(folder)?)
}

fn other_key(system: &dyn System) -> io::Result<()> {
    // An attempt before this one may have left it.
    let _ = rustix::fs::unlinkat(CWD, OTHER_KEY, AtFlags::empty());
    system.write_file(OTHER_KEY, 0o600, &random()?)
}

fn random() -> io::Result<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    // As many bytes as this come whole or not at all.
    match getrandom(&mut bytes[..], GetRandomFlags::empty())? {
        KEY_BYTES => Ok(bytes),
        other => Err(io::Error::other(format!("the kernel gave {other} random bytes, expected {KEY_BYTES}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::Meta;
    use crate::sys::fake::{self, Recorder};
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;
    use zstrap_formats::digest::ContentDigest;

    fn config(mycelium: serde_json::Value) -> Config {
        let exec = ["/sbin/zinit", "init"];
        let json = serde_json::json!({"version": 1, "bundle": "demo", "exec": exec, "mycelium": mycelium});
        Config::parse_strict(json.to_string().as_bytes()).unwrap()
    }

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn dir() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        (dir, state)
    }

    #[test]
    fn arguments_are_those_of_the_config() {
        let peers = ["tcp://192.0.2.7:9651", "quic://[2001:db8::7]:9652"];
        let listen = ["tcp://[::]:9001", "quic://0.0.0.0:9002", "tcp://[::]:9003"];
        let all = config(serde_json::json!({"peers": peers, "listen": listen, "interface": "my0"}));
        let expected = "--tun-name my0 --tcp-listen-port 9001 --quic-listen-port 9002 \
                        --peers tcp://192.0.2.7:9651 quic://[2001:db8::7]:9652";
        assert_eq!(options(&all).join(" "), expected);
        let few = config(serde_json::json!({"listen": ["quic://[::]:9002"]}));
        assert_eq!(options(&few).join(" "), "--tun-name mycelium --quic-listen-port 9002");
    }

    #[test]
    fn only_a_config_that_names_it_and_a_bundle_that_has_it_make_an_overlay() {
        let file = |path: &str| fake::file_entry(path.as_bytes(), ContentDigest::of(b""));
        let list = List::new(vec![file("mycelium")]).unwrap();
        let (with, without) = (Recorder::default(), Recorder::default());
        with.create(b"usr/bin/mycelium").unwrap().commit(Meta { mode: 0o755, uid: 0, gid: 0 }).unwrap();
        let wanted = config(serde_json::json!({"peers": ["tcp://192.0.2.7:9651"]}));
        let unwanted = config(serde_json::json!({"interface": "my0"}));
        assert_eq!(plan(&with, &list, &wanted).unwrap().program, "/usr/bin/mycelium");
        assert!(plan(&with, &list, &unwanted).is_none());
        assert!(plan(&without, &list, &wanted).is_none());
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let (dir, state) = dir();
        assert!(key_in(&state).unwrap());
        let path = dir.path().join("mycelium/key");
        let key = fs::read(&path).unwrap();
        assert_eq!((key.len(), fs::metadata(&path).unwrap().mode() & 0o7777), (32, 0o600));
        assert_eq!(fs::metadata(dir.path().join("mycelium")).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!key_in(&state).unwrap());
        assert_eq!(fs::read(&path).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let (other, state) = self::dir();
        assert!(key_in(&state).unwrap());
        assert_ne!(fs::read(other.path().join("mycelium/key")).unwrap(), key);
    }

    #[test]
    fn a_key_that_was_never_finished_is_made_anew() {
        let (dir, state) = dir();
        fs::create_dir(dir.path().join("mycelium")).unwrap();
        fs::write(dir.path().join("mycelium/key.new"), "half").unwrap();
        assert!(key_in(&state).unwrap());
        assert_eq!(fs::read(dir.path().join("mycelium/key")).unwrap().len(), 32);
        assert!(!dir.path().join("mycelium/key.new").exists());
    }

    #[test]
    fn what_is_no_key_is_neither_used_nor_touched() {
        for content in ["", "31 bytes, one less than a key ..", "33 bytes, which is one more than it"] {
            let content = &content[..content.len().saturating_sub(1)];
            let (dir, state) = dir();
            fs::create_dir(dir.path().join("mycelium")).unwrap();
            let path = dir.path().join("mycelium/key");
            fs::write(&path, content).unwrap();
            let error = key_in(&state).unwrap_err().to_string();
            assert_eq!(error, "/var/lib/zstrap-state/mycelium/key: expected 32 bytes");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_key_that_is_another_name_of_something_is_left_as_it_is() {
        let (dir, state) = dir();
        let (path, other) = (dir.path().join("mycelium/key"), dir.path().join("program"));
        fs::create_dir(dir.path().join("mycelium")).unwrap();
        fs::write(&other, [7; 32]).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(&other, &path).unwrap();
        assert!(key_in(&state).unwrap_err().to_string().ends_with("expected one name, it has 2"));
        assert_eq!(fs::metadata(&other).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn no_link_or_pipe_that_was_planted_is_followed() {
        let (dir, state) = dir();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("mycelium")).unwrap();
        assert!(key_in(&state).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        fs::remove_file(dir.path().join("mycelium")).unwrap();
        fs::create_dir(dir.path().join("mycelium")).unwrap();
        let (key, target) = (dir.path().join("mycelium/key"), outside.path().join("target"));
        symlink(&target, &key).unwrap();
        assert!(key_in(&state).is_err());
        fs::write(&target, [7; 32]).unwrap();
        assert!(key_in(&state).is_err());
        fs::remove_file(&key).unwrap();
        rustix::fs::mknodat(CWD, &key, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let error = key_in(&state).unwrap_err().to_string();
        assert!(error.ends_with("expected a regular file"), "{error}");
    }
}
