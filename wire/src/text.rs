//! Names that come from a network and go into files that other programs parse.
//!
//! In: bytes of a packet. Out: names of letters, digits, hyphens, underscores and dots, which can end no line and
//! begin no option of `resolv.conf` or `hosts`. A name that is anything else is no name; the others around it stay.

/// What the kernel takes as a host name, in bytes (`__NEW_UTS_LEN`, sethostname(2)).
const MAX_HOST: usize = 64;
/// A domain written with dots (RFC 1035, section 2.3.4, less the root's length byte and the first one).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// No resolver reads more of a search list than this (musl and glibc stop earlier).
const MAX_DOMAINS: usize = 16;
/// The two high bits of a length byte that make it half of a pointer (RFC 1035, section 4.1.4).
const POINTER: u8 = 0xc0;

/// The name of a machine; of a name that is too long for the kernel, the first label. `localhost` names no machine.
#[must_use]
pub fn host_name(bytes: &[u8]) -> Option<String> {
    let name = domain(bytes)?;
    let first = name.split('.').next().unwrap_or_default();
    if first.eq_ignore_ascii_case("localhost") {
        return None;
    }
    Some(if name.len() <= MAX_HOST { name } else { first.to_owned() })
}

/// A domain as text, with or without the dot of the root or the NUL that some servers send behind it.
#[must_use]
pub fn domain(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let name = &bytes[..end];
    let name = name.strip_suffix(b".").unwrap_or(name);
    let good = name.len() <= MAX_DOMAIN && name.split(|byte| *byte == b'.').all(is_label);
    if good { String::from_utf8(name.to_vec()).ok() } else { None }
}

/// The domains of a search list in the form of RFC 1035, each once: DHCP option 119 (RFC 3397, compressed) and
/// DNSSL (RFC 8106, padded with zeros). What follows damage is lost, what stood before it is kept.
#[must_use]
pub fn domains(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() && found.len() < MAX_DOMAINS {
        let Some((name, next)) = name_at(bytes, at) else { break };
        at = next;
        if let Some(name) = domain(&name)
            && !found.contains(&name)
        {
            found.push(name);
        }
    }
    found
}

/// The name that begins at an offset, with dots, and where the next one begins. Pointers lead only backwards, each
/// before the place that the last one led to, so every name ends.
fn name_at(bytes: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let (mut name, mut at, mut part, mut next) = (Vec::new(), start, start, None);
    loop {
        let length = *bytes.get(at)?;
        if length == 0 {
            return Some((name, next.unwrap_or(at + 1)));
        } else if length & POINTER == POINTER {
            let low = *bytes.get(at + 1)?;
            next = next.or(Some(at + 2));
            at = usize::from(u16::from_be_bytes([length & !POINTER, low]));
            if at >= part {
                return None;
            }
            part = at;
        } else {
            // The other two kinds of labels (0x40, 0x80) are longer than a label can be.
            let label = bytes.get(at + 1..)?.get(..usize::from(length))?;
            if label.len() > MAX_LABEL || name.len() + label.len() > MAX_DOMAIN {
                return None;
            }
            if !name.is_empty() {
                name.push(b'.');
            }
            // A dot inside a label would make two of it; no good name has one, so any bad byte may stand for it.
            name.extend(label.iter().map(|byte| if *byte == b'.' { b'!' } else { *byte }));
            at += 1 + label.len();
        }
    }
}

/// RFC 1123, section 2.1, and the underscore that Windows networks have in their names.
fn is_label(label: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.iter().all(allowed)
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn names_lose_what_servers_put_behind_them() {
        for bytes in [&b"farm.example"[..], b"farm.example.", b"farm.example\0", b"farm.example.\0\0"] {
            assert_eq!(domain(bytes), some("farm.example"));
        }
        assert_eq!(host_name(b"node_7"), some("node_7"));
    }

    #[test]
    fn names_that_other_programs_would_stumble_over_are_no_names() {
        let long = [b'a'; 64];
        for bad in [
            &b""[..],
            b"\0",
            b".",
            b"a..b",
            b".a",
            b"-a",
            b"a.b-",
            b"a b",
            b"a\nb",
            b"a\0b",
            b"a/b",
            b"a#b",
            "ä".as_bytes(),
            &long,
        ] {
            assert_eq!(domain(bad), None, "{bad:?}");
            assert_eq!(host_name(bad), None, "{bad:?}");
        }
        assert_eq!(domain(&b"a.".repeat(127)), Some("a.".repeat(127).trim_end_matches('.').to_owned()));
        assert_eq!(domain(&b"a.".repeat(128)), None);
    }

    #[test]
    fn a_host_name_names_one_machine_and_fits_the_kernel() {
        assert_eq!(host_name(b"localhost"), None);
        assert_eq!(host_name(b"LocalHost.localdomain"), None);
        let (fits, long) = (format!("n7.{}", "x".repeat(61)), format!("n7.{}", "x".repeat(62)));
        assert_eq!(host_name(fits.as_bytes()), some(&fits));
        assert_eq!(host_name(long.as_bytes()), some("n7"));
    }

    #[test]
    fn reads_the_example_of_rfc_3397() {
        let bytes = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(domains(bytes), ["eng.apple.com", "marketing.apple.com"]);
    }

    #[test]
    fn padding_and_repetition_add_nothing() {
        assert_eq!(domains(b"\x01a\x00\x01a\x00\x01b\x00\x00\x00\x00"), ["a", "b"]);
        assert_eq!(domains(b""), Vec::<String>::new());
        assert_eq!(domains(&[0; 16]), Vec::<String>::new());
    }

    #[test]
    fn a_bad_name_does_not_take_its_neighbours_along() {
        assert_eq!(domains(b"\x01a\x00\x03x y\x00\x03x.y\x00\x01b\x00"), ["a", "b"]);
    }

    #[test]
    fn pointers_lead_only_backwards() {
        // To itself, ahead, to the start of the name they end, in a circle, past the end, half a pointer.
        for bad in [
            &b"\xc0\x00"[..],
            b"\xc0\x02\x01a\x00",
            b"\x01a\xc0\x00",
            b"\x01a\xc0\x04\x01b\xc0\x00",
            b"\xff\xff",
            b"\x01a\xc0",
        ] {
            assert_eq!(domains(bad), Vec::<String>::new(), "{bad:?}");
        }
        assert_eq!(domains(b"\x01a\x00\x01b\xc0\x00\x01c\xc0\x03"), ["a", "b.a", "c.b.a"]);
    }

    #[test]
    fn names_that_do_not_end_are_dropped() {
        for bad in [&b"\x01"[..], b"\x05ab", b"\x01a", b"\x40a\x00", b"\x80a\x00"] {
            assert_eq!(domains(bad), Vec::<String>::new(), "{bad:?}");
        }
        let mut long = b"\x3f".to_vec();
        long.extend([b'a'; 63]);
        assert_eq!(domains(&[long.repeat(4), vec![0]].concat()), Vec::<String>::new());
        assert_eq!(domains(&[long.repeat(3), vec![0]].concat()).len(), 1);
    }

    #[test]
    fn the_number_of_domains_is_bounded() {
        let many: Vec<u8> = (0..100).flat_map(|n| [2, b'a' + n / 26, b'a' + n % 26, 0]).collect();
        assert_eq!(domains(&many).len(), MAX_DOMAINS);
    }
}
