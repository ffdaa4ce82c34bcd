//! Bodies for clients: from a file, behind a flight, or straight from the origin.

use std::{fs::File, sync::Arc, time::Duration};

use api::trace::SpanKind;
use bytes::Bytes;
use engine::Torrent;
use futures_util::stream;
use hash::Digest;
use mirror::{Asker, BlobStream, ContentError, Span};
use origin::{BlobBody, Home, Origin, Version};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use crate::{
    buffers,
    content::{Inner, count},
    flight::{FetchError, Flight, Progress, Want},
    trace::OpenSpan,
};

/// When a flight brings nothing for this long, the client is served from the origin directly.
const STALL: Duration = Duration::from_secs(30);
/// The same for what lives in the web, also while another node fetches it: OSTree leaves after 30 s.
const WEB_STALL: Duration = Duration::from_secs(20);

/// A span of a file that is whole. The next part is read while the last is sent. Of a blob that is `borrowed` the last is
/// given only if its owner has left it as it was.
pub(crate) fn stored(
    inner: Arc<Inner>,
    file: Arc<File>,
    span: Span,
    borrowed: Option<Digest>,
    told: OpenSpan,
) -> BlobStream {
    let (at, end) = (span.offset, span.offset + span.length);
    let whole = file.clone();
    let reading = move |at: u64| (at < end).then(|| read(file.clone(), at, end - at));
    Box::pin(stream::try_unfold((at, reading(at), told), move |(at, read, mut told)| {
        let (inner, reading, whole) = (inner.clone(), reading.clone(), whole.clone());
        async move {
            let Some(read) = read else { return Ok(None) };
            let chunk = read.await?;
            let next = at + chunk.len() as u64;
            if let (true, Some(digest)) = (next >= end, borrowed) {
                let store = inner.store.clone();
                let same = spawn_blocking(move || store.is_as_lent(&digest, &whole)).await;
                if !matches!(same, Ok(Ok(true))) {
                    return Err(ContentError::Unavailable("its owner has just changed it".into()));
                }
            }
            count(&inner, chunk.len());
            told.moved(chunk.len() as u64);
            Ok(Some((chunk, (next, reading(next), told))))
        }
    }))
}

/// A span of a blob that is still coming; where the flight fails or stalls, the rest comes from the origin.
pub(crate) fn following(
    inner: Arc<Inner>,
    flight: &Flight,
    home: Home,
    asker: Asker,
    span: Span,
) -> BlobStream {
    let follower = Follower {
        progress: flight.progress(),
        at: span.offset,
        end: span.offset + span.length,
        home,
        asker,
        digest: flight.digest,
        told: flight.tracer.span(SpanKind::Client),
        inner,
        reader: None,
        direct: None,
    };
    Box::pin(stream::try_unfold(follower, async |mut follower| {
        let chunk = follower.next().await?;
        Ok(chunk.map(|chunk| (chunk, follower)))
    }))
}

/// A span straight from the origin, kept nowhere.
pub(crate) fn direct(inner: Arc<Inner>, home: Home, digest: Digest, asker: Asker, span: Span) -> BlobStream {
    let mut told = inner.traces.of(digest, &home.to_string(), "blob").span(SpanKind::Client);
    told.note("straight from the origin");
    let follower = Follower {
        progress: watch::Sender::default().subscribe(),
        at: span.offset,
        end: span.offset + span.length,
        home,
        asker,
        digest,
        told,
        inner,
        reader: None,
        direct: Some(None),
    };
    Box::pin(stream::try_unfold(follower, async |mut follower| {
        let chunk = follower.next().await?;
        Ok(chunk.map(|chunk| (chunk, follower)))
    }))
}

