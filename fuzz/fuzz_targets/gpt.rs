//! A disk with a GUID partition table: what is read is what is written again, and our partition grows over no other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::gpt::{Geometry, Header, Table, is_protective};

fuzz_target!(|disk: &[u8]| {
    for sector in [512u32, 4096] {
        let geometry = Geometry { sector, sectors: disk.len() as u64 / u64::from(sector) };
        is_protective(disk);
        for number in [1, geometry.last()] {
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
