//! One torrent that is moving: the brain behind its lock, and what the driver keeps beside it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use metainfo::{InfoHash, PieceIndex};
use store::Evidence;
use swarm::{
    BlockVerdict, Event, PeerGone, PeerKey, PeerStats, Provenance, SourceKind, Swarm, Time, Verified,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::{BlockRange, Message, PeerId};

use crate::{
    buffers::Buffer,
    checker::{Checker, Job},
    clock::Clock,
    dial::Candidates,
    layout::Layout,
    rate::Rates,
};

/// Where the engine notes which pieces are proven, so that a restart goes on from them.
pub trait ProofLog: Send + Sync + 'static {
    /// The piece's bytes are in the file and proven. Called from the checker's threads, one piece at a time.
    ///
    /// # Errors
    /// When it cannot be noted; the piece then counts as not written.
    fn proven(&self, piece: PieceIndex, evidence: Evidence) -> std::io::Result<()>;
}

/// Notes nothing.
#[derive(Debug)]
pub struct NoLog;

impl ProofLog for NoLog {
    fn proven(&self, _: PieceIndex, _: Evidence) -> std::io::Result<()> {
        Ok(())
    }
}

/// A torrent that the engine runs. Cheap to share; dropping it does not stop anything.
pub struct Torrent {
    pub(crate) meta: metainfo::Torrent,
    pub(crate) layout: Layout,
    pub(crate) log: Box<dyn ProofLog>,
    pub(crate) clock: Clock,
    pub(crate) checker: Arc<Checker>,
    pub(crate) inner: Mutex<Inner>,
    status: watch::Sender<Status>,
    /// Wakes the torrent's own task: new peers to dial, something to time.
    pub(crate) wake: Notify,
    pub(crate) stop: CancellationToken,
    /// Limits of its own.
    pub(crate) rates: Rates,
    /// Whether the local network may know of it, unless it is private.
    pub(crate) open: bool,
    /// Whether it was complete from the beginning, or its trackers have been told since.
    pub(crate) said_complete: AtomicBool,
}

/// How far a torrent is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Proven bytes.
    pub bytes: u64,
    /// Proven pieces.
    pub pieces: u32,
}

/// What a torrent is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Fetching what is missing, and serving what is there.
    Downloading,
    /// Complete, and serving.
    Complete,
    /// It cannot go on.
    Failed(Failure),
    /// Stopped.
    Stopped,
}

/// Why a torrent cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Bytes could not be written or noted.
    #[error("cannot write piece {piece}: {why}")]
    Disk {
        /// The piece.
        piece: PieceIndex,
        /// The system's words.
        why: String,
        /// The disk is full.
        full: bool,
    },
    /// Bytes that had been proven are gone: somebody has changed or removed the file.
    #[error(
        "cannot read piece {piece} to serve it: {why}; was the file changed or removed? Verify it and start anew"
    )]
    Lost {
        /// The piece.
        piece: PieceIndex,
        /// The system's words.
        why: String,
    },
    /// Three peers, each alone, sent a piece and none was right: the torrent must be wrong.
    #[error("piece {0} was wrong from every peer that sent it: the torrent is not to be believed")]
    Unprovable(PieceIndex),
}

pub(crate) struct Inner {
    pub(crate) swarm: Swarm,
    /// Blocks of pieces on their way, by where they begin.
    held: HashMap<PieceIndex, BTreeMap<u32, Part>>,
    pub(crate) links: HashMap<PeerKey, Handle>,
    pub(crate) candidates: Candidates,
    pub(crate) bans: Bans,
    /// Something is missing, and nothing has come from peers for a while, whatever they say that they have.
    pub(crate) starves: bool,
    next_reader: u64,
}

/// Peers that were proven wrong or flooded us. A host, whatever port or name it comes back with; on loopback, where
/// one address is many peers, the name and the port. An IPv6 host by its address, not by its network (/64): a rack is
/// often one such network, and one liar in it would cut off all its honest neighbours.
#[derive(Default)]
pub(crate) struct Bans {
    hosts: BTreeSet<IpAddr>,
    local: BTreeSet<SocketAddr>,
    names: BTreeSet<PeerId>,
}

impl Bans {
    /// Most entries of each kind.
    const MOST: usize = 10_000;

    pub(crate) fn add(&mut self, link: &Handle) {
        if link.address.ip().is_loopback() && self.names.len() < Self::MOST {
            self.names.insert(link.peer_id);
            self.local.extend([Some(link.address), link.listens].into_iter().flatten());
        } else if !link.address.ip().is_loopback() && self.hosts.len() < Self::MOST {
            self.hosts.insert(link.address.ip());
        }
    }

    /// Whether a peer stays out.
    pub(crate) fn has(&self, address: SocketAddr, name: PeerId) -> bool {
        self.hosts.contains(&address.ip()) || self.local.contains(&address) || self.names.contains(&name)
    }
}

