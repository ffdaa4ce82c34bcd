//! What of a torrent is on disk already: hashed anew, by all cores.

use std::{
    io,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use hash::Segment;
use metainfo::{Info, PieceIndex};
use swarm::PieceSet;

use crate::{checker, layout::Layout};

/// Most bytes that one thread holds.
const AT_ONCE: u64 = 16 * 1024 * 1024;

/// Hashes every piece of a torrent. Blocks; `progress` is told of every batch's bytes, and says whether to go on.
///
/// # Errors
/// When a file cannot be read for another reason than that it is missing or too short.
pub fn check(
    info: &Info,
    layout: &Layout,
    progress: impl Fn(u64) -> bool + Sync,
) -> Result<PieceSet, CheckError> {
    rehash(info, layout, &info.geometry.pieces().collect::<Vec<_>>(), progress)
}

/// Hashes the given pieces and says which are right.
///
/// # Errors
/// When a file cannot be read for another reason than that it is missing or too short.
pub fn rehash(
    info: &Info,
    layout: &Layout,
    pieces: &[PieceIndex],
    progress: impl Fn(u64) -> bool + Sync,
) -> Result<PieceSet, CheckError> {
    let count = info.geometry.piece_count();
    let right = Mutex::new(PieceSet::empty(count));
    let error = Mutex::new(None);
    let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let batch = (AT_ONCE / u64::from(info.geometry.piece_length()).max(1)).clamp(1, 8) as u32;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let from = next.fetch_add(batch, Ordering::Relaxed) as usize;
                    let batch = pieces.get(from..pieces.len().min(from + batch as usize)).unwrap_or_default();
                    if batch.is_empty() {
                        return;
                    }
                    match verify(info, layout, batch) {
                        Ok(good) => {
                            let mut right = right.lock().unwrap_or_else(PoisonError::into_inner);
                            for piece in good {
                                right.insert(piece);
                            }
                        }
                        Err(e) => {
                            *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    if !progress(batch.iter().map(|p| u64::from(info.geometry.piece_size(*p))).sum()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(CheckError(error)),
        None => Ok(right.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn verify(info: &Info, layout: &Layout, pieces: &[PieceIndex]) -> io::Result<Vec<PieceIndex>> {
    let mut read = Vec::new();
    for piece in pieces {
        let mut bytes = vec![0; info.geometry.piece_size(*piece) as usize];
        match layout.read(info, info.geometry.piece_offset(*piece), &mut bytes) {
            Ok(()) => read.push((*piece, bytes)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {}
            Err(e) => return Err(e),
        }
    }
    let data: Vec<[&[u8]; 1]> = read.iter().map(|(_, bytes)| [bytes.as_slice()]).collect();
    let right: Vec<bool> = if info.blob.is_some() {
        let last = info.geometry.piece_count().saturating_sub(1);
        let states: Option<Vec<_>> = read.iter().map(|(piece, _)| checker::states(info, *piece)).collect();
        let states = states.unwrap_or_default();
        let segments: Vec<Segment<'_>> = read
            .iter()
            .zip(&data)
            .zip(&states)
            .map(|(((piece, _), data), (start, _))| Segment {
                start: *start,
                offset: info.geometry.piece_offset(*piece),
                data,
                last: piece.0 == last,
            })
            .collect();
        hash::sha256_segments(&segments).iter().zip(&states).map(|(got, (_, wanted))| got == wanted).collect()
    } else {
        let messages: Vec<&[&[u8]]> = data.iter().map(<[_; 1]>::as_slice).collect();
        let sums = hash::sha1_many(&messages);
        read.iter().zip(sums).map(|((piece, _), sum)| info.piece_hash(*piece) == Some(sum)).collect()
    };
    Ok(read.into_iter().zip(right).filter(|(_, right)| *right).map(|((piece, _), _)| piece).collect())
}

/// A file of the torrent could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a file of the torrent: {0}")]
pub struct CheckError(#[source] io::Error);
