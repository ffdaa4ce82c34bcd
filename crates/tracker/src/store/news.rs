//! What other trackers of a cluster tell of their peers, and what is told of ours.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use announce::{
    Event,
    cluster::{Happened, Holds, News},
};
use metainfo::InfoHash;

use super::{
    peers::{PeerStore, Shard},
    request::{Announce, Outcome},
    swarm::{Kind, Record, Who},
    torrent::Torrent,
};

impl PeerStore {
    /// Takes in news of a peer that announced at another tracker. `None` where something newer is known of it, or the
    /// news is too old. It is kept, given away and forgotten like a peer of our own, and is changed by its key alone
    /// here too; but it is not told on.
    pub(crate) fn hear(&self, now: Duration, info_hash: &InfoHash, news: &News) -> Option<Outcome> {
        self.enter(now, info_hash, &News { who: news.who | Who::ELSEWHERE, ..*news })
    }

    /// The same of a peer that announced here.
    pub(crate) fn enter(&self, now: Duration, info_hash: &InfoHash, news: &News) -> Option<Outcome> {
        if u64::from(news.age) / self.ticks.length > u64::from(self.ticks.peer_age) {
            return None;
        }
        let port = news.addr.port();
        if port == 0 {
            return Some(Outcome::Deaf);
        }
        match news.addr.ip() {
            IpAddr::V4(ip) => self.enter_of::<4, 6>(now, info_hash, news, (ip.octets(), port)),
            IpAddr::V6(ip) => self.enter_of::<16, 18>(now, info_hash, news, (ip.octets(), port)),
        }
    }

    fn enter_of<const A: usize, const W: usize>(
        &self,
        now: Duration,
        info_hash: &InfoHash,
        news: &News,
        (ip, port): ([u8; A], u16),
    ) -> Option<Outcome> {
        let wire = wire(ip, port);
        let seen = self.ticks.before(now, news.age);
        let now = self.ticks.at(now);
        let age = now.wrapping_sub(seen);
        let hash = self.secret.torrent(info_hash.as_bytes());
        let event = match news.happened {
            Happened::Announced => Event::None,
            Happened::Completed => Event::Completed,
            Happened::Stopped => Event::Stopped,
        };
        let kind = match news.holds {
            Holds::Part => Kind::Downloader,
            Holds::Selection => Kind::Paused,
            Holds::All => Kind::Seed,
        };
        let who = Who(news.who);
        let mut record = Record { wire, hash: self.secret.address(&wire), who, seen, kind, id: &[0; 20] };
        let mut shard = self.shard(hash);
        let shard = &mut *shard;
        let stopped = event == Event::Stopped;
        let opened = self.open(shard, hash, info_hash, || stopped.then_some(Outcome::Stopped));
        let (torrent, indexes) = match opened {
            Ok(opened) => opened,
            Err(outcome) => return Some(outcome),
        };
        let swarm = torrent.swarm::<W>(indexes, &self.secret);
        if let Some(at) = swarm.find(&record.wire, record.hash) {
            let known = now.wrapping_sub(swarm.seen(at));
            let is_ours = known == age && !swarm.who(at).elsewhere();
            // That it left another is told late: it may have come here since.
            let late = is_ours && stopped && news.age > 0;
            if known < age || late {
                return None;
            }
            if is_ours {
                // It announces here as well.
                record.who.0 &= !Who::ELSEWHERE;
            }
        }
        let (outcome, _) = self.take(torrent, indexes, event, &record);
        if torrent.is_empty() {
            self.close(shard, hash, info_hash);
        }
        Some(outcome)
    }

    /// What others are told of an announce that was taken here.
    pub(crate) fn news(&self, request: &Announce<'_>) -> News {
        let happened = match request.event {
            Event::Stopped => Happened::Stopped,
            Event::Completed => Happened::Completed,
            _ => Happened::Announced,
        };
        let holds = holds(request.kind());
        News { addr: request.addr(), who: self.who(request).0, holds, happened, age: 0 }
    }

