//! Where the modules of a kernel are, by name.
//!
//! In: a folder. Out: an [`Index`] over every `.ko` file below it, plain or compressed. Failure: a folder that
//! cannot be read; a name that stands twice, once it is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The names of module files, after which nothing or the mark of a compression follows.
const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
/// Deeper folders are a mistake (a link loop of bind mounts, say), not a kernel's modules.
const MAX_DEPTH: usize = 16;

/// Module files by canonical name.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<String, Vec<PathBuf>>);

impl Index {
    /// Finds the modules below `folder`; symbolic links (`build`, `source`) are not followed.
    pub(super) fn of(folder: &Path) -> anyhow::Result<Self> {
        let mut index = Index::default();
        index.add(folder, 0)?;
        Ok(index)
    }

    fn add(&mut self, folder: &Path, depth: usize) -> anyhow::Result<()> {
        if depth > MAX_DEPTH {
            bail!("{} is more than {MAX_DEPTH} folders deep", folder.display());
        }
        let listing = || format!("listing {}", folder.display());
        for entry in std::fs::read_dir(folder).with_context(listing)? {
            let entry = entry.with_context(listing)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(listing)?);
            if kind.is_dir() {
                self.add(&path, depth + 1)?;
            } else if kind.is_file() && is_module(&path) {
                self.0.entry(canonical(&stem(&path))).or_default().push(path);
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    /// The one file of this name.
    pub(super) fn path(&self, name: &str) -> anyhow::Result<&Path> {
        match self.0.get(name).map(Vec::as_slice) {
            Some([path]) => Ok(path),
            Some([first, second, ..]) => {
                bail!("module {name} stands twice: {} and {}", first.display(), second.display())
            }
            _ => bail!("module {name} is not there"),
        }
    }
}

fn is_module(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// The file name without `.ko` and what follows it.
pub(super) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split_once(".ko").map_or(name.as_ref(), |(stem, _)| stem).to_owned()
}

/// The kernel takes `-` and `_` in module names as the same.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn finds_plain_and_compressed_modules_by_canonical_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("kernel")).unwrap();
        for name in ["kernel/virtio-rng.ko", "a.ko.xz", "b.ko.zst", "kernel/c.ko.gz", "modules.dep", "d.kox"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), folder.path().join("build")).unwrap();
        let index = Index::of(folder.path()).unwrap();
        assert_eq!(index.names().collect::<Vec<_>>(), ["a", "b", "c", "virtio_rng"]);
        assert!(index.path("virtio_rng").unwrap().ends_with("kernel/virtio-rng.ko"));
    }

    #[test]
    fn refuses_a_name_that_stands_twice() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("updates")).unwrap();
        for name in ["e1000e.ko", "updates/e1000e.ko.xz"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let error = Index::of(folder.path()).unwrap().path("e1000e").unwrap_err();
        assert!(error.to_string().starts_with("module e1000e stands twice: "), "{error}");
    }
}
