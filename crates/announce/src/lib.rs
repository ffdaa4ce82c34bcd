//! Announce and scrape: what peers and trackers say to one another, in both directions.
//!
//! The types say what is meant; [`http`] says how it is written in URLs and bencode (BEP 3, 7, 21, 23, 24, 31, 48), and
//! [`udp`] how in packets (BEP 15, 41). Reading replies is as lenient as the trackers out there need, writing is exact.
//! [`LocalAnnounce`] is what peers tell a local network (BEP 14).
//! [`cluster`] is what trackers that share their peers tell one another, ours alone, and read to the letter.
//!
//! What it never does: open a socket, follow a name, or keep more peers than [`MAX_PEERS`] from one reply.
//!
//! The invariant: what is written here is read here as the same. Everything is plain code on the caller's thread.

pub mod cluster;
pub mod http;
pub mod local;
mod request;
mod response;
pub mod udp;

pub use http::{AnnounceError, PeerFormat, ReplyError, append_to_url, encode_failure, scrape_url};
pub use local::{LocalAnnounce, LocalError};
pub use request::{AnnounceRequest, Event, Key, LEFT_UNKNOWN, MAX_SCRAPE, ScrapeRequest};
pub use response::{AnnounceResponse, MAX_PEERS, Peer, Reply, RetryIn, ScrapeResponse, ScrapeStats};
