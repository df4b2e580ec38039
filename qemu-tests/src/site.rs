//! A site to boot from, made with the real command, and the means to spoil it.
//!
//! In: `out/bin/zstrap`, the init, the kernel and the payload of `make build`. Out: a [`Scene`] for each test: its
//! own copy of a small site, a server for it, an identity, and machines that boot with that identity. Good things
//! are made by running `zstrap`; things that `zstrap` refuses to make are written and signed here directly.
//! Failure: an error that carries what the command said.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use zstrap_formats::digest::{md5, sha256};
use zstrap_formats::key::{PublicKey, SecretKey};
use zstrap_formats::name::Arch;
use zstrap_formats::signature::{ArchField, Kind, Signature, TrustedComment};
use zstrap_formats::site::parse_latest;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_mkimage::Image;
use zstrap_mkimage::slots;

use crate::artefacts;
use crate::disk::Disk;
use crate::http::{FaultServer, Place};
use crate::vm::VmBuilder;

/// The bundle and the config of every scene, until a test adds others.
pub const SMALL: &str = "small";

/// The farmer and the pool of every scene.
pub const FARMER: &str = "farmer-7";
/// See [`FARMER`].
pub const POOL: &str = "pool-11";

/// Failing boots of tests end soon: two attempts, then one second to read the reason, then a reboot.
pub const IMPATIENT: &str = "zstrap.tries=2 zstrap.reboot_after=1";

/// What all scenes of an architecture start from in a test process: keys, a site with one bundle and one config, a
/// base image.
struct Template {
    arch: Arch,
    folder: PathBuf,
}

/// A site, its server, and the identity of the machines that boot from it.
pub struct Scene {
    name: String,
    folder: TempDir,
    template: &'static Template,
    /// The keys that sign what `zstrap` publishes here.
    signers: Vec<PathBuf>,
    /// The server of the site, with its faults.
    pub server: FaultServer,
    /// What the next machine carries in its slot.
    pub identity: Value,
}

impl Scene {
    /// A whole site that boots [`SMALL`]; `name` names the logs of its machines.
    pub fn new(name: &str) -> Result<Self> {
        Self::at(name, Place::user())
    }

    /// The same, served at another place.
    pub fn at(name: &str, place: Place) -> Result<Self> {
        Self::of(artefacts::arch(), name, place)
    }

    /// The same for machines of an architecture, whatever this run of tests is about.
    pub fn of(arch: Arch, name: &str, place: Place) -> Result<Self> {
        let template = template(arch)?;
        let folder = TempDir::with_prefix("zstrap-scene-").context("making the folder of a scene")?;
        copy_tree(&template.folder.join("site"), &folder.path().join("site"))?;
        let server = FaultServer::start_at(&folder.path().join("site"), place)?;
        let mut identity = template.identity()?;
        identity["servers"] = json!([server.url()]);
        let signers = vec![template.key_file()];
        Ok(Self { name: name.to_owned(), folder, template, signers, server, identity })
    }

    /// Makes another key. The next machine trusts it as well and demands the signatures of all; what `zstrap`
    /// publishes from now on has them.
    pub fn add_signer(&mut self, name: &str) -> Result<PublicKey> {
        let keys = self.folder.path().join("keys");
        let public = zstrap(&[&"key", &"new", &"--out", &keys, &"--name", &name, &"--no-password"])?;
        let public = public.trim_end();
        self.signers.push(keys.join(format!("{name}.key")));
        let trusted = self.identity["keys"].as_array_mut().context("the identity has no keys")?;
        trusted.push(json!(public));
        self.identity["threshold"] = json!(self.signers.len());
        PublicKey::parse(public).with_context(|| format!("reading the key `{public}`"))
    }

