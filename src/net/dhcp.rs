//! A DHCPv4 client on one link: the machine of [`zstrap_wire::dhcp4`] with its sockets.
//!
//! In: a link and the time. Out: [`Event`]s; the [`Sockets`] also by themselves, for whoever keeps a lease. Failure: the
//! kernel's refusal of a socket, or of a packet, which is like one that is lost.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use zstrap_wire::dhcp4::{Client, Event, Output};

use super::keeper::Keeper;
use super::links::Link;
use super::packet::{ArpSocket, DhcpSocket, take_some};
use crate::fail::random;

/// A client before its link has an address.
pub struct Dhcp {
    name: String,
    client: Client,
    sockets: Sockets,
}

impl Dhcp {
    /// Begins to ask.
    ///
    /// # Errors
    /// The kernel's refusal of a socket.
    pub fn begin(link: &Link, now: Duration) -> io::Result<Self> {
        Ok(Self {
            name: link.name.clone(),
            client: Client::new(link.mac, random(), now),
            sockets: Sockets::open(link, None)?,
        })
    }

    /// What to wait for.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        self.sockets.fds()
    }

    /// When [`Dhcp::send`] is to be called next.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        self.client.wake()
    }

    /// Sends what it is time for.
    pub fn send(&mut self, now: Duration) -> Option<Event> {
        while let Some(output) = self.client.poll(now) {
            // The address is on the link only while it is tried; else renewing fails, and any server is asked at T2.
            // Once a server has answered, renewing is for `super::renewal`.
            match output {
                Output::Event(event) => return Some(event),
                packet => self.sockets.send_or_lose(&packet, &self.name),
            }
        }
        None
    }

    /// Takes what has come, as far as it fits into a turn; the first event of it.
    pub fn receive(&mut self, now: Duration) -> Option<Event> {
        let Self { client, sockets, .. } = self;
        sockets
            .take(&mut |packet| match packet {
                Packet::Arp(packet) => client.receive_arp(packet, now),
                Packet::Dhcp(payload) => client.receive(payload, now),
            })
            // An offer is answered at once, not at the next turn.
            .or_else(|| self.send(now))
    }
}

/// The sockets of DHCPv4 on one link.
#[derive(Debug)]
pub struct Sockets {
    dhcp: DhcpSocket,
    arp: ArpSocket,
}

impl Sockets {
    /// Listens on a link; also to other machines that claim an address, if there is one already.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(link: &Link, address: Option<Ipv4Addr>) -> io::Result<Self> {
        let (dhcp, mut arp) = (DhcpSocket::open(link)?, ArpSocket::open(link)?);
        address.map_or(Ok(()), |address| arp.listen(address))?;
        Ok(Self { dhcp, arp })
    }

    /// What to wait for.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.dhcp.as_fd(), self.arp.as_fd()]
    }

    /// Sends a packet; an event is none.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn send(&mut self, output: &Output) -> io::Result<()> {
        match output {
            Output::Broadcast(payload) => self.dhcp.broadcast(payload),
            Output::Unicast { from, to, payload } => self.dhcp.unicast(*from, *to, payload),
            Output::Arp(packet) => self.arp.broadcast(packet),
            Output::Event(_) => Ok(()),
        }
    }

    /// The same where a packet that is lost and one that is refused are mended by the same retransmission.
    pub fn send_or_lose(&mut self, output: &Output, link: &str) {
        if let Err(error) = self.send(output) {
            log::debug!(target: "network", "DHCP packet not sent link={link} error={error}");
        }
    }

    /// Gives what has come to a keeper, as far as it fits into a turn.
    pub fn hear(&self, keeper: &mut Keeper, now: Duration) {
        self.take(&mut |packet| {
            match packet {
                Packet::Arp(packet) => keeper.receive_arp(packet, now),
                Packet::Dhcp(payload) => keeper.receive(payload, now),
            }
            None
        });
    }

    /// One copy of this serves all: each would be a loop of its own.
    fn take(&self, take: &mut dyn FnMut(Packet<'_>) -> Option<Event>) -> Option<Event> {
        take_some(|buffer| self.arp.receive(buffer), |packet| take(Packet::Arp(packet)))
            .or_else(|| take_some(|buffer| self.dhcp.receive(buffer), |payload| take(Packet::Dhcp(payload))))
    }
}

/// What has come.
enum Packet<'a> {
    Arp(&'a [u8]),
    Dhcp(&'a [u8]),
}
