//! The node's API: what it holds, whom it talks to, where every byte came from.
//!
//! On a unix socket and, if asked, on TCP with a token. JSON, except where said.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/health` | [`Health`]; 503 with the same body when not healthy |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/blobs?after={digest}&limit={n}` | [`BlobPage`] |
//! | `GET /v1/blobs/{digest}` | [`BlobStatus`], or 404 |
//! | `DELETE /v1/blobs/{digest}` | 204: it is forgotten, and comes again when it is asked for; or 404 |
//! | `GET /v1/torrents` | list of [`TorrentStatus`] |
//! | `GET /v1/torrents/{info_hash}/peers` | list of [`PeerStatus`], or 404 |
//! | `GET /v1/torrents/{info_hash}/provenance` | [`Provenance`], or 404 |
//! | `POST /v1/pull` with [`PullRequest`] | [`PullEvent`]s, one JSON object a line |
//! | `GET /v1/metrics` | Prometheus text |
//! | `GET /v1/settings` | the configuration in force, secrets hidden |
//! | `GET /v1/log` | the last lines of the log |
//!
//! Lengths are bytes, rates bytes per second, times seconds since 1970 unless a name ends in `_ms`.

use hash::Digest;
use metainfo::{InfoHash, PieceIndex};
use serde::{Deserialize, Serialize};

use crate::{Platforms, text, torrents::Limits};

/// The most blobs in one page.
pub const MAX_PAGE: u32 = 1000;

/// Whether the node can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// All of `problems` is empty.
    pub healthy: bool,
    /// What is wrong, in sentences.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// The node in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's id, as in leases.
    pub node: String,
    /// Its id among peers, 40 hex digits.
    #[serde(default)]
    pub peer_id: String,
    /// The program's version.
    pub version: String,
    /// Where it can be reached, and for what.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// The trackers of its configuration, and how it gets on with them.
    #[serde(default)]
    pub trackers: Vec<TrackerStatus>,
    /// Whether it finds peers in the local network too.
    #[serde(default)]
    pub local_discovery: bool,
    /// The folders from which it borrows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub borrow: Vec<LenderStatus>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Sums over all that it holds and moves.
    pub totals: Totals,
}

/// A folder of `[store] borrow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LenderStatus {
    /// The folder, as it is configured.
    pub folder: String,
    /// Why nothing can be borrowed there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One of the node's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `peer`, `mirror` or `api`.
    pub purpose: String,
    /// `host:port`, or the path of a unix socket.
    pub address: String,
}

/// How the node gets on with a tracker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerStatus {
    /// The announce address.
    pub url: String,
    /// When it last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer: Option<u64>,
    /// What went wrong last, if it has not answered since. Without it and without `last_answer` nothing was
    /// announced yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Since when it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<u64>,
}

/// Sums since the node started, and what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Whole blobs in the store.
    pub blobs: u64,
    /// The bytes of those that are not borrowed.
    pub blob_bytes: u64,
    /// The bytes of those that are borrowed where they lie, in the folders of `[store] borrow`.
    #[serde(skip_serializing_if = "is_zero")]
    pub borrowed_bytes: u64,
    /// Torrents that move or wait for data now.
    pub active_torrents: u64,
    /// Connected peers.
    pub peers: u64,
    /// Content bytes from peers.
    pub from_peers: u64,
    /// Content bytes from origins.
    pub from_origins: u64,
    /// Content bytes to peers.
    pub to_peers: u64,
    /// Content bytes to runtimes through the mirror.
    pub to_clients: u64,
    /// Bytes that failed a check and were thrown away.
    pub wasted: u64,
    /// Bytes of blobs that left the store to make room.
    #[serde(default)]
    pub evicted: u64,
}

/// Some blobs, in the order of their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPage {
    /// At most as many as asked for.
    pub blobs: Vec<BlobStatus>,
    /// Where the next page starts: its `after`. Absent on the last page.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub next: Option<Digest>,
}

