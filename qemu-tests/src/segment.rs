//! An Ethernet segment in user space: machines, a TAP device and scripted hosts on one wire that can be made bad.
//!
//! In: ports, and [`Conditions`] that a test may change at any time. Out: frames from each port to all others, lost,
//! late, twice or tagged as the conditions say; the same seed makes the same choices. Failure: making it fails, a
//! running segment does not: a port that is gone gets no more frames. All ends when the segment is dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::chance::Chance;

/// What a port may still have to take. More is dropped, as a switch does.
const QUEUE: usize = 4 << 20;

/// The longest frame we carry: QEMU's own limit on a stream is higher, an Ethernet with jumbo frames is not.
const LONGEST_FRAME: usize = 16 * 1024;

/// How the wire is. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// Share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub duplicates: f64,
    /// Time on the wire.
    pub delay: Duration,
    /// Up to so much more time for each frame by itself: frames overtake each other.
    pub jitter: Duration,
    /// Bits a second for each port that sends; none is no limit.
    pub rate: Option<u64>,
    /// Nothing passes.
    pub cut: bool,
    /// Nothing passes until so long after the first frame of a machine: a switch port with spanning tree (IEEE 802.1D).
    pub opens_after: Option<Duration>,
    /// Machines are on a trunk port: their frames carry this VLAN tag, or are dropped. All others see no tag.
    pub vlan: Option<u16>,
}

/// A host that is nothing but code: it sees each frame, and answers with frames that go out after some time.
pub trait Host: Send {
    /// What it sends because of this frame.
    fn receive(&mut self, frame: &[u8]) -> Vec<(Duration, Vec<u8>)>;
}

/// The segment.
pub struct Segment {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
    folder: TempDir,
}

struct Shared {
    state: Mutex<Control>,
    /// A byte here has the worker look at the state.
    waker: UnixStream,
}

#[derive(Default)]
struct Control {
    conditions: Conditions,
    fresh: Vec<Port>,
    plugs: usize,
    closing: bool,
    carried: u64,
}

impl Segment {
    /// A perfect wire without ports.
    pub fn new(seed: u64) -> Result<Self> {
        let (waker, woken) = UnixStream::pair().context("making a socket pair")?;
        woken.set_nonblocking(true).context("setting O_NONBLOCK")?;
        let shared = Arc::new(Shared { state: Mutex::default(), waker });
        let worker = Worker::new(Arc::clone(&shared), woken, seed);
        let worker = Some(std::thread::spawn(move || worker.run()));
        let folder = TempDir::with_prefix("zstrap-wire-").context("making the folder of a segment")?;
        Ok(Self { shared, worker, folder })
    }

    /// A port for a network card of a machine: the Unix socket to which `-netdev stream` connects, once.
    pub fn socket(&self) -> Result<PathBuf> {
        let number = {
            let mut state = self.shared.lock();
            state.plugs += 1;
            state.plugs
        };
        let path = self.folder.path().join(number.to_string());
        let listener = UnixListener::bind(&path).with_context(|| format!("binding {}", path.display()))?;
        listener.set_nonblocking(true).context("setting O_NONBLOCK")?;
        self.plug(Port::new(Side::Machine, Link::Expected(listener)));
        Ok(path)
    }

    /// A port for a TAP device.
    pub fn tap(&self, tap: File) {
        self.plug(Port::new(Side::World, Link::Tap(tap)));
    }

    /// A port for a scripted host.
    pub fn host(&self, host: impl Host + 'static) {
        self.plug(Port::new(Side::World, Link::Host(Box::new(host))));
    }

    /// Changes the conditions from now on.
    pub fn set(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.shared.lock().conditions);
        self.shared.wake();
    }

    /// How many frames came from machines so far.
    pub fn carried(&self) -> u64 {
        self.shared.lock().carried
    }

    fn plug(&self, port: Port) {
        self.shared.lock().fresh.push(port);
        self.shared.wake();
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake();
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has closed its ports, too.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the worker is gone, or has more wake-ups than it needs.
        let _ = (&self.waker).write(&[1]);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Machine,
    World,
}

struct Port {
    side: Side,
    link: Link,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// When the last frame that this port sent has left it, at the rate of the conditions.
    busy_until: Option<Instant>,
}

enum Link {
    Expected(UnixListener),
    Stream(UnixStream),
    Tap(File),
    Host(Box<dyn Host>),
    Gone,
}

