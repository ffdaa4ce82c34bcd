//! `longshore status`: what the node holds and does, and where it came from.

use std::path::PathBuf;

use anyhow::Context as _;
use api::{
    CallError, Endpoint, NodeClient,
    node::{BlobState, BlobStatus, Health, SourceKind, Status},
};
use hash::Digest;
use serde_json::json;

use crate::{failure::Failure, quantity, screen};

/// How to reach the node.
#[derive(clap::Args)]
pub(crate) struct Connection {
    /// The node's unix socket
    #[arg(long, value_name = "PATH", env = "LONGSHORE_SOCKET", default_value = "/run/longshore/node.sock")]
    socket: PathBuf,
}

impl Connection {
    pub(crate) fn client(&self) -> anyhow::Result<NodeClient> {
        NodeClient::new(&Endpoint::Unix(self.socket.clone()), None).context("cannot set up the client")
    }

    /// An error of a call, with what to do about it.
    pub(crate) fn explain(&self, error: CallError) -> anyhow::Error {
        match error {
            CallError::Unreachable { .. } => {
                let what = format!("no node answers at {}", self.socket.display());
                Failure::new(what).hint("start `longshore node`, or say where it is with --socket").into()
            }
            CallError::Rejected { reason, .. } => Failure::bad_input(reason).into(),
            error => error.into(),
        }
    }
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
    let health = match client.health().await {
        Ok(health) => health,
        Err(CallError::Unavailable { reason, .. }) => Health { healthy: false, problems: vec![reason] },
        Err(error) => return Err(explain(error)),
    };
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
    if args.json {
        screen::say_json(&json!({ "status": status, "health": health, "blobs": blobs }));
        return Ok(());
    }
    screen::say(&summary(&status));
    for tracker in &status.trackers {
        let how = tracker
            .error
            .as_deref()
            .map_or("answers".to_owned(), |error| format!("does not answer: {error}"));
        screen::say(&format!("tracker  {} {how}", tracker.url));
    }
    health.problems.iter().for_each(|problem| screen::say(&format!("problem  {problem}")));
    blobs.iter().flat_map(blob_lines).for_each(|line| screen::say(&line));
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
        ("holds", format!("{}, {}", quantity::count(totals.blobs as usize, "blob"), size(totals.blob_bytes))),
        ("moved", moved),
        ("peers", totals.peers.to_string()),
    ])
}

/// The blob, and under it every source of its bytes.
fn blob_lines(blob: &BlobStatus) -> Vec<String> {
    let state = match blob.state {
        BlobState::Complete => "complete".to_owned(),
        BlobState::Partial => format!("partial, {} done", quantity::size(blob.bytes_done)),
        BlobState::Fetching => format!("fetching, {} done", quantity::size(blob.bytes_done)),
    };
    let mut lines = vec![format!("{}  {}  {state}", blob.digest, quantity::size(blob.size))];
    for source in &blob.sources {
        let kind = match source.source.kind {
            SourceKind::Peer => "peer",
            SourceKind::Origin => "origin",
            SourceKind::Store => "store",
        };
        let who = source.source.peer.as_deref().unwrap_or_default();
        lines.push(format!("    {:>12}  from {kind} {who}", quantity::size(source.bytes)));
    }
    lines
}
