//! Getting files from a bootstrap server: HTTP and HTTPS with bounds on time and size.
//!
//! In: a path of the site layout. Out: bytes that nobody has verified yet. The certificate check keeps others
//! from watching and delaying; what may run is decided by signatures alone.

use std::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::SigningKey;
use ureq::Agent;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use zstrap_formats::identity::Identity;
use zstrap_formats::time::Timestamp;
use zstrap_formats::url::Url;

use crate::fail::Code;
use crate::sys::names::{EachFamily, NoSuchName};
use crate::watchdog;

/// How long a server is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For its address and a connection.
    pub connect: Duration,
    /// For the first line of an answer.
    pub answer: Duration,
    /// A server that sends nothing for this long is stalled.
    pub stall: Duration,
    /// Bytes a second below which a small file comes too slowly.
    pub small_file: u64,
}

impl Patience {
    /// With a server that nobody can stand in for.
    pub const ALONE: Self = Self {
        connect: Duration::from_secs(10),
        answer: Duration::from_secs(20),
        stall: Duration::from_secs(20),
        small_file: 1,
    };
    /// With one of several. A line that was only slow goes on where it stopped, so little is lost by a mistake.
    pub const AMONG_OTHERS: Self = Self {
        connect: Duration::from_secs(8),
        answer: Duration::from_secs(8),
        stall: Duration::from_secs(8),
        small_file: 32 * 1024,
    };
}

/// The question where a server leads to.
const WHERE: Duration = Duration::from_secs(5);
/// The longest place that is told.
const LONGEST_PLACE: usize = 200;
/// A probe from its first packet to its last byte.
const PROBE: Duration = Duration::from_secs(30);
/// All of a small file: lists and configs, whose size is bounded, must not trickle in for ever.
const SMALL_FILE: Duration = Duration::from_secs(300);
/// Before anybody can say how fast a server is.
const WARM_UP: Duration = Duration::from_secs(10);
/// Bytes a second below which a download is given up: 128 kbit/s.
const SLOWEST: u64 = 16 * 1024;
const REDIRECTS: u32 = 3;
/// The longest that a server is left alone because it asks for that.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How long a small file may come without a word about it.
const SILENT: Duration = Duration::from_secs(20);
/// The longest single wait for a server: name, connection and answer of a request and of each redirect, and a little.
/// Also that for a medium, whose drive may try a bad place again and again.
pub const LONGEST_WAIT: Duration = {
    let Patience { connect, answer, .. } = Patience::ALONE;
    let request = connect.saturating_add(connect).saturating_add(answer);
    request.saturating_mul(REDIRECTS + 1).saturating_add(Duration::from_secs(20))
};
/// Connections to one server at once: enough to hide the round trips of small files.
pub const CONNECTIONS: usize = 4;

/// How long so many bytes may take.
#[must_use]
pub const fn longest(size: u64) -> Duration {
    SMALL_FILE.saturating_add(Duration::from_secs(size / SLOWEST))
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server does not have it.
    #[error("{url}: not found (404)")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The server answered, but with no file.
    #[error("{url}: server answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP status code.
        status: u16,
        /// How long the server wants to be left alone.
        wait: Option<Duration>,
    },
    /// More than the limit of its kind.
    #[error("{url}: longer than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// Most bytes that are taken.
        limit: u64,
    },
    /// A part of a file that does not continue where we stopped.
    #[error("{url}: server sent another part than bytes={offset}-")]
    Range {
        /// What was asked for.
        url: String,
        /// First byte asked for.
        offset: u64,
    },
    /// It shows no certificate that holds.
    #[error("{url}")]
    Certificate {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        source: BadCertificate,
    },
    /// No connection, no answer, or cut off.
    #[error("{url}")]
    Transport {
        /// What was asked for.
        url: String,
        /// What went wrong below.
        source: io::Error,
    },
}

