//! `zstrap-node lease`: keeps the network that the init has left, or finds one where it has left none, for as long as the
//! machine runs.
//!
//! In: `/run/zstrap/network.json`, packets, carriers. Out: addresses and routes in the kernel; `resolv.conf`, `hosts`,
//! `facts.json` and `network.json` below `/run/zstrap`; lines `lease: …` on standard error. It ends with 0 at SIGTERM
//! and gives nothing back: the machine goes on using its address. Failure to begin ends with 1 and says what is wrong;
//! whatever fails later is said and tried again.

mod files;
mod first_link;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use zstrap_formats::config::LogLevel;
use zstrap_formats::network::{Method, Network};

use self::first_link::Search;
use crate::console::since_boot;
use crate::fail::random;
use crate::net::dhcp::Sockets;
use crate::net::handover::{HANDOVER, Handover};
use crate::net::keeper::{Action, Keeper, Kept, Start};
use crate::net::links::Link;
use crate::net::settings::Autoconfigured;
use crate::net::v6::V6;
use crate::net::{apply, netlink};
use crate::network::Via;

/// Held by the one instance that runs.
const LOCK: &str = "/run/zstrap/lease.lock";
/// How long standard error may hold up a line until it is dropped.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How often IPv6 is looked after where no router is heard.
const NO_ROUTER: Duration = Duration::from_secs(10);

/// Keeps the network until SIGTERM.
pub fn run(args: &[OsString]) -> ExitCode {
    let Some(level) = parse(args) else {
        let _ = io::stderr().write_all(super::USAGE.as_bytes());
        return ExitCode::from(2);
    };
    start_log(level);
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "zstrap-node: lease: {error}; nothing was done");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[OsString]) -> Option<LevelFilter> {
    let level = match args {
        [] => LogLevel::Normal,
        [option, level] if option == "--log" => level.to_str()?.parse().ok()?,
        _ => return None,
    };
    Some(match level {
        LogLevel::Quiet => LevelFilter::Warn,
        LogLevel::Normal => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    })
}

/// An error here is one of the beginning.
fn keep() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(io::Error::other("must be run by root: it sets addresses, routes and name servers"));
    }
    let handover = load()?;
    let _lock = lock()?;
    let signals = signals()?;
    let network: Network =
        handover.network.parse().map_err(|error| io::Error::other(format!("reading {HANDOVER}: {error}")))?;
    let name = handover.link.as_deref().unwrap_or("none");
    let can_begin = handover.link.is_some() || Search::is_possible(&network);
    let (Method::Auto { v4, v6 }, true) = (&network.method, can_begin) else {
        log::info!(target: "lease", "idle link={name} network={network}: nothing to renew");
        return idle(&signals);
    };
    let (v4, v6) = (*v4, *v6);
    if handover.link.is_none() {
        log::info!(target: "lease", "searching link=none network={network}");
        return serve(Vec::new(), Some(Search { network, v4, v6 }), &signals);
    }
    let link = Link::found_again(handover.index, name)
        .ok_or_else(|| io::Error::other(format!("no link {name}, and none with index {}", handover.index)))?;
    say_renamed(name, &link);
    let obtained = handover.obtained();
    let lease = handover.lease.map(|lease| Kept { lease, obtained });
    let router = handover.routers.settings().filter(|_| v6);
    let start = Start { mac: link.mac, random, network, v4, lease, router, has_carrier: link.has_carrier() };
    serve(vec![Service::new(start, link, v6.then_some(V6::watch))?], None, &signals)
}

/// Keeps one link; while there is a search, each that may become that one.
fn serve(mut services: Vec<Service>, mut search: Option<Search>, signals: &SignalFd) -> io::Result<()> {
    let news = netlink::open_link_news()?;
    loop {
        netlink::drain(&news);
        if let Some(search) = &search {
            search.begin_on_new_links(&mut services);
        }
        for service in &mut services {
            service.turn()?;
            // One is enough, and two would set addresses side by side.
            if search.is_some() && service.keeper.is_online() {
                search = None;
                break;
            }
        }
        if search.is_none() {
            first_link::leave_others(&mut services);
        }
        let mut fds = vec![signals.as_fd(), news.as_fd()];
        services.iter().for_each(|service| service.add_fds(&mut fds));
        wait(&fds)?;
        if is_told_to_end(signals) {
            return Ok(());
        }
    }
}

