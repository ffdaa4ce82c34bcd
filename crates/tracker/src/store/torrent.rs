//! A torrent: one block of memory with its name, its numbers, and the peers of both families.
//!
//! A look-up goes from the table of torrents to the block and finds name, numbers and the peers' marks side by side:
//! with a million peers every further place to look at would be waited for.

use announce::ScrapeStats;
use metainfo::InfoHash;

use super::{
    secret::Secret,
    swarm::{Counts, Id, Indexes, Mark, Swarm},
};

/// The block: [`Head`], then for IPv4 and then for IPv6 the columns of [`Swarm`], for as many peers as there is room.
#[derive(Debug)]
pub(super) struct Torrent(Box<[u8]>);

/// Info-hash, downloads; for each family: room, downloaders, partial seeds, seeds.
type Head = [u8; HEAD];
const HEAD: usize = 20 + 4 + 2 * FAMILY;
const FAMILY: usize = 4 * 4;

/// The bytes of an address with its port, by family.
const V4: usize = 6;
const V6: usize = 18;

/// How many peers of each family there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    v4: usize,
    v6: usize,
}

impl Torrent {
    /// Without peers, and downloaded so often.
    pub(super) fn new(info_hash: InfoHash, downloaded: u32) -> Self {
        let mut block = vec![0; HEAD].into_boxed_slice();
        if let Some(name) = block.first_chunk_mut() {
            *name = *info_hash.as_bytes();
        }
        let mut torrent = Self(block);
        torrent.set_number(20, downloaded);
        torrent
    }

    pub(super) fn info_hash(&self) -> InfoHash {
        InfoHash::from_bytes(self.0.first_chunk().copied().unwrap_or_default())
    }

    pub(super) fn is(&self, info_hash: &InfoHash) -> bool {
        self.has_name(info_hash.as_bytes())
    }

    pub(super) fn has_name(&self, info_hash: &[u8; 20]) -> bool {
        self.0.first_chunk() == Some(info_hash)
    }

    /// Reads a byte of every line of the cache that an announce of a small torrent will read.
    pub(super) fn touch(&self) -> u8 {
        self.0.iter().step_by(64).take(16).fold(0, |seen, byte| seen ^ byte)
    }

    /// Another peer has completed it.
    pub(super) fn count_download(&mut self) {
        self.set_number(20, self.number(20).saturating_add(1));
    }

