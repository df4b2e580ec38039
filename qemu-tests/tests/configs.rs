//! What a config says reaches the programs of the bundle: facts, variables, the overlay network, the bundle itself.
//!
//! The bundle is the demo's (busybox, zinit 0.3.9), or the one with zinit 0.2.0. Its programs talk on the console in
//! lines that begin with `test: `. mycelium is a script that says with which arguments it was started.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal};
use zstrap_qemu_tests::site::{FARMER, POOL, SMALL, Scene, Tree};
use zstrap_qemu_tests::vm::{Reason, Vm};

const KEY: &str = "/var/lib/zstrap-state/mycelium/key";

/// A tree whose program is this shell script; the machine ends with it.
fn scripted(script: &str) -> Result<Tree> {
    let tree = Tree::copy_of("demo-tree")?;
    let script = format!("#!/bin/sh\nexec >/dev/console 2>&1\n{script}\npoweroff -f\n");
    tree.file("test/run", script.as_bytes(), 0o755)?;
    Ok(tree)
}

/// A scene with that tree as a bundle, and a config with these fields more.
fn scene(name: &str, tree: &Tree, fields: Value) -> Result<Scene> {
    let mut scene = Scene::new(name)?;
    scene.publish(tree, "configured")?;
    let mut config = json!({ "version": 1, "bundle": "configured", "exec": ["/test/run"] });
    for (field, value) in fields.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    scene.add_config("configured", &config)?;
    Ok(scene)
}

fn boot(scene: &Scene) -> Result<Vm> {
    let mut vm = scene.machine()?.start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    Ok(vm)
}

/// The one line `test: NAME TEXT`.
fn said(vm: &Vm, name: &str) -> Result<String> {
    let start = format!("test: {name} ");
    let line = vm.assert_line(&start)?;
    Ok(line.text.split_once(&start).map(|(_, text)| text.to_owned()).unwrap_or_default())
}

/// Values that careless quoting spoils.
const ODD: [&str; 8] =
    ["it's", "say \"q\"", "a\\b\\n", "$HOME $(id) `id`", "l1\nl2", " blanks ", "#;&|<>*?[]!~", "gr\u{fc}n"];

#[test]
fn services_know_whose_node_it_is() -> Result<()> {
    let hex = "od -An -v -tx1 | tr -d ' \\n'";
    let mut script = "f=$(zstrap-node get farmer_id)\necho test: farmer $f\n".to_owned();
    for fact in ["farming_pool_id", "description", "registrars", "env.ODD_0"] {
        writeln!(script, "echo \"test: {fact} $(zstrap-node get {fact})\"")?;
    }
    // As a service does it whose environment was thrown away.
    script +=
        "env -i /bin/busybox sh -c 'set -a; . /run/zstrap/environment; exec /bin/busybox env -0' >/tmp/env\n";
    script += "variable() { tr '\\0\\n' '\\n\\1' </tmp/env | sed -n \"s/^$1=//p\" | tr -d '\\n' | tr '\\1' '\\n'; }\n";
    for number in 0..ODD.len() {
        writeln!(script, "echo test: odd{number} $(variable ODD_{number} | {hex})")?;
    }
    for name in ["FARMER_ID", "FARMING_POOL_ID", "REGISTRARS", "BUNDLE", "CONFIG", "DESCRIPTION"] {
        writeln!(script, "echo \"test: {name} $(variable ZSTRAP_{name})\"")?;
    }
    let env: serde_json::Map<String, Value> =
        ODD.iter().enumerate().map(|(number, value)| (format!("ODD_{number}"), json!(value))).collect();
    let registrars = ["https://registrar.example.org/v1", "http://192.0.2.9:8080"];
    let fields = json!({ "description": "Färm of \"tests\"", "registrars": registrars, "env": env, "must_understand": ["registrars"] });
    let vm = boot(&scene("configs-facts", &scripted(&script)?, fields)?)?;
    for name in ["farmer", "FARMER_ID"] {
        ensure!(said(&vm, name)? == FARMER, vm.failed(name));
    }
    for name in ["farming_pool_id", "FARMING_POOL_ID"] {
        ensure!(said(&vm, name)? == POOL, vm.failed(name));
    }
    for name in ["registrars", "REGISTRARS"] {
        ensure!(said(&vm, name)? == registrars.join(" "), vm.failed(name));
    }
    for name in ["description", "DESCRIPTION"] {
        ensure!(said(&vm, name)? == "Färm of \"tests\"", vm.failed(name));
    }
    ensure!((said(&vm, "BUNDLE")?, said(&vm, "CONFIG")?) == ("configured".into(), "configured".into()));
    ensure!(said(&vm, "env.ODD_0")? == ODD[0], vm.failed("env.ODD_0"));
    for (number, value) in ODD.iter().enumerate() {
        let expected = value.bytes().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let found = said(&vm, &format!("odd{number}"))?;
        ensure!(found == expected, vm.failed(&format!("{value:?} came as {found}")));
    }
    Ok(())
}

