//! Makes bootable images from a kernel, an init and an identity.
//!
//! In: files at hand: a kernel, its modules, the init, a checked identity. Out: an initramfs, and folders that
//! boot over the network; the same input gives the same bytes, whatever the machine, user or time. Nothing is
//! downloaded here. Failure: an error with the path it concerns; a half-made image never stands where a whole
//! one is expected.

mod describe;
mod folder;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod netboot;
mod program;
pub mod slots;

pub use describe::{Image, Kind, SlotPlace};
