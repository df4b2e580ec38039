//! `zstrap-node supervise`: PID 1 above a program that is not made for it, such as zinit-server 0.3.9.
//!
//! In: a program. Out: the end of the machine. Orphans are reaped; the program is started again when it ends, with
//! growing pauses, and when it does not stay up, the machine reboots. Signals end the machine in order:
//!
//! | signal | sent by | end |
//! | --- | --- | --- |
//! | SIGUSR2 | `poweroff` of busybox | power off |
//! | SIGUSR1 | `halt` of busybox | halt |
//! | SIGINT | Ctrl-Alt-Del, `zinit reboot` | reboot |
//! | SIGTERM | `reboot` of busybox; `zinit poweroff` | reboot; power off if a program named `zinit` sent it |
//!
//! SIGTERM of an unknown sender reboots: a machine that comes back can still be switched off, the other way
//! round needs a pair of hands.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, WaitStatus};
use rustix::system::RebootCommand;
use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::config::{LogLevel, OnFailure};

use crate::fail::{Code, Policy, random};
use crate::retry::Retry;
use crate::sys::{End, linux, priority};
use crate::watchdog::Kept;
use crate::{console, fail, loops, watchdog};

/// Pauses before the program is started again. When all tries are used, the machine reboots.
const RESTARTS: Retry = Retry { first: Duration::from_secs(1), cap: Duration::from_secs(30), tries: 10 };
/// A program that ran this long has come up; the count of its ends begins anew.
const STABLE: Duration = Duration::from_secs(60);
/// What a failure has kept from happening.
const NOT_DONE: &str = "the program of the config does not run";
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// How long left-over processes get between SIGTERM and SIGKILL.
const LEFT_OVER: Duration = Duration::from_secs(5);
/// How long the kernel gets to take away killed processes.
const KILLED: Duration = Duration::from_secs(2);
/// Where zinit-server listens, and what makes it stop its services in order: it handles no signal.
const ZINIT_SOCKET: &str = "/run/zinit.sock";
const ZINIT_SHUTDOWN: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.shutdown\"}\n";

/// How long zinit-server gets to answer; the grace for its services comes after that.
const ZINIT_PATIENCE: Duration = Duration::from_secs(3);

const SIGNALS: [Signal; 5] =
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Supervises the program of `args` until the machine ends.
pub fn run(args: &[OsString]) -> ExitCode {
    let Some(plan) = Plan::parse(args) else {
        let _ = io::stderr().write_all(super::USAGE.as_bytes());
        return ExitCode::from(2);
    };
    // It ends by killing every process there is, which only PID 1 may want.
    if std::process::id() != 1 {
        let _ = writeln!(io::stderr(), "zstrap-node: supervise is for PID 1 only; nothing was done");
        return ExitCode::FAILURE;
    }
    console::start(plan.log);
    fail::panic::set_hook(policy());
    match Supervisor::new(plan).and_then(Supervisor::supervise) {
        Ok(how) => {
            linux::end(how);
            // What was stopped for it is to reset a machine that does not go off.
            if how != End::Reboot {
                watchdog::arm();
            }
        }
        Err(error) => {
            fail::explain(Code::SuperviseIo, "supervise", &error, NOT_DONE);
            policy().end(OnFailure::Reboot);
        }
    }
    fail::reboot()
}

/// As the init goes on after a failure, so does its successor.
fn policy() -> Policy {
    Policy::of(&Cmdline::parse(&std::fs::read("/proc/cmdline").unwrap_or_default()))
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    program: Vec<OsString>,
    grace: Duration,
    log: LogLevel,
    /// Seconds without life after which the hardware resets the machine.
    watchdog: Option<u32>,
}

impl Plan {
    fn parse(args: &[OsString]) -> Option<Self> {
        let dashes = args.iter().position(|arg| arg == "--")?;
        let (options, program) = (&args[..dashes], args[dashes + 1..].to_vec());
        let mut plan = Self { program, grace: DEFAULT_GRACE, log: LogLevel::Normal, watchdog: None };
        for option in options.chunks(2) {
            let [name, value] = option else { return None };
            match (name.to_str()?, value.to_str()?) {
                ("--grace", seconds) => plan.grace = Duration::from_secs(seconds.parse::<u32>().ok()?.into()),
                ("--watchdog", seconds) => plan.watchdog = Some(seconds.parse().ok()?),
                ("--log", level) => plan.log = level.parse().ok()?,
                _ => return None,
            }
        }
        if plan.program.is_empty() { None } else { Some(plan) }
    }
}

