//! Seventh stage: the files.
//!
//! In: a [`VerifiedList`], a server, an empty root. Out: [`Fetched`]: every entry of the list stands in the root,
//! and each byte was hashed on its way. A file gets its name only once size, SHA-256 and MD5 are those of the
//! list. Several connections at once; memory does not grow with the size of a file.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use zstrap_formats::digest::{ContentDigest, ContentHasher};
use zstrap_formats::list::{Entry, EntryKind};
use zstrap_formats::site;

use crate::fail::{Chain, Refusal, random};
use crate::http::{Body, From, HttpError, Source};
use crate::list::VerifiedList;
use crate::retry::Retry;
use crate::root::Root;
use crate::sys::{Meta, NewFile};

/// Connections at once: enough to hide the round trips of small files.
const CONNECTIONS: usize = 4;
const CHUNK: usize = 128 * 1024;
/// Tries for one file before the whole attempt fails.
const TRIES: Retry = Retry { first: Duration::from_millis(500), cap: Duration::from_secs(10), tries: 6 };
/// How often a long download says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Why a file of the list is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server did not give it.
    #[error("getting {path}")]
    Get {
        /// As in the list.
        path: String,
        /// Why.
        source: HttpError,
    },
    /// It stopped coming, and every try did.
    #[error("reading {path} from the server")]
    Read {
        /// As in the list.
        path: String,
        /// What the connection said.
        source: io::Error,
    },
    /// More bytes than the list says, or fewer.
    #[error("{path} has {found} bytes, the list says {expected}")]
    Length {
        /// As in the list.
        path: String,
        /// What came, in words: an endless body has no number.
        found: String,
        /// In the list.
        expected: u64,
    },
    /// Other bytes, by SHA-256.
    #[error("{path} has SHA-256 {found}, the list says {expected}")]
    Sha256 {
        /// As in the list.
        path: String,
        /// Of the bytes.
        found: String,
        /// In the list.
        expected: String,
    },
    /// Other bytes, by MD5, though SHA-256 agrees: the list contradicts itself.
    #[error("{path} has MD5 {found}, the list says {expected}")]
    Md5 {
        /// As in the list.
        path: String,
        /// Of the bytes.
        found: String,
        /// In the list.
        expected: String,
    },
    /// The root did not take it.
    #[error("writing {path}")]
    Write {
        /// As in the list.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Get { source, .. } => source.reason(),
            Self::Length { .. } => "length",
            Self::Sha256 { .. } => "sha256",
            Self::Md5 { .. } => "md5",
            Self::Read { .. } | Self::Write { .. } => "io",
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Get { .. } | Self::Read { .. } => {
                "check the server and the network between it and this machine"
            }
            Self::Length { .. } | Self::Sha256 { .. } => {
                "the server's copy was changed after signing: publish anew, and find out who changed it"
            }
            Self::Md5 { .. } => "publish the bundle anew with zstrap publish",
            Self::Write { .. } => "give the machine more memory, or raise root.headroom in the config",
        }
        .to_owned()
    }
}

/// A root that holds exactly the list. Made here only.
pub struct Fetched {
    root: Root,
}

impl Fetched {
    /// The root with its files.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }
}

/// Fills the root with what the list names.
///
/// # Errors
/// The first [`Error`] of any file; the others stop at their next chunk.
pub fn files(source: &dyn Source, list: &VerifiedList, root: Root) -> Result<Fetched, Error> {
    let started = Instant::now();
    let entries = list.list().entries();
    make_dirs_and_links(&root, entries)?;
    let blobs = blobs(entries);
    let job = Job {
        source,
        root: &root,
        blobs: &blobs,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        progress: Progress {
            total: list.list().total_size(),
            done: AtomicU64::new(0),
            said: Mutex::new(started),
        },
        failure: Mutex::new(None),
    };
    thread::scope(|scope| {
        for _ in 1..CONNECTIONS.min(blobs.len()) {
            scope.spawn(|| job.work());
        }
        job.work();
    });
    let requests = job.requests.load(Ordering::Relaxed);
    let failure = job.failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = failure {
        return Err(error);
    }
    let files = entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File(_))).count();
    let (bytes, after) = (list.list().total_size(), started.elapsed().as_secs_f64());
    log::info!(target: "fetch", "done files={files} requests={requests} bytes={bytes} after={after:.3}s");
    Ok(Fetched { root })
}

fn meta(entry: &Entry) -> Meta {
    Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid }
}

fn write_error(entry: &Entry) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = entry.display_path();
    move |source| Error::Write { path, source }
}

fn make_dirs_and_links(root: &Root, entries: &[Entry]) -> Result<(), Error> {
    for entry in entries {
        match &entry.kind {
            EntryKind::Dir => root.dir().make_dir(&entry.path, meta(entry)),
            EntryKind::Link(target) => root.dir().make_link(&entry.path, target, meta(entry)),
            EntryKind::File(_) => Ok(()),
        }
        .map_err(write_error(entry))?;
    }
    Ok(())
}

