//! What the server's tests share: a small site, a running server, curl, and a client that sends raw bytes.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use zstrap_formats::digest::sha256;
use zstrap_server::{Limits, Phase};

pub const LIST: &str = "/bundles/demo/amd64/17.mtree";
pub const LATEST: &str = "/bundles/demo/amd64/latest";

/// A running server; it ends when dropped.
pub struct Server {
    pub addr: SocketAddr,
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    pub fn start(site: &Path) -> Self {
        Self::start_with(site, Limits::default())
    }

    pub fn start_with(site: &Path, limits: Limits) -> Self {
        let (phase, receiver) = watch::channel(Phase::Run);
        let (bound, address) = mpsc::channel();
        let site = site.to_path_buf();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            runtime.block_on(zstrap_server::serve(site, any, limits, receiver, move |addr| {
                bound.send(addr).unwrap()
            }))
        });
        let addr = address.recv_timeout(Duration::from_secs(10)).unwrap();
        Server { addr, phase, thread: Some(thread) }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits for the end, at most 20 s.
    pub fn join(mut self) -> anyhow::Result<()> {
        let thread = self.thread.take().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !thread.is_finished() {
            assert!(std::time::Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends the head given by its lines, asks for the connection to be closed, and reads to the end.
    pub fn raw(&self, lines: &[&str]) -> Reply {
        let mut stream = self.connect();
        let head = format!("{}\r\nHost: test\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
        stream.write_all(head.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Reply::parse(&bytes)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.raw(&[&format!("GET {path} HTTP/1.1")])
    }

    /// Runs curl with `--include` on the path.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Reply {
        let output = Command::new("curl")
            .args([
                "--noproxy",
                "*",
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--include",
                "--path-as-is",
            ])
            .args(arguments)
            .arg(self.url(path))
            .output()
            .unwrap();
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        Reply::parse(&output.stdout)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::End);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

/// A response, taken apart.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a complete head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        };
        Reply { status, headers: lines.map(header).collect(), body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A site with one bundle, one config and blobs of the sizes given; returns the blobs' names.
pub fn small_site(root: &Path, sizes: &[usize]) -> Vec<String> {
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("configs.json", b"{}\n");
    write("configs/demo/latest", b"17\n");
    write("configs/demo/17.json", b"{\"version\":1}\n");
    write(LIST, b"#mtree\n");
    write("bundles/demo/amd64/17.mtree.minisig", b"untrusted comment: x\n");
    write(LATEST, b"17\n");
    write(".tmp/half", b"half\n");
    write("keys/admin.key", b"secret\n");
    write("images/.hidden", b"hidden\n");
    sizes
        .iter()
        .map(|size| {
            let bytes = pattern(*size);
            let name = sha256(&bytes).to_string();
            write(&format!("blobs/sha256/{name}"), &bytes);
            name
        })
        .collect()
}

/// Bytes that differ at every place where a range may begin.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| ((i * 31) ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}
