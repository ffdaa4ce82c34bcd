//! What the tests ask trackers with: blocking clients for those that look at bytes and connections, and plain requests
//! for the rest.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    io::Read,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use announce::{
    AnnounceRequest, AnnounceResponse, Event, Reply, append_to_url,
    udp::{PROTOCOL_ID, UdpAction, UdpAnswer, UdpHead},
};
use metainfo::InfoHash;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracker::{Config, Tracker};
use wire::PeerId;

pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// Any free port of this machine.
pub(crate) fn local() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) fn config() -> Config {
    Config { listen: vec![local().into()], ..Config::default() }
}

/// The first announce of a peer that has a name of its own for each port.
pub(crate) fn peer(torrent: u8, port: u16, left: u64) -> AnnounceRequest {
    let (info_hash, id) = (InfoHash::from_bytes([torrent; 20]), PeerId::ours([port as u8; 12]));
    AnnounceRequest { left, event: Event::Started, ..AnnounceRequest::new(info_hash, id, port) }
}

/// The path and query of an announce.
pub(crate) fn target(request: &AnnounceRequest) -> String {
    append_to_url("/announce", &request.to_query())
}

/// What an announce is answered, or why it is refused.
pub(crate) fn reply(body: &[u8]) -> Result<AnnounceResponse, String> {
    match AnnounceResponse::parse(body).expect("bencode") {
        Reply::Ok(response) => Ok(response),
        Reply::Failure { reason, .. } => Err(reason),
    }
}

pub(crate) fn addresses(response: &AnnounceResponse) -> Vec<String> {
    let mut addresses: Vec<String> = response.peers.iter().map(|peer| peer.addr.to_string()).collect();
    addresses.sort();
    addresses
}

pub(crate) fn ports(response: &AnnounceResponse) -> Vec<u16> {
    let mut ports: Vec<u16> = response.peers.iter().map(|peer| peer.addr.port()).collect();
    ports.sort_unstable();
    ports
}

/// A request on a connection of its own: the status, and the body.
pub(crate) async fn ask(tracker: &Tracker, target: &str, fields: &str) -> (u16, Vec<u8>) {
    let exchange = async {
        let address = tracker.local_addr().expect("bound");
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        stream.write_all(&get(target, &format!("Connection: close\r\n{fields}"))).await.expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        answer
    };
    let answer = tokio::time::timeout(WAIT, exchange).await.expect("an answer in time");
    let (head, body) = read(&mut answer.as_slice());
    (head.get(9..12).and_then(|status| status.parse().ok()).expect("a status"), body)
}

/// Blocking clients beside the tracker's runtime.
pub(crate) async fn with<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(client).await.expect("no panic")
}

pub(crate) fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("connects");
    stream.set_read_timeout(Some(WAIT)).expect("set");
    stream
}

/// The bytes of a request.
pub(crate) fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: t\r\n{fields}\r\n").into_bytes()
}

/// One answer: its status line and fields, and its body, which goes to the end where no length is given.
pub(crate) fn read(stream: &mut impl Read) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", head.escape_ascii()));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned));
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length.trim().parse().expect("a number"), 0);
            stream.read_exact(&mut body).expect("a body");
        }
        None => {
            stream.read_to_end(&mut body).expect("a body");
        }
    }
    (head, body)
}

/// A connection id, by UDP.
pub(crate) fn connection(socket: &UdpSocket) -> u64 {
    let (mut packet, mut answer) = (Vec::new(), [0; 64]);
    UdpHead { connection: PROTOCOL_ID, action: Some(UdpAction::Connect), transaction: 7 }.encode(&mut packet);
    assert_eq!(packet.len(), 16);
    socket.send(&packet).expect("sends");
    let length = socket.recv(&mut answer).expect("an answer");
    match UdpAnswer::parse(&answer[..length]) {
        Some((7, UdpAnswer::Connected(id))) => id,
        other => panic!("{other:?}"),
    }
}
