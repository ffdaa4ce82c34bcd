//! A stream of what changes in a range of keys.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    Client, Error, KeyValue, Range,
    answer::{Framed, WatchAnswer},
    client::{ATTEMPT, MAX_ANSWER, unreachable},
    transaction::base64,
};

/// The pause before connecting again, which doubles up to the longest until something was seen.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Follows a range over the ends of connections and members.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    range: Range,
    /// The first revision that was not seen yet; 0 to begin now.
    next: i64,
    stream: Option<Stream>,
    /// Before the next try to connect.
    pause: Duration,
}

/// What a watch has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// After this revision of the store every event comes. What was before, since the last event if there was one,
    /// is not known.
    Begins(i64),
    /// The stream stands again, and nothing was missed: what happened meanwhile comes next.
    Resumes,
    /// What has changed, in order.
    Events(Vec<Event>),
    /// The stream broke off. The watch is asked for the next change as if nothing was, and connects anew.
    Breaks,
}

/// A key that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(KeyValue),
    /// It was removed, or its lease ran out.
    Delete {
        /// Which.
        key: Bytes,
        /// The revision of the store.
        revision: i64,
    },
}

impl Event {
    /// Which key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the store at which it changed.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

impl Watch {
    pub(crate) fn new(client: Client, range: Range) -> Self {
        Self { client, range, next: 0, stream: None, pause: Duration::ZERO }
    }

    /// Waits for the next change, for as long as it takes. May be dropped and called again at any time.
    pub async fn next(&mut self) -> Change {
        loop {
            let Some(stream) = &mut self.stream else {
                sleep(self.pause).await;
                self.pause = (2 * self.pause).clamp(PAUSE, LONGEST_PAUSE);
                match self.connect().await {
                    Some(change) => return change,
                    None => continue,
                }
            };
            match stream.message().await.and_then(|message| self.take(message)) {
                Ok(Some(events)) => {
                    self.pause = Duration::ZERO;
                    return Change::Events(events);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the watch on etcd breaks off");
                    self.stream = None;
                    if matches!(error, Error::BadAnswer { .. }) {
                        // From the same place it would come again.
                        self.next = 0;
                    }
                    return Change::Breaks;
                }
            }
        }
    }

    /// Watches at the first member that lets us.
    async fn connect(&mut self) -> Option<Change> {
        for member in self.client.in_order() {
            match timeout(2 * ATTEMPT, self.open(member)).await {
                Ok(Ok(change)) => return Some(change),
                Ok(Err(error)) => tracing::debug!(%error, "no watch on etcd"),
                Err(_) => tracing::debug!("no watch on etcd in time"),
            }
        }
        None
    }

    async fn open(&mut self, member: usize) -> Result<Change, Error> {
        let mut create = json!({
            "key": base64(&self.range.from),
            "start_revision": self.next.to_string(),
        });
        if let Some(to) = &self.range.to {
            create["range_end"] = base64(to).into();
        }
        let body = json!({ "create_request": create }).to_string();
        let (response, member) = self.client.stream(member, "v3/watch", body.into()).await?;
        let mut stream = Stream { response, member, lines: Lines::default() };
        let first = stream.message().await?;
        let began = self.next == 0;
        if !first.created || first.canceled {
            // A refusal for want of rights comes so as well.
            self.client.forget_login();
            let reason = format!("the watch was not made: {}", first.cancel_reason);
            return Err(Error::Unavailable { member: stream.member, reason });
        }
        self.stream = Some(stream);
        if !began {
            return Ok(Change::Resumes);
        }
        self.next = first.header.revision.saturating_add(1);
        Ok(Change::Begins(first.header.revision))
    }

