//! Asking time servers, all at once.
//!
//! In: addresses, and how long to wait. Out: what the first of them said whose time can be. Packets that answer no
//! question of ours are dropped without a word. Failure: nobody answered in time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::rand::{GetRandomFlags, getrandom};
use zstrap_wire::sntp::{self, Unusable};

use super::Told;

/// Servers that are asked at most.
const MOST: usize = 8;
/// Packets of one server that are looked at before the clock is: junk that comes faster than it is read would keep the
/// node here for ever.
const AT_ONCE: usize = 64;
/// When to ask again: a packet may be lost.
const AGAIN: Duration = Duration::from_secs(1);

/// The first time at or after `floor` that one of `servers` tells, else the latest before it.
pub(super) fn ask(servers: &[SocketAddr], floor: Duration, within: Duration) -> Option<Told> {
    let begun = Instant::now();
    let mut questions: Vec<Question> = servers.iter().take(MOST).filter_map(Question::of).collect();
    let (mut next, mut latest) = (Duration::ZERO, None::<Told>);
    while !questions.is_empty() && begun.elapsed() < within {
        if begun.elapsed() >= next {
            questions.iter_mut().for_each(Question::send);
            next += AGAIN;
        }
        wait(&questions, next.min(within).saturating_sub(begun.elapsed()));
        questions.retain_mut(|question| match question.answer() {
            Answer::Nothing => true,
            Answer::NoTime => false,
            Answer::Time(told) => {
                latest = latest.take().into_iter().chain([told]).max_by_key(|told| told.time);
                false
            }
        });
        if latest.as_ref().is_some_and(|told| told.time >= floor) {
            break;
        }
    }
    latest
}

fn wait(questions: &[Question], pause: Duration) {
    let poll_fd = |question| PollFd::from_borrowed_fd(Question::fd(question), PollFlags::IN);
    let mut fds: Vec<PollFd<'_>> = questions.iter().map(poll_fd).collect();
    let timeout = Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    if let Err(errno) = poll(&mut fds, Some(&timeout)) {
        log::debug!(target: "clock", "waiting for time servers: {errno}");
    }
}

/// A question that is on its way.
struct Question {
    server: SocketAddr,
    socket: UdpSocket,
    nonce: [u8; 8],
    sent: Instant,
}

enum Answer {
    Nothing,
    NoTime,
    Time(Told),
}

impl Question {
    fn of(server: &SocketAddr) -> Option<Self> {
        let opened = socket_to(server).and_then(|socket| Ok((socket, nonce()?)));
        match opened {
            Ok((socket, nonce)) => Some(Self { server: *server, socket, nonce, sent: Instant::now() }),
            Err(error) => {
                log::debug!(target: "clock", "not asked server={} {error}", server.ip());
                None
            }
        }
    }

    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self) {
        self.sent = Instant::now();
        if let Err(error) = self.socket.send(&sntp::question(self.nonce)) {
            log::debug!(target: "clock", "not asked server={} {error}", self.server.ip());
        }
    }

    /// Looks at what has come so far, or at a part of it.
    fn answer(&self) -> Answer {
        let mut buffer = [0; 512];
        // Also what the network says of a server that is not there comes this way.
        for _ in 0..AT_ONCE {
            let Ok(length) = self.socket.recv(&mut buffer) else { break };
            let at = Instant::now();
            match sntp::time(&buffer[..length], self.nonce) {
                Ok(sent) => {
                    // Half of the time that question and answer took, as if both ways were as long.
                    let time = sent + at.duration_since(self.sent) / 2;
                    return Answer::Time(Told { time, at, server: self.server.ip().to_string() });
                }
                Err(Unusable::NotAnAnswer) => {}
                Err(Unusable::NoTime) => {
                    log::warn!(target: "clock", "no time from server={}: it does not know it", self.server.ip());
                    return Answer::NoTime;
                }
            }
        }
        Answer::Nothing
    }
}

/// A socket that hears this server alone.
fn socket_to(server: &SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    Ok(socket)
}

