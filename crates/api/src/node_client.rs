//! Calls a node.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use hash::Digest;
use metainfo::InfoHash;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use crate::{
    CallError, ClientError,
    live::Record,
    node::{
        BlobPage, BlobStatus, Health, PeerStatus, Provenance, PullEvent, PullRequest, Status, TorrentStatus,
    },
    torrents::{AddRequest, Added, FileStatus, Limits, TorrentAction},
    trace::{Explanation, Trace},
    transport::{Connect, Transport, join, parse_base, unreachable},
};

/// Where a node's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket on this machine.
    Unix(PathBuf),
    /// `http://host:port` or `https://…`.
    Http(String),
}

impl Endpoint {
    /// Reads `unix:/path`, a plain path that starts with `/` or `.`, or an address.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path))),
            None if text.starts_with(['/', '.']) => Self::Unix(PathBuf::from(text)),
            None => Self::Http(text.to_owned()),
        }
    }
}

/// A client of one node.
#[derive(Clone)]
pub struct NodeClient {
    transport: Transport,
    base: Url,
    deadline: Duration,
}

impl NodeClient {
    /// How long a call may take, unless set otherwise.
    pub const DEADLINE: Duration = Duration::from_secs(10);

    /// The longest silence in a pull. The node says [`PullEvent::Alive`] more often than that.
    pub const SILENCE: Duration = Duration::from_secs(30);

    /// A client of the node at `endpoint`.
    pub fn new(endpoint: &Endpoint, token: Option<&str>) -> Result<Self, ClientError> {
        let (connect, base) = match endpoint {
            Endpoint::Unix(path) => (Connect::Unix(path), parse_base("http://localhost")?),
            Endpoint::Http(url) => {
                let base = parse_base(url)?;
                (Connect::Tcp { tls: base.scheme() == "https" }, base)
            }
        };
        Ok(Self { transport: Transport::new(&connect, token)?, base, deadline: Self::DEADLINE })
    }

    /// A client over a connection of another kind of server, which has the node's calls below `base`.
    pub(crate) fn over(transport: Transport, base: Url) -> Self {
        Self { transport, base, deadline: Self::DEADLINE }
    }

    /// The same with another deadline per call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether the node can do its work.
    pub async fn health(&self) -> Result<Health, CallError> {
        let url = join(&self.base, &["v1", "health"]);
        // A node that is not healthy answers the same with a status that load balancers understand.
        let good = |status: &StatusCode| status.is_success() || *status == StatusCode::SERVICE_UNAVAILABLE;
        let body = self.transport.bytes_of::<()>(Method::GET, url.clone(), None, self.deadline, good).await?;
        let body = body.ok_or_else(|| missing(&url))?;
        serde_json::from_slice(&body)
            .map_err(|error| CallError::BadAnswer { url: url.to_string(), reason: error.to_string() })
    }

    /// The node in short.
    pub async fn status(&self) -> Result<Status, CallError> {
        self.expect(&["v1", "status"]).await
    }

    /// A page of blobs, from the one after `after`, at most `limit`.
    pub async fn blobs(&self, after: Option<&Digest>, limit: u32) -> Result<BlobPage, CallError> {
        let mut url = join(&self.base, &["v1", "blobs"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", &after.to_string());
        }
        self.required(url).await
    }

    /// One blob; `None` when the node has nothing of it.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<BlobStatus>, CallError> {
        self.get(join(&self.base, &["v1", "blobs", &digest.to_string()])).await
    }

    /// All torrents that the node moves, or keeps ready to move.
    pub async fn torrents(&self) -> Result<Vec<TorrentStatus>, CallError> {
        self.expect(&["v1", "torrents"]).await
    }

    /// The peers of a torrent; `None` when the node does not have the torrent.
    pub async fn peers(&self, torrent: &InfoHash) -> Result<Option<Vec<PeerStatus>>, CallError> {
        self.get(join(&self.base, &["v1", "torrents", &torrent.to_string(), "peers"])).await
    }

    /// Where a torrent's blocks came from; `None` when the node does not have the torrent.
    pub async fn provenance(&self, torrent: &InfoHash) -> Result<Option<Provenance>, CallError> {
        self.get(join(&self.base, &["v1", "torrents", &torrent.to_string(), "provenance"])).await
    }

    /// Adds an ordinary torrent from its file, into `folder` below that of all torrents.
    pub async fn add_torrent(&self, file: Bytes, start: bool, folder: &str) -> Result<Added, CallError> {
        let mut url = join(&self.base, &["v1", "torrents"]);
        url.query_pairs_mut().append_pair("start", if start { "true" } else { "false" });
        if !folder.is_empty() {
            url.query_pairs_mut().append_pair("folder", folder);
        }
        self.transport.upload(url.clone(), file, self.deadline).await?.ok_or_else(|| missing(&url))
    }

