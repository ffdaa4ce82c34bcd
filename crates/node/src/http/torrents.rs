//! Torrents: what they do, their peers, where their blocks came from, and what can be done with them.

use std::{sync::Arc, time::Duration};

use api::{
    node::{PeerFlags, PeerStatus, Provenance, TorrentStatus, TrackerStatus},
    torrents::{AddRequest, Added, FileStatus, Limits},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::Torrent;
use metainfo::InfoHash;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;

use super::{Api, failure};
use crate::{
    torrents::{LARGEST, TorrentError, What},
    trackers as tracker_states,
};

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<TorrentStatus>> {
    Json(api.content.0.torrent_list())
}

pub(super) async fn peers(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
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

/// From the record of a blob that has come, or from the torrent while it moves.
pub(super) async fn provenance(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
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
            return Json::<Provenance>(inner.provenance(&torrent, Some(flight.home.host()))).into_response();
        }
    }
    // An ordinary torrent tells it itself; a blob that has only been woken to be given knows nothing.
    if let Some(torrent) = inner.engine.get(&wanted) {
        let provenance = inner.provenance(&torrent, None);
        if !provenance.runs.is_empty() {
            return Json(provenance).into_response();
        }
    }
    failure(StatusCode::NOT_FOUND, format!("nothing is known of how {info_hash} came here"))
}

fn find(api: &Api, info_hash: &str) -> Result<Arc<Torrent>, Box<Response>> {
    let info_hash: InfoHash =
        info_hash.parse().map_err(|error| Box::new(failure(StatusCode::BAD_REQUEST, error)))?;
    let torrent = api.content.0.engine.get(&info_hash);
    torrent.ok_or_else(|| Box::new(failure(StatusCode::NOT_FOUND, format!("{info_hash} is not moving"))))
}

#[derive(Deserialize)]
pub(super) struct AddQuery {
    start: Option<bool>,
    folder: Option<String>,
}

pub(super) async fn add(
    State(api): State<Api>,
    Query(query): Query<AddQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let what = if kind.starts_with("application/json") {
        match parse::<AddRequest>(&body) {
            Ok(AddRequest::Magnet(link)) => match link.parse() {
                Ok(magnet) => Ok(What::Magnet(Box::new(magnet))),
                Err(error) => Err(format!("the magnet link cannot be used: {error}")),
            },
            Ok(AddRequest::Url(url)) => match download(&url).await {
                Ok(body) => torrent(&body),
                Err(error) => Err(format!("{url} does not give a torrent: {error}")),
            },
            Err(answer) => return *answer,
        }
    } else {
        torrent(&body)
    };
    let what = match what {
        Ok(what) => what,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    let added = api.content.0.add_torrent(what, query.start.unwrap_or(true), query.folder.as_deref()).await;
    match added {
        Ok((info_hash, name)) => (StatusCode::CREATED, Json(Added { info_hash, name })).into_response(),
        Err(error) => refused(&error),
    }
}

fn torrent(body: &[u8]) -> Result<What, String> {
    match metainfo::Torrent::parse(body) {
        Ok(torrent) => Ok(What::Torrent(Arc::new(torrent))),
        Err(error) => Err(format!("this is no torrent file that can be used: {error}")),
    }
}

/// A torrent file from a web server.
async fn download(url: &str) -> Result<Vec<u8>, String> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let url = url::Url::parse(url).map_err(|error| error.to_string())?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("it must begin with http:// or https://".into());
    }
    let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::limited(5));
    let client = client.build().map_err(|error| error.to_string())?;
    let mut answer = client.get(url).send().await.map_err(|error| origin::reason(&error))?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| origin::reason(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > LARGEST {
            return Err(format!("it is larger than {} MiB", LARGEST >> 20));
        }
    }
    Ok(body)
}

pub(super) async fn start(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    change(&info_hash, async |info_hash| api.content.0.set_running(&info_hash, true).await).await
}

pub(super) async fn stop(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    change(&info_hash, async |info_hash| api.content.0.set_running(&info_hash, false).await).await
}

pub(super) async fn verify(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    change(&info_hash, async |info_hash| api.content.0.verify_torrent(&info_hash).await).await
}

