//! ARP (RFC 826) as far as finding out whether an address is taken, and saying that it is (RFC 5227).
//!
//! In and out: ARP packets for IPv4 on Ethernet, without an Ethernet header. Anything else is none.

use std::net::Ipv4Addr;

/// Length of a packet for IPv4 on Ethernet, in bytes; links may pad behind it.
pub const LENGTH: usize = 28;

/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Hardware address of who speaks.
    pub sender_mac: [u8; 6],
    /// The address that the sender has; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// The address that is spoken of.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a request or reply.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet = packet.first_chunk::<LENGTH>()?;
        let (kind, rest) = packet.split_first_chunk::<6>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let target: &[u8; 4] = rest.last_chunk()?;
        let known = *kind == KIND && [REQUEST, REPLY].contains(operation);
        known.then_some(Self {
            sender_mac: *sender_mac,
            sender: Ipv4Addr::from(*sender),
            target: Ipv4Addr::from(*target),
        })
    }

    /// Whether somebody else wants to know if the address is free (RFC 5227, section 1.1).
    #[must_use]
    pub fn is_probe_for(&self, address: Ipv4Addr) -> bool {
        self.sender.is_unspecified() && self.target == address
    }
}

/// Asks who has an address, without changing anyone's table: the sender has none yet (RFC 5227, section 2.1.1).
#[must_use]
pub fn probe(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    request(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// Says that an address is ours, for tables that still know an earlier owner (RFC 5227, section 2.3).
#[must_use]
pub fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    request(mac, address, address)
}

fn request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    [&KIND[..], &REQUEST, &mac, &sender.octets(), &[0; 6], &target.octets()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    #[test]
    fn a_probe_has_no_sender_and_an_announcement_has() {
        let packet = probe(MAC, ADDRESS);
        assert_eq!(packet.len(), LENGTH);
        let asked = Arp::parse(&packet).unwrap();
        assert_eq!((asked.sender_mac, asked.sender, asked.target), (MAC, Ipv4Addr::UNSPECIFIED, ADDRESS));
        assert!(asked.is_probe_for(ADDRESS) && !asked.is_probe_for(Ipv4Addr::new(192, 0, 2, 8)));
        let said = Arp::parse(&announcement(MAC, ADDRESS)).unwrap();
        assert_eq!((said.sender, said.target), (ADDRESS, ADDRESS));
        assert!(!said.is_probe_for(ADDRESS));
    }

    #[test]
    fn other_protocols_and_cut_packets_are_none() {
        let good = probe(MAC, ADDRESS);
        for at in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Arp::parse(&bad), None, "byte {at}");
        }
        assert_eq!(Arp::parse(&good[..LENGTH - 1]), None);
        // Ethernet pads to 46 bytes.
        assert!(Arp::parse(&[good, vec![0; 18]].concat()).is_some());
    }
}
