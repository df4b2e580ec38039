//! What a module says of itself in its section `.modinfo`: strings of `key=value`, each ended by NUL.
//!
//! In: an ELF file. Out: [`ModInfo`]. Failure: no ELF file, no such section, no kernel release in it.

use anyhow::Context;
use object::{Object, ObjectSection};

use super::index::canonical;

/// The fields that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ModInfo {
    /// The kernel's release: the first word of `vermagic`.
    pub(super) release: String,
    /// Canonical names of the modules that must be loaded before this one.
    pub(super) depends: Vec<String>,
    /// What should be loaded around this one, as written: `pre: a b post: c`.
    pub(super) softdeps: Vec<String>,
    /// Patterns of the hardware and the features that this module serves.
    pub(super) aliases: Vec<String>,
}

impl ModInfo {
    /// Reads the section of a module.
    pub(super) fn parse(elf: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(elf).context("expected an ELF file")?;
        let section = file.section_by_name(".modinfo").context("expected a section .modinfo")?;
        Self::from_strings(section.data().context("reading section .modinfo")?)
    }

    fn from_strings(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut info = ModInfo::default();
        for string in bytes.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(string);
            if let Some((key, value)) = text.split_once('=') {
                info.take(key, value);
            }
        }
        anyhow::ensure!(!info.release.is_empty(), "expected vermagic= in section .modinfo");
        Ok(info)
    }

    fn take(&mut self, key: &str, value: &str) {
        match key {
            "vermagic" => self.release = value.split(' ').next().unwrap_or_default().to_owned(),
            "depends" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                self.depends.extend(names.map(canonical));
            }
            "softdep" => self.softdeps.push(value.to_owned()),
            "alias" => self.aliases.push(value.to_owned()),
            _ => {}
        }
    }

    /// Canonical names in the softdeps, before and after.
    pub(super) fn soft_needs(&self) -> Vec<String> {
        let words = self.softdeps.iter().flat_map(|softdep| softdep.split_whitespace());
        words.filter(|word| !word.ends_with(':')).map(canonical).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_fields_that_matter() {
        let info = ModInfo::from_strings(
            b"license=GPL\0depends=net-failover,virtio\0\0softdep=pre: crc32c post: x-y\0alias=virtio:d1v*\0\
              alias=a=b\0vermagic=6.1.0-1 SMP\0",
        )
        .unwrap();
        assert_eq!(info.release, "6.1.0-1");
        assert_eq!(info.depends, ["net_failover", "virtio"]);
        assert_eq!(info.soft_needs(), ["crc32c", "x_y"]);
        assert_eq!(info.aliases, ["virtio:d1v*", "a=b"]);
    }

    #[test]
    fn refuses_what_is_no_module() {
        let error = ModInfo::parse(b"<html>not found</html>").unwrap_err();
        assert_eq!(error.to_string(), "expected an ELF file");
        assert!(ModInfo::from_strings(b"license=GPL\0").unwrap_err().to_string().contains("vermagic"));
    }
}
