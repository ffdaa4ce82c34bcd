//! Uploads, manifests and deletions: passed on to the registry, and its answers brought into the client's way of
//! naming it.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Response, header, request::Parts};
use http_body_util::{BodyDataStream, BodyExt as _};
use hyper::body::{Body as _, Incoming};
use origin::Repository;
use tokio::time::timeout;

use crate::{
    Asker, Content, ContentError, Push, PushTarget, Pushed, PushedAt, Route, Routed, answer::Answerer,
    body::Body,
};

/// How long a client may leave its body without a byte. It may be compressing what it sends.
const STALL: Duration = Duration::from_secs(120);

/// What a client says of its body.
const SAID: [http::HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_RANGE];

/// What a request would change, if anything can be changed there in that way.
pub(crate) fn target(method: &Method, route: &Route) -> Option<(Repository, PushTarget)> {
    let (repository, target, methods): (_, _, &[Method]) = match route {
        Route::Upload(repository, None) => (repository, PushTarget::Upload(None), &[Method::POST]),
        Route::Upload(repository, id) => (
            repository,
            PushTarget::Upload(id.clone()),
            &[Method::PATCH, Method::PUT, Method::GET, Method::DELETE],
        ),
        Route::Manifest(repository, target) => {
            (repository, PushTarget::Manifest(target.clone()), &[Method::PUT, Method::DELETE])
        }
        Route::Blob(repository, digest) => (repository, PushTarget::Blob(*digest), &[Method::DELETE]),
        Route::Ping | Route::Listing(_) => return None,
    };
    methods.contains(method).then(|| (repository.clone(), target))
}

impl<C: Content> Answerer<C> {
    pub(crate) async fn push(
        &self,
        head: &Parts,
        body: Incoming,
        routed: &Routed,
        (repository, target): (Repository, PushTarget),
        asker: &Asker,
    ) -> Result<Response<Body>, ContentError> {
        let mut headers = HeaderMap::new();
        for name in SAID {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let body = (!body.is_end_stream()).then(|| chunks(body).boxed());
        let (method, query) = (head.method.clone(), routed.query.clone());
        let push = Push { method, target, query, headers, body };
        let Pushed { status, headers, location, body } = self.content.push(&repository, push, asker).await?;
        let mut response = Response::new(Body::Bytes(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let location = location.map(|at| address(routed, &repository, at));
        if let Some(value) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            response.headers_mut().insert(header::LOCATION, value);
        }
        Ok(response)
    }
}

/// The body's bytes, each of which must come in time.
pub(crate) fn chunks(body: Incoming) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let body: BodyDataStream<Incoming> = body.into_data_stream();
    stream::try_unfold(body, async |mut body| match timeout(STALL, body.next()).await {
        Ok(Some(Ok(chunk))) => Ok(Some((chunk, body))),
        Ok(Some(Err(error))) => Err(io::Error::other(error)),
        Ok(None) => Ok(None),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends nothing more")),
    })
}

/// Where it goes on, named as the client names the registry.
fn address(routed: &Routed, repository: &Repository, at: PushedAt) -> String {
    let rest = match at {
        PushedAt::Upload(id) => format!("blobs/uploads/{id}"),
        PushedAt::Blob(digest) => format!("blobs/{digest}"),
        PushedAt::Manifest(target) => format!("manifests/{target}"),
        PushedAt::Elsewhere(location) => return location,
    };
    let prefix = routed.prefix.as_ref().map(|prefix| format!("{prefix}/")).unwrap_or_default();
    let namespace = routed.namespace.as_ref().map(|namespace| {
        format!(
            "?ns={}",
            percent_encoding::utf8_percent_encode(namespace, percent_encoding::NON_ALPHANUMERIC)
        )
    });
    format!("/v2/{prefix}{}/{rest}{}", repository.name(), namespace.unwrap_or_default())
}
