//! The store: what it holds, and how things get in and out.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicUsize},
};

use bytes::Bytes;
use hash::Digest;
use metainfo::InfoHash;

use crate::{
    borrowed, disk,
    error::{BeginError, BorrowError, CommitError, IndexError, OpenError, PutError, RemoveError},
    index::{Index, Record, lock},
    note::Note,
    partial::{Partial, PartialSummary, Paths},
    recovery,
};

/// The longest info dictionary that is kept, in bytes.
pub const MAX_INFO: usize = 8 * 1024 * 1024;

/// The longest media type that is kept, in bytes (RFC 6838, section 4.2, and some room for parameters).
pub(crate) const MAX_MEDIA_TYPE: usize = 512;

/// Content-addressed blobs in a directory. See the crate's front page.
pub struct Store {
    dir: PathBuf,
    index: Index,
    /// Blobs that someone is writing.
    busy: Arc<Mutex<HashSet<Digest>>>,
    /// How many files of others are being opened.
    opening: AtomicUsize,
    /// Locked while the store is open; the lock goes with the process.
    _lock: File,
}

/// A whole, proven blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What the origin called it, when known.
    pub media_type: Option<String>,
    /// The info dictionary of its canonical torrent, bencoded, when made or received.
    pub info: Option<Bytes>,
    /// The SHA-1 of `info`.
    pub info_hash: Option<InfoHash>,
    /// When it became visible, in seconds since 1970.
    pub added: u64,
    /// When it was last touched, in seconds since 1970.
    pub last_used: u64,
    /// Whether anybody may have it, as [`Store::mark_public`] was told.
    pub public: bool,
    /// Whether it lies in a file of somebody else's, as [`Store::borrow`] found it.
    pub borrowed: bool,
}

/// A [`Blob`] without its info dictionary, as it comes in lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSummary {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What the origin called it, when known.
    pub media_type: Option<String>,
    /// The info-hash of its canonical torrent, when made or received.
    pub info_hash: Option<InfoHash>,
    /// When it became visible, in seconds since 1970.
    pub added: u64,
    /// When it was last touched, in seconds since 1970.
    pub last_used: u64,
    /// Whether anybody may have it, as [`Store::mark_public`] was told.
    pub public: bool,
    /// Whether it lies in a file of somebody else's, as [`Store::borrow`] found it.
    pub borrowed: bool,
}

impl Store {
    /// How many touches wait at most before they are written.
    pub const TOUCH_BATCH: usize = 1024;

    /// The most rows in one page of [`Store::list`].
    pub const MAX_PAGE: usize = 1000;

    /// Opens the store in `dir`, and creates what is not there. Puts right what a crash left behind (see the
    /// crate's front page); otherwise it only looks at names and sizes: ten thousand blobs take a few
    /// hundredths of a second.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Arc<Self>, OpenError> {
        let dir = dir.into();
        for sub in [dir.join("partial"), dir.join("blobs").join("sha256")] {
            fs::create_dir_all(&sub).map_err(|error| OpenError::io("creating", &sub, error))?;
        }
        let lock = take_lock(&dir)?;
        recovery::make_shards(&dir.join("blobs").join("sha256"))?;
        let (index, rebuilt) = recovery::open_index(&dir.join("index.redb"))?;
        if rebuilt {
            tracing::warn!(dir = %dir.display(), "index lost: all blobs are hashed to build it anew");
        }
        let store = Self { dir, index, busy: Arc::default(), opening: AtomicUsize::new(0), _lock: lock };
        recovery::heal(&store, &store.index)?;
        Ok(Arc::new(store))
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A blob with all that is known of it; `None` when it is not here whole.
    pub fn get(&self, digest: &Digest) -> Result<Option<Blob>, IndexError> {
        Ok(self.index.get(digest)?.map(|(record, info)| blob(record, info)))
    }

    /// Whether a blob is here whole.
    pub fn contains(&self, digest: &Digest) -> Result<bool, IndexError> {
        self.index.contains(digest)
    }

    /// The blob that the torrent with this info-hash carries, if it is here whole.
    pub fn find_info_hash(&self, info_hash: &InfoHash) -> Result<Option<Digest>, IndexError> {
        self.index.find_info_hash(info_hash)
    }

