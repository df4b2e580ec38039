//! Kernel modules for the hardware that is present.
//!
//! In: `/lib/modules/VERSION` of the initramfs with kmod's `modules.alias` and `modules.dep` (modules.alias(5)),
//! and the modalias of every device in sysfs. Out: loaded modules, dependencies first. A kernel that has all its
//! drivers built in brings no such folder, and then nothing happens.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zstrap_formats::cmdline::{Cmdline, Parameter};

use crate::watchdog;

/// Where devices show what driver they want.
const BUSES: &str = "/sys/bus";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// How the class of a network card begins.
const NETWORK: &str = "02";
/// A driver may bring a bus with new devices; more rounds than buses can be nested mean something is wrong.
const MAX_ROUNDS: usize = 16;

/// Where the kernel's build puts drivers of watchdogs.
const WATCHDOGS: &str = "/watchdog/";

/// How long a driver may look for its hardware: a RAID controller whose firmware starts takes three minutes.
const LOADING: Duration = Duration::from_secs(300);

/// The modules at hand.
#[derive(Debug, Default)]
pub struct Modules {
    folder: PathBuf,
    /// Module name to its parameters, from the kernel command line.
    parameters: HashMap<String, String>,
    aliases: Vec<Alias>,
    /// Path of a module to those it needs, itself excluded; paths are relative to the folder.
    needs: HashMap<String, Vec<String>>,
    /// Module name to path.
    paths: HashMap<String, String>,
    /// Module name to those that should be there before it.
    before: HashMap<String, Vec<String>>,
    /// Modules that were tried, whatever came of it.
    tried: HashSet<String>,
    /// Devices whose modalias was looked up.
    seen: HashSet<Vec<u8>>,
}

#[derive(Debug)]
struct Alias {
    pattern: Vec<u8>,
    module: String,
}

impl Modules {
    /// The modules that the initramfs brings for this kernel, with the parameters that its command line has for them.
    #[must_use]
    pub fn of_kernel(version: &str, cmdline: &Cmdline) -> Self {
        let folder = Path::new("/lib/modules").join(version);
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (aliases, dependencies) = (read("modules.alias"), read("modules.dep"));
        let soft = read("modules.softdep");
        Self { parameters: parameters(cmdline), ..Self::parse(folder, &aliases, &dependencies, &soft) }
    }

    fn parse(folder: PathBuf, aliases: &str, dependencies: &str, soft: &str) -> Self {
        let mut modules = Self { folder, ..Self::default() };
        for line in soft.lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(module)) = (words.next(), words.next()) {
                // Such as the PHY driver of a network card, without which the card finds no cable.
                let before = words.skip_while(|w| *w != "pre:").skip(1).take_while(|w| *w != "post:");
                modules.before.insert(module_name(module), before.map(str::to_owned).collect());
            }
        }
        for line in dependencies.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            modules.paths.insert(module_name(path), path.to_owned());
            modules.needs.insert(path.to_owned(), needs.split_whitespace().map(str::to_owned).collect());
        }
        for line in aliases.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                modules
                    .aliases
                    .push(Alias { pattern: pattern.as_bytes().to_vec(), module: module.to_owned() });
            }
        }
        modules
    }

    /// Loads what the devices that are there now want, until no new device shows up. Returns how many modules
    /// were loaded.
    pub fn load_for_hardware(&mut self) -> usize {
        let mut loaded = 0;
        for _ in 0..MAX_ROUNDS {
            let new: Vec<Vec<u8>> =
                modaliases().into_iter().filter(|alias| self.seen.insert(alias.clone())).collect();
            let wanted: Vec<String> = new.iter().flat_map(|alias| self.matching(alias)).collect();
            let before = loaded;
            for module in self.watchdogs_first(wanted) {
                loaded += self.load(&module);
            }
            if loaded == before {
                break;
            }
        }
        loaded
    }

    /// So that it covers the others.
    fn watchdogs_first(&self, mut modules: Vec<String>) -> Vec<String> {
        let is_other = |module: &str| !self.paths.get(module).is_some_and(|path| path.contains(WATCHDOGS));
        modules.sort_by_key(|module| is_other(&module_name(module)));
        modules
    }

    /// Loads one module by name, if it is at hand and was not tried before. Returns how many were loaded.
    pub fn load(&mut self, module: &str) -> usize {
        let name = module_name(module);
        let Some(path) = self.paths.get(&name).cloned() else { return 0 };
        // Taken out, so that two modules that wish for each other end here.
        let before = self.before.remove(&name).unwrap_or_default();
        before.iter().map(|module| self.load(module)).sum::<usize>() + self.load_with_needs(path)
    }

    fn load_with_needs(&mut self, path: String) -> usize {
        // kmod lists what is needed last first: dependencies of dependencies stand at the end.
        let mut order = self.needs.get(&path).cloned().unwrap_or_default();
        order.reverse();
        order.push(path);
        order.into_iter().filter(|path| self.tried.insert(path.clone()) && self.insert(path)).count()
    }

    fn insert(&self, path: &str) -> bool {
        let file = self.folder.join(path);
        let options = self.options(&module_name(path));
        watchdog::expect_within(LOADING);
        // Whichever has come with the kernel or a module before covers this one, which may hang.
        watchdog::arm_early();
        let result = File::open(&file).and_then(|module| {
            rustix::system::finit_module(&module, &options, 0).map_err(std::io::Error::from)
        });
        match &result {
            Ok(()) => log::debug!(target: "early", "module loaded path={path}"),
            // It came with the kernel, or another device wanted it first.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => log::warn!(target: "early", "module not loaded path={path} error={error}"),
        }
        result.is_ok()
    }

    fn options(&self, module: &str) -> CString {
        // By itself the bonding driver makes a bond in a mode that nobody has asked for.
        let own = if module == "bonding" { "max_bonds=0 " } else { "" };
        let given = self.parameters.get(module).map_or("", String::as_str);
        // No parameter of a command line has a NUL byte.
        CString::new(format!("{own}{given}")).unwrap_or_default()
    }

    fn matching(&self, modalias: &[u8]) -> Vec<String> {
        let fits = self.aliases.iter().filter(|alias| glob(&alias.pattern, modalias));
        fits.map(|alias| alias.module.clone()).collect()
    }
}

