//! What `/stats` shows: counters by protocol and family, and the largest torrents.

use std::{cmp::Reverse, collections::BinaryHeap, fmt};

use serde::Serialize;

use crate::{
    api::Shared,
    cluster::Member,
    store::{Outcome, TorrentStats},
    tally::{Fault, Protocol, Tallies},
};

/// The most torrents that are shown.
const MAX_TOP: usize = 1000;

#[derive(Debug, Default, Serialize)]
pub(crate) struct Stats {
    pub(crate) version: &'static str,
    pub(crate) uptime_seconds: u64,
    pub(crate) torrents: usize,
    pub(crate) peers: usize,
    /// Peers and seeds by family, once all of them have been counted.
    pub(crate) ipv4: Family,
    pub(crate) ipv6: Family,
    pub(crate) connections: usize,
    pub(crate) requests: Vec<Requests>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) members: Vec<Member>,
    pub(crate) top: Vec<Top>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Family {
    pub(crate) seeds: u64,
    pub(crate) leechers: u64,
}

/// What was asked by one protocol and family, over all listeners.
#[derive(Debug, Serialize)]
pub(crate) struct Requests {
    pub(crate) protocol: &'static str,
    pub(crate) family: &'static str,
    pub(crate) connects: u64,
    pub(crate) announces: u64,
    pub(crate) scrapes: u64,
    pub(crate) outcomes: Vec<(&'static str, u64)>,
    pub(crate) faults: Vec<(&'static str, u64)>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Top {
    pub(crate) info_hash: String,
    pub(crate) complete: u32,
    pub(crate) incomplete: u32,
    pub(crate) downloaded: u32,
    pub(crate) ipv4: u32,
    pub(crate) ipv6: u32,
}

impl Stats {
    /// Counts. Walks all torrents, a shard at a time.
    pub(crate) fn gather(shared: &Shared, top: usize) -> Self {
        let store = &shared.desk.store;
        let (torrents, peers) = store.totals();
        let top = top.min(MAX_TOP);
        let (mut v4, mut v6) = (Family::default(), Family::default());
        // The least of the largest on top.
        let mut largest: BinaryHeap<Reverse<Ranked>> = BinaryHeap::with_capacity(top + 1);
        for step in 0..store.steps() {
            store.visit(step, |torrent| {
                v4.add(torrent.v4);
                v6.add(torrent.v6);
                largest.push(Reverse(Ranked(torrent.peers(), *torrent)));
                if largest.len() > top {
                    largest.pop();
                }
            });
        }
        let ranked = largest.into_sorted_vec().into_iter().map(|Reverse(Ranked(_, torrent))| Top {
            info_hash: torrent.info_hash.to_string(),
            complete: torrent.stats.complete,
            incomplete: torrent.stats.incomplete,
            downloaded: torrent.stats.downloaded,
            ipv4: torrent.v4.0 + torrent.v4.1,
            ipv6: torrent.v6.0 + torrent.v6.1,
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: shared.clock.elapsed().as_secs(),
            torrents,
            peers,
            ipv4: v4,
            ipv6: v6,
            connections: shared.connections.taken(),
            requests: requests(&shared.tallies),
            members: shared.cluster.as_ref().map(|cluster| cluster.members()).unwrap_or_default(),
            top: ranked.collect(),
        }
    }
}

impl Family {
    fn add(&mut self, (seeds, leechers): (u32, u32)) {
        self.seeds += u64::from(seeds);
        self.leechers += u64::from(leechers);
    }
}

/// All announces that were taken, and all faults.
pub(crate) fn announces_and_faults(tallies: &[Tallies]) -> [u64; 2] {
    let sums = tallies.iter().flat_map(Tallies::sums);
    sums.fold([0, 0], |[announces, faults], sums| {
        [announces + sums.announces.iter().sum::<u64>(), faults + sums.faults.iter().sum::<u64>()]
    })
}

fn requests(tallies: &[Tallies]) -> Vec<Requests> {
    let mut requests: Vec<Requests> = Vec::new();
    for protocol in [Protocol::Udp, Protocol::Http, Protocol::Https] {
        let of = tallies.iter().filter(|tallies| tallies.protocol == protocol);
        for sums in of.flat_map(Tallies::sums) {
            let known =
                requests.iter().position(|r| r.protocol == protocol.name() && r.family == sums.family);
            let outcomes = Outcome::ALL.map(Outcome::name).into_iter().zip(sums.announces);
            let faults = Fault::ALL.map(Fault::name).into_iter().zip(sums.faults);
            match known.and_then(|at| requests.get_mut(at)) {
                Some(known) => {
                    known.connects += sums.connects;
                    known.announces += sums.announces.iter().sum::<u64>();
                    known.scrapes += sums.scrapes;
                    known.outcomes.iter_mut().zip(outcomes).for_each(|(sum, (_, count))| sum.1 += count);
                    known.faults.iter_mut().zip(faults).for_each(|(sum, (_, count))| sum.1 += count);
                }
                None => requests.push(Requests {
                    protocol: protocol.name(),
                    family: sums.family,
                    connects: sums.connects,
                    announces: sums.announces.iter().sum(),
                    scrapes: sums.scrapes,
                    outcomes: outcomes.collect(),
                    faults: faults.collect(),
                }),
            }
        }
    }
    requests
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "longshore tracker {}, up {} s", self.version, self.uptime_seconds)?;
        writeln!(f, "{} torrents, {} peers, {} connections", self.torrents, self.peers, self.connections)?;
        for (name, family) in [("ipv4", &self.ipv4), ("ipv6", &self.ipv6)] {
            writeln!(f, "{name}: {} seeds, {} leechers", family.seeds, family.leechers)?;
        }
        for requests in &self.requests {
            let Requests { protocol, family, connects, announces, scrapes, .. } = requests;
            write!(f, "{protocol} {family}: {connects} connects, {announces} announces, {scrapes} scrapes")?;
            for (name, count) in
                requests.outcomes.iter().chain(&requests.faults).filter(|(_, count)| *count > 0)
            {
                write!(f, ", {name} {count}")?;
            }
            writeln!(f)?;
        }
        for member in &self.members {
            let Member { member: name, sent, received, dropped, resyncs, lag_ms, .. } = member;
            let state = member.state();
            write!(f, "member {name}: {state}, {sent} sent, {received} received, {dropped} dropped, ")?;
            writeln!(f, "{resyncs} resyncs, lag {lag_ms} ms")?;
        }
        if !self.top.is_empty() {
            writeln!(f, "seeds leechers downloaded ipv4 ipv6 torrent")?;
        }
        for Top { info_hash, complete, incomplete, downloaded, ipv4, ipv6 } in &self.top {
            writeln!(f, "{complete} {incomplete} {downloaded} {ipv4} {ipv6} {info_hash}")?;
        }
        Ok(())
    }
}

struct Ranked(u64, TorrentStats);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1.info_hash.as_bytes()).cmp(&(other.0, other.1.info_hash.as_bytes()))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}
