//! Every torrent on this node.

use api::{
    node::{TorrentPhase, TorrentStatus},
    torrents::Limits,
};
use engine::{Torrent, TorrentState};

use crate::content::Inner;

impl Inner {
    /// Every torrent that moves.
    pub(crate) fn torrent_list(&self) -> Vec<TorrentStatus> {
        self.engine.torrents().iter().map(|torrent| torrent_status(torrent)).collect()
    }
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
