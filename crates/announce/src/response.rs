//! What a tracker answers.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use metainfo::InfoHash;
use wire::PeerId;

/// The most peers that are read from one reply; more are ignored.
pub const MAX_PEERS: usize = 4096;

/// A tracker's answer: what was asked for, or why not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply<T> {
    /// What was asked for.
    Ok(T),
    /// A refusal.
    Failure {
        /// `failure reason`, for people.
        reason: String,
        /// When to ask again (BEP 31).
        retry_in: Option<RetryIn>,
    },
}

/// When a refused peer should ask again (BEP 31).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryIn {
    /// After so long; whole minutes on the wire.
    After(Duration),
    /// Not at all.
    Never,
}

/// A tracker's answer to an announce (BEP 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnnounceResponse {
    /// How long to wait before the next regular announce; whole seconds on the wire.
    pub interval: Duration,
    /// How long to wait at least before any announce.
    pub min_interval: Option<Duration>,
    /// Peers that have everything.
    pub complete: Option<u32>,
    /// All other peers.
    pub incomplete: Option<u32>,
    /// How often the content was completed.
    pub downloaded: Option<u32>,
    /// Other peers.
    pub peers: Vec<Peer>,
    /// What to call the tracker in later announces.
    pub tracker_id: Option<Vec<u8>>,
    /// Something that a person should see.
    pub warning: Option<String>,
    /// The asker's address, as the tracker saw it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

impl AnnounceResponse {
    /// An answer without peers or numbers.
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            min_interval: None,
            complete: None,
            incomplete: None,
            downloaded: None,
            peers: Vec::new(),
            tracker_id: None,
            warning: None,
            external_ip: None,
        }
    }
}

/// A peer, as a tracker hands it out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Peer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its name for itself, which only the dictionary form tells.
    pub id: Option<PeerId>,
}

/// A tracker's answer to a scrape (BEP 48).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrapeResponse {
    /// The torrents that the tracker knows.
    pub files: Vec<(InfoHash, ScrapeStats)>,
    /// `flags`, `min_request_interval`: how long to wait before the next scrape.
    pub min_request_interval: Option<Duration>,
}

/// One torrent's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrapeStats {
    /// Peers that have everything.
    pub complete: u32,
    /// All other peers.
    pub incomplete: u32,
    /// How often the content was completed.
    pub downloaded: u32,
    /// Those of `incomplete` that want more, the others being partial seeds (BEP 21); `None` where it is not said.
    pub downloaders: Option<u32>,
}
