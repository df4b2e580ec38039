//! A DHCPv4 client on one link: the machine of [`zstrap_wire::dhcp4`] with its sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use zstrap_wire::dhcp4::{Client, Event, Output};

use super::links::Link;
use super::packet::{ArpSocket, DhcpSocket, take_some};
use crate::fail::random;

/// A client before its link has an address.
pub struct Dhcp {
    name: String,
    client: Client,
    socket: DhcpSocket,
    arp: ArpSocket,
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
            socket: DhcpSocket::open(link)?,
            arp: ArpSocket::open(link)?,
        })
    }

    /// What to wait for.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.arp.as_fd()]
    }

    /// When [`Dhcp::send`] is to be called next.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        self.client.wake()
    }

    /// Sends what it is time for.
    pub fn send(&mut self, now: Duration) -> Option<Event> {
        while let Some(output) = self.client.poll(now) {
            let sent = match output {
                Output::Broadcast(payload) => self.socket.broadcast(&payload),
                Output::Arp(packet) => self.arp.broadcast(&packet),
                // The address is on the link only while it is tried; else this fails, and any server is asked at T2.
                // Once a server has answered, renewing is for `super::renewal`.
                Output::Unicast { from, to, payload } => self.socket.unicast(from, to, &payload),
                Output::Event(event) => return Some(event),
            };
            // A lost packet and a refused one are mended by the same retransmission.
            if let Err(error) = sent {
                log::debug!(target: "network", "DHCP packet not sent link={} error={error}", self.name);
            }
        }
        None
    }

    /// Takes what has come, as far as it fits into a turn; the first event of it.
    pub fn receive(&mut self, now: Duration) -> Option<Event> {
        let Self { client, socket, arp, .. } = self;
        take_some(|buffer| arp.receive(buffer), |packet| client.receive_arp(packet, now))
            .or_else(|| take_some(|buffer| socket.receive(buffer), |payload| client.receive(payload, now)))
            // An offer is answered at once, not at the next turn.
            .or_else(|| self.send(now))
    }
}
