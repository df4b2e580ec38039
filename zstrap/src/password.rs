//! `zstrap config hash-password`: the hash of a password for `debug.password_hash` of a config.
//!
//! In: nothing, and a passphrase is made; or one from standard input. Out: the hash (argon2id, PHC form) on standard
//! output, ready for the config, and a passphrase that was made on standard error, this once. Failure: the password is
//! short or obvious, or was typed in two ways. Configs are public: whoever has the hash can try passwords at home.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64Unpadded, Encoding as _};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::key::random;
use crate::output;

/// What a passphrase is made of: 32 letters and digits that nobody takes for others, so each is 5 bits.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Groups of four: 80 bits, which no one who has the hash can try out.
const GROUPS: usize = 4;
const GROUP: usize = 4;
const LEAST_CHARACTERS: usize = 12;
/// As much as a node reads.
const MOST_BYTES: usize = 1000;
const LEAST_KINDS: usize = 5;
/// Words that are tried first; what is left without them has to be a password by itself.
const OBVIOUS: [&str; 14] = [
    "password",
    "passwort",
    "passphrase",
    "letmein",
    "welcome",
    "qwerty",
    "qwertz",
    "azerty",
    "asdf",
    "admin",
    "root",
    "zstrap",
    "mycelium",
    "debug",
];
const LEAST_REST: usize = 8;
const PASSES: u32 = 3;
const SALT: usize = 16;
const HASH: usize = 32;
const CTRL_C: u8 = 3;

/// Arguments of `zstrap config hash-password`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Hashes a password from standard input instead of making one
    #[arg(long)]
    pub stdin: bool,
    /// MiB of memory that a node needs to check it: 19 to 64
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(19..=64))]
    pub memory: u32,
}

/// Runs the command.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let password = if arguments.stdin { from_stdin()? } else { passphrase()? };
    check(&password)?;
    let hash = hash(&password, arguments.memory * 1024)?;
    if !arguments.stdin {
        // Not by the log: it is no news, it is the one copy.
        writeln!(io::stderr(), "passphrase: {password}").context("saying the passphrase")?;
    }
    output::line(hash)
}

/// A passphrase of 80 bits, uniform: a byte has eight of each letter.
fn passphrase() -> anyhow::Result<String> {
    let bytes: [u8; GROUPS * GROUP] = random()?;
    let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
    let groups: Vec<String> = bytes.chunks(GROUP).map(|group| group.iter().map(letter).collect()).collect();
    Ok(groups.join("-"))
}

/// A line of standard input; at a terminal it is not shown, and asked for twice.
fn from_stdin() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let mut text = String::new();
        io::stdin().lock().read_line(&mut text).context("reading a password from standard input")?;
        return Ok(text.trim_end_matches(['\n', '\r']).to_owned());
    }
    let _silent = Silent::begin()?;
    let (first, second) = (asked("password: ")?, asked("once more: ")?);
    ensure!(first == second, "the two are not the same");
    Ok(first)
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silent(Termios);

impl Silent {
    /// Ctrl-C comes as a character that ends the line, not as a signal: that would leave the terminal silent.
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("asking the terminal for its settings")?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ISIG;
        silent.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).context("making the terminal silent")?;
        Ok(Silent(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0) {
            log::warn!("the terminal stays silent ({error}); `stty echo isig` sets it back");
        }
    }
}

fn asked(question: &str) -> anyhow::Result<String> {
    let mut terminal = io::stderr();
    write!(terminal, "{question}").context("asking for a password")?;
    let line = typed();
    writeln!(terminal).context("asking for a password")?;
    line
}

/// A line as it is typed. Lines of a terminal have 4,095 bytes at most.
fn typed() -> anyhow::Result<String> {
    let mut text = Vec::new();
    for byte in io::stdin().lock().bytes() {
        match byte.context("reading a password from the terminal")? {
            b'\n' => break,
            CTRL_C => bail!("interrupted"),
            byte => text.push(byte),
        }
    }
    String::from_utf8(text).context("reading a password from the terminal")
}

/// What a person would think of first is refused, and what a node could not be given.
fn check(password: &str) -> anyhow::Result<()> {
    ensure!(
        password.len() <= MOST_BYTES,
        "password has {} bytes, expected at most {MOST_BYTES}",
        password.len()
    );
    ensure!(
        !password.chars().any(char::is_control),
        "password has a control character, which nobody can type"
    );
    let length = password.chars().count();
    ensure!(
        length >= LEAST_CHARACTERS,
        "password has {length} characters, expected at least {LEAST_CHARACTERS}"
    );
    let small = password.to_lowercase();
    let mut kinds: Vec<char> = small.chars().collect();
    let steps = kinds.windows(2).filter(|pair| u32::from(pair[0]).abs_diff(u32::from(pair[1])) <= 1).count();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() < LEAST_KINDS {
        bail!(
            "password is obvious: it has {} different characters, expected at least {LEAST_KINDS}",
            kinds.len()
        );
    }
    ensure!(steps * 2 < length, "password is obvious: its characters follow each other");
    let rest = OBVIOUS.iter().fold(small, |rest, word| rest.replace(word, ""));
    let rest = rest.chars().filter(|c| c.is_alphanumeric()).count();
    ensure!(rest >= LEAST_REST, "password is obvious: it is mostly a word that everybody tries first");
    Ok(())
}

/// `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`.
fn hash(password: &str, memory: u32) -> anyhow::Result<String> {
    let salt: [u8; SALT] = random()?;
    let params = Params::new(memory, PASSES, 1, Some(HASH)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut hash = [0; HASH];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), &salt, &mut hash)
        .map_err(|error| anyhow::anyhow!("hashing the password: {error}"))?;
    let mut text = format!("$argon2id$v=19$m={memory},t={PASSES},p=1");
    for part in [salt.as_slice(), &hash] {
        write!(text, "${}", Base64Unpadded::encode_string(part)).expect("strings take what is written");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn passphrases_have_eighty_bits_and_are_accepted() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let one = passphrase().unwrap();
            assert_eq!(one.len(), 19, "{one}");
            assert!(
                one.split('-').all(|group| group.len() == 4 && group.bytes().all(|b| LETTERS.contains(&b)))
            );
            check(&one).unwrap();
            assert!(seen.insert(one));
        }
        let used: std::collections::BTreeSet<char> = seen.iter().flat_map(|one| one.chars()).collect();
        assert_eq!(used.len(), LETTERS.len() + 1, "each letter has its turn");
        let different: std::collections::BTreeSet<u8> = LETTERS.iter().copied().collect();
        assert_eq!(different.len(), 32);
    }

    #[test]
    fn short_and_obvious_passwords_are_refused() {
        for (password, why) in [
            ("", "0 characters"),
            ("elevenchars", "11 characters"),
            ("aaaaaaaaaaaaaaa", "1 different"),
            ("abababababababab", "2 different"),
            ("abcdefghijklmnop", "follow each other"),
            ("1234567890123456", "follow each other"),
            ("Password-Password!", "everybody tries"),
            ("zstrap-debug-2026", "everybody tries"),
            ("adminadminroot99", "everybody tries"),
            ("tab\tin the middle", "control"),
            (&"long password ".repeat(80), "1120 bytes"),
        ] {
            let error = check(password).unwrap_err().to_string();
            assert!(error.contains(why), "{password:?}: {error}");
        }
        for good in ["correct horse battery", "Zwölf-Boxkämpfer", "k3mt-9x2q-wa7p-hd5u"] {
            check(good).unwrap();
        }
    }
}
