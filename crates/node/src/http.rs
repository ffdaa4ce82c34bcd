//! The node's API: over its unix socket, and over TCP where that is asked for.

mod about;
mod blobs;
mod door;
mod guard;
mod live;
mod torrents;
mod why;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use api::{
    ErrorBody,
    node::{PullEvent, PullRequest},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use futures_util::stream;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) use guard::Guard;

use crate::{content::Content, pull, torrents::LARGEST};

/// Events of a pull that may wait for a slow reader.
const EVENTS: usize = 256;
/// A sign of life is sent this often.
const ALIVE: Duration = Duration::from_secs(10);

/// What the API's calls work on.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) content: Content,
    mirrors: Vec<SocketAddr>,
    /// Where it is, over TCP.
    listens: Vec<SocketAddr>,
    /// Places for readers of events, and their end.
    readers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Api {
    pub(crate) fn new(
        content: Content,
        mirrors: Vec<SocketAddr>,
        listens: Vec<SocketAddr>,
        stop: CancellationToken,
    ) -> Self {
        Self { content, mirrors, listens, readers: Arc::new(Semaphore::new(live::MOST_READERS)), stop }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/v1/health", get(about::health))
            .route("/v1/status", get(about::status))
            .route("/v1/settings", get(about::settings))
            .route("/v1/log", get(about::log))
            .route("/v1/metrics", get(about::metrics_text))
            .route("/v1/events", get(live::events))
            .route("/v1/traces", get(why::traces))
            .route("/v1/explain", get(why::explain))
            .route("/v1/blobs", get(blobs::list))
            .route("/v1/blobs/{digest}", get(blobs::one).delete(blobs::remove))
            .route("/v1/limits", get(torrents::limits).patch(torrents::set_limits))
            .route(
                "/v1/torrents",
                get(torrents::list).post(torrents::add).layer(DefaultBodyLimit::max(LARGEST as usize)),
            )
            .route("/v1/torrents/{info_hash}", patch(torrents::limit).delete(torrents::remove))
            .route("/v1/torrents/{info_hash}/start", post(torrents::start))
            .route("/v1/torrents/{info_hash}/stop", post(torrents::stop))
            .route("/v1/torrents/{info_hash}/verify", post(torrents::verify))
            .route("/v1/torrents/{info_hash}/files", get(torrents::files))
            .route("/v1/torrents/{info_hash}/trackers", get(torrents::trackers))
            .route("/v1/torrents/{info_hash}/file", get(torrents::file))
            .route("/v1/torrents/{info_hash}/peers", get(torrents::peers))
            .route("/v1/torrents/{info_hash}/provenance", get(torrents::provenance))
            .route("/v1/pull", post(start_pull))
            .route("/v1/{*rest}", axum::routing::any(async || failure(StatusCode::NOT_FOUND, "no such call")))
            .fallback(page::answer)
            .with_state(self)
    }
}

/// Serves the API on the unix socket until `stop`.
pub(crate) async fn serve_unix(listener: UnixListener, api: Api) {
    let stop = api.stop.clone();
    let served = axum::serve(listener, api.router()).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the API has ended");
    }
}

/// Serves the API over TCP until `stop`.
pub(crate) async fn serve_tcp(listener: TcpListener, api: Api, guard: Guard) {
    let stop = api.stop.clone();
    let router = api.router().layer(middleware::from_fn_with_state(guard, Guard::check));
    door::serve(listener, router, stop).await;
}

async fn start_pull(State(api): State<Api>, body: Bytes) -> Response {
    let request: PullRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return failure(StatusCode::BAD_REQUEST, format!("the request is not understood: {error}"));
        }
    };
    if let Err(error) = request.reference.parse::<origin::Reference>() {
        return failure(StatusCode::BAD_REQUEST, error);
    }
    let (sender, events) = mpsc::channel(EVENTS);
    api.content.0.tasks.spawn(pull::run(api.content.clone(), request, sender));
    let lines = stream::unfold(events, async |mut events| {
        let event = match timeout(ALIVE, events.recv()).await {
            Ok(event) => event?,
            Err(_) => PullEvent::Alive,
        };
        let line = serde_json::to_string(&event).map(|json| json + "\n");
        Some((line, events))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn failure(code: StatusCode, error: impl std::fmt::Display) -> Response {
    (code, Json(ErrorBody::new(error.to_string()))).into_response()
}
