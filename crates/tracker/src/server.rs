//! The parts put together: sockets, threads, tasks and the clock.

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, eventfd};
use rustls::ServerConfig;
use socket2::Socket;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracker_client::TrackerClient;

use crate::{
    api::{self, Shared},
    auth::Auth,
    cluster::{Cluster, ClusterKey, Outbox},
    config::{Config, ConfigError},
    desk::Desk,
    directory::{Directory, FLUSH_EVERY},
    endpoint::{Endpoint, Listen},
    error::StartError,
    forward::{Forwarder, Forwarders},
    http::{
        connection::HandedOver,
        exchange::Exchange,
        idle::Idle,
        responder::Responder,
        secure::Secure,
        wanted::Wanted,
        worker::{Patience, Worker},
    },
    listen::{Door, Listeners, SocketFile},
    metrics::Metrics,
    places::Places,
    policy::{self, Policy},
    registered::Registered,
    serve::{self, Api},
    stats,
    status::Rates,
    store::{Limits, PeerStore},
    tally::{Protocol, Tallies},
    udp,
};

/// How long connections have to end when the tracker does.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long one round over all peers takes, to find those that are too old.
const SWEEP: Duration = Duration::from_secs(60);

/// How many connections wait to be served by the API at most.
const HANDED_OVER: usize = 1024;

/// How long a client may take for a head, or to take an answer.
const SLOW: Duration = Duration::from_secs(30);

/// One of how many places may be a connection's of HTTPS that has not been answered anything yet, of all and of those that
/// one host may have: whoever opens them and leaves takes no more, and leaves most of them to others. Over plain HTTP
/// such a connection is given up when another wants its place.
const UNSERVED_SHARE: usize = 4;
const UNSERVED_SHARE_OF_HOST: usize = 16;

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

/// A tracker that runs.
///
/// Dropping it stops it without waiting; [`Tracker::shutdown`] waits.
pub struct Tracker {
    addresses: Vec<SocketAddr>,
    endpoints: Vec<Endpoint>,
    directory: Directory,
    desk: Arc<Desk>,
    forwarding: Forwarding,
    /// By what HTTPS is proven, where there are certificate and key.
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// As it was at the start.
    config: Config,
    stop: Stop,
    tasks: TaskTracker,
    threads: Vec<JoinHandle<()>>,
    /// Unix sockets' files, removed with the tracker.
    _files: Vec<SocketFile>,
}

/// What HTTPS is served with, where the configuration names it.
fn read_certificate(config: &Config) -> Result<Option<Arc<ServerConfig>>, StartError> {
    let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) else { return Ok(None) };
    Ok(Some(tls::server(certificate, key)?))
}

