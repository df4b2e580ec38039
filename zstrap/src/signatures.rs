//! Who has signed a file: the signature files beside it, held against keys that someone trusts.
//!
//! In: a file, public keys. Out: which of them have signed it, and the one trusted comment that all have signed.
//! Failure: a signature that does not hold, is of a key that is not trusted, or is over another comment than the
//! others; each names its file.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use zstrap_formats::key::PublicKey;
use zstrap_formats::signature::{Accept, Keyring, Signature, SignatureError, TrustedComment};

use crate::signers::read_public;

/// What the names of all signature files end in.
const ENDING: &str = ".minisig";

/// A signature file.
pub(crate) struct Beside {
    pub(crate) path: PathBuf,
    pub(crate) signature: Signature,
}

/// The signature files beside a file, in order of their names: `FILE.KEYID.minisig`, `FILE.minisig`.
pub(crate) fn beside(file: &Path) -> anyhow::Result<Vec<Beside>> {
    let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
    let name = name.to_string_lossy();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let listing = || format!("listing {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(listing)? {
        names.push(entry.with_context(listing)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|other| other.strip_prefix(&*name).is_some_and(is_ending));
    names.sort();
    names.into_iter().map(|name| Beside::read(file.with_file_name(name))).collect()
}

impl Beside {
    pub(crate) fn read(path: PathBuf) -> anyhow::Result<Self> {
        let reading = || format!("reading {}", path.display());
        let signature =
            Signature::parse(&std::fs::read(&path).with_context(reading)?).with_context(reading)?;
        Ok(Beside { path, signature })
    }
}

/// What stands behind the name of a file in that of its signature: nothing, or a key id.
fn is_ending(rest: &str) -> bool {
    let Some(id) = rest.strip_suffix(ENDING) else { return false };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    id.is_empty() || id.strip_prefix('.').is_some_and(|id| id.len() == 16 && id.bytes().all(is_digit))
}

/// Trusted keys, each with the file it came from: people know keys by their files.
pub(crate) struct Trusted(Vec<(PublicKey, String)>);

/// What a trusted key has to do with a file.
pub(crate) enum Stand {
    /// It has signed the file with this trusted comment.
    Signed(String),
    /// There is a signature under its id that does not hold.
    Broken(SignatureError),
    /// It has not signed it.
    Missing,
}

impl Trusted {
    /// Reads public key files.
    pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let read = |path: &PathBuf| Ok((read_public(path)?, path.display().to_string()));
        Ok(Trusted(paths.iter().map(read).collect::<anyhow::Result<_>>()?))
    }

    /// The same with these keys, too.
    pub(crate) fn and(mut self, more: impl IntoIterator<Item = (PublicKey, String)>) -> Self {
        for (key, name) in more {
            if !self.0.iter().any(|(other, _)| *other == key) {
                self.0.push((key, name));
            }
        }
        self
    }

    /// The keys, each there once, of which so many must sign.
    pub(crate) fn keyring(&self, threshold: usize) -> anyhow::Result<Keyring> {
        let keys = self.0.iter().map(|(key, _)| key.clone()).collect();
        Ok(Keyring::new(keys, threshold)?)
    }

    /// The signatures that a node with these keys would ask for.
    pub(crate) fn asked_for(&self, file: &Path, threshold: usize) -> anyhow::Result<Vec<Signature>> {
        let with = |ending: String| {
            let mut path = file.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        };
        if threshold == 1 {
            return Ok(vec![Beside::read(with(ENDING.to_owned()))?.signature]);
        }
        let paths = self.0.iter().map(|(key, _)| with(format!(".{}{ENDING}", key.id())));
        paths.filter(|path| path.exists()).map(|path| Ok(Beside::read(path)?.signature)).collect()
    }

    /// The trusted comment of a file that a node with these keys would accept.
    pub(crate) fn accept(
        &self,
        file: &Path,
        bytes: &[u8],
        threshold: usize,
    ) -> anyhow::Result<TrustedComment> {
        let signatures = self.asked_for(file, threshold)?;
        let verified = self.keyring(threshold)?.verify(bytes, &signatures, Accept::PrehashedOnly);
        Ok(verified.with_context(|| format!("verifying {}", file.display()))?.parse()?)
    }

    /// What each key has to do with a file of these bytes, in the order in which the keys were given.
    pub(crate) fn stands(&self, bytes: &[u8], found: &[Beside]) -> Vec<(KeyName<'_>, Stand)> {
        let stand = |(key, name)| (KeyName { key, name }, stand(key, bytes, found));
        self.0.iter().map(|(key, name)| stand((key, name))).collect()
    }

    /// The trusted comment that everyone has signed who has signed the file, and how many of the trusted keys that are.
    pub(crate) fn common_comment(
        &self,
        file: &Path,
        bytes: &[u8],
        found: &[Beside],
    ) -> anyhow::Result<(String, usize)> {
        let first = found.first().with_context(|| format!("{} has no signature yet", file.display()))?;
        let keyring = self.keyring(1)?;
        for Beside { path, signature } in found {
            let one = std::slice::from_ref(signature);
            let verified = keyring.verify(bytes, one, Accept::PrehashedOnly);
            let comment = verified.with_context(|| format!("verifying {}", path.display()))?;
            let expected = first.signature.comment_unverified();
            ensure!(
                comment == expected,
                "{} is over another comment than {}: \"{comment}\", not \"{expected}\"",
                path.display(),
                first.path.display()
            );
        }
        // Each signature is by some key of the ring; these are different keys.
        let stands = self.stands(bytes, found);
        let signers = stands.iter().filter(|(_, stand)| matches!(stand, Stand::Signed(_))).count();
        Ok((first.signature.comment_unverified().to_owned(), signers))
    }

    /// The signatures of keys that are not among these.
    pub(crate) fn strangers<'a>(&self, found: &'a [Beside]) -> impl Iterator<Item = &'a Beside> {
        let known: HashSet<[u8; 8]> = self.0.iter().map(|(key, _)| key.id().0).collect();
        found.iter().filter(move |beside| !known.contains(&beside.signature.key_id().0))
    }
}

