//! Whose turn it is to be sent to.
//!
//! A hundred leechers served at once each get a hundredth of the uplink, and for a long time none of them has a
//! whole piece to pass on. So a few are served at a time, about a piece each, and then the next. A peer that does
//! not take what it is sent keeps its turn only for a moment, so that a slow one holds up nobody.

use std::{collections::VecDeque, time::Duration};

use crate::{peer::PeerKey, time::Time};

/// How many peers are served at a time.
const AT_ONCE: usize = 4;
/// How long a turn lasts at most.
const TURN: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(crate) struct Turns {
    serving: Vec<Turn>,
    waiting: VecDeque<PeerKey>,
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
            self.waiting.push_back(peer);
        }
    }

    /// A peer waits no longer.
    pub(crate) fn leave(&mut self, peer: PeerKey) {
        self.serving.retain(|turn| turn.peer != peer);
        self.waiting.retain(|waiting| *waiting != peer);
    }

    /// Ends the turns that are over, and begins the next. Returns those who may now be sent to.
    pub(crate) fn rotate(&mut self, burst: u64, now: Time) -> Vec<PeerKey> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let over = |turn: &mut Turn| turn.sent >= burst || now.since(turn.since) >= TURN;
        self.waiting.extend(self.serving.extract_if(.., over).map(|turn| turn.peer));
        let next = self.waiting.len().min(AT_ONCE.saturating_sub(self.serving.len()));
        let next: Vec<PeerKey> = self.waiting.drain(..next).collect();
        self.serving.extend(next.iter().map(|peer| Turn { peer: *peer, since: now, sent: 0 }));
        next
    }

    pub(crate) fn is_serving(&self, peer: PeerKey) -> bool {
        self.serving.iter().any(|turn| turn.peer == peer)
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
    use super::*;

    #[test]
    fn everybody_gets_a_turn_and_a_slow_peer_holds_up_nobody() {
        let mut turns = Turns::default();
        (0..6).for_each(|peer| turns.join(PeerKey(peer)));
        let first: Vec<_> = turns.rotate(100, Time(0)).into_iter().map(|p| p.0).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        turns.sent(PeerKey(1), 100);
        assert_eq!(turns.rotate(100, Time(1)), [PeerKey(4)]);
        assert!(!turns.is_serving(PeerKey(1)));
        let rest = turns.rotate(100, Time(0) + TURN);
        assert_eq!(rest, [PeerKey(5), PeerKey(1), PeerKey(0)], "0, 2 and 3 sat on their turns");
        turns.leave(PeerKey(5));
        turns.leave(PeerKey(2));
        assert_eq!(turns.rotate(100, Time(0) + TURN), [PeerKey(3)]);
        assert!(!turns.is_crowded());
    }
}
