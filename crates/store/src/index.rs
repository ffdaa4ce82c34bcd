//! The index: a row per visible blob, in `redb`.
//!
//! **Durability.** A change that makes a blob visible or removes it is flushed before the call returns
//! (`Immediate`), as a row that is lost costs a hash over the blob at the next start. Changes that wait for
//! the same flush share it: whoever gets the writer's lock writes what all others have queued. Commits save
//! the allocator's state (quick repair), so that opening after a crash does not walk the whole file. Last-use
//! times, and marks of what is public, go along with the next change.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;
use hash::Digest;
use metainfo::InfoHash;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, WriteTransaction,
};

use crate::{borrowed::Lent, error::IndexError};

/// Size, added, last used, media type, info-hash.
type Row<'a> = (u64, u64, u64, Option<&'a str>, Option<&'a [u8; 20]>);

const BLOBS: TableDefinition<'_, &[u8; 32], Row<'_>> = TableDefinition::new("blobs");
const INFOS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("infos");
const INFO_HASHES: TableDefinition<'_, &[u8; 20], &[u8; 32]> = TableDefinition::new("info-hashes");
/// Blobs that anybody may have.
const PUBLIC: TableDefinition<'_, &[u8; 32], ()> = TableDefinition::new("public");
/// Blobs that lie in files of others, and in which: device, inode, and its last change in seconds and nanoseconds.
const LENT: TableDefinition<'_, &[u8; 32], (u64, u64, i64, i64)> = TableDefinition::new("lent");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT: u64 = 1;

/// The database's page cache, in bytes. Its default of a GiB is for servers that are a database.
const CACHE: usize = 16 * 1024 * 1024;

/// A row as it goes in and comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) added: u64,
    pub(crate) last_used: u64,
    pub(crate) media_type: Option<String>,
    pub(crate) info_hash: Option<InfoHash>,
    /// Read only: it is [`Index::mark_public`] that says so.
    pub(crate) public: bool,
    /// Which file of somebody else's it lies in, and as of when.
    pub(crate) lent: Option<Lent>,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// With the info dictionary, whose hash the record holds.
    Put(Record, Option<Bytes>),
    Remove(Digest),
}

pub(crate) struct Index {
    path: PathBuf,
    /// `None` only between a failure of the disk and the next use: the database refuses everything after an
    /// I/O error (a full disk, mostly) until it is opened again.
    database: RwLock<Option<Database>>,
    queue: Mutex<Queue>,
    /// Whoever holds it writes.
    writer: Mutex<()>,
    waiting: Mutex<Waiting>,
    totals: Mutex<Totals>,
}

/// How much there is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) blobs: u64,
    /// Bytes of those that are not borrowed.
    pub(crate) bytes: u64,
    /// Bytes of those that are.
    pub(crate) borrowed: u64,
}

/// By how much a change changes them.
#[derive(Default)]
struct Differences {
    blobs: i64,
    bytes: i64,
    borrowed: i64,
}

/// What goes along with the next change.
#[derive(Default)]
struct Waiting {
    touched: HashMap<Digest, u64>,
    public: HashSet<Digest>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Change)>,
    /// The next change's number.
    next: u64,
    /// Changes that another thread's batch took, and how that went.
    done: HashMap<u64, Result<(), String>>,
}

