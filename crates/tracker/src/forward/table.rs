//! What forwarders have answered, and whom to ask next. No I/O, no clock.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use announce::Event;
use metainfo::InfoHash;
use wire::PeerId;

/// The most torrents that are kept; of more, nothing is forwarded.
const TORRENTS: usize = 200_000;
/// The most peers of a torrent that forwarders are told of.
const PEERS: usize = 2_000;
/// The most peers that are kept of one forwarder's answer.
pub(crate) const ANSWER: usize = 200;
/// The table's parts, each with a lock of its own.
const SHARDS: usize = 64;
/// A forwarder that failed is asked again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// The shortest and longest pause that a forwarder may ask for.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// How a torrent stands with the forwarders, for the answer to an announce.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Which forwarders are to be told of this announce now.
    pub(crate) ask: Vec<usize>,
    /// Some have never answered for this torrent, but may do so soon.
    pub(crate) pending: bool,
}

/// All torrents that were announced here lately.
pub(crate) struct Table {
    shards: Vec<Mutex<HashMap<InfoHash, Torrent>>>,
    forwarders: usize,
    /// How long a torrent, and an answer, is kept without an announce.
    keep: Duration,
}

struct Torrent {
    seen: Duration,
    /// By forwarder.
    answers: Vec<Option<Answer>>,
    peers: HashMap<PeerId, Peer>,
}

struct Answer {
    at: Duration,
    peers: Vec<SocketAddr>,
}

struct Peer {
    seen: Duration,
    /// By forwarder: when it is to be told of this peer again.
    next: Vec<Duration>,
}

