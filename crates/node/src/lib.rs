//! The daemon of one host, built from its configuration: content, engine, store, mirror, API.
//!
//! The heart is the content service: "give me this blob", from the store, from the swarm, or from the origin. One
//! *flight* per blob brings it here, however many clients wait, and goes on when they leave; clients read behind it,
//! byte by byte as it is proven. Who may ask the origin is settled by a lease of the directory, so that a fleet asks
//! once. Whatever fails on the way (directory, peers, disk), the client is served from the origin directly.
//!
//! It never publishes a blob whose bytes do not match its digest, and never waits without a deadline.
//!
//! Invariant: a byte that reaches a client was proven, or comes from the origin in an answer that stops short of its
//! end until the digest is proven; the last byte of a wrong blob is never sent. What is not public reaches only clients
//! to whom its registry would give it.
//!
//! All tasks run on the caller's runtime; what blocks (store, hashing, disk) runs on its blocking threads.

mod access;
mod breaker;
mod buffers;
mod certificate;
mod config;
mod content;
mod draft;
mod draw;
mod eviction;
mod fetch;
mod flight;
mod from_origin;
mod from_swarm;
mod health;
mod http;
mod lease;
mod lenders;
mod live;
mod log;
mod manifests;
mod meant;
mod metrics;
mod node;
mod pattern;
mod place;
mod pull;
mod push;
mod record;
mod shelf;
mod single;
mod site;
mod stream;
mod torrents;
mod trace;
mod trackers;
mod watch;
mod web;

pub use certificate::CertificateError;
pub use config::{
    ApiConfig, Config, ConfigError, ContentConfig, EXAMPLE, PeerConfig, StoreConfig, TorrentsConfig,
    parse_listen,
};
pub use log::{LogBook, log_book};
pub use node::{Node, StartError};
pub use place::{Log, Place, PlaceError, open as open_place};
pub use site::{OstreeConfig, ProxyConfig, RuleConfig, SiteError};
