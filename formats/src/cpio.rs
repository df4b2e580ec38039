//! A writer of cpio archives in the `newc` format, as the kernel unpacks them into the initramfs
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! In: members in the order they shall be created. Out: bytes that depend on nothing else: times are zero,
//! owners are root, inode numbers count from 1. The kernel makes no parents, so directories come first.

/// The mode bits that say what a member is (`S_IFMT`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// The kernel skips members whose name field is longer (`PATH_MAX`).
const MAX_NAME_FIELD: usize = 4096;

/// A member that the format cannot hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpioError {
    /// Longer than 32 bits can say.
    #[error("member {name} has {size} bytes, expected less than 4 GiB")]
    TooBig {
        /// Its name.
        name: String,
        /// Its size in bytes.
        size: usize,
    },
    /// Empty, absolute, with a NUL, or longer than the kernel reads.
    #[error("member name {0:?} is empty, absolute, has a NUL byte or more than 4095 bytes")]
    Name(String),
    /// No name padding can bring the data to this boundary.
    #[error("data of member {name} cannot be aligned to {align} bytes at offset {offset}")]
    Alignment {
        /// Its name.
        name: String,
        /// Requested boundary.
        align: usize,
        /// Where its header stands.
        offset: usize,
    },
}

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An archive without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with these permission bits.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn dir(&mut self, name: &str, mode: u16) -> Result<(), CpioError> {
        self.member(name, DIRECTORY | u32::from(mode), (0, 0), &[], 0).map(drop)
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// [`CpioError::Name`], [`CpioError::TooBig`].
    pub fn file(&mut self, name: &str, mode: u16, data: &[u8]) -> Result<(), CpioError> {
        self.member(name, REGULAR | u32::from(mode), (0, 0), data, 0).map(drop)
    }

    /// Adds a regular file whose data begins at a multiple of `align` bytes from the start of the archive, and
    /// says where. The space comes from NUL bytes after its name, which the kernel and GNU cpio read past.
    ///
    /// # Errors
    /// [`CpioError`], [`CpioError::Alignment`] when the name field would grow beyond what the kernel reads.
    pub fn aligned_file(
        &mut self,
        name: &str,
        mode: u16,
        data: &[u8],
        align: usize,
    ) -> Result<usize, CpioError> {
        let begin = self.bytes.len();
        let earliest = begin + HEADER + name.len() + 1;
        let offset = earliest.next_multiple_of(align.max(4));
        let padding = offset - earliest;
        if name.len() + 1 + padding > MAX_NAME_FIELD {
            return Err(CpioError::Alignment { name: name.to_owned(), align, offset: begin });
        }
        self.member(name, REGULAR | u32::from(mode), (0, 0), data, padding)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn link(&mut self, name: &str, target: &str) -> Result<(), CpioError> {
        self.member(name, LINK | 0o777, (0, 0), target.as_bytes(), 0).map(drop)
    }

    /// Adds a character device, such as `/dev/console` (5, 1).
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn char_device(&mut self, name: &str, mode: u16, major: u32, minor: u32) -> Result<(), CpioError> {
        self.member(name, CHARACTER | u32::from(mode), (major, minor), &[], 0).map(drop)
    }

    /// Ends the archive and pads it with zeros to a multiple of `align` bytes.
    #[must_use]
    pub fn finish(mut self, align: usize) -> Vec<u8> {
        self.inode = 0;
        self.header(TRAILER, 0, 1, (0, 0), 0, 0);
        self.pad(align.max(4));
        self.bytes
    }

    /// Returns the offset of the data.
    fn member(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        data: &[u8],
        padding: usize,
    ) -> Result<usize, CpioError> {
        if name.is_empty() || name.starts_with('/') || name.contains('\0') || name.len() >= MAX_NAME_FIELD {
            return Err(CpioError::Name(name.to_owned()));
        }
        let too_big = |_| CpioError::TooBig { name: name.to_owned(), size: data.len() };
        let size = u32::try_from(data.len()).map_err(too_big)?;
        self.inode += 1;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        self.header(name, mode, links, device, size, padding);
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(data);
        self.pad(4);
        Ok(offset)
    }

    fn header(&mut self, name: &str, mode: u32, links: u32, device: (u32, u32), size: u32, padding: usize) {
        let name_field = u32::try_from(name.len() + 1 + padding).expect("names end at 4096 bytes");
        self.bytes.extend_from_slice(b"070701");
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_field, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.resize(self.bytes.len() + 1 + padding, 0);
        self.pad(4);
    }

    fn pad(&mut self, align: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.aligned_file("slot", 0o600, &[7; 5000], 4096).unwrap();
        archive.dir("dev", 0o755).unwrap();
        archive.char_device("dev/console", 0o600, 5, 1).unwrap();
        archive.file("dev/name with space", 0o644, b"x").unwrap();
        archive.link("init", "/sbin/init").unwrap();
        archive.finish(512)
    }

    fn run(program: &str, args: &[&str], input: &[u8]) -> String {
        let mut child = Command::new(program)
            .args(args)
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{program}: {}", out.status);
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn gnu_cpio_agrees() {
        let listing = run("cpio", &["-itv", "--quiet"], &sample());
        let lines: Vec<Vec<&str>> = listing.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 5, "{listing}");
        assert_eq!((lines[0][0], lines[0][4]), ("-rw-------", "5000"));
        assert_eq!(lines[0].last(), Some(&"slot"));
        assert_eq!(lines[1][0], "drwxr-xr-x");
        assert_eq!((lines[2][0], lines[2][4], lines[2][5]), ("crw-------", "5,", "1"));
        assert!(listing.contains("init -> /sbin/init"));
    }

    #[test]
    fn bsdtar_agrees() {
        let names = run("bsdtar", &["-tf", "-"], &sample());
        assert_eq!(
            names.lines().collect::<Vec<_>>(),
            ["slot", "dev", "dev/console", "dev/name with space", "init"]
        );
    }

    #[test]
    fn aligned_data_stands_where_it_says() {
        let mut archive = Archive::new();
        archive.file("first", 0o644, b"abc").unwrap();
        let offset = archive.aligned_file("slot", 0o644, b"DATA", 4096).unwrap();
        let bytes = archive.finish(4096);
        assert_eq!(offset % 4096, 0);
        assert_eq!(&bytes[offset..offset + 4], b"DATA");
        assert_eq!(bytes.len() % 4096, 0);
    }

    #[test]
    fn refuses_names_that_the_kernel_skips() {
        let mut archive = Archive::new();
        for name in ["", "/abs", "a\0b", &"x".repeat(4096)] {
            assert_eq!(archive.dir(name, 0o755), Err(CpioError::Name(name.to_owned())));
        }
    }

    #[test]
    fn same_members_same_bytes() {
        assert_eq!(sample(), sample());
    }
}
