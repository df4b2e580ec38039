//! The world that the handoff makes for the program that takes over.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zstrap_formats::slot;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::boot::{BOUND, expect_payload};
use zstrap_qemu_tests::site::{FARMER, IMPATIENT, POOL, SMALL, Scene, Tree};
use zstrap_qemu_tests::vm::{Reason, Vm, serial};

/// The values that the payload reported for `key`, in their order.
fn facts(vm: &Vm, key: &str) -> Vec<String> {
    let start = format!("payload: {key}=");
    let lines = vm.console().into_iter();
    lines.filter_map(|line| Some(line.text.strip_prefix(&start)?.to_owned())).collect()
}

fn fact(vm: &Vm, key: &str) -> Result<String> {
    match facts(vm, key).as_slice() {
        [value] => Ok(value.clone()),
        other => Err(vm.failed(&format!("expected one `payload: {key}=` line, found {other:?}"))),
    }
}

/// Asserts that each of `wanted` stands in the reported values, and shows those when one doesn't.
fn contains(vm: &Vm, key: &str, wanted: &[&str]) -> Result<()> {
    let found = facts(vm, key);
    let missing = wanted.iter().find(|wanted| !found.iter().any(|found| found.starts_with(**wanted)));
    ensure!(missing.is_none(), vm.failed(&format!("expected {key} {missing:?} among {found:?}")));
    Ok(())
}

/// Boots the payload with arguments and environment from the config, below a bundle that has its own resolv.conf.
fn boot() -> Result<Vm> {
    let mut scene = Scene::new("handoff-exec")?;
    let tree = Tree::small()?;
    tree.file("etc/resolv.conf", b"# the bundle's own\n", 0o644)?;
    tree.file("etc/hosts", b"192.0.2.1 the-bundles-own\n", 0o644)?;
    scene.publish(&tree, "handoff")?;
    let config = json!({
        "version": 1,
        "bundle": "handoff",
        "exec": ["/start", "one", "two words"],
        "env": { "GREETING": "hello there" },
    });
    scene.add_config("handoff", &config)?;
    expect_payload(scene.machine()?, BOUND)
}

#[test]
fn hands_over_a_clean_world() -> Result<()> {
    let vm = boot()?;
    check_process(&vm)?;
    check_environment(&vm)?;
    check_mounts(&vm)?;
    check_files(&vm)?;
    check_memory(&vm)?;
    check_node_program(&vm)
}

