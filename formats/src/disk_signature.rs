//! What stands on a disk or in a partition, as far as its first and last bytes tell: for the words of a refusal.
//!
//! In: the begin and the end of the place, and its size. Out: names such as `ext4`, `LUKS2`, `LVM`, `RAID (mdraid 1.0)`.
//! They decide nothing: what is not known here is not free for that. The numbers are those that libblkid looks for, too.

/// How much of the begin is looked at; less is fine, and tells less.
pub const HEAD: usize = 1 << 21;
/// How much of the end.
pub const TAIL: usize = 1 << 20;

const SECTOR: usize = 512;
const MBR_END: usize = 510;
const MBR_ENTRIES: usize = 446;
const MD: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();
const MD_OF_BIG_ENDIAN: [u8; 4] = 0xa92b_4efc_u32.to_be_bytes();

/// Where a number stands, the number, and what it means.
type Magic = (usize, &'static [u8], &'static str);

const MAGICS: [Magic; 42] = [
    (0, b"XFSB", "xfs"),
    (65_600, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (3, b"-FVE-FS-", "BitLocker"),
    (32_769, b"CD001", "iso9660"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (1030, b"\x34\x34", "nilfs2"),
    (1024, b"H+", "hfsplus"),
    (1024, b"HX", "hfsplus"),
    (32, b"NXSB", "apfs"),
    (32_768, b"JFS1", "jfs"),
    (65_588, b"ReIsErFs", "reiserfs"),
    (65_588, b"ReIsEr2Fs", "reiserfs"),
    (65_588, b"ReIsEr3Fs", "reiserfs"),
    (4086, b"SWAPSPACE2", "swap"),
    (8182, b"SWAPSPACE2", "swap"),
    (16_374, b"SWAPSPACE2", "swap"),
    (65_526, b"SWAPSPACE2", "swap"),
    (4086, b"S1SUSPEND\0", "hibernated machine"),
    (4086, b"LINHIB0001", "hibernated machine"),
    (0, b"LUKS\xba\xbe\0\x01", "LUKS1"),
    (0, b"LUKS\xba\xbe\0\x02", "LUKS2"),
    // Its second header, when the first is lost.
    (0x4000, b"SKUL\xba\xbe\0\x02", "LUKS2"),
    (0x8000, b"SKUL\xba\xbe\0\x02", "LUKS2"),
    (24, b"LVM2 001", "LVM"),
    (536, b"LVM2 001", "LVM"),
    (1048, b"LVM2 001", "LVM"),
    (1560, b"LVM2 001", "LVM"),
    (0, &MD, "RAID (mdraid 1.1)"),
    (4096, &MD, "RAID (mdraid 1.2)"),
    (0, b"bluestore block device", "Ceph (bluestore)"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (0, b"verity\0\0", "dm-verity"),
    (0, b"integrt\0", "dm-integrity"),
    (1_048_576, b"\x0d\xd0\x01\xc0", "VMFS"),
    (512, b"DISKLABEL", "BSD label"),
    (0, b"\x78\x56\x34\x12", "ubifs"),
    (0, b"ZSTRSLOT", "zstrap image"),
    (64, b"\x57\x45\x56\x82", "BSD label"),
];

/// The names of what stands here, in no order that means anything; none when nothing is known.
///
/// `tail` is the end of a place of `size` bytes, and `head` its begin; they may overlap.
#[must_use]
pub fn names(head: &[u8], tail: &[u8], size: u64) -> Vec<&'static str> {
    let at = |(offset, magic, _): &&Magic| has(head, *offset, magic);
    let mut names: Vec<&str> = MAGICS.iter().filter(at).map(|(_, _, name)| *name).collect();
    names.extend([ext(head), fat(head), zfs(head, tail, size)].into_iter().flatten());
    names.extend(at_the_end(tail, size));
    names.dedup();
    names
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|bytes| bytes.starts_with(magic))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// By the features that only the later ones have.
fn ext(head: &[u8]) -> Option<&'static str> {
    const HAS_JOURNAL: u32 = 4;
    /// Incompatible features of ext2 and ext3: compression, types in folders, recovery, journal device, meta_bg.
    const OLD: u32 = 0x1f;
    /// Read-only features of ext2 and ext3: sparse superblocks, large files, trees of folders.
    const OLD_READ_ONLY: u32 = 7;
    let (compatible, incompatible, read_only) =
        (u32_at(head, 1024 + 92), u32_at(head, 1024 + 96), u32_at(head, 1024 + 100));
    has(head, 1024 + 56, b"\x53\xef").then_some(match () {
        () if incompatible & 8 != 0 => "journal of ext4",
        () if incompatible & !OLD != 0 || read_only & !OLD_READ_ONLY != 0 => "ext4",
        () if compatible & HAS_JOURNAL != 0 => "ext3",
        () => "ext2",
    })
}

fn fat(head: &[u8]) -> Option<&'static str> {
    (has(head, MBR_END, b"\x55\xaa") && (has(head, 54, b"FAT") || has(head, 82, b"FAT32"))).then_some("vfat")
}

