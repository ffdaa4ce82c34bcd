//! Replies as bencode.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bencode::{DecodeError, Dict, DictWriter, Options, Value, Writer};
use metainfo::InfoHash;
use wire::PeerId;

use crate::{AnnounceResponse, MAX_PEERS, Peer, Reply, RetryIn, ScrapeResponse, ScrapeStats};

/// More bencode values than this are no reply.
const MAX_ITEMS: u32 = 1_000_000;
/// The longest message for people that is kept, in characters.
const MAX_TEXT: usize = 500;
/// The longest tracker id that is kept, in bytes.
const MAX_TRACKER_ID: usize = 512;
/// What a tracker that names no interval gets.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// How peers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerFormat {
    /// 6 bytes for each IPv4 peer (BEP 23), and 18 for each IPv6 peer in a string of their own (BEP 7).
    Compact,
    /// A dictionary for each peer, with its peer id where it is known (BEP 3).
    Dictionary,
    /// A dictionary for each peer, without peer ids.
    DictionaryNoPeerId,
}

impl PeerFormat {
    /// What a request asks for. One that does not say gets the compact form, as every client reads it.
    pub const fn of(request: &crate::AnnounceRequest) -> Self {
        match request.compact {
            None | Some(true) => Self::Compact,
            Some(false) if request.no_peer_id => Self::DictionaryNoPeerId,
            Some(false) => Self::Dictionary,
        }
    }
}

/// Why a tracker's reply cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Not bencode.
    #[error("the tracker's reply is not bencode: {0}")]
    Bencode(#[from] DecodeError),
    /// Some other bencode value.
    #[error("the tracker's reply is not a dictionary")]
    NotADictionary,
    /// No `files` in the reply to a scrape.
    #[error("the tracker's reply to a scrape has no files")]
    MissingFiles,
}

impl AnnounceResponse {
    /// Reads a reply, in whatever form the tracker chose. Peers that cannot be reached (no port, a name for an
    /// address) are left out.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn parse(reply: &[u8]) -> Result<Reply<Self>, ReplyError> {
        let reply = decode(reply)?;
        if let Some(failure) = parse_failure(reply) {
            return Ok(failure);
        }
        let mut response = Self::new(DEFAULT_INTERVAL);
        for (key, value) in reply {
            match key {
                b"interval" => response.interval = seconds(value).unwrap_or(DEFAULT_INTERVAL),
                b"min interval" => response.min_interval = seconds(value),
                b"complete" => response.complete = count(value),
                b"incomplete" => response.incomplete = count(value),
                b"downloaded" => response.downloaded = count(value),
                b"peers" => read_peers(value, &mut response.peers),
                b"peers6" => read_compact::<16, 18>(value, &mut response.peers),
                b"tracker id" => response.tracker_id = short(value, MAX_TRACKER_ID).map(<[u8]>::to_vec),
                b"warning message" => response.warning = text(value),
                b"external ip" => response.external_ip = value.as_bytes().and_then(address),
                _ => {}
            }
        }
        Ok(Reply::Ok(response))
    }

    /// The reply in bencode.
    pub fn encode(&self, format: PeerFormat) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.peers.len() * 18);
        self.encode_into(format, &mut out);
        out
    }

    /// The reply in bencode, behind what `out` holds.
    pub fn encode_into(&self, format: PeerFormat, out: &mut Vec<u8>) {
        Writer::new(out).dict(|reply| {
            let mut number = |key: &[u8], value: Option<u32>| {
                if let Some(value) = value {
                    reply.unsigned(key, value.into());
                }
            };
            number(b"complete", self.complete);
            number(b"downloaded", self.downloaded);
            match self.external_ip {
                Some(IpAddr::V4(ip)) => reply.bytes(b"external ip", &ip.octets()),
                Some(IpAddr::V6(ip)) => reply.bytes(b"external ip", &ip.octets()),
                None => {}
            }
            if let Some(incomplete) = self.incomplete {
                reply.unsigned(b"incomplete", incomplete.into());
            }
            reply.unsigned(b"interval", self.interval.as_secs());
            if let Some(min_interval) = self.min_interval {
                reply.unsigned(b"min interval", min_interval.as_secs());
            }
            write_peers(reply, &self.peers, format);
            if let Some(tracker_id) = &self.tracker_id {
                reply.bytes(b"tracker id", tracker_id);
            }
            if let Some(warning) = &self.warning {
                reply.bytes(b"warning message", warning.as_bytes());
            }
        });
    }
}

