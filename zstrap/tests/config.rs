//! `zstrap config`, by the real program, judged by md5sum, sha256sum and minisign.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Work, all_below, done, refused, text, value};

const GOOD: &str = r#"{"version":1,"description":"A farm","bundle":"demo","exec":["/sbin/init"]}"#;

#[test]
fn check_accepts_a_good_config_and_prints_its_hashes() {
    let work = Work::new();
    work.write("farm.json", GOOD);
    let said = done(work.zstrap(&["config", "check", "farm.json"]));
    for (tool, key) in [("md5sum", "md5"), ("sha256sum", "sha256")] {
        let judged = done(work.command(tool, &["farm.json"]));
        assert_eq!(Some(value(&said, key)), judged.split(' ').next());
    }
}

#[test]
fn check_and_add_refuse_unknown_fields_and_broken_rules() {
    let work = Work::new();
    for (json, says) in [
        (GOOD.replace("\"exec\"", "\"colour\":1,\"exec\""), "config has unknown fields: colour"),
        (GOOD.replace("\"version\":1", "\"version\":2"), "config has version 2, expected 1"),
        (GOOD.replace("\"exec\"", "\"debug\":{\"enabled\":true},\"exec\""), "debug"),
        ("{".to_owned(), "config: "),
    ] {
        work.write("farm.json", json);
        let checked = refused(work.zstrap(&["config", "check", "farm.json"]));
        assert!(checked.starts_with("zstrap: checking farm.json: ") && checked.contains(says), "{checked}");
        let add = ["config", "add", "farm.json", "--site", "site", "--key", "keys/admin.key"];
        assert!(refused(work.zstrap(&add)).contains(says));
    }
    assert!(!work.path("site").exists());
}

#[test]
fn add_publishes_by_serial_and_by_hash_signed() {
    let work = Work::new();
    let said = work.add_config("farm", "A farm");
    let serial = value(&said, "serial");
    assert_eq!(value(&said, "config"), "farm");
    assert_eq!(text(&work.read("site/configs/farm/latest")), format!("{serial}\n"));
    let by_hash = format!("site/configs/by-hash/{}.json", value(&said, "sha256"));
    for path in [format!("site/configs/farm/{serial}.json"), by_hash] {
        assert_eq!(work.read(&path), work.read("farm.json"));
        let judged = done(work.command("minisign", &["-Vm", &path, "-p", "keys/admin.pub"]));
        assert!(
            judged.contains(&format!("zstrap1 kind=config name=farm arch=any serial={serial} ")),
            "{judged}"
        );
        let said = done(work.zstrap(&["verify", &path, "--key", "keys/admin.pub"]));
        assert!(said.starts_with("kind=config name=farm arch=any "), "{said}");
    }
    let judged = done(work.command("md5sum", &["farm.json"]));
    assert_eq!(Some(value(&said, "md5")), judged.split(' ').next());
}

#[test]
fn add_lists_all_configs_for_people() {
    let work = Work::new();
    work.add_config("farm", "A farm");
    work.add_config("barn", "A barn");
    work.add_config("farm", "A larger farm");
    let index: serde_json::Value = serde_json::from_slice(&work.read("site/configs.json")).unwrap();
    let entries = index["configs"].as_array().unwrap();
    let short: Vec<_> =
        entries.iter().map(|e| (e["name"].as_str().unwrap(), e["description"].as_str().unwrap())).collect();
    assert_eq!(short, [("barn", "A barn"), ("farm", "A larger farm")]);
}

#[test]
fn an_older_config_stays_for_images_that_pin_it() {
    let work = Work::new();
    let first = work.add_config("farm", "A farm");
    let second = work.add_config("farm", "A larger farm");
    let serial = |said: &str| value(said, "serial").parse::<u64>().unwrap();
    assert!(serial(&second) > serial(&first));
    for said in [first, second] {
        assert!(work.path(format!("site/configs/by-hash/{}.json", value(&said, "sha256"))).exists());
    }
}

#[test]
fn refuses_the_same_bytes_under_another_name() {
    let work = Work::new();
    work.write("farm.json", GOOD);
    work.write("barn.json", GOOD);
    done(work.zstrap(&["config", "add", "farm.json", "--site", "site", "--key", "keys/admin.key"]));
    // The same name again renews the signature.
    done(work.zstrap(&["config", "add", "farm.json", "--site", "site", "--key", "keys/admin.key"]));
    let said =
        refused(work.zstrap(&["config", "add", "barn.json", "--site", "site", "--key", "keys/admin.key"]));
    assert!(said.starts_with("zstrap: config barn has the very bytes of config farm"), "{said}");
    assert!(!work.path("site/configs/barn").exists());
}

