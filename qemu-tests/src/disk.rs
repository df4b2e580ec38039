//! A disk for machines of tests: a sparse file that outlives them, on the bus that a test wants, with the faults that it
//! wants, and judges that are not ours.
//!
//! In: a name and a size. Out: a [`Disk`] that machines are given by [`VmBuilder::disk`](crate::vm::VmBuilder::disk), one
//! after the other, and that can be looked into between them: partitions as `partx` reads them, the file system as `e2fsck`
//! and `debugfs` do, a hash of all that is not zero. Failure: an error with what the tool said.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use zstrap_formats::digest::{ContentHasher, Sha256};
use zstrap_formats::gpt::Guid;

/// What a bundle's cache takes with room to spare, and what is made in a moment.
pub const SIZE: u64 = 1 << 30;

/// The type and the name that our partitions bear.
pub const OUR_TYPE: Guid = zstrap_formats::gpt::OUR_TYPE;
/// See [`OUR_TYPE`].
pub const OUR_NAME: &str = zstrap_formats::gpt::OUR_NAME;

/// A hash is taken of blocks of this size, and of those that are not all zero. No sector is larger.
const BLOCK: usize = 4096;

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// `vda`.
    Virtio,
    /// `nvme0n1`.
    Nvme,
    /// `sda` of a SATA controller. It knows no sectors but those of 512 bytes, and no read-only disks.
    Ahci,
    /// `sda` on a USB port.
    Usb,
    /// `sda` of a virtio SCSI controller.
    Scsi,
}

/// What is wrong with a disk, from the start of each machine on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Reading any of these bytes fails.
    Unreadable(Range<u64>),
    /// Writing any of these bytes fails.
    Unwritable(Range<u64>),
    /// All writes fail after so many.
    WritesEnd(u32),
    /// All reads fail after so many.
    ReadsEnd(u32),
}

/// A disk: what it looks like, and the file that has its bytes.
#[derive(Clone, Debug)]
pub struct Disk {
    file: PathBuf,
    bus: Bus,
    serial: String,
    wwn: Option<u64>,
    sectors: Option<(u32, u32)>,
    slot: Option<u8>,
    is_read_only: bool,
    is_removable: bool,
    flaws: Vec<Flaw>,
}

impl Disk {
    /// A disk of zeros, in a new file of this folder; its name is its serial number, too.
    pub fn new(folder: &Path, name: &str, size: u64) -> Result<Self> {
        let file = folder.join(format!("{name}.raw"));
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let made = File::create_new(&file).and_then(|file| file.set_len(size));
        made.with_context(|| format!("making {}", file.display()))?;
        Ok(Self {
            file,
            bus: Bus::Virtio,
            serial: name.to_owned(),
            wwn: None,
            sectors: None,
            slot: None,
            is_read_only: false,
            is_removable: false,
            flaws: Vec::new(),
        })
    }

