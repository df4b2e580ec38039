//! Getting a signed file: what config and list have in common.
//!
//! In: a path, and what must have been signed. Out: the bytes with the trusted comment, once enough keys of the
//! identity have signed exactly them, for exactly this use, at a time that fits the clock.

use zstrap_formats::identity::Identity;
use zstrap_formats::key::PublicKey;
use zstrap_formats::signature::{Accept, MAX_SIGNATURE, Signature, SignatureError, Subject, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use crate::cache::Cache;
use crate::clock::{Now, raise_clock};
use crate::fail::{Code, Refusal};
use crate::http::{HttpError, Source};

/// Signatures as they came, with their paths.
pub type Texts = Vec<(String, Vec<u8>)>;

/// Bytes that the keys of the identity vouch for.
#[derive(Debug)]
pub struct Signed {
    /// What was signed.
    pub bytes: Vec<u8>,
    /// What was said of it.
    pub comment: TrustedComment,
    /// Where it stands on the site.
    pub path: String,
    /// Its signatures: whoever keeps it keeps them.
    pub signatures: Texts,
}

/// By what a boot judges signed files.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The clock.
    pub now: Now,
    /// What this node has on its disk, and so has seen before.
    pub cache: Option<&'a Cache>,
    /// How many seconds beyond its expiry a file is good: none, but for files of the disk while there is no server.
    pub late: u64,
}

impl From<Now> for Terms<'_> {
    fn from(now: Now) -> Self {
        Self { now, cache: None, late: 0 }
    }
}

impl Terms<'_> {
    /// The same, where files may be late by this much at most.
    #[must_use]
    pub fn at_most(self, late: u64) -> Self {
        Self { late: self.late.min(late), ..self }
    }

    /// That a file is not older than the newest of its folder that this node has seen.
    ///
    /// # Errors
    /// [`Error::Older`].
    pub fn check_newest(&self, signed: &Signed) -> Result<(), Error> {
        self.cache.map_or(Ok(()), |cache| check_newest(cache, signed))
    }
}

/// The same, by what this disk has.
///
/// # Errors
/// [`Error::Older`].
pub fn check_newest(cache: &Cache, signed: &Signed) -> Result<(), Error> {
    let (found, comment) = (signed.comment.serial, &signed.comment);
    let folder = signed.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    match cache.seen(folder) {
        Some((seen, _)) if found < seen => {
            Err(Error::Older { what: format!("{} {}", comment.kind, comment.name), found, seen })
        }
        _ => Ok(()),
    }
}

/// Why a signed file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file did not come.
    #[error("getting {what}")]
    Get {
        /// Config or list.
        what: String,
        /// Why.
        source: HttpError,
    },
    /// There is a file, but nobody has signed it.
    #[error("{what} has no signature")]
    MissingSignature {
        /// Config or list.
        what: String,
        /// What was asked for.
        source: HttpError,
    },
    /// The signature is not good for this.
    #[error("checking {what}")]
    Signature {
        /// Config or list.
        what: String,
        /// Why.
        source: SignatureError,
    },
    /// Good signatures, but not of enough keys.
    #[error("checking {what}: no signature of {missing}")]
    TooFewSigners {
        /// Config or list.
        what: String,
        /// Trusted keys that have not signed it, by id.
        missing: String,
        /// How many there are, and must be.
        source: SignatureError,
    },
    /// A `latest` file that is none.
    #[error("{path} is not a serial number")]
    NotASerial {
        /// Which file.
        path: String,
    },
    /// The file behind `latest` was signed under another serial.
    #[error("{what} was signed with serial {signed}, but stands under {asked}")]
    WrongSerial {
        /// Config or list.
        what: String,
        /// In the comment.
        signed: u64,
        /// In the path.
        asked: u64,
    },
    /// Older than what this node has on its disk.
    #[error("{what} has serial {found}, this node has seen {seen}")]
    Older {
        /// Config or list.
        what: String,
        /// In the comment.
        found: u64,
        /// The newest on the disk.
        seen: u64,
    },
}

