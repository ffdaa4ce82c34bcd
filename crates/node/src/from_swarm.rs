//! A blob from its swarm, and from the origin what the swarm does not bring.

use std::{os::unix::fs::FileExt, sync::Arc, time::Duration};

use api::{
    directory::{Claim, Entry},
    trace::SpanKind,
};
use engine::{AddError, Layout, ProofLog, Torrent, TorrentSpec, TorrentState};
use hash::Segment;
use metainfo::PieceIndex;
use origin::Origin;
use store::{BeginError, Evidence, Partial};
use swarm::{PieceSet, SourceKind};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    content::Inner,
    draft::Draft,
    flight::{FetchError, Flight, Want},
    from_origin,
    lease::Held,
};

/// The part of the time for which a swarm may bring nothing that it may be without any peer: whoever is told of a torrent
/// finds its holders within moments, or not at all.
const LONELY: u32 = 5;
/// A swarm that brings less than this many bytes a second is no better than one that brings nothing.
const LEAST: f64 = 32.0 * 1024.0;
/// How long a fill from the origin may bring nothing.
const FILL_STALL: Duration = Duration::from_secs(60);

/// Joins the swarm and stays until the blob is whole, proven and in the store.
pub(crate) async fn fetch(inner: &Arc<Inner>, flight: &Arc<Flight>, entry: Entry) -> Result<(), FetchError> {
    let digest = flight.digest;
    let mut meta = metainfo::Torrent::from_info(entry.info.clone()).map_err(swarm_error)?;
    if meta.info.blob.as_ref().map(metainfo::BlobProof::digest) != Some(digest) {
        return Err(FetchError::Swarm("the directory's torrent is for another blob".into()));
    }
    meta.trackers = inner.trackers();
    let (size, piece_length) = (meta.info.geometry.total(), meta.info.geometry.piece_length());
    let (store, for_blocking) = (inner.store.clone(), meta.clone());
    let begun = spawn_blocking(move || match store.begin(&digest, size, piece_length) {
        Ok(partial) => {
            partial.set_torrent(for_blocking.info_bytes.clone()).map_err(FetchError::disk)?;
            let have = found(&partial, &for_blocking)?;
            Ok(Some((partial, have)))
        }
        Err(BeginError::Present(_)) => Ok(None),
        Err(error) => Err(FetchError::disk(error)),
    });
    let Some((partial, have)) = begun.await.map_err(FetchError::disk)?? else { return Ok(()) };
    inner.note_begun(flight, true);
    let file = partial.file().clone();
    flight.update(|progress| {
        progress.size = Some(size);
        progress.file = Some(file.clone());
        progress.media_type = entry.media_type.clone();
    });
    let draft = Draft::new(partial);
    let info_hash = meta.info_hash;
    let spec = TorrentSpec {
        torrent: meta,
        layout: Layout::single(file),
        have,
        log: Box::new(draft.clone()),
        rests: true,
        open: entry.public,
    };
    let torrent = match inner.engine.add(spec).await {
        Ok(torrent) => torrent,
        // One flight per blob, so only a torrent that is on its way to rest can be there.
        Err(AddError::Running(_)) => return Err(FetchError::Swarm("the torrent is being put away".into())),
        Err(error) => return Err(swarm_error(error)),
    };
    flight.update(|progress| progress.torrent = Some(torrent.clone()));
    let mut span = flight.tracer.span(SpanKind::Swarm);
    let result = follow(inner, flight, &torrent, &draft).await;
    span.moved(torrent.from_peers());
    let givers = torrent.provenance();
    let givers = givers.sources().iter().filter(|s| matches!(s.kind, SourceKind::Peer { .. }) && s.bytes > 0);
    span.note(match (givers.count(), &result) {
        (_, Err(error)) => error.to_string(),
        (1, Ok(())) => "from one peer".to_owned(),
        (peers, Ok(())) => format!("from {peers} peers"),
    });
    drop(span);
    judge(inner, flight, &torrent, &result);
    inner.remember(flight, &torrent);
    let kept = match (result, draft.take()) {
        (Ok(()), Some(partial)) => {
            let _span = flight.tracer.span(SpanKind::Verify);
            let media_type = entry.media_type;
            let commit =
                spawn_blocking(move || partial.commit(media_type.as_deref()).map_err(FetchError::disk));
            commit.await.map_err(FetchError::disk).flatten().map(drop)
        }
        (Ok(()), None) => Err(FetchError::disk("the blob is gone")),
        (Err(error), partial) => {
            // With nothing proven there is nothing to go on from, and its size was only said.
            if let Some(partial) = partial.filter(|partial| partial.proven_count() == 0) {
                partial.discard();
            }
            Err(error)
        }
    };
    if kept.is_err() {
        inner.engine.remove(&info_hash).await;
    }
    kept
}

