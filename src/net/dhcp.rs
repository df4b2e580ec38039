//! A DHCPv4 client on one link: the machine of [`zstrap_wire::dhcp4`] with its sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use zstrap_wire::dhcp4::{Client, Event, Output};

use super::links::Link;
use super::packet::{ArpSocket, BUFFER, DhcpSocket};
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
                // Renewing is for `zstrap-node lease`; no boot lasts until then.
                Output::Unicast { .. } => Ok(()),
                Output::Event(event) => return Some(event),
            };
            // A lost packet and a refused one are mended by the same retransmission.
            if let Err(error) = sent {
                log::debug!(target: "network", "DHCP packet not sent link={} error={error}", self.name);
            }
        }
        None
    }

    /// Takes what has come; the first event of it.
    pub fn receive(&mut self, now: Duration) -> Option<Event> {
        let mut buffer = [0; BUFFER];
        while let Some(packet) = self.arp.receive(&mut buffer) {
            if let Some(event) = self.client.receive_arp(packet, now) {
                return Some(event);
            }
        }
        while let Some(payload) = self.socket.receive(&mut buffer) {
            if let Some(event) = self.client.receive(payload, now) {
                return Some(event);
            }
        }
        // An offer is answered at once, not at the next turn.
        self.send(now)
    }
}
