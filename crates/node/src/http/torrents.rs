//! Torrents: their peers, and where their blocks came from.

use std::sync::Arc;

use api::node::{PeerFlags, PeerStatus, Provenance, TorrentStatus};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use engine::Torrent;
use metainfo::InfoHash;
use tokio::task::spawn_blocking;

use super::{Api, failure};

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

/// From the record of a blob that has come, or from the torrent while it comes.
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
    failure(StatusCode::NOT_FOUND, format!("nothing is known of how {info_hash} came here"))
}

fn find(api: &Api, info_hash: &str) -> Result<Arc<Torrent>, Box<Response>> {
    let info_hash: InfoHash =
        info_hash.parse().map_err(|error| Box::new(failure(StatusCode::BAD_REQUEST, error)))?;
    let torrent = api.content.0.engine.get(&info_hash);
    torrent.ok_or_else(|| Box::new(failure(StatusCode::NOT_FOUND, format!("{info_hash} is not moving"))))
}
