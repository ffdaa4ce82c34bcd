//! A million peers in ten thousand torrents.

pub(crate) const TORRENTS: u32 = 10_000;
pub(crate) const PEERS: u32 = 1_000_000;

/// The n-th torrent's info-hash.
pub(crate) fn info_hash(torrent: u32) -> [u8; 20] {
    let mut state = u64::from(torrent) + 1;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    })
}

pub(crate) fn hex(torrent: u32) -> String {
    info_hash(torrent).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Peers in an order that looks random and meets each once in [`PEERS`] steps.
pub(crate) struct Walk(u32);

impl Walk {
    pub(crate) fn new() -> Self {
        Self(0)
    }

    /// The next peer's torrent and port. Every tenth peer is a seed.
    pub(crate) fn step(&mut self) -> Peer {
        // A prime that does not divide their number.
        self.0 = (self.0 + 613_651) % PEERS;
        let (torrent, n) = (self.0 % TORRENTS, self.0 / TORRENTS);
        Peer { torrent, port: 10_000 + n as u16, left: if n % 10 == 0 { 0 } else { 1_000_000 } }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) torrent: u32,
    pub(crate) port: u16,
    pub(crate) left: u64,
}

/// All info-hashes, made once.
pub(crate) fn info_hashes() -> Vec<[u8; 20]> {
    (0..TORRENTS).map(info_hash).collect()
}
