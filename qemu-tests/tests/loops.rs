//! One failed boot after the other: what the machine remembers of it, and when it forgets.

use anyhow::{Result, bail, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::expect_payload;
use zstrap_qemu_tests::efi::{EFI_BOUND, Firmware, fails};
use zstrap_qemu_tests::site::{SMALL, Scene};

#[test]
fn pauses_longer_from_one_failed_boot_to_the_next_until_one_succeeds() -> Result<()> {
    let (firmware, mut scene) = (Firmware::new()?, Scene::new("loops-efi")?);
    scene.add_config("wrong", &json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/nothing"] }))?;
    let failed = [fails(&firmware, &scene)?, fails(&firmware, &scene)?];
    let [(1, 1..=2), (2, 3..=4)] = failed else { bail!("{failed:?}") };
    scene.use_config(SMALL);
    expect_payload(firmware.boots(scene.machine()?), EFI_BOUND)?;
    scene.use_config("wrong");
    let after = fails(&firmware, &scene)?;
    ensure!(after.0 == 1, "{after:?}");
    Ok(())
}
