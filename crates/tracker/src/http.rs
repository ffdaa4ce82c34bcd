//! What each path does with a request.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use announce::{
    AnnounceRequest, AnnounceResponse, PeerFormat, ScrapeRequest, ScrapeResponse, encode_failure,
};
use api::{
    ErrorBody,
    directory::{
        Claim, ClaimRequest, Entry, LeaseRequest, MAX_PUBLISH_BODY, MAX_TEXT, MAX_WAIT_MS, PublishRequest,
        TagRequest,
    },
};
use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use hash::Digest;

use crate::{
    auth::Auth,
    config::Config,
    directory::{Asked, Directory},
    error::DirectoryError,
    metrics::{Answer, Kind, Levels, Metrics},
    peers::PeerStore,
    server::{Clock, Connections},
};

/// The longest body of any call but a publication, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) peers: PeerStore,
    pub(crate) directory: Directory,
    pub(crate) metrics: Metrics,
    pub(crate) auth: Auth,
    pub(crate) clock: Clock,
    pub(crate) connections: Connections,
    /// Drawn at start: by it a node sees that the tracker restarted and lost all peers.
    pub(crate) tracker_id: Vec<u8>,
}

type App = Arc<Shared>;

pub(crate) fn router(shared: App) -> Router {
    let blob = "/directory/v1/blobs/{digest}";
    let directory = Router::new()
        .route(blob, get(entry))
        .route(blob, put(publish).layer(DefaultBodyLimit::max(MAX_PUBLISH_BODY)))
        .route("/directory/v1/blobs/{digest}/claim", post(claim))
        .route("/directory/v1/blobs/{digest}/renew", post(renew))
        .route("/directory/v1/blobs/{digest}/release", post(release))
        .route("/directory/v1/tags", get(tag).put(set_tag))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), check_token));
    Router::new()
        .route("/announce", get(announce))
        .route("/scrape", get(scrape))
        .route("/metrics", get(metrics))
        .route("/health", get(async || "ok\n"))
        .route("/", get(async || concat!("longshore tracker ", env!("CARGO_PKG_VERSION"), "\n")))
        .merge(directory)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

async fn announce(State(app): State<App>, ConnectInfo(from): ConnectInfo<SocketAddr>, uri: Uri) -> Response {
    // The query as it stands: an info-hash is any bytes, and no text once it is decoded.
    let request = match AnnounceRequest::parse_query(uri.query().unwrap_or_default().as_bytes()) {
        Ok(request) => request,
        Err(error) => {
            app.metrics.announced(Kind::Malformed);
            return bencoded(encode_failure(&error.to_string(), None));
        }
    };
    let mut ip = from.ip().to_canonical();
    if app.config.ip_from_loopback && ip.is_loopback() {
        let claimed = request.ip.or(request.ipv4.map(Into::into)).or(request.ipv6.map(Into::into));
        ip = claimed.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).unwrap_or(ip);
    }
    let announced = app.peers.announce(app.clock.elapsed(), &request, ip);
    app.metrics.announced(announced.outcome.into());
    let response = AnnounceResponse {
        min_interval: Some(Duration::from_secs(app.config.min_interval)),
        complete: Some(announced.stats.complete),
        incomplete: Some(announced.stats.incomplete),
        downloaded: Some(announced.stats.downloaded),
        peers: announced.peers,
        tracker_id: Some(app.tracker_id.clone()),
        external_ip: Some(ip),
        ..AnnounceResponse::new(Duration::from_secs(app.config.interval))
    };
    bencoded(response.encode(PeerFormat::of(&request)))
}

async fn scrape(State(app): State<App>, uri: Uri) -> Response {
    let request = match ScrapeRequest::parse_query(uri.query().unwrap_or_default().as_bytes()) {
        Ok(request) if request.info_hashes.is_empty() => {
            return bencoded(encode_failure("name at least one info_hash: there is no full scrape", None));
        }
        Ok(request) => request,
        Err(error) => return bencoded(encode_failure(&error.to_string(), None)),
    };
    app.metrics.scrapes.inc();
    let known = |info_hash| Some((info_hash, app.peers.scrape(&info_hash)?));
    let files = request.info_hashes.into_iter().filter_map(known).collect();
    bencoded(ScrapeResponse { files, min_request_interval: None }.encode())
}

