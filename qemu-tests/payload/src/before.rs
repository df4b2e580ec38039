//! The program that test machines start in front of the init, to make the world worse that it wakes up in.
//!
//! In: `before=MODE,…` on the kernel command line, which the kernel hands to its first process as an environment
//! variable. Out: a line `before: MODE` for each mode, then `/init` in the same process, which knows nothing of it.
//! Failure: a line `before: failed …`, and the kernel panics because its first process has ended: a test that asked
//! for a fault never runs without it.
//!
//! | mode | what it does |
//! | --- | --- |
//! | `closed-descriptors` | descriptors 0 to 2 are closed |
//! | `no-console` | there is no `/dev/console`, neither in the initramfs nor in devtmpfs |
//! | `no-threads` | no process and no thread can be made any more |
//! | `stop@WORD:SECONDS` | so long after the init has said a line with this word, all threads of process 1 are stopped for good |
//! | `stop-main@WORD:SECONDS` | the same of its main thread only |
//! | `panic@WORD:SECONDS` | the same, then the clock or a pause of its main thread fails once, which nothing in Linux does |
//!
//! Without `@WORD`, the seconds count from the start. What the init says is looked for in the kernel log, for ten minutes
//! at most.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Who comes next.
const INIT: &str = "/init";
/// The variable that the kernel makes of the word on its command line.
const MODES: &str = "before";
/// How lines of the init begin in the kernel log.
const SAID: &str = ";zstrap: ";
/// How long a word is looked for there.
const LONGEST_LOOK: Duration = Duration::from_secs(600);

/// The cgroup that nothing can be added to.
const FULL: &str = "before";

fn main() -> ExitCode {
    let modes = std::env::var(MODES).unwrap_or_default();
    let done = modes.split(',').try_for_each(|mode| {
        apply(mode).map_err(|cause| format!("{mode}: {cause}"))?;
        say(mode);
        Ok::<(), String>(())
    });
    let failed = done.err().unwrap_or_else(|| {
        // The name is that which the kernel would give it.
        format!("{INIT}: {}", Command::new(INIT).env_remove(MODES).exec())
    });
    say(&format!("failed {failed}"));
    ExitCode::FAILURE
}

/// One line on the console, as long as there is one.
fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "before: {text}");
}

fn apply(mode: &str) -> io::Result<()> {
    let (mode, seconds) = match mode.rsplit_once(':') {
        None => (mode, 0),
        Some((mode, seconds)) => (mode, seconds.parse().map_err(io::Error::other)?),
    };
    let (mode, word) = mode.split_once('@').map_or((mode, None), |(mode, word)| (mode, Some(word)));
    let after = When { word, pause: Duration::from_secs(seconds) };
    match mode {
        "closed-descriptors" => close_descriptors(),
        "no-console" => remove_console(),
        "no-threads" => forbid_threads(),
        "stop" => later(after, stop_all),
        "stop-main" => later(after, |_| seize(Pid::from_raw(1)).map(|()| 1)),
        "panic" => later(after, |_| fail_one_call()),
        _ => Err(io::Error::other("no such mode")),
    }
}

/// They are closed by the exec, so that this program can speak until then.
fn close_descriptors() -> io::Result<()> {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(())
}

fn remove_console() -> io::Result<()> {
    fs::remove_file("/dev/console")?;
    // All mounts of it are one: what is deleted here is not in that of the init, either.
    Ok(rustix::fs::unlinkat(unattached(c"devtmpfs")?, "console", AtFlags::empty())?)
}

fn forbid_threads() -> io::Result<()> {
    let groups = unattached(c"cgroup2")?;
    rustix::fs::mkdirat(&groups, FULL, Mode::from_raw_mode(0o755))?;
    write_at(&groups, "cgroup.subtree_control", "+pids")?;
    write_at(&groups, &format!("{FULL}/pids.max"), "1")?;
    write_at(&groups, &format!("{FULL}/cgroup.procs"), "0")
}

