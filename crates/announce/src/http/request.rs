//! Requests as query strings.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use metainfo::InfoHash;
use wire::PeerId;

use super::query;
use crate::{AnnounceRequest, Event, Key, LEFT_UNKNOWN, MAX_SCRAPE, ScrapeRequest};

/// The longest query that is read, in bytes.
const MAX_QUERY: usize = 16 * 1024;
/// The longest `trackerid` that is read, in bytes.
const MAX_TRACKER_ID: usize = 512;

impl AnnounceRequest {
    /// Reads the query of an announce URL, the raw bytes behind `?`. Allocates nothing but a `trackerid`.
    ///
    /// Keys it does not know are passed over; of a key that comes twice the last counts. Unknown events are regular
    /// announces. A missing `left` is [`LEFT_UNKNOWN`], and so is `-1`; missing byte counts are 0.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn parse_query(query: &[u8]) -> Result<Self, AnnounceError> {
        Self::read(query, true)
    }

    /// The same without the `trackerid`, which a tracker of its own name need not read; allocates nothing at all.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn parse_without_tracker_id(query: &[u8]) -> Result<Self, AnnounceError> {
        Self::read(query, false)
    }

    fn read(query: &[u8], with_tracker_id: bool) -> Result<Self, AnnounceError> {
        if query.len() > MAX_QUERY {
            return Err(AnnounceError::TooLong);
        }
        let (mut info_hash, mut peer_id, mut port) = (None, None, None);
        let mut request = Self::new(InfoHash::from_bytes([0; 20]), PeerId::from_bytes([0; 20]), 0);
        for (key, value) in query::pairs(query) {
            match key {
                b"info_hash" => {
                    info_hash = Some(query::decode_exactly(value).ok_or(AnnounceError::BadInfoHash)?);
                }
                b"peer_id" => peer_id = Some(query::decode_exactly(value).ok_or(AnnounceError::BadPeerId)?),
                b"port" => port = Some(number("port", value)?),
                b"uploaded" => request.uploaded = number("uploaded", value)?,
                b"downloaded" => request.downloaded = number("downloaded", value)?,
                b"left" if value == b"-1" => request.left = LEFT_UNKNOWN,
                b"left" => request.left = number("left", value)?,
                b"event" => request.event = parse_event(value),
                b"numwant" => request.numwant = query::number(value),
                b"compact" => {
                    request.compact = match value {
                        b"1" => Some(true),
                        b"0" => Some(false),
                        _ => None,
                    };
                }
                b"no_peer_id" => request.no_peer_id = value == b"1",
                b"key" => request.key = parse_key(value),
                b"ip" => request.ip = parse_ip(value),
                b"ipv4" => {
                    if let Some(IpAddr::V4(ip)) = parse_ip(value) {
                        request.ipv4 = Some(ip);
                    }
                }
                b"ipv6" => {
                    if let Some(IpAddr::V6(ip)) = parse_ip(value) {
                        request.ipv6 = Some(ip);
                    }
                }
                b"trackerid" if with_tracker_id => request.tracker_id = parse_tracker_id(value),
                _ => {}
            }
        }
        request.info_hash = InfoHash::from_bytes(info_hash.ok_or(AnnounceError::MissingInfoHash)?);
        request.peer_id = PeerId::from_bytes(peer_id.ok_or(AnnounceError::MissingPeerId)?);
        request.port = port.ok_or(AnnounceError::MissingPort)?;
        Ok(request)
    }

    /// The query that says this, without `?`.
    pub fn to_query(&self) -> String {
        let mut out = String::with_capacity(320);
        out.push_str("info_hash=");
        query::encode(&mut out, self.info_hash.as_bytes());
        out.push_str("&peer_id=");
        query::encode(&mut out, self.peer_id.as_bytes());
        let Self { port, uploaded, downloaded, left, .. } = self;
        let _ = write!(out, "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}");
        if let Some(compact) = self.compact {
            let _ = write!(out, "&compact={}", u8::from(compact));
        }
        if self.no_peer_id {
            out.push_str("&no_peer_id=1");
        }
        out.push_str(match self.event {
            Event::Started => "&event=started",
            Event::Completed => "&event=completed",
            Event::Stopped => "&event=stopped",
            Event::Paused => "&event=paused",
            Event::None => "",
        });
        if let Some(numwant) = self.numwant {
            let _ = write!(out, "&numwant={numwant}");
        }
        let mut text = |key: &str, value: &[u8]| {
            let _ = write!(out, "&{key}=");
            query::encode(&mut out, value);
        };
        if let Some(key) = &self.key {
            text("key", key.as_bytes());
        }
        for (key, ip) in
            [("ip", self.ip), ("ipv4", self.ipv4.map(IpAddr::V4)), ("ipv6", self.ipv6.map(IpAddr::V6))]
        {
            if let Some(ip) = ip {
                text(key, ip.to_string().as_bytes());
            }
        }
        if let Some(tracker_id) = &self.tracker_id {
            text("trackerid", tracker_id);
        }
        out
    }
}

