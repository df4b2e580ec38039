//! Whether a file can be the init: a wrong one would end in a kernel panic on the node.
//!
//! In: the bytes of a program. Out: nothing. Failure: no ELF program, another architecture, or one that asks
//! for a loader, which no initramfs of ours has.

use anyhow::{Context, ensure};
use object::Endianness;
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use zstrap_formats::name::Arch;

/// Checks that `bytes` is a static program for `arch`.
pub(crate) fn check_static(bytes: &[u8], arch: Arch) -> anyhow::Result<()> {
    let header = FileHeader64::<Endianness>::parse(bytes).context("init: expected an ELF program")?;
    let endian = header.endian().context("init: expected an ELF program")?;
    let machine = match arch {
        Arch::Amd64 => EM_X86_64,
        Arch::Arm64 => EM_AARCH64,
    };
    ensure!(header.e_machine(endian) == machine, "init: expected an ELF program for {arch}");
    let segments = header.program_headers(endian, bytes).context("init: reading its program headers")?;
    let asks_for_loader = segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP);
    ensure!(!asks_for_loader, "init: expected a static program, found one that asks for a loader");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refuses_a_dynamic_program_and_another_architecture() {
        // Any program of a Debian host asks for a loader.
        let own = std::fs::read("/proc/self/exe").unwrap();
        let (native, other) = match Arch::native().unwrap() {
            Arch::Amd64 => (Arch::Amd64, Arch::Arm64),
            Arch::Arm64 => (Arch::Arm64, Arch::Amd64),
        };
        assert!(check_static(&own, native).unwrap_err().to_string().contains("expected a static program"));
        assert!(check_static(&own, other).unwrap_err().to_string().ends_with(&format!("for {other}")));
    }

    #[test]
    fn refuses_a_script() {
        assert_eq!(
            check_static(b"#!/bin/sh\n", Arch::Amd64).unwrap_err().to_string(),
            "init: expected an ELF program"
        );
    }
}
