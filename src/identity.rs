//! Second stage: who this image belongs to, and whom it trusts.
//!
//! In: the slot in the initramfs, and the labels that the kernel command line may set. Out: the
//! [`Identity`]; trust, servers and config come from the slot alone.

use std::io;
use std::path::Path;
use std::time::Instant;

use zstrap_formats::cmdline::Cmdline;
use zstrap_formats::identity::{Identity, IdentityError};
use zstrap_formats::name::{Label, NameError};
use zstrap_formats::slot::{self, SlotError};

use crate::console::status;
use crate::fail::{Code, Refusal};

/// Why an image has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The slot is not there.
    #[error("reading /{}", slot::SLOT_FILE)]
    Read(#[source] io::Error),
    /// The slot is damaged or blank.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The payload is not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A label of the kernel command line.
    #[error("kernel command line: {name}")]
    Label {
        /// Which setting.
        name: &'static str,
        /// What is wrong.
        source: NameError,
    },
}

impl Refusal for Error {
    fn code(&self) -> Code {
        match self {
            Self::Read(_) => Code::SlotMissing,
            Self::Slot(SlotError::Blank) => Code::SlotBlank,
            Self::Slot(_) => Code::SlotDamaged,
            Self::Identity(IdentityError::Keys(0)) => Code::NoKeys,
            Self::Identity(_) => Code::BadIdentity,
            Self::Label { .. } => Code::BadLabel,
        }
    }
}

/// The identity of this image.
///
/// # Errors
/// [`Error`]: the slot is missing, damaged, blank, or says what cannot be.
pub fn load(cmdline: &Cmdline) -> Result<Identity, Error> {
    let started = Instant::now();
    let slot = std::fs::read(Path::new("/").join(slot::SLOT_FILE)).map_err(Error::Read)?;
    let identity = with_labels(Identity::parse(slot::read(&slot)?)?, cmdline)?;
    status::identified(format!("{}   {}", identity.config.name, identity.farmer_id));
    log::info!(
        target: "identity",
        "ok config={} pinned={} servers={} keys={} threshold={} farmer={} pool={} after={:.3}s",
        identity.config.name,
        if identity.config.pin.is_some() { "yes" } else { "no" },
        identity.servers.len(),
        identity.keyring.keys().len(),
        identity.keyring.threshold(),
        identity.farmer_id,
        identity.farming_pool_id,
        started.elapsed().as_secs_f64(),
    );
    Ok(identity)
}

/// The kernel command line may name a machine's farmer and pool; it can add no trust by that.
fn with_labels(mut identity: Identity, cmdline: &Cmdline) -> Result<Identity, Error> {
    let label = |name: &'static str| -> Result<Option<Label>, Error> {
        cmdline.value(name).map(str::parse).transpose().map_err(|source| Error::Label { name, source })
    };
    if let Some(farmer) = label("zstrap.farmer_id")? {
        identity.farmer_id = farmer;
    }
    if let Some(pool) = label("zstrap.farming_pool_id")? {
        identity.farming_pool_id = pool;
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake;

    #[test]
    fn the_command_line_sets_labels_and_nothing_else() {
        let line = Cmdline::parse(b"zstrap.farmer_id=other zstrap.servers=http://evil zstrap.keys=x");
        let before = fake::identity();
        let after = with_labels(before.clone(), &line).unwrap();
        assert_eq!(after.farmer_id.as_str(), "other");
        assert_eq!(after.servers, before.servers);
        assert_eq!(after.keyring.keys(), before.keyring.keys());
    }

    #[test]
    fn a_bad_label_is_refused_by_name() {
        let line = Cmdline::parse(b"zstrap.farmer_id=\"a b\"");
        let error = with_labels(fake::identity(), &line).unwrap_err();
        assert!(matches!(error, Error::Label { name: "zstrap.farmer_id", .. }));
    }
}
