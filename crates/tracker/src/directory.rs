//! The content directory: digest → torrent, tag → digest; and claims, which wait for a torrent or a lease.
//!
//! It has one of two homes, and what is here reads the same over both: a [`Table`] of this tracker alone, or a
//! [`InEtcd`], which any number of trackers share. A home answers a claim as things stand
//! ([`Taken`]); the waiting is done here.

mod disk;
mod in_etcd;
mod news;
mod records;
mod table;

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::directory::{
    Claim, Entry, Lease, MAX_CONTENT, MAX_INFO, PublishRequest, Renewal, Tag, TagClaim, TagRequest, turn_of,
};
use bytes::Bytes;
use hash::Digest;
use metainfo::Torrent;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Home},
    error::DirectoryError,
    http::line::Line,
    leases::End,
    places::Places,
    registered::Registered,
    server::Clock,
};
use in_etcd::InEtcd;
use table::Table;

/// How often publications are flushed to the disk.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How long a call may take beside its waiting; a little less than nodes give it.
const CALL: Duration = Duration::from_secs(7);

/// One of how many claims that wait may be a host's.
const WAITING_SHARE_OF_HOST: usize = 16;

#[derive(Clone)]
pub(crate) struct Directory(Arc<Shared>);

struct Shared {
    kept: Kept,
    clock: Clock,
    closing: CancellationToken,
    registered: Arc<Registered>,
    waiting: Places,
}

enum Kept {
    Table(Table),
    Etcd(InEtcd),
}

/// A claim as the HTTP layer has checked it.
pub(crate) struct Asked {
    pub(crate) digest: Digest,
    pub(crate) node: String,
    pub(crate) wait: Duration,
    pub(crate) stale: bool,
}

/// Whose claim it is.
#[derive(Debug)]
pub(crate) struct Caller {
    /// `None` where that is not known.
    pub(crate) host: Option<IpAddr>,
    /// Whether any number of its claims may wait.
    pub(crate) free: bool,
    /// By what it is seen whether the caller is still there.
    pub(crate) line: Option<Line>,
}

/// What a home makes of a claim now.
pub(crate) enum Taken {
    Known(Entry),
    Leased(Lease),
    Held {
        by: String,
        /// When the lease may be free without a word, by the tracker's clock.
        until: Duration,
        end: Arc<End>,
        /// By this is told what was set before and what after it.
        mark: i64,
    },
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) entries: u64,
    pub(crate) tags: u64,
    pub(crate) leases: u64,
}

impl Directory {
    /// Opens it where the configuration says. An etcd that cannot be reached is no failure: it may come.
    pub(crate) async fn open(
        config: &Config,
        clock: Clock,
        closing: CancellationToken,
        registered: Arc<Registered>,
    ) -> Result<Self, DirectoryError> {
        let kept = match &config.directory {
            Some(Home::Etcd(address)) => {
                Kept::Etcd(InEtcd::open(address, config, clock, &closing, registered.clone()).await?)
            }
            home => {
                let path = match home {
                    Some(Home::File(path)) => Some(path.clone()),
                    _ => None,
                };
                let config = config.clone();
                Kept::Table(blocking(move || Table::open(path.as_deref(), &config, clock)).await?)
            }
        };
        let waiting = Places::new(config.max_waiting, config.max_waiting.div_ceil(WAITING_SHARE_OF_HOST));
        Ok(Self(Arc::new(Shared { kept, clock, closing, registered, waiting })))
    }

    /// The torrent, or the lease, or word of who holds it; waits as asked.
    pub(crate) async fn claim(&self, asked: &Asked, caller: &Caller) -> Result<Claim, DirectoryError> {
        let shared = &self.0;
        let deadline = shared.clock.elapsed() + asked.wait;
        // Whoever says that the known torrent is of no use is not told of it before something has changed.
        let mut look = !asked.stale;
        let mut place = None;
        loop {
            let taken = self.take(asked.digest, &asked.node, look, deadline + CALL).await?;
            let (by, until, end) = match taken {
                Taken::Known(entry) => {
                    shared.registered.enter(&entry.digest, &entry.info_hash);
                    return Ok(Claim::Known(entry));
                }
                Taken::Leased(lease) => return Ok(Claim::Leased(lease)),
                Taken::Held { by, until, end, .. } => (by, until, end),
            };
            let now = shared.clock.elapsed();
            if place.is_none() && now < deadline {
                place = shared.waiting.enter(caller.host, caller.free).ok();
            }
            if place.is_none() || now >= deadline {
                return Ok(Claim::Held { by, remaining_ms: millis(until.saturating_sub(now)) });
            }
            // At `until` the lease is free, or was renewed meanwhile.
            let nap = until.min(deadline).saturating_sub(now);
            tokio::select! {
                () = end.over.cancelled() => look |= end.published.is_cancelled(),
                () = tokio::time::sleep(nap) => {}
                () = caller.leaves() => return Err(DirectoryError::Gone),
                () = shared.closing.cancelled() => return Err(DirectoryError::Closing),
            }
        }
    }

