//! The running root of a machine, brought out and judged by `mtree`.
//!
//! In: a machine that is told to write its root to a second disk. Out: nothing, when that root is the list: no file is
//! missing, none is extra, and each has the mode, size and digests that the list says. Failure: what `mtree` said.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::disk::Disk;
use crate::site::{Scene, Tree};
use crate::vm::{Vm, VmBuilder};

/// Holds a root of 200 MB.
const SIZE: u64 = 256 << 20;

/// No disk that begins with this is free: nobody but the payload writes to it.
const MARK: &[u8] = b"a root is written here";

/// Folders that machines mount something on. A bundle that has them gets no others from the handoff.
const MOUNT_POINTS: [&str; 6] = ["dev", "proc", "sys", "run", "tmp", "var/lib/zstrap-state"];

/// The disk that a root is written to.
pub struct Dump {
    disk: Disk,
}

impl Dump {
    /// An empty one for machines of this scene; one machine after the other can use it.
    pub fn new(scene: &Scene, name: &str) -> Result<Self> {
        let disk = scene.disk(name, SIZE)?.serial("dump");
        disk.write(0, MARK)?;
        Ok(Self { disk })
    }

    /// Has this machine write its root, before it switches off.
    #[must_use]
    pub fn by(&self, machine: VmBuilder) -> VmBuilder {
        machine.disk(&self.disk).append("zstrap.payload=dump")
    }

    /// Asserts that the root that this machine has written is the one that a list describes.
    pub fn expect(&self, vm: &Vm, list: &Path) -> Result<()> {
        let said = vm.assert_line("payload: dump=")?;
        ensure!(said.text.ends_with(" members"), vm.failed(&said.text));
        let root = self.unpack()?;
        let output = Command::new("mtree").arg("-p").arg(root.path()).arg("-f").arg(list).output();
        let output = output.context("running mtree")?;
        let said = [output.stdout, output.stderr].concat();
        // It says "extra" and ends with status 0: both count.
        if !output.status.success() || !said.is_empty() {
            let said = String::from_utf8_lossy(&said);
            bail!(vm.failed(&format!("mtree ended with {}:\n{said}", output.status)));
        }
        // What this machine wrote must not pass for what the next one did.
        self.disk.write(0, MARK)
    }

    fn unpack(&self) -> Result<TempDir> {
        let root = TempDir::with_prefix("zstrap-root-").context("making a folder for a root")?;
        let archive = File::open(self.disk.path()).context("opening the disk with the root")?;
        let output = Command::new("cpio")
            .args(["--extract", "--quiet", "--no-absolute-filenames"])
            .current_dir(root.path())
            .stdin(archive)
            .stdout(Stdio::null())
            .output()
            .context("running cpio")?;
        ensure!(output.status.success(), "cpio: {}", String::from_utf8_lossy(&output.stderr));
        Ok(root)
    }
}

/// Adds the folders that a running root has anyway, so that it can be exactly the list.
pub fn add_mount_points(tree: &Tree) -> Result<()> {
    MOUNT_POINTS.iter().try_for_each(|path| tree.folder(path))
}

/// The list of a bundle, in a file of its own, which is named by its serial and stays when the next one is published.
pub fn keep_list(scene: &Scene, bundle: &str) -> Result<PathBuf> {
    let path = scene.list(bundle)?;
    let name = Path::new(&path).file_name().context("a list has a name")?;
    let kept = scene.site().with_file_name("lists").join(name);
    fs::create_dir_all(kept.with_file_name("")).context("making a folder for lists")?;
    fs::write(&kept, scene.read(&path)?).with_context(|| format!("writing {}", kept.display()))?;
    Ok(kept)
}
