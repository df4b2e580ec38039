//! How many bytes a node loads before it fetches any.
//!
//! In: the init as it ships, an image. Out: a row each. Failure: a file that can't be read.

use std::path::Path;

use anyhow::{Context, Result};
use zstrap_mkimage::Image;
use zstrap_qemu_tests::artefacts;

use crate::boot::Setup;
use crate::report::{Budget, MIB, Report, Row, Unit};

/// What the init with TLS may have at this stage; the design allows 2.2 for the whole of it.
const MOST_INIT: f64 = 2.0 * MIB;

/// The level that images are compressed with.
const LEVEL: i32 = 19;

/// Measures sizes.
pub fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let init = read(&artefacts::artefact("bin/zstrap-init-amd64")?)?;
    let folder = setup.scene.image()?;
    let image = Image::read(&folder)?;
    let compressed = zstd::bulk::compress(&init, LEVEL).context("compressing the init")?;
    let mut size = |what: &str, bytes: usize, budget: Budget| {
        let (what, figure) = (what.to_owned(), bytes as f64);
        report.row(Row { what, unit: Unit::Bytes, figure, peer: None, budget });
    };
    size("the init, stripped (whole design: 2.2 MiB)", init.len(), Budget::Figure(MOST_INIT));
    size("the init, zstd -19", compressed.len(), Budget::None);
    size("initramfs with modules and identity", read(&folder.join(&image.initramfs))?.len(), Budget::None);
    size("kernel, Debian's", read(&folder.join(&image.kernel))?.len(), Budget::None);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
