//! `zstrap key`: makes keys.
//!
//! In: a folder and a name. Out: `NAME.key` (mode 0600) and `NAME.pub`, as minisign reads them. Failure: one of
//! them is there already; it is never overwritten.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use zstrap_formats::key::{PublicKey, SecretKey};
use zstrap_formats::name::Name;

use crate::cli::UsageError;
use crate::output;

/// The commands about keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a key pair: NAME.key signs, NAME.pub goes into images
    New(New),
}

/// Arguments of `zstrap key new`.
#[derive(Debug, Args)]
pub struct New {
    /// The folder to put both files into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the files are called
    #[arg(long)]
    pub name: Name,
    /// Leaves the key without a password: whoever can read it can sign
    #[arg(long)]
    pub no_password: bool,
}

/// Runs one of the commands.
///
/// # Errors
/// See the head of this file.
pub fn run(command: &Command) -> anyhow::Result<()> {
    let Command::New(new) = command;
    if !new.no_password {
        let text = "keys with a password come in a later version: pass --no-password, and keep the file safe";
        return Err(UsageError(text.to_owned()).into());
    }
    let public = create(&new.out, &new.name)?;
    log::info!("key {}: {}", public.id(), new.out.join(format!("{}.key", new.name)).display());
    output::line(public.to_base64())
}

/// Makes a key pair without a password in `folder`, and returns its public half.
///
/// # Errors
/// See the head of this file.
pub fn create(folder: &Path, name: &Name) -> anyhow::Result<PublicKey> {
    let secret = SecretKey::from_seed(random()?, random()?);
    std::fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
    let secret_path = folder.join(format!("{name}.key"));
    write_new(&secret_path, 0o600, &secret.to_file())?;
    let written = write_new(&folder.join(format!("{name}.pub")), 0o644, &secret.public().to_file());
    if written.is_err() {
        // Half a pair helps nobody; it was made by us a moment ago.
        std::fs::remove_file(&secret_path).with_context(|| format!("removing {}", secret_path.display()))?;
    }
    written?;
    // The names are on the disk once their folder is; a key that signed must not be lost to a power cut.
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("syncing {}", folder.display()))?;
    Ok(secret.public())
}

fn write_new(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.with_context(|| format!("making {}", path.display()))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.with_context(|| format!("writing {}", path.display()))
}

/// Bytes from the kernel's generator.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags).context("asking for random bytes")?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn makes_a_pair_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let public = create(folder.path(), &"admin".parse().unwrap()).unwrap();
        let key = folder.path().join("admin.key");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let secret = SecretKey::parse(&std::fs::read_to_string(key).unwrap()).unwrap();
        assert_eq!(secret.public(), public);
        let text = std::fs::read_to_string(folder.path().join("admin.pub")).unwrap();
        assert_eq!(PublicKey::parse(&text).unwrap(), public);
    }

    #[test]
    fn never_overwrites_either_file() {
        for taken in ["admin.key", "admin.pub"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(taken), "mine").unwrap();
            let error = create(folder.path(), &"admin".parse().unwrap()).unwrap_err();
            assert!(format!("{error:#}").contains("exists"), "{error:#}");
            assert_eq!(std::fs::read_to_string(folder.path().join(taken)).unwrap(), "mine");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "half a pair was left");
        }
    }

    #[test]
    fn two_keys_are_never_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let one = create(folder.path(), &"one".parse().unwrap()).unwrap();
        let two = create(folder.path(), &"two".parse().unwrap()).unwrap();
        assert!(one != two && one.id() != two.id());
    }
}