/// Notes whether the swarm was of use. One that gave nothing, so that the origin had to, is a sign that others will not
/// either: the port is closed, or the peers are gone.
fn judge(inner: &Inner, flight: &Flight, torrent: &Torrent, result: &Result<(), FetchError>) {
    let from_origin = flight.progress().borrow().from_origin;
    if torrent.from_peers() > 0 {
        inner.swarms.worked();
    } else if (from_origin > 0 || matches!(result, Err(FetchError::Swarm(_)))) && inner.swarms.failed() {
        tracing::warn!("peers have given nothing of several blobs: registries are asked first for a while");
    }
}

/// Which pieces are here from an earlier attempt and fit this torrent. What was proven before the machine last
/// started is hashed again.
fn found(partial: &Partial, torrent: &metainfo::Torrent) -> Result<PieceSet, FetchError> {
    let info = &torrent.info;
    let fits = |piece: PieceIndex, evidence: &Evidence| {
        let proof = info.blob.as_ref();
        let states = proof.and_then(|p| Some((p.before(piece)?, p.after(piece)?)));
        states.is_some_and(|(before, after)| Evidence::sha256(before, after) == *evidence)
    };
    let mut have = PieceSet::empty(info.geometry.piece_count());
    for (piece, evidence) in partial.proven() {
        if fits(piece, &evidence) {
            have.insert(piece);
        }
    }
    let doubtful: Vec<_> = partial.doubtful().iter().filter(|(piece, e)| fits(*piece, e)).copied().collect();
    let pieces: Vec<PieceIndex> =
        doubtful.iter().map(|(piece, _)| *piece).filter(|p| !have.contains(*p)).collect();
    let layout = Layout::single(partial.file().clone());
    let right = engine::rehash(info, &layout, &pieces, |_| true).map_err(FetchError::disk)?;
    let again: Vec<_> = doubtful.into_iter().filter(|(piece, _)| right.contains(*piece)).collect();
    partial.mark_all_proven(&again).map_err(FetchError::disk)?;
    for (piece, _) in again {
        have.insert(piece);
    }
    Ok(have)
}

