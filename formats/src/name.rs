//! The words that may stand in paths, comments and identities: names, labels, architectures.
//!
//! In: text from anywhere. Out: a type that can be put into a path or a trusted comment without a second look.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name in bytes.
pub const MAX_NAME: usize = 63;
/// The longest label in bytes.
pub const MAX_LABEL: usize = 64;

/// What is wrong with a word.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a name.
    #[error("name {0:?} does not match [a-z0-9][a-z0-9._-]{{0,62}} without \"..\"")]
    Name(String),
    /// Not a label.
    #[error("label {0:?} does not match [A-Za-z0-9._-]{{1,64}}")]
    Label(String),
    /// Not an architecture that zstrap boots.
    #[error("architecture {0:?} is none of amd64, arm64")]
    Arch(String),
}

/// The name of a bundle, a config or a key: `[a-z0-9][a-z0-9._-]{0,62}` without `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A label that the admin of a farm chose, such as a farmer id: `[A-Za-z0-9._-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Label {
    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let other = |b: u8| first(b) || matches!(b, b'.' | b'_' | b'-');
        let good = text.len() <= MAX_NAME
            && text.bytes().next().is_some_and(first)
            && text.bytes().all(other)
            && !text.contains("..");
        if good { Ok(Self(text)) } else { Err(NameError::Name(text)) }
    }
}

impl TryFrom<String> for Label {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let good = (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(allowed);
        if good { Ok(Self(text)) } else { Err(NameError::Label(text)) }
    }
}

/// A processor architecture, by Debian's word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Arch {
    /// All that zstrap boots.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The word users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The architecture this code was compiled for, if zstrap boots it.
    #[must_use]
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::Amd64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Arm64)
        } else {
            None
        }
    }
}

impl FromStr for Arch {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL.into_iter().find(|a| a.as_str() == text).ok_or_else(|| NameError::Arch(text.to_owned()))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the two string types share.
macro_rules! text_type {
    ($type:ident) => {
        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text_type!(Name);
text_type!(Label);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_safe_in_paths() {
        let long = "a".repeat(MAX_NAME);
        for good in ["a", "zos-prod", "zos-1.1", "0_x", long.as_str()] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(MAX_NAME + 1);
        for bad in ["", ".", "..", "-a", "a..b", "A", "a/b", "a b", "é", "a\n", "a\0", too_long.as_str()] {
            assert_eq!(bad.parse::<Name>(), Err(NameError::Name(bad.to_owned())));
        }
    }

    #[test]
    fn labels_are_one_word() {
        assert!("Farm.7_x-Y".parse::<Label>().is_ok());
        for bad in ["", "a b", "a/b", "a\n", "ü", &"x".repeat(MAX_LABEL + 1)] {
            assert_eq!(bad.parse::<Label>(), Err(NameError::Label(bad.to_owned())));
        }
    }

    #[test]
    fn architectures_have_one_spelling() {
        assert_eq!("arm64".parse::<Arch>(), Ok(Arch::Arm64));
        assert_eq!("x86_64".parse::<Arch>(), Err(NameError::Arch("x86_64".to_owned())));
    }
}
