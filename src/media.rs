//! A site in a folder: `file:///PATH`, in the initramfs or on boot media.
//!
//! In: the path. Out: a [`Source`] like a server, and believed as little. The folder of the initramfs itself is
//! taken if there is a site in it; else the first file system of a disk, stick or CD that has it. Media are only
//! read: mounted read-only, and only file systems without a journal, as replaying one would write. They are never
//! attached to the tree of files, so nothing is left mounted when the program of the bundle takes over.
//! Failure: no site there after [`WAIT`].

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zstrap_formats::url::Url;

use crate::disk::block::Block;
use crate::http::{Awaited, Body, From, HttpError, LONGEST_WAIT, Source};
use crate::modules::Modules;
use crate::sys::linux::{mount_unattached, open_below, open_folder_below};
use crate::watchdog;

/// How long devices may take to show up: USB needs seconds.
const WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(250);
/// What boot media bear. ext4 and its like are not here: mounting them writes.
const KINDS: [&str; 4] = ["iso9660", "vfat", "squashfs", "erofs"];
/// Modules that no device asks for.
const MODULES: [&str; 7] = ["isofs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "squashfs", "erofs"];
const BLOCK_DEVICES: &str = "/sys/class/block";
/// Devices that are no media: made of memory or of other devices; and floppy drives, which take seconds to be empty.
const NO_MEDIA: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "fd"];
/// What every site has.
const CONFIGS: &str = "configs";

/// What was said of media that could not be mounted: devices are looked at again and again, for each URL and through
/// each link.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Devices that had a site: they are what this machine boots from, and nothing is ever made on them.
static USED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Loads the drivers of file systems that media may have. The hardware's own come by the way of all hardware.
pub fn load_modules(modules: &mut Modules) {
    for module in MODULES {
        modules.load(module);
    }
}

/// Whether a site was found on the disk, or on a partition of it.
#[must_use]
pub fn is_in_use(disk: &Block) -> bool {
    let used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    used.iter().any(|device| *device == disk.name || disk.folder.join(device).exists())
}

/// A folder of the initramfs or of boot media, opened when it is first asked for something.
pub struct Media {
    url: Url,
    folder: Mutex<Folder>,
}

#[derive(Default)]
enum Folder {
    #[default]
    NotLookedFor,
    /// All devices had their time to show up.
    NotFound,
    Found(OwnedFd),
}

impl Media {
    /// The folder of this URL, whose scheme is `file`; nothing is opened yet.
    #[must_use]
    pub fn new(url: &Url) -> Self {
        Self { url: url.clone(), folder: Mutex::default() }
    }

    /// A folder that is open already.
    #[must_use]
    pub fn of_folder(url: &Url, folder: OwnedFd) -> Self {
        Self { url: url.clone(), folder: Mutex::new(Folder::Found(folder)) }
    }

    /// The path without the scheme and the leading slash.
    fn path(&self) -> &str {
        self.url.as_str().trim_start_matches("file:").trim_start_matches('/')
    }

    fn lost(&self, path: &str, source: io::Error) -> HttpError {
        let url = self.url.join(path);
        match source.kind() {
            io::ErrorKind::NotFound => HttpError::NotFound { url },
            _ => HttpError::Transport { url, source },
        }
    }

    /// A plain file of the site.
    fn file(&self, path: &str) -> Result<File, HttpError> {
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match std::mem::replace(&mut *folder, Folder::NotFound) {
            Folder::Found(found) => found,
            Folder::NotLookedFor => self.find(WAIT).map_err(|source| self.lost(path, source))?,
            Folder::NotFound => self.find(Duration::ZERO).map_err(|source| self.lost(path, source))?,
        };
        let file = open_below(&found, path).map_err(|source| self.lost(path, source));
        *folder = Folder::Found(found);
        file
    }

    fn find(&self, wait: Duration) -> io::Result<OwnedFd> {
        let started = Instant::now();
        let own = fs::File::open("/").map(OwnedFd::from).and_then(|root| site_below(&root, self.path()));
        if let Ok(folder) = own {
            log::info!(target: "media", "found url={} device=initramfs", self.url);
            return Ok(folder);
        }
        loop {
            // Of the last look only: what could not be mounted before may have been by now, or is gone.
            let mut refused = Vec::new();
            for device in devices() {
                watchdog::expect_within(LONGEST_WAIT);
                let Some(folder) = self.look_at(&device, &mut refused) else { continue };
                USED.lock().unwrap_or_else(PoisonError::into_inner).push(device.clone());
                let after = started.elapsed().as_secs_f64();
                log::info!(target: "media", "found url={} device={device} after={after:.3}s", self.url);
                return Ok(folder);
            }
            if started.elapsed() >= wait {
                return Err(io::Error::new(io::ErrorKind::TimedOut, nothing_found(&refused)));
            }
            watchdog::expect_within(watchdog::WORK);
            thread::sleep(LOOK);
        }
    }