/// One content and all files that have it.
struct Blob<'a> {
    content: ContentDigest,
    files: Vec<&'a Entry>,
}

/// Each content once, the largest first, so that no big file is left for the end.
fn blobs(entries: &[Entry]) -> Vec<Blob<'_>> {
    let mut by_content: BTreeMap<_, Blob<'_>> = BTreeMap::new();
    for entry in entries {
        if let EntryKind::File(content) = &entry.kind {
            let key = (std::cmp::Reverse(content.size), content.sha256, content.md5);
            let new = || Blob { content: *content, files: Vec::new() };
            by_content.entry(key).or_insert_with(new).files.push(entry);
        }
    }
    by_content.into_values().collect()
}

/// What the connections share.
struct Job<'a> {
    source: &'a dyn Source,
    root: &'a Root,
    blobs: &'a [Blob<'a>],
    next: AtomicUsize,
    stop: AtomicBool,
    requests: AtomicU64,
    progress: Progress,
    failure: Mutex<Option<Error>>,
}

impl Job<'_> {
    fn work(&self) {
        let mut buffer = vec![0; CHUNK];
        while !self.stop.load(Ordering::Relaxed) {
            let Some(blob) = self.blobs.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = self.blob(blob, &mut buffer) {
                self.stop.store(true, Ordering::Relaxed);
                let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failure.get_or_insert(error);
            }
        }
    }

    fn blob(&self, blob: &Blob<'_>, buffer: &mut [u8]) -> Result<(), Error> {
        let Some((first, copies)) = blob.files.split_first() else { return Ok(()) };
        let mut file = self.root.dir().create(&first.path).map_err(write_error(first))?;
        if blob.content.size > 0 {
            Download {
                job: self,
                entry: first,
                content: blob.content,
                hasher: ContentHasher::new(),
                etag: None,
            }
            .run(&mut *file, buffer)?;
        } else if blob.content != ContentDigest::of(b"") {
            return Err(mismatch(first, &blob.content, &ContentDigest::of(b"")));
        }
        file.commit(meta(first)).map_err(write_error(first))?;
        copies.iter().try_for_each(|copy| self.copy(first, copy, &blob.content, buffer))
    }

    /// Files of one content are still files of their own: a program may write to one of them.
    fn copy(
        &self,
        from: &Entry,
        to: &Entry,
        content: &ContentDigest,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let mut write = || -> io::Result<()> {
            let mut reader = self.root.dir().read(&from.path)?;
            let mut file = self.root.dir().create(&to.path)?;
            loop {
                match reader.read(buffer)? {
                    0 => break,
                    read => file.write_all(&buffer[..read])?,
                }
            }
            file.commit(meta(to))
        };
        self.progress.add(content.size);
        write().map_err(write_error(to))
    }
}

/// One file on its way, over as many connections as it takes.
struct Download<'a> {
    job: &'a Job<'a>,
    entry: &'a Entry,
    content: ContentDigest,
    hasher: ContentHasher,
    etag: Option<String>,
}

/// How one try ended without an answer.
enum Broken {
    /// Another try may help.
    Retry(Error),
    /// It will not.
    Final(Error),
}

