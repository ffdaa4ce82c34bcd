//! A file of the web whose digest is not known before it has come: drawn into a file once for the whole fleet, read
//! behind by all who wait, and then a blob of the store like any other. The directory remembers which blob it is.
//!
//! While another node draws it, there is nothing to read behind. Its clients then are kept with a trickle from the server,
//! which most leave after half a minute without a byte, until the blob is known and comes from the fleet.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::directory::{Claim, TagRequest};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hash::{Digest, Sha256};
use http::{HeaderMap, HeaderValue, header};
use mirror::{Asker, BlobStream, ByteRange, Content as _, ContentError};
use origin::{BlobBody, FileHead, Home, OriginError, Version};
use tokio::{
    io::AsyncWriteExt as _,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use url::Url;

use crate::{
    content::{Content, Inner, count},
    flight::{FetchError, Want},
    lease::Held,
    site::Seen,
    stream::read,
};

/// How many files are drawn at once; more are passed on.
const AT_ONCE: usize = 256;
/// How long a claim waits at the directory for another node that draws the same file.
const WAIT: Duration = Duration::from_secs(20);
/// How long a reader waits for the next bytes.
const STALL: Duration = Duration::from_secs(60);
/// Who waits for another node's drawing gets so many bytes each time: OSTree leaves below 1000 bytes a second.
const TRICKLE: usize = 16 * 1024;
/// How long they wait for the next.
const PACE: Duration = Duration::from_secs(5);

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
    /// What tells this version from others, as far as the server says.
    validator: Option<HeaderValue>,
    /// How many bytes are there.
    received: u64,
    /// How it ended: which blob it is.
    pub(crate) outcome: Option<Result<Digest, FetchError>>,
}

