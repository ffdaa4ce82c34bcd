//! The torrent's state and its inputs. What to ask for is in `picker`, what to serve in `upload` and `seeding`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use metainfo::{BLOCK_LENGTH, Geometry, PieceIndex};
use rand::{SeedableRng, rngs::StdRng};
use wire::{BlockRange, Message};

use crate::{
    active::Active,
    bits::PieceSet,
    blame::{Blame, BlockHash, Failure},
    event::{BlockVerdict, Event, PeerGone},
    peer::{Asked, Peer, PeerInfo, PeerKey, PeerStats},
    provenance::{Provenance, Run, SourceId, SourceKind},
    rarity::Rarity,
    seeding::Seeding,
    time::Time,
    turns::Turns,
    upload::{Choker, MOST_WAITING},
};

/// How a swarm behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest request to make, in bytes, of peers that serve such; others are asked for 16 KiB.
    pub max_request: u32,
    /// How many peers are served at once.
    pub upload_slots: usize,
    /// How many pieces ahead of a reader are fetched before all others.
    pub window: u32,
    /// Most bytes of pieces begun and not yet proven; what the driver has to hold in memory.
    pub max_active: u64,
    /// Whether to hand out pieces to leechers as a seed, each to one of them first.
    pub suggest: bool,
    /// For ties between equally rare pieces and for the seed's order.
    pub random_seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_request: 256 * 1024,
            upload_slots: 100,
            window: 32,
            max_active: 256 * 1024 * 1024,
            suggest: true,
            random_seed: 0,
        }
    }
}

/// What became of a piece that the driver was asked to verify.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verified {
    /// Proven and written. `block_hashes` holds the SHA-1 of every block if the event asked for it.
    Good {
        /// One per block, or none.
        block_hashes: Vec<BlockHash>,
    },
    /// Proven wrong. `block_hashes` holds the SHA-1 of every block.
    Bad {
        /// One per block.
        block_hashes: Vec<BlockHash>,
    },
    /// It could not be written, and is wanted again.
    NotWritten,
}

/// One torrent's peers, pieces and plans.
#[derive(Debug)]
pub struct Swarm {
    pub(crate) geometry: Geometry,
    pub(crate) config: Config,
    pub(crate) rng: StdRng,

    /// Proven and written.
    pub(crate) have: PieceSet,
    /// How many pieces have a known proof: `0..known` may be asked for (D4).
    known: u32,
    /// Wanted and not begun, in order of rarity; and the availability of all.
    pub(crate) rarity: Rarity,
    pub(crate) active: BTreeMap<PieceIndex, Active>,
    pub(crate) active_bytes: u64,
    /// Proven pieces in the order in which they were proven, since the swarm began.
    pub(crate) log: Vec<PieceIndex>,
    pub(crate) readers: BTreeMap<u64, PieceIndex>,

    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    pub(crate) seeding: Seeding,
    pub(crate) choker: Choker,
    pub(crate) turns: Turns,
    blame: Blame,
    provenance: Provenance,

    /// What peers that have gone gave and took.
    gone: (u64, u64),
    pub(crate) events: VecDeque<Event>,
    dirty: BTreeSet<PeerKey>,
    last_tick: Time,
}

/// How often a swarm in motion wants [`Swarm::on_tick`].
const TICK: Duration = Duration::from_millis(100);
/// A peer that gives nothing for this long while asked is no longer waited for.
const SNUB: Duration = Duration::from_secs(8);
/// Most answers that may wait for one peer; one that reads has far fewer.
const MOST_UNSAID: usize = 2 * MOST_WAITING + 1024;
/// Most suggestions kept of one peer.
const MOST_SUGGESTED: usize = 256;

impl Swarm {
    /// A swarm that has `have` already. Every piece's proof is known.
    pub fn new(geometry: Geometry, have: PieceSet, config: Config) -> Self {
        let known = geometry.piece_count();
        Self::growing(geometry, have, known, config)
    }

