//! Peer wire messages: what two BitTorrent peers say to each other, as values and as bytes.
//!
//! Covers the peer protocol (BEP 3), the fast extension (BEP 6), the extension protocol (BEP 10), metadata
//! exchange (BEP 9) and Longshore's own negotiated large requests ([`ExtendedHandshake::max_request`]).
//!
//! It never does I/O and never holds a block's payload: [`Decoder`] hands out the *header* of a `piece`
//! message and leaves the payload to the caller, who can receive it straight into its place.
//!
//! Invariant: no input makes it panic or allocate more than the input's own size; what a decoder accepts,
//! the encoder writes back as the same bytes.

mod decode;
mod extended;
mod handshake;
mod message;
mod peer_id;

pub use decode::{DecodeError, Decoder, Frame};
pub use extended::{
    ExtendedError, ExtendedHandshake, METADATA_PIECE_LENGTH, MetadataMessage, metadata_piece_count,
};
pub use handshake::{HANDSHAKE_LENGTH, Handshake, HandshakeError, Reserved};
pub use message::{BlockRange, EXTENDED_HANDSHAKE_ID, Message, PIECE_HEADER_LENGTH};
pub use peer_id::PeerId;

/// The length of the blocks that every client serves: 16 KiB.
pub const STANDARD_REQUEST: u32 = metainfo::BLOCK_LENGTH;

/// The longest request that Longshore peers make of each other, and the longest that we serve: 1 MiB.
pub const LONGEST_REQUEST: u32 = 1024 * 1024;
