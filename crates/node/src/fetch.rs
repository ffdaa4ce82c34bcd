//! How a blob comes: store, swarm, or origin, and who of the fleet may ask the origin.

use std::{sync::Arc, time::Duration};

use api::{
    CallError,
    directory::{Claim, Lease, PublishRequest},
};
use metainfo::BlobTorrent;
use tokio::time::{Instant, sleep};

use crate::{
    content::Inner,
    flight::{FetchError, Flight},
    from_origin, from_swarm,
    lease::Held,
};

/// How long one claim waits at the directory for another's lease.
const WAIT: Duration = Duration::from_secs(20);

/// Brings the flight's blob into the store.
pub(crate) async fn run(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<(), FetchError> {
    let Some(directory) = &inner.directory else { return alone(inner, flight).await };
    #[allow(clippy::disallowed_methods, reason = "a driver's deadline")]
    let deadline = Instant::now() + inner.config.content.lease_patience();
    // Of a swarm that was tried and is of no use, the lease is wanted all the same.
    let mut stale = false;
    // The first claim may wait for another's lease as well.
    flight.update(|progress| progress.waiting = true);
    loop {
        let claim = if stale {
            directory.claim_stale(&flight.digest, &inner.name, WAIT).await
        } else {
            directory.claim(&flight.digest, &inner.name, WAIT).await
        };
        let held = matches!(claim, Ok(Claim::Held { .. }));
        flight.update(|progress| progress.waiting = held);
        match claim {
            Ok(Claim::Known(entry)) => match from_swarm::fetch(inner, flight, entry).await {
                Err(FetchError::Swarm(why)) if !stale => {
                    tracing::warn!(digest = %flight.digest, "the swarm is of no use: {why}");
                    flight.update(|progress| progress.torrent = None);
                    stale = true;
                }
                result => return result,
            },
            Ok(Claim::Leased(lease)) => return with_lease(inner, flight, lease).await,
            Ok(Claim::Held { by, .. }) => {
                #[allow(clippy::disallowed_methods, reason = "a driver's deadline")]
                if Instant::now() >= deadline {
                    tracing::warn!(digest = %flight.digest, %by, "the lease is held too long; asking the origin as well");
                    flight.update(|progress| progress.waiting = false);
                    return alone(inner, flight).await;
                }
                // The directory has waited; this is for one that does not.
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                tell(flight, &error, "no directory; asking the origin");
                return alone(inner, flight).await;
            }
        }
    }
}

/// Fetches from the origin as the only one of the fleet.
async fn with_lease(inner: &Arc<Inner>, flight: &Arc<Flight>, lease: Lease) -> Result<(), FetchError> {
    // Dropped in any other way, by a failure or the node's end, it is given back.
    let held = Held::new(inner, flight.digest, lease);
    let torrent = from_origin::fetch(inner, flight).await?;
    inner.remember_origin(flight);
    if offer(inner, flight, &torrent, Some(held.id())).await {
        held.published();
    }
    Ok(())
}

/// Fetches from the origin without a lease, and offers it to the fleet all the same.
async fn alone(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<(), FetchError> {
    let torrent = from_origin::fetch(inner, flight).await?;
    inner.remember_origin(flight);
    let (inner, flight) = (inner.clone(), flight.clone());
    inner.tasks.clone().spawn(async move { offer(&inner, &flight, &torrent, None).await });
    Ok(())
}

/// Tells tracker and directory that the blob can be had here: the tracker first, so that whoever learns of the
/// torrent finds us in its swarm. A tracker that takes registered torrents only refuses us then, but knows us as soon as
/// it is published; it is told again all the same. Returns whether the directory took it.
async fn offer(inner: &Arc<Inner>, flight: &Flight, torrent: &BlobTorrent, lease: Option<String>) -> bool {
    let known = inner.engine.announce(torrent.info_hash, inner.trackers()).await;
    let Some(directory) = &inner.directory else { return false };
    let media_type = flight.progress().borrow().media_type.clone();
    let request = PublishRequest { info: torrent.info_bytes.clone(), media_type, lease };
    let published = directory.publish(&flight.digest, &request).await;
    if let Err(error) = &published {
        tell(flight, error, "not published: other nodes will ask the origin");
    }
    if published.is_ok() && !known {
        inner.engine.announce_soon(torrent.info_hash, inner.trackers()).await;
    }
    published.is_ok()
}

/// Of an outage the client has warned already, once for all blobs.
fn tell(flight: &Flight, error: &CallError, what: &str) {
    if matches!(error, CallError::Rejected { .. }) {
        tracing::warn!(digest = %flight.digest, %error, "{what}");
    } else {
        tracing::debug!(digest = %flight.digest, %error, "{what}");
    }
}
