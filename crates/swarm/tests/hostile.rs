//! Peers that say anything at any time: the brain keeps its books and never gives up.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use longshore_swarm::{
    BlockVerdict, Config, Event, PeerInfo, PeerKey, PieceSet, SourceKind, Swarm, Time, Verified,
};
use metainfo::{Geometry, PieceIndex};
use proptest::prelude::*;
use wire::{BlockRange, Message, PeerId};

const PIECES: u32 = 7;

#[derive(Clone, Debug)]
enum Op {
    Connect(u64, bool),
    Disconnect(u64),
    Say(u64, Message),
    /// Answers one of the requests that the peer was sent, the nth.
    Answer(u64, usize),
    /// Sends a block that was perhaps never asked for.
    Block(u64, BlockRange),
    Verdict(usize, u8),
    Supply(u32),
    Upload(u64),
    Read(u32),
    Tick(u64),
}

fn range() -> impl Strategy<Value = BlockRange> {
    let begin = prop_oneof![Just(0u32), Just(16384), Just(32768), any::<u32>()];
    let length = prop_oneof![Just(16384u32), Just(65536), Just(1), any::<u32>()];
    (0..PIECES + 2, begin, length).prop_map(|(piece, begin, length)| BlockRange {
        piece: PieceIndex(piece),
        begin,
        length,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let piece = || (0..PIECES + 2).prop_map(PieceIndex);
    prop_oneof![
        1 => Just(Message::Choke),
        3 => Just(Message::Unchoke),
        2 => Just(Message::Interested),
        1 => Just(Message::NotInterested),
        2 => Just(Message::HaveAll),
        1 => Just(Message::HaveNone),
        4 => piece().prop_map(Message::Have),
        1 => piece().prop_map(Message::Suggest),
        1 => range().prop_map(Message::Request),
        1 => range().prop_map(Message::Cancel),
        1 => range().prop_map(Message::Reject),
        1 => any::<u8>().prop_map(|bits| Message::Bitfield(Bytes::from(vec![bits & 0xfe]))),
        1 => Just(Message::Bitfield(Bytes::from_static(b"wrong length"))),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let peer = || 0u64..4;
    prop_oneof![
        1 => (peer(), any::<bool>()).prop_map(|(p, fast)| Op::Connect(p, fast)),
        1 => peer().prop_map(Op::Disconnect),
        8 => (peer(), message()).prop_map(|(p, m)| Op::Say(p, m)),
        12 => (peer(), 0usize..8).prop_map(|(p, n)| Op::Answer(p, n)),
        1 => (peer(), range()).prop_map(|(p, r)| Op::Block(p, r)),
        6 => (0usize..4, 0u8..8).prop_map(|(n, v)| Op::Verdict(n, v)),
        1 => (0..PIECES + 2).prop_map(Op::Supply),
        2 => peer().prop_map(Op::Upload),
        1 => (0..PIECES + 2).prop_map(Op::Read),
        2 => (1u64..12_000).prop_map(Op::Tick),
    ]
}

/// The world around a swarm: what it asked of whom, and what it waits to have verified.
struct World {
    swarm: Swarm,
    now: Time,
    connected: BTreeSet<u64>,
    /// How often each peer has gone.
    comings: [u64; 4],
    asked: Vec<(u64, BlockRange)>,
    checking: Vec<PieceIndex>,
}

impl World {
    fn new(seed: bool) -> Self {
        let geometry = Geometry::new(u64::from(PIECES) * 65536 - 20_000, 65536).expect("valid");
        let have = if seed { PieceSet::full(PIECES) } else { PieceSet::empty(PIECES) };
        let config = Config { upload_slots: 2, max_active: 4 * 65536, ..Config::default() };
        let (connected, asked, checking) = (BTreeSet::new(), Vec::new(), Vec::new());
        let swarm = Swarm::new(geometry, have, config);
        Self { swarm, now: Time(1), connected, comings: [0; 4], asked, checking }
    }

    fn apply(&mut self, mut op: Op) {
        self.now = self.now + Duration::from_millis(3);
        let now = self.now;
        // A number is never used twice: a peer that comes back has the next one of its row.
        if let Op::Connect(peer, _)
        | Op::Disconnect(peer)
        | Op::Say(peer, _)
        | Op::Answer(peer, _)
        | Op::Block(peer, _)
        | Op::Upload(peer) = &mut op
        {
            *peer += 10 * self.comings[*peer as usize];
        }
        match op {
            Op::Connect(peer, fast) if self.connected.insert(peer) => {
                let address = ([10, 0, 0, peer as u8], 1).into();
                let info = PeerInfo { address, id: PeerId::ours([peer as u8; 12]), fast, incoming: false };
                self.swarm.on_connected(PeerKey(peer), info, now);
                self.swarm.on_limits(PeerKey(peer), Some(u32::MAX), Some(u32::MAX));
            }
            Op::Connect(..) => {}
            Op::Disconnect(peer) => self.drop_peer(peer),
            Op::Say(peer, message) => self.swarm.on_message(PeerKey(peer), message, now),
            Op::Answer(peer, n) => {
                let mut of_peer = self.asked.iter().enumerate().filter(|(_, (p, _))| *p == peer);
                if let Some(at) = of_peer.nth(n).map(|(at, _)| at) {
                    let (_, range) = self.asked.remove(at);
                    self.block(peer, range);
                }
            }
            Op::Block(peer, range) => self.block(peer, range),
            Op::Verdict(n, verdict) => {
                if n < self.checking.len() {
                    let piece = self.checking.remove(n);
                    let blocks = self.swarm.geometry().block_count(piece) as usize;
                    let verdict = match verdict {
                        0 => Verified::NotWritten,
                        1 | 2 => Verified::Bad { block_hashes: vec![[verdict; 20]; blocks] },
                        _ => Verified::Good { block_hashes: vec![[9; 20]; blocks] },
                    };
                    self.swarm.on_verified(piece, verdict, now);
                }
            }
            Op::Supply(piece) => {
                self.swarm.on_supplied(PieceIndex(piece), SourceKind::Origin, now);
                self.checking.retain(|checking| checking.0 != piece);
            }
            Op::Upload(peer) => {
                if let Some(range) = self.swarm.next_upload(PeerKey(peer), now) {
                    let geometry = self.swarm.geometry();
                    assert!(geometry.contains(range.piece, range.begin, range.length), "{range:?}");
                    assert!(self.swarm.have().contains(range.piece), "only proven pieces are served");
                }
            }
            Op::Read(piece) => self.swarm.set_reader(1, PieceIndex(piece), now),
            Op::Tick(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                self.swarm.on_tick(self.now);
            }
        }
        self.settle();
    }

    fn block(&mut self, peer: u64, range: BlockRange) {
        let expected = self.swarm.expects(PeerKey(peer), range);
        let verdict = self.swarm.on_block(PeerKey(peer), range, self.now);
        if let BlockVerdict::Keep { begin, length } = verdict {
            assert!(expected, "what is kept was worth receiving");
            assert!(begin >= range.begin && u64::from(begin) + u64::from(length) <= range.end());
        }
    }

    fn drop_peer(&mut self, peer: u64) {
        if self.connected.remove(&peer) {
            self.comings[(peer % 10) as usize] += 1;
            self.asked.retain(|(p, _)| *p != peer);
            self.swarm.on_disconnected(PeerKey(peer), self.now);
        }
    }

    fn settle(&mut self) {
        let mut gone = Vec::new();
        while let Some(event) = self.swarm.poll_event() {
            match event {
                Event::Verify { piece, .. } => {
                    assert!(!self.checking.contains(&piece), "once at a time");
                    assert!(!self.swarm.have().contains(piece));
                    self.checking.push(piece);
                }
                Event::Disconnect(peer, _) => gone.push(peer.0),
                Event::Complete => assert!(self.swarm.is_complete()),
                _ => {}
            }
        }
        for peer in self.swarm.take_dirty() {
            let mut messages = Vec::new();
            self.swarm.drain_messages(peer, &mut messages);
            for message in messages {
                match message {
                    Message::Request(range) => {
                        let geometry = self.swarm.geometry();
                        assert!(geometry.contains(range.piece, range.begin, range.length), "{range:?}");
                        assert!(!self.swarm.have().contains(range.piece), "what is here is not asked for");
                        self.asked.push((peer.0, range));
                    }
                    Message::Cancel(range) => self.asked.retain(|(p, r)| (*p, *r) != (peer.0, range)),
                    Message::Have(piece) => assert!(self.swarm.have().contains(piece), "no lies"),
                    _ => {}
                }
            }
        }
        gone.into_iter().for_each(|peer| self.drop_peer(peer));
        let peers: Vec<_> = self.swarm.peers(self.now).collect();
        assert_eq!(peers.len(), self.connected.len());
    }
}

#[test]
fn a_peer_that_floods_and_reads_nothing_is_dropped_before_it_fills_the_memory() {
    for seed in [true, false] {
        let mut world = World::new(seed);
        let now = world.now;
        world.apply(Op::Connect(1, true));
        let range = BlockRange { piece: PieceIndex(0), begin: 0, length: 16384 };
        // Nothing is drained: the peer does not read.
        let dropped = (0..20_000).any(|_| {
            world.swarm.on_message(PeerKey(1), Message::Request(range), now);
            matches!(world.swarm.poll_event(), Some(Event::Disconnect(PeerKey(1), _)))
        });
        assert!(dropped);
    }
}

#[test]
fn peers_that_come_and_go_leave_nothing_behind_in_a_seed() {
    let mut world = World::new(true);
    for _ in 0..500 {
        world.apply(Op::Connect(1, true));
        world.apply(Op::Say(1, Message::Bitfield(Bytes::from(vec![0b1111_0000]))));
        world.apply(Op::Disconnect(1));
    }
    assert!(format!("{:?}", world.swarm).len() < 20_000, "{}", format!("{:?}", world.swarm).len());
}

proptest! {
    #[test]
    fn the_books_stay_in_order(ops in prop::collection::vec(op(), 0..250), seed in any::<bool>()) {
        let mut world = World::new(seed);
        ops.into_iter().for_each(|op| world.apply(op));
        // Whatever happened, one honest seed makes it whole.
        world.connected.clone().into_iter().for_each(|peer| world.drop_peer(peer));
        world.settle();
        while let Some(piece) = world.checking.pop() {
            world.swarm.on_verified(piece, Verified::NotWritten, world.now);
            world.settle();
        }
        world.apply(Op::Connect(3, true));
        world.apply(Op::Say(3, Message::HaveAll));
        world.apply(Op::Say(3, Message::Unchoke));
        for _ in 0..400 {
            if world.swarm.is_complete() {
                break;
            }
            world.apply(Op::Answer(3, 0));
            world.apply(Op::Verdict(0, 7));
            world.apply(Op::Tick(100));
        }
        prop_assert!(world.swarm.is_complete(), "{:?}", world.swarm);
    }
}
