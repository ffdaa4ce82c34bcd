//! A registry that misbehaves on demand, and nodes around it.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use hash::Digest;
use longshore_node::{Config, Node};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracker::Tracker;

/// Bytes that do not repeat.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// What the registry holds and how it behaves.
#[derive(Default)]
pub(crate) struct Shop {
    pub(crate) blobs: Mutex<HashMap<String, Bytes>>,
    pub(crate) manifests: Mutex<HashMap<String, Bytes>>,
    /// Body bytes of blobs that were sent, by digest.
    pub(crate) sent: Mutex<HashMap<String, u64>>,
    /// Blobs come with one bit changed.
    pub(crate) lies: AtomicBool,
    /// Bodies of blobs break off at this byte of the blob; 0 for none.
    pub(crate) breaks_at: AtomicU64,
    /// Bytes per second, or 0 for no limit.
    pub(crate) rate: AtomicU64,
    /// Repositories that are not for everybody, and the `Authorization` that each takes.
    pub(crate) closed: Mutex<HashMap<String, String>>,
    /// Repositories that hold nothing.
    pub(crate) empty: Mutex<HashSet<String>>,
    /// Whether every answer is a 503.
    pub(crate) down: AtomicBool,
    /// Answers wait for this, where it is set.
    pub(crate) gate: Mutex<Option<CancellationToken>>,
    /// All requests: method, path, and `Authorization`.
    pub(crate) asked: Mutex<Vec<(String, String, Option<String>)>>,
}

/// What a closed repository answers to those who may not have it.
pub(crate) const CHALLENGE: &str = "Basic realm=\"test\"";

