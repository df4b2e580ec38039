//! EFI firmware for machines, with variables that outlive them.
//!
//! In: the firmware that the packages `ovmf` and `qemu-efi-aarch64` install. Out: a [`Firmware`] with variables of its
//! own; the machines that are made with it, one after the other, are one machine that was reset in between. Failure: the
//! packages are not installed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use zstrap_formats::name::Arch;

use crate::artefacts;
use crate::boot::BOUND;
use crate::site::Scene;
use crate::vm::{Reason, Vm, VmBuilder};

/// Emulated EFI firmware is slow.
pub const EFI_BOUND: Duration = Duration::from_secs(60 + BOUND.as_secs());

/// The first pause is 2 s, less a quarter at most.
const TWO_SECONDS: &str = "zstrap.tries=1 zstrap.reboot_after=2";

/// Of this run's architecture: the firmware's code, and its variables as they leave the factory.
fn files() -> [&'static str; 2] {
    match artefacts::arch() {
        Arch::Amd64 => ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"],
        Arch::Arm64 => ["/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"],
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
        let (firmware, [_, variables]) = (Self { folder }, files());
        let copied = std::fs::copy(variables, firmware.variables());
        copied.with_context(|| format!("copying {variables} of EFI firmware: run scripts/setup"))?;
        Ok(firmware)
    }

    fn variables(&self) -> PathBuf {
        self.folder.path().join("variables.fd")
    }

    /// The machine with this firmware.
    #[must_use]
    pub fn boots(&self, machine: VmBuilder) -> VmBuilder {
        let flash = |unit: u32, more: &str, file: &Path| {
            format!("if=pflash,format=raw,unit={unit}{more},file={}", file.display())
        };
        let [code, _] = files();
        let (code, variables) = (flash(0, ",readonly=on", Path::new(code)), flash(1, "", &self.variables()));
        machine.arguments(&["-drive", &code, "-drive", &variables])
    }
}

/// Boots a scene that fails: which boot loop the machine says it is in, and for how many seconds it pauses.
pub fn fails(firmware: &Firmware, scene: &Scene) -> Result<(u32, u64)> {
    let mut vm = firmware.boots(scene.machine()?.append(TWO_SECONDS)).start()?;
    vm.expect_exit(&Reason::Reset, EFI_BOUND)?;
    said(&vm)
}

fn said(vm: &Vm) -> Result<(u32, u64)> {
    let line = vm.assert_line("] fail: rebooting in *s, boot loop ")?.text;
    let words: Vec<&str> = line.split(' ').collect();
    let number = words.last().and_then(|word| word.parse().ok());
    let seconds = words.iter().find_map(|word| word.strip_suffix("s,")?.parse().ok());
    number.zip(seconds).with_context(|| format!("no numbers in {line}"))
}