impl Error {
    /// Whether not even the file that names the newest is there: nobody has published such a thing.
    #[must_use]
    pub fn is_about_latest(&self) -> bool {
        matches!(self, Self::Get { what, source: HttpError::NotFound { .. } } if what.ends_with("/latest"))
    }
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::Get { source, .. } => source.code(),
            Self::MissingSignature { .. } => Code::NoSignature,
            Self::Signature { source, .. } | Self::TooFewSigners { source, .. } => code_of_signature(source),
            Self::NotASerial { .. } => Code::NotASerial,
            Self::WrongSerial { .. } => Code::WrongSerial,
            Self::Older { .. } => Code::OlderThanSeen,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::TooFewSigners { missing, .. } => {
                Some(format!("have more of the keys {missing} sign it: zstrap sign"))
            }
            _ => None,
        }
    }
}

fn code_of_signature(error: &SignatureError) -> Code {
    match error {
        SignatureError::Syntax { .. } => Code::NotASignature,
        SignatureError::BadSignature(_) | SignatureError::BadComment(_) => Code::Changed,
        SignatureError::UnknownKey { .. } => Code::UnknownKey,
        SignatureError::Legacy(_) => Code::LegacySignature,
        SignatureError::Threshold { .. } => Code::TooFewSigners,
        SignatureError::CommentsDiffer(..) => Code::CommentsDiffer,
        SignatureError::Comment { .. } => Code::BadComment,
        SignatureError::WrongKind { .. } => Code::WrongKind,
        SignatureError::WrongName { .. } => Code::WrongName,
        SignatureError::WrongArch { .. } => Code::WrongArch,
        SignatureError::Expired { .. } => Code::Expired,
        SignatureError::FromFuture { .. } => Code::FromFuture,
    }
}

/// Where a signed file stands and what it must be.
pub struct Request<'a> {
    /// Path of the site layout.
    pub path: String,
    /// Most bytes it may have.
    pub limit: usize,
    /// What must have been signed.
    pub subject: Subject<'a>,
    /// The clock, and how late it may be.
    pub terms: Terms<'a>,
}