/// What ends the tracker's tasks and threads.
#[derive(Clone)]
struct Stop {
    tasks: CancellationToken,
    threads: Arc<AtomicBool>,
    /// Wakes threads that wait for connections.
    wake: Arc<OwnedFd>,
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
        let listeners = Listeners::bind(&config, Vec::new())?;
        Self::serve(config, listeners).await
    }

    /// Serves on what was bound for this configuration.
    pub async fn serve(config: Config, listeners: Listeners) -> Result<Self, StartError> {
        config.check()?;
        let workers = config.workers();
        let Listeners { http, https, udp, cluster, files, endpoints } = listeners;
        let certificate = read_certificate(&config)?;
        let key = cluster_key(&config)?;
        let cluster = cluster.map(TcpListener::from_std).transpose().map_err(StartError::System)?;
        let stop = Stop::new().map_err(StartError::System)?;
        let (clock, tasks) = (Clock::start(), TaskTracker::new());
        let registered = Arc::new(Registered::new(clock));
        let opened = Directory::open(&config, clock, stop.tasks.clone(), registered.clone()).await;
        let directory = opened.map_err(|error| StartError::Directory {
            home: config.directory.clone(),
            error: Box::new(error),
        })?;
        let mut forwarding = Forwarding::new(clock, tasks.clone(), stop.tasks.clone());
        let policy = Policy::read(&config, forwarding.set(&config)?)?;
        let mut tallies = Vec::new();
        tallies.extend(http.iter().map(|door| Tallies::new(door.at.clone(), Protocol::Http, workers)));
        tallies
            .extend(udp.iter().map(|door| Tallies::new(door.at.clone(), Protocol::Udp, door.socket.len())));
        tallies.extend(https.iter().map(|door| Tallies::new(door.at.clone(), Protocol::Https, 1)));
        let desk = Arc::new(desk(&config, policy, registered.clone(), key.as_ref()));
        registered.attach(Arc::downgrade(&desk));
        registered.want(config.registered_only);
        tasks.spawn(read_registered(directory.clone(), registered, stop.tasks.clone()));
        let cluster = cluster.zip(key).zip(desk.outbox.clone()).map(|((listener, key), outbox)| {
            let life = (&tasks, &stop.tasks);
            Cluster::start(&config.cluster, key, listener, desk.clone(), outbox, clock, life)
        });
        let shared = Arc::new(Shared {
            desk,
            cluster,
            metrics: Metrics::new(directory.etcd().is_some()),
            directory,
            auth: Auth::new(config.directory_token.as_deref()),
            clock,
            connections: Places::new(config.max_connections, config.max_connections_per_host),
            tracker_id: format!("{:016x}", rand::random::<u64>()).into_bytes().into(),
            tallies,
            rates: Rates::default(),
            idle: Idle::default(),
            publications: Arc::new(Semaphore::new(api::PUBLICATIONS)),
            bodies: Places::new(api::BODIES, api::BODIES_OF_A_HOST),
            full_scrapes: Arc::new(Semaphore::new(1)),
            config,
        });
        let (handed, to_serve) = mpsc::channel(HANDED_OVER);
        let mut tracker = Self {
            addresses: http.iter().filter_map(|door| door.at.address()).collect(),
            endpoints,
            directory: shared.directory.clone(),
            desk: Arc::clone(&shared.desk),
            forwarding,
            tls: certificate.map(|certificate| Arc::new(ArcSwap::new(certificate))),
            config: shared.config.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            threads: Vec::new(),
            _files: files,
        };
        let mut tallies = shared.tallies.iter();
        let wanted = Wanted::new().map_err(StartError::System)?;
        tracker.threads = start_http(http, &mut tallies, &shared, &wanted, &handed, &stop)
            .and_then(|mut threads| {
                threads.extend(start_udp(udp, &mut tallies, &shared, &stop)?);
                Ok(threads)
            })
            .map_err(StartError::System)?;
        let api = Api {
            router: api::router(Arc::clone(&shared)),
            idle: shared.idle.clone(),
            clock,
            closing: stop.tasks.clone(),
        };
        let most = (shared.config.max_connections / UNSERVED_SHARE).max(1);
        let of_host = (shared.config.max_connections_per_host / UNSERVED_SHARE_OF_HOST).max(1);
        let unserved = Places::new(most, of_host);
        for (door, tallies) in https.into_iter().zip(tallies) {
            let (Some(tls), Some(tally)) = (&tracker.tls, tallies.workers.first()) else { continue };
            let secure = Arc::new(Secure {
                tls: Arc::clone(tls),
                shared: Arc::clone(&shared),
                tally: Arc::clone(tally),
                api: api.clone(),
                wanted: wanted.clone(),
                unserved: unserved.clone(),
                slow: SLOW,
                idle: Duration::from_secs(shared.config.idle_timeout),
                tasks: tasks.clone(),
            });
            let listener = TcpListener::from_std(door.socket).map_err(StartError::System)?;
            tasks.spawn(secure.run(listener));
        }
        tasks.spawn(take(to_serve, api, tasks.clone()));
        tasks.spawn(sweep(Arc::clone(&shared), stop.tasks.clone()));
        tasks.spawn(count(Arc::clone(&shared), stop.tasks.clone()));
        tasks.spawn(tend(shared.directory.clone(), stop.tasks.clone()));
        let listens: Vec<String> = tracker.endpoints.iter().map(Endpoint::to_string).collect();
        tracing::info!(?listens, "tracker listens");
        Ok(tracker)
    }

    /// The first address that takes HTTP, with the port that was bound where 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// All addresses that take HTTP.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// All that listens.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether all threads run that it was started with: one that has ended leaves requests unanswered.
    pub fn is_well(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Takes over what of a configuration can be changed while the tracker runs, and reads the files anew that it
    /// names: no peer is lost, no announce goes unanswered. Gives the settings that differ and take a restart.
    ///
    /// # Errors
    /// When the configuration or a file is of no use; then all is as it was.
    pub fn reload(&mut self, config: &Config) -> Result<Vec<&'static str>, StartError> {
        config.check()?;
        Config { peer_age: self.config.peer_age, ..config.clone() }.check()?;
        // Files first: forwarders are not stopped for a policy that cannot be had.
        let certificate = read_certificate(config)?;
        if self.tls.is_some() && certificate.is_none() {
            return Err(ConfigError::NoCertificate.into());
        }
        Policy::read(config, None)?;
        let policy = Policy::read(config, self.forwarding.set(config)?)?;
        // Kept as long as the policy asks.
        let (registered, only) = (&self.desk.registered, config.registered_only);
        if only {
            registered.want(true);
        }
        self.desk.policy.store(Arc::new(policy));
        // Connections that there are keep theirs.
        if let Some((tls, certificate)) = self.tls.as_ref().zip(certificate) {
            tls.store(certificate);
        }
        registered.want(only);
        Ok(self.config.fixed_that_differ(config))
    }

    /// Stops: no new connections, claims that wait are answered, others have five seconds, and the directory is
    /// flushed.
    pub async fn shutdown(mut self) {
        self.stop.now();
        self.tasks.close();
        let threads = std::mem::take(&mut self.threads);
        // They look at least every second whether they should end.
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        let threads_end = timeout(GRACE, joined).await;
        if !matches!(threads_end, Ok(Ok(true))) || timeout(2 * GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("tracker stops with work left undone");
        }
        flush(&self.directory).await;
    }
}

