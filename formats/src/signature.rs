//! Signatures in minisign's format, and the trusted comment that says what was signed.
//!
//! In: the text of a `.minisig` file, the signed bytes, a [`Keyring`]. Out: the [`TrustedComment`], once enough
//! distinct keys have signed the very same bytes and comment. Kind, name, arch and times are then checked by
//! [`TrustedComment::check_subject`] and [`TrustedComment::check_time`]: a good signature over another list is
//! still the wrong list.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use blake2::{Blake2b512, Digest as _};

use crate::key::{KeyId, PublicKey, decode_base64};
use crate::name::{Arch, Name};
use crate::time::{DAY, Timestamp};

/// The longest signature file in bytes; minisign's own comments end at 8 KiB.
pub const MAX_SIGNATURE: usize = 16 * 1024;
/// How far ahead of the node's clock a signature may have been made, in seconds.
pub const MAX_AHEAD: u64 = DAY;

const PREHASHED: [u8; 2] = *b"ED";
const LEGACY: [u8; 2] = *b"Ed";
const UNTRUSTED: &str = "untrusted comment: ";
const TRUSTED: &str = "trusted comment: ";

/// Why a signature, or what it signs, is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureError {
    /// Not the four lines of a minisign signature.
    #[error("signature line {line}: expected {expected}")]
    Syntax {
        /// Line number, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// Signed by a key that is not trusted.
    #[error("signed by key {found}, expected one of {expected}")]
    UnknownKey {
        /// The key id in the signature.
        found: KeyId,
        /// Ids of the trusted keys.
        expected: String,
    },
    /// The bytes are not those that were signed.
    #[error("signature of key {0} does not match the signed bytes")]
    BadSignature(KeyId),
    /// The trusted comment is not the one that was signed.
    #[error("signature of key {0} does not match its trusted comment")]
    BadComment(KeyId),
    /// The older format, whose digest trick must not be accepted.
    #[error("signature of key {0} is in the legacy format Ed, expected the prehashed format ED")]
    Legacy(KeyId),
    /// Fewer distinct keys than the threshold.
    #[error("signed by {found} of the trusted keys, expected at least {threshold}")]
    Threshold {
        /// Distinct keys that signed.
        found: usize,
        /// Keys that must sign.
        threshold: usize,
    },
    /// Signers whose trusted comments differ.
    #[error("trusted comments of keys {0} and {1} differ, expected the same bytes")]
    CommentsDiffer(KeyId, KeyId),
    /// Not a trusted comment of zstrap.
    #[error("trusted comment {comment:?}: {problem}")]
    Comment {
        /// The comment.
        comment: String,
        /// What was expected.
        problem: String,
    },
    /// A good signature over a thing of another kind.
    #[error("signature is over a {found}, expected a {expected}")]
    WrongKind {
        /// What was asked for.
        expected: Kind,
        /// What was signed.
        found: Kind,
    },
    /// A good signature over a thing of another name.
    #[error("signature is over {found}, expected {expected}")]
    WrongName {
        /// What was asked for.
        expected: Name,
        /// What was signed.
        found: Name,
    },
    /// A good signature for another architecture.
    #[error("signature is for arch {found}, expected {expected}")]
    WrongArch {
        /// What was asked for.
        expected: ArchField,
        /// What was signed.
        found: ArchField,
    },
    /// Its time has passed.
    #[error("expired at {expires}, and now is {now}")]
    Expired {
        /// Last good instant.
        expires: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// Made later than the clock can explain.
    #[error("created at {created}, more than a day ahead of now, {now}")]
    FromFuture {
        /// When it was signed.
        created: Timestamp,
        /// The clock.
        now: Timestamp,
    },
}

/// One signature as it stands in a `.minisig` file. Nothing is trusted until a [`Keyring`] has verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    algorithm: [u8; 2],
    key_id: KeyId,
    signature: [u8; 64],
    trusted_comment: String,
    global: [u8; 64],
}

