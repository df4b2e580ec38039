//! What a person in front of the machine sees, and where else the log is kept.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, OFlags};
use serde_json::json;
use tempfile::TempDir;
use zstrap_qemu_tests::artefacts::patience;
use zstrap_qemu_tests::boot::{BOUND, DONE, expect_payload};
use zstrap_qemu_tests::http::{Fault, Rule};
use zstrap_qemu_tests::site::{SMALL, Scene, Tree, noise};
use zstrap_qemu_tests::vm::{Reason, Vm};

const DESCRIPTION: &str = "A picture of a boot";
/// What stands on the picture while files come.
const FETCHING: [&str; 5] = [DESCRIPTION, "√ list", "► fetch", "KiB/s", " left"];
/// A line of the log, as it stands where lines are shown.
const LINE: &str = "] root: ready ";

/// A scene whose files take a minute to come.
fn slow(name: &str) -> Result<Scene> {
    let mut scene = Scene::new(name)?;
    let tree = Tree::payload()?;
    tree.file("srv/big", &noise(12 << 20), 0o644)?;
    scene.publish(&tree, "big")?;
    let config = json!({ "version": 1, "description": DESCRIPTION, "bundle": "big", "exec": ["/sbin/init"] });
    scene.add_config("big", &config)?;
    let (blob, _) = scene.blob("big", "./srv/big")?;
    scene.server.rule(Rule::always(&format!("/{blob}"), Fault::Trickle(200_000)));
    Ok(scene)
}

/// Asserts that these texts are on a screen.
fn shows(vm: &Vm, rows: &[String], texts: &[&str]) -> Result<()> {
    let missing = texts.iter().find(|text| !rows.iter().any(|row| row.contains(**text)));
    let Some(missing) = missing else { return Ok(()) };
    Err(vm.failed(&format!("no `{missing}` on the screen:\n{}\n", rows.join("\n"))))
}

