//! Which disk is ours to use: a decision over what was found, without touching anything.
//!
//! In: disks with what is on them, and the config's selector. Out: one of them. Failure: [`Kept`].

use zstrap_formats::config::{Disk as Wanted, DiskSelector};

use super::Kept;
use super::block::{Block, plain_wwn};
use super::free::Content;
use super::table::Own;

/// A disk, and what is on it.
#[derive(Debug)]
pub struct Surveyed {
    pub disk: Block,
    pub content: Content,
}

/// What is to be done on which disk.
#[derive(Debug)]
pub enum Choice {
    /// Make a partition on this one, which is free.
    Make(Block),
    /// The same, whatever is there.
    Erase(Block),
}

fn selector(wanted: Option<&Wanted>) -> &DiskSelector {
    wanted.map_or(&DiskSelector::Auto, |wanted| &wanted.selector)
}

/// Whether the selector names a disk, rather than a kind of them.
pub fn is_named(wanted: Option<&Wanted>) -> bool {
    matches!(selector(wanted), DiskSelector::Serial(_) | DiskSelector::Wwn(_) | DiskSelector::Path(_))
}

/// Whether the config would use this disk, if it were free.
pub fn matches(disk: &Block, wanted: Option<&Wanted>) -> bool {
    match selector(wanted) {
        DiskSelector::Serial(serial) => disk.serials.iter().any(|own| own == serial.trim()),
        DiskSelector::Wwn(wwn) => disk.wwns.contains(&plain_wwn(wwn)),
        DiskSelector::Path(path) => disk.paths.contains(path),
        DiskSelector::Size { least, most } => !disk.is_removable && (*least..=*most).contains(&disk.size),
        DiskSelector::Auto | DiskSelector::Smallest | DiskSelector::Largest => !disk.is_removable,
    }
}

/// How people call what the config asks for.
pub fn words(wanted: Option<&Wanted>) -> String {
    match selector(wanted) {
        DiskSelector::Serial(serial) => format!("with serial {serial}"),
        DiskSelector::Wwn(wwn) => format!("with WWN {wwn}"),
        DiskSelector::Path(path) => format!("at {path}"),
        DiskSelector::Size { least, most } => format!("of {}MiB to {}MiB", least >> 20, most >> 20),
        DiskSelector::Auto | DiskSelector::Smallest | DiskSelector::Largest => {
            "that is not removable".to_owned()
        }
    }
}

/// The partition of ours to use, of those on disks that match.
///
/// # Errors
/// [`Kept::Several`].
pub fn ours(mut all: Vec<Own>, wanted: Option<&Wanted>) -> Result<Option<Own>, Kept> {
    all.retain(|own| matches(&own.disk, wanted));
    let names = all.iter().map(Own::name).collect();
    one_of(all, wanted, |own| own.disk.size).map_err(|()| Kept::Several { what: "partitions of ours", names })
}

/// The disk to make a partition on, of those that match.
///
/// # Errors
/// [`Kept`].
pub fn free(all: Vec<Surveyed>, wanted: Option<&Wanted>) -> Result<Choice, Kept> {
    if all.is_empty() {
        return Err(Kept::Missing(words(wanted)));
    }
    let may_erase = wanted.is_some_and(|wanted| wanted.erase);
    let why = |surveyed: &Surveyed| match &surveyed.content {
        Content::Kept(why) => Some(format!("{}: {why}", surveyed.disk.name)),
        Content::Unread(why) => Some(format!("{}: it cannot be read: {why}", surveyed.disk.name)),
        // It was not there when it was looked for: that disk fails now and then.
        Content::Ours => Some(format!("{}: it has a partition of ours", surveyed.disk.name)),
        Content::Free => None,
    };
    let kept: Vec<String> = all.iter().filter_map(why).collect();
    let is_unread = |one: &&Surveyed| matches!(one.content, Content::Unread(_));
    let unread: Vec<String> = all.iter().filter(is_unread).filter_map(why).collect();
    let may_be_ours = !unread.is_empty() || all.iter().any(|one| matches!(one.content, Content::Ours));
    let (free, other): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|one| matches!(one.content, Content::Free));
    let names = |all: &[Surveyed]| all.iter().map(|one| one.disk.name.clone()).collect();
    let free_names = names(&free);
    let chosen = one_of(free, wanted, |one| one.disk.size);
    match chosen.map_err(|()| Kept::Several { what: "free disks", names: free_names })? {
        Some(_) if !unread.is_empty() => Err(Kept::Unread(unread.join("; "))),
        Some(one) => Ok(Choice::Make(one.disk)),
        None if may_erase && is_named(wanted) && !may_be_ours => {
            let other_names = names(&other);
            let [one] = <[_; 1]>::try_from(other)
                .map_err(|_| Kept::Several { what: "disks to erase", names: other_names })?;
            Ok(Choice::Erase(one.disk))
        }
        None => Err(Kept::NoneFree(kept.join("; "))),
    }
}

