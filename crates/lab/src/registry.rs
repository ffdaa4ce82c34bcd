//! A small origin registry: serves the images of an OCI image layout, read-only, and counts what leaves it.
//!
//! It exists so that the lab can show how often each blob left the origin, over a link as thin as wanted.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use hash::Digest;
use serde_json::{Value, json};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::image::{ImageError, MANIFEST_TYPE, REF_NAME, read_index};

/// Largest manifest that is served.
const MANIFEST_LIMIT: u64 = 8 << 20;
/// The most that is read and sent at once.
const CHUNK: u64 = 256 << 10;
/// How long answers may run on when the registry stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What a registry serves.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// The OCI image layout. Its `index.json` is read at every request by tag, so images may be added while it runs.
    pub layout: PathBuf,
    /// How many bytes per second leave it, all clients together; none for as many as possible.
    pub bytes_per_second: Option<u64>,
}

/// A running registry. Dropping it stops it at once; [`Registry::stop`] lets answers finish first.
#[derive(Debug)]
pub struct Registry {
    addr: SocketAddr,
    counters: Counters,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

/// What left the registry since it started. Clones share the figures.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    blobs: Arc<Mutex<BTreeMap<Digest, Count>>>,
}

/// What left the registry of one blob or manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// GET requests that were answered with bytes.
    pub gets: u64,
    /// HEAD requests.
    pub heads: u64,
    /// Body bytes handed to connections.
    pub bytes: u64,
}

impl Registry {
    /// Serves the layout on `listener`. An image is found under the `name:tag` that its annotation in `index.json`
    /// holds; when that is a bare tag, under any name.
    pub fn start(listener: TcpListener, config: RegistryConfig) -> io::Result<Self> {
        Self::start_counting(listener, config, Counters::default())
    }

    /// The same, which goes on with the figures of another that has ended.
    pub fn start_counting(
        listener: TcpListener,
        config: RegistryConfig,
        counters: Counters,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let served = Arc::new(Served {
            layout: config.layout,
            counters: counters.clone(),
            uplink: config.bytes_per_second.map(Uplink::new),
        });
        let router = Router::new().fallback(answer).with_state(served);
        let stopped = shutdown.clone();
        let server = tokio::spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned());
            if let Err(error) = serving.await {
                tracing::error!(%error, "the registry has ended");
            }
        });
        Ok(Self { addr, counters, shutdown, server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The figures so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes no more requests, and ends when the running answers have, or soon after.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let _ = tokio::time::timeout(DRAIN, &mut self.server).await;
        self.server.abort();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.server.abort();
    }
}

impl Counters {
    /// A copy of all figures, by digest.
    pub fn snapshot(&self) -> BTreeMap<Digest, Count> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The figures of one blob or manifest.
    pub fn of(&self, digest: &Digest) -> Count {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied().unwrap_or_default()
    }

    /// All body bytes together.
    pub fn total_bytes(&self) -> u64 {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).values().map(|count| count.bytes).sum()
    }

    fn note(&self, digest: Digest, what: impl FnOnce(&mut Count)) {
        what(self.blobs.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default());
    }
}

#[derive(Debug)]
struct Served {
    layout: PathBuf,
    counters: Counters,
    uplink: Option<Uplink>,
}

/// A link that passes so many bytes per second, first come first served.
#[derive(Debug)]
struct Uplink {
    rate: u64,
    /// When the link is free again.
    free: Mutex<Option<Instant>>,
}

impl Uplink {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), free: Mutex::new(None) }
    }

    /// Bytes worth sending at once: a twentieth of a second, so that clients share the link evenly.
    fn chunk(&self) -> u64 {
        (self.rate / 20).clamp(1024, CHUNK)
    }

    /// Waits until `bytes` have passed.
    async fn pass(&self, bytes: u64) {
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let until =
                free.map_or(now, |at| at.max(now)) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            *free = Some(until);
            until
        };
        sleep_until(until).await;
    }
}

async fn answer(State(served): State<Arc<Served>>, request: Request) -> Response {
    let is_head = request.method() == Method::HEAD;
    if !is_head && request.method() != Method::GET {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
    }
    let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = request.uri().path().to_owned();
    let Some(rest) = path.strip_prefix("/v2") else { return refusal(StatusCode::NOT_FOUND, "UNSUPPORTED") };
    if rest.is_empty() || rest == "/" {
        return typed("application/json", Body::from("{}"));
    }
    let mut words = rest.trim_start_matches('/').rsplitn(3, '/');
    let (Some(last), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
        return refusal(StatusCode::NOT_FOUND, "UNSUPPORTED");
    };
    match (kind, last) {
        ("manifests", _) => served.manifest(name, last, is_head).await,
        ("blobs", _) => match last.parse() {
            Ok(digest) => served.blob(digest, is_head, range.as_deref()).await,
            Err(_) => refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        },
        ("tags", "list") => served.tags(name).await,
        _ => refusal(StatusCode::NOT_FOUND, "UNSUPPORTED"),
    }
}