/// How far a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobState {
    /// Whole, proven, and seeded.
    Complete,
    /// Some pieces are here; nothing moves now.
    Partial,
    /// Being fetched now.
    Fetching,
}

/// A blob on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStatus {
    /// Its digest.
    #[serde(with = "text")]
    pub digest: Digest,
    /// Its length; 0 while not known.
    pub size: u64,
    /// What the origin called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// How far it is.
    pub state: BlobState,
    /// Proven bytes.
    pub bytes_done: u64,
    /// How many pieces it has; 0 while not known.
    #[serde(default)]
    pub pieces: u32,
    /// The torrent that carries it, once known.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub info_hash: Option<InfoHash>,
    /// Where its bytes came from.
    #[serde(default)]
    pub sources: Vec<SourceBytes>,
    /// When fetching began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// When it became whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
}

/// What kind of source a byte came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A BitTorrent peer.
    Peer,
    /// The registry, repository or server where the content lives.
    Origin,
    /// It was on this machine.
    Store,
    /// The content directory, which has small blobs whole.
    Directory,
}

/// A source of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// Its kind.
    pub kind: SourceKind,
    /// A peer's or origin's address, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// A peer's id, 40 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<String>,
}

/// How much came from a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBytes {
    /// The source.
    #[serde(flatten)]
    pub source: Source,
    /// Content bytes.
    pub bytes: u64,
}

/// A torrent on this node: a blob's, or an ordinary one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TorrentStatus {
    /// Its info-hash.
    #[serde(with = "text")]
    pub info_hash: InfoHash,
    /// Its name: for a blob, the digest's hex digits.
    pub name: String,
    /// The blob that it carries.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Its length.
    pub size: u64,
    /// Proven bytes.
    pub bytes_done: u64,
    /// How many pieces it has.
    pub pieces: u32,
    /// Proven pieces.
    pub pieces_done: u32,
    /// Connected peers.
    pub peers: u32,
    /// Content bytes received, in all.
    pub down_bytes: u64,
    /// Content bytes sent, in all.
    pub up_bytes: u64,
    /// Received per second, now.
    pub down_rate: u64,
    /// Sent per second, now.
    pub up_rate: u64,
    /// What it does now.
    #[serde(default)]
    pub state: TorrentPhase,
    /// Where its files lie; absent for a blob's torrent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Its limits, where it has any of its own.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// What went wrong last, if anything stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a torrent does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TorrentPhase {
    /// A magnet link: its torrent is asked of peers.
    Metadata,
    /// What lies on disk is being hashed.
    Checking,
    /// It lacks pieces and gets them.
    #[default]
    Downloading,
    /// It is whole, and given to others.
    Seeding,
    /// Neither, by request.
    Stopped,
    /// Neither: `error` says why.
    Failed,
}

/// A connected peer of a torrent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// `host:port`.
    pub address: String,
    /// 40 hex digits.
    pub peer_id: String,
    /// What program it says it is.
    #[serde(default)]
    pub client: String,
    /// Whether it connected to us.
    pub incoming: bool,
    /// Content bytes received from it.
    pub down_bytes: u64,
    /// Content bytes sent to it.
    pub up_bytes: u64,
    /// Received per second, now.
    pub down_rate: u64,
    /// Sent per second, now.
    pub up_rate: u64,
    /// Choke and interest, both ways.
    pub flags: PeerFlags,
    /// The share of the torrent that it has, 0 to 1.
    pub progress: f64,
    /// Requests to it without an answer yet.
    #[serde(default)]
    pub requests: u32,
}

/// The four states of a connection (BEP 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the protocol has four")]
pub struct PeerFlags {
    /// We choke it.
    pub choking: bool,
    /// We want what it has.
    pub interested: bool,
    /// It chokes us.
    pub choked: bool,
    /// It wants what we have.
    pub wanted: bool,
}

