//! The node's own partition: found, made on a disk that is free, grown, and never more than that.
//!
//! In: the disks of the machine, and what the signed config says of them. Out: a [`Disk`], which is our partition,
//! mounted at [`MOUNT`]. Failure: [`Kept`], which names each disk and what was found on it; nothing was written then.
//! docs/init.md tells what counts as free. A cut at any point leaves what the next boot takes up again.

pub mod block;
mod ext4;
mod free;
mod make;
mod select;
mod table;

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use zstrap_formats::config;

use crate::fail::{Chain, Code, Refusal};
use crate::modules::Modules;
use crate::sys::{Mount, NO_EXEC, System};
use crate::{media, watchdog};
use block::Block;
use free::Content;
use select::{Choice, Surveyed};
use table::{Own, Reader, TABLE};

/// Where our partition is mounted.
pub const MOUNT: &str = "/disk";
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });
/// How many looks a disk that the config names may take to show up: USB needs seconds.
const NAMED: usize = 40;
/// How many any disk may take. What is not on USB was looked for when its driver was loaded.
const ANY: usize = 12;
/// After so many looks without a new disk no more are expected: which one is taken must not depend on who comes first.
const SETTLED: usize = 8;
/// Modules that no device asks for; ext4 asks for its checksum by a way that needs modprobe(8).
const MODULES: [&str; 3] = ["crc32c_generic", "ext4", "overlay"];
/// Where the kernel shows devices on USB, its own hubs among them.
const USB: &str = "/sys/bus/usb/devices";
/// What takes disks there.
const USB_MODULES: [&str; 3] = ["sd_mod", "usb_storage", "uas"];

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

/// Why no disk is used: nothing was written to any that this names.
#[derive(Debug, thiserror::Error)]
pub enum Kept {
    /// All that match have something on them.
    #[error("no disk is free: {0}")]
    NoneFree(String),
    /// Ours may stand there already.
    #[error("nothing is made while a disk cannot be read: {0}")]
    Unread(String),
    /// More than one would do.
    #[error("there are several {what}, and nothing says which to use: {}", names.join(", "))]
    Several {
        /// Of what.
        what: &'static str,
        /// Which.
        names: Vec<String>,
    },
    /// None matches.
    #[error("there is no disk {0}")]
    Missing(String),
    /// For what is asked for.
    #[error("{name} has {size} MiB, {needed} MiB are asked for")]
    TooSmall {
        /// The disk, or the partition.
        name: String,
        /// In MiB.
        size: u64,
        /// In MiB.
        needed: u64,
    },
    /// The disk, or the kernel, failed.
    #[error("{what} {name}")]
    Io {
        /// Doing what.
        what: &'static str,
        /// The disk, or the partition.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no ext4.
    #[error("config asks for a disk (root.size), and this kernel has no ext4")]
    NoDriver,
}

impl Kept {
    fn io(what: &'static str, name: &str, source: io::Error) -> Self {
        Self::Io { what, name: name.to_owned(), source }
    }

