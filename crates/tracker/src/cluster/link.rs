//! A member that is told: connected to again and again, told all there is, and then what happens.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::cluster::{Instance, Message, News, Writer};
use bytes::Bytes;
use metainfo::InfoHash;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Cluster,
    frames::{Broken, Incoming, Outgoing, PATIENCE, Side, shake_hands},
};
use crate::tally::Counter;

/// Messages that wait for a member; each holds news of some thousands of peers.
const QUEUE: usize = 128;

/// How long nothing is said before a word that we live.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The pause before connecting again, which doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// After how long without a connection people are told.
const OUTAGE: Duration = Duration::from_secs(10);

/// When it is looked again whether a name that led to ourselves still does.
const ITSELF: Duration = Duration::from_secs(60);

/// A member that cannot keep up is told everything anew this often at most.
const RESYNC: Duration = Duration::from_secs(2);

/// How many addresses of a name are tried.
const ADDRESSES: usize = 8;

/// A message of news, and of how many peers it tells.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    pub(super) peers: u64,
}

#[derive(Debug)]
pub(super) struct Link {
    member: String,
    queue: mpsc::Sender<Batch>,
    pub(super) connected: AtomicBool,
    /// In seconds of the tracker's clock.
    pub(super) since: AtomicU64,
    /// Something did not go into the queue.
    behind: AtomicBool,
    pub(super) sent: Counter,
    pub(super) dropped: Counter,
    pub(super) resyncs: Counter,
    pub(super) lag_ms: AtomicU64,
    /// Who was there last.
    instance: Mutex<Option<Instance>>,
    /// Where its name led last: from there it comes to us, mostly.
    addresses: Mutex<Vec<IpAddr>>,
}

