//! `longshore status`: what the node holds and does, and where it came from.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use api::{
    CallError, Endpoint, LabClient, NodeClient,
    node::{
        BlobState, BlobStatus, LenderStatus, SourceBytes, SourceKind, Status, TorrentStatus, Totals,
        TrackerStatus,
    },
};
use hash::Digest;
use serde_json::json;

use super::{lab, torrent};
use crate::{failure::Failure, host, quantity, screen};

/// Most ordinary torrents that are listed.
const MOST_TORRENTS: usize = 20;

/// How to reach the node.
#[derive(clap::Args)]
pub(crate) struct Connection {
    /// The node's unix socket [default: /run/longshore/node.sock]
    #[arg(long, value_name = "PATH", env = "LONGSHORE_SOCKET")]
    socket: Option<PathBuf>,
    /// A node of a lab instead, as `longshore lab status` names it: HOST, or LAB/HOST where several labs run
    #[arg(long, value_name = "HOST")]
    node: Option<String>,
}

impl Connection {
    pub(crate) fn client(&self) -> anyhow::Result<NodeClient> {
        let socket = match &self.node {
            Some(node) => lab::node(node)?,
            None => self.socket().to_owned(),
        };
        NodeClient::new(&Endpoint::Unix(socket), None).context("cannot set up the client")
    }

    /// A client of the lab that the node is of, where it is of one that runs.
    pub(crate) fn lab(&self) -> Option<LabClient> {
        self.node.as_deref().and_then(|node| lab::client_of(node).ok())
    }

    /// Where the node is to be looked for if nobody says it.
    pub(crate) fn fall_back(&mut self, socket: &Path) {
        self.socket.get_or_insert_with(|| socket.to_owned());
    }

    fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new("/run/longshore/node.sock"))
    }

    /// An error of a call, with what to do about it.
    pub(crate) fn explain(&self, error: CallError) -> anyhow::Error {
        match error {
            CallError::Unreachable { .. } if let Some(node) = &self.node => {
                let what = format!("the lab's node {node} does not answer");
                Failure::new(what).hint("`longshore lab status` says how it is").into()
            }
            CallError::Unreachable { .. } => {
                let what = format!("no node answers at {}", self.socket().display());
                Failure::new(what).hint("start `longshore node`, or say where it is with --socket").into()
            }
            CallError::NotAllowed { .. } => self.not_allowed().into(),
            CallError::Rejected { reason, .. } => Failure::bad_input(reason).into(),
            error => error.into(),
        }
    }

    /// The socket is not this user's: whose it is, or whose the folder is that does not let this user look.
    fn not_allowed(&self) -> Failure {
        let socket = self.socket().display();
        let owned = self.socket().ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)));
        let hint = match owned {
            Some((path, meta)) => {
                let owner = user_name(meta.uid());
                format!("{} belongs to {owner}: run this as {owner}, with sudo for example", path.display())
            }
            None => "run this as root".to_owned(),
        };
        Failure::new(format!("permission denied: this user may not use the node's socket {socket}"))
            .hint(hint)
    }
}

/// A user's name, where `/etc/passwd` has it.
fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {uid}"))
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this blob
    #[arg(value_name = "DIGEST")]
    digest: Option<Digest>,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connection.client()?;
    let explain = |error| args.connection.explain(error);
    if let Some(digest) = args.digest {
        let blob = client.blob(&digest).await.map_err(explain)?;
        let blob = blob.ok_or_else(|| Failure::new(format!("{digest} is not on this node")))?;
        if args.json {
            screen::say_json(&serde_json::to_value(&blob)?);
        } else {
            blob_lines(&blob).iter().for_each(|line| screen::say(line));
        }
        return Ok(());
    }
    let status = client.status().await.map_err(explain)?;
    let health = client.health().await.map_err(explain)?;
    let mut blobs = Vec::new();
    let mut after = None;
    loop {
        let page = client.blobs(after.as_ref(), api::node::MAX_PAGE).await.map_err(explain)?;
        blobs.extend(page.blobs);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut torrents = client.torrents().await.map_err(explain)?;
    torrents.retain(|torrent| torrent.digest.is_none());
    if args.json {
        let all = json!({ "status": status, "health": health, "blobs": blobs, "torrents": torrents });
        screen::say_json(&all);
        return Ok(());
    }
    screen::say(&summary(&status));
    for tracker in &status.trackers {
        screen::say(&tracker_line(tracker, host::unix_time()));
    }
    match (status.trackers.is_empty(), status.local_discovery) {
        (true, true) => screen::say("tracker  none: peers are found in the local network"),
        (true, false) => screen::say("tracker  none is configured: this node finds no peers"),
        _ => {}
    }
    status.borrow.iter().for_each(|lender| screen::say(&lender_line(lender)));
    health.problems.iter().for_each(|problem| screen::say(&format!("problem  {problem}")));
    blobs.iter().flat_map(blob_lines).for_each(|line| screen::say(&line));
    torrent_lines(torrents).iter().for_each(|line| screen::say(line));
    Ok(())
}

