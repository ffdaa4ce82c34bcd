//! The compression functions, for one to four streams at once.
//!
//! On x86-64 with the SHA extensions, several streams share one loop. Everywhere else (and for a single stream)
//! the `sha1` and `sha2` crates do the work, which know the extensions of aarch64 too.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::lanes::Block;

/// How many SHA-1 streams are fastest in one loop.
pub(crate) const SHA1_LANES: usize = 4;
/// How many SHA-256 streams are fastest in one loop.
pub(crate) const SHA256_LANES: usize = 4;

/// Takes each SHA-1 state through its run of blocks. At most four, all runs equally long.
pub(crate) fn sha1(states: &mut [[u32; 5]], runs: &[&[Block]]) {
    #[cfg(target_arch = "x86_64")]
    if states.len() > 1 && x86::sha1(states, runs) {
        return;
    }
    portable_sha1(states, runs);
}

/// Takes each SHA-256 state through its run of blocks. At most four, all runs equally long.
pub(crate) fn sha256(states: &mut [[u32; 8]], runs: &[&[Block]]) {
    #[cfg(target_arch = "x86_64")]
    if states.len() > 1 && x86::sha256(states, runs) {
        return;
    }
    portable_sha256(states, runs);
}

/// Takes one stream of blocks through both hashes.
pub(crate) fn both(sha1: &mut [u32; 5], sha256: &mut [u32; 8], run: &[Block]) {
    #[cfg(target_arch = "x86_64")]
    if x86::both(sha1, sha256, run) {
        return;
    }
    portable_sha1(std::slice::from_mut(sha1), &[run]);
    portable_sha256(std::slice::from_mut(sha256), &[run]);
}

fn portable_sha1(states: &mut [[u32; 5]], runs: &[&[Block]]) {
    for (state, run) in states.iter_mut().zip(runs) {
        sha1::block_api::compress(state, run);
    }
}

fn portable_sha256(states: &mut [[u32; 8]], runs: &[&[Block]]) {
    for (state, run) in states.iter_mut().zip(runs) {
        sha2::block_api::compress256(state, run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// One to four runs of up to five blocks, all equally long.
    fn runs() -> impl Strategy<Value = Vec<Vec<Block>>> {
        let block = vec(any::<u8>(), 64).prop_map(|bytes| Block::try_from(bytes).expect("64 bytes"));
        (1usize..=4, 0usize..=5).prop_flat_map(move |(lanes, blocks)| vec(vec(block.clone(), blocks), lanes))
    }

    proptest! {
        #[test]
        fn lanes_and_the_portable_path_agree(
            runs in runs(),
            sha1_states: [[u32; 5]; 4],
            sha256_states: [[u32; 8]; 4],
        ) {
            let runs: Vec<&[Block]> = runs.iter().map(Vec::as_slice).collect();

            let (mut lanes, mut portable) = (sha1_states, sha1_states);
            sha1(&mut lanes[..runs.len()], &runs);
            portable_sha1(&mut portable[..runs.len()], &runs);
            prop_assert_eq!(lanes, portable);

            let (mut lanes, mut portable) = (sha256_states, sha256_states);
            sha256(&mut lanes[..runs.len()], &runs);
            portable_sha256(&mut portable[..runs.len()], &runs);
            prop_assert_eq!(lanes, portable);

            let (mut short, mut long) = (sha1_states[0], sha256_states[0]);
            both(&mut short, &mut long, runs[0]);
            let (mut short_alone, mut long_alone) = ([sha1_states[0]], [sha256_states[0]]);
            portable_sha1(&mut short_alone, &runs[..1]);
            portable_sha256(&mut long_alone, &runs[..1]);
            prop_assert_eq!((short, long), (short_alone[0], long_alone[0]));
        }
    }
}
