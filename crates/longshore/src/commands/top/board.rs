//! What is known of the nodes that are shown, by what they have told.

use std::collections::BTreeMap;

use api::{
    live::{Blocks, News, Record},
    node::{SourceKind, Status, TorrentStatus},
};
use metainfo::InfoHash;
use ratatui::crossterm::event::KeyCode;

/// Most pieces of a torrent that are drawn, most torrents and most nodes that are known.
const MOST_PIECES: u64 = 1_000_000;
const MOST_TORRENTS: usize = 10_000;
const MOST_NODES: usize = 1000;

/// Everything that is shown.
#[derive(Default)]
pub(super) struct Board {
    nodes: BTreeMap<String, Node>,
    /// Why it cannot be asked, while it cannot.
    gone: Option<String>,
    /// Which torrent's pieces are shown, by its place among those there are.
    chosen: usize,
}

/// A node.
#[derive(Default)]
pub(super) struct Node {
    pub(super) status: Option<Status>,
    pub(super) torrents: BTreeMap<String, TorrentStatus>,
    pub(super) links: BTreeMap<String, (u64, u64)>,
    pub(super) maps: BTreeMap<String, Map>,
    /// Why it cannot be reached.
    pub(super) lost: Option<String>,
}

/// Where a torrent's pieces came from.
#[derive(Default)]
pub(super) struct Map {
    pub(super) givers: Vec<Giver>,
    /// For each piece, who gave the last of it, as a place among the givers.
    pub(super) pieces: Vec<Option<u32>>,
}

/// Who gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Giver {
    /// A peer, by its id.
    Peer(String),
    Origin,
    Store,
    Directory,
}

impl Board {
    pub(super) fn take(&mut self, record: Record) {
        self.gone = None;
        if self.nodes.len() >= MOST_NODES && !self.nodes.contains_key(&record.node) {
            return;
        }
        // None is of a node; the lab says of itself when its stream ends.
        let of_the_lab = record.node == "lab" && matches!(record.news, News::Lost { .. });
        if of_the_lab || matches!(record.news, News::Lab(_) | News::Hello { .. }) {
            return;
        }
        let node = self.nodes.entry(record.node).or_default();
        node.lost = None;
        match record.news {
            News::Status { status } => node.status = Some(status),
            News::Torrents { all, changed, gone } => {
                if all {
                    node.torrents.clear();
                }
                for info_hash in gone {
                    node.torrents.remove(&info_hash.to_string());
                }
                for torrent in changed {
                    if node.torrents.len() < MOST_TORRENTS {
                        node.torrents.insert(torrent.info_hash.to_string(), torrent);
                    }
                }
            }
            News::Links { all, changed, gone } => {
                if all {
                    node.links.clear();
                }
                node.links.retain(|peer, _| !gone.contains(peer));
                for link in changed {
                    if node.links.len() < MOST_TORRENTS {
                        node.links.insert(link.peer_id, (link.down_rate, link.up_rate));
                    }
                }
            }
            News::Blocks(blocks) => node.blocks(&blocks),
            News::Lost { error } => node.lost = Some(error),
            News::Hello { .. } | News::Trace(_) | News::Lab(_) => {}
        }
    }

    pub(super) fn gone(&mut self, why: String) {
        self.gone = Some(why);
    }

    pub(super) fn why_gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    pub(super) const fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    pub(super) fn key(&mut self, key: KeyCode) {
        let count = self.torrents().len().max(1);
        match key {
            KeyCode::Down | KeyCode::Right | KeyCode::Tab | KeyCode::Char('j') => {
                self.chosen = (self.chosen.min(count - 1) + 1) % count;
            }
            KeyCode::Up | KeyCode::Left | KeyCode::BackTab | KeyCode::Char('k') => {
                self.chosen = (self.chosen.min(count - 1) + count - 1) % count;
            }
            _ => {}
        }
    }

    /// All torrents of which anything is shown, the largest first: info-hash, name, and length.
    pub(super) fn torrents(&self) -> Vec<(String, String, u64)> {
        let mut all = BTreeMap::new();
        for node in self.nodes.values() {
            for (hash, torrent) in &node.torrents {
                all.insert(hash.clone(), (torrent.name.clone(), torrent.size));
            }
            for hash in node.maps.keys() {
                all.entry(hash.clone()).or_insert_with(|| (hash.clone(), 0));
            }
        }
        let mut list: Vec<_> = all.into_iter().map(|(hash, (name, size))| (hash, name, size)).collect();
        list.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
        list
    }

    /// The torrent whose pieces are shown, and its place.
    pub(super) fn chosen(&self) -> Option<(usize, (String, String, u64))> {
        let torrents = self.torrents();
        let place = self.chosen.min(torrents.len().checked_sub(1)?);
        torrents.into_iter().nth(place).map(|torrent| (place, torrent))
    }

    /// The name of the node that calls itself so among peers.
    pub(super) fn name_of(&self, peer_id: &str) -> Option<&str> {
        let named = |node: &Node| node.status.as_ref().is_some_and(|status| status.peer_id == peer_id);
        self.nodes.iter().find(|(_, node)| named(node)).map(|(name, _)| name.as_str())
    }
}

