//! Announces over UDP: from a packet to the packet that answers it, without I/O; [`worker`] has the sockets.

mod ids;
pub(crate) mod worker;

use std::{net::IpAddr, sync::Arc, time::Duration};

use announce::udp::{
    ANSWER_HEAD, MAX_URL, UdpAction, UdpAnnounce, UdpHead, encode_announced, encode_connected, encode_error,
    encode_scraped, encode_scraped_torrent, scrape_hashes, url_data,
};
use metainfo::InfoHash;

use crate::{
    desk::Desk,
    http::exchange::passkey,
    store::{Announce, Name, Peers},
    tally::{Fault, Tally},
};
use ids::ConnectionIds;

/// The longest answer, in bytes: what every IPv6 link carries in one piece.
pub(crate) const MAX_ANSWER: usize = 1232;

/// Answers packets. Each worker has one.
pub(crate) struct Exchange {
    desk: Arc<Desk>,
    ids: ConnectionIds,
    tally: Arc<Tally>,
    peers: Peers,
}

impl Exchange {
    /// `key` must be the same for all workers of one tracker, and secret.
    pub(crate) fn new(desk: Arc<Desk>, key: [u64; 2], id_age: Duration, tally: Arc<Tally>) -> Self {
        Self { desk, ids: ConnectionIds::new(key, id_age), tally, peers: Peers::new() }
    }

    /// Writes the answer to a packet behind what `out` holds; nothing where it gets none. A packet without a
    /// connection id that its sender's address was given gets none but to `connect`, which is not longer than it.
    pub(crate) fn answer(&mut self, now: Duration, packet: &[u8], from: IpAddr, out: &mut Vec<u8>) {
        let from = from.to_canonical();
        let counts = self.tally.of(from);
        let Some(head) = UdpHead::parse(packet) else {
            counts.fault(Fault::Malformed);
            return;
        };
        if head.is_connect() {
            counts.connects.bump();
            encode_connected(head.transaction, self.ids.give(now, from), out);
            return;
        }
        if !self.ids.know(head.connection, now, from) {
            counts.fault(Fault::Connection);
            return;
        }
        let outcome = match head.action {
            Some(UdpAction::Announce) => self.announce(now, packet, from, head.transaction, out),
            Some(UdpAction::Scrape) => self.scrape(packet, from, head.transaction, out),
            Some(UdpAction::Connect) | None => Err((Fault::Malformed, "unknown action")),
        };
        if let Err((fault, reason)) = outcome {
            self.tally.of(from).fault(fault);
            encode_error(head.transaction, reason, out);
        }
    }

    fn announce(
        &mut self,
        now: Duration,
        packet: &[u8],
        from: IpAddr,
        transaction: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), (Fault, &'static str)> {
        let asked = UdpAnnounce::parse(packet).ok_or((Fault::Malformed, "the announce is too short"))?;
        let mut url = [0; MAX_URL];
        let passkey = if packet.len() > announce::udp::ANNOUNCE_LENGTH {
            let url = url_data(packet, &mut url);
            passkey(url.split(|&byte| byte == b'?').next().unwrap_or_default())
        } else {
            b""
        };
        let request = Announce {
            info_hash: asked.info_hash,
            peer_id: asked.peer_id,
            ip: self.desk.address(from, asked.ip.map(IpAddr::V4)),
            port: asked.port,
            uploaded: asked.uploaded,
            downloaded: asked.downloaded,
            left: asked.left,
            event: asked.event,
            numwant: asked.numwant,
            key: Name::number(asked.key),
            both_families: false,
            ids: false,
            passkey,
        };
        let answer = self
            .desk
            .announce(now, &request, &mut self.peers)
            .map_err(|refusal| (Fault::Refused, refusal.reason))?;
        self.tally.of(from).announced(answer.outcome);
        encode_announced(transaction, answer.interval, &answer.stats, out);
        let room = MAX_ANSWER - ANSWER_HEAD;
        let (peers, size) = if from.is_ipv4() { (&self.peers.v4, 6) } else { (&self.peers.v6, 18) };
        let length = peers.len().min(room - room % size);
        out.extend_from_slice(peers.get(..length).unwrap_or_default());
        Ok(())
    }

    fn scrape(
        &self,
        packet: &[u8],
        from: IpAddr,
        transaction: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), (Fault, &'static str)> {
        let hashes = scrape_hashes(packet).ok_or((Fault::Malformed, "a scrape names whole info-hashes"))?;
        self.tally.of(from).scrapes.bump();
        encode_scraped(transaction, out);
        for info_hash in hashes {
            let stats = self.desk.scrape(&InfoHash::from_bytes(*info_hash)).unwrap_or_default();
            encode_scraped_torrent(&stats, out);
        }
        Ok(())
    }
}