/// Waits until a text is gone from the screen.
fn wait_gone(vm: &mut Vm, text: &str, limit: Duration) -> Result<Vec<String>> {
    let deadline = Instant::now() + patience(limit);
    loop {
        let rows = vm.screen_text()?;
        if !rows.iter().any(|row| row.contains(text)) {
            return Ok(rows);
        }
        ensure!(Instant::now() < deadline, vm.failed(&format!("`{text}` stayed:\n{}\n", rows.join("\n"))));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn shows_a_calm_picture_of_a_good_boot() -> Result<()> {
    let scene = slow("screens-good")?;
    let mut vm = scene.machine()?.with_screen().start()?;
    let rows = vm.wait_screen(&FETCHING, BOUND)?;
    let (url, big) = (scene.server.url(), "big   serial ");
    let facts = ["eth0   52:54:00:12:34:56", "10.0.2.15/24   gateway 10.0.2.2", &url, big, "farmer-7"];
    shows(&vm, &rows, &facts)?;
    shows(&vm, &rows, &[" of 12.4 MiB", "received ", "√ network   a server that answers", "any key"])?;
    // It is no picture of one moment.
    let bytes = |rows: &[String]| rows.iter().find(|row| row.contains(" of 12.4 MiB")).cloned();
    let gone = bytes(&rows).context("no bytes on the screen")?;
    wait_gone(&mut vm, &gone, Duration::from_secs(20))?;
    vm.wait_screen(&FETCHING, Duration::from_secs(20))?;
    // Elsewhere there are plain lines.
    vm.assert_line(LINE).map(drop)
}

/// Neither hides what the kernel says: the picture is whole again soon, and the line stays on the serial console. But a
/// kernel that has panicked has the last word.
#[test]
fn messages_of_the_kernel_do_not_spoil_the_picture_and_its_panic_is_seen() -> Result<()> {
    let scene = slow("screens-kernel")?;
    let mut vm = scene.machine()?.append("panic=120").with_screen().start()?;
    let before = vm.wait_screen(&FETCHING, BOUND)?;
    vm.execute("inject-nmi", json!({}))?;
    vm.wait_line("Uhhuh. NMI received for unknown reason", BOUND)?;
    wait_gone(&mut vm, "NMI", Duration::from_secs(20))?;
    let after = vm.wait_screen(&FETCHING, Duration::from_secs(20))?;
    let place = |rows: &[String]| rows.iter().position(|row| row.contains(DESCRIPTION));
    ensure!(place(&before) == place(&after), vm.failed(&format!("moved:\n{}\n", after.join("\n"))));
    drop(vm);
    let machine = scene.machine()?.append("panic=120 unknown_nmi_panic").with_screen();
    let mut vm = machine.start()?;
    vm.wait_screen(&FETCHING, BOUND)?;
    vm.execute("inject-nmi", json!({}))?;
    vm.wait_line("Kernel panic - not syncing: NMI", BOUND)?;
    // The last line of a panic: the beginning of a long one has left the screen.
    vm.wait_screen(&["Kernel Offset: "], Duration::from_secs(20)).map(drop)
}

#[test]
fn a_failure_shows_its_code_its_sentence_and_a_countdown() -> Result<()> {
    const CODE: [&str; 5] = [
        "██████    ████          ████  ██████    ████        ██████  ██  ██",
        "    ██  ██            ██        ██    ██            ██  ██  ██  ██",
        "  ██      ██    ████    ██      ██    ██  ██  ████  ██  ██  ██████",
        "██          ██            ██    ██    ██  ██        ██  ██      ██",
        "██████  ████          ████    ██████    ████        ██████      ██",
    ];
    let scene = Scene::new("screens-failure")?;
    scene.server.rule(Rule::always("/bundles/*.mtree", Fault::FlipByte(40)));
    let machine = scene.machine()?.append("zstrap.tries=1 zstrap.reboot_after=90");
    let mut vm = machine.with_screen().start()?;
    let rows = vm.wait_screen(&["reboot in", "try: ", "stage list"], BOUND)?;
    vm.assert_line("] fail: code=ZS-SIG-04 ")?;
    shows(&vm, &rows, &CODE)?;
    shows(&vm, &rows, &["signature", "eth0   10.0.2.15/24   http://10.0.2.2:"])?;
    // Seconds pass, and nothing else changes.
    let deadline = Instant::now() + patience(Duration::from_secs(20));
    let later = loop {
        let later = vm.screen_text()?;
        if later != rows || Instant::now() >= deadline {
            break later;
        }
    };
    let changed: Vec<usize> = (0..rows.len()).filter(|row| rows[*row] != later[*row]).collect();
    let countdown = rows.iter().position(|row| row.contains("reboot in")).context("no countdown")?;
    let is_countdown = |row: &usize| row.abs_diff(countdown) <= 2;
    let counts = !changed.is_empty() && changed.iter().all(is_countdown);
    ensure!(counts, vm.failed(&format!("not a countdown, rows {changed:?}:\n{}\n", later.join("\n"))));
    Ok(())
}

/// It happens where all consoles are left to the program already: they are taken back.
#[test]
fn a_program_that_does_not_run_has_a_picture_too() -> Result<()> {
    const CODE: [&str; 5] = [
        "██████    ████        ████    ██  ██  ██    ██        ██████  ██████",
        "    ██  ██            ██  ██  ██  ██  ████  ██        ██  ██      ██",
        "  ██      ██    ████  ████    ██  ██  ██  ████  ████  ██  ██  ██████",
        "██          ██        ██  ██  ██  ██  ██    ██        ██  ██  ██",
        "██████  ████          ██  ██  ██████  ██    ██        ██████  ██████",
    ];
    let mut scene = Scene::new("screens-no-exec")?;
    let tree = Tree::small()?;
    tree.file("start.txt", b"a text that is no program\n", 0o755)?;
    scene.publish(&tree, "text")?;
    scene.add_config("text", &json!({ "version": 1, "bundle": "text", "exec": ["/start.txt"] }))?;
    let machine = scene.machine()?.append("zstrap.reboot_after=90");
    let mut vm = machine.with_screen().start()?;
    let rows = vm.wait_screen(&["reboot in", "try: ", "stage handoff", "Exec format error"], BOUND)?;
    shows(&vm, &rows, &CODE)?;
    vm.assert_line("] fail: code=ZS-RUN-02 ")?;
    let countdown = rows.iter().find(|row| row.contains("reboot in")).context("no countdown")?;
    wait_gone(&mut vm, countdown, Duration::from_secs(30))?;
    vm.wait_screen(&["reboot in"], Duration::from_secs(20)).map(drop)
}

#[test]
fn a_key_turns_the_picture_into_lines_and_back() -> Result<()> {
    let scene = slow("screens-key")?;
    let mut vm = scene.machine()?.with_screen().start()?;
    vm.wait_screen(&FETCHING, BOUND)?;
    vm.send_keys(&["spc"])?;
    // The newest lines, those for people who look for a fault included.
    let rows = vm.wait_screen(&[LINE, "] early: module loaded path="], BOUND)?;
    ensure!(!rows.iter().any(|row| row.contains("► fetch")), vm.failed("the picture is still there"));
    vm.send_keys(&["ret"])?;
    let rows = vm.wait_screen(&FETCHING, BOUND)?;
    ensure!(!rows.iter().any(|row| row.contains(LINE)), vm.failed("lines are still there"));
    Ok(())
}

#[test]
fn the_log_level_decides_what_the_screen_shows() -> Result<()> {
    let scene = slow("screens-levels")?;
    let mut vm = scene.machine()?.append("zstrap.log=quiet").with_screen().start()?;
    vm.wait_screen(&FETCHING, BOUND)?;
    vm.assert_never(LINE)?;
    drop(vm);
    let mut vm = scene.machine()?.append("zstrap.log=debug").with_screen().start()?;
    vm.wait_screen(&[LINE, "] config: ok name=big "], BOUND)?;
    vm.assert_line("] early: module loaded path=").map(drop)
}

/// The lines of all levels survive the handoff in a file, and in the kernel's log.
#[test]
fn the_whole_log_is_there_after_the_handoff() -> Result<()> {
    const SHOW: &str = "#!/bin/sh\n\
        zstrap-node log | sed 's/^/test: kept /'\n\
        stat -c 'test: mode %a %U' /run/zstrap/boot.log\n\
        dmesg | sed -n 's/.*zstrap: /test: dmesg /p'\n\
        poweroff -f\n";
    let mut scene = Scene::new("screens-kept")?;
    let tree = Tree::copy_of("demo-tree")?;
    tree.file("show", SHOW.as_bytes(), 0o755)?;
    scene.publish(&tree, "show")?;
    scene.add_config("show", &json!({ "version": 1, "bundle": "show", "exec": ["/show"] }))?;
    let mut vm = scene.machine()?.append("zstrap.log=quiet").start()?;
    vm.expect_exit(&Reason::PowerOff, BOUND)?;
    for done in DONE.iter().chain(&["] early: module loaded path="]) {
        vm.assert_line(&format!("test: kept [*{done}"))?;
        vm.assert_line(&format!("test: dmesg {}", done.trim_start_matches("] ")))?;
    }
    vm.assert_line("test: mode 600 root")?;
    vm.assert_never("] root: ready *test").map(drop)
}

#[test]
fn a_serial_port_that_nobody_named_has_the_lines() -> Result<()> {
    let scene = Scene::new("screens-second-port")?;
    let folder = TempDir::new().context("making a folder")?;
    let file = folder.path().join("port");
    let port = format!("file:{}", file.display());
    let machine = scene.machine()?.arguments(&["-serial", &port]);
    let vm = expect_payload(machine, BOUND)?;
    let text = fs::read_to_string(&file).context("reading what the port was given")?;
    for done in DONE {
        ensure!(text.contains(done), vm.failed(&format!("no `{done}` on the second port:\n{text}\n")));
    }
    Ok(())
}

/// Nobody reads what comes out of it: each line cost a second, and the handoff half a minute more, the kernel's own
/// patience with the last lines. What the watchdog says is one of them.
#[test]
fn a_dead_serial_port_does_not_hold_up_the_boot() -> Result<()> {
    let scene = Scene::new("screens-dead-port")?;
    let folder = TempDir::new().context("making a folder")?;
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).map(|()| path)
    };
    let (_, out) = (pipe("port.in")?, pipe("port.out")?);
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    let mut full = OpenOptions::new().read(true).write(true).custom_flags(flags).open(out)?;
    while full.write(&[b'x'; 4096]).is_ok() {}
    let port = format!("pipe:{}", folder.path().join("port").display());
    for level in ["normal", "debug"] {
        let words = format!("zstrap.log={level}");
        let machine = scene.generic_machine()?.watchdog().append(&words).arguments(&["-serial", &port]);
        let vm = expect_payload(machine, BOUND)?;
        vm.assert_line("] watchdog: stopped ")?;
        let (begun, left) = (vm.assert_line(DONE[0])?, vm.assert_line("] handoff: ")?);
        let end = vm.assert_line("payload: end")?;
        let (boot, exec) = (left.at.saturating_sub(begun.at), end.at.saturating_sub(left.at));
        let limit = patience(Duration::from_secs(20));
        ensure!(
            boot < limit && exec < limit,
            vm.failed(&format!("{level}: boot {boot:?}, handoff {exec:?}"))
        );
    }
    let (blob, _) = scene.blob(SMALL, "./sbin/init")?;
    ensure!(!scene.server.requests_for(&format!("/{blob}")).is_empty(), "nothing was fetched");
    Ok(())
}

#[test]
fn no_picture_is_promised_that_nobody_draws() -> Result<()> {
    let scene = Scene::new("screens-no-threads")?;
    let machine = scene.machine()?.append("zstrap.tries=1 zstrap.reboot_after=90").before("no-threads");
    let mut vm = machine.with_screen().start()?;
    vm.wait_screen(&["] network: refused reason=no-server", "] fail: try: "], BOUND).map(drop)
}
