//! A blob's torrent: a pure function of the blob, which proves its pieces and its digest in one go.
//!
//! Its info dictionary holds `length`, `name` (the digest's 64 hex digits), `piece length`
//! ([`blob_piece_length`]), `pieces`, `sha256` (the digest's 32 bytes) and `sha256 states`: the SHA-256 chaining
//! state after each piece but the last, 32 bytes each. Nothing else, so every node makes the same info-hash. To
//! check a piece, run SHA-256 from the state before it and compare with the state after it. A list of states that
//! lies leads to a piece that cannot be had, never to a wrong blob.
//!
//! Standard clients pass over the two keys they do not know and use `pieces`.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use bencode::Value;
use bytes::Bytes;
use hash::{Digest, Sha1, Sha256, Sha256State, to_hex};

use crate::{Geometry, InfoHash, MAX_PIECES, PieceIndex, blob_piece_length};

/// The SHA-256 side of a blob's torrent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobProof {
    digest: Digest,
    states: Bytes,
    pieces: u32,
}

impl BlobProof {
    /// The blob's digest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The state from which a piece's SHA-256 starts; `None` past the end.
    pub fn before(&self, piece: PieceIndex) -> Option<Sha256State> {
        match piece.0 {
            past if past >= self.pieces => None,
            0 => Some(Sha256State::INITIAL),
            later => self.state(later - 1),
        }
    }

    /// The state that a piece's SHA-256 must end in; for the last piece, which is padded, the digest. `None` past
    /// the end.
    pub fn after(&self, piece: PieceIndex) -> Option<Sha256State> {
        if piece.0.checked_add(1)? == self.pieces {
            return Some(Sha256State::from_bytes(*self.digest.as_bytes()));
        }
        self.state(piece.0)
    }

    fn state(&self, index: u32) -> Option<Sha256State> {
        let (states, _) = self.states.as_chunks();
        states.get(index as usize).copied().map(Sha256State::from_bytes)
    }

    /// From an info dictionary that has one of the two keys.
    pub(crate) fn read(
        info: Value<'_>,
        digest: Option<Value<'_>>,
        states: Option<Value<'_>>,
        geometry: Geometry,
        bytes: &Bytes,
    ) -> Result<Self, BlobError> {
        let digest = digest.and_then(|v| v.as_bytes()?.try_into().ok()).ok_or(BlobError::MissingDigest)?;
        let digest = Digest::from_bytes(digest);
        let states = states.and_then(|v| v.as_bytes()).ok_or(BlobError::States)?;
        let pieces = geometry.piece_count();
        if states.len() as u64 != 32 * u64::from(pieces.saturating_sub(1)) {
            return Err(BlobError::States);
        }
        let expected = blob_piece_length(geometry.total());
        if geometry.piece_length() != expected {
            return Err(BlobError::PieceLength { expected, found: geometry.piece_length() });
        }
        if pieces == 0 && digest != Digest::of(b"") {
            return Err(BlobError::Empty);
        }
        let hashes = info.as_dict().and_then(|d| d.get(b"pieces")?.as_bytes()).unwrap_or_default();
        if encode_info(geometry, digest, hashes, states) != info.raw() {
            return Err(BlobError::NotCanonical);
        }
        Ok(Self { digest, states: bytes.slice_ref(states), pieces })
    }
}

/// A blob's torrent, made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobTorrent {
    /// The blob's digest.
    pub digest: Digest,
    /// The torrent's info-hash.
    pub info_hash: InfoHash,
    /// The torrent's info dictionary; [`crate::Torrent::from_info`] reads it.
    pub info_bytes: Bytes,
}

/// What a finished piece proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PieceProof {
    /// The piece's SHA-1.
    pub sha1: [u8; 20],
    /// The SHA-256 state in front of the piece.
    pub before: Sha256State,
    /// The SHA-256 state behind the piece; for the last piece, which is padded, the digest.
    pub after: Sha256State,
}

