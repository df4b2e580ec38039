//! EFI firmware for machines, with variables that outlive them.
//!
//! In: the firmware that the packages `ovmf` and `qemu-efi-aarch64` install. Out: a [`Firmware`] with variables of its own; the machines that are
//! made with it, one after the other, are one machine that was reset in between. Failure: the package of this run's
//! architecture is not installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use zstrap_formats::name::Arch;

use crate::artefacts;
use crate::vm::VmBuilder;

/// The code of the firmware, and its variables as they come from the factory.
fn parts() -> (&'static str, &'static str) {
    match artefacts::arch() {
        Arch::Amd64 => ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        Arch::Arm64 => ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    }
}

/// A firmware whose variables are kept.
pub struct Firmware {
    folder: TempDir,
}

impl Firmware {
    /// Fresh from the factory.
    pub fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("zstrap-efi-").context("making the folder of a firmware")?;
        let firmware = Self { folder };
        let (_, variables) = parts();
        let copied = std::fs::copy(variables, firmware.variables());
        copied.with_context(|| format!("copying the firmware's {variables}: run scripts/setup"))?;
        Ok(firmware)
    }

    fn variables(&self) -> PathBuf {
        self.folder.path().join("variables.fd")
    }

    /// The machine with this firmware in place of a BIOS.
    #[must_use]
    pub fn boots(&self, machine: VmBuilder) -> VmBuilder {
        let flash = |unit: u32, more: &str, file: &Path| {
            format!("if=pflash,format=raw,unit={unit}{more},file={}", file.display())
        };
        let (code, _) = parts();
        let (code, variables) = (flash(0, ",readonly=on", Path::new(code)), flash(1, "", &self.variables()));
        machine.arguments(&["-drive", &code, "-drive", &variables])
    }
}
