//! The engine: one listening port, all torrents, and what lies at rest on the shelf.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metainfo::InfoHash;
use swarm::{PeerKey, PieceSet, Swarm};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracker_client::{TrackerClient, shown};
use wire::PeerId;

use crate::{
    announcer::{self, Announcer},
    buffers::Buffers,
    checker::Checker,
    clock::Clock,
    config::Config,
    handshake,
    layout::Layout,
    link, local,
    metadata::{self, MetadataError},
    places::{Places, canonical},
    rate::Rates,
    torrent::{Failure, NoLog, ProofLog, Torrent},
};

/// A torrent from the shelf goes back to it when nobody has been connected for this long.
const REST: Duration = Duration::from_secs(30);
/// How long a stop may take, the trackers' last announces included.
const STOP: Duration = Duration::from_secs(5);
/// At least this often a torrent with connections is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After how long a torrent that is not whole, and of which peers give nothing, looks for others.
const STARVED: Duration = Duration::from_secs(5);

/// How long the shelf may take to find a torrent.
const SHELF: Duration = Duration::from_secs(10);

/// Complete torrents that need not be added to be served.
pub trait Shelf: Send + Sync + 'static {
    /// The torrent of this name, if it is held whole. May block.
    fn find(&self, info_hash: &InfoHash) -> Option<ShelfItem>;
}

/// A complete torrent whose bytes are one file.
pub struct ShelfItem {
    /// The torrent.
    pub torrent: metainfo::Torrent,
    /// Its bytes.
    pub file: File,
    /// Whether the local network may know that it is here.
    pub open: bool,
}

/// A torrent to run.
pub struct TorrentSpec {
    /// The torrent, with its trackers.
    pub torrent: metainfo::Torrent,
    /// Where its bytes lie.
    pub layout: Layout,
    /// Which pieces are there and proven.
    pub have: PieceSet,
    /// Where to note further ones.
    pub log: Box<dyn ProofLog>,
    /// Once it is complete the shelf has it: the engine lets go of it when nobody has been connected for a while.
    pub rests: bool,
    /// Whether the local network may know that it is here, where [`Config::local_discovery`] is on. Of a torrent that is
    /// marked private it never does.
    pub open: bool,
}

impl TorrentSpec {
    /// A torrent that is complete in `layout`.
    pub fn seed(torrent: metainfo::Torrent, layout: Layout) -> Self {
        let have = PieceSet::full(torrent.info.geometry.piece_count());
        Self { torrent, layout, have, log: Box::new(NoLog), rests: false, open: true }
    }
}

/// How the engine gets on with a tracker.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrackerState {
    /// The announce URL.
    pub url: String,
    /// When it last answered, counted from the engine's start.
    pub last_answer: Option<Duration>,
    /// What went wrong last, if it has not answered since.
    pub error: Option<String>,
    /// Since when it does not answer, counted from the engine's start.
    pub failing_since: Option<Duration>,
}

/// Runs torrents. Cheap to share.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) peer_id: PeerId,
    /// Where we listen; the port is the real one.
    pub(crate) listen: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) buffers: Buffers,
    checker: Arc<Checker>,
    torrents: Mutex<HashMap<InfoHash, Arc<Torrent>>>,
    pub(crate) shelf: Option<Arc<dyn Shelf>>,
    announcer: Announcer,
    /// Told when there is a new torrent.
    pub(crate) local: Notify,
    /// For trackers.
    pub(crate) tracker_client: TrackerClient,
    places: Arc<Places>,
    /// Limits of all torrents together.
    pub(crate) rates: Rates,
    keys: AtomicU64,
    /// Torrents whose proven bytes were found gone; the shelf is not asked for them again.
    lost: Mutex<BTreeMap<InfoHash, Failure>>,
    /// By URL, as far as there is room.
    trackers: Mutex<BTreeMap<String, TrackerState>>,
    /// Of torrents that move no more.
    uploads: Sum,
    waste: Sum,
    gains: Sum,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
}

