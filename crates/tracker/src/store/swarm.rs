//! The peers of one torrent and one address family, in the torrent's block: dense columns of fixed-size fields.
//!
//! One column is the addresses as they go out, so that an answer is a copy of a slice or two. The peers stand in
//! order of kind: downloaders, then partial seeds, then seeds; so what a seed may be told is one slice as well, and
//! the counts are where the kinds begin. A peer is found by a byte of its address's hash in the column before, with
//! all else that is known of it, so that mostly one place of the memory is waited for; a large swarm has an index.

use std::collections::HashMap;

use hashbrown::HashTable;
use metainfo::InfoHash;

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

/// Who changes a record: 14 bits of a hash of the asker's key, or of its id where it gives no key; the top bit says
/// that it was a key, the lowest that the peer announces at another tracker of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who(pub(super) u16);

impl Who {
    pub(super) const KEYED: u16 = 0x8000;
    pub(super) const ELSEWHERE: u16 = 1;

    /// Whether only the same key may change the record.
    pub(super) const fn keyed(self) -> bool {
        self.0 & Self::KEYED != 0
    }

    /// Whether another tracker of the cluster told of the peer.
    pub(super) const fn elsewhere(self) -> bool {
        self.0 & Self::ELSEWHERE != 0
    }

    /// Whether it is the same one, wherever it announces.
    pub(super) const fn is(self, other: Self) -> bool {
        self.0 | Self::ELSEWHERE == other.0 | Self::ELSEWHERE
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
pub(super) const INDEXED: usize = 2048;

/// How many marks are looked at together.
const BLOCK: usize = 16;

/// What is known of a peer beside its address: a byte of the address's hash, `seen`, and `who` (two bytes).
pub(super) type Mark = [u8; 4];

/// A peer's id.
pub(super) type Id = [u8; 20];

/// The indexes of a shard's large swarms: where each address stands.
pub(super) type Indexes = HashMap<(InfoHash, usize), HashTable<u32>>;

/// How many peers of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) downloaders: u32,
    pub(super) paused: u32,
    pub(super) seeds: u32,
}

impl Counts {
    pub(super) const fn len(&self) -> usize {
        (self.downloaders + self.paused + self.seeds) as usize
    }

    /// Downloaders and partial seeds.
    pub(super) const fn incomplete(&self) -> u32 {
        self.downloaders + self.paused
    }
}

/// A swarm while it is worked on; its counts must be written back to the torrent.
pub(super) struct Swarm<'a, const W: usize> {
    pub(super) info_hash: InfoHash,
    pub(super) counts: Counts,
    // All columns are as long as there is room.
    pub(super) marks: &'a mut [Mark],
    pub(super) wires: &'a mut [[u8; W]],
    /// Empty if ids are not kept.
    pub(super) ids: &'a mut [Id],
    pub(super) indexes: &'a mut Indexes,
    pub(super) secret: &'a Secret,
}

