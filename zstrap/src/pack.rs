//! Compressed blobs: `HEX.zst` beside a blob, where that saves a tenth.
//!
//! In: a site whose plain blobs are there, and which of them a list names. Out: compressed ones beside them, and
//! the [`Packed`] that tells nodes of them. Failure: a blob that is not what its name says, the disk's errors. The
//! same content gives the same bytes on every machine with the same version of this program.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};
use tempfile::{NamedTempFile, TempPath};
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;
use zstrap_formats::digest::{ContentDigest, ContentHasher};
use zstrap_formats::packed::{Packed, WINDOW_LOG, saves};
use zstrap_formats::site;

use crate::parallel::on_all_cores;
use crate::progress::Progress;
use crate::site::{Site, Writer};

/// Of 6.6 MB of programs (16.5 MB of larger ones), one core makes, in seconds: level 3 48.8 % in 0.06 (38.2 % in 0.13),
/// 6 46.3 % in 0.14 (35.7 % in 0.29), 9 45.7 % in 0.22 (35.1 % in 0.42), 12 45.6 % in 0.41 (34.9 % in 0.90), 17 43.1 % in
/// 2.32 (32.6 % in 4.08), 19 41.5 % in 2.90 (31.0 % in 5.22). Beyond 9, 12 takes twice the time for 0.2 % at most, and 17
/// ten times for 2.6 %.
const LEVEL: i32 = 9;
/// Of the trial: six times as fast as [`LEVEL`] on noise (200 MB in 0.2 s), and faster than the hashes of a content.
const TRIAL_LEVEL: i32 = 1;
/// The trial must save one part in so many: what it saves less of does not save a tenth at the real level.
const TRIAL_GAIN: u64 = 32;
/// What an encoder has taken in at most and not given out yet: its block, and as much in buffers.
const TRIAL_LAG: u64 = 2 * CHUNK as u64;
const CHUNK: usize = 128 * 1024;

/// What compressing has brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gain {
    /// Blobs that stand there compressed, too.
    pub blobs: usize,
    /// Those of them that did not before.
    pub new: usize,
    /// Bytes of their contents.
    pub size: u64,
    /// Bytes of what nodes fetch instead.
    pub length: u64,
}

impl fmt::Display for Gain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blobs, new, size, length } = self;
        write!(formatter, "blobs={blobs} new={new} before={size} after={length}")
    }
}

/// Compresses those of `contents` that are worth it and are not compressed yet. What `hopeless` says of a content is
/// believed: it was tried before.
///
/// # Errors
/// See the head of this file.
pub(crate) fn pack(
    writer: &Writer,
    contents: &[ContentDigest],
    hopeless: impl Fn(&ContentDigest) -> bool + Sync,
) -> anyhow::Result<(Packed, Gain)> {
    let progress = Progress::bytes("compressing", contents.iter().map(|content| content.size).sum());
    let made = on_all_cores(contents, |content| {
        if let Some(length) = length_of(writer.site(), content) {
            progress.pass(content.size);
            return Ok(Some(Made { content: *content, length, half: None }));
        }
        if hopeless(content) || !promises(writer.site(), content)? {
            progress.pass(content.size);
            return Ok(None);
        }
        compress(writer, content, &progress)
    })?;
    let made: Vec<Made> = made.into_iter().flatten().collect();
    let packed = Packed::new(made.iter().map(|made| (made.content.sha256, made.length)));
    let gain = Gain {
        blobs: made.len(),
        new: made.iter().filter(|made| made.half.is_some()).count(),
        size: made.iter().map(|made| made.content.size).sum(),
        length: made.iter().map(|made| made.length).sum(),
    };
    place(writer, made)?;
    progress.finish();
    Ok((packed, gain))
}

/// A compressed blob: of what, how long, and where it stands half-made if it is new.
struct Made {
    content: ContentDigest,
    length: u64,
    half: Option<TempPath>,
}

