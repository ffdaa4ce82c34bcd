//! The peers of one torrent and one address family: dense columns of fixed-size fields in one allocation.
//!
//! One column is the addresses as they go out, so that an answer is a copy of a slice or two. The peers stand in
//! order of kind: downloaders, then partial seeds, then seeds; so what a seed may be told is one slice as well, and
//! the counts are where the kinds begin. A peer is found by a byte of its address's hash in the column before, with
//! all else that is known of it, so that mostly one place of the memory is waited for; a large swarm has an index.

use hashbrown::HashTable;

use super::secret::Secret;

/// What a peer holds, and wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It lacks something that it wants.
    Downloader,
    /// It has all that it wants, which is not all there is (BEP 21).
    Paused,
    /// It has everything.
    Seed,
}

/// Who changes a record: 15 bits of a hash of the asker's key, or of its id where it gives no key; the top bit says
/// that it was a key. 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who(pub(super) u16);

impl Who {
    /// Whether only the same key may change the record.
    pub(super) fn keyed(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

/// A peer as it is entered. `W` is 6 or 18: the bytes of an address with its port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a, const W: usize> {
    pub(super) wire: [u8; W],
    /// [`Secret::address`] of `wire`.
    pub(super) hash: u64,
    pub(super) who: Who,
    /// The tick of its last announce, modulo 256.
    pub(super) seen: u8,
    pub(super) kind: Kind,
    pub(super) id: &'a [u8; 20],
}

/// Whom an answer leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// The record at this place.
    At(usize),
    /// The record with this name and port, in the list of the family that it does not ask by.
    Named(Who, u16),
    Nobody,
}

/// Above this many peers there is an index; it goes when there are half as many.
const INDEXED: usize = 2048;

/// How many marks are looked at together.
const BLOCK: usize = 16;

/// What is known of a peer beside its address: a byte of the address's hash, `seen`, and `who` (two bytes).
type Mark = [u8; MARK];
const MARK: usize = 4;

/// The bytes of a peer id, where ids are kept.
const ID: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Swarm<const W: usize> {
    /// The columns for `capacity` peers, one behind the other: marks, addresses, and ids if they are kept.
    data: Box<[u8]>,
    capacity: u32,
    downloaders: u32,
    paused: u32,
    seeds: u32,
    index: Option<Box<HashTable<u32>>>,
}

struct Columns<D> {
    marks: D,
    wires: D,
    ids: D,
}

impl<const W: usize> Swarm<W> {
    pub(super) fn len(&self) -> usize {
        (self.downloaders + self.paused + self.seeds) as usize
    }

    pub(super) fn seeds(&self) -> u32 {
        self.seeds
    }

    pub(super) fn downloaders(&self) -> u32 {
        self.downloaders
    }

