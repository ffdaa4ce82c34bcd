//! The client against a registry that misbehaves on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hash::Digest;
use longshore_origin::{
    Cause, Credentials, Listing, Origin, OriginConfig, OriginError, Patience, Repository, Rights, Secret,
    Target, Upstream,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// One request as it came: its first line's path, its headers in lower case, and its body.
#[derive(Debug, Clone)]
struct Asked {
    number: usize,
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What goes back: raw bytes, then the connection is closed, or held open and silent.
struct Reply {
    bytes: Vec<u8>,
    hang: bool,
}

fn reply(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    Reply { bytes: [head.as_bytes(), body].concat(), hang: false }
}

/// A server whose every byte is chosen by the test: a well-behaved one could not cut bodies.
struct Server {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(behave: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, behave, count) = (asked.clone(), Arc::new(behave), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, behave, count) = (log.clone(), behave.clone(), count.clone());
                tokio::spawn(async move {
                    serve(stream, &log, &*behave, &count).await;
                });
            }
        });
        Self { addr, asked }
    }

    fn repository(&self) -> Repository {
        Repository::new(&self.addr.to_string(), "org/app").unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    behave: &(dyn Fn(&Asked) -> Reply + Send + Sync),
    count: &AtomicUsize,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    let asked = Asked {
        number: count.fetch_add(1, Ordering::SeqCst),
        method: first.next().unwrap().to_owned(),
        path: first.next().unwrap().to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    };
    let reply = behave(&asked);
    log.lock().unwrap().push(asked);
    let _ = stream.write_all(&reply.bytes).await;
    if reply.hang {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let _ = stream.shutdown().await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

fn patience() -> Patience {
    Patience {
        connect: Duration::from_millis(500),
        first_byte: Duration::from_millis(500),
        idle: Duration::from_millis(500),
        attempts: 3,
        backoff: Duration::from_millis(1),
        backoff_limit: Duration::from_millis(1500),
        ..Patience::default()
    }
}

fn with(upstream: Upstream) -> Origin {
    let config = OriginConfig { upstreams: vec![upstream], unlisted: true, patience: patience() };
    Origin::new(&config).unwrap()
}

fn anonymous_at(registry: &str) -> Origin {
    with(Upstream { registry: registry.to_owned(), ..Upstream::default() })
}

fn anonymous(server: &Server) -> Origin {
    anonymous_at(&server.addr.to_string())
}

fn with_login(server: &Server) -> Origin {
    let credentials = Credentials {
        user: Some("alice".into()),
        password: Some(Secret::new("hunter2")),
        ..Credentials::default()
    };
    let upstream =
        Upstream { registry: server.addr.to_string(), credentials: Some(credentials), ..Upstream::default() };
    with(upstream)
}

const ALICE: &str = "Basic YWxpY2U6aHVudGVyMg==";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 % 251) as u8).collect()
}

