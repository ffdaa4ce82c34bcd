//! What to ask of whom.
//!
//! In order: the piece this peer is already giving, a piece that nobody is giving any more, what a reader waits
//! for, a new piece, a hand with somebody else's piece, and, when nothing is left that nobody was asked for, a
//! request that waits elsewhere. Such a request is moved, not doubled: a hundred that start together all ask the
//! first who has a piece, and would wait in its queue while others, who have had the piece for long, stand idle.

use std::{ops::Range, time::Duration};

use metainfo::{BLOCK_LENGTH, PieceIndex};
use rand::seq::SliceRandom;
use wire::{BlockRange, Message};

use crate::{
    active::Active,
    peer::{Asked, Peer, PeerKey},
    swarm::{Swarm, blocks_of},
    time::Time,
};

/// How long a seed that hands out pieces must have handed out none before it is asked for what it has not.
const HOLD_OFF: Duration = Duration::from_secs(10);
/// How many of the rarest pieces are looked at for one that we stand nearest to, at a seed that hands out none.
const LOOK: usize = 128;
/// A peer that has given nothing for this long, though asked, may lose a request to one that has nothing to give.
const STALLED: Duration = Duration::from_millis(200);

impl Swarm {
    /// Lets every peer be asked for more, in random order so that none is always first.
    pub(crate) fn fill_all(&mut self, now: Time) {
        if !self.is_complete() {
            let mut keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            keys.shuffle(&mut self.rng);
            keys.into_iter().for_each(|key| self.fill(key, now));
        }
    }

    /// Asks a peer for as much as it should have under way.
    pub(crate) fn fill(&mut self, key: PeerKey, now: Time) {
        loop {
            let Some(peer) = self.peers.get(&key) else { return };
            let willing = !peer.they_choke && peer.we_interested && peer.outstanding < peer.target();
            if !willing || peer.asked.len() >= peer.max_queue {
                return;
            }
            let Some((piece, blocks)) = self.pick(key, now) else { return };
            let Some(active) = self.active.get(&piece) else { return };
            let range =
                BlockRange { piece, begin: blocks.start * BLOCK_LENGTH, length: active.bytes(&blocks) };
            let Some(peer) = self.peers.get_mut(&key) else { return };
            if peer.outstanding == 0 {
                peer.last_progress = now;
            }
            peer.outstanding += u64::from(range.length);
            peer.owes += u64::from(range.length);
            peer.asked.push(Asked { range, released: false });
            self.say(key, Message::Request(range));
        }
    }

    /// Chooses blocks and marks them as asked of the peer.
    fn pick(&mut self, key: PeerKey, now: Time) -> Option<(PieceIndex, Range<u32>)> {
        let peer = self.peers.get(&key)?;
        let most = peer.request_length() / BLOCK_LENGTH;
        let begun = self.begun_by(peer).or_else(|| self.abandoned(peer));
        if let Some(piece) = begun {
            return self.take(piece, key, most);
        }
        let free_choice = self.may_choose(key, now);
        let peer = self.peers.get(&key)?;
        let suggested = self.suggested(peer);
        let piece = suggested.or_else(|| {
            let peer = free_choice.then_some(peer)?;
            self.in_window(peer).or_else(|| self.rarest(peer)).or_else(|| self.shareable(peer))
        });
        if suggested.is_some()
            && let Some(peer) = self.peers.get_mut(&key)
        {
            peer.dry_since = None;
        }
        match piece {
            Some(piece) => self.take(piece, key, most),
            None => self.take_over(key, free_choice, now),
        }
    }

    fn take(&mut self, piece: PieceIndex, key: PeerKey, most: u32) -> Option<(PieceIndex, Range<u32>)> {
        let size = self.geometry.piece_size(piece);
        if !self.active.contains_key(&piece) {
            self.rarity.remove(piece);
            self.active_bytes += u64::from(size);
        }
        let active = self.active.entry(piece).or_insert_with(|| Active::new(size));
        Some((piece, active.ask_free(key, most)?))
    }

    /// A piece with free blocks of which the last was asked of this peer.
    fn begun_by(&self, peer: &Peer) -> Option<PieceIndex> {
        let pieces = peer.asked.iter().rev().filter(|a| !a.released).map(|a| a.range.piece);
        pieces.take(4).find(|piece| self.has_free(piece, peer))
    }

    /// A piece that was begun and of which nothing is under way.
    fn abandoned(&self, peer: &Peer) -> Option<PieceIndex> {
        let idle = |(_, active): &(&PieceIndex, &Active)| active.asked() == 0 && active.free() > 0;
        self.active.iter().filter(idle).map(|(piece, _)| *piece).find(|p| peer.have.contains(*p))
    }

