//! The directory of a fleet with several trackers, in etcd. Nothing is kept here that etcd does not know: any tracker
//! answers any call, and one that dies takes nothing with it.
//!
//! A claim reads what there is of the blob at one moment. Where there is nothing it makes an etcd lease and puts its
//! name under it, if nothing has changed since. The etcd lease is the right's life: a renewal keeps it alive, a
//! release revokes it, and when it runs out etcd removes the name, which wakes who waits through the watch.
//!
//! A call to etcd may arrive more than once, so each is written to do no harm twice.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::directory::{Entry, Lease, Renewal, Tag, TagRequest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use etcd::{
    Address, Change, Client, Compare, Event, Found, KeyValue, Operation, Password, Range, Settings,
    Transaction,
};
use hash::Digest;
use metainfo::InfoHash;
use tokio_util::sync::CancellationToken;

use super::{
    CALL, Sizes, Taken, blocking, merged, millis,
    news::News,
    read_torrent,
    records::{self, About, Blob, Holder, Keys, MAX_PARTS, PART, Pointer},
    with_content,
};
use crate::{config::Config, error::DirectoryError, open_ordinary, registered::Registered, server::Clock};

/// How often a claim or renewal begins again since the lease changed hands under it.
const ROUNDS: usize = 20;

/// How old the count of entries may be; it costs etcd a walk over all keys.
const COUNT_AGE: Duration = Duration::from_secs(60);

/// How many blobs are read at once where all are; a thousand have 300 KiB.
const PAGE: usize = 1000;

/// The longest password file and certificate file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Clone)]
pub(crate) struct InEtcd(Arc<Shared>);

struct Shared {
    client: Client,
    keys: Keys,
    ttl: Duration,
    clock: Clock,
    news: News,
    registered: Arc<Registered>,
    max_entries: u64,
    counted: Mutex<Counted>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    /// When it is to be counted again.
    until: Duration,
    sizes: Sizes,
}

/// What there is of a blob at one moment.
struct State {
    entry: Option<Entry>,
    /// The revision at which the entry was changed last; 0 where there is none.
    entry_revision: i64,
    holder: Option<(Holder, i64)>,
    lease_revision: i64,
    /// Of all that stands in etcd.
    revision: i64,
}

impl InEtcd {
    pub(crate) async fn open(
        address: &Address,
        config: &Config,
        clock: Clock,
        closing: &CancellationToken,
        registered: Arc<Registered>,
    ) -> Result<Self, DirectoryError> {
        let read = |path: Option<PathBuf>| blocking(move || path.map(|path| file(&path)).transpose());
        let authority = read(config.directory_ca.clone()).await?;
        let password = match read(config.directory_password_file.clone()).await? {
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Some(Password::new(text.trim_end_matches(['\r', '\n'])))
            }
            None => config.directory_password.clone(),
        };
        let settings = Settings { address: address.clone(), password, authority };
        let client = Client::new(settings).map_err(DirectoryError::Setup)?;
        let home = Self(Arc::new(Shared {
            client,
            keys: Keys::new(address.prefix()),
            ttl: config.lease_ttl(),
            clock,
            news: News::default(),
            registered,
            max_entries: config.max_entries,
            counted: Mutex::default(),
        }));
        match home.0.count(clock.elapsed() + CALL).await {
            // An etcd that is down is told of by the client; the tracker is of use without it, and it may come.
            Err(DirectoryError::Etcd(error)) if error.is_transient() => {}
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        tokio::spawn(home.clone().listen(closing.clone()));
        Ok(home)
    }

    /// Follows what happens in etcd, for those who wait and for what is remembered.
    async fn listen(self, closing: CancellationToken) {
        let shared = &self.0;
        let mut watch = shared.client.watch(shared.keys.watched());
        loop {
            let change = tokio::select! {
                change = watch.next() => change,
                () = closing.cancelled() => return,
            };
            // Before those who wait are told, so that they may announce what they learn of.
            shared.register(&change);
            shared.news.hear(&shared.keys, &change);
        }
    }

