//! Certificates that an image trusts instead of the public authorities: the file of `--ca`.
//!
//! In: a file of PEM certificates, the servers of the image. Out: these certificates alone, for the identity: an image
//! is public, and beside them may stand anything. Failure: it cannot be read, or has a section that is no certificate,
//! such as a private key. That nodes would trust no server by one of them is a warning (what the servers show is not
//! known here), and that no server is asked for a certificate.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};
use zstrap_formats::url::{Scheme, Url};

/// How each section of PEM begins (RFC 7468).
const SECTION: &str = "-----BEGIN ";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Characters on each line of a section, as RFC 7468 wants it.
const LINE: usize = 64;

/// Reads the file, and warns of certificates that will not do what is expected of them.
///
/// # Errors
/// See the head of this file.
pub(crate) fn read(path: &Path, servers: &[Url]) -> anyhow::Result<String> {
    let what = format!("--ca {}", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("reading {what}"))?;
    let Ok(pem) = String::from_utf8(bytes) else {
        let der = path.display();
        bail!("{what} is no text, so not PEM; if it is DER: openssl x509 -inform DER -in {der} -out ca.pem");
    };
    if let Some(other) = other_section(&pem) {
        bail!("{what} holds {other}, expected certificates only: images are public");
    }
    let certificates: Vec<CertificateDer> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading {what}"))?;
    ensure!(!certificates.is_empty(), "{what} holds no certificate, expected some in PEM");
    for (index, certificate) in certificates.iter().enumerate() {
        let number = index + 1;
        let parsed = anchor_from_trusted_cert(certificate);
        parsed.with_context(|| format!("reading certificate {number} of {what}"))?;
        if let Some(doubt) = doubt(certificate, servers) {
            log::warn!("certificate {number} of {what} {doubt}");
        }
    }
    if !servers.iter().any(|server| server.scheme() == Scheme::Https) {
        log::warn!("--ca has no effect: no server is https");
    }
    Ok(certificates_alone(&pem))
}

/// What a file has that is no certificate. The library passes over all that it was not asked for.
fn other_section(pem: &str) -> Option<&str> {
    let mut sections = pem.split(SECTION).skip(1);
    let other = sections.find(|section| !section.starts_with("CERTIFICATE-----"))?;
    // Not more of it than its line: the next one may be the key.
    other.split(['-', '\r', '\n']).next()
}

/// The sections without what stands between them. What is in them is base64 of certificates: it was read.
fn certificates_alone(pem: &str) -> String {
    let (mut alone, mut body, mut is_inside) = (String::new(), String::new(), false);
    for line in pem.split(['\n', '\r']) {
        if line.starts_with(BEGIN) {
            is_inside = true;
        } else if is_inside && line.starts_with(END) {
            write_section(&mut alone, &std::mem::take(&mut body));
            is_inside = false;
        } else if is_inside {
            body.extend(line.split_whitespace());
        }
    }
    alone
}

fn write_section(text: &mut String, mut body: &str) {
    text.extend([BEGIN, "\n"]);
    while !body.is_empty() {
        let (line, rest) = body.split_at(body.len().min(LINE));
        text.extend([line, "\n"]);
        body = rest;
    }
    text.extend([END, "\n"]);
}

