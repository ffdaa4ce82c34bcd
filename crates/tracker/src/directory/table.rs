//! The directory of a tracker that is alone: blobs and tags in `redb`, leases in memory.
//!
//! **Durability.** Publications are visible at once and flushed within [`FLUSH_EVERY`](super::FLUSH_EVERY) and at the
//! end: a fleet publishes in bursts, and a flush for each would hold up everyone who waits. A crash of the tracker
//! within that time costs the origin one more copy of what was just published, and nothing else; so does a disk that
//! fails. While it does nothing is published, and what is there is read ([`Disk`]).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use api::directory::{Entry, Lease, Renewal, Tag, TagRequest, turn_of};
use bytes::Bytes;
use hash::Digest;
use metainfo::InfoHash;
use redb::{AccessGuard, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

use super::{Sizes, Taken, disk::Disk, merged, millis};
use crate::{
    config::Config,
    error::DirectoryError,
    leases::{Claimed, Leases, Renewed},
    registered::Registered,
    server::Clock,
};

/// Size, media type, info-hash, when published, info dictionary.
type Row<'a> = (u64, Option<&'a str>, &'a [u8; 20], u64, &'a [u8]);
/// Digest, media type, size, when set.
type TagRow<'a> = (&'a [u8; 32], &'a str, u64, u64);

const ENTRIES: TableDefinition<'_, &[u8; 32], Row<'_>> = TableDefinition::new("entries");
/// Whether anybody may have it, and all of a small one.
type MoreRow<'a> = (bool, &'a [u8]);

const MORE: TableDefinition<'_, &[u8; 32], MoreRow<'_>> = TableDefinition::new("more");
const TAGS: TableDefinition<'_, &str, TagRow<'_>> = TableDefinition::new("tags");

/// How much is kept in memory, in bytes: of layers' torrents some tens of thousands.
const MOST_IN_MEMORY: u64 = 1024 * 1024 * 1024;

/// What a row takes beside what it holds, about.
const ROW: u64 = 256;

/// The most leases at a time: one per node and layer of a large fleet.
const MAX_LEASES: usize = 100_000;

#[derive(Clone)]
pub(crate) struct Table(Arc<Shared>);

struct Shared {
    disk: Disk,
    /// How many bytes were put in, where it is in memory.
    bytes: Option<AtomicU64>,
    leases: Leases,
    clock: Clock,
    max_entries: u64,
}

impl Table {
    /// Reads the file, and may repair it: blocks. Without a file it is in memory.
    pub(crate) fn open(path: Option<&Path>, config: &Config, clock: Clock) -> Result<Self, DirectoryError> {
        let disk = Disk::open(path, tables)?;
        let bytes = path.is_none().then(AtomicU64::default);
        Ok(Self(Arc::new(Shared {
            disk,
            bytes,
            leases: Leases::new(config.lease_ttl(), MAX_LEASES),
            clock,
            max_entries: config.max_entries,
        })))
    }

    pub(crate) async fn claim(
        &self,
        digest: Digest,
        node: &str,
        look: bool,
    ) -> Result<Taken, DirectoryError> {
        if look && let Some(entry) = self.get(digest).await? {
            return Ok(Taken::Known(entry));
        }
        let shared = &self.0;
        let id = format!("{:032x}", rand::random::<u128>());
        match shared.leases.claim(shared.clock.elapsed(), &digest, node, id) {
            Claimed::Leased(id) => {
                // Published between the look and the lease?
                if look && let Some(entry) = self.get(digest).await? {
                    shared.leases.release(&digest, node, &id);
                    return Ok(Taken::Known(entry));
                }
                Ok(Taken::Leased(shared.lease(id)))
            }
            Claimed::Held { by, until, end } => {
                let mark = end.tags();
                Ok(Taken::Held { by, until, end, mark })
            }
            Claimed::Full => Err(DirectoryError::Full(MAX_LEASES as u64)),
        }
    }

