//! Compressed blobs: `HEX.zst` beside a blob, where that saves a tenth.
//!
//! In: a site whose plain blobs are there, and which of them a list names. Out: compressed ones beside them, and
//! the [`Packed`] that tells nodes of them. Failure: a blob that is not what its name says, the disk's errors. The
//! same content gives the same bytes on every machine with the same version of this program.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use tempfile::TempPath;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;
use zstrap_formats::digest::{ContentDigest, ContentHasher, Sha256};
use zstrap_formats::packed::{Packed, WINDOW_LOG, saves};
use zstrap_formats::site;

use crate::parallel::on_all_cores;
use crate::progress::Progress;
use crate::site::{Site, Writer};

/// Made once, fetched by every node: level 19 would take twice as long for 4 % less.
const LEVEL: i32 = 17;
/// Tried first: what does not become shorter here is not worth the real level, which is a hundred times slower.
const TRIAL_LEVEL: i32 = 1;
const CHUNK: usize = 128 * 1024;

/// Compresses those of `contents` that are worth it and are not compressed yet. What `hopeless` says of a content is
/// believed: it was tried before.
///
/// # Errors
/// See the head of this file.
pub(crate) fn pack(
    writer: &Writer,
    contents: &[ContentDigest],
    hopeless: impl Fn(&ContentDigest) -> bool + Sync,
) -> anyhow::Result<Packed> {
    let progress = Progress::bytes("compressing", contents.iter().map(|content| content.size).sum());
    let made = on_all_cores(contents, |content| {
        let made = match length_of(writer.site(), content) {
            Some(length) => Some((length, None)),
            None if hopeless(content) => None,
            None => compress(writer, content)?.map(|(length, half)| (length, Some(half))),
        };
        progress.add(content.size);
        Ok(made.map(|(length, half)| (content.sha256, length, half)))
    })?;
    let packed = place(writer, made.into_iter().flatten())?;
    progress.finish();
    Ok(packed)
}

/// A compressed blob: whose, how long, and where it stands half-made if it is new.
type Made = (Sha256, u64, Option<TempPath>);

fn place(writer: &Writer, made: impl Iterator<Item = Made>) -> anyhow::Result<Packed> {
    let (mut lengths, mut new) = (Vec::new(), Vec::new());
    for (sha256, length, half) in made {
        lengths.push((sha256, length));
        new.extend(half.map(|half| (sha256, half)));
    }
    if !new.is_empty() {
        // As with plain blobs: one sync for all, before the first of them gets its name.
        writer.sync()?;
        for (sha256, half) in new {
            writer.place(half, &site::packed_blob(&sha256))?;
        }
        writer.sync_folder("blobs/sha256")?;
    }
    Ok(Packed::new(lengths))
}

/// The length of the compressed blob that the site has, if it is whole. A damaged one is made anew, as plain ones are.
fn length_of(site: &Site, content: &ContentDigest) -> Option<u64> {
    let place = site.place(&site::packed_blob(&content.sha256));
    let length = place.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    let whole = check(&place, content).is_ok();
    if !whole {
        log::warn!("compressed blob {} is damaged; it is made anew", content.sha256);
    }
    (whole && saves(content.size, length)).then_some(length)
}

/// Whether a file is one frame of this content that nodes would read.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(place: &Path, content: &ContentDigest) -> anyhow::Result<()> {
    let file = File::open(place).with_context(|| format!("opening {}", place.display()))?;
    let found = content_of(file, content.size).with_context(|| format!("unpacking {}", place.display()))?;
    ensure!(found == *content, "{} holds SHA-256 {}", place.display(), found.sha256);
    Ok(())
}

