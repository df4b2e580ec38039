//! Hashing what is kept, at every boot.
//!
//! In: a list, and the contents on the disk. Out: which of them are right, by size and SHA-256; their MD5 was checked when
//! they came. Several threads at once, each a file: a disk that answers many at a time is asked for many. Failure: none. A
//! content that is wrong, or cannot be read, is deleted, said, and missing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::Advice;
use zstrap_formats::digest::{Sha256, Sha256Hasher};
use zstrap_formats::list::{EntryKind, List};

use super::store::Store;
use crate::console::status;
use crate::watchdog;

/// What one thread has in memory.
const CHUNK: usize = 512 * 1024;
/// More threads than this wait for the disk, not for the processor.
const MOST_THREADS: usize = 16;

/// What became of the contents of a list.
#[derive(Debug, Default)]
pub struct Verified {
    /// Those that are not here, with their sizes.
    pub missing: Vec<(Sha256, u64)>,
    /// Bytes of those that are.
    pub bytes: u64,
}

impl Verified {
    /// Which are missing.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<Sha256> {
        self.missing.iter().map(|(sha256, _)| *sha256).collect()
    }

    /// Bytes of those that are missing.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|(_, size)| size).sum()
    }
}

/// Each content of a list that has bytes, once, the largest first.
fn wanted(list: &List) -> Vec<(u64, Sha256)> {
    let contents = list.entries().iter().filter_map(|entry| match &entry.kind {
        EntryKind::File(content) if content.size > 0 => Some((content.size, content.sha256)),
        _ => None,
    });
    let once: BTreeSet<(u64, Sha256)> = contents.collect();
    once.into_iter().rev().collect()
}

/// Hashes what is there of the contents of this list, and deletes what is wrong.
pub fn contents(store: &Store, list: &List) -> Verified {
    let started = Instant::now();
    let wanted = wanted(list);
    status::expect_bytes(wanted.iter().map(|(size, _)| size).sum());
    let (next, missing) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        let mut buffer = vec![0; CHUNK];
        while let Some(&(size, sha256)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !is_good(store, &sha256, size, &mut buffer) {
                missing.lock().unwrap_or_else(PoisonError::into_inner).push((sha256, size));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(wanted.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            // Without a thread it takes longer.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut verified = Verified { missing, bytes: 0 };
    verified.bytes = wanted.iter().map(|(size, _)| size).sum::<u64>() - verified.missing_bytes();
    log::info!(
        target: "cache",
        "verified contents={} bytes={} missing={} threads={threads} after={:.3}s",
        wanted.len() - verified.missing.len(),
        verified.bytes,
        verified.missing.len(),
        started.elapsed().as_secs_f64(),
    );
    verified
}

fn is_good(store: &Store, sha256: &Sha256, size: u64, buffer: &mut [u8]) -> bool {
    watchdog::expect_within(super::DISK);
    let checked = store.content(sha256).and_then(|file| check(file, sha256, size, buffer));
    let why = match checked {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => error,
    };
    log::warn!(target: "cache", "removed content={sha256} why={why}");
    if let Err(error) = store.remove_content(&sha256.to_string()) {
        log::warn!(target: "cache", "not removed content={sha256} error={error}");
    }
    false
}

fn check(mut file: File, expected: &Sha256, size: u64, buffer: &mut [u8]) -> io::Result<()> {
    let found = file.metadata()?.len();
    if found != size {
        return Err(io::Error::other(format!("{found} bytes, expected {size}")));
    }
    // Reads ahead twice as far.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
    let mut hasher = Sha256Hasher::new();
    let mut left = size;
    while left > 0 {
        watchdog::expect_within(super::DISK);
        match file.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                status::wrote(read as u64);
                left = left.saturating_sub(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    match hasher.finish() {
        found if found == *expected => Ok(()),
        found => Err(io::Error::other(format!("has SHA-256 {found}"))),
    }
}
