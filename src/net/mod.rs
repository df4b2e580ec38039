//! What the network stage is made of: links and their carriers, rtnetlink, DHCP.

pub mod dhcp;
pub mod links;
pub mod netlink;
