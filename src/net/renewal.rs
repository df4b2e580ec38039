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
use zstrap_formats::network::Network;
use zstrap_wire::dhcp4::{Lease, Output};

use super::dhcp::Sockets;
use super::keeper::{Action, Keeper, Kept, Start};
use super::links::Link;
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
    let sockets = Sockets::open(link, None)?;
    let (silence, bell) = io::pipe()?;
    let is_over = Arc::clone(is_over);
    let thread = Builder::new().name("renewal".to_owned()).spawn(move || {
        serve(keeping, sockets, &silence, &is_over);
    })?;
    Ok(Work { bell, thread })
}

fn serve(mut keeping: Keeping, mut sockets: Sockets, silence: &PipeReader, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        if let Err(lost) = turn(&mut keeping, &mut sockets, since_boot()) {
            log::warn!(target: "network", "lease lost addr={} link={} why={}", keeping.address, keeping.link, lost.0);
            return;
        }
        let pause = keeping.pause(since_boot());
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
        let [dhcp, arp] = sockets.fds();
        let mut fds = [dhcp, arp, silence.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        if !matches!(poll(&mut fds, Some(&timeout)), Ok(_) | Err(rustix::io::Errno::INTR)) {
            return;
        }
    }
}

fn turn(keeping: &mut Keeping, sockets: &mut Sockets, now: Duration) -> Result<(), Lost> {
    sockets.hear(&mut keeping.keeper, now);
    while let Some(packet) = keeping.poll(now)? {
        sockets.send_or_lose(&packet, &keeping.link);
    }
    Ok(())
}

/// Why the lease cannot be kept.
#[derive(Debug, PartialEq, Eq)]
struct Lost(&'static str);

/// All but sockets and clocks. What the keeper would change is left as it is.
struct Keeping {
    link: String,
    address: Ipv4Addr,
    keeper: Keeper,
    newest: Newest,
}

impl Keeping {
    fn new(link: &Link, lease: &Lease, obtained: Duration, now: Duration) -> Self {
        let kept = Some(Kept { lease: lease.clone(), obtained });
        let (mac, network) = (link.mac, Network::default());
        let start = Start { mac, random, network, v4: true, lease: kept, router: None, has_carrier: true };
        Self {
            link: link.name.clone(),
            address: lease.address,
            keeper: Keeper::new(start, now),
            newest: Arc::new(Mutex::new((lease.clone(), obtained))),
        }
    }

    /// What is to be sent now; to be called until it says nothing.
    fn poll(&mut self, now: Duration) -> Result<Option<Output>, Lost> {
        while let Some(action) = self.keeper.poll(now) {
            match action {
                Action::Send(packet) => return Ok(Some(packet)),
                Action::Publish => self.prolong()?,
                Action::Say(_, line) => log::debug!(target: "network", "lease {line}"),
                Action::Change { .. } => {}
            }
        }
        Ok(None)
    }

    /// Takes over times and server only. Whoever takes the lease over must find on the link what the lease says, and
    /// learns of the rest when it renews.
    fn prolong(&mut self) -> Result<(), Lost> {
        let Some(Kept { lease, obtained }) = self.keeper.lease() else {
            return Err(Lost(self.keeper.lost()));
        };
        if lease.address != self.address {
            return Err(Lost("moved"));
        }
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, since) = &mut *newest;
        (known.server, known.seconds) = (lease.server, lease.seconds);
        (known.renew_after, known.rebind_after) = (lease.renew_after, lease.rebind_after);
        *since = *obtained;
        Ok(())
    }

    /// How long there is nothing to do.
    fn pause(&self, now: Duration) -> Duration {
        self.keeper.wake().map_or(LONGEST_WAIT, |wake| wake.saturating_sub(now).min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake::{OURS, SERVER, dhcp_answer, lease};

    const ACK: u8 = 5;
    const NAK: u8 = 6;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
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

    /// Tells of the answer to a question.
    fn hear(
        keeping: &mut Keeping,
        question: &[u8],
        kind: u8,
        address: Ipv4Addr,
        now: u64,
    ) -> Result<(), Lost> {
        let answer = dhcp_answer(question, kind, SERVER, address, 60);
        keeping.keeper.receive(&answer, seconds(now));
        keeping.poll(seconds(now)).map(|packet| assert_eq!(packet, None))
    }

    #[test]
    fn a_lease_ended_while_a_large_file_was_fetched() {
        let mut keeping = keeping();
        let mut now = 10;
        for _ in 0..10 {
            assert_eq!(keeping.poll(seconds(now - 1)), Ok(None));
            let question = question(&mut keeping, now);
            assert_eq!(hear(&mut keeping, &question, ACK, OURS, now), Ok(()));
            let (lease, obtained) = newest(&keeping);
            assert_eq!((lease.seconds, lease.renew_after, obtained), (60, 30, seconds(now)));
            now += 30;
        }
    }

    #[test]
    fn what_the_link_does_not_have_is_not_handed_on() {
        let before = Lease { dns: vec![Ipv4Addr::new(10, 0, 0, 99)], ..lease() };
        let mut keeping = Keeping::new(&link(), &before, Duration::ZERO, Duration::ZERO);
        let question = question(&mut keeping, 10);
        hear(&mut keeping, &question, ACK, OURS, 10).unwrap();
        assert_eq!((newest(&keeping).0.dns, newest(&keeping).1), (before.dns, seconds(10)));
    }

    #[test]
    fn a_lease_that_is_refused_moved_or_over_is_lost_and_stays_as_it_was() {
        let mut refused = keeping();
        let asked = question(&mut refused, 10);
        let answered = hear(&mut refused, &asked, NAK, Ipv4Addr::UNSPECIFIED, 10);
        assert_eq!(answered, Err(Lost("refused")));

        let mut moved = keeping();
        let asked = question(&mut moved, 10);
        assert_eq!(hear(&mut moved, &asked, ACK, Ipv4Addr::new(10, 0, 0, 16), 10), Err(Lost("moved")));

        let mut silent = keeping();
        assert_eq!(silent.poll(seconds(20)).map(drop), Err(Lost("expired")));
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