impl Signature {
    /// Reads the four lines of a `.minisig` file.
    ///
    /// # Errors
    /// [`SignatureError::Syntax`] naming the line.
    pub fn parse(text: &[u8]) -> Result<Self, SignatureError> {
        let syntax = |line, expected| SignatureError::Syntax { line, expected };
        if text.len() > MAX_SIGNATURE {
            return Err(syntax(1, "at most 16 KiB in all"));
        }
        let text = std::str::from_utf8(text).map_err(|_| syntax(1, "UTF-8 text"))?;
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        if !next().starts_with(UNTRUSTED) {
            return Err(syntax(1, "\"untrusted comment: \""));
        }
        let bytes: [u8; 74] = decode_base64(next()).ok_or_else(|| syntax(2, "base64 of 74 bytes"))?;
        let comment = next().strip_prefix(TRUSTED).ok_or_else(|| syntax(3, "\"trusted comment: \""))?;
        let global = decode_base64(next()).ok_or_else(|| syntax(4, "base64 of 64 bytes"))?;
        if lines.any(|rest| !rest.is_empty()) {
            return Err(syntax(5, "nothing after the fourth line"));
        }
        let algorithm = [bytes[0], bytes[1]];
        if algorithm != PREHASHED && algorithm != LEGACY {
            return Err(syntax(2, "algorithm ED"));
        }
        let (mut key_id, mut signature) = ([0; 8], [0; 64]);
        key_id.copy_from_slice(&bytes[2..10]);
        signature.copy_from_slice(&bytes[10..]);
        Ok(Self { algorithm, key_id: KeyId(key_id), signature, trusted_comment: comment.to_owned(), global })
    }

    /// Makes a prehashed signature with the Ed25519 signer `sign`.
    pub(crate) fn make(
        key_id: KeyId,
        trusted_comment: &str,
        data: &[u8],
        sign: impl Fn(&[u8]) -> [u8; 64],
    ) -> Self {
        let signature = sign(&Blake2b512::digest(data));
        let global = sign(&global_message(&signature, trusted_comment));
        let trusted_comment = trusted_comment.to_owned();
        Self { algorithm: PREHASHED, key_id, signature, trusted_comment, global }
    }

    /// The text of a `.minisig` file.
    #[must_use]
    pub fn to_file(&self) -> String {
        let mut bytes = [0; 74];
        bytes[..2].copy_from_slice(&self.algorithm);
        bytes[2..10].copy_from_slice(&self.key_id.0);
        bytes[10..].copy_from_slice(&self.signature);
        format!(
            "{UNTRUSTED}zstrap signature by key {}\n{}\n{TRUSTED}{}\n{}\n",
            self.key_id,
            Base64::encode_string(&bytes),
            self.trusted_comment,
            Base64::encode_string(&self.global),
        )
    }

    /// The id of the key that claims to have signed.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The trusted comment before anyone has verified it: for people to read, not for decisions.
    #[must_use]
    pub fn comment_unverified(&self) -> &str {
        &self.trusted_comment
    }

    /// Without data, that of the comment alone.
    fn check(&self, key: &PublicKey, data: Option<&[u8]>) -> Result<(), SignatureError> {
        let matches = data.is_none_or(|data| match self.algorithm == LEGACY {
            true => key.has_signed(data, &self.signature),
            false => key.has_signed(&Blake2b512::digest(data), &self.signature),
        });
        if !matches {
            return Err(SignatureError::BadSignature(self.key_id));
        }
        if !key.has_signed(&global_message(&self.signature, &self.trusted_comment), &self.global) {
            return Err(SignatureError::BadComment(self.key_id));
        }
        Ok(())
    }
}

/// What the second signature of a file covers: the first signature, then the comment.
fn global_message(signature: &[u8; 64], trusted_comment: &str) -> Vec<u8> {
    [signature, trusted_comment.as_bytes()].concat()
}

/// The trusted keys and how many of them must sign.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<PublicKey>,
    threshold: usize,
}

/// A keyring that nothing could satisfy, or that anything could.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyringError {
    /// No key at all.
    #[error("no trusted key, expected at least one")]
    Empty,
    /// A threshold of zero, or above the number of keys.
    #[error("threshold {threshold} is not between 1 and the number of keys, {keys}")]
    Threshold {
        /// Keys that must sign.
        threshold: usize,
        /// Keys there are.
        keys: usize,
    },
    /// The same key twice would count twice.
    #[error("key {0} stands twice among the trusted keys")]
    Repeated(KeyId),
}

