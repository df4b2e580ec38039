//! The date of an HTTP answer (RFC 9110, section 5.6.7).