/// Why nodes would refuse servers in spite of this certificate, as far as it shows.
fn doubt(certificate: &CertificateDer, servers: &[Url]) -> Option<String> {
    // One of X.509 version 1 says nothing of itself.
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let authority = is_authority(&parsed)?;
    let own = servers.iter().find(|server| {
        let name = ServerName::try_from(server.host());
        name.is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
    });
    match own {
        // A server may show the very certificate that is trusted, but not as an authority.
        Some(server) if authority => Some(format!(
            "is an authority (CA:TRUE) and names {} itself: nodes refuse a server that shows it (`it is that of a \
             CA (CA:TRUE)`); make it with CA:FALSE, or a second one for the server",
            server.host()
        )),
        _ if !authority && parsed.issuer() != parsed.subject() => Some(
            "is no authority (basicConstraints CA:FALSE or none): nodes trust no server by it; \
             give the one that has signed it"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Whether the basic constraints say so (RFC 5280, 4.2.1.9); none if its time has not come or has passed, as nobody
/// looks at them then. The library tells by refusing it to servers, which it does before it asks who signed it.
fn is_authority(certificate: &EndEntityCert) -> Option<bool> {
    let (now, usage) = (UnixTime::now(), KeyUsage::server_auth());
    match certificate.verify_for_usage(&[], &[], &[], now, usage, None, None) {
        Err(Error::CaUsedAsEndEntity) => Some(true),
        Err(Error::CertExpired { .. } | Error::CertNotValidYet { .. }) => None,
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    /// A folder where openssl(1) makes `NAME.pem` with `NAME.key`.
    struct Maker(tempfile::TempDir);

    impl Maker {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn make(&self, name: &str, more: &[&str]) {
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]);
            openssl.args(["-subj", &format!("/CN={name}"), "-keyout", &format!("{name}.key")]);
            openssl.args(["-out", &format!("{name}.pem")]).args(more).current_dir(&self.0);
            let output = openssl.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }

        fn doubt(&self, name: &str, servers: &[&str]) -> Option<String> {
            let servers: Vec<Url> = servers.iter().map(|url| url.parse().unwrap()).collect();
            let path = self.0.path().join(format!("{name}.pem"));
            read(&path, &servers).unwrap();
            doubt(&CertificateDer::from_pem_file(path).unwrap(), &servers)
        }
    }

    fn doubt_of(more: &[&str], servers: &[&str]) -> Option<String> {
        let maker = Maker::new();
        maker.make("own", more);
        maker.doubt("own", servers)
    }

    const NAMES: &str = "subjectAltName=DNS:boot.test,IP:10.0.2.2";
    const PLAIN: &str = "basicConstraints=critical,CA:FALSE";

    #[test]
    fn an_authority_that_names_a_server_is_doubted() {
        for server in ["https://boot.test", "https://10.0.2.2:8443/site"] {
            let said = doubt_of(&["-addext", NAMES], &["https://other.test", server]).unwrap();
            assert!(said.starts_with("is an authority (CA:TRUE) and names "), "{said}");
        }
    }

    #[test]
    fn authorities_and_self_signed_servers_are_not() {
        assert_eq!(doubt_of(&[], &["https://boot.test"]), None);
        assert_eq!(doubt_of(&["-addext", NAMES], &["https://other.test", "file:///site"]), None);
        // The node takes it: it is what it trusts, and no authority.
        assert_eq!(doubt_of(&["-addext", NAMES, "-addext", PLAIN], &["https://boot.test"]), None);
    }

    #[test]
    fn what_an_authority_has_signed_is_none() {
        let maker = Maker::new();
        maker.make("ca", &[]);
        maker.make("leaf", &["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", PLAIN]);
        let said = maker.doubt("leaf", &["https://boot.test"]).unwrap();
        assert!(said.starts_with("is no authority (basicConstraints CA:FALSE or none)"), "{said}");
    }

    #[test]
    fn a_private_key_beside_a_certificate_went_into_the_image() {
        let maker = Maker::new();
        maker.make("own", &[]);
        let path = |name: &str| maker.0.path().join(name);
        let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        let (key, certificate) = (text("own.key"), text("own.pem"));
        let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let indented = format!(" {key}");
        for key in [&key, &locked, &indented, "-----BEGIN X\n", "text -----BEGIN EC PRIVATE KEY-----"] {
            for both in [format!("{key}{certificate}"), format!("{certificate}{key}")] {
                std::fs::write(path("both.pem"), &both).unwrap();
                let error = read(&path("both.pem"), &[]).unwrap_err().to_string();
                let begin = format!("--ca {} holds ", path("both.pem").display());
                let kind = error.strip_prefix(&begin).unwrap();
                let kind = kind.strip_suffix(", expected certificates only: images are public").unwrap();
                assert!(kind == "X" || kind.ends_with("PRIVATE KEY"), "{error}");
            }
        }
    }

    #[test]
    fn only_the_certificates_of_a_file_are_taken() {
        let maker = Maker::new();
        maker.make("own", &[]);
        let path = maker.0.path().join("own.pem");
        let certificate = std::fs::read_to_string(&path).unwrap();
        let odd =
            certificate.replace('\n', "\r\n").replace("END CERTIFICATE-----", "END CERTIFICATE-----secret");
        std::fs::write(&path, format!("# secret\n{END}\n{certificate}secret\n{odd}secret")).unwrap();
        assert_eq!(read(&path, &[]).unwrap(), certificate.repeat(2));
    }

    #[test]
    fn refuses_what_is_no_certificate_and_names_option_and_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = format!("--ca {}", file.path().display());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cases = [
            ("", format!("{name} holds no certificate, expected some in PEM")),
            ("AAAA", format!("{name} holds no certificate, expected some in PEM")),
            (&broken[..40], format!("reading {name}")),
            (broken, format!("reading certificate 1 of {name}")),
        ];
        for (text, expected) in cases {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(read(file.path(), &[]).unwrap_err().to_string(), expected, "{text:?}");
        }
        std::fs::write(file.path(), [0x30, 0x82, 0x01, 0xff]).unwrap();
        let error = read(file.path(), &[]).unwrap_err().to_string();
        let mend = format!("openssl x509 -inform DER -in {} -out ca.pem", file.path().display());
        assert_eq!(error, format!("{name} is no text, so not PEM; if it is DER: {mend}"));
        let error = read(Path::new("/nowhere/ca.pem"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "reading --ca /nowhere/ca.pem");
    }
}
