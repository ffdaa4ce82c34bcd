//! The clients against servers that answer well, badly, late or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

extern crate longshore_api as api;

use std::{future::pending, time::Duration};

use api::{
    CallError, ClientError, DirectoryClient, Endpoint, NodeClient,
    directory::{Claim, Lease},
    node::{BlobPage, Health, PullEvent, PullRequest},
};
use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use hash::Digest;
use tokio::net::{TcpListener, UnixListener};

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn node(base: String) -> NodeClient {
    NodeClient::new(&Endpoint::Http(base), None).expect("a client")
}

#[tokio::test]
async fn a_node_is_called_over_its_unix_socket() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("node.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    let router = Router::new()
        .route("/v1/health", get(async || Json(Health { healthy: true, problems: Vec::new() })))
        .route("/v1/blobs", get(async || Json(BlobPage { blobs: Vec::new(), next: None })))
        .route("/v1/metrics", get(async || "up 1\n"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = NodeClient::new(&Endpoint::Unix(path), None).expect("a client");
    assert!(client.health().await.expect("answers").healthy);
    assert_eq!(client.blobs(None, 10).await.expect("answers").blobs, []);
    assert_eq!(client.metrics().await.expect("answers"), "up 1\n");
    assert_eq!(client.blob(&Digest::of(b"x")).await.expect("404 is no error"), None);
    let missing = client.status().await;
    assert!(matches!(missing, Err(CallError::BadAnswer { .. })), "{missing:?}");
}

#[tokio::test]
async fn a_missing_socket_is_unreachable_and_the_reason_is_the_systems() {
    let dir = tempfile::tempdir().expect("tempdir");
    let client = NodeClient::new(&Endpoint::Unix(dir.path().join("none")), None).expect("a client");
    let error = client.health().await.expect_err("nobody there");
    assert!(
        matches!(&error, CallError::Unreachable { reason, .. } if reason.contains("No such file")),
        "{error}"
    );
    assert!(error.is_transient());
}

#[test]
fn a_platform_travels_as_text_and_nonsense_is_refused() {
    let read = |platform: &str| {
        serde_json::from_str::<PullRequest>(&format!("{{\"reference\":\"x\",\"platform\":\"{platform}\"}}"))
    };
    let request = read("linux/arm/v7").expect("reads");
    let written = serde_json::to_value(&request).expect("writes");
    assert_eq!(written["platform"], "linux/arm/v7");
    assert!(read("foo").expect_err("no platform").to_string().contains("linux/amd64"));
}

#[tokio::test]
async fn a_node_that_is_not_healthy_tells_its_problems() {
    let sick = || Health { healthy: false, problems: vec!["a".to_owned(), "b".to_owned()] };
    let answer = get(async move || (StatusCode::SERVICE_UNAVAILABLE, Json(sick())));
    let health = node(serve(Router::new().route("/v1/health", answer)).await).health().await;
    assert_eq!(health.expect("an answer"), sick());
}

#[tokio::test]
async fn outcomes_are_told_apart() {
    let claim = |status: StatusCode| post(async move || (status, Json(api::ErrorBody::new("because"))));
    let call = async |router: Router| {
        let client = DirectoryClient::new([serve(router).await], None).expect("a client");
        client.claim(&Digest::of(b"x"), "n", Duration::ZERO).await.expect_err("an error")
    };
    let path = "/directory/v1/blobs/{digest}/claim";
    let refused = call(Router::new().route(path, claim(StatusCode::UNAUTHORIZED))).await;
    assert!(matches!(&refused, CallError::Refused { status: 401, reason, .. } if reason == "because"));
    let rejected = call(Router::new().route(path, claim(StatusCode::CONFLICT))).await;
    assert!(matches!(rejected, CallError::Rejected { status: 409, .. }));
    let unavailable = call(Router::new().route(path, claim(StatusCode::BAD_GATEWAY))).await;
    assert!(unavailable.is_transient() && matches!(unavailable, CallError::Unavailable { .. }));
    let moved = call(Router::new().route(path, claim(StatusCode::FOUND))).await;
    assert!(matches!(moved, CallError::BadAnswer { .. }));
    let page = call(Router::new().route(path, post(async || "<html>"))).await;
    assert!(matches!(page, CallError::BadAnswer { .. }));
    assert!(matches!(call(Router::new()).await, CallError::BadAnswer { .. }));
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    let router = Router::new().route("/v1/health", get(async || pending::<()>().await));
    let client = node(serve(router).await).with_deadline(Duration::from_millis(50));
    let error = client.health().await.expect_err("no answer");
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let router = Router::new().route("/v1/metrics", get(async || vec![b'x'; api::MAX_ANSWER + 1]));
    let error = node(serve(router).await).metrics().await.expect_err("too long");
    assert!(matches!(error, CallError::BadAnswer { .. }), "{error}");
}

#[tokio::test]
async fn the_token_goes_with_every_call_and_shows_nowhere() {
    let router = Router::new().route(
        "/base/directory/v1/blobs/{digest}/claim",
        post(async |headers: HeaderMap| {
            let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
            assert_eq!(shown, Some("Bearer secret"));
            Json(Claim::Leased(Lease { lease: "l".to_owned(), ttl_ms: 1 }))
        }),
    );
    let base = serve(router).await.replace("http://", "http://user:password@") + "/base/";
    let client = DirectoryClient::new([&base], Some("secret")).expect("a client");
    let claim = client.claim(&Digest::of(b"x"), "n", Duration::ZERO).await.expect("answers");
    assert!(matches!(claim, Claim::Leased(_)));
    let error = client.get(&Digest::of(b"x")).await;
    assert_eq!(error.expect("404"), None);
    let error = client.tag("x").await.map(|_| ()).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(!error.contains("password") && !error.contains("secret"));
}

#[tokio::test]
async fn a_pull_is_followed_to_its_last_event_and_a_cut_one_is_an_error() {
    let lines = |text: &'static str| Router::new().route("/v1/pull", post(async move || text));
    let request = PullRequest { reference: "r/x:1".to_owned(), platform: None };
    let whole = "{\"event\":\"alive\"}\n{\"event\":\"failed\",\"error\":\"e\"}\n{\"event\":\"alive\"}\n";
    let mut pull = node(serve(lines(whole)).await).pull(&request).await.expect("starts");
    assert_eq!(pull.next().await.expect("an event"), Some(PullEvent::Alive));
    assert_eq!(pull.next().await.expect("an event"), Some(PullEvent::Failed { error: "e".to_owned() }));
    assert_eq!(pull.next().await.expect("the end"), None);
    let mut pull =
        node(serve(lines("{\"event\":\"alive\"}\n{\"eve")).await).pull(&request).await.expect("starts");
    assert_eq!(pull.next().await.expect("an event"), Some(PullEvent::Alive));
    assert!(matches!(pull.next().await, Err(CallError::BadAnswer { .. })));
}

#[test]
fn addresses_that_are_none_are_refused_before_any_call() {
    let new = |base: &str, token| DirectoryClient::new([base], token).map(|_| ());
    assert!(matches!(new("host:6969", None), Err(ClientError::BadAddress { .. })));
    assert!(matches!(new("ftp://host", None), Err(ClientError::BadAddress { .. })));
    assert!(matches!(new("http://host", Some("a\nb")), Err(ClientError::BadToken)));
    assert!(matches!(DirectoryClient::new([""; 0], None).map(|_| ()), Err(ClientError::NoAddress)));
}
