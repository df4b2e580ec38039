//! The verbs by which stages change the machine: everything the init does to the outside passes here.
//!
//! Stages take `&dyn System`, so a test can hand them one that only records, and "nothing is written when the
//! signature is bad" becomes an assertion on a list of calls. [`linux`] is the real one.

mod backtrace;
pub mod block;
mod descriptors;
pub mod efi;
#[cfg(test)]
pub mod fake;
pub mod linux;
pub mod names;
pub mod priority;
pub mod tty;
pub mod watchdog;

use std::ffi::CString;
use std::io::{self, Write};
use std::path::Path;

use rustix::mount::MountFlags;

use crate::disk::block::Block;

/// For file systems that hold no programs.
pub const NO_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// One mount(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// File system type.
    pub kind: &'a str,
    /// Mount point; made if missing.
    pub target: &'a str,
    /// `nosuid`, `nodev`, …
    pub flags: MountFlags,
    /// Options of the file system.
    pub options: &'a str,
}

/// Owner and permissions of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How the machine ends this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Start again from the firmware.
    Reboot,
    /// Switch off.
    PowerOff,
    /// Stop the processor.
    Halt,
}

/// What takes over as PID 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Path below the root.
    pub path: CString,
    /// Arguments, the program's name first.
    pub argv: Vec<CString>,
    /// `NAME=value` each.
    pub env: Vec<CString>,
}

/// What the init does to the machine.
pub trait System: Sync {
    /// Mounts a file system, making its mount point if there is none.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn mount(&self, mount: &Mount<'_>) -> io::Result<()>;

    /// Mounts a file system on a directory below `root`, whatever links stand on the way. The mount's target is
    /// relative to that root.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn mount_below(&self, root: &str, mount: &Mount<'_>) -> io::Result<()>;

    /// Moves a mount to a directory below `root`.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn move_mount(&self, from: &str, root: &str, to: &str) -> io::Result<()>;

    /// Lays a file over a plain file below `root`; a missing file, a link or a directory is left as it is.
    /// Whether it was laid is the answer.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn bind_over(&self, file: &str, root: &str, path: &str) -> io::Result<bool>;

    /// Shows a directory of a mount at a directory below `root`, whatever links stand on the way there, with the flags
    /// of that mount.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn bind_below(&self, dir: &str, root: &str, path: &str) -> io::Result<()>;

    /// Takes away whatever is mounted at `target`; nothing there is fine.
    fn unmount(&self, target: &str);

    /// Writes a small file of the init's own.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn write_file(&self, path: &str, mode: u16, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file of the init's own.
    ///
    /// # Errors
    /// The kernel's refusal; `NotFound` where there is none.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Copies a file of the init's own.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn copy_file(&self, from: &str, to: &str, mode: u16) -> io::Result<()>;

    /// Gives a file of the init's own a second name.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn link_file(&self, from: &str, to: &str) -> io::Result<()>;

    /// Opens a freshly mounted root to fill it.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn open_root(&self, path: &str) -> io::Result<Box<dyn RootDir>>;

    /// Bytes of memory that could be used without swapping.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn memory_available(&self) -> io::Result<u64>;

    /// Deletes the initramfs and makes `root` the root, with the working directory there.
    ///
    /// # Errors
    /// The kernel's refusal; the initramfs may be empty by then.
    fn switch_root(&self, root: &str) -> io::Result<()>;

    /// The disks of the machine.
    fn disks(&self) -> Vec<Block>;

    /// Whether the kernel has the driver of this file system, built in or loaded.
    fn has_file_system(&self, kind: &str) -> bool;

    /// Tells the kernel of a partition, or of its new size: offset and length in bytes.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn set_partition(&self, disk: &Block, number: u32, start: u64, length: u64) -> io::Result<()>;

    /// Mounts the file system of a device, making the mount point if there is none.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn mount_device(&self, device: &Path, mount: &Mount<'_>) -> io::Result<()>;

    /// Grows the ext4 that is mounted at `mount` to so many blocks.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn grow_ext4(&self, mount: &str, blocks: u64) -> io::Result<()>;

    /// Gives the ext4 that is mounted at `mount` this UUID.
    ///
    /// # Errors
    /// The kernel's refusal; kernels before 6.0 know no such call.
    fn name_ext4(&self, mount: &str, uuid: [u8; 16]) -> io::Result<()>;

    /// Has the kernel's packet filter take a batch of rules, as a whole.
    ///
    /// # Errors
    /// The kernel's refusal; none of them is in effect then.
    fn load_rules(&self, batch: &[u8]) -> io::Result<()>;

    /// Replaces this program: signals and descriptors as a new program expects them.
    ///
    /// # Errors
    /// Only returns when the program cannot be run.
    fn exec(&self, program: &Program) -> io::Error;
}

/// A root that is being filled. Paths are raw bytes below it, and can lead nowhere else.
pub trait RootDir: Send + Sync {
    /// Makes a directory, or gives an existing one these owner and permissions.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn make_dir(&self, path: &[u8], meta: Meta) -> io::Result<()>;

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn make_link(&self, path: &[u8], target: &[u8], meta: Meta) -> io::Result<()>;

    /// Begins a file that has no name until it is committed: what is dropped before never was.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn create(&self, path: &[u8]) -> io::Result<Box<dyn NewFile>>;

    /// Makes a file that has its content in the next lower layer of an overlay, at this path from that layer's root
    /// (Documentation/filesystems/overlayfs.rst, "Metadata only copy up").
    ///
    /// # Errors
    /// The kernel's refusal.
    fn make_stub(&self, path: &[u8], content: &str, size: u64, meta: Meta) -> io::Result<()>;

    /// Hides what lower layers of an overlay have at this path.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn hide(&self, path: &[u8]) -> io::Result<()>;

    /// Reads a finished file, to copy it.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn read(&self, path: &[u8]) -> io::Result<Box<dyn io::Read>>;

    /// Whether the path names a directory, links followed inside the root.
    fn is_dir(&self, path: &[u8]) -> bool;

    /// Whether the path names a regular file that may be executed, links followed inside the root.
    fn is_executable(&self, path: &[u8]) -> bool;
}

/// A file that has no name yet.
pub trait NewFile: Write + Send {
    /// Throws away what was written so far.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn restart(&mut self) -> io::Result<()>;

    /// Gives the file its name, owner and permissions.
    ///
    /// # Errors
    /// The kernel's refusal, also when the name is taken.
    fn commit(self: Box<Self>, meta: Meta) -> io::Result<()>;
}
