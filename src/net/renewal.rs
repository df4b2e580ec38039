//! Keeps a lease while the init fetches what it boots, which may take longer than the lease lasts.
//!
//! In: a link, its lease, and when that was asked for. Out: the lease as it was renewed last, for the facts of handoff.
//! A thread asks; it ends with its [`Renewal`]. What the link has is left as it is: a lease that is lost, or that goes
//! on with another address, is said and no longer asked for. Fetching then fails by itself, and the next attempt begins
//! anew. Without a socket or a thread the lease is simply not renewed, as that may never be needed.

use std::io::{self, PipeReader, PipeWriter};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zstrap_wire::dhcp4::{Client, Event, Lease, Output};

use super::links::Link;
use super::packet::{DhcpSocket, take_some};
use crate::console::since_boot;
use crate::fail::random;

/// How long one wait lasts, whatever happens: poll(2) does not count while the machine sleeps.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A lease that is being kept. Dropping it ends that.
#[derive(Debug)]
pub struct Renewal {
    newest: Newest,
    is_over: Arc<AtomicBool>,
    /// None where there is nothing to renew, or no way to.
    work: Option<Work>,
}

/// The lease as it was renewed last, and when that was asked for, since the kernel started.
type Newest = Arc<Mutex<(Lease, Duration)>>;

#[derive(Debug)]
struct Work {
    /// The other end of it wakes the thread when this one is closed.
    bell: PipeWriter,
    thread: JoinHandle<()>,
}

impl Renewal {
    /// Begins to keep a lease that was asked for at `obtained`, since the kernel started.
    #[must_use]
    pub fn begin(link: &Link, lease: &Lease, obtained: Duration) -> Self {
        let keeping = Keeping::new(link, lease, obtained, since_boot());
        let (newest, is_over) = (Arc::clone(&keeping.newest), Arc::new(AtomicBool::new(false)));
        let work = if lease.is_infinite() { None } else { begun(link, keeping, &is_over) };
        Self { newest, is_over, work }
    }

    /// The lease as it was renewed last, and when that was asked for, since the kernel started. All in it but its times
    /// and its server is as it was at the beginning, which is what the link has.
    #[must_use]
    pub fn current(&self) -> (Lease, Duration) {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Work { bell, thread }) = self.work.take() {
            drop(bell);
            // It answers the bell within a packet; one that has panicked has nothing to say here.
            let _ = thread.join();
        }
    }
}

fn begun(link: &Link, keeping: Keeping, is_over: &Arc<AtomicBool>) -> Option<Work> {
    start(link, keeping, is_over)
        .map_err(|error| log::debug!(target: "network", "lease not kept link={} error={error}", link.name))
        .ok()
}

fn start(link: &Link, keeping: Keeping, is_over: &Arc<AtomicBool>) -> io::Result<Work> {
    let socket = DhcpSocket::open(link)?;
    let (silence, bell) = io::pipe()?;
    let is_over = Arc::clone(is_over);
    let thread = Builder::new().name("renewal".to_owned()).spawn(move || {
        serve(keeping, socket, &silence, &is_over);
    })?;
    Ok(Work { bell, thread })
}

fn serve(mut keeping: Keeping, mut socket: DhcpSocket, silence: &PipeReader, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        if let Err(lost) = turn(&mut keeping, &mut socket, since_boot()) {
            log::warn!(target: "network", "lease lost addr={} link={} why={}", keeping.address, keeping.link, lost.0);
            return;
        }
        let pause = keeping.pause(since_boot());
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(silence.as_fd(), PollFlags::IN),
        ];
        if !matches!(poll(&mut fds, Some(&timeout)), Ok(_) | Err(rustix::io::Errno::INTR)) {
            return;
        }
    }
}

fn turn(keeping: &mut Keeping, socket: &mut DhcpSocket, now: Duration) -> Result<(), Lost> {
    let lost = take_some(|buffer| socket.receive(buffer), |payload| keeping.receive(payload, now).err());
    lost.map_or(Ok(()), Err)?;
    while let Some(output) = keeping.poll(now)? {
        let sent = match output {
            Output::Broadcast(payload) => socket.broadcast(&payload),
            Output::Unicast { from, to, payload } => socket.unicast(from, to, &payload),
            Output::Arp(_) | Output::Event(_) => Ok(()),
        };
        // A lost packet and a refused one are mended by the same retransmission.
        if let Err(error) = sent {
            log::debug!(target: "network", "DHCP packet not sent link={} error={error}", keeping.link);
        }
    }
    Ok(())
}

