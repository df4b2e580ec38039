//! IPv4 and UDP headers (RFC 791, RFC 768) for a link that has no address yet.
//!
//! In: payloads, or packets from the IPv4 header on. Out: packets, or where in them the payload stands. Fragments
//! and damaged headers are no packets.

use std::net::SocketAddrV4;
use std::ops::Range;

const IP: usize = 20;
const UDP: usize = 8;
const PROTOCOL_UDP: u8 = 17;
/// More fragments follow, or this one is not the first; "do not fragment" and the reserved bit may be there.
const FRAGMENT: u16 = 0x3fff;
/// What a packet may live through (RFC 1700's advice); broadcasts of DHCP may pass a switch that counts.
const TTL: u8 = 64;

/// A UDP datagram with its IPv4 header; none if the payload is longer than a datagram can be.
#[must_use]
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let total = u16::try_from(IP + UDP + payload.len()).ok()?;
    let length = total - IP as u16;
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, TTL, PROTOCOL_UDP, 0, 0]);
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for field in [from.port(), to.port(), length, 0] {
        packet.extend_from_slice(&field.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    let sum = match checksum(&[&[0, PROTOCOL_UDP], &length.to_be_bytes(), &packet[12..]]) {
        // Zero on the wire would mean that there is no checksum.
        0 => u16::MAX,
        sum => sum,
    };
    packet[IP + 6..IP + UDP].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}

/// Where the payload of a UDP datagram to `port` stands in a packet. The UDP checksum is not looked at: a server in a
/// virtual machine on the same host leaves it for a network card to compute that the packet never meets.
#[must_use]
pub fn udp_payload(packet: &[u8], port: u16) -> Option<Range<usize>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    if packet[0] >> 4 != 4 || header < IP || checksum(&[packet.get(..header)?]) != 0 {
        return None;
    }
    let field = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let total = usize::from(field(2)?);
    let is_whole = field(6)? & FRAGMENT == 0 && total <= packet.len();
    if !is_whole || packet[9] != PROTOCOL_UDP || field(header + 2)? != port {
        return None;
    }
    let end = header + usize::from(field(header + 4)?);
    (end <= total && header + UDP <= end).then_some(header + UDP..end)
}

/// RFC 1071, over parts of which only the last may have an odd length. Zero over what holds a right checksum.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;

    const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);

    #[test]
    fn what_was_put_in_comes_out() {
        for payload in [&b""[..], b"a", b"ab", &[0xff; 1472]] {
            let packet = udp(FROM, TO, payload).unwrap();
            let found = udp_payload(&packet, 67).unwrap();
            assert_eq!(&packet[found], payload);
            assert_eq!(udp_payload(&packet, 68), None);
        }
        assert_eq!(udp(FROM, TO, &vec![0; 65_508]), None);
    }

    #[test]
    fn checksums_are_those_of_another_program() {
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, 1), 53);
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, 199), 40_000);
        let packet = udp(from, to, b"hi").unwrap();
        assert_eq!((&packet[10..12], &packet[26..28]), (&[0xf8, 0xb6][..], &[0x78, 0xe2][..]));
        // An odd end counts as if a zero followed.
        let odd = udp(from, to, b"hi!").unwrap();
        assert_eq!(checksum(&[&[0, 17, 0, 11], &odd[12..]]), 0);
    }

    #[test]
    fn link_padding_is_cut_off() {
        let mut packet = udp(FROM, TO, b"payload").unwrap();
        packet.resize(60, 0);
        assert_eq!(&packet[udp_payload(&packet, 67).unwrap()], b"payload");
    }

    #[test]
    fn a_checksum_left_to_the_card_does_not_matter() {
        let mut packet = udp(FROM, TO, b"payload").unwrap();
        packet[26] ^= 0x55;
        assert!(udp_payload(&packet, 67).is_some());
    }

    /// The same packet with another header, whose checksum is right.
    fn changed(at: usize, byte: u8) -> Vec<u8> {
        let mut packet = udp(FROM, TO, b"payload").unwrap();
        packet[at] = byte;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn damaged_and_foreign_packets_are_none() {
        let good = udp(FROM, TO, b"payload").unwrap();
        for length in 0..good.len() {
            assert_eq!(udp_payload(&good[..length], 67), None, "{length}");
        }
        for at in 0..20 {
            let mut flipped = good.clone();
            flipped[at] ^= 0x40;
            assert_eq!(udp_payload(&flipped, 67), None, "byte {at}");
        }
        // IPv6, a short and a long header, too long, fragments, TCP.
        for (at, byte) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 36), (6, 0x20), (7, 1), (9, 6)] {
            assert_eq!(udp_payload(&changed(at, byte), 67), None, "byte {at}");
        }
        // UDP lengths: longer than the packet, shorter than the header.
        assert_eq!(udp_payload(&changed(25, 16), 67), None);
        assert_eq!(udp_payload(&changed(25, 7), 67), None);
        assert!(udp_payload(&changed(6, 0x40), 67).is_some());
    }

    #[test]
    fn options_of_the_header_are_skipped() {
        let plain = udp(FROM, TO, b"payload").unwrap();
        let mut packet = [&plain[..20], &[1, 1, 1, 0], &plain[20..]].concat();
        packet[0] = 0x46;
        packet[3] += 4;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&packet[..24]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(&packet[udp_payload(&packet, 67).unwrap()], b"payload");
    }
}
