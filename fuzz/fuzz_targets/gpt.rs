//! A disk with a GUID partition table: what is written stays inside the disk and outside of partitions, and no partition
//! changes when another grows. Checksums are made right first, or hardly an input would come further.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::gpt::{Geometry, Header, Table, is_protective};

fuzz_target!(|input: &[u8]| {
    let (whole, mut disk) = (input, input.to_vec());
    let disk = &mut disk[..];
    for sector in [512u32, 4096] {
        let geometry = Geometry { sector, sectors: disk.len() as u64 / u64::from(sector) };
        is_protective(whole);
        for number in [1, geometry.last()] {
            read(whole, geometry, number);
            let _ = repair(disk, geometry, number);
            if let Some(table) = read(disk, geometry, number) {
                check(&table, geometry);
            }
        }
    }
});

/// The table whose header stands in this sector.
fn read(disk: &[u8], geometry: Geometry, number: u64) -> Option<Table> {
    let sector = geometry.sector as usize;
    let at = usize::try_from(number).ok()?.checked_mul(sector)?;
    let header = Header::parse(disk.get(at..at.checked_add(sector)?)?, number, geometry).ok()?;
    let (offset, length) = header.entries_at();
    let offset = usize::try_from(offset).ok()?;
    header.table(disk.get(offset..offset.checked_add(length)?)?.to_vec()).ok()
}

/// Makes both checksums of this header right, whatever it says of its length and of its entries.
fn repair(disk: &mut [u8], geometry: Geometry, number: u64) -> Option<()> {
    let sector = geometry.sector as usize;
    let at = usize::try_from(number).ok()?.checked_mul(sector)?;
    let word = |disk: &[u8], offset: usize| -> Option<usize> {
        let bytes = disk.get(at.checked_add(offset)?..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let (begin, length) =
        (word(disk, 72)?.checked_mul(sector)?, word(disk, 80)?.checked_mul(word(disk, 84)?)?);
    let sum = crc32(disk.get(begin..begin.checked_add(length)?)?);
    disk.get_mut(at + 88..at + 92)?.copy_from_slice(&sum.to_le_bytes());
    disk.get_mut(at + 16..at + 20)?.fill(0);
    let sum = crc32(disk.get(at..at.checked_add(word(disk, 12)?)?)?);
    disk.get_mut(at + 16..at + 20)?.copy_from_slice(&sum.to_le_bytes());
    Some(())
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn check(table: &Table, geometry: Geometry) {
    let partitions = table.partitions();
    let pieces = table.pieces();
    let _ = table.copies();
    for piece in pieces.iter().flatten() {
        assert!(piece.offset + piece.bytes.len() as u64 <= geometry.sectors * u64::from(geometry.sector));
        for partition in &partitions {
            let sector = u64::from(geometry.sector);
            let (first, behind) = (partition.first * sector, (partition.last + 1) * sector);
            assert!(piece.offset + piece.bytes.len() as u64 <= first || behind <= piece.offset);
        }
    }
    for partition in &partitions {
        assert!(partition.first <= partition.last && partition.last <= geometry.last());
        let limit = table.limit(partition.number);
        if let Some(last) = limit.checked_sub(1).filter(|last| *last >= partition.last) {
            if let Ok(grown) = table.grown(partition.number, last) {
                let others = |table: &Table| {
                    let mut all = table.partitions();
                    all.retain(|one| one.number != partition.number);
                    all
                };
                assert_eq!(others(&grown), others(table));
            }
        }
        assert!(partition.last == 0 || table.grown(partition.number, partition.last - 1).is_err());
    }
}
