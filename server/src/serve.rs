//! Listens, serves connections, and stops in good order.
//!
//! In: the site, an address, limits and a [`Phase`] that says when to stop. Out: the bound address through a
//! callback, then files until the end. Failure: an error when the site is no folder or the address cannot be
//! bound; a failed connection ends alone.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::middleware::from_fn;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// After a failed accept (no descriptors left, say) the server pauses instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Request heads above this size are refused with 431; a node's has 300 bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How much one client may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a request's head, or the next request on a kept connection, may take to arrive.
    pub head: Duration,
    /// How long a client may take no byte of what is sent to it before its connection is closed.
    pub stall: Duration,
    /// How long requests in flight may go on after a stop.
    pub drain: Duration,
    /// Connections at a time; more wait in the kernel's queue. Fewer, when the process may not open enough
    /// files for them.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            connections: 4096,
        }
    }
}

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepts connections.
    Run,
    /// Accepts none, finishes what is in flight.
    Drain,
    /// Ends at once.
    End,
}

/// Follows SIGINT and SIGTERM: the first asks for [`Phase::Drain`], the second for [`Phase::End`].
///
/// # Errors
/// When the handlers cannot be installed.
pub fn signals() -> anyhow::Result<watch::Receiver<Phase>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
    let (sender, receiver) = watch::channel(Phase::Run);
    tokio::spawn(async move {
        for phase in [Phase::Drain, Phase::End] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            sender.send_replace(phase);
        }
        // Kept until the runtime ends: a closed channel would read as one more change.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Serves the folder `site` on `listen` until `phase` says stop; `bound` is called once with the address in
/// use (port 0 asks for a free one). A `phase` whose sender is gone counts as [`Phase::End`].
///
/// # Errors
/// When `site` is no folder, or `listen` cannot be bound.
pub async fn serve(
    site: PathBuf,
    listen: SocketAddr,
    limits: Limits,
    phase: watch::Receiver<Phase>,
    bound: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    check_site(&site)?;
    let limits = Limits { connections: crate::descriptors::connections(limits.connections), ..limits };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    bound(listener.local_addr().context("reading the bound address")?);
    let mut connections = JoinSet::new();
    accept_until_stop(listener, app(site), &limits, phase.clone(), &mut connections).await;
    drain(connections, phase, limits.drain).await;
    Ok(())
}

fn check_site(site: &Path) -> anyhow::Result<()> {
    let meta = std::fs::metadata(site).with_context(|| format!("opening site {}", site.display()))?;
    anyhow::ensure!(meta.is_dir(), "opening site {}: expected a folder", site.display());
    Ok(())
}

fn app(site: PathBuf) -> Router {
    Router::new()
        .fallback(crate::answer::answer)
        .with_state(Arc::new(site))
        .layer(from_fn(crate::access::log_request))
}

/// Returns when the phase is no longer [`Phase::Run`]; dropping the listener closes it.
async fn accept_until_stop(
    listener: TcpListener,
    app: Router,
    limits: &Limits,
    mut phase: watch::Receiver<Phase>,
    connections: &mut JoinSet<()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connection_phase = phase.clone();
    let stopped = reached(&mut phase, Phase::Drain);
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => return,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, place) = accepted;
        connections.spawn(connection(stream, place, app.clone(), limits.clone(), connection_phase.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Takes a place first: a client beyond the limit waits in the kernel's queue, not in our memory.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                log::warn!("accepting a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, until it closes, fails, takes too long, or the server drains.
async fn connection(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    app: Router,
    limits: Limits,
    mut phase: watch::Receiver<Phase>,
) {
    tune(&stream, &limits);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = reached(&mut phase, Phase::Drain) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        log::debug!("connection ended: {error}");
    }
}

/// The kernel closes a connection whose peer takes nothing for `stall`; nobody waits on it in vain.
fn tune(stream: &TcpStream, limits: &Limits) {
    let stall = u32::try_from(limits.stall.as_millis()).unwrap_or(u32::MAX);
    let tuned = rustix::net::sockopt::set_tcp_user_timeout(stream, stall).map_err(std::io::Error::from);
    if let Err(error) = tuned.and_then(|()| stream.set_nodelay(true)) {
        log::debug!("tuning a connection: {error}");
    }
}

async fn drain(mut connections: JoinSet<()>, mut phase: watch::Receiver<Phase>, limit: Duration) {
    let all = async { while connections.join_next().await.is_some() {} };
    let ended = or_timeout(all, limit, reached(&mut phase, Phase::End)).await;
    if !ended {
        log::warn!("stopped with {} connections open", connections.len());
    }
    connections.shutdown().await;
}

/// True when `all` ended before the time was over and before `stop`.
async fn or_timeout(all: impl Future<Output = ()>, limit: Duration, stop: impl Future<Output = ()>) -> bool {
    tokio::select! {
        () = all => true,
        () = tokio::time::sleep(limit) => false,
        () = stop => false,
    }
}

/// Ends when the phase is `wanted` or later, or its sender is gone.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _gone_counts_as_reached = phase.wait_for(|now| *now >= wanted).await;
}
