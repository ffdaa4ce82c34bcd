//! The parts put together: sockets, threads, tasks and the clock.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use axum::Router;
use rustix::event::{EventfdFlags, eventfd};
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
    config::Config,
    desk::Desk,
    directory::{Directory, FLUSH_EVERY},
    error::StartError,
    forward::{Forwarder, Forwarders},
    http::{
        self,
        connection::{Connections, HandedOver},
        worker::{Patience, Worker},
    },
    listen::{self, Bound},
    metrics::Metrics,
    policy::{self, Policy},
    registered::Registered,
    serve,
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
    directory: Directory,
    desk: Arc<Desk>,
    forwarding: Forwarding,
    /// As it was at the start.
    config: Config,
    stop: Stop,
    tasks: TaskTracker,
    threads: Vec<JoinHandle<()>>,
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
        config.check()?;
        let workers = config.workers();
        let mut listeners = Vec::new();
        for &address in &config.listen {
            let sockets = if config.udp { workers } else { 0 };
            let bound = listen::bind(address, sockets, config.receive_buffer)
                .map_err(|error| StartError::Listen { address, error })?;
            listeners.push(bound);
        }
        let joins = join(&config)?;
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
        for bound in &listeners {
            // One more for what the API answers.
            tallies.push(Tallies::new(bound.address, Protocol::Http, workers + 1));
            tallies.push(Tallies::new(bound.address, Protocol::Udp, bound.udp.len()));
        }
        let tally = tallies.first().and_then(|tallies| tallies.workers.last()).cloned().unwrap_or_default();
        let key = joins.as_ref().map(|joins| &joins.key);
        let desk = Arc::new(desk(&config, policy, registered.clone(), key));
        registered.attach(Arc::downgrade(&desk));
        registered.want(config.registered_only);
        tasks.spawn(read_registered(directory.clone(), registered, stop.tasks.clone()));
        let cluster = joins.map(|Joins { key, listener }| {
            let outbox = desk.outbox.clone().unwrap_or_else(|| Arc::new(Outbox::new()));
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
            connections: Connections::new(config.max_connections, config.max_connections_per_host),
            tracker_id: format!("{:016x}", rand::random::<u64>()).into_bytes().into(),
            tally,
            tallies,
            full_scrapes: Arc::new(Semaphore::new(1)),
            config,
        });
        let addresses: Vec<SocketAddr> = listeners.iter().map(|bound| bound.address).collect();
        let (handed, to_serve) = mpsc::channel(HANDED_OVER);
        let mut tracker = Self {
            addresses,
            directory: shared.directory.clone(),
            desk: Arc::clone(&shared.desk),
            forwarding,
            config: shared.config.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            threads: Vec::new(),
        };
        tracker.threads =
            start_workers(listeners, workers, &shared, &handed, &stop).map_err(StartError::System)?;
        tasks.spawn(take(to_serve, api::router(Arc::clone(&shared)), tasks.clone(), stop.tasks.clone()));
        tasks.spawn(sweep(Arc::clone(&shared), stop.tasks.clone()));
        tasks.spawn(tend(shared.directory.clone(), stop.tasks.clone()));
        tracing::info!(addresses = ?tracker.addresses, "tracker listens");
        Ok(tracker)
    }

    /// The first address, with the port that was bound where 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// All addresses.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
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
        Policy::read(config, None)?;
        let policy = Policy::read(config, self.forwarding.set(config)?)?;
        // Kept as long as the policy asks.
        let (registered, only) = (&self.desk.registered, config.registered_only);
        if only {
            registered.want(true);
        }
        self.desk.policy.store(Arc::new(policy));
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

/// What a tracker needs to be of a cluster.
struct Joins {
    key: ClusterKey,
    listener: TcpListener,
}

fn join(config: &Config) -> Result<Option<Joins>, StartError> {
    let Some(address) = config.cluster_listen else { return Ok(None) };
    let key = match (&config.cluster_key_file, &config.cluster_key) {
        (Some(path), _) => ClusterKey::read(path)?,
        (None, Some(key)) => key.clone(),
        // The configuration was checked.
        (None, None) => return Ok(None),
    };
    let bound = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).and(TcpListener::from_std(listener)));
    let listener = bound.map_err(|error| StartError::Listen { address, error })?;
    Ok(Some(Joins { key, listener }))
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
        outbox: key.map(|_| Arc::new(Outbox::new())),
    }
}

/// The threads that answer announces. When one cannot be started, those before it end.
fn start_workers(
    listeners: Vec<Bound>,
    workers: usize,
    shared: &Arc<Shared>,
    api: &mpsc::Sender<HandedOver>,
    stop: &Stop,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (key, mut threads) = (rand::random(), Vec::new());
    let id_age = Duration::from_secs(shared.config.connection_id_age);
    for (bound, tallies) in listeners.into_iter().zip(shared.tallies.chunks(2)) {
        let [http_tallies, udp_tallies] = tallies else { continue };
        let listener = Arc::new(bound.tcp);
        for tally in http_tallies.workers.iter().take(workers) {
            let worker = Worker {
                listener: Arc::clone(&listener),
                exchange: http::exchange::Exchange::new(
                    Arc::clone(&shared.desk),
                    Arc::clone(&shared.tracker_id),
                    Arc::clone(tally),
                ),
                connections: shared.connections.clone(),
                api: api.clone(),
                patience: Patience { slow: SLOW.as_secs(), idle: shared.config.idle_timeout },
                full_scrape: shared.config.full_scrape,
                clock: shared.clock,
                closing: Arc::clone(&stop.threads),
                stop: Arc::clone(&stop.wake),
            };
            threads.push(spawn("tracker-http", stop, || worker.run())?);
        }
        for (socket, tally) in bound.udp.into_iter().zip(&udp_tallies.workers) {
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
async fn take(
    mut handed: mpsc::Receiver<HandedOver>,
    router: Router,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    loop {
        tokio::select! {
            connection = handed.recv() => {
                let Some(connection) = connection else { return };
                tasks.spawn(serve::connection(connection, router.clone(), closing.clone()));
            }
            () = closing.cancelled() => return,
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
    if let Err(error) = directory.tend().await {
        tracing::error!(%error, "the content directory cannot be flushed");
    }
}
