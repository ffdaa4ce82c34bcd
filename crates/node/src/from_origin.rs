//! A blob from its origin: received, hashed, written and journalled in one pass.

use std::{
    fs::File,
    io::{ErrorKind, SeekFrom},
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

use api::{directory::MAX_CONTENT, trace::SpanKind};
use bytes::{Bytes, BytesMut};
use hash::Digest;
use metainfo::{BlobBuilder, BlobTorrent, PieceIndex};
use origin::{BlobBody, Home, Origin, OriginError, Rights, Version};
use store::{BeginError, Evidence, Partial};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
    task::spawn_blocking,
};

use crate::{
    access::is_refusal,
    content::Inner,
    flight::{FetchError, Flight, Want, not_public},
    meant::is_private,
};

/// Chunks between the network and the disk.
const QUEUE: usize = 16;
/// Small chunks are put together to about this before they go to the disk.
const CHUNK: usize = 256 * 1024;
/// How long a full queue may stay full: the disk does nothing.
const DISK_STALL: Duration = Duration::from_secs(60);

/// Fetches the whole of it, and puts it into the store. Returns its torrent.
pub(crate) async fn fetch(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<BlobTorrent, FetchError> {
    let mut span = flight.tracer.span(SpanKind::Origin);
    let fetched = bring(inner, flight).await;
    span.moved(flight.progress().borrow().from_origin);
    span.note(match &fetched {
        Ok(_) if flight.progress().borrow().borrowed => "not needed: it was on this host".to_owned(),
        Ok(_) => flight.home.host().to_owned(),
        Err(error) => error.to_string(),
    });
    fetched
}

async fn bring(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<BlobTorrent, FetchError> {
    match &flight.want {
        Want::Blob => match inner.borrow(flight, None).await {
            Some(torrent) => Ok(torrent),
            None => blob(inner, flight).await,
        },
        Want::Pushed(_) => {
            let Flight { asker, digest, want, .. } = &**flight;
            let granted = inner.may_have(asker, flight.repository()?, *digest, want).await?;
            flight.settle(granted.rights, granted.public);
            blob(inner, flight).await
        }
        Want::Fetched(_) => {
            flight.settle(Rights::Own, true);
            blob(inner, flight).await
        }
        Want::Manifest(accept) => manifest(inner, flight, accept).await,
    }
}

async fn manifest(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    accept: &[String],
) -> Result<BlobTorrent, FetchError> {
    let target = origin::Target::Digest(flight.digest);
    let (repository, target) = (flight.repository()?, &target);
    let ask = |origin: Origin| async move { origin.manifest(repository, target, accept).await };
    let manifest = async { Ok(inner.ask_origin(flight, ask).await?) };
    let manifest = flight.unless_displaced(manifest).await?;
    note_public(inner, flight);
    let torrent =
        inner.keep_small(manifest.digest, manifest.bytes.clone(), Some(&manifest.media_type)).await?;
    flight.update(|progress| {
        progress.from_origin = manifest.bytes.len() as u64;
        progress.media_type = Some(manifest.media_type);
    });
    Ok(torrent)
}

async fn blob(inner: &Arc<Inner>, flight: &Arc<Flight>) -> Result<BlobTorrent, FetchError> {
    // What an earlier attempt left knows the size, and only the rest is asked for. But it may have been begun on a
    // lie of the directory's; then it is thrown away, and everything asked for.
    if let Some(left) = left_over(inner, flight.digest).await
        && inner.may_resume(flight).await?
    {
        match attempt(inner, flight, Some(left)).await {
            Err(FetchError::Misfit) => flight.update(|progress| progress.prefix = 0),
            outcome => return outcome,
        }
    }
    attempt(inner, flight, None).await
}

async fn attempt(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    left: Option<u64>,
) -> Result<BlobTorrent, FetchError> {
    let digest = flight.digest;
    let mut body = None;
    let size = match left {
        Some(size) => size,
        None => {
            let opened = async {
                let opened = open(inner, flight, 0).await?;
                let size = size(inner, flight, &opened).await?;
                Ok((opened, size))
            };
            let (opened, size) = flight.unless_displaced(opened).await?;
            body = Some(opened);
            // What is here of it is not to be gone on from, and gives way to what has begun to come. One that somebody works
            // on is not there to be gone on from either.
            let (store, digest) = (inner.store.clone(), flight.digest);
            let _ = spawn_blocking(move || store.discard_partial(&digest)).await;
            size
        }
    };
    let store = inner.store.clone();
    let begun = spawn_blocking(move || store.begin(&digest, size, metainfo::blob_piece_length(size)));
    let partial = match begun.await.map_err(FetchError::disk)? {
        Ok(partial) => partial,
        Err(BeginError::Present(_)) => {
            // It came another way meanwhile, and is for those for whom that was.
            let store = inner.store.clone();
            let blob = spawn_blocking(move || store.get(&digest)).await.map_err(FetchError::disk)?;
            let public = blob.map_err(FetchError::disk)?.is_some_and(|blob| blob.public);
            flight.update(|progress| progress.public = Some(public));
            return inner.torrent_of(&digest).await;
        }
        Err(error) => return Err(FetchError::disk(error)),
    };
    if left.is_none() {
        inner.note_begun(flight, false);
    }
    let file = partial.file().clone();
    flight.update(|progress| {
        progress.size = Some(size);
        progress.file = Some(file);
    });
    let (chunks, inbox) = mpsc::channel(QUEUE);
    let (started, start) = tokio::sync::oneshot::channel();
    let keeper = flight.clone();
    // Waited for at the node's end: it holds the store.
    let kept = inner.tasks.spawn_blocking(move || keep(&keeper, partial, size, inbox, started));
    // What is here is hashed first, and fetched no more.
    let from = start.await.unwrap_or(0);
    let sent = async {
        let mut body = match body.filter(|_| from == 0) {
            Some(body) => body,
            None => open(inner, flight, from).await.map_err(misfit)?,
        };
        if body.size().is_some_and(|said| said != size) {
            return Err(FetchError::Misfit);
        }
        send(&mut body, chunks).await
    };
    let (sent, kept) = tokio::join!(flight.unless_displaced(sent), kept);
    let (partial, torrent) = kept.map_err(FetchError::disk)??;
    if let Err(error) = sent {
        if matches!(error, FetchError::Misfit | FetchError::Displaced) {
            partial.discard();
        }
        return Err(error);
    }
    if torrent.is_none() && left.is_some() {
        partial.discard();
        return Err(FetchError::Misfit);
    }
    let torrent = torrent.ok_or_else(|| FetchError::disk("the origin's answer ended early"))?;
    if torrent.digest != digest {
        partial.discard();
        let repository = flight.home.to_string();
        return Err(FetchError::WrongDigest { repository, expected: digest, found: torrent.digest });
    }
    // It is proven: clients wait neither for the disk nor for the fleet to be told.
    flight.update(|progress| progress.prefix = size);
    note_public(inner, flight);
    if matches!(flight.home, Home::Web(_)) {
        // A server has just given it to somebody who showed nothing, and did not say that it is theirs alone.
        inner.store.mark_public(&digest);
    }
    let info = torrent.info_bytes.clone();
    let _span = flight.tracer.span(SpanKind::Verify);
    spawn_blocking(move || {
        partial.set_torrent(info).map_err(FetchError::disk)?;
        partial.commit(None).map_err(FetchError::disk)
    })
    .await
    .map_err(FetchError::disk)??;
    Ok(torrent)
}

/// The bytes are proven: if anybody is given them there, they are for everybody.
fn note_public(inner: &Inner, flight: &Flight) {
    if flight.told().1 {
        inner.store.mark_public(&flight.digest);
    }
}

/// Where a blob's bytes come from.
pub(crate) enum Source {
    Origin(BlobBody),
    /// What lies in a file here.
    Here {
        file: tokio::fs::File,
        size: u64,
    },
}

/// The blob from a byte on.
pub(crate) async fn open(inner: &Inner, flight: &Flight, from: u64) -> Result<Source, FetchError> {
    if let Want::Pushed(path) | Want::Fetched(path) = &flight.want {
        let mut file = tokio::fs::File::open(path).await.map_err(FetchError::disk)?;
        let size = file.metadata().await.map_err(FetchError::disk)?.len();
        file.seek(SeekFrom::Start(from)).await.map_err(FetchError::disk)?;
        return Ok(Source::Here { file, size });
    }
    if let Home::Web(url) = &flight.home {
        let (head, body) = inner.web.file(url, from, Version::Verified).await?;
        if is_private(&head.headers) {
            return Err(not_public(&flight.home).into());
        }
        flight.settle(Rights::Own, true);
        flight.update(|progress| progress.media_type = head.media_type);
        return Ok(Source::Origin(body));
    }
    let (repository, digest) = (flight.repository()?, &flight.digest);
    let ask = |origin: Origin| async move { origin.blob(repository, digest, from).await };
    Ok(Source::Origin(inner.ask_origin(flight, ask).await?))
}

impl Source {
    /// Of the whole blob, in bytes, if that is known.
    fn size(&self) -> Option<u64> {
        match self {
            Self::Origin(body) => body.size(),
            Self::Here { size, .. } => Some(*size),
        }
    }

    /// The next bytes, or none at the end.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        match self {
            Self::Origin(body) => Ok(body.next_chunk().await?),
            Self::Here { file, .. } => {
                let mut chunk = BytesMut::with_capacity(CHUNK);
                let read = file.read_buf(&mut chunk).await.map_err(FetchError::disk)?;
                Ok((read > 0).then(|| chunk.freeze()))
            }
        }
    }
}