    /// Shows the peers of one shard that announced here and are not too old, as they are now, for `step` of
    /// `0..steps()`; or all that are not too old, those too that others told of. It is locked meanwhile.
    pub(crate) fn visit_news(
        &self,
        now: Duration,
        step: usize,
        all: bool,
        mut to: impl FnMut(&InfoHash, &News),
    ) {
        let Some(mut shard) = self.shard_at(step) else { return };
        let now = self.ticks.at(now);
        let Shard { torrents, indexes, .. } = &mut *shard;
        for torrent in torrents.iter_mut() {
            let info_hash = torrent.info_hash();
            self.news_of::<6>((now, all), torrent, indexes, |wire, mut news| {
                let [a, b, c, d, high, low] = *wire;
                news.addr = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
                to(&info_hash, &news);
            });
            self.news_of::<18>((now, all), torrent, indexes, |wire, mut news| {
                let [ip @ .., high, low] = *wire;
                news.addr = SocketAddr::from((ip, u16::from_be_bytes([high, low])));
                to(&info_hash, &news);
            });
        }
    }

    fn news_of<const W: usize>(
        &self,
        (now, all): (u8, bool),
        torrent: &mut Torrent,
        indexes: &mut super::swarm::Indexes,
        mut to: impl FnMut(&[u8; W], News),
    ) {
        let swarm = torrent.swarm::<W>(indexes, &self.secret);
        for at in 0..swarm.counts.len() {
            let (who, age) = (swarm.who(at), now.wrapping_sub(swarm.seen(at)));
            let Some(wire) = swarm.wires.get(at) else { return };
            if (who.elsewhere() && !all) || age > self.ticks.peer_age {
                continue;
            }
            let news = News {
                addr: SocketAddr::from(([0; 4], 0)),
                who: who.0,
                holds: holds(swarm.kind(at)),
                happened: Happened::Announced,
                age: u32::try_from(u64::from(age) * self.ticks.length).unwrap_or(u32::MAX),
            };
            to(wire, news);
        }
    }
}

const fn holds(kind: Kind) -> Holds {
    match kind {
        Kind::Downloader => Holds::Part,
        Kind::Paused => Holds::Selection,
        Kind::Seed => Holds::All,
    }
}

