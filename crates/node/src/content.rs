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
    trace::SpanKind,
};
use engine::{Engine, Torrent};
use futures_util::FutureExt;
use hash::Digest;
use metainfo::{BLOCK_LENGTH, BlobTorrent, Geometry, PieceIndex};
use mirror::{
    Asker, BlobAnswer, BlobHead, ByteRange, Content as MirrorContent, ContentError, Health, Located,
    ManifestAnswer, ManifestHeadAnswer, Push, Pushed, Span, WebRequest,
};
use origin::{Home, Listing, ListingAnswer, Origin, OriginError, Repository, Target, Web};
use store::{Blob, Store};
use tokio::{
    net::TcpStream,
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::{Access, is_refusal, put},
    breaker::Breaker,
    config::Config,
    fetch,
    flight::{FetchError, Flight, Progress, Want, not_public},
    lenders::Lenders,
    manifests::{Names, Resolved},
    push::Uploads,
    record::{Record, Records},
    single::Singles,
    site::Sites,
    stream,
    torrents::Torrents,
    trace::Traces,
};

/// How long a client waits for a blob's size from whoever brings the blob, before the origin is asked for it.
const SIZE: Duration = Duration::from_secs(2);
/// How long the disk may take to say whether a blob is there. Past it clients are served past it for a while.
const DISK: Duration = Duration::from_secs(5);
/// For how long it is remembered that a host gave wrong bytes for a blob.
const WRONG: Duration = Duration::from_secs(60);
/// How long a client waits for all of a blob that came wrong the last time, to be told that it is not here where it comes
/// wrong again: Docker leaves at once then, and asks five times more for what is cut short.
const PROOF: Duration = Duration::from_secs(20);

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
    pub(crate) web: Web,
    pub(crate) sites: Sites,
    pub(crate) lenders: Lenders,
    pub(crate) directory: Option<DirectoryClient>,
    pub(crate) records: Records,
    pub(crate) traces: Traces,
    pub(crate) torrents: Torrents,
    /// Content bytes given to clients.
    pub(crate) to_clients: AtomicU64,
    /// Bytes of blobs that have left the store for want of room.
    pub(crate) evicted: AtomicU64,
    /// Something has come into the store, which may hold too much now.
    pub(crate) came: Notify,
    pub(crate) flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    pub(crate) access: Access,
    pub(crate) uploads: Uploads,
    /// What the default registry asks of those who show nothing, where the mirror is to ask the same.
    pub(crate) challenge: Mutex<Option<String>>,
    /// What tags pointed at lately.
    pub(crate) resolved: Names,
    pub(crate) tags: Singles<(Repository, String, Asker), Result<Resolved, ContentError>>,
    /// The disk, which may hang.
    pub(crate) disk: Breaker,
    /// What peers give.
    pub(crate) swarms: Breaker,
    /// Blobs for which a host gave wrong bytes lately: no other host's word for them is touched by that.
    pub(crate) wrong: Mutex<HashMap<(String, Digest), (Instant, ())>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Inner {
    /// Tiers of announce URLs.
    pub(crate) fn trackers(&self) -> Vec<Vec<String>> {
        self.config.trackers.iter().map(|url| vec![url.clone()]).collect()
    }

    /// The flight that brings a blob, and whether it is one that the asker has begun, which is theirs to follow, or
    /// one that was under way, which they may follow as far as [`Inner::join`] says.
    pub(crate) fn flight(
        self: &Arc<Self>,
        home: &Home,
        digest: Digest,
        want: Want,
        asker: &Asker,
    ) -> (Arc<Flight>, bool) {
        let mut flights = self.flights();
        match flights.get(&digest) {
            Some(flight) => (flight.clone(), false),
            None => (self.take_off(&mut flights, (home, digest, want, asker), None), true),
        }
    }

    /// The same for whom another's flight from a place that is not listed is in the way, and to whom a listed registry
    /// has just said that it gives them the blob: that flight ends, so that it does not keep a better one from bringing
    /// the blob.
    pub(crate) fn better_flight(
        self: &Arc<Self>,
        before: &Arc<Flight>,
        home: &Home,
        want: Want,
        asker: &Asker,
    ) -> (Arc<Flight>, bool) {
        let mut flights = self.flights();
        let is_last = flights.get(&before.digest).is_some_and(|last| Arc::ptr_eq(last, before));
        // What is here already, or comes from the swarm, is not slow for want of a better place.
        let stays = before.want.is_here() || before.progress().borrow().torrent.is_some();
        if stays || !is_last {
            drop(flights);
            return self.flight(home, before.digest, want, asker);
        }
        before.displace();
        (self.take_off(&mut flights, (home, before.digest, want, asker), Some(before.clone())), true)
    }

    /// Begins a flight, once the one before it has ended.
    fn take_off(
        self: &Arc<Self>,
        flights: &mut HashMap<Digest, Arc<Flight>>,
        (home, digest, want, asker): (&Home, Digest, Want, &Asker),
        before: Option<Arc<Flight>>,
    ) -> Arc<Flight> {
        let tracer = self.traces.begin(digest, &home.to_string(), want.word());
        let flight = Arc::new(Flight::new(digest, home.clone(), want, asker.clone(), tracer));
        flights.insert(digest, flight.clone());
        let (inner, for_task) = (self.clone(), flight.clone());
        self.tasks.spawn(async move {
            let mut landing = Landing { inner, flight: for_task, outcome: Err(FetchError::Stopped) };
            let stop = landing.inner.stop.clone();
            let fetched = async {
                match before {
                    Some(before) if before.finished().await.is_ok() => Ok(()),
                    _ => fetch::run(&landing.inner, &landing.flight).await,
                }
            };
            landing.outcome = tokio::select! {
                outcome = fetched => outcome,
                () = stop.cancelled() => Err(FetchError::Stopped),
            };
        });
        flight
    }

    /// Whether an asker may have what another's flight brings.
    pub(crate) async fn join(
        self: &Arc<Self>,
        flight: &Flight,
        home: &Home,
        asker: &Asker,
    ) -> Result<(), OriginError> {
        let mut progress = flight.progress();
        let known = |progress: &Progress| progress.public.is_some() || progress.outcome.is_some();
        let public = match timeout(SIZE, progress.wait_for(known)).await {
            Ok(Ok(progress)) => progress.public == Some(true),
            _ => false,
        };
        if !public {
            self.may_have_of(asker, home, flight.digest, &flight.want).await?;
        }
        Ok(())
    }

    pub(crate) fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob that is here, and its file, for a client: it counts as used.
    pub(crate) async fn used(&self, digest: Digest) -> Result<Option<(Blob, Arc<File>)>, ContentError> {
        let found = self.stored(digest).await;
        if matches!(found, Ok(Some(_))) {
            let store = self.store.clone();
            // It may write those of many at once.
            self.tasks.spawn_blocking(move || store.touch(&digest));
        }
        found
    }

    /// A blob that is here, and its file. One whose file somebody has removed or cut is here no more, and is forgotten.
    /// While the disk hangs nothing is here.
    pub(crate) async fn stored(&self, digest: Digest) -> Result<Option<(Blob, Arc<File>)>, ContentError> {
        if self.disk.is_open() {
            return Ok(None);
        }
        let store = self.store.clone();
        let found = spawn_blocking(move || {
            let Some(blob) = store.get(&digest).map_err(|e| e.to_string())? else { return Ok(None) };
            let failed = |error: io::Error| format!("opening {digest} failed: {error}");
            if blob.borrowed {
                return Ok(Some((blob, None)));
            }
            match store.open_blob(&digest) {
                Ok(file) if file.metadata().map_err(failed)?.len() == blob.size => {
                    return Ok(Some((blob, Some(Arc::new(file)))));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
            tracing::warn!(%digest, "its file was removed or changed by somebody else: it is fetched anew");
            store.remove(&digest).map_err(|e| e.to_string())?;
            Ok(None)
        });
        let Ok(found) = timeout(DISK, found).await else {
            if self.disk.failed() {
                tracing::error!("the disk does not answer: clients are served from registries for a while");
            }
            return Ok(None);
        };
        self.disk.worked();
        let found = found.map_err(|e| ContentError::Internal(e.to_string()))?;
        match found.map_err(ContentError::Internal)? {
            Some((blob, Some(file))) => Ok(Some((blob, file))),
            Some((blob, None)) => Ok(self.lent(blob).await),
            None => Ok(None),
        }
    }

    /// How long the node has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.engine.age()
    }

    /// Notes where a blob's bytes came from, when it came by a torrent.
    pub(crate) fn remember(&self, flight: &Flight, torrent: &Torrent) {
        let provenance = self.provenance(torrent, Some(flight.home.host()));
        let record = torrent.provenance();
        let sums = provenance.sources.iter().cloned().zip(record.sources());
        let sources = sums.map(|(source, s)| SourceBytes { source, bytes: s.bytes }).collect();
        let (started, finished) = (flight.started, now());
        self.records.add(flight.digest, Record { started, finished, sources, provenance: Some(provenance) });
    }

    /// Where a torrent's blocks came from so far, `origin` being the host of the place where the content lives.
    pub(crate) fn provenance(&self, torrent: &Torrent, origin: Option<&str>) -> Provenance {
        let record = torrent.provenance();
        Provenance {
            info_hash: torrent.info_hash(),
            size: torrent.meta().info.geometry.total(),
            block_length: BLOCK_LENGTH,
            piece_length: torrent.meta().info.geometry.piece_length(),
            sources: record.sources().iter().map(|s| source(&s.kind, origin)).collect(),
            runs: self.runs(record.runs()),
        }
    }

    /// Runs with the times of people.
    pub(crate) fn runs(&self, runs: &[swarm::Run]) -> Vec<Run> {
        let base = now_ms().saturating_sub(u64::try_from(self.engine.age().as_millis()).unwrap_or(u64::MAX));
        let run = |run: &swarm::Run| Run {
            piece: run.piece.0,
            block: run.first_block,
            count: run.blocks,
            source: run.source.0,
            first_ms: base + run.first.0 / 1000,
            last_ms: base + run.last.0 / 1000,
        };
        runs.iter().map(run).collect()
    }

    /// Notes that a blob came from its origin, or was on this host already.
    pub(crate) fn remember_origin(&self, flight: &Flight, torrent: &BlobTorrent) {
        let Progress { borrowed, size, from_origin, .. } = flight.progress().borrow().clone();
        let here = borrowed || matches!(flight.want, Want::Pushed(_));
        let kind = if here { swarm::SourceKind::Store } else { swarm::SourceKind::Origin };
        let bytes = if borrowed { size.unwrap_or(0) } else { from_origin };
        self.remember_one(flight, torrent, source(&kind, Some(flight.home.host())), bytes);
    }

    /// Notes that the directory had all of a blob.
    pub(crate) fn remember_directory(&self, flight: &Flight, torrent: &BlobTorrent, bytes: u64) {
        let source = Source { kind: SourceKind::Directory, peer: None, peer_id: None };
        self.remember_one(flight, torrent, source, bytes);
    }

    fn remember_one(&self, flight: &Flight, torrent: &BlobTorrent, source: Source, bytes: u64) {
        let (started, finished) = (flight.started, now());
        let sources = vec![SourceBytes { source: source.clone(), bytes }];
        let size = flight.progress().borrow().size.unwrap_or(bytes);
        let geometry = Geometry::new(size, metainfo::blob_piece_length(size));
        let provenance = geometry.map(|geometry| {
            let run = |piece: PieceIndex| {
                let size = geometry.piece_size(piece);
                let at = flight.came_at(geometry.piece_offset(piece) + u64::from(size));
                let count = size.div_ceil(BLOCK_LENGTH);
                Run { piece: piece.0, block: 0, count, source: 0, first_ms: at, last_ms: at }
            };
            Provenance {
                info_hash: torrent.info_hash,
                size,
                block_length: BLOCK_LENGTH,
                piece_length: geometry.piece_length(),
                sources: vec![source],
                runs: geometry.pieces().map(run).collect(),
            }
        });
        self.records.add(flight.digest, Record { started, finished, sources, provenance });
    }
}

/// A source as the API tells of it.
pub(crate) fn source(kind: &swarm::SourceKind, origin: Option<&str>) -> Source {
    match kind {
        swarm::SourceKind::Peer { address, id } => Source {
            kind: SourceKind::Peer,
            peer: Some(address.to_string()),
            peer_id: Some(hash::to_hex(id.as_bytes())),
        },
        swarm::SourceKind::Origin => {
            Source { kind: SourceKind::Origin, peer: origin.map(str::to_owned), peer_id: None }
        }
        swarm::SourceKind::Store => Source { kind: SourceKind::Store, peer: None, peer_id: None },
    }
}

impl MirrorContent for Content {
    fn challenge(&self) -> Option<String> {
        self.0.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn lives(&self) -> bool {
        Self::lives(self).await
    }

    async fn health(&self) -> Health {
        self.0.health().await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> Result<ManifestAnswer, ContentError> {
        self.0.manifest(repository, target, asker).await
    }

    async fn head_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> Result<ManifestHeadAnswer, ContentError> {
        let answer = self.0.manifest(repository, target, asker).await?;
        Ok(ManifestHeadAnswer {
            size: answer.bytes.len() as u64,
            media_type: answer.media_type,
            digest: answer.digest,
            warning: answer.warning,
        })
    }

    async fn blob_size(&self, home: &Home, digest: &Digest, asker: &Asker) -> Result<BlobHead, ContentError> {
        let inner = &self.0;
        inner.check(home)?;
        let stored = inner.stored(*digest).await?;
        // Of the web, only what is for everybody is given from here.
        let usable = |blob: &Blob| blob.public || matches!(home, Home::Registry(_));
        if let Some((blob, _)) = stored.filter(|(blob, _)| usable(blob)) {
            if !blob.public {
                inner.may_have_of(asker, home, *digest, &Want::Blob).await?;
            }
            return Ok(BlobHead { size: blob.size, media_type: blob.media_type });
        }
        if inner.was_wrong(home, digest) {
            // Docker asks so before each attempt, and goes elsewhere at once.
            return Err(ContentError::NotFound);
        }
        if let Some(directory) = &inner.directory
            && let Ok(Some(entry)) = directory.get(digest).await
            && entry.public
        {
            return Ok(BlobHead { size: entry.size, media_type: entry.media_type });
        }
        let size = inner.size_of(asker, home, *digest).await?;
        Ok(BlobHead { size, media_type: None })
    }

    async fn blob(
        &self,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
        range: Option<ByteRange>,
    ) -> Result<BlobAnswer, ContentError> {
        let inner = &self.0;
        inner.check(home)?;
        let direct = |size: u64| {
            let span = Span::of(range, size)?;
            let body = stream::direct(inner.clone(), home.clone(), *digest, asker.clone(), span);
            Ok(BlobAnswer { size, span, media_type: None, body })
        };
        // What is here and not for everybody is no affair of a web server's clients: they get that server's bytes.
        let beside = |error: &ContentError| matches!((home, error), (Home::Web(_), ContentError::Denied(_)));
        match inner.stored_blob(home, digest, asker, range).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) if beside(&error) => return direct(inner.size_of(asker, home, *digest).await?),
            Err(error) => return Err(error),
        }
        if inner.disk.is_open() {
            return direct(inner.size_of(asker, home, *digest).await?);
        }
        let was_wrong = inner.was_wrong(home, digest);
        // The rest of what was cut short for its wrong bytes would be cut again.
        if was_wrong && range.is_some_and(ByteRange::is_resumption) {
            return Err(ContentError::NotFound);
        }
        let (mut flight, mut ours) = inner.flight(home, *digest, Want::Blob, asker);
        let mut tries = 0;
        let mut progress = loop {
            if !ours && !inner.is_believed(&flight, home) {
                if let Home::Registry(repository) = home
                    && inner.is_listed(home)
                {
                    inner.ask_now(asker, repository, *digest, &Want::Blob).await?;
                    (flight, ours) = inner.better_flight(&flight, home, Want::Blob, asker);
                }
                if !ours && !inner.is_believed(&flight, home) {
                    return direct(inner.size_of(asker, home, *digest).await?);
                }
            }
            if !ours && let Err(error) = inner.join(&flight, home, asker).await.map_err(ContentError::from) {
                if beside(&error) {
                    return direct(inner.size_of(asker, home, *digest).await?);
                }
                return Err(error);
            }
            let progress = inner.told(&flight).await;
            tries += 1;
            match &progress.outcome {
                // That flight was for somebody who may not have it, and we may.
                Some(Err(FetchError::Origin(error))) if tries < 3 && !ours && is_refusal(error) => {}
                // A better one is under way.
                Some(Err(FetchError::Displaced)) if tries < 3 => {}
                _ => break progress,
            }
            (flight, ours) = inner.flight(home, *digest, Want::Blob, asker);
        };
        if was_wrong && progress.outcome.is_none() && timeout(PROOF, flight.finished()).await.is_ok() {
            progress = flight.progress().borrow().clone();
        }
        let Progress { size, outcome, media_type, .. } = progress;
        match (size, outcome) {
            (_, Some(Err(error))) if was_wrong && error.is_wrong() => Err(ContentError::NotFound),
            (Some(size), _) => {
                let span = Span::of(range, size)?;
                let body = stream::following(inner.clone(), &flight, home.clone(), asker.clone(), span);
                Ok(BlobAnswer { size, span, media_type, body })
            }
            // It cannot be kept here, but perhaps it can be passed on.
            (None, Some(Err(FetchError::Disk(_) | FetchError::Swarm(_)))) => {
                direct(inner.size_of(asker, home, *digest).await?)
            }
            (None, Some(Err(error))) => match ContentError::from(error) {
                error if beside(&error) => direct(inner.size_of(asker, home, *digest).await?),
                error => Err(error),
            },
            // It came between the two looks.
            (None, Some(Ok(()))) => match inner.stored_blob(home, digest, asker, range).await {
                Err(error) if beside(&error) => direct(inner.size_of(asker, home, *digest).await?),
                stored => stored?.ok_or_else(|| ContentError::Internal("blob lost".into())),
            },
            // Another node fetches it, perhaps for long; its size costs the origin little.
            (None, None) => {
                let size = inner.size_of(asker, home, *digest).await?;
                let span = Span::of(range, size)?;
                let body = stream::following(inner.clone(), &flight, home.clone(), asker.clone(), span);
                Ok(BlobAnswer { size, span, media_type: None, body })
            }
        }
    }

    async fn push(&self, repository: &Repository, push: Push, asker: &Asker) -> Result<Pushed, ContentError> {
        self.0.push(repository, push, asker).await
    }

    async fn listing(
        &self,
        listing: &Listing,
        query: Option<&str>,
        asker: &Asker,
    ) -> Result<ListingAnswer, ContentError> {
        let ask = |origin: Origin| async move { origin.listing(listing, query, &asker.accept).await };
        let (answer, _) = self.0.with_rights(&listing.place(), asker, ask).await?;
        Ok(answer)
    }

    async fn locate(&self, request: WebRequest) -> Result<Located, ContentError> {
        self.0.locate(request).await
    }

    async fn tunnel(&self, host: &str, port: u16) -> Result<TcpStream, ContentError> {
        self.0.tunnel(host, port).await
    }
}

impl Inner {
    /// A blob that is here, for an asker who may have it.
    async fn stored_blob(
        self: &Arc<Self>,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobAnswer>, ContentError> {
        let Some((blob, file)) = self.used(*digest).await? else { return Ok(None) };
        if !blob.public {
            self.may_have_of(asker, home, *digest, &Want::Blob).await?;
        }
        let span = Span::of(range, blob.size)?;
        let told = self.traces.of(*digest, &home.to_string(), "blob").span(SpanKind::Client);
        let body = stream::stored(self.clone(), file, span, blob.borrowed.then_some(*digest), told);
        Ok(Some(BlobAnswer { size: blob.size, span, media_type: blob.media_type, body }))
    }

    /// Whether the host of a place gave wrong bytes for a blob lately.
    fn was_wrong(&self, home: &Home, digest: &Digest) -> bool {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.get(&(home.host().to_owned(), *digest)).is_some_and(|(at, ())| at.elapsed() < WRONG)
    }

    /// Whether the configuration lets this place be asked.
    fn check(&self, home: &Home) -> Result<(), OriginError> {
        match home {
            Home::Registry(repository) => self.origin.endpoint(&repository.into()).map(drop),
            Home::Web(url) => self.web.allows(url),
        }
    }

    /// [`Inner::may_have`] of what lives anywhere.
    pub(crate) async fn may_have_of(
        self: &Arc<Self>,
        asker: &Asker,
        home: &Home,
        digest: Digest,
        want: &Want,
    ) -> Result<(), OriginError> {
        match home {
            Home::Registry(repository) => self.may_have(asker, repository, digest, want).await.map(drop),
            Home::Web(_) => Err(not_public(home)),
        }
    }

    /// [`Inner::size_for`] of what lives anywhere.
    async fn size_of(
        self: &Arc<Self>,
        asker: &Asker,
        home: &Home,
        digest: Digest,
    ) -> Result<u64, OriginError> {
        match home {
            Home::Registry(repository) => self.size_for(asker, repository, digest).await,
            Home::Web(url) => self.web.size(url).await,
        }
    }

    /// What a flight says of its blob within [`SIZE`].
    async fn told(&self, flight: &Flight) -> Progress {
        let known = |progress: &Progress| progress.size.is_some() || progress.outcome.is_some();
        match timeout(SIZE, flight.progress().wait_for(known)).await {
            Ok(Ok(progress)) => progress.clone(),
            _ => Progress::default(),
        }
    }
}

impl Content {
    /// Brings a blob or manifest into the store, and says how it went.
    pub(crate) fn bring(&self, repository: &Repository, digest: Digest, want: Want) -> Arc<Flight> {
        self.0.flight(&repository.into(), digest, want, &Asker::default()).0
    }

    /// Resolves a tag, or takes the digest as it is.
    pub(crate) async fn resolve(
        &self,
        repository: &Repository,
        target: &Target,
        accept: Vec<String>,
    ) -> Result<ManifestAnswer, ContentError> {
        let asker = Asker { authorization: None, accept };
        self.0.manifest(repository, target, &asker).boxed().await
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
        let (digest, home) = (self.flight.digest, &self.flight.home);
        let size = self.flight.progress().borrow().size;
        if outcome.is_ok() {
            tracing::info!(%digest, %home, "fetched");
            self.inner.came.notify_one();
        }
        if let Err(error) = &outcome {
            tracing::warn!(%digest, %home, "not fetched: {error}");
            if error.is_wrong() {
                put(&self.inner.wrong, (home.host().to_owned(), digest), (), |()| WRONG);
            }
        }
        self.flight.tracer.end(size, outcome.as_ref().err().map(ToString::to_string));
        // What is here by then is found in the store; what failed may be tried anew.
        let mut flights = self.inner.flights();
        if flights.get(&digest).is_some_and(|last| Arc::ptr_eq(last, &self.flight)) {
            flights.remove(&digest);
        }
        drop(flights);
        self.inner.landed(&self.flight, &outcome);
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
