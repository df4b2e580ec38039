//! Certificates for tests: an authority of our own, and servers that have what it signed.
//!
//! In: the kind of key, names, and from when to when. Out: the authority in PEM, and settings for a TLS server.
//! Failure: an error with what `openssl`, which makes it all, has said.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use zstrap_formats::time::{DAY, Timestamp};

use crate::site::now;

/// What a key is.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// 2048 bits.
    Rsa,
    /// On the curve P-256.
    Ec,
}

impl Key {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Rsa => &["-newkey", "rsa:2048"],
            Self::Ec => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        }
    }
}

/// An authority.
pub struct Authority {
    key: Key,
    folder: TempDir,
}

impl Authority {
    /// A new one; its key and those of its servers are of this kind.
    pub fn new(key: Key) -> Result<Self> {
        let folder = TempDir::with_prefix("zstrap-ca-").context("making the folder of an authority")?;
        // Each has a name of its own: an authority is known by its name first.
        let name = folder.path().file_name().unwrap_or_default().display().to_string();
        let subject = format!("/CN={name}");
        let authority = Self { key, folder };
        let fixed = ["req", "-x509", "-nodes", "-subj", &subject, "-days", "3650"];
        let files = ["-keyout", "ca.key", "-out", "ca.pem"];
        authority.openssl(&[fixed.as_slice(), key.options(), &files].concat())?;
        authority.write("index", "")?;
        authority.write("serial", "01\n")?;
        Ok(authority)
    }

    /// Its certificate in PEM, as an identity's `ca` wants it.
    pub fn pem(&self) -> Result<String> {
        std::fs::read_to_string(self.path().join("ca.pem")).context("reading ca.pem")
    }

    /// A server with a certificate of 30 days on both sides of now, for names such as `DNS:boot.test` or
    /// `IP:10.0.2.2`.
    pub fn server(&self, names: &str) -> Result<Arc<ServerConfig>> {
        let now = now()?;
        self.server_between(names, Timestamp::from_unix(now.unix() - 30 * DAY)?, now.plus(30 * DAY))
    }

    /// A server whose certificate is good from `begin` to `end`.
    pub fn server_between(&self, names: &str, begin: Timestamp, end: Timestamp) -> Result<Arc<ServerConfig>> {
        self.write("config", &config(names))?;
        let request =
            ["req", "-new", "-nodes", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"];
        self.openssl(&[request.as_slice(), self.key.options()].concat())?;
        let compact = |time: Timestamp| time.to_string().replace(['-', ':', 'T'], "");
        let (begin, end) = (compact(begin), compact(end));
        let fixed =
            ["ca", "-batch", "-notext", "-config", "config", "-in", "server.csr", "-out", "server.pem"];
        self.openssl(&[fixed.as_slice(), &["-startdate", &begin, "-enddate", &end]].concat())?;
        let chain =
            CertificateDer::from_pem_file(self.path().join("server.pem")).context("reading server.pem")?;
        let key =
            PrivateKeyDer::from_pem_file(self.path().join("server.key")).context("reading server.key")?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choosing versions of TLS")?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .context("using the certificate")?;
        Ok(Arc::new(config))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.path().join(name), text)
            .with_context(|| format!("writing {name} of an authority"))
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("openssl").args(arguments).current_dir(self.path()).output();
        let output = output.context("running openssl")?;
        if !output.status.success() {
            bail!("openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// What `openssl ca` wants to know (openssl-ca(1), configuration file options).
fn config(names: &str) -> String {
    format!(
        "[ca]\ndefault_ca = own\n\
         [own]\ndatabase = index\nserial = serial\nnew_certs_dir = .\ncertificate = ca.pem\nprivate_key = ca.key\n\
         default_md = sha256\npolicy = any\nunique_subject = no\nx509_extensions = leaf\n\
         [any]\ncommonName = supplied\n\
         [leaf]\nbasicConstraints = CA:FALSE\nsubjectAltName = {names}\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn openssl_accepts_what_the_authority_made() {
        for key in [Key::Rsa, Key::Ec] {
            let authority = Authority::new(key).unwrap();
            authority.server("DNS:boot.test, IP:10.0.2.2").unwrap();
            authority
                .openssl(&["verify", "-verify_hostname", "boot.test", "-CAfile", "ca.pem", "server.pem"])
                .unwrap();
            authority
                .openssl(&["verify", "-verify_ip", "10.0.2.2", "-CAfile", "ca.pem", "server.pem"])
                .unwrap();
            let (begin, end) = (Timestamp::from_unix(DAY).unwrap(), Timestamp::from_unix(2 * DAY).unwrap());
            authority.server_between("DNS:boot.test", begin, end).unwrap();
            assert!(authority.openssl(&["verify", "-CAfile", "ca.pem", "server.pem"]).is_err());
        }
    }
}
