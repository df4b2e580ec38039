//! The list: what a bundle consists of, one line an entry, in mtree(5) format.
//!
//! In: the bytes of a list, or entries. Out: a [`List`] whose every path is relative and clean, stands once, and
//! follows its parent directory; or an error with the line number. Nodes read with [`List::parse`], which takes
//! only what `publish` writes; [`List::parse_mtree`] also reads what `bsdtar --format=mtree` writes, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::digest::{ContentDigest, Md5, Sha256};

/// The longest list in bytes.
pub const MAX_LIST: usize = 64 * 1024 * 1024;
/// The most entries in a list.
pub const MAX_ENTRIES: usize = 200_000;
/// The longest path in bytes, as Linux has it (PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// The longest name of one path component in bytes (NAME_MAX).
pub const MAX_COMPONENT: usize = 255;
/// The set-user-ID and set-group-ID bits of a mode.
pub const SETUID_BITS: u16 = 0o6000;

const MAX_MODE: u16 = 0o7777;
const MODE_RULE: &str = "an octal number up to 7777";
const TARGET_RULE: &str = "a path of 1 to 4095 bytes in octal escapes";
/// To `chown(2)` this number means: leave the owner as it is.
const NO_ID: u32 = u32::MAX;
const ID_RULE: &str = "an id, as chown(2) takes it for none";
const FIRST_LINE: &[u8] = b"#mtree";
/// Keywords that say nothing zstrap keeps.
const IGNORED: [&str; 4] = ["time", "nlink", "uname", "gname"];

/// A list that breaks a rule, and where.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct ListError {
    /// Line number, from 1; 0 for the list as a whole.
    pub line: usize,
    /// Which rule.
    pub problem: Problem,
}

/// The rules of a list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Problem {
    /// Longer than [`MAX_LIST`].
    #[error("list has {0} bytes, expected at most {MAX_LIST}")]
    TooLong(usize),
    /// More than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
    /// Not an mtree list at all.
    #[error("expected \"#mtree\" as the first line, found {0:?}")]
    NotMtree(String),
    /// The last line is cut.
    #[error("last line does not end in a line break")]
    CutOff,
    /// Special lines and continuations that nodes do not read.
    #[error("unexpected {0:?}: only full-path lines are read here")]
    Special(String),
    /// A path that leads elsewhere.
    #[error("path {path:?} {rule}")]
    Path {
        /// The path as it stands in the list.
        path: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// A path that stands twice.
    #[error("path {0:?} stands twice")]
    Duplicate(String),
    /// A path out of bytewise order.
    #[error("path {0:?} is out of order, expected bytewise order")]
    Order(String),
    /// A path whose parent is no directory of this list.
    #[error("path {path:?} stands below {parent:?}, which is {found}")]
    Parent {
        /// The path.
        path: String,
        /// Its parent.
        parent: String,
        /// `missing`, `a link` or `a file`.
        found: &'static str,
    },
    /// A keyword that zstrap does not know, or that stands twice, or does not belong to this type.
    #[error("unexpected keyword {0:?}")]
    Keyword(String),
    /// A keyword that must be there.
    #[error("keyword {0} is missing")]
    Missing(&'static str),
    /// A value that cannot be read.
    #[error("value {value:?} of {keyword} is not {expected}")]
    Value {
        /// The keyword.
        keyword: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// All sizes together are beyond any file system.
    #[error("sizes add up to more than 2^63 bytes")]
    TotalSize,
}

/// One file, directory or symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root as raw bytes, without `./`; empty for the root itself.
    pub path: Vec<u8>,
    /// Permission bits, at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A symbolic link and its target: raw bytes, absolute or relative.
    Link(Vec<u8>),
    /// A regular file and its content.
    File(ContentDigest),
}

impl Entry {
    /// The path as it stands in a list: `./` and octal escapes.
    #[must_use]
    pub fn display_path(&self) -> String {
        display(&self.path)
    }

    /// Whether it bears a set-user-ID or set-group-ID bit that means something: on files.
    #[must_use]
    pub fn is_setuid(&self) -> bool {
        matches!(self.kind, EntryKind::File(_)) && self.mode & SETUID_BITS != 0
    }

    fn write_line(&self, out: &mut String) {
        let line = match &self.kind {
            EntryKind::Dir => write!(out, "{} type=dir mode={:04o}", self.display_path(), self.mode),
            EntryKind::Link(target) => {
                let (path, target) = (self.display_path(), escape(target));
                write!(out, "{path} type=link mode={:04o} link={target}", self.mode)
            }
            EntryKind::File(ContentDigest { size, md5, sha256 }) => {
                let (path, mode) = (self.display_path(), self.mode);
                write!(
                    out,
                    "{path} type=file mode={mode:04o} size={size} md5digest={md5} sha256digest={sha256}"
                )
            }
        };
        line.expect("a String takes all text");
        for (keyword, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id != 0 {
                write!(out, " {keyword}={id}").expect("a String takes all text");
            }
        }
        out.push('\n');
    }
}

/// A whole list that keeps every rule of this format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    entries: Vec<Entry>,
    total_size: u64,
}

