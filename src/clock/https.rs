//! Asking servers of the identity for the `Date` of an answer, over TLS.
//!
//! In: their URLs, the certificates that the identity trusts, how long to wait. Out: a date at which the server's
//! certificate chain is valid. The handshake proves that the server has the key of its certificate, as always; only
//! whether the chain holds is decided later, when the date is known. Nothing else of the answer is used.
//! Failure: a line for each server says why it told no time.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use ureq::http::Uri;
use zstrap_formats::identity::Identity;
use zstrap_formats::time::Timestamp;
use zstrap_formats::url::Url;
use zstrap_wire::httpdate;

use super::{Told, since_1970};
use crate::fail::Chain;
use crate::http::{self, BadCertificate};

/// How long the others get once a server has told a time.
const OTHERS: Duration = Duration::from_secs(1);
/// Most bytes of the head of an answer.
const HEAD: usize = 8 * 1024;

/// Why a server told no time.
#[derive(Debug, thiserror::Error)]
enum DateError {
    #[error("no answer")]
    Io(#[from] io::Error),
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    #[error("not an HTTPS URL with a host")]
    Url,
    #[error("proxy refused with {0:?}")]
    Proxy(String),
    #[error("no date in its answer")]
    NoDate,
    #[error("certificate is not good with the clock at its date {date}")]
    Chain { date: Timestamp, source: BadCertificate },
}

impl DateError {
    fn of_chain(error: rustls::Error, date: Timestamp) -> Self {
        match BadCertificate::of_tls(&error) {
            Some(source) => Self::Chain { date, source },
            None => Self::Tls(error),
        }
    }
}

/// What all questions share.
struct Trust {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    proxy: Option<Url>,
    /// Around which time a year of two digits is.
    near: u64,
    deadline: Instant,
}

/// The latest of the times that these servers tell: one of them alone cannot turn the clock back.
pub(super) fn ask(servers: &[Url], identity: &Identity, within: Duration) -> Option<Told> {
    let deadline = Instant::now() + within;
    let trust = match trust(identity, deadline) {
        Ok(trust) => Arc::new(trust),
        Err(error) => {
            log::warn!(target: "clock", "no time from servers: {}", Chain(&*error));
            return None;
        }
    };
    let (sender, answers) = mpsc::channel();
    for server in servers {
        let (server, trust, sender) = (server.clone(), trust.clone(), sender.clone());
        // Not waited for beyond the deadline: looking up a name cannot be interrupted.
        let spawned = thread::Builder::new().spawn(move || {
            let told = date_of(&server, &trust);
            // Nobody may be listening any more.
            let _ = sender.send((server, told));
        });
        if let Err(error) = spawned {
            log::warn!(target: "clock", "no thread: {error}");
        }
    }
    drop(sender);
    latest(&answers, deadline)
}

fn latest(answers: &mpsc::Receiver<(Url, Result<Told, DateError>)>, mut deadline: Instant) -> Option<Told> {
    let mut latest: Option<Told> = None;
    while let Ok((server, told)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match told {
            Ok(told) => {
                deadline = deadline.min(Instant::now() + OTHERS);
                latest = latest.into_iter().chain([told]).max_by_key(Told::now);
            }
            Err(error) => log::warn!(target: "clock", "no time from server={server} {}", Chain(&error)),
        }
    }
    latest
}

fn trust(identity: &Identity, deadline: Instant) -> Result<Trust, Box<dyn std::error::Error>> {
    let (roots, provider) = http::tls_trust(identity)?;
    let roots = Arc::new(roots);
    let near = identity.build_time.unix();
    Ok(Trust { provider, roots, proxy: identity.proxy.clone(), near, deadline })
}

/// What the server says, if its certificate is good then.
fn date_of(server: &Url, trust: &Trust) -> Result<Told, DateError> {
    let uri: Uri = server.as_str().parse().map_err(|_| DateError::Url)?;
    let host = bare_host(&uri).ok_or(DateError::Url)?;
    let name = ServerName::try_from(host).map_err(|_| DateError::Url)?.to_owned();
    let verifier = Arc::new(Deferring {
        roots: trust.roots.clone(),
        provider: trust.provider.clone(),
        chain: Mutex::new(None),
    });
    let mut config = ClientConfig::builder_with_provider(trust.provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    // A session that goes on shows no certificate.
    config.resumption = Resumption::disabled();
    let mut connection = ClientConnection::new(Arc::new(config), name.clone())?;
    let mut stream = connect(&uri, trust)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let authority = uri.authority().ok_or(DateError::Url)?;
    let question = format!(
        "HEAD / HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: zstrap/{}\r\nCache-Control: no-cache\r\n\
         Connection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
    );
    tls.write_all(question.as_bytes())?;
    let head = head(&mut tls)?;
    let at = Instant::now();
    let date = date_in(&head, trust.near).ok_or(DateError::NoDate)?;
    verifier.check(&name, date).map_err(|error| DateError::of_chain(error, date))?;
    Ok(Told { time: since_1970(date), at, server: server.to_string() })
}

/// The host without the brackets of an IPv6 address.
fn bare_host(uri: &Uri) -> Option<&str> {
    let host = uri.host()?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

/// A connection to the server, through the proxy if there is one.
fn connect(server: &Uri, trust: &Trust) -> Result<Bounded, DateError> {
    let (host, port) = (server.host().ok_or(DateError::Url)?, server.port_u16().unwrap_or(443));
    let Some(proxy) = &trust.proxy else {
        return Ok(Bounded::connect(bare_host(server).ok_or(DateError::Url)?, port, trust.deadline)?);
    };
    let proxy: Uri = proxy.as_str().parse().map_err(|_| DateError::Url)?;
    let proxy_host = bare_host(&proxy).ok_or(DateError::Url)?;
    let mut stream = Bounded::connect(proxy_host, proxy.port_u16().unwrap_or(80), trust.deadline)?;
    stream.write_all(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").as_bytes())?;
    let head = head(&mut stream)?;
    let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match first {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', _, _, ..] => Ok(stream),
        _ => Err(DateError::Proxy(String::from_utf8_lossy(first).chars().take(80).collect())),
    }
}

/// The head of an HTTP answer up to its empty line, and not a byte more: behind that of a proxy, TLS begins.
fn head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "head of the answer is too long"));
        }
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// The one `Date` field of a head.
fn date_in(head: &[u8], near: u64) -> Option<Timestamp> {
    let fields = head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| line.split_at_checked(5));
    let mut dates = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"date:"));
    let (_, value) = dates.next()?;
    if dates.next().is_some() {
        return None;
    }
    Timestamp::from_unix(httpdate::parse(value.trim_ascii(), near)?).ok()
}

