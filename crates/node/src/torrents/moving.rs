//! An ordinary torrent from its start to its stop: metadata, check, download, seeding.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use engine::{AddError, Layout, NoLog, Torrent, TorrentSpec, TorrentState};
use metainfo::Magnet;
use swarm::PieceSet;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    content::Inner,
    place::{self, Log, PlaceError},
    torrents::{Entry, Phase, What, note::stamps},
};

/// For how long peers are asked for a magnet link's torrent at a time, and the pause between.
const METADATA: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(5));
/// How often, and after what pause, a folder is tried again that a torrent just stopped still holds.
const HELD: (u32, Duration) = (50, Duration::from_millis(100));

impl Inner {
    /// Starts the task that moves a torrent. The caller has its turn, and no task of it runs.
    pub(super) fn begin(self: &Arc<Self>, entry: &Arc<Entry>, check: bool) {
        let stop = self.stop.child_token();
        let (inner, for_task, stopped) = (self.clone(), entry.clone(), stop.clone());
        let task = self.tasks.spawn(async move {
            let outcome = inner.move_torrent(&for_task, check, &stopped).await;
            let mut state = for_task.lock();
            if let Phase::Running(torrent) = &state.phase {
                let status = torrent.status().borrow().clone();
                state.done = (status.bytes, status.pieces);
            }
            state.phase = match outcome {
                Err(why) if !stopped.is_cancelled() => {
                    tracing::warn!(torrent = %for_task.info_hash, "stopped: {why}");
                    Phase::Failed(why)
                }
                _ => Phase::Stopped,
            };
        });
        entry.lock().job = Some((stop, task));
    }

