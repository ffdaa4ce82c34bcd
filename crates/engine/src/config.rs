//! How an engine runs.

use std::net::{Ipv4Addr, SocketAddr};

/// The port on which Longshore listens for peers unless told otherwise.
pub const DEFAULT_PORT: u16 = 6881;

/// Settings of an [`crate::Engine`], with defaults for a local network.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen for peers. A port of 0 takes any free one. With an address other than 0.0.0.0, connections
    /// to peers and trackers go out from that address too.
    pub listen: SocketAddr,
    /// Most connections to peers, for all torrents together: half of them for those that others make to us, and
    /// half for those that we make, so that neither keeps out the other.
    pub max_connections: usize,
    /// Most connections that one host may make to us. Two nodes have one for each torrent that both have or want;
    /// hosts behind one address share. Does not count on loopback.
    /// The hosts of one IPv6 network (/64) together may take half of the places for incoming connections, or this
    /// many if that is more.
    pub max_per_host: usize,
    /// Most connections to peers for one torrent.
    pub max_peers: usize,
    /// How many peers of one torrent are served at once.
    pub upload_slots: usize,
    /// Threads that hash and write; 0 takes one per core.
    pub check_threads: usize,
    /// The longest request, in bytes, to make of peers that serve such (Longshore's do).
    pub max_request: u32,
    /// Most bytes of pieces begun and not yet written, per torrent.
    pub max_active: u64,
    /// How many pieces ahead of a reader are fetched first.
    pub window: u32,
    /// Most content bytes received per second, for all torrents together; 0 for no limit.
    pub down_limit: u64,
    /// Most content bytes sent per second, for all torrents together; 0 for no limit.
    pub up_limit: u64,
    /// Whether peers are looked for in the local network by multicast, and those that look are answered (BEP 14).
    pub local_discovery: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
            max_connections: 1000,
            max_per_host: 128,
            max_peers: 100,
            upload_slots: 100,
            check_threads: 0,
            max_request: 256 * 1024,
            max_active: 48 * 1024 * 1024,
            window: 32,
            down_limit: 0,
            up_limit: 0,
            local_discovery: false,
        }
    }
}
