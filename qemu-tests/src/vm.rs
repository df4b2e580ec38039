//! One virtual machine: started, watched on its serial console, steered over QMP, never left behind.
//!
//! In: a kernel, an initramfs, a command line. Out: the lines it printed and how it ended. Failure: an error
//! that carries the last lines of the console; the whole console is then in `out/qemu-tests/NAME.log`, where the name
//! of a machine that is not of amd64 begins with its architecture.
//! Dropping a [`Vm`] kills its QEMU. There is no KVM here on purpose: every machine that tests can run them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use zstrap_formats::cpio::Archive;
use zstrap_formats::name::Arch;
use zstrap_formats::time::Timestamp;

use crate::artefacts::{self, artefact, out, patience};
use crate::console::{Cleaner, Console, Line, Missed, Pattern};
use crate::disk::Disk;
use crate::qmp::Qmp;
use crate::segment::Segment;

/// How much of the console an error shows.
const SHOWN_LINES: usize = 40;

/// What differs between the machines of two architectures.
struct Platform {
    /// The architecture.
    arch: Arch,
    /// The emulator.
    qemu: &'static str,
    /// Its arguments for the machine.
    machine: &'static [&'static str],
    /// Words for the kernel command line.
    cmdline: &'static str,
    /// What the kernel calls the serial line that tests watch.
    serial: &'static str,
}

/// The kernel measures at its start whether the timer ticks, and gives up when a busy host has emulated too few ticks.
const AMD64: Platform = Platform {
    arch: Arch::Amd64,
    qemu: "qemu-system-x86_64",
    machine: &["-M", "q35"],
    cmdline: "no_timer_check",
    serial: "ttyS0",
};

/// Of the processors that can be emulated this one is the quickest: a newer one signs pointers, at five times the cost.
const ARM64: Platform = Platform {
    arch: Arch::Arm64,
    qemu: "qemu-system-aarch64",
    // It has no keyboard of its own.
    machine: &["-M", "virt", "-cpu", "cortex-a57", "-device", "virtio-keyboard-pci"],
    cmdline: "",
    serial: "ttyAMA0",
};

/// What the kernel of this run's architecture calls the serial line that tests watch.
pub fn serial() -> &'static str {
    platform(artefacts::arch()).serial
}

fn platform(arch: Arch) -> &'static Platform {
    match arch {
        Arch::Amd64 => &AMD64,
        Arch::Arm64 => &ARM64,
    }
}

/// What the kernel prints when it gives up. Whether it resets the machine then is what was told it: the init does
/// so, and where the init does not run, `panic=-1` on the command line.
const PANIC: &str = "Kernel panic - not syncing";

/// The host, as machines on user-mode networking see it.
pub const HOST: &str = "10.0.2.2";

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The guest reset the machine, as a node does that can't boot.
    Reset,
    /// The guest switched the power off.
    PowerOff,
    /// The kernel panicked, and reset the machine.
    Panic,
    /// The watchdog reset the machine: nobody has fed it.
    Watchdog,
    /// QEMU ended for a reason of its own, given in its words.
    Other(String),
}

/// The end of a machine.
#[derive(Clone, Debug)]
pub struct Exit {
    /// How it ended.
    pub reason: Reason,
    /// When, since it was started.
    pub after: Duration,
}

/// A machine to be: [`start`](VmBuilder::start) makes it.
pub struct VmBuilder {
    name: String,
    platform: &'static Platform,
    kernel: PathBuf,
    initrd: PathBuf,
    append: Vec<String>,
    memory: u32,
    nics: u32,
    wires: Vec<PathBuf>,
    unplugged: Vec<String>,
    before: Vec<String>,
    is_silent: bool,
    disks: Vec<Disk>,
    arguments: Vec<String>,
}

impl VmBuilder {
    /// A machine of this run's architecture with 512 MiB and one network card; `name` names its log.
    pub fn new(name: &str, kernel: &Path, initrd: &Path) -> Self {
        Self::of(artefacts::arch(), name, kernel, initrd)
    }

