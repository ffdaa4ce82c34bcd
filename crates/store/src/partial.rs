//! A blob that is being fetched.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use hash::Digest;
use metainfo::{Geometry, MAX_PIECES, PieceIndex};

use crate::{
    disk,
    error::{BeginError, CommitError, JournalError},
    evidence::{Evidence, check_chain},
    index::lock,
    journal::{Journal, JournalSpec, Opened},
    note::Note,
    store::{Blob, MAX_INFO, Slot, Store, cut_media_type},
};

/// A blob that is being fetched: a file of its full length, and what is proven of it.
///
/// Safe to share between threads. Dropping it is the same as [`Partial::suspend`]. While it lives, the blob
/// is *busy*: it cannot be begun, put or removed elsewhere.
#[derive(Debug)]
pub struct Partial {
    digest: Digest,
    geometry: Geometry,
    path: PathBuf,
    file: Arc<File>,
    doubtful: Vec<(PieceIndex, Evidence)>,
    state: Mutex<State>,
    slot: Slot,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    /// By piece. Grows with what is proven, not with what someone says the blob's size is.
    proven: BTreeMap<u32, Evidence>,
    note: Note,
}

/// A blob of which something is here, and that nobody works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialSummary {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The piece length that it was begun with, in bytes. Continue with the same one.
    pub piece_length: u32,
    /// Bytes of pieces that its journal claims.
    pub bytes_done: u64,
    /// When something was last proven of it, in seconds since 1970.
    pub last_used: u64,
}

impl Partial {
    pub(crate) fn open(store: &Store, slot: Slot, size: u64, piece_length: u32) -> Result<Self, BeginError> {
        let digest = slot.digest();
        let spec = JournalSpec::blob(&digest, size, piece_length)
            .filter(|spec| u64::from(spec.geometry().piece_count()) <= MAX_PIECES)
            .filter(|_| piece_length.is_multiple_of(64))
            .ok_or(BeginError::Geometry { size, piece_length })?;
        let paths = Paths::of(store, &digest);
        let fail = |what, path: &Path, error| {
            if disk::is_full(&error) {
                BeginError::NoSpace { digest, size }
            } else {
                BeginError::Io { what, path: path.to_owned(), error }
            }
        };
        let file = disk::open_or_create(&paths.data).map_err(|e| fail("opening", &paths.data, e))?;
        let length = file.metadata().map_err(|e| fail("reading", &paths.data, e))?.len();
        if length != size {
            // Also a new file. The journal goes first: it must never speak of bytes that are not there.
            let made = disk::remove(&paths.journal)
                .and_then(|_| disk::remove(&paths.note))
                .and_then(|_| file.set_len(0))
                .and_then(|()| disk::allocate(&file, size));
            if let Err(error) = made {
                paths.remove_all();
                return Err(fail("allocating", &paths.data, error));
            }
        }
        let Opened { journal, proven: claims, doubtful, fresh } = Journal::open(&paths.journal, &spec)?;
        let note = if fresh { Note::default() } else { Note::load(&paths.note) };
        let geometry = spec.geometry();
        let proven = claims.into_iter().map(|(piece, evidence)| (piece.0, evidence)).collect();
        Ok(Self {
            digest,
            geometry,
            path: paths.data,
            file: Arc::new(file),
            doubtful,
            state: Mutex::new(State { journal, proven, note }),
            slot,
        })
    }

    /// The blob.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The blob's length in bytes.
    pub const fn size(&self) -> u64 {
        self.geometry.total()
    }

    /// The length of every piece but the last, in bytes.
    pub const fn piece_length(&self) -> u32 {
        self.geometry.piece_length()
    }

    /// How the blob is cut.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// For positional reads and writes. Never to be written after the commit, nor where a piece is proven.
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where the file lies until the commit.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pieces that are proven, in order.
    pub fn proven(&self) -> Vec<(PieceIndex, Evidence)> {
        let state = lock(&self.state);
        state.proven.iter().map(|(&piece, &evidence)| (PieceIndex(piece), evidence)).collect()
    }

    /// Whether a piece is proven, and by what.
    pub fn evidence(&self, piece: PieceIndex) -> Option<Evidence> {
        lock(&self.state).proven.get(&piece.0).copied()
    }

    /// How many pieces are proven.
    pub fn proven_count(&self) -> u32 {
        lock(&self.state).proven.len() as u32
    }

    /// What was proven before the machine last booted, as it was when this partial was begun. The data may
    /// be lost: to be hashed, and marked again where it is as the evidence says.
    pub fn doubtful(&self) -> &[(PieceIndex, Evidence)] {
        &self.doubtful
    }

