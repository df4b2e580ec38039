//! A time server (RFC 4330) for machines whose clock is wrong.
//!
//! In: a namespace with an address, and how far the time it tells is off. Out: answers on port 123, counted.
//! Failure: only starting can fail. It ends when it is dropped.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::netns::Namespace;

const PORT: u16 = 123;
const LENGTH: usize = 48;

/// From 1900, where NTP begins, to 1970.
const ERA: u64 = 2_208_988_800;

/// No warning, version 4, server.
const SERVER: u8 = 0b00_100_100;

/// The server.
pub struct TimeServer {
    asked: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl TimeServer {
    /// Tells the host's time plus so many seconds.
    pub fn start(namespace: &Namespace, address: IpAddr, off_by: i64) -> Result<Self> {
        let socket = namespace.run(|| UdpSocket::bind((address, PORT)))?.context("binding the NTP port")?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("setting a timeout")?;
        let (asked, closing) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&asked), Arc::clone(&closing));
        let worker = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                let mut request = [0; 512];
                let Ok((LENGTH.., client)) = socket.recv_from(&mut request) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                // A client that is gone has no use for it.
                let _ = socket.send_to(&answer(&request, off_by), client);
            }
        });
        Ok(Self { asked, closing, worker: Some(worker) })
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for TimeServer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn answer(request: &[u8], off_by: i64) -> [u8; LENGTH] {
    let now = stamp(off_by);
    let mut answer = [0; LENGTH];
    // Stratum 2, poll 6, precision 2^-20 s; what follows up to byte 16 may be zero.
    answer[..4].copy_from_slice(&[SERVER, 2, 6, 0xec]);
    answer[12..16].copy_from_slice(b"TEST");
    // Reference; the client's own transmit time; receive; transmit.
    for (place, time) in [(16, now.as_slice()), (24, &request[40..48]), (32, &now), (40, &now)] {
        answer[place..place + 8].copy_from_slice(time);
    }
    answer
}

/// Seconds and their binary fraction.
fn stamp(off_by: i64) -> [u8; 8] {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = (since.as_secs() + ERA).saturating_add_signed(off_by);
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    // The fields wrap every 136 years, as NTP's do.
    ((seconds & 0xffff_ffff) << 32 | fraction).to_be_bytes()
}
