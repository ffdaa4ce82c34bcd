//! Announce and scrape over UDP (BEP 15), with the options behind an announce (BEP 41), in both directions.
//!
//! Every request but the first carries the connection id that the tracker gave to this very address; so the head is
//! read on its own ([`UdpHead`]), and nothing else of a packet need be looked at when the id is wrong. Numbers are
//! big-endian.

use std::net::{IpAddr, Ipv4Addr};

use metainfo::InfoHash;
use wire::PeerId;

use crate::{Event, ScrapeStats};

/// The connection id of a `connect`.
pub const PROTOCOL_ID: u64 = 0x417_2710_1980;
/// The most torrents in one scrape: more make a packet longer than fits an Ethernet frame.
pub const MAX_UDP_SCRAPE: usize = 74;
/// The length of an announce without options, in bytes.
pub const ANNOUNCE_LENGTH: usize = 98;
/// The longest request, in bytes: an Ethernet frame's.
pub const MAX_REQUEST: usize = 1500;
/// What stands before the peers in the answer to an announce, in bytes.
pub const ANSWER_HEAD: usize = 20;
/// The most bytes of path and query that are kept of an announce's options.
pub const MAX_URL: usize = 512;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpAction {
    /// A connection id.
    Connect,
    /// See [`UdpAnnounce`].
    Announce,
    /// See [`scrape_hashes`].
    Scrape,
}

/// The first 16 bytes of every request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpHead {
    /// The id that the tracker gave; [`PROTOCOL_ID`] in a `connect`.
    pub connection: u64,
    /// What is asked for; `None` for a number that stands for nothing.
    pub action: Option<UdpAction>,
    /// Comes back in the answer.
    pub transaction: u32,
}

impl UdpHead {
    /// Reads it. `None` where a packet is too short to have one.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut fields = Fields(packet);
        let connection = fields.u64()?;
        let action = match fields.u32()? {
            CONNECT => Some(UdpAction::Connect),
            ANNOUNCE => Some(UdpAction::Announce),
            SCRAPE => Some(UdpAction::Scrape),
            _ => None,
        };
        Some(Self { connection, action, transaction: fields.u32()? })
    }

    /// Whether this opens a connection: the right action and the right number.
    pub fn is_connect(&self) -> bool {
        self.action == Some(UdpAction::Connect) && self.connection == PROTOCOL_ID
    }

    /// Writes it behind what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let action = match self.action {
            Some(UdpAction::Announce) => ANNOUNCE,
            Some(UdpAction::Scrape) => SCRAPE,
            Some(UdpAction::Connect) | None => CONNECT,
        };
        out.extend_from_slice(&self.connection.to_be_bytes());
        out.extend_from_slice(&action.to_be_bytes());
        out.extend_from_slice(&self.transaction.to_be_bytes());
    }
}

/// An announce, but for its head and its options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpAnnounce {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The peer's name for itself.
    pub peer_id: PeerId,
    /// Bytes received since `started`.
    pub downloaded: u64,
    /// Bytes still missing.
    pub left: u64,
    /// Bytes sent since `started`.
    pub uploaded: u64,
    /// What happened. BEP 15 numbers four; 4 is taken for `paused` (BEP 21), anything else for a regular announce.
    pub event: Event,
    /// The address it says it has, where it says so. Not to be believed from strangers.
    pub ip: Option<Ipv4Addr>,
    /// By which it is known again; 0 if it has none.
    pub key: u32,
    /// How many peers it would like; `None` for what the tracker thinks right.
    pub numwant: Option<u32>,
    /// Where it listens.
    pub port: u16,
}