/// A range that the registry does not have: what is here is not the beginning of its blob.
fn misfit(error: FetchError) -> FetchError {
    match &error {
        FetchError::Origin(origin) if !is_refusal(origin) && !origin.is_transient() => FetchError::Misfit,
        _ => error,
    }
}

/// The size of what an earlier attempt left of a blob, if one did.
async fn left_over(inner: &Inner, digest: Digest) -> Option<u64> {
    let store = inner.store.clone();
    let partials = spawn_blocking(move || store.partials()).await.ok()?.ok()?;
    let left = partials.into_iter().find(|partial| partial.digest == digest)?;
    (left.bytes_done > 0).then_some(left.size)
}

async fn size(inner: &Inner, flight: &Flight, body: &Source) -> Result<u64, FetchError> {
    if let Some(size) = body.size() {
        return Ok(size);
    }
    if let Home::Web(url) = &flight.home {
        return Ok(inner.web.size(url).await?);
    }
    let (repository, digest) = (flight.repository()?, &flight.digest);
    let ask = |origin: Origin| async move { origin.blob_size(repository, digest).await };
    inner.ask_origin(flight, ask).await.map_err(|error| match error {
        OriginError::Invalid { .. } => FetchError::NoSize(flight.home.to_string(), flight.digest),
        other => other.into(),
    })
}

