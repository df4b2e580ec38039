//! Partition tables on a disk: read, believed if they are whole, and written so that a cut leaves one of two.
//!
//! In: a [`Block`]. Out: its GPT, and which partition of it is ours. Failure: `io::Error`, by which the disk is kept.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use zstrap_formats::gpt::{GptError, Header, Partition, Piece, Table, is_protective};

use super::block::Block;
use super::free::first_not_zero;
use crate::watchdog;

/// How long a disk may take for one answer: it tries a bad sector for half a minute, and the kernel asks five times.
pub const DISK: Duration = Duration::from_secs(300);
/// How long a disk may take to tell its table.
pub const TABLE: Duration = Duration::from_secs(60);

/// A disk that is read for so long and no longer: one that answers, but late, would hold up the boot for hours.
pub struct Reader {
    pub file: File,
    until: Instant,
}

impl Reader {
    /// Opens a disk to be read.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn of(disk: &Block, limit: Duration) -> io::Result<Self> {
        Ok(Self::new(disk.open()?, limit))
    }

    pub fn new(file: File, limit: Duration) -> Self {
        Self { file, until: Instant::now() + limit }
    }
}

/// Reads exactly so many bytes.
///
/// # Errors
/// The disk's, also when it ends before, and when its time is over.
pub fn read(reader: &Reader, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    if Instant::now() >= reader.until {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it answers too slowly"));
    }
    let mut bytes = vec![0; length];
    watchdog::expect_within(DISK);
    reader.file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Writes, and waits until it has arrived.
///
/// # Errors
/// The disk's.
pub fn write(file: &File, pieces: &[Piece]) -> io::Result<()> {
    for piece in pieces {
        watchdog::expect_within(DISK);
        file.write_all_at(&piece.bytes, piece.offset)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Opens a disk to be written to: none of which anything is mounted or otherwise used.
///
/// # Errors
/// The kernel's refusal.
pub fn open_alone(disk: &Block) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(OFlags::EXCL.bits() as i32).open(&disk.device)
}

/// The table of a disk.
#[derive(Clone, Debug)]
pub struct Found {
    pub table: Table,
    /// Its first copy is half of a newer table, whose writing was cut.
    pub is_cut: bool,
    /// The entries of its first copy stand right behind the header, where we would write them.
    pub is_plain: bool,
}

/// The GPT of a disk; none if it has none that counts.
///
/// # Errors
/// The disk's.
pub fn find(file: &Reader, disk: &Block) -> io::Result<Option<Found>> {
    let (geometry, sector) = (disk.geometry(), disk.sector as usize);
    if geometry.sectors < 8 || !is_protective(&read(file, 0, sector)?) {
        return Ok(None);
    }
    let header = Header::parse(&read(file, sector as u64, sector)?, 1, geometry);
    let Ok(header) = header else { return Ok(None) };
    let (id, other) = (header.disk(), header.other());
    let is_plain = header.entries_at().0 == 2 * sector as u64;
    match entries_of(file, header)? {
        Ok(table) => Ok(Some(Found { table, is_cut: false, is_plain })),
        // What we leave when we are cut between entries and header: the other copy says what the header does not yet.
        Err(GptError::Entries) => {
            let sector = read(file, other * u64::from(disk.sector), sector)?;
            let Ok(header) = Header::parse(&sector, other, geometry) else { return Ok(None) };
            let table = entries_of(file, header)?.ok().filter(|table| table.disk() == id);
            Ok(table.map(|table| Found { table, is_cut: true, is_plain }))
        }
        Err(_) => Ok(None),
    }
}

fn entries_of(file: &Reader, header: Header) -> io::Result<Result<Table, GptError>> {
    let (offset, length) = header.entries_at();
    Ok(header.table(read(file, offset, length)?))
}

/// What stands where the second copy is to be written, if it is neither a second copy, nor these pieces: boards keep
/// their loaders, and RAID its superblocks, at the end of disks.
///
/// # Errors
/// The disk's.
pub fn in_the_way(file: &Reader, disk: &Block, pieces: &[Piece]) -> io::Result<Option<u64>> {
    let (geometry, begin) = (disk.geometry(), pieces.first().map_or(0, |entries| entries.offset));
    let (sector, last) = (u64::from(disk.sector), geometry.last());
    let header = Header::parse(&read(file, last * sector, disk.sector as usize)?, last, geometry);
    if header.is_ok_and(|header| header.entries_at().0 == begin) {
        return Ok(None);
    }
    first_not_zero(file, begin..geometry.sectors * sector, pieces)
}

/// A partition of ours.
#[derive(Clone, Debug)]
pub struct Own {
    pub disk: Block,
    pub found: Found,
    pub partition: Partition,
}

impl Own {
    /// `vda1`.
    pub fn name(&self) -> String {
        self.disk.partition(self.partition.number)
    }

    /// Where it begins and how long it is, in bytes.
    pub fn extent(&self) -> (u64, u64) {
        let sector = u64::from(self.disk.sector);
        (self.partition.first * sector, self.partition.sectors() * sector)
    }
}

/// The partitions of a disk that are ours.
pub fn own(disk: &Block, found: &Found) -> Vec<Own> {
    let ours = found.table.partitions().into_iter().filter(Partition::is_ours);
    ours.map(|partition| Own { disk: disk.clone(), found: found.clone(), partition }).collect()
}
