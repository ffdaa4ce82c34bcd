//! What went to and came from whom, as a command watches it.

use std::{collections::HashMap, net::SocketAddr};

use engine::Torrent;
use serde_json::{Value, json};
use swarm::{Provenance, SourceKind};

/// The peers of one torrent, looked at now and again.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Names that peers gave their clients.
    clients: HashMap<SocketAddr, String>,
    /// Uploaded to peers that are gone, as far as was seen.
    past: u64,
    uploads: HashMap<SocketAddr, u64>,
}

/// Figures of one moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) peers: usize,
    pub(crate) down_rate: f64,
    pub(crate) up_rate: f64,
    /// Since the start.
    pub(crate) uploaded: u64,
}

impl Traffic {
    /// Looks at the torrent's peers.
    pub(crate) fn look(&mut self, torrent: &Torrent) -> Moment {
        let peers = torrent.peers();
        let mut moment = Moment { peers: peers.len(), ..Moment::default() };
        let mut uploads = HashMap::with_capacity(peers.len());
        for (stats, client) in peers {
            moment.down_rate += stats.down_rate;
            moment.up_rate += stats.up_rate;
            uploads.insert(stats.info.address, stats.uploaded);
            if let Some(client) = client {
                self.clients.insert(stats.info.address, client);
            }
        }
        for (address, before) in &self.uploads {
            // Gone, or back with its count begun anew.
            if uploads.get(address).is_none_or(|now| now < before) {
                self.past += before;
            }
        }
        moment.uploaded = self.past + uploads.values().sum::<u64>();
        self.uploads = uploads;
        moment
    }

    /// Where the bytes came from, most first.
    pub(crate) fn sources(&self, provenance: &Provenance) -> Vec<SourceLine> {
        let mut lines: Vec<SourceLine> = Vec::new();
        for source in provenance.sources().iter().filter(|source| source.bytes + source.wasted > 0) {
            let (kind, address, client) = match &source.kind {
                SourceKind::Peer { address, id } => {
                    let client = self.clients.get(address).cloned().unwrap_or_else(|| id.to_string());
                    ("peer", Some(*address), Some(client))
                }
                SourceKind::Origin => ("origin", None, None),
                SourceKind::Store => ("disk", None, None),
            };
            lines.push(SourceLine { kind, address, client, bytes: source.bytes, wasted: source.wasted });
        }
        lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
        lines
    }
}

/// What one source gave.
pub(crate) struct SourceLine {
    kind: &'static str,
    address: Option<SocketAddr>,
    client: Option<String>,
    /// Proven.
    pub(crate) bytes: u64,
    /// Doubles, and blocks of pieces that failed.
    pub(crate) wasted: u64,
}

impl SourceLine {
    pub(crate) fn text(&self) -> String {
        let from = self.address.map_or_else(|| self.kind.to_owned(), |address| address.to_string());
        let client = self.client.as_ref().map(|client| format!(" ({client})")).unwrap_or_default();
        format!("{} from {from}{client}", crate::quantity::size(self.bytes))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "address": self.address,
            "client": self.client,
            "bytes": self.bytes,
            "wasted": self.wasted,
        })
    }
}
