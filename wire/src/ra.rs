//! Router advertisements (RFC 4861, DNS options of RFC 8106).
