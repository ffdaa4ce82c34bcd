//! What the trackers of a cluster tell one another: messages as values and as bytes. How they are sealed and sent is
//! the tracker's.
//!
//! A message begins with a byte that says what it is; numbers are big-endian.
//!
//! | first byte | then |
//! |---|---|
//! | 1 hello | the sender's name for this run, 16 bytes |
//! | 2 news | a stamp of the sender's, 8 bytes, and groups, of which there may be none |
//! | 3 receipt | the stamp of what was taken in, 8 bytes |
//!
//! A group is an info-hash (20 bytes), the number of its peers (2 bytes, not 0), and the peers. A peer has 12 bytes
//! with IPv4 and 24 with IPv6: flags (bits 0-1 what happened, 2-3 what it holds, 4 whether its address is IPv6, the
//! rest 0), who may change it (2), the age of the news in seconds (3), address (4 or 16), port (2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use metainfo::InfoHash;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 60 * 1024;

/// The greatest age, in seconds; older news counts as this old.
pub const MAX_AGE: u32 = (1 << 24) - 1;

/// A run of a tracker: drawn at its start.
pub type Instance = [u8; 16];

const HELLO: u8 = 1;
const NEWS: u8 = 2;
const RECEIPT: u8 = 3;

/// The bytes of a group's head, and of the longest peer.
const GROUP: usize = 22;
const LONGEST: usize = 24;

/// What a peer holds, and wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It lacks something that it wants.
    Part,
    /// It has all that it wants, which is not all there is (BEP 21).
    Selection,
    /// It has everything.
    All,
}

/// What happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It announced.
    Announced,
    /// It announced that it has just completed.
    Completed,
    /// It has left.
    Stopped,
}

/// News of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// Where it listens: an address of one host and a port, an IPv4 address never written as IPv6.
    pub addr: SocketAddr,
    /// A hash of its key or its name, by which it is known again; the same at every tracker of the cluster.
    pub who: u16,
    /// What it holds.
    pub holds: Holds,
    /// What happened.
    pub happened: Happened,
    /// How long ago, in seconds; at most [`MAX_AGE`].
    pub age: u32,
}

/// A message that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Who speaks.
    Hello(Instance),
    /// News of peers, or of none to say that the sender lives.
    News {
        /// To come back in the receipt.
        stamp: u64,
        /// The peers.
        groups: Groups<'a>,
    },
    /// News with this stamp was taken in.
    Receipt(u64),
}

impl<'a> Message<'a> {
    /// Reads a message; `None` where it is not one to the last byte.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_MESSAGE {
            return None;
        }
        let (&first, rest) = bytes.split_first()?;
        match first {
            HELLO => Some(Self::Hello(rest.try_into().ok()?)),
            RECEIPT => Some(Self::Receipt(u64::from_be_bytes(rest.try_into().ok()?))),
            NEWS => {
                let (stamp, rest) = rest.split_first_chunk()?;
                let groups = Groups { rest, left: 0, info_hash: InfoHash::from_bytes([0; 20]) };
                // Looked through once, so that whoever reads it then meets nothing wrong half way.
                let mut check = groups;
                check.by_ref().for_each(drop);
                check.rest.is_empty().then_some(Self::News { stamp: u64::from_be_bytes(*stamp), groups })
            }
            _ => None,
        }
    }
}

/// Writes a greeting.
pub fn encode_hello(instance: &Instance, out: &mut Vec<u8>) {
    out.push(HELLO);
    out.extend_from_slice(instance);
}

/// Writes a receipt.
pub fn encode_receipt(stamp: u64, out: &mut Vec<u8>) {
    out.push(RECEIPT);
    out.extend_from_slice(&stamp.to_be_bytes());
}

/// The peers of a message, each with its torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups<'a> {
    rest: &'a [u8],
    /// Peers of the group that is being read.
    left: u16,
    info_hash: InfoHash,
}