    /// The same disk with a file of its own, which has the same bytes now.
    pub fn copy(&self, name: &str) -> Result<Self> {
        let file = self.file.with_file_name(format!("{name}.raw"));
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&self.file).arg(&file))?;
        Ok(Self { file, ..self.clone() })
    }

    /// Puts it on this bus.
    #[must_use]
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// Gives it this serial number; an empty one is none, which NVMe does not allow.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        serial.clone_into(&mut self.serial);
        self
    }

    /// Gives it this name of the whole world, where the bus has such: SCSI and SATA (`naa.…`). Linux does not believe the
    /// one of QEMU's NVMe, and makes one (`nvme.…`) of serial number and model.
    #[must_use]
    pub fn wwn(mut self, wwn: u64) -> Self {
        self.wwn = Some(wwn);
        self
    }

    /// Sets the sizes of its logical and physical sectors; 512 and 512 unless said.
    #[must_use]
    pub fn sectors(mut self, logical: u32, physical: u32) -> Self {
        self.sectors = Some((logical, physical));
        self
    }

    /// Puts the disk, or its controller, into this slot of the first PCI bus: its name by path is then known.
    #[must_use]
    pub fn slot(mut self, slot: u8) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Nothing can be written to it. A disk of NVMe says so only when it is written to.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// It says that it can be taken out: USB and SCSI disks do.
    #[must_use]
    pub fn removable(mut self) -> Self {
        self.is_removable = true;
        self
    }

    /// Makes it worse.
    #[must_use]
    pub fn flaw(mut self, flaw: Flaw) -> Self {
        self.flaws.push(flaw);
        self
    }

    /// The file with its bytes.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// How many bytes it has.
    pub fn size(&self) -> Result<u64> {
        Ok(fs::metadata(&self.file).with_context(|| format!("looking at {}", self.file.display()))?.len())
    }

    /// Makes it larger, as a disk of a virtual machine can become.
    pub fn grow(&self, size: u64) -> Result<()> {
        ensure!(size >= self.size()?, "a disk does not shrink");
        File::options().write(true).open(&self.file)?.set_len(size).context("growing a disk")
    }

    /// Writes bytes to it.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = File::options().write(true).open(&self.file);
        let written = file.and_then(|file| file.write_all_at(bytes, offset));
        written.with_context(|| format!("writing to {}", self.file.display()))
    }

    /// Reads bytes of it.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = File::open(&self.file).and_then(|file| file.read_exact_at(&mut bytes, offset));
        read.with_context(|| format!("reading {}", self.file.display()))?;
        Ok(bytes)
    }

    /// Runs a tool on it, such as `sgdisk`: the file is the last argument. Returns what the tool printed.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        run(Command::new(tool).args(arguments).arg(&self.file))
    }

    /// Makes a GPT with one partition as `sgdisk` makes it, from 1 MiB to the end, of this type (`8300`, or a GUID) and name.
    pub fn partition(&self, kind: &str, name: &str) -> Result<Partition> {
        let (kind, name) = (format!("--typecode=1:{kind}"), format!("--change-name=1:{name}"));
        self.run("sgdisk", &["--clear", "--new=1:2048:0", &kind, &name])?;
        self.partitions()?.pop().context("sgdisk has made no partition")
    }

    /// The partitions, as `partx` reads them; none if there is no table.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        let sector = self.sectors.map_or(512, |(logical, _)| logical).to_string();
        let columns = "NR,START,SIZE,TYPE,UUID,NAME";
        let output = Command::new("partx")
            .args(["--pairs", "--bytes", "--output", columns, "--sector-size", &sector])
            .arg(&self.file)
            .output();
        let output = output.context("running partx")?;
        // Its status is the same for no table and for no file, and the file is there.
        String::from_utf8(output.stdout)?.lines().map(Partition::parse).collect()
    }

    /// Our partition.
    pub fn ours(&self) -> Result<Partition> {
        let mut ours: Vec<_> = self.partitions()?.into_iter().filter(|one| one.is_ours()).collect();
        let found = ours.pop().with_context(|| format!("{}: no partition of ours", self.file.display()))?;
        ensure!(ours.is_empty(), "{}: more than one partition of ours", self.file.display());
        Ok(found)
    }

    /// Asserts that `e2fsck -fn` has nothing to say about the file system of a partition. Where it was in use to the end,
    /// its journal is replayed first, in a copy: the next mount would do just that.
    pub fn check(&self, partition: &Partition) -> Result<()> {
        let copy = self.extract(partition)?;
        let checked = checked(&copy);
        fs::remove_file(&copy).with_context(|| format!("deleting {}", copy.display()))?;
        checked
    }

    /// The bytes of a partition in a file of their own. Journals are not replayed at an offset: e2fsprogs 1.47 forget it
    /// halfway.
    fn extract(&self, partition: &Partition) -> Result<PathBuf> {
        let copy = self.file.with_extension(format!("part{}", partition.number));
        let (from, to) = (File::open(&self.file)?, File::create(&copy)?);
        let Range { start, end } = partition.bytes;
        to.set_len(end - start)?;
        for range in written(&from, self.size()?)? {
            let (first, last) = (range.start.max(start), range.end.min(end));
            let mut bytes = vec![0; 1 << 20];
            for offset in (first..last).step_by(bytes.len()) {
                let length = bytes.len().min((last - offset) as usize);
                from.read_exact_at(&mut bytes[..length], offset)?;
                to.write_all_at(&bytes[..length], offset - start)?;
            }
        }
        Ok(copy)
    }

    /// What `debugfs` prints for a request about the file system of a partition.
    pub fn debugfs(&self, partition: &Partition, request: &str) -> Result<String> {
        run(Command::new("debugfs").args(["-R", request]).arg(self.at(partition)))
    }

    /// Changes the file system of a partition as `debugfs` does it.
    pub fn debugfs_write(&self, partition: &Partition, request: &str) -> Result<String> {
        run(Command::new("debugfs").args(["-w", "-R", request]).arg(self.at(partition)))
    }

    /// The bytes of a file in a partition.
    pub fn cat(&self, partition: &Partition, path: &str) -> Result<Vec<u8>> {
        let mut command = Command::new("debugfs");
        let output = command.args(["-R", &format!("cat \"{path}\"")]).arg(self.at(partition)).output();
        let output = output.context("running debugfs")?;
        let said = String::from_utf8_lossy(&output.stderr);
        // It says its version first, and ends with status 0 whatever happened.
        ensure!(said.lines().count() < 2, "debugfs: {said}");
        Ok(output.stdout)
    }

    /// The names in a folder of a partition, without `.` and `..`.
    pub fn names(&self, partition: &Partition, folder: &str) -> Result<Vec<String>> {
        let said = self.debugfs(partition, &format!("ls -p \"{folder}\""))?;
        let name = |line: &str| Some(line.split('/').nth(5)?.to_owned());
        let names = said.lines().filter_map(name);
        Ok(names.filter(|name| !matches!(name.as_str(), "" | "." | "..")).collect())
    }

    /// How e2fsprogs call the file system of a partition.
    fn at(&self, partition: &Partition) -> String {
        format!("{}?offset={}", self.file.display(), partition.bytes.start)
    }

    /// The hash of all its bytes: equal only if each byte is. Zeros cost nothing, wherever they stand.
    pub fn hash(&self) -> Result<Sha256> {
        self.hash_without(&(0..0))
    }

    /// The hash of all its bytes but these; both ends at whole blocks of 4 KiB.
    pub fn hash_without(&self, left_out: &Range<u64>) -> Result<Sha256> {
        let file = File::open(&self.file).with_context(|| format!("opening {}", self.file.display()))?;
        let mut hasher = ContentHasher::new();
        hasher.update(&self.size()?.to_be_bytes());
        for range in written(&file, self.size()?)? {
            hash_blocks(&file, range, left_out, &mut hasher)
                .with_context(|| format!("reading {}", self.file.display()))?;
        }
        Ok(hasher.finish().sha256)
    }

    /// The arguments of QEMU for this disk, the `number`th of its machine.
    pub(crate) fn arguments(&self, number: usize) -> Result<Vec<String>> {
        let node = format!("disk{number}");
        let mut arguments = vec!["-blockdev".to_owned(), self.block_device(&node)?];
        for device in self.devices(number) {
            arguments.extend(["-device".to_owned(), device]);
        }
        Ok(arguments)
    }

    fn block_device(&self, node: &str) -> Result<String> {
        let read_only = if self.is_read_only { "on" } else { "off" };
        let (path, top) = (escaped(&self.file), format!("driver=raw,node-name={node},read-only={read_only}"));
        if self.flaws.is_empty() {
            return Ok(format!("{top},discard=unmap,file.driver=file,file.filename={path}"));
        }
        let rules = self.file.with_extension("flaws");
        fs::write(&rules, rules_of(&self.flaws)).with_context(|| format!("writing {}", rules.display()))?;
        let (rules, image) = (escaped(&rules), "file.image.driver=file,file.image.filename");
        Ok(format!("{top},file.driver=blkdebug,file.config={rules},{image}={path}"))
    }

    /// The controller, where the bus has one, and the disk.
    fn devices(&self, number: usize) -> Vec<String> {
        let slot = self.slot.map_or(String::new(), |slot| format!(",addr={slot:#x}"));
        let (controller, disk) = match self.bus {
            Bus::Virtio => (None, "virtio-blk-pci"),
            Bus::Nvme => (None, "nvme"),
            Bus::Ahci => (Some("ahci"), "ide-hd"),
            Bus::Usb => (Some("qemu-xhci"), "usb-storage"),
            Bus::Scsi => (Some("virtio-scsi-pci"), "scsi-hd"),
        };
        let device = format!("{disk},drive=disk{number}{}", self.properties());
        match controller {
            None => vec![format!("{device}{slot}")],
            Some(controller) => {
                vec![format!("{controller},id=bus{number}{slot}"), format!("{device},bus=bus{number}.0")]
            }
        }
    }

    fn properties(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        if let Some((logical, physical)) = self.sectors {
            let _ = write!(text, ",logical_block_size={logical},physical_block_size={physical}");
        }
        if self.bus != Bus::Nvme {
            // Not "auto": a full host would stop the machine, and the test wait for ever.
            text += ",rerror=report,werror=report";
        }
        if !self.serial.is_empty() {
            let _ = write!(text, ",serial={}", self.serial);
        }
        if let (Bus::Ahci | Bus::Scsi, Some(wwn)) = (self.bus, self.wwn) {
            let _ = write!(text, ",wwn={wwn:#x}");
        }
        if self.is_removable && matches!(self.bus, Bus::Usb | Bus::Scsi) {
            text += ",removable=on";
        }
        text
    }
}

