//! Boots of our init and of the peer's script: same machine, same kernel, same modules, same server, same files.
//!
//! In: artefacts, a [`Setup`]. Out: the time from exec of `/init` to the first line of the final program, by the
//! guest's kernel log, and where it went. Failure: a boot that does not end as it should.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use zstrap_formats::digest::{md5, sha256};
use zstrap_mkimage::Image;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::site::{Scene, Tree, now};
use zstrap_qemu_tests::vm::{Reason, VmBuilder};

use crate::peer::{self, BUSYBOX};
use crate::report::{Budget, Report, Row, Table, Unit, median};
use crate::say;
use crate::stages;
use crate::stamps::Stamps;

/// The final program of both.
pub const PROGRAM: &[u8] = include_bytes!("program");

/// The bundle and the config that is booted.
const BUNDLE: &str = "bench";

/// Where the script finds its list, below the site.
const LIST: &str = "bench/list";

/// What the files of the bundle have together, and how many there are.
const BYTES: usize = 20_000_000;
const FILES: usize = 5;

/// Boots of each kind, to take the median of. Counted ones differ by a thousandth, so few will do.
const BOOTS: usize = 5;
const COUNTED_BOOTS: usize = 3;

/// No boot here takes longer on a machine that does little else.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The ratio to the script that the design allows; its goal is 0.8.
const MOST: f64 = 1.0;

/// What a reader of these figures should know.
const NOTES: [&str; 3] = [
    "boots: 5 files of 20 MB together; time of the guest's kernel log, emulated without KVM; medians",
    "counted: QEMU lets 2 ns pass with each instruction, so figures repeat on any host; but cheap and costly \
     instructions count the same",
    "the script is told which modules to load and checks no signature; our init finds out, and does",
];

/// How time passes in a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// As it runs: guest time is host time.
    Real,
    /// By instructions: 2 ns each. Figures repeat, whatever else the host does.
    Counted,
}

impl Clock {
    fn arguments(self) -> Result<Vec<String>> {
        match self {
            Self::Real => Ok(Vec::new()),
            Self::Counted => {
                let base = now()?.to_string();
                let base = base.trim_end_matches('Z');
                // Without the sleep, an idle guest's clock jumps to its next timer before the server can answer;
                // on a busy host that was seen to be two minutes.
                let words = ["-icount", "shift=1,sleep=on", "-rtc", &format!("base={base},clock=vm")];
                Ok(words.map(str::to_owned).to_vec())
            }
        }
    }
}

/// Everything that boots need: a site with its server, and the peer's initramfs.
pub struct Setup {
    /// The site, its server, the image.
    pub scene: Scene,
    folder: TempDir,
    cmdline: String,
}

impl Setup {
    /// Publishes the bundle, and finds out with a first boot which modules the machine needs.
    pub fn make() -> Result<Self> {
        say("publishing 5 files of 20 MB together, booting once to see which modules the machine needs");
        let mut scene = Scene::new(BUNDLE)?;
        scene.publish(&tree()?, BUNDLE)?;
        let config = json!({ "version": 1, "bundle": BUNDLE, "exec": ["/sbin/init"] });
        scene.add_config(BUNDLE, &config)?;
        let folder = TempDir::with_prefix("zstrap-bench-").context("making the folder of the peer")?;
        let cmdline = Image::read(&scene.image()?)?.cmdline;
        let setup = Self { scene, folder, cmdline };
        let first = run(setup.scene.machine()?.append("zstrap.log=debug"), Clock::Real)?;
        let modules: Vec<String> = first
            .lines("zstrap: early: module loaded path=")
            .filter_map(|line| Some(line.rsplit_once('=')?.1.to_owned()))
            .collect();
        ensure!(!modules.is_empty(), "the first boot has loaded no modules");
        fs::write(setup.peer_file(), peer::initramfs(&modules)?).context("writing the peer's initramfs")?;
        setup.scene.write(LIST, list_for_script()?.as_bytes())?;
        Ok(setup)
    }

    fn peer_file(&self) -> PathBuf {
        self.folder.path().join("peer")
    }

    /// A machine that runs the script; `job` are the words for it.
    pub fn peer(&self, job: &str) -> Result<VmBuilder> {
        let machine = VmBuilder::new("bench-peer", &artefacts::kernel()?, &self.peer_file());
        Ok(machine.append(&self.cmdline).append(&format!("server={} {job}", self.scene.server.url())))
    }
}

/// Runs a machine until its program has ended it.
pub fn run(machine: VmBuilder, clock: Clock) -> Result<Stamps> {
    let arguments = clock.arguments()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut vm = machine.arguments(&arguments).start()?;
    vm.expect_exit(&Reason::PowerOff, LIMIT)?;
    let stamps = Stamps::of(&vm);
    stamps.at(stages::BEGIN).map_err(|error| vm.failed(&format!("{error:#}")))?;
    Ok(stamps)
}

