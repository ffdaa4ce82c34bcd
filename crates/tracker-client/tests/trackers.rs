//! The client, and trackers that answer well, badly or not at all.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{net::SocketAddr, time::Duration};

use announce::{
    AnnounceRequest, Event, ScrapeStats,
    udp::{
        MAX_URL, UdpAction, UdpAnnounce, UdpHead, encode_announced, encode_connected, encode_error,
        push_compact, url_data,
    },
};
use longshore_tracker_client::{Question, TrackerClient, TrackerError};
use metainfo::InfoHash;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};
use wire::PeerId;

fn request() -> AnnounceRequest {
    let names = (InfoHash::from_bytes([1; 20]), PeerId::from_bytes([2; 20]));
    AnnounceRequest { event: Event::Started, left: 7, ..AnnounceRequest::new(names.0, names.1, 6881) }
}

async fn ask(tracker: &str, deadline: Duration) -> Result<Vec<SocketAddr>, TrackerError> {
    let client = TrackerClient::new(None).expect("a client");
    let question = Question { tracker, request: &request(), host: None, deadline };
    let answer = client.announce(question).await?;
    Ok(answer.peers.iter().map(|peer| peer.addr).collect())
}

/// A UDP tracker that knows one peer; it ignores the first packet of each kind, and answers others with a stray packet
/// first.
async fn udp_tracker(at: &str, peer: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind(at).await.expect("bound");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut packet, mut connects, mut announces) = ([0; 2048], 0, 0);
        loop {
            let (length, from) = socket.recv_from(&mut packet).await.expect("received");
            let packet = &packet[..length];
            let head = UdpHead::parse(packet).expect("a head");
            let (mut stray, mut answer) = (Vec::new(), Vec::new());
            encode_error(head.transaction ^ 1, "not for you", &mut stray);
            if head.is_connect() {
                connects += 1;
                if connects == 1 {
                    continue;
                }
                encode_connected(head.transaction, 99, &mut answer);
            } else {
                assert_eq!((head.connection, head.action), (99, Some(UdpAction::Announce)));
                announces += 1;
                if announces == 1 {
                    continue;
                }
                let announce = UdpAnnounce::parse(packet).expect("an announce");
                assert_eq!((announce.left, announce.event, announce.port), (7, Event::Started, 6881));
                if url_data(packet, &mut [0; MAX_URL]) == b"/secret/announce?a=b" {
                    let stats = ScrapeStats { complete: 1, ..ScrapeStats::default() };
                    encode_announced(head.transaction, 60, &stats, &mut answer);
                    let peer: SocketAddr = peer.parse().expect("an address");
                    push_compact(peer.ip(), peer.port(), &mut answer);
                } else {
                    encode_error(head.transaction, "members only", &mut answer);
                }
            }
            socket.send_to(&stray, from).await.expect("sent");
            socket.send_to(&answer, from).await.expect("sent");
        }
    });
    address
}

#[tokio::test]
async fn a_udp_tracker_is_asked_again_when_packets_are_lost_and_strays_are_not_believed() {
    let minute = Duration::from_secs(60);
    for (at, peer) in [("127.0.0.1:0", "10.0.0.1:80"), ("[::1]:0", "[2001:db8::1]:80")] {
        let tracker = udp_tracker(at, peer).await;
        let known = ask(&format!("udp://{tracker}/secret/announce?a=b"), minute).await.expect("answers");
        assert_eq!(known, [peer.parse::<SocketAddr>().expect("an address")]);
        let refused = ask(&format!("udp://{tracker}/announce"), minute).await.expect_err("no key");
        assert_eq!(refused, TrackerError::Refused { reason: "members only".into(), retry_in: None });
    }
}

#[tokio::test]
async fn a_tracker_that_is_not_there_or_says_nothing_is_an_error_in_words() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("udp://{}", silent.local_addr().expect("an address"));
    assert_eq!(ask(&url, Duration::from_millis(50)).await, Err(TrackerError::TimedOut));
    drop(silent);
    let error = ask(&url, Duration::from_secs(60)).await.expect_err("nobody");
    assert!(error.to_string().contains("refused"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/announce?passkey=x", listener.local_addr().expect("an address"));
    assert_eq!(ask(&url, Duration::from_millis(50)).await, Err(TrackerError::TimedOut));
    drop(listener);
    let error = ask(&url, Duration::from_secs(60)).await.expect_err("nobody").to_string();
    assert!(error.contains("refused") && !error.contains("passkey"), "{error}");
    for wrong in ["udp://tracker", "udp://:1/announce", "udp://[::1]", "ftp://x/", "announce", ""] {
        assert!(matches!(ask(wrong, Duration::from_secs(1)).await, Err(TrackerError::Url(_))), "{wrong}");
    }
}

/// Answers each connection with this status and body, and gives the head of what it was asked.
async fn http_tracker(
    status: &'static str,
    body: &'static str,
) -> (String, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/announce?passkey=x", listener.local_addr().expect("an address"));
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (heads, asked) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.expect("read");
            head.truncate(length);
            heads.send(String::from_utf8(head).expect("ascii")).await.expect("kept");
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    (url, asked)
}

#[tokio::test]
async fn an_http_tracker_is_asked_by_the_host_that_is_set_and_its_failures_are_told() {
    let (url, mut asked) = http_tracker("200 OK", "d8:intervali60e5:peers6:\x0a\x00\x00\x01\x00\x50e").await;
    let client = TrackerClient::new(None).expect("a client");
    let (request, deadline) = (request(), Duration::from_secs(60));
    let question = Question { tracker: &url, request: &request, host: Some("other.example"), deadline };
    let answer = client.announce(question).await.expect("answers");
    assert_eq!(answer.peers[0].addr, "10.0.0.1:80".parse().expect("an address"));
    let head = asked.recv().await.expect("asked").to_ascii_lowercase();
    assert!(head.contains("host: other.example\r\n"), "{head}");
    assert!(head.starts_with("get /announce?passkey=x&info_hash="), "{head}");

    let (url, _asked) = http_tracker("503 Busy", "").await;
    assert_eq!(ask(&url, deadline).await, Err(TrackerError::Status(503)));
    let (url, _asked) = http_tracker("200 OK", "hello").await;
    assert!(matches!(ask(&url, deadline).await, Err(TrackerError::Malformed(_))));
    let (url, _asked) = http_tracker("200 OK", "d14:failure reason2:no8:retry in5:nevere").await;
    assert!(matches!(ask(&url, deadline).await, Err(TrackerError::Refused { .. })));
}
