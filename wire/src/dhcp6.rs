//! Stateless DHCPv6 (RFC 8415, section 18.2.6): asking for name servers and times, never for addresses.
//!
//! In: the time since start and the UDP payloads that came. Out: payloads to send, when to wake, and [`Info`].
//! Packets that are not for us are dropped without a word: a network may carry anything.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::ra::{MAX_KEPT, addresses_in};
use crate::text;

/// The port clients listen at.
pub const CLIENT_PORT: u16 = 546;
/// The port servers listen at.
pub const SERVER_PORT: u16 = 547;
/// All servers and relays of the link.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

const REPLY: u8 = 7;
const INFORMATION_REQUEST: u8 = 11;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const ORO: u16 = 6;
const ELAPSED_TIME: u16 = 8;
const STATUS_CODE: u16 = 13;
const DNS_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;
const SNTP_SERVERS: u16 = 31;
const INFORMATION_REFRESH_TIME: u16 = 32;
const NTP_SERVER: u16 = 56;
/// Asked for because RFC 8415 says that clients must; our own cap is the lower one.
const INF_MAX_RT: u16 = 83;
const WANTED: [u16; 6] =
    [DNS_SERVERS, DOMAIN_LIST, SNTP_SERVERS, NTP_SERVER, INFORMATION_REFRESH_TIME, INF_MAX_RT];

/// `INF_TIMEOUT` of RFC 8415, section 7.6.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// `IRT_DEFAULT` and `IRT_MINIMUM` of RFC 8415, section 7.6.
const DEFAULT_REFRESH: u32 = 86_400;
const LEAST_REFRESH: u32 = 600;
const NEVER: u32 = u32::MAX;

/// What a server told us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Name servers (option 23).
    pub dns: Vec<Ipv6Addr>,
    /// Search domains (option 24).
    pub search: Vec<String>,
    /// Time servers (option 56, RFC 5908, and option 31, RFC 4075), those with an address.
    pub ntp: Vec<Ipv6Addr>,
    /// When to ask again, in seconds (option 32); none for never.
    pub refresh_after: Option<u32>,
}

/// A client on one link.
#[derive(Clone, Debug)]
pub struct Client {
    mac: [u8; 6],
    /// 24 bits.
    xid: u32,
    backoff: Backoff,
    /// When this exchange sent its first packet.
    begun: Option<Duration>,
    wake: Option<Duration>,
    info: Option<Info>,
}

impl Client {
    /// A client that sends its first packet at once. `seed` should be random: transaction ids are made of it.
    #[must_use]
    pub fn new(mac: [u8; 6], seed: u32, now: Duration) -> Self {
        let mut backoff = Backoff::new(FIRST_PAUSE, seed, now);
        let xid = backoff.next_random() >> 8;
        Self { mac, xid, backoff, begun: None, wake: Some(now), info: None }
    }

    /// When [`Client::poll`] is to be called next.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        self.wake
    }

    /// What is known; it stays while it is being asked for anew.
    #[must_use]
    pub fn info(&self) -> Option<&Info> {
        self.info.as_ref()
    }

    /// Whether an answer is being waited for, or asked for from now on.
    #[must_use]
    pub fn is_asking(&self, now: Duration) -> bool {
        self.begun.is_some() || self.wake.is_some_and(|wake| wake <= now)
    }

    /// Asks anew at once, as on a link whose carrier has come back.
    pub fn ask_anew(&mut self, now: Duration) {
        self.backoff = Backoff::new(FIRST_PAUSE, self.backoff.next_random(), now);
        self.wake = Some(now);
    }

    /// The payload to send to [`ALL_SERVERS`] now, if it is time for one.
    pub fn poll(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.wake.is_none_or(|wake| now < wake) {
            return None;
        }
        let begun = *self.begun.get_or_insert(now);
        self.wake = Some(now + self.backoff.pause(now));
        Some(request(self.mac, self.xid, now.saturating_sub(begun)))
    }

    /// Takes a payload from the link; true when it answered what we asked.
    pub fn receive(&mut self, payload: &[u8], now: Duration) -> bool {
        if self.begun.is_none() {
            return false;
        }
        let Some(info) = parse_reply(payload, self.mac, self.xid) else { return false };
        let refresh_at = info.refresh_after.map(|seconds| now + Duration::from_secs(seconds.into()));
        self.xid = self.backoff.next_random() >> 8;
        self.backoff = Backoff::new(FIRST_PAUSE, self.backoff.next_random(), refresh_at.unwrap_or(now));
        self.begun = None;
        self.wake = refresh_at;
        self.info = Some(info);
        true
    }
}

