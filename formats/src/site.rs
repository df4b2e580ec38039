//! Where things stand on a site: relative paths, for those who write them and those who ask for them.

use crate::digest::Sha256;
use crate::key::KeyId;
use crate::name::{Arch, Name};

/// Names and descriptions of all configs, for people and pages; nodes never read it.
pub const CONFIGS_INDEX: &str = "configs.json";
/// The longest `latest` file in bytes.
pub const MAX_LATEST: usize = 64;

/// The folder of a config.
#[must_use]
pub fn config_folder(name: &Name) -> String {
    format!("configs/{name}")
}

/// The config of this serial.
#[must_use]
pub fn config(name: &Name, serial: u64) -> String {
    format!("configs/{name}/{serial}.json")
}

/// The serial that a config has now.
#[must_use]
pub fn config_latest(name: &Name) -> String {
    format!("configs/{name}/latest")
}

/// A config by its hash, for images that pin it.
#[must_use]
pub fn config_by_hash(sha256: &Sha256) -> String {
    format!("configs/by-hash/{sha256}.json")
}

/// The folder of a bundle for one architecture.
#[must_use]
pub fn bundle_folder(name: &Name, arch: Arch) -> String {
    format!("bundles/{name}/{arch}")
}

/// The list of this serial.
#[must_use]
pub fn list(name: &Name, arch: Arch, serial: u64) -> String {
    format!("bundles/{name}/{arch}/{serial}.mtree")
}

/// The serial that a bundle has now.
#[must_use]
pub fn bundle_latest(name: &Name, arch: Arch) -> String {
    format!("bundles/{name}/{arch}/latest")
}

/// Which blobs of the list of this serial stand there compressed, too; unsigned, and it need not be there.
#[must_use]
pub fn packed(name: &Name, arch: Arch, serial: u64) -> String {
    format!("bundles/{name}/{arch}/{serial}.packed")
}

/// A file's content.
#[must_use]
pub fn blob(sha256: &Sha256) -> String {
    format!("blobs/sha256/{sha256}")
}

/// The same content in one zstd frame, for slow lines; it need not be there.
#[must_use]
pub fn packed_blob(sha256: &Sha256) -> String {
    format!("{}.zst", blob(sha256))
}

/// The one signature beside a file.
#[must_use]
pub fn signature(path: &str) -> String {
    format!("{path}.minisig")
}

/// One of several signatures beside a file, where more than one key must sign.
#[must_use]
pub fn signature_by(path: &str, key: KeyId) -> String {
    format!("{path}.{key}.minisig")
}

/// Reads a `latest` file: one serial in decimal, with or without a line break.
#[must_use]
pub fn parse_latest(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let digits = text.strip_suffix('\n').unwrap_or(text);
    let good = (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if good { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn latest_is_one_number() {
        assert_eq!(parse_latest(b"1763625600\n"), Some(1_763_625_600));
        for bad in ["", "\n", " 1", "+1", "1\n\n", "<html>", "99999999999999999999"] {
            assert_eq!(parse_latest(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn paths_are_those_of_the_site_layout() {
        let name: Name = "zos-prod".parse().unwrap();
        assert_eq!(signature(&list(&name, Arch::Amd64, 7)), "bundles/zos-prod/amd64/7.mtree.minisig");
        assert_eq!(bundle_latest(&name, Arch::Arm64), "bundles/zos-prod/arm64/latest");
        assert_eq!(config(&name, 7), "configs/zos-prod/7.json");
        assert_eq!(signature_by("a", KeyId([1, 0, 0, 0, 0, 0, 0, 0xff])), "a.FF00000000000001.minisig");
    }
}