/// The end that a signal asks for.
fn end_of(signal: Signal, sender: &str) -> Option<End> {
    match signal {
        Signal::SIGUSR2 => Some(End::PowerOff),
        Signal::SIGUSR1 => Some(End::Halt),
        Signal::SIGINT => Some(End::Reboot),
        Signal::SIGTERM if sender == "zinit" => Some(End::PowerOff),
        Signal::SIGTERM => Some(End::Reboot),
        _ => None,
    }
}

struct Supervisor {
    plan: Plan,
    signals: SignalFd,
    /// The running program, if it is running.
    child: Option<i32>,
    watchdog: Kept,
    /// Whether a program has stayed up, so that this boot has not failed.
    is_stable: bool,
}

impl Supervisor {
    fn new(plan: Plan) -> io::Result<Self> {
        let set: SigSet = SIGNALS.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        // Its thread inherits the mask. One that was there before would take a signal that is meant for us, and end PID 1.
        loops::begin_reading();
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // From now on Ctrl-Alt-Del is a signal to us, so that services stop in order.
        if let Err(error) = rustix::system::reboot(RebootCommand::CadOff) {
            log::warn!(target: "supervise", "ctrl-alt-del stays immediate: {error}");
        }
        // A signal names its sender only while that lives: on a busy machine `zinit poweroff` would be gone before we look.
        if let Err(error) = priority::run_first() {
            log::warn!(target: "supervise", "zinit poweroff may be taken for a reboot: {error}");
        }
        let watchdog = Kept::new(plan.watchdog);
        Ok(Self { plan, signals, child: None, is_stable: false, watchdog })
    }

    fn supervise(mut self) -> io::Result<End> {
        let mut ends = 0;
        loop {
            let started = Instant::now();
            if let Err(error) = self.start() {
                log::error!(target: "supervise", "not started program={} error={error}", self.name());
            }
            while self.child.is_some() {
                let timeout = self.time_to_look(started.elapsed());
                if let Some(how) = self.wait(timeout) {
                    return Ok(self.end(how));
                }
            }
            ends = if started.elapsed() >= STABLE { 1 } else { ends + 1 };
            let Some(pause) = RESTARTS.pause_after(ends, random()) else {
                return Ok(self.give_up(ends));
            };
            log::warn!(target: "supervise", "restart {ends} of {} in {:.1}s", RESTARTS.tries - 1, pause.as_secs_f64());
            // Services that outlived the program would run twice.
            self.end_left_over();
            if let Some(how) = self.wait_whole(pause) {
                return Ok(self.end(how));
            }
        }
    }

    /// How long to wait for a program that has run for this long. One that has stayed up ends a boot loop.
    fn time_to_look(&mut self, up: Duration) -> Duration {
        const HOUR: Duration = Duration::from_secs(3600);
        if !self.is_stable && up >= STABLE {
            self.is_stable = true;
            loops::succeeded(Duration::ZERO);
        }
        if self.is_stable { HOUR } else { STABLE.saturating_sub(up) }
    }

    /// A program that never stays up in one boot after the other is a boot loop, too.
    fn give_up(&mut self, ends: u32) -> End {
        log::error!(target: "supervise", "gave up program={} ends={ends}: rebooting", self.name());
        let because = format!("{} has ended {ends} times, and never stayed up", self.name());
        fail::explain(Code::GaveUp, "supervise", &because, NOT_DONE);
        self.watchdog.tend();
        let (next, pause) = policy().reboot();
        fail::say(next, pause);
        // A person who has seen enough can end it.
        let how = self.wait_whole(pause).unwrap_or(End::Reboot);
        self.end(how)
    }