impl Served {
    async fn manifest(self: Arc<Self>, name: &str, reference: &str, is_head: bool) -> Response {
        let digest = match reference.parse() {
            Ok(digest) => Some(digest),
            Err(_) => self.images().await.into_iter().find_map(|image| image.digest_if(name, reference)),
        };
        let Some(digest) = digest else { return refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN") };
        let Ok(bytes) = read_small(&self.place(&digest)).await else {
            return refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        };
        let media_type = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|manifest| manifest["mediaType"].as_str().map(str::to_owned))
            .unwrap_or_else(|| MANIFEST_TYPE.to_owned());
        let length = bytes.len() as u64;
        self.counters.note(digest, |count| {
            if is_head {
                count.heads += 1;
            } else {
                count.gets += 1;
                count.bytes += length;
            }
        });
        if let Some(uplink) = self.uplink.as_ref().filter(|_| !is_head) {
            uplink.pass(length).await;
        }
        let mut response = typed(&media_type, if is_head { Body::empty() } else { Body::from(bytes) });
        set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        set(&mut response, DIGEST_HEADER, &digest.to_string());
        response
    }

    async fn blob(self: Arc<Self>, digest: Digest, is_head: bool, range: Option<&str>) -> Response {
        let unknown = || refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        let Ok(mut file) = File::open(self.place(&digest)).await else { return unknown() };
        let Ok(size) = file.metadata().await.map(|metadata| metadata.len()) else { return unknown() };
        let asked = range.filter(|_| !is_head).and_then(parse_range);
        let (first, length) = match asked {
            None => (0, size),
            Some((first, last)) if first < size => (first, last.min(size - 1) - first + 1),
            Some(_) => {
                let mut response = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID");
                set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
                return response;
            }
        };
        self.counters.note(digest, |count| if is_head { count.heads += 1 } else { count.gets += 1 });
        let body = if is_head {
            Body::empty()
        } else {
            if first > 0 && file.seek(io::SeekFrom::Start(first)).await.is_err() {
                return unknown();
            }
            self.stream(digest, file, length)
        };
        let mut response = typed("application/octet-stream", body);
        set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        set(&mut response, header::ACCEPT_RANGES, "bytes");
        set(&mut response, DIGEST_HEADER, &digest.to_string());
        if asked.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let last = first + length - 1;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
        }
        response
    }

    /// `length` bytes of `file`, through the uplink if there is one, counted as they go.
    fn stream(self: Arc<Self>, digest: Digest, file: File, length: u64) -> Body {
        let chunk = self.uplink.as_ref().map_or(CHUNK, Uplink::chunk);
        let served = self;
        Body::from_stream(stream::try_unfold(
            (served, file, length),
            move |(served, mut file, left)| async move {
                if left == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let wanted = left.min(chunk);
                let mut bytes = BytesMut::with_capacity(wanted as usize);
                let read = (&mut file).take(wanted).read_buf(&mut bytes).await? as u64;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some(uplink) = &served.uplink {
                    uplink.pass(read).await;
                }
                served.counters.note(digest, |count| count.bytes += read);
                Ok(Some((bytes.freeze(), (served, file, left - read))))
            },
        ))
    }

    async fn tags(&self, name: &str) -> Response {
        let tags: Vec<String> =
            self.images().await.into_iter().filter(|i| i.is_called(name)).map(|i| i.tag).collect();
        if tags.is_empty() {
            return refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
        }
        typed("application/json", Body::from(json!({ "name": name, "tags": tags }).to_string()))
    }

    async fn images(&self) -> Vec<Named> {
        let layout = self.layout.clone();
        let read = tokio::task::spawn_blocking(move || read_index(&layout)).await;
        let manifests = match read.unwrap_or_else(|error| {
            Err(ImageError::Io { path: self.layout.clone(), error: io::Error::other(error) })
        }) {
            Ok(manifests) => manifests,
            Err(error) => {
                tracing::warn!(%error, "the registry's index cannot be read");
                return Vec::new();
            }
        };
        manifests.iter().filter_map(Named::read).collect()
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.layout.join("blobs").join("sha256").join(digest.hex())
    }
}

/// An image of `index.json`.
struct Named {
    /// None: any.
    name: Option<String>,
    tag: String,
    digest: Digest,
}

impl Named {
    fn read(descriptor: &Value) -> Option<Self> {
        let digest = descriptor["digest"].as_str()?.parse().ok()?;
        let annotation = descriptor["annotations"][REF_NAME].as_str()?;
        let (name, tag) = match annotation.rsplit_once(':') {
            Some((name, tag)) => (Some(name.to_owned()), tag),
            None => (None, annotation),
        };
        Some(Self { name, tag: tag.to_owned(), digest })
    }