/// Says how it was started and what its key is like, and stays.
const MYCELIUM: &str = "\
#!/bin/sh
exec >/dev/console 2>&1
echo \"test: mycelium $*\"
while [ $# -gt 0 ]; do [ \"$1\" = --key-file ] && key=$2; shift; done
echo \"test: key $(stat -c '%s %a %u' \"$key\") $(sha256sum <\"$key\")\"
test -c /dev/net/tun && echo test: tun is there
exec sleep 1000
";

/// Two kinds of peers and addresses, and a name of its own.
fn overlay() -> Value {
    json!({
        "peers": ["tcp://192.0.2.7:9651", "quic://[2001:db8::7]:9651"],
        "listen": ["tcp://[::]:9001", "quic://[::]:9002"],
        "interface": "over0",
    })
}

fn arguments(key: &str) -> String {
    format!(
        "--key-file {key} --tun-name over0 --tcp-listen-port 9001 --quic-listen-port 9002 \
         --peers tcp://192.0.2.7:9651 quic://[2001:db8::7]:9651"
    )
}

/// Waits for mycelium, and gives its key's line.
fn started(vm: &Vm) -> Result<String> {
    vm.wait_line("test: tun is there", BOUND)?;
    ensure!(said(vm, "mycelium")? == arguments(KEY), vm.failed("other arguments"));
    let key = said(vm, "key")?;
    ensure!(key.starts_with("32 600 0 "), vm.failed("the key is not 32 bytes for root alone"));
    Ok(key)
}

/// The demo's zinit as it runs everywhere, with a mycelium.
fn zinit_0_3() -> Result<(Tree, Value)> {
    let tree = Tree::copy_of("demo-tree")?;
    tree.remove("etc/zinit/services")?;
    tree.file("usr/bin/mycelium", MYCELIUM.as_bytes(), 0o755)?;
    let server = ["/sbin/zinit-server", "--config-dir", "/etc/zinit/services", "--socket", "/run/zinit.sock"];
    let fields = json!({ "exec": server, "supervise": true, "mycelium": overlay(), "must_understand": ["mycelium.peers"] });
    Ok((tree, fields))
}

#[test]
fn mycelium_runs_under_zinit_0_3_with_a_new_key_at_each_boot_in_ram() -> Result<()> {
    let (tree, fields) = zinit_0_3()?;
    let scene = scene("configs-mycelium", &tree, fields)?;
    let first = scene.machine()?.start()?;
    let key = started(&first)?;
    first.assert_line(
        "] mycelium: key made path=/var/lib/zstrap-state/mycelium/key lasts=no: new at each boot",
    )?;
    first.assert_line(
        "] mycelium: service path=/etc/zinit/services/mycelium.toml program=/usr/bin/mycelium",
    )?;
    drop(first);
    let second = scene.machine()?.start()?;
    ensure!(started(&second)? != key, second.failed("the same key again"));
    Ok(())
}

#[test]
fn the_key_of_mycelium_stays_on_a_disk_even_if_the_power_fails() -> Result<()> {
    let (tree, mut fields) = zinit_0_3()?;
    fields["root"] = json!({ "size": "128MiB" });
    let scene = scene("configs-mycelium-disk", &tree, fields)?;
    let disk = scene.disk("state", 256 << 20)?;
    let first = scene.machine()?.disk(&disk).start()?;
    let key = started(&first)?;
    first.assert_line(&format!("] mycelium: key made path={KEY} lasts=yes"))?;
    // Killed, not switched off.
    drop(first);
    let second = scene.machine()?.disk(&disk).start()?;
    ensure!(started(&second)? == key, second.failed("another key"));
    second.assert_line(&format!("] mycelium: key kept path={KEY} lasts=yes"))?;
    drop(second);
    // Whoever is root on the node may put anything there. It stays for people to look at, and the node has another key.
    disk.debugfs_write(&disk.ours()?, "rm /state/mycelium/key")?;
    disk.debugfs_write(&disk.ours()?, "symlink /state/mycelium/key /etc/shadow")?;
    let third = scene.machine()?.disk(&disk).start()?;
    third.wait_line("test: tun is there", BOUND)?;
    third.assert_line("] mycelium: key made path=/run/zstrap/mycelium.key lasts=no why=")?;
    ensure!(
        said(&third, "mycelium")? == arguments("/run/zstrap/mycelium.key"),
        third.failed("other arguments")
    );
    let other = said(&third, "key")?;
    ensure!(other.starts_with("32 600 0 ") && other != key, third.failed("no key of its own"));
    Ok(())
}

#[test]
fn mycelium_runs_under_zinit_0_2_as_process_1() -> Result<()> {
    let tree = Tree::copy_of("zinit2-tree")?;
    tree.file("usr/bin/mycelium", MYCELIUM.as_bytes(), 0o755)?;
    let probe = "#!/bin/sh\nexec >/dev/console 2>&1\n\
                 echo \"test: pid1 $(tr '\\0' ' ' </proc/1/cmdline)\"\n(sleep 0.3 &)\nsleep 1\n\
                 echo \"test: zombies $(cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z')\"\n\
                 echo \"test: variable $GREETING\"\n\
                 echo \"test: lease $(ps | grep -c '[z]strap-node lease')\"\n";
    tree.file("test/probe", probe.as_bytes(), 0o755)?;
    tree.file(
        "etc/zinit/probe.yaml",
        b"exec: /test/probe\noneshot: true\nafter: [mycelium, lease]\n",
        0o644,
    )?;
    let fields = json!({ "exec": ["/sbin/zinit", "start"], "mycelium": overlay(), "env": { "GREETING": "hello there" } });
    let scene = scene("configs-zinit-0-2", &tree, fields)?;
    let vm = scene.machine()?.start()?;
    started(&vm)?;
    vm.assert_line("] mycelium: service path=/root/hero/cfg/zinit/mycelium.yaml program=/usr/bin/mycelium")?;
    vm.wait_line("test: lease 1", BOUND)?;
    ensure!(said(&vm, "pid1")? == "/sbin/zinit start ", vm.failed("another process 1"));
    ensure!(said(&vm, "zombies")? == "0", vm.failed("orphans are not reaped"));
    ensure!(said(&vm, "variable")? == "hello there", vm.failed("another environment"));
    Ok(())
}

#[test]
fn a_service_of_the_bundle_stays_and_finds_the_key() -> Result<()> {
    let (tree, fields) = zinit_0_3()?;
    let own =
        format!("[service]\nname = \"mycelium\"\nexec = \"exec /usr/bin/mycelium --key-file {KEY} --own\"\n");
    tree.file("etc/zinit/services/mycelium.toml", own.as_bytes(), 0o644)?;
    let scene = scene("configs-own-service", &tree, fields)?;
    let vm = scene.machine()?.start()?;
    vm.wait_line("test: tun is there", BOUND)?;
    ensure!(said(&vm, "mycelium")? == format!("--key-file {KEY} --own"), vm.failed("other arguments"));
    vm.assert_line("] mycelium: service path=/etc/zinit/services/mycelium.toml: that of the bundle stays")?;
    Ok(())
}

#[test]
fn what_cannot_be_started_is_said_and_stops_no_boot() -> Result<()> {
    let report = format!(
        "test -e {KEY} || echo test: no key\nls /etc/zinit/services/mycelium.* || echo test: no service"
    );
    let tree = scripted(&report)?;
    let vm = boot(&scene("configs-no-mycelium", &tree, json!({ "mycelium": overlay() }))?)?;
    vm.assert_line("] mycelium: not started why=\"the bundle has no program mycelium in /usr/local/sbin ")?;
    vm.assert_line("test: no key")?;
    vm.assert_line("test: no service")?;
    // The program is there, but nobody who would start it.
    tree.remove("etc/zinit/services")?;
    tree.file("sbin/mycelium", MYCELIUM.as_bytes(), 0o755)?;
    let vm = boot(&scene("configs-no-zinit", &tree, json!({ "mycelium": overlay() }))?)?;
    vm.assert_line("] mycelium: not started why=\"exec is no zinit, and the bundle has no services in ")?;
    vm.assert_line("test: no service")?;
    vm.assert_never("test: no key")
}

#[test]
fn the_image_and_the_command_line_choose_among_the_bundles_of_the_config() -> Result<()> {
    let mut scene = Scene::new("configs-bundle")?;
    let other = Tree::payload()?;
    other.file("etc/other", b"the other one\n", 0o644)?;
    scene.publish(&other, "other")?;
    let config = json!({ "version": 1, "bundle": SMALL, "bundles": ["other"], "exec": ["/sbin/init"] });
    scene.add_config("two", &config)?;
    scene.identity["bundle"] = json!("other");
    let vm = expect_payload(scene.machine()?, BOUND)?;
    vm.assert_line("] list: ok bundle=other ")?;
    vm.assert_line(&format!("payload: tree={}", other.fingerprint()?))?;
    let vm = expect_payload(scene.machine()?.append(&format!("zstrap.bundle={SMALL}")), BOUND)?;
    vm.assert_line(&format!("] list: ok bundle={SMALL} "))?;
    scene.identity["bundle"] = json!("third");
    let vm = expect_refusal(&scene, "config", "wrong-bundle")?;
    vm.assert_line("the image's bundle third is not among the bundles of the config: small other").map(drop)
}