fn summary(status: &Status) -> String {
    let (totals, size) = (&status.totals, quantity::size);
    let addresses: Vec<_> = status.addresses.iter().map(|a| format!("{} {}", a.purpose, a.address)).collect();
    let moved = format!(
        "{} from peers, {} from origins, {} to peers, {} to clients",
        size(totals.from_peers),
        size(totals.from_origins),
        size(totals.to_peers),
        size(totals.to_clients),
    );
    screen::table(&[
        ("node", format!("{} (longshore {}), up {} s", status.node, status.version, status.uptime)),
        ("listens", addresses.join(", ")),
        ("holds", holds(totals)),
        ("moved", moved),
        ("peers", totals.peers.to_string()),
    ])
}

/// What is borrowed takes no room of the store's, and is counted apart.
fn holds(totals: &Totals) -> String {
    let blobs = quantity::count(totals.blobs as usize, "blob");
    let borrowed = match totals.borrowed_bytes {
        0 => String::new(),
        bytes => format!(", and {} borrowed", quantity::size(bytes)),
    };
    format!("{blobs}, {}{borrowed}", quantity::size(totals.blob_bytes))
}

fn lender_line(LenderStatus { folder, error }: &LenderStatus) -> String {
    let state = error.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("cannot be read: {error}"));
    format!("borrow   {folder}  {state}")
}

/// Ordinary torrents, up to a bound: name, state, how much of it is here.
fn torrent_lines(mut torrents: Vec<TorrentStatus>) -> Vec<String> {
    torrents.sort_by(|a, b| (&a.name, a.info_hash).cmp(&(&b.name, b.info_hash)));
    let mut lines: Vec<String> = torrents.iter().take(MOST_TORRENTS).map(torrent_line).collect();
    if torrents.len() > MOST_TORRENTS {
        let more = torrents.len() - MOST_TORRENTS;
        lines.push(format!("… and {more} more, see `longshore torrent list`"));
    }
    lines
}

fn torrent_line(torrent: &TorrentStatus) -> String {
    let (name, state) = (&torrent.name, torrent::phase(torrent.state));
    let (percent, size) = (torrent::percent(torrent), quantity::size(torrent.size));
    format!("torrent  {name}  {state}, {percent:.1}% of {size}")
}

/// A tracker's state at the time `now`.
fn tracker_line(tracker: &TrackerStatus, now: u64) -> String {
    let ago = |then: u64| format!("{} s", now.saturating_sub(then));
    let last = tracker.last_answer.map(|then| format!("last answer {} ago", ago(then)));
    let state = match (&tracker.error, last) {
        (None, None) => "not announced to yet".to_owned(),
        (None, Some(last)) => format!("ok, {last}"),
        (Some(error), last) => {
            let since = tracker.failing_since.map_or_else(String::new, |then| format!(" for {}", ago(then)));
            format!("failing{since}, {}: {error}", last.unwrap_or_else(|| "never answered".to_owned()))
        }
    };
    format!("tracker  {}  {state}", tracker.url)
}

