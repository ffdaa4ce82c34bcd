//! The peer store: all peers of all torrents. It knows nothing of protocols, sockets or clocks.

mod news;
mod peers;
mod request;
mod secret;
mod swarm;
mod ticks;
mod torrent;

pub(crate) use peers::WARMED;
pub use peers::{Limits, PeerStore};
pub use request::{Announce, Announced, Name, Outcome, Peers};
pub use torrent::TorrentStats;
