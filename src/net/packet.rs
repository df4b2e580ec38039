//! Sockets for a link that has no address yet (packet(7)): DHCP and ARP.
//!
//! In: DHCP payloads and ARP packets. Out: those of others, checked and without headers. The kernel sees every packet
//! of the link before it has an address, whoever it is sent to, so servers that answer to the new address at once
//! are heard like those that broadcast. A socket filter lets nothing else wake us. A packet that cannot be sent is
//! like one that is lost: the client asks again.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zstrap_wire::arp::{self, Arp};
use zstrap_wire::dhcp4::{self, CLIENT_PORT, SERVER_PORT};
use zstrap_wire::frame;

use super::links::Link;

/// Ethernet types (if_ether.h).
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const EVERYONE: [u8; 6] = [0xff; 6];
/// Packets read in one go; a flood must not keep us from everything else.
const AT_ONCE: usize = 64;
/// Of those, which are for us, taken in one turn.
const A_TURN: usize = 64;
/// Longer packets are cut, and then dropped: an Ethernet frame, and no more than we say we take.
pub const BUFFER: usize = 1518;

/// Gives to `take` what `receive` has, until it makes something of a packet or it was enough for one turn. What stays
/// in the socket makes it readable, so that the next turn comes at once.
pub fn take_some<T>(
    receive: impl for<'a> Fn(&'a mut [u8]) -> Option<&'a [u8]>,
    mut take: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut buffer = [0; BUFFER];
    for _ in 0..A_TURN {
        if let Some(found) = take(receive(&mut buffer)?) {
            return Some(found);
        }
    }
    None
}

/// DHCP on one link.
#[derive(Debug)]
pub struct DhcpSocket {
    link: PacketSocket,
    name: String,
    /// The socket of renewals, and the address it is bound to. It is never read, as the other one hears the answers:
    /// but without it the kernel would tell the server that nobody listens.
    own: Option<(Ipv4Addr, OwnedFd)>,
}

impl DhcpSocket {
    /// Listens on a link. It may be down still, and may go down: the socket stays good.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(link: &Link) -> io::Result<Self> {
        let name = link.name.clone();
        Ok(Self { link: PacketSocket::open(link.index, IPV4, &dhcp_filter())?, name, own: None })
    }

    /// Sends a DHCP payload to everyone on the link, from the address that it names as ours, or from none.
    ///
    /// # Errors
    /// The kernel's refusal, such as that the link is down.
    pub fn broadcast(&self, payload: &[u8]) -> io::Result<()> {
        let from = SocketAddrV4::new(dhcp4::broadcast_source(payload), CLIENT_PORT);
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        self.link.broadcast(&frame::udp(from, to, payload).ok_or(io::ErrorKind::InvalidInput)?)
    }

    /// Sends a DHCP payload to one server, by the routes there are.
    ///
    /// # Errors
    /// The kernel's refusal, such as that the address is not ours or that there is no route.
    pub fn unicast(&mut self, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> io::Result<()> {
        if self.own.as_ref().is_none_or(|(bound, _)| *bound != from) {
            // The port is taken until the old one is closed.
            self.own = None;
            self.own = Some((from, udp_socket(&self.name, from)?));
        }
        let (_, socket) = self.own.as_ref().expect("opened above");
        rustix::net::sendto(socket, payload, SendFlags::empty(), &SocketAddrV4::new(to, SERVER_PORT))?;
        Ok(())
    }

    /// The next DHCP payload, if one has come. The buffer should have [`BUFFER`] bytes.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let found = self.link.receive(buffer, |packet| frame::udp_payload(packet, CLIENT_PORT))?;
        Some(&buffer[found])
    }
}

impl AsFd for DhcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.socket.as_fd()
    }
}

/// ARP on one link, about the address that was asked or told of last.
#[derive(Debug)]
pub struct ArpSocket {
    link: PacketSocket,
    about: Option<Ipv4Addr>,
}

impl ArpSocket {
    /// Listens on a link, to nothing yet.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(link: &Link) -> io::Result<Self> {
        Ok(Self { link: PacketSocket::open(link.index, ARP, &[NOTHING])?, about: None })
    }

    /// Sends an ARP packet to everyone on the link, and listens from now on to what others say of its address.
    ///
    /// # Errors
    /// The kernel's refusal, such as that the link is down.
    pub fn broadcast(&mut self, packet: &[u8]) -> io::Result<()> {
        let address = Arp::parse(packet).ok_or(io::ErrorKind::InvalidInput)?.target;
        self.listen(address)?;
        self.link.broadcast(packet)
    }

    /// Listens to what others say of an address, without asking.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn listen(&mut self, address: Ipv4Addr) -> io::Result<()> {
        if self.about != Some(address) {
            attach(self.link.socket.as_fd(), &arp_filter(address))?;
            self.about = Some(address);
        }
        Ok(())
    }

    /// The next ARP packet, without Ethernet header, if one has come. The buffer should have [`BUFFER`] bytes.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let found =
            self.link.receive(buffer, |packet| (packet.len() >= arp::LENGTH).then_some(0..arp::LENGTH))?;
        Some(&buffer[found])
    }
}

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.socket.as_fd()
    }
}