    /// Reads which torrents there are, a page at a time.
    pub(crate) async fn read_registered(
        &self,
        to: &Registered,
        end: impl Fn() -> Duration,
    ) -> Result<(), DirectoryError> {
        let shared = &self.0;
        let mut after = None;
        loop {
            let get = Operation::Get(shared.keys.blobs(after.as_deref()).at_most(PAGE));
            let mut reply = shared.transact(&Transaction::read(vec![get]), end()).await?;
            let rows = reply.found.pop().unwrap_or_default().keys;
            for row in &rows {
                if let Some((digest, info_hash)) = shared.torrent_of(row) {
                    to.found(&digest, &info_hash);
                }
            }
            match rows.last() {
                Some(last) if rows.len() >= PAGE => {
                    after = Some(String::from_utf8_lossy(&last.key).into_owned());
                }
                _ => return Ok(()),
            }
        }
    }

    pub(crate) async fn claim(
        &self,
        digest: Digest,
        node: &str,
        look: bool,
        end: Duration,
    ) -> Result<Taken, DirectoryError> {
        let shared = &self.0;
        // Before anything is read, so that no change after it goes unheard.
        let (over, turns) = shared.news.at(&digest);
        if look && let Some(entry) = shared.news.cached(&digest) {
            return Ok(Taken::Known(entry));
        }
        let mut turn = None;
        for _ in 0..ROUNDS {
            let state = shared.read(digest, end).await?;
            if look && let Some(entry) = state.entry {
                return Ok(Taken::Known(entry));
            }
            match &state.holder {
                Some((holder, _)) if holder.node != node => {
                    let until = shared.clock.elapsed() + shared.ttl;
                    let (by, mark) = (holder.node.clone(), state.revision);
                    return Ok(Taken::Held { by, until, end: over, mark });
                }
                Some((holder, id)) => match shared.keep_alive(*id, end).await? {
                    Some(ttl) => return Ok(Taken::Leased(lease(&holder.lease, ttl))),
                    // It has just run out.
                    None => continue,
                },
                None => {}
            }
            if turn.is_none() {
                if let Ok(permit) = turns.try_acquire() {
                    turn = Some(permit);
                } else {
                    // Another of this tracker's claims is at it, and likely to get it.
                    turn = tokio::time::timeout(shared.left(end), turns.acquire())
                        .await
                        .ok()
                        .and_then(Result::ok);
                    continue;
                }
            }
            if let Some(lease) = shared.take(&digest, node, &state, end).await? {
                return Ok(Taken::Leased(lease));
            }
        }
        Err(DirectoryError::Contended(digest))
    }

    pub(crate) async fn get(&self, digest: Digest, end: Duration) -> Result<Option<Entry>, DirectoryError> {
        match self.0.news.cached(&digest) {
            Some(entry) => Ok(Some(entry)),
            None => Ok(self.0.read(digest, end).await?.entry),
        }
    }

    pub(crate) async fn publish(&self, new: Entry, end: Duration) -> Result<Entry, DirectoryError> {
        let (shared, digest) = (&self.0, new.digest);
        let state = shared.read(digest, end).await?;
        let is_new = state.entry_revision == 0;
        if is_new && shared.sizes(end).await.entries >= shared.max_entries {
            return Err(DirectoryError::Full(shared.max_entries));
        }
        let new = merged(new, state.entry.as_ref());
        if state.entry.as_ref() == Some(&new) && state.lease_revision == 0 {
            // Idempotent, without a write.
            return Ok(new);
        }
        let torrent_is_there = state.entry.is_some_and(|old| old.info == new.info);
        let mut parts: Vec<_> = new.info.chunks(PART).enumerate().collect();
        if torrent_is_there {
            parts.clear();
        }
        let put = |(number, part): (usize, &[u8])| Operation::Put {
            key: shared.keys.part(&digest, number),
            value: part.to_vec(),
            lease: 0,
        };
        let last = parts.pop().map(put);
        for part in parts {
            let put = Transaction { success: vec![put(part)], ..Transaction::default() };
            shared.transact(&put, end).await?;
        }
        // The entry comes before the lease's end: those who hear of both look for the entry first.
        let value = records::write(&Blob::of(&new));
        let mut success = vec![Operation::Put { key: shared.keys.blob(&digest), value, lease: 0 }];
        success.extend(last);
        success.push(Operation::Delete(Range::key(shared.keys.lease(&digest))));
        shared.transact(&Transaction { success, ..Transaction::default() }, end).await?;
        shared.news.published(&digest);
        if is_new {
            shared.counted.lock().unwrap_or_else(PoisonError::into_inner).sizes.entries += 1;
        }
        if let Some((_, id)) = state.holder {
            shared.revoke(id);
        }
        Ok(new)
    }

