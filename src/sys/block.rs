//! What the kernel does to disks beyond reading and writing: ioctls of partitions (linux/blkpg.h) and of ext4
//! (Documentation/filesystems/ext4).
//!
//! In: paths. Out: nothing. Failure: the kernel's refusal.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `BLKPG`.
const BLKPG: Opcode = opcode::none(0x12, 105);
const ADD: c_int = 1;
const DELETE: c_int = 2;
const RESIZE: c_int = 3;
/// `EXT4_IOC_RESIZE_FS`: to so many blocks.
const RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
/// `EXT4_IOC_SETFSUUID`.
const SET_UUID: Opcode = opcode::write::<FsUuidHeader>(b'f', 44);

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Change {
    op: c_int,
    flags: c_int,
    length: c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition`, in bytes.
#[repr(C)]
struct Extent {
    start: i64,
    length: i64,
    number: c_int,
    name: [u8; 64],
    volume: [u8; 64],
}

/// `struct fsuuid` without its flexible end.
#[repr(C)]
struct FsUuidHeader {
    length: u32,
    flags: u32,
}

#[repr(C)]
struct FsUuid {
    header: FsUuidHeader,
    uuid: [u8; 16],
}

/// Tells the kernel of the partition of this number, whatever it has believed of it: offset and length in bytes. One that
/// is mounted can grow.
///
/// # Errors
/// The kernel's refusal.
pub fn set_partition(disk: &Path, number: u32, start: u64, length: u64, is_known: bool) -> io::Result<()> {
    let file = File::open(disk)?;
    let change = |op| change_partition(&file, op, number, start, length);
    if !is_known {
        return change(ADD);
    }
    // It can only be changed in size, and one elsewhere is another.
    change(RESIZE).or_else(|_| change(DELETE).and_then(|()| change(ADD)))
}

fn change_partition(disk: &File, op: c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let signed = |n: u64| i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let number = c_int::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut extent =
        Extent { start: signed(start)?, length: signed(length)?, number, name: [0; 64], volume: [0; 64] };
    let change =
        Change { op, flags: 0, length: size_of::<Extent>() as c_int, data: (&raw mut extent).cast() };
    // SAFETY: this number is that of BLKPG, which reads a blkpg_ioctl_arg and the blkpg_partition behind its pointer;
    // both outlive the call.
    unsafe { ioctl(disk, Setter::<BLKPG, Change>::new(change)) }?;
    Ok(())
}

/// Grows the ext4 that is mounted there to so many blocks.
///
/// # Errors
/// The kernel's refusal.
pub fn grow_ext4(mount: &str, blocks: u64) -> io::Result<()> {
    // SAFETY: this number is that of EXT4_IOC_RESIZE_FS, which reads 64 bits.
    unsafe { ioctl(File::open(mount)?, Setter::<RESIZE_FS, u64>::new(blocks)) }?;
    Ok(())
}

/// Gives the ext4 that is mounted there this UUID.
///
/// # Errors
/// The kernel's refusal; kernels before 6.0 know no such call.
pub fn name_ext4(mount: &str, uuid: [u8; 16]) -> io::Result<()> {
    let uuid = FsUuid { header: FsUuidHeader { length: 16, flags: 0 }, uuid };
    // SAFETY: this number is that of EXT4_IOC_SETFSUUID, which reads an fsuuid with as many bytes as its length says.
    unsafe { ioctl(File::open(mount)?, Setter::<SET_UUID, FsUuid>::new(uuid)) }?;
    Ok(())
}
