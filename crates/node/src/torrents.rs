//! Ordinary torrents: added by people, into files that people use. Blobs have torrents too, but those come and go by
//! themselves.
//!
//! Each lies as `{info_hash}.torrent` and `{info_hash}.json` under `torrents` in the node's data, and is taken up again at
//! the next start. Which pieces are there is known from the journal beside its files; of what is whole, from the
//! lengths and times of its files.

mod moving;
mod note;

use std::{
    collections::HashMap,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use api::{
    node::{TorrentPhase, TorrentStatus},
    torrents::{FileStatus, Limits},
};
use engine::{Torrent, TorrentState};
use metainfo::{FileKind, Info, InfoHash, Magnet};
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::{
    content::Inner,
    place,
    torrents::note::{Note, read, write},
};

/// The largest torrent file that is taken, in bytes.
pub(crate) const LARGEST: u64 = 64 * 1024 * 1024;
/// Most torrents.
const MOST: usize = 100_000;

/// All ordinary torrents of the node.
pub(crate) struct Torrents {
    /// Where the node keeps what it knows of them.
    dir: PathBuf,
    /// Where their content goes.
    folder: PathBuf,
    entries: Mutex<HashMap<InfoHash, Arc<Entry>>>,
    /// One is checked at a time: more would only share the disk.
    check: Semaphore,
}

struct Entry {
    info_hash: InfoHash,
    /// One change at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    /// Bytes hashed so far, of a check.
    checked: AtomicU64,
}

struct State {
    what: What,
    note: Note,
    phase: Phase,
    /// Proven bytes and pieces, as far as known, while it does not run.
    done: (u64, u32),
    job: Option<(CancellationToken, JoinHandle<()>)>,
}

/// What is known of a torrent.
#[derive(Clone)]
pub(crate) enum What {
    Torrent(Arc<metainfo::Torrent>),
    Magnet(Box<Magnet>),
}

impl What {
    fn info_hash(&self) -> InfoHash {
        match self {
            Self::Torrent(torrent) => torrent.info_hash,
            Self::Magnet(magnet) => magnet.info_hash,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Torrent(torrent) => torrent.info.name.clone(),
            Self::Magnet(magnet) => magnet.name.clone().unwrap_or_else(|| magnet.info_hash.to_string()),
        }
    }
}

enum Phase {
    Stopped,
    Metadata,
    Checking,
    Running(Arc<Torrent>),
    Failed(String),
}

/// Why something cannot be done with a torrent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TorrentError {
    #[error("{0} is not among the torrents of this node")]
    Unknown(InfoHash),
    #[error("{0} is here already")]
    Present(InfoHash),
    #[error("there are {MOST} torrents already")]
    TooMany,
    #[error(
        "`{0}` does not lead to a folder below that of all torrents: give a path without `..`, such as `films/2026`"
    )]
    Folder(String),
    #[error("it cannot be noted in {}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("its torrent is not known yet: it is being asked of peers")]
    NoMetadata,
}

impl Torrents {
    /// Reads what is noted from earlier.
    ///
    /// # Errors
    /// When the folder cannot be made or read. What cannot be understood is left out, with a warning.
    pub(crate) fn open(dir: PathBuf, folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut entries = HashMap::new();
        for file in fs::read_dir(&dir)?.take(MOST * 2) {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok((what, note)) => {
                    let entry = Entry::new(what, note);
                    entries.insert(entry.info_hash, Arc::new(entry));
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), "a torrent cannot be taken up again: {error}");
                }
            }
        }
        Ok(Self { dir, folder, entries: Mutex::new(entries), check: Semaphore::new(1) })
    }

    fn get(&self, info_hash: &InfoHash) -> Result<Arc<Entry>, TorrentError> {
        self.lock().get(info_hash).cloned().ok_or(TorrentError::Unknown(*info_hash))
    }

    /// A torrent, to be changed by one at a time.
    async fn turn(&self, info_hash: &InfoHash) -> Result<(Arc<Entry>, OwnedMutexGuard<()>), TorrentError> {
        let entry = self.get(info_hash)?;
        let turn = entry.turn.clone().lock_owned().await;
        // Whoever had it before may have removed it.
        let still = Arc::ptr_eq(&self.get(info_hash)?, &entry);
        if still { Ok((entry, turn)) } else { Err(TorrentError::Unknown(*info_hash)) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InfoHash, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        self.lock().values().cloned().collect()
    }

    /// Where content goes that is to lie in `below`.
    fn place(&self, below: Option<&str>) -> Result<PathBuf, TorrentError> {
        let Some(below) = below.filter(|below| !below.is_empty()) else { return Ok(self.folder.clone()) };
        let plain = Path::new(below).components().all(|part| matches!(part, Component::Normal(_)));
        let hidden = below.split('/').any(|part| part.starts_with('.'));
        if !plain || hidden || below.contains('\0') {
            return Err(TorrentError::Folder(below.to_owned()));
        }
        Ok(self.folder.join(below))
    }

    fn path(&self, info_hash: &InfoHash, extension: &str) -> PathBuf {
        self.dir.join(format!("{info_hash}.{extension}"))
    }

    fn save(&self, what: &What, note: &Note) -> Result<(), TorrentError> {
        let info_hash = what.info_hash();
        if let What::Torrent(torrent) = what {
            let path = self.path(&info_hash, "torrent");
            if !path.exists() {
                write(&path, &torrent.encode())?;
            }
        }
        let json = serde_json::to_vec(note).unwrap_or_default();
        write(&self.path(&info_hash, "json"), &json)
    }
}

