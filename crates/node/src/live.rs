//! What happens on this node, told to one reader: the difference between what is and what this reader knows.
//!
//! Nothing is queued for anybody. Whoever reads slowly is told less often, and more at a time.

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Weak},
    time::Duration,
};

use api::{
    live::{Blocks, FORMAT, Link, News, Record},
    node::{Provenance, Run, Status, TorrentStatus},
};
use engine::Torrent;
use metainfo::{BLOCK_LENGTH, InfoHash};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    content::{Inner, now_ms, source},
    http::Api,
};

/// How often it is looked what is new.
const LOOK: Duration = Duration::from_millis(250);
/// What changes all the time (rates) is told at every so many looks.
const SECOND: u64 = 4;
/// A sign of life is given after so many looks without news.
const ALIVE: u64 = 40;
/// Most runs in one record.
const MOST_RUNS: usize = 5000;

/// What a reader wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one for each topic")]
pub(crate) struct Topics {
    status: bool,
    torrents: bool,
    links: bool,
    blocks: bool,
    traces: bool,
}

impl FromStr for Topics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = text.is_empty();
        let mut topics = Self { status: all, torrents: all, links: all, blocks: all, traces: all };
        for name in text.split(',').filter(|name| !name.is_empty()) {
            match name {
                "status" => topics.status = true,
                "torrents" => topics.torrents = true,
                "links" => topics.links = true,
                "blocks" => topics.blocks = true,
                "traces" => topics.traces = true,
                _ => {
                    return Err(format!(
                        "there is no topic `{name}`: status, torrents, links, blocks, traces"
                    ));
                }
            }
        }
        Ok(topics)
    }
}

/// Tells one reader.
pub(crate) struct Teller {
    api: Api,
    topics: Topics,
    ticks: Interval,
    looks: u64,
    quiet: u64,
    status: Option<Status>,
    torrents: Option<HashMap<InfoHash, TorrentStatus>>,
    links: Option<HashMap<String, Link>>,
    blocks: HashMap<InfoHash, Told>,
    /// Of these everything was told.
    whole: HashMap<InfoHash, Weak<Torrent>>,
    /// How many blobs had come, and how many changes of traces there were, by what was told last.
    records: u64,
    traces: u64,
}

/// How much of a torrent's provenance was told.
#[derive(Default)]
struct Told {
    /// Of which torrent: one of the same name may have come in the place of one that was removed.
    of: Weak<Torrent>,
    sources: usize,
    runs: usize,
    last: Option<swarm::Run>,
}

