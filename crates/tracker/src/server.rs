//! Sockets, connections and the clock.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ::http::{Request, Response, StatusCode};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    auth::Auth,
    config::Config,
    directory::{Directory, FLUSH_EVERY},
    error::{DirectoryError, StartError},
    http::{self, Shared},
    metrics::Metrics,
    peers::{Limits, PeerStore},
};

/// How long the head of a request may take, and how long a connection may stand idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take from its head to the answer's: the longest wait of a claim, and a slow body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long what was sent may stay unacknowledged before the connection is given up.
const SEND_TIMEOUT_MS: u32 = 30_000;

/// The longest head of a request, in bytes. A scrape of [`announce::MAX_SCRAPE`] torrents must fit.
const MAX_HEAD: usize = 32 * 1024;

/// How long connections have to end when the tracker does.
const GRACE: Duration = Duration::from_secs(5);

/// How long one round over all peers takes, to find those that are too old.
const SWEEP: Duration = Duration::from_secs(60);

/// The tracker's clocks: one that never goes back, for ages and deadlines, and the date.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "the server is a driver")]
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Seconds since 1970.
    #[allow(clippy::disallowed_methods, clippy::unused_self, reason = "the server is a driver")]
    pub(crate) fn unix(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// How many connections there may be, and are.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    free: Arc<Semaphore>,
    most: usize,
}

impl Connections {
    fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most }
    }

    pub(crate) fn open(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }
}

/// A tracker that runs.
///
/// Dropping it stops it without waiting; [`Tracker::shutdown`] waits.
pub struct Tracker {
    addresses: Vec<SocketAddr>,
    directory: Directory,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Runs a tracker until `shutdown` is done.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let tracker = Tracker::start(config).await?;
    shutdown.await;
    tracker.shutdown().await;
    Ok(())
}

impl Tracker {
    /// Binds all addresses and serves. On return the tracker can be reached.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let mut listeners = Vec::new();
        for &address in &config.listen {
            let listener = bind(address).await.map_err(|error| StartError::Listen { address, error })?;
            listeners.push(listener);
        }
        let (clock, closing, tasks) = (Clock::start(), CancellationToken::new(), TaskTracker::new());
        let directory = open_directory(&config, clock, closing.clone()).await?;
        let limits = Limits {
            torrents: config.max_torrents,
            peers: config.max_peers,
            peer_age: Duration::from_secs(config.peer_age),
            numwant: config.numwant,
            max_numwant: config.max_numwant,
        };
        let connections = Connections::new(config.max_connections);
        let shared = Arc::new(Shared {
            peers: PeerStore::new(limits, rand::random()),
            directory,
            metrics: Metrics::new(),
            auth: Auth::new(config.directory_token.as_deref()),
            clock,
            connections: connections.clone(),
            tracker_id: format!("{:016x}", rand::random::<u64>()).into_bytes(),
            config,
        });
        let router = http::router(Arc::clone(&shared));
        let mut addresses = Vec::new();
        for listener in listeners {
            addresses.extend(listener.local_addr());
            let task = accept(listener, router.clone(), connections.clone(), tasks.clone(), closing.clone());
            tasks.spawn(task);
        }
        tasks.spawn(sweep(Arc::clone(&shared), closing.clone()));
        tasks.spawn(tend(shared.directory.clone(), closing.clone()));
        tracing::info!(?addresses, "tracker listens");
        Ok(Self { addresses, directory: shared.directory.clone(), closing, tasks })
    }

    /// The first address, with the port that was bound where 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// All addresses.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops: no new connections, claims that wait are answered, others have five seconds, and the directory is
    /// flushed.
    pub async fn shutdown(self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(2 * GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("tracker stops with work left undone");
        }
        flush(&self.directory).await;
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn open_directory(
    config: &Config,
    clock: Clock,
    closing: CancellationToken,
) -> Result<Directory, StartError> {
    let config = config.clone();
    let path = config.directory.clone().unwrap_or_default();
    // Opening reads the file, and may repair it.
    let opened = tokio::task::spawn_blocking(move || {
        Directory::open(config.directory.as_deref(), &config, clock, closing)
    })
    .await;
    opened
        .unwrap_or_else(|error| Err(DirectoryError::Lost(error.to_string())))
        .map_err(|error| StartError::Directory { path, error: Box::new(error) })
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // No IPv6 on this machine.
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    rustix::io::Errno::from_io_error(&error),
                    Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
                ) =>
        {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!(%address, %error, "no IPv6 here: listening on {v4}");
            TcpListener::bind(v4).await
        }
        outcome => outcome,
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    connections: Connections,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections.free).acquire_owned() => permit,
            () = closing.cancelled() => return,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, from)) => {
                let (router, closing) = (router.clone(), closing.clone());
                tasks.spawn(async move {
                    serve(stream, from, router, closing).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: some are given back soon.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, from: SocketAddr, router: Router, closing: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, SEND_TIMEOUT_MS);
    let service = service_fn(move |request| answer(router.clone(), from, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%from, %error, "connection ends");
    }
}

async fn answer(
    router: Router,
    from: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    request.extensions_mut().insert(ConnectInfo(from));
    match timeout(REQUEST_TIMEOUT, router.oneshot(request.map(Body::new))).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let mut late = Response::new(Body::from("the request took too long\n"));
            *late.status_mut() = StatusCode::REQUEST_TIMEOUT;
            Ok(late)
        }
    }
}

/// Forgets old peers, a share at a time.
async fn sweep(shared: Arc<Shared>, closing: CancellationToken) {
    let steps = shared.peers.steps().max(1);
    let pause = SWEEP / u32::try_from(steps).unwrap_or(u32::MAX);
    for step in (0..steps).cycle() {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closing.cancelled() => return,
        }
        let gone = shared.peers.expire(shared.clock.elapsed(), step);
        shared.metrics.expired.inc_by(gone as u64);
    }
}

/// Keeps the directory flushed. The last flush is [`Tracker::shutdown`]'s, when nothing can come any more.
async fn tend(directory: Directory, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_EVERY) => {}
            () = closing.cancelled() => return,
        }
        flush(&directory).await;
    }
}

async fn flush(directory: &Directory) {
    if let Err(error) = directory.tend().await {
        tracing::error!(%error, "the content directory cannot be flushed");
    }
}
