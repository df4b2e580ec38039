//! The disks that the kernel shows in sysfs (Documentation/ABI/stable/sysfs-block), and how people call them.
//!
//! In: `/sys/class/block`. Out: a [`Block`] for each whole disk that a machine could keep something on: no CD, no
//! device made of memory or of other devices. Failure: what sysfs does not tell is not known of a disk, and then it is
//! not chosen by it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use zstrap_formats::gpt::Geometry;

/// The unit of `size` and `start`, whatever the sectors of the disk.
pub const UNIT: u64 = 512;
/// How names of disks begin: SCSI, SATA and USB, virtio, Xen, NVMe, SD cards and eMMC.
const DISKS: [&str; 5] = ["sd", "vd", "xvd", "nvme", "mmcblk"];
/// Parts of an eMMC that only look like disks.
const NO_DISKS: [&str; 3] = ["boot", "rpmb", "gp"];

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// `sda`.
    pub name: String,
    /// Where it is opened.
    pub device: PathBuf,
    /// Where its partitions are shown.
    pub folder: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector: u32,
    /// The hardware takes no writes.
    pub is_read_only: bool,
    /// It can be pulled out: USB, SD cards, and what says so of itself.
    pub is_removable: bool,
    /// Its serial, as its kinds of drivers tell it.
    pub serials: Vec<String>,
    /// World wide names, without what says of which kind they are.
    pub wwns: Vec<String>,
    /// The names that udev would give it in `/dev/disk/by-path`.
    pub paths: Vec<String>,
}

impl Block {
    /// Its sectors.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry { sector: self.sector, sectors: self.size / u64::from(self.sector.max(1)) }
    }

    /// The name of its partition of this number.
    #[must_use]
    pub fn partition(&self, number: u32) -> String {
        let ends_in_digit = self.name.ends_with(|c: char| c.is_ascii_digit());
        format!("{}{}{number}", self.name, if ends_in_digit { "p" } else { "" })
    }

    /// Opens it to be read.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.device)
    }

    /// Where the kernel has its partition of this number: offset and length in bytes.
    #[must_use]
    pub fn known_partition(&self, number: u32) -> Option<(u64, u64)> {
        let folder = self.folder.join(self.partition(number));
        let read = |file: &str| text(&folder.join(file))?.parse::<u64>().ok()?.checked_mul(UNIT);
        Some((read("start")?, read("size")?))
    }
}

/// All disks, in the order of their names.
#[must_use]
pub fn all(class: &Path, dev: &Path) -> Vec<Block> {
    let entries = fs::read_dir(class).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut disks: Vec<Block> = names.filter_map(|name| disk(class, dev, name)).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

fn disk(class: &Path, dev: &Path, name: String) -> Option<Block> {
    let is_disk = DISKS.iter().any(|prefix| name.starts_with(prefix))
        && !(name.starts_with("mmcblk") && NO_DISKS.iter().any(|part| name.contains(part)));
    let folder = fs::canonicalize(class.join(&name)).ok()?;
    // The second is one path of several to an NVMe disk, which has a name of its own for all of them.
    if !is_disk || folder.join("partition").exists() || is_one(&folder, "hidden") {
        return None;
    }
    let size = text(&folder.join("size"))?.parse::<u64>().ok()?.checked_mul(UNIT)?;
    let sector = text(&folder.join("queue/logical_block_size"))?.parse().ok()?;
    let parts: Vec<String> = folder.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let is_usb = parts.iter().any(|part| is_numbered(part, "usb"));
    let is_card = text(&folder.join("device/type")).is_some_and(|kind| kind == "SD");
    // An empty card reader has no size.
    (size > 0 && (sector == 512 || sector == 4096)).then(|| Block {
        device: dev.join(&name),
        size,
        sector,
        is_read_only: is_one(&folder, "ro"),
        is_removable: is_usb || is_card || is_one(&folder, "removable"),
        serials: serials(&folder),
        wwns: wwns(&folder),
        paths: paths(&folder, &parts),
        folder,
        name,
    })
}

fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).trim_matches(['\0', ' ', '\n']).to_owned();
    (!text.is_empty()).then_some(text)
}

fn is_one(folder: &Path, file: &str) -> bool {
    text(&folder.join(file)).is_some_and(|text| text == "1")
}