impl ScrapeRequest {
    /// Reads the query of a scrape URL, the raw bytes behind `?`. Other keys than `info_hash` are passed over.
    ///
    /// # Errors
    /// What cannot be read, or [`AnnounceError::TooMany`].
    pub fn parse_query(query: &[u8]) -> Result<Self, AnnounceError> {
        if query.len() > MAX_QUERY {
            return Err(AnnounceError::TooLong);
        }
        let mut info_hashes = Vec::new();
        for info_hash in Self::hashes(query) {
            if info_hashes.len() == MAX_SCRAPE {
                return Err(AnnounceError::TooMany);
            }
            info_hashes.push(info_hash?);
        }
        Ok(Self { info_hashes })
    }

    /// The torrents of such a query one after the other, as many as there are; allocates nothing.
    pub fn hashes(query: &[u8]) -> impl Iterator<Item = Result<InfoHash, AnnounceError>> {
        query::pairs(query).filter(|(key, _)| *key == b"info_hash").map(|(_, value)| {
            let info_hash = query::decode_exactly(value).ok_or(AnnounceError::BadInfoHash)?;
            Ok(InfoHash::from_bytes(info_hash))
        })
    }

    /// The query that says this, without `?`.
    pub fn to_query(&self) -> String {
        let mut out = String::with_capacity(self.info_hashes.len() * 72);
        for info_hash in &self.info_hashes {
            out.push_str(if out.is_empty() { "info_hash=" } else { "&info_hash=" });
            query::encode(&mut out, info_hash.as_bytes());
        }
        out
    }
}

/// Adds a query to a tracker's URL, which may have one of its own (a passkey, say). A fragment is dropped.
pub fn append_to_url(tracker_url: &str, query: &str) -> String {
    let url = tracker_url.split('#').next().unwrap_or_default();
    let joint = match url.split_once('?') {
        _ if query.is_empty() => "",
        None => "?",
        Some((_, own)) if own.is_empty() || own.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{url}{joint}{query}")
}

/// Why a request cannot be answered. The message is fit to be the `failure reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// Longer than any sensible request.
    #[error("the request is too long")]
    TooLong,
    /// No `info_hash`.
    #[error("info_hash is missing")]
    MissingInfoHash,
    /// Not 20 bytes, or a broken escape.
    #[error("info_hash is not 20 bytes, percent-encoded")]
    BadInfoHash,
    /// No `peer_id`.
    #[error("peer_id is missing")]
    MissingPeerId,
    /// Not 20 bytes, or a broken escape.
    #[error("peer_id is not 20 bytes, percent-encoded")]
    BadPeerId,
    /// No `port`.
    #[error("port is missing")]
    MissingPort,
    /// Not a number, or out of range.
    #[error("{0} is not a number in range")]
    BadNumber(&'static str),
    /// More than [`MAX_SCRAPE`] torrents in one scrape.
    #[error("more than {MAX_SCRAPE} torrents in one scrape")]
    TooMany,
}

fn number<N: TryFrom<u64>>(key: &'static str, value: &[u8]) -> Result<N, AnnounceError> {
    query::number(value).ok_or(AnnounceError::BadNumber(key))
}

fn parse_event(value: &[u8]) -> Event {
    match value {
        b"started" => Event::Started,
        b"completed" => Event::Completed,
        b"stopped" => Event::Stopped,
        b"paused" => Event::Paused,
        _ => Event::None,
    }
}

fn parse_key(value: &[u8]) -> Option<Key> {
    let mut key = [0; 32];
    let length = query::decode_into(value, &mut key)?;
    Key::new(key.get(..length)?)
}

/// An address, or one with a port, which BEP 7 allows; names are not followed.
fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    let mut text = [0; 64];
    let text = query::decode_text(value, &mut text)?;
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bracketed.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip()))
}

