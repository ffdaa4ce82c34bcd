//! The API: what each path but those of announces does with a request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use api::{
    ErrorBody,
    directory::{
        Claim, ClaimRequest, Entry, LeaseRequest, MAX_PUBLISH_BODY, MAX_TEXT, MAX_WAIT_MS, PublishRequest,
        Run, TagClaim, TagClaimRequest, TagRequest,
    },
};
use axum::{
    Json, Router,
    body::{Body, HttpBody as _},
    extract::{
        ConnectInfo, DefaultBodyLimit, Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hash::Digest;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    auth::Auth,
    bencoded,
    cluster::Cluster,
    config::Config,
    desk::Desk,
    directory::{Asked, Caller, Directory},
    error::DirectoryError,
    full_scrape,
    http::{
        exchange::{Action, Asker, Exchange, names_a_torrent, passkey},
        idle::Idle,
    },
    metrics::{self, Answer, Levels, Metrics},
    places::{Place, Places},
    policy::{KEY_WANTED, TOO_OFTEN},
    serve::Client,
    server::Clock,
    stats::{Stats, announces_and_faults},
    status::{self, Page, Rates},
    tally::{Fault, Tallies},
};

/// How many publications are worked on at a time.
pub(crate) const PUBLICATIONS: usize = 16;

/// How many bytes of publications that are not taken in yet are kept, of all and of one host.
pub(crate) const BODIES: usize = 256 * 1024 * 1024;
pub(crate) const BODIES_OF_A_HOST: usize = 4 * MAX_PUBLISH_BODY;

/// How long the body of one may take to come, and how long it waits for its turn then.
const BODY: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_secs(10);

/// The longest body of any call but a publication, in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) desk: Arc<Desk>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) directory: Directory,
    pub(crate) metrics: Metrics,
    pub(crate) auth: Auth,
    pub(crate) clock: Clock,
    pub(crate) connections: Places,
    /// Drawn at start: by it a node sees that the tracker restarted and lost all peers.
    pub(crate) tracker_id: Arc<[u8]>,
    /// What the listeners count.
    pub(crate) tallies: Vec<Tallies>,
    pub(crate) rates: Rates,
    /// Connections that ask nothing now.
    pub(crate) idle: Idle,
    /// So many publications at a time: reading one takes twice [`MAX_PUBLISH_BODY`] of memory.
    pub(crate) publications: Arc<Semaphore>,
    /// What has come of publications, in bytes.
    pub(crate) bodies: Places,
    /// One full scrape at a time.
    pub(crate) full_scrapes: Arc<Semaphore>,
}

type App = Arc<Shared>;

pub(crate) fn router(shared: App) -> Router {
    let blob = "/directory/v1/blobs/{digest}";
    let directory = Router::new()
        .route(blob, get(entry))
        .route(
            blob,
            put(publish)
                .layer(DefaultBodyLimit::max(MAX_PUBLISH_BODY))
                .layer(middleware::from_fn_with_state(Arc::clone(&shared), take_turns)),
        )
        .route("/directory/v1/blobs/{digest}/claim", post(claim))
        .route("/directory/v1/blobs/{digest}/renew", post(renew))
        .route("/directory/v1/blobs/{digest}/release", post(release))
        .route("/directory/v1/tags", get(tag).put(set_tag))
        .route("/directory/v1/tags/claim", post(claim_tag))
        .route("/directory/v1/run", get(run))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), check_token));
    let figures = Router::new()
        .route("/", get(status_page))
        .route("/status.css", get(style))
        .route("/stats", get(stats))
        .route("/stats.json", get(stats))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), check_place));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(health))
        .route("/health", get(health))
        .route("/favicon.ico", get(icon))
        .merge(directory)
        .merge(figures)
        .fallback(tracker)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

/// Announces and scrapes on a connection that was used for something else before, with other methods than `GET`, or
/// with a body; and what there is not.
async fn tracker(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    // The query as it stands: an info-hash is any bytes, and no text once it is decoded.
    let (path, query) = (uri.path().as_bytes(), uri.query().unwrap_or_default().as_bytes());
    let Some(action) = Action::of(path) else { return StatusCode::NOT_FOUND.into_response() };
    if app.config.full_scrape && action == Action::Scrape && !names_a_torrent(query) {
        return all_torrents(&app, &client, path, &headers);
    }
    let asker = Asker { ip: app.asker(&client, &headers), by: client.from };
    let (mut body, now) = (Vec::new(), app.clock.elapsed());
    let mut exchange = Exchange::new(Arc::clone(&app.desk), Arc::clone(&app.tracker_id), client.tally);
    if exchange.is_within_rate(now, asker.ip) {
        exchange.answer(now, action, path, query, asker, &mut body);
    } else {
        exchange.hold_off(asker, &mut body);
    }
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))], body).into_response()
}

