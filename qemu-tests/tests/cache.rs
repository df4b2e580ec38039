//! A root on disk: what is kept from one boot to the next, what is not, and boots without a server.
//!
//! Each machine runs a script of the bundle, which says what it sees and does what `test=` of the kernel command line
//! says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::disk::Disk;
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{Scene, Tree, now};
use zstrap_qemu_tests::vm::{Reason, Vm, VmBuilder};

/// The bundle and the config.
const KEPT: &str = "kept";
const MIB: u64 = 1 << 20;

/// What the machines run. Everything that only one boot may see is written below /tmp.
const SCRIPT: &str = r#"#!/bin/sh
mode=$(sed -n 's/.*test=\([a-z]*\).*/\1/p' /proc/cmdline)
node=/run/zstrap/bin/zstrap-node
echo "test: root=$($node get root) source=$($node get source) why=$($node get root_why)"
echo "test: version=$(cat /etc/version)"
echo "test: state=$(cat /var/lib/zstrap-state/kept 2>/dev/null)"
# A service that goes on with its log, which is another name of a content, if that was believed.
test -e /var/lib/zstrap-state/app.log && echo 'LINKED 1' >/var/lib/zstrap-state/app.log
echo "test: linked=$(cat /etc/linked)"
grep -e ' / ' -e ' /var/lib/zstrap-state ' /proc/mounts | sed 's/^/test: mount /'
for planted in /etc/zinit/evil.yaml /etc/ld.so.preload /evil; do
    test -e $planted && echo "test: planted $planted"
done
ls -d /sha256 /disk /layers 2>/dev/null | sed 's/^/test: visible /'
disk() { busybox mkdir -p /tmp/disk; busybox mount -t ext4 /dev/vda1 /tmp/disk; }
case $mode in
write)
    echo once >/var/lib/zstrap-state/kept
    ;;
tar)
    # Without what is mounted on it.
    busybox mkdir /tmp/root
    busybox mount -o bind / /tmp/root
    busybox tar -C /tmp/root -cf /dev/vdb . && echo "test: tar written"
    ;;
