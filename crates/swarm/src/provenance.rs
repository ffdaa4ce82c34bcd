//! Who gave what, when: every block of every proven piece, in runs (D11).

use std::net::SocketAddr;

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
    /// Bytes that it sent in vain: doubles, and blocks of pieces that failed.
    pub wasted: u64,
}

/// The sorts of places that blocks come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceKind {
    /// A peer, by address and name.
    Peer {
        /// Where it was connected.
        address: SocketAddr,
        /// What it calls itself.
        id: PeerId,
    },
    /// The origin: a registry or another place that content comes from first.
    Origin,
    /// Here already when the swarm began.
    Store,
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

    /// All runs of proven pieces, in the order in which the pieces were proven.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The number of a source; a peer that comes back under the same name and address keeps its number.
    pub(crate) fn source(&mut self, kind: SourceKind) -> SourceId {
        let at = self.sources.iter().position(|s| s.kind == kind).unwrap_or_else(|| {
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