    fn is_called(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|own| own == name)
    }

    fn digest_if(&self, name: &str, tag: &str) -> Option<Digest> {
        (self.is_called(name) && self.tag == tag).then_some(self.digest)
    }
}

const DIGEST_HEADER: header::HeaderName = header::HeaderName::from_static("docker-content-digest");

fn typed(media_type: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    set(&mut response, header::CONTENT_TYPE, media_type);
    response
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn refusal(status: StatusCode, code: &str) -> Response {
    let body = json!({ "errors": [{ "code": code, "message": code.to_ascii_lowercase() }] });
    let mut response = typed("application/json", Body::from(body.to_string()));
    *response.status_mut() = status;
    response
}

/// `bytes=a-b` and `bytes=a-`; anything else counts as no range, which is allowed.
pub(crate) fn parse_range(header: &str) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    (first <= last).then_some((first, last))
}

async fn read_small(path: &Path) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    File::open(path).await?.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > MANIFEST_LIMIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::image::{ImageSummary, build};

    async fn start(bytes_per_second: Option<u64>) -> (tempfile::TempDir, ImageSummary, Registry) {
        let directory = tempfile::tempdir().unwrap();
        let (sources, layout) = (directory.path().join("sources"), directory.path().join("layout"));
        std::fs::create_dir(&sources).unwrap();
        for n in 0..6u8 {
            let noise: Vec<u8> =
                (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ n).collect();
            std::fs::write(sources.join(format!("file-{n}")), noise).unwrap();
        }
        let summary = build(&sources, &[], &layout, "demo/app:1").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Registry::start(listener, RegistryConfig { layout, bytes_per_second }).unwrap();
        (directory, summary, registry)
    }

    fn client(registry: &Registry) -> (origin::Origin, origin::Repository) {
        let name = registry.addr().to_string();
        let upstreams = vec![origin::Upstream { registry: name.clone(), ..origin::Upstream::default() }];
        let config = origin::OriginConfig { upstreams, ..origin::OriginConfig::default() };
        (origin::Origin::new(&config).unwrap(), origin::Repository::new(&name, "demo/app").unwrap())
    }

    #[tokio::test]
    async fn an_image_is_served_and_what_leaves_is_counted() {
        let (_directory, summary, registry) = start(None).await;
        let (origin, repository) = client(&registry);
        let tag = origin::Target::Tag("1".into());
        let manifest = origin.manifest(&repository, &tag, &[]).await.unwrap();
        assert_eq!((manifest.digest, manifest.media_type.as_str()), (summary.manifest_digest, MANIFEST_TYPE));
        let head = origin.head_manifest(&repository, &tag, &[]).await.unwrap();
        assert_eq!(head.digest, Some(summary.manifest_digest));
        let (layer, size) = summary.layers[0];
        assert_eq!(origin.blob_size(&repository, &layer).await.unwrap(), size);
        for from in [0, 1000] {
            let mut body = origin.blob(&repository, &layer, from).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next_chunk().await.unwrap() {
                bytes.extend_from_slice(&chunk);
            }
            assert_eq!(bytes.len() as u64, size - from);
            assert!(from > 0 || Digest::of(&bytes) == layer);
        }
        assert_eq!(registry.counters().of(&layer), Count { gets: 2, heads: 1, bytes: 2 * size - 1000 });
        let missing = origin.blob(&repository, &Digest::of(b"?"), 0).await;
        assert!(matches!(missing, Err(origin::OriginError::NotFound { .. })));
        let wrong = origin::Target::Tag("2".into());
        assert!(origin.manifest(&repository, &wrong, &[]).await.is_err());
        registry.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_uplink_passes_so_many_bytes_per_second_for_all_together() {
        let uplink = Uplink::new(1000);
        let begin = Instant::now();
        futures_util::join!(uplink.pass(500), uplink.pass(500), uplink.pass(1000));
        assert_eq!(begin.elapsed().as_millis(), 2000);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn skopeo_copies_from_it() {
        if Command::new("skopeo").arg("--version").output().is_err() {
            eprintln!("skipped: skopeo is not installed");
            return;
        }
        let (directory, summary, registry) = start(Some(10 << 20)).await;
        let from = format!("docker://{}/demo/app:1", registry.addr());
        let to = directory.path().join("copy");
        let target = format!("dir:{}", to.display());
        let copy = tokio::task::spawn_blocking(move || {
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--src-tls-verify=false", &from, &target])
                .output()
        });
        let copy = copy.await.unwrap().unwrap();
        assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
        for (layer, size) in &summary.layers {
            assert_eq!(std::fs::metadata(to.join(layer.hex())).unwrap().len(), *size);
            assert_eq!(registry.counters().of(layer).bytes, *size);
        }
    }
}