/// Makes a blob's torrent while the blob streams by.
#[derive(Clone, Debug)]
pub struct BlobBuilder {
    geometry: Geometry,
    received: u64,
    sha256: Sha256,
    sha1: Sha1,
    proofs: Vec<PieceProof>,
}

impl BlobBuilder {
    /// For a blob of `size` bytes, of which none came yet.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`]
    pub fn new(size: u64) -> Result<Self, BlobError> {
        Self::resume(size, &[])
    }

    /// For a blob of `size` bytes whose first pieces are known: for each the SHA-1 and the SHA-256 state behind it.
    /// [`Self::update`] goes on behind them.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], or [`BlobError::WrongSize`] if there are more pieces than the blob has.
    pub fn resume(size: u64, pieces_done: &[([u8; 20], Sha256State)]) -> Result<Self, BlobError> {
        let geometry = blob_geometry(size)?;
        let done = pieces_done.len() as u64;
        let received = done.saturating_mul(u64::from(geometry.piece_length()));
        if done > u64::from(geometry.piece_count()) {
            return Err(BlobError::WrongSize { expected: size, received });
        }
        let mut proofs = Vec::with_capacity(pieces_done.len());
        let mut before = Sha256State::INITIAL;
        for &(sha1, after) in pieces_done {
            proofs.push(PieceProof { sha1, before, after });
            before = after;
        }
        let sha256 = Sha256::resume(before, received);
        Ok(Self { geometry, received: received.min(size), sha256, sha1: Sha1::new(), proofs })
    }

    /// How the blob is cut into pieces.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many of the blob's bytes went by.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// The proofs of all pieces that are complete, in order.
    pub fn piece_proofs(&self) -> &[PieceProof] {
        &self.proofs
    }

    /// Takes the blob's next bytes. Bytes past the end are counted only, and make [`Self::finish`] fail.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let piece = PieceIndex(self.proofs.len() as u32);
            let end = self.geometry.piece_offset(piece) + u64::from(self.geometry.piece_size(piece));
            let room = end.saturating_sub(self.received);
            if room == 0 {
                self.received = self.received.saturating_add(data.len() as u64);
                return;
            }
            let (now, later) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            hash::update_both(&mut self.sha1, &mut self.sha256, now);
            self.received += now.len() as u64;
            data = later;
            if self.received == end {
                self.end_piece();
            }
        }
    }

    fn end_piece(&mut self) {
        let before = self.proofs.last().map_or(Sha256State::INITIAL, |proof| proof.after);
        // A piece that is not the last ends at a block's boundary, where there is a state.
        let after = match self.sha256.state() {
            Some(state) if self.received < self.geometry.total() => state,
            _ => Sha256State::from_bytes(self.sha256.clone().finalize()),
        };
        let sha1 = std::mem::take(&mut self.sha1).finalize();
        self.proofs.push(PieceProof { sha1, before, after });
    }

    /// The torrent.
    ///
    /// # Errors
    /// [`BlobError::WrongSize`] if not exactly `size` bytes went by.
    pub fn finish(self) -> Result<BlobTorrent, BlobError> {
        if self.received != self.geometry.total() {
            return Err(BlobError::WrongSize { expected: self.geometry.total(), received: self.received });
        }
        Ok(assemble(
            self.geometry,
            &self.proofs.iter().map(|proof| proof.sha1).collect::<Vec<_>>(),
            self.proofs.iter().map(|proof| proof.after).collect(),
        ))
    }
}