fn parse_tracker_id(value: &[u8]) -> Option<Vec<u8>> {
    let mut id = [0; MAX_TRACKER_ID];
    let length = query::decode_into(value, &mut id)?;
    id.get(..length).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A";
    const PEER: &str = "peer_id=-TR2940-abcdefghijkl";

    #[test]
    fn reads_what_clients_send() {
        let query = format!(
            "{HASH}&{PEER}&port=51413&uploaded=1&downloaded=2&left=3&numwant=80&key=4f1c0d2e&compact=1\
             &supportcrypto=1&event=started&ip=10.0.0.7&ipv6=%5B2001%3Adb8%3A%3A1%5D%3A6881&trackerid=x%00y"
        );
        let request = AnnounceRequest::parse_query(query.as_bytes()).expect("valid");
        assert_eq!(request.info_hash.to_string(), "123456789abcdef123456789abcdef123456789a");
        assert_eq!(request.peer_id.as_bytes(), b"-TR2940-abcdefghijkl");
        assert_eq!((request.port, request.uploaded, request.downloaded, request.left), (51413, 1, 2, 3));
        assert_eq!((request.numwant, request.compact, request.event), (Some(80), Some(true), Event::Started));
        assert_eq!(request.key.as_ref().map(Key::as_bytes), Some(&b"4f1c0d2e"[..]));
        assert_eq!(request.ip, "10.0.0.7".parse().ok());
        assert_eq!(request.ipv6, "2001:db8::1".parse().ok());
        assert_eq!(request.tracker_id.as_deref(), Some(&b"x\0y"[..]));
        assert_eq!(AnnounceRequest::parse_query(request.to_query().as_bytes()), Ok(request));
    }

    #[test]
    fn what_is_odd_but_harmless_is_forgiven() {
        let query = format!("{HASH}&{PEER}&port=1&left=-1&numwant=-1&event=wat&ip=a.name&key=&compact=yes");
        let request = AnnounceRequest::parse_query(query.as_bytes()).expect("valid");
        assert_eq!(request, AnnounceRequest::new(request.info_hash, request.peer_id, 1));
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        use AnnounceError::*;
        let parse = |query: &str| AnnounceRequest::parse_query(query.as_bytes()).err();
        assert_eq!(parse(""), Some(MissingInfoHash));
        assert_eq!(parse("info_hash=abc"), Some(BadInfoHash));
        assert_eq!(parse("info_hash=%zz"), Some(BadInfoHash));
        assert_eq!(parse(HASH), Some(MissingPeerId));
        assert_eq!(parse(&format!("{HASH}&peer_id=x")), Some(BadPeerId));
        assert_eq!(parse(&format!("{HASH}&{PEER}")), Some(MissingPort));
        assert_eq!(parse(&format!("{HASH}&{PEER}&port=65536")), Some(BadNumber("port")));
        assert_eq!(parse(&format!("{HASH}&{PEER}&port=1&left=x")), Some(BadNumber("left")));
        assert_eq!(parse(&"x".repeat(MAX_QUERY + 1)), Some(TooLong));
    }

    #[test]
    fn a_tracker_url_keeps_its_own_query() {
        assert_eq!(append_to_url("http://t/a", "x=1"), "http://t/a?x=1");
        assert_eq!(append_to_url("http://t/a?", "x=1"), "http://t/a?x=1");
        assert_eq!(append_to_url("http://t/a?k=v", "x=1"), "http://t/a?k=v&x=1");
        assert_eq!(append_to_url("http://t/a?k=v&#f", "x=1"), "http://t/a?k=v&x=1");
        assert_eq!(append_to_url("http://t/scrape?k=v", ""), "http://t/scrape?k=v");
    }

    #[test]
    fn a_scrape_has_many_torrents_but_not_too_many() {
        let request = ScrapeRequest { info_hashes: vec![InfoHash::from_bytes([0xff; 20]); MAX_SCRAPE] };
        assert_eq!(ScrapeRequest::parse_query(request.to_query().as_bytes()), Ok(request.clone()));
        let more = format!("{}&{HASH}", request.to_query());
        assert_eq!(ScrapeRequest::parse_query(more.as_bytes()), Err(AnnounceError::TooMany));
        assert_eq!(ScrapeRequest::parse_query(b"passkey=x"), Ok(ScrapeRequest::default()));
    }
}