    /// A swarm of which only the proofs of pieces `0..known` are known yet; [`Self::learn`] adds more (D4).
    pub fn growing(geometry: Geometry, have: PieceSet, known: u32, config: Config) -> Self {
        let pieces = geometry.piece_count();
        let mut rng = StdRng::seed_from_u64(config.random_seed);
        let mut rarity = Rarity::new(pieces);
        for piece in (0..known.min(pieces)).map(PieceIndex).filter(|p| !have.contains(*p)) {
            rarity.insert(piece, &mut rng);
        }
        let seeding = Seeding::new(pieces, config.random_seed);
        Self {
            geometry,
            rng,
            have,
            known: known.min(pieces),
            rarity,
            active: BTreeMap::new(),
            active_bytes: 0,
            log: Vec::new(),
            readers: BTreeMap::new(),
            peers: BTreeMap::new(),
            seeding,
            choker: Choker::default(),
            turns: Turns::default(),
            blame: Blame::default(),
            provenance: Provenance::default(),
            gone: (0, 0),
            events: VecDeque::new(),
            dirty: BTreeSet::new(),
            last_tick: Time(0),
            config,
        }
    }

    /// How the torrent is cut.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The proven pieces.
    pub const fn have(&self) -> &PieceSet {
        &self.have
    }

    /// Whether every piece is proven.
    pub const fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Bytes of proven pieces.
    pub fn bytes_done(&self) -> u64 {
        let last = PieceIndex(self.geometry.piece_count().saturating_sub(1));
        let whole = u64::from(self.have.count()) * u64::from(self.geometry.piece_length());
        let short = u64::from(self.geometry.piece_length() - self.geometry.piece_size(last));
        if self.have.contains(last) { whole - short } else { whole }
    }

