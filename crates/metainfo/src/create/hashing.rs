//! The SHA-1 of all pieces: each thread takes a few pieces at a time and hashes them together.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use super::{CreateError, files::Source};
use crate::{Geometry, PieceIndex, blob::batch_of};

pub(super) fn hash_pieces(
    source: &Source,
    geometry: Geometry,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<[u8; 20]>, CreateError> {
    let job = Job {
        source,
        geometry,
        next: AtomicU32::new(0),
        hashed: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        progress,
    };
    let threads = threads.clamp(1, (geometry.piece_count() as usize).max(1));
    let mut hashes = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| job.work())).collect();
        let mut hashes = Vec::with_capacity(geometry.piece_count() as usize);
        for thread in threads {
            hashes.extend(thread.join().map_err(|_| CreateError::ThreadDied)??);
        }
        Ok::<_, CreateError>(hashes)
    })?;
    hashes.sort_unstable_by_key(|(piece, _)| *piece);
    Ok(hashes.into_iter().map(|(_, hash)| hash).collect())
}

struct Job<'a> {
    source: &'a Source,
    geometry: Geometry,
    next: AtomicU32,
    hashed: AtomicU64,
    failed: AtomicBool,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl Job<'_> {
    fn work(&self) -> Result<Vec<(PieceIndex, [u8; 20])>, CreateError> {
        let done = self.take_pieces();
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }

    fn take_pieces(&self) -> Result<Vec<(PieceIndex, [u8; 20])>, CreateError> {
        let batch = batch_of(self.geometry.piece_length());
        let mut buffers = vec![Vec::new(); batch as usize];
        let mut open = None;
        let mut hashes = Vec::new();
        while !self.failed.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(batch, Ordering::Relaxed);
            let end = first.saturating_add(batch).min(self.geometry.piece_count());
            let pieces = (first..end).map(PieceIndex);
            for (piece, buffer) in pieces.clone().zip(&mut buffers) {
                buffer.resize(self.geometry.piece_size(piece) as usize, 0);
                self.read(self.geometry.piece_offset(piece), buffer, &mut open)?;
            }
            let read: Vec<[&[u8]; 1]> = buffers.iter().take(pieces.len()).map(|b| [b.as_slice()]).collect();
            if read.is_empty() {
                break;
            }
            let messages: Vec<&[&[u8]]> = read.iter().map(<[&[u8]; 1]>::as_slice).collect();
            hashes.extend(pieces.zip(hash::sha1_many(&messages)));
            let bytes: u64 = read.iter().flatten().map(|piece| piece.len() as u64).sum();
            let hashed = self.hashed.fetch_add(bytes, Ordering::Relaxed) + bytes;
            (self.progress)(hashed, self.geometry.total());
        }
        Ok(hashes)
    }

    /// Fills `buffer` from wherever its bytes lie. Keeps the last file open, as the next piece often begins in it.
    fn read(
        &self,
        mut at: u64,
        mut buffer: &mut [u8],
        open: &mut Option<(usize, File)>,
    ) -> Result<(), CreateError> {
        let files = &self.source.files;
        let mut index = files.partition_point(|file| file.offset + file.length <= at);
        while !buffer.is_empty() {
            let Some(file) = files.get(index) else { return Err(CreateError::ThreadDied) };
            let left = (file.offset + file.length).saturating_sub(at);
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let Some((now, later)) = buffer.split_at_mut_checked(take) else {
                return Err(CreateError::ThreadDied);
            };
            if !now.is_empty() {
                let opened = match open.take() {
                    Some((held, handle)) if held == index => handle,
                    _ => file.open()?,
                };
                opened.read_exact_at(now, at - file.offset).map_err(|error| file.read_error(error))?;
                *open = Some((index, opened));
            }
            at += take as u64;
            buffer = later;
            index += 1;
        }
        Ok(())
    }
}