    pub(crate) async fn renew(
        &self,
        digest: Digest,
        node: &str,
        lease_name: &str,
        end: Duration,
    ) -> Result<Renewal, DirectoryError> {
        let shared = &self.0;
        for _ in 0..ROUNDS {
            let state = shared.read(digest, end).await?;
            match &state.holder {
                Some((holder, id)) if holder.node == node && holder.lease == lease_name => {
                    match shared.keep_alive(*id, end).await? {
                        Some(ttl) => return Ok(Renewal::Leased(lease(&holder.lease, ttl))),
                        None => continue,
                    }
                }
                _ if state.entry.is_some() => return Ok(Renewal::Known),
                Some((holder, _)) => return Ok(Renewal::Lost { by: holder.node.clone() }),
                None => {}
            }
            // It ran out, and nobody else has it.
            if let Some(lease) = shared.take(&digest, node, &state, end).await? {
                return Ok(Renewal::Leased(lease));
            }
        }
        Err(DirectoryError::Contended(digest))
    }

    pub(crate) async fn release(
        &self,
        digest: &Digest,
        node: &str,
        lease: &str,
        end: Duration,
    ) -> Result<(), DirectoryError> {
        let key = self.0.keys.lease(digest);
        let value = records::write(&Holder::named(node, lease));
        let transaction = Transaction {
            compare: vec![Compare::Is(key.clone(), value)],
            success: vec![Operation::Delete(Range::key(key))],
            failure: vec![],
        };
        let released = self.0.transact(&transaction, end).await?.succeeded;
        // Only what the name was found under: etcd may have other leases.
        if released && let Ok(id) = i64::from_str_radix(lease, 16) {
            self.0.revoke(id);
        }
        Ok(())
    }

    pub(crate) async fn set_tag(&self, tag: TagRequest, end: Duration) -> Result<Tag, DirectoryError> {
        let shared = &self.0;
        let key = shared.keys.tag(&tag.name);
        let updated = shared.clock.unix();
        let value = records::write(&Pointer::to(&tag, updated));
        let put = Operation::Put { key: key.clone(), value, lease: 0 };
        if shared.sizes(end).await.tags >= shared.max_entries {
            let there =
                shared.transact(&Transaction::read(vec![Operation::Count(Range::key(key))]), end).await?;
            if there.found.first().is_none_or(|found| found.count == 0) {
                return Err(DirectoryError::Full(shared.max_entries));
            }
        }
        shared.transact(&Transaction { success: vec![put], ..Transaction::default() }, end).await?;
        Ok(Tag { target: tag, updated, age: 0 })
    }

    pub(crate) async fn tag(&self, name: String, end: Duration) -> Result<Option<Tag>, DirectoryError> {
        self.tag_since(name, 0, end).await
    }

