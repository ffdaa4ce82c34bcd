//! The `redb` database of a [`Table`](super::table::Table): made so that a start that is cut short is no harm to the
//! next, and opened again when the disk has failed. While the disk takes nothing, what is there can be read.
//!
//! `redb` believes what it reads, and panics over a file that somebody else has written to. A file is looked through
//! before it is used, and what panics later is a disk that fails, for good: nothing more is written to such a file.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex, MutexGuard, Once, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase as _, TableDefinition, WriteTransaction,
    backends::InMemoryBackend,
};

use crate::error::DirectoryError;

/// The database's page cache, in bytes.
const CACHE: usize = 64 * 1024 * 1024;

/// By what is seen whether the disk takes something again: it is written and removed.
const PROBE: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("probe");
const PROBE_LENGTH: usize = 256 * 1024;

/// A file that is longer is not looked through at the start, which would take long.
const LOOKED_THROUGH: u64 = 1024 * 1024 * 1024;

/// Opens the database; makes its tables where there are none.
type Opens = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

pub(super) struct Disk {
    opens: Opens,
    open: RwLock<Open>,
    /// Why nothing can be written.
    failing: Mutex<Option<String>>,
    /// Whether something waits to be flushed.
    unflushed: AtomicBool,
    /// Whether the file holds what we have not written.
    damaged: AtomicBool,
}

struct Open {
    /// `None` where it could not be opened again.
    database: Option<Database>,
    /// How often it was opened.
    turn: u64,
}

impl Disk {
    /// In a file, which may have to be repaired, or else in memory. `tables` makes the tables: it is asked for again
    /// where one is missing.
    pub(super) fn open(
        path: Option<&Path>,
        tables: fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<Self, DirectoryError> {
        // What it says of a damaged file is our error's to tell.
        let _quiet = Quiet::begin();
        match path {
            Some(path) => {
                look_through(path)?;
                let path = path.to_owned();
                Self::of(Box::new(move || open_file(&path, tables)))
            }
            None => Self::of(Box::new(move || {
                prepared(builder().create_with_backend(InMemoryBackend::new())?, tables)
            })),
        }
    }

    fn of(opens: Opens) -> Result<Self, DirectoryError> {
        let open = RwLock::new(Open { database: Some(guarded(|| Ok(opens()?))?), turn: 0 });
        let (unflushed, damaged) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { opens, open, failing: Mutex::default(), unflushed, damaged })
    }

    /// Why nothing can be written, since something could not.
    pub(super) fn failing(&self) -> Option<String> {
        self.why().clone()
    }

    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&ReadTransaction) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        self.with(|database| body(&database.begin_read()?))
    }

    /// Writes, to be flushed with the next [`Disk::tend`]. `body` also says whether it has changed anything.
    pub(super) fn write<T>(
        &self,
        body: impl FnOnce(&WriteTransaction) -> Result<(T, bool), DirectoryError>,
    ) -> Result<T, DirectoryError> {
        if let Some(why) = self.failing() {
            // It would be lost, and whoever wrote it told that it was not.
            return Err(DirectoryError::Failing(why));
        }
        self.with(|database| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::None).map_err(redb::Error::from)?;
            let (value, changed) = body(&write)?;
            if changed {
                write.commit()?;
                self.unflushed.store(true, Relaxed);
            }
            Ok(value)
        })
    }

    /// Flushes what waits for it; where the disk failed, tries whether it takes something again. To be called now and
    /// then.
    pub(super) fn tend(&self) -> Result<(), DirectoryError> {
        if self.why().is_none() {
            return if self.unflushed.swap(false, Relaxed) {
                self.with(|it| commit(it, |_| Ok(())))
            } else {
                Ok(())
            };
        }
        let (is_open, turn) = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            (open.database.is_some(), open.turn)
        };
        if !is_open {
            self.reopen(turn);
        }
        if self.damaged.load(Relaxed) {
            return Err(DirectoryError::Failing(self.failing().unwrap_or_default()));
        }
        self.with(|database| {
            commit(database, |write| {
                write.open_table(PROBE)?.insert(0, vec![0; PROBE_LENGTH].as_slice())?;
                Ok(())
            })?;
            commit(database, |write| Ok(write.delete_table(PROBE).map(drop)?))
        })?;
        *self.why() = None;
        tracing::warn!("the content directory can be written again");
        Ok(())
    }

    fn with<T>(
        &self,
        body: impl FnOnce(&Database) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        let (outcome, turn) = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &open.database else {
                return Err(DirectoryError::Failing(self.failing().unwrap_or_default()));
            };
            (guarded(|| body(database)), open.turn)
        };
        if let Err(error) = &outcome
            && error.is_of_the_disk()
        {
            self.damaged.fetch_or(error.is_damage(), Relaxed);
            self.fail(error);
            self.reopen(turn);
        }
        outcome
    }

    fn fail(&self, error: &DirectoryError) {
        let mut why = self.why();
        if why.is_none() {
            tracing::error!(%error, "the content directory cannot be written, and is only read until it can");
            *why = Some(error.to_string());
        }
    }

    /// After an I/O error (of a full disk, mostly) the database refuses everything, until it is opened again. What was
    /// not flushed is lost, as in a crash. Of all who met the error the first does this.
    fn reopen(&self, turn: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.turn != turn {
            return;
        }
        open.turn += 1;
        // Closed before it is opened: the file is locked.
        let closed = open.database.take();
        let opened = guarded(|| {
            drop(closed);
            Ok((self.opens)()?)
        });
        match opened {
            Ok(database) => open.database = Some(database),
            Err(error) => tracing::debug!(%error, "the content directory cannot be opened again yet"),
        }
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        let closed = open.database.take();
        // It writes once more, and of a damaged file that is known already.
        let _ = guarded(|| {
            drop(closed);
            Ok(())
        });
    }
}

