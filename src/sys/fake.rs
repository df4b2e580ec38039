//! A machine, a site and an identity that exist only in memory, for tests: every call is recorded.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use zstrap_formats::digest::{self, ContentDigest};
use zstrap_formats::identity::{Identity, Pin};
use zstrap_formats::key::SecretKey;
use zstrap_formats::list::{Entry, EntryKind, List};
use zstrap_formats::name::Arch;
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;

use super::{Meta, Mount, NewFile, Program, RootDir, System};
use crate::early::Now;
use crate::http::{Body, From, HttpError, Source};
use crate::network::Connection;
use crate::{config, fetch, list, root};
use zstrap_wire::dhcp4::{Lease, Route4};

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

pub fn connection() -> Connection {
    let lease = Lease {
        address: [10, 0, 2, 15].into(),
        prefix: 24,
        routes: vec![Route4 {
            destination: [0, 0, 0, 0].into(),
            prefix: 0,
            gateway: Some([10, 0, 2, 2].into()),
        }],
        dns: Vec::new(),
        hostname: None,
        search: Vec::new(),
        mtu: None,
        ntp: Vec::new(),
        server: [10, 0, 2, 2].into(),
        seconds: 3600,
        renew_after: 1800,
        rebind_after: 3150,
    };
    let text = |text: &str| text.to_owned();
    Connection {
        link: text("eth0"),
        mac: text("52:54:00:12:34:56"),
        lease,
        server: text("http://10.0.2.2:8080"),
        hostname: text("node"),
    }
}

/// How a site misbehaves when a blob is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    Flipped,
    Longer,
    Endless,
    WrongMd5,
    Missing,
    CutOnce,
    CutOnceNoRanges,
}

/// The files of a site.
#[derive(Clone, Default)]
pub struct Site {
    files: BTreeMap<String, Vec<u8>>,
    pub fault: Fault,
    offsets: Arc<Mutex<Vec<u64>>>,
}

impl Site {
    pub fn insert(&mut self, path: &str, bytes: &[u8]) {
        self.files.insert(path.to_owned(), bytes.to_vec());
    }

    pub fn copy(&mut self, from: &str, to: &str) {
        let bytes = self.files[from].clone();
        self.files.insert(to.to_owned(), bytes);
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

    fn missing(path: &str) -> HttpError {
        HttpError::NotFound { url: path.to_owned() }
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
        let mut offsets = self.offsets.lock().expect("no test panics here");
        offsets.push(from.offset);
        let first = offsets.len() == 1;
        let mut bytes = self.files.get(path).cloned().ok_or_else(|| Self::missing(path))?;
        let mut length = Some(bytes.len() as u64);
        let mut offset = from.offset;
        let half = bytes.len() / 2;
        let reader: Box<dyn Read + Send> = match self.fault {
            Fault::None | Fault::WrongMd5 => Box::new(io::Cursor::new(bytes)),
            Fault::Missing => return Err(Self::missing(path)),
            Fault::Flipped => {
                bytes[half] ^= 1;
                Box::new(io::Cursor::new(bytes))
            }
            Fault::Longer => {
                bytes.push(0);
                length = Some(bytes.len() as u64);
                Box::new(io::Cursor::new(bytes))
            }
            Fault::Endless => {
                length = None;
                Box::new(io::Cursor::new(bytes).chain(io::repeat(7)))
            }
            Fault::CutOnce | Fault::CutOnceNoRanges if first => {
                bytes.truncate(half);
                Box::new(io::Cursor::new(bytes).chain(Broken))
            }
            Fault::CutOnce => {
                let rest = bytes.split_off(usize::try_from(from.offset).expect("small"));
                length = Some(rest.len() as u64);
                Box::new(io::Cursor::new(rest))
            }
            Fault::CutOnceNoRanges => {
                offset = 0;
                Box::new(io::Cursor::new(bytes))
            }
        };
        Ok(Body { reader, offset, length, etag: None })
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

/// A connection that was lost.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
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
    offsets: Arc<Mutex<Vec<u64>>>,
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

    pub fn requested_offsets(&self) -> Vec<u64> {
        self.offsets.lock().expect("no test panics here").clone()
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

/// Fetches a list with one file `file` of these bytes from a site with this fault.
pub fn fetch_one(data: &[u8], fault: Fault) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    let mut content = ContentDigest::of(data);
    if fault == Fault::WrongMd5 {
        content.md5 = digest::md5(b"other");
    }
    fetch_list(data, vec![file_entry(b"file", content)], fault)
}

/// Fetches a list with two files of the same content.
pub fn fetch_twins(data: &[u8]) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    let content = ContentDigest::of(data);
    fetch_list(data, vec![file_entry(b"a", content), file_entry(b"b", content)], Fault::None)
}

fn fetch_list(
    data: &[u8],
    entries: Vec<Entry>,
    fault: Fault,
) -> (Result<fetch::Fetched, fetch::Error>, Recorder) {
    let (mut site, identity) = site_with_config(CONFIG);
    site.publish(&List::new(entries).expect("a valid list").to_text());
    site.insert(&site::blob(&digest::sha256(data)), data);
    site.fault = fault;
    let recorder = Recorder { offsets: site.offsets.clone(), ..Recorder::default() };
    let cmdline = zstrap_formats::cmdline::Cmdline::default();
    let config = config::obtain(&site, &identity, &cmdline, now()).expect("a good config");
    let list = list::obtain(&site, &identity, &config, now()).expect("a good list");
    let root = root::prepare(&recorder, &config, &list).expect("enough memory");
    (fetch::files(&site, &list, root), recorder)
}
