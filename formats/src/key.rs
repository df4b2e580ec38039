//! Ed25519 keys in the file formats of minisign, without a password.
//!
//! In: the text of `NAME.pub` and `NAME.key`, or a seed. Out: keys that sign and verify in
//! [`crate::signature`]. The layouts are those of minisign 0.11 (`minisign(1)`), so keys move both ways.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use blake2::{Blake2b256, Digest as _};

use crate::signature::Signature;

/// The algorithm mark of every minisign key.
const KEY_ALGORITHM: [u8; 2] = *b"Ed";
/// The mark of the checksum inside a secret key: BLAKE2b.
const CHECKSUM_ALGORITHM: [u8; 2] = *b"B2";
/// What `minisign -G -W` writes in place of the checksum, which it only needs to tell a wrong password.
const NO_CHECKSUM: [u8; 32] = [0; 32];
/// The mark of a secret key that no password protects.
const NO_PASSWORD: [u8; 2] = [0, 0];
/// The mark of a secret key under a password (scrypt).
const SCRYPT: [u8; 2] = *b"Sc";
const PUBLIC_KEY_BYTES: usize = 2 + 8 + 32;
const SECRET_KEY_BYTES: usize = 2 + 2 + 2 + 32 + 8 + 8 + 8 + 64 + 32;
/// Where key id, secret key and checksum stand in a secret key.
const SECRET_PART: usize = 54;
/// No key file of minisign is longer than this.
const MAX_KEY_FILE: usize = 4096;

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// The text is not that of a key file.
    #[error("{what} key: {problem}")]
    Syntax {
        /// `public` or `secret`.
        what: &'static str,
        /// What was expected.
        problem: &'static str,
    },
    /// The secret key is under a password.
    #[error("secret key is protected by a password, expected one made with --no-password (minisign -G -W)")]
    Password,
    /// The checksum inside a secret key does not match its content.
    #[error("secret key is damaged: its checksum does not match")]
    Checksum,
}

/// The eight bytes by which signatures name their key; the text form is that of minisign, upper-case, but always of
/// 16 digits: minisign leaves zeros at the beginning out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A public key: who is trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: [u8; 32],
}

