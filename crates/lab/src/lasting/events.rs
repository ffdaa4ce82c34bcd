//! What happens in the lab, for each who follows it: the records of all nodes and of the lab itself, as one stream.
//!
//! A reader has a stream of its own from every node. One that is slow slows these down, and a node that cannot send
//! tells less often, and then everything that has changed. So nobody waits for another reader, nothing is lost, and
//! nothing piles up here. One that takes nothing for minutes is told so, and gives up its place.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    lab::HostState,
    live::{FORMAT, News, Record},
};
use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::lasting::state::{Lab, now_ms};

/// Who records of the lab itself are about.
const LAB: &str = "lab";
/// Topics that a node knows.
const TOPICS: [&str; 5] = ["status", "torrents", "links", "blocks", "traces"];
/// How many may follow at once, the recording among them. Each has a connection to each node.
const READERS: usize = 12;
/// How many records may wait for a reader, and how many bytes of them.
const WAITING: usize = 64;
const ROOM: usize = 8 << 20;
/// How long a reader may take nothing. A browser lets a page in the background work once a minute.
const STALLED: Duration = Duration::from_secs(180);
/// How often the lab's own state is told at most.
const OFTEN: Duration = Duration::from_millis(100);
/// When a node that could not be reached is tried again, and one that has no such call.
const AGAIN: Duration = Duration::from_millis(300);
const MUCH_LATER: Duration = Duration::from_secs(5);
/// How long a node may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest record: the blocks of a large torrent.
const LONGEST: usize = 32 << 20;

static FOLLOWING: AtomicUsize = AtomicUsize::new(0);

/// Why nobody new may follow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FeedError {
    /// Too many do.
    Full,
    /// A topic that there is not.
    Topics(String),
}

/// A place among those who follow.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let next = |taken| (taken < READERS).then_some(taken + 1);
        FOLLOWING.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok().then_some(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        FOLLOWING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where records of all followed nodes go, for one reader.
#[derive(Clone)]
pub(crate) struct Outlet {
    sender: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    stalled: Arc<AtomicBool>,
    /// Told when nobody takes any more.
    end: CancellationToken,
}

/// What a reader takes.
pub(crate) struct Records {
    waiting: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    stalled: Arc<AtomicBool>,
    end: CancellationToken,
}

/// Nobody listens any more.
pub(crate) struct Unheard;

/// A way to a reader, and its end.
pub(crate) fn outlet() -> (Outlet, Records) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let (stalled, end) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let records = Records { waiting, stalled: stalled.clone(), end: end.clone() };
    (Outlet { sender, room: Arc::new(Semaphore::new(ROOM)), stalled, end }, records)
}

impl Outlet {
    /// Waits until the reader has taken enough of what came before.
    pub(crate) async fn send(&self, record: Bytes) -> Result<(), Unheard> {
        // One that is larger than all the room waits until it has all of it.
        let size = u32::try_from(record.len().clamp(1, ROOM)).unwrap_or(u32::MAX);
        let placed = async {
            let room = self.room.clone().acquire_many_owned(size).await.map_err(|_| Unheard)?;
            self.sender.send((record, room)).await.map_err(|_| Unheard)
        };
        tokio::select! {
            placed = timeout(STALLED, placed) => placed.unwrap_or_else(|_| {
                self.stalled.store(true, Ordering::Release);
                self.end.cancel();
                Err(Unheard)
            }),
            () = self.end.cancelled() => Err(Unheard),
        }
    }
}