impl ScrapeResponse {
    /// Reads a reply.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn parse(reply: &[u8]) -> Result<Reply<Self>, ReplyError> {
        let reply = decode(reply)?;
        if let Some(failure) = parse_failure(reply) {
            return Ok(failure);
        }
        let files = reply.get(b"files").and_then(|v| v.as_dict()).ok_or(ReplyError::MissingFiles)?;
        let files = files.iter().filter_map(|(info_hash, file)| {
            let file = file.as_dict()?;
            let number = |key: &[u8]| file.get(key).and_then(count).unwrap_or(0);
            let stats = ScrapeStats {
                complete: number(b"complete"),
                incomplete: number(b"incomplete"),
                downloaded: number(b"downloaded"),
                downloaders: file.get(b"downloaders").and_then(count),
            };
            Some((InfoHash::from_bytes(info_hash.try_into().ok()?), stats))
        });
        let flags = reply.get(b"flags").and_then(|v| v.as_dict());
        let min_request_interval = flags.and_then(|flags| seconds(flags.get(b"min_request_interval")?));
        Ok(Reply::Ok(Self { files: files.collect(), min_request_interval }))
    }

    /// The reply in bencode.
    pub fn encode(&self) -> Vec<u8> {
        bencode::encode_dict(|reply| {
            reply.dict(b"files", |files| {
                for (info_hash, stats) in &self.files {
                    files.dict(info_hash.as_bytes(), |file| stats.write(file));
                }
            });
            if let Some(interval) = self.min_request_interval {
                reply.dict(b"flags", |flags| flags.unsigned(b"min_request_interval", interval.as_secs()));
            }
        })
    }
}

impl ScrapeStats {
    /// Writes the entries of a torrent's dictionary in a scrape.
    pub fn write(&self, file: &mut DictWriter<'_>) {
        file.unsigned(b"complete", self.complete.into());
        file.unsigned(b"downloaded", self.downloaded.into());
        if let Some(downloaders) = self.downloaders {
            file.unsigned(b"downloaders", downloaders.into());
        }
        file.unsigned(b"incomplete", self.incomplete.into());
    }
}

/// A refusal in bencode, for announces and scrapes alike.
pub fn encode_failure(reason: &str, retry_in: Option<RetryIn>) -> Vec<u8> {
    bencode::encode_dict(|reply| {
        reply.bytes(b"failure reason", reason.as_bytes());
        match retry_in {
            Some(RetryIn::After(wait)) => reply.unsigned(b"retry in", wait.as_secs().div_ceil(60)),
            Some(RetryIn::Never) => reply.bytes(b"retry in", b"never"),
            None => {}
        }
    })
}

fn decode(reply: &[u8]) -> Result<Dict<'_>, ReplyError> {
    // Scripts like to end their output with a line break.
    let value = Options::default().max_items(MAX_ITEMS).any_key_order().decode(reply.trim_ascii_end())?;
    value.as_dict().ok_or(ReplyError::NotADictionary)
}

fn parse_failure<T>(reply: Dict<'_>) -> Option<Reply<T>> {
    let reason = text(reply.get(b"failure reason")?)?;
    let retry_in = reply.get(b"retry in").and_then(|value| match value.as_bytes() {
        Some(b"never") => Some(RetryIn::Never),
        _ => {
            let minutes = u64::from(count(value)?);
            Some(RetryIn::After(Duration::from_secs(minutes * 60)))
        }
    });
    Some(Reply::Failure { reason, retry_in })
}

