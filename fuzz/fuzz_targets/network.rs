//! Network settings, link names and boot loaders' hints. What parses writes back as text that reads the same, and
//! keeps what the init relies on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::network::{LinkName, MAX_EACH, MAX_TEXT, Method, Network, bootif};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_links(text);
    let network = match text.parse::<Network>() {
        Ok(network) => network,
        Err(error) => return assert!(!error.problem.is_empty()),
    };
    let written = network.to_string();
    assert!(text.len() <= MAX_TEXT && written.len() <= MAX_TEXT);
    assert_eq!(written.parse::<Network>().as_ref(), Ok(&network));
    check_method(&network.method);
    check_settings(&network);
});

fn check_links(text: &str) {
    if let Ok(link) = text.parse::<LinkName>() {
        assert!(link.to_string().eq_ignore_ascii_case(text));
        assert_eq!(link.to_string().parse(), Ok(link));
    }
    if let Some(link) = bootif(text) {
        assert_eq!(link.to_string().parse(), Ok(link.clone()));
        assert_eq!(bootif(&link.to_string()), Some(link));
    }
}

fn check_method(method: &Method) {
    match method {
        Method::Auto { v4, v6 } => assert!(v4 | v6),
        Method::Static { addresses, gateways } => {
            assert!((1..=MAX_EACH).contains(&addresses.len()) && gateways.len() <= 2);
            for (address, prefix) in addresses {
                assert!((1..=if address.is_ipv4() { 32 } else { 128 }).contains(prefix));
            }
            for gateway in gateways {
                assert!(addresses.iter().any(|(own, _)| own.is_ipv4() == gateway.is_ipv4()));
            }
        }
    }
}

fn check_settings(network: &Network) {
    let lists = [network.dns.len(), network.search.len(), network.ntp.len(), network.routes.len()];
    assert!(lists.into_iter().all(|count| count <= MAX_EACH));
    assert!(network.link.is_none() || network.bond.is_none());
    for route in &network.routes {
        assert!(route.prefix <= if route.destination.is_ipv4() { 32 } else { 128 });
        assert!(route.gateway.is_none_or(|gateway| gateway.is_ipv4() == route.destination.is_ipv4()));
    }
    // What ends up in resolv.conf and hosts is one word of one line.
    for name in network.search.iter().chain(&network.hostname) {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
    }
}