/// A partition of a [`Disk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Where it lies, in bytes.
    pub bytes: Range<u64>,
    /// The GUID of its type, or the number of one in an MBR.
    pub kind: String,
    /// Its own GUID.
    pub id: String,
    /// Its name.
    pub name: String,
}

impl Partition {
    fn is_ours(&self) -> bool {
        self.name == OUR_NAME && self.kind.eq_ignore_ascii_case(&OUR_TYPE.to_string())
    }

    /// Reads a line of `partx --pairs`; places are in units of 512 bytes, whatever the sectors.
    fn parse(line: &str) -> Result<Self> {
        let value = |key: &str| {
            let after = line.split_once(&format!("{key}=\"")).map(|(_, after)| after);
            let value = after.and_then(|after| after.split_once('"'));
            value.map(|(value, _)| value).with_context(|| format!("no {key} in `{line}`"))
        };
        let start = value("START")?.parse::<u64>()? * 512;
        Ok(Self {
            number: value("NR")?.parse()?,
            bytes: start..start + value("SIZE")?.parse::<u64>()?,
            kind: value("TYPE")?.to_owned(),
            id: value("UUID")?.to_owned(),
            name: value("NAME")?.to_owned(),
        })
    }
}

/// The file that QEMU's blkdebug reads: flaws by place are there from the start, counts are chains of states.
fn rules_of(flaws: &[Flaw]) -> String {
    let mut text = String::new();
    for flaw in flaws {
        match flaw {
            Flaw::Unreadable(range) => by_place(&mut text, "read", range),
            Flaw::Unwritable(range) => by_place(&mut text, "write", range),
            Flaw::WritesEnd(count) => by_count(&mut text, "write_aio", "write", *count),
            Flaw::ReadsEnd(count) => by_count(&mut text, "read_aio", "read", *count),
        }
    }
    text
}

