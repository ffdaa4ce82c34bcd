//! Announces to trackers: one task for all torrents, so that one at rest costs an entry and no timer of its own.
//!
//! Every tier of a torrent is announced to; within a tier, the first tracker that answers keeps its place in front
//! (BEP 12). A tracker that has restarted is known by its changed `tracker id`, and is told everything again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use announce::{AnnounceRequest, AnnounceResponse, Event};
use metainfo::InfoHash;
use swarm::Time;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tracker_client::{Question, TrackerClient, TrackerError};

use crate::engine::Shared;

/// Commands that may wait.
const QUEUE: usize = 1024;
/// Announces under way at once.
const AT_ONCE: usize = 32;
/// How long an announce may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The shortest and longest pause that a tracker may ask for.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(2 * 3600);
/// With nobody to fetch from, the tracker is asked again after this, then after twice this, and so on.
const LONELY: Duration = Duration::from_secs(1);
/// At least so far apart others are asked for because those who are known give nothing, whatever trackers let do.
const SEEK: Duration = Duration::from_secs(10);
/// Pause after the first failure of a tier; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(1);
/// All last words together may take this long.
const FAREWELL: Duration = Duration::from_secs(3);

/// Sends commands to the announcing task.
#[derive(Clone)]
pub(crate) struct Announcer(mpsc::Sender<Command>);

enum Command {
    Add(InfoHash, Vec<Vec<String>>, Option<oneshot::Sender<bool>>),
    Completed(InfoHash),
    Seek(InfoHash),
    Remove(InfoHash),
    Again,
}

/// The task's side.
pub(crate) struct Inbox(mpsc::Receiver<Command>);

/// A way to send commands, and what [`run`] needs.
pub(crate) fn new() -> (Announcer, Inbox) {
    let (sender, commands) = mpsc::channel(QUEUE);
    (Announcer(sender), Inbox(commands))
}

impl Announcer {
    pub(crate) async fn add(&self, info_hash: InfoHash, tiers: Vec<Vec<String>>) {
        self.send(Command::Add(info_hash, tiers, None)).await;
    }

    /// The same, and waits until the first tracker knows, or could not be told; says whether it knows.
    pub(crate) async fn add_and_tell(&self, info_hash: InfoHash, tiers: Vec<Vec<String>>) -> bool {
        let (told, heard) = oneshot::channel();
        self.send(Command::Add(info_hash, tiers, Some(told))).await;
        // An error means that there was nobody to tell.
        matches!(timeout(PATIENCE, heard).await, Ok(Ok(true)))
    }

    pub(crate) async fn completed(&self, info_hash: InfoHash) {
        self.send(Command::Completed(info_hash)).await;
    }

    /// Nobody who is known gives what is missing: others are asked for, without waiting for the interval's end.
    pub(crate) async fn seek(&self, info_hash: InfoHash) {
        self.send(Command::Seek(info_hash)).await;
    }

    pub(crate) async fn remove(&self, info_hash: InfoHash) {
        self.send(Command::Remove(info_hash)).await;
    }

    pub(crate) async fn again(&self) {
        self.send(Command::Again).await;
    }

    async fn send(&self, command: Command) {
        if self.0.send(command).await.is_err() {
            tracing::debug!("no announce: the engine is stopping");
        }
    }
}

/// A torrent at the trackers of one tier.
#[derive(Debug)]
struct Entry {
    trackers: Vec<String>,
    /// What the trackers are to be told next, besides the numbers.
    event: Event,
    /// What they are being told now.
    sent: Event,
    tracker_id: Option<Vec<u8>>,
    started: bool,
    failures: u32,
    lonely: u32,
    /// Before this the tracker does not want to be asked again.
    not_before: Time,
    /// Entries in the agenda with another number are out of date.
    turn: u64,
    /// An announce is under way.
    busy: bool,
    /// The torrent was removed meanwhile.
    leaves: bool,
    /// Somebody waits for the first announce.
    told: Option<oneshot::Sender<bool>>,
    /// Tells it from one of the same place that was removed or replaced; what answers that one is not for this.
    number: u64,
}

type Place = (InfoHash, usize);

