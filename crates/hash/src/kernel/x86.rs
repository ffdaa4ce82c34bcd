//! Several streams in one loop with the SHA extensions of x86-64.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "a lane is an index into several arrays")]

use std::arch::x86_64::*;

use crate::lanes::Block;

/// Whether it was done: not if this processor lacks the instructions, or for a number of streams other than 2 to 4.
pub(super) fn sha1(states: &mut [[u32; 5]], runs: &[&[Block]]) -> bool {
    if !available() {
        return false;
    }
    // SAFETY: `available` has just found every target feature that the functions are compiled for.
    unsafe {
        if let (Ok(states), Ok(runs)) = (states.try_into(), runs.try_into()) {
            sha1_lanes::<2>(states, runs);
        } else if let (Ok(states), Ok(runs)) = (states.try_into(), runs.try_into()) {
            sha1_lanes::<3>(states, runs);
        } else if let (Ok(states), Ok(runs)) = (states.try_into(), runs.try_into()) {
            sha1_lanes::<4>(states, runs);
        } else {
            return false;
        }
    }
    true
}

/// Whether it was done: not if this processor lacks the instructions, or for a number of streams other than 2 to 4.
pub(super) fn sha256(states: &mut [[u32; 8]], runs: &[&[Block]]) -> bool {
    if !available() {
        return false;
    }
    // SAFETY: `available` has just found every target feature that the functions are compiled for.
    unsafe {
        if let (Ok(states), Ok(runs)) = (states.try_into(), runs.try_into()) {
            sha256_lanes::<2>(states, runs);
        } else if let (Ok(states), Ok(runs)) = (states.try_into(), runs.try_into()) {
            sha256_lanes::<3>(states, runs);
        } else if let (Ok(states), Ok(runs)) = (states.try_into(), runs.try_into()) {
            sha256_lanes::<4>(states, runs);
        } else {
            return false;
        }
    }
    true
}

/// One stream through both hashes. Whether it was done: not if this processor lacks the instructions.
pub(super) fn both(sha1: &mut [u32; 5], sha256: &mut [u32; 8], run: &[Block]) -> bool {
    if !available() {
        return false;
    }
    // SAFETY: `available` has just found every target feature that the function is compiled for.
    unsafe { both_at_once(sha1, sha256, run) };
    true
}

fn available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// One register for each stream.
type Wide<const N: usize> = [__m128i; N];

/// The shortest run: how far all streams go together.
fn together<const N: usize>(runs: &[&[Block]; N]) -> usize {
    runs.iter().map(|run| run.len()).min().unwrap_or(0)
}

/// The byte order in which SHA-1's instructions want four words.
#[inline]
#[target_feature(enable = "sse2")]
fn sha1_order() -> __m128i {
    _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f)
}

/// The byte order in which SHA-256's instructions want four words.
#[inline]
#[target_feature(enable = "sse2")]
fn sha256_order() -> __m128i {
    _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203)
}

/// Each run's block, in quarters.
#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn load<const N: usize>(runs: &[&[Block]; N], block: usize, order: __m128i) -> [Wide<N>; 4] {
    std::array::from_fn(|quarter| {
        std::array::from_fn(|lane| {
            let words: *const Block = &runs[lane][block];
            // SAFETY: `quarter` is 0 to 3, so the 16 bytes lie inside the block; the load needs no alignment.
            let words = unsafe { _mm_loadu_si128(words.cast::<__m128i>().add(quarter)) };
            _mm_shuffle_epi8(words, order)
        })
    })
}

/// SHA-1 under way: the five words as the instructions want them.
#[derive(Clone, Copy)]
struct Sha1Words<const N: usize> {
    abcd: Wide<N>,
    /// Not yet rotated, after the first rounds.
    e: Wide<N>,
}