/// Waits for the end; when nothing comes for a while, sees to it that the origin is asked.
async fn follow(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    torrent: &Arc<Torrent>,
    draft: &Draft,
) -> Result<(), FetchError> {
    let mut status = torrent.status();
    let stall = inner.config.content.stall();
    let step = stall / LONELY;
    let mut ticks = interval(step);
    // The first comes at once.
    ticks.tick().await;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // How long the swarm has brought less than is worth waiting for, and what was here before that.
    let (mut quiet, mut before) = (Duration::ZERO, torrent.status().borrow().bytes);
    loop {
        let state = status.borrow_and_update().state.clone();
        match state {
            TorrentState::Complete => return Ok(()),
            TorrentState::Failed(failure @ engine::Failure::Disk { .. }) => {
                return Err(FetchError::disk(failure));
            }
            TorrentState::Failed(failure) => return Err(swarm_error(failure)),
            TorrentState::Stopped => return Err(FetchError::Stopped),
            TorrentState::Downloading => {}
        }
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    return Err(FetchError::Stopped);
                }
            }
            _ = ticks.tick() => {
                quiet += step;
                let bytes = torrent.status().borrow().bytes;
                if (bytes - before) as f64 >= LEAST * quiet.as_secs_f64() {
                    (quiet, before) = (Duration::ZERO, bytes);
                } else if quiet >= stall || torrent.peers().is_empty() {
                    match rescue(inner, flight, torrent, draft).await {
                        Ok(()) => (quiet, before) = (Duration::ZERO, torrent.status().borrow().bytes),
                        // Without the origin, holders that are slow to be found are worth a longer wait.
                        Err(FetchError::Origin(_)) if quiet < stall => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

/// The swarm brings nothing. Whoever of the fleet gets the lease takes what is missing from the origin; the others
/// get it through the swarm.
async fn rescue(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    torrent: &Arc<Torrent>,
    draft: &Draft,
) -> Result<(), FetchError> {
    tracing::info!(digest = %flight.digest, "the swarm has stalled");
    let held = match &inner.directory {
        Some(directory) => match directory.claim_stale(&flight.digest, &inner.name, Duration::ZERO).await {
            Ok(Claim::Leased(lease)) => Some(Held::new(inner, flight.digest, lease)),
            // Another is at it.
            Ok(_) => return Ok(()),
            Err(_) => None,
        },
        None => None,
    };
    let mut span = flight.tracer.span(SpanKind::Origin);
    let before = flight.progress().borrow().from_origin;
    let filled = fill(inner, flight, torrent, draft).await;
    span.moved(flight.progress().borrow().from_origin.saturating_sub(before));
    span.note(match &filled {
        Ok(()) => "the swarm had stalled".to_owned(),
        Err(error) => error.to_string(),
    });
    drop((held, span));
    match filled {
        // The origin cannot help; peers may.
        Err(FetchError::Origin(error)) => {
            tracing::warn!(digest = %flight.digest, %error, "nor can the origin help");
            let alone = torrent.peers().is_empty();
            if alone { Err(FetchError::Origin(error)) } else { Ok(()) }
        }
        other => other,
    }
}

/// Takes missing pieces from the origin, in order, each proven before it counts, until all is here or the swarm is
/// the faster again.
async fn fill(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    torrent: &Arc<Torrent>,
    draft: &Draft,
) -> Result<(), FetchError> {
    let geometry = torrent.meta().info.geometry;
    if let Want::Manifest(accept) = &flight.want {
        return fill_manifest(inner, flight, torrent, draft, accept).await;
    }
    let from_peers = torrent.from_peers();
    let mut filled = 0;
    let mut missing = geometry.pieces().filter(|piece| !torrent.has(*piece)).peekable();
    while let Some(first) = missing.next() {
        let mut body = from_origin::open(inner, flight, geometry.piece_offset(first)).await?;
        let mut piece = first;
        let mut early: bytes::Bytes = bytes::Bytes::new();
        loop {
            let mut bytes = Vec::with_capacity(geometry.piece_size(piece) as usize);
            while bytes.len() < geometry.piece_size(piece) as usize {
                if early.is_empty() {
                    let next = timeout(FILL_STALL, body.next_chunk()).await;
                    let next = next.map_err(|_| FetchError::Swarm("the origin has stalled too".into()))??;
                    early =
                        next.ok_or_else(|| FetchError::Swarm("the origin's answer ended early".into()))?;
                }
                let take = early.len().min(geometry.piece_size(piece) as usize - bytes.len());
                bytes.extend_from_slice(&early.split_to(take));
            }
            if !torrent.has(piece) {
                supply(torrent, draft, flight, piece, bytes).await?;
            }
            filled += u64::from(geometry.piece_size(piece));
            if torrent.from_peers().saturating_sub(from_peers) > filled {
                return Ok(());
            }
            // Going on with this answer is cheaper than asking anew for what comes next.
            match missing.peek() {
                Some(next) if next.0 == piece.0 + 1 => piece = missing.next().unwrap_or(piece),
                _ => break,
            }
        }
    }
    Ok(())
}

/// The same for a manifest, which a registry does not give as a blob.
async fn fill_manifest(
    inner: &Arc<Inner>,
    flight: &Arc<Flight>,
    torrent: &Arc<Torrent>,
    draft: &Draft,
    accept: &[String],
) -> Result<(), FetchError> {
    let target = origin::Target::Digest(flight.digest);
    let (repository, target) = (flight.repository()?, &target);
    let ask = |origin: Origin| async move { origin.manifest(repository, target, accept).await };
    let manifest = inner.ask_origin(flight, ask).await?;
    let geometry = torrent.meta().info.geometry;
    for piece in geometry.pieces().filter(|piece| !torrent.has(*piece)) {
        let from = geometry.piece_offset(piece) as usize;
        let bytes = manifest.bytes.get(from..from + geometry.piece_size(piece) as usize);
        let bytes = bytes.ok_or_else(|| FetchError::Swarm("the torrent is for a longer manifest".into()))?;
        supply(torrent, draft, flight, piece, bytes.to_vec()).await?;
    }
    Ok(())
}

/// Proves a piece from the origin, writes it and tells the swarm.
async fn supply(
    torrent: &Arc<Torrent>,
    draft: &Draft,
    flight: &Arc<Flight>,
    piece: PieceIndex,
    bytes: Vec<u8>,
) -> Result<(), FetchError> {
    let (info, file) = (torrent.meta().info.clone(), flight.progress().borrow().file.clone());
    let file = file.ok_or_else(|| FetchError::disk("the blob is gone"))?;
    let (draft, length) = (draft.clone(), bytes.len() as u64);
    spawn_blocking(move || {
        let states = info.blob.as_ref().and_then(|p| Some((p.before(piece)?, p.after(piece)?)));
        let (before, after) = states.ok_or_else(|| FetchError::Swarm("the torrent has no states".into()))?;
        let last = piece.0 + 1 == info.geometry.piece_count();
        let offset = info.geometry.piece_offset(piece);
        let segment = Segment { start: before, offset, data: &[&bytes], last };
        if hash::sha256_segments(&[segment]).first() != Some(&after) {
            return Err(FetchError::Swarm(format!("piece {piece} from the origin does not fit the torrent")));
        }
        file.write_all_at(&bytes, offset).map_err(FetchError::disk)?;
        draft.proven(piece, Evidence::sha256(before, after)).map_err(FetchError::disk)
    })
    .await
    .map_err(FetchError::disk)??;
    flight.update(|progress| progress.from_origin += length);
    torrent.supplied(piece, SourceKind::Origin);
    Ok(())
}

fn swarm_error(error: impl std::fmt::Display) -> FetchError {
    FetchError::Swarm(error.to_string())
}
