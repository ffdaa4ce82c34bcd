//! What lies on this host already, in stores of others: it is borrowed where it lies, and not fetched.
//!
//! A lender is a folder with blobs under their digests, as containerd's content store, an OCI image layout and the store
//! of another node are. Nothing is ever written there. Who may have what is borrowed is asked of its registry, as of all
//! that is not known to be public.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{node::LenderStatus, trace::SpanKind};
use hash::Digest;
use metainfo::{BlobTorrent, InfoHash};
use store::{Blob, BorrowError, IndexError, Store};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{breaker::Breaker, content::Inner, fetch::offer, flight::Flight};

/// How often it is looked what is new at the lenders.
const LOOK: Duration = Duration::from_secs(60);
/// How long a lender's disk may take to say whether a file is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How slowly a file may be read and hashed, in bytes per second.
const SLOWEST: u64 = 20_000_000;
/// For how long a lender that hangs is done without, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Most blobs of one lender.
const MOST: usize = 100_000;

/// Stores of others on this host.
pub(crate) struct Lenders {
    folders: Arc<[PathBuf]>,
    /// What stood in the way at each of them when it was looked last.
    errors: Mutex<Vec<Option<String>>>,
    /// One that hangs.
    hang: Breaker,
}

impl Lenders {
    pub(crate) fn new(folders: &[PathBuf]) -> Self {
        let errors = Mutex::new(vec![Some("nobody has looked there yet".to_owned()); folders.len()]);
        Self { folders: folders.into(), errors, hang: Breaker::new(1, PAUSE.0, PAUSE.1) }
    }

    /// The folders, and whether they can be read.
    pub(crate) fn status(&self) -> Vec<LenderStatus> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(folder, error): (&PathBuf, &Option<String>)| LenderStatus {
            folder: folder.display().to_string(),
            error: error.clone(),
        };
        self.folders.iter().zip(&*errors).map(of).collect()
    }

    /// Looks whether the folders can be read, and logs what is new about that.
    async fn look(&self) {
        let folders = self.folders.clone();
        let look = move || -> Vec<Option<String>> {
            let error = |folder: &PathBuf| fs::read_dir(blobs(folder)).err();
            folders.iter().map(|folder| error(folder).map(|error| error.to_string())).collect()
        };
        let found = self.waited(PATIENCE, look).await;
        let found = found.unwrap_or_else(|| vec![Some("reading there hangs".to_owned()); self.folders.len()]);
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        for ((folder, error), before) in self.folders.iter().zip(&found).zip(&*errors) {
            let shown = blobs(folder);
            match error {
                Some(error) if before.as_ref() != Some(error) => tracing::warn!(
                    "[store] borrow: {} cannot be read, so nothing is borrowed there: {error}",
                    shown.display()
                ),
                _ => {}
            }
        }
        *errors = found;
    }

    /// Where a blob lies, and its size.
    async fn find(&self, digest: Digest) -> Option<(PathBuf, u64)> {
        if self.folders.is_empty() {
            return None;
        }
        let folders = self.folders.clone();
        let look = move || {
            let places = folders.iter().flat_map(|folder| places(folder, &digest));
            places.into_iter().find_map(|path| {
                let meta = fs::metadata(&path).ok().filter(Metadata::is_file)?;
                Some((path, meta.len()))
            })
        };
        self.waited(PATIENCE, look).await.flatten()
    }

    /// Does something on the lenders' disks, within a time.
    async fn waited<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.hang.is_open() {
            return None;
        }
        let Ok(done) = timeout(patience, spawn_blocking(work)).await else {
            if self.hang.failed() {
                tracing::warn!("[store] borrow: reading there hangs; nothing is borrowed for a while");
            }
            return None;
        };
        self.hang.worked();
        done.ok()
    }

    /// Takes a blob that a lender has into the store, where it lies; `None` when the lender hangs.
    async fn take(
        &self,
        store: &Arc<Store>,
        digest: Digest,
        path: PathBuf,
        size: u64,
    ) -> Option<Result<Blob, BorrowError>> {
        let patience = PATIENCE + Duration::from_secs(size / SLOWEST);
        let store = store.clone();
        let taken = self.waited(patience, move || store.borrow(&digest, &path)).await?;
        match &taken {
            Ok(_) => {}
            // Next time, perhaps.
            Err(error @ (BorrowError::Busy(_) | BorrowError::Unsettled(_))) => tracing::debug!("{error}"),
            Err(error) => tracing::warn!("[store] borrow: {error}"),
        }
        Some(taken)
    }
}