impl Port {
    fn new(side: Side, link: Link) -> Self {
        Self { side, link, incoming: Vec::new(), outgoing: Vec::new(), busy_until: None }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            Link::Expected(listener) => Some(listener.as_fd()),
            Link::Stream(stream) => Some(stream.as_fd()),
            Link::Tap(tap) => Some(tap.as_fd()),
            Link::Host(_) | Link::Gone => None,
        }
    }

    /// The frames that have come.
    fn read(&mut self) -> Vec<Vec<u8>> {
        match &mut self.link {
            Link::Expected(listener) => {
                if let Ok((stream, _)) = listener.accept() {
                    let usable = stream.set_nonblocking(true).is_ok();
                    self.link = if usable { Link::Stream(stream) } else { Link::Gone };
                }
                Vec::new()
            }
            Link::Stream(stream) => match read_some(stream, &mut self.incoming) {
                Ok(()) => take_frames(&mut self.incoming),
                Err(_) => {
                    self.link = Link::Gone;
                    Vec::new()
                }
            },
            Link::Tap(tap) => {
                let mut frames = Vec::new();
                let mut buffer = [0; LONGEST_FRAME];
                // Some at a time: the other ports want to be heard as well.
                while let (true, Ok(length @ 1..)) = (frames.len() < 64, tap.read(&mut buffer)) {
                    frames.push(buffer[..length].to_vec());
                }
                frames
            }
            Link::Host(_) | Link::Gone => Vec::new(),
        }
    }

    /// Gives the port a frame; a scripted host may answer.
    fn give(&mut self, frame: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        match &mut self.link {
            Link::Host(host) => return host.receive(frame),
            // A frame that the device does not take now is lost, as on any wire.
            Link::Tap(tap) => drop(tap.write(frame)),
            Link::Stream(_) if self.outgoing.len() < QUEUE => {
                self.outgoing.extend((frame.len() as u32).to_be_bytes());
                self.outgoing.extend(frame);
                self.flush();
            }
            Link::Stream(_) | Link::Expected(_) | Link::Gone => {}
        }
        Vec::new()
    }

    fn flush(&mut self) {
        let Link::Stream(stream) = &mut self.link else { return };
        match stream.write(&self.outgoing) {
            Ok(sent) => drop(self.outgoing.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.link = Link::Gone,
        }
    }
}