/// What became of an announce, and of which entry.
type Answer = (Place, u64, Result<AnnounceResponse, String>);

struct Task {
    shared: Arc<Shared>,
    entries: HashMap<Place, Entry>,
    agenda: BinaryHeap<Reverse<(Time, u64, Place)>>,
    under_way: JoinSet<Answer>,
    /// Counts entries and turns.
    turns: u64,
}

/// Announces until the engine stops, then says good-bye everywhere.
pub(crate) async fn run(inbox: Inbox, shared: Arc<Shared>) {
    let Inbox(mut commands) = inbox;
    let mut task = Task::new(shared.clone());
    loop {
        let next = task.next();
        tokio::select! {
            () = shared.stop.cancelled() => break,
            command = commands.recv() => match command {
                Some(command) => task.command(command),
                None => break,
            },
            Some(done) = task.under_way.join_next() => {
                if let Ok(answer) = done {
                    task.answered(answer);
                }
            }
            () = sleep_until(shared.clock.instant(next.unwrap_or_default())), if next.is_some() => task.due(),
        }
    }
    // What came before the end counts: that a download is complete above all.
    while let Ok(command) = commands.try_recv() {
        task.command(command);
    }
    if timeout(FAREWELL, task.farewell()).await.is_err() {
        tracing::debug!("some trackers were not told that we stop");
    }
}

impl Task {
    fn new(shared: Arc<Shared>) -> Self {
        let (entries, agenda) = (HashMap::new(), BinaryHeap::new());
        Self { shared, entries, agenda, under_way: JoinSet::new(), turns: 0 }
    }

    /// When something is to be announced, if there is room for it.
    fn next(&self) -> Option<Time> {
        let Reverse((at, ..)) = self.agenda.peek()?;
        (self.under_way.len() < AT_ONCE).then_some(*at)
    }

    fn command(&mut self, command: Command) {
        let now = self.shared.clock.now();
        match command {
            Command::Add(info_hash, tiers, mut told) => {
                for (tier, trackers) in tiers.into_iter().enumerate() {
                    let usable = |url: &String| TrackerClient::can_ask(url);
                    let (trackers, others): (Vec<_>, Vec<_>) = trackers.into_iter().partition(usable);
                    if let Some(other) = others.first() {
                        tracing::warn!(torrent = %info_hash, tracker = other, "only http, https and udp trackers are announced to");
                    }
                    if !trackers.is_empty() {
                        self.turns += 1;
                        let entry = Entry {
                            trackers,
                            event: Event::Started,
                            sent: Event::None,
                            tracker_id: None,
                            started: false,
                            failures: 0,
                            lonely: 0,
                            not_before: Time::default(),
                            turn: 0,
                            busy: false,
                            leaves: false,
                            told: told.take(),
                            number: self.turns,
                        };
                        self.entries.insert((info_hash, tier), entry);
                        self.plan((info_hash, tier), now);
                    }
                }
            }
            Command::Again => self.tell_all_again(now),
            Command::Completed(info_hash) => {
                for place in self.places(info_hash) {
                    if let Some(entry) = self.entries.get_mut(&place).filter(|e| e.started) {
                        entry.event = Event::Completed;
                    }
                    self.plan(place, now);
                }
            }
            Command::Seek(info_hash) => {
                for place in self.places(info_hash) {
                    // What is under way, or to be tried again, plans the next one.
                    let free = self.entries.get(&place).filter(|e| e.started && !e.busy && e.failures == 0);
                    if let Some(at) = free.map(|entry| entry.not_before.max(now)) {
                        self.plan(place, at);
                    }
                }
            }
            Command::Remove(info_hash) => {
                for place in self.places(info_hash) {
                    match self.entries.get_mut(&place) {
                        // As soon as what is under way has been answered.
                        Some(entry) if entry.busy => entry.leaves = true,
                        _ => self.take_leave(place),
                    }
                }
            }
        }
    }

    fn places(&self, info_hash: InfoHash) -> Vec<Place> {
        self.entries.keys().filter(|(hash, _)| *hash == info_hash).copied().collect()
    }