impl<const N: usize> Sha1Words<N> {
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn load(states: &[[u32; 5]; N]) -> Self {
        Self {
            abcd: std::array::from_fn(|lane| {
                let [a, b, c, d, _] = states[lane].map(u32::cast_signed);
                _mm_set_epi32(a, b, c, d)
            }),
            e: std::array::from_fn(|lane| _mm_set_epi32(states[lane][4].cast_signed(), 0, 0, 0)),
        }
    }

    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn store(&self, states: &mut [[u32; 5]; N]) {
        for lane in 0..N {
            let (abcd, e) = (self.abcd[lane], self.e[lane]);
            let words = [
                _mm_extract_epi32::<3>(abcd),
                _mm_extract_epi32::<2>(abcd),
                _mm_extract_epi32::<1>(abcd),
                _mm_extract_epi32::<0>(abcd),
                _mm_extract_epi32::<3>(e),
            ];
            states[lane] = words.map(i32::cast_unsigned);
        }
    }

    /// The first four rounds, which take `e` as it stands.
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn first_rounds(&mut self, w: &Wide<N>) {
        for lane in 0..N {
            let now = _mm_add_epi32(self.e[lane], w[lane]);
            self.e[lane] = self.abcd[lane];
            self.abcd[lane] = _mm_sha1rnds4_epu32(self.abcd[lane], now, 0);
        }
    }

    /// Four rounds, which rotate `e` out of the words before.
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn rounds<const FUNCTION: i32>(&mut self, w: &Wide<N>) {
        for lane in 0..N {
            let now = _mm_sha1nexte_epu32(self.e[lane], w[lane]);
            self.e[lane] = self.abcd[lane];
            self.abcd[lane] = _mm_sha1rnds4_epu32(self.abcd[lane], now, FUNCTION);
        }
    }

    /// Four rounds with the next four words of the schedule, which take the place of the oldest.
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn next_rounds<const FUNCTION: i32>(&mut self, w: &mut Wide<N>, x: &Wide<N>, y: &Wide<N>, z: &Wide<N>) {
        for lane in 0..N {
            let mixed = _mm_xor_si128(_mm_sha1msg1_epu32(w[lane], x[lane]), y[lane]);
            w[lane] = _mm_sha1msg2_epu32(mixed, z[lane]);
        }
        self.rounds::<FUNCTION>(w);
    }

    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn add(&mut self, before: &Self) {
        for lane in 0..N {
            self.e[lane] = _mm_sha1nexte_epu32(self.e[lane], before.e[lane]);
            self.abcd[lane] = _mm_add_epi32(self.abcd[lane], before.abcd[lane]);
        }
    }
}

/// SHA-256 under way: the eight words as the instructions want them.
#[derive(Clone, Copy)]
struct Sha256Words<const N: usize> {
    abef: Wide<N>,
    cdgh: Wide<N>,
}

impl<const N: usize> Sha256Words<N> {
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn load(states: &[[u32; 8]; N]) -> Self {
        Self {
            abef: std::array::from_fn(|lane| {
                let [a, b, _, _, e, f, _, _] = states[lane].map(u32::cast_signed);
                _mm_set_epi32(a, b, e, f)
            }),
            cdgh: std::array::from_fn(|lane| {
                let [_, _, c, d, _, _, g, h] = states[lane].map(u32::cast_signed);
                _mm_set_epi32(c, d, g, h)
            }),
        }
    }

    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn store(&self, states: &mut [[u32; 8]; N]) {
        for lane in 0..N {
            let (abef, cdgh) = (self.abef[lane], self.cdgh[lane]);
            let words = [
                _mm_extract_epi32::<3>(abef),
                _mm_extract_epi32::<2>(abef),
                _mm_extract_epi32::<3>(cdgh),
                _mm_extract_epi32::<2>(cdgh),
                _mm_extract_epi32::<1>(abef),
                _mm_extract_epi32::<0>(abef),
                _mm_extract_epi32::<1>(cdgh),
                _mm_extract_epi32::<0>(cdgh),
            ];
            states[lane] = words.map(i32::cast_unsigned);
        }
    }