impl PublicKey {
    /// Reads the text of a `.pub` file, or its base64 line alone.
    ///
    /// # Errors
    /// [`KeyError::Syntax`] when the text is neither.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let syntax = |problem| KeyError::Syntax { what: "public", problem };
        let bytes: [u8; PUBLIC_KEY_BYTES] = decode_key(text).map_err(syntax)?;
        if bytes[..2] != KEY_ALGORITHM {
            return Err(syntax("expected an Ed25519 key (algorithm Ed)"));
        }
        let (mut id, mut key) = ([0; 8], [0; 32]);
        id.copy_from_slice(&bytes[2..10]);
        key.copy_from_slice(&bytes[10..]);
        // Such a key verifies nothing, and here somebody is still there to be told.
        let point = ed25519_compact::PublicKey::new(key).validate();
        point.map_err(|_| syntax("no point of the curve that could have signed anything"))?;
        Ok(Self { id: KeyId(id), key })
    }

    /// The key id that signatures carry. Not a hash of the key: two keys may bear one id, and only the key counts.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The base64 line, as identities carry it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        bytes[..2].copy_from_slice(&KEY_ALGORITHM);
        bytes[2..10].copy_from_slice(&self.id.0);
        bytes[10..].copy_from_slice(&self.key);
        Base64::encode_string(&bytes)
    }

    /// The text of a `.pub` file.
    #[must_use]
    pub fn to_file(&self) -> String {
        format!("untrusted comment: minisign public key {}\n{}\n", self.id, self.to_base64())
    }

    /// Whether `signature` over `message` was made with the secret half of this key.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_compact::Signature::new(*signature);
        ed25519_compact::PublicKey::new(self.key).verify(message, &signature).is_ok()
    }

    /// The 32 bytes that make this key another key, whatever id it bears.
    pub(crate) fn raw(&self) -> &[u8; 32] {
        &self.key
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// A secret key. Its `Debug` form shows the id only.
pub struct SecretKey {
    id: KeyId,
    /// Seed and public key, as Ed25519 implementations keep them.
    key: [u8; 64],
}

impl SecretKey {
    /// The key that 32 bytes of entropy make, under an id of eight random bytes.
    ///
    /// # Panics
    /// When all 32 bytes are zero: no source of entropy gives that.
    #[must_use]
    pub fn from_seed(seed: [u8; 32], id: [u8; 8]) -> Self {
        let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(seed));
        Self { id: KeyId(id), key: *pair.sk }
    }

    /// Reads the text of a `.key` file.
    ///
    /// # Errors
    /// [`KeyError::Password`] for a key under a password, [`KeyError::Checksum`] for a damaged one,
    /// [`KeyError::Syntax`] for anything else that is not a key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let syntax = |problem| KeyError::Syntax { what: "secret", problem };
        let bytes: [u8; SECRET_KEY_BYTES] = decode_key(text).map_err(syntax)?;
        if bytes[..2] != KEY_ALGORITHM || bytes[4..6] != CHECKSUM_ALGORITHM {
            return Err(syntax("expected algorithms Ed and B2"));
        }
        match [bytes[2], bytes[3]] {
            NO_PASSWORD => {}
            SCRYPT => return Err(KeyError::Password),
            _ => return Err(syntax("unknown key derivation")),
        }
        let (mut id, mut key) = ([0; 8], [0; 64]);
        id.copy_from_slice(&bytes[SECRET_PART..SECRET_PART + 8]);
        key.copy_from_slice(&bytes[SECRET_PART + 8..SECRET_PART + 72]);
        let secret = Self { id: KeyId(id), key };
        let checksum = &bytes[SECRET_PART + 72..];
        if checksum != NO_CHECKSUM && checksum != secret.checksum() {
            return Err(KeyError::Checksum);
        }
        // Signing under another public half gives the secret half away to whoever sees both signatures.
        let pair = ed25519_compact::SecretKey::new(key);
        let halves = pair.validate_public_key(&pair.public_key());
        halves.map_err(|_| syntax("its public half is not that of its secret half"))?;
        Ok(secret)
    }

    /// The text of a `.key` file without a password. Whoever reads it can sign: mode 0600 is for the caller.
    #[must_use]
    pub fn to_file(&self) -> String {
        let mut bytes = [0; SECRET_KEY_BYTES];
        bytes[..2].copy_from_slice(&KEY_ALGORITHM);
        bytes[2..4].copy_from_slice(&NO_PASSWORD);
        bytes[4..6].copy_from_slice(&CHECKSUM_ALGORITHM);
        bytes[SECRET_PART..SECRET_PART + 8].copy_from_slice(&self.id.0);
        bytes[SECRET_PART + 8..SECRET_PART + 72].copy_from_slice(&self.key);
        bytes[SECRET_PART + 72..].copy_from_slice(&self.checksum());
        // minisign writes this very comment for keys without a password, too.
        format!("untrusted comment: minisign encrypted secret key\n{}\n", Base64::encode_string(&bytes))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(&self.key[32..]);
        PublicKey { id: self.id, key }
    }

    /// Signs `data`, prehashed (`ED`), with a trusted comment of one line.
    ///
    /// # Panics
    /// When the comment contains a line break: its caller made it of checked words.
    #[must_use]
    pub fn sign(&self, data: &[u8], trusted_comment: &str) -> Signature {
        assert!(!trusted_comment.contains(['\n', '\r']), "a trusted comment is one line");
        Signature::make(self.id, trusted_comment, data, |message| self.sign_raw(message))
    }

    fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        *ed25519_compact::SecretKey::new(self.key).sign(message, None)
    }

    fn checksum(&self) -> [u8; 32] {
        let mut hash = Blake2b256::new();
        hash.update(KEY_ALGORITHM);
        hash.update(self.id.0);
        hash.update(self.key);
        hash.finalize().into()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id)
    }
}

