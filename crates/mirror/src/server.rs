//! The mirror as a server: configuration, accepting, draining.

use std::{io, sync::Arc, time::Duration};

use futures_util::future::select_all;
use origin::{DEFAULT_REGISTRY, ReferenceError, Repository};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{Content, activity::Activity, answer::Answerer, connection};

/// Said when there are too many connections: a quick, clear failure makes clients go to the upstream at once.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How long connections may take to end after their last answer.
const ENDING: Duration = Duration::from_secs(3);

/// What the mirror is told by the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorConfig {
    /// The registry of requests that name none, as Docker's are.
    pub default_registry: String,
    /// How many connections are served at once; more are told 503. Docker and containerd open up to 18 per pull.
    pub max_connections: usize,
    /// How many tunnels are open at once; who wants more is told 503.
    pub max_tunnels: usize,
    /// Deadlines; not in the configuration file.
    #[serde(skip)]
    pub limits: Limits,
}

/// How long the mirror waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a request's head, and for the next request on a kept connection: 60 s.
    pub header: Duration,
    /// For the content to say what the answer is: 45 s. Past it the content counts as unavailable.
    pub answer: Duration,
    /// For the content to say how it goes: 15 s.
    pub health: Duration,
    /// For the next bytes of a blob from the content: 60 s. Past it the body is cut short.
    pub body_stall: Duration,
    /// For a client to read on: 300 s. Clients that unpack as they read may pause for long under disk pressure, so
    /// this is generous; past it the connection ends.
    pub write_stall: Duration,
    /// For the next byte in a tunnel, either way: 600 s. Past it the tunnel ends.
    pub tunnel_idle: Duration,
    /// For running answers and pulls at shutdown: 30 s. Past it they are cut.
    pub drain: Duration,
    /// How long nothing is asked before a shutdown takes all pulls to be over: 1 s.
    pub quiet: Duration,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            default_registry: DEFAULT_REGISTRY.to_owned(),
            max_connections: 4096,
            max_tunnels: 512,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(60),
            answer: Duration::from_secs(45),
            health: Duration::from_secs(15),
            body_stall: Duration::from_secs(60),
            write_stall: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(600),
            drain: Duration::from_secs(30),
            quiet: Duration::from_secs(1),
        }
    }
}

/// A registry mirror over some [`Content`].
pub struct Mirror<C> {
    answerer: Arc<Answerer<C>>,
    connections: usize,
    tls: Option<Tls>,
}

/// How https is spoken on the mirror's port, beside http.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate for new connections; may be replaced at any time.
    pub server: watch::Receiver<Arc<ServerConfig>>,
    /// The authority behind it in PEM, where it was made here: `/ca.pem` gives it to whoever wants to trust it.
    pub authority: Option<String>,
}

impl<C: Content> Mirror<C> {
    /// A mirror of `content`. Fails when the configured default registry is no registry name.
    pub fn new(content: Arc<C>, config: &MirrorConfig, tls: Option<Tls>) -> Result<Self, ReferenceError> {
        let default_registry = Repository::new(&config.default_registry, "a/a")?.registry().to_owned();
        let authority = tls.as_ref().and_then(|tls| tls.authority.clone());
        let activity = Arc::new(Activity::default());
        let tunnels = Arc::new(Semaphore::new(config.max_tunnels.min(Semaphore::MAX_PERMITS)));
        let limits = config.limits;
        let answerer = Answerer { content, default_registry, limits, authority, activity, tunnels };
        Ok(Self {
            answerer: Arc::new(answerer),
            connections: config.max_connections.min(Semaphore::MAX_PERMITS),
            tls,
        })
    }

    /// Serves on all of `listeners` until `shutdown`. From then on it takes no new pulls, which are told to go
    /// elsewhere, and gives those that have begun their blobs, until nothing has been asked for [`Limits::quiet`]:
    /// Podman and skopeo get all blobs from where they got the manifest, or fail. What is not over within
    /// [`Limits::drain`] is cut. Without listeners it only waits.
    pub async fn serve(self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let free = Arc::new(Semaphore::new(self.connections));
        let mut running = JoinSet::new();
        let (activity, limits) = (self.answerer.activity.clone(), self.answerer.limits);
        // Ends the connections, where `shutdown` only ends the taking of pulls.
        let ending = CancellationToken::new();
        let begun = async {
            shutdown.cancelled().await;
            activity.drain();
            Instant::now()
        };
        let over = async {
            let deadline = begun.await + limits.drain;
            let _ = timeout_at(deadline, activity.quiet(limits.quiet)).await;
            deadline
        };
        tokio::pin!(over);
        let deadline = loop {
            let accepted = tokio::select! {
                accepted = accept(&listeners) => accepted,
                Some(_) = running.join_next(), if !running.is_empty() => continue,
                deadline = &mut over => break deadline,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Mostly: out of descriptors. Connections that end will free some.
                    tracing::warn!(%error, "the mirror cannot accept connections");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
                tracing::warn!(
                    limit = self.connections,
                    "too many connections to the mirror: one was refused"
                );
                let _ = stream.try_write(FULL);
                continue;
            };
            // Small answers should not wait for the client's acknowledgement.
            let _ = stream.set_nodelay(true);
            let (answerer, ending) = (Arc::clone(&self.answerer), ending.clone());
            let tls = self.tls.as_ref().map(|tls| tls.server.borrow().clone());
            running.spawn(async move {
                let _permit = permit;
                let service = |cut, slot| answerer.service(cut, slot);
                connection::run(stream, tls, limits, ending, service).await;
            });
        };
        drop(listeners);
        ending.cancel();
        let drained = timeout_at(deadline + ENDING, async { while running.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(connections = running.len(), "the mirror's connections did not drain in time");
            running.shutdown().await;
        }
    }
}

async fn accept(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    if listeners.is_empty() {
        return std::future::pending().await;
    }
    let (accepted, _, _) = select_all(listeners.iter().map(|listener| Box::pin(listener.accept()))).await;
    accepted.map(|(stream, _)| stream)
}