/// PID 1 itself, with nothing open but the console, and every signal as a program expects it.
fn check_process(vm: &Vm) -> Result<()> {
    let values = ["pid", "ppid", "uid", "argv", "cwd", "SigBlk", "SigIgn", "SigCgt"].map(|key| fact(vm, key));
    let values: Vec<String> = values.into_iter().collect::<Result<_>>()?;
    let none = "0000000000000000";
    let wanted = ["1", "0", "0", r#"["/start", "one", "two words"]"#, "/", none, none, none];
    ensure!(values == wanted, vm.failed(&format!("expected {wanted:?}, found {values:?}")));
    let open = facts(vm, "fd");
    let console = |number: usize, link: &str| {
        let target = link.strip_prefix(&format!("{number} -> ")).unwrap_or_default();
        target == "/dev/console" || target == format!("/dev/{}", serial())
    };
    let clean = open.len() == 3 && open.iter().enumerate().all(|(number, link)| console(number, link));
    ensure!(clean, vm.failed(&format!("expected 0, 1 and 2 on the console, found {open:?}")));
    Ok(())
}

fn check_environment(vm: &Vm) -> Result<()> {
    contains(vm, "env", &["GREETING=hello there", "HOME=", "TERM=", "PATH="])?;
    let path = facts(vm, "env").into_iter().find_map(|pair| pair.strip_prefix("PATH=").map(str::to_owned));
    let path = path.unwrap_or_default();
    let folders: BTreeSet<&str> = path.split(':').collect();
    let all = ["/sbin", "/bin", "/usr/bin", "/run/zstrap/bin"].iter().all(|folder| folders.contains(folder));
    ensure!(all, vm.failed(&format!("PATH is {path}")));
    let hostname = fact(vm, "hostname")?;
    ensure!(!hostname.is_empty() && hostname != "(none)", vm.failed("no host name was set"));
    Ok(())
}

/// What the next PID 1 finds mounted, and that the initramfs is out of sight.
fn check_mounts(vm: &Vm) -> Result<()> {
    let mounts: BTreeSet<String> = facts(vm, "mount").iter().map(|line| place_and_type(line)).collect();
    let wanted = [
        "/ tmpfs",
        "/proc proc",
        "/sys sysfs",
        "/dev devtmpfs",
        "/dev/pts devpts",
        "/dev/shm tmpfs",
        "/run tmpfs",
        "/tmp tmpfs",
        "/sys/fs/cgroup cgroup2",
    ];
    let missing = wanted.iter().find(|wanted| !mounts.contains(**wanted));
    ensure!(missing.is_none(), vm.failed(&format!("expected {missing:?} among {mounts:?}")));
    ensure!(
        !mounts.iter().any(|mount| mount.ends_with(" rootfs")),
        vm.failed("the initramfs is still mounted")
    );
    Ok(())
}

/// `DEVICE PLACE TYPE OPTIONS 0 0` as `PLACE TYPE`.
fn place_and_type(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    words.get(1..3).map(|words| words.join(" ")).unwrap_or_default()
}

/// The root holds the bundle and the places for mounts, and no more; the network's files lie over the bundle's.
fn check_files(vm: &Vm) -> Result<()> {
    let found = facts(vm, "root");
    let wanted = ["dev", "etc", "proc", "run", "sbin", "srv", "start", "sys", "tmp", "var"];
    ensure!(found == wanted, vm.failed(&format!("expected {wanted:?} in /, found {found:?}")));
    contains(vm, "resolv", &["nameserver 10.0.2.3"])?;
    contains(vm, "hosts", &["127.0.0.1"])?;
    vm.assert_never("payload: resolv=# the bundle's own")
}

/// All files in RAM together are the bundle, the node program and small facts: the initramfs with its init and
/// kernel modules (more than 2 MiB) is gone.
fn check_memory(vm: &Vm) -> Result<()> {
    let files = fact(vm, "tree")?;
    let bytes =
        files.split(' ').find_map(|word| word.strip_prefix("bytes=")).context("no bytes in the tree")?;
    let node = std::fs::metadata(artefacts::init(artefacts::arch())?)?.len();
    let expected = (bytes.parse::<u64>()? + node) / 1024;
    let found: u64 = fact(vm, "Shmem")?.parse()?;
    let room = 512;
    ensure!(found < expected + room, vm.failed(&format!("{found} KiB of files in RAM, expected {expected}")));
    Ok(())
}

/// `/run/zstrap/bin/zstrap-node` answers for this node.
fn check_node_program(vm: &Vm) -> Result<()> {
    vm.assert_line("payload: node=true")?;
    ensure!(fact(vm, "farmer_id")? == FARMER, vm.failed("wrong farmer id"));
    ensure!(fact(vm, "farmer_id.status")? == "0", vm.failed("get farmer_id failed"));
    ensure!(fact(vm, "get_unknown.status")? != "0", vm.failed("a key that isn't there was got"));
    let info = facts(vm, "info").join("\n");
    let info: Value = serde_json::from_str(&info).with_context(|| format!("facts are not JSON: {info}"))?;
    let told = info.to_string();
    let all = [FARMER, POOL, "handoff", "10.0.2.15"].iter().all(|word| told.contains(word));
    ensure!(all, vm.failed(&format!("facts lack something: {told}")));
    Ok(())
}

#[test]
fn ends_the_boot_when_the_program_is_not_there() -> Result<()> {
    let mut scene = Scene::new("handoff-no-program")?;
    scene.add_config("wrong", &json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/nothing"] }))?;
    let mut vm = scene.machine()?.append(IMPATIENT).start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line("] fail: code=ZS-RUN-01 stage=handoff reason=exec")?;
    vm.assert_line("/sbin/nothing")?;
    vm.assert_line("] fail: rebooting in 1s").map(drop)
}

/// Once the mounts have moved, the files of the bundle stand where the init had its own: another attempt would take
/// what it finds there for its identity.
#[test]
fn makes_no_other_attempt_once_the_root_has_changed() -> Result<()> {
    let mut scene = Scene::new("handoff-no-exec")?;
    let tree = Tree::small()?;
    tree.file("start.txt", b"a text that is no program\n", 0o755)?;
    let mut foreign = scene.identity.clone();
    foreign["farmer_id"] = json!("farmer-of-the-bundle");
    tree.file(slot::SLOT_FILE, &slot::write(foreign.to_string().as_bytes())?, 0o644)?;
    scene.publish(&tree, "text")?;
    scene.add_config("text", &json!({ "version": 1, "bundle": "text", "exec": ["/start.txt"] }))?;

    let mut vm = scene.machine()?.append(IMPATIENT).start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    let refusals = vm.find_all("] handoff: refused reason=exec code=ZS-RUN-02");
    ensure!(refusals.len() == 1, vm.failed("expected one `handoff: refused reason=exec`"));
    vm.assert_line("] fail: because: *Exec format error")?;
    vm.assert_line("] fail: rebooting in 1s")?;
    vm.assert_never("] fail: retry ")?;
    let identities = vm.find_all("] identity: ");
    let own = |text: &str| text.contains("] identity: ok ") && text.contains(&format!("farmer={FARMER} "));
    ensure!(identities.len() == 1, vm.failed("expected one line of the identity"));
    ensure!(own(&identities[0].text), vm.failed("expected the identity of the image"));
    ensure!(scene.server.requests_for("/configs/*/latest").len() <= 2, vm.failed("a second attempt asked"));
    Ok(())
}

#[test]
fn reboots_when_the_program_ends_and_the_kernel_panics() -> Result<()> {
    let mut scene = Scene::new("handoff-program-ends")?;
    scene.publish(&Tree::copy_of("demo-tree")?, "ends")?;
    scene.add_config("ends", &json!({ "version": 1, "bundle": "ends", "exec": ["/bin/false"] }))?;
    // The image says `panic=30`, and what is appended wins.
    let mut vm = scene.machine()?.append("panic=2").start()?;
    vm.expect_exit(&Reason::Panic, BOUND)?;
    let handoff = vm.assert_line("] handoff: exec /bin/false ")?;
    let panic = vm.assert_line("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100")?;
    ensure!(handoff.index < panic.index, vm.failed("the panic came before the handoff"));
    vm.assert_never("] fail:")
}
