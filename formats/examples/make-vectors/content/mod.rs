//! What the vectors contain: the one description of them, used by the generator and by the test that says the
//! committed files are still what it generates.
//!
//! Out: names below `formats/vectors/` and bytes, the same at every run: the keys come from fixed seeds, the
//! times are fixed. `v1/` holds what must be read for ever, `v1/hostile/` one file for each refusal.

mod config;
mod good;
mod hostile;

use zstrap_formats::digest::{self, ContentDigest};
use zstrap_formats::key::SecretKey;
use zstrap_formats::list::{Entry, EntryKind};

/// The trusted comment of `v1/list/demo.mtree`.
pub const LIST_COMMENT: &str = "zstrap1 kind=list name=demo arch=amd64 serial=1795161600 \
     created=2026-11-20T08:00:00Z expires=2027-02-20T08:00:00Z";
/// The trusted comment of `v1/config/minimal.json`.
pub const CONFIG_COMMENT: &str = "zstrap1 kind=config name=demo arch=any serial=1795161600 \
     created=2026-11-20T08:00:00Z expires=2027-02-20T08:00:00Z";

/// Every vector made here, by its path below `formats/vectors/`.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let good = good::all().into_iter().map(|(name, bytes)| (format!("v1/{name}"), bytes));
    let hostile = hostile::all().into_iter().map(|(name, bytes)| (format!("v1/hostile/{name}"), bytes));
    good.chain(hostile).collect()
}

/// A key that everyone knows: seed and id come from its name.
pub fn key(name: &str) -> SecretKey {
    let seed = digest::sha256(format!("zstrap test vector key {name}").as_bytes()).0;
    let mut id = [0; 8];
    id.copy_from_slice(&digest::sha256(name.as_bytes()).0[..8]);
    SecretKey::from_seed(seed, id)
}

fn dir(path: &[u8], mode: u16) -> Entry {
    Entry { path: path.to_vec(), mode, uid: 0, gid: 0, kind: EntryKind::Dir }
}

fn file(path: &[u8], mode: u16, content: &[u8]) -> Entry {
    let kind = EntryKind::File(ContentDigest::of(content));
    Entry { path: path.to_vec(), mode, uid: 0, gid: 0, kind }
}

fn link(path: &[u8], target: &[u8]) -> Entry {
    Entry { path: path.to_vec(), mode: 0o777, uid: 0, gid: 0, kind: EntryKind::Link(target.to_vec()) }
}
