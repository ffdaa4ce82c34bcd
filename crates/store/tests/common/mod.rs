//! Blobs made from numbers, and their way into a store.

use std::os::unix::fs::FileExt as _;

use hash::{Digest, Sha256State};
use metainfo::PieceIndex;
use store::{Evidence, Partial, Store};

/// Short pieces, so that small blobs have several.
pub(crate) const PIECE: u32 = 128;

/// A blob's bytes: a pure function of its seed, between 0 and about 700 bytes.
pub(crate) fn bytes(seed: u8) -> Vec<u8> {
    let length = usize::from(seed) * 37 % 701;
    (0..length).map(|i| seed.wrapping_mul(31).wrapping_add((i % 251) as u8)).collect()
}

pub(crate) fn digest(seed: u8) -> Digest {
    Digest::of(&bytes(seed))
}

/// What proves each piece: the states, worked out one block at a time from what the hash crate gives.
pub(crate) fn evidence(seed: u8) -> Vec<Evidence> {
    let data = bytes(seed);
    let pieces: Vec<&[u8]> = data.chunks(PIECE as usize).collect();
    let mut hasher = hash::Sha256::new();
    let mut before = Sha256State::INITIAL;
    let mut all = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        hasher.update(piece);
        let after = if index + 1 == pieces.len() {
            Sha256State::from_bytes(*digest(seed).as_bytes())
        } else {
            hasher.state().expect("pieces are whole blocks")
        };
        all.push(Evidence::sha256(before, after));
        before = after;
    }
    all
}

/// Writes and marks one piece.
pub(crate) fn write_piece(partial: &Partial, seed: u8, piece: u32) {
    let data = bytes(seed);
    let offset = u64::from(piece) * u64::from(PIECE);
    let chunk = data.chunks(PIECE as usize).nth(piece as usize).expect("a piece of the blob");
    partial.file().write_all_at(chunk, offset).expect("writes");
    partial.mark_proven(PieceIndex(piece), evidence(seed)[piece as usize]).expect("marks");
}

/// The invariant: every visible blob is whole and what its name says, and the totals fit.
pub(crate) fn check_visible(store: &Store) {
    let (mut after, mut count, mut total) = (None, 0, 0);
    loop {
        let page = store.list(after.as_ref(), 3).expect("lists");
        let Some(last) = page.last() else { break };
        after = Some(last.digest);
        for row in page {
            let bytes = std::fs::read(store.blob_path(&row.digest)).expect("a visible blob has a file");
            assert_eq!(Digest::of(&bytes), row.digest, "a visible blob is not what its name says");
            assert_eq!(bytes.len() as u64, row.size);
            count += 1;
            total += if row.borrowed { 0 } else { row.size };
        }
    }
    assert_eq!(store.count_and_bytes(), (count, total));
}

/// Every piece that counts as proven is in the file.
pub(crate) fn check_partial(partial: &Partial, seed: u8) {
    let data = bytes(seed);
    for (piece, found) in partial.proven() {
        let want = data.chunks(PIECE as usize).nth(piece.as_usize()).expect("a piece of the blob");
        let mut have = vec![0; want.len()];
        let offset = partial.geometry().piece_offset(piece);
        partial.file().read_exact_at(&mut have, offset).expect("reads");
        if found == evidence(seed)[piece.as_usize()] {
            assert_eq!(have, want, "piece {piece} counts as proven and is not there");
        }
    }
}
