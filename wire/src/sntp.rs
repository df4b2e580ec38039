//! One question to a time server (SNTPv4, RFC 4330) and the checks of its answer.
//!
//! In: a random nonce for the question, the bytes of an answer. Out: the time at which the server sent it. Nobody
//! signs these packets: the nonce shows that the answer is to our question, and no more. Failure: [`Unusable`].

use std::time::Duration;

/// The port servers listen at.
pub const PORT: u16 = 123;
/// Bytes of a question, and the least of an answer; what follows are extensions that we do not ask for.
pub const PACKET: usize = 48;

const VERSION: u8 = 4;
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// Leap indicator of a server whose own clock was never set.
const ALARM: u8 = 3;
/// Strata of servers that have a source of time; 0 is a refusal ("kiss of death"), 16 means none.
const STRATA: std::ops::RangeInclusive<u8> = 1..=15;
const ORIGINATE: usize = 24;
const TRANSMIT: usize = 40;

/// Seconds from 1900, where era 0 of NTP begins, to 1970.
const TO_UNIX: u64 = 2_208_988_800;
/// Seconds of an era.
const ERA: u64 = 1 << 32;
/// Seconds with this bit are of era 0, until 2036-02-07; those without it of era 1 (RFC 4330, section 3).
const ERA_0: u32 = 1 << 31;

/// Why an answer tells no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No answer to our question: too short, another nonce, version or mode. It may come from anybody.
    NotAnAnswer,
    /// The server says that it does not know the time, or does not want to tell.
    NoTime,
}

/// The packet that asks. The nonce stands where a client's clock may stand: servers give it back as it is, and
/// nobody who has not seen the question can.
#[must_use]
pub fn question(nonce: [u8; 8]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[0] = VERSION << 3 | CLIENT;
    packet[TRANSMIT..].copy_from_slice(&nonce);
    packet
}

/// The server's time, since 1970, when it sent this answer.
///
/// # Errors
/// [`Unusable`] when a check of RFC 4330, section 5, fails.
pub fn time(answer: &[u8], nonce: [u8; 8]) -> Result<Duration, Unusable> {
    let answer: &[u8; PACKET] = answer.first_chunk().ok_or(Unusable::NotAnAnswer)?;
    let (leap, version, mode) = (answer[0] >> 6, answer[0] >> 3 & 7, answer[0] & 7);
    if version != VERSION || mode != SERVER || answer[ORIGINATE..ORIGINATE + 8] != nonce {
        return Err(Unusable::NotAnAnswer);
    }
    let (seconds, fraction) = (number(answer, TRANSMIT), number(answer, TRANSMIT + 4));
    if leap == ALARM || !STRATA.contains(&answer[1]) || (seconds, fraction) == (0, 0) {
        return Err(Unusable::NoTime);
    }
    since_1970(seconds, fraction).ok_or(Unusable::NoTime)
}

fn number(packet: &[u8; PACKET], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// None for the last two years before 1970, which era 0 can name as well.
fn since_1970(seconds: u32, fraction: u32) -> Option<Duration> {
    let era = if seconds & ERA_0 == 0 { ERA } else { 0 };
    let unix = (era + u64::from(seconds)).checked_sub(TO_UNIX)?;
    let nanos = (u64::from(fraction) * 1_000_000_000) >> 32;
    Some(Duration::from_secs(unix) + Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NONCE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    /// A good answer: no warning, version 4, stratum 10, sent half a second after this one of NTP.
    fn answer(seconds: u32) -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        packet[..4].copy_from_slice(&[0x24, 10, 0, 0xe7]);
        packet[12..16].copy_from_slice(&[127, 127, 1, 1]);
        packet[ORIGINATE..ORIGINATE + 8].copy_from_slice(&NONCE);
        packet[TRANSMIT..TRANSMIT + 4].copy_from_slice(&seconds.to_be_bytes());
        packet[TRANSMIT + 4..].copy_from_slice(&[0x80, 0, 0, 0]);
        packet
    }

    fn changed(at: usize, to: u8) -> Result<Duration, Unusable> {
        let mut packet = answer(3_988_264_800);
        packet[at] = to;
        time(&packet, NONCE)
    }

    #[test]
    fn asks_as_a_client_of_version_4() {
        let packet = question(NONCE);
        assert_eq!((packet[0], &packet[TRANSMIT..]), (0x23, &NONCE[..]));
        assert!(packet[1..TRANSMIT].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn tells_the_time_to_the_fraction() {
        let half = Duration::from_millis(500);
        assert_eq!(time(&answer(3_988_264_800), NONCE), Ok(Duration::from_secs(1_779_276_000) + half));
    }

    #[test]
    fn goes_on_after_the_era_that_ends_in_2036() {
        let last = Duration::from_secs(2_085_978_495);
        let at = |seconds| time(&answer(seconds), NONCE).map(|time| time.as_secs());
        assert_eq!(at(u32::MAX), Ok(last.as_secs()));
        assert_eq!(at(0), Ok(last.as_secs() + 1));
        // 2100-01-01, and the last second that era 1 is read as.
        assert_eq!(at(2_016_476_928), Ok(4_102_455_424));
        assert_eq!(at(ERA_0 - 1), Ok(4_233_462_143));
        // 1968 is before any time of ours.
        assert_eq!(at(ERA_0), Err(Unusable::NoTime));
    }

    #[test]
    fn answers_of_strangers_are_none() {
        for (at, to) in [(ORIGINATE, 9), (ORIGINATE + 7, 0), (0, 0x23), (0, 0x25), (0, 0x1c), (0, 0x2c)] {
            assert_eq!(changed(at, to), Err(Unusable::NotAnAnswer), "byte {at} = {to:#x}");
        }
        let packet = answer(3_988_264_800);
        assert_eq!(time(&packet[..PACKET - 1], NONCE), Err(Unusable::NotAnAnswer));
        assert_eq!(time(&question(NONCE), NONCE), Err(Unusable::NotAnAnswer));
        let with_extension = [&packet[..], &[0; 20]].concat();
        assert!(time(&with_extension, NONCE).is_ok());
    }

    #[test]
    fn servers_without_a_time_are_not_believed() {
        for (at, to) in [(0, 0xe4), (1, 0), (1, 16), (1, 255)] {
            assert_eq!(changed(at, to), Err(Unusable::NoTime), "byte {at} = {to:#x}");
        }
        let mut unset = answer(0);
        unset[TRANSMIT..].fill(0);
        assert_eq!(time(&unset, NONCE), Err(Unusable::NoTime));
        assert!(changed(1, 15).is_ok() && changed(0, 0x64).is_ok() && changed(0, 0xa4).is_ok());
    }
}
