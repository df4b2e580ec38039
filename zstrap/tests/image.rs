//! `zstrap image` and `boot`, by the real program.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use support::{Work, all_below, done, ended, init, kernel, mode, private, refused, text, value};
use zstrap_formats::digest::ContentDigest;
use zstrap_formats::identity::{Clock, Identity};

/// A site with bundle demo and config farm, and the files of an image.
fn ready() -> Work {
    let work = Work::new();
    work.write("tree/sbin/init", "#!/bin/sh\n");
    done(work.publish(&[]));
    work.add_config("farm", "A farm");
    work.write("kernel", kernel());
    work.write("init", init());
    work
}

/// The command with what it must have, and more.
fn netboot(work: &Work, more: &[&str]) -> Command {
    let mut command =
        work.zstrap(&["image", "netboot", "--site", "site", "--server", "http://10.0.2.2:8080"]);
    command.args(["--key", "keys/admin.pub", "--farmer", "farm-7", "--pool", "pool.3", "--arch", "amd64"]);
    command.args(["--kernel", "kernel", "--init", "init"]).args(more);
    command
}

fn make(work: &Work, more: &[&str]) -> String {
    let mut command = netboot(work, &["--config", "farm"]);
    command.args(more);
    done(command)
}

fn identity(work: &Work, image: &str) -> Identity {
    let payload = zstrap_mkimage::slots::read_slot(&work.path(image)).unwrap();
    Identity::parse(&payload).unwrap()
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let work = ready();
    make(&work, &["-o", "one"]);
    make(&work, &["-o", "two"]);
    done(work.command("diff", &["-r", "one", "two"]));
    let mut judge = work.command("sha256sum", &["--strict", "--quiet", "-c", "SHA256SUMS"]);
    judge.current_dir(work.path("one"));
    done(judge);
    assert_eq!(text(&work.read("one/SHA256SUMS")).lines().count(), 4);
}

#[test]
fn the_slot_carries_what_was_asked_for() {
    let work = ready();
    make_ca(&work);
    let more =
        ["--server", "https://b.example.org/site", "--ca", "ca.pem", "--proxy", "http://10.0.0.1:3128"];
    let mut command = netboot(&work, &["--config", "farm", "--log", "debug", "-o", "image"]);
    command.args(more);
    done(command);
    let identity = identity(&work, "image");
    let servers: Vec<String> = identity.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["http://10.0.2.2:8080", "https://b.example.org/site"]);
    assert_eq!(identity.farmer_id.as_str(), "farm-7");
    assert_eq!(identity.farming_pool_id.as_str(), "pool.3");
    assert_eq!(identity.config.name.as_str(), "farm");
    assert!(identity.config.pin.is_none());
    assert_eq!(identity.keyring.keys()[0].to_file(), text(&work.read("keys/admin.pub")));
    assert_eq!(identity.proxy.unwrap().to_string(), "http://10.0.0.1:3128");
    assert_eq!(identity.ca.unwrap(), text(&work.read("ca.pem")));
    assert_eq!(identity.log.unwrap().as_str(), "debug");
}

#[test]
fn an_image_boots_another_bundle_of_its_config_and_no_other() {
    let work = ready();
    work.write(
        "two.json",
        r#"{"version": 1, "bundle": "demo", "bundles": ["other"], "exec": ["/sbin/init"]}"#,
    );
    done(work.zstrap(&[
        "config",
        "add",
        "two.json",
        "--site",
        "site",
        "--name",
        "two",
        "--key",
        "keys/admin.key",
    ]));
    let image = |bundle: &str| netboot(&work, &["--config", "two", "-o", "image", "--bundle", bundle]);
    let refusal = refused(image("third"));
    assert!(refusal.contains("bundle third is not among the bundles of config two"), "{refusal}");
    done(image("other"));
    assert_eq!(identity(&work, "image").bundle.unwrap().as_str(), "other");
}

#[test]
fn the_slot_says_how_the_network_is_and_which_clock_counts() {
    let work = ready();
    make(&work, &["-o", "image"]);
    let usual = identity(&work, "image");
    assert_eq!((usual.network.to_string().as_str(), usual.clock), ("dhcp", Clock::Hardware));
    let network = "gw=192.0.2.1,addr=192.0.2.7/24,dns=192.0.2.53,vlan=10";
    make(&work, &["-o", "image", "--network", network, "--clock", "network"]);
    let told = identity(&work, "image");
    assert_eq!(told.network.to_string(), "addr=192.0.2.7/24,gw=192.0.2.1,dns=192.0.2.53,vlan=10");
    assert_eq!(told.clock, Clock::Network);
}

