//! The peers of one torrent and one address family: a dense list of fixed-size records.
//!
//! Leechers come first and seeds after them, so that what a seed may be told is one slice. A small list is
//! searched from end to end, which is faster than any index; a large one has one.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

/// An address of one family, as it stands in records.
pub(crate) trait Address: Copy + Eq + Hash {}
impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<A> {
    /// When it last announced, in seconds of the store's time.
    pub(crate) seen: u32,
    /// A hash of its id: by it the asker is known in the list of the other family.
    pub(crate) tag: u32,
    pub(crate) address: A,
    pub(crate) port: u16,
}

/// Above this many records there is an index; it goes when there are half as many.
const INDEXED: usize = 512;

#[derive(Debug)]
pub(crate) struct Swarm<A> {
    records: Vec<Record<A>>,
    /// How many of the records are leechers; these come first.
    leechers: usize,
    index: Option<HashMap<(A, u16), u32>>,
}

impl<A> Default for Swarm<A> {
    fn default() -> Self {
        Self { records: Vec::new(), leechers: 0, index: None }
    }
}

impl<A: Address> Swarm<A> {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn seeds(&self) -> usize {
        self.records.len() - self.leechers
    }

    pub(crate) fn leechers(&self) -> usize {
        self.leechers
    }

    /// Where a peer stands, and whether it is a seed.
    pub(crate) fn find(&self, address: A, port: u16) -> Option<(usize, bool)> {
        let at = match &self.index {
            Some(index) => *index.get(&(address, port))? as usize,
            None => self.records.iter().position(|r| r.port == port && r.address == address)?,
        };
        Some((at, at >= self.leechers))
    }

    pub(crate) fn insert(&mut self, record: Record<A>, seed: bool) {
        self.records.push(record);
        let last = self.records.len() - 1;
        self.note(last);
        if !seed {
            self.swap(last, self.leechers);
            self.leechers += 1;
        }
        if self.records.len() > INDEXED && self.index.is_none() {
            let places = (0u32..).zip(&self.records);
            self.index = Some(places.map(|(at, r)| ((r.address, r.port), at)).collect());
        }
    }

    /// Renews the record at `at`.
    pub(crate) fn update(&mut self, at: usize, seen: u32, tag: u32, seed: bool) {
        let Some(record) = self.records.get_mut(at) else { return };
        record.seen = seen;
        record.tag = tag;
        if seed && at < self.leechers {
            self.leechers -= 1;
            self.swap(at, self.leechers);
        } else if !seed && at >= self.leechers {
            self.swap(at, self.leechers);
            self.leechers += 1;
        }
    }

    pub(crate) fn remove(&mut self, at: usize) {
        let mut at = at;
        if at >= self.records.len() {
            return;
        }
        if at < self.leechers {
            self.leechers -= 1;
            self.swap(at, self.leechers);
            at = self.leechers;
        }
        let removed = self.records.swap_remove(at);
        if let Some(index) = &mut self.index {
            index.remove(&(removed.address, removed.port));
            if self.records.len() < INDEXED / 2 {
                self.index = None;
            }
        }
        self.note(at);
        if self.records.capacity() > 32 && self.records.len() < self.records.capacity() / 4 {
            self.records.shrink_to(self.records.len() * 2);
        }
    }

    /// Removes all records that were last seen before `since`; says how many.
    pub(crate) fn expire(&mut self, since: u32) -> usize {
        let before = self.records.len();
        // From the end, as a removal only moves records that come after it.
        for at in (0..before).rev() {
            if self.records.get(at).is_some_and(|record| record.seen < since) {
                self.remove(at);
            }
        }
        before - self.records.len()
    }

    /// At most `want` records from a random place on, leechers only if so asked, and none that `skip` names.
    pub(crate) fn pick(
        &self,
        want: usize,
        leechers_only: bool,
        random: u32,
        skip: impl Fn(&Record<A>) -> bool,
        mut to: impl FnMut(&Record<A>),
    ) -> usize {
        let end = if leechers_only { self.leechers } else { self.records.len() };
        let all = self.records.get(..end).unwrap_or_default();
        if all.is_empty() || want == 0 {
            return 0;
        }
        let (tail, head) = all.split_at(random as usize % all.len());
        let mut given = 0;
        for record in head.iter().chain(tail) {
            if given == want {
                break;
            }
            if !skip(record) {
                to(record);
                given += 1;
            }
        }
        given
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a != b {
            self.records.swap(a, b);
            self.note(a);
            self.note(b);
        }
    }

