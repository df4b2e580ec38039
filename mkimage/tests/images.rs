//! Whole images, judged by GNU cpio, bsdtar, zstd and sha256sum.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{init, kernel, kernel_modules, kernel_of, parts, plain, run};
use zstrap_formats::name::Arch;
use zstrap_formats::slot::{self, SLOT_SIZE};
use zstrap_mkimage::modules::{ModuleSet, Patterns, select};
use zstrap_mkimage::{Image, initramfs, netboot, slots};

const IDENTITY: &[u8] = b"{\"version\":1}";

fn modules() -> ModuleSet {
    select(&kernel_modules(), &Patterns::parse("virtio_net\nvirtio_pci\n").unwrap()).unwrap()
}

/// Feeds `input` to a program and returns what it prints.
fn piped(program: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut child = plain(&mut Command::new(program))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A reader that stops at its trailer closes the pipe early.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The compressed archive, uncompressed by zstd(1).
fn second_part(initramfs: &[u8], folder: &Path) -> Vec<u8> {
    let packed = folder.join("part2.zst");
    let begin = (4096 + SLOT_SIZE..initramfs.len())
        .step_by(4096)
        .find(|at| initramfs[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
        .expect("a zstd frame at a page");
    std::fs::write(&packed, &initramfs[begin..]).unwrap();
    let unpacked = folder.join("part2");
    run(Command::new("zstd").args(["-q", "-d", "-f", "-o"]).arg(&unpacked).arg(&packed));
    std::fs::read(unpacked).unwrap()
}

#[test]
fn gnu_cpio_and_bsdtar_read_both_parts() {
    let folder = tempfile::tempdir().unwrap();
    let set = modules();
    let made = initramfs::build(&init(), &set, IDENTITY).unwrap();
    for listing in
        [piped("cpio", &["-tv", "--quiet"], &made.bytes), piped("bsdtar", &["-tvf", "-"], &made.bytes)]
    {
        assert_eq!(listing.lines().count(), 1, "{listing}");
        assert!(listing.contains(" 16384 ") && listing.trim_end().ends_with("identity.slot"), "{listing}");
    }
    let second = second_part(&made.bytes, folder.path());
    let release = set.release.as_deref().unwrap();
    let expected: Vec<String> =
        ["dev", "dev/console", "dev/null", "init", "lib", "lib/modules", "proc", "run", "sys"]
            .into_iter()
            .map(str::to_owned)
            .chain([format!("lib/modules/{release}")])
            .chain(["alias", "dep", "softdep"].map(|table| format!("lib/modules/{release}/modules.{table}")))
            .chain(set.files.keys().map(|file| format!("lib/modules/{release}/{file}")))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
    for (program, arguments) in [("cpio", ["-t", "--quiet"]), ("bsdtar", ["-tf", "-"])] {
        let listing = piped(program, &arguments, &second);
        let mut names: Vec<&str> = listing.lines().collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{program}");
    }
}

#[test]
fn gnu_cpio_sees_devices_modes_owners_and_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let made = initramfs::build(&init(), &modules(), IDENTITY).unwrap();
    let second = second_part(&made.bytes, folder.path());
    let listing = piped("cpio", &["-tv", "--quiet", "--numeric-uid-gid"], &second);
    let line = |name: &str| {
        let found = listing.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(line("dev/console").starts_with("crw------- 1 0 0 5, 1 Jan 1 1970"), "{}", line("dev/console"));
    assert!(line("dev/null").starts_with("crw-rw-rw- 1 0 0 1, 3 Jan 1 1970"), "{}", line("dev/null"));
    assert!(line("init").starts_with("-rwxr-xr-x 1 0 0 65536 Jan 1 1970"), "{}", line("init"));
    assert!(line("proc").starts_with("drwxr-xr-x 2 0 0 0 Jan 1 1970"), "{}", line("proc"));
}

#[test]
fn unpacked_content_is_what_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let set = modules();
    let made = initramfs::build(&init(), &set, IDENTITY).unwrap();
    let second = folder.path().join("second.cpio");
    std::fs::write(&second, second_part(&made.bytes, folder.path())).unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let first = folder.path().join("first.cpio");
    std::fs::write(&first, &made.bytes).unwrap();
    run(Command::new("bsdtar").arg("-xf").arg(&second).arg("-C").arg(&root).args(["--exclude", "dev/*"]));
    run(Command::new("bsdtar").arg("-xf").arg(&first).arg("-C").arg(&root));
    assert!(std::fs::read(root.join("init")).unwrap() == init());
    let slot = std::fs::read(root.join("identity.slot")).unwrap();
    assert_eq!(slot::read(&slot).unwrap(), IDENTITY);
    let below = root.join("lib/modules").join(set.release.as_deref().unwrap());
    assert_eq!(std::fs::read_to_string(below.join("modules.dep")).unwrap(), set.dep);
    assert!(set.files.iter().all(|(name, content)| std::fs::read(below.join(name)).unwrap() == *content));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, init, set) = (kernel(), init(), modules());
    let made = |name: &str| {
        let target = folder.path().join(name);
        netboot::write(&parts(&kernel, &init, &set, IDENTITY), &target).unwrap();
        target
    };
    let (one, two) = (made("one"), made("two"));
    run(Command::new("diff").arg("-r").arg(&one).arg(&two));
    run(Command::new("sha256sum").args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&one));
}

