//! A web server that serves a site and misbehaves where a test tells it to.
//!
//! In: a folder, a [`Place`] to listen at, and rules that say which request goes wrong in which way. Out: HTTP/1.1,
//! on demand over TLS (GET, HEAD, one byte range, keep-alive), and a record of all requests. Failure: only starting
//! can fail; a client that goes away ends its connection and nothing else. All threads end when the server is dropped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::netns::Namespace;
use crate::site::now;

/// An endless body ends here, so that a client which reads for ever shows as slow and not as a full disk.
const ENDLESS: u64 = 1 << 30;

/// A request may have this many header lines, each this long.
const MOST_HEADERS: usize = 100;
const LONGEST_HEADER: u64 = 8 * 1024;

/// The page that a hotspot or a wrong proxy answers with, whatever was asked for.
const HTML: &str =
    "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body>Please log in.</body></html>\n";

/// Body bytes that stand in for data nobody has: padding and endless bodies.
const FILLER: [u8; 16 * 1024] = [b'z'; 16 * 1024];

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Another body, with status 200.
    Replace(Vec<u8>),
    /// An HTML page, with status 200.
    Html,
    /// No file, but this status.
    Status(u16),
    /// The connection ends after this many body bytes of the range asked for.
    CutAfter(u64),
    /// The byte at this place of the file has its bits inverted.
    FlipByte(u64),
    /// The file, and so many bytes more; the length in the header is consistent with it.
    Longer(u64),
    /// A chunked body that does not end (or rather: ends after 1 GiB).
    Endless,
    /// Nothing for this long, then the right answer.
    Stall(Duration),
    /// So many body bytes of the range asked for, then nothing for this long, then the connection ends.
    StallAfter(u64, Duration),
    /// So many body bytes a second.
    Trickle(u64),
    /// The file, under a length in the header that is so much greater.
    Declares(i64),
    /// The whole with status 200, also where a part was asked for.
    NoRanges,
    /// These bytes as they are, in place of an answer; then the connection ends.
    Raw(Vec<u8>),
    /// So many headers of this length in front of an empty answer.
    Headers {
        /// How many.
        count: u64,
        /// Bytes in each.
        length: usize,
    },
}

impl Fault {
    /// An answer without a body, with this status and this header.
    pub fn head(status: u16, header: &str) -> Self {
        let head =
            format!("HTTP/1.1 {status} Fault\r\n{header}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        Self::Raw(head.into_bytes())
    }
}

/// A fault, where it strikes, and how often.
#[derive(Clone, Debug)]
pub struct Rule {
    path: String,
    fault: Fault,
    left: Option<u32>,
}

impl Rule {
    /// Strikes each request for `path`, in which `*` stands for any text.
    pub fn always(path: &str, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault, left: None }
    }

    /// Strikes the first `times` of those requests.
    pub fn first(times: u32, path: &str, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault, left: Some(times) }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path with its leading slash, undecoded.
    pub path: String,
    /// The value of the `Range` header.
    pub range: Option<String>,
    /// When it came, since the server was started.
    pub at: Duration,
}

/// Where a server listens, and how machines get to it.
#[derive(Clone)]
pub struct Place {
    namespace: Option<Namespace>,
    address: SocketAddr,
    host: String,
    tls: Option<Arc<ServerConfig>>,
}

impl Place {
    /// The host's loopback, which machines on user-mode networking see as [`HOST`](crate::vm::HOST).
    pub fn user() -> Self {
        Self::at(None, SocketAddr::from(([127, 0, 0, 1], 0)), crate::vm::HOST)
    }

    /// The same with IPv6; user-mode networks see it as their second site-local address.
    pub fn user6() -> Self {
        Self::at(None, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), "[fec0::2]")
    }

    /// An address inside a namespace.
    pub fn inside(namespace: &Namespace, address: IpAddr) -> Self {
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        Self::at(Some(namespace), SocketAddr::from((address, 0)), &host)
    }

    fn at(namespace: Option<&Namespace>, address: SocketAddr, host: &str) -> Self {
        Self { namespace: namespace.cloned(), address, host: host.to_owned(), tls: None }
    }

    /// Has machines ask for it by this name.
    #[must_use]
    pub fn named(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Has it listen on this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.address.set_port(port);
        self
    }

    /// Has it speak TLS.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Runs what opens sockets where they belong.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.run(work),
            None => Ok(work()),
        }
    }

    fn listen(&self) -> Result<TcpListener> {
        self.run(|| TcpListener::bind(self.address))?.with_context(|| format!("binding {}", self.address))
    }
}