/// A self-signed certificate for boot.test, as openssl(1) makes it unless told otherwise: that of an authority.
fn make_ca(work: &Work) {
    let mut openssl = work.command("openssl", &["req", "-x509", "-newkey", "ec", "-noenc", "-subj", "/CN=x"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-addext", "subjectAltName=DNS:boot.test"]);
    openssl.args(["-keyout", "ca.key", "-out", "ca.pem"]);
    done(openssl);
}

#[test]
fn warns_of_a_certificate_by_which_nodes_refuse_the_server_that_shows_it() {
    let work = ready();
    make_ca(&work);
    let said = |server: &str| {
        let mut command = netboot(&work, &["--config", "farm", "-o", "image", "--ca", "ca.pem"]);
        let output = command.args(["--server", server]).output().unwrap();
        assert!(output.status.success());
        text(&output.stderr)
    };
    let warned = said("https://boot.test:8443");
    assert!(
        warned.contains("certificate 1 of --ca ca.pem is an authority (CA:TRUE) and names boot.test"),
        "{warned}"
    );
    let other = said("https://other.test");
    assert!(!other.contains("certificate") && !other.contains("no effect"), "{other}");
    let warned = said("http://boot.test");
    assert!(warned.contains("--ca has no effect: no server is https"), "{warned}");
}

#[test]
fn servers_keep_their_order_and_may_be_folders_on_boot_media() {
    let work = ready();
    make(&work, &["-o", "image", "--server", "https://b.example.org", "--server", "file:///site"]);
    let servers: Vec<String> = identity(&work, "image").servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["http://10.0.2.2:8080", "https://b.example.org", "file:///site"]);
}

#[test]
fn refuses_network_settings_and_clocks_that_no_node_would_take() {
    let work = ready();
    let with = |option: &str, value: &str| {
        let mut command = netboot(&work, &["--config", "farm", "-o", "image", option, value]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let said = with("--network", "dhcp,vlan=4095");
    assert!(said.contains("network setting \"vlan=4095\": expected a number from 1 to 4094"), "{said}");
    let said = with("--network", "dhcp,gw=192.0.2.1");
    assert!(said.contains("network setting \"gw=192.0.2.1\": expected addr= with an IPv4 address"), "{said}");
    let said = with("--clock", "sundial");
    assert!(said.contains("clock \"sundial\" is neither hardware nor network"), "{said}");
    assert!(!work.path("image").exists());
}

#[test]
fn a_pin_names_the_config_of_today() {
    let work = ready();
    let said = make(&work, &["--pin", "-o", "image"]);
    assert_eq!(value(&said, "pinned"), "yes");
    let pin = identity(&work, "image").config.pin.unwrap();
    let digest = ContentDigest::of(&work.read("farm.json"));
    assert_eq!((pin.md5, pin.sha256), (digest.md5, digest.sha256));
}

#[test]
fn the_build_time_is_given_or_that_of_the_newest_signature() {
    let work = ready();
    let built = |work: &Work| identity(work, "image").build_time;
    let created = |path: String| {
        let said = done(work.zstrap(&["verify", &path, "--key", "keys/admin.pub"]));
        value(&said, "created").to_owned()
    };
    make(&work, &["-o", "image"]);
    let serial = text(&work.read("site/configs/farm/latest"));
    let config = created(format!("site/configs/farm/{}.json", serial.trim()));
    assert_eq!(built(&work).to_string(), config.max(created(work.list())));
    make(&work, &["-o", "image", "--build-time", "1700000000"]);
    assert_eq!(built(&work).unix(), 1_700_000_000);
    let mut command = netboot(&work, &["--config", "farm", "-o", "image"]);
    command.env("SOURCE_DATE_EPOCH", "1600000000");
    done(command);
    assert_eq!(built(&work).unix(), 1_600_000_000);
    let mut command = netboot(&work, &["--config", "farm", "-o", "image"]);
    command.env("SOURCE_DATE_EPOCH", "soon");
    assert!(refused(command).contains("SOURCE_DATE_EPOCH is \"soon\", expected seconds"));
}

#[test]
fn the_command_line_is_in_script_and_description() {
    let work = ready();
    make(&work, &["-o", "image", "--cmdline-append", "zstrap.log=debug"]);
    let cmdline = "console=tty0 console=ttyS0,115200 quiet panic=30 zstrap.log=debug";
    let script = text(&work.read("image/boot.ipxe"));
    assert!(script.starts_with(&format!("#!ipxe\nkernel kernel initrd=initramfs {cmdline} ||")), "{script}");
    let json: serde_json::Value = serde_json::from_slice(&work.read("image/image.json")).unwrap();
    assert_eq!(json["cmdline"], cmdline);
}

#[test]
fn refuses_a_config_that_is_not_there_and_lists_those_that_are() {
    let work = ready();
    work.add_config("barn", "A barn");
    let said = refused(netboot(&work, &["--config", "stable", "-o", "image"]));
    assert_eq!(said, "zstrap: config stable is not on the site, which has: barn, farm");
    assert!(!work.path("image").exists());
}

#[test]
fn refuses_wrong_labels_urls_and_thresholds() {
    let work = ready();
    let with = |more: &[&str]| {
        let mut command = netboot(&work, &["--config", "farm", "-o", "image"]);
        command.args(more);
        ended(command)
    };
    assert_eq!(with(&["--server", "ftp://x"]).0, 2);
    assert_eq!(with(&["--server", "http://user@x"]).0, 2);
    assert_eq!(with(&["--log", "loud"]).0, 2);
    let (code, said) = with(&["--threshold", "2"]);
    assert_eq!((code, said.as_str()), (1, "zstrap: threshold 2 is not between 1 and the number of keys, 1"));
    work.write("ca.pem", "nothing");
    let (code, said) = with(&["--ca", "ca.pem"]);
    assert_eq!((code, said.as_str()), (1, "zstrap: --ca ca.pem holds no certificate, expected some in PEM"));
    assert!(!work.path("image").exists());
}

#[test]
fn a_wrong_url_is_named_with_its_option() {
    let work = ready();
    let usage = |option: &str, value: &str| {
        let mut command = netboot(&work, &["--config", "farm", "-o", "image", option, value]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let said = usage("--server", "10.0.2.2:8080");
    assert!(said.contains("'10.0.2.2:8080' for '--server <URL>'"), "{said}");
    assert!(said.contains("has no ://, expected as in http://HOST:PORT"), "{said}");
    let said = usage("--proxy", "https://x");
    assert!(said.contains("'https://x' for '--proxy <URL>': expected an http URL"), "{said}");
    assert!(!work.path("image").exists());
}

#[test]
fn refuses_to_replace_what_is_no_image() {
    let work = ready();
    work.write("letters/dear.txt", "dear");
    let said = refused(netboot(&work, &["--config", "farm", "-o", "letters"]));
    assert_eq!(said, "zstrap: letters is there and is not an image, expected an image or nothing");
    assert_eq!(work.read("letters/dear.txt"), b"dear");
    make(&work, &["-o", "image"]);
    make(&work, &["-o", "image", "--pin"]);
    assert!(identity(&work, "image").config.pin.is_some());
}

#[test]
fn warns_when_the_keys_of_the_image_have_not_signed_the_site() {
    let work = ready();
    done(work.zstrap(&["key", "new", "--out", "keys", "--name", "other", "--no-password"]));
    let mut command =
        work.zstrap(&["image", "netboot", "--site", "site", "--server", "http://10.0.2.2:8080"]);
    command.args(["--key", "keys/other.pub", "--farmer", "f", "--pool", "p", "--arch", "amd64"]);
    command.args(["--kernel", "kernel", "--init", "init", "--config", "farm", "-o", "image"]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let said = text(&output.stderr);
    assert_eq!(said.matches("this image will refuse ").count(), 2, "{said}");
}

#[test]
fn boot_starts_qemu_with_the_image() {
    let work = ready();
    make(&work, &["-o", "image"]);
    // A stand-in for QEMU that says how it was called, and ends with a code of its own.
    work.write("bin/qemu-system-x86_64", "#!/bin/sh\necho \"$@\"\nexit 7\n");
    mode(&work.path("bin/qemu-system-x86_64"), 0o755);
    let mut command = work.zstrap(&["boot", "image", "--memory", "512", "--append", "zstrap.tries=1"]);
    command.env("PATH", work.path("bin").into_os_string().into_string().unwrap() + ":/bin:/usr/bin");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let called = text(&output.stdout);
    assert!(
        called.contains(" -m 512 ") && called.contains(" -kernel image/kernel -initrd image/initramfs "),
        "{called}"
    );
    assert!(called.trim_end().ends_with("quiet panic=30 zstrap.tries=1"), "{called}");
    assert!(text(&output.stderr).contains("to leave: Ctrl-A, then X"));
}

#[test]
fn boot_refuses_a_folder_that_is_no_image() {
    let work = ready();
    let said = refused(work.zstrap(&["boot", "tree"]));
    assert!(said.starts_with("zstrap: reading tree/image.json: "), "{said}");
}

#[test]
fn an_image_is_public_whatever_the_umask() {
    let work = ready();
    done(private(&work, &netboot(&work, &["--config", "farm", "-o", "image"])));
    let files = all_below(&work.path("image"));
    assert_eq!(files.len(), 5);
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644, "{}", file.display());
    }
    assert_eq!(work.path("image").metadata().unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn refuses_to_delete_files_that_lie_beside_an_image() {
    let work = ready();
    make(&work, &["-o", "image"]);
    work.write("image/notes.txt", "mine");
    let said = refused(netboot(&work, &["--config", "farm", "-o", "image"]));
    assert!(said.starts_with("zstrap: image holds \"notes.txt\" beside an image, "), "{said}");
    assert_eq!(work.read("image/notes.txt"), b"mine");
}

#[test]
fn refuses_a_command_line_that_ipxe_would_take_apart() {
    let work = ready();
    let said = refused(netboot(&work, &["--config", "farm", "-o", "image", "--cmdline-append", "a=${b}"]));
    assert!(said.contains("command line \"a=${b}\": $ is syntax of iPXE"), "{said}");
    assert!(!work.path("image").exists());
}
