//! The content service: blobs and manifests, from wherever they can be had.

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use api::{
    DirectoryClient,
    node::{Provenance, Run, Source, SourceBytes, SourceKind},
};
use engine::{Engine, Torrent};
use futures_util::FutureExt;
use hash::Digest;
use metainfo::BLOCK_LENGTH;
use mirror::{
    BlobAnswer, BlobHead, ByteRange, Content as MirrorContent, ContentError, ManifestAnswer,
    ManifestHeadAnswer, Span,
};
use origin::{Listing, ListingAnswer, Origin, Repository, Target};
use store::{Blob, Store};
use tokio::{task::spawn_blocking, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    fetch,
    flight::{FetchError, Flight, Progress, Want},
    manifests::Resolved,
    record::{Record, Records},
    single::Singles,
    stream,
};

/// How long a client waits for a blob's size from whoever brings the blob, before the origin is asked for it.
const SIZE: Duration = Duration::from_secs(2);

/// The content service. Cheap to share.
#[derive(Clone)]
pub(crate) struct Content(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    /// The node's name in leases.
    pub(crate) name: String,
    pub(crate) store: Arc<Store>,
    pub(crate) engine: Engine,
    pub(crate) origin: Origin,
    pub(crate) directory: Option<DirectoryClient>,
    pub(crate) records: Records,
    /// Content bytes given to clients.
    pub(crate) to_clients: AtomicU64,
    pub(crate) flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    pub(crate) tags: Singles<(Repository, String, Vec<String>), Result<Resolved, ContentError>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Inner {
    /// Tiers of announce URLs.
    pub(crate) fn trackers(&self) -> Vec<Vec<String>> {
        self.config.trackers.iter().map(|url| vec![url.clone()]).collect()
    }

    /// The flight that brings a blob: the one under way, or a new one.
    pub(crate) fn flight(
        self: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
        want: Want,
    ) -> Arc<Flight> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&digest) {
            return flight.clone();
        }
        let flight = Arc::new(Flight::new(digest, repository.clone(), want, now()));
        flights.insert(digest, flight.clone());
        let (inner, for_task) = (self.clone(), flight.clone());
        self.tasks.spawn(async move {
            let mut landing = Landing { inner, flight: for_task, outcome: Err(FetchError::Stopped) };
            let stop = landing.inner.stop.clone();
            landing.outcome = tokio::select! {
                outcome = fetch::run(&landing.inner, &landing.flight) => outcome,
                () = stop.cancelled() => Err(FetchError::Stopped),
            };
        });
        flight
    }

    pub(crate) fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob that is here, and its file. One whose file somebody has removed or cut is here no more, and is forgotten.
    pub(crate) async fn stored(&self, digest: Digest) -> Result<Option<(Blob, Arc<File>)>, ContentError> {
        let store = self.store.clone();
        let found = spawn_blocking(move || {
            let Some(blob) = store.get(&digest).map_err(|e| e.to_string())? else { return Ok(None) };
            let failed = |error: io::Error| format!("opening {digest} failed: {error}");
            match store.open_blob(&digest) {
                Ok(file) if file.metadata().map_err(failed)?.len() == blob.size => {
                    store.touch(&digest);
                    return Ok(Some((blob, Arc::new(file))));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
            tracing::warn!(%digest, "its file was removed or changed by somebody else: it is fetched anew");
            store.remove(&digest).map_err(|e| e.to_string())?;
            Ok(None)
        });
        found.await.map_err(|e| ContentError::Internal(e.to_string()))?.map_err(ContentError::Internal)
    }

    /// How long the node has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.engine.age()
    }

    /// Notes where a blob's bytes came from, when it came by a torrent.
    pub(crate) fn remember(&self, flight: &Flight, torrent: &Torrent) {
        let provenance = self.provenance(flight, torrent);
        let record = torrent.provenance();
        let sums = provenance.sources.iter().cloned().zip(record.sources());
        let sources = sums.map(|(source, s)| SourceBytes { source, bytes: s.bytes }).collect();
        let (started, finished) = (flight.started, now());
        self.records.add(flight.digest, Record { started, finished, sources, provenance: Some(provenance) });
    }

    /// Where a torrent's blocks came from so far.
    pub(crate) fn provenance(&self, flight: &Flight, torrent: &Torrent) -> Provenance {
        let record = torrent.provenance();
        let base = now_ms().saturating_sub(u64::try_from(self.engine.age().as_millis()).unwrap_or(u64::MAX));
        let runs = record.runs().iter().map(|run| Run {
            piece: run.piece.0,
            block: run.first_block,
            count: run.blocks,
            source: run.source.0,
            first_ms: base + run.first.0 / 1000,
            last_ms: base + run.last.0 / 1000,
        });
        Provenance {
            info_hash: torrent.info_hash(),
            block_length: BLOCK_LENGTH,
            piece_length: torrent.meta().info.geometry.piece_length(),
            sources: record.sources().iter().map(|s| self.source(&s.kind, flight)).collect(),
            runs: runs.collect(),
        }
    }

    /// Notes that a blob came from its origin.
    pub(crate) fn remember_origin(&self, flight: &Flight) {
        let bytes = flight.progress().borrow().from_origin;
        let source = self.source(&swarm::SourceKind::Origin, flight);
        let (started, finished) = (flight.started, now());
        let sources = vec![SourceBytes { source, bytes }];
        self.records.add(flight.digest, Record { started, finished, sources, provenance: None });
    }

    pub(crate) fn source(&self, kind: &swarm::SourceKind, flight: &Flight) -> Source {
        match kind {
            swarm::SourceKind::Peer { address, id } => Source {
                kind: SourceKind::Peer,
                peer: Some(address.to_string()),
                peer_id: Some(hash::to_hex(id.as_bytes())),
            },
            swarm::SourceKind::Origin => Source {
                kind: SourceKind::Origin,
                peer: Some(flight.repository.registry().to_owned()),
                peer_id: None,
            },
            swarm::SourceKind::Store => Source { kind: SourceKind::Store, peer: None, peer_id: None },
        }
    }
}