impl Download<'_> {
    fn run(mut self, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<(), Error> {
        let mut tried = 0;
        loop {
            let before = self.hasher.size();
            let error = match self.attempt(file, buffer) {
                Ok(()) => break,
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Retry(error)) => error,
            };
            // A line that breaks again and again still brings a file that grows.
            tried = if self.hasher.size() > before { 1 } else { tried + 1 };
            let Some(pause) = TRIES.pause_after(tried, random()) else { return Err(error) };
            let (path, have, seconds) = (self.entry.display_path(), self.hasher.size(), pause.as_secs_f64());
            let why = Chain(&error);
            log::warn!(target: "fetch", "interrupted path={path} have={have} pause={seconds:.1}s why={why}");
            thread::sleep(pause);
            if self.job.stop.load(Ordering::Relaxed) {
                return Err(error);
            }
        }
        let found = self.hasher.finish();
        if found == self.content { Ok(()) } else { Err(mismatch(self.entry, &self.content, &found)) }
    }

    /// Gets what is missing. On an error, what came before it is kept, and hashed already.
    fn attempt(&mut self, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<(), Broken> {
        let mut body = self.open()?;
        if body.offset != self.hasher.size() {
            // The server has sent the whole anew, perhaps because the file has changed.
            file.restart().map_err(|e| Broken::Final(write_error(self.entry)(e)))?;
            self.hasher = ContentHasher::new();
        }
        self.etag = body.etag.take();
        let whole = body.length.and_then(|length| length.checked_add(body.offset));
        if let Some(found) = whole.filter(|length| *length != self.content.size) {
            return Err(Broken::Final(self.wrong_length(found.to_string())));
        }
        self.read(&mut *body.reader, file, buffer)
    }

    fn open(&self) -> Result<Body, Broken> {
        self.job.requests.fetch_add(1, Ordering::Relaxed);
        let from = From { offset: self.hasher.size(), etag: self.etag.clone() };
        let path = site::blob(&self.content.sha256);
        self.job.source.open(&path, &from, self.content.size).map_err(|source| {
            let may_pass = match &source {
                HttpError::Transport { .. } | HttpError::Range { .. } => true,
                HttpError::Status { status, .. } => *status >= 500 || *status == 429,
                HttpError::NotFound { .. } | HttpError::TooLarge { .. } => false,
            };
            let error = Error::Get { path: self.entry.display_path(), source };
            if may_pass { Broken::Retry(error) } else { Broken::Final(error) }
        })
    }

    fn read(
        &mut self,
        reader: &mut dyn Read,
        file: &mut dyn NewFile,
        buffer: &mut [u8],
    ) -> Result<(), Broken> {
        loop {
            let left = self.content.size - self.hasher.size();
            // At the end one more byte is asked for: its absence ends the file, and lets the connection be used again.
            let ask = usize::try_from(left.max(1)).unwrap_or(usize::MAX).min(buffer.len());
            let read = match reader.read(&mut buffer[..ask]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // All bytes are there, whatever the connection says at its end: the hashes decide.
                Err(_) if left == 0 => return Ok(()),
                Err(source) => {
                    return Err(Broken::Retry(Error::Read { path: self.entry.display_path(), source }));
                }
                Ok(read) => read,
            };
            match (read, left) {
                (0, 0) => return Ok(()),
                (0, _) => return Err(Broken::Retry(self.wrong_length(self.hasher.size().to_string()))),
                (_, 0) => {
                    return Err(Broken::Final(self.wrong_length(format!("more than {}", self.content.size))));
                }
                _ => {}
            }
            self.hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(|e| Broken::Final(write_error(self.entry)(e)))?;
            self.job.progress.add(read as u64);
            if self.job.stop.load(Ordering::Relaxed) {
                let source = io::Error::other("stopped because another file failed");
                return Err(Broken::Final(Error::Read { path: self.entry.display_path(), source }));
            }
        }
    }

    fn wrong_length(&self, found: String) -> Error {
        Error::Length { path: self.entry.display_path(), found, expected: self.content.size }
    }
}

fn mismatch(entry: &Entry, expected: &ContentDigest, found: &ContentDigest) -> Error {
    let path = entry.display_path();
    if found.sha256 != expected.sha256 {
        let (found, expected) = (found.sha256.to_string(), expected.sha256.to_string());
        return Error::Sha256 { path, found, expected };
    }
    Error::Md5 { path, found: found.md5.to_string(), expected: expected.md5.to_string() }
}

/// How far all files together are.
struct Progress {
    total: u64,
    done: AtomicU64,
    said: Mutex<Instant>,
}

impl Progress {
    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Ok(mut said) = self.said.try_lock() else { return };
        if said.elapsed() >= PROGRESS {
            *said = Instant::now();
            let (done, total) = (done >> 20, self.total >> 20);
            log::info!(target: "fetch", "progress done={done}MiB of={total}MiB");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::{self, Fault};

    /// The error of fetching one file `data` from a site that serves it with this fault.
    fn refusal(data: &[u8], fault: Fault) -> &'static str {
        fake::fetch_one(data, fault).0.err().map_or("none", |error| error.reason())
    }

    #[test]
    fn a_file_gets_its_name_only_when_all_hashes_agree() {
        let data = vec![7; 300_000];
        let (result, root) = fake::fetch_one(&data, Fault::None);
        assert!(result.is_ok());
        assert_eq!(root.file(b"file"), Some(data.clone()));
        for (fault, reason) in [
            (Fault::Flipped, "sha256"),
            (Fault::Longer, "length"),
            (Fault::Endless, "length"),
            (Fault::WrongMd5, "md5"),
            (Fault::Missing, "not-found"),
        ] {
            let (result, root) = fake::fetch_one(&data, fault);
            assert_eq!(result.err().unwrap().reason(), reason, "{fault:?}");
            assert_eq!(root.file(b"file"), None, "{fault:?}");
        }
    }

    #[test]
    fn a_cut_file_is_resumed_where_it_stopped() {
        let data: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (result, root) = fake::fetch_one(&data, Fault::CutOnce);
        assert!(result.is_ok());
        assert_eq!(root.file(b"file"), Some(data));
        assert_eq!(root.requested_offsets(), [0, 150_000]);
    }

    #[test]
    fn a_server_that_ignores_ranges_is_read_from_the_start() {
        let data: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (result, root) = fake::fetch_one(&data, Fault::CutOnceNoRanges);
        assert!(result.is_ok());
        assert_eq!(root.file(b"file"), Some(data));
    }

    #[test]
    fn empty_files_need_no_request() {
        assert_eq!(refusal(b"", Fault::Missing), "none");
    }

    #[test]
    fn one_content_is_fetched_once_and_stays_two_files() {
        let (result, root) = fake::fetch_twins(b"same");
        assert!(result.is_ok());
        assert_eq!((root.file(b"a"), root.file(b"b")), (Some(b"same".to_vec()), Some(b"same".to_vec())));
        assert_eq!(root.requested_offsets().len(), 1);
    }
}
