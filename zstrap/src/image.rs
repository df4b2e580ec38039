//! `zstrap image`: makes images that boot machines.
//!
//! In: a site, a config on it, servers, public keys, labels, a kernel. Out: a folder that boots over the
//! network, with the identity in its slot; the same input gives the same bytes. Failure: no such config, keys
//! or URLs that are none, what [`zstrap_mkimage`] refuses. That an image could not boot what the site serves
//! today (other keys, no bundle) is a warning: the site may change before the node does.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use zstrap_formats::config::{Config, LogLevel};
use zstrap_formats::digest::ContentDigest;
use zstrap_formats::identity::{Clock, ConfigChoice, Identity, Pin};
use zstrap_formats::key::PublicKey;
use zstrap_formats::name::{Arch, Label, Name};
use zstrap_formats::network::Network;
use zstrap_formats::signature::{Accept, Keyring, Signature, TrustedComment};
use zstrap_formats::site;
use zstrap_formats::time::Timestamp;
use zstrap_formats::url::{Scheme, Url};
use zstrap_mkimage::modules::{ModuleSet, Patterns, select};
use zstrap_mkimage::netboot::{self, Parts};

use crate::authority;
use crate::config;
use crate::output;
use crate::signers::read_public;
use crate::site::Site;

/// The commands about images.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes kernel, initramfs and iPXE script, to be served to machines
    Netboot(Box<Arguments>),
}

/// Written out: clap would make one line of it, whatever its length.
const USAGE: &str = "\
zstrap image netboot --site <SITE> --config <NAME> --server <URL>
                            --key <PUB> --farmer <LABEL> --pool <LABEL>
                            --arch <ARCH> --kernel <FILE> [--modules <DIR>]
                            --output <DIR> [OPTIONS]";

/// Arguments of `zstrap image netboot`.
#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
pub struct Arguments {
    /// The site that the image will boot from, for its configs
    #[arg(long, value_name = "SITE")]
    pub site: PathBuf,
    /// The config that tells the node what to become
    #[arg(long, value_name = "NAME")]
    pub config: Name,
    /// Boots exactly the config of today (by MD5 and SHA-256), not its successors
    #[arg(long)]
    pub pin: bool,
    /// Boots this one of the config's bundles instead of its first
    #[arg(long, value_name = "NAME")]
    pub bundle: Option<Name>,
    /// Where nodes reach the site: an http or https URL, or file:///DIR on boot
    /// media; repeatable, and tried in this order
    #[arg(long = "server", value_name = "URL", required = true)]
    pub servers: Vec<Url>,
    /// A public key that the image trusts; repeatable
    #[arg(long = "key", value_name = "PUB", required = true)]
    pub keys: Vec<PathBuf>,
    /// How many of the keys must have signed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threshold: usize,
    /// The farmer id
    #[arg(long, value_name = "LABEL")]
    pub farmer: Label,
    /// The farming pool id
    #[arg(long, value_name = "LABEL")]
    pub pool: Label,
    /// The architecture of the node: amd64 or arm64
    #[arg(long)]
    pub arch: Arch,
    /// The kernel
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// The kernel's modules: its folder lib/modules/VERSION
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// The init [default: zstrap-init-ARCH beside this program]
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Certificates (PEM) that servers must chain to, instead of the public ones
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// An HTTP proxy between nodes and servers
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub proxy: Option<Url>,
    /// How nodes configure their network, such as dhcp4,vlan=10 or
    /// addr=192.0.2.7/24,gw=192.0.2.1,dns=192.0.2.53; docs/network.md says all
    #[arg(long, value_name = "TEXT", default_value_t)]
    pub network: Network,
    /// Which clock nodes believe: hardware or network
    #[arg(long, value_name = "CLOCK", default_value_t)]
    pub clock: Clock,
    /// How much the init says: quiet, normal or debug
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<LogLevel>,
    /// More words for the kernel command line
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub cmdline_append: String,
    /// When the image counts as built, in Unix seconds [default:
    /// SOURCE_DATE_EPOCH, or when the site's config or bundles were last signed]
    #[arg(long, value_name = "SECONDS")]
    pub build_time: Option<u64>,
}

/// Runs one of the commands.
///
/// # Errors
/// See the head of this file.
pub fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Netboot(arguments) = command;
    let build_time = arguments.build_time.map_or_else(source_date_epoch, |seconds| Ok(Some(seconds)))?;
    let build_time = build_time.map(Timestamp::from_unix).transpose()?;
    let identity = identity(arguments, build_time)?;
    make_netboot(arguments, &identity)?;
    let pin = if identity.config.pin.is_some() { "yes" } else { "no" };
    output::line(format_args!(
        "image={} arch={} config={} pinned={pin} built={}",
        arguments.output.display(),
        arguments.arch,
        arguments.config,
        identity.build_time
    ))
}

/// As the identity wants it, said beside the option.
fn http_url(text: &str) -> anyhow::Result<Url> {
    let url: Url = text.parse()?;
    ensure!(url.scheme() == Scheme::Http, "expected an http URL, such as http://10.0.0.1:3128");
    Ok(url)
}

