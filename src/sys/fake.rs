//! A machine, a site and an identity that exist only in memory, for tests: every call is recorded.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zstrap_formats::digest::{self, ContentDigest};
use zstrap_formats::identity::{Identity, Pin};
use zstrap_formats::key::SecretKey;
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::name::Arch;
use zstrap_formats::network::Network;
use zstrap_formats::packed::Packed;
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;
use zstrap_wire::dhcp4::{Lease, Route4};

use super::{Meta, Mount, NewFile, Program, RootDir, System};
use crate::clock::Now;
use crate::disk::block::Block;
use crate::http::{Body, From, HttpError, Source};
use crate::net::links::Link;
use crate::net::settings::Settings;
use crate::network::{Connection, Via};
use crate::servers::{Memory, Servers, Time};
use crate::{config, fetch, list, root};

pub const SERIAL: u64 = 1_763_625_600;
pub const CONFIG: &str = r#"{"version":1,"bundle":"demo","exec":["/init"]}"#;

pub fn now() -> Now {
    Now { time: Timestamp::from_unix(SERIAL + 60).expect("in range"), is_known: true }
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32], [n; 8])
}

pub fn identity() -> Identity {
    let json = serde_json::json!({
        "version": 1, "build_time": "2025-11-20T08:00:00Z", "servers": ["http://10.0.2.2:8080"],
        "keys": [key(1).public().to_base64()], "threshold": 1, "config": {"name": "demo"},
        "farmer_id": "farm", "farming_pool_id": "pool"
    });
    Identity::parse(json.to_string().as_bytes()).expect("the sample is valid")
}

/// Our address in [`lease`], and its server.
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 15);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A lease of 20 s.
pub fn lease() -> Lease {
    let gateway = Some(Ipv4Addr::new(10, 0, 0, 2));
    Lease {
        address: OURS,
        prefix: 24,
        routes: vec![Route4 { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway }],
        dns: vec![Ipv4Addr::new(10, 0, 0, 3)],
        hostname: None,
        search: Vec::new(),
        mtu: None,
        ntp: Vec::new(),
        server: SERVER,
        seconds: 20,
        renew_after: 10,
        rebind_after: 17,
    }
}

/// What a server answers to a DHCP packet of ours: all but its time is that of [`lease`].
pub fn dhcp_answer(
    question: &[u8],
    kind: u8,
    server: Ipv4Addr,
    address: Ipv4Addr,
    lease_seconds: u32,
) -> Vec<u8> {
    let mut packet = question[..240].to_vec();
    packet[0] = 2;
    packet[16..20].copy_from_slice(&address.octets());
    packet.extend_from_slice(&[53, 1, kind, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 2, 6, 4, 10, 0, 0, 3]);
    packet.extend_from_slice(&[51, 4]);
    packet.extend_from_slice(&lease_seconds.to_be_bytes());
    packet.extend_from_slice(&[54, 4]);
    packet.extend_from_slice(&server.octets());
    packet.push(255);
    packet
}

/// Bytes with and without patterns, which become about half as long.
pub fn half_noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|i| if i % 3 == 0 { noise() } else { b'a' }).collect()
}

pub fn connection() -> Connection {
    let link =
        Link { name: "eth0".to_owned(), index: 2, mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56], has_master: false };
    let (settings, obtained) = (Settings::default(), Duration::ZERO);
    let via = Via { link, settings, lease: None, obtained, made: None };
    let (server, hostname) = ("http://10.0.2.2:8080".to_owned(), "node".to_owned());
    Connection { via: Some(via), network: Network::default(), server, hostname }
}

/// How a site misbehaves when a blob is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// One bit of the first half is another.
    Flipped,
    /// One bit of the last byte is another.
    FlippedEnd,
    Longer,
    Endless,
    WrongMd5,
    Missing,
    /// A status of 503.
    Busy,
    /// The same, to the first request for a blob.
    BusyOnce,
    /// No answer at all.
    Dead,
    /// The first connection breaks after half of the bytes.
    CutOnce,
    /// The same, and ranges are ignored.
    CutOnceNoRanges,
    /// Each connection brings a tenth of the bytes, and breaks.
    CutAlways,
    /// Each connection brings one byte, and breaks.
    ByteByByte,
    /// Each connection begins at the start and breaks after another number of bytes, less than half of them.
    CutAnywhereNoRanges,
    /// Each connection stalls after half of the bytes that are left.
    Stalled,
    /// Each connection brings so many bytes a second.
    Slow(u64),
    /// Ranges are ignored.
    NoRanges,
    /// A range begins elsewhere.
    WrongRange,
}