impl UdpAnnounce {
    /// Reads a whole packet. `None` where it is too short.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut fields = Fields(packet.get(16..)?);
        Some(Self {
            info_hash: InfoHash::from_bytes(*fields.chunk()?),
            peer_id: PeerId::from_bytes(*fields.chunk()?),
            downloaded: fields.u64()?,
            left: fields.u64()?,
            uploaded: fields.u64()?,
            event: match fields.u32()? {
                1 => Event::Completed,
                2 => Event::Started,
                3 => Event::Stopped,
                4 => Event::Paused,
                _ => Event::None,
            },
            ip: Some(Ipv4Addr::from(*fields.chunk()?)).filter(|ip| !ip.is_unspecified()),
            key: fields.u32()?,
            // Negative ones are for "as you like".
            numwant: Some(fields.u32()?).filter(|&numwant| numwant <= i32::MAX as u32),
            port: u16::from_be_bytes(*fields.chunk()?),
        })
    }

    /// Writes it, behind a head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.info_hash.as_bytes());
        out.extend_from_slice(self.peer_id.as_bytes());
        for number in [self.downloaded, self.left, self.uploaded] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let event: u32 = match self.event {
            Event::None => 0,
            Event::Completed => 1,
            Event::Started => 2,
            Event::Stopped => 3,
            Event::Paused => 4,
        };
        out.extend_from_slice(&event.to_be_bytes());
        out.extend_from_slice(&self.ip.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        out.extend_from_slice(&self.key.to_be_bytes());
        let numwant = self.numwant.and_then(|numwant| i32::try_from(numwant).ok()).unwrap_or(-1);
        out.extend_from_slice(&numwant.to_be_bytes());
        out.extend_from_slice(&self.port.to_be_bytes());
    }
}

/// The torrent that a packet announces, if it announces one, whoever it is from.
pub fn announced_torrent(packet: &[u8]) -> Option<&[u8; 20]> {
    let is_announce = packet.len() >= ANNOUNCE_LENGTH && packet.get(8..12) == Some(&ANNOUNCE.to_be_bytes());
    if is_announce { packet.get(16..)?.first_chunk() } else { None }
}

/// The path and query of an announce's URL, put together from its options (BEP 41); empty where there are none.
///
/// What is broken ends the reading, and what came before it counts; beyond [`MAX_URL`] bytes nothing does.
pub fn url_data<'b>(packet: &[u8], buffer: &'b mut [u8; MAX_URL]) -> &'b [u8] {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const URL_DATA: u8 = 2;
    let mut rest = packet.get(ANNOUNCE_LENGTH..).unwrap_or_default();
    let mut length = 0;
    while let Some((&kind, tail)) = rest.split_first() {
        rest = match kind {
            END => break,
            NOP => tail,
            _ => {
                // All others have a length, those yet to be invented too.
                let Some((&size, tail)) = tail.split_first() else { break };
                let Some((data, tail)) = tail.split_at_checked(size.into()) else { break };
                if kind == URL_DATA {
                    let Some(room) = buffer.get_mut(length..length + data.len()) else { break };
                    room.copy_from_slice(data);
                    length += data.len();
                }
                tail
            }
        };
    }
    buffer.get(..length).unwrap_or_default()
}

/// Writes options that say `url`, the path and query of the announce URL (BEP 41), behind an announce.
pub fn encode_url_data(url: &[u8], out: &mut Vec<u8>) {
    for part in url.chunks(usize::from(u8::MAX)) {
        out.extend_from_slice(&[2, part.len() as u8]);
        out.extend_from_slice(part);
    }
    out.push(0);
}

/// The torrents of a scrape, at most [`MAX_UDP_SCRAPE`] of them. `None` where there is none, or part of one.
pub fn scrape_hashes(packet: &[u8]) -> Option<&[[u8; 20]]> {
    let (hashes, rest) = packet.get(16..)?.as_chunks::<20>();
    let most = hashes.len().min(MAX_UDP_SCRAPE);
    (rest.is_empty() && most > 0).then(|| hashes.get(..most))?
}

/// The answer to a `connect`.
pub fn encode_connected(transaction: u32, connection: u64, out: &mut Vec<u8>) {
    answer_head(CONNECT, transaction, out);
    out.extend_from_slice(&connection.to_be_bytes());
}

