//! The begin and the end of a disk of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::disk_signature::{mbr, names};

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first_chunk() else { return };
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (head, tail) = bytes.split_at(bytes.len() * usize::from(*cut) / 255);
    names(head, tail, u64::from_le_bytes(*size));
    names(head, tail, tail.len() as u64);
    // The whole of a small disk, as its begin and as its end.
    let of_whole = names(bytes, bytes, bytes.len() as u64);
    assert!(of_whole.len() < 64);
    assert!(mbr(bytes).is_none_or(|partitions| partitions.len() <= 4));
});
