//! From a request to its answer.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use hash::{Digest, DigestError};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use origin::{Home, Listing, Repository, Secret, Target};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Asker, ByteRange, Content, ContentError, Limits, Route, RouteError, Routed, Span,
    activity::Activity,
    body::{Body, Cut},
    parse_ranges, parse_route,
    parts::Parts,
    push,
    range::spans,
    tunnel::Slot,
    web,
};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const OCTETS: &str = "application/octet-stream";
/// Where the authority behind the mirror's own certificate is given out.
const AUTHORITY: &str = "/ca.pem";
/// Whether the mirror lives, and whether it does its work.
const LIVES: &str = "/healthz";
const READY: &str = "/readyz";
/// How many `Accept` values are passed on.
const ACCEPT_LIMIT: usize = 64;
/// Longest `Warning`, by the spec.
const WARNING_LIMIT: usize = 4096;

/// What every connection shares.
pub(crate) struct Answerer<C> {
    pub(crate) content: Arc<C>,
    pub(crate) default_registry: String,
    pub(crate) limits: Limits,
    /// The authority behind the mirror's own certificate, in PEM.
    pub(crate) authority: Option<String>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) tunnels: Arc<Semaphore>,
}

/// The answers of one connection.
pub(crate) struct Service<C> {
    answerer: Arc<Answerer<C>>,
    cut: Cut,
    slot: Slot,
}

/// What a failed request was for: the same failure is told differently, see [`ContentError`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Blob,
    Listing,
    Push,
    Ping,
    Web,
}

impl<C: Content> hyper::service::Service<Request<Incoming>> for Service<C> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (answerer, cut, slot) = (Arc::clone(&self.answerer), self.cut.clone(), self.slot.clone());
        // The body of what is no push does not matter; hyper reads a small one past and closes after a large one.
        let (head, body) = request.into_parts();
        Box::pin(async move { Ok(answerer.answer(&head, body, cut, slot).await) })
    }
}

impl<C: Content> Answerer<C> {
    pub(crate) fn service(self: Arc<Self>, cut: Cut, slot: Slot) -> Service<C> {
        Service { answerer: self, cut, slot }
    }

    async fn answer(
        &self,
        head: &http::request::Parts,
        body: Incoming,
        cut: Cut,
        slot: Slot,
    ) -> Response<Body> {
        let busy = Activity::begin(&self.activity);
        let mut response = if head.method == Method::CONNECT {
            self.connect(head, slot).await
        } else if let Some(target) = web::target(&head.uri) {
            self.web(target, head, body, cut).await
        } else {
            let mut response = self.route(head, body, cut).await;
            response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
            response
        };
        if let Body::Blob(blob) = response.body_mut() {
            blob.keep(busy);
        }
        tracing::debug!(
            method = %head.method, path = head.uri.path(), status = response.status().as_u16(), "answered"
        );
        response
    }

