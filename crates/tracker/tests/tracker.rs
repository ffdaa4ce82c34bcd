//! The tracker over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

extern crate longshore_tracker as tracker;

mod contract;
mod support;

use std::{net::SocketAddr, time::Duration};

use announce::{
    AnnounceRequest, AnnounceResponse, Event, Reply, ScrapeRequest, ScrapeResponse, append_to_url,
};
use api::{
    CallError, DirectoryClient,
    directory::{Claim, Renewal, TagRequest},
};
use contract::{blob, publication};
use hash::Digest;
use metainfo::InfoHash;
use support::{WAIT, ask, config, reply, target};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tracker::{Config, Home, Tracker};

fn base(tracker: &Tracker) -> String {
    format!("http://{}", tracker.local_addr().expect("bound"))
}

fn directory(tracker: &Tracker) -> DirectoryClient {
    DirectoryClient::new([base(tracker)], None).expect("a client")
}

async fn get(tracker: &Tracker, target: &str) -> (u16, Vec<u8>) {
    ask(tracker, target, "").await
}

async fn announce(tracker: &Tracker, request: &AnnounceRequest) -> AnnounceResponse {
    let (status, body) = get(tracker, &target(request)).await;
    assert_eq!(status, 200);
    reply(&body).expect("taken")
}

fn peer(torrent: u8, port: u16) -> AnnounceRequest {
    support::peer(torrent, port, 5)
}

#[tokio::test]
async fn two_peers_find_each_other_and_one_leaves() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let (first, second) = (peer(0xfe, 1001), peer(0xfe, 1002));
    let alone = announce(&tracker, &first).await;
    assert_eq!(alone.peers, []);
    assert!((570..=630).contains(&alone.interval.as_secs()), "{:?}", alone.interval);
    assert_eq!((alone.complete, alone.incomplete), (Some(0), Some(1)));
    assert!(alone.tracker_id.is_some());
    let found = announce(&tracker, &second).await;
    let addresses: Vec<_> = found.peers.iter().map(|peer| peer.addr).collect();
    assert_eq!(addresses, [SocketAddr::from(([127, 0, 0, 1], 1001))]);
    assert_eq!(found.tracker_id, alone.tracker_id);

    let scrape = ScrapeRequest { info_hashes: vec![first.info_hash, InfoHash::from_bytes([9; 20])] };
    let (_, body) = get(&tracker, &append_to_url("/scrape", &scrape.to_query())).await;
    let Reply::Ok(scraped) = ScrapeResponse::parse(&body).expect("an answer") else { panic!("refused") };
    assert_eq!(scraped.files.len(), 1);
    assert_eq!((scraped.files[0].0, scraped.files[0].1.incomplete), (first.info_hash, 2));

    let stopped = AnnounceRequest { event: Event::Stopped, ..first };
    assert_eq!(announce(&tracker, &stopped).await.peers, []);
    assert_eq!(announce(&tracker, &second).await.peers, []);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_peer_beside_the_tracker_may_say_where_others_reach_it() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let local = AnnounceRequest { ip: Some([10, 1, 2, 3].into()), ..peer(1, 1001) };
    announce(&tracker, &local).await;
    let found = announce(&tracker, &peer(1, 1002)).await;
    assert_eq!(found.peers.first().map(|peer| peer.addr), Some(SocketAddr::from(([10, 1, 2, 3], 1001))));
    let strict = Tracker::start(Config { ip_from: Vec::new(), ..config() }).await.expect("starts");
    announce(&strict, &local).await;
    let found = announce(&strict, &peer(1, 1002)).await;
    assert_eq!(found.peers.first().map(|peer| peer.addr), Some(SocketAddr::from(([127, 0, 0, 1], 1001))));
}

#[tokio::test]
async fn malformed_queries_get_a_failure_reason_and_not_a_dropped_connection() {
    let tracker = Tracker::start(config()).await.expect("starts");
    for target in [
        "/announce",
        "/announce?",
        "/announce?info_hash=short",
        "/announce?info_hash=%zz&peer_id=%&port=x",
        "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=99999&left=0",
        "/scrape",
        "/scrape?info_hash=short",
    ] {
        let (status, body) = get(&tracker, target).await;
        assert_eq!(status, 200, "{target}");
        let value = bencode::decode(&body).expect("bencode");
        let reason = value.as_dict().and_then(|dict| dict.get(b"failure reason"));
        assert!(reason.is_some_and(|reason| reason.as_bytes().is_some()), "{target}");
    }
    let (_, text) = get(&tracker, "/metrics").await;
    let text = String::from_utf8(text).expect("text");
    let fault = r#"protocol="http",family="ipv4",fault="malformed"} 7"#;
    assert!(text.contains(fault), "{text}");
}

