//! Service files for the zinit that the bundle delivers.
//!
//! In: the list, the config's `exec`, and what is to run. Out: one file a service, in the new root, in the dialect
//! that this zinit reads: YAML for 0.2.x, TOML for 0.3.x. A file of the bundle stays as it is. Failure: a reason for
//! a line of the log; a node whose programs start something else boots all the same.
//!
//! The dialect is what `exec` starts: the name of the program with its links followed in the list, and where its
//! arguments say that services stand. A program of another name counts for nothing, but then the service files of the
//! bundle say what it reads; nothing is guessed from less.

use std::borrow::Cow;
use std::io::{self, Write as _};

use zstrap_formats::config::Config;
use zstrap_formats::list::{Entry, EntryKind, List};

use crate::sys::{Meta, RootDir};

/// Where zinit 0.2.x looks, unless `--config` says otherwise.
const YAML_FOLDER: &str = "/etc/zinit";
/// Where zinit 0.3.x looks under `--pid1-mode`, and where the bundles of this project have their services.
const TOML_FOLDER: &str = "/etc/zinit/services";
/// Where both look, below `HOME`, when they run for a user.
const HOME_FOLDER: &str = "hero/cfg/zinit";
/// As the kernel has it.
const MAX_LINKS: usize = 40;

/// What service files look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// zinit 0.2.x: the name of the file is that of the service.
    Yaml,
    /// zinit 0.3.x.
    Toml,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Toml => "toml",
        }
    }
}

/// What the delivered zinit reads, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    format: Format,
    folder: String,
}

/// A program that is kept running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service<'a> {
    /// `[a-z0-9-]`: also the name of its file.
    pub name: &'a str,
    /// The program by its absolute path, then its arguments: words, which need no quotes here.
    pub exec: Vec<Cow<'a, str>>,
    /// Services that are tried before it.
    pub after: Vec<&'a str>,
}

/// What became of a service file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands at this path.
    New(String),
    /// The bundle has its own at this path.
    Kept(String),
}

impl Dialect {
    /// The dialect of the zinit that this config starts from this list.
    ///
    /// # Errors
    /// Why nobody knows.
    pub fn of(list: &List, config: &Config) -> Result<Self, String> {
        let (program, args) = config.exec.split_first().ok_or("exec is empty")?;
        let program = resolve(list, program.as_bytes()).unwrap_or_default();
        let name = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let home = || format!("{}/{HOME_FOLDER}", config.env.get("HOME").map_or("/root", String::as_str));
        let has = |word: &str| args.iter().any(|arg| arg == word);
        let (format, folder) = match name {
            b"zinit-server" if has("--pid1-mode") => {
                (Format::Toml, option(args, "--config-dir").unwrap_or_else(|| TOML_FOLDER.to_owned()))
            }
            b"zinit-server" => (Format::Toml, option(args, "--config-dir").unwrap_or_else(home)),
            b"zinit" if has("init") => {
                (Format::Yaml, option(args, "--config").unwrap_or_else(|| YAML_FOLDER.to_owned()))
            }
            // The one 0.2.0 of the registry: fixed paths, and no options.
            b"zinit" if has("start") => (Format::Yaml, home()),
            _ => return Self::of_files(list),
        };
        let dialect = Self { format, folder };
        dialect.agrees_with(list).map(|()| dialect)
    }

    /// For a program that is neither zinit, such as a script that starts one.
    fn of_files(list: &List) -> Result<Self, String> {
        let has = |folder: &str, format| !files(list, folder, format).is_empty();
        let (yaml, toml) = (has(YAML_FOLDER, Format::Yaml), has(TOML_FOLDER, Format::Toml));
        match (yaml, toml) {
            (true, false) => Ok(Self { format: Format::Yaml, folder: YAML_FOLDER.to_owned() }),
            (false, true) => Ok(Self { format: Format::Toml, folder: TOML_FOLDER.to_owned() }),
            (true, true) => Err(format!(
                "exec is no zinit, and the bundle has services in {YAML_FOLDER} and {TOML_FOLDER}"
            )),
            (false, false) => Err(format!(
                "exec is no zinit, and the bundle has no services in {YAML_FOLDER} or {TOML_FOLDER}"
            )),
        }
    }