    /// What names the logs of its machines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the site.
    pub fn site(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    /// A stick (FAT) with this site in its folder `site`, as mtools make it.
    pub fn stick(&self) -> Result<PathBuf> {
        let medium = self.folder.path().join("stick");
        let make = r#"mformat -C -F -T 131072 -i "$1" :: && mcopy -s -i "$1" "$2" ::"#;
        let made = Command::new("sh").args(["-ec", make, "sh"]).arg(&medium).arg(self.site()).output();
        let made = made.context("running mtools")?;
        ensure!(made.status.success(), "making a stick: {}", String::from_utf8_lossy(&made.stderr));
        Ok(medium)
    }

    /// A new disk of zeros for machines of this scene, which stays as long as the scene does. Its name is its serial number.
    pub fn disk(&self, name: &str, size: u64) -> Result<Disk> {
        Disk::new(&self.folder.path().join("disks"), name, size)
    }

    /// A machine that boots with the identity of this scene; its settings may still be changed.
    pub fn machine(&self) -> Result<VmBuilder> {
        self.machine_of(&self.image()?)
    }

    /// The folder of an image with the identity of this scene.
    pub fn image(&self) -> Result<PathBuf> {
        let folder = self.folder.path().join("image");
        copy_tree(&self.template.image(), &folder)?;
        slots::stamp(&folder, self.identity.to_string().as_bytes()).context("stamping the identity")?;
        Ok(folder)
    }

    /// A machine that boots Debian's generic kernel, with the modules of real hardware, and the identity of this scene.
    pub fn generic_machine(&self) -> Result<VmBuilder> {
        let (folder, key) = (self.folder.path().join("generic"), self.template.folder.join("keys/admin.pub"));
        make_image(
            (&self.template.folder, &key),
            Arch::Amd64,
            (&artefacts::generic_kernel()?, &artefacts::generic_modules()?),
            &folder,
        )?;
        slots::stamp(&folder, self.identity.to_string().as_bytes()).context("stamping the identity")?;
        self.machine_of(&folder)
    }

    fn machine_of(&self, folder: &Path) -> Result<VmBuilder> {
        let image = Image::read(folder)?;
        let (kernel, initramfs) = (folder.join(&image.kernel), folder.join(&image.initramfs));
        Ok(VmBuilder::of(self.template.arch, &self.name, &kernel, &initramfs).append(&image.cmdline))
    }

    /// Publishes a tree as a bundle, without compressed blobs: a fault of a blob then meets all who ask for that
    /// content.
    pub fn publish(&self, tree: &Tree, bundle: &str) -> Result<()> {
        publish(tree, &self.site(), (bundle, self.template.arch), &self.signers, &[&"--no-zstd"])
    }

    /// The same with compressed blobs, as `zstrap publish` does it unless told otherwise.
    pub fn publish_packed(&self, tree: &Tree, bundle: &str) -> Result<()> {
        publish(tree, &self.site(), (bundle, self.template.arch), &self.signers, &[])
    }

    /// Publishes the payload with a file `srv/big` of these bytes as the bundle `big`, and has the next machine boot it.
    pub fn publish_big(&mut self, bytes: &[u8]) -> Result<Big> {
        const BUNDLE: &str = "big";
        let tree = Tree::payload()?;
        tree.file("srv/big", bytes, 0o644)?;
        self.publish(&tree, BUNDLE)?;
        self.add_config(BUNDLE, &json!({ "version": 1, "bundle": BUNDLE, "exec": ["/sbin/init"] }))?;
        let (blob, size) = self.blob(BUNDLE, "./srv/big")?;
        Ok(Big { tree, path: format!("/{blob}"), size })
    }

    /// Publishes a config that `zstrap` accepts, and has the next machine use it.
    pub fn add_config(&mut self, name: &str, config: &Value) -> Result<()> {
        add_config(self.folder.path(), name, config, &self.signers)?;
        self.use_config(name);
        Ok(())
    }

    /// Publishes a config as it is, signed, whatever it says, and has the next machine use it.
    pub fn force_config(&mut self, name: &str, config: &Value) -> Result<()> {
        let serial = self.next_serial(&format!("configs/{name}/latest"))?;
        let path = format!("configs/{name}/{serial}.json");
        self.write(&path, config.to_string().as_bytes())?;
        let comment = TrustedComment {
            kind: Kind::Config,
            name: name.parse()?,
            arch: ArchField::Any,
            serial,
            created: now()?,
            expires: now()?.plus(90 * DAY),
        };
        self.sign(&path, &comment, &self.key()?)?;
        self.write(&format!("configs/{name}/latest"), format!("{serial}\n").as_bytes())?;
        self.use_config(name);
        Ok(())
    }

    /// One more than the serial that stands there, if any, and at least the time.
    fn next_serial(&self, latest: &str) -> Result<u64> {
        let previous = self.read(latest).ok().and_then(|bytes| parse_latest(&bytes));
        Ok(previous.map_or(0, |serial| serial + 1).max(now()?.unix()))
    }

    /// Has the next machine use this config, without a pin.
    pub fn use_config(&mut self, name: &str) {
        self.identity["config"] = json!({ "name": name });
    }

    /// Pins the config to these bytes, by each of its two hashes.
    pub fn pin_config(&mut self, for_md5: &[u8], for_sha256: &[u8]) {
        self.identity["config"]["md5"] = json!(md5(for_md5).to_string());
        self.identity["config"]["sha256"] = json!(sha256(for_sha256).to_string());
    }

    /// The key that signs everything here.
    pub fn key(&self) -> Result<SecretKey> {
        let file = self.template.key_file();
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        SecretKey::parse(&text).context("reading the key of the site")
    }

    /// The list of a bundle, as a path below the site.
    pub fn list(&self, bundle: &str) -> Result<String> {
        self.latest(&format!("bundles/{bundle}/{}", self.template.arch), "mtree")
    }

    /// A config, as a path below the site.
    pub fn config(&self, name: &str) -> Result<String> {
        self.latest(&format!("configs/{name}"), "json")
    }

    fn latest(&self, folder: &str, ending: &str) -> Result<String> {
        let serial =
            String::from_utf8(self.read(&format!("{folder}/latest"))?).context("latest is not text")?;
        Ok(format!("{folder}/{}.{ending}", serial.trim_end()))
    }

    /// The blob of a file that a bundle's list names, as a path below the site, and its size.
    pub fn blob(&self, bundle: &str, file: &str) -> Result<(String, u64)> {
        let list = String::from_utf8(self.read(&self.list(bundle)?)?).context("the list is not text")?;
        let line = list.lines().find(|line| line.split(' ').next() == Some(file));
        let line = line.with_context(|| format!("no {file} in the list of {bundle}"))?;
        let value = |key: &str| {
            let mut values = line.split(' ').filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            values.next_back().with_context(|| format!("no {key} in `{line}`"))
        };
        Ok((format!("blobs/sha256/{}", value("sha256digest")?), value("size")?.parse()?))
    }

    /// Reads a file of the site.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        fs::read(self.site().join(path)).with_context(|| format!("reading {path} of the site"))
    }

