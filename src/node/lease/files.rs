//! The files below `/run/zstrap` that follow the network, and the name of the machine.
//!
//! In: what the link has now. Out: `resolv.conf` and `hosts`, rewritten in place, as both are mounted over those of
//! the bundle and a new file would not be seen there; `facts.json` and `network.json`, by rename, so that nobody reads
//! half of one. Failure: the kernel's refusal with the path.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use zstrap_formats::network::Network;

use crate::net::apply;
use crate::net::handover::{HANDOVER, Handover};
use crate::net::settings::Settings;
use crate::network::{HOSTS, RESOLV_CONF, Via};
use crate::node::facts::{self, FACTS};

/// Writes all of them; what could not be written. One that cannot be written must not keep the others old.
pub fn publish(network: &Network, via: &Via) -> Vec<io::Error> {
    let results = [
        rewrite(RESOLV_CONF, &apply::resolv_conf(&via.settings, &via.link.name)),
        rewrite(HOSTS, &apply::hosts(&hostname())),
        update_facts(via),
        replace(HANDOVER, &Handover::of(network, Some(via)).to_json()),
    ];
    results.into_iter().filter_map(Result::err).collect()
}

/// Gives the machine the name that the network now has for it.
pub fn change_name(old: &Settings, new: &Settings) -> io::Result<()> {
    match &new.hostname {
        // 64 bytes is what the kernel takes.
        Some(name) if new.hostname != old.hostname && name.len() <= 64 => {
            Ok(rustix::system::sethostname(name.as_bytes())?)
        }
        _ => Ok(()),
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn update_facts(via: &Via) -> io::Result<()> {
    let mut facts = crate::node::read_facts()?;
    facts.insert("hostname".to_owned(), hostname());
    facts::set_network(&mut facts, via);
    replace(FACTS, &facts::to_json(&facts))
}

/// The text first, then the end: a reader finds old and new lines for a moment, but never none.
fn rewrite(path: &str, text: &str) -> io::Result<()> {
    let write = || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    };
    write().map_err(|error| named(path, &error))
}

fn replace(path: &str, text: &str) -> io::Result<()> {
    let new = format!("{path}.new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(|error| named(path, &error))
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_file_that_is_mounted_elsewhere_stays_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let path = path.to_str().unwrap();
        rewrite(path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let before = fs::metadata(path).unwrap().ino();
        rewrite(path, "nameserver 192.0.2.3\n").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "nameserver 192.0.2.3\n");
        assert_eq!(fs::metadata(path).unwrap().ino(), before);
    }

    #[test]
    fn a_file_that_programs_parse_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.json");
        let path = path.to_str().unwrap();
        replace(path, "old").unwrap();
        let reader = fs::File::open(path).unwrap();
        replace(path, "new").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "old");
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
