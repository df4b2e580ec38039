//! The few requests of rtnetlink(7) that the init needs: links up and down, MTU, VLANs, bonds, addresses, routes, and
//! news of links.
//!
//! In: link indexes and addresses. Out: the kernel's acknowledgement, or its errno. Messages are built by hand:
//! they are fixed structs and attributes, and the crates for them cost more bytes than the rest of the network.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zstrap_formats::network::Route;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Who sets an IPv6 address by hand answers for it; waiting a second for a neighbour's objection would not help.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_DHCP: u8 = 16;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
/// The multicast group of link changes, as a bit (`RTMGRP_LINK`).
const GROUP_LINK: u32 = 1;

/// A socket that is readable whenever a link has changed: appeared, gone, carrier up or down.
///
/// # Errors
/// The kernel's refusal.
pub fn open_link_news() -> io::Result<OwnedFd> {
    open(GROUP_LINK, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Reads all pending news away: they say only that it is time to look.
pub fn drain(socket: &OwnedFd) {
    let mut buffer = [0; 8192];
    while rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT).is_ok() {}
}

/// Brings a link up.
///
/// # Errors
/// The kernel's refusal.
pub fn link_up(index: u32) -> io::Result<()> {
    set_flags(index, IFF_UP, IFF_UP)
}

/// Takes a link down, as one must be that joins a bond.
///
/// # Errors
/// The kernel's refusal.
pub fn link_down(index: u32) -> io::Result<()> {
    set_flags(index, 0, IFF_UP)
}

fn set_flags(index: u32, flags: u32, mask: u32) -> io::Result<()> {
    let mut message = Message::new(RTM_SETLINK, 0);
    message.link_header(index, flags, mask);
    message.send()
}

/// Sets the largest packet of a link, in bytes.
///
/// # Errors
/// The kernel's refusal.
pub fn set_mtu(index: u32, mtu: u16) -> io::Result<()> {
    let mut message = Message::new(RTM_SETLINK, 0);
    message.link_header(index, 0, 0);
    message.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
    message.send()
}

/// Makes a link of a bond: down first, as the kernel demands.
///
/// # Errors
/// The kernel's refusal.
pub fn join(index: u32, bond: u32) -> io::Result<()> {
    link_down(index)?;
    let mut message = Message::new(RTM_SETLINK, 0);
    message.link_header(index, 0, 0);
    message.attribute(IFLA_MASTER, &bond.to_ne_bytes());
    message.send()
}

/// Makes a VLAN link (IEEE 802.1Q) above another.
///
/// # Errors
/// The kernel's refusal; `EEXIST` when there is one of that name.
pub fn create_vlan(parent: u32, name: &str, id: u16) -> io::Result<()> {
    let mut message = new_link(name);
    message.attribute(IFLA_LINK, &parent.to_ne_bytes());
    message.link_kind("vlan", |data| data.attribute(IFLA_VLAN_ID, &id.to_ne_bytes()));
    message.send()
}

/// Makes a bond without links; `mode` is the kernel's number, and links are looked at every 100 ms.
///
/// # Errors
/// The kernel's refusal; `EEXIST` when there is one of that name.
pub fn create_bond(name: &str, mode: u8) -> io::Result<()> {
    let mut message = new_link(name);
    message.link_kind("bond", |data| {
        data.attribute(IFLA_BOND_MODE, &[mode]);
        data.attribute(IFLA_BOND_MIIMON, &100u32.to_ne_bytes());
    });
    message.send()
}

fn new_link(name: &str) -> Message {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    message.link_header(0, 0, 0);
    message.attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    message
}

/// Gives a link an address.
///
/// # Errors
/// The kernel's refusal.
pub fn add_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address, prefix).send()
}

/// Takes an address from a link.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    address_message(RTM_DELADDR, 0, index, address, prefix).send()
}

fn address_message(kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) -> Message {
    let mut message = Message::new(kind, flags);
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let fields = [family(address), prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE];
    message.bytes.extend_from_slice(&fields);
    message.bytes.extend_from_slice(&index.to_ne_bytes());
    message.attribute(IFA_LOCAL, &octets(address));
    message.attribute(IFA_ADDRESS, &octets(address));
    if let IpAddr::V4(address) = address
        && prefix < 31
    {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        message.attribute(IFA_BROADCAST, &(u32::from(address) | host_bits).to_be_bytes());
    }
    message
}