impl MirrorContent for Content {
    async fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        accept: &[String],
    ) -> Result<ManifestAnswer, ContentError> {
        self.0.manifest(repository, target, accept).await
    }

    async fn head_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        accept: &[String],
    ) -> Result<ManifestHeadAnswer, ContentError> {
        let answer = self.0.manifest(repository, target, accept).await?;
        Ok(ManifestHeadAnswer {
            size: answer.bytes.len() as u64,
            media_type: answer.media_type,
            digest: answer.digest,
            warning: answer.warning,
        })
    }

    async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<BlobHead, ContentError> {
        if let Some((blob, _)) = self.0.stored(*digest).await? {
            return Ok(BlobHead { size: blob.size, media_type: blob.media_type });
        }
        if let Some(directory) = &self.0.directory
            && let Ok(Some(entry)) = directory.get(digest).await
        {
            return Ok(BlobHead { size: entry.size, media_type: entry.media_type });
        }
        let size = self.0.origin.blob_size(repository, digest).await?;
        Ok(BlobHead { size, media_type: None })
    }

    async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobAnswer, ContentError> {
        let inner = &self.0;
        if let Some((blob, file)) = inner.stored(*digest).await? {
            let span = Span::of(range, blob.size)?;
            let body = stream::stored(inner.clone(), file, span);
            return Ok(BlobAnswer { size: blob.size, span, media_type: blob.media_type, body });
        }
        let flight = inner.flight(repository, *digest, Want::Blob);
        let known = |progress: &Progress| progress.size.is_some() || progress.outcome.is_some();
        let mut progress = flight.progress();
        let told = match timeout(SIZE, progress.wait_for(known)).await {
            Ok(Ok(progress)) => Some(progress.clone()),
            _ => None,
        };
        let progress = match told {
            Some(progress) => progress,
            // Another node fetches it, perhaps for long; its size costs the origin nothing.
            None => {
                let size = inner.origin.blob_size(repository, digest).await?;
                Progress { size: Some(size), ..Progress::default() }
            }
        };
        match (progress.size, progress.outcome) {
            (Some(size), _) => {
                let span = Span::of(range, size)?;
                let body = stream::following(inner.clone(), &flight, span);
                Ok(BlobAnswer { size, span, media_type: progress.media_type, body })
            }
            // It cannot be kept here, but perhaps it can be passed on.
            (None, Some(Err(FetchError::Disk(_) | FetchError::Swarm(_)))) => {
                let size = inner.origin.blob_size(repository, digest).await?;
                let span = Span::of(range, size)?;
                let body = stream::direct(inner.clone(), repository.clone(), *digest, span);
                Ok(BlobAnswer { size, span, media_type: None, body })
            }
            (None, Some(Err(error))) => Err(error.into()),
            // It came between the two looks.
            (None, _) => {
                let stored = inner.stored(*digest).await?;
                let (blob, file) = stored.ok_or_else(|| ContentError::Internal("blob lost".into()))?;
                let span = Span::of(range, blob.size)?;
                let body = stream::stored(inner.clone(), file, span);
                Ok(BlobAnswer { size: blob.size, span, media_type: blob.media_type, body })
            }
        }
    }

    async fn listing(
        &self,
        listing: &Listing,
        query: Option<&str>,
        accept: &[String],
    ) -> Result<ListingAnswer, ContentError> {
        Ok(self.0.origin.listing(listing, query, accept).await?)
    }
}

impl Content {
    /// Brings a blob or manifest into the store, and says how it went.
    pub(crate) fn bring(&self, repository: &Repository, digest: Digest, want: Want) -> Arc<Flight> {
        self.0.flight(repository, digest, want)
    }

    /// Resolves a tag, or takes the digest as it is.
    pub(crate) async fn resolve(
        &self,
        repository: &Repository,
        target: &Target,
        accept: &[String],
    ) -> Result<ManifestAnswer, ContentError> {
        self.0.manifest(repository, target, accept).boxed().await
    }
}

/// Ends a flight, however its task ends.
struct Landing {
    inner: Arc<Inner>,
    flight: Arc<Flight>,
    outcome: Result<(), FetchError>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        if let Err(error) = &outcome {
            let (digest, repository) = (self.flight.digest, &self.flight.repository);
            tracing::warn!(%digest, %repository, "not fetched: {error}");
        }
        // What is here by then is found in the store; what failed may be tried anew.
        self.inner.flights().remove(&self.flight.digest);
        self.flight.update(|progress| progress.outcome = Some(outcome));
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "times for people, from the driver")]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Counts bytes for a client.
pub(crate) fn count(inner: &Inner, bytes: usize) {
    inner.to_clients.fetch_add(bytes as u64, Ordering::Relaxed);
}
