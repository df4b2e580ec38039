//! Getting files from a bootstrap server: HTTP and HTTPS with bounds on time and size.
//!
//! In: a path of the site layout. Out: bytes that nobody has verified yet. The certificate check keeps others
//! from watching and delaying; what may run is decided by signatures alone.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use ureq::Agent;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use zstrap_formats::identity::Identity;
use zstrap_formats::url::{Scheme, Url};

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(20);
/// A server that sends nothing for this long is stalled.
const STALL: Duration = Duration::from_secs(20);
/// All of a small file: lists and configs, whose size is bounded, must not trickle in for ever.
const SMALL_FILE: Duration = Duration::from_secs(300);
/// Bytes a second below which a download is given up, and begun again where it stopped: 128 kbit/s.
const SLOWEST: u64 = 16 * 1024;
const REDIRECTS: u32 = 3;

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
    /// The word for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not-found",
            Self::Status { .. } => "http-status",
            Self::TooLarge { .. } => "too-large",
            Self::Range { .. } | Self::Transport { .. } => "io",
        }
    }
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
    /// Which version of the file it is.
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

    /// Its URL, for people.
    fn name(&self) -> String;
}

/// One bootstrap server.
pub struct Server {
    base: Url,
    agent: Agent,
}

/// A CA or proxy in the identity that the TLS library cannot use, or a scheme that this version does not follow.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The CA.
    #[error("certificates of the identity's ca cannot be read: {0}")]
    Ca(ureq::Error),
    /// The proxy.
    #[error("proxy of the identity cannot be used: {0}")]
    Proxy(ureq::Error),
    /// `file:`
    #[error("server {0}: only http and https servers are followed by this version")]
    Scheme(Url),
}

impl Server {
    /// Speaks to `base` with the trust of `identity`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn new(base: &Url, identity: &Identity) -> Result<Self, ServerError> {
        if base.scheme() == Scheme::File {
            return Err(ServerError::Scheme(base.clone()));
        }
        let proxy = match &identity.proxy {
            Some(proxy) => Some(ureq::Proxy::new(proxy.as_str()).map_err(ServerError::Proxy)?),
            None => None,
        };
        let agent = Agent::config_builder()
            .tls_config(tls(identity)?)
            // Never what a variable of the environment says.
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(REDIRECTS)
            .user_agent(concat!("zstrap/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(STALL))
            .build()
            .new_agent();
        Ok(Self { base: base.clone(), agent })
    }

    /// Asks for a file whose body must be there `within` this time.
    fn request(&self, path: &str, from: &From, within: Duration) -> Result<Response<ureq::Body>, HttpError> {
        let url = self.base.join(path);
        let mut request = self.agent.get(&url);
        if from.offset > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", from.offset));
            if let Some(etag) = &from.etag {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let answer = request.config().timeout_recv_body(Some(within)).build().call();
        let response = answer.map_err(|e| HttpError::Transport { url: url.clone(), source: e.into_io() })?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(HttpError::NotFound { url }),
            status => Err(HttpError::Status { url, status: status.as_u16() }),
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
    fn whole(&self, path: &str, limit: u64, within: Duration) -> Result<Vec<u8>, HttpError> {
        let response = self.request(path, &From::default(), within)?;
        let url = || self.base.join(path);
        let mut bytes = Vec::new();
        // One byte more than allowed tells a full file from one that goes on.
        let mut reader = response.into_body().into_reader().take(limit.saturating_add(1));
        reader.read_to_end(&mut bytes).map_err(|source| HttpError::Transport { url: url(), source })?;
        if bytes.len() as u64 > limit {
            return Err(HttpError::TooLarge { url: url(), limit });
        }
        Ok(bytes)
    }
}

impl Source for Server {
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.whole(path, limit, SMALL_FILE)
    }

    fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.whole(path, limit, ANSWER)
    }

    fn open(&self, path: &str, from: &From, size: u64) -> Result<Body, HttpError> {
        let left = size.saturating_sub(from.offset);
        let response = self.request(path, from, SMALL_FILE + Duration::from_secs(left / SLOWEST))?;
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
        let etag = text(header::ETAG).map(str::to_owned);
        let length = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        Ok(Body { reader: Box::new(response.into_body().into_reader()), offset, length, etag })
    }

    fn name(&self) -> String {
        self.base.to_string()
    }
}

/// The first byte of `Content-Range: bytes BEGIN-END/SIZE` (RFC 9110, section 14.4).
fn range_begin(value: &str) -> Option<u64> {
    value.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_a_part_begins() {
        assert_eq!(range_begin("bytes 100-199/200"), Some(100));
        for bad in ["bytes */200", "items 1-2/3", "bytes -5", ""] {
            assert_eq!(range_begin(bad), None, "{bad}");
        }
    }
}