    /// The same of an architecture, whatever this run of tests is about.
    pub fn of(arch: Arch, name: &str, kernel: &Path, initrd: &Path) -> Self {
        Self {
            name: if arch == Arch::Amd64 { name.to_owned() } else { format!("{arch}-{name}") },
            platform: platform(arch),
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            append: Vec::new(),
            memory: 512,
            nics: 1,
            wires: Vec::new(),
            unplugged: Vec::new(),
            before: Vec::new(),
            is_silent: false,
            disks: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Adds words to the kernel command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(words.to_owned());
        self
    }

    /// Takes all consoles off the kernel command line: the kernel is not heard on the serial port any more.
    #[must_use]
    pub fn without_consoles(mut self) -> Self {
        let is_other = |word: &&str| !word.starts_with("console=");
        for words in &mut self.append {
            *words = words.split(' ').filter(is_other).collect::<Vec<_>>().join(" ");
        }
        self
    }

    /// Takes the serial port out: nothing that runs in this machine is heard.
    #[must_use]
    pub fn without_serial(mut self) -> Self {
        self.is_silent = true;
        self
    }

    /// Sets the memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory = memory;
        self
    }

    /// Sets how many network cards (`nic0`, `nic1`, …) it has, each on a user-mode network of its own.
    #[must_use]
    pub fn nics(mut self, nics: u32) -> Self {
        self.nics = nics;
        self
    }

    /// Adds a network card, numbered after all others, on a segment of ours. A machine made for segments has
    /// [`nics(0)`](Self::nics).
    pub fn wire(mut self, segment: &Segment) -> Result<Self> {
        self.wires.push(segment.socket()?);
        Ok(self)
    }

    /// Starts the machine with the cable of this network card pulled out.
    #[must_use]
    pub fn unplugged(mut self, nic: &str) -> Self {
        self.unplugged.push(nic.to_owned());
        self
    }

    /// Makes the world worse before the init starts, in one of the ways of `qemu-tests/payload/src/before.rs`, such as
    /// `stop@armed:1`, which waits for a line of the init. The console then has a line `before: stop@armed:1`.
    #[must_use]
    pub fn before(mut self, mode: &str) -> Self {
        self.before.push(mode.to_owned());
        self
    }

    /// Puts a disk with these bytes into the machine, read-only: a stick or a CD. It is `vda`.
    #[must_use]
    pub fn medium(self, file: &Path) -> Self {
        let drive = format!("if=none,id=medium,format=raw,readonly=on,file={}", file.display());
        self.arguments(&["-drive", &drive, "-device", "virtio-blk-pci,drive=medium"])
    }

    /// Puts a disk into the machine. It keeps what is written to it, and one machine at a time can have it.
    #[must_use]
    pub fn disk(mut self, disk: &Disk) -> Self {
        self.disks.push(disk.clone());
        self
    }

    /// Puts a hardware watchdog into the machine, which resets it.
    #[must_use]
    pub fn watchdog(self) -> Self {
        self.arguments(&["-device", "i6300esb", "-action", "watchdog=reset"])
    }

    /// Sets the time that its hardware clock has at the start.
    #[must_use]
    pub fn clock(self, time: Timestamp) -> Self {
        let time = time.to_string();
        // By the host's clock, QEMU 7.2 can't go further ahead than 2^31 seconds.
        self.arguments(&["-rtc", &format!("base={},clock=vm", time.trim_end_matches('Z'))])
    }

    /// Adds arguments for QEMU as they are.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Starts the machine; it runs when this returns.
    pub fn start(mut self) -> Result<Vm> {
        let folder = TempDir::with_prefix("zstrap-vm-").context("making the folder for the QMP socket")?;
        self.put_before(folder.path())?;
        let socket = folder.path().join("qmp");
        let qemu = self.platform.qemu;
        let mut child = Command::new(qemu)
            .args(self.qemu_arguments(&socket)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {qemu}"))?;
        let console = Arc::new(Console::new(2));
        let threads =
            vec![follow(child.stdout.take(), "", &console), follow(child.stderr.take(), "qemu: ", &console)];
        let mut vm = Vm { name: self.name, child, console, threads, qmp: None, _folder: folder };
        // From here on the Vm owns the child: an error below drops it, and with it QEMU.
        let begun = Qmp::connect(&socket).and_then(|mut qmp| {
            for nic in &self.unplugged {
                qmp.execute("set_link", json!({ "name": nic, "up": false }))?;
            }
            qmp.execute("cont", json!({}))?;
            Ok(qmp)
        });
        match begun {
            Ok(qmp) => vm.qmp = Some(qmp),
            Err(error) => return Err(vm.failed(&format!("starting the machine: {error:#}"))),
        }
        Ok(vm)
    }

    /// Puts the program that makes the world worse in front of the init, if it has something to do.
    fn put_before(&mut self, folder: &Path) -> Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        let program = artefact(&format!("bin/zstrap-test-before-{}", self.platform.arch))?;
        let program = std::fs::read(program).context("reading the program before")?;
        let mut archive = Archive::new();
        archive.file("before", 0o755, &program)?;
        let mut initrd = std::fs::read(&self.initrd).context("reading the initramfs")?;
        // The kernel looks for the next archive at multiples of four only.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(archive.finish(4));
        self.initrd = folder.join("initramfs");
        std::fs::write(&self.initrd, initrd).context("writing an initramfs")?;
        // Without its fast way, the clock is a system call that can fail.
        self.append.push(format!("rdinit=/before vdso=0 before={}", self.before.join(",")));
        Ok(())
    }

