//! The file that says which modules go into an initramfs.
//!
//! In: text, one name or glob a line, `#` begins a comment. Out: [`Patterns`]. Failure: a line that is no glob,
//! with its number; a file that names nothing.

use anyhow::{Context, ensure};
use glob::Pattern;

use super::index::canonical;

/// The patterns that zstrap ships.
const SHIPPED: &str = include_str!("../../../initrd/modules");

/// Names and globs of modules.
#[derive(Debug, Clone)]
pub struct Patterns(Vec<Pattern>);

/// What patterns found.
pub(super) struct Found {
    /// The names that match any pattern, in order, each once.
    pub(super) names: Vec<String>,
    /// The patterns that match no name.
    pub(super) without_match: Vec<String>,
}

impl Patterns {
    /// The patterns of `initrd/modules`, as they were when this program was built.
    ///
    /// # Panics
    /// Never in a build whose tests pass.
    #[must_use]
    pub fn shipped() -> Self {
        Self::parse(SHIPPED).expect("a test parses the shipped file")
    }

    /// Reads a pattern file.
    ///
    /// # Errors
    /// A line that is no glob, or a file without any pattern.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut patterns = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let pattern = line.split('#').next().unwrap_or_default().trim();
            if !pattern.is_empty() {
                let parsed = Pattern::new(&canonical(pattern));
                patterns.push(parsed.with_context(|| format!("module pattern in line {number}"))?);
            }
        }
        ensure!(!patterns.is_empty(), "module patterns: the file names none");
        Ok(Patterns(patterns))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Holds the patterns against canonical names, given in order.
    pub(super) fn select<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Found {
        let idle = self.0.iter().filter(|pattern| !names.clone().any(|name| pattern.matches(name)));
        let without_match = idle.map(|pattern| pattern.as_str().to_owned()).collect();
        let matched = names.filter(|name| self.0.iter().any(|pattern| pattern.matches(name)));
        Found { names: matched.map(str::to_owned).collect(), without_match }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_shipped_file_parses_and_names_what_a_vm_needs() {
        let found = Patterns::shipped().select(["nope", "virtio_net", "virtio_pci"].into_iter());
        assert_eq!(found.names, ["virtio_net", "virtio_pci"]);
    }

    #[test]
    fn understands_comments_globs_and_hyphens() {
        let patterns = Patterns::parse("# all\nnls-*  # names\n\nvirtio_net\n").unwrap();
        let found = patterns.select(["nls_ascii", "nls_cp437", "snd"].into_iter());
        assert_eq!(found.names, ["nls_ascii", "nls_cp437"]);
        assert_eq!(found.without_match, ["virtio_net"]);
    }

    #[test]
    fn refuses_a_broken_glob_by_its_line() {
        let error = Patterns::parse("ok\n***\n").unwrap_err();
        assert_eq!(error.to_string(), "module pattern in line 2");
    }

    #[test]
    fn refuses_a_file_of_comments() {
        assert!(Patterns::parse("# nothing\n").unwrap_err().to_string().contains("names none"));
    }
}
