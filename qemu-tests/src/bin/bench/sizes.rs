//! How many bytes a node loads before it fetches any.
//!
//! In: the init as it ships, an image. Out: a row each. Failure: a file that can't be read.

use std::path::Path;

use anyhow::{Context, Result};
use zstrap_mkimage::Image;
use zstrap_qemu_tests::artefacts;

use crate::boot::Setup;
use crate::report::{Budget, MIB, Report, Row, Unit};

/// What the design allows for the whole of the init.
const MOST_INIT: f64 = 2.2 * MIB;

/// What it had when DHCPv4 on one link after the other and one server were all it knew, in bytes.
const INIT_BEFORE: f64 = 1_909_488.0;

/// The level that images are compressed with.
const LEVEL: i32 = 19;

/// Measures sizes.
pub fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let init = read(&artefacts::artefact("bin/zstrap-init-amd64")?)?;
    let folder = setup.scene.image()?;
    let image = Image::read(&folder)?;
    let compressed = zstd::bulk::compress(&init, LEVEL).context("compressing the init")?;
    let mut row = |what: &str, bytes: usize, peer: Option<f64>, budget: Budget| {
        let (what, figure) = (what.to_owned(), bytes as f64);
        report.row(Row { what, unit: Unit::Bytes, figure, peer, budget });
    };
    let before = Some(INIT_BEFORE);
    row(
        "the init, stripped; peer: with DHCP on one link alone",
        init.len(),
        before,
        Budget::Figure(MOST_INIT),
    );
    let mut size = |what: &str, bytes: usize, budget: Budget| row(what, bytes, None, budget);
    size("the init, zstd -19", compressed.len(), Budget::None);
    size("initramfs with modules and identity", read(&folder.join(&image.initramfs))?.len(), Budget::None);
    size("kernel, Debian's", read(&folder.join(&image.kernel))?.len(), Budget::None);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