    /// Who gave what.
    pub const fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Every connected peer's figures as of `now`.
    pub fn peers(&self, now: Time) -> impl Iterator<Item = (PeerKey, PeerStats)> + '_ {
        self.peers.iter().map(move |(key, peer)| (*key, peer.stats(now)))
    }

    /// Whether something is missing, and no connected peer has any of it.
    pub fn is_stuck(&self) -> bool {
        !self.is_complete() && self.peers.values().all(|peer| peer.wanted == 0)
    }

    /// Block bytes received, as far as they were asked for, and sent, of all peers that are or were connected.
    pub fn totals(&self) -> (u64, u64) {
        self.peers.values().fold(self.gone, |(down, up), p| (down + p.downloaded, up + p.uploaded))
    }

    /// Whether anybody wants anything of us, or we of them.
    pub fn is_moving(&self) -> bool {
        self.peers.values().any(|p| p.they_interested || p.we_interested)
    }

    /// The proofs of pieces `0..known` are known now.
    pub fn learn(&mut self, known: u32, now: Time) {
        for piece in (self.known..known.min(self.geometry.piece_count())).map(PieceIndex) {
            if !self.have.contains(piece) {
                self.rarity.insert(piece, &mut self.rng);
                for peer in self.peers.values_mut().filter(|p| p.have.contains(piece)) {
                    peer.wanted += 1;
                }
            }
        }
        self.known = self.known.max(known.min(self.geometry.piece_count()));
        self.refresh_interest();
        self.fill_all(now);
    }

    pub(crate) const fn known(&self) -> u32 {
        self.known
    }

    /// Somebody reads from `piece` on, or moved there.
    pub fn set_reader(&mut self, reader: u64, piece: PieceIndex, now: Time) {
        if self.readers.insert(reader, piece) != Some(piece) {
            self.fill_all(now);
        }
    }

    /// Somebody has stopped reading.
    pub fn remove_reader(&mut self, reader: u64) {
        self.readers.remove(&reader);
    }

    /// A peer has shaken hands. Its first messages are ready at once.
    pub fn on_connected(&mut self, key: PeerKey, info: PeerInfo, now: Time) {
        let mut peer = Peer::new(info, self.geometry.piece_count(), now);
        peer.told = self.log.len();
        match (info.fast, self.have.is_full(), self.have.is_empty()) {
            (true, true, _) => peer.say(Message::HaveAll),
            (true, _, true) => peer.say(Message::HaveNone),
            (false, _, true) => {}
            _ => peer.say(Message::Bitfield(self.have.to_wire())),
        }
        self.peers.insert(key, peer);
        self.mark(key);
    }

    /// A peer told its limits in the extension handshake: its longest request and its queue's length.
    pub fn on_limits(&mut self, key: PeerKey, max_request: Option<u32>, max_queue: Option<u32>) {
        let ours = self.config.max_request;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(most) = max_request {
            peer.max_request = most.clamp(wire::STANDARD_REQUEST, ours.max(wire::STANDARD_REQUEST));
        }
        if let Some(queue) = max_queue {
            peer.max_queue = queue.clamp(1, 4096) as usize;
        }
    }

    /// The connection to a peer is gone.
    pub fn on_disconnected(&mut self, key: PeerKey, now: Time) {
        let Some(peer) = self.peers.remove(&key) else { return };
        self.seeding.now = now;
        self.dirty.remove(&key);
        self.turns.leave(key);
        self.gone = (self.gone.0 + peer.downloaded, self.gone.1 + peer.uploaded);
        for asked in peer.asked.iter().filter(|a| !a.released) {
            self.release(key, &asked.range);
        }
        if !peer.is_seed() {
            for piece in peer.have.iter() {
                self.rarity.decrease(piece);
            }
        }
        self.seeding.left(key, &peer, &self.rarity);
        self.choke_round(now);
        self.fill_all(now);
    }

    /// A message has come. Payloads go to [`Self::on_block`].
    pub fn on_message(&mut self, key: PeerKey, message: Message, now: Time) {
        self.seeding.now = now;
        let result = match message {
            Message::Choke => self.on_choke(key, now),
            Message::Unchoke => self.with(key, |peer| {
                peer.they_choke = false;
                peer.last_progress = now;
            }),
            Message::Interested => self.on_interest(key, true, now),
            Message::NotInterested => self.on_interest(key, false, now),
            Message::Have(piece) => self.on_have(key, piece),
            // What says nothing new costs nothing, however often it is said.
            Message::HaveAll if self.peers.get(&key).is_none_or(Peer::is_seed) => Ok(()),
            Message::HaveNone if self.peers.get(&key).is_none_or(|peer| peer.introduced) => Ok(()),
            Message::Bitfield(bits) => match PieceSet::from_wire(&bits, self.geometry.piece_count()) {
                Some(have) => self.on_introduced(key, have),
                None => Err("a bitfield that does not fit the torrent"),
            },
            Message::HaveAll => self.on_introduced(key, PieceSet::full(self.geometry.piece_count())),
            Message::HaveNone => self.on_introduced(key, PieceSet::empty(self.geometry.piece_count())),
            Message::Request(range) => self.on_request(key, range),
            Message::Cancel(range) => self.on_cancel(key, range),
            Message::Reject(range) => self.on_reject(key, range),
            Message::Suggest(piece) => self.on_suggest(key, piece),
            _ => Ok(()),
        };
        let waiting = self.peers.get(&key).map_or(0, |peer| peer.outbox.len());
        match result {
            Ok(()) if waiting > MOST_UNSAID => {
                let why = PeerGone::Protocol("it asks faster than it reads");
                self.events.push_back(Event::Disconnect(key, why));
            }
            Ok(()) => self.fill(key, now),
            Err(why) => self.events.push_back(Event::Disconnect(key, PeerGone::Protocol(why))),
        }
    }

    /// Whether a block whose header has come is worth receiving.
    pub fn expects(&self, key: PeerKey, range: BlockRange) -> bool {
        self.peers.get(&key).is_some_and(|peer| peer.asked.iter().any(|a| a.range == range))
            && self.active.get(&range.piece).is_some_and(|active| !active.all_here(blocks_of(&range)))
    }

    /// Block bytes that a peer was asked for and has neither given nor refused, cancelled ones included: they may
    /// be on their way. Whatever it sends beyond them, nobody asked for.
    pub fn owed(&self, key: PeerKey) -> u64 {
        self.peers.get(&key).map_or(0, |peer| peer.owes)
    }

    /// A block's payload is here, whole.
    pub fn on_block(&mut self, key: PeerKey, range: BlockRange, now: Time) -> BlockVerdict {
        let Some(peer) = self.peers.get_mut(&key) else { return BlockVerdict::Drop };
        // What was cancelled too late still tells how fast the peer is; what was never asked for tells nothing.
        let owed = peer.owes.min(u64::from(range.length));
        peer.owes -= owed;
        peer.down.add(owed, now);
        let kind = SourceKind::Peer { address: peer.info.address, id: peer.info.id };
        let source = *peer.source.get_or_insert_with(|| self.provenance.source(kind));
        let Some(at) = peer.asked.iter().position(|a| a.range == range) else {
            self.provenance.waste(source, u64::from(range.length));
            return BlockVerdict::Drop;
        };
        peer.downloaded += u64::from(range.length);
        let asked = peer.asked.remove(at);
        if !asked.released {
            peer.outstanding -= u64::from(range.length);
        }
        peer.last_progress = now;
        (peer.snubbed, peer.lost) = (false, false);
        let verdict = self.arrive((key, source), &range, now);
        let kept = if let BlockVerdict::Keep { length, .. } = verdict { length } else { 0 };
        self.provenance.waste(source, u64::from(range.length - kept));
        self.fill(key, now);
        verdict
    }

    /// The driver's verdict on a piece that [`Event::Verify`] asked for.
    pub fn on_verified(&mut self, piece: PieceIndex, verdict: Verified, now: Time) {
        let Some(active) = self.active.remove(&piece) else { return };
        self.active_bytes -= u64::from(self.geometry.piece_size(piece));
        match verdict {
            Verified::Good { block_hashes } => {
                for arrival in active.arrivals() {
                    let blocks = arrival.first..arrival.first + arrival.count;
                    let bytes = u64::from(active.bytes(&blocks));
                    let (first_block, blocks, source) = (arrival.first, arrival.count, arrival.source);
                    let run = Run { piece, first_block, blocks, source, first: arrival.at, last: arrival.at };
                    self.provenance.record(run, bytes);
                }
                for guilty in self.blame.proven(piece, &block_hashes) {
                    self.events.push_back(Event::Disconnect(guilty, PeerGone::WrongBytes(piece)));
                }
                self.gain(piece, now);
            }
            Verified::Bad { block_hashes } => {
                for arrival in active.arrivals() {
                    let bytes = u64::from(active.bytes(&(arrival.first..arrival.first + arrival.count)));
                    self.provenance.waste(arrival.source, bytes);
                }
                let givers = active.givers();
                let host = |key: PeerKey| self.peers.get(&key).map(|peer| peer.info.address.ip());
                match self.blame.failed(piece, &givers, &block_hashes, host) {
                    Failure::Proven(guilty) => {
                        self.events.push_back(Event::Disconnect(guilty, PeerGone::WrongBytes(piece)));
                    }
                    Failure::Suspected => {}
                    Failure::Unprovable => {
                        self.events.push_back(Event::Unprovable(piece));
                        if let Some(guilty) = givers.first() {
                            self.events.push_back(Event::Disconnect(*guilty, PeerGone::WrongBytes(piece)));
                        }
                    }
                }
                self.rarity.insert(piece, &mut self.rng);
                self.fill_all(now);
            }
            Verified::NotWritten => self.rarity.insert(piece, &mut self.rng),
        }
    }

    /// A piece came from elsewhere (the origin, the store), proven and written.
    pub fn on_supplied(&mut self, piece: PieceIndex, kind: SourceKind, now: Time) {
        if self.have.contains(piece) || piece.0 >= self.geometry.piece_count() {
            return;
        }
        if let Some(active) = self.active.remove(&piece) {
            self.active_bytes -= u64::from(self.geometry.piece_size(piece));
            if !active.is_untouched() {
                self.cancel_where(|range| range.piece == piece);
            }
        }
        let source = self.provenance.source(kind);
        let blocks = self.geometry.block_count(piece);
        let run = Run { piece, first_block: 0, blocks, source, first: now, last: now };
        self.provenance.record(run, u64::from(self.geometry.piece_size(piece)));
        self.gain(piece, now);
    }

    /// Time has passed: wake what waits.
    pub fn on_tick(&mut self, now: Time) {
        (self.last_tick, self.seeding.now) = (now, now);
        let mut snubs = Vec::new();
        for (key, peer) in &mut self.peers {
            peer.down.get(now);
            peer.up.get(now);
            if peer.outstanding > 0 && now.since(peer.last_progress) > SNUB {
                peer.snubbed = true;
                peer.outstanding = 0;
                for asked in peer.asked.iter_mut().filter(|a| !a.released) {
                    asked.released = true;
                    snubs.push((*key, asked.range));
                }
            }
        }
        for (key, range) in snubs {
            self.release(key, &range);
        }
        self.seeding_tick();
        self.next_turns(now);
        if self.choker.is_due(now) {
            self.choke_round(now);
        }
        self.fill_all(now);
    }

    /// When [`Self::on_tick`] is wanted, if at all.
    pub fn next_tick(&self) -> Option<Time> {
        let busy = !self.is_complete() || self.seeding.is_busy() || self.turns.is_crowded();
        let interval = if busy { TICK } else { TICK * 10 };
        (!self.peers.is_empty() && self.is_moving()).then(|| self.last_tick + interval)
    }

    /// The next thing for the driver to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The peers that have something to send since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<PeerKey> {
        for key in &self.dirty {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.dirty = false;
            }
        }
        std::mem::take(&mut self.dirty)
    }

    /// Moves what is to be said to a peer into `out`.
    pub fn drain_messages(&mut self, key: PeerKey, out: &mut Vec<Message>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let news = self.log.get(peer.told..).unwrap_or_default();
        out.extend(news.iter().map(|piece| Message::Have(*piece)));
        peer.told = self.log.len();
        out.append(&mut peer.outbox);
    }

    pub(crate) fn mark(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|p| !p.dirty) {
            peer.dirty = true;
            self.dirty.insert(key);
        }
    }

    pub(crate) fn say(&mut self, key: PeerKey, message: Message) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.say(message);
            self.mark(key);
        }
    }

    /// Takes back blocks asked of a peer; a piece of which nothing is left under way is as if never begun.
    fn release(&mut self, key: PeerKey, range: &BlockRange) {
        let Some(active) = self.active.get_mut(&range.piece) else { return };
        active.release(blocks_of(range), key);
        if active.is_untouched() {
            self.active.remove(&range.piece);
            self.active_bytes -= u64::from(self.geometry.piece_size(range.piece));
            self.rarity.insert(range.piece, &mut self.rng);
        }
    }

    fn with(&mut self, key: PeerKey, change: impl FnOnce(&mut Peer)) -> Result<(), &'static str> {
        if let Some(peer) = self.peers.get_mut(&key) {
            change(peer);
        }
        Ok(())
    }

    fn on_choke(&mut self, key: PeerKey, now: Time) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| !peer.they_choke) else { return Ok(()) };
        peer.they_choke = true;
        // With the fast extension what is not served is rejected one by one (BEP 6).
        if !peer.info.fast {
            (peer.outstanding, peer.owes) = (0, 0);
            for asked in std::mem::take(&mut peer.asked).iter().filter(|a| !a.released) {
                self.release(key, &asked.range);
            }
            self.fill_all(now);
        }
        Ok(())
    }

    fn on_introduced(&mut self, key: PeerKey, mut have: PieceSet) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if std::mem::replace(&mut peer.introduced, true) {
            // BEP 3 and 6 want it first and once, but aria2 sends a bitfield or `have all` in place of many
            // `have`s: they are meant. No piece is gone through twice.
            have.subtract(&peer.have);
            return have.iter().try_for_each(|piece| self.on_have(key, piece));
        }
        peer.wanted = have.iter().filter(|p| p.0 < self.known && !self.have.contains(*p)).count() as u32;
        peer.have = have;
        if !peer.is_seed() {
            for piece in peer.have.iter() {
                self.rarity.increase(piece);
            }
        }
        self.update_interest(key);
        self.drop_if_redundant(key);
        Ok(())
    }

    fn on_have(&mut self, key: PeerKey, piece: PieceIndex) -> Result<(), &'static str> {
        if piece.0 >= self.geometry.piece_count() {
            return Err("a piece past the torrent's end");
        }
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        peer.introduced = true;
        if !peer.have.insert(piece) {
            return Ok(());
        }
        if piece.0 < self.known && !self.have.contains(piece) {
            peer.wanted += 1;
        }
        self.rarity.increase(piece);
        if peer.is_seed() {
            // It counts no longer as a leecher.
            for piece in self.geometry.pieces() {
                self.rarity.decrease(piece);
            }
        }
        self.seeding.arrived(piece);
        self.suggest_more(key);
        self.update_interest(key);
        self.drop_if_redundant(key);
        Ok(())
    }

    fn on_reject(&mut self, key: PeerKey, range: BlockRange) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        // One that was cancelled is refused too (BEP 6).
        peer.owes = peer.owes.saturating_sub(u64::from(range.length));
        let Some(at) = peer.asked.iter().position(|a| a.range == range) else { return Ok(()) };
        let asked = peer.asked.remove(at);
        peer.lost = false;
        if !asked.released {
            peer.outstanding -= u64::from(range.length);
            self.release(key, &range);
        }
        Ok(())
    }

    fn on_suggest(&mut self, key: PeerKey, piece: PieceIndex) -> Result<(), &'static str> {
        if piece.0 >= self.geometry.piece_count() {
            return Err("a piece past the torrent's end");
        }
        self.with(key, |peer| {
            peer.suggests = true;
            if peer.suggested.len() < MOST_SUGGESTED && !peer.suggested.contains(&piece) {
                peer.suggested.push_back(piece);
            }
        })
    }

    fn arrive(&mut self, from: (PeerKey, SourceId), range: &BlockRange, now: Time) -> BlockVerdict {
        let Some(active) = self.active.get_mut(&range.piece) else { return BlockVerdict::Drop };
        let mut also = Vec::new();
        let Some(new) = active.arrive(blocks_of(range), from, now, &mut also) else {
            return BlockVerdict::Drop;
        };
        let (begin, length) = (new.start * BLOCK_LENGTH, active.bytes(&new));
        if active.is_whole() && !active.checking {
            active.checking = true;
            let hash_blocks = self.blame.is_suspect(range.piece);
            self.events.push_back(Event::Verify { piece: range.piece, hash_blocks });
        }
        also.sort_unstable();
        also.dedup();
        for other in also {
            self.cancel_done(other, range.piece);
        }
        BlockVerdict::Keep { begin, length }
    }

    /// Tells a peer that what it was asked for of this piece has come from another.
    fn cancel_done(&mut self, key: PeerKey, piece: PieceIndex) {
        let (Some(peer), Some(active)) = (self.peers.get_mut(&key), self.active.get(&piece)) else { return };
        let done = |a: &Asked| a.range.piece == piece && active.all_here(blocks_of(&a.range));
        for asked in peer.asked.extract_if(.., |a| done(a)).collect::<Vec<_>>() {
            if !asked.released {
                peer.outstanding -= u64::from(asked.range.length);
            }
            peer.take_back(asked.range);
        }
        self.mark(key);
    }

    fn cancel_where(&mut self, unwanted: impl Fn(&BlockRange) -> bool) {
        let mut changed = Vec::new();
        for (key, peer) in &mut self.peers {
            for asked in peer.asked.extract_if(.., |a| unwanted(&a.range)).collect::<Vec<_>>() {
                if !asked.released {
                    peer.outstanding -= u64::from(asked.range.length);
                }
                peer.take_back(asked.range);
                changed.push(*key);
            }
        }
        changed.into_iter().for_each(|key| self.mark(key));
    }

    /// A piece is proven and written: count it, tell everybody.
    fn gain(&mut self, piece: PieceIndex, now: Time) {
        self.rarity.remove(piece);
        if !self.have.insert(piece) {
            return;
        }
        self.log.push(piece);
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            if let Some(peer) = self.peers.get_mut(&key) {
                if piece.0 < self.known && peer.have.contains(piece) {
                    peer.wanted = peer.wanted.saturating_sub(1);
                }
                peer.suggested.retain(|p| *p != piece);
            }
            self.mark(key);
            self.update_interest(key);
        }
        if self.is_complete() {
            self.events.push_back(Event::Complete);
            let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            for key in keys {
                self.drop_if_redundant(key);
                self.suggest_more(key);
            }
        } else if self.rarity.is_empty() {
            self.fill_all(now);
        }
    }

    fn drop_if_redundant(&mut self, key: PeerKey) {
        if self.is_complete() && self.peers.get(&key).is_some_and(Peer::is_seed) {
            self.events.push_back(Event::Disconnect(key, PeerGone::Redundant));
        }
    }

    fn refresh_interest(&mut self) {
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        keys.into_iter().for_each(|key| self.update_interest(key));
    }

    fn update_interest(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let interested = peer.wanted > 0;
        if std::mem::replace(&mut peer.we_interested, interested) != interested {
            self.say(key, if interested { Message::Interested } else { Message::NotInterested });
        }
    }
}

