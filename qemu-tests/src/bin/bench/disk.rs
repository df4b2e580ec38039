//! Boots of nodes with a disk: cold, warm, after an update; and how fast a warm cache is verified.
//!
//! In: a site of its own with 300 MB, and one with 2,000 files. Out: rows; for each kind of boot, what was asked of the
//! server. Failure: a boot that does not end as it should, or asks for more or less than it has to.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::disk::Disk;
use zstrap_qemu_tests::site::{Scene, Tree};

use crate::boot::{Clock, noise, run};
use crate::peer::BUSYBOX;
use crate::report::{Budget, Report, Row, Table, Unit, median};
use crate::say;
use crate::stages;
use crate::stamps::Stamps;

/// What machines boot into.
const PROGRAM: &[u8] = include_bytes!("program-disk");

/// The bundles and their configs.
const BIG: &str = "bench-disk";
const MANY: &str = "bench-many";

/// The files of the first, and what they have together.
const BIG_FILES: usize = 6;
const BIG_BYTES: usize = 300_000_000;

/// The files of the second.
const MANY_FILES: usize = 2000;

/// Boots of each kind.
const BOOTS: usize = 3;

/// Machines have this memory in MiB, and disks this size.
const MEMORY: u32 = 1024;
const DISK: u64 = 2 << 30;

/// A kind of boots: what they took, and what the last of them asked for.
struct Boots {
    what: &'static str,
    stamps: Vec<Stamps>,
    records: usize,
    blobs: usize,
}

impl Boots {
    fn of(what: &'static str) -> Self {
        Self { what, stamps: Vec::new(), records: 0, blobs: 0 }
    }

    /// One more, which has to ask for so many blobs.
    fn add(&mut self, scene: &Scene, disk: &Disk, blobs: usize) -> Result<()> {
        let before = scene.server.requests().len();
        let stamps = run(scene.machine()?.memory_mib(MEMORY).disk(disk), Clock::Real)?;
        stamps.at("zstrap: root: ready kind=disk ")?;
        let asked = &scene.server.requests()[before..];
        self.blobs = asked.iter().filter(|request| request.path.starts_with("/blobs/")).count();
        self.records = asked.len() - self.blobs;
        ensure!(self.blobs == blobs, "{}: asked for {} blobs, expected {blobs}", self.what, self.blobs);
        self.stamps.push(stamps);
        Ok(())
    }

    fn total(&self) -> Result<f64> {
        let totals = self.stamps.iter().map(stages::total).collect::<Result<Vec<_>>>()?;
        median(totals).context("no boots to take a median of")
    }

    fn line(&self) -> Result<Vec<String>> {
        let counts = [self.records, self.blobs].map(|count| count.to_string());
        Ok([vec![self.what.to_owned(), Unit::Seconds.show(self.total()?)], counts.to_vec()].concat())
    }
}

/// Measures boots from a disk.
pub fn measure(report: &mut Report) -> Result<()> {
    say(&format!("publishing 300 MB, booting {BOOTS} times each: an empty disk, a warm one"));
    let (cold, warm) = warm_and_cold()?;
    say(&format!(
        "publishing {MANY_FILES} files, booting {BOOTS} times each: an empty disk, one file changed"
    ));
    let (first, updated) = updates()?;
    report.row(against("300 MB, warm disk, /init to program; peer: cold", &warm, &cold)?);
    report.row(against("1 of 2,000 files changed, the same; peer: cold", &updated, &first)?);
    report.row(verification(&warm)?);
    let lines = [&cold, &warm, &first, &updated].into_iter().map(Boots::line).collect::<Result<_>>()?;
    let head = vec!["boot", "median", "configs and lists", "blobs"];
    report.table(Table { title: "Boots with a disk, and what they ask for".to_owned(), head, lines });
    report.note(
        "disk: virtio, one processor; sha256sum is busybox's, of the same files after caches were dropped",
    );
    Ok(())
}

