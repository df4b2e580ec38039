//! Builds the initramfs: the identity slot in the open, then everything else compressed.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 to 4,095 | cpio header of `identity.slot`, its name padded with NUL |
//! | 4,096 to 20,479 | the slot, see `zstrap_formats::slot` |
//! | to the next 4 KiB | end of this cpio archive, zeros |
//! | the rest | a second cpio archive, one zstd frame |
//!
//! In: the init, modules, an identity's payload. Out: the bytes and the offset of the slot. Failure: a member
//! that cpio cannot hold, a payload longer than a slot.

use anyhow::Context;
use zstrap_formats::cpio::Archive;
use zstrap_formats::slot::{self, SLOT_ALIGN, SLOT_FILE};

use crate::modules::ModuleSet;

/// The strongest level whose window (8 MiB) every kernel takes.
const LEVEL: i32 = 19;
/// Where the init finds the modules, below the root of the initramfs.
const MODULES: &str = "lib/modules";

/// An initramfs and where its identity stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Where the slot begins, in bytes from the start of the file.
    pub slot_offset: u64,
}

/// Builds an initramfs around `init`. `identity` is the payload of the slot; an empty one makes a base image
/// that waits for its stamp.
///
/// # Errors
/// See the head of this file.
pub fn build(init: &[u8], modules: &ModuleSet, identity: &[u8]) -> anyhow::Result<Initramfs> {
    let (mut bytes, slot_offset) = open_part(identity).context("placing the identity slot")?;
    let archive = closed_part(init, modules).context("packing the initramfs")?;
    bytes.extend(compress(&archive).context("compressing the initramfs")?);
    Ok(Initramfs { bytes, slot_offset })
}

/// The archive that stays uncompressed, so that the slot can be exchanged in place.
fn open_part(identity: &[u8]) -> anyhow::Result<(Vec<u8>, u64)> {
    let slot = slot::write(identity)?;
    let mut archive = Archive::new();
    let offset = archive.aligned_file(SLOT_FILE, 0o400, &slot, SLOT_ALIGN)?;
    Ok((archive.finish(SLOT_ALIGN), u64::try_from(offset)?))
}

fn closed_part(init: &[u8], modules: &ModuleSet) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.dir("dev", 0o755)?;
    // The kernel opens /dev/console for the init before anything is mounted; a Rust program whose descriptors
    // are closed opens /dev/null before its main.
    archive.char_device("dev/console", 0o600, 5, 1)?;
    archive.char_device("dev/null", 0o666, 1, 3)?;
    for mount_point in ["proc", "run", "sys"] {
        archive.dir(mount_point, 0o755)?;
    }
    archive.file("init", 0o755, init)?;
    add_modules(&mut archive, modules)?;
    Ok(archive.finish(4))
}

fn add_modules(archive: &mut Archive, modules: &ModuleSet) -> anyhow::Result<()> {
    let Some(release) = &modules.release else {
        return Ok(());
    };
    let folder = format!("{MODULES}/{release}");
    for dir in ["lib", MODULES, &folder] {
        archive.dir(dir, 0o755)?;
    }
    let tables = [
        ("modules.alias", &modules.alias),
        ("modules.dep", &modules.dep),
        ("modules.softdep", &modules.softdep),
    ];
    for (name, text) in tables {
        archive.file(&format!("{folder}/{name}"), 0o644, text.as_bytes())?;
    }
    for (name, content) in &modules.files {
        archive.file(&format!("{folder}/{name}"), 0o644, content)?;
    }
    Ok(())
}

/// One frame, one thread: the bytes depend on the input alone. The checksum lets the kernel notice damage.
fn compress(archive: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
    Ok(compressor.compress(archive)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_slot_stands_at_4096_and_carries_the_identity() {
        let made = build(b"init", &ModuleSet::default(), b"{\"version\":1}").unwrap();
        assert_eq!(made.slot_offset, 4096);
        assert_eq!(slot::read(&made.bytes[4096..4096 + slot::SLOT_SIZE]).unwrap(), b"{\"version\":1}");
    }

    #[test]
    fn the_compressed_part_begins_at_a_page() {
        let made = build(b"init", &ModuleSet::default(), b"").unwrap();
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let begin = made.bytes.windows(4).position(|four| four == magic).unwrap();
        assert_eq!(begin % 4096, 0);
    }

    #[test]
    fn identities_differ_in_the_slot_only() {
        let one = build(b"init", &ModuleSet::default(), b"{\"a\":1}").unwrap().bytes;
        let two = build(b"init", &ModuleSet::default(), b"{\"a\":22}").unwrap().bytes;
        assert_eq!(one.len(), two.len());
        let end = 4096 + slot::SLOT_SIZE;
        assert!(one[..4096] == two[..4096] && one[end..] == two[end..] && one != two);
    }

    #[test]
    fn refuses_an_identity_longer_than_the_slot() {
        let error = build(b"init", &ModuleSet::default(), &vec![b' '; slot::SLOT_SIZE]).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(slot::SlotError::TooLong(_))), "{error:#}");
    }
}
