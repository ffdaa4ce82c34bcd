//! The ways in: HTTPS, unix sockets, proxies that say for whom they come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use support::{WAIT, get, local, peer, read, reply, target, tcp, with};
use tempfile::TempDir;
use tracker::{Config, Endpoint, Listen, Network, Tracker};

/// Trusts this machine as a proxy.
fn behind_a_proxy() -> Config {
    Config { listen: vec![local().into()], trusted_proxies: vec![Network::LOOPBACK_V4], ..Config::default() }
}

fn https(tracker: &Tracker) -> SocketAddr {
    let found = tracker.endpoints().iter().find_map(|endpoint| match endpoint {
        Endpoint::Https(address) => Some(*address),
        _ => None,
    });
    found.expect("an address for HTTPS")
}

fn announce(torrent: u8, port: u16, fields: &str) -> Vec<u8> {
    get(&target(&peer(torrent, port, 5)), fields)
}

/// The addresses that an announce is answered, or why it is refused.
fn peers(stream: &mut impl Read) -> Result<Vec<String>, String> {
    let response = reply(&read(stream).1)?;
    Ok(response.peers.iter().map(|peer| peer.addr.to_string()).collect())
}

fn ask(mut stream: impl Read + Write, bytes: &[u8]) -> Result<Vec<String>, String> {
    stream.write_all(bytes).expect("sends");
    peers(&mut stream)
}

/// The value of a line of the metrics that begins so.
fn metric(to: SocketAddr, line: &str) -> u64 {
    let mut stream = tcp(to);
    stream.write_all(&get("/metrics", "Connection: close\r\n")).expect("sends");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let value = text.lines().find_map(|found| found.strip_prefix("longshore_tracker_")?.strip_prefix(line));
    value.unwrap_or_else(|| panic!("{line} in\n{text}")).trim().parse().expect("a number")
}

