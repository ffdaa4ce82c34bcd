//! News without end, as server-sent events (HTML standard, section 9.2).

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;

use super::{Api, failure};
use crate::live::{Teller, Topics};

/// How many may read at once.
pub(super) const MOST_READERS: usize = 32;

#[derive(Deserialize)]
pub(super) struct TopicsQuery {
    topics: Option<String>,
}

pub(super) async fn events(State(api): State<Api>, Query(query): Query<TopicsQuery>) -> Response {
    let topics: Topics = match query.topics.unwrap_or_default().parse() {
        Ok(topics) => topics,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    let Ok(place) = api.readers.clone().try_acquire_owned() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, format!("{MOST_READERS} readers are told already"));
    };
    let stop = api.stop.clone();
    let teller = Teller::new(api, topics);
    // The place is given back with the answer's end.
    let events = stream::unfold((teller, place), move |(mut teller, place)| {
        let stop = stop.clone();
        async move {
            let news = tokio::select! {
                news = teller.next() => news,
                () = stop.cancelled() => return None,
            };
            let mut text = if news.is_empty() { ": alive\n\n".to_owned() } else { String::new() };
            for record in news {
                if let Ok(json) = serde_json::to_string(&record) {
                    text.push_str("data: ");
                    text.push_str(&json);
                    text.push_str("\n\n");
                }
            }
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), (teller, place)))
        }
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (head, Body::from_stream(events)).into_response()
}