impl Groups<'_> {
    fn read(&mut self) -> Option<(InfoHash, News)> {
        let mut rest = self.rest;
        let (mut left, mut info_hash) = (self.left, self.info_hash);
        if left == 0 {
            info_hash = InfoHash::from_bytes(take(&mut rest)?);
            left = u16::from_be_bytes(take(&mut rest)?);
            if left == 0 {
                return None;
            }
        }
        let [flags] = take(&mut rest)?;
        let who = u16::from_be_bytes(take(&mut rest)?);
        let [high, middle, low] = take(&mut rest)?;
        let ip: IpAddr = match flags >> 4 {
            0 => Ipv4Addr::from(take::<4>(&mut rest)?).into(),
            1 => Ipv6Addr::from(take::<16>(&mut rest)?).into(),
            _ => return None,
        };
        let port = u16::from_be_bytes(take(&mut rest)?);
        let happened = match flags & 3 {
            0 => Happened::Announced,
            1 => Happened::Completed,
            2 => Happened::Stopped,
            _ => return None,
        };
        let holds = match flags >> 2 & 3 {
            0 => Holds::Part,
            1 => Holds::Selection,
            2 => Holds::All,
            _ => return None,
        };
        let age = u32::from_be_bytes([0, high, middle, low]);
        let news = News { addr: SocketAddr::new(ip, port), who, holds, happened, age };
        if !is_sound(&news) {
            return None;
        }
        *self = Self { rest, left: left - 1, info_hash };
        Some((info_hash, news))
    }
}

impl Iterator for Groups<'_> {
    type Item = (InfoHash, News);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() && self.left == 0 {
            return None;
        }
        let read = self.read();
        if read.is_none() && self.rest.is_empty() {
            // It ends in the middle of a group: so that this is seen, something is left.
            self.rest = &[0];
        }
        read
    }
}

/// A message of news while it is written. Peers of one torrent that come one after the other share a group.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Where the group begins that is being written.
    group: Option<(usize, InfoHash)>,
    peers: usize,
}

impl Writer {
    /// Without news yet.
    pub fn new(stamp: u64) -> Self {
        let mut bytes = vec![NEWS];
        bytes.extend_from_slice(&stamp.to_be_bytes());
        Self { bytes, group: None, peers: 0 }
    }

    /// How many peers it holds.
    pub const fn len(&self) -> usize {
        self.peers
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.peers == 0
    }

    /// Whether another peer may find no room.
    pub fn is_full(&self) -> bool {
        self.bytes.len() + GROUP + LONGEST > MAX_MESSAGE
    }