/// A clock on which waiting takes no time.
#[derive(Default)]
pub struct VirtualTime {
    now: Mutex<Duration>,
    pauses: Mutex<Vec<Duration>>,
}

impl VirtualTime {
    pub fn pass(&self, time: Duration) {
        *self.now.lock().expect("no test panics here") += time;
    }

    /// Every pause so far.
    pub fn pauses(&self) -> Vec<Duration> {
        self.pauses.lock().expect("no test panics here").clone()
    }
}

impl Time for VirtualTime {
    fn now(&self) -> Duration {
        *self.now.lock().expect("no test panics here")
    }

    fn pause(&self, pause: Duration) {
        self.pass(pause);
        self.pauses.lock().expect("no test panics here").push(pause);
    }
}

/// The files of a site.
#[derive(Clone, Default)]
pub struct Site {
    files: BTreeMap<String, Vec<u8>>,
    pub name: String,
    pub fault: Fault,
    /// The entity tag of its blobs.
    pub etag: Option<String>,
    /// How long it wants to be left alone.
    wait: Option<Duration>,
    pub time: Arc<VirtualTime>,
    asked: Arc<Mutex<Vec<(String, From)>>>,
    /// When blobs, and other files, were asked for.
    opens: Arc<Mutex<Vec<Duration>>>,
    gets: Arc<Mutex<Vec<Duration>>>,
}

/// The one server of an identity.
pub fn servers(site: &Site) -> Servers {
    mirrors(&[site])
}

/// Several servers, in the time of the first.
pub fn mirrors(sites: &[&Site]) -> Servers {
    mirrors_known(sites, &Memory::with_time(sites[0].time.clone()))
}

/// The same, of which this is known from earlier attempts.
pub fn mirrors_known(sites: &[&Site], memory: &Memory) -> Servers {
    Servers::of_sources(sites.iter().map(|site| Arc::new((*site).clone()) as _).collect(), memory)
}

