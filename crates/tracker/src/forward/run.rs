//! Asks forwarders, behind the answers that peers get.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::{AnnounceRequest, AnnounceResponse, Event, Key};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracker_client::{Question, TrackerClient, TrackerError};

use crate::{
    Announce, Announced, Name, Outcome, Peers, Refusal,
    forward::{
        Forwarder, Standing,
        table::{ANSWER, Table},
    },
    server::{Clock, GRACE},
};

/// Announces that wait to be forwarded; of more, the newest are not.
const QUEUE: usize = 4096;
/// How many announces one forwarder is told of at the same time at most.
const AT_ONCE: usize = 64;
/// When a peer that was told of no forwarder's peers yet should come again.
const SOON: u32 = 10;
/// How many are told of announces at the same time at most, all together: each may answer with a megabyte.
const ALL_AT_ONCE: usize = 256;
/// How long one round over the table takes, to find what is too old.
const SWEEP: Duration = Duration::from_secs(1);

/// The forwarders, what they know, and how they do.
pub(crate) struct Forwarders {
    list: Vec<Forwarder>,
    /// By which an announce that a forwarder sends back to us is known, one for each.
    marks: Vec<u32>,
    /// Those that have sent one back: they are this tracker, by whatever name or way.
    looping: Vec<AtomicBool>,
    table: Table,
    timeout: Duration,
    queue: mpsc::Sender<Job>,
    counts: Mutex<Counts>,
    clock: Clock,
}

/// What came of it, by forwarder.
#[derive(Default)]
struct Counts {
    by_status: BTreeMap<(usize, Status), u64>,
    last: BTreeMap<usize, Status>,
}

/// How a forwarder does.
pub(crate) struct Health {
    pub(crate) name: String,
    /// In words: what came of it the last time.
    pub(crate) state: String,
    /// Whether that is as it should be, if it was asked at all.
    pub(crate) good: Option<bool>,
    pub(crate) counts: Vec<(String, u64)>,
}

/// What came of asking a forwarder, as retracker's metric has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Http(u16),
    Word(&'static str),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(code) => code.fmt(f),
            Self::Word(word) => f.write_str(word),
        }
    }
}

/// An announce on its way to forwarders.
struct Job {
    request: AnnounceRequest,
    ask: Vec<usize>,
}

/// Where announces wait for [`Forwarders::run`].
pub(crate) struct Inbox(mpsc::Receiver<Job>);