impl List {
    /// A list of these entries, put into order; its text is one that [`List::parse`] takes.
    ///
    /// # Errors
    /// [`ListError`] with line 0, naming the path that breaks a rule.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ListError> {
        let whole = |problem| ListError { line: 0, problem };
        if entries.len() > MAX_ENTRIES {
            return Err(whole(Problem::TooMany));
        }
        entries.iter().try_for_each(check_entry).map_err(whole)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let list = Self::check(entries.into_iter().map(|entry| (0, entry)).collect())?;
        match list.to_text().len() {
            0..=MAX_LIST => Ok(list),
            length => Err(whole(Problem::TooLong(length))),
        }
    }

    /// Reads a list as nodes do.
    ///
    /// # Errors
    /// [`ListError`] for everything that `publish` would not have written.
    pub fn parse(text: &[u8]) -> Result<Self, ListError> {
        let mut entries = Vec::new();
        for (number, line) in lines_of(text)? {
            let at = |problem| ListError { line: number, problem };
            if line.is_empty() || line.starts_with(b"/") || line.starts_with(b"#") || line.ends_with(b"\\") {
                return Err(at(Problem::Special(lossy(line))));
            }
            entries.push((number, read_line(line, &[]).map_err(at)?));
            if entries.len() > MAX_ENTRIES {
                return Err(at(Problem::TooMany));
            }
        }
        Self::check(entries)
    }

    /// Reads a list as `bsdtar` and other mtree(5) writers make it, too: `/set`, `..` lines, relative names,
    /// continuations, comments, any order, missing parents.
    ///
    /// # Errors
    /// [`ListError`] for what is no mtree list, or names what zstrap cannot hold.
    pub fn parse_mtree(text: &[u8]) -> Result<Self, ListError> {
        let mut entries = Dialect::default().read(text)?;
        entries.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
        Self::check(entries)
    }

    fn check(numbered: Vec<(usize, Entry)>) -> Result<Self, ListError> {
        let mut entries: Vec<Entry> = Vec::with_capacity(numbered.len());
        let mut total_size = 0u64;
        for (line, entry) in numbered {
            check_place(&entry, &entries).map_err(|problem| ListError { line, problem })?;
            if let EntryKind::File(content) = &entry.kind {
                total_size = total_size
                    .checked_add(content.size)
                    .filter(|total| i64::try_from(*total).is_ok())
                    .ok_or(ListError { line, problem: Problem::TotalSize })?;
            }
            entries.push(entry);
        }
        Ok(Self { entries, total_size })
    }

    /// The entries in bytewise order of their paths; parents stand before their children.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The sum of all file sizes in bytes.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.total_size
    }

    /// The text of the list, as it is signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::from("#mtree\n");
        self.entries.iter().for_each(|entry| entry.write_line(&mut out));
        out
    }
}

/// The numbered lines after `#mtree`.
fn lines_of(text: &[u8]) -> Result<impl Iterator<Item = (usize, &[u8])>, ListError> {
    let whole = |problem| ListError { line: 0, problem };
    if text.len() > MAX_LIST {
        return Err(whole(Problem::TooLong(text.len())));
    }
    let first = text.split(|b| *b == b'\n').next().unwrap_or_default();
    if first != FIRST_LINE {
        let found = lossy(&first[..first.len().min(60)]);
        return Err(ListError { line: 1, problem: Problem::NotMtree(found) });
    }
    let Some(body) = text.strip_suffix(b"\n") else {
        return Err(whole(Problem::CutOff));
    };
    Ok(body.split(|b| *b == b'\n').enumerate().skip(1).map(|(i, line)| (i + 1, line)))
}

