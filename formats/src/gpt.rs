//! GUID partition tables (UEFI specification, chapter 5), and the one partition in them that is ours.
//!
//! In: sectors of a disk. Out: its partitions; and the sectors to write for a table of ours, or for one whose partition
//! has grown. Nothing is believed that its checksum does not cover, and what a table says of itself must fit its disk.
//! Failure: [`GptError`], which says what is wrong with the copy that was read.

use std::fmt;

/// The type of our partitions: made once at random, and theirs for ever.
pub const OUR_TYPE: Guid =
    Guid::new(0x6f8c_35b1, 0x0a7e, 0x4d52, [0x9c, 0x41, 0x2b, 0x8e, 0x71, 0xd3, 0x5a, 0x96]);
/// The name of our partitions.
pub const OUR_NAME: &str = "zstrap-cache";

const MAGIC: &[u8] = b"EFI PART";
/// UEFI 2.x.
const REVISION: u32 = 0x0001_0000;
const HEADER: usize = 92;
/// What every tool makes: 128 entries of 128 bytes.
const ENTRY: usize = 128;
const ENTRIES: usize = 128;
/// No tool makes more; what a table may cost us to read.
const MAX_ENTRIES: usize = 1024;
const MAX_ENTRY: usize = 4096;
const MAX_BYTES: usize = 1 << 20;
/// An MBR's entry that keeps tools without GPT away.
const PROTECTIVE: u8 = 0xee;
const MBR_ENTRIES: usize = 446;

/// A GUID as it stands on a disk: its first three fields are little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Self([a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }

    /// A GUID that is a function of these bytes (RFC 9562, version 8), of which the first 16 are used.
    #[must_use]
    pub fn of_hash(hash: &[u8; 32]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, at) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
            let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{:02X}", self.0[at])?;
        }
        Ok(())
    }
}

/// How a disk is divided into sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical sector: 512, or 4096.
    pub sector: u32,
    /// How many there are.
    pub sectors: u64,
}

impl Geometry {
    fn bytes(self) -> usize {
        self.sector as usize
    }

    /// The sector of the header at the end of the disk.
    #[must_use]
    pub fn last(self) -> u64 {
        self.sectors.saturating_sub(1)
    }
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GptError {
    /// There is none here.
    #[error("no GPT header")]
    NoHeader,
    /// Its header is not what was written.
    #[error("the header of the GPT is damaged")]
    Header,
    /// Its entries are not what was written.
    #[error("the entries of the GPT are damaged")]
    Entries,
    /// It was made for another disk, or breaks the specification.
    #[error("the GPT does not fit this disk")]
    Fit,
}

/// One partition of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// As in `sda1`.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Itself.
    pub id: Guid,
    /// Its first sector.
    pub first: u64,
    /// Its last sector.
    pub last: u64,
    /// What people call it.
    pub name: String,
}

impl Partition {
    /// Whether it is one of ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.kind == OUR_TYPE && self.name == OUR_NAME
    }

    /// How many sectors it has.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// A header whose checksum is right, and that fits its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    geometry: Geometry,
}

impl Header {
    /// Reads the header that stands in `sector`, which is the one of this number.
    ///
    /// # Errors
    /// [`GptError`].
    pub fn parse(sector: &[u8], number: u64, geometry: Geometry) -> Result<Self, GptError> {
        if sector.len() < HEADER || !sector.starts_with(MAGIC) {
            return Err(GptError::NoHeader);
        }
        let length = u32_at(sector, 12) as usize;
        let bytes = sector.get(..length).filter(|_| length >= HEADER).ok_or(GptError::Header)?.to_vec();
        let header = Self { bytes, geometry };
        if header.checksum() != u32_at(sector, 16) {
            return Err(GptError::Header);
        }
        if header.fits(number) { Ok(header) } else { Err(GptError::Fit) }
    }

    fn u64(&self, at: usize) -> u64 {
        u64_at(&self.bytes, at)
    }

    fn checksum(&self) -> u32 {
        let mut bytes = self.bytes.clone();
        bytes[16..20].fill(0);
        crc32(&bytes)
    }

