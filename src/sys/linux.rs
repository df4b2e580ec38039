//! The verbs on a real kernel.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::disk::block::{self, Block};
use crate::fail::{self, Code};

use super::{End, Meta, Mount, NewFile, Program, RootDir, System};

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

impl System for Linux {
    fn mount(&self, mount: &Mount<'_>) -> io::Result<()> {
        fs::create_dir_all(mount.target)?;
        let options = CString::new(mount.options).map_err(|_| io::ErrorKind::InvalidInput)?;
        rustix::mount::mount(mount.kind, mount.target, mount.kind, mount.flags, options.as_c_str())?;
        Ok(())
    }

    fn mount_below(&self, root: &str, mount: &Mount<'_>) -> io::Result<()> {
        let target = dir_below(root, mount.target)?;
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        let options = CString::new(mount.options).map_err(|_| io::ErrorKind::InvalidInput)?;
        rustix::mount::mount(mount.kind, target, mount.kind, mount.flags, options.as_c_str())?;
        Ok(())
    }

    fn move_mount(&self, from: &str, root: &str, to: &str) -> io::Result<()> {
        use rustix::mount::MoveMountFlags;
        // By descriptor: /proc itself may be what moves.
        let target = dir_below(root, to)?;
        rustix::mount::move_mount(CWD, from, &target, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)?;
        Ok(())
    }

    fn bind_over(&self, file: &str, root: &str, path: &str) -> io::Result<bool> {
        let root = open_dir(root)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(target) = openat2(&root, path.as_bytes(), flags, Mode::empty()) else { return Ok(false) };
        if FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        // By descriptor: the path was resolved inside the root once, and stays what it was.
        rustix::mount::mount_bind(file, format!("/proc/self/fd/{}", target.as_raw_fd()))?;
        Ok(true)
    }

    fn bind_below(&self, dir: &str, root: &str, path: &str) -> io::Result<()> {
        let target = dir_below(root, path)?;
        rustix::mount::mount_bind(dir, format!("/proc/self/fd/{}", target.as_raw_fd()))?;
        Ok(())
    }

    fn unmount(&self, target: &str) {
        // Fails when nothing is mounted, which is what we want.
        let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
    }