    pub(crate) async fn get(&self, digest: Digest) -> Result<Option<Entry>, DirectoryError> {
        self.blocking(move |shared| {
            shared.disk.read(|read| {
                let more = read.open_table(MORE)?.get(digest.as_bytes())?;
                let table = read.open_table(ENTRIES)?;
                let found = table.get(digest.as_bytes())?;
                Ok(found.map(|row| entry(&digest, row.value(), more.as_ref().map(AccessGuard::value))))
            })
        })
        .await
    }

    /// Reads which torrents there are: all of the file, as far as it is the blobs'.
    pub(crate) async fn read_registered(&self, to: Arc<Registered>) -> Result<(), DirectoryError> {
        self.blocking(move |shared| {
            shared.disk.read(|read| {
                for row in read.open_table(ENTRIES)?.iter()? {
                    let (digest, row) = row?;
                    let (_, _, info_hash, ..) = row.value();
                    to.found(&Digest::from_bytes(*digest.value()), &InfoHash::from_bytes(*info_hash));
                }
                Ok(())
            })
        })
        .await
    }

    pub(crate) async fn publish(&self, new: Entry) -> Result<Entry, DirectoryError> {
        let entry = self.blocking(move |shared| shared.disk.write(|write| shared.enter(write, new))).await?;
        self.0.leases.settle(&entry.digest);
        Ok(entry)
    }

    pub(crate) async fn renew(
        &self,
        digest: Digest,
        node: &str,
        lease: String,
    ) -> Result<Renewal, DirectoryError> {
        let shared = &self.0;
        if shared.leases.extend(shared.clock.elapsed(), &digest, node, &lease) {
            return Ok(Renewal::Leased(shared.lease(lease)));
        }
        if self.get(digest).await?.is_some() {
            return Ok(Renewal::Known);
        }
        match shared.leases.renew(shared.clock.elapsed(), &digest, node, lease) {
            Renewed::Leased(id) => Ok(Renewal::Leased(shared.lease(id))),
            Renewed::Lost { by } => Ok(Renewal::Lost { by }),
            Renewed::Full => Err(DirectoryError::Full(MAX_LEASES as u64)),
        }
    }

    pub(crate) fn release(&self, digest: &Digest, node: &str, lease: &str) {
        self.0.leases.release(digest, node, lease);
    }

    pub(crate) async fn set_tag(&self, tag: TagRequest) -> Result<Tag, DirectoryError> {
        let turn = turn_of(&tag.name);
        let set = self.blocking(move |shared| {
            let updated = shared.clock.unix();
            shared.disk.write(|write| {
                let mut table = write.open_table(TAGS)?;
                if table.get(tag.name.as_str())?.is_none() {
                    if table.len()? >= shared.max_entries {
                        return Err(DirectoryError::Full(shared.max_entries));
                    }
                    shared.take_room(ROW + (tag.name.len() + tag.media_type.len()) as u64)?;
                }
                let row = (tag.digest.as_bytes(), tag.media_type.as_str(), tag.size, updated);
                table.insert(tag.name.as_str(), row)?;
                Ok((Tag { target: tag.clone(), updated, age: 0 }, true))
            })
        });
        let tag = set.await?;
        self.0.leases.tag_is_set(&turn);
        Ok(tag)
    }

    pub(crate) async fn tag(&self, name: String) -> Result<Option<Tag>, DirectoryError> {
        self.blocking(move |shared| {
            let now = shared.clock.unix();
            shared.disk.read(|read| {
                Ok(read.open_table(TAGS)?.get(name.as_str())?.map(|row| {
                    let (digest, media_type, size, updated) = row.value();
                    let digest = Digest::from_bytes(*digest);
                    let target =
                        TagRequest { name: name.clone(), digest, media_type: media_type.to_owned(), size };
                    Tag { target, updated, age: now.saturating_sub(updated) }
                }))
            })
        })
        .await
    }

    /// Flushes what waits for it, and forgets leases that ran out.
    pub(crate) async fn tend(&self) -> Result<(), DirectoryError> {
        self.0.leases.sweep(self.0.clock.elapsed());
        self.blocking(|shared| shared.disk.tend()).await
    }

    /// Why nothing can be published, since the disk does not take it.
    pub(crate) fn failing(&self) -> Option<String> {
        self.0.disk.failing()
    }