/// The torrent of a blob on disk, `size` bytes from the file's beginning. One thread follows the SHA-256 chain, and
/// up to `threads - 1` others hash pieces with SHA-1; with one thread, one pass does both. Blocks until done.
///
/// # Errors
/// If the file cannot be read, ends early, or is too large for a blob's torrent.
pub fn blob_torrent(file: &File, size: u64, threads: usize) -> io::Result<BlobTorrent> {
    const CHUNK: usize = 1 << 20;
    let geometry = blob_geometry(size).map_err(io::Error::other)?;
    let mut buffer = vec![0; CHUNK];
    if threads < 2 || geometry.piece_count() < 2 {
        let mut builder = BlobBuilder::new(size).map_err(io::Error::other)?;
        while builder.received() < size {
            let chunk = usize::try_from(size - builder.received()).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..chunk).unwrap_or_default();
            file.read_exact_at(chunk, builder.received())?;
            builder.update(chunk);
        }
        return builder.finish().map_err(io::Error::other);
    }

    let next = AtomicU32::new(0);
    let failed = AtomicBool::new(false);
    let workers = (threads - 1).min(geometry.piece_count() as usize);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let hashed = sha1_pieces(file, geometry, &next, &failed);
                    if hashed.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    hashed
                })
            })
            .collect();
        let states = chain_states(file, geometry, &mut buffer, &failed);
        if states.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        let mut hashed = Vec::new();
        for worker in workers {
            hashed.extend(worker.join().map_err(|_| io::Error::other("a hashing thread died"))??);
        }
        hashed.sort_unstable_by_key(|(piece, _)| *piece);
        let sha1: Vec<_> = hashed.into_iter().map(|(_, sha1)| sha1).collect();
        Ok(assemble(geometry, &sha1, states?))
    })
}

/// The state after each piece, the digest after the last.
fn chain_states(
    file: &File,
    geometry: Geometry,
    buffer: &mut [u8],
    failed: &AtomicBool,
) -> io::Result<Vec<Sha256State>> {
    let mut states = Vec::new();
    let mut sha256 = Sha256::new();
    for piece in geometry.pieces() {
        let mut at = geometry.piece_offset(piece);
        let mut left = geometry.piece_size(piece) as usize;
        while left > 0 {
            if failed.load(Ordering::Relaxed) {
                return Err(io::Error::other("another hashing thread failed"));
            }
            let chunk = buffer.len().min(left);
            let chunk = buffer.get_mut(..chunk).unwrap_or_default();
            file.read_exact_at(chunk, at)?;
            sha256.update(chunk);
            at += chunk.len() as u64;
            left -= chunk.len();
        }
        match sha256.state() {
            Some(state) if at < geometry.total() => states.push(state),
            _ => states.push(Sha256State::from_bytes(sha256.clone().finalize())),
        }
    }
    Ok(states)
}

/// Takes pieces until there are none left, a few at a time to hash them together.
fn sha1_pieces(
    file: &File,
    geometry: Geometry,
    next: &AtomicU32,
    failed: &AtomicBool,
) -> io::Result<Vec<(u32, [u8; 20])>> {
    let batch = batch_of(geometry.piece_length());
    let mut hashed = Vec::new();
    let mut buffers: Vec<Vec<u8>> = vec![Vec::new(); batch as usize];
    while !failed.load(Ordering::Relaxed) {
        let first = next.fetch_add(batch, Ordering::Relaxed);
        let pieces = (first..first.saturating_add(batch).min(geometry.piece_count())).map(PieceIndex);
        for (piece, buffer) in pieces.clone().zip(&mut buffers) {
            buffer.resize(geometry.piece_size(piece) as usize, 0);
            file.read_exact_at(buffer, geometry.piece_offset(piece))?;
        }
        let read: Vec<[&[u8]; 1]> =
            buffers.iter().take(pieces.len()).map(|buffer| [buffer.as_slice()]).collect();
        if read.is_empty() {
            break;
        }
        let messages: Vec<&[&[u8]]> = read.iter().map(<[&[u8]; 1]>::as_slice).collect();
        hashed.extend(pieces.map(|piece| piece.0).zip(hash::sha1_many(&messages)));
    }
    Ok(hashed)
}