impl Teller {
    pub(crate) fn new(api: Api, topics: Topics) -> Self {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            api,
            topics,
            ticks,
            looks: 0,
            quiet: 0,
            status: None,
            torrents: None,
            links: None,
            blocks: HashMap::new(),
            whole: HashMap::new(),
            // What is still known of before is told first.
            records: 0,
            traces: 0,
        }
    }

    /// Waits for news. None at all in ten seconds are a sign of life.
    pub(crate) async fn next(&mut self) -> Vec<Record> {
        loop {
            self.ticks.tick().await;
            let news = self.look().await;
            self.looks += 1;
            self.quiet += 1;
            if !news.is_empty() || self.quiet >= ALIVE {
                self.quiet = 0;
                let (node, at_ms) = (&self.api.content.0.name, now_ms());
                return news.into_iter().map(|news| Record { node: node.clone(), at_ms, news }).collect();
            }
        }
    }

    async fn look(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        if self.looks == 0 {
            news.push(News::Hello { format: FORMAT, version: env!("CARGO_PKG_VERSION").into() });
        }
        let inner = self.api.content.0.clone();
        if self.looks.is_multiple_of(SECOND) {
            if self.topics.status {
                self.status(&mut news);
            }
            if self.topics.torrents {
                self.torrents(&inner, &mut news);
            }
            if self.topics.links {
                self.links(&inner, &mut news);
            }
        }
        if self.topics.blocks {
            self.blocks(&inner, &mut news);
        }
        if self.topics.traces {
            let (changed, seen) = inner.traces.since(self.traces);
            self.traces = seen;
            news.extend(changed.into_iter().map(News::Trace));
        }
        news
    }

    /// Uptime alone is no news.
    fn status(&mut self, news: &mut Vec<News>) {
        let status = self.api.status();
        let known = self.status.as_ref().map(|known| Status { uptime: status.uptime, ..known.clone() });
        if known.as_ref() != Some(&status) {
            self.status = Some(status.clone());
            news.push(News::Status { status });
        }
    }

    fn torrents(&mut self, inner: &Inner, news: &mut Vec<News>) {
        let all = self.torrents.is_none();
        let known = self.torrents.get_or_insert_default();
        let now: HashMap<_, _> = inner.torrent_list().into_iter().map(|t| (t.info_hash, t)).collect();
        let changed: Vec<_> = now.values().filter(|t| known.get(&t.info_hash) != Some(*t)).cloned().collect();
        let gone: Vec<_> = known.keys().filter(|info_hash| !now.contains_key(*info_hash)).copied().collect();
        *known = now;
        if all || !changed.is_empty() || !gone.is_empty() {
            news.push(News::Torrents { all, changed, gone });
        }
    }

    fn links(&mut self, inner: &Inner, news: &mut Vec<News>) {
        let all = self.links.is_none();
        let known = self.links.get_or_insert_default();
        let now = links(inner);
        let changed: Vec<_> = now.values().filter(|l| known.get(&l.peer_id) != Some(*l)).cloned().collect();
        let gone: Vec<_> = known.keys().filter(|peer_id| !now.contains_key(*peer_id)).cloned().collect();
        *known = now;
        if all || !changed.is_empty() || !gone.is_empty() {
            news.push(News::Links { all, changed, gone });
        }
    }

    fn blocks(&mut self, inner: &Inner, news: &mut Vec<News>) {
        let flights: HashMap<InfoHash, String> = inner
            .flights()
            .values()
            .filter_map(|flight| {
                let torrent = flight.progress().borrow().torrent.clone()?;
                Some((torrent.info_hash(), flight.home.host().to_owned()))
            })
            .collect();
        let torrents = inner.engine.torrents();
        let there: HashMap<_, _> = torrents.iter().map(|t| (t.info_hash(), Arc::downgrade(t))).collect();
        let is_there = |info_hash: &InfoHash, of: &Weak<Torrent>| {
            there.get(info_hash).is_some_and(|torrent| torrent.ptr_eq(of))
        };
        self.whole.retain(|info_hash, of| is_there(info_hash, of));
        self.blocks.retain(|info_hash, told| is_there(info_hash, &told.of));
        for torrent in torrents.iter().filter(|torrent| !self.whole.contains_key(&torrent.info_hash())) {
            let told = self.blocks.entry(torrent.info_hash()).or_default();
            told.of = Arc::downgrade(torrent);
            let origin = flights.get(&torrent.info_hash()).map(String::as_str);
            news.extend(told.further(inner, torrent, origin).map(News::Blocks));
        }
        // Those that have become blobs since: what was not told of them yet.
        let (whole, seen) = inner.records.since(self.records);
        self.records = seen;
        for (digest, provenance) in whole {
            if let Some(torrent) = there.get(&provenance.info_hash) {
                self.whole.insert(provenance.info_hash, torrent.clone());
            }
            let told = self.blocks.remove(&provenance.info_hash).unwrap_or_default();
            news.extend(told.rest(&digest.hex(), &provenance).into_iter().map(News::Blocks));
        }
    }
}

impl Told {
    /// What of a torrent's provenance is new.
    fn further(&mut self, inner: &Inner, torrent: &Torrent, origin: Option<&str>) -> Option<Blocks> {
        // The last one may have grown.
        let first_run = self.runs.saturating_sub(1);
        let (sources, mut runs) = torrent.provenance_from(self.sources, first_run);
        runs.truncate(MOST_RUNS);
        if runs.is_empty() || (runs.len() == 1 && self.runs > 0 && runs.last() == self.last.as_ref()) {
            return None;
        }
        let geometry = torrent.meta().info.geometry;
        let blocks = Blocks {
            info_hash: torrent.info_hash(),
            name: torrent.meta().info.name.clone(),
            size: geometry.total(),
            block_length: BLOCK_LENGTH,
            piece_length: geometry.piece_length(),
            first_source: self.sources as u32,
            sources: sources.iter().map(|s| source(&s.kind, origin)).collect(),
            first_run: first_run as u32,
            runs: inner.runs(&runs),
            complete: false,
        };
        self.sources += sources.len();
        self.runs = first_run + runs.len();
        self.last = runs.pop();
        Some(blocks)
    }

