//! Servers that speak TLS: whose certificates are taken, and what is said of the others.

use anyhow::Result;
use serde_json::json;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal};
use zstrap_qemu_tests::http::Place;
use zstrap_qemu_tests::site::{Scene, now};
use zstrap_qemu_tests::tls::{Authority, Key};
use zstrap_qemu_tests::vm::HOST;

/// The name that a good certificate has here.
fn right_name() -> String {
    format!("IP:{HOST}")
}

/// A scene behind a certificate of 30 days on both sides of now.
fn scene(name: &str, authority: &Authority, names: &str) -> Result<Scene> {
    let mut scene = Scene::at(name, Place::user().tls(authority.server(names)?))?;
    scene.identity["ca"] = json!(authority.pem()?);
    Ok(scene)
}

fn boots(name: &str, key: Key) -> Result<()> {
    let scene = scene(name, &Authority::new(key)?, &right_name())?;
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line(&format!("] network: online server=https://{HOST}:"))?;
    vm.assert_never("] fail:")
}

#[test]
fn boots_over_https_with_rsa() -> Result<()> {
    boots("tls-rsa", Key::Rsa)
}

#[test]
fn boots_over_https_with_an_elliptic_curve() -> Result<()> {
    boots("tls-ec", Key::Ec)
}

/// Refused in the network stage for this code, with words that name what is wrong with the certificate.
fn refused(scene: &Scene, code: &str, words: &str) -> Result<()> {
    let vm = expect_refusal(scene, "network", code)?;
    vm.assert_line(&format!("] fail: because: no server answered: *{words}")).map(drop)
}

#[test]
fn refuses_a_certificate_that_has_expired() -> Result<()> {
    let authority = Authority::new(Key::Ec)?;
    let ago = |days: u64| -> Result<Timestamp> { Ok(Timestamp::from_unix(now()?.unix() - days * DAY)?) };
    let expired = authority.server_between(&right_name(), ago(60)?, ago(30)?)?;
    let mut scene = Scene::at("tls-expired", Place::user().tls(expired))?;
    scene.identity["ca"] = json!(authority.pem()?);
    refused(&scene, "ZS-SRV-09", "expired: valid until ")
}

#[test]
fn refuses_the_certificate_of_another_host() -> Result<()> {
    refused(&scene("tls-name", &Authority::new(Key::Ec)?, "DNS:other.test")?, "ZS-SRV-08", "wrong name: ")
}

#[test]
fn refuses_a_certificate_of_an_unknown_authority() -> Result<()> {
    let mut scene = scene("tls-unknown", &Authority::new(Key::Ec)?, &right_name())?;
    scene.identity["ca"] = json!(Authority::new(Key::Ec)?.pem()?);
    refused(&scene, "ZS-SRV-06", "unknown CA")
}

/// An image without a CA of its own trusts the public ones.
#[test]
fn refuses_a_certificate_of_no_public_authority() -> Result<()> {
    let mut scene = scene("tls-public", &Authority::new(Key::Ec)?, &right_name())?;
    if let Some(identity) = scene.identity.as_object_mut() {
        identity.remove("ca");
    }
    refused(&scene, "ZS-SRV-06", "unknown CA")
}