/// The bytes of a key file: an optional comment line, then one line of base64.
fn decode_key<const N: usize>(text: &str) -> Result<[u8; N], &'static str> {
    if text.len() > MAX_KEY_FILE {
        return Err("longer than any key file");
    }
    let mut lines = text.lines();
    let mut line = lines.next().unwrap_or_default();
    if line.starts_with("untrusted comment:") {
        line = lines.next().unwrap_or_default();
    }
    if lines.any(|rest| !rest.is_empty()) {
        return Err("expected a comment line and one line of base64");
    }
    decode_base64(line).ok_or("expected one line of base64 of the right length")
}

/// Exactly `N` bytes from base64 with padding (RFC 4648), or nothing.
pub(crate) fn decode_base64<const N: usize>(line: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    match Base64::decode(line, &mut bytes) {
        Ok(read) if read.len() == N => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed([7; 32], [1, 2, 3, 4, 5, 6, 7, 8])
    }

    #[test]
    fn keys_survive_their_files() {
        let public = key().public();
        assert_eq!(PublicKey::parse(&public.to_file()).unwrap(), public);
        assert_eq!(PublicKey::parse(&public.to_base64()).unwrap(), public);
        assert_eq!(SecretKey::parse(&key().to_file()).unwrap().public(), public);
        assert_eq!(public.id().to_string(), "0807060504030201");
    }

    #[test]
    fn refuses_a_key_with_one_bit_flipped() {
        let text = key().to_file();
        let line = text.lines().nth(1).unwrap();
        let mut bytes: [u8; SECRET_KEY_BYTES] = decode_base64(line).unwrap();
        bytes[100] ^= 1;
        assert_eq!(SecretKey::parse(&Base64::encode_string(&bytes)).unwrap_err(), KeyError::Checksum);
    }

    #[test]
    fn takes_a_key_whose_checksum_minisign_left_out() {
        let mut bytes: [u8; SECRET_KEY_BYTES] =
            decode_base64(key().to_file().lines().nth(1).unwrap()).unwrap();
        bytes[SECRET_PART + 72..].fill(0);
        let text = Base64::encode_string(&bytes);
        assert_eq!(SecretKey::parse(&text).unwrap().public(), key().public());
        // Then the two halves must still agree.
        bytes[100] ^= 1;
        let text = Base64::encode_string(&bytes);
        assert!(matches!(SecretKey::parse(&text), Err(KeyError::Syntax { .. })));
    }

    #[test]
    fn refuses_halves_of_two_keys() {
        let mut mixed = key();
        let other = SecretKey::from_seed([8; 32], [1; 8]);
        mixed.key[32..].copy_from_slice(&other.key[32..]);
        assert!(matches!(SecretKey::parse(&mixed.to_file()), Err(KeyError::Syntax { .. })));
    }

    #[test]
    fn refuses_a_public_key_that_verifies_nothing() {
        let one = std::array::from_fn(|i| u8::from(i == 0));
        for key in [[0; 32], one, [2; 32], [0xff; 32]] {
            let text = PublicKey { id: KeyId([1; 8]), key }.to_base64();
            assert!(matches!(PublicKey::parse(&text), Err(KeyError::Syntax { .. })), "{key:?}");
        }
    }

    #[test]
    fn names_a_password_as_the_reason() {
        let text = key().to_file();
        let mut bytes: [u8; SECRET_KEY_BYTES] = decode_base64(text.lines().nth(1).unwrap()).unwrap();
        bytes[2..4].copy_from_slice(&SCRYPT);
        assert_eq!(SecretKey::parse(&Base64::encode_string(&bytes)).unwrap_err(), KeyError::Password);
    }

    #[test]
    fn refuses_what_is_not_a_key() {
        let public = key().public().to_base64();
        for text in ["", "x", &public[1..], &format!("{public}\n{public}"), &"A".repeat(5000)] {
            assert!(matches!(PublicKey::parse(text), Err(KeyError::Syntax { .. })), "{text}");
            assert!(matches!(SecretKey::parse(text), Err(KeyError::Syntax { .. })), "{text}");
        }
    }
}