/// The digests of what a file unpacks to, as far as one byte beyond `size`.
fn content_of(file: File, size: u64) -> anyhow::Result<ContentDigest> {
    let mut decoder = Decoder::with_buffer(BufReader::new(file))?.single_frame();
    decoder.window_log_max(WINDOW_LOG)?;
    let mut hasher = ContentHasher::new();
    copy(&mut (&mut decoder).take(size.saturating_add(1)), |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    let rest = decoder.finish().read(&mut [0])?;
    ensure!(rest == 0, "more bytes after its end");
    Ok(hasher.finish())
}

/// The blob in one zstd frame, unless that saves less than a tenth.
fn compress(writer: &Writer, content: &ContentDigest) -> anyhow::Result<Option<(u64, TempPath)>> {
    let place = writer.site().place(&site::blob(&content.sha256));
    let trial = encode(&place, content, TRIAL_LEVEL, Counter { inner: io::sink(), written: 0 })?;
    // The real level makes things up to a fifth shorter than this one, seldom more.
    if !saves(content.size, trial.written.saturating_mul(4) / 5) {
        return Ok(None);
    }
    let counter = Counter { inner: writer.begin()?, written: 0 };
    let Counter { inner: half, written } = encode(&place, content, LEVEL, counter)?;
    Ok(saves(content.size, written).then(|| (written, half.into_temp_path())))
}

fn encode<W: Write>(
    place: &Path,
    content: &ContentDigest,
    level: i32,
    counter: Counter<W>,
) -> anyhow::Result<Counter<W>> {
    let packing = || format!("compressing {}", place.display());
    let mut file = File::open(place).with_context(packing)?;
    let mut encoder = Encoder::new(counter, level)?;
    encoder.window_log(WINDOW_LOG)?;
    // With it, a small file's decoder needs no more memory than the file has. Its hash makes a checksum superfluous.
    encoder.set_pledged_src_size(Some(content.size))?;
    encoder.include_checksum(false)?;
    let mut hasher = ContentHasher::new();
    let copied = copy(&mut file, |piece| {
        hasher.update(piece);
        encoder.write_all(piece)
    });
    let counter = copied.and_then(|()| encoder.finish()).with_context(packing)?;
    let found = hasher.finish();
    ensure!(found == *content, "{} holds SHA-256 {}", place.display(), found.sha256);
    Ok(counter)
}

fn copy(reader: &mut dyn Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts what goes through.
struct Counter<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A site with one plain blob.
    fn with_blob(bytes: &[u8]) -> (tempfile::TempDir, Writer, ContentDigest) {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::lock(root.path()).unwrap();
        let content = ContentDigest::of(bytes);
        writer.write(&site::blob(&content.sha256), bytes).unwrap();
        (root, writer, content)
    }

    fn place_of(writer: &Writer, content: &ContentDigest) -> std::path::PathBuf {
        writer.site().place(&site::packed_blob(&content.sha256))
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let step = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 56) as u8
        };
        (0..length).map(|_| step(&mut state)).collect()
    }

    #[test]
    fn text_is_compressed_and_unpacks_to_itself() {
        let (_root, writer, content) = with_blob(&b"text that repeats ".repeat(10_000));
        let packed = pack(&writer, &[content], |_| false).unwrap();
        let place = place_of(&writer, &content);
        assert_eq!(packed.length(&content.sha256, content.size), Some(place.metadata().unwrap().len()));
        check(&place, &content).unwrap();
    }

    #[test]
    fn noise_is_not_and_neither_is_what_was_tried_before() {
        let (_root, writer, content) = with_blob(&noise(3 << 20));
        assert!(pack(&writer, &[content], |_| false).unwrap().is_empty());
        let (_root, writer, content) = with_blob(&[1; 100_000]);
        assert!(pack(&writer, &[content], |_| true).unwrap().is_empty());
        assert!(!place_of(&writer, &content).exists());
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_and_is_not_written_twice() {
        use std::os::unix::fs::MetadataExt;
        let (_root, writer, content) = with_blob(&[1; 3 << 20]);
        let place = place_of(&writer, &content);
        pack(&writer, &[content], |_| false).unwrap();
        let (first, inode) = (std::fs::read(&place).unwrap(), place.metadata().unwrap().ino());
        pack(&writer, &[content], |_| false).unwrap();
        assert_eq!(place.metadata().unwrap().ino(), inode);
        std::fs::remove_file(&place).unwrap();
        pack(&writer, &[content], |_| false).unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), first);
    }

    #[test]
    fn a_damaged_compressed_blob_is_made_anew() {
        let (_root, writer, content) = with_blob(&b"text ".repeat(5000));
        let place = place_of(&writer, &content);
        let damages: [fn(&mut Vec<u8>); 4] = [
            |_| {},
            |bytes| bytes.push(0),
            |bytes| bytes[12] ^= 1,
            |bytes| {
                bytes.pop();
            },
        ];
        for damage in damages {
            pack(&writer, &[content], |_| false).unwrap();
            let mut bytes = std::fs::read(&place).unwrap();
            damage(&mut bytes);
            std::fs::write(&place, bytes).unwrap();
        }
        assert!(check(&place, &content).is_err());
        let packed = pack(&writer, &[content], |_| false).unwrap();
        check(&place, &content).unwrap();
        assert!(!packed.is_empty());
    }

    #[test]
    fn refuses_a_window_that_nodes_refuse() {
        let bytes = noise(3 << 20).repeat(3);
        let content = ContentDigest::of(&bytes);
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut encoder = Encoder::new(file.as_file(), 19).unwrap();
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap();
        // The frame is good, so it is the window that is refused. The decoder may have been built without its words.
        assert_eq!(zstd::decode_all(std::fs::File::open(file.path()).unwrap()).unwrap(), bytes);
        let error = check(file.path(), &content).unwrap_err();
        assert!(format!("{error:#}").contains("unpacking"), "{error:#}");
    }
}
