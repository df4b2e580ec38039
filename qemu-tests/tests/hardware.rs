//! What a machine can lack, or do to the init: each case with the line that a person reads, how the machine ends, and
//! within how many seconds.
//!
//! A program that is missing, that is a text, or that ends at once, is in `handoff`; one that ends again and again under
//! `supervise` in `supervise` and `endures`, which also has machines without a network card that can be used: they are
//! waited for.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use zstrap_formats::name::Arch;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal_by};
use zstrap_qemu_tests::site::{IMPATIENT, Scene, Tree};
use zstrap_qemu_tests::vm::Reason;

const MIB: u64 = 1 << 20;

/// `NAME: MIB => LINE, SECONDS;` a machine with so much memory boots the small bundle.
macro_rules! memory {
    ($($name:ident: $mib:literal => $line:literal, $seconds:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            let scene = Scene::new(&stringify!($name).replace('_', "-"))?;
            let vm = expect_payload(scene.machine()?.memory_mib($mib), Duration::from_secs($seconds))?;
            vm.assert_never("] early: little memory")?;
            let told = vm.assert_line($line)?.text;
            let available = told.split("available=").nth(1).and_then(|text| text.split("MiB").next());
            let available: u32 = available.context("no figure in MiB")?.parse()?;
            // Kernel and initramfs have taken some of it.
            assert!(available > $mib / 4 && available < $mib, "{told}");
            Ok(())
        })*
    };
}

memory! {
    hardware_192_mib: 192 => "] root: memory need=33MiB available=", 60;
    hardware_128_mib: 128 => "] root: memory need=33MiB available=", 60;
}

/// Too little for the kernel of Debian, the init and any file, which is told before the network is looked for; need and
/// size for this bundle before any of its files is asked for.
#[test]
fn hardware_96_mib() -> Result<()> {
    // Debian's kernel for arm64 takes less.
    let memory = match artefacts::arch() {
        Arch::Amd64 => 96,
        Arch::Arm64 => 80,
    };
    let scene = Scene::new("hardware-96-mib")?;
    let vm = expect_refusal_by(scene.machine()?.memory_mib(memory), "root", "ZS-MEM-01", BOUND)?;
    let told = vm.assert_line("] early: little memory need=32MiB available=")?;
    assert!(told.index < vm.assert_line("] network: lease ")?.index);
    vm.assert_line("] root: memory need=33MiB available=")?;
    vm.assert_line("] fail: because: bundle needs 33 MiB of memory, ")?;
    assert!(scene.server.requests_for("/blobs/*").is_empty(), "asked for files that do not fit");
    Ok(())
}

/// The budget: 128 MiB, and the files.
#[test]
fn demo_boots_in_128_mib_and_its_files() -> Result<()> {
    const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/demo/config.json");
    let mut scene = Scene::new("hardware-demo")?;
    let tree = Tree::copy_of("demo-tree")?;
    scene.publish_packed(&tree, "demo")?;
    scene.add_config("demo", &serde_json::from_slice(&std::fs::read(CONFIG)?)?)?;
    let memory = u32::try_from(128 + tree.size()?.div_ceil(MIB))?;
    let initramfs = scene.image()?.join("initramfs");
    let initramfs = std::fs::metadata(&initramfs).with_context(|| initramfs.display().to_string())?.len();
    println!("demo: memory={memory}MiB files={} initramfs={initramfs}", tree.size()?);
    let mut vm = scene.machine()?.append("demo.poweroff").memory_mib(memory).start()?;
    vm.wait_line("demo: end", BOUND)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_never("Out of memory")?;
    let line = vm.assert_line("] root: memory need=")?;
    println!("{line}");
    vm.assert_never("] fail:")
}

/// More than a machine ever has, in entries without content: half of them files, the others links.
#[test]
fn list_of_100000_entries() -> Result<()> {
    const LINKS: usize = 49_000;
    let mut scene = Scene::new("hardware-list")?;
    let tree = Tree::payload()?;
    for folder in 0..100 {
        tree.folder(&format!("srv/{folder}"))?;
        for number in 0..LINKS / 100 {
            tree.file(&format!("srv/{folder}/file-{number}"), b"", 0o644)?;
            tree.link(&format!("srv/{folder}/link-{number}"), &format!("file-{number}"))?;
        }
        for number in 0..20 {
            tree.file(&format!("srv/{folder}/more-{number}"), b"", 0o644)?;
        }
    }
    scene.publish(&tree, "many")?;
    scene.add_config("many", &json!({ "version": 1, "bundle": "many", "exec": ["/sbin/init"] }))?;
    let vm = expect_payload(scene.machine()?, Duration::from_secs(180))?;
    for line in ["] list: ok *entries=100", "] root: memory need=13", "] fetch: done files=51001 requests=1 "]
    {
        println!("{}", vm.assert_line(line)?);
    }
    vm.assert_line(&format!("payload: tree={}", tree.fingerprint()?))?;
    vm.assert_never("] fail:")
}