/// Adds a route through a link.
///
/// # Errors
/// The kernel's refusal.
pub fn add_route(index: u32, route: &Route) -> io::Result<()> {
    route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, index, route).send()
}

/// Takes a route back.
///
/// # Errors
/// The kernel's refusal; `ESRCH` when it is gone already.
pub fn remove_route(index: u32, route: &Route) -> io::Result<()> {
    route_message(RTM_DELROUTE, 0, index, route).send()
}

fn route_message(kind: u16, flags: u16, index: u32, route: &Route) -> Message {
    let mut message = Message::new(kind, flags);
    let is_v4 = route.destination.is_ipv4();
    let scope = if is_v4 && route.gateway.is_none() { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let head = [family(route.destination), route.prefix, 0, 0];
    message.bytes.extend_from_slice(&head);
    message.bytes.extend_from_slice(&[RT_TABLE_MAIN, RTPROT_DHCP, scope, RTN_UNICAST, 0, 0, 0, 0]);
    if route.prefix > 0 {
        message.attribute(RTA_DST, &octets(route.destination));
    }
    if let Some(gateway) = route.gateway {
        message.attribute(RTA_GATEWAY, &octets(gateway));
    }
    message.attribute(RTA_OIF, &index.to_ne_bytes());
    message
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A request in the making: struct nlmsghdr, then a fixed struct, then attributes.
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        // Sequence number and port: one request a socket, so the answer needs no number.
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    /// struct ifinfomsg: family, type, index, flags, change mask.
    fn link_header(&mut self, index: u32, flags: u32, mask: u32) {
        self.bytes.extend_from_slice(&[0; 4]);
        for field in [index, flags, mask] {
            self.bytes.extend_from_slice(&field.to_ne_bytes());
        }
    }

    /// What kind of link is to be made, with the settings of that kind.
    fn link_kind(&mut self, kind: &str, settings: impl FnOnce(&mut Self)) {
        self.nested(IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_KIND, kind.as_bytes());
            info.nested(IFLA_INFO_DATA, settings);
        });
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self { bytes: Vec::new() };
        fill(&mut inner);
        self.attribute(kind, &inner.bytes);
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("attributes here have at most a hundred bytes");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn finished(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("requests here have at most a hundred bytes");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }

    fn send(self) -> io::Result<()> {
        let socket = open(0, SocketFlags::CLOEXEC)?;
        rustix::net::send(socket.as_fd(), &self.finished(), SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (length, _) = rustix::net::recv(socket.as_fd(), &mut answer, RecvFlags::empty())?;
        acknowledgement(&answer[..length])
    }
}

/// Protocol 0 of this family is NETLINK_ROUTE.
fn open(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// struct nlmsgerr: errno, negative; zero is success.
fn acknowledgement(answer: &[u8]) -> io::Result<()> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink answer is not an acknowledgement");
    let head = answer.get(..20).ok_or_else(odd)?;
    if u16::from_ne_bytes([head[4], head[5]]) != NLMSG_ERROR {
        return Err(odd());
    }
    match i32::from_ne_bytes([head[16], head[17], head[18], head[19]]) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_broadcast_address_ends_in_ones() {
        let message = address_message(RTM_NEWADDR, 0, 2, [10, 0, 2, 15].into(), 24).finished();
        assert!(message.windows(4).any(|w| w == [10, 0, 2, 255]));
        assert_eq!(message.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, message.len());
    }

    #[test]
    fn point_to_point_networks_have_no_broadcast_address() {
        let message = address_message(RTM_NEWADDR, 0, 2, [10, 0, 2, 15].into(), 32).finished();
        assert_eq!(message.len(), 16 + 8 + 2 * 8);
    }

    #[test]
    fn errors_keep_the_number_of_the_kernel() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert!(acknowledgement(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(acknowledgement(&answer).unwrap_err().raw_os_error(), Some(19));
        assert!(acknowledgement(&answer[..19]).is_err());
    }
}
