//! A whole image, by reference: manifest, platform, blobs, and how far it all is.

use std::{collections::BTreeSet, io::Read as _, sync::Arc, time::Duration};

use api::{
    Platform, Platforms,
    node::{PullEvent, PullRequest, SourceBytes, SourceKind},
};
use futures_util::{StreamExt, stream};
use hash::Digest;
use mirror::ManifestAnswer;
use origin::{Reference, Repository, Target};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
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
/// The longest configuration of an image that is read, in bytes.
const LONGEST_CONFIG: u64 = 8 * 1024 * 1024;
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
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: Option<String>,
    pub(crate) digest: String,
    size: u64,
    platform: Option<Meant>,
    /// Where a layer lies that may not be in any registry.
    #[serde(default)]
    urls: Vec<String>,
}

/// For which platform an image is meant, in an index or in the image's own configuration.
#[derive(Clone, Deserialize)]
struct Meant {
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
    let mut blobs: Vec<(Digest, Descriptor)> = Vec::new();
    let mut sums = Sums { bytes: top.bytes.len() as u64, ..Sums::default() };
    let images = images(content, repository, &top, request.platform.as_ref(), &mut sums, events).await?;
    for document in images {
        // A foreign layer comes from the addresses in the manifest, by the runtime's own ways.
        let layers = document.layers.into_iter().filter(|layer| layer.urls.is_empty());
        for descriptor in document.config.into_iter().chain(layers) {
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
        let stored = content.0.stored(digest).await.map_err(|e| format!("blob {digest}: {e}"))?;
        let size = stored.map_or(0, |(blob, _)| blob.size);
        if size != descriptor.size {
            return Err(format!("blob {digest} has {size} bytes, and the manifest says {}", descriptor.size));
        }
        Ok::<_, String>((size, sources))
    });
    let mut fetches = fetches.buffer_unordered(AT_ONCE);
    while let Some(fetched) = fetches.next().await {
        let (size, sources) = fetched?;
        sums.bytes = sums.bytes.saturating_add(size);
        sums.add(&sources);
    }
    let Sums { bytes, from_peers, from_origin } = sums;
    Ok(PullEvent::Done { digest, bytes, from_peers, from_origin })
}

/// What an image weighs, and what of it came from where.
#[derive(Default)]
struct Sums {
    bytes: u64,
    from_peers: u64,
    from_origin: u64,
}

impl Sums {
    fn add(&mut self, sources: &[SourceBytes]) {
        for source in sources {
            match source.source.kind {
                SourceKind::Peer => self.from_peers += source.bytes,
                SourceKind::Origin => self.from_origin += source.bytes,
                SourceKind::Store | SourceKind::Directory => {}
            }
        }
    }
}

impl Content {
    /// A manifest or an index that is here.
    pub(crate) async fn document(&self, digest: Digest) -> Option<Document> {
        let (blob, file) = self.0.stored(digest).await.ok()??;
        if blob.size > LONGEST_CONFIG {
            return None;
        }
        let read = spawn_blocking(move || {
            let mut bytes = Vec::new();
            (&*file).take(LONGEST_CONFIG).read_to_end(&mut bytes).map(|_| bytes)
        });
        serde_json::from_slice(&read.await.ok()?.ok()?).ok()
    }
}

async fn manifest(
    content: &Content,
    repository: &Repository,
    target: &Target,
) -> Result<ManifestAnswer, String> {
    let answer = content.resolve(repository, target, ACCEPT.map(str::to_owned).into()).await;
    answer.map_err(|error| format!("manifest {target} of {repository}: {error}"))
}