pub(super) async fn limit(State(api): State<Api>, Path(info_hash): Path<String>, body: Bytes) -> Response {
    let limits = match parse::<Limits>(&body) {
        Ok(limits) => limits,
        Err(answer) => return *answer,
    };
    change(&info_hash, async |info_hash| api.content.0.limit_torrent(&info_hash, limits).await).await
}

#[derive(Deserialize)]
pub(super) struct RemoveQuery {
    data: Option<bool>,
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(info_hash): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Response {
    let data = query.data.unwrap_or(false);
    change(&info_hash, async |info_hash| api.content.0.remove_torrent(&info_hash, data).await).await
}

pub(super) async fn files(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    let Ok(info_hash) = info_hash.parse::<InfoHash>() else { return no_info_hash() };
    let inner = api.content.0.clone();
    match spawn_blocking(move || inner.torrent_files(&info_hash)).await {
        Ok(Ok(files)) => Json::<Vec<FileStatus>>(files).into_response(),
        Ok(Err(error)) => refused(&error),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

pub(super) async fn trackers(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    let Ok(info_hash) = info_hash.parse::<InfoHash>() else { return no_info_hash() };
    let inner = &api.content.0;
    let running = inner.engine.get(&info_hash);
    let urls: Vec<String> = match (running, inner.torrent_file(&info_hash)) {
        (Some(torrent), _) => torrent.meta().trackers.iter().flatten().cloned().collect(),
        (None, Ok(torrent)) => torrent.trackers.iter().flatten().cloned().collect(),
        (None, Err(error)) => return refused(&error),
    };
    Json::<Vec<TrackerStatus>>(tracker_states::status(&urls, &inner.engine, api.since())).into_response()
}

pub(super) async fn file(State(api): State<Api>, Path(info_hash): Path<String>) -> Response {
    let Ok(info_hash) = info_hash.parse::<InfoHash>() else { return no_info_hash() };
    match api.content.0.torrent_file(&info_hash) {
        Ok(torrent) => {
            let name = format!("attachment; filename=\"{info_hash}.torrent\"");
            let head = [
                (header::CONTENT_TYPE, "application/x-bittorrent"),
                (header::CONTENT_DISPOSITION, name.as_str()),
            ];
            (head, torrent.encode()).into_response()
        }
        Err(error) => refused(&error),
    }
}

pub(super) async fn limits(State(api): State<Api>) -> Json<Limits> {
    let (down, up) = api.content.0.engine.limits();
    Json(Limits { down: Some(down), up: Some(up) })
}

pub(super) async fn set_limits(State(api): State<Api>, body: Bytes) -> Response {
    let engine = &api.content.0.engine;
    match parse::<Limits>(&body) {
        Ok(limits) => {
            let (down, up) = engine.limits();
            engine.set_limits(limits.down.unwrap_or(down), limits.up.unwrap_or(up));
            self::limits(State(api.clone())).await.into_response()
        }
        Err(answer) => *answer,
    }
}

async fn change(info_hash: &str, change: impl AsyncFnOnce(InfoHash) -> Result<(), TorrentError>) -> Response {
    let Ok(info_hash) = info_hash.parse::<InfoHash>() else { return no_info_hash() };
    match change(info_hash).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refused(&error),
    }
}

fn no_info_hash() -> Response {
    failure(StatusCode::BAD_REQUEST, "an info-hash is 40 hex digits")
}

fn refused(error: &TorrentError) -> Response {
    let code = match error {
        TorrentError::Unknown(_) => StatusCode::NOT_FOUND,
        TorrentError::Present(_) | TorrentError::NoMetadata => StatusCode::CONFLICT,
        TorrentError::Folder(_) => StatusCode::BAD_REQUEST,
        TorrentError::TooMany | TorrentError::Disk { .. } => StatusCode::INSUFFICIENT_STORAGE,
    };
    failure(code, error)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Response>> {
    let failed = |error| failure(StatusCode::BAD_REQUEST, format!("the request is not understood: {error}"));
    serde_json::from_slice(body).map_err(|error| Box::new(failed(error)))
}
