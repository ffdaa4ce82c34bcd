//! The mirror as clients see it, down to the bytes on the socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use longshore_mirror::{
    Asker, BlobAnswer, BlobHead, ByteRange, Content, ContentError, Health, Home, Limits, Listing,
    ListingAnswer, Located, ManifestAnswer, ManifestHeadAnswer, Mirror, MirrorConfig, Passed, Push, Pushed,
    PushedAt, Repository, Span, Target, Tls, WebRequest, WebTarget,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST: &[u8] = b"{\"schemaVersion\":2}";
const CHALLENGE: &str = r#"Bearer realm="https://auth.test/token",service="reg""#;

fn blob() -> Bytes {
    (0..200_000u32).map(|n| (n % 251) as u8).collect()
}

/// Serves one manifest and one blob; the repository's name says what goes wrong.
#[derive(Default)]
struct Fake {
    transfers: AtomicUsize,
    /// Whether the ping asks clients to log in.
    asks: bool,
    /// Whether it is neither alive nor ready.
    ill: AtomicBool,
}

fn error(repository: &Repository) -> Result<(), ContentError> {
    Err(match repository.name() {
        "bad/missing" => ContentError::NotFound,
        "bad/login" => ContentError::Unauthorized {
            challenge: Some(CHALLENGE.into()),
            reason: "they were refused".into(),
        },
        "bad/nologin" => ContentError::Unauthorized { challenge: None, reason: "there are none".into() },
        "bad/denied" => ContentError::Denied("private".into()),
        "bad/away" => ContentError::Unavailable("no peers".into()),
        "bad/busy" => ContentError::TooBusy,
        "bad/fault" => ContentError::Internal("secret detail".into()),
        _ => return Ok(()),
    })
}

fn repository(home: &Home) -> &Repository {
    match home {
        Home::Registry(repository) => repository,
        Home::Web(url) => panic!("{url}"),
    }
}

impl Content for Fake {
    fn challenge(&self) -> Option<String> {
        self.asks.then(|| CHALLENGE.to_owned())
    }

    async fn lives(&self) -> bool {
        if self.ill.load(Ordering::SeqCst) { std::future::pending().await } else { true }
    }

    async fn health(&self) -> Health {
        let mut health = Health::default();
        if self.ill.load(Ordering::SeqCst) {
            health.unready("no room".to_owned());
        }
        health
    }

    async fn manifest(
        &self,
        repository: &Repository,
        _: &Target,
        asker: &Asker,
    ) -> Result<ManifestAnswer, ContentError> {
        error(repository)?;
        if repository.name() == "org/hang" {
            std::future::pending::<()>().await;
        }
        // The answer shows what was understood of the request.
        let warning = Some(format!("{repository} {}", asker.accept.join("|")));
        let bytes = Bytes::from_static(MANIFEST);
        Ok(ManifestAnswer { digest: Digest::of(&bytes), bytes, media_type: OCI.into(), warning })
    }

    async fn head_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> Result<ManifestHeadAnswer, ContentError> {
        let manifest = self.manifest(repository, target, asker).await?;
        let size = manifest.bytes.len() as u64;
        Ok(ManifestHeadAnswer { size, media_type: OCI.into(), digest: manifest.digest, warning: None })
    }

    async fn blob_size(&self, home: &Home, _: &Digest, _: &Asker) -> Result<BlobHead, ContentError> {
        let repository = repository(home);
        error(repository)?;
        Ok(BlobHead { size: blob().len() as u64, media_type: None })
    }