/// What stands where the program should, with the line that says so.
fn program(name: &str, bytes: &[u8], mode: u32, because: &str) -> Result<()> {
    let mut scene = Scene::new(&format!("hardware-{name}"))?;
    let tree = Tree::small()?;
    tree.file("sbin/program", bytes, mode)?;
    scene.publish(&tree, "program")?;
    scene.add_config("program", &json!({ "version": 1, "bundle": "program", "exec": ["/sbin/program"] }))?;
    let mut vm = scene.machine()?.append(IMPATIENT).start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line(because)?;
    vm.assert_line("] fail: not done: the program of the config did not take over")?;
    vm.assert_line("] fail: rebooting in 1s")?;
    vm.assert_never("payload:")
}

#[test]
fn program_that_is_not_executable() -> Result<()> {
    let payload = std::fs::read(artefacts::payload()?)?;
    let line = "] fail: because: /sbin/program is not an executable file of the bundle";
    program("not-executable", &payload, 0o644, line)
}

/// The payload with the machine of its header (`e_machine`) that of the other architecture: EM_AARCH64, EM_X86_64.
#[test]
fn program_of_another_architecture() -> Result<()> {
    let mut payload = std::fs::read(artefacts::payload()?)?;
    payload[18] = match artefacts::arch() {
        Arch::Amd64 => 183,
        Arch::Arm64 => 62,
    };
    program("other-arch", &payload, 0o755, "] fail: because: running /sbin/program: Exec format error")
}

#[test]
fn boots_with_closed_descriptors() -> Result<()> {
    let vm = expect_payload(Scene::new("hardware-closed")?.machine()?.before("closed-descriptors"), BOUND)?;
    vm.assert_line("before: closed-descriptors")?;
    // The program of the config has all three, on the console.
    for fd in 0..3 {
        vm.assert_line(&format!("payload: fd={fd} -> /dev/console"))?;
    }
    Ok(())
}

#[test]
fn boots_without_a_console_node() -> Result<()> {
    let scene = Scene::new("hardware-no-node")?;
    let mut vm = scene.machine()?.before("no-console").before("closed-descriptors").start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    // What the payload reports went to /dev/null; it was there all the same, and switched the power off.
    vm.assert_line("] handoff: ")?;
    vm.assert_never("payload:")
}

#[test]
fn boots_without_any_console() -> Result<()> {
    let scene = Scene::new("hardware-no-console")?;
    let machine = scene.machine()?.without_consoles().without_serial();
    let mut vm = machine.before("no-console").before("closed-descriptors").start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    assert!(vm.console().is_empty(), "{:?}", vm.console());
    // It was the program of the bundle that switched the power off.
    assert!(!scene.server.requests_for("/blobs/*").is_empty(), "no file was asked for");
    Ok(())
}

/// Nobody has named a console, but there is a serial port.
#[test]
fn is_heard_on_a_serial_port_that_nobody_named() -> Result<()> {
    let scene = Scene::new("hardware-unnamed-console")?;
    let mut vm = scene.machine()?.without_consoles().before("no-console").start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line("] handoff: exec /sbin/init ").map(drop)
}

/// On the serial port, on the screen in place of the picture, and in the kernel log, which this kernel prints whole.
#[test]
fn panic_of_the_init_is_told_everywhere_and_ends_in_a_reboot() -> Result<()> {
    let mut scene = Scene::new("hardware-panic")?;
    scene.server.pause();
    let machine = scene.machine()?.append("ignore_loglevel zstrap.reboot_after=20").with_screen();
    let mut vm = machine.before("panic:1").start()?;
    vm.wait_line("before: done threads=1", BOUND)?;
    vm.wait_line("] fail: code=ZS-BUG-01 stage=init reason=panic", Duration::from_secs(10))?;
    vm.wait_line("] zstrap: fail: because: panicked at", Duration::from_secs(10))?;
    vm.wait_line("] fail: rebooting in ", Duration::from_secs(10))?;
    vm.wait_screen(&["fail: code=ZS-BUG-01", "fail: because: panicked at"], Duration::from_secs(10))?;
    vm.assert_line("] fail: because: panicked at")?;
    vm.expect_exit(&Reason::Reset, BOUND).map(drop)
}

#[test]
fn without_threads_it_says_so_and_does_not_panic() -> Result<()> {
    let scene = Scene::new("hardware-threads")?;
    let vm = expect_refusal_by(scene.machine()?.before("no-threads"), "network", "no-server", BOUND)?;
    vm.assert_line("] fail: because: *: no thread to ask it: Resource temporarily unavailable")?;
    vm.assert_never("reason=panic")
}

/// What other tests rely on when they stop an init: it stands still, and so does the machine.
#[test]
fn stopped_init_stands_still() -> Result<()> {
    for mode in ["stop:0", "stop-main:0"] {
        let vm = Scene::new("hardware-stopped")?.machine()?.before(mode).start()?;
        vm.wait_line("before: done threads=*", BOUND)?;
        let moved = vm.wait_line("payload: end", Duration::from_secs(10));
        assert!(moved.is_err(), "{mode}: {moved:?}");
    }
    Ok(())
}