    /// The tag, if it was set after a revision of etcd: trackers' clocks differ.
    pub(crate) async fn tag_since(
        &self,
        name: String,
        revision: i64,
        end: Duration,
    ) -> Result<Option<Tag>, DirectoryError> {
        let shared = &self.0;
        let get = Operation::Get(Range::key(shared.keys.tag(&name)));
        let reply = shared.transact(&Transaction::read(vec![get]), end).await?;
        let row = reply.found.first().and_then(|found| found.keys.first());
        let Some(row) = row.filter(|row| row.mod_revision > revision) else { return Ok(None) };
        let read = records::read::<Pointer>(&row.value).and_then(|pointer| {
            let digest = pointer.digest.parse::<Digest>().map_err(|error| error.to_string())?;
            Ok((pointer, digest))
        });
        let (pointer, digest) = match read {
            Ok(read) => read,
            Err(why) => {
                tracing::warn!(tag = name, "the tag in etcd is ignored: {why}");
                return Ok(None);
            }
        };
        let Pointer { media_type, size, updated, .. } = pointer;
        let age = shared.clock.unix().saturating_sub(updated);
        Ok(Some(Tag { target: TagRequest { name, digest, media_type, size }, updated, age }))
    }

    pub(crate) fn tend(&self) {
        self.0.news.sweep();
    }

    /// As last counted, where etcd does not answer.
    pub(crate) async fn sizes(&self, end: Duration) -> Sizes {
        self.0.sizes(end).await
    }

    pub(crate) fn stats(&self) -> etcd::Stats {
        self.0.client.stats()
    }
}

impl Shared {
    /// Keeps what is registered as the watch tells.
    fn register(&self, change: &Change) {
        if !self.registered.is_wanted() {
            return;
        }
        match change {
            // Anything may have happened.
            Change::Begins(_) => self.registered.stale.notify_one(),
            Change::Resumes | Change::Breaks => {}
            Change::Events(events) => {
                for event in events {
                    let Some(About::Blob(digest)) = self.keys.about(event.key()) else { continue };
                    let torrent = match event {
                        Event::Put(row) => self.torrent_of(row),
                        Event::Delete { .. } => None,
                    };
                    match torrent {
                        Some((digest, info_hash)) => {
                            self.registered.enter(&digest, &info_hash);
                        }
                        None => self.registered.leave(&digest),
                    }
                }
            }
        }
    }

    /// The blob and the torrent that a row names.
    fn torrent_of(&self, row: &KeyValue) -> Option<(Digest, InfoHash)> {
        let Some(About::Blob(digest)) = self.keys.about(&row.key) else { return None };
        let blob: Blob = records::read(&row.value).ok()?;
        Some((digest, blob.info_hash.parse().ok()?))
    }

    /// Everything about a blob.
    async fn read(&self, digest: Digest, end: Duration) -> Result<State, DirectoryError> {
        let parts = Range::below(&self.keys.torrent(&digest)).at_most(MAX_PARTS);
        let reads = vec![
            Operation::Get(Range::key(self.keys.blob(&digest))),
            Operation::Get(Range::key(self.keys.lease(&digest))),
            Operation::Get(parts),
        ];
        let reply = self.transact(&Transaction::read(reads), end).await?;
        let mut found = reply.found.into_iter().map(|Found { keys, .. }| keys);
        let mut next = || found.next().unwrap_or_default();
        let (blob, lease, parts) = (next().into_iter().next(), next().into_iter().next(), next());
        let revision = |row: &Option<KeyValue>| row.as_ref().map_or(0, |row| row.mod_revision);
        let (entry_revision, lease_revision) = (revision(&blob), revision(&lease));
        let entry = match blob {
            None => None,
            Some(row) => match blocking(move || Ok(read_entry(&digest, &row, &parts))).await? {
                Ok(entry) => {
                    self.news.remember(&entry, reply.revision);
                    Some(entry)
                }
                Err(why) => {
                    if self.news.tell_of(&digest, entry_revision) {
                        tracing::warn!(%digest, "the entry in etcd is ignored: {why}");
                    }
                    None
                }
            },
        };
        let holder = lease.and_then(|row| match read_holder(&row) {
            Ok(holder) => Some((holder, row.lease)),
            Err(why) => {
                tracing::warn!(%digest, "the lease in etcd is ignored: {why}");
                None
            }
        });
        Ok(State { entry, entry_revision, holder, lease_revision, revision: reply.revision })
    }

