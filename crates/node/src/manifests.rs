//! Manifests and indexes: a tag is asked of the origin, a digest is content like any other.

use std::{os::unix::fs::FileExt, sync::Arc, time::Duration};

use api::directory::TagRequest;
use bytes::Bytes;
use futures_util::FutureExt;
use hash::Digest;
use mirror::{ContentError, ManifestAnswer};
use origin::{OriginError, Repository, Target};
use serde::Deserialize;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    content::Inner,
    flight::{FetchError, Want},
};

/// The largest manifest that is served, in bytes.
const LARGEST: u64 = 8 * 1024 * 1024;
/// How long a manifest may take to come from peers before the origin is asked directly.
const PATIENCE: Duration = Duration::from_secs(20);

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
        accept: &[String],
    ) -> Result<ManifestAnswer, ContentError> {
        let resolved = match target {
            Target::Digest(digest) => Resolved { digest: *digest, warning: None },
            Target::Tag(tag) => {
                let (inner, repository, accept) = (self.clone(), repository.clone(), accept.to_vec());
                let key = (repository.clone(), tag.clone(), accept.clone());
                let tag = tag.clone();
                self.tags
                    .run(key, || async move { inner.resolve_tag(&repository, &tag, &accept).await }.boxed())
                    .await?
            }
        };
        let mut answer = self.by_digest(repository, resolved.digest, accept).await?;
        answer.warning = resolved.warning;
        Ok(answer)
    }

    /// What a tag points at now, by the origin; or by the directory, while the origin cannot be reached.
    async fn resolve_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &str,
        accept: &[String],
    ) -> Result<Resolved, ContentError> {
        let target = Target::Tag(tag.to_owned());
        let name = format!("{repository}:{tag}");
        let error = match self.ask_tag(repository, &target, accept).await {
            Ok(request) => {
                let digest = request.digest;
                let inner = self.clone();
                self.tasks.spawn(async move {
                    if let Some(directory) = &inner.directory
                        && let Err(error) = directory.set_tag(&TagRequest { name, ..request }).await
                    {
                        tracing::debug!(%error, "tag not remembered");
                    }
                });
                return Ok(Resolved { digest, warning: None });
            }
            Err(error) => error,
        };
        if !matches!(error, OriginError::Unreachable { .. } | OriginError::Throttled { .. }) {
            return Err(error.into());
        }
        let known = match &self.directory {
            Some(directory) => directory.tag(&name).await.ok().flatten(),
            None => None,
        };
        let known = known.ok_or(error)?;
        tracing::warn!(%name, age = known.age, "the registry cannot be reached; serving what the tag pointed at");
        let warning = format!(
            "{} cannot be reached; this is what the tag pointed at {} s ago",
            repository.registry(),
            known.age
        );
        Ok(Resolved { digest: known.target.digest, warning: Some(warning) })
    }

    async fn ask_tag(
        self: &Arc<Self>,
        repository: &Repository,
        target: &Target,
        accept: &[String],
    ) -> Result<TagRequest, OriginError> {
        let head = self.origin.head_manifest(repository, target, accept).await?;
        if let (Some(digest), Some(media_type), Some(size)) = (head.digest, head.media_type, head.size) {
            return Ok(TagRequest { name: String::new(), digest, media_type, size });
        }
        // This registry does not say it without giving the whole.
        let manifest = self.origin.manifest(repository, target, accept).await?;
        let size = manifest.bytes.len() as u64;
        let kept = self.keep_small(manifest.digest, manifest.bytes, &manifest.media_type).await;
        if let Err(error) = kept {
            tracing::warn!(digest = %manifest.digest, %error, "manifest not kept");
        }
        Ok(TagRequest { name: String::new(), digest: manifest.digest, media_type: manifest.media_type, size })
    }

    async fn by_digest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
        accept: &[String],
    ) -> Result<ManifestAnswer, ContentError> {
        if let Some(answer) = self.kept_manifest(digest).await? {
            return Ok(answer);
        }
        let flight = self.flight(repository, digest, Want::Manifest(accept.to_vec()));
        match timeout(PATIENCE, flight.finished()).await {
            Ok(Ok(())) => {
                let kept = self.kept_manifest(digest).await?;
                kept.ok_or_else(|| ContentError::Internal(format!("manifest {digest} is lost")))
            }
            Ok(Err(FetchError::Origin(error))) => Err(error.into()),
            // It cannot be kept, or does not come: pass it on.
            Ok(Err(_)) | Err(_) => {
                let manifest = self.origin.manifest(repository, &Target::Digest(digest), accept).await?;
                let (bytes, media_type) = (manifest.bytes, manifest.media_type);
                Ok(ManifestAnswer { bytes, media_type, digest, warning: None })
            }
        }
    }

    async fn kept_manifest(&self, digest: Digest) -> Result<Option<ManifestAnswer>, ContentError> {
        let Some((blob, file)) = self.stored(digest).await? else { return Ok(None) };
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