/// The image manifests behind a manifest or index: those of the platform, or all.
async fn images(
    content: &Content,
    repository: &Repository,
    top: &ManifestAnswer,
    asked: Option<&Platforms>,
    sums: &mut Sums,
    events: &mpsc::Sender<PullEvent>,
) -> Result<Vec<Document>, String> {
    let document = parse(top)?;
    if document.manifests.is_empty() {
        // Whoever does not ask takes what there is, as runtimes do.
        if let (Some(Platforms::One(platform)), Some(config)) = (asked, &document.config) {
            sums.add(&expect_platform(content, repository, config, platform, events).await?);
        }
        return Ok(vec![document]);
    }
    let platforms = asked.cloned().unwrap_or_else(|| Platforms::One(Platform::own()));
    let fits = |d: &&Descriptor| match &platforms {
        Platforms::All => true,
        Platforms::One(wanted) => d.platform.clone().is_some_and(|there| Platform::from(there).fits(wanted)),
    };
    let chosen: Vec<Descriptor> = document.manifests.iter().filter(fits).cloned().collect();
    if chosen.is_empty() {
        let there: BTreeSet<String> = document
            .manifests
            .iter()
            .filter_map(|d| d.platform.clone())
            .map(|there| Platform::from(there).to_string())
            .collect();
        let there = there.into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("the image is not there for {platforms}; there are: {there}"));
    }
    let mut images = Vec::new();
    for descriptor in chosen {
        let digest = descriptor.digest.parse().map_err(|e| format!("in the index: {e}"))?;
        let answer = manifest(content, repository, &Target::Digest(digest)).await?;
        sums.bytes += answer.bytes.len() as u64;
        let image = parse(&answer)?;
        if !image.manifests.is_empty() {
            return Err(format!("{digest} in the index is an index itself: pull it by its digest"));
        }
        images.push(image);
    }
    Ok(images)
}

fn parse(answer: &ManifestAnswer) -> Result<Document, String> {
    let digest = answer.digest;
    let document: Document =
        serde_json::from_slice(&answer.bytes).map_err(|e| format!("manifest {digest} is not one: {e}"))?;
    if document.config.is_none() && document.layers.is_empty() && document.manifests.is_empty() {
        return Err(format!("manifest {digest} names neither layers nor other manifests: it is no image"));
    }
    Ok(document)
}

/// Brings an image's configuration, and refuses the image if that is for another platform. One that names none, or is
/// too long to be one, will do. Says where it came from.
async fn expect_platform(
    content: &Content,
    repository: &Repository,
    config: &Descriptor,
    wanted: &Platform,
    events: &mpsc::Sender<PullEvent>,
) -> Result<Vec<SourceBytes>, String> {
    if config.size > LONGEST_CONFIG {
        return Ok(Vec::new());
    }
    let failed = |error: &dyn std::fmt::Display| format!("the image's configuration: {error}");
    let digest: Digest = config.digest.parse().map_err(|e| failed(&e))?;
    let sources = blob(content, repository, digest, events).await?;
    let stored = content.0.stored(digest).await.map_err(|e| failed(&e))?;
    let (_, file) = stored.ok_or_else(|| failed(&"it is lost"))?;
    let read = spawn_blocking(move || {
        let mut bytes = Vec::new();
        (&*file).take(LONGEST_CONFIG).read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = read.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    match serde_json::from_slice::<Meant>(&bytes).map(Platform::from) {
        Ok(there) if !there.fits(wanted) => {
            Err(format!("the image is not there for {wanted}; there is only {there}"))
        }
        _ => Ok(sources),
    }
}

/// Brings one blob, and tells how far it is.
async fn blob(
    content: &Content,
    repository: &Repository,
    digest: Digest,
    events: &mpsc::Sender<PullEvent>,
) -> Result<Vec<SourceBytes>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("blob {digest}: {error}");
    if content.0.used(digest).await.map_err(|e| failed(&e))?.is_some() {
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

impl From<Meant> for Platform {
    fn from(meant: Meant) -> Self {
        let Meant { architecture, os, variant } = meant;
        Self { os, architecture, variant: variant.filter(|variant| !variant.is_empty()) }
    }
}
