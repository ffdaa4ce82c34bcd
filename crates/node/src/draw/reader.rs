//! What clients are given of a file while it comes: behind it, from the server beside it, and at last from the fleet.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use http::HeaderValue;
use mirror::{Asker, BlobStream, ByteRange, Content as _, ContentError};
use origin::{BlobBody, FileHead, Home, OriginError, Version};
use tokio::{sync::watch, time::timeout};
use url::Url;

use super::{Draw, Drawn};
use crate::{
    content::{Content, Inner, count},
    flight::FetchError,
    stream::read,
};

/// How long a reader waits for the next bytes.
const STALL: Duration = Duration::from_secs(60);
/// Who waits for another node's drawing gets so many bytes each time: OSTree leaves below 1000 bytes a second.
const TRICKLE: usize = 16 * 1024;
/// How long they wait for the next.
const PACE: Duration = Duration::from_secs(5);

impl Draw {
    /// The file as it comes. Where it cannot be kept, the rest comes from the server.
    pub(crate) fn follow(&self, inner: &Arc<Inner>) -> BlobStream {
        self.reader(inner, None)
    }

    /// The file while another node draws it: what the server says of it, and its bytes, slowly until it is known.
    /// `None` where the server has another version by now.
    pub(crate) async fn trickle(
        &self,
        inner: &Arc<Inner>,
    ) -> Result<Option<(FileHead, Option<u64>, BlobStream)>, OriginError> {
        let (head, body) = inner.web.file(&self.meant.url, 0, Version::Unknown).await?;
        if !self.meant.fits(&head) {
            return Ok(None);
        }
        let size = body.size();
        let direct = Direct { body: Box::new(body), left: Bytes::new(), validator: head.validator() };
        Ok(Some((head, size, self.reader(inner, Some(direct)))))
    }

    fn reader(&self, inner: &Arc<Inner>, direct: Option<Direct>) -> BlobStream {
        let reader = Reader {
            inner: inner.clone(),
            url: self.meant.url.clone(),
            drawn: self.drawn.subscribe(),
            at: 0,
            size: direct.as_ref().and_then(|direct| direct.body.size()),
            from: direct.map_or(Stage::File, Stage::Trickle),
        };
        Box::pin(stream::try_unfold(reader, async |mut reader| {
            let chunk = reader.next().await?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        }))
    }
}

/// A client's place in a file that is coming.
struct Reader {
    inner: Arc<Inner>,
    url: Url,
    drawn: watch::Receiver<Drawn>,
    at: u64,
    /// What the client was told.
    size: Option<u64>,
    from: Stage,
}

/// Where a reader's next bytes come from.
enum Stage {
    /// The file that is drawn here.
    File,
    /// The server, slowly, as long as another node draws.
    Trickle(Direct),
    /// The server.
    Server(Direct),
    /// The fleet: it is known which blob it is. Counted there.
    Blob(BlobStream),
}

/// The server's answer.
struct Direct {
    body: Box<BlobBody>,
    /// What came of it and was not given yet.
    left: Bytes,
    validator: Option<HeaderValue>,
}

impl Direct {
    async fn next(&mut self, most: usize) -> Result<Option<Bytes>, ContentError> {
        while self.left.is_empty() {
            match self.body.next_chunk().await? {
                Some(chunk) => self.left = chunk,
                None => return Ok(None),
            }
        }
        Ok(Some(self.left.split_to(self.left.len().min(most))))
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, ContentError> {
        loop {
            let drawn = self.drawn.borrow_and_update().clone();
            let ready = drawn.received > self.at && !matches!(self.from, Stage::Blob(_) | Stage::Server(_));
            if let Some(file) = drawn.file.clone().filter(|_| ready && self.is_same(&drawn)) {
                self.from = Stage::File;
                let chunk = read(file, self.at, drawn.received - self.at).await?;
                return Ok(Some(self.given(chunk)));
            }
            let chunk = match (&mut self.from, drawn.outcome) {
                (Stage::Blob(blob), _) => {
                    let chunk = blob.next().await.transpose()?;
                    self.at += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    return Ok(chunk);
                }
                (Stage::Server(direct), _) => direct.next(usize::MAX).await?,
                _ if self.size.or(drawn.size) == Some(self.at) => None,
                // Its own bytes are all here, whatever it was found to be.
                (Stage::File, Some(Ok(_))) => None,
                (Stage::Trickle(_), Some(Ok(digest))) => {
                    let Some(rest) = self.rest_of(digest).await? else { return Ok(None) };
                    self.from = Stage::Blob(rest);
                    continue;
                }
                (Stage::File, Some(Err(FetchError::Disk(why)))) => {
                    tracing::info!(%why, "a file cannot be kept; passing it on");
                    self.from = Stage::Server(self.rest(drawn.validator).await?);
                    continue;
                }
                (Stage::Trickle(_), Some(Err(error))) if error.is_wrong() => return Err(error.into()),
                (Stage::File, Some(Err(error))) => return Err(error.into()),
                (Stage::Trickle(_), Some(Err(_))) => {
                    let Stage::Trickle(direct) = std::mem::replace(&mut self.from, Stage::File) else {
                        continue;
                    };
                    self.from = Stage::Server(direct);
                    continue;
                }
                (Stage::File, None) => {
                    let changed = timeout(STALL, self.drawn.changed()).await;
                    changed
                        .map_err(|_| ContentError::Unavailable("nothing comes of the file".into()))?
                        .map_err(|_| ContentError::Internal("a file was forgotten".into()))?;
                    continue;
                }
                (Stage::Trickle(direct), None) => {
                    if self.at > 0 && timeout(PACE, self.drawn.changed()).await.is_ok() {
                        continue;
                    }
                    direct.next(TRICKLE).await?
                }
            };
            return Ok(chunk.map(|chunk| self.given(chunk)));
        }
    }

    fn given(&mut self, chunk: Bytes) -> Bytes {
        self.at += chunk.len() as u64;
        count(&self.inner, chunk.len());
        chunk
    }

    /// Whether the file that is drawn here is the one whose first bytes the client has.
    fn is_same(&self, drawn: &Drawn) -> bool {
        match &self.from {
            Stage::Trickle(direct) => {
                self.at == 0 || direct.validator.is_some() && direct.validator == drawn.validator
            }
            _ => true,
        }
    }

    /// What is missing, from the server.
    async fn rest(&mut self, validator: Option<HeaderValue>) -> Result<Direct, OriginError> {
        let version = if self.at == 0 { Version::Unknown } else { Version::Like(validator.clone()) };
        let (_, body) = self.inner.web.file(&self.url, self.at, version).await?;
        Ok(Direct { body: Box::new(body), left: Bytes::new(), validator })
    }

    /// What is missing, from the fleet, if anything is.
    async fn rest_of(&mut self, digest: Digest) -> Result<Option<BlobStream>, ContentError> {
        let (content, home) = (Content(self.inner.clone()), Home::Web(self.url.clone()));
        let range = (self.at > 0).then_some(ByteRange::From(self.at));
        let answer = match content.blob(&home, &digest, &Asker::default(), range).await {
            Err(ContentError::Unsatisfiable { size }) if size == self.at && self.size.is_none() => {
                return Ok(None);
            }
            answer => answer?,
        };
        if self.size.is_some_and(|size| size != answer.size) {
            return Err(ContentError::Internal("the file is not as long as it was said to be".into()));
        }
        Ok(Some(answer.body))
    }
}