    fn write_file(&self, path: &str, mode: u16, bytes: &[u8]) -> io::Result<()> {
        if let Some(parent) = Path::new(path).parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(u32::from(mode)).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(u32::from(mode)))?;
        file.write_all(bytes)
    }

    fn copy_file(&self, from: &str, to: &str, mode: u16) -> io::Result<()> {
        self.write_file(to, mode, &[])?;
        io::copy(&mut File::open(from)?, &mut OpenOptions::new().append(true).open(to)?)?;
        Ok(())
    }

    fn link_file(&self, from: &str, to: &str) -> io::Result<()> {
        match fs::hard_link(from, to) {
            // An earlier attempt got this far.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn open_root(&self, path: &str) -> io::Result<Box<dyn RootDir>> {
        Ok(Box::new(LinuxRoot { root: open_dir(path)? }))
    }

    fn memory_available(&self) -> io::Result<u64> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
        let kib = kib.and_then(|digits| digits.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemAvailable"))
    }

    fn switch_root(&self, root: &str) -> io::Result<()> {
        rustix::process::chdir(root)?;
        empty_initramfs()?;
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")?;
        Ok(())
    }

    fn disks(&self) -> Vec<Block> {
        block::all(Path::new("/sys/class/block"), Path::new("/dev"))
    }

    fn has_file_system(&self, kind: &str) -> bool {
        let all = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        all.split_whitespace().any(|word| word == kind)
    }

    fn set_partition(&self, disk: &Block, number: u32, start: u64, length: u64) -> io::Result<()> {
        let is_known = disk.known_partition(number).is_some();
        super::block::set_partition(&disk.device, number, start, length, is_known)
    }

    fn mount_device(&self, device: &Path, mount: &Mount<'_>) -> io::Result<()> {
        fs::create_dir_all(mount.target)?;
        let options = CString::new(mount.options).map_err(|_| io::ErrorKind::InvalidInput)?;
        rustix::mount::mount(device, mount.target, mount.kind, mount.flags, options.as_c_str())?;
        Ok(())
    }

    fn grow_ext4(&self, mount: &str, blocks: u64) -> io::Result<()> {
        super::block::grow_ext4(mount, blocks)
    }

    fn name_ext4(&self, mount: &str, uuid: [u8; 16]) -> io::Result<()> {
        super::block::name_ext4(mount, uuid)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn load_rules(&self, batch: &[u8]) -> io::Result<()> {
        crate::net::nft::load(batch)
    }

    fn exec(&self, program: &Program) -> io::Error {
        match prepare_process() {
            Ok(()) => exec(program),
            Err(error) => error,
        }
    }
}

/// Ends this boot at once. Returns only if the kernel refuses.
pub fn end(how: End) {
    use rustix::system::{RebootCommand, reboot};
    rustix::fs::sync();
    let command = match how {
        End::Reboot => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
        End::Halt => RebootCommand::Halt,
    };
    if let Err(error) = reboot(command) {
        let because = format!("{how:?} refused by the kernel: {error}");
        fail::explain(
            Code::NotEnded,
            "init",
            &because,
            "the machine still runs, and is told so again each minute",
        );
    }
}

/// A new program gets the default for every signal, none blocked, and descriptors 0 to 2 only.
///
/// # Errors
/// When /proc/self/fd cannot be read.
fn prepare_process() -> io::Result<()> {
    use nix::sys::signal::{
        SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
    };
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: SIG_DFL installs no handler, so no code of ours can run in a signal context.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    open_console()?;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if fd > 2 {
            // SAFETY: the number was listed as open just now. It is only marked, not closed, so whoever owns it
            // still owns it if exec fails; if another thread closes it meanwhile, the kernel says so.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            match rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC) {
                // A thread that still waits for a server's answer may end just now, and closes its own.
                Ok(()) | Err(rustix::io::Errno::BADF) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Descriptors 0 to 2 on the console that the new program sees: ours still lead to the device node of the
/// initramfs, which is deleted by now.
fn open_console() -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let open = |path: &str| rustix::fs::open(path, flags, Mode::empty());
    let console = open("/dev/console").or_else(|_| open("/dev/null"))?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

fn exec(program: &Program) -> io::Error {
    use std::os::unix::process::CommandExt as _;
    let text = |c: &CString| OsStr::from_bytes(c.as_bytes()).to_owned();
    let mut command = std::process::Command::new(text(&program.path));
    if let Some((name, args)) = program.argv.split_first() {
        command.arg0(text(name)).args(args.iter().map(text));
    }
    command.env_clear();
    for variable in &program.env {
        let bytes = variable.as_bytes();
        if let Some(equals) = bytes.iter().position(|b| *b == b'=') {
            command.env(OsStr::from_bytes(&bytes[..equals]), OsStr::from_bytes(&bytes[equals + 1..]));
        }
    }
    command.exec()
}

/// Deletes everything on the device of `/`, and nothing on any other: what is mounted stays.
fn empty_initramfs() -> io::Result<()> {
    let device = fs::symlink_metadata("/")?.dev();
    // A full machine must never run this on its disk: an initramfs is ramfs or tmpfs.
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let kind = u64::try_from(rustix::fs::statfs("/")?.f_type).unwrap_or(0);
    if kind != RAMFS_MAGIC && kind != TMPFS_MAGIC {
        return Err(io::Error::other("the root is not an initramfs"));
    }
    empty_dir(Path::new("/"), device);
    Ok(())
}

fn empty_dir(dir: &Path, device: u64) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // What cannot be looked at or removed costs memory, but must not stop the handoff.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device {
            continue;
        }
        if meta.is_dir() {
            empty_dir(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

fn open_dir(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a directory below a root, to mount on it.
fn dir_below(root: &str, path: &str) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/').as_bytes();
    openat2(&open_dir(root)?, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a path inside a root, whatever links on the way say.
fn openat2(root: &OwnedFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve)?)
}

/// Mounts a device read-only without giving it a place: the mount lives as long as a descriptor into it
/// (fsopen(2), fsmount(2)).
///
/// # Errors
/// The kernel's refusal.
pub fn mount_unattached(kind: &str, device: &str) -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags as Attr};
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_flag(&context, "ro")?;
    rustix::mount::fsconfig_set_string(&context, "source", device)?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Opens a folder below another. No path leads out of that.
///
/// # Errors
/// The kernel's refusal.
pub fn open_folder_below(folder: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    beneath(folder, if path.is_empty() { "." } else { path }, OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens a plain file below a folder, to read it. No path leads out of the folder.
///
/// # Errors
/// The kernel's refusal, also for what is no plain file.
pub fn open_below(folder: &OwnedFd, path: &str) -> io::Result<File> {
    // Without waiting: a pipe that nobody writes to must not hold up the boot.
    let file = File::from(beneath(folder, path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a plain file")) }
}

fn beneath(folder: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

struct LinuxRoot {
    root: OwnedFd,
}

impl LinuxRoot {
    /// The directory in which a path ends, and its last component.
    fn parent<'a>(&self, path: &'a [u8]) -> io::Result<(OwnedFd, &'a [u8])> {
        let (dir, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[][..], path),
        };
        Ok((openat2(&self.root, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?, name))
    }

    /// `st_mode` of what a path leads to inside the root.
    fn mode(&self, path: &[u8]) -> Option<u32> {
        let file = openat2(&self.root, path, OFlags::PATH, Mode::empty()).ok()?;
        Some(rustix::fs::fstat(&file).ok()?.st_mode)
    }
}

impl RootDir for LinuxRoot {
    fn make_dir(&self, path: &[u8], meta: Meta) -> io::Result<()> {
        if !path.is_empty() {
            let (parent, name) = self.parent(path)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Err(rustix::io::Errno::EXIST) | Ok(()) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        own(&openat2(&self.root, path, flags, Mode::empty())?, meta)
    }

    fn make_link(&self, path: &[u8], target: &[u8], meta: Meta) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, &parent, name)?;
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn create(&self, path: &[u8]) -> io::Result<Box<dyn NewFile>> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        match openat2(&parent, b".", flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => Ok(Box::new(LinuxFile {
                file: File::from(file),
                parent,
                name: name.to_vec(),
                other_name: None,
            })),
            // Overlays of the 6.1 kernels of Debian 12.
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                Ok(Box::new(LinuxFile::with_other_name(parent, name)?))
            }
            Err(error) => Err(error),
        }
    }

    fn make_stub(&self, path: &[u8], content: &str, size: u64, meta: Meta) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = openat2(&parent, name, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::ftruncate(&file, size)?;
        set(&file, "trusted.overlay.metacopy", b"")?;
        set(&file, "trusted.overlay.redirect", content.as_bytes())?;
        own(&file, meta)
    }

    fn hide(&self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(rustix::io::Errno::EXIST) => {}
            result => return Ok(result?),
        }
        // Something of the list has that name: a directory would be merged, all else hides.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match openat2(&parent, name, flags, Mode::empty()) {
            Ok(dir) => set(&dir, "trusted.overlay.opaque", b"y"),
            Err(_) => Ok(()),
        }
    }

    fn read(&self, path: &[u8]) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::from(openat2(&self.root, path, OFlags::RDONLY, Mode::empty())?)))
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        self.mode(path).is_some_and(|mode| FileType::from_raw_mode(mode) == FileType::Directory)
    }

    fn is_executable(&self, path: &[u8]) -> bool {
        let executable =
            |mode: u32| FileType::from_raw_mode(mode) == FileType::RegularFile && mode & 0o111 != 0;
        self.mode(path).is_some_and(executable)
    }
}