/// Where each block of a torrent came from, as runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The torrent.
    #[serde(with = "text")]
    pub info_hash: InfoHash,
    /// Its length.
    pub size: u64,
    /// Bytes per block, but for the last of a piece.
    pub block_length: u32,
    /// Bytes per piece, but for the last.
    pub piece_length: u32,
    /// The sources that runs point to by their place here.
    pub sources: Vec<Source>,
    /// Neighbouring blocks of one source, in the order of arrival.
    pub runs: Vec<Run>,
}

/// Neighbouring blocks of one piece from one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The piece's index.
    pub piece: u32,
    /// The first block's index in the piece.
    pub block: u32,
    /// How many blocks.
    pub count: u32,
    /// Index into [`Provenance::sources`].
    pub source: u32,
    /// When the first arrived, in milliseconds since 1970.
    pub first_ms: u64,
    /// When the last arrived, in milliseconds since 1970.
    pub last_ms: u64,
}

impl Run {
    /// The piece's index, as a type.
    pub const fn piece(&self) -> PieceIndex {
        PieceIndex(self.piece)
    }
}

/// Asks the node to fetch an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// An OCI reference: `registry/repository:tag` or `…@sha256:…`.
    pub reference: String,
    /// For which platforms; the node's own where absent.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platforms>,
}

/// A line of a pull's progress. The last is `done` or `failed`; a stream that ends otherwise was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum PullEvent {
    /// The reference is resolved.
    Resolved {
        /// The manifest or index.
        #[serde(with = "text")]
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A blob belongs to the image.
    Blob {
        /// Its digest.
        #[serde(with = "text")]
        digest: Digest,
        /// Its length.
        size: u64,
        /// Its media type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
    },
    /// How far a blob is.
    Progress {
        /// The blob.
        #[serde(with = "text")]
        digest: Digest,
        /// Proven bytes.
        bytes_done: u64,
        /// Of these, from peers.
        from_peers: u64,
        /// Of these, from the origin.
        from_origin: u64,
        /// Connected peers.
        peers: u32,
    },
    /// A blob is whole.
    Complete {
        /// The blob.
        #[serde(with = "text")]
        digest: Digest,
        /// Where its bytes came from.
        sources: Vec<SourceBytes>,
    },
    /// The image is here.
    Done {
        /// The manifest or index.
        #[serde(with = "text")]
        digest: Digest,
        /// Its bytes, all blobs together.
        bytes: u64,
        /// Of these, fetched from peers in this pull.
        from_peers: u64,
        /// Of these, fetched from the origin in this pull.
        from_origin: u64,
    },
    /// The pull failed.
    Failed {
        /// What failed and what to do.
        error: String,
    },
    /// Nothing new; sent so that the reader knows that the node is alive.
    Alive,
}

impl PullEvent {
    /// Whether nothing comes after it.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed { .. })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_flat_and_optional_fields_stay_out() {
        let bytes = SourceBytes {
            source: Source { kind: SourceKind::Origin, peer: Some("r.example:443".into()), peer_id: None },
            bytes: 7,
        };
        let json = serde_json::to_value(&bytes).expect("serialises");
        assert_eq!(json, serde_json::json!({"kind": "origin", "peer": "r.example:443", "bytes": 7}));
        assert_eq!(serde_json::from_value::<SourceBytes>(json).expect("parses"), bytes);
    }

    #[test]
    fn events_are_told_apart_by_name() {
        let alive: PullEvent = serde_json::from_str(r#"{"event":"alive"}"#).expect("parses");
        assert!(!alive.is_last());
        let failed: PullEvent = serde_json::from_str(r#"{"event":"failed","error":"e"}"#).expect("parses");
        assert!(failed.is_last());
        assert!(serde_json::from_str::<PullEvent>(r#"{"event":"other"}"#).is_err());
    }

    #[test]
    fn a_blob_of_unknown_torrent_has_no_info_hash() {
        let json = r#"{"digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "size":3,"state":"partial","bytes_done":0}"#;
        let status: BlobStatus = serde_json::from_str(json).expect("parses");
        assert_eq!((status.info_hash, status.state), (None, BlobState::Partial));
        assert!(!serde_json::to_string(&status).expect("serialises").contains("info_hash"));
    }
}
