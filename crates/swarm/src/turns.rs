//! Whose turn it is to be sent to.
//!
//! A hundred leechers served at once each get a hundredth of the uplink, and for a long time none of them has a
//! whole piece to pass on. So a few are served at a time, about a piece each, and then the next. A peer that does
//! not take what it is sent keeps its turn only for a moment, so that a slow one holds up nobody.
//!
//! Whose turn is next is drawn by lot. Peers that learn of a piece at the same moment ask for it in the same order
//! everywhere; served in that order, the first would have everything before the last had anything to pass on.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::{peer::PeerKey, time::Time};

/// How many peers are served at a time.
const AT_ONCE: usize = 4;
/// How long a turn lasts at most.
const TURN: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(crate) struct Turns {
    serving: Vec<Turn>,
    waiting: Vec<PeerKey>,
}

#[derive(Debug)]
struct Turn {
    peer: PeerKey,
    since: Time,
    sent: u64,
}

impl Turns {
    /// A peer waits to be sent something.
    pub(crate) fn join(&mut self, peer: PeerKey) {
        if !self.is_serving(peer) && !self.waiting.contains(&peer) {
            self.waiting.push(peer);
        }
    }

    /// A peer waits no longer.
    pub(crate) fn leave(&mut self, peer: PeerKey) {
        self.serving.retain(|turn| turn.peer != peer);
        self.waiting.retain(|waiting| *waiting != peer);
    }

    /// Ends the turns that are over, and begins the next. Returns those who may now be sent to.
    pub(crate) fn rotate(&mut self, burst: u64, now: Time, rng: &mut impl Rng) -> Vec<PeerKey> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let over = |turn: &mut Turn| turn.sent >= burst || now.since(turn.since) >= TURN;
        let mut over: Vec<PeerKey> = self.serving.extract_if(.., over).map(|turn| turn.peer).collect();
        let mut next = Vec::new();
        // Whoever has just had a turn has another only if nobody else waits.
        for candidates in [&mut self.waiting, &mut over] {
            while self.serving.len() + next.len() < AT_ONCE && !candidates.is_empty() {
                next.push(candidates.swap_remove(rng.random_range(..candidates.len())));
            }
        }
        self.waiting.append(&mut over);
        self.serving.extend(next.iter().map(|peer| Turn { peer: *peer, since: now, sent: 0 }));
        next
    }

    pub(crate) fn is_serving(&self, peer: PeerKey) -> bool {
        self.serving.iter().any(|turn| turn.peer == peer)
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.serving.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn is_crowded(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A peer in its turn was sent so many bytes.
    pub(crate) fn sent(&mut self, peer: PeerKey, bytes: u32) {
        if let Some(turn) = self.serving.iter_mut().find(|turn| turn.peer == peer) {
            turn.sent += u64::from(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn everybody_gets_a_turn_and_a_slow_peer_holds_up_nobody() {
        let (mut turns, mut rng) = (Turns::default(), StdRng::seed_from_u64(1));
        (0..6).for_each(|peer| turns.join(PeerKey(peer)));
        let first = turns.rotate(100, Time(0), &mut rng);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), AT_ONCE);
        turns.sent(first[1], 100);
        let next = turns.rotate(100, Time(1), &mut rng);
        assert_eq!(next.len(), 1);
        assert!(!turns.is_serving(first[1]) && !first.contains(&next[0]));
        let after = turns.rotate(100, Time(0) + TURN, &mut rng);
        let sat = [first[0], first[2], first[3]];
        assert!(sat.iter().filter(|peer| turns.is_serving(**peer)).count() < 3, "they sat on their turns");
        let seen: BTreeSet<_> = first.iter().chain(&next).chain(&after).collect();
        assert_eq!(seen.len(), 6, "{seen:?}");
        (0..6).for_each(|peer| turns.leave(PeerKey(peer)));
        assert!(turns.is_idle() && !turns.is_crowded());
    }

    #[test]
    fn the_order_of_asking_is_not_the_order_of_turns() {
        let first = |seed| {
            let (mut turns, mut rng) = (Turns::default(), StdRng::seed_from_u64(seed));
            (0..100).for_each(|peer| turns.join(PeerKey(peer)));
            turns.rotate(100, Time(0), &mut rng)
        };
        let served: BTreeSet<_> = (0..20).flat_map(first).collect();
        assert!(served.len() > 40, "{}", served.len());
    }
}