/// A rule is about one sector of 512 bytes, and met by each request that has it: one in each 4 KiB, which no request of a
/// file system or of the page cache divides.
fn by_place(text: &mut String, what: &str, range: &Range<u64>) {
    for sector in (range.start / 512..range.end.div_ceil(512)).step_by(8) {
        let rule = format!("event = \"none\"\niotype = \"{what}\"\nerrno = \"5\"\nsector = \"{sector}\"");
        let _ = write!(text, "[inject-error]\n{rule}\nonce = \"off\"\n\n");
    }
}

fn by_count(text: &mut String, event: &str, what: &str, count: u32) {
    for state in 1..=count {
        let next = state + 1;
        let _ =
            write!(text, "[set-state]\nevent = \"{event}\"\nstate = \"{state}\"\nnew_state = \"{next}\"\n\n");
    }
    let rule = format!("event = \"{event}\"\niotype = \"{what}\"\nerrno = \"5\"\nstate = \"{}\"", count + 1);
    let _ = write!(text, "[inject-error]\n{rule}\nonce = \"off\"\n\n");
}

/// A comma in a value of QEMU's options is written twice.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The parts of a file that were ever written, by its file system.
fn written(file: &File, size: u64) -> Result<Vec<Range<u64>>> {
    let (mut ranges, mut from) = (Vec::new(), 0);
    while from < size {
        let begin = match seek(file, SeekFrom::Data(from)) {
            Err(Errno::NXIO) => break,
            begin => begin.context("looking for data")?,
        };
        let end = seek(file, SeekFrom::Hole(begin)).context("looking for a hole")?;
        ranges.push(begin..end);
        from = end;
    }
    Ok(ranges)
}

/// Adds the blocks of a range that are not zero, each with its place.
fn hash_blocks(
    file: &File,
    range: Range<u64>,
    left_out: &Range<u64>,
    hasher: &mut ContentHasher,
) -> io::Result<()> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut block = [0; BLOCK];
    // What was written ends where blocks of the host's file system end, which are not smaller.
    for offset in (range.start / BLOCK as u64 * BLOCK as u64..range.end).step_by(BLOCK) {
        if left_out.contains(&offset) {
            continue;
        }
        let length = file.read_at(&mut block, offset)?;
        if block[..length] != ZEROS[..length] {
            hasher.update(&offset.to_be_bytes());
            hasher.update(&block[..length]);
        }
    }
    Ok(())
}