impl Engine {
    /// Listens for peers and starts the engine's tasks and threads.
    ///
    /// # Errors
    /// When the port cannot be had or a thread cannot be started.
    pub async fn start(config: Config, shelf: Option<Arc<dyn Shelf>>) -> Result<Self, StartError> {
        let wanted = config.listen;
        let listener = TcpListener::bind(wanted)
            .await
            .map_err(|source| StartError::Listen { address: wanted, source })?;
        let listen =
            listener.local_addr().map_err(|source| StartError::Listen { address: wanted, source })?;
        let peer_id = PeerId::ours(rand::random());
        let tracker_client = TrackerClient::new(Some(listen.ip()))?;
        let (announcer, announces) = announcer::new();
        let shared = Arc::new(Shared {
            checker: Checker::start(config.check_threads).map_err(StartError::Threads)?,
            places: Places::new(config.max_connections, config.max_per_host),
            rates: Rates::default(),
            config,
            peer_id,
            listen,
            clock: Clock::start(),
            buffers: Buffers::default(),
            torrents: Mutex::default(),
            shelf,
            announcer,
            local: Notify::new(),
            tracker_client,
            keys: AtomicU64::new(1),
            lost: Mutex::default(),
            trackers: Mutex::default(),
            uploads: Sum::default(),
            waste: Sum::default(),
            gains: Sum::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let engine = Self(shared.clone());
        engine.set_limits(shared.config.down_limit, shared.config.up_limit);
        shared.tasks.spawn(announcer::run(announces, shared.clone()));
        shared.tasks.spawn(accept(listener, shared.clone()));
        if shared.config.local_discovery {
            shared.tasks.spawn(local::run(shared.clone()));
        }
        Ok(engine)
    }

    /// Where the engine listens for peers.
    pub fn listen(&self) -> SocketAddr {
        self.0.listen
    }

    /// The engine's name for itself.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// Starts a torrent: it is announced, looks for peers and serves.
    ///
    /// # Errors
    /// When it runs already or the engine is stopping.
    pub async fn add(&self, spec: TorrentSpec) -> Result<Arc<Torrent>, AddError> {
        let shared = &self.0;
        if shared.stop.is_cancelled() {
            return Err(AddError::Stopping);
        }
        let info_hash = spec.torrent.info_hash;
        let trackers = spec.torrent.trackers.clone();
        let rests = spec.rests;
        let torrent = shared.build(spec);
        {
            let mut torrents = shared.torrents();
            if torrents.contains_key(&info_hash) {
                return Err(AddError::Running(info_hash));
            }
            torrents.insert(info_hash, torrent.clone());
        }
        shared.lost().remove(&info_hash);
        shared.local.notify_one();
        shared.announcer.add(info_hash, trackers).await;
        shared.tasks.spawn(drive(shared.clone(), torrent.clone(), rests));
        Ok(torrent)
    }

    /// Announces a torrent that lies on the shelf, so that peers find us; it starts when somebody connects. Returns
    /// when the first tracker knows or could not be told, within some seconds, and says whether it knows.
    pub async fn announce(&self, info_hash: InfoHash, trackers: Vec<Vec<String>>) -> bool {
        self.0.lost().remove(&info_hash);
        self.0.announcer.add_and_tell(info_hash, trackers).await
    }

    /// The same for one of many, without waiting.
    pub async fn announce_soon(&self, info_hash: InfoHash, trackers: Vec<Vec<String>>) {
        self.0.lost().remove(&info_hash);
        self.0.announcer.add(info_hash, trackers).await;
    }

    /// Announces every torrent again, one after the other over some seconds: a tracker has lost what it knew.
    pub async fn announce_again(&self) {
        self.0.announcer.again().await;
    }

    /// Most content bytes per second, received and sent, for all torrents together; 0 for no limit.
    pub fn limits(&self) -> (u64, u64) {
        (self.0.rates.down.get(), self.0.rates.up.get())
    }

    /// Sets other limits, from now on.
    pub fn set_limits(&self, down: u64, up: u64) {
        let now = self.0.clock.now();
        self.0.rates.down.set(down, now);
        self.0.rates.up.set(up, now);
    }

    /// How long the engine has been running; the times of a torrent's provenance are counted from its start.
    pub fn age(&self) -> Duration {
        self.0.clock.now().since(swarm::Time(0))
    }

    /// Torrents that are served no more because bytes that had been proven are gone, until they are added or announced
    /// again.
    pub fn lost(&self) -> Vec<(InfoHash, Failure)> {
        self.0.lost().iter().map(|(info_hash, failure)| (*info_hash, failure.clone())).collect()
    }

    /// Notes of a tracker that nothing was announced to yet whether it can be reached.
    pub fn tried_tracker(&self, url: String, error: Option<String>) {
        self.0.note_tracker(url, error, false);
    }

    /// Every tracker that was announced to or tried, and how that goes.
    pub fn trackers(&self) -> Vec<TrackerState> {
        self.0.trackers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Block bytes sent to peers since the start.
    pub fn uploaded(&self) -> u64 {
        self.0.uploads.with(|| self.torrents().iter().map(|torrent| torrent.moved().0).sum())
    }

    /// Bytes of proven pieces that peers gave since the start.
    pub fn from_peers(&self) -> u64 {
        self.0.gains.with(|| self.torrents().iter().map(|torrent| torrent.from_peers()).sum())
    }

    /// Bytes received in vain since the start: doubles, and blocks of pieces that failed.
    pub fn wasted(&self) -> u64 {
        self.0.waste.with(|| self.torrents().iter().map(|torrent| torrent.wasted()).sum())
    }

    /// The torrent of this name, if it is moving.
    pub fn get(&self, info_hash: &InfoHash) -> Option<Arc<Torrent>> {
        self.0.torrents().get(info_hash).cloned()
    }

    /// All torrents that are moving.
    pub fn torrents(&self) -> Vec<Arc<Torrent>> {
        self.0.torrents().values().cloned().collect()
    }

    /// Stops a torrent and tells its trackers.
    pub async fn remove(&self, info_hash: &InfoHash) {
        let torrent = self.0.torrents().remove(info_hash);
        if let Some(torrent) = &torrent {
            say_complete(&self.0, torrent).await;
            torrent.stop.cancel();
        }
        self.0.announcer.remove(*info_hash).await;
    }

    /// Fetches the info dictionary of a magnet link from its peers.
    ///
    /// # Errors
    /// When no peer gives it in time.
    pub async fn metadata(
        &self,
        magnet: &metainfo::Magnet,
        deadline: Duration,
    ) -> Result<metainfo::Torrent, MetadataError> {
        metadata::fetch(&self.0, magnet, deadline).await
    }

    #[cfg(test)]
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Ends all connections, tells the trackers and waits, not for long.
    pub async fn stop(&self) {
        let shared = &self.0;
        for torrent in self.torrents() {
            say_complete(shared, &torrent).await;
        }
        shared.stop.cancel();
        for torrent in self.torrents() {
            torrent.stop.cancel();
        }
        shared.tasks.close();
        if timeout(STOP, shared.tasks.wait()).await.is_err() {
            tracing::warn!("some connections or trackers did not end in time");
        }
        shared.checker.close();
    }
}

impl Shared {
    /// A tracker has answered an announce, or a mere try, or not, for `error`.
    pub(crate) fn note_tracker(&self, url: String, error: Option<String>, announced: bool) {
        const MOST: usize = 100;
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        if trackers.len() >= MOST && !trackers.contains_key(&url) {
            return;
        }
        let known = trackers.entry(url.clone()).or_insert(TrackerState { url, ..TrackerState::default() });
        let now = self.clock.now().since(swarm::Time(0));
        // Told once, however many torrents are announced there; the end too, as whoever has read of the beginning
        // must read of it.
        match (&error, known.failing_since) {
            (Some(why), None) => {
                tracing::warn!(tracker = shown(&known.url), "the tracker does not answer: {why}");
                known.failing_since = Some(now);
            }
            (None, Some(since)) => {
                let after = now.saturating_sub(since).as_secs();
                tracing::warn!(tracker = shown(&known.url), "the tracker answers again after {after} s");
                known.failing_since = None;
            }
            _ => {}
        }
        if announced && error.is_none() {
            known.last_answer = Some(now);
        }
        known.error = error;
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, BTreeMap<InfoHash, Failure>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the torrent's proven bytes are gone, and says so.
    fn note_lost(&self, torrent: &Torrent) -> bool {
        const MOST: usize = 10_000;
        let Some(failure @ Failure::Lost { .. }) = torrent.failure() else { return false };
        let mut lost = self.lost();
        if lost.len() < MOST {
            lost.insert(torrent.info_hash(), failure);
        }
        true
    }

    pub(crate) fn next_key(&self) -> PeerKey {
        PeerKey(self.keys.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn torrents(&self) -> std::sync::MutexGuard<'_, HashMap<InfoHash, Arc<Torrent>>> {
        self.torrents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The torrent that a peer asks for: one that is moving, or one from the shelf, which is moving from now on.
    pub(crate) async fn find(self: &Arc<Self>, info_hash: InfoHash) -> Option<Arc<Torrent>> {
        if let Some(torrent) = self.torrents().get(&info_hash) {
            return Some(torrent.clone());
        }
        if self.lost().contains_key(&info_hash) {
            return None;
        }
        let shelf = self.shelf.clone()?;
        let found = tokio::task::spawn_blocking(move || shelf.find(&info_hash));
        let item = timeout(SHELF, found).await.ok()?.ok()??;
        let layout = Layout::single(Arc::new(item.file));
        let spec = TorrentSpec { open: item.open, ..TorrentSpec::seed(item.torrent, layout) };
        let torrent = self.build(spec);
        {
            let mut torrents = self.torrents();
            if let Some(running) = torrents.get(&info_hash) {
                return Some(running.clone());
            }
            torrents.insert(info_hash, torrent.clone());
        }
        self.tasks.spawn(drive(self.clone(), torrent.clone(), true));
        Some(torrent)
    }

    fn build(&self, spec: TorrentSpec) -> Arc<Torrent> {
        let config = swarm::Config {
            max_request: self.config.max_request,
            upload_slots: self.config.upload_slots,
            window: self.config.window,
            max_active: self.config.max_active,
            suggest: true,
            random_seed: swarm::peer_tag(&self.peer_id),
        };
        let swarm = Swarm::new(spec.torrent.info.geometry, spec.have, config);
        let (checker, stop) = (self.checker.clone(), self.stop.child_token());
        let mut torrent = Torrent::new(spec.torrent, spec.layout, spec.log, swarm, checker, self.clock, stop);
        torrent.open = spec.open;
        Arc::new(torrent)
    }
}

/// Takes connections until the engine stops.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let place = tokio::select! {
            place = shared.places.incoming() => place,
            () = shared.stop.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let address = canonical(address);
                let Some(of_host) = shared.places.of_host(address.ip()) else {
                    tracing::debug!(peer = %address, "connection refused: its host has as many as one may have");
                    continue;
                };
                let shared = shared.clone();
                shared.tasks.clone().spawn(async move {
                    answer(&shared, stream, address).await;
                    drop((place, of_host));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection; trying again in a moment");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn answer(shared: &Arc<Shared>, mut stream: TcpStream, address: SocketAddr) {
    let shaken = tokio::select! {
        shaken = handshake::incoming(shared, &mut stream) => shaken,
        () = shared.stop.cancelled() => return,
    };
    match shaken {
        Ok((torrent, theirs)) => {
            if !link::run(shared, &torrent, stream, address, theirs, false).await {
                tracing::debug!(peer = %address, "incoming connection refused: no place, or banned");
            }
        }
        Err(error) => tracing::debug!(peer = %address, %error, "incoming connection refused"),
    }
}

/// A torrent's own task: its timers, its dials, its end.
async fn drive(shared: Arc<Shared>, torrent: Arc<Torrent>, rests: bool) {
    let mut idle_since = None;
    // What peers had given when that was last looked at and had changed, and whether others were asked for since.
    let (mut came, mut came_at, mut sought) = (0, shared.clock.now(), false);
    loop {
        let now = shared.clock.now();
        let (connected, next) = torrent.act(|inner, now| {
            if inner.swarm.next_tick().is_some_and(|at| at <= now) {
                inner.swarm.on_tick(now);
            }
            let next = [inner.swarm.next_tick(), inner.candidates.next_try()].into_iter().flatten().min();
            (inner.links.len(), next)
        });
        let (complete, starves) = {
            let mut inner = torrent.lock();
            let (complete, down) = (inner.swarm.is_complete(), inner.swarm.totals().0);
            if complete || down != came {
                (came, came_at, sought) = (down, now, false);
            }
            // Judged by what came: anybody can say that he has everything.
            inner.starves = !complete && now.since(came_at) >= STARVED;
            (complete, inner.starves)
        };
        say_complete(&shared, &torrent).await;
        if !complete {
            dial(&shared, &torrent);
        }
        if starves && !sought {
            // Again only after it has gone on.
            sought = true;
            shared.announcer.seek(torrent.info_hash()).await;
        }
        let since = if connected > 0 { None } else { Some(*idle_since.get_or_insert(now)) };
        idle_since = since;
        let may_rest = rests && complete;
        if may_rest && since.is_some_and(|since| now.since(since) >= REST) {
            break;
        }
        let look = now + if may_rest && connected == 0 { REST } else { LOOK };
        let next = next
            .filter(|_| !complete || connected > 0)
            .unwrap_or(look)
            .clamp(now + Duration::from_millis(1), look);
        tokio::select! {
            () = torrent.stop.cancelled() => break,
            () = torrent.wake.notified() => {}
            () = sleep_until(shared.clock.instant(next)), if connected > 0 || may_rest || !complete => {}
        }
    }
    // Before it is gone, so that the shelf does not bring it back at once.
    let lost = shared.note_lost(&torrent);
    {
        let mut torrents = shared.torrents();
        if torrents.get(&torrent.info_hash()).is_some_and(|current| Arc::ptr_eq(current, &torrent)) {
            torrents.remove(&torrent.info_hash());
        }
    }
    shared.uploads.end(torrent.moved().0);
    shared.waste.end(torrent.wasted());
    shared.gains.end(torrent.from_peers());
    torrent.stop.cancel();
    torrent.set_stopped();
    if lost {
        shared.announcer.remove(torrent.info_hash()).await;
    }
}

/// Has the trackers of a torrent that is complete told so, once.
async fn say_complete(shared: &Shared, torrent: &Torrent) {
    let complete = torrent.lock().swarm.is_complete();
    if complete && !torrent.said_complete.swap(true, Ordering::AcqRel) {
        shared.announcer.completed(torrent.info_hash()).await;
    }
}

/// A sum over all torrents since the start, which never falls: not in the moment either in which a torrent no longer
/// moves and is not yet counted among those that have ended.
#[derive(Default)]
struct Sum {
    ended: AtomicU64,
    told: AtomicU64,
}

impl Sum {
    fn end(&self, of_one: u64) {
        self.ended.fetch_add(of_one, Ordering::AcqRel);
    }

    /// The sum, with what those have that still move. Those that have ended come first: one that ends meanwhile must not
    /// be counted twice.
    fn with(&self, moving: impl FnOnce() -> u64) -> u64 {
        let now = self.ended.load(Ordering::Acquire) + moving();
        self.told.fetch_max(now, Ordering::AcqRel).max(now)
    }
}

/// Connects to as many known addresses as there are places for.
fn dial(shared: &Arc<Shared>, torrent: &Arc<Torrent>) {
    loop {
        let Some(place) = shared.places.outgoing() else { return };
        let now = shared.clock.now();
        let address = {
            let mut inner = torrent.lock();
            if inner.links.len() + inner.candidates.busy() >= shared.config.max_peers {
                return;
            }
            let links = inner.links.values();
            let connected: BTreeSet<SocketAddr> = links
                .flat_map(|link| [Some(link.address), link.listens])
                .flatten()
                .chain([shared.listen])
                .collect();
            inner.candidates.take(now, &connected)
        };
        let Some(address) = address else { return };
        let (shared, torrent) = (shared.clone(), torrent.clone());
        shared.tasks.clone().spawn(async move {
            let shaken = tokio::select! {
                shaken = handshake::outgoing(&shared, address, torrent.info_hash()) => shaken,
                () = torrent.stop.cancelled() => return,
            };
            match shaken {
                Ok((stream, theirs)) => {
                    let taken = link::run(&shared, &torrent, stream, address, theirs, true).await;
                    let (candidates, now) = (&mut torrent.lock().candidates, shared.clock.now());
                    if taken { candidates.ended(address, now) } else { candidates.failed(address, now) }
                }
                Err(handshake::HandshakeError::Ourselves) => torrent.lock().candidates.forget(address),
                Err(error) => {
                    tracing::debug!(torrent = %torrent.info_hash(), peer = %address, %error, "cannot connect");
                    torrent.lock().candidates.failed(address, shared.clock.now());
                }
            }
            drop(place);
            torrent.wake.notify_one();
        });
    }
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port cannot be had.
    #[error("cannot listen for peers on {address}: {source}; is another node running, or the port taken?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The checker's threads.
    #[error("cannot start a thread to check pieces: {0}")]
    Threads(#[source] io::Error),
    /// The client for trackers.
    #[error(transparent)]
    Client(#[from] tracker_client::SetupError),
}

/// Why a torrent cannot be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It runs already.
    #[error("torrent {0} is running already")]
    Running(InfoHash),
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_fall_while_a_torrent_leaves_nor_count_it_twice() {
        let sum = Sum::default();
        assert_eq!(sum.with(|| 7), 7);
        assert_eq!(sum.with(|| 0), 7, "it has left, and has not ended yet");
        sum.end(8);
        assert_eq!(sum.with(|| 0), 8);
        let ending = sum.with(|| {
            sum.end(5);
            5
        });
        assert_eq!((ending, sum.with(|| 0)), (13, 13));
    }
}
