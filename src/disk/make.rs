//! Our partition is made, and grown.
//!
//! In: a disk that was chosen, and a size. Out: a table that has our partition, and in it a file system. A cut at any point
//! leaves the disk free, as all that is there by then is what [`begun`] knows again, or ours: the protective MBR is
//! written last, and makes the table count. Failure: [`Kept`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;

use zstrap_formats::digest::sha256;
use zstrap_formats::gpt::{Guid, OUR_TYPE, Piece, Table, protective_mbr};

use super::Kept;
use super::block::Block;
use super::ext4;
use super::free::{EDGE, SURVEY, first_not_zero, is_boot_medium};
use super::table::{DISK, Own, Reader, TABLE, find, in_the_way, open_alone, own, read, write};
use crate::sys::System;
use crate::{media, watchdog};

const MIB: u64 = 1 << 20;
/// A disk of just the size that is asked for needs a little of it for itself.
const SLACK: u64 = 4 * MIB;
const ENTRY: usize = 128;
const ENTRIES: usize = 128;

/// The table that we make is a function of the disk and of where our partition ends.
fn table_of(disk: &Block, last: u64) -> Option<Table> {
    let text = format!("zstrap {} {} {}", disk.size, disk.sector, disk.serials.join(" "));
    let id = |what: &str| Guid::of_hash(&sha256(format!("{text} {what}").as_bytes()).0);
    let first = MIB / u64::from(disk.sector);
    Table::ours(disk.geometry(), id("disk"), id("partition"), first, last).ok()
}

/// What we write to a free disk before it is no longer free, if we have begun to: by the entry that stands in either of
/// the places for it.
///
/// # Errors
/// The disk's.
pub fn begun(file: &Reader, disk: &Block) -> io::Result<Vec<Piece>> {
    let sector = u64::from(disk.sector);
    let last_entries = disk.geometry().last().saturating_sub((ENTRIES * ENTRY) as u64 / sector);
    for place in [last_entries, 2] {
        if place * sector + sector > disk.size {
            continue;
        }
        let entry = read(file, place * sector, ENTRY)?;
        let last = entry[40..48].iter().rev().fold(0, |last, byte| last << 8 | u64::from(*byte));
        if let (true, Some(table)) = (entry.starts_with(&OUR_TYPE.0), table_of(disk, last)) {
            return Ok(table.pieces().unwrap_or_default());
        }
    }
    Ok(Vec::new())
}

/// Makes our partition on a disk that is free, or that may be erased.
///
/// # Errors
/// [`Kept`].
pub fn partition(disk: &Block, size: u64, is_free: bool) -> Result<Own, Kept> {
    let sector = u64::from(disk.sector);
    let table = table_for(disk, size)?;
    let pieces = table
        .pieces()
        .map_err(|error| Kept::io("planning the table of", &disk.name, io::Error::other(error)))?;
    let made = || -> io::Result<()> {
        let file = open_alone(disk)?;
        if !is_free {
            spare_boot_media(disk)?;
            erase(&file, disk)?;
        }
        write(&file, &pieces)?;
        write(&file, &[protective_mbr(disk.geometry())])?;
        ext4::make(&file, MIB)
    };
    made().map_err(|error| Kept::io("making a partition on", &disk.name, error))?;
    let found = Reader::of(disk, TABLE).and_then(|file| find(&file, disk));
    let found = found.map_err(|error| Kept::io("reading the table of", &disk.name, error))?;
    let made = found.and_then(|found| own(disk, &found).pop());
    let made = made.filter(|own| own.partition.first * sector == MIB);
    made.ok_or_else(|| Kept::io("making a partition on", &disk.name, io::ErrorKind::InvalidData.into()))
}

fn table_for(disk: &Block, size: u64) -> Result<Table, Kept> {
    let sector = u64::from(disk.sector);
    // The last MiB has the second table.
    let end = (MIB.saturating_add(size)).min(disk.size.saturating_sub(MIB)) / MIB * MIB;
    let available = end.saturating_sub(MIB);
    if available.saturating_add(SLACK) < size || available < ext4::SIZE {
        return Err(Kept::TooSmall {
            name: disk.name.clone(),
            size: disk.size / MIB,
            needed: size.max(ext4::SIZE) / MIB,
        });
    }
    table_of(disk, (end / sector).saturating_sub(1))
        .ok_or_else(|| Kept::io("planning the table of", &disk.name, io::ErrorKind::InvalidInput.into()))
}

/// Nobody is to find what the disk was before: tables and superblocks stand at its begin and its end.
fn erase(file: &File, disk: &Block) -> io::Result<()> {
    let zeros = vec![0; MIB as usize];
    let edges = (0..EDGE.min(disk.size))
        .step_by(MIB as usize)
        .chain((disk.size.saturating_sub(EDGE)..disk.size).step_by(MIB as usize));
    for at in edges {
        watchdog::expect_within(DISK);
        file.write_all_at(&zeros[..(disk.size - at).min(MIB) as usize], at)?;
    }
    file.sync_all()
}