/// The answer to an announce, before its peers; they follow in compact form, all of the packet's own family.
pub fn encode_announced(transaction: u32, interval: u32, stats: &ScrapeStats, out: &mut Vec<u8>) {
    let mut head = [0; ANSWER_HEAD];
    let fields = [ANNOUNCE, transaction, interval, stats.incomplete, stats.complete];
    for (place, field) in head.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
        *place = field.to_be_bytes();
    }
    out.extend_from_slice(&head);
}

/// The answer to a scrape, before its torrents.
pub fn encode_scraped(transaction: u32, out: &mut Vec<u8>) {
    answer_head(SCRAPE, transaction, out);
}

/// One torrent of the answer to a scrape, in the order of the question.
pub fn encode_scraped_torrent(stats: &ScrapeStats, out: &mut Vec<u8>) {
    for number in [stats.complete, stats.downloaded, stats.incomplete] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// A refusal.
pub fn encode_error(transaction: u32, reason: &str, out: &mut Vec<u8>) {
    answer_head(ERROR, transaction, out);
    out.extend_from_slice(reason.as_bytes());
}

/// A tracker's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UdpAnswer<'a> {
    /// To a `connect`: the id to use from this address.
    Connected(u64),
    /// To an announce.
    Announced {
        /// Seconds until the next.
        interval: u32,
        /// The torrent's numbers; `downloaded` is not told.
        stats: ScrapeStats,
        /// 6 bytes for each peer where the packets are IPv4, 18 where they are IPv6.
        peers: &'a [u8],
    },
    /// To a scrape: the numbers of each torrent asked for, in that order.
    Scraped(Vec<ScrapeStats>),
    /// No.
    Error(&'a [u8]),
}

impl<'a> UdpAnswer<'a> {
    /// Reads an answer and the transaction that it is for. `None` for what is none.
    pub fn parse(packet: &'a [u8]) -> Option<(u32, Self)> {
        let mut fields = Fields(packet);
        let (action, transaction) = (fields.u32()?, fields.u32()?);
        let answer = match action {
            CONNECT => Self::Connected(fields.u64()?),
            ANNOUNCE => {
                let interval = fields.u32()?;
                let (incomplete, complete) = (fields.u32()?, fields.u32()?);
                let stats = ScrapeStats { complete, incomplete, ..ScrapeStats::default() };
                Self::Announced { interval, stats, peers: fields.0 }
            }
            SCRAPE => {
                let (torrents, _) = fields.0.as_chunks::<12>();
                let torrents = torrents.iter().take(MAX_UDP_SCRAPE).filter_map(|torrent| {
                    let mut fields = Fields(torrent);
                    let (complete, downloaded) = (fields.u32()?, fields.u32()?);
                    Some(ScrapeStats { complete, downloaded, incomplete: fields.u32()?, downloaders: None })
                });
                Self::Scraped(torrents.collect())
            }
            ERROR => Self::Error(fields.0),
            _ => return None,
        };
        Some((transaction, answer))
    }
}

/// An address in the compact form, with its port: 6 bytes, or 18.
pub fn push_compact(ip: IpAddr, port: u16, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&port.to_be_bytes());
}