#[tokio::test]
async fn heads_and_bodies_that_are_too_long_are_refused() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let mut stream = TcpStream::connect(tracker.local_addr().expect("bound")).await.expect("connects");
    let exchange = async {
        let head = format!("GET /announce?x={} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(100_000));
        // The tracker may close before all is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    };
    tokio::time::timeout(WAIT, exchange).await.expect("ends in time");
    let tag = TagRequest {
        name: "x".repeat(100_000),
        digest: Digest::of(b""),
        media_type: "m".to_owned(),
        size: 1,
    };
    let refused = directory(&tracker).set_tag(&tag).await;
    assert!(matches!(refused, Err(CallError::Rejected { status: 413, .. })), "{refused:?}");
    let refused = directory(&tracker).set_tag(&TagRequest { name: String::new(), ..tag }).await;
    assert!(matches!(refused, Err(CallError::Rejected { status: 422, .. })), "{refused:?}");
    assert_eq!(get(&tracker, "/health").await, (200, b"ok\n".to_vec()));
    assert_eq!(get(&tracker, "/").await.0, 200);
    assert_eq!(get(&tracker, "/nothing").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tracker_keeps_the_contract_of_the_directory() {
    let tracker = Tracker::start(Config { lease_ttl: 3, ..config() }).await.expect("starts");
    let client = directory(&tracker);
    contract::holds(&client, &client).await;
}

#[tokio::test]
async fn the_swarms_size_comes_with_the_entry() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let client = directory(&tracker);
    let blob = blob(b"seeded");
    client.publish(&blob.digest, &publication(&blob)).await.expect("publishes");
    let seed = AnnounceRequest { left: 0, info_hash: blob.info_hash, ..peer(1, 1001) };
    announce(&tracker, &seed).await;
    let entry = client.get(&blob.digest).await.expect("answers").expect("known");
    assert_eq!((entry.complete, entry.incomplete), (Some(1), Some(0)));
    let (status, _) = get(&tracker, "/directory/v1/blobs/sha256:zz").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_restart_keeps_the_directory_and_renewals_bring_leases_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = Config { directory: Some(Home::File(dir.path().join("directory.redb"))), ..config() };
    let tracker = Tracker::start(config.clone()).await.expect("starts");
    let client = directory(&tracker);
    let known = blob(b"known");
    client.publish(&known.digest, &publication(&known)).await.expect("publishes");
    let tag = TagRequest {
        name: "registry.example/x y:latest".to_owned(),
        digest: known.digest,
        media_type: "m".to_owned(),
        size: 5,
    };
    client.set_tag(&tag).await.expect("sets");
    let digest = Digest::of(b"wanted");
    let Ok(Claim::Leased(lease)) = client.claim(&digest, "a", Duration::ZERO).await else { panic!("free") };
    let first_id = announce(&tracker, &peer(1, 1001)).await.tracker_id;
    let first_run = client.runs().await;
    assert!(first_run[0].is_some() && first_run == client.runs().await);
    tracker.shutdown().await;

    let tracker = Tracker::start(config).await.expect("starts again");
    let client = directory(&tracker);
    let entry = client.get(&known.digest).await.expect("answers").expect("kept");
    assert_eq!((entry.info, entry.media_type.as_deref()), (known.info_bytes, Some("m")));
    let kept = client.tag(&tag.name).await.expect("answers").expect("kept");
    assert_eq!(kept.target, tag);
    assert_eq!(client.tag("other").await.expect("answers"), None);
    assert!(matches!(client.renew(&digest, &lease.lease, "a").await, Ok(Renewal::Leased(_))));
    assert!(matches!(
        client.claim(&digest, "b", Duration::ZERO).await,
        Ok(Claim::Held { by, .. }) if by == "a"
    ));
    assert_ne!(announce(&tracker, &peer(1, 1001)).await.tracker_id, first_id);
    let second_run = client.runs().await;
    assert!(
        second_run[0].is_some() && second_run != first_run,
        "by this nodes know that it has lost their peers"
    );
}

#[tokio::test]
async fn the_directory_asks_for_its_token_and_announces_do_not() {
    let config = Config { directory_token: Some("secret".to_owned()), ..config() };
    let tracker = Tracker::start(config).await.expect("starts");
    let digest = Digest::of(b"x");
    for token in [None, Some("wrong")] {
        let client = DirectoryClient::new([base(&tracker)], token).expect("a client");
        let refused = client.claim(&digest, "a", Duration::ZERO).await;
        assert!(matches!(refused, Err(CallError::Refused { status: 401, .. })), "{refused:?}");
        assert!(matches!(client.get(&digest).await, Err(CallError::Refused { .. })));
    }
    let client = DirectoryClient::new([base(&tracker)], Some("secret")).expect("a client");
    assert!(matches!(client.claim(&digest, "a", Duration::ZERO).await, Ok(Claim::Leased(_))));
    announce(&tracker, &peer(1, 1001)).await;
}

#[tokio::test]
async fn a_shutdown_answers_those_who_wait() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let client = directory(&tracker);
    let digest = Digest::of(b"wanted");
    assert!(matches!(client.claim(&digest, "a", Duration::ZERO).await, Ok(Claim::Leased(_))));
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.claim(&digest, "b", WAIT).await }
    });
    tokio::task::yield_now().await;
    tracker.shutdown().await;
    let outcome = waits.await.expect("no panic");
    let gone =
        matches!(outcome, Err(CallError::Unavailable { status: 503, .. } | CallError::Unreachable { .. }));
    assert!(gone, "{outcome:?}");
    let refused = client.get(&digest).await;
    assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_client_goes_on_to_the_next_tracker_when_one_is_down() {
    let down = Tracker::start(config()).await.expect("starts");
    let dead = base(&down);
    down.shutdown().await;
    let tracker = Tracker::start(config()).await.expect("starts");
    let client = DirectoryClient::new([dead, base(&tracker)], None).expect("a client");
    assert_eq!(client.get(&Digest::of(b"x")).await.expect("the second answers"), None);
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let address = tracker.local_addr().expect("bound");
    let error =
        Tracker::start(Config { listen: vec![address.into()], ..config() }).await.expect_err("in use");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
