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
/// Most givers of a torrent that have places: the others are one in the picture.
const MOST_GIVERS: usize = 256;

/// Everything that is shown.
#[derive(Default)]
pub(super) struct Board {
    nodes: BTreeMap<String, Node>,
    /// The lab's hosts by their addresses, where there is a lab.
    hosts: BTreeMap<String, String>,
    /// Why it cannot be asked, while it cannot.
    gone: Option<String>,
    /// The torrent whose pieces are shown, by its info-hash, and whether a key has chosen it.
    shown: Option<String>,
    by_key: bool,
    /// Of each torrent, all who gave something of it to any node, in the order in which they were told of: a giver
    /// keeps its place.
    givers: BTreeMap<String, Vec<Giver>>,
}

/// A torrent of which anything is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) info_hash: String,
    /// Empty while not known.
    pub(super) name: String,
    /// 0 while not known.
    pub(super) size: u64,
    /// Whether anything of it moves on any node.
    pub(super) moves: bool,
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
    /// As it was told with the pieces: it stays known when the torrent rests.
    name: String,
    size: u64,
    pub(super) givers: Vec<Giver>,
    /// For each piece, who gave the last of it, as a place among the givers.
    pub(super) pieces: Vec<Option<u32>>,
}

/// Who gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Giver {
    /// A peer, by its id, and its address as far as that is known.
    Peer(String, Option<String>),
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
            News::Blocks(blocks) => {
                let hash = blocks.info_hash.to_string();
                node.blocks(&blocks);
                if let Some(map) = node.maps.get(&hash) {
                    let known = self.givers.entry(hash).or_default();
                    for giver in &map.givers {
                        if known.len() < MOST_GIVERS && known.iter().all(|known| !known.is_same(giver)) {
                            known.push(giver.clone());
                        }
                    }
                }
            }
            News::Lost { error } => node.lost = Some(error),
            News::Hello { .. } | News::Trace(_) | News::Lab(_) => {}
        }
    }

    /// Shows the largest torrent that moves, as long as it moves; and where none does, the one that did last. What a
    /// key has chosen stays. To be called before it is drawn: it looks at all there is.
    pub(super) fn choose(&mut self) {
        let torrents = self.torrents();
        let shown = torrents.iter().find(|torrent| Some(&torrent.info_hash) == self.shown.as_ref());
        if shown.is_some_and(|shown| self.by_key || shown.moves) {
            return;
        }
        let moving = torrents.iter().find(|torrent| torrent.moves);
        let next = moving.or(shown).or(torrents.first()).map(|torrent| torrent.info_hash.clone());
        self.by_key = false;
        self.shown = next;
    }

    /// Takes the names of a lab's hosts, by address.
    pub(super) fn meet(&mut self, hosts: BTreeMap<String, String>) {
        self.hosts = hosts;
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
        let back = match key {
            KeyCode::Down | KeyCode::Right | KeyCode::Tab | KeyCode::Char('j') => false,
            KeyCode::Up | KeyCode::Left | KeyCode::BackTab | KeyCode::Char('k') => true,
            _ => return,
        };
        let torrents = self.torrents();
        let place = self.place(&torrents).unwrap_or(0);
        let count = torrents.len().max(1);
        let next = torrents.get((place + if back { count - 1 } else { 1 }) % count);
        (self.shown, self.by_key) = (next.map(|torrent| torrent.info_hash.clone()), true);
    }

    /// All torrents of which anything is shown, the largest first.
    pub(super) fn torrents(&self) -> Vec<Shown> {
        let mut all = BTreeMap::<&String, Shown>::new();
        for node in self.nodes.values() {
            let told = node.torrents.iter().map(|(hash, torrent)| {
                (hash, &torrent.name, torrent.size, torrent.down_rate > 0 || torrent.up_rate > 0)
            });
            let mapped = node.maps.iter().map(|(hash, map)| (hash, &map.name, map.size, false));
            for (info_hash, name, size, moves) in told.chain(mapped) {
                let shown = all
                    .entry(info_hash)
                    .or_insert_with(|| Shown { info_hash: info_hash.clone(), ..Shown::default() });
                if shown.name.is_empty() {
                    shown.name.clone_from(name);
                }
                shown.size = shown.size.max(size);
                shown.moves |= moves;
            }
        }
        let mut list: Vec<_> = all.into_values().collect();
        list.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.info_hash.cmp(&b.info_hash)));
        list
    }

    fn place(&self, torrents: &[Shown]) -> Option<usize> {
        torrents.iter().position(|torrent| Some(&torrent.info_hash) == self.shown.as_ref())
    }

    /// The torrent whose pieces are shown, its place, and how many there are.
    pub(super) fn chosen(&self) -> Option<(Shown, usize, usize)> {
        let torrents = self.torrents();
        let (place, count) = (self.place(&torrents).unwrap_or(0), torrents.len());
        torrents.into_iter().nth(place).map(|torrent| (torrent, place, count))
    }

    /// All who gave something of a torrent. Each keeps its place.
    pub(super) fn givers(&self, info_hash: &str) -> &[Giver] {
        self.givers.get(info_hash).map_or(&[], Vec::as_slice)
    }

    /// The name of a peer: of the node that calls itself so among peers, or of the lab's host that has its address.
    pub(super) fn name_of(&self, giver: &Giver) -> Option<&str> {
        let Giver::Peer(id, address) = giver else { return None };
        let named = |node: &Node| node.status.as_ref().is_some_and(|status| status.peer_id == *id);
        let node = self.nodes.iter().find(|(_, node)| named(node)).map(|(name, _)| name);
        let host = || self.hosts.get(address.as_deref()?.rsplit_once(':')?.0);
        node.or_else(host).map(String::as_str)
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
        map.size = blocks.size;
        if !blocks.name.is_empty() {
            map.name.clone_from(&blocks.name);
        }
        map.givers.truncate(blocks.first_source as usize);
        map.givers.extend(blocks.sources.iter().map(|source| match source.kind {
            SourceKind::Peer => Giver::Peer(source.peer_id.clone().unwrap_or_default(), source.peer.clone()),
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

impl Giver {
    /// A peer is the same whatever address it has.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Peer(one, _), Self::Peer(other, _)) if !one.is_empty() => one == other,
            (one, other) => one == other,
        }
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
pub(super) mod tests {
    use api::node::{Run, Source};

    use super::*;

    pub(in super::super) fn blocks(first_run: u32, runs: &[(u32, u32)]) -> Record {
        let run = |(piece, source): &(u32, u32)| Run {
            piece: *piece,
            block: 0,
            count: 1,
            source: *source,
            first_ms: 0,
            last_ms: 0,
        };
        let source = |kind, id: &str| Source {
            kind,
            peer: (kind == SourceKind::Peer).then(|| "10.0.0.2:6881".to_owned()),
            peer_id: Some(id.to_owned()),
        };
        let news = News::Blocks(Blocks {
            info_hash: InfoHash::from_bytes([1; 20]),
            name: "layer".into(),
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
        assert_eq!(map.stretch(0, 4), (0.75, Some(&Giver::Peer("aa".into(), Some("10.0.0.2:6881".into())))));
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
        assert_eq!(board.chosen().map(|(_, place, count)| (place, count)), Some((0, 1)));
    }

    fn torrent(byte: u8, size: u64, down_rate: u64) -> TorrentStatus {
        let text = format!(
            r#"{{"info_hash":"{}","name":"t{byte}","size":{size},"bytes_done":0,"pieces":1,"pieces_done":0,
                "peers":0,"down_bytes":0,"up_bytes":0,"down_rate":{down_rate},"up_rate":0}}"#,
            InfoHash::from_bytes([byte; 20])
        );
        serde_json::from_str(&text).expect("a torrent")
    }

    fn told(all: bool, changed: Vec<TorrentStatus>) -> Record {
        Record { node: "n1".into(), at_ms: 0, news: News::Torrents { all, changed, gone: Vec::new() } }
    }

    #[test]
    fn a_torrent_that_rests_keeps_its_name_and_its_size() {
        let mut board = Board::default();
        board.take(told(true, Vec::new()));
        board.take(blocks(0, &[(0, 0)]));
        let (shown, ..) = board.chosen().expect("its pieces are known");
        assert_eq!((shown.name.as_str(), shown.size, shown.moves), ("layer", 8 * 16384, false));
    }

    #[test]
    fn what_moves_is_shown_until_it_rests_and_what_a_key_has_chosen_stays() {
        let mut board = Board::default();
        let shown = |board: &mut Board| {
            board.choose();
            board.chosen().expect("one").0.name
        };
        board.take(told(true, vec![torrent(1, 100, 0), torrent(2, 50, 7), torrent(3, 10, 0)]));
        assert_eq!(shown(&mut board), "t2");
        board.take(told(false, vec![torrent(1, 100, 9)]));
        assert_eq!(shown(&mut board), "t2", "it moves still");
        board.take(told(false, vec![torrent(1, 100, 0), torrent(2, 50, 0)]));
        assert_eq!(shown(&mut board), "t2", "none moves, and this did last");
        board.take(told(false, vec![torrent(3, 10, 1)]));
        assert_eq!(shown(&mut board), "t3");
        board.key(KeyCode::Down);
        assert_eq!(shown(&mut board), "t1", "it goes round");
        board.take(told(false, vec![torrent(2, 50, 7)]));
        assert_eq!(shown(&mut board), "t1");
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
