//! Announces over UDP: from a packet to the packet that answers it, without I/O; [`worker`] has the sockets.

mod ids;
pub(crate) mod worker;

use std::{net::IpAddr, sync::Arc, time::Duration};

use announce::udp::{
    ANSWER_HEAD, MAX_REQUEST, MAX_UDP_SCRAPE, MAX_URL, UdpAction, UdpAnnounce, UdpHead, announced_torrent,
    encode_announced, encode_connected, encode_error, encode_scraped, encode_scraped_torrent, scrape_hashes,
    url_data,
};
use metainfo::InfoHash;

use crate::{
    desk::Desk,
    http::exchange::passkey,
    policy::KEY_WANTED,
    store::{Announce, Name, Peers},
    tally::{Fault, Tally},
};
use ids::ConnectionIds;

/// The longest answer, in bytes: what every IPv6 link carries in one piece.
pub(crate) const MAX_ANSWER: usize = 1232;

/// The longest packet that is a scrape, in bytes.
const MAX_UDP_SCRAPE_PACKET: usize = 16 + 20 * MAX_UDP_SCRAPE;
// As the refusal of longer ones says.
const _: () = assert!(MAX_UDP_SCRAPE == 74 && MAX_UDP_SCRAPE_PACKET < MAX_REQUEST);

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
        // The sender is where he says he is. An answer would cost more than to drop it, and clients ask again, each
        // time later.
        if !self.desk.policy.load().is_within_rate(now, Some(from)) {
            counts.fault(Fault::Limited);
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

    /// Makes ready for packets that will be answered next, [`WARMED`](crate::store::WARMED) at most.
    pub(crate) fn expect<'a>(&self, packets: impl Iterator<Item = &'a [u8]>) {
        self.desk.store.warm(packets.filter_map(announced_torrent));
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
            key: Name::number(asked.key).filter(|_| keeps_its_key(&asked.peer_id)),
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
        // A scrape over UDP cannot hold one.
        if !self.desk.policy.load().may_scrape(b"") {
            return Err((Fault::Refused, KEY_WANTED));
        }
        // Whatever is longer was cut when it was received.
        if packet.len() > MAX_UDP_SCRAPE_PACKET {
            return Err((Fault::TooLong, "a scrape names at most 74 info-hashes"));
        }
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

/// Whether a client sends the same key with all its announces. aria2 draws one for each that it sends over UDP: by its
/// key no announce but the first would count, and neither its completion nor its end.
fn keeps_its_key(peer_id: &wire::PeerId) -> bool {
    !peer_id.as_bytes().starts_with(b"A2-")
}

#[cfg(test)]
mod tests {
    use announce::{
        Event, ScrapeStats,
        udp::{ANNOUNCE_LENGTH, UdpAnswer},
    };
    use proptest::prelude::*;
    use wire::PeerId;

    use super::*;
    use crate::desk::tests::desk;

    fn exchange() -> Exchange {
        Exchange::new(Arc::new(desk()), [1, 2], Duration::from_secs(7200), Arc::default())
    }

    fn announce(id: u64, torrent: u8, port: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        UdpHead { connection: id, action: Some(UdpAction::Announce), transaction: 9 }.encode(&mut packet);
        let announce = UdpAnnounce {
            info_hash: InfoHash::from_bytes([torrent; 20]),
            peer_id: PeerId::from_bytes([port as u8; 20]),
            downloaded: 0,
            left: 5,
            uploaded: 0,
            event: Event::Started,
            ip: None,
            key: 7,
            numwant: None,
            port,
        };
        announce.encode(&mut packet);
        packet
    }

    fn ask(exchange: &mut Exchange, packet: &[u8], from: IpAddr) -> Vec<u8> {
        let mut out = Vec::new();
        exchange.answer(Duration::from_secs(100), packet, from, &mut out);
        out
    }

    proptest! {
        #[test]
        fn who_has_no_id_gets_no_more_than_he_sent(
            packet in proptest::collection::vec(any::<u8>(), 0..200),
            action in 0u8..5,
            known_protocol: bool,
            from: IpAddr,
        ) {
            let mut packet = packet;
            if let Some(head) = packet.first_chunk_mut::<12>() {
                head[8..].copy_from_slice(&[0, 0, 0, action]);
                if known_protocol {
                    head[..8].copy_from_slice(&announce::udp::PROTOCOL_ID.to_be_bytes());
                }
            }
            let answer = ask(&mut exchange(), &packet, from);
            prop_assert!(answer.len() <= packet.len());
            let connected = matches!(UdpAnswer::parse(&answer), Some((_, UdpAnswer::Connected(_))));
            prop_assert!(answer.is_empty() || connected && known_protocol && action == 0);
        }

        #[test]
        fn whatever_follows_a_right_id_is_answered_within_a_packet(
            rest in proptest::collection::vec(any::<u8>(), 8..1492),
            action in 0u8..5,
            from: IpAddr,
        ) {
            let mut exchange = exchange();
            let id = exchange.ids.give(Duration::from_secs(100), from.to_canonical());
            let mut packet = [&id.to_be_bytes()[..], &rest].concat();
            packet[8..12].copy_from_slice(&[0, 0, 0, action]);
            let answer = ask(&mut exchange, &packet, from);
            prop_assert!((8..=MAX_ANSWER).contains(&answer.len()));
            prop_assert_eq!(&answer[4..8], &packet[12..16]);
            let parsed = UdpAnswer::parse(&answer);
            match action {
                1 if packet.len() >= ANNOUNCE_LENGTH => prop_assert!(
                    matches!(parsed, Some((_, UdpAnswer::Announced { .. }))),
                    "{parsed:?}"
                ),
                2 if packet.len() > 16 && (packet.len() - 16).is_multiple_of(20) => {
                    let Some((_, UdpAnswer::Scraped(stats))) = parsed else { panic!("{parsed:?}") };
                    let asked = ((packet.len() - 16) / 20).min(MAX_UDP_SCRAPE);
                    prop_assert_eq!(stats, vec![ScrapeStats::default(); asked]);
                }
                _ => prop_assert!(matches!(parsed, Some((_, UdpAnswer::Error(_)))), "{parsed:?}"),
            }
        }
    }

    #[test]
    fn an_address_written_as_ipv6_is_the_ipv4_address_that_it_is() {
        let mut exchange = exchange();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        let id = exchange.ids.give(Duration::from_secs(100), [10, 0, 0, 1].into());
        ask(&mut exchange, &announce(id, 1, 1001), mapped);
        let answer = ask(&mut exchange, &announce(id, 1, 1002), [10, 0, 0, 1].into());
        assert_eq!(answer.get(ANSWER_HEAD..), Some(&[10, 0, 0, 1, 0x03, 0xe9][..]));
    }

    #[test]
    fn aria2_which_draws_a_key_for_each_announce_is_believed_that_it_is_done() {
        let mut exchange = exchange();
        let ip: IpAddr = [10, 0, 0, 1].into();
        let id = exchange.ids.give(Duration::from_secs(100), ip);
        for (peer_id, done) in [(*b"A2-1-36-0-0123456789", 1), (*b"-XX1360-0123456789ab", 0)] {
            let mut packet = announce(id, 1 + done, 1001);
            packet[36..56].copy_from_slice(&peer_id);
            ask(&mut exchange, &packet, ip);
            packet[64..72].fill(0);
            packet[80..84].copy_from_slice(&1u32.to_be_bytes());
            packet[88..92].copy_from_slice(&8u32.to_be_bytes());
            let answer = ask(&mut exchange, &packet, ip);
            let Some((_, UdpAnswer::Announced { stats, .. })) = UdpAnswer::parse(&answer) else { panic!() };
            assert_eq!((stats.complete, stats.incomplete), (done.into(), 1 - u32::from(done)));
        }
    }
}
