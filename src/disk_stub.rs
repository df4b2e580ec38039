//! Stands in for `disk` until it is merged: takes a partition by its name, and makes none.

use zstrap_formats::config::Root;

use crate::fail::{Code, Refusal};
use crate::sys::{Mount, System};

pub const MOUNT: &str = "/disk";

pub struct Disk {
    name: String,
}

impl Disk {
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn size(&self) -> u64 {
        0
    }
    pub fn is_read_only(&self) -> bool {
        false
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no disk")]
pub struct Kept;

impl Refusal for Kept {
    fn code(&self) -> Code {
        Code::RootIo
    }
}

pub fn find(system: &dyn System) -> Option<Disk> {
    use rustix::mount::MountFlags;
    let entries = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let is_ours = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path.join("uevent")).unwrap_or_default();
        text.lines().any(|line| line == "PARTNAME=zstrap-cache")
    };
    let entry = entries.map(|entry| entry.path()).find(|path| is_ours(path))?;
    let name = entry.file_name()?.to_str()?.to_owned();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let device = format!("/dev/{name}");
    std::fs::create_dir_all(MOUNT).ok()?;
    let _ = system;
    rustix::mount::mount(&device, MOUNT, "ext4", flags, c"errors=remount-ro").ok()?;
    log::info!(target: "disk", "found name={name} size=0MiB");
    let _: Option<Mount<'_>> = None;
    Some(Disk { name })
}

pub fn prepare(_: &dyn System, _: &Root, found: Option<Disk>) -> Result<Disk, Kept> {
    found.ok_or(Kept)
}