impl Table {
    pub(crate) fn new(forwarders: usize, keep: Duration) -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, forwarders, keep }
    }

    /// Takes note of an announce, and gives `each` the peers that forwarders know of the torrent.
    pub(crate) fn take(
        &self,
        now: Duration,
        (info_hash, peer, event): (InfoHash, PeerId, Event),
        each: impl FnMut(SocketAddr),
    ) -> Standing {
        let mut shard = self.shard(&info_hash);
        let full = shard.len() >= TORRENTS / SHARDS;
        let torrent = match shard.get_mut(&info_hash) {
            Some(torrent) => torrent,
            None if full || event == Event::Stopped => return Standing { ask: Vec::new(), pending: false },
            None => {
                let answers = std::iter::repeat_with(|| None).take(self.forwarders).collect();
                shard.entry(info_hash).or_insert(Torrent { seen: now, answers, peers: HashMap::new() })
            }
        };
        torrent.seen = now;
        if event == Event::Stopped {
            let ask = if torrent.peers.remove(&peer).is_some() {
                (0..self.forwarders).collect()
            } else {
                Vec::new()
            };
            return Standing { ask, pending: false };
        }
        let fresh = torrent.answers.iter().flatten().filter(|answer| now < answer.at + self.keep);
        fresh.flat_map(|answer| answer.peers.iter().copied()).for_each(each);
        if torrent.peers.len() >= PEERS && !torrent.peers.contains_key(&peer) {
            return Standing { ask: Vec::new(), pending: false };
        }
        let forwarders = self.forwarders;
        let known = torrent
            .peers
            .entry(peer)
            .or_insert_with(|| Peer { seen: now, next: vec![Duration::ZERO; forwarders] });
        known.seen = now;
        // A client may repeat an event with every announce; forwarders need it once.
        let news = event == Event::Completed;
        let mut ask = Vec::new();
        for (forwarder, next) in known.next.iter_mut().enumerate() {
            if news || now >= *next {
                *next = now + AGAIN;
                ask.push(forwarder);
            }
        }
        let pending = !ask.is_empty() && torrent.answers.iter().any(Option::is_none);
        Standing { ask, pending }
    }

    /// A forwarder has answered for a peer: with these, and it wants to hear of the peer again after `interval`.
    pub(crate) fn answered(
        &self,
        now: Duration,
        forwarder: usize,
        (info_hash, peer): (InfoHash, PeerId),
        (peers, interval): (Vec<SocketAddr>, Duration),
    ) {
        let mut shard = self.shard(&info_hash);
        let Some(torrent) = shard.get_mut(&info_hash) else { return };
        if let Some(answer) = torrent.answers.get_mut(forwarder) {
            *answer = Some(Answer { at: now, peers });
        }
        let next = torrent.peers.get_mut(&peer).and_then(|peer| peer.next.get_mut(forwarder));
        if let Some(next) = next {
            *next = now + interval.clamp(PAUSE.0, PAUSE.1);
        }
    }

    /// Forgets what was not announced for long, in one part of the table.
    pub(crate) fn sweep(&self, now: Duration, step: usize) {
        let Some(shard) = self.shards.get(step % SHARDS) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.retain(|_, torrent| {
            torrent.peers.retain(|_, peer| now < peer.seen + self.keep);
            now < torrent.seen + self.keep
        });
    }

    fn shard(&self, info_hash: &InfoHash) -> MutexGuard<'_, HashMap<InfoHash, Torrent>> {
        let at = info_hash.as_bytes().last().map_or(0, |byte| usize::from(*byte)) % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn announce(peer: u8, event: Event) -> (InfoHash, PeerId, Event) {
        (InfoHash::from_bytes([1; 20]), PeerId::from_bytes([peer; 20]), event)
    }

    fn take(table: &Table, now: u64, peer: u8, event: Event) -> (Standing, Vec<SocketAddr>) {
        let mut peers = Vec::new();
        let standing = table.take(at(now), announce(peer, event), |addr| peers.push(addr));
        (standing, peers)
    }

    #[test]
    fn late_answers_go_into_the_next_answer_and_forwarders_are_asked_as_they_wish() {
        let table = Table::new(2, at(1000));
        let (standing, peers) = take(&table, 0, 1, Event::Started);
        assert_eq!((standing, peers.len()), (Standing { ask: vec![0, 1], pending: true }, 0));
        let known: SocketAddr = "10.0.0.9:1".parse().expect("an address");
        let (info_hash, peer, _) = announce(1, Event::None);
        table.answered(at(2), 0, (info_hash, peer), (vec![known], at(300)));
        // The second never answers: it is asked again after a while, the first when it wants to be.
        assert_eq!(take(&table, 10, 1, Event::None), (Standing { ask: vec![], pending: false }, vec![known]));
        assert_eq!(take(&table, 40, 1, Event::None).0.ask, [1]);
        assert_eq!(take(&table, 302, 1, Event::None).0.ask, [0, 1]);
        // News at once, and another peer is another matter.
        assert_eq!(take(&table, 303, 1, Event::Completed).0.ask, [0, 1]);
        assert_eq!(take(&table, 303, 2, Event::Started).0.ask, [0, 1]);
        assert_eq!(take(&table, 304, 2, Event::Stopped).0.ask, [0, 1]);
        assert_eq!(take(&table, 304, 2, Event::Stopped).0.ask, Vec::<usize>::new(), "told once");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let table = Table::new(1, at(100));
        take(&table, 0, 1, Event::Started);
        let (info_hash, peer, _) = announce(1, Event::None);
        table.answered(
            at(1),
            0,
            (info_hash, peer),
            (vec!["10.0.0.9:1".parse().expect("an address")], at(60)),
        );
        assert_eq!(take(&table, 50, 2, Event::Started).1.len(), 1);
        assert_eq!(take(&table, 120, 2, Event::Started).1.len(), 0, "the answer is too old");
        (0..SHARDS).for_each(|step| table.sweep(at(130), step));
        table.answered(at(131), 0, (info_hash, peer), (vec![], at(60)));
        (0..SHARDS).for_each(|step| table.sweep(at(400), step));
        assert!(table.shard(&info_hash).is_empty());
    }
}
