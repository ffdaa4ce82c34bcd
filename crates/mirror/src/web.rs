//! What is in no registry: files below `/ostree/`, and whatever clients ask of a proxy.

use futures_util::StreamExt as _;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts};
use hyper::body::{Body as _, Incoming};
use origin::strip_connection;

use crate::{
    Asker, Content, ContentError, Located, Passed, WebRequest, WebTarget,
    answer::{Answer, Answerer, Kind, failed},
    body::{Body, Cut},
    push::chunks,
    tunnel::{Slot, Tunnel},
};

/// The longest URL that is looked at, in bytes.
const URL_LIMIT: usize = 8 * 1024;

/// What of the web a request is for; none where it is for the registry API.
pub(crate) fn target(uri: &Uri) -> Option<WebTarget> {
    if uri.scheme().is_some() {
        return Some(WebTarget::Absolute(uri.clone()));
    }
    let (name, path) = uri.path().strip_prefix("/ostree/")?.split_once('/')?;
    // No file of a repository has a query.
    uri.query().is_none().then(|| WebTarget::Ostree(name.to_owned(), path.to_owned()))
}

impl<C: Content> Answerer<C> {
    pub(crate) async fn web(
        &self,
        target: WebTarget,
        head: &Parts,
        body: Incoming,
        cut: Cut,
    ) -> Response<Body> {
        let is_head = head.method == Method::HEAD;
        match self.web_answer(target, head, body, cut).await {
            Ok(response) => response,
            Err(error) => failed(Kind::Web, is_head, &error, head.uri.path()),
        }
    }

    async fn web_answer(
        &self,
        target: WebTarget,
        head: &Parts,
        body: Incoming,
        cut: Cut,
    ) -> Result<Response<Body>, ContentError> {
        if head.uri.path().len() + head.uri.query().map_or(0, str::len) > URL_LIMIT {
            return Err(ContentError::NotFound);
        }
        let mut headers = head.headers.clone();
        strip_connection(&mut headers);
        // The one is said by the URL, the other was answered here.
        headers.remove(header::HOST);
        headers.remove(header::EXPECT);
        let body = (!body.is_end_stream()).then(|| chunks(body).boxed());
        let has_body = body.is_some();
        let request = WebRequest { method: head.method.clone(), target, headers, body };
        let located = self.content.locate(request);
        // A body takes the time that it takes, and has deadlines of its own.
        let located = if has_body { located.await? } else { self.wait(located).await? };
        match located {
            Located::Blob { home, digest, media_type, warning } => {
                let nobody = Asker::default();
                let answer = if head.method == Method::HEAD {
                    self.head_blob(&home, &digest, &nobody, &head.headers).await?
                } else {
                    self.blob(&home, &digest, &nobody, &head.headers, cut).await?
                };
                let mut response = answer.warning(warning).finish();
                let media_type = media_type.and_then(|name| HeaderValue::from_str(&name).ok());
                let whole = response.status() == StatusCode::OK;
                if let Some(value) = media_type.filter(|_| whole) {
                    response.headers_mut().insert(header::CONTENT_TYPE, value);
                }
                Ok(response)
            }
            Located::Passed(passed) => Ok(self.passed(passed, head, cut)),
        }
    }

    fn passed(&self, passed: Passed, head: &Parts, cut: Cut) -> Response<Body> {
        let Passed { status, headers, warning, length, body } = passed;
        let empty = head.method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if empty {
            Body::empty()
        } else {
            let what = head.uri.path().to_owned();
            Body::stream(what, body, length, self.limits.body_stall, cut)
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Answer::from(response).warning(warning).finish()
    }

    /// Answers `CONNECT`, and leaves the tunnel to the connection, which runs it when the answer has gone out.
    pub(crate) async fn connect(&self, head: &Parts, slot: Slot) -> Response<Body> {
        match self.open_tunnel(&head.uri).await {
            Ok(tunnel) => {
                slot.put(tunnel);
                Response::new(Body::empty())
            }
            Err(error) => failed(Kind::Web, false, &error, &head.uri.to_string()),
        }
    }

    async fn open_tunnel(&self, uri: &Uri) -> Result<Tunnel, ContentError> {
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
            return Err(ContentError::Denied("CONNECT is for a host and a port".to_owned()));
        };
        let permit = self.tunnels.clone().try_acquire_owned().map_err(|_| ContentError::TooBusy)?;
        let stream = self.wait(self.content.tunnel(host, port)).await?;
        Ok(Tunnel::new(stream, permit, self.limits.tunnel_idle))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(uri: &str) -> Option<WebTarget> {
        target(&uri.parse().expect(uri))
    }

    #[test]
    fn proxied_and_ostree_requests_are_told_from_the_registrys() {
        assert!(matches!(of("http://a.test/v2/"), Some(WebTarget::Absolute(_))));
        let file = WebTarget::Ostree("os".into(), "refs/heads/a".into());
        assert_eq!(of("/ostree/os/refs/heads/a"), Some(file));
        for uri in ["/v2/", "/", "/ostree", "/ostree/os", "/ostree/os/config?x", "/v2/ostree/os/manifests/1"]
        {
            assert_eq!(of(uri), None, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn any_uri_is_for_the_registry_or_for_something_named(text in "(/ostree)?[a-z0-9/?%.:@-]{1,40}") {
            if let Ok(uri) = text.parse::<Uri>()
                && let Some(WebTarget::Ostree(name, _)) = target(&uri)
            {
                prop_assert!(!name.contains('/'));
            }
        }
    }
}