/// The blocks that a request covers. Requests of ours start at block borders.
pub(crate) fn blocks_of(range: &BlockRange) -> std::ops::Range<u32> {
    range.begin / BLOCK_LENGTH..(range.end().div_ceil(u64::from(BLOCK_LENGTH))) as u32
}

#[cfg(test)]
mod tests {
    use wire::PeerId;

    use super::*;

    #[test]
    fn have_all_after_a_bitfield_counts_once_and_have_none_takes_nothing_back() {
        let geometry = Geometry::new(4 * 65536, 65536).expect("valid");
        let mut swarm = Swarm::new(geometry, PieceSet::empty(4), Config::default());
        let (seed, key, now) = (PeerKey(1), PeerKey(2), Time(1));
        for (key, ip) in [(seed, 1), (key, 2)] {
            let address = ([10, 0, 0, ip], 6881).into();
            let info = PeerInfo { address, id: PeerId::ours([ip; 12]), fast: true, incoming: true };
            swarm.on_connected(key, info, now);
        }
        let pieces = |swarm: &Swarm| swarm.peers(now).map(|(_, peer)| peer.pieces).collect::<Vec<_>>();
        swarm.on_message(key, Message::Bitfield(vec![0b1000_0000].into()), now);
        swarm.on_message(key, Message::HaveNone, now);
        assert_eq!(pieces(&swarm), [0, 1]);
        assert_eq!(swarm.rarity.availability(PieceIndex(0)), 1);
        for _ in 0..3 {
            swarm.on_message(seed, Message::HaveAll, now);
            swarm.on_message(key, Message::HaveAll, now);
        }
        assert_eq!(pieces(&swarm), [4, 4]);
        assert_eq!(swarm.peers.values().map(|peer| peer.wanted).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(swarm.rarity.availability(PieceIndex(0)), 0, "seeds are not counted");
        assert_eq!(swarm.poll_event(), None, "the peers stay");
    }

    #[test]
    fn what_nobody_asked_for_is_waste_and_no_merit() {
        let geometry = Geometry::new(65536, 65536).expect("valid");
        let mut swarm = Swarm::new(geometry, PieceSet::empty(1), Config::default());
        let (key, mut now) = (PeerKey(1), Time(1));
        let address = ([10, 0, 0, 1], 6881).into();
        let info = PeerInfo { address, id: PeerId::ours([1; 12]), fast: true, incoming: true };
        swarm.on_connected(key, info, now);
        swarm.on_message(key, Message::HaveAll, now);
        let range = BlockRange { piece: PieceIndex(0), begin: 0, length: 16384 };
        for _ in 0..20 {
            now = now + Duration::from_millis(50);
            assert_eq!(swarm.on_block(key, range, now), BlockVerdict::Drop);
        }
        let of_peer = |swarm: &Swarm| swarm.peers(now).next().map(|(_, p)| (p.downloaded, p.down_rate > 0.0));
        assert_eq!((swarm.totals(), of_peer(&swarm)), ((0, 0), Some((0, false))));
        assert_eq!(swarm.provenance().sources().first().map(|s| s.wasted), Some(20 * 16384));
        assert_eq!(swarm.owed(key), 0);

        swarm.on_message(key, Message::Unchoke, now);
        let mut said = Vec::new();
        swarm.drain_messages(key, &mut said);
        let asked =
            said.iter().find_map(|m| if let Message::Request(range) = m { Some(*range) } else { None });
        assert_eq!(swarm.owed(key), 65536);
        swarm.on_block(key, asked.expect("it was asked"), now);
        assert_eq!((swarm.totals().0, swarm.owed(key)), (16384, 65536 - 16384));
    }

    #[test]
    fn a_second_bitfield_counts_as_haves_as_aria2_means_it() {
        let geometry = Geometry::new(4 * 65536, 65536).expect("valid");
        let mut swarm = Swarm::new(geometry, PieceSet::empty(4), Config::default());
        let (key, now) = (PeerKey(1), Time(1));
        let address = ([10, 0, 0, 1], 6881).into();
        let info = PeerInfo { address, id: PeerId::ours([1; 12]), fast: false, incoming: true };
        swarm.on_connected(key, info, now);
        swarm.on_message(key, Message::Bitfield(vec![0b1000_0000].into()), now);
        swarm.on_message(key, Message::Bitfield(vec![0b1110_0000].into()), now);
        assert_eq!(swarm.poll_event(), None, "the peer stays");
        assert_eq!(swarm.peers(now).next().map(|(_, peer)| peer.pieces), Some(3));
        assert_eq!(swarm.rarity.availability(PieceIndex(2)), 1);
    }

    #[test]
    fn a_swarm_is_stuck_when_no_peer_has_anything_of_what_is_missing() {
        let geometry = Geometry::new(2 * 65536, 65536).expect("valid");
        let mut swarm = Swarm::new(geometry, PieceSet::empty(2), Config::default());
        assert!(swarm.is_stuck(), "nobody is there");
        let (key, now) = (PeerKey(1), Time(1));
        let address = ([10, 0, 0, 1], 6881).into();
        let info = PeerInfo { address, id: PeerId::ours([1; 12]), fast: false, incoming: true };
        swarm.on_connected(key, info, now);
        assert!(swarm.is_stuck(), "it has nothing");
        swarm.on_message(key, Message::Have(PieceIndex(0)), now);
        assert!(!swarm.is_stuck());
        swarm.on_supplied(PieceIndex(0), SourceKind::Origin, now);
        assert!(swarm.is_stuck(), "it has nothing else");
        swarm.on_supplied(PieceIndex(1), SourceKind::Origin, now);
        assert!(!swarm.is_stuck(), "nothing is missing");
    }
}
