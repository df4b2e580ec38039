//! One content on its way to the root.
//!
//! In: its digest, and a [`Transfer`] of the file of the site that holds it, compressed if there is such a one. Out: a
//! file of the root that holds exactly that content; each byte was hashed on its way. Failure: no server could give
//! it, or the root did not take it.

use std::io::{self, Read};

use zstrap_formats::digest::{ContentDigest, ContentHasher};
use zstrap_formats::list::Entry;
use zstrap_formats::site;

use crate::fail::Chain;
use crate::fetch::{Error, Shared, write_error};
use crate::http::HttpError;
use crate::sys::NewFile;
use crate::transfer::{End, Transfer};
use crate::unzstd::Unzstd;

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
        match self.shared.packed.length(&self.content.sha256, self.content.size) {
            Some(length) if self.packed(length, file, buffer)? => Ok(()),
            _ => self.plain(file, buffer),
        }
    }

    /// From the compressed blob; false when it cannot be had or is not right. Nobody has signed it, and the plain one is
    /// always there: that one decides who is to blame.
    fn packed(&self, length: u64, file: &mut dyn NewFile, buffer: &mut [u8]) -> Result<bool, Error> {
        let path = site::packed_blob(&self.content.sha256);
        let mut transfer = Transfer::hinted(self.shared, self.entry, path, length);
        let mut hasher = ContentHasher::new();
        let copied = match Unzstd::new(&mut transfer, length) {
            Ok(mut unzstd) => self.copy(&mut unzstd, &mut hasher, file, buffer),
            Err(error) => Err(Cut::Reader(error)),
        };
        let have = hasher.size();
        let why = match (copied, transfer.end()) {
            (Ok(()), _) if hasher.finish() == self.content => {
                transfer.was_right();
                return Ok(true);
            }
            (Err(Cut::Write(error)), _) => return Err(write_error(self.entry)(error)),
            (_, Some(End::Failed(error))) if is_silence(&error) => return Err(error),
            (_, Some(End::Wrong(error) | End::Failed(error))) => Chain(&error).to_string(),
            (Err(Cut::Reader(error)), None) => error.to_string(),
            _ => "other bytes than those of the list".to_owned(),
        };
        let path = self.entry.display_path();
        log::warn!(target: "fetch", "compressed blob not usable path={path} have={have} next=plain why={why}");
        self.shared.progress.take_back(have);
        file.restart().map_err(write_error(self.entry))?;
        Ok(false)
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

/// Whether no server gives anything: then none would give the plain blob, either.
fn is_silence(error: &Error) -> bool {
    use HttpError::{Certificate, Transport};
    matches!(error, Error::Read { .. } | Error::Get { source: Transport { .. } | Certificate { .. }, .. })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::fail::Refusal as _;
    use crate::sys::fake::{self, Fault, Site};
    use std::time::Duration;
    use zstrap_formats::{digest, site};

    /// Something that becomes about half as long, and that in several blocks.
    fn content() -> Vec<u8> {
        fake::half_noise(900_000)
    }

    fn compressed(content: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(content, 3).unwrap()
    }

    fn mirror(name: &str, fault: Fault) -> Site {
        fake::packed_mirror(name, fault, &content(), &compressed(&content()))
    }

    /// What a site was asked for: compressed or not, and from which byte on.
    type Asked = Vec<(bool, u64)>;

    /// Fetches the content.
    fn fetch(sites: &[&Site]) -> (Option<&'static str>, Vec<Asked>) {
        let (result, root) = fake::fetch_content_from(sites, &content());
        assert_eq!(root.file(b"file").is_some(), result.is_ok());
        assert!(root.file(b"file").is_none_or(|file| file == content()));
        (result.err().map(|error| error.reason()), sites.iter().map(|site| site.kinds()).collect())
    }

    const WHOLE: (bool, u64) = (true, 0);
    const PLAIN: (bool, u64) = (false, 0);

    #[test]
    fn the_compressed_blob_is_fetched_where_the_site_has_one() {
        assert_eq!(fetch(&[&mirror("a", Fault::None)]), (None, vec![vec![WHOLE]]));
    }

    #[test]
    fn a_cut_compressed_blob_is_resumed_in_itself_also_at_another_server() {
        let half = compressed(&content()).len() as u64 / 2;
        assert_eq!(fetch(&[&mirror("a", Fault::CutOnce)]), (None, vec![vec![WHOLE, (true, half)]]));
        let sites = [&mirror("a", Fault::CutOnce), &mirror("b", Fault::None)];
        assert_eq!(fetch(&sites), (None, vec![vec![WHOLE], vec![(true, half)]]));
        // Ranges are ignored: the whole comes anew, and that is the plain blob.
        assert_eq!(fetch(&[&mirror("a", Fault::CutOnceNoRanges)]).1, [vec![WHOLE, (true, half), PLAIN]]);
    }

    #[test]
    fn mirrors_that_compressed_differently_cost_time_and_nobody_lies() {
        let (good, mut same_length) = (compressed(&content()), compressed(&content()));
        same_length[good.len() * 3 / 4] ^= 1;
        let other_length = zstd::bulk::compress(&content(), 1).unwrap();
        let second_half = (true, good.len() as u64 / 2);
        for (packed, last) in [(&other_length, second_half), (&same_length, PLAIN)] {
            let (a, mut b) = (mirror("a", Fault::CutOnce), mirror("b", Fault::None));
            b.insert(&site::packed_blob(&digest::sha256(&content())), packed);
            let (reason, asked) = fetch(&[&a, &b]);
            // The second is asked for the rest; the last word has the first, or the plain blob of whoever is best.
            assert_eq!((reason, asked[1][0]), (None, second_half), "{asked:?}");
            assert!(asked.iter().any(|asked| asked.last() == Some(&last)), "{asked:?}");
        }
    }

    #[test]
    fn a_compressed_blob_that_is_wrong_is_replaced_by_the_plain_one() {
        let content = content();
        let good = compressed(&content);
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        let other = compressed(&content.iter().rev().copied().collect::<Vec<_>>());
        let bomb = compressed(&vec![0; 100 << 20]);
        let html = b"<html>log in</html>".to_vec();
        for bad in [flipped, other, bomb, html, good[..good.len() - 1].to_vec()] {
            let site = fake::packed_mirror("a", Fault::None, &content, &bad);
            assert_eq!(fetch(&[&site]), (None, vec![vec![WHOLE, PLAIN]]), "{} bytes", bad.len());
            assert_eq!(site.time.pauses(), [Duration::ZERO; 0]);
        }
    }

    #[test]
    fn a_hint_that_is_wrong_costs_one_request() {
        let mut site = mirror("a", Fault::None);
        site.remove(&site::packed_blob(&digest::sha256(&content())));
        assert_eq!(fetch(&[&site]), (None, vec![vec![WHOLE, PLAIN]]));
        // Another length than that of the hint.
        let hint = fake::packed_mirror("a", Fault::None, &content(), &compressed(&content())[1..]);
        let mut site = mirror("a", Fault::None);
        site.copy_from(&hint, "bundles/");
        assert_eq!(fetch(&[&site]), (None, vec![vec![WHOLE, PLAIN]]));
    }

    #[test]
    fn a_server_that_falsifies_both_is_refused_by_the_plain_blob() {
        assert_eq!(fetch(&[&mirror("a", Fault::Flipped)]), (Some("sha256"), vec![vec![WHOLE, PLAIN]]));
    }

    #[test]
    fn a_dead_network_is_not_tried_twice() {
        let (reason, asked) = fetch(&[&mirror("a", Fault::Stalled)]);
        assert_eq!(reason, Some("io"));
        assert!(asked[0].iter().all(|(is_compressed, _)| *is_compressed), "{asked:?}");
    }
}
