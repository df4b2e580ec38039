//! A plan made real: a lab with a site, servers and cards that behave as it says, and a machine in it.
//!
//! In: a [`Plan`], a name for the console's log. Out: a [`World`] that starts the machine and does to it, while it
//! runs, what the plan has for later. Failure: an error that names the step.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_qemu_tests::dhcp::{Mute, Script};
use zstrap_qemu_tests::http::{Fault, FaultServer, Place, Rule};
use zstrap_qemu_tests::lab::{Lab, elsewhere};
use zstrap_qemu_tests::netns::Daemon;
use zstrap_qemu_tests::segment::Segment;
use zstrap_qemu_tests::site::{Scene, Tree, noise, now};
use zstrap_qemu_tests::vm::{Vm, VmBuilder};

use crate::expect::Expected;
use crate::plan::{Clock, Damage, Nic, Part, Plan, Program, Server};

/// The bundle and the config.
const BUNDLE: &str = "soak";

/// Longer than any boot.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// The file that most faults meet.
const BIG: &str = "srv/big";

/// All that a machine has around it.
pub struct World {
    plan: Plan,
    lab: Lab,
    scene: Scene,
    servers: Vec<FaultServer>,
    tree: Tree,
    later: Vec<Event>,
    _router: Option<Daemon>,
    /// Segments that lead nowhere.
    nowhere: Vec<Segment>,
}

/// What happens to a running machine.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The cable of this card is plugged in, so long after power-on.
    Plug(usize, Duration),
    /// The cables of all cards in the lab are pulled once files are fetched, for so long.
    Pull(Duration),
    /// They are plugged in again.
    PlugAgain(Duration),
    /// This server goes away, once it was asked for a file, for so long.
    Stop(usize, Duration),
    /// It is back.
    Resume(usize, Duration),
}

impl World {
    /// Of this plan; `name` names the console's log.
    pub fn make(plan: &Plan, name: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let place = if plan.is_v6 { lab.place6() } else { lab.place() };
        let mut scene = Scene::at(name, place.clone())?;
        let tree = publish(plan, &mut scene)?;
        if let Some(damage) = plan.damage {
            spoil(&scene, damage, plan.program)?;
        }
        let mut world = Self {
            plan: plan.clone(),
            _router: router(plan, &lab)?,
            lab,
            scene,
            servers: Vec::new(),
            tree,
            later: Vec::new(),
            nowhere: Vec::new(),
        };
        let urls: Vec<Value> =
            (0..plan.servers.len()).map(|number| world.serve(number, &place)).collect::<Result<_>>()?;
        world.scene.identity["servers"] = json!(urls);
        world.set_wire();
        Ok(world)
    }

    /// What the payload says of a tree that is whole; none for the demo, whose programs say enough by running.
    pub fn fingerprint(&self) -> Result<Option<String>> {
        match self.plan.program {
            Program::Payload(_) => self.tree.fingerprint().map(Some),
            Program::Zinit => Ok(None),
        }
    }

    /// Starts the machine.
    pub fn start(&mut self, expected: &Expected) -> Result<Vm> {
        let tries = format!("demo.poweroff zstrap.tries={} zstrap.reboot_after=1", expected.tries);
        let mut machine = self.scene.machine()?.append(&tries).nics(0).memory_mib(self.plan.memory);
        machine = match self.plan.clock {
            Clock::Right => machine,
            Clock::Unbelievable(time) => machine.clock(time.parse()?),
            Clock::Ahead(days) => machine.clock(in_days(days as i64)?),
        };
        for (number, nic) in self.plan.nics.clone().into_iter().enumerate() {
            machine = self.wire(machine, number, nic)?;
        }
        if let Some(seconds) = self.plan.flap {
            self.later.push(Event::Pull(Duration::from_secs(seconds)));
        }
        machine.start()
    }

    /// Adds a card.
    fn wire(&mut self, machine: VmBuilder, number: usize, nic: Nic) -> Result<VmBuilder> {
        let unplugged = |machine: VmBuilder| machine.unplugged(&format!("nic{number}"));
        let nowhere = match nic {
            Nic::Lab => return machine.wire(&self.lab.segment),
            Nic::Late(seconds) => {
                self.later.push(Event::Plug(number, Duration::from_secs(seconds)));
                return Ok(unplugged(machine.wire(&self.lab.segment)?));
            }
            Nic::Unplugged | Nic::Silent => Segment::new(3)?,
            Nic::Elsewhere => elsewhere(Script::new(3, 90))?.0,
            Nic::Refusing => elsewhere(Script::new(4, 90).naks(u32::MAX))?.0,
        };
        let machine = machine.wire(&nowhere)?;
        self.nowhere.push(nowhere);
        Ok(if nic == Nic::Unplugged { unplugged(machine) } else { machine })
    }