impl HttpError {
    /// Which failure it is where a file of a site was asked for.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::FileMissing,
            Self::Status { .. } => Code::FileStatus,
            Self::TooLarge { .. } => Code::FileTooLarge,
            Self::Range { .. } | Self::Certificate { .. } | Self::Transport { .. } => Code::FileBroken,
        }
    }

    /// Which failure it is where nobody knows yet whether there is a site.
    #[must_use]
    pub fn code_of_probe(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotPublished,
            Self::Status { .. } | Self::Range { .. } => Code::StatusAtFirst,
            Self::TooLarge { .. } => Code::NotOurs,
            Self::Certificate { source, .. } => source.code(),
            Self::Transport { url, .. } if url.starts_with("file:") => Code::NoMedium,
            Self::Transport { source, .. } => code_of_transport(source),
        }
    }

    /// How long the server wants to be left alone whose answer is the cause of this error.
    #[must_use]
    pub fn wait_in(error: &(dyn Error + 'static)) -> Option<Duration> {
        match error.downcast_ref() {
            Some(Self::Status { wait, .. }) => *wait,
            _ => Self::wait_in(error.source()?),
        }
    }

    /// Whether a wrong clock of this machine could be the whole cause.
    #[must_use]
    pub fn may_be_clock(&self) -> bool {
        matches!(self, Self::Certificate { source, .. } if source.is_about_time())
    }

    fn transport(url: String, error: ureq::Error) -> Self {
        let source = error.into_io();
        match BadCertificate::of(&source) {
            Some(source) => Self::Certificate { url, source },
            None => Self::Transport { url, source },
        }
    }
}

fn code_of_transport(error: &io::Error) -> Code {
    use ureq::Timeout::{Connect, Resolve};
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<NoSuchName>()) {
        return Code::NameUnknown;
    }
    match inner.and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(Resolve)) => return Code::NameUnknown,
        Some(ureq::Error::Timeout(Connect)) => return Code::Unreachable,
        Some(ureq::Error::TooManyRedirects) => return Code::NotOurs,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Code::ConnectionRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::TimedOut => {
            Code::Unreachable
        }
        _ => Code::NoAnswer,
    }
}

/// Why a server's certificate is not taken, in words that tell an operator whom to ask.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// The server's certificate was not renewed, or the clock of this machine is ahead.
    #[error("invalid peer certificate: expired: valid until {until}, the clock says {now}")]
    Expired {
        /// In the certificate.
        until: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The clock of this machine is behind.
    #[error("invalid peer certificate: not valid yet: valid from {from}, the clock says {now}")]
    NotYetValid {
        /// In the certificate.
        from: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// It belongs to another host.
    #[error("invalid peer certificate: wrong name: {0}")]
    Name(String),
    /// Nobody whom the identity trusts has signed it.
    #[error("invalid peer certificate: unknown CA")]
    UnknownCa,
    /// Its signature is not by the CA that it names, which is one of the identity's; or that of the handshake is not by
    /// the certificate's key.
    #[error(
        "invalid peer certificate: not signed by the CA whose name it bears, or the server has another key"
    )]
    Signature,
    /// A server's must not be a CA's, which one that signs itself mostly is.
    #[error(
        "invalid peer certificate: it is that of a CA (CA:TRUE), expected one that a CA has signed (CA:FALSE)"
    )]
    IsCa,
    /// In the words of the TLS library.
    #[error("invalid peer certificate: {0}")]
    Other(String),
}

impl BadCertificate {
    fn code(&self) -> Code {
        match self {
            Self::Expired { .. } | Self::NotYetValid { .. } => Code::OtherTime,
            Self::Name(_) => Code::OtherName,
            Self::UnknownCa => Code::UnknownCa,
            Self::Signature => Code::OtherSigner,
            Self::IsCa => Code::CaAsServer,
            Self::Other(_) => Code::BadCertificate,
        }
    }