/// A client's place in a blob that is still coming.
struct Follower {
    inner: Arc<Inner>,
    progress: watch::Receiver<Progress>,
    /// What the client asks for, and with what rights.
    home: Home,
    asker: Asker,
    digest: Digest,
    told: OpenSpan,
    at: u64,
    end: u64,
    /// Tells the swarm where we read.
    reader: Option<engine::Reader>,
    /// The origin's body once the flight is given up; made at the first use.
    direct: Option<Option<BlobBody>>,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Bytes>, ContentError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let chunk = loop {
            if self.direct.is_some() {
                break self.straight().await?;
            }
            let progress = self.progress.borrow_and_update().clone();
            if progress.size.is_some_and(|size| size < self.end) {
                // Somebody had told a wrong size, and the client was told it too.
                return Err(ContentError::Internal("the blob is not as long as it was said to be".into()));
            }
            let ready = self.ready(&progress);
            if let (Some(file), true) = (&progress.file, ready > self.at) {
                break read(file.clone(), self.at, ready.min(self.end) - self.at).await?;
            }
            match (&progress.outcome, &progress.torrent) {
                (Some(Ok(())), _) => {
                    // It is whole, but this flight never had its file: it was in the store all along.
                    let stored = self.inner.stored(self.digest).await?;
                    let (blob, file) = stored.ok_or_else(|| ContentError::Internal("blob lost".into()))?;
                    let (inner, want) = (&self.inner, &Want::Blob);
                    if !blob.public
                        && inner.may_have_of(&self.asker, &self.home, self.digest, want).await.is_err()
                    {
                        // It came another way, for others: there is what their own place gives them.
                        self.direct = Some(None);
                        continue;
                    }
                    break read(file, self.at, self.end - self.at).await?;
                }
                // The origin's bytes were wrong: the rest of them must not make a whole of it.
                (Some(Err(error)), _) if error.is_wrong() => return Err(error.clone().into()),
                // Nor must what a better place gives make a whole of what this one has given.
                (Some(Err(error @ FetchError::Displaced)), _) => return Err(error.clone().into()),
                // It was asked as often as it makes sense.
                (Some(Err(FetchError::Origin(error))), _) if error.is_transient() => {
                    return Err(error.clone().into());
                }
                (Some(Err(error)), _) => {
                    tracing::info!(digest = %self.digest, %error, "serving the rest from the origin");
                    self.told.note("the rest straight from the origin");
                    self.direct = Some(None);
                }
                (None, torrent) => {
                    // Whoever waits for a lease asks the origin itself when that takes too long.
                    let patience =
                        if progress.waiting { self.patience() } else { STALL.min(self.patience()) };
                    if timeout(patience, self.wait(torrent.clone())).await.is_err() {
                        tracing::info!(digest = %self.digest, "nothing comes; serving the rest from the origin");
                        self.told.note("nothing came: the rest straight from the origin");
                        self.direct = Some(None);
                    }
                }
            }
        };
        self.at += chunk.len() as u64;
        count(&self.inner, chunk.len());
        self.told.moved(chunk.len() as u64);
        Ok(Some(chunk))
    }

    /// Up to which byte the file may be read from here.
    fn ready(&self, progress: &Progress) -> u64 {
        let whole = matches!(progress.outcome, Some(Ok(())));
        let prefix = if whole { progress.size.unwrap_or(0) } else { progress.prefix };
        if prefix > self.at {
            return prefix;
        }
        let Some(torrent) = &progress.torrent else { return 0 };
        let geometry = torrent.meta().info.geometry;
        match geometry.piece_at(self.at).filter(|piece| torrent.has(*piece)) {
            Some(piece) => geometry.piece_offset(piece) + u64::from(geometry.piece_size(piece)),
            None => 0,
        }
    }

    /// Waits until something has changed for us.
    async fn wait(&mut self, torrent: Option<Arc<Torrent>>) {
        let piece = torrent.as_ref().and_then(|torrent| torrent.meta().info.geometry.piece_at(self.at));
        let (Some(torrent), Some(piece)) = (torrent, piece) else {
            // An error means that the flight is over, which the next look shows.
            let _ = self.progress.changed().await;
            return;
        };
        let reader = self.reader.get_or_insert_with(|| torrent.reader(piece));
        tokio::select! {
            came = reader.wait_for(piece) => {
                if came.is_err() {
                    // The torrent is over: the flight will say how.
                    self.reader = None;
                    let _ = self.progress.changed().await;
                }
            }
            _ = self.progress.changed() => {}
        }
    }

    /// Longer than a flight waits for another's lease; but clients of web servers do not wait for as long.
    fn patience(&self) -> Duration {
        match self.home {
            Home::Registry(_) => self.inner.config.content.lease_patience() + STALL,
            Home::Web(_) => WEB_STALL,
        }
    }

    async fn straight(&mut self) -> Result<Bytes, ContentError> {
        if let Some(None) = self.direct {
            let (digest, at) = (&self.digest, self.at);
            let body = match &self.home {
                Home::Registry(repository) => {
                    let ask = |origin: Origin| async move { origin.blob(repository, digest, at).await };
                    self.inner.with_rights(&repository.into(), &self.asker, ask).await?.0
                }
                Home::Web(url) => self.inner.web.file(url, at, Version::Verified).await?.1,
            };
            self.direct = Some(Some(body));
        }
        let Some(Some(body)) = &mut self.direct else { return Err(ContentError::NotFound) };
        let chunk = body.next_chunk().await?;
        let mut chunk = chunk.ok_or_else(|| ContentError::Unavailable("the origin ended early".into()))?;
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        chunk.truncate(most);
        Ok(chunk)
    }
}

/// Begins at once to read, `length` bytes or what one buffer holds.
pub(crate) fn read(
    file: Arc<File>,
    at: u64,
    length: u64,
) -> impl Future<Output = Result<Bytes, ContentError>> + use<> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let read = spawn_blocking(move || buffers::read(&file, at, length));
    async move {
        let failed = |error: &dyn std::fmt::Display| {
            ContentError::Internal(format!("reading the blob failed: {error}"))
        };
        read.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
    }
}
