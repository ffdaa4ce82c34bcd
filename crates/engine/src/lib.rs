//! Runs swarms on tokio: sockets, buffers, disk, timers and trackers around the brain in `swarm`.
//!
//! An [`Engine`] listens on one port for all torrents. [`Engine::add`] starts a torrent and gives a [`Torrent`], by
//! which to follow it; what the [`Shelf`] holds is served without having been added: an incoming handshake is one
//! look-up, and a torrent that nobody moves is no task, timer or descriptor (D7).
//!
//! It never serves a byte that is not proven and written, never copies a payload in user space but once from the
//! kernel, and never lets a peer choose the size of an allocation.
//!
//! Invariant: a piece is marked in the proof log only after its bytes are in the file, and told to peers only after
//! that.
//!
//! Who runs where: a connection is one task, which reads and writes in turn; the brain of a torrent is behind a
//! lock that its connections take briefly, never across an await. Blocks are received straight into pooled buffers; when a
//! piece is whole, a thread of the checker hashes it while it is hot, several pieces at once where several
//! wait, writes it with one call, and tells the brain. Uploads go from the page cache to the socket by `sendfile`.
//! A torrent has one task for its timers and dials; trackers have one task for all torrents, and so has the local network
//! where it is asked for peers.

mod announcer;
mod buffers;
mod checker;
mod clock;
mod config;
mod dial;
mod engine;
mod handshake;
mod layout;
mod link;
mod local;
mod local_plan;
mod metadata;
mod places;
mod rate;
mod resume;
mod torrent;
mod writer;

pub use config::{Config, DEFAULT_PORT};
pub use engine::{AddError, Engine, Shelf, ShelfItem, StartError, TorrentSpec, TrackerState};
pub use layout::{Layout, LayoutError};
pub use metadata::MetadataError;
pub use resume::{CheckError, check, rehash};
pub use torrent::{Failure, NoLog, ProofLog, Reader, State as TorrentState, Status, Torrent};
