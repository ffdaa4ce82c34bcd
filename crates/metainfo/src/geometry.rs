//! Pieces and blocks as numbers: how many, how long, where.

use std::fmt;

/// The length of a block, the unit in which peers ask for data: 16 KiB (BEP 3).
pub const BLOCK_LENGTH: u32 = 16 * 1024;

/// A piece's place in its torrent, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PieceIndex(pub u32);

impl PieceIndex {
    /// As an index into a table of pieces.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A block's place in its piece, from 0: block `b` starts `b * BLOCK_LENGTH` bytes into the piece.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlockIndex(pub u32);

/// How a torrent's bytes are cut into pieces. Every piece but the last has the same length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    total: u64,
    piece_length: u32,
}

impl Geometry {
    /// `None` where `piece_length` is 0 or there would be more than `i32::MAX` pieces.
    pub fn new(total: u64, piece_length: u32) -> Option<Self> {
        let pieces = total.div_ceil(u64::from((piece_length > 0).then_some(piece_length)?));
        (pieces <= i32::MAX as u64).then_some(Self { total, piece_length })
    }

    /// All bytes of the torrent.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The length in bytes of every piece but the last.
    pub const fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// How many pieces there are.
    pub const fn piece_count(&self) -> u32 {
        self.total.div_ceil(self.piece_length as u64) as u32
    }

    /// All pieces in order.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// Where a piece starts, in bytes from the torrent's first.
    pub const fn piece_offset(&self, piece: PieceIndex) -> u64 {
        piece.0 as u64 * self.piece_length as u64
    }

    /// A piece's length in bytes; 0 for one past the end.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let rest = self.total.saturating_sub(self.piece_offset(piece));
        rest.min(u64::from(self.piece_length)) as u32
    }

    /// How many blocks a piece has; 0 for one past the end.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_size(piece).div_ceil(BLOCK_LENGTH)
    }

    /// A block's length in bytes; 0 for one past the end.
    pub fn block_size(&self, piece: PieceIndex, block: BlockIndex) -> u32 {
        let start = u64::from(block.0) * u64::from(BLOCK_LENGTH);
        u64::from(self.piece_size(piece)).saturating_sub(start).min(u64::from(BLOCK_LENGTH)) as u32
    }

    /// The piece that holds the byte at `offset`, if there is one.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        (offset < self.total).then(|| PieceIndex((offset / u64::from(self.piece_length)) as u32))
    }

    /// Whether `length` bytes from `begin` lie inside `piece`, and are at least one.
    pub fn contains(&self, piece: PieceIndex, begin: u32, length: u32) -> bool {
        length > 0 && u64::from(begin) + u64::from(length) <= u64::from(self.piece_size(piece))
    }
}

/// The piece length that Longshore gives a blob: a pure function of its size, so that every node
/// makes the same torrent. 256 KiB up to 256 MiB, then about a thousand pieces, at most 16 MiB each.
pub fn blob_piece_length(size: u64) -> u32 {
    const LEAST: u64 = 256 * 1024;
    const MOST: u64 = 16 * 1024 * 1024;
    (size / 1024).next_power_of_two().clamp(LEAST, MOST) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_are_short() {
        let g = Geometry::new(100_000, 65_536).expect("valid");
        assert_eq!(g.piece_count(), 2);
        assert_eq!(g.piece_size(PieceIndex(0)), 65_536);
        assert_eq!(g.piece_size(PieceIndex(1)), 34_464);
        assert_eq!(g.piece_size(PieceIndex(2)), 0);
        assert_eq!(g.block_count(PieceIndex(1)), 3);
        assert_eq!(g.block_size(PieceIndex(1), BlockIndex(2)), 34_464 - 2 * 16_384);
        assert_eq!(g.block_size(PieceIndex(1), BlockIndex(3)), 0);
        assert_eq!(g.piece_at(65_535), Some(PieceIndex(0)));
        assert_eq!(g.piece_at(100_000), None);
        assert!(g.contains(PieceIndex(1), 34_000, 464));
        assert!(!g.contains(PieceIndex(1), 34_000, 465));
        assert!(!g.contains(PieceIndex(1), u32::MAX, u32::MAX));
        assert_eq!(Geometry::new(5, 0), None);
        assert_eq!(Geometry::new(u64::MAX, 1), None);
        assert_eq!(Geometry::new(0, 1).map(|g| g.piece_count()), Some(0));
    }

    #[test]
    fn blob_pieces_grow_with_the_blob() {
        assert_eq!(blob_piece_length(0), 256 << 10);
        assert_eq!(blob_piece_length(256 << 20), 256 << 10);
        assert_eq!(blob_piece_length(1 << 30), 1 << 20);
        assert_eq!(blob_piece_length(1 << 40), 16 << 20);
    }
}