impl Request<'_> {
    fn what(&self) -> String {
        format!("{} {}", self.subject.kind, self.subject.name)
    }

    /// Gets the file without looking at it: a pin is checked on the bytes before the signature is.
    ///
    /// # Errors
    /// [`Error::Get`].
    pub fn bytes_unverified(&self, source: &dyn Source) -> Result<Vec<u8>, Error> {
        source.get(&self.path, self.limit as u64).map_err(|source| Error::Get { what: self.what(), source })
    }

    /// Gets the signatures and verifies `bytes` with them.
    ///
    /// # Errors
    /// [`Error`].
    pub fn verify(&self, source: &dyn Source, identity: &Identity, bytes: Vec<u8>) -> Result<Signed, Error> {
        let signed = self.verify_of_any_time(source, identity, bytes)?;
        let time = self.time_at_least(signed.comment.created);
        check_time(&signed.comment, time, self.terms.late).map_err(|source| self.refused(source))?;
        Ok(signed)
    }

    fn refused(&self, source: SignatureError) -> Error {
        Error::Signature { what: self.what(), source }
    }

    /// The same, whether it has expired or not.
    ///
    /// # Errors
    /// [`Error`].
    pub fn verify_of_any_time(
        &self,
        source: &dyn Source,
        identity: &Identity,
        bytes: Vec<u8>,
    ) -> Result<Signed, Error> {
        let (comment, signatures) = self.comment(source, identity, Some(&bytes))?;
        Ok(Signed { bytes, comment, path: self.path.clone(), signatures })
    }

    /// What was said of a file, be it there or not, and the signatures that say it. Of the bytes, if they are given.
    ///
    /// # Errors
    /// [`Error`].
    pub fn comment(
        &self,
        source: &dyn Source,
        identity: &Identity,
        bytes: Option<&[u8]>,
    ) -> Result<(TrustedComment, Texts), Error> {
        let texts = self.signatures(source, identity)?;
        let refused = |source| self.refused(source);
        let parsed = texts.iter().map(|(_, text)| Signature::parse(text));
        let signatures: Vec<Signature> = parsed.collect::<Result<_, _>>().map_err(refused)?;
        let verified = match bytes {
            Some(bytes) => identity.keyring.verify(bytes, &signatures, Accept::PrehashedOnly),
            None => identity.keyring.verify_comment(&signatures),
        };
        let comment = verified.map_err(|source| match source {
            SignatureError::Threshold { .. } => self.too_few_signers(identity, &signatures, source),
            source => refused(source),
        })?;
        let comment: TrustedComment = comment.parse().map_err(refused)?;
        comment.check_subject(&self.subject).map_err(refused)?;
        Ok((comment, texts))
    }

    fn too_few_signers(&self, identity: &Identity, signed: &[Signature], source: SignatureError) -> Error {
        let has_signed = |id| signed.iter().any(|signature| signature.key_id() == id);
        let ids = identity.keyring.keys().iter().map(PublicKey::id);
        let missing: Vec<String> = ids.filter(|id| !has_signed(*id)).map(|id| id.to_string()).collect();
        Error::TooFewSigners { what: self.what(), missing: missing.join(" "), source }
    }

    /// A clock that nobody believes learns from what the trusted keys have signed: it cannot be earlier than that.
    fn time_at_least(&self, created: Timestamp) -> Timestamp {
        if self.terms.now.is_known || self.terms.now.time >= created {
            return self.terms.now.time;
        }
        raise_clock(created, "signed-later");
        created
    }

    /// The signatures with their paths.
    fn signatures(&self, source: &dyn Source, identity: &Identity) -> Result<Texts, Error> {
        if identity.keyring.threshold() == 1 {
            return Ok(vec![self.signature(source, site::signature(&self.path))?]);
        }
        let mut signatures = Vec::new();
        let mut missing = None;
        for key in identity.keyring.keys() {
            // One of the signers may be missing, as long as enough others are there.
            match self.signature(source, site::signature_by(&self.path, key.id())) {
                Ok(signature) => signatures.push(signature),
                Err(error @ Error::MissingSignature { .. }) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if signatures.is_empty() => Err(error),
            _ => Ok(signatures),
        }
    }

    fn signature(&self, source: &dyn Source, path: String) -> Result<(String, Vec<u8>), Error> {
        let text = source.get(&path, MAX_SIGNATURE as u64).map_err(|source| match source {
            HttpError::NotFound { .. } => Error::MissingSignature { what: self.what(), source },
            source => Error::Get { what: self.what(), source },
        })?;
        Ok((path, text))
    }
}

/// Whether a file is good at this time, or was so many seconds before.
///
/// # Errors
/// As [`TrustedComment::check_time`].
pub fn check_time(comment: &TrustedComment, now: Timestamp, late: u64) -> Result<(), SignatureError> {
    match comment.check_time(now) {
        Err(SignatureError::Expired { .. }) if now <= comment.expires.plus(late) => Ok(()),
        result => result,
    }
}

/// The serial that a `latest` file names. Nobody has signed it: it only says what to ask for.
///
/// # Errors
/// [`Error::Get`], [`Error::NotASerial`].
pub fn latest(source: &dyn Source, path: &str) -> Result<u64, Error> {
    let not_a_serial = || Error::NotASerial { path: path.to_owned() };
    let bytes = source.get(path, site::MAX_LATEST as u64).map_err(|source| match source {
        // The page of some other server: no serial is that long.
        HttpError::TooLarge { .. } => not_a_serial(),
        source => Error::Get { what: path.to_owned(), source },
    })?;
    site::parse_latest(&bytes).ok_or_else(not_a_serial)
}

