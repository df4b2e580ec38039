//! Exchanges the identity of an image that is there.
//!
//! In: an image's folder and the payload of an identity. Out: the same image with every slot rewritten and
//! `SHA256SUMS` in step. Nothing is written unless every recorded slot is where it should be. Failure: a slot
//! that is none, a payload that is too long; an interruption leaves a slot whose hash says so, and a second
//! stamp repairs it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};
use zstrap_formats::slot::{self, MAGIC, SLOT_SIZE};

use crate::describe::{Image, SlotPlace};
use crate::folder;

/// Writes `identity` into every slot of the image in `folder`.
///
/// # Errors
/// See the head of this file.
pub fn stamp(folder: &Path, identity: &[u8]) -> anyhow::Result<()> {
    let image = Image::read(folder)?;
    let slot = slot::write(identity).context("making the identity slot")?;
    let summed = folder::summed_names(folder)?;
    // All are checked before the first is written.
    let open = |place: &SlotPlace| Ok((open_checked(folder, place)?, place.clone()));
    let places: Vec<(File, SlotPlace)> = image.slots.iter().map(open).collect::<anyhow::Result<_>>()?;
    for (file, place) in &places {
        let writing = || format!("writing the slot at {} of {}", place.offset, place.file);
        file.write_all_at(&slot, place.offset).and_then(|()| file.sync_all()).with_context(writing)?;
    }
    folder::write_sums(folder, summed.iter().map(String::as_str))
}

fn open_checked(folder: &Path, place: &SlotPlace) -> anyhow::Result<File> {
    let path = folder.join(&place.file);
    let opening = || format!("opening {}", path.display());
    let file = OpenOptions::new().read(true).write(true).open(&path).with_context(opening)?;
    let slot = read_at(&file, place).with_context(|| format!("looking at {}", path.display()))?;
    ensure!(
        slot[..MAGIC.len()] == MAGIC,
        "{} has no identity slot at offset {}, nothing was written",
        path.display(),
        place.offset
    );
    Ok(file)
}

fn read_at(file: &File, place: &SlotPlace) -> anyhow::Result<Vec<u8>> {
    let mut slot = vec![0; SLOT_SIZE];
    let reading = || format!("reading {SLOT_SIZE} bytes at {}", place.offset);
    file.read_exact_at(&mut slot, place.offset).with_context(reading)?;
    Ok(slot)
}

/// The payload that all slots of the image in `folder` carry.
///
/// # Errors
/// A slot that is blank or damaged, or slots that differ.
pub fn read_slot(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let image = Image::read(folder)?;
    let mut first: Option<Vec<u8>> = None;
    for place in &image.slots {
        let path = folder.join(&place.file);
        let reading = || format!("reading the slot at {} of {}", place.offset, path.display());
        let file = File::open(&path).with_context(reading)?;
        let slot = read_at(&file, place).with_context(reading)?;
        let payload = slot::read(&slot).with_context(reading)?.to_vec();
        let same = first.as_ref().is_none_or(|first| *first == payload);
        ensure!(same, "slots of {} differ: an interrupted stamp, stamp it again", folder.display());
        first = Some(payload);
    }
    first.context("image has no identity slot")
}
