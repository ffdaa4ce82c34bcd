//! Blobs: what is here, how far, and from where.

use api::node::{BlobPage, BlobState, BlobStatus, MAX_PAGE, SourceBytes};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hash::Digest;
use mirror::ContentError;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::{Api, failure};
use crate::{
    content::{Inner, source},
    flight::Flight,
};

#[derive(Deserialize)]
pub(super) struct PageQuery {
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(State(api): State<Api>, Query(query): Query<PageQuery>) -> Response {
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

pub(super) async fn one(State(api): State<Api>, Path(digest): Path<String>) -> Response {
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    match status(&api, digest).await {
        Ok(Some(status)) => Json(status).into_response(),
        Ok(None) => failure(StatusCode::NOT_FOUND, format!("{digest} is not here")),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// What is here of a blob.
pub(super) async fn status(api: &Api, digest: Digest) -> Result<Option<BlobStatus>, ContentError> {
    let inner = &api.content.0;
    let flight = inner.flights().get(&digest).cloned();
    if let Some(flight) = flight {
        return Ok(Some(fetching(inner, &flight)));
    }
    if let Some((blob, _)) = inner.stored(digest).await? {
        return Ok(Some(BlobStatus {
            digest,
            size: blob.size,
            media_type: blob.media_type,
            state: BlobState::Complete,
            bytes_done: blob.size,
            pieces: pieces(blob.size),
            info_hash: blob.info_hash,
            ..came(inner, &digest)
        }));
    }
    let partials = inner.store.partials().unwrap_or_default();
    let partial = partials.into_iter().find(|partial| partial.digest == digest);
    Ok(partial.map(|partial| BlobStatus {
        digest,
        size: partial.size,
        state: BlobState::Partial,
        bytes_done: partial.bytes_done,
        pieces: pieces(partial.size),
        ..came(inner, &digest)
    }))
}

/// Has the node forget a blob.
pub(super) async fn remove(State(api): State<Api>, Path(digest): Path<String>) -> Response {
    let inner = api.content.0.clone();
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    if inner.flights().contains_key(&digest) {
        return failure(
            StatusCode::CONFLICT,
            format!("{digest} is being fetched: try again when it is here"),
        );
    }
    let store = inner.store.clone();
    let removed = spawn_blocking(move || {
        let info_hash = store.get(&digest)?.and_then(|blob| blob.info_hash);
        Ok::<_, store::RemoveError>((store.remove(&digest)?, info_hash))
    });
    match removed.await {
        Ok(Ok((true, info_hash))) => {
            if let Some(info_hash) = info_hash {
                inner.engine.remove(&info_hash).await;
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Ok((false, _))) => {
            let store = inner.store.clone();
            let discard = move || {
                let partials = store.partials().unwrap_or_default();
                partials.iter().any(|partial| partial.digest == digest) && store.discard_partial(&digest)
            };
            match spawn_blocking(discard).await {
                Ok(true) => StatusCode::NO_CONTENT.into_response(),
                _ => failure(StatusCode::NOT_FOUND, format!("{digest} is not here")),
            }
        }
        Ok(Err(error @ store::RemoveError::Busy(_))) => failure(StatusCode::CONFLICT, error),
        Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn pieces(size: u64) -> u32 {
    let length = metainfo::blob_piece_length(size);
    u32::try_from(size.div_ceil(u64::from(length))).unwrap_or(u32::MAX)
}

/// What is known of where a blob came from, and nothing else.
pub(super) fn came(inner: &Inner, digest: &Digest) -> BlobStatus {
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
        let bytes = |s: &swarm::Source| SourceBytes {
            source: source(&s.kind, Some(flight.home.host())),
            bytes: s.bytes,
        };
        status.sources = sources.sources().iter().map(bytes).collect();
    }
    status
}
