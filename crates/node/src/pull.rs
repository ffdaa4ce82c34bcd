//! A whole image, by reference: manifest, platform, blobs, and how far it all is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::node::{PullEvent, PullRequest, SourceBytes, SourceKind};
use futures_util::{StreamExt, stream};
use hash::Digest;
use mirror::ManifestAnswer;
use origin::{Reference, Repository, Target};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    content::Content,
    flight::{Flight, Want},
};

/// Blobs fetched at once.
const AT_ONCE: usize = 8;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);
/// Most blobs of one image.
const MOST_BLOBS: usize = 10_000;

/// What manifests are accepted: image and index, of OCI and of Docker.
const ACCEPT: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A manifest or an index, as far as its blobs go (OCI image spec).
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    variant: Option<String>,
}

/// Pulls an image, telling `events` how it goes; the last event is `done` or `failed`.
pub(crate) async fn run(content: Content, request: PullRequest, events: mpsc::Sender<PullEvent>) {
    let last = match pull(&content, &request, &events).await {
        Ok(done) => done,
        Err(error) => PullEvent::Failed { error },
    };
    // Nobody listens any more: the blobs that are here stay.
    let _ = events.send(last).await;
}

async fn pull(
    content: &Content,
    request: &PullRequest,
    events: &mpsc::Sender<PullEvent>,
) -> Result<PullEvent, String> {
    let reference: Reference = request.reference.parse().map_err(|e| format!("{e}"))?;
    let repository = &reference.repository;
    let top = manifest(content, repository, &reference.target).await?;
    let (digest, media_type) = (top.digest, top.media_type.clone());
    tell(events, PullEvent::Resolved { digest, media_type }).await;
    let platform = request.platform.clone().unwrap_or_else(own_platform);
    let mut blobs: Vec<(Digest, Descriptor)> = Vec::new();
    let mut bytes = top.bytes.len() as u64;
    for document in images(content, repository, &top, &platform, &mut bytes).await? {
        for descriptor in document.config.into_iter().chain(document.layers) {
            let blob = descriptor.digest.parse::<Digest>().map_err(|e| format!("in the manifest: {e}"))?;
            if blobs.iter().all(|(known, _)| *known != blob) {
                blobs.push((blob, descriptor));
            }
        }
    }
    if blobs.len() > MOST_BLOBS {
        return Err(format!("the image has {} blobs, more than {MOST_BLOBS}", blobs.len()));
    }
    for (digest, descriptor) in &blobs {
        let (size, media_type) = (descriptor.size, descriptor.media_type.clone());
        tell(events, PullEvent::Blob { digest: *digest, size, media_type }).await;
    }
    let fetches = stream::iter(blobs).map(|(digest, descriptor)| async move {
        let sources = blob(content, repository, digest, events).await?;
        tell(events, PullEvent::Complete { digest, sources: sources.clone() }).await;
        Ok::<_, String>((descriptor.size, sources))
    });
    let mut fetches = fetches.buffer_unordered(AT_ONCE);
    let (mut from_peers, mut from_origin) = (0, 0);
    while let Some(fetched) = fetches.next().await {
        let (size, sources) = fetched?;
        bytes += size;
        for source in sources {
            match source.source.kind {
                SourceKind::Peer => from_peers += source.bytes,
                SourceKind::Origin => from_origin += source.bytes,
                SourceKind::Store => {}
            }
        }
    }
    Ok(PullEvent::Done { digest, bytes, from_peers, from_origin })
}

async fn manifest(
    content: &Content,
    repository: &Repository,
    target: &Target,
) -> Result<ManifestAnswer, String> {
    let accept = ACCEPT.map(str::to_owned);
    let answer = content.resolve(repository, target, &accept).await;
    answer.map_err(|error| format!("manifest {target} of {repository}: {error}"))
}

/// The image manifests behind a manifest or index: those of the platform, or all.
async fn images(
    content: &Content,
    repository: &Repository,
    top: &ManifestAnswer,
    platform: &str,
    bytes: &mut u64,
) -> Result<Vec<Document>, String> {
    let parse = |answer: &ManifestAnswer| {
        serde_json::from_slice::<Document>(&answer.bytes)
            .map_err(|e| format!("manifest {} is not one: {e}", answer.digest))
    };
    let document = parse(top)?;
    if document.manifests.is_empty() {
        return Ok(vec![document]);
    }
    let fits = |d: &&Descriptor| platform == "all" || d.platform.as_ref().is_some_and(|p| p.fits(platform));
    let chosen: Vec<Descriptor> = document.manifests.iter().filter(fits).cloned().collect();
    if chosen.is_empty() {
        let there: BTreeSet<String> =
            document.manifests.iter().filter_map(|d| d.platform.as_ref()).map(Platform::name).collect();
        let there = there.into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("the image is not there for {platform}; there are: {there}"));
    }
    let mut images = Vec::new();
    for descriptor in chosen {
        let digest = descriptor.digest.parse().map_err(|e| format!("in the index: {e}"))?;
        let answer = manifest(content, repository, &Target::Digest(digest)).await?;
        *bytes += answer.bytes.len() as u64;
        images.push(parse(&answer)?);
    }
    Ok(images)
}

/// Brings one blob, and tells how far it is.
async fn blob(
    content: &Content,
    repository: &Repository,
    digest: Digest,
    events: &mpsc::Sender<PullEvent>,
) -> Result<Vec<SourceBytes>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("blob {digest}: {error}");
    if content.0.stored(digest).await.map_err(|e| failed(&e))?.is_some() {
        return Ok(Vec::new());
    }
    let flight = content.bring(repository, digest, Want::Blob);
    let mut ticks = interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let finished = flight.finished();
    tokio::pin!(finished);
    loop {
        tokio::select! {
            outcome = &mut finished => {
                outcome.map_err(|e| failed(&e))?;
                break;
            }
            _ = ticks.tick() => tell(events, progress(&flight)).await,
        }
    }
    Ok(content.0.records.get(&digest).map(|record| record.sources).unwrap_or_default())
}

fn progress(flight: &Arc<Flight>) -> PullEvent {
    let progress = flight.progress().borrow().clone();
    let (in_torrent, peers) = match &progress.torrent {
        Some(torrent) => {
            // A statement of its own: the torrent writes its status under the lock that `peers` takes, so the
            // status must not be borrowed meanwhile.
            let bytes = torrent.status().borrow().bytes;
            (bytes, torrent.peers().len() as u32)
        }
        None => (0, 0),
    };
    PullEvent::Progress {
        digest: flight.digest,
        bytes_done: in_torrent.max(progress.from_origin),
        from_peers: in_torrent.saturating_sub(progress.from_origin),
        from_origin: progress.from_origin,
        peers,
    }
}

async fn tell(events: &mpsc::Sender<PullEvent>, event: PullEvent) {
    // Nobody listens any more: the pull goes on all the same.
    let _ = events.send(event).await;
}

impl Platform {
    fn name(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}/{}/{variant}", self.os, self.architecture),
            None => format!("{}/{}", self.os, self.architecture),
        }
    }

    /// `os/architecture`, with the variant if one is asked for.
    fn fits(&self, wanted: &str) -> bool {
        wanted == self.name() || wanted == format!("{}/{}", self.os, self.architecture)
    }
}

/// This machine's platform, in the OCI spec's (Go's) words.
fn own_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}
