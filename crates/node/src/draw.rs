//! A file of the web whose digest is not known before it has come: drawn into a file once for the whole fleet, read
//! behind by all who wait, and then a blob of the store like any other. The directory remembers which blob it is.
//!
//! While another node draws it, there is nothing to read behind. Its clients then are kept with a trickle from the server,
//! which most leave after half a minute without a byte, until the blob is known and comes from the fleet.

mod proof;
mod reader;

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::directory::{Claim, Tag, TagRequest};
use hash::Digest;
use http::{HeaderValue, header};
use mirror::Asker;
use origin::{FileHead, Version};
use tokio::{
    io::AsyncWriteExt as _,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    content::Inner,
    flight::{FetchError, Want},
    lease::Held,
    meant::Meant,
    site::Seen,
};
use proof::Check;
pub(crate) use proof::Proofs;

/// How many files are drawn at once; more are passed on.
const AT_ONCE: usize = 256;
/// How long a claim waits at the directory for another node that draws the same file.
const WAIT: Duration = Duration::from_secs(20);

/// One file's coming.
pub(crate) struct Draw {
    meant: Meant,
    drawn: watch::Sender<Drawn>,
}

/// How far it is.
#[derive(Clone, Default)]
pub(crate) struct Drawn {
    /// Where its bytes lie, once the server has begun to answer.
    pub(crate) file: Option<Arc<File>>,
    /// Its length in bytes, if the server said it.
    pub(crate) size: Option<u64>,
    pub(crate) media_type: Option<String>,
    /// What tells this version from others, as far as the server says.
    validator: Option<HeaderValue>,
    /// How many bytes may be read: until it is proven, all that are there but the last.
    received: u64,
    /// How it ended: which blob it is.
    pub(crate) outcome: Option<Result<Digest, FetchError>>,
}

impl Inner {
    /// Begins to draw a file, or finds who does already; none where too many are drawn.
    pub(crate) fn draw(self: &Arc<Self>, meant: &Meant) -> Option<Arc<Draw>> {
        let mut draws = self.sites.draws.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(draw) = draws.get(&meant.key) {
            return Some(draw.clone());
        }
        if draws.len() >= AT_ONCE {
            return None;
        }
        let draw = Arc::new(Draw { meant: meant.clone(), drawn: watch::Sender::default() });
        draws.insert(meant.key.clone(), draw.clone());
        let (inner, for_task) = (self.clone(), draw.clone());
        self.tasks.spawn(async move {
            let mut landing = Landing { inner, draw: for_task, outcome: Some(Err(FetchError::Stopped)) };
            let stop = landing.inner.stop.clone();
            let outcome = tokio::select! {
                outcome = run(&landing.inner, &landing.draw) => outcome,
                () = stop.cancelled() => Err(FetchError::Stopped),
            };
            landing.outcome = Some(outcome);
        });
        Some(draw)
    }

    /// Whether a file of so many bytes could be drawn now.
    pub(crate) fn has_room(self: &Arc<Self>, bytes: u64) -> bool {
        Room::new(self).take(bytes)
    }

    /// Which blob a key stands for, by what the fleet was told last.
    pub(crate) async fn known_key(&self, key: &str) -> Option<Tag> {
        self.directory.as_ref()?.tag(&tag_name(key)).await.ok().flatten()
    }

    /// Tells the fleet which blob a key stands for.
    pub(crate) async fn tell_key(&self, key: &str, digest: Digest, media_type: Option<String>, size: u64) {
        let Some(directory) = &self.directory else { return };
        let media_type = media_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        let request = TagRequest { name: tag_name(key), digest, media_type, size };
        if let Err(error) = directory.set_tag(&request).await {
            tracing::debug!(%digest, %error, "it is not remembered which URL it is of");
        }
    }
}

/// In the directory, beside the tags of images: no image's name is like it.
fn tag_name(key: &str) -> String {
    format!("web:{}", Digest::of(key.as_bytes()).hex())
}

async fn run(inner: &Arc<Inner>, draw: &Draw) -> Result<Digest, FetchError> {
    let meant = &draw.meant;
    let mut told = inner.known_key(&meant.key).await;
    if let Some(digest) = draw.believe(inner, told.as_ref()).await {
        return Ok(digest);
    }
    // The right to draw it is a lease on what would have the key for its content, of which there is none.
    let lease_of = Digest::of(meant.key.as_bytes());
    let held = lease(inner, lease_of).await;
    // Whoever had the lease before may have told it by now.
    if inner.directory.is_some() {
        told = inner.known_key(&meant.key).await;
        if let Some(digest) = draw.believe(inner, told.as_ref()).await {
            return Ok(digest);
        }
    }
    let (spool, mut room) = (inner.uploads.spool(), Room::new(inner));
    let (digest, size, media_type) = receive(inner, draw, &spool.path, &mut room).await?;
    if let Some(before) = told.map(|tag| tag.target.digest).filter(|before| *before != digest) {
        let home = meant.home();
        tracing::warn!(%home, %before, %digest, "it is another file than the fleet had for it: this one is taken");
    }
    // A server has just given it to somebody who showed nothing.
    inner.store.mark_public(&digest);
    let want = Want::Fetched(spool.path.clone());
    let (flight, _) = inner.flight(&meant.home(), digest, want, &Asker::default());
    flight.finished().await?;
    inner.sites.see(&meant.key, Seen::file(digest, media_type.clone()));
    inner.tell_key(&meant.key, digest, media_type, size).await;
    drop(held);
    Ok(digest)
}