    /// Adds an ordinary torrent from a magnet link or the address of its file.
    pub async fn add(&self, request: &AddRequest, start: bool) -> Result<Added, CallError> {
        let mut url = join(&self.base, &["v1", "torrents"]);
        url.query_pairs_mut().append_pair("start", if start { "true" } else { "false" });
        let added = self.transport.json(Method::POST, url.clone(), Some(request), self.deadline).await?;
        added.ok_or_else(|| missing(&url))
    }

    /// Starts, stops or verifies an ordinary torrent; `None` when the node does not have it.
    pub async fn act(&self, torrent: &InfoHash, action: TorrentAction) -> Result<Option<()>, CallError> {
        let action = match action {
            TorrentAction::Start => "start",
            TorrentAction::Stop => "stop",
            TorrentAction::Verify => "verify",
        };
        let url = join(&self.base, &["v1", "torrents", &torrent.to_string(), action]);
        self.transport.json::<(), ()>(Method::POST, url, None, self.deadline).await
    }

    /// Removes an ordinary torrent, and its files too if `data`; `None` when the node does not have it.
    pub async fn remove(&self, torrent: &InfoHash, data: bool) -> Result<Option<()>, CallError> {
        let mut url = join(&self.base, &["v1", "torrents", &torrent.to_string()]);
        url.query_pairs_mut().append_pair("data", if data { "true" } else { "false" });
        self.transport.json::<(), ()>(Method::DELETE, url, None, self.deadline).await
    }

    /// Limits one ordinary torrent, or the whole node where none is named.
    pub async fn limit(&self, torrent: Option<&InfoHash>, limits: &Limits) -> Result<Option<()>, CallError> {
        let url = match torrent {
            Some(torrent) => join(&self.base, &["v1", "torrents", &torrent.to_string()]),
            None => join(&self.base, &["v1", "limits"]),
        };
        let answer = self.transport.bytes(Method::PATCH, url, Some(limits), self.deadline).await?;
        Ok(answer.map(drop))
    }

    /// The files of an ordinary torrent; `None` when the node does not have it.
    pub async fn files(&self, torrent: &InfoHash) -> Result<Option<Vec<FileStatus>>, CallError> {
        self.get(join(&self.base, &["v1", "torrents", &torrent.to_string(), "files"])).await
    }

    /// The node's metrics, Prometheus text.
    pub async fn metrics(&self) -> Result<String, CallError> {
        let url = join(&self.base, &["v1", "metrics"]);
        let text = self.transport.bytes::<()>(Method::GET, url.clone(), None, self.deadline).await?;
        Ok(String::from_utf8_lossy(&text.ok_or_else(|| missing(&url))?).into_owned())
    }

    /// What happens, from now on: `topics` as the node's API names them, all where there are none.
    pub async fn events(&self, topics: &str) -> Result<RecordStream, CallError> {
        let mut url = join(&self.base, &["v1", "events"]);
        if !topics.is_empty() {
            url.query_pairs_mut().append_pair("topics", topics);
        }
        RecordStream::open(&self.transport, url, self.deadline).await
    }

