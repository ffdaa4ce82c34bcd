//! The lab's web server, from which files can come by a node's proxy; and the relay to a registry outside.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt as _;
use percent_encoding::percent_decode_str;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_util::io::ReaderStream;

use crate::registry::parse_range;

/// The most names of a folder that are listed.
const NAMES: usize = 10_000;
/// The most connections of the relay.
const RELAYED: usize = 256;
/// How long a registry outside may take to accept one.
const PATIENCE: Duration = Duration::from_secs(10);

/// What left the web server.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Bytes of files.
    pub(crate) bytes: AtomicU64,
}

/// A running web server. Dropped, it ends.
pub(crate) struct WebServer(JoinHandle<()>);

impl Drop for WebServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Served {
    root: PathBuf,
    count: Arc<Count>,
}

impl WebServer {
    /// Serves what is below `root`, but for what is hidden.
    pub(crate) fn start(listener: TcpListener, root: PathBuf, count: Arc<Count>) -> Self {
        let router = Router::new().fallback(answer).with_state(Arc::new(Served { root, count }));
        Self(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the web server has ended");
            }
        }))
    }
}

async fn answer(State(served): State<Arc<Served>>, request: Request) -> Response {
    let is_head = request.method() == Method::HEAD;
    if !is_head && request.method() != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let range =
        request.headers().get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(parse_range);
    let path = request.uri().path().to_owned();
    let root = served.root.clone();
    let found = spawn_blocking(move || find(&root, &path)).await;
    match found.ok().flatten() {
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
        Some(Found::Folder(names)) => names.into_response(),
        Some(Found::File(path)) => {
            let sent = send(served, &path, range.filter(|_| !is_head), is_head).await;
            sent.unwrap_or_else(|_| StatusCode::NOT_FOUND.into_response())
        }
    }
}

enum Found {
    File(PathBuf),
    /// Its names, a line each.
    Folder(String),
}

/// What lies at a request's path, if that leads nowhere else. Blocks.
fn find(root: &Path, path: &str) -> Option<Found> {
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let mut place = root.to_owned();
    for part in decoded.split('/').filter(|part| !part.is_empty()) {
        if part.starts_with('.') || part.contains('\0') {
            return None;
        }
        place.push(part);
    }
    // Links may lead anywhere inside.
    let (root, place) = (root.canonicalize().ok()?, place.canonicalize().ok()?);
    let inside = place.strip_prefix(&root).ok()?;
    if inside.iter().any(|part| part.as_encoded_bytes().starts_with(b".")) {
        return None;
    }
    let meta = place.metadata().ok()?;
    if meta.is_file() {
        return Some(Found::File(place));
    }
    let entries = place.read_dir().ok()?.flatten().take(NAMES);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    Some(Found::Folder(names.join("\n") + "\n"))
}

async fn send(
    served: Arc<Served>,
    path: &Path,
    range: Option<(u64, u64)>,
    is_head: bool,
) -> io::Result<Response> {
    let mut file = File::open(path).await?;
    let size = file.metadata().await?.len();
    let (first, length) = match range {
        None => (0, size),
        Some((first, last)) if first < size => (first, last.min(size - 1) - first + 1),
        Some(_) => {
            let head = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, head).into_response());
        }
    };
    let body = if is_head {
        Body::empty()
    } else {
        file.seek(io::SeekFrom::Start(first)).await?;
        let count = served.count.clone();
        let noted = move |bytes: &bytes::Bytes| {
            count.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 << 10).inspect_ok(noted))
    };
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    let mut response = (head, body).into_response();
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {first}-{}/{size}", first + length.saturating_sub(1));
        if let Ok(value) = text.parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

/// Joins each connection with one to `outside`.
pub(crate) async fn relay(listener: TcpListener, outside: String) {
    let room = Arc::new(Semaphore::new(RELAYED));
    // Dropped, they end.
    let mut joined = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((mut inside, _)) = listener.accept().await else { continue };
        while joined.try_join_next().is_some() {}
        let outside = outside.clone();
        joined.spawn(async move {
            let _place = place;
            match timeout(PATIENCE, TcpStream::connect(&outside)).await {
                // Either side may break off, which the other sees.
                Ok(Ok(mut outside)) => drop(copy_bidirectional(&mut inside, &mut outside).await),
                Ok(Err(error)) => tracing::warn!(%error, "the registry at {outside} cannot be reached"),
                Err(_) => tracing::warn!("the registry at {outside} does not answer for {PATIENCE:?}"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("sub")).expect("made");
        std::fs::write(folder.path().join("sub/a b"), "0123456789").expect("written");
        std::fs::write(folder.path().join(".secret"), "x").expect("written");
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("out")).expect("linked");
        std::os::unix::fs::symlink(".secret", folder.path().join("in")).expect("linked");
        folder
    }

    #[test]
    fn nothing_outside_and_nothing_hidden_is_found() {
        let folder = folder();
        let is_file = |path: &str| matches!(find(folder.path(), path), Some(Found::File(_)));
        assert!(is_file("/sub/a%20b") && is_file("//sub//a%20b"));
        for path in [
            "/.secret",
            "/sub/../.secret",
            "/%2e%2e/etc/passwd",
            "/out",
            "/in",
            "/sub/c",
            "/sub/a%00b",
            "/%ff",
        ] {
            assert!(find(folder.path(), path).is_none(), "{path}");
        }
        let Some(Found::Folder(names)) = find(folder.path(), "/") else { panic!("a folder") };
        assert_eq!(names, "in\nout\nsub\n");
    }

    #[tokio::test]
    async fn ranges_are_served_and_counted() {
        let folder = folder();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/sub/a%20b", listener.local_addr().expect("bound"));
        let count = Arc::new(Count::default());
        let _server = WebServer::start(listener, folder.path().to_owned(), count.clone());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        let get = async |range: &str| {
            let answer = client.get(&url).header("range", range).send().await.expect("answers");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        };
        assert_eq!(get("bytes=2-4").await, (206, "234".into()));
        assert_eq!(get("bytes=8-99").await, (206, "89".into()));
        assert_eq!(get("bytes=10-").await.0, 416);
        assert_eq!(get("lines=1-2").await, (200, "0123456789".into()));
        assert_eq!(count.bytes.load(Ordering::Relaxed), 15);
    }

    #[tokio::test]
    async fn a_relay_passes_both_ways() {
        let folder = folder();
        let outside = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let inside = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let (to, url) = (outside.local_addr().expect("bound"), inside.local_addr().expect("bound"));
        let _server = WebServer::start(outside, folder.path().to_owned(), Arc::default());
        let relay = tokio::spawn(relay(inside, to.to_string()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        let answer = client.get(format!("http://{url}/sub/a%20b")).send().await.expect("answers");
        assert_eq!(answer.text().await.expect("text"), "0123456789");
        relay.abort();
    }
}
