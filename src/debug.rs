//! Debug access, which is off unless the signed config says otherwise.
//!
//! In: `debug` of the config, the bundle in the filled root. Out: the packet filter in the kernel, then what the two
//! programs of a session need ([`SESSION`]), then the service that starts the first of them. Failure: a line `debug: off`,
//! and nothing of these: without its filter there is no debug access, and a node without debug access still boots.
//!
//! The program is ttyd of the bundle. `node/terminal.rs` starts it, `node/login.rs` stands before the shell.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize};
use zstrap_formats::config::{Config, Debug, Network};
use zstrap_formats::list::List;

use crate::modules::Modules;
use crate::mycelium::FOLDERS;
use crate::net::nft;
use crate::node::NODE;
use crate::services::{self, Dialect, Service, Written};
use crate::sys::{RootDir, System};

/// Where ttyd listens; its own default.
pub const PORT: u16 = 7681;
/// What the programs of a session read. For root alone: a hash can be guessed at.
pub const SESSION: &str = "/run/zstrap/debug.json";
/// Modules that no device asks for: the filter, and the overlay's interface.
const MODULES: [&str; 2] = ["nf_tables", "tun"];
/// The service. No bundle has one of this name by chance.
const SERVICE: &str = "zstrap-debug";

/// A debug session as the config wants it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// The overlay's interface.
    pub interface: String,
    /// Networks that may connect, as in the config.
    pub allow: Vec<String>,
    /// The path of ttyd.
    pub program: String,
    /// Of the password, as in the config.
    pub password_hash: String,
}

impl Session {
    /// The networks that may connect.
    ///
    /// # Errors
    /// One that is none: somebody has written here since the init did.
    pub fn allow(&self) -> io::Result<Vec<Network>> {
        let networks: Result<_, String> = self.allow.iter().map(|network| network.parse()).collect();
        networks.map_err(io::Error::other)
    }
}

/// Opens the node for the addresses of the config, if it wants that; whether it is open is the answer. To be called when
/// the root is filled.
pub fn open(
    system: &dyn System,
    modules: &mut Modules,
    root: &dyn RootDir,
    list: &List,
    config: &Config,
) -> bool {
    // An earlier attempt, perhaps with another config, may have come as far as this.
    close(system);
    let Some(debug) = &config.debug else { return false };
    let interface = &config.mycelium.interface;
    match try_open(system, modules, root, (list, config), debug) {
        Ok(path) => {
            let allow = texts(&debug.allow).join(",");
            log::info!(target: "debug", "on port={PORT} allow={allow} interface={interface} service={path}");
            true
        }
        Err(why) => {
            close(system);
            log::warn!(target: "debug", "off why=\"{why}\"");
            false
        }
    }
}

/// Leaves nothing behind. What cannot be removed is not there: most nodes have neither.
fn close(system: &dyn System) {
    let _ = system.remove_file(SESSION);
    let _ = system.load_rules(&nft::nothing());
}

fn texts(networks: &[Network]) -> Vec<String> {
    networks.iter().map(Network::to_string).collect()
}