    async fn blob(
        &self,
        home: &Home,
        _: &Digest,
        _: &Asker,
        range: Option<ByteRange>,
    ) -> Result<BlobAnswer, ContentError> {
        let repository = repository(home);
        error(repository)?;
        self.transfers.fetch_add(1, Ordering::SeqCst);
        let whole = if repository.name() == "org/empty" { Bytes::new() } else { blob() };
        let span = Span::of(range, whole.len() as u64)?;
        let part = whole.slice(span.offset as usize..(span.offset + span.length) as usize);
        let chunks: Vec<_> = part.chunks(10_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let gone = ContentError::Unavailable("the peers left".into());
        let body = match repository.name() {
            "org/breaks" => stream::iter(chunks).take(5).chain(stream::iter([Err(gone)])).boxed(),
            "org/ends" => stream::iter(chunks).take(5).boxed(),
            "org/stalls" => stream::iter(chunks).take(5).chain(stream::pending()).boxed(),
            "org/long" => stream::iter(chunks).chain(stream::iter([Ok(Bytes::from_static(b"more"))])).boxed(),
            "org/overruns" => {
                stream::iter(chunks).take(19).chain(stream::iter([Ok(Bytes::from(vec![0; 10_001]))])).boxed()
            }
            "org/slow" => stream::iter(chunks)
                .then(|chunk| async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    chunk
                })
                .boxed(),
            "org/endless" => stream::repeat_with(|| Ok(Bytes::from(vec![7; 100_000]))).boxed(),
            _ => stream::iter(chunks).boxed(),
        };
        let size = whole.len() as u64;
        let (size, span) =
            if repository.name() == "org/endless" { (1 << 40, Span::whole(1 << 40)) } else { (size, span) };
        Ok(BlobAnswer { size, span, media_type: None, body })
    }

    async fn locate(&self, request: WebRequest) -> Result<Located, ContentError> {
        let mut names: Vec<String> = request.headers.keys().map(ToString::to_string).collect();
        names.sort();
        let body = format!("{:?} {}", request.target, names.join(","));
        let chunks = [Ok(Bytes::from(body))];
        let (status, headers) = (http::StatusCode::OK, http::HeaderMap::new());
        let body = match &request.target {
            WebTarget::Absolute(uri) if uri.path() == "/breaks" => {
                let gone = ContentError::Unavailable("gone".into());
                stream::iter(chunks.into_iter().chain([Err(gone)])).boxed()
            }
            _ => stream::iter(chunks).boxed(),
        };
        Ok(Located::Passed(Passed { status, headers, warning: None, length: None, body }))
    }

    async fn push(&self, _: &Repository, push: Push, asker: &Asker) -> Result<Pushed, ContentError> {
        let mut bytes = Vec::new();
        if let Some(mut body) = push.body {
            while let Some(chunk) = body.next().await {
                bytes.extend_from_slice(&chunk.map_err(|e| ContentError::Unavailable(e.to_string()))?);
            }
        }
        let shown = asker.authorization.as_ref().map(|shown| shown.reveal().to_owned());
        let told = format!(
            "{} {:?} {:?} {:?} {} {shown:?}",
            push.method,
            push.target,
            push.query,
            push.headers.get("content-range"),
            bytes.len()
        );
        Ok(Pushed {
            status: http::StatusCode::ACCEPTED,
            headers: http::HeaderMap::new(),
            location: Some(PushedAt::Upload("id-2".into())),
            body: told.into(),
        })
    }

    async fn listing(
        &self,
        listing: &Listing,
        query: Option<&str>,
        _: &Asker,
    ) -> Result<ListingAnswer, ContentError> {
        if let Some(repository) = listing.repository() {
            error(repository)?;
        }
        Ok(ListingAnswer {
            bytes: format!("{} {} {query:?}", listing.registry(), listing.path()).into(),
            media_type: "application/json".into(),
            link: Some(format!("<{}?n=1&last=a>; rel=\"next\"", listing.path())),
            filters: Some("artifactType".into()),
        })
    }
}