    async fn route(&self, head: &http::request::Parts, body: Incoming, cut: Cut) -> Response<Body> {
        let is_head = head.method == Method::HEAD;
        if let (AUTHORITY, Some(authority)) = (head.uri.path(), &self.authority) {
            return Answer::new("application/x-pem-file").bytes(authority.clone().into()).finish();
        }
        match head.uri.path() {
            LIVES => return self.lives().await,
            READY => return self.ready().await,
            _ => {}
        }
        let routed = match parse_route(head.uri.path(), head.uri.query(), &self.default_registry) {
            Ok(routed) => routed,
            Err(error) => return misrouted(&error),
        };
        let asker = asker(&head.headers);
        if let Some(target) = push::target(&head.method, &routed.route) {
            let outcome = self.push(head, body, &routed, target, &asker).await;
            return outcome.unwrap_or_else(|error| failed(Kind::Push, false, &error, head.uri.path()));
        }
        if !is_head && head.method != Method::GET {
            let mut refusal = refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "nothing can be done there in that way",
            );
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        if self.activity.is_draining() && matches!(routed.route, Route::Ping | Route::Manifest(..)) {
            let error = ContentError::Unavailable("the mirror is about to stop".to_owned());
            return failed(Kind::Manifest, is_head, &error, head.uri.path());
        }
        let outcome = match &routed.route {
            // What an upload has to say is a push's affair.
            Route::Upload(..) => return misrouted(&RouteError::Unknown),
            Route::Ping => match self.content.challenge().filter(|_| asker.authorization.is_none()) {
                None => Ok(Answer::new("application/json").bytes(Bytes::from_static(b"{}"))),
                challenge => {
                    let reason = "the default registry asks for it".to_owned();
                    Err((Kind::Ping, ContentError::Unauthorized { challenge, reason }))
                }
            },
            Route::Manifest(repository, target) => {
                let outcome = if is_head {
                    self.head_manifest(repository, target, &asker, &head.headers).await
                } else {
                    self.manifest(repository, target, &asker, &head.headers).await
                };
                outcome.map_err(|error| (Kind::Manifest, error))
            }
            Route::Blob(repository, digest) => {
                let outcome = if is_head {
                    self.head_blob(&repository.into(), digest, &asker, &head.headers).await
                } else {
                    self.blob(&repository.into(), digest, &asker, &head.headers, cut).await
                };
                outcome.map_err(|error| (Kind::Blob, error))
            }
            Route::Listing(listing) => {
                self.listing(listing, &routed, &asker).await.map_err(|error| (Kind::Listing, error))
            }
        };
        let mut response = match outcome {
            Ok(answer) => answer.finish(),
            Err((kind, error)) => failed(kind, is_head, &error, head.uri.path()),
        };
        if let Some(value) = routed.namespace.as_deref().and_then(|ns| HeaderValue::from_str(ns).ok()) {
            response.headers_mut().insert(NAMESPACE, value);
        }
        response
    }

    /// 200 where a restart would change nothing, else 503.
    async fn lives(&self) -> Response<Body> {
        let lives = timeout(self.limits.health, self.content.lives()).await.unwrap_or(false);
        let problems = if lives { Vec::new() } else { vec!["the node's inside does not answer".to_owned()] };
        told(lives, &problems)
    }

    /// 200 where clients are better off with the mirror than without, else 503; and what is wrong.
    async fn ready(&self) -> Response<Body> {
        match timeout(self.limits.health, self.content.health()).await {
            Ok(mut health) => {
                if self.activity.is_draining() {
                    health.unready("the mirror is about to stop".to_owned());
                }
                told(health.ready, &health.problems)
            }
            Err(_) => told(false, &["the node's inside does not answer".to_owned()]),
        }
    }