    fn plan(&mut self, place: Place, at: Time) {
        self.turns += 1;
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.turn = self.turns;
            self.agenda.push(Reverse((at, self.turns, place)));
        }
    }

    /// Starts the announces whose time has come.
    fn due(&mut self) {
        let now = self.shared.clock.now();
        while self.under_way.len() < AT_ONCE {
            let Some(Reverse((at, turn, place))) = self.agenda.peek().copied() else { return };
            if at > now {
                return;
            }
            self.agenda.pop();
            let Some(entry) = self.entries.get_mut(&place).filter(|e| e.turn == turn) else { continue };
            if entry.busy {
                // What is under way plans the next one.
                continue;
            }
            entry.busy = true;
            if let Some(entry) = self.entries.get(&place) {
                let ask = self.ask(place, entry);
                self.under_way.spawn(ask);
            }
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.sent = std::mem::replace(&mut entry.event, Event::None);
            }
        }
    }

    /// Asks the trackers of a tier in turn until one answers.
    fn ask(&self, place: Place, entry: &Entry) -> impl Future<Output = Answer> + use<> {
        let (info_hash, number) = (place.0, entry.number);
        let mut request = AnnounceRequest::new(info_hash, self.shared.peer_id, self.shared.listen.port());
        request.event = entry.event;
        request.compact = Some(true);
        request.tracker_id.clone_from(&entry.tracker_id);
        let torrent = self.shared.torrents().get(&info_hash).cloned();
        (request.uploaded, request.downloaded, request.left) = torrent.map_or((0, 0, 0), |t| t.totals());
        request.numwant = Some(if request.left == 0 || entry.event == Event::Stopped { 0 } else { 100 });
        let (shared, trackers) = (self.shared.clone(), entry.trackers.clone());
        async move {
            let mut why = String::new();
            for tracker in trackers {
                match announce_to(&shared, &tracker, &request).await {
                    Ok(response) => {
                        shared.note_tracker(tracker, None, true);
                        return (place, number, Ok(response));
                    }
                    Err(error) => {
                        why = format!("{tracker}: {error}");
                        shared.note_tracker(tracker, Some(error.to_string()), true);
                    }
                }
            }
            (place, number, Err(why))
        }
    }

    fn answered(&mut self, (place, number, result): Answer) {
        let now = self.shared.clock.now();
        let torrent = self.shared.torrents().get(&place.0).cloned();
        let Some(entry) = self.entries.get_mut(&place).filter(|entry| entry.number == number) else { return };
        entry.busy = false;
        if let Some(waiting) = entry.told.take() {
            // Whoever waited may have given up.
            let _ = waiting.send(result.is_ok());
        }
        let pause = match result {
            Ok(response) => {
                let restarted = entry.tracker_id.is_some()
                    && response.tracker_id.is_some()
                    && entry.tracker_id != response.tracker_id;
                entry.started = true;
                entry.failures = 0;
                if let Some(warning) = &response.warning {
                    tracing::warn!(torrent = %place.0, %warning, "the tracker warns");
                }
                let pause = response.interval.clamp(*PAUSE.start(), *PAUSE.end());
                if response.tracker_id.is_some() {
                    entry.tracker_id = response.tracker_id;
                }
                let mut pause = pause;
                if let Some(torrent) = torrent.filter(|t| t.totals().2 > 0) {
                    let (nobody, stuck) = {
                        let inner = torrent.lock();
                        (inner.links.is_empty(), inner.starves || inner.swarm.is_stuck())
                    };
                    torrent.add_peers(response.peers.iter().map(|peer| peer.addr));
                    // Who is told of for the first time may have it all.
                    let first = entry.sent == Event::Started;
                    let lonely = if nobody && first { response.peers.is_empty() } else { stuck };
                    entry.lonely = if lonely { entry.lonely + 1 } else { 0 };
                    let least = response.min_interval.unwrap_or(Duration::ZERO).min(*PAUSE.end());
                    entry.not_before = now + least.max(SEEK);
                    if entry.lonely > 0 {
                        let least = if nobody { least } else { least.max(SEEK) };
                        pause = pause.min((LONELY * 2u32.pow(entry.lonely.min(10) - 1)).max(least));
                    }
                }
                // What came up meanwhile does not wait for the next time.
                let pause = if entry.event == Event::None { pause } else { Duration::ZERO };
                if restarted {
                    self.tell_all_again(now);
                }
                pause
            }
            Err(why) => {
                if entry.event == Event::None {
                    entry.event = entry.sent;
                }
                entry.failures += 1;
                tracing::debug!(torrent = %place.0, "announce failed: {why}");
                (RETRY * 2u32.pow(entry.failures.min(10) - 1)).min(Duration::from_secs(1800))
            }
        };
        if self.entries.get(&place).is_some_and(|entry| entry.leaves) {
            return self.take_leave(place);
        }
        self.plan(place, now + pause);
    }

    /// A tracker has lost what it knew: announce everything again, spread over a few seconds.
    fn tell_all_again(&mut self, now: Time) {
        let places: Vec<Place> = self.entries.keys().copied().collect();
        for (number, place) in places.into_iter().enumerate() {
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.tracker_id = None;
            }
            self.plan(place, now + Duration::from_millis(5) * u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    /// Takes leave of all trackers that know us, of each when nothing is under way to it any more.
    async fn farewell(&mut self) {
        let all = self.entries.iter().map(|(place, entry)| (*place, entry.busy));
        let (busy, free): (Vec<_>, Vec<_>) = all.partition(|(_, busy)| *busy);
        let mut busy: HashSet<Place> = busy.into_iter().map(|(place, _)| place).collect();
        let mut free: Vec<Place> = free.into_iter().map(|(place, _)| place).collect();
        loop {
            while self.under_way.len() < AT_ONCE {
                let Some(place) = free.pop() else { break };
                self.take_leave(place);
            }
            let Some(done) = self.under_way.join_next().await else { return };
            let Ok(answer) = done else { continue };
            let place = answer.0;
            self.answered(answer);
            if busy.remove(&place) {
                free.push(place);
            }
        }
    }

    /// Tells the trackers of a tier what is still to be told, and then that we leave. If `stopped` came before
    /// `completed`, we would stay in the swarm for them.
    fn take_leave(&mut self, place: Place) {
        let Some(mut entry) = self.entries.remove(&place).filter(|entry| entry.started) else { return };
        let completed = (entry.event == Event::Completed).then(|| self.ask(place, &entry));
        entry.event = Event::Stopped;
        let stopped = self.ask(place, &entry);
        self.under_way.spawn(async move {
            if let Some(completed) = completed {
                let _ = completed.await;
            }
            stopped.await
        });
    }
}

/// One announce to one tracker.
pub(crate) async fn announce_to(
    shared: &Shared,
    tracker: &str,
    request: &AnnounceRequest,
) -> Result<AnnounceResponse, TrackerError> {
    let question = Question { tracker, request, host: None, deadline: PATIENCE };
    shared.tracker_client.announce(question).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use announce::Reply;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{Config, Engine};

    fn response() -> AnnounceResponse {
        match AnnounceResponse::parse(b"d8:intervali900e5:peers0:e") {
            Ok(Reply::Ok(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_completed_that_was_lost_or_came_at_a_bad_time_is_told_again() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = Engine::start(Config { listen, ..Config::default() }, None).await.expect("starts");
        let place = (InfoHash::from_bytes([7; 20]), 0);
        let mut task = Task::new(engine.shared().clone());
        // Nobody listens there, and what the task asks is thrown away: the answers are given below.
        let tracker = "http://127.0.0.1:9/announce".to_owned();
        task.command(Command::Add(place.0, vec![vec![tracker]], None));
        task.due();
        assert_eq!(task.entries[&place].sent, Event::Started);
        let number = task.entries[&place].number;
        task.answered((place, number, Ok(response())));
        task.command(Command::Completed(place.0));
        task.due();
        assert_eq!(task.entries[&place].sent, Event::Completed);
        task.answered((place, number, Err("lost".into())));
        assert_eq!(task.entries[&place].event, Event::Completed, "to be told again");
        task.plan(place, Time(0));
        task.due();
        assert_eq!((task.entries[&place].sent, task.entries[&place].event), (Event::Completed, Event::None));
        // While another is under way.
        task.command(Command::Completed(place.0));
        task.due();
        task.answered((place, number, Ok(response())));
        let now = task.shared.clock.now();
        assert!(task.next().is_some_and(|at| at <= now), "at once, not after the interval");
        task.under_way.abort_all();
        engine.stop().await;
    }

    #[tokio::test]
    async fn after_a_restart_of_the_tracker_everything_is_announced_at_once_and_not_after_the_interval() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = Engine::start(Config { listen, ..Config::default() }, None).await.expect("starts");
        let mut task = Task::new(engine.shared().clone());
        let tracker = "http://127.0.0.1:9/announce".to_owned();
        for torrent in [7, 8] {
            let place = (InfoHash::from_bytes([torrent; 20]), 0);
            task.command(Command::Add(place.0, vec![vec![tracker.clone()]], None));
            task.due();
            let number = task.entries[&place].number;
            task.answered((place, number, Ok(response())));
        }
        let soon = task.shared.clock.now() + Duration::from_secs(1);
        assert!(task.next().is_some_and(|at| at > soon));
        task.command(Command::Again);
        let due = task.agenda.iter().filter(|Reverse((at, ..))| *at <= soon).count();
        assert_eq!(due, 2);
        task.under_way.abort_all();
        engine.stop().await;
    }

    #[tokio::test]
    async fn an_answer_to_a_removed_entrys_stopped_is_not_the_new_entrys() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = Engine::start(Config { listen, ..Config::default() }, None).await.expect("starts");
        let place = (InfoHash::from_bytes([7; 20]), 0);
        let mut task = Task::new(engine.shared().clone());
        let tracker = "http://127.0.0.1:9/announce".to_owned();
        let add = || Command::Add(place.0, vec![vec![tracker.clone()]], None);
        task.command(add());
        task.due();
        let old = task.entries[&place].number;
        task.answered((place, old, Ok(response())));
        task.command(Command::Remove(place.0));
        task.command(add());
        task.due();
        task.answered((place, old, Ok(response())));
        let entry = &task.entries[&place];
        assert!(entry.busy && !entry.started, "its own `started` is still under way");
        let new = entry.number;
        task.answered((place, new, Ok(response())));
        assert!(task.entries[&place].started && !task.entries[&place].busy);
        task.under_way.abort_all();
        engine.stop().await;
    }

    /// A tracker that tells which events it hears, in order, and takes its time to answer.
    async fn tracker() -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}/announce", listener.local_addr().expect("bound"));
        let (events, heard) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let events = events.clone();
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let length = stream.read(&mut head).await.expect("read");
                    let head = String::from_utf8_lossy(&head[..length]).into_owned();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let event = head.split("event=").nth(1).and_then(|rest| rest.split(['&', ' ']).next());
                    events.send(event.unwrap_or_default().to_owned()).await.expect("heard");
                    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 26\r\n\r\nd8:intervali900e5:peers0:e";
                    stream.write_all(answer.as_bytes()).await.expect("written");
                });
            }
        });
        (url, heard)
    }

    #[tokio::test]
    async fn stopped_which_overtook_completed_comes_behind_it() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = Engine::start(Config { listen, ..Config::default() }, None).await.expect("starts");
        let place = (InfoHash::from_bytes([7; 20]), 0);
        for (under_way, removed) in [(true, false), (false, false), (true, true)] {
            let (url, mut heard) = tracker().await;
            let mut task = Task::new(engine.shared().clone());
            task.command(Command::Add(place.0, vec![vec![url]], None));
            task.due();
            let answer = task.under_way.join_next().await.expect("asked").expect("no panic");
            task.answered(answer);
            task.command(Command::Completed(place.0));
            if under_way {
                task.due();
            }
            if removed {
                task.command(Command::Remove(place.0));
            }
            task.farewell().await;
            let mut events = Vec::new();
            while let Ok(event) = heard.try_recv() {
                events.push(event);
            }
            assert_eq!(events, ["started", "completed", "stopped"], "{under_way} {removed}");
        }
        engine.stop().await;
    }
}