    /// The folder on a device, if it has a file system of media with a site there. What was mounted and has none
    /// is unmounted by being dropped; what could not be is `refused`.
    fn look_at(&self, device: &str, refused: &mut Vec<String>) -> Option<OwnedFd> {
        let path = format!("/dev/{device}");
        let kind = File::open(&path).and_then(kind_of).ok()??;
        let mount = match mount_unattached(kind, &path) {
            Ok(mount) => mount,
            Err(error) => {
                refused.push(refusal(device, kind, &error));
                return None;
            }
        };
        site_below(&mount, self.path()).ok()
    }
}

/// That a file system cannot be mounted, in words, which are logged once.
fn refusal(device: &str, kind: &str, error: &io::Error) -> String {
    // What the kernel calls "No such device" is here a kind of file system that it does not know.
    let is_unknown = Errno::from_io_error(error) == Some(Errno::NODEV);
    let why = if is_unknown { "no driver in the kernel".to_owned() } else { error.to_string() };
    let text = format!("not mounted device={device} kind={kind} error={why}");
    if is_news(&text) {
        log::warn!(target: "media", "{text}");
    }
    text
}

/// Whether this was not said before.
fn is_news(text: &str) -> bool {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let is_news = !said.iter().any(|old| old == text);
    if is_news {
        said.push(text.to_owned());
    }
    is_news
}

/// What was looked for, and what might have had it.
fn nothing_found(refused: &[String]) -> String {
    let mut text = format!("no medium with a site in this folder within {}s", WAIT.as_secs());
    for refused in refused {
        text = text + ", " + refused;
    }
    text
}

/// The folder `path` below `root`, if it holds a site.
fn site_below(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let folder = open_folder_below(root, path)?;
    open_folder_below(&folder, CONFIGS)?;
    Ok(folder)
}

/// Block devices and their partitions that can be media, in the order of their names.
fn devices() -> Vec<String> {
    let entries = fs::read_dir(BLOCK_DEVICES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| !NO_MEDIA.iter().any(|prefix| name.starts_with(prefix))).collect();
    names.sort();
    names
}

