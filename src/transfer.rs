//! One file of the site as it comes, from as many servers and over as many connections as it takes.
//!
//! In: servers, a path and its length. Out: its bytes, that nobody has verified yet. A server that is dead, stalled or
//! slow is left for the next, which goes on at the byte that was reached: what is fetched here is named by its hash,
//! so all servers have the same. When bytes of several servers turn out to be wrong together, nobody knows who lied:
//! each is asked for the whole alone. Failure: no server could give it, or not all of them together in time.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::Duration;

use zstrap_formats::list::Entry;

use crate::fail::{Chain, random};
use crate::fetch::{Error, Shared};
use crate::http::{self, Body, CONNECTIONS, From, HttpError};
use crate::retry::Retry;
use crate::servers::{Best, Index, Servers, Why};

/// Tries for one file at servers of which none is known to be good, before the whole attempt fails.
pub const TRIES: Retry = Retry { first: Duration::from_millis(500), cap: Duration::from_secs(10), tries: 6 };
/// Bytes a second below which a server is left, if there is a better one.
const SLOW: u64 = 32 * 1024;
/// How long a server may be that slow.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// So much more of a file makes up for earlier tries, or all that was missing if that is less. One byte does not: a
/// server that sends one each time and hangs up would be asked for ever.
const PROGRESS: u64 = 64 * 1024;

/// How long a file may take over all its servers: it shares a slow line with those that are fetched beside it.
fn longest(length: u64) -> Duration {
    http::longest(length.saturating_mul(CONNECTIONS as u64))
}

/// One file on its way. Reading it ends in an error that says nothing; [`Transfer::end`] then tells how to go on.
pub struct Transfer<'a> {
    shared: &'a Shared<'a>,
    entry: &'a Entry,
    path: String,
    length: u64,
    /// Nobody has signed the length: a server that has another one does not lie.
    is_hint: bool,
    /// Bytes that were read.
    have: u64,
    open: Option<Open>,
    end: Option<End>,
    /// The server of the last bytes, and when it was asked for them.
    last: Option<(Index, Duration)>,
    /// Whose bytes were read.
    givers: BTreeSet<Index>,
    /// Which version of the file the last bytes were of, and whose word that is.
    etag: Option<(Index, String)>,
    /// When it began, from whatever server.
    begun: Duration,
    /// Servers that cannot help with this file: they do not have it, have lied, or used up all tries.
    useless: BTreeSet<Index>,
    /// Servers that did not give all that was missing.
    lost: BTreeSet<Index>,
    /// Servers that were left since the last pause.
    left: BTreeSet<Index>,
    /// The server for which another was left.
    next: Option<Index>,
    /// Bytes of several servers were wrong together: only this one is asked.
    alone: Option<Index>,
    tries: Tries,
    best: Best<Error>,
}

/// A connection on which the file comes.
struct Open {
    server: Index,
    reader: Box<dyn Read + Send>,
    begun: Duration,
    /// How much there was when it began.
    before: u64,
    pace: Pace,
}

/// How often it was tried in vain.
#[derive(Default)]
struct Tries {
    done: u32,
    /// The most that there ever was: a server without ranges makes what there is begin at zero again and again.
    most: u64,
    /// The same, when the count last began anew.
    mark: u64,
}

impl Tries {
    fn reached(&mut self, have: u64) {
        self.most = self.most.max(have);
    }

    /// One more in vain, of a file of this length. How many there were since it last grew for good is the answer.
    fn failed(&mut self, length: u64) -> u32 {
        let (grown, left) = (self.most - self.mark, length.saturating_sub(self.mark));
        // A line that breaks again and again still brings a file that grows.
        if grown > 0 && grown >= left.min(PROGRESS) {
            *self = Self { done: 0, most: self.most, mark: self.most };
        }
        self.done += 1;
        self.done
    }
}

/// Why reading has ended before the end of the file.
pub enum End {
    /// The server sends the whole anew: what was read is thrown away, and reading begins again.
    Anew,
    /// The bytes cannot be right.
    Wrong(Error),
    /// No server can give the file.
    Failed(Error),
}

