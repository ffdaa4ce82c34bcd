//! Peers that have left, as long as somebody may still hold them for present: one who was not told that they left, or
//! who is told of them by another that was not.

use std::{net::SocketAddr, time::Duration};

use announce::cluster::{Happened, Holds, News};
use metainfo::InfoHash;

use crate::halves::Halves;

/// How many are remembered, some 70 bytes each.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Gone {
    left: Halves<Key, Left>,
    /// When the younger half of them was begun, in seconds.
    begun: i64,
    /// How long each is needed, in seconds.
    keep: i64,
    /// How much too old an age may be told, in seconds: the store counts in ticks.
    tick: i64,
}

type Key = (InfoHash, SocketAddr);

#[derive(Debug, Clone, Copy)]
struct Left {
    /// In seconds of the tracker's clock; before 0 where it was before the start.
    at: i64,
    who: u16,
    /// Whether it left this tracker.
    own: bool,
}

/// The bit of `who` that is the receiver's to set.
const ELSEWHERE: u16 = 1;

impl Gone {
    pub(super) fn new(peer_age: Duration) -> Self {
        let keep = seconds(peer_age);
        Self { left: Halves::new(MOST), begun: 0, keep, tick: keep / 120 + 1 }
    }

    /// A peer has left.
    pub(super) fn left(&mut self, now: Duration, info_hash: InfoHash, news: &News, own: bool) {
        let (now, key) = (seconds(now), (info_hash, news.addr));
        if now - self.begun > self.keep {
            self.left.turn();
            self.begun = now;
        }
        self.left.insert(key, Left { at: now - i64::from(news.age), who: news.who, own });
    }

    /// A peer is there after all.
    pub(super) fn is_back(&mut self, info_hash: &InfoHash, news: &News) {
        self.left.remove(&(*info_hash, news.addr));
    }

    /// Whether the peer that news is of has left since.
    pub(super) fn has_left_since(&self, now: Duration, info_hash: &InfoHash, news: &News) -> bool {
        // Another that has the address since is another.
        self.left.get(&(*info_hash, news.addr)).is_some_and(|left| {
            let same = left.who | ELSEWHERE == news.who | ELSEWHERE;
            same && left.at > seconds(now) - i64::from(news.age) + self.tick
        })
    }

    /// Those who left this tracker within `age`, as news.
    pub(super) fn own(&self, now: Duration, age: Duration) -> Vec<(InfoHash, News)> {
        let all = self.left.iter().filter(|(_, left)| left.own);
        let news = all.filter_map(|(&(info_hash, addr), left)| {
            let ago =
                u32::try_from(seconds(now) - left.at).ok().filter(|&ago| u64::from(ago) <= age.as_secs())?;
            let (holds, happened) = (Holds::Part, Happened::Stopped);
            Some((info_hash, News { addr, who: left.who, holds, happened, age: ago }))
        });
        let mut news: Vec<_> = news.collect();
        news.sort_unstable_by_key(|(info_hash, _)| *info_hash);
        news
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(port: u16, age: u32) -> News {
        let (holds, happened) = (Holds::Part, Happened::Announced);
        News { addr: ([10, 0, 0, 1], port).into(), who: 8, holds, happened, age }
    }

    #[test]
    fn only_older_news_of_who_has_left_is_stale() {
        let (mut gone, torrent) = (Gone::new(Duration::from_secs(1500)), InfoHash::from_bytes([1; 20]));
        let at = Duration::from_secs;
        gone.left(at(100), torrent, &news(1, 0), true);
        gone.left(at(100), torrent, &news(2, 50), false);
        assert!(gone.has_left_since(at(160), &torrent, &news(1, 90)));
        assert!(!gone.has_left_since(at(160), &torrent, &news(1, 65)), "an age counts in ticks");
        assert!(!gone.has_left_since(at(160), &torrent, &News { who: 12, ..news(1, 90) }), "another");
        assert!(gone.has_left_since(at(160), &torrent, &news(2, 130)));
        assert!(!gone.has_left_since(at(160), &torrent, &news(2, 100)));
        let own = |gone: &Gone, now| -> Vec<(u16, u32)> {
            let told = gone.own(at(now), at(1500)).into_iter();
            told.map(|(_, news)| (news.addr.port(), news.age)).collect()
        };
        assert_eq!((own(&gone, 160), own(&gone, 1601)), (vec![(1, 60)], vec![]));
        gone.is_back(&torrent, &news(1, 0));
        assert_eq!(own(&gone, 160), []);
    }

    #[test]
    fn they_are_forgotten_in_time() {
        let (mut gone, torrent) = (Gone::new(Duration::from_secs(1500)), InfoHash::from_bytes([1; 20]));
        (1..=9).for_each(|port| gone.left(Duration::from_secs(1), torrent, &news(port, 0), true));
        for (later, left) in [(1600, 10), (3200, 2)] {
            gone.left(Duration::from_secs(later), torrent, &news(later as u16, 0), true);
            assert_eq!(gone.left.iter().count(), left);
        }
    }
}