async fn metrics(State(app): State<App>) -> Result<Response, Failure> {
    let (torrents, peers) = app.peers.totals();
    let (entries, tags) = app.directory.sizes().await?;
    let (leases, waiting) = (app.directory.leases(), app.directory.waiting());
    let connections = app.connections.open();
    let text = app.metrics.text(&Levels { torrents, peers, leases, waiting, entries, tags, connections });
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn claim(
    State(app): State<App>,
    digest: Result<Path<String>, PathRejection>,
    body: Result<Json<ClaimRequest>, JsonRejection>,
) -> Result<Json<Claim>, Failure> {
    let (digest, Json(body)) = (blob(digest)?, body?);
    short("node", &body.node)?;
    let wait = Duration::from_millis(body.wait_ms.min(MAX_WAIT_MS));
    let mut claim = app.directory.claim(&Asked { digest, node: body.node, wait, stale: body.stale }).await?;
    app.metrics.claimed(match &claim {
        Claim::Known(_) => Answer::Known,
        Claim::Leased(_) => Answer::Leased,
        Claim::Held { .. } => Answer::Held,
    });
    if let Claim::Known(entry) = &mut claim {
        app.tell_swarm(entry);
    }
    Ok(Json(claim))
}

async fn entry(
    State(app): State<App>,
    digest: Result<Path<String>, PathRejection>,
) -> Result<Json<Entry>, Failure> {
    let digest = blob(digest)?;
    let mut entry = app.directory.get(digest).await?.ok_or_else(|| missing(&digest.to_string()))?;
    app.tell_swarm(&mut entry);
    Ok(Json(entry))
}

async fn publish(
    State(app): State<App>,
    digest: Result<Path<String>, PathRejection>,
    body: Result<Json<PublishRequest>, JsonRejection>,
) -> Result<Json<Entry>, Failure> {
    let (digest, Json(body)) = (blob(digest)?, body?);
    if let Some(media_type) = &body.media_type {
        short("media_type", media_type)?;
    }
    let mut entry = app.directory.publish(digest, body).await?;
    app.metrics.publications.inc();
    app.tell_swarm(&mut entry);
    Ok(Json(entry))
}

async fn renew(
    State(app): State<App>,
    digest: Result<Path<String>, PathRejection>,
    body: Result<Json<LeaseRequest>, JsonRejection>,
) -> Result<Response, Failure> {
    let (digest, Json(body)) = (blob(digest)?, body?);
    short("node", &body.node)?;
    short("lease", &body.lease)?;
    Ok(Json(app.directory.renew(digest, &body.node, body.lease).await?).into_response())
}

async fn release(
    State(app): State<App>,
    digest: Result<Path<String>, PathRejection>,
    body: Result<Json<LeaseRequest>, JsonRejection>,
) -> Result<StatusCode, Failure> {
    let (digest, Json(body)) = (blob(digest)?, body?);
    app.directory.release(&digest, &body.node, &body.lease);
    Ok(StatusCode::NO_CONTENT)
}

async fn set_tag(
    State(app): State<App>,
    body: Result<Json<TagRequest>, JsonRejection>,
) -> Result<Response, Failure> {
    let Json(body) = body?;
    short("name", &body.name)?;
    short("media_type", &body.media_type)?;
    Ok(Json(app.directory.set_tag(body).await?).into_response())
}

#[derive(serde::Deserialize)]
struct ByName {
    name: String,
}

async fn tag(
    State(app): State<App>,
    query: Result<Query<ByName>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(ByName { name }) = query?;
    short("name", &name)?;
    let tag = app.directory.tag(name.clone()).await?.ok_or_else(|| missing(&name))?;
    Ok(Json(tag).into_response())
}

async fn check_token(State(app): State<App>, headers: HeaderMap, request: Request, next: Next) -> Response {
    if app.auth.allows(&headers) {
        return next.run(request).await;
    }
    app.metrics.refused.inc();
    let body =
        Json(ErrorBody::new("the content directory asks for a token, and this is none or not the one"));
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, challenge, body).into_response()
}

impl Shared {
    /// Adds what the tracker knows of the entry's swarm.
    fn tell_swarm(&self, entry: &mut Entry) {
        let stats = self.peers.scrape(&entry.info_hash).unwrap_or_default();
        entry.complete = Some(stats.complete);
        entry.incomplete = Some(stats.incomplete);
    }
}

/// A call that failed: a status and a sentence.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody::new(self.1))).into_response()
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        let status = match &error {
            DirectoryError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            DirectoryError::Full(_) | DirectoryError::Closing => StatusCode::SERVICE_UNAVAILABLE,
            DirectoryError::Database(_) | DirectoryError::Lost(_) => {
                tracing::error!(%error, "the content directory failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self(status, error.to_string())
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

fn blob(digest: Result<Path<String>, PathRejection>) -> Result<Digest, Failure> {
    let Path(digest) = digest.map_err(|rejection| Failure(rejection.status(), rejection.body_text()))?;
    digest.parse().map_err(|error: hash::DigestError| Failure(StatusCode::BAD_REQUEST, error.to_string()))
}

fn short(name: &str, text: &str) -> Result<(), Failure> {
    if (1..=MAX_TEXT).contains(&text.len()) {
        return Ok(());
    }
    let length = text.len();
    Err(Failure(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("`{name}` has {length} bytes: it must have 1 to {MAX_TEXT}"),
    ))
}

fn missing(what: &str) -> Failure {
    Failure(StatusCode::NOT_FOUND, format!("{what} is not in the directory"))
}

fn bencoded(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))], body).into_response()
}
