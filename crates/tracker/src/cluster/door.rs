//! Where members come in, and what they tell is taken.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use announce::cluster::{Instance, Message, encode_receipt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Cluster,
    frames::{Broken, Incoming, Outgoing, Side, shake_hands},
    until,
};
use crate::{places::Places, seldom::Seldom, tally::Counter};

/// How many may be in a handshake, all together and from one host: who they are is not known yet.
const STRANGERS: usize = 64;
const STRANGERS_OF_A_HOST: usize = 8;

/// The same for those at members' addresses, whose places no stranger can take.
const EXPECTED: usize = 256;
const EXPECTED_OF_A_HOST: usize = 32;

/// How many connections of members there may be.
const MEMBERS: usize = 256;

/// Of how many runs of members it is kept how much came from them.
const SOURCES: usize = 2 * MEMBERS;

pub(super) struct Door {
    strangers: Places,
    expected: Places,
    members: Semaphore,
    /// News of how many peers came from each.
    sources: Mutex<HashMap<Instance, Arc<Counter>>>,
    /// Wakes who waits when a member has come in.
    pub(super) arrived: Notify,
    /// People are told of strangers: anybody can be one, as often as he likes.
    told: Seldom,
}

impl Door {
    pub(super) fn new() -> Self {
        let strangers = Places::new(STRANGERS, STRANGERS_OF_A_HOST);
        let expected = Places::new(EXPECTED, EXPECTED_OF_A_HOST);
        let (members, arrived) = (Semaphore::new(MEMBERS), Notify::new());
        Self { strangers, expected, members, sources: Mutex::default(), arrived, told: Seldom::default() }
    }

    /// News of how many peers came from a run of a member.
    pub(super) fn received(&self, instance: &Instance) -> u64 {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(instance).map_or(0, |received| received.get())
    }

    /// The counter of a run of a member, which is kept as long as somebody has it, and while there is room.
    fn source(&self, instance: Instance) -> Arc<Counter> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES {
            sources.retain(|_, received| Arc::strong_count(received) > 1);
        }
        sources.entry(instance).or_default().clone()
    }
}

/// Takes connections, for ever.
pub(super) async fn run(
    cluster: Arc<Cluster>,
    listener: TcpListener,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                tasks.spawn(until(closing.clone(), greet(cluster.clone(), stream, from)));
            }
            Err(error) => {
                // Out of descriptors, mostly: some are given back soon, and until then this must not spin.
                cluster.door.strangers.cannot_accept(cluster.clock.elapsed(), &error);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn greet(cluster: Arc<Cluster>, stream: TcpStream, from: SocketAddr) {
    let at_members = cluster.links.iter().any(|link| link.is_at(from.ip()));
    let places = if at_members { &cluster.door.expected } else { &cluster.door.strangers };
    let Ok(place) = places.enter(Some(from.ip()), false) else {
        if cluster.door.told.may(cluster.clock.elapsed()) {
            tracing::warn!(%from, "too many at the cluster's door who do not say who they are: one was sent away");
        }
        return;
    };
    let shaken = shake_hands(stream, Side::Acceptor, &cluster.key, &cluster.instance).await;
    drop(place);
    let (incoming, outgoing, instance) = match shaken {
        Ok(shaken) => shaken,
        Err(Broken::Key) if cluster.door.told.may(cluster.clock.elapsed()) => {
            return tracing::warn!(%from, "somebody without this cluster's key wants to be a member");
        }
        Err(error) => return tracing::debug!(%from, %error, "no member"),
    };
    let Ok(_permit) = cluster.door.members.try_acquire() else { return };
    if instance == cluster.instance {
        return;
    }
    let received = cluster.door.source(instance);
    cluster.door.arrived.notify_waiters();
    if let Err(error) = hear(&cluster, &received, incoming, outgoing).await {
        tracing::debug!(%from, %error, "a member's connection ends");
    }
}

/// Takes in what a member tells.
async fn hear(
    cluster: &Cluster,
    received: &Counter,
    mut incoming: Incoming,
    mut outgoing: Outgoing,
) -> Result<(), Broken> {
    let mut receipt = Vec::new();
    loop {
        let Message::News { stamp, groups } = incoming.read().await? else { return Err(Broken::Nonsense) };
        let (now, mut peers) = (cluster.clock.elapsed(), 0);
        for (info_hash, news) in groups {
            cluster.desk.hear(now, &info_hash, &news);
            peers += 1;
        }
        received.add(peers);
        receipt.clear();
        encode_receipt(stamp, &mut receipt);
        outgoing.write(&receipt).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use announce::cluster::Instance;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::{
        cluster::{ClusterKey, Outbox},
        desk::tests::desk,
        server::Clock,
    };

    async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("an address");
        socket.connect(to).await.expect("connects")
    }

    #[tokio::test]
    async fn strangers_who_fill_the_door_do_not_keep_a_member_out() {
        let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let door = ([127, 0, 0, 1], listener.local_addr().expect("bound").port()).into();
        let member = TcpListener::bind("127.0.0.9:0").await.expect("a port");
        let address = member.local_addr().expect("bound").to_string();
        let key = ClusterKey::new(&[b'k'; 40]).expect("long enough");
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let outbox = Arc::new(Outbox::new(Duration::from_secs(1500)));
        let life = (&tasks, &closing);
        let (desk, clock) = (Arc::new(desk()), Clock::start());
        let cluster = Cluster::start(&[address], key.clone(), listener, desk, outbox, clock, life);
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            strangers.push(connect([127, 0, 0, 7], door).await);
        }
        // One more is sent away, so all places are taken.
        let sent_away = connect([127, 0, 0, 8], door).await.read(&mut [0]).await;
        assert!(matches!(sent_away, Ok(0) | Err(_)), "{sent_away:?}");
        let stream = connect([127, 0, 0, 9], door).await;
        let other: Instance = [9; 16];
        let shaken = shake_hands(stream, Side::Dialer, &key, &other).await;
        assert!(shaken.is_ok(), "{:?}", shaken.err());
        drop((strangers, cluster));
        closing.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
