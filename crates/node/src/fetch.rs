//! How a blob comes: store, swarm, or origin, and who of the fleet may ask the origin.

use std::{sync::Arc, time::Duration};

use api::{
    CallError, DirectoryClient,
    directory::{Claim, Entry, Lease, PublishRequest},
    trace::SpanKind,
};
use hash::Digest;
use metainfo::BlobTorrent;
use tokio::time::{Instant, sleep};

use crate::{
    content::Inner,
    flight::{FetchError, Flight, Want},
    from_origin, from_swarm,
    lease::Held,
};

/// How long one claim waits at the directory for another's lease.
const WAIT: Duration = Duration::from_secs(20);

/// Brings the flight's blob into the store.
pub(crate) async fn run(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<(), FetchError> {
    let Some(directory) = inner.directory.as_ref().filter(|_| !flight.want.is_here()) else {
        return alone(inner, flight).await;
    };
    #[allow(clippy::disallowed_methods, reason = "a driver's deadline")]
    let deadline = Instant::now() + inner.config.content.lease_patience();
    // Of a swarm that was tried and is of no use, the lease is wanted all the same; and where no swarm was of use
    // lately, before it is tried.
    let mut stale = inner.swarms.is_open();
    let mut tried = false;
    let right = inner.right_to(flight);
    // First of all an answer, and what it is worth to wait for is known then: a directory that hangs is told by that.
    let mut wait = Duration::ZERO;
    // The first claim may wait for another's lease as well.
    flight.update(|progress| progress.waiting = true);
    loop {
        // Only where another has the lease does the directory keep a claim waiting.
        let kind = if wait.is_zero() { SpanKind::Directory } else { SpanKind::Lease };
        let mut span = flight.tracer.span(kind);
        let claim = async { Ok(claim(inner, directory, flight, right, wait, stale).await) };
        let claim = flight.unless_displaced(claim).await?;
        span.note(match &claim {
            Ok(Claim::Known(entry)) if entry.content.is_empty() => "known: a swarm has it".to_owned(),
            Ok(Claim::Known(_)) => "known: the directory has all of it".to_owned(),
            Ok(Claim::Leased(_)) => "nobody has it: this node asks the origin".to_owned(),
            Ok(Claim::Held { by, .. }) => format!("{by} has the lease"),
            Err(error) => error.to_string(),
        });
        drop(span);
        wait = WAIT;
        let held = matches!(claim, Ok(Claim::Held { .. }));
        flight.update(|progress| progress.waiting = held);
        match claim {
            Ok(Claim::Known(entry)) => match join(inner, flight, entry).await {
                Err(FetchError::Swarm(why)) if !tried => {
                    tracing::warn!(digest = %flight.digest, "the swarm is of no use: {why}");
                    flight.update(|progress| progress.torrent = None);
                    (stale, tried) = (true, true);
                }
                result => return result,
            },
            Ok(Claim::Leased(lease)) => return with_lease(inner, flight, right, lease).await,
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
                tell(&flight.digest, &error, "no directory; asking the origin");
                return alone(inner, flight).await;
            }
        }
    }
}

/// Asks for the blob's torrent, or for the lease that is the right to fetch it: its own, or one of what has no torrent.
async fn claim(
    inner: &Arc<Inner>,
    directory: &DirectoryClient,
    flight: &Flight,
    right: Digest,
    wait: Duration,
    stale: bool,
) -> Result<Claim, CallError> {
    let digest = &flight.digest;
    if right == *digest {
        return if stale {
            directory.claim_stale(digest, &inner.name, wait).await
        } else {
            directory.claim(digest, &inner.name, wait).await
        };
    }
    if !stale && let Some(entry) = directory.get(digest).await? {
        return Ok(Claim::Known(entry));
    }
    let claim = directory.claim(&right, &inner.name, wait).await?;
    // Whoever had it before has published by now.
    if let (false, Claim::Leased(lease)) = (stale, &claim)
        && let held = Held::new(inner, right, lease.clone())
        && let Some(entry) = directory.get(digest).await?
    {
        drop(held);
        return Ok(Claim::Known(entry));
    }
    Ok(claim)
}

