//! Reads a module file and undoes its compression.
//!
//! In: a path. Out: the ELF file's bytes. Failure: damaged compression, or more than a module can have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};

/// The largest modules (GPU drivers with symbols) have some 100 MB.
const MAX_MODULE: u64 = 512 * 1024 * 1024;

/// Reads `path`, uncompressed as its suffix says.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).context("opening it")?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit('.').next() {
        Some("xz") => read_all(liblzma::read::XzDecoder::new(file)),
        Some("zst") => read_all(zstd::Decoder::new(file).context("starting zstd")?),
        Some("gz") => read_all(flate2::read::GzDecoder::new(file)),
        _ => read_all(file),
    }
}

fn read_all(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_MODULE + 1).read_to_end(&mut bytes).context("uncompressing it")?;
    ensure!(bytes.len() as u64 <= MAX_MODULE, "expected at most {MAX_MODULE} bytes");
    Ok(bytes)
}
