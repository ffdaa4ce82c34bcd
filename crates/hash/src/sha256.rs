//! SHA-256, which names blobs (OCI image spec, "Digests"), and its chaining states.

use std::fmt;

use crate::{
    kernel,
    lanes::{self, Block, Buffer, Cursor},
};

/// The SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(data);
    hasher.finalize()
}

/// SHA-256 between two blocks of 64 bytes: all that the rest of a message needs to know about its beginning
/// (the "intermediate hash value" of FIPS 180-4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256State(pub(crate) [u32; 8]);

impl Sha256State {
    /// Before a message's first byte (FIPS 180-4, 5.3.3).
    pub const INITIAL: Self = Self([
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ]);

    /// Eight words, each with its most significant byte first. After a message's padding these are its digest.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (out, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            out.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The other way round: any 32 bytes are a state.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let mut state = [0; 8];
        for (word, &bytes) in state.iter_mut().zip(words) {
            *word = u32::from_be_bytes(bytes);
        }
        Self(state)
    }
}

impl fmt::Debug for Sha256State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256State({})", crate::to_hex(&self.to_bytes()))
    }
}

/// A part of a message, to be hashed by itself.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The state after the bytes in front of this part.
    pub start: Sha256State,
    /// How many bytes stand in front of this part; a multiple of 64.
    pub offset: u64,
    /// The part, in fragments of any lengths; together a multiple of 64 bytes unless `last`.
    pub data: &'a [&'a [u8]],
    /// Whether the message ends here, so that padding follows and the result is the message's digest.
    pub last: bool,
}

/// The state after each segment, several segments at a time; for a `last` one, the digest as a state.
///
/// Segments may differ in length: a lane that is done takes the next one. Results stand in the segments' order.
///
/// # Panics
/// If a segment that is not `last` does not end at a multiple of 64 bytes, or one begins elsewhere: there is no
/// state at such a place, and carrying on would call good data bad.
pub fn sha256_segments(segments: &[Segment<'_>]) -> Vec<Sha256State> {
    let mut states: Vec<[u32; 8]> = segments.iter().map(|segment| segment.start.0).collect();
    let jobs = segments.iter().map(|segment| {
        let length: u64 = segment.data.iter().map(|f| f.len() as u64).sum();
        assert!(segment.offset.is_multiple_of(64), "a segment begins between two SHA-256 blocks");
        assert!(segment.last || length.is_multiple_of(64), "a segment ends between two SHA-256 blocks");
        Cursor::new(segment.data, segment.last.then(|| segment.offset.wrapping_add(length)))
    });
    lanes::run::<{ kernel::SHA256_LANES }, _>(&mut states, jobs, kernel::sha256);
    states.into_iter().map(Sha256State).collect()
}

/// SHA-256 of a message that comes bit by bit.
#[derive(Clone, Debug)]
pub struct Sha256 {
    pub(crate) state: Sha256State,
    pub(crate) buffer: Buffer,
}

impl Sha256 {
    /// Nothing hashed yet.
    pub const fn new() -> Self {
        Self { state: Sha256State::INITIAL, buffer: Buffer::new(0) }
    }

    /// Goes on behind `bytes_so_far` bytes, which led to `state`.
    ///
    /// # Panics
    /// If `bytes_so_far` is no multiple of 64: there is no state at such a place.
    pub const fn resume(state: Sha256State, bytes_so_far: u64) -> Self {
        assert!(bytes_so_far.is_multiple_of(64), "SHA-256 resumes between two blocks only");
        Self { state, buffer: Buffer::new(bytes_so_far) }
    }

    /// The chaining state, where the bytes so far are a multiple of 64.
    pub const fn state(&self) -> Option<Sha256State> {
        if self.buffer.is_empty() { Some(self.state) } else { None }
    }

    /// Hashes the message's next bytes.
    pub fn update(&mut self, data: &[u8]) {
        let state = &mut self.state.0;
        self.buffer.update(data, |blocks| compress(state, blocks));
    }

    /// The digest of all that was given.
    pub fn finalize(self) -> [u8; 32] {
        let mut state = self.state;
        self.buffer.finish(|blocks| compress(&mut state.0, blocks));
        state.to_bytes()
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

fn compress(state: &mut [u32; 8], blocks: &[Block]) {
    kernel::sha256(std::slice::from_mut(state), &[blocks]);
}