    /// Downloaders and partial seeds.
    pub(super) fn incomplete(&self) -> u32 {
        self.downloaders + self.paused
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| index.allocation_size());
        self.data.len() + index
    }

    /// Where a peer stands.
    pub(super) fn find(&self, wire: &[u8; W], hash: u64) -> Option<usize> {
        let wires = self.wires();
        if let Some(index) = &self.index {
            return index.find(hash, |&at| wires.get(at as usize) == Some(wire)).map(|&at| at as usize);
        }
        // Blocks of marks are looked through without a branch, which the compiler makes a few instructions each.
        let (blocks, rest) = self.marks().as_chunks::<BLOCK>();
        let tag = tag(hash);
        let is_it = |at: usize, mark: &Mark| mark[0] == tag && wires.get(at) == Some(wire);
        let place = |first: usize, marks: &[Mark]| {
            let found = marks.iter().zip(first..).find(|(mark, at)| is_it(*at, mark));
            found.map(|(_, at)| at)
        };
        for (block, first) in blocks.iter().zip((0..).step_by(BLOCK)) {
            let hit = block
                .iter()
                .fold(false, |hit, mark| hit | (u32::from_le_bytes(*mark) & 0xff == u32::from(tag)));
            if hit && let Some(at) = place(first, block) {
                return Some(at);
            }
        }
        place(blocks.len() * BLOCK, rest)
    }

    pub(super) fn kind(&self, at: usize) -> Kind {
        if at < self.downloaders as usize {
            Kind::Downloader
        } else if at < self.incomplete() as usize {
            Kind::Paused
        } else {
            Kind::Seed
        }
    }

    pub(super) fn who(&self, at: usize) -> Who {
        let [.., low, high] = self.mark(at);
        Who(u16::from_le_bytes([low, high]))
    }

    /// The tick of the last announce, modulo 256.
    pub(super) fn seen(&self, at: usize) -> u8 {
        self.mark(at)[1]
    }

    /// Enters a peer that is not there yet; says where it stands.
    pub(super) fn insert(&mut self, record: &Record<'_, W>, secret: &Secret, keep_ids: bool) -> usize {
        let at = self.len();
        if at >= self.capacity as usize {
            // By an eighth, as what is not used is paid for a million times.
            self.resize(at + (at / 8).max(2), keep_ids);
        }
        self.write(at, record);
        self.seeds += 1;
        if let Some(index) = &mut self.index {
            let wires = split(&self.data, self.capacity as usize * MARK).1.as_chunks().0;
            index.insert_unique(record.hash, at as u32, |&at| hash_at::<W>(wires, at, secret));
        }
        let at = self.move_to(at, record.kind, secret);
        if self.index.is_none() && self.len() > INDEXED {
            let (wires, mut index) = (self.wires(), HashTable::with_capacity(self.len()));
            for (at, wire) in (0u32..).zip(wires) {
                index.insert_unique(secret.address(wire), at, |&at| hash_at::<W>(wires, at, secret));
            }
            self.index = Some(Box::new(index));
        }
        at
    }

    /// Renews the record at `at`; says where it stands then.
    pub(super) fn update(&mut self, at: usize, record: &Record<'_, W>, secret: &Secret) -> usize {
        let columns = self.columns_mut();
        if let Some(mark) = columns.marks.as_chunks_mut().0.get_mut(at) {
            *mark = record.mark();
        }
        if let Some(id) = columns.ids.as_chunks_mut().0.get_mut(at) {
            *id = *record.id;
        }
        self.move_to(at, record.kind, secret)
    }

    pub(super) fn remove(&mut self, at: usize, secret: &Secret) {
        self.take_out(at, secret);
        self.fit();
    }

    /// Removes records whose last announce lies more than `age` ticks before `now`, at most `most` of them; says how
    /// many. Ages are less than 256 ticks.
    pub(super) fn expire(&mut self, now: u8, age: u8, most: usize, secret: &Secret) -> usize {
        let (mut gone, mut end) = (0, self.len());
        // From the end, as a removal only moves records that come after it.
        while gone < most {
            let marks = self.marks().get(..end).unwrap_or_default();
            let Some(at) = marks.iter().rposition(|mark| now.wrapping_sub(mark[1]) > age) else { break };
            self.take_out(at, secret);
            (gone, end) = (gone + 1, at);
        }
        if gone > 0 {
            self.fit();
        }
        gone
    }

    /// Appends the addresses of at most `want` records from a random place on, of downloaders only if so asked, and
    /// without the asker's own. Says how many.
    pub(super) fn pick(
        &self,
        want: usize,
        downloaders_only: bool,
        random: u32,
        asker: Asker,
        wires: &mut Vec<u8>,
        mut ids: Option<&mut Vec<u8>>,
    ) -> usize {
        let all = if downloaders_only { self.downloaders as usize } else { self.len() };
        if all == 0 || want == 0 {
            return 0;
        }
        // One more than is wanted, since one may be the asker.
        let take = all.min(want + 1);
        let start = if take < all { ((u64::from(random) * all as u64) >> 32) as usize } else { 0 };
        let end = (start + take).min(all);
        let (first, second) = (start..end, 0..take - (end - start));
        let columns = self.columns();
        let is_named = |at: usize, who: Who, port: u16| {
            self.who(at) == who
                && self.wires().get(at).is_some_and(|wire| wire.ends_with(&port.to_be_bytes()))
        };
        let skip = match asker {
            Asker::At(place) => Some(place).filter(|place| first.contains(place) || second.contains(place)),
            Asker::Named(who, port) => {
                first.clone().chain(second.clone()).find(|&at| is_named(at, who, port))
            }
            Asker::Nobody => None,
        };
        let mut left = want.min(if skip.is_some() { take - 1 } else { take });
        let given = left;
        let ranges = [first, second].map(|range| match skip {
            Some(skip) if range.contains(&skip) => [range.start..skip, skip + 1..range.end],
            _ => [range, 0..0],
        });
        for range in ranges.into_iter().flatten() {
            let range = range.start..range.end.min(range.start + left);
            left -= range.len();
            wires.extend_from_slice(columns.wires.get(range.start * W..range.end * W).unwrap_or_default());
            if let Some(ids) = &mut ids {
                ids.extend_from_slice(columns.ids.get(range.start * ID..range.end * ID).unwrap_or_default());
            }
        }
        given
    }

    fn write(&mut self, at: usize, record: &Record<'_, W>) {
        let columns = self.columns_mut();
        if let Some(mark) = columns.marks.as_chunks_mut().0.get_mut(at) {
            *mark = record.mark();
        }
        if let Some(wire) = columns.wires.as_chunks_mut().0.get_mut(at) {
            *wire = record.wire;
        }
        if let Some(id) = columns.ids.as_chunks_mut::<ID>().0.get_mut(at) {
            *id = *record.id;
        }
    }

    /// Moves a record among those of its kind; says where it is then.
    fn move_to(&mut self, at: usize, kind: Kind, secret: &Secret) -> usize {
        let (mut at, mut now) = (at, self.kind(at));
        while now < kind {
            // To the end of its kind, and that end before it.
            let last = self.downloaders + if now == Kind::Paused { self.paused } else { 0 } - 1;
            self.swap(at, last as usize, secret);
            at = last as usize;
            now = self.shift_down(now);
        }
        while now > kind {
            let first = self.downloaders + if now == Kind::Seed { self.paused } else { 0 };
            self.swap(at, first as usize, secret);
            at = first as usize;
            now = self.shift_up(now);
        }
        at
    }

    /// The last of `kind` becomes one of the next kind.
    fn shift_down(&mut self, kind: Kind) -> Kind {
        if kind == Kind::Downloader {
            self.downloaders -= 1;
            self.paused += 1;
            Kind::Paused
        } else {
            self.paused -= 1;
            self.seeds += 1;
            Kind::Seed
        }
    }

    /// The first of `kind` becomes one of the kind before.
    fn shift_up(&mut self, kind: Kind) -> Kind {
        if kind == Kind::Seed {
            self.seeds -= 1;
            self.paused += 1;
            Kind::Paused
        } else {
            self.paused -= 1;
            self.downloaders += 1;
            Kind::Downloader
        }
    }

    fn take_out(&mut self, at: usize, secret: &Secret) {
        if at >= self.len() {
            return;
        }
        let (at, last) = (self.move_to(at, Kind::Seed, secret), self.len() - 1);
        self.swap(at, last, secret);
        if let Some(index) = &mut self.index {
            let wires = split(&self.data, self.capacity as usize * MARK).1.as_chunks().0;
            let hash = hash_at::<W>(wires, last as u32, secret);
            if let Ok(entry) = index.find_entry(hash, |&at| at as usize == last) {
                entry.remove();
            }
        }
        self.seeds -= 1;
    }

    fn swap(&mut self, a: usize, b: usize, secret: &Secret) {
        if a == b {
            return;
        }
        if let Some(index) = &mut self.index {
            let wires = split(&self.data, self.capacity as usize * MARK).1.as_chunks().0;
            let [hash_a, hash_b] = [a, b].map(|at| hash_at::<W>(wires, at as u32, secret));
            // First both are looked up by their places, then both are changed.
            if let Some(at) = index.find_mut(hash_a, |&at| at as usize == a) {
                *at = u32::MAX;
            }
            if let Some(at) = index.find_mut(hash_b, |&at| at as usize == b) {
                *at = a as u32;
            }
            if let Some(at) = index.find_mut(hash_a, |&at| at == u32::MAX) {
                *at = b as u32;
            }
        }
        let columns = self.columns_mut();
        if a.max(b) * MARK >= columns.marks.len() {
            return;
        }
        columns.marks.as_chunks_mut::<MARK>().0.swap(a, b);
        columns.wires.as_chunks_mut::<W>().0.swap(a, b);
        if !columns.ids.is_empty() {
            columns.ids.as_chunks_mut::<ID>().0.swap(a, b);
        }
    }

    /// Gives back room when much is unused.
    fn fit(&mut self) {
        let length = self.len();
        if length < INDEXED / 2 {
            self.index = None;
        }
        if length == 0 || length + 4 < self.capacity as usize * 3 / 4 {
            self.resize(length + length / 8, self.keeps_ids());
        }
    }

    /// Moves the columns to where they stand with another capacity.
    fn resize(&mut self, capacity: usize, ids: bool) {
        let stride = W + MARK + if ids { ID } else { 0 };
        let mut new = Self {
            data: vec![0; capacity * stride].into(),
            capacity: capacity as u32,
            downloaders: self.downloaders,
            paused: self.paused,
            seeds: self.seeds,
            index: self.index.take(),
        };
        let (from, to) = (self.columns(), new.columns_mut());
        for (from, to) in [(from.marks, to.marks), (from.wires, to.wires), (from.ids, to.ids)] {
            // Either may be the longer.
            let length = from.len().min(to.len());
            if let (Some(from), Some(to)) = (from.get(..length), to.get_mut(..length)) {
                to.copy_from_slice(from);
            }
        }
        *self = new;
    }

    fn keeps_ids(&self) -> bool {
        self.data.len() > self.capacity as usize * (W + MARK)
    }

    fn mark(&self, at: usize) -> Mark {
        self.marks().get(at).copied().unwrap_or_default()
    }

    fn marks(&self) -> &[Mark] {
        self.data.as_chunks().0.get(..self.len()).unwrap_or_default()
    }

    fn wires(&self) -> &[[u8; W]] {
        self.columns().wires.as_chunks().0.get(..self.len()).unwrap_or_default()
    }

    fn columns(&self) -> Columns<&[u8]> {
        let capacity = self.capacity as usize;
        let (marks, rest) = split(&self.data, capacity * MARK);
        let (wires, ids) = split(rest, capacity * W);
        Columns { marks, wires, ids }
    }

    fn columns_mut(&mut self) -> Columns<&mut [u8]> {
        let capacity = self.capacity as usize;
        let (marks, rest) = split_mut(&mut self.data, capacity * MARK);
        let (wires, ids) = split_mut(rest, capacity * W);
        Columns { marks, wires, ids }
    }
}