/// Joins the swarm of what is public, or may be had by whom it is brought for.
async fn join(inner: &Arc<Inner>, flight: &Arc<Flight>, entry: Entry) -> Result<(), FetchError> {
    if entry.public {
        inner.store.mark_public(&flight.digest);
        flight.update(|progress| progress.public = Some(true));
    } else if flight.rights().is_none() {
        let Flight { asker, digest, want, .. } = &**flight;
        let granted = inner.may_have(asker, flight.repository()?, *digest, want).await?;
        flight.settle(granted.rights, granted.public);
    }
    if entry.content.is_empty() {
        let Some(torrent) = inner.borrow(flight, Some(entry.size)).await else {
            return from_swarm::fetch(inner, flight, entry).await;
        };
        inner.remember_origin(flight, &torrent);
        inner.engine.announce_soon(torrent.info_hash, inner.trackers()).await;
        return Ok(());
    }
    // Small enough that the directory has all of it.
    let torrent = inner.keep_small(flight.digest, entry.content, entry.media_type.as_deref()).await?;
    inner.remember_directory(flight, &torrent, entry.size);
    inner.engine.announce_soon(torrent.info_hash, inner.trackers()).await;
    Ok(())
}

/// Fetches from the origin as the only one of the fleet.
async fn with_lease(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    right: Digest,
    lease: Lease,
) -> Result<(), FetchError> {
    // Dropped in any other way, by a failure or the node's end, it is given back.
    let mut held = Some(Held::new(inner, right, lease));
    let mut progress = flight.progress();
    // The progress itself must not be held meanwhile.
    let turns_private = async { progress.wait_for(|p| p.public == Some(false)).await.map(drop) };
    let mut fetched = std::pin::pin!(from_origin::fetch(inner, flight));
    let torrent = tokio::select! {
        torrent = &mut fetched => torrent?,
        Ok(()) = turns_private, if !inner.shares_private() => {
            // It will not be told of: the others need not wait for it.
            held = None;
            fetched.await?
        }
    };
    inner.remember_origin(flight, &torrent);
    let is_own = right == flight.digest;
    let id = held.as_ref().filter(|_| is_own).map(Held::id);
    let (media_type, public) = flight.told();
    let span = flight.tracer.span(SpanKind::Publish);
    let offered = offer(inner, &torrent, media_type, public, id).await;
    drop(span);
    if offered
        && is_own
        && let Some(held) = held
    {
        held.published();
    }
    Ok(())
}

/// Fetches from the origin without a lease, and offers it to the fleet all the same.
async fn alone(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<(), FetchError> {
    let torrent = from_origin::fetch(inner, flight).await?;
    inner.remember_origin(flight, &torrent);
    let (inner, (media_type, public)) = (inner.clone(), flight.told());
    if matches!(flight.want, Want::Fetched(_)) {
        // The fleet is told next which URL it is of.
        offer(&inner, &torrent, media_type, public, None).await;
        return Ok(());
    }
    let tracer = flight.tracer.clone();
    inner.tasks.clone().spawn(async move {
        let _span = tracer.span(SpanKind::Publish);
        offer(&inner, &torrent, media_type, public, None).await
    });
    Ok(())
}

/// Tells tracker and directory that the blob can be had here: the tracker first, so that whoever learns of the
/// torrent finds us in its swarm. A tracker that takes registered torrents only refuses us then, but knows us as soon as
/// it is published; it is told again all the same. Returns whether the directory took it.
pub(crate) async fn offer(
    inner: &Arc<Inner>,
    torrent: &BlobTorrent,
    media_type: Option<String>,
    public: bool,
    lease: Option<String>,
) -> bool {
    let digest = &torrent.digest;
    if !public && !inner.shares_private() {
        tracing::debug!(%digest, "not public, and the directory has no token: not shared");
        return false;
    }
    let known = inner.engine.announce(torrent.info_hash, inner.trackers()).await;
    let Some(directory) = &inner.directory else { return false };
    let content = inner.small(torrent.digest).await;
    let request = PublishRequest { info: torrent.info_bytes.clone(), media_type, public, content, lease };
    let published = directory.publish(digest, &request).await;
    if let Err(error) = &published {
        tell(digest, error, "not published: other nodes will ask the origin");
    }
    if published.is_ok() && !known {
        inner.engine.announce_soon(torrent.info_hash, inner.trackers()).await;
    }
    published.is_ok()
}

/// Of an outage the client has warned already, once for all blobs.
fn tell(digest: &Digest, error: &CallError, what: &str) {
    if matches!(error, CallError::Rejected { .. }) {
        tracing::warn!(%digest, %error, "{what}");
    } else {
        tracing::debug!(%digest, %error, "{what}");
    }
}
