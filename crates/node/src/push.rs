//! Pushes through the mirror: passed on to the registry as they come, and what the registry takes is kept and seeded at
//! once.
//!
//! A client's bytes are written down on their way. What cannot be kept (no room, chunks out of order, a digest that is
//! not theirs) is passed on all the same. The registry is asked with the client's own rights, never with this host's.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::directory::TagRequest;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mirror::{Asker, BlobAnswer, Content as _, ContentError, Push, PushBody, PushTarget, Pushed, PushedAt};
use origin::{
    Change, ChangeAnswer, ChangeTarget, MANIFEST_LIMIT, OriginError, Place, Repository, Rights, Target,
};
use percent_encoding::percent_decode_str;
use tokio::{fs::File, io::AsyncWriteExt as _, sync::mpsc, task::JoinHandle, time::Instant};
use url::Url;

use crate::{
    content::{Content, Inner},
    fetch,
    flight::{FetchError, Want},
    pull::Document,
};

/// Uploads under way at most; a new one puts the oldest out.
const MOST: usize = 1024;
/// How many blobs are given to a registry for one manifest at most.
const MOST_SUPPLIED: usize = 256;
/// How long an upload may rest between two requests.
const REST: Duration = Duration::from_secs(3600);
/// Chunks between the client and the file.
const QUEUE: usize = 16;

/// Uploads under way, by the id that the client was given.
pub(crate) struct Uploads {
    folder: PathBuf,
    next: AtomicU64,
    under_way: Mutex<HashMap<String, Upload>>,
}

struct Upload {
    repository: Repository,
    /// Where it goes on at the registry.
    at: Url,
    /// What has come so far, if it can be kept.
    spool: Option<Spool>,
    touched: Instant,
}

/// A file with the bytes of an upload. It goes with the value.
pub(crate) struct Spool {
    pub(crate) path: PathBuf,
    length: u64,
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Uploads {
    /// What an earlier run left in the folder goes: its uploads are over.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, next: AtomicU64::new(0), under_way: Mutex::default() })
    }

