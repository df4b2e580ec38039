//! The peer: an initramfs with busybox and a script in place of our init.
//!
//! In: busybox of the demo's tree (Debian's static one), the kernel's modules, the names of those to load. Out:
//! the bytes of an initramfs. Failure: a part that is missing is named.

use std::fs;

use anyhow::{Context, Result};
use zstrap_formats::cpio::Archive;
use zstrap_mkimage::modules::{Patterns, select};
use zstrap_qemu_tests::artefacts;

/// The script that is PID 1, and the one that udhcpc calls.
const INIT: &str = include_str!("peer-init");
const LEASE: &str = include_str!("peer-lease");

/// busybox, below `out/`.
pub const BUSYBOX: &str = "demo-tree/amd64/bin/busybox";

/// The programs that the scripts call.
const APPLETS: [&str; 14] = [
    "sh",
    "mount",
    "insmod",
    "ip",
    "udhcpc",
    "wget",
    "md5sum",
    "sha256sum",
    "mkdir",
    "chmod",
    "switch_root",
    "dmesg",
    "sed",
    "poweroff",
];

/// What a script that loads modules, mounts and fetches needs to find.
const FOLDERS: [&str; 8] = ["bin", "dev", "etc", "modules", "newroot", "proc", "sys", "run"];

/// Packs the initramfs. `modules` are file names such as `virtio_net.ko`, in the order to load them: the script
/// knows beforehand what our init has to find out.
pub fn initramfs(modules: &[String]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in FOLDERS {
        archive.dir(folder, 0o755)?;
    }
    archive.char_device("dev/console", 0o600, 5, 1)?;
    archive.char_device("dev/null", 0o666, 1, 3)?;
    let busybox = artefacts::artefact(BUSYBOX)?;
    let busybox = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &busybox)?;
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("bin/lease", 0o755, LEASE.as_bytes())?;
    add_modules(&mut archive, modules)?;
    Ok(archive.finish(4))
}

fn add_modules(archive: &mut Archive, modules: &[String]) -> Result<()> {
    let set = select(&artefacts::modules()?, &Patterns::shipped()).context("selecting the peer's modules")?;
    for module in modules {
        let content = set.files.get(module).with_context(|| format!("no module {module} to load"))?;
        archive.file(&format!("modules/{module}"), 0o644, content)?;
    }
    let list: String = modules.iter().map(|module| format!("{module}\n")).collect();
    archive.file("etc/modules", 0o644, list.as_bytes()).context("packing the list of modules")
}
