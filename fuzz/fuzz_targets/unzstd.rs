//! Compressed blobs. Whatever stands in one, no more comes out than is asked for, it ends with the frame, and memory
//! is bounded; what was compressed by the rules comes out whole.
#![no_main]
#![allow(missing_docs)]

#[path = "../../src/unzstd.rs"]
mod unzstd;

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use unzstd::Unzstd;

/// Longer contents tell nothing more.
const LIMIT: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let length = data.len() as u64;
    let mut unzstd = Unzstd::new(data, length).expect("memory");
    let mut content = Vec::new();
    let read = (&mut unzstd).take(LIMIT).read_to_end(&mut content);
    assert!(content.len() as u64 <= LIMIT);
    if read.is_ok() && (content.len() as u64) < LIMIT {
        // It has ended, and stays so.
        assert_eq!(unzstd.read(&mut [0]).expect("the end"), 0);
        // Another length is another frame.
        let mut other = Unzstd::new(data, length + 1).expect("memory");
        assert!(std::io::copy(&mut other, &mut std::io::sink()).is_err());
    }
});