/// Which of [`KINDS`] a device bears, by its magic number.
fn kind_of(mut device: impl Read + Seek) -> io::Result<Option<&'static str>> {
    let mut begin = [0; 2048];
    let has = read_up_to(&mut device, &mut begin)?;
    let begin = &begin[..has];
    let at = |offset: usize, magic: &[u8]| begin.get(offset..offset + magic.len()) == Some(magic);
    let [iso9660, vfat, squashfs, erofs] = KINDS;
    if at(0, b"hsqs") {
        return Ok(Some(squashfs));
    }
    if at(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        return Ok(Some(erofs));
    }
    if at(510, &[0x55, 0xaa]) && (at(54, b"FAT") || at(82, b"FAT32")) {
        return Ok(Some(vfat));
    }
    // ECMA-119, 8.1: the first volume descriptor stands in sector 16.
    let mut descriptor = [0; 6];
    device.seek(SeekFrom::Start(16 * 2048))?;
    let has = read_up_to(&mut device, &mut descriptor)?;
    Ok((has == descriptor.len() && &descriptor[1..] == b"CD001").then_some(iso9660))
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut has = 0;
    while has < buffer.len() {
        match reader.read(&mut buffer[has..]) {
            Ok(0) => break,
            Ok(read) => has += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(has)
}

impl Source for Media {
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        let mut reader = Awaited(self.file(path)?).take(limit.saturating_add(1));
        reader.read_to_end(&mut bytes).map_err(|source| self.lost(path, source))?;
        if bytes.len() as u64 > limit {
            return Err(HttpError::TooLarge { url: self.url.join(path), limit });
        }
        Ok(bytes)
    }

    fn open(&self, path: &str, from: &From, _: u64) -> Result<Body, HttpError> {
        let mut file = self.file(path)?;
        let lost = |source| self.lost(path, source);
        let length = file.metadata().map_err(lost)?.len();
        file.seek(SeekFrom::Start(from.offset)).map_err(lost)?;
        let left = length.saturating_sub(from.offset);
        Ok(Body { reader: Box::new(Awaited(file)), offset: from.offset, length: Some(left), etag: None })
    }

    fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.get(path, limit)
    }

    fn name(&self) -> String {
        self.url.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn site() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("site/configs/demo")).unwrap();
        fs::write(dir.path().join("site/configs/demo/latest"), "7\n").unwrap();
        fs::write(dir.path().join("secret"), "not of the site").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("site/outside")).unwrap();
        std::os::unix::fs::symlink("configs/demo/latest", dir.path().join("site/inside")).unwrap();
        dir
    }

    fn media(dir: &tempfile::TempDir) -> Media {
        Media::new(&format!("file://{}/site", dir.path().display()).parse().unwrap())
    }

    #[test]
    fn a_folder_of_the_initramfs_is_a_site() {
        let dir = site();
        let media = media(&dir);
        assert_eq!(media.probe("configs/demo/latest", 64).unwrap(), b"7\n");
        assert!(matches!(media.get("configs/demo/latest", 1), Err(HttpError::TooLarge { .. })));
        assert!(matches!(media.get("blobs/none", 1), Err(HttpError::NotFound { .. })));
        let mut body = media.open("inside", &From { offset: 1, etag: None }, 2).unwrap();
        let mut rest = Vec::new();
        body.reader.read_to_end(&mut rest).unwrap();
        assert_eq!((rest.as_slice(), body.offset, body.length), (&b"\n"[..], 1, Some(1)));
    }

    #[test]
    fn nothing_outside_of_the_folder_is_read() {
        let dir = site();
        let media = media(&dir);
        for path in ["outside", "../secret", "/etc/passwd"] {
            assert!(media.get(path, 100).is_err(), "{path}");
        }
        // A folder, and what would block for ever.
        assert!(media.get("configs", 100).is_err());
        let pipe = dir.path().join("site/pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(media.get("pipe", 100).is_err());
    }

    #[test]
    #[ignore = "needs root, a loop device, mksquashfs, and a kernel with squashfs"]
    fn a_file_system_of_a_device_is_read_and_never_attached() {
        let run = |program: &str, args: &[&str]| {
            let output = std::process::Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let (dir, image) = (site(), tempfile::NamedTempFile::new().unwrap());
        let (folder, image) = (dir.path().to_str().unwrap(), image.path().to_str().unwrap());
        run("mksquashfs", &[folder, image, "-noappend", "-quiet", "-no-progress"]);
        let device = run("losetup", &["-f", "--show", image]);
        let media = Media::new(&"file:///site".parse().unwrap());
        let found = media.look_at(device.trim_start_matches("/dev/"), &mut Vec::new()).unwrap();
        assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(&device));
        *media.folder.lock().unwrap() = Folder::Found(found);
        assert_eq!(media.get("configs/demo/latest", 64).unwrap(), b"7\n");
        assert!(media.get("outside", 100).is_err());
        assert!(
            Media::new(&"file:///other".parse().unwrap())
                .look_at(device.trim_start_matches("/dev/"), &mut Vec::new())
                .is_none()
        );
        drop(media);
        // Nothing holds it any more.
        run("losetup", &["-d", &device]);
    }

    #[test]
    fn media_that_cannot_be_mounted_were_passed_over_without_a_word() {
        let (unknown, damaged) = (io::Error::from(Errno::NODEV), io::Error::from(Errno::INVAL));
        // Another stick in the same socket.
        let refused = [refusal("sdy", "erofs", &unknown), refusal("sdy", "vfat", &damaged)];
        assert!(!is_news(&refused[0]) && !is_news(&refused[1]) && is_news("of another device"));
        let text = nothing_found(&refused);
        assert!(text.contains(", not mounted device=sdy kind=erofs error=no driver in the kernel"), "{text}");
        assert!(text.contains(", not mounted device=sdy kind=vfat error=Invalid argument"), "{text}");
    }

    #[test]
    fn what_could_not_be_mounted_once_stayed_a_cause_for_ever() {
        // Mounted a moment later, or unplugged: the next look does not find it any more.
        let gone = refusal("sdx-no-such-device", "vfat", &io::Error::from(Errno::IO));
        let media = Media::new(&"file:///no/such/site".parse().unwrap());
        let text = media.find(Duration::ZERO).unwrap_err().to_string();
        assert!(text.starts_with("no medium with a site in this folder within "), "{text}");
        assert!(!text.contains(&gone), "{text}");
    }

    #[test]
    fn media_are_known_by_their_magic_numbers() {
        let with = |offset: usize, magic: &[u8]| {
            let mut bytes = vec![0; 40_000];
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
            kind_of(io::Cursor::new(bytes)).unwrap()
        };
        assert_eq!(with(0, b"hsqs"), Some("squashfs"));
        assert_eq!(with(1024, &[0xe2, 0xe1, 0xf5, 0xe0]), Some("erofs"));
        assert_eq!(with(32_768, b"\x01CD001"), Some("iso9660"));
        // ext4, and a boot sector that is no FAT.
        assert_eq!(with(1080, &[0x53, 0xef]), None);
        assert_eq!(with(510, &[0x55, 0xaa]), None);
        let mut fat = vec![0; 512];
        fat[510..].copy_from_slice(&[0x55, 0xaa]);
        fat[82..87].copy_from_slice(b"FAT32");
        assert_eq!(kind_of(io::Cursor::new(fat)).unwrap(), Some("vfat"));
        assert_eq!(kind_of(io::Cursor::new(Vec::new())).unwrap(), None);
    }
}