impl Link {
    pub(super) fn new(member: String) -> (Arc<Self>, mpsc::Receiver<Batch>) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let known = member.parse().map(|address: SocketAddr| vec![address.ip().to_canonical()]);
        let link = Self {
            member,
            queue,
            connected: AtomicBool::new(false),
            since: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            sent: Counter::default(),
            dropped: Counter::default(),
            resyncs: Counter::default(),
            lag_ms: AtomicU64::new(0),
            instance: Mutex::default(),
            addresses: Mutex::new(known.unwrap_or_default()),
        };
        (Arc::new(link), inbox)
    }

    pub(super) fn member(&self) -> &str {
        &self.member
    }

    pub(super) fn instance(&self) -> Option<Instance> {
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the member's name leads to an address.
    pub(super) fn is_at(&self, ip: IpAddr) -> bool {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).contains(&ip.to_canonical())
    }

    /// Has news told, if there is anybody, and room.
    pub(super) fn pass(&self, batch: Batch) {
        if self.connected.load(Relaxed) {
            let peers = batch.peers;
            if self.queue.try_send(batch).is_err() {
                self.fall_behind(peers);
            }
        }
    }

    /// News of so many peers is missing.
    pub(super) fn fall_behind(&self, peers: u64) {
        if self.connected.load(Relaxed) {
            self.dropped.add(peers);
            self.behind.store(true, Relaxed);
        }
    }

    /// Keeps the member told, for ever.
    pub(super) async fn run(self: Arc<Self>, cluster: Arc<Cluster>, mut queue: mpsc::Receiver<Batch>) {
        let (mut pause, mut told) = (FIRST_PAUSE, false);
        let mut since = cluster.clock.elapsed();
        loop {
            let outcome = self.once(&cluster, &mut queue).await;
            let was_connected = self.connected.swap(false, Relaxed);
            let member = self.member();
            if was_connected {
                (pause, told, since) = (FIRST_PAUSE, false, cluster.clock.elapsed());
            }
            match outcome {
                Ok(()) => {
                    if !told {
                        tracing::info!(member, "this member of the cluster is this tracker itself");
                    }
                    told = true;
                    sleep(ITSELF).await;
                    continue;
                }
                // Once for each outage, and not of a member that is being started.
                Err(error) if !told && (error.lasts() || cluster.clock.elapsed() >= since + OUTAGE) => {
                    tracing::warn!(member, "this member of the cluster is not told of our peers: {error}");
                    told = true;
                }
                Err(error) => tracing::debug!(member, %error, "no connection to this member yet"),
            }
            // One that comes to us has probably just been started, and can be reached as well.
            tokio::select! {
                () = sleep(pause.mul_f64(rand::random_range(0.5..1.5))) => {}
                () = cluster.door.arrived.notified() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects, and tells until that fails. `Ok` where it is ourselves.
    async fn once(&self, cluster: &Cluster, queue: &mut mpsc::Receiver<Batch>) -> Result<(), Broken> {
        let stream = self.dial().await?;
        let (incoming, outgoing, instance) =
            shake_hands(stream, Side::Dialer, &cluster.key, &cluster.instance).await?;
        let before = self.instance.lock().unwrap_or_else(PoisonError::into_inner).replace(instance);
        if instance == cluster.instance {
            return Ok(());
        }
        while queue.try_recv().is_ok() {}
        self.behind.store(false, Relaxed);
        self.since.store(cluster.clock.elapsed().as_secs(), Relaxed);
        // From here on news waits for us, so that none is missed while the store is read.
        self.connected.store(true, Relaxed);
        tracing::info!(member = self.member(), "this member of the cluster is told of our peers");
        let told = self.tell(cluster, outgoing, queue, before != Some(instance));
        tokio::try_join!(told, self.hear_receipts(cluster, incoming)).map(|((), ())| ())
    }

    /// `anew`: to one that has not been told anything since it was started.
    async fn tell(
        &self,
        cluster: &Cluster,
        mut outgoing: Outgoing,
        queue: &mut mpsc::Receiver<Batch>,
        anew: bool,
    ) -> Result<(), Broken> {
        self.tell_all(cluster, &mut outgoing, queue, anew).await?;
        loop {
            match timeout(HEARTBEAT, queue.recv()).await {
                Ok(Some(batch)) => self.send(&mut outgoing, &batch).await?,
                Ok(None) => return Err(Broken::Stuck),
                Err(_) => outgoing.write(&Writer::new(cluster.stamp()).finish()).await?,
            }
            if self.behind.load(Relaxed) {
                sleep(RESYNC).await;
                self.resyncs.bump();
                self.behind.store(false, Relaxed);
                // What waits is in the store as well, or no longer true.
                while let Ok(batch) = queue.try_recv() {
                    self.dropped.add(batch.peers);
                }
                self.tell_all(cluster, &mut outgoing, queue, false).await?;
            }
        }
    }

    /// Tells of all the peers that have left and that are here, a share at a time, and between the shares of what
    /// happens meanwhile.
    async fn tell_all(
        &self,
        cluster: &Cluster,
        outgoing: &mut Outgoing,
        queue: &mut mpsc::Receiver<Batch>,
        anew: bool,
    ) -> Result<(), Broken> {
        let (store, outbox) = (&cluster.desk.store, &cluster.outbox);
        for step in 0..outbox.shards() + store.steps() {
            let mut full = Vec::new();
            let mut writer = Writer::new(cluster.stamp());
            let mut write = |info_hash: &InfoHash, news: &News| {
                if writer.is_full() {
                    full.push(std::mem::replace(&mut writer, Writer::new(cluster.stamp())));
                }
                writer.push(info_hash, news);
            };
            let now = cluster.clock.elapsed();
            match step.checked_sub(outbox.shards()) {
                None => outbox.gone(now, step).iter().for_each(|(info_hash, news)| write(info_hash, news)),
                Some(step) => store.visit_news(now, step, anew, write),
            }
            full.push(writer);
            for writer in full.into_iter().filter(|writer| !writer.is_empty()) {
                let peers = writer.len() as u64;
                self.send(outgoing, &Batch { bytes: writer.finish().into(), peers }).await?;
            }
            // As many as waited now, so that this ends.
            for _ in 0..queue.len() {
                let Ok(batch) = queue.try_recv() else { break };
                self.send(outgoing, &batch).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, outgoing: &mut Outgoing, batch: &Batch) -> Result<(), Broken> {
        outgoing.write(&batch.bytes).await?;
        self.sent.add(batch.peers);
        Ok(())
    }

    /// Reads what the member has taken in: it lives, and how far it is behind.
    async fn hear_receipts(&self, cluster: &Cluster, mut incoming: Incoming) -> Result<(), Broken> {
        loop {
            let Message::Receipt(stamp) = incoming.read().await? else { return Err(Broken::Nonsense) };
            self.lag_ms.store(cluster.stamp().saturating_sub(stamp), Relaxed);
        }
    }

    /// Connects to the first of its name's addresses that answers.
    async fn dial(&self) -> Result<TcpStream, Broken> {
        let found = timeout(PATIENCE, lookup_host(&self.member)).await.map_err(|_| Broken::Silent)??;
        let addresses: Vec<SocketAddr> = found.take(ADDRESSES).collect();
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) =
            addresses.iter().map(|address| address.ip().to_canonical()).collect();
        let mut last = Broken::Silent;
        for address in addresses {
            match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = Broken::Silent,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use announce::{
        Event,
        cluster::{Happened, Holds, encode_receipt},
    };
    use tokio::net::TcpListener;
    use tokio_util::{sync::CancellationToken, task::TaskTracker};
    use wire::PeerId;

    use super::*;
    use crate::{
        cluster::{ClusterKey, Outbox},
        desk::tests::desk,
        server::Clock,
        store::{Announce, Peers},
    };

    #[tokio::test]
    async fn a_member_that_cannot_keep_up_is_told_everything_anew() {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (member, own) = (listen().await, listen().await);
        let key = ClusterKey::new(&[b'k'; 40]).expect("long enough");
        let desk = Arc::new(desk());
        let kept = InfoHash::from_bytes([1; 20]);
        let announce = Announce {
            info_hash: kept,
            peer_id: PeerId::from_bytes([2; 20]),
            ip: [10, 0, 0, 1].into(),
            port: 7,
            uploaded: 0,
            downloaded: 0,
            left: 5,
            event: Event::Started,
            numwant: None,
            key: None,
            both_families: true,
            ids: false,
            passkey: b"",
        };
        desk.announce(Duration::ZERO, &announce, &mut Peers::new()).expect("taken");
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let address = member.local_addr().expect("bound").to_string();
        let (outbox, clock) = (Arc::new(Outbox::new(Duration::from_secs(1500))), Clock::start());
        let life = (&tasks, &closing);
        let cluster = Cluster::start(&[address], key.clone(), own, desk, outbox, clock, life);
        let (stream, _) = member.accept().await.expect("it comes");
        let shaken = shake_hands(stream, Side::Acceptor, &key, &[9; 16]).await;
        let (mut incoming, mut outgoing, _) = shaken.expect("shakes");
        // Nothing is read yet, and news is without end.
        let link = cluster.links.first().expect("one").clone();
        let addr = ([10, 0, 0, 2], 7).into();
        let (holds, happened) = (Holds::Part, Happened::Announced);
        let mut writer = Writer::new(0);
        while writer.push(&InfoHash::from_bytes([9; 20]), &News { addr, who: 2, holds, happened, age: 0 }) {}
        let batch = Batch { peers: writer.len() as u64, bytes: writer.finish().into() };
        while link.dropped.get() == 0 {
            link.pass(batch.clone());
            tokio::task::yield_now().await;
        }
        let (mut told, mut receipt) = (0, Vec::new());
        while told < 2 {
            let Message::News { stamp, mut groups } = incoming.read().await.expect("news") else {
                panic!("no news")
            };
            told += usize::from(groups.any(|(info_hash, _)| info_hash == kept));
            receipt.clear();
            encode_receipt(stamp, &mut receipt);
            outgoing.write(&receipt).await.expect("taken");
        }
        assert_eq!(link.resyncs.get(), 1);
        let seen = cluster.members();
        let seen = seen.first().expect("one");
        assert!(seen.connected && seen.dropped >= batch.peers && seen.sent > 0, "{seen:?}");
        closing.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