    /// Writes the record's place into the index.
    fn note(&mut self, at: usize) {
        if let (Some(index), Some(record)) = (&mut self.index, self.records.get(at)) {
            index.insert((record.address, record.port), at as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Any sequence of changes leaves the same peers as a plain map would, with the index and without.
    fn agrees(steps: &[(u16, u8)]) {
        let mut swarm = Swarm::default();
        let mut model: BTreeMap<u16, (u32, bool)> = BTreeMap::new();
        for (now, &(port, kind)) in (0u32..).zip(steps) {
            let found = swarm.find(Ipv4Addr::LOCALHOST, port);
            assert_eq!(found.map(|(_, seed)| seed), model.get(&port).map(|&(_, seed)| seed));
            match (kind, found) {
                (0, Some((at, _))) => {
                    swarm.remove(at);
                    model.remove(&port);
                }
                (1, _) => {
                    let gone = swarm.expire(now.saturating_sub(40));
                    let before = model.len();
                    model.retain(|_, &mut (seen, _)| seen >= now.saturating_sub(40));
                    assert_eq!(gone, before - model.len());
                }
                (_, Some((at, _))) => {
                    swarm.update(at, now, 0, kind % 2 == 0);
                    model.insert(port, (now, kind % 2 == 0));
                }
                (_, None) => {
                    let record = Record { seen: now, tag: 0, address: Ipv4Addr::LOCALHOST, port };
                    swarm.insert(record, kind % 2 == 0);
                    model.insert(port, (now, kind % 2 == 0));
                }
            }
            let seeds = model.values().filter(|(_, seed)| *seed).count();
            assert_eq!((swarm.len(), swarm.seeds()), (model.len(), seeds));
        }
        let mut picked = Vec::new();
        swarm.pick(usize::MAX, false, 7, |_| false, |record| picked.push((record.port, record.seen)));
        picked.sort_unstable();
        let all: Vec<_> = model.iter().map(|(&port, &(seen, _))| (port, seen)).collect();
        assert_eq!(picked, all);
        let mut picked = Vec::new();
        swarm.pick(usize::MAX, true, 7, |_| false, |record| picked.push(record.port));
        picked.sort_unstable();
        let all: Vec<_> = model.iter().filter(|(_, (_, seed))| !seed).map(|(&port, _)| port).collect();
        assert_eq!(picked, all);
    }

    proptest! {
        #[test]
        fn a_small_swarm_agrees_with_a_map(steps in proptest::collection::vec((0u16..12, 0u8..10), 0..150)) {
            agrees(&steps);
        }
    }

    #[test]
    fn a_large_swarm_agrees_with_a_map_while_it_grows_and_shrinks() {
        let grow = (0..2000u16).map(|port| (port, 2 + (port % 3) as u8));
        let mix = (0..2000u16).map(|port| (port.wrapping_mul(37) % 2000, (port % 7) as u8 + 2));
        let shrink = (0..1900u16).map(|port| (port, 0));
        agrees(&grow.chain(mix).chain(shrink).collect::<Vec<_>>());
    }

    #[test]
    fn a_pick_begins_anywhere_and_never_repeats() {
        let mut swarm = Swarm::default();
        for port in 0..10 {
            swarm.insert(Record { seen: 0, tag: 0, address: Ipv4Addr::LOCALHOST, port }, true);
        }
        let mut firsts = std::collections::BTreeSet::new();
        for random in 0..10 {
            let mut picked = Vec::new();
            let given = swarm.pick(4, false, random, |record| record.port == 3, |r| picked.push(r.port));
            assert_eq!((given, picked.len()), (4, 4));
            firsts.extend(picked.first().copied());
            picked.sort_unstable();
            picked.dedup();
            assert_eq!(picked.len(), 4);
            assert!(!picked.contains(&3));
        }
        assert_eq!(firsts.len(), 9);
    }
}
