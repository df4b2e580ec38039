//! Seventh stage: the files.
//!
//! In: a [`VerifiedList`], servers, an empty root. Out: [`Fetched`]: every entry of the list stands in the root,
//! and each byte was hashed on its way. A file gets its name only once size, SHA-256 and MD5 are those of the
//! list. Several connections at once; memory does not grow with the size of a file.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use zstrap_formats::digest::ContentDigest;
use zstrap_formats::list::{Entry, EntryKind};
use zstrap_formats::packed::{self, Packed};

use crate::cache;
use crate::console::status;
use crate::download::{Download, mismatch};
use crate::fail::{Code, Refusal};
use crate::http::{CONNECTIONS, HttpError};
use crate::list::VerifiedList;
use crate::root::{self, Root};
use crate::servers::Servers;
use crate::sys::{Meta, RootDir, System};
use crate::watchdog;

const CHUNK: usize = 128 * 1024;
/// Bundles below this come soon enough as they are.
const LEAST_PACKED: u64 = 256 * 1024;
/// Contents of the disk: nobody but the kernel looks at them.
const CONTENT: Meta = Meta { mode: 0o400, uid: 0, gid: 0 };
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
    /// All came, and the root could not be made of it.
    #[error(transparent)]
    Root(#[from] root::Error),
}

impl Error {
    /// Whether it is the root that is to blame, and no server.
    #[must_use]
    pub fn is_of_root(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Root(_))
    }
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::Get { source: HttpError::NotFound { .. }, .. } => Code::BlobMissing,
            Self::Get { source: HttpError::Status { .. }, .. } => Code::BlobStatus,
            Self::Get { .. } | Self::Read { .. } => Code::BlobBroken,
            Self::Length { .. } => Code::Length,
            Self::Sha256 { .. } => Code::Sha256,
            Self::Md5 { .. } => Code::Md5,
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::RootFull,
            Self::Write { .. } => Code::NotWritten,
            Self::Root(error) => error.code(),
        }
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
pub fn files(
    system: &dyn System,
    servers: &Servers,
    list: &VerifiedList,
    root: Root,
) -> Result<Fetched, Error> {
    let started = Instant::now();
    let entries = list.list().entries();
    make_dirs_and_links(&root, entries)?;
    let mut blobs = blobs(entries);
    blobs.retain(|blob| blob.content.size == 0 || root.lacks(&blob.content.sha256));
    let total = root.bytes_to_come(list.list().total_size());
    status::expect_bytes(total);
    let progress = Progress { total, done: AtomicU64::new(0), said: Mutex::new(started) };
    let packed = packed(servers, list, total);
    let shared =
        Shared { servers, packed, stop: AtomicBool::new(false), requests: AtomicU64::new(0), progress };
    let job =
        Job { root: &root, blobs: &blobs, next: AtomicUsize::new(0), shared, failure: Mutex::new(None) };
    thread::scope(|scope| {
        for _ in 1..CONNECTIONS.min(blobs.len()) {
            // Without a thread there is one connection less.
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, || job.work()) {
                log::warn!(target: "fetch", "no thread: {error}");
            }
        }
        job.work();
    });
    let requests = job.shared.requests.load(Ordering::Relaxed);
    let failure = job.failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = failure {
        return Err(error);
    }
    let root = root.finish(system, list.list())?;
    let files = entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File(_))).count();
    let (bytes, received) = (list.list().total_size(), servers.bytes());
    let after = started.elapsed().as_secs_f64();
    servers.log_brought();
    log::info!(
        target: "fetch",
        "done files={files} requests={requests} bytes={bytes} received={received} after={after:.3}s"
    );
    Ok(Fetched { root })
}

/// Which blobs stand on the site compressed, too, by the word of its best server. Nobody has signed that: without a good
/// answer, none do.
fn packed(servers: &Servers, list: &VerifiedList, to_come: u64) -> Packed {
    if to_come < LEAST_PACKED {
        return Packed::default();
    }
    let limit = list.list().entries().len().saturating_mul(packed::LONGEST_LINE) as u64;
    let text = servers.usable().first().map(|best| servers.source(*best).probe(list.packed(), limit));
    text.and_then(|text| Packed::parse(&text.ok()?).ok()).unwrap_or_default()
}

fn meta(entry: &Entry) -> Meta {
    Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid }
}

/// What it means that the root did not take a file.
pub fn write_error(entry: &Entry) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = entry.display_path();
    move |source| Error::Write { path, source }
}

fn make_dirs_and_links(root: &Root, entries: &[Entry]) -> Result<(), Error> {
    for entry in entries {
        watchdog::expect_within(watchdog::WORK);
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
    root: &'a Root,
    blobs: &'a [Blob<'a>],
    next: AtomicUsize,
    shared: Shared<'a>,
    failure: Mutex<Option<Error>>,
}

