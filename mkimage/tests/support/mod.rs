//! What the image maker's tests share: the kernel that `make build` unpacks, and running the judges.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::path::PathBuf;
use std::process::{Command, Output};

use zstrap_formats::name::Arch;
use zstrap_mkimage::modules::ModuleSet;
use zstrap_mkimage::netboot::Parts;

fn kernel_folder(arch: Arch) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../out/kernel/{arch}"));
    assert!(folder.join("vmlinuz").is_file(), "{} is empty: run `make build` first", folder.display());
    folder
}

/// The kernel that `make build` unpacks for amd64.
pub fn kernel() -> Vec<u8> {
    kernel_of(Arch::Amd64)
}

/// The same for an architecture.
pub fn kernel_of(arch: Arch) -> Vec<u8> {
    std::fs::read(kernel_folder(arch).join("vmlinuz")).unwrap()
}

/// Its modules: the one `lib/modules/VERSION` folder.
pub fn kernel_modules() -> PathBuf {
    kernel_modules_of(Arch::Amd64)
}

/// The same for an architecture.
pub fn kernel_modules_of(arch: Arch) -> PathBuf {
    let modules = kernel_folder(arch).join("modules");
    let mut versions = std::fs::read_dir(&modules).unwrap().map(|entry| entry.unwrap().path());
    let version = versions.next().expect("one version of the kernel");
    assert_eq!(versions.next(), None, "two versions in {}", modules.display());
    version
}

/// A static program for amd64, as far as images look: the header of an ELF file without segments, and content.
pub fn init() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2; // ET_EXEC
    elf[18] = 62; // EM_X86_64
    elf[20] = 1; // EV_CURRENT
    elf[52] = 64; // e_ehsize
    elf.extend((64..64 * 1024).map(|i: u32| ((i * 7) >> 3) as u8));
    elf
}

pub fn parts<'a>(kernel: &'a [u8], init: &'a [u8], modules: &'a ModuleSet, identity: &'a [u8]) -> Parts<'a> {
    Parts { arch: Arch::Amd64, kernel, init, modules, identity, cmdline_append: "" }
}

/// A judge that speaks English and UTC, wherever the tests run.
pub fn plain(command: &mut Command) -> &mut Command {
    command.env("LC_ALL", "C").env("TZ", "UTC").env_remove("LANGUAGE")
}

/// Runs a judge that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = plain(command).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Replaces every occurrence by something of the same length.
pub fn replace_all(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|place| bytes[place..place + to.len()].copy_from_slice(to));
}
