//! `image.json`: what an image consists of and where its identity slots are.
//!
//! In: JSON, or the fields. Out: a checked [`Image`]. Failure: another version, an unknown field, a file name
//! that leads out of the folder, a slot at an odd place.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use zstrap_formats::slot::SLOT_ALIGN;

/// The name of this file in an image's folder.
pub(crate) const IMAGE_JSON: &str = "image.json";
const VERSION: u32 = 1;

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    version: u32,
    /// How it boots.
    pub kind: Kind,
    /// The architecture, as users write it.
    pub arch: String,
    /// File name of the kernel.
    pub kernel: String,
    /// File name of the initramfs.
    pub initramfs: String,
    /// The kernel command line.
    pub cmdline: String,
    /// Every place where the identity stands.
    pub slots: Vec<SlotPlace>,
}

/// How an image boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Kernel and initramfs, fetched by iPXE.
    Netboot,
}

/// One place of the identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotPlace {
    /// A file of the image.
    pub file: String,
    /// Where the slot begins in it, in bytes.
    pub offset: u64,
}

impl Image {
    /// A netboot image of the files `kernel` and `initramfs`, whose slot is at `slot_offset` in the latter.
    #[must_use]
    pub fn netboot(arch: &str, cmdline: &str, slot_offset: u64) -> Self {
        let initramfs = "initramfs".to_owned();
        let slot = SlotPlace { file: initramfs.clone(), offset: slot_offset };
        Image {
            version: VERSION,
            kind: Kind::Netboot,
            arch: arch.to_owned(),
            kernel: "kernel".to_owned(),
            initramfs,
            cmdline: cmdline.to_owned(),
            slots: vec![slot],
        }
    }

    /// Reads `image.json` in `folder`.
    ///
    /// # Errors
    /// See the head of this file; or the file cannot be read.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(IMAGE_JSON);
        let json = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&json).with_context(|| format!("reading {}", path.display()))
    }

    /// Reads the text of `image.json`.
    ///
    /// # Errors
    /// See the head of this file.
    pub fn parse(json: &[u8]) -> anyhow::Result<Self> {
        let image: Image = serde_json::from_slice(json).context("expected the description of an image")?;
        ensure!(image.version == VERSION, "image has version {}, expected {VERSION}", image.version);
        for file in image.files() {
            let plain = !file.is_empty() && !file.contains(['/', '\0']) && file != "." && file != "..";
            ensure!(plain, "image names file {file:?}, expected a plain name");
        }
        for slot in &image.slots {
            let aligned = slot.offset.is_multiple_of(SLOT_ALIGN as u64);
            ensure!(aligned, "image has a slot at {}, expected a multiple of {SLOT_ALIGN}", slot.offset);
        }
        ensure!(!image.slots.is_empty(), "image has no identity slot");
        let distinct: BTreeSet<_> = image.slots.iter().collect();
        ensure!(distinct.len() == image.slots.len(), "image names a slot twice");
        Ok(image)
    }

    /// The text of `image.json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize") + "\n"
    }

    /// The files that it names; one may come twice.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        [&self.kernel, &self.initramfs]
            .into_iter()
            .chain(self.slots.iter().map(|s| &s.file))
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text() -> String {
        Image::netboot("amd64", "quiet", 4096).to_json()
    }

    #[test]
    fn the_text_is_the_documented_one() {
        assert_eq!(
            text(),
            "{\"version\":1,\"kind\":\"netboot\",\"arch\":\"amd64\",\"kernel\":\"kernel\",\"initramfs\":\"initramfs\",\
             \"cmdline\":\"quiet\",\"slots\":[{\"file\":\"initramfs\",\"offset\":4096}]}\n"
        );
        assert_eq!(Image::parse(text().as_bytes()).unwrap(), Image::netboot("amd64", "quiet", 4096));
    }

    #[test]
    fn refuses_what_it_would_misread() {
        for (from, to, says) in [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("\"kernel\":\"kernel\"", "\"kernel\":\"../kernel\"", "plain name"),
            ("\"file\":\"initramfs\"", "\"file\":\"/etc/passwd\"", "plain name"),
            ("4096", "4097", "multiple of 4096"),
            ("\"arch\"", "\"more\":1,\"arch\"", "description of an image"),
            ("[{\"file\":\"initramfs\",\"offset\":4096}]", "[]", "no identity slot"),
        ] {
            let changed = text().replacen(from, to, 1);
            assert_ne!(changed, text());
            let error = Image::parse(changed.as_bytes()).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{changed}: {error:#}");
        }
    }
}
