//! SHA-1, which names torrents and their pieces (BEP 3).

use crate::{
    kernel,
    lanes::{self, Block, Buffer, Cursor},
};

/// The SHA-1 of `data`.
pub fn sha1(data: &[u8]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    hasher.update(data);
    hasher.finalize()
}

/// The SHA-1 of each message, several at a time.
///
/// A message is a list of fragments, hashed as their concatenation. Messages may differ in length: a lane that
/// is done takes the next message. Results stand in the messages' order.
pub fn sha1_many(messages: &[&[&[u8]]]) -> Vec<[u8; 20]> {
    let mut states = vec![INITIAL; messages.len()];
    let jobs = messages.iter().map(|fragments| Cursor::new(fragments, Some(length(fragments))));
    lanes::run::<{ kernel::SHA1_LANES }, _>(&mut states, jobs, kernel::sha1);
    states.iter().map(to_bytes).collect()
}

/// SHA-1 of a message that comes bit by bit.
#[derive(Clone, Debug)]
pub struct Sha1 {
    pub(crate) state: [u32; 5],
    pub(crate) buffer: Buffer,
}

impl Sha1 {
    /// Nothing hashed yet.
    pub const fn new() -> Self {
        Self { state: INITIAL, buffer: Buffer::new(0) }
    }

    /// Hashes the message's next bytes.
    pub fn update(&mut self, data: &[u8]) {
        let state = &mut self.state;
        self.buffer.update(data, |blocks| compress(state, blocks));
    }

    /// The hash of all that was given.
    pub fn finalize(self) -> [u8; 20] {
        let mut state = self.state;
        self.buffer.finish(|blocks| compress(&mut state, blocks));
        to_bytes(&state)
    }
}

impl Default for Sha1 {
    fn default() -> Self {
        Self::new()
    }
}

/// The initial value (FIPS 180-4, 5.3.1).
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

fn compress(state: &mut [u32; 5], blocks: &[Block]) {
    kernel::sha1(std::slice::from_mut(state), &[blocks]);
}

fn length(fragments: &[&[u8]]) -> u64 {
    fragments.iter().map(|f| f.len() as u64).sum()
}

fn to_bytes(state: &[u32; 5]) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (out, word) in bytes.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}
