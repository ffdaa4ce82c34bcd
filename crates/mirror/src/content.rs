//! What the mirror serves: the seam to whoever has the bytes.

use std::{future::Future, io, pin::Pin};

use bytes::Bytes;
use futures_util::Stream;
use hash::Digest;
use http::{HeaderMap, Method, StatusCode, Uri};
use origin::{Home, Listing, ListingAnswer, OriginError, Repository, Secret, Target};
use tokio::net::TcpStream;

use crate::range::{ByteRange, Span};

/// Where manifests and blobs come from.
///
/// What is not for everybody is given only to an [`Asker`] to whom its registry would give it, which is the content's
/// affair to find out.
///
/// Every call may be dropped at any time, when its client goes away or its deadline passes. A client that goes away
/// is no reason to end a download: clients cut parallel ranges as they please.
pub trait Content: Send + Sync + 'static {
    /// What `/v2/` asks of clients that show nothing: the `WWW-Authenticate` of the default registry. None to let
    /// everybody in, and to ask only where something is not public. Docker, podman and skopeo log in only if they are
    /// asked there. Answered at once: Docker waits 15 s for it.
    fn challenge(&self) -> Option<String>;

    /// Whether whoever has the bytes lives: if not, only a restart helps. Answered within seconds.
    fn lives(&self) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// How it goes. Answered within seconds.
    fn health(&self) -> impl Future<Output = Health> + Send {
        async { Health::default() }
    }

    /// A manifest, to the byte. It should be given only if its blobs can be had too: podman and skopeo choose the
    /// mirror by the manifest, and have no way back.
    fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> impl Future<Output = Result<ManifestAnswer, ContentError>> + Send;

    /// The same without the bytes, for HEAD.
    fn head_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asker: &Asker,
    ) -> impl Future<Output = Result<ManifestHeadAnswer, ContentError>> + Send;

    /// What a blob is, for HEAD. Must not start a transfer.
    fn blob_size(
        &self,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
    ) -> impl Future<Output = Result<BlobHead, ContentError>> + Send;

    /// A blob, or the part of it that `range` means once the size is known: see [`Span::of`].
    fn blob(
        &self,
        home: &Home,
        digest: &Digest,
        asker: &Asker,
        range: Option<ByteRange>,
    ) -> impl Future<Output = Result<BlobAnswer, ContentError>> + Send;

    /// Passes a change on to the registry. Takes as long as the body comes.
    fn push(
        &self,
        repository: &Repository,
        push: Push,
        asker: &Asker,
    ) -> impl Future<Output = Result<Pushed, ContentError>> + Send;

    /// Tags, referrers or catalog, passed through with the client's query (without `ns`).
    fn listing(
        &self,
        listing: &Listing,
        query: Option<&str>,
        asker: &Asker,
    ) -> impl Future<Output = Result<ListingAnswer, ContentError>> + Send;

    /// Where a file of the web is to be had: as a blob, or as an answer that is passed on.
    fn locate(&self, request: WebRequest) -> impl Future<Output = Result<Located, ContentError>> + Send {
        drop(request);
        async { Err(ContentError::NotFound) }
    }

    /// A connection for a client's tunnel, if there may be one to that host.
    fn tunnel(&self, host: &str, port: u16) -> impl Future<Output = Result<TcpStream, ContentError>> + Send {
        let why = format!("tunnels to {host}:{port} are not allowed");
        async { Err(ContentError::Denied(why)) }
    }
}

/// A request for something that is in no registry.
pub struct WebRequest {
    /// The request's.
    pub method: Method,
    /// What it is for.
    pub target: WebTarget,
    /// The client's headers, without those that are about its connection.
    pub headers: HeaderMap,
    /// The body as it comes, if there is one.
    pub body: Option<PushBody>,
}

/// What a request of the web is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebTarget {
    /// A URL, as clients of a proxy give it.
    Absolute(Uri),
    /// A file of an OSTree repository that the configuration names: its name, and the path below it as it came.
    Ostree(String, String),
}

/// Where a file of the web is to be had.
pub enum Located {
    /// It is this blob.
    Blob {
        /// Where it lives.
        home: Home,
        /// The blob.
        digest: Digest,
        /// What the server called it, if that is known.
        media_type: Option<String>,
        /// As in [`ManifestAnswer`].
        warning: Option<String>,
    },
    /// This is the answer.
    Passed(Passed),
}

/// An answer to a request of the web.
pub struct Passed {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those that are about a connection.
    pub headers: HeaderMap,
    /// As in [`ManifestAnswer`].
    pub warning: Option<String>,
    /// The body's length in bytes, if it is known before its end.
    pub length: Option<u64>,
    /// The body, of exactly that length.
    pub body: BlobStream,
}

/// How it goes with whoever has the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether clients are better off with the mirror than without.
    pub ready: bool,
    /// What is wrong, in words for people.
    pub problems: Vec<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { ready: true, problems: Vec::new() }
    }
}

impl Health {
    /// Something is wrong for which clients had better be sent elsewhere.
    pub fn unready(&mut self, problem: String) {
        self.ready = false;
        self.problems.push(problem);
    }
}