    fn fits(&self, number: u64) -> bool {
        let (own, other, first, last) = (self.u64(24), self.u64(32), self.u64(40), self.u64(48));
        let (count, size, end) = (self.count(), self.entry_size(), self.geometry.last());
        let is_sane = (ENTRY..=MAX_ENTRY).contains(&size) && size.is_power_of_two();
        let is_small = count > 0 && count <= MAX_ENTRIES && count.saturating_mul(size) <= MAX_BYTES;
        // A disk that has grown has its second header in its midst.
        let is_inside = own == number && other <= end && other != own && first <= last && last <= end;
        if !(is_sane && is_small && is_inside) {
            return false;
        }
        let (begin, length) = (self.u64(72), self.entry_sectors());
        let Some(behind) = begin.checked_add(length) else { return false };
        // Headers and entries stand outside of what partitions may use.
        if own < other {
            own < begin && behind <= first && last < other
        } else {
            last < begin && behind <= own && other < first
        }
    }

    fn count(&self) -> usize {
        u32_at(&self.bytes, 80) as usize
    }

    fn entry_size(&self) -> usize {
        u32_at(&self.bytes, 84) as usize
    }

    fn entry_sectors(&self) -> u64 {
        (self.count() * self.entry_size()).div_ceil(self.geometry.bytes()) as u64
    }

    /// Where the other header should be.
    #[must_use]
    pub fn other(&self) -> u64 {
        self.u64(32)
    }

    /// Which disk this is, for those who ask its table.
    #[must_use]
    pub fn disk(&self) -> Guid {
        guid_at(&self.bytes, 56)
    }

    /// Where its entries stand: an offset from the begin of the disk, and a length, both in bytes.
    #[must_use]
    pub fn entries_at(&self) -> (u64, usize) {
        (self.u64(72).saturating_mul(u64::from(self.geometry.sector)), self.count() * self.entry_size())
    }

    /// The table of this header and those entries.
    ///
    /// # Errors
    /// [`GptError::Entries`] when they are others; [`GptError::Fit`] when partitions overlap or leave the disk.
    pub fn table(self, entries: Vec<u8>) -> Result<Table, GptError> {
        if entries.len() != self.entries_at().1 || crc32(&entries) != u32_at(&self.bytes, 88) {
            return Err(GptError::Entries);
        }
        let table = Table { header: self, entries };
        let mut extents: Vec<(u64, u64)> =
            table.used().map(|(_, entry)| (u64_at(entry, 32), u64_at(entry, 40))).collect();
        extents.sort_unstable();
        let (first, last) = (table.header.u64(40), table.header.u64(48));
        let is_inside = extents.iter().all(|(begin, end)| first <= *begin && begin <= end && *end <= last);
        let is_disjoint = extents.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if is_inside && is_disjoint { Ok(table) } else { Err(GptError::Fit) }
    }
}

/// A whole table, as one of its two copies has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    header: Header,
    entries: Vec<u8>,
}

/// Bytes for a place of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From the begin of the disk.
    pub offset: u64,
    /// Whole sectors.
    pub bytes: Vec<u8>,
}

impl Table {
    /// A table with no partition but ours. GUIDs are given, so that it is the same when it is made again.
    ///
    /// # Errors
    /// [`GptError::Fit`] when the disk has no room for it.
    pub fn ours(geometry: Geometry, disk: Guid, id: Guid, first: u64, last: u64) -> Result<Self, GptError> {
        let mut entries = vec![0; ENTRIES * ENTRY];
        entries[..16].copy_from_slice(&OUR_TYPE.0);
        entries[16..32].copy_from_slice(&id.0);
        put_u64(&mut entries, 32, first);
        put_u64(&mut entries, 40, last);
        for (place, unit) in entries[56..ENTRY].chunks_exact_mut(2).zip(OUR_NAME.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        put_u32(&mut bytes, 8, REVISION);
        put_u32(&mut bytes, 12, HEADER as u32);
        bytes[56..72].copy_from_slice(&disk.0);
        put_u32(&mut bytes, 80, ENTRIES as u32);
        put_u32(&mut bytes, 84, ENTRY as u32);
        let mut header = Header { bytes, geometry };
        let length = header.entry_sectors();
        put_u64(&mut header.bytes, 40, 2 + length);
        Self { header, entries }.placed(1)
    }

    /// The table as the header in this sector, the first or the last, has it; checked as if it had been read.
    fn placed(mut self, number: u64) -> Result<Self, GptError> {
        let (end, length) = (self.header.geometry.last(), self.header.entry_sectors());
        let begin_of_last = end.checked_sub(length).ok_or(GptError::Fit)?;
        let (other, entries) = if number == 1 { (end, 2) } else { (1, begin_of_last) };
        let bytes = &mut self.header.bytes;
        put_u64(bytes, 24, number);
        put_u64(bytes, 32, other);
        put_u64(bytes, 48, begin_of_last.checked_sub(1).ok_or(GptError::Fit)?);
        put_u64(bytes, 72, entries);
        put_u32(bytes, 88, crc32(&self.entries));
        put_u32(bytes, 16, 0);
        let checksum = self.header.checksum();
        put_u32(&mut self.header.bytes, 16, checksum);
        if !self.header.fits(number) {
            return Err(GptError::Fit);
        }
        self.header.table(self.entries)
    }

    /// Number (from 0) and bytes of each entry that is used.
    fn used(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let entries = self.entries.chunks_exact(self.header.entry_size()).enumerate();
        entries.filter(|(_, entry)| entry[..16] != [0; 16])
    }

    /// Its partitions, by their numbers.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        self.used().map(|(at, entry)| partition(at, entry)).collect()
    }