/// Checks handshakes as usual, but keeps the chain for a later check, when a date is known. The checks are those of
/// rustls's own verifier, which itself would bring the code of revocation lists.
#[derive(Debug)]
struct Deferring {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    chain: Mutex<Option<Vec<CertificateDer<'static>>>>,
}

impl Deferring {
    /// Whether the chain of the handshake is good for this name at this time.
    fn check(&self, name: &ServerName<'_>, at: Timestamp) -> Result<(), rustls::Error> {
        let chain = self.chain.lock().expect("nothing panics while it is locked").take();
        let chain = chain.ok_or(rustls::Error::NoCertificatesPresented)?;
        let (end_entity, intermediates) =
            chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let at = UnixTime::since_unix_epoch(since_1970(at));
        let (end_entity, algorithms) =
            (ParsedCertificate::try_from(end_entity)?, &self.provider.signature_verification_algorithms);
        verify_server_cert_signed_by_trust_anchor(
            &end_entity,
            &self.roots,
            intermediates,
            at,
            algorithms.all,
        )?;
        verify_server_name(&end_entity, name)
    }
}

impl ServerCertVerifier for Deferring {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|one| one.clone().into_owned());
        *self.chain.lock().expect("nothing panics while it is locked") = Some(chain.collect());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection that ends at a deadline, however slowly the other side goes on.
struct Bounded {
    stream: TcpStream,
    deadline: Instant,
}