    /// From the magnet link to the end of seeding.
    async fn move_torrent(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        check: bool,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let what = entry.lock().what.clone();
        let torrent = match what {
            What::Torrent(torrent) => torrent,
            What::Magnet(magnet) => {
                entry.lock().phase = Phase::Metadata;
                let found = tokio::select! {
                    found = self.find_metadata(*magnet) => found?,
                    () = stop.cancelled() => return Ok(()),
                };
                let found = Arc::new(found);
                entry.lock().what = What::Torrent(found.clone());
                self.save(entry).await.map_err(|error| error.to_string())?;
                found
            }
        };
        entry.checked.store(0, Ordering::Relaxed);
        entry.lock().phase = Phase::Checking;
        let (layout, have, log) = {
            let _alone = tokio::select! {
                turn = self.torrents.check.acquire() => turn,
                () = stop.cancelled() => return Ok(()),
            };
            match self.look(entry, &torrent, check, stop).await? {
                Some(found) => found,
                None => return Ok(()),
            }
        };
        let mut spec_torrent = (*torrent).clone();
        if spec_torrent.trackers.is_empty() && !torrent.info.private {
            spec_torrent.trackers = self.trackers();
        }
        let boxed: Box<dyn engine::ProofLog> = match &log {
            Some(log) => Box::new(log.clone()),
            None => Box::new(NoLog),
        };
        let spec = TorrentSpec { torrent: spec_torrent, layout, have, log: boxed, rests: false, open: true };
        let running = match self.engine.add(spec).await {
            Ok(running) => running,
            Err(AddError::Stopping) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        {
            let mut state = entry.lock();
            let limits = state.note.limits;
            running.set_limits(limits.down.unwrap_or(0), limits.up.unwrap_or(0));
            state.phase = Phase::Running(running.clone());
        }
        let outcome = self.follow(entry, &torrent, &running, log, stop).await;
        self.engine.remove(&entry.info_hash).await;
        outcome
    }

    async fn find_metadata(&self, mut magnet: Magnet) -> Result<metainfo::Torrent, String> {
        if magnet.trackers.is_empty() {
            magnet.trackers.clone_from(&self.config.trackers);
        }
        loop {
            match self.engine.metadata(&magnet, METADATA.0).await {
                Ok(mut torrent) => {
                    torrent.trackers = magnet.trackers.iter().map(|url| vec![url.clone()]).collect();
                    return Ok(torrent);
                }
                Err(error @ (engine::MetadataError::NobodyToAsk | engine::MetadataError::Torrent(_))) => {
                    return Err(error.to_string());
                }
                Err(error) => tracing::debug!(torrent = %magnet.info_hash, %error, "no metadata yet"),
            }
            sleep(METADATA.1).await;
        }
    }

    /// What is on disk of a torrent; nothing when it was stopped meanwhile.
    async fn look(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        torrent: &Arc<metainfo::Torrent>,
        check: bool,
        stop: &CancellationToken,
    ) -> Result<Option<(Layout, PieceSet, Option<Log>)>, String> {
        let note = entry.lock().note.clone();
        for _ in 0..HELD.0 {
            let (torrent, folder, known) = (torrent.clone(), note.folder.clone(), note.whole.clone());
            let (of, stopped) = (entry.clone(), stop.clone());
            let looked = spawn_blocking(move || {
                if !check && known.is_some() && known == stamps(&torrent.info, &folder) {
                    let have = PieceSet::full(torrent.info.geometry.piece_count());
                    return Ok((Layout::seed(&torrent.info, &folder), have, None));
                }
                let progress = |done: u64, _: u64| {
                    of.checked.store(done, Ordering::Relaxed);
                    !stopped.is_cancelled()
                };
                match place::open(&torrent, &folder, check, progress) {
                    // To seed, nothing has to be written.
                    Err(error) if error.is_read_only() => {
                        let (layout, have) = place::whole(&torrent, &folder, progress)?.ok_or(error)?;
                        of.lock().note.whole = stamps(&torrent.info, &folder);
                        Ok((layout, have, None))
                    }
                    opened => opened.map(|place| (place.layout, place.have, Some(place.log))),
                }
            });
            match looked.await.map_err(|error| error.to_string())? {
                _ if stop.is_cancelled() => return Ok(None),
                Ok(found) => {
                    if found.2.is_none() && note.whole.is_none() {
                        self.save(entry).await.map_err(|error| error.to_string())?;
                    }
                    return Ok(Some(found));
                }
                Err(PlaceError::Locked { .. }) => sleep(HELD.1).await,
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(PlaceError::Locked { folder: note.folder }.to_string())
    }

    /// Until it is stopped, or cannot go on.
    async fn follow(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        torrent: &Arc<metainfo::Torrent>,
        running: &Arc<Torrent>,
        mut log: Option<Log>,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let mut status = running.status();
        loop {
            let state = status.borrow_and_update().state.clone();
            match state {
                TorrentState::Complete => {
                    if let Some(log) = log.take() {
                        self.note_whole(entry, torrent, log).await;
                    }
                }
                TorrentState::Failed(failure) => return Err(failure.to_string()),
                TorrentState::Stopped => {
                    let lost = self.engine.lost().into_iter().find(|(lost, _)| *lost == entry.info_hash);
                    return lost.map_or(Ok(()), |(_, failure)| Err(failure.to_string()));
                }
                TorrentState::Downloading => {}
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Its files stand by themselves now.
    async fn note_whole(self: &Arc<Self>, entry: &Arc<Entry>, torrent: &Arc<metainfo::Torrent>, log: Log) {
        let (torrent, folder) = (torrent.clone(), entry.lock().note.folder.clone());
        let finished = spawn_blocking(move || {
            log.finish()?;
            Ok::<_, io::Error>(stamps(&torrent.info, &folder))
        });
        match finished.await {
            Ok(Ok(whole)) => entry.lock().note.whole = whole,
            Ok(Err(error)) => tracing::warn!(torrent = %entry.info_hash, %error, "its journal stays"),
            Err(_) => return,
        }
        if let Err(error) = self.save(entry).await {
            tracing::warn!(torrent = %entry.info_hash, %error, "it will be checked at the next start");
        }
    }
}
