//! A machine room: a segment, a namespace on it with the address 10.77.0.1, and the servers of others inside.
//!
//! In: what the tests of the network want to have there. Out: a [`Lab`], scenes that are served in it and machines
//! that are wired to it. Failure: an error that names the step; it all goes when the lab is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::artefacts::patience;
use crate::dhcp::{Handle, Script};
use crate::http::Place;
use crate::netns::{Daemon, Namespace};
use crate::segment::Segment;
use crate::site::Scene;
use crate::vm::VmBuilder;

/// The host in the lab.
pub const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// See [`ROUTER`].
pub const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1));

/// The device of the host in the lab.
const TAP: &str = "tap0";

/// How long a server of somebody else's may take to start.
const START: Duration = Duration::from_secs(20);

/// The room.
pub struct Lab {
    /// Where servers run.
    pub namespace: Namespace,
    /// What machines are wired to.
    pub segment: Segment,
    folder: TempDir,
}

impl Lab {
    /// A room with nothing in it but a host with two addresses.
    pub fn new() -> Result<Self> {
        let (namespace, segment) = (Namespace::new()?, Segment::new(1)?);
        segment.tap(namespace.tap(TAP, &["10.77.0.1/24", "fd00:77::1/64"])?);
        let folder = TempDir::with_prefix("zstrap-lab-").context("making the folder of a lab")?;
        Ok(Self { namespace, segment, folder })
    }

    /// A room with a scene in it and a DHCP server that follows this script.
    pub fn scripted(name: &str, script: Script) -> Result<(Self, Scene, Handle)> {
        let lab = Self::new()?;
        let scene = lab.scene(name)?;
        let server = script.play_on(&lab.segment);
        Ok((lab, scene, server))
    }

    /// Where servers are reached with IPv4.
    pub fn place(&self) -> Place {
        Place::inside(&self.namespace, ROUTER)
    }

    /// Where servers are reached with IPv6.
    pub fn place6(&self) -> Place {
        Place::inside(&self.namespace, ROUTER6)
    }

    /// A scene whose site is served here.
    pub fn scene(&self, name: &str) -> Result<Scene> {
        Scene::at(name, self.place())
    }

    /// A machine of that scene with one card, wired to the segment.
    pub fn machine(&self, scene: &Scene) -> Result<VmBuilder> {
        scene.machine()?.nics(0).wire(&self.segment)
    }

    /// Starts dnsmasq with these options. It serves no DNS unless told so with `--port`.
    pub fn dnsmasq(&self, options: &[&str]) -> Result<Daemon> {
        let fixed = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--log-facility=-",
            "--log-dhcp",
            "--no-resolv",
            "--no-hosts",
            // Otherwise it probes for three seconds before each new lease.
            "--no-ping",
            "--dhcp-authoritative",
        ];
        let leases = format!("--dhcp-leasefile={}", self.folder.path().join("leases").display());
        let mut command = Command::new("dnsmasq");
        command.args(fixed).arg(leases).arg(format!("--interface={TAP}")).args(options);
        if !options.iter().any(|option| option.starts_with("--port")) {
            command.arg("--port=0");
        }
        let mut daemon = self.namespace.start(&mut command)?;
        wait_for(&mut daemon, "started, version")?;
        Ok(daemon)
    }

    /// Starts Kea's server for DHCPv4 with this `Dhcp4` configuration, completed by what a test always needs: it leases
    /// addresses from 10.77.0.50 on, and names [`ROUTER`] as router and name server.
    pub fn kea4(&self, mut config: Value) -> Result<Daemon> {
        let memory = serde_json::json!({ "type": "memfile", "persist": false });
        config["interfaces-config"] = serde_json::json!({ "interfaces": [TAP] });
        config["lease-database"] = memory;
        config["subnet4"] = serde_json::json!([{
            "id": 1,
            "subnet": "10.77.0.0/24",
            "pools": [{ "pool": "10.77.0.50 - 10.77.0.60" }],
            "option-data": [
                { "name": "routers", "data": ROUTER },
                { "name": "domain-name-servers", "data": ROUTER },
            ],
        }]);
        config["loggers"] = serde_json::json!([{
            "name": "kea-dhcp4", "severity": "INFO", "output_options": [{ "output": "stderr" }]
        }]);
        let file = self.folder.path().join("kea4.json");
        let text = serde_json::json!({ "Dhcp4": config }).to_string();
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(kea("kea-dhcp4")?);
        let folder = self.folder.path();
        command.env("KEA_PIDFILE_DIR", folder).env("KEA_LOCKFILE_DIR", folder).arg("-c").arg(file);
        let mut daemon = self.namespace.start(&mut command)?;
        wait_for(&mut daemon, "DHCP4_STARTED")?;
        Ok(daemon)
    }
}

/// A segment of its own with a DHCP server that follows this script, and nobody else.
pub fn elsewhere(script: Script) -> Result<(Segment, Handle)> {
    let segment = Segment::new(2)?;
    let server = script.play_on(&segment);
    Ok((segment, server))
}

/// Kea's programs stand where `scripts/setup` has unpacked them, or are installed.
fn kea(program: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("ZSTRAP_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cache/zstrap")));
    let unpacked = cache.map(|cache| cache.join("kea/usr/sbin").join(program));
    let installed = Path::new("/usr/sbin").join(program);
    let found = unpacked.into_iter().chain([installed]).find(|path| path.exists());
    found.with_context(|| format!("there is no {program}: run scripts/setup"))
}

/// Waits until a server has printed a line with this text.
fn wait_for(daemon: &mut Daemon, text: &str) -> Result<()> {
    let deadline = Instant::now() + patience(START);
    while daemon.count(text) == 0 {
        daemon.check()?;
        if Instant::now() >= deadline {
            bail!("no `{text}` within {START:?}, but: {}", daemon.said().join("; "));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
