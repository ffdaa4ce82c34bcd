//! A set of pieces, one bit each.

use bytes::Bytes;
use metainfo::PieceIndex;

/// A set of pieces out of a fixed number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PieceSet {
    words: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl PieceSet {
    /// No piece out of `pieces`.
    pub fn empty(pieces: u32) -> Self {
        Self { words: vec![0; pieces.div_ceil(64) as usize], pieces, count: 0 }
    }

    /// Every piece out of `pieces`.
    pub fn full(pieces: u32) -> Self {
        let mut words = vec![u64::MAX; pieces.div_ceil(64) as usize];
        if let (Some(last), spare @ 1..) = (words.last_mut(), pieces % 64) {
            *last = (1 << spare) - 1;
        }
        Self { words, pieces, count: pieces }
    }

    /// Reads the bits of a `bitfield` message (BEP 3). `None` when it is not as long as `pieces` asks, or when a
    /// bit past the last piece is set.
    pub fn from_wire(bits: &[u8], pieces: u32) -> Option<Self> {
        if bits.len() != pieces.div_ceil(8) as usize {
            return None;
        }
        let mut set = Self::empty(pieces);
        for (byte, at) in bits.iter().zip((0u32..).step_by(8)) {
            for bit in (0..8).filter(|bit| byte & (0x80 >> bit) != 0) {
                if at + bit >= pieces {
                    return None;
                }
                set.insert(PieceIndex(at + bit));
            }
        }
        Some(set)
    }

    /// The bits as a `bitfield` message carries them.
    pub fn to_wire(&self) -> Bytes {
        let mut out = vec![0u8; self.pieces.div_ceil(8) as usize];
        for piece in self.iter() {
            if let Some(byte) = out.get_mut(piece.as_usize() / 8) {
                *byte |= 0x80 >> (piece.0 % 8);
            }
        }
        out.into()
    }

    /// Whether the set holds `piece`.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.words.get(piece.as_usize() / 64).is_some_and(|word| word >> (piece.0 % 64) & 1 == 1)
    }

    /// Adds a piece; whether it is new. One past the end is no piece and never new.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let new = piece.0 < self.pieces && !self.contains(piece);
        if let (true, Some(word)) = (new, self.words.get_mut(piece.as_usize() / 64)) {
            *word |= 1 << (piece.0 % 64);
            self.count += 1;
        }
        new
    }

    /// Takes a piece out; whether it was in.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let present = self.contains(piece);
        if let (true, Some(word)) = (present, self.words.get_mut(piece.as_usize() / 64)) {
            *word &= !(1 << (piece.0 % 64));
            self.count -= 1;
        }
        present
    }

    /// Takes out every piece that is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// How many pieces the set holds.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many pieces there are in all.
    pub const fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Whether every piece is in.
    pub const fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// Whether no piece is in.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pieces in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words.iter().zip((0u32..).step_by(64)).flat_map(|(word, base)| {
            std::iter::successors(Some(*word).filter(|w| *w != 0), |w| Some(w & (w - 1)).filter(|w| *w != 0))
                .map(move |w| PieceIndex(base + w.trailing_zeros()))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn survives_the_wire(pieces in 1u32..300, picks in prop::collection::vec(any::<u32>(), 0..100)) {
            let mut set = PieceSet::empty(pieces);
            for pick in &picks {
                set.insert(PieceIndex(pick % pieces));
            }
            let again = PieceSet::from_wire(&set.to_wire(), pieces).expect("valid");
            prop_assert_eq!(&again, &set);
            prop_assert_eq!(set.iter().count() as u32, set.count());
            prop_assert_eq!(set.iter().filter(|p| set.contains(*p)).count() as u32, set.count());
            prop_assert_eq!(PieceSet::full(pieces).iter().count() as u32, pieces);
        }
    }

    proptest! {
        #[test]
        fn subtracting_leaves_what_the_other_has_not(a in any::<[u8; 17]>(), b in any::<[u8; 17]>()) {
            let set = |bits: &[u8]| PieceSet::from_wire(bits, 136).expect("as long as it must be");
            let (before, other) = (set(&a), set(&b));
            let mut after = before.clone();
            after.subtract(&other);
            for piece in (0..136).map(PieceIndex) {
                prop_assert_eq!(after.contains(piece), before.contains(piece) && !other.contains(piece));
            }
            prop_assert_eq!(after.count() as usize, after.iter().count());
        }
    }

    #[test]
    fn a_bit_past_the_end_is_refused() {
        assert!(PieceSet::from_wire(&[0b1110_0000], 3).is_some_and(|s| s.is_full()));
        assert!(PieceSet::from_wire(&[0b1111_0000], 3).is_none());
        assert!(PieceSet::from_wire(&[0, 0], 3).is_none());
        assert!(!PieceSet::empty(3).insert(PieceIndex(3)));
    }
}
