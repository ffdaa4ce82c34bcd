//! The run of a scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use metainfo::{BLOCK_LENGTH, PieceIndex};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use swarm::{BlockVerdict, Event, PeerGone, PeerInfo, PeerKey, PieceSet, Swarm, Time, Verified};
use wire::{BlockRange, Message, PeerId};

use crate::{
    network::{Agenda, Happening, Lines},
    scenario::{Report, Scenario},
};

/// What checking and writing a piece takes.
const CHECK: Duration = Duration::from_millis(1);

/// A scenario under way.
pub struct Simulation {
    scenario: Scenario,
    agenda: Agenda,
    rng: StdRng,
    nodes: Vec<State>,
    /// Who may connect to whom.
    neighbours: Vec<BTreeSet<usize>>,
    bans: Vec<(usize, usize)>,
}

struct State {
    swarm: Swarm,
    lines: Lines,
    here: bool,
    next_tick: Option<Time>,
    /// The giver of each wrong block of the pieces on their way.
    wrong: BTreeMap<PieceIndex, BTreeMap<u32, usize>>,
    finished: Option<Time>,
    first_quarter: Option<Time>,
    /// Pieces proven in order from the first.
    prefix: u32,
}

impl Simulation {
    /// Sets the scene.
    pub fn new(scenario: Scenario) -> Self {
        let mut rng = StdRng::seed_from_u64(scenario.random_seed);
        let mut agenda = Agenda::default();
        let pieces = scenario.geometry.piece_count();
        let mut nodes = Vec::new();
        for (index, node) in scenario.nodes.iter().enumerate() {
            let have = if node.seed { PieceSet::full(pieces) } else { PieceSet::empty(pieces) };
            let config =
                swarm::Config { random_seed: swarm::peer_tag(&peer_id(index)), ..scenario.config.clone() };
            let mut swarm = Swarm::new(scenario.geometry, have, config);
            if node.reads {
                swarm.set_reader(0, PieceIndex(0), Time(0));
            }
            nodes.push(State {
                swarm,
                lines: Lines::new(node.link),
                here: false,
                next_tick: None,
                wrong: BTreeMap::new(),
                finished: None,
                first_quarter: None,
                prefix: 0,
            });
            agenda.add(Time(0) + node.joins, index, Happening::Join);
            if let Some(leaves) = node.leaves {
                agenda.add(Time(0) + leaves, index, Happening::Leave);
            }
        }
        let neighbours = graph(scenario.nodes.len(), scenario.degree, &mut rng);
        Self { scenario, agenda, rng, nodes, neighbours, bans: Vec::new() }
    }

    /// Runs until nothing moves, everybody has everything, or the deadline.
    pub fn run(mut self) -> Report {
        let deadline = Time(0) + self.scenario.deadline;
        while let Some((now, node, what)) = self.agenda.next() {
            if now > deadline || self.is_over() {
                break;
            }
            self.happen(now, node, what);
        }
        let since =
            |node: usize, at: Option<Time>| at.map(|at| at.since(Time(0) + self.scenario.nodes[node].joins));
        Report {
            finished: (0..self.nodes.len()).map(|n| since(n, self.nodes[n].finished)).collect(),
            first_quarter: (0..self.nodes.len()).map(|n| since(n, self.nodes[n].first_quarter)).collect(),
            sent: self.nodes.iter().map(|n| n.lines.sent).collect(),
            wasted: self.nodes.iter().flat_map(|n| n.swarm.provenance().sources()).map(|s| s.wasted).sum(),
            bans: self.bans,
        }
    }

    fn is_over(&self) -> bool {
        let mut both = self.nodes.iter().zip(&self.scenario.nodes);
        both.all(|(state, node)| state.swarm.is_complete() || node.leaves.is_some())
    }

    fn happen(&mut self, now: Time, node: usize, what: Happening) {
        match what {
            Happening::Join => self.join(now, node),
            Happening::Leave => self.leave(now, node),
            Happening::Tick => {
                if self.nodes[node].next_tick.is_some_and(|at| at <= now) {
                    self.nodes[node].next_tick = None;
                    self.nodes[node].swarm.on_tick(now);
                }
            }
            Happening::Messages { from, messages } => {
                for message in messages {
                    self.nodes[node].swarm.on_message(key(from), message, now);
                }
            }
            Happening::Block { from, range, wrong } => self.block(now, node, from, range, wrong),
            Happening::UplinkFree => self.nodes[node].lines.sending = false,
            Happening::Checked(piece) => self.checked(now, node, piece),
        }
        self.settle(now, node);
    }

    fn join(&mut self, now: Time, node: usize) {
        self.nodes[node].here = true;
        for other in self.neighbours[node].clone() {
            if self.nodes[other].here {
                let fast = true;
                self.nodes[node].swarm.on_connected(key(other), info(other, fast), now);
                self.nodes[other].swarm.on_connected(key(node), info(node, fast), now);
                let (most, queue) = (Some(wire::LONGEST_REQUEST), Some(2048));
                self.nodes[node].swarm.on_limits(key(other), most, queue);
                self.nodes[other].swarm.on_limits(key(node), most, queue);
                self.settle(now, other);
            }
        }
    }

    fn leave(&mut self, now: Time, node: usize) {
        self.nodes[node].here = false;
        for other in self.neighbours[node].clone() {
            self.disconnect(now, node, other);
        }
    }

    fn disconnect(&mut self, now: Time, a: usize, b: usize) {
        self.nodes[a].swarm.on_disconnected(key(b), now);
        self.nodes[b].swarm.on_disconnected(key(a), now);
        self.settle(now, b);
    }

