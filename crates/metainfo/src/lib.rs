//! Torrents: reading, writing, magnets, piece geometry, safe paths, creation.
//!
//! [`Torrent::parse`] reads what the field writes (BEP 3, 12, 19, 27, 47; hybrids of BEP 52 by their v1 part), and
//! makes every path in it safe. A blob's torrent is special: it is a pure function of the blob, and carries SHA-256
//! chaining states, so that its pieces prove the blob's digest; see [`BlobProof`] and [`BlobBuilder`].
//!
//! What it never does: touch the network, follow a path that a torrent names, or read the disk outside [`create`].
//!
//! The invariant: an [`Info`] fits its own geometry (as many hashes as pieces, files that cover the total without
//! gaps), and no path in it leads out of the folder it is joined to. Everything runs on the caller's thread but
//! [`create`], which starts hashing threads of its own and ends them before it returns.

mod blob;
pub mod create;
mod geometry;
mod hybrid;
mod info;
mod info_hash;
mod magnet;
mod path;
mod torrent;

pub use blob::{BlobBuilder, BlobError, BlobProof, BlobTorrent, PieceProof, blob_torrent};
pub use geometry::{BLOCK_LENGTH, BlockIndex, Geometry, PieceIndex, blob_piece_length};
pub use info::{FileEntry, FileKind, Info, MAX_FILES, MAX_PIECE_LENGTH, MAX_PIECES, Span};
pub use info_hash::{InfoHash, InfoHashError};
pub use magnet::{Magnet, MagnetError};
pub use torrent::{Torrent, TorrentError};
