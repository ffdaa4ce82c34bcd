//! Answers requests for the page's files.

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
            VARY,
        },
    },
    response::{IntoResponse as _, Response},
};

use crate::{Asset, HEADERS, find};

/// Answers any request: a file of the page, 304 where the browser has it, 404, or 405.
pub async fn answer(request: Request) -> Response {
    let mut response = respond(&request);
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn respond(request: &Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")]).into_response();
    }
    let path = request.uri().path();
    let Some(asset) = find(path) else {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    let lasting = if Asset::is_lasting(path) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let about = [(ETAG, asset.etag), (CACHE_CONTROL, lasting), (VARY, "accept-encoding")];
    if names(request.headers(), asset.etag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    let packed = asset.gzip.filter(|_| takes_gzip(request.headers()));
    let bytes = packed.unwrap_or(asset.bytes);
    let body = if request.method() == Method::HEAD { Body::empty() } else { Body::from(bytes) };
    let mut response = (about, [(CONTENT_TYPE, asset.content_type)], body).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    if packed.is_some() {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether `If-None-Match` names the tag (RFC 9110, section 13.1.2). A proxy may have made it weak.
fn names(headers: &HeaderMap, tag: &str) -> bool {
    let listed = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|one| {
        let (name, weight) = one.split_once(';').map_or((one, ""), |(name, weight)| (name, weight));
        let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: Method, path: &str, headers: &[(&'static str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = Router::new().fallback(answer).oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.expect("a body").to_bytes().into())
    }

    #[tokio::test]
    async fn the_page_comes_with_its_policy_and_once_only() {
        let (status, headers, body) = ask(Method::GET, "/", &[]).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.starts_with(b"<!doctype html>"));
        for (name, value) in HEADERS {
            assert_eq!(headers.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
        }
        let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).expect("a tag").to_owned();
        let (status, headers, body) = ask(Method::GET, "/", &[("if-none-match", &format!("\"x\", W/{tag}"))]).await;
        assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert!(headers.contains_key("content-security-policy"));
    }

    #[tokio::test]
    async fn compressed_only_for_who_takes_it() {
        let packed = find("/").expect("a page").gzip.is_some();
        for (accept, wants) in [("gzip, br", true), ("br", false), ("gzip;q=0", false), ("GZIP;q=0.5", true)] {
            let (_, headers, _) = ask(Method::GET, "/", &[("accept-encoding", accept)]).await;
            assert_eq!(headers.contains_key(CONTENT_ENCODING), packed && wants, "{accept}");
        }
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused_with_the_policy_too() {
        let (status, headers, _) = ask(Method::GET, "/etc/passwd", &[]).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(headers.contains_key("content-security-policy"));
        let (status, headers, _) = ask(Method::POST, "/", &[]).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers.get(ALLOW).map(HeaderValue::as_bytes), Some(b"GET, HEAD".as_slice()));
        let (status, headers, body) = ask(Method::HEAD, "/", &[]).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_ne!(headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes), Some(b"0".as_slice()));
    }
}
