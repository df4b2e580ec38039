//! The bootstrap server: a site (a folder of plain files) over HTTP.
//!
//! In: the site's folder and the address to listen on. Out: GET and HEAD with ranges, strong validators and
//! cache rules that fit the site's layout, so that nodes can resume and caches can keep what never changes.
//! Nothing here holds or needs a key: nodes verify what they fetch, and any static web server may stand in.
//! Failure: [`serve`] returns an error when it cannot start; a request that fails gets a plain status line
//! that names no path of this machine, and the log gets the reason.

mod access;
mod answer;
mod conditions;
mod descriptors;
mod path;
mod serve;
mod source;

pub use serve::{Limits, Phase, serve, signals};