    /// All that people need in one line, as no failed boot will tell them.
    #[must_use]
    pub fn told(&self) -> String {
        let code = self.code();
        format!("{}: {}; try: {}", code.as_str(), Chain(self), code.advice())
    }
}

impl Refusal for Kept {
    fn code(&self) -> Code {
        match self {
            Self::NoneFree(_) => Code::DiskNotFree,
            Self::Several { .. } => Code::DiskSeveral,
            Self::Missing(_) => Code::DiskMissing,
            Self::TooSmall { .. } => Code::DiskTooSmall,
            Self::Unread(_) | Self::Io { .. } => Code::DiskIo,
            Self::NoDriver => Code::NoDisk,
        }
    }
}

/// Loads what it takes to mount our partition, also before there is a disk: one on USB comes late, when nobody looks for new
/// hardware any more.
pub fn load_modules(modules: &mut Modules) {
    let has_usb = fs::read_dir(USB).is_ok_and(|mut devices| devices.next().is_some());
    let usb: &[&str] = if has_usb { &USB_MODULES } else { &[] };
    for module in MODULES.iter().chain(usb) {
        modules.load(module);
    }
}

/// Our partition, as an earlier boot has made it; nothing is written but what its journal still has to. None when there
/// is none, or when there are several, of which only a config can choose; nor on a disk that can be pulled out: whoever
/// plugs in a stick is not to have it mounted.
pub fn find(system: &dyn System) -> Option<Disk> {
    let disks = system.disks();
    let mut ours: Vec<Own> = disks.iter().filter(|disk| !disk.is_removable).flat_map(ours_of).collect();
    if ours.len() > 1 {
        let names: Vec<String> = ours.iter().map(Own::name).collect();
        log::warn!(target: "disk", "none why=several names={}: root.disk of the config can choose", names.join(","));
        return None;
    }
    let own = ours.pop()?;
    match mount(system, &own) {
        Ok(disk) => {
            log::info!(target: "disk", "found name={} size={}MiB", disk.name(), disk.size() >> 20);
            Some(disk)
        }
        Err(error) => {
            log::warn!(target: "disk", "not mounted name={} error={error}", own.name());
            None
        }
    }
}

/// What the signed config asks for: our partition, found, made and grown.
///
/// # Errors
/// [`Kept`].
pub fn prepare(
    system: &dyn System,
    modules: &mut Modules,
    root: &config::Root,
    found: Option<Disk>,
) -> Result<Disk, Kept> {
    if !system.has_file_system("ext4") {
        return Err(Kept::NoDriver);
    }
    let wanted = root.disk.as_ref();
    let is_found = found.as_ref().is_some_and(|found| select::matches(&found.own.disk, wanted));
    let disks = wait_for_disks(system, modules, wanted, is_found);
    let all = disks.iter().flat_map(ours_of).collect();
    let mut disk = match select::ours(all, wanted)? {
        Some(own) => take(system, own, found)?,
        None => {
            system.unmount(MOUNT);
            make_one(system, disks, root)?
        }
    };
    if disk.is_read_only {
        log::warn!(target: "disk", "read-only name={}", disk.name());
    } else {
        let may_erase = wanted.is_some_and(|wanted| wanted.erase);
        make::grow(system, MOUNT, &mut disk.own, root.size, may_erase);
    }
    Ok(disk)
}

/// Disks may come late: those that are named are waited for, and any if there is none at all. Unless the one is named, or
/// ours is there already, all that may be it are waited for.
fn wait_for_disks(
    system: &dyn System,
    modules: &mut Modules,
    wanted: Option<&config::Disk>,
    is_found: bool,
) -> Vec<Block> {
    let is_named = select::is_named(wanted);
    let (mut disks, mut since) = (system.disks(), 0);
    for look in 1..=NAMED {
        let has_one = disks.iter().any(|disk| select::matches(disk, wanted));
        let is_settled = is_named || is_found || look - since > SETTLED;
        if has_one && is_settled || !(has_one || is_named) && look > ANY {
            break;
        }
        // What has come since the network needed its drivers may want one of its own.
        modules.load_for_hardware();
        watchdog::expect_within(watchdog::WORK);
        thread::sleep(LOOK);
        let now = system.disks();
        if now != disks {
            (disks, since) = (now, look);
        }
    }
    disks
}

/// Mounts a partition of ours, unless it is. One whose file system is none, or is damaged, gets another.
fn take(system: &dyn System, own: Own, found: Option<Disk>) -> Result<Disk, Kept> {
    let found =
        found.filter(|found| found.own.partition.id == own.partition.id && found.own.name() == own.name());
    if let Some(found) = found {
        return Ok(found);
    }
    system.unmount(MOUNT);
    let error = match mount(system, &own) {
        Ok(disk) => return Ok(disk),
        Err(error) => error,
    };
    if !is_damage(&error, &own) || own.disk.is_read_only {
        return Err(not_mounted(&own, error));
    }
    make::file_system(&own)?;
    log::warn!(target: "disk", "made anew name={} why=\"mounting it: {error}\"", own.name());
    mount_new(system, &own)
}

/// That there is no file system of ext4, or one whose checksums are wrong. An error of the disk is none: it may be back, and
/// a kernel without ext4 does not even look. Another kernel may mount what this one calls invalid.
fn is_damage(error: &io::Error, own: &Own) -> bool {
    let is_whole = || Reader::of(&own.disk, TABLE).and_then(|file| ext4::is_whole(&file, own.extent().0));
    match Errno::from_io_error(error) {
        Some(Errno::UCLEAN | Errno::BADMSG) => true,
        Some(Errno::INVAL) => !is_whole().unwrap_or(true),
        _ => false,
    }
}

fn not_mounted(own: &Own, error: io::Error) -> Kept {
    match Errno::from_io_error(&error) {
        Some(Errno::NODEV) => Kept::NoDriver,
        _ => Kept::io("mounting", &own.name(), error),
    }
}

/// Mounts what was just made.
fn mount_new(system: &dyn System, own: &Own) -> Result<Disk, Kept> {
    let disk = mount(system, own).map_err(|error| not_mounted(own, error))?;
    // For people who look for it by that; the node does not.
    if let Err(error) = system.name_ext4(MOUNT, make::uuid(&disk.own)) {
        log::debug!(target: "disk", "no UUID of its own name={} error={error}", disk.name());
    }
    Ok(disk)
}

fn make_one(system: &dyn System, disks: Vec<Block>, root: &config::Root) -> Result<Disk, Kept> {
    let (started, wanted) = (Instant::now(), root.disk.as_ref());
    let (matching, other): (Vec<_>, Vec<_>) =
        disks.into_iter().partition(|disk| select::matches(disk, wanted));
    for disk in other {
        log::info!(target: "disk", "kept disk={} why=\"the config asks for one {}\"", disk.name, select::words(wanted));
    }
    let surveyed: Vec<Surveyed> = matching.into_iter().map(survey).collect();
    let (disk, is_free) = match select::free(surveyed, wanted)? {
        Choice::Make(disk) => (disk, true),
        Choice::Erase(disk) => (disk, false),
    };
    if media::is_in_use(&disk) {
        return Err(Kept::NoneFree(format!("{}: it is a medium of this boot", disk.name)));
    }
    if !is_free {
        log::warn!(target: "disk", "erasing disk={} why=\"the config names it, with erase\"", disk.name);
    }
    let own = make::partition(&disk, root.size, is_free)?;
    let made = mount_new(system, &own)?;
    let after = started.elapsed().as_secs_f64();
    log::info!(target: "disk", "made name={} disk={} size={}MiB after={after:.3}s", made.name(), disk.name, made.size() >> 20);
    Ok(made)
}

fn survey(disk: Block) -> Surveyed {
    let content = free::look_at(&disk);
    match &content {
        Content::Kept(why) => log::warn!(target: "disk", "kept disk={} why=\"{why}\"", disk.name),
        Content::Unread(why) => {
            log::warn!(target: "disk", "kept disk={} why=\"it cannot be read: {why}\"", disk.name);
        }
        Content::Ours | Content::Free => {}
    }
    Surveyed { disk, content }
}

/// A disk that cannot be read has nothing of ours for now.
fn ours_of(disk: &Block) -> Vec<Own> {
    let read = || -> io::Result<Vec<Own>> {
        let found = table::find(&Reader::of(disk, TABLE)?, disk)?;
        Ok(found.map(|found| table::own(disk, &found)).unwrap_or_default())
    };
    read().unwrap_or_else(|error| {
        log::warn!(target: "disk", "not read disk={} error={error}", disk.name);
        Vec::new()
    })
}

fn mount(system: &dyn System, own: &Own) -> io::Result<Disk> {
    mount_as(system, own).map(|is_read_only| Disk { own: own.clone(), is_read_only })
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
        watchdog::expect_within(table::DISK);
        let mount = Mount { kind: "ext4", target: MOUNT, flags, options };
        let result = system.mount_device(&device, &mount);
        log::debug!(target: "disk", "mount options={options} after={:.3}s", started.elapsed().as_secs_f64());
        result
    };
    let mut first = None;
    if !own.disk.is_read_only {
        let replays = replays(own);
        let mut mounted = try_with(flags, "errors=remount-ro");
        if replays && mounted.is_ok() {
            system.unmount(MOUNT);
            mounted = try_with(flags, "errors=remount-ro");
        }
        match mounted {
            Err(error) if takes_no_writes(&error) => first = Some(error),
            result => return result.map(|()| false),
        }
    }
    let flags = flags | MountFlags::RDONLY;
    // A journal that cannot be replayed leaves what it would have changed as it was.
    try_with(flags, "errors=remount-ro")
        .or_else(|_| try_with(flags, "errors=remount-ro,noload"))
        .map_err(|last| first.unwrap_or(last))
        .map(|()| true)
}