/// Takes a file from its server into a file here, for all who read behind, and holds it against what is known of it.
async fn receive(
    inner: &Arc<Inner>,
    draw: &Draw,
    path: &Path,
    room: &mut Room,
) -> Result<(Digest, u64, Option<String>), FetchError> {
    let meant = &draw.meant;
    let (head, mut body) = inner.web.file(&meant.url, 0, Version::Unknown).await?;
    if !meant.fits(&head) || !says_its_end(&head) {
        return Err(FetchError::Misfit);
    }
    if !room.take(body.size().unwrap_or(0)) {
        return Err(FetchError::disk(NO_ROOM));
    }
    let mut file = tokio::fs::File::create(path).await.map_err(FetchError::disk)?;
    let readable = File::open(path).map_err(FetchError::disk)?;
    draw.drawn.send_modify(|drawn| {
        drawn.file = Some(Arc::new(readable));
        drawn.size = body.size();
        drawn.media_type.clone_from(&head.media_type);
        drawn.validator = head.validator();
    });
    let (mut check, mut received) = (Check::new(meant), 0_u64);
    while let Some(chunk) = body.next_chunk().await? {
        if body.size().is_none() && !room.take(chunk.len() as u64) {
            return Err(FetchError::disk(NO_ROOM));
        }
        file.write_all(&chunk).await.map_err(FetchError::disk)?;
        file.flush().await.map_err(FetchError::disk)?;
        received += chunk.len() as u64;
        check.update(chunk).await?;
        draw.drawn.send_modify(|drawn| drawn.received = received.saturating_sub(1));
    }
    let digest = check.finish(received)?;
    draw.drawn.send_modify(|drawn| drawn.received = received);
    Ok((digest, received, head.media_type))
}

/// The right to draw, once nobody else has it; none where nobody gives it, or another has it for too long.
async fn lease(inner: &Arc<Inner>, of: Digest) -> Option<Held> {
    let directory = inner.directory.as_ref()?;
    #[allow(clippy::disallowed_methods, reason = "a driver's deadline")]
    let begun = Instant::now();
    loop {
        match directory.claim(&of, &inner.name, WAIT).await.ok()? {
            Claim::Leased(lease) => return Some(Held::new(inner, of, lease)),
            Claim::Held { by, .. } if begun.elapsed() < inner.config.content.lease_patience() => {
                tracing::debug!(%by, "another node draws a file");
                // The directory has waited; this is for one that does not.
                sleep(Duration::from_millis(50)).await;
            }
            _ => return None,
        }
    }
}

/// Whether a file that breaks off can be told from one that is whole: the end of a connection is no file's end.
fn says_its_end(head: &FileHead) -> bool {
    head.size.is_some() || head.headers.contains_key(header::TRANSFER_ENCODING)
}

const NO_ROOM: &str = "too much is on its way already: see `spool_mib` of [proxy]";

/// What a draw has of the room for files that are on their way. Goes back with the value.
struct Room {
    inner: Arc<Inner>,
    taken: u64,
}

impl Room {
    fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: inner.clone(), taken: 0 }
    }

    fn take(&mut self, bytes: u64) -> bool {
        let limit = self.inner.config.proxy.spool();
        let taken = take(&self.inner.sites.spooled, bytes, limit);
        self.taken += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.inner.sites.spooled.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Adds, as long as the sum stays within the limit.
fn take(sum: &AtomicU64, bytes: u64, limit: u64) -> bool {
    let within = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= limit);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
}

/// Ends a draw, however its task ends.
struct Landing {
    inner: Arc<Inner>,
    draw: Arc<Draw>,
    outcome: Option<Result<Digest, FetchError>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let home = self.draw.meant.home();
        match &self.outcome {
            Some(Err(error)) if error.is_wrong() => tracing::warn!(%home, "not drawn: {error}"),
            Some(Err(error)) => tracing::info!(%home, "not drawn: {error}"),
            _ => {}
        }
        let mut draws = self.inner.sites.draws.lock().unwrap_or_else(PoisonError::into_inner);
        draws.remove(&self.draw.meant.key);
        drop(draws);
        let outcome = self.outcome.take();
        self.draw.drawn.send_modify(|drawn| drawn.outcome = outcome);
    }
}

impl Draw {
    /// Takes the fleet's word for which blob it is, where that is good still; what comes of it is held against the file.
    async fn believe(&self, inner: &Arc<Inner>, told: Option<&Tag>) -> Option<Digest> {
        let Tag { target, age, .. } = told?;
        let age = Duration::from_secs(*age);
        let good = age < self.meant.life && self.meant.has_length(Some(target.size));
        if !good || inner.sites.proofs.is_doubted(&self.meant.key, target.digest) {
            return None;
        }
        let media_type = Some(target.media_type.clone());
        self.drawn.send_modify(|drawn| drawn.media_type.clone_from(&media_type));
        inner.sites.see(&self.meant.key, Seen { age, ..Seen::file(target.digest, media_type) });
        inner.expect(&self.meant, target.digest).await;
        Some(target.digest)
    }

    /// Waits until the file comes, its blob is known, or it has failed.
    pub(crate) async fn begun(&self, patience: Duration) -> Option<Drawn> {
        let mut drawn = self.drawn.subscribe();
        let begun = timeout(patience, drawn.wait_for(|d| d.file.is_some() || d.outcome.is_some())).await;
        begun.ok()?.ok().map(|drawn| drawn.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_has_a_bound() {
        let sum = AtomicU64::new(0);
        assert!(take(&sum, 60, 100) && take(&sum, 40, 100));
        assert!(!take(&sum, 1, 100) && !take(&sum, u64::MAX, 100));
        assert_eq!(sum.load(Ordering::Relaxed), 100);
    }
}
