//! Torrents: reading, writing, magnets, piece geometry, safe paths, creation.

mod geometry;
mod info_hash;

pub use geometry::{BLOCK_LENGTH, BlockIndex, Geometry, PieceIndex, blob_piece_length};
pub use info_hash::{InfoHash, InfoHashError};
