//! What the swarm tells its driver.

use metainfo::PieceIndex;

use crate::peer::PeerKey;

/// What the driver has to do or may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Every block of the piece is here: check it, write it, then call [`crate::Swarm::on_verified`].
    Verify {
        /// The piece.
        piece: PieceIndex,
        /// Whether the driver must hash every block of the piece by itself and say so with the verdict, because an
        /// earlier copy failed and its givers are to be told apart.
        hash_blocks: bool,
    },
    /// End the connection with this peer.
    Disconnect(PeerKey, PeerGone),
    /// Every piece is proven.
    Complete,
    /// Several peers, each alone, gave this piece and none was right: the torrent itself is not to be believed.
    Unprovable(PieceIndex),
}

/// Why a peer is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerGone {
    /// It broke the protocol.
    #[error("broke the protocol: {0}")]
    Protocol(&'static str),
    /// It gave bytes that were proven wrong; do not connect to it again.
    #[error("sent wrong bytes in piece {0}")]
    WrongBytes(PieceIndex),
    /// Both sides have everything.
    #[error("both sides are complete")]
    Redundant,
}

impl PeerGone {
    /// Whether the peer must not come back.
    pub const fn is_ban(self) -> bool {
        matches!(self, Self::WrongBytes(_))
    }
}

/// What to do with a block that has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockVerdict {
    /// Keep these bytes of the piece, counted from its start.
    Keep {
        /// The first byte to keep.
        begin: u32,
        /// How many.
        length: u32,
    },
    /// Nobody asked for it, or it is here already: drop the bytes.
    Drop,
}