#[test]
fn names_come_from_the_file_or_the_argument() {
    let work = Work::new();
    work.write("My Farm.json", GOOD);
    let said =
        refused(work.zstrap(&["config", "add", "My Farm.json", "--site", "site", "--key", "keys/admin.key"]));
    assert!(said.starts_with("zstrap: naming My Farm.json by its file (--name): name \"My Farm\""), "{said}");
    let mut add =
        work.zstrap(&["config", "add", "My Farm.json", "--site", "site", "--key", "keys/admin.key"]);
    add.args(["--name", "my-farm"]);
    assert_eq!(value(&done(add), "config"), "my-farm");
    let mut add =
        work.zstrap(&["config", "add", "My Farm.json", "--site", "site", "--key", "keys/admin.key"]);
    add.args(["--name", "by-hash"]);
    assert!(refused(add).contains("is taken by the site's layout"));
}

/// Adds `farm.json`, signed by these keys, and returns all that is said and the names under `by-hash`.
fn add_by(work: &Work, keys: &[&str]) -> (String, Vec<String>) {
    let mut add = work.zstrap(&["config", "add", "farm.json", "--site", "site"]);
    for key in keys {
        add.args(["--key", &format!("keys/{key}.key")]);
    }
    let output = add.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let names = all_below(&work.path("site/configs/by-hash")).into_iter();
    let names = names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    (text(&output.stderr), names)
}

fn key_id(work: &Work, key: &str) -> String {
    text(&work.read(format!("keys/{key}.pub"))).split_whitespace().nth(5).unwrap().to_owned()
}

#[test]
fn signatures_by_hash_of_keys_that_no_longer_sign_go() {
    let work = Work::new();
    work.write("farm.json", GOOD);
    for name in ["second", "third"] {
        done(work.zstrap(&["key", "new", "--out", "keys", "--name", name, "--no-password"]));
    }
    add_by(&work, &["admin", "second"]);
    let (said, names) = add_by(&work, &["admin", "third"]);
    let gone = key_id(&work, "second");
    assert!(said.contains(&format!("config farm by its hash loses the signature of key {gone}: ")), "{said}");
    let hash = done(work.command("sha256sum", &["farm.json"])).split(' ').next().unwrap().to_owned();
    let mut expected = vec![format!("{hash}.json"), format!("{hash}.json.minisig")];
    expected.extend(["admin", "third"].map(|key| format!("{hash}.json.{}.minisig", key_id(&work, key))));
    expected.sort();
    assert_eq!(names, expected);
    // What the first publish signed by serial is its own affair.
    let by_serial = all_below(&work.path("site/configs/farm"));
    let second = format!(".{}.minisig", key_id(&work, "second"));
    assert_eq!(by_serial.iter().filter(|path| path.to_str().unwrap().ends_with(&second)).count(), 1);
}

#[test]
fn warns_when_another_key_takes_over_a_config_that_images_pin() {
    let work = Work::new();
    work.write("farm.json", GOOD);
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "second", "--no-password"]));
    let (first, _) = add_by(&work, &["admin"]);
    let (same, _) = add_by(&work, &["admin"]);
    assert!(!first.contains("was signed by key") && !same.contains("was signed by key"), "{first}{same}");
    let (said, _) = add_by(&work, &["second"]);
    let (before, now) = (key_id(&work, "admin"), key_id(&work, "second"));
    assert!(said.contains(&format!("was signed by key {before}, now by {now}: ")), "{said}");
}

/// A debug session comes over the overlay network, and this config has none.
#[test]
fn check_and_add_warn_when_debug_is_on_and_no_overlay_is() {
    let work = Work::new();
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";
    let debug = format!(r#""debug":{{"enabled":true,"allow":["400:1::2"],"password_hash":"{hash}"}},"exec""#);
    let alone = GOOD.replace("\"exec\"", &debug);
    let warned = |json: &str| {
        work.write("farm.json", json);
        let check = work.zstrap(&["config", "check", "farm.json"]);
        let add = work.zstrap(&["config", "add", "farm.json", "--site", "site", "--key", "keys/admin.key"]);
        [check, add].map(|mut command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stderr)
                .contains("debug is on, and mycelium names no peers and no address to listen at")
        })
    };
    assert_eq!(warned(&alone), [true, true]);
    assert_eq!(warned(GOOD), [false, false]);
    for mycelium in [r#"{"peers":["tcp://192.0.2.7:9651"]}"#, r#"{"listen":["tcp://[::]:9651"]}"#] {
        let with = alone.replace("\"debug\"", &format!("\"mycelium\":{mycelium},\"debug\""));
        assert_eq!(warned(&with), [false, false]);
    }
}

