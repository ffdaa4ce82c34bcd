//! A node's start and end.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use api::DirectoryClient;
use engine::Engine;
use mirror::Mirror;
use origin::{Origin, Web};
use store::{OpenError, Store};
use tokio::{
    net::{TcpListener, UnixListener},
    task::{JoinHandle, spawn_blocking},
    time::{interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::Access,
    breaker::Breaker,
    certificate::{self, CertificateError},
    config::{ApiConfig, Config},
    content::{Content, Inner},
    eviction,
    http::{self, Api, Guard},
    lenders::{self, Lenders},
    manifests::Names,
    push::Uploads,
    record::Records,
    shelf::StoreShelf,
    site::{SiteError, Sites},
    torrents::Torrents,
    trace::Traces,
    trackers, watch,
};

/// How long running pulls may take to end, once the answers have ended.
const STOP: Duration = Duration::from_secs(10);
/// For how long a disk that hangs is done without, at first and at most.
const DISK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// After how many blobs of which no peer gave anything registries are asked first, and for how long at first and at most.
const SWARMS: (u32, Duration, Duration) = (2, Duration::from_secs(30), Duration::from_secs(300));
/// How often, and after what pauses, a store is tried that another process has.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether blobs were lost.
const LOOK: Duration = Duration::from_secs(10);
/// How often the default registry is asked what it wants of clients, and how soon again where it does not answer.
const CHALLENGE: Duration = Duration::from_secs(600);
const CHALLENGE_AGAIN: Duration = Duration::from_secs(10);
/// Blobs announced at the start, in pages of this size.
const PAGE: usize = 500;

/// A running node.
pub struct Node {
    content: Content,
    mirrors: Vec<SocketAddr>,
    apis: Vec<SocketAddr>,
    socket: PathBuf,
    servers: Vec<JoinHandle<()>>,
    serving: CancellationToken,
}

impl Node {
    /// Starts everything that the configuration names; when this returns, the node serves.
    ///
    /// # Errors
    /// What could not be started, and why. Nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let origin = Origin::new(&config.origin)?;
        let sites = Sites::new(&config)?;
        let web = Web::new(&sites.web(&config), &origin)?;
        let directory = directory(&config).await?;
        let store = open_store(&config.data).await?;
        let uploads = Uploads::open(config.data.join("uploads"))
            .map_err(|source| StartError::Io { what: "making the folder of uploads".into(), source })?;
        let torrents = Torrents::open(config.data.join("torrents"), config.torrents_folder())
            .map_err(|source| StartError::Io { what: "reading the list of torrents".into(), source })?;
        watch::prepare(&config.torrents.watch).map_err(|(folder, source)| {
            let what = format!("making the watched folder {}", folder.display());
            StartError::Io { what, source }
        })?;
        let (tls, certificate) = certificate::open(&config)?.unzip();
        let mut listeners = Vec::new();
        for address in &config.mirror.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| StartError::Mirror { address: *address, source })?);
        }
        let socket = config.api.socket.clone();
        let unix = listen_unix(&socket).await?;
        let guard = guard(&config.api).await?;
        let mut tcp = Vec::new();
        for address in &config.api.listen {
            let listener = TcpListener::bind(address).await;
            tcp.push(listener.map_err(|source| StartError::Api { address: *address, source })?);
        }
        let shelf = Arc::new(StoreShelf(store.clone()));
        let engine = Engine::start(config.engine(), Some(shelf)).await?;
        let name = if config.name.is_empty() { own_name() } else { config.name.clone() };
        let content = Content(Arc::new(Inner {
            name,
            store,
            engine,
            origin,
            web,
            sites,
            lenders: Lenders::new(&config.store.borrow),
            directory,
            records: Records::default(),
            traces: Traces::default(),
            torrents,
            to_clients: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            came: tokio::sync::Notify::new(),
            flights: std::sync::Mutex::default(),
            access: Access::default(),
            uploads,
            challenge: std::sync::Mutex::default(),
            resolved: Names::default(),
            tags: crate::single::Singles::default(),
            disk: Breaker::new(1, DISK.0, DISK.1),
            swarms: Breaker::new(SWARMS.0, SWARMS.1, SWARMS.2),
            wrong: std::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
        }));
        let mirror = Mirror::new(Arc::new(content.clone()), &content.0.config.mirror(), tls)?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>();
        let mirrors = addresses
            .map_err(|source| StartError::Io { what: "asking for the mirror's address".into(), source })?;
        let serving = CancellationToken::new();
        let inner = &content.0;
        let listens = tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect::<Vec<_>>();
        let api = Api::new(content.clone(), mirrors.clone(), listens.clone(), serving.clone());
        let mut servers = vec![
            tokio::spawn(mirror.serve(listeners, serving.clone())),
            tokio::spawn(http::serve_unix(unix, api.clone())),
        ];
        for listener in tcp {
            let served = http::serve_tcp(listener, api.clone(), guard.clone());
            servers.push(tokio::spawn(served));
        }
        let urls = inner.config.trackers.clone();
        if urls.is_empty() && !inner.config.peer.local_discovery {
            tracing::warn!(
                "no tracker is configured: this node finds no peers, and all content comes from registries"
            );
        }
        inner.tasks.spawn(trackers::watch(urls, inner.engine.clone(), inner.stop.clone()));
        if let Some(directory) = &inner.directory {
            let runs = trackers::watch_runs(directory.clone(), inner.engine.clone(), inner.stop.clone());
            inner.tasks.spawn(runs);
        }
        if let Some(files) = certificate {
            inner.tasks.spawn(certificate::watch(files, inner.stop.clone()));
        }
        if inner.config.mirror.challenge {
            inner.tasks.spawn(learn_challenge(content.clone()));
        }
        let resumed = content.clone();
        inner.tasks.spawn(async move { resumed.0.resume_torrents().await });
        if !inner.config.torrents.watch.is_empty() {
            inner.tasks.spawn(watch::run(inner.clone()));
        }
        inner.tasks.spawn(announce_all(content.clone()));
        inner.tasks.spawn(forget_lost(content.clone()));
        inner.tasks.spawn(eviction::run(inner.clone()));
        inner.tasks.spawn(lenders::run(inner.clone()));
        Ok(Self { content, mirrors, apis: listens, socket, servers, serving })
    }

    /// Where the mirror listens.
    pub fn mirrors(&self) -> &[SocketAddr] {
        &self.mirrors
    }

    /// Where the API and the page are, over TCP.
    pub fn apis(&self) -> &[SocketAddr] {
        &self.apis
    }

    /// Where peers are listened for.
    pub fn peers(&self) -> SocketAddr {
        self.content.0.engine.listen()
    }

    /// Whether its insides move. If they don't, only a restart helps.
    pub async fn lives(&self) -> bool {
        self.content.lives().await
    }

    /// Stops: no new requests, running answers may end, trackers are told, what is half done is kept.
    pub async fn stop(self) {
        let inner = &self.content.0;
        self.serving.cancel();
        // The mirror ends its answers, or cuts them, in its own time.
        let most = inner.config.mirror().limits.drain + Duration::from_secs(5);
        for server in self.servers {
            if timeout(most, server).await.is_err() {
                tracing::warn!("some answers did not end in time");
            }
        }
        inner.stop.cancel();
        inner.tasks.close();
        if timeout(STOP, inner.tasks.wait()).await.is_err() {
            tracing::warn!("some fetches did not end in time");
        }
        inner.engine.stop().await;
        inner.store.flush();
        // Left behind it would only be in the way of the next start, which removes it.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Opens the store. A node that is just ending may still have it: that is waited for, briefly.
async fn open_store(data: &Path) -> Result<Arc<Store>, StartError> {
    let mut tries = 0;
    loop {
        let data = data.to_owned();
        let opened = spawn_blocking(move || Store::open(data)).await;
        match opened.map_err(|e| StartError::Io { what: "opening the store".into(), source: e.into() })? {
            Err(OpenError::Locked { .. }) if tries < LOCK_TRIES => {
                tries += 1;
                sleep(LOCK_PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

async fn directory(config: &Config) -> Result<Option<DirectoryClient>, StartError> {
    let bases = config.directories();
    if bases.is_empty() {
        return Ok(None);
    }
    let token = match &config.directory_token_file {
        None => None,
        Some(path) => {
            let what = format!("reading the directory's token from {}", path.display());
            let text = tokio::fs::read_to_string(path).await;
            Some(text.map_err(|source| StartError::Io { what, source })?.trim().to_owned())
        }
    };
    Ok(Some(DirectoryClient::new(bases, token.as_deref())?))
}

/// Who may use the API over TCP. Without a token it is for this machine only.
async fn guard(config: &ApiConfig) -> Result<Guard, StartError> {
    let token = match (&config.token, &config.token_file) {
        (Some(token), _) => Some(token.trim().to_owned()),
        (None, None) => None,
        (None, Some(path)) => {
            let what = format!("reading the API's token from {}", path.display());
            let text = tokio::fs::read_to_string(path).await;
            Some(text.map_err(|source| StartError::Io { what, source })?.trim().to_owned())
        }
    };
    let open = config.listen.iter().find(|address| !address.ip().is_loopback());
    match (&token, open) {
        (Some(token), _) if token.is_empty() => Err(StartError::NoToken),
        (None, Some(address)) => Err(StartError::OpenApi(*address)),
        _ => Ok(Guard::new(token, &config.origins)),
    }
}

/// Listens on a unix socket. One left behind by a node that was killed is removed; one that answers is not.
async fn listen_unix(path: &PathBuf) -> Result<UnixListener, StartError> {
    let fail = |source| StartError::Socket { path: path.clone(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(fail(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there")));
        }
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(fail(io::Error::new(io::ErrorKind::AddrInUse, "another node answers there")));
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    UnixListener::bind(path).map_err(fail)
}

/// Tells the trackers of all that lies here.
async fn announce_all(content: Content) {
    let inner = content.0;
    let mut after = None;
    while !inner.stop.is_cancelled() {
        let (store, from) = (inner.store.clone(), after);
        let page = spawn_blocking(move || store.list(from.as_ref(), PAGE)).await;
        let Ok(Ok(page)) = page else { return };
        let Some(last) = page.last() else { return };
        after = Some(last.digest);
        let told = page.iter().filter(|blob| blob.public || inner.shares_private());
        for info_hash in told.filter_map(|blob| blob.info_hash) {
            inner.engine.announce_soon(info_hash, inner.trackers()).await;
        }
    }
}

/// Finds out what the default registry asks of those who show nothing, and keeps to it.
async fn learn_challenge(content: Content) {
    let inner = content.0;
    loop {
        let pause = match inner.origin.challenge(&inner.config.mirror.default_registry).await {
            Ok(challenge) => {
                *inner.challenge.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
                CHALLENGE
            }
            Err(error) => {
                tracing::debug!(%error, "what the default registry asks of clients is not known");
                CHALLENGE_AGAIN
            }
        };
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Forgets blobs of which a peer was to be served what is no more there.
async fn forget_lost(content: Content) {
    let inner = content.0;
    let mut ticks = interval(LOOK);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for (info_hash, _) in inner.engine.lost() {
            let store = inner.store.clone();
            let found = spawn_blocking(move || store.find_info_hash(&info_hash)).await;
            if let Ok(Ok(Some(digest))) = found
                && let Err(error) = inner.stored(digest).await
            {
                tracing::debug!(%digest, %error, "a lost blob could not be looked at");
            }
        }
    }
}

/// The host's name and a random part.
fn own_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let random: [u8; 4] = rand::random();
    format!("{host}-{}", hash::to_hex(&random))
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An upstream of the configuration.
    #[error(transparent)]
    Upstream(#[from] origin::UpstreamError),
    /// The mirror's certificate.
    #[error("[mirror] {0}")]
    Certificate(#[from] CertificateError),
    /// An entry of `[proxy]` or `[[ostree]]`.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A host of `[proxy]`, or a CA file of `[[ostree]]`.
    #[error("[proxy] and [[ostree]]: {0}")]
    Web(#[from] origin::WebConfigError),
    /// The default registry of the configuration.
    #[error("mirror.default_registry: {0}")]
    DefaultRegistry(#[from] origin::ReferenceError),
    /// The directory's addresses or token.
    #[error("directory: {0}")]
    Directory(#[from] api::ClientError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] engine::StartError),
    /// An address of the mirror.
    #[error("cannot listen for registry clients on {address}: {source}")]
    Mirror {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// An address of the API.
    #[error("cannot listen for the API and the page on {address}: {source}")]
    Api {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The API would be for everybody.
    #[error(
        "[api] listen: {0} can be reached from other machines, and there is no `token_file`, nor a token in LONGSHORE_API_TOKEN: \
         give one, or listen on 127.0.0.1"
    )]
    OpenApi(SocketAddr),
    /// The API's token is empty.
    #[error("[api] token_file: the file is empty; put a long random word into it")]
    NoToken,
    /// The API's socket.
    #[error("cannot make the API's socket {}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something else of the system.
    #[error("{what} failed: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's words.
        source: io::Error,
    },
}