    /// Four rounds, those of the constants' row `four`.
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn rounds(&mut self, four: usize, w: &Wide<N>) {
        let [k0, k1, k2, k3] = CONSTANTS[four];
        let k = _mm_set_epi32(k3, k2, k1, k0);
        for lane in 0..N {
            let wk = _mm_add_epi32(w[lane], k);
            self.cdgh[lane] = _mm_sha256rnds2_epu32(self.cdgh[lane], self.abef[lane], wk);
            let wk = _mm_shuffle_epi32(wk, 0x0e);
            self.abef[lane] = _mm_sha256rnds2_epu32(self.abef[lane], self.cdgh[lane], wk);
        }
    }

    /// Four rounds with the next four words of the schedule, which take the place of the oldest.
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn next_rounds(&mut self, four: usize, w: &mut Wide<N>, x: &Wide<N>, y: &Wide<N>, z: &Wide<N>) {
        for lane in 0..N {
            let mixed = _mm_sha256msg1_epu32(w[lane], x[lane]);
            let mixed = _mm_add_epi32(mixed, _mm_alignr_epi8(z[lane], y[lane], 4));
            w[lane] = _mm_sha256msg2_epu32(mixed, z[lane]);
        }
        self.rounds(four, w);
    }

    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn add(&mut self, before: &Self) {
        for lane in 0..N {
            self.abef[lane] = _mm_add_epi32(self.abef[lane], before.abef[lane]);
            self.cdgh[lane] = _mm_add_epi32(self.cdgh[lane], before.cdgh[lane]);
        }
    }
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn sha1_lanes<const N: usize>(states: &mut [[u32; 5]; N], runs: &[&[Block]; N]) {
    let order = sha1_order();
    let mut words = Sha1Words::load(states);
    for block in 0..together(runs) {
        let before = words;
        let [mut w0, mut w1, mut w2, mut w3] = load(runs, block, order);
        words.first_rounds(&w0);
        words.rounds::<0>(&w1);
        words.rounds::<0>(&w2);
        words.rounds::<0>(&w3);
        words.next_rounds::<0>(&mut w0, &w1, &w2, &w3);
        words.next_rounds::<1>(&mut w1, &w2, &w3, &w0);
        words.next_rounds::<1>(&mut w2, &w3, &w0, &w1);
        words.next_rounds::<1>(&mut w3, &w0, &w1, &w2);
        words.next_rounds::<1>(&mut w0, &w1, &w2, &w3);
        words.next_rounds::<1>(&mut w1, &w2, &w3, &w0);
        words.next_rounds::<2>(&mut w2, &w3, &w0, &w1);
        words.next_rounds::<2>(&mut w3, &w0, &w1, &w2);
        words.next_rounds::<2>(&mut w0, &w1, &w2, &w3);
        words.next_rounds::<2>(&mut w1, &w2, &w3, &w0);
        words.next_rounds::<2>(&mut w2, &w3, &w0, &w1);
        words.next_rounds::<3>(&mut w3, &w0, &w1, &w2);
        words.next_rounds::<3>(&mut w0, &w1, &w2, &w3);
        words.next_rounds::<3>(&mut w1, &w2, &w3, &w0);
        words.next_rounds::<3>(&mut w2, &w3, &w0, &w1);
        words.next_rounds::<3>(&mut w3, &w0, &w1, &w2);
        words.add(&before);
    }
    words.store(states);
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn sha256_lanes<const N: usize>(states: &mut [[u32; 8]; N], runs: &[&[Block]; N]) {
    let order = sha256_order();
    let mut words = Sha256Words::load(states);
    for block in 0..together(runs) {
        let before = words;
        let [mut w0, mut w1, mut w2, mut w3] = load(runs, block, order);
        words.rounds(0, &w0);
        words.rounds(1, &w1);
        words.rounds(2, &w2);
        words.rounds(3, &w3);
        for four in [4, 8, 12] {
            words.next_rounds(four, &mut w0, &w1, &w2, &w3);
            words.next_rounds(four + 1, &mut w1, &w2, &w3, &w0);
            words.next_rounds(four + 2, &mut w2, &w3, &w0, &w1);
            words.next_rounds(four + 3, &mut w3, &w0, &w1, &w2);
        }
        words.add(&before);
    }
    words.store(states);
}

/// Five groups of four rounds of SHA-1 go with four of SHA-256, as it has 80 rounds and SHA-256 has 64.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn both_at_once(sha1: &mut [u32; 5], sha256: &mut [u32; 8], run: &[Block]) {
    let (sha1_order, sha256_order) = (sha1_order(), sha256_order());
    let (sha1, sha256) = (std::array::from_mut(sha1), std::array::from_mut(sha256));
    let mut short = Sha1Words::load(sha1);
    let mut long = Sha256Words::load(sha256);
    for block in 0..run.len() {
        let (short_before, long_before) = (short, long);
        let [mut v0, mut v1, mut v2, mut v3] = load(&[run], block, sha1_order);
        let [mut w0, mut w1, mut w2, mut w3] = load(&[run], block, sha256_order);
        long.rounds(0, &w0);
        short.first_rounds(&v0);
        long.rounds(1, &w1);
        short.rounds::<0>(&v1);
        long.rounds(2, &w2);
        short.rounds::<0>(&v2);
        long.rounds(3, &w3);
        short.rounds::<0>(&v3);
        short.next_rounds::<0>(&mut v0, &v1, &v2, &v3);
        long.next_rounds(4, &mut w0, &w1, &w2, &w3);
        short.next_rounds::<1>(&mut v1, &v2, &v3, &v0);
        long.next_rounds(5, &mut w1, &w2, &w3, &w0);
        short.next_rounds::<1>(&mut v2, &v3, &v0, &v1);
        long.next_rounds(6, &mut w2, &w3, &w0, &w1);
        short.next_rounds::<1>(&mut v3, &v0, &v1, &v2);
        long.next_rounds(7, &mut w3, &w0, &w1, &w2);
        short.next_rounds::<1>(&mut v0, &v1, &v2, &v3);
        short.next_rounds::<1>(&mut v1, &v2, &v3, &v0);
        long.next_rounds(8, &mut w0, &w1, &w2, &w3);
        short.next_rounds::<2>(&mut v2, &v3, &v0, &v1);
        long.next_rounds(9, &mut w1, &w2, &w3, &w0);
        short.next_rounds::<2>(&mut v3, &v0, &v1, &v2);
        long.next_rounds(10, &mut w2, &w3, &w0, &w1);
        short.next_rounds::<2>(&mut v0, &v1, &v2, &v3);
        long.next_rounds(11, &mut w3, &w0, &w1, &w2);
        short.next_rounds::<2>(&mut v1, &v2, &v3, &v0);
        short.next_rounds::<2>(&mut v2, &v3, &v0, &v1);
        long.next_rounds(12, &mut w0, &w1, &w2, &w3);
        short.next_rounds::<3>(&mut v3, &v0, &v1, &v2);
        long.next_rounds(13, &mut w1, &w2, &w3, &w0);
        short.next_rounds::<3>(&mut v0, &v1, &v2, &v3);
        long.next_rounds(14, &mut w2, &w3, &w0, &w1);
        short.next_rounds::<3>(&mut v1, &v2, &v3, &v0);
        long.next_rounds(15, &mut w3, &w0, &w1, &w2);
        short.next_rounds::<3>(&mut v2, &v3, &v0, &v1);
        short.next_rounds::<3>(&mut v3, &v0, &v1, &v2);
        short.add(&short_before);
        long.add(&long_before);
    }
    short.store(sha1);
    long.store(sha256);
}

/// The round constants (FIPS 180-4, 4.2.2), four rounds at a time.
const CONSTANTS: [[i32; 4]; 16] = {
    const K: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ];
    let mut fours = [[0; 4]; 16];
    let mut at = 0;
    while at < 64 {
        fours[at / 4][at % 4] = K[at].cast_signed();
        at += 1;
    }
    fours
};