/// What is not mounted has counts of free blocks that only the next mount brings up to date, as `e2fsck -p` does. It must
/// find nothing else to do, for it would do it.
fn checked(file: &Path) -> Result<()> {
    let replayed = Command::new("e2fsck").arg("-p").arg(file).output().context("running e2fsck")?;
    let said = String::from_utf8_lossy(&replayed.stdout);
    ensure!(said.contains(": clean, "), "e2fsck -p ended with {}:\n{said}", replayed.status);
    let said = run(Command::new("e2fsck").arg("-fn").arg(file))?;
    // It ends with status 0 although it would like to mend something.
    ensure!(!said.contains("? no"), "e2fsck -fn:\n{said}");
    Ok(())
}

/// Runs a tool that must succeed; returns its standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let tool = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("running {tool}"))?;
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{said}{complaint}", output.status);
    }
    Ok(said.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tempfile::TempDir;

    fn disk() -> (TempDir, Disk) {
        let folder = TempDir::with_prefix("zstrap-disk-").unwrap();
        let disk = Disk::new(folder.path(), "one", 64 << 20).unwrap();
        (folder, disk)
    }

    #[test]
    fn partition_of_sgdisk_is_found_and_its_file_system_judged() {
        let (_folder, disk) = disk();
        assert_eq!(disk.partitions().unwrap(), []);
        let made = disk.partition(&OUR_TYPE.to_string(), OUR_NAME).unwrap();
        assert_eq!(
            (made.number, made.bytes.start, made.kind.as_str()),
            (1, 1 << 20, OUR_TYPE.to_string().to_lowercase().as_str())
        );
        assert!(made.bytes.end <= disk.size().unwrap());
        assert_eq!(disk.ours().unwrap(), made);
        let offset = format!("offset={}", made.bytes.start);
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-E", &offset]).arg(disk.path()).arg("32M"))
            .unwrap();
        disk.check(&made).unwrap();
        disk.debugfs_write(&made, "mkdir a").unwrap();
        disk.debugfs_write(&made, "write /etc/hostname b").unwrap();
        assert_eq!(disk.names(&made, "/").unwrap(), ["lost+found", "a", "b"]);
        assert_eq!(disk.cat(&made, "/b").unwrap(), fs::read("/etc/hostname").unwrap());
        disk.cat(&made, "/c").unwrap_err();
        // The bitmap of blocks, which the superblock has a checksum of only.
        disk.write(made.bytes.start + 1024 + 88, &[0x55; 64]).unwrap();
        disk.check(&made).unwrap_err();
    }

    #[test]
    fn hash_sees_each_byte_and_no_holes() {
        let (_folder, disk) = disk();
        let empty = disk.hash().unwrap();
        disk.write(40 << 20, &[0; 10_000]).unwrap();
        assert_eq!(disk.hash().unwrap(), empty);
        disk.write((40 << 20) + 5001, &[1]).unwrap();
        let one = disk.hash().unwrap();
        assert_ne!(one, empty);
        assert_eq!(disk.copy("two").unwrap().hash().unwrap(), one);
        assert_eq!(disk.hash_without(&(40 << 20..41 << 20)).unwrap(), empty);
        assert_ne!(disk.hash_without(&(41 << 20..42 << 20)).unwrap(), empty);
        disk.write((40 << 20) + 5001, &[0, 1]).unwrap();
        assert_ne!(disk.hash().unwrap(), one);
        disk.write((40 << 20) + 5001, &[0, 0]).unwrap();
        disk.grow(65 << 20).unwrap();
        assert_ne!(disk.hash().unwrap(), empty);
    }

    #[test]
    fn flaws_are_rules_of_blkdebug() {
        let rules = rules_of(&[Flaw::Unreadable(4096..12_288), Flaw::WritesEnd(2)]);
        assert_eq!(rules.matches("iotype = \"read\"").count(), 2);
        assert!(rules.contains("sector = \"8\"") && rules.contains("sector = \"16\""), "{rules}");
        assert!(rules.contains("state = \"2\"\nnew_state = \"3\""), "{rules}");
        assert!(rules.contains("errno = \"5\"\nstate = \"3\""), "{rules}");
    }
}