impl Bounded {
    fn connect(host: &str, port: u16, deadline: Instant) -> io::Result<Self> {
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for (n, address) in addresses.iter().enumerate() {
            // Each address gets its share: the first may be one that drops packets.
            let share = left(deadline)? / u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
            match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
                Ok(stream) => return Ok(Self { stream, deadline }),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{SocketAddr, TcpListener};

    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};

    use super::*;
    use crate::sys::fake;

    // Made by fixtures/make.sh, for November 2026 to January 2027 where the name does not say otherwise.
    const ROOT: &str = include_str!("fixtures/root.pem");
    const GOOD: &str = include_str!("fixtures/good.pem");
    const RSA: &str = include_str!("fixtures/rsa.pem");
    const ELSEWHERE: &str = include_str!("fixtures/elsewhere.pem");
    const UNKNOWN: &str = include_str!("fixtures/unknown.pem");
    const NAMESAKE: &str = include_str!("fixtures/namesake.pem");
    const ITSELF: &str = include_str!("fixtures/itself.pem");
    const ALONE: &str = include_str!("fixtures/alone.pem");

    const PAST: &str = include_str!("fixtures/past.pem");
    const FUTURE: &str = include_str!("fixtures/future.pem");

    const WITHIN: &str = "Tue, 01 Dec 2026 12:00:00 GMT";
    const SOON: Duration = Duration::from_secs(5);
    const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

    #[derive(Debug)]
    struct Always(Arc<CertifiedKey>);

    impl ResolvesServerCert for Always {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }
    }