/// One of the uberblocks behind one of the four labels: two at the begin, two at the end.
fn zfs(head: &[u8], tail: &[u8], size: u64) -> Option<&'static str> {
    const LABEL: usize = 256 << 10;
    const MAGIC: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();
    let is_one = |bytes: &[u8], at: usize| {
        let blocks = bytes.get(at + LABEL / 2..).unwrap_or_default();
        let blocks = &blocks[..blocks.len().min(LABEL / 2)];
        blocks
            .chunks(1024)
            .any(|block| block.starts_with(&MAGIC) || block.starts_with(&0x00ba_b10c_u64.to_be_bytes()))
    };
    // Labels stand at whole multiples of their size.
    let odd = usize::try_from(size % LABEL as u64).unwrap_or(0);
    let last = tail.len().checked_sub(odd + 2 * LABEL);
    let is_zfs = [0, LABEL].iter().any(|at| is_one(head, *at))
        || last.is_some_and(|last| [last, last + LABEL].iter().any(|at| is_one(tail, *at)));
    is_zfs.then_some("ZFS")
}

/// What keeps its superblock there, so that the begin is that of what it holds.
fn at_the_end(tail: &[u8], size: u64) -> Vec<&'static str> {
    let mut names = Vec::new();
    // A place of the whole disk, in the part of it that we have.
    let mut look = |place: Option<u64>, magic: &[u8], name| {
        let before = size.checked_sub(tail.len() as u64);
        let at = place.zip(before).and_then(|(place, before)| place.checked_sub(before));
        let at = at.and_then(|at| usize::try_from(at).ok());
        if at.is_some_and(|at| has(tail, at, magic)) {
            names.push(name);
        }
    };
    let before_end = |bytes: u64| size.checked_sub(bytes);
    look((size / 512).checked_sub(16).map(|sector| (sector & !7) * 512), &MD, "RAID (mdraid 1.0)");
    let old = (size & !0xffff).checked_sub(0x1_0000);
    look(old, &MD, "RAID (mdraid 0.90)");
    look(old, &MD_OF_BIG_ENDIAN, "RAID (mdraid 0.90)");
    for magic in [0x8374_026b_u32, 0x8374_026c, 0x8374_026d] {
        look(before_end(4096 - 60), &magic.to_be_bytes(), "DRBD");
    }
    look(before_end(1024), b"Intel Raid ISM Cfg Sig. ", "RAID (Intel)");
    look(before_end(512), b"\xde\x11\xde\x11", "RAID (DDF)");
    look(before_end(512), b"\x11\xde\x11\xde", "RAID (DDF)");
    names
}

/// A partition of an MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MbrPartition {
    /// Its type, such as 0x83.
    pub kind: u8,
    /// Its first sector.
    pub first: u64,
    /// How many it has.
    pub sectors: u64,
}

