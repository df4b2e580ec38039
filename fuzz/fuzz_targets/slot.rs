//! Slots. What reads is what was written, and nothing else has those bytes; any payload that fits comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::slot::{self, SlotError};

fuzz_target!(|data: &[u8]| {
    if let Ok(payload) = slot::read(data) {
        assert_eq!(slot::write(payload).as_deref(), Ok(data));
    }
    // The hash keeps most mutations out, so the same bytes also serve as a payload.
    let Ok(mut slot) = slot::write(data) else {
        assert!(data.len() > slot::MAX_PAYLOAD);
        return;
    };
    if data.is_empty() {
        assert_eq!(slot::read(&slot), Err(SlotError::Blank));
        return;
    }
    assert_eq!(slot::read(&slot), Ok(data));
    let at = usize::from(data[0]) * 64 + data.len() % 64;
    slot[at] ^= data[data.len() - 1].max(1);
    assert!(slot::read(&slot).is_err(), "byte {at} does not count");
});
