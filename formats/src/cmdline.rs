//! The kernel command line, with the kernel's own quoting (`lib/cmdline.c`, `next_arg`).
//!
//! In: the bytes of `/proc/cmdline`. Out: parameters in order. Double quotes keep blanks together and stand
//! nowhere in the value; `-` and `_` are the same in names; words after `--` are for PID 1, not settings.

/// The longest command line that any architecture takes, in bytes.
pub const MAX_CMDLINE: usize = 64 * 1024;

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    parameters: Vec<Parameter>,
}

/// One parameter: `name` or `name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What stands before the first `=`.
    pub name: String,
    /// What stands after it, if there is one.
    pub value: Option<String>,
}

/// A value that no quoting can carry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// The kernel has no escape for a double quote.
    #[error("{0:?} contains a double quote or a control character, which a kernel command line cannot carry")]
    Character(String),
    /// A name that would read back as something else.
    #[error("{0:?} is not a parameter name")]
    Name(String),
}

impl Cmdline {
    /// Reads a command line. There is no wrong one: the kernel takes them all, so bytes that are not UTF-8 are
    /// replaced, and an open quote ends with the line.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(&line[..line.len().min(MAX_CMDLINE)]);
        let mut rest = line.trim_matches(is_blank);
        let mut parameters = Vec::new();
        while !rest.is_empty() {
            let (word, tail) = next_word(rest);
            // What follows belongs to PID 1's argv.
            if word == "--" {
                break;
            }
            parameters.push(split_parameter(word));
            rest = tail.trim_start_matches(is_blank);
        }
        Self { parameters }
    }

    /// All parameters in order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The value of the last parameter of this name, as later ones override earlier ones.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|p| same_name(&p.name, name));
        found.and_then(|p| p.value.as_deref())
    }

    /// Whether a parameter of this name is there, with or without a value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|p| same_name(&p.name, name))
    }
}

impl Parameter {
    /// The text that reads back as this parameter.
    ///
    /// # Errors
    /// [`CmdlineError`] when the kernel's quoting cannot carry it.
    pub fn to_text(&self) -> Result<String, CmdlineError> {
        let plain = |c: char| !is_blank(c) && !c.is_control() && c != '"' && c != '=';
        if self.name.is_empty() || !self.name.chars().all(plain) || self.name == "--" {
            return Err(CmdlineError::Name(self.name.clone()));
        }
        let Some(value) = &self.value else {
            return Ok(self.name.clone());
        };
        if value.chars().any(|c| c == '"' || c.is_control()) {
            return Err(CmdlineError::Character(value.clone()));
        }
        let quote = if value.contains(is_blank) { "\"" } else { "" };
        Ok(format!("{}={quote}{value}{quote}", self.name))
    }
}

/// The kernel's `isspace` over the characters it meets here.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' | '\u{a0}')
}

/// The first word, quotes included, and what follows it.
fn next_word(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        if c == '"' {
            quoted = !quoted;
        } else if is_blank(c) && !quoted {
            return text.split_at(at);
        }
    }
    (text, "")
}

/// Splits at the first `=` and takes the quotes off, as `next_arg` does: around the whole word or the value.
fn split_parameter(word: &str) -> Parameter {
    let (word, wrapped) = match word.strip_prefix('"') {
        Some(inner) => (inner, true),
        None => (word, false),
    };
    let word = if wrapped { word.strip_suffix('"').unwrap_or(word) } else { word };
    match word.split_once('=') {
        None => Parameter { name: word.to_owned(), value: None },
        Some((name, value)) => {
            let value = match value.strip_prefix('"') {
                Some(inner) if !wrapped => inner.strip_suffix('"').unwrap_or(inner),
                _ => value,
            };
            Parameter { name: name.to_owned(), value: Some(value.to_owned()) }
        }
    }
}

/// The kernel takes `-` and `_` in names as one (`parameqn`).
fn same_name(a: &str, b: &str) -> bool {
    let fold = |c: u8| if c == b'-' { b'_' } else { c };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_as_the_kernel_does() {
        let line = Cmdline::parse(b" quiet  a=\"b c\" \"d=e f\" g=h=i j= k=\"open end\n");
        let seen: Vec<(&str, Option<&str>)> =
            line.parameters().iter().map(|p| (p.name.as_str(), p.value.as_deref())).collect();
        let expected = [
            ("quiet", None),
            ("a", Some("b c")),
            ("d", Some("e f")),
            ("g", Some("h=i")),
            ("j", Some("")),
            ("k", Some("open end")),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_last_one_counts_and_dashes_are_underscores() {
        let line = Cmdline::parse(b"zstrap.farmer_id=1 zstrap.farmer-id=2");
        assert_eq!(line.value("zstrap.farmer_id"), Some("2"));
        assert!(line.has("zstrap.farmer-id"));
        assert_eq!(line.value("zstrap.farmer"), None);
    }

    #[test]
    fn words_after_the_dashes_are_no_settings() {
        let line = Cmdline::parse(b"a=1 -- a=2");
        assert_eq!(line.value("a"), Some("1"));
    }

    #[test]
    fn writes_what_it_reads() {
        for (name, value) in [("a", None), ("a.b", Some("c d")), ("x", Some("")), ("y", Some("1=2"))] {
            let parameter = Parameter { name: name.to_owned(), value: value.map(str::to_owned) };
            let text = parameter.to_text().unwrap();
            assert_eq!(Cmdline::parse(text.as_bytes()).parameters(), [parameter]);
        }
    }

    #[test]
    fn refuses_what_quoting_cannot_carry() {
        let parameter =
            |name: &str, value: &str| Parameter { name: name.to_owned(), value: Some(value.to_owned()) };
        assert!(matches!(parameter("a", "x\"y").to_text(), Err(CmdlineError::Character(_))));
        assert!(matches!(parameter("a", "x\ny").to_text(), Err(CmdlineError::Character(_))));
        assert!(matches!(parameter("a b", "x").to_text(), Err(CmdlineError::Name(_))));
    }

    #[test]
    fn takes_any_bytes() {
        assert_eq!(Cmdline::parse(b""), Cmdline::default());
        assert!(Cmdline::parse(b"\xff\xfe=\xff").parameters().len() == 1);
        assert_eq!(Cmdline::parse(b"\"").parameters().len(), 1);
    }
}
