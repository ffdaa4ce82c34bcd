//! A file of the web whose digest is not known before it has come: drawn into a file once for the whole fleet, read
//! behind by all who wait, and then a blob of the store like any other. The directory remembers which blob it is.

use std::{fs::File, sync::Arc, time::Duration};

use api::directory::{Claim, TagRequest};
use bytes::Bytes;
use futures_util::stream;
use hash::{Digest, Sha256};
use http::{HeaderValue, header};
use mirror::{Asker, BlobStream, ContentError};
use origin::{BlobBody, Home};
use tokio::{io::AsyncWriteExt as _, sync::watch, time::timeout};
use url::Url;

use crate::{
    content::{Inner, count},
    flight::{FetchError, Want},
    lease::Held,
    site::Seen,
    stream::read,
};

/// How long a claim waits for another node that draws the same file. Clients hear nothing meanwhile.
const WAIT: Duration = Duration::from_secs(10);
/// How much is read from the file at once.
const CHUNK: u64 = 256 * 1024;
/// How long a reader waits for the next bytes.
const STALL: Duration = Duration::from_secs(60);

/// One file's coming.
pub(crate) struct Draw {
    url: Url,
    /// What the file is known by: its URL, and where it may change what tells this version.
    key: String,
    /// Which version is wanted, if it may change.
    etag: Option<HeaderValue>,
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
    /// How many bytes are there.
    received: u64,
    /// How it ended: which blob it is.
    pub(crate) outcome: Option<Result<Digest, FetchError>>,
}

impl Inner {
    /// Begins to draw a file, or finds who does already.
    pub(crate) fn draw(self: &Arc<Self>, url: &Url, key: &str, etag: Option<HeaderValue>) -> Arc<Draw> {
        let mut draws = self.sites.draws.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(draw) = draws.get(key) {
            return draw.clone();
        }
        let drawn = watch::Sender::default();
        let draw = Arc::new(Draw { url: url.clone(), key: key.to_owned(), etag, drawn });
        draws.insert(key.to_owned(), draw.clone());
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
        draw
    }

    /// Which blob a key stands for, by what this node or the fleet knows, and for how many seconds that is known.
    pub(crate) async fn known_key(&self, key: &str) -> Option<(Digest, Option<String>, u64)> {
        let tag = self.directory.as_ref()?.tag(&tag_name(key)).await.ok().flatten()?;
        Some((tag.target.digest, Some(tag.target.media_type), tag.age))
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
    if let Some((digest, ..)) = inner.known_key(&draw.key).await {
        return Ok(digest);
    }
    // The right to draw it is a lease on what would have the key for its content, of which there is none.
    let lease_of = Digest::of(draw.key.as_bytes());
    let claim = match &inner.directory {
        Some(directory) => directory.claim(&lease_of, &inner.name, WAIT).await.ok(),
        None => None,
    };
    let held = match claim {
        Some(Claim::Leased(lease)) => Some(Held::new(inner, lease_of, lease)),
        _ => None,
    };
    // Whoever had the lease before may have told it by now.
    if inner.directory.is_some()
        && let Some((digest, ..)) = inner.known_key(&draw.key).await
    {
        return Ok(digest);
    }
    let spool = inner.uploads.spool();
    let (head, mut body) = inner.web.file(&draw.url, 0, false).await?;
    if draw.etag.is_some() && head.headers.get(header::ETAG) != draw.etag.as_ref() {
        return Err(FetchError::Misfit);
    }
    let mut file = tokio::fs::File::create(&spool.path).await.map_err(FetchError::disk)?;
    let readable = File::open(&spool.path).map_err(FetchError::disk)?;
    draw.drawn.send_modify(|drawn| {
        drawn.file = Some(Arc::new(readable));
        drawn.size = body.size();
        drawn.media_type.clone_from(&head.media_type);
    });
    let (mut hasher, mut received) = (Sha256::new(), 0);
    while let Some(chunk) = body.next_chunk().await? {
        file.write_all(&chunk).await.map_err(FetchError::disk)?;
        file.flush().await.map_err(FetchError::disk)?;
        hasher.update(&chunk);
        received += chunk.len() as u64;
        draw.drawn.send_modify(|drawn| drawn.received = received);
    }
    let digest = Digest::from_bytes(hasher.finalize());
    drop(file);
    // A server has just given it to somebody who showed nothing.
    inner.store.mark_public(&digest);
    let home = Home::Web(draw.url.clone());
    let (flight, _) = inner.flight(&home, digest, Want::Fetched(spool.path.clone()), &Asker::default());
    flight.finished().await?;
    let seen = Seen { digest, media_type: head.media_type.clone(), etag: None, modified: None };
    inner.sites.see(draw.key.clone(), seen);
    inner.tell_key(&draw.key, digest, head.media_type, received).await;
    drop(held);
    Ok(digest)
}

/// Ends a draw, however its task ends.
struct Landing {
    inner: Arc<Inner>,
    draw: Arc<Draw>,
    outcome: Option<Result<Digest, FetchError>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        if let Some(Err(error)) = &self.outcome {
            tracing::info!(home = %Home::Web(self.draw.url.clone()), "not drawn: {error}");
        }
        let mut draws = self.inner.sites.draws.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        draws.remove(&self.draw.key);
        drop(draws);
        let outcome = self.outcome.take();
        self.draw.drawn.send_modify(|drawn| drawn.outcome = outcome);
    }
}