#[test]
fn refuses_parts_that_do_not_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("image");
    let (kernel, init, set) = (kernel(), init(), modules());
    let refused = |parts: &netboot::Parts<'_>| format!("{:#}", netboot::write(parts, &target).unwrap_err());
    let good = parts(&kernel, &init, &set, IDENTITY);
    let other = ModuleSet { release: Some("6.1.0-0-other".to_owned()), ..set.clone() };
    assert!(
        refused(&netboot::Parts { modules: &other, ..good })
            .starts_with("modules are for kernel 6.1.0-0-other")
    );
    assert!(refused(&netboot::Parts { kernel: b"<html>", ..good }).starts_with("kernel: neither"));
    assert!(
        refused(&netboot::Parts { init: b"#!/bin/sh", ..good }).starts_with("init: expected an ELF program")
    );
    let packed = netboot::Parts { kernel: b"\x1f\x8b\x08", ..good };
    assert_eq!(refused(&packed), "kernel: packed by gzip, expected it unpacked (gunzip)");
    let arm = netboot::Parts { arch: Arch::Arm64, ..good };
    assert_eq!(refused(&arm), "kernel is for amd64, expected arm64");
    let arm_kernel = kernel_of(Arch::Arm64);
    let arm = netboot::Parts { arch: Arch::Arm64, kernel: &arm_kernel, ..good };
    assert_eq!(refused(&netboot::Parts { arch: Arch::Amd64, ..arm }), "kernel is for arm64, expected amd64");
    let release = set.release.as_deref().unwrap();
    assert!(refused(&arm).starts_with(&format!("modules are for kernel {release}, but the kernel is ")));
    let empty = ModuleSet::default();
    let arm = netboot::Parts { modules: &empty, ..arm };
    assert_eq!(refused(&arm), "init: expected an ELF program for arm64");
    assert!(!target.exists());
}

/// An image of small parts, for what does not depend on the kernel.
fn small_image(folder: &Path) -> std::path::PathBuf {
    let target = folder.join("image");
    let (kernel, init, set) = (kernel(), init(), ModuleSet::default());
    netboot::write(&parts(&kernel, &init, &set, b""), &target).unwrap();
    target
}

#[test]
fn a_stamp_changes_the_slot_and_the_sums_only() {
    let folder = tempfile::tempdir().unwrap();
    let image = small_image(folder.path());
    assert!(format!("{:#}", slots::read_slot(&image).unwrap_err()).contains("slot is blank"));
    let before = std::fs::read(image.join("initramfs")).unwrap();
    slots::stamp(&image, IDENTITY).unwrap();
    assert_eq!(slots::read_slot(&image).unwrap(), IDENTITY);
    let after = std::fs::read(image.join("initramfs")).unwrap();
    let end = 4096 + SLOT_SIZE;
    assert!(before.len() == after.len() && before[..4096] == after[..4096] && before[end..] == after[end..]);
    run(Command::new("sha256sum").args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&image));
    slots::stamp(&image, b"{}").unwrap();
    assert_eq!(slots::read_slot(&image).unwrap(), b"{}");
}

#[test]
fn a_stamped_base_image_equals_one_made_with_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let stamped = small_image(folder.path());
    slots::stamp(&stamped, IDENTITY).unwrap();
    let (kernel, init, set) = (kernel(), init(), ModuleSet::default());
    let made = folder.path().join("made");
    netboot::write(&parts(&kernel, &init, &set, IDENTITY), &made).unwrap();
    run(Command::new("diff").arg("-r").arg(&stamped).arg(&made));
}

#[test]
fn a_stamp_writes_nothing_when_one_slot_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let image = small_image(folder.path());
    // A second slot is recorded where there is none.
    let json = std::fs::read_to_string(image.join("image.json")).unwrap();
    let first = "{\"file\":\"initramfs\",\"offset\":4096}";
    let two = json.replace(first, &format!("{first},{{\"file\":\"kernel\",\"offset\":8192}}"));
    assert_ne!(two, json);
    std::fs::write(image.join("image.json"), two).unwrap();
    let before = std::fs::read(image.join("initramfs")).unwrap();
    let error = slots::stamp(&image, IDENTITY).unwrap_err();
    assert!(
        error.to_string().ends_with("has no identity slot at offset 8192, nothing was written"),
        "{error}"
    );
    assert!(std::fs::read(image.join("initramfs")).unwrap() == before);
}

#[test]
fn a_damaged_slot_is_seen_and_a_new_stamp_repairs_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = small_image(folder.path());
    slots::stamp(&image, IDENTITY).unwrap();
    let mut bytes = std::fs::read(image.join("initramfs")).unwrap();
    bytes[4096 + 50] ^= 1;
    std::fs::write(image.join("initramfs"), bytes).unwrap();
    assert!(format!("{:#}", slots::read_slot(&image).unwrap_err()).contains("slot is damaged"));
    slots::stamp(&image, IDENTITY).unwrap();
    assert_eq!(slots::read_slot(&image).unwrap(), IDENTITY);
}

#[test]
fn refuses_an_identity_that_is_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let image = small_image(folder.path());
    let error = slots::stamp(&image, &vec![b' '; SLOT_SIZE]).unwrap_err();
    assert!(format!("{error:#}").contains("expected at most 16336"), "{error:#}");
    assert_eq!(Image::read(&image).unwrap().slots.len(), 1);
}