/// A config takes the hash, and the reference implementation of argon2 says that it is of this password.
fn check_hash(work: &Work, password: &str, hash: &str) {
    let debug = format!(r#""debug":{{"enabled":true,"allow":["400:1::2"],"password_hash":"{hash}"}},"exec""#);
    work.write("debug.json", GOOD.replace("\"exec\"", &debug));
    done(work.zstrap(&["config", "check", "debug.json"]));
    let script = "import sys, argon2; print(argon2.PasswordHasher().verify(sys.argv[2], sys.argv[1]))";
    assert_eq!(done(work.command("/usr/bin/python3", &["-c", script, password, hash])), "True\n");
}

#[test]
fn hash_password_makes_a_passphrase_and_says_it_once() {
    let work = Work::new();
    let output = work.zstrap(&["config", "hash-password"]).output().unwrap();
    assert!(output.status.success());
    let (said, hash) = (text(&output.stderr), text(&output.stdout));
    let passphrase = said.trim_end().strip_prefix("passphrase: ").unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=65536,t=3,p=1$"), "{hash}");
    check_hash(&work, passphrase, hash.trim_end());
    assert_ne!(done(work.zstrap(&["config", "hash-password"])), hash);
}

#[test]
fn hash_password_takes_a_password_from_stdin_and_refuses_short_ones() {
    let work = Work::new();
    let run = |password: &str, options: &str| {
        let script = format!("printf %s \"$1\" | \"$2\" config hash-password --stdin {options}");
        work.command("sh", &["-c", &script, "sh", password, env!("CARGO_BIN_EXE_zstrap")])
    };
    let hash = done(run("Zwölf Boxkämpfer\n", "--memory 19"));
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=3,p=1$"), "{hash}");
    check_hash(&work, "Zwölf Boxkämpfer", hash.trim_end());
    let said = refused(run("elevenchars", ""));
    assert!(said.contains("password has 11 characters, expected at least 12"), "{said}");
    let said = refused(run("passwordpassword", ""));
    assert!(said.contains("password is obvious"), "{said}");
    assert_eq!(run("Zwölf Boxkämpfer", "--memory 128").status().unwrap().code(), Some(2));
}

/// Types into a terminal of its own, after each question one word, and says what came back, the exit code, and whether
/// the terminal shows what is typed and takes Ctrl-C as it did.
const AT_A_TERMINAL: &str = r#"
import os, pty, select, subprocess, sys, termios
ours, theirs = pty.openpty()
run = subprocess.Popen(sys.argv[2:], preexec_fn=lambda: os.login_tty(os.dup(theirs)))
said = b""
def until(text):
    global said
    while text not in said:
        assert select.select([ours], [], [], 30)[0], said
        said += os.read(ours, 1000)
for question, word in zip([b"password: ", b"once more: "], sys.argv[1].split(" ")):
    until(question)
    assert not termios.tcgetattr(theirs)[3] & termios.ECHO
    os.write(ours, word.encode().decode("unicode_escape").encode())
code = run.wait(timeout=60)
os.write(theirs, b"END")
until(b"END")
modes = termios.tcgetattr(theirs)[3]
back = bool(modes & termios.ECHO and modes & termios.ISIG)
print(said.decode(), "exit", code, "back", back)
"#;

#[test]
fn hash_password_leaves_the_terminal_as_it_was() {
    let work = Work::new();
    let typed = |words: &str| {
        let program = env!("CARGO_BIN_EXE_zstrap");
        let words = ["-c", AT_A_TERMINAL, words, program, "config", "hash-password", "--stdin"];
        done(work.command("/usr/bin/python3", &words))
    };
    // Ctrl-C without Enter, at the first question and at the second.
    for words in [r"secret\x03", r"correct-horse\r again\x03"] {
        let said = typed(words);
        assert!(said.contains("zstrap: interrupted") && said.ends_with("exit 1 back True\n"), "{said}");
    }
    let said = typed(r"correct-horse\r correct-donkey\r");
    assert!(said.contains("not the same") && said.ends_with("exit 1 back True\n"), "{said}");
    let said = typed(r"correct-horse\r correct-horse\r");
    assert!(said.contains("$argon2id$") && said.ends_with("exit 0 back True\n"), "{said}");
    assert!(!said.contains("correct-horse"), "what was typed is shown: {said}");
}
