//! The small texts: `latest`, the hint that names compressed blobs, URLs, networks, times, spans, names, digests. What
//! parses writes back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::config::{Network, PeerAddress};
use zstrap_formats::digest::{Md5, Sha256};
use zstrap_formats::name::{Arch, Label, Name};
use zstrap_formats::packed::Packed;
use zstrap_formats::signature::ArchField;
use zstrap_formats::site;
use zstrap_formats::time::{Timestamp, parse_span};
use zstrap_formats::url::Url;

fuzz_target!(|data: &[u8]| {
    if let Some(serial) = site::parse_latest(data) {
        let digits = data.strip_suffix(b"\n").unwrap_or(data).iter().skip_while(|b| **b == b'0');
        let written = if serial == 0 { String::new() } else { serial.to_string() };
        assert!(digits.eq(written.as_bytes()));
    }
    if let Ok(packed) = Packed::parse(data) {
        assert_eq!(packed.to_text().as_bytes(), data);
        assert_eq!(Packed::new(packed.iter().map(|(sha256, length)| (*sha256, length))), packed);
        for (sha256, length) in packed.iter() {
            assert!(packed.length(sha256, length).is_none(), "nothing is saved");
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_names(text);
    check_places(text);
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string(), text);
    }
    if let Ok(seconds) = parse_span(text) {
        let digits = &text[..text.len() - 1];
        assert!(digits.bytes().all(|b| b.is_ascii_digit()));
        assert!(digits.parse::<u64>().is_ok_and(|n| n == 0 || seconds % n == 0));
    }
});

fn check_names(text: &str) {
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.to_string(), text);
        assert!(!text.starts_with('.') && !text.contains('/') && !text.contains(".."));
    }
    if let Ok(label) = text.parse::<Label>() {
        assert_eq!(label.to_string(), text);
    }
    if let Ok(arch) = text.parse::<Arch>() {
        assert_eq!(arch.to_string(), text);
        assert_eq!(text.parse::<ArchField>(), Ok(ArchField::One(arch)));
    }
    if let Ok(md5) = Md5::parse(text) {
        assert_eq!(md5.to_string(), text);
    }
    if let Ok(sha256) = Sha256::parse(text) {
        assert_eq!(sha256.to_string(), text);
    }
}

fn check_places(text: &str) {
    if let Ok(url) = text.parse::<Url>() {
        assert_eq!(url.as_str().parse::<Url>().as_ref(), Ok(&url));
        assert!(url.join("configs.json").parse::<Url>().is_ok());
        assert!(text.starts_with(url.as_str()));
        assert!(text[url.as_str().len()..].bytes().all(|b| b == b'/'));
    }
    if let Ok(network) = text.parse::<Network>() {
        assert!(network.prefix <= if network.address.is_ipv4() { 32 } else { 128 });
        let written = format!("{}/{}", network.address, network.prefix);
        assert_eq!(written.parse::<Network>().as_ref(), Ok(&network));
    }
    if let Ok(peer) = text.parse::<PeerAddress>() {
        assert_eq!(peer.as_str(), text);
    }
}
