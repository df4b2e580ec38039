//! Whole machines for tests: a VM with console and QMP, a server that misbehaves on request, a site to boot from.
//!
//! In: the artefacts of `make build` under `out/`. Out: machines that ran, with everything they printed.
//! Failure: an `anyhow` error that carries the last lines of the console; the whole console is kept in
//! `out/qemu-tests/NAME.log`. Nothing here is part of the product, and the init is only ever run, never linked.

pub mod artefacts;
pub mod boot;
pub mod chance;
pub mod console;
pub mod dhcp;
pub mod disk;
pub mod dump;
pub mod efi;
pub mod errors;
pub mod http;
pub mod kill;
pub mod lab;
pub mod netns;
pub mod ntp;
pub mod proxy;
pub mod qmp;
pub mod screen;
pub mod segment;
pub mod site;
pub mod tls;
pub mod vm;