    /// Adds a peer; says whether it could, which is not so where the message is full, or nobody could be reached there.
    pub fn push(&mut self, info_hash: &InfoHash, news: &News) -> bool {
        if self.is_full() || !is_sound(news) {
            return false;
        }
        let same = self.group.filter(|(at, of)| of == info_hash && self.count(*at) < u16::MAX);
        let at = match same {
            Some((at, _)) => at,
            None => {
                let at = self.bytes.len();
                self.bytes.extend_from_slice(info_hash.as_bytes());
                self.bytes.extend_from_slice(&[0; 2]);
                self.group = Some((at, *info_hash));
                at
            }
        };
        let count = self.count(at) + 1;
        if let Some(place) = self.bytes.get_mut(at + 20..at + GROUP) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        let happened = match news.happened {
            Happened::Announced => 0,
            Happened::Completed => 1,
            Happened::Stopped => 2,
        };
        let holds = match news.holds {
            Holds::Part => 0,
            Holds::Selection => 1,
            Holds::All => 2,
        };
        let family = u8::from(news.addr.is_ipv6());
        self.bytes.push(happened | holds << 2 | family << 4);
        self.bytes.extend_from_slice(&news.who.to_be_bytes());
        let [_, age @ ..] = news.age.min(MAX_AGE).to_be_bytes();
        self.bytes.extend_from_slice(&age);
        match news.addr.ip() {
            IpAddr::V4(ip) => self.bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => self.bytes.extend_from_slice(&ip.octets()),
        }
        self.bytes.extend_from_slice(&news.addr.port().to_be_bytes());
        self.peers += 1;
        true
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn count(&self, group: usize) -> u16 {
        let bytes = self.bytes.get(group + 20..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }
}

/// Whether somebody may be reached there.
fn is_sound(news: &News) -> bool {
    let ip = news.addr.ip();
    let is_one_host = !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
    news.addr.port() != 0 && is_one_host && ip.to_canonical() == ip
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn news() -> impl Strategy<Value = News> {
        let holds = prop_oneof![Just(Holds::Part), Just(Holds::Selection), Just(Holds::All)];
        let happened =
            prop_oneof![Just(Happened::Announced), Just(Happened::Completed), Just(Happened::Stopped)];
        let ip = any::<IpAddr>().prop_map(|ip| ip.to_canonical());
        (ip, 1u16.., any::<u16>(), holds, happened, 0..=MAX_AGE)
            .prop_map(|(ip, port, who, holds, happened, age)| News {
                addr: SocketAddr::new(ip, port),
                who,
                holds,
                happened,
                age,
            })
            .prop_filter("a host", is_sound)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            peers in proptest::collection::vec((0u8..3, news()), 0..100),
            stamp: u64,
        ) {
            let mut writer = Writer::new(stamp);
            for (torrent, news) in &peers {
                prop_assert!(writer.push(&InfoHash::from_bytes([*torrent; 20]), news));
            }
            prop_assert_eq!(writer.len(), peers.len());
            let bytes = writer.finish();
            let Some(Message::News { stamp: read, groups }) = Message::parse(&bytes) else {
                panic!("{bytes:?}")
            };
            prop_assert_eq!(read, stamp);
            let all: Vec<_> = groups.map(|(info_hash, news)| (info_hash.as_bytes()[0], news)).collect();
            prop_assert_eq!(all, peers);
            for cut in 9..bytes.len() {
                if let Some(Message::News { groups, .. }) = Message::parse(&bytes[..cut]) {
                    // Between two groups it may end.
                    let mut again = Writer::new(stamp);
                    groups.for_each(|(info_hash, news)| assert!(again.push(&info_hash, &news)));
                    prop_assert_eq!(again.finish(), &bytes[..cut]);
                }
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_not(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            kind in 0u8..5,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Some(Message::News { mut groups, .. }) = Message::parse(&bytes) {
                prop_assert!(groups.count() * 12 <= bytes.len());
                prop_assert!(groups.all(|(_, news)| is_sound(&news)));
            }
        }
    }

    #[test]
    fn the_form_is_the_one_that_is_described() {
        let mut writer = Writer::new(0x0102);
        let news = News {
            addr: ([10, 0, 0, 1], 0x1ae1).into(),
            who: 0x8001,
            holds: Holds::All,
            happened: Happened::Completed,
            age: 0x0203,
        };
        assert!(writer.push(&InfoHash::from_bytes([7; 20]), &news));
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 1, 2];
        bytes.extend([7; 20]);
        bytes.extend([0, 1, 0b1001, 0x80, 1, 0, 2, 3, 10, 0, 0, 1, 0x1a, 0xe1]);
        assert_eq!(writer.finish(), bytes);
        let mut hello = Vec::new();
        encode_hello(&[9; 16], &mut hello);
        assert_eq!(Message::parse(&hello), Some(Message::Hello([9; 16])));
        let mut receipt = Vec::new();
        encode_receipt(5, &mut receipt);
        assert_eq!(Message::parse(&receipt), Some(Message::Receipt(5)));
        receipt.push(0);
        assert_eq!(Message::parse(&receipt), None);
        // Flags that mean nothing, a multicast address, a group of none, a group that is cut.
        for (at, wrong) in [(31, 0b1011), (31, 0b1101), (31, 0b10_1001), (37, 0xe0), (30, 0), (30, 2)] {
            let mut bytes = bytes.clone();
            bytes[at] = wrong;
            assert_eq!(Message::parse(&bytes), None, "{at}");
        }
        let mut portless = bytes.clone();
        portless[41..].fill(0);
        assert_eq!(Message::parse(&portless), None);
    }

    #[test]
    fn a_message_is_full_before_it_is_too_long() {
        let mut writer = Writer::new(1);
        let addr = "[2001:db8::1]:1".parse().expect("an address");
        let news = News { addr, who: 1, holds: Holds::Part, happened: Happened::Announced, age: u32::MAX };
        let mut pushed = 0u32;
        while writer.push(&InfoHash::from_bytes([(pushed % 2) as u8; 20]), &news) {
            pushed += 1;
        }
        let bytes = writer.finish();
        assert!(bytes.len() <= MAX_MESSAGE && bytes.len() > MAX_MESSAGE - 100);
        let Some(Message::News { mut groups, .. }) = Message::parse(&bytes) else { panic!("unread") };
        assert_eq!(groups.count() as u32, pushed);
        assert!(groups.all(|(_, news)| news.age == MAX_AGE));
        assert_eq!(Message::parse(&[&bytes[..], &bytes[9..]].concat()), None, "too long");
        let nowhere = News { addr: ([0, 0, 0, 0], 1).into(), ..news };
        assert!(!Writer::new(1).push(&InfoHash::from_bytes([1; 20]), &nowhere));
    }
}
