//! Replies of real trackers, and what holds for every reply.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when it fails")]

use std::{net::SocketAddr, time::Duration};

use longshore_announce::{
    AnnounceRequest, AnnounceResponse, Event, Key, MAX_PEERS, Peer, PeerFormat, Reply, ReplyError, RetryIn,
    ScrapeRequest, ScrapeResponse, ScrapeStats, encode_failure,
};
use metainfo::InfoHash;
use proptest::{collection::vec, option, prelude::*};
use wire::PeerId;

fn read(reply: &[u8]) -> AnnounceResponse {
    match AnnounceResponse::parse(reply) {
        Ok(Reply::Ok(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn addresses(response: &AnnounceResponse) -> Vec<String> {
    response.peers.iter().map(|peer| peer.addr.to_string()).collect()
}

#[test]
fn compact_peers_of_both_families() {
    let reply = b"d8:completei3e11:external ip4:\x0a\x00\x00\x0910:incompletei1e8:intervali1800e12:min intervali900e\
        5:peers12:\x0a\x00\x00\x01\x1a\xe1\x0a\x00\x00\x02\x00\x006:peers618:\
        \x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1a\xe110:tracker id1:x15:warning message2:hoe";
    let response = read(reply);
    assert_eq!(addresses(&response), ["10.0.0.1:6881", "[2001:db8::1]:6881"], "port 0 is left out");
    assert_eq!(response.interval, Duration::from_secs(1800));
    assert_eq!(response.min_interval, Some(Duration::from_secs(900)));
    assert_eq!((response.complete, response.incomplete, response.downloaded), (Some(3), Some(1), None));
    assert_eq!(response.external_ip, "10.0.0.9".parse().ok());
    assert_eq!(response.tracker_id.as_deref(), Some(&b"x"[..]));
    assert_eq!(response.warning.as_deref(), Some("ho"));
}

#[test]
fn dictionary_peers_in_the_standard_form_and_retrackers() {
    let reply = b"d8:intervali30e5:peersld2:ip8:10.0.0.17:peer id20:-TR2940-abcdefghijkl4:porti6881eed2:ip3:::17:peer_id\
        20:-TR2940-abcdefghijkl4:porti1eed2:ip9:some.name4:porti1eed2:ip7:1.2.3.44:porti99999eei5eee\n";
    let response = read(reply);
    assert_eq!(addresses(&response), ["10.0.0.1:6881", "[::1]:1"]);
    let id = PeerId::from_bytes(*b"-TR2940-abcdefghijkl");
    assert!(response.peers.iter().all(|peer| peer.id == Some(id)));
}

#[test]
fn a_refusal_says_why_and_when_to_come_back() {
    for (retry_in, wire) in [
        (None, &b"d14:failure reason2:noe"[..]),
        (Some(RetryIn::Never), b"d14:failure reason2:no8:retry in5:nevere"),
        (Some(RetryIn::After(Duration::from_secs(300))), b"d14:failure reason2:no8:retry ini5ee"),
    ] {
        assert_eq!(encode_failure("no", retry_in), wire);
        let refused = Reply::Failure { reason: "no".to_owned(), retry_in };
        assert_eq!(AnnounceResponse::parse(wire), Ok(refused));
        assert!(matches!(ScrapeResponse::parse(wire), Ok(Reply::Failure { .. })));
    }
    assert!(matches!(AnnounceResponse::parse(b"<html>"), Err(ReplyError::Bencode(_))));
    assert_eq!(AnnounceResponse::parse(b"le"), Err(ReplyError::NotADictionary));
    assert_eq!(ScrapeResponse::parse(b"de"), Err(ReplyError::MissingFiles));
}

#[test]
fn a_flood_of_peers_is_cut_off() {
    let reply = [&b"d5:peers600000:"[..], &[7; 600_000], b"e"].concat();
    assert_eq!(read(&reply).peers.len(), MAX_PEERS);
}

fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let addr =
        (any::<std::net::IpAddr>(), 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
    let addr = addr.prop_filter("an address", |addr| !addr.ip().is_unspecified());
    let id = option::of(any::<[u8; 20]>().prop_map(PeerId::from_bytes));
    vec((addr, id).prop_map(|(addr, id)| Peer { addr, id }), 0..20)
}

fn seconds() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|seconds| Duration::from_secs(seconds.into()))
}

prop_compose! {
    fn responses()(
        interval in seconds(), min_interval in option::of(seconds()), complete: Option<u32>, incomplete: Option<u32>,
        downloaded: Option<u32>, peers in peers(), tracker_id in option::of(vec(any::<u8>(), 0..40)),
        warning in option::of("\\PC{0,40}"), external_ip: Option<std::net::IpAddr>,
    ) -> AnnounceResponse {
        AnnounceResponse {
            interval, min_interval, complete, incomplete, downloaded, peers, tracker_id, warning, external_ip,
        }
    }
}

prop_compose! {
    fn requests()(
        info_hash: [u8; 20], peer_id: [u8; 20], port: u16, uploaded: u64, downloaded: u64, left: u64,
        event in prop_oneof![
            Just(Event::Started), Just(Event::Completed), Just(Event::Stopped), Just(Event::Paused), Just(Event::None)
        ],
        numwant: Option<u32>, compact: Option<bool>, no_peer_id: bool,
        key in option::of(vec(any::<u8>(), 1..=32)), tracker_id in option::of(vec(any::<u8>(), 0..40)),
        (ip, ipv4, ipv6) in any::<(Option<std::net::IpAddr>, Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>)>(),
    ) -> AnnounceRequest {
        AnnounceRequest {
            info_hash: InfoHash::from_bytes(info_hash), peer_id: PeerId::from_bytes(peer_id), port, uploaded,
            downloaded, left, event, numwant, compact, no_peer_id, key: key.and_then(|key| Key::new(&key)), ip, ipv4,
            ipv6, tracker_id,
        }
    }
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(request in requests()) {
        prop_assert_eq!(AnnounceRequest::parse_query(request.to_query().as_bytes()), Ok(request));
    }

    #[test]
    fn a_response_is_read_as_it_was_written(response in responses()) {
        let read = read(&response.encode(PeerFormat::Dictionary));
        prop_assert_eq!(&read, &response);

        let mut plain = response.clone();
        plain.peers.iter_mut().for_each(|peer| peer.id = None);
        let read = self::read(&response.encode(PeerFormat::DictionaryNoPeerId));
        prop_assert_eq!(&read, &plain);

        // The two families stand one behind the other.
        plain.peers.sort_by_key(|peer| peer.addr.is_ipv6());
        let read = self::read(&response.encode(PeerFormat::Compact));
        prop_assert_eq!(&read, &plain);
    }

    #[test]
    fn a_scrape_is_read_as_it_was_written(
        files in proptest::collection::btree_map(any::<[u8; 20]>(), any::<([u32; 3], Option<u32>)>(), 0..10),
        min_request_interval in option::of(seconds()),
    ) {
        let request = ScrapeRequest { info_hashes: files.keys().copied().map(InfoHash::from_bytes).collect() };
        prop_assert_eq!(ScrapeRequest::parse_query(request.to_query().as_bytes()), Ok(request));
        let files = files.into_iter().map(|(info_hash, ([complete, incomplete, downloaded], downloaders))| {
            (InfoHash::from_bytes(info_hash), ScrapeStats { complete, incomplete, downloaded, downloaders })
        });
        let response = ScrapeResponse { files: files.collect(), min_request_interval };
        prop_assert_eq!(ScrapeResponse::parse(&response.encode()), Ok(Reply::Ok(response)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = AnnounceResponse::parse(&bytes);
        let _ = ScrapeResponse::parse(&bytes);
        let _ = ScrapeRequest::parse_query(&bytes);
        if let Ok(request) = AnnounceRequest::parse_query(&bytes) {
            prop_assert_eq!(AnnounceRequest::parse_query(request.to_query().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn any_query_that_is_read_is_written_the_same(
        tail in "(&(event|numwant|compact|key|ip|ipv4|ipv6|trackerid|left|no_peer_id)=[0-9a-f:.%+-]{0,9}){0,6}",
    ) {
        let query = format!("info_hash=%00123456789012345678+&peer_id=abcdefghijklmnopqrst&port=80{tail}");
        if let Ok(request) = AnnounceRequest::parse_query(query.as_bytes()) {
            prop_assert_eq!(AnnounceRequest::parse_query(request.to_query().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn any_dictionary_that_is_read_is_written_the_same(reply in "d((5:peers|6:peers6|8:interval|8:complete|5:files)(i[0-9]{1,5}e|0:|6:......|le|de)){0,4}e") {
        if let Ok(Reply::Ok(response)) = AnnounceResponse::parse(reply.as_bytes()) {
            let again = read(&response.encode(PeerFormat::Compact));
            prop_assert_eq!(again, response);
        }
    }
}