impl Index {
    pub(crate) fn open(path: &Path) -> Result<Self, IndexError> {
        let database = open_database(path)?;
        let index = Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            queue: Mutex::default(),
            writer: Mutex::default(),
            waiting: Mutex::default(),
            totals: Mutex::default(),
        };
        let totals = index.read(|read| {
            let (mut totals, lent) = (Totals::default(), Table::of(read, LENT)?);
            for row in read.open_table(BLOBS)?.range::<&[u8; 32]>(..)? {
                let (key, row) = row?;
                totals.blobs += 1;
                let borrowed = lent.get(key.value()).is_some();
                let of = if borrowed { &mut totals.borrowed } else { &mut totals.bytes };
                *of += row.value().0;
            }
            Ok(totals)
        })?;
        *lock(&index.totals) = totals;
        Ok(index)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Result<Option<(Record, Option<Bytes>)>, IndexError> {
        let found = self.read(|read| {
            let Some(row) = read.open_table(BLOBS)?.get(digest.as_bytes())? else { return Ok(None) };
            let mut record = record(digest, row.value());
            record.public = Table::of(read, PUBLIC)?.get(digest.as_bytes()).is_some();
            record.lent = Table::of(read, LENT)?.get(digest.as_bytes()).map(|lent| Lent::from(lent.value()));
            let info = match record.info_hash {
                Some(_) => read.open_table(INFOS)?.get(digest.as_bytes())?,
                None => None,
            };
            Ok(Some((record, info.map(|info| Bytes::copy_from_slice(info.value())))))
        })?;
        Ok(found.map(|(record, info)| (self.with_waiting(record), info)))
    }

    pub(crate) fn contains(&self, digest: &Digest) -> Result<bool, IndexError> {
        self.read(|read| Ok(read.open_table(BLOBS)?.get(digest.as_bytes())?.is_some()))
    }

    /// Which file a borrowed blob lies in.
    pub(crate) fn lent(&self, digest: &Digest) -> Result<Option<Lent>, IndexError> {
        self.read(|read| {
            Ok(Table::of(read, LENT)?.get(digest.as_bytes()).map(|lent| Lent::from(lent.value())))
        })
    }

    pub(crate) fn find_info_hash(&self, info_hash: &InfoHash) -> Result<Option<Digest>, IndexError> {
        self.read(|read| {
            let found = read.open_table(INFO_HASHES)?.get(info_hash.as_bytes())?;
            Ok(found.map(|digest| Digest::from_bytes(*digest.value())))
        })
    }

