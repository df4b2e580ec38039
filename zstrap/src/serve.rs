//! `zstrap serve`: a site over HTTP.
//!
//! In: a site, an address. Out: the URL on stdout once it is bound, then one log line a request. Failure: the
//! site is no folder, the address cannot be bound. Ends with SIGINT or SIGTERM: requests in flight get 10 s,
//! a second signal ends at once.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use zstrap_server::{Limits, serve, signals};

use crate::output;

/// Arguments of `zstrap serve`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The site
    pub site: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// Runs the command until a signal ends it.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("starting the server")?;
    let site = arguments.site.clone();
    runtime.block_on(async {
        let phase = signals()?;
        let say = |bound| {
            // Who does not read the address still wants the site served.
            if let Err(error) = output::line(format_args!("http://{bound}")) {
                log::warn!("listening on {bound}: {error:#}");
            }
        };
        serve(site, arguments.listen, Limits::default(), phase, say).await
    })
}
