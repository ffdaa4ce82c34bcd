//! The cluster: trackers that tell one another of their peers, over TCP, sealed with a key that they share.
//!
//! Every member connects to every other and tells of what announces at itself, and of nothing that it was told: so
//! nothing goes round. First come all the peers that it has, with their ages, and those that have left it lately; then
//! the news as it happens, ten times a second. What is told stands in the store like what announces there, so that any
//! member answers for all, and the loss of one costs nothing but its news. A member that was started anew has lost all:
//! it is told of those too that were told of, its own of before among them. With each telling they grow older, so that
//! they are forgotten in their time wherever they are.
//!
//! ```text
//! announce ─► Outbox ─► pump ─► a queue for each Link ─► its member: Door ─► PeerStore::hear
//!                                    ▲ full: told anew from the store
//! ```
//!
//! Who has the key is believed as this tracker believes itself. Without it nothing can be read or made up; when, how
//! much and between whom is told can be seen. Who gets hold of the key later can read what he has recorded.

mod door;
mod frames;
mod gone;
mod key;
mod link;
mod outbox;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use announce::cluster::{Instance, Writer};
use bytes::Bytes;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{desk::Desk, server::Clock};
pub use key::{ClusterKey, KeyError};
pub(crate) use outbox::Outbox;

use door::Door;
use link::{Batch, Link};

/// How often news goes out.
const EVERY: Duration = Duration::from_millis(100);

/// A tracker as a member of its cluster.
pub(crate) struct Cluster {
    /// Drawn at start: by it a member knows itself when it is in its own list, and others that it has restarted.
    instance: Instance,
    key: ClusterKey,
    desk: Arc<Desk>,
    outbox: Arc<Outbox>,
    links: Vec<Arc<Link>>,
    door: Door,
    clock: Clock,
}

/// How it stands with a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Member {
    /// As it is written in the configuration.
    pub(crate) member: String,
    /// Whether it is this tracker itself.
    pub(crate) itself: bool,
    /// Whether it is told of our peers.
    pub(crate) connected: bool,
    /// For how many seconds.
    pub(crate) connected_seconds: u64,
    /// News of peers that went to it, snapshots included.
    pub(crate) sent: u64,
    /// News of peers that came from it since it was started.
    pub(crate) received: u64,
    /// News that did not go to it for want of room; a snapshot came after it.
    pub(crate) dropped: u64,
    /// How often it was told all anew for that reason.
    pub(crate) resyncs: u64,
    /// From the moment when news is sent off until its member has taken it in, as it was last, in milliseconds.
    pub(crate) lag_ms: u64,
}

impl Member {
    /// For people.
    pub(crate) const fn state(&self) -> &'static str {
        match (self.itself, self.connected) {
            (true, _) => "this tracker",
            (false, true) => "connected",
            (false, false) => "not connected",
        }
    }
}

impl Cluster {
    /// Connects to the members, and takes what they tell at `listener`, until `closing`.
    pub(crate) fn start(
        members: &[String],
        key: ClusterKey,
        listener: TcpListener,
        desk: Arc<Desk>,
        outbox: Arc<Outbox>,
        clock: Clock,
        (tasks, closing): (&TaskTracker, &CancellationToken),
    ) -> Arc<Self> {
        let (links, queues): (Vec<_>, Vec<_>) =
            members.iter().map(|member| Link::new(member.clone())).unzip();
        let door = Door::new();
        let instance = rand::random();
        let cluster = Arc::new(Self { instance, key, desk, outbox, links, door, clock });
        for (link, queue) in cluster.links.iter().zip(queues) {
            let work = link.clone().run(cluster.clone(), queue);
            tasks.spawn(until(closing.clone(), work));
        }
        tasks.spawn(until(
            closing.clone(),
            door::run(cluster.clone(), listener, tasks.clone(), closing.clone()),
        ));
        tasks.spawn(until(closing.clone(), pump(cluster.clone())));
        cluster
    }

    /// How it stands with each member, in the configuration's order.
    pub(crate) fn members(&self) -> Vec<Member> {
        let of = |link: &Arc<Link>| {
            let (instance, connected) = (link.instance(), link.connected.load(Relaxed));
            let since = self.clock.elapsed().as_secs().saturating_sub(link.since.load(Relaxed));
            Member {
                member: link.member().to_owned(),
                itself: instance == Some(self.instance),
                connected,
                connected_seconds: if connected { since } else { 0 },
                sent: link.sent.get(),
                received: instance.map_or(0, |instance| self.door.received(&instance)),
                dropped: link.dropped.get(),
                resyncs: link.resyncs.get(),
                lag_ms: link.lag_ms.load(Relaxed),
            }
        };
        self.links.iter().map(of).collect()
    }