fn place(writer: &Writer, made: Vec<Made>) -> anyhow::Result<()> {
    if made.iter().all(|made| made.half.is_none()) {
        return Ok(());
    }
    // As with plain blobs: one sync for all, before the first of them gets its name.
    writer.sync()?;
    for Made { content, half, .. } in made {
        if let Some(half) = half {
            writer.place(half, &site::packed_blob(&content.sha256))?;
        }
    }
    writer.sync_folder("blobs/sha256")
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

/// Whether a quick trial makes a content shorter at all. What is compressed already does not become so, and that is
/// often most of a tree. All of the content is tried, with the real window: in a large one, samples miss stretches
/// between them, and repeats further apart than a sample is long. The trial ends as soon as it has saved enough.
fn promises(site: &Site, content: &ContentDigest) -> anyhow::Result<bool> {
    let place = site.place(&site::blob(&content.sha256));
    let trying = || format!("trying to compress {}", place.display());
    let file = File::open(&place).with_context(trying)?;
    let enough = content.size / TRIAL_GAIN;
    let mut trial = Encoder::new(Counter(0), TRIAL_LEVEL)?;
    trial.window_log(WINDOW_LOG)?;
    trial.long_distance_matching(true)?;
    let (mut taken, mut piece) = (0, vec![0; CHUNK]);
    loop {
        let read = read_at(&file, &mut piece, taken).with_context(trying)?;
        if read == 0 {
            break;
        }
        trial.write_all(&piece[..read]).with_context(trying)?;
        taken += read as u64;
        if taken >= trial.get_ref().0 + TRIAL_LAG + enough {
            return Ok(true);
        }
    }
    let length = trial.finish().with_context(trying)?.0;
    Ok(length + enough <= taken)
}

/// How long something is.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As much of a file as there is from `offset` on, up to the length of the buffer.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// The blob in one zstd frame, unless that saves less than a tenth.
fn compress(writer: &Writer, content: &ContentDigest, progress: &Progress) -> anyhow::Result<Option<Made>> {
    let place = writer.site().place(&site::blob(&content.sha256));
    let half = encode(&place, content, writer.begin()?, progress)?;
    let length = half.as_file().metadata().with_context(|| format!("compressing {}", place.display()))?.len();
    let half = Some(half.into_temp_path());
    Ok(saves(content.size, length).then_some(Made { content: *content, length, half }))
}

/// Piece by piece: whatever the size of the file, the encoder's memory is that of its window.
fn encode(
    place: &Path,
    content: &ContentDigest,
    half: NamedTempFile,
    progress: &Progress,
) -> anyhow::Result<NamedTempFile> {
    let packing = || format!("compressing {}", place.display());
    let mut file = File::open(place).with_context(packing)?;
    let mut encoder = Encoder::new(half, LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    // With it, a small file's decoder needs no more memory than the file has. Its hash makes a checksum superfluous.
    encoder.set_pledged_src_size(Some(content.size))?;
    encoder.include_checksum(false)?;
    let mut hasher = ContentHasher::new();
    let copied = copy(&mut file, |piece| {
        hasher.update(piece);
        progress.add(piece.len() as u64);
        encoder.write_all(piece)
    });
    let half = copied.and_then(|()| encoder.finish()).with_context(packing)?;
    let found = hasher.finish();
    ensure!(found == *content, "{} holds SHA-256 {}", place.display(), found.sha256);
    Ok(half)
}

fn copy(reader: &mut dyn Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use zstrap_formats::packed::LEAST;

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
        let (packed, gain) = pack(&writer, &[content], |_| false).unwrap();
        let place = place_of(&writer, &content);
        let length = place.metadata().unwrap().len();
        assert_eq!(packed.length(&content.sha256, content.size), Some(length));
        assert_eq!(gain, Gain { blobs: 1, new: 1, size: 180_000, length });
        check(&place, &content).unwrap();
    }

    #[test]
    fn noise_is_given_up_after_its_trial() {
        for length in [LEAST, 100_000, 3 << 20] {
            let (_root, writer, content) = with_blob(&noise(length as usize));
            assert!(!promises(writer.site(), &content).unwrap(), "{length}");
        }
    }

    #[test]
    fn a_stretch_that_saves_a_tenth_is_found_wherever_it_is() {
        let length = 8 << 20;
        for begin in (0..=9).map(|tenth| length / 10 * tenth) {
            let mut bytes = noise(length);
            bytes[begin..begin + length / 10].fill(0);
            let (_root, writer, content) = with_blob(&bytes);
            assert!(promises(writer.site(), &content).unwrap(), "{begin}");
        }
    }

    #[test]
    fn repeats_further_apart_than_a_sample_were_not_compressed() {
        let bytes = noise(1 << 20).repeat(8);
        let (_root, writer, content) = with_blob(&bytes);
        let (_, gain) = pack(&writer, &[content], |_| false).unwrap();
        assert_eq!(gain.blobs, 1);
        assert!(gain.length < gain.size / 7, "{gain}");
    }

    /// As in the image of a disk: a fifth of it is empty, but not where 16 samples would have looked.
    #[test]
    fn stretches_between_the_samples_were_missed() {
        let mut bytes = noise(8 << 20);
        let apart = (bytes.len() - CHUNK) / 15;
        for part in bytes.chunks_exact_mut(apart) {
            part[2 * CHUNK..3 * CHUNK].fill(0);
        }
        let (_root, writer, content) = with_blob(&bytes);
        let (_, gain) = pack(&writer, &[content], |_| false).unwrap();
        assert_eq!(gain.blobs, 1);
    }

    #[test]
    fn noise_is_not_and_neither_is_what_was_tried_before() {
        let (_root, writer, content) = with_blob(&noise(3 << 20));
        assert!(pack(&writer, &[content], |_| false).unwrap().0.is_empty());
        let (_root, writer, content) = with_blob(&[1; 100_000]);
        assert!(pack(&writer, &[content], |_| true).unwrap().0.is_empty());
        assert!(!place_of(&writer, &content).exists());
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_and_is_not_written_twice() {
        use std::os::unix::fs::MetadataExt;
        let (_root, writer, content) = with_blob(&[1; 3 << 20]);
        let place = place_of(&writer, &content);
        pack(&writer, &[content], |_| false).unwrap();
        let (first, inode) = (std::fs::read(&place).unwrap(), place.metadata().unwrap().ino());
        let (_, gain) = pack(&writer, &[content], |_| false).unwrap();
        assert_eq!((gain.blobs, gain.new, place.metadata().unwrap().ino()), (1, 0, inode));
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
        let (packed, _) = pack(&writer, &[content], |_| false).unwrap();
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