/// The only one, or the one that the selector prefers; a tie is no preference.
fn one_of<T>(mut all: Vec<T>, wanted: Option<&Wanted>, size: impl Fn(&T) -> u64) -> Result<Option<T>, ()> {
    all.sort_by_key(&size);
    match selector(wanted) {
        DiskSelector::Smallest => {}
        DiskSelector::Largest => all.reverse(),
        _ if all.len() > 1 => return Err(()),
        _ => {}
    }
    if all.len() > 1 && size(&all[0]) == size(&all[1]) {
        return Err(());
    }
    all.truncate(1);
    Ok(all.pop())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn disk(name: &str, size: u64) -> Block {
        let serials = vec![format!("S-{name}")];
        let paths = vec![format!("pci-{name}")];
        Block {
            name: name.to_owned(),
            size,
            sector: 512,
            serials,
            wwns: vec!["5000c5".to_owned()],
            paths,
            ..Block::default()
        }
    }

    fn free_disk(name: &str, size: u64) -> Surveyed {
        Surveyed { disk: disk(name, size), content: Content::Free }
    }

    fn kept_disk(name: &str, why: &str) -> Surveyed {
        Surveyed { disk: disk(name, 1), content: Content::Kept(why.to_owned()) }
    }

    fn wanted(selector: DiskSelector, erase: bool) -> Option<Wanted> {
        Some(Wanted { selector, erase })
    }

    fn chosen(all: Vec<Surveyed>, wanted: &Option<Wanted>) -> String {
        match free(all, wanted.as_ref()).unwrap() {
            Choice::Make(disk) => disk.name,
            Choice::Erase(disk) => format!("erase {}", disk.name),
        }
    }

    #[test]
    fn the_only_free_disk_is_taken() {
        let all = vec![kept_disk("vda", "ext4"), free_disk("vdb", 7), kept_disk("vdc", "swap")];
        assert_eq!(chosen(all, &None), "vdb");
    }

    #[test]
    fn of_two_free_disks_none_is_taken_and_both_are_named() {
        let all = || vec![free_disk("vda", 7), free_disk("vdb", 8)];
        for nobody in
            [None, wanted(DiskSelector::Auto, false), wanted(DiskSelector::Size { least: 0, most: 9 }, false)]
        {
            let error = free(all(), nobody.as_ref()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "there are several free disks, and nothing says which to use: vda, vdb"
            );
        }
        assert_eq!(chosen(all(), &wanted(DiskSelector::Smallest, false)), "vda");
        assert_eq!(chosen(all(), &wanted(DiskSelector::Largest, false)), "vdb");
        let twins = vec![free_disk("vda", 7), free_disk("vdb", 7)];
        assert!(matches!(
            free(twins, wanted(DiskSelector::Largest, false).as_ref()),
            Err(Kept::Several { .. })
        ));
    }

    #[test]
    fn only_a_disk_that_is_named_is_erased() {
        let all = || vec![kept_disk("vda", "ext4")];
        let serial = |erase| wanted(DiskSelector::Serial("S-vda".to_owned()), erase);
        assert_eq!(chosen(all(), &serial(true)), "erase vda");
        let error = free(all(), serial(false).as_ref()).unwrap_err();
        assert_eq!(error.to_string(), "no disk is free: vda: ext4");
        for selector in [DiskSelector::Auto, DiskSelector::Largest, DiskSelector::Size { least: 0, most: 9 }]
        {
            assert!(matches!(free(all(), wanted(selector, true).as_ref()), Err(Kept::NoneFree(_))));
        }
        let twins = vec![kept_disk("vda", "ext4"), kept_disk("vdb", "ext4")];
        assert!(matches!(free(twins, serial(true).as_ref()), Err(Kept::Several { .. })));
    }

    #[test]
    fn a_disk_with_a_partition_of_ours_is_never_erased() {
        let ours = vec![Surveyed { disk: disk("vda", 1), content: Content::Ours }];
        let error = free(ours, wanted(DiskSelector::Serial("S-vda".to_owned()), true).as_ref()).unwrap_err();
        assert_eq!(error.to_string(), "no disk is free: vda: it has a partition of ours");
    }

    #[test]
    fn disks_match_by_all_their_names() {
        let own = disk("vda", 400 << 30);
        let yes = [
            DiskSelector::Serial("S-vda".to_owned()),
            DiskSelector::Wwn("wwn-0x5000C5".to_owned()),
            DiskSelector::Path("pci-vda".to_owned()),
            DiskSelector::Size { least: 400 << 30, most: 600 << 30 },
            DiskSelector::Auto,
        ];
        let no = [
            DiskSelector::Serial("S-vd".to_owned()),
            DiskSelector::Wwn("5000c".to_owned()),
            DiskSelector::Path("pci-vd".to_owned()),
            DiskSelector::Size { least: 401 << 30, most: u64::MAX },
        ];
        for (selectors, expected) in [(&yes[..], true), (&no[..], false)] {
            for selector in selectors {
                assert_eq!(matches(&own, wanted(selector.clone(), false).as_ref()), expected, "{selector:?}");
            }
        }
    }

    #[test]
    fn removable_disks_are_taken_only_by_their_names() {
        let stick = Block { is_removable: true, ..disk("sda", 7) };
        for kind in
            [DiskSelector::Auto, DiskSelector::Smallest, DiskSelector::Size { least: 0, most: u64::MAX }]
        {
            assert!(!matches(&stick, wanted(kind, false).as_ref()));
        }
        assert!(!matches(&stick, None));
        assert!(matches(&stick, wanted(DiskSelector::Serial("S-sda".to_owned()), false).as_ref()));
    }

    #[test]
    fn a_disk_that_is_not_there_is_called_by_its_name() {
        let error =
            free(Vec::new(), wanted(DiskSelector::Serial("X7".to_owned()), true).as_ref()).unwrap_err();
        assert_eq!(error.to_string(), "there is no disk with serial X7");
    }
}
