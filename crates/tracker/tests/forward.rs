//! Forwarders: what goes to them, what comes back, and what they cannot do to us.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{net::SocketAddr, time::Duration};

use announce::{AnnounceRequest, AnnounceResponse, Event};
use support::{WAIT, config, ports};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};
use tracker::{Config, Tracker};
use tracker_client::{Question, TrackerClient, TrackerError};

/// A tracker with a list of forwarders.
async fn forwarding(list: &str) -> Tracker {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), list).expect("written");
    let forwarders = Some(file.path().to_owned());
    Tracker::start(Config { forwarders, ..config() }).await.expect("starts")
}

fn peer(port: u16, event: Event) -> AnnounceRequest {
    AnnounceRequest { event, ..support::peer(0xf7, port, 5) }
}

async fn ask(address: SocketAddr, request: &AnnounceRequest) -> Result<AnnounceResponse, TrackerError> {
    let tracker = &format!("http://{address}/announce");
    let client = TrackerClient::new(None).expect("a client");
    client.announce(Question { tracker, request, host: None, deadline: WAIT }).await
}

/// Announces until the answer has these peers' ports, and gives that answer.
async fn ask_until(address: SocketAddr, request: &AnnounceRequest, wanted: &[u16]) -> AnnounceResponse {
    let asking = async {
        loop {
            let response = ask(address, request).await.expect("answers");
            if ports(&response) == wanted {
                return response;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, asking).await.expect("in time")
}

/// An HTTP server that gives everyone the same answer, or none at all, and tells what it was asked.
async fn server(answer: Option<Vec<u8>>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (heads, asked) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.expect("read");
            // Not every test wants to know.
            let _ = heads.try_send(String::from_utf8_lossy(&head[..length]).into_owned());
            if let Some(answer) = &answer {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    answer.len()
                );
                stream.write_all(&[head.as_bytes(), answer].concat()).await.expect("written");
            } else {
                kept.push(stream);
            }
        }
    });
    (address, asked)
}

async fn metrics(tracker: &Tracker) -> String {
    String::from_utf8(support::ask(tracker, "/metrics", "").await.1).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_both_trackers_find_each_other_over_http_and_udp() {
    let far = Tracker::start(config()).await.expect("starts");
    let far_at = far.local_addr().expect("bound");
    for (scheme, first, second) in [("http", 1001, 1002), ("udp", 1003, 1004)] {
        let near = forwarding(&format!("- uri: {scheme}://{far_at}/announce\n")).await;
        let near_at = near.local_addr().expect("bound");
        ask(far_at, &peer(first, Event::Started)).await.expect("answers");
        let at_first = ask(near_at, &peer(second, Event::Started)).await.expect("answers");
        assert!(at_first.interval <= Duration::from_secs(10), "soon there will be more");
        // What the other end knows comes with a later answer, without the asker, and each peer once.
        let known = ask_until(near_at, &peer(second, Event::None), &[first]).await;
        assert!(known.interval > Duration::from_secs(500));
        ask_until(far_at, &peer(first, Event::None), &[second]).await;
        // Last words are passed on.
        ask(near_at, &peer(second, Event::Stopped)).await.expect("answers");
        ask_until(far_at, &peer(first, Event::None), &[]).await;
        ask(far_at, &peer(first, Event::Stopped)).await.expect("answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_forwarder_and_one_that_talks_nonsense_delay_nobody_and_end_nothing() {
    let (dead, _never_answered) = server(None).await;
    let (nonsense, _) = server(Some(b"this is no bencode".to_vec())).await;
    let (refusing, _) = server(Some(b"d14:failure reason2:noe".to_vec())).await;
    let v6 =
        b"d8:intervali60e5:peers0:6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x04\xd2e".to_vec();
    let (good, mut asked) = server(Some(v6)).await;
    let list = format!(
        "- {{uri: 'http://{dead}/', name: dead}}\n- {{uri: 'http://{nonsense}/', name: nonsense}}\n\
         - {{uri: 'http://{refusing}/', name: refusing}}\n\
         - {{uri: 'http://{good}/a?k=v', name: good, ip: 192.0.2.1, host: h.example}}\n- uri: udp://127.0.0.1:1\n"
    );
    let near = forwarding(&list).await;
    let near_at = near.local_addr().expect("bound");
    ask(near_at, &peer(2001, Event::Started)).await.expect("answers");
    // The IPv6 peers of a compact answer are read.
    let known = ask_until(near_at, &peer(2001, Event::None), &[1234]).await;
    assert_eq!(known.peers[0].addr, "[2001:db8::1]:1234".parse().expect("an address"));
    let head = asked.recv().await.expect("asked").to_lowercase();
    let said = ["get /a?k=v&info_hash=", "&event=started", "&port=2001", "&ip=192.0.2.1&ipv4=192.0.2.1"];
    assert!(
        said.iter().all(|part| head.contains(part)) && head.contains("\r\nhost: h.example\r\n"),
        "{head}"
    );
    // Everyone's fate is counted, the dead one's last.
    let all = [
        ("dead", "error"),
        ("nonsense", "malformed"),
        ("refusing", "refused"),
        ("good", "200"),
        ("127.0.0.1:1", "error"),
    ];
    let counted = async {
        loop {
            let text = metrics(&near).await;
            let line = |(name, status): &(&str, &str)| {
                text.contains(&format!("forwarder_status{{name=\"{name}\",status=\"{status}\"}} "))
            };
            if all.iter().all(line) {
                return text;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let text = timeout(WAIT, counted).await.expect("counted");
    assert!(text.contains("\nrequests "), "retracker's other metric");
    ask(near_at, &peer(2002, Event::Started)).await.expect("still answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarder_that_is_this_tracker_is_found_out() {
    // Which port it will have is only known when it listens: a forwarder in between leads back.
    let between = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let list =
        format!("- {{uri: 'http://{}/announce', name: loop}}\n", between.local_addr().expect("an address"));
    let tracker = forwarding(&list).await;
    let at = tracker.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut from, _)) = between.accept().await {
            let mut to = tokio::net::TcpStream::connect(at).await.expect("connects");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    ask(at, &peer(3001, Event::Started)).await.expect("answers");
    let found_out = async {
        while !metrics(&tracker).await.contains("forwarder_status{name=\"loop\",status=\"refused\"} 1") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, found_out).await.expect("in time");
    // It is asked no more, and the peer is there once.
    ask(at, &peer(3001, Event::Completed)).await.expect("answers");
    let other = ask(at, &peer(3002, Event::Started)).await.expect("answers");
    assert_eq!((ports(&other), other.incomplete), (vec![3001], Some(2)));
    assert!(metrics(&tracker).await.contains("status=\"refused\"} 1\n"), "once");
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_named() {
    let start = |forwarders: &str| {
        let config = Config { forwarders: Some(forwarders.into()), ..config() };
        async move { Tracker::start(config).await.expect_err("no list").to_string() }
    };
    assert!(start("/nonexistent/forwarders.yml").await.contains("/nonexistent/forwarders.yml"));
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "- uri: x\n").expect("written");
    assert!(start(&file.path().display().to_string()).await.contains("forwarder 1"));
}