/// How many pieces a thread holds at once to hash them together: four, but no more than 32 MiB of them.
pub(crate) fn batch_of(piece_length: u32) -> u32 {
    (32 * 1024 * 1024 / piece_length.max(1)).clamp(1, 4)
}

fn blob_geometry(size: u64) -> Result<Geometry, BlobError> {
    let geometry = Geometry::new(size, blob_piece_length(size));
    geometry.filter(|g| u64::from(g.piece_count()) <= MAX_PIECES).ok_or(BlobError::TooLarge(size))
}

/// From each piece's SHA-1 and the SHA-256 state behind it.
fn assemble(geometry: Geometry, sha1: &[[u8; 20]], mut states: Vec<Sha256State>) -> BlobTorrent {
    let digest = states.pop().map_or_else(|| Digest::of(b""), |last| Digest::from_bytes(last.to_bytes()));
    let states: Vec<[u8; 32]> = states.into_iter().map(Sha256State::to_bytes).collect();
    let info_bytes = Bytes::from(encode_info(geometry, digest, sha1.as_flattened(), states.as_flattened()));
    BlobTorrent { digest, info_hash: InfoHash::from_bytes(hash::sha1(&info_bytes)), info_bytes }
}

fn encode_info(geometry: Geometry, digest: Digest, pieces: &[u8], states: &[u8]) -> Vec<u8> {
    bencode::encode_dict(|info| {
        info.unsigned(b"length", geometry.total());
        info.bytes(b"name", to_hex(digest.as_bytes()).as_bytes());
        info.unsigned(b"piece length", geometry.piece_length().into());
        info.bytes(b"pieces", pieces);
        info.bytes(b"sha256", digest.as_bytes());
        info.bytes(b"sha256 states", states);
    })
}

