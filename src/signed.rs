//! Getting a signed file: what config and list have in common.
//!
//! In: a path, and what must have been signed. Out: the bytes with the trusted comment, once enough keys of the
//! identity have signed exactly them, for exactly this use, at a time that fits the clock.

use zstrap_formats::identity::Identity;
use zstrap_formats::signature::{Accept, MAX_SIGNATURE, Signature, SignatureError, Subject, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use crate::fail::Refusal;
use crate::http::{HttpError, Source};

/// Bytes that the keys of the identity vouch for.
#[derive(Debug)]
pub struct Signed {
    /// What was signed.
    pub bytes: Vec<u8>,
    /// What was said of it.
    pub comment: TrustedComment,
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
}

impl Refusal for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Get { source, .. } => source.reason(),
            Self::MissingSignature { .. } => "missing-signature",
            Self::Signature { source, .. } => signature_reason(source),
            Self::NotASerial { .. } => "not-a-serial",
            Self::WrongSerial { .. } => "wrong-serial",
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Get { .. } => "check that the site is whole and its server reachable: zstrap verify",
            Self::MissingSignature { .. } => {
                "publish it with the key that this image trusts: zstrap publish, zstrap config add"
            }
            Self::Signature { source: SignatureError::UnknownKey { .. }, .. } => {
                "sign with a key of the image, or make an image that trusts this key"
            }
            Self::Signature { source: SignatureError::Expired { .. }, .. } => {
                "publish anew, or set the clock of this machine"
            }
            Self::Signature { source: SignatureError::FromFuture { .. }, .. } => {
                "set the clock of this machine"
            }
            Self::Signature { .. } => {
                "do not trust this server until you know who changed the site; publish anew"
            }
            Self::NotASerial { .. } | Self::WrongSerial { .. } => {
                "check what serves this URL; it is not a whole site"
            }
        }
        .to_owned()
    }
}

fn signature_reason(error: &SignatureError) -> &'static str {
    match error {
        SignatureError::Syntax { .. } | SignatureError::BadSignature(_) | SignatureError::BadComment(_) => {
            "bad-signature"
        }
        SignatureError::UnknownKey { .. } => "unknown-key",
        SignatureError::Legacy(_) => "legacy-signature",
        SignatureError::Threshold { .. } => "threshold",
        SignatureError::CommentsDiffer(..) => "comments-differ",
        SignatureError::Comment { .. } => "bad-comment",
        SignatureError::WrongKind { .. } => "wrong-kind",
        SignatureError::WrongName { .. } => "wrong-name",
        SignatureError::WrongArch { .. } => "wrong-arch",
        SignatureError::Expired { .. } => "expired",
        SignatureError::FromFuture { .. } => "from-future",
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
    /// The clock.
    pub now: Timestamp,
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
        let signatures = self.signatures(source, identity)?;
        let refused = |source| Error::Signature { what: self.what(), source };
        let comment = identity.keyring.verify(&bytes, &signatures, Accept::PrehashedOnly).map_err(refused)?;
        let comment: TrustedComment = comment.parse().map_err(refused)?;
        comment.check_subject(&self.subject).map_err(refused)?;
        comment.check_time(self.now).map_err(refused)?;
        Ok(Signed { bytes, comment })
    }

    fn signatures(&self, source: &dyn Source, identity: &Identity) -> Result<Vec<Signature>, Error> {
        if identity.keyring.threshold() == 1 {
            return Ok(vec![self.signature(source, &site::signature(&self.path))?]);
        }
        let mut signatures = Vec::new();
        let mut missing = None;
        for key in identity.keyring.keys() {
            // One of the signers may be missing, as long as enough others are there.
            match self.signature(source, &site::signature_by(&self.path, key.id())) {
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

    fn signature(&self, source: &dyn Source, path: &str) -> Result<Signature, Error> {
        let text = source.get(path, MAX_SIGNATURE as u64).map_err(|source| match source {
            HttpError::NotFound { .. } => Error::MissingSignature { what: self.what(), source },
            source => Error::Get { what: self.what(), source },
        })?;
        Signature::parse(&text).map_err(|source| Error::Signature { what: self.what(), source })
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
pub fn check_serial(signed: &Signed, asked: u64) -> Result<(), Error> {
    let comment = &signed.comment;
    if comment.serial == asked {
        return Ok(());
    }
    Err(Error::WrongSerial {
        what: format!("{} {}", comment.kind, comment.name),
        signed: comment.serial,
        asked,
    })
}
