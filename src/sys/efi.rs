//! One variable of the EFI firmware: the only thing of a machine without disks that outlives a reset.
//!
//! In: bytes. Out: the same bytes after a reset. UEFI 2.10, section 8.2; the kernel's Documentation/filesystems/efivarfs.
//! Failure: no EFI, no driver, a firmware that refuses or is full. The file system is never attached to the tree of
//! files: nothing of it is left to see after the handoff, and it can be used wherever the mounts stand.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, IFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::loops::Store;

/// Name and vendor. The vendor is ours and nobody else's.
const NAME: &str = "ZstrapFailedBoots-0328ec85-cfac-43fb-9f3b-5a41be484d57";
/// It survives a reset, and both the boot services and the running system may use it.
const ATTRIBUTES: [u8; 4] = 7_u32.to_le_bytes();
/// More than we ever write there.
const MOST_BYTES: u64 = 64;

/// The variable, whether it is there or not.
pub struct Variable {
    folder: OwnedFd,
}

impl Variable {
    /// Mounts what the firmware has.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        let context = rustix::mount::fsopen("efivarfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let folder = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Self { folder })
    }

    fn file(&self, flags: OFlags) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(&self.folder, NAME, flags | OFlags::CLOEXEC, mode)?.into())
    }

    /// The kernel protects variables that it does not know from `rm -r`.
    fn unprotect(&self) -> io::Result<()> {
        let file = match self.file(OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let flags = rustix::fs::ioctl_getflags(&file)?;
        if flags.contains(IFlags::IMMUTABLE) {
            rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
        }
        Ok(())
    }
}

impl Store for Variable {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(OFlags::RDONLY)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
        // The attributes stand first.
        Ok(bytes.split_off(ATTRIBUTES.len().min(bytes.len())))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.unprotect()?;
        // One write(2) is one SetVariable(): the old value or the new one, never half of it.
        self.file(OFlags::WRONLY | OFlags::CREATE)?.write_all(&[&ATTRIBUTES, bytes].concat())
    }

    fn delete(&self) -> io::Result<()> {
        self.unprotect()?;
        Ok(rustix::fs::unlinkat(&self.folder, NAME, AtFlags::empty())?)
    }
}
