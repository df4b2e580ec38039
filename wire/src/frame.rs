//! IPv4 and UDP headers (RFC 791, RFC 768) for a link that has no address yet.