    async fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
        headers: &HeaderMap,
    ) -> Result<Answer, ContentError> {
        let manifest = self.wait(self.content.manifest(repository, target, asker)).await?;
        let answer = Answer::new(&manifest.media_type).digest(&manifest.digest).warning(manifest.warning);
        if has_it(headers, &manifest.digest) {
            return Ok(answer.not_modified());
        }
        Ok(answer.bytes(manifest.bytes))
    }

    async fn head_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
        headers: &HeaderMap,
    ) -> Result<Answer, ContentError> {
        let manifest = self.wait(self.content.head_manifest(repository, target, asker)).await?;
        let answer = Answer::new(&manifest.media_type).digest(&manifest.digest).warning(manifest.warning);
        if has_it(headers, &manifest.digest) {
            return Ok(answer.not_modified());
        }
        Ok(answer.length(manifest.size))
    }

    pub(crate) async fn head_blob(
        &self,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
        headers: &HeaderMap,
    ) -> Result<Answer, ContentError> {
        let head = self.wait(self.content.blob_size(home, digest, asker)).await?;
        let answer = Answer::new(head.media_type.as_deref().unwrap_or(OCTETS)).digest(digest).ranges();
        if has_it(headers, digest) {
            return Ok(answer.not_modified());
        }
        // A range has no meaning for HEAD (RFC 9110 section 14.2).
        Ok(answer.length(head.size))
    }

    pub(crate) async fn blob(
        &self,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
        headers: &HeaderMap,
        cut: Cut,
    ) -> Result<Answer, ContentError> {
        if has_it(headers, digest) {
            // The content is still asked: it may not be for this client.
            let head = self.wait(self.content.blob_size(home, digest, asker)).await?;
            let media_type = head.media_type.as_deref().unwrap_or(OCTETS);
            return Ok(Answer::new(media_type).digest(digest).ranges().not_modified());
        }
        let ranges = headers
            .get(header::RANGE)
            .filter(|_| headers.get_all(header::RANGE).iter().count() == 1 && if_range_holds(headers, digest))
            .and_then(|value| parse_ranges(value.to_str().ok()?));
        let range = match ranges.as_deref() {
            Some([range]) => Some(*range),
            Some(ranges) => match self.parts(home, digest, asker, ranges, &cut).await? {
                Some(answer) => return Ok(answer),
                None => None,
            },
            None => None,
        };
        let blob = self.wait(self.content.blob(home, digest, asker, range)).await?;
        let span = blob.span;
        if span.end().is_none_or(|end| end > blob.size)
            || (range.is_none() && span != Span::whole(blob.size))
            || (range.is_some() && span.length == 0)
        {
            return Err(ContentError::Internal(format!("{span:?} of a blob of {} bytes", blob.size)));
        }
        let mut answer = Answer::new(blob.media_type.as_deref().unwrap_or(OCTETS)).digest(digest).ranges();
        if range.is_some() {
            let last = span.offset + (span.length - 1);
            answer = answer.partial(&format!("bytes {}-{last}/{}", span.offset, blob.size));
        }
        Ok(answer.body(span.length, Body::blob(*digest, blob.body, span.length, self.limits.body_stall, cut)))
    }

    /// Several ranges in one answer; none where the whole blob is the better one.
    async fn parts(
        &self,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
        ranges: &[ByteRange],
        cut: &Cut,
    ) -> Result<Option<Answer>, ContentError> {
        let head = self.wait(self.content.blob_size(home, digest, asker)).await?;
        let Some(spans) = spans(ranges, head.size)? else { return Ok(None) };
        let parts = Parts::new(head.media_type.as_deref().unwrap_or(OCTETS), head.size, spans);
        let answer =
            Answer::new(&parts.content_type()).digest(digest).ranges().status(StatusCode::PARTIAL_CONTENT);
        let length = parts.length();
        let stream = parts.body(self.content.clone(), home.clone(), *digest, asker.clone());
        let body = Body::blob(*digest, stream, length, self.limits.body_stall, cut.clone());
        Ok(Some(answer.body(length, body)))
    }

    async fn listing(
        &self,
        listing: &Listing,
        routed: &Routed,
        asker: &Asker,
    ) -> Result<Answer, ContentError> {
        let listed = self.wait(self.content.listing(listing, routed.query.as_deref(), asker)).await?;
        let link = listed.link.and_then(|link| readdress(&link, routed));
        Ok(Answer::new(&listed.media_type)
            .header(header::LINK, link.as_deref())
            .header(FILTERS, listed.filters.as_deref())
            .bytes(listed.bytes))
    }

    pub(crate) async fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, ContentError>> + Send,
    ) -> Result<T, ContentError> {
        timeout(self.limits.answer, answer)
            .await
            .unwrap_or_else(|_| Err(ContentError::Unavailable("no answer in time".to_owned())))
    }
}

/// An answer under construction.
pub(crate) struct Answer {
    response: Response<Body>,
}