/// Does what the database panics at where its file is damaged.
fn guarded<T>(work: impl FnOnce() -> Result<T, DirectoryError>) -> Result<T, DirectoryError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<&str>().map(|why| (*why).to_owned());
        let why = why.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(DirectoryError::Damaged(why.unwrap_or_else(|| "the database gives up".to_owned())))
    })
}

/// Sees whether all of a file that is there is as it was written.
fn look_through(path: &Path) -> Result<(), DirectoryError> {
    if !is_there(path).map_err(redb::Error::from)? {
        return Ok(());
    }
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    if !file.is_file() {
        let what = "it is no ordinary file, and the directory takes no other";
        return Err(redb::Error::from(io::Error::new(io::ErrorKind::InvalidInput, what)).into());
    }
    if file.len() > LOOKED_THROUGH {
        return Ok(());
    }
    guarded(|| {
        let mut database = builder().create(path)?;
        if !database.check_integrity()? {
            tracing::warn!(path = %path.display(), "the content directory's file was not whole, and is mended");
        }
        Ok(())
    })
    .map_err(|error| {
        let spoilt = error.is_no_database() && !error.is_damage() && was_ours(path);
        if spoilt { DirectoryError::Damaged(error.to_string()) } else { error }
    })
}

/// What the database begins its files with.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Whether a file that is no database may be what is left of ours: it begins like one, or holds nothing.
fn was_ours(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    let length = head.len().min(MAGIC.len());
    read.is_ok() && (head.get(..length) == MAGIC.get(..length) || head.iter().all(|&byte| byte == 0))
}

thread_local! {
    /// Whether a panic of this thread is caught and told of.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// As long as it lives, panics of this thread say nothing on the console.
struct Quiet;

impl Quiet {
    fn begin() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !QUIET.try_with(Cell::get).unwrap_or(false) {
                    before(info);
                }
            }));
        });
        QUIET.set(true);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

/// A transaction that is on the disk when this returns.
fn commit(
    database: &Database,
    body: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), DirectoryError> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    body(&write)?;
    Ok(write.commit()?)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// The database with its tables.
