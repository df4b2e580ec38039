//! Signs what a site serves, and reads signing keys.
//!
//! In: key files, bytes, the fields of the trusted comment. Out: the signature files of one thing, by path: one
//! `PATH.minisig`, and for each key `PATH.KEYID.minisig`, which images with a threshold above 1 ask for. A single
//! key has both, so that another signer can add theirs later. Failure: a key file that cannot be read, or two that hold one key.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use zstrap_formats::identity::MAX_KEYS;
use zstrap_formats::key::{KeyId, PublicKey, SecretKey};
use zstrap_formats::signature::{Keyring, KeyringError, TrustedComment};
use zstrap_formats::site::{signature, signature_by};

/// What is replaced, as messages name it.
pub(crate) const PRESENT: &str = "the present one";

/// Keys that sign together; at least one.
pub(crate) struct Signers(Vec<SecretKey>);

impl Signers {
    /// Reads key files.
    pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let keys: Vec<SecretKey> =
            paths.iter().map(|path| read_secret(path)).collect::<anyhow::Result<_>>()?;
        ensure!(!keys.is_empty(), "signing: no key was given");
        // As nodes count signers: by what makes a key another key. Its id is chosen by whoever writes its file.
        match Keyring::new(keys.iter().map(SecretKey::public).collect(), 1) {
            Err(KeyringError::Repeated(id)) => bail!("signing: key {id} was given twice"),
            ring => ring.context("signing").map(|_| Signers(keys)),
        }
    }

    /// The signature files of `bytes`, which will stand at `path` of the site.
    pub(crate) fn sign(&self, path: &str, bytes: &[u8], comment: &TrustedComment) -> Vec<(String, String)> {
        let comment = comment.to_string();
        let sign = |key: &SecretKey| (key.public().id(), key.sign(bytes, &comment).to_file());
        let signed: Vec<_> = self.0.iter().map(sign).collect();
        let mut files = vec![(signature(path), signed[0].1.clone())];
        files.extend(signed.into_iter().map(|(id, text)| (signature_by(path, id), text)));
        files
    }

    /// Whether nodes may see at once what these keys sign. If nobody says how many must sign, all of them have; but
    /// then fewer than those of `whose`, which has so many, are taken for a mistake: images may ask for as many.
    pub(crate) fn are_enough(
        &self,
        threshold: Option<usize>,
        (before, whose): (usize, &str),
    ) -> anyhow::Result<bool> {
        let count = self.0.len();
        match threshold {
            Some(threshold) => Ok(count >= threshold),
            None if before > count => bail!(
                "signing with {count} where {whose} has {before} signers: say --threshold {before}, and it \
                 waits for `zstrap sign`, or --threshold {count}, and nodes get it now"
            ),
            None => Ok(true),
        }
    }

    /// How many keys these are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The public halves, for what has been signed before.
    pub(crate) fn public(&self) -> impl Iterator<Item = PublicKey> {
        self.0.iter().map(SecretKey::public)
    }

    /// The key whose signature stands in `PATH.minisig`.
    pub(crate) fn first(&self) -> KeyId {
        self.0[0].public().id()
    }
}

/// How many keys must sign, as people say it: no image has more than 16.
pub(crate) fn parse_threshold(text: &str) -> Result<usize, String> {
    let parsed = text.parse().ok().filter(|threshold| (1..=MAX_KEYS).contains(threshold));
    parsed.ok_or_else(|| format!("expected a number from 1 to {MAX_KEYS}"))
}

/// Reads a secret key file.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<SecretKey> {
    let reading = || format!("reading key {}", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    let mode = std::fs::metadata(path).with_context(reading)?.permissions().mode();
    if mode & 0o077 != 0 {
        log::warn!(
            "key {} has mode {:04o}: others can read it, expected 0600",
            path.display(),
            mode & 0o7777
        );
    }
    SecretKey::parse(&text).with_context(reading)
}

/// Reads a public key file.
pub(crate) fn read_public(path: &Path) -> anyhow::Result<PublicKey> {
    let reading = || format!("reading key {}", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    PublicKey::parse(&text)
        .map_err(|error| match SecretKey::parse(&text) {
            Ok(_) => anyhow!("this is a secret key, expected the public one, which ends in .pub"),
            Err(_) => error.into(),
        })
        .with_context(reading)
}
