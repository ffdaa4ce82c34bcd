//! What happens in the lab, for each who follows it: the records of all nodes and of the lab itself, as one stream.
//!
//! A reader has a stream of its own from every node. One that is slow slows these down, and a node that cannot send
//! tells less often, and then everything that has changed. So nobody waits for another reader, nothing is lost, and
//! nothing piles up here.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::lasting::state::{Lab, now_ms};

/// Who records of the lab itself are about.
const LAB: &str = "lab";
/// Topics that a node knows.
const TOPICS: [&str; 5] = ["status", "torrents", "links", "blocks", "traces"];
/// How many may follow at once, the recording among them. Each has a connection to each node.
const READERS: usize = 12;
/// How many records may wait for a reader.
const WAITING: usize = 64;
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

/// Follows the lab: records as JSON, each on its own. It ends when the receiver is dropped.
pub(crate) fn feed(lab: &Arc<Lab>, topics: Option<&str>) -> Result<mpsc::Receiver<Bytes>, FeedError> {
    let named = topics.into_iter().flat_map(|list| list.split(',')).filter(|topic| !topic.is_empty());
    if let Some(unknown) = named.clone().find(|topic| !TOPICS.contains(topic)) {
        let known = TOPICS.join(", ");
        return Err(FeedError::Topics(format!(
            "there is no topic `{}`: there are {known}",
            unknown.escape_debug()
        )));
    }
    let place = Place::take().ok_or(FeedError::Full)?;
    let (sender, records) = mpsc::channel(WAITING);
    let gathering = gather(lab.clone(), topics.map(str::to_owned), sender, place);
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(gathering));
    Ok(records)
}

async fn gather(lab: Arc<Lab>, topics: Option<String>, sender: mpsc::Sender<Bytes>, _place: Place) {
    let hello = News::Hello { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() };
    if sender.send(encode(LAB, hello)).await.is_err() {
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
                let (lab, topics, sender) = (lab.clone(), topics.clone(), sender.clone());
                followers.spawn(follow(lab, entry.info.name, entry.http, topics, sender));
            }
        }
        if sender.send(encode(LAB, News::Lab(now.as_ref().clone()))).await.is_err() {
            return;
        }
        let changed = async {
            sleep(OFTEN).await;
            status.changed().await
        };
        tokio::select! {
            () = sender.closed() => return,
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
async fn follow(
    lab: Arc<Lab>,
    name: String,
    http: reqwest::Client,
    topics: Option<String>,
    sender: mpsc::Sender<Bytes>,
) {
    let mut told = false;
    loop {
        let state = lab.host(&name).map(|entry| entry.info.state);
        let end = match state {
            Ok(HostState::Starting) => None,
            Ok(HostState::Running) => Some(listen(&name, &http, topics.as_deref(), &sender, &mut told).await),
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
                if sender.send(encode(&name, News::Lost { error })).await.is_err() {
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
    sender: &mpsc::Sender<Bytes>,
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
            if sender.send(record).await.is_err() {
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