impl Draw {
    /// Waits until the file comes, its blob is known, or it has failed.
    pub(crate) async fn begun(&self, patience: Duration) -> Option<Drawn> {
        let mut drawn = self.drawn.subscribe();
        let begun = timeout(patience, drawn.wait_for(|d| d.file.is_some() || d.outcome.is_some())).await;
        begun.ok()?.ok().map(|drawn| drawn.clone())
    }

    /// The file as it comes. Where it cannot be kept, the rest comes from the server; as long as nobody said what it
    /// must be, that is all that can be had.
    pub(crate) fn follow(&self, inner: &Arc<Inner>) -> BlobStream {
        let reader = Reader {
            inner: inner.clone(),
            url: self.url.clone(),
            drawn: self.drawn.subscribe(),
            at: 0,
            direct: None,
        };
        Box::pin(stream::try_unfold(reader, async |mut reader| {
            let chunk = reader.next().await?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        }))
    }
}

/// A client's place in a file that is coming.
struct Reader {
    inner: Arc<Inner>,
    url: Url,
    drawn: watch::Receiver<Drawn>,
    at: u64,
    direct: Option<BlobBody>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, ContentError> {
        let chunk = loop {
            if let Some(body) = &mut self.direct {
                match body.next_chunk().await? {
                    Some(chunk) => break chunk,
                    None => return Ok(None),
                }
            }
            let drawn = self.drawn.borrow_and_update().clone();
            if let Some(file) = drawn.file.filter(|_| drawn.received > self.at) {
                break read(file, self.at, (drawn.received - self.at).min(CHUNK)).await?;
            }
            match drawn.outcome {
                // Its own bytes are all here, whatever it was found to be.
                Some(Ok(_)) => return Ok(None),
                Some(Err(FetchError::Disk(why))) if self.at == 0 => {
                    tracing::info!(%why, "a file cannot be kept; passing it on");
                    self.direct = Some(self.inner.web.file(&self.url, 0, false).await?.1);
                }
                Some(Err(error)) => return Err(error.into()),
                None if drawn.size == Some(self.at) => return Ok(None),
                None => {
                    let changed = timeout(STALL, self.drawn.changed()).await;
                    changed
                        .map_err(|_| ContentError::Unavailable("nothing comes of the file".into()))?
                        .map_err(|_| ContentError::Internal("a file was forgotten".into()))?;
                }
            }
        };
        self.at += chunk.len() as u64;
        count(&self.inner, chunk.len());
        Ok(Some(chunk))
    }
}
