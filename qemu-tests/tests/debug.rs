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

/// What comes of a request that ttyd turns away.
const REFUSAL: &str = "ttyd closed the connection";

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
    r#"iifname "mycelium" exthdr frag 1 counter drop"#,
    r#"iifname "mycelium" ip6 saddr 400:1::2 tcp dport 7681 accept"#,
    r#"iifname "mycelium" ip6 saddr 500:2::/64 tcp dport 7681 accept"#,
    "tcp dport 7681 counter drop",
    "}",
    "chain answers {",
    "type filter hook output priority 0; policy accept;",
    r#"oifname "mycelium" ip6 daddr 400:1::2 tcp sport 7681 accept"#,
    r#"oifname "mycelium" ip6 daddr 500:2::/64 tcp sport 7681 accept"#,
    "tcp sport 7681 counter drop",
    "}",
    "}",
];

/// A service of the bundle that says what there is of a session. It starts a ttyd of its own at another port when the overlay
/// is there, as the node's would be started: one that the node had started before listens as soon as that one does.
const PROBE: &str = r#"#!/bin/sh
wait_for() { for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "$@" && return; sleep 1; done; }
is_there() { grep -q ' mycelium$' /proc/net/if_inet6; }
listens() { netstat -ltn | grep -q ":$1 "; }
wait_for is_there
ttyd --port 7682 --ipv6 --interface lo /bin/true 2>/dev/null &
wait_for listens 7682 || echo 'test: no ttyd'
for path in /etc/zinit/services/zstrap-debug.toml /run/zstrap/debug.json; do [ -e "$path" ] && echo "test: there is $path"; done
[ -e /run/zstrap/debug.json ] || /run/zstrap/bin/zstrap-node terminal 2>&1 | sed 's/^/test: /'
listens 7681 && echo 'test: somebody listens'
echo 'test: probed'
"#;

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

    /// A terminal, as soon as nobody else has it.
    fn free_terminal(&self, from: &str) -> Result<Session> {
        let deadline = Instant::now() + patience(BOUND);
        loop {
            match self.terminal(from) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
                opened => return opened,
            }
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
        let mut terminal = self.free_terminal(from)?;
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
    tree.file("test/probe", PROBE.as_bytes(), 0o755)?;
    let unit =
        "[service]\nname = \"probe\"\nexec = \"exec /test/probe >/dev/console 2>&1\"\noneshot = true\n";
    tree.file("etc/zinit/services/probe.toml", unit.as_bytes(), 0o644)?;
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
    // First: afterwards it could also be that somebody else is connected.
    only_pages_of_the_node_itself_may_ask(&node)?;
    wrong_passwords_get_nothing(&node)?;
    for path in ["/etc/zinit/services/zstrap-debug.toml", "/run/zstrap/debug.json"] {
        node.vm.wait_line(&format!("test: there is {path}"), BOUND)?;
    }
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
    let after = node.shell(
        ADMIN,
        "nft -nn list ruleset; zstrap-node log; zinit --socket /run/zinit.sock logs zstrap-debug",
    )?;
    for rule in ["ip6 saddr 400::/7", "ip6 daddr 400::/7", "tcp dport 7681 counter"] {
        let counted =
            |line: &str| line.contains(rule) && line.contains(" drop") && !line.contains("packets 0 ");
        ensure!(after.lines().any(counted), "nothing was dropped by {rule}: {after}");
    }
    for said in [
        "refused reason=wrong-password failures=1 pause=1s",
        "refused reason=wrong-password failures=3 pause=4s",
        "accepted",
    ] {
        ensure!(after.contains(&format!("login: {said} from={ADMIN}")), "no {said} in {after}");
    }
    for why in ["--check-origin", "--max-clients"] {
        let refused = |line: &str| line.contains("refuse to serve") && line.contains(why);
        ensure!(after.lines().any(refused), "ttyd has refused nobody because of {why}: {after}");
    }
    ensure!(!after.contains(PASSWORD) && !after.contains("horse"), "a password stands in the log: {after}");
    without_its_filter_it_is_not_open_either(&node)
}

/// Any service of root may flush all rules.
fn without_its_filter_it_is_not_open_either(node: &Node) -> Result<()> {
    node.shell(ADMIN, "nft delete table inet zstrap")?;
    node.route_over_lan()?;
    // It was the filter that kept them out: without it, the kernel answers through the overlay what came over the LAN.
    ensure!(
        node.connect(ADMIN, NODE)?.is_ok(),
        "the packets of these tests do not reach the node over the LAN"
    );
    node.lab.namespace.ip(&format!("route del {NODE}/128 dev tap0"))?;
    let mut terminal = node.free_terminal(STRANGER)?;
    let said = terminal.wait_for_end(BOUND)?;
    ensure!(said.contains("not on the list") && !said.contains("password"), "a stranger was told {said:?}");
    // It comes back with ttyd.
    let mut terminal = node.free_terminal(ADMIN)?;
    log_in(&mut terminal)?;
    terminal.type_in("kill $(pidof ttyd)\n")?;
    terminal.wait_for_end(BOUND)?;
    check_rules(&node.shell(ADMIN, "nft -nn list ruleset")?)?;
    node.expect_silence(STRANGER, NODE)
}

/// Three tries on a connection, and not a fourth; a second terminal meanwhile is none.
fn wrong_passwords_get_nothing(node: &Node) -> Result<()> {
    let mut terminal = node.terminal(ADMIN)?;
    for number in 1..=3 {
        terminal.wait_for("password: ", BOUND)?;
        terminal.type_in("wrong horse battery\n")?;
        // ttyd may throw away the last words: the log of the node has the third.
        if number < 3 {
            terminal.wait_for("wrong password", BOUND)?;
        }
    }
    let said = terminal.wait_for_end(BOUND)?;
    ensure!(!said.contains("password: ") && !said.contains('#'), "it ended with {said:?}");
    let mut terminal = node.terminal(ADMIN)?;
    // Hanging up has not shortened the pause.
    terminal.wait_for("next try in ", BOUND)?;
    terminal.wait_for("password: ", BOUND)?;
    expect_refusal(node.terminal(ADMIN), "two clients at once")
}

fn only_pages_of_the_node_itself_may_ask(node: &Node) -> Result<()> {
    let stream = node.stream(ADMIN)?;
    let elsewhere = Session::open(stream, &format!("node:{PORT}"), "http://elsewhere.example");
    expect_refusal(elsewhere, "a page from elsewhere got a terminal")?;
    // Nothing but the page was wrong.
    node.terminal(ADMIN).map(drop)
}

/// What ttyd does with whom it does not want.
fn expect_refusal(opened: Result<Session>, otherwise: &str) -> Result<()> {
    let Err(error) = opened else { bail!("{otherwise}") };
    ensure!(error.to_string() == REFUSAL, "expected {REFUSAL:?}, found {error:#}");
    Ok(())
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

/// Nothing of a session is on the node, which is there, and answers that nobody listens.
fn nobody_listens(node: &Node) -> Result<()> {
    node.vm.wait_line("test: probed", BOUND)?;
    node.vm.assert_line("test: zstrap-node: terminal: debug access is off")?;
    for wrong in ["test: there is ", "test: no ttyd", "test: somebody listens"] {
        node.vm.assert_never(wrong)?;
    }
    for (from, to) in [(ADMIN, NODE), (LAN, NODE_LAN)] {
        match node.connect(from, to)? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("{from} expected nobody to listen at {to}, and found {other:?}"),
        }
    }
    Ok(())
}