fn answer_head(action: u32, transaction: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(chunk)
    }

    fn u32(&mut self) -> Option<u32> {
        self.chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        self.chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn announce() -> impl Strategy<Value = UdpAnnounce> {
        let event = prop_oneof![
            Just(Event::None),
            Just(Event::Completed),
            Just(Event::Started),
            Just(Event::Stopped),
            Just(Event::Paused)
        ];
        let numwant = proptest::option::of(0..=i32::MAX as u32);
        let ip = any::<Option<Ipv4Addr>>().prop_map(|ip| ip.filter(|ip| !ip.is_unspecified()));
        let names = any::<([u8; 20], [u8; 20])>();
        (names, any::<[u64; 3]>(), event, ip, any::<u32>(), numwant, any::<u16>()).prop_map(
            |((info_hash, peer_id), [downloaded, left, uploaded], event, ip, key, numwant, port)| {
                UdpAnnounce {
                    info_hash: InfoHash::from_bytes(info_hash),
                    peer_id: PeerId::from_bytes(peer_id),
                    downloaded,
                    left,
                    uploaded,
                    event,
                    ip,
                    key,
                    numwant,
                    port,
                }
            },
        )
    }

    fn head(action: UdpAction) -> UdpHead {
        UdpHead { connection: 0x0102_0304_0506_0708, action: Some(action), transaction: 9 }
    }

    proptest! {
        #[test]
        fn an_announce_is_read_as_it_was_written(announce in announce(), url: Vec<u8>) {
            let mut packet = Vec::new();
            head(UdpAction::Announce).encode(&mut packet);
            announce.encode(&mut packet);
            prop_assert_eq!(packet.len(), ANNOUNCE_LENGTH);
            encode_url_data(&url, &mut packet);
            prop_assert_eq!(UdpHead::parse(&packet), Some(head(UdpAction::Announce)));
            prop_assert_eq!(UdpAnnounce::parse(&packet), Some(announce));
            let mut buffer = [0; MAX_URL];
            prop_assert_eq!(url_data(&packet, &mut buffer), &url[..]);
        }

        #[test]
        fn anything_is_read_without_a_panic(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = UdpHead::parse(&packet);
            prop_assert_eq!(UdpAnnounce::parse(&packet).is_some(), packet.len() >= ANNOUNCE_LENGTH);
            prop_assert!(scrape_hashes(&packet).is_none_or(|hashes| (1..=MAX_UDP_SCRAPE).contains(&hashes.len())));
            prop_assert!(url_data(&packet, &mut [0; MAX_URL]).len() <= packet.len());
            let _ = UdpAnswer::parse(&packet);
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let mut packet = Vec::new();
        encode_connected(7, 42, &mut packet);
        assert_eq!(UdpAnswer::parse(&packet), Some((7, UdpAnswer::Connected(42))));
        let stats = ScrapeStats { complete: 1, incomplete: 2, ..ScrapeStats::default() };
        packet.clear();
        encode_announced(7, 1800, &stats, &mut packet);
        push_compact([10, 0, 0, 1].into(), 6881, &mut packet);
        let peers = &[10, 0, 0, 1, 0x1a, 0xe1];
        assert_eq!(
            UdpAnswer::parse(&packet),
            Some((7, UdpAnswer::Announced { interval: 1800, stats, peers }))
        );
        packet.clear();
        encode_scraped(7, &mut packet);
        let stats = ScrapeStats { downloaded: 3, ..stats };
        encode_scraped_torrent(&stats, &mut packet);
        assert_eq!(UdpAnswer::parse(&packet), Some((7, UdpAnswer::Scraped(vec![stats]))));
        packet.clear();
        encode_error(7, "no", &mut packet);
        assert_eq!(UdpAnswer::parse(&packet), Some((7, UdpAnswer::Error(b"no"))));
        assert_eq!(UdpAnswer::parse(b"\0\0\0\x04\0\0\0\0"), None);
    }

    #[test]
    fn options_end_where_they_are_broken() {
        let url = |options: &[u8]| {
            let packet = [&[0; ANNOUNCE_LENGTH][..], options].concat();
            url_data(&packet, &mut [0; MAX_URL]).to_vec()
        };
        assert_eq!(url(b""), b"");
        assert_eq!(url(b"\x02\x02/a\x01\x02\x02?b\x00\x02\x01x"), b"/a?b");
        assert_eq!(url(b"\x02\x01a\x02\x05b"), b"a");
        assert_eq!(url(b"\x07\x01x\x02\x01a"), b"a", "an unknown option is passed over");
        let many = b"\x02\xff".iter().copied().chain([b'x'; 255]).collect::<Vec<_>>().repeat(3);
        assert_eq!(url(&many).len(), 510);
    }
}