impl Forwarders {
    /// `keep` is how long what a forwarder said may be passed on.
    pub(crate) fn new(
        list: Vec<Forwarder>,
        timeout: Duration,
        keep: Duration,
        clock: Clock,
    ) -> (Arc<Self>, Inbox) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let forwarders = Self {
            marks: std::iter::repeat_with(|| rand::random::<u32>() | 1).take(list.len()).collect(),
            looping: list.iter().map(|_| AtomicBool::new(false)).collect(),
            table: Table::new(list.len(), keep),
            timeout,
            queue,
            counts: Mutex::default(),
            clock,
            list,
        };
        (Arc::new(forwarders), Inbox(inbox))
    }

    /// Refuses an announce that we have sent ourselves.
    pub(crate) fn admit(&self, request: &Announce<'_>) -> Result<(), Refusal> {
        let Some(key) = request.key else { return Ok(()) };
        let ours = self.marks.iter().position(|mark| Name::number(*mark) == Some(key));
        let Some(forwarder) = ours else { return Ok(()) };
        if !self.looping[forwarder].swap(true, Relaxed) {
            let name = &self.list[forwarder].name;
            tracing::error!(
                forwarder = name,
                "this forwarder leads back to this tracker: it is asked no more"
            );
        }
        Err(Refusal { reason: "this tracker is its own forwarder", retry_in: None })
    }

    /// Adds what forwarders know, and has them told of the announce. Gives the seconds after which the peer should
    /// come again, where that is soon.
    pub(crate) fn announced(
        &self,
        now: Duration,
        request: &Announce<'_>,
        announced: &Announced,
        peers: &mut Peers,
    ) -> Option<u32> {
        // Whoever may not speak for an address here may not do so elsewhere by way of us.
        if announced.outcome == Outcome::Foreign {
            return None;
        }
        let one = (request.info_hash, request.peer_id, request.event);
        let asker = request.addr();
        let standing = self.table.take(now, one, |addr| {
            let of_use = request.both_families || addr.is_ipv4() == asker.is_ipv4();
            if of_use && addr != asker && peers.len() < announced.want {
                peers.add(addr);
            }
        });
        let Standing { ask, pending } = standing;
        let ask: Vec<usize> =
            ask.into_iter().filter(|forwarder| !self.looping[*forwarder].load(Relaxed)).collect();
        if ask.is_empty() {
            return None;
        }
        let request = AnnounceRequest {
            uploaded: request.uploaded,
            downloaded: request.downloaded,
            left: request.left,
            event: request.event,
            numwant: Some(if request.event == Event::Stopped { 0 } else { ANSWER as u32 }),
            compact: Some(true),
            ..AnnounceRequest::new(request.info_hash, request.peer_id, request.port)
        };
        if self.queue.try_send(Job { request, ask }).is_err() {
            self.count(None, Status::Word("dropped"));
        }
        pending.then_some(SOON)
    }

    /// Asks forwarders until `stop`.
    pub(crate) async fn run(self: Arc<Self>, inbox: Inbox, client: TrackerClient, stop: CancellationToken) {
        let Inbox(mut jobs) = inbox;
        let room: Vec<_> = self.list.iter().map(|_| Arc::new(Semaphore::new(AT_ONCE))).collect();
        let all = Arc::new(Semaphore::new(ALL_AT_ONCE));
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let mut round = tokio::time::interval(SWEEP);
        let mut step = 0;
        loop {
            let Job { request, ask } = tokio::select! {
                () = stop.cancelled() => break,
                job = jobs.recv() => match job {
                    Some(job) => job,
                    None => break,
                },
                _ = round.tick() => {
                    step += 1;
                    self.table.sweep(self.clock.elapsed(), step);
                    continue;
                }
            };
            for forwarder in ask {
                let places = (room[forwarder].clone().try_acquire_owned(), all.clone().try_acquire_owned());
                let (Ok(place), Ok(one_of_all)) = places else {
                    self.count(Some(forwarder), Status::Word("busy"));
                    continue;
                };
                let (this, client, request) = (self.clone(), client.clone(), request.clone());
                let end = end.clone();
                tasks.spawn(async move {
                    end.run_until_cancelled(this.ask(forwarder, request, &client)).await;
                    drop((place, one_of_all));
                });
            }
        }
        // Each has a deadline, but that may be a minute.
        tasks.close();
        if timeout(GRACE, tasks.wait()).await.is_err() {
            end.cancel();
            tasks.wait().await;
        }
    }

    async fn ask(&self, number: usize, mut request: AnnounceRequest, client: &TrackerClient) {
        let forwarder = &self.list[number];
        request.key = Key::new(format!("{:08x}", self.marks[number]).as_bytes());
        request.ip = forwarder.ip;
        request.ipv4 = forwarder.ip.and_then(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let question = Question {
            tracker: &forwarder.uri,
            request: &request,
            host: forwarder.host.as_deref(),
            deadline: self.timeout,
        };
        let answer = client.announce(question).await;
        let status = match &answer {
            Ok(_) if forwarder.uri.starts_with("udp") => Status::Word("ok"),
            Ok(_) => Status::Http(200),
            Err(TrackerError::Status(status)) => Status::Http(*status),
            Err(TrackerError::Refused { .. }) => Status::Word("refused"),
            Err(TrackerError::Malformed(_)) => Status::Word("malformed"),
            Err(_) => Status::Word("error"),
        };
        self.count(Some(number), status);
        match answer {
            Ok(AnnounceResponse { interval, peers, .. }) => {
                let peers =
                    peers.into_iter().map(|peer| peer.addr).filter(can_be_reached).take(ANSWER).collect();
                let one = (request.info_hash, request.peer_id);
                self.table.answered(self.clock.elapsed(), number, one, (peers, interval));
            }
            Err(error) => tracing::debug!(forwarder = forwarder.name, %error, "not forwarded"),
        }
    }

    fn count(&self, forwarder: Option<usize>, status: Status) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all = 0..self.list.len();
        for forwarder in forwarder.map_or(all, |one| one..one + 1) {
            *counts.by_status.entry((forwarder, status)).or_default() += 1;
            counts.last.insert(forwarder, status);
        }
    }

    /// Forwarders' names, statuses, and how often each has come of it. Forwarders of one name are counted together.
    pub(crate) fn counts(&self) -> Vec<(String, String, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_name: BTreeMap<(&str, Status), u64> = BTreeMap::new();
        for ((at, status), count) in &counts.by_status {
            *by_name.entry((&self.list[*at].name, *status)).or_default() += count;
        }
        by_name
            .into_iter()
            .map(|((name, status), count)| (name.to_owned(), status.to_string(), count))
            .collect()
    }

    /// How each does, as they are listed.
    pub(crate) fn health(&self) -> Vec<Health> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = self.list.iter().zip(&self.looping).enumerate();
        listed
            .map(|(at, (forwarder, looping))| {
                let last = counts.last.get(&at);
                let (state, good) = match last {
                    _ if looping.load(Relaxed) => ("leads back here".to_owned(), Some(false)),
                    None => ("not asked yet".to_owned(), None),
                    Some(Status::Http(200) | Status::Word("ok")) => ("answers".to_owned(), Some(true)),
                    Some(Status::Http(status)) => (format!("answers {status}"), Some(false)),
                    Some(Status::Word(word)) => ((*word).to_owned(), Some(false)),
                };
                let of_it = counts.by_status.range((at, Status::Http(0))..);
                let of_it = of_it.take_while(|((of, _), _)| *of == at);
                let counts = of_it.map(|((_, status), count)| (status.to_string(), *count)).collect();
                Health { name: forwarder.name.clone(), state, good, counts }
            })
            .collect()
    }
}