impl Answer {
    pub(crate) fn new(media_type: &str) -> Self {
        let media_type = HeaderValue::from_str(media_type).unwrap_or(HeaderValue::from_static(OCTETS));
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        Self { response }
    }

    /// With the answer as it is so far.
    pub(crate) fn from(response: Response<Body>) -> Self {
        Self { response }
    }

    fn header(mut self, name: HeaderName, value: Option<&str>) -> Self {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            self.response.headers_mut().insert(name, value);
        }
        self
    }

    fn digest(self, digest: &Digest) -> Self {
        self.header(CONTENT_DIGEST, Some(&digest.to_string())).header(header::ETAG, Some(&etag(digest)))
    }

    fn ranges(self) -> Self {
        self.header(header::ACCEPT_RANGES, Some("bytes"))
    }

    pub(crate) fn warning(self, text: Option<String>) -> Self {
        let text = text.map(|text| format!("299 - \"{}\"", quotable(&text)));
        self.header(header::WARNING, text.as_deref())
    }

    fn length(mut self, length: u64) -> Self {
        self.response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        self
    }

    fn status(mut self, status: StatusCode) -> Self {
        *self.response.status_mut() = status;
        self
    }

    fn partial(self, range: &str) -> Self {
        self.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, Some(range))
    }

    fn not_modified(mut self) -> Self {
        self.response.headers_mut().remove(header::CONTENT_TYPE);
        self.status(StatusCode::NOT_MODIFIED)
    }

    fn bytes(self, bytes: Bytes) -> Self {
        self.body(bytes.len() as u64, Body::Bytes(bytes))
    }

    fn body(mut self, length: u64, body: Body) -> Self {
        *self.response.body_mut() = body;
        self.length(length)
    }

    pub(crate) fn finish(self) -> Response<Body> {
        self.response
    }
}

/// How it goes, for probes: by the status, and for people by a line for each problem.
fn told(well: bool, problems: &[String]) -> Response<Body> {
    let mut text = if well { "ok\n".to_owned() } else { String::new() };
    for problem in problems {
        text.extend([problem.as_str(), "\n"]);
    }
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::new("text/plain; charset=utf-8").bytes(text.into()).status(status).finish()
}

/// The table at [`ContentError`].
pub(crate) fn failed(kind: Kind, is_head: bool, error: &ContentError, path: &str) -> Response<Body> {
    if let ContentError::Internal(reason) = error {
        tracing::error!(path, reason, "the content has a fault");
    } else {
        tracing::debug!(path, %error, "the content cannot be served");
    }
    let unknown = match kind {
        Kind::Manifest => "MANIFEST_UNKNOWN",
        Kind::Blob => "BLOB_UNKNOWN",
        Kind::Listing | Kind::Ping => "NAME_UNKNOWN",
        Kind::Push => "BLOB_UPLOAD_UNKNOWN",
        Kind::Web => "UNKNOWN",
    };
    let message = error.to_string();
    match error {
        ContentError::Unsatisfiable { size } => {
            let mut response = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", &message);
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            response
        }
        ContentError::Unauthorized { challenge: Some(challenge), .. }
            if HeaderValue::from_str(challenge).is_ok() =>
        {
            let mut response = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", &message);
            if let Ok(value) = HeaderValue::from_str(challenge) {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
            }
            response
        }
        _ if kind == Kind::Blob => refusal(StatusCode::NOT_FOUND, unknown, &message),
        ContentError::Denied(_) if !is_head || kind == Kind::Web => {
            refusal(StatusCode::FORBIDDEN, "DENIED", &message)
        }
        ContentError::Unavailable(_) | ContentError::TooBusy => {
            refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", &message)
        }
        ContentError::Internal(_) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the mirror has a fault; see its log")
        }
        _ => refusal(StatusCode::NOT_FOUND, unknown, &message),
    }
}

