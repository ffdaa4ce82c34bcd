//! A piece on its way: the state of each of its blocks.

use std::ops::Range;

use metainfo::BLOCK_LENGTH;

use crate::{peer::PeerKey, provenance::SourceId, time::Time};

/// One block of a piece that has been begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Block {
    /// Nobody has been asked.
    Free,
    /// This peer has been asked.
    Asked(PeerKey),
    /// Here, from this peer.
    Here(PeerKey),
}

impl Block {
    const fn is_here(self) -> bool {
        matches!(self, Self::Here(_))
    }
}

/// Neighbouring blocks that arrived together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) source: SourceId,
    pub(crate) at: Time,
}

/// A piece that has been begun.
#[derive(Debug)]
pub(crate) struct Active {
    blocks: Vec<Block>,
    /// Length of the piece in bytes.
    size: u32,
    free: u32,
    asked: u32,
    /// Below this no block is free.
    hint: u32,
    arrivals: Vec<Arrival>,
    /// Whether the piece is whole and with the driver.
    pub(crate) checking: bool,
}

impl Active {
    pub(crate) fn new(size: u32) -> Self {
        let count = size.div_ceil(BLOCK_LENGTH);
        Self {
            blocks: vec![Block::Free; count as usize],
            size,
            free: count,
            asked: 0,
            hint: 0,
            arrivals: Vec::new(),
            checking: false,
        }
    }

    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    pub(crate) const fn asked(&self) -> u32 {
        self.asked
    }

    pub(crate) fn is_untouched(&self) -> bool {
        self.free as usize == self.blocks.len()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.free == 0 && self.asked == 0
    }

    pub(crate) fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// The giver of each block, for a piece that is whole.
    pub(crate) fn givers(&self) -> Vec<PeerKey> {
        let giver = |block: &Block| if let Block::Here(peer) = block { Some(*peer) } else { None };
        self.blocks.iter().filter_map(giver).collect()
    }

    /// Bytes that lie in the given blocks.
    pub(crate) fn bytes(&self, blocks: &Range<u32>) -> u32 {
        let end = (u64::from(blocks.end) * u64::from(BLOCK_LENGTH)).min(u64::from(self.size)) as u32;
        end.saturating_sub(blocks.start * BLOCK_LENGTH)
    }

    /// Marks up to `most` neighbouring free blocks, the first there are, as asked of `peer`.
    pub(crate) fn ask_free(&mut self, peer: PeerKey, most: u32) -> Option<Range<u32>> {
        let count = self.blocks.len() as u32;
        let start = (self.hint..count).find(|b| self.at(*b) == Some(Block::Free))?;
        let end = (start..count.min(start + most.max(1))).find(|b| self.at(*b) != Some(Block::Free));
        let range = start..end.unwrap_or_else(|| count.min(start + most.max(1)));
        for block in range.clone() {
            self.set(block, Block::Asked(peer));
        }
        self.hint = range.end;
        Some(range)
    }

    /// Whether every one of `blocks` was asked of `peer`.
    pub(crate) fn is_asked_of(&self, mut blocks: Range<u32>, peer: PeerKey) -> bool {
        blocks.all(|block| self.at(block) == Some(Block::Asked(peer)))
    }

    /// Another is asked for `blocks` instead.
    pub(crate) fn reassign(&mut self, blocks: Range<u32>, to: PeerKey) {
        blocks.for_each(|block| self.set(block, Block::Asked(to)));
    }

    /// Takes back what was asked of `peer` among `blocks`.
    pub(crate) fn release(&mut self, blocks: Range<u32>, peer: PeerKey) {
        for block in blocks {
            if self.at(block) == Some(Block::Asked(peer)) {
                self.set(block, Block::Free);
                self.hint = self.hint.min(block);
            }
        }
    }

    /// Blocks have arrived. Returns the longest run of them that is new, now marked as here, and adds every other
    /// peer that had been asked for any of it to `also`.
    pub(crate) fn arrive(
        &mut self,
        blocks: Range<u32>,
        (from, source): (PeerKey, SourceId),
        at: Time,
        also: &mut Vec<PeerKey>,
    ) -> Option<Range<u32>> {
        let end = blocks.end.min(self.blocks.len() as u32);
        let mut best = 0..0;
        let mut start = blocks.start;
        for block in blocks.start..=end {
            if block == end || self.at(block).is_none_or(Block::is_here) {
                if block.saturating_sub(start) > best.len() as u32 {
                    best = start..block;
                }
                start = block + 1;
            }
        }
        if best.is_empty() {
            return None;
        }
        for block in best.clone() {
            if let Some(Block::Asked(by)) = self.at(block)
                && by != from
            {
                also.push(by);
            }
            self.set(block, Block::Here(from));
        }
        self.arrivals.push(Arrival { first: best.start, count: best.len() as u32, source, at });
        Some(best)
    }

    /// Whether every one of `blocks` is here.
    pub(crate) fn all_here(&self, mut blocks: Range<u32>) -> bool {
        blocks.all(|block| self.at(block).is_some_and(Block::is_here))
    }

    fn at(&self, block: u32) -> Option<Block> {
        self.blocks.get(block as usize).copied()
    }

    fn set(&mut self, block: u32, new: Block) {
        let Some(slot) = self.blocks.get_mut(block as usize) else { return };
        let old = std::mem::replace(slot, new);
        let class = |b: Block| (u32::from(b == Block::Free), u32::from(b != Block::Free && !b.is_here()));
        let ((free_old, asked_old), (free_new, asked_new)) = (class(old), class(new));
        self.free = self.free + free_new - free_old;
        self.asked = self.asked + asked_new - asked_old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[test]
    fn a_piece_is_shared_moved_and_made_whole() {
        let mut piece = Active::new(5 * BLOCK_LENGTH - 1);
        assert_eq!(piece.ask_free(A, 2), Some(0..2));
        assert_eq!(piece.ask_free(B, 100), Some(2..5));
        assert_eq!(piece.ask_free(A, 1), None);
        piece.reassign(2..4, A);
        assert!(piece.is_asked_of(2..4, A) && piece.is_asked_of(4..5, B) && !piece.is_asked_of(3..5, A));
        let mut also = Vec::new();
        assert_eq!(piece.arrive(0..2, (A, SourceId(0)), Time(1), &mut also), Some(0..2));
        assert!(also.is_empty());
        assert_eq!(piece.arrive(2..4, (B, SourceId(1)), Time(2), &mut also), Some(2..4));
        assert_eq!(also, [A, A]);
        assert_eq!(
            piece.arrive(2..5, (B, SourceId(1)), Time(3), &mut also),
            Some(4..5),
            "only the new block"
        );
        assert_eq!(piece.arrive(2..5, (B, SourceId(1)), Time(4), &mut also), None);
        assert!(piece.is_whole());
        assert_eq!(piece.givers(), [A, A, B, B, B]);
        assert_eq!(piece.bytes(&(4..5)), BLOCK_LENGTH - 1);
    }

    #[test]
    fn what_is_released_is_free_again() {
        let mut piece = Active::new(4 * BLOCK_LENGTH);
        piece.ask_free(A, 4);
        piece.reassign(0..1, B);
        piece.release(0..4, A);
        assert_eq!((piece.free(), piece.asked()), (3, 1));
        assert_eq!(piece.ask_free(B, 9), Some(1..4));
        piece.release(0..4, B);
        assert!(piece.is_untouched());
    }
}