    /// The turn to resolve a tag, or what another who had it resolves within `wait`. Who waits does so once: when the
    /// other could not tell it, there is no use in trying one after the other.
    pub(crate) async fn claim_tag(
        &self,
        name: String,
        node: &str,
        wait: Duration,
        caller: &Caller,
    ) -> Result<TagClaim, DirectoryError> {
        let shared = &self.0;
        let begun = shared.clock.elapsed();
        let (until, end, mark) = match self.take(turn_of(&name), node, false, begun + CALL).await? {
            Taken::Leased(lease) => return Ok(TagClaim::Leased(lease)),
            Taken::Held { until, end, mark, .. } => (until, end, mark),
            // No blob has this digest.
            Taken::Known(_) => return Ok(TagClaim::Held),
        };
        let Ok(_place) = shared.waiting.enter(caller.host, caller.free) else { return Ok(TagClaim::Held) };
        tokio::select! {
            () = end.over.cancelled() => {}
            () = tokio::time::sleep(until.min(begun + wait).saturating_sub(shared.clock.elapsed())) => {}
            () = caller.leaves() => return Err(DirectoryError::Gone),
            () = shared.closing.cancelled() => return Err(DirectoryError::Closing),
        }
        // What was set before this claim came is what it does not want.
        let told = match &shared.kept {
            Kept::Table(table) if end.tags() > mark => table.tag(name).await?,
            Kept::Table(_) => None,
            Kept::Etcd(etcd) => etcd.tag_since(name, mark, self.soon()).await?,
        };
        Ok(told.map_or(TagClaim::Held, TagClaim::Known))
    }

    /// Makes what can be made of a claim now.
    async fn take(
        &self,
        digest: Digest,
        node: &str,
        look: bool,
        deadline: Duration,
    ) -> Result<Taken, DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => table.claim(digest, node, look).await,
            Kept::Etcd(etcd) => etcd.claim(digest, node, look, deadline).await,
        }
    }

    /// What is published of a blob.
    pub(crate) async fn get(&self, digest: Digest) -> Result<Option<Entry>, DirectoryError> {
        let entry = match &self.0.kept {
            Kept::Table(table) => table.get(digest).await?,
            Kept::Etcd(etcd) => etcd.get(digest, self.soon()).await?,
        };
        if let Some(entry) = &entry {
            self.0.registered.enter(&digest, &entry.info_hash);
        }
        Ok(entry)
    }

    /// Reads which torrents there are.
    pub(crate) async fn read_registered(&self, registered: &Arc<Registered>) -> Result<(), DirectoryError> {
        registered.begin();
        match &self.0.kept {
            Kept::Table(table) => table.read_registered(registered.clone()).await?,
            Kept::Etcd(etcd) => etcd.read_registered(registered, || self.soon()).await?,
        }
        registered.end();
        Ok(())
    }

    /// Checks and enters a blob's torrent, ends its lease and wakes who waits. A torrent that was there and is
    /// another gives way: the publisher has read the blob from its origin, and so the other is wrong.
    pub(crate) async fn publish(
        &self,
        digest: Digest,
        request: PublishRequest,
    ) -> Result<Entry, DirectoryError> {
        let PublishRequest { info, media_type, public, content, .. } = request;
        let read = move || {
            let entry = Entry { media_type, public, ..read_torrent(&digest, info)? };
            with_content(entry, content)
        };
        let new = blocking(move || read().map_err(DirectoryError::Invalid)).await?;
        // Before anybody learns of it, so that it may be announced by then.
        let (registered, info_hash) = (&self.0.registered, new.info_hash);
        let before = registered.enter(&digest, &info_hash);
        let published = match &self.0.kept {
            Kept::Table(table) => table.publish(new).await,
            Kept::Etcd(etcd) => etcd.publish(new, self.soon()).await,
        };
        if published.is_err() {
            match before {
                Some(before) => {
                    registered.enter(&digest, &before);
                }
                None => registered.leave(&digest),
            }
        }
        published
    }

    pub(crate) async fn renew(
        &self,
        digest: Digest,
        node: &str,
        lease: String,
    ) -> Result<Renewal, DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => table.renew(digest, node, lease).await,
            Kept::Etcd(etcd) => etcd.renew(digest, node, &lease, self.soon()).await,
        }
    }

    pub(crate) async fn release(
        &self,
        digest: &Digest,
        node: &str,
        lease: &str,
    ) -> Result<(), DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => {
                table.release(digest, node, lease);
                Ok(())
            }
            Kept::Etcd(etcd) => etcd.release(digest, node, lease, self.soon()).await,
        }
    }

    pub(crate) async fn set_tag(&self, tag: TagRequest) -> Result<Tag, DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => table.set_tag(tag).await,
            Kept::Etcd(etcd) => etcd.set_tag(tag, self.soon()).await,
        }
    }

    pub(crate) async fn tag(&self, name: String) -> Result<Option<Tag>, DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => table.tag(name).await,
            Kept::Etcd(etcd) => etcd.tag(name, self.soon()).await,
        }
    }

    /// What is to be done every [`FLUSH_EVERY`].
    pub(crate) async fn tend(&self) -> Result<(), DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => table.tend().await,
            Kept::Etcd(etcd) => {
                etcd.tend();
                Ok(())
            }
        }
    }

    pub(crate) async fn sizes(&self) -> Result<Sizes, DirectoryError> {
        match &self.0.kept {
            Kept::Table(table) => table.sizes().await,
            Kept::Etcd(etcd) => Ok(etcd.sizes(self.soon()).await),
        }
    }

    /// Why nothing can be published, where that is so since the disk fails or etcd cannot be reached.
    pub(crate) fn failing(&self) -> Option<String> {
        match &self.0.kept {
            Kept::Table(table) => table.failing(),
            Kept::Etcd(etcd) => {
                let unreachable = || "etcd cannot be reached".to_owned();
                (!etcd.stats().reachable).then(unreachable)
            }
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.taken()
    }

    /// What is counted of etcd, where it is the home.
    pub(crate) fn etcd(&self) -> Option<etcd::Stats> {
        match &self.0.kept {
            Kept::Table(_) => None,
            Kept::Etcd(etcd) => Some(etcd.stats()),
        }
    }

    /// When a call that begins now must have ended.
    fn soon(&self) -> Duration {
        self.0.clock.elapsed() + CALL
    }
}

