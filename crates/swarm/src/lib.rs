//! The brain of one torrent: which block to ask of whom, what to serve, what has been proven and who gave it.
//!
//! [`Swarm`] takes messages, arrived blocks, verdicts on pieces and the time, and gives back messages, ranges to
//! upload, pieces to verify and events. It does no I/O, reads no clock and knows no thread: the same code runs on
//! sockets (`engine`) and in virtual time (`sim`). It never sees a payload; the driver keeps the bytes of a piece
//! until the swarm asks to have it verified.
//!
//! Invariant: a piece is told of (`have`), served or counted only after the driver said that it is proven and
//! written; every block asked for is asked of somebody who has it, at most twice at once, and never again once
//! it is here.
//!
//! How the driver runs it: call an input ([`Swarm::on_message`], [`Swarm::on_block`], …), then drain
//! [`Swarm::poll_event`] and [`Swarm::take_dirty`]; for every dirty peer, send [`Swarm::drain_messages`] and then
//! what [`Swarm::next_upload`] gives while the socket takes it; call [`Swarm::on_tick`] by [`Swarm::next_tick`].
//!
//! The policy: from a seed, take the pieces it suggests, which it hands out so that each goes to one leecher first;
//! from each other, rarest first, inside the reader's window when somebody is reading (D5).

mod active;
mod bits;
mod blame;
mod event;
mod peer;
mod picker;
mod provenance;
mod rarity;
mod seeding;
mod swarm;
mod time;
mod turns;
mod upload;

pub use bits::PieceSet;
pub use event::{BlockVerdict, Event, PeerGone};
pub use peer::{PeerInfo, PeerKey, PeerStats};
pub use provenance::{Provenance, Run, Source, SourceId, SourceKind};
pub use swarm::{Config, Swarm, Verified};
pub use time::{Rate, Time};

/// A peer's place in the order by which leechers share out a seed's pieces; give our own as
/// [`Config::random_seed`].
pub fn peer_tag(id: &wire::PeerId) -> u64 {
    picker::id_tag(id)
}
