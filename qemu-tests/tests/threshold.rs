//! More than one key: what whole machines make of lists and configs that some of their keys have signed, and of what was
//! promoted.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_formats::key::{KeyId, SecretKey};
use zstrap_formats::site::signature_by;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal};
use zstrap_qemu_tests::site::{SMALL, Scene, zstrap};
use zstrap_qemu_tests::vm::Vm;

/// A site whose list and config the first of three keys has signed, for machines that want two of them.
struct TwoOfThree {
    scene: Scene,
    second: KeyId,
    third: KeyId,
}

impl TwoOfThree {
    fn new(name: &str) -> Result<Self> {
        let mut scene = Scene::new(name)?;
        let second = scene.add_signer("second")?.id();
        let third = scene.add_signer("third")?.id();
        scene.identity["threshold"] = json!(2);
        Ok(Self { scene, second, third })
    }

    fn key_file(&self, name: &str) -> Result<PathBuf> {
        let site = self.scene.site();
        Ok(site.parent().context("a site stands in the folder of its scene")?.join("keys").join(name))
    }

    /// Adds the signature of the second key beside that of the first, as its owner does it.
    fn sign_by_second(&self, path: &str) -> Result<()> {
        let first = self.key_file("first.pub")?;
        std::fs::write(&first, self.scene.key()?.public().to_file())?;
        let (file, key) = (self.scene.site().join(path), self.key_file("second.key")?);
        let said = zstrap(&[&"sign", &file, &"--key", &key, &"--trust", &first, &"--threshold", &"2"])?;
        ensure!(said.contains(" signers=2 latest=yes"), "zstrap sign said {said}");
        Ok(())
    }

    fn sign_both_by_second(&self) -> Result<()> {
        self.sign_by_second(&self.scene.list(SMALL)?)?;
        self.sign_by_second(&self.scene.config(SMALL)?)
    }
}

fn never_asked_for(scene: &Scene, vm: &Vm, path: &str) -> Result<()> {
    match scene.server.requests_for(path).first() {
        None => Ok(()),
        Some(request) => Err(vm.failed(&format!("{} was asked for", request.path))),
    }
}

#[test]
fn boots_what_two_of_three_have_signed() -> Result<()> {
    let two = TwoOfThree::new("threshold-two-of-three")?;
    two.sign_both_by_second()?;
    let vm = expect_payload(two.scene.machine()?, BOUND)?;
    vm.assert_line("] identity: ok ")?;
    vm.assert_never("refused")
}

#[test]
fn names_who_is_missing_where_one_of_three_has_signed() -> Result<()> {
    let two = TwoOfThree::new("threshold-one-of-three")?;
    let vm = expect_refusal(&two.scene, "config", "threshold")?;
    let missing = format!("no signature of {} {}: signed by 1 ", two.second, two.third);
    vm.assert_line(&missing)?;
    never_asked_for(&two.scene, &vm, "/bundles/*")
}

#[test]
fn refuses_signers_who_have_signed_different_comments() -> Result<()> {
    let two = TwoOfThree::new("threshold-comments")?;
    two.sign_both_by_second()?;
    // The second signs another day, by a comment of its own.
    let list = two.scene.list(SMALL)?;
    let mut comment = two.scene.comment(&list)?;
    comment.expires = comment.expires.plus(1);
    let key = SecretKey::parse(&std::fs::read_to_string(two.key_file("second.key")?)?)?;
    let signature = key.sign(&two.scene.read(&list)?, &comment.to_string());
    two.scene.write(&signature_by(&list, two.second), signature.to_file().as_bytes())?;
    let vm = expect_refusal(&two.scene, "list", "comments-differ")?;
    never_asked_for(&two.scene, &vm, "/blobs/*")
}

/// Whoever holds one leaked key and the server publishes a config of their own, signed twice.
#[test]
fn a_leaked_key_counts_once_under_whatever_names() -> Result<()> {
    let mut two = TwoOfThree::new("threshold-leaked-key")?;
    two.sign_both_by_second()?;
    let evil = json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/evil"] });
    two.scene.force_config(SMALL, &evil)?;
    let config = two.scene.config(SMALL)?;
    let signature = two.scene.read(&format!("{config}.minisig"))?;
    for id in [two.scene.key()?.public().id(), two.second, two.third] {
        two.scene.write(&signature_by(&config, id), &signature)?;
    }
    let vm = expect_refusal(&two.scene, "config", "threshold")?;
    vm.assert_line(": signed by 1 of the trusted keys, expected at least 2")?;
    never_asked_for(&two.scene, &vm, "/bundles/*")
}

#[test]
fn boots_what_was_promoted_to_the_channel_of_its_config() -> Result<()> {
    let mut scene = Scene::new("promoted")?;
    let keys = scene.site().with_file_name("promoter.key");
    std::fs::write(&keys, scene.key()?.to_file())?;
    let site = scene.site();
    let said = zstrap(&[&"promote", &"stable", &"--from", &SMALL, &"--site", &site, &"--key", &keys])?;
    let serial =
        said.split(' ').find_map(|word| word.strip_prefix("serial=")).context("promote says no serial")?;
    scene.add_config("stable", &json!({ "version": 1, "bundle": "stable", "exec": ["/sbin/init"] }))?;
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line(&format!("] list: ok bundle=stable arch={} serial={serial} ", artefacts::arch()))?;
    vm.assert_line("payload: tree=").map(drop)
}