    /// Whether it would hold at another time.
    #[must_use]
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::NotYetValid { .. })
    }

    fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        let direct = inner.downcast_ref::<rustls::Error>();
        let wrapped = inner.downcast_ref::<ureq::Error>().and_then(|error| match error {
            ureq::Error::Rustls(error) => Some(error),
            _ => None,
        });
        Self::of_tls(direct.or(wrapped)?)
    }

    /// What is wrong with it, if that is why TLS failed.
    #[must_use]
    pub fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(error) => Some(Self::of_certificate(error)),
            _ => None,
        }
    }

    fn of_certificate(error: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as E;
        let other = || Self::Other(error.to_string());
        let times = |a: UnixTime, b: UnixTime| Some((timestamp(a)?, timestamp(b)?));
        match error {
            E::ExpiredContext { time, not_after } => {
                times(*not_after, *time).map_or_else(other, |(until, now)| Self::Expired { until, now })
            }
            E::NotValidYetContext { time, not_before } => {
                times(*not_before, *time).map_or_else(other, |(from, now)| Self::NotYetValid { from, now })
            }
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::Name(error.to_string()),
            // A chain that ends in a certificate of its own making has no CA that we know, either.
            E::UnknownIssuer => Self::UnknownCa,
            E::BadSignature => Self::Signature,
            // The library below (webpki 0.103 of rustls 0.23.46) has this as a type that it does not share: its Debug
            // text decides. `clock::https` has a test, for the versions to come.
            E::Other(_) if error.to_string().ends_with("(CaUsedAsEndEntity))") => Self::IsCa,
            _ => other(),
        }
    }
}

fn timestamp(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_unix(time.as_secs()).ok()
}

/// Where in a file to begin, and which version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct From {
    /// Bytes that we have already.
    pub offset: u64,
    /// The entity tag they came with.
    pub etag: Option<String>,
}

/// The rest of a file as it comes.
pub struct Body {
    /// The bytes; an error when they stop early.
    pub reader: Box<dyn Read + Send>,
    /// The first of them: what was asked for, or 0 when the server sends the whole.
    pub offset: u64,
    /// How many the server says will come.
    pub length: Option<u64>,
    /// Which version of the file it is; none when the server does not say it to the byte.
    pub etag: Option<String>,
}

/// Anything that has the files of a site. The init speaks to [`Server`]; tests speak to a map.
pub trait Source: Send + Sync {
    /// A whole small file.
    ///
    /// # Errors
    /// [`HttpError`], [`HttpError::TooLarge`] beyond `limit` bytes.
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError>;

    /// A file of about `size` bytes, from a byte on.
    ///
    /// # Errors
    /// [`HttpError`] until the first byte; then the reader's own.
    fn open(&self, path: &str, from: &From, size: u64) -> Result<Body, HttpError>;

    /// Whether this is a server of ours: a small file, wanted soon.
    ///
    /// # Errors
    /// [`HttpError`].
    fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError>;

    /// Where it leads who asks for this file, if anywhere else: for people, when what came is not the file.
    fn leads_to(&self, _: &str) -> Option<String> {
        None
    }

    /// Its URL, for people.
    fn name(&self) -> String;
}

/// One bootstrap server.
pub struct Server {
    base: Url,
    agent: Agent,
    patience: Patience,
}

/// A CA or proxy in the identity that the TLS library cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The CA.
    #[error("certificates of the identity's ca cannot be read: {0}")]
    Ca(ureq::Error),
    /// The proxy.
    #[error("proxy of the identity cannot be used: {0}")]
    Proxy(ureq::Error),
}

impl Server {
    /// Speaks to `base` with the trust of `identity`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn new(base: &Url, identity: &Identity, patience: Patience) -> Result<Self, ServerError> {
        let proxy = match &identity.proxy {
            Some(proxy) => Some(ureq::Proxy::new(proxy.as_str()).map_err(ServerError::Proxy)?),
            None => None,
        };
        let config = Agent::config_builder()
            .tls_config(tls(identity)?)
            // Never what a variable of the environment says.
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(REDIRECTS)
            .user_agent(concat!("zstrap/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.stall))
            .max_idle_connections_per_host(CONNECTIONS)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), EachFamily);
        Ok(Self { base: base.clone(), agent, patience })
    }

    /// Asks for a file whose body must be there within `body`, and all of it within `whole` if that is less.
    fn request(
        &self,
        path: &str,
        from: &From,
        body: Duration,
        whole: Option<Duration>,
    ) -> Result<Response<ureq::Body>, HttpError> {
        let url = self.base.join(path);
        let mut request = self.agent.get(&url);
        if from.offset > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", from.offset));
            if let Some(etag) = &from.etag {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        watchdog::expect_within(LONGEST_WAIT);
        let answer = request.config().timeout_recv_body(Some(body)).timeout_global(whole).build().call();
        let response = answer.map_err(|error| HttpError::transport(url.clone(), error))?;
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let source =
                io::Error::other(format!("answered with content encoding {encoding}, expected none"));
            return Err(HttpError::Transport { url, source });
        }
        match response.status() {
            // Nobody has asked for a part.
            StatusCode::PARTIAL_CONTENT if from.offset == 0 => Err(HttpError::Range { url, offset: 0 }),
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(HttpError::NotFound { url }),
            status => {
                // Of these two alone it says when to come back.
                let is_busy =
                    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                let wait = text(header::RETRY_AFTER).filter(|_| is_busy).and_then(wait);
                Err(HttpError::Status { url, status: status.as_u16(), wait })
            }
        }
    }
}