    /// Services of the other dialect alone mean that the program is not what its name says.
    fn agrees_with(&self, list: &List) -> Result<(), String> {
        let other = if self.format == Format::Yaml { Format::Toml } else { Format::Yaml };
        let has = |format| !files(list, &self.folder, format).is_empty();
        if has(other) && !has(self.format) {
            let (expected, found) = (self.format.extension(), other.extension());
            return Err(format!(
                "{} has .{found} files only, and exec starts what reads .{expected}",
                self.folder
            ));
        }
        Ok(())
    }

    /// Where the file of this service stands.
    #[must_use]
    pub fn path(&self, service: &str) -> String {
        format!("{}/{service}.{}", self.folder.trim_end_matches('/'), self.format.extension())
    }

    /// The content of the file.
    #[must_use]
    pub fn text(&self, service: &Service<'_>) -> String {
        let command: Vec<_> = service.exec.iter().map(|word| quoted(word)).collect();
        let command = command.join(" ");
        let head = "# Written by zstrap at this boot, from the signed config.";
        let after = json(&service.after);
        let name = json(&service.name);
        match self.format {
            // It splits the command into words by itself, and starts again what ends.
            Format::Yaml => format!("{head}\nexec: {}\nafter: {after}\n", json(&command)),
            // It hands the command to `/bin/sh -c`.
            Format::Toml => format!(
                "{head}\n[service]\nname = {name}\nexec = {}\n\n[dependencies]\nafter = {after}\n\n\
                 [lifecycle]\nrestart = \"always\"\nmax_restarts = 0\n",
                json(&format!("exec {command}"))
            ),
        }
    }
}

/// Writes the file of a service, unless the bundle has brought one of this name.
///
/// # Errors
/// The kernel's refusal, naming the path.
pub fn write(root: &dyn RootDir, dialect: &Dialect, service: &Service<'_>) -> io::Result<Written> {
    let path = dialect.path(service.name);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("writing {path}: {error}"));
    let below = path.trim_start_matches('/');
    make_parents(root, below).map_err(named)?;
    let mut file = root.create(below.as_bytes()).map_err(named)?;
    file.write_all(dialect.text(service).as_bytes()).map_err(named)?;
    match file.commit(Meta { mode: 0o644, uid: 0, gid: 0 }) {
        Ok(()) => Ok(Written::New(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::Kept(path)),
        Err(error) => Err(named(error)),
    }
}

/// Directories that are there keep their owner and mode.
fn make_parents(root: &dyn RootDir, path: &str) -> io::Result<()> {
    for (at, _) in path.match_indices('/') {
        let parent = &path.as_bytes()[..at];
        if !root.is_dir(parent) {
            root.make_dir(parent, Meta { mode: 0o755, uid: 0, gid: 0 })?;
        }
    }
    Ok(())
}

/// The value of a long option, or of the short one that is its first letter, as clap takes them.
fn option(args: &[String], long: &str) -> Option<String> {
    let short = &long[1..3];
    let value = |(at, arg): (usize, &String)| {
        if arg == long || arg == short {
            return args.get(at + 1).cloned();
        }
        let joined = arg.strip_prefix(long).and_then(|rest| rest.strip_prefix('='));
        let joined = joined.or_else(|| arg.strip_prefix(short).map(|rest| rest.trim_start_matches('=')));
        joined.map(str::to_owned)
    };
    args.iter().enumerate().find_map(value)
}

/// A word for `sh` and for those who split as it does.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
}

/// Strings and lists of them are the same in JSON, YAML and TOML but for one character, which JSON may leave as it is.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().replace('\u{7f}', "\\u007f")
}

/// Regular files of this format directly in a folder of the list.
fn files<'a>(list: &'a List, folder: &str, format: Format) -> Vec<&'a Entry> {
    let folder = resolve(list, folder.as_bytes()).unwrap_or_default();
    let inside = |entry: &&Entry| {
        let name = entry.path.strip_prefix(folder.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
        let ending = format!(".{}", format.extension());
        matches!(entry.kind, EntryKind::File(_))
            && name.is_some_and(|name| !name.contains(&b'/') && name.ends_with(ending.as_bytes()))
    };
    list.entries().iter().filter(inside).collect()
}