    /// The peer's next suggestion that is still of use.
    fn suggested(&self, peer: &Peer) -> Option<PieceIndex> {
        let fresh = |p: &&PieceIndex| {
            !self.have.contains(**p) && self.active.get(p).is_none_or(|active| active.free() > 0)
        };
        peer.suggested.iter().find(|p| fresh(p) && peer.have.contains(**p) && self.may_begin(**p)).copied()
    }

    /// The rarest piece not begun, within reach of a reader.
    fn in_window(&self, peer: &Peer) -> Option<PieceIndex> {
        let window = self.config.window;
        let pieces = self.readers.values().flat_map(|p| p.0..p.0.saturating_add(window)).map(PieceIndex);
        let wanted = |p: &PieceIndex| {
            p.0 < self.known()
                && peer.have.contains(*p)
                && !self.have.contains(*p)
                && self.active.get(p).is_none_or(|a| a.asked() == 0 && a.free() > 0)
                && self.may_begin(*p)
        };
        pieces.filter(wanted).min_by_key(|p| (self.rarity.availability(*p), self.nearness(*p, peer), *p))
    }

    /// The rarest piece not begun. Of a seed, one for which we stand nearest among the leechers we know.
    fn rarest(&self, peer: &Peer) -> Option<PieceIndex> {
        let mut fitting = self.rarity.iter().filter(|p| peer.have.contains(*p) && self.may_begin(*p));
        if !peer.is_seed() {
            return fitting.next();
        }
        let first = fitting.next()?;
        let least = self.rarity.availability(first);
        let equals = fitting.take_while(|p| self.rarity.availability(*p) == least).take(LOOK);
        std::iter::once(first).chain(equals).min_by_key(|p| self.nearness(*p, peer))
    }

    /// Somebody else's piece with blocks that nobody was asked for, the furthest along.
    fn shareable(&self, peer: &Peer) -> Option<PieceIndex> {
        let free =
            self.active.iter().filter(|(piece, active)| active.free() > 0 && peer.have.contains(**piece));
        free.min_by_key(|(_, active)| active.free()).map(|(piece, _)| *piece)
    }

    /// The last request of the peer that has given nothing for longest, or, when nothing is left that nobody was
    /// asked for (end-game), of one that would take twice as long. `any`, or only what this peer suggests.
    fn take_over(&mut self, key: PeerKey, any: bool, now: Time) -> Option<(PieceIndex, Range<u32>)> {
        let peer = self.peers.get(&key)?;
        // Who was slow itself takes nothing over before it has answered.
        if peer.snubbed || peer.lost || peer.outstanding >= u64::from(peer.request_length()) {
            return None;
        }
        let end_game = self.rarity.is_empty() && self.active.values().all(|active| active.free() == 0);
        let ours = peer.arrival(u64::from(peer.request_length()));
        let slow = |(other, p): &(&PeerKey, &Peer)| {
            let waits = now.since(p.last_progress) >= STALLED || (end_game && p.arrival(0) > ours * 2);
            **other != key && p.outstanding > 0 && waits
        };
        let fits = |other: PeerKey, asked: &Asked| {
            let (range, blocks) = (asked.range, blocks_of(&asked.range));
            let waiting = |active: &Active| active.is_asked_of(blocks.clone(), other);
            !asked.released
                && range.length <= peer.max_request
                && peer.have.contains(range.piece)
                && (any || peer.suggested.contains(&range.piece))
                && self.active.get(&range.piece).is_some_and(waiting)
        };
        let slow = self.peers.iter().filter(slow).filter_map(|(other, p)| {
            let asked = p.asked.iter().rev().find(|asked| fits(*other, asked))?;
            Some((p.last_progress, *other, asked.range))
        });
        let (_, other, range) = slow.min_by_key(|(since, ..)| *since)?;
        self.peers.get_mut(&other)?.lose(range);
        self.mark(other);
        let blocks = blocks_of(&range);
        self.active.get_mut(&range.piece)?.reassign(blocks.clone(), key);
        Some((range.piece, blocks))
    }

    /// Whether a peer may be asked for pieces that it did not suggest. A seed that hands out pieces gives each to
    /// one leecher first; asking it for others makes it send twice what the others are about to pass on.
    fn may_choose(&mut self, key: PeerKey, now: Time) -> bool {
        let waiting = self.peers.iter().any(|(other, p)| *other != key && p.outstanding > 0);
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        if !peer.suggests || !peer.is_seed() {
            return true;
        }
        if peer.outstanding > 0 && peer.dry_since.is_none() {
            return false;
        }
        let since = *peer.dry_since.get_or_insert(now);
        !waiting || now.since(since) >= HOLD_OFF
    }

    fn has_free(&self, piece: &PieceIndex, peer: &Peer) -> bool {
        self.active.get(piece).is_some_and(|active| active.free() > 0) && peer.have.contains(*piece)
    }