/// The name by which the kernel knows a module: without folders and endings, `-` as `_`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// `MODULE.PARAMETER=VALUE` of a kernel command line, which the kernel itself minds only for what is built in. What
/// modprobe(8) makes of it, by module.
fn parameters(cmdline: &Cmdline) -> HashMap<String, String> {
    let mut parameters: HashMap<String, String> = HashMap::new();
    for Parameter { name, value } in cmdline.parameters() {
        let Some((module, name)) = name.split_once('.') else { continue };
        let own = Parameter { name: name.to_owned(), value: value.clone() };
        // What quotes cannot carry was never one parameter.
        let Ok(text) = own.to_text() else { continue };
        let all = parameters.entry(module_name(module)).or_default();
        *all = format!("{all}{text} ");
    }
    parameters
}

/// The network cards that no driver has taken, as `VENDOR:DEVICE`, which people look drivers up by.
#[must_use]
pub fn cards_without_driver() -> Vec<String> {
    without_driver(Path::new(PCI_DEVICES))
}

fn without_driver(devices: &Path) -> Vec<String> {
    let read = |device: &Path, name: &str| {
        let text = fs::read_to_string(device.join(name)).unwrap_or_default();
        text.trim().trim_start_matches("0x").to_owned()
    };
    let entries = fs::read_dir(devices).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_idle =
        |device: &PathBuf| read(device, "class").starts_with(NETWORK) && !device.join("driver").exists();
    let id = |device: PathBuf| format!("{}:{}", read(&device, "vendor"), read(&device, "device"));
    let mut cards: Vec<String> = entries.filter(is_idle).map(id).collect();
    cards.sort();
    cards
}

/// What every device of every bus says of itself.
fn modaliases() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for bus in fs::read_dir(BUSES).into_iter().flatten().flatten() {
        for device in fs::read_dir(bus.path().join("devices")).into_iter().flatten().flatten() {
            if let Ok(text) = fs::read(device.path().join("modalias")) {
                found.push(text.trim_ascii_end().to_vec());
            }
        }
    }
    found
}

