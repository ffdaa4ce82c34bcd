//! The lab's API, on its unix socket and, with the page, on an address of loopback.
//!
//! Whoever may open the socket may do all that the lab can. At the address of loopback there is no log-in, and other
//! pages in the same browser could ask there too: so what is asked under another name than its own (DNS rebinding) or
//! from another page (CSRF) is refused.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use api::{
    ErrorBody,
    lab::{LabAction, LabStatus},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures_util::stream;
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
    let names = Names::of(lab.page);
    let guarded = router(lab).layer(middleware::from_fn_with_state(names, guard));
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
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
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
    match passed.send().await {
        Ok(answer) => {
            let (status, headers) = (answer.status(), some_of(answer.headers(), &ANSWERED));
            (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
        }
        Err(_) => failure(StatusCode::BAD_GATEWAY, &format!("{name} does not answer")),
    }
}

fn some_of(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let named = |name: &HeaderName| Some((name.clone(), headers.get(name)?.clone()));
    names.iter().filter_map(named).collect()
}

fn failure(status: StatusCode, words: &str) -> Response {
    (status, Json(ErrorBody { error: words.to_owned() })).into_response()
}

/// Under which names the page is itself.
#[derive(Clone)]
struct Names(Arc<[String; 2]>);

impl Names {
    fn of(page: SocketAddr) -> Self {
        Self(Arc::new([page.to_string(), format!("localhost:{}", page.port())]))
    }

    /// Whether a request came from the page itself, or from no page.
    fn allow(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let is_ours = |text: &str| self.0.iter().any(|name| name.eq_ignore_ascii_case(text));
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        if !text(header::HOST).is_some_and(is_ours) {
            return Err(
                "this is not the name of the lab's page: open the address that `longshore lab status` shows",
            );
        }
        let origin = text(header::ORIGIN);
        if origin.is_some_and(|origin| !origin.strip_prefix("http://").is_some_and(is_ours)) {
            return Err("another page has asked; only the lab's own page may");
        }
        // Browsers say where a request comes from when they leave its origin out. Following a link is no harm.
        let told = |name| text(HeaderName::from_static(name));
        let foreign = matches!(told("sec-fetch-site"), Some("cross-site" | "same-site"));
        if foreign && told("sec-fetch-mode") != Some("navigate") {
            return Err("another page has asked; only the lab's own page may");
        }
        Ok(())
    }
}

async fn guard(State(names): State<Names>, request: Request, next: Next) -> Response {
    if let Err(words) = names.allow(request.headers()) {
        return failure(StatusCode::FORBIDDEN, words);
    }
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("same-origin"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_and_other_pages_are_refused() {
        let names = Names::of(SocketAddr::from(([127, 0, 0, 1], 7070)));
        let allowed = |headers: &[(&'static str, &'static str)]| {
            let pairs =
                headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
            names.allow(&pairs.collect()).is_ok()
        };
        let own = ("host", "127.0.0.1:7070");
        assert!(allowed(&[own]) && allowed(&[("host", "LocalHost:7070")]));
        assert!(allowed(&[own, ("origin", "http://localhost:7070"), ("sec-fetch-site", "same-origin")]));
        assert!(allowed(&[own, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]));
        let refused: [&[(&'static str, &'static str)]; 8] = [
            &[],
            &[("host", "evil.example:7070")],
            &[("host", "127.0.0.1")],
            &[("host", "127.0.0.1:7071")],
            &[own, ("origin", "http://evil.example")],
            &[own, ("origin", "null")],
            &[own, ("origin", "https://127.0.0.1:7070")],
            &[own, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        ];
        for headers in refused {
            assert!(!allowed(headers), "{headers:?}");
        }
    }
}