    /// A blob's file, for reading. `NotFound` when it is not here, was just removed, or is a borrowed one that its owner
    /// has removed or changed.
    pub fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        let path = self.blob_path(digest);
        if !fs::symlink_metadata(&path)?.is_symlink() {
            return File::open(&path);
        }
        let file = borrowed::open(&path, &self.opening)?;
        if self.is_as_lent(digest, &file)? { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Whether a file is that of a borrowed blob, as it was when it was proven.
    pub fn is_as_lent(&self, digest: &Digest, file: &File) -> io::Result<bool> {
        let lent = self.index.lent(digest).map_err(io::Error::other)?;
        lent.map_or(Ok(false), |lent| lent.is(file))
    }

    /// Where a borrowed blob's owner keeps it; `None` for one of ours, and one that is not here.
    pub fn lender(&self, digest: &Digest) -> Option<PathBuf> {
        fs::read_link(self.blob_path(digest)).ok()
    }

    /// Where a blob's file lies, or would lie.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        self.blob_dir().join(shard).join(&hex)
    }

    /// The blobs after `after` in the order of digests, at most `limit` and [`Store::MAX_PAGE`]. A page that
    /// is empty is past the last.
    pub fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobSummary>, IndexError> {
        Ok(self.index.list(after, limit.min(Self::MAX_PAGE))?.into_iter().map(summary).collect())
    }

    /// How many blobs there are, and the bytes of those that are not borrowed. Costs nothing.
    pub fn count_and_bytes(&self) -> (u64, u64) {
        let totals = self.index.totals();
        (totals.blobs, totals.bytes)
    }

    /// The bytes of the blobs that are borrowed. Costs nothing.
    pub fn borrowed_bytes(&self) -> u64 {
        self.index.totals().borrowed
    }

    /// Notes that a blob was used now. Cheap: written with the next change, or after
    /// [`Store::TOUCH_BATCH`] blobs.
    pub fn touch(&self, digest: &Digest) {
        if self.index.touch(digest, disk::now()) >= Self::TOUCH_BATCH {
            self.flush();
        }
    }

    /// Writes the last-use times that wait. A failure is logged: they are kept for the next time.
    pub fn flush(&self) {
        if let Err(error) = self.index.flush() {
            tracing::warn!(%error, "last-use times cannot be written now");
        }
    }

    /// Removes a blob; says whether it was here. Whoever has its file open can read on.
    pub fn remove(&self, digest: &Digest) -> Result<bool, RemoveError> {
        let _slot = self.slot(digest).ok_or(RemoveError::Busy(*digest))?;
        // The file first: a row without a file is dropped at the next start, a file without a row would be
        // taken in again.
        let path = self.blob_path(digest);
        let had = disk::remove(&path).map_err(|error| RemoveError::Io { path, error })?;
        let listed = self.index.contains(digest)?;
        if listed {
            self.index.remove(digest)?;
        }
        Ok(had || listed)
    }

    /// Begins a blob, or continues it where it was left. One caller at a time has it: the next gets
    /// [`BeginError::Busy`]. What was begun with another size or piece length is thrown away.
    ///
    /// The piece length is [`metainfo::blob_piece_length`] for blobs with canonical torrents; any
    /// multiple of 64 will do.
    pub fn begin(
        self: &Arc<Self>,
        digest: &Digest,
        size: u64,
        piece_length: u32,
    ) -> Result<Partial, BeginError> {
        let busy = self.slot(digest).ok_or(BeginError::Busy(*digest))?;
        if self.index.contains(digest)? {
            return Err(BeginError::Present(*digest));
        }
        Partial::open(self, Slot { busy, store: Arc::clone(self) }, size, piece_length)
    }

