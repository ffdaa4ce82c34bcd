//! What of a torrent lies on disk already: a journal says which pieces were proven, files are hashed where it cannot.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use engine::{CheckError, Layout, ProofLog};
use metainfo::{FileKind, Info, InfoHash, PieceIndex, Torrent};
use store::{Evidence, Journal, JournalSpec, Opened};
use swarm::PieceSet;

/// The folder for journals, below the one that is downloaded to.
const FOLDER: &str = ".longshore";

/// A download's place on disk.
pub struct Place {
    /// Its files.
    pub layout: Layout,
    /// Proven and there.
    pub have: PieceSet,
    /// Where further pieces are noted.
    pub log: Log,
}

/// Why a torrent cannot be downloaded to a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Nothing can be written there.
    #[error("cannot write to {}: {source}", folder.display())]
    Write {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another process is at it.
    #[error("another process is downloading this torrent to {}", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// What is there cannot be read.
    #[error("cannot check what lies in {}: {source}", folder.display())]
    Read {
        /// The folder.
        folder: PathBuf,
        /// Where and why.
        source: CheckError,
    },
}

/// Finds what is there, and makes the files that are not. Blocks; `progress` is told how many bytes of how many are
/// hashed. `check` hashes all, whatever the journal says.
///
/// # Errors
/// When nothing can be written there, or what is there cannot be read.
pub fn open(
    torrent: &Torrent,
    folder: &Path,
    check: bool,
    progress: impl Fn(u64, u64) -> bool + Sync,
) -> Result<Place, PlaceError> {
    let info = &torrent.info;
    let unwritable = |source: io::Error| PlaceError::Write { folder: folder.to_owned(), source };
    let unnotable = |error: store::JournalError| unwritable(note_error(error));
    let notes = folder.join(FOLDER);
    fs::create_dir_all(&notes).map_err(unwritable)?;
    let lock = lock(&notes.join(format!("{}.lock", torrent.info_hash)), folder)?;
    let spec = JournalSpec::torrent(&torrent.info_hash, info.geometry);
    let path = notes.join(format!("{}.journal", torrent.info_hash));
    let mut opened = Journal::open(&path, &spec).map_err(unnotable)?;
    let found = Found::of(info, folder);
    if check || found != Found::Lengths {
        // Files were cut or removed since, or are not to be believed. Its records must not outlive this: below the
        // files get their full length again.
        opened.journal.remove().map_err(unnotable)?;
        opened = Journal::open(&path, &spec).map_err(unnotable)?;
    }
    let Opened { mut journal, proven, doubtful, .. } = opened;
    let layout = Layout::download(info, folder).map_err(|error| unwritable(io::Error::other(error)))?;

    let mut have = PieceSet::empty(info.geometry.piece_count());
    let mut to_hash = Vec::new();
    // A journal without a record may be older than what lies there.
    if proven.is_empty() && doubtful.is_empty() {
        if found != Found::Nothing {
            to_hash = info.geometry.pieces().collect();
        }
    } else {
        let asked_for = |(piece, evidence): &(PieceIndex, Evidence)| wanted(info, *piece) == Some(*evidence);
        proven.iter().filter(|claim| asked_for(claim)).for_each(|(piece, _)| {
            have.insert(*piece);
        });
        to_hash = doubtful.iter().map(|(piece, _)| *piece).filter(|piece| !have.contains(*piece)).collect();
    }
    if !to_hash.is_empty() {
        let total = to_hash.iter().map(|piece| u64::from(info.geometry.piece_size(*piece))).sum();
        let done = AtomicU64::new(0);
        let right = engine::rehash(info, &layout, &to_hash, |bytes| {
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total)
        })
        .map_err(|source| PlaceError::Read { folder: folder.to_owned(), source })?;
        let records: Vec<_> = right.iter().filter_map(|piece| Some((piece, wanted(info, piece)?))).collect();
        journal.append_all(&records).map_err(unnotable)?;
        right.iter().for_each(|piece| {
            have.insert(piece);
        });
    }
    Ok(Place { layout, have, log: Log(Arc::new(Mutex::new(Some(Open { journal, lock, notes })))) })
}

/// The pieces of a torrent in a folder that only has to be read; nothing unless they are all there and right. Blocks;
/// `progress` as in [`open`].
///
/// # Errors
/// When what is there cannot be read.
pub(crate) fn whole(
    torrent: &Torrent,
    folder: &Path,
    progress: impl Fn(u64, u64) -> bool + Sync,
) -> Result<Option<(Layout, PieceSet)>, PlaceError> {
    let (info, layout) = (&torrent.info, Layout::seed(&torrent.info, folder));
    if Found::of(info, folder) != Found::Lengths {
        return Ok(None);
    }
    let (done, total) = (AtomicU64::new(0), info.geometry.total());
    let have = engine::check(info, &layout, |bytes| {
        progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total)
    })
    .map_err(|source| PlaceError::Read { folder: folder.to_owned(), source })?;
    Ok((have.count() == info.geometry.piece_count()).then_some((layout, have)))
}

/// Removes what is noted of a torrent beside its files.
pub(crate) fn forget(folder: &Path, info_hash: &InfoHash) {
    let notes = folder.join(FOLDER);
    for extension in ["journal", "lock"] {
        let _ = fs::remove_file(notes.join(format!("{info_hash}.{extension}")));
    }
    // Others may be noted there.
    let _ = fs::remove_dir(notes);
}

/// What a proven piece of this torrent has for evidence.
fn wanted(info: &Info, piece: PieceIndex) -> Option<Evidence> {
    match &info.blob {
        Some(proof) => Some(Evidence::sha256(proof.before(piece)?, proof.after(piece)?)),
        None => Some(Evidence::sha1(&info.piece_hash(piece)?)),
    }
}

