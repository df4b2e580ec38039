//! What a node must refuse: each case for its own reason, with nothing run, ended by a reboot.
//!
//! Each test spoils one thing of a site that would boot otherwise, and names the reason, or the code where several have
//! that reason. `boot` holds what the machine says against `docs/errors.md`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use zstrap_formats::key::SecretKey;
use zstrap_formats::name::Arch;
use zstrap_formats::signature::{ArchField, Kind};
use zstrap_formats::site::signature_by;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_mkimage::{Image, slots};
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::boot::{BOUND, expect_refusal, expect_refusal_by};
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{IMPATIENT, SMALL, Scene, Tree, now};
use zstrap_qemu_tests::vm::{Reason, Vm, VmBuilder};

/// Every list of the site.
const LISTS: &str = "/bundles/*.mtree";

/// Refused for its config: then no list may even be asked for.
fn config_refused(scene: &Scene, what: &str) -> Result<()> {
    let vm = expect_refusal(scene, "config", what)?;
    never_asked_for(scene, &vm, "/bundles/*")
}

/// Refused for its list: then no file of the bundle may even be asked for.
fn list_refused(scene: &Scene, what: &str) -> Result<()> {
    let vm = expect_refusal(scene, "list", what)?;
    never_asked_for(scene, &vm, "/blobs/*")
}

fn never_asked_for(scene: &Scene, vm: &Vm, path: &str) -> Result<()> {
    match scene.server.requests_for(path).first() {
        None => Ok(()),
        Some(request) => Err(vm.failed(&format!("{} was asked for", request.path))),
    }
}

/// A scene whose blob of `/sbin/init` arrives with a fault.
fn scene_with_bad_blob(name: &str, fault: Fault) -> Result<Scene> {
    let scene = Scene::new(name)?;
    let (blob, _) = scene.blob(SMALL, "./sbin/init")?;
    scene.server.rule(Rule::always(&format!("/{blob}"), fault));
    Ok(scene)
}

fn days_ago(days: u64) -> Result<Timestamp> {
    Ok(Timestamp::from_unix(now()?.unix() - days * DAY)?)
}

/// What stands in the image cannot change: one attempt, and nothing but its pause before the reboot.
#[test]
fn refuses_image_without_an_identity() -> Result<()> {
    let scene = Scene::new("refuses-blank-slot")?;
    let folder = scene.image()?;
    slots::stamp(&folder, b"")?;
    let image = Image::read(&folder)?;
    let machine =
        VmBuilder::new("refuses-blank-slot", &folder.join(&image.kernel), &folder.join(&image.initramfs));
    let vm = expect_refusal_by(machine.append(&image.cmdline), "identity", "ZS-IMG-02", BOUND)?;
    vm.assert_never("] network: ")
}

#[test]
fn refuses_server_that_has_no_such_config() -> Result<()> {
    let mut scene = Scene::new("refuses-unpublished")?;
    scene.use_config("unpublished");
    expect_refusal(&scene, "network", "ZS-SRV-04").map(drop)
}

#[test]
fn refuses_login_page_instead_of_a_server() -> Result<()> {
    let scene = Scene::new("refuses-login-page")?;
    scene.server.rule(Rule::always("/configs/*", Fault::Html));
    expect_refusal(&scene, "network", "ZS-SRV-12").map(drop)
}

#[test]
fn refuses_bundle_that_is_not_published_for_this_architecture() -> Result<()> {
    let scene = Scene::new("refuses-other-arch-only")?;
    scene.delete(&format!("bundles/{SMALL}/{}/latest", artefacts::arch()))?;
    list_refused(&scene, "ZS-SRV-16")
}

/// A config that the node has seen decides what a node does that gave up.
#[test]
fn switches_off_when_the_config_says_so() -> Result<()> {
    let mut scene = scene_with_bad_blob("refuses-power-off", Fault::FlipByte(1000))?;
    let config = json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/init"], "on_failure": "power-off",
        "must_understand": ["on_failure"] });
    scene.add_config("off", &config)?;
    let mut vm = scene.machine()?.append(IMPATIENT).start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line("] fail: retry 1 of 1 in ")?;
    vm.assert_line("] fail: powering off in 1s")?;
    vm.assert_never("payload:")
}

