//! What a bad network costs: a server that swallows all, a dead link, a silent DHCP server; and what compressed blobs
//! win on a slow line.
//!
//! In: a lab with scripted hosts on a segment. Out: rows: seconds that a boot takes longer than in the same lab
//! without the fault, and seconds of a fetch with and without compressed blobs. Failure: a boot that does not end as
//! it should.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_qemu_tests::dhcp::{Mute, Script};
use zstrap_qemu_tests::lab::Lab;
use zstrap_qemu_tests::segment::Segment;
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::vm::VmBuilder;

use crate::boot::{Clock, PROGRAM, run};
use crate::report::{Budget, Report, Row, Unit, median};
use crate::say;
use crate::stages;

/// The bundle and the config that is booted.
const BUNDLE: &str = "bench-lab";

/// The files of the demo, with the program that ends a boot here.
const TREE: &str = "demo-tree";
const BENCH: &str = "sbin/bench";

/// Boots of each kind, to take the median of.
const BOOTS: usize = 3;

/// A slow line, in bits a second.
const SLOW: u64 = 10_000_000;

/// How long the DHCP server says nothing.
const SILENT: Duration = Duration::from_secs(45);

/// An address that answers to ARP and to nothing else.
const HOLE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);

/// A lab with a DHCP server, and a scene in it.
struct Room {
    lab: Lab,
    scene: Scene,
}

impl Room {
    fn new(dhcp: Script, publish: impl FnOnce(&Scene) -> Result<()>) -> Result<Self> {
        let lab = Lab::new()?;
        lab.segment.host(dhcp.play().0);
        let mut scene = lab.scene(BUNDLE)?;
        publish(&scene)?;
        scene
            .add_config(BUNDLE, &json!({ "version": 1, "bundle": BUNDLE, "exec": [format!("/{BENCH}")] }))?;
        Ok(Self { lab, scene })
    }

    /// A machine with one card on the segment.
    fn machine(&self) -> Result<VmBuilder> {
        self.lab.machine(&self.scene)
    }
}

fn dhcp() -> Script {
    Script::new(2, 50)
}

fn tree() -> Result<Tree> {
    let tree = Tree::copy_of(TREE)?;
    tree.file(BENCH, PROGRAM, 0o755)?;
    Ok(tree)
}

/// Measures all of it.
pub fn measure(report: &mut Report) -> Result<()> {
    say(&format!("booting {BOOTS} times each: a dead server, a dead link, a silent DHCP server"));
    lost(report)?;
    say(&format!(
        "booting {BOOTS} times each: compressed blobs and plain ones, on a slow line and on a fast one"
    ));
    packed(report)
}

/// The median of boots from `/init` to the program; each room and machine is new, as a machine room is at power-on.
fn median_of(mut boot: impl FnMut() -> Result<f64>) -> Result<f64> {
    let times = (0..BOOTS).map(|_| boot()).collect::<Result<Vec<_>>>()?;
    median(times).context("no boots to take a median of")
}

fn lost(report: &mut Report) -> Result<()> {
    let tree = tree()?;
    let room = |dhcp| Room::new(dhcp, |scene| scene.publish(&tree, BUNDLE));
    let total = |machine| stages::total(&run(machine, Clock::Real)?);
    let whole = median_of(|| total(room(dhcp())?.machine()?))?;
    let dead_server = median_of(|| {
        let mut room = room(dhcp())?;
        room.lab.segment.host(Mute { address: HOLE });
        room.scene.identity["servers"] = json!([format!("http://{HOLE}"), room.scene.server.url()]);
        total(room.machine()?)
    })?;
    let dead_link = median_of(|| {
        let room = room(dhcp())?;
        let nobody = Segment::new(2)?;
        total(room.scene.machine()?.nics(0).wire(&nobody)?.wire(&room.lab.segment)?)
    })?;
    let silent = median_of(|| total(room(dhcp().silent(SILENT))?.machine()?))?;
    let mut row = |what: &str, figure: f64| {
        let (what, figure) = (what.to_owned(), figure - whole);
        report.row(Row { what, unit: Unit::Seconds, figure, peer: None, budget: Budget::None });
    };
    row("lost: first of two servers swallows all", dead_server);
    row("lost: first of two links is dead, with carrier", dead_link);
    row("lost: DHCP server silent for 45 s after the first word", silent);
    report.note(&format!("lost: seconds beyond a boot without the fault, which takes {whole:.3} s there"));
    Ok(())
}

fn packed(report: &mut Report) -> Result<()> {
    let tree = tree()?;
    for (what, rate) in [("10 Mbit/s", Some(SLOW)), ("a fast line", None)] {
        let fetch = |with_packed: bool| {
            let publish = if with_packed { Scene::publish_packed } else { Scene::publish };
            let room = Room::new(dhcp(), |scene| publish(scene, &tree, BUNDLE))?;
            room.lab.segment.set(|wire| wire.rate = rate);
            let stamps = run(room.machine()?, Clock::Real)?;
            let asked = room.scene.server.requests_for("/blobs/*.zst").len();
            ensure!((asked > 0) == with_packed, "{asked} compressed blobs were asked for");
            stamps.between("zstrap: root: ready ", "zstrap: fetch: done ")
        };
        let (figure, plain) = (median_of(|| fetch(true))?, median_of(|| fetch(false))?);
        let what = format!("demo's files by {what}, compressed; peer: plain blobs");
        report.row(Row { what, unit: Unit::Seconds, figure, peer: Some(plain), budget: Budget::None });
    }
    Ok(())
}
