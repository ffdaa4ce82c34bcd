//! Whether what a node serves is right: the lab hashes it itself.

use std::{error::Error as _, net::SocketAddr, time::Duration};

use hash::{Digest, Sha256};
use tokio::time::timeout;

use crate::{
    LabError, netns,
    report::BlobReport,
    run::{REGISTRY_NAME, REPOSITORY},
};

/// How long a mirror may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) right: usize,
    /// Each with what was wrong.
    pub(crate) wrong: Vec<String>,
}

/// Fetches all `blobs` from the mirror at `mirror`, as a runtime would, and hashes them.
pub(crate) async fn verify(
    namespace: Option<String>,
    mirror: SocketAddr,
    blobs: Vec<BlobReport>,
) -> Result<Found, LabError> {
    netns::inside(namespace, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| LabError::Client(error.to_string()))?;
        runtime.block_on(look(mirror, &blobs))
    })
    .await?
}

async fn look(mirror: SocketAddr, blobs: &[BlobReport]) -> Result<Found, LabError> {
    // reqwest takes the process's TLS provider; whoever installed one first wins, and any does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).connect_timeout(SILENCE).build();
    let client = client.map_err(|error| LabError::Client(error.to_string()))?;
    let mut found = Found::default();
    for blob in blobs {
        match digest_of(&client, mirror, blob).await {
            Ok(digest) if digest == blob.digest => found.right += 1,
            Ok(digest) => found.wrong.push(format!("{}: the bytes are those of {digest}", blob.digest)),
            Err(reason) => found.wrong.push(format!("{}: {reason}", blob.digest)),
        }
    }
    Ok(found)
}

async fn digest_of(
    client: &reqwest::Client,
    mirror: SocketAddr,
    blob: &BlobReport,
) -> Result<Digest, String> {
    let kind = if blob.is_manifest() { "manifests" } else { "blobs" };
    let url = format!("http://{mirror}/v2/{REPOSITORY}/{kind}/{}?ns={REGISTRY_NAME}", blob.digest);
    let late = |_| format!("the mirror is silent for {SILENCE:?}");
    let words = |error: reqwest::Error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let mut answer = timeout(SILENCE, client.get(url).send()).await.map_err(late)?.map_err(words)?;
    if !answer.status().is_success() {
        return Err(format!("the mirror answers {}", answer.status()));
    }
    let (mut hasher, mut length) = (Sha256::new(), 0);
    while let Some(chunk) = timeout(SILENCE, answer.chunk()).await.map_err(late)?.map_err(words)? {
        length += chunk.len() as u64;
        if length > blob.size {
            return Err(format!("there are more than its {} bytes", blob.size));
        }
        hasher.update(&chunk);
    }
    Ok(Digest::from_bytes(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Bytes, extract::Request};

    use super::*;
    use crate::report::BlobKind;

    #[tokio::test]
    async fn wrong_bytes_missing_blobs_and_surplus_are_found() {
        let good = |bytes: &[u8]| BlobReport::new(Digest::of(bytes), BlobKind::Layer, bytes.len() as u64);
        let blobs = vec![good(b"right"), good(b"wrong"), good(b"gone"), good(b"long")];
        let served: Vec<(String, &[u8])> = blobs
            .iter()
            .zip([&b"right"[..], b"wrung", b"", b"longer"])
            .map(|(blob, bytes)| (blob.digest.to_string(), bytes))
            .collect();
        let answer = move |request: Request| {
            let found = served.iter().find(|(digest, _)| request.uri().path().ends_with(digest));
            let found = found.filter(|_| request.uri().query() == Some("ns=lab.test"));
            let answer = match found {
                Some((_, bytes)) if !bytes.is_empty() => Ok(Bytes::from_static(bytes)),
                _ => Err(axum::http::StatusCode::NOT_FOUND),
            };
            async move { answer }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let _server =
            tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let found = verify(None, address, blobs).await.expect("looks");
        assert_eq!(found.right, 1);
        let wrong = found.wrong.join("\n");
        assert!(wrong.contains(&Digest::of(b"wrung").to_string()), "{wrong}");
        assert!(wrong.contains("404") && wrong.contains("more than its 4 bytes"), "{wrong}");
    }
}