impl<const W: usize> Swarm<'_, W> {
    /// Where a peer stands.
    pub(super) fn find(&self, wire: &[u8; W], hash: u64) -> Option<usize> {
        if let Some(index) = self.index() {
            let found = index.find(hash, |&at| self.wires.get(at as usize) == Some(wire));
            return found.map(|&at| at as usize);
        }
        // Blocks of marks are looked through without a branch, which the compiler makes a few instructions each.
        let (blocks, rest) = self.marks.get(..self.counts.len()).unwrap_or_default().as_chunks::<BLOCK>();
        let tag = tag(hash);
        let place = |first: usize, marks: &[Mark]| {
            let is_it = |mark: &Mark, at: usize| mark[0] == tag && self.wires.get(at) == Some(wire);
            marks.iter().zip(first..).find(|&(mark, at)| is_it(mark, at)).map(|(_, at)| at)
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
        if at < self.counts.downloaders as usize {
            Kind::Downloader
        } else if at < self.counts.incomplete() as usize {
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

    /// Enters a peer that is not there yet, for which there must be room; says where it stands.
    pub(super) fn insert(&mut self, record: &Record<'_, W>) -> usize {
        let at = self.counts.len();
        if let Some(wire) = self.wires.get_mut(at) {
            *wire = record.wire;
        }
        self.mark_anew(at, record);
        self.counts.seeds += 1;
        let (wires, secret, key) = (&*self.wires, self.secret, (self.info_hash, W));
        let hash_of = |&at: &u32| hash_at(wires, at as usize, secret);
        let length = self.counts.len();
        let index = if length > INDEXED / 2 { self.indexes.get_mut(&key) } else { None };
        if let Some(index) = index {
            index.insert_unique(record.hash, at as u32, hash_of);
        } else if length > INDEXED {
            let mut index = HashTable::with_capacity(length);
            for (at, wire) in (0u32..).zip(wires.iter().take(length)) {
                index.insert_unique(secret.address(wire), at, hash_of);
            }
            self.indexes.insert(key, index);
        }
        self.move_to(at, record.kind)
    }

    /// Renews the record at `at`; says where it stands then.
    pub(super) fn update(&mut self, at: usize, record: &Record<'_, W>) -> usize {
        self.mark_anew(at, record);
        self.move_to(at, record.kind)
    }

    pub(super) fn remove(&mut self, at: usize) {
        if at >= self.counts.len() {
            return;
        }
        let (at, last) = (self.move_to(at, Kind::Seed), self.counts.len() - 1);
        self.swap(at, last);
        let hash = hash_at(self.wires, last, self.secret);
        if let Some(index) = self.index_mut()
            && let Ok(entry) = index.find_entry(hash, |&at| at as usize == last)
        {
            entry.remove();
        }
        self.counts.seeds -= 1;
        if self.counts.len() == INDEXED / 2 {
            self.indexes.remove(&(self.info_hash, W));
        }
    }

    /// Removes records whose last announce lies more than `age` ticks before `now`, at most `most` of them; says how
    /// many. Ages are less than 256 ticks.
    pub(super) fn expire(&mut self, now: u8, age: u8, most: usize) -> usize {
        let (mut gone, mut end) = (0, self.counts.len());
        // From the end, as a removal only moves records that come after it.
        while gone < most {
            let marks = self.marks.get(..end).unwrap_or_default();
            let Some(at) = marks.iter().rposition(|mark| now.wrapping_sub(mark[1]) > age) else { break };
            self.remove(at);
            (gone, end) = (gone + 1, at);
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
        let all = if downloaders_only { self.counts.downloaders as usize } else { self.counts.len() };
        if all == 0 || want == 0 {
            return 0;
        }
        // One more than is wanted, since one may be the asker.
        let take = all.min(want + 1);
        let start = if take < all { ((u64::from(random) * all as u64) >> 32) as usize } else { 0 };
        let end = (start + take).min(all);
        let (first, second) = (start..end, 0..take - (end - start));
        let is_named = |at: usize, who: Who, port: u16| {
            self.who(at).is(who) && self.wires.get(at).is_some_and(|wire| wire.ends_with(&port.to_be_bytes()))
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
            wires.extend_from_slice(self.wires.get(range.clone()).unwrap_or_default().as_flattened());
            if let Some(ids) = &mut ids {
                ids.extend_from_slice(self.ids.get(range).unwrap_or_default().as_flattened());
            }
        }
        given
    }

    fn mark_anew(&mut self, at: usize, record: &Record<'_, W>) {
        let [low, high] = record.who.0.to_le_bytes();
        if let Some(mark) = self.marks.get_mut(at) {
            *mark = [tag(record.hash), record.seen, low, high];
        }
        if let Some(id) = self.ids.get_mut(at) {
            *id = *record.id;
        }
    }

    /// Moves a record among those of its kind; says where it is then.
    fn move_to(&mut self, at: usize, kind: Kind) -> usize {
        let (mut at, mut now) = (at, self.kind(at));
        while now < kind {
            // To the end of its kind, and that end before it.
            let last = self.counts.downloaders + if now == Kind::Paused { self.counts.paused } else { 0 } - 1;
            self.swap(at, last as usize);
            at = last as usize;
            now = self.shift_down(now);
        }
        while now > kind {
            let first = self.counts.downloaders + if now == Kind::Seed { self.counts.paused } else { 0 };
            self.swap(at, first as usize);
            at = first as usize;
            now = self.shift_up(now);
        }
        at
    }

    /// The last of `kind` becomes one of the next kind.
    fn shift_down(&mut self, kind: Kind) -> Kind {
        if kind == Kind::Downloader {
            self.counts.downloaders -= 1;
            self.counts.paused += 1;
            Kind::Paused
        } else {
            self.counts.paused -= 1;
            self.counts.seeds += 1;
            Kind::Seed
        }
    }

    /// The first of `kind` becomes one of the kind before.
    fn shift_up(&mut self, kind: Kind) -> Kind {
        if kind == Kind::Seed {
            self.counts.seeds -= 1;
            self.counts.paused += 1;
            Kind::Paused
        } else {
            self.counts.paused -= 1;
            self.counts.downloaders += 1;
            Kind::Downloader
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a == b || a.max(b) >= self.marks.len() {
            return;
        }
        let [hash_a, hash_b] = [a, b].map(|at| hash_at(self.wires, at, self.secret));
        if let Some(index) = self.index_mut() {
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
        self.marks.swap(a, b);
        self.wires.swap(a, b);
        if !self.ids.is_empty() {
            self.ids.swap(a, b);
        }
    }

    fn mark(&self, at: usize) -> Mark {
        self.marks.get(at).copied().unwrap_or_default()
    }

    fn index(&self) -> Option<&HashTable<u32>> {
        // No small swarm has one, and most are small.
        if self.counts.len() > INDEXED / 2 { self.indexes.get(&(self.info_hash, W)) } else { None }
    }

    fn index_mut(&mut self) -> Option<&mut HashTable<u32>> {
        if self.counts.len() > INDEXED / 2 { self.indexes.get_mut(&(self.info_hash, W)) } else { None }
    }
}

const fn tag(hash: u64) -> u8 {
    (hash >> 48) as u8
}

fn hash_at<const W: usize>(wires: &[[u8; W]], at: usize, secret: &Secret) -> u64 {
    wires.get(at).map_or(0, |wire| secret.address(wire))
}
