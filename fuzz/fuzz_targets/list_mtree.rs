//! Lists as other programs write them: `/set`, relative names, `..`, continuations. What parses becomes a list
//! that a node reads the same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::list::List;

fuzz_target!(|data: &[u8]| {
    let Ok(list) = List::parse_mtree(data) else { return };
    let text = list.to_text();
    assert_eq!(List::parse(text.as_bytes()).as_ref(), Ok(&list));
    assert_eq!(List::parse_mtree(text.as_bytes()).as_ref(), Ok(&list));
});