impl Stop {
    fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { tasks: CancellationToken::new(), threads: Arc::default(), wake: Arc::new(wake) })
    }

    fn now(&self) {
        self.tasks.cancel();
        self.threads.store(true, Relaxed);
        // Nobody reads it, so that it wakes all.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// The key of the cluster that the tracker is to be of.
fn cluster_key(config: &Config) -> Result<Option<ClusterKey>, StartError> {
    match &config.cluster_key_file {
        _ if config.cluster_listen.is_none() => Ok(None),
        Some(path) => ClusterKey::read(path).map(Some),
        None => Ok(config.cluster_key.clone()),
    }
}

fn desk(config: &Config, policy: Policy, registered: Arc<Registered>, key: Option<&ClusterKey>) -> Desk {
    let limits = Limits {
        torrents: config.max_torrents,
        peers: config.max_peers,
        peer_age: Duration::from_secs(config.peer_age),
        interval: Duration::from_secs(config.interval),
        numwant: config.numwant,
        max_numwant: config.max_numwant,
        ids: config.peer_ids,
    };
    let seed = rand::random();
    Desk {
        store: PeerStore::of_cluster(limits, seed, key.map_or(seed, ClusterKey::names)),
        policy: ArcSwap::from_pointee(policy),
        registered,
        outbox: key.map(|_| Arc::new(Outbox::new(limits.peer_age))),
    }
}

/// The threads that answer HTTP. When one cannot be started, those before it end.
fn start_http<'a>(
    doors: Vec<Door<Socket>>,
    tallies: &mut impl Iterator<Item = &'a Tallies>,
    shared: &Arc<Shared>,
    wanted: &Wanted,
    api: &mpsc::Sender<HandedOver>,
    stop: &Stop,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (config, mut threads) = (&shared.config, Vec::new());
    for (door, tallies) in doors.into_iter().zip(tallies) {
        let unix = matches!(door.at, Listen::Unix(_));
        let listener = Arc::new(door.socket);
        for tally in &tallies.workers {
            let (desk, tracker_id) = (Arc::clone(&shared.desk), Arc::clone(&shared.tracker_id));
            let exchange = Exchange::new(desk, tracker_id, Arc::clone(tally));
            let worker = Worker {
                listener: Arc::clone(&listener),
                unix,
                responder: Responder::new(exchange, config.full_scrape),
                connections: shared.connections.clone(),
                wanted: wanted.clone(),
                idle: shared.idle.clone(),
                api: api.clone(),
                patience: Patience { slow: SLOW.as_secs(), idle: config.idle_timeout },
                clock: shared.clock,
                closing: Arc::clone(&stop.threads),
                stop: Arc::clone(&stop.wake),
            };
            threads.push(spawn("tracker-http", stop, || worker.run())?);
        }
    }
    Ok(threads)
}