impl Caller {
    async fn leaves(&self) {
        match &self.line {
            Some(line) => line.hung_up().await,
            None => std::future::pending().await,
        }
    }
}

/// The entry for a torrent, if it is the canonical one of the blob; else what is wrong. Hashes: slow.
fn read_torrent(digest: &Digest, info: Bytes) -> Result<Entry, String> {
    if info.len() > MAX_INFO {
        let length = info.len();
        return Err(format!("the info dictionary has {length} bytes: at most {MAX_INFO} are allowed"));
    }
    let torrent =
        Torrent::from_info(info).map_err(|error| format!("the info dictionary cannot be used: {error}"))?;
    match &torrent.info.blob {
        Some(proof) if proof.digest() == *digest => Ok(Entry {
            digest: *digest,
            size: torrent.info.geometry.total(),
            media_type: None,
            info_hash: torrent.info_hash,
            info: torrent.info_bytes,
            public: false,
            content: Bytes::new(),
            complete: None,
            incomplete: None,
        }),
        Some(proof) => {
            let other = proof.digest();
            Err(format!("the info dictionary is that of {other}, not of {digest}"))
        }
        None => Err("the info dictionary is not that of a blob's torrent".to_owned()),
    }
}

/// The entry with all of its blob, if it is that.
fn with_content(entry: Entry, content: Bytes) -> Result<Entry, String> {
    if !content.is_empty() && (content.len() > MAX_CONTENT || Digest::of(&content) != entry.digest) {
        let length = content.len();
        return Err(format!("the content has {length} bytes and is not the blob of at most {MAX_CONTENT}"));
    }
    Ok(Entry { content, ..entry })
}

/// What a publication leaves in the directory, over what was there.
fn merged(mut new: Entry, old: Option<&Entry>) -> Entry {
    match old {
        Some(old) if old.info == new.info => {
            new.media_type = new.media_type.or(old.media_type.clone());
            new.public |= old.public;
            if new.content.is_empty() {
                new.content = old.content.clone();
            }
        }
        Some(old) => {
            tracing::warn!(digest = %new.digest, old = %old.info_hash, new = %new.info_hash,
                "two torrents for one blob: the new one replaces the old one");
        }
        None => {}
    }
    new
}

async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
) -> Result<T, DirectoryError> {
    match tokio::task::spawn_blocking(body).await {
        Ok(outcome) => outcome,
        Err(error) => Err(DirectoryError::Lost(error.to_string())),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
