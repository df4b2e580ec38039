//! One content on its way to the root, from as many servers and over as many connections as it takes.
//!
//! In: servers, the digest of the content, a file without a name. Out: the file holds exactly that content. A server
//! that is dead, stalled or slow is left for the next, which goes on at the byte that was reached: content is named
//! by its hash, so all servers have the same. When bytes of several servers do not have the hash together, nobody
//! knows who lied: each is asked for the whole alone. Failure: no server could give it, or the root did not take it.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::Duration;

use zstrap_formats::digest::{ContentDigest, ContentHasher};
use zstrap_formats::list::Entry;
use zstrap_formats::site;

use crate::fail::{Chain, random};
use crate::fetch::{Error, Shared, write_error};
use crate::http::{self, Body, From, HttpError};
use crate::retry::Retry;
use crate::servers::{Best, Index, Servers, Why};
use crate::sys::NewFile;

/// Tries for one file at servers of which none is known to be good, before the whole attempt fails.
const TRIES: Retry = Retry { first: Duration::from_millis(500), cap: Duration::from_secs(10), tries: 6 };
/// Bytes a second below which a server is left, if there is a better one.
const SLOW: u64 = 32 * 1024;
/// How long a server may be that slow.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// One file on its way.
pub struct Download<'a> {
    shared: &'a Shared<'a>,
    entry: &'a Entry,
    content: ContentDigest,
    hasher: ContentHasher,
    /// The file holds bytes that were thrown away.
    is_stale: bool,
    /// Whose bytes were hashed.
    givers: BTreeSet<Index>,
    /// Which version of the file the last bytes were of, and whose word that is.
    etag: Option<(Index, String)>,
    /// Servers that cannot help with this file: they do not have it, or have lied.
    useless: BTreeSet<Index>,
    /// Servers that were left since the last pause.
    left: BTreeSet<Index>,
    /// The server for which another was left.
    next: Option<Index>,
    /// Bytes of several servers were wrong together: only this one is asked.
    alone: Option<Index>,
    tries: Tries,
    best: Best<Error>,
}

/// How often it was tried in vain.
#[derive(Default)]
struct Tries {
    done: u32,
    /// How much there was at the last pause.
    have: u64,
}

/// Why a try has ended without the whole content.
enum End {
    /// Another try, or another server, may help.
    Lost(Why, Error),
    /// This server cannot help.
    Useless(Why, Error),
    /// All bytes have come, and are wrong.
    Wrong(Error),
    /// No server can help.
    Fatal(Error),
}

impl<'a> Download<'a> {
    /// A download of which nothing was asked yet.
    pub fn new(shared: &'a Shared<'a>, entry: &'a Entry, content: ContentDigest) -> Self {
        Self {
            shared,
            entry,
            content,
            hasher: ContentHasher::new(),
            is_stale: false,
            givers: BTreeSet::new(),
            etag: None,
            useless: BTreeSet::new(),
            left: BTreeSet::new(),
            next: None,
            alone: None,
            tries: Tries::default(),
            best: Best::default(),
        }
    }

