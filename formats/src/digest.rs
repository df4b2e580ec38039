//! MD5 and SHA-256 of the same bytes in one pass, and their hexadecimal form.
//!
//! MD5 stands beside SHA-256 because the specification of this system asks for it as an additional check. It
//! never stands alone, and no decision rests on it alone.

use std::fmt;

use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};

/// A digest of `N` bytes; text form is `2 * N` lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest<const N: usize>(pub [u8; N]);

/// An MD5 digest (RFC 1321).
pub type Md5 = Digest<16>;
/// A SHA-256 digest (FIPS 180-4).
pub type Sha256 = Digest<32>;

/// Text that is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("digest {found:?} is not {digits} lower-case hexadecimal digits")]
pub struct DigestError {
    found: String,
    digits: usize,
}

impl<const N: usize> Digest<N> {
    /// Reads exactly `2 * N` lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`DigestError`] for any other text, upper case included: a digest has one spelling.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; N];
        match read_hex(text.as_bytes(), &mut bytes) {
            Some(()) => Ok(Self(bytes)),
            None => Err(DigestError { found: text.chars().take(80).collect(), digits: N * 2 }),
        }
    }
}

fn read_hex(text: &[u8], out: &mut [u8]) -> Option<()> {
    if text.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> TryFrom<String> for Digest<N> {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl<const N: usize> Serialize for Digest<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Digest<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Both digests and the length of one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDigest {
    /// Length in bytes.
    pub size: u64,
    /// MD5 of the content.
    pub md5: Md5,
    /// SHA-256 of the content.
    pub sha256: Sha256,
}

impl ContentDigest {
    /// The digests of bytes that are at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = ContentHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Hashes a stream: feed each byte once, in order.
#[derive(Clone)]
pub struct ContentHasher {
    size: u64,
    md5: md5::Context,
    sha256: Context,
}

impl ContentHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { size: 0, md5: md5::Context::new(), sha256: Context::new(&SHA256) }
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.md5.consume(bytes);
        self.sha256.update(bytes);
    }

    /// How many bytes were fed so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digests of all that was fed.
    #[must_use]
    pub fn finish(self) -> ContentDigest {
        ContentDigest {
            size: self.size,
            md5: Digest(self.md5.finalize().0),
            sha256: of_ring(&self.sha256.finish()),
        }
    }
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// SHA-256 alone, of a stream whose MD5 was checked before.
#[derive(Clone)]
pub struct Sha256Hasher(Context);

impl Sha256Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was fed.
    #[must_use]
    pub fn finish(self) -> Sha256 {
        of_ring(&self.0.finish())
    }
}

impl Default for Sha256Hasher {
    fn default() -> Self {
        Self::new()
    }
}

fn of_ring(digest: &ring::digest::Digest) -> Sha256 {
    Digest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// SHA-256 of bytes that are at hand.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256 {
    of_ring(&digest(&SHA256, bytes))
}

/// MD5 of bytes that are at hand.
#[must_use]
pub fn md5(bytes: &[u8]) -> Md5 {
    Digest(md5::compute(bytes).0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn agrees_with_the_published_vectors() {
        let abc = ContentDigest::of(b"abc");
        assert_eq!(abc.md5.to_string(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            abc.sha256.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(abc.size, 3);
    }

    #[test]
    fn pieces_hash_as_the_whole() {
        let mut hasher = ContentHasher::new();
        hasher.update(b"a");
        hasher.update(b"");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), ContentDigest::of(b"abc"));
        let mut alone = Sha256Hasher::new();
        alone.update(b"a");
        alone.update(b"bc");
        assert_eq!(alone.finish(), sha256(b"abc"));
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let text = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(Md5::parse(text).unwrap().to_string(), text);
        for bad in ["", &text[1..], "900150983CD24FB0D6963F7D28E17F72", "g00150983cd24fb0d6963f7d28e17f72"] {
            assert!(Md5::parse(bad).is_err(), "{bad}");
        }
    }
}
