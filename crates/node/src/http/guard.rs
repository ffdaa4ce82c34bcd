//! Who may use the API over TCP: whoever has the token, and pages only of its own address or of listed ones.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use page::{Refusal, Visitors};

use super::failure;

/// What is asked of a request that comes over TCP.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Rules>);

struct Rules {
    token: Option<String>,
    visitors: Visitors,
}

impl Guard {
    pub(crate) fn new(token: Option<String>, origins: &[String]) -> Self {
        let visitors =
            if token.is_some() { Visitors::with_a_token } else { Visitors::of_this_machine }(origins);
        Self(Arc::new(Rules { token, visitors }))
    }

    /// Lets a request through, or says why not. What is not of the API (the page itself) needs no token.
    pub(crate) async fn check(State(guard): State<Self>, request: Request, next: Next) -> Response {
        let rules = &*guard.0;
        let visitor = match rules.visitors.admit(request.method(), request.uri(), request.headers()) {
            Ok(visitor) => visitor,
            Err(refusal @ Refusal::Page(_)) => {
                let why = format!("{refusal}: list their address under `origins` in [api]");
                return failure(StatusCode::FORBIDDEN, why);
            }
            Err(refusal) => return failure(StatusCode::FORBIDDEN, refusal),
        };
        if let Some(answer) = visitor.preflight() {
            return answer;
        }
        let of_api = request.uri().path().starts_with("/v1/");
        let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if let (Some(token), true) = (&rules.token, of_api)
            && !given.and_then(|value| value.strip_prefix(b"Bearer ")).is_some_and(|given| same(given, token))
        {
            let mut answer =
                failure(StatusCode::UNAUTHORIZED, "this API asks for a token: `Authorization: Bearer …`");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return visitor.answer(answer);
        }
        visitor.answer(next.run(request).await)
    }
}

/// Whether the bytes are the token, in a time that does not tell where they differ.
fn same(given: &[u8], token: &str) -> bool {
    let differ = given.iter().zip(token.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && differ == 0
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
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
    async fn a_token_is_asked_for_but_not_for_the_page() {
        let guard = Guard::new(Some("geheim".into()), &[]);
        let with = |value: &str| to("n1:7070").header("authorization", value);
        assert_eq!(ask(&guard, with("Bearer geheim")).await, 200);
        for wrong in ["Bearer geheiM", "Bearer geheim ", "Bearer ", "geheim", "Basic geheim"] {
            assert_eq!(ask(&guard, with(wrong)).await, 401, "{wrong}");
        }
        assert_eq!(ask(&guard, to("n1:7070")).await, 401);
        assert_eq!(ask(&guard, to("n1:7070").uri("/index.html")).await, 200);
        assert_eq!(ask(&guard, with("Bearer geheim").header("origin", "http://evil.example")).await, 403);
    }

    #[tokio::test]
    async fn without_a_token_strange_names_and_pages_are_refused() {
        let guard = Guard::new(None, &["http://127.0.0.1:8080".into()]);
        assert_eq!(ask(&guard, to("127.0.0.1:7070")).await, 200);
        assert_eq!(ask(&guard, to("evil.example:7070")).await, 403);
        assert_eq!(ask(&guard, to("127.0.0.1:7070").header("origin", "http://evil.example")).await, 403);
        let listed = || to("127.0.0.1:7070").header("origin", "http://127.0.0.1:8080");
        assert_eq!(ask(&guard, listed()).await, 200);
        assert_eq!(ask(&guard, listed().method("OPTIONS")).await, 204);
    }
}