/// Whether mounting it changes its superblock: Linux 6.1 counts its groups before it replays the journal. If that has a
/// growth that was cut, there are more, and what is put there is lost. The second mount counts them right.
fn replays(own: &Own) -> bool {
    let read = || ext4::has_journal_to_replay(&Reader::of(&own.disk, TABLE)?, own.extent().0);
    read().unwrap_or(false)
}

/// Not all disks that can only be read any more say so before.
fn takes_no_writes(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ROFS | Errno::ACCESS | Errno::IO))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::Recorder;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;
    use zstrap_formats::config::{Config, DiskSelector};

    const MIB: u64 = 1 << 20;

    /// A machine of image files.
    struct Machine {
        folder: tempfile::TempDir,
        system: Recorder,
    }

    impl Machine {
        fn new(disks: &[(&str, u64)]) -> Self {
            let machine = Self { folder: tempfile::tempdir().unwrap(), system: Recorder::default() };
            disks.iter().for_each(|(name, mib)| machine.add(name, *mib, 512));
            machine
        }

        fn add(&self, name: &str, mib: u64, sector: u32) {
            let device = self.folder.path().join(name);
            fs::File::create(&device).unwrap().set_len(mib * MIB).unwrap();
            let folder = self.folder.path().join("sys");
            let (name, serials) = (name.to_owned(), vec![format!("S-{name}")]);
            let disk = Block { name, device, folder, size: mib * MIB, sector, serials, ..Block::default() };
            self.system.disks.lock().unwrap().push(disk);
        }

        fn path(&self, name: &str) -> String {
            self.folder.path().join(name).to_str().unwrap().to_owned()
        }

        fn write(&self, name: &str, offset: u64, bytes: &[u8]) {
            let file = fs::File::options().write(true).open(self.path(name)).unwrap();
            file.write_all_at(bytes, offset).unwrap();
        }

        fn bytes(&self, name: &str) -> Vec<u8> {
            fs::read(self.path(name)).unwrap()
        }

        fn change(&self, name: &str, change: impl Fn(&mut Block)) {
            change(self.system.disks.lock().unwrap().iter_mut().find(|disk| disk.name == name).unwrap());
        }

        fn prepare(&self, size_mib: u64, disk: Option<config::Disk>) -> Result<Disk, Kept> {
            prepare(&self.system, &mut Modules::default(), &root(size_mib, disk), None)
        }

        fn refused(&self, disk: Option<config::Disk>) -> String {
            let before: Vec<_> = self.system.disks().iter().map(|disk| self.bytes(&disk.name)).collect();
            let done = self.system.calls().len();
            let error = self.prepare(100, disk).unwrap_err();
            let after: Vec<_> = self.system.disks().iter().map(|disk| self.bytes(&disk.name)).collect();
            assert!(before == after, "a disk was written to: {error}");
            let changes = ["mount /", "grow", "partition"];
            let calls = self.system.calls().split_off(done);
            assert!(
                !calls.iter().any(|call| changes.iter().any(|change| call.starts_with(change))),
                "{calls:?}"
            );
            told(error)
        }

        fn judge(&self, name: &str) {
            let path = self.path(name);
            assert!(run("sgdisk", &["-v", &path]).contains("No problems found"), "{name}");
            run("e2fsck", &["-fn", &format!("{path}?offset={MIB}")]);
        }
    }

    fn root(size_mib: u64, disk: Option<config::Disk>) -> config::Root {
        let json = br#"{"version":1,"bundle":"demo","exec":["/init"]}"#;
        let root = Config::parse_strict(json).unwrap().root;
        config::Root { size: size_mib * MIB, disk, ..root }
    }

    fn serial(name: &str, erase: bool) -> Option<config::Disk> {
        Some(config::Disk { selector: DiskSelector::Serial(format!("S-{name}")), erase })
    }

    fn run(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text}");
        text
    }

    fn told(error: Kept) -> String {
        Chain(&error).to_string()
    }

    #[test]
    fn a_partition_is_made_on_a_free_disk_and_found_again() {
        let machine = Machine::new(&[("vda", 200)]);
        let made = machine.prepare(100, None).unwrap();
        assert_eq!((made.name(), made.size(), made.is_read_only()), ("vda1".to_owned(), 100 * MIB, false));
        machine.judge("vda");
        let device = machine.path("vda1");
        let expected = [
            "unmount /disk".to_owned(),
            format!("partition vda1 {MIB} {}", 100 * MIB),
            format!("mount {device} /disk errors=remount-ro"),
            "name /disk".to_owned(),
            "grow /disk 25600".to_owned(),
        ];
        assert_eq!(machine.system.calls(), expected);
        let before = machine.bytes("vda");
        let found = find(&machine.system).unwrap();
        assert_eq!((found.name(), found.size()), ("vda1".to_owned(), 100 * MIB));
        let again = prepare(&machine.system, &mut Modules::default(), &root(100, None), Some(found)).unwrap();
        assert_eq!(again.name(), "vda1");
        assert!(before == machine.bytes("vda"), "found, and written to");
    }

    #[test]
    fn what_has_a_journal_to_replay_is_mounted_twice() {
        const INCOMPATIBLE: u64 = 1024 + 96;
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        let mounts = || {
            let before = machine.system.calls().len();
            find(&machine.system).unwrap();
            let calls = machine.system.calls().into_iter().skip(before);
            calls.filter(|call| call.contains("mount")).collect::<Vec<_>>()
        };
        let mount = format!("mount {} /disk errors=remount-ro", machine.path("vda1"));
        assert_eq!(mounts(), [mount.as_str()]);
        let features = machine.bytes("vda")[(MIB + INCOMPATIBLE) as usize];
        machine.write("vda", MIB + INCOMPATIBLE, &[features | 4]);
        assert_eq!(mounts(), [mount.as_str(), "unmount /disk", mount.as_str()]);
    }

    #[test]
    fn sectors_of_4_kib_work() {
        let machine = Machine::new(&[]);
        machine.add("nvme0n1", 200, 4096);
        assert_eq!(machine.prepare(100, None).unwrap().name(), "nvme0n1p1");
        run("e2fsck", &["-fn", &format!("{}?offset={MIB}", machine.path("nvme0n1"))]);
        let table = run(
            "partx",
            &[
                "--bytes",
                "-r",
                "-g",
                "-o",
                "NR,START,SIZE,NAME",
                "--sector-size",
                "4096",
                &machine.path("nvme0n1"),
            ],
        );
        assert_eq!(table.trim(), format!("1 2048 {} zstrap-cache", 100 * MIB));
    }

    #[test]
    fn grows_with_the_config_and_never_shrinks() {
        let machine = Machine::new(&[("vda", 300)]);
        machine.prepare(100, None).unwrap();
        assert_eq!(machine.prepare(200, None).unwrap().size(), 200 * MIB);
        machine.judge("vda");
        let before = machine.bytes("vda");
        assert_eq!(machine.prepare(100, None).unwrap().size(), 200 * MIB);
        assert!(before == machine.bytes("vda"));
        // As far as the disk goes.
        assert_eq!(machine.prepare(1000, None).unwrap().size(), 298 * MIB);
        machine.judge("vda");
    }

    #[test]
    fn grows_over_nothing_that_is_there() {
        let machine = Machine::new(&[("vda", 300)]);
        machine.prepare(100, None).unwrap();
        machine.write("vda", 101 * MIB + 5, b"data");
        let before = machine.bytes("vda");
        assert_eq!(machine.prepare(200, None).unwrap().size(), 100 * MIB);
        assert!(before == machine.bytes("vda"));
        assert_eq!(machine.prepare(200, serial("vda", true)).unwrap().size(), 200 * MIB);
    }

    #[test]
    fn grows_with_the_disk_up_to_the_next_partition() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(150, None).unwrap();
        fs::File::options().write(true).open(machine.path("vda")).unwrap().set_len(400 * MIB).unwrap();
        machine.change("vda", |disk| disk.size = 400 * MIB);
        assert_eq!(machine.prepare(250, None).unwrap().size(), 250 * MIB);
        machine.judge("vda");
        run("sgdisk", &["-n", "2:300M:0", &machine.path("vda")]);
        assert_eq!(machine.prepare(390, None).unwrap().size(), 299 * MIB);
        machine.judge("vda");
    }

    /// Such as of boards that have their boot loader behind the header: sgdisk -j makes room for it.
    #[test]
    fn grows_by_no_table_that_would_be_written_over_something_else() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        run("sgdisk", &["-j", "100", &machine.path("vda")]);
        machine.write("vda", 2 * 512, b"loader");
        let before = machine.bytes("vda");
        assert_eq!(machine.prepare(150, None).unwrap().size(), 100 * MIB);
        assert!(before == machine.bytes("vda"));

        // The disk has grown, and its end has something.
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        fs::File::options().write(true).open(machine.path("vda")).unwrap().set_len(300 * MIB).unwrap();
        machine.change("vda", |disk| disk.size = 300 * MIB);
        machine.write("vda", 300 * MIB - 9000, b"x");
        let before = machine.bytes("vda");
        assert_eq!(machine.prepare(250, None).unwrap().size(), 100 * MIB);
        assert!(before == machine.bytes("vda"));
        machine.write("vda", 300 * MIB - 9000, b"\0");
        assert_eq!(machine.prepare(250, None).unwrap().size(), 250 * MIB);
        machine.judge("vda");
    }

    /// Each write is one that could be the last: whatever of them has arrived, the next boot goes on from there.
    #[test]
    fn a_cut_at_any_point_leaves_what_the_next_boot_takes_up() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        let whole = machine.bytes("vda");
        let end = whole.len();
        // In the order in which they are written: second table, first table, MBR, file system, superblock.
        let places = [
            end - 33 * 512..end - 512,
            end - 512..end,
            1024..34 * 512,
            512..1024,
            0..512,
            2 * MIB as usize..65 * MIB as usize,
        ];
        for cut in 0..=places.len() {
            let cut_off = Machine::new(&[("vda", 200)]);
            for place in &places[..cut] {
                cut_off.write("vda", place.start as u64, &whole[place.clone()]);
            }
            if cut == places.len() {
                let error = io::Error::from(Errno::INVAL);
                cut_off.system.mount_errors.lock().unwrap().push(error);
            }
            // With another size than before the cut.
            let size = if cut < 5 { 120 } else { 100 };
            if cut == 5 {
                cut_off.system.mount_errors.lock().unwrap().push(io::Error::from(Errno::INVAL));
            }
            let made = cut_off.prepare(size, None).unwrap_or_else(|error| panic!("{cut}: {error}"));
            assert_eq!(made.size(), size * MIB, "{cut}");
            cut_off.judge("vda");
        }
    }

    /// The same while an existing table is changed.
    #[test]
    fn a_cut_while_growing_leaves_one_of_two_tables() {
        let machine = Machine::new(&[("vda", 300)]);
        machine.prepare(100, None).unwrap();
        let before = machine.bytes("vda");
        machine.prepare(200, None).unwrap();
        let after = machine.bytes("vda");
        let end = after.len();
        let places = [end - 33 * 512..end - 512, end - 512..end, 1024..34 * 512, 512..1024];
        for cut in 0..=places.len() {
            let cut_off = Machine::new(&[("vda", 300)]);
            cut_off.write("vda", 0, &before);
            for place in &places[..cut] {
                cut_off.write("vda", place.start as u64, &after[place.clone()]);
            }
            let found = find(&cut_off.system).unwrap_or_else(|| panic!("{cut}"));
            let grown =
                prepare(&cut_off.system, &mut Modules::default(), &root(200, None), Some(found)).unwrap();
            assert_eq!(grown.size(), 200 * MIB, "{cut}");
            cut_off.judge("vda");
        }
    }

    #[test]
    fn a_disk_with_anything_on_it_is_kept() {
        for place in [0, 511, 15 * MIB, 185 * MIB, 200 * MIB - 1] {
            let machine = Machine::new(&[("vda", 200)]);
            machine.write("vda", place, b"x");
            let expected = format!("no disk is free: vda: data of a kind that is not known, at byte {place}");
            assert_eq!(machine.refused(None), expected);
        }
        // One that is small is read whole.
        let small = Machine::new(&[("vda", 96)]);
        small.write("vda", 50 * MIB + 7, b"x");
        assert!(small.refused(None).ends_with(&format!("at byte {}", 50 * MIB + 7)));
    }

    #[test]
    fn a_disk_with_much_in_its_midst_is_kept() {
        let machine = Machine::new(&[("vda", 400)]);
        // All but the edges and 16 MiB more; that 64 samples miss it all is less likely than 10^-80.
        for at in 32..380 {
            machine.write("vda", at * MIB, &vec![7; MIB as usize]);
        }
        assert!(machine.refused(None).starts_with("no disk is free: vda: data of a kind that is not known"));
    }

    #[test]
    fn what_is_kept_is_told_by_its_name() {
        let told = |command: &str| {
            let machine = Machine::new(&[("vda", 100)]);
            run("sh", &["-c", &command.replace("FILE", &machine.path("vda"))]);
            machine.refused(None)
        };
        assert_eq!(told("mkfs.ext4 -q FILE"), "no disk is free: vda: ext4");
        assert_eq!(
            told("sgdisk -n 1:2048:+30M -n 2:0:+30M FILE && mkfs.ext4 -q -E offset=1048576 FILE 30M"),
            "no disk is free: vda: GPT with 2 partitions: ext4, nothing known"
        );
        assert_eq!(
            told(
                "printf '2048,16384,83\\n' | sfdisk -q -X dos FILE && mkfs.ext2 -q -E offset=1048576 FILE 8M"
            ),
            "no disk is free: vda: MBR with 1 partition: ext2"
        );
        assert_eq!(told("sgdisk -o FILE"), "no disk is free: vda: GPT with 0 partitions");
        assert_eq!(
            told("sgdisk -o FILE && printf x | dd of=FILE bs=1 seek=540 conv=notrunc status=none"),
            "no disk is free: vda: damaged GPT with 1 partition: nothing known"
        );
    }

    #[test]
    fn of_two_free_disks_or_two_partitions_of_ours_none_is_taken() {
        let machine = Machine::new(&[("vda", 200), ("vdb", 200)]);
        let several = |what| format!("there are several {what}, and nothing says which to use: ");
        assert_eq!(machine.refused(None), several("free disks") + "vda, vdb");
        machine.prepare(100, serial("vda", false)).unwrap();
        machine.prepare(100, serial("vdb", false)).unwrap();
        assert!(find(&machine.system).is_none());
        let error = told(machine.prepare(100, None).unwrap_err());
        assert_eq!(error, several("partitions of ours") + "vda1, vdb1");
        assert_eq!(machine.prepare(100, serial("vdb", false)).unwrap().name(), "vdb1");
    }

    #[test]
    fn a_disk_is_erased_only_if_the_config_names_it_and_says_so() {
        let machine = Machine::new(&[("vda", 200), ("vdb", 200)]);
        for name in ["vda", "vdb"] {
            run("mkfs.ext4", &["-q", &machine.path(name)]);
        }
        machine.refused(serial("vda", false));
        let other = machine.bytes("vdb");
        assert_eq!(machine.prepare(100, serial("vda", true)).unwrap().name(), "vda1");
        machine.judge("vda");
        assert!(other == machine.bytes("vdb"));
    }

    #[test]
    fn boot_media_are_never_erased() {
        let machine = Machine::new(&[("sda", 200)]);
        machine.write("sda", 7 * MIB + 512, b"ZSTRSLOT\x01\0\0\0");
        let told = machine.refused(serial("sda", true));
        assert_eq!(
            told,
            "making a partition on sda: it bears an image of zstrap: boot media are never changed"
        );
    }

    /// A slot far behind on a disk stands in a partition that holds the image, such as an ESP.
    #[test]
    fn boot_media_with_their_image_in_a_late_partition_are_never_erased() {
        for table in ["sgdisk -n 1:600M:+50M FILE", "echo '1228800,102400,ef' | sfdisk -q -X dos FILE"] {
            let machine = Machine::new(&[("sda", 700)]);
            run("sh", &["-c", &table.replace("FILE", &machine.path("sda"))]);
            machine.write("sda", 610 * MIB + 512, b"ZSTRSLOT\x01\0\0\0");
            let told = told(machine.prepare(100, serial("sda", true)).unwrap_err());
            assert!(told.ends_with("boot media are never changed"), "{told}");
        }
    }

    #[test]
    fn boot_media_with_a_partition_of_ours_are_not_changed() {
        let machine = Machine::new(&[("sda", 300)]);
        machine.prepare(100, None).unwrap();
        // A content of a bundle is no medium.
        machine.write("sda", 60 * MIB, b"ZSTRSLOT");
        assert_eq!(machine.prepare(120, None).unwrap().size(), 120 * MIB);
        machine.write("sda", 290 * MIB, b"ZSTRSLOT");
        machine.write("sda", MIB, &[0; 4096]);
        let before = machine.bytes("sda");
        assert_eq!(machine.prepare(150, serial("sda", true)).unwrap().size(), 120 * MIB);
        machine.system.mount_errors.lock().unwrap().push(io::Error::from(Errno::UCLEAN));
        let told = told(machine.prepare(120, None).unwrap_err());
        assert!(told.starts_with("making a file system in sda1: it bears an image"), "{told}");
        assert!(before == machine.bytes("sda"));
    }

    #[test]
    fn what_is_kept_is_told_with_its_code_and_what_to_do() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.change("vda", |disk| disk.is_read_only = true);
        let told = machine.prepare(100, None).unwrap_err().told();
        assert!(
            told.starts_with("ZS-DSK-01: no disk is free: vda: it is read-only; try: name the disk "),
            "{told}"
        );
    }

    #[test]
    fn a_disk_that_cannot_be_read_or_written_is_kept() {
        let machine = Machine::new(&[("vda", 200)]);
        // Shorter than the kernel says.
        machine.change("vda", |disk| disk.size = 201 * MIB);
        assert!(machine.refused(None).starts_with("no disk is free: vda: it cannot be read: "));
        let machine = Machine::new(&[("vda", 200)]);
        machine.change("vda", |disk| disk.is_read_only = true);
        assert_eq!(machine.refused(None), "no disk is free: vda: it is read-only");
    }

    #[test]
    fn a_disk_that_is_too_small_is_kept() {
        let machine = Machine::new(&[("vda", 90)]);
        assert_eq!(machine.refused(None), "vda has 90 MiB, 100 MiB are asked for");
        let error = told(machine.prepare(10, None).unwrap_err());
        assert_eq!(error, "vda has 90 MiB, 64 MiB are asked for");
        // One of just that size needs a little for itself.
        assert_eq!(machine.prepare(90, None).unwrap().size(), 88 * MIB);
        machine.judge("vda");
    }

    #[test]
    fn a_file_system_that_is_damaged_is_made_anew_and_one_of_a_failing_disk_is_not() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        let fail = |errno| machine.system.mount_errors.lock().unwrap().push(io::Error::from(errno));
        machine.write("vda", MIB, &[0; 4096]);
        (0..3).for_each(|_| fail(Errno::IO));
        assert_eq!(machine.prepare(100, None).unwrap_err().code().as_str(), "ZS-DSK-05");
        fail(Errno::NODEV);
        assert!(matches!(machine.prepare(100, None), Err(Kept::NoDriver)));
        assert!(machine.bytes("vda")[MIB as usize..][..4096] == [0; 4096], "written to");
        fail(Errno::UCLEAN);
        machine.prepare(100, None).unwrap();
        machine.judge("vda");
    }

    /// One with a feature that this kernel does not know, say: the state in it is somebody's.
    #[test]
    fn a_file_system_that_only_this_kernel_cannot_mount_is_not_made_anew() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        let before = machine.bytes("vda");
        let fail = |errno| machine.system.mount_errors.lock().unwrap().push(io::Error::from(errno));
        fail(Errno::INVAL);
        assert_eq!(machine.prepare(100, None).unwrap_err().code().as_str(), "ZS-DSK-05");
        assert!(before == machine.bytes("vda"), "written to");
        machine.write("vda", MIB + 1024 + 120, b"x");
        fail(Errno::INVAL);
        machine.prepare(100, None).unwrap();
        assert!(before == machine.bytes("vda"), "not made anew");
    }

    #[test]
    fn a_disk_that_can_be_pulled_out_is_not_mounted_before_a_config_names_it() {
        let machine = Machine::new(&[("sda", 200), ("vda", 200)]);
        machine.prepare(100, serial("sda", false)).unwrap();
        machine.change("sda", |disk| disk.is_removable = true);
        let calls = machine.system.calls().len();
        assert!(find(&machine.system).is_none());
        assert_eq!(machine.system.calls()[calls..], [""; 0]);
        assert_eq!(machine.prepare(100, serial("sda", false)).unwrap().name(), "sda1");
        // Nor does it stand in the way of one that stays.
        machine.prepare(100, serial("vda", false)).unwrap();
        assert_eq!(find(&machine.system).unwrap().name(), "vda1");
    }

    #[test]
    fn a_read_only_disk_of_ours_is_mounted_read_only() {
        let machine = Machine::new(&[("vda", 200)]);
        machine.prepare(100, None).unwrap();
        machine.change("vda", |disk| disk.is_read_only = true);
        let (before, calls) = (machine.bytes("vda"), machine.system.calls().len());
        machine.system.mount_errors.lock().unwrap().push(io::Error::from(Errno::ROFS));
        assert!(find(&machine.system).unwrap().is_read_only());
        assert!(machine.prepare(150, None).unwrap().is_read_only());
        assert!(before == machine.bytes("vda"));
        assert!(
            machine.system.calls()[calls..].iter().any(|call| call.ends_with("errors=remount-ro,noload"))
        );
    }

    #[test]
    fn a_disk_that_takes_no_writes_any_more_is_mounted_read_only() {
        for errno in [Errno::ROFS, Errno::ACCESS, Errno::IO] {
            let machine = Machine::new(&[("vda", 200)]);
            machine.prepare(100, None).unwrap();
            let before = machine.bytes("vda");
            machine.system.mount_errors.lock().unwrap().push(io::Error::from(errno));
            let found = find(&machine.system).unwrap();
            assert!(found.is_read_only());
            assert!(
                prepare(&machine.system, &mut Modules::default(), &root(150, None), Some(found))
                    .unwrap()
                    .is_read_only()
            );
            assert!(before == machine.bytes("vda"));
        }
    }

    #[test]
    fn nothing_is_written_when_the_kernel_has_no_ext4() {
        let mut machine = Machine::new(&[("vda", 200)]);
        machine.system.no_ext4 = true;
        assert!(machine.refused(None).ends_with("this kernel has no ext4"));
    }

    #[test]
    fn disks_that_come_late_have_their_say() {
        let late = |selector: Option<DiskSelector>| {
            let machine = Machine::new(&[("vda", 200), ("vdb", 300), ("vdc", 100)]);
            let mut disks = machine.system.disks.lock().unwrap();
            machine.system.late_disks.lock().unwrap().extend(disks.drain(1..));
            drop(disks);
            let wanted = selector.map(|selector| config::Disk { selector, erase: false });
            machine.prepare(90, wanted).map(|disk| disk.name()).map_err(told)
        };
        assert_eq!(late(Some(DiskSelector::Largest)).unwrap(), "vdb1");
        assert_eq!(late(Some(DiskSelector::Smallest)).unwrap(), "vdc1");
        assert!(late(None).unwrap_err().starts_with("there are several free disks"));
    }

    #[test]
    fn nothing_is_made_while_a_disk_that_may_have_ours_cannot_be_read() {
        let machine = Machine::new(&[("vda", 200), ("vdb", 200)]);
        machine.prepare(100, serial("vdb", false)).unwrap();
        let there = machine.path("vdb");
        machine.change("vdb", |disk| disk.device = "/nowhere".into());
        let told = machine.refused(None);
        assert!(
            told.starts_with("nothing is made while a disk cannot be read: vdb: it cannot be read: "),
            "{told}"
        );
        assert!(
            machine.refused(serial("vdb", true)).starts_with("no disk is free: vdb: it cannot be read: ")
        );
        machine.change("vdb", |disk| disk.device = there.clone().into());
        assert_eq!(machine.prepare(100, None).unwrap().name(), "vdb1");
    }

    #[test]
    fn a_disk_whose_time_is_over_is_read_no_more() {
        let machine = Machine::new(&[("vda", 200)]);
        let disk = &machine.system.disks()[0];
        let late = Reader::of(disk, Duration::ZERO).unwrap();
        let errors = [
            table::find(&late, disk).map(drop).unwrap_err(),
            free::first_not_zero(&late, 0..disk.size, &[]).map(drop).unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.kind() == io::ErrorKind::TimedOut), "{errors:?}");
    }

    #[test]
    fn the_old_disk_is_left_when_the_config_names_another() {
        let machine = Machine::new(&[("vda", 200), ("vdb", 200)]);
        machine.prepare(100, serial("vda", false)).unwrap();
        let old = machine.bytes("vda");
        let found = find(&machine.system).unwrap();
        let disk =
            prepare(&machine.system, &mut Modules::default(), &root(100, serial("vdb", false)), Some(found))
                .unwrap();
        assert_eq!(disk.name(), "vdb1");
        assert!(old == machine.bytes("vda"));
    }

    #[test]
    fn without_a_disk_there_is_none() {
        let machine = Machine::new(&[]);
        assert!(find(&machine.system).is_none());
        assert_eq!(machine.system.calls(), [""; 0]);
    }
}
