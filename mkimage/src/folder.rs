//! Writes the folder of an image in one step, and keeps its checksums.
//!
//! In: file names and contents. Out: the folder, with `SHA256SUMS` as sha256sum(1) reads it. The files are
//! written and synced in a folder beside, which takes the final name at the end; an image that was there before
//! stays whole until then. Failure: something that is no image stands there; the disk's errors.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use zstrap_formats::digest::ContentHasher;

use crate::describe::Image;

/// The checksums of all other files of the folder.
pub(crate) const SHA256SUMS: &str = "SHA256SUMS";

/// What stands at the place of a new image.
enum Before {
    Nothing,
    Image,
}

/// Writes `files` as the folder `target`.
pub(crate) fn write(target: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let before = look(target)?;
    let parent = parent_of(target);
    std::fs::create_dir_all(&parent).with_context(|| format!("making folder {}", parent.display()))?;
    // Removed on drop, and so on every way out but the last.
    let half = tempfile::Builder::new()
        .prefix(".zstrap-image-")
        .tempdir_in(&parent)
        .with_context(|| format!("making a folder in {}", parent.display()))?;
    let shared = Permissions::from_mode(0o755);
    std::fs::set_permissions(half.path(), shared).context("setting the mode of the image's folder")?;
    for (name, content) in files {
        write_synced(&half.path().join(name), content)?;
    }
    write_sums(half.path(), files.iter().map(|(name, _)| *name))?;
    exchange(half.path(), target, &before).with_context(|| format!("placing {}", target.display()))?;
    sync_folder(&parent)
}

/// Refuses everything but free places, empty folders and images.
fn look(target: &Path) -> anyhow::Result<Before> {
    let mut entries = match std::fs::read_dir(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Before::Nothing),
        Err(error) => return Err(error).with_context(|| format!("looking at {}", target.display())),
        Ok(entries) => entries,
    };
    if entries.next().is_none() {
        return Ok(Before::Nothing);
    }
    match Image::read(target) {
        Ok(_) => Ok(Before::Image),
        Err(_) => bail!("{} is there and is not an image, expected an image or nothing", target.display()),
    }
}

fn parent_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A rename over nothing or an empty folder; an older image is exchanged with the new one, so that one of them
/// is there at every moment, and then goes with the temporary folder.
fn exchange(half: &Path, target: &Path, before: &Before) -> Result<(), Errno> {
    match before {
        Before::Nothing => rustix::fs::rename(half, target),
        Before::Image => rustix::fs::renameat_with(CWD, half, CWD, target, RenameFlags::EXCHANGE),
    }
}

/// Computes the checksums of `names` in `folder` and writes them, in order of the names.
pub(crate) fn write_sums<'a>(folder: &Path, names: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let hash = sha256_of(&folder.join(name))?;
        text.push_str(&format!("{hash}  {name}\n"));
    }
    let mut half = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(|| format!("making a file in {}", folder.display()))?;
    let path = folder.join(SHA256SUMS);
    half.write_all(text.as_bytes()).and_then(|()| half.as_file().sync_all()).context("writing SHA256SUMS")?;
    half.persist(&path).with_context(|| format!("writing {}", path.display()))?;
    sync_folder(folder)
}

/// The names that `SHA256SUMS` in `folder` lists.
pub(crate) fn summed_names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let path = folder.join(SHA256SUMS);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let name = |line: &str| line.split_once("  ").map(|(_, name)| name.to_owned());
    let names: Option<Vec<String>> = text.lines().map(name).collect();
    let names = names.with_context(|| format!("reading {}: expected lines of sha256sum", path.display()))?;
    let inside = names.iter().all(|name| !name.contains('/'));
    anyhow::ensure!(inside, "{} names a file outside its folder", path.display());
    Ok(names)
}

fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(reading)? {
            0 => return Ok(hasher.finish().sha256.to_string()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn write_synced(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut file = File::create(path).with_context(writing)?;
    file.write_all(content).and_then(|()| file.sync_all()).with_context(writing)
}

/// A rename lasts once its folder is on the disk.
fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("syncing {}", folder.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::describe::IMAGE_JSON;

    fn image_json() -> String {
        Image::netboot("amd64", "", 4096).to_json()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("image");
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("a", b"abc")]).unwrap();
        let output = std::process::Command::new("sha256sum")
            .args(["--strict", "-c", SHA256SUMS])
            .current_dir(&target)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a: OK\nimage.json: OK\n");
        assert_eq!(names(parent.path()), ["image"]);
    }

    #[test]
    fn replaces_an_image_and_leaves_nothing_beside_it() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("image");
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("old", b"")]).unwrap();
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("new", b"")]).unwrap();
        assert_eq!(names(&target), [SHA256SUMS, IMAGE_JSON, "new"]);
        assert_eq!(names(parent.path()), ["image"]);
    }

    #[test]
    fn refuses_a_folder_that_is_no_image_and_a_file() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("letter"), "dear").unwrap();
        let error = write(parent.path(), &[("a", b"")]).unwrap_err();
        assert!(error.to_string().ends_with("expected an image or nothing"), "{error}");
        assert_eq!(names(parent.path()), ["letter"]);
        assert!(write(&parent.path().join("letter"), &[("a", b"")]).is_err());
    }

    #[test]
    fn a_failure_on_the_way_leaves_the_old_image() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("image");
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("old", b"1")]).unwrap();
        // A name that cannot be made fails after the first file of the new image was written.
        assert!(write(&target, &[("new", b"2"), ("no/such/folder", b"")]).is_err());
        assert_eq!(names(&target), [SHA256SUMS, IMAGE_JSON, "old"]);
        assert_eq!(names(parent.path()), ["image"]);
    }
}