/// Order, duplicates and parents; `before` is in order already.
fn check_place(entry: &Entry, before: &[Entry]) -> Result<(), Problem> {
    if let Some(last) = before.last() {
        match last.path.cmp(&entry.path) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(Problem::Duplicate(entry.display_path())),
            std::cmp::Ordering::Greater => return Err(Problem::Order(entry.display_path())),
        }
    }
    let Some(slash) = entry.path.iter().rposition(|b| *b == b'/') else {
        return check_root(entry);
    };
    let parent = &entry.path[..slash];
    let found = match before.binary_search_by(|e| e.path.as_slice().cmp(parent)) {
        Ok(i) => match before[i].kind {
            EntryKind::Dir => return Ok(()),
            EntryKind::Link(_) => "a link",
            EntryKind::File(_) => "a file",
        },
        Err(_) => "missing",
    };
    Err(Problem::Parent { path: entry.display_path(), parent: display(parent), found })
}

/// What parsing checks while it reads, for entries that were never text.
fn check_entry(entry: &Entry) -> Result<(), Problem> {
    if !entry.path.is_empty() {
        let wrong = |rule| Problem::Path { path: shortened(&entry.display_path()), rule };
        check_path(&entry.path).map_err(wrong)?;
    }
    if entry.mode > MAX_MODE {
        return Err(value("mode", &format!("{:o}", entry.mode), MODE_RULE));
    }
    for (keyword, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id == NO_ID {
            return Err(value(keyword, "4294967295", ID_RULE));
        }
    }
    match &entry.kind {
        EntryKind::Link(target) if !is_target(target) => Err(value("link", &escape(target), TARGET_RULE)),
        _ => Ok(()),
    }
}

fn check_root(entry: &Entry) -> Result<(), Problem> {
    if entry.path.is_empty() && entry.kind != EntryKind::Dir {
        return Err(Problem::Path { path: ".".to_owned(), rule: "is the root, expected type=dir" });
    }
    Ok(())
}

/// Keyword and value pairs of one line, later ones of a `/set` first.
type Words<'a> = BTreeMap<&'a str, &'a str>;

/// Reads one full-path line; `defaults` are those of a `/set`.
fn read_line(line: &[u8], defaults: &[(String, String)]) -> Result<Entry, Problem> {
    let text = printable(line)?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let path = clean_path(words.next().unwrap_or_default())?;
    let mut given = Words::new();
    for word in words {
        let (keyword, value) = word.split_once('=').ok_or_else(|| Problem::Keyword(word.to_owned()))?;
        if given.insert(keyword, value).is_some() {
            return Err(Problem::Keyword(keyword.to_owned()));
        }
    }
    for (keyword, value) in defaults {
        given.entry(keyword).or_insert(value);
    }
    read_entry(path, given)
}

fn read_entry(path: Vec<u8>, mut given: Words<'_>) -> Result<Entry, Problem> {
    given.retain(|keyword, _| !IGNORED.contains(keyword));
    let kind = given.remove("type").ok_or(Problem::Missing("type"))?;
    let mode = match given.remove("mode") {
        Some(text) => read_mode(text)?,
        // Linux gives links no mode of their own, so lists may leave it out.
        None if kind == "link" => 0o777,
        None => return Err(Problem::Missing("mode")),
    };
    let uid = read_id("uid", given.remove("uid"))?;
    let gid = read_id("gid", given.remove("gid"))?;
    let kind = match kind {
        "dir" => EntryKind::Dir,
        "link" => EntryKind::Link(read_target(given.remove("link"))?),
        "file" => EntryKind::File(read_content(&mut given)?),
        other => return Err(value("type", other, "one of file, dir, link")),
    };
    match given.keys().next() {
        Some(keyword) => Err(Problem::Keyword((*keyword).to_owned())),
        None => Ok(Entry { path, mode, uid, gid, kind }),
    }
}

fn read_content(given: &mut Words<'_>) -> Result<ContentDigest, Problem> {
    let size = number("size", given.remove("size").ok_or(Problem::Missing("size"))?)?;
    let md5 = given.remove("md5digest").ok_or(Problem::Missing("md5digest"))?;
    let md5 = Md5::parse(md5).map_err(|_| value("md5digest", md5, "32 lower-case hexadecimal digits"))?;
    let sha256 = given.remove("sha256digest").ok_or(Problem::Missing("sha256digest"))?;
    let sha256 = Sha256::parse(sha256)
        .map_err(|_| value("sha256digest", sha256, "64 lower-case hexadecimal digits"))?;
    Ok(ContentDigest { size, md5, sha256 })
}

