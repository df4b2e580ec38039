//! The tests that take minutes, most of which their machines wait: `make qemu` runs them beside the others.

mod endures;
mod lease;
mod watchdog;
