//! A blob on its way to this node: how far it is, for all who wait for it.

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use engine::Torrent;
use hash::Digest;
use mirror::{Asker, ContentError};
use origin::{Home, OriginError, Place, Repository, Rights};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    content::{now, now_ms},
    trace::Tracer,
};

/// One blob's coming. Shared by whoever brings it and whoever reads it.
pub(crate) struct Flight {
    pub(crate) digest: Digest,
    /// Where it is said to live.
    pub(crate) home: Home,
    /// What it is.
    pub(crate) want: Want,
    /// For whom it is brought first.
    pub(crate) asker: Asker,
    /// When it began, in seconds since 1970.
    pub(crate) started: u64,
    /// With whose rights the origin is asked, once that is known.
    rights: OnceLock<Rights>,
    progress: watch::Sender<Progress>,
    /// A better place is known: it is to end.
    displaced: CancellationToken,
    /// What is done for it.
    pub(crate) tracer: Tracer,
    /// How many bytes had come from the origin at what time.
    came: Mutex<Vec<(u64, u64)>>,
}

/// What is being fetched, which decides how the origin is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A blob.
    Blob,
    /// A manifest, with the client's `Accept` values.
    Manifest(Vec<String>),
    /// A blob that a client has just pushed, and the file with its bytes.
    Pushed(PathBuf),
    /// A file of the web whose digest was not known before it had come, and where it lies.
    Fetched(PathBuf),
}

impl Want {
    /// In a word, as traces call it.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Manifest(_) => "manifest",
            Self::Pushed(_) => "push",
            Self::Fetched(_) => "file",
        }
    }

    /// Whether all of its bytes are on this host already.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Pushed(_) | Self::Fetched(_))
    }
}

/// How far a blob is.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    /// Its length, once known.
    pub(crate) size: Option<u64>,
    /// Where its bytes lie.
    pub(crate) file: Option<Arc<File>>,
    /// Another node holds the lease and fetches it: nothing comes here yet, and that is no stall.
    pub(crate) waiting: bool,
    /// How many bytes from the start may be read, whatever the torrent says.
    pub(crate) prefix: u64,
    /// It lay on this host already, in a file of somebody else's.
    pub(crate) borrowed: bool,
    /// Bytes that have come from the origin.
    pub(crate) from_origin: u64,
    /// Its torrent, while it comes from the swarm.
    pub(crate) torrent: Option<Arc<Torrent>>,
    /// Whether anybody may have it, once known.
    pub(crate) public: Option<bool>,
    /// What its origin called it.
    pub(crate) media_type: Option<String>,
    /// How it ended.
    pub(crate) outcome: Option<Result<(), FetchError>>,
}

impl Flight {
    pub(crate) fn new(digest: Digest, home: Home, want: Want, asker: Asker, tracer: Tracer) -> Self {
        let (rights, progress, came) = (OnceLock::new(), watch::Sender::default(), Mutex::default());
        let displaced = CancellationToken::new();
        Self { digest, home, want, asker, started: now(), rights, progress, displaced, tracer, came }
    }

    /// Notes that so many bytes from the start have come from the origin by now.
    pub(crate) fn has_come(&self, prefix: u64, size: u64) {
        /// As many times as a picture has places for.
        const TIMES: u64 = 1024;
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let last = came.last().map_or(0, |(prefix, _)| *prefix);
        if prefix >= size || prefix.saturating_sub(last) > size / TIMES {
            came.push((prefix, now_ms()));
        }
    }

    /// When the byte before `end` had come, in milliseconds since 1970.
    pub(crate) fn came_at(&self, end: u64) -> u64 {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let at = came.partition_point(|(prefix, _)| *prefix < end);
        came.get(at).or(came.last()).map_or_else(now_ms, |(_, ms)| *ms)
    }

    /// The repository, of what lives in one.
    pub(crate) fn repository(&self) -> Result<&Repository, OriginError> {
        match &self.home {
            Home::Registry(repository) => Ok(repository),
            Home::Web(_) => Err(not_public(&self.home)),
        }
    }

    /// With whose rights it goes, once known.
    pub(crate) fn rights(&self) -> Option<Rights> {
        self.rights.get().cloned()
    }

    /// Says with whose rights it goes, and whether what it brings is for everybody. What was said first stays.
    pub(crate) fn settle(&self, rights: Rights, public: bool) {
        let _ = self.rights.set(rights);
        self.update(|progress| {
            progress.public.get_or_insert(public);
        });
    }

    /// How far it is, now and whenever that changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// What is known of the blob for others: its media type, and whether anybody may have it.
    pub(crate) fn told(&self) -> (Option<String>, bool) {
        let progress = self.progress.borrow();
        (progress.media_type.clone(), progress.public == Some(true))
    }

    /// Bids it end, and leave nothing behind: a better place is known.
    pub(crate) fn displace(&self) {
        self.displaced.cancel();
    }

    /// Does something for it, as long as no better place is known.
    pub(crate) async fn unless_displaced<T>(
        &self,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        tokio::select! {
            done = work => done,
            () = self.displaced.cancelled() => Err(FetchError::Displaced),
        }
    }

    /// Waits for the end.
    pub(crate) async fn finished(&self) -> Result<(), FetchError> {
        let mut progress = self.progress();
        match progress.wait_for(|p| p.outcome.is_some()).await {
            Ok(progress) => progress.outcome.clone().unwrap_or(Err(FetchError::Stopped)),
            Err(_) => Err(FetchError::Stopped),
        }
    }
}

/// Nobody can say who may have what lives in the web and is not known to be for everybody.
pub(crate) fn not_public(home: &Home) -> OriginError {
    let reason = "it is not for everybody".to_owned();
    OriginError::NotAllowed { place: Place::from(home), reason }
}

/// Why a blob did not come.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FetchError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("the bytes that {repository} gave for {expected} are {found}: nothing of it is kept")]
    WrongDigest { repository: String, expected: Digest, found: Digest },
    #[error(
        "what {repository} gave for {digest} goes on after the {size} bytes that it announced: nothing of it is kept"
    )]
    TooLong { repository: String, digest: Digest, size: u64 },
    #[error("what {home} gave is not the file that it must be: {why}; nothing of it is kept")]
    WrongFile { home: String, why: String },
    #[error("{0} does not say how long blob {1} is")]
    NoSize(String, Digest),
    #[error("it cannot be kept here: {0}")]
    Disk(String),
    #[error("the swarm failed: {0}")]
    Swarm(String),
    #[error("what was here of it does not fit what the origin has")]
    Misfit,
    #[error("a listed registry has it too, and is asked instead")]
    Displaced,
    #[error("the node is stopping")]
    Stopped,
}

impl FetchError {
    /// Whether the origin gave something else than the blob.
    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self, Self::WrongDigest { .. } | Self::TooLong { .. } | Self::WrongFile { .. })
    }

    /// Whether what the origin has is something else than what it was taken for.
    pub(crate) fn is_unlike(&self) -> bool {
        self.is_wrong() || matches!(self, Self::Misfit | Self::Origin(OriginError::Invalid { .. }))
    }

    /// For errors of the store: only their words matter, all have the same remedy.
    pub(crate) fn disk(error: impl std::fmt::Display) -> Self {
        Self::Disk(error.to_string())
    }
}

impl From<FetchError> for ContentError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Origin(error) => error.into(),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