    fn name(&self) -> std::borrow::Cow<'_, str> {
        self.plan.program[0].to_string_lossy()
    }

    fn start(&mut self) -> io::Result<()> {
        let (program, args) = self.plan.program.split_first().expect("a plan names a program");
        let mut command = Command::new(program);
        command.args(args).process_group(0);
        let unblock = || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?);
        // SAFETY: between fork and exec only one system call is made, which is async-signal-safe. Children inherit
        // the mask that our signalfd needs; with it, no service would ever hear a SIGTERM.
        unsafe { command.pre_exec(unblock) };
        // The child is reaped with all others, by number.
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        log::info!(target: "supervise", "started program={} pid={pid}", self.name());
        self.child = Some(pid);
        Ok(())
    }

    /// Waits for signals for this long at most, or until the program has ended; the end that one of them asks for.
    fn wait(&mut self, timeout: Duration) -> Option<End> {
        let deadline = Instant::now() + timeout;
        let before = self.child;
        loop {
            while let Ok(Some(info)) = self.signals.read_signal() {
                let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
                let how = signal.and_then(|signal| end_of(signal, &sender_name(info.ssi_pid)));
                if how.is_some() {
                    return how;
                }
            }
            self.reap();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.child != before {
                return None;
            }
            let pause = left.min(self.watchdog.tend());
            let timeout = Timespec {
                tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(pause.subsec_nanos()),
            };
            let mut fds = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            // An interrupted or failed wait only means to look again; the deadline bounds it.
            let _ = poll(&mut fds, Some(&timeout));
        }
    }

    /// Waits for all of this time, whatever ends meanwhile.
    fn wait_whole(&mut self, time: Duration) -> Option<End> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if let Some(how) = self.wait(deadline.saturating_duration_since(Instant::now())) {
                return Some(how);
            }
        }
        None
    }

    /// Takes every ended process, ours or orphaned. False when there is no process left at all.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid.as_raw_nonzero().get(), status),
                Ok(None) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn ended(&mut self, pid: i32, status: WaitStatus) {
        if self.child != Some(pid) {
            log::debug!(target: "supervise", "reaped orphan pid={pid}");
            return;
        }
        self.child = None;
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit={code}"),
            (None, Some(signal)) => format!("signal={signal}"),
            (None, None) => "unknown".to_owned(),
        };
        log::warn!(target: "supervise", "ended program={} pid={pid} {how}", self.name());
    }

    /// Stops everything in order. Each wait is bounded, so the machine ends even when a program will not.
    fn end(&mut self, how: End) -> End {
        log::info!(target: "supervise", "ending how={how:?} grace={}s", self.plan.grace.as_secs());
        self.watchdog.begin_end();
        if let Some(pid) = self.child {
            if let Err(error) = ask_zinit(Path::new(ZINIT_SOCKET), ZINIT_PATIENCE) {
                log::debug!(target: "supervise", "no zinit to ask ({error}): SIGTERM instead");
                signal_to(pid, Signal::SIGTERM);
            }
            let deadline = Instant::now() + self.plan.grace;
            while self.child.is_some() && Instant::now() < deadline {
                // A second signal changes nothing: the end has begun.
                let _ = self.wait(deadline.saturating_duration_since(Instant::now()));
            }
        }
        self.end_left_over();
        log::info!(target: "supervise", "bye how={how:?}");
        self.watchdog.end(how);
        how
    }

    fn end_left_over(&mut self) {
        for (signal, patience) in [(Signal::SIGTERM, LEFT_OVER), (Signal::SIGKILL, KILLED)] {
            if !self.reap() {
                return;
            }
            // -1: every process but us. Shells at a terminal ignore SIGTERM, and end at SIGHUP.
            signal_to(-1, signal);
            signal_to(-1, Signal::SIGHUP);
            let deadline = Instant::now() + patience;
            while self.reap() && Instant::now() < deadline {
                self.watchdog.tend();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A process that is gone already needs no signal.
fn signal_to(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// The name of the process that sent a signal; empty when it is gone.
fn sender_name(pid: u32) -> String {
    let path = format!("/proc/{pid}/comm");
    std::fs::read_to_string(path).map(|name| name.trim_end().to_owned()).unwrap_or_default()
}

/// Tells zinit-server to stop its services, dependents first, and to exit. In a thread, because a server that
/// takes no connections would hold up the end of the machine.
fn ask_zinit(socket: &Path, patience: Duration) -> io::Result<()> {
    let (sender, answer) = std::sync::mpsc::channel();
    let socket = socket.to_owned();
    // If it hangs, it ends with the machine.
    std::thread::Builder::new().spawn(move || sender.send(ask_zinit_unbounded(&socket)))?;
    answer.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn ask_zinit_unbounded(socket: &Path) -> io::Result<()> {
    let mut socket = UnixStream::connect(socket)?;
    socket.write_all(ZINIT_SHUTDOWN)?;
    let mut answer = [0; 256];
    let length = socket.read(&mut answer)?;
    let agreed = String::from_utf8_lossy(&answer[..length]).contains("\"ok\":true");
    if agreed { Ok(()) } else { Err(io::Error::other("zinit did not agree to shut down")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;

    use super::*;

    fn plan(words: &[&str]) -> Option<Plan> {
        Plan::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_program_stands_behind_two_dashes() {
        let simple = plan(&["--", "/sbin/x", "--grace", "7"]).expect("a plan");
        assert_eq!((simple.program.len(), simple.grace), (3, DEFAULT_GRACE));
        let full = plan(&["--grace", "7", "--watchdog", "60", "--log", "quiet", "--", "/x"]).expect("a plan");
        assert_eq!((full.grace, full.log), (Duration::from_secs(7), LogLevel::Quiet));
        assert_eq!((simple.watchdog, full.watchdog), (None, Some(60)));
        for bad in [&["/x"][..], &["--"], &[], &["--grace", "--", "/x"], &["--grace", "x", "--", "/x"]] {
            assert_eq!(plan(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn signals_end_the_machine_as_their_senders_mean() {
        assert_eq!(end_of(Signal::SIGUSR2, "poweroff"), Some(End::PowerOff));
        assert_eq!(end_of(Signal::SIGTERM, "reboot"), Some(End::Reboot));
        assert_eq!(end_of(Signal::SIGTERM, "zinit"), Some(End::PowerOff));
        assert_eq!(end_of(Signal::SIGTERM, ""), Some(End::Reboot));
        assert_eq!(end_of(Signal::SIGINT, ""), Some(End::Reboot));
        assert_eq!(end_of(Signal::SIGCHLD, ""), None);
    }

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    /// Asks a zinit whose side of the connection does this; how long it took, and what came of it.
    fn ask(patience: Duration, zinit: fn(UnixStream)) -> (Duration, io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zinit.sock");
        let listener = UnixListener::bind(&path).unwrap();
        drop(std::thread::spawn(move || zinit(listener.accept().unwrap().0)));
        let started = Instant::now();
        let result = ask_zinit(&path, patience);
        (started.elapsed(), result)
    }

    fn read_question(connection: &mut UnixStream) {
        let mut question = vec![0; ZINIT_SHUTDOWN.len()];
        connection.read_exact(&mut question).unwrap();
        assert_eq!(question, ZINIT_SHUTDOWN);
    }

    #[test]
    fn a_zinit_that_never_answers_does_not_hold_up_the_end_of_the_machine() {
        let (took, result) = ask(SHORT, |mut connection| {
            read_question(&mut connection);
            std::thread::sleep(LONG);
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took >= SHORT && took < LONG / 2, "{took:?}");
    }

    #[test]
    fn nor_does_one_that_takes_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zinit.sock");
        // A queue that is full lets connect(2) itself wait, for as long as nobody takes from it.
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let started = Instant::now();
        assert_eq!(ask_zinit(&path, SHORT).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < LONG / 2);
    }

    #[test]
    fn only_a_zinit_that_agrees_is_waited_for() {
        let (_, agreed) = ask(LONG, |mut connection| {
            read_question(&mut connection);
            connection.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"ok\":true}}\n").unwrap();
        });
        assert!(agreed.is_ok(), "{agreed:?}");
        let (_, refused) = ask(LONG, |mut connection| {
            read_question(&mut connection);
            connection.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601}}\n").unwrap();
        });
        assert!(refused.is_err());
        let (_, hung_up) = ask(LONG, drop);
        assert!(hung_up.is_err());
        let nobody = ask_zinit(Path::new("/nonexistent/zinit.sock"), LONG);
        assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
