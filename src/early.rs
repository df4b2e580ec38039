//! First stage: from a bare kernel to a place where a program can work.
//!
//! In: nothing but the kernel. Out: a [`Machine`]: file systems of the kernel mounted, every console open, modules
//! loaded. Nothing here stops the boot; what fails is said, and the stage that
//! needs it will say why it cannot go on.

use std::fs;
use std::time::Instant;

use rustix::mount::MountFlags;
use rustix::system::RebootCommand;
use zstrap_formats::cmdline::{Cmdline, same_name};
use zstrap_formats::config::{LogLevel, OnFailure};

use crate::cache::Keep;
use crate::clock::{self, Clock};
use crate::fail::Policy;
use crate::modules::{self, Modules};
use crate::net::links::Link;
use crate::net::settings::Settings;
use crate::root::MEMORY_TO_RUN;
use crate::servers::Memory;
use crate::sys::{Mount, NO_EXEC, System};
use crate::{console, fail, loops};

/// What a program finds on every Linux machine. `/run` may hold programs: ours lives on there.
const MOUNTS: [Mount<'static>; 4] = [
    Mount { kind: "proc", target: "/proc", flags: NO_EXEC, options: "" },
    Mount { kind: "sysfs", target: "/sys", flags: NO_EXEC, options: "" },
    Mount { kind: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, options: "mode=0755" },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=0755,size=20%",
    },
];

/// What of the kernel command line is ours, behind [`PREFIX`]. docs/operating.md tells of each.
const WORDS: [&str; 8] =
    ["bundle", "farmer_id", "farming_pool_id", "link", "log", "net", "reboot_after", "tries"];
const PREFIX: &str = "zstrap.";

/// Seconds after which a kernel that has panicked reboots; 0 is never.
const KERNEL_PANIC: &str = "/proc/sys/kernel/panic";

/// What is known of the machine before anything was asked of it.
pub struct Machine {
    /// The kernel command line.
    pub cmdline: Cmdline,
    /// Version of the running kernel.
    pub kernel: String,
    /// Modules of the initramfs, and which of them the hardware wants.
    pub modules: Modules,
    /// When the init began.
    pub started: Instant,
    /// Which time it is, and whose word that is.
    pub clock: Clock,
    /// The link and settings that an attempt has used.
    pub connected: Option<(Link, Settings)>,
    /// How good each server has been.
    pub servers: Memory,
    /// The disk, and what is kept on it.
    pub keep: Keep,
    /// How often the network was looked for.
    pub network_attempts: usize,
    /// What comes when all attempts have failed, as far as a config has been seen.
    pub on_failure: OnFailure,
}

impl Machine {
    /// One of which nothing is known.
    #[cfg(test)]
    pub fn pretended() -> Self {
        Self {
            cmdline: Cmdline::default(),
            kernel: "6.1".to_owned(),
            modules: Modules::default(),
            started: Instant::now(),
            connected: None,
            clock: Clock::default(),
            servers: Memory::default(),
            keep: Keep::default(),
            network_attempts: 0,
            on_failure: OnFailure::default(),
        }
    }

    /// The log level of the kernel command line, which is what a person at the machine can reach; else this one.
    #[must_use]
    pub fn log_level_of(&self, otherwise: Option<LogLevel>) -> LogLevel {
        let asked = self.cmdline.value("zstrap.log").and_then(|text| text.parse().ok());
        asked.or(otherwise).unwrap_or(LogLevel::Normal)
    }
}

/// Makes the machine usable.
pub fn prepare(system: &dyn System) -> Machine {
    let started = Instant::now();
    let failed: Vec<String> =
        MOUNTS.iter().filter_map(|m| Some((m, system.mount(m).err()?))).map(said).collect();
    let panic = reboot_after_kernel_panic();
    let cmdline = Cmdline::parse(&fs::read("/proc/cmdline").unwrap_or_default());
    fail::panic::set_hook(Policy::of(&cmdline));
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = Modules::of_kernel(&kernel, &cmdline);
    let mut machine = Machine {
        cmdline,
        kernel,
        modules,
        started,
        clock: Clock::default(),
        connected: None,
        servers: Memory::default(),
        keep: Keep::default(),
        network_attempts: 0,
        on_failure: OnFailure::default(),
    };
    console::start_boot(machine.log_level_of(None));
    failed.iter().chain(&panic).for_each(|line| log::warn!(target: "early", "{line}"));
    for name in unknown_words(&machine.cmdline) {
        log::warn!(target: "early", "ignored setting={name}: no such setting");
    }
    // Ctrl-Alt-Del at once, as long as nobody is there whom it could interrupt.
    if let Err(error) = rustix::system::reboot(RebootCommand::CadOn) {
        log::debug!(target: "early", "ctrl-alt-del stays off: {error}");
    }
    loops::begin(&mut machine.modules);
    let loaded = machine.modules.load_for_hardware();
    report(system, &machine, loaded);
    machine
}

/// A kernel that has panicked, because memory ran out or PID 1 has ended, must not stand still for ever. What a
/// person has set with `panic=` stays.
fn reboot_after_kernel_panic() -> Option<String> {
    if fs::read_to_string(KERNEL_PANIC).is_ok_and(|text| text.trim() != "0") {
        return None;
    }
    let error = fs::write(KERNEL_PANIC, "10\n").err()?;
    Some(format!("no reboot after a kernel panic: writing {KERNEL_PANIC}: {error}"))
}

/// A misspelt setting is one that a person believes to be in effect.
fn unknown_words(cmdline: &Cmdline) -> Vec<&str> {
    let names = cmdline.parameters().iter().map(|parameter| parameter.name.as_str());
    let is_known = |word: &str| WORDS.iter().any(|known| same_name(word, known));
    names.filter(|name| name.strip_prefix(PREFIX).is_some_and(|word| !is_known(word))).collect()
}

fn said((mount, error): (&Mount<'_>, std::io::Error)) -> String {
    format!("mounting {} on {}: {error}", mount.kind, mount.target)
}

fn report(system: &dyn System, machine: &Machine, modules: usize) {
    let available = system.memory_available().unwrap_or(0);
    let (memory, need) = (available >> 20, MEMORY_TO_RUN >> 20);
    if available < MEMORY_TO_RUN {
        log::warn!(target: "early", "little memory need={need}MiB available={memory}MiB: no bundle will fit");
    }
    for card in modules::cards_without_driver() {
        log::warn!(target: "early", "no driver for network card id={card}");
    }
    log::info!(
        target: "early",
        "ready kernel={} memory={memory}MiB clock={} modules={modules} after={:.3}s",
        machine.kernel,
        clock::now(),
        machine.started.elapsed().as_secs_f64(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_setting_was_ignored_without_a_word() {
        let line = b"quiet zstrap.nett=dhcp zstrap.net=dhcp zstrap.farmer-id=7 zstrap. zstrapx zstrap.log -- zstrap.x";
        assert_eq!(unknown_words(&Cmdline::parse(line)), ["zstrap.nett", "zstrap."]);
    }

    #[test]
    fn operators_can_read_of_every_setting() {
        let page = include_str!("../docs/operating.md");
        assert!(WORDS.iter().all(|word| page.contains(&format!("`{PREFIX}{word}="))));
    }
}