/// Moves the body into the channel, in chunks worth writing.
async fn send(body: &mut Source, chunks: mpsc::Sender<Bytes>) -> Result<(), FetchError> {
    let pass = async |chunk: BytesMut| {
        let sent = chunks.send_timeout(chunk.freeze(), DISK_STALL).await;
        // When the other side has given up, its own error says why.
        Ok::<bool, FetchError>(sent.is_ok())
    };
    let mut waiting = BytesMut::with_capacity(2 * CHUNK);
    while let Some(chunk) = body.next_chunk().await? {
        waiting.extend_from_slice(&chunk);
        if waiting.len() >= CHUNK {
            if !pass(waiting.split()).await? {
                return Ok(());
            }
            // In the memory of what has been written meanwhile, where that is all free again.
            waiting.reserve(2 * CHUNK);
        }
    }
    pass(waiting).await?;
    Ok(())
}

type Kept = Result<(Partial, Option<BlobTorrent>), FetchError>;

/// The blocking side: hashes and writes what comes, and lets readers follow, but never to the last byte, which waits
/// for the digest.
fn keep(
    flight: &Flight,
    partial: Partial,
    size: u64,
    mut inbox: mpsc::Receiver<Bytes>,
    started: tokio::sync::oneshot::Sender<u64>,
) -> Kept {
    let mut builder = BlobBuilder::new(size).map_err(FetchError::disk)?;
    let file = partial.file().clone();
    rehash(&mut builder, &partial, &file)?;
    let mut noted = builder.piece_proofs().len();
    let from = builder.received();
    let readable = |at: u64| at.min(size.saturating_sub(1));
    flight.update(|progress| progress.prefix = readable(from));
    // Whoever waits for it has gone only if the fetch was given up.
    let _ = started.send(from);
    while let Some(chunk) = inbox.blocking_recv() {
        let at = builder.received();
        if at + chunk.len() as u64 > size {
            partial.discard();
            let repository = flight.home.to_string();
            return Err(FetchError::TooLong { repository, digest: flight.digest, size });
        }
        if let Err(error) = file.write_all_at(&chunk, at) {
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                // It cannot be gone on from here, and its room may be enough for others.
                partial.discard();
            }
            return Err(FetchError::disk(error));
        }
        builder.update(&chunk);
        let new = builder.piece_proofs().get(noted..).unwrap_or_default();
        let evidence: Vec<_> = (noted as u32..)
            .zip(new)
            .map(|(piece, proof)| (PieceIndex(piece), Evidence::sha256(proof.before, proof.after)))
            .collect();
        noted += evidence.len();
        partial.mark_all_proven(&evidence).map_err(FetchError::disk)?;
        flight.update(|progress| {
            progress.prefix = progress.prefix.max(readable(builder.received()));
            if !matches!(flight.want, Want::Pushed(_)) {
                progress.from_origin += chunk.len() as u64;
            }
        });
        flight.has_come(builder.received(), size);
    }
    let whole = builder.received() == size;
    let torrent = if whole { Some(builder.finish().map_err(FetchError::disk)?) } else { None };
    Ok((partial, torrent))
}