/// Boots of ours and of the peer's, in turns, so that whatever else the host does meets both.
struct Boots {
    ours: Vec<Stamps>,
    peer: Vec<Stamps>,
}

impl Boots {
    fn run(setup: &Setup, clock: Clock, times: usize) -> Result<Self> {
        let mut boots = Self { ours: Vec::new(), peer: Vec::new() };
        for _ in 0..times {
            boots.ours.push(fetching_all(setup, setup.scene.machine()?, clock)?);
            boots.peer.push(fetching_all(setup, setup.peer("bench=boot")?, clock)?);
        }
        Ok(boots)
    }

    fn row(&self, what: &str) -> Result<Row> {
        let middle = |boots| median(totals(boots)?).context("no boots to take a median of");
        let (figure, peer) = (middle(&self.ours)?, Some(middle(&self.peer)?));
        Ok(Row { what: what.to_owned(), unit: Unit::Seconds, figure, peer, budget: Budget::Ratio(MOST) })
    }
}

/// From `/init` to the program, boot by boot, the quickest first.
fn totals(boots: &[Stamps]) -> Result<Vec<f64>> {
    let mut times = boots.iter().map(stages::total).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// How far the boots of a kind lie apart.
fn spread(plain: &Boots, counted: &Boots) -> Result<Table> {
    let mut lines = Vec::new();
    let kinds = [
        ("zstrap, as it runs", &plain.ours),
        ("script, as it runs", &plain.peer),
        ("zstrap, counted", &counted.ours),
        ("script, counted", &counted.peer),
    ];
    for (kind, boots) in kinds {
        let times = totals(boots)?;
        let (Some(least), Some(most)) = (times.first(), times.last()) else { continue };
        let shown = [Some(*least), median(times.iter().copied()), Some(*most)];
        let shown = shown.into_iter().flatten().map(|time| Unit::Seconds.show(time));
        lines.push(std::iter::once(kind.to_owned()).chain(shown).collect());
    }
    let title = "How far boots lie apart".to_owned();
    Ok(Table { title, head: vec!["boots", "least", "median", "most"], lines })
}

/// Runs a boot and makes sure that it has asked the server for each file once.
fn fetching_all(setup: &Setup, machine: VmBuilder, clock: Clock) -> Result<Stamps> {
    let asked = || setup.scene.server.requests_for("/blobs/*").len();
    let before = asked();
    let stamps = run(machine, clock)?;
    let fetched = asked() - before;
    ensure!(fetched == FILES, "a boot has asked for {fetched} files, expected {FILES}");
    Ok(stamps)
}

/// Measures boots.
pub fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    say(&format!("booting {BOOTS} times each: our init, the script"));
    let plain = Boots::run(setup, Clock::Real, BOOTS)?;
    say(&format!("booting {COUNTED_BOOTS} times each with counted instructions"));
    let counted = Boots::run(setup, Clock::Counted, COUNTED_BOOTS)?;
    report.row(plain.row("boot, /init to program; peer: busybox script")?);
    report.row(counted.row("the same, time counted in instructions")?);
    report.table(stages::table("Our init", &stages::OURS, &plain.ours, &counted.ours)?);
    report.table(stages::table("The busybox script", &stages::PEER, &plain.peer, &counted.peer)?);
    report.table(spread(&plain, &counted)?);
    NOTES.iter().for_each(|note| report.note(note));
    Ok(())
}

/// Paths, contents and modes of the bundle: the final program, the shell it is written for, and bytes that fill
/// up what is left.
pub fn files() -> Result<Vec<(&'static str, Vec<u8>, u32)>> {
    let busybox = artefacts::artefact(BUSYBOX)?;
    let busybox = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    let left = BYTES.saturating_sub(PROGRAM.len() + busybox.len());
    let third = left / 3;
    Ok(vec![
        ("sbin/init", PROGRAM.to_vec(), 0o755),
        ("bin/busybox", busybox, 0o755),
        ("srv/one", noise(1, third), 0o644),
        ("srv/two", noise(2, third), 0o644),
        ("srv/three", noise(3, left - 2 * third), 0o644),
    ])
}

fn tree() -> Result<Tree> {
    let tree = Tree::payload()?;
    for (path, bytes, mode) in files()? {
        tree.file(path, &bytes, mode)?;
    }
    Ok(tree)
}

/// What the script reads: SHA-256, MD5, path.
fn list_for_script() -> Result<String> {
    let line = |(path, bytes, _): &(&str, Vec<u8>, u32)| format!("{} {} {path}\n", sha256(bytes), md5(bytes));
    Ok(files()?.iter().map(line).collect())
}

/// Bytes without a pattern, the same for the same seed (xorshift64).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