/// A key as people see it.
pub(crate) struct KeyName<'a> {
    pub(crate) key: &'a PublicKey,
    pub(crate) name: &'a str,
}

impl fmt::Display for KeyName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} file={}", self.key.id(), self.name)
    }
}

/// A line for each key, and for each signature of another. `expected` is the comment that counts, if one does.
pub(crate) fn report(
    trusted: &Trusted,
    bytes: &[u8],
    found: &[Beside],
    expected: Option<&str>,
) -> Vec<String> {
    let line = |(name, stand)| match stand {
        Stand::Signed(comment) => match expected {
            Some(expected) if comment == expected => format!("signed by={name}"),
            Some(_) => format!("differs by={name} comment={comment:?}"),
            None => format!("signed by={name} comment={comment:?}"),
        },
        Stand::Broken(error) => format!("broken by={name} why={:?}", error.to_string()),
        Stand::Missing => format!("missing by={name}"),
    };
    let known = trusted.stands(bytes, found).into_iter().map(line);
    let stranger =
        |beside: &Beside| format!("unknown by={} file={}", beside.signature.key_id(), beside.path.display());
    known.chain(trusted.strangers(found).map(stranger)).collect()
}

/// Of several signatures under a key's id, a good one counts: `FILE.minisig` may be a copy of `FILE.KEYID.minisig`.
fn stand(key: &PublicKey, bytes: &[u8], found: &[Beside]) -> Stand {
    let mut stand = Stand::Missing;
    for Beside { signature, .. } in found.iter().filter(|beside| beside.signature.key_id() == key.id()) {
        let alone = Keyring::new(vec![key.clone()], 1).expect("one key, of which one must sign");
        match alone.verify(bytes, std::slice::from_ref(signature), Accept::Legacy) {
            Ok(comment) => return Stand::Signed(comment),
            Err(error) => stand = Stand::Broken(error),
        }
    }
    stand
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use zstrap_formats::key::SecretKey;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32], [n; 8])
    }

    fn trusted(keys: &[u8]) -> Trusted {
        Trusted(Vec::new()).and(keys.iter().map(|n| (key(*n).public(), format!("{n}.pub"))))
    }

    /// A file that says `x`, signed by these keys with these comments into files by key id.
    fn signed(signers: &[(u8, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("1.mtree");
        std::fs::write(&file, "x").unwrap();
        for (n, comment) in signers {
            let name = format!("1.mtree.{}.minisig", key(*n).public().id());
            std::fs::write(folder.path().join(name), key(*n).sign(b"x", comment).to_file()).unwrap();
        }
        (folder, file)
    }

    #[test]
    fn only_signatures_of_this_very_file_are_beside_it() {
        let (folder, file) = signed(&[(1, "c")]);
        let signature = key(1).sign(b"x", "c").to_file();
        for name in
            ["1.mtree.minisig", "11.mtree.minisig", "1.mtree.packed", "1.mtree.0.minisig", "1.json.minisig"]
        {
            std::fs::write(folder.path().join(name), &signature).unwrap();
        }
        let names: Vec<_> = beside(&file).unwrap().into_iter().map(|beside| beside.path).collect();
        let expected = ["1.mtree.0101010101010101.minisig", "1.mtree.minisig"];
        assert_eq!(names, expected.map(|name| folder.path().join(name)));
    }

    #[test]
    fn one_key_in_two_files_is_one_signer() {
        let (folder, file) = signed(&[(1, "c")]);
        for name in ["1.mtree.minisig", "1.mtree.0202020202020202.minisig"] {
            std::fs::write(folder.path().join(name), key(1).sign(b"x", "c").to_file()).unwrap();
        }
        let found = beside(&file).unwrap();
        assert_eq!(found.len(), 3);
        let common = trusted(&[1, 2]).common_comment(&file, b"x", &found).unwrap();
        assert_eq!(common, ("c".to_owned(), 1));
    }

    #[test]
    fn strangers_other_comments_and_other_bytes_are_refused_by_the_name_of_the_file() {
        let (_folder, file) = signed(&[(1, "c"), (2, "d")]);
        let found = beside(&file).unwrap();
        let refused = |keys: &[u8], bytes: &[u8]| {
            format!("{:#}", trusted(keys).common_comment(&file, bytes, &found).unwrap_err())
        };
        let second = file.with_file_name("1.mtree.0202020202020202.minisig");
        assert!(
            refused(&[1], b"x").starts_with(&format!("verifying {}: signed by key 02", second.display()))
        );
        let said = refused(&[1, 2], b"x");
        assert!(said.starts_with(&format!("{} is over another comment than ", second.display())), "{said}");
        assert!(refused(&[1, 2], b"y").ends_with("does not match the signed bytes"));
        let none = trusted(&[1]).common_comment(&file, b"x", &[]).unwrap_err();
        assert!(none.to_string().ends_with("1.mtree has no signature yet"), "{none}");
    }
}
