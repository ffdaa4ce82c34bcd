//! What a peer says and asks, and what it is given, whatever protocol it speaks.

use std::net::{IpAddr, SocketAddr};

use announce::{Event, Key, ScrapeStats};
use metainfo::InfoHash;
use wire::PeerId;

/// An announce, by whatever protocol it came.
#[derive(Debug, Clone, Copy)]
pub struct Announce<'a> {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The peer's name for itself.
    pub peer_id: PeerId,
    /// Where it is, as far as the tracker believes; an IPv4 address is never written as an IPv6 one.
    pub ip: IpAddr,
    /// Where it listens; 0 if it does not.
    pub port: u16,
    /// Bytes sent since `started`.
    pub uploaded: u64,
    /// Bytes received since `started`.
    pub downloaded: u64,
    /// Bytes still missing.
    pub left: u64,
    /// What happened.
    pub event: Event,
    /// How many peers it would like.
    pub numwant: Option<u32>,
    /// By which it is known again.
    pub key: Option<Name>,
    /// Whether it can be told of peers of the other address family as well.
    pub both_families: bool,
    /// Whether it would have the peers' ids, where they are kept.
    pub ids: bool,
    /// What stands in the announce URL's path beside `announce`: a user's or a fleet's key. A secret.
    pub passkey: &'a [u8],
}

impl Announce<'_> {
    /// Where it can be reached.
    pub const fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// A `key`, as a number: the same whether it came as one over UDP or in hexadecimal over HTTP. A secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(pub(super) u128);

impl Name {
    /// A key sent over UDP; 0 is none.
    pub fn number(key: u32) -> Option<Self> {
        (key != 0).then(|| Self(key.into()))
    }

    /// A key sent over HTTP.
    pub fn text(key: &Key) -> Option<Self> {
        if let Some(number) = key.as_number() {
            return Self::number(number);
        }
        let mut bytes = key.as_bytes().iter().copied();
        let mut half = || u128::from_be_bytes(std::array::from_fn(|_| bytes.next().unwrap_or(0)));
        // Only 15 bits are kept in the end.
        Some(Self(half() ^ half().rotate_left(3) | 1 << 127))
    }
}

impl std::fmt::Debug for Name {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Name(…)")
    }
}

/// What became of an announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The peer is new and kept.
    Added,
    /// The peer was known and is kept.
    Renewed,
    /// The peer is gone.
    Stopped,
    /// The peer does not listen (port 0): it got an answer and is not kept.
    Deaf,
    /// There is no room: the peer got an answer and is not kept.
    Full,
    /// The address is another's, by its key: the asker got an answer, and nothing was changed.
    Foreign,
}

impl Outcome {
    /// All there are, each at its number.
    pub const ALL: [Self; 6] =
        [Self::Added, Self::Renewed, Self::Stopped, Self::Deaf, Self::Full, Self::Foreign];

    /// In a word, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Renewed => "renewed",
            Self::Stopped => "stopped",
            Self::Deaf => "deaf",
            Self::Full => "full",
            Self::Foreign => "foreign",
        }
    }
}

/// What the store makes of an announce; the peers are in [`Peers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// What became of it.
    pub outcome: Outcome,
    /// The torrent's numbers, the asker included.
    pub stats: ScrapeStats,
    /// How many peers it may be given in all: what it asked for, within bounds.
    pub want: usize,
    /// A random number for whoever answers.
    pub random: u32,
}

/// The peers of one answer in wire form, in buffers that are used again for the next.
#[derive(Debug, Default)]
pub struct Peers {
    pub(crate) v4: Vec<u8>,
    pub(crate) v6: Vec<u8>,
    /// 20 bytes for each of `v4`, or nothing.
    pub(crate) ids4: Vec<u8>,
    /// 20 bytes for each of `v6`, or nothing.
    pub(crate) ids6: Vec<u8>,
}

impl Peers {
    /// Empty, with room for most answers.
    pub fn new() -> Self {
        let room = || Vec::with_capacity(4096);
        Self { v4: room(), v6: room(), ids4: Vec::new(), ids6: Vec::new() }
    }

    /// Forgets the last answer.
    pub fn clear(&mut self) {
        let Self { v4, v6, ids4, ids6 } = self;
        [v4, v6, ids4, ids6].into_iter().for_each(Vec::clear);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() / 6 + self.v6.len() / 18
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Adds a peer of unknown id that came from elsewhere, if it is not there yet.
    pub fn add(&mut self, peer: SocketAddr) {
        let port = peer.port().to_be_bytes();
        let (list, ids, wire): (_, _, &[u8]) = match peer.ip().to_canonical() {
            IpAddr::V4(ip) => (&mut self.v4, &mut self.ids4, &[&ip.octets()[..], &port].concat()),
            IpAddr::V6(ip) => (&mut self.v6, &mut self.ids6, &[&ip.octets()[..], &port].concat()),
        };
        if !list.chunks_exact(wire.len()).any(|known| known == wire) {
            list.extend_from_slice(wire);
            if !ids.is_empty() {
                ids.extend_from_slice(&[0; 20]);
            }
        }
    }

    /// Each with its id, if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Option<PeerId>)> {
        let v4 = self.v4.as_chunks::<6>().0.iter().map(|&[a, b, c, d, high, low]| {
            SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
        });
        let v6 = self
            .v6
            .as_chunks::<18>()
            .0
            .iter()
            .map(|&[ip @ .., high, low]| SocketAddr::from((ip, u16::from_be_bytes([high, low]))));
        let id = |ids: &[[u8; 20]], at: usize| {
            ids.get(at).filter(|id| **id != [0; 20]).map(|id| PeerId::from_bytes(*id))
        };
        let v4 = v4.enumerate().map(move |(at, addr)| (addr, id(self.ids4.as_chunks().0, at)));
        let v6 = v6.enumerate().map(move |(at, addr)| (addr, id(self.ids6.as_chunks().0, at)));
        v4.chain(v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_over_both_protocols() {
        let text = |key: &[u8]| Name::text(&Key::new(key).expect("fits"));
        assert_eq!(text(b"4f1c0d2e"), Name::number(0x4f1c_0d2e));
        assert_eq!(text(b"4F1C0D2E"), Name::number(0x4f1c_0d2e));
        assert_eq!(text(b"00000000"), None);
        assert_eq!(Name::number(0), None);
        assert_ne!(text(b"not a number, but a key"), text(b"not a number, but a cey"));
        assert_ne!(text(b"zz"), None);
        assert!(!format!("{:?}", text(b"4f1c")).contains("4f1c"));
    }

    #[test]
    fn peers_from_elsewhere_come_once() {
        let mut peers = Peers::new();
        let addrs =
            ["10.0.0.1:1", "[fd00::1]:1", "10.0.0.1:2", "10.0.0.1:1", "[::ffff:10.0.0.1]:2", "[fd00::1]:1"];
        for addr in addrs {
            peers.add(addr.parse().expect("an address"));
        }
        assert_eq!(peers.len(), 3);
        let all: Vec<String> = peers.iter().map(|(addr, _)| addr.to_string()).collect();
        assert_eq!(all, ["10.0.0.1:1", "10.0.0.1:2", "[fd00::1]:1"]);
        peers.clear();
        assert!(peers.is_empty());
    }
}