    /// By this clock messages are stamped, in milliseconds.
    fn stamp(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

async fn until(closing: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = closing.cancelled() => {}
    }
}

/// Takes what has happened to every link.
async fn pump(cluster: Arc<Cluster>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut taken = Vec::new();
    loop {
        ticks.tick().await;
        let mut writer = Writer::new(cluster.stamp());
        for shard in 0..cluster.outbox.shards() {
            cluster.outbox.take(shard, &mut taken);
            for (info_hash, news) in &taken {
                if writer.is_full() {
                    let full = std::mem::replace(&mut writer, Writer::new(cluster.stamp()));
                    cluster.pass(full);
                    tokio::task::yield_now().await;
                }
                writer.push(info_hash, news);
            }
        }
        if !writer.is_empty() {
            cluster.pass(writer);
        }
        let lost = cluster.outbox.lost();
        if lost > 0 {
            cluster.links.iter().for_each(|link| link.fall_behind(lost));
        }
    }
}

impl Cluster {
    fn pass(&self, writer: Writer) {
        let peers = writer.len() as u64;
        let bytes = Bytes::from(writer.finish());
        self.links.iter().for_each(|link| link.pass(Batch { bytes: bytes.clone(), peers }));
    }
}

/// Whether a text may be a member's address, `host:port`.
pub(crate) fn is_member(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let sensible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(sensible) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use announce::{
        Event,
        cluster::{Happened, News},
    };
    use metainfo::InfoHash;
    use wire::PeerId;

    use super::*;
    use crate::{
        desk::tests::desk,
        store::{Announce, Peers},
    };

    #[test]
    fn a_peer_that_left_unheard_does_not_come_back() {
        let at = Duration::from_secs;
        let [here, there, late] =
            [(); 3].map(|()| Desk { outbox: Some(Arc::new(Outbox::new(at(1500)))), ..desk() });
        let info_hash = InfoHash::from_bytes([1; 20]);
        let announce = |desk: &Desk, now, event| {
            let announce = Announce {
                info_hash,
                peer_id: PeerId::from_bytes([2; 20]),
                ip: [10, 0, 0, 1].into(),
                port: 7,
                uploaded: 0,
                downloaded: 0,
                left: 5,
                event,
                numwant: None,
                key: None,
                both_families: true,
                ids: false,
                passkey: b"",
            };
            desk.announce(at(now), &announce, &mut Peers::new()).expect("taken");
            desk.store.news(&announce)
        };
        let tell_all = |from: &Desk, to: &Desk, now| {
            let outbox = from.outbox.as_ref().expect("a cluster's");
            let mut all: Vec<(InfoHash, News)> =
                (0..outbox.shards()).flat_map(|shard| outbox.gone(at(now), shard)).collect();
            for step in 0..from.store.steps() {
                from.store.visit_news(at(now), step, true, |info_hash, news| all.push((*info_hash, *news)));
            }
            all.iter().for_each(|(info_hash, news)| to.hear(at(now), info_hash, news));
            all
        };
        let came = announce(&here, 100, Event::Started);
        there.hear(at(100), &info_hash, &came);
        late.hear(at(100), &info_hash, &came);
        // The connections break, and of its leaving nobody is told.
        let left = announce(&here, 200, Event::Stopped);
        assert_eq!(left.happened, Happened::Stopped);
        assert_eq!((here.store.totals(), there.store.totals()), ((0, 0), (1, 1)));
        assert_eq!(tell_all(&here, &there, 260).len(), 1);
        assert_eq!(there.store.totals(), (0, 0), "told with all the rest");
        // One that has not heard of it tells of the peer.
        assert_eq!(tell_all(&late, &there, 300).len(), 1);
        assert_eq!(there.store.totals(), (0, 0));
        // It comes back, and is believed.
        there.hear(at(400), &info_hash, &announce(&here, 400, Event::Started));
        tell_all(&here, &there, 410);
        assert_eq!(there.store.totals(), (1, 1));
    }

    #[test]
    fn members_are_hosts_with_ports() {
        for good in ["10.0.0.1:7000", "[fd00::1]:7000", "tracker-1.example:7000", "a:1"] {
            assert!(is_member(good), "{good}");
        }
        for bad in
            ["", "10.0.0.1", "a:0", "a:x", ":7", "fd00::1", "http://a:1", "a b:1", "[fd00::1]:0", "a:70000"]
        {
            assert!(!is_member(bad), "{bad}");
        }
    }
}
