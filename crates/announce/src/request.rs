//! What a peer asks a tracker.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use metainfo::InfoHash;
use wire::PeerId;

/// [`AnnounceRequest::left`] of a peer that does not know how long the content is, as with a magnet link.
pub const LEFT_UNKNOWN: u64 = i64::MAX as u64;

/// The most info-hashes in one scrape request that is read.
pub const MAX_SCRAPE: usize = 200;

/// A peer tells a tracker how it stands, and asks for others (BEP 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnnounceRequest {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The peer's name for itself.
    pub peer_id: PeerId,
    /// Where it listens; 0 if it does not, and then it must not be handed out.
    pub port: u16,
    /// Bytes sent since `started`.
    pub uploaded: u64,
    /// Bytes received since `started`.
    pub downloaded: u64,
    /// Bytes still missing; [`LEFT_UNKNOWN`] if the peer cannot tell.
    pub left: u64,
    /// What happened.
    pub event: Event,
    /// How many peers it would like; `None` for what the tracker thinks right.
    pub numwant: Option<u32>,
    /// Whether it wants peers in compact form (BEP 23); `None` if it did not say, which today means yes.
    pub compact: Option<bool>,
    /// In dictionary form, leave peer ids out.
    pub no_peer_id: bool,
    /// A secret by which the tracker knows the peer again when its address has changed.
    pub key: Option<Key>,
    /// The address it says it has. Not to be believed from strangers.
    pub ip: Option<IpAddr>,
    /// Its other address, where it announces over IPv6 (BEP 7). Not to be believed from strangers.
    pub ipv4: Option<Ipv4Addr>,
    /// Its other address, where it announces over IPv4 (BEP 7). Not to be believed from strangers.
    pub ipv6: Option<Ipv6Addr>,
    /// What the tracker called itself in an earlier reply.
    pub tracker_id: Option<Vec<u8>>,
}

impl AnnounceRequest {
    /// A regular announce of a peer that has nothing yet and asks for nothing special.
    pub const fn new(info_hash: InfoHash, peer_id: PeerId, port: u16) -> Self {
        Self {
            info_hash,
            peer_id,
            port,
            uploaded: 0,
            downloaded: 0,
            left: LEFT_UNKNOWN,
            event: Event::None,
            numwant: None,
            compact: None,
            no_peer_id: false,
            key: None,
            ip: None,
            ipv4: None,
            ipv6: None,
            tracker_id: None,
        }
    }
}

/// Why a peer announces (BEP 3, 21).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Event {
    /// The first announce.
    Started,
    /// The content is complete, and was not at `Started`.
    Completed,
    /// The last announce.
    Stopped,
    /// It has all that it wants, which is not all there is (BEP 21).
    Paused,
    /// The regular one in between.
    #[default]
    None,
}

/// An announce's `key`: up to 32 bytes that only the peer and the tracker know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    bytes: [u8; 32],
    length: u8,
}

impl Key {
    /// `None` if it is empty or longer than 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        let length = u8::try_from(key.len()).ok().filter(|&length| length > 0)?;
        Some(Self { bytes, length })
    }

    /// As it was sent.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The number that it is in hexadecimal, where it is one of at most 32 bits: so clients write over HTTP what they
    /// send as a number over UDP.
    pub fn as_number(&self) -> Option<u32> {
        let text = std::str::from_utf8(self.as_bytes()).ok()?;
        (text.len() <= 8 && !text.starts_with('+')).then(|| u32::from_str_radix(text, 16).ok())?
    }
}

impl fmt::Debug for Key {
    /// Without the key, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Asks a tracker for numbers only (BEP 48).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrapeRequest {
    /// The torrents; none means all that the tracker has, which few trackers tell.
    pub info_hashes: Vec<InfoHash>,
}
