//! A folder that boots over the network: kernel, initramfs and the iPXE script that loads them.
//!
//! In: a kernel, an init, modules and an identity. Out: the folder: `kernel`, `initramfs`, `boot.ipxe`,
//! `image.json`, `SHA256SUMS`; the same input gives the same bytes. Failure: a kernel of another architecture
//! or release than the modules; what [`crate::initramfs`] refuses; a target that holds something else.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use zstrap_formats::name::Arch;

use crate::describe::{IMAGE_JSON, Image};
use crate::modules::ModuleSet;
use crate::{folder, initramfs, kernel, program};

/// What iPXE would not pass on to the kernel as it stands: quotes, settings, ends of commands, comments.
const IPXE_SYNTAX: &str = "\"'\\$|&;#";

/// Seconds for a person to read what a kernel has said that panicked. A later `panic=` of the appended words wins.
const PANIC: u32 = 30;
/// How what gzip has packed begins: an arm64 kernel may come as `Image.gz`.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What an image is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The architecture asked for.
    pub arch: Arch,
    /// The kernel's bytes.
    pub kernel: &'a [u8],
    /// The init's bytes, a static program for the same architecture.
    pub init: &'a [u8],
    /// The modules of this kernel, or an empty set.
    pub modules: &'a ModuleSet,
    /// The payload of the identity slot.
    pub identity: &'a [u8],
    /// More words for the kernel command line, or nothing.
    pub cmdline_append: &'a str,
}

/// Writes the image as the folder `target`, and says what it consists of.
///
/// # Errors
/// See the head of this file.
pub fn write(parts: &Parts<'_>, target: &Path) -> anyhow::Result<Image> {
    check_kernel(parts)?;
    program::check_static(parts.init, parts.arch)?;
    let initramfs = initramfs::build(parts.init, parts.modules, parts.identity)?;
    let cmdline = cmdline(parts.arch, parts.cmdline_append)?;
    let image = Image::netboot(parts.arch.as_str(), &cmdline, initramfs.slot_offset);
    let (script, json) = (ipxe_script(&image), image.to_json());
    let files: [(&str, &[u8]); 4] = [
        (&image.kernel, parts.kernel),
        (&image.initramfs, &initramfs.bytes),
        ("boot.ipxe", script.as_bytes()),
        (IMAGE_JSON, json.as_bytes()),
    ];
    folder::write(target, &files)?;
    Ok(image)
}

fn check_kernel(parts: &Parts<'_>) -> anyhow::Result<()> {
    // QEMU would take it, boot loaders do not.
    ensure!(!parts.kernel.starts_with(GZIP), "kernel: packed by gzip, expected it unpacked (gunzip)");
    let kernel = kernel::identify(parts.kernel).context("kernel: neither a bzImage nor an arm64 Image")?;
    ensure!(kernel.arch == parts.arch, "kernel is for {}, expected {}", kernel.arch, parts.arch);
    if let (Some(kernel), Some(modules)) = (&kernel.release, &parts.modules.release) {
        ensure!(kernel == modules, "modules are for kernel {modules}, but the kernel is {kernel}");
    }
    Ok(())
}

/// Both consoles a node may have: the last one named becomes /dev/console. A kernel that panics, also before the init
/// could say so, has to come back.
fn cmdline(arch: Arch, append: &str) -> anyhow::Result<String> {
    let line_breaks = append.contains(|c: char| c.is_control());
    ensure!(!line_breaks, "command line {append:?}: expected no control characters");
    if let Some(found) = append.chars().find(|c| IPXE_SYNTAX.contains(*c)) {
        bail!("command line {append:?}: {found} is syntax of iPXE, expected none of {IPXE_SYNTAX}");
    }
    let serial = match arch {
        Arch::Amd64 => "ttyS0",
        Arch::Arm64 => "ttyAMA0",
    };
    Ok(format!("console=tty0 console={serial},115200 quiet panic={PANIC} {append}").trim_end().to_owned())
}

/// Names relative to the script's own URL. `initrd=` tells EFI kernels which of iPXE's files is theirs.
fn ipxe_script(image: &Image) -> String {
    let Image { kernel, initramfs, cmdline, .. } = image;
    format!(
        "#!ipxe\n\
         kernel {kernel} initrd={initramfs} {cmdline} || goto failed\n\
         initrd {initramfs} || goto failed\n\
         boot || goto failed\n\
         \n\
         :failed\n\
         echo zstrap: the image could not be loaded, back to the firmware in 10 s\n\
         sleep 10\n\
         exit 1\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_script_loads_both_files_with_the_command_line() {
        let image = Image::netboot("amd64", &cmdline(Arch::Amd64, "zstrap.log=debug").unwrap(), 4096);
        let script = ipxe_script(&image);
        let expected = "#!ipxe\nkernel kernel initrd=initramfs console=tty0 console=ttyS0,115200 quiet panic=30 zstrap.log=debug || goto failed\ninitrd initramfs || goto failed\nboot || goto failed\n";
        assert!(script.starts_with(expected), "{script}");
    }

    #[test]
    fn refuses_a_command_line_that_would_break_the_script() {
        assert!(cmdline(Arch::Amd64, "a\nshell").is_err());
        for found in ['"', '\'', '\\', '$', '|', '&', ';', '#'] {
            let error = cmdline(Arch::Amd64, &format!("a{found}b")).unwrap_err().to_string();
            assert!(error.contains(&format!(": {found} is syntax of iPXE")), "{error}");
        }
        assert_eq!(cmdline(Arch::Arm64, "").unwrap(), "console=tty0 console=ttyAMA0,115200 quiet panic=30");
    }
}