fn set(file: impl AsFd, attribute: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, attribute, value, rustix::fs::XattrFlags::empty())?)
}

/// Owner first: chown takes set-user-ID bits away.
fn own(file: impl AsFd, meta: Meta) -> io::Result<()> {
    rustix::fs::fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(u32::from(meta.mode)))?;
    Ok(())
}

/// From so many bytes on, a file goes to its disk before it has its name, so that the last wait for all of them is short.
/// Small ones would each cost a write of the journal. In RAM it is nothing.
const LARGE: u64 = 1 << 20;

struct LinuxFile {
    file: File,
    parent: OwnedFd,
    name: Vec<u8>,
    /// What it is called until then, where a file cannot be without a name.
    other_name: Option<Vec<u8>>,
}

impl LinuxFile {
    fn with_other_name(parent: OwnedFd, name: &[u8]) -> io::Result<Self> {
        let other_name = [b".", name, b".new"].concat();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = File::from(openat2(&parent, &other_name, flags, Mode::from_raw_mode(0o600))?);
        Ok(Self { file, parent, name: name.to_vec(), other_name: Some(other_name) })
    }
}

impl Drop for LinuxFile {
    fn drop(&mut self) {
        if let Some(name) = &self.other_name {
            let _ = rustix::fs::unlinkat(&self.parent, name.as_slice(), AtFlags::empty());
        }
    }
}