fn tls(identity: &Identity) -> Result<TlsConfig, ServerError> {
    let roots = match &identity.ca {
        None => RootCerts::WebPki,
        Some(pem) => RootCerts::Specific(Arc::new(certificates(pem)?)),
    };
    Ok(TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider()).build())
}

/// What TLS with servers of the identity rests on: whom they must chain to, and the cryptography.
///
/// # Errors
/// [`ServerError::Ca`].
pub(crate) fn tls_trust(identity: &Identity) -> Result<(RootCertStore, Arc<CryptoProvider>), ServerError> {
    let roots = match &identity.ca {
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            let certificates = certificates(pem)?;
            roots.add_parsable_certificates(certificates.iter().map(|one| CertificateDer::from(one.der())));
            roots
        }
    };
    Ok((roots, provider()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { key_provider: &NoClientKeys, ..rustls::crypto::ring::default_provider() })
}

/// A node shows no certificate of its own, so the code that would sign with one need not be there.
#[derive(Debug)]
struct NoClientKeys;

impl KeyProvider for NoClientKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("nodes have no client certificate".to_owned()))
    }
}

fn certificates(pem: &str) -> Result<Vec<Certificate<'static>>, ServerError> {
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(pem.as_bytes()) {
        if let PemItem::Certificate(certificate) = item.map_err(ServerError::Ca)? {
            certificates.push(certificate);
        }
    }
    Ok(certificates)
}

impl Server {
    fn whole(
        &self,
        path: &str,
        limit: u64,
        body: Duration,
        whole: Option<Duration>,
    ) -> Result<Vec<u8>, HttpError> {
        let response = self.request(path, &From::default(), body, whole)?;
        let url = || self.base.join(path);
        // One byte more than allowed tells a full file from one that goes on.
        let reader = Awaited(response.into_body().into_reader()).take(limit.saturating_add(1));
        let bytes = read_all(reader, path).map_err(|source| HttpError::Transport { url: url(), source })?;
        if bytes.len() as u64 > limit {
            return Err(HttpError::TooLarge { url: url(), limit });
        }
        Ok(bytes)
    }
}

/// Reads to the end; a file that drips is named from time to time: nobody should stand before a silent screen.
fn read_all(mut reader: impl Read, path: &str) -> io::Result<Vec<u8>> {
    let (mut bytes, mut piece, mut said) = (Vec::new(), [0; 4096], Instant::now());
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if said.elapsed() >= SILENT {
            said = Instant::now();
            log::info!(target: "servers", "slow path={path} have={}", bytes.len());
        }
    }
}

/// A reader that declares each of its waits.
pub struct Awaited<R>(pub R);

impl<R: Read> Read for Awaited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        watchdog::expect_within(LONGEST_WAIT);
        self.0.read(buffer)
    }
}