    /// How the latest blobs came, the latest first.
    pub async fn traces(&self, limit: usize) -> Result<Vec<Trace>, CallError> {
        let mut url = join(&self.base, &["v1", "traces"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        self.required(url).await
    }

    /// How an image came; `None` when the node does not know it.
    pub async fn explain(&self, reference: &str) -> Result<Option<Explanation>, CallError> {
        let mut url = join(&self.base, &["v1", "explain"]);
        url.query_pairs_mut().append_pair("reference", reference);
        self.get(url).await
    }

    /// Has the node forget a blob; `None` when it has nothing of it.
    pub async fn forget(&self, digest: &Digest) -> Result<Option<()>, CallError> {
        let url = join(&self.base, &["v1", "blobs", &digest.to_string()]);
        self.transport.json::<(), ()>(Method::DELETE, url, None, self.deadline).await
    }

    /// Starts a pull and follows it.
    pub async fn pull(&self, request: &PullRequest) -> Result<PullStream, CallError> {
        let url = join(&self.base, &["v1", "pull"]);
        let (response, url) = self.transport.open(Method::POST, url, Some(request), self.deadline).await?;
        Ok(PullStream { response, url, lines: Lines::default(), over: false })
    }

    async fn expect<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, CallError> {
        self.required(join(&self.base, segments)).await
    }

    async fn required<T: DeserializeOwned>(&self, url: Url) -> Result<T, CallError> {
        self.get(url.clone()).await?.ok_or_else(|| missing(&url))
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<Option<T>, CallError> {
        self.transport.json::<(), _>(Method::GET, url, None, self.deadline).await
    }
}

fn missing(url: &Url) -> CallError {
    let reason = "there is no such call (404): is it a Longshore node of this version?".to_owned();
    CallError::BadAnswer { url: url.to_string(), reason }
}

/// The progress of a pull.
pub struct PullStream {
    response: Response,
    url: String,
    lines: Lines,
    over: bool,
}

impl PullStream {
    /// The next event; `None` after the last. Fails when the stream is cut before its last event, or
    /// silent for [`NodeClient::SILENCE`].
    pub async fn next(&mut self) -> Result<Option<PullEvent>, CallError> {
        loop {
            if self.over {
                return Ok(None);
            }
            if let Some(line) = self.lines.next() {
                let event: PullEvent = serde_json::from_slice(&line).map_err(|e| self.bad(e.to_string()))?;
                self.over = event.is_last();
                return Ok(Some(event));
            }
            let chunk = match tokio::time::timeout(NodeClient::SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Err(self.bad("the progress ends in the middle".to_owned())),
                Ok(Err(error)) => return Err(unreachable(&self.url, &error)),
                Err(_) => {
                    return Err(CallError::TimedOut { url: self.url.clone(), after: NodeClient::SILENCE });
                }
            };
            self.lines.push(&chunk).map_err(|reason| self.bad(reason))?;
        }
    }

    fn bad(&self, reason: String) -> CallError {
        CallError::BadAnswer { url: self.url.clone(), reason }
    }
}

/// What a node, or a lab, tells as it happens.
pub struct RecordStream {
    response: Response,
    url: String,
    lines: Lines,
}

impl RecordStream {
    pub(crate) async fn open(transport: &Transport, url: Url, deadline: Duration) -> Result<Self, CallError> {
        let (response, url) = transport.open::<()>(Method::GET, url, None, deadline).await?;
        Ok(Self { response, url, lines: Lines::default() })
    }

    /// The next record; `None` at the end, which comes when whoever tells stops. Fails when it is silent for
    /// [`NodeClient::SILENCE`].
    pub async fn next(&mut self) -> Result<Option<Record>, CallError> {
        loop {
            while let Some(line) = self.lines.next() {
                // Of server-sent events only the data counts here; each record has one line of it.
                if let Some(data) = line.strip_prefix(b"data:") {
                    return serde_json::from_slice(data).map(Some).map_err(|e| self.bad(e.to_string()));
                }
            }
            match tokio::time::timeout(NodeClient::SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.lines.push(&chunk).map_err(|reason| self.bad(reason))?,
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(unreachable(&self.url, &error)),
                Err(_) => {
                    return Err(CallError::TimedOut { url: self.url.clone(), after: NodeClient::SILENCE });
                }
            }
        }
    }

    fn bad(&self, reason: String) -> CallError {
        CallError::BadAnswer { url: self.url.clone(), reason }
    }
}

/// Cuts a stream of bytes into lines; empty ones are left out.
#[derive(Default)]
struct Lines {
    whole: VecDeque<Vec<u8>>,
    rest: BytesMut,
}

impl Lines {
    /// The longest line, in bytes: where the blocks of a torrent with many peers came from is the longest.
    const MOST: usize = 4 * 1024 * 1024;

    fn push(&mut self, chunk: &[u8]) -> Result<(), String> {
        // Only the new bytes can hold a line's end.
        let mut from = self.rest.len();
        self.rest.extend_from_slice(chunk);
        while let Some(at) = self.rest.iter().skip(from).position(|&byte| byte == b'\n') {
            let line = self.rest.split_to(from + at);
            self.rest.advance(1);
            if !line.is_empty() {
                self.whole.push_back(line.to_vec());
            }
            from = 0;
        }
        if self.rest.len() > Self::MOST {
            return Err(format!("a line is longer than {} bytes", Self::MOST));
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_are_told_apart() {
        assert_eq!(Endpoint::parse("unix:/run/x.sock"), Endpoint::Unix("/run/x.sock".into()));
        assert_eq!(Endpoint::parse("unix:///run/x.sock"), Endpoint::Unix("/run/x.sock".into()));
        assert_eq!(Endpoint::parse("/run/x.sock"), Endpoint::Unix("/run/x.sock".into()));
        assert_eq!(Endpoint::parse("http://h:1"), Endpoint::Http("http://h:1".into()));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; Lines::MOST]).is_ok());
        assert!(lines.push(b"x").is_err());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_cut(
            text in "[ab\n]{0,60}",
            cuts in proptest::collection::vec(1usize..7, 0..60),
        ) {
            let mut lines = Lines::default();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                lines.push(head).expect("short");
                rest = tail;
            }
            lines.push(rest).expect("short");
            let got: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
            let ended = text.rsplit_once('\n').map_or("", |(ended, _)| ended);
            let want: Vec<_> =
                ended.split('\n').filter(|l| !l.is_empty()).map(|l| l.as_bytes().to_vec()).collect();
            prop_assert_eq!(got, want);
        }
    }
}
