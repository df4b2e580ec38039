//! What the network stage is made of: links and their carriers, rtnetlink, sockets for links without an address.

pub mod links;
pub mod netlink;
pub mod packet;