fn prepared(
    database: Database,
    tables: fn(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<Database, redb::Error> {
    let mut write = database.begin_write()?;
    let known = write.list_tables()?.count();
    tables(&write)?;
    // Nothing is written where nothing is missing: the disk may be full.
    if write.list_tables()?.count() == known {
        write.abort()?;
    } else {
        write.set_quick_repair(true);
        write.commit()?;
    }
    Ok(database)
}

/// The database in a file. A new one has another name until it is whole: what is half made, as where the disk is full,
/// is not taken for it at the next start.
fn open_file(
    path: &Path,
    tables: fn(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<Database, redb::Error> {
    if is_there(path)? {
        return prepared(builder().create(path)?, tables);
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // Not through a link that somebody else has put there.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).custom_flags(flags).open(&new)?;
    // Whoever has it makes it; and who comes when he has, finds it.
    file.try_lock().map_err(|_| redb::Error::DatabaseAlreadyOpen)?;
    if is_there(path)? {
        return Err(redb::Error::DatabaseAlreadyOpen);
    }
    let mut first = [0; 4];
    let read = file.read_at(&mut first, 0)?;
    if !(read == 0 || first == *b"redb" || first == [0; 4]) {
        let what = format!("{} is in the way, and no directory: move it", new.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what).into());
    }
    let made = file.set_len(0).map_err(redb::Error::from).and_then(|()| {
        let database = prepared(builder().create_file(file)?, tables)?;
        fs::rename(&new, path)?;
        Ok(database)
    });
    let database = made.inspect_err(|_| {
        // What is half made takes up a disk that may be full.
        let _ = fs::remove_file(&new);
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(database)
}

/// A link that leads nowhere counts: what it leads to is made.
fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redb::{ReadableTable as _, StorageBackend};

    use super::*;

    const ROWS: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("rows");

    fn rows(write: &WriteTransaction) -> Result<(), redb::Error> {
        write.open_table(ROWS)?;
        Ok(())
    }

    #[test]
    fn what_is_half_made_does_not_stay_on_a_full_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("directory");
        let full = |_: &WriteTransaction| Err(io::Error::from(io::ErrorKind::StorageFull).into());
        assert!(Disk::open(Some(&path), full).is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
        let disk = Disk::open(Some(&path), rows).expect("made");
        drop(disk);
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
    }

    /// Bytes that outlive the database, on a disk that can be full.
    #[derive(Debug, Clone, Default)]
    struct Bytes {
        bytes: Arc<Mutex<Vec<u8>>>,
        full: Arc<AtomicBool>,
    }

    impl Bytes {
        fn changed(&self) -> io::Result<MutexGuard<'_, Vec<u8>>> {
            if self.full.load(Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(self.bytes.lock().expect("sound"))
        }
    }

    impl StorageBackend for Bytes {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.lock().expect("sound").len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let bytes = self.bytes.lock().expect("sound");
            let part = bytes.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
            out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.changed()?.resize(len as usize, 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            self.changed().map(drop)
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut bytes = self.changed()?;
            bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    fn put(disk: &Disk, key: u8) -> Result<(), DirectoryError> {
        disk.write(|write| {
            write.open_table(ROWS)?.insert(key, [key; 100].as_slice())?;
            Ok(((), true))
        })
    }

    fn keys(disk: &Disk) -> Result<Vec<u8>, DirectoryError> {
        disk.read(|read| {
            let table = read.open_table(ROWS)?;
            Ok(table.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, redb::Error>>()?)
        })
    }

    #[test]
    fn after_a_full_disk_the_directory_is_read_at_once_and_written_when_there_is_room() {
        let bytes = Bytes::default();
        let opened = bytes.clone();
        let opens = move || prepared(builder().create_with_backend(opened.clone())?, rows);
        let disk = Disk::of(Box::new(opens)).expect("opens");
        put(&disk, 1).expect("written");
        disk.tend().expect("flushed");
        bytes.full.store(true, Relaxed);
        put(&disk, 2).expect("not flushed yet");
        assert!(disk.tend().is_err_and(|error| error.is_of_the_disk()));
        assert!(disk.failing().is_some());
        for _ in 0..3 {
            assert!(matches!(put(&disk, 3), Err(DirectoryError::Failing(_))), "it would be lost");
            // Opening writes as well; what cannot be opened is tried again.
            assert!(disk.tend().is_err());
        }
        bytes.full.store(false, Relaxed);
        disk.tend().expect("room again");
        assert_eq!(disk.failing(), None);
        put(&disk, 4).expect("written");
        disk.tend().expect("flushed");
        assert_eq!(keys(&disk).expect("read"), [1, 4], "what was not flushed is lost, as in a crash");
    }

    #[test]
    fn a_file_that_a_full_disk_left_half_made_does_not_stop_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, new) = (folder.path().join("d.redb"), folder.path().join("d.redb.new"));
        fs::write(&new, b"redb and no more").expect("written");
        let disk = Disk::open(Some(&path), rows).expect("made anew");
        put(&disk, 1).expect("written");
        disk.tend().expect("flushed");
        assert!(!new.exists());
        let (other, in_the_way) = (folder.path().join("e.redb"), folder.path().join("e.redb.new"));
        fs::write(&in_the_way, b"notes").expect("written");
        assert!(Disk::open(Some(&other), rows).is_err_and(|error| error.to_string().contains("in the way")));
        assert_eq!(fs::read(&in_the_way).expect("there"), b"notes");
        fs::remove_file(&in_the_way).expect("removed");
        std::os::unix::fs::symlink(&path, &in_the_way).expect("made");
        assert!(Disk::open(Some(&other), rows).is_err());
        let again = Disk::open(Some(&path), rows);
        assert!(again.is_err_and(|error| error.to_string().contains("open")), "one at a time");
        drop(disk);
        assert_eq!(keys(&Disk::open(Some(&path), rows).expect("opens")).expect("read"), [1]);
    }

    #[test]
    fn a_file_with_flipped_bytes_is_called_damaged_and_nobody_panics() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.redb");
        let disk = Disk::open(Some(&path), rows).expect("made");
        (0..200).for_each(|key| put(&disk, key).expect("written"));
        disk.tend().expect("flushed");
        drop(disk);
        let good = fs::read(&path).expect("read");
        let (mut damaged, mut whole) = (0, 0);
        for at in (0..good.len()).step_by(good.len() / 300) {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            fs::write(&path, &bad).expect("written");
            match Disk::open(Some(&path), rows).and_then(|disk| keys(&disk)) {
                Ok(keys) => {
                    assert_eq!(keys.len(), 200, "at {at}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(error.is_damage() || error.is_no_database(), "at {at}: {error}");
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0 && whole > 0, "{damaged} {whole}");
    }

    #[test]
    fn a_file_that_is_cut_or_zeroed_is_called_damaged_and_another_kind_of_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.redb");
        let disk = Disk::open(Some(&path), rows).expect("made");
        (0..200).for_each(|key| put(&disk, key).expect("written"));
        disk.tend().expect("flushed");
        drop(disk);
        let good = fs::read(&path).expect("read");
        assert_eq!(good.get(..MAGIC.len()), Some(MAGIC));
        let cut = [1, 10, 100, 5000, good.len() / 2].map(|length| good[..length].to_vec());
        for bad in cut.into_iter().chain([vec![0; 10], vec![0; 100_000], vec![0; good.len()]]) {
            fs::write(&path, &bad).expect("written");
            let error = Disk::open(Some(&path), rows).err().expect("refused");
            assert!(error.is_damage(), "{} bytes: {error}", bad.len());
        }
        for other in [&b"SQLite format 3\0"[..], b"tag = 1\n", &[0x7f; 100_000]] {
            fs::write(&path, other).expect("written");
            let error = Disk::open(Some(&path), rows).err().expect("refused");
            assert!(error.is_no_database() && !error.is_damage(), "{}: {error}", other.escape_ascii());
        }
    }

    #[test]
    fn what_is_damaged_while_it_runs_is_read_on_and_never_written_again() {
        let opens = || prepared(builder().create_with_backend(InMemoryBackend::new())?, rows);
        let disk = Disk::of(Box::new(opens)).expect("opens");
        put(&disk, 1).expect("written");
        let struck = disk.read::<()>(|_| panic!("a page that is none"));
        assert!(struck.is_err_and(|error| error.is_damage()));
        assert!(disk.failing().is_some_and(|why| why.contains("move it away")));
        for _ in 0..2 {
            assert!(matches!(disk.tend(), Err(DirectoryError::Failing(_))));
            assert!(matches!(put(&disk, 2), Err(DirectoryError::Failing(_))));
            assert!(keys(&disk).is_ok());
        }
    }

    #[test]
    fn what_is_no_ordinary_file_is_named_so() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [Path::new("/dev/null"), folder.path()] {
            let error = Disk::open(Some(path), rows).err().expect("refused");
            assert!(error.to_string().contains("no ordinary file"), "{error}");
        }
    }
}