impl Site {
    pub fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub fn with(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    pub fn asking_for(self, seconds: u64) -> Self {
        Self { wait: Some(Duration::from_secs(seconds)), ..self }
    }

    pub fn insert(&mut self, path: &str, bytes: &[u8]) {
        self.files.insert(path.to_owned(), bytes.to_vec());
    }

    pub fn copy(&mut self, from: &str, to: &str) {
        let bytes = self.files[from].clone();
        self.files.insert(to.to_owned(), bytes);
    }

    /// Takes the files below a folder from another site.
    pub fn copy_from(&mut self, other: &Site, folder: &str) {
        let files = other.files.iter().filter(|(path, _)| path.starts_with(folder));
        self.files.extend(files.map(|(path, bytes)| (path.clone(), bytes.clone())));
    }

    pub fn sign(&mut self, path: &str, comment: &str) {
        let signature = key(1).sign(&self.files[path], comment).to_file();
        self.insert(&site::signature(path), signature.as_bytes());
    }

    /// One of several signatures.
    pub fn sign_by(&mut self, path: &str, key: &SecretKey, comment: &str) {
        let signature = key.sign(&self.files[path], comment).to_file();
        self.insert(&site::signature_by(path, key.public().id()), signature.as_bytes());
    }

    /// Publishes a list of these files as bundle `demo`.
    pub fn publish(&mut self, list: &str) {
        let name = "demo".parse().expect("a name");
        let arch = Arch::native().expect("tests run where zstrap runs");
        let path = site::list(&name, arch, SERIAL);
        self.insert(&path, list.as_bytes());
        self.sign(&path, &comment("list", arch.as_str()));
        self.insert(&site::bundle_latest(&name, arch), SERIAL.to_string().as_bytes());
    }

    /// Takes a file away.
    pub fn remove(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// What was asked of its blobs.
    pub fn asked(&self) -> Vec<From> {
        self.asked.lock().expect("no test panics here").iter().map(|(_, from)| from.clone()).collect()
    }

    /// When its blobs were asked for.
    pub fn asked_at(&self) -> Vec<Duration> {
        self.opens.lock().expect("no test panics here").clone()
    }

    /// When its other files were asked for.
    pub fn gets(&self) -> Vec<Duration> {
        self.gets.lock().expect("no test panics here").clone()
    }

    fn busy(&self, path: &str) -> HttpError {
        HttpError::Status { url: path.to_owned(), status: 503, wait: self.wait }
    }

    /// From which bytes on which kind of its blobs were asked for: true for compressed ones.
    pub fn kinds(&self) -> Vec<(bool, u64)> {
        let asked = self.asked.lock().expect("no test panics here");
        asked.iter().map(|(path, from)| (path.ends_with(".zst"), from.offset)).collect()
    }

    /// From which bytes on its blobs were asked for.
    pub fn offsets(&self) -> Vec<u64> {
        self.asked().iter().map(|from| from.offset).collect()
    }

    fn missing(path: &str) -> HttpError {
        HttpError::NotFound { url: path.to_owned() }
    }

    fn dead(path: &str) -> HttpError {
        HttpError::Transport { url: path.to_owned(), source: io::ErrorKind::TimedOut.into() }
    }
}

pub fn comment(kind: &str, arch: &str) -> String {
    format!(
        "zstrap1 kind={kind} name=demo arch={arch} serial={SERIAL} \
         created=2025-11-20T08:00:00Z expires=2026-02-20T08:00:00Z"
    )
}

impl Source for Site {
    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.gets.lock().expect("no test panics here").push(self.time.now());
        match self.fault {
            Fault::Dead => return Err(Self::dead(path)),
            Fault::Busy => return Err(self.busy(path)),
            _ => {}
        }
        let bytes = self.files.get(path).cloned().ok_or_else(|| Self::missing(path))?;
        if bytes.len() as u64 > limit {
            Err(HttpError::TooLarge { url: path.to_owned(), limit })
        } else {
            Ok(bytes)
        }
    }

    fn probe(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        self.get(path, limit)
    }

    fn open(&self, path: &str, from: &From, _: u64) -> Result<Body, HttpError> {
        let count = {
            let mut asked = self.asked.lock().expect("no test panics here");
            asked.push((path.to_owned(), from.clone()));
            asked.len()
        };
        self.opens.lock().expect("no test panics here").push(self.time.now());
        let first = count == 1;
        let whole = self.files.get(path).cloned().ok_or_else(|| Self::missing(path))?;
        let ignores_ranges = matches!(self.fault, Fault::NoRanges | Fault::CutAnywhereNoRanges)
            || self.fault == Fault::CutOnceNoRanges && !first;
        let offset = if ignores_ranges { 0 } else { usize::try_from(from.offset).expect("small") };
        let half = whole.len() / 2;
        let mut bytes = whole.clone();
        let mut length = Some((whole.len() - offset) as u64);
        let mut then: Box<dyn Read + Send> = Box::new(io::empty());
        let broken = |kind: io::ErrorKind| Box::new(Broken(kind)) as Box<dyn Read + Send>;
        let mut end = whole.len();
        match self.fault {
            Fault::BusyOnce if first => return Err(self.busy(path)),
            Fault::None | Fault::WrongMd5 | Fault::NoRanges | Fault::BusyOnce => {}
            Fault::Missing => return Err(Self::missing(path)),
            Fault::Dead => return Err(Self::dead(path)),
            Fault::Busy => return Err(self.busy(path)),
            Fault::WrongRange if offset > 0 => {
                return Err(HttpError::Range { url: path.to_owned(), offset: from.offset });
            }
            Fault::Flipped => bytes[half] ^= 1,
            Fault::FlippedEnd => bytes[end - 1] ^= 1,
            Fault::Longer => {
                length = length.map(|length| length + 1);
                then = Box::new(io::repeat(0).take(1));
            }
            Fault::Endless => {
                length = None;
                then = Box::new(io::repeat(7));
            }
            Fault::CutOnce | Fault::CutOnceNoRanges if first => {
                (end, then) = (half, broken(io::ErrorKind::UnexpectedEof));
            }
            Fault::CutOnce | Fault::CutOnceNoRanges | Fault::WrongRange => {}
            Fault::CutAlways => {
                end = (offset + whole.len() / 10).min(whole.len());
                then = broken(io::ErrorKind::UnexpectedEof);
            }
            Fault::ByteByByte => {
                (end, then) = (offset + 1, broken(io::ErrorKind::UnexpectedEof));
            }
            Fault::CutAnywhereNoRanges => {
                (end, then) = (count * 1_000_003 % half, broken(io::ErrorKind::UnexpectedEof));
            }
            Fault::Stalled => {
                (end, then) = ((offset + whole.len()) / 2, broken(io::ErrorKind::TimedOut));
            }
            Fault::Slow(_) => {}
        }
        bytes.truncate(end);
        let bytes = io::Cursor::new(bytes.split_off(offset)).chain(then);
        let reader: Box<dyn Read + Send> = match self.fault {
            Fault::Slow(rate) => Box::new(Slow { bytes, rate, time: self.time.clone() }),
            _ => Box::new(bytes),
        };
        Ok(Body { reader, offset: offset as u64, length, etag: self.etag.clone() })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A connection that was lost.
struct Broken(io::ErrorKind);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
}

/// A connection on which each second brings a few bytes.
struct Slow<R> {
    bytes: R,
    rate: u64,
    time: Arc<VirtualTime>,
}

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rate).expect("small").min(buffer.len());
        let read = self.bytes.read(&mut buffer[..most])?;
        self.time.pass(Duration::from_secs(1));
        Ok(read)
    }
}