    pub(crate) async fn sizes(&self) -> Result<Sizes, DirectoryError> {
        self.blocking(|shared| {
            shared.disk.read(|read| {
                Ok(Sizes {
                    entries: read.open_table(ENTRIES)?.len()?,
                    tags: read.open_table(TAGS)?.len()?,
                    leases: shared.leases.len() as u64,
                })
            })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Shared) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let shared = Arc::clone(&self.0);
        super::blocking(move || body(&shared)).await
    }
}

impl Shared {
    fn lease(&self, lease: String) -> Lease {
        Lease { lease, ttl_ms: millis(self.leases.ttl()) }
    }

    /// Writes what is published of a blob; says what stands there then, and whether that is new.
    fn enter(&self, write: &WriteTransaction, new: Entry) -> Result<(Entry, bool), DirectoryError> {
        let digest = new.digest;
        let (mut table, mut rest) = (write.open_table(ENTRIES)?, write.open_table(MORE)?);
        let old = {
            let more = rest.get(digest.as_bytes())?;
            let found = table.get(digest.as_bytes())?;
            found.map(|row| entry(&digest, row.value(), more.as_ref().map(AccessGuard::value)))
        };
        if old.is_none() && table.len()? >= self.max_entries {
            return Err(DirectoryError::Full(self.max_entries));
        }
        let new = merged(new, old.as_ref());
        if old.as_ref() == Some(&new) {
            return Ok((new, false));
        }
        self.take_room(size_of_row(&new).saturating_sub(old.as_ref().map_or(0, size_of_row)))?;
        let (media_type, now) = (new.media_type.as_deref(), self.clock.unix());
        let row = (new.size, media_type, new.info_hash.as_bytes(), now, new.info.as_ref());
        table.insert(digest.as_bytes(), row)?;
        rest.insert(digest.as_bytes(), (new.public, new.content.as_ref()))?;
        Ok((new, true))
    }

    /// Room for more, where that is bounded. Only one writes at a time.
    fn take_room(&self, more: u64) -> Result<(), DirectoryError> {
        let Some(bytes) = &self.bytes else { return Ok(()) };
        let all = bytes.load(Relaxed).saturating_add(more);
        if all > MOST_IN_MEMORY {
            return Err(DirectoryError::NoRoom);
        }
        bytes.store(all, Relaxed);
        Ok(())
    }
}

fn tables(write: &WriteTransaction) -> Result<(), redb::Error> {
    write.open_table(ENTRIES)?;
    write.open_table(MORE)?;
    write.open_table(TAGS)?;
    Ok(())
}

fn size_of_row(entry: &Entry) -> u64 {
    let media_type = entry.media_type.as_deref().map_or(0, str::len);
    ROW + (entry.info.len() + entry.content.len() + media_type) as u64
}

fn entry(
    digest: &Digest,
    (size, media_type, info_hash, _, info): Row<'_>,
    more: Option<MoreRow<'_>>,
) -> Entry {
    let (public, content) = more.unwrap_or_default();
    Entry {
        digest: *digest,
        size,
        media_type: media_type.map(str::to_owned),
        info_hash: InfoHash::from_bytes(*info_hash),
        info: Bytes::copy_from_slice(info),
        public,
        content: Bytes::copy_from_slice(content),
        complete: None,
        incomplete: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_in_memory_is_bounded_by_its_bytes() {
        let table = Table::open(None, &Config::default(), Clock::start()).expect("opens");
        let tag = |name: &str| TagRequest {
            name: name.to_owned(),
            digest: Digest::of(b"x"),
            media_type: "m".to_owned(),
            size: 1,
        };
        table.set_tag(tag("a")).await.expect("room");
        table.0.bytes.as_ref().expect("counted").store(MOST_IN_MEMORY - ROW, Relaxed);
        assert!(matches!(table.set_tag(tag("b")).await, Err(DirectoryError::NoRoom)));
        table.set_tag(tag("a")).await.expect("it has its room");
        assert!(table.tag("b".to_owned()).await.is_ok_and(|tag| tag.is_none()));
    }
}