/// Why a connection has ended before the end of the file.
enum Broken {
    /// Another try, or another server, may help.
    Lost(Why, Error),
    /// This server cannot help.
    Useless(Why, Error),
    /// As for the reader.
    End(End),
}

impl Read for Transfer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.next_bytes(buffer) {
            Ok(read) => Ok(read),
            Err(end) => {
                self.end = Some(end);
                Err(io::Error::other("the transfer has ended"))
            }
        }
    }
}

impl<'a> Transfer<'a> {
    /// The file `path` of the site, which the list knows as `entry`; nothing is asked yet.
    pub fn new(shared: &'a Shared<'a>, entry: &'a Entry, path: String, length: u64) -> Self {
        Self {
            shared,
            entry,
            path,
            length,
            is_hint: false,
            have: 0,
            open: None,
            end: None,
            last: None,
            givers: BTreeSet::new(),
            etag: None,
            begun: shared.servers.time().now(),
            useless: BTreeSet::new(),
            lost: BTreeSet::new(),
            left: BTreeSet::new(),
            next: None,
            alone: None,
            tries: Tries::default(),
            best: Best::default(),
        }
    }

    /// The same for a file whose length nobody has signed.
    pub fn hinted(shared: &'a Shared<'a>, entry: &'a Entry, path: String, length: u64) -> Self {
        Self { is_hint: true, ..Self::new(shared, entry, path, length) }
    }

    /// Why the last read has failed; none when it did not.
    pub fn end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// All bytes were right.
    pub fn was_right(&self) {
        if let Some((server, begun)) = self.last {
            self.servers().succeeded(server, begun);
        }
    }

    /// The bytes were wrong, which is `error`; reading begins again. Whoever gave them all has lied; if there were
    /// several, each is asked alone.
    pub fn was_wrong(&mut self, error: Error) {
        self.close();
        if let (Some(&giver), 1) = (self.givers.first(), self.givers.len()) {
            self.servers().has_lied(giver);
            self.useless.insert(giver);
            self.log_refused(giver, Why::Lying, &error);
        } else {
            let (path, count, cause) = (self.entry.display_path(), self.givers.len(), Chain(&error));
            log::warn!(target: "fetch", "wrong path={path} servers={count} next=each-alone why={cause}");
            self.alone = self.candidates().first().copied();
        }
        self.best.add(Why::Lying, error);
        self.begin_anew();
        self.lost.clear();
        self.tries = Tries::default();
    }

