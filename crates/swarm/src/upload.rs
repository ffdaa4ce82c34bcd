//! Serving: whose requests are taken, and what is sent next.

use std::{cmp::Reverse, time::Duration};

use rand::seq::IndexedRandom;
use wire::{BlockRange, Message};

use crate::{
    peer::{Peer, PeerKey},
    swarm::Swarm,
    time::Time,
};

/// Most requests that a peer may have waiting; more are rejected.
pub(crate) const MOST_WAITING: usize = 2048;
/// How often the slots are given anew.
const ROUND: Duration = Duration::from_secs(10);

/// When the upload slots were last given.
#[derive(Debug, Default)]
pub(crate) struct Choker {
    last: Time,
}

impl Choker {
    pub(crate) fn is_due(&self, now: Time) -> bool {
        now.since(self.last) >= ROUND
    }
}

impl Swarm {
    /// The most requests that a peer may have waiting here; what the extension handshake tells as `reqq`.
    pub const REQUEST_QUEUE: usize = MOST_WAITING;

    /// Takes the next range to send to a peer. The driver sends it whole or ends the connection.
    pub fn next_upload(&mut self, key: PeerKey, now: Time) -> Option<BlockRange> {
        self.seeding.now = now;
        self.next_turns(now);
        if !self.turns.is_serving(key) {
            return None;
        }
        let peer = self.peers.get_mut(&key)?;
        let Some(range) = peer.uploads.pop_front() else {
            self.turns.leave(key);
            self.next_turns(now);
            return None;
        };
        self.turns.sent(key, range.length);
        peer.up.add(u64::from(range.length), now);
        peer.uploaded += u64::from(range.length);
        if let Some(assigned) = peer.assigned.iter_mut().find(|a| a.piece == range.piece) {
            assigned.sent = assigned.sent.saturating_add(range.length);
            if assigned.sent >= self.geometry.piece_size(range.piece) {
                self.suggest_more(key);
            }
        }
        Some(range)
    }

    /// Lets the next peers be sent to.
    pub(crate) fn next_turns(&mut self, now: Time) {
        for key in self.turns.rotate(u64::from(self.geometry.piece_length()), now, &mut self.rng) {
            self.mark(key);
        }
    }

    pub(crate) fn on_request(&mut self, key: PeerKey, range: BlockRange) -> Result<(), &'static str> {
        if !self.geometry.contains(range.piece, range.begin, range.length) {
            return Err("a request outside the torrent");
        }
        if range.length > wire::LONGEST_REQUEST {
            return Err("a request longer than is served");
        }
        let have = self.have.contains(range.piece);
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if peer.we_choke || !have || peer.uploads.len() >= MOST_WAITING {
            if peer.info.fast {
                peer.say(Message::Reject(range));
            }
        } else {
            peer.uploads.push_back(range);
            self.turns.join(key);
        }
        self.mark(key);
        Ok(())
    }

    pub(crate) fn on_cancel(&mut self, key: PeerKey, range: BlockRange) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if let Some(at) = peer.uploads.iter().position(|r| *r == range) {
            peer.uploads.remove(at);
            if peer.info.fast {
                peer.say(Message::Reject(range));
                self.mark(key);
            }
        }
        Ok(())
    }

    pub(crate) fn on_interest(&mut self, key: PeerKey, wants: bool, now: Time) -> Result<(), &'static str> {
        let changed = |peer: &&mut Peer| peer.they_interested != wants;
        let Some(peer) = self.peers.get_mut(&key).filter(changed) else { return Ok(()) };
        peer.they_interested = wants;
        if wants && peer.we_choke && self.served() < self.config.upload_slots {
            self.unchoke(key);
        } else if !wants {
            self.choke_round(now);
        }
        Ok(())
    }

    /// Gives the slots to those who give most, or, when we are complete, to those who take fastest; one slot goes
    /// to anybody at random, so that newcomers get a start. With slots for all, nobody is choked.
    pub(crate) fn choke_round(&mut self, now: Time) {
        self.choker.last = now;
        let complete = self.is_complete();
        let merit = |p: &Peer| if complete { p.up.last() } else { p.down.last() } as u64;
        let mut wanting: Vec<(PeerKey, u64)> =
            self.peers.iter().filter(|(_, p)| p.they_interested).map(|(key, p)| (*key, merit(p))).collect();
        let slots = self.config.upload_slots.max(1);
        if wanting.len() > slots {
            wanting.sort_by_key(|(key, merit)| (Reverse(*merit), *key));
            let lucky = wanting.get(slots - 1..).and_then(|rest| rest.choose(&mut self.rng)).copied();
            wanting.truncate(slots - 1);
            wanting.extend(lucky);
        }
        let served: std::collections::BTreeSet<PeerKey> = wanting.into_iter().map(|(key, _)| key).collect();
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            let choked = self.peers.get(&key).is_some_and(|p| p.we_choke);
            match (served.contains(&key), choked) {
                (true, true) => self.unchoke(key),
                (false, false) => self.choke(key),
                _ => {}
            }
        }
    }

    fn served(&self) -> usize {
        self.peers.values().filter(|p| !p.we_choke).count()
    }

    /// Suggestions go first, so that the peer's first request is already for what it was given.
    fn unchoke(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.we_choke = false;
        self.suggest_more(key);
        self.say(key, Message::Unchoke);
    }

    fn choke(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.we_choke = true;
        peer.say(Message::Choke);
        let waiting = std::mem::take(&mut peer.uploads);
        if peer.info.fast {
            peer.outbox.extend(waiting.into_iter().map(Message::Reject));
        }
        self.mark(key);
    }
}
