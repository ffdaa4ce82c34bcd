//! Why a pull was as fast, or as slow, as it was.

use api::{
    node::BlobStatus,
    trace::{Explanation, Part, Trace},
};
use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hash::Digest;
use origin::{Reference, Target};
use serde::Deserialize;

use super::{Api, blobs, failure};

/// How many traces are given unless asked for otherwise.
const TRACES: usize = 100;
/// Most parts of an image that are explained.
const MOST_PARTS: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct Many {
    limit: Option<usize>,
}

pub(super) async fn traces(State(api): State<Api>, Query(query): Query<Many>) -> Json<Vec<Trace>> {
    Json(api.content.0.traces.latest(query.limit.unwrap_or(TRACES)))
}

#[derive(Deserialize)]
pub(super) struct About {
    reference: String,
}

pub(super) async fn explain(State(api): State<Api>, Query(query): Query<About>) -> Response {
    let reference: Reference = match query.reference.parse() {
        Ok(reference) => reference,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    let digest = match &reference.target {
        Target::Digest(digest) => *digest,
        Target::Tag(tag) => {
            let name = format!("{}:{tag}", reference.repository);
            match api.content.0.resolved.get(&name) {
                Some(digest) => digest,
                None => {
                    let why = format!("{name} was not asked for here since this node started");
                    return failure(StatusCode::NOT_FOUND, why);
                }
            }
        }
    };
    let mut parts = Vec::new();
    let mut documents = vec![digest];
    let mut first = true;
    while let Some(manifest) = documents.pop() {
        let document = api.content.document(manifest).await;
        let Some(document) = document else {
            if first {
                return failure(StatusCode::NOT_FOUND, format!("the manifest {manifest} is not here"));
            }
            continue;
        };
        first = false;
        let index = !document.manifests.is_empty();
        parts.push(part(&api, if index { "index" } else { "manifest" }, manifest).await);
        // Of an index, what of it is here.
        documents.extend(document.manifests.iter().filter_map(|d| d.digest.parse::<Digest>().ok()));
        let layers = document.layers.iter().map(|layer| ("layer", layer));
        for (what, descriptor) in document.config.iter().map(|config| ("config", config)).chain(layers) {
            if let Ok(digest) = descriptor.digest.parse::<Digest>()
                && parts.len() < MOST_PARTS
                && parts.iter().all(|known: &Part| known.blob.digest != digest)
            {
                parts.push(part(&api, what, digest).await);
            }
        }
        if parts.len() >= MOST_PARTS {
            break;
        }
    }
    Json(Explanation { reference: query.reference, digest, parts }).into_response()
}

async fn part(api: &Api, what: &str, digest: Digest) -> Part {
    let blob: BlobStatus = blobs::status(api, digest).await.ok().flatten().unwrap_or_else(|| {
        let inner = &api.content.0;
        blobs::came(inner, &digest)
    });
    Part { what: what.to_owned(), blob, trace: api.content.0.traces.get(&digest) }
}