    fn set_wire(&self) {
        let wire = self.plan.wire;
        self.lab.segment.set(|conditions| {
            (conditions.loss, conditions.duplicates) = (share(wire.loss), share(wire.duplicates));
            conditions.delay = Duration::from_millis(wire.delay);
            conditions.jitter = Duration::from_millis(wire.jitter);
            conditions.rate = (wire.rate > 0).then_some(wire.rate * 1_000_000);
            conditions.opens_after = (wire.opens_after > 0).then(|| Duration::from_secs(wire.opens_after));
        });
    }

    /// Starts a server with its faults; its URL.
    fn serve(&mut self, number: usize, place: &Place) -> Result<Value> {
        let fault = self.plan.servers[number];
        let mut server = FaultServer::start_at(&self.scene.site(), place.clone())?;
        let url = if fault == Server::Swallowing { self.swallow(number) } else { server.url() };
        rules_of(fault).into_iter().for_each(|rule| server.rule(rule));
        if let Server::Drips(seconds) = fault {
            let list = self.scene.list(BUNDLE)?;
            let rate = self.scene.read(&list)?.len() as u64 / seconds;
            server.rule(Rule::always(&format!("/{list}"), Fault::Trickle(rate.max(1))));
        }
        if fault == Server::Dead {
            server.pause();
        }
        if let Server::Restarts(seconds) = fault {
            self.later.push(Event::Stop(number, Duration::from_secs(seconds)));
        }
        self.servers.push(server);
        Ok(json!(url))
    }

    /// A host that nothing comes back from; with IPv6 there is none at that address at all.
    fn swallow(&self, number: usize) -> String {
        let host = 66 + number as u8;
        if self.plan.is_v6 {
            return format!("http://[{}]", Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, host.into()));
        }
        let address = Ipv4Addr::new(10, 77, 0, host);
        self.lab.segment.host(Mute { address });
        format!("http://{address}")
    }

    /// Does what is due.
    pub fn turn(&mut self, vm: &mut Vm) -> Result<()> {
        let (age, _) = vm.age_and_silence();
        let due: Vec<Event> = {
            let (due, later) = self.later.iter().partition(|event| self.is_due(**event, vm, age));
            self.later = later;
            due
        };
        due.into_iter().try_for_each(|event| self.happen(event, vm, age))
    }

    fn is_due(&self, event: Event, vm: &Vm, age: Duration) -> bool {
        match event {
            Event::Plug(_, at) | Event::PlugAgain(at) | Event::Resume(_, at) => age >= at,
            Event::Pull(_) => vm.find("] root: ready ").is_some(),
            Event::Stop(number, _) => !self.servers[number].requests_for("/blobs/*").is_empty(),
        }
    }

    fn happen(&mut self, event: Event, vm: &mut Vm, age: Duration) -> Result<()> {
        match event {
            Event::Plug(number, _) => vm.set_link(&format!("nic{number}"), true),
            Event::Pull(time) => {
                self.later.push(Event::PlugAgain(age + time));
                self.set_links(vm, false)
            }
            Event::PlugAgain(_) => self.set_links(vm, true),
            Event::Stop(number, time) => {
                self.later.push(Event::Resume(number, age + time));
                self.servers[number].pause();
                Ok(())
            }
            Event::Resume(number, _) => self.servers[number].resume(),
        }
    }

    /// Of the cards in the lab.
    fn set_links(&self, vm: &mut Vm, up: bool) -> Result<()> {
        let leads = |nic: &Nic| matches!(nic, Nic::Lab | Nic::Late(_));
        let numbers =
            (0..).zip(&self.plan.nics).filter(|(_, nic)| leads(nic)).map(|(number, _): (u32, _)| number);
        numbers.into_iter().try_for_each(|number| vm.set_link(&format!("nic{number}"), up))
    }
}

fn share(of_a_thousand: u64) -> f64 {
    of_a_thousand as f64 / 1000.0
}

/// So many days from now.
fn in_days(days: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_unix(now()?.unix().saturating_add_signed(days * DAY as i64))?)
}