    /// Gets the lease of a blob if nothing has changed since it was read.
    async fn take(
        &self,
        digest: &Digest,
        node: &str,
        state: &State,
        end: Duration,
    ) -> Result<Option<Lease>, DirectoryError> {
        // 63 bits of chance: positive, and never 0, which etcd would replace by a number of its own.
        let id = (rand::random::<i64>() & i64::MAX).max(1);
        let ttl = self.client.grant(id, self.ttl, self.left(end)).await.map_err(DirectoryError::Etcd)?;
        let (holder, key) = (Holder::new(node, id), self.keys.lease(digest));
        let put = Operation::Put { key: key.clone(), value: records::write(&holder), lease: id };
        let transaction = Transaction {
            compare: vec![
                Compare::ChangedAt(self.keys.blob(digest), state.entry_revision),
                Compare::ChangedAt(key.clone(), state.lease_revision),
            ],
            success: vec![put],
            failure: vec![Operation::Get(Range::key(key))],
        };
        let outcome = self.transact(&transaction, end).await;
        let taken = match &outcome {
            // When it failed, it may be since it had arrived before.
            Ok(reply) => {
                let mut rows = reply.found.iter().flat_map(|found| &found.keys);
                reply.succeeded || rows.any(|row| row.lease == id)
            }
            Err(_) => false,
        };
        if taken {
            return Ok(Some(lease(&holder.lease, ttl)));
        }
        self.revoke(id);
        match outcome {
            // The grant was for nothing: it took too long.
            Ok(_) | Err(DirectoryError::Etcd(etcd::Error::NoLease(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn keep_alive(&self, id: i64, end: Duration) -> Result<Option<Duration>, DirectoryError> {
        self.client.keep_alive(id, self.left(end)).await.map_err(DirectoryError::Etcd)
    }

    /// Ends an etcd lease that is of no more use, some time soon; else it runs out.
    fn revoke(&self, id: i64) {
        let client = self.client.clone();
        tokio::spawn(async move {
            if let Err(error) = client.revoke(id, CALL).await {
                tracing::debug!(%error, "a lease is left to run out");
            }
        });
    }

    async fn transact(
        &self,
        transaction: &Transaction,
        end: Duration,
    ) -> Result<etcd::Reply, DirectoryError> {
        self.client.transact(transaction, self.left(end)).await.map_err(DirectoryError::Etcd)
    }

    async fn sizes(&self, end: Duration) -> Sizes {
        let old = {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.elapsed();
            let old = now >= counted.until;
            if old {
                // Nobody else needs to, meanwhile.
                counted.until = now + COUNT_AGE;
            }
            old
        };
        if old && let Err(error) = self.count(end).await {
            tracing::debug!(%error, "what is in etcd was not counted");
        }
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).sizes
    }

    async fn count(&self, end: Duration) -> Result<(), DirectoryError> {
        let counts = self.keys.all().map(Operation::Count).into();
        let reply = self.transact(&Transaction::read(counts), end).await?;
        let mut counts = reply.found.iter().map(|found| found.count.unsigned_abs());
        let mut next = || counts.next().unwrap_or_default();
        let sizes = Sizes { entries: next(), tags: next(), leases: next() };
        let until = self.clock.elapsed() + COUNT_AGE;
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Counted { until, sizes };
        Ok(())
    }

    fn left(&self, end: Duration) -> Duration {
        end.saturating_sub(self.clock.elapsed())
    }
}

fn lease(name: &str, ttl: Duration) -> Lease {
    Lease { lease: name.to_owned(), ttl_ms: millis(ttl) }
}

/// The holder, if the row is one of ours, which ends by itself.
fn read_holder(row: &KeyValue) -> Result<Holder, String> {
    let holder: Holder = records::read(&row.value)?;
    if row.lease <= 0 || holder != Holder::new(&holder.node, row.lease) {
        return Err("it is not bound to the etcd lease that it names".to_owned());
    }
    Ok(holder)
}

/// The entry, if its torrent is the blob's and what is said of it is true. Hashes: slow.
fn read_entry(digest: &Digest, row: &KeyValue, parts: &[KeyValue]) -> Result<Entry, String> {
    let blob: Blob = records::read(&row.value)?;
    let mut info = BytesMut::new();
    // There may be more of a longer one that was there before.
    for part in parts.iter().take(blob.info_length.div_ceil(PART)) {
        info.extend_from_slice(&part.value);
    }
    if info.len() != blob.info_length {
        return Err(format!("its torrent has {} bytes of {}", info.len(), blob.info_length));
    }
    let entry = read_torrent(digest, info.freeze())?;
    if entry.info_hash.to_string() != blob.info_hash || entry.size != blob.size {
        return Err(format!("its torrent is {} over {} bytes", entry.info_hash, entry.size));
    }
    let content = STANDARD.decode(&blob.content).map_err(|error| format!("its content: {error}"))?;
    with_content(Entry { media_type: blob.media_type, public: blob.public, ..entry }, content.into())
}

fn file(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    let unusable = |error| DirectoryError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let read = open_ordinary(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    if read.map_err(unusable)? as u64 > MAX_FILE {
        return Err(unusable(io::Error::other("it is larger than a certificate or a password is")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use metainfo::BlobBuilder;

    use super::*;

    fn row(value: &[u8], lease: i64) -> KeyValue {
        KeyValue { key: Bytes::new(), value: Bytes::copy_from_slice(value), mod_revision: 1, lease }
    }

    #[test]
    fn an_entry_is_taken_only_with_the_torrent_that_it_says() {
        let mut builder = BlobBuilder::new(5).expect("small");
        builder.update(b"hello");
        let torrent = builder.finish().expect("whole");
        let digest = torrent.digest;
        let entry = read_torrent(&digest, torrent.info_bytes.clone()).expect("good");
        let entry =
            Entry { media_type: Some("m".to_owned()), public: true, content: "hello".into(), ..entry };
        let value = records::write(&Blob::of(&entry));
        let part = row(&torrent.info_bytes, 0);
        let of = |value: &[u8], parts: &[KeyValue]| read_entry(&digest, &row(value, 0), parts);
        assert_eq!(of(&value, std::slice::from_ref(&part)), Ok(entry.clone()));
        assert_eq!(of(&value, &[part.clone(), row(b"of before", 0)]), Ok(entry.clone()));
        assert!(of(&value, &[]).is_err());
        assert!(of(&value, &[row(&vec![b'd'; torrent.info_bytes.len()], 0)]).is_err());
        assert!(read_entry(&Digest::of(b"x"), &row(&value, 0), std::slice::from_ref(&part)).is_err());
        let lie = records::write(&Blob::of(&Entry { content: "hullo".into(), ..entry.clone() }));
        assert!(of(&lie, std::slice::from_ref(&part)).is_err());
        let lie = records::write(&Blob::of(&Entry { size: 6, ..entry.clone() }));
        assert!(of(&lie, std::slice::from_ref(&part)).is_err());
        let info_hash = metainfo::InfoHash::from_bytes([0; 20]);
        let lie = records::write(&Blob::of(&Entry { info_hash, ..entry }));
        assert!(of(&lie, &[part]).is_err());
    }

    #[test]
    fn a_lease_that_would_not_end_is_none() {
        let value = records::write(&Holder::new("a", 7));
        assert!(read_holder(&row(&value, 7)).is_ok());
        assert!(read_holder(&row(&value, 0)).is_err());
        assert!(read_holder(&row(&value, 8)).is_err());
        assert!(read_holder(&row(b"{}", 7)).is_err());
    }
}
