//! What the network stage is made of: links and their carriers, rtnetlink.

pub mod links;
pub mod netlink;
