//! Networks of our own: a network namespace for a test, TAP devices in it, servers that run in it.
//!
//! In: nothing but root's rights. Out: a [`Namespace`] in which closures and programs run. Failure: an error that
//! says which step the kernel refused. A namespace has no name and no trace in the file system: it goes when its
//! last descriptor and its last program are gone, however the test ends.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// `struct ifreq` of netdevice(7): a name, then a union of which TUNSETIFF reads the first two bytes.
const IFREQ: usize = 40;
const IFREQ_FLAGS: usize = 16;

/// The request of `linux/if_tun.h` that makes an open `/dev/net/tun` a device.
const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
const IFF_TUN: u16 = 0x0001;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// A network namespace; clones are the same one.
#[derive(Clone)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// A new one in which only the loopback device is up.
    pub fn new() -> Result<Self> {
        let made = std::thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: only the network namespace of this short-lived thread changes; descriptors and memory are
            // shared with the other threads as before.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .context("making a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net").context("opening the new network namespace")?.into())
        });
        let namespace =
            Self(Arc::new(made.join().map_err(|_| anyhow!("the thread that makes it panicked"))??));
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs a closure inside. Sockets that it opens and programs that it starts stay inside for ever.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("entering a network namespace")?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("a thread in a network namespace panicked"))?
        })
    }

    /// Runs `ip` with these words inside.
    pub fn ip(&self, words: &str) -> Result<()> {
        let output =
            self.run(|| Command::new("ip").args(words.split(' ')).output())?.context("running ip")?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }

    /// Writes a setting of the kernel that each namespace has for itself, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value))?
            .with_context(|| format!("setting {name}"))
    }

    /// A new TAP device that is up and has these addresses. Frames are read from and written to the file, which
    /// does not block; the device goes with it.
    pub fn tap(&self, name: &str, addresses: &[&str]) -> Result<File> {
        self.device(name, IFF_TAP, addresses)
    }

    /// The same for packets without Ethernet: a TUN device.
    pub fn tun(&self, name: &str, addresses: &[&str]) -> Result<File> {
        self.device(name, IFF_TUN, addresses)
    }

    fn device(&self, name: &str, kind: u16, addresses: &[&str]) -> Result<File> {
        let tap = self.run(|| open_device(name, kind))??;
        for address in addresses {
            // Without duplicate address detection: nobody else is there, and servers want to bind it at once.
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("address add {address} dev {name}{nodad}"))?;
        }
        self.ip(&format!("link set {name} up"))?;
        Ok(tap)
    }

    /// Starts a server inside that stays in the foreground; what it prints is kept.
    pub fn start(&self, command: &mut Command) -> Result<Daemon> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.run(|| command.spawn())?.with_context(|| format!("starting {name}"))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let (kept, pipe) = (Arc::clone(&said), child.stderr.take());
        let reader = std::thread::spawn(move || {
            for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Daemon { name, child, said, reader: Some(reader) })
    }
}

/// A server of somebody else's that runs until it is dropped.
pub struct Daemon {
    name: String,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// What it has printed to standard error so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of those lines contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.said().iter().filter(|line| line.contains(text)).count()
    }

    /// An error with its last words, unless it still runs.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("asking for {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} has ended, {status}: {}", self.name, self.said().join("; ")),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn open_device(name: &str, kind: u16) -> Result<File> {
    let tap =
        OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
    let mut request = [0_u8; IFREQ];
    let Some(place) = request.get_mut(..name.len()).filter(|place| place.len() < IFREQ_FLAGS) else {
        bail!("`{name}` is too long for a device");
    };
    place.copy_from_slice(name.as_bytes());
    request[IFREQ_FLAGS..IFREQ_FLAGS + 2].copy_from_slice(&(kind | IFF_NO_PI).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, and the array is as large as one.
    let named = unsafe {
        rustix::ioctl::ioctl(&tap, rustix::ioctl::Updater::<TUNSETIFF, [u8; IFREQ]>::new(&mut request))
    };
    named.with_context(|| format!("making the device {name}"))?;
    rustix::fs::fcntl_setfl(&tap, OFlags::NONBLOCK).context("setting O_NONBLOCK")?;
    Ok(tap)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn two_namespaces_have_the_same_port_twice() {
        let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let listen =
            |namespace: &Namespace| namespace.run(|| TcpListener::bind("127.0.0.1:80")).unwrap().unwrap();
        let (first, _second) = (listen(&one), listen(&two));
        assert!(one.run(|| TcpStream::connect("127.0.0.1:80")).unwrap().is_ok());
        drop(first);
        assert!(one.run(|| TcpStream::connect("127.0.0.1:80")).unwrap().is_err());
    }

    #[test]
    fn a_tap_has_its_addresses_until_it_is_closed() {
        let namespace = Namespace::new().unwrap();
        let bind = || namespace.run(|| TcpListener::bind("[fd00:77::1]:80")).unwrap().is_ok();
        let tap = namespace.tap("tap0", &["10.77.0.1/24", "fd00:77::1/64"]).unwrap();
        assert!(bind());
        drop(tap);
        assert!(!bind());
    }
}