/// Bytes of a piece: a stretch of a buffer.
struct Part {
    buffer: Buffer,
    skip: usize,
    length: usize,
}

/// What the torrent holds of a connection.
pub(crate) struct Handle {
    pub(crate) peer_id: PeerId,
    pub(crate) address: SocketAddr,
    /// We made it.
    pub(crate) outgoing: bool,
    pub(crate) wake: Arc<Notify>,
    pub(crate) stop: CancellationToken,
    /// Messages of extensions, which the brain does not know.
    pub(crate) extra: Vec<Message>,
    /// Where it listens, if it said.
    pub(crate) listens: Option<SocketAddr>,
    pub(crate) client: Option<String>,
}

impl Torrent {
    pub(crate) fn new(
        meta: metainfo::Torrent,
        layout: Layout,
        log: Box<dyn ProofLog>,
        swarm: Swarm,
        checker: Arc<Checker>,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        let complete = swarm.is_complete();
        let status = watch::Sender::new(Status {
            state: if complete { State::Complete } else { State::Downloading },
            bytes: swarm.bytes_done(),
            pieces: swarm.have().count(),
        });
        let inner = Inner {
            swarm,
            held: HashMap::new(),
            links: HashMap::new(),
            candidates: Candidates::default(),
            bans: Bans::default(),
            starves: false,
            next_reader: 0,
        };
        let (inner, wake) = (Mutex::new(inner), Notify::new());
        let (rates, said_complete) = (Rates::default(), AtomicBool::new(complete));
        Self {
            meta,
            layout,
            log,
            clock,
            checker,
            inner,
            status,
            wake,
            stop,
            rates,
            open: false,
            said_complete,
        }
    }

    /// Whether the local network may know of it.
    pub(crate) const fn is_open(&self) -> bool {
        self.open && !self.meta.info.private
    }

    /// The torrent's name.
    pub const fn info_hash(&self) -> InfoHash {
        self.meta.info_hash
    }

    /// What the torrent is.
    pub const fn meta(&self) -> &metainfo::Torrent {
        &self.meta
    }

