//! What clients that are slow, gone or idle cost others: nothing that others need. And what an etcd that is gone does.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use api::{
    DirectoryClient,
    directory::{Claim, MAX_PUBLISH_BODY, PublishRequest},
};
use bytes::Bytes;
use hash::Digest;
use metainfo::{BlobBuilder, BlobTorrent};
use support::{WAIT, config, get, peer, read, target, tcp, with};
use tracker::{Config, Network, Tracker};

/// Believes this machine that it asks for others.
fn behind_a_proxy() -> Config {
    Config { trusted_proxies: vec![Network::LOOPBACK_V4], ..config() }
}

fn directory(tracker: &Tracker) -> DirectoryClient {
    let base = format!("http://{}", tracker.local_addr().expect("bound"));
    DirectoryClient::new([base], None).expect("a client").with_deadline(WAIT)
}

fn known() -> BlobTorrent {
    let mut builder = BlobBuilder::new(5).expect("small");
    builder.update(b"known");
    builder.finish().expect("whole")
}

async fn publish(tracker: &Tracker) {
    let (known, content) = (known(), Bytes::new());
    let (info, media_type) = (known.info_bytes.clone(), None);
    let request = PublishRequest { info, media_type, public: false, content, lease: None };
    directory(tracker).publish(&known.digest, &request).await.expect("published");
}

