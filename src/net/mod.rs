//! What the network stage is made of: links and their carriers, rtnetlink.

pub mod links;
pub mod netlink;
#[allow(dead_code)] // The network stage takes it up.
pub mod settings;
#[allow(dead_code)] // The network stage takes it up.
pub mod v6;
