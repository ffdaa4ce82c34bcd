//! The 68 bytes that open every connection (BEP 3).

use metainfo::InfoHash;

use crate::PeerId;

/// The length of a handshake in bytes.
pub const HANDSHAKE_LENGTH: usize = 68;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// What a peer says first: what it can do, which torrent it wants, and its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// Capabilities.
    pub reserved: Reserved,
    /// The torrent.
    pub info_hash: InfoHash,
    /// The peer's name for itself.
    pub peer_id: PeerId,
}

impl Handshake {
    /// A handshake of ours: extension protocol and fast extension.
    pub const fn ours(info_hash: InfoHash, peer_id: PeerId) -> Self {
        Self { reserved: Reserved::OURS, info_hash, peer_id }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HANDSHAKE_LENGTH] {
        let mut out = [0; HANDSHAKE_LENGTH];
        out[..20].copy_from_slice(PROTOCOL);
        out[20..28].copy_from_slice(&self.reserved.0);
        out[28..48].copy_from_slice(self.info_hash.as_bytes());
        out[48..].copy_from_slice(self.peer_id.as_bytes());
        out
    }

    /// Reads a handshake.
    pub fn decode(bytes: &[u8; HANDSHAKE_LENGTH]) -> Result<Self, HandshakeError> {
        let Some((protocol, rest)) = bytes.split_first_chunk::<20>() else { return Err(HandshakeError) };
        let Some((reserved, rest)) = rest.split_first_chunk::<8>() else { return Err(HandshakeError) };
        let Some((info_hash, rest)) = rest.split_first_chunk::<20>() else { return Err(HandshakeError) };
        let Some((peer_id, _)) = rest.split_first_chunk::<20>() else { return Err(HandshakeError) };
        if protocol != PROTOCOL {
            return Err(HandshakeError);
        }
        Ok(Self {
            reserved: Reserved(*reserved),
            info_hash: InfoHash::from_bytes(*info_hash),
            peer_id: PeerId::from_bytes(*peer_id),
        })
    }
}

/// The eight reserved bytes, in which peers tell capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// What Longshore says: extension protocol (BEP 10) and fast extension (BEP 6).
    pub const OURS: Self = Self([0, 0, 0, 0, 0, 0x10, 0, 0x04]);

    /// Whether the peer speaks the extension protocol (BEP 10).
    pub const fn extended(self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// Whether the peer speaks the fast extension (BEP 6).
    pub const fn fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }
}

/// The bytes do not begin as the BitTorrent protocol does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a BitTorrent handshake")]
pub struct HandshakeError;
