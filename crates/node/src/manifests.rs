//! Manifests and indexes: a tag is asked of the origin, a digest is content like any other.

use std::{
    collections::HashMap,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{
    directory::{Tag, TagClaim, TagRequest, turn_of},
    trace::SpanKind,
};
use bytes::Bytes;
use futures_util::FutureExt;
use hash::Digest;
use mirror::{Asker, ContentError, ManifestAnswer};
use origin::{Endpoint, Freshness, Home, Origin, OriginError, Repository, Target};
use serde::Deserialize;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    access::is_refusal,
    content::{Inner, now_ms},
    flight::{FetchError, Want},
    lease::Held,
};

/// The largest manifest that is served, in bytes.
const LARGEST: u64 = 8 * 1024 * 1024;
/// How long a manifest may take to come from peers before the origin is asked directly.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long another node of the fleet that asks the origin for the same tag is waited for.
const TURN: Duration = Duration::from_secs(2);

/// What tags pointed at when they were last asked for here.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<String, Digest>>);

impl Names {
    /// `registry/repository:tag`.
    pub(crate) fn get(&self, name: &str) -> Option<Digest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn note(&self, name: String, digest: Digest) {
        const MOST: usize = 10_000;
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MOST {
            names.clear();
        }
        names.insert(name, digest);
    }
}

/// What a tag points at.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) digest: Digest,
    /// A notice for people, when this is old news.
    pub(crate) warning: Option<String>,
}