/// fnmatch(3) as kmod uses it: `*`, `?` and `[…]`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last star stands, and how much of the text it has taken: only that one is ever tried again.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(byte) => {
                if let Some(length) = one(&pattern[p..], *byte, text[t]) {
                    p += length;
                    t += 1;
                    continue;
                }
            }
            None => {}
        }
        let Some((at, taken)) = star else { return false };
        star = Some((at, taken + 1));
        (p, t) = (at + 1, taken + 1);
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How many bytes of the pattern match one byte of the text.
fn one(pattern: &[u8], first: u8, byte: u8) -> Option<usize> {
    if first == b'?' {
        return Some(1);
    }
    let end = if first == b'[' { pattern.iter().position(|b| *b == b']') } else { None };
    let Some(end) = end else { return (first == byte).then_some(1) };
    let mut set = &pattern[1..end];
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    set = if negated { &set[1..] } else { set };
    let mut found = false;
    while let [low, rest @ ..] = set {
        match rest {
            [b'-', high, tail @ ..] => {
                found |= (low..=high).contains(&&byte);
                set = tail;
            }
            _ => {
                found |= *low == byte;
                set = rest;
            }
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_that_no_driver_has_taken_are_named() {
        let bus = tempfile::tempdir().expect("a scratch folder");
        let device = |name: &str, class: &str, has_driver: bool| {
            let folder = bus.path().join(name);
            fs::create_dir(&folder).expect("a scratch folder");
            for (file, text) in [("class", class), ("vendor", "0x8086\n"), ("device", "0x100e\n")] {
                fs::write(folder.join(file), text).expect("a scratch folder");
            }
            if has_driver {
                fs::create_dir(folder.join("driver")).expect("a scratch folder");
            }
        };
        device("0000:00:01.0", "0x030000\n", false);
        device("0000:00:02.0", "0x020000\n", true);
        assert_eq!(without_driver(bus.path()), [""; 0]);
        device("0000:00:03.0", "0x020000\n", false);
        assert_eq!(without_driver(bus.path()), ["8086:100e"]);
        assert_eq!(without_driver(&bus.path().join("none")), [""; 0]);
    }

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("pci:v00001AF4d*sv*", "pci:v00001AF4d00001000sv00001AF4sd1", true),
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            ("usb:v*dc09[0-4]x", "usb:v1dc093x", true),
            ("usb:v*dc09[!0-4]x", "usb:v1dc093x", false),
            ("a?c", "abc", true),
            ("*a*b*c", "xxaxxbxxbc", true),
            ("*a*b*c", "xxaxxbxxb", false),
            ("", "", true),
            ("", "x", false),
            ("***", "", true),
            ("[", "[", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = "*a".repeat(200);
        assert!(!glob(pattern.as_bytes(), "a".repeat(199).as_bytes()));
    }

    #[test]
    fn dependencies_come_first() {
        let dep =
            "kernel/net/virtio_net.ko: kernel/b.ko kernel/a.ko\nkernel/a.ko:\nkernel/b.ko: kernel/a.ko\n";
        let alias = "# comment\nalias virtio:d00000001v* virtio_net\n";
        let modules = Modules::parse(PathBuf::from("/nowhere"), alias, dep, "");
        assert_eq!(modules.matching(b"virtio:d00000001v1"), ["virtio_net"]);
        let mut order = modules.needs["kernel/net/virtio_net.ko"].clone();
        order.reverse();
        assert_eq!(order, ["kernel/a.ko", "kernel/b.ko"]);
    }

    #[test]
    fn watchdogs_come_first_to_cover_the_others() {
        let dep = "kernel/drivers/watchdog/sp5100_tco.ko:\nkernel/drivers/net/a.ko:\nkernel/b.ko:\n";
        let modules = Modules::parse(PathBuf::from("/nowhere"), "", dep, "");
        let wanted = ["b", "a", "sp5100-tco"].map(str::to_owned).to_vec();
        assert_eq!(modules.watchdogs_first(wanted), ["sp5100-tco", "b", "a"]);
    }

    #[test]
    fn modules_get_their_parameters_from_the_kernel_command_line() {
        let line =
            b"quiet i6300esb.nowayout=1 a-b.x a_b.y=\"1 2\" bonding.max_bonds=2 zstrap.log=debug .z=1 --";
        let modules = Modules { parameters: parameters(&Cmdline::parse(line)), ..Modules::default() };
        let options = |module: &str| modules.options(module).into_string().expect("text");
        assert_eq!(options("i6300esb"), "nowayout=1 ");
        assert_eq!(options("a_b"), "x y=\"1 2\" ");
        assert_eq!(options("bonding"), "max_bonds=0 max_bonds=2 ");
        assert_eq!(options("virtio_net"), "");
    }

    #[test]
    fn modules_that_wish_for_each_other_end() {
        let (dep, soft) = ("a.ko:\nb.ko:\n", "softdep a pre: b post: c\nsoftdep b pre: a\n");
        let mut modules = Modules::parse(PathBuf::from("/nowhere"), "", dep, soft);
        assert_eq!(modules.before["a"], ["b"]);
        modules.load("a");
        assert_eq!(modules.tried.len(), 2);
    }

    #[test]
    fn a_kernel_without_modules_needs_none() {
        let mut modules = Modules::parse(PathBuf::from("/nowhere"), "", "", "");
        assert_eq!(modules.load_for_hardware(), 0);
        assert_eq!(modules.load("virtio_net"), 0);
    }
}