    pub(crate) fn spool(&self) -> Spool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Spool { path: self.folder.join(number.to_string()), length: 0 }
    }

    /// Puts an upload under an id, and gives the id.
    fn put(&self, id: Option<String>, repository: &Repository, at: Url, spool: Option<Spool>) -> String {
        #[allow(clippy::disallowed_methods, reason = "the node is a driver")]
        let touched = Instant::now();
        let id = id.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let mut under_way = self.lock();
        under_way.retain(|_, upload| touched.duration_since(upload.touched) < REST);
        if under_way.len() >= MOST {
            let oldest = under_way.iter().min_by_key(|(_, upload)| upload.touched).map(|(id, _)| id.clone());
            oldest.and_then(|id| under_way.remove(&id));
        }
        under_way.insert(id.clone(), Upload { repository: repository.clone(), at, spool, touched });
        id
    }

    /// Takes an upload out: its next request has come.
    fn take(&self, id: &str, repository: &Repository) -> Option<Upload> {
        let mut under_way = self.lock();
        under_way
            .get(id)
            .is_some_and(|upload| upload.repository == *repository)
            .then(|| under_way.remove(id))?
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Passes a change on, and keeps what it brings.
    pub(crate) async fn push(
        self: &Arc<Self>,
        repository: &Repository,
        push: Push,
        asker: &Asker,
    ) -> Result<Pushed, ContentError> {
        match push.target.clone() {
            PushTarget::Upload(id) => self.upload(repository, id, push, asker).await,
            PushTarget::Manifest(target) if push.method == Method::PUT => {
                self.push_manifest(repository, &target, push, asker).await
            }
            PushTarget::Manifest(target) => {
                let path = format!("/v2/{}/manifests/{target}", repository.name());
                let answer = self.pass(repository, ChangeTarget::Path(path), push, asker).await?;
                Ok(pushed(answer, None))
            }
            PushTarget::Blob(digest) => {
                let path = format!("/v2/{}/blobs/{digest}", repository.name());
                let answer = self.pass(repository, ChangeTarget::Path(path), push, asker).await?;
                Ok(pushed(answer, None))
            }
        }
    }

    async fn upload(
        self: &Arc<Self>,
        repository: &Repository,
        id: Option<String>,
        mut push: Push,
        asker: &Asker,
    ) -> Result<Pushed, ContentError> {
        let (target, spool, id) = match id {
            None => {
                let path = format!("/v2/{}/blobs/uploads/", repository.name());
                (ChangeTarget::Path(path), Some(self.uploads.spool()), None)
            }
            Some(id) => {
                let upload = self.uploads.take(&id, repository).ok_or(ContentError::NotFound)?;
                (ChangeTarget::At(upload.at), upload.spool, Some(id))
            }
        };
        let again = target.clone();
        let digest = push.query.as_deref().and_then(pushed_digest);
        let (mut spool, mut writer) = (spool, None);
        if let Some(body) = push.body.take() {
            let held = spool.take().filter(|held| follows(&push.headers, held.length));
            let length = push.headers.get(header::CONTENT_LENGTH);
            let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
            let (body, writing) = self.written_down(body, length, held).await;
            (push.body, writer) = (Some(body), writing);
        }
        let method = push.method.clone();
        let answer = self.pass(repository, target, push, asker).await;
        if let Some(writer) = writer {
            spool = writer.await.ok().flatten();
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // The client may try again from where the registry says that it is; what was written may be too much.
                if let (ChangeTarget::At(at), Some(id)) = (again, id) {
                    self.uploads.put(Some(id), repository, at, None);
                }
                return Err(error);
            }
        };
        let location = match (&answer.location, answer.status) {
            (_, StatusCode::CREATED) => match digest {
                Some(digest) => {
                    if let Some(spool) = spool {
                        self.keep_pushed(repository, digest, spool, asker);
                    }
                    Some(PushedAt::Blob(digest))
                }
                None => None,
            },
            (Some(at), StatusCode::ACCEPTED | StatusCode::NO_CONTENT) if answer.at_registry => {
                // Asked how far it is, the registry may say less than what was written here.
                let spool = spool.filter(|_| method != Method::GET);
                Some(PushedAt::Upload(self.uploads.put(id, repository, at.clone(), spool)))
            }
            (Some(at), status) if status.is_success() || status.is_redirection() => {
                Some(PushedAt::Elsewhere(at.to_string()))
            }
            _ => {
                if let (ChangeTarget::At(at), Some(id)) = (again, id)
                    && answer.status != StatusCode::NOT_FOUND
                {
                    self.uploads.put(Some(id), repository, at, None);
                }
                None
            }
        };
        Ok(pushed(answer, location))
    }

    /// The same body, and whoever writes it down behind what the spool holds already. `length` is the body's, in bytes,
    /// where the client says it.
    async fn written_down(
        &self,
        body: PushBody,
        length: Option<u64>,
        spool: Option<Spool>,
    ) -> (PushBody, Option<JoinHandle<Option<Spool>>>) {
        let Some(spool) = spool else { return (body, None) };
        match File::options().append(true).create(true).open(&spool.path).await {
            Ok(file) => {
                let (chunks, inbox) = mpsc::channel(QUEUE);
                (tee(body, chunks), Some(self.tasks.spawn(write(file, spool, length, inbox))))
            }
            Err(error) => {
                tracing::info!(path = %spool.path.display(), %error, "what is pushed is not kept");
                (body, None)
            }
        }
    }

    /// Puts a blob that the registry has taken into the store, in the background.
    fn keep_pushed(self: &Arc<Self>, repository: &Repository, digest: Digest, spool: Spool, asker: &Asker) {
        self.forget_verdict(repository, digest, asker);
        let (flight, ours) = self.flight(&repository.into(), digest, Want::Pushed(spool.path.clone()), asker);
        if !ours {
            return;
        }
        self.tasks.spawn(async move {
            // Its end tells of a failure.
            let _ = flight.finished().await;
            drop(spool);
        });
    }

    async fn push_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        target: &Target,
        mut push: Push,
        asker: &Asker,
    ) -> Result<Pushed, ContentError> {
        let mut bytes = BytesMut::new();
        if let Some(mut body) = push.body.take() {
            while let Some(chunk) = body.next().await {
                bytes
                    .extend_from_slice(&chunk.map_err(|error| ContentError::Unavailable(error.to_string()))?);
                if bytes.len() > MANIFEST_LIMIT {
                    return Ok(too_large());
                }
            }
        }
        let bytes = bytes.freeze();
        let media_type = push.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        let path = ChangeTarget::Path(format!("/v2/{}/manifests/{target}", repository.name()));
        let sent = || Push {
            method: push.method.clone(),
            target: push.target.clone(),
            query: push.query.clone(),
            headers: push.headers.clone(),
            body: Some(stream::iter([Ok(bytes.clone())]).boxed()),
        };
        let mut answer = self.pass(repository, path.clone(), sent(), asker).await?;
        if matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
            && self.supply(repository, &bytes, asker).await
        {
            answer = self.pass(repository, path, sent(), asker).await?;
        }
        let location = (answer.status == StatusCode::CREATED).then(|| PushedAt::Manifest(target.clone()));
        if let (Some(_), Some(media_type)) = (&location, media_type) {
            let (inner, repository, target) = (self.clone(), repository.clone(), target.clone());
            let asker = asker.clone();
            self.tasks.spawn(async move {
                let kept = inner.keep_manifest(&repository, &target, bytes, media_type, &asker).await;
                if let Err(error) = kept {
                    tracing::debug!(%repository, %target, %error, "what was pushed is not kept");
                }
            });
        }
        Ok(pushed(answer, location))
    }

    /// Gives the registry what a manifest names and its repository lacks, as far as the fleet has it and it is for
    /// everybody. Clients look by HEAD what they need not send, and have been told of what the fleet has: it may be of
    /// another repository. Says whether it gave anything.
    async fn supply(self: &Arc<Self>, repository: &Repository, manifest: &[u8], asker: &Asker) -> bool {
        let Ok(document) = serde_json::from_slice::<Document>(manifest) else { return false };
        let rights = asker.authorization.clone().map_or(Rights::Own, Rights::Client);
        let origin = self.origin.with_rights(rights);
        let mut gave = false;
        let named = document.config.into_iter().chain(document.layers);
        for digest in
            named.filter_map(|descriptor| descriptor.digest.parse::<Digest>().ok()).take(MOST_SUPPLIED)
        {
            let lacks = origin.blob_size(repository, &digest).await;
            if !matches!(lacks, Err(OriginError::NotFound { .. })) {
                continue;
            }
            match self.give(repository, digest, asker).await {
                Ok(()) => gave = true,
                Err(error) => {
                    tracing::debug!(%repository, %digest, %error, "the registry lacks it, and it cannot be given");
                }
            }
        }
        gave
    }

    /// Uploads a blob in the client's name.
    async fn give(
        self: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
        asker: &Asker,
    ) -> Result<(), ContentError> {
        let BlobAnswer { size, body, .. } =
            Content(self.clone()).blob(&repository.into(), &digest, asker, None).await?;
        let change = |method, query, headers, body| Push {
            method,
            target: PushTarget::Upload(None),
            query,
            headers,
            body,
        };
        let begin = ChangeTarget::Path(format!("/v2/{}/blobs/uploads/", repository.name()));
        let begun =
            self.pass(repository, begin, change(Method::POST, None, HeaderMap::new(), None), asker).await?;
        let refused = |status| ContentError::Unavailable(format!("the registry answered status {status}"));
        let at = begun.location.filter(|_| begun.at_registry).ok_or_else(|| refused(begun.status))?;
        let kind = HeaderValue::from_static("application/octet-stream");
        let headers = [(header::CONTENT_LENGTH, HeaderValue::from(size)), (header::CONTENT_TYPE, kind)];
        let body = body.map(|chunk| chunk.map_err(io::Error::other)).boxed();
        let query = Some(format!("digest={digest}"));
        let put = change(Method::PUT, query, HeaderMap::from_iter(headers), Some(body));
        let answer = self.pass(repository, ChangeTarget::At(at), put, asker).await?;
        if answer.status == StatusCode::CREATED { Ok(()) } else { Err(refused(answer.status)) }
    }

    /// Puts a manifest that the registry has taken into the store, and tells the fleet of it and of its tag.
    async fn keep_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        target: &Target,
        bytes: Bytes,
        media_type: String,
        asker: &Asker,
    ) -> Result<(), FetchError> {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let want = Want::Manifest(vec![media_type.clone()]);
        // The registry may have made something else of it.
        self.forget_verdict(repository, digest, asker);
        let granted = self.may_have(asker, repository, digest, &want).await?;
        let torrent = self.keep_small(digest, bytes, Some(&media_type)).await?;
        fetch::offer(self, &torrent, Some(media_type.clone()), granted.public, None).await;
        if let (Target::Tag(tag), Some(directory)) = (target, &self.directory) {
            let name = format!("{repository}:{tag}");
            let told = directory.set_tag(&TagRequest { name, digest, media_type, size }).await;
            if let Err(error) = told {
                tracing::debug!(%error, "tag not remembered");
            }
        }
        Ok(())
    }

    async fn pass(
        &self,
        repository: &Repository,
        target: ChangeTarget,
        push: Push,
        asker: &Asker,
    ) -> Result<ChangeAnswer, ContentError> {
        let rights = asker.authorization.clone().map_or(Rights::Own, Rights::Client);
        let Push { method, query, headers, body, .. } = push;
        let change = Change { method, target, query, headers, body };
        Ok(self.origin.with_rights(rights).change(&Place::from(repository), change).await?)
    }
}