    /// Which disk this is, for those who ask its table.
    #[must_use]
    pub fn disk(&self) -> Guid {
        self.header.disk()
    }

    /// The first sector that no partition may have, behind the partition of this number: of the next one, or of what
    /// stands at the end of a disk of this size, which may have grown.
    #[must_use]
    pub fn limit(&self, number: u32) -> u64 {
        let end = self.header.geometry.last().saturating_sub(self.header.entry_sectors());
        let all = self.partitions();
        let Some(own) = all.iter().find(|partition| partition.number == number) else { return 0 };
        all.iter().map(|other| other.first).filter(|first| *first > own.last).min().unwrap_or(end).min(end)
    }

    /// The same table with this partition ending in that sector, and with its second copy at the very end of the disk.
    ///
    /// # Errors
    /// [`GptError::Fit`] when it would lie over others, or become smaller.
    pub fn grown(&self, number: u32, last: u64) -> Result<Self, GptError> {
        let index = (number as usize).checked_sub(1).ok_or(GptError::Fit)?;
        let at = index.checked_mul(self.header.entry_size()).ok_or(GptError::Fit)?;
        let mut table = self.clone();
        let entry = table.entries.get_mut(at..at + ENTRY).ok_or(GptError::Fit)?;
        if entry[..16] == [0; 16] || last < u64_at(entry, 40) {
            return Err(GptError::Fit);
        }
        put_u64(entry, 40, last);
        table.placed(1)
    }

    /// Both copies as they stand on the disk now, which may have grown since.
    ///
    /// # Errors
    /// [`GptError::Fit`] never, as it was read from there.
    pub fn copies(&self) -> Result<Vec<Piece>, GptError> {
        let (own, other) = (self.header.u64(24), self.header.u64(32));
        let old = Geometry { sectors: own.max(other) + 1, ..self.header.geometry };
        let header = Header { geometry: old, ..self.header.clone() };
        Self { header, entries: self.entries.clone() }.pieces()
    }

    /// What to write, in this order, each before the next: the second copy, then the first, entries before the header.
    ///
    /// # Errors
    /// [`GptError::Fit`] when it was read from a disk that has no room for a copy.
    pub fn pieces(&self) -> Result<Vec<Piece>, GptError> {
        let copies = [self.header.geometry.last(), 1].map(|number| self.clone().placed(number));
        let mut pieces = Vec::new();
        for copy in copies {
            let copy = copy?;
            let sector = u64::from(copy.header.geometry.sector);
            let (own, at) = (copy.header.u64(24), copy.header.entries_at().0);
            let (entries, header) = (copy.entries, copy.header.bytes);
            pieces.push(Piece { offset: at, bytes: padded(entries, sector) });
            pieces.push(Piece { offset: own * sector, bytes: padded(header, sector) });
        }
        Ok(pieces)
    }
}

/// The first sector of a disk that has a GPT and nothing else: the last one to be written, which makes all of it count.
#[must_use]
pub fn protective_mbr(geometry: Geometry) -> Piece {
    let mut bytes = vec![0; geometry.bytes()];
    let entry = [0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff];
    bytes[MBR_ENTRIES..MBR_ENTRIES + 8].copy_from_slice(&entry);
    put_u32(&mut bytes, MBR_ENTRIES + 8, 1);
    put_u32(&mut bytes, MBR_ENTRIES + 12, u32::try_from(geometry.last()).unwrap_or(u32::MAX));
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    Piece { offset: 0, bytes }
}

