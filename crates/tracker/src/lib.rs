//! The tracker: announce and scrape over HTTP, and the content directory.
//!
//! | path | what |
//! |---|---|
//! | `/announce` | BEP 3, 7, 21, 23, 24, 31; peers kept in memory |
//! | `/scrape` | BEP 48, of named torrents |
//! | `/directory/v1/…` | see [`api::directory`]; kept in `redb` |
//! | `/metrics` | Prometheus text |
//! | `/health` | `ok` |
//!
//! [`Tracker::start`] binds and serves; [`run`] does so until told to stop. [`PeerStore`] is the tracker's heart
//! and knows nothing of HTTP, sockets or clocks.
//!
//! **Never:** an outgoing connection, a peer's word on its own address (but from this very machine), a queue or
//! table without a bound, a wait without a deadline.
//!
//! **The invariant:** an answer holds only peers that announced from the address it gives, within the peer age,
//! and never the asker. A lease on a blob has one holder at a time.
//!
//! **Threads:** everything runs on tokio tasks, one per connection. The peer store's locks are per shard and held
//! for one announce; the directory's database is only touched from blocking threads.

mod auth;
mod config;
mod directory;
mod error;
mod http;
mod leases;
mod metrics;
mod peers;
mod server;
mod swarm;

pub use config::{Config, ConfigError};
pub use error::{DirectoryError, StartError};
pub use peers::{Announced, Limits, Outcome, PeerStore};
pub use server::{Tracker, run};
