//! Debug access over an overlay network: who gets a shell, and who gets nothing.
//!
//! The bundle is the demo's with Debian's ttyd and nft, and in mycelium's place a program of these tests: an overlay network
//! in UDP, whose other end is in the namespace of the lab. So the same kernel there connects through the overlay and through the LAN.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use zstrap_qemu_tests::artefacts::{self, patience};
use zstrap_qemu_tests::boot::BOUND;
use zstrap_qemu_tests::lab::Lab;
use zstrap_qemu_tests::overlay::{self, Overlay};
use zstrap_qemu_tests::site::{Scene, Tree};
use zstrap_qemu_tests::ttyd::Session;
use zstrap_qemu_tests::vm::Vm;

/// The machine's addresses.
const NODE: &str = "400:1::1";
const NODE_LAN: &str = "10.77.0.9";
/// What its network card has in QEMU.
const NODE_MAC: &str = "52:54:00:12:34:56";
/// Ours: the one that may, one of a range that may, and one that may not.
const ADMIN: &str = "400:1::2";
const COLLEAGUE: &str = "500:2::3";
const STRANGER: &str = "400:1::4";
const LAN: &str = "10.77.0.1";
const LAN6: &str = "fd00:77::1";
const PORT: u16 = 7681;

const PASSWORD: &str = "correct horse battery";
/// Of that password, by the reference implementation: `argon2 somesaltsomesalt -id -t 2 -k 19456 -p 1 -l 24 -e`.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$ZPY/kF8CFoFB4jQ9jPpdW62iwqiegwAU";

/// How long nobody answers before it counts as never: a connection through the overlay takes some milliseconds.
const SILENCE: Duration = Duration::from_secs(3);

/// What nft reads back, without what counters have counted.
const RULES: &[&str] = &[
    "table inet zstrap {",
    "chain overlay {",
    "type filter hook prerouting priority -300; policy accept;",
    r#"iifname != "lo" iifname != "mycelium" ip6 saddr 400::/7 counter drop"#,
    r#"iifname != "lo" iifname != "mycelium" ip6 daddr 400::/7 counter drop"#,
    "}",
    "chain debug {",
    "type filter hook input priority 0; policy accept;",
    r#"iifname "mycelium" ip6 saddr 400:1::2 tcp dport 7681 accept"#,
    r#"iifname "mycelium" ip6 saddr 500:2::/64 tcp dport 7681 accept"#,
    "tcp dport 7681 counter drop",
    "}",
    "}",
];

/// A node in a lab, with both ends of its overlay.
struct Node {
    vm: Vm,
    lab: Lab,
    _overlay: Overlay,
    _scene: Scene,
}

impl Node {
    fn boot(name: &str, debug: &Value, words: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let mut scene = lab.scene(name)?;
        scene.publish(&tree()?, "debug")?;
        let exec =
            ["/sbin/zinit-server", "--config-dir", "/etc/zinit/services", "--socket", "/run/zinit.sock"];
        let config = json!({ "version": 1, "bundle": "debug", "exec": exec, "supervise": true, "debug": debug,
                "mycelium": { "peers": [format!("tcp://{LAN}:{}", overlay::PORT)] } });
        scene.add_config("debug", &config)?;
        let ours = [ADMIN, COLLEAGUE, STRANGER].map(|address| format!("{address}/7"));
        let overlay = Overlay::new(&lab.namespace, "overlay0", &ours.each_ref().map(String::as_str))?;
        let network = format!("zstrap.net=addr={NODE_LAN}/24 {words}");
        let vm = lab.machine(&scene)?.append(&network).start()?;
        vm.wait_line("] handoff: supervise ", BOUND)?;
        vm.wait_line("overlay: up", BOUND)?;
        Ok(Self { vm, lab, _overlay: overlay, _scene: scene })
    }

    /// A connection from one of our addresses.
    fn connect(&self, from: &str, to: &str) -> Result<std::io::Result<std::net::TcpStream>> {
        let (from, to): (IpAddr, IpAddr) = (from.parse()?, to.parse()?);
        self.lab.namespace.run(|| overlay::connect(from, SocketAddr::new(to, PORT), patience(SILENCE)))
    }

    /// Nobody answers: what comes there is dropped.
    fn expect_silence(&self, from: &str, to: &str) -> Result<()> {
        match self.connect(from, to)? {
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
            other => bail!("{from} expected nothing from {to}, and found {other:?}"),
        }
    }