/// A certificate and its key in a folder, made anew each time.
struct Certificate {
    folder: TempDir,
    made: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut certificate = Self { folder, made: CertificateDer::from(Vec::new()) };
        certificate.renew();
        certificate
    }

    fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        fs::write(self.path("certificate.pem"), made.cert.pem()).expect("written");
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).expect("written");
        self.made = made.cert.der().clone();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> Config {
        Config {
            listen: vec![local().into()],
            tls_listen: vec![local()],
            tls_certificate: Some(self.path("certificate.pem")),
            tls_key: Some(self.path("key.pem")),
            ..Config::default()
        }
    }

    fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.made.clone()).expect("a certificate");
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn tls(client: ClientConfig, stream: TcpStream) -> Tls {
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::new(client), name).expect("a client"), stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_answers_all_that_http_does_from_the_same_peers() {
    let certificate = Certificate::new();
    let tracker = Tracker::start(certificate.config()).await.expect("starts");
    let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
    let client = certificate.client();
    with(move || {
        let connect = || tls(client.clone(), tcp(secure));
        let mut first = connect();
        assert_eq!(ask(&mut first, &announce(1, 1001, "")), Ok(vec![]));
        assert_eq!(ask(tcp(plain), &announce(1, 1002, "")), Ok(vec!["127.0.0.1:1001".to_owned()]));
        // The same connection goes on, with several requests in one write, and one in pieces.
        first
            .write_all(&[announce(2, 1, ""), announce(2, 2, ""), get("/scrape?info_hash=x", "")].concat())
            .unwrap();
        assert_eq!((peers(&mut first), peers(&mut first)), (Ok(vec![]), Ok(vec!["127.0.0.1:1".to_owned()])));
        assert!(read(&mut first).1.starts_with(b"d14:failure reason"));
        for byte in announce(1, 1003, "") {
            first.write_all(&[byte]).unwrap();
            first.flush().unwrap();
        }
        assert_eq!(peers(&mut first).map(|peers| peers.len()), Ok(2));
        // What is no announce goes to the API, and announces behind it still get their answer.
        for (target, begins) in [("/health", "ok"), ("/", "<!doctype html>"), ("/stats", "longshore tracker")]
        {
            first.write_all(&get(target, "")).unwrap();
            let (head, body) = read(&mut first);
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let body = String::from_utf8(body).expect("text");
            assert!(body.starts_with(begins), "{body}");
            assert!(target != "/stats" || body.contains("https ipv4: 1 connects, 4 announces"), "{body}");
        }
        assert_eq!(ask(&mut first, &announce(1, 1004, "")).map(|peers| peers.len()), Ok(3));
        // The last answer comes whole, and the end of TLS behind it.
        let mut last = connect();
        last.write_all(&announce(3, 1, "Connection: close\r\n")).unwrap();
        assert_eq!(peers(&mut last), Ok(vec![]));
        assert_eq!(last.read(&mut [0]).expect("a proper end"), 0);
        // Bounds are those of HTTP.
        let mut long = connect();
        let head = get(&format!("/announce?{}", "x".repeat(40_000)), "");
        let _ = long.write_all(&head[..head.len() - 4]);
        let mut status = [0; 12];
        long.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 431");
        let mut broken = connect();
        broken.write_all(b"nonsense\r\n\r\n").unwrap();
        assert!(read(&mut broken).0.starts_with("HTTP/1.1 400"));
        let label =
            |rest: &str| format!("{{listener=\"{secure}\",protocol=\"https\",family=\"ipv4\"{rest}}}");
        // What the API answered is counted for the listener that it came to.
        assert_eq!(metric(plain, &format!("announces_total{}", label(",outcome=\"added\""))), 6);
        assert_eq!(metric(plain, &format!("connects_total{}", label(""))), 4);
        assert_eq!(metric(plain, &format!("faults_total{}", label(",fault=\"too_long\""))), 1);
    })
    .await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_brings_the_new_certificate_and_a_broken_one_changes_nothing() {
    let mut certificate = Certificate::new();
    let config = certificate.config();
    let mut tracker = Tracker::start(config.clone()).await.expect("starts");
    let secure = https(&tracker);
    let old = certificate.client();
    let mut held = tls(old.clone(), tcp(secure));
    let mut held = with(move || {
        assert_eq!(ask(&mut held, &announce(1, 1, "")), Ok(vec![]));
        held
    })
    .await;

    let key = fs::read(certificate.path("key.pem")).expect("there");
    certificate.renew();
    let new_key = fs::read(certificate.path("key.pem")).expect("there");
    for (broken, words) in
        [(&key[..], "the key is not the certificate's"), (&new_key[..50], "it is not PEM: it ends in")]
    {
        fs::write(certificate.path("key.pem"), broken).expect("written");
        let interval = Config { interval: 300, ..config.clone() };
        let error = tracker.reload(&interval).expect_err(words).to_string();
        assert!(error.contains(words) && error.contains("key.pem"), "{error}");
    }
    let none = Config { tls_certificate: None, tls_key: None, tls_listen: Vec::new(), ..config.clone() };
    let error = tracker.reload(&none).expect_err("HTTPS is served").to_string();
    assert!(error.contains("tls_certificate"), "{error}");
    let again = old.clone();
    let found = with(move || ask(tls(again, tcp(secure)), &announce(1, 2, ""))).await;
    assert_eq!(found.map(|peers| peers.len()), Ok(1));

    fs::write(certificate.path("key.pem"), &new_key).expect("written");
    assert_eq!(tracker.reload(&config).expect("good"), Vec::<&str>::new());
    let new = certificate.client();
    with(move || {
        assert_eq!(ask(&mut held, &announce(1, 3, "")).map(|peers| peers.len()), Ok(2), "held all along");
        assert_eq!(ask(tls(new, tcp(secure)), &announce(1, 4, "")).map(|peers| peers.len()), Ok(3));
        // A client of its own, which knows no ticket of the old one.
        let refused = tls(old, tcp(secure)).write_all(&announce(1, 5, "")).expect_err("another certificate");
        assert_eq!(refused.kind(), ErrorKind::InvalidData, "{refused}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_no_tls_is_closed_and_counted_and_a_place_is_given_back() {
    let certificate = Certificate::new();
    let config = Config { max_connections: 1, idle_timeout: 1, ..certificate.config() };
    let tracker = Tracker::start(config).await.expect("starts");
    let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
    let client = certificate.client();
    with(move || {
        let mut stream = tcp(secure);
        stream.write_all(&get("/announce", "")).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(!all.starts_with(b"HTTP"), "{}", all.escape_ascii());
        drop(stream);
        // One place for all: it is free again, and taken until its holder has stood idle for long enough. One newcomer
        // may wait for it.
        let mut holder = connect_until_there_is_room(&client, secure);
        let [waiting, mut crowd] = [tcp(secure), tcp(secure)];
        assert_eq!(crowd.read(&mut [0]).expect("closed"), 0);
        assert_eq!(holder.read(&mut [0]).expect("closed properly"), 0, "idle");
        drop((holder, waiting));
        drop(connect_until_there_is_room(&client, secure));
    })
    .await;
    let count = move |fault: &str| {
        let line = format!("{{listener=\"{secure}\",protocol=\"https\",family=\"ipv4\",fault=\"{fault}\"}}");
        metric_when_there_is_room(plain, &format!("faults_total{line}"))
    };
    let counts = with(move || (count("handshake"), count("busy"))).await;
    assert!(counts.0 == 1 && counts.1 >= 1, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_opened_and_left_take_a_quarter_of_the_places_at_most() {
    let certificate = Certificate::new();
    let tracker =
        Tracker::start(Config { max_connections: 8, ..certificate.config() }).await.expect("starts");
    let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
    let client = certificate.client();
    with(move || {
        // Those that were answered count no more.
        let served: Vec<_> = (0..3).map(|_| connect_until_there_is_room(&client, secure)).collect();
        let silent = [tcp(secure), tcp(secure)];
        assert_eq!(tcp(secure).read(&mut [0]).expect("closed"), 0);
        let line = format!("{{listener=\"{secure}\",protocol=\"https\",family=\"ipv4\",fault=\"busy\"}}");
        assert_eq!(metric(plain, &format!("faults_total{line}")), 1);
        drop(silent);
        drop(connect_until_there_is_room(&client, secure));
        drop(served);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_http_and_https_make_room_for_one_anothers_newcomers() {
    let certificate = Certificate::new();
    let tracker =
        Tracker::start(Config { max_connections: 2, ..certificate.config() }).await.expect("starts");
    let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
    let client = certificate.client();
    with(move || {
        let mut first = connect_until_there_is_room(&client, secure);
        std::thread::sleep(Duration::from_millis(1100));
        let others = [(); 2].map(|()| {
            let mut stream = tcp(plain);
            assert!(ask(&mut stream, &announce(1, 1, "")).is_ok());
            stream
        });
        assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)), "it was idle for longest");
        // A worker is told to make room.
        std::thread::sleep(Duration::from_millis(1100));
        assert!(ask(tls(client, tcp(secure)), &announce(1, 2, "")).is_ok());
        let ended = others.map(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
            matches!(stream.read(&mut [0]), Ok(0))
        });
        assert!(ended.contains(&true));
    })
    .await;
}

/// A connection that has been answered. The place of the last may not be free at once.
fn connect_until_there_is_room(client: &ClientConfig, to: SocketAddr) -> Tls {
    for _ in 0..2000 {
        let mut stream = tls(client.clone(), tcp(to));
        if stream.write_all(&announce(1, 1, "")).is_ok() && stream.flush().is_ok() {
            let mut one = [0];
            if stream.read(&mut one).is_ok_and(|length| length == 1) {
                let mut rest = [0; 4096];
                assert!(stream.read(&mut rest).expect("the rest") > 0);
                return stream;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no place is given back");
}

fn metric_when_there_is_room(to: SocketAddr, line: &str) -> u64 {
    for _ in 0..2000 {
        let mut stream = tcp(to);
        let _ = stream.write_all(&get("/metrics", "Connection: close\r\n"));
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        if text.starts_with("HTTP/1.1 200") {
            let value =
                text.lines().find_map(|found| found.strip_prefix("longshore_tracker_")?.strip_prefix(line));
            return value.expect("counted").trim().parse().expect("a number");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no place is given back");
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connects");
    stream.set_read_timeout(Some(WAIT)).expect("set");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_a_proxys_which_must_say_for_whom_it_asks() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let config = Config {
        listen: vec![local().into(), Listen::Unix(path.clone())],
        real_ip_header: "X-Forwarded-For".to_owned(),
        stats_from: vec!["192.0.2.0/24".parse().expect("a network"), Network::LOOPBACK_V4],
        ..Config::default()
    };
    let tracker = Tracker::start(config).await.expect("starts");
    let plain = tracker.local_addr().expect("bound");
    let names: Vec<String> = tracker.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(names.last(), Some(&format!("unix:{}", path.display())));
    let at = path.clone();
    with(move || {
        let path = at;
        let said = |ip: &str| format!("X-Forwarded-For: {ip}\r\n");
        let mut stream = unix(&path);
        assert_eq!(ask(&mut stream, &announce(1, 1, &said("192.0.2.1"))), Ok(vec![]));
        let second = ask(&mut stream, &announce(1, 2, &said("6.6.6.6, 2001:db8::1")));
        assert_eq!(second, Ok(vec!["192.0.2.1:1".to_owned()]));
        // An address that the peer gives itself is no better than none.
        let unsaid = announce(1, 3, "").escape_ascii().to_string();
        let claimed = unsaid.replace("port=", "ip=10.1.1.1&port=").replace("\\r\\n", "\r\n");
        for bytes in [announce(1, 3, ""), claimed.into_bytes()] {
            let refused = ask(&mut stream, &bytes).expect_err("nobody's");
            assert!(refused.contains("real_ip_header"), "{refused}");
        }
        // The API has the client too.
        for (ip, status) in [("192.0.2.7", "200"), ("203.0.113.1", "403"), ("nonsense", "403")] {
            let mut stream = unix(&path);
            stream.write_all(&get("/stats", &said(ip))).unwrap();
            assert_eq!(&read(&mut stream).0[9..12], status, "{ip}");
        }
        let mut stream = unix(&path);
        stream.write_all(&get("/health", "")).unwrap();
        assert_eq!(read(&mut stream).1, b"ok\n");
        let label = |family: &str, rest: &str| {
            format!("{{listener=\"unix:{}\",protocol=\"http\",family=\"{family}\"{rest}}}", path.display())
        };
        assert_eq!(metric(plain, &format!("connects_total{}", label("unix", ""))), 5);
        assert_eq!(metric(plain, &format!("announces_total{}", label("ipv6", ",outcome=\"added\""))), 1);
        assert_eq!(metric(plain, &format!("faults_total{}", label("unix", ",fault=\"proxy\""))), 2);
    })
    .await;
    assert!(fs::metadata(&path).expect("there").file_type().is_socket());
    let again = Config { listen: vec![Listen::Unix(path.clone())], ..Config::default() };
    let error = Tracker::start(again.clone()).await.expect_err("in use").to_string();
    assert!(error.contains("another process listens") && error.contains("http.sock"), "{error}");
    tracker.shutdown().await;
    assert!(!path.exists(), "removed at the end");
    Tracker::start(again).await.expect("free").shutdown().await;
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("fits").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_says_first_for_whom_it_comes() {
    let certificate = Certificate::new();
    let proxied = Config { proxy_protocol: true, ..behind_a_proxy() };
    let config =
        Config { trusted_proxies: proxied.trusted_proxies, proxy_protocol: true, ..certificate.config() };
    let tracker = Tracker::start(Config { ip_from: Vec::new(), ..config }).await.expect("starts");
    let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
    let client = certificate.client();
    with(move || {
        let tcp6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 20]].concat();
        let prefaces = [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP6 2001:db8::5 ::1 1 2\r\n".to_vec(),
            v2(0x21, 0x11, &[192, 0, 2, 2, 10, 0, 0, 1, 0, 1, 0, 2]),
            v2(0x21, 0x21, &tcp6),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x20, 0, b""),
        ];
        for (port, preface) in (1..).zip(&prefaces) {
            // Together with the request; byte by byte; before TLS.
            assert!(ask(tcp(plain), &[preface, &announce(1, port, "")[..]].concat()).is_ok());
            let mut stream = tcp(plain);
            for byte in preface {
                stream.write_all(&[*byte]).unwrap();
            }
            assert!(ask(stream, &announce(2, port, "")).is_ok());
            let mut stream = tcp(secure);
            stream.write_all(preface).unwrap();
            assert!(ask(tls(client.clone(), stream), &announce(3, port, "")).is_ok());
        }
        let wanted = [
            "127.0.0.1:5",
            "127.0.0.1:6",
            "192.0.2.1:1",
            "192.0.2.2:3",
            "[2001:db8::5]:2",
            "[2001:db8::9]:4",
        ];
        for torrent in [1, 2, 3] {
            let asked = [b"PROXY UNKNOWN\r\n", &announce(torrent, 99, "")[..]].concat();
            let mut found = ask(tcp(plain), &asked).expect("answered");
            found.sort();
            assert_eq!(found, wanted);
        }
        // The API behind it, too.
        let mut stream = tcp(plain);
        stream.write_all(&[&prefaces[0][..], &get("/health", "")].concat()).unwrap();
        assert_eq!(read(&mut stream).1, b"ok\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_prefaces_are_closed_and_counted() {
    let certificate = Certificate::new();
    let trusted_proxies = vec![Network::LOOPBACK_V4];
    let config = Config { trusted_proxies, proxy_protocol: true, ..certificate.config() };
    let mut tracker = Tracker::start(config.clone()).await.expect("starts");
    let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
    let hostile = || {
        [
            announce(1, 1, ""),
            b"PROXY TCP4 1.1.1.1 nonsense 1 2\r\n".to_vec(),
            [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
            v2(0x21, 0x11, b"short"),
            v2(0x2f, 0x11, &[0; 12]),
            v2(0x20, 0, &[0; 60_000])[..16].to_vec(),
            // From where nobody is.
            [b"PROXY TCP4 0.0.0.0 1.1.1.1 1 2\r\n", &announce(1, 1, "")[..]].concat(),
            [v2(0x21, 0x11, &[224, 0, 0, 1, 10, 0, 0, 1, 0, 1, 0, 2]), announce(1, 1, "")].concat(),
        ]
    };
    let count = with(move || {
        for bytes in hostile() {
            for to in [plain, secure] {
                let mut stream = tcp(to);
                let _ = stream.write_all(&bytes);
                let mut answer = Vec::new();
                // Closed, or reset where it had sent more.
                let _ = stream.read_to_end(&mut answer);
                assert_eq!(answer, b"", "{}", bytes.escape_ascii());
            }
        }
        // One that goes away in the middle.
        tcp(secure).write_all(b"PROXY TC").unwrap();
        hostile().len() as u64
    })
    .await;
    // From now on this machine is no proxy: it may not say so, and asks as itself.
    tracker.reload(&Config { trusted_proxies: Vec::new(), ..config }).expect("good");
    with(move || {
        for preface in [b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), v2(0x21, 0x11, &[7; 12])] {
            let mut stream = tcp(plain);
            stream.write_all(&[&preface[..], &announce(7, 1, "")].concat()).unwrap();
            assert!(read(&mut stream).0.starts_with("HTTP/1.1 400"));
        }
        assert_eq!(ask(tcp(plain), &announce(7, 2, "")), Ok(vec![]));
        let line = |to, protocol| {
            format!(
                "faults_total{{listener=\"{to}\",protocol=\"{protocol}\",family=\"ipv4\",fault=\"proxy\"}}"
            )
        };
        assert_eq!(metric(plain, &line(plain, "http")), count + 2);
        assert_eq!(metric(plain, &line(secure, "https")), count);
    })
    .await;
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_named() {
    let start = async |config| Tracker::start(config).await.expect_err("refused").to_string();
    let nowhere = Config { listen: Vec::new(), ..Config::default() };
    assert!(start(nowhere).await.contains("`listen` is empty"));
    let proxies = Config { listen: vec![local().into()], proxy_protocol: true, ..Config::default() };
    assert!(start(proxies).await.contains("`trusted_proxies`"));
    let certificate = Certificate::new();
    let missing = Config { tls_key: Some("/nonexistent/key.pem".into()), ..certificate.config() };
    let error = start(missing).await;
    assert!(error.contains("/nonexistent/key.pem"), "{error}");
}

#[test]
fn one_host_has_few_places_for_connections_of_https_that_say_nothing() {
    // On loopback hosts are not told apart.
    let Some(network) = interop::Network::new(1, false) else { return };
    let place = network.host(0);
    place.inside(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let certificate = Certificate::new();
            let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
            let config =
                Config { tls_listen: vec![everywhere], max_connections_per_host: 64, ..certificate.config() };
            let tracker = Tracker::start(config).await.expect("starts");
            let (plain, secure) = (tracker.local_addr().expect("bound"), https(&tracker));
            let ip = place.ip;
            with(move || {
                // A sixteenth of what the host may have in all.
                let silent: Vec<TcpStream> = (0..4).map(|_| tcp((ip, secure.port()).into())).collect();
                let mut more = tcp((ip, secure.port()).into());
                let closed = match more.read(&mut [0]) {
                    Ok(length) => length == 0,
                    Err(error) => error.kind() == ErrorKind::ConnectionReset,
                };
                assert!(closed, "one too many");
                let crowd = format!(
                    "faults_total{{listener=\"{secure}\",protocol=\"https\",family=\"ipv4\",fault=\"crowd\"}}"
                );
                assert_eq!(metric(plain, &crowd), 1);
                drop(silent);
            })
            .await;
            tracker.shutdown().await;
        });
    });
}
