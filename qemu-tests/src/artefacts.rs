//! Where tests find what `make build` made, which architecture they are about, and how long they may wait for a machine.
//!
//! In: the `out/` folder of the workspace and the environment variables `ZSTRAP_TEST_ARCH` and `ZSTRAP_TEST_SLOW`.
//! Out: checked paths, an architecture and scaled durations. Failure: a missing artefact is an error that says how to
//! make it; an unknown architecture ends the run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use zstrap_formats::name::Arch;

/// The architecture of the machines that tests boot, where they name none. Default amd64.
const ARCH: &str = "ZSTRAP_TEST_ARCH";

/// Factor for every wait of a test, for machines slower than the one these tests were written on. Default 1.
const SLOW: &str = "ZSTRAP_TEST_SLOW";

/// The `out/` folder of the workspace.
pub fn out() -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    home.parent().unwrap_or(home).join("out")
}

/// A file or folder below `out/` that `make build` makes.
pub fn artefact(name: &str) -> Result<PathBuf> {
    let path = out().join(name);
    if !path.exists() {
        bail!("{} is missing: run `make build`", path.display());
    }
    Ok(path)
}

/// The architecture that this run of tests is about.
///
/// # Panics
/// When the environment names one that does not exist: a run that silently tests another would pass for it.
pub fn arch() -> Arch {
    let Ok(name) = std::env::var(ARCH) else { return Arch::Amd64 };
    name.parse().unwrap_or_else(|error| panic!("{ARCH}: {error}"))
}

/// The init of an architecture.
pub fn init(arch: Arch) -> Result<PathBuf> {
    artefact(&format!("bin/zstrap-init-{arch}"))
}

/// The program that test bundles start, for this run's architecture.
pub fn payload() -> Result<PathBuf> {
    artefact(&format!("bin/zstrap-test-payload-{}", arch()))
}

/// The kernel that test machines of this run boot.
pub fn kernel() -> Result<PathBuf> {
    kernel_for(arch())
}

/// The kernel of an architecture.
pub fn kernel_for(arch: Arch) -> Result<PathBuf> {
    artefact(&format!("kernel/{arch}/vmlinuz"))
}

/// The folder `lib/modules/VERSION` of [`kernel`], named by its version.
pub fn modules() -> Result<PathBuf> {
    modules_for(arch())
}

/// The same of [`kernel_for`].
pub fn modules_for(arch: Arch) -> Result<PathBuf> {
    modules_in(&format!("kernel/{arch}/modules"))
}

/// Debian's generic kernel for amd64, with drivers of real hardware.
pub fn generic_kernel() -> Result<PathBuf> {
    artefact("kernel/amd64-generic/vmlinuz")
}

/// The folder of its modules.
pub fn generic_modules() -> Result<PathBuf> {
    modules_in("kernel/amd64-generic/modules")
}

fn modules_in(folder: &str) -> Result<PathBuf> {
    let folder = artefact(folder)?;
    let mut versions: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("listing {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    versions.sort();
    versions.pop().with_context(|| format!("no kernel version in {}: run `make build`", folder.display()))
}

/// `limit`, stretched by the factor that the environment asks for.
pub fn patience(limit: Duration) -> Duration {
    limit.mul_f64(factor(std::env::var(SLOW).ok().as_deref()))
}

/// A factor from text; anything but a number of at least 0.1 and at most 100 counts as 1.
fn factor(text: Option<&str>) -> f64 {
    text.and_then(|text| text.parse().ok()).filter(|factor| (0.1..=100.0).contains(factor)).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn missing_artefact_says_how_to_make_it() {
        let said = artefact("no/such/artefact").unwrap_err().to_string();
        assert!(said.ends_with("no/such/artefact is missing: run `make build`"), "{said}");
    }

    #[test]
    fn factor_is_one_unless_it_is_a_sensible_number() {
        let factors: Vec<f64> =
            [None, Some("x"), Some("0"), Some("-2"), Some("NaN"), Some("1e9"), Some("2.5")]
                .into_iter()
                .map(factor)
                .collect();
        assert_eq!(factors, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.5]);
    }
}
