//! Where a signed file of a site stands, and what must have been signed there.
//!
//! In: the path of a list or config. Out: its [`Place`]: site, kind, name, arch, serial. Failure: a path that no site
//! has, a trusted comment that belongs to another place.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use zstrap_formats::name::Name;
use zstrap_formats::signature::{ArchField, Kind, Subject, TrustedComment};
use zstrap_formats::site;

/// The place of a list or a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) site: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) arch: ArchField,
    pub(crate) serial: u64,
}

impl Place {
    /// The place of this file: `SITE/bundles/NAME/ARCH/SERIAL.mtree` or `SITE/configs/NAME/SERIAL.json`.
    pub(crate) fn of(file: &Path) -> anyhow::Result<Self> {
        // The names above it count, wherever the caller stands.
        let real = file.canonicalize().with_context(|| format!("opening {}", file.display()))?;
        parse(&real).filter(|place| real.ends_with(place.path())).with_context(|| {
            format!(
                "{} is no list or config of a site, expected SITE/bundles/NAME/ARCH/SERIAL.mtree or \
                 SITE/configs/NAME/SERIAL.json",
                file.display()
            )
        })
    }

    /// Below the site.
    pub(crate) fn path(&self) -> String {
        match self.arch {
            ArchField::One(arch) => site::list(&self.name, arch, self.serial),
            ArchField::Any => site::config(&self.name, self.serial),
        }
    }

    /// The file that names the serial which nodes ask for.
    pub(crate) fn latest(&self) -> String {
        match self.arch {
            ArchField::One(arch) => site::bundle_latest(&self.name, arch),
            ArchField::Any => site::config_latest(&self.name),
        }
    }

    /// Whether the comment is about this place, as nodes look at it.
    pub(crate) fn check(&self, comment: &TrustedComment) -> anyhow::Result<()> {
        let path = self.path();
        let subject = Subject { kind: self.kind, name: &self.name, arch: self.arch };
        comment.check_subject(&subject).with_context(|| format!("checking {path}"))?;
        let (signed, stands) = (comment.serial, self.serial);
        ensure!(signed == stands, "{path} was signed with serial {signed}, but stands under {stands}");
        Ok(())
    }
}

fn parse(real: &Path) -> Option<Place> {
    let mut above = real.ancestors().skip(1);
    let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    let file = name(real)?;
    let mut next = || above.next();
    if let Some(serial) = file.strip_suffix(".mtree") {
        let arch = name(next()?)?.parse().ok()?;
        let (bundle, folder) = (name(next()?)?, name(next()?)?);
        let serial = site::parse_latest(serial.as_bytes())?;
        let (kind, arch, name) = (Kind::List, ArchField::One(arch), bundle.parse().ok()?);
        return (folder == "bundles").then_some(Place { site: next()?.to_owned(), kind, name, arch, serial });
    }
    let serial = site::parse_latest(file.strip_suffix(".json")?.as_bytes())?;
    let (config, folder) = (name(next()?)?, name(next()?)?);
    let (kind, arch, name) = (Kind::Config, ArchField::Any, config.parse().ok()?);
    (folder == "configs").then_some(Place { site: next()?.to_owned(), kind, name, arch, serial })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_read_back_as_the_paths_of_the_layout() {
        for path in ["/s/bundles/demo/arm64/17.mtree", "/s/configs/by-name/3.json"] {
            let place = parse(Path::new(path)).unwrap();
            assert_eq!((place.site.join(place.path()), place.site.to_str()), (path.into(), Some("/s")));
        }
    }

    #[test]
    fn other_paths_are_none() {
        for path in [
            "/s/bundles/demo/arm64/17.json",
            "/s/bundles/demo/x86/17.mtree",
            "/s/lists/demo/amd64/17.mtree",
            "/s/bundles/demo/amd64/x.mtree",
            "/s/configs/17.json",
            "/17.json",
        ] {
            assert_eq!(parse(Path::new(path)), None, "{path}");
        }
    }
}
