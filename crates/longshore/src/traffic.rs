//! What went to and came from whom, as a command watches it.

use std::{collections::HashMap, net::SocketAddr};

use engine::Torrent;
use serde_json::{Value, json};
use swarm::{Provenance, SourceKind};

use crate::quantity;

/// The peers of one torrent, looked at now and again.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Names that peers gave their clients.
    clients: HashMap<SocketAddr, String>,
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
        let mut moment = Moment { peers: peers.len(), uploaded: torrent.moved().0, ..Moment::default() };
        for (stats, client) in peers {
            moment.down_rate += stats.down_rate;
            moment.up_rate += stats.up_rate;
            if let Some(client) = client {
                self.clients.insert(stats.info.address, client);
            }
        }
        moment
    }

    /// Where the bytes came from, most first.
    pub(crate) fn sources(&self, provenance: &Provenance) -> Vec<SourceLine> {
        let mut lines: Vec<SourceLine> = Vec::new();
        // One peer may have been here over several connections.
        let mut peers: HashMap<&[u8; 20], usize> = HashMap::new();
        for source in provenance.sources().iter().filter(|source| source.bytes + source.wasted > 0) {
            let (kind, address, client) = match &source.kind {
                SourceKind::Peer { address, id } => {
                    let named = self.clients.get(address).cloned();
                    let next = lines.len();
                    let place = *peers.entry(id.as_bytes()).or_insert(next);
                    if let Some(line) = lines.get_mut(place) {
                        line.bytes += source.bytes;
                        line.wasted += source.wasted;
                        line.client = named.or(line.client.take());
                        continue;
                    }
                    ("peer", Some(*address), named.or_else(|| client_of(id.as_bytes())))
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

/// The client and version that a peer id begins with, as most do: `-LS0100-` (BEP 20).
fn client_of(peer_id: &[u8; 20]) -> Option<String> {
    let code = peer_id.strip_prefix(b"-")?.get(..6)?;
    let named = peer_id.get(7) == Some(&b'-') && code.iter().all(u8::is_ascii_alphanumeric);
    named.then(|| code.escape_ascii().to_string())
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
        format!("{} from {from}{client}", quantity::size(self.bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_tells_the_client_if_it_is_of_the_usual_form() {
        assert_eq!(client_of(b"-LS0100-\xff23456789012"), Some("LS0100".to_owned()));
        assert_eq!(client_of(b"M7-9-0--123456789012"), None);
        assert_eq!(client_of(b"-\x1b[31m;-123456789012"), None);
    }
}
