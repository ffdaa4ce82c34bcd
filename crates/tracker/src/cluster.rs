//! The cluster: trackers that tell one another of their peers, over TCP, sealed with a key that they share.
//!
//! Every member connects to every other and tells of what announces at itself, and of nothing that it was told: so
//! nothing goes round. First come all the peers that it has, with their ages, then the news as it happens, ten times
//! a second. What is told stands in the store like what announces there, so that any member answers for all, and the
//! loss of one costs nothing but its news.
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
mod key;
mod link;
mod outbox;

use std::{
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
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
    pub(crate) connected: bool,
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
        tasks.spawn(until(closing.clone(), pump(Arc::downgrade(&cluster))));
        cluster
    }

    /// How it stands with each member, in the configuration's order.
    pub(crate) fn members(&self) -> Vec<Member> {
        let of = |link: &Arc<Link>| {
            let instance = link.instance();
            Member {
                member: link.member().to_owned(),
                itself: instance == Some(self.instance),
                connected: link.connected.load(Relaxed),
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
async fn pump(cluster: Weak<Cluster>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut taken = Vec::new();
    loop {
        ticks.tick().await;
        let Some(cluster) = cluster.upgrade() else { return };
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
    use super::*;

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
