//! One failed boot after the other: what the machine remembers of it, and when it forgets.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::efi::Firmware;
use zstrap_qemu_tests::site::{SMALL, Scene};
use zstrap_qemu_tests::vm::{Reason, Vm};

/// Emulated EFI firmware is slow.
const EFI_BOUND: Duration = Duration::from_secs(60 + BOUND.as_secs());

/// The first pause is 2 s, less a quarter at most.
const TWICE_TWO: &str = "zstrap.tries=1 zstrap.reboot_after=2";

/// Boots a machine that fails: which boot loop it says, and for how many seconds it pauses.
pub fn fails(firmware: &Firmware, scene: &Scene) -> Result<(u32, u64)> {
    let mut vm = firmware.boots(scene.machine()?.append(TWICE_TWO)).start()?;
    vm.expect_exit(&Reason::Reset, EFI_BOUND)?;
    said(&vm)
}

fn said(vm: &Vm) -> Result<(u32, u64)> {
    let line = vm.assert_line("] fail: rebooting in *s, boot loop ")?.text;
    let words: Vec<&str> = line.split(' ').collect();
    let number = words.last().and_then(|word| word.parse().ok());
    let seconds = words.iter().find_map(|word| word.strip_suffix("s,")?.parse().ok());
    number.zip(seconds).with_context(|| format!("no numbers in {line}"))
}

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