/// A site with this config, and the identity that follows it.
pub fn site_with_config(json: &str) -> (Site, Identity) {
    let (mut site, identity) = (Site::default(), identity());
    let path = site::config(&identity.config.name, SERIAL);
    site.insert(&path, json.as_bytes());
    site.sign(&path, &comment("config", "any"));
    site.insert(&site::config_latest(&identity.config.name), SERIAL.to_string().as_bytes());
    (site, identity)
}

/// Makes the identity pin the config that the site has.
pub fn pin(site: &mut Site, identity: &mut Identity) -> Pin {
    let from = site::config(&identity.config.name, SERIAL);
    let bytes = &site.files[&from];
    let pin = Pin { md5: digest::md5(bytes), sha256: digest::sha256(bytes) };
    let to = site::config_by_hash(&pin.sha256);
    site.copy(&from, &to);
    site.copy(&site::signature(&from), &site::signature(&to));
    identity.config.pin = Some(pin);
    pin
}

/// What happened in a fake machine and what its root holds.
#[derive(Clone, Default)]
pub struct Recorder {
    calls: Arc<Mutex<Vec<String>>>,
    files: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// The disks that the machine has.
    pub disks: Arc<Mutex<Vec<Block>>>,
    /// Those that show up one by one, the last one first, whenever somebody has looked.
    pub late_disks: Arc<Mutex<Vec<Block>>>,
    /// Its kernel has no ext4.
    pub no_ext4: bool,
    /// What mounting devices fails with, the last one first.
    pub mount_errors: Arc<Mutex<Vec<io::Error>>>,
    /// Its kernel has no packet filter.
    pub no_rules: bool,
}

impl Recorder {
    fn record(&self, call: String) {
        self.calls.lock().expect("no test panics here").push(call);
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no test panics here").clone()
    }

    pub fn file(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.files.lock().expect("no test panics here").get(path).cloned()
    }
}

impl System for Recorder {
    fn mount(&self, mount: &Mount<'_>) -> io::Result<()> {
        self.record(format!("mount {} {}", mount.kind, mount.target));
        Ok(())
    }

    fn mount_below(&self, root: &str, mount: &Mount<'_>) -> io::Result<()> {
        self.record(format!("mount {} {root}{}", mount.kind, mount.target));
        Ok(())
    }

    fn move_mount(&self, from: &str, root: &str, to: &str) -> io::Result<()> {
        self.record(format!("move {from} {root}{to}"));
        Ok(())
    }

    fn bind_over(&self, file: &str, root: &str, path: &str) -> io::Result<bool> {
        self.record(format!("bind {file} {root}/{path}"));
        Ok(true)
    }

