//! The file system of our partition: written from a template, as there is no mkfs, and grown by the kernel.
//!
//! In: a disk and a place on it. Out: an ext4 of 64 MiB, whose superblock is written when all else has arrived. Failure: the
//! disk's.

use std::fs::File;
use std::io::{self, Read as _};

use zstrap_formats::gpt::Piece;

use super::table::{DISK, Reader, read, write};
use crate::unzstd::Unzstd;
use crate::watchdog;

/// What `make-ext4-template` makes.
const TEMPLATE: &[u8] = include_bytes!("ext4.img.zst");
/// How long that is when it is unpacked, and so what a partition has to have at least.
pub const SIZE: u64 = 64 << 20;
/// What kernels call a block.
pub const BLOCK: u64 = 4096;
/// Where the superblock stands.
const SUPERBLOCK: u64 = 1024;
const CHUNK: usize = 1 << 20;

/// Writes the file system. What a cut leaves has no superblock, and is no file system.
///
/// # Errors
/// The disk's.
pub fn make(file: &File, start: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut template = Unzstd::new(TEMPLATE, TEMPLATE.len() as u64)?;
    let mut chunk = vec![0; CHUNK];
    let mut first = Vec::new();
    for at in (0..SIZE).step_by(CHUNK) {
        template.read_exact(&mut chunk)?;
        if at == 0 {
            first = chunk[..BLOCK as usize].to_vec();
            chunk[..BLOCK as usize].fill(0);
        }
        watchdog::expect_within(DISK);
        file.write_all_at(&chunk, start + at)?;
    }
    file.sync_all()?;
    write(file, &[Piece { offset: start, bytes: first }])
}

/// How many bytes the file system there has by its superblock; none if there is none.
///
/// # Errors
/// The disk's.
pub fn size(file: &Reader, start: u64) -> io::Result<Option<u64>> {
    let block = read(file, start + SUPERBLOCK, 1024)?;
    let word = |at: usize| u64::from(word(&block, at));
    // s_log_block_size, s_blocks_count_lo and _hi of ext4(5).
    let is_ext = has_magic(&block) && word(24) < 7;
    Ok(is_ext.then(|| (word(4) | word(0x150) << 32).saturating_mul(1024 << word(24))))
}

/// Whether the superblock there is what somebody wrote: what the kernel does not like of it is no damage then, such as
/// what only another kernel can.
///
/// # Errors
/// The disk's.
pub fn is_whole(file: &Reader, start: u64) -> io::Result<bool> {
    /// `metadata_csum` in s_feature_ro_compat.
    const HAS_CHECKSUM: u32 = 0x400;
    let block = read(file, start + SUPERBLOCK, 1024)?;
    let has_checksum = word(&block, 100) & HAS_CHECKSUM != 0;
    Ok(has_magic(&block) && (!has_checksum || word(&block, 1020) == crc32c(&block[..1020])))
}

/// Whether its journal has what is not yet in its place.
///
/// # Errors
/// The disk's.
pub fn has_journal_to_replay(file: &Reader, start: u64) -> io::Result<bool> {
    /// `needs_recovery` in s_feature_incompat.
    const NEEDS_RECOVERY: u32 = 4;
    let block = read(file, start + SUPERBLOCK, 1024)?;
    Ok(has_magic(&block) && word(&block, 96) & NEEDS_RECOVERY != 0)
}

fn has_magic(block: &[u8]) -> bool {
    block[56..58] == [0x53, 0xef]
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// CRC-32C as ext4 has it, which does not invert the result.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    fn reader(file: &tempfile::NamedTempFile) -> Reader {
        Reader::new(file.reopen().unwrap(), Duration::MAX / 4)
    }

    #[test]
    fn the_template_is_a_file_system_without_a_fault() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let start = 1 << 20;
        file.as_file().set_len(start + SIZE).unwrap();
        assert_eq!(size(&reader(&file), start).unwrap(), None);
        make(file.as_file(), start).unwrap();
        assert_eq!(size(&reader(&file), start).unwrap(), Some(SIZE));
        let place = format!("{}?offset={start}", file.path().display());
        let output = Command::new("e2fsck").args(["-fn", &place]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let output = Command::new("dumpe2fs").args(["-h", &place]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        for needed in ["meta_bg", "metadata_csum_seed"] {
            assert!(said.contains(needed), "{said}");
        }
        // Kernels before 6.1 or without an own module would not mount these; the second cannot grow that far.
        for feature in ["orphan_file", "resize_inode", "encrypt", "verity", "casefold"] {
            assert!(!said.contains(feature), "{said}");
        }
    }

    #[test]
    fn the_template_is_what_its_script_makes() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("make");
        std::fs::write(&script, include_bytes!("make-ext4-template")).unwrap();
        let version = Command::new("mke2fs").arg("-V").output().unwrap().stderr;
        if !String::from_utf8_lossy(&version).contains("mke2fs 1.47.0 ") {
            // Another may write its own version, or know more features.
            return;
        }
        let output = Command::new("bash").arg(&script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let made = Command::new("zstd").arg("-dqc").arg(folder.path().join("ext4.img.zst")).output().unwrap();
        let mut own = Vec::new();
        Unzstd::new(TEMPLATE, TEMPLATE.len() as u64).unwrap().read_to_end(&mut own).unwrap();
        assert!(made.stdout == own, "the script makes another file system with this e2fsprogs");
    }

    #[test]
    fn a_cut_leaves_no_file_system() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // The last chunk does not fit: nothing is written behind it.
        let (read_only, start) = (File::open(file.path()).unwrap(), 0);
        make(&read_only, start).unwrap_err();
        file.as_file().set_len(SIZE).unwrap();
        assert_eq!(size(&reader(&file), start).unwrap(), None);
    }
}
