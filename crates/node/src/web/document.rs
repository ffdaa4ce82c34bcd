//! Small files that may change: asked for at each use, kept for the time when their server cannot be reached, and read on
//! their way where they say what comes next.

use std::{os::unix::fs::FileExt, sync::Arc, time::Duration};

use api::directory::Tag;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mirror::{Asker, ContentError, Located, Passed, WebRequest};
use origin::{Document, FileHead, Home, OriginError};
use tokio::{task::spawn_blocking, time::timeout};
use url::Url;

use crate::{
    content::{Inner, count},
    fetch,
    flight::Want,
    meant::{DAY, is_for_all},
    site::{Repository, Seen},
};

/// The largest file that is asked for anew at each use and kept all the same, in bytes.
const DOCUMENT_LIMIT: usize = 16 * 1024 * 1024;
/// How long the fleet's copy of a file may take while its server cannot be reached.
const STALE: Duration = Duration::from_secs(20);

impl Inner {
    /// A file that may change: asked for at each use.
    pub(super) async fn document(
        self: &Arc<Self>,
        request: WebRequest,
        url: &Url,
        stale: bool,
        optional: bool,
    ) -> Result<Located, ContentError> {
        match self.latest(url, stale).await {
            Ok(Some(latest)) => Ok(Located::Passed(latest.answer(self, &request.headers))),
            Ok(None) | Err(OriginError::TooLarge { .. }) => self.pass_on(request, url).await,
            // OSTree goes on without it, and would not go on after any other error.
            Err(error) if error.is_transient() && stale && optional => Err(ContentError::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    /// What a file is now, by its server; or what it was last, while that cannot be reached, if that will do. `None`
    /// where it is not for everybody.
    async fn latest(self: &Arc<Self>, url: &Url, stale: bool) -> Result<Option<Latest>, OriginError> {
        let key = url.as_str();
        let mut before = None;
        if let Some(seen) = self.sites.seen(key)
            && let Some(bytes) = self.whole(seen.digest).await
        {
            before = Some(Latest { seen, bytes, warning: None });
        }
        let conditions = before.as_ref().map(|latest| latest.seen.conditions()).unwrap_or_default();
        match self.web.document(url, conditions, DOCUMENT_LIMIT).await {
            Ok(Document::Same) => before.map(Some).ok_or_else(|| OriginError::Invalid {
                place: (&Home::Web(url.clone())).into(),
                what: format!("file {}", url.path()),
                reason: "it has not changed since nothing".to_owned(),
            }),
            Ok(Document::New(head, bytes)) if is_for_all(&head.headers) => {
                let known = before.is_some_and(|latest| latest.seen.digest == Digest::of(&bytes));
                Ok(Some(self.keep_document(url, &head, bytes, known).await))
            }
            Ok(Document::New(_, bytes)) => {
                self.look_into(url, &bytes);
                Ok(None)
            }
            Err(error) if error.is_transient() && stale => {
                let old = match before {
                    Some(latest) => Some((latest, None)),
                    None => self.of_the_fleet(url).await.map(|(latest, age)| (latest, Some(age))),
                };
                let (mut latest, age) = old.ok_or(error)?;
                self.look_into(url, &latest.bytes);
                let age = age.map_or_else(String::new, |age| format!(" {age} s ago"));
                let host = url.host_str().unwrap_or_default();
                tracing::warn!(
                    path = url.path(),
                    host,
                    "the server cannot be reached; serving the last copy"
                );
                latest.warning = Some(format!("{host} cannot be reached; this is what it last gave{age}"));
                Ok(Some(latest))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps a file for the next time, and for the fleet. `known`: these bytes were kept before.
    async fn keep_document(
        self: &Arc<Self>,
        url: &Url,
        head: &FileHead,
        bytes: Bytes,
        known: bool,
    ) -> Latest {
        let digest = Digest::of(&bytes);
        let header = |name| head.headers.get(name).cloned();
        let seen = Seen {
            digest,
            media_type: head.media_type.clone(),
            etag: header(header::ETAG),
            modified: header(header::LAST_MODIFIED),
            age: Duration::ZERO,
        };
        self.look_into(url, &bytes);
        self.sites.see(url.as_str(), seen.clone());
        // A server has just given it to somebody who showed nothing.
        self.store.mark_public(&digest);
        let (media_type, size) = (head.media_type.clone(), bytes.len() as u64);
        let torrent = if known {
            None
        } else {
            match self.keep_small(digest, bytes.clone(), media_type.as_deref()).await {
                Ok(torrent) => Some(torrent),
                Err(error) => {
                    tracing::info!(%digest, %error, "a file is not kept");
                    return Latest { seen, bytes, warning: None };
                }
            }
        };
        let (inner, url) = (self.clone(), url.clone());
        self.tasks.spawn(async move {
            if let Some(torrent) = torrent {
                fetch::offer(&inner, &torrent, media_type.clone(), true, None).await;
            }
            inner.tell_key(url.as_str(), digest, media_type, size).await;
        });
        Latest { seen, bytes, warning: None }
    }

    /// Reads a superblock, for the parts that will be asked for next.
    fn look_into(&self, url: &Url, bytes: &[u8]) {
        if !url.path().ends_with("/superblock") {
            return;
        }
        match ostree::parse_superblock(bytes) {
            Ok(parts) => self.sites.set_parts(url.clone(), parts),
            Err(error) => tracing::debug!(path = url.path(), %error, "a superblock is not understood"),
        }
    }

    /// What the fleet knows a file as, and since how many seconds.
    async fn of_the_fleet(self: &Arc<Self>, url: &Url) -> Option<(Latest, u64)> {
        let Tag { target, age, .. } = self.known_key(url.as_str()).await?;
        let digest = target.digest;
        if self.whole(digest).await.is_none() {
            let home = Home::Web(url.clone());
            let (flight, _) = self.flight(&home, digest, Want::Blob, &Asker::default());
            timeout(STALE, flight.finished()).await.ok()?.ok()?;
        }
        let seen = Seen::file(digest, Some(target.media_type));
        let bytes = self.whole(digest).await?;
        Some((Latest { seen, bytes, warning: None }, age))
    }

    /// All of a small blob that is here and for everybody.
    async fn whole(&self, digest: Digest) -> Option<Bytes> {
        let (blob, file) = self.used(digest).await.ok().flatten()?;
        let size = usize::try_from(blob.size).ok().filter(|size| *size <= DOCUMENT_LIMIT)?;
        if !blob.public {
            return None;
        }
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, 0).ok().map(|()| Bytes::from(bytes))
        });
        read.await.ok().flatten()
    }

    /// The SHA-256 of a delta's part, by the superblock that clients were last given here.
    pub(super) async fn part(
        self: &Arc<Self>,
        repository: &Repository,
        superblock: &str,
        number: usize,
    ) -> Option<Digest> {
        let url = repository.url(superblock);
        if self.sites.parts(&url).is_none_or(|(_, fresh)| !fresh) {
            // Not lately: it is asked for now, and looked into on the way.
            let kept = self.latest(&url, repository.stale).await;
            if let Err(error) = kept {
                tracing::debug!(%error, superblock, "no superblock for a part");
            }
        }
        self.sites.parts(&url)?.0.get(number).copied()
    }
}

/// A small file as it is to be answered with.
struct Latest {
    seen: Seen,
    bytes: Bytes,
    warning: Option<String>,
}

impl Latest {
    fn answer(self, inner: &Inner, asked: &HeaderMap) -> Passed {
        let Seen { media_type, etag, modified, .. } = self.seen;
        let media_type = media_type.and_then(|name| HeaderValue::from_str(&name).ok());
        let mut headers = HeaderMap::new();
        let told = [
            (header::CONTENT_TYPE, media_type),
            (header::ETAG, etag.clone()),
            (header::LAST_MODIFIED, modified.clone()),
        ];
        for (name, value) in told {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        let has_it = match (asked.get(header::IF_NONE_MATCH), asked.get(header::IF_MODIFIED_SINCE)) {
            (Some(have), _) => Some(have) == etag.as_ref(),
            // As the server wrote it: other dates need not be understood.
            (None, Some(have)) => Some(have) == modified.as_ref(),
            (None, None) => false,
        };
        let (status, bytes) =
            if has_it { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, self.bytes) };
        let length = bytes.len() as u64;
        if !has_it {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        count(inner, bytes.len());
        let body = stream::iter([Ok(bytes)]).boxed();
        Passed { status, headers, warning: self.warning, length: Some(length), body }
    }
}

impl Seen {
    /// What the server is asked, so that it need not give the same again; but once a day it has to, as nothing proves what is here.
    fn conditions(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.age >= DAY {
            return headers;
        }
        if let Some(etag) = &self.etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        } else if let Some(modified) = &self.modified {
            headers.insert(header::IF_MODIFIED_SINCE, modified.clone());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nothing_proves_is_asked_for_whole_once_a_day() {
        let date = HeaderValue::from_static("x");
        let dated = Seen { modified: Some(date.clone()), ..Seen::file(Digest::of(b"1"), None) };
        assert_eq!(dated.conditions().get(header::IF_MODIFIED_SINCE), Some(&date));
        let tagged = Seen { etag: Some(HeaderValue::from_static("\"1\"")), ..dated };
        assert_eq!(tagged.conditions().keys().collect::<Vec<_>>(), [header::IF_NONE_MATCH]);
        assert!(Seen { age: DAY, ..tagged }.conditions().is_empty());
    }
}
