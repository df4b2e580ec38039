//! The other end of a test machine's overlay network, in a network namespace.
//!
//! In: a namespace that the machine reaches with UDP, and our addresses in the overlay. Out: a TUN device with those
//! addresses, whose packets travel in UDP to whoever sent the last datagram: `zstrap-test-overlay` in the machine.
//! Failure: the step that the kernel refused. All ends when it is dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};

use crate::netns::Namespace;

/// The port that datagrams of the overlay go to.
pub const PORT: u16 = 9651;

/// Our end.
pub struct Overlay {
    ends: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Overlay {
    /// A device of this name with these addresses.
    pub fn new(namespace: &Namespace, name: &str, addresses: &[&str]) -> Result<Self> {
        let tun = namespace.tun(name, addresses)?;
        let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", PORT)))?.context("binding a UDP port")?;
        socket.set_nonblocking(true).context("setting O_NONBLOCK")?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let worker = Some(std::thread::spawn(move || carry(tun, &socket, &seen)));
        Ok(Self { ends, worker })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            // One that panicked carries nothing any more, which is what is wanted.
            let _ = worker.join();
        }
    }
}

fn carry(mut tun: File, socket: &UdpSocket, ends: &AtomicBool) {
    let (mut packet, mut peer) = ([0; 4096], None);
    while !ends.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(&tun, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        let turn = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        // Whatever it says, the descriptors are looked at: they do not block.
        let _ = poll(&mut ready, Some(&turn));
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            peer = Some(from);
            // An empty one only says where it comes from.
            let _ = tun.write(&packet[..length]);
        }
        while let Ok(length) = tun.read(&mut packet) {
            // Lost, as packets may be.
            let _ = peer.map(|peer| socket.send_to(&packet[..length], peer));
        }
    }
}

/// Connects from an address of ours; to be called inside the namespace.
///
/// # Errors
/// `TimedOut` when nobody answers, `ConnectionRefused` when nobody listens.
pub fn connect(from: IpAddr, to: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(1),
        tv_nsec: limit.subsec_nanos().into(),
    };
    if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit))? == 0 {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    rustix::net::sockopt::socket_error(&socket)??;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(TcpStream::from(socket))
}