/// What only the server and those between can know. From the kernel, not from the TLS library: a second use of its
/// whole provider would link the code that signs with private keys, which a node has no use for.
fn nonce() -> io::Result<[u8; 8]> {
    let mut nonce = [0; 8];
    // So few bytes come at once (getrandom(2)).
    match getrandom(&mut nonce, GetRandomFlags::empty())? {
        8 => Ok(nonce),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;

    /// What chronyd 4.3 answered to a question with the nonce 1 to 8, on 2026-11-21.
    const CHRONY: [u8; sntp::PACKET] = [
        0x24, 0x0a, 0x00, 0xe6, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x7f, 0x7f, 0x01, 0x01, 0xee,
        0xac, 0x15, 0x61, 0x8d, 0xe2, 0x46, 0xdc, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0xee, 0xac,
        0x15, 0x63, 0x16, 0xe8, 0x3e, 0xef, 0xee, 0xac, 0x15, 0x63, 0x16, 0xf4, 0x82, 0xf8,
    ];
    const SAID: u64 = 1_795_266_275;
    const FLOOR: Duration = Duration::from_secs(1_780_272_000);

    /// A server that does this with each good answer before it is sent; none is sent if it says so.
    fn server(mut change: impl FnMut(&mut [u8; sntp::PACKET]) -> bool + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut question = [0; 100];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                assert_eq!((length, question[0]), (sntp::PACKET, 0x23));
                let mut answer = CHRONY;
                answer[24..32].copy_from_slice(&question[40..48]);
                if change(&mut answer) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        address
    }

    fn asked(servers: &[SocketAddr], within: u64) -> Option<(u64, String)> {
        let told = ask(servers, FLOOR, Duration::from_millis(within))?;
        Some((told.time.as_secs(), told.server))
    }

    #[test]
    fn reads_what_chrony_says() {
        let time = sntp::time(&CHRONY, [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        assert_eq!((time.as_secs(), time.subsec_millis()), (SAID, 89));
    }

    #[test]
    fn the_first_good_answer_counts() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let unset = server(|answer| {
            answer[0] |= 0xc0;
            true
        });
        let servers = [silent.local_addr().unwrap(), gone, unset, server(|_| true)];
        let started = Instant::now();
        assert_eq!(asked(&servers, 10_000), Some((SAID, "127.0.0.1".to_owned())));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn asks_again_when_an_answer_is_lost() {
        let mut count = 0;
        let lossy = server(move |_| {
            count += 1;
            count > 1
        });
        assert_eq!(asked(&[lossy], 10_000).map(|(time, _)| time), Some(SAID));
    }

    #[test]
    fn an_answer_below_the_floor_waits_for_a_better_one() {
        let early = || {
            server(|answer| {
                answer[40..44].copy_from_slice(&(0xeeac_1563_u32 - 400 * 86_400).to_be_bytes());
                true
            })
        };
        let late = server(|_| {
            thread::sleep(Duration::from_millis(200));
            true
        });
        assert_eq!(asked(&[early(), late], 10_000).map(|(time, _)| time), Some(SAID));
        assert_eq!(asked(&[early()], 10_000).map(|(time, _)| time), Some(SAID - 400 * 86_400));
    }

    #[test]
    fn junk_was_read_beyond_the_deadline() {
        let junk = UdpSocket::bind("127.0.0.1:0").unwrap();
        let question = Question::of(&junk.local_addr().unwrap()).unwrap();
        let to = question.socket.local_addr().unwrap();
        (0..=AT_ONCE).for_each(|_| assert_eq!(junk.send_to(b"junk", to).unwrap(), 4));
        let mut good = CHRONY;
        good[24..32].copy_from_slice(&question.nonce);
        junk.send_to(&good, to).unwrap();
        assert!(matches!(question.answer(), Answer::Nothing));
        assert!(matches!(question.answer(), Answer::Time(_)));
    }

    #[test]
    fn strangers_and_silence_end_at_the_deadline() {
        let blind = server(|answer| {
            answer[24] ^= 1;
            true
        });
        let started = Instant::now();
        assert_eq!(asked(&[blind], 300), None);
        assert!((300..2_000).contains(&started.elapsed().as_millis()));
        assert_eq!(asked(&[], 10_000), None);
    }
}