struct Running {
    addr: SocketAddr,
    fake: Arc<Fake>,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

async fn start_with(config: MirrorConfig) -> Running {
    start_fake(Fake::default(), config).await
}

async fn start_fake(fake: Fake, config: MirrorConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (fake, shutdown) = (Arc::new(fake), CancellationToken::new());
    let mirror = Mirror::new(fake.clone(), &config, None).unwrap();
    let server = tokio::spawn(mirror.serve(vec![listener], shutdown.clone()));
    Running { addr, fake, shutdown, server }
}

async fn start() -> Running {
    let limits = Limits {
        answer: Duration::from_millis(500),
        body_stall: Duration::from_millis(300),
        health: Duration::from_millis(500),
        ..Limits::default()
    };
    start_with(MirrorConfig { limits, ..MirrorConfig::default() }).await
}

/// An answer as it came over the socket.
#[derive(Debug)]
struct Raw {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// How the connection ended: true for FIN.
    fin: bool,
}

impl Raw {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn length(&self) -> usize {
        self.header("content-length").unwrap().parse().unwrap()
    }

    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// Sends `bytes` and reads until the connection ends.
async fn talk(running: &Running, bytes: &[u8]) -> Raw {
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = vec![0; 65536];
    let fin = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break true,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(_) => break false,
        }
    };
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(answer[..split].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    Raw { status, head, body: answer[split..].to_vec(), fin }
}

async fn ask(running: &Running, method: &str, path: &str, headers: &str) -> Raw {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    talk(running, request.as_bytes()).await
}

async fn get(running: &Running, path: &str) -> Raw {
    ask(running, "GET", path, "").await
}

fn blob_path(name: &str) -> String {
    format!("/v2/{name}/blobs/{}", Digest::of(&blob()))
}

#[tokio::test]
async fn a_ping_asks_those_who_show_nothing_to_log_in_where_that_is_wanted() {
    let running = start_fake(Fake { asks: true, ..Fake::default() }, MirrorConfig::default()).await;
    let raw = get(&running, "/v2/").await;
    assert_eq!((raw.status, raw.header("www-authenticate")), (401, Some(CHALLENGE)));
    assert_eq!(raw.code(), "UNAUTHORIZED");
    assert_eq!(ask(&running, "GET", "/v2/", "Authorization: Bearer x\r\n").await.status, 200);
}

#[tokio::test]
async fn the_ping_answers_at_once_in_both_spellings() {
    let running = start().await;
    for path in ["/v2", "/v2/", "/v2/?ns=docker.io"] {
        let raw = get(&running, path).await;
        assert_eq!((raw.status, raw.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
        assert_eq!(ask(&running, "HEAD", path, "").await.status, 200);
    }
}

#[tokio::test]
async fn a_manifest_is_the_same_by_get_and_head() {
    let running = start().await;
    let digest = Digest::of(MANIFEST).to_string();
    for method in ["GET", "HEAD"] {
        let raw = ask(&running, method, "/v2/library/busybox/manifests/latest", "").await;
        assert_eq!((raw.status, raw.header("content-type")), (200, Some(OCI)));
        assert_eq!(raw.header("docker-content-digest"), Some(digest.as_str()));
        assert_eq!(raw.header("etag"), Some(format!("\"{digest}\"").as_str()));
        assert_eq!(raw.length(), MANIFEST.len());
        assert_eq!(raw.body, if method == "GET" { MANIFEST } else { b"" });
        assert!(raw.fin);
    }
}

#[tokio::test]
async fn every_accept_value_and_every_address_style_reaches_the_content() {
    let running = start().await;
    let accept = "Accept: a/b, c/d\r\nAccept: */*\r\n";
    for (path, meant) in [
        ("/v2/busybox/manifests/1", "docker.io/library/busybox"),
        ("/v2/org/app/manifests/1?ns=localhost%3A5000", "localhost:5000/org/app"),
        ("/v2/quay.io/org/app/manifests/1", "quay.io/org/app"),
    ] {
        let raw = ask(&running, "GET", path, accept).await;
        assert_eq!(raw.header("warning"), Some(format!("299 - \"{meant} a/b|c/d|*/*\"").as_str()));
        let namespace = path.contains("ns=").then_some("localhost:5000");
        assert_eq!(raw.header("oci-namespace"), namespace);
    }
}

#[tokio::test]
async fn a_blob_comes_whole_and_never_encoded() {
    let running = start().await;
    let raw = ask(&running, "GET", &blob_path("org/app"), "Accept-Encoding: zstd, gzip, deflate\r\n").await;
    assert_eq!((raw.status, raw.length()), (200, 200_000));
    assert_eq!((raw.header("content-encoding"), raw.header("transfer-encoding")), (None, None));
    assert_eq!(
        (raw.header("accept-ranges"), raw.header("content-type")),
        (Some("bytes"), Some("application/octet-stream"))
    );
    assert_eq!(Digest::of(&raw.body), Digest::of(&blob()));
    let empty = get(&running, &blob_path("org/empty")).await;
    assert_eq!((empty.status, empty.length(), empty.fin), (200, 0, true));
}

#[tokio::test]
async fn head_of_a_blob_starts_no_transfer() {
    let running = start().await;
    let raw = ask(&running, "HEAD", &blob_path("org/app"), "Range: bytes=0-9\r\n").await;
    assert_eq!((raw.status, raw.length(), raw.body.len()), (200, 200_000, 0));
    assert_eq!(running.fake.transfers.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn several_ranges_come_as_parts() {
    let running = start().await;
    let asked = "Range: bytes=5-9,199990-,300000-\r\n";
    let raw = ask(&running, "GET", &blob_path("org/app"), asked).await;
    assert_eq!(raw.status, 206);
    let boundary =
        raw.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let blob = blob();
    let part = |range: &str, bytes: &[u8]| {
        let head = format!(
            "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/200000\r\n\r\n"
        );
        [head.as_bytes(), bytes, b"\r\n"].concat()
    };
    let whole = [
        part("5-9", &blob[5..10]),
        part("199990-199999", &blob[199_990..]),
        format!("--{boundary}--\r\n").into_bytes(),
    ];
    assert_eq!(raw.body, whole.concat());
    assert_eq!(raw.header("content-length"), Some(raw.body.len().to_string().as_str()));
    let raw = ask(&running, "GET", &blob_path("org/app"), "Range: bytes=200000-,300000-\r\n").await;
    assert_eq!((raw.status, raw.header("content-range")), (416, Some("bytes */200000")));
    // Together more than the blob: the blob.
    let raw = ask(&running, "GET", &blob_path("org/app"), "Range: bytes=0-150000,1-150000\r\n").await;
    assert_eq!((raw.status, raw.body.len()), (200, 200_000));
    let raw = ask(&running, "GET", &blob_path("org/breaks"), "Range: bytes=0-9,100-199999\r\n").await;
    assert!(raw.body.len() < raw.header("content-length").unwrap().parse().unwrap(), "cut short");
}

#[tokio::test]
async fn single_ranges_are_partial_and_others_are_ignored() {
    let running = start().await;
    let whole = blob();
    for (range, first, last) in [
        ("0-0", 0, 0),
        ("5-", 5, 199_999),
        ("-10", 199_990, 199_999),
        ("199999-", 199_999, 199_999),
        ("7-999999", 7, 199_999),
    ] {
        let raw = ask(&running, "GET", &blob_path("org/app"), &format!("Range: bytes={range}\r\n")).await;
        assert_eq!(raw.status, 206, "{range}");
        assert_eq!(raw.header("content-range"), Some(format!("bytes {first}-{last}/200000").as_str()));
        assert_eq!((raw.length(), &raw.body[..]), (last - first + 1, &whole[first..=last]));
    }
    for range in ["bytes=0-1,6-5", "bytes=9-5", "items=0-1", "bytes=x"] {
        let raw = ask(&running, "GET", &blob_path("org/app"), &format!("Range: {range}\r\n")).await;
        assert_eq!((raw.status, raw.body.len()), (200, 200_000), "{range}");
    }
    for range in ["200000-", "-0"] {
        let raw = ask(&running, "GET", &blob_path("org/app"), &format!("Range: bytes={range}\r\n")).await;
        assert_eq!((raw.status, raw.header("content-range")), (416, Some("bytes */200000")), "{range}");
    }
    let stale = "Range: bytes=0-9\r\nIf-Range: \"other\"\r\n";
    assert_eq!(ask(&running, "GET", &blob_path("org/app"), stale).await.status, 200);
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let running = start().await;
    let (manifest, layer) = (Digest::of(MANIFEST), Digest::of(&blob()));
    let tags = |digest: &Digest| format!("If-None-Match: \"x\", W/\"{digest}\"\r\n");
    for method in ["GET", "HEAD"] {
        let raw = ask(&running, method, "/v2/a/b/manifests/1", &tags(&manifest)).await;
        assert_eq!((raw.status, raw.body.len()), (304, 0));
        let raw = ask(&running, method, &blob_path("org/app"), &tags(&layer)).await;
        assert_eq!((raw.status, raw.header("etag")), (304, Some(format!("\"{layer}\"").as_str())));
        // What a client claims to have is no permission.
        let raw = ask(&running, method, &blob_path("bad/missing"), &tags(&layer)).await;
        assert_eq!(raw.status, 404);
    }
    assert_eq!(running.fake.transfers.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_failure_is_told_in_the_way_that_sends_the_client_on() {
    let running = start().await;
    for (name, head, manifest, layer) in [
        ("bad/missing", 404, 404, 404),
        ("bad/login", 401, 401, 401),
        ("bad/nologin", 404, 404, 404),
        ("bad/denied", 404, 403, 404),
        ("bad/away", 503, 503, 404),
        ("bad/busy", 503, 503, 404),
        ("bad/fault", 500, 500, 404),
        ("org/hang", 503, 503, 200),
    ] {
        let path = format!("/v2/{name}/manifests/1");
        assert_eq!(ask(&running, "HEAD", &path, "").await.status, head, "{name}");
        let raw = get(&running, &path).await;
        assert_eq!(raw.status, manifest, "{name}");
        assert!(!raw.code().is_empty() && !String::from_utf8_lossy(&raw.body).contains("secret detail"));
        assert_eq!(raw.header("www-authenticate"), (manifest == 401).then_some(CHALLENGE));
        assert_eq!(get(&running, &blob_path(name)).await.status, layer, "{name}");
    }
}

#[tokio::test]
async fn what_is_outside_the_api_is_refused_in_its_own_shape() {
    let running = start().await;
    for (path, status, code) in [
        ("/", 404, "UNSUPPORTED"),
        ("/v2/a", 404, "UNSUPPORTED"),
        ("/v2/a/../b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/A/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:00", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha512:00", 404, "UNSUPPORTED"),
    ] {
        let raw = get(&running, path).await;
        assert_eq!((raw.status, raw.code().as_str()), (status, code), "{path}");
        let head = ask(&running, "HEAD", path, "").await;
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
    }
    let raw = ask(&running, "POST", "/v2/a/b/tags/list", "Content-Length: 3\r\n\r\nabc").await;
    assert_eq!((raw.status, raw.header("allow"), raw.fin), (405, Some("GET, HEAD"), true));
}

#[tokio::test]
async fn names_digests_and_paths_with_tricks_in_them_reach_no_content() {
    let running = start().await;
    let hex = "ab".repeat(32);
    for (path, status, code) in [
        ("/v2/a%00b/manifests/1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/1%00".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/%2e%2e/b/manifests/1".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/a%2f..%2f..%2fb/blobs/sha256:{hex}"), 400, "NAME_INVALID"),
        (format!("/v2/%2fetc/blobs/sha256:{hex}"), 400, "NAME_INVALID"),
        (format!("/v2/a%5cb/blobs/sha256:{hex}"), 400, "NAME_INVALID"),
        ("/v2/a%252fb/manifests/1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a//b/manifests/1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/./manifests/1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/..".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/a/manifests/{}", "t".repeat(129)), 400, "NAME_INVALID"),
        (format!("/v2/{}/manifests/1", "a".repeat(300)), 400, "NAME_INVALID"),
        ("/v2/a/manifests/1?ns=..%2f".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/1?ns=reg.test%40evil.test".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/%2e%2e%2f1".to_owned(), 404, "UNSUPPORTED"),
        (format!("/v2/{}manifests/1", "a/".repeat(2100)), 404, "UNSUPPORTED"),
        ("/v2/a/manifests/%ff".to_owned(), 404, "UNSUPPORTED"),
        (format!("/v2/a/blobs/sha256:{}", hex.to_uppercase()), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/sha256:{hex}0"), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/sha256:{hex}%00"), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/..%2f..%2fsha256:{hex}"), 404, "UNSUPPORTED"),
        ("/v2/a/blobs/sha256".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/a/referrers/sha256:{hex}x"), 400, "DIGEST_INVALID"),
    ] {
        let raw = get(&running, &path).await;
        assert_eq!(raw.status, status, "{path}");
        assert_eq!(raw.code(), code, "{path}");
    }
    assert_eq!(running.fake.transfers.load(Ordering::SeqCst), 0);
    // Longer than any request needs to be: refused, and the mirror goes on.
    let raw = get(&running, &format!("/v2/{}", "a".repeat(70_000))).await;
    assert_eq!((raw.status, raw.fin), (414, true));
    let raw = ask(&running, "GET", "/v2/", &format!("X: {}\r\n", "a".repeat(600_000))).await;
    assert_eq!((raw.status, raw.fin), (431, true));
    assert_eq!(get(&running, "/v2/").await.status, 200);
}

#[tokio::test]
async fn probes_are_told_what_the_content_says_of_itself() {
    let running = start().await;
    for path in ["/healthz", "/readyz"] {
        let raw = get(&running, path).await;
        assert_eq!((raw.status, raw.body.as_slice()), (200, &b"ok\n"[..]));
    }
    running.fake.ill.store(true, Ordering::SeqCst);
    let raw = get(&running, "/readyz").await;
    assert_eq!((raw.status, raw.body.as_slice()), (503, &b"no room\n"[..]));
    let raw = get(&running, "/healthz").await;
    assert_eq!((raw.status, raw.body.as_slice()), (503, &b"the node's inside does not answer\n"[..]));
}

#[tokio::test]
async fn listings_pass_through_with_a_link_that_leads_back() {
    let running = start().await;
    let raw = get(&running, "/v2/org/app/tags/list?n=1&ns=quay.io").await;
    assert_eq!(raw.body, b"quay.io /v2/org/app/tags/list Some(\"n=1\")");
    let back = "</v2/org/app/tags/list?n=1&last=a&ns=quay%2Eio>; rel=\"next\"";
    assert_eq!((raw.header("link"), raw.header("oci-filters-applied")), (Some(back), Some("artifactType")));
    let raw = get(&running, "/v2/quay.io/_catalog").await;
    assert_eq!(raw.body, b"quay.io /v2/_catalog None");
}

#[tokio::test]
async fn a_body_that_fails_ends_short_of_its_length_with_fin() {
    let running = start().await;
    for name in ["org/breaks", "org/ends", "org/stalls"] {
        let raw = get(&running, &blob_path(name)).await;
        assert_eq!((raw.status, raw.length()), (200, 200_000), "{name}");
        // All that was verified before the failure has arrived.
        assert_eq!((raw.body.len(), raw.fin), (50_000, true), "{name}");
        assert_eq!(raw.body, &blob()[..50_000]);
    }
    // A kept connection must end as well, even with another request waiting in it: unread bytes would make RST.
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        blob_path("org/breaks")
    );
    let raw = talk(&running, request.as_bytes()).await;
    assert_eq!((raw.body.len(), raw.fin), (50_000, true));
}

#[tokio::test]
async fn a_body_that_is_too_long_never_passes_its_length() {
    let running = start().await;
    let raw = get(&running, &blob_path("org/long")).await;
    assert_eq!((raw.body.len(), raw.fin), (200_000, true));
    let raw = get(&running, &blob_path("org/overruns")).await;
    assert_eq!((raw.body.len(), raw.fin), (190_000, true));
}

#[tokio::test]
async fn a_tls_hello_is_answered_in_clear() {
    let running = start().await;
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 502]].concat();
    let raw = talk(&running, &hello).await;
    assert_eq!((raw.status, raw.fin), (400, true));
    assert!(raw.head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    assert_eq!(raw.length(), raw.body.len());
}

#[tokio::test]
async fn a_kept_connection_serves_one_request_after_another() {
    let running = start().await;
    let request =
        "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let raw = talk(&running, request.as_bytes()).await;
    let all = [raw.head.as_bytes(), &raw.body].concat();
    assert_eq!(String::from_utf8_lossy(&all).matches("HTTP/1.1 200 OK").count(), 2);
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let running = start_with(MirrorConfig { max_connections: 1, ..MirrorConfig::default() }).await;
    let mut first = TcpStream::connect(running.addr).await.unwrap();
    first.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(first.read(&mut [0; 1024]).await.unwrap() > 0);
    let mut second = TcpStream::connect(running.addr).await.unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_stops_reading_is_left_in_the_end() {
    let limits = Limits { write_stall: Duration::from_millis(200), ..Limits::default() };
    let running = start_with(MirrorConfig { max_connections: 1, limits, ..MirrorConfig::default() }).await;
    let mut idle = TcpStream::connect(running.addr).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", blob_path("org/endless"));
    idle.write_all(request.as_bytes()).await.unwrap();
    // The only place becomes free once the mirror has given up on it.
    loop {
        let mut next = TcpStream::connect(running.addr).await.unwrap();
        let _ = next.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = next.read_to_end(&mut answer).await;
        if answer.starts_with(b"HTTP/1.1 200 ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(idle);
}

#[tokio::test]
async fn a_client_that_leaves_early_frees_its_place() {
    let running = start_with(MirrorConfig { max_connections: 1, ..MirrorConfig::default() }).await;
    let mut hasty = TcpStream::connect(running.addr).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", blob_path("org/endless"));
    hasty.write_all(request.as_bytes()).await.unwrap();
    assert!(hasty.read(&mut [0; 1024]).await.unwrap() > 0);
    drop(hasty);
    loop {
        let mut next = TcpStream::connect(running.addr).await.unwrap();
        let _ = next.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = next.read_to_end(&mut answer).await;
        if answer.starts_with(b"HTTP/1.1 200 ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn shutdown_lets_running_answers_and_pulls_finish_and_takes_no_new_ones() {
    let running = start().await;
    let mut kept = TcpStream::connect(running.addr).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", blob_path("org/slow"));
    kept.write_all(request.as_bytes()).await.unwrap();
    assert!(kept.read(&mut [0; 16]).await.unwrap() > 0);
    let idle = TcpStream::connect(running.addr).await.unwrap();
    running.shutdown.cancel();
    for (path, status) in
        [("/v2/", 503), ("/v2/a/b/manifests/1", 503), ("/readyz", 503), (&blob_path("org/app"), 200)]
    {
        assert_eq!(get(&running, path).await.status, status, "{path}");
    }
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&blob()[190_000..]));
    running.server.await.unwrap();
    assert!(TcpStream::connect(running.addr).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_push_is_passed_on_with_its_body_and_goes_on_at_the_mirror() {
    let running = start().await;
    let told = async |method: &str, path: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        let raw = talk(&running, &[head.as_bytes(), body].concat()).await;
        (raw.status, raw.header("location").map(str::to_owned), String::from_utf8(raw.body).unwrap())
    };
    let (status, location, text) = told("POST", "/v2/a/b/blobs/uploads/?mount=x&ns=quay.io", "", b"").await;
    assert_eq!((status, location.as_deref()), (202, Some("/v2/a/b/blobs/uploads/id-2?ns=quay%2Eio")));
    assert_eq!(text, "POST Upload(None) Some(\"mount=x\") None 0 None");
    let (_, location, text) = told(
        "PATCH",
        "/v2/quay.io/a/b/blobs/uploads/id-1",
        "Content-Range: 0-4\r\nAuthorization: Bearer t\r\n",
        b"hello",
    )
    .await;
    assert_eq!(location.as_deref(), Some("/v2/quay.io/a/b/blobs/uploads/id-2"));
    assert_eq!(text, "PATCH Upload(Some(\"id-1\")) None Some(\"0-4\") 5 Some(\"Bearer t\")");
    let (_, _, text) = told("PUT", "/v2/a/b/manifests/1", "Content-Type: a/b\r\n", &[b'x'; 100_000]).await;
    assert_eq!(text, "PUT Manifest(Tag(\"1\")) None None 100000 None");
    for (method, path) in [
        ("POST", "/v2/a/b/manifests/1"),
        ("PUT", "/v2/"),
        ("DELETE", "/v2/a/tags/list"),
        ("PUT", "/v2/a/b/blobs/uploads/"),
    ] {
        assert_eq!(told(method, path, "", b"").await.0, 405, "{method} {path}");
    }
}

#[tokio::test]
async fn http_and_https_are_spoken_on_one_port_and_the_authority_is_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let own = tls::own(folder.path(), &["127.0.0.1".to_owned()]).unwrap();
    let (server, receiver) = tokio::sync::watch::channel(tls::server(&own.certificate, &own.key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let spoken = Tls { server: receiver, authority: Some(own.authority.clone()) };
    let fake = Arc::new(Fake::default());
    let mirror = Mirror::new(fake.clone(), &MirrorConfig::default(), Some(spoken)).unwrap();
    let task = tokio::spawn(mirror.serve(vec![listener], shutdown.clone()));
    let running = Running { addr, fake, shutdown, server: task };
    assert_eq!(get(&running, "/ca.pem").await.body, own.authority.as_bytes());

    let connect = async |authority: &str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    for (path, whole) in [("org/app", true), ("org/breaks", false)] {
        let mut stream = connect(&own.authority).await.unwrap();
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", blob_path(path));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Its end is said by TLS too: nothing was cut off on the way.
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(answer.len() > 200_000, whole, "{path}: {}", answer.len());
    }

    // A new certificate is for new connections.
    let other = tempfile::tempdir().unwrap();
    let new = tls::own(other.path(), &["127.0.0.1".to_owned()]).unwrap();
    server.send_replace(tls::server(&new.certificate, &new.key).unwrap());
    assert!(connect(&own.authority).await.is_err());
    assert!(connect(&new.authority).await.is_ok());
}

#[tokio::test]
async fn what_is_asked_of_a_proxy_goes_on_without_what_is_about_the_connection() {
    let running = start().await;
    // As libcurl asks for OSTree.
    let headers = "Accept: */*\r\nConnection: Upgrade, HTTP2-Settings, X-Mine\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABk\r\nProxy-Connection: Keep-Alive\r\nX-Mine: 1\r\nUser-Agent: libostree\r\n";
    let answer = ask(&running, "GET", "http://a.test:81/x?y", headers).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("docker-distribution-api-version"), None);
    let body = String::from_utf8(answer.body).unwrap();
    assert!(body.contains("http://a.test:81/x?y") && body.contains(" accept,user-agent"), "{body}");
    let answer = get(&running, "/ostree/os/refs/heads/main").await;
    assert!(String::from_utf8(answer.body).unwrap().contains(r#"Ostree("os", "refs/heads/main")"#));
}

#[tokio::test]
async fn a_body_of_unknown_length_that_breaks_is_not_taken_for_whole() {
    let running = start().await;
    let ends = |answer: &Raw| answer.body.ends_with(b"\r\n0\r\n\r\n");
    assert!(ends(&get(&running, "http://a.test/whole").await));
    let answer = get(&running, "http://a.test/breaks").await;
    assert!(answer.fin && answer.body.len() > 10 && !ends(&answer), "{answer:?}");
}

#[tokio::test]
async fn tunnels_that_the_content_does_not_know_and_heads_without_end_are_refused() {
    let running = start().await;
    for to in ["a.test:443", "a.test"] {
        assert_eq!(ask(&running, "CONNECT", to, "").await.status, 403, "{to}");
    }
    let huge = format!("X-Huge: {}\r\n", "x".repeat(2 << 20));
    let request = format!("GET http://a.test/ HTTP/1.1\r\nHost: a\r\n{huge}\r\n");
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    // The rest of it may no more be wanted.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = vec![0; 64];
    let read = stream.read(&mut answer).await.unwrap_or(0);
    assert!(read == 0 || answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn more_tunnels_than_are_allowed_are_told_so() {
    let running = start_with(MirrorConfig { max_tunnels: 0, ..MirrorConfig::default() }).await;
    assert_eq!(ask(&running, "CONNECT", "a.test:443", "").await.status, 503);
}
