//! Numbers that nobody outside knows, and hashes by them, so that nobody can aim at one shard, bucket or record.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    places: [u64; 4],
    names: [u64; 4],
}

impl Secret {
    /// As secret as the seeds are: one for places in this store, and one for the names of peers, which trackers of a
    /// cluster share.
    pub(super) const fn new(places: u64, names: u64) -> Self {
        Self { places: numbers(places), names: numbers(names) }
    }
    /// Of an info-hash. Anybody may make up as many of these as they like, so this is SipHash.
    pub(super) fn torrent(&self, info_hash: &[u8; 20]) -> u64 {
        let [a, b, ..] = self.places;
        let mut hasher = SipHasher13::new_with_keys(a, b);
        hasher.write(info_hash);
        hasher.finish()
    }

    /// Of an address in wire form. Addresses are not to be had at will, so a multiplication or three will do.
    pub(super) fn address(&self, wire: &[u8]) -> u64 {
        let [_, _, a, b] = self.places;
        let (words, rest) = wire.as_chunks::<8>();
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let hash = words.iter().fold(a, |hash, word| fold(hash ^ u64::from_le_bytes(*word), b | 1));
        fold(hash ^ u64::from_le_bytes(last), a | 1)
    }

    /// Of a key or the head of a peer id.
    pub(super) fn name(&self, name: u128) -> u64 {
        let [a, b, c, d] = self.names;
        fold(fold(name as u64 ^ b, c | 1) ^ (name >> 64) as u64 ^ d, a | 1)
    }
}

/// Numbers from a seed.
const fn numbers(seed: u64) -> [u64; 4] {
    // SplitMix64, by Steele, Lea and Flood.
    let (mut numbers, mut state, mut n) = ([0; 4], seed, 0);
    while n < 4 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = state;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[allow(clippy::indexing_slicing, reason = "n is less than 4")]
        {
            numbers[n] = number ^ (number >> 31);
        }
        n += 1;
    }
    numbers
}

/// A product's halves on one another: every bit of the one factor that is known moves half of the result.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn neighbours_are_spread() {
        let secret = Secret::new(1, 3);
        let hashes: BTreeSet<u64> = (0u16..10_000)
            .map(|n| secret.address(&[&[10, 0, 0, 1][..], &n.to_be_bytes()].concat()))
            .collect();
        assert_eq!(hashes.len(), 10_000);
        for shift in [0, 48, 57] {
            let mut buckets = [0u32; 64];
            for hash in &hashes {
                buckets[(hash >> shift) as usize % 64] += 1;
            }
            let (least, most) = (buckets.iter().min(), buckets.iter().max());
            assert!(least > Some(&90) && most < Some(&230), "{shift}: {least:?} to {most:?}");
        }
        assert_ne!(secret.address(&[1; 18]), Secret::new(2, 3).address(&[1; 18]));
        assert_ne!(secret.name(1), secret.name(2));
        assert_ne!(secret.name(1), Secret::new(1, 4).name(1));
        assert_eq!(secret.name(1), Secret::new(2, 3).name(1), "as another tracker of the cluster has it");
    }
}