#[test]
fn refuses_list_signed_by_unknown_key() -> Result<()> {
    let scene = Scene::new("refuses-unknown-key")?;
    let list = scene.list(SMALL)?;
    let stranger = SecretKey::from_seed([7; 32], *b"stranger");
    scene.sign(&list, &scene.comment(&list)?, &stranger)?;
    list_refused(&scene, "unknown-key")
}

#[test]
fn refuses_list_signed_by_another_key_under_the_known_id() -> Result<()> {
    let scene = Scene::new("refuses-borrowed-id")?;
    let list = scene.list(SMALL)?;
    let impostor = SecretKey::from_seed([7; 32], scene.key()?.public().id().0);
    scene.sign(&list, &scene.comment(&list)?, &impostor)?;
    list_refused(&scene, "ZS-SIG-04")
}

#[test]
fn refuses_list_with_a_flipped_bit() -> Result<()> {
    let scene = Scene::new("refuses-tampered-list")?;
    scene.server.rule(Rule::always(LISTS, Fault::FlipByte(40)));
    list_refused(&scene, "ZS-SIG-04")
}

#[test]
fn refuses_file_with_a_flipped_bit() -> Result<()> {
    let scene = scene_with_bad_blob("refuses-tampered-file", Fault::FlipByte(1000))?;
    expect_refusal(&scene, "fetch", "sha256").map(drop)
}

#[test]
fn refuses_config_that_breaks_the_md5_pin() -> Result<()> {
    let mut scene = Scene::new("refuses-md5-pin")?;
    let config = scene.read(&scene.config(SMALL)?)?;
    scene.pin_config(b"another config", &config);
    config_refused(&scene, "md5-pin")
}

#[test]
fn refuses_config_that_breaks_the_sha256_pin() -> Result<()> {
    let mut scene = Scene::new("refuses-sha256-pin")?;
    let path = scene.config(SMALL)?;
    let config = scene.read(&path)?;
    scene.pin_config(&config, b"another config");
    // A server that hands out a well-signed config under the hash of another one.
    let pinned = scene.identity["config"]["sha256"].as_str().unwrap_or_default();
    let place = format!("configs/by-hash/{pinned}.json");
    scene.write(&place, &config)?;
    scene.write(&format!("{place}.minisig"), &scene.read(&format!("{path}.minisig"))?)?;
    config_refused(&scene, "sha256-pin")
}

#[test]
fn refuses_expired_list() -> Result<()> {
    let scene = Scene::new("refuses-expired")?;
    let (created, expires) = (days_ago(30)?, days_ago(1)?);
    scene.resign(&scene.list(SMALL)?, |comment| (comment.created, comment.expires) = (created, expires))?;
    list_refused(&scene, "expired")
}

#[test]
fn refuses_list_without_signature() -> Result<()> {
    let scene = Scene::new("refuses-missing-signature")?;
    scene.delete(&format!("{}.minisig", scene.list(SMALL)?))?;
    list_refused(&scene, "missing-signature")
}

#[test]
fn refuses_list_with_the_signature_of_another_kind() -> Result<()> {
    let scene = Scene::new("refuses-wrong-kind")?;
    scene.resign(&scene.list(SMALL)?, |comment| comment.kind = Kind::Config)?;
    list_refused(&scene, "wrong-kind")
}

#[test]
fn refuses_list_for_another_arch() -> Result<()> {
    let scene = Scene::new("refuses-wrong-arch")?;
    let other = if artefacts::arch() == Arch::Amd64 { Arch::Arm64 } else { Arch::Amd64 };
    scene.resign(&scene.list(SMALL)?, |comment| comment.arch = ArchField::One(other))?;
    list_refused(&scene, "wrong-arch")
}

