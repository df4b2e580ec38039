//! What crosses the wire before a node has a network: packets, and the state machines of clients.
//!
//! In: the time since some start, and packets that came. Out: packets to send, when to wake, and what was learned.
//! Nothing here opens a socket or reads a clock, so every timeout can be tested in virtual time and every parser
//! can be fuzzed. Packets that are not for us are dropped without a word: a network may carry anything.
#![forbid(unsafe_code)]

pub mod arp;
mod backoff;
pub mod dhcp4;
pub mod dhcp6;
pub mod frame;
pub mod httpdate;
pub mod ra;
pub mod sntp;
pub mod text;