    /// Puts a small blob in one go: its bytes are hashed here. One that is here already is a success; a media
    /// type or torrent that was not known is added.
    pub fn put_bytes(
        &self,
        digest: &Digest,
        bytes: &[u8],
        media_type: Option<&str>,
        info: Option<Bytes>,
    ) -> Result<Blob, PutError> {
        let found = Digest::of(bytes);
        if found != *digest {
            return Err(PutError::Digest { expected: *digest, found });
        }
        let _slot = self.slot(digest).ok_or(PutError::Busy(*digest))?;
        let media_type = media_type.map(cut_media_type);
        let present = self.index.get(digest).map_err(CommitError::from)?;
        if let Some((record, known)) = present {
            let info = info.filter(|_| known.is_none());
            let media_type = media_type.filter(|_| record.media_type.is_none());
            return Ok(self.amend(record, known, media_type, info).map_err(CommitError::from)?);
        }
        let paths = Paths::of(self, digest);
        let note = Note { media_type, info: info.filter(|info| info.len() <= MAX_INFO) };
        let fail = |error| CommitError::io(digest, "writing", &paths.data, error);
        // Replaces what may have been fetched of it.
        paths.remove_all();
        let put = || {
            let options = OpenOptions::new().read(true).write(true).create_new(true).open(&paths.data);
            let mut file = options.map_err(fail)?;
            file.write_all(bytes).map_err(fail)?;
            if !note.is_empty() {
                note.save(&paths.note).map_err(fail)?;
            }
            self.adopt(digest, &file, &paths.data, bytes.len() as u64, note)
        };
        let outcome = put();
        // The note, and after a failure the data.
        paths.remove_all();
        Ok(outcome?)
    }

    /// Takes in a blob that lies in a file of somebody else's, such as that of a container runtime or another node, where
    /// it lies: it takes no room, and is gone when its owner removes or changes it. The file is hashed. One that is here
    /// already is a success.
    pub fn borrow(&self, digest: &Digest, file: &Path) -> Result<Blob, BorrowError> {
        let _slot = self.slot(digest).ok_or(BorrowError::Busy(*digest))?;
        if let Some((record, info)) = self.index.get(digest)? {
            return Ok(blob(record, info));
        }
        let paths = Paths::of(self, digest);
        let outcome =
            borrowed::prove(digest, file, &paths.link, &self.opening).and_then(|(size, lent, info)| {
                let target = self.blob_path(digest);
                let fail = |what, path: &Path, error| BorrowError::Io { what, path: path.to_owned(), error };
                fs::rename(&paths.link, &target).map_err(|error| fail("renaming", &paths.link, error))?;
                if let Some(shard) = target.parent() {
                    disk::sync_dir(shard).map_err(|error| fail("flushing", shard, error))?;
                }
                let (mut record, info) = new_row(digest, size, Note { media_type: None, info: Some(info) });
                record.lent = Some(lent);
                Ok(self.list_blob(record, info)?)
            });
        // What may have been fetched of it; after a failure only the link.
        if outcome.is_ok() {
            paths.remove_all();
        } else {
            let _ = disk::remove(&paths.link);
        }
        outcome
    }

    /// Adds the torrent of a blob that is here; `None` when the blob is not. The caller has checked that
    /// `info` is the info dictionary of the blob's canonical torrent.
    pub fn set_torrent(&self, digest: &Digest, info: Bytes) -> Result<Option<Blob>, IndexError> {
        let Some((record, known)) = self.index.get(digest)? else { return Ok(None) };
        self.amend(record, known, None, Some(info)).map(Some)
    }

    /// Notes that anybody may have a blob, whether it is here already or about to come. A crash may lose it, but not
    /// for a blob that was committed since.
    pub fn mark_public(&self, digest: &Digest) {
        self.index.mark_public(digest);
    }