/// The blob, and under it every source of its bytes.
fn blob_lines(blob: &BlobStatus) -> Vec<String> {
    let state = match blob.state {
        BlobState::Complete => "complete".to_owned(),
        BlobState::Partial => format!("partial, {} done", quantity::size(blob.bytes_done)),
        BlobState::Fetching => format!("fetching, {} done", quantity::size(blob.bytes_done)),
    };
    let mut lines = vec![format!("{}  {}  {state}", blob.digest, quantity::size(blob.size))];
    lines.extend(blob.sources.iter().map(source_line));
    lines
}

fn source_line(SourceBytes { source, bytes }: &SourceBytes) -> String {
    let kind = match source.kind {
        SourceKind::Peer => "from peer",
        SourceKind::Origin => "from origin",
        SourceKind::Store => "on this host",
        SourceKind::Directory => "from directory",
    };
    let who = source.peer.as_deref().map_or_else(String::new, |peer| format!(" {peer}"));
    format!("    {:>12}  {kind}{who}", quantity::size(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trackers_state_is_told_from_the_start() {
        let line = |last_answer, error: Option<&str>, failing_since| {
            let (url, error) = ("http://t".to_owned(), error.map(str::to_owned));
            tracker_line(&TrackerStatus { url, last_answer, error, failing_since }, 100)
        };
        assert_eq!(line(None, None, None), "tracker  http://t  not announced to yet");
        assert_eq!(line(Some(90), None, None), "tracker  http://t  ok, last answer 10 s ago");
        let failing = "tracker  http://t  failing for 40 s, last answer 50 s ago: gone";
        assert_eq!(line(Some(50), Some("gone"), Some(60)), failing);
        assert!(line(None, Some("gone"), Some(60)).ends_with("failing for 40 s, never answered: gone"));
    }

    #[test]
    fn no_line_about_a_blob_ends_in_a_blank() {
        let source = |kind, peer: Option<&str>| SourceBytes {
            source: api::node::Source { kind, peer: peer.map(str::to_owned), peer_id: None },
            bytes: 5,
        };
        let sources = [source(SourceKind::Directory, None), source(SourceKind::Peer, Some("10.0.0.1:6881"))];
        let lines: Vec<String> = sources.iter().map(source_line).collect();
        assert!(
            lines[0].ends_with("from directory") && lines[1].ends_with("from peer 10.0.0.1:6881"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_was_here_already_is_on_this_host() {
        let source = api::node::Source { kind: SourceKind::Store, peer: None, peer_id: None };
        assert!(source_line(&SourceBytes { source, bytes: 5 }).ends_with(" 5 B  on this host"));
    }

    #[test]
    fn what_is_borrowed_is_counted_apart_and_its_folders_are_shown() {
        let mut totals = Totals { blobs: 3, blob_bytes: 595, ..Totals::default() };
        assert_eq!(holds(&totals), "3 blobs, 595 B");
        totals.borrowed_bytes = 6_000_000;
        assert_eq!(holds(&totals), "3 blobs, 595 B, and 5.72 MiB borrowed");
        let lender =
            |error: Option<&str>| LenderStatus { folder: "/c".into(), error: error.map(str::to_owned) };
        assert_eq!(lender_line(&lender(None)), "borrow   /c  ok");
        assert_eq!(lender_line(&lender(Some("no"))), "borrow   /c  cannot be read: no");
    }

    #[test]
    fn ordinary_torrents_are_listed_up_to_a_bound() {
        let torrent = |at: usize| -> TorrentStatus {
            let text = format!(
                r#"{{"info_hash":"{}","name":"disk{at:02}","size":2048,"bytes_done":512,"pieces":1,
                    "pieces_done":0,"peers":0,"down_bytes":0,"up_bytes":0,"down_rate":0,"up_rate":0}}"#,
                metainfo::InfoHash::from_bytes([1; 20])
            );
            serde_json::from_str(&text).expect("a torrent")
        };
        let lines = |count| torrent_lines((0..count).rev().map(torrent).collect());
        assert_eq!(lines(1), ["torrent  disk00  downloading, 25.0% of 2.00 KiB"]);
        assert_eq!(lines(20).len(), 20);
        let many = lines(40);
        assert!(many[0].contains("disk00") && many.len() == 21, "{many:?}");
        assert_eq!(many[20], "… and 20 more, see `longshore torrent list`");
    }

    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(u32::MAX - 7), format!("user {}", u32::MAX - 7));
    }
}