/// A scrape of all torrents. Who may list them needs no key, but none may be wrong.
fn all_torrents(app: &App, client: &Client, path: &[u8], headers: &HeaderMap) -> Response {
    let key = passkey(path);
    if !key.is_empty() && !app.desk.policy.load().may_scrape(key) {
        client.tally.of(app.asker(client, headers).or(client.from)).fault(Fault::Refused);
        let mut body = Vec::new();
        bencoded::failed(KEY_WANTED, None, &mut body);
        return ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))], body).into_response();
    }
    if !app.may_list(client, headers) {
        return forbidden("all torrents at once");
    }
    app.may_not_see(client, headers).unwrap_or_else(|| full_scrape::answer(app, headers))
}

/// Lets so many publications through at a time as there may be, each when it has come: whoever sends slowly takes
/// nobody's turn.
async fn take_turns(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let host = app.asker(&client, &parts.headers);
    let free = app.desk.policy.load().is_free(host);
    let place = app.bodies.begin(host, free);
    let slow = || Failure(StatusCode::REQUEST_TIMEOUT, "the publication took too long to come".to_owned());
    let (body, _place) = timeout(BODY, whole(body, place)).await.map_err(|_| slow())??;
    let Ok(Ok(_turn)) = timeout(TURN, app.publications.acquire()).await else { return Err(full()) };
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}

/// Reads a publication's body, in a place that grows with it.
async fn whole(body: Body, mut place: Place) -> Result<(Bytes, Place), Failure> {
    let long = || Failure(StatusCode::PAYLOAD_TOO_LARGE, "the publication is too long".to_owned());
    if body.size_hint().lower() > MAX_PUBLISH_BODY as u64 {
        return Err(long());
    }
    let (mut all, mut parts) = (BytesMut::new(), body.into_data_stream());
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))?;
        if all.len() + part.len() > MAX_PUBLISH_BODY {
            return Err(long());
        }
        place.grow(part.len()).map_err(|_| full())?;
        all.extend_from_slice(&part);
    }
    Ok((all.freeze(), place))
}

fn full() -> Failure {
    let error = "too many publications at the same time: try again".to_owned();
    Failure(StatusCode::SERVICE_UNAVAILABLE, error)
}

/// Lets through whoever may see statistics.
async fn check_place(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
    next: Next,
) -> Response {
    match app.may_not_see(&client, request.headers()) {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

fn forbidden(what: &str) -> Response {
    let why = format!("{what} may be seen from some networks only, and this is none of them: `stats_from`");
    (StatusCode::FORBIDDEN, Json(ErrorBody::new(why))).into_response()
}

async fn stats(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let json = uri.path().ends_with(".json") || accepts.starts_with("application/json");
    let top = uri.query().and_then(|query| query.strip_prefix("top=")?.parse().ok()).unwrap_or(10);
    let top = if app.may_list(&client, &headers) { top } else { 0 };
    let stats = tokio::task::spawn_blocking(move || Stats::gather(&app, top))
        .await
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(if json { Json(stats).into_response() } else { stats.to_string().into_response() })
}

/// Whether all works: announces are answered where this is, and so what is left is whether blobs can be published.
async fn health(State(app): State<App>) -> (StatusCode, String) {
    match app.directory.failing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the content directory cannot be written: {why}\n"))
        }
    }
}

/// The page for people.
async fn status_page(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let top = app.may_list(&client, &headers).then_some(status::TOP);
    let directory = app.directory.sizes().await.map_err(|error| error.to_string());
    let page = tokio::task::spawn_blocking(move || {
        let forwarders = app.desk.policy.load().forwarders.as_ref().map(|forwarders| forwarders.health());
        let counts = announces_and_faults(&app.tallies);
        let listeners = app.tallies.iter().map(|tallies| (tallies.listener.clone(), tallies.protocol.name()));
        let page = Page {
            stats: Stats::gather(&app, top.unwrap_or_default()),
            lists: top.is_some(),
            rates: app.rates.per_second(app.clock.elapsed(), counts),
            listeners: listeners.collect(),
            forwarders: forwarders.unwrap_or_default(),
            home: app.config.directory.as_ref().map(ToString::to_string),
            directory,
            failing: app.directory.failing(),
            etcd: app.directory.etcd(),
            waiting: app.directory.waiting(),
            memory: resident(),
        };
        page.to_string()
    });
    let page = page.await.map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let fields = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, status::CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((fields, page).into_response())
}

async fn style() -> impl IntoResponse {
    let fields = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "max-age=600"),
    ];
    (fields, status::STYLE)
}

async fn icon() -> impl IntoResponse {
    let fields = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "max-age=86400")];
    (fields, status::ICON)
}

