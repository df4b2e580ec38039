//! One content on its way to the root.
//!
//! In: its digest, and a [`Transfer`] of the file of the site that holds it. Out: a file of the root that holds exactly
//! that content; each byte was hashed on its way. Failure: no server could give it, or the root did not take it.

use std::io::{self, Read};

use zstrap_formats::digest::{ContentDigest, ContentHasher};
use zstrap_formats::list::Entry;
use zstrap_formats::site;

use crate::fetch::{Error, Shared, write_error};
use crate::sys::NewFile;
use crate::transfer::{End, Transfer};

/// One content on its way.
pub struct Download<'a> {
    /// What all downloads share.
    pub shared: &'a Shared<'a>,
    /// The first file that has it.
    pub entry: &'a Entry,
    /// What it must be.
    pub content: ContentDigest,
}

/// Why not all of a content was written.
enum Cut {
    /// Its reader has failed.
    Reader(io::Error),
    /// It goes on beyond its size.
    TooLong,
    /// The root did not take it.
    Write(io::Error),
}

impl Download<'_> {
    /// Fills `file`.
    ///
    /// # Errors
    /// When no server can give it: of what they did, what tells most.
    pub fn run(&self, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<(), Error> {
        self.plain(file, buffer)
    }

    /// From the blob as it is.
    fn plain(&self, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<(), Error> {
        let path = site::blob(&self.content.sha256);
        let mut transfer = Transfer::new(self.shared, self.entry, path, self.content.size);
        loop {
            let mut hasher = ContentHasher::new();
            let copied = self.copy(&mut transfer, &mut hasher, file, buffer);
            let have = hasher.size();
            match copied {
                Ok(()) => {
                    let found = hasher.finish();
                    if found == self.content {
                        transfer.was_right();
                        return Ok(());
                    }
                    let error = mismatch(self.entry, &self.content, &found);
                    // By SHA-256 they are right, so it is the list that is wrong, whoever served them.
                    if found.sha256 == self.content.sha256 {
                        return Err(error);
                    }
                    transfer.was_wrong(error);
                }
                Err(Cut::Write(error)) => return Err(write_error(self.entry)(error)),
                Err(Cut::TooLong) => transfer.was_wrong(self.too_long()),
                Err(Cut::Reader(error)) => match transfer.end() {
                    Some(End::Anew) => {}
                    Some(End::Wrong(error)) => transfer.was_wrong(error),
                    Some(End::Failed(error)) => return Err(error),
                    None => return Err(Error::Read { path: self.entry.display_path(), source: error }),
                },
            }
            self.shared.progress.take_back(have);
            file.restart().map_err(write_error(self.entry))?;
        }
    }

    /// Writes what comes, and hashes it, until it ends.
    fn copy(
        &self,
        reader: &mut dyn Read,
        hasher: &mut ContentHasher,
        file: &mut dyn NewFile,
        buffer: &mut [u8],
    ) -> Result<(), Cut> {
        loop {
            let read = match reader.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Cut::Reader(error)),
            };
            if hasher.size() + read as u64 > self.content.size {
                return Err(Cut::TooLong);
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(Cut::Write)?;
            self.shared.progress.add(read as u64);
        }
    }

    fn too_long(&self) -> Error {
        let (found, expected) = (format!("more than {}", self.content.size), self.content.size);
        Error::Length { path: self.entry.display_path(), found, expected }
    }
}

/// The bytes are others than those of the list.
pub fn mismatch(entry: &Entry, expected: &ContentDigest, found: &ContentDigest) -> Error {
    let path = entry.display_path();
    if found.sha256 != expected.sha256 {
        let (found, expected) = (found.sha256.to_string(), expected.sha256.to_string());
        return Error::Sha256 { path, found, expected };
    }
    Error::Md5 { path, found: found.md5.to_string(), expected: expected.md5.to_string() }
}