    fn bind_below(&self, dir: &str, root: &str, path: &str) -> io::Result<()> {
        // By descriptor, whose number is nobody's concern.
        let dir = if dir.starts_with("/proc/self/fd/") { "FD" } else { dir };
        self.record(format!("bind {dir} {root}{path}"));
        Ok(())
    }

    fn unmount(&self, target: &str) {
        self.record(format!("unmount {target}"));
    }

    fn write_file(&self, path: &str, _: u16, _: &[u8]) -> io::Result<()> {
        self.record(format!("write {path}"));
        Ok(())
    }

    fn copy_file(&self, from: &str, to: &str, _: u16) -> io::Result<()> {
        self.record(format!("copy {from} {to}"));
        Ok(())
    }

    fn link_file(&self, from: &str, to: &str) -> io::Result<()> {
        self.record(format!("link {from} {to}"));
        Ok(())
    }

    fn open_root(&self, path: &str) -> io::Result<Box<dyn RootDir>> {
        self.record(format!("open {path}"));
        Ok(Box::new(self.clone()))
    }

    fn memory_available(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }

    fn switch_root(&self, root: &str) -> io::Result<()> {
        self.record(format!("switch {root}"));
        Ok(())
    }

    fn disks(&self) -> Vec<Block> {
        let mut disks = self.disks.lock().expect("no test panics here");
        let now = disks.clone();
        disks.extend(self.late_disks.lock().expect("no test panics here").pop());
        now
    }

    fn has_file_system(&self, _: &str) -> bool {
        !self.no_ext4
    }

    fn set_partition(&self, disk: &Block, number: u32, start: u64, length: u64) -> io::Result<()> {
        self.record(format!("partition {} {start} {length}", disk.partition(number)));
        Ok(())
    }

    fn mount_device(&self, device: &Path, mount: &Mount<'_>) -> io::Result<()> {
        self.record(format!("mount {} {} {}", device.display(), mount.target, mount.options));
        self.mount_errors.lock().expect("no test panics here").pop().map_or(Ok(()), Err)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.record(format!("remove {path}"));
        Ok(())
    }

    fn load_rules(&self, batch: &[u8]) -> io::Result<()> {
        let is_empty = batch == crate::net::nft::nothing();
        self.record(if is_empty { "no rules" } else { "rules" }.to_owned());
        if self.no_rules { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    fn grow_ext4(&self, mount: &str, blocks: u64) -> io::Result<()> {
        self.record(format!("grow {mount} {blocks}"));
        Ok(())
    }

    fn name_ext4(&self, mount: &str, _: [u8; 16]) -> io::Result<()> {
        self.record(format!("name {mount}"));
        Ok(())
    }

    fn exec(&self, program: &Program) -> io::Error {
        self.record(format!("exec {}", program.path.to_string_lossy()));
        io::ErrorKind::Unsupported.into()
    }
}

impl RootDir for Recorder {
    fn make_dir(&self, path: &[u8], _: Meta) -> io::Result<()> {
        self.record(format!("dir {}", String::from_utf8_lossy(path)));
        Ok(())
    }

    fn make_link(&self, path: &[u8], _: &[u8], _: Meta) -> io::Result<()> {
        self.record(format!("symlink {}", String::from_utf8_lossy(path)));
        Ok(())
    }

    fn create(&self, path: &[u8]) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(MemoryFile { recorder: self.clone(), path: path.to_vec(), bytes: Vec::new() }))
    }

    fn make_stub(&self, path: &[u8], content: &str, _: u64, _: Meta) -> io::Result<()> {
        self.record(format!("stub {}", String::from_utf8_lossy(path)));
        self.files.lock().expect("no test panics here").insert(path.to_vec(), content.as_bytes().to_vec());
        Ok(())
    }

    fn hide(&self, path: &[u8]) -> io::Result<()> {
        self.record(format!("hide {}", String::from_utf8_lossy(path)));
        Ok(())
    }

    fn read(&self, path: &[u8]) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(io::Cursor::new(self.file(path).ok_or(io::ErrorKind::NotFound)?)))
    }

    fn is_dir(&self, _: &[u8]) -> bool {
        false
    }

    fn is_executable(&self, path: &[u8]) -> bool {
        self.file(path).is_some()
    }
}