/// Why something is no blob's torrent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// No `sha256`, or not 32 bytes.
    #[error("`sha256` is not 32 bytes")]
    MissingDigest,
    /// No `sha256 states`, or not 32 bytes for each piece but the last.
    #[error("`sha256 states` is not 32 bytes for each piece but the last")]
    States,
    /// Some other piece length than the blob's size asks for.
    #[error("the piece length is {found}, but a blob of this size has {expected}")]
    PieceLength {
        /// By [`blob_piece_length`].
        expected: u32,
        /// In the torrent.
        found: u32,
    },
    /// No bytes, but not their digest.
    #[error("the blob is empty, but its digest is not that of nothing")]
    Empty,
    /// Other keys, another name than the digest, several files.
    #[error(
        "the info dictionary is not just length, name (the digest), piece length, pieces and the two sha256 keys"
    )]
    NotCanonical,
    /// Larger than a torrent can be.
    #[error("a blob of {0} bytes is too large for a torrent")]
    TooLarge(u64),
    /// The stream was not as long as the blob.
    #[error("the blob should have {expected} bytes, but {received} came")]
    WrongSize {
        /// The blob's size.
        expected: u64,
        /// What came.
        received: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Torrent, TorrentError};
    use std::io::Write as _;

    fn data(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 + (i >> 9)) as u8).collect()
    }

    fn built(data: &[u8], chunk: usize) -> BlobTorrent {
        let mut builder = BlobBuilder::new(data.len() as u64).expect("not too large");
        data.chunks(chunk).for_each(|chunk| builder.update(chunk));
        builder.finish().expect("all bytes")
    }

    const PIECE: usize = 256 * 1024;

    #[test]
    fn every_way_to_make_a_torrent_gives_the_same_one() {
        for length in [0, 1, 63, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE, 5 * PIECE + 12_345] {
            let data = data(length);
            let torrent = built(&data, 100_003);
            assert_eq!(torrent.digest, Digest::of(&data));
            assert_eq!(torrent, built(&data, 64), "{length}");
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&data).expect("written");
            for threads in [1, 2, 4] {
                assert_eq!(blob_torrent(&file, length as u64, threads).expect("read"), torrent, "{length}");
            }
        }
    }

    #[test]
    fn pieces_prove_themselves_and_the_digest() {
        let data = data(3 * PIECE + 77);
        let made = built(&data, 4096);
        let torrent = Torrent::from_info(made.info_bytes).expect("valid");
        assert_eq!(torrent.info_hash, made.info_hash);
        assert_eq!(torrent.info.name, made.digest.hex());
        let proof = torrent.info.blob.as_ref().expect("a blob");
        assert_eq!(proof.digest(), made.digest);
        for (piece, chunk) in torrent.info.geometry.pieces().zip(data.chunks(PIECE)) {
            let end = hash::sha256_segments(&[hash::Segment {
                start: proof.before(piece).expect("in range"),
                offset: torrent.info.geometry.piece_offset(piece),
                data: &[chunk],
                last: piece.0 == 3,
            }]);
            assert_eq!(proof.after(piece), end.first().copied());
            assert_eq!(torrent.info.piece_hash(piece), Some(hash::sha1(chunk)));
        }
        assert_eq!(proof.before(PieceIndex(4)), None);
        assert_eq!(proof.after(PieceIndex(4)), None);
        assert_eq!(proof.after(PieceIndex(u32::MAX)), None);
    }

    #[test]
    fn a_builder_resumes_behind_any_piece() {
        let data = data(3 * PIECE + 5);
        let mut whole = BlobBuilder::new(data.len() as u64).expect("not too large");
        whole.update(&data);
        let done: Vec<_> = whole.piece_proofs().iter().map(|proof| (proof.sha1, proof.after)).collect();
        let expected = whole.finish().expect("all bytes");
        for pieces in 0..=4 {
            let mut builder = BlobBuilder::resume(data.len() as u64, &done[..pieces]).expect("fits");
            builder.update(&data[(pieces * PIECE).min(data.len())..]);
            assert_eq!(builder.finish().as_ref(), Ok(&expected), "{pieces}");
        }
        assert!(BlobBuilder::resume(1, &done).is_err());
    }

    #[test]
    fn a_stream_of_another_length_makes_no_torrent() {
        let mut builder = BlobBuilder::new(10).expect("not too large");
        builder.update(b"12345");
        let short = builder.clone().finish();
        assert_eq!(short, Err(BlobError::WrongSize { expected: 10, received: 5 }));
        builder.update(b"6789012");
        assert_eq!(builder.piece_proofs().len(), 1);
        assert_eq!(builder.finish(), Err(BlobError::WrongSize { expected: 10, received: 12 }));
        let mut empty = BlobBuilder::new(0).expect("not too large");
        empty.update(b"x");
        assert!(empty.finish().is_err());
        assert!(BlobBuilder::new(u64::MAX).is_err());
    }

    #[test]
    fn what_is_not_canonical_is_no_blob() {
        let info = built(&data(2 * PIECE), 4096).info_bytes;
        let refused = |from: &[u8], to: &[u8]| {
            let at = info.windows(from.len()).position(|w| w == from).expect("there");
            let changed = [&info[..at], to, &info[at + from.len()..]].concat();
            match Torrent::from_info(changed.into()) {
                Err(TorrentError::Blob(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        let digest = Digest::of(&data(2 * PIECE));
        assert_eq!(refused(digest.hex().as_bytes(), &[b'0'; 64]), BlobError::NotCanonical);
        assert_eq!(refused(b"d6:length", b"d5:extra0:6:length"), BlobError::NotCanonical);
        let short = [b"6:sha25631:", &digest.as_bytes()[1..]].concat();
        let whole = [b"6:sha25632:", &digest.as_bytes()[..]].concat();
        assert_eq!(refused(&whole, &short), BlobError::MissingDigest);
        assert_eq!(refused(b"13:sha256 states", b"13:sha256 stateZ"), BlobError::States);
    }
}
