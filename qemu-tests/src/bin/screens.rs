//! `make screenshots`: the pictures of the README and of `docs/errors.md`.
//!
//! In: the artefacts of `make build`, a folder. Out: a PNG there for a good boot and for each of three failures. Failure:
//! a picture that did not come ends the run with exit code 1, and says what was on the screen instead.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{Scene, Tree, noise, now};
use zstrap_qemu_tests::vm::VmBuilder;

const BUNDLE: &str = "demo";
const DESCRIPTION: &str = "Demo: zinit, two services, a web page";
/// One attempt, and time to look at it.
const ONE_ATTEMPT: &str = "zstrap.tries=1 zstrap.reboot_after=45";
/// A node without a cable waits for one.
const NO_CABLE: Duration = Duration::from_secs(240);

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("usage: screens FOLDER")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    good_boot(&folder)?;
    changed_file(&folder)?;
    expired_list(&folder)?;
    no_cable(&folder)
}

fn good_boot(folder: &Path) -> Result<()> {
    let scene = scene()?;
    let (blob, size) = scene.blob(BUNDLE, "./srv/data")?;
    scene.server.rule(Rule::always(&format!("/{blob}"), Fault::Trickle(size / 12)));
    picture(
        scene.machine()?,
        &["► fetch     the files                  6 s"],
        BOUND,
        &folder.join("boot.png"),
    )
}

fn changed_file(folder: &Path) -> Result<()> {
    let scene = scene()?;
    let (blob, _) = scene.blob(BUNDLE, "./sbin/init")?;
    scene.server.rule(Rule::always(&format!("/{blob}"), Fault::FlipByte(1000)));
    failure(scene.machine()?, "SHA-256", BOUND, &folder.join("changed-file.png"))
}

fn expired_list(folder: &Path) -> Result<()> {
    let scene = scene()?;
    let day = |ago: u64| Timestamp::from_unix(now()?.unix() - ago * DAY).map_err(anyhow::Error::from);
    let (created, expires) = (day(91)?, day(1)?);
    scene.resign(&scene.list(BUNDLE)?, |comment| (comment.created, comment.expires) = (created, expires))?;
    failure(scene.machine()?, "expired", BOUND, &folder.join("expired.png"))
}

fn no_cable(folder: &Path) -> Result<()> {
    failure(scene()?.machine()?.unplugged("nic0"), "no carrier", NO_CABLE, &folder.join("no-cable.png"))
}

/// A site with a bundle of a few megabytes.
fn scene() -> Result<Scene> {
    let mut scene = Scene::new("screens")?;
    let tree = Tree::payload()?;
    tree.file("srv/data", &noise(2_400_000), 0o644)?;
    scene.publish(&tree, BUNDLE)?;
    let config =
        json!({ "version": 1, "description": DESCRIPTION, "bundle": BUNDLE, "exec": ["/sbin/init"] });
    scene.add_config(BUNDLE, &config)?;
    Ok(scene)
}

fn failure(machine: VmBuilder, sentence: &str, limit: Duration, path: &Path) -> Result<()> {
    picture(machine.append(ONE_ATTEMPT), &[sentence, "try: ", "reboot in"], limit, path)
}

fn picture(machine: VmBuilder, texts: &[&str], limit: Duration, path: &Path) -> Result<()> {
    let mut vm = machine.with_screen().start()?;
    vm.wait_screen(texts, limit)?;
    vm.screenshot(path)?;
    println!("{}", path.display());
    Ok(())
}
