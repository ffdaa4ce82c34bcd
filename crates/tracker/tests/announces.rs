//! Announces and scrapes over real sockets, of both protocols and families.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use announce::{
    AnnounceRequest, AnnounceResponse, Event, Reply, ScrapeRequest, ScrapeResponse, ScrapeStats,
    append_to_url,
    udp::{MAX_UDP_SCRAPE, PROTOCOL_ID, UdpAction, UdpAnnounce, UdpAnswer, UdpHead, encode_url_data},
};
use metainfo::InfoHash;
use support::{WAIT, addresses, connection, get, peer, read, reply, target, tcp, with};
use tracker::{Config, Tracker};
use wire::PeerId;

fn config(ip: impl Into<IpAddr>) -> Config {
    // Several workers, so that packets and connections meet on different ones.
    Config { listen: vec![SocketAddr::new(ip.into(), 0).into()], workers: 2, ..Config::default() }
}

async fn start(config: Config) -> (Tracker, SocketAddr) {
    let tracker = Tracker::start(config).await.expect("starts");
    let address = tracker.local_addr().expect("bound");
    (tracker, address)
}

fn announced(body: &[u8]) -> AnnounceResponse {
    reply(body).expect("taken")
}

fn http(to: SocketAddr, request: &AnnounceRequest) -> AnnounceResponse {
    let mut stream = tcp(to);
    stream.write_all(&get(&target(request), "Connection: close\r\n")).expect("sends");
    let (_, body) = read(&mut stream);
    assert_eq!(stream.read(&mut [0]).expect("closes"), 0);
    announced(&body)
}

struct Udp {
    socket: UdpSocket,
    id: u64,
}

#[derive(Debug, PartialEq)]
enum Got {
    Announced(u32, ScrapeStats, Vec<u8>),
    Scraped(Vec<ScrapeStats>),
    Error(String),
}

impl Udp {
    fn connect(to: SocketAddr) -> Self {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let socket = UdpSocket::bind((any, 0)).expect("binds");
        socket.set_read_timeout(Some(WAIT)).expect("set");
        socket.connect(to).expect("connects");
        let id = connection(&socket);
        Self { socket, id }
    }

    fn head(&self, action: UdpAction, transaction: u32) -> Vec<u8> {
        let mut packet = Vec::new();
        UdpHead { connection: self.id, action: Some(action), transaction }.encode(&mut packet);
        packet
    }

    fn exchange(&self, packet: &[u8]) -> Vec<u8> {
        self.socket.send(packet).expect("sends");
        let mut answer = vec![0; 2048];
        let length = self.socket.recv(&mut answer).expect("an answer");
        answer.truncate(length);
        answer
    }

    fn ask(&self, packet: &[u8]) -> Got {
        let answer = self.exchange(packet);
        assert_eq!(answer.get(4..8), packet.get(12..16), "another transaction");
        match UdpAnswer::parse(&answer).expect("an answer").1 {
            UdpAnswer::Announced { interval, stats, peers } => {
                Got::Announced(interval, stats, peers.to_vec())
            }
            UdpAnswer::Scraped(stats) => Got::Scraped(stats),
            UdpAnswer::Error(reason) => Got::Error(String::from_utf8_lossy(reason).into_owned()),
            UdpAnswer::Connected(id) => panic!("{id}"),
        }
    }

    fn packet(&self, announce: &UdpAnnounce) -> Vec<u8> {
        let mut packet = self.head(UdpAction::Announce, 99);
        announce.encode(&mut packet);
        packet
    }

