//! The node's own partition: found, made on a disk that is free, grown, and never more than that.
//!
//! In: the disks of the machine, and what the signed config says of them. Out: a [`Disk`], which is our partition,
//! mounted at [`MOUNT`]. Failure: [`Kept`], which names each disk and what was found on it; nothing was written then.
//! docs/init.md tells what counts as free. A cut at any point leaves what the next boot takes up again.

pub mod block;
mod table;

use std::io;
use std::path::Path;
use std::time::Instant;

use rustix::mount::MountFlags;
use zstrap_formats::config;

use crate::fail::{Code, Refusal};
use crate::modules::Modules;
use crate::sys::{Mount, NO_EXEC, System};
use block::Block;
use table::Own;

/// Where our partition is mounted.
pub const MOUNT: &str = "/disk";
/// Modules that no device asks for; ext4 asks for its checksum by a way that needs modprobe(8).
const MODULES: [&str; 3] = ["crc32c_generic", "ext4", "overlay"];

/// Our partition, mounted at [`MOUNT`].
#[derive(Debug)]
pub struct Disk {
    own: Own,
    is_read_only: bool,
}

impl Disk {
    /// `vda1`.
    #[must_use]
    pub fn name(&self) -> String {
        self.own.name()
    }

    /// Of the partition, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.own.extent().1
    }

    /// Nothing can be written there.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }
}

/// Why no disk is used.
#[derive(Debug, thiserror::Error)]
pub enum Kept {
    /// None of them is free.
    #[error("no disk may be used: {0}")]
    None(String),
}

impl Refusal for Kept {
    fn code(&self) -> Code {
        Code::NoDisk
    }
}

/// Loads what it takes to mount our partition, if there is any disk. It may be called again when disks may have come.
pub fn load_modules(system: &dyn System, modules: &mut Modules) {
    if !system.disks().is_empty() {
        for module in MODULES {
            modules.load(module);
        }
    }
}

/// Our partition, as an earlier boot has made it; nothing is written but what its journal still has to. None when there
/// is none, or when there are several, of which only a config can choose.
pub fn find(system: &dyn System) -> Option<Disk> {
    let mut ours: Vec<Own> = system.disks().iter().flat_map(ours_of).collect();
    if ours.len() > 1 {
        let names: Vec<String> = ours.iter().map(Own::name).collect();
        log::warn!(target: "disk", "none why=several names={}: root.disk of the config can choose", names.join(","));
        return None;
    }
    let own = ours.pop()?;
    match mount(system, own) {
        Ok(disk) => {
            log::info!(target: "disk", "found name={} size={}MiB", disk.name(), disk.size() >> 20);
            Some(disk)
        }
        Err((own, error)) => {
            log::warn!(target: "disk", "not mounted name={} error={error}", own.name());
            None
        }
    }
}

/// What the signed config asks for.
///
/// # Errors
/// [`Kept`].
pub fn prepare(_: &dyn System, _: &config::Root, found: Option<Disk>) -> Result<Disk, Kept> {
    found.ok_or_else(|| Kept::None("making one is not there yet".to_owned()))
}

/// A disk that cannot be read has nothing of ours for now.
fn ours_of(disk: &Block) -> Vec<Own> {
    let read = || -> io::Result<Vec<Own>> {
        let found = table::find(&disk.open()?, disk)?;
        Ok(found.map(|found| table::own(disk, &found)).unwrap_or_default())
    };
    read().unwrap_or_else(|error| {
        log::warn!(target: "disk", "not read disk={} error={error}", disk.name);
        Vec::new()
    })
}

fn mount(system: &dyn System, own: Own) -> Result<Disk, (Own, io::Error)> {
    match mount_as(system, &own) {
        Ok(is_read_only) => Ok(Disk { own, is_read_only }),
        Err(error) => Err((own, error)),
    }
}

/// Whether it is mounted read-only.
fn mount_as(system: &dyn System, own: &Own) -> io::Result<bool> {
    let (start, length) = own.extent();
    // A table that was cut, and one that only we have read, are not known to the kernel.
    if own.disk.known_partition(own.partition.number) != Some((start, length)) {
        system.set_partition(&own.disk, own.partition.number, start, length)?;
    }
    let flags = NO_EXEC | MountFlags::NOATIME;
    let device = own.disk.device.with_file_name(own.name());
    let try_with = |flags, options| {
        let started = Instant::now();
        crate::watchdog::expect_within(table::DISK);
        let mount = Mount { kind: "ext4", target: MOUNT, flags, options };
        let result = system.mount_device(Path::new(&device), &mount);
        log::debug!(target: "disk", "mount options={options} after={:.3}s", started.elapsed().as_secs_f64());
        result
    };
    if !own.disk.is_read_only {
        return try_with(flags, "errors=remount-ro").map(|()| false);
    }
    let flags = flags | MountFlags::RDONLY;
    // A journal that cannot be replayed leaves what it would have changed as it was.
    try_with(flags, "errors=remount-ro")
        .or_else(|_| try_with(flags, "errors=remount-ro,noload"))
        .map(|()| true)
}