fn pushed(answer: ChangeAnswer, location: Option<PushedAt>) -> Pushed {
    let ChangeAnswer { status, headers, body, .. } = answer;
    Pushed { status, headers, location, body }
}

fn too_large() -> Pushed {
    let message = format!("a manifest has at most {MANIFEST_LIMIT} bytes");
    let error = serde_json::json!({"code": "MANIFEST_INVALID", "message": message, "detail": null});
    Pushed {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        headers: HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        )]),
        location: None,
        body: serde_json::json!({ "errors": [error] }).to_string().into(),
    }
}

/// The digest that ends an upload.
fn pushed_digest(query: &str) -> Option<Digest> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("digest="))?;
    percent_decode_str(value).decode_utf8().ok()?.parse().ok()
}

/// Whether a body goes on where the last one ended, as far as the client says.
fn follows(headers: &HeaderMap, length: u64) -> bool {
    headers.get(header::CONTENT_RANGE).is_none_or(|range| {
        let range = range.to_str().unwrap_or_default();
        let first = range.trim_start_matches("bytes ").split('-').next();
        first.and_then(|first| first.trim().parse().ok()) == Some(length)
    })
}

/// The same body, whose chunks go into the channel too as long as anybody takes them.
fn tee(body: PushBody, chunks: mpsc::Sender<Option<Bytes>>) -> PushBody {
    let body = stream::unfold((body, Some(chunks)), async |(mut body, mut chunks)| {
        let next = body.next().await;
        let copy = match &next {
            Some(Ok(chunk)) => Some(chunk.clone()),
            // An end that is none says that what came is not all.
            Some(Err(_)) => return next.map(|next| (next, (body, None))),
            None => None,
        };
        if let Some(to) = &chunks
            && to.send(copy).await.is_err()
        {
            chunks = None;
        }
        next.map(|next| (next, (body, chunks)))
    });
    body.boxed()
}