/// Packets of one protocol on one link, without their Ethernet headers (`SOCK_DGRAM`).
#[derive(Debug)]
struct PacketSocket {
    socket: OwnedFd,
    everyone: LinkAddress,
}

impl PacketSocket {
    fn open(index: u32, protocol: u16, filter: &[Instruction]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it hears nothing, until it is bound: so nothing comes past the filter.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        attach(socket.as_fd(), filter)?;
        let everyone = LinkAddress::new(index, protocol, EVERYONE)?;
        rustix::net::bind(&socket, &everyone)?;
        Ok(Self { socket, everyone })
    }

    fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        rustix::net::sendto(&self.socket, packet, SendFlags::empty(), &self.everyone)?;
        Ok(())
    }

    /// The next packet in which something is found.
    fn receive<T>(&self, buffer: &mut [u8], find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        for _ in 0..AT_ONCE {
            // A link that went down is said once and read away by this; the client asks again.
            let (length, whole) = rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::TRUNC).ok()?;
            if whole <= buffer.len()
                && let Some(found) = find(&buffer[..length])
            {
                return Some(found);
            }
        }
        None
    }
}

/// A UDP socket for an address of ours, on one link only.
fn udp_socket(link: &str, address: Ipv4Addr) -> io::Result<OwnedFd> {
    use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    setsockopt(&socket, BindToDevice, &link.to_owned().into())?;
    attach(socket.as_fd(), &[NOTHING])?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, CLIENT_PORT))?;
    Ok(socket)
}

/// struct sockaddr_ll: where packets are sent to, or which are heard.
#[derive(Clone, Copy, Debug)]
struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(index: u32, protocol: u16, mac: [u8; 6]) -> io::Result<Self> {
        let [a, b, c, d, e, f] = mac;
        Ok(Self(libc::sockaddr_ll {
            sll_family: AddressFamily::PACKET.as_raw(),
            sll_protocol: protocol.to_be(),
            sll_ifindex: i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [a, b, c, d, e, f, 0, 0],
        }))
    }
}

// SAFETY: the pointer is to a whole sockaddr_ll that outlives the call, and the length is its size.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(&self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

type Instruction = libc::sock_filter;

/// Instructions of classic BPF (the kernel's networking/filter.rst): code, jump if true, jump if false, operand.
const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_AFTER_HEADER: u16 = 0x48;
/// The length of an IPv4 header, from its first byte, into X.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const IF_EQUAL: u16 = 0x15;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: whom the frame was sent to.
const FRAME_KIND: u32 = (-0x1000i32 + 4) as u32;
/// `PACKET_OTHERHOST`: to somebody else, or on a VLAN that this link is not in.
const OTHER_HOST: u32 = 3;
const NOTHING: Instruction = instruction(RETURN, 0, 0, 0);
const WHOLE: Instruction = instruction(RETURN, 0, 0, u32::MAX);

/// UDP over IPv4 to our port, in one piece. Offsets count from the IPv4 header.
fn dhcp_filter() -> [Instruction; 11] {
    [
        instruction(LOAD_BYTE, 0, 0, FRAME_KIND),
        instruction(IF_EQUAL, 8, 0, OTHER_HOST),
        instruction(LOAD_BYTE, 0, 0, 9),
        instruction(IF_EQUAL, 0, 6, libc::IPPROTO_UDP as u32),
        instruction(LOAD_HALF, 0, 0, 6),
        instruction(IF_ANY_BIT, 4, 0, 0x3fff),
        instruction(LOAD_HEADER_LENGTH, 0, 0, 0),
        instruction(LOAD_HALF_AFTER_HEADER, 0, 0, 2),
        instruction(IF_EQUAL, 0, 1, CLIENT_PORT as u32),
        WHOLE,
        NOTHING,
    ]
}

/// ARP from whoever has an address, or asks for it with a probe. Offsets count from the ARP header.
fn arp_filter(address: Ipv4Addr) -> [Instruction; 8] {
    let address = u32::from(address);
    [
        instruction(LOAD_BYTE, 0, 0, FRAME_KIND),
        instruction(IF_EQUAL, 5, 0, OTHER_HOST),
        instruction(LOAD_WORD, 0, 0, 14),
        instruction(IF_EQUAL, 2, 0, address),
        instruction(LOAD_WORD, 0, 0, 24),
        instruction(IF_EQUAL, 0, 1, address),
        WHOLE,
        NOTHING,
    ]
}