impl Entry {
    fn new(what: What, note: Note) -> Self {
        let done = match &what {
            What::Torrent(torrent) if note.whole.is_some() => {
                (torrent.info.geometry.total(), torrent.info.geometry.piece_count())
            }
            _ => (0, 0),
        };
        let info_hash = what.info_hash();
        let state = State { what, note, phase: Phase::Stopped, done, job: None };
        Self { info_hash, turn: Arc::default(), state: Mutex::new(state), checked: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is done for it, and waits for that.
    async fn end(&self) {
        let job = self.lock().job.take();
        if let Some((stop, task)) = job {
            stop.cancel();
            // It has no way to panic that would not be told of.
            let _ = task.await;
        }
    }

    fn status(&self) -> TorrentStatus {
        let state = self.lock();
        let mut status = match (&state.phase, &state.what) {
            (Phase::Running(torrent), _) => torrent_status(torrent),
            (phase, What::Torrent(torrent)) => {
                let geometry = torrent.info.geometry;
                let (bytes, pieces) = match phase {
                    Phase::Checking => (self.checked.load(Ordering::Relaxed).min(geometry.total()), 0),
                    _ => state.done,
                };
                resting(
                    torrent.info_hash,
                    torrent.info.name.clone(),
                    geometry.total(),
                    geometry.piece_count(),
                    bytes,
                    pieces,
                )
            }
            (_, What::Magnet(magnet)) => {
                resting(magnet.info_hash, state.what.name(), magnet.length.unwrap_or(0), 0, 0, 0)
            }
        };
        status.folder = Some(state.note.folder.display().to_string());
        status.limits = state.note.limits;
        status.state = match &state.phase {
            Phase::Stopped => TorrentPhase::Stopped,
            Phase::Metadata => TorrentPhase::Metadata,
            Phase::Checking => TorrentPhase::Checking,
            Phase::Failed(_) => TorrentPhase::Failed,
            Phase::Running(_) => status.state,
        };
        if let Phase::Failed(why) = &state.phase {
            status.error = Some(why.clone());
        }
        status
    }
}

/// The state of a torrent that does not move.
fn resting(
    info_hash: InfoHash,
    name: String,
    size: u64,
    pieces: u32,
    bytes_done: u64,
    pieces_done: u32,
) -> TorrentStatus {
    TorrentStatus {
        info_hash,
        name,
        digest: None,
        size,
        bytes_done,
        pieces,
        pieces_done,
        peers: 0,
        down_bytes: 0,
        up_bytes: 0,
        down_rate: 0,
        up_rate: 0,
        state: TorrentPhase::Stopped,
        folder: None,
        limits: Limits::default(),
        error: None,
    }
}

impl Inner {
    /// Every torrent that moves, and every ordinary one.
    pub(crate) fn torrent_list(&self) -> Vec<TorrentStatus> {
        let mut list: Vec<_> = self.torrents.all().iter().map(|entry| entry.status()).collect();
        let ordinary = self.torrents.lock();
        let blobs = self.engine.torrents();
        let blobs = blobs.iter().filter(|torrent| !ordinary.contains_key(&torrent.info_hash()));
        list.extend(blobs.map(|torrent| torrent_status(torrent)));
        list
    }

    /// Takes up what ran when the node ended.
    pub(crate) async fn resume_torrents(self: &Arc<Self>) {
        for entry in self.torrents.all() {
            let start = entry.lock().note.start;
            if start {
                let _turn = entry.turn.lock().await;
                self.begin(&entry, false);
            }
        }
    }

    /// Adds a torrent, into the folder `below` that of all torrents.
    pub(crate) async fn add_torrent(
        self: &Arc<Self>,
        what: What,
        start: bool,
        below: Option<&str>,
    ) -> Result<(InfoHash, String), TorrentError> {
        let folder = self.torrents.place(below)?;
        let magnet = if let What::Magnet(magnet) = &what { Some(magnet.to_string()) } else { None };
        let note = Note { folder, start, limits: Limits::default(), magnet, whole: None };
        let (info_hash, name) = (what.info_hash(), what.name());
        let entry = Arc::new(Entry::new(what.clone(), note.clone()));
        let _turn = entry.turn.lock().await;
        {
            let mut entries = self.torrents.lock();
            if entries.contains_key(&info_hash) || self.engine.get(&info_hash).is_some() {
                return Err(TorrentError::Present(info_hash));
            }
            if entries.len() >= MOST {
                return Err(TorrentError::TooMany);
            }
            entries.insert(info_hash, entry.clone());
        }
        let inner = self.clone();
        let saved = spawn_blocking(move || inner.torrents.save(&what, &note)).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(lost_thread(&self.torrents.dir, error))) {
            self.torrents.lock().remove(&info_hash);
            return Err(error);
        }
        if start {
            self.begin(&entry, false);
        }
        Ok((info_hash, name))
    }

    /// Starts or stops a torrent.
    pub(crate) async fn set_running(
        self: &Arc<Self>,
        info_hash: &InfoHash,
        run: bool,
    ) -> Result<(), TorrentError> {
        let (entry, _turn) = self.torrents.turn(info_hash).await?;
        entry.lock().note.start = run;
        self.save(&entry).await?;
        let runs = entry.lock().job.as_ref().is_some_and(|(_, task)| !task.is_finished());
        match (run, runs) {
            (true, false) => self.begin(&entry, false),
            (false, _) => entry.end().await,
            (true, true) => {}
        }
        Ok(())
    }

    /// Hashes all that is there, and goes on from that.
    pub(crate) async fn verify_torrent(self: &Arc<Self>, info_hash: &InfoHash) -> Result<(), TorrentError> {
        let (entry, _turn) = self.torrents.turn(info_hash).await?;
        entry.end().await;
        entry.lock().note.whole = None;
        self.save(&entry).await?;
        self.begin(&entry, true);
        Ok(())
    }

    /// Limits a torrent; what is absent stays.
    pub(crate) async fn limit_torrent(
        self: &Arc<Self>,
        info_hash: &InfoHash,
        limits: Limits,
    ) -> Result<(), TorrentError> {
        let (entry, _turn) = self.torrents.turn(info_hash).await?;
        {
            let mut state = entry.lock();
            let known = state.note.limits;
            let limits = Limits { down: limits.down.or(known.down), up: limits.up.or(known.up) };
            state.note.limits = limits;
            if let Phase::Running(torrent) = &state.phase {
                torrent.set_limits(limits.down.unwrap_or(0), limits.up.unwrap_or(0));
            }
        }
        self.save(&entry).await
    }

    /// Removes a torrent, and its files too if `data`.
    pub(crate) async fn remove_torrent(
        self: &Arc<Self>,
        info_hash: &InfoHash,
        data: bool,
    ) -> Result<(), TorrentError> {
        let (entry, _turn) = self.torrents.turn(info_hash).await?;
        entry.end().await;
        let (what, folder) = {
            let state = entry.lock();
            (state.what.clone(), state.note.folder.clone())
        };
        let inner = self.clone();
        let removed = spawn_blocking(move || {
            let info_hash = what.info_hash();
            // Without the note the rest is nothing.
            for extension in ["json", "torrent"] {
                let _ = fs::remove_file(inner.torrents.path(&info_hash, extension));
            }
            if let What::Torrent(torrent) = what {
                place::forget(&folder, &info_hash);
                if data {
                    remove_files(&torrent.info, &folder);
                }
            }
        });
        let _ = removed.await;
        // Not before: who adds it anew would have its files removed.
        self.torrents.lock().remove(info_hash);
        Ok(())
    }

    /// A torrent's files, and how far each is.
    pub(crate) fn torrent_files(&self, info_hash: &InfoHash) -> Result<Vec<FileStatus>, TorrentError> {
        let entry = self.torrents.get(info_hash)?;
        let state = entry.lock();
        let What::Torrent(torrent) = &state.what else { return Err(TorrentError::NoMetadata) };
        let info = &torrent.info;
        let (running, whole) = match &state.phase {
            Phase::Running(torrent) => (Some(torrent.clone()), false),
            _ => (None, state.done.0 == info.geometry.total()),
        };
        let mut done = vec![0_u64; info.files.len()];
        for piece in info.geometry.pieces() {
            if whole || running.as_ref().is_some_and(|torrent| torrent.has(piece)) {
                let size = u64::from(info.geometry.piece_size(piece));
                for span in info.spans(info.geometry.piece_offset(piece), size) {
                    if let Some(done) = done.get_mut(span.file) {
                        *done += span.length;
                    }
                }
            }
        }
        let files = info.files.iter().zip(done).filter(|(file, _)| file.kind == FileKind::Regular);
        let status = |(file, bytes_done): (&metainfo::FileEntry, u64)| FileStatus {
            path: file.path.join("/"),
            size: file.length,
            bytes_done,
        };
        Ok(files.map(status).collect())
    }

    /// A torrent's file, and the announce URLs that it is announced to.
    pub(crate) fn torrent_file(&self, info_hash: &InfoHash) -> Result<Arc<metainfo::Torrent>, TorrentError> {
        let entry = self.torrents.get(info_hash)?;
        let state = entry.lock();
        match &state.what {
            What::Torrent(torrent) => Ok(torrent.clone()),
            What::Magnet(_) => Err(TorrentError::NoMetadata),
        }
    }

    async fn save(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), TorrentError> {
        let (what, note) = {
            let state = entry.lock();
            (state.what.clone(), state.note.clone())
        };
        let inner = self.clone();
        let saved = spawn_blocking(move || inner.torrents.save(&what, &note)).await;
        saved.unwrap_or_else(|error| Err(lost_thread(&self.torrents.dir, error)))
    }
}

/// Removes a torrent's files, and the folders that are empty then; never anything else.
fn remove_files(info: &Info, folder: &Path) {
    for index in 0..info.files.len() {
        let Some(path) = info.relative_path(index).map(|path| folder.join(path)) else { continue };
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a file cannot be removed");
        }
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != folder) {
            // One that holds anything stays.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}

fn lost_thread(dir: &Path, error: tokio::task::JoinError) -> TorrentError {
    TorrentError::Disk { path: dir.to_owned(), source: io::Error::other(error) }
}

fn torrent_status(torrent: &Torrent) -> TorrentStatus {
    let (info, status) = (&torrent.meta().info, torrent.status().borrow().clone());
    let (peers, (up, down)) = (torrent.peers(), torrent.moved());
    let sum = |rate: fn(&swarm::PeerStats) -> f64| peers.iter().map(|(p, _)| rate(p)).sum::<f64>() as u64;
    TorrentStatus {
        info_hash: torrent.info_hash(),
        name: info.name.clone(),
        digest: info.blob.as_ref().map(metainfo::BlobProof::digest),
        size: info.geometry.total(),
        bytes_done: status.bytes,
        pieces: info.geometry.piece_count(),
        pieces_done: status.pieces,
        peers: peers.len() as u32,
        down_bytes: down,
        up_bytes: up,
        down_rate: sum(|p| p.down_rate),
        up_rate: sum(|p| p.up_rate),
        state: match &status.state {
            TorrentState::Downloading => TorrentPhase::Downloading,
            TorrentState::Complete => TorrentPhase::Seeding,
            TorrentState::Stopped => TorrentPhase::Stopped,
            TorrentState::Failed(_) => TorrentPhase::Failed,
        },
        folder: None,
        limits: Limits::default(),
        error: if let TorrentState::Failed(failure) = status.state {
            Some(failure.to_string())
        } else {
            None
        },
    }
}
