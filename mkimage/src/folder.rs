//! Writes the folder of an image in one step, and keeps its checksums.
//!
//! In: file names and contents. Out: the folder, with `SHA256SUMS` as sha256sum(1) reads it. The files are
//! written and synced in a folder beside, which takes the final name at the end; an image that was there before
//! stays whole until then. Failure: something that is no image stands there, or an image among other files;
//! the disk's errors.

use std::fs::{DirEntry, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use zstrap_formats::digest::ContentHasher;

use crate::describe::{IMAGE_JSON, Image};

/// The checksums of all other files of the folder.
pub(crate) const SHA256SUMS: &str = "SHA256SUMS";
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// What stands at the place of a new image.
enum Before {
    Nothing,
    Image,
}

/// Writes `files` as the folder `target`.
pub(crate) fn write(target: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let before = look(target, &names)?;
    let target = &followed(target)?;
    let parent = parent_of(target);
    std::fs::create_dir_all(&parent).with_context(|| format!("making folder {}", parent.display()))?;
    // Removed on drop, and so on every way out but the last.
    let half = tempfile::Builder::new()
        .prefix(".zstrap-image-")
        .tempdir_in(&parent)
        .with_context(|| format!("making a folder in {}", parent.display()))?;
    let public = Permissions::from_mode(FOLDER_MODE);
    std::fs::set_permissions(half.path(), public).context("setting the mode of the image's folder")?;
    for (name, content) in files {
        write_synced(&half.path().join(name), content)?;
    }
    write_sums(half.path(), names.into_iter())?;
    exchange(half.path(), target, &before).with_context(|| format!("placing {}", target.display()))?;
    sync_folder(&parent)
}

/// Refuses everything but free places, empty folders and images that stand alone: what is not of the image
/// would go with it.
fn look(target: &Path, new: &[&str]) -> anyhow::Result<Before> {
    let looking = || format!("looking at {}", target.display());
    let entries = match std::fs::read_dir(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Before::Nothing),
        entries => entries.with_context(looking)?,
    };
    let entries: Vec<DirEntry> = entries.collect::<Result<_, _>>().with_context(looking)?;
    if entries.is_empty() {
        return Ok(Before::Nothing);
    }
    let Ok(image) = Image::read(target) else {
        bail!("{} is there and is not an image, expected an image or nothing", target.display());
    };
    let own: Vec<&str> = image.files().chain([SHA256SUMS, IMAGE_JSON]).chain(new.iter().copied()).collect();
    let is_own = |entry: &DirEntry| {
        let file = entry.file_type().is_ok_and(|kind| kind.is_file());
        file && entry.file_name().to_str().is_some_and(|name| own.contains(&name))
    };
    let others = entries.iter().filter(|entry| !is_own(entry));
    let mut others: Vec<String> = others.map(|entry| format!("{:?}", entry.file_name())).collect();
    others.sort();
    let (place, named) = (target.display(), others.join(", "));
    ensure!(others.is_empty(), "{place} holds {named} beside an image, expected nothing that would be lost");
    Ok(Before::Image)
}

/// A link is followed: what it points to is replaced, not the link.
fn followed(target: &Path) -> anyhow::Result<PathBuf> {
    match target.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(target.to_path_buf()),
        real => real.with_context(|| format!("looking at {}", target.display())),
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
    let mut half = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("making a file in {}", folder.display()))?;
    let path = folder.join(SHA256SUMS);
    write_public(half.as_file_mut(), text.as_bytes()).context("writing SHA256SUMS")?;
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
    ensure!(inside, "{} names a file outside its folder", path.display());
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
    write_public(&mut file, content).with_context(writing)
}

/// Whatever the umask: a web server of another user serves these files.
fn write_public(file: &mut File, content: &[u8]) -> std::io::Result<()> {
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(content)?;
    file.sync_all()
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
            .env("LC_ALL", "C")
            .env_remove("LANGUAGE")
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
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("kernel", b"")]).unwrap();
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("new", b"")]).unwrap();
        assert_eq!(names(&target), [SHA256SUMS, IMAGE_JSON, "new"]);
        assert_eq!(names(parent.path()), ["image"]);
    }

    #[test]
    fn refuses_an_image_beside_which_other_files_would_be_lost() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("image");
        let json = image_json();
        let files: [(&str, &[u8]); 2] = [(IMAGE_JSON, json.as_bytes()), ("boot.ipxe", b"")];
        write(&target, &files).unwrap();
        write(&target, &files).unwrap();
        std::fs::write(target.join("notes"), "mine").unwrap();
        // A folder is no file of the image, whatever its name.
        std::fs::create_dir(target.join("kernel")).unwrap();
        let error = write(&target, &files).unwrap_err().to_string();
        assert!(error.contains("image holds \"kernel\", \"notes\" beside an image"), "{error}");
        assert_eq!(std::fs::read_to_string(target.join("notes")).unwrap(), "mine");
        assert_eq!(names(parent.path()), ["image"]);
    }

    #[test]
    fn a_link_to_an_image_is_followed_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let (target, link) = (parent.path().join("versions/image"), parent.path().join("link"));
        write(&target, &[(IMAGE_JSON, image_json().as_bytes()), ("kernel", b"old")]).unwrap();
        std::os::unix::fs::symlink("versions/image", &link).unwrap();
        write(&link, &[(IMAGE_JSON, image_json().as_bytes()), ("kernel", b"new")]).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(target.join("kernel")).unwrap(), b"new");
        assert_eq!(names(parent.path()), ["link", "versions"]);
        assert_eq!(names(&parent.path().join("versions")), ["image"]);
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