/// That the comment bears the serial it was asked for by, so that an old file cannot stand under a new name.
///
/// # Errors
/// [`Error::WrongSerial`].
pub fn check_serial(comment: &TrustedComment, asked: u64) -> Result<(), Error> {
    if comment.serial == asked {
        return Ok(());
    }
    Err(Error::WrongSerial {
        what: format!("{} {}", comment.kind, comment.name),
        signed: comment.serial,
        asked,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::{self, Site};
    use zstrap_formats::signature::{ArchField, Keyring, Kind};

    const PATH: &str = "configs/demo/1.json";

    /// What an identity with three keys, of which two must sign, says of a site with these signatures.
    fn two_of_three(sign: impl Fn(&mut Site)) -> Result<Signed, Error> {
        let mut identity = fake::identity();
        let keys = [1, 2, 3].map(|n| fake::key(n).public()).to_vec();
        identity.keyring = Keyring::new(keys, 2).unwrap();
        let mut site = Site::default();
        site.insert(PATH, b"{}");
        sign(&mut site);
        let name = "demo".parse().unwrap();
        let subject = Subject { kind: Kind::Config, name: &name, arch: ArchField::Any };
        let request = Request { path: PATH.to_owned(), limit: 100, subject, terms: fake::now().into() };
        let bytes = request.bytes_unverified(&site)?;
        request.verify(&site, &identity, bytes)
    }

    fn sign(site: &mut Site, signer: u8, serial: u64) {
        let comment = fake::comment("config", "any").replace(&fake::SERIAL.to_string(), &serial.to_string());
        site.sign_by(PATH, &fake::key(signer), &comment);
    }

    #[test]
    fn two_of_three_keys_are_enough() {
        let signed = two_of_three(|site| [1, 3].into_iter().for_each(|n| sign(site, n, 7)));
        assert_eq!(signed.unwrap().comment.serial, 7);
    }

    #[test]
    fn one_of_three_keys_is_too_few() {
        let error = two_of_three(|site| sign(site, 2, 7)).unwrap_err();
        assert_eq!(error.reason(), "threshold");
        let missing = [1, 3].map(|n| fake::key(n).public().id().to_string());
        assert!(missing.iter().all(|id| error.advice().unwrap().contains(id)), "{:?}", error.advice());
        assert!(!error.advice().unwrap().contains(&fake::key(2).public().id().to_string()));
        assert_eq!(two_of_three(|_| {}).unwrap_err().reason(), "missing-signature");
    }

    #[test]
    fn signers_of_another_comment_do_not_count() {
        let differing = two_of_three(|site| [(1, 7), (2, 8)].into_iter().for_each(|(n, s)| sign(site, n, s)));
        let differing = differing.unwrap_err();
        assert_eq!(differing.reason(), "comments-differ");
        assert!(differing.code().advice().contains("zstrap sign"));
        let with_two =
            two_of_three(|site| [(1, 6), (2, 7), (3, 7)].into_iter().for_each(|(n, s)| sign(site, n, s)));
        assert_eq!(with_two.unwrap().comment.serial, 7);
    }

    #[test]
    fn an_unknown_clock_learns_from_what_was_signed() {
        let name = "demo".parse().unwrap();
        let subject = Subject { kind: Kind::Config, name: &name, arch: ArchField::Any };
        let now = |is_known| Now { time: Timestamp::from_unix(0).unwrap(), is_known };
        let request =
            |is_known| Request { path: String::new(), limit: 0, subject, terms: now(is_known).into() };
        let created = Timestamp::from_unix(1).unwrap();
        assert_eq!(request(false).time_at_least(created), created);
        assert_eq!(request(true).time_at_least(created).unix(), 0);
    }
}