    /// A server with the chain of one PEM and the key of another.
    fn config(chain: &str, key: &str, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let provider = rustls::crypto::ring::default_provider();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let resolver = Arc::new(Always(Arc::new(CertifiedKey::new(chain, key))));
        let config = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions);
        Arc::new(config.unwrap().with_no_client_auth().with_cert_resolver(resolver))
    }

    /// Serves one connection.
    fn serve(handler: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || handler(listener.accept().unwrap().0));
        address
    }

    fn answer(mut tcp: TcpStream, config: Arc<ServerConfig>, answer: &[u8]) -> io::Result<()> {
        let mut connection = ServerConnection::new(config).unwrap();
        let mut tls = rustls::Stream::new(&mut connection, &mut tcp);
        let request = head(&mut tls)?;
        assert!(request.starts_with(b"HEAD / HTTP/1.1\r\nHost: "));
        tls.write_all(answer)?;
        tls.conn.send_close_notify();
        tls.flush()
    }

    fn dated(date: &str) -> Vec<u8> {
        format!("HTTP/1.1 404 Not Found\r\nServer: x\r\nDate: {date}\r\nExpires: {date}\r\n\r\n").into_bytes()
    }

    fn server_of(config: Arc<ServerConfig>, head: Vec<u8>) -> SocketAddr {
        serve(move |tcp| answer(tcp, config, &head))
    }

    fn server(pem: &str, date: &str) -> SocketAddr {
        server_of(config(pem, pem, BOTH), dated(date))
    }

    fn identity() -> Identity {
        Identity { ca: Some(ROOT.to_owned()), ..fake::identity() }
    }

    fn trusted() -> Trust {
        trust(&identity(), Instant::now() + SOON).unwrap()
    }

    fn url(address: SocketAddr) -> Url {
        format!("https://localhost:{}", address.port()).parse().unwrap()
    }

    fn told(address: SocketAddr) -> Result<u64, DateError> {
        date_of(&url(address), &trusted()).map(|told| told.time.as_secs())
    }

    /// What the certificate lacks at the date that the server says.
    fn refused(address: SocketAddr) -> BadCertificate {
        match told(address) {
            Err(DateError::Chain { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_date_within_the_chain_is_told() {
        for pem in [GOOD, RSA] {
            for version in [&version::TLS12, &version::TLS13] {
                let address = server_of(config(pem, pem, &[version]), dated(WITHIN));
                assert_eq!(told(address).unwrap(), 1_796_126_400);
            }
        }
    }

    #[test]
    fn an_address_is_as_good_as_a_name() {
        let url = format!("https://{}", server(GOOD, WITHIN)).parse().unwrap();
        assert!(date_of(&url, &trusted()).is_ok());
    }

    /// How the error of a real handshake arrives, through all that wraps it.
    #[test]
    fn the_clock_is_blamed_for_certificates_of_another_time_only() {
        use crate::http::{Server, Source as _};
        let is_blamed = |pem| {
            let server =
                Server::new(&url(server(pem, WITHIN)), &identity(), crate::http::Patience::ALONE).unwrap();
            let error = server.probe("configs/demo/latest", 64).unwrap_err();
            crate::clock::Clock::default().blames(&error)
        };
        assert!(is_blamed(PAST) && is_blamed(FUTURE));
        assert!(!is_blamed(ELSEWHERE) && !is_blamed(UNKNOWN));
    }

    /// How the certificate of one PEM is refused where the CA of another is trusted.
    fn said(pem: &str, ca: &str) -> String {
        use crate::http::{Server, Source as _};
        let identity = Identity { ca: Some(ca.to_owned()), ..fake::identity() };
        let server = Server::new(&url(server(pem, WITHIN)), &identity, crate::http::Patience::ALONE).unwrap();
        crate::fail::Chain(&server.probe("configs/demo/latest", 64).unwrap_err()).to_string()
    }

    #[test]
    fn a_server_certificate_that_signs_itself_was_told_in_words_of_a_library() {
        for ca in [ITSELF, ROOT] {
            let text = said(ITSELF, ca);
            assert!(text.contains("certificate: it is that of a CA (CA:TRUE), expected one "), "{text}");
        }
    }

    #[test]
    fn a_certificate_that_signs_itself_and_is_no_ca_can_be_trusted() {
        let identity = Identity { ca: Some(ALONE.to_owned()), ..fake::identity() };
        let trust = trust(&identity, Instant::now() + SOON).unwrap();
        assert!(date_of(&url(server(ALONE, WITHIN)), &trust).is_ok());
    }

    #[test]
    fn a_ca_of_the_same_name_and_another_key_was_told_in_a_word_of_a_library() {
        let text = said(NAMESAKE, ROOT);
        assert!(text.contains("certificate: not signed by the CA whose name it bears"), "{text}");
    }

    #[test]
    fn a_date_outside_the_chain_is_not() {
        let before = refused(server(GOOD, "Sat, 31 Oct 2026 23:59:59 GMT"));
        assert!(matches!(before, BadCertificate::NotYetValid { .. }), "{before:?}");
        let after = refused(server(GOOD, "Mon, 01 Feb 2027 00:00:00 GMT"));
        assert!(matches!(after, BadCertificate::Expired { .. }), "{after:?}");
    }

    #[test]
    fn a_server_of_another_name_tells_no_time() {
        let error = refused(server(ELSEWHERE, WITHIN));
        assert!(matches!(error, BadCertificate::Name(_)), "{error:?}");
    }

    #[test]
    fn a_server_of_an_unknown_ca_tells_no_time() {
        assert_eq!(refused(server(UNKNOWN, WITHIN)), BadCertificate::UnknownCa);
        // It was told in words of the library.
        let text = Chain(&told(server(UNKNOWN, WITHIN)).unwrap_err()).to_string();
        let date = "2026-12-01T12:00:00Z";
        assert_eq!(
            text,
            format!(
                "certificate is not good with the clock at its date {date}: \
                 invalid peer certificate: unknown CA"
            )
        );
    }

    #[test]
    fn our_ca_is_not_one_of_the_public_ones() {
        let trust = trust(&fake::identity(), Instant::now() + SOON).unwrap();
        let error = date_of(&url(server(GOOD, WITHIN)), &trust).unwrap_err();
        assert!(matches!(error, DateError::Chain { .. }), "{error:?}");
    }

    #[test]
    fn a_server_without_the_key_of_its_certificate_tells_no_time() {
        for version in [&version::TLS12, &version::TLS13] {
            let address = server_of(config(GOOD, ELSEWHERE, &[version]), dated(WITHIN));
            let DateError::Io(error) = told(address).unwrap_err() else { panic!("no I/O error") };
            assert!(error.to_string().contains("BadSignature"), "{error}");
        }
    }

    #[test]
    fn one_date_is_needed() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nDate: now\r\n\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\nDate: {WITHIN}\r\nDate: {WITHIN}\r\n\r\n"),
            format!("Date: {WITHIN}\r\n\r\n"),
        ] {
            let error = told(server_of(config(GOOD, GOOD, BOTH), head.clone().into_bytes())).unwrap_err();
            assert!(matches!(error, DateError::NoDate), "{head} {error:?}");
        }
        let odd = format!("HTTP/1.1 200 OK\r\nX: 1\r\ndAtE:\t{WITHIN} \r\n\r\n");
        assert!(told(server_of(config(GOOD, GOOD, BOTH), odd.into_bytes())).is_ok());
    }

    #[test]
    fn an_endless_head_is_cut_off() {
        let error = told(server_of(config(GOOD, GOOD, BOTH), vec![b'x'; 100_000])).unwrap_err();
        assert!(
            matches!(&error, DateError::Io(error) if error.kind() == io::ErrorKind::InvalidData),
            "{error:?}"
        );
    }

    #[test]
    fn a_server_that_drips_ends_at_the_deadline() {
        let address = serve(|mut tcp| {
            // The beginning of a TLS record that is never whole, one byte at a time.
            for byte in [22, 3, 3, 64, 0].into_iter().chain(std::iter::repeat(0)) {
                tcp.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        let started = Instant::now();
        assert_eq!(ask(&[url(address)], &identity(), Duration::from_millis(300)), None);
        assert!(started.elapsed() < Duration::from_secs(2));
        let trust = trust(&identity(), Instant::now() + Duration::from_millis(300)).unwrap();
        let silent = serve(|tcp| {
            thread::sleep(SOON);
            drop(tcp);
            Ok(())
        });
        let error = date_of(&url(silent), &trust).unwrap_err();
        assert!(matches!(error, DateError::Io(_)), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn of_several_times_the_latest_counts() {
        let servers = [
            server(GOOD, "Sun, 01 Nov 2026 12:00:00 GMT"),
            server(GOOD, WITHIN),
            server(GOOD, "Fri, 01 Jan 2100 00:00:00 GMT"),
            server(UNKNOWN, "Thu, 31 Dec 2026 00:00:00 GMT"),
        ];
        let told = ask(&servers.map(url), &identity(), SOON).unwrap();
        assert_eq!((told.time.as_secs(), told.server), (1_796_126_400, url(servers[1]).to_string()));
    }

    /// A proxy for one connection, to whatever it is asked for.
    fn proxy(verdict: &'static str) -> SocketAddr {
        serve(move |mut tcp| {
            let asked = String::from_utf8(head(&mut tcp)?).unwrap();
            let target = asked.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
            assert!(asked.contains(&format!("Host: {target}\r\n")));
            tcp.write_all(format!("HTTP/1.1 {verdict}\r\n\r\n").as_bytes())?;
            let mut server = TcpStream::connect(target)?;
            let (mut from_client, mut to_server) = (tcp.try_clone()?, server.try_clone()?);
            thread::spawn(move || io::copy(&mut from_client, &mut to_server));
            io::copy(&mut server, &mut tcp)?;
            Ok(())
        })
    }

    fn through(proxy: SocketAddr) -> Result<Told, DateError> {
        let proxy = Some(format!("http://{proxy}").parse().unwrap());
        date_of(&url(server(GOOD, WITHIN)), &Trust { proxy, ..trusted() })
    }

    #[test]
    fn the_proxy_of_the_identity_is_used() {
        assert_eq!(through(proxy("200 Connection established")).unwrap().time.as_secs(), 1_796_126_400);
        let error = through(proxy("407 Proxy Authentication Required")).unwrap_err();
        assert!(matches!(&error, DateError::Proxy(line) if line.contains("407")), "{error:?}");
    }
}
