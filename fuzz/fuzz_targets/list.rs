//! Lists as nodes read them. What parses keeps every rule that the fetch relies on, writes back as a list that
//! reads the same, and is an mtree list for everyone else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::list::{Entry, EntryKind, List, MAX_COMPONENT, MAX_PATH};

fuzz_target!(|data: &[u8]| {
    let Ok(list) = List::parse(data) else { return };
    assert_eq!(List::parse(list.to_text().as_bytes()).as_ref(), Ok(&list));
    assert_eq!(List::parse_mtree(data).as_ref(), Ok(&list));
    assert_eq!(List::new(list.entries().to_vec()).as_ref(), Ok(&list));
    list.entries().iter().for_each(check_entry);
    assert!(list.entries().is_sorted_by(|a, b| a.path < b.path));
    let size = |entry: &Entry| match &entry.kind {
        EntryKind::File(content) => content.size,
        _ => 0,
    };
    assert_eq!(list.total_size(), list.entries().iter().map(size).sum::<u64>());
});

fn check_entry(entry: &Entry) {
    assert!(entry.mode <= 0o7777 && entry.path.len() < MAX_PATH && !entry.path.contains(&0));
    assert!(entry.uid != u32::MAX && entry.gid != u32::MAX);
    if entry.path.is_empty() {
        assert_eq!(entry.kind, EntryKind::Dir);
        return;
    }
    for part in entry.path.split(|b| *b == b'/') {
        assert!(!part.is_empty() && part != b"." && part != b".." && part.len() <= MAX_COMPONENT);
    }
}
