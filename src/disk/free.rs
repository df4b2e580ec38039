//! Whether a disk is free, and if not, what stands on it, in words.
//!
//! In: a disk. Out: [`Content`]. Free is: its first and last 16 MiB and 64 MiB elsewhere read as zero, at places that
//! nobody outside can foretell; or they have nothing but what we write first ourselves, and were cut. Failure: there is
//! none: what cannot be read is kept.

use std::io;
use std::ops::Range;
use std::time::Duration;

use zstrap_formats::disk_signature as signature;
use zstrap_formats::gpt::Piece;
use zstrap_formats::slot;

use super::block::Block;
use super::make;
use super::table::{self, Found, Reader, read};

const MIB: u64 = 1 << 20;
/// How much of the begin and of the end has to be zero.
pub const EDGE: u64 = 16 * MIB;
/// How many places between are looked at, each of a MiB.
const SAMPLES: u64 = 64;
/// How many partitions are looked into for the words of a refusal.
const MAX_TOLD: usize = 8;
/// Where an image of ours has its slot, if the disk bears one: images are smaller.
const IMAGE: u64 = 512 * MIB;

/// How long a disk may take to be looked at as a whole.
pub const SURVEY: Duration = Duration::from_secs(300);

/// What is on a disk.
#[derive(Debug)]
pub enum Content {
    /// Partitions of ours, whatever else.
    Ours,
    /// Nothing.
    Free,
    /// Something, or what cannot be told.
    Kept(String),
    /// What cannot be told, and may be ours: why.
    Unread(String),
}

/// Looks at a disk.
pub fn look_at(disk: &Block) -> Content {
    let table = Reader::of(disk, SURVEY).and_then(|file| Ok((table::find(&file, disk)?, file)));
    let (found, file) = match table {
        Ok(table) => table,
        Err(error) => return Content::Unread(error.to_string()),
    };
    let look = || -> io::Result<Content> {
        if found.as_ref().is_some_and(|found| !table::own(disk, found).is_empty()) {
            return Ok(Content::Ours);
        }
        let pieces = make::begun(&file, disk)?;
        Ok(match first_not_zero(&file, 0..disk.size, &pieces)? {
            None if disk.is_read_only => Content::Kept("it is read-only".to_owned()),
            None => Content::Free,
            Some(offset) => Content::Kept(describe(&file, disk, found.as_ref(), offset)?),
        })
    };
    look().unwrap_or_else(|error| Content::Kept(format!("it cannot be read: {error}")))
}

/// Where the first byte stands that is neither zero nor one of the pieces, of those that are looked at in this range.
///
/// # Errors
/// The disk's.
pub fn first_not_zero(file: &Reader, range: Range<u64>, pieces: &[Piece]) -> io::Result<Option<u64>> {
    for chunk in chunks(range)? {
        let length = usize::try_from(chunk.end - chunk.start).unwrap_or(usize::MAX);
        let mut bytes = read(file, chunk.start, length)?;
        if is_zero(&bytes) {
            continue;
        }
        for piece in pieces {
            take_away(&mut bytes, chunk.start, piece);
        }
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(chunk.start + at as u64));
        }
    }
    Ok(None)
}

/// Both edges of the range, and places between.
fn chunks(range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let (begin, end) = (range.start, range.end);
    let whole = |range: Range<u64>| {
        let last = range.end;
        range.step_by(MIB as usize).map(move |at| at..(at + MIB).min(last))
    };
    let length = end.saturating_sub(begin);
    if length <= 2 * EDGE + SAMPLES * MIB {
        return Ok(whole(range).collect());
    }
    let mut chunks: Vec<_> = whole(begin..begin + EDGE).chain(whole(end - EDGE..end)).collect();
    let mut seeds = [0; 8 * SAMPLES as usize];
    random(&mut seeds)?;
    for seed in seeds.chunks_exact(8) {
        let number = seed.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let at = begin + EDGE + number % (length - 2 * EDGE - MIB);
        // Whole sectors are read faster.
        let at = at & !4095;
        chunks.push(at..at + MIB);
    }
    Ok(chunks)
}

/// Before the kernel has gathered enough of its own, whatever it has: a boot must not wait for that here, where a guess
/// has to be hard, not impossible.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    use rustix::rand::{GetRandomFlags, getrandom};
    let length = getrandom(&mut *bytes, GetRandomFlags::INSECURE)?;
    if length == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Zeroes what equals the piece, sector by sector: each of them was written whole or not at all.
