//! What the tracker counts, for Prometheus.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::peers::Outcome;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Kind {
    /// A new peer.
    Added,
    /// A known peer.
    Renewed,
    /// A peer that left.
    Stopped,
    /// A peer that does not listen.
    Deaf,
    /// A peer for which there was no room.
    Full,
    /// A request that made no sense.
    Malformed,
}

impl From<Outcome> for Kind {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Added => Self::Added,
            Outcome::Renewed => Self::Renewed,
            Outcome::Stopped => Self::Stopped,
            Outcome::Deaf => Self::Deaf,
            Outcome::Full => Self::Full,
        }
    }
}

/// What a claim was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Answer {
    /// The torrent.
    Known,
    /// The lease.
    Leased,
    /// Who holds the lease.
    Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByOutcome {
    outcome: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByAnswer {
    answer: Answer,
}

/// Figures that are read off when they are asked for.
pub(crate) struct Levels {
    pub(crate) torrents: usize,
    pub(crate) peers: usize,
    pub(crate) leases: usize,
    pub(crate) waiting: usize,
    pub(crate) entries: u64,
    pub(crate) tags: u64,
    pub(crate) connections: usize,
}

pub(crate) struct Metrics {
    registry: Registry,
    announces: Family<ByOutcome, Counter>,
    claims: Family<ByAnswer, Counter>,
    pub(crate) scrapes: Counter,
    pub(crate) publications: Counter,
    pub(crate) refused: Counter,
    pub(crate) expired: Counter,
    levels: [Gauge; 7],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("longshore_tracker");
        let announces = Family::default();
        registry.register("announces", "Announces by what became of them", announces.clone());
        let claims = Family::default();
        registry.register("claims", "Claims of blobs by what was answered", claims.clone());
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let scrapes = counter("scrapes", "Scrapes answered");
        let publications = counter("publications", "Blobs published in the directory");
        let refused = counter("refused", "Calls without the right token");
        let expired = counter("expired_peers", "Peers forgotten since they did not announce");
        let levels = [
            ("torrents", "Torrents with peers"),
            ("peers", "Peers"),
            ("leases", "Leases to fetch from an origin"),
            ("waiting_claims", "Claims that wait for a torrent or a lease"),
            ("directory_blobs", "Blobs in the directory"),
            ("directory_tags", "Tags in the directory"),
            ("connections", "Open connections"),
        ]
        .map(|(name, help)| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        });
        Self { registry, announces, claims, scrapes, publications, refused, expired, levels }
    }

    pub(crate) fn announced(&self, outcome: Kind) {
        self.announces.get_or_create(&ByOutcome { outcome }).inc();
    }

    pub(crate) fn claimed(&self, answer: Answer) {
        self.claims.get_or_create(&ByAnswer { answer }).inc();
    }

    pub(crate) fn text(&self, levels: &Levels) -> String {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let values = [
            levels.torrents as u64,
            levels.peers as u64,
            levels.leases as u64,
            levels.waiting as u64,
            levels.entries,
            levels.tags,
            levels.connections as u64,
        ];
        for (gauge, value) in self.levels.iter().zip(values) {
            gauge.set(signed(value));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