/// A file system without a place: the init finds none of its own occupied.
fn unattached(kind: &CStr) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn write_at(folder: &OwnedFd, path: &str, text: &str) -> io::Result<()> {
    let file = rustix::fs::openat(folder, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    fs::File::from(file).write_all(text.as_bytes())
}

/// When something happens.
struct When<'a> {
    word: Option<&'a str>,
    pause: Duration,
}

impl When<'_> {
    fn wait(&self, devices: &OwnedFd) -> io::Result<()> {
        if let Some(word) = self.word {
            wait_for(word, devices)?;
        }
        std::thread::sleep(self.pause);
        Ok(())
    }
}

/// Waits for a line of the init with this word.
fn wait_for(word: &str, devices: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut log = fs::File::from(rustix::fs::openat(devices, "kmsg", flags, Mode::empty())?);
    let (begun, mut record) = (Instant::now(), [0; 8192]);
    while begun.elapsed() < LONGEST_LOOK {
        // One read is one record (Documentation/ABI/testing/dev-kmsg). What was overwritten meanwhile is an error, too.
        let length = log.read(&mut record).unwrap_or(0);
        let text = String::from_utf8_lossy(&record[..length]);
        if text.split_once(SAID).is_some_and(|(_, said)| said.contains(word)) {
            return Ok(());
        }
        if length == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Err(io::Error::other(format!("the init has not said {word}")))
}

/// A child that waits and then does something to the threads of its parent, given a /proc of its own. It says to how
/// many, and stays: what it traces would go on without it.
fn later(after: When, act: fn(&OwnedFd) -> io::Result<usize>) -> io::Result<()> {
    let (proc, devices) = (unattached(c"proc")?, unattached(c"devtmpfs")?);
    // SAFETY: this program has one thread, so the child may do what it likes.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        return Ok(());
    }
    match after.wait(&devices).and_then(|()| act(&proc)) {
        Ok(threads) => say(&format!("done threads={threads}")),
        Err(cause) => say(&format!("failed {cause}")),
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn stop_all(proc: &OwnedFd) -> io::Result<usize> {
    let mut stopped = Vec::new();
    // Until the list is still: a thread that runs can make others.
    loop {
        let new: Vec<Pid> = threads(proc)?.into_iter().filter(|thread| !stopped.contains(thread)).collect();
        if new.is_empty() {
            return Ok(stopped.len());
        }
        for thread in new {
            match seize(thread) {
                // It has ended meanwhile.
                Err(cause) if cause.raw_os_error() == Some(nix::libc::ESRCH) => {}
                result => result?,
            }
            stopped.push(thread);
        }
    }
}

fn threads(proc: &OwnedFd) -> io::Result<Vec<Pid>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(proc, "1/task", flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let number = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok());
        found.extend(number.map(Pid::from_raw));
    }
    Ok(found)
}

/// Takes hold of a thread; it stands still when this returns.
fn seize(thread: Pid) -> io::Result<()> {
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    Ok(())
}

/// Lets a system call of the main thread fail that never does: Rust's library panics then, honestly.
#[cfg(target_arch = "x86_64")]
fn fail_one_call() -> io::Result<usize> {
    use nix::libc;
    use nix::sys::wait::WaitStatus;
    let init = Pid::from_raw(1);
    seize(init)?;
    loop {
        ptrace::syscall(init, None)?;
        let WaitStatus::PtraceSyscall(_) = waitpid(init, Some(WaitPidFlag::__WALL))? else { continue };
        let mut registers = ptrace::getregs(init)?;
        let is_entry = registers.rax == u64::from_ne_bytes(i64::from(-libc::ENOSYS).to_ne_bytes());
        let number = i64::from_ne_bytes(registers.orig_rax.to_ne_bytes());
        let is_victim = match number {
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep => true,
            // Our C library has another way to the time of day.
            libc::SYS_clock_gettime => registers.rdi == u64::from(libc::CLOCK_MONOTONIC.unsigned_abs()),
            _ => false,
        };
        if is_entry && is_victim {
            // A number that no system call has.
            registers.orig_rax = u64::MAX;
            ptrace::setregs(init, registers)?;
            ptrace::detach(init, None)?;
            return Ok(1);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fail_one_call() -> io::Result<usize> {
    Err(io::Error::other("only written for amd64"))
}
