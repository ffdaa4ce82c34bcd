//! A pull through a node's API, followed to its end.

use std::{collections::HashMap, time::Duration};

use api::{
    NodeClient,
    node::{PullEvent, PullRequest},
};
use hash::Digest;
use tokio::time::{Instant, timeout};

use crate::Event;

/// Has a node pull `reference`, telling how far it is; gives the time that it took, or why it failed.
pub(crate) async fn pull(
    client: &NodeClient,
    node: &str,
    reference: &str,
    deadline: Duration,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Duration, String> {
    let start = Instant::now();
    let followed = match timeout(deadline, follow(client, node, reference, tell)).await {
        Ok(followed) => followed,
        Err(_) => Err(format!("the pull was not done after {deadline:?}")),
    };
    let outcome = followed.map(|()| start.elapsed());
    tell(Event::Pulled { node, outcome: outcome.as_ref().map(|time| *time).map_err(String::as_str) });
    outcome
}

async fn follow(
    client: &NodeClient,
    node: &str,
    reference: &str,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<(), String> {
    let request = PullRequest { reference: reference.to_owned(), platform: None };
    let mut events = client.pull(&request).await.map_err(|error| error.to_string())?;
    let mut blobs: HashMap<Digest, (u64, u64)> = HashMap::new();
    let mut connected = 0;
    while let Some(event) = events.next().await.map_err(|error| error.to_string())? {
        match event {
            PullEvent::Blob { digest, size, .. } => {
                blobs.insert(digest, (0, size));
            }
            PullEvent::Progress { digest, bytes_done, peers, .. } => {
                if let Some((done, size)) = blobs.get_mut(&digest) {
                    *done = bytes_done.min(*size);
                }
                connected = peers;
            }
            PullEvent::Complete { digest, .. } => {
                if let Some((done, size)) = blobs.get_mut(&digest) {
                    *done = *size;
                }
            }
            PullEvent::Done { .. } => return Ok(()),
            PullEvent::Failed { error } => return Err(error),
            PullEvent::Resolved { .. } | PullEvent::Alive => continue,
        }
        let (done, total) = blobs.values().fold((0, 0), |(done, total), (d, t)| (done + d, total + t));
        tell(Event::Pulling { node, done, total, peers: connected });
    }
    Err("the node ended the pull without saying how it went".to_owned())
}