impl Inner {
    /// A borrowed blob's file, where its owner has left it as it was. What has changed or gone is forgotten.
    pub(crate) async fn lent(&self, blob: Blob) -> Option<(Blob, Arc<File>)> {
        let (store, digest) = (self.store.clone(), blob.digest);
        match self.lenders.waited(PATIENCE, move || store.open_blob(&digest)).await? {
            Ok(file) => return Some((blob, Arc::new(file))),
            // So many hang already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::info!(%digest, "its owner has removed or changed it: {error}");
                self.give_back(digest, blob.info_hash).await;
            }
        }
        None
    }

    /// Forgets a borrowed blob.
    async fn give_back(&self, digest: Digest, info_hash: Option<InfoHash>) {
        let store = self.store.clone();
        if let Ok(Err(error)) = spawn_blocking(move || store.remove(&digest)).await {
            tracing::warn!(%digest, "what is no more lent cannot be forgotten: {error}");
        }
        if let Some(info_hash) = info_hash {
            self.engine.remove(&info_hash).await;
        }
    }

    /// Forgets what is no more lent: by a folder that is no more among the lenders, or as its owner has removed or changed
    /// it. Says whether anything is borrowed.
    async fn look_over(&self) -> bool {
        let (store, folders) = (self.store.clone(), self.lenders.folders.clone());
        let listed = spawn_blocking(move || lent(&store, &folders)).await;
        let Ok(Ok((kept, gone))) = listed else { return true };
        for (digest, info_hash) in gone {
            self.give_back(digest, info_hash).await;
        }
        let (any, store) = (!kept.is_empty(), self.store.clone());
        // Where too many hang already nothing is known.
        let gone = move |(digest, _): &(Digest, _)| {
            store.open_blob(digest).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
        };
        let look = move || kept.into_iter().filter(gone).collect::<Vec<_>>();
        for (digest, info_hash) in self.lenders.waited(LOOK, look).await.unwrap_or_default() {
            tracing::info!(%digest, "its owner has removed or changed it");
            self.give_back(digest, info_hash).await;
        }
        any
    }

    /// Borrows a flight's blob, of the size that it is said to have, for those who may have it; `None` when it is to be
    /// fetched.
    pub(crate) async fn borrow(
        self: &Arc<Self>,
        flight: &Flight,
        mut said: Option<u64>,
    ) -> Option<BlobTorrent> {
        let digest = flight.digest;
        let (path, size) = self.lenders.find(digest).await?;
        if flight.rights().is_none() && !flight.told().1 {
            // Of what lives in no listed registry nobody can say that.
            let repository = flight.repository().ok()?;
            let granted = self.may_have(&flight.asker, repository, digest, &flight.want).await.ok()?;
            flight.settle(granted.rights, granted.public);
            said = granted.size;
        }
        if said.is_some_and(|said| said != size) {
            return None;
        }
        let mut span = flight.tracer.span(SpanKind::Verify);
        span.note(format!("borrowed: {}", path.display()));
        // Clients are told what others say. What is not proven says nothing.
        flight.update(|progress| progress.size = said);
        let blob = self.lenders.take(&self.store, digest, path, size).await?.ok()?;
        flight.update(|progress| (progress.size, progress.borrowed) = (Some(size), true));
        if flight.told().1 {
            self.store.mark_public(&digest);
        }
        torrent_of(blob)
    }
}

/// Forgets what is no more lent, and offers to the fleet what the lenders have, as it comes to lie there; the latter only
/// where the directory has a token, as it is known of none of it that it is public. Ends with the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    // What is not what its name says is not hashed again and again.
    let mut refused = HashSet::new();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => inner.lenders.look().await,
        }
        if !inner.look_over().await && inner.lenders.folders.is_empty() {
            return;
        }
        if !inner.shares_private() {
            continue;
        }
        let (folders, store) = (inner.lenders.folders.clone(), inner.store.clone());
        let look = move || list(&folders, |digest| store.contains(digest).unwrap_or(true));
        // Many names in many folders; whatever hangs there does so for longer.
        let Some(found) = inner.lenders.waited(LOOK, look).await else { continue };
        refused.retain(|digest| found.iter().any(|(known, ..)| known == digest));
        let mut count = 0_u32;
        for (digest, path, size) in found {
            if inner.stop.is_cancelled() || refused.contains(&digest) {
                continue;
            }
            let blob = match inner.lenders.take(&inner.store, digest, path, size).await {
                Some(Ok(blob)) => blob,
                Some(Err(BorrowError::Digest { .. })) => {
                    refused.insert(digest);
                    continue;
                }
                _ => continue,
            };
            let (media_type, public) = (blob.media_type.clone(), blob.public);
            if let Some(torrent) = torrent_of(blob) {
                offer(&inner, &torrent, media_type, public, None).await;
                count += 1;
            }
        }
        if count > 0 {
            tracing::info!(blobs = count, "offered to the fleet what others on this host have");
        }
    }
}

/// A blob, and its torrent.
type Row = (Digest, Option<InfoHash>);

