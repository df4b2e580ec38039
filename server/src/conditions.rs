//! What a request's headers ask for, decided without touching a file (RFC 9110, sections 13 and 14).
//!
//! In: method, headers, length and entity tag of the file. Out: a [`Decision`]. Failure: none; what cannot
//! be understood is ignored, as the RFC says, and the whole file is sent.

use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{HeaderMap, Method};

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// 200 and all of it.
    Whole,
    /// 206 and `len` bytes (at least one) from `start`.
    Part {
        /// The first byte to send.
        start: u64,
        /// How many bytes to send.
        len: u64,
    },
    /// 304: the client has it.
    NotModified,
    /// 416: no byte of the range exists.
    Unsatisfiable,
}

/// Decides by the headers, for a file of `len` bytes that bears `etag` (with its quotes).
pub(crate) fn decide(method: &Method, headers: &HeaderMap, len: u64, etag: &str) -> Decision {
    if none_match_names(headers, etag) {
        return Decision::NotModified;
    }
    // Ranges are defined for GET only.
    if method != Method::GET || !if_range_holds(headers, etag) {
        return Decision::Whole;
    }
    match only_value(headers, RANGE) {
        Some(range) => by_range(range, len),
        None => Decision::Whole,
    }
}

/// True when `If-None-Match` is `*` or lists the tag; weak tags compare equal here.
fn none_match_names(headers: &HeaderMap, etag: &str) -> bool {
    let listed = |value: &str| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    };
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(listed)
}

/// True when there is no `If-Range`, or it is exactly the tag. A date never holds: we send none.
fn if_range_holds(headers: &HeaderMap, etag: &str) -> bool {
    !headers.contains_key(IF_RANGE) || only_value(headers, IF_RANGE) == Some(etag)
}

fn only_value(headers: &HeaderMap, name: axum::http::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)?.to_str().ok().map(str::trim)
}

/// One range in bytes; several ranges and anything else get the whole file.
fn by_range(range: &str, len: u64) -> Decision {
    match parse_range(range) {
        Some((Some(first), last)) => from_to(first, last, len),
        Some((None, Some(suffix))) => last_bytes(suffix, len),
        _ => Decision::Whole,
    }
}

/// `bytes=A-B`, `bytes=A-` and `bytes=-N`, as (A, B) and (none, N).
fn parse_range(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, spec) = range.split_once('=')?;
    let (first, last) = spec.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = (number(first)?, number(last)?);
    let ordered = match (first, last) {
        (Some(first), Some(last)) => first <= last,
        (first, last) => first.is_some() || last.is_some(),
    };
    ordered.then_some((first, last))
}

/// Digits, or nothing at all. More than fits means past any end.
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

fn from_to(first: u64, last: Option<u64>, len: u64) -> Decision {
    if first >= len {
        return Decision::Unsatisfiable;
    }
    let last = last.unwrap_or(u64::MAX).min(len - 1);
    Decision::Part { start: first, len: last - first + 1 }
}

fn last_bytes(suffix: u64, len: u64) -> Decision {
    match (suffix, len) {
        (0, _) => Decision::Unsatisfiable,
        // The last bytes of an empty file are all of it, and 206 cannot say so.
        (_, 0) => Decision::Whole,
        _ => Decision::Part { start: len.saturating_sub(suffix), len: suffix.min(len) },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ETAG: &str = "\"abc\"";

    fn asked(method: Method, headers: &[(&'static str, &str)]) -> Decision {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        decide(&method, &map, 100, ETAG)
    }

    fn range(value: &str) -> Decision {
        asked(Method::GET, &[("range", value)])
    }

    #[test]
    fn understands_single_ranges() {
        assert_eq!(range("bytes=0-0"), Decision::Part { start: 0, len: 1 });
        assert_eq!(range("bytes=10-19"), Decision::Part { start: 10, len: 10 });
        assert_eq!(range("bytes=90-"), Decision::Part { start: 90, len: 10 });
        assert_eq!(range("bytes=90-1000"), Decision::Part { start: 90, len: 10 });
        assert_eq!(range("bytes=-1"), Decision::Part { start: 99, len: 1 });
        assert_eq!(range("bytes=-1000"), Decision::Part { start: 0, len: 100 });
        assert_eq!(range("Bytes=5-5"), Decision::Part { start: 5, len: 1 });
        assert_eq!(range("bytes=0-99999999999999999999999"), Decision::Part { start: 0, len: 100 });
    }

    #[test]
    fn refuses_ranges_past_the_end() {
        assert_eq!(range("bytes=100-"), Decision::Unsatisfiable);
        assert_eq!(range("bytes=100-200"), Decision::Unsatisfiable);
        assert_eq!(range("bytes=-0"), Decision::Unsatisfiable);
        assert_eq!(range("bytes=99999999999999999999999-"), Decision::Unsatisfiable);
    }

    #[test]
    fn ignores_what_is_no_single_range() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=0-1,5-6",
            "lines=0-1",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            assert_eq!(range(value), Decision::Whole, "{value}");
        }
        assert_eq!(asked(Method::HEAD, &[("range", "bytes=0-1")]), Decision::Whole);
        assert_eq!(asked(Method::GET, &[("range", "bytes=0-1"), ("range", "bytes=2-3")]), Decision::Whole);
    }

    #[test]
    fn an_empty_file_has_no_range() {
        assert_eq!(by_range("bytes=0-", 0), Decision::Unsatisfiable);
        assert_eq!(by_range("bytes=-5", 0), Decision::Whole);
    }

    #[test]
    fn answers_304_for_the_tag_it_sent() {
        for value in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert_eq!(asked(Method::GET, &[("if-none-match", value)]), Decision::NotModified, "{value}");
            assert_eq!(asked(Method::HEAD, &[("if-none-match", value)]), Decision::NotModified, "{value}");
        }
        assert_eq!(asked(Method::GET, &[("if-none-match", "\"x\"")]), Decision::Whole);
        assert_eq!(asked(Method::GET, &[("if-none-match", "abc")]), Decision::Whole);
    }

    #[test]
    fn honours_a_range_only_while_the_tag_is_the_same() {
        let with = |tag| asked(Method::GET, &[("range", "bytes=1-2"), ("if-range", tag)]);
        assert_eq!(with("\"abc\""), Decision::Part { start: 1, len: 2 });
        assert_eq!(with("\"old\""), Decision::Whole);
        assert_eq!(with("W/\"abc\""), Decision::Whole);
        assert_eq!(with("Sat, 21 Nov 2026 10:00:00 GMT"), Decision::Whole);
    }
}
