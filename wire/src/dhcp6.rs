//! Stateless DHCPv6 (RFC 8415, section 18.2.6): asking for name servers and times, never for addresses.