/// What all downloads share.
pub struct Shared<'a> {
    /// Where files come from.
    pub servers: &'a Servers,
    /// Which blobs they have compressed, too.
    pub packed: Packed,
    /// Set when one file has failed for good: the others need not go on.
    pub stop: AtomicBool,
    /// Requests so far.
    pub requests: AtomicU64,
    /// How far all of them are.
    pub progress: Progress,
}

impl Job<'_> {
    fn work(&self) {
        let mut buffer = vec![0; CHUNK];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Some(blob) = self.blobs.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = self.blob(blob, &mut buffer) {
                self.shared.stop.store(true, Ordering::Relaxed);
                let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failure.get_or_insert(error);
            }
        }
    }

    fn blob(&self, blob: &Blob<'_>, buffer: &mut [u8]) -> Result<(), Error> {
        let Some((first, copies)) = blob.files.split_first() else { return Ok(()) };
        if let Some(contents) = self.root.contents() {
            return self.content(blob, first, contents, buffer);
        }
        let mut file = self.root.dir().create(&first.path).map_err(write_error(first))?;
        if blob.content.size > 0 {
            Download { shared: &self.shared, entry: first, content: blob.content }.run(&mut *file, buffer)?;
        } else if blob.content != ContentDigest::of(b"") {
            return Err(mismatch(first, &blob.content, &ContentDigest::of(b"")));
        }
        file.commit(meta(first)).map_err(write_error(first))?;
        copies.iter().try_for_each(|copy| self.copy(first, copy, &blob.content, buffer))
    }

    /// A content of a root on disk, which has the name of its digest: whoever has it open knows nothing of the files.
    fn content(
        &self,
        blob: &Blob<'_>,
        first: &Entry,
        contents: &dyn RootDir,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let name = blob.content.sha256.to_string();
        if blob.content.size == 0 {
            let nothing = ContentDigest::of(b"");
            let is_right = blob.content == nothing;
            return if is_right { Ok(()) } else { Err(mismatch(first, &blob.content, &nothing)) };
        }
        let mut file = contents.create(name.as_bytes()).map_err(write_error(first))?;
        Download { shared: &self.shared, entry: first, content: blob.content }.run(&mut *file, buffer)?;
        watchdog::expect_within(cache::DISK);
        file.commit(CONTENT).map_err(write_error(first))
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
                watchdog::expect_within(watchdog::WORK);
                match reader.read(buffer)? {
                    0 => break,
                    read => file.write_all(&buffer[..read])?,
                }
            }
            file.commit(meta(to))
        };
        self.shared.progress.add(content.size);
        write().map_err(write_error(to))
    }
}

/// How far all files together are.
pub struct Progress {
    total: u64,
    done: AtomicU64,
    said: Mutex<Instant>,
}

impl Progress {
    /// So much more has come.
    pub fn add(&self, bytes: u64) {
        status::wrote(bytes);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Ok(mut said) = self.said.try_lock() else { return };
        if said.elapsed() >= PROGRESS {
            *said = Instant::now();
            let (done, total) = (done >> 20, self.total >> 20);
            log::info!(target: "fetch", "progress done={done}MiB of={total}MiB");
        }
    }

    /// So much was thrown away again.
    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
        status::took_back(bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::{self, Fault};

    #[test]
    fn a_file_gets_its_name_only_when_all_hashes_agree() {
        let data = vec![7; 300_000];
        let (result, root, _) = fake::fetch_one(&data, Fault::None);
        assert!(result.is_ok());
        assert_eq!(root.file(b"file"), Some(data.clone()));
        for (fault, reason) in [
            (Fault::Flipped, "sha256"),
            (Fault::Longer, "length"),
            (Fault::Endless, "length"),
            (Fault::WrongMd5, "md5"),
            (Fault::Missing, "not-found"),
        ] {
            let (result, root, site) = fake::fetch_one(&data, fault);
            assert_eq!(result.err().unwrap().reason(), reason, "{fault:?}");
            assert_eq!(root.file(b"file"), None, "{fault:?}");
            assert_eq!(site.offsets(), [0], "{fault:?}");
        }
    }

    #[test]
    fn empty_files_need_no_request() {
        let (result, _, site) = fake::fetch_one(b"", Fault::Missing);
        assert!(result.is_ok());
        assert_eq!(site.offsets(), [0u64; 0]);
    }

    #[test]
    fn one_content_is_fetched_once_and_stays_two_files() {
        let (result, root, site) = fake::fetch_twins(b"same");
        assert!(result.is_ok());
        assert_eq!((root.file(b"a"), root.file(b"b")), (Some(b"same".to_vec()), Some(b"same".to_vec())));
        assert_eq!(site.offsets().len(), 1);
    }
}
