//! What to simulate, and what came of it.

use std::time::Duration;

use metainfo::Geometry;

/// A node's connection to the network.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Bytes per second that it can send.
    pub up: f64,
    /// Bytes per second that it can receive.
    pub down: f64,
    /// The time a message takes to any other node.
    pub latency: Duration,
}

impl Link {
    /// The same in both directions, with half a millisecond of latency.
    pub const fn symmetric(bytes_per_second: f64) -> Self {
        Self { up: bytes_per_second, down: bytes_per_second, latency: Duration::from_micros(500) }
    }
}

/// One node's part.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Its connection.
    pub link: Link,
    /// It has everything at the start.
    pub seed: bool,
    /// When it comes.
    pub joins: Duration,
    /// When it goes, if it does.
    pub leaves: Option<Duration>,
    /// Of a thousand requests that it serves, it answers this many with wrong bytes.
    pub corrupts: u32,
    /// Something reads its content in order, and moves on as the pieces come.
    pub reads: bool,
}

impl Node {
    /// A node that is there from the start and stays.
    pub const fn new(link: Link) -> Self {
        Self { link, seed: false, joins: Duration::ZERO, leaves: None, corrupts: 0, reads: false }
    }

    /// The same node with everything at the start.
    #[must_use]
    pub const fn seed(mut self) -> Self {
        self.seed = true;
        self
    }
}

/// A whole simulation.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The content.
    pub geometry: Geometry,
    /// Who takes part.
    pub nodes: Vec<Node>,
    /// To how many others each node connects at most; two leave a ring, more a random graph.
    pub degree: usize,
    /// How the brains behave; each gets a random seed of its own.
    pub config: swarm::Config,
    /// Everything random comes from here.
    pub random_seed: u64,
    /// When to give up.
    pub deadline: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// When each node had everything, counted from its joining; `None` for those who never did.
    pub finished: Vec<Option<Duration>>,
    /// Payload bytes that each node sent.
    pub sent: Vec<u64>,
    /// When each node had the first quarter in order, counted from its joining.
    pub first_quarter: Vec<Option<Duration>>,
    /// Pairs of nodes of which the first banned the second for wrong bytes.
    pub bans: Vec<(usize, usize)>,
    /// Payload bytes received twice or in vain, by all.
    pub wasted: u64,
}

impl Report {
    /// When the last node that was meant to finish did, or `None` if one did not.
    pub fn last(&self, scenario: &Scenario) -> Option<Duration> {
        let meant =
            scenario.nodes.iter().zip(&self.finished).filter(|(node, _)| !node.seed && node.leaves.is_none());
        meant.map(|(_, finished)| *finished).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}