/// Whoever gives addresses in the lab.
fn router(plan: &Plan, lab: &Lab) -> Result<Option<Daemon>> {
    if plan.is_v6 {
        return lab.dnsmasq(&["--enable-ra", "--dhcp-range=fd00:77::,ra-only,64"]).map(Some);
    }
    let dhcp = plan.dhcp;
    let script = Script::new(2, 50)
        .silent(Duration::from_secs(dhcp.silent))
        .late(Duration::from_millis(dhcp.late))
        .naks(dhcp.naks);
    if dhcp.is_deaf { script.deaf_to_the_broadcast_flag() } else { script }.play_on(&lab.segment);
    Ok(None)
}

/// Publishes what the node becomes, and has it become that.
fn publish(plan: &Plan, scene: &mut Scene) -> Result<Tree> {
    let (tree, config) = match plan.program {
        Program::Payload(kib) => {
            let tree = Tree::small()?;
            // Half of it can be compressed.
            let mut bytes = noise(kib as usize * 512);
            bytes.resize(kib as usize * 1024, b'z');
            tree.file(BIG, &bytes, 0o644)?;
            (tree, json!({ "version": 1, "bundle": BUNDLE, "exec": ["/sbin/init"] }))
        }
        Program::Zinit => {
            let text = std::fs::read(home().join("bundles/demo/config.json"))
                .context("reading the demo's config")?;
            let mut config: Value = serde_json::from_slice(&text).context("the demo's config")?;
            config["bundle"] = json!(BUNDLE);
            (Tree::copy_of("demo-tree")?, config)
        }
    };
    if plan.is_packed {
        scene.publish_packed(&tree, BUNDLE)?
    } else {
        scene.publish(&tree, BUNDLE)?
    }
    scene.add_config(BUNDLE, &config)?;
    Ok(tree)
}

fn home() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Spoils the site for all servers.
fn spoil(scene: &Scene, damage: Damage, program: Program) -> Result<()> {
    let (config, list) = (scene.config(BUNDLE)?, scene.list(BUNDLE)?);
    let spans = |from: i64, to: i64| -> Result<_> { Ok((in_days(from)?, in_days(to)?)) };
    let resign = |path: &str, from, to| -> Result<()> {
        let times = spans(from, to)?;
        scene.resign(path, |comment| (comment.created, comment.expires) = times)
    };
    let file = if program == Program::Zinit { "./sbin/zinit-server" } else { "./srv/big" };
    let (blob, size) = scene.blob(BUNDLE, file)?;
    match damage {
        Damage::ExpiredConfig => resign(&config, -100, -1),
        Damage::ExpiredList => resign(&list, -100, -1),
        Damage::FutureList => resign(&list, 10, 100),
        Damage::UnsignedConfig => scene.delete(&format!("{config}.minisig")),
        Damage::UnsignedList => scene.delete(&format!("{list}.minisig")),
        Damage::ChangedBlob => change(scene, &blob, Some(vec![b'x'; size as usize])),
        Damage::LongerBlob => change(scene, &blob, Some(vec![b'x'; size as usize + 100])),
        Damage::LostBlob => change(scene, &blob, None),
    }
}

/// Replaces or deletes a blob; its compressed copy goes, or nodes would not look at this one.
fn change(scene: &Scene, blob: &str, bytes: Option<Vec<u8>>) -> Result<()> {
    let packed = format!("{blob}.zst");
    if scene.read(&packed).is_ok() {
        scene.delete(&packed)?;
    }
    match bytes {
        Some(bytes) => scene.write(blob, &bytes),
        None => scene.delete(blob),
    }
}

/// What a server does wrong, for the server.
fn rules_of(server: Server) -> Vec<Rule> {
    let blobs = "/blobs/*";
    let always = |path: &str, fault| vec![Rule::always(path, fault)];
    let of = |part| match part {
        Part::All => "*",
        Part::Config => "/configs/*.json",
        Part::List => "/bundles/*.mtree",
        Part::Blobs => blobs,
    };
    match server {
        Server::Healthy | Server::Dead | Server::Swallowing | Server::Restarts(_) | Server::Drips(_) => {
            Vec::new()
        }
        Server::Html => always("*", Fault::Html),
        Server::Status(part, status) => always(of(part), Fault::Status(status)),
        Server::Flips(part) => always(of(part), Fault::FlipByte(3)),
        Server::Cuts(bytes) => always(blobs, Fault::CutAfter(bytes)),
        Server::Stalls(bytes) => always(blobs, Fault::StallAfter(bytes, FOR_EVER)),
        Server::Hesitates(seconds) => always("*", Fault::Stall(Duration::from_secs(seconds))),
        Server::Slow(kib) => always(blobs, Fault::Trickle(kib * 1024)),
        Server::Moody(status, times) => vec![Rule::first(times, blobs, Fault::Status(status))],
    }
}