fn write_peers(reply: &mut DictWriter<'_>, peers: &[Peer], format: PeerFormat) {
    let addresses = || peers.iter().map(|peer| (peer.addr.ip().to_canonical(), peer.addr.port()));
    if format == PeerFormat::Compact {
        reply.key(b"peers").chunks(addresses().filter_map(|(ip, port)| match ip {
            IpAddr::V4(ip) => Some(compact::<4, 6>(ip.octets(), port)),
            IpAddr::V6(_) => None,
        }));
        let v6 = addresses().filter_map(|(ip, port)| match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(compact::<16, 18>(ip.octets(), port)),
        });
        if v6.clone().next().is_some() {
            reply.key(b"peers6").chunks(v6);
        }
        return;
    }
    reply.list(b"peers", |list| {
        for ((ip, port), peer) in addresses().zip(peers) {
            list.item().dict(|entry| {
                entry.bytes(b"ip", ip.to_string().as_bytes());
                if let (Some(id), PeerFormat::Dictionary) = (peer.id, format) {
                    entry.bytes(b"peer id", id.as_bytes());
                }
                entry.unsigned(b"port", port.into());
            });
        }
    });
}

/// `ADDRESS` bytes of address and two of port, `PEER` bytes in all.
fn compact<const ADDRESS: usize, const PEER: usize>(address: [u8; ADDRESS], port: u16) -> [u8; PEER] {
    let mut bytes = address.into_iter().chain(port.to_be_bytes());
    std::array::from_fn(|_| bytes.next().unwrap_or(0))
}

fn read_peers(value: Value<'_>, peers: &mut Vec<Peer>) {
    let Some(list) = value.as_list() else { return read_compact::<4, 6>(value, peers) };
    for entry in list.filter_map(|entry| entry.as_dict()) {
        if peers.len() >= MAX_PEERS {
            break;
        }
        let ip = entry.get(b"ip").and_then(|v| v.as_str()?.parse::<IpAddr>().ok());
        let port = entry.get(b"port").and_then(|v| u16::try_from(v.as_integer()?).ok());
        // retracker writes `peer_id`.
        let id = entry.get(b"peer id").or_else(|| entry.get(b"peer_id"));
        let id = id.and_then(|v| v.as_bytes()?.try_into().ok()).map(PeerId::from_bytes);
        if let (Some(ip), Some(port)) = (ip, port) {
            push(peers, ip, port, id);
        }
    }
}

/// `ADDRESS` bytes of address and two of port for each peer, `PEER` bytes in all.
fn read_compact<const ADDRESS: usize, const PEER: usize>(value: Value<'_>, peers: &mut Vec<Peer>) {
    let (entries, _) = value.as_bytes().unwrap_or_default().as_chunks::<PEER>();
    for (ip, port) in entries.iter().filter_map(|entry| entry.split_at_checked(ADDRESS)) {
        if peers.len() >= MAX_PEERS {
            break;
        }
        if let (Some(ip), &[high, low]) = (address(ip), port) {
            push(peers, ip, u16::from_be_bytes([high, low]), None);
        }
    }
}

fn push(peers: &mut Vec<Peer>, ip: IpAddr, port: u16, id: Option<PeerId>) {
    let ip = ip.to_canonical();
    if port != 0 && !ip.is_unspecified() {
        peers.push(Peer { addr: SocketAddr::new(ip, port), id });
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into());
    v4().or_else(v6)
}

fn seconds(value: Value<'_>) -> Option<Duration> {
    count(value).map(|seconds| Duration::from_secs(seconds.into()))
}

fn count(value: Value<'_>) -> Option<u32> {
    value.as_unsigned().map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn short(value: Value<'_>, most: usize) -> Option<&[u8]> {
    value.as_bytes().filter(|bytes| bytes.len() <= most)
}

fn text(value: Value<'_>) -> Option<String> {
    let bytes = value.as_bytes()?;
    let bytes = bytes.get(..4 * MAX_TEXT).unwrap_or(bytes);
    Some(String::from_utf8_lossy(bytes).chars().take(MAX_TEXT).collect())
}