    fn block(&mut self, now: Time, node: usize, from: usize, range: BlockRange, wrong: bool) {
        let state = &mut self.nodes[node];
        let verdict = state.swarm.on_block(key(from), range, now);
        if let (BlockVerdict::Keep { begin, length }, true) = (verdict, wrong) {
            let blocks = begin / BLOCK_LENGTH..(begin + length).div_ceil(BLOCK_LENGTH);
            state.wrong.entry(range.piece).or_default().extend(blocks.map(|block| (block, from)));
        }
    }

    fn checked(&mut self, now: Time, node: usize, piece: PieceIndex) {
        let blocks = self.scenario.geometry.block_count(piece);
        let quarter = self.scenario.geometry.piece_count().div_ceil(4);
        let reads = self.scenario.nodes[node].reads;
        let state = &mut self.nodes[node];
        let wrong = state.wrong.remove(&piece).unwrap_or_default();
        let hash = |block| wrong.get(&block).map_or([0; 20], |giver| [*giver as u8 + 1; 20]);
        let block_hashes = (0..blocks).map(hash).collect();
        let verdict =
            if wrong.is_empty() { Verified::Good { block_hashes } } else { Verified::Bad { block_hashes } };
        state.swarm.on_verified(piece, verdict, now);
        while state.swarm.have().contains(PieceIndex(state.prefix)) {
            state.prefix += 1;
        }
        if state.prefix >= quarter {
            state.first_quarter.get_or_insert(now);
        }
        if reads {
            state.swarm.set_reader(0, PieceIndex(state.prefix), now);
        }
    }

    /// Carries out what a node's brain wants after something happened to it.
    fn settle(&mut self, now: Time, node: usize) {
        while let Some(event) = self.nodes[node].swarm.poll_event() {
            match event {
                Event::Verify { piece, .. } => self.agenda.add(now + CHECK, node, Happening::Checked(piece)),
                Event::Disconnect(peer, why) => {
                    let other = peer.0 as usize;
                    if matches!(why, PeerGone::WrongBytes(_)) {
                        self.bans.push((node, other));
                        self.neighbours[node].remove(&other);
                        self.neighbours[other].remove(&node);
                    }
                    self.disconnect(now, node, other);
                }
                Event::Complete => self.nodes[node].finished = Some(now),
                _ => {}
            }
        }
        let latency = self.scenario.nodes[node].link.latency;
        for peer in self.nodes[node].swarm.take_dirty() {
            let other = peer.0 as usize;
            let mut messages: Vec<Message> = Vec::new();
            self.nodes[node].swarm.drain_messages(peer, &mut messages);
            if !messages.is_empty() {
                self.agenda.add(now + latency, other, Happening::Messages { from: node, messages });
            }
            let lines = &mut self.nodes[node].lines;
            if !lines.waiting.contains(&other) {
                lines.waiting.push_back(other);
            }
        }
        self.send(now, node);
        let tick = self.nodes[node].swarm.next_tick();
        if let (Some(at), None) = (tick, self.nodes[node].next_tick) {
            let at = at.max(now + Duration::from_millis(1));
            self.nodes[node].next_tick = Some(at);
            self.agenda.add(at, node, Happening::Tick);
        }
    }

    /// Puts the next request's bytes on the uplink if it is free.
    fn send(&mut self, now: Time, node: usize) {
        let corrupts = self.scenario.nodes[node].corrupts;
        while !self.nodes[node].lines.sending {
            let state = &mut self.nodes[node];
            let Some(other) = state.lines.waiting.pop_front() else { return };
            let Some(range) = state.swarm.next_upload(key(other), now) else { continue };
            state.lines.waiting.push_back(other);
            state.lines.sending = true;
            let sent = now + state.lines.send(range.length);
            let latency = state.lines.link.latency;
            self.agenda.add(sent, node, Happening::UplinkFree);
            let arrives = self.nodes[other].lines.receive(range.length, sent + latency);
            let wrong = corrupts > 0 && self.rng.random_range(0..1000) < corrupts;
            self.agenda.add(arrives, other, Happening::Block { from: node, range, wrong });
        }
    }
}

const fn key(node: usize) -> PeerKey {
    PeerKey(node as u64)
}

fn peer_id(node: usize) -> PeerId {
    let mut random = [0; 12];
    // Spread, so that nearness to pieces is even.
    random[4..].copy_from_slice(&(node as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    PeerId::ours(random)
}

fn info(node: usize, fast: bool) -> PeerInfo {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + node as u32);
    PeerInfo { address: SocketAddr::from((ip, 6881)), id: peer_id(node), fast, incoming: false }
}

/// A ring, so that all are connected, and random edges up to the degree.
fn graph(nodes: usize, degree: usize, rng: &mut StdRng) -> Vec<BTreeSet<usize>> {
    let mut edges = vec![BTreeSet::new(); nodes];
    let connect = |edges: &mut Vec<BTreeSet<usize>>, a: usize, b: usize| {
        if a != b {
            edges[a].insert(b);
            edges[b].insert(a);
        }
    };
    for node in 0..nodes {
        connect(&mut edges, node, (node + 1) % nodes);
    }
    let mut pairs: Vec<(usize, usize)> = (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    pairs.shuffle(rng);
    for (a, b) in pairs {
        if edges[a].len() < degree && edges[b].len() < degree {
            connect(&mut edges, a, b);
        }
    }
    edges
}