impl Records {
    /// The next record; none when the lab has ended, or nothing was taken for too long, which the last one says.
    pub(crate) async fn recv(&mut self) -> Option<Bytes> {
        if let Some((record, _)) = self.waiting.recv().await {
            return Some(record);
        }
        let stalled = self.stalled.swap(false, Ordering::AcqRel);
        stalled.then(|| {
            let minutes = STALLED.as_secs() / 60;
            let error = format!("nothing was read for {minutes} minutes: this stream ends, open it anew");
            encode(LAB, News::Lost { error })
        })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Follows the lab: records as JSON, each on its own. It ends when they are dropped.
pub(crate) fn feed(lab: &Arc<Lab>, topics: Option<&str>) -> Result<Records, FeedError> {
    let named = topics.into_iter().flat_map(|list| list.split(',')).filter(|topic| !topic.is_empty());
    if let Some(unknown) = named.clone().find(|topic| !TOPICS.contains(topic)) {
        let known = TOPICS.join(", ");
        return Err(FeedError::Topics(format!(
            "there is no topic `{}`: there are {known}",
            unknown.escape_debug()
        )));
    }
    let place = Place::take().ok_or(FeedError::Full)?;
    let (outlet, records) = outlet();
    let gathering = gather(lab.clone(), topics.map(str::to_owned), outlet, place);
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(gathering));
    Ok(records)
}

async fn gather(lab: Arc<Lab>, topics: Option<String>, outlet: Outlet, _place: Place) {
    let hello = News::Hello { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() };
    if outlet.send(encode(LAB, hello)).await.is_err() {
        return;
    }
    let mut status = lab.status();
    let mut following = HashSet::new();
    // Dropped, it ends them.
    let mut followers = JoinSet::new();
    loop {
        let now = status.borrow_and_update().clone();
        for entry in lab.hosts().into_iter().filter(|entry| entry.is_node()) {
            if following.insert(entry.info.name.clone()) {
                let (lab, topics, outlet) = (lab.clone(), topics.clone(), outlet.clone());
                followers.spawn(follow(lab, entry.info.name, entry.http, topics, outlet));
            }
        }
        if outlet.send(encode(LAB, News::Lab(now.as_ref().clone()))).await.is_err() {
            return;
        }
        let changed = async {
            sleep(OFTEN).await;
            status.changed().await
        };
        tokio::select! {
            () = outlet.end.cancelled() => return,
            changed = changed => if changed.is_err() { return },
        }
    }
}

/// Why following a node has ended.
enum End {
    /// Nobody listens any more.
    Unheard,
    /// It cannot be reached, or breaks off.
    Lost(String),
    /// It has no such call.
    Silent,
}

/// Follows a node through its ends and new beginnings.
async fn follow(lab: Arc<Lab>, name: String, http: reqwest::Client, topics: Option<String>, outlet: Outlet) {
    let mut told = false;
    loop {
        let state = lab.host(&name).map(|entry| entry.info.state);
        let end = match state {
            Ok(HostState::Starting) => None,
            Ok(HostState::Running) => Some(listen(&name, &http, topics.as_deref(), &outlet, &mut told).await),
            Ok(HostState::Stopped) => Some(End::Lost("it is stopped".to_owned())),
            Ok(HostState::Killed) => Some(End::Lost("it was killed".to_owned())),
            Ok(HostState::Failed) => Some(End::Lost("it has ended by itself".to_owned())),
            Err(_) => return,
        };
        match end {
            Some(End::Unheard) => return,
            Some(End::Silent) => sleep(MUCH_LATER).await,
            Some(End::Lost(error)) if !told => {
                told = true;
                if outlet.send(encode(&name, News::Lost { error })).await.is_err() {
                    return;
                }
            }
            Some(End::Lost(_)) | None => {}
        }
        sleep(AGAIN).await;
    }
}

/// Passes a node's records on until there are no more.
async fn listen(
    name: &str,
    http: &reqwest::Client,
    topics: Option<&str>,
    outlet: &Outlet,
    told: &mut bool,
) -> End {
    let lost = |error: &dyn std::fmt::Display| End::Lost(error.to_string());
    let query = topics.map(|topics| format!("?topics={topics}")).unwrap_or_default();
    let asked = http.get(format!("http://localhost/v1/events{query}")).send();
    let mut answer = match timeout(SILENCE, asked).await {
        Ok(Ok(answer)) if answer.status().is_success() => answer,
        Ok(Ok(answer)) if answer.status().as_u16() == 404 => return End::Silent,
        Ok(Ok(answer)) => return lost(&format!("it answers {}", answer.status())),
        Ok(Err(_)) => return lost(&"it does not answer"),
        Err(_) => return lost(&format!("it does not answer for {SILENCE:?}")),
    };
    *told = false;
    let mut lines = Lines::default();
    loop {
        let chunk = match timeout(SILENCE, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None) | Err(_)) => return lost(&"it has broken off"),
            Err(_) => return lost(&format!("it is silent for {SILENCE:?}")),
        };
        if lines.push(&chunk).is_err() {
            return lost(&"it sends a record that is too long");
        }
        while let Some(record) = lines.next() {
            let Some(record) = under(name, record) else {
                return lost(&"it sends what is no record");
            };
            if outlet.send(record).await.is_err() {
                return End::Unheard;
            }
        }
    }
}

