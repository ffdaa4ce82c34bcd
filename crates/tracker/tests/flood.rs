//! One address asks without end, over UDP and HTTP, and another is served all the while.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use announce::{
    AnnounceResponse, Event, Reply, RetryIn,
    udp::{UdpAction, UdpAnnounce, UdpAnswer, UdpHead},
};
use metainfo::InfoHash;
use socket2::{Domain, Socket, Type};
use support::{connection, get, peer, read, target};
use tracker::{Config, Network, Tracker};
use wire::PeerId;

/// An address of this host that is not the one of the good client.
const BAD: [u8; 4] = [127, 0, 0, 2];

fn config(limit: u64) -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        rate_limit: limit,
        rate_burst: 20,
        rate_exempt: vec![],
        ..Config::default()
    }
}

fn packet(connection: u64, transaction: u32, port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    UdpHead { connection, action: Some(UdpAction::Announce), transaction }.encode(&mut packet);
    let announce = UdpAnnounce {
        info_hash: InfoHash::from_bytes([port as u8; 20]),
        peer_id: PeerId::ours([1; 12]),
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

fn udp(from: [u8; 4], to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::from((from, 0))).expect("a port");
    socket.connect(to).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    socket
}

/// Of a packet that was answered, whether it was announced.
fn answered(socket: &UdpSocket, transaction: u32) -> bool {
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).expect("answered");
    matches!(UdpAnswer::parse(&answer[..length]), Some((same, UdpAnswer::Announced { .. })) if same == transaction)
}

fn http(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn request(port: u16) -> String {
    String::from_utf8(get(&target(&peer(port as u8, port, 5)), "")).expect("text")
}

/// Floods until told to stop, some thousand times a second, so that no buffer of the system overflows: what is tried
/// is the tracker.
fn flood(to: SocketAddr, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let announces = {
        let stop = Arc::clone(stop);
        move || {
            let socket = udp(BAD, to);
            let (id, mut sent) = (connection(&socket), 0);
            while !stop.load(Relaxed) {
                for n in 0..16u32 {
                    // Announces, announces without an id, connects and garbage.
                    let bytes = match n % 4 {
                        0 | 1 => packet(id, n, 1000),
                        2 => packet(u64::from(n), n, 1000),
                        _ => vec![n as u8; 40],
                    };
                    sent += u64::from(socket.send(&bytes).is_ok());
                }
                thread::sleep(Duration::from_millis(2));
            }
            sent
        }
    };
    let requests = {
        let stop = Arc::clone(stop);
        move || {
            let mut sent = 0;
            while !stop.load(Relaxed) {
                let mut streams: Vec<TcpStream> = (0..8).filter_map(|_| http(BAD, to).ok()).collect();
                for (n, stream) in streams.iter_mut().enumerate() {
                    let bytes =
                        if n % 2 == 0 { request(1000).repeat(20) } else { "\0garbage\r\n\r\n".repeat(20) };
                    sent += u64::from(stream.write_all(bytes.as_bytes()).is_ok());
                }
                thread::sleep(Duration::from_millis(2));
            }
            sent
        }
    };
    vec![thread::spawn(announces), thread::spawn(requests)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_announce_of_a_good_client_is_answered_while_another_address_floods() {
    let tracker = Tracker::start(config(1000)).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let stop = Arc::new(AtomicBool::new(false));
    let floods = flood(to, &stop);
    let good = Arc::new(AtomicU64::new(0));
    let client = thread::spawn({
        let good = Arc::clone(&good);
        move || {
            let socket = udp([127, 0, 0, 1], to);
            let id = connection(&socket);
            let mut stream = http([127, 0, 0, 1], to).expect("connects");
            for n in 0..300u32 {
                socket.send(&packet(id, n, 2000)).expect("sent");
                assert!(answered(&socket, n), "{n}");
                stream.write_all(request(2001).as_bytes()).expect("sent");
                let (_, body) = read(&mut stream);
                assert!(matches!(AnnounceResponse::parse(&body), Ok(Reply::Ok(_))), "{n}");
                good.fetch_add(1, Relaxed);
                // 200 a second, of the 1000 that it may.
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let outcome = tokio::task::spawn_blocking(move || client.join()).await.expect("joins");
    stop.store(true, Relaxed);
    let sent: Vec<u64> = floods.into_iter().map(|flood| flood.join().expect("floods")).collect();
    assert!(outcome.is_ok(), "{} of 300 were answered", good.load(Relaxed));
    assert!(sent.iter().all(|&sent| sent > 1000), "{sent:?}");
    let stats = tokio::task::spawn_blocking(move || {
        let mut stream = http([127, 0, 0, 3], to).expect("connects");
        stream.write_all(b"GET /stats.json HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    });
    let stats = stats.await.expect("joins");
    assert!(stats.contains("[\"limited\",") && !stats.contains("[\"limited\",0],[\"limited\",0]"), "{stats}");
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_so_over_http_and_not_answered_over_udp() {
    let mut tracker = Tracker::start(config(1)).await.expect("starts");
    let to = tracker.local_addr().expect("bound");
    let ask = move |times: usize, target: &'static str| {
        let mut last = Vec::new();
        for _ in 0..times {
            let mut stream = http(BAD, to).expect("connects");
            let head = if target.is_empty() {
                request(1000)
            } else {
                format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            };
            stream.write_all(head.as_bytes()).expect("sent");
            last.clear();
            if target.is_empty() {
                let (head, body) = read(&mut stream);
                last.push(head);
                last.push(String::from_utf8_lossy(&body).into_owned());
                if let Ok(Reply::Failure { reason, retry_in }) = AnnounceResponse::parse(&body) {
                    assert_eq!(retry_in, Some(RetryIn::After(Duration::from_secs(60))));
                    last.push(reason);
                }
            } else {
                let mut text = String::new();
                stream.read_to_string(&mut text).expect("read");
                last.push(text);
            }
        }
        last
    };
    let blocking = tokio::task::spawn_blocking(move || {
        assert_eq!(ask(20, "").len(), 2, "the burst is answered");
        let refused = ask(3, "");
        assert!(refused[2].contains("too many requests"), "{refused:?}");
        assert!(refused[0].contains("Connection: close"), "{refused:?}");
        assert!(ask(1, "/stats")[0].starts_with("HTTP/1.1 429"));
        assert!(ask(1, "/health")[0].starts_with("HTTP/1.1 200"), "not limited");
        let socket = udp(BAD, to);
        let id = connection(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        for n in 0..3 {
            socket.send(&packet(id, n, 1000)).expect("sent");
        }
        // At most the one that flows in each second.
        let mut answers = 0;
        while socket.recv(&mut [0; 2048]).is_ok() {
            answers += 1;
        }
        assert!(answers <= 1, "{answers}");
    });
    blocking.await.expect("holds");
    // Who is exempt is not counted; a reload says who is.
    let exempt = "127.0.0.2".parse::<Network>().expect("a network");
    let free = Config { rate_exempt: vec![exempt], ..config(1) };
    let same = Config { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()], ..free };
    assert_eq!(tracker.reload(&same).expect("good"), Vec::<&str>::new());
    let free = tokio::task::spawn_blocking(move || ask(50, "")).await.expect("joins");
    assert_eq!(free.len(), 2, "{free:?}");
    tracker.shutdown().await;
}
