//! Who may use the API over TCP: whoever has the token, and pages only of its own address or of listed ones.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::failure;

/// What is asked of a request that comes over TCP.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Rules>);

struct Rules {
    token: Option<String>,
    /// Origins (RFC 6454) of other nodes' pages.
    origins: Vec<String>,
}

impl Guard {
    pub(crate) fn new(token: Option<String>, origins: &[String]) -> Self {
        let origins =
            origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect();
        Self(Arc::new(Rules { token, origins }))
    }

    /// Lets a request through, or says why not. What is not of the API (the page itself) needs no token.
    pub(crate) async fn check(State(guard): State<Self>, request: Request, next: Next) -> Response {
        let rules = &*guard.0;
        let (headers, uri) = (request.headers(), request.uri());
        let host = host_of(headers, uri);
        if rules.token.is_none() && !host.as_deref().is_some_and(is_local) {
            // A name that a stranger's page has had resolved to this machine.
            let why = "without a token the API is only for requests to 127.0.0.1, [::1] or localhost";
            return failure(StatusCode::FORBIDDEN, why);
        }
        let origin =
            headers.get(header::ORIGIN).map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
        let foreign = match &origin {
            None => None,
            Some(origin) if is_same(origin, host.as_deref()) => None,
            Some(origin) if rules.origins.contains(origin) => headers.get(header::ORIGIN).cloned(),
            Some(origin) => {
                let why = format!("pages of {origin} may not use this API: list it under `origins` in [api]");
                return failure(StatusCode::FORBIDDEN, why);
            }
        };
        if request.method() == Method::OPTIONS && foreign.is_some() {
            return with_cors(StatusCode::NO_CONTENT.into_response(), foreign);
        }
        let of_api = uri.path().starts_with("/v1/");
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if let (Some(token), true) = (&rules.token, of_api)
            && !given.and_then(|value| value.strip_prefix(b"Bearer ")).is_some_and(|given| same(given, token))
        {
            let mut answer =
                failure(StatusCode::UNAUTHORIZED, "this API asks for a token: `Authorization: Bearer …`");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return with_cors(answer, foreign);
        }
        with_cors(next.run(request).await, foreign)
    }
}

/// `host:port` as the client sees it.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let named = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| uri.authority().map(|authority| authority.as_str())).map(str::to_ascii_lowercase)
}

/// Whether a host is this machine in words that no name server has a say in.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an origin is the address that the request went to.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    place.is_some() && place == host
}

/// Whether the bytes are the token, in a time that does not tell where they differ.
fn same(given: &[u8], token: &str) -> bool {
    let differ = given.iter().zip(token.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && differ == 0
}

fn with_cors(mut answer: Response<Body>, foreign: Option<HeaderValue>) -> Response {
    if let Some(origin) = foreign {
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(guard: &Guard, request: http::request::Builder) -> StatusCode {
        let router = Router::new()
            .route("/v1/status", get(async || "ok"))
            .fallback(async || "page")
            .layer(middleware::from_fn_with_state(guard.clone(), Guard::check));
        router.oneshot(request.body(Body::empty()).expect("a request")).await.expect("answers").status()
    }

    fn to(host: &str) -> http::request::Builder {
        Request::builder().uri("/v1/status").header("host", host)
    }

    #[tokio::test]
    async fn without_a_token_only_this_machine_by_its_address_is_answered() {
        let guard = Guard::new(None, &[]);
        for host in ["127.0.0.1:7070", "localhost:7070", "[::1]:7070", "127.0.0.1"] {
            assert_eq!(ask(&guard, to(host)).await, 200, "{host}");
        }
        for host in ["evil.example:7070", "10.0.0.1:7070", "localhost.evil.example", "[::2]:7070", ""] {
            assert_eq!(ask(&guard, to(host)).await, 403, "{host}");
        }
        assert_eq!(ask(&guard, Request::builder().uri("/v1/status")).await, 403, "no host");
    }

    #[tokio::test]
    async fn a_token_is_asked_for_but_not_for_the_page() {
        let guard = Guard::new(Some("geheim".into()), &[]);
        let with = |value: &str| to("n1:7070").header("authorization", value);
        assert_eq!(ask(&guard, with("Bearer geheim")).await, 200);
        for wrong in ["Bearer geheiM", "Bearer geheim ", "Bearer ", "geheim", "Basic geheim"] {
            assert_eq!(ask(&guard, with(wrong)).await, 401, "{wrong}");
        }
        assert_eq!(ask(&guard, to("n1:7070")).await, 401);
        assert_eq!(ask(&guard, to("n1:7070").uri("/index.html")).await, 200);
    }

    #[tokio::test]
    async fn pages_of_other_origins_are_refused_unless_listed() {
        let guard = Guard::new(None, &["http://127.0.0.1:8080/".into()]);
        let from = |origin: &str| to("127.0.0.1:7070").header("origin", origin);
        assert_eq!(ask(&guard, from("http://127.0.0.1:7070")).await, 200);
        assert_eq!(ask(&guard, from("http://127.0.0.1:8080")).await, 200);
        assert_eq!(ask(&guard, from("http://127.0.0.1:8080").method("OPTIONS")).await, 204);
        for other in ["http://evil.example", "null", "http://127.0.0.1:7071", "http://127.0.0.1:70700"] {
            assert_eq!(ask(&guard, from(other)).await, 403, "{other}");
        }
    }
}
