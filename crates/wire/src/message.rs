//! Messages as values, and their bytes.

use bytes::{BufMut, Bytes, BytesMut};
use metainfo::PieceIndex;

/// The bytes of a `piece` message before its payload: length, id, piece, begin.
pub const PIECE_HEADER_LENGTH: usize = 13;

/// The extended message id of the extension handshake itself (BEP 10).
pub const EXTENDED_HANDSHAKE_ID: u8 = 0;

/// A run of bytes inside a piece: what `request`, `piece`, `cancel` and `reject` name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BlockRange {
    /// The piece.
    pub piece: PieceIndex,
    /// The first byte, counted from the piece's start.
    pub begin: u32,
    /// How many bytes.
    pub length: u32,
}

impl BlockRange {
    /// The byte after the last, counted from the piece's start.
    pub const fn end(&self) -> u64 {
        self.begin as u64 + self.length as u64
    }

    /// The 13 bytes before the payload of the `piece` message that carries this range.
    pub fn piece_header(&self) -> [u8; PIECE_HEADER_LENGTH] {
        let mut out = [0; PIECE_HEADER_LENGTH];
        out[..4].copy_from_slice(&(self.length.saturating_add(9)).to_be_bytes());
        out[4] = id::PIECE;
        out[5..9].copy_from_slice(&self.piece.0.to_be_bytes());
        out[9..].copy_from_slice(&self.begin.to_be_bytes());
        out
    }
}

/// Everything that peers say after the handshake, but for `piece`, whose payload never passes through here.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Message {
    /// Nothing; keeps the connection open.
    KeepAlive,
    /// Requests are not served for now.
    Choke,
    /// Requests are served.
    Unchoke,
    /// The sender wants something of the receiver's.
    Interested,
    /// The sender wants nothing of the receiver's.
    NotInterested,
    /// The sender has proven a piece.
    Have(PieceIndex),
    /// Which pieces the sender has: one bit each, the first piece in the highest bit of the first byte.
    Bitfield(Bytes),
    /// The sender asks for a range.
    Request(BlockRange),
    /// The sender no longer wants a range.
    Cancel(BlockRange),
    /// The sender's DHT port (BEP 5).
    Port(u16),
    /// The receiver might ask for this piece: it is cheap to serve (BEP 6).
    Suggest(PieceIndex),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// A request will not be served (BEP 6).
    Reject(BlockRange),
    /// The receiver may ask for this piece even while choked (BEP 6).
    AllowedFast(PieceIndex),
    /// A message of an extension, by the number the receiver gave it (BEP 10).
    Extended {
        /// The number; 0 is the extension handshake.
        id: u8,
        /// A bencoded dictionary, and for some extensions data after it.
        payload: Bytes,
    },
    /// A message that this version does not know; it is passed over.
    Unknown(u8),
}

/// Message numbers (BEP 3, 5, 6, 10).
pub(crate) mod id {
    pub(crate) const CHOKE: u8 = 0;
    pub(crate) const UNCHOKE: u8 = 1;
    pub(crate) const INTERESTED: u8 = 2;
    pub(crate) const NOT_INTERESTED: u8 = 3;
    pub(crate) const HAVE: u8 = 4;
    pub(crate) const BITFIELD: u8 = 5;
    pub(crate) const REQUEST: u8 = 6;
    pub(crate) const PIECE: u8 = 7;
    pub(crate) const CANCEL: u8 = 8;
    pub(crate) const PORT: u8 = 9;
    pub(crate) const SUGGEST: u8 = 13;
    pub(crate) const HAVE_ALL: u8 = 14;
    pub(crate) const HAVE_NONE: u8 = 15;
    pub(crate) const REJECT: u8 = 16;
    pub(crate) const ALLOWED_FAST: u8 = 17;
    pub(crate) const EXTENDED: u8 = 20;
}

impl Message {
    /// Appends the message's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => bare(out, id::CHOKE),
            Self::Unchoke => bare(out, id::UNCHOKE),
            Self::Interested => bare(out, id::INTERESTED),
            Self::NotInterested => bare(out, id::NOT_INTERESTED),
            Self::HaveAll => bare(out, id::HAVE_ALL),
            Self::HaveNone => bare(out, id::HAVE_NONE),
            Self::Unknown(number) => bare(out, *number),
            Self::Have(piece) => number(out, id::HAVE, *piece),
            Self::Suggest(piece) => number(out, id::SUGGEST, *piece),
            Self::AllowedFast(piece) => number(out, id::ALLOWED_FAST, *piece),
            Self::Request(range) => span(out, id::REQUEST, range),
            Self::Cancel(range) => span(out, id::CANCEL, range),
            Self::Reject(range) => span(out, id::REJECT, range),
            Self::Port(port) => {
                header(out, 3, id::PORT);
                out.put_u16(*port);
            }
            Self::Bitfield(bits) => {
                header(out, 1 + bits.len(), id::BITFIELD);
                out.put_slice(bits);
            }
            Self::Extended { id: number, payload } => {
                header(out, 2 + payload.len(), id::EXTENDED);
                out.put_u8(*number);
                out.put_slice(payload);
            }
        }
    }
}

/// Length and id. Our own payloads are far below 4 GiB; one that were not would be cut off by the peer.
fn header(out: &mut BytesMut, length: usize, id: u8) {
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u8(id);
}

fn bare(out: &mut BytesMut, id: u8) {
    header(out, 1, id);
}

fn number(out: &mut BytesMut, id: u8, piece: PieceIndex) {
    header(out, 5, id);
    out.put_u32(piece.0);
}

fn span(out: &mut BytesMut, id: u8, range: &BlockRange) {
    header(out, 13, id);
    out.put_u32(range.piece.0);
    out.put_u32(range.begin);
    out.put_u32(range.length);
}