    /// Records what was proven of a piece. The caller has checked it, and *has written it to the file*.
    pub fn mark_proven(&self, piece: PieceIndex, evidence: Evidence) -> Result<(), JournalError> {
        self.mark_all_proven(&[(piece, evidence)])
    }

    /// The same for several pieces, with one write.
    pub fn mark_all_proven(&self, pieces: &[(PieceIndex, Evidence)]) -> Result<(), JournalError> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let unknown =
            |(piece, evidence): &&(PieceIndex, Evidence)| state.proven.get(&piece.0) != Some(evidence);
        let new: Vec<_> = pieces.iter().filter(unknown).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        state.journal.append_all(&new)?;
        state.proven.extend(new.into_iter().map(|(piece, evidence)| (piece.0, evidence)));
        Ok(())
    }

    /// The info dictionary of the blob's torrent, if it was set, now or before a restart.
    pub fn torrent(&self) -> Option<Bytes> {
        lock(&self.state).note.info.clone()
    }

    /// Keeps the info dictionary of the blob's canonical torrent with it. The caller has checked that it is;
    /// one longer than [`MAX_INFO`] is refused.
    pub fn set_torrent(&self, info: Bytes) -> Result<(), JournalError> {
        let path = note_path(&self.path);
        let fail = |error| JournalError::io("writing the note beside", &path, error);
        if info.len() > MAX_INFO {
            return Err(fail(std::io::Error::other("the info dictionary is too long")));
        }
        let mut state = lock(&self.state);
        let note = Note { info: Some(info), ..state.note.clone() };
        if note != state.note {
            note.save(&path).map_err(fail)?;
            state.note = note;
        }
        Ok(())
    }

    /// Makes the blob visible, if all its pieces prove it. Durable on return. On an error nothing is lost:
    /// the blob can be begun again and continued.
    pub fn commit(self, media_type: Option<&str>) -> Result<Blob, CommitError> {
        let digest = self.digest;
        let state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let State { journal, proven, mut note } = state;
        let all = (0..self.geometry.piece_count()).map(|piece| proven.get(&piece).copied());
        check_chain(&digest, all).map_err(|reason| CommitError::Unproven { digest, reason })?;
        let store = self.slot.store();
        if let Some(media_type) = media_type {
            note.media_type = Some(cut_media_type(media_type));
            // For a crash between the rename and the row.
            let path = note_path(&self.path);
            note.save(&path).map_err(|error| CommitError::io(&digest, "writing", path, error))?;
        }
        let blob = store.adopt(&digest, &self.file, &self.path, self.geometry.total(), note)?;
        // What is left beside it is swept away at the next start if it cannot be now.
        let _ = journal.remove();
        let _ = disk::remove(&note_path(&self.path));
        Ok(blob)
    }

    /// Leaves the blob for later; it can be begun again and continued.
    pub fn suspend(self) {}

    /// Throws away what was fetched.
    pub fn discard(self) {
        Paths::of(self.slot.store(), &self.digest).remove_all();
    }
}

/// The files of a partial blob.
pub(crate) struct Paths {
    pub(crate) data: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) note: PathBuf,
    /// A link to somebody else's file, while that is proven.
    pub(crate) link: PathBuf,
}

impl Paths {
    pub(crate) fn of(store: &Store, digest: &Digest) -> Self {
        let data = store.partial_dir().join(digest.hex());
        let (journal, link) = (data.with_extension("journal"), data.with_extension("link"));
        Self { journal, note: note_path(&data), link, data }
    }

    /// The journal first: data without a journal is swept away at the next start, a journal without its data
    /// must not be.
    pub(crate) fn remove_all(&self) {
        for path in [&self.journal, &self.note, &self.data] {
            if let Err(error) = disk::remove(path) {
                tracing::warn!(path = %path.display(), %error, "cannot be removed");
            }
        }
    }

    /// What is here, if it can be continued.
    pub(crate) fn summary(&self, digest: &Digest) -> Option<PartialSummary> {
        let spec = Journal::peek(&self.journal).ok()??;
        let geometry = spec.geometry();
        let sound =
            *spec.key() == *digest.as_bytes() && fs::metadata(&self.data).ok()?.len() == geometry.total();
        let claimed = u64::from(Journal::claimed(&self.journal, &spec).ok()?);
        let modified = fs::metadata(&self.journal).ok()?.modified().ok();
        sound.then(|| PartialSummary {
            digest: *digest,
            size: geometry.total(),
            piece_length: geometry.piece_length(),
            bytes_done: (claimed * u64::from(geometry.piece_length())).min(geometry.total()),
            last_used: modified
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map_or(0, |since| since.as_secs()),
        })
    }
}

fn note_path(data: &Path) -> PathBuf {
    data.with_extension("note")
}
