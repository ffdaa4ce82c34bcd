//! The tracker: announce and scrape over UDP and HTTP, over one store, and the content directory.
//!
//! | where | what |
//! |---|---|
//! | UDP | BEP 15, 41; connection ids without state |
//! | HTTP, HTTPS | all that follows; over TCP, HTTP over unix sockets too; PROXY protocol from trusted proxies |
//! | `/announce`, `/scrape` | BEP 3, 7, 21, 23, 24, 31, 48; a key may stand before or behind |
//! | `/directory/v1/…` | see [`api::directory`](::api::directory); kept in `redb`, or in etcd |
//! | `/`, `/stats`, `/stats.json`, `/metrics`, `/health` | a page and a text for people, scripts, Prometheus, and `ok` |
//!
//! [`Tracker::start`] binds and serves; [`run`] does so until told to stop. A program that is to give up rights of root
//! calls [`Listeners::bind`] while it has no threads, and [`Tracker::serve`] then. [`PeerStore`] is the tracker's heart
//! and knows nothing of protocols, sockets or clocks. One pure way leads from an announce to its answer, by whatever
//! protocol it came (`desk`); who may ask what (`policy`) can be changed while it runs.
//!
//! **Never:** an outgoing connection but to forwarders, etcd and the cluster's other trackers, a peer's word on its own
//! address (but from networks that are set, this machine by default), a queue or table without a bound, a wait without
//! a deadline, a UDP answer to who was not given a connection id.
//!
//! **The invariant:** an answer holds only peers that announced from the address it gives, within the peer age and a
//! round of the sweep, here or at a tracker of the cluster, or that a forwarder has told of, and never the asker. A
//! lease on a blob has one holder at a time.
//!
//! **Threads:** announces and scrapes are answered on plain threads, for each listener one a core for UDP and one a
//! core for HTTP; nothing on their way waits, allocates for an ordinary announce, or takes any lock but that of
//! the torrent's shard (in a cluster that of a buffer too, and with registered torrents only one to read). All else
//! runs on tokio tasks: one for each connection, those of HTTPS and those that come from the HTTP threads, and two for
//! each tracker of the cluster. The directory's database is only touched from blocking threads.

mod api;
mod auth;
mod bencoded;
mod cluster;
mod config;
mod desk;
mod directory;
mod endpoint;
mod error;
mod forward;
mod full_scrape;
mod halves;
mod http;
mod leases;
mod limit;
mod listen;
mod metrics;
mod network;
mod places;
mod policy;
mod registered;
mod seldom;
mod serve;
mod server;
mod stats;
mod status;
mod store;
mod tally;
mod udp;
mod user;

pub use cluster::{ClusterKey, KeyError};
pub use config::{Config, ConfigError, EXAMPLE, Home, HomeError};
pub use desk::{Answer, Refusal};
pub use endpoint::{Endpoint, Listen, ListenError, SocketMode, SocketModeError};
pub use error::{DirectoryError, StartError};
pub use etcd::{AddressError, Password};
pub use forward::{Forwarder, ListError, read_list};
pub use listen::{Inherited, InheritedSocket, Listeners};
pub use network::{Network, NetworkError};
pub use policy::{ContentError, FileError, open_ordinary};
pub use server::{Tracker, run};
pub use store::{Announce, Announced, Limits, Name, Outcome, PeerStore, Peers, TorrentStats};
pub use tls::{PemError, TlsError};
pub use user::UserError;