fn take_away(bytes: &mut [u8], start: u64, piece: &Piece) {
    for (at, sector) in piece.bytes.chunks(512).enumerate() {
        let offset =
            (piece.offset + at as u64 * 512).checked_sub(start).and_then(|at| usize::try_from(at).ok());
        let place = offset.and_then(|at| bytes.get_mut(at..)?.get_mut(..sector.len()));
        if let Some(place) = place.filter(|place| *place == sector) {
            place.fill(0);
        }
    }
}

/// What stands there, as far as it is known; else where something stands.
fn describe(file: &Reader, disk: &Block, found: Option<&Found>, offset: u64) -> io::Result<String> {
    let sector = u64::from(disk.sector);
    let whole = names(file, 0..disk.size)?;
    if let Some(found) = found {
        let extents = found.table.partitions().into_iter().map(|p| p.first * sector..(p.last + 1) * sector);
        return Ok(partitions("GPT", file, disk, extents.collect()));
    }
    let first = read(file, 0, disk.sector as usize)?;
    let mbr = signature::mbr(&first).filter(|_| whole.is_empty());
    if let Some(mbr) = mbr {
        let extents = mbr.iter().map(|p| p.first * sector..p.first.saturating_add(p.sectors) * sector);
        // Its own table was damaged, or stands at the end only.
        let kind = if mbr.iter().any(|p| p.kind == 0xee) { "damaged GPT" } else { "MBR" };
        return Ok(partitions(kind, file, disk, extents.collect()));
    }
    if whole.is_empty() {
        return Ok(format!("data of a kind that is not known, at byte {offset}"));
    }
    Ok(whole.join(", "))
}

fn partitions(kind: &str, file: &Reader, disk: &Block, extents: Vec<Range<u64>>) -> String {
    let count = extents.len();
    let text = |extent: &Range<u64>| {
        let extent = extent.start..extent.end.min(disk.size);
        match names(file, extent) {
            Ok(names) if names.is_empty() => "nothing known".to_owned(),
            Ok(names) => names.join("+"),
            Err(error) => format!("cannot be read ({error})"),
        }
    };
    let told: Vec<String> = extents.iter().take(MAX_TOLD).map(text).collect();
    let more = if count > MAX_TOLD { ", …" } else { "" };
    let (s, colon) = (if count == 1 { "" } else { "s" }, if count == 0 { "" } else { ": " });
    format!("{kind} with {count} partition{s}{colon}{}{more}", told.join(", "))
}

fn names(file: &Reader, range: Range<u64>) -> io::Result<Vec<&'static str>> {
    let size = range.end.saturating_sub(range.start);
    let part = |most: usize| usize::try_from(size).unwrap_or(most).min(most);
    let (head, tail) = (part(signature::HEAD), part(signature::TAIL));
    let head = read(file, range.start, head)?;
    let tail = read(file, range.end - tail as u64, tail)?;
    Ok(signature::names(&head, &tail, size))
}

/// Whether the disk bears an image of ours: there is the magic of a slot, near the begin of the disk or of one of its
/// partitions. What our own partition keeps is none.
///
/// # Errors
/// The disk's.
pub fn is_boot_medium(file: &Reader, disk: &Block) -> io::Result<bool> {
    let (begins, own) = begins(file, disk)?;
    let is_own = |at: u64| own.iter().any(|own| own.contains(&at));
    let mut done = 0;
    for begin in begins {
        let end = begin.saturating_add(IMAGE).min(disk.size);
        for at in (begin.max(done)..end).step_by(MIB as usize) {
            let length = (end - at).min(MIB);
            if is_own(at) && is_own(at + length - 1) {
                continue;
            }
            let bytes = read(file, at, length as usize)?;
            // Files stand at whole sectors in their file systems.
            let mut sectors = (at..).step_by(512).zip(bytes.chunks(512));
            if sectors.any(|(at, sector)| sector.starts_with(&slot::MAGIC) && !is_own(at)) {
                return Ok(true);
            }
        }
        done = done.max(end);
    }
    Ok(false)
}

/// Where the disk and its partitions begin, in order; and the extents of ours.
fn begins(file: &Reader, disk: &Block) -> io::Result<(Vec<u64>, Vec<Range<u64>>)> {
    let sector = u64::from(disk.sector);
    let (mut begins, mut own) = (vec![0], Vec::new());
    if let Some(found) = table::find(file, disk)? {
        let (ours, other): (Vec<_>, Vec<_>) =
            found.table.partitions().into_iter().partition(|partition| partition.is_ours());
        begins.extend(other.iter().map(|partition| partition.first * sector));
        own.extend(ours.iter().map(|partition| partition.first * sector..(partition.last + 1) * sector));
    } else {
        let mbr = signature::mbr(&read(file, 0, disk.sector as usize)?).unwrap_or_default();
        begins.extend(mbr.iter().map(|partition| partition.first * sector));
    }
    begins.sort_unstable();
    Ok((begins, own))
}