    /// At most `limit` rows after `after`, in the order of digests.
    pub(crate) fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Record>, IndexError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let rows = self.read(|read| {
            let start = after.map_or(Unbounded, |digest| Excluded(digest.as_bytes()));
            let table = read.open_table(BLOBS)?;
            let (public, lent) = (Table::of(read, PUBLIC)?, Table::of(read, LENT)?);
            let mut rows = Vec::new();
            for row in table.range::<&[u8; 32]>((start, Unbounded))?.take(limit) {
                let (key, row) = row?;
                let mut record = record(&Digest::from_bytes(*key.value()), row.value());
                record.public = public.get(record.digest.as_bytes()).is_some();
                record.lent = lent.get(record.digest.as_bytes()).map(|lent| Lent::from(lent.value()));
                rows.push(record);
            }
            Ok(rows)
        })?;
        Ok(rows.into_iter().map(|row| self.with_waiting(row)).collect())
    }

    /// The digests that begin with `first`, and their sizes.
    pub(crate) fn shard(&self, first: u8) -> Result<Vec<(Digest, u64)>, IndexError> {
        let (mut low, mut high) = ([0; 32], [0xff; 32]);
        (low[0], high[0]) = (first, first);
        self.read(|read| {
            let mut rows = Vec::new();
            for row in read.open_table(BLOBS)?.range::<&[u8; 32]>(&low..=&high)? {
                let (key, row) = row?;
                rows.push((Digest::from_bytes(*key.value()), row.value().0));
            }
            Ok(rows)
        })
    }

    pub(crate) fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    /// Inserts or replaces a row; durable on return.
    pub(crate) fn put(&self, record: Record, info: Option<Bytes>) -> Result<(), IndexError> {
        self.change(Change::Put(record, info))
    }

    /// Removes a row; durable on return.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), IndexError> {
        self.change(Change::Remove(*digest))
    }

    /// Several changes with one flush; durable on return.
    pub(crate) fn change_all(&self, changes: &[Change]) -> Result<(), IndexError> {
        let _writer = lock(&self.writer);
        if changes.is_empty() { Ok(()) } else { self.write(changes) }
    }

    /// Notes a last use. Says how many wait to be written.
    pub(crate) fn touch(&self, digest: &Digest, at: u64) -> usize {
        let touched = &mut lock(&self.waiting).touched;
        touched.insert(*digest, at);
        touched.len()
    }

    /// Notes that anybody may have a blob. Written with the next change, such as the blob's own row.
    pub(crate) fn mark_public(&self, digest: &Digest) {
        lock(&self.waiting).public.insert(*digest);
    }

    /// Writes the last-use times and marks that wait.
    pub(crate) fn flush(&self) -> Result<(), IndexError> {
        let _writer = lock(&self.writer);
        let nothing = {
            let waiting = lock(&self.waiting);
            waiting.touched.is_empty() && waiting.public.is_empty()
        };
        if nothing { Ok(()) } else { self.write(&[]) }
    }

    /// The row with what waits to be written of it.
    pub(crate) fn with_waiting(&self, mut record: Record) -> Record {
        let waiting = lock(&self.waiting);
        if let Some(&at) = waiting.touched.get(&record.digest) {
            record.last_used = record.last_used.max(at);
        }
        record.public |= waiting.public.contains(&record.digest);
        record
    }

    fn change(&self, change: Change) -> Result<(), IndexError> {
        let number = {
            let mut queue = lock(&self.queue);
            let number = queue.next;
            queue.next += 1;
            queue.waiting.push_back((number, change));
            number
        };
        let _writer = lock(&self.writer);
        let batch = {
            let mut queue = lock(&self.queue);
            if let Some(outcome) = queue.done.remove(&number) {
                return outcome.map_err(IndexError::Batch);
            }
            mem::take(&mut queue.waiting)
        };
        let (numbers, changes): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let outcome = self.write(&changes);
        let told = match &outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        let mut queue = lock(&self.queue);
        queue.done.extend(numbers.into_iter().filter(|&n| n != number).map(|n| (n, told.clone())));
        outcome
    }

    /// One transaction; the writer's lock is held.
    fn write(&self, changes: &[Change]) -> Result<(), IndexError> {
        let along = mem::take(&mut *lock(&self.waiting));
        let outcome = self.with_database(|database| {
            let mut write = database.begin_write()?;
            write.set_quick_repair(true);
            let totals = apply(&write, changes, &along)?;
            write.commit()?;
            Ok(totals)
        });
        match outcome {
            Ok(Differences { blobs, bytes, borrowed }) => {
                let mut totals = lock(&self.totals);
                totals.blobs = totals.blobs.saturating_add_signed(blobs);
                totals.bytes = totals.bytes.saturating_add_signed(bytes);
                totals.borrowed = totals.borrowed.saturating_add_signed(borrowed);
                Ok(())
            }
            Err(error) => {
                let mut waiting = lock(&self.waiting);
                for (digest, at) in along.touched {
                    waiting.touched.entry(digest).or_insert(at);
                }
                waiting.public.extend(along.public);
                Err(error)
            }
        }
    }

    fn read<T>(&self, body: impl Fn(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, IndexError> {
        self.with_database(|database| body(&database.begin_read()?))
    }

    fn with_database<T>(&self, body: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, IndexError> {
        let first = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            database.as_ref().map(&body)
        };
        let needs_reopening = match &first {
            None | Some(Err(redb::Error::PreviousIo | redb::Error::DatabaseClosed)) => true,
            Some(_) => false,
        };
        match first {
            Some(outcome) if !needs_reopening => Ok(outcome?),
            _ => {
                let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
                // Closed before it is opened: the file is locked.
                *database = None;
                let opened = database.insert(open_database(&self.path)?);
                Ok(body(opened)?)
            }
        }
    }
}

fn apply(write: &WriteTransaction, changes: &[Change], along: &Waiting) -> Result<Differences, redb::Error> {
    let mut blobs = write.open_table(BLOBS)?;
    let mut infos = write.open_table(INFOS)?;
    let mut info_hashes = write.open_table(INFO_HASHES)?;
    let mut public = write.open_table(PUBLIC)?;
    let mut all_lent = write.open_table(LENT)?;
    let mut differences = Differences::default();
    for change in changes {
        let digest = match change {
            Change::Put(record, _) => &record.digest,
            Change::Remove(digest) => digest,
        };
        let old = match change {
            Change::Put(record, _) => blobs.insert(digest.as_bytes(), row(record))?,
            Change::Remove(_) => {
                public.remove(digest.as_bytes())?;
                blobs.remove(digest.as_bytes())?
            }
        };
        let was_borrowed = all_lent.remove(digest.as_bytes())?.is_some();
        if let Some(old) = old {
            differences.blobs -= 1;
            let of = if was_borrowed { &mut differences.borrowed } else { &mut differences.bytes };
            *of = of.saturating_sub_unsigned(old.value().0);
            if let Some(info_hash) = old.value().4 {
                info_hashes.remove(info_hash)?;
                infos.remove(digest.as_bytes())?;
            }
        }
        if let Change::Put(record, info) = change {
            differences.blobs += 1;
            if let Some(lent) = record.lent {
                all_lent.insert(digest.as_bytes(), lent.into_row())?;
            }
            let of = if record.lent.is_some() { &mut differences.borrowed } else { &mut differences.bytes };
            *of = of.saturating_add_unsigned(record.size);
            if let (Some(info_hash), Some(info)) = (&record.info_hash, info) {
                info_hashes.insert(info_hash.as_bytes(), digest.as_bytes())?;
                infos.insert(digest.as_bytes(), info.as_ref())?;
            }
        }
    }
    for digest in &along.public {
        public.insert(digest.as_bytes(), ())?;
    }
    for (digest, &at) in &along.touched {
        let found = blobs.get(digest.as_bytes())?.map(|row| record(digest, row.value()));
        if let Some(mut found) = found
            && found.last_used < at
        {
            found.last_used = at;
            blobs.insert(digest.as_bytes(), row(&found))?;
        }
    }
    Ok(differences)
}

fn row(record: &Record) -> Row<'_> {
    let info_hash = record.info_hash.as_ref().map(InfoHash::as_bytes);
    (record.size, record.added, record.last_used, record.media_type.as_deref(), info_hash)
}