fn load() -> io::Result<Handover> {
    Handover::load(Path::new(HANDOVER)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("no {HANDOVER}: this machine was not booted by the init of zstrap"))
        }
        _ => error,
    })
}

/// Two of them would answer each other's packets. The kernel takes the lock back when we end, however we end.
fn lock() -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(LOCK)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(io::Error::other(format!("another one runs already (it holds {LOCK})")))
        }
        Err(errno) => Err(errno.into()),
    }
}

fn signals() -> io::Result<SignalFd> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// A service manager that starts again whatever ends would start this for ever, so it stays.
fn idle(signals: &SignalFd) -> io::Result<()> {
    loop {
        wait(&[signals.as_fd()])?;
        if is_told_to_end(signals) {
            return Ok(());
        }
    }
}

fn is_told_to_end(signals: &SignalFd) -> bool {
    let told = matches!(signals.read_signal(), Ok(Some(_)));
    if told {
        log::info!(target: "lease", "bye: the address stays");
    }
    told
}

/// Sleeps until one of them has something.
fn wait(fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// How IPv6 begins on a link.
type BeginV6 = fn(&Link, Duration) -> io::Result<V6>;

/// The keeper with all that it acts on.
struct Service {
    keeper: Keeper,
    link: Link,
    /// How often the carrier has come and gone.
    carrier_changes: u64,
    /// For DHCPv4, if it is followed.
    sockets: Option<Sockets>,
    /// For routers, if they are followed.
    v6: Option<V6>,
    /// What the kernel has made of routers' advertisements, as it was published.
    made: Option<Autoconfigured>,
    timer: OwnedFd,
}

impl Service {
    fn new(start: Start, link: Link, v6: Option<BeginV6>) -> io::Result<Self> {
        let now = since_boot();
        let address = start.lease.as_ref().map(|kept| kept.lease.address);
        let service = Self {
            sockets: if start.v4 { Some(Sockets::open(&link, address)?) } else { None },
            keeper: Keeper::new(start, now),
            carrier_changes: link.carrier_changes(),
            v6: v6.and_then(|begin| or_without_v6(begin(&link, now), &link)),
            made: None,
            link,
            // One that counts while the machine sleeps, which poll(2) does not.
            timer: rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?,
        };
        service.say_begin();
        Ok(service)
    }

    fn say_begin(&self) {
        let link = &self.link.name;
        match self.keeper.lease() {
            Some(Kept { lease, obtained }) => {
                let age = since_boot().saturating_sub(*obtained).as_secs();
                let (address, prefix, seconds) = (lease.address, lease.prefix, lease.seconds);
                log::info!(target: "lease", "keeping addr={address}/{prefix} link={link} for={seconds}s age={age}s");
            }
            None => log::info!(target: "lease", "keeping addr=none link={link}"),
        }
    }

    /// Does what is to be done now, and sets the time of the next turn.
    fn turn(&mut self) -> io::Result<()> {
        let now = since_boot();
        self.look_at_link(now);
        self.take(now);
        while let Some(action) = self.keeper.poll(now) {
            self.act(action);
        }
        let now = since_boot();
        // The kernel tells of each address and route; the rest of IPv6 can wait where no router is heard.
        let earliest = if self.keeper.expects_router(now) { now } else { now + NO_ROUTER };
        let v6 = self.v6.as_ref().and_then(V6::wake).map(|wake| wake.max(earliest));
        self.set_timer(self.keeper.wake().into_iter().chain(v6).min())
    }

    /// Adds what to wait for: packets and the time.
    fn add_fds<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        fds.push(self.timer.as_fd());
        fds.extend(self.sockets.iter().flat_map(Sockets::fds));
        fds.extend(self.v6.iter().flat_map(V6::fds));
    }

    /// Setting it anew also takes back what it has counted. A time that is past comes at once; zero would be never.
    fn set_timer(&self, wake: Option<Duration>) -> io::Result<()> {
        let timespec = |time: Duration| rustix::time::Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(wake.unwrap_or_default()),
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Tells the keeper of carriers that have come and gone, even of those that came back before we looked.
    fn look_at_link(&mut self, now: Duration) {
        let Some(link) = Link::found_again(self.link.index, &self.link.name) else {
            return self.keeper.carrier(false, now);
        };
        let (has_carrier, changes) = (link.has_carrier(), link.carrier_changes());
        let is_another = (link.index, link.mac) != (self.link.index, self.link.mac);
        if is_another || changes != self.carrier_changes {
            self.keeper.carrier(false, now);
        }
        self.carrier_changes = changes;
        if is_another {
            self.replace(link, now);
        } else if link.name != self.link.name {
            self.rename(link, now);
        }
        self.keeper.carrier(has_carrier, now);
    }

    /// The link is another one than before, such as an adapter that was plugged in again.
    fn replace(&mut self, link: Link, now: Duration) {
        log::warn!(target: "lease", "another link={} mac={}", link.name, link.mac_text());
        self.link = link;
        self.keeper.set_mac(self.link.mac);
        self.reopen();
        self.v6 = self.v6.take().and_then(|_| or_without_v6(V6::begin(&self.link, now), &self.link));
    }

    /// Only the name is another one. What goes by it is made anew; addresses and routes go by the index.
    fn rename(&mut self, link: Link, now: Duration) {
        say_renamed(&self.link.name, &link);
        self.link = link;
        self.reopen();
        self.v6 = self.v6.take().and_then(|_| or_without_v6(V6::watch(&self.link, now), &self.link));
        self.keeper.ask_routers_anew(now);
        self.publish();
    }

    fn reopen(&mut self) {
        let link = &self.link;
        let address = self.keeper.lease().map(|kept| kept.lease.address);
        match self.sockets.as_ref().map(|_| Sockets::open(link, address)).transpose() {
            Ok(sockets) => self.sockets = sockets,
            Err(error) => log::warn!(target: "lease", "no sockets link={} error={error}", link.name),
        }
    }

    /// Takes what has come, as far as it fits into a turn.
    fn take(&mut self, now: Duration) {
        if let Some(sockets) = &self.sockets {
            sockets.hear(&mut self.keeper, now);
        }
        let Some(v6) = &mut self.v6 else { return };
        v6.poll(now);
        v6.receive(now);
        self.keeper.router(v6.ready(now), now);
        let made = v6.made();
        if made.is_some() && made != self.made {
            self.made = made;
            self.publish();
        }
    }

    /// What cannot be done now is said, and done again when the keeper comes back to it.
    fn act(&mut self, action: Action) {
        let result = match action {
            Action::Send(packet) => self.sockets.as_mut().map_or(Ok(()), |sockets| sockets.send(&packet)),
            Action::Change { old, new } => {
                apply::change(self.link.index, &old, &new).and_then(|()| files::change_name(&old, &new))
            }
            Action::Publish => {
                self.publish();
                Ok(())
            }
            Action::Say(level, line) => {
                log::log!(target: "lease", level, "{line}");
                Ok(())
            }
        };
        if let Err(error) = result {
            log::warn!(target: "lease", "not done link={} error={error}", self.link.name);
        }
    }

    fn publish(&mut self) {
        let kept = self.keeper.lease();
        let via = Via {
            link: self.link.clone(),
            settings: self.keeper.settings().clone(),
            lease: kept.map(|kept| kept.lease.clone()),
            obtained: kept.map(|kept| kept.obtained).unwrap_or_default(),
            made: self.made,
        };
        for error in files::publish(self.keeper.network(), &via) {
            log::warn!(target: "lease", "not written {error}");
        }
    }
}

/// A bundle has programs that give links names of their own (udev).
fn say_renamed(was: &str, link: &Link) {
    if link.name != was {
        log::info!(target: "lease", "renamed link={} was={was}", link.name);
    }
}

/// A kernel without IPv6 keeps IPv4.
fn or_without_v6(begun: io::Result<V6>, link: &Link) -> Option<V6> {
    begun.map_err(|error| log::warn!(target: "lease", "no IPv6 link={} error={error}", link.name)).ok()
}

/// Lines on standard error, which is where a service manager keeps them.
struct Lines;

fn start_log(level: LevelFilter) {
    log::set_max_level(level);
    // Only a second call can fail.
    let _ = log::set_logger(&Lines);
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut stderr = io::stderr();
        let fd = rustix::stdio::stderr();
        // A reader that has stopped must not stop the renewals.
        if matches!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&PATIENCE)), Ok(1..)) {
            let _ = stderr.write_all(format!("{}: {}\n", record.target(), record.args()).as_bytes());
        }
    }

    fn flush(&self) {}
}
