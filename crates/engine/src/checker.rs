//! The threads that prove pieces and write them.
//!
//! A job is a whole piece in the buffers it was received into. A thread takes up to four jobs that wait, hashes
//! them together, writes each with one call, notes its proof and tells its torrent. What waits is bounded by what
//! the brains may have begun ([`crate::Config::max_active`]).

use std::{
    collections::VecDeque,
    io,
    num::NonZero,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use hash::Segment;
use metainfo::{BLOCK_LENGTH, Info, PieceIndex};
use store::Evidence;
use swarm::Verified;

use crate::{
    buffers::Buffer,
    torrent::{Failure, Torrent},
};

/// Pieces hashed together: as many as the kernels have lanes.
const TOGETHER: usize = 4;

/// A whole piece to prove and write.
pub(crate) struct Job {
    pub(crate) torrent: Arc<Torrent>,
    pub(crate) piece: PieceIndex,
    pub(crate) hash_blocks: bool,
    /// The piece's bytes in order: of each buffer, how many to skip and how many to take.
    pub(crate) parts: Vec<(Buffer, usize, usize)>,
}

/// The queue and its threads.
#[derive(Default)]
pub(crate) struct Checker {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Checker {
    /// Starts `threads` threads; 0 for one per core.
    pub(crate) fn start(threads: usize) -> io::Result<Arc<Self>> {
        let threads =
            if threads == 0 { thread::available_parallelism().map_or(2, NonZero::get) } else { threads };
        let checker = Arc::new(Self::default());
        for number in 0..threads {
            let worker = checker.clone();
            thread::Builder::new().name(format!("check-{number}")).spawn(move || worker.work())?;
        }
        Ok(checker)
    }

    pub(crate) fn submit(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.more.notify_one();
    }

    /// Ends the threads once the queue is empty.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            while queue.jobs.is_empty() && !queue.closed {
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let take = queue.jobs.len().min(TOGETHER);
            let jobs: Vec<Job> = queue.jobs.drain(..take).collect();
            drop(queue);
            if jobs.is_empty() {
                return;
            }
            run(jobs);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(jobs: Vec<Job>) {
    let (blobs, plain): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|j| j.torrent.meta.info.blob.is_some());
    for (jobs, prove) in [(blobs, prove_blobs as fn(&[Job]) -> Vec<Option<Evidence>>), (plain, prove_plain)] {
        let proofs = prove(&jobs);
        for (job, proof) in jobs.into_iter().zip(proofs) {
            finish(&job, proof);
        }
    }
}

/// SHA-256 from the state before each piece; right if it ends in the state after it (D3).
fn prove_blobs(jobs: &[Job]) -> Vec<Option<Evidence>> {
    let data: Vec<Vec<&[u8]>> = jobs.iter().map(Job::slices).collect();
    let wanted: Vec<_> = jobs.iter().map(|job| states(&job.torrent.meta.info, job.piece)).collect();
    let segments: Vec<Segment<'_>> = jobs
        .iter()
        .zip(&data)
        .zip(&wanted)
        .filter_map(|((job, data), wanted)| {
            let (before, _) = (*wanted)?;
            let geometry = job.torrent.meta.info.geometry;
            let last = job.piece.0 + 1 == geometry.piece_count();
            Some(Segment { start: before, offset: geometry.piece_offset(job.piece), data, last })
        })
        .collect();
    let mut results = hash::sha256_segments(&segments).into_iter();
    let verdict = |(before, after): (hash::Sha256State, hash::Sha256State), result| {
        (result == after).then(|| Evidence::sha256(before, after))
    };
    wanted.into_iter().map(|wanted| verdict(wanted?, results.next()?)).collect()
}

fn prove_plain(jobs: &[Job]) -> Vec<Option<Evidence>> {
    let data: Vec<Vec<&[u8]>> = jobs.iter().map(Job::slices).collect();
    let messages: Vec<&[&[u8]]> = data.iter().map(Vec::as_slice).collect();
    let sums = hash::sha1_many(&messages);
    let right = |(job, sum): (&Job, [u8; 20])| {
        (job.torrent.meta.info.piece_hash(job.piece) == Some(sum)).then(|| Evidence::sha1(&sum))
    };
    jobs.iter().zip(sums).map(right).collect()
}

/// The SHA-256 states before and after a blob's piece.
pub(crate) fn states(info: &Info, piece: PieceIndex) -> Option<(hash::Sha256State, hash::Sha256State)> {
    let proof = info.blob.as_ref()?;
    Some((proof.before(piece)?, proof.after(piece)?))
}

fn finish(job: &Job, proof: Option<Evidence>) {
    let hash_blocks = job.hash_blocks || proof.is_none();
    let block_hashes = if hash_blocks { job.block_hashes() } else { Vec::new() };
    let Some(evidence) = proof else {
        tracing::warn!(torrent = %job.torrent.info_hash(), piece = %job.piece, "piece is wrong");
        return job.torrent.checked(job.piece, Verified::Bad { block_hashes });
    };
    let info = &job.torrent.meta.info;
    let written = job
        .torrent
        .layout
        .write(info, info.geometry.piece_offset(job.piece), &job.slices())
        .and_then(|()| job.torrent.log.proven(job.piece, evidence));
    match written {
        Ok(()) => job.torrent.checked(job.piece, Verified::Good { block_hashes }),
        Err(e) => {
            let full = matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            job.torrent.fail(Failure::Disk { piece: job.piece, why: e.to_string(), full });
            job.torrent.checked(job.piece, Verified::NotWritten);
        }
    }
}

impl Job {
    fn slices(&self) -> Vec<&[u8]> {
        self.parts
            .iter()
            .map(|(buffer, skip, length)| buffer.get(*skip..*skip + *length).unwrap_or_default())
            .collect()
    }

    /// The SHA-1 of every block, whatever buffers it lies in.
    fn block_hashes(&self) -> Vec<[u8; 20]> {
        let whole: Vec<u8> = self.slices().concat();
        let blocks: Vec<&[u8]> = whole.chunks(BLOCK_LENGTH as usize).collect();
        let messages: Vec<[&[u8]; 1]> = blocks.into_iter().map(|b| [b]).collect();
        hash::sha1_many(&messages.iter().map(<[_; 1]>::as_slice).collect::<Vec<_>>())
    }
}