impl Source for Server {
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        let within = WARM_UP + Duration::from_secs(limit / self.patience.small_file);
        self.whole(path, limit, within.min(SMALL_FILE), None)
    }

    fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.whole(path, limit, PROBE, Some(PROBE))
    }

    fn open(&self, path: &str, from: &From, size: u64) -> Result<Body, HttpError> {
        let left = size.saturating_sub(from.offset);
        let response = self.request(path, from, longest(left), None)?;
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let begin = text(header::CONTENT_RANGE).and_then(range_begin);
                if begin != Some(from.offset) {
                    return Err(HttpError::Range { url: self.base.join(path), offset: from.offset });
                }
                from.offset
            }
            _ => 0,
        };
        let etag = text(header::ETAG).filter(|etag| is_strong(etag)).map(str::to_owned);
        let length = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        Ok(Body { reader: Box::new(Awaited(response.into_body().into_reader())), offset, length, etag })
    }

    fn leads_to(&self, path: &str) -> Option<String> {
        let request =
            self.agent.get(self.base.join(path)).config().max_redirects(0).timeout_global(Some(WHERE));
        watchdog::expect_within(LONGEST_WAIT);
        let response = request.build().call().ok()?;
        let place = response.headers().get(header::LOCATION)?.to_str().ok()?;
        Some(place.chars().take(LONGEST_PLACE).collect())
    }

    fn name(&self) -> String {
        self.base.to_string()
    }
}

/// Whether nothing has come for too long, in the words of the HTTP library or of the kernel.
#[must_use]
pub fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_)))
        || matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Whether an entity tag stands for exact bytes. A weak one, `W/"…"`, does not, and a client must not ask for a part
/// by it (RFC 9110, sections 8.8.3 and 13.1.5).
fn is_strong(etag: &str) -> bool {
    etag.starts_with('"')
}

/// The seconds of `Retry-After: SECONDS` (RFC 9110, section 10.2.3), within bounds. A date in their place says nothing
/// to a machine whose clock may be wrong.
fn wait(value: &str) -> Option<Duration> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = || value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs);
    is_number.then(|| seconds().min(LONGEST_RETRY_AFTER))
}

