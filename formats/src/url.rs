//! The URLs that zstrap follows: `http`, `https` and `file`, with a host, an optional port and a plain path.
//!
//! In: text from an identity or a config. Out: a base to which site paths can be appended. User names, queries
//! and fragments are refused: they have no use here, and have hidden hosts from readers before.

use std::fmt;
use std::str::FromStr;

/// The longest URL in bytes.
pub const MAX_URL: usize = 2048;

/// What is wrong with a URL or an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// A scheme that zstrap does not follow.
    #[error("scheme of {url:?} is not one of {expected}")]
    Scheme {
        /// The text.
        url: String,
        /// Schemes that are taken here.
        expected: &'static str,
    },
    /// Anything else.
    #[error("URL {url:?} {problem}")]
    Syntax {
        /// The text.
        url: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// How the server behind a URL is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
    /// A folder on boot media.
    File,
}

/// A checked URL without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    text: String,
}

impl Url {
    /// How it is spoken to.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The URL as text, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without its brackets. Empty for `file:`.
    #[must_use]
    pub fn host(&self) -> &str {
        let rest = self.text.split_once("://").map_or("", |(_, rest)| rest);
        match rest.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => rest.split(['/', ':']).next().unwrap_or_default(),
        }
    }

    /// The URL of `path` below this one; `path` is one of [`crate::site`].
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}/{path}", self.text)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let short = || text.chars().take(200).collect();
        let wrong = |problem| UrlError::Syntax { url: short(), problem };
        if text.len() > MAX_URL || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("is longer than 2048 bytes or has other than visible ASCII characters"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("has no ://, expected as in http://HOST:PORT"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "file" => Scheme::File,
            _ => return Err(UrlError::Scheme { url: short(), expected: "http, https, file" }),
        };
        if rest.contains(['?', '#', '@', '\\', '"', '<', '>', '|', '^', '`', '{', '}']) {
            return Err(wrong("has a user name, query, fragment or a character that URLs escape"));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.split('/').any(|part| part == "..") {
            return Err(wrong("has a component \"..\""));
        }
        match scheme {
            Scheme::File if host.is_empty() => {}
            Scheme::File => return Err(wrong("names a host, expected file:///path")),
            _ if HostPort::parse(host).is_none() => return Err(wrong("has no valid host")),
            _ => {}
        }
        // The slashes of "://" stay: "file:///" is the root of the media, not "file:".
        let path_begin = text.len() - rest.len();
        let text = format!("{}{}", &text[..path_begin], rest.trim_end_matches('/'));
        Ok(Self { scheme, text })
    }
}

/// A host, as a name, an IPv4 or a bracketed IPv6 address, with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) port: Option<u16>,
}

impl HostPort {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, tail) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (None, if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(text), None),
            },
        };
        if host.is_some_and(|host| !is_host_name(host)) {
            return None;
        }
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
            None => None,
        };
        if port == Some(0) { None } else { Some(Self { port }) }
    }
}

/// Letters, digits, dots and hyphens (RFC 1123), at most 253 of them; covers IPv4 addresses.
fn is_host_name(text: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_host_stands_alone() {
        let host = |text: &str| text.parse::<Url>().unwrap().host().to_owned();
        assert_eq!(host("https://boot.example:8443/a/b"), "boot.example");
        assert_eq!(host("http://[2001:db8::1]:8080"), "2001:db8::1");
        assert_eq!((host("http://192.0.2.1").as_str(), host("file:///site").as_str()), ("192.0.2.1", ""));
    }

    #[test]
    fn joins_paths() {
        for text in ["http://10.0.2.2:8080", "https://boot.example.org/site/", "http://[fec0::2]:80/a"] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.join("configs.json"), format!("{}/configs.json", text.trim_end_matches('/')));
        }
        assert_eq!("file:///media/site".parse::<Url>().unwrap().scheme(), Scheme::File);
    }

    #[test]
    fn the_root_of_the_media_stays_a_url() {
        let url: Url = "file:///".parse().unwrap();
        assert_eq!(url.join("configs.json"), "file:///configs.json");
        assert_eq!(url.as_str().parse::<Url>().unwrap(), url);
    }

    #[test]
    fn refuses_other_schemes_by_name() {
        for text in ["ftp://a", "tftp://a", "HTTP://a"] {
            assert!(matches!(text.parse::<Url>(), Err(UrlError::Scheme { .. })), "{text}");
        }
    }

    #[test]
    fn an_address_without_scheme_is_told_what_is_missing() {
        let error = "10.0.2.2:8080".parse::<Url>().unwrap_err();
        assert_eq!(error.to_string(), r#"URL "10.0.2.2:8080" has no ://, expected as in http://HOST:PORT"#);
    }

    #[test]
    fn refuses_what_hides_the_host() {
        for text in [
            "http://",
            "http:/a",
            "http://a b",
            "http://u@h",
            "http://h?q",
            "http://h#f",
            "http://h:0",
            "http://h:99999",
            "http://h:+1",
            "http://-h",
            "http://[::1",
            "http://[x]",
            "http://ü",
            "file://host/x",
            "http://h/../x",
            "",
        ] {
            assert!(matches!(text.parse::<Url>(), Err(UrlError::Syntax { .. })), "{text}");
        }
    }
}