    /// The events of a message, if it has any.
    fn take(&mut self, message: WatchAnswer) -> Result<Option<Vec<Event>>, Error> {
        if message.canceled {
            if message.compact_revision > 0 {
                // What we missed is forgotten.
                self.next = 0;
            }
            let reason = format!("it ended the watch: {}", message.cancel_reason);
            return Err(Error::Unavailable { member: "a member".to_owned(), reason });
        }
        let events: Vec<Event> = message.events.into_iter().map(Event::from).collect();
        let Some(last) = events.last() else { return Ok(None) };
        self.next = self.next.max(last.revision().saturating_add(1));
        Ok(Some(events))
    }
}

/// One connection.
#[derive(Debug)]
struct Stream {
    response: Response,
    member: String,
    lines: Lines,
}

impl Stream {
    async fn message(&mut self) -> Result<WatchAnswer, Error> {
        loop {
            let bad = |reason: String| Error::BadAnswer { member: self.member.clone(), reason };
            if let Some(line) = self.lines.next().map_err(|TooLong| bad("an endless message".to_owned()))? {
                let framed: Framed<WatchAnswer> =
                    serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
                return framed.open(&self.member);
            }
            let chunk = self.response.chunk().await;
            match chunk.map_err(|error| unreachable(&self.member, &error))? {
                Some(chunk) => self.lines.push(&chunk),
                None => {
                    let reason = "it ended the stream".to_owned();
                    return Err(Error::Unreachable { member: self.member.clone(), reason });
                }
            }
        }
    }
}

/// Cuts a stream of bytes into lines. The gateway writes a message a line.
#[derive(Debug, Default)]
struct Lines {
    bytes: BytesMut,
    /// How many of them are known to hold no end of a line.
    searched: usize,
}

/// A line that is longer than anything should be.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

impl Lines {
    fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// The next whole line that is not empty, without its end.
    fn next(&mut self) -> Result<Option<BytesMut>, TooLong> {
        loop {
            let rest = self.bytes.get(self.searched..).unwrap_or_default();
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                return if self.bytes.len() > MAX_ANSWER { Err(TooLong) } else { Ok(None) };
            };
            let mut line = self.bytes.split_to(self.searched + at + 1);
            self.searched = 0;
            line.truncate(line.len() - 1);
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &[u8]) -> Result<WatchAnswer, String> {
        let framed: Framed<WatchAnswer> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        framed.open("m").map_err(|error| error.to_string())
    }

    #[test]
    fn events_are_read_with_the_revision_at_which_to_go_on() {
        let text = r#"{"result":{"header":{"revision":"9"},"events":[
            {"kv":{"key":"YQ==","mod_revision":"2","value":"Yg=="}},{"type":"DELETE","kv":{"key":"bA==","mod_revision":"4"}}]}}"#;
        let address = "etcd://a".parse().expect("an address");
        let client = Client::new(crate::Settings { address, password: None, authority: None });
        let mut watch = client.expect("a client").watch(Range::below("p"));
        let events = watch.take(read(text.as_bytes()).expect("read")).expect("goes on").expect("some");
        assert_eq!(events.iter().map(Event::key).collect::<Vec<_>>(), [b"a", b"l"]);
        assert!(matches!(&events[1], Event::Delete { revision: 4, .. }));
        assert_eq!(watch.next, 5);
        // Forgotten: it begins anew.
        let gone = br#"{"result":{"header":{},"canceled":true,"compact_revision":"8"}}"#;
        assert!(watch.take(read(gone).expect("read")).is_err());
        assert_eq!(watch.next, 0);
        let error = read(br#"{"error":{"grpc_code":14,"http_code":503,"message":"no leader"}}"#);
        assert!(error.is_err_and(|error| error.contains("no leader")));
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_ANSWER]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"x");
        assert_eq!(lines.next(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_arrive(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            step in 1_usize..20,
        ) {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for chunk in text.chunks(step) {
                lines.push(chunk);
                while let Ok(Some(line)) = lines.next() {
                    found.push(line.to_vec());
                }
            }
            let mut whole: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
            whole.pop();
            whole.retain(|line| !line.is_empty());
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn any_message_is_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&line);
        }

        #[test]
        fn a_message_cut_or_changed_is_read_or_refused(cut in 0_usize..150, at in 0_usize..150, byte: u8) {
            let mut line = br#"{"result":{"header":{"revision":"9"},"created":true,"events":[{"type":"DELETE","kv":{"key":"bA==","mod_revision":"4","lease":"7"}}]}}"#.to_vec();
            if let Some(place) = line.get_mut(at) {
                *place = byte;
            }
            line.truncate(cut.max(1));
            let _ = read(&line);
        }
    }
}
