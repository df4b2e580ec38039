//! Writes the running root to a disk, for a judge outside: the disk with the serial number `dump`, which is overwritten.
//!
//! In: the root, without what is mounted on it. Out: a cpio archive (`newc`) from the first byte of that disk on.
//! Failure: the error of the first file that can't be read or written.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

/// The serial number of the disk that is written to.
const SERIAL: &str = "dump";

/// Where the root is seen as it is below what is mounted on it.
const VIEW: &str = "/run/zstrap-view";

/// Writes the root; returns how many files, folders and links it has, itself included.
pub fn root() -> io::Result<u32> {
    let disk = disk()?;
    fs::create_dir_all(VIEW)?;
    mount_bind("/", VIEW)?;
    let written = write_all(&disk);
    unmount(VIEW, UnmountFlags::empty())?;
    written
}

fn disk() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        let serial = fs::read_to_string(Path::new("/sys/block").join(&name).join("serial"));
        if serial.is_ok_and(|serial| serial.trim() == SERIAL) {
            return Ok(Path::new("/dev").join(name));
        }
    }
    Err(io::Error::other("there is no disk with that serial number"))
}

fn write_all(disk: &Path) -> io::Result<u32> {
    let disk = File::options().write(true).open(disk)?;
    let mut archive = Archive { out: BufWriter::with_capacity(1 << 20, &disk), members: 0 };
    archive.tree(Path::new(VIEW), b".")?;
    let count = archive.members;
    archive.header(b"TRAILER!!!", None, 0)?;
    archive.out.flush()?;
    disk.sync_all()?;
    Ok(count)
}

struct Archive<W> {
    out: W,
    members: u32,
}

impl<W: Write> Archive<W> {
    fn tree(&mut self, path: &Path, name: &[u8]) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        self.members += 1;
        if meta.is_dir() {
            self.header(name, Some(&meta), 0)?;
            for entry in fs::read_dir(path)? {
                let entry = entry?.file_name();
                self.tree(&path.join(&entry), &[name, b"/", entry.as_bytes()].concat())?;
            }
            return Ok(());
        }
        let content = match meta.is_symlink() {
            true => fs::read_link(path)?.as_os_str().as_bytes().to_vec(),
            false if meta.is_file() => fs::read(path)?,
            false => Vec::new(),
        };
        self.header(name, Some(&meta), content.len())?;
        self.out.write_all(&content)?;
        self.pad(content.len())
    }

    /// Thirteen numbers and the name; no files share an inode here, and times are nobody's business.
    fn header(&mut self, name: &[u8], meta: Option<&Metadata>, size: usize) -> io::Result<()> {
        let (mode, uid, gid) = meta.map_or((0, 0, 0), |meta| (meta.mode(), meta.uid(), meta.gid()));
        let size = u32::try_from(size).map_err(|_| io::Error::other("a file of 4 GiB"))?;
        let length = name.len() as u32 + 1;
        let numbers = [self.members, mode, uid, gid, 1, 0, size, 0, 0, 0, 0, length, 0];
        let text: String = numbers.iter().map(|number| format!("{number:08x}")).collect();
        self.out.write_all(&[b"070701", text.as_bytes(), name, b"\0"].concat())?;
        self.pad(6 + text.len() + name.len() + 1)
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}