/// What a path leads to when the links of the list are followed; parts that the list does not name stay as they are.
fn resolve(list: &List, path: &[u8]) -> Option<Vec<u8>> {
    let parts = |path: &[u8]| path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (mut left, mut done, mut links) = (parts(path), Vec::new(), 0);
    while let Some(part) = left.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => done.push(part),
        }
        if let Some(target) = link(list, &done.join(&b'/')) {
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            left.extend(parts(target));
        }
    }
    Some(done.join(&b'/'))
}

fn link<'a>(list: &'a List, path: &[u8]) -> Option<&'a [u8]> {
    let entries = list.entries();
    let at = entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok()?;
    match &entries[at].kind {
        EntryKind::Link(target) => Some(target),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake;
    use crate::sys::{System as _, linux::Linux};
    use std::process::Command;
    use zstrap_formats::digest::ContentDigest;

    /// A list of files and links (`PATH -> TARGET`), with the folders that they need.
    fn list(names: &[&str]) -> List {
        let mut entries: Vec<Entry> = Vec::new();
        for name in names {
            let (path, target) = name.split_once(" -> ").map_or((*name, None), |(p, t)| (p, Some(t)));
            for (at, _) in path.match_indices('/') {
                let folder = path.as_bytes()[..at].to_vec();
                if !entries.iter().any(|entry| entry.path == folder) {
                    entries.push(Entry { path: folder, mode: 0o755, uid: 0, gid: 0, kind: EntryKind::Dir });
                }
            }
            let file = fake::file_entry(path.as_bytes(), ContentDigest::of(b""));
            let kind = target.map_or(file.kind.clone(), |target| EntryKind::Link(target.into()));
            entries.push(Entry { kind, ..file });
        }
        List::new(entries).unwrap()
    }

    fn config(exec: &[&str]) -> Config {
        let json = serde_json::json!({"version": 1, "bundle": "demo", "exec": exec});
        Config::parse_strict(json.to_string().as_bytes()).unwrap()
    }

    fn path_of(names: &[&str], exec: &[&str]) -> Result<String, String> {
        Dialect::of(&list(names), &config(exec)).map(|dialect| dialect.path("x"))
    }

    fn path(names: &[&str], exec: &[&str]) -> String {
        path_of(names, exec).unwrap()
    }

    #[test]
    fn zinit_is_known_by_what_exec_starts() {
        let old = ["sbin/zinit"];
        assert_eq!(path(&old, &["/sbin/zinit", "init"]), "/etc/zinit/x.yaml");
        assert_eq!(path(&old, &["/sbin/zinit", "-d", "init", "-c", "/srv/z/"]), "/srv/z/x.yaml");
        assert_eq!(path(&old, &["/sbin/zinit", "init", "--config=/srv/z"]), "/srv/z/x.yaml");
        assert_eq!(path(&old, &["/sbin/zinit", "start"]), "/root/hero/cfg/zinit/x.yaml");
        let new = ["sbin/zinit", "sbin/zinit-server"];
        let server = |more: &[&str]| path(&new, &[&["/sbin/zinit-server"], more].concat());
        assert_eq!(server(&["--config-dir", "/etc/zinit/services"]), "/etc/zinit/services/x.toml");
        assert_eq!(server(&["-c", "/srv"]), "/srv/x.toml");
        assert_eq!(server(&["-c/srv"]), "/srv/x.toml");
        assert_eq!(server(&["--pid1-mode"]), "/etc/zinit/services/x.toml");
        assert_eq!(server(&[]), "/root/hero/cfg/zinit/x.toml");
        let mut at_home = config(&["/sbin/zinit-server"]);
        at_home.env.insert("HOME".to_owned(), "/home/z".to_owned());
        assert_eq!(Dialect::of(&list(&new), &at_home).unwrap().path("x"), "/home/z/hero/cfg/zinit/x.toml");
    }

    #[test]
    fn links_of_the_list_are_followed() {
        let merged = ["sbin -> usr/sbin", "usr/sbin/init -> ../bin/zinit", "usr/bin/zinit"];
        assert_eq!(path(&merged, &["/sbin/init", "init"]), "/etc/zinit/x.yaml");
        let absolute = ["init -> /usr/bin/zinit-server", "usr/bin/zinit-server"];
        assert_eq!(path(&absolute, &["/init", "-c", "/s"]), "/s/x.toml");
        let endless = ["a -> b", "b -> a"];
        assert!(path_of(&endless, &["/a"]).unwrap_err().contains("no zinit"));
    }

    #[test]
    fn another_program_is_judged_by_the_services_that_the_bundle_has() {
        let script = ["/sbin/start"];
        assert_eq!(path(&["sbin/start", "etc/zinit/a.yaml"], &script), "/etc/zinit/x.yaml");
        assert_eq!(path(&["sbin/start", "etc/zinit/services/a.toml"], &script), "/etc/zinit/services/x.toml");
        let both = ["sbin/start", "etc/zinit/a.yaml", "etc/zinit/services/a.toml"];
        assert!(path_of(&both, &script).unwrap_err().contains("and the bundle has services in"));
        let none = ["sbin/start", "etc/zinit/deep/a.yaml", "etc/zinit/a.yaml/b"];
        assert!(path_of(&none, &script).unwrap_err().contains("has no services in"));
    }

    #[test]
    fn a_name_that_the_services_belie_counts_for_nothing() {
        let names = ["sbin/zinit-server", "etc/zinit/a.yaml"];
        let refusal = path_of(&names, &["/sbin/zinit-server", "-c", "/etc/zinit"]).unwrap_err();
        assert_eq!(refusal, "/etc/zinit has .yaml files only, and exec starts what reads .toml");
    }

    fn odd() -> Service<'static> {
        let words = ["/usr/bin/odd", "", "a b", "it's", "$HOME", "\"`\\", "l1\nl2", "\u{7f}", "gr\u{fc}n"];
        Service { name: "odd", exec: words.map(Cow::Borrowed).to_vec(), after: vec!["lease", "mycelium"] }
    }

    /// What Python reads, as JSON.
    fn judged(script: &str, text: &str) -> serde_json::Value {
        let output = Command::new("/usr/bin/python3").args(["-c", script, text]).output().unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn yaml_keeps_every_word() {
        let dialect = Dialect { format: Format::Yaml, folder: "/etc/zinit".to_owned() };
        let script = "import sys, json, yaml, shlex; s = yaml.safe_load(sys.argv[1]); \
                      print(json.dumps([shlex.split(s.pop('exec')), s]))";
        let expected = serde_json::json!([odd().exec, {"after": ["lease", "mycelium"]}]);
        assert_eq!(judged(script, &dialect.text(&odd())), expected);
    }

    #[test]
    fn toml_keeps_every_word() {
        let dialect = Dialect { format: Format::Toml, folder: "/etc/zinit".to_owned() };
        let script = "import sys, json, tomllib; print(json.dumps(tomllib.loads(sys.argv[1])))";
        let mut read = judged(script, &dialect.text(&odd()));
        let command = read["service"]["exec"].take();
        // The shell is the judge of words: each on its own, with its end.
        let command = command.as_str().unwrap().replacen("exec /usr/bin/odd", "printf '%s|'", 1);
        let said = Command::new("/bin/sh").args(["-c", &command]).output().unwrap().stdout;
        let expected = odd().exec[1..].iter().map(|word| format!("{word}|")).collect::<String>();
        assert_eq!(String::from_utf8(said).unwrap(), expected);
        assert_eq!(read["service"]["name"], "odd");
        assert_eq!(read["dependencies"]["after"], serde_json::json!(["lease", "mycelium"]));
        assert_eq!(read["lifecycle"]["restart"], "always");
    }

    #[test]
    fn a_file_of_the_bundle_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = Linux.open_root(folder.path().to_str().unwrap()).unwrap();
        let dialect = Dialect { format: Format::Toml, folder: "/etc/zinit/services".to_owned() };
        let path = "/etc/zinit/services/odd.toml".to_owned();
        assert_eq!(write(&*root, &dialect, &odd()).unwrap(), Written::New(path.clone()));
        let file = folder.path().join("etc/zinit/services/odd.toml");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), dialect.text(&odd()));
        std::fs::write(&file, "own").unwrap();
        assert_eq!(write(&*root, &dialect, &odd()).unwrap(), Written::Kept(path));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "own");
    }
}