    fn qemu_arguments(&self, socket: &Path) -> Result<Vec<String>> {
        let fixed = ["-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-S"];
        let mut arguments: Vec<String> =
            self.platform.machine.iter().chain(&fixed).map(|&argument| argument.to_owned()).collect();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-serial", if self.is_silent { "none" } else { "stdio" }.to_owned());
        add("-m", self.memory.to_string());
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", self.initrd.display().to_string());
        add("-append", format!("{} {}", self.append.join(" "), self.platform.cmdline));
        add("-qmp", format!("unix:{},server=on,wait=off", socket.display()));
        let user = (0..self.nics).map(|_| "user".to_owned());
        let wires = self
            .wires
            .iter()
            .map(|path| format!("stream,server=off,addr.type=unix,addr.path={}", path.display()));
        for (number, network) in user.chain(wires).enumerate() {
            add("-netdev", format!("{network},id=net{number}"));
            // Without its boot ROM the card costs the firmware no time. A bond wants to know how fast it is.
            let options = "romfile=,speed=1000,duplex=full";
            add("-device", format!("virtio-net-pci,id=nic{number},netdev=net{number},{options}"));
        }
        for (number, disk) in self.disks.iter().enumerate() {
            arguments.extend(disk.arguments(number)?);
        }
        arguments.extend(self.arguments.iter().cloned());
        Ok(arguments)
    }
}

/// A running machine.
pub struct Vm {
    name: String,
    child: Child,
    console: Arc<Console>,
    threads: Vec<JoinHandle<()>>,
    qmp: Option<Qmp>,
    _folder: TempDir,
}

impl Vm {
    /// Waits for the first line of the whole console that matches.
    pub fn wait_line(&self, pattern: &str, limit: Duration) -> Result<Line> {
        self.wait_line_from(0, pattern, limit)
    }

    /// Waits for the first matching line after `line`.
    pub fn wait_line_after(&self, line: &Line, pattern: &str, limit: Duration) -> Result<Line> {
        self.wait_line_from(line.index + 1, pattern, limit)
    }

    fn wait_line_from(&self, from: usize, pattern: &str, limit: Duration) -> Result<Line> {
        let limit = patience(limit);
        self.console.wait(&Pattern::from(pattern), from, limit).map_err(|missed| match missed {
            Missed::Closed => self.failed(&format!("the machine ended without a line `{pattern}`")),
            Missed::Deadline => self.failed(&format!("no line `{pattern}` within {limit:?}")),
        })
    }