/// Feeds the builder what is on disk already: the pieces from the start whose proofs join up. Their bytes are hashed
/// again, as the torrent needs their SHA-1 too; what does not fit its proof ends the run.
fn rehash(builder: &mut BlobBuilder, partial: &Partial, file: &File) -> Result<(), FetchError> {
    let geometry = builder.geometry();
    for piece in geometry.pieces() {
        let Some(evidence) = partial.evidence(piece) else { return Ok(()) };
        let mut bytes = vec![0; geometry.piece_size(piece) as usize];
        file.read_exact_at(&mut bytes, geometry.piece_offset(piece)).map_err(FetchError::disk)?;
        let mut ahead = builder.clone();
        ahead.update(&bytes);
        let proof = ahead.piece_proofs().last();
        if proof.is_none_or(|p| Evidence::sha256(p.before, p.after) != evidence) {
            return Ok(());
        }
        *builder = ahead;
    }
    Ok(())
}

impl Inner {
    /// Puts a small blob into the store, with its torrent.
    pub(crate) async fn keep_small(
        &self,
        digest: Digest,
        bytes: Bytes,
        media_type: Option<&str>,
    ) -> Result<BlobTorrent, FetchError> {
        let (store, media_type) = (self.store.clone(), media_type.map(str::to_owned));
        let kept = spawn_blocking(move || {
            let mut builder = BlobBuilder::new(bytes.len() as u64).map_err(FetchError::disk)?;
            builder.update(&bytes);
            let torrent = builder.finish().map_err(FetchError::disk)?;
            let info = Some(torrent.info_bytes.clone());
            store.put_bytes(&digest, &bytes, media_type.as_deref(), info).map_err(FetchError::disk)?;
            Ok(torrent)
        });
        let torrent = kept.await.map_err(FetchError::disk)?;
        self.came.notify_one();
        torrent
    }

    /// All of a blob in the store that is small enough for the directory; else nothing.
    pub(crate) async fn small(&self, digest: Digest) -> Bytes {
        let store = self.store.clone();
        let read = spawn_blocking(move || {
            let blob = store.get(&digest).ok()??;
            let mut bytes = vec![0; usize::try_from(blob.size).ok().filter(|size| *size <= MAX_CONTENT)?];
            store.open_blob(&digest).ok()?.read_exact_at(&mut bytes, 0).ok()?;
            Some(Bytes::from(bytes))
        });
        read.await.ok().flatten().unwrap_or_default()
    }

    /// The torrent of a blob in the store.
    pub(crate) async fn torrent_of(&self, digest: &Digest) -> Result<BlobTorrent, FetchError> {
        let (store, digest) = (self.store.clone(), *digest);
        spawn_blocking(move || {
            let blob = store.get(&digest).map_err(FetchError::disk)?;
            let blob = blob.ok_or_else(|| FetchError::disk("the blob has been removed"))?;
            if let (Some(info_bytes), Some(info_hash)) = (blob.info, blob.info_hash) {
                return Ok(BlobTorrent { digest, info_hash, info_bytes });
            }
            let file = store.open_blob(&digest).map_err(FetchError::disk)?;
            let torrent = metainfo::blob_torrent(&file, blob.size, 2).map_err(FetchError::disk)?;
            store.set_torrent(&digest, torrent.info_bytes.clone()).map_err(FetchError::disk)?;
            Ok(torrent)
        })
        .await
        .map_err(FetchError::disk)?
    }
}