/// The threads that answer UDP.
fn start_udp<'a>(
    doors: Vec<Door<Vec<UdpSocket>>>,
    tallies: &mut impl Iterator<Item = &'a Tallies>,
    shared: &Arc<Shared>,
    stop: &Stop,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (key, mut threads) = (rand::random(), Vec::new());
    let id_age = Duration::from_secs(shared.config.connection_id_age);
    for (door, tallies) in doors.into_iter().zip(tallies) {
        for (socket, tally) in door.socket.into_iter().zip(&tallies.workers) {
            let (clock, closing) = (shared.clock, Arc::clone(&stop.threads));
            let exchange = udp::Exchange::new(Arc::clone(&shared.desk), key, id_age, Arc::clone(tally));
            let work = move || udp::worker::run(&socket, exchange, clock, &closing);
            threads.push(spawn("tracker-udp", stop, work)?);
        }
    }
    Ok(threads)
}

fn spawn(name: &str, stop: &Stop, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).inspect_err(|_| stop.now())
}

/// Takes connections from the workers and serves them.
async fn take(mut handed: mpsc::Receiver<HandedOver>, api: Api, tasks: TaskTracker) {
    loop {
        tokio::select! {
            connection = handed.recv() => {
                let Some(connection) = connection else { return };
                tasks.spawn(serve::connection(connection, api.clone()));
            }
            () = api.closing.cancelled() => return,
        }
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.now();
    }
}

/// The forwarders that are asked now.
struct Forwarding {
    clock: Clock,
    tasks: TaskTracker,
    closing: CancellationToken,
    running: Option<Running>,
}

struct Running {
    list: Vec<Forwarder>,
    /// Seconds that each has.
    timeout: u64,
    forwarders: Arc<Forwarders>,
    stop: CancellationToken,
}

impl Forwarding {
    fn new(clock: Clock, tasks: TaskTracker, closing: CancellationToken) -> Self {
        Self { clock, tasks, closing, running: None }
    }

    /// Has the forwarders asked that the configuration lists. Those that are asked already keep what they know.
    fn set(&mut self, config: &Config) -> Result<Option<Arc<Forwarders>>, StartError> {
        let list = config.forwarders.as_deref().map(policy::forwarders).transpose()?.unwrap_or_default();
        if let Some(running) =
            self.running.take_if(|running| running.list != list || running.timeout != config.forward_timeout)
        {
            running.stop.cancel();
        }
        if let Some(running) = &self.running {
            return Ok(Some(running.forwarders.clone()));
        }
        if list.is_empty() {
            return Ok(None);
        }
        let (timeout, keep) =
            (Duration::from_secs(config.forward_timeout), Duration::from_secs(config.peer_age));
        let (client, stop) = (TrackerClient::new(None)?, self.closing.child_token());
        let (forwarders, inbox) = Forwarders::new(list.clone(), timeout, keep, self.clock);
        self.tasks.spawn(forwarders.clone().run(inbox, client, stop.clone()));
        let timeout = config.forward_timeout;
        self.running = Some(Running { list, timeout, forwarders: forwarders.clone(), stop });
        Ok(Some(forwarders))
    }
}

/// Forgets old peers, a share at a time.
async fn sweep(shared: Arc<Shared>, closing: CancellationToken) {
    let steps = shared.desk.store.steps().max(1);
    let pause = SWEEP / u32::try_from(steps).unwrap_or(u32::MAX);
    for step in (0..steps).cycle() {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closing.cancelled() => return,
        }
        let gone = shared.desk.store.expire(shared.clock.elapsed(), step);
        shared.metrics.expired.inc_by(gone as u64);
    }
}

/// Takes note of how much is asked, for the status page.
async fn count(shared: Arc<Shared>, closing: CancellationToken) {
    loop {
        shared.rates.note(shared.clock.elapsed(), stats::announces_and_faults(&shared.tallies));
        tokio::select! {
            () = tokio::time::sleep(Rates::EVERY) => {}
            () = closing.cancelled() => return,
        }
    }
}

/// Reads which torrents the directory knows, when that is asked for, and when it may have changed unheard.
async fn read_registered(directory: Directory, registered: Arc<Registered>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = registered.stale.notified() => {}
            () = closing.cancelled() => return,
        }
        while registered.is_wanted() {
            let read = tokio::select! {
                read = directory.read_registered(&registered) => read,
                () = closing.cancelled() => return,
            };
            let Err(error) = read else { break };
            tracing::debug!(%error, "which torrents are registered cannot be read yet");
            tokio::select! {
                () = tokio::time::sleep(FLUSH_EVERY) => {}
                () = closing.cancelled() => return,
            }
        }
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
    // Of a disk that fails people have been told.
    if let Err(error) = directory.tend().await
        && !error.is_of_the_disk()
    {
        tracing::error!(%error, "the content directory cannot be flushed");
    }
}