/// Adds what has come; an error when the other side is gone.
fn read_some(stream: &mut UnixStream, incoming: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    match stream.read(&mut buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            incoming.extend(&buffer[..count]);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// The whole frames of a QEMU stream: four bytes of length, then so many of the frame.
fn take_frames(incoming: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let (mut frames, mut place) = (Vec::new(), 0);
    while let Some((length, rest)) = incoming.get(place..).and_then(<[u8]>::split_first_chunk) {
        let length = u32::from_be_bytes(*length) as usize;
        let Some(frame) = rest.get(..length) else { break };
        frames.push(frame.to_vec());
        place += 4 + length;
    }
    incoming.drain(..place);
    frames
}

/// A frame on its way. The first to arrive is the greatest, as the heap wants it.
struct Flying {
    at: Reverse<Instant>,
    number: Reverse<u64>,
    from: usize,
    frame: Vec<u8>,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Flying {}

struct Worker {
    shared: Arc<Shared>,
    woken: UnixStream,
    ports: Vec<Port>,
    flying: BinaryHeap<Flying>,
    sent: u64,
    /// When the first frame of a machine came.
    first: Option<Instant>,
    chance: Chance,
}

impl Worker {
    fn new(shared: Arc<Shared>, woken: UnixStream, seed: u64) -> Self {
        let (ports, flying) = (Vec::new(), BinaryHeap::new());
        Self { shared, woken, ports, flying, sent: 0, first: None, chance: Chance::new(seed) }
    }

    fn run(mut self) {
        loop {
            let ready = self.wait();
            // Only now: what a test has set before a frame came holds for that frame.
            let Some(conditions) = self.orders() else { return };
            for index in ready {
                self.ports[index].flush();
                for frame in self.ports[index].read() {
                    self.launch(index, frame, &conditions);
                }
            }
            self.land(&conditions);
        }
    }

    /// New ports, and the conditions of this round; none when it is over.
    fn orders(&mut self) -> Option<Conditions> {
        let mut state = self.shared.lock();
        self.ports.append(&mut state.fresh);
        (!state.closing).then_some(state.conditions)
    }

    /// Waits until a port has something, a frame is due, or the orders changed; the ports to look at.
    fn wait(&mut self) -> Vec<usize> {
        let due = self.flying.peek().map(|flying| flying.at.0.saturating_duration_since(Instant::now()));
        let timeout =
            due.map(|due| Timespec { tv_sec: due.as_secs() as i64, tv_nsec: due.subsec_nanos().into() });
        let mut indexes = Vec::new();
        let mut waited = vec![PollFd::new(&self.woken, PollFlags::IN)];
        for (index, port) in self.ports.iter().enumerate() {
            let Some(descriptor) = port.descriptor() else { continue };
            let wish = if port.outgoing.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            waited.push(PollFd::from_borrowed_fd(descriptor, wish));
            indexes.push(index);
        }
        // Interrupted is as good as nothing to do.
        let _ = poll(&mut waited, timeout.as_ref());
        let ready = waited.iter().skip(1).zip(indexes).filter(|(waited, _)| !waited.revents().is_empty());
        let ready = ready.map(|(_, index)| index).collect();
        drop(waited);
        let _ = self.woken.read(&mut [0; 64]);
        ready
    }

    /// Puts a frame on the wire, as the conditions allow.
    fn launch(&mut self, from: usize, frame: Vec<u8>, conditions: &Conditions) {
        let side = self.ports[from].side;
        if side == Side::Machine {
            self.shared.lock().carried += 1;
            self.first.get_or_insert_with(Instant::now);
        }
        let frame = match (conditions.vlan, side) {
            (Some(vlan), Side::Machine) => untag(&frame, vlan),
            _ => Some(frame),
        };
        let is_open = !conditions.cut && self.is_open(conditions);
        let passes = |frame: &Vec<u8>| is_open && !frame.starts_with(&TO_THE_SWITCH);
        let Some(frame) = frame.filter(passes) else { return };
        if self.chance.hits(conditions.loss) {
            return;
        }
        let mut at = Instant::now();
        if let Some(rate) = conditions.rate {
            let start = self.ports[from].busy_until.map_or(at, |busy| busy.max(at));
            at = start + Duration::from_secs_f64(frame.len() as f64 * 8.0 / rate as f64);
            self.ports[from].busy_until = Some(at);
        }
        let copies = if self.chance.hits(conditions.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let late = conditions.jitter.mul_f64(self.chance.share());
            self.fly(at + conditions.delay + late, from, frame.clone());
        }
    }

    /// Whether the switch forwards already.
    fn is_open(&self, conditions: &Conditions) -> bool {
        let Some(time) = conditions.opens_after else { return true };
        self.first.is_some_and(|first| first.elapsed() >= time)
    }

    fn fly(&mut self, at: Instant, from: usize, frame: Vec<u8>) {
        self.sent += 1;
        self.flying.push(Flying { at: Reverse(at), number: Reverse(self.sent), from, frame });
    }

    /// Hands out what has arrived.
    fn land(&mut self, conditions: &Conditions) {
        let now = Instant::now();
        while self.flying.peek().is_some_and(|flying| flying.at.0 <= now) {
            let Some(Flying { from, frame, .. }) = self.flying.pop() else { return };
            for index in (0..self.ports.len()).filter(|index| *index != from) {
                let tagged = match (conditions.vlan, self.ports[index].side) {
                    (Some(vlan), Side::Machine) => tag(&frame, vlan),
                    _ => None,
                };
                let answers = self.ports[index].give(tagged.as_deref().unwrap_or(&frame));
                for (after, answer) in answers {
                    // Scripted hosts are as far away as all others, but nothing they say gets lost.
                    self.fly(now + after + conditions.delay, index, answer);
                }
            }
        }
    }
}

/// The addresses that no bridge passes on (IEEE 802.1Q, table 8-1), as those of LACP: they are for the switch itself,
/// and ours speaks no such thing.
const TO_THE_SWITCH: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// EtherType of IEEE 802.1Q.
const TAGGED: [u8; 2] = [0x81, 0x00];

/// The frame with a tag behind its addresses; `None` for what is no frame.
fn tag(frame: &[u8], vlan: u16) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(12)?;
    Some([addresses, &TAGGED, &vlan.to_be_bytes(), rest].concat())
}

/// The frame without its tag; `None` when it has another one or none.
fn untag(frame: &[u8], vlan: u16) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(12)?;
    let rest = rest.strip_prefix(&TAGGED)?;
    let (control, rest) = rest.split_first_chunk()?;
    (u16::from_be_bytes(*control) & 0x0fff == vlan).then(|| [addresses, rest].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A machine on a socket of the segment.
    struct Machine(UnixStream);

    impl Machine {
        fn on(segment: &Segment) -> Self {
            let stream = UnixStream::connect(segment.socket().unwrap()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Self(stream)
        }

        fn send(&mut self, frame: &[u8]) {
            self.0.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat()).unwrap();
        }

        fn receive(&mut self) -> Vec<u8> {
            let mut length = [0; 4];
            self.0.read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.0.read_exact(&mut frame).unwrap();
            frame
        }
    }

    /// Sends back what it gets.
    struct Echo;

    impl Host for Echo {
        fn receive(&mut self, frame: &[u8]) -> Vec<(Duration, Vec<u8>)> {
            vec![(Duration::ZERO, frame.to_vec())]
        }
    }

    /// A frame of one of 200 kinds.
    fn frame(kind: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[59] = kind;
        frame
    }

    /// Which of 200 frames come back, in their order. The last is sent on a perfect wire.
    fn echoed(seed: u64, change: impl FnOnce(&mut Conditions)) -> Vec<u8> {
        let segment = Segment::new(seed).unwrap();
        let mut machine = Machine::on(&segment);
        segment.host(Echo);
        segment.set(change);
        (0..200).for_each(|kind| machine.send(&frame(kind)));
        while segment.carried() < 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(60));
        segment.set(|conditions| *conditions = Conditions::default());
        machine.send(&frame(255));
        let kinds = std::iter::from_fn(|| machine.receive().pop());
        kinds.take_while(|kind| *kind != 255).collect()
    }

    #[test]
    fn a_perfect_wire_changes_nothing() {
        assert_eq!(echoed(1, |_| {}), (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn loss_and_duplicates_are_the_same_for_the_same_seed() {
        let lossy = |seed| echoed(seed, |conditions| (conditions.loss, conditions.duplicates) = (0.3, 0.1));
        let (one, again, another) = (lossy(7), lossy(7), lossy(8));
        assert_eq!(one, again);
        assert_ne!(one, another);
        assert!((100..190).contains(&one.len()), "{}", one.len());
    }

    #[test]
    fn jitter_has_frames_overtake_each_other() {
        let mut kinds = echoed(1, |conditions| conditions.jitter = Duration::from_millis(20));
        assert!(!kinds.is_sorted());
        kinds.sort_unstable();
        assert_eq!(kinds, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn a_rate_spreads_frames_over_time() {
        let start = Instant::now();
        // 200 frames of 60 bytes are 96,000 bits.
        assert_eq!(echoed(1, |conditions| conditions.rate = Some(2_000_000)).len(), 200);
        assert!(start.elapsed() >= Duration::from_millis(48));
    }

    /// Neither what the machine sends nor what others send to it, and nothing of it later.
    #[test]
    fn a_port_that_opens_late_loses_what_came_before() {
        let segment = Segment::new(1).unwrap();
        let (mut machine, mut other) = (Machine::on(&segment), Machine::on(&segment));
        segment.set(|conditions| conditions.opens_after = Some(Duration::from_millis(200)));
        let start = Instant::now();
        other.send(&frame(1));
        machine.send(&frame(2));
        while segment.carried() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(start.elapsed() < Duration::from_millis(200), "too slow to tell");
        std::thread::sleep(Duration::from_millis(250));
        other.send(&frame(3));
        machine.send(&frame(4));
        assert_eq!((machine.receive(), other.receive()), (frame(3), frame(4)));
    }

    #[test]
    fn a_trunk_takes_its_tag_only_and_hides_it_from_the_others() {
        let segment = Segment::new(1).unwrap();
        let mut machine = Machine::on(&segment);
        segment.host(Echo);
        segment.set(|conditions| conditions.vlan = Some(10));
        machine.send(&frame(1));
        machine.send(&tag(&frame(2), 11).unwrap());
        machine.send(&tag(&frame(3), 10).unwrap());
        assert_eq!(machine.receive(), tag(&frame(3), 10).unwrap());
        assert_eq!(untag(&tag(&frame(4), 10).unwrap(), 10).unwrap(), frame(4));
    }
}