/// Which signature formats are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Prehashed `ED` only: what nodes do. An `ED` signature relabelled `Ed` verifies over its 64-byte digest.
    PrehashedOnly,
    /// Legacy `Ed`, too: for people who verify old files by hand.
    Legacy,
}

impl Keyring {
    /// Keys of which `threshold` must sign.
    ///
    /// # Errors
    /// [`KeyringError`] when the threshold cannot be met, is zero, or a key stands twice.
    pub fn new(keys: Vec<PublicKey>, threshold: usize) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        if threshold == 0 || threshold > keys.len() {
            return Err(KeyringError::Threshold { threshold, keys: keys.len() });
        }
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].iter().any(|other| other.raw() == key.raw()) {
                return Err(KeyringError::Repeated(key.id()));
            }
        }
        Ok(Self { keys, threshold })
    }

    /// Keys that must sign.
    #[must_use]
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The trusted keys.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// The text of the trusted comment, once enough distinct keys have signed `data` and the same comment. A
    /// signature that does not hold refuses the whole, whatever the others say; signers of another comment are
    /// only not counted, as those of an earlier round may still be there.
    ///
    /// # Errors
    /// [`SignatureError`]: unknown key, bytes or comment that do not match, legacy format, too few signers.
    pub fn verify(
        &self,
        data: &[u8],
        signatures: &[Signature],
        accept: Accept,
    ) -> Result<String, SignatureError> {
        self.verify_all(Some(data), signatures, accept)
    }

    /// The text of the trusted comment that enough distinct keys have signed, whatever the file has become: it tells that
    /// there was such a file, not what is in it.
    ///
    /// # Errors
    /// As of [`Self::verify`].
    pub fn verify_comment(&self, signatures: &[Signature]) -> Result<String, SignatureError> {
        self.verify_all(None, signatures, Accept::PrehashedOnly)
    }

    fn verify_all(
        &self,
        data: Option<&[u8]>,
        signatures: &[Signature],
        accept: Accept,
    ) -> Result<String, SignatureError> {
        let mut verified: Vec<(&PublicKey, &Signature)> = Vec::new();
        for signature in signatures {
            verified.push((self.verify_one(data, signature, accept)?, signature));
        }
        let counts = verified.iter().map(|(_, signature)| {
            let comment = &signature.trusted_comment;
            (distinct_signers(&verified, comment), comment)
        });
        match counts.max_by_key(|(count, _)| *count) {
            Some((count, comment)) if count >= self.threshold => Ok(comment.clone()),
            most => Err(too_few(most.map_or(0, |(count, _)| count), &verified, self.threshold)),
        }
    }

    /// The trusted key that made one signature. Key ids are chosen by their owners, so every key that bears the
    /// id is tried.
    fn verify_one(
        &self,
        data: Option<&[u8]>,
        signature: &Signature,
        accept: Accept,
    ) -> Result<&PublicKey, SignatureError> {
        if signature.algorithm == LEGACY && accept == Accept::PrehashedOnly {
            return Err(SignatureError::Legacy(signature.key_id));
        }
        let mut result = Err(self.unknown(signature.key_id));
        for key in self.keys.iter().filter(|key| key.id() == signature.key_id) {
            match signature.check(key, data) {
                Ok(()) => return Ok(key),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    fn unknown(&self, found: KeyId) -> SignatureError {
        let expected = self.keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>().join(" ");
        SignatureError::UnknownKey { found, expected }
    }
}

/// How many different keys have signed this comment.
fn distinct_signers(verified: &[(&PublicKey, &Signature)], comment: &str) -> usize {
    let mut keys: Vec<&[u8; 32]> =
        verified.iter().filter(|(_, s)| s.trusted_comment == comment).map(|(key, _)| key.raw()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.len()
}

/// Enough signers in all, but of different comments, is another mistake than too few.
fn too_few(found: usize, verified: &[(&PublicKey, &Signature)], threshold: usize) -> SignatureError {
    let first = verified.first().map(|(_, signature)| *signature);
    let other = verified.iter().find(|(_, s)| first.is_some_and(|f| f.trusted_comment != s.trusted_comment));
    match (first, other) {
        (Some(first), Some((_, other))) => SignatureError::CommentsDiffer(first.key_id, other.key_id),
        _ => SignatureError::Threshold { found, threshold },
    }
}

/// What kind of thing was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The list of a bundle.
    List,
    /// A config.
    Config,
    /// A set of keys that follows another.
    Keys,
    /// An index of images.
    Images,
}

impl Kind {
    const ALL: [Self; 4] = [Self::List, Self::Config, Self::Keys, Self::Images];

    fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Config => "config",
            Self::Keys => "keys",
            Self::Images => "images",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The architecture in a trusted comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchField {
    /// Good for all, as configs are.
    Any,
    /// Good for one.
    One(Arch),
}

impl fmt::Display for ArchField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::One(arch) => arch.fmt(f),
        }
    }
}

