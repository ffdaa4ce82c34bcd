//! A web server that does as it is told, and nodes that know it.

use std::{
    collections::HashMap,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::DeflateEncoder};
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use longshore_node::{Config, Node, OstreeConfig, RuleConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{self, Answer, Registry, ask};

/// What a web server holds, and how often each file was sent whole or in part.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) files: Mutex<HashMap<String, File>>,
    pub(crate) sent: Mutex<HashMap<String, usize>>,
    /// All requests: method, path, and `Authorization`.
    pub(crate) asked: Mutex<Vec<(String, String, Option<String>)>>,
    pub(crate) down: AtomicBool,
}

#[derive(Clone, Default)]
pub(crate) struct File {
    pub(crate) bytes: Bytes,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Breaks off after the first half of what was asked for, so many times.
    pub(crate) breaks: usize,
    pub(crate) redirect: Option<String>,
    /// Its length is not said.
    pub(crate) unsized_: bool,
    /// Is given slowly to the first who asks.
    pub(crate) slow: bool,
    /// Answers to GET wait for this.
    pub(crate) waits: Option<CancellationToken>,
    /// What comes after the first half of an answer waits for this.
    pub(crate) halts: Option<CancellationToken>,
    /// Is given only to those who show this as `X-Token`.
    pub(crate) token: Option<&'static str>,
}

pub(crate) struct Web {
    pub(crate) folder: Arc<Folder>,
    pub(crate) address: SocketAddr,
}

impl Web {
    pub(crate) async fn start() -> Self {
        let folder = Arc::new(Folder::default());
        let router = Router::new().fallback(serve).with_state(folder.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { folder, address }
    }

    pub(crate) fn put(&self, path: &str, bytes: impl Into<Bytes>, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let file = File { bytes: bytes.into(), headers, ..File::default() };
        self.put_file(path, file);
    }

    pub(crate) fn put_file(&self, path: &str, file: File) {
        self.folder.files.lock().expect("unpoisoned").insert(path.to_owned(), file);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many bytes of a file have left.
    pub(crate) fn sent(&self, path: &str) -> usize {
        self.folder.sent.lock().expect("unpoisoned").get(path).copied().unwrap_or(0)
    }

    pub(crate) fn go_down(&self) {
        self.folder.down.store(true, Ordering::Relaxed);
    }
}

async fn serve(State(folder): State<Arc<Folder>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.map(str::to_owned);
    folder.asked.lock().expect("unpoisoned").push((request.method().to_string(), path.clone(), shown));
    if folder.down.load(Ordering::Relaxed) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let (file, broken) = {
        let mut files = folder.files.lock().expect("unpoisoned");
        let Some(file) = files.get_mut(&path) else { return StatusCode::NOT_FOUND.into_response() };
        let broken = file.breaks > 0 && request.method() == "GET";
        file.breaks -= usize::from(broken);
        let now = file.clone();
        file.slow &= request.method() != "GET";
        (now, broken)
    };
    let shown = request.headers().get("x-token").and_then(|value| value.to_str().ok());
    if file.token.is_some() && file.token != shown {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut response = Response::new(Body::empty());
    for (name, value) in &file.headers {
        response.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    if let Some(to) = file.redirect {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(header::LOCATION, to.parse().expect("a value"));
        return response;
    }
    let etag = response.headers().get(header::ETAG).cloned();
    if etag.is_some() && request.headers().get(header::IF_NONE_MATCH) == etag.as_ref() {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let from = from(request.headers()).unwrap_or(0).min(file.bytes.len());
    let (rest, total) = (file.bytes.slice(from..), file.bytes.len());
    if !file.unsized_ {
        response.headers_mut().insert(header::CONTENT_LENGTH, rest.len().into());
    }
    if from > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{total}", total - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, range.parse().expect("ascii"));
    }
    if request.method() == "HEAD" {
        return response;
    }
    if let Some(gate) = &file.waits {
        gate.cancelled().await;
    }
    let half = rest.len() / 2;
    let given = if broken { rest.slice(..rest.len() / 2) } else { rest };
    let end = stream::iter(broken.then_some(())).then(async |()| {
        // What was given before goes out first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Err(std::io::Error::other("broken"))
    });
    let pieces = (0..given.len()).step_by(PIECE).map(move |at| given.slice(at..given.len().min(at + PIECE)));
    // Counted as they go out.
    let pieces = stream::iter(pieces.enumerate()).then(move |(number, piece)| {
        let (folder, path) = (folder.clone(), path.clone());
        let halts = file.halts.clone().filter(|_| number * PIECE >= half);
        async move {
            if let Some(gate) = halts {
                gate.cancelled().await;
            }
            if file.slow {
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            *folder.sent.lock().expect("unpoisoned").entry(path).or_default() += piece.len();
            Ok(piece)
        }
    });
    *response.body_mut() = Body::from_stream(pieces.chain(end));
    response
}

/// What a server sends at once.
const PIECE: usize = 64 * 1024;

fn from(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

/// A node that has the server for an OSTree repository `os` at `/repo`, and is a proxy for it.
pub(crate) async fn node(data: &Path, tracker: &str, web: &Web, change: impl FnOnce(&mut Config)) -> Node {
    let registry = Registry::start().await;
    support::node_with(data, tracker, &registry, |config| {
        let (name, url) = ("os".to_owned(), web.url("/repo"));
        config.ostree.push(OstreeConfig { name, url, ca: None, stale: true });
        config.proxy.enabled = true;
        config.proxy.private_hosts.push(web.address.to_string());
        change(config);
    })
    .await
}

pub(crate) fn rule(url: String) -> RuleConfig {
    RuleConfig { url, digest_header: None, stale: true }
}

/// By the node's own address.
pub(crate) async fn get(node: &Node, path: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    ask(client.get(format!("http://{}{path}", node.mirrors()[0]))).await
}

/// With the node for a proxy.
pub(crate) fn through(node: &Node) -> reqwest::Client {
    let proxy = reqwest::Proxy::http(format!("http://{}", node.mirrors()[0])).expect("a proxy");
    let redirects = reqwest::redirect::Policy::none();
    reqwest::Client::builder().proxy(proxy).redirect(redirects).build().expect("client")
}

pub(crate) fn object(digest: &Digest, kind: &str) -> String {
    let hex = digest.hex();
    format!("objects/{}/{}.{kind}", &hex[..2], &hex[2..])
}

/// A content object of OSTree, a regular file: its name, and its bytes in a repository.
pub(crate) fn content_object(content: &[u8]) -> (Digest, Vec<u8>) {
    // Size; uid, gid, mode, device; no target, no attributes, and where the target ends.
    let size = (content.len() as u64).to_be_bytes();
    let members = [&[0; 8][..], &0o100_644_u32.to_be_bytes(), &[0; 4], &[0]].concat();
    let with_length =
        |header: Vec<u8>| [&(header.len() as u64).to_be_bytes()[4..], &[0; 4], &header].concat();
    let checked = with_length([&members[..], &[17]].concat());
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("memory");
    let packed = with_length([&size[..], &members, &[25]].concat());
    let packed = [packed, encoder.finish().expect("memory")].concat();
    (Digest::of(&[&checked, content].concat()), packed)
}

/// Its path, and its bytes there.
pub(crate) fn filez(content: &[u8]) -> (String, Vec<u8>) {
    let (name, packed) = content_object(content);
    (object(&name, "filez"), packed)
}