fn record(digest: &Digest, (size, added, last_used, media_type, info_hash): Row<'_>) -> Record {
    Record {
        digest: *digest,
        size,
        added,
        last_used,
        media_type: media_type.map(str::to_owned),
        info_hash: info_hash.map(|info_hash| InfoHash::from_bytes(*info_hash)),
        public: false,
        lent: None,
    }
}

/// A table that an index lacks in which nothing was put into it yet.
struct Table<V: redb::Value + 'static>(Option<redb::ReadOnlyTable<&'static [u8; 32], V>>);

impl<V: redb::Value + 'static> Table<V> {
    fn of(
        read: &ReadTransaction,
        table: TableDefinition<'static, &'static [u8; 32], V>,
    ) -> Result<Self, redb::Error> {
        match read.open_table(table) {
            Ok(table) => Ok(Self(Some(table))),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// What cannot be read counts as not there.
    fn get(&self, digest: &[u8; 32]) -> Option<redb::AccessGuard<'_, V>> {
        self.0.as_ref()?.get(digest).ok().flatten()
    }
}

fn open_database(path: &Path) -> Result<Database, IndexError> {
    let database = Database::builder().set_cache_size(CACHE).create(path)?;
    let format = match database.begin_read()?.open_table(META) {
        Ok(meta) => meta.get("format")?.map(|format| format.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match format {
        Some(FORMAT) => Ok(database),
        Some(found) => Err(IndexError::Version { found, known: FORMAT }),
        None => {
            let mut write = database.begin_write()?;
            write.set_quick_repair(true);
            write.open_table(META)?.insert("format", FORMAT)?;
            write.open_table(BLOBS)?.len()?;
            write.open_table(INFOS)?.len()?;
            write.open_table(INFO_HASHES)?.len()?;
            write.commit()?;
            Ok(database)
        }
    }
}

/// A panic while a lock is held leaves plain data that is sound in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