fn misrouted(error: &RouteError) -> Response<Body> {
    let (status, code) = match error {
        RouteError::Unknown => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
        RouteError::Name(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        // A digest of another algorithm may be good upstream: "not here" sends the client there.
        RouteError::Digest(DigestError::Algorithm(_)) => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
        RouteError::Digest(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
    };
    refusal(status, code, &error.to_string())
}

/// An error as the distribution spec shapes it ("Error Codes").
fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    let answer = Answer::new("application/json").bytes(body.to_string().into());
    let mut response = answer.finish();
    *response.status_mut() = status;
    response
}

/// Who asks. Two `Authorization` lines are none: which of them is meant cannot be known.
fn asker(headers: &HeaderMap) -> Asker {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let authorization = match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok().map(Secret::new),
        _ => None,
    };
    Asker { authorization, accept: accept_values(headers) }
}

/// All `Accept` values, whether they came in one line or in many.
fn accept_values(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let values = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty());
    values.take(ACCEPT_LIMIT).map(str::to_owned).collect()
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// `If-None-Match`: whether the client has these bytes already.
fn has_it(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|tag| tag.trim())
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// `If-Range`: a range counts only if the client's part is of these bytes.
fn if_range_holds(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag(digest).as_bytes())
}

/// A registry's `Link` to the next page, made to lead back to this mirror in the way the client came.
fn readdress(link: &str, routed: &Routed) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let path = &target[target.find("/v2/")?..];
    let rest = path.strip_prefix("/v2/")?;
    let prefix = routed.prefix.as_ref().map(|prefix| format!("{prefix}/")).unwrap_or_default();
    let namespace = routed.namespace.as_ref().map(|namespace| {
        let separator = if rest.contains('?') { '&' } else { '?' };
        let value = percent_encoding::utf8_percent_encode(namespace, percent_encoding::NON_ALPHANUMERIC);
        format!("{separator}ns={value}")
    });
    Some(format!("</v2/{prefix}{rest}{}>{parameters}", namespace.unwrap_or_default()))
}

/// What can stand between quotes in a header.
fn quotable(text: &str) -> String {
    let keep = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text = text.chars().map(keep).map(|c| if matches!(c, '"' | '\\') { '\'' } else { c });
    text.take(WARNING_LIMIT - 16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(prefix: Option<&str>, namespace: Option<&str>) -> Routed {
        Routed {
            route: Route::Ping,
            namespace: namespace.map(str::to_owned),
            prefix: prefix.map(str::to_owned),
            query: None,
        }
    }

    #[test]
    fn a_link_leads_back_the_way_the_client_came() {
        let link = r#"</v2/a/tags/list?last=x&n=2>; rel="next""#;
        let lead = |prefix, namespace| readdress(link, &routed(prefix, namespace)).unwrap();
        assert_eq!(lead(None, None), link);
        assert_eq!(
            lead(Some("localhost:5000"), None),
            r#"</v2/localhost:5000/a/tags/list?last=x&n=2>; rel="next""#
        );
        assert_eq!(
            lead(None, Some("localhost:5000")),
            r#"</v2/a/tags/list?last=x&n=2&ns=localhost%3A5000>; rel="next""#
        );
        let whole = readdress("<https://reg.test/v2/_catalog?n=1>; rel=next", &routed(None, None));
        assert_eq!(whole.as_deref(), Some("</v2/_catalog?n=1>; rel=next"));
        assert_eq!(readdress("https://reg.test", &routed(None, None)), None);
    }

    #[test]
    fn a_warning_cannot_break_its_header() {
        let text = format!("stale \"since\"\r\nX: y \u{e4}{}", "z".repeat(2 * WARNING_LIMIT));
        let answer = Answer::new("a/b").warning(Some(text)).finish();
        let value = answer.headers()[header::WARNING].to_str().unwrap();
        assert!(value.starts_with("299 - \"stale 'since'??X: y ?zz") && value.ends_with('"'));
        assert!(value.len() <= WARNING_LIMIT);
    }
}
