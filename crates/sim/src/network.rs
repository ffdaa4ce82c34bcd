//! Virtual time and the links: what arrives when.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use metainfo::PieceIndex;
use swarm::Time;
use wire::{BlockRange, Message};

use crate::scenario::Link;

/// Something that will happen to a node.
#[derive(Debug)]
pub(crate) enum Happening {
    Join,
    Leave,
    Tick,
    Messages { from: usize, messages: Vec<Message> },
    Block { from: usize, range: BlockRange, wrong: bool },
    UplinkFree,
    Checked(PieceIndex),
}

struct Entry {
    at: Time,
    order: u64,
    node: usize,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The future, in order.
#[derive(Default)]
pub(crate) struct Agenda {
    entries: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl Agenda {
    pub(crate) fn add(&mut self, at: Time, node: usize, what: Happening) {
        self.order += 1;
        self.entries.push(Reverse(Entry { at, order: self.order, node, what }));
    }

    pub(crate) fn next(&mut self) -> Option<(Time, usize, Happening)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.node, entry.what))
    }
}

/// One node's two lines.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) link: Link,
    /// Peers with something waiting to be sent, in turn.
    pub(crate) waiting: VecDeque<usize>,
    pub(crate) sending: bool,
    down_free: Time,
    pub(crate) sent: u64,
}

impl Lines {
    pub(crate) const fn new(link: Link) -> Self {
        Self { link, waiting: VecDeque::new(), sending: false, down_free: Time(0), sent: 0 }
    }

    /// How long the uplink is busy with so many bytes.
    pub(crate) fn send(&mut self, bytes: u32) -> Duration {
        self.sent += u64::from(bytes);
        Duration::from_secs_f64(f64::from(bytes) / self.link.up)
    }

    /// When bytes whose last was on the wire at `at` are here.
    pub(crate) fn receive(&mut self, bytes: u32, at: Time) -> Time {
        let line = self.down_free + Duration::from_secs_f64(f64::from(bytes) / self.link.down);
        self.down_free = line.max(at);
        self.down_free
    }
}
