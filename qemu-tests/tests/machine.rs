//! The machine itself: what later tests rely on when they wait for a line or for an end.
//!
//! The payload stands in the initramfs as `/init` here; nothing of zstrap's own boot is involved.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;
use zstrap_formats::cpio::Archive;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::vm::{Reason, Vm, VmBuilder, serial};

/// A kernel reaches its `/init` in two to three seconds here.
const BOOT: Duration = Duration::from_secs(60);

/// An initramfs whose `/init` is the payload.
fn initramfs(folder: &TempDir) -> Result<PathBuf> {
    let payload = artefacts::payload()?;
    let mut archive = Archive::new();
    archive.dir("dev", 0o755)?;
    archive.char_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, &std::fs::read(payload)?)?;
    let path = folder.path().join("initramfs");
    std::fs::write(&path, archive.finish(4))?;
    Ok(path)
}

fn boot(name: &str, words: &str) -> Result<(TempDir, Vm)> {
    let folder = tempfile::tempdir()?;
    let initramfs = initramfs(&folder)?;
    let machine = VmBuilder::new(name, &artefacts::kernel()?, &initramfs);
    Ok((folder, machine.append(&format!("console={} quiet panic=-1", serial())).append(words).start()?))
}

#[test]
fn reports_lines_and_power_off() -> Result<()> {
    let (_folder, mut vm) = boot("machine-reports", "")?;
    let pid = vm.wait_line("payload: pid=1", BOOT)?;
    let end = vm.wait_line_after(&pid, "payload: end", BOOT)?;
    assert!(pid.index < end.index && pid.at <= end.at);
    vm.expect_exit(&Reason::PowerOff, BOOT)?;
    vm.assert_line("payload: argv=*/init")?;
    vm.assert_never("payload: waiting")
}

#[test]
fn tells_a_panic_from_a_reset() -> Result<()> {
    // The kernel can't run a program that isn't there, and panics; the command line has it reset the machine then.
    let (_folder, mut vm) = boot("machine-panics", "rdinit=/none root=/dev/none")?;
    vm.expect_exit(&Reason::Panic, BOOT).map(drop)
}

#[test]
fn gives_up_at_the_deadline_and_keeps_the_console() -> Result<()> {
    let (_folder, mut vm) = boot("machine-waits", "zstrap.payload=wait")?;
    vm.wait_line("payload: waiting", BOOT)?;
    let begun = Instant::now();
    let error =
        vm.wait_line("never printed", Duration::from_secs(1)).err().context("found what isn't there")?;
    assert!(begun.elapsed() < artefacts::patience(Duration::from_secs(10)));
    assert!(error.to_string().contains("no line `never printed` within"), "{error}");
    assert!(error.to_string().contains("payload: waiting"), "the error shows the console: {error}");
    let told = error.to_string();
    let kept = told.rsplit_once("(whole console in ").and_then(|(_, file)| file.strip_suffix(')'));
    let kept = std::fs::read_to_string(kept.with_context(|| format!("no file in {told}"))?)?;
    assert!(kept.contains("payload: waiting"), "{kept}");
    let still = vm.wait_exit(Duration::from_secs(1)).err().context("ended although it waits")?;
    assert!(still.to_string().contains("the machine still ran after"), "{still}");
    Ok(())
}

#[test]
fn fails_at_once_when_the_machine_has_ended() -> Result<()> {
    let (_folder, vm) = boot("machine-ends", "")?;
    let begun = Instant::now();
    let error =
        vm.wait_line("never printed", Duration::from_secs(600)).err().context("found what isn't there")?;
    assert!(begun.elapsed() < artefacts::patience(BOOT));
    assert!(error.to_string().contains("the machine ended without a line `never printed`"), "{error}");
    Ok(())
}

#[test]
fn plugs_and_steers_over_qmp() -> Result<()> {
    let (_folder, mut vm) = boot("machine-steered", "zstrap.payload=wait")?;
    vm.wait_line("payload: waiting", BOOT)?;
    vm.set_link("nic0", false)?;
    let error = vm.set_link("nic7", false).err().context("set the link of a card that isn't there")?;
    assert!(error.to_string().contains("QMP set_link refused"), "{error}");
    vm.execute("system_reset", serde_json::json!({}))?;
    let exit = vm.wait_exit(BOOT)?;
    // A reset from outside is not one of the guest's own.
    assert_eq!(exit.reason, Reason::Other("host-qmp-system-reset".to_owned()));
    Ok(())
}
