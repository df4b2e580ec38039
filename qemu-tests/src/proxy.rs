//! A proxy that machines must use to get anywhere.
//!
//! In: requests with `CONNECT host:port` or an absolute `http://` URL. Out: a tunnel to that port of 127.0.0.1 (the
//! address that machines have in mind is the user-mode network's, which only they know), and a record. Failure: only
//! starting can fail. Threads of open connections end when their client goes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// The proxy.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a port of 127.0.0.1")?;
        let address = listener.local_addr().context("asking for the port")?;
        let shared = Arc::new(Shared::default());
        let acceptor = Some(accept_on(listener, &shared));
        Ok(Self { address, shared, acceptor })
    }

    /// Its URL as a machine on user-mode networking sees it.
    pub fn url(&self) -> String {
        format!("http://{}:{}", crate::vm::HOST, self.address.port())
    }

    /// The first lines of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // The acceptor looks at the flag once it has a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_on(listener: TcpListener, shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.closing.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
            // An error is a client or a server that went away.
            std::thread::spawn(move || shared.serve(stream));
        }
    })
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let first = first.trim_end().to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(first.clone());
        let words: Vec<&str> = first.split(' ').collect();
        let &[method, target, version] = words.as_slice() else { return refuse(&client) };
        let (server, path) = match target.strip_prefix("http://") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => (target, ""),
        };
        let Some(server) = dial(server) else { return refuse(&client) };
        if method == "CONNECT" {
            while read_header(&mut reader)?.is_some() {}
            (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        } else {
            // One request a connection, so that nothing behind it needs to be understood.
            (&server).write_all(format!("{method} /{path} {version}\r\nConnection: close\r\n").as_bytes())?;
            while let Some(header) = read_header(&mut reader)? {
                if !header.to_ascii_lowercase().starts_with("connection:") {
                    (&server).write_all(header.as_bytes())?;
                }
            }
            (&server).write_all(b"\r\n")?;
        }
        let (mut back, mut home) = (server.try_clone()?, client.try_clone()?);
        let answers = std::thread::spawn(move || {
            pipe(&mut back, &mut home);
            // The client learns so that nothing more will come.
            let _ = home.shutdown(Shutdown::Both);
        });
        pipe(&mut reader, &mut &server);
        let _ = server.shutdown(Shutdown::Write);
        let _ = answers.join();
        Ok(())
    }
}

/// Copies until one of them is gone.
fn pipe(from: &mut impl io::Read, to: &mut impl Write) {
    let _ = io::copy(from, to);
}

/// A header line with its end; `None` after the last.
fn read_header(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok((line.len() > 2).then_some(line))
}

fn dial(server: &str) -> Option<TcpStream> {
    let port = server.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80);
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
}

fn refuse(mut client: &TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