/// Why the lease cannot be kept.
#[derive(Debug, PartialEq, Eq)]
struct Lost(&'static str);

/// All but sockets and clocks.
struct Keeping {
    link: String,
    address: Ipv4Addr,
    client: Client,
    newest: Newest,
}

impl Keeping {
    fn new(link: &Link, lease: &Lease, obtained: Duration, now: Duration) -> Self {
        Self {
            link: link.name.clone(),
            address: lease.address,
            client: Client::bound(link.mac, random(), lease.clone(), obtained, now),
            newest: Arc::new(Mutex::new((lease.clone(), obtained))),
        }
    }

    /// What is to be sent now; to be called until it says nothing.
    fn poll(&mut self, now: Duration) -> Result<Option<Output>, Lost> {
        match self.client.poll(now) {
            Some(Output::Event(event)) => self.heed(event).map(|()| None),
            output => Ok(output),
        }
    }

    fn receive(&mut self, payload: &[u8], now: Duration) -> Result<(), Lost> {
        self.client.receive(payload, now).map_or(Ok(()), |event| self.heed(event))
    }

    fn heed(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::Leased(lease) | Event::Renewed(lease) if lease.address == self.address => {
                self.prolong(&lease);
                Ok(())
            }
            Event::Leased(_) | Event::Renewed(_) => Err(Lost("moved")),
            Event::Refused { .. } => Err(Lost("refused")),
            Event::Conflict { .. } => Err(Lost("conflict")),
            Event::Expired => Err(Lost("expired")),
        }
    }

    /// Takes over times and server only. Whoever takes the lease over must find on the link what the lease says, and
    /// learns of the rest when it renews.
    fn prolong(&mut self, renewed: &Lease) {
        let Some(obtained) = self.client.obtained() else { return };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let Lease { server, seconds, renew_after, rebind_after, .. } = *renewed;
        newest.0 = Lease { server, seconds, renew_after, rebind_after, ..newest.0.clone() };
        newest.1 = obtained;
        log::debug!(target: "network", "lease renewed addr={} link={} for={seconds}s", self.address, self.link);
    }

    /// How long there is nothing to do.
    fn pause(&self, now: Duration) -> Duration {
        self.client.wake().map_or(LONGEST_WAIT, |wake| wake.saturating_sub(now).min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 15);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const ACK: u8 = 5;
    const NAK: u8 = 6;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn lease() -> Lease {
        Lease {
            address: OURS,
            prefix: 24,
            routes: Vec::new(),
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

    fn link() -> Link {
        Link { name: "none0".to_owned(), index: u32::MAX, mac: [2, 0, 0, 0, 0, 1], has_master: false }
    }

    /// A lease of 20 s that was asked for at 0 s.
    fn keeping() -> Keeping {
        Keeping::new(&link(), &lease(), Duration::ZERO, Duration::ZERO)
    }

    fn newest(keeping: &Keeping) -> (Lease, Duration) {
        keeping.newest.lock().unwrap().clone()
    }

    fn question(keeping: &mut Keeping, now: u64) -> Vec<u8> {
        match keeping.poll(seconds(now)) {
            Ok(Some(Output::Unicast { payload, .. } | Output::Broadcast(payload))) => payload,
            other => panic!("no question at {now}: {other:?}"),
        }
    }

    /// What a server answers; it names other name servers than before.
    fn answer(question: &[u8], kind: u8, address: Ipv4Addr) -> Vec<u8> {
        let mut packet = question[..240].to_vec();
        packet[0] = 2;
        packet[16..20].copy_from_slice(&address.octets());
        packet.extend_from_slice(&[53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0, 60]);
        packet.extend_from_slice(&[1, 4, 255, 255, 255, 0, 6, 4, 10, 0, 0, 99, 255]);
        packet
    }

    #[test]
    fn a_lease_ended_while_a_large_file_was_fetched() {
        let mut keeping = keeping();
        let mut now = 10;
        for _ in 0..10 {
            assert_eq!(keeping.poll(seconds(now - 1)), Ok(None));
            let question = question(&mut keeping, now);
            assert_eq!(keeping.receive(&answer(&question, ACK, OURS), seconds(now)), Ok(()));
            let (lease, obtained) = newest(&keeping);
            assert_eq!((lease.seconds, lease.renew_after, obtained), (60, 30, seconds(now)));
            assert_eq!(keeping.poll(seconds(now)), Ok(None));
            now += 30;
        }
    }

    #[test]
    fn what_the_link_does_not_have_is_not_handed_on() {
        let mut keeping = keeping();
        let question = question(&mut keeping, 10);
        keeping.receive(&answer(&question, ACK, OURS), seconds(10)).unwrap();
        assert_eq!(newest(&keeping).0.dns, lease().dns);
    }

    #[test]
    fn a_lease_that_is_refused_moved_or_over_is_lost_and_stays_as_it_was() {
        let mut refused = keeping();
        let asked = question(&mut refused, 10);
        let nak = answer(&asked, NAK, Ipv4Addr::UNSPECIFIED);
        assert_eq!(refused.receive(&nak, seconds(10)), Err(Lost("refused")));

        let mut moved = keeping();
        let asked = question(&mut moved, 10);
        let other = answer(&asked, ACK, Ipv4Addr::new(10, 0, 0, 16));
        assert_eq!(moved.receive(&other, seconds(10)), Err(Lost("moved")));

        let mut silent = keeping();
        assert_eq!(silent.poll(seconds(20)), Err(Lost("expired")));
        for keeping in [refused, moved, silent] {
            assert_eq!(newest(&keeping), (lease(), Duration::ZERO));
        }
    }

    #[test]
    fn waits_until_the_lease_is_to_be_renewed_and_never_long() {
        let keeping = keeping();
        assert_eq!(keeping.pause(seconds(8)), seconds(2));
        assert_eq!(keeping.pause(seconds(30)), Duration::ZERO);
        let day = Lease { seconds: 86_400, renew_after: 43_200, rebind_after: 75_600, ..lease() };
        let keeping = Keeping::new(&link(), &day, Duration::ZERO, Duration::ZERO);
        assert_eq!(keeping.pause(Duration::ZERO), LONGEST_WAIT);
    }

    #[test]
    fn the_boot_does_not_wait_for_the_end_of_a_pause() {
        // Without privileges there is no socket, and nothing to wait for.
        let lo = Link { name: "lo".to_owned(), index: 1, ..link() };
        let renewal = Renewal::begin(&lo, &lease(), since_boot());
        let started = std::time::Instant::now();
        drop(renewal);
        assert!(started.elapsed() < seconds(2), "{:?}", started.elapsed());
    }

    #[test]
    fn without_a_socket_the_lease_is_handed_on_as_it_is() {
        let renewal = Renewal::begin(&link(), &lease(), seconds(3));
        assert!(renewal.work.is_none());
        assert_eq!(renewal.current(), (lease(), seconds(3)));
    }
}