impl FromStr for ArchField {
    type Err = crate::name::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "any" { Ok(Self::Any) } else { text.parse().map(Self::One) }
    }
}

/// What was asked for, to be held against what was signed.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// List, config, …
    pub kind: Kind,
    /// Name of the bundle or config.
    pub name: &'a Name,
    /// Architecture; [`ArchField::Any`] for configs.
    pub arch: ArchField,
}

/// `zstrap1 kind=… name=… arch=… serial=… created=… expires=…`: fields exact, unique and in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedComment {
    /// List, config, …
    pub kind: Kind,
    /// Name of the bundle or config.
    pub name: Name,
    /// Architecture it is good for.
    pub arch: ArchField,
    /// Grows with each signing of this name.
    pub serial: u64,
    /// When it was signed.
    pub created: Timestamp,
    /// Last instant at which a node accepts it.
    pub expires: Timestamp,
}

impl TrustedComment {
    /// Whether this is what was asked for.
    ///
    /// # Errors
    /// [`SignatureError::WrongKind`], [`SignatureError::WrongName`], [`SignatureError::WrongArch`].
    pub fn check_subject(&self, subject: &Subject<'_>) -> Result<(), SignatureError> {
        if self.kind != subject.kind {
            return Err(SignatureError::WrongKind { expected: subject.kind, found: self.kind });
        }
        if self.name != *subject.name {
            let (expected, found) = (subject.name.clone(), self.name.clone());
            return Err(SignatureError::WrongName { expected, found });
        }
        if self.arch != subject.arch {
            return Err(SignatureError::WrongArch { expected: subject.arch, found: self.arch });
        }
        Ok(())
    }

    /// Whether the signature is good at `now`.
    ///
    /// # Errors
    /// [`SignatureError::Expired`]; [`SignatureError::FromFuture`] when made more than [`MAX_AHEAD`] from now.
    pub fn check_time(&self, now: Timestamp) -> Result<(), SignatureError> {
        if now > self.expires {
            return Err(SignatureError::Expired { expires: self.expires, now });
        }
        if self.created > now.plus(MAX_AHEAD) {
            return Err(SignatureError::FromFuture { created: self.created, now });
        }
        Ok(())
    }
}

impl fmt::Display for TrustedComment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "zstrap1 kind={} name={} arch={} serial={} created={} expires={}",
            self.kind, self.name, self.arch, self.serial, self.created, self.expires
        )
    }
}

impl FromStr for TrustedComment {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let comment = read_comment(text).map_err(|problem| SignatureError::Comment {
            comment: text.chars().take(300).collect(),
            problem,
        })?;
        // One spelling only: leading zeros, plus signs and doubled spaces do not come back as they were.
        if comment.to_string() == text {
            return Ok(comment);
        }
        let problem = format!("expected the spelling {comment:?}", comment = comment.to_string());
        Err(SignatureError::Comment { comment: text.chars().take(300).collect(), problem })
    }
}

fn read_comment(text: &str) -> Result<TrustedComment, String> {
    let mut words = text.split(' ');
    if words.next() != Some("zstrap1") {
        return Err("expected it to begin with zstrap1".to_owned());
    }
    let mut field = |key: &str| {
        let value = words.next().and_then(|word| word.strip_prefix(key)?.strip_prefix('='));
        value.ok_or_else(|| format!("expected {key}= in its place"))
    };
    let kind = field("kind")?;
    let comment = TrustedComment {
        kind: Kind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or("unknown kind")?,
        name: field("name")?.parse().map_err(text_of)?,
        arch: field("arch")?.parse().map_err(text_of)?,
        serial: field("serial")?.parse().map_err(|_| "serial is not a number".to_owned())?,
        created: field("created")?.parse().map_err(text_of)?,
        expires: field("expires")?.parse().map_err(text_of)?,
    };
    match words.next() {
        Some(word) => Err(format!("unexpected field {word:?}")),
        None => Ok(comment),
    }
}

