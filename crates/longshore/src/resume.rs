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

use anyhow::Context as _;
use engine::{Layout, ProofLog};
use metainfo::{FileKind, Info, PieceIndex, Torrent};
use store::{Evidence, Journal, JournalSpec, Opened};
use swarm::PieceSet;

use crate::failure::Failure;

/// The folder for journals, below the one that is downloaded to.
const FOLDER: &str = ".longshore";

/// A download's place on disk.
pub(crate) struct Place {
    pub(crate) layout: Layout,
    /// Proven and there.
    pub(crate) have: PieceSet,
    pub(crate) log: Log,
}

/// Finds what is there, and makes the files that are not. Blocks; `progress` is told how many bytes of how many are
/// hashed. `check` hashes all, whatever the journal says.
pub(crate) fn open(
    torrent: &Torrent,
    folder: &Path,
    check: bool,
    progress: impl Fn(u64, u64) + Sync,
) -> anyhow::Result<Place> {
    let info = &torrent.info;
    let unwritable = || {
        Failure::new(format!("cannot write to {}", folder.display()))
            .hint("choose a folder that you may write to, on a disk with room")
    };
    let notes = folder.join(FOLDER);
    fs::create_dir_all(&notes).with_context(unwritable)?;
    let lock = lock(&notes.join(format!("{}.lock", torrent.info_hash)), folder)?;
    let spec = JournalSpec::torrent(&torrent.info_hash, info.geometry);
    let path = notes.join(format!("{}.journal", torrent.info_hash));
    let mut opened = Journal::open(&path, &spec).with_context(unwritable)?;
    let found = Found::of(info, folder);
    if check || found != Found::Lengths {
        // Files were cut or removed since, or are not to be believed. Its records must not outlive this: below the
        // files get their full length again.
        opened.journal.remove().with_context(unwritable)?;
        opened = Journal::open(&path, &spec).with_context(unwritable)?;
    }
    let Opened { mut journal, proven, doubtful, .. } = opened;
    let layout = Layout::download(info, folder).with_context(unwritable)?;

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
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
            true
        })?;
        let records: Vec<_> = right.iter().filter_map(|piece| Some((piece, wanted(info, piece)?))).collect();
        journal.append_all(&records).with_context(unwritable)?;
        right.iter().for_each(|piece| {
            have.insert(piece);
        });
    }
    Ok(Place { layout, have, log: Log(Arc::new(Mutex::new(Some(Open { journal, lock, notes })))) })
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
fn lock(path: &Path, folder: &Path) -> anyhow::Result<File> {
    let unwritable = || Failure::new(format!("cannot write to {}", folder.display()));
    let file =
        File::options().create(true).truncate(false).write(true).open(path).with_context(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let what = format!("another process is downloading this torrent to {}", folder.display());
            Err(Failure::new(what).hint("wait for it, or stop it").into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(unwritable),
    }
}

/// The journal while the engine writes to it.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Option<Open>>>);

struct Open {
    journal: Journal,
    /// Held, not used.
    lock: File,
    notes: PathBuf,
}

impl ProofLog for Log {
    fn proven(&self, piece: PieceIndex, evidence: Evidence) -> io::Result<()> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(open) => open.journal.append(piece, &evidence).map_err(|error| match error {
                store::JournalError::NoSpace(_) => io::Error::new(io::ErrorKind::StorageFull, error),
                error => io::Error::other(error),
            }),
            None => Ok(()),
        }
    }
}

impl Log {
    /// Removes the journal: everything is proven, and the files can stand by themselves.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        let Some(open) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let path = open.journal.path().with_extension("lock");
        open.journal.remove()?;
        // The lock goes with its file; the folder goes too, unless it holds journals of others.
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir(&open.notes);
        drop(open.lock);
        Ok(())
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
        open(torrent, folder, false, |_, _| {}).expect("opens")
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
    fn files_without_a_journal_are_hashed_and_a_finished_one_leaves_nothing() {
        let (from, to) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i / 3) as u8).collect();
        let torrent = torrent(from.path(), &content);
        let mut partial = content.clone();
        partial[0] ^= 1;
        fs::write(to.path().join("f"), &partial[..50_000]).expect("written");
        let place = found(&torrent, to.path());
        assert_eq!(place.have.iter().collect::<Vec<_>>(), [PieceIndex(1), PieceIndex(2)]);
        assert!(open(&torrent, to.path(), false, |_, _| {}).is_err(), "it is locked");
        place.log.finish().expect("removed");
        assert!(!to.path().join(FOLDER).exists());
    }
}