/// A change of a registry that a client asks for.
pub struct Push {
    /// The request's.
    pub method: Method,
    /// What is to be changed.
    pub target: PushTarget,
    /// The client's query, without `ns`.
    pub query: Option<String>,
    /// What the client says of the body: its type, its length, and which part of the blob it is.
    pub headers: HeaderMap,
    /// The body as it comes, if there is one. Each chunk comes within two minutes, or an error.
    pub body: Option<PushBody>,
}

/// A client's bytes as they come.
pub type PushBody = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What a client would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushTarget {
    /// A blob's upload: a new one, or one under way by the id that [`PushedAt::Upload`] gave it.
    Upload(Option<String>),
    /// A manifest, by tag or digest.
    Manifest(Target),
    /// A blob that is there.
    Blob(Digest),
}

/// The registry's answer to a change, whatever it is.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as far as they are the client's business, without `Location`.
    pub headers: HeaderMap,
    /// Where it goes on, or what was made.
    pub location: Option<PushedAt>,
    /// Its body: mostly an error's words.
    pub body: Bytes,
}

/// What a `Location` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushedAt {
    /// The upload goes on, under this id.
    Upload(String),
    /// This manifest is there now.
    Manifest(Target),
    /// This blob is there now.
    Blob(Digest),
    /// It goes on somewhere else than at the registry.
    Elsewhere(String),
}

/// Who asks, and what they can take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The client's `Authorization`, as it came.
    pub authorization: Option<Secret>,
    /// The client's own `Accept` values, one by one.
    pub accept: Vec<String>,
}

/// A manifest or index.
#[derive(Debug, Clone)]
pub struct ManifestAnswer {
    /// The bytes `digest` is of.
    pub bytes: Bytes,
    /// Exact media type.
    pub media_type: String,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// A notice for people, such as "served stale": goes out as `Warning: 299`, containerd shows it.
    pub warning: Option<String>,
}

/// A manifest or index without its bytes. All fields are needed: containerd takes an answer without digest or length
/// for a failure of the last host.
#[derive(Debug, Clone)]
pub struct ManifestHeadAnswer {
    /// Length in bytes.
    pub size: u64,
    /// Exact media type.
    pub media_type: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// As in [`ManifestAnswer`].
    pub warning: Option<String>,
}

/// What a blob is.
#[derive(Debug, Clone)]
pub struct BlobHead {
    /// Length in bytes.
    pub size: u64,
    /// Media type if known; else `application/octet-stream` is said.
    pub media_type: Option<String>,
}

/// Verified bytes as they come. A chunk is sent as it is, so tens to hundreds of KiB are a good size.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, ContentError>> + Send>>;

/// A blob, or a part of one.
pub struct BlobAnswer {
    /// Length of the whole blob in bytes.
    pub size: u64,
    /// The part that `body` gives; all of it when no range was asked for.
    pub span: Span,
    /// Media type if known.
    pub media_type: Option<String>,
    /// Exactly the bytes of `span`, or an error on the way.
    pub body: BlobStream,
}

/// Why content cannot be served, and what the client is told.
///
/// | error | manifests and listings | blobs |
/// |---|---|---|
/// | `NotFound` | 404 | 404 |
/// | `Unauthorized` with a challenge | 401 | 401 |
/// | `Unauthorized` without | 404 | 404 |
/// | `Denied` | GET 403, HEAD 404 | 404 |
/// | `Unavailable`, `TooBusy` | 503 | 404 |
/// | `Internal` | 500 | 404 |
/// | `Unsatisfiable` | - | 416 |
///
/// To fail early, at the manifest, is always safe: every client then goes to the upstream for everything, on any of
/// these. To fail at a blob is not: podman and skopeo give up on all of them, and Docker asks again for up to 76
/// seconds after a 401 or 5xx, but goes on at once after a 404. So a blob that cannot be had is 404, and 401 only when
/// the client can do something about it. A HEAD that is told 403 makes containerd ask again by GET, hence 404 there.
/// 429 is never said: clients would come back to this same mirror at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// There is no such thing here or upstream.
    #[error("not found")]
    NotFound,
    /// The client must log in upstream first.
    #[error("login needed: {reason}")]
    Unauthorized {
        /// What was refused, and to whom.
        reason: String,
        /// The upstream's `WWW-Authenticate`, that the client may satisfy it.
        challenge: Option<String>,
    },
    /// It exists and may not be given.
    #[error("not allowed: {0}")]
    Denied(String),
    /// It cannot be had now: no peer, no upstream.
    #[error("cannot be had now: {0}")]
    Unavailable(String),
    /// This host has too much to do.
    #[error("too busy")]
    TooBusy,
    /// The range asked for begins after the end.
    #[error("the blob has only {size} bytes")]
    Unsatisfiable {
        /// Length of the blob.
        size: u64,
    },
    /// A fault of ours.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<OriginError> for ContentError {
    fn from(error: OriginError) -> Self {
        match error {
            OriginError::NotFound { .. } => Self::NotFound,
            OriginError::Unauthorized { ref challenge, .. } => {
                Self::Unauthorized { challenge: challenge.clone(), reason: error.to_string() }
            }
            OriginError::Denied { .. } | OriginError::NotAllowed { .. } => Self::Denied(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
