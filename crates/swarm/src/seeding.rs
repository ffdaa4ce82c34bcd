//! How a seed hands out its pieces: each to one leecher first.
//!
//! A seed alone knows what it has sent. It *suggests* (BEP 6) to every leecher pieces that no leecher has and that
//! no other was given, in nearly ascending order so that readers' windows move together, and only so many that the
//! leecher stays busy. The leechers pass them on among themselves, and the seed sends each piece once.
//!
//! When it has handed out everything and its uplink has stood idle for a moment, the leechers' uplinks are what all
//! wait for. From then on it hands out second copies, of what is rarest, until there is something new to hand out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metainfo::PieceIndex;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use wire::Message;

use crate::{
    peer::{Assigned, Peer, PeerKey},
    rarity::Rarity,
    swarm::Swarm,
    time::Time,
};

/// Pieces are handed out in ascending runs of this many, shuffled within, so that two seeds seldom send the same.
const RUN: usize = 32;
/// A leecher has this long to make a piece its own before it is given to another.
const PATIENCE: Duration = Duration::from_secs(10);
/// A leecher is given what it fetches in this time, at least two pieces.
const AHEAD: f64 = 0.5;
/// How long the uplink is idle before second copies are handed out: an eighth of the time that the first took, which
/// is about what leechers with links like ours need to finish by themselves, within these limits.
const IDLE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// What has been handed out.
#[derive(Debug)]
pub(crate) struct Seeding {
    /// The order in which to hand out.
    order: Vec<u32>,
    next: usize,
    /// Pieces to hand out again: their first taker left or was too slow.
    again: BTreeSet<PieceIndex>,
    /// Who is fetching what, and since when.
    given: BTreeMap<PieceIndex, (PeerKey, Time)>,
    /// When the first piece was handed out.
    began: Option<Time>,
    /// Since when there has been nothing to do.
    idle_since: Option<Time>,
    /// Whether second copies are handed out.
    spare: bool,
    /// As of the last input.
    pub(crate) now: Time,
}

impl Seeding {
    pub(crate) fn new(pieces: u32, random_seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(random_seed);
        let mut order: Vec<u32> = (0..pieces).collect();
        order.chunks_mut(RUN).for_each(|run| run.shuffle(&mut rng));
        let (again, given) = (BTreeSet::new(), BTreeMap::new());
        let (next, spare) = (0, false);
        Self { order, next, again, given, began: None, idle_since: None, spare, now: Time(0) }
    }

    /// A leecher has the piece.
    pub(crate) fn arrived(&mut self, piece: PieceIndex) {
        self.given.remove(&piece);
    }

    /// A peer has gone, and its pieces are counted no longer.
    pub(crate) fn left(&mut self, key: PeerKey, peer: &Peer, rarity: &Rarity) {
        let assigned = peer.assigned.iter().map(|a| a.piece);
        let lost = assigned.chain(peer.have.iter().filter(|_| !peer.is_seed()));
        for piece in lost.filter(|p| rarity.availability(*p) == 0) {
            if self.given.get(&piece).is_none_or(|(to, _)| *to == key) {
                self.given.remove(&piece);
                self.again.insert(piece);
            }
        }
    }

    /// Whether time matters: something is handed out and not yet with its taker, or may soon be handed out.
    pub(crate) fn is_busy(&self) -> bool {
        !self.given.is_empty() || self.idle_since.is_some()
    }

    /// Notes whether the uplink is idle now.
    fn observe(&mut self, idle: bool) {
        let all_out = self.again.is_empty() && self.next >= self.order.len();
        if all_out && (idle || self.spare) {
            let since = *self.idle_since.get_or_insert(self.now);
            let took = since.since(self.began.unwrap_or(since));
            self.spare = self.now.since(since) >= (took / 8).clamp(IDLE[0], IDLE[1]);
        } else {
            (self.idle_since, self.spare) = (None, false);
        }
    }

    /// The next piece for a leecher, and marks it as given.
    fn give(&mut self, key: PeerKey, peer: &Peer, rarity: &Rarity) -> Option<PieceIndex> {
        let open = |given: &BTreeMap<PieceIndex, (PeerKey, Time)>, piece: PieceIndex| {
            rarity.availability(piece) == 0 && !given.contains_key(&piece) && !peer.have.contains(piece)
        };
        while let Some(piece) = self.again.pop_first() {
            if open(&self.given, piece) {
                return Some(self.hand_out(piece, key));
            }
        }
        while let Some(piece) = self.order.get(self.next).copied().map(PieceIndex) {
            self.next += 1;
            if open(&self.given, piece) {
                return Some(self.hand_out(piece, key));
            }
        }
        let missing = |piece: &PieceIndex| !peer.have.contains(*piece) && !self.given.contains_key(piece);
        let pieces = self.order.iter().copied().map(PieceIndex).filter(|_| self.spare).filter(missing);
        let piece = pieces.min_by_key(|piece| rarity.availability(*piece))?;
        Some(self.hand_out(piece, key))
    }

    fn hand_out(&mut self, piece: PieceIndex, to: PeerKey) -> PieceIndex {
        self.began.get_or_insert(self.now);
        self.given.insert(piece, (to, self.now));
        piece
    }

    /// Takes back what was given too long ago.
    fn expire(&mut self) -> Vec<(PieceIndex, PeerKey)> {
        let now = self.now;
        let late = self.given.extract_if(.., |_, (_, at)| now.since(*at) > PATIENCE);
        let late: Vec<_> = late.map(|(piece, (to, _))| (piece, to)).collect();
        self.again.extend(late.iter().map(|(piece, _)| *piece));
        late
    }
}

impl Swarm {
    /// Hands a leecher as many pieces as keep it busy.
    pub(crate) fn suggest_more(&mut self, key: PeerKey) {
        if !self.config.suggest || !self.is_complete() {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if !peer.info.fast || !peer.they_interested || peer.we_choke || peer.is_seed() {
            return;
        }
        peer.assigned.retain(|a| !peer.have.contains(a.piece));
        let piece_length = f64::from(self.geometry.piece_length());
        let ahead = ((peer.up.last() * AHEAD / piece_length).ceil() as usize).clamp(2, 64);
        let mut said = false;
        loop {
            let waiting = |a: &&Assigned| a.sent < self.geometry.piece_size(a.piece);
            if peer.assigned.iter().filter(waiting).count() >= ahead {
                break;
            }
            let Some(piece) = self.seeding.give(key, peer, &self.rarity) else { break };
            peer.assigned.push(Assigned { piece, sent: 0 });
            peer.say(Message::Suggest(piece));
            said = true;
        }
        if said {
            self.mark(key);
        }
    }

    pub(crate) fn seeding_tick(&mut self) {
        for (piece, key) in self.seeding.expire() {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.assigned.retain(|a| a.piece != piece);
            }
        }
        if self.config.suggest && self.is_complete() {
            self.seeding.observe(self.turns.is_idle());
            let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            keys.into_iter().for_each(|key| self.suggest_more(key));
        }
    }
}