fn read_target(text: Option<&str>) -> Result<Vec<u8>, Problem> {
    let text = text.ok_or(Problem::Missing("link"))?;
    match unescape(text) {
        Some(target) if is_target(&target) => Ok(target),
        _ => Err(value("link", text, TARGET_RULE)),
    }
}

/// What `symlink(2)` takes: links may lead anywhere, as nobody follows them while the root is built.
fn is_target(target: &[u8]) -> bool {
    (1..MAX_PATH).contains(&target.len()) && !target.contains(&0)
}

fn read_mode(text: &str) -> Result<u16, Problem> {
    let good = (1..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = if good { u16::from_str_radix(text, 8).ok() } else { None };
    mode.filter(|mode| *mode <= MAX_MODE).ok_or_else(|| value("mode", text, MODE_RULE))
}

fn read_id(keyword: &'static str, text: Option<&str>) -> Result<u32, Problem> {
    let id = text.map_or(Ok(0), |text| number(keyword, text))?;
    if id == NO_ID { Err(value(keyword, "4294967295", ID_RULE)) } else { Ok(id) }
}

fn number<T: std::str::FromStr>(keyword: &'static str, text: &str) -> Result<T, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.ok_or_else(|| value(keyword, text, "a whole number in range"))
}

fn value(keyword: &str, value: &str, expected: &'static str) -> Problem {
    Problem::Value { keyword: keyword.to_owned(), value: shortened(value), expected }
}

/// A line of visible ASCII and spaces; all other bytes stand as escapes. A bare `#` would begin a comment for
/// some readers, so it must be escaped, too.
fn printable(line: &[u8]) -> Result<&str, Problem> {
    let good = line.iter().all(|b| (b.is_ascii_graphic() || *b == b' ') && *b != b'#');
    match std::str::from_utf8(line) {
        Ok(text) if good => Ok(text),
        _ => Err(Problem::Special(shortened(&lossy(line)))),
    }
}

/// The path of a full-path line, without `./` and with its escapes undone.
fn clean_path(text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = |rule| Problem::Path { path: shortened(text), rule };
    if text == "." {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix("./").ok_or_else(|| wrong("does not begin with ./"))?;
    let path = unescape(rest).ok_or_else(|| wrong("has an escape other than three octal digits"))?;
    // An escaped slash would be a separator for the kernel but not for every reader of the list.
    if path.iter().filter(|b| **b == b'/').count() != rest.matches('/').count() {
        return Err(wrong("has an escaped slash"));
    }
    check_path(&path).map_err(wrong)?;
    Ok(path)
}

/// What a path below the root may be: no way up, no way out, nothing that Linux cannot name.
fn check_path(path: &[u8]) -> Result<(), &'static str> {
    // Two bytes of the limit go to the "./" in front.
    if path.len() + 2 > MAX_PATH {
        return Err("is longer than 4096 bytes");
    }
    if path.contains(&0) {
        return Err("contains a NUL byte");
    }
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" => return Err("has an empty component"),
            b"." => return Err("has a component \".\""),
            b".." => return Err("has a component \"..\""),
            long if long.len() > MAX_COMPONENT => return Err("has a component longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

/// Bytes that stand as themselves. Blanks, `#`, `=` and `\` mean something in mtree(5); the glob characters
/// `*?[]` mean something to `mtree`.
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'=' | b'\\' | b'*' | b'?' | b'[' | b']')
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if stands_for_itself(*byte) {
            out.push(char::from(*byte));
        } else {
            write!(out, "\\{byte:03o}").expect("a String takes all text");
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        if *byte != b'\\' {
            out.push(*byte);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(3)?;
        let octal = digits.iter().all(|b| (b'0'..=b'7').contains(b)) && digits[0] <= b'3';
        if !octal {
            return None;
        }
        out.push(digits.iter().fold(0, |n, d| n << 3 | (d - b'0')));
        rest = tail;
    }
    Some(out)
}

fn display(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { format!("./{}", escape(path)) }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The state of a reader of full mtree(5).
#[derive(Default)]
struct Dialect {
    defaults: Vec<(String, String)>,
    /// Where relative names stand: escaped components below the root.
    folder: Vec<String>,
}

impl Dialect {
    fn read(mut self, text: &[u8]) -> Result<Vec<(usize, Entry)>, ListError> {
        let mut entries = Vec::new();
        let mut pending = String::new();
        for (line, bytes) in lines_of(text)? {
            let at = |problem| ListError { line, problem };
            let bytes = bytes.trim_ascii();
            if pending.is_empty() && (bytes.is_empty() || bytes.starts_with(b"#")) {
                continue;
            }
            pending.push_str(printable(&tabs_to_spaces(bytes)).map_err(at)?);
            if let Some(head) = pending.strip_suffix('\\') {
                pending = head.to_owned();
                continue;
            }
            let logical = std::mem::take(&mut pending);
            if let Some(entry) = self.take(&logical).map_err(at)? {
                entries.push((line, entry));
            }
            if entries.len() > MAX_ENTRIES {
                return Err(at(Problem::TooMany));
            }
        }
        // A continuation at the end would otherwise take its entry with it.
        if pending.is_empty() { Ok(entries) } else { Err(ListError { line: 0, problem: Problem::CutOff }) }
    }

    fn take(&mut self, line: &str) -> Result<Option<Entry>, Problem> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "/set" => self.set(rest)?,
            "/unset" => self.defaults.retain(|(keyword, _)| !rest.split(' ').any(|word| word == keyword)),
            ".." => drop(self.folder.pop()),
            _ => return self.entry(first, rest).map(Some),
        }
        Ok(None)
    }

    fn set(&mut self, words: &str) -> Result<(), Problem> {
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            let (keyword, value) = word.split_once('=').ok_or_else(|| Problem::Keyword(word.to_owned()))?;
            let keyword = today(keyword);
            self.defaults.retain(|(known, _)| known != keyword);
            self.defaults.push((keyword.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, words: &str) -> Result<Entry, Problem> {
        let relative = !name.contains('/') && name != ".";
        let path = if relative {
            let mut parts = vec!["."];
            parts.extend(self.folder.iter().map(String::as_str));
            parts.push(name);
            parts.join("/")
        } else {
            name.to_owned()
        };
        let words: Vec<String> = words.split(' ').map(rename_keyword).collect();
        let line = format!("{path} {}", words.join(" "));
        let entry = read_line(line.as_bytes(), &self.defaults_for(&line))?;
        if relative && entry.kind == EntryKind::Dir {
            self.folder.push(name.to_owned());
        }
        Ok(entry)
    }

    /// A `/set` may name keywords that do not belong to the type of this line.
    fn defaults_for(&self, line: &str) -> Vec<(String, String)> {
        let is_file = line.contains(" type=file") || !line.contains(" type=");
        let fits = |keyword: &str| is_file || !matches!(keyword, "size" | "md5digest" | "sha256digest");
        self.defaults.iter().filter(|(keyword, _)| fits(keyword)).cloned().collect()
    }
}

fn tabs_to_spaces(line: &[u8]) -> Vec<u8> {
    line.iter().map(|b| if *b == b'\t' { b' ' } else { *b }).collect()
}

/// Older spellings of digest keywords, by their present name.
fn today(keyword: &str) -> &str {
    match keyword {
        "md5" => "md5digest",
        "sha256" => "sha256digest",
        other => other,
    }
}

fn rename_keyword(word: &str) -> String {
    match word.split_once('=') {
        Some((keyword, value)) => format!("{}={value}", today(keyword)),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIGESTS: &str = "md5digest=d41d8cd98f00b204e9800998ecf8427e sha256digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn file(path: &[u8]) -> Entry {
        let kind = EntryKind::File(ContentDigest::of(path));
        Entry { path: path.to_vec(), mode: 0o644, uid: 0, gid: 0, kind }
    }

    fn dir(path: &[u8]) -> Entry {
        Entry { path: path.to_vec(), mode: 0o755, uid: 0, gid: 0, kind: EntryKind::Dir }
    }

    fn problem(body: &str) -> Problem {
        List::parse(format!("#mtree\n{body}\n").as_bytes()).unwrap_err().problem
    }

    #[test]
    fn names_survive_a_round_trip() {
        let names: [&[u8]; 9] = [
            b"with space",
            b"#hash",
            b"a=b",
            b"back\\slash",
            b"line\nbreak",
            "grün".as_bytes(),
            b"raw\xff\x01",
            b"glob*?[x]",
            b"\\040",
        ];
        let mut entries: Vec<Entry> = names.iter().map(|name| file(name)).collect();
        entries.extend([dir(b""), dir(b"d"), file(b"d/x"), file(b"d-x")]);
        let link = EntryKind::Link(b"/a b\\#=\xff".to_vec());
        entries.push(Entry { path: b"l".to_vec(), mode: 0o777, uid: 7, gid: 8, kind: link });
        let list = List::new(entries).unwrap();
        let text = list.to_text();
        assert!(text.is_ascii());
        assert_eq!(List::parse(text.as_bytes()).unwrap(), list);
        assert_eq!(List::parse_mtree(text.as_bytes()).unwrap(), list);
    }

    #[test]
    fn the_line_of_a_file_is_the_documented_one() {
        let list = List::new(vec![file(b"a b")]).unwrap();
        let expected = "#mtree\n./a\\040b type=file mode=0644 size=3 md5digest=";
        assert!(list.to_text().starts_with(expected), "{}", list.to_text());
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        let long = format!("./{}", "x".repeat(256));
        let deep = format!("./{}", "abcdefg/".repeat(600));
        let paths = [
            "../x",
            "./../x",
            "./a/../b",
            "/etc",
            "./a//b",
            "./a/",
            "./.",
            "./a/./b",
            "x",
            "./a\\057b",
            "./a\\0",
            "./a\\000",
            "./a\\x41",
            "./\\056\\056/x",
            "./a\\477",
            &long,
            &deep,
        ];
        for path in paths {
            let found = problem(&format!("{path} type=dir mode=0755"));
            let refused = matches!(found, Problem::Path { .. })
                || (path.starts_with('/') && matches!(found, Problem::Special(_)));
            assert!(refused, "{path}: {found:?}");
        }
    }

    #[test]
    fn refuses_a_path_below_a_link_a_file_or_nothing() {
        for (parent, found) in [("type=link link=/etc", "a link"), (&*file_words(), "a file")] {
            let body = format!("./a {parent}\n./a/b type=dir mode=0755");
            assert!(matches!(problem(&body), Problem::Parent { found: f, .. } if f == found));
        }
        let orphan = problem("./a/b type=dir mode=0755");
        assert!(matches!(orphan, Problem::Parent { found: "missing", .. }));
    }

    fn file_words() -> String {
        format!("type=file mode=0644 size=0 {DIGESTS}")
    }

    #[test]
    fn entries_keep_the_rules_that_text_keeps() {
        let link = |target: &[u8]| Entry { kind: EntryKind::Link(target.to_vec()), ..dir(b"l") };
        let new = |entry| List::new(vec![entry]).unwrap_err().problem;
        for path in [&b"../x"[..], b"..", b"/etc", b"a/", b"a//b", b".", b"nul\0", &[b'x'; 256]] {
            assert!(matches!(new(dir(path)), Problem::Path { .. }), "{path:?}");
        }
        assert!(matches!(new(Entry { mode: 0o10000, ..dir(b"a") }), Problem::Value { .. }));
        assert!(matches!(new(Entry { gid: u32::MAX, ..dir(b"a") }), Problem::Value { .. }));
        for target in [&b""[..], b"nul\0", &[b'x'; MAX_PATH]] {
            assert!(matches!(new(link(target)), Problem::Value { .. }), "{target:?}");
        }
        let many = (0..=MAX_ENTRIES).map(|i| dir(i.to_string().as_bytes())).collect();
        assert_eq!(List::new(many).unwrap_err().problem, Problem::TooMany);
    }

    #[test]
    fn refuses_a_continuation_that_nothing_continues() {
        let text = "#mtree\n./a type=dir mode=0755\n./b type=dir mode=0755 \\\n";
        let error = List::parse_mtree(text.as_bytes()).unwrap_err();
        assert_eq!(error, ListError { line: 0, problem: Problem::CutOff });
    }

    #[test]
    fn refuses_duplicates_and_disorder() {
        let dir = |name| format!("./{name} type=dir mode=0755");
        let body = format!("{}\n{}", dir("a"), dir("a"));
        assert_eq!(problem(&body), Problem::Duplicate("./a".to_owned()));
        let body = format!("{}\n{}", dir("b"), dir("a"));
        assert_eq!(problem(&body), Problem::Order("./a".to_owned()));
    }

    #[test]
    fn refuses_files_without_every_digest() {
        for missing in ["size", "md5digest", "sha256digest", "mode", "type"] {
            let words: Vec<String> =
                file_words().split(' ').filter(|w| !w.starts_with(missing)).map(str::to_owned).collect();
            assert_eq!(problem(&format!("./a {}", words.join(" "))), Problem::Missing(missing));
        }
    }

    #[test]
    fn refuses_other_keywords_types_and_special_lines() {
        let file = file_words();
        for (body, keyword) in [
            (format!("./a {file} flags=uchg"), "flags"),
            (format!("./a {file} mode=0644"), "mode"),
            (format!("./a {file} link=/x"), "link"),
            (format!("./a {file} optional"), "optional"),
            ("./a type=dir mode=0755 size=1".to_owned(), "size"),
        ] {
            assert_eq!(problem(&body), Problem::Keyword(keyword.to_owned()));
        }
        for kind in ["block", "char", "fifo", "socket", "FILE"] {
            let found = problem(&format!("./a type={kind} mode=0600"));
            assert!(matches!(found, Problem::Value { .. }), "{kind}");
        }
        for line in
            ["/set type=file", "# comment", "", "./a type=dir \\", "./ü type=dir mode=0755", "./a#b type=dir"]
        {
            assert!(matches!(problem(line), Problem::Special(_)), "{line}");
        }
        assert!(matches!(problem(".. type=dir mode=0755"), Problem::Path { .. }));
    }

    #[test]
    fn refuses_the_id_that_chown_takes_for_none() {
        let found = problem("./a type=dir mode=0755 uid=4294967295");
        assert!(matches!(found, Problem::Value { .. }), "{found:?}");
        let body = "#mtree\n./a type=dir mode=0755 uid=4294967294\n";
        assert_eq!(List::parse(body.as_bytes()).unwrap().entries()[0].uid, u32::MAX - 1);
    }

    #[test]
    fn refuses_numbers_that_are_none() {
        let file = file_words();
        for (from, to) in [
            ("size=0", "size=-1"),
            ("size=0", "size=+1"),
            ("size=0", "size=99999999999999999999"),
            ("mode=0644", "mode=0o644"),
            ("mode=0644", "mode=10000"),
            ("mode=0644", "mode=0898"),
            ("d41d8", "D41d8"),
        ] {
            let body = format!("./a {}", file.replacen(from, to, 1));
            assert!(matches!(problem(&body), Problem::Value { .. }), "{to}");
        }
        let huge = file.replacen("size=0", "size=9223372036854775807", 1);
        assert_eq!(problem(&format!("./a {huge}\n./b {huge}")), Problem::TotalSize);
    }

    #[test]
    fn refuses_what_is_no_list() {
        assert!(matches!(
            List::parse(b"<html>\n").unwrap_err().problem,
            Problem::NotMtree(text) if text == "<html>"
        ));
        assert_eq!(List::parse(b"#mtree\n./a type=dir mode=0755").unwrap_err().problem, Problem::CutOff);
        let too_long = vec![b'x'; MAX_LIST + 1];
        assert_eq!(List::parse(&too_long).unwrap_err().problem, Problem::TooLong(MAX_LIST + 1));
        assert_eq!(List::parse(b"#mtree\n").unwrap().entries().len(), 0);
    }

    #[test]
    fn refuses_more_entries_than_the_limit() {
        let mut text = String::from("#mtree\n");
        for i in 0..=MAX_ENTRIES {
            writeln!(text, "./{i:06} type=dir mode=0755").unwrap();
        }
        let error = List::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error, ListError { line: MAX_ENTRIES + 2, problem: Problem::TooMany });
    }

    #[test]
    fn reads_the_mtree_of_other_writers() {
        let text = format!(
            "#mtree v2.0\n/set type=file uid=0 gid=0 mode=0644\n. type=dir mode=0755\n    b size=0 \\\n    {DIGESTS}\n\
             d type=dir mode=0700\n  c size=0 {DIGESTS}\n..\na nlink=1 time=1.0 size=0 {DIGESTS}\n"
        );
        let text = text.replacen("#mtree v2.0", "#mtree", 1).replace("md5digest", "md5");
        let list = List::parse_mtree(text.as_bytes()).unwrap();
        let paths: Vec<_> = list.entries().iter().map(Entry::display_path).collect();
        assert_eq!(paths, [".", "./a", "./b", "./d", "./d/c"]);
    }
}
