//! A browser's part of a debug session: ttyd's protocol over a WebSocket (RFC 6455), as much of it as tests need.
//!
//! In: a connection to ttyd. Out: a [`Session`] that types and reads. Failure: what the server said in place of the
//! expected, with all that the terminal has shown.
//!
//! A message begins with one letter: `0` is input and output, what else ttyd sends is about titles and preferences.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::artefacts::patience;

const INPUT: u8 = b'0';
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A terminal on the node.
pub struct Session {
    stream: TcpStream,
    /// Bytes of frames that are not whole yet.
    pending: Vec<u8>,
    shown: String,
    is_closed: bool,
}

impl Session {
    /// Opens a terminal as a page from `origin` would.
    ///
    /// # Errors
    /// The status line that came instead, or that the connection was closed.
    pub fn open(mut stream: TcpStream, host: &str, origin: &str) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_millis(100))).context("setting a timeout")?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: tty\r\n\
             Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).context("asking for a WebSocket")?;
        let mut session = Self { stream, pending: Vec::new(), shown: String::new(), is_closed: false };
        let deadline = Instant::now() + patience(Duration::from_secs(20));
        let head = loop {
            if let Some(end) = session.pending.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break session.pending.drain(..end + 4).collect::<Vec<_>>();
            }
            session.receive()?;
            ensure!(!session.is_closed, "ttyd closed the connection");
            ensure!(Instant::now() < deadline, "ttyd has not answered");
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        ensure!(head.starts_with("HTTP/1.1 101 "), "ttyd said {:?}", head.lines().next().unwrap_or_default());
        session.send(br#"{"AuthToken":"","columns":200,"rows":50}"#)?;
        Ok(session)
    }

    /// Types this text.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        self.send(&[&[INPUT], text.as_bytes()].concat())
    }

    /// Waits until the terminal has shown this text, and takes everything up to its end.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + patience(limit);
        loop {
            if let Some(at) = self.shown.find(text) {
                return Ok(self.shown.drain(..at + text.len()).collect());
            }
            if self.is_closed || Instant::now() >= deadline {
                let what = if self.is_closed { "the terminal was closed" } else { "too late" };
                bail!("no `{text}` ({what}); it has shown {:?}", self.shown);
            }
            self.receive()?;
        }
    }

    /// Waits until the server ends the session; what was shown until then is the answer.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + patience(limit);
        while !self.is_closed {
            ensure!(Instant::now() < deadline, "the terminal stays open; it has shown {:?}", self.shown);
            self.receive()?;
        }
        Ok(std::mem::take(&mut self.shown))
    }

    /// The mask of a client hides nothing here: zeros.
    fn send(&mut self, message: &[u8]) -> Result<()> {
        let length = u16::try_from(message.len()).context("tests type less")?;
        let mut frame = vec![FINAL | BINARY];
        match u8::try_from(length).ok().filter(|length| *length < 126) {
            Some(length) => frame.push(MASKED | length),
            None => {
                frame.push(MASKED | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(message);
        self.stream.write_all(&frame).context("typing")
    }

    fn receive(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.is_closed = true,
            Ok(length) => self.pending.extend_from_slice(&bytes[..length]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => self.is_closed = true,
            Err(error) => return Err(error).context("reading from ttyd"),
        }
        // The answer to the request is no frame, and is taken before the first one.
        if !self.pending.starts_with(b"HTTP") {
            while let Some((kind, message)) = self.take_frame() {
                match message.split_first() {
                    _ if kind == CLOSE => self.is_closed = true,
                    Some((&INPUT, output)) => self.shown.push_str(&String::from_utf8_lossy(output)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A whole frame: its opcode, and what it carries. Servers do not mask.
    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (kind, short) = (self.pending.first()? & 0x0f, *self.pending.get(1)? & 0x7f);
        let (length, head) = match short {
            126 => (usize::from(u16::from_be_bytes(self.pending.get(2..4)?.try_into().ok()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(self.pending.get(2..10)?.try_into().ok()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let end = head + length;
        let message = self.pending.get(head..end)?.to_vec();
        self.pending.drain(..end);
        Some((kind, message))
    }
}