struct MemoryFile {
    recorder: Recorder,
    path: Vec<u8>,
    bytes: Vec<u8>,
}

impl Write for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for MemoryFile {
    fn restart(&mut self) -> io::Result<()> {
        self.bytes.clear();
        Ok(())
    }

    fn commit(self: Box<Self>, _: Meta) -> io::Result<()> {
        self.recorder.record(format!("file {}", String::from_utf8_lossy(&self.path)));
        self.recorder.files.lock().expect("no test panics here").insert(self.path, self.bytes);
        Ok(())
    }
}

pub fn file_entry(path: &[u8], content: ContentDigest) -> Entry {
    Entry { path: path.to_vec(), mode: 0o755, uid: 0, gid: 0, kind: EntryKind::File(content) }
}

/// The content of the file that [`fetch_from`] fetches.
pub fn data() -> Vec<u8> {
    (0..300_000u32).map(|n| (n / 7) as u8).collect()
}

/// A site called `name` that has [`data`] as a blob and misbehaves like this when asked for it.
pub fn mirror(name: &str, fault: Fault) -> Site {
    let mut site = Site::default().called(name).with(fault);
    site.insert(&site::blob(&digest::sha256(&data())), &data());
    site
}

/// Fetches a list with one file `file` of [`data`] from these sites.
pub fn fetch_from(sites: &[&Site]) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    fetch_content_from(sites, &data())
}

/// Fetches a list with one file `file` of these bytes from these sites.
pub fn fetch_content_from(
    sites: &[&Site],
    content: &[u8],
) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    fetch_through(&mirrors(sites), content)
}

/// Fetches a list with one file `file` of these bytes from these servers.
pub fn fetch_through(servers: &Servers, content: &[u8]) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    fetch_list(servers, vec![file_entry(b"file", ContentDigest::of(content))])
}

/// A site called `name` that has this content as a blob and as this compressed one, and says so.
pub fn packed_mirror(name: &str, fault: Fault, content: &[u8], compressed: &[u8]) -> Site {
    let mut site = Site::default().called(name).with(fault);
    let sha256 = digest::sha256(content);
    site.insert(&site::blob(&sha256), content);
    site.insert(&site::packed_blob(&sha256), compressed);
    let (bundle, arch) =
        ("demo".parse().expect("a name"), Arch::native().expect("tests run where zstrap runs"));
    let packed = Packed::new([(sha256, compressed.len() as u64)]);
    site.insert(&site::packed(&bundle, arch, SERIAL), packed.to_text().as_bytes());
    site
}

/// Fetches a list with one file `file` of these bytes from a site with this fault.
pub fn fetch_one(data: &[u8], fault: Fault) -> (Result<fetch::Fetched, fetch::Error>, Recorder, Site) {
    let mut content = ContentDigest::of(data);
    if fault == Fault::WrongMd5 {
        content.md5 = digest::md5(b"other");
    }
    let mut site = Site { fault, ..Site::default() };
    site.insert(&site::blob(&content.sha256), data);
    let (result, recorder) = fetch_list(&servers(&site), vec![file_entry(b"file", content)]);
    (result, recorder, site)
}

/// Fetches a list with two files of the same content.
pub fn fetch_twins(data: &[u8]) -> (Result<fetch::Fetched, fetch::Error>, Recorder, Site) {
    let content = ContentDigest::of(data);
    let mut site = Site::default();
    site.insert(&site::blob(&content.sha256), data);
    let entries = vec![file_entry(b"a", content), file_entry(b"b", content)];
    let (result, recorder) = fetch_list(&servers(&site), entries);
    (result, recorder, site)
}

fn fetch_list(servers: &Servers, entries: Vec<Entry>) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    let (mut site, identity) = site_with_config(CONFIG);
    site.publish(&List::new(entries).expect("a valid list").to_text());
    let (recorder, own) = (Recorder::default(), self::servers(&site));
    let cmdline = zstrap_formats::cmdline::Cmdline::default();
    let config = config::obtain(&own, &identity, &cmdline, now().into()).expect("a good config");
    let list = list::obtain(&own, &identity, &config, now().into()).expect("a good list");
    let root = root::in_ram(&recorder, &config, &list).expect("enough memory");
    (fetch::files(&recorder, servers, &list, root), recorder)
}
