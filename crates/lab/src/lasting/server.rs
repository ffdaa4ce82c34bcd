//! The lab's API, on its unix socket and, with the page, on an address of loopback.
//!
//! Whoever may open the socket may do all that the lab can. At the address of loopback there is no log-in, and other
//! pages in the same browser could ask there too: so what is asked under another name than its own (DNS rebinding) or
//! from another page (CSRF) is refused.

use std::{sync::Arc, time::Duration};

use api::{
    ErrorBody,
    lab::{LabAction, LabStatus},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures_util::stream;
use page::{Refusal, Visitors};
use serde::Deserialize;
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    net::{TcpListener, UnixListener},
    time::timeout,
};
use tokio_util::io::ReaderStream;

use crate::lasting::{events, recording, state::Lab};

/// A sign of life is sent this often.
const ALIVE: Duration = Duration::from_secs(10);
/// How long a node may take until its answer begins.
const PATIENCE: Duration = Duration::from_secs(60);
/// Headers of a call that a node is told.
const ASKED: [HeaderName; 3] = [header::ACCEPT, header::CONTENT_TYPE, header::CONTENT_LENGTH];
/// Headers of its answer that the caller is told.
const ANSWERED: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CACHE_CONTROL, header::CONTENT_DISPOSITION];

/// Serves both until the lab ends.
pub(crate) fn serve(lab: &Arc<Lab>, socket: UnixListener, page: TcpListener) {
    let stop = lab.stop.clone();
    let serving = axum::serve(socket, router(lab)).with_graceful_shutdown(stop.cancelled_owned());
    lab.tasks.spawn(async move {
        serving.await.unwrap_or_else(|error| tracing::error!(%error, "the API has ended"));
    });
    let guarded = router(lab).layer(middleware::from_fn(guard));
    let stop = lab.stop.clone();
    let serving = axum::serve(page, guarded).with_graceful_shutdown(stop.cancelled_owned());
    lab.tasks.spawn(async move {
        serving.await.unwrap_or_else(|error| tracing::error!(%error, "the page has ended"));
    });
}

fn router(lab: &Arc<Lab>) -> Router {
    Router::new()
        .route("/lab", get(status))
        .route("/lab/events", get(follow))
        .route("/lab/recording", get(recorded))
        .route("/lab/actions", post(act))
        .route("/lab/nodes/{name}/{*call}", any(pass))
        .route("/lab/{*other}", any(async || failure(StatusCode::NOT_FOUND, "no such call")))
        .fallback(page::answer)
        .with_state(lab.clone())
}

async fn status(State(lab): State<Arc<Lab>>) -> Json<LabStatus> {
    let status = lab.status().borrow().clone();
    Json(status.as_ref().clone())
}

#[derive(Deserialize)]
struct Topics {
    topics: Option<String>,
}

async fn follow(State(lab): State<Arc<Lab>>, Query(Topics { topics }): Query<Topics>) -> Response {
    let records = match events::feed(&lab, topics.as_deref()) {
        Ok(records) => records,
        Err(events::FeedError::Topics(words)) => return failure(StatusCode::BAD_REQUEST, &words),
        Err(events::FeedError::Full) => {
            return failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many follow the lab already: close a page of it",
            );
        }
    };
    let lines = stream::unfold(records, |mut records| async {
        let line = match timeout(ALIVE, records.recv()).await {
            Ok(Some(record)) => Bytes::from([b"data: ", &*record, b"\n\n"].concat()),
            Ok(None) => return None,
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok::<_, std::convert::Infallible>(line), records))
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (head, Body::from_stream(lines)).into_response()
}

/// What is recorded so far.
async fn recorded(State(lab): State<Arc<Lab>>) -> Response {
    let opened = async {
        let file = File::open(recording::path(&lab)).await?;
        let length = file.metadata().await?.len();
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(file.take(length), 64 << 10))
    };
    match opened.await {
        Ok(stream) => {
            let head = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
            (head, Body::from_stream(stream)).into_response()
        }
        Err(error) => failure(StatusCode::NOT_FOUND, &format!("there is no recording: {error}")),
    }
}

async fn act(State(lab): State<Arc<Lab>>, Json(action): Json<LabAction>) -> Response {
    match lab.act(action).await {
        Ok(done) => Json(done).into_response(),
        Err(words) => failure(StatusCode::CONFLICT, &words),
    }
}

/// Passes a call on to a node.
async fn pass(
    State(lab): State<Arc<Lab>>,
    Path((name, _)): Path<(String, String)>,
    request: Request,
) -> Response {
    let entry = match lab.host(&name) {
        Ok(entry) if entry.is_node() => entry,
        Ok(_) => return failure(StatusCode::NOT_FOUND, &format!("{name} is no node, and has no API")),
        Err(words) => return failure(StatusCode::NOT_FOUND, &words),
    };
    let (head, body) = request.into_parts();
    let whole = head.uri.path_and_query().map_or("", |path| path.as_str());
    // The node's name has passed as one part of the path, as it is.
    let call = whole.strip_prefix(&format!("/lab/nodes/{name}")).filter(|call| call.starts_with("/v1/"));
    let Some(call) = call else { return failure(StatusCode::NOT_FOUND, "no such call") };
    let mut passed = entry.http.request(head.method, format!("http://localhost{call}"));
    passed = passed.headers(some_of(&head.headers, &ASKED));
    let has_body = head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.contains_key(header::TRANSFER_ENCODING);
    if has_body {
        passed = passed.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    match timeout(PATIENCE, passed.send()).await {
        Ok(Ok(answer)) => {
            let (status, headers) = (answer.status(), some_of(answer.headers(), &ANSWERED));
            (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
        }
        Ok(Err(_)) => failure(StatusCode::BAD_GATEWAY, &format!("{name} does not answer")),
        Err(_) => failure(StatusCode::GATEWAY_TIMEOUT, &format!("{name} does not answer for {PATIENCE:?}")),
    }
}

fn some_of(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let named = |name: &HeaderName| Some((name.clone(), headers.get(name)?.clone()));
    names.iter().filter_map(named).collect()
}

fn failure(status: StatusCode, words: &str) -> Response {
    (status, Json(ErrorBody { error: words.to_owned() })).into_response()
}

/// Nobody logs in: only the lab's own page is answered, and who is no page.
async fn guard(request: Request, next: Next) -> Response {
    match Visitors::of_this_machine(&[]).admit(request.method(), request.uri(), request.headers()) {
        Ok(visitor) => visitor.answer(next.run(request).await),
        Err(refusal @ Refusal::Name) => {
            let words = format!("{refusal}: open the address that `longshore lab status` shows");
            failure(StatusCode::FORBIDDEN, &words)
        }
        Err(refusal) => failure(StatusCode::FORBIDDEN, &refusal.to_string()),
    }
}