fn text_of(error: impl fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::key::SecretKey;

    const COMMENT: &str = "zstrap1 kind=list name=zos-prod arch=amd64 serial=1763625600 \
         created=2025-11-20T08:00:00Z expires=2026-02-20T08:00:00Z";

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32], [n; 8])
    }

    fn ring(keys: &[u8], threshold: usize) -> Keyring {
        Keyring::new(keys.iter().map(|n| key(*n).public()).collect(), threshold).unwrap()
    }

    fn verify(ring: &Keyring, data: &[u8], signatures: &[Signature]) -> Result<String, SignatureError> {
        ring.verify(data, signatures, Accept::PrehashedOnly)
    }

    #[test]
    fn accepts_what_a_trusted_key_signed() {
        let signature = Signature::parse(key(1).sign(b"list", COMMENT).to_file().as_bytes()).unwrap();
        assert_eq!(verify(&ring(&[2, 1], 1), b"list", &[signature]).unwrap(), COMMENT);
    }

    #[test]
    fn refuses_unknown_key_changed_bytes_and_changed_comment() {
        let good = key(1).sign(b"list", COMMENT);
        let error = verify(&ring(&[2], 1), b"list", std::slice::from_ref(&good)).unwrap_err();
        assert!(matches!(error, SignatureError::UnknownKey { .. }), "{error}");
        let error = verify(&ring(&[1], 1), b"lisT", std::slice::from_ref(&good)).unwrap_err();
        assert_eq!(error, SignatureError::BadSignature(good.key_id()));
        let text = good.to_file().replace("serial=1", "serial=2");
        let changed = Signature::parse(text.as_bytes()).unwrap();
        let error = verify(&ring(&[1], 1), b"list", &[changed]).unwrap_err();
        assert_eq!(error, SignatureError::BadComment(good.key_id()));
    }

    #[test]
    fn refuses_a_key_that_borrows_a_trusted_id() {
        let thief = SecretKey::from_seed([9; 32], [1; 8]).sign(b"list", COMMENT);
        let error = verify(&ring(&[1], 1), b"list", &[thief]).unwrap_err();
        assert!(matches!(error, SignatureError::BadSignature(_)), "{error}");
    }

    #[test]
    fn refuses_a_prehashed_signature_relabelled_as_legacy() {
        let good = key(1).sign(b"list", COMMENT);
        let relabelled = Signature { algorithm: LEGACY, ..good };
        let digest = Blake2b512::digest(b"list");
        // It does verify over the digest, which is why nodes refuse the format as such.
        assert!(ring(&[1], 1).verify(&digest, std::slice::from_ref(&relabelled), Accept::Legacy).is_ok());
        let error = verify(&ring(&[1], 1), &digest, &[relabelled]).unwrap_err();
        assert!(matches!(error, SignatureError::Legacy(_)), "{error}");
    }

    #[test]
    fn a_threshold_counts_distinct_keys_over_one_comment() {
        let (a, b) = (key(1).sign(b"x", COMMENT), key(2).sign(b"x", COMMENT));
        let two = ring(&[1, 2, 3], 2);
        assert!(verify(&two, b"x", &[a.clone(), b.clone()]).is_ok());
        let error = verify(&two, b"x", &[a.clone(), a.clone()]).unwrap_err();
        assert_eq!(error, SignatureError::Threshold { found: 1, threshold: 2 });
        let other = key(2).sign(b"x", &COMMENT.replace("2026-02", "2027-02"));
        // Left over from an earlier round of signing: it does not count, and does not harm.
        let third = key(3).sign(b"x", COMMENT);
        assert_eq!(verify(&two, b"x", &[other.clone(), a.clone(), third]).unwrap(), COMMENT);
        let error = verify(&two, b"x", &[a, other]).unwrap_err();
        assert!(matches!(error, SignatureError::CommentsDiffer(..)), "{error}");
        assert_eq!(
            verify(&two, b"x", &[]).unwrap_err(),
            SignatureError::Threshold { found: 0, threshold: 2 }
        );
    }

    #[test]
    fn refuses_rings_that_nothing_or_anything_satisfies() {
        let one = key(1).public();
        assert_eq!(Keyring::new(vec![], 1).unwrap_err(), KeyringError::Empty);
        for threshold in [0, 2] {
            let error = Keyring::new(vec![one.clone()], threshold).unwrap_err();
            assert_eq!(error, KeyringError::Threshold { threshold, keys: 1 });
        }
        let same_key_other_id = SecretKey::from_seed([1; 32], [5; 8]).public();
        assert!(matches!(Keyring::new(vec![one, same_key_other_id], 2), Err(KeyringError::Repeated(_))));
    }

    #[test]
    fn comments_have_one_spelling() {
        let comment: TrustedComment = COMMENT.parse().unwrap();
        assert_eq!(comment.to_string(), COMMENT);
        for (from, to) in [
            ("zstrap1", "zstrap2"),
            ("kind=list", "kind=lists"),
            ("name=zos-prod arch=amd64", "arch=amd64 name=zos-prod"),
            ("serial=1", "serial=+1"),
            ("serial=1", "serial=01"),
            (" kind", "  kind"),
            ("08:00:00Z expires", "08:00:00Z created=2025-11-20T08:00:00Z expires"),
            ("2026-02-20T08:00:00Z", "2026-02-20T08:00:00Z "),
            ("2026-02-20T08:00:00Z", "2026-02-30T08:00:00Z"),
            ("name=zos-prod", "name=../x"),
        ] {
            let text = COMMENT.replacen(from, to, 1);
            assert_ne!(text, COMMENT);
            let error = text.parse::<TrustedComment>().unwrap_err();
            assert!(matches!(error, SignatureError::Comment { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn refuses_another_kind_name_or_arch() {
        let comment: TrustedComment = COMMENT.parse().unwrap();
        let (name, other) = ("zos-prod".parse().unwrap(), "zos-dev".parse().unwrap());
        let arch = ArchField::One(Arch::Amd64);
        let good = Subject { kind: Kind::List, name: &name, arch };
        assert_eq!(comment.check_subject(&good), Ok(()));
        let error = comment.check_subject(&Subject { kind: Kind::Config, ..good }).unwrap_err();
        assert!(matches!(error, SignatureError::WrongKind { .. }));
        let error = comment.check_subject(&Subject { name: &other, ..good }).unwrap_err();
        assert!(matches!(error, SignatureError::WrongName { .. }));
        for arch in [ArchField::One(Arch::Arm64), ArchField::Any] {
            let error = comment.check_subject(&Subject { arch, ..good }).unwrap_err();
            assert!(matches!(error, SignatureError::WrongArch { .. }));
        }
    }

    #[test]
    fn refuses_expired_and_from_the_future() {
        let comment: TrustedComment = COMMENT.parse().unwrap();
        assert_eq!(comment.check_time(comment.expires), Ok(()));
        let late = comment.check_time(comment.expires.plus(1)).unwrap_err();
        assert!(matches!(late, SignatureError::Expired { .. }));
        let day_before = Timestamp::from_unix(comment.created.unix() - DAY).unwrap();
        assert_eq!(comment.check_time(day_before), Ok(()));
        let early = Timestamp::from_unix(comment.created.unix() - DAY - 1).unwrap();
        assert!(matches!(comment.check_time(early), Err(SignatureError::FromFuture { .. })));
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        let good = key(1).sign(b"list", COMMENT).to_file();
        let lines: Vec<&str> = good.lines().collect();
        for broken in 0..4 {
            let mut copy = lines.clone();
            copy[broken] = "x";
            let error = Signature::parse(copy.join("\n").as_bytes()).unwrap_err();
            assert!(matches!(error, SignatureError::Syntax { line, .. } if line == broken + 1), "{error}");
        }
        assert!(matches!(
            Signature::parse(format!("{good}more\n").as_bytes()),
            Err(SignatureError::Syntax { line: 5, .. })
        ));
    }
}