/// Gives a socket a filter, in place of the one it has. What is queued already stays.
fn attach(socket: BorrowedFd<'_>, filter: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads one sock_fprog of that size, and the instructions that it points to, which both
    // outlive the call; it writes to neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&program).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn a_flood_that_never_ends_kept_the_turn_from_ending() {
        let mut taken = 0;
        let nothing: Option<()> = take_some(
            |buffer| Some(&buffer[..1]),
            |_| {
                taken += 1;
                None
            },
        );
        assert_eq!((nothing, taken), (None, 64));
        assert_eq!(take_some(|buffer| Some(&buffer[..3]), |packet| Some(packet.len())), Some(3));
        assert_eq!(take_some(|_| None, |packet| Some(packet.len())), None);
    }

    /// Whether a filter lets a packet pass, as the kernel would run it.
    fn passes(filter: &[Instruction], packet: &[u8], kind: u32) -> bool {
        let (mut a, mut x, mut at) = (0u32, 0usize, 0);
        loop {
            let Instruction { code, jt, jf, k } = filter[at];
            at += 1;
            let load = |from: usize, length: usize| {
                let bytes = packet.get(from..from + length)?;
                Some(bytes.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)))
            };
            let offset = k as usize;
            let loaded = match code {
                LOAD_BYTE if k == FRAME_KIND => Some(kind),
                LOAD_BYTE => load(offset, 1),
                LOAD_HALF => load(offset, 2),
                LOAD_WORD => load(offset, 4),
                LOAD_HALF_AFTER_HEADER => load(x + offset, 2),
                LOAD_HEADER_LENGTH => {
                    x = usize::from(packet[offset] & 0xf) * 4;
                    Some(a)
                }
                IF_EQUAL | IF_ANY_BIT => {
                    let holds = if code == IF_EQUAL { a == k } else { a & k != 0 };
                    at += usize::from(if holds { jt } else { jf });
                    Some(a)
                }
                RETURN => return k != 0,
                _ => panic!("unknown instruction {code:#x}"),
            };
            // A load from behind the end of the packet drops it.
            let Some(loaded) = loaded else { return false };
            a = loaded;
        }
    }

    fn to_us(port: u16) -> Vec<u8> {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), SERVER_PORT);
        frame::udp(from, SocketAddrV4::new(ADDRESS, port), b"payload").unwrap()
    }

    #[test]
    fn the_filter_lets_dhcp_pass_and_nothing_else() {
        let good = to_us(CLIENT_PORT);
        for kind in [0, 1] {
            assert!(passes(&dhcp_filter(), &good, kind), "to us, to everyone");
        }
        assert!(!passes(&dhcp_filter(), &good, OTHER_HOST));
        assert!(!passes(&dhcp_filter(), &to_us(53), 0));
        assert!(!passes(&dhcp_filter(), &good[..20], 0));
        for (at, byte) in [(9, 6), (6, 0x20), (7, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(!passes(&dhcp_filter(), &bad, 0), "byte {at}");
        }
        let mut unfragmented = good.clone();
        unfragmented[6] = 0x40;
        assert!(passes(&dhcp_filter(), &unfragmented, 0));
        let mut with_options = [&good[..20], &[1, 1, 1, 0], &good[20..]].concat();
        with_options[0] = 0x46;
        assert!(passes(&dhcp_filter(), &with_options, 0));
    }

    #[test]
    fn the_filter_lets_arp_about_the_address_pass() {
        let other = Ipv4Addr::new(10, 9, 0, 8);
        let filter = arp_filter(ADDRESS);
        assert!(passes(&filter, &arp::announcement(MAC, ADDRESS), 1));
        assert!(passes(&filter, &arp::probe(MAC, ADDRESS), 1));
        assert!(!passes(&filter, &arp::probe(MAC, other), 1));
        assert!(!passes(&filter, &arp::announcement(MAC, other), 1));
        assert!(!passes(&filter, &arp::probe(MAC, ADDRESS), OTHER_HOST));
        assert!(!passes(&[NOTHING], &arp::probe(MAC, ADDRESS), 0));
    }

    /// With the real dnsmasq, in a network namespace of its own, and sysfs of that namespace. As root:
    /// `unshare -nm sh -c 'mount -t sysfs s /sys; cargo test -p zstrap-init with_dnsmasq -- --ignored --nocapture'`.
    #[test]
    #[ignore = "needs root, an empty network namespace and dnsmasq"]
    fn leases_renews_and_declines_with_dnsmasq() {
        use std::process::{Child, Command};
        use std::time::{Duration, Instant};
        use zstrap_wire::dhcp4::{Client, Event, Output};

        struct Ended(Child);
        impl Drop for Ended {
            fn drop(&mut self) {
                drop(self.0.kill());
                drop(self.0.wait());
            }
        }
        let run = |command: &str| {
            let mut words = command.split(' ');
            Command::new(words.next().unwrap())
                .args(words)
                .spawn()
                .unwrap_or_else(|e| panic!("{command}: {e}"))
        };
        let done = |command: &str| assert!(run(command).wait().unwrap().success(), "{command}");
        assert!(Link::all().is_empty(), "an empty network namespace");

        let peer = Ended(run("unshare -n sleep 60"));
        let inside = format!("nsenter -t {} -n ", peer.0.id());
        std::thread::sleep(Duration::from_millis(300));
        done("ip link add c0 type veth peer name s0");
        done(&format!("ip link set s0 netns {}", peer.0.id()));
        for command in ["ip addr add 10.9.0.1/24 dev s0", "ip link set s0 up", "ip link set lo up"] {
            done(&format!("{inside}{command}"));
        }
        done("ip link set c0 up");
        let _server = Ended(run(&format!(
            "{inside}dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=s0 --bind-interfaces \
             --log-facility=- --log-dhcp --no-ping --dhcp-authoritative --dhcp-leasefile=/dev/null \
             --dhcp-range=10.9.0.50,10.9.0.60,120 --dhcp-option=3,10.9.0.1 --dhcp-option=6,10.9.0.1 \
             --dhcp-option=26,1400 --dhcp-option=42,10.9.0.1 --dhcp-option=58,6 --dhcp-option=59,100 \
             --dhcp-option=119,eng.example.org,example.org \
             --dhcp-option=121,0.0.0.0/0,10.9.0.1,10.20.0.0/16,10.9.0.2"
        )));
        std::thread::sleep(Duration::from_millis(500));

        let link = Link::all().remove(0);
        let (mut dhcp, mut arp) = (DhcpSocket::open(&link).unwrap(), ArpSocket::open(&link).unwrap());
        let start = Instant::now();
        let mut client = Client::new(link.mac, 7, Duration::ZERO);
        let (mut buffer, mut events, mut taken) = ([0; BUFFER], Vec::new(), None);
        while start.elapsed() < Duration::from_secs(30) && events.len() < 4 {
            let now = start.elapsed();
            while let Some(payload) = dhcp.receive(&mut buffer) {
                events.extend(client.receive(payload, now));
            }
            while let Some(packet) = arp.receive(&mut buffer) {
                events.extend(client.receive_arp(packet, now));
            }
            while let Some(output) = client.poll(now) {
                eprintln!(
                    "{:.3} {}",
                    now.as_secs_f64(),
                    format!("{output:?}").chars().take(40).collect::<String>()
                );
                match output {
                    Output::Broadcast(payload) => dhcp.broadcast(&payload).unwrap(),
                    Output::Unicast { from, to, payload } => dhcp.unicast(from, to, &payload).unwrap(),
                    Output::Arp(packet) => arp.broadcast(&packet).unwrap(),
                    Output::Event(event) => events.push(event),
                }
            }
            if let (Some(lease), None) = (client.lease(), taken) {
                eprintln!("{:.3} {lease:?}", now.as_secs_f64());
                taken = Some(lease.address);
                done(&format!("ip addr add {}/24 dev c0", lease.address));
            }
            if let (Some(Event::Renewed(lease)), 2) = (events.last(), events.len()) {
                // Somebody comes who has the address too, and says so twice.
                eprintln!("{:.3} renewed", now.as_secs_f64());
                done(&format!("ip addr del {}/24 dev c0", lease.address));
                done(&format!("{inside}ip addr add {}/24 dev s0", lease.address));
                // The kernel announces addresses when that of the hardware changes.
                done(&format!("{inside}sysctl -qw net.ipv4.conf.s0.arp_notify=1"));
                for n in 1..3 {
                    done(&format!("{inside}ip link set s0 address 02:00:00:00:09:0{n}"));
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let Event::Leased(lease) = &events[0] else { panic!("{events:?}") };
        assert_eq!((lease.prefix, lease.mtu, lease.routes.len(), lease.renew_after), (24, Some(1400), 2, 6));
        assert_eq!(lease.search, ["eng.example.org", "example.org"]);
        assert_eq!(lease.ntp, [Ipv4Addr::new(10, 9, 0, 1)]);
        assert!(matches!(&events[1], Event::Renewed(_)), "{events:?}");
        assert_eq!(events[2], Event::Conflict { address: lease.address });
        let Event::Leased(second) = &events[3] else { panic!("{events:?}") };
        assert_ne!(second.address, lease.address);
    }
}
