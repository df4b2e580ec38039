//! Last stage: the program of the config takes over.
//!
//! In: a filled root and the config. Out: nothing, as this program is gone. Everything that can fail is done
//! before the initramfs is emptied: until then, a failure still ends in an explanation and another try.

use std::ffi::{CString, NulError};
use std::io;
use std::time::Instant;

use rustix::mount::MountFlags;
use zstrap_formats::config::{Config, LogLevel};

use crate::cache::Cache;
use crate::console;
use crate::early::Machine;
use crate::fail::{self, Code, Failure, Refusal, Stage};
use crate::fetch::Fetched;
use crate::loops;
use crate::mycelium::Overlay;
use crate::net::handover::{HANDOVER, Handover};
use crate::network::{HOSTS, RESOLV_CONF};
use crate::node::facts::{self, ENVIRONMENT, FACTS, Facts};
use crate::node::{NODE, SUPERVISOR};
use crate::root::{self, NEW_ROOT};
use crate::sys::{Meta, Mount, NO_EXEC, Program, RootDir, System};
use crate::watchdog;

/// What the next PID 1 finds mounted in what moves with us.
const MOUNTS: [Mount<'static>; 3] = [
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "gid=5,mode=0620,ptmxmode=0666",
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=1777",
    },
    Mount { kind: "cgroup2", target: "/sys/fs/cgroup", flags: NO_EXEC, options: "" },
];
/// What it finds mounted in the new root itself.
const TMP: Mount<'static> = Mount {
    kind: "tmpfs",
    target: "/tmp",
    flags: MountFlags::NOSUID.union(MountFlags::NODEV),
    options: "mode=1777",
};
/// What moves into the new root.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];
/// Directories that must be there to mount on, if the list does not bring them.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "sys", "run", "tmp"];

/// What alone outlives a boot, where there is a disk; nothing that starts services or loads code reads it.
pub const STATE: &str = "/var/lib/zstrap-state";
/// What is made of the way there, if the list does not bring it, and who may go it.
const STATE_FOLDERS: [(&str, u16); 3] = [("var", 0o755), ("var/lib", 0o755), ("var/lib/zstrap-state", 0o700)];
/// The same where there is none.
const STATE_IN_RAM: Mount<'static> =
    Mount { kind: "tmpfs", target: STATE, flags: NO_EXEC, options: "mode=0700,size=20%" };

/// Where programs are looked for; ours last, so that a bundle's own program of the same name wins.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/zstrap/bin";

/// Why nobody took over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle has no such program.
    #[error("{0} is not an executable file of the bundle")]
    NoProgram(String),
    /// An argument or a variable that the kernel cannot take.
    #[error("exec or env of the config contains a NUL byte")]
    Nul(#[from] NulError),
    /// The kernel refused.
    #[error("{what}")]
    System {
        /// Which operation.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel could not start it.
    #[error("running {path}")]
    Exec {
        /// Which program.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoProgram(_) => Code::NoProgram,
            Self::Exec { source, .. } => match source.raw_os_error() {
                Some(nix::libc::ENOEXEC) => Code::NotAProgram,
                Some(nix::libc::ENOENT) => Code::NoLoader,
                _ => Code::NotRun,
            },
            Self::Nul(_) => Code::NulInConfig,
            Self::System { .. } => Code::HandoffIo,
        }
    }
}

/// What the stages leave for the programs of the bundle.
pub struct Left<'a> {
    /// What this node knows of itself.
    pub facts: &'a Facts,
    /// The network that somebody has to keep.
    pub handover: &'a Handover,
    /// The overlay network, if there is one.
    pub overlay: Option<&'a Overlay>,
}

/// Hands the machine over. Returns only on failure, which is final once the mounts have begun to move.
#[must_use]
pub fn to_program(
    system: &dyn System,
    machine: &Machine,
    fetched: &Fetched,
    config: &Config,
    left: &Left<'_>,
) -> Failure {
    let failed = |error| Failure::of(Stage::Handoff, error);
    match prepare(system, machine, fetched, config, left) {
        Ok(program) => failed(leave(system, &program, config)).and_final(),
        Err(error) => failed(error),
    }
}

/// Everything that can be done before the point of no return.
fn prepare(
    system: &dyn System,
    machine: &Machine,
    fetched: &Fetched,
    config: &Config,
    left: &Left<'_>,
) -> Result<Program, Error> {
    let program = program(config, machine.log_level_of(config.log))?;
    let path = &config.exec[0];
    if !fetched.root().dir().is_executable(path.trim_start_matches('/').as_bytes()) {
        return Err(Error::NoProgram(path.clone()));
    }
    leave_our_program(system, left, config)?;
    prepare_mounts(system, fetched)?;
    prepare_state(system, fetched, machine.keep.cache().filter(|_| config.root.size > 0))?;
    lay_files_over(system)?;
    if let Some(overlay) = left.overlay {
        overlay.leave(system, fetched.root().dir());
    }
    log_handoff(config, machine.started);
    Ok(program)
}