/// The first byte of `Content-Range: bytes BEGIN-END/SIZE` (RFC 9110, section 14.4).
fn range_begin(value: &str) -> Option<u64> {
    value.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::CertificateError as E;

    fn said(error: E) -> String {
        BadCertificate::of_certificate(&error).to_string()
    }

    #[test]
    fn a_certificate_is_refused_in_words_of_its_own() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (early, late) = (at(1_763_625_600), at(1_763_625_661));
        assert_eq!(
            said(E::ExpiredContext { time: late, not_after: early }),
            "invalid peer certificate: expired: valid until 2025-11-20T08:00:00Z, the clock says 2025-11-20T08:01:01Z"
        );
        assert!(
            said(E::NotValidYetContext { time: early, not_before: late })
                .contains("not valid yet: valid from")
        );
        let expected = rustls::pki_types::ServerName::try_from("boot.example").expect("a name").to_owned();
        let presented = vec!["DnsName(\"other.example\")".to_owned()];
        let name = said(E::NotValidForNameContext { expected, presented });
        assert!(name.contains("wrong name") && name.contains("other.example"), "{name}");
        assert_eq!(said(E::UnknownIssuer), "invalid peer certificate: unknown CA");
    }

    #[test]
    fn only_times_of_a_certificate_are_blamed_on_the_clock() {
        let blames = |error: E| {
            let source = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error));
            HttpError::transport(String::new(), ureq::Error::Io(source)).may_be_clock()
        };
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        assert!(blames(E::ExpiredContext { time: at(2), not_after: at(1) }));
        assert!(blames(E::NotValidYetContext { time: at(1), not_before: at(2) }));
        assert!(!blames(E::UnknownIssuer));
        let direct = rustls::Error::InvalidCertificate(E::ExpiredContext { time: at(2), not_after: at(1) });
        assert!(HttpError::transport(String::new(), ureq::Error::Rustls(direct)).may_be_clock());
    }

    /// A server on loopback that answers one request with this, and then does what it is told to do.
    fn answering(answer: &'static [u8], then: impl FnOnce(std::net::TcpStream) + Send + 'static) -> Server {
        use std::io::Write as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is up");
        let url = format!("http://{}", listener.local_addr().expect("it is bound")).parse().expect("a URL");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the test connects");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            stream.write_all(answer).expect("the test reads");
            then(stream);
        });
        let short = Duration::from_millis(100);
        let patience = Patience { answer: short, stall: short, ..Patience::AMONG_OTHERS };
        Server::new(&url, &crate::sys::fake::identity(), patience).expect("a server")
    }

    /// How reading a file of ten bytes from such a server ends.
    fn end_of(server: &Server, from: &From) -> io::Error {
        let mut body = server.open("blob", from, 10).expect("an answer");
        let mut bytes = Vec::new();
        body.reader.read_to_end(&mut bytes).expect_err("the body is cut")
    }

    const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.";

    #[test]
    fn a_stalled_connection_is_told_from_a_broken_one() {
        let server = answering(HALF, |mut stream| drop(stream.read(&mut [0])));
        assert!(is_timeout(&end_of(&server, &From::default())));
        let server = answering(HALF, drop);
        assert!(!is_timeout(&end_of(&server, &From::default())));
        // No answer at all.
        let server = answering(b"", |mut stream| drop(stream.read(&mut [0])));
        assert!(matches!(server.open("blob", &From::default(), 10), Err(HttpError::Transport { .. })));
    }

    #[test]
    fn a_part_of_another_place_is_refused() {
        let server = answering(
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n",
            drop,
        );
        let from = From { offset: 5, etag: None };
        assert!(matches!(server.open("blob", &from, 10), Err(HttpError::Range { offset: 5, .. })));
    }

    #[test]
    fn a_weak_entity_tag_was_shown_when_asking_for_a_part() {
        let etag_of =
            |answer| answering(answer, drop).open("blob", &From::default(), 0).expect("an answer").etag;
        assert_eq!(etag_of(b"HTTP/1.1 200 OK\r\nETag: W/\"a\"\r\nContent-Length: 0\r\n\r\n"), None);
        assert_eq!(etag_of(b"HTTP/1.1 200 OK\r\nETag: a\r\nContent-Length: 0\r\n\r\n"), None);
        let strong = etag_of(b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(strong.as_deref(), Some("\"a\""));
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks_and_no_longer() {
        let seconds = |value| wait(value).map(|wait| wait.as_secs());
        assert_eq!(["0", "7", "60", "61"].map(seconds), [0, 7, 60, 60].map(Some));
        assert_eq!(seconds("99999999999999999999999999"), Some(60));
        for bad in ["", "-1", "+1", "1.5", "soon", "Fri, 20 Nov 2026 08:00:00 GMT"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        let wait_of = |answer| HttpError::wait_in(&refusal(answer)).map(|wait| wait.as_secs());
        assert_eq!(wait_of(b"HTTP/1.1 429 \r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"), Some(7));
        assert_eq!(wait_of(b"HTTP/1.1 503 \r\nRetry-After: 8\r\nContent-Length: 0\r\n\r\n"), Some(8));
        assert_eq!(wait_of(b"HTTP/1.1 500 \r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"), None);
        assert_eq!(wait_of(b"HTTP/1.1 429 \r\nContent-Length: 0\r\n\r\n"), None);
    }

    /// Why there is no file in this answer.
    fn refusal(answer: &'static [u8]) -> HttpError {
        answering(answer, drop).get("latest", 10).expect_err("an answer to refuse")
    }

    #[test]
    fn says_where_a_server_leads_to() {
        let leads_to = |answer| answering(answer, drop).leads_to("latest");
        let login = b"HTTP/1.1 302 \r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(leads_to(login).as_deref(), Some("http://login.example/"));
        assert_eq!(leads_to(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"), None);
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_refused() {
        let part = b"HTTP/1.1 206 \r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\n17";
        assert!(matches!(refusal(part), HttpError::Range { offset: 0, .. }));
        let packed = refusal(b"HTTP/1.1 200 \r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n17");
        assert!(crate::fail::Chain(&packed).to_string().ends_with("content encoding gzip, expected none"));
    }

    #[test]
    fn reads_where_a_part_begins() {
        assert_eq!(range_begin("bytes 100-199/200"), Some(100));
        for bad in ["bytes */200", "items 1-2/3", "bytes -5", ""] {
            assert_eq!(range_begin(bad), None, "{bad}");
        }
    }
}