impl Inner {
    /// Begins to draw a file, or finds who does already; none where too many are drawn.
    pub(crate) fn draw(
        self: &Arc<Self>,
        url: &Url,
        key: &str,
        etag: Option<HeaderValue>,
    ) -> Option<Arc<Draw>> {
        let mut draws = self.sites.draws.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(draw) = draws.get(key) {
            return Some(draw.clone());
        }
        if draws.len() >= AT_ONCE {
            return None;
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
        Some(draw)
    }

    /// Whether a file of so many bytes could be drawn now.
    pub(crate) fn has_room(self: &Arc<Self>, bytes: u64) -> bool {
        Room::new(self).take(bytes)
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
    if let Some(digest) = draw.known(inner).await {
        return Ok(digest);
    }
    // The right to draw it is a lease on what would have the key for its content, of which there is none.
    let lease_of = Digest::of(draw.key.as_bytes());
    let held = lease(inner, lease_of).await;
    // Whoever had the lease before may have told it by now.
    if inner.directory.is_some()
        && let Some(digest) = draw.known(inner).await
    {
        return Ok(digest);
    }
    let spool = inner.uploads.spool();
    let (head, mut body) = inner.web.file(&draw.url, 0, Version::Unknown).await?;
    if !draw.is_meant(&head) || !is_for_all(&head.headers) || !says_its_end(&head) {
        return Err(FetchError::Misfit);
    }
    let mut room = Room::new(inner);
    if !room.take(body.size().unwrap_or(0)) {
        return Err(FetchError::disk(NO_ROOM));
    }
    let mut file = tokio::fs::File::create(&spool.path).await.map_err(FetchError::disk)?;
    let readable = File::open(&spool.path).map_err(FetchError::disk)?;
    draw.drawn.send_modify(|drawn| {
        drawn.file = Some(Arc::new(readable));
        drawn.size = body.size();
        drawn.media_type.clone_from(&head.media_type);
        drawn.validator = head.validator();
    });
    let (mut hasher, mut received) = (Sha256::new(), 0);
    while let Some(chunk) = body.next_chunk().await? {
        if body.size().is_none() && !room.take(chunk.len() as u64) {
            return Err(FetchError::disk(NO_ROOM));
        }
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
    inner.sites.see(&draw.key, seen);
    inner.tell_key(&draw.key, digest, head.media_type, received).await;
    drop(held);
    Ok(digest)
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

/// Whether an answer to nobody in particular is the same for everybody, and may be kept (RFC 9111 sections 3.5 and 4.1).
/// A file that is packed for the way, or made for who asks, is no file to be known by its bytes.
pub(crate) fn is_for_all(headers: &HeaderMap) -> bool {
    let words = |name| {
        let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("*"));
        values.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase())
    };
    let kept_back = |word: &str| ["private", "no-store"].iter().any(|no| word.split('=').next() == Some(no));
    !words(header::CACHE_CONTROL).any(|word| kept_back(&word))
        && words(header::VARY).all(|word| matches!(word.as_str(), "" | "accept-encoding" | "origin"))
        && words(header::CONTENT_ENCODING).all(|word| matches!(word.as_str(), "" | "identity"))
        && !headers.contains_key(header::SET_COOKIE)
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
    /// What the fleet knows the key as.
    async fn known(&self, inner: &Inner) -> Option<Digest> {
        let (digest, media_type, _) = inner.known_key(&self.key).await?;
        self.drawn.send_modify(|drawn| drawn.media_type = media_type);
        Some(digest)
    }

    /// Whether an answer is of the version that is wanted.
    fn is_meant(&self, head: &FileHead) -> bool {
        self.etag.is_none() || head.headers.get(header::ETAG) == self.etag.as_ref()
    }

    /// Waits until the file comes, its blob is known, or it has failed.
    pub(crate) async fn begun(&self, patience: Duration) -> Option<Drawn> {
        let mut drawn = self.drawn.subscribe();
        let begun = timeout(patience, drawn.wait_for(|d| d.file.is_some() || d.outcome.is_some())).await;
        begun.ok()?.ok().map(|drawn| drawn.clone())
    }

    /// The file as it comes. Where it cannot be kept, the rest comes from the server.
    pub(crate) fn follow(&self, inner: &Arc<Inner>) -> BlobStream {
        self.reader(inner, None)
    }

    /// The file while another node draws it: what the server says of it, and its bytes, slowly until it is known.
    /// `None` where the server has another version by now.
    pub(crate) async fn trickle(
        &self,
        inner: &Arc<Inner>,
    ) -> Result<Option<(FileHead, Option<u64>, BlobStream)>, OriginError> {
        let (head, body) = inner.web.file(&self.url, 0, Version::Unknown).await?;
        if !self.is_meant(&head) || !is_for_all(&head.headers) {
            return Ok(None);
        }
        let size = body.size();
        let direct = Direct { body: Box::new(body), left: Bytes::new(), validator: head.validator() };
        Ok(Some((head, size, self.reader(inner, Some(direct)))))
    }

    fn reader(&self, inner: &Arc<Inner>, direct: Option<Direct>) -> BlobStream {
        let reader = Reader {
            inner: inner.clone(),
            url: self.url.clone(),
            drawn: self.drawn.subscribe(),
            at: 0,
            size: direct.as_ref().and_then(|direct| direct.body.size()),
            from: direct.map_or(Stage::File, Stage::Trickle),
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
    /// What the client was told.
    size: Option<u64>,
    from: Stage,
}

/// Where a reader's next bytes come from.
enum Stage {
    /// The file that is drawn here.
    File,
    /// The server, slowly, as long as another node draws.
    Trickle(Direct),
    /// The server.
    Server(Direct),
    /// The fleet: it is known which blob it is. Counted there.
    Blob(BlobStream),
}

/// The server's answer.
struct Direct {
    body: Box<BlobBody>,
    /// What came of it and was not given yet.
    left: Bytes,
    validator: Option<HeaderValue>,
}

impl Direct {
    async fn next(&mut self, most: usize) -> Result<Option<Bytes>, ContentError> {
        while self.left.is_empty() {
            match self.body.next_chunk().await? {
                Some(chunk) => self.left = chunk,
                None => return Ok(None),
            }
        }
        Ok(Some(self.left.split_to(self.left.len().min(most))))
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, ContentError> {
        loop {
            let drawn = self.drawn.borrow_and_update().clone();
            let ready = drawn.received > self.at && !matches!(self.from, Stage::Blob(_) | Stage::Server(_));
            if let Some(file) = drawn.file.clone().filter(|_| ready && self.is_same(&drawn)) {
                self.from = Stage::File;
                let chunk = read(file, self.at, drawn.received - self.at).await?;
                return Ok(Some(self.given(chunk)));
            }
            let chunk = match (&mut self.from, drawn.outcome) {
                (Stage::Blob(blob), _) => {
                    let chunk = blob.next().await.transpose()?;
                    self.at += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    return Ok(chunk);
                }
                (Stage::Server(direct), _) => direct.next(usize::MAX).await?,
                _ if self.size.or(drawn.size) == Some(self.at) => None,
                // Its own bytes are all here, whatever it was found to be.
                (Stage::File, Some(Ok(_))) => None,
                (Stage::Trickle(_), Some(Ok(digest))) => {
                    let Some(rest) = self.rest_of(digest).await? else { return Ok(None) };
                    self.from = Stage::Blob(rest);
                    continue;
                }
                (Stage::File, Some(Err(FetchError::Disk(why)))) => {
                    tracing::info!(%why, "a file cannot be kept; passing it on");
                    self.from = Stage::Server(self.rest(drawn.validator).await?);
                    continue;
                }
                (Stage::File, Some(Err(error))) => return Err(error.into()),
                (Stage::Trickle(_), Some(Err(_))) => {
                    let Stage::Trickle(direct) = std::mem::replace(&mut self.from, Stage::File) else {
                        continue;
                    };
                    self.from = Stage::Server(direct);
                    continue;
                }
                (Stage::File, None) => {
                    let changed = timeout(STALL, self.drawn.changed()).await;
                    changed
                        .map_err(|_| ContentError::Unavailable("nothing comes of the file".into()))?
                        .map_err(|_| ContentError::Internal("a file was forgotten".into()))?;
                    continue;
                }
                (Stage::Trickle(direct), None) => {
                    if self.at > 0 && timeout(PACE, self.drawn.changed()).await.is_ok() {
                        continue;
                    }
                    direct.next(TRICKLE).await?
                }
            };
            return Ok(chunk.map(|chunk| self.given(chunk)));
        }
    }

    fn given(&mut self, chunk: Bytes) -> Bytes {
        self.at += chunk.len() as u64;
        count(&self.inner, chunk.len());
        chunk
    }

    /// Whether the file that is drawn here is the one whose first bytes the client has.
    fn is_same(&self, drawn: &Drawn) -> bool {
        match &self.from {
            Stage::Trickle(direct) => {
                self.at == 0 || direct.validator.is_some() && direct.validator == drawn.validator
            }
            _ => true,
        }
    }

    /// What is missing, from the server.
    async fn rest(&mut self, validator: Option<HeaderValue>) -> Result<Direct, OriginError> {
        let version = if self.at == 0 { Version::Unknown } else { Version::Like(validator.clone()) };
        let (_, body) = self.inner.web.file(&self.url, self.at, version).await?;
        Ok(Direct { body: Box::new(body), left: Bytes::new(), validator })
    }

    /// What is missing, from the fleet, if anything is.
    async fn rest_of(&mut self, digest: Digest) -> Result<Option<BlobStream>, ContentError> {
        let (content, home) = (Content(self.inner.clone()), Home::Web(self.url.clone()));
        let range = (self.at > 0).then_some(ByteRange::From(self.at));
        let answer = match content.blob(&home, &digest, &Asker::default(), range).await {
            Err(ContentError::Unsatisfiable { size }) if size == self.at && self.size.is_none() => {
                return Ok(None);
            }
            answer => answer?,
        };
        if self.size.is_some_and(|size| size != answer.size) {
            return Err(ContentError::Internal("the file is not as long as it was said to be".into()));
        }
        Ok(Some(answer.body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_for_one_asker_is_not_for_all() {
        let of = |name: &'static str, value: &'static str| {
            is_for_all(&HeaderMap::from_iter([(
                name.parse().expect("a name"),
                HeaderValue::from_static(value),
            )]))
        };
        assert!(is_for_all(&HeaderMap::new()));
        for (name, value) in [
            ("cache-control", "public, max-age=60"),
            ("cache-control", "no-cache"),
            ("vary", "Accept-Encoding, Origin"),
            ("content-encoding", "identity"),
        ] {
            assert!(of(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("cache-control", "max-age=60, Private"),
            ("cache-control", "private=\"x\""),
            ("cache-control", "no-store"),
            ("vary", "*"),
            ("vary", "accept-encoding, accept"),
            ("content-encoding", "gzip"),
            ("set-cookie", "a=b"),
        ] {
            assert!(!of(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn what_is_on_its_way_has_a_bound() {
        let sum = AtomicU64::new(0);
        assert!(take(&sum, 60, 100) && take(&sum, 40, 100));
        assert!(!take(&sum, 1, 100) && !take(&sum, u64::MAX, 100));
        assert_eq!(sum.load(Ordering::Relaxed), 100);
    }
}
