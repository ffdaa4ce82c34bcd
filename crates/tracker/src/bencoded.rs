//! Answers in bencode, written straight behind what a buffer holds.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use announce::{PeerFormat, RetryIn, ScrapeStats};
use bencode::{DictWriter, Writer};
use metainfo::InfoHash;
use wire::PeerId;

use crate::{desk::Answer, store::Peers};

/// An announce's answer.
pub(crate) fn announced(
    answer: &Answer,
    peers: &Peers,
    format: PeerFormat,
    ip: IpAddr,
    tracker_id: &[u8],
    out: &mut Vec<u8>,
) {
    Writer::new(out).dict(|reply| {
        reply.unsigned(b"complete", answer.stats.complete.into());
        reply.unsigned(b"downloaded", answer.stats.downloaded.into());
        match ip {
            IpAddr::V4(ip) => reply.bytes(b"external ip", &ip.octets()),
            IpAddr::V6(ip) => reply.bytes(b"external ip", &ip.octets()),
        }
        reply.unsigned(b"incomplete", answer.stats.incomplete.into());
        reply.unsigned(b"interval", answer.interval.into());
        reply.unsigned(b"min interval", answer.min_interval.into());
        match format {
            PeerFormat::Compact => {
                reply.bytes(b"peers", &peers.v4);
                if !peers.v6.is_empty() {
                    reply.bytes(b"peers6", &peers.v6);
                }
            }
            PeerFormat::Dictionary | PeerFormat::DictionaryNoPeerId => {
                let with_ids = format == PeerFormat::Dictionary;
                reply.list(b"peers", |list| {
                    for (addr, id) in peers.iter() {
                        list.item().dict(|entry| peer(entry, addr, id.filter(|_| with_ids)));
                    }
                });
            }
        }
        reply.bytes(b"tracker id", tracker_id);
    });
}

fn peer(entry: &mut DictWriter<'_>, addr: SocketAddr, id: Option<PeerId>) {
    // The longest address has 45 characters.
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    let _ = write!(rest, "{}", addr.ip());
    let unused = rest.len();
    entry.bytes(b"ip", text.get(..text.len() - unused).unwrap_or_default());
    if let Some(id) = id {
        entry.bytes(b"peer id", id.as_bytes());
    }
    entry.unsigned(b"port", addr.port().into());
}

/// A scrape's answer: the torrents in any order, those that nobody knows left out.
pub(crate) fn scraped(torrents: impl Iterator<Item = (InfoHash, ScrapeStats)>, out: &mut Vec<u8>) {
    Writer::new(out).dict(|reply| {
        reply.dict(b"files", |files| {
            for (info_hash, stats) in torrents {
                files.dict(info_hash.as_bytes(), |file| stats.write(file));
            }
        });
    });
}

/// A refusal.
pub(crate) fn failed(reason: &str, retry_in: Option<RetryIn>, out: &mut Vec<u8>) {
    out.extend_from_slice(&announce::encode_failure(reason, retry_in));
}