impl Node {
    /// Received and sent per second.
    pub(super) fn rates(&self) -> (u64, u64) {
        self.links.values().fold((0, 0), |sum, link| (sum.0 + link.0, sum.1 + link.1))
    }

    fn blocks(&mut self, blocks: &Blocks) {
        let pieces = blocks.size.div_ceil(u64::from(blocks.piece_length.max(1)));
        let hash: InfoHash = blocks.info_hash;
        if pieces > MOST_PIECES
            || (self.maps.len() >= MOST_TORRENTS && !self.maps.contains_key(&hash.to_string()))
        {
            return;
        }
        let map = self.maps.entry(hash.to_string()).or_default();
        if blocks.first_run == 0 {
            map.pieces.clear();
        }
        map.pieces.resize(pieces as usize, None);
        map.givers.truncate(blocks.first_source as usize);
        map.givers.extend(blocks.sources.iter().map(|source| match source.kind {
            SourceKind::Peer => Giver::Peer(source.peer_id.clone().unwrap_or_default()),
            SourceKind::Origin => Giver::Origin,
            SourceKind::Store => Giver::Store,
            SourceKind::Directory => Giver::Directory,
        }));
        for run in &blocks.runs {
            if let Some(piece) = map.pieces.get_mut(run.piece as usize) {
                *piece = Some(run.source);
            }
        }
    }

    /// Whether it has a torrent whole, without having told where from.
    pub(super) fn is_whole(&self, hash: &str) -> bool {
        self.torrents
            .get(hash)
            .is_some_and(|torrent| torrent.pieces > 0 && torrent.pieces_done == torrent.pieces)
    }
}

impl Map {
    /// Of a stretch of the pieces: what part is here, and who gave most of it.
    pub(super) fn stretch(&self, from: usize, to: usize) -> (f64, Option<&Giver>) {
        let pieces = self.pieces.get(from..to.max(from + 1).min(self.pieces.len())).unwrap_or_default();
        let mut counts = BTreeMap::<u32, usize>::new();
        pieces.iter().flatten().for_each(|giver| *counts.entry(*giver).or_default() += 1);
        let here: usize = counts.values().sum();
        let most = counts.iter().max_by_key(|(_, count)| **count).map(|(giver, _)| *giver);
        let giver = most.and_then(|giver| self.givers.get(giver as usize));
        (here as f64 / pieces.len().max(1) as f64, giver)
    }
}

#[cfg(test)]
mod tests {
    use api::node::{Run, Source};

    use super::*;

    pub(super) fn blocks(first_run: u32, runs: &[(u32, u32)]) -> Record {
        let run = |(piece, source): &(u32, u32)| Run {
            piece: *piece,
            block: 0,
            count: 1,
            source: *source,
            first_ms: 0,
            last_ms: 0,
        };
        let source = |kind, id: &str| Source { kind, peer: None, peer_id: Some(id.to_owned()) };
        let news = News::Blocks(Blocks {
            info_hash: InfoHash::from_bytes([1; 20]),
            name: String::new(),
            size: 8 * 16384,
            block_length: 16384,
            piece_length: 16384,
            first_source: 0,
            sources: vec![source(SourceKind::Peer, "aa"), source(SourceKind::Origin, "")],
            first_run,
            runs: runs.iter().map(run).collect(),
            complete: false,
        });
        Record { node: "n1".into(), at_ms: 0, news }
    }

    #[test]
    fn pieces_have_the_one_who_gave_them() {
        let mut board = Board::default();
        board.take(blocks(0, &[(0, 0), (1, 0), (2, 1), (99, 1)]));
        let map = &board.nodes()["n1"].maps[&"01".repeat(20)];
        assert_eq!(map.stretch(0, 4), (0.75, Some(&Giver::Peer("aa".into()))));
        assert_eq!(map.stretch(2, 3), (1.0, Some(&Giver::Origin)));
        assert_eq!(map.stretch(7, 8), (0.0, None));
        board.take(blocks(3, &[(7, 1)]));
        assert_eq!(board.nodes()["n1"].maps[&"01".repeat(20)].stretch(7, 8).0, 1.0);
        board.take(blocks(0, &[]));
        assert_eq!(board.nodes()["n1"].maps[&"01".repeat(20)].stretch(0, 8).0, 0.0, "it begins anew");
    }

    #[test]
    fn choosing_goes_round_whatever_there_is() {
        let mut board = Board::default();
        board.key(KeyCode::Down);
        assert!(board.chosen().is_none());
        board.take(blocks(0, &[]));
        board.key(KeyCode::Up);
        assert_eq!(board.chosen().map(|(place, _)| place), Some(0));
    }

    #[test]
    fn a_torrent_of_more_pieces_than_can_be_is_left_out() {
        let mut board = Board::default();
        let mut record = blocks(0, &[]);
        if let News::Blocks(blocks) = &mut record.news {
            (blocks.size, blocks.piece_length) = (u64::MAX, 1);
        }
        board.take(record);
        assert!(board.nodes()["n1"].maps.is_empty());
    }
}