    fn servers(&self) -> &'a Servers {
        self.shared.servers
    }

    fn next_bytes(&mut self, buffer: &mut [u8]) -> Result<usize, End> {
        loop {
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(End::Failed(stopped(self.entry)));
            }
            self.check_time()?;
            let server = match &self.open {
                Some(open) => open.server,
                None if self.have == self.length => return Ok(0),
                None => self.choose_in_time()?,
            };
            let has_begun_anew = match self.open {
                Some(_) => Ok(false),
                None => self.connect(server),
            };
            let read = match has_begun_anew {
                Ok(true) => return Err(End::Anew),
                Ok(false) => self.next_bytes_of_connection(server, buffer),
                Err(broken) => Err(broken),
            };
            match read {
                Ok(read) => return Ok(read),
                Err(broken) => self.broken(server, broken)?,
            }
        }
    }

    /// Whether there is time left for this file, which all its servers share.
    fn check_time(&mut self) -> Result<(), End> {
        let within = longest(self.length);
        if self.have == self.length || self.servers().time().now().saturating_sub(self.begun) < within {
            return Ok(());
        }
        self.close();
        let text = format!("only {} of {} bytes came within {}s", self.have, self.length, within.as_secs());
        let error = self.read_error(io::Error::new(io::ErrorKind::TimedOut, text));
        self.best.add(Why::Slow, error);
        Err(self.failed())
    }

    /// Servers that may help with this file, the best first; those that want to be left alone only when there is nobody
    /// else.
    fn candidates(&self) -> Vec<Index> {
        let mut candidates = self.servers().usable();
        candidates.retain(|server| !self.useless.contains(server));
        self.servers().due(candidates)
    }

    /// A server, when it may be asked.
    fn choose_in_time(&mut self) -> Result<Index, End> {
        let server = self.choose()?;
        let wait = self.servers().busy_for(server);
        if !wait.is_zero() {
            self.servers().time().pause(wait);
        }
        Ok(server)
    }

    fn choose(&mut self) -> Result<Index, End> {
        let candidates = self.candidates();
        let Some(&best) = candidates.first() else { return Err(self.failed()) };
        let Some(alone) = self.alone else {
            return Ok(self.next.take().filter(|next| candidates.contains(next)).unwrap_or(best));
        };
        // Another file may have shown meanwhile that it lies.
        if candidates.contains(&alone) {
            return Ok(alone);
        }
        self.alone = Some(best);
        if self.have == 0 {
            return Ok(best);
        }
        self.begin_anew();
        Err(End::Anew)
    }

    fn failed(&mut self) -> End {
        End::Failed(std::mem::take(&mut self.best).into_inner().unwrap_or_else(|| stopped(self.entry)))
    }

    /// Asks for what is missing. Whether the server sends the whole anew is the answer.
    fn connect(&mut self, server: Index) -> Result<bool, Broken> {
        let begun = self.servers().time().now();
        let mut body = self.ask(server)?;
        let whole = body.length.and_then(|length| length.checked_add(body.offset));
        if let Some(found) = whole.filter(|length| *length != self.length) {
            let why = if self.is_hint { Why::Missing } else { Why::Lying };
            return Err(Broken::Useless(why, self.wrong_length(found.to_string())));
        }
        // Perhaps because the file has changed.
        let is_anew = body.offset != self.have;
        if is_anew {
            self.begin_anew();
        }
        self.etag = body.etag.take().map(|etag| (server, etag));
        let pace = Pace::begin(self.servers(), server);
        self.last = Some((server, begun));
        self.open = Some(Open { server, reader: body.reader, begun, before: self.have, pace });
        Ok(is_anew)
    }

    fn ask(&self, server: Index) -> Result<Body, Broken> {
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        // An entity tag is the word of one server; another may call the same bytes otherwise.
        let own = self.etag.as_ref().filter(|(giver, _)| *giver == server);
        let from = From { offset: self.have, etag: own.map(|(_, etag)| etag.clone()) };
        self.servers().source(server).open(&self.path, &from, self.length).map_err(|source| {
            let may_pass = match &source {
                HttpError::Transport { .. } | HttpError::Certificate { .. } | HttpError::Range { .. } => true,
                HttpError::Status { status, .. } => *status >= 500 || *status == 429,
                HttpError::NotFound { .. } | HttpError::TooLarge { .. } => false,
            };
            let (why, error) = (Why::of(&source), Error::Get { path: self.entry.display_path(), source });
            if may_pass { Broken::Lost(why, error) } else { Broken::Useless(why, error) }
        })
    }

    fn next_bytes_of_connection(&mut self, server: Index, buffer: &mut [u8]) -> Result<usize, Broken> {
        let left = self.length - self.have;
        let mut one_more = [0];
        // At the end one more byte is asked for: its absence ends the file, and lets the connection be used again.
        let buffer = match usize::try_from(left) {
            Ok(0) => &mut one_more[..],
            Ok(left) if left < buffer.len() => &mut buffer[..left],
            _ => buffer,
        };
        let open = self.open.as_mut().expect("bytes are asked for only while a connection is open");
        let read = loop {
            match open.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match (read, left) {
            // All bytes are there, whatever the connection says at its end: the hashes decide.
            (Ok(0) | Err(_), 0) => {
                self.close();
                Ok(0)
            }
            (Ok(_), 0) => {
                Err(Broken::End(End::Wrong(self.wrong_length(format!("more than {}", self.length)))))
            }
            (Ok(0), _) => Err(Broken::Lost(Why::Cut, self.wrong_length(self.have.to_string()))),
            (Err(error), _) => {
                let why = if http::is_timeout(&error) { Why::Stalled } else { Why::Cut };
                Err(Broken::Lost(why, self.read_error(error)))
            }
            (Ok(read), _) => {
                self.givers.insert(server);
                self.have += read as u64;
                self.tries.reached(self.have);
                self.servers().gave(server, read as u64);
                self.leave_if_slow(server);
                Ok(read)
            }
        }
    }

    fn close(&mut self) -> u64 {
        let Some(open) = self.open.take() else { return 0 };
        let (brought, now) = (self.have.saturating_sub(open.before), self.servers().time().now());
        self.servers().brought(open.server, brought, now.saturating_sub(open.begun));
        brought
    }

    /// Leaves a server that has been slow for a while, if there is a better one.
    fn leave_if_slow(&mut self, server: Index) {
        let servers = self.servers();
        let Some(rate) = self.open.as_mut().and_then(|open| open.pace.too_slow(servers, server)) else {
            return;
        };
        let is_better = |other: &Index| *other != server && servers.is_likely_faster(*other, rate);
        let better = self.candidates().into_iter().find(is_better);
        let Some(better) = better.filter(|_| self.alone.is_none() && self.have < self.length) else { return };
        self.close();
        servers.was_slow(server, rate);
        self.left.insert(server);
        self.next = Some(better);
        self.log_interrupted(Duration::ZERO, &format!("only {rate} bytes a second"));
        servers.log_left(server, Why::Slow, better);
    }

    fn broken(&mut self, server: Index, broken: Broken) -> Result<(), End> {
        let has_brought = self.close() > 0;
        match broken {
            Broken::Lost(why, error) => self.lost(server, why, error, has_brought),
            Broken::Useless(why, error) => {
                self.give_up(server, why, error);
                Ok(())
            }
            Broken::End(end) => Err(end),
        }
    }

    /// A server did not give all. A good one that was not asked since the last pause goes on at once; else there
    /// is a pause.
    fn lost(&mut self, server: Index, why: Why, error: Error, has_brought: bool) -> Result<(), End> {
        self.servers().failed(server, has_brought, HttpError::wait_in(&error));
        self.left.insert(server);
        self.lost.insert(server);
        let cause = Chain(&error).to_string();
        self.best.add(why, error);
        self.next = self.healthy_next();
        if self.next.is_none() {
            if let Some(pause) = self.pause_after_try() {
                self.log_interrupted(pause, &cause);
                self.servers().time().pause(pause);
                return Ok(());
            }
            self.next = self.next_after_all_tries();
        }
        let Some(next) = self.next else { return Err(self.failed()) };
        self.log_interrupted(Duration::ZERO, &cause);
        self.servers().log_left(server, why, next);
        Ok(())
    }

    fn healthy_next(&self) -> Option<Index> {
        let is_good = |server: &Index| !self.left.contains(server) && self.servers().is_healthy(*server);
        if self.alone.is_some() { None } else { self.candidates().into_iter().find(is_good) }
    }

    /// How long to wait before any server is asked again; none when all tries are used.
    fn pause_after_try(&mut self) -> Option<Duration> {
        let done = self.tries.failed(self.length);
        self.left.clear();
        let wait = self.candidates().first().map_or(Duration::ZERO, |first| self.servers().busy_for(*first));
        TRIES.pause_after(done, random()).map(|pause| pause.max(wait))
    }

    /// Those that used up the tries are of no use. One that stood behind them all that time, such as a liar of an earlier
    /// attempt, may be: its site may be right by now, and if not, its lie says more than their silence. So may one that
    /// wanted to be left alone while others used them up.
    fn next_after_all_tries(&mut self) -> Option<Index> {
        let lost = std::mem::take(&mut self.lost).into_iter().collect();
        self.useless.extend(self.servers().due(lost));
        self.tries = Tries::default();
        self.candidates().first().copied()
    }

    fn log_interrupted(&self, pause: Duration, why: &str) {
        let (path, have, pause) = (self.entry.display_path(), self.have, pause.as_secs_f64());
        log::warn!(target: "fetch", "interrupted path={path} have={have} pause={pause:.1}s why={why}");
    }

    /// A server cannot give this file: what others gave is kept.
    fn give_up(&mut self, server: Index, why: Why, error: Error) {
        if why == Why::Lying {
            self.servers().has_lied(server);
        } else {
            self.servers().failed(server, false, None);
        }
        self.useless.insert(server);
        self.log_refused(server, why, &error);
        self.best.add(why, error);
    }

    fn log_refused(&self, server: Index, why: Why, error: &Error) {
        let Some(&next) = self.candidates().first() else { return };
        let name = self.servers().name(server);
        log::warn!(target: "servers", "no good answer server={name} {}", Chain(error));
        self.servers().log_left(server, why, next);
    }

    fn begin_anew(&mut self) {
        self.have = 0;
        self.givers.clear();
        self.etag = None;
    }

    fn read_error(&self, source: io::Error) -> Error {
        Error::Read { path: self.entry.display_path(), source }
    }

    fn wrong_length(&self, found: String) -> Error {
        Error::Length { path: self.entry.display_path(), found, expected: self.length }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::fail::Refusal as _;
    use crate::servers::{Memory, Time as _};
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
    fn a_server_that_asks_for_a_pause_gets_it_unless_another_helps() {
        let busy = || fake::mirror("a", Fault::Busy).asking_for(30);
        let (a, b) = (busy(), fake::mirror("b", Fault::None));
        assert!(fake::fetch_from(&[&a, &b]).0.is_ok());
        assert_eq!(a.time.pauses(), [Duration::ZERO; 0]);
        let a = busy();
        assert!(fake::fetch_from(&[&a]).0.is_err());
        assert_eq!(a.time.pauses(), [Duration::from_secs(30); TRIES.tries as usize - 1]);
    }

    #[test]
    fn a_busy_server_was_asked_before_its_time_when_another_was_dead() {
        let a = fake::mirror("a", Fault::BusyOnce).asking_for(60);
        let mut b = fake::mirror("b", Fault::Dead);
        b.time = a.time.clone();
        assert!(fake::fetch_from(&[&a, &b]).0.is_ok());
        assert_eq!(a.asked_at(), [0, 60].map(Duration::from_secs));
        let pauses = a.time.pauses();
        assert_eq!((b.asked_at().len(), pauses.len()), (TRIES.tries as usize, TRIES.tries as usize));
        for (done, pause) in (1..TRIES.tries).zip(pauses) {
            assert!(pause <= TRIES.pause_after(done, 0).unwrap(), "{pause:?}");
        }
        let a = fake::mirror("a", Fault::Busy).asking_for(60);
        b.time = a.time.clone();
        assert!(fake::fetch_from(&[&a, &b]).0.is_err());
        assert!(a.asked_at().windows(2).all(|two| two[1] - two[0] >= Duration::from_secs(60)));
        assert_eq!(a.asked_at().len(), 1 + TRIES.tries as usize);
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

    /// Fetches one file in an attempt before which the last of these servers has lied: the reason of a refusal, which
    /// bytes each was asked for, and how many pauses there were.
    fn fetch_after_a_lie(faults: &[Fault]) -> (Option<&'static str>, Vec<Vec<u64>>, usize) {
        let time = Arc::new(fake::VirtualTime::default());
        let memory = Memory::with_time(time.clone());
        let mut sites: Vec<Site> = faults
            .iter()
            .zip("abcdef".chars())
            .map(|(fault, name)| fake::mirror(&name.to_string(), *fault))
            .collect();
        sites.iter_mut().for_each(|site| site.time = time.clone());
        let servers = || fake::mirrors_known(&sites.iter().collect::<Vec<_>>(), &memory);
        let earlier = servers();
        earlier.has_lied(*earlier.usable().last().unwrap());
        time.pass(Duration::from_secs(1));
        let (result, _) = fake::fetch_through(&servers(), &fake::data());
        let reason = result.err().map(|error| error.reason());
        (reason, sites.iter().map(Site::offsets).collect(), time.pauses().len())
    }

    #[test]
    fn a_liar_of_an_earlier_attempt_was_never_asked_again_behind_a_dead_server() {
        let (tries, pauses) = (vec![0; TRIES.tries as usize], TRIES.tries as usize - 1);
        // It is still what a person has to know of.
        assert_eq!(
            fetch_after_a_lie(&[Fault::Dead, Fault::Flipped]),
            (Some("sha256"), vec![tries.clone(), vec![0]], pauses)
        );
        // Its site was repaired meanwhile.
        assert_eq!(fetch_after_a_lie(&[Fault::Dead, Fault::None]), (None, vec![tries, vec![0]], pauses));
        let (reason, asked, _) = fetch_after_a_lie(&[Fault::Dead, Fault::Dead]);
        assert_eq!((reason, asked[0].len(), asked[1].len()), (Some("io"), 6, 6));
    }

    #[test]
    fn a_liar_is_not_asked_while_another_server_brings_something() {
        let (reason, asked, _) = fetch_after_a_lie(&[Fault::CutAlways, Fault::Flipped]);
        assert_eq!((reason, asked[0].len(), asked[1].len()), (None, 10, 0));
    }

    /// Fetches a file of ten times [`PROGRESS`]: the reason of a refusal, and the server.
    fn fetch_large(fault: Fault) -> (Option<&'static str>, Site) {
        let content: Vec<u8> = (0..10 * PROGRESS).map(|n| (n / 7) as u8).collect();
        let mut site = fake::mirror("a", fault);
        site.insert(&zstrap_formats::site::blob(&zstrap_formats::digest::sha256(&content)), &content);
        let (result, _) = fake::fetch_content_from(&[&site], &content);
        (result.err().map(|error| error.reason()), site)
    }

    #[test]
    fn tries_are_counted_anew_when_the_file_grows() {
        let (reason, site) = fetch_large(Fault::CutAlways);
        assert_eq!(reason, None);
        assert!(site.offsets().len() > TRIES.tries as usize);
        assert!(site.time.pauses().iter().all(|pause| *pause <= TRIES.first));
    }

    #[test]
    fn a_server_that_hangs_up_after_each_byte_was_asked_for_ever() {
        let (reason, site) = fetch_large(Fault::ByteByByte);
        assert_eq!((reason, site.offsets()), (Some("io"), (0..u64::from(TRIES.tries)).collect()));
    }

    #[test]
    fn a_server_without_ranges_that_hangs_up_anywhere_was_asked_for_ever() {
        let (reason, site) = fetch_large(Fault::CutAnywhereNoRanges);
        assert!(reason.is_some());
        // Each growth by PROGRESS allows for a whole count of tries at most.
        assert!(site.offsets().len() <= 10 * TRIES.tries as usize, "{}", site.offsets().len());
    }

    #[test]
    fn a_small_file_that_is_cut_again_and_again_arrives() {
        let (reason, sites) = fetch(&[Fault::CutAlways]);
        assert_eq!((reason, sites[0].offsets().len()), (None, 10));
    }

    #[test]
    fn only_the_most_that_ever_came_counts_as_progress() {
        let mut tries = Tries::default();
        let mut after = |have| {
            tries.reached(have);
            tries.failed(2 * PROGRESS + 10)
        };
        assert_eq!([after(PROGRESS - 1), after(0), after(PROGRESS)], [1, 2, 1]);
        assert_eq!([after(1), after(PROGRESS), after(2 * PROGRESS - 1)], [2, 3, 4]);
        assert_eq!([after(2 * PROGRESS), after(2 * PROGRESS + 9), after(2 * PROGRESS + 10)], [1, 2, 1]);
        assert_eq!([after(2 * PROGRESS + 10), after(0)], [2, 3]);
    }

    #[test]
    fn a_file_that_trickles_in_from_several_servers_ends_at_its_bound() {
        let (faults, bound) = ([Fault::Slow(170), Fault::Slow(70)], longest(300_000));
        for faults in [&faults[..1], &faults[..]] {
            let (reason, sites) = fetch(faults);
            assert_eq!(reason, Some("io"), "{faults:?}");
            assert!((0..2).contains(&(sites[0].time.now() - bound).as_secs()), "{faults:?}");
        }
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