fn against(what: &str, ours: &Boots, peer: &Boots) -> Result<Row> {
    let (figure, peer) = (ours.total()?, Some(peer.total()?));
    Ok(Row { what: what.to_owned(), unit: Unit::Seconds, figure, peer, budget: Budget::None })
}

fn warm_and_cold() -> Result<(Boots, Boots)> {
    let mut scene = Scene::new(BIG)?;
    let tree = tree()?;
    for number in 0..BIG_FILES {
        let bytes = noise(number as u64 + 1, BIG_BYTES / BIG_FILES);
        tree.file(&format!("srv/{number}"), &bytes, 0o644)?;
    }
    publish(&mut scene, &tree, BIG)?;
    let (mut cold, mut warm) = (Boots::of("300 MB, cold"), Boots::of("300 MB, warm"));
    for number in 0..BOOTS {
        let disk = scene.disk(&format!("disk-{number}"), DISK)?;
        // Program and busybox are two more.
        cold.add(&scene, &disk, BIG_FILES + 2)?;
        warm.add(&scene, &disk, 0)?;
        fs::remove_file(disk.path()).context("deleting a disk")?;
    }
    Ok((cold, warm))
}

fn updates() -> Result<(Boots, Boots)> {
    let mut scene = Scene::new(MANY)?;
    let tree = tree()?;
    let file = |number: usize, seed: u64| {
        let bytes = noise(seed, 1000 + number % 100 * 200);
        tree.file(&format!("srv/{}/{number}", number / 100), &bytes, 0o644)
    };
    (0..MANY_FILES).try_for_each(|number| file(number, number as u64))?;
    publish(&mut scene, &tree, MANY)?;
    let (mut first, mut updated) = (Boots::of("2,000 files, cold"), Boots::of("2,000 files, one changed"));
    let disk = scene.disk("disk", DISK)?;
    first.add(&scene, &disk, MANY_FILES + 2)?;
    for number in 0..BOOTS {
        file(700, (MANY_FILES + number) as u64)?;
        scene.publish(&tree, MANY)?;
        updated.add(&scene, &disk, 1)?;
    }
    Ok((first, updated))
}

/// The program and its shell.
fn tree() -> Result<Tree> {
    let (tree, busybox) = (Tree::payload()?, artefacts::artefact(BUSYBOX)?);
    tree.file("sbin/init", PROGRAM, 0o755)?;
    tree.file("bin/busybox", &fs::read(&busybox).context("reading busybox")?, 0o755)?;
    Ok(tree)
}

fn publish(scene: &mut Scene, tree: &Tree, name: &str) -> Result<()> {
    scene.publish(tree, name)?;
    let root = json!({ "size": "1GiB" });
    scene.add_config(name, &json!({ "version": 1, "bundle": name, "exec": ["/sbin/init"], "root": root }))
}

/// Bytes a second that a warm boot has verified, and that `sha256sum` has read.
fn verification(warm: &Boots) -> Result<Row> {
    let ours = warm.stamps.iter().map(verified).collect::<Result<Vec<_>>>()?;
    let peer = warm
        .stamps
        .iter()
        .map(|stamps| Ok(BIG_BYTES as f64 / stamps.between("bench: sha256-begin", "bench: sha256-end")?));
    let peer = median(peer.collect::<Result<Vec<_>>>()?);
    let what = "verification of a warm cache; peer: sha256sum".to_owned();
    let figure = median(ours).context("no boots to take a median of")?;
    Ok(Row { what, unit: Unit::Rate, figure, peer, budget: Budget::None })
}

/// What the init says about it: `cache: verified contents=… bytes=N … after=S s`.
fn verified(stamps: &Stamps) -> Result<f64> {
    let line = stamps.lines("zstrap: cache: verified ").next().context("no line about verification")?;
    let value = |key: &str| -> Result<f64> {
        let found = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let text = found.with_context(|| format!("no {key} in `{line}`"))?;
        text.trim_end_matches('s').parse().with_context(|| format!("{key} in `{line}`"))
    };
    Ok(value("bytes")? / value("after")?)
}
