//! What the network stage is made of: links and their carriers, rtnetlink, sockets for links without an address,
//! leases, and what a link is to have.

pub mod apply;
pub mod dhcp;
pub mod handover;
pub mod keeper;
pub mod links;
pub mod netlink;
pub mod nft;
pub mod packet;
pub mod renewal;
pub mod settings;
pub mod v6;
