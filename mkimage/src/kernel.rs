//! What a kernel file says of itself, as far as images need it.
//!
//! In: the bytes of a kernel. Out: its architecture and, for x86, its release. Failure: [`identify`] gives
//! `None` for what no boot loader would take.

use zstrap_formats::name::Arch;

/// "HdrS", the mark of the x86 boot protocol (Linux `Documentation/arch/x86/boot.rst`).
const X86_MARK: (usize, &[u8]) = (0x202, b"HdrS");
/// Where the pointer to the release's text stands, less [`X86_SETUP`].
const X86_RELEASE_POINTER: usize = 0x20e;
const X86_SETUP: usize = 0x200;
/// The mark of an arm64 `Image` (Linux `Documentation/arch/arm64/booting.rst`).
const ARM64_MARK: (usize, &[u8]) = (0x38, b"ARM\x64");
/// A compressed `Image` that is an EFI program (`vmlinuz.efi`): its mark, then the word for the compression.
const EFI_ZBOOT_MARK: (usize, &[u8]) = (0x4, b"zimg");

/// A kernel that boot loaders take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// The architecture it is for.
    pub arch: Arch,
    /// Its release (`uname -r`), where the file says so.
    pub release: Option<String>,
}

/// Reads the head of a kernel file.
#[must_use]
pub fn identify(kernel: &[u8]) -> Option<KernelFile> {
    let has = |(offset, mark): (usize, &[u8])| kernel.get(offset..offset + mark.len()) == Some(mark);
    if has(X86_MARK) {
        return Some(KernelFile { arch: Arch::Amd64, release: x86_release(kernel) });
    }
    (has(ARM64_MARK) || has(EFI_ZBOOT_MARK)).then_some(KernelFile { arch: Arch::Arm64, release: None })
}

fn x86_release(kernel: &[u8]) -> Option<String> {
    let pointer = kernel.get(X86_RELEASE_POINTER..X86_RELEASE_POINTER + 2)?;
    let offset = usize::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    if offset == 0 {
        return None;
    }
    let text = kernel.get(offset + X86_SETUP..)?.split(|byte| *byte == 0 || *byte == b' ').next()?;
    String::from_utf8(text.to_vec()).ok().filter(|release| !release.is_empty() && release.len() < 128)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn x86() -> Vec<u8> {
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        kernel[0x300..0x314].copy_from_slice(b"6.1.0-9-cloud (x) #1");
        kernel
    }

    #[test]
    fn reads_the_release_of_an_x86_kernel() {
        let found = identify(&x86()).unwrap();
        assert_eq!(found, KernelFile { arch: Arch::Amd64, release: Some("6.1.0-9-cloud".to_owned()) });
    }

    #[test]
    fn survives_a_pointer_past_the_end() {
        let mut kernel = x86();
        kernel[0x20e..0x210].copy_from_slice(&0xffffu16.to_le_bytes());
        assert_eq!(identify(&kernel).unwrap().release, None);
    }

    #[test]
    fn knows_an_arm64_image() {
        let mut kernel = vec![0; 0x100];
        kernel[0x38..0x3c].copy_from_slice(b"ARMd");
        assert_eq!(identify(&kernel).unwrap().arch, Arch::Arm64);
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert_eq!(identify(b"<html>"), None);
        assert_eq!(identify(&[0; 4096]), None);
    }
}