    /// Numbers and peers.
    fn announce(&self, announce: &UdpAnnounce) -> (ScrapeStats, Vec<u8>) {
        match self.ask(&self.packet(announce)) {
            Got::Announced(interval, stats, peers) => {
                assert!((570..=630).contains(&interval), "{interval}");
                (stats, peers)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn udp_peer(torrent: u8, port: u16, left: u64) -> UdpAnnounce {
    UdpAnnounce {
        info_hash: InfoHash::from_bytes([torrent; 20]),
        peer_id: PeerId::from_bytes([port as u8; 20]),
        downloaded: 0,
        left,
        uploaded: 0,
        event: Event::Started,
        ip: None,
        key: 0,
        numwant: None,
        port,
    }
}

#[tokio::test]
async fn peers_of_both_protocols_find_each_other() {
    let (tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let udp = Udp::connect(to);
        assert_eq!(udp.announce(&udp_peer(1, 1001, 5)).1, b"");
        let found = http(to, &peer(1, 1002, 0));
        assert_eq!(addresses(&found), ["127.0.0.1:1001"]);
        let (stats, peers) = udp.announce(&udp_peer(1, 1001, 5));
        assert_eq!((stats.complete, stats.incomplete), (1, 1));
        assert_eq!(peers, [127, 0, 0, 1, 0x03, 0xea]);
        // Seeds are not told of seeds.
        assert_eq!(udp.announce(&udp_peer(1, 1003, 0)).1, [127, 0, 0, 1, 0x03, 0xe9]);
        // Gone by the one protocol, gone for the other.
        http(to, &AnnounceRequest { event: Event::Stopped, ..peer(1, 1001, 5) });
        assert_eq!(udp.announce(&udp_peer(1, 1003, 0)).1, b"");
    })
    .await;
    tracker.shutdown().await;
}

#[tokio::test]
async fn ipv6_goes_by_the_packet_and_http_tells_both_families() {
    let everywhere = config(Ipv6Addr::UNSPECIFIED);
    let (_tracker, to) = start(everywhere).await;
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, to.port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, to.port()));
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return interop::skip("there is no IPv6 here");
    }
    with(move || {
        let (udp4, udp6) = (Udp::connect(v4), Udp::connect(v6));
        assert_eq!(udp4.announce(&udp_peer(1, 1001, 5)).1, b"");
        assert_eq!(udp6.announce(&udp_peer(1, 1002, 5)).1, b"");
        let (stats, peers) = udp6.announce(&udp_peer(1, 1003, 5));
        assert_eq!((stats.incomplete, peers.len()), (3, 18));
        assert_eq!(peers, [&Ipv6Addr::LOCALHOST.octets()[..], &[0x03, 0xea]].concat());
        assert_eq!(udp4.announce(&udp_peer(1, 1004, 5)).1.len(), 6);
        let found = http(v6, &peer(1, 1005, 5));
        assert_eq!(addresses(&found), ["127.0.0.1:1001", "127.0.0.1:1004", "[::1]:1002", "[::1]:1003"]);
        assert_eq!(found.external_ip, Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(http(v4, &peer(1, 1006, 5)).external_ip, Some(Ipv4Addr::LOCALHOST.into()));
        // An id given over the one family is none over the other.
        let foreign = Udp { socket: udp4.socket.try_clone().expect("cloned"), id: udp6.id };
        udp4.socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        udp4.socket.send(&foreign.packet(&udp_peer(1, 1001, 5))).expect("sends");
        assert!(udp4.socket.recv(&mut [0; 100]).is_err());
    })
    .await;
}

#[tokio::test]
async fn without_its_connection_id_nothing_is_answered() {
    let (tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    let text = with(move || {
        let udp = Udp::connect(to);
        let mut wrong = Udp { socket: udp.socket.try_clone().expect("cloned"), id: udp.id ^ 1 };
        let mut scrape = wrong.head(UdpAction::Scrape, 1);
        scrape.extend_from_slice(&[1; 20]);
        let mut packets =
            vec![wrong.packet(&udp_peer(1, 1001, 5)), scrape, wrong.head(UdpAction::Connect, 1)];
        wrong.id = PROTOCOL_ID;
        packets.push(wrong.packet(&udp_peer(1, 1001, 5)));
        packets.extend([vec![], vec![0; 15], vec![0xff; 1500]]);
        for packet in &packets {
            udp.socket.send(packet).expect("sends");
        }
        // What is answered is the one packet with the right id, though it came last.
        assert_eq!(udp.announce(&udp_peer(1, 1002, 5)).1, b"");
        let mut stream = tcp(to);
        stream.write_all(&get("/metrics", "")).expect("sends");
        String::from_utf8(read(&mut stream).1).expect("text")
    })
    .await;
    let counted = |name: &str| {
        let line =
            text.lines().find(|line| line.contains(name) && line.contains(r#"protocol="udp",family="ipv4""#));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().expect("a value").to_owned()
    };
    assert_eq!(counted(r#"fault="connection"#), "5");
    assert_eq!(counted(r#"fault="malformed"#), "2");
    assert_eq!(counted(r#"outcome="added"#), "1");
    assert_eq!(counted("connects_total"), "1");
    tracker.shutdown().await;
}

#[tokio::test]
async fn udp_says_what_is_wrong_to_who_has_an_id() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let udp = Udp::connect(to);
        let whole = udp.packet(&udp_peer(1, 1001, 5));
        assert!(matches!(udp.ask(&whole[..97]), Got::Error(reason) if reason.contains("too short")));
        let mut unknown = whole.clone();
        unknown[11] = 9;
        assert!(matches!(udp.ask(&unknown), Got::Error(reason) if reason.contains("action")));
        assert!(matches!(udp.ask(&udp.head(UdpAction::Scrape, 5)), Got::Error(_)));
        let mut scrape = udp.head(UdpAction::Scrape, 5);
        scrape.extend_from_slice(&[1; 30]);
        assert!(matches!(udp.ask(&scrape), Got::Error(_)));
        // An event that is not known is a regular announce, and a negative numwant what the tracker thinks right.
        let mut odd = whole;
        odd[83] = 77;
        odd[92..96].copy_from_slice(&(-7i32).to_be_bytes());
        assert!(matches!(udp.ask(&odd), Got::Announced(..)));
        assert_eq!(udp.announce(&udp_peer(1, 1002, 5)).1.len(), 6);
        let none = UdpAnnounce { numwant: Some(0), ..udp_peer(1, 1002, 5) };
        assert_eq!(udp.announce(&none).1.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_udp_scrape_tells_of_up_to_74_torrents_in_order() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let udp = Udp::connect(to);
        udp.announce(&udp_peer(1, 1001, 5));
        udp.announce(&udp_peer(3, 1001, 5));
        udp.announce(&UdpAnnounce { event: Event::Completed, ..udp_peer(3, 1001, 0) });
        let mut packet = udp.head(UdpAction::Scrape, 5);
        for torrent in 1..=MAX_UDP_SCRAPE as u8 {
            packet.extend_from_slice(&[torrent; 20]);
        }
        assert_eq!(packet.len(), 1496);
        let Got::Scraped(stats) = udp.ask(&packet) else { panic!("no scrape") };
        assert_eq!(stats.len(), MAX_UDP_SCRAPE);
        assert_eq!(stats[0], ScrapeStats { incomplete: 1, ..ScrapeStats::default() });
        assert_eq!(stats[1], ScrapeStats::default());
        assert_eq!(stats[2], ScrapeStats { complete: 1, downloaded: 1, ..ScrapeStats::default() });
        for more in [1, 6, 100] {
            let packet = [&packet[..], &[9; 20].repeat(more)].concat();
            assert!(
                matches!(udp.ask(&packet), Got::Error(reason) if reason.contains("at most 74")),
                "{more}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn udp_answers_fit_a_packet_whatever_is_asked_for() {
    let (_tracker, to) = start(Config { max_numwant: 1000, ..config(Ipv4Addr::LOCALHOST) }).await;
    with(move || {
        let udp = Udp::connect(to);
        for port in 1..=300 {
            udp.announce(&UdpAnnounce { numwant: Some(0), ..udp_peer(1, port, 5) });
        }
        let all = UdpAnnounce { numwant: Some(1000), ..udp_peer(1, 1, 5) };
        let (stats, peers) = udp.announce(&all);
        assert_eq!((stats.incomplete, peers.len()), (300, 202 * 6));
        let http = http(to, &AnnounceRequest { numwant: Some(1000), ..peer(1, 1, 5) });
        assert_eq!(http.peers.len(), 299);
    })
    .await;
}

#[tokio::test]
async fn a_key_guards_a_peer_over_both_protocols() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let udp = Udp::connect(to);
        let owner = UdpAnnounce { key: 0xabcd_1234, ..udp_peer(1, 1001, 5) };
        udp.announce(&owner);
        let thief = UdpAnnounce { key: 0xabcd_1235, event: Event::Stopped, ..owner };
        assert_eq!(udp.announce(&thief).0.incomplete, 1);
        assert_eq!(
            http(to, &AnnounceRequest { event: Event::Stopped, ..peer(1, 1001, 5) }).incomplete,
            Some(1)
        );
        let key = announce::Key::new(b"ABCD1234");
        let stopped = AnnounceRequest { key, event: Event::Stopped, ..peer(1, 1001, 5) };
        assert_eq!(http(to, &stopped).incomplete, Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_whole_pipelines() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let mut stream = tcp(to);
        let query = |port| append_to_url("/announce", &peer(1, port, 5).to_query());
        for port in 1001..1004 {
            stream.write_all(&get(&query(port), "")).expect("sends");
            let (head, body) = read(&mut stream);
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nDate: "), "{head}");
            assert_eq!(announced(&body).incomplete, Some(u32::from(port) - 1000));
        }
        // Two thousand at once, more than are answered before their answers are taken; the last is for the API.
        let sender = stream.try_clone().expect("cloned");
        let requests: Vec<u8> =
            (1..2000).flat_map(|port| get(&query(port), "")).chain(get("/health", "")).collect();
        let sending = std::thread::spawn(move || (&sender).write_all(&requests).expect("sends"));
        for _ in 1..2000 {
            assert!(announced(&read(&mut stream).1).incomplete.is_some_and(|incomplete| incomplete >= 3));
        }
        sending.join().expect("no panic");
        assert_eq!(read(&mut stream).1, b"ok\n");
        // And announces go on on a connection that is the API's.
        stream.write_all(&get(&query(5), "")).expect("sends");
        assert_eq!(announced(&read(&mut stream).1).incomplete, Some(1999));
    })
    .await;
}

#[tokio::test]
async fn a_request_may_come_in_pieces_and_an_old_client_is_let_go() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let target = append_to_url("/announce", &peer(1, 1001, 5).to_query());
        let mut stream = tcp(to);
        stream.set_nodelay(true).expect("set");
        let request = get(&target, "X-Long: x\r\n");
        for part in request.chunks(7) {
            stream.write_all(part).expect("sends");
            std::thread::yield_now();
        }
        assert_eq!(announced(&read(&mut stream).1).incomplete, Some(1));
        let mut stream = tcp(to);
        stream.write_all(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes()).expect("sends");
        let (head, _) = read(&mut stream);
        assert!(head.contains("Connection: close"), "{head}");
        assert_eq!(stream.read(&mut [0]).expect("closes"), 0);
        let mut stream = tcp(to);
        stream
            .write_all(format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").as_bytes())
            .expect("sends");
        assert!(read(&mut stream).0.contains("Connection: keep-alive"));
        stream.write_all(b"nonsense\r\n\r\n").expect("sends");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("closes");
        assert!(rest.starts_with(b"HTTP/1.1 400"), "{}", rest.escape_ascii());
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_request_does_not_withhold_its_answer() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let mut stream = tcp(to);
        for next in ["\r\n", "GET /heal"] {
            // Nothing more is sent before the answer is there.
            stream.write_all(&[&get("/health", ""), next.as_bytes()].concat()).expect("sends");
            assert!(read(&mut stream).0.starts_with("HTTP/1.1 200"), "{next:?}");
        }
        stream.write_all(b"th HTTP/1.1\r\n\r\n").expect("sends");
        assert_eq!(read(&mut stream).1, b"ok\n");
    })
    .await;
}

#[tokio::test]
async fn broken_requests_are_told_so_and_not_just_cut_off() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let lines = "X-A: 1234567890\r\n";
        for (status, request) in [
            (400, get("/health", "X: \0\r\n")),
            (400, b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec()),
            (400, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".repeat(40)),
            (431, get("/health", &lines.repeat(200))),
            (431, get("/health", &lines.repeat(5000))),
            (431, get("/announce", &lines.repeat(5000))),
            (431, [b"POST /x HTTP/1.1\r\n".to_vec(), lines.repeat(5000).into_bytes()].concat()),
        ] {
            let mut stream = tcp(to);
            let mut copy = stream.try_clone().expect("cloned");
            // The tracker answers before it has read all.
            let sender = std::thread::spawn(move || copy.write_all(&request));
            let (head, _) = read(&mut stream);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert_eq!(stream.read(&mut [0]).expect("closes in order"), 0, "{head}");
            sender.join().expect("no panic").expect("is listened to");
        }
    })
    .await;
}

#[tokio::test]
async fn half_requests_give_way_when_there_is_no_room() {
    let config = Config { max_connections: 3, workers: 1, ..config(Ipv4Addr::LOCALHOST) };
    let (_tracker, to) = start(config).await;
    with(move || {
        let target = append_to_url("/announce", &peer(1, 1001, 5).to_query());
        let mut served = tcp(to);
        served.write_all(&get(&target, "")).expect("sends");
        read(&mut served);
        let mut half: Vec<_> = (0..2).map(|_| tcp(to)).collect();
        half[0].write_all(b"GET /announce?info").expect("sends");
        half[1].write_all(b"POST /v1/x HTTP/1.1\r\nX: ").expect("sends");
        let mut new = Vec::new();
        for half in &mut half {
            let mut stream = tcp(to);
            stream.write_all(&get(&target, "")).expect("sends");
            assert_eq!(announced(&read(&mut stream).1).incomplete, Some(1));
            new.push(stream);
            assert!(matches!(half.read(&mut [0]), Ok(0) | Err(_)), "the oldest goes first");
        }
        for stream in new.iter_mut().chain([&mut served]) {
            stream.write_all(&get("/health", "")).expect("sends");
            assert_eq!(read(stream).1, b"ok\n", "whoever was answered stays");
        }
        let mut metrics = served;
        metrics.write_all(&get("/metrics", "")).expect("sends");
        let text = String::from_utf8(read(&mut metrics).1).expect("text");
        assert!(text.contains(r#"protocol="http",family="ipv4",fault="busy"} 2"#), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_stands_idle_is_closed() {
    let (_tracker, to) = start(Config { idle_timeout: 1, ..config(Ipv4Addr::LOCALHOST) }).await;
    with(move || {
        let mut stream = tcp(to);
        let target = append_to_url("/announce", &peer(1, 1001, 5).to_query());
        stream.write_all(&get(&target, "")).expect("sends");
        read(&mut stream);
        assert_eq!(stream.read(&mut [0]).expect("closes"), 0);
    })
    .await;
}

#[tokio::test]
async fn beyond_the_most_connections_idle_ones_give_way() {
    let (_tracker, to) = start(Config { max_connections: 2, ..config(Ipv4Addr::LOCALHOST) }).await;
    with(move || {
        let target = append_to_url("/announce", &peer(1, 1001, 5).to_query());
        let mut open = [tcp(to), tcp(to)];
        for stream in &mut open {
            stream.write_all(&get(&target, "")).expect("sends");
            read(stream);
        }
        // At once, or when the thread that has them looks.
        let again = (0..200).any(|_| {
            let mut stream = tcp(to);
            let sent = stream.write_all(&get(&target, ""));
            let served = sent.is_ok() && stream.read(&mut [0]).is_ok_and(|length| length == 1);
            if !served {
                std::thread::sleep(Duration::from_millis(10));
            }
            served
        });
        assert!(again);
        let ended = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
            match stream.read(&mut [0]) {
                Ok(read) => read == 0,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            }
        };
        assert!(open.iter_mut().any(ended), "nobody has given way");
    })
    .await;
}

#[tokio::test]
async fn peers_come_as_dictionaries_to_who_asks_for_them() {
    for peer_ids in [false, true] {
        let (_tracker, to) = start(Config { peer_ids, ..config(Ipv4Addr::LOCALHOST) }).await;
        with(move || {
            http(to, &peer(1, 65, 5));
            let plain = AnnounceRequest { compact: Some(false), ..peer(1, 66, 5) };
            let found = http(to, &plain);
            assert_eq!(addresses(&found), ["127.0.0.1:65"]);
            assert_eq!(found.peers[0].id, peer_ids.then(|| peer(1, 65, 5).peer_id));
            let short = http(to, &AnnounceRequest { no_peer_id: true, ..plain });
            assert_eq!((short.peers.len(), short.peers[0].id), (1, None));
        })
        .await;
    }
}

#[tokio::test]
async fn partial_seeds_are_counted_apart() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        http(to, &AnnounceRequest { event: Event::Paused, ..peer(1, 1001, 5) });
        http(to, &peer(1, 1002, 5));
        let mut stream = tcp(to);
        let scrape =
            ScrapeRequest { info_hashes: vec![InfoHash::from_bytes([1; 20]), InfoHash::from_bytes([2; 20])] };
        stream.write_all(&get(&append_to_url("/scrape", &scrape.to_query()), "")).expect("sends");
        let (_, body) = read(&mut stream);
        let Ok(Reply::Ok(scraped)) = ScrapeResponse::parse(&body) else { panic!("{}", body.escape_ascii()) };
        let stats = ScrapeStats { incomplete: 2, downloaders: Some(1), ..ScrapeStats::default() };
        assert_eq!(scraped.files, [(InfoHash::from_bytes([1; 20]), stats)]);
    })
    .await;
}

#[tokio::test]
async fn a_full_scrape_is_for_those_who_turned_it_on() {
    for full_scrape in [false, true] {
        let (_tracker, to) = start(Config { full_scrape, ..config(Ipv4Addr::LOCALHOST) }).await;
        with(move || {
            for torrent in 1..=100 {
                http(to, &peer(torrent, 1001, 5));
            }
            let mut stream = tcp(to);
            stream
                .write_all(&get("/scrape", "Accept-Encoding: gzip\r\nConnection: close\r\n"))
                .expect("sends");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("reads");
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
            let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
            if full_scrape {
                assert!(text.contains("content-encoding: gzip"), "{text}");
            } else {
                assert!(answer[head..].starts_with(b"\r\n\r\nd14:failure reason"), "{text}");
            }
            // Not compressed for who did not ask for that; one at a time, so that this may have to wait.
            let answer = loop {
                let mut stream = tcp(to);
                stream.write_all(&get("/scrape", "Connection: close\r\n")).expect("sends");
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).expect("reads");
                if !answer.windows(13).any(|part| part == b"another full ") {
                    break answer;
                }
                std::thread::yield_now();
            };
            let files = answer
                .windows(20)
                .filter(|window| window.iter().all(|byte| (1..=100).contains(byte) && *byte == window[0]))
                .count();
            assert_eq!(files > 50, full_scrape);
        })
        .await;
    }
}

#[tokio::test]
async fn statistics_are_for_people_and_for_scripts() {
    let (_tracker, to) = start(config(Ipv4Addr::LOCALHOST)).await;
    with(move || {
        let udp = Udp::connect(to);
        for port in 1001..1004 {
            udp.announce(&udp_peer(1, port, 5));
        }
        http(to, &peer(2, 1001, 0));
        let mut stream = tcp(to);
        stream.write_all(&get("/stats.json", "")).expect("sends");
        let stats: serde_json::Value = serde_json::from_slice(&read(&mut stream).1).expect("JSON");
        assert_eq!((stats["torrents"].as_u64(), stats["peers"].as_u64()), (Some(2), Some(4)));
        assert_eq!((stats["ipv4"]["seeds"].as_u64(), stats["ipv4"]["leechers"].as_u64()), (Some(1), Some(3)));
        assert_eq!(stats["top"][0]["info_hash"], InfoHash::from_bytes([1; 20]).to_string());
        assert_eq!(stats["top"][0]["ipv4"], 3);
        let of = |protocol: &str| {
            let requests = stats["requests"].as_array().expect("a list").iter();
            let mut of = requests.filter(|one| one["protocol"] == protocol && one["family"] == "ipv4");
            of.next().expect("there")["announces"].as_u64()
        };
        assert_eq!((of("udp"), of("http")), (Some(3), Some(1)));
        stream.write_all(&get("/stats?top=1", "")).expect("sends");
        let text = String::from_utf8(read(&mut stream).1).expect("text");
        assert!(
            text.contains("2 torrents, 4 peers") && text.contains("udp ipv4: 1 connects, 3 announces"),
            "{text}"
        );
        assert!(text.ends_with(&format!("0 3 0 3 0 {}\n", InfoHash::from_bytes([1; 20]))), "{text}");
    })
    .await;
}

#[tokio::test]
async fn keys_come_by_path_and_by_option_and_refusals_say_when_to_come_back() {
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(list.path(), "k1 the fleet's\n").expect("written");
    let (tracker, to) =
        start(Config { keys: Some(list.path().to_owned()), ..config(Ipv4Addr::LOCALHOST) }).await;
    with(move || {
        let mut stream = tcp(to);
        stream
            .write_all(&get(&append_to_url("/k1/announce", &peer(1, 1000, 5).to_query()), ""))
            .expect("sends");
        read(&mut stream);
        let mut say = |path: &str| {
            stream.write_all(&get(&append_to_url(path, &peer(1, 1001, 5).to_query()), "")).expect("sends");
            AnnounceResponse::parse(&read(&mut stream).1).expect("bencode")
        };
        for path in ["/k1/announce", "/announce/k1"] {
            let Reply::Ok(response) = say(path) else { panic!("refused") };
            assert_eq!(addresses(&response), ["127.0.0.1:1000"]);
        }
        for path in ["/announce", "/k2/announce"] {
            let Reply::Failure { reason, retry_in } = say(path) else { panic!("taken") };
            assert!(reason.contains("wants a key"), "{reason}");
            assert_eq!(retry_in, Some(announce::RetryIn::After(Duration::from_secs(900))));
        }
        let udp = Udp::connect(to);
        let mut packet = udp.packet(&udp_peer(1, 1002, 5));
        assert!(matches!(udp.ask(&packet), Got::Error(reason) if reason.contains("wants a key")));
        encode_url_data(b"/announce/k1?x=y", &mut packet);
        assert!(matches!(udp.ask(&packet), Got::Announced(_, _, peers) if peers.len() == 12));
    })
    .await;
    tracker.shutdown().await;
}

#[tokio::test]
async fn without_udp_only_tcp_is_bound() {
    let (tracker, to) = start(Config { udp: false, ..config(Ipv4Addr::LOCALHOST) }).await;
    assert!(UdpSocket::bind(to).is_ok());
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_answer_comes_also_to_a_client_that_has_sent_more() {
    let tracker = Tracker::start(Config { listen: vec![support::local().into()], ..Config::default() })
        .await
        .expect("starts");
    let address = tracker.local_addr().expect("bound");
    with(move || {
        let request = |fields: &str| get(&target(&peer(1, 1, 1)), &format!("Connection: close\r\n{fields}"));
        // As much as is read by one call, so that what is behind it stays unread.
        let room = 16 * 1024 - request("X: \r\n").len();
        let long = request(&format!("X: {}\r\n", "x".repeat(room)));
        for _ in 0..20 {
            let mut stream = tcp(address);
            stream.write_all(&[&long[..], &[b'x'; 1000]].concat()).expect("sends");
            assert!(read(&mut stream).0.starts_with("HTTP/1.1 200"));
            let mut stream = tcp(address);
            stream.set_nodelay(true).expect("set");
            stream.write_all(&request("")).expect("sends");
            let _ = stream.write_all(b"\r\n");
            assert!(read(&mut stream).0.starts_with("HTTP/1.1 200"));
        }
    })
    .await;
}