async fn read(origin: &Origin, server: &Server, digest: &Digest, from: u64) -> Result<Vec<u8>, OriginError> {
    let mut body = origin.blob(&server.repository(), digest, from).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn range_start(asked: &Asked) -> usize {
    let range = asked.header("range").map(|range| range.trim_start_matches("bytes=").trim_end_matches('-'));
    range.map_or(0, |first| first.parse().unwrap())
}

fn tag(tag: &str) -> Target {
    Target::Tag(tag.into())
}

#[tokio::test]
async fn a_manifest_comes_with_its_type_and_digest() {
    let server = Server::start(|asked| {
        assert_eq!(asked.path, "/v2/org/app/manifests/1");
        reply("200 OK", &[("Content-Type", OCI)], b"{}")
    })
    .await;
    let manifest = anonymous(&server)
        .manifest(&server.repository(), &tag("1"), &[OCI.into(), "*/*".into()])
        .await
        .unwrap();
    assert_eq!(
        (manifest.digest, manifest.media_type.as_str(), &manifest.bytes[..]),
        (Digest::of(b"{}"), OCI, &b"{}"[..])
    );
    assert_eq!(server.asked()[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn wrong_manifest_bytes_are_refused_by_digest_and_by_header() {
    let server = Server::start(|_| {
        let digest = Digest::of(b"other").to_string();
        reply("200 OK", &[("Content-Type", OCI), ("Docker-Content-Digest", &digest)], b"{}")
    })
    .await;
    for target in [tag("1"), Target::Digest(Digest::of(b"other"))] {
        let error = anonymous(&server).manifest(&server.repository(), &target, &[]).await.unwrap_err();
        assert!(matches!(error, OriginError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(&server.repository().to_string()), "{error}");
    }
    let head =
        anonymous(&server).head_manifest(&server.repository(), &Target::Digest(Digest::of(b"{}")), &[]).await;
    assert!(matches!(head, Err(OriginError::Invalid { .. })));
}

#[tokio::test]
async fn a_manifest_above_the_bound_is_refused_without_reading_it_all() {
    let server = Server::start(|_| {
        reply("200 OK", &[("Content-Type", OCI)], &vec![b' '; longshore_origin::MANIFEST_LIMIT + 1])
    })
    .await;
    let error = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn statuses_become_their_errors_and_4xx_is_not_tried_again() {
    for (status, times) in
        [("404 Not Found", 1), ("403 Forbidden", 1), ("400 Bad Request", 1), ("500 Oops", 3), ("408 Slow", 3)]
    {
        let server = Server::start(move |_| reply(status, &[], b"")).await;
        let error = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
        let fits = match &status[..3] {
            "404" => matches!(error, OriginError::NotFound { .. }),
            "403" => matches!(error, OriginError::Denied { .. }),
            "400" => matches!(error, OriginError::Unexpected { status: 400, .. }),
            _ => matches!(error, OriginError::Unreachable { .. }),
        };
        assert!(fits, "{status}: {error}");
        assert_eq!(server.asked().len(), times, "{status}");
    }
}

#[tokio::test]
async fn a_500_followed_by_good_health_is_not_seen() {
    let server = Server::start(|asked| match asked.number {
        0 => reply("500 Oops", &[], b""),
        1 => reply("429 Busy", &[("Retry-After", "1")], b""),
        _ => reply("200 OK", &[("Content-Type", OCI)], b"{}"),
    })
    .await;
    anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_manifest_that_breaks_on_the_way_is_asked_for_again() {
    let server = Server::start(|asked| match asked.number {
        0 => reply("200 OK", &[("Content-Type", OCI), ("Content-Length", "2")], b"{"),
        _ => reply("200 OK", &[("Content-Type", OCI)], b"{}"),
    })
    .await;
    let manifest = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    assert_eq!((&manifest.bytes[..], server.asked().len()), (&b"{}"[..], 2));
}

#[tokio::test]
async fn a_retry_after_past_the_bound_is_handed_on_not_waited_for() {
    let server = Server::start(|_| reply("429 Busy", &[("Retry-After", "3600")], b"")).await;
    let error = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    let hour = Some(Duration::from_secs(3600));
    assert!(matches!(error, OriginError::Throttled { retry_after, .. } if retry_after == hour), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_unreachable() {
    let server = Server::start(|_| Reply { bytes: Vec::new(), hang: true }).await;
    let error = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = Repository::new(&nobody.to_string(), "a/b").unwrap();
    let error = anonymous_at(&nobody.to_string()).manifest(&gone, &tag("1"), &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_cut_body_is_taken_up_where_it_broke() {
    let bytes = data(300_000);
    let (digest, served) = (Digest::of(&bytes), bytes.clone());
    let server = Server::start(move |asked| {
        let first = range_start(asked);
        let rest = &served[first..];
        let length = rest.len().to_string();
        let range = format!("bytes {first}-{}/{}", served.len() - 1, served.len());
        let part = &rest[..rest.len().min(70_000)];
        if first == 0 {
            reply("200 OK", &[("Content-Length", &length)], part)
        } else {
            reply("206 Partial", &[("Content-Length", &length), ("Content-Range", &range)], part)
        }
    })
    .await;
    assert_eq!(read(&anonymous(&server), &server, &digest, 0).await.unwrap(), bytes);
    assert_eq!(
        server.asked().iter().map(range_start).collect::<Vec<_>>(),
        [0, 70_000, 140_000, 210_000, 280_000]
    );
    assert_eq!(read(&anonymous(&server), &server, &digest, 299_000).await.unwrap(), &bytes[299_000..]);
}

#[tokio::test]
async fn a_body_without_headway_ends_in_an_error() {
    let server = Server::start(|asked| match range_start(asked) {
        0 => reply("200 OK", &[("Content-Length", "1000")], &data(10)),
        10 => reply("206 Partial", &[("Content-Length", "990"), ("Content-Range", "bytes 10-999/1000")], b""),
        other => panic!("asked from {other}"),
    })
    .await;
    let error = read(&anonymous(&server), &server, &Digest::of(b""), 0).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_silent_body_is_taken_up_again() {
    let server = Server::start(|asked| match range_start(asked) {
        0 => Reply { hang: true, ..reply("200 OK", &[("Content-Length", "20")], &data(20)[..10]) },
        _ => reply("206 Partial", &[("Content-Range", "bytes 10-19/20")], &data(20)[10..]),
    })
    .await;
    assert_eq!(read(&anonymous(&server), &server, &Digest::of(b""), 0).await.unwrap(), data(20));
}

#[tokio::test]
async fn a_200_to_a_range_is_skipped_to_the_byte_asked_for() {
    let server = Server::start(|_| reply("200 OK", &[], &data(100_000))).await;
    let body = anonymous(&server).blob(&server.repository(), &Digest::of(b""), 99_990).await.unwrap();
    assert_eq!((body.size(), body.start(), body.offset()), (Some(100_000), 99_990, 99_990));
    assert_eq!(
        read(&anonymous(&server), &server, &Digest::of(b""), 99_990).await.unwrap(),
        &data(100_000)[99_990..]
    );
    let error = read(&anonymous(&server), &server, &Digest::of(b""), 100_001).await.unwrap_err();
    assert!(matches!(error, OriginError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_range_other_than_asked_for_is_refused() {
    for range in ["bytes 5-19/20", "bytes 10-20/20", "bytes 19-10/20", "nonsense"] {
        let server =
            Server::start(move |_| reply("206 Partial", &[("Content-Range", range)], &data(20)[10..])).await;
        let error = read(&anonymous(&server), &server, &Digest::of(b""), 10).await.unwrap_err();
        assert!(matches!(error, OriginError::Invalid { .. }), "{range}: {error}");
    }
}

#[tokio::test]
async fn a_416_is_an_empty_rest_at_the_end_and_an_error_past_it() {
    let server = Server::start(|_| reply("416 Range", &[("Content-Range", "bytes */20")], b"")).await;
    assert_eq!(read(&anonymous(&server), &server, &Digest::of(b""), 20).await.unwrap(), b"");
    let error = read(&anonymous(&server), &server, &Digest::of(b""), 21).await.unwrap_err();
    assert!(matches!(error, OriginError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_blob_that_changes_its_size_between_parts_is_refused() {
    let server = Server::start(|asked| match range_start(asked) {
        0 => reply("200 OK", &[("Content-Length", "20")], &data(10)),
        _ => reply("206 Partial", &[("Content-Range", "bytes 10-29/30")], &data(30)[10..]),
    })
    .await;
    let error = read(&anonymous(&server), &server, &Digest::of(b""), 0).await.unwrap_err();
    assert!(matches!(error, OriginError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_size_comes_by_head_or_by_the_first_byte() {
    let server = Server::start(|asked| match asked.method.as_str() {
        "HEAD" => reply("200 OK", &[("Content-Length", "12345")], b""),
        other => panic!("{other}"),
    })
    .await;
    assert_eq!(anonymous(&server).blob_size(&server.repository(), &Digest::of(b"")).await.unwrap(), 12345);
    let server = Server::start(|asked| match (asked.method.as_str(), asked.header("range")) {
        ("HEAD", _) => reply("403 Signed for GET", &[("Content-Length", "0")], b""),
        ("GET", Some("bytes=0-0")) => reply("206 Partial", &[("Content-Range", "bytes 0-0/777")], b"x"),
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(anonymous(&server).blob_size(&server.repository(), &Digest::of(b"")).await.unwrap(), 777);
}

/// A registry that wants a token, and its token service, on one port. Tokens are `t1`, `t2`, …
async fn token_registry(accepts: impl Fn(&str) -> bool + Send + Sync + 'static, wants_login: bool) -> Server {
    let tokens = AtomicUsize::new(0);
    Server::start(move |asked| {
        if asked.path.starts_with("/token") {
            if wants_login && asked.header("authorization") != Some(ALICE) {
                return reply("401 No", &[], b"");
            }
            let number = tokens.fetch_add(1, Ordering::SeqCst) + 1;
            return reply("200 OK", &[], format!(r#"{{"token":"t{number}","expires_in":300}}"#).as_bytes());
        }
        if asked.header("authorization").is_some_and(&accepts) {
            return reply("200 OK", &[("Content-Type", OCI)], b"{}");
        }
        let host = asked.header("host").unwrap();
        let challenge = format!(
            r#"Bearer realm="http://{host}/token?x=1",service="reg",scope="repository:org/app:pull""#
        );
        reply("401 No", &[("WWW-Authenticate", &challenge)], b"")
    })
    .await
}

#[tokio::test]
async fn an_anonymous_token_is_got_once_and_kept() {
    let server = token_registry(|a| a == "Bearer t1", false).await;
    let origin = anonymous(&server);
    for _ in 0..3 {
        origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    }
    let paths: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths.len(), 5, "{paths:?}");
    assert_eq!(paths[1], "/token?x=1&service=reg&scope=repository%3Aorg%2Fapp%3Apull");
    assert_eq!(server.asked()[1].header("authorization"), None);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    // The registry forgets its first token after one use.
    let uses = AtomicUsize::new(0);
    let server = token_registry(
        move |a| a == "Bearer t2" || (a == "Bearer t1" && uses.fetch_add(1, Ordering::SeqCst) == 0),
        false,
    )
    .await;
    let origin = anonymous(&server);
    for _ in 0..3 {
        origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    }
    let tokens = server.asked().iter().filter(|asked| asked.path.starts_with("/token")).count();
    assert_eq!(tokens, 2);
}

#[tokio::test]
async fn a_token_that_never_works_ends_in_unauthorized_with_the_challenge() {
    let server = token_registry(|_| false, false).await;
    let error = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    let OriginError::Unauthorized { challenge: Some(challenge), .. } = &error else { panic!("{error}") };
    assert!(challenge.starts_with("Bearer realm="));
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_login_goes_to_the_token_service_and_not_to_the_registry() {
    let server = token_registry(|a| a == "Bearer t1", true).await;
    with_login(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    for asked in server.asked() {
        let expected = match asked.number {
            0 => None,
            1 => Some(ALICE),
            _ => Some("Bearer t1"),
        };
        assert_eq!(asked.header("authorization"), expected, "{}", asked.path);
    }
    let error = anonymous(&server).manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn an_identity_token_of_docker_goes_to_the_token_service_in_a_form() {
    let server = Server::start(|asked| match (asked.path.as_str(), asked.header("authorization")) {
        ("/token?x=1", None) => reply("200 OK", &[], br#"{"access_token":"t1"}"#),
        (_, Some("Bearer t1")) => reply("200 OK", &[("Content-Type", OCI)], b"{}"),
        _ => {
            let host = asked.header("host").unwrap();
            let challenge = format!(r#"Bearer realm="http://{host}/token?x=1",service="reg",scope="a b""#);
            reply("401 No", &[("WWW-Authenticate", &challenge)], b"")
        }
    })
    .await;
    let registry = server.addr.to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    let auths = format!(r#"{{"auths":{{"{registry}":{{"identitytoken":"hunter&2"}}}}}}"#);
    std::fs::write(file.path(), auths).unwrap();
    let credentials = Credentials { docker_config: Some(file.path().into()), ..Credentials::default() };
    let origin = with(Upstream { registry, credentials: Some(credentials), ..Upstream::default() });
    origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    let asked = &server.asked()[1];
    let form = "grant_type=refresh_token&client_id=longshore&refresh_token=hunter%262&service=reg&scope=a+b";
    assert_eq!((asked.method.as_str(), asked.body.as_str()), ("POST", form));
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert!(!format!("{origin:?}").contains("hunter"));
}

#[tokio::test]
async fn basic_is_answered_and_remembered_and_never_shown() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some(ALICE) => reply("200 OK", &[("Content-Type", OCI)], b"{}"),
        _ => reply("401 No", &[("WWW-Authenticate", "Basic realm=\"r\"")], b""),
    })
    .await;
    let origin = with_login(&server);
    origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap();
    assert_eq!(server.asked().len(), 3);
    let shown = format!("{origin:?} {origin:#?}");
    assert!(!shown.contains("hunter2") && !shown.contains("YWxpY2U6"), "{shown}");
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_per_request() {
    let server = Server::start(|_| reply("401 No", &[("WWW-Authenticate", "Basic realm=\"r\"")], b"")).await;
    let origin = with_login(&server);
    for requests in [2, 3] {
        let error = origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
        assert!(matches!(error, OriginError::Unauthorized { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(server.asked().len(), requests);
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_authorization() {
    let storage = Server::start(|_| reply("200 OK", &[], b"bytes")).await;
    let to = format!("http://user:pw@{}/signed?sig=abc", storage.addr);
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(ALICE) => reply("307 There", &[("Location", &to)], b""),
        _ => reply("401 No", &[("WWW-Authenticate", "Basic realm=\"r\"")], b""),
    })
    .await;
    let bytes = read(&with_login(&server), &server, &Digest::of(b"bytes"), 0).await.unwrap();
    assert_eq!(bytes, b"bytes");
    let asked = storage.asked();
    assert_eq!((asked[0].path.as_str(), asked[0].header("authorization")), ("/signed?sig=abc", None));
}

#[tokio::test]
async fn a_storage_host_cannot_ask_for_our_credentials() {
    let storage =
        Server::start(|_| reply("401 No", &[("WWW-Authenticate", "Basic realm=\"storage\"")], b"")).await;
    let to = format!("http://{}/x", storage.addr);
    let server = Server::start(move |_| reply("302 There", &[("Location", &to)], b"")).await;
    let error = read(&with_login(&server), &server, &Digest::of(b""), 0).await.unwrap_err();
    assert!(matches!(error, OriginError::Unauthorized { challenge: None, .. }), "{error}");
    assert_eq!(storage.asked().len(), 1);
    assert_eq!(storage.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn endless_and_foreign_redirects_are_refused() {
    for location in ["/again", "ftp://elsewhere/x", "http://"] {
        let server = Server::start(move |_| reply("301 There", &[("Location", location)], b"")).await;
        let error = read(&anonymous(&server), &server, &Digest::of(b""), 0).await.unwrap_err();
        assert!(matches!(error, OriginError::Invalid { .. }), "{location}: {error}");
        assert!(server.asked().len() <= 6);
    }
}

#[tokio::test]
async fn a_listing_is_passed_through_with_its_link() {
    let server = Server::start(|asked| {
        assert_eq!(asked.path, "/v2/org/app/tags/list?n=1");
        let link = "</v2/org/app/tags/list?n=1&last=a>; rel=\"next\"";
        reply("200 OK", &[("Content-Type", "application/json; charset=utf-8"), ("Link", link)], b"[1]")
    })
    .await;
    let listing = Listing::Tags(server.repository());
    let answer = anonymous(&server).listing(&listing, Some("n=1"), &[]).await.unwrap();
    assert_eq!((&answer.bytes[..], answer.media_type.as_str()), (&b"[1]"[..], "application/json"));
    assert!(answer.link.unwrap().contains("last=a"));
}

#[tokio::test]
async fn what_is_not_listed_is_asked_in_the_internet_only() {
    let server = Server::start(|_| reply("200 OK", &[("content-type", OCI)], b"{}")).await;
    let port = server.addr.port();
    for (upstreams, unlisted, registries) in [
        (
            vec![],
            true,
            vec![format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")],
        ),
        (vec![], false, vec!["quay.example".to_owned()]),
    ] {
        let origin = Origin::new(&OriginConfig { upstreams, unlisted, patience: patience() }).unwrap();
        for registry in registries {
            let repository = Repository::new(&registry, "org/app").unwrap();
            let error = origin.manifest(&repository, &tag("1"), &[]).await.unwrap_err();
            assert!(matches!(error, OriginError::NotAllowed { .. }), "{registry}: {error}");
            assert!(error.to_string().contains("[[origin.upstreams]]"), "{error}");
        }
    }
    let repositories = vec!["other/*".to_owned()];
    let origin = with(Upstream { registry: server.addr.to_string(), repositories, ..Upstream::default() });
    let error = origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::NotAllowed { .. }), "{error}");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_clients_rights_go_to_the_registry_as_they_came_and_no_token_is_made_of_them() {
    let challenge = "Bearer realm=\"http://127.0.0.1:1/token\"";
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Bearer good") => reply("200 OK", &[("content-type", OCI)], b"{}"),
        _ => reply("401 No", &[("www-authenticate", challenge)], b""),
    })
    .await;
    let ask = async |token: &str| {
        let origin = anonymous(&server).with_rights(Rights::Client(Secret::new(token)));
        origin.manifest(&server.repository(), &tag("1"), &[]).await
    };
    assert!(ask("Bearer good").await.is_ok());
    let error = ask("Bearer bad").await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Unauthorized { challenge: Some(said), .. } if said == challenge),
        "{error}"
    );
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_list_that_takes_for_ever_keeps_nobody_from_the_registry() {
    let server = Server::start(|asked| match asked.path.ends_with("/tags/list") {
        true => Reply { bytes: Vec::new(), hang: true },
        false => reply("404 Not Found", &[("Content-Length", "0")], b""),
    })
    .await;
    let origin = anonymous(&server);
    let listing = Listing::Tags(server.repository());
    assert!(origin.listing(&listing, None, &[]).await.unwrap_err().is_transient());
    let error = origin.manifest(&server.repository(), &tag("1"), &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_left_alone_for_a_while_and_one_that_fails_is_not() {
    let silent = Server::start(|_| Reply { bytes: Vec::new(), hang: true }).await;
    let origin = anonymous(&silent);
    for asked in [3, 3] {
        let error = origin.manifest(&silent.repository(), &tag("1"), &[]).await.unwrap_err();
        assert!(matches!(error, OriginError::Unreachable { cause: Cause::Silent, .. }), "{error}");
        assert_eq!(silent.asked().len(), asked, "each time is one of the attempts");
    }
    let failing = Server::start(|_| reply("503 No", &[], b"")).await;
    let origin = anonymous(&failing);
    for asked in [3, 6] {
        let error = origin.manifest(&failing.repository(), &tag("1"), &[]).await.unwrap_err();
        assert!(matches!(error, OriginError::Unreachable { cause: Cause::Status(503), .. }), "{error}");
        assert_eq!(failing.asked().len(), asked);
    }
}

#[tokio::test]
async fn only_a_registry_that_takes_no_connection_is_gone() {
    let cause = async |origin: &Origin, registry: &str| {
        let repository = Repository::new(registry, "org/app").unwrap();
        let error = origin.manifest(&repository, &tag("1"), &[]).await.unwrap_err();
        let OriginError::Unreachable { cause, .. } = error else { panic!("{error}") };
        cause
    };
    // Takes connections, and says nothing to a TLS hello.
    let silent = Server::start(|_| Reply { bytes: Vec::new(), hang: true }).await;
    for scheme in ["http", "https"] {
        let endpoint = Some(format!("{scheme}://{}", silent.addr));
        let origin = with(Upstream { registry: "reg.test".into(), endpoint, ..Upstream::default() });
        for asked in ["asked", "left alone"] {
            assert_eq!(cause(&origin, "reg.test").await, Cause::Silent, "{scheme}, {asked}");
        }
    }
    // Leads to storage that is gone, and is there itself.
    let leads = Server::start(|_| reply("307 There", &[("Location", "http://127.0.0.1:1/x")], b"")).await;
    assert_eq!(cause(&anonymous(&leads), &leads.addr.to_string()).await, Cause::Silent);
    for endpoint in ["http://127.0.0.1:1", "https://127.0.0.1:1"] {
        let endpoint = Some(endpoint.to_owned());
        let origin = with(Upstream { registry: "reg.test".into(), endpoint, ..Upstream::default() });
        for asked in ["asked", "left alone"] {
            assert_eq!(cause(&origin, "reg.test").await, Cause::Gone, "{asked}");
        }
    }
}