    /// The blobs that can be continued and that nobody works on, in no order.
    pub fn partials(&self) -> io::Result<Vec<PartialSummary>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.partial_dir())? {
            let name = entry?.file_name();
            let Some(digest) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) else { continue };
            if !lock(&self.busy).contains(&digest) {
                found.extend(Paths::of(self, &digest).summary(&digest));
            }
        }
        Ok(found)
    }

    /// Throws away what was fetched of a blob; says whether that was possible, which it is not while someone
    /// works on it.
    pub fn discard_partial(&self, digest: &Digest) -> bool {
        let slot = self.slot(digest);
        if slot.is_some() {
            Paths::of(self, digest).remove_all();
        }
        slot.is_some()
    }

    pub(crate) fn partial_dir(&self) -> PathBuf {
        self.dir.join("partial")
    }

    pub(crate) fn blob_dir(&self) -> PathBuf {
        self.dir.join("blobs").join("sha256")
    }

    /// Makes a proven file visible: flush, rename, flush, row. The caller holds the blob's slot.
    pub(crate) fn adopt(
        &self,
        digest: &Digest,
        file: &File,
        path: &Path,
        size: u64,
        note: Note,
    ) -> Result<Blob, CommitError> {
        let target = self.blob_path(digest);
        let fail = |what, path: &Path, error| CommitError::io(digest, what, path, error);
        file.sync_all().map_err(|error| fail("flushing", path, error))?;
        fs::rename(path, &target).map_err(|error| fail("renaming", path, error))?;
        let listed = || {
            if let Some(shard) = target.parent() {
                disk::sync_dir(shard).map_err(|error| fail("flushing", shard, error))?;
            }
            let (record, info) = new_row(digest, size, note);
            self.list_blob(record, info).map_err(CommitError::from)
        };
        match listed() {
            Ok(blob) => {
                // Not before: a blob that goes back is to be written again.
                let _ = disk::make_read_only(file);
                Ok(blob)
            }
            Err(error) => {
                // Back to where it can be continued from.
                if let Err(error) = fs::rename(&target, path) {
                    tracing::warn!(path = %target.display(), %error, "blob has no row until the next start");
                }
                Err(error)
            }
        }
    }

    fn list_blob(&self, record: Record, info: Option<Bytes>) -> Result<Blob, IndexError> {
        let record = self.index.with_waiting(record);
        self.index.put(record.clone(), info.clone())?;
        Ok(blob(record, info))
    }

    fn amend(
        &self,
        mut record: Record,
        known: Option<Bytes>,
        media_type: Option<String>,
        info: Option<Bytes>,
    ) -> Result<Blob, IndexError> {
        let info = info.filter(|info| info.len() <= MAX_INFO && known.as_ref() != Some(info));
        if media_type.is_none() && info.is_none() {
            return Ok(blob(record, known));
        }
        record.media_type = media_type.or(record.media_type);
        let info = info.or(known);
        record.info_hash = info.as_deref().map(info_hash);
        self.index.put(record.clone(), info.clone())?;
        Ok(blob(record, info))
    }

    fn slot(&self, digest: &Digest) -> Option<Busy> {
        lock(&self.busy).insert(*digest).then(|| Busy { all: Arc::clone(&self.busy), digest: *digest })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The right to write a blob, which one has at a time.
#[derive(Debug)]
struct Busy {
    all: Arc<Mutex<HashSet<Digest>>>,
    digest: Digest,
}

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.digest);
    }
}

/// The same right, with the store kept open as long as it lasts.
#[derive(Debug)]
pub(crate) struct Slot {
    busy: Busy,
    store: Arc<Store>,
}

impl Slot {
    pub(crate) const fn digest(&self) -> Digest {
        self.busy.digest
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

pub(crate) fn cut_media_type(text: &str) -> String {
    text.chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= MAX_MEDIA_TYPE).then_some(c)
        })
        .collect()
}

/// The row of a blob whose file is in place.
pub(crate) fn new_row(digest: &Digest, size: u64, note: Note) -> (Record, Option<Bytes>) {
    let now = disk::now();
    let record = Record {
        digest: *digest,
        size,
        added: now,
        last_used: now,
        media_type: note.media_type,
        info_hash: note.info.as_deref().map(info_hash),
        public: false,
        lent: None,
    };
    (record, note.info)
}

fn info_hash(info: &[u8]) -> InfoHash {
    InfoHash::from_bytes(hash::sha1(info))
}

fn blob(record: Record, info: Option<Bytes>) -> Blob {
    let Record { digest, size, added, last_used, media_type, info_hash, public, lent } = record;
    let borrowed = lent.is_some();
    Blob { digest, size, media_type, info, info_hash, added, last_used, public, borrowed }
}

fn summary(record: Record) -> BlobSummary {
    let Record { digest, size, added, last_used, media_type, info_hash, public, lent } = record;
    let borrowed = lent.is_some();
    BlobSummary { digest, size, media_type, info_hash, added, last_used, public, borrowed }
}

fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let fail = |what, error| OpenError::io(what, &path, error);
    let mut file = disk::open_or_create(&path).map_err(|error| fail("opening", error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).ok().map(|text| text.trim().to_owned());
            let holder = holder.filter(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()));
            return Err(OpenError::Locked { dir: dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(error)) => return Err(fail("locking", error)),
    }
    // For the message above; the lock itself is the system's.
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| fail("writing", error))?;
    Ok(file)
}
