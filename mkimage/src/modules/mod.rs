//! Selects the kernel modules that go into an initramfs.
//!
//! In: a `lib/modules/VERSION` folder, as packages and `make modules_install` leave it, and patterns
//! ([`Patterns::shipped`] is `initrd/modules`). Out: a [`ModuleSet`]: the modules named and all they need,
//! uncompressed, with `modules.dep`, `modules.alias` and `modules.softdep` for exactly this set. Failure: no
//! module matches although there are some, a needed module is missing, a file is no module, or modules of two
//! kernels stand together.

mod compressed;
mod index;
mod kmod;
mod modinfo;
mod patterns;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use index::Index;
use modinfo::ModInfo;
pub use patterns::Patterns;

/// Modules and the tables that say what they need and what hardware they serve.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ModuleSet {
    /// The release of the kernel they belong to (`uname -r`); none when the set is empty.
    pub release: Option<String>,
    /// File name (`virtio_net.ko`) and uncompressed content, in order of the names.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The text of `modules.dep`.
    pub dep: String,
    /// The text of `modules.alias`.
    pub alias: String,
    /// The text of `modules.softdep`.
    pub softdep: String,
}

/// One module of the set.
struct Module {
    file: String,
    content: Vec<u8>,
    info: ModInfo,
}

/// Selects from `folder` what `patterns` name, with all it needs. A folder without modules gives an empty set:
/// a kernel may have its drivers built in.
///
/// # Errors
/// See the head of this file.
pub fn select(folder: &Path, patterns: &Patterns) -> anyhow::Result<ModuleSet> {
    let index = Index::of(folder).with_context(|| format!("reading modules below {}", folder.display()))?;
    if index.is_empty() {
        log::info!("modules: none below {}", folder.display());
        return Ok(ModuleSet::default());
    }
    let wanted = named(&index, patterns, folder)?;
    let modules = with_needs(&index, wanted)?;
    let release = only_release(&modules)?;
    log::info!("modules: {} for kernel {release}", modules.len());
    Ok(ModuleSet {
        release: Some(release),
        dep: kmod::dep(&modules),
        alias: kmod::alias(&modules),
        softdep: kmod::softdep(&modules),
        files: modules.into_values().map(|module| (module.file, module.content)).collect(),
    })
}

/// The names that the patterns select; says which patterns found nothing.
fn named(index: &Index, patterns: &Patterns, folder: &Path) -> anyhow::Result<Vec<String>> {
    let found = patterns.select(index.names());
    if !found.without_match.is_empty() {
        log::debug!("modules: not in this kernel as modules: {}", found.without_match.join(" "));
    }
    ensure!(
        !found.names.is_empty(),
        "selecting modules below {}: none of {} patterns matches any of {} modules",
        folder.display(),
        patterns.len(),
        index.names().count()
    );
    Ok(found.names)
}

/// Reads the modules of these names and, by name, all that they depend on. Softdeps are taken when there is a
/// module of that name; a softdep may as well name an alias or something built in.
fn with_needs(index: &Index, wanted: Vec<String>) -> anyhow::Result<BTreeMap<String, Module>> {
    let mut modules = BTreeMap::new();
    let mut to_read = wanted;
    while let Some(name) = to_read.pop() {
        if modules.contains_key(&name) {
            continue;
        }
        let module = read(index, &name)?;
        for need in &module.info.depends {
            ensure!(index.has(need), "module {name} depends on {need}, which is not there");
            to_read.push(need.clone());
        }
        to_read.extend(module.info.soft_needs().into_iter().filter(|need| index.has(need)));
        modules.insert(name, module);
    }
    Ok(modules)
}

fn read(index: &Index, name: &str) -> anyhow::Result<Module> {
    let path = index.path(name)?;
    let content = compressed::read(path).with_context(|| format!("reading module {}", path.display()))?;
    let info = ModInfo::parse(&content).with_context(|| format!("reading module {}", path.display()))?;
    Ok(Module { file: format!("{}.ko", index::stem(path)), content, info })
}

fn only_release(modules: &BTreeMap<String, Module>) -> anyhow::Result<String> {
    let mut releases = modules.iter().map(|(name, module)| (name, &module.info.release));
    let (first_name, first) = releases.next().context("selecting modules: none selected")?;
    for (name, release) in releases {
        if release != first {
            bail!("module {name} is for kernel {release}, but {first_name} is for {first}");
        }
    }
    Ok(first.clone())
}