    /// Writes a file of the site.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        write_new(&self.site().join(path), bytes)
    }

    /// Deletes a file of the site.
    pub fn delete(&self, path: &str) -> Result<()> {
        fs::remove_file(self.site().join(path)).with_context(|| format!("deleting {path} of the site"))
    }

    /// Replaces the list of a bundle and signs it, whatever it says.
    pub fn rewrite_list(&self, bundle: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.list(bundle)?;
        let comment = self.comment(&path)?;
        let text = String::from_utf8(self.read(&path)?).context("the list is not text")?;
        self.write(&path, change(text).as_bytes())?;
        self.sign(&path, &comment, &self.key()?)
    }

    /// Signs a file of the site anew, with its trusted comment changed.
    pub fn resign(&self, path: &str, change: impl FnOnce(&mut TrustedComment)) -> Result<()> {
        let mut comment = self.comment(path)?;
        change(&mut comment);
        self.sign(path, &comment, &self.key()?)
    }

    /// Signs a file of the site with that key.
    pub fn sign(&self, path: &str, comment: &TrustedComment, key: &SecretKey) -> Result<()> {
        let signature = key.sign(&self.read(path)?, &comment.to_string());
        self.write(&format!("{path}.minisig"), signature.to_file().as_bytes())
    }

    /// The trusted comment of a file of the site.
    pub fn comment(&self, path: &str) -> Result<TrustedComment> {
        let signature = Signature::parse(&self.read(&format!("{path}.minisig"))?)?;
        Ok(signature.comment_unverified().parse()?)
    }
}

/// A bundle with a large file.
pub struct Big {
    /// The bundle.
    pub tree: Tree,
    /// What servers are asked for to get the file.
    pub path: String,
    /// The size of the file.
    pub size: u64,
}

impl Template {
    fn make(arch: Arch) -> Result<Self> {
        let folder = template_folder(arch)?;
        let home = folder.as_path();
        let keys = home.join("keys");
        zstrap(&[&"key", &"new", &"--out", &keys, &"--name", &"admin", &"--no-password"])?;
        let signers = [keys.join("admin.key")];
        publish(&Tree::small()?, &home.join("site"), (SMALL, arch), &signers, &[&"--no-zstd"])?;
        add_config(home, SMALL, &json!({ "version": 1, "bundle": SMALL, "exec": ["/sbin/init"] }), &signers)?;
        let system = (artefacts::kernel_for(arch)?, artefacts::modules_for(arch)?);
        make_image((home, &keys.join("admin.pub")), arch, (&system.0, &system.1), &home.join("image"))?;
        Ok(Self { arch, folder })
    }

    fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("keys/admin.key")
    }

    /// The identity that `zstrap image` wrote into the base image.
    fn identity(&self) -> Result<Value> {
        let payload = slots::read_slot(&self.image())?;
        serde_json::from_slice(&payload).context("reading the identity of the base image")
    }
}

/// A new folder under `out/` for this architecture, in one that is named by this process. Nothing runs at the end of a test process that could
/// delete it, so each process deletes those of the processes that are gone.
fn template_folder(arch: Arch) -> Result<PathBuf> {
    let all = artefacts::out().join("qemu-tests/templates");
    let own = all.join(std::process::id().to_string());
    for left in fs::read_dir(&all).into_iter().flatten().flatten() {
        if left.path() != own && !Path::new("/proc").join(left.file_name()).exists() {
            // Another process may be deleting the same one; what stays is found again next time.
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let own = own.join(arch.to_string());
    // Left by an earlier process of the same number.
    let _ = fs::remove_dir_all(&own);
    fs::create_dir_all(&own).with_context(|| format!("making {}", own.display()))?;
    Ok(own)
}

/// The template of this process for an architecture, made by whichever test comes first.
fn template(arch: Arch) -> Result<&'static Template> {
    static AMD64: OnceLock<Result<Template, String>> = OnceLock::new();
    static ARM64: OnceLock<Result<Template, String>> = OnceLock::new();
    let place = match arch {
        Arch::Amd64 => &AMD64,
        Arch::Arm64 => &ARM64,
    };
    let made = place.get_or_init(|| Template::make(arch).map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow!("making the base image: {error}"))
}

/// Makes an image from the template at home, with this kernel and its modules.
fn make_image(
    (home, public_key): (&Path, &Path),
    arch: Arch,
    (kernel, modules): (&Path, &Path),
    image: &Path,
) -> Result<()> {
    let site = home.join("site");
    let (init, arch) = (artefacts::init(arch)?, arch.to_string());
    // Each scene puts its own server into the slot; this one only has to be a URL.
    let place: [&dyn AsRef<OsStr>; 10] = [
        &"image",
        &"netboot",
        &"--site",
        &site,
        &"--config",
        &SMALL,
        &"--server",
        &"http://10.0.2.2",
        &"-o",
        &image,
    ];
    let identity: [&dyn AsRef<OsStr>; 6] = [&"--key", &public_key, &"--farmer", &FARMER, &"--pool", &POOL];
    let system: [&dyn AsRef<OsStr>; 8] =
        [&"--arch", &arch, &"--kernel", &kernel, &"--modules", &modules, &"--init", &init];
    zstrap(&[place.as_slice(), &identity, &system].concat()).map(drop)
}

fn publish(
    tree: &Tree,
    site: &Path,
    (bundle, arch): (&str, Arch),
    signers: &[PathBuf],
    options: &[&dyn AsRef<OsStr>],
) -> Result<()> {
    let (folder, arch) = (tree.0.path(), arch.to_string());
    let what: [&dyn AsRef<OsStr>; 8] =
        [&"publish", &folder, &"--site", &site, &"--bundle", &bundle, &"--arch", &arch];
    zstrap(&[what.as_slice(), &key_options(signers), options].concat()).map(drop)
}

fn add_config(home: &Path, name: &str, config: &Value, signers: &[PathBuf]) -> Result<()> {
    let (file, site) = (home.join(format!("{name}.json")), home.join("site"));
    write_new(&file, config.to_string().as_bytes())?;
    let what: [&dyn AsRef<OsStr>; 5] = [&"config", &"add", &file, &"--site", &site];
    zstrap(&[what.as_slice(), &key_options(signers)].concat()).map(drop)
}

/// One `--key` for each file.
fn key_options(keys: &[PathBuf]) -> Vec<&dyn AsRef<OsStr>> {
    keys.iter().flat_map(|key| [&"--key" as &dyn AsRef<OsStr>, key]).collect()
}

/// Runs the command that admins run; returns its standard output.
pub fn zstrap(arguments: &[&dyn AsRef<OsStr>]) -> Result<String> {
    let program = artefacts::artefact("bin/zstrap")?;
    let arguments: Vec<&OsStr> = arguments.iter().map(|argument| argument.as_ref()).collect();
    let output = Command::new(program).args(&arguments).output().context("running zstrap")?;
    if !output.status.success() {
        bail!(
            "zstrap {arguments:?} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("zstrap printed no text")
}

/// A tree of files to publish.
pub struct Tree(TempDir);

impl Tree {
    /// The payload as `/sbin/init`, and one of each thing that a list can describe.
    pub fn small() -> Result<Self> {
        let tree = Self::payload()?;
        tree.file("etc/motd", b"welcome\n", 0o644)?;
        tree.file("etc/empty", b"", 0o600)?;
        tree.file("srv/a name with spaces, # and =", b"odd\n", 0o640)?;
        std::os::unix::fs::symlink("sbin/init", tree.0.path().join("start")).context("making a link")?;
        tree.folder("var/lib/nothing")?;
        Ok(tree)
    }

    /// Only the payload as `/sbin/init`.
    pub fn payload() -> Result<Self> {
        let tree = Self(TempDir::with_prefix("zstrap-tree-").context("making the folder of a tree")?);
        tree.file("sbin/init", &fs::read(artefacts::payload()?).context("reading the payload")?, 0o755)?;
        Ok(tree)
    }

    /// A copy of a tree under `out/`, the one for this run's architecture.
    pub fn copy_of(artefact: &str) -> Result<Self> {
        Self::copy_of_folder(&artefacts::artefact(&format!("{artefact}/{}", artefacts::arch()))?)
    }

    /// A copy of a folder.
    pub fn copy_of_folder(folder: &Path) -> Result<Self> {
        let tree = Self(TempDir::with_prefix("zstrap-tree-").context("making the folder of a tree")?);
        copy_tree(folder, tree.0.path())?;
        Ok(tree)
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds a file.
    pub fn file(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.0.path().join(path);
        write_new(&path, bytes)?;
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(&path, permissions).with_context(|| format!("chmod of {}", path.display()))
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.0.path().join(path)).with_context(|| format!("reading {path} of a tree"))
    }

    /// Adds a link.
    pub fn link(&self, path: &str, to: &str) -> Result<()> {
        std::os::unix::fs::symlink(to, self.0.path().join(path)).with_context(|| format!("linking {path}"))
    }

    /// How many bytes its files have.
    pub fn size(&self) -> Result<u64> {
        let mut files = BTreeMap::new();
        collect(self.0.path(), "", &mut files)?;
        files.values().map(|file| Ok(fs::metadata(file)?.len())).sum()
    }

    /// Adds a folder.
    pub fn folder(&self, path: &str) -> Result<()> {
        fs::create_dir_all(self.0.path().join(path)).with_context(|| format!("making {path}"))
    }

    /// Deletes a file.
    pub fn delete(&self, path: &str) -> Result<()> {
        fs::remove_file(self.0.path().join(path)).with_context(|| format!("deleting {path}"))
    }

    /// Removes a folder with all that is in it.
    pub fn remove(&self, path: &str) -> Result<()> {
        fs::remove_dir_all(self.0.path().join(path)).with_context(|| format!("removing {path}"))
    }

    /// What the payload reports when it finds exactly this tree.
    pub fn fingerprint(&self) -> Result<String> {
        let mut files = BTreeMap::new();
        collect(self.0.path(), "", &mut files)?;
        let mut hash = 0xcbf2_9ce4_8422_2325;
        let mut bytes = 0;
        for (name, file) in &files {
            let content = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            bytes += content.len();
            hash = fnv(fnv(fnv(hash, name.as_bytes()), &[0]), &content);
        }
        Ok(format!("files={} bytes={bytes} fnv={hash:016x}", files.len()))
    }
}

/// The FNV-1a hash, as the payload computes it.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The regular files below a folder by the path they will have in the root.
fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let name = format!("{prefix}/{}", entry.file_name().to_str().context("tests use names in UTF-8")?);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), &name, files)?;
        } else if kind.is_file() {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// Copies a folder with modes and links, as `cp -a` does.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg("-T").args([from, to]).status().context("running cp")?;
    if !status.success() {
        bail!("copying {} to {}: {status}", from.display(), to.display());
    }
    Ok(())
}

/// Writes a file, which may not exist yet, nor its folder. An old one is replaced, never written into: it could
/// be read-only.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("replacing {}", path.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// The time, as signatures state it.
pub fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(Timestamp::from_unix(since.as_secs())?)
}

/// Bytes that no transport can shorten: a multiplicative generator, always the same.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