    /// The counts of the family whose addresses have `W` bytes.
    pub(super) fn counts<const W: usize>(&self) -> Counts {
        let at = place::<W>();
        Counts { downloaders: self.number(at + 4), paused: self.number(at + 8), seeds: self.number(at + 12) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts::<V4>().len() + self.counts::<V6>().len() == 0
    }

    pub(super) fn stats(&self) -> ScrapeStats {
        let (v4, v6) = (self.counts::<V4>(), self.counts::<V6>());
        ScrapeStats {
            complete: v4.seeds.saturating_add(v6.seeds),
            incomplete: v4.incomplete().saturating_add(v6.incomplete()),
            downloaded: self.number(20),
            downloaders: Some(v4.downloaders.saturating_add(v6.downloaders)),
        }
    }

    /// The bytes of the block.
    pub(super) fn memory(&self) -> usize {
        self.0.len()
    }

    /// The swarm of one family, to look at or to change; [`Torrent::keep`] keeps what was changed of its counts.
    pub(super) fn swarm<'a, const W: usize>(
        &'a mut self,
        indexes: &'a mut Indexes,
        secret: &'a Secret,
    ) -> Swarm<'a, W> {
        let (info_hash, counts, room, ids) =
            (self.info_hash(), self.counts::<W>(), self.room(), self.has_ids());
        let (v4, v6) = split_mut(self.0.get_mut(HEAD..).unwrap_or_default(), room.v4 * width::<V4>(ids));
        let (block, room) = if W == V4 { (v4, room.v4) } else { (v6, room.v6) };
        let (marks, rest) = split_mut(block, room * size_of::<Mark>());
        let (wires, ids) = split_mut(rest, room * W);
        Swarm {
            info_hash,
            counts,
            marks: marks.as_chunks_mut().0,
            wires: wires.as_chunks_mut().0,
            ids: ids.as_chunks_mut().0,
            indexes,
            secret,
        }
    }

    pub(super) fn keep<const W: usize>(&mut self, counts: Counts) {
        let at = place::<W>();
        let Counts { downloaders, paused, seeds } = counts;
        for (at, number) in [(at + 4, downloaders), (at + 8, paused), (at + 12, seeds)] {
            self.set_number(at, number);
        }
    }

    /// Makes room for one more peer of a family.
    pub(super) fn reserve<const W: usize>(&mut self, ids: bool) {
        let (length, mut room) = (self.counts::<W>().len(), self.room());
        let family = if W == V4 { &mut room.v4 } else { &mut room.v6 };
        if length >= *family {
            // By an eighth, as what is not used is paid for a million times.
            *family = length + (length / 8).max(2);
            self.resize(room, ids);
        }
    }

    /// Gives back room when much of it is unused.
    pub(super) fn fit(&mut self) {
        let room = self.room();
        let fitting = |length: usize, room: usize| {
            let ample = length == 0 || length + 4 < room * 3 / 4;
            if ample { length + length / 8 } else { room }
        };
        let v4 = fitting(self.counts::<V4>().len(), room.v4);
        let v6 = fitting(self.counts::<V6>().len(), room.v6);
        if (Room { v4, v6 }) != room {
            self.resize(Room { v4, v6 }, self.has_ids());
        }
    }

    /// Moves everything to where it stands with other room.
    fn resize(&mut self, room: Room, ids: bool) {
        let old = self.room();
        let (width4, width6) = (width::<V4>(ids), width::<V6>(ids));
        let size = HEAD + room.v4 * width4 + room.v6 * width6;
        let mut new = Self(vec![0; size].into());
        copy(&self.0, 0, &mut new.0, 0, HEAD);
        new.set_number(place::<V4>(), room.v4 as u32);
        new.set_number(place::<V6>(), room.v6 as u32);
        let (mut from, mut to) = (HEAD, HEAD);
        for (wire, width, old, room) in [(V4, width4, old.v4, room.v4), (V6, width6, old.v6, room.v6)] {
            let (mut from_column, mut to_column) = (from, to);
            for column in [size_of::<Mark>(), wire, width - wire - size_of::<Mark>()] {
                copy(&self.0, from_column, &mut new.0, to_column, column * old.min(room));
                from_column += column * old;
                to_column += column * room;
            }
            (from, to) = (from_column, to_column);
        }
        *self = new;
    }

    fn room(&self) -> Room {
        Room { v4: self.number(place::<V4>()) as usize, v6: self.number(place::<V6>()) as usize }
    }

    fn has_ids(&self) -> bool {
        let Room { v4, v6 } = self.room();
        self.0.len() > HEAD + v4 * width::<V4>(false) + v6 * width::<V6>(false)
    }

    fn number(&self, at: usize) -> u32 {
        let head: Option<&Head> = self.0.first_chunk();
        let bytes = head.and_then(|head| head.get(at..)?.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn set_number(&mut self, at: usize, number: u32) {
        let head: Option<&mut Head> = self.0.first_chunk_mut();
        if let Some(bytes) = head.and_then(|head| head.get_mut(at..)?.first_chunk_mut()) {
            *bytes = number.to_le_bytes();
        }
    }
}

/// A torrent's numbers by family, for statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TorrentStats {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Its IPv4 peers: seeds, and others.
    pub v4: (u32, u32),
    /// Its IPv6 peers: seeds, and others.
    pub v6: (u32, u32),
    /// All in all.
    pub stats: ScrapeStats,
}

impl TorrentStats {
    /// All peers.
    pub const fn peers(&self) -> u64 {
        self.stats.complete as u64 + self.stats.incomplete as u64
    }
}

impl TorrentStats {
    pub(super) fn of(torrent: &Torrent) -> Self {
        let (v4, v6) = (torrent.counts::<6>(), torrent.counts::<18>());
        Self {
            info_hash: torrent.info_hash(),
            v4: (v4.seeds, v4.incomplete()),
            v6: (v6.seeds, v6.incomplete()),
            stats: torrent.stats(),
        }
    }
}

/// Where a family's numbers stand in the head.
const fn place<const W: usize>() -> usize {
    if W == V4 { 24 } else { 24 + FAMILY }
}

/// The bytes of a peer.
const fn width<const W: usize>(ids: bool) -> usize {
    size_of::<Mark>() + W + if ids { size_of::<Id>() } else { 0 }
}

fn split_mut(bytes: &mut [u8], at: usize) -> (&mut [u8], &mut [u8]) {
    bytes.split_at_mut_checked(at).unwrap_or_default()
}