/// `usb1` for `usb`.
fn is_numbered(part: &str, prefix: &str) -> bool {
    part.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// virtio tells its own; NVMe and eMMC through their device; SCSI and SATA in a page of vital product data; for USB it
/// is that of the adapter.
fn serials(folder: &Path) -> Vec<String> {
    let mut serials: Vec<String> =
        ["serial", "device/serial"].iter().filter_map(|file| text(&folder.join(file))).collect();
    if let Ok(page) = fs::read(folder.join("device/vpd_pg80")) {
        let serial =
            String::from_utf8_lossy(page.get(4..).unwrap_or_default()).trim_matches(['\0', ' ']).to_owned();
        serials.extend((!serial.is_empty()).then_some(serial));
    }
    let usb = folder.ancestors().find(|above| above.join("bDeviceClass").exists());
    serials.extend(usb.and_then(|device| text(&device.join("serial"))));
    serials.dedup();
    serials
}

fn wwns(folder: &Path) -> Vec<String> {
    let files = ["wwid", "device/wwid"];
    files.iter().filter_map(|file| text(&folder.join(file))).map(|wwn| plain_wwn(&wwn)).collect()
}

/// `naa.5000C500…` of sysfs, `0x5000c500…` of udev and `wwn-0x5000c500…` of `/dev/disk/by-id` are one name.
#[must_use]
pub fn plain_wwn(wwn: &str) -> String {
    let mut plain = wwn.trim().to_ascii_lowercase();
    for prefix in ["wwn-", "nvme-", "naa.", "eui.", "uuid.", "0x"] {
        plain = plain.strip_prefix(prefix).unwrap_or(&plain).to_owned();
    }
    plain
}

/// What `path_id` of udev makes of the folder in sysfs, for virtio, NVMe, SATA, SCSI, USB, SD and eMMC; more than one where
/// versions of it differ. SAS disks behind expanders have none here: they have serials and WWNs.
fn paths(folder: &Path, parts: &[String]) -> Vec<String> {
    let mut paths = Vec::new();
    if let Some((base, behind)) = base(parts) {
        let behind = &parts[behind..];
        let of = |prefix: &str| behind.iter().position(|part| is_numbered(part, prefix));
        let scsi = behind.iter().find_map(|part| scsi_address(part));
        if of("virtio").is_some() && scsi.is_none() {
            paths.extend([base.clone(), format!("virtio-{base}")]);
        } else if behind.iter().any(|part| part == "nvme" || part == "nvme-subsystem") {
            paths.extend(text(&folder.join("nsid")).map(|nsid| format!("{base}-nvme-{nsid}")));
        } else if let Some(at) = of("ata") {
            let above: PathBuf = parts[..parts.len() - behind.len() + at + 1].iter().collect();
            let port = text(&above.join("ata_port").join(&behind[at]).join("port_no"));
            paths.extend(port.iter().flat_map(|n| [format!("{base}-ata-{n}"), format!("{base}-ata-{n}.0")]));
        } else if let Some([host, channel, target, lun]) = scsi {
            let first = lowest_host(parts, host);
            let scsi = format!("scsi-{}:{channel}:{target}:{lun}", host - first);
            let usb =
                behind.iter().rev().find_map(|part| part.split_once('-').filter(|(_, p)| p.contains(':')));
            match usb {
                Some((_, port)) => {
                    paths.extend(["usb", "usbv2", "usbv3"].map(|usb| format!("{base}-{usb}-0:{port}-{scsi}")))
                }
                None => paths.push(format!("{base}-{scsi}")),
            }
        } else {
            paths.push(base);
        }
    }
    paths
}

/// The last device of PCI, else of the platform, and what stands behind it.
fn base(parts: &[String]) -> Option<(String, usize)> {
    let is_pci = |part: &String| {
        let bytes = part.as_bytes();
        bytes.len() == 12 && (bytes[4], bytes[7], bytes[10]) == (b':', b':', b'.')
    };
    if let Some(at) = parts.iter().rposition(is_pci) {
        return Some((format!("pci-{}", parts[at]), at + 1));
    }
    let at = parts.iter().position(|part| part == "platform")?;
    let behind = parts[at..].iter().position(|part| {
        ["virtio", "ata", "usb", "host"].iter().any(|prefix| is_numbered(part, prefix)) || part == "mmc_host"
    })?;
    (behind > 1).then(|| (format!("platform-{}", parts[at + behind - 1]), at + behind))
}

/// `2:0:1:0`.
fn scsi_address(part: &str) -> Option<[u64; 4]> {
    let numbers: Option<Vec<u64>> = part.split(':').map(|n| n.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// Hosts are counted through the machine; udev counts them from the first of their adapter.
fn lowest_host(parts: &[String], host: u64) -> u64 {
    let own = format!("host{host}");
    let Some(at) = parts.iter().position(|part| *part == own) else { return host };
    let adapter: PathBuf = parts[..at].iter().collect();
    let entries = fs::read_dir(adapter).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("host")?.parse().ok()).min().unwrap_or(host).min(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A sysfs with these files, each a path below `devices` and its text, and links of these in `class`.
    fn sysfs(files: &[(&str, &str)], disks: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join("devices").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(dir.path().join("class")).unwrap();
        for disk in disks {
            let folder = dir.path().join("devices").join(disk);
            fs::create_dir_all(folder.join("queue")).unwrap();
            fs::write(folder.join("queue/logical_block_size"), "512\n").unwrap();
            if !folder.join("size").exists() {
                fs::write(folder.join("size"), "2048\n").unwrap();
            }
            let link = dir.path().join("class").join(Path::new(disk).file_name().unwrap());
            std::os::unix::fs::symlink(folder, link).unwrap();
        }
        dir
    }

    fn found(dir: &tempfile::TempDir) -> Vec<Block> {
        all(&dir.path().join("class"), Path::new("/dev"))
    }

    #[test]
    fn disks_have_the_names_that_udev_gives_them() {
        let virtio = "pci0000:00/0000:00:04.0/virtio1/block/vda";
        let nvme = "pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/nvme0n1";
        let ata = "pci0000:00/0000:00:1f.2/ata3/host4/target4:0:0/4:0:0:0/block/sda";
        let scsi = "pci0000:00/0000:00:05.0/virtio2/host7/target7:0:2/7:0:2:1/block/sdb";
        let usb = "pci0000:00/0000:00:06.0/usb2/2-1/2-1.4/2-1.4:1.0/host9/target9:0:0/9:0:0:0/block/sdc";
        let mmio = "platform/a003e00.virtio_mmio/virtio0/block/vdb";
        let mmc = "platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0";
        let above_ata = "pci0000:00/0000:00:1f.2/ata3/ata_port/ata3/port_no";
        let dir = sysfs(
            &[
                (above_ata, "1\n"),
                (&format!("{nvme}/nsid"), "1\n"),
                ("pci0000:00/0000:00:05.0/virtio2/host6/x", ""),
                (&format!("{mmc}/device/type"), "SD\n"),
                (&format!("{usb}/device/type"), "0\n"),
            ],
            &[virtio, nvme, ata, scsi, usb, mmio, mmc],
        );
        let all = found(&dir);
        let names: Vec<&str> = all.iter().map(|disk| &disk.name[..]).collect();
        assert_eq!(names, ["mmcblk0", "nvme0n1", "sda", "sdb", "sdc", "vda", "vdb"]);
        let has =
            |at: usize, path: &str| assert!(all[at].paths.iter().any(|p| p == path), "{:?}", all[at].paths);
        has(0, "platform-fe340000.mmc");
        has(1, "pci-0000:02:00.0-nvme-1");
        has(2, "pci-0000:00:1f.2-ata-1");
        has(3, "pci-0000:00:05.0-scsi-1:0:2:1");
        has(4, "pci-0000:00:06.0-usb-0:1.4:1.0-scsi-0:0:0:0");
        has(5, "pci-0000:00:04.0");
        has(5, "virtio-pci-0000:00:04.0");
        has(6, "platform-a003e00.virtio_mmio");
        let removable: Vec<bool> = all.iter().map(|disk| disk.is_removable).collect();
        assert_eq!(removable, [true, false, false, false, true, false, false]);
        assert_eq!((all[1].partition(2), all[5].partition(1)), ("nvme0n1p2".to_owned(), "vda1".to_owned()));
    }

    #[test]
    fn serials_and_wwns_are_found_where_drivers_put_them() {
        let (vda, sda) =
            ("pci0000:00/0000:00:04.0/virtio1/block/vda", "pci0000:00/0000:00:1f.2/host0/0:0:0:0/block/sda");
        let usb = "pci0000:00/0000:00:06.0/usb2/2-1/2-1:1.0/host9/9:0:0:0/block/sdb";
        let dir = sysfs(
            &[
                (&format!("{vda}/serial"), "ABC\n"),
                (&format!("{sda}/device/vpd_pg80"), "\0\u{7f}\0\u{8}  WD-1234"),
                (&format!("{sda}/device/wwid"), "naa.5000C500A1B2C3D4\n"),
                ("pci0000:00/0000:00:06.0/usb2/2-1/bDeviceClass", "00\n"),
                ("pci0000:00/0000:00:06.0/usb2/2-1/serial", "STICK7\n"),
                ("pci0000:00/0000:00:06.0/usb2/serial", "0000:00:06.0\n"),
            ],
            &[vda, sda, usb],
        );
        let [sda, sdb, vda] = &found(&dir)[..] else { panic!("three disks") };
        assert_eq!(
            (&vda.serials[..], &sda.serials[..]),
            (&["ABC".to_owned()][..], &["WD-1234".to_owned()][..])
        );
        assert_eq!(sdb.serials, ["STICK7"]);
        for name in ["wwn-0x5000c500a1b2c3d4", "0x5000C500A1B2C3D4", "naa.5000c500a1b2c3d4"] {
            assert_eq!(sda.wwns, [plain_wwn(name)]);
        }
    }

    #[test]
    fn what_is_no_disk_is_none() {
        let disks = [
            "virtual/block/loop0",
            "virtual/block/dm-0",
            "pci0000:00/0000:00:1f.2/ata1/host0/0:0:0:0/block/sr0",
            "pci0000:00/0000:00:04.0/virtio1/block/vda/vda1",
            "pci0000:00/0000:00:04.0/virtio1/block/vdb",
            "pci0000:00/0000:00:04.0/nvme/nvme0/nvme0c0n1",
            "platform/x.mmc/mmc_host/mmc0/mmc0:1/block/mmcblk0boot1",
        ];
        let files = [
            ("pci0000:00/0000:00:04.0/virtio1/block/vda/vda1/partition", "1\n"),
            ("pci0000:00/0000:00:04.0/virtio1/block/vdb/size", "0\n"),
            ("pci0000:00/0000:00:04.0/nvme/nvme0/nvme0c0n1/hidden", "1\n"),
        ];
        assert_eq!(found(&sysfs(&files, &disks)), []);
    }
}