    fn servers(&self) -> &'a Servers {
        self.shared.servers
    }

    /// Fills `file`.
    ///
    /// # Errors
    /// When no server can give it: of what they did, what tells most.
    pub fn run(mut self, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<(), Error> {
        while let Some(server) = self.choose() {
            let (begun, before) = (self.servers().time().now(), self.hasher.size());
            let end = self.attempt(server, file, buffer);
            let brought = self.hasher.size().saturating_sub(before);
            self.servers().brought(server, brought, self.servers().time().now().saturating_sub(begun));
            let has_ended = match end {
                Ok(()) => {
                    self.servers().succeeded(server, begun);
                    return Ok(());
                }
                Err(End::Fatal(error)) => return Err(error),
                Err(End::Lost(why, error)) => self.lost(server, why, error, brought > 0),
                Err(End::Useless(why, error)) => self.give_up(server, why, error),
                Err(End::Wrong(error)) => self.mistrust(server, error),
            };
            if has_ended.is_err() || self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Err(self.best.into_inner().unwrap_or_else(|| stopped(self.entry)))
    }

    /// Servers that may help with this file, the best first.
    fn candidates(&self) -> Vec<Index> {
        let mut candidates = self.servers().usable();
        candidates.retain(|server| !self.useless.contains(server));
        candidates
    }

    fn choose(&mut self) -> Option<Index> {
        let candidates = self.candidates();
        if let Some(alone) = self.alone {
            // Another file may have shown meanwhile that it lies.
            let next = candidates.contains(&alone).then_some(alone).or(candidates.first().copied());
            if next != self.alone {
                self.begin_anew();
            }
            self.alone = next;
            return next;
        }
        let next = self.next.take().filter(|next| candidates.contains(next));
        next.or(candidates.first().copied())
    }

    /// Gets what is missing. On an error, what came before it is kept, and hashed already.
    fn attempt(&mut self, server: Index, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<(), End> {
        let mut body = self.open(server)?;
        if body.offset != self.hasher.size() {
            // The server has sent the whole anew, perhaps because the file has changed.
            self.begin_anew();
        }
        if std::mem::take(&mut self.is_stale) {
            file.restart().map_err(|error| End::Fatal(write_error(self.entry)(error)))?;
        }
        self.etag = body.etag.take().map(|etag| (server, etag));
        let whole = body.length.and_then(|length| length.checked_add(body.offset));
        if let Some(found) = whole.filter(|length| *length != self.content.size) {
            return Err(End::Useless(Why::Lying, self.wrong_length(found.to_string())));
        }
        self.read(server, &mut *body.reader, file, buffer)?;
        let found = self.hasher.clone().finish();
        if found == self.content { Ok(()) } else { Err(self.wrong(&found)) }
    }

    /// What it means that all bytes are there, and are others than those of the list.
    fn wrong(&self, found: &ContentDigest) -> End {
        let error = mismatch(self.entry, &self.content, found);
        // By SHA-256 they are right, so it is the list that is wrong, whoever served them.
        if found.sha256 == self.content.sha256 { End::Fatal(error) } else { End::Wrong(error) }
    }

    fn open(&self, server: Index) -> Result<Body, End> {
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        // An entity tag is the word of one server; another may call the same bytes otherwise.
        let own = self.etag.as_ref().filter(|(giver, _)| *giver == server);
        let from = From { offset: self.hasher.size(), etag: own.map(|(_, etag)| etag.clone()) };
        let path = site::blob(&self.content.sha256);
        self.servers().source(server).open(&path, &from, self.content.size).map_err(|source| {
            let may_pass = match &source {
                HttpError::Transport { .. } | HttpError::Certificate { .. } | HttpError::Range { .. } => true,
                HttpError::Status { status, .. } => *status >= 500 || *status == 429,
                HttpError::NotFound { .. } | HttpError::TooLarge { .. } => false,
            };
            let (why, error) = (Why::of(&source), Error::Get { path: self.entry.display_path(), source });
            if may_pass { End::Lost(why, error) } else { End::Useless(why, error) }
        })
    }

    fn read(
        &mut self,
        server: Index,
        reader: &mut dyn Read,
        file: &mut dyn NewFile,
        buffer: &mut [u8],
    ) -> Result<(), End> {
        let mut pace = Pace::begin(self.servers(), server);
        loop {
            let left = self.content.size - self.hasher.size();
            // At the end one more byte is asked for: its absence ends the file, and lets the connection be used again.
            let ask = usize::try_from(left.max(1)).unwrap_or(usize::MAX).min(buffer.len());
            let read = match reader.read(&mut buffer[..ask]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // All bytes are there, whatever the connection says at its end: the hashes decide.
                Err(_) if left == 0 => return Ok(()),
                Err(error) => return Err(self.broken(error)),
                Ok(read) => read,
            };
            match (read, left) {
                (0, 0) => return Ok(()),
                (0, _) => {
                    return Err(End::Lost(Why::Cut, self.wrong_length(self.hasher.size().to_string())));
                }
                (_, 0) => {
                    return Err(End::Wrong(self.wrong_length(format!("more than {}", self.content.size))));
                }
                _ => {}
            }
            self.keep(server, &buffer[..read], file)?;
            if let Some(rate) = pace.too_slow(self.servers(), server) {
                self.leave_if_slow(server, rate)?;
            }
        }
    }

    fn keep(&mut self, server: Index, bytes: &[u8], file: &mut dyn NewFile) -> Result<(), End> {
        self.givers.insert(server);
        self.hasher.update(bytes);
        file.write_all(bytes).map_err(|error| End::Fatal(write_error(self.entry)(error)))?;
        self.shared.progress.add(bytes.len() as u64);
        self.servers().gave(server, bytes.len() as u64);
        if self.shared.stop.load(Ordering::Relaxed) { Err(End::Fatal(stopped(self.entry))) } else { Ok(()) }
    }

    fn broken(&self, source: io::Error) -> End {
        let why = if http::is_timeout(&source) { Why::Stalled } else { Why::Cut };
        End::Lost(why, Error::Read { path: self.entry.display_path(), source })
    }

    fn leave_if_slow(&mut self, server: Index, rate: u64) -> Result<(), End> {
        let is_better = |other: &Index| *other != server && self.servers().is_likely_faster(*other, rate);
        let Some(better) = self.candidates().into_iter().find(is_better).filter(|_| self.alone.is_none())
        else {
            return Ok(());
        };
        self.next = Some(better);
        self.servers().was_slow(server, rate);
        let source = io::Error::other(format!("only {rate} bytes a second"));
        Err(End::Lost(Why::Slow, Error::Read { path: self.entry.display_path(), source }))
    }

    /// A server did not give all. A good one that was not asked since the last pause goes on at once; else there
    /// is a pause. An error means that it was tried often enough.
    fn lost(&mut self, server: Index, why: Why, error: Error, has_brought: bool) -> Result<(), ()> {
        if why != Why::Slow {
            self.servers().failed(server, has_brought);
        }
        self.left.insert(server);
        let cause = Chain(&error).to_string();
        self.best.add(why, error);
        self.next = self.next.or_else(|| self.healthy_next());
        if let Some(next) = self.next {
            self.log_interrupted(Duration::ZERO, &cause);
            self.servers().log_left(server, why, next);
            return Ok(());
        }
        self.pause(server, &cause)
    }

    fn healthy_next(&self) -> Option<Index> {
        let is_good = |server: &Index| !self.left.contains(server) && self.servers().is_healthy(*server);
        if self.alone.is_some() { None } else { self.candidates().into_iter().find(is_good) }
    }

    /// Waits before any server is asked again.
    fn pause(&mut self, server: Index, cause: &str) -> Result<(), ()> {
        // A line that breaks again and again still brings a file that grows.
        let has_grown = self.hasher.size() > self.tries.have;
        self.tries =
            Tries { done: if has_grown { 1 } else { self.tries.done + 1 }, have: self.hasher.size() };
        self.left.clear();
        let Some(pause) = TRIES.pause_after(self.tries.done, random()) else {
            return self.tried_enough(server);
        };
        self.log_interrupted(pause, cause);
        self.servers().time().pause(pause);
        Ok(())
    }

    /// Who was tried alone in vain is of no use; the next one may be.
    fn tried_enough(&mut self, server: Index) -> Result<(), ()> {
        if self.alone.is_none() {
            return Err(());
        }
        self.useless.insert(server);
        self.tries = Tries::default();
        Ok(())
    }

    fn log_interrupted(&self, pause: Duration, why: &str) {
        let (path, have, pause) = (self.entry.display_path(), self.hasher.size(), pause.as_secs_f64());
        log::warn!(target: "fetch", "interrupted path={path} have={have} pause={pause:.1}s why={why}");
    }

    /// A server cannot give this file: what others gave is kept.
    fn give_up(&mut self, server: Index, why: Why, error: Error) -> Result<(), ()> {
        if why == Why::Lying {
            self.servers().has_lied(server);
        } else {
            self.servers().failed(server, false);
        }
        self.useless.insert(server);
        self.log_refused(server, why, &error);
        self.best.add(why, error);
        Ok(())
    }

    /// The bytes are wrong. Whoever gave them all has lied; if there were several, each is asked alone.
    fn mistrust(&mut self, server: Index, error: Error) -> Result<(), ()> {
        if self.givers.iter().eq([&server]) {
            self.servers().has_lied(server);
            self.useless.insert(server);
            self.log_refused(server, Why::Lying, &error);
        } else {
            let (path, count, cause) = (self.entry.display_path(), self.givers.len(), Chain(&error));
            log::warn!(target: "fetch", "wrong path={path} servers={count} next=each-alone why={cause}");
            self.alone = self.candidates().first().copied();
        }
        self.best.add(Why::Lying, error);
        self.begin_anew();
        self.tries = Tries::default();
        Ok(())
    }

    fn log_refused(&self, server: Index, why: Why, error: &Error) {
        let Some(&next) = self.candidates().first() else { return };
        let name = self.servers().name(server);
        log::warn!(target: "servers", "no good answer server={name} {}", Chain(error));
        self.servers().log_left(server, why, next);
    }

    /// Forgets what has come; the file itself is emptied when the next bytes come.
    fn begin_anew(&mut self) {
        self.shared.progress.take_back(self.hasher.size());
        self.is_stale |= self.hasher.size() > 0;
        self.hasher = ContentHasher::new();
        self.givers.clear();
        self.etag = None;
    }

    fn wrong_length(&self, found: String) -> Error {
        Error::Length { path: self.entry.display_path(), found, expected: self.content.size }
    }
}

/// What a file that was stopped because of another one failed of.
fn stopped(entry: &Entry) -> Error {
    let source = io::Error::other("stopped because another file failed");
    Error::Read { path: entry.display_path(), source }
}

/// How fast a server is, over all connections to it.
struct Pace {
    since: Duration,
    bytes: u64,
}

impl Pace {
    fn begin(servers: &Servers, server: Index) -> Self {
        Self { since: servers.time().now(), bytes: servers.bytes_of(server) }
    }

    /// Bytes a second, when a window has ended in which they were too few.
    fn too_slow(&mut self, servers: &Servers, server: Index) -> Option<u64> {
        let time = servers.time().now().saturating_sub(self.since);
        if time < SLOW_FOR {
            return None;
        }
        let bytes = servers.bytes_of(server).saturating_sub(self.bytes);
        *self = Self::begin(servers, server);
        let rate = (bytes as f64 / time.as_secs_f64()) as u64;
        (rate < SLOW).then_some(rate)
    }
}

/// The bytes are others than those of the list.
pub fn mismatch(entry: &Entry, expected: &ContentDigest, found: &ContentDigest) -> Error {
    let path = entry.display_path();
    if found.sha256 != expected.sha256 {
        let (found, expected) = (found.sha256.to_string(), expected.sha256.to_string());
        return Error::Sha256 { path, found, expected };
    }
    Error::Md5 { path, found: found.md5.to_string(), expected: expected.md5.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fail::Refusal;
    use crate::sys::fake::{self, Fault, Site};

    /// Fetches one file from servers with these faults: the reason of a refusal, and which bytes each was asked for.
    fn fetch(faults: &[Fault]) -> (Option<&'static str>, Vec<Site>) {
        let mut sites: Vec<Site> = faults
            .iter()
            .zip("abcdef".chars())
            .map(|(fault, name)| fake::mirror(&name.to_string(), *fault))
            .collect();
        let time = sites[0].time.clone();
        sites.iter_mut().for_each(|site| site.time = time.clone());
        let (result, root) = fake::fetch_from(&sites.iter().collect::<Vec<_>>());
        match result {
            Ok(_) => assert!(root.file(b"file") == Some(fake::data()), "{faults:?}: other bytes"),
            Err(_) => assert_eq!(root.file(b"file"), None, "{faults:?}"),
        }
        (result.err().map(|error| error.reason()), sites)
    }

    /// What each server was asked for, when the file came without a pause.
    fn offsets(faults: &[Fault]) -> Vec<Vec<u64>> {
        let (reason, sites) = fetch(faults);
        assert_eq!(reason, None, "{faults:?}");
        assert_eq!(sites[0].time.pauses(), [Duration::ZERO; 0], "{faults:?}");
        sites.iter().map(Site::offsets).collect()
    }

    #[test]
    fn a_cut_file_is_resumed_where_it_stopped() {
        let (reason, sites) = fetch(&[Fault::CutOnce]);
        assert_eq!((reason, sites[0].offsets()), (None, vec![0, 150_000]));
        assert_eq!(sites[0].time.pauses().len(), 1);
    }

    #[test]
    fn a_server_that_ignores_ranges_is_read_from_the_start() {
        let (reason, sites) = fetch(&[Fault::CutOnceNoRanges]);
        assert_eq!((reason, sites[0].offsets()), (None, vec![0, 150_000]));
    }

    #[test]
    fn a_dead_server_is_left_without_a_pause() {
        assert_eq!(offsets(&[Fault::Dead, Fault::None]), [vec![0], vec![0]]);
        assert_eq!(offsets(&[Fault::Busy, Fault::Dead, Fault::None]), [vec![0], vec![0], vec![0]]);
    }

    #[test]
    fn a_file_goes_on_at_the_next_server_where_it_stalled() {
        assert_eq!(offsets(&[Fault::Stalled, Fault::None]), [vec![0], vec![150_000]]);
        assert_eq!(offsets(&[Fault::CutOnce, Fault::None]), [vec![0], vec![150_000]]);
        assert_eq!(
            offsets(&[Fault::Stalled, Fault::Stalled, Fault::None]),
            [vec![0], vec![150_000], vec![225_000]]
        );
    }

    #[test]
    fn an_entity_tag_is_shown_only_to_the_server_that_gave_it() {
        let mut a = fake::mirror("a", Fault::Stalled);
        let mut b = fake::mirror("b", Fault::Stalled);
        (a.etag, b.etag) = (Some("\"a\"".to_owned()), Some("\"b\"".to_owned()));
        b.time = a.time.clone();
        let _ = fake::fetch_from(&[&a, &b]);
        assert_eq!(b.asked()[0], From { offset: 150_000, etag: None });
        for site in [&a, &b] {
            assert!(
                site.asked().iter().all(|from| from.etag.is_none() || from.etag == site.etag),
                "{:?}",
                site.asked()
            );
        }
    }

    #[test]
    fn a_server_without_the_file_is_left_for_the_next() {
        assert_eq!(offsets(&[Fault::Missing, Fault::None]), [vec![0], vec![0]]);
        let (reason, sites) = fetch(&[Fault::Missing, Fault::Missing]);
        assert_eq!(reason, Some("not-found"));
        assert_eq!(sites[0].time.pauses(), [Duration::ZERO; 0]);
    }

    #[test]
    fn ranges_that_are_wrong_or_ignored_do_no_harm() {
        assert_eq!(offsets(&[Fault::CutOnce, Fault::NoRanges]), [vec![0], vec![150_000]]);
        assert_eq!(
            offsets(&[Fault::CutOnce, Fault::WrongRange, Fault::None]),
            [vec![0], vec![150_000], vec![150_000]]
        );
        // Nobody else is there, so the one that broke is asked again, after a pause.
        let (reason, sites) = fetch(&[Fault::CutOnce, Fault::WrongRange]);
        assert_eq!((reason, sites[0].offsets()), (None, vec![0, 150_000]));
    }

    #[test]
    fn a_slow_server_is_left_for_a_healthy_one() {
        let asked = offsets(&[Fault::Slow(10_000), Fault::None]);
        assert_eq!(asked, [vec![0], vec![100_000]]);
        // With nobody else there, slow is better than nothing.
        assert_eq!(offsets(&[Fault::Slow(1000)]), [vec![0]]);
        assert_eq!(offsets(&[Fault::Slow(40_000), Fault::None]), [vec![0], vec![]]);
    }

    #[test]
    fn of_two_slow_servers_the_faster_is_kept() {
        assert_eq!(offsets(&[Fault::Slow(2000), Fault::Slow(3000)]), [vec![0], vec![20_000]]);
        assert_eq!(offsets(&[Fault::Slow(9000), Fault::Slow(300)]), [vec![0, 93_000], vec![90_000]]);
    }

    #[test]
    fn a_server_that_lies_is_not_asked_again() {
        assert_eq!(offsets(&[Fault::Flipped, Fault::None]), [vec![0], vec![0]]);
        assert_eq!(offsets(&[Fault::Longer, Fault::None]), [vec![0], vec![0]]);
        assert_eq!(offsets(&[Fault::Endless, Fault::None]), [vec![0], vec![0]]);
    }

    #[test]
    fn when_bytes_of_several_are_wrong_each_is_asked_alone() {
        // Whether the first or the second half was wrong cannot be seen.
        assert_eq!(
            offsets(&[Fault::CutOnce, Fault::FlippedEnd, Fault::None]),
            [vec![0], vec![150_000, 0], vec![0]]
        );
        let (reason, sites) = fetch(&[Fault::CutOnce, Fault::FlippedEnd]);
        assert_eq!((reason, sites[0].offsets()), (None, vec![0, 0]));
    }

    #[test]
    fn a_file_that_all_servers_falsify_is_refused_as_that_of_one() {
        let (reason, sites) = fetch(&[Fault::Flipped, Fault::Flipped, Fault::Flipped]);
        assert_eq!(reason, Some("sha256"));
        assert!(sites.iter().all(|site| site.offsets() == [0]));
        let (reason, _) = fetch(&[Fault::FlippedEnd, Fault::Dead, Fault::Longer]);
        assert_eq!(reason, Some("sha256"));
        let (reason, sites) = fetch(&[Fault::CutOnce, Fault::FlippedEnd, Fault::Dead, Fault::Flipped]);
        assert_eq!((reason, sites[0].offsets()), (None, vec![0, 0]));
    }

    #[test]
    fn tries_are_counted_anew_when_the_file_grows() {
        let (reason, sites) = fetch(&[Fault::CutAlways]);
        assert_eq!(reason, None);
        assert!(sites[0].offsets().len() > TRIES.tries as usize);
        assert!(sites[0].time.pauses().iter().all(|pause| *pause <= TRIES.first));
    }

    #[test]
    fn dead_servers_are_given_up_after_a_bounded_number_of_tries() {
        for faults in [&[Fault::Dead][..], &[Fault::Dead, Fault::Dead, Fault::Busy]] {
            let (reason, sites) = fetch(faults);
            assert!(matches!(reason, Some("io" | "http-status")), "{faults:?}");
            assert_eq!(sites[0].time.pauses().len(), TRIES.tries as usize - 1, "{faults:?}");
        }
    }
}