    /// Waits until the machine has ended and says how.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<Exit> {
        let limit = patience(limit);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(exit) = self.ended()? {
                return Ok(exit);
            }
            if Instant::now() >= deadline {
                return Err(self.failed(&format!("the machine still ran after {limit:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How the machine has ended; none while it runs.
    pub fn ended(&mut self) -> Result<Option<Exit>> {
        if self.child.try_wait().context("waiting for QEMU")?.is_none() {
            return Ok(None);
        }
        let after = self.console.age();
        self.collect_the_rest();
        Ok(Some(Exit { reason: self.reason()?, after }))
    }

    /// Time since the machine was started, and since it last printed a line.
    pub fn age_and_silence(&self) -> (Duration, Duration) {
        let (age, last) = (self.console.age(), self.console().last().map(|line| line.at));
        (age, age.saturating_sub(last.unwrap_or_default()))
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("waiting for QEMU")?.is_none())
    }

    /// Waits for the end and asserts how it came.
    pub fn expect_exit(&mut self, reason: &Reason, limit: Duration) -> Result<Exit> {
        let exit = self.wait_exit(limit)?;
        if exit.reason != *reason {
            return Err(self.failed(&format!("the machine ended by {:?}, expected {reason:?}", exit.reason)));
        }
        Ok(exit)
    }

    /// Pulls the plug: QEMU is killed and nothing of the guest has a say. What it had written to its disks is there, what
    /// was under way may be.
    pub fn kill(&mut self) -> Result<()> {
        // It may have ended by itself a moment ago.
        let _ = self.child.kill();
        self.child.wait().context("waiting for QEMU")?;
        self.collect_the_rest();
        Ok(())
    }

    /// Asserts that no line so far matches.
    pub fn assert_never(&self, pattern: &str) -> Result<()> {
        match self.find(pattern) {
            None => Ok(()),
            Some(line) => Err(self.failed(&format!("a line `{pattern}` that must not be there: {line}"))),
        }
    }

    /// Asserts that some line so far matches, and returns it.
    pub fn assert_line(&self, pattern: &str) -> Result<Line> {
        self.find(pattern).ok_or_else(|| self.failed(&format!("no line `{pattern}`")))
    }

    /// The first line so far that matches.
    pub fn find(&self, pattern: &str) -> Option<Line> {
        self.find_all(pattern).into_iter().next()
    }

    /// All lines so far that match.
    pub fn find_all(&self, pattern: &str) -> Vec<Line> {
        let pattern = Pattern::from(pattern);
        self.console().into_iter().filter(|line| pattern.matches(&line.text)).collect()
    }

    /// All lines so far.
    pub fn console(&self) -> Vec<Line> {
        self.console.lines()
    }

    /// Runs a QMP command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.as_mut().context("the machine has ended")?.execute(command, arguments)
    }

    /// Plugs the cable of a network card in or out.
    pub fn set_link(&mut self, nic: &str, up: bool) -> Result<()> {
        self.execute("set_link", json!({ "name": nic, "up": up })).map(drop)
    }

    /// Presses these keys at once, on the keyboard that every machine has.
    pub fn send_keys(&mut self, keys: &[&str]) -> Result<()> {
        let keys: Vec<Value> = keys.iter().map(|key| json!({ "type": "qcode", "data": key })).collect();
        self.execute("send-key", json!({ "keys": keys })).map(drop)
    }

    /// Presses the power button.
    pub fn system_powerdown(&mut self) -> Result<()> {
        self.execute("system_powerdown", json!({})).map(drop)
    }

    /// An error about this machine with the end of its console; keeps the whole console in a file.
    pub fn failed(&self, what: &str) -> anyhow::Error {
        let kept = match self.keep_console() {
            Ok(path) => format!("whole console in {}", path.display()),
            Err(error) => format!("console not kept: {error:#}"),
        };
        anyhow::anyhow!("{}: {what}\n{}({kept})", self.name, self.console.tail(SHOWN_LINES))
    }

    fn keep_console(&self) -> Result<PathBuf> {
        let folder = out().join("qemu-tests");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join(format!("{}.log", self.name));
        let text = self.console.tail(usize::MAX);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// QEMU has ended: what it still had in its pipes arrives now.
    fn collect_the_rest(&mut self) {
        for thread in self.threads.drain(..) {
            // A reader that panicked leaves a shorter console, and the test that needs more of it fails.
            let _ = thread.join();
        }
        if let Some(qmp) = self.qmp.as_mut() {
            qmp.drain();
        }
    }

    fn reason(&self) -> Result<Reason> {
        let Some(qmp) = &self.qmp else { bail!("the machine ended before QMP was up") };
        let events = qmp.events("SHUTDOWN");
        let said = events.last().and_then(|event| event["reason"].as_str()).unwrap_or("no SHUTDOWN event");
        Ok(match said {
            "guest-reset" if !qmp.events("WATCHDOG").is_empty() => Reason::Watchdog,
            "guest-reset" if self.find(PANIC).is_some() => Reason::Panic,
            "guest-reset" => Reason::Reset,
            "guest-shutdown" => Reason::PowerOff,
            "guest-panic" => Reason::Panic,
            other => Reason::Other(other.to_owned()),
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only when QEMU has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.collect_the_rest();
        if std::thread::panicking() {
            let _ = self.keep_console();
        }
    }
}

/// Reads a pipe of QEMU into the console until its end.
fn follow(
    pipe: Option<impl Read + Send + 'static>,
    prefix: &'static str,
    console: &Arc<Console>,
) -> JoinHandle<()> {
    let console = Arc::clone(console);
    std::thread::spawn(move || {
        let mut cleaner = Cleaner::default();
        let mut buffer = [0; 4096];
        if let Some(mut pipe) = pipe {
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                for line in cleaner.feed(&buffer[..count]) {
                    console.push(format!("{prefix}{line}"));
                }
            }
        }
        if let Some(line) = cleaner.finish() {
            console.push(format!("{prefix}{line}"));
        }
        console.close();
    })
}