fn request(mac: [u8; 6], xid: u32, elapsed: Duration) -> Vec<u8> {
    let mut payload = vec![INFORMATION_REQUEST];
    payload.extend_from_slice(&xid.to_be_bytes()[1..]);
    put_option(&mut payload, CLIENT_ID, &duid(mac));
    put_option(&mut payload, ORO, WANTED.map(u16::to_be_bytes).as_flattened());
    let hundredths = u16::try_from(elapsed.as_millis() / 10).unwrap_or(u16::MAX);
    put_option(&mut payload, ELAPSED_TIME, &hundredths.to_be_bytes());
    payload
}

fn put_option(payload: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("options of a request have at most 20 bytes");
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&length.to_be_bytes());
    payload.extend_from_slice(value);
}

/// DUID-LL of an Ethernet address (RFC 8415, section 11.4): a node has nowhere to keep another.
fn duid(mac: [u8; 6]) -> [u8; 10] {
    let [a, b, c, d, e, f] = mac;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// None unless it is a valid Reply to us (RFC 8415, section 16.10).
fn parse_reply(payload: &[u8], mac: [u8; 6], xid: u32) -> Option<Info> {
    let (head, rest) = payload.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*head) != u32::from(REPLY) << 24 | xid {
        return None;
    }
    let options = options(rest)?;
    let first = |wanted: u16| options.iter().find(|(code, _)| *code == wanted).map(|(_, value)| *value);
    let refused = first(STATUS_CODE).is_some_and(|status| !status.starts_with(&[0, 0]));
    if refused || first(SERVER_ID).is_none_or(<[u8]>::is_empty) || first(CLIENT_ID)? != duid(mac) {
        return None;
    }
    let dns = addresses_in(first(DNS_SERVERS).unwrap_or_default());
    let search = text::domains(first(DOMAIN_LIST).unwrap_or_default());
    let sntp = addresses_in(first(SNTP_SERVERS).unwrap_or_default());
    Some(Info {
        dns: few(dns),
        search: few(search.into_iter()),
        ntp: few(ntp_addresses(&options).chain(sntp)),
        refresh_after: refresh_after(first(INFORMATION_REFRESH_TIME)),
    })
}

/// Options up to the end; none when the last one is cut off. Those inside an NTP option look the same.
fn options(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let (&[code_high, code_low, high, low], tail) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, tail) = tail.split_at_checked(length)?;
        options.push((u16::from_be_bytes([code_high, code_low]), value));
        rest = tail;
    }
    Some(options)
}

