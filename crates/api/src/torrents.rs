//! Ordinary torrents on a node: added by hand or from a watch folder, into files that people use.
//!
//! | call | answer |
//! |---|---|
//! | `POST /v1/torrents?start={bool}&folder={path}` with a torrent file (`application/x-bittorrent`) or [`AddRequest`] (JSON) | [`Added`]; 409 where it is there |
//! | `POST /v1/torrents/{info_hash}/start`, `…/stop`, `…/verify` | 204 |
//! | `PATCH /v1/torrents/{info_hash}` with [`Limits`] | 204 |
//! | `DELETE /v1/torrents/{info_hash}?data={bool}` | 204; its files stay unless `data` |
//! | `GET /v1/torrents/{info_hash}/files` | list of [`FileStatus`] |
//! | `GET /v1/torrents/{info_hash}/trackers` | list of [`TrackerStatus`](crate::node::TrackerStatus) |
//! | `GET /v1/torrents/{info_hash}/file` | the torrent file |
//! | `GET /v1/limits`, `PATCH /v1/limits` with [`Limits`] | [`Limits`] of the whole node |
//!
//! A blob's torrent has no files, starts by itself, and is removed with its blob (`DELETE /v1/blobs/{digest}`).

use metainfo::InfoHash;
use serde::{Deserialize, Serialize};

use crate::text;

/// Adds a torrent that is not sent along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum AddRequest {
    /// A magnet link (BEP 9).
    Magnet(String),
    /// The address of a torrent file, `http` or `https`.
    Url(String),
}

/// What can be done with a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorrentAction {
    /// Gets and gives pieces.
    Start,
    /// Neither.
    Stop,
    /// Hashes all that is there, and goes on from that.
    Verify,
}

/// What was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The torrent.
    #[serde(with = "text")]
    pub info_hash: InfoHash,
    /// Its name; of a magnet link what the link calls it.
    pub name: String,
}

/// Most content bytes per second, each way; 0 for no limit. What is absent in a change stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<u64>,
    /// Sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<u64>,
}

impl Limits {
    /// Neither way.
    pub fn is_none(&self) -> bool {
        self.down.unwrap_or(0) == 0 && self.up.unwrap_or(0) == 0
    }
}

/// A file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// Its path in the torrent, parts joined by `/`.
    pub path: String,
    /// Its length.
    pub size: u64,
    /// Proven bytes; a piece over several files counts in each by its share.
    pub bytes_done: u64,
}