fn wire<const A: usize, const W: usize>(ip: [u8; A], port: u16) -> [u8; W] {
    let mut bytes = ip.into_iter().chain(port.to_be_bytes());
    std::array::from_fn(|_| bytes.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use wire::PeerId;

    use super::{
        super::{Limits, Name, Peers},
        *,
    };

    const LIMITS: Limits = Limits {
        torrents: 100,
        peers: 1000,
        peer_age: Duration::from_secs(100),
        interval: Duration::from_secs(50),
        numwant: 50,
        max_numwant: 200,
        ids: false,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn request(ip: &str, key: u32, left: u64, event: Event) -> Announce<'static> {
        Announce {
            info_hash: InfoHash::from_bytes([1; 20]),
            peer_id: PeerId::from_bytes([key as u8; 20]),
            ip: ip.parse().expect("an address"),
            port: 7,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            numwant: None,
            key: Name::number(key),
            both_families: true,
            ids: false,
            passkey: b"",
        }
    }

    /// Two stores of one cluster.
    fn stores() -> [PeerStore; 2] {
        [1, 2].map(|seed| PeerStore::of_cluster(LIMITS, seed, 99))
    }

    /// An announce at one, and what the other hears of it, `late` seconds later.
    fn tell(
        [one, other]: [&PeerStore; 2],
        now: u64,
        late: u32,
        request: &Announce<'_>,
    ) -> (Outcome, Option<Outcome>) {
        let outcome = one.announce(at(now), request, &mut Peers::new()).outcome;
        let news = News { age: late, ..one.news(request) };
        (outcome, other.hear(at(now + u64::from(late)), &request.info_hash, &news))
    }

    fn own(store: &PeerStore, now: u64) -> Vec<(String, u32)> {
        let mut own = Vec::new();
        for step in 0..store.steps() {
            store.visit_news(at(now), step, false, |_, news| own.push((news.addr.to_string(), news.age)));
        }
        own.sort_unstable();
        own
    }

    fn counts(store: &PeerStore) -> Option<(u32, u32, u32)> {
        let stats = store.scrape(&InfoHash::from_bytes([1; 20]))?;
        Some((stats.complete, stats.incomplete, stats.downloaded))
    }

    #[test]
    fn a_peer_that_was_told_of_is_given_like_our_own_and_not_told_on() {
        let [a, b] = stores();
        for ip in ["10.0.0.1", "fd00::1"] {
            let told = tell([&a, &b], 5, 0, &request(ip, 11, 5, Event::Started));
            assert_eq!(told, (Outcome::Added, Some(Outcome::Added)));
        }
        let mut peers = Peers::new();
        b.announce(at(6), &request("10.0.0.9", 12, 5, Event::Started), &mut peers);
        let given: Vec<String> = peers.iter().map(|(addr, _)| addr.to_string()).collect();
        assert_eq!(given, ["10.0.0.1:7", "[fd00::1]:7"]);
        assert_eq!(own(&a, 8), [("10.0.0.1:7".to_owned(), 3), ("[fd00::1]:7".to_owned(), 3)]);
        assert_eq!(own(&b, 8), [("10.0.0.9:7".to_owned(), 2)]);
        assert_eq!(own(&a, 106), [], "too old");
    }

    #[test]
    fn a_peer_that_moves_with_its_key_goes_on_and_a_stranger_cannot_stop_it_anywhere() {
        let [a, b] = stores();
        tell([&a, &b], 0, 0, &request("10.0.0.1", 11, 5, Event::Started));
        // Another behind the same address, at either tracker.
        for pair in [[&a, &b], [&b, &a]] {
            let told = tell(pair, 10, 0, &request("10.0.0.1", 12, 0, Event::Stopped));
            assert_eq!(told, (Outcome::Foreign, Some(Outcome::Foreign)));
        }
        assert_eq!((counts(&a), counts(&b)), (Some((0, 1, 0)), Some((0, 1, 0))));
        // The first tracker is dead: the peer goes on at the second, which tells of it from then on.
        let moved = tell([&b, &a], 20, 0, &request("10.0.0.1", 11, 5, Event::None));
        assert_eq!(moved, (Outcome::Renewed, Some(Outcome::Renewed)));
        assert_eq!((own(&a, 20).len(), own(&b, 20).len()), (0, 1));
        let done = tell([&b, &a], 21, 0, &request("10.0.0.1", 11, 0, Event::Completed));
        assert_eq!(done, (Outcome::Renewed, Some(Outcome::Renewed)));
        assert_eq!((counts(&a), counts(&b)), (Some((1, 0, 1)), Some((1, 0, 1))));
        let gone = tell([&b, &a], 22, 0, &request("10.0.0.1", 11, 0, Event::Stopped));
        assert_eq!(gone, (Outcome::Stopped, Some(Outcome::Stopped)));
        assert_eq!((a.totals(), b.totals()), ((0, 0), (0, 0)));
    }

    #[test]
    fn older_news_changes_nothing_and_news_expires_by_its_own_age() {
        let [a, b] = stores();
        let leech = request("10.0.0.1", 11, 5, Event::Started);
        tell([&a, &b], 100, 0, &request("10.0.0.1", 11, 0, Event::Completed));
        for event in [Event::None, Event::Stopped] {
            let old = News { age: 30, ..a.news(&Announce { event, ..leech }) };
            assert_eq!(b.hear(at(110), &leech.info_hash, &old), None);
        }
        assert_eq!(counts(&b), Some((1, 0, 1)));
        let other = Announce { port: 8, ..leech };
        let news = |age| News { age, ..a.news(&other) };
        assert_eq!(b.hear(at(120), &other.info_hash, &news(101)), None, "too old");
        assert_eq!(b.hear(at(120), &other.info_hash, &news(90)), Some(Outcome::Added));
        (0..b.steps()).for_each(|step| {
            b.expire(at(131), step);
        });
        assert_eq!(counts(&b), Some((1, 0, 1)), "the one that came with 90 seconds is gone after 10 more");
        let nobody = InfoHash::from_bytes([9; 20]);
        let stopped = News { happened: Happened::Stopped, ..news(0) };
        assert_eq!(b.hear(at(131), &nobody, &stopped), Some(Outcome::Stopped));
        assert_eq!(b.totals(), (1, 1));
    }

    #[test]
    fn a_download_counts_once_though_it_is_announced_at_both() {
        let [a, b] = stores();
        let done = request("10.0.0.1", 11, 0, Event::Completed);
        tell([&a, &b], 0, 0, &Announce { left: 5, event: Event::Started, ..done });
        tell([&a, &b], 1, 0, &done);
        tell([&b, &a], 1, 0, &done);
        tell([&a, &b], 2, 0, &done);
        assert_eq!((counts(&a), counts(&b)), (Some((1, 0, 1)), Some((1, 0, 1))));
        // Announced at both within a tick, it is told of by both.
        let [a, b] = stores();
        let both = request("10.0.0.1", 11, 5, Event::Started);
        a.announce(at(0), &both, &mut Peers::new());
        b.announce(at(0), &both, &mut Peers::new());
        a.hear(at(0), &both.info_hash, &b.news(&both));
        b.hear(at(0), &both.info_hash, &a.news(&both));
        assert_eq!((own(&a, 0).len(), own(&b, 0).len()), (1, 1));
    }

    #[test]
    fn a_member_that_restarted_is_told_its_own_former_peers_by_the_others() {
        let [a, b] = stores();
        tell([&a, &b], 100, 0, &request("10.0.0.1", 11, 0, Event::Completed));
        tell([&a, &b], 100, 0, &request("fd00::1", 11, 5, Event::Started));
        // The clock of the one that is started anew begins at 0: what it is told was before.
        let again = PeerStore::of_cluster(LIMITS, 3, 99);
        let told = |all| {
            (0..b.steps()).for_each(|step| {
                b.visit_news(at(160), step, all, |info_hash, news| {
                    again.hear(at(2), info_hash, news);
                });
            });
            (again.totals(), counts(&again))
        };
        assert_eq!(told(false), ((0, 0), None));
        assert_eq!(told(true), ((1, 2), Some((1, 1, 0))));
        assert_eq!(own(&again, 2), [], "nothing goes round");
        (0..again.steps()).for_each(|step| {
            again.expire(at(43), step);
        });
        assert_eq!(again.totals(), (0, 0), "they grow older with each telling");
    }

    #[test]
    fn who_has_come_over_is_not_removed_by_the_word_that_he_left_another() {
        let few = Limits { peer_age: Duration::from_secs(1200), ..LIMITS };
        let [a, b] = [1, 2].map(|seed| PeerStore::of_cluster(few, seed, 99));
        let peer = request("10.0.0.1", 11, 5, Event::Started);
        // Ten seconds are one tick.
        b.announce(at(105), &peer, &mut Peers::new());
        let left = News { happened: Happened::Stopped, ..a.news(&peer) };
        assert_eq!(b.hear(at(108), &peer.info_hash, &News { age: 6, ..left }), None);
        assert_eq!(b.hear(at(108), &peer.info_hash, &left), Some(Outcome::Stopped), "just now");
    }

    #[test]
    fn limits_hold_for_what_is_told_too() {
        let few = Limits { torrents: 1, peers: 2, ..LIMITS };
        let store = PeerStore::of_cluster(few, 1, 2);
        let hear = |torrent: u8, port| {
            let request = Announce { port, ..request("10.0.0.1", 11, 5, Event::Started) };
            store.hear(at(0), &InfoHash::from_bytes([torrent; 20]), &store.news(&request))
        };
        assert_eq!((hear(1, 1), hear(1, 2)), (Some(Outcome::Added), Some(Outcome::Added)));
        assert_eq!((hear(1, 3), hear(2, 1)), (Some(Outcome::Full), Some(Outcome::Full)));
        assert_eq!(store.totals(), (1, 2));
    }
}