impl Write for LinuxFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewFile for LinuxFile {
    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn commit(mut self: Box<Self>, meta: Meta) -> io::Result<()> {
        own(&self.file, meta)?;
        if self.file.metadata()?.len() >= LARGE {
            self.file.sync_data()?;
        }
        if let Some(old) = &self.other_name {
            let (new, flags) = (self.name.as_slice(), RenameFlags::NOREPLACE);
            rustix::fs::renameat_with(&self.parent, old.as_slice(), &self.parent, new, flags)?;
            self.other_name = None;
            return Ok(());
        }
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, unnamed, &self.parent, self.name.as_slice(), AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const META: Meta = Meta { mode: 0o640, uid: 0, gid: 0 };

    fn root() -> (tempfile::TempDir, Box<dyn RootDir>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Linux.open_root(dir.path().to_str().unwrap()).unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_that_must_have_a_name_has_another_one_until_it_is_whole() {
        let (dir, _root) = root();
        let begin = || {
            let parent = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
            let mut file = Box::new(LinuxFile::with_other_name(parent, b"x").unwrap());
            file.write_all(b"whole").unwrap();
            file
        };
        let names = || {
            let entries = std::fs::read_dir(dir.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let file = begin();
        assert_eq!(names(), [".x.new"]);
        drop(file);
        assert_eq!(names(), [""; 0]);
        begin().commit(meta()).unwrap();
        assert_eq!(
            (names(), std::fs::read(dir.path().join("x")).unwrap()),
            (vec!["x".to_owned()], b"whole".to_vec())
        );
        assert_eq!(begin().commit(meta()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(), ["x"]);
    }

    fn meta() -> Meta {
        Meta { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), ..META }
    }

    #[test]
    fn a_file_has_no_name_until_it_is_committed() {
        let (dir, root) = root();
        let mut file = root.create(b"a b").unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        file.restart().unwrap();
        file.write_all(b"whole").unwrap();
        file.commit(meta()).unwrap();
        let path = dir.path().join("a b");
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_dropped_file_never_was() {
        let (dir, root) = root();
        root.create(b"x").unwrap().write_all(b"half").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_lead_nowhere_outside_the_root() {
        let (dir, root) = root();
        root.make_link(b"etc", b"/etc", meta()).unwrap();
        assert!(root.create(b"etc/passwd").is_err());
        assert!(root.read(b"etc/passwd").is_err());
        root.make_dir(b"inside", Meta { mode: 0o755, ..meta() }).unwrap();
        root.make_link(b"link", b"/inside", meta()).unwrap();
        root.create(b"link/file").unwrap().commit(meta()).unwrap();
        assert!(dir.path().join("inside/file").exists());
    }

    #[test]
    fn a_taken_name_is_not_replaced() {
        let (dir, root) = root();
        fs::write(dir.path().join("x"), "first").unwrap();
        let error = root.create(b"x").unwrap().commit(meta()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"first");
    }

    #[test]
    fn executables_are_found_through_links_inside() {
        let (_dir, root) = root();
        root.make_dir(b"bin", Meta { mode: 0o755, ..meta() }).unwrap();
        root.create(b"bin/zinit").unwrap().commit(Meta { mode: 0o755, ..meta() }).unwrap();
        root.create(b"bin/data").unwrap().commit(meta()).unwrap();
        root.make_link(b"init", b"/bin/zinit", meta()).unwrap();
        assert!(root.is_executable(b"init"));
        for no in [&b"bin/data"[..], b"bin", b"missing"] {
            assert!(!root.is_executable(no));
        }
    }
}