/// Servers with a unicast address; those with a name or a multicast address would need more than is there yet.
fn ntp_addresses<'a>(all: &'a [(u16, &'a [u8])]) -> impl Iterator<Item = Ipv6Addr> + 'a {
    const ADDRESS: u16 = 1;
    let ntp = all.iter().filter(|(code, _)| *code == NTP_SERVER);
    let inner = ntp.filter_map(|(_, value)| options(value)).flatten();
    inner.filter(|(code, _)| *code == ADDRESS).flat_map(|(_, value)| addresses_in(value))
}

fn refresh_after(value: Option<&[u8]>) -> Option<u32> {
    let seconds = match value {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => DEFAULT_REFRESH,
    };
    (seconds != NEVER).then(|| seconds.max(LEAST_REFRESH))
}

/// The first of them, each once.
fn few<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for item in items {
        if kept.len() < MAX_KEPT && !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
    const NTP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x123);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn started() -> Client {
        let mut client = Client::new(MAC, 7, seconds(0));
        client.poll(seconds(0)).unwrap();
        client
    }

    fn reply(xid: u32, mac: [u8; 6], extra: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = (u32::from(REPLY) << 24 | xid).to_be_bytes().to_vec();
        put_option(&mut payload, CLIENT_ID, &duid(mac));
        put_option(&mut payload, SERVER_ID, &duid([2, 0, 0, 0, 0, 9]));
        extra.iter().for_each(|(code, value)| put_option(&mut payload, *code, value));
        payload
    }

    fn told(extra: &[(u16, &[u8])]) -> Option<Info> {
        let mut client = started();
        let payload = reply(client.xid, MAC, extra);
        client.receive(&payload, seconds(0)).then(|| client.info().unwrap().clone())
    }

    fn ntp_option(code: u16, value: &[u8]) -> Vec<u8> {
        let mut option = Vec::new();
        put_option(&mut option, code, value);
        option
    }

    #[test]
    fn asks_with_its_id_and_learns_what_is_answered() {
        let mut client = Client::new(MAC, 7, seconds(0));
        let request = client.poll(seconds(0)).unwrap();
        assert_eq!(request[0], INFORMATION_REQUEST);
        let sent = options(&request[4..]).unwrap();
        assert_eq!(sent[0], (CLIENT_ID, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1][..]));
        assert_eq!(sent[1], (ORO, &[0, 23, 0, 24, 0, 31, 0, 56, 0, 32, 0, 83][..]));
        assert_eq!(sent[2], (ELAPSED_TIME, &[0, 0][..]));
        let xid = u32::from_be_bytes([0, request[1], request[2], request[3]]);
        let by_name = ntp_option(3, b"\x03ntp\x00");
        let by_address = ntp_option(1, &NTP.octets());
        let extra: [(u16, &[u8]); 6] = [
            (DNS_SERVERS, &DNS.octets()),
            (DOMAIN_LIST, b"\x04farm\x07example\x00"),
            (SNTP_SERVERS, &NTP.octets()),
            (NTP_SERVER, &by_name),
            (NTP_SERVER, &by_address),
            (INFORMATION_REFRESH_TIME, &1800u32.to_be_bytes()),
        ];
        assert!(client.receive(&reply(xid, MAC, &extra), seconds(1)));
        let expected = Info {
            dns: vec![DNS],
            search: vec!["farm.example".to_owned()],
            ntp: vec![NTP],
            refresh_after: Some(1800),
        };
        assert_eq!(client.info(), Some(&expected));
        assert_eq!(client.wake(), Some(seconds(1801)));
    }

    #[test]
    fn asks_again_at_growing_pauses_under_one_id() {
        let mut client = Client::new(MAC, 7, seconds(0));
        let sent: Vec<Vec<u8>> =
            (0..500).filter_map(|n| client.poll(Duration::from_millis(n * 100))).collect();
        assert!((7..=9).contains(&sent.len()), "{}", sent.len());
        assert!(sent.iter().all(|packet| packet[1..4] == sent[0][1..4]));
        let elapsed =
            |packet: &[u8]| u16::from_be_bytes([packet[packet.len() - 2], packet[packet.len() - 1]]);
        assert!(sent.is_sorted_by(|a, b| elapsed(a) < elapsed(b)));
        assert!((90..=120).contains(&elapsed(&sent[1])));
    }

    #[test]
    fn asks_anew_when_it_is_time_and_keeps_what_it_knows_until_then() {
        let mut client = started();
        let first = client.xid;
        let payload = reply(first, MAC, &[(DNS_SERVERS, &DNS.octets())]);
        assert!(client.receive(&payload, seconds(0)));
        assert!(!client.is_asking(seconds(86_399)) && client.poll(seconds(86_399)).is_none());
        // An answer that comes twice is no news, and neither is an old one in the next exchange.
        assert!(!client.receive(&payload, seconds(1)));
        assert!(client.is_asking(seconds(86_400)));
        assert!(client.poll(seconds(86_400)).is_some());
        assert_ne!(client.xid, first);
        assert!(!client.receive(&payload, seconds(86_401)));
        assert_eq!(client.info().unwrap().dns, [DNS]);
        let next = client.wake().unwrap() - seconds(86_400);
        assert!(next < seconds(2), "{next:?}");
        assert!(client.receive(&reply(client.xid, MAC, &[]), seconds(86_402)));
        assert!(client.info().unwrap().dns.is_empty());
        client.ask_anew(seconds(86_403));
        assert!(client.poll(seconds(86_403)).is_some());
    }

    #[test]
    fn refresh_times_are_neither_too_short_nor_without_need() {
        let refresh = |value: &[u8]| told(&[(INFORMATION_REFRESH_TIME, value)]).unwrap().refresh_after;
        assert_eq!(refresh(&[0, 0, 0, 1]), Some(LEAST_REFRESH));
        assert_eq!(refresh(&[0xff; 4]), None);
        assert_eq!(refresh(&[1, 2]), Some(DEFAULT_REFRESH));
        assert_eq!(told(&[]).unwrap().refresh_after, Some(DEFAULT_REFRESH));
    }

    #[test]
    fn drops_what_is_not_for_us() {
        let good = |client: &Client| reply(client.xid, MAC, &[(DNS_SERVERS, &DNS.octets())]);
        let without = |client: &Client, code: u16| {
            let payload = good(client);
            let mut kept = payload[..4].to_vec();
            let others = options(&payload[4..]).unwrap();
            others.iter().filter(|(c, _)| *c != code).for_each(|(c, value)| put_option(&mut kept, *c, value));
            kept
        };
        let changed = |client: &Client, at: usize, byte: u8| {
            let mut payload = good(client);
            payload[at] = byte;
            payload
        };
        let client = started();
        let bad = [
            changed(&client, 0, 2),
            reply(client.xid ^ 1, MAC, &[]),
            reply(client.xid, [2, 0, 0, 0, 0, 2], &[]),
            without(&client, CLIENT_ID),
            without(&client, SERVER_ID),
            reply(client.xid, MAC, &[(STATUS_CODE, &[0, 1])]),
            changed(&client, 4 + 3, 255),
            Vec::new(),
        ];
        for payload in bad {
            assert!(!client.clone().receive(&payload, seconds(0)), "{payload:?}");
        }
        let whole = good(&client);
        for length in 0..whole.len() {
            // What is cut off behind a whole option is a shorter packet, not a damaged one.
            let at_an_end = length == whole.len() - 20;
            assert_eq!(client.clone().receive(&whole[..length], seconds(0)), at_an_end, "{length}");
        }
        assert!(!Client::new(MAC, 7, seconds(0)).receive(&whole, seconds(0)), "nothing was asked yet");
    }

    #[test]
    fn lists_of_any_length_are_bounded() {
        let many: Vec<u8> =
            (1..200u16).flat_map(|n| Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, n).octets()).collect();
        let names: Vec<u8> = (0..200u8).flat_map(|n| [2, b'a' + n / 26, b'a' + n % 26, 0]).collect();
        let info = told(&[(DNS_SERVERS, &many), (SNTP_SERVERS, &many), (DOMAIN_LIST, &names)]).unwrap();
        assert_eq!((info.dns.len(), info.ntp.len(), info.search.len()), (MAX_KEPT, MAX_KEPT, MAX_KEPT));
        let empty: [(u16, &[u8]); 4] =
            [(DNS_SERVERS, &[]), (DOMAIN_LIST, &[]), (NTP_SERVER, &[]), (NTP_SERVER, &[0, 1, 0])];
        let nothing = Info { refresh_after: Some(DEFAULT_REFRESH), ..Info::default() };
        assert_eq!(told(&empty), Some(nothing));
    }

    #[test]
    fn addresses_that_no_server_has_are_left_out() {
        let odd = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, ALL_SERVERS, DNS, DNS];
        let value: Vec<u8> = odd.iter().flat_map(Ipv6Addr::octets).chain([1, 2, 3]).collect();
        assert_eq!(told(&[(DNS_SERVERS, &value)]).unwrap().dns, [DNS]);
    }
}
