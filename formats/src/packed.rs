//! Which blobs of a list stand on the site compressed (zstd, RFC 8878), too, and how long they are then.
//!
//! In: the text of `SERIAL.packed` beside the list. Out: [`Packed`]. It is a hint and not signed: who forges it costs a
//! node time, never trust, because a content is hashed after it was unpacked. Failure: [`PackedError`], which a
//! node takes for "none is".

use std::fmt::Write as _;

use crate::digest::Sha256;
use crate::list::MAX_ENTRIES;

/// The longest line in bytes.
pub const LONGEST_LINE: usize = 79;
/// The longest hint in bytes: as many lines as a list may have.
pub const MAX_BYTES: usize = MAX_ENTRIES * LONGEST_LINE;
/// Contents shorter than this are never compressed: a request costs as much as they do.
pub const LEAST: u64 = 4096;
/// Base-2 logarithm of the window that a decoder keeps in memory, at most: 2 MiB. Each connection has a decoder, and the
/// 8 MiB that zstd takes by default above level 18 would make files 3 % shorter.
pub const WINDOW_LOG: u32 = 21;

/// Text that is no hint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the compressed blobs is not a SHA-256 and a length, in order")]
pub struct PackedError {
    line: usize,
}

/// Compressed blobs by the SHA-256 of their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Vec<(Sha256, u64)>);

impl Packed {
    /// The blobs with these compressed lengths; of two for one content, the first counts.
    #[must_use]
    pub fn new(lengths: impl IntoIterator<Item = (Sha256, u64)>) -> Self {
        let mut lengths: Vec<_> = lengths.into_iter().collect();
        lengths.sort_by_key(|(sha256, _)| *sha256);
        lengths.dedup_by_key(|(sha256, _)| *sha256);
        Self(lengths)
    }

    /// Reads lines `SHA256 LENGTH`, each once and in order, each ended by LF.
    ///
    /// # Errors
    /// [`PackedError`] for any other text.
    pub fn parse(text: &[u8]) -> Result<Self, PackedError> {
        let mut lengths: Vec<(Sha256, u64)> = Vec::new();
        let refused = |before: &[_]| PackedError { line: before.len() + 1 };
        if text.len() > MAX_BYTES {
            return Err(refused(&[]));
        }
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let after = |(sha256, _): &(Sha256, u64)| lengths.last().is_none_or(|(last, _)| last < sha256);
            let pair = parse_line(line).filter(after).ok_or_else(|| refused(&lengths))?;
            lengths.push(pair);
        }
        Ok(Self(lengths))
    }

    /// As [`Packed::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * LONGEST_LINE);
        for (sha256, length) in &self.0 {
            writeln!(text, "{sha256} {length}").expect("text in memory takes whatever is written");
        }
        text
    }

    /// The length of the compressed blob of a content of `size` bytes, if there is one that is worth asking for.
    #[must_use]
    pub fn length(&self, sha256: &Sha256, size: u64) -> Option<u64> {
        self.claimed(sha256).filter(|length| saves(size, *length))
    }

    /// The length that is named for this content, whether or not that makes sense.
    #[must_use]
    pub fn claimed(&self, sha256: &Sha256) -> Option<u64> {
        let found = self.0.binary_search_by_key(sha256, |(sha256, _)| *sha256).ok()?;
        self.0.get(found).map(|(_, length)| *length)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Sha256, u64)> {
        self.0.iter().map(|(sha256, length)| (sha256, *length))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a content of `size` bytes is worth being compressed to `length`: it must save a tenth.
#[must_use]
pub fn saves(size: u64, length: u64) -> bool {
    size >= LEAST && length > 0 && length <= size - size.div_ceil(10)
}

fn parse_line(line: &[u8]) -> Option<(Sha256, u64)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sha256, length) = line.split_once(' ')?;
    let plain = length.bytes().all(|byte| byte.is_ascii_digit()) && !length.starts_with('0');
    let length = length.parse().ok().filter(|_| plain)?;
    Some((Sha256::parse(sha256).ok()?, length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::digest::sha256;

    #[test]
    fn reads_what_it_writes() {
        let lengths = [b"a", b"b", b"c"].map(|content| (sha256(content), 9000));
        let packed = Packed::new(lengths);
        assert_eq!(Packed::parse(packed.to_text().as_bytes()).as_ref(), Ok(&packed));
        assert_eq!(packed.length(&sha256(b"b"), 10_000), Some(9000));
        assert_eq!(packed.length(&sha256(b"d"), 10_000), None);
        assert_eq!(Packed::parse(b""), Ok(Packed::default()));
    }

    #[test]
    fn a_length_that_saves_less_than_a_tenth_is_no_help() {
        let packed = Packed::new([(sha256(b"a"), 9000)]);
        assert_eq!(packed.length(&sha256(b"a"), 9999), None);
        assert_eq!(packed.length(&sha256(b"a"), 10_000), Some(9000));
        for (size, length) in [(0, 0), (0, 1), (LEAST - 1, 1), (LEAST, 0), (u64::MAX, u64::MAX)] {
            assert!(!saves(size, length), "{size} {length}");
        }
    }

    #[test]
    fn refuses_any_other_text_and_names_the_line() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
        let good = format!("{one} 10\n");
        let bad = [
            format!("{one} 10"),
            format!("{one}\t10\n"),
            format!("{one} 010\n"),
            format!("{one} 0\n"),
            format!("{one} +1\n"),
            format!("{one} \n"),
            format!("{one} 99999999999999999999\n"),
            format!("{} 10\n", "A".repeat(64)),
            "<html>\n".to_owned(),
            "\n".to_owned(),
        ];
        for text in bad {
            assert_eq!(Packed::parse(text.as_bytes()), Err(PackedError { line: 1 }), "{text:?}");
        }
        for text in [format!("{good}{good}"), format!("{two} 10\n{good}")] {
            assert_eq!(Packed::parse(text.as_bytes()), Err(PackedError { line: 2 }), "{text:?}");
        }
        assert!(Packed::parse(&vec![b'\n'; MAX_BYTES + 1]).is_err());
    }
}
