//! Every line of this boot in a file, whatever the consoles show.
//!
//! In: lines. Out: [`PATH`], which moves along with `/run` at the handoff. A machine that tries for a week writes
//! more than it has memory for: then the beginning and the newest stay. Failure: a log that cannot be written is
//! none, and the boot goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

/// Where the log stands, for root alone, as the kernel's does.
pub const PATH: &str = "/run/zstrap/boot.log";

/// How much of the beginning stays.
const FIRST: u64 = 256 * 1024;
/// How much of the newest stays at least; up to twice as much.
const NEWEST: u64 = 128 * 1024;
/// Longer than any line.
const LONGEST: u64 = 4096;
const LEFT_OUT: &[u8] = b"[    ... ] lines left out\n";

/// The log file.
pub struct BootLog {
    file: File,
    size: u64,
}

impl BootLog {
    /// Begins the log anew.
    pub fn create(path: &str) -> io::Result<Self> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Self { file: options.open(path)?, size: 0 })
    }

    /// Adds one line, which ends with a line feed.
    pub fn add(&mut self, line: &str) -> io::Result<()> {
        if self.size + line.len() as u64 > FIRST + 2 * NEWEST {
            self.shorten()?;
        }
        self.append(line.as_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.size)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Takes out the middle, between two lines on both sides.
    fn shorten(&mut self) -> io::Result<()> {
        let mut newest = vec![0; usize::try_from(NEWEST).expect("it fits the memory")];
        self.file.read_exact_at(&mut newest, self.size - NEWEST)?;
        let mut first = [0; LONGEST as usize];
        self.file.read_exact_at(&mut first, FIRST - LONGEST)?;
        let end_of_line = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let begin = newest.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.size = FIRST - LONGEST + end_of_line(&first) as u64;
        self.file.set_len(self.size)?;
        // In one place only, whatever was left out before: the beginning ends at the same line each time.
        self.append(LEFT_OUT)?;
        self.append(&newest[begin..])?;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_of_a_week_keeps_its_beginning_and_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zstrap/boot.log");
        let mut log = BootLog::create(path.to_str().unwrap()).unwrap();
        for number in 0..100_000 {
            log.add(&format!("[{number:8}.000] line number {number}\n")).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let left_out = lines.iter().position(|line| line.ends_with("lines left out")).unwrap();
        assert!(lines.iter().enumerate().all(|(at, line)| at == left_out || line.contains("] line number ")));
        assert!(lines[0].ends_with(" 0") && lines[left_out - 1].ends_with(&format!(" {}", left_out - 1)));
        assert!(lines[lines.len() - 1].ends_with(" 99999"));
        assert!(lines[left_out - 1].len() * left_out > 250_000 && text.len() <= 512 * 1024);
        assert!(lines.len() - left_out > 2000);
    }
}