/// The convention of reproducible builds for "the time of this build".
fn source_date_epoch() -> anyhow::Result<Option<u64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            text.parse().map(Some).with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, expected seconds"))
        }
        Err(_) => Ok(None),
    }
}

/// The identity that these arguments ask for, checked as the init checks it.
///
/// # Errors
/// See the head of this file.
pub fn identity(arguments: &Arguments, build_time: Option<Timestamp>) -> anyhow::Result<Identity> {
    let site = Site::open(&arguments.site)?;
    let (serial, json) = config::latest(&site, &arguments.config)?;
    let keys: Vec<PublicKey> =
        arguments.keys.iter().map(|path| read_public(path)).collect::<anyhow::Result<_>>()?;
    let keyring = Keyring::new(keys, arguments.threshold)?;
    let signed = newest_signature(&site, arguments, serial, &json, &keyring)?;
    let digest = ContentDigest::of(&json);
    let pin = arguments.pin.then_some(Pin { md5: digest.md5, sha256: digest.sha256 });
    let read_ca = |path: &PathBuf| authority::read(path, &arguments.servers);
    let identity = Identity {
        build_time: build_time.unwrap_or(signed),
        servers: arguments.servers.clone(),
        keyring,
        config: ConfigChoice { name: arguments.config.clone(), pin },
        bundle: arguments.bundle.clone(),
        farmer_id: arguments.farmer.clone(),
        farming_pool_id: arguments.pool.clone(),
        ca: arguments.ca.as_ref().map(read_ca).transpose()?,
        proxy: arguments.proxy.clone(),
        network: arguments.network.clone(),
        clock: arguments.clock,
        log: arguments.log,
    };
    Identity::parse(identity.to_json().as_bytes()).context("checking the identity")
}

/// When the config, or a bundle that it allows, was last signed. On the way, warns of what would not boot.
fn newest_signature(
    site: &Site,
    arguments: &Arguments,
    serial: u64,
    json: &[u8],
    keyring: &Keyring,
) -> anyhow::Result<Timestamp> {
    let mut newest = signed_at(site, &site::config(&arguments.config, serial), json, keyring)?;
    let config = Config::parse_node(json).with_context(|| format!("reading config {}", arguments.config))?;
    if let Some(bundle) = &arguments.bundle {
        let among = config.allowed_bundles().any(|allowed| allowed == bundle);
        ensure!(among, "bundle {bundle} is not among the bundles of config {}", arguments.config);
    }
    for bundle in config.allowed_bundles() {
        let Some(serial) = site.latest(&site::bundle_latest(bundle, arguments.arch))? else {
            log::warn!("bundle {bundle} is not on the site for {}", arguments.arch);
            continue;
        };
        let path = site::list(bundle, arguments.arch, serial);
        let list = site.read(&path)?.with_context(|| format!("{path} is missing on the site"))?;
        newest = newest.max(signed_at(site, &path, &list, keyring)?);
    }
    Ok(newest)
}

/// When the file at `path` was signed. Whether the image's keys have signed it only decides on a warning.
fn signed_at(site: &Site, path: &str, bytes: &[u8], keyring: &Keyring) -> anyhow::Result<Timestamp> {
    let signatures = signatures(site, path, keyring)?;
    let Some(first) = signatures.first() else {
        bail!("{path} has no signature on the site");
    };
    if let Err(error) = keyring.verify(bytes, &signatures, Accept::PrehashedOnly) {
        log::warn!("this image will refuse {path} as it is now: {error}");
    }
    let comment: TrustedComment =
        first.comment_unverified().parse().with_context(|| format!("reading the signature of {path}"))?;
    Ok(comment.created)
}

/// The signatures that a node with this keyring would ask for.
fn signatures(site: &Site, path: &str, keyring: &Keyring) -> anyhow::Result<Vec<Signature>> {
    let paths: Vec<String> = if keyring.threshold() == 1 {
        vec![site::signature(path)]
    } else {
        let by_key = keyring.keys().iter().map(|key| site::signature_by(path, key.id()));
        by_key.filter(|path| site.place(path).exists()).collect()
    };
    let mut signatures = Vec::new();
    for path in paths {
        if let Some(text) = site.read(&path)? {
            signatures.push(Signature::parse(&text).with_context(|| format!("reading {path}"))?);
        }
    }
    Ok(signatures)
}

fn make_netboot(arguments: &Arguments, identity: &Identity) -> anyhow::Result<()> {
    let modules = match &arguments.modules {
        Some(folder) => select(folder, &Patterns::shipped())?,
        None => ModuleSet::default(),
    };
    let init_path = arguments.init.clone().map_or_else(|| default_init(arguments.arch), Ok)?;
    let read = |what: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("reading the {what}, {}", path.display()))
    };
    let (kernel, init) = (read("kernel", &arguments.kernel)?, read("init", &init_path)?);
    let payload = identity.to_json();
    let parts = Parts {
        arch: arguments.arch,
        kernel: &kernel,
        init: &init,
        modules: &modules,
        identity: payload.as_bytes(),
        cmdline_append: &arguments.cmdline_append,
    };
    netboot::write(&parts, &arguments.output).map(drop)
}

fn default_init(arch: Arch) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("looking for the init beside this program")?;
    Ok(program.with_file_name(format!("zstrap-init-{arch}")))
}
