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
/// Longer packets are cut, and then dropped: an Ethernet frame, and no more than we say we take.
pub const BUFFER: usize = 1518;

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