    fn may_begin(&self, piece: PieceIndex) -> bool {
        let size = u64::from(self.geometry.piece_size(piece));
        self.active.is_empty() || self.active_bytes + size <= self.config.max_active
    }

    /// How near we stand to a piece among the leechers we know, smaller being nearer: every leecher sees the same
    /// order, so that at a seed they take different pieces (rendezvous hashing). For a leecher's pieces, no order.
    fn nearness(&self, piece: PieceIndex, peer: &Peer) -> u32 {
        if !peer.is_seed() {
            return 0;
        }
        let ours = mix(self.config.random_seed, piece);
        let nearer = |p: &&Peer| !p.is_seed() && mix(tag(p), piece) > ours;
        self.peers.values().filter(nearer).count() as u32
    }
}

/// A peer's place on the ring of rendezvous hashing; the driver seeds our own swarm with our own id's.
fn tag(peer: &Peer) -> u64 {
    id_tag(&peer.info.id)
}

/// The number by which a peer id takes part in rendezvous hashing; give our own as [`crate::Config::random_seed`].
pub(crate) fn id_tag(id: &wire::PeerId) -> u64 {
    let bytes = id.as_bytes();
    let tail = bytes.last_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(tail)
}

fn mix(tag: u64, piece: PieceIndex) -> u64 {
    let mut x = tag ^ u64::from(piece.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use metainfo::Geometry;
    use wire::PeerId;

    use super::*;
    use crate::{BlockVerdict, Config, PeerInfo, PieceSet};

    const SLOW: PeerKey = PeerKey(1);
    const IDLE: PeerKey = PeerKey(2);

    fn said(swarm: &mut Swarm, key: PeerKey) -> Vec<Message> {
        let mut messages = Vec::new();
        swarm.drain_messages(key, &mut messages);
        messages
    }

    #[test]
    fn a_request_that_waits_is_moved_to_an_idle_peer_and_not_doubled() {
        let geometry = Geometry::new(2 * 65536, 65536).expect("valid");
        let mut swarm = Swarm::new(geometry, PieceSet::empty(2), Config::default());
        let mut now = Time(1);
        for key in [SLOW, IDLE] {
            let address = ([10, 0, 0, key.0 as u8], 6881).into();
            let info = PeerInfo { address, id: PeerId::ours([key.0 as u8; 12]), fast: true, incoming: false };
            swarm.on_connected(key, info, now);
            swarm.on_limits(key, Some(65536), Some(100));
            swarm.on_message(key, Message::HaveAll, now);
        }
        swarm.on_message(SLOW, Message::Unchoke, now);
        said(&mut swarm, SLOW);
        swarm.on_message(IDLE, Message::Unchoke, now);
        assert!(!said(&mut swarm, IDLE).iter().any(|m| matches!(m, Message::Request(_))), "not at once");

        now = now + STALLED;
        swarm.on_tick(now);
        let cancelled: Vec<BlockRange> = said(&mut swarm, SLOW)
            .into_iter()
            .filter_map(|m| if let Message::Cancel(range) = m { Some(range) } else { None })
            .collect();
        let [moved] = cancelled.as_slice() else { panic!("one at a time: {cancelled:?}") };
        assert!(said(&mut swarm, IDLE).contains(&Message::Request(*moved)));

        // It was on its way already, and is as good as the other.
        let verdict = swarm.on_block(SLOW, *moved, now);
        assert_eq!(verdict, BlockVerdict::Keep { begin: moved.begin, length: moved.length });
        assert!(said(&mut swarm, IDLE).contains(&Message::Cancel(*moved)));
    }

    #[test]
    fn who_lost_a_request_takes_none_before_it_has_answered() {
        let geometry = Geometry::new(16384, 16384).expect("valid");
        let mut swarm = Swarm::new(geometry, PieceSet::empty(1), Config::default());
        let mut now = Time(1);
        for key in [SLOW, IDLE] {
            let address = ([10, 0, 0, key.0 as u8], 6881).into();
            let info =
                PeerInfo { address, id: PeerId::ours([key.0 as u8; 12]), fast: false, incoming: false };
            swarm.on_connected(key, info, now);
            swarm.on_message(key, Message::HaveAll, now);
            swarm.on_message(key, Message::Unchoke, now);
        }
        assert!(said(&mut swarm, SLOW).iter().any(|m| matches!(m, Message::Request(_))));
        // Neither ever gives anything: the only block does not go to and fro between them until they are given up.
        let mut requests = 0;
        for _ in 0..35 {
            now = now + STALLED;
            swarm.on_tick(now);
            for key in [SLOW, IDLE] {
                let said = said(&mut swarm, key);
                requests += said.iter().filter(|m| matches!(m, Message::Request(_))).count();
            }
        }
        assert_eq!(requests, 1);
    }
}
