//! Router advertisements, several in a row: what is kept stays bounded and clean, and all of it ends.
#![no_main]

use std::net::Ipv6Addr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use zstrap_wire::ra::{Advertisement, Discovery, MAX_KEPT};

// Each message stands behind five bytes: hop limit, who says it, seconds since the last one, length.
fuzz_target!(|data: &[u8]| {
    let (mut rest, mut now) = (data, Duration::ZERO);
    let mut discovery = Discovery::new(1, now);
    while let [hop_limit, from, seconds, high, low, tail @ ..] = rest {
        now += Duration::from_secs(u64::from(*seconds));
        discovery.expire(now);
        discovery.poll(now);
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (message, tail) = tail.split_at(length);
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(*from));
        if let Some(said) = Advertisement::parse(message, source, *hop_limit) {
            check(message, *hop_limit, &said);
            discovery.learn(&said, source, now);
        }
        check_kept(&discovery, now);
        rest = tail;
    }
    // No lifetime but that without end is longer than this.
    now += Duration::from_secs(u64::from(u32::MAX));
    discovery.expire(now);
    assert!(!discovery.has_router() && discovery.poll(now));
});

fn check(message: &[u8], hop_limit: u8, said: &Advertisement) {
    assert!(hop_limit == 255 && message.len() % 8 == 0 && message[0] == 134);
    assert!(said.dns.len() * 16 <= message.len());
    assert!(said.mtu.is_none_or(|mtu| mtu >= 1280));
    assert!(said.prefixes.iter().all(|prefix| prefix.length <= 128));
    said.search.iter().for_each(|(domain, _)| check_domain(domain));
}

fn check_kept(discovery: &Discovery, now: Duration) {
    assert!(discovery.dns().count() <= MAX_KEPT && discovery.search().count() <= MAX_KEPT);
    assert!(discovery.dns().all(|server| !server.is_multicast() && !server.is_unspecified()));
    discovery.search().for_each(check_domain);
    assert!(discovery.has_router() || !discovery.asks_for_dhcp6());
    assert!(discovery.wake().is_none_or(|wake| wake > now || !discovery.has_router()));
}

fn check_domain(domain: &str) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    assert!((1..=253).contains(&domain.len()) && domain.bytes().all(allowed));
}