    /// All of a whole blob's provenance that is new.
    fn rest(self, name: &str, provenance: &Provenance) -> Vec<Blocks> {
        let first = self.runs.saturating_sub(1).min(provenance.runs.len());
        let starts = (first..provenance.runs.len().max(first + 1)).step_by(MOST_RUNS);
        let part = |at: usize| {
            let sources = if at == first { self.sources } else { provenance.sources.len() };
            let runs: Vec<Run> = provenance.runs.iter().skip(at).take(MOST_RUNS).copied().collect();
            Blocks {
                info_hash: provenance.info_hash,
                name: name.to_owned(),
                size: provenance.size,
                block_length: provenance.block_length,
                piece_length: provenance.piece_length,
                first_source: sources as u32,
                sources: provenance.sources.get(sources..).unwrap_or_default().to_vec(),
                first_run: at as u32,
                complete: at + runs.len() >= provenance.runs.len(),
                runs,
            }
        };
        starts.map(part).collect()
    }
}

/// Every peer that is connected, for all torrents together.
fn links(inner: &Inner) -> HashMap<String, Link> {
    let mut links = HashMap::<String, Link>::new();
    let torrents: Vec<Arc<Torrent>> = inner.engine.torrents();
    for (peer, client) in torrents.iter().flat_map(|torrent| torrent.peers()) {
        let peer_id = hash::to_hex(peer.info.id.as_bytes());
        let link = links.entry(peer_id.clone()).or_insert_with(|| Link {
            peer_id,
            address: peer.info.address.to_string(),
            client: String::new(),
            torrents: 0,
            down_bytes: 0,
            up_bytes: 0,
            down_rate: 0,
            up_rate: 0,
        });
        if let (true, Some(client)) = (link.client.is_empty(), client) {
            link.client = client;
        }
        link.torrents += 1;
        link.down_bytes += peer.downloaded;
        link.up_bytes += peer.uploaded;
        link.down_rate += peer.down_rate as u64;
        link.up_rate += peer.up_rate as u64;
    }
    links
}

#[cfg(test)]
mod tests {
    use api::node::{Source, SourceKind};

    use super::*;

    #[test]
    fn what_is_left_of_a_provenance_is_told_once_and_in_parts() {
        let run = |piece| Run { piece, block: 0, count: 1, source: 0, first_ms: 1, last_ms: 1 };
        let source = Source { kind: SourceKind::Origin, peer: None, peer_id: None };
        let provenance = |runs: u32| Provenance {
            info_hash: InfoHash::from_bytes([1; 20]),
            size: 1 << 30,
            block_length: BLOCK_LENGTH,
            piece_length: 1 << 20,
            sources: vec![source.clone(); 3],
            runs: (0..runs).map(run).collect(),
        };
        let many = provenance(2 * MOST_RUNS as u32);
        let parts = Told { sources: 1, runs: 10, ..Told::default() }.rest("n", &many);
        assert_eq!(parts.iter().map(|p| p.first_run).collect::<Vec<_>>(), [9, 5009]);
        assert_eq!(parts.iter().map(|p| p.runs.len()).sum::<usize>(), many.runs.len() - 9);
        assert_eq!(
            parts.iter().map(|p| (p.first_source, p.sources.len())).collect::<Vec<_>>(),
            [(1, 2), (3, 0)]
        );
        assert_eq!(parts.iter().map(|p| p.complete).collect::<Vec<_>>(), [false, true]);
        let none = Told::default().rest("n", &provenance(0));
        assert_eq!((none.len(), none[0].complete), (1, true), "its end is told all the same");
    }

    #[test]
    fn topics_are_named_and_none_means_all() {
        let all = Topics { status: true, torrents: true, links: true, blocks: true, traces: true };
        assert_eq!("".parse(), Ok(all));
        assert_eq!("status,torrents,links,blocks,traces".parse(), Ok(all));
        let links: Topics = "links".parse().expect("a topic");
        assert!(links.links && !links.status && !links.blocks);
        assert!("links,linx".parse::<Topics>().expect_err("no topic").contains("linx"));
    }
}
