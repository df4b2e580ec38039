//! The identity slot: 16 KiB in an image that can be exchanged without touching anything else.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `ZSTRSLOT` |
//! | 8 | 4 | version, little endian: 1 |
//! | 12 | 4 | length of the payload, little endian |
//! | 16 | 32 | SHA-256 of the payload |
//! | 48 | length | payload: the identity as JSON |
//! | … | | zeros to 16,384 |
//!
//! In: a payload or a slot. Out: the other. The hash finds damage, not malice: whoever can write the slot can
//! write the hash.

use crate::digest::sha256;

/// Size of a slot in bytes.
pub const SLOT_SIZE: usize = 16 * 1024;
/// Slots begin at multiples of this in their file, so that they can be written in place.
pub const SLOT_ALIGN: usize = 4096;
/// The first bytes of every slot.
pub const MAGIC: [u8; 8] = *b"ZSTRSLOT";
/// Where the slot stands in the initramfs.
pub const SLOT_FILE: &str = "identity.slot";

const VERSION: u32 = 1;
const HEADER: usize = 48;

/// The longest payload in bytes.
pub const MAX_PAYLOAD: usize = SLOT_SIZE - HEADER;

/// What is wrong with a slot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SlotError {
    /// Not 16 KiB.
    #[error("slot has {0} bytes, expected {SLOT_SIZE}")]
    Size(usize),
    /// Some other file.
    #[error("slot does not begin with ZSTRSLOT")]
    Magic,
    /// Made by a later zstrap.
    #[error("slot has version {0}, expected {VERSION}")]
    Version(u32),
    /// A base image that nobody has given an identity.
    #[error("slot is blank: this image carries no identity yet")]
    Blank,
    /// More than fits.
    #[error("identity has {0} bytes, expected at most {MAX_PAYLOAD}")]
    TooLong(usize),
    /// The payload is not the one that was written.
    #[error("slot is damaged: SHA-256 of its payload does not match")]
    Damaged,
    /// Bytes after the payload.
    #[error("slot is damaged: its padding is not zero")]
    Padding,
}

/// A slot that carries `payload`; an empty payload makes a blank slot.
///
/// # Errors
/// [`SlotError::TooLong`].
pub fn write(payload: &[u8]) -> Result<Vec<u8>, SlotError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(SlotError::TooLong(payload.len()));
    }
    let length = u32::try_from(payload.len()).expect("payloads end at 16 KiB");
    let mut slot = Vec::with_capacity(SLOT_SIZE);
    slot.extend_from_slice(&MAGIC);
    slot.extend_from_slice(&VERSION.to_le_bytes());
    slot.extend_from_slice(&length.to_le_bytes());
    slot.extend_from_slice(&sha256(payload).0);
    slot.extend_from_slice(payload);
    slot.resize(SLOT_SIZE, 0);
    Ok(slot)
}

/// The payload of a slot.
///
/// # Errors
/// [`SlotError`] for anything but a whole slot with a payload.
pub fn read(slot: &[u8]) -> Result<&[u8], SlotError> {
    if slot.len() != SLOT_SIZE {
        return Err(SlotError::Size(slot.len()));
    }
    if slot[..8] != MAGIC {
        return Err(SlotError::Magic);
    }
    let word = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    if word(8) != VERSION {
        return Err(SlotError::Version(word(8)));
    }
    let length = usize::try_from(word(12)).unwrap_or(usize::MAX);
    let payload = slot[HEADER..].get(..length).ok_or(SlotError::TooLong(length))?;
    if sha256(payload).0 != slot[16..HEADER] {
        return Err(SlotError::Damaged);
    }
    if slot[HEADER + length..].iter().any(|b| *b != 0) {
        return Err(SlotError::Padding);
    }
    if payload.is_empty() { Err(SlotError::Blank) } else { Ok(payload) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn gives_back_what_was_written() {
        for payload in [b"{}".to_vec(), vec![b'x'; MAX_PAYLOAD]] {
            let slot = write(&payload).unwrap();
            assert_eq!(slot.len(), SLOT_SIZE);
            assert_eq!(read(&slot).unwrap(), payload);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let good = write(b"{}").unwrap();
        let with = |at: usize, byte: u8| {
            let mut slot = good.clone();
            slot[at] = byte;
            read(&slot).unwrap_err()
        };
        assert_eq!(with(0, b'x'), SlotError::Magic);
        assert_eq!(with(8, 2), SlotError::Version(2));
        assert_eq!(with(15, 0xff), SlotError::TooLong(0xff00_0002));
        assert_eq!(with(20, good[20] ^ 1), SlotError::Damaged);
        assert_eq!(with(49, b'x'), SlotError::Damaged);
        assert_eq!(with(SLOT_SIZE - 1, 1), SlotError::Padding);
        assert_eq!(read(&good[1..]), Err(SlotError::Size(SLOT_SIZE - 1)));
        assert_eq!(read(&write(b"").unwrap()), Err(SlotError::Blank));
        assert_eq!(write(&[0; MAX_PAYLOAD + 1]), Err(SlotError::TooLong(MAX_PAYLOAD + 1)));
    }
}
