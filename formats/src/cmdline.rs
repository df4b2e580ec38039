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
        let line = &line[..line.len().min(MAX_CMDLINE)];
        // The line break is that of /proc/cmdline, not of an open quote.
        let mut rest = skip_blanks(line.strip_suffix(b"\n").unwrap_or(line));
        let mut parameters = Vec::new();
        while !rest.is_empty() {
            let (word, tail) = next_word(rest);
            let parameter = split_parameter(word);
            // What follows belongs to PID 1's argv.
            if parameter.name == "--" && parameter.value.is_none() {
                break;
            }
            parameters.push(parameter);
            rest = skip_blanks(tail);
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
        let plain = |c: char| !c.is_control() && c != '"' && c != '=';
        let good = !self.name.is_empty() && self.name != "--" && self.name.chars().all(plain);
        if !good || self.name.bytes().any(is_blank) {
            return Err(CmdlineError::Name(self.name.clone()));
        }
        let Some(value) = &self.value else {
            return Ok(self.name.clone());
        };
        if value.chars().any(|c| c == '"' || c.is_control()) {
            return Err(CmdlineError::Character(value.clone()));
        }
        let quote = if value.bytes().any(is_blank) { "\"" } else { "" };
        Ok(format!("{}={quote}{value}{quote}", self.name))
    }
}

/// The kernel's `isspace`, which knows Latin-1: byte 0xa0 is a blank, even inside a UTF-8 letter such as `à`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let first = text.iter().position(|b| !is_blank(*b)).unwrap_or(text.len());
    &text[first..]
}

/// The first word, quotes included, and what follows it.
fn next_word(text: &[u8]) -> (&[u8], &[u8]) {
    let mut quoted = false;
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'"' {
            quoted = !quoted;
        } else if is_blank(*byte) && !quoted {
            return text.split_at(at);
        }
    }
    (text, &[])
}

/// Splits at the first `=` that is not the first byte, and takes off the quotes around the whole word or the
/// value, as `next_arg` does; quotes elsewhere stay.
fn split_parameter(word: &[u8]) -> Parameter {
    let (wrapped, word) = match word.strip_prefix(b"\"") {
        Some(inner) => (true, inner),
        None => (false, word),
    };
    let end_quote_off = |text: &[u8]| text.strip_suffix(b"\"").unwrap_or(text).to_vec();
    let equals = word.iter().skip(1).position(|b| *b == b'=').map(|at| at + 1);
    let (name, value) = match equals {
        None => (word, None),
        Some(at) => (&word[..at], Some(&word[at + 1..])),
    };
    let value = value.map(|value| match value.strip_prefix(b"\"") {
        Some(inner) => end_quote_off(inner),
        None if wrapped => end_quote_off(value),
        None => value.to_vec(),
    });
    let name = if wrapped && value.is_none() { end_quote_off(name) } else { name.to_vec() };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Parameter { name: text(name), value: value.map(text) }
}

/// Whether two names are the same to the kernel, to which `-` and `_` are (`parameqn`).
#[must_use]
pub fn same_name(a: &str, b: &str) -> bool {
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
    fn odd_quotes_and_blanks_read_as_in_the_kernel() {
        for (line, name, value) in [
            (&b"=x"[..], "=x", None),
            (b"=x=y", "=x", Some("y")),
            (b"\"a=\"b\"", "a", Some("b")),
            (b"a=b\"c d\"e", "a", Some("b\"c d\"e")),
            (b"a=\"\"", "a", Some("")),
            (b"a=\"", "a", Some("")),
            ("a=\"voilà\"".as_bytes(), "a", Some("voilà")),
            ("a=voilà".as_bytes(), "a", Some("voil\u{fffd}")),
        ] {
            let parameter = Parameter { name: name.to_owned(), value: value.map(str::to_owned) };
            assert_eq!(Cmdline::parse(line).parameters(), [parameter], "{line:?}");
        }
        assert_eq!(Cmdline::parse(b"a \"--\" b").parameters().len(), 1);
    }

    #[test]
    fn writes_letters_that_hold_a_blank_byte_in_quotes() {
        let voila = Parameter { name: "a".to_owned(), value: Some("voilà".to_owned()) };
        assert_eq!(Cmdline::parse(voila.to_text().unwrap().as_bytes()).parameters(), [voila]);
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