    /// A terminal; ttyd may still be about to start.
    fn terminal(&self, from: &str) -> Result<Session> {
        let host = format!("node:{PORT}");
        Session::open(self.stream(from)?, &host, &format!("http://{host}"))
    }

    fn stream(&self, from: &str) -> Result<std::net::TcpStream> {
        let deadline = Instant::now() + patience(BOUND);
        loop {
            match self.connect(from, NODE)? {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| self.vm.failed("ttyd does not listen").to_string());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// A shell, and what these commands print in it. Type-ahead is thrown away, so each waits for what comes before.
    fn shell(&self, from: &str, commands: &str) -> Result<String> {
        let mut terminal = self.terminal(from)?;
        log_in(&mut terminal)?;
        // The quotes keep the echo of the command from being its end.
        terminal.type_in(&format!("stty -echo; echo be''gin; {commands}; echo e''nd\n"))?;
        terminal.wait_for("begin\r\n", BOUND)?;
        let said = terminal.wait_for("end\r\n", BOUND)?;
        terminal.type_in("exit\n")?;
        terminal.wait_for_end(BOUND)?;
        Ok(said.replace("\r\n", "\n"))
    }

    /// Sends what goes to the node's overlay address over the LAN instead.
    fn route_over_lan(&self) -> Result<()> {
        self.lab.namespace.ip(&format!("neigh replace {NODE} lladdr {NODE_MAC} dev tap0 nud permanent"))?;
        self.lab.namespace.ip(&format!("route add {NODE}/128 dev tap0"))
    }
}

fn log_in(terminal: &mut Session) -> Result<()> {
    terminal.wait_for("password: ", BOUND)?;
    terminal.type_in(&format!("{PASSWORD}\n"))?;
    terminal.wait_for("# ", BOUND).map(drop)
}

fn tree() -> Result<Tree> {
    let tree = Tree::copy_of("demo-tree")?;
    tree.remove("etc/zinit/services")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/ttyd");
    let arch = artefacts::arch().to_string();
    let made = Command::new(script).arg(&arch).arg(tree.path()).arg("nft").output().context("running it")?;
    ensure!(made.status.success(), "scripts/ttyd: {}", String::from_utf8_lossy(&made.stderr));
    let overlay = artefacts::artefact(&format!("bin/zstrap-test-overlay-{arch}"))?;
    tree.file("test/overlay", &std::fs::read(overlay)?, 0o755)?;
    let command = format!("exec /test/overlay mycelium {NODE}/7 {LAN}:{} >/dev/console 2>&1", overlay::PORT);
    tree.file("usr/bin/mycelium", format!("#!/bin/sh\n{command}\n").as_bytes(), 0o755)?;
    Ok(tree)
}

fn enabled() -> Value {
    json!({ "enabled": true, "allow": [ADMIN, "500:2::/64"], "password_hash": HASH })
}

#[test]
fn gives_a_shell_to_whom_the_config_names_and_to_nobody_else() -> Result<()> {
    let node = Node::boot("debug-on", &enabled(), "")?;
    node.vm.assert_line("] debug: on port=7681 allow=400:1::2/128,500:2::/64 interface=mycelium")?;
    wrong_passwords_get_nothing(&node)?;
    only_pages_of_the_node_itself_may_ask(&node)?;
    let before = node.shell(ADMIN, "id -u; nft -nn list ruleset; netstat -ltn")?;
    ensure!(before.starts_with("0\n"), "not root: {before}");
    check_rules(&before)?;
    ensure!(before.contains(&format!(" {NODE}:{PORT} ")), "ttyd listens elsewhere: {before}");
    ensure!(before.matches(&format!(":{PORT} ")).count() == 1, "ttyd listens twice: {before}");
    ensure!(node.shell(COLLEAGUE, "id -u")?.starts_with("0\n"), "a range is not let in");

    // Through the overlay, from an address that is not on the list.
    node.expect_silence(STRANGER, NODE)?;
    // Through the LAN, to an address of the LAN.
    node.expect_silence(LAN, NODE_LAN)?;
    node.route_over_lan()?;
    // Through the LAN, as the admin, and as somebody of the LAN.
    node.expect_silence(ADMIN, NODE)?;
    node.expect_silence(LAN6, NODE)?;
    // COLLEAGUE takes the same way now: only back through the overlay can anybody look at what was counted.
    node.lab.namespace.ip(&format!("route del {NODE}/128 dev tap0"))?;
    let after = node.shell(ADMIN, "nft -nn list ruleset; zstrap-node log")?;
    for rule in ["ip6 saddr 400::/7", "ip6 daddr 400::/7", "tcp dport 7681 counter"] {
        let counted =
            |line: &str| line.contains(rule) && line.contains(" drop") && !line.contains("packets 0 ");
        ensure!(after.lines().any(counted), "nothing was dropped by {rule}: {after}");
    }
    for said in ["refused reason=wrong-password failures=1 pause=1s", "accepted"] {
        ensure!(after.contains(&format!("login: {said} from={ADMIN}")), "no {said} in {after}");
    }
    ensure!(!after.contains(PASSWORD) && !after.contains("horse"), "a password stands in the log: {after}");
    // It was the filter that kept them out: without it, the kernel answers through the overlay what came over the LAN.
    node.shell(ADMIN, "nft delete table inet zstrap")?;
    node.route_over_lan()?;
    ensure!(
        node.connect(ADMIN, NODE)?.is_ok(),
        "the packets of these tests do not reach the node over the LAN"
    );
    Ok(())
}

/// Three tries on a connection, and not a fourth; a second terminal meanwhile is none.
fn wrong_passwords_get_nothing(node: &Node) -> Result<()> {
    let mut terminal = node.terminal(ADMIN)?;
    for _ in 0..3 {
        terminal.wait_for("password: ", BOUND)?;
        terminal.type_in("wrong horse battery\n")?;
        terminal.wait_for("wrong password", BOUND)?;
    }
    // ttyd may throw away the last words.
    let said = terminal.wait_for_end(BOUND)?;
    ensure!(!said.contains("password: ") && !said.contains('#'), "it ended with {said:?}");
    let mut terminal = node.terminal(ADMIN)?;
    // Hanging up has not shortened the pause.
    terminal.wait_for("next try in ", BOUND)?;
    terminal.wait_for("password: ", BOUND)?;
    match node.terminal(ADMIN) {
        Err(_) => Ok(()),
        Ok(_) => bail!("two clients at once"),
    }
}

fn only_pages_of_the_node_itself_may_ask(node: &Node) -> Result<()> {
    match Session::open(node.stream(ADMIN)?, &format!("node:{PORT}"), "http://elsewhere.example") {
        Err(_) => Ok(()),
        Ok(_) => bail!("a page from elsewhere got a terminal"),
    }
}

/// The rules as nft reads them, in their order, and no others.
fn check_rules(said: &str) -> Result<()> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.iter().position(|word| *word == "packets") {
            // `counter packets 3 bytes 240 drop`
            Some(at) => [&words[..at], &words[at + 4..]].concat().join(" "),
            None => words.join(" "),
        }
    };
    let lines: Vec<String> = said.lines().map(line).collect();
    let begin = lines.iter().position(|line| line.starts_with("table ")).context("no table")?;
    let found: Vec<&str> =
        lines[begin..].iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    ensure!(found.starts_with(RULES), "expected {RULES:#?}, found {found:#?}");
    ensure!(!found[RULES.len()..].iter().any(|line| line.starts_with("table ")), "other tables: {found:#?}");
    Ok(())
}

#[test]
fn is_off_unless_the_config_says_otherwise() -> Result<()> {
    let mut debug = enabled();
    debug["enabled"] = json!(false);
    let node = Node::boot("debug-off", &debug, "")?;
    node.vm.assert_never("] debug: ")?;
    nobody_listens(&node)
}

#[test]
fn stays_off_when_the_kernel_takes_no_filter() -> Result<()> {
    let node = Node::boot("debug-no-filter", &enabled(), "module_blacklist=nf_tables")?;
    node.vm.assert_line("] debug: off why=\"loading the packet filter: ")?;
    node.vm.assert_never("] debug: on ")?;
    nobody_listens(&node)
}

/// The node is there, and answers that nobody listens.
fn nobody_listens(node: &Node) -> Result<()> {
    for (from, to) in [(ADMIN, NODE), (LAN, NODE_LAN)] {
        match node.connect(from, to)? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("{from} expected nobody to listen at {to}, and found {other:?}"),
        }
    }
    Ok(())
}