/// The bytes of memory that this process has.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let (torrents, peers) = app.desk.store.totals();
    // Where it cannot be read, the rest is told all the same.
    let (sizes, etcd) = (app.directory.sizes().await.ok(), app.directory.etcd());
    let writable = app.directory.failing().is_none();
    let (waiting, connections) = (app.directory.waiting(), app.connections.taken());
    let levels = Levels { torrents, peers, waiting, sizes, writable, connections, etcd };
    let forwards = app.desk.policy.load().forwarders.as_ref().map(|forwarders| forwarders.counts());
    let forwards = forwards.unwrap_or_default();
    let members = app.cluster.as_ref().map(|cluster| cluster.members()).unwrap_or_default();
    let text = app.metrics.text(&app.tallies, &levels, &forwards, members);
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (text, kind) = if accept.contains("application/openmetrics-text") {
        (text, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (metrics::classic(&text), "text/plain; version=0.0.4; charset=utf-8")
    };
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn claim(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    headers: HeaderMap,
    digest: Result<Path<String>, PathRejection>,
    body: Result<Json<ClaimRequest>, JsonRejection>,
) -> Result<Json<Claim>, Failure> {
    let (digest, Json(body)) = (blob(digest)?, body?);
    short("node", &body.node)?;
    let wait = Duration::from_millis(body.wait_ms.min(MAX_WAIT_MS));
    let asker = app.caller(client, &headers);
    let asked = Asked { digest, node: body.node, wait, stale: body.stale };
    let mut claim = app.directory.claim(&asked, &asker).await?;
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
    app.directory.release(&digest, &body.node, &body.lease).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn claim_tag(
    State(app): State<App>,
    ConnectInfo(client): ConnectInfo<Client>,
    headers: HeaderMap,
    body: Result<Json<TagClaimRequest>, JsonRejection>,
) -> Result<Json<TagClaim>, Failure> {
    let Json(TagClaimRequest { name, node, wait_ms }) = body?;
    short("name", &name)?;
    short("node", &node)?;
    let wait = Duration::from_millis(wait_ms.min(MAX_WAIT_MS));
    Ok(Json(app.directory.claim_tag(name, &node, wait, &app.caller(client, &headers)).await?))
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

async fn run(State(app): State<App>) -> Json<Run> {
    Json(Run { run: String::from_utf8_lossy(&app.tracker_id).into_owned() })
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
    /// Who asks: whoever is behind the client, where that is a trusted proxy. `None` where it does not say.
    fn asker(&self, client: &Client, headers: &HeaderMap) -> Option<IpAddr> {
        let field = |name: &[u8]| {
            let name = std::str::from_utf8(name).unwrap_or_default();
            headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
        };
        self.desk.policy.load().client(client.from, field)
    }

    /// Who waits for the directory.
    fn caller(&self, client: Client, headers: &HeaderMap) -> Caller {
        let host = self.asker(&client, headers);
        Caller { host, free: self.desk.policy.load().is_free(host), line: Some(client.line) }
    }

    /// Whether one who asks may see torrents that were not named.
    fn may_list(&self, client: &Client, headers: &HeaderMap) -> bool {
        self.desk.policy.load().may_list(self.asker(client, headers))
    }

    /// Why one who asks for figures gets none.
    fn may_not_see(&self, client: &Client, headers: &HeaderMap) -> Option<Response> {
        let from = self.asker(client, headers);
        let policy = self.desk.policy.load();
        if !policy.may_see(from) {
            return Some(forbidden("this"));
        }
        if !policy.is_within_rate(self.clock.elapsed(), from) {
            client.tally.of(from.or(client.from)).fault(Fault::Limited);
            let later = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
            let error = Json(ErrorBody::new(TOO_OFTEN));
            return Some((StatusCode::TOO_MANY_REQUESTS, later, error).into_response());
        }
        None
    }

    /// Adds what the tracker knows of the entry's swarm.
    fn tell_swarm(&self, entry: &mut Entry) {
        let stats = self.desk.store.scrape(&entry.info_hash).unwrap_or_default();
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
            DirectoryError::Gone => StatusCode::REQUEST_TIMEOUT,
            // Of an etcd that fails, its client tells: once, and not at every call.
            // Of a disk too.
            DirectoryError::Full(_)
            | DirectoryError::NoRoom
            | DirectoryError::Failing(_)
            | DirectoryError::Damaged(_)
            | DirectoryError::Closing
            | DirectoryError::Etcd(_)
            | DirectoryError::Contended(_) => StatusCode::SERVICE_UNAVAILABLE,
            DirectoryError::Database(_)
            | DirectoryError::Lost(_)
            | DirectoryError::Setup(_)
            | DirectoryError::File { .. } => {
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
