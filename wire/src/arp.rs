//! ARP (RFC 826) as far as finding out whether an address is taken (RFC 5227).