impl Inner {
    /// A manifest by tag or digest, to the byte.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> Result<ManifestAnswer, ContentError> {
        let endpoint = self.origin.endpoint(&repository.into())?;
        let asked_ms = now_ms();
        let resolved = match target {
            Target::Digest(digest) => Resolved { digest: *digest, warning: None },
            Target::Tag(tag) => {
                let (inner, key) = (self.clone(), (repository.clone(), tag.clone(), asker.clone()));
                let (repository, tag, asker) = key.clone();
                let work = move || {
                    async move { inner.resolve_tag(&repository, &tag, &asker, &endpoint).await }.boxed()
                };
                self.tags.run(key, work).await?
            }
        };
        if let Target::Tag(tag) = target {
            self.resolved.note(format!("{repository}:{tag}"), resolved.digest);
        }
        let known_ms = now_ms();
        let mut answer = self.by_digest(repository, resolved.digest, asker).await?;
        if let Target::Tag(tag) = target {
            let tracer = self.traces.of(resolved.digest, &repository.to_string(), "manifest");
            tracer.past(SpanKind::Tag, (asked_ms, known_ms), Some(tag.clone()));
        }
        answer.warning = resolved.warning;
        Ok(answer)
    }

    /// What a tag points at now, by the origin, which one node of the fleet asks at a time; or by the directory, where that
    /// was told lately enough, or while the origin cannot be reached.
    async fn resolve_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &str,
        asker: &Asker,
        endpoint: &Endpoint,
    ) -> Result<Resolved, ContentError> {
        let name = format!("{repository}:{tag}");
        let fresh = |age: u64| match endpoint.tags {
            Freshness::Always => false,
            Freshness::After(time) => Duration::from_secs(age) <= time,
            Freshness::Pinned => true,
        };
        if endpoint.tags != Freshness::Always
            && let Some(known) = self.known_tag(&name).await.filter(|known| fresh(known.age))
        {
            return Ok(Resolved { digest: known.target.digest, warning: None });
        }
        let turn = match self.turn_for(&name).await {
            Some(TagClaim::Known(known)) => {
                return Ok(Resolved { digest: known.target.digest, warning: None });
            }
            Some(TagClaim::Leased(lease)) => Some(Held::new(self, turn_of(&name), lease)),
            Some(TagClaim::Held) | None => None,
        };
        let target = Target::Tag(tag.to_owned());
        let target = &target;
        let ask = |origin: Origin| async move { self.ask_tag(&origin, repository, target, asker).await };
        let error = match self.with_rights(&repository.into(), asker, ask).await {
            Ok((request, rights)) => {
                let digest = request.digest;
                self.note_granted(repository, digest, asker, rights);
                let inner = self.clone();
                self.tasks.spawn(async move {
                    if let Some(directory) = &inner.directory
                        && let Err(error) = directory.set_tag(&TagRequest { name, ..request }).await
                    {
                        tracing::debug!(%error, "tag not remembered");
                    }
                    drop(turn);
                });
                return Ok(Resolved { digest, warning: None });
            }
            Err(error) => error,
        };
        // The others go on by themselves.
        drop(turn);
        if !error.is_transient() || !endpoint.stale_tags {
            return Err(error.into());
        }
        let known = self.known_tag(&name).await.ok_or(error)?;
        tracing::warn!(%name, age = known.age, "the registry cannot be reached; serving what the tag pointed at");
        let warning = format!(
            "{} cannot be reached; this is what the tag pointed at {} s ago",
            repository.registry(),
            known.age
        );
        Ok(Resolved { digest: known.target.digest, warning: Some(warning) })
    }

    /// Whose turn it is to ask for a tag; `None` where nobody keeps that.
    async fn turn_for(&self, name: &str) -> Option<TagClaim> {
        self.directory.as_ref()?.claim_tag(name, &self.name, TURN).await.ok()
    }

    async fn known_tag(&self, name: &str) -> Option<Tag> {
        self.directory.as_ref()?.tag(name).await.ok().flatten()
    }

    async fn ask_tag(
        self: &Arc<Self>,
        origin: &Origin,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> Result<TagRequest, OriginError> {
        let head = origin.head_manifest(repository, target, &asker.accept).await?;
        if let (Some(digest), Some(media_type), Some(size)) = (head.digest, head.media_type, head.size) {
            return Ok(TagRequest { name: String::new(), digest, media_type, size });
        }
        // This registry does not say it without giving the whole.
        let manifest = origin.manifest(repository, target, &asker.accept).await?;
        let size = manifest.bytes.len() as u64;
        let kept = self.keep_small(manifest.digest, manifest.bytes, Some(&manifest.media_type)).await;
        if let Err(error) = kept {
            tracing::warn!(digest = %manifest.digest, %error, "manifest not kept");
        }
        Ok(TagRequest { name: String::new(), digest: manifest.digest, media_type: manifest.media_type, size })
    }

    async fn by_digest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
        asker: &Asker,
    ) -> Result<ManifestAnswer, ContentError> {
        let want = Want::Manifest(asker.accept.clone());
        if let Some(answer) = self.kept_manifest(repository, digest, asker, &want).await? {
            return Ok(answer);
        }
        if self.disk.is_open() {
            return self.unkept(repository, digest, asker).await;
        }
        let home = Home::from(repository);
        let (mut flight, mut ours) = self.flight(&home, digest, want.clone(), asker);
        if !ours && !self.is_believed(&flight, &home) && self.is_listed(&home) {
            self.ask_now(asker, repository, digest, &want).await?;
            (flight, ours) = self.better_flight(&flight, &home, want.clone(), asker);
        }
        if !ours {
            self.join(&flight, &home, asker).await?;
        }
        let mut outcome = timeout(PATIENCE, flight.finished()).await;
        if let (false, Ok(Err(FetchError::Origin(error)))) = (ours, &outcome)
            && is_refusal(error)
        {
            // That flight was for somebody who may not have it, and we may.
            (flight, _) = self.flight(&home, digest, want.clone(), asker);
            outcome = timeout(PATIENCE, flight.finished()).await;
        }
        match outcome {
            Ok(Ok(())) => {
                let kept = self.kept_manifest(repository, digest, asker, &want).await?;
                kept.ok_or_else(|| ContentError::Internal(format!("manifest {digest} is lost")))
            }
            Ok(Err(FetchError::Origin(error))) => Err(error.into()),
            // It cannot be kept, or does not come: pass it on.
            Ok(Err(_)) | Err(_) => self.unkept(repository, digest, asker).await,
        }
    }

    /// A manifest from its origin, kept nowhere.
    async fn unkept(
        &self,
        repository: &Repository,
        digest: Digest,
        asker: &Asker,
    ) -> Result<ManifestAnswer, ContentError> {
        let target = Target::Digest(digest);
        let target = &target;
        let ask = |origin: Origin| async move { origin.manifest(repository, target, &asker.accept).await };
        let (manifest, _) = self.with_rights(&repository.into(), asker, ask).await?;
        let (bytes, media_type) = (manifest.bytes, manifest.media_type);
        Ok(ManifestAnswer { bytes, media_type, digest, warning: None })
    }

    /// A manifest that is here, for an asker who may have it.
    async fn kept_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
        asker: &Asker,
        want: &Want,
    ) -> Result<Option<ManifestAnswer>, ContentError> {
        let Some((blob, file)) = self.used(digest).await? else { return Ok(None) };
        if !blob.public {
            self.may_have(asker, repository, digest, want).await?;
        }
        if blob.size > LARGEST {
            return Err(ContentError::NotFound);
        }
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; blob.size as usize];
            file.read_exact_at(&mut bytes, 0).map(|()| Bytes::from(bytes))
        });
        let failed = |error: &dyn std::fmt::Display| {
            ContentError::Internal(format!("reading {digest} failed: {error}"))
        };
        let bytes = read.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let media_type = said_by_itself(&bytes).or(blob.media_type).ok_or(ContentError::NotFound)?;
        Ok(Some(ManifestAnswer { bytes, media_type, digest, warning: None }))
    }
}

/// The media type in the manifest itself, where it names one. It goes before what anybody else says of it.
fn said_by_itself(manifest: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: String,
    }
    serde_json::from_slice(manifest).ok().map(|head: Head| head.media_type)
}
