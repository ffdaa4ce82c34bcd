//! Counters, one set for each worker and family, so that workers do not wait for one another's.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{endpoint::Listen, places::NoPlace, store::Outcome};

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It makes no sense.
    Malformed,
    /// It is not welcome.
    Refused,
    /// Its UDP connection id is not one that we gave to its address, or is too old.
    Connection,
    /// It is longer than anything sensible.
    TooLong,
    /// It was not all there in time, or its answer was not taken in time.
    Slow,
    /// There was no room for it.
    Busy,
    /// Its host has as many connections as one may have.
    Crowd,
    /// A proxy does not say for whom it asks, or not so that it can be read; or somebody does who is no trusted proxy.
    Proxy,
    /// It did not come to TLS.
    Handshake,
    /// Its network asks more often than it may.
    Limited,
}

impl From<NoPlace> for Fault {
    fn from(why: NoPlace) -> Self {
        match why {
            NoPlace::Full => Self::Busy,
            NoPlace::Crowd => Self::Crowd,
        }
    }
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Refused,
        Self::Connection,
        Self::TooLong,
        Self::Slow,
        Self::Busy,
        Self::Crowd,
        Self::Proxy,
        Self::Handshake,
        Self::Limited,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::Connection => "connection",
            Self::TooLong => "too_long",
            Self::Slow => "slow",
            Self::Busy => "busy",
            Self::Crowd => "crowd",
            Self::Proxy => "proxy",
            Self::Handshake => "handshake",
            Self::Limited => "limited",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Udp,
    Http,
    Https,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts of one family.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    /// Connections: TCP's, or UDP's connection ids given.
    pub(crate) connects: Counter,
    announces: [Counter; Outcome::ALL.len()],
    pub(crate) scrapes: Counter,
    faults: [Counter; Fault::ALL.len()],
}

impl Counts {
    pub(crate) fn announced(&self, outcome: Outcome) {
        if let Some(counter) = self.announces.get(outcome as usize) {
            counter.bump();
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(counter) = self.faults.get(fault as usize) {
            counter.bump();
        }
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    v4: Counts,
    v6: Counts,
    unix: Counts,
}

impl Tally {
    /// Those of an address's family; an IPv4 address that is written as IPv6 counts as what it is. Without an address,
    /// those of a unix socket's proxy itself.
    pub(crate) fn of(&self, ip: impl Into<Option<IpAddr>>) -> &Counts {
        match ip.into().map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(_)) => &self.v4,
            Some(IpAddr::V6(_)) => &self.v6,
            None => &self.unix,
        }
    }
}

/// What all workers of a listener count.
#[derive(Debug, Clone)]
pub(crate) struct Tallies {
    pub(crate) listener: Listen,
    pub(crate) protocol: Protocol,
    pub(crate) workers: Vec<Arc<Tally>>,
}

/// One family's counters of one listener, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) listener: Listen,
    pub(crate) protocol: Protocol,
    pub(crate) family: &'static str,
    pub(crate) connects: u64,
    pub(crate) announces: [u64; Outcome::ALL.len()],
    pub(crate) scrapes: u64,
    pub(crate) faults: [u64; Fault::ALL.len()],
}

impl Tallies {
    pub(crate) fn new(listener: Listen, protocol: Protocol, workers: usize) -> Self {
        Self { listener, protocol, workers: (0..workers).map(|_| Arc::default()).collect() }
    }

    /// Each family's that can come here: clients behind a unix socket have an address, and their proxy has none.
    pub(crate) fn sums<'a>(&'a self) -> impl Iterator<Item = Sums> {
        let unix = matches!(self.listener, Listen::Unix(_));
        let families = ["ipv4", "ipv6", "unix"].into_iter().take(if unix { 3 } else { 2 });
        families.map(|family| {
            let of = |tally: &'a Arc<Tally>| match family {
                "ipv4" => &tally.v4,
                "ipv6" => &tally.v6,
                _ => &tally.unix,
            };
            let sum = |read: &dyn Fn(&Counts) -> u64| self.workers.iter().map(|tally| read(of(tally))).sum();
            let at = |counters: &[Counter], n: usize| counters.get(n).map_or(0, Counter::get);
            Sums {
                listener: self.listener.clone(),
                protocol: self.protocol,
                family,
                connects: sum(&|counts| counts.connects.get()),
                announces: std::array::from_fn(|n| sum(&|counts| at(&counts.announces, n))),
                scrapes: sum(&|counts| counts.scrapes.get()),
                faults: std::array::from_fn(|n| sum(&|counts| at(&counts.faults, n))),
            }
        })
    }
}
