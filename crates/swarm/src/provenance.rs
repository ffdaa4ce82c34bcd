//! Who gave what, when: every block of every proven piece, in runs (D11).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use metainfo::PieceIndex;
use wire::PeerId;

use crate::time::Time;

/// A giver of blocks, by its place in [`Provenance::sources`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(pub u32);

/// Where blocks come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// What sort of place.
    pub kind: SourceKind,
    /// Bytes of proven pieces that came from it.
    pub bytes: u64,
    /// Bytes that it sent in vain: what it was not asked for, doubles, and blocks of pieces that failed.
    pub wasted: u64,
}

/// The sorts of places that blocks come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceKind {
    /// A peer, by address and name.
    Peer {
        /// Where it was connected when it first gave something.
        address: SocketAddr,
        /// What it calls itself.
        id: PeerId,
    },
    /// The origin: a registry or another place that content comes from first.
    Origin,
    /// Here already when the swarm began.
    Store,
}

impl SourceKind {
    /// All peers that are not told apart.
    const OTHERS: Self = Self::Peer {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        id: PeerId::from_bytes([0; 20]),
    };

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Peer { address: a, id }, Self::Peer { address: b, id: other }) => {
                a.ip() == b.ip() && id == other
            }
            _ => self == other,
        }
    }
}

/// Neighbouring blocks of one piece that one source gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The piece.
    pub piece: PieceIndex,
    /// The run's first block.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// Who gave them.
    pub source: SourceId,
    /// When the first arrived.
    pub first: Time,
    /// When the last arrived.
    pub last: Time,
}

/// Most peers that are told apart; the givers of all further ones are counted as one, at 0.0.0.0:0. Peers that gave
/// nothing are not counted.
const MOST_SOURCES: usize = 10_000;

/// The record of a swarm. It holds at most one run per block, and never drops one.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    sources: Vec<Source>,
    runs: Vec<Run>,
}

impl Provenance {
    /// All sources, in the order in which they came.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Bytes of proven pieces that came from peers.
    pub fn from_peers(&self) -> u64 {
        let peers = self.sources.iter().filter(|source| matches!(source.kind, SourceKind::Peer { .. }));
        peers.map(|source| source.bytes).sum()
    }

    /// All runs of proven pieces, in the order in which the pieces were proven.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The number of a source; a peer that comes back from the same host under the same name keeps its number,
    /// whatever its port.
    pub(crate) fn source(&mut self, kind: SourceKind) -> SourceId {
        let known = self.sources.iter().position(|s| s.kind.is_same(&kind));
        let full = self.sources.len() >= MOST_SOURCES && matches!(kind, SourceKind::Peer { .. });
        let kind = if full { SourceKind::OTHERS } else { kind };
        let known = known.or_else(|| self.sources.iter().position(|s| s.kind == kind));
        let at = known.unwrap_or_else(|| {
            self.sources.push(Source { kind, bytes: 0, wasted: 0 });
            self.sources.len() - 1
        });
        SourceId(at as u32)
    }

    pub(crate) fn record(&mut self, run: Run, bytes: u64) {
        if let Some(source) = self.sources.get_mut(run.source.0 as usize) {
            source.bytes += bytes;
        }
        match self.runs.last_mut() {
            Some(last)
                if last.piece == run.piece
                    && last.source == run.source
                    && last.first_block + last.blocks == run.first_block =>
            {
                last.blocks += run.blocks;
                last.first = last.first.min(run.first);
                last.last = last.last.max(run.last);
            }
            _ => self.runs.push(run),
        }
    }

    pub(crate) fn waste(&mut self, source: SourceId, bytes: u64) {
        if let Some(source) = self.sources.get_mut(source.0 as usize) {
            source.wasted += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: u32, port: u16, id: u8) -> SourceKind {
        SourceKind::Peer { address: (Ipv4Addr::from_bits(ip), port).into(), id: PeerId::ours([id; 12]) }
    }

    #[test]
    fn a_peer_that_comes_back_from_another_port_is_the_same_source() {
        let mut record = Provenance::default();
        let first = record.source(peer(7, 1, 1));
        assert!((2..10_000).all(|port| record.source(peer(7, port, 1)) == first));
        assert_ne!(record.source(peer(7, 1, 2)), first);
        assert_ne!(record.source(peer(8, 1, 1)), first);
        assert_eq!(record.sources().len(), 3);
    }

    #[test]
    fn peers_past_all_measure_are_counted_as_one() {
        let mut record = Provenance::default();
        let most = MOST_SOURCES as u32;
        let ids: Vec<SourceId> = (0..most + 5).map(|ip| record.source(peer(ip, 1, 1))).collect();
        assert_eq!(record.sources().len(), MOST_SOURCES + 1);
        assert!(ids.ends_with(&[SourceId(most); 5]));
        assert_eq!(record.source(peer(3, 9, 1)), SourceId(3), "who was known stays known");
        let origin = record.source(SourceKind::Origin);
        let run = |source| Run {
            piece: PieceIndex(0),
            first_block: 0,
            blocks: 1,
            source,
            first: Time(0),
            last: Time(0),
        };
        record.record(run(SourceId(3)), 5);
        record.record(run(SourceId(most)), 7);
        record.record(run(origin), 11);
        record.waste(SourceId(3), 13);
        assert_eq!(record.from_peers(), 12);
        assert_eq!(record.sources().get(origin.0 as usize).map(|s| &s.kind), Some(&SourceKind::Origin));
    }
}
