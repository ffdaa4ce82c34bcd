//! Changes of a registry: uploads, manifests, deletions. Passed through, once and as they come.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use url::Url;

use crate::{
    Origin, OriginError, Place, Rights,
    client::{Ask, reason, same_origin, sensitive},
};

/// How long a body may stand still, whoever holds it up.
const STALL: Duration = Duration::from_secs(120);
/// The longest answer to a change; it is an error's words at most.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// What goes back to the client of a registry's answer, besides `Location`.
const ANSWERED: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::RANGE,
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
    HeaderName::from_static("docker-content-digest"),
    HeaderName::from_static("docker-upload-uuid"),
    HeaderName::from_static("oci-subject"),
    HeaderName::from_static("oci-chunk-min-length"),
];

/// A change of a registry.
pub struct Change<S> {
    /// `POST`, `PATCH`, `PUT`, `DELETE`, or `GET` for how far an upload is.
    pub method: Method,
    /// Where: a path from `/v2/` on, or what an earlier answer's `Location` said.
    pub target: ChangeTarget,
    /// The client's query.
    pub query: Option<String>,
    /// What the client says of the body: `Content-Type`, `Content-Length`, `Content-Range`.
    pub headers: HeaderMap,
    /// The body as it comes, if there is one.
    pub body: Option<S>,
}

/// Where a change goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeTarget {
    /// A path from `/v2/` on, made of checked names.
    Path(String),
    /// Where an earlier answer said that it goes on.
    At(Url),
}

/// A registry's answer to a change.
#[derive(Debug, Clone)]
pub struct ChangeAnswer {
    /// As it came.
    pub status: StatusCode,
    /// As they came, as far as they are a client's business.
    pub headers: HeaderMap,
    /// Where it goes on, or what was made.
    pub location: Option<Url>,
    /// Whether `location` is at the registry itself, and not some storage of it.
    pub at_registry: bool,
    /// The body: mostly an error's words.
    pub body: Bytes,
}

impl Origin {
    /// Passes a change on, with a client's rights or none: this host's own credentials are for reading. It is sent once,
    /// and no redirect is followed. There is no deadline while the body is coming: that is the body's affair; and
    /// [`Patience::first_byte`](crate::Patience::first_byte) from when it has ended.
    pub async fn change<S>(&self, place: &Place, change: Change<S>) -> Result<ChangeAnswer, OriginError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let endpoint = self.endpoint(place)?;
        let Change { method, target, query, headers, body } = change;
        let what = format!("change ({method})");
        let ask =
            Ask { place: place.clone(), what, method, path: "", query: None, headers, scope: String::new() };
        let mut url = match target {
            ChangeTarget::Path(path) => endpoint.url(&path, None),
            ChangeTarget::At(url) if same_origin(&url, &endpoint.base) => url,
            ChangeTarget::At(_) => return Err(ask.invalid("the upload went on elsewhere".into())),
        };
        if let Some(query) = query {
            let all = url.query().map_or_else(|| query.clone(), |before| format!("{before}&{query}"));
            url.set_query(Some(&all));
        }
        let mut request = self.client(&endpoint).request(ask.method.clone(), url.clone());
        request = request.headers(ask.headers.clone());
        if let Rights::Client(authorization) = self.rights() {
            let value = sensitive(authorization).map_err(|e| ask.invalid(e))?;
            request = request.header(header::AUTHORIZATION, value);
        }
        self.check_reach(&ask, &endpoint, &url)?;
        let sent = send_watched(request, body, self.patience().first_byte).await;
        let mut response = sent.map_err(|why| ask.unreachable(&url, why))?;
        let (status, received) = (response.status(), std::mem::take(response.headers_mut()));
        let location = received.get(header::LOCATION).and_then(|value| url.join(value.to_str().ok()?).ok());
        let body = self.read_document(&ask, response, ANSWER_LIMIT).await?;
        let mut headers = HeaderMap::new();
        for name in ANSWERED {
            let values: Vec<HeaderValue> = received.get_all(&name).iter().cloned().collect();
            for value in values {
                headers.append(name.clone(), value);
            }
        }
        let at_registry = location.as_ref().is_some_and(|location| same_origin(location, &endpoint.base));
        Ok(ChangeAnswer { status, headers, location, at_registry, body })
    }
}

/// Sends a request with the body as it comes. There is no deadline while it moves, and `first_byte` from when it has
/// ended. An error is said in words.
pub(crate) async fn send_watched<S>(
    request: RequestBuilder,
    body: Option<S>,
    first_byte: Duration,
) -> Result<Response, String>
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    let (seen, mut watch) = watch::channel(());
    let request = match body {
        Some(body) => request.body(reqwest::Body::wrap_stream(Watched { body: Box::pin(body), seen })),
        None => {
            drop(seen);
            request.body(Vec::new())
        }
    };
    let quiet = async {
        loop {
            match timeout(STALL, watch.changed()).await {
                Ok(Ok(())) => {}
                // All of it has been sent.
                Ok(Err(_)) => {
                    sleep(first_byte).await;
                    return format!("no answer within {} s", first_byte.as_secs_f32());
                }
                Err(_) => return format!("nothing moved for {} s", STALL.as_secs()),
            }
        }
    };
    tokio::select! {
        response = request.send() => response.map_err(|error| reason(&error)),
        why = quiet => Err(why),
    }
}

/// A body that is seen to move, and to end.
struct Watched<S> {
    body: Pin<Box<S>>,
    seen: watch::Sender<()>,
}

impl<S: Stream> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let polled = self.body.as_mut().poll_next(cx);
        if polled.is_ready() {
            self.seen.send_replace(());
        }
        polled
    }
}
