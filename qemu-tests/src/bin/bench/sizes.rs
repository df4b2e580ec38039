//! How many bytes a node loads before it fetches any, on each architecture.
//!
//! In: the init as it ships, an image. Out: a row each. Failure: a file that can't be read, an image that can't be made.

use std::path::Path;

use anyhow::{Context, Result};
use zstrap_formats::name::Arch;
use zstrap_mkimage::Image;
use zstrap_qemu_tests::artefacts;
use zstrap_qemu_tests::http::Place;
use zstrap_qemu_tests::site::Scene;

use crate::report::{Budget, MIB, Report, Row, Unit};

/// What is measured of an architecture, and held to what.
struct Sizes {
    arch: Arch,
    /// What the design allows for the whole of the init, in MiB.
    most: f64,
    /// What it wishes.
    goal: f64,
    /// What the init had when DHCPv4 on one link after the other and one server were all it knew, in bytes.
    before: Option<f64>,
}

/// Code of arm64 is denser: the same init has a sixth less.
const ALL: [Sizes; 2] = [
    Sizes { arch: Arch::Amd64, most: 2.2, goal: 2.0, before: Some(1_909_488.0) },
    Sizes { arch: Arch::Arm64, most: 1.9, goal: 1.7, before: None },
];

/// The level that images are compressed with.
const LEVEL: i32 = 19;

/// Measures sizes.
pub fn measure(report: &mut Report) -> Result<()> {
    ALL.iter().try_for_each(|sizes| sizes.measure(report))
}

impl Sizes {
    fn measure(&self, report: &mut Report) -> Result<()> {
        let arch = self.arch;
        let init = read(&artefacts::init(arch)?)?;
        let scene = Scene::of(arch, "bench-sizes", Place::user())?;
        let folder = scene.image()?;
        let image = Image::read(&folder)?;
        let compressed = zstd::bulk::compress(&init, LEVEL).context("compressing the init")?;
        let mut row = |what: &str, bytes: usize, peer: Option<f64>, budget: Budget| {
            let what = format!("{arch}: {what}");
            report.row(Row { what, unit: Unit::Bytes, figure: bytes as f64, peer, budget });
        };
        let peer = if self.before.is_some() { "; peer: with DHCP on one link alone" } else { "" };
        let what = format!("the init, stripped, goal {:.1} MiB{peer}", self.goal);
        row(&what, init.len(), self.before, Budget::Figure(self.most * MIB));
        let mut size = |what: &str, bytes: usize| row(what, bytes, None, Budget::None);
        size("the init, zstd -19", compressed.len());
        size("initramfs with modules and identity", read(&folder.join(&image.initramfs))?.len());
        size("kernel, Debian's", read(&folder.join(&image.kernel))?.len());
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