/// A node's record, under the name that the node has in the lab; none where it is no record.
fn under(name: &str, record: Bytes) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        node: std::borrow::Cow<'a, str>,
    }
    let head: Head<'_> = serde_json::from_slice(&record).ok()?;
    if head.node == name {
        return Some(record);
    }
    let mut fields: HashMap<String, serde_json::Value> = serde_json::from_slice(&record).ok()?;
    fields.insert("node".to_owned(), name.into());
    serde_json::to_vec(&fields).ok().map(Bytes::from)
}

fn encode(node: &str, news: News) -> Bytes {
    let record = Record { node: node.to_owned(), at_ms: now_ms(), news };
    // Nothing in a record fails to become JSON.
    serde_json::to_vec(&record).unwrap_or_default().into()
}

/// The data of server-sent events, out of a stream of bytes. Each is one line.
#[derive(Default)]
struct Lines {
    rest: BytesMut,
    /// Where the search for a line's end goes on.
    seen: usize,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> Result<(), ()> {
        if self.rest.len() + chunk.len() > LONGEST {
            return Err(());
        }
        self.rest.extend_from_slice(chunk);
        Ok(())
    }

    fn next(&mut self) -> Option<Bytes> {
        while let Some(at) = self.rest.iter().skip(self.seen).position(|byte| *byte == b'\n') {
            let mut line = self.rest.split_to(self.seen + at);
            self.rest.advance(1);
            self.seen = 0;
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if let Some(data) = line.strip_prefix(b"data:") {
                let data = data.strip_prefix(b" ").unwrap_or(data);
                return Some(Bytes::copy_from_slice(data));
            }
        }
        self.seen = self.rest.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_goes_under_the_name_that_its_node_has_here() {
        let record =
            |node: &str| Bytes::from(format!(r#"{{"node":"{node}","at_ms":7,"kind":"lost","error":"e"}}"#));
        assert_eq!(under("n1", record("n1")), Some(record("n1")));
        let renamed = under("n1", record("host")).expect("a record");
        let renamed: Record = serde_json::from_slice(&renamed).expect("a record");
        assert_eq!((renamed.node.as_str(), renamed.at_ms), ("n1", 7));
        assert_eq!(under("n1", Bytes::from_static(b"{\"node\":")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_holds_little_and_is_told_at_last() {
        let (outlet, mut records) = outlet();
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        let mut sent = 0;
        while outlet.send(large.clone()).await.is_ok() {
            sent += large.len();
        }
        assert_eq!(sent, ROOM);
        assert!(outlet.send(Bytes::from_static(b"{}")).await.is_err(), "it is over");
        drop(outlet);
        let mut got = Vec::new();
        while let Some(record) = records.recv().await {
            got.push(record);
        }
        let last: Record = serde_json::from_slice(&got.pop().expect("a last one")).expect("a record");
        assert!(matches!(last.news, News::Lost { error } if error.contains("open it anew")));
        assert_eq!(got.iter().map(Bytes::len).sum::<usize>(), sent, "and gets what waited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_everything_also_what_is_larger_than_its_room() {
        let (outlet, mut records) = outlet();
        let sizes = [1, ROOM + 1, 7, 2 * ROOM, 0, ROOM];
        let sending = tokio::spawn(async move {
            for size in sizes {
                assert!(outlet.send(vec![b'x'; size].into()).await.is_ok(), "{size}");
            }
        });
        let mut got = Vec::new();
        while let Some(record) = records.recv().await {
            got.push(record.len());
            sleep(STALLED / 2).await;
        }
        sending.await.expect("ends");
        assert_eq!(got, sizes);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; LONGEST]).is_ok());
        assert!(lines.push(b"x").is_err());
    }

    proptest! {
        #[test]
        fn data_does_not_depend_on_how_the_stream_is_cut(
            events in proptest::collection::vec(("[a-z:]{0,9}", any::<bool>(), any::<bool>()), 0..9),
            cuts in proptest::collection::vec(1usize..9, 0..60),
        ) {
            let mut text = String::new();
            for (data, comment, returns) in &events {
                let end = if *returns { "\r\n" } else { "\n" };
                text += &format!("{}{data}{end}{end}", if *comment { ":" } else { "data: " });
            }
            let mut lines = Lines::default();
            let (mut got, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                lines.push(head).expect("short");
                got.extend(std::iter::from_fn(|| lines.next()));
                rest = tail;
            }
            let want: Vec<&[u8]> = events.iter().filter(|e| !e.1).map(|e| e.0.as_bytes()).collect();
            prop_assert_eq!(got, want);
        }
    }
}
