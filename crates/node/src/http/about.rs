//! The node itself: how it is, how it is set up, what it has to say.

use std::{sync::atomic::Ordering, time::Duration};

use api::node::{Address, Health, Status, Totals};
use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{Api, failure};
use tracker_client::shown;

use crate::{
    content::{Inner, now},
    log::{LogPage, log_book},
    metrics, trackers,
};

pub(super) async fn health(State(api): State<Api>) -> Response {
    let mirror::Health { mut problems, .. } = api.content.0.health().await;
    if !api.content.lives().await {
        problems.push("the node's threads are all busy".to_owned());
    }
    let healthy = problems.is_empty();
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { healthy, problems })).into_response()
}

pub(super) async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.status())
}

/// The configuration as it is in force, secrets hidden.
pub(super) async fn settings(State(api): State<Api>) -> Response {
    let mut config = api.content.0.config.clone();
    config.trackers = config.trackers.iter().map(|url| shown(url)).collect();
    Json(config).into_response()
}

#[derive(Deserialize)]
pub(super) struct Since {
    after: Option<u64>,
}

/// The log's lines from a number on.
pub(super) async fn log(Query(query): Query<Since>) -> Json<LogPage> {
    Json(log_book().from(query.after.unwrap_or(0)))
}

impl Api {
    /// Makes seconds since 1970 of the engine's age.
    pub(super) fn since(&self) -> impl Fn(Duration) -> u64 {
        let start = now().saturating_sub(self.content.0.uptime().as_secs());
        move |age| start + age.as_secs()
    }

    /// The node in short.
    pub(crate) fn status(&self) -> Status {
        let inner = &self.content.0;
        let purpose = |purpose: &str, address: String| Address { purpose: purpose.into(), address };
        let mut addresses = vec![
            purpose("peer", inner.engine.listen().to_string()),
            purpose("api", inner.config.api.socket.display().to_string()),
        ];
        addresses.extend(self.listens.iter().map(|address| purpose("api", address.to_string())));
        addresses.extend(self.mirrors.iter().map(|address| purpose("mirror", address.to_string())));
        let uptime = inner.uptime().as_secs();
        let trackers = trackers::status(&inner.config.trackers, &inner.engine, self.since());
        Status {
            node: inner.name.clone(),
            peer_id: hash::to_hex(inner.engine.peer_id().as_bytes()),
            version: env!("CARGO_PKG_VERSION").into(),
            addresses,
            trackers,
            local_discovery: inner.config.peer.local_discovery,
            borrow: inner.lenders.status(),
            uptime,
            totals: totals(inner),
        }
    }
}

pub(crate) fn totals(inner: &Inner) -> Totals {
    let (blobs, blob_bytes) = inner.store.count_and_bytes();
    let torrents = inner.engine.torrents();
    Totals {
        blobs,
        blob_bytes,
        borrowed_bytes: inner.store.borrowed_bytes(),
        active_torrents: torrents.len() as u64,
        peers: torrents.iter().map(|t| t.peers().len() as u64).sum(),
        from_peers: inner.engine.from_peers(),
        from_origins: inner.origin.received(),
        to_peers: inner.engine.uploaded(),
        to_clients: inner.to_clients.load(Ordering::Relaxed),
        wasted: inner.engine.wasted(),
        evicted: inner.evicted.load(Ordering::Relaxed),
    }
}

pub(super) async fn metrics_text(State(api): State<Api>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics::text(&totals(&api.content.0)) {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