#[test]
fn refuses_list_of_another_bundle() -> Result<()> {
    let scene = Scene::new("refuses-wrong-name")?;
    let other = "other".parse()?;
    scene.resign(&scene.list(SMALL)?, |comment| comment.name = other)?;
    list_refused(&scene, "wrong-name")
}

#[test]
fn refuses_list_with_a_path_that_climbs_out() -> Result<()> {
    let scene = Scene::new("refuses-bad-path")?;
    scene.rewrite_list(SMALL, |text| text.replace("./etc/motd ", "./etc/../../motd "))?;
    list_refused(&scene, "bad-path")
}

#[test]
fn refuses_config_that_demands_an_unknown_field() -> Result<()> {
    let mut scene = Scene::new("refuses-must-understand")?;
    let config = json!({
        "version": 1,
        "bundle": SMALL,
        "exec": ["/sbin/init"],
        "quantum_safe": true,
        "must_understand": ["quantum_safe"],
    });
    scene.force_config("future", &config)?;
    config_refused(&scene, "must-understand")
}

/// A site that two keys sign, for machines that demand both; the path of the second signature of its list and of its
/// config.
fn two_signers(name: &str) -> Result<(Scene, [String; 2])> {
    let mut scene = Scene::new(name)?;
    let second = scene.add_signer("second")?.id();
    scene.publish(&Tree::small()?, SMALL)?;
    scene.add_config(SMALL, &json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/init"] }))?;
    let signatures = [signature_by(&scene.list(SMALL)?, second), signature_by(&scene.config(SMALL)?, second)];
    Ok((scene, signatures))
}

#[test]
fn refuses_list_that_only_one_of_two_signers_has_signed() -> Result<()> {
    let (scene, [list, _]) = two_signers("refuses-list-threshold")?;
    scene.delete(&list)?;
    list_refused(&scene, "threshold")
}

#[test]
fn refuses_config_that_only_one_of_two_signers_has_signed() -> Result<()> {
    let (scene, [_, config]) = two_signers("refuses-config-threshold")?;
    scene.delete(&config)?;
    config_refused(&scene, "threshold")
}

#[test]
fn refuses_list_that_one_signer_has_signed_twice() -> Result<()> {
    let (scene, [second, _]) = two_signers("refuses-signed-twice")?;
    let list = scene.list(SMALL)?;
    let first = scene.read(&signature_by(&list, scene.key()?.public().id()))?;
    scene.write(&second, &first)?;
    list_refused(&scene, "threshold")
}

/// The first attempt fails with more than half of the memory full. The second must find that memory free again.
#[test]
fn refuses_bad_file_of_a_bundle_that_fits_into_memory_only_once() -> Result<()> {
    const MEMORY_MIB: u32 = 320;
    let mut scene = Scene::new("refuses-big-bundle")?;
    let tree = Tree::payload()?;
    for number in 0..MEMORY_MIB / 2 / 4 + 4 {
        let content = format!("file {number:07}\n").repeat((4 << 20) / 13);
        tree.file(&format!("srv/{number}"), content.as_bytes(), 0o644)?;
    }
    // The smallest is the last to be fetched.
    tree.file("srv/last", b"a few bytes", 0o644)?;
    scene.publish(&tree, "large")?;
    scene.add_config("large", &json!({ "version": 1, "bundle": "large", "exec": ["/sbin/init"] }))?;
    let (blob, _) = scene.blob("large", "./srv/last")?;
    scene.server.rule(Rule::always(&format!("/{blob}"), Fault::FlipByte(0)));
    let machine = scene.machine()?.memory_mib(MEMORY_MIB);
    let vm = expect_refusal_by(machine, "fetch", "sha256", Duration::from_secs(180))?;
    let roots = vm.find_all("] root: ready ").len();
    ensure!(roots == 2, vm.failed(&format!("expected a root at each attempt, found {roots}")));
    Ok(())
}
