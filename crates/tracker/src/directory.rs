//! The content directory: digest → torrent, tag → digest, in `redb`; and claims, which wait for either.
//!
//! **Durability.** Publications are visible at once and flushed within [`FLUSH_EVERY`] and at the end: a fleet
//! publishes in bursts, and a flush for each would hold up everyone who waits. A crash of the tracker within
//! that time costs the origin one more copy of what was just published, and nothing else.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use api::directory::{Claim, Entry, Lease, MAX_INFO, PublishRequest, Renewal, Tag, TagRequest};
use bytes::Bytes;
use hash::Digest;
use metainfo::{InfoHash, Torrent};
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, backends::InMemoryBackend,
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::DirectoryError,
    leases::{Claimed, Leases, Renewed},
    server::Clock,
};

/// Size, media type, info-hash, when published, info dictionary.
type Row<'a> = (u64, Option<&'a str>, &'a [u8; 20], u64, &'a [u8]);
/// Digest, media type, size, when set.
type TagRow<'a> = (&'a [u8; 32], &'a str, u64, u64);

const ENTRIES: TableDefinition<'_, &[u8; 32], Row<'_>> = TableDefinition::new("entries");
const TAGS: TableDefinition<'_, &str, TagRow<'_>> = TableDefinition::new("tags");

/// The database's page cache, in bytes.
const CACHE: usize = 64 * 1024 * 1024;

/// How often publications are flushed to the disk.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// The most leases at a time: one per node and layer of a large fleet.
const MAX_LEASES: usize = 100_000;

#[derive(Clone)]
pub(crate) struct Directory(Arc<Shared>);

struct Shared {
    database: Database,
    /// Whether something waits to be flushed.
    unflushed: AtomicBool,
    leases: Leases,
    clock: Clock,
    closing: CancellationToken,
    max_entries: u64,
    max_waiting: usize,
    waiting: AtomicUsize,
}

/// A claim as the HTTP layer has checked it.
pub(crate) struct Asked {
    pub(crate) digest: Digest,
    pub(crate) node: String,
    pub(crate) wait: Duration,
    pub(crate) stale: bool,
}

