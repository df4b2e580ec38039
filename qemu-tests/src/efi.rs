//! EFI firmware for machines, with variables that outlive them.
//!
//! In: the firmware that the package `ovmf` installs. Out: a [`Firmware`] with variables of its own; the machines that are
//! made with it, one after the other, are one machine that was reset in between. Failure: the package is not installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::vm::VmBuilder;

const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// A firmware whose variables are kept.
pub struct Firmware {
    folder: TempDir,
}

impl Firmware {
    /// Fresh from the factory.
    pub fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("zstrap-efi-").context("making the folder of a firmware")?;
        let firmware = Self { folder };
        let copied = std::fs::copy(VARIABLES, firmware.variables());
        copied.with_context(|| format!("copying {VARIABLES} of the package ovmf: run scripts/setup"))?;
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
        let (code, variables) = (flash(0, ",readonly=on", Path::new(CODE)), flash(1, "", &self.variables()));
        machine.arguments(&["-drive", &code, "-drive", &variables])
    }
}
