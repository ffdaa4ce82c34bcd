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
/// The most peers that forwarders are told of, over all torrents.
const ALL_PEERS: usize = 1_000_000;
/// The most peers of forwarders' answers that are kept, over all torrents.
const ALL_ANSWERED: usize = 4_000_000;
/// What is kept for each peer and forwarder, and for each torrent and forwarder, is kept this often at most.
const ALL_MARKS: usize = 4_000_000;
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
    shards: Vec<Mutex<Shard>>,
    forwarders: usize,
    most: Most,
    /// How long a torrent, and an answer, is kept without an announce.
    keep: Duration,
}

/// How much one part of the table holds at most.
#[derive(Debug, Clone, Copy)]
struct Most {
    torrents: usize,
    peers: usize,
    answered: usize,
}

#[derive(Default)]
struct Shard {
    torrents: HashMap<InfoHash, Torrent>,
    /// Of all torrents.
    peers: usize,
    /// Of all torrents and forwarders.
    answered: usize,
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
        let marks = ALL_MARKS / forwarders.max(1);
        let most = Most {
            torrents: TORRENTS.min(marks) / SHARDS,
            peers: ALL_PEERS.min(marks) / SHARDS,
            answered: ALL_ANSWERED / SHARDS,
        };
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, forwarders, most, keep }
    }

    /// Takes note of an announce, and gives `each` the peers that forwarders know of the torrent.
    pub(crate) fn take(
        &self,
        now: Duration,
        (info_hash, peer, event): (InfoHash, PeerId, Event),
        each: impl FnMut(SocketAddr),
    ) -> Standing {
        let mut shard = self.shard(&info_hash);
        let Shard { torrents, peers: all_peers, .. } = &mut *shard;
        let full = torrents.len() >= self.most.torrents;
        let torrent = match torrents.get_mut(&info_hash) {
            Some(torrent) => torrent,
            None if full || event == Event::Stopped => return Standing { ask: Vec::new(), pending: false },
            None => {
                let answers = std::iter::repeat_with(|| None).take(self.forwarders).collect();
                torrents.entry(info_hash).or_insert(Torrent { seen: now, answers, peers: HashMap::new() })
            }
        };
        torrent.seen = now;
        if event == Event::Stopped {
            let ask = if torrent.peers.remove(&peer).is_some() {
                *all_peers = all_peers.saturating_sub(1);
                shrink(&mut torrent.peers);
                (0..self.forwarders).collect()
            } else {
                Vec::new()
            };
            return Standing { ask, pending: false };
        }
        let fresh = torrent.answers.iter().flatten().filter(|answer| now < answer.at + self.keep);
        fresh.flat_map(|answer| answer.peers.iter().copied()).for_each(each);
        if !torrent.peers.contains_key(&peer) {
            if torrent.peers.len() >= PEERS || *all_peers >= self.most.peers {
                return Standing { ask: Vec::new(), pending: false };
            }
            *all_peers += 1;
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
        (mut peers, interval): (Vec<SocketAddr>, Duration),
    ) {
        let mut shard = self.shard(&info_hash);
        let Shard { torrents, answered, .. } = &mut *shard;
        let Some(torrent) = torrents.get_mut(&info_hash) else { return };
        if let Some(answer) = torrent.answers.get_mut(forwarder) {
            let before = answer.as_ref().map_or(0, |answer| answer.peers.len());
            *answered = answered.saturating_sub(before);
            peers.truncate(ANSWER.min(self.most.answered.saturating_sub(*answered)));
            // It may have the room of the whole answer that it was taken from.
            peers.shrink_to_fit();
            *answered += peers.len();
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
        let Shard { torrents, peers, answered } = &mut *shard;
        (*peers, *answered) = (0, 0);
        torrents.retain(|_, torrent| {
            if now >= torrent.seen + self.keep {
                return false;
            }
            torrent.peers.retain(|_, peer| now < peer.seen + self.keep);
            shrink(&mut torrent.peers);
            for answer in torrent.answers.iter_mut().flatten() {
                if now >= answer.at + self.keep {
                    answer.peers = Vec::new();
                }
                *answered += answer.peers.len();
            }
            *peers += torrent.peers.len();
            true
        });
    }

    fn shard(&self, info_hash: &InfoHash) -> MutexGuard<'_, Shard> {
        let at = info_hash.as_bytes().last().map_or(0, |byte| usize::from(*byte)) % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back the room of those that have gone.
fn shrink(peers: &mut HashMap<PeerId, Peer>) {
    if peers.capacity() > 16 && peers.len() < peers.capacity() / 4 {
        peers.shrink_to(2 * peers.len());
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
        let shard = table.shard(&info_hash);
        assert_eq!((shard.torrents.len(), shard.peers, shard.answered), (0, 0, 0));
    }

    #[test]
    fn no_crowd_and_no_answer_grows_the_table_beyond_its_bounds() {
        let mut table = Table::new(2, at(100));
        table.most = Most { torrents: 2, peers: 3, answered: 250 };
        let known: SocketAddr = "10.0.0.9:1".parse().expect("an address");
        // All in one part of the table.
        let torrent =
            |n: u8| InfoHash::from_bytes([[n; 19].as_slice(), &[1]].concat().try_into().expect("20"));
        let asked = |table: &Table, n, peer, event| {
            table.take(at(1), (torrent(n), PeerId::from_bytes([peer; 20]), event), |_| {}).ask.len()
        };
        let counts = |table: &Table| {
            let shard = table.shard(&torrent(1));
            (shard.torrents.len(), shard.peers, shard.answered)
        };
        assert_eq!([1, 2, 3].map(|n| asked(&table, n, 1, Event::Started)), [2, 2, 0]);
        assert_eq!([2, 3].map(|peer| asked(&table, 1, peer, Event::Started)), [2, 0]);
        assert_eq!(asked(&table, 1, 2, Event::Completed), 2, "whoever is in is told of");
        assert_eq!(asked(&table, 1, 2, Event::Stopped), 2);
        assert_eq!(asked(&table, 1, 3, Event::Started), 2, "its place is free");
        let answer = |table: &Table, n, forwarder, peers| {
            let one = (torrent(n), PeerId::from_bytes([1; 20]));
            table.answered(at(2), forwarder, one, (vec![known; peers], at(60)));
        };
        answer(&table, 1, 0, 100_000);
        assert_eq!(counts(&table), (2, 3, ANSWER));
        answer(&table, 1, 0, 100);
        answer(&table, 1, 1, 200);
        assert_eq!(counts(&table), (2, 3, 250), "what is too much is cut off");
        let mut whole = Vec::with_capacity(100_000);
        whole.push(known);
        table.answered(at(2), 0, (torrent(2), PeerId::from_bytes([1; 20])), (whole, at(60)));
        (0..SHARDS).for_each(|step| table.sweep(at(3), step));
        assert_eq!(counts(&table), (2, 3, 250));
        let shard = table.shard(&torrent(1));
        let room = |torrent: &Torrent| {
            torrent.answers.iter().flatten().map(|one| one.peers.capacity()).sum::<usize>()
        };
        assert!(shard.torrents.values().map(room).sum::<usize>() <= 250);
    }

    #[test]
    fn a_crowd_that_has_gone_leaves_no_room_taken() {
        let table = Table::new(1, at(100));
        let one = |n: u16, event| {
            let id = [[0; 18].as_slice(), &n.to_be_bytes()].concat().try_into().expect("20");
            table.take(at(1), (InfoHash::from_bytes([1; 20]), PeerId::from_bytes(id), event), |_| {});
        };
        (0..1000).for_each(|n| one(n, Event::Started));
        (0..1000).for_each(|n| one(n, Event::Stopped));
        let shard = table.shard(&InfoHash::from_bytes([1; 20]));
        assert!(shard.torrents.values().all(|torrent| torrent.peers.capacity() <= 64));
    }
}
