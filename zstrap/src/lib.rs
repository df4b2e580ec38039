//! What the command `zstrap` does, one module a command, so that tests can call it without a process.
//!
//! In: folders, key files, names. Out: keys, a site (a folder of plain files that any web server may serve),
//! images. Failure: an error whose chain names what was done to which file; what a site served before stays
//! whole.

mod authority;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod config;
pub mod image;
pub mod key;
pub mod output;
mod pack;
mod parallel;
mod place;
pub mod progress;
pub mod promote;
pub mod publish;
pub mod serve;
pub mod sign;
mod signatures;
mod signers;
pub mod site;
mod tree;
pub mod verify;
mod verify_site;
