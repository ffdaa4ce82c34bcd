//! From a request's path and query to the body that answers it, without I/O.

use std::{net::IpAddr, sync::Arc, time::Duration};

use announce::{AnnounceRequest, MAX_SCRAPE, PeerFormat, ScrapeRequest};

use crate::{
    bencoded,
    desk::Desk,
    policy::{KEY_WANTED, LATER, TOO_OFTEN},
    store::{Announce, Name, Peers},
    tally::{Counts, Fault, Tally},
};

/// What is told to a peer whose proxy keeps its address to itself.
const NO_ADDRESS: &str = "the proxy before this tracker does not say for whom it asks, or not so that it can be read: \
                          it must do so in the header that `real_ip_header` names, or by the PROXY protocol";

/// Who asks, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// `None` where the proxy before it does not say.
    pub(crate) ip: Option<IpAddr>,
    /// From where its connection comes; `None` for a unix socket's.
    pub(crate) by: Option<IpAddr>,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Announce,
    Scrape,
}

impl Action {
    /// `/announce` or `/scrape`, with a key before or behind it or none.
    pub(crate) fn of(path: &[u8]) -> Option<Self> {
        let action = |segment: &[u8]| match segment {
            b"announce" => Some(Self::Announce),
            b"scrape" => Some(Self::Scrape),
            _ => None,
        };
        let path = path.strip_prefix(b"/")?;
        let Some(slash) = memchr::memchr(b'/', path) else { return action(path) };
        let (first, second) = (path.get(..slash)?, path.get(slash + 1..)?);
        let is_key = |segment: &[u8]| !segment.is_empty() && !segment.contains(&b'/');
        if is_key(second) { action(first).or_else(|| action(second)) } else { None }
    }
}

/// Whether a scrape's query names a torrent, well or not.
pub(crate) fn names_a_torrent(query: &[u8]) -> bool {
    memchr::memmem::find(query, b"info_hash=").is_some()
}

/// The key in the path of an announce or a scrape; empty if there is none.
pub(crate) fn passkey(path: &[u8]) -> &[u8] {
    let mut segments = path.strip_prefix(b"/").unwrap_or(path).split(|&byte| byte == b'/');
    match (segments.next().unwrap_or_default(), segments.next()) {
        (b"announce" | b"scrape", Some(key)) => key,
        (key, Some(_)) => key,
        _ => b"",
    }
}

/// Answers announces and scrapes. Each worker has one.
pub(crate) struct Exchange {
    desk: Arc<Desk>,
    /// Drawn at start: by it a client sees that the tracker restarted and lost all peers.
    tracker_id: Arc<[u8]>,
    pub(crate) tally: Arc<Tally>,
    peers: Peers,
}

impl Exchange {
    pub(crate) fn new(desk: Arc<Desk>, tracker_id: Arc<[u8]>, tally: Arc<Tally>) -> Self {
        Self { desk, tracker_id, tally, peers: Peers::new() }
    }

    /// Whether `from` is a trusted proxy.
    pub(crate) fn is_free(&self, from: Option<IpAddr>) -> bool {
        self.desk.policy.load().is_free(from)
    }

    /// Whether `from` says first for whom it is, by the PROXY protocol.
    pub(crate) fn has_preface(&self, from: Option<IpAddr>) -> bool {
        self.desk.policy.load().has_preface(from)
    }