/// How much of a torrent's files is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Nothing,
    /// Some, or shorter ones.
    Parts,
    /// Every file at its full length, whatever it holds.
    Lengths,
}

impl PlaceError {
    /// Whether nobody, or not this user, may write there.
    pub(crate) fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Write { source, .. } if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
    }
}

impl Found {
    fn of(info: &Info, folder: &Path) -> Self {
        let (mut any, mut all) = (false, true);
        for (index, file) in info.files.iter().enumerate().filter(|(_, f)| f.kind == FileKind::Regular) {
            let path = info.relative_path(index).map(|path| folder.join(path));
            let length = path.and_then(|path| fs::metadata(path).ok()).map(|meta| meta.len());
            any |= length.is_some_and(|length| length > 0);
            all &= length == Some(file.length);
        }
        match (any, all) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Parts,
            (true, true) => Self::Lengths,
        }
    }
}

/// Keeps a second process from downloading the same torrent to the same place.
fn lock(path: &Path, folder: &Path) -> Result<File, PlaceError> {
    let folder = folder.to_owned();
    let file = match File::options().create(true).truncate(false).write(true).open(path) {
        Ok(file) => file,
        Err(source) => return Err(PlaceError::Write { folder, source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PlaceError::Locked { folder }),
        Err(TryLockError::Error(source)) => Err(PlaceError::Write { folder, source }),
    }
}

/// The journal while the engine writes to it.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Option<Open>>>);

struct Open {
    journal: Journal,
    /// Held, not used.
    lock: File,
    notes: PathBuf,
}

impl ProofLog for Log {
    fn proven(&self, piece: PieceIndex, evidence: Evidence) -> io::Result<()> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(open) => open.journal.append(piece, &evidence).map_err(note_error),
            None => Ok(()),
        }
    }
}

impl Log {
    /// Removes the journal: everything is proven, and the files can stand by themselves.
    ///
    /// # Errors
    /// When the journal's file cannot be removed.
    pub fn finish(&self) -> io::Result<()> {
        let Some(open) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let path = open.journal.path().with_extension("lock");
        open.journal.remove().map_err(note_error)?;
        // The lock goes with its file; the folder goes too, unless it holds journals of others.
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir(&open.notes);
        drop(open.lock);
        Ok(())
    }
}

fn note_error(error: store::JournalError) -> io::Error {
    match error {
        store::JournalError::NoSpace(_) => io::Error::new(io::ErrorKind::StorageFull, error),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torrent(folder: &Path, content: &[u8]) -> Torrent {
        fs::write(folder.join("f"), content).expect("written");
        let options = metainfo::create::Options { piece_length: Some(16384), ..Default::default() };
        metainfo::create::create(&folder.join("f"), &options, &|_, _| {}).expect("made")
    }

    fn found(torrent: &Torrent, folder: &Path) -> Place {
        open(torrent, folder, false, |_, _| true).expect("opens")
    }

    #[test]
    fn proven_pieces_are_found_again_and_files_that_vanished_are_not_believed() {
        let (from, to) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        let torrent = torrent(from.path(), &content);
        let place = found(&torrent, to.path());
        assert_eq!(place.have.count(), 0);
        let mut partial = vec![0; content.len()];
        partial[16384..32768].copy_from_slice(&content[16384..32768]);
        fs::write(to.path().join("f"), &partial).expect("written");
        let evidence = wanted(&torrent.info, PieceIndex(1)).expect("a piece");
        place.log.proven(PieceIndex(1), evidence).expect("noted");
        // Not what the torrent asks for: does not count.
        place.log.proven(PieceIndex(2), Evidence::sha1(&[1; 20])).expect("noted");
        drop(place);
        let place = found(&torrent, to.path());
        assert_eq!(place.have.iter().collect::<Vec<_>>(), [PieceIndex(1)]);
        drop(place);
        fs::remove_file(to.path().join("f")).expect("removed");
        for _ in 0..2 {
            // The second time the file is there again, at its full length and without a right byte.
            assert_eq!(found(&torrent, to.path()).have.count(), 0);
        }
    }

    #[test]
    fn a_folder_that_is_only_read_gives_what_is_whole_and_nothing_else() {
        let folder = tempfile::tempdir().expect("dir");
        let torrent = torrent(folder.path(), &[7; 50_000]);
        let (_, have) = whole(&torrent, folder.path(), |_, _| true).expect("read").expect("all of it");
        assert_eq!(have.count(), 4);
        for wrong in [&[8; 50_000][..], &[7; 49_999]] {
            fs::write(folder.path().join("f"), wrong).expect("written");
            assert!(whole(&torrent, folder.path(), |_, _| true).expect("read").is_none());
        }
        assert!(!folder.path().join(FOLDER).exists());
    }

    #[test]
    fn files_without_a_journal_are_hashed_and_a_finished_one_leaves_nothing() {
        let (from, to) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i / 3) as u8).collect();
        let torrent = torrent(from.path(), &content);
        let mut partial = content.clone();
        partial[0] ^= 1;
        fs::write(to.path().join("f"), &partial[..50_000]).expect("written");
        let place = found(&torrent, to.path());
        assert_eq!(place.have.iter().collect::<Vec<_>>(), [PieceIndex(1), PieceIndex(2)]);
        assert!(open(&torrent, to.path(), false, |_, _| true).is_err(), "it is locked");
        place.log.finish().expect("removed");
        assert!(!to.path().join(FOLDER).exists());
    }
}