impl<const W: usize> Record<'_, W> {
    fn mark(&self) -> Mark {
        let [low, high] = self.who.0.to_le_bytes();
        [tag(self.hash), self.seen, low, high]
    }
}

const fn tag(hash: u64) -> u8 {
    (hash >> 48) as u8
}

fn hash_at<const W: usize>(wires: &[[u8; W]], at: u32, secret: &Secret) -> u64 {
    wires.get(at as usize).map_or(0, |wire| secret.address(wire))
}

fn split(data: &[u8], at: usize) -> (&[u8], &[u8]) {
    data.split_at_checked(at).unwrap_or_default()
}

fn split_mut(data: &mut [u8], at: usize) -> (&mut [u8], &mut [u8]) {
    data.split_at_mut_checked(at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECRET: Secret = Secret::new(7);

    type Model = BTreeMap<u16, (u8, Kind)>;

    fn record(port: u16, seen: u8, kind: Kind) -> Record<'static, 6> {
        let [high, low] = port.to_be_bytes();
        let wire = [127, 0, 0, 1, high, low];
        Record { wire, hash: SECRET.address(&wire), who: Who(port), seen, kind, id: &[9; 20] }
    }

    fn ports(wires: &[u8]) -> Vec<u16> {
        let mut ports: Vec<u16> =
            wires.as_chunks::<6>().0.iter().map(|wire| u16::from_be_bytes([wire[4], wire[5]])).collect();
        ports.sort_unstable();
        ports
    }

    fn all(swarm: &Swarm<6>, downloaders_only: bool) -> Vec<u16> {
        let mut wires = Vec::new();
        swarm.pick(usize::MAX - 1, downloaders_only, 7, Asker::Nobody, &mut wires, None);
        ports(&wires)
    }

    /// Any sequence of changes leaves the same peers as a plain map would, with the index and without.
    fn agrees(steps: &[(u16, u8)], keep_ids: bool) {
        let mut swarm = Swarm::<6>::default();
        let mut model = Model::new();
        for (now, &(port, step)) in (0u32..).zip(steps) {
            let now = (now / 16) as u8;
            let kind = [Kind::Downloader, Kind::Seed, Kind::Paused][usize::from(step % 3)];
            let record = record(port, now, kind);
            let found = swarm.find(&record.wire, record.hash);
            assert_eq!(found.map(|at| (swarm.seen(at), swarm.kind(at))), model.get(&port).copied());
            match (step, found) {
                (0, Some(at)) => {
                    swarm.remove(at, &SECRET);
                    model.remove(&port);
                }
                (1, _) => {
                    let gone = swarm.expire(now, 3, usize::MAX, &SECRET);
                    let before = model.len();
                    model.retain(|_, (seen, _)| now.wrapping_sub(*seen) <= 3);
                    assert_eq!(gone, before - model.len());
                }
                (_, Some(at)) => {
                    swarm.update(at, &record, &SECRET);
                    model.insert(port, (now, kind));
                }
                (_, None) => {
                    swarm.insert(&record, &SECRET, keep_ids);
                    model.insert(port, (now, kind));
                }
            }
            let count = |kind| model.values().filter(|(_, other)| *other == kind).count() as u32;
            assert_eq!(swarm.len(), model.len());
            assert_eq!(swarm.seeds(), count(Kind::Seed));
            assert_eq!(swarm.downloaders(), count(Kind::Downloader));
            assert_eq!(swarm.incomplete(), count(Kind::Downloader) + count(Kind::Paused));
        }
        assert_eq!(all(&swarm, false), model.keys().copied().collect::<Vec<_>>());
        let downloaders = model.iter().filter(|(_, (_, kind))| *kind == Kind::Downloader);
        assert_eq!(all(&swarm, true), downloaders.map(|(&port, _)| port).collect::<Vec<_>>());
        for (&port, &(seen, _)) in &model {
            let record = record(port, seen, Kind::Seed);
            let at = swarm.find(&record.wire, record.hash).expect("known");
            assert_eq!((swarm.who(at), swarm.seen(at)), (Who(port), seen));
        }
    }

    proptest! {
        #[test]
        fn a_small_swarm_agrees_with_a_map(
            steps in proptest::collection::vec((0u16..12, 0u8..10), 0..150),
            keep_ids: bool,
        ) {
            agrees(&steps, keep_ids);
        }

        #[test]
        fn a_pick_is_of_different_peers_as_many_as_can_be(
            kinds in proptest::collection::vec(0u8..3, 0..20),
            want in 0usize..25,
            downloaders_only: bool,
            random: u32,
            asker in 0u16..25,
            named: bool,
        ) {
            let mut swarm = Swarm::<6>::default();
            for (port, &kind) in (0u16..).zip(&kinds) {
                let kind = [Kind::Downloader, Kind::Seed, Kind::Paused][usize::from(kind)];
                swarm.insert(&record(port, 0, kind), &SECRET, true);
            }
            let at = swarm.find(&record(asker, 0, Kind::Seed).wire, record(asker, 0, Kind::Seed).hash);
            let who = match at {
                _ if named => Asker::Named(Who(asker), asker),
                Some(at) => Asker::At(at),
                None => Asker::Nobody,
            };
            let mut eligible = all(&swarm, downloaders_only);
            eligible.retain(|&port| port != asker);
            let (mut wires, mut ids) = (Vec::new(), Vec::new());
            let given = swarm.pick(want, downloaders_only, random, who, &mut wires, Some(&mut ids));
            let mut picked = ports(&wires);
            prop_assert_eq!((given, given * 20), (picked.len(), ids.len()));
            prop_assert_eq!(given, want.min(eligible.len()));
            picked.dedup();
            prop_assert_eq!(picked.len(), given);
            prop_assert!(picked.iter().all(|port| eligible.contains(port)));
        }
    }

    #[test]
    fn a_large_swarm_agrees_with_a_map_while_it_grows_and_shrinks() {
        let grow = (0..5000u16).map(|port| (port, 2 + (port % 3) as u8));
        let mix = (0..5000u16).map(|port| (port.wrapping_mul(37) % 5000, (port % 7) as u8 + 2));
        let shrink = (0..4900u16).map(|port| (port, 0));
        agrees(&grow.chain(mix).chain(shrink).collect::<Vec<_>>(), false);
    }

    #[test]
    fn a_pick_begins_anywhere() {
        let mut swarm = Swarm::<6>::default();
        for port in 0..10 {
            swarm.insert(&record(port, 0, Kind::Seed), &SECRET, false);
        }
        let mut firsts = std::collections::BTreeSet::new();
        for random in (0..=u32::MAX).step_by(1 << 26) {
            let mut wires = Vec::new();
            swarm.pick(4, false, random, Asker::At(3), &mut wires, None);
            firsts.insert(u16::from_be_bytes([wires[4], wires[5]]));
        }
        assert_eq!(firsts.len(), 9);
    }

    #[test]
    fn room_is_ample_by_an_eighth_at_most() {
        let mut swarm = Swarm::<6>::default();
        for port in 0..40_000 {
            swarm.insert(&record(port, 0, Kind::Seed), &SECRET, false);
            let used = swarm.len() * 10;
            assert!(swarm.data.len() <= used + used / 8 + 20, "{} for {used}", swarm.data.len());
        }
        for port in 0..40_000 {
            let at = swarm.find(&record(port, 0, Kind::Seed).wire, record(port, 0, Kind::Seed).hash);
            swarm.remove(at.expect("known"), &SECRET);
            let used = swarm.len() * 10;
            assert!(swarm.data.len() <= used + used / 3 + 80, "{} for {used}", swarm.data.len());
        }
        assert_eq!(swarm.memory(), 0);
    }
}