/// The path of the service, or why there is none. The filter comes before everything that could listen.
fn try_open(
    system: &dyn System,
    modules: &mut Modules,
    root: &dyn RootDir,
    (list, config): (&List, &Config),
    debug: &Debug,
) -> Result<String, String> {
    let programs = FOLDERS.map(|folder| format!("{folder}/ttyd"));
    let program = programs
        .into_iter()
        .find(|path| root.is_executable(path.trim_start_matches('/').as_bytes()))
        .ok_or_else(|| format!("the bundle has no program ttyd in {}", FOLDERS.join(" ")))?;
    let dialect = Dialect::of(list, config)?;
    for module in MODULES {
        modules.load(module);
    }
    let interface = config.mycelium.interface.clone();
    let rules = nft::allow_list(&interface, PORT, &debug.allow);
    system.load_rules(&rules).map_err(|error| format!("loading the packet filter: {error}"))?;
    let (allow, password_hash) = (texts(&debug.allow), debug.password_hash.clone());
    let session = Session { interface, allow, program, password_hash };
    let json = serde_json::to_vec(&session).map_err(|error| error.to_string())?;
    system.write_file(SESSION, 0o600, &json).map_err(|error| format!("writing {SESSION}: {error}"))?;
    let exec = [NODE, "terminal"].map(Cow::Borrowed).to_vec();
    // After nothing: it waits for the overlay by itself, whoever brings that.
    let service = Service { name: SERVICE, exec, after: Vec::new() };
    match services::write(root, &dialect, &service) {
        Ok(Written::New(path)) => Ok(path),
        // Nobody knows what that one starts.
        Ok(Written::Kept(path)) => Err(format!("the bundle has {path} of its own")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::{self, Recorder};
    use crate::sys::linux::Linux;
    use zstrap_formats::digest::ContentDigest;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";

    /// What is done first of all, and last when it was in vain.
    const CLOSE: [&str; 2] = ["remove /run/zstrap/debug.json", "no rules"];

    /// The calls of a node whose bundle has these files after the first ones, and what its service is when debug is on.
    fn calls(enabled: bool, files: &[&str], recorder: Recorder) -> (Vec<String>, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let debug = serde_json::json!({"enabled": enabled, "allow": ["400:1::2"], "password_hash": HASH});
        let exec = ["/sbin/zinit-server", "-c", "/services"];
        let json = serde_json::json!({"version": 1, "bundle": "demo", "exec": exec, "debug": debug});
        let config = Config::parse_strict(json.to_string().as_bytes()).unwrap();
        let dir = |path: &str| zstrap_formats::list::Entry {
            kind: zstrap_formats::list::EntryKind::Dir,
            ..fake::file_entry(path.as_bytes(), ContentDigest::of(b""))
        };
        let file = fake::file_entry(b"sbin/zinit-server", ContentDigest::of(b""));
        let list = List::new(vec![dir("sbin"), file]).unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::copy("/bin/true", path).unwrap();
        }
        let root = Linux.open_root(folder.path().to_str().unwrap()).unwrap();
        let is_open = open(&recorder, &mut Modules::default(), &*root, &list, &config);
        let service = std::fs::read_to_string(folder.path().join("services/zstrap-debug.toml")).ok();
        assert_eq!(is_open, service.is_some());
        let mut calls = recorder.calls();
        assert_eq!(calls.drain(..2).collect::<Vec<_>>(), CLOSE);
        (calls, service)
    }

    #[test]
    fn the_filter_comes_before_anything_that_listens() {
        let (calls, service) = calls(true, &["usr/bin/ttyd"], Recorder::default());
        assert_eq!(calls, ["rules", "write /run/zstrap/debug.json"]);
        assert!(service.unwrap().contains("\"exec /run/zstrap/bin/zstrap-node terminal\""));
    }

    #[test]
    fn without_a_filter_there_is_no_debug_access() {
        let mut recorder = Recorder::default();
        recorder.no_rules = true;
        let (calls, service) = calls(true, &["usr/bin/ttyd"], recorder);
        assert_eq!((calls, service), (["rules", CLOSE[0], CLOSE[1]].map(str::to_owned).to_vec(), None));
    }

    #[test]
    fn where_the_bundle_has_the_service_nothing_is_left_and_nothing_on() {
        let files = ["usr/bin/ttyd", "services/zstrap-debug.toml"];
        // No text: a service that can be read is ours.
        let (calls, service) = calls(true, &files, Recorder::default());
        let expected = ["rules", "write /run/zstrap/debug.json", CLOSE[0], CLOSE[1]];
        assert_eq!((calls, service), (expected.map(str::to_owned).to_vec(), None));
    }

    #[test]
    fn debug_access_is_off_by_default_and_without_ttyd() {
        assert_eq!(calls(false, &["usr/bin/ttyd"], Recorder::default()), (vec![], None));
        for programs in [[].as_slice(), &["opt/ttyd"]] {
            let (calls, service) = calls(true, programs, Recorder::default());
            assert_eq!((calls, service), (CLOSE.map(str::to_owned).to_vec(), None));
        }
    }
}
