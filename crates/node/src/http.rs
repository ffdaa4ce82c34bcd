//! The node's API over its unix socket.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use api::{
    ErrorBody,
    node::{
        Address, BlobPage, BlobState, BlobStatus, Health, MAX_PAGE, PeerFlags, PeerStatus, Provenance,
        PullEvent, PullRequest, SourceBytes, Status, TorrentPhase, TorrentStatus, Totals,
    },
    torrents::Limits,
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine::{Torrent, TorrentState};
use futures_util::stream;
use hash::Digest;
use metainfo::InfoHash;
use serde::Deserialize;
use tokio::{net::UnixListener, sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    content::{Content, Inner, now},
    flight::Flight,
    metrics, pull, trackers,
};

/// Events of a pull that may wait for a slow reader.
const EVENTS: usize = 256;
/// A sign of life is sent this often.
const ALIVE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Api {
    content: Content,
    mirrors: Vec<SocketAddr>,
}

/// Serves the API until `stop`.
pub(crate) async fn serve(
    listener: UnixListener,
    content: Content,
    mirrors: Vec<SocketAddr>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/v1/health", get(health))
        .route("/v1/status", get(status))
        .route("/v1/blobs", get(blobs))
        .route("/v1/blobs/{digest}", get(blob))
        .route("/v1/torrents", get(torrents))
        .route("/v1/torrents/{info_hash}/peers", get(peers))
        .route("/v1/torrents/{info_hash}/provenance", get(provenance))
        .route("/v1/pull", post(start_pull))
        .route("/v1/metrics", get(metrics_text))
        .fallback(async || failure(StatusCode::NOT_FOUND, "no such call"))
        .with_state(Api { content, mirrors });
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the API has ended");
    }
}

async fn health(State(api): State<Api>) -> Response {
    let mirror::Health { mut problems, .. } = api.content.0.health().await;
    if !api.content.lives().await {
        problems.push("the node's threads are all busy".to_owned());
    }
    let healthy = problems.is_empty();
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { healthy, problems })).into_response()
}

async fn status(State(api): State<Api>) -> Json<Status> {
    let inner = &api.content.0;
    let purpose = |purpose: &str, address: String| Address { purpose: purpose.into(), address };
    let mut addresses = vec![
        purpose("peer", inner.engine.listen().to_string()),
        purpose("api", inner.config.api.socket.display().to_string()),
    ];
    addresses.extend(api.mirrors.iter().map(|address| purpose("mirror", address.to_string())));
    let uptime = inner.uptime().as_secs();
    let since = |age: Duration| now().saturating_sub(uptime) + age.as_secs();
    let trackers = trackers::status(&inner.config.trackers, &inner.engine, since);
    Json(Status {
        node: inner.name.clone(),
        peer_id: hash::to_hex(inner.engine.peer_id().as_bytes()),
        version: env!("CARGO_PKG_VERSION").into(),
        addresses,
        trackers,
        local_discovery: inner.config.peer.local_discovery,
        uptime,
        totals: totals(inner),
    })
}

pub(crate) fn totals(inner: &Inner) -> Totals {
    let (blobs, blob_bytes) = inner.store.count_and_bytes();
    let torrents = inner.engine.torrents();
    Totals {
        blobs,
        blob_bytes,
        active_torrents: torrents.len() as u64,
        peers: torrents.iter().map(|t| t.peers().len() as u64).sum(),
        from_peers: inner.records.sum_from_peers(),
        from_origins: inner.origin.received(),
        to_peers: inner.engine.uploaded(),
        to_clients: inner.to_clients.load(Ordering::Relaxed),
        wasted: inner.engine.wasted(),
        evicted: inner.evicted.load(Ordering::Relaxed),
    }
}

#[derive(Deserialize)]
struct PageQuery {
    after: Option<String>,
    limit: Option<u32>,
}