/// Moves the mounts, empties the initramfs, and runs the program.
fn leave(system: &dyn System, program: &Program, config: &Config) -> Error {
    watchdog::expect_within(watchdog::WORK);
    for mount in MOVED {
        if let Err(source) = system.move_mount(mount, NEW_ROOT, mount) {
            return Error::System { what: format!("moving {mount} to the new root"), source };
        }
    }
    root::let_go(system);
    if let Err(source) = system.switch_root(NEW_ROOT) {
        return Error::System { what: "changing to the new root".to_owned(), source };
    }
    fail::panic::stop_if_panicked();
    // The supervisor sees whether the program stays up.
    let is_last = program.path.as_bytes() != SUPERVISOR.as_bytes();
    if is_last {
        loops::succeeded(loops::PATIENCE);
    }
    watchdog::hand_over(config.watchdog, config.supervise);
    // The last act: what is logged after it reaches no console.
    console::hand_over();
    let source = system.exec(program);
    console::take_back();
    watchdog::take_back();
    loops::take_back();
    Error::Exec { path: program.path.to_string_lossy().into_owned(), source }
}

fn log_handoff(config: &Config, started: Instant) {
    let verb = if config.supervise { "supervise" } else { "exec" };
    let total = started.elapsed().as_secs_f64();
    log::info!(target: "handoff", "{verb} {} total={total:.3}s", config.exec[0]);
}

/// The config's program, or ours above it.
fn program(config: &Config, log: LogLevel) -> Result<Program, Error> {
    let (grace, watchdog) = (config.grace.to_string(), config.watchdog.map(|seconds| seconds.to_string()));
    let mut argv = match config.supervise {
        true => vec![SUPERVISOR, "supervise", "--grace", &grace, "--log", log.as_str()],
        false => Vec::new(),
    };
    if config.supervise {
        argv.extend(watchdog.iter().flat_map(|seconds| ["--watchdog", seconds]));
        argv.push("--");
    }
    argv.extend(config.exec.iter().map(String::as_str));
    let mut env: std::collections::BTreeMap<&str, &str> =
        [("HOME", "/root"), ("PATH", PATH), ("TERM", "linux")].into();
    env.extend(config.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    Ok(Program {
        path: CString::new(argv[0])?,
        argv: argv.into_iter().map(CString::new).collect::<Result<_, _>>()?,
        env: env
            .into_iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")))
            .collect::<Result<_, _>>()?,
    })
}

/// Our program, the facts and the network that it is to keep go to `/run`, which moves along.
fn leave_our_program(system: &dyn System, left: &Left<'_>, config: &Config) -> Result<(), Error> {
    let Left { facts, handover, .. } = left;
    let environment = facts::environment(facts, &config.env);
    let failed = |what: &str| {
        let what = format!("writing {what}");
        move |source| Error::System { what, source }
    };
    system.copy_file("/init", NODE, 0o755).map_err(failed(NODE))?;
    system.link_file(NODE, SUPERVISOR).map_err(failed(SUPERVISOR))?;
    system.write_file(FACTS, 0o644, facts::to_json(facts).as_bytes()).map_err(failed(FACTS))?;
    system.write_file(ENVIRONMENT, 0o644, environment.as_bytes()).map_err(failed(ENVIRONMENT))?;
    system.write_file(HANDOVER, 0o644, handover.to_json().as_bytes()).map_err(failed(HANDOVER))
}

fn prepare_mounts(system: &dyn System, fetched: &Fetched) -> Result<(), Error> {
    let dir = fetched.root().dir();
    for point in MOUNT_POINTS {
        make_dir(dir, point, 0o755)?;
    }
    let mounting = |mount: &Mount<'_>| {
        let what = format!("mounting {} on {}", mount.kind, mount.target);
        move |source| Error::System { what, source }
    };
    for mount in &MOUNTS {
        // An earlier attempt may have come this far.
        system.unmount(mount.target);
        system.mount(mount).map_err(mounting(mount))?;
    }
    system.mount_below(NEW_ROOT, &TMP).map_err(mounting(&TMP))
}

/// Makes a directory of the new root, unless it is there.
fn make_dir(dir: &dyn RootDir, path: &str, mode: u16) -> Result<(), Error> {
    if dir.is_dir(path.as_bytes()) {
        return Ok(());
    }
    let failed = |source| Error::System { what: format!("making /{path} in the new root"), source };
    dir.make_dir(path.as_bytes(), Meta { mode, uid: 0, gid: 0 }).map_err(failed)
}

/// The state directory: of the disk, also where the root is in RAM but the disk takes writes; else of this boot alone.
fn prepare_state(system: &dyn System, fetched: &Fetched, cache: Option<&Cache>) -> Result<(), Error> {
    for (path, mode) in STATE_FOLDERS {
        make_dir(fetched.root().dir(), path, mode)?;
    }
    let cache = cache.filter(|cache| fetched.root().is_on_disk() || !cache.store().is_read_only());
    if let Some(cache) = cache {
        let shown = cache.store().state().and_then(|(_open, path)| system.bind_below(&path, NEW_ROOT, STATE));
        match shown {
            Ok(()) => return Ok(()),
            Err(error) => log::warn!(target: "handoff", "state is of this boot alone: {error}"),
        }
    }
    let failed = |source| Error::System { what: format!("mounting tmpfs on {STATE}"), source };
    system.mount_below(NEW_ROOT, &STATE_IN_RAM).map_err(failed)
}

/// Name servers and hosts are those of this network, whatever plain files the bundle brings.
fn lay_files_over(system: &dyn System) -> Result<(), Error> {
    for (ours, path) in [(RESOLV_CONF, "etc/resolv.conf"), (HOSTS, "etc/hosts")] {
        let failed = |source| Error::System { what: format!("laying {ours} over /{path}"), source };
        let laid = system.bind_over(ours, NEW_ROOT, path).map_err(failed)?;
        log::debug!(target: "handoff", "file {path} laid={laid}");
    }
    Ok(())
}