/// The server.
pub struct FaultServer {
    place: Place,
    shared: Arc<Shared>,
    acceptor: Option<Acceptor>,
}

struct Shared {
    site: PathBuf,
    tls: Option<Arc<ServerConfig>>,
    started: Instant,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    clients: Mutex<Vec<Client>>,
    closing: AtomicBool,
}

/// A listening socket and the thread that accepts on it.
struct Acceptor {
    listener: TcpListener,
    thread: JoinHandle<()>,
}

/// A connection and the thread that serves it.
struct Client {
    stream: TcpStream,
    thread: JoinHandle<()>,
}

impl FaultServer {
    /// Serves `site` on a free port of 127.0.0.1.
    pub fn start(site: &Path) -> Result<Self> {
        Self::start_at(site, Place::user())
    }

    /// Serves `site` at a place; on a free port, unless it names one.
    pub fn start_at(site: &Path, mut place: Place) -> Result<Self> {
        let listener = place.listen()?;
        place.address = listener.local_addr().context("asking for the port")?;
        let shared = Arc::new(Shared {
            site: site.to_owned(),
            tls: place.tls.clone(),
            started: Instant::now(),
            rules: Mutex::default(),
            requests: Mutex::default(),
            clients: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let acceptor = Some(accept_on(listener, &shared)?);
        Ok(Self { place, shared, acceptor })
    }

    /// Where it listens, as the host or its namespace sees it.
    pub fn address(&self) -> SocketAddr {
        self.place.address
    }

    /// Its URL as machines see it.
    pub fn url(&self) -> String {
        let scheme = if self.place.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.place.host, self.place.address.port())
    }

    /// Adds a rule. The first rule that strikes a request wins.
    pub fn rule(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// The requests for `path`, in which `*` stands for any text.
    pub fn requests_for(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| glob(path, &request.path)).collect()
    }

    /// Closes the port and all connections: clients get "connection refused" from now on.
    pub fn pause(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        // This ends the wait for a connection, also where its address is gone already. It is gone with its threads.
        let _ = rustix::net::shutdown(&acceptor.listener, rustix::net::Shutdown::Both);
        drop(acceptor.listener);
        // A thread that panicked has closed its sockets, too.
        let _ = acceptor.thread.join();
        for client in std::mem::take(&mut *lock(&self.shared.clients)) {
            let _ = client.stream.shutdown(Shutdown::Both);
            let _ = client.thread.join();
        }
    }

    /// Opens the same port again after [`pause`](Self::pause).
    pub fn resume(&mut self) -> Result<()> {
        if self.acceptor.is_some() {
            return Ok(());
        }
        let listener = self.place.listen()?;
        self.shared.closing.store(false, Ordering::SeqCst);
        self.acceptor = Some(accept_on(listener, &self.shared)?);
        Ok(())
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.pause();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `pattern`, in which `*` stands for any text, describes all of `path`.
fn glob(pattern: &str, path: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == path };
    let Some(rest) = path.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|skipped| rest.get(skipped..).is_some_and(|rest| glob(tail, rest)))
}

fn accept_on(listener: TcpListener, shared: &Arc<Shared>) -> Result<Acceptor> {
    let shared = Arc::clone(shared);
    let kept = listener.try_clone().context("cloning a listening socket")?;
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.closing.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let Ok(kept) = stream.try_clone() else { continue };
            let served = Arc::clone(&shared);
            let thread = std::thread::spawn(move || {
                // An error here is a client that went away, or a fault that was asked for.
                let _ = served.serve_encrypted_or_not(&stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
            lock(&shared.clients).push(Client { stream: kept, thread });
        }
    });
    Ok(Acceptor { listener: kept, thread })
}

/// What is left of a request once it is understood.
#[derive(Clone)]
struct Asked {
    method: String,
    path: String,
    range: Option<String>,
    close: bool,
}

impl Shared {
    fn serve_encrypted_or_not(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.serve(stream),
            Some(tls) => {
                let session = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
                self.serve(StreamOwned::new(session, stream))
            }
        }
    }