/// The four partitions of an MBR that are used, without those inside of an extended one; none if this first sector is no MBR.
#[must_use]
pub fn mbr(sector: &[u8]) -> Option<Vec<MbrPartition>> {
    let is_file_system = fat(sector).is_some() || has(sector, 3, b"NTFS    ") || has(sector, 3, b"EXFAT   ");
    if sector.len() < SECTOR || !has(sector, MBR_END, b"\x55\xaa") || is_file_system {
        return None;
    }
    let entries = sector[MBR_ENTRIES..MBR_END].chunks_exact(16);
    // A boot sector of something else has code there.
    if !entries.clone().all(|entry| entry[0] & 0x7f == 0) {
        return None;
    }
    let partition = |entry: &[u8]| MbrPartition {
        kind: entry[4],
        first: u64::from(u32_at(entry, 8)),
        sectors: u64::from(u32_at(entry, 12)),
    };
    Some(entries.map(partition).filter(|partition| partition.kind != 0 && partition.sectors > 0).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::process::Command;

    const MIB: u64 = 1 << 20;

    fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn names_of(path: &Path) -> Vec<&'static str> {
        let bytes = std::fs::read(path).unwrap();
        let (head, tail) = (bytes.len().min(HEAD), bytes.len().saturating_sub(TAIL));
        names(&bytes[..head], &bytes[tail..], bytes.len() as u64)
    }

    /// What libblkid calls it.
    fn judged(path: &Path) -> String {
        let output =
            Command::new("blkid").args(["-p", "-o", "value", "-s", "TYPE"]).arg(path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn make(path: &Path, command: &str) {
        let command = command.replace("FILE", path.to_str().unwrap());
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `NAME: SIZE in MiB, COMMAND => TYPE of blkid, our name;` an image that the real tool has made.
    macro_rules! made_by_its_tool {
        ($($test:ident: $size:literal, $command:literal => $type:literal, $name:literal;)*) => {
            $(#[test]
            fn $test() {
                let file = image($size * MIB);
                make(file.path(), $command);
                assert_eq!(judged(file.path()), $type);
                assert_eq!(names_of(file.path()), [$name]);
            })*
        };
    }

    made_by_its_tool! {
        ext2_is_known: 16, "mkfs.ext2 -q -F FILE" => "ext2", "ext2";
        ext3_is_known: 16, "mkfs.ext3 -q -F FILE" => "ext3", "ext3";
        ext4_is_known: 16, "mkfs.ext4 -q -F FILE" => "ext4", "ext4";
        ext4_with_nothing_of_its_own_but_a_feature: 16, "mkfs.ext2 -q -F -O extent FILE" => "ext4", "ext4";
        journal_of_ext4_is_known: 16, "mkfs.ext4 -q -F -O journal_dev FILE" => "jbd", "journal of ext4";
        xfs_is_known: 320, "mkfs.xfs -q -f FILE" => "xfs", "xfs";
        btrfs_is_known: 128, "mkfs.btrfs -q -f FILE" => "btrfs", "btrfs";
        f2fs_is_known: 64, "mkfs.f2fs -q FILE" => "f2fs", "f2fs";
        fat16_is_known: 16, "mkfs.vfat -F 16 FILE" => "vfat", "vfat";
        fat32_is_known: 64, "mkfs.vfat -F 32 FILE" => "vfat", "vfat";
        ntfs_is_known: 16, "mkfs.ntfs -q -F -f FILE" => "ntfs", "ntfs";
        squashfs_is_known: 1, "mksquashfs /etc/hostname FILE -noappend -quiet -no-progress" => "squashfs", "squashfs";
        iso9660_is_known: 1, "bsdtar -cf FILE --format=iso9660 /etc/hostname" => "iso9660", "iso9660";
        swap_is_known: 16, "mkswap FILE" => "swap", "swap";
        swap_of_large_pages_is_known: 16, "mkswap -p 65536 FILE" => "swap", "swap";
        luks1_is_known: 16, "echo secret | cryptsetup -q --type luks1 --pbkdf-force-iterations 1000 luksFormat FILE -" => "crypto_LUKS", "LUKS1";
        luks2_is_known: 32, "echo secret | cryptsetup -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luksFormat FILE -" => "crypto_LUKS", "LUKS2";
        bcache_is_known: 16, "make-bcache -B FILE" => "bcache", "bcache";
    }

    /// Numbers of what only works with block devices or a module of the kernel, put where they belong; libblkid agrees.
    #[test]
    fn what_needs_a_kernel_is_known() {
        // libblkid knows no smaller ZFS.
        let size = 64 * MIB + 3 * 4096;
        let with = |pieces: &[(u64, &[u8])]| {
            let file = image(size);
            for (offset, bytes) in pieces {
                file.as_file().write_all_at(bytes, *offset).unwrap();
            }
            (judged(file.path()), names_of(file.path()))
        };
        let md = |version: u32, this: u64| {
            let mut block = vec![0; 4096];
            block[..4].copy_from_slice(&MD);
            block[4..8].copy_from_slice(&version.to_le_bytes());
            block[144..152].copy_from_slice(&(this / 512).to_le_bytes());
            block[16] = 7;
            block
        };
        for (at, name) in [(0, "1.1"), (4096, "1.2"), (((size / 512 - 16) & !7) * 512, "1.0")] {
            let (type_, names) = with(&[(at, &md(1, at))]);
            assert_eq!(
                (type_.as_str(), names),
                ("linux_raid_member", vec![&*format!("RAID (mdraid {name})").leak()])
            );
        }
        let old = (size & !0xffff) - 0x1_0000;
        let mut block = md(0, 0);
        block[8..12].copy_from_slice(&90u32.to_le_bytes());
        let (type_, names) = with(&[(old, &block)]);
        assert_eq!((type_.as_str(), names), ("linux_raid_member", vec!["RAID (mdraid 0.90)"]));
        // Uberblocks of the first, and of the last label alone, in either order of bytes.
        for (label, magic) in [
            (0, 0x00ba_b10c_u64.to_le_bytes()),
            ((size & !0x3_ffff) - 0x4_0000, 0x00ba_b10c_u64.to_be_bytes()),
        ] {
            let blocks: Vec<(u64, &[u8])> =
                (0..8).map(|n| (label + 0x2_0000 + n * 1024, &magic[..])).collect();
            let (_, names) = with(&blocks);
            assert_eq!(names, ["ZFS"], "{label}");
        }
        let all: Vec<(u64, Vec<u8>)> = (0..4)
            .flat_map(|label| {
                let at =
                    if label < 2 { label * 0x4_0000 } else { (size & !0x3_ffff) - (4 - label) * 0x4_0000 };
                (0..8).map(move |n| (at + 0x2_0000 + n * 1024, 0x00ba_b10c_u64.to_le_bytes().to_vec()))
            })
            .collect();
        let all: Vec<(u64, &[u8])> = all.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
        assert_eq!(with(&all), ("zfs_member".to_owned(), vec!["ZFS"]));
        assert_eq!(
            with(&[(0, b"bluestore block device\n")]),
            ("ceph_bluestore".to_owned(), vec!["Ceph (bluestore)"])
        );
        let mut drbd = vec![0; 4096];
        drbd[60..64].copy_from_slice(&0x8374_026d_u32.to_be_bytes());
        drbd[3] = 1;
        assert_eq!(with(&[(size - 4096, &drbd)]).1, ["DRBD"]);
    }

    /// `pvcreate` wants a block device: this is what it writes first.
    #[test]
    fn lvm_is_known_in_any_of_its_sectors() {
        for sector in 0..4 {
            let file = image(16 * MIB);
            file.as_file().write_all_at(&lvm_label(sector), sector * 512).unwrap();
            assert_eq!(
                (judged(file.path()).as_str(), names_of(file.path())),
                ("LVM2_member", vec!["LVM"]),
                "{sector}"
            );
        }
    }

    /// A label with the checksum that libblkid asks for.
    fn lvm_label(sector: u64) -> Vec<u8> {
        const TABLE: [u32; 16] = [
            0x0000_0000,
            0x1db7_1064,
            0x3b6e_20c8,
            0x26d9_30ac,
            0x76dc_4190,
            0x6b6b_51f4,
            0x4db2_6158,
            0x5005_713c,
            0xedb8_8320,
            0xf00f_9344,
            0xd6d6_a3e8,
            0xcb61_b38c,
            0x9b64_c2b0,
            0x86d3_d2d4,
            0xa00a_e278,
            0xbdbd_f21c,
        ];
        let mut label = vec![0; 512];
        label[..8].copy_from_slice(b"LABELONE");
        label[8..16].copy_from_slice(&sector.to_le_bytes());
        label[20..24].copy_from_slice(&32u32.to_le_bytes());
        label[24..32].copy_from_slice(b"LVM2 001");
        label[32..64].fill(b'x');
        let mut crc = 0xf597_a6cf_u32;
        for byte in &label[20..] {
            crc ^= u32::from(*byte);
            crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
            crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
        }
        label[16..20].copy_from_slice(&crc.to_le_bytes());
        label
    }

    #[test]
    fn mbr_of_sfdisk_is_read() {
        let file = image(64 * MIB);
        make(file.path(), "printf '2048,16384,83\\n,16384,82\\n' | sfdisk -q -X dos FILE");
        let sector = &std::fs::read(file.path()).unwrap()[..512];
        let found = mbr(sector).unwrap();
        assert_eq!(found[0], MbrPartition { kind: 0x83, first: 2048, sectors: 16384 });
        assert_eq!((found.len(), found[1].kind), (2, 0x82));
        assert!(names(sector, &[], 64 * MIB).is_empty());
    }

    #[test]
    fn boot_sectors_are_no_mbr() {
        let file = image(16 * MIB);
        make(file.path(), "mkfs.vfat FILE");
        assert_eq!(mbr(&std::fs::read(file.path()).unwrap()[..512]), None);
        assert_eq!(mbr(&[0; 512]), None);
        assert_eq!(mbr(b"\x55\xaa"), None);
        let mut code = [0xe8; 512];
        code[510..].copy_from_slice(b"\x55\xaa");
        assert_eq!(mbr(&code), None);
    }

    #[test]
    fn nothing_is_known_of_zeros_and_of_noise() {
        let noise: Vec<u8> = (0..HEAD as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [vec![0; HEAD], noise] {
            assert_eq!(names(&bytes, &bytes[..TAIL], 64 * MIB), [""; 0]);
        }
        for size in [0, 1, 511, 512, 4096] {
            assert_eq!(names(&[], &[], size), [""; 0]);
        }
    }
}