fn copy(from: &[u8], from_at: usize, to: &mut [u8], to_at: usize, length: usize) {
    if let (Some(from), Some(to)) = (from.get(from_at..from_at + length), to.get_mut(to_at..to_at + length)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::{
        super::swarm::{Asker, Kind, Record, Who},
        *,
    };

    const SECRET: Secret = Secret::new(7, 7);

    type Model = BTreeMap<u16, (u8, Kind)>;

    struct Peers<const W: usize> {
        torrent: Torrent,
        indexes: Indexes,
        ids: bool,
    }

    fn record<const W: usize>(port: u16, seen: u8, kind: Kind) -> Record<'static, W> {
        let mut wire = [7; W];
        *wire.last_chunk_mut().expect("longer") = port.to_be_bytes();
        Record { wire, hash: SECRET.address(&wire), who: Who(port), seen, kind, id: &[9; 20] }
    }

    impl<const W: usize> Peers<W> {
        fn new(ids: bool) -> Self {
            let torrent = Torrent::new(InfoHash::from_bytes([1; 20]), 0);
            Self { torrent, indexes: Indexes::new(), ids }
        }

        fn swarm(&mut self) -> Swarm<'_, W> {
            self.torrent.swarm(&mut self.indexes, &SECRET)
        }

        fn change<R>(&mut self, by: impl FnOnce(&mut Swarm<'_, W>) -> R) -> R {
            let mut swarm = self.swarm();
            let (result, counts) = (by(&mut swarm), swarm.counts);
            self.torrent.keep::<W>(counts);
            result
        }

        fn insert(&mut self, record: &Record<'_, W>) {
            self.torrent.reserve::<W>(self.ids);
            self.change(|swarm| swarm.insert(record));
        }

        fn find(&mut self, port: u16) -> Option<usize> {
            let record = record(port, 0, Kind::Seed);
            self.swarm().find(&record.wire, record.hash)
        }

        fn all(&mut self, downloaders_only: bool) -> Vec<u16> {
            let (mut wires, want) = (Vec::new(), usize::MAX - 1);
            self.swarm().pick(want, downloaders_only, 7, Asker::Nobody, &mut wires, None);
            ports::<W>(&wires)
        }
    }

    fn ports<const W: usize>(wires: &[u8]) -> Vec<u16> {
        let port = |wire: &[u8; W]| u16::from_be_bytes(*wire.last_chunk().expect("longer"));
        let mut ports: Vec<u16> = wires.as_chunks().0.iter().map(port).collect();
        ports.sort_unstable();
        ports
    }

    const KINDS: [Kind; 3] = [Kind::Downloader, Kind::Seed, Kind::Paused];

    /// Any sequence of changes leaves the same peers as a plain map would, with the index and without.
    fn agrees<const W: usize>(steps: &[(u16, u8)], ids: bool) {
        let mut peers = Peers::<W>::new(ids);
        let mut model = Model::new();
        // The other family stays as it is, whatever happens to this one.
        let mut other = Peers::<18>::new(ids);
        if W == V4 {
            other.insert(&record(5, 5, Kind::Paused));
            peers.torrent = other.torrent;
        }
        for (now, &(port, step)) in (0u32..).zip(steps) {
            let now = (now / 16) as u8;
            let kind = KINDS[usize::from(step % 3)];
            let record = record(port, now, kind);
            let found = peers.find(port);
            let swarm = peers.swarm();
            let state = found.map(|at| (swarm.seen(at), swarm.kind(at)));
            assert_eq!(state, model.get(&port).copied());
            match (step, found) {
                (0, Some(at)) => {
                    peers.change(|swarm| swarm.remove(at));
                    peers.torrent.fit();
                    model.remove(&port);
                }
                (1, _) => {
                    let gone = peers.change(|swarm| swarm.expire(now, 3, usize::MAX));
                    peers.torrent.fit();
                    let before = model.len();
                    model.retain(|_, (seen, _)| now.wrapping_sub(*seen) <= 3);
                    assert_eq!(gone, before - model.len());
                }
                (_, Some(at)) => {
                    peers.change(|swarm| swarm.update(at, &record));
                    model.insert(port, (now, kind));
                }
                (_, None) => {
                    peers.insert(&record);
                    model.insert(port, (now, kind));
                }
            }
            let count = |kind| model.values().filter(|(_, other)| *other == kind).count() as u32;
            let counts = Counts {
                downloaders: count(Kind::Downloader),
                paused: count(Kind::Paused),
                seeds: count(Kind::Seed),
            };
            assert_eq!(peers.torrent.counts::<W>(), counts);
        }
        assert_eq!(peers.all(false), model.keys().copied().collect::<Vec<_>>());
        let downloaders = model.iter().filter(|(_, (_, kind))| *kind == Kind::Downloader);
        assert_eq!(peers.all(true), downloaders.map(|(&port, _)| port).collect::<Vec<_>>());
        for (&port, &(seen, _)) in &model {
            let at = peers.find(port).expect("known");
            assert_eq!((peers.swarm().who(at), peers.swarm().seen(at)), (Who(port), seen));
        }
        if W == V4 {
            let mut other = Peers::<18> { torrent: peers.torrent, indexes: Indexes::new(), ids };
            let at = other.find(5).expect("still there");
            assert_eq!(
                (other.swarm().seen(at), other.swarm().who(at), other.all(false)),
                (5, Who(5), vec![5])
            );
        }
    }

    proptest! {
        #[test]
        fn a_small_swarm_agrees_with_a_map(
            steps in proptest::collection::vec((0u16..12, 0u8..10), 0..150),
            ids: bool,
        ) {
            agrees::<6>(&steps, ids);
            agrees::<18>(&steps, ids);
        }

        #[test]
        fn a_pick_is_of_different_peers_as_many_as_can_be(
            kinds in proptest::collection::vec(0usize..3, 0..20),
            want in 0usize..25,
            downloaders_only: bool,
            random: u32,
            asker in 0u16..25,
            named: bool,
        ) {
            let mut peers = Peers::<6>::new(true);
            for (port, &kind) in (0u16..).zip(&kinds) {
                peers.insert(&record(port, 0, KINDS[kind]));
            }
            let who = match peers.find(asker) {
                _ if named => Asker::Named(Who(asker), asker),
                Some(at) => Asker::At(at),
                None => Asker::Nobody,
            };
            let mut eligible = peers.all(downloaders_only);
            eligible.retain(|&port| port != asker);
            let (mut wires, mut ids) = (Vec::new(), Vec::new());
            let given = peers.swarm().pick(want, downloaders_only, random, who, &mut wires, Some(&mut ids));
            let mut picked = ports::<6>(&wires);
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
        agrees::<6>(&grow.chain(mix).chain(shrink).collect::<Vec<_>>(), false);
    }

    #[test]
    fn a_large_swarm_keeps_its_index_until_half_of_it_has_gone() {
        let mut peers = Peers::<6>::new(false);
        for round in 0..2 {
            for port in 0..2100 {
                peers.insert(&record(port, 0, Kind::Seed));
                assert_eq!(peers.indexes.len(), usize::from(port >= 2048), "round {round}, {port}");
            }
            for port in 0..2100 {
                let at = peers.find(port).expect("known");
                peers.change(|swarm| swarm.remove(at));
                assert_eq!(peers.indexes.len(), usize::from(port + 1 < 2100 - 1024), "round {round}, {port}");
            }
        }
    }

    #[test]
    fn a_pick_begins_anywhere() {
        let mut peers = Peers::<6>::new(false);
        for port in 0..10 {
            peers.insert(&record(port, 0, Kind::Seed));
        }
        let mut firsts = BTreeSet::new();
        for random in (0..=u32::MAX).step_by(1 << 26) {
            let mut wires = Vec::new();
            peers.swarm().pick(4, false, random, Asker::At(3), &mut wires, None);
            firsts.insert(ports::<6>(&wires[..6]));
        }
        assert_eq!(firsts.len(), 9);
    }

    #[test]
    fn room_is_ample_by_an_eighth_at_most() {
        let mut peers = Peers::<6>::new(false);
        for port in 0..40_000 {
            peers.insert(&record(port, 0, Kind::Seed));
            let used = HEAD + (usize::from(port) + 1) * 10;
            assert!(peers.torrent.memory() <= used + used / 8 + 20, "{} for {used}", peers.torrent.memory());
        }
        for port in 0..40_000 {
            let at = peers.find(port).expect("known");
            peers.change(|swarm| swarm.remove(at));
            peers.torrent.fit();
            let used = HEAD + (40_000 - usize::from(port) - 1) * 10;
            assert!(peers.torrent.memory() <= used + used / 3 + 80, "{} for {used}", peers.torrent.memory());
        }
        assert_eq!(peers.torrent.memory(), HEAD);
    }
}