    fn serve(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(asked) = read_request(&mut stream)? {
            self.record(&asked);
            let fault = self.fault_for(&asked.path);
            self.answer(stream.get_mut(), &asked, fault)?;
            if asked.close {
                break;
            }
        }
        Ok(())
    }

    fn record(&self, asked: &Asked) {
        let Asked { method, path, range, .. } = asked;
        let (method, path, range) = (method.clone(), path.clone(), range.clone());
        lock(&self.requests).push(Request { method, path, range, at: self.started.elapsed() });
    }

    fn fault_for(&self, path: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| glob(&rule.path, path) && rule.left != Some(0))?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.fault.clone())
    }

    fn answer(&self, out: &mut impl Write, asked: &Asked, fault: Option<Fault>) -> io::Result<()> {
        let file = || open(&self.site, &asked.path);
        match fault {
            None => send(out, asked, file()),
            Some(Fault::Replace(bytes)) => send(out, asked, Some(Body::from(bytes))),
            Some(Fault::Html) => send(out, asked, Some(Body::from(HTML.as_bytes().to_vec()))),
            Some(Fault::Status(status)) => send_status(out, status),
            Some(Fault::CutAfter(bytes)) => {
                send(out, asked, file().map(|body| Body { cut: Some(bytes), ..body }))
            }
            Some(Fault::FlipByte(place)) => {
                send(out, asked, file().map(|body| Body { flip: Some(place), ..body }))
            }
            Some(Fault::Longer(extra)) => send(out, asked, file().map(|body| Body { extra, ..body })),
            Some(Fault::Endless) => send_endless(out),
            Some(Fault::Declares(more)) => send(out, asked, file().map(|body| Body { more, ..body })),
            Some(Fault::NoRanges) => send(out, &Asked { range: None, ..asked.clone() }, file()),
            Some(Fault::Raw(bytes)) => {
                out.write_all(&bytes)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(Fault::Headers { count, length }) => send_headers(out, count, length),
            Some(Fault::Trickle(rate)) => {
                send(out, asked, file().map(|body| Body { rate: Some(rate), ..body }))
            }
            Some(Fault::Stall(time)) => {
                self.stall(time)?;
                send(out, asked, file())
            }
            Some(Fault::StallAfter(bytes, time)) => {
                let sent = send(out, asked, file().map(|body| Body { cut: Some(bytes), ..body }));
                self.stall(time)?;
                sent
            }
        }
    }

    /// Sleeps, unless the server is being closed.
    fn stall(&self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if self.closing.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Reads one request; `None` when the client has no more.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Asked>> {
    let first = read_header(reader)?;
    let mut words = first.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut asked = Asked { method: method.to_owned(), path: path.to_owned(), range: None, close: false };
    for _ in 0..MOST_HEADERS {
        let header = read_header(reader)?;
        let Some((name, value)) = header.split_once(':') else { return Ok(Some(asked)) };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("range", value) => asked.range = Some(value.to_owned()),
            ("connection", value) => asked.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn read_header(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(LONGEST_HEADER).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// The file behind a request path; `None` for whatever isn't a file below the site.
fn open(site: &Path, path: &str) -> Option<Body> {
    let relative = path.split(['?', '#']).next()?.strip_prefix('/')?;
    if relative.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return None;
    }
    let file = File::open(site.join(relative)).ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(Body::of(Source::File(file), meta.len()))
}

/// A body to send, with what shall be wrong about it.
struct Body {
    source: Source,
    stored: u64,
    flip: Option<u64>,
    extra: u64,
    cut: Option<u64>,
    rate: Option<u64>,
    more: i64,
}

enum Source {
    File(File),
    Bytes(io::Cursor<Vec<u8>>),
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        let stored = bytes.len() as u64;
        Self::of(Source::Bytes(io::Cursor::new(bytes)), stored)
    }
}

impl Body {
    /// With nothing wrong about it.
    fn of(source: Source, stored: u64) -> Self {
        Self { source, stored, flip: None, extra: 0, cut: None, rate: None, more: 0 }
    }

    fn length(&self) -> u64 {
        self.stored + self.extra
    }

    /// Sends `[start, end)`, up to the cut.
    fn send(&mut self, out: &mut impl Write, start: u64, end: u64) -> io::Result<()> {
        let stop = self.cut.map_or(end, |cut| end.min(start.saturating_add(cut)));
        let mut place = start;
        while place < stop {
            // Ten pieces a second, where there is a rate.
            let most = self.rate.map_or(stop, |rate| stop.min(place + rate.div_ceil(10)));
            let piece = self.piece(place, most)?;
            out.write_all(&piece)?;
            if self.rate.is_some() {
                out.flush()?;
                std::thread::sleep(Duration::from_millis(100));
            }
            place += piece.len() as u64;
        }
        if stop < end { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// The next bytes from `place`, at least one.
    fn piece(&mut self, place: u64, stop: u64) -> io::Result<Vec<u8>> {
        let most = (stop - place).min(FILLER.len() as u64) as usize;
        if place >= self.stored {
            return Ok(FILLER[..most].to_vec());
        }
        let mut piece = vec![0; most.min((self.stored - place).min(FILLER.len() as u64) as usize)];
        match &mut self.source {
            Source::File(file) => read_at(file, place, &mut piece)?,
            Source::Bytes(bytes) => read_at(bytes, place, &mut piece)?,
        }
        let flipped = self.flip.and_then(|flip| piece.get_mut(flip.checked_sub(place)? as usize));
        if let Some(byte) = flipped {
            *byte = !*byte;
        }
        Ok(piece)
    }
}

fn read_at(source: &mut (impl Read + Seek), place: u64, piece: &mut [u8]) -> io::Result<()> {
    source.seek(SeekFrom::Start(place))?;
    source.read_exact(piece)
}

fn send(out: &mut impl Write, asked: &Asked, body: Option<Body>) -> io::Result<()> {
    let Some(mut body) = body else { return send_status(out, 404) };
    let length = body.length();
    let (start, end) = match asked.range.as_deref().map(|range| parse_range(range, length)) {
        Some(None) => return send_status(out, 416),
        Some(Some(range)) => range,
        None => (0, length),
    };
    let status = if asked.range.is_some() { "206 Partial Content" } else { "200 OK" };
    let declared = (end - start).saturating_add_signed(body.more);
    let mut head =
        format!("HTTP/1.1 {status}\r\n{}Content-Length: {declared}\r\nAccept-Ranges: bytes\r\n", date());
    if asked.range.is_some() {
        head += &format!("Content-Range: bytes {start}-{}/{length}\r\n", end.saturating_sub(1));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    body.send(out, start, end)?;
    // Under a wrong length, what the client takes for the end of this answer is not where the next one begins.
    if body.more == 0 { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
}

/// `bytes=A-B`, `bytes=A-` or `bytes=-N` as a half-open range; `None` when it can't be satisfied.
fn parse_range(text: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", count) => (length.saturating_sub(count.parse().ok()?), length),
        (first, "") => (first.parse().ok()?, length),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?.min(length)),
    };
    (start < end).then_some((start, end))
}

fn send_status(out: &mut impl Write, status: u16) -> io::Result<()> {
    let body = format!("status {status}\n");
    let head = format!("HTTP/1.1 {status} Fault\r\n{}Content-Length: {}\r\n\r\n", date(), body.len());
    out.write_all(format!("{head}{body}").as_bytes())
}

/// The header that says what time it is here (RFC 9110, 5.6.7); nothing when the time can't be told.
fn date() -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let said = || {
        let now = now().ok()?;
        // 2026-11-20T08:00:00Z
        let text = now.to_string();
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
        let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
        let weekday = DAYS[(now.unix() / 86_400 % 7) as usize];
        Some(format!("Date: {weekday}, {day} {month} {year} {time} GMT\r\n"))
    };
    said().unwrap_or_default()
}

fn send_headers(out: &mut impl Write, count: u64, length: usize) -> io::Result<()> {
    let piece = vec![b'z'; length.min(1 << 20)];
    out.write_all(b"HTTP/1.1 200 OK\r\n")?;
    for number in 0..count {
        write!(out, "X-{number}: ")?;
        for _ in 0..length.div_ceil(piece.len().max(1)) {
            out.write_all(&piece)?;
        }
        out.write_all(b"\r\n")?;
    }
    out.write_all(b"Content-Length: 0\r\n\r\n")
}

fn send_endless(out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let size = format!("{:x}\r\n", FILLER.len());
    for _ in 0..ENDLESS / FILLER.len() as u64 {
        out.write_all(size.as_bytes())?;
        out.write_all(&FILLER)?;
        out.write_all(b"\r\n")?;
    }
    out.write_all(b"0\r\n\r\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: &[u8] = b"0123456789";

    fn server() -> (tempfile::TempDir, FaultServer) {
        let site = tempfile::tempdir().unwrap();
        std::fs::write(site.path().join("file"), FILE).unwrap();
        let server = FaultServer::start(site.path()).unwrap();
        (site, server)
    }

    /// Sends requests over one connection and returns all that comes back.
    fn talk(server: &FaultServer, requests: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8(answer).unwrap();
        // All answers say the time, which is another one each time.
        text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
    }

    fn get(server: &FaultServer, headers: &str) -> String {
        talk(server, &format!("GET /file HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"))
    }

    #[test]
    fn serves_files_over_one_connection() {
        let (_site, server) = server();
        let answer = talk(
            &server,
            "HEAD /file HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\n\r\nGET /file HTTP/1.1\r\nConnection: close\r\n\r\n",
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nAccept-Ranges: bytes\r\n\r\n";
        let missing = "HTTP/1.1 404 Fault\r\nContent-Length: 11\r\n\r\nstatus 404\n";
        assert_eq!(answer, format!("{head}{missing}{head}0123456789"));
        let seen: Vec<_> =
            server.requests().into_iter().map(|r| format!("{} {}", r.method, r.path)).collect();
        assert_eq!(seen, ["HEAD /file", "GET /none", "GET /file"]);
    }

    #[test]
    fn serves_ranges() {
        let (_site, server) = server();
        let answer = get(&server, "Range: bytes=4-\r\n");
        assert!(answer.starts_with("HTTP/1.1 206 "), "{answer}");
        assert!(
            answer.contains("Content-Range: bytes 4-9/10\r\n") && answer.ends_with("\r\n\r\n456789"),
            "{answer}"
        );
        assert!(get(&server, "Range: bytes=2-3\r\n").ends_with("\r\n\r\n23"));
        assert!(get(&server, "Range: bytes=-3\r\n").ends_with("\r\n\r\n789"));
        assert!(get(&server, "Range: bytes=10-\r\n").starts_with("HTTP/1.1 416 "));
        assert_eq!(server.requests_for("/file")[0].range.as_deref(), Some("bytes=4-"));
    }

    #[test]
    fn never_leaves_the_site() {
        let (_site, server) = server();
        for path in ["/../etc/passwd", "//etc/passwd", "/.tmp/x", "/", "/a/../file"] {
            let answer = talk(&server, &format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        }
    }

    #[test]
    fn faults_change_the_body_as_told() {
        let cases: [(Fault, &str, &str); 11] = [
            (Fault::Replace(b"other".to_vec()), "Content-Length: 5\r\n", "\r\n\r\nother"),
            (Fault::Html, "HTTP/1.1 200 OK\r\n", "</html>\n"),
            (Fault::Status(503), "HTTP/1.1 503 ", "status 503\n"),
            (Fault::CutAfter(4), "Content-Length: 10\r\n", "\r\n\r\n0123"),
            (Fault::FlipByte(0), "Content-Length: 10\r\n", "123456789"),
            (Fault::Longer(3), "Content-Length: 13\r\n", "0123456789zzz"),
            (Fault::Declares(3), "Content-Length: 13\r\n", "\r\n\r\n0123456789"),
            (Fault::Declares(-3), "Content-Length: 7\r\n", "\r\n\r\n0123456789"),
            (Fault::NoRanges, "HTTP/1.1 200 OK\r\n", "\r\n\r\n0123456789"),
            (Fault::head(429, "Retry-After: 7"), "HTTP/1.1 429 Fault\r\nRetry-After: 7\r\n", "close\r\n\r\n"),
            (Fault::Headers { count: 3, length: 2 }, "X-0: zz\r\nX-1: zz\r\nX-2: zz\r\n", "0\r\n\r\n"),
        ];
        for (fault, header, end) in cases {
            let (_site, server) = server();
            let name = format!("{fault:?}");
            let flips = matches!(fault, Fault::FlipByte(_));
            server.rule(Rule::always("/file", fault));
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(b"GET /file HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let text = String::from_utf8_lossy(&answer);
            assert!(text.contains(header) && text.ends_with(end), "{name}: {text}");
            assert_eq!(flips, answer.contains(&!b'0'), "{name}: {text}");
        }
    }

    #[test]
    fn endless_body_outlasts_the_client() {
        let (_site, server) = server();
        server.rule(Rule::always("/file", Fault::Endless));
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"GET /file HTTP/1.1\r\n\r\n").unwrap();
        let mut read = vec![0; 8 << 20];
        stream.read_exact(&mut read).unwrap();
        assert!(read.starts_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\nzzz"));
    }

    #[test]
    fn star_stands_for_any_text_and_the_rest_for_itself() {
        let yes = [
            ("/file", "/file"),
            ("*.mtree", "/bundles/a/1.mtree"),
            ("/b*/*/latest", "/bundles/a/amd64/latest"),
        ];
        let no = [
            ("/file", "/file2"),
            ("*.mtree", "/bundles/a/1.mtree.minisig"),
            ("/b*/latest", "/configs/latest"),
        ];
        assert!(yes.iter().all(|(pattern, path)| glob(pattern, path)));
        assert!(!no.iter().any(|(pattern, path)| glob(pattern, path)));
    }

    #[test]
    fn rule_strikes_only_the_first_requests() {
        let (_site, server) = server();
        server.rule(Rule::first(2, "/file", Fault::Status(500)));
        let answers: Vec<String> = (0..3).map(|_| get(&server, "")[..12].to_owned()).collect();
        assert_eq!(answers, ["HTTP/1.1 500", "HTTP/1.1 500", "HTTP/1.1 200"]);
    }

    #[test]
    fn stall_delays_the_answer_and_ends_with_the_server() {
        let (_site, mut server) = server();
        server.rule(Rule::first(1, "/file", Fault::Stall(Duration::from_millis(300))));
        let begun = Instant::now();
        assert!(get(&server, "").ends_with("0123456789"));
        assert!(begun.elapsed() >= Duration::from_millis(300));
        server.rule(Rule::always("/file", Fault::Stall(Duration::from_secs(3600))));
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"GET /file HTTP/1.1\r\n\r\n").unwrap();
        while server.requests().len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.pause();
        assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    }

    #[test]
    fn stall_after_some_bytes_keeps_the_connection_and_sends_no_more() {
        let (_site, mut server) = server();
        server.rule(Rule::always("/file", Fault::StallAfter(4, Duration::from_secs(3600))));
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"GET /file HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n0123") {
            let mut piece = [0; 100];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "ended after {}", String::from_utf8_lossy(&answer));
            answer.extend(&piece[..read]);
        }
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let silence = stream.read(&mut [0; 10]).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
        server.pause();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    }

    #[test]
    fn paused_server_refuses_connections_until_it_resumes() {
        let (_site, mut server) = server();
        let mut kept = TcpStream::connect(server.address()).unwrap();
        kept.write_all(b"GET /file HTTP/1.1\r\n\r\n").unwrap();
        kept.read_exact(&mut [0; 20]).unwrap();
        kept.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        server.pause();
        let refused = TcpStream::connect(server.address()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // The old connection is closed, too: this ends long before the timeout.
        let end = kept.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(matches!(end, Ok(_) | Err(io::ErrorKind::ConnectionReset)), "{end:?}");
        server.resume().unwrap();
        assert!(get(&server, "").ends_with("0123456789"));
    }
}