impl Directory {
    pub(crate) fn open(
        path: Option<&Path>,
        config: &crate::Config,
        clock: Clock,
        closing: CancellationToken,
    ) -> Result<Self, DirectoryError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = match path {
            Some(path) => builder.create(path)?,
            None => builder.create_with_backend(InMemoryBackend::new())?,
        };
        let mut write = database.begin_write()?;
        write.set_quick_repair(true);
        write.open_table(ENTRIES)?.len()?;
        write.open_table(TAGS)?.len()?;
        write.commit()?;
        Ok(Self(Arc::new(Shared {
            database,
            unflushed: AtomicBool::new(false),
            leases: Leases::new(config.lease_ttl(), MAX_LEASES),
            clock,
            closing,
            max_entries: config.max_entries,
            max_waiting: config.max_waiting,
            waiting: AtomicUsize::new(0),
        })))
    }

    /// The torrent, or the lease, or word of who holds it; waits as asked.
    pub(crate) async fn claim(&self, asked: &Asked) -> Result<Claim, DirectoryError> {
        let shared = &self.0;
        let deadline = shared.clock.elapsed() + asked.wait;
        let id = format!("{:032x}", rand::random::<u128>());
        // Whoever says that the known torrent is of no use is not told of it before something has changed.
        let mut look = !asked.stale;
        let mut place = None;
        loop {
            if look && let Some(entry) = self.get(asked.digest).await? {
                return Ok(Claim::Known(entry));
            }
            let now = shared.clock.elapsed();
            let (by, until, end) = match shared.leases.claim(now, &asked.digest, &asked.node, id.clone()) {
                Claimed::Leased(id) => {
                    // Published between the look and the lease?
                    if look && let Some(entry) = self.get(asked.digest).await? {
                        shared.leases.release(&asked.digest, &asked.node, &id);
                        return Ok(Claim::Known(entry));
                    }
                    return Ok(Claim::Leased(shared.lease(id)));
                }
                Claimed::Held { by, until, end } => (by, until, end),
                Claimed::Full => return Err(DirectoryError::Full(MAX_LEASES as u64)),
            };
            let held = || {
                let left = until.saturating_sub(shared.clock.elapsed());
                Claim::Held { by: by.clone(), remaining_ms: millis(left) }
            };
            if now >= deadline {
                return Ok(held());
            }
            if place.is_none() {
                place = Waiting::enter(shared);
                if place.is_none() {
                    return Ok(held());
                }
            }
            // At `until` the lease is free, or was renewed meanwhile.
            let nap = until.min(deadline).saturating_sub(now);
            tokio::select! {
                () = end.over.cancelled() => look |= end.published.is_cancelled(),
                () = tokio::time::sleep(nap) => {}
                () = shared.closing.cancelled() => return Err(DirectoryError::Closing),
            }
        }
    }

    /// What is published of a blob.
    pub(crate) async fn get(&self, digest: Digest) -> Result<Option<Entry>, DirectoryError> {
        self.blocking(move |shared| {
            let table = shared.database.begin_read()?.open_table(ENTRIES)?;
            Ok(table.get(digest.as_bytes())?.map(|row| entry(&digest, row.value())))
        })
        .await
    }

    /// Checks and enters a blob's torrent, ends its lease and wakes who waits. A torrent that was there and is
    /// another gives way: the publisher has read the blob from its origin, and so the other is wrong.
    pub(crate) async fn publish(
        &self,
        digest: Digest,
        request: PublishRequest,
    ) -> Result<Entry, DirectoryError> {
        let entry = self
            .blocking(move |shared| {
                let mut new = read_torrent(&digest, request)?;
                let now = shared.clock.unix();
                let mut write = shared.database.begin_write()?;
                write.set_durability(Durability::None).map_err(redb::Error::from)?;
                {
                    let mut table = write.open_table(ENTRIES)?;
                    let old = table.get(digest.as_bytes())?.map(|row| entry(&digest, row.value()));
                    match old {
                        Some(old) if old.info == new.info => {
                            new.media_type = new.media_type.or(old.media_type.clone());
                            if new == old {
                                // Idempotent, without a write.
                                return Ok(new);
                            }
                        }
                        Some(old) => {
                            tracing::warn!(%digest, old = %old.info_hash, new = %new.info_hash,
                                "two torrents for one blob: the new one replaces the old one");
                        }
                        None if table.len()? >= shared.max_entries => {
                            return Err(DirectoryError::Full(shared.max_entries));
                        }
                        None => {}
                    }
                    let media_type = new.media_type.as_deref();
                    let row = (new.size, media_type, new.info_hash.as_bytes(), now, new.info.as_ref());
                    table.insert(digest.as_bytes(), row)?;
                }
                write.commit()?;
                shared.unflushed.store(true, Relaxed);
                Ok(new)
            })
            .await?;
        self.0.leases.settle(&digest);
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
        self.blocking(move |shared| {
            let updated = shared.clock.unix();
            let mut write = shared.database.begin_write()?;
            write.set_durability(Durability::None).map_err(redb::Error::from)?;
            {
                let mut table = write.open_table(TAGS)?;
                if table.get(tag.name.as_str())?.is_none() && table.len()? >= shared.max_entries {
                    return Err(DirectoryError::Full(shared.max_entries));
                }
                let row = (tag.digest.as_bytes(), tag.media_type.as_str(), tag.size, updated);
                table.insert(tag.name.as_str(), row)?;
            }
            write.commit()?;
            shared.unflushed.store(true, Relaxed);
            Ok(Tag { target: tag, updated, age: 0 })
        })
        .await
    }

    pub(crate) async fn tag(&self, name: String) -> Result<Option<Tag>, DirectoryError> {
        self.blocking(move |shared| {
            let table = shared.database.begin_read()?.open_table(TAGS)?;
            let now = shared.clock.unix();
            Ok(table.get(name.as_str())?.map(|row| {
                let (digest, media_type, size, updated) = row.value();
                let digest = Digest::from_bytes(*digest);
                let target =
                    TagRequest { name: name.clone(), digest, media_type: media_type.to_owned(), size };
                Tag { target, updated, age: now.saturating_sub(updated) }
            }))
        })
        .await
    }

    /// Flushes what waits for it, and forgets leases that ran out.
    pub(crate) async fn tend(&self) -> Result<(), DirectoryError> {
        self.0.leases.sweep(self.0.clock.elapsed());
        if !self.0.unflushed.swap(false, Relaxed) {
            return Ok(());
        }
        let flushed = self
            .blocking(|shared| {
                let mut write = shared.database.begin_write()?;
                write.set_quick_repair(true);
                Ok(write.commit()?)
            })
            .await;
        if flushed.is_err() {
            self.0.unflushed.store(true, Relaxed);
        }
        flushed
    }

    /// Blobs, and tags.
    pub(crate) async fn sizes(&self) -> Result<(u64, u64), DirectoryError> {
        self.blocking(|shared| {
            let read = shared.database.begin_read()?;
            Ok((read.open_table(ENTRIES)?.len()?, read.open_table(TAGS)?.len()?))
        })
        .await
    }

    pub(crate) fn leases(&self) -> usize {
        self.0.leases.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Relaxed)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Shared) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let shared = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || body(&shared)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(DirectoryError::Lost(error.to_string())),
        }
    }
}

impl Shared {
    fn lease(&self, lease: String) -> Lease {
        Lease { lease, ttl_ms: millis(self.leases.ttl()) }
    }
}

/// A claim's place among those that wait; given back when it is dropped, also with its connection.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(shared: &'a Shared) -> Option<Self> {
        if shared.waiting.fetch_add(1, Relaxed) < shared.max_waiting {
            Some(Self(&shared.waiting))
        } else {
            shared.waiting.fetch_sub(1, Relaxed);
            None
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The entry for a torrent, if it is the canonical one of the blob.
fn read_torrent(digest: &Digest, request: PublishRequest) -> Result<Entry, DirectoryError> {
    if request.info.len() > MAX_INFO {
        let length = request.info.len();
        return Err(DirectoryError::Invalid(format!(
            "the info dictionary has {length} bytes: at most {MAX_INFO} are allowed"
        )));
    }
    let torrent = Torrent::from_info(request.info)
        .map_err(|error| DirectoryError::Invalid(format!("the info dictionary cannot be used: {error}")))?;
    match &torrent.info.blob {
        Some(proof) if proof.digest() == *digest => Ok(Entry {
            digest: *digest,
            size: torrent.info.geometry.total(),
            media_type: request.media_type,
            info_hash: torrent.info_hash,
            info: torrent.info_bytes,
            complete: None,
            incomplete: None,
        }),
        Some(proof) => {
            let other = proof.digest();
            Err(DirectoryError::Invalid(format!("the info dictionary is that of {other}, not of {digest}")))
        }
        None => {
            Err(DirectoryError::Invalid("the info dictionary is not that of a blob's torrent".to_owned()))
        }
    }
}

fn entry(digest: &Digest, (size, media_type, info_hash, _, info): Row<'_>) -> Entry {
    Entry {
        digest: *digest,
        size,
        media_type: media_type.map(str::to_owned),
        info_hash: InfoHash::from_bytes(*info_hash),
        info: Bytes::copy_from_slice(info),
        complete: None,
        incomplete: None,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