/// What a machine boots from is not changed, even if a partition of ours stands beside it.
fn spare_boot_media(disk: &Block) -> io::Result<()> {
    if media::is_in_use(disk) || is_boot_medium(&Reader::of(disk, SURVEY)?, disk)? {
        return Err(io::Error::other("it bears an image of zstrap: boot media are never changed"));
    }
    Ok(())
}

/// Makes the file system in a partition of ours anew.
///
/// # Errors
/// [`Kept`].
pub fn file_system(own: &Own) -> Result<(), Kept> {
    let (start, length) = own.extent();
    if length < ext4::SIZE {
        return Err(Kept::TooSmall { name: own.name(), size: length / MIB, needed: ext4::SIZE / MIB });
    }
    let made = || -> io::Result<()> {
        let file = open_alone(&own.disk)?;
        spare_boot_media(&own.disk)?;
        ext4::make(&file, start)
    };
    made().map_err(|error| Kept::io("making a file system in", &own.name(), error))
}

/// Lets our partition grow to so many bytes, as far as nothing is in the way, and the file system that is mounted there with
/// it. Never the other way. What fails leaves it as large as it was, and is said.
pub fn grow(system: &dyn System, mount: &str, own: &mut Own, size: u64, may_erase: bool) {
    if let Err(why) = grow_partition(system, own, size, may_erase) {
        log::warn!(target: "disk", "not grown name={} size={}MiB why=\"{why}\"", own.name(), own.extent().1 / MIB);
    }
    if let Err(error) = grow_file_system(system, mount, own) {
        log::warn!(target: "disk", "not grown name={} why=\"growing the file system: {error}\"", own.name());
    }
}

fn grow_partition(system: &dyn System, own: &mut Own, size: u64, may_erase: bool) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let sector = u64::from(own.disk.sector);
    let (start, length) = own.extent();
    let limit = own.found.table.limit(own.partition.number).saturating_mul(sector);
    let end = start.saturating_add(size).min(limit) / MIB * MIB;
    let is_larger = end > start + length;
    if !is_larger && size > length.saturating_add(SLACK) {
        return Err(format!("no room behind it: {}MiB are asked for", size / MIB));
    }
    if !is_larger && !own.found.is_cut {
        return Ok(());
    }
    if !own.found.is_plain {
        return Err("its table stands where only other tools put it".to_owned());
    }
    let file = OpenOptions::new().read(true).write(true).open(&own.disk.device).map_err(text)?;
    let file = Reader::new(file, SURVEY);
    spare_boot_media(&own.disk).map_err(text)?;
    let last = if is_larger { end / sector - 1 } else { own.partition.last };
    let table = own.found.table.grown(own.partition.number, last).map_err(|error| error.to_string())?;
    if is_larger && !may_erase {
        // The second copy of the table stands in the way of one that was on a smaller disk.
        let old = own.found.table.copies().unwrap_or_default();
        if let Some(at) = first_not_zero(&file, start + length..end, &old).map_err(text)? {
            return Err(format!("something stands behind it, at byte {at} of the disk"));
        }
    }
    let pieces = table.pieces().map_err(|error| error.to_string())?;
    if let Some(at) = in_the_way(&file, &own.disk, &pieces).map_err(text)? {
        return Err(format!("something stands where its table is to be, at byte {at} of the disk"));
    }
    write(&file.file, &pieces).map_err(text)?;
    let found = find(&file, &own.disk).map_err(text)?.ok_or("its new table is not there")?;
    let number = own.partition.number;
    let all = super::table::own(&own.disk, &found);
    *own = all.into_iter().find(|own| own.partition.number == number).ok_or("its new table is another")?;
    let (start, length) = own.extent();
    system.set_partition(&own.disk, number, start, length).map_err(text)?;
    if is_larger {
        log::info!(target: "disk", "grown name={} size={}MiB", own.name(), length / MIB);
    }
    Ok(())
}

fn grow_file_system(system: &dyn System, mount: &str, own: &Own) -> io::Result<()> {
    let (start, length) = own.extent();
    let now = Reader::of(&own.disk, TABLE).and_then(|file| ext4::size(&file, start))?.unwrap_or(0);
    // Less than a block group more is not worth a call.
    if now.saturating_add(MIB) > length {
        return Ok(());
    }
    watchdog::expect_within(DISK);
    system.grow_ext4(mount, length / ext4::BLOCK)
}

/// The UUID that a file system of ours has: a function of its partition.
pub fn uuid(own: &Own) -> [u8; 16] {
    Guid::of_hash(&sha256(&own.partition.id.0).0).0
}