/// Writes down what comes; gives the spool back if it is whole. A body of a length that was said ends with its last
/// byte: nobody may look for an end behind it.
async fn write(
    mut file: File,
    mut spool: Spool,
    length: Option<u64>,
    mut inbox: mpsc::Receiver<Option<Bytes>>,
) -> Option<Spool> {
    let end = length.map(|length| spool.length + length);
    while let Some(chunk) = inbox.recv().await {
        let Some(chunk) = chunk else {
            return file.flush().await.is_ok().then_some(spool);
        };
        if let Err(error) = file.write_all(&chunk).await {
            tracing::info!(path = %spool.path.display(), %error, "what is pushed is not kept");
            return None;
        }
        spool.length += chunk.len() as u64;
    }
    (end == Some(spool.length) && file.flush().await.is_ok()).then_some(spool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_that_ends_an_upload_is_found() {
        let digest = Digest::of(b"x");
        let escaped = digest.to_string().replace(':', "%3A");
        assert_eq!(pushed_digest(&format!("_state=a&digest={digest}")), Some(digest));
        assert_eq!(pushed_digest(&format!("digest={escaped}&b=c")), Some(digest));
        assert_eq!(pushed_digest("digest=sha256:1"), None);
        assert_eq!(pushed_digest("mount=x"), None);
    }

    #[test]
    fn only_what_goes_on_where_it_ended_is_kept() {
        let with =
            |range: &str| HeaderMap::from_iter([(header::CONTENT_RANGE, range.parse().expect("ascii"))]);
        assert!(follows(&HeaderMap::new(), 7));
        assert!(follows(&with("7-9"), 7) && follows(&with("bytes 7-9"), 7));
        assert!(!follows(&with("8-9"), 7) && !follows(&with("x"), 0));
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_not_taken_for_whole() {
        let folder = tempfile::tempdir().expect("temp");
        let uploads = Uploads::open(folder.path().join("u")).expect("made");
        // How many chunks are looked for, whether the body breaks, which length was said, and whether it is whole.
        for (taken, broken, said, whole) in [
            (9, false, None, true),
            (9, true, None, false),
            (2, false, Some(5), true),
            (1, false, Some(5), false),
            (2, false, None, false),
        ] {
            let spool = uploads.spool();
            let path = spool.path.clone();
            let file = File::options().append(true).create(true).open(&spool.path).await.expect("made");
            let (chunks, inbox) = mpsc::channel(QUEUE);
            let end = broken.then(|| Err(io::Error::other("gone")));
            let body = stream::iter([Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"de"))]);
            let body = tee(body.chain(stream::iter(end)).boxed(), chunks);
            let (kept, _) = tokio::join!(write(file, spool, said, inbox), body.take(taken).count());
            assert_eq!(
                kept.as_ref().map(|spool| spool.length),
                whole.then_some(5),
                "{taken} {broken} {said:?}"
            );
            assert_eq!(path.exists(), whole);
            drop(kept);
            assert!(!path.exists(), "it goes with the value");
        }
    }
}
