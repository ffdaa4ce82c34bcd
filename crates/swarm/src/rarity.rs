//! Wanted pieces in order of how few leechers have them.
//!
//! A permutation of the pieces nobody has begun, cut into buckets by availability; a `have` moves one piece over
//! one border, so keeping the order costs the same however many pieces there are. Seeds have every piece alike and
//! do not count.

use metainfo::PieceIndex;
use rand::{Rng, RngExt};

const NOWHERE: u32 = u32::MAX;

/// The order, and the availability of every piece, wanted or not.
#[derive(Debug)]
pub(crate) struct Rarity {
    /// How many connected leechers have each piece.
    availability: Vec<u32>,
    /// Wanted pieces, rarest first.
    order: Vec<u32>,
    /// Where each piece stands in `order`.
    place: Vec<u32>,
    /// `starts[a]` is where availability `a` begins in `order`; one more entry than there are buckets.
    starts: Vec<u32>,
}

impl Rarity {
    pub(crate) fn new(pieces: u32) -> Self {
        let n = pieces as usize;
        Self {
            availability: vec![0; n],
            order: Vec::with_capacity(n),
            place: vec![NOWHERE; n],
            starts: vec![0, 0],
        }
    }

    pub(crate) fn availability(&self, piece: PieceIndex) -> u32 {
        self.availability.get(piece.as_usize()).copied().unwrap_or(0)
    }

    /// Wanted pieces, rarest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.order.iter().copied().map(PieceIndex)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Makes a piece wanted, at a random place among its equals.
    pub(crate) fn insert(&mut self, piece: PieceIndex, rng: &mut impl Rng) {
        if self.place.get(piece.as_usize()).is_none_or(|place| *place != NOWHERE) {
            return;
        }
        let bucket = self.availability(piece) as usize;
        self.reach(bucket);
        // A hole opens at the end and moves down to the bucket, one border at a time.
        self.order.push(piece.0);
        let mut hole = self.order.len() - 1;
        for border in (bucket + 1..self.starts.len()).rev() {
            let start = self.starts[border] as usize;
            self.swap(hole, start);
            hole = start;
            self.starts[border] += 1;
        }
        self.settle(hole);
        let other = rng.random_range(self.starts[bucket]..self.starts[bucket + 1]) as usize;
        self.swap(hole, other);
    }

    /// Makes a piece no longer wanted.
    pub(crate) fn remove(&mut self, piece: PieceIndex) {
        let Some(at) = self.place.get(piece.as_usize()).copied().filter(|at| *at != NOWHERE) else { return };
        let bucket = self.availability(piece) as usize;
        let mut hole = at as usize;
        for border in bucket + 1..self.starts.len() {
            self.starts[border] -= 1;
            let last = self.starts[border] as usize;
            self.swap(hole, last);
            hole = last;
        }
        self.order.pop();
        self.place[piece.as_usize()] = NOWHERE;
    }

    /// One more leecher has the piece.
    pub(crate) fn increase(&mut self, piece: PieceIndex) {
        let Some(availability) = self.availability.get_mut(piece.as_usize()) else { return };
        let bucket = *availability as usize;
        *availability += 1;
        self.reach(bucket + 1);
        let at = self.place[piece.as_usize()];
        if at != NOWHERE {
            self.starts[bucket + 1] -= 1;
            self.swap(at as usize, self.starts[bucket + 1] as usize);
        }
    }

    /// One leecher less has the piece.
    pub(crate) fn decrease(&mut self, piece: PieceIndex) {
        let Some(availability) = self.availability.get_mut(piece.as_usize()).filter(|a| **a > 0) else {
            return;
        };
        let bucket = *availability as usize;
        *availability -= 1;
        let at = self.place[piece.as_usize()];
        if at != NOWHERE {
            self.swap(at as usize, self.starts[bucket] as usize);
            self.starts[bucket] += 1;
        }
    }

    /// Makes sure that `bucket` has a start and an end.
    fn reach(&mut self, bucket: usize) {
        while self.starts.len() < bucket + 2 {
            self.starts.push(self.order.len() as u32);
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.order.swap(a, b);
        self.settle(a);
        self.settle(b);
    }

    fn settle(&mut self, at: usize) {
        self.place[self.order[at] as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32),
        Remove(u32),
        Increase(u32),
        Decrease(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let piece = || 0u32..20;
        prop_oneof![
            piece().prop_map(Op::Insert),
            piece().prop_map(Op::Remove),
            piece().prop_map(Op::Increase),
            piece().prop_map(Op::Decrease),
        ]
    }

    proptest! {
        #[test]
        fn stays_a_sorted_permutation_of_the_wanted(ops in prop::collection::vec(op(), 0..200)) {
            let mut rarity = Rarity::new(20);
            let mut rng = StdRng::seed_from_u64(1);
            let mut wanted = std::collections::BTreeSet::new();
            let mut availability = [0u32; 20];
            for op in ops {
                match op {
                    Op::Insert(p) => { rarity.insert(PieceIndex(p), &mut rng); wanted.insert(p); }
                    Op::Remove(p) => { rarity.remove(PieceIndex(p)); wanted.remove(&p); }
                    Op::Increase(p) => { rarity.increase(PieceIndex(p)); availability[p as usize] += 1; }
                    Op::Decrease(p) => {
                        rarity.decrease(PieceIndex(p));
                        availability[p as usize] = availability[p as usize].saturating_sub(1);
                    }
                }
                let order: Vec<u32> = rarity.iter().map(|p| p.0).collect();
                prop_assert!(order.is_sorted_by_key(|p| availability[*p as usize]), "{order:?}");
                prop_assert_eq!(order.into_iter().collect::<std::collections::BTreeSet<_>>(), wanted.clone());
            }
        }
    }
}