async fn blobs(State(api): State<Api>, Query(query): Query<PageQuery>) -> Response {
    let inner = api.content.0.clone();
    let after = match query.after.as_deref().map(str::parse::<Digest>).transpose() {
        Ok(after) => after,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    let limit = query.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE) as usize;
    let store = inner.store.clone();
    let listed = spawn_blocking(move || {
        let whole = store.list(after.as_ref(), limit)?;
        Ok::<_, store::IndexError>((whole, store.partials().unwrap_or_default()))
    });
    let (whole, partials) = match listed.await {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => return failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let next = (whole.len() == limit).then(|| whole.last().map(|blob| blob.digest)).flatten();
    let mut page: Vec<BlobStatus> = whole
        .into_iter()
        .map(|blob| BlobStatus {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type,
            state: BlobState::Complete,
            bytes_done: blob.size,
            pieces: pieces(blob.size),
            info_hash: blob.info_hash,
            ..came(&inner, &blob.digest)
        })
        .collect();
    if next.is_none() {
        // What is not whole comes last, on the last page.
        page.extend(inner.flights().values().map(|flight| fetching(&inner, flight)));
        page.extend(partials.into_iter().map(|partial| BlobStatus {
            digest: partial.digest,
            size: partial.size,
            state: BlobState::Partial,
            bytes_done: partial.bytes_done,
            pieces: pieces(partial.size),
            ..came(&inner, &partial.digest)
        }));
    }
    Json(BlobPage { blobs: page, next }).into_response()
}

async fn blob(State(api): State<Api>, Path(digest): Path<String>) -> Response {
    let inner = api.content.0.clone();
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    let flight = inner.flights().get(&digest).cloned();
    if let Some(flight) = flight {
        return Json(fetching(&inner, &flight)).into_response();
    }
    match api.content.0.stored(digest).await {
        Ok(Some((blob, _))) => Json(BlobStatus {
            digest,
            size: blob.size,
            media_type: blob.media_type,
            state: BlobState::Complete,
            bytes_done: blob.size,
            pieces: pieces(blob.size),
            info_hash: blob.info_hash,
            ..came(&inner, &digest)
        })
        .into_response(),
        Ok(None) => {
            let partials = inner.store.partials().unwrap_or_default();
            match partials.into_iter().find(|partial| partial.digest == digest) {
                Some(partial) => Json(BlobStatus {
                    digest,
                    size: partial.size,
                    state: BlobState::Partial,
                    bytes_done: partial.bytes_done,
                    pieces: pieces(partial.size),
                    ..came(&inner, &digest)
                })
                .into_response(),
                None => failure(StatusCode::NOT_FOUND, format!("{digest} is not here")),
            }
        }
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn pieces(size: u64) -> u32 {
    let length = metainfo::blob_piece_length(size);
    u32::try_from(size.div_ceil(u64::from(length))).unwrap_or(u32::MAX)
}

/// What is known of where a blob came from, and nothing else.
fn came(inner: &Inner, digest: &Digest) -> BlobStatus {
    let record = inner.records.get(digest);
    BlobStatus {
        digest: *digest,
        size: 0,
        media_type: None,
        state: BlobState::Partial,
        bytes_done: 0,
        pieces: 0,
        info_hash: None,
        started: record.as_ref().map(|r| r.started),
        finished: record.as_ref().map(|r| r.finished),
        sources: record.map(|r| r.sources).unwrap_or_default(),
    }
}

fn fetching(inner: &Inner, flight: &Flight) -> BlobStatus {
    let progress = flight.progress().borrow().clone();
    let size = progress.size.unwrap_or(0);
    let mut status = BlobStatus {
        size,
        media_type: progress.media_type,
        state: BlobState::Fetching,
        bytes_done: progress.prefix,
        pieces: pieces(size),
        started: Some(flight.started),
        finished: None,
        ..came(inner, &flight.digest)
    };
    if let Some(torrent) = progress.torrent {
        status.bytes_done = torrent.status().borrow().bytes;
        status.info_hash = Some(torrent.info_hash());
        let sources = torrent.provenance();
        let bytes = |s: &swarm::Source| SourceBytes { source: inner.source(&s.kind, flight), bytes: s.bytes };
        status.sources = sources.sources().iter().map(bytes).collect();
    }
    status
}

async fn torrents(State(api): State<Api>) -> Json<Vec<TorrentStatus>> {
    Json(api.content.0.engine.torrents().iter().map(|torrent| torrent_status(torrent)).collect())
}

fn torrent_status(torrent: &Torrent) -> TorrentStatus {
    let (info, status) = (&torrent.meta().info, torrent.status().borrow().clone());
    let (peers, (up, down)) = (torrent.peers(), torrent.moved());
    let sum = |rate: fn(&swarm::PeerStats) -> f64| peers.iter().map(|(p, _)| rate(p)).sum::<f64>() as u64;
    TorrentStatus {
        info_hash: torrent.info_hash(),
        name: info.name.clone(),
        digest: info.blob.as_ref().map(metainfo::BlobProof::digest),
        size: info.geometry.total(),
        bytes_done: status.bytes,
        pieces: info.geometry.piece_count(),
        pieces_done: status.pieces,
        peers: peers.len() as u32,
        down_bytes: down,
        up_bytes: up,
        down_rate: sum(|p| p.down_rate),
        up_rate: sum(|p| p.up_rate),
        state: match &status.state {
            TorrentState::Downloading => TorrentPhase::Downloading,
            TorrentState::Complete => TorrentPhase::Seeding,
            TorrentState::Stopped => TorrentPhase::Stopped,
            TorrentState::Failed(_) => TorrentPhase::Failed,
        },
        folder: None,
        limits: Limits::default(),
        error: if let TorrentState::Failed(failure) = status.state {
            Some(failure.to_string())
        } else {
            None
        },
    }
}

async fn peers(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    let torrent = match find(&api, &info_hash) {
        Ok(torrent) => torrent,
        Err(answer) => return *answer,
    };
    let pieces = f64::from(torrent.meta().info.geometry.piece_count().max(1));
    let peers = torrent.peers().into_iter().map(|(peer, client)| PeerStatus {
        address: peer.info.address.to_string(),
        peer_id: hash::to_hex(peer.info.id.as_bytes()),
        client: client.unwrap_or_default(),
        incoming: peer.info.incoming,
        down_bytes: peer.downloaded,
        up_bytes: peer.uploaded,
        down_rate: peer.down_rate as u64,
        up_rate: peer.up_rate as u64,
        flags: PeerFlags {
            choking: peer.choked_by_us,
            interested: peer.interesting,
            choked: peer.choking_us,
            wanted: peer.interested,
        },
        progress: f64::from(peer.pieces) / pieces,
        requests: u32::try_from(peer.outstanding.div_ceil(u64::from(metainfo::BLOCK_LENGTH)))
            .unwrap_or(u32::MAX),
    });
    Json(peers.collect::<Vec<_>>()).into_response()
}

/// From the record of a blob that has come, or from the torrent while it comes.
async fn provenance(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    let inner = &api.content.0;
    let Ok(wanted) = info_hash.parse::<InfoHash>() else {
        return failure(StatusCode::BAD_REQUEST, "an info-hash is 40 hex digits");
    };
    let (store, by_hash) = (inner.store.clone(), wanted);
    let digest = spawn_blocking(move || store.find_info_hash(&by_hash)).await;
    if let Ok(Ok(Some(digest))) = digest
        && let Some(provenance) = inner.records.get(&digest).and_then(|record| record.provenance)
    {
        return Json(provenance).into_response();
    }
    let flights: Vec<_> = inner.flights().values().cloned().collect();
    for flight in flights {
        let torrent = flight.progress().borrow().torrent.clone();
        if let Some(torrent) = torrent.filter(|t| t.info_hash() == wanted) {
            return Json::<Provenance>(inner.provenance(&flight, &torrent)).into_response();
        }
    }
    failure(StatusCode::NOT_FOUND, format!("nothing is known of how {info_hash} came here"))
}

async fn start_pull(State(api): State<Api>, body: Bytes) -> Response {
    let request: PullRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return failure(StatusCode::BAD_REQUEST, format!("the request is not understood: {error}"));
        }
    };
    if let Err(error) = request.reference.parse::<origin::Reference>() {
        return failure(StatusCode::BAD_REQUEST, error);
    }
    let (sender, events) = mpsc::channel(EVENTS);
    api.content.0.tasks.spawn(pull::run(api.content.clone(), request, sender));
    let lines = stream::unfold(events, async |mut events| {
        let event = match timeout(ALIVE, events.recv()).await {
            Ok(event) => event?,
            Err(_) => PullEvent::Alive,
        };
        let line = serde_json::to_string(&event).map(|json| json + "\n");
        Some((line, events))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn metrics_text(State(api): State<Api>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics::text(&totals(&api.content.0)) {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn find(api: &Api, info_hash: &str) -> Result<Arc<Torrent>, Box<Response>> {
    let info_hash: InfoHash =
        info_hash.parse().map_err(|error| Box::new(failure(StatusCode::BAD_REQUEST, error)))?;
    let torrent = api.content.0.engine.get(&info_hash);
    torrent.ok_or_else(|| Box::new(failure(StatusCode::NOT_FOUND, format!("{info_hash} is not moving"))))
}

fn failure(code: StatusCode, error: impl std::fmt::Display) -> Response {
    (code, Json(ErrorBody::new(error.to_string()))).into_response()
}