    /// How far it is, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Whether a piece is proven and written.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.lock().swarm.have().contains(piece)
    }

    /// Connected peers: figures, and the client's name for itself where it gave one.
    pub fn peers(&self) -> Vec<(PeerStats, Option<String>)> {
        let now = self.clock.now();
        let inner = self.lock();
        let client = |key: PeerKey| inner.links.get(&key).and_then(|link| link.client.clone());
        inner.swarm.peers(now).map(|(key, stats)| (stats, client(key))).collect()
    }

    /// Who gave what so far.
    pub fn provenance(&self) -> Provenance {
        self.lock().swarm.provenance().clone()
    }

    /// Of [`Torrent::provenance`] the sources from one place on, and the runs from another. Of those before, only the
    /// last run may have changed since it was last in such an answer.
    pub fn provenance_from(&self, source: usize, run: usize) -> (Vec<swarm::Source>, Vec<swarm::Run>) {
        let inner = self.lock();
        let provenance = inner.swarm.provenance();
        let sources = provenance.sources().get(source..).unwrap_or_default().to_vec();
        (sources, provenance.runs().get(run..).unwrap_or_default().to_vec())
    }

    /// Bytes of proven pieces that peers gave so far; what was asked for in vain or not at all does not count.
    pub fn from_peers(&self) -> u64 {
        self.lock().swarm.provenance().from_peers()
    }

    /// Tells that somebody reads from `piece` on; pieces from there come first until the reader is dropped.
    pub fn reader(self: &Arc<Self>, piece: PieceIndex) -> Reader {
        let id = self.act(|inner, now| {
            let id = inner.next_reader;
            inner.next_reader += 1;
            inner.swarm.set_reader(id, piece, now);
            id
        });
        Reader { torrent: self.clone(), id, status: self.status() }
    }

    /// A piece has come from elsewhere and is in the file, proven.
    pub fn supplied(self: &Arc<Self>, piece: PieceIndex, kind: SourceKind) {
        self.act(|inner, now| {
            inner.held.remove(&piece);
            inner.swarm.on_supplied(piece, kind, now);
        });
    }

    /// Most content bytes per second, received and sent; 0 for no limit of its own.
    pub fn limits(&self) -> (u64, u64) {
        (self.rates.down.get(), self.rates.up.get())
    }

    /// Sets other limits, from now on.
    pub fn set_limits(&self, down: u64, up: u64) {
        let now = self.clock.now();
        self.rates.down.set(down, now);
        self.rates.up.set(up, now);
    }

    /// Adds addresses at which peers of this torrent may be found.
    pub fn add_peers(&self, peers: impl IntoIterator<Item = SocketAddr>) {
        self.lock().candidates.add(peers);
        self.wake.notify_one();
    }

    /// Bytes received in vain since the torrent began to move.
    pub fn wasted(&self) -> u64 {
        self.lock().swarm.provenance().sources().iter().map(|source| source.wasted).sum()
    }

    /// Block bytes sent and received since the torrent began to move.
    pub fn moved(&self) -> (u64, u64) {
        let (up, down, _) = self.totals();
        (up, down)
    }

    /// Block bytes sent and received, and bytes missing.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        let inner = self.lock();
        let (down, up) = inner.swarm.totals();
        let left = self.meta.info.geometry.total() - inner.swarm.bytes_done();
        (up, down, left)
    }

    /// Runs `change` on the torrent's state and carries out what follows from it.
    pub(crate) fn act<R>(self: &Arc<Self>, change: impl FnOnce(&mut Inner, Time) -> R) -> R {
        let mut jobs = Vec::new();
        let mut inner = self.lock();
        let result = change(&mut inner, self.clock.now());
        self.settle(&mut inner, &mut jobs);
        drop(inner);
        for job in jobs {
            self.checker.submit(job);
        }
        result
    }

    /// A block's payload has come.
    pub(crate) fn received(self: &Arc<Self>, key: PeerKey, range: BlockRange, buffer: Buffer) {
        self.act(|inner, now| {
            if let BlockVerdict::Keep { begin, length } = inner.swarm.on_block(key, range, now) {
                let part = Part { buffer, skip: (begin - range.begin) as usize, length: length as usize };
                inner.held.entry(range.piece).or_default().insert(begin, part);
            }
        });
    }

    /// The checker's verdict.
    pub(crate) fn checked(self: &Arc<Self>, piece: PieceIndex, verdict: Verified) {
        self.act(|inner, now| inner.swarm.on_verified(piece, verdict, now));
    }

    /// The torrent cannot go on. Only the first failure counts, and is told.
    pub(crate) fn fail(&self, failure: Failure) {
        self.status.send_if_modified(|status| {
            let first = !matches!(status.state, State::Failed(_));
            if first {
                tracing::error!(torrent = %self.meta.info_hash, "{failure}");
                status.state = State::Failed(failure);
            }
            first
        });
        self.stop.cancel();
    }

    /// Why the torrent cannot go on, if it cannot.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if let State::Failed(failure) = &self.status.borrow().state { Some(failure.clone()) } else { None }
    }

    pub(crate) fn set_stopped(&self) {
        self.status.send_if_modified(|status| {
            let was = matches!(status.state, State::Downloading | State::Complete);
            if was {
                status.state = State::Stopped;
            }
            was
        });
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(self: &Arc<Self>, inner: &mut Inner, jobs: &mut Vec<Job>) {
        while let Some(event) = inner.swarm.poll_event() {
            match event {
                Event::Verify { piece, hash_blocks } => {
                    let parts = inner.held.remove(&piece).unwrap_or_default();
                    let parts = parts.into_values().map(|p| (p.buffer, p.skip, p.length)).collect();
                    jobs.push(Job { torrent: self.clone(), piece, hash_blocks, parts });
                }
                Event::Disconnect(key, why) => {
                    if let Some(link) = inner.links.get(&key) {
                        if why != PeerGone::Redundant {
                            tracing::warn!(torrent = %self.meta.info_hash, peer = %link.address, "peer dropped: {why}");
                        }
                        if why.is_ban() {
                            inner.bans.add(link);
                        }
                        link.stop.cancel();
                    }
                }
                Event::Unprovable(piece) if self.meta.info.blob.is_some() => {
                    self.fail(Failure::Unprovable(piece));
                }
                _ => {}
            }
        }
        for key in inner.swarm.take_dirty() {
            if let Some(link) = inner.links.get(&key) {
                link.wake.notify_one();
            }
        }
        let (pieces, complete) = (inner.swarm.have().count(), inner.swarm.is_complete());
        let bytes = inner.swarm.bytes_done();
        let finished = self.status.send_if_modified(|status| {
            let changed = status.pieces != pieces;
            (status.pieces, status.bytes) = (pieces, bytes);
            if complete && status.state == State::Downloading {
                status.state = State::Complete;
                return true;
            }
            changed
        });
        if finished && complete {
            self.wake.notify_one();
        }
    }
}

/// Somebody who reads a torrent's bytes in order.
pub struct Reader {
    torrent: Arc<Torrent>,
    id: u64,
    status: watch::Receiver<Status>,
}

impl Reader {
    /// Moves the reader to `piece` and waits until that piece is proven and written.
    ///
    /// # Errors
    /// When the torrent fails or stops.
    pub async fn wait_for(&mut self, piece: PieceIndex) -> Result<(), State> {
        self.torrent.act(|inner, now| inner.swarm.set_reader(self.id, piece, now));
        loop {
            let state = self.status.borrow_and_update().state.clone();
            if self.torrent.has(piece) {
                return Ok(());
            }
            if matches!(state, State::Failed(_) | State::Stopped) || self.status.changed().await.is_err() {
                return Err(state);
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.torrent.lock().swarm.remove_reader(self.id);
    }
}