/// Whether a peer from elsewhere can be one at all.
fn can_be_reached(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    let everybody = ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
    addr.port() != 0 && !ip.is_unspecified() && !everybody
}

#[cfg(test)]
mod tests {
    use metainfo::InfoHash;
    use tokio::time::Instant;
    use wire::PeerId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_forwarder_that_never_answers_is_not_waited_for_at_the_end() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let uri = format!("http://{}/announce", silent.local_addr().expect("bound"));
        let forwarder = Forwarder { uri, name: "silent".to_owned(), ip: None, host: None };
        let (minute, stop) = (Duration::from_secs(60), CancellationToken::new());
        let (forwarders, inbox) = Forwarders::new(vec![forwarder], minute, minute, Clock::start());
        let client = TrackerClient::new(None).expect("a client");
        let running = tokio::spawn(forwarders.clone().run(inbox, client, stop.clone()));
        let asked = AnnounceRequest::new(InfoHash::from_bytes([1; 20]), PeerId::from_bytes([1; 20]), 1);
        for _ in 0..=AT_ONCE {
            forwarders.queue.send(Job { request: asked.clone(), ask: vec![0] }).await.expect("runs");
        }
        while forwarders.counts().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(forwarders.counts(), [("silent".to_owned(), "busy".to_owned(), 1)], "of one too many");
        let stopped = Instant::now();
        stop.cancel();
        running.await.expect("no panic");
        assert!(stopped.elapsed() < 2 * GRACE, "{:?}", stopped.elapsed());
    }
}
