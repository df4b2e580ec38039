//! The bundle `zos`: what its recipe makes, and that it runs with the config that stands beside it.
//!
//! In the machine, a service of these tests looks at the others, says on the console what it saw in lines that begin
//! with `test: `, and powers the machine off.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use zstrap_formats::digest::sha256;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::vm::{Reason, Vm};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/zos");

/// A command that has to succeed within 20 seconds.
const AWAIT: &str = "\
await() {
    tries=100
    until \"$@\" 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo \"test: not: $*\"; return 1; }
        sleep 0.2
    done
}
";

/// The services of the bundle, and what the example of a container says.
const SERVICES: &str = "\
exited() { zinit status $1 | grep -q '^Exit: *0$'; }
echo \"test: config $NO_COLOR\"
await exited modules
sed 's/ .*//; s/^/test: module /' /proc/modules
echo \"test: $(ls -l /dev/net/tun)\"
await exited container
zinit logs container | sed 's/.*container: /test: example /'
await exited console
zinit list | sed 's/^/test: /'
";

/// Containers beside the example: one with too many processes, and one that stays until it is told to end, also when the
/// youki above it has been killed.
const CONTAINERS: &str = "\
container() {
    cp -a /srv/containers/example /srv/containers/$1
    sed -i s,/zos/example,/zos/$1, /srv/containers/$1/config.json
    cat >/srv/containers/$1/rootfs/hello
}
container crowd <<'END'
#!/bin/sh
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do busybox sleep 20 & done
echo no limit
END
container stays <<'END'
#!/bin/sh
trap 'echo test: told to end; exit 7' TERM
echo test: stays
while :; do busybox sleep 0.1; done
END
stays() { /usr/lib/zos/container stays >>/run/stays 2>&1 & }
said() { [ $(grep -c \"$2\" /run/stays) = $1 ]; }
/usr/lib/zos/container crowd 2>&1 | sed 's/^/test: crowd /'
stays
await said 1 'test: stays'
kill -9 $!
echo \"test: orphans $(wc -l </sys/fs/cgroup/zos/stays/cgroup.procs)\"
stays
await said 2 'test: stays'
kill $!
wait $!
echo \"test: ended $?\"
cat /run/stays
echo \"test: left $(ls /run/youki)$(ls -d /sys/fs/cgroup/zos/*/ 2>/dev/null)\"
";

/// ttyd with the arguments of the service `debug`, but at the loopback address and without the login.
const TTYD: &str = "\
ttyd --port 7681 --ipv6 --interface ::1 --check-origin --max-clients 1 --writable sh >/run/ttyd 2>&1 &
await wget -q -O /run/page http://[::1]:7681/
sed 's/^/test: ttyd /' /run/ttyd
echo \"test: page $(grep -o '<title>[^<]*</title>' /run/page)\"
";

/// What the console offers: how many shells have a terminal, without and with the word of the config. The last, as it prints a
/// prompt.
const CONSOLE: &str = "\
shells() { cat /proc/[0-9]*/stat 2>/dev/null | awk '$2 == \"(sh)\" && $7 != 0' | wc -l; }
echo \"test: shells $(shells)\"
ZOS_CONSOLE=shell /usr/lib/zos/console &
opened() { [ $(shells) = 1 ]; }
await opened
";

/// Boots the bundle with its own services and this probe, until the probe powers off.
fn boot(name: &str, probe: &str) -> Result<Vm> {
    let mut scene = Scene::new(name)?;
    let folder = TempDir::with_prefix("zstrap-zos-")?;
    let made = folder.path().join("tree");
    built("022", &[&made, &"--modules", &artefacts::modules()?])?;
    let tree = Tree::copy_of_folder(&made)?;
    let script = format!("#!/bin/sh\nexec >/dev/console 2>&1\n{AWAIT}{probe}poweroff\n");
    tree.file("test/probe", script.as_bytes(), 0o755)?;
    let unit = b"[service]\nname = \"probe\"\nexec = \"exec /test/probe\"\noneshot = true\n";
    tree.file("etc/zinit/services/probe.toml", unit, 0o644)?;
    scene.publish(&tree, "zos")?;
    let config: Value = serde_json::from_slice(&fs::read(Path::new(RECIPE).join("config.json"))?)?;
    scene.add_config("zos", &config)?;
    let mut vm = scene.machine()?.start()?;
    vm.wait_line("] handoff: supervise /sbin/zinit-server ", BOUND)?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    vm.assert_never("test: not: ")?;
    Ok(vm)
}

#[test]
fn runs_containers_and_ttyd() -> Result<()> {
    let vm = boot("zos-runs", &[SERVICES, CONTAINERS, TTYD, CONSOLE].concat())?;
    check_modules(&vm)?;
    check_example(&vm)?;
    check_containers(&vm)?;
    vm.assert_line("test: page <title>ttyd - Terminal</title>")?;
    vm.assert_line("test: shells 0").map(drop)
}

/// Modules that came with the bundle, and what one of them is for.
fn check_modules(vm: &Vm) -> Result<()> {
    let found = said(vm, "test: module ");
    for module in ["tun", "veth", "bridge", "stp", "overlay"] {
        ensure!(found.iter().any(|found| found == module), vm.failed(&format!("no {module} in {found:?}")));
    }
    vm.assert_line("test: crw*/dev/net/tun").map(drop)
}

/// Its own processes, root, name, network and limits, and no rights.
fn check_example(vm: &Vm) -> Result<()> {
    let found = said(vm, "test: example ");
    let wanted = [
        "pid=1",
        // The shell of the program, that of the substitution, and the two of its pipe.
        "processes=4",
        "uid=65534",
        "hostname=example",
        "root=/bin /dev /hello /proc /sys",
        "links=lo",
        "memory.max=33554432",
        "pids.max=16",
    ];
    ensure!(found == wanted, vm.failed(&format!("expected {wanted:?}, found {found:?}")));
    // Services have the environment that the config names.
    vm.assert_line("test: config 1")?;
    for state in ["container*Exited", "console*Exited", "lease*Running"] {
        vm.assert_line(&format!("test: *{state}"))?;
    }
    Ok(())
}

fn check_containers(vm: &Vm) -> Result<()> {
    vm.assert_line("test: crowd *can't fork")?;
    vm.assert_never("no limit")?;
    vm.assert_line("test: told to end")?;
    for (what, value) in [("ended ", "7"), ("left ", "")] {
        let found = said(vm, &format!("test: {what}"));
        ensure!(found == [value], vm.failed(&format!("expected {what}{value}, found {found:?}")));
    }
    // Its processes were still there when the second youki came.
    let orphans = said(vm, "test: orphans ");
    let are_there = matches!(&orphans[..], [count] if count.trim().parse().is_ok_and(|count: u32| count > 0));
    ensure!(are_there, vm.failed(&format!("expected a number of orphans, found {orphans:?}")));
    Ok(())
}

/// What stands behind this start of a line.
fn said(vm: &Vm, start: &str) -> Vec<String> {
    let lines = vm.console().into_iter();
    lines.filter_map(|line| Some(line.text.strip_prefix(start)?.to_owned())).collect()
}

/// The recipe with these arguments, as somebody with this umask runs it.
fn build(umask: &str, arguments: &[&dyn AsRef<OsStr>]) -> Result<Output> {
    let script = format!(r#"umask {umask}; exec "$0" "$@""#);
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(Path::new(RECIPE).join("build"));
    let arch = artefacts::arch().to_string();
    command.arg(arch).args(arguments.iter().map(|argument| argument.as_ref()));
    command.output().context("running the recipe")
}

/// Runs the recipe, which has to succeed.
fn built(umask: &str, arguments: &[&dyn AsRef<OsStr>]) -> Result<()> {
    let output = build(umask, arguments)?;
    ensure!(output.status.success(), "the recipe failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What bsdtar says of a tree: names, types, modes, links, content.
fn listing(tree: &Path) -> Result<String> {
    let options = ["--format=mtree", "--options=!all,type,mode,size,sha256,link"];
    let output =
        Command::new("bsdtar").args(["-cf", "-"]).args(options).arg("-C").arg(tree).arg(".").output();
    let output = output.context("running bsdtar")?;
    ensure!(output.status.success(), "bsdtar: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

#[test]
fn recipe_makes_the_same_tree_for_whoever_runs_it() -> Result<()> {
    let folder = TempDir::with_prefix("zstrap-zos-")?;
    let (one, other, modules) =
        (folder.path().join("one"), folder.path().join("other"), artefacts::modules()?);
    built("022", &[&one, &"--modules", &modules])?;
    built("077", &[&other, &"--modules", &modules])?;
    let listing = (listing(&one)?, listing(&other)?);
    assert!(listing.0.contains("./usr/bin/youki ") && listing.0.contains("./usr/bin/ttyd "), "{}", listing.0);
    assert_eq!(listing.0, listing.1);
    Ok(())
}

#[test]
fn recipe_takes_mycelium_by_its_checksum_only() -> Result<()> {
    let folder = TempDir::with_prefix("zstrap-zos-")?;
    let (tree, program) = (folder.path().join("tree"), artefacts::payload()?);
    let bytes = fs::read(&program)?;
    let (right, wrong) = (sha256(&bytes).to_string(), sha256(b"another").to_string());
    let with = |sha256: &str| build("022", &[&tree, &"--mycelium", &program, &"--mycelium-sha256", &sha256]);

    let refused = with(&wrong)?;
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8(refused.stderr)?;
    assert!(why.contains(&format!("has the SHA-256 {right}, expected {wrong}")), "{why}");
    let unnamed = build("022", &[&tree, &"--mycelium", &program])?;
    assert_eq!(unnamed.status.code(), Some(2), "{unnamed:?}");
    assert!(!tree.exists(), "a refused program has left a tree");

    assert!(with(&right)?.status.success());
    assert_eq!(fs::read(tree.join("usr/bin/mycelium"))?, bytes);
    // What stands there already is not touched by a refusal.
    assert_eq!(with(&wrong)?.status.code(), Some(1));
    assert_eq!(fs::read(tree.join("usr/bin/mycelium"))?, bytes);
    Ok(())
}

#[test]
fn recipe_refuses_programs_that_would_not_run() -> Result<()> {
    let folder = TempDir::with_prefix("zstrap-zos-")?;
    let tree = folder.path().join("tree");
    // The one needs libraries, or is for another machine; the other is no program.
    for (program, why) in [
        (PathBuf::from("/usr/bin/env"), "/usr/bin/env is "),
        (Path::new(RECIPE).join("build"), "is no program"),
    ] {
        let sum = sha256(&fs::read(&program)?).to_string();
        let refused = build("022", &[&tree, &"--mycelium", &program, &"--mycelium-sha256", &sum])?;
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8(refused.stderr)?;
        assert!(said.contains(why), "{said}");
        assert!(!tree.exists(), "a refused program has left a tree");
    }
    Ok(())
}

#[test]
fn recipe_leaves_other_folders_alone() -> Result<()> {
    let folder = TempDir::with_prefix("zstrap-zos-")?;
    fs::write(folder.path().join("letter"), "dear")?;
    let refused = build("022", &[&folder.path()])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr)?.contains("is no tree of a bundle"));
    assert_eq!(fs::read_to_string(folder.path().join("letter"))?, "dear");

    // A name that ends as the shell completes it, and a folder with the name that the recipe once took for itself.
    let (tree, other) = (folder.path().join("tree"), folder.path().join("tree.new"));
    let with_slash = format!("{}/", tree.display());
    fs::create_dir(&other)?;
    fs::write(other.join("letter"), "dear")?;
    for out in [&tree as &dyn AsRef<OsStr>, &with_slash] {
        built("022", &[out])?;
        assert!(tree.join("usr/bin/youki").is_file(), "the tree is not there");
    }
    // What fails leaves nothing beside it.
    assert_eq!(build("022", &[&tree, &"--modules", &other])?.status.code(), Some(1));
    assert_eq!(fs::read_to_string(other.join("letter"))?, "dear");
    let mut names: Vec<_> =
        fs::read_dir(folder.path())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    names.sort();
    assert_eq!(names, ["letter", "tree", "tree.new"]);
    Ok(())
}

/// What is in the cache for more than 30 days may have holes that are known by now.
#[test]
fn ttyd_of_long_ago_is_not_taken_from_the_cache() -> Result<()> {
    let folder = TempDir::with_prefix("zstrap-zos-")?;
    let (cache, tree) = (folder.path().join("cache"), folder.path().join("tree"));
    let apt = folder.path().join("apt-get");
    fs::write(&apt, "#!/bin/sh\n")?;
    fs::set_permissions(&apt, fs::Permissions::from_mode(0o755))?;
    let old = cache.join("ttyd/amd64-20200101/usr/bin");
    fs::create_dir_all(&old)?;
    fs::write(old.join("../../versions"), "ttyd 1\n")?;
    fs::copy("/usr/bin/env", old.join("ttyd"))?;
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/ttyd"));
    command.arg("amd64").arg(&tree).env("ZSTRAP_CACHE", &cache);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH")?);
    let refused = command.env("PATH", path).output()?;
    // It turns to apt, and there is none here.
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr)?;
    assert!(said.starts_with("ttyd: apt is not configured with a mirror"), "{said}");
    assert!(!tree.exists());
    Ok(())
}