/// What is borrowed, from these folders and from others.
fn lent(store: &Store, folders: &[PathBuf]) -> Result<(Vec<Row>, Vec<Row>), IndexError> {
    let folders: Vec<PathBuf> =
        folders.iter().filter_map(|folder| std::path::absolute(folder).ok()).collect();
    let (mut kept, mut gone, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = store.list(after.as_ref(), Store::MAX_PAGE)?;
        let Some(last) = page.last() else { return Ok((kept, gone)) };
        after = Some(last.digest);
        for blob in page.into_iter().filter(|blob| blob.borrowed) {
            let lender = store.lender(&blob.digest);
            let known = lender.is_some_and(|file| folders.iter().any(|folder| file.starts_with(folder)));
            if known { &mut kept } else { &mut gone }.push((blob.digest, blob.info_hash));
        }
    }
}

fn torrent_of(blob: Blob) -> Option<BlobTorrent> {
    Some(BlobTorrent { digest: blob.digest, info_hash: blob.info_hash?, info_bytes: blob.info? })
}

fn blobs(folder: &Path) -> PathBuf {
    folder.join("blobs").join("sha256")
}

/// Where a blob may lie: as in layouts and containerd's store, and as in ours.
fn places(folder: &Path, digest: &Digest) -> [PathBuf; 2] {
    let (folder, hex) = (blobs(folder), digest.hex());
    let shard = folder.join(hex.get(..2).unwrap_or_default());
    [folder.join(&hex), shard.join(&hex)]
}

/// All blobs at the lenders but those that are here, each with its size.
fn list(folders: &[PathBuf], is_here: impl Fn(&Digest) -> bool) -> Vec<(Digest, PathBuf, u64)> {
    let mut found = Vec::new();
    let files = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(Result::ok).take(MOST).map(|entry| (entry.file_name(), entry.path()))
    };
    for (name, path) in folders.iter().flat_map(|folder| files(blobs(folder))) {
        // Our own store has a folder for each first byte.
        let inside = name.len() == 2;
        let files = if inside { files(path).collect() } else { vec![(name, path)] };
        for (name, path) in files {
            let digest = name.to_str().and_then(|name| Digest::from_hex(name).ok());
            let Some(digest) = digest.filter(|digest| !is_here(digest)) else { continue };
            if let Ok(meta) = fs::metadata(&path)
                && meta.is_file()
            {
                found.push((digest, path, meta.len()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blobs_are_found_in_layouts_and_in_stores_of_nodes_and_listed_but_for_those_that_are_here() {
        let (layout, node) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        let (first, second, none) = (Digest::of(b"first"), Digest::of(b"2"), Digest::of(b"none"));
        let there = [&places(layout.path(), &first)[0], &places(node.path(), &second)[1]].map(PathBuf::clone);
        for (path, data) in there.iter().zip(["first", "2"]) {
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, data).expect("written");
        }
        fs::write(blobs(layout.path()).join("no digest"), "x").expect("written");
        fs::create_dir(&places(layout.path(), &none)[0]).expect("made");
        let folders = [layout.path().join("gone"), layout.path().to_owned(), node.path().to_owned()];
        let lenders = Lenders::new(&folders);
        assert_eq!(lenders.find(first).await, Some((there[0].clone(), 5)));
        assert_eq!(lenders.find(second).await, Some((there[1].clone(), 1)));
        assert_eq!(lenders.find(none).await, None);
        let all = [(first, there[0].clone(), 5), (second, there[1].clone(), 1)];
        assert_eq!(list(&folders, |_| false), all);
        assert_eq!(list(&folders, |digest| *digest == first), all[1..]);
    }

    #[tokio::test]
    async fn it_is_told_which_folders_can_be_read() {
        let (layout, none) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        fs::create_dir_all(blobs(layout.path())).expect("made");
        let lenders = Lenders::new(&[layout.path().to_owned(), none.path().to_owned()]);
        let unread = || lenders.status().iter().map(|s| s.error.clone()).collect::<Vec<_>>();
        assert!(unread().iter().all(Option::is_some), "nothing is known yet");
        lenders.look().await;
        assert!(unread()[0].is_none() && unread()[1].as_ref().is_some_and(|e| e.contains("No such file")));
        assert_eq!(lenders.status()[1].folder, none.path().display().to_string());
        fs::create_dir_all(blobs(none.path())).expect("made");
        lenders.look().await;
        assert_eq!(unread(), [None, None]);
    }

    #[tokio::test]
    async fn a_lender_that_hangs_is_done_without_for_a_while() {
        let lenders = Lenders::new(&[PathBuf::from("/nowhere")]);
        assert_eq!(lenders.waited(LOOK, || true).await, Some(true));
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let hangs = lenders.waited(Duration::from_millis(10), move || held.recv().is_ok());
        assert_eq!(hangs.await, None);
        assert_eq!(lenders.waited(LOOK, || true).await, None, "it is not asked");
        drop(release);
    }
}
