//! Ban by proof: who sent the wrong bytes of a piece that failed.
//!
//! A piece that one peer gave alone proves that peer wrong at once. Of a piece that several gave, the hash of every
//! block is kept with its giver; when a later copy is proven right, whoever gave a block that differs is guilty,
//! and nobody else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use metainfo::PieceIndex;

use crate::peer::PeerKey;

/// A block's SHA-1, only ever compared with another of the same block.
pub(crate) type BlockHash = [u8; 20];

/// How many hosts may each have failed alone with one piece before the torrent itself is doubted.
const DOUBT: usize = 3;
/// Most block hashes that are kept; beyond them, those of another piece are forgotten, and its givers go free until
/// it fails again.
const MOST_BLOCKS: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Blame {
    suspects: BTreeMap<PieceIndex, Suspicion>,
}

#[derive(Debug, Default)]
struct Suspicion {
    /// Block, hash and giver of each block of failed copies.
    blocks: BTreeSet<(u32, BlockHash, PeerKey)>,
    /// Hosts that failed with the whole piece; a host may connect as often as it likes.
    alone: BTreeSet<IpAddr>,
}

/// What a failed piece proves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// One peer gave all of it and is guilty.
    Proven(PeerKey),
    /// Several gave it; the next copies will tell.
    Suspected,
    /// So many failed alone that the piece list must be wrong.
    Unprovable,
}

impl Blame {
    /// Whether an earlier copy of the piece failed.
    pub(crate) fn is_suspect(&self, piece: PieceIndex) -> bool {
        self.suspects.contains_key(&piece)
    }

    /// A copy failed, whose block `i` came from `givers[i]` and hashes to `hashes[i]`.
    pub(crate) fn failed(
        &mut self,
        piece: PieceIndex,
        givers: &[PeerKey],
        hashes: &[BlockHash],
        host: impl Fn(PeerKey) -> Option<IpAddr>,
    ) -> Failure {
        self.make_room(piece, hashes.len());
        let suspicion = self.suspects.entry(piece).or_default();
        let first = givers.first().copied();
        match first.filter(|first| givers.iter().all(|giver| giver == first)) {
            Some(alone) => {
                if suspicion.alone.len() < DOUBT {
                    suspicion.alone.extend(host(alone));
                }
                if suspicion.alone.len() >= DOUBT { Failure::Unprovable } else { Failure::Proven(alone) }
            }
            None => {
                let blocks = (0u32..).zip(hashes).zip(givers);
                suspicion.blocks.extend(blocks.map(|((block, hash), giver)| (block, *hash, *giver)));
                Failure::Suspected
            }
        }
    }

    fn make_room(&mut self, piece: PieceIndex, blocks: usize) {
        let kept =
            |suspects: &BTreeMap<_, Suspicion>| suspects.values().map(|s| s.blocks.len()).sum::<usize>();
        while kept(&self.suspects) + blocks > MOST_BLOCKS {
            let other = self.suspects.iter_mut().filter(|(_, s)| !s.blocks.is_empty());
            let Some((_, other)) = other.min_by_key(|(of, _)| **of == piece) else { return };
            other.blocks.clear();
        }
    }

    /// A copy was proven right: the peers whose earlier blocks of it differ.
    pub(crate) fn proven(&mut self, piece: PieceIndex, hashes: &[BlockHash]) -> BTreeSet<PeerKey> {
        let Some(suspicion) = self.suspects.remove(&piece) else { return BTreeSet::new() };
        let differs =
            |block: u32, hash: &BlockHash| hashes.get(block as usize).is_some_and(|right| right != hash);
        suspicion
            .blocks
            .iter()
            .filter(|(block, hash, _)| differs(*block, hash))
            .map(|(.., giver)| *giver)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: PieceIndex = PieceIndex(3);
    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);
    const C: PeerKey = PeerKey(3);

    fn host(peer: PeerKey) -> Option<IpAddr> {
        Some([10, 0, 0, peer.0 as u8].into())
    }

    #[test]
    fn only_the_giver_of_the_differing_block_is_guilty() {
        let mut blame = Blame::default();
        assert_eq!(blame.failed(PIECE, &[A, B], &[[1; 20], [9; 20]], host), Failure::Suspected);
        assert!(blame.is_suspect(PIECE));
        assert_eq!(blame.proven(PIECE, &[[1; 20], [2; 20]]), [B].into());
        assert!(!blame.is_suspect(PIECE));
    }

    #[test]
    fn endless_failures_keep_no_endless_list() {
        let mut blame = Blame::default();
        for copy in 0..200u64 {
            for piece in (0..100).map(PieceIndex) {
                let givers: Vec<PeerKey> = (0..64).map(|block| PeerKey(copy + block % 2)).collect();
                blame.failed(piece, &givers, &[[copy as u8; 20]; 64], host);
            }
        }
        let kept: usize = blame.suspects.values().map(|suspicion| suspicion.blocks.len()).sum();
        assert!((MOST_BLOCKS / 2..=MOST_BLOCKS).contains(&kept), "{kept}");
    }

    #[test]
    fn one_host_under_many_names_makes_nothing_doubtful() {
        let mut blame = Blame::default();
        for peer in [A, B, C] {
            assert_eq!(blame.failed(PIECE, &[peer], &[], |_| host(A)), Failure::Proven(peer));
        }
    }

    #[test]
    fn whoever_failed_alone_is_proven_and_three_make_the_torrent_doubtful() {
        let mut blame = Blame::default();
        assert_eq!(blame.failed(PIECE, &[A, A], &[], host), Failure::Proven(A));
        assert_eq!(blame.failed(PIECE, &[B, B], &[], host), Failure::Proven(B));
        assert_eq!(blame.failed(PIECE, &[C, C], &[], host), Failure::Unprovable);
    }
}
