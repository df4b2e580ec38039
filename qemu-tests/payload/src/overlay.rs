//! An overlay network for test machines: a TUN interface whose packets travel in UDP to the host of the tests.
//!
//! In: the name of the interface, its address with prefix, HOST:PORT of the other side. Out: packets in both directions,
//! one a datagram, until it is killed; a line `overlay: up` when the interface has its address. Failure: a line with the
//! cause, and exit code 1.
//!
//! Addresses are set by the bundle's `ip`, as an admin would.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::process::{Command, ExitCode};

/// `struct ifreq` of netdevice(7): a name, then a union of which TUNSETIFF reads the first two bytes.
const IFREQ: usize = 40;
const IFREQ_FLAGS: usize = 16;
const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, peer] = args.as_slice() else {
        eprintln!("usage: zstrap-test-overlay NAME ADDRESS/PREFIX HOST:PORT");
        return ExitCode::from(2);
    };
    match run(name, address, peer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("overlay: failed {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, address: &str, peer: &str) -> io::Result<()> {
    let tun = open(name)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(peer)?;
    ip(&["link", "set", name, "up"])?;
    ip(&["address", "add", address, "dev", name])?;
    println!("overlay: up");
    // The other side learns from this where we are.
    socket.send(&[])?;
    let (mut from, to) = (tun.try_clone()?, socket.try_clone()?);
    std::thread::spawn(move || carry(|packet| from.read(packet), |packet| to.send(packet)));
    let mut tun = tun;
    carry(|packet| socket.recv(packet), |packet| tun.write(packet));
    Ok(())
}

/// What cannot be sent is lost, as packets may be.
fn carry(
    mut from: impl FnMut(&mut [u8]) -> io::Result<usize>,
    mut to: impl FnMut(&[u8]) -> io::Result<usize>,
) {
    let mut packet = [0; 4096];
    loop {
        match from(&mut packet) {
            Ok(0) => {}
            Ok(length) => drop(to(&packet[..length])),
            // Nobody listens at the other side yet; the answer comes at once, so it must not come too often.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
}

fn open(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0_u8; IFREQ];
    let place = request.get_mut(..name.len()).filter(|place| place.len() < IFREQ_FLAGS);
    place.ok_or_else(|| io::Error::other("the name is too long"))?.copy_from_slice(name.as_bytes());
    request[IFREQ_FLAGS..IFREQ_FLAGS + 2].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, and the array is as large as one.
    unsafe {
        rustix::ioctl::ioctl(&tun, rustix::ioctl::Updater::<TUNSETIFF, [u8; IFREQ]>::new(&mut request))
    }?;
    Ok(tun)
}

fn ip(words: &[&str]) -> io::Result<()> {
    let status = Command::new("ip").args(words).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {words:?}: {status}"))) }
}