pub(crate) struct Registry {
    pub(crate) shop: Arc<Shop>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Registry {
    pub(crate) async fn start() -> Self {
        let shop = Arc::new(Shop::default());
        let router = Router::new()
            .route("/v2/", get(async || "{}"))
            .route("/v2/team/{name}/manifests/{reference}", get(manifest))
            .route("/v2/team/{name}/blobs/{digest}", get(blob))
            .layer(from_fn_with_state(shop.clone(), admit))
            .with_state(shop.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (address, stop) = (listener.local_addr().expect("bound"), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        Self { shop, address, stop }
    }

    /// Adds an image of the given layers under the tag `1`; gives the manifest's digest and the layers'.
    pub(crate) fn add_image(&self, layers: &[Vec<u8>]) -> (Digest, Vec<Digest>) {
        let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let config = b"{\"architecture\":\"amd64\",\"os\":\"linux\"}".to_vec();
        let layer = |bytes: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar", bytes);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(serde_json::to_vec(&manifest).expect("serialises"));
        let digest = Digest::of(&manifest);
        let mut manifests = self.shop.manifests.lock().expect("unpoisoned");
        manifests.insert("1".into(), manifest.clone());
        manifests.insert(digest.to_string(), manifest);
        let mut blobs = self.shop.blobs.lock().expect("unpoisoned");
        for bytes in layers.iter().chain([&config]) {
            blobs.insert(Digest::of(bytes).to_string(), bytes.clone().into());
        }
        (digest, layers.iter().map(|bytes| Digest::of(bytes)).collect())
    }

    /// How many bytes of a blob have left.
    pub(crate) fn sent(&self, digest: &Digest) -> u64 {
        self.shop.sent.lock().expect("unpoisoned").get(&digest.to_string()).copied().unwrap_or(0)
    }

    /// The requests so far, as `METHOD path below the repository`.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.shop.asked.lock().expect("unpoisoned");
        let short = |path: &str| path.splitn(5, '/').nth(4).unwrap_or(path).to_owned();
        asked.iter().map(|(method, path, _)| format!("{method} {}", short(path))).collect()
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

async fn admit(State(shop): State<Arc<Shop>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.map(str::to_owned);
    let name = path.split('/').nth(3).unwrap_or_default().to_owned();
    shop.asked.lock().expect("unpoisoned").push((method, path, shown.clone()));
    let gate = shop.gate.lock().expect("unpoisoned").clone();
    if let Some(gate) = gate {
        gate.cancelled().await;
    }
    if shop.down.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let wanted = shop.closed.lock().expect("unpoisoned").get(&name).cloned();
    if wanted.is_some() && wanted != shown {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, CHALLENGE)]).into_response();
    }
    if shop.empty.lock().expect("unpoisoned").contains(&name) {
        return StatusCode::NOT_FOUND.into_response();
    }
    next.run(request).await
}

async fn manifest(
    State(shop): State<Arc<Shop>>,
    UrlPath((_, reference)): UrlPath<(String, String)>,
) -> Response {
    let manifests = shop.manifests.lock().expect("unpoisoned");
    match manifests.get(&reference) {
        Some(bytes) => (
            [
                (header::CONTENT_TYPE, MANIFEST),
                (header::HeaderName::from_static("docker-content-digest"), &Digest::of(bytes).to_string()),
            ],
            bytes.clone(),
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn blob(
    State(shop): State<Arc<Shop>>,
    UrlPath((_, digest)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = shop.blobs.lock().expect("unpoisoned").get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut bytes = bytes.to_vec();
    if shop.lies.load(Ordering::Relaxed) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let total = bytes.len();
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
    let rest = Bytes::from(bytes.split_off(from.unwrap_or(0)));
    let length = rest.len();
    let breaks_at = shop.breaks_at.load(Ordering::Relaxed) as usize;
    let given = if breaks_at > 0 { breaks_at.saturating_sub(from.unwrap_or(0)).min(length) } else { length };
    let (rest, breaks) = (rest.slice(..given), given < length);
    let begun = (rest, shop, digest, breaks);
    let body = Body::from_stream(stream::unfold(begun, async |(mut rest, shop, digest, breaks)| {
        if rest.is_empty() {
            // What was given before goes out first.
            tokio::time::sleep(Duration::from_millis(if breaks { 50 } else { 0 })).await;
            return breaks.then(|| (Err(std::io::Error::other("broken")), (rest, shop, digest, false)));
        }
        let rate = shop.rate.load(Ordering::Relaxed);
        let chunk = rest.split_to(rest.len().min(64 * 1024));
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / rate as f64)).await;
        }
        *shop.sent.lock().expect("unpoisoned").entry(digest.clone()).or_default() += chunk.len() as u64;
        Some((Ok(chunk), (rest, shop, digest, breaks)))
    }));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if let Some(from) = from {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{total}", total - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, range.parse().expect("ascii"));
    }
    response
}

pub(crate) async fn tracker() -> (Tracker, String) {
    tracker_with(None).await
}

/// With a token of its directory.
pub(crate) async fn tracker_with(directory_token: Option<String>) -> (Tracker, String) {
    let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()];
    let config = tracker::Config { listen, lease_ttl: 3, directory_token, ..tracker::Config::default() };
    let tracker = Tracker::start(config).await.expect("starts");
    let url = format!("http://{}/announce", tracker.local_addr().expect("listens"));
    (tracker, url)
}

pub(crate) async fn node(data: &Path, tracker: &str, registry: &Registry) -> Node {
    node_with(data, tracker, registry, |_| {}).await
}

pub(crate) async fn node_with(
    data: &Path,
    tracker: &str,
    registry: &Registry,
    change: impl FnOnce(&mut Config),
) -> Node {
    let mut config =
        Config { trackers: vec![tracker.to_owned()], data: data.join("data"), ..Config::default() };
    config.peer.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.mirror.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    config.api.socket = data.join("s");
    // However busy their machine is.
    config.content.stall_seconds = 60;
    // However full the disk of those who test is.
    config.store.free_percent = 0;
    config.set_upstream("reg.test", &format!("http://{}", registry.address));
    change(&mut config);
    Node::start(config).await.expect("starts")
}

/// For a node whose peers are gone: it asks the registry soon.
pub(crate) const fn impatient(config: &mut Config) {
    config.content.stall_seconds = 5;
}

/// A folder with a blob in it, as in an OCI layout, which has been left alone for as long as it takes.
pub(crate) fn lender(data: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temp");
    let blobs = folder.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("made");
    let path = blobs.join(Digest::of(data).hex());
    std::fs::write(&path, data).expect("written");
    std::thread::sleep(Duration::from_millis(3100));
    (folder, path)
}

/// What a node's mirror answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    /// The body as far as it came, and whether it came whole.
    pub(crate) body: Vec<u8>,
    pub(crate) whole: bool,
}

pub(crate) async fn fetch(node: &Node, path: &str) -> Answer {
    fetch_as(node, "app", path, None).await
}

/// From a repository of `team`, showing an `Authorization`.
pub(crate) async fn fetch_as(node: &Node, name: &str, path: &str, shown: Option<&str>) -> Answer {
    let url = format!("http://{}/v2/team/{name}/{path}?ns=reg.test", node.mirrors()[0]);
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    let mut request = client.get(url).header("accept", MANIFEST);
    if let Some(shown) = shown {
        request = request.header("authorization", shown);
    }
    ask(request).await
}

/// What comes of any request, as far as it comes.
pub(crate) async fn ask(request: reqwest::RequestBuilder) -> Answer {
    let mut response = request.timeout(Duration::from_secs(60)).send().await.expect("answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let (mut body, mut whole) = (Vec::new(), true);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Answer { status, headers, body, whole }
}

pub(crate) fn api(data: &Path) -> api::NodeClient {
    api::NodeClient::new(&api::Endpoint::Unix(data.join("s")), None).expect("client")
}