    /// Who asks: whoever is behind `by`, where that is a trusted proxy.
    pub(crate) fn asker<'a>(&self, by: Option<IpAddr>, field: impl FnOnce(&[u8]) -> Vec<&'a [u8]>) -> Asker {
        Asker { ip: self.desk.policy.load().client(by, field), by }
    }

    /// Whether a client asks no more often than it may. Where it does not, the request counts.
    pub(crate) fn is_within_rate(&self, now: Duration, from: Option<IpAddr>) -> bool {
        self.desk.policy.load().is_within_rate(now, from)
    }

    /// Whether `from` opens no more connections than it may.
    pub(crate) fn may_connect(&self, now: Duration, from: Option<IpAddr>) -> bool {
        self.desk.policy.load().may_connect(now, from)
    }

    /// Writes the body that one is answered who asks too often.
    pub(crate) fn hold_off(&self, asker: Asker, out: &mut Vec<u8>) {
        self.counts(asker).fault(Fault::Limited);
        bencoded::failed(TOO_OFTEN, Some(LATER), out);
    }

    /// Writes the answer's body, bencode in any case, behind what `out` holds.
    pub(crate) fn answer(
        &mut self,
        now: Duration,
        action: Action,
        path: &[u8],
        query: &[u8],
        asker: Asker,
        out: &mut Vec<u8>,
    ) {
        match action {
            Action::Announce => self.announce(now, path, query, asker, out),
            Action::Scrape => self.scrape(path, query, asker, out),
        }
    }

    /// Those of its family, or of its proxy's.
    fn counts(&self, asker: Asker) -> &Counts {
        self.tally.of(asker.ip.or(asker.by))
    }

    fn announce(&mut self, now: Duration, path: &[u8], query: &[u8], asker: Asker, out: &mut Vec<u8>) {
        let asked = match AnnounceRequest::parse_without_tracker_id(query) {
            Ok(asked) => asked,
            Err(error) => {
                self.counts(asker).fault(Fault::Malformed);
                return bencoded::failed(&error.to_string(), None, out);
            }
        };
        let Some(ip) = asker.ip else {
            // Not even what the peer says of itself: there is nobody whom it could be believed.
            self.counts(asker).fault(Fault::Proxy);
            return bencoded::failed(NO_ADDRESS, None, out);
        };
        let claimed = asked.ip.or(asked.ipv4.map(Into::into)).or(asked.ipv6.map(Into::into));
        let format = PeerFormat::of(&asked);
        let request = Announce {
            info_hash: asked.info_hash,
            peer_id: asked.peer_id,
            ip: self.desk.address(ip, claimed),
            port: asked.port,
            uploaded: asked.uploaded,
            downloaded: asked.downloaded,
            left: asked.left,
            event: asked.event,
            numwant: asked.numwant,
            key: asked.key.as_ref().and_then(Name::text),
            both_families: true,
            ids: format == PeerFormat::Dictionary,
            passkey: passkey(path),
        };
        match self.desk.announce(now, &request, &mut self.peers) {
            Ok(answer) => {
                self.counts(asker).announced(answer.outcome);
                bencoded::announced(&answer, &self.peers, format, request.ip, &self.tracker_id, out);
            }
            Err(refusal) => {
                self.counts(asker).fault(Fault::Refused);
                bencoded::failed(refusal.reason, refusal.retry_in, out);
            }
        }
    }

    fn scrape(&self, path: &[u8], query: &[u8], asker: Asker, out: &mut Vec<u8>) {
        let counts = self.counts(asker);
        if !self.desk.policy.load().may_scrape(passkey(path)) {
            counts.fault(Fault::Refused);
            return bencoded::failed(KEY_WANTED, None, out);
        }
        let (mut asked, mut fault) = (0, None);
        for info_hash in ScrapeRequest::hashes(query) {
            asked += 1;
            fault = info_hash.err().map(|error| error.to_string());
            if asked > MAX_SCRAPE {
                fault = Some(format!("more than {MAX_SCRAPE} torrents in one scrape"));
            }
            if fault.is_some() {
                break;
            }
        }
        if asked == 0 {
            fault = Some("name at least one info_hash: there is no full scrape".to_owned());
        }
        if let Some(fault) = fault {
            counts.fault(Fault::Malformed);
            return bencoded::failed(&fault, None, out);
        }
        counts.scrapes.bump();
        let known = ScrapeRequest::hashes(query).filter_map(|info_hash| {
            let info_hash = info_hash.ok()?;
            Some((info_hash, self.desk.scrape(&info_hash)?))
        });
        bencoded::scraped(known, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_before_or_behind() {
        use Action::{Announce, Scrape};
        for (path, action, key) in [
            ("/announce", Some(Announce), ""),
            ("/scrape", Some(Scrape), ""),
            ("/announce/k1", Some(Announce), "k1"),
            ("/k1/announce", Some(Announce), "k1"),
            ("/k1/scrape", Some(Scrape), "k1"),
            ("/announce/scrape", Some(Announce), "scrape"),
        ] {
            assert_eq!(
                (Action::of(path.as_bytes()), passkey(path.as_bytes())),
                (action, key.as_bytes()),
                "{path}"
            );
        }
        for path in
            ["/", "", "announce", "/announces", "/announce/", "//announce/", "/a/b/announce", "/metrics"]
        {
            assert_eq!(Action::of(path.as_bytes()), None, "{path}");
        }
    }
}
