//! Answers to an Information-Request: what is learned is bounded and clean, and the client asks again in time.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use zstrap_wire::dhcp6::Client;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Reply to our first request: client id of [`MAC`], then a server's id.
const SERVER_ID: [u8; 8] = [0, 2, 0, 4, 0, 3, 0, 1];

fuzz_target!(|data: &[u8]| {
    let now = Duration::from_secs(5);
    let mut client = Client::new(MAC, 1, now);
    let request = client.poll(now).expect("the first packet is due at once");
    // As it came: only what names our exchange by chance is believed.
    if client.clone().receive(data, now) {
        assert!(data[0] == 7 && data[1..4] == request[1..4]);
    }
    // With a head that is right, so that the options are reached.
    let mut reply = request[..4 + 14].to_vec();
    reply[0] = 7;
    reply.extend_from_slice(&SERVER_ID);
    reply.extend_from_slice(data);
    if client.receive(&reply, now) {
        check(&client, now);
    }
});

fn check(client: &Client, now: Duration) {
    let info = client.info().expect("a received answer is kept");
    assert!(info.dns.len() <= 8 && info.search.len() <= 8 && info.ntp.len() <= 8);
    let odd = |address: &std::net::Ipv6Addr| address.is_multicast() || address.is_unspecified();
    assert!(!info.dns.iter().chain(&info.ntp).any(odd));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    assert!(info.search.iter().all(|domain| !domain.is_empty() && domain.bytes().all(allowed)));
    assert!(client.wake().is_none_or(|wake| wake >= now + Duration::from_secs(600)));
    assert!(!client.is_asking(now));
}