/// Whether this first sector says that a GPT follows. Without it the kernel, and we, take none for real.
#[must_use]
pub fn is_protective(sector: &[u8]) -> bool {
    sector.get(510..512) == Some(&[0x55, 0xaa])
        && (0..4).any(|n| sector[MBR_ENTRIES + 16 * n + 4] == PROTECTIVE)
}

fn partition(at: usize, entry: &[u8]) -> Partition {
    let units = entry[56..ENTRY].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let name = char::decode_utf16(units.take_while(|unit| *unit != 0));
    Partition {
        number: u32::try_from(at + 1).unwrap_or(u32::MAX),
        kind: guid_at(entry, 0),
        id: guid_at(entry, 16),
        first: u64_at(entry, 32),
        last: u64_at(entry, 40),
        // What a person reads on a console.
        name: name.map(|c| c.ok().filter(|c| !c.is_control()).unwrap_or('?')).collect(),
    }
}

fn padded(mut bytes: Vec<u8>, sector: u64) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(sector as usize), 0);
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at + 4)) << 32 | u64::from(u32_at(bytes, at))
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&bytes[at..at + 16]);
    Guid(guid)
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// CRC-32 of ISO 3309, which the specification asks for. Tables are short, so it has no table.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Seek as _, SeekFrom, Write as _};
    use std::process::Command;

    const MIB: u64 = 1 << 20;
    const ID: Guid = Guid([7; 16]);

    fn geometry(sector: u32, bytes: u64) -> Geometry {
        Geometry { sector, sectors: bytes / u64::from(sector) }
    }

    fn table(geometry: Geometry, last_mib: u64) -> Table {
        let mib = MIB / u64::from(geometry.sector);
        Table::ours(geometry, Guid([9; 16]), ID, mib, last_mib * mib - 1).unwrap()
    }

    fn disk(geometry: Geometry, table: &Table) -> Vec<u8> {
        let mut disk = vec![0; (geometry.sectors * u64::from(geometry.sector)) as usize];
        for piece in table.pieces().unwrap().into_iter().chain([protective_mbr(geometry)]) {
            let at = piece.offset as usize;
            disk[at..at + piece.bytes.len()].copy_from_slice(&piece.bytes);
        }
        disk
    }

    fn read(disk: &[u8], geometry: Geometry, number: u64) -> Result<Table, GptError> {
        let sector = geometry.sector as usize;
        let at = number as usize * sector;
        let header = Header::parse(&disk[at..at + sector], number, geometry)?;
        let (offset, length) = header.entries_at();
        header.table(disk[offset as usize..offset as usize + length].to_vec())
    }

    fn run(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text}");
        text
    }

    #[test]
    fn both_copies_say_the_same() {
        for sector in [512, 4096] {
            let geometry = geometry(sector, 64 * MIB);
            let written = table(geometry, 60);
            let disk = disk(geometry, &written);
            assert!(is_protective(&disk[..512]));
            let (first, second) =
                (read(&disk, geometry, 1).unwrap(), read(&disk, geometry, geometry.last()).unwrap());
            assert_eq!(first, written);
            assert_eq!(first.partitions(), second.partitions());
            let [partition] = &first.partitions()[..] else { panic!("one partition") };
            assert!(partition.is_ours() && partition.number == 1 && partition.id == ID);
            assert_eq!(partition.sectors() * u64::from(sector), 59 * MIB);
        }
    }

    #[test]
    fn sgdisk_and_sfdisk_find_no_fault() {
        let geometry = geometry(512, 64 * MIB);
        for table in [table(geometry, 32), table(geometry, 32).grown(1, 100_000).unwrap()] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&disk(geometry, &table)).unwrap();
            let path = file.path().to_str().unwrap();
            assert!(run("sgdisk", &["-v", path]).contains("No problems found"));
            let listed = run("sgdisk", &["-i", "1", path]);
            assert!(listed.contains(&format!("Partition GUID code: {OUR_TYPE}")), "{listed}");
            assert!(listed.contains(&format!("Partition name: '{OUR_NAME}'")), "{listed}");
            assert!(run("sfdisk", &["--verify", path]).contains("No errors detected"));
        }
    }

    #[test]
    fn tables_of_sgdisk_are_read_and_kept_when_ours_grows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * MIB).unwrap();
        let path = file.path().to_str().unwrap();
        let own = format!("2:{OUR_TYPE}");
        let name = format!("2:{OUR_NAME}");
        run("sgdisk", &["-n", "1:2048:+8M", "-c", "1:root", "-n", "2:0:+8M", "-t", &own, "-c", &name, path]);
        run("sgdisk", &["-n", "3:98304:0", path]);
        let geometry = geometry(512, 64 * MIB);
        let before = read(&std::fs::read(path).unwrap(), geometry, 1).unwrap();
        let names: Vec<String> = before.partitions().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["root", OUR_NAME, ""]);
        assert_eq!(before.limit(2), 98_304);
        assert_eq!(before.grown(2, 98_304), Err(GptError::Fit));
        let after = before.grown(2, 98_303).unwrap();
        let mut disk = file.reopen().unwrap();
        for piece in after.pieces().unwrap() {
            disk.seek(SeekFrom::Start(piece.offset)).unwrap();
            disk.write_all(&piece.bytes).unwrap();
        }
        assert!(run("sgdisk", &["-v", path]).contains("No problems found"));
        let (old, new) =
            (before.partitions(), read(&std::fs::read(path).unwrap(), geometry, 1).unwrap().partitions());
        assert_eq!((&old[0], &old[2]), (&new[0], &new[2]));
        assert_eq!((new[1].first, new[1].last), (old[1].first, 98_303));
    }

    #[test]
    fn never_shrinks() {
        let table = table(geometry(512, 64 * MIB), 32);
        let last = table.partitions()[0].last;
        assert_eq!(table.grown(1, last - 1), Err(GptError::Fit));
        assert_eq!(table.grown(2, last), Err(GptError::Fit));
        assert_eq!(table.grown(0, last), Err(GptError::Fit));
        assert_eq!(table.grown(1, last).unwrap(), table);
    }

    #[test]
    fn a_disk_that_has_grown_gets_its_second_copy_at_its_end() {
        let (small, large) = (geometry(512, 64 * MIB), geometry(512, 96 * MIB));
        let mut disk = disk(small, &table(small, 60));
        disk.resize(96 * MIB as usize, 0);
        let grown = read(&disk, large, 1).unwrap().grown(1, 90 * 2048 - 1).unwrap();
        assert_eq!(grown.pieces().unwrap()[1].offset, 96 * MIB - 512);
    }

    #[test]
    fn damage_is_seen() {
        let geometry = geometry(512, 64 * MIB);
        let good = disk(geometry, &table(geometry, 60));
        let with = |at: usize| {
            let mut disk = good.clone();
            disk[at] ^= 1;
            read(&disk, geometry, 1).unwrap_err()
        };
        assert_eq!(with(512), GptError::NoHeader);
        assert_eq!(with(512 + 40), GptError::Header);
        assert_eq!(with(512 + 12), GptError::Header);
        assert_eq!(with(1024 + 127 * 128), GptError::Entries);
        // The whole table of another, smaller disk.
        let short = Geometry { sectors: geometry.sectors / 2, ..geometry };
        assert_eq!(read(&good, short, 1), Err(GptError::Fit));
        // A copy of the header where it does not belong.
        let header = &good[512..1024];
        assert_eq!(Header::parse(header, 5, geometry), Err(GptError::Fit));
    }

    #[test]
    fn without_room_there_is_no_table() {
        for sectors in [0, 1, 2, 60, 67] {
            let geometry = Geometry { sector: 512, sectors };
            assert_eq!(Table::ours(geometry, ID, ID, 34, 34), Err(GptError::Fit), "{sectors}");
        }
        assert!(Table::ours(Geometry { sector: 512, sectors: 68 }, ID, ID, 34, 34).is_ok());
    }

    #[test]
    fn guids_stand_in_mixed_order() {
        assert_eq!(OUR_TYPE.to_string(), "6F8C35B1-0A7E-4D52-9C41-2B8E71D35A96");
        let hashed = Guid::of_hash(&[0xff; 32]).to_string();
        assert_eq!(hashed, "FFFFFFFF-FFFF-8FFF-BFFF-FFFFFFFFFFFF");
    }
}
