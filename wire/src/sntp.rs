//! One question to a time server (SNTPv4, RFC 4330).
