//! The formats of zstrap as pure data: what stands in a list, a signature, a config, an identity, a kernel
//! command line and an initramfs archive, byte by byte.
//!
//! Nothing here reads a file, a socket or a clock: bytes come in, checked values or an error that says which
//! byte was wrong come out. The init, the image maker, the server and the `zstrap` command share these types,
//! so a rule stands in one place. `docs/formats.md` is the prose of this crate.

#![forbid(unsafe_code)]

pub mod cmdline;
pub mod config;
pub mod cpio;
pub mod digest;
pub mod disk_signature;
pub mod gpt;
pub mod identity;
pub mod key;
pub mod list;
pub mod name;
pub mod network;
pub mod packed;
pub mod signature;
pub mod site;
pub mod slot;
pub mod time;
pub mod url;