plant)
    mkdir -p /etc/zinit
    echo 'exec: /evil' >/etc/zinit/evil.yaml
    echo /evil.so >/etc/ld.so.preload
    cp /bin/busybox /evil
    echo changed >/etc/version
    disk
    cd /tmp/disk/site
    # The content of /etc/version, by one of the same length.
    for content in $(grep -l '^version ' blobs/sha256/*); do echo 'VERSION 1' >$content; done
    echo '{"version":1}' >configs/kept/99999999999.json
    cp configs/kept/*.json.minisig configs/kept/99999999999.json.minisig
    for signature in bundles/kept/*/*.mtree.minisig; do
        cp $signature ${signature%/*}/99999999999.mtree.minisig
    done
    mkdir -p $(echo bundles/kept/*)/99999999999.mtree etc/zinit ../etc/zinit
    # What the kernel would show in the root, and what a service may write to.
    mkdir -p blobs/etc
    echo /evil.so >blobs/etc/ld.so.preload
    cp /bin/busybox blobs/evil
    ln -f $(grep -l '^linked ' blobs/sha256/*) ../state/app.log
    chmod 666 ../state/app.log
    echo 'exec: /evil' | tee etc/zinit/evil.yaml >../etc/zinit/evil.yaml
    ln -sf /etc/shadow blobs/sha256/evil
    echo 'exec: /evil' >/var/lib/zstrap-state/evil.yaml
    ;;
esac
sync
echo "test: end"
poweroff -f
"#;

/// A scene with a bundle of the script, a config that wants a disk, and a disk.
struct World {
    scene: Scene,
    tree: Tree,
    disk: Disk,
}

impl World {
    fn new(name: &str, root: &Value) -> Result<Self> {
        let mut scene = Scene::new(name)?;
        let tree = Tree::copy_of("demo-tree")?;
        tree.file("test", SCRIPT.as_bytes(), 0o755)?;
        tree.file("etc/version", b"version 1\n", 0o644)?;
        tree.file("etc/linked", b"linked 1\n", 0o644)?;
        for folder in ["dev", "proc", "sys", "run", "tmp", "var/lib/zstrap-state"] {
            tree.folder(folder)?;
        }
        scene.publish(&tree, KEPT)?;
        scene.add_config(KEPT, &config(root))?;
        let disk = scene.disk("kept", 256 * MIB)?;
        Ok(Self { scene, tree, disk })
    }

    /// Boots to the end of the script.
    fn boot(&self, mode: &str) -> Result<Vm> {
        self.boot_by(self.scene.machine()?, mode)
    }

    fn boot_by(&self, machine: VmBuilder, mode: &str) -> Result<Vm> {
        let mut vm = machine.append(&format!("test={mode}")).disk(&self.disk).start()?;
        vm.expect_exit(&Reason::PowerOff, BOUND)?;
        vm.assert_line("test: end")?;
        Ok(vm)
    }

    /// Publishes the next version, which differs in one file.
    fn update(&self, version: u32) -> Result<()> {
        self.tree.file("etc/version", format!("version {version}\n").as_bytes(), 0o644)?;
        self.scene.publish(&self.tree, KEPT)
    }

    /// How many requests for blobs came since then.
    fn blobs_since(&self, before: usize) -> usize {
        let asked = self.scene.server.requests();
        asked[before..].iter().filter(|request| request.path.starts_with("/blobs/")).count()
    }
}

fn config(root: &Value) -> Value {
    json!({ "version": 1, "bundle": KEPT, "exec": ["/test"], "root": root })
}

/// Makes our partition as the init would, with the tools of the host.
fn partition(disk: &Disk, mib: u64) -> Result<()> {
    let kind = zstrap_formats::gpt::OUR_TYPE.to_string();
    let ours = disk.partition(&kind, zstrap_formats::gpt::OUR_NAME)?;
    let offset = format!("offset={}", ours.bytes.start);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-E", &offset])
        .arg(disk.path())
        .arg(format!("{mib}M"))
        .output()
        .context("running mkfs.ext4")?;
    ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

fn wants_disk() -> Value {
    json!({ "size": "128MiB" })
}

const ON_DISK: &str = "test: root=disk source=server why=";
const FROM_DISK: &str = "test: root=disk source=disk why=";

#[test]
fn a_warm_boot_fetches_list_and_config_only_and_an_update_what_has_changed() -> Result<()> {
    let world = World::new("cache-warm", &wants_disk())?;
    let cold = world.boot("write")?;
    cold.assert_line(ON_DISK)?;
    cold.assert_line("] cache: kept config=")?;
    cold.assert_line("test: mount overlay / overlay rw,")?;
    cold.assert_line("test: mount /dev/vda1 /var/lib/zstrap-state ext4 rw,nosuid,nodev,noexec,")?;
    cold.assert_never("test: visible ")?;
    ensure!(world.blobs_since(0) > 2, cold.failed("the first boot fetched nothing"));
    let before = world.scene.server.requests().len();
    let warm = world.boot("read")?;
    warm.assert_line(ON_DISK)?;
    warm.assert_line("test: state=once")?;
    warm.assert_line("] fetch: done files=*requests=0 ")?;
    let asked: Vec<String> =
        world.scene.server.requests()[before..].iter().map(|request| request.path.clone()).collect();
    let is_wanted = |path: &String| path.starts_with("/configs/") || path.starts_with("/bundles/");
    ensure!(asked.iter().all(is_wanted), warm.failed(&format!("a warm boot asked for {asked:?}")));
    let before = world.scene.server.requests().len();
    world.update(2)?;
    let updated = world.boot("read")?;
    updated.assert_line("test: version=version 2")?;
    updated.assert_line("test: state=once")?;
    ensure!(world.blobs_since(before) == 1, updated.failed("more than the changed file was fetched"));
    world.disk.check(&world.disk.ours()?)
}

#[test]
fn the_running_root_is_exactly_the_list() -> Result<()> {
    let world = World::new("cache-mtree", &wants_disk())?;
    world.boot("read")?;
    let tar = world.scene.disk("tar", 64 * MIB)?;
    let mut vm = world.scene.machine()?.append("test=tar").disk(&world.disk).disk(&tar).start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_line("test: tar written")?;
    vm.assert_line(ON_DISK)?;
    judge(&world.scene, tar.path())
}

/// What `mtree` says of the tree in this archive and the list of the site.
fn judge(scene: &Scene, tar: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unpacked = Command::new("tar").arg("-C").arg(folder.path()).arg("-xpf").arg(tar).output()?;
    ensure!(unpacked.status.success(), "tar: {}", String::from_utf8_lossy(&unpacked.stderr));
    let list = scene.site().join(scene.list(KEPT)?);
    let judged = Command::new("mtree").arg("-p").arg(folder.path()).arg("-f").arg(list).output()?;
    let said = String::from_utf8_lossy(&judged.stdout);
    ensure!(judged.status.success() && said.is_empty(), "mtree {}: {said}", judged.status);
    Ok(())
}

#[test]
fn without_a_server_the_last_good_list_boots_while_it_has_not_expired() -> Result<()> {
    let mut world = World::new("cache-offline", &wants_disk())?;
    world.boot("write")?;
    world.scene.server.pause();
    let vm = world.boot("read")?;
    vm.assert_line("] boot: from disk config=*why=no-server")?;
    vm.assert_line(FROM_DISK)?;
    vm.assert_line("test: state=once")?;
    vm.assert_line("] network: without server link=eth0 ")?;
    let late = Timestamp::from_unix(now()?.unix() + 93 * DAY)?;
    let machine = world.scene.machine()?.clock(late).append("zstrap.tries=1 zstrap.reboot_after=1");
    let mut vm = machine.disk(&world.disk).start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line("] list: failed reason=expired ")?;
    vm.assert_line("] network: refused reason=no-server ")?;
    // There is no EFI here: it is the disk that counts.
    vm.assert_line("] fail: rebooting in 1s, boot loop 1")?;
    vm.assert_never("test: root=")
}

#[test]
#[ignore = "long: make test-all"]
fn with_offline_grace_a_list_boots_for_so_long_after_it_has_expired() -> Result<()> {
    let mut world = World::new("cache-grace", &json!({ "size": "128MiB", "offline_grace": "7d" }))?;
    world.boot("read")?;
    world.scene.server.pause();
    let at = |days: u64| -> Result<VmBuilder> {
        Ok(world.scene.machine()?.clock(Timestamp::from_unix(now()?.unix() + days * DAY)?))
    };
    world.boot_by(at(96)?, "read")?.assert_line(FROM_DISK)?;
    let mut vm = at(98)?.append("zstrap.tries=1 zstrap.reboot_after=1").disk(&world.disk).start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line("] list: failed reason=expired ")?;
    vm.assert_never("test: root=")
}

#[test]
#[ignore = "long: make test-all"]
fn a_server_with_older_files_than_this_node_has_seen_is_refused() -> Result<()> {
    let world = World::new("cache-older", &wants_disk())?;
    let (old_list, old_config) = (world.scene.list(KEPT)?, world.scene.config(KEPT)?);
    // `…/latest`, and the serial that it had.
    let latest_of = |path: &str| -> Result<(String, String)> {
        let (folder, name) = path.rsplit_once('/').context("no folder")?;
        Ok((format!("{folder}/latest"), name.split('.').next().unwrap_or_default().to_owned()))
    };
    let ((latest_list, old_list), (latest_config, old_config)) =
        (latest_of(&old_list)?, latest_of(&old_config)?);
    world.boot("read")?;
    world.update(2)?;
    world.boot("read")?.assert_line("test: version=version 2")?;
    let new_list = world.scene.read(&latest_list)?;
    world.scene.write(&latest_list, old_list.as_bytes())?;
    let vm = world.boot("read")?;
    vm.assert_line("] list: failed reason=older-than-seen code=ZS-SIG-14")?;
    vm.assert_line(FROM_DISK)?;
    vm.assert_line("test: version=version 2")?;
    world.scene.write(&latest_list, &new_list)?;
    let mut scene = world.scene;
    scene.add_config(KEPT, &config(&wants_disk()))?;
    let world = World { scene, ..world };
    world.boot("read")?.assert_line("] cache: kept config=")?;
    world.scene.write(&latest_config, old_config.as_bytes())?;
    let vm = world.boot("read")?;
    vm.assert_line("] config: failed reason=older-than-seen code=ZS-SIG-14")?;
    vm.assert_line(FROM_DISK).map(drop)
}

#[test]
fn an_update_that_breaks_off_leaves_the_last_good_version() -> Result<()> {
    let world = World::new("cache-broken", &wants_disk())?;
    world.boot("read")?;
    world.update(2)?;
    let (blob, _) = world.scene.blob(KEPT, "./etc/version")?;
    world.scene.server.rule(Rule::always(&format!("/{blob}"), Fault::Status(404)));
    let vm = world.boot("read")?;
    vm.assert_line("] fetch: failed reason=not-found ")?;
    vm.assert_line(FROM_DISK)?;
    vm.assert_line("test: version=version 1").map(drop)
}

#[test]
fn what_a_running_root_plants_has_no_effect_after_a_reboot() -> Result<()> {
    let mut world = World::new("cache-planted", &wants_disk())?;
    world.boot("plant")?.assert_line("test: version=version 1")?;
    // With a server, the changed content is fetched anew, and the one that has another name.
    let before = world.scene.server.requests().len();
    let vm = world.boot("plant")?;
    vm.assert_never("test: planted ")?;
    vm.assert_line("] cache: removed content=*has SHA-256 ")?;
    vm.assert_line("test: version=version 1")?;
    vm.assert_line("] cache: removed content=*not a plain file of one name")?;
    vm.assert_line("test: linked=linked 1")?;
    vm.assert_line("] cache: ignored record=configs/kept/99999999999.json why=")?;
    vm.assert_line("] cache: ignored record=bundles/kept/*/99999999999.mtree why=")?;
    ensure!(
        world.blobs_since(before) == 2,
        vm.failed("expected the changed and the linked content to be fetched")
    );
    world.boot("read")?;
    // Without one, there is nothing else to boot: it is refused, and nothing of it ran.
    world.boot("plant")?;
    world.scene.server.pause();
    let machine = world.scene.machine()?.append("zstrap.tries=1 zstrap.reboot_after=1");
    let mut vm = machine.disk(&world.disk).start()?;
    vm.expect_exit(&Reason::Reset, BOUND)?;
    vm.assert_line("] cache: removed content=*has SHA-256 ")?;
    vm.assert_line("] fetch: failed reason=not-found ")?;
    vm.assert_never("test: root=")
}

#[test]
fn a_disk_without_room_is_said_before_anything_is_fetched() -> Result<()> {
    let mut world = World::new("cache-full", &wants_disk())?;
    world.tree.file("srv/big", &vec![7; 24 * MIB as usize], 0o644)?;
    world.scene.publish(&world.tree, KEPT)?;
    world.disk = world.scene.disk("small", 24 * MIB)?;
    partition(&world.disk, 20)?;
    let vm = world.boot("read")?;
    let said = vm.assert_line("] root: in RAM instead of on a disk why=the disk is full: ")?;
    let ready = vm.assert_line("] root: ready kind=ram ")?;
    ensure!(said.index < ready.index, vm.failed("the reason comes too late"));
    vm.assert_line("test: root=ram source=server why=the disk is full: ")?;
    // The root has no room there, the state has.
    vm.assert_line("test: mount /dev/vda1 /var/lib/zstrap-state ext4 rw,nosuid,nodev,noexec,").map(drop)
}