fn call(method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} /directory/v1/blobs/{path} HTTP/1.1\r\nHost: t\r\n{fields}");
    let type_of = "Content-Type: application/json";
    format!("{head}{type_of}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The beginning of a publication of `length` bytes, and some of them.
fn begun(to: SocketAddr, fields: &str, length: usize, sent: usize) -> TcpStream {
    let mut stream = tcp(to);
    let (digest, type_of) = (Digest::of(b"slow"), "Content-Type: application/json");
    let head = format!(
        "PUT /directory/v1/blobs/{digest} HTTP/1.1\r\nHost: t\r\n{fields}{type_of}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sends");
    // It may be refused before all is sent.
    let _ = stream.write_all(&vec![b' '; sent]);
    stream
}

fn claim(digest: &Digest, fields: &str, wait_ms: u64) -> Vec<u8> {
    let body = format!(r#"{{"node":"n{fields_length}","wait_ms":{wait_ms}}}"#, fields_length = fields.len());
    call("POST", &format!("{digest}/claim"), fields, &body)
}

/// A number of the metrics.
fn metric(to: SocketAddr, name: &str) -> u64 {
    let mut stream = tcp(to);
    stream.write_all(&get("/metrics", "Connection: close\r\n")).expect("sends");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("longshore_tracker_")?.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in\n{text}")).trim().parse().expect("a number")
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_slow_publishers_do_not_keep_others_from_publishing() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let slow = with(move || (0..40).map(|_| begun(to, "", 1000, 10)).collect::<Vec<_>>()).await;
    publish(&tracker).await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_of_one_host_take_no_more_room_than_it_may_have() {
    let tracker = Tracker::start(behind_a_proxy()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let (one, other) = ("X-Real-IP: 192.0.2.1\r\n", "X-Real-IP: 192.0.2.2\r\n");
    let slow = with(move || {
        let refused = "HTTP/1.1 503";
        let all = MAX_PUBLISH_BODY;
        let slow: Vec<TcpStream> = (0..4).map(|_| begun(to, one, all, all - 1)).collect();
        // What all four hold is all that it may hold, once it has come.
        wait_for("the room to be taken", || read(&mut begun(to, one, 1000, 1000)).0.starts_with(refused));
        let (head, body) = read(&mut begun(to, other, 1000, 1000));
        assert!(!head.starts_with(refused), "{head}{}", body.escape_ascii());
        slow
    })
    .await;
    publish(&tracker).await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_ends_with_its_client_even_if_more_requests_had_come_behind_it() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let digest = Digest::of(b"wanted");
    let held = directory(&tracker).claim(&digest, "holder", Duration::ZERO).await;
    assert!(matches!(held, Ok(Claim::Leased(_))), "{held:?}");
    with(move || {
        for pipelined in [false, true] {
            let mut stream = tcp(to);
            let mut bytes = claim(&digest, "", 30_000);
            if pipelined {
                bytes.extend_from_slice(&get("/health", ""));
            }
            stream.write_all(&bytes).expect("sends");
            wait_for("the claim", || metric(to, "waiting_claims ") == 1);
            drop(stream);
            wait_for("its end", || metric(to, "waiting_claims ") == 0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_one_host_do_not_take_all_places_of_those_that_wait() {
    let tracker = Tracker::start(Config { max_waiting: 32, ..behind_a_proxy() }).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let digest = Digest::of(b"wanted");
    let held = directory(&tracker).claim(&digest, "holder", Duration::ZERO).await;
    assert!(matches!(held, Ok(Claim::Leased(_))), "{held:?}");
    with(move || {
        let ask = |host: u8| {
            let mut stream = tcp(to);
            let fields = format!("X-Real-IP: 192.0.2.{host}\r\n");
            stream.write_all(&claim(&digest, &fields, 30_000)).expect("sends");
            stream
        };
        let _waiting = [ask(1), ask(1)];
        wait_for("its two claims", || metric(to, "waiting_claims ") == 2);
        // A sixteenth is all that it may have: this one is answered at once.
        let (head, body) = read(&mut ask(1));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(body.windows(4).any(|word| word == b"held"), "{}", body.escape_ascii());
        assert_eq!(metric(to, "waiting_claims "), 2);
        let _other = ask(2);
        wait_for("another host's", || metric(to, "waiting_claims ") == 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_the_place_of_the_connection_that_is_idle_for_longest() {
    for path in ["/announce", "/health"] {
        let tracker = Tracker::start(Config { max_connections: 3, workers: 1, udp: false, ..config() });
        let tracker = tracker.await.expect("starts");
        let to = tracker.local_addr().expect("bound");
        with(move || {
            let request = if path == "/health" { get(path, "") } else { get(&target(&peer(1, 1, 5)), "") };
            let ask = |stream: &mut TcpStream| {
                stream.write_all(&request).expect("sends");
                assert!(read(stream).0.starts_with("HTTP/1.1 200"));
            };
            let mut streams: Vec<TcpStream> = Vec::new();
            for _ in 0..3 {
                streams.push(tcp(to));
                ask(streams.last_mut().expect("one"));
                std::thread::sleep(Duration::from_millis(1100));
            }
            // The first asks again, and so the second is idle for longest.
            ask(&mut streams[0]);
            std::thread::sleep(Duration::from_millis(1100));
            let mut newcomer = tcp(to);
            ask(&mut newcomer);
            assert_eq!(streams[1].read(&mut [0]).expect("closed"), 0, "{path}");
            ask(&mut streams[0]);
            ask(&mut streams[2]);
        })
        .await;
        tracker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_the_place_of_an_idle_connection_of_another_worker() {
    let any = "127.0.0.1:0".parse().expect("an address");
    let two = Config { listen: vec![any; 2], max_connections: 3, workers: 1, udp: false, ..config() };
    let tracker = Tracker::start(two).await.expect("starts");
    let [first, second] = *tracker.local_addrs() else { panic!("two addresses") };
    with(move || {
        let request = get(&target(&peer(1, 1, 5)), "");
        let mut streams: Vec<TcpStream> = (0..3).map(|_| tcp(first)).collect();
        for stream in &mut streams {
            stream.write_all(&request).expect("sends");
            assert!(read(stream).0.starts_with("HTTP/1.1 200"));
        }
        std::thread::sleep(Duration::from_millis(1100));
        let mut newcomers: Vec<TcpStream> = Vec::new();
        for stream in &mut streams {
            let mut newcomer = tcp(second);
            newcomer.write_all(&request).expect("sends");
            assert!(read(&mut newcomer).0.starts_with("HTTP/1.1 200"));
            newcomers.push(newcomer);
            assert_eq!(stream.read(&mut [0]).expect("closed"), 0);
        }
    })
    .await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_the_place_of_a_client_that_has_sent_part_of_its_next_head() {
    let tracker = Tracker::start(Config { max_connections: 2, workers: 1, udp: false, ..config() });
    let tracker = tracker.await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    with(move || {
        let request = get(&target(&peer(1, 1, 5)), "");
        let ask = |part: &[u8]| {
            let mut stream = tcp(to);
            stream.write_all(&request).expect("sends");
            let (head, _) = read(&mut stream);
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            stream.write_all(part).expect("sends");
            stream
        };
        let mut slow = [ask(b"GET /announce?info"), ask(b"G")];
        std::thread::sleep(Duration::from_millis(1100));
        let _newcomers = [ask(b""), ask(b"")];
        for slow in &mut slow {
            // Reset, where what it has sent was not read yet.
            assert!(matches!(slow.read(&mut [0]), Ok(0) | Err(_)));
        }
    })
    .await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_the_place_of_a_request_whose_body_does_not_come() {
    let tracker = Tracker::start(Config { max_connections: 3, workers: 1, udp: false, ..config() });
    let tracker = tracker.await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    with(move || {
        let announce = target(&peer(1, 1, 5));
        let claim =
            format!("POST /directory/v1/blobs/{}/claim HTTP/1.1\r\nHost: t\r\n", Digest::of(b"wanted"));
        let claim =
            format!("{claim}Content-Type: application/json\r\nContent-Length: 5\r\n\r\n").into_bytes();
        let mut slow: Vec<TcpStream> = Vec::new();
        for head in [get(&announce, "Content-Length: 5\r\n"), claim] {
            slow.push(tcp(to));
            slow.last_mut().expect("one").write_all(&head).expect("sends");
            std::thread::sleep(Duration::from_millis(100));
        }
        slow.push(begun(to, "", 1000, 10));
        std::thread::sleep(Duration::from_millis(1500));
        // The one that has been without a byte for longest goes first.
        let mut served: Vec<TcpStream> = Vec::new();
        for mut slow in slow {
            let mut newcomer = tcp(to);
            newcomer.write_all(&get(&announce, "")).expect("sends");
            assert!(read(&mut newcomer).0.starts_with("HTTP/1.1 200"));
            assert_eq!(slow.read(&mut [0]).expect("closed"), 0);
            served.push(newcomer);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up_and_a_publications_is_waited_for() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    with(move || {
        let mut publication = begun(to, "", 1000, 10);
        for path in [target(&peer(1, 1, 5)), "/health".to_owned()] {
            let mut stream = tcp(to);
            stream.write_all(&get(&path, "Content-Length: 5\r\n")).expect("sends");
            let (head, _) = read(&mut stream);
            assert!(
                head.starts_with("HTTP/1.1 408") && head.to_lowercase().contains("connection: close"),
                "{head}"
            );
        }
        // Its time is not over: the rest is taken, and judged.
        publication.write_all(&[b' '; 990]).expect("sends");
        let (head, _) = read(&mut publication);
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn the_first_announce_after_the_start_is_dated() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let (head, _) = with(move || {
        let mut stream = tcp(to);
        stream.write_all(&get(&target(&peer(1, 1, 5)), "")).expect("sends");
        read(&mut stream)
    })
    .await;
    assert!(head.contains("Date: ") && !head.contains("1970"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_one_with_a_body_that_nobody_reads_is_answered_or_told_that_it_is_not() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    with(move || {
        let chunked = "Transfer-Encoding: chunked\r\n";
        for path in ["/health", "/nothing", "/announce?info_hash=x"] {
            let mut stream = tcp(to);
            let mut bytes = get(path, chunked);
            bytes.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
            stream.write_all(&[bytes, get("/health", "")].concat()).expect("sends");
            let (head, _) = read(&mut stream);
            assert!(!head.to_lowercase().contains("connection: close"), "{head}");
            assert_eq!(read(&mut stream).1, b"ok\n", "{path}");
        }
        // Longer than anybody waits for, or not read since the call is refused before: the last answer, and it says so.
        let long = format!("{:x}\r\n{}\r\n0\r\n\r\n", 100_000, "x".repeat(100_000));
        let not_json = "POST /directory/v1/tags/claim HTTP/1.1\r\nHost: t\r\n";
        let refused = format!("{not_json}{chunked}\r\n5\r\nhello\r\n0\r\n\r\n").into_bytes();
        for first in [[get("/health", chunked), long.into_bytes()].concat(), refused] {
            let mut stream = tcp(to);
            stream.write_all(&[first, get("/health", "")].concat()).expect("sends");
            let (head, _) = read(&mut stream);
            assert!(head.starts_with("HTTP/1.1 4"), "{head}");
            assert!(head.to_lowercase().contains("connection: close"), "{head}");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("closed, and not reset");
            assert_eq!(rest, b"");
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_too_long_is_refused_before_it_is_read() {
    let tracker = Tracker::start(config()).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let (head, _) = with(move || read(&mut begun(to, "", MAX_PUBLISH_BODY + 1, 0))).await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    publish(&tracker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_agree_about_an_etcd_that_is_gone() {
    let home = "etcd://127.0.0.1:1".parse().expect("an address");
    let tracker = Tracker::start(Config { directory: Some(home), ..config() }).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    with(move || {
        wait_for("the outage", || metric(to, "directory_up ") == 0);
        let mut stream = tcp(to);
        stream.write_all(&get("/readyz", "")).expect("sends");
        let (head, body) = read(&mut stream);
        assert!(head.starts_with("HTTP/1.1 503"), "{head}{}", body.escape_ascii());
    })
    .await;
}
