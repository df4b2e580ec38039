//! What a kernel file says of itself, as far as images need it.
//!
//! In: the bytes of a kernel. Out: its architecture and its release, where it can be read. Failure: [`identify`] gives
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
/// What stands before the release in an uncompressed kernel (Linux `init/version-timestamp.c`).
const BANNER: &[u8] = b"Linux version ";
/// Longer ones no kernel has (`__NEW_UTS_LEN` is 64).
const LONGEST_RELEASE: usize = 128;

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
    if has(ARM64_MARK) {
        return Some(KernelFile { arch: Arch::Arm64, release: banner_release(kernel) });
    }
    has(EFI_ZBOOT_MARK).then_some(KernelFile { arch: Arch::Arm64, release: None })
}

fn x86_release(kernel: &[u8]) -> Option<String> {
    let pointer = kernel.get(X86_RELEASE_POINTER..X86_RELEASE_POINTER + 2)?;
    let offset = usize::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    if offset == 0 {
        return None;
    }
    first_word(kernel.get(offset + X86_SETUP..)?)
}

/// An arm64 `Image` has no field for it, but says it when it starts.
fn banner_release(kernel: &[u8]) -> Option<String> {
    let at = kernel.windows(BANNER.len()).position(|window| window == BANNER)?;
    // The text may as well stand in a format: then a `%` follows.
    first_word(&kernel[at + BANNER.len()..]).filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

fn first_word(text: &[u8]) -> Option<String> {
    let text = &text[..text.len().min(LONGEST_RELEASE)];
    let word = text.split(|byte| *byte == 0 || *byte == b' ').next()?;
    let whole = !word.is_empty() && word.len() < text.len();
    String::from_utf8(word.to_vec()).ok().filter(|_| whole)
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
        assert_eq!(identify(&kernel).unwrap(), KernelFile { arch: Arch::Arm64, release: None });
    }

    #[test]
    fn reads_the_release_of_an_arm64_image() {
        let mut kernel = vec![0; 0x100];
        kernel[0x38..0x3c].copy_from_slice(b"ARMd");
        let with = |text: &[u8]| identify(&[&kernel, text].concat()).unwrap().release;
        assert_eq!(
            with(b"xLinux version 6.1.0-9-cloud-arm64 (x) #1").as_deref(),
            Some("6.1.0-9-cloud-arm64")
        );
        assert_eq!(with(b"Linux version %s (x)"), None);
        assert_eq!(with(b"Linux version 6.1"), None);
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert_eq!(identify(b"<html>"), None);
        assert_eq!(identify(&[0; 4096]), None);
    }
}
