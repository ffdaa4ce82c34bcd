//! SHA-1 and SHA-256 of the same bytes, as for the torrent of a blob that streams by.

use crate::{Sha1, Sha256, kernel};

/// Hashes the next bytes of a message with both, in one loop where both stand at the same place in a block: little
/// slower than SHA-256 alone.
pub fn update_both(sha1: &mut Sha1, sha256: &mut Sha256, data: &[u8]) {
    let filled = sha1.buffer.filled();
    if filled != sha256.buffer.filled() {
        sha1.update(data);
        sha256.update(data);
        return;
    }
    let head = if filled == 0 { 0 } else { (64 - filled).min(data.len()) };
    let (head, rest) = data.split_at(head);
    let (blocks, tail) = rest.as_chunks();
    sha1.update(head);
    sha256.update(head);
    if !blocks.is_empty() {
        kernel::both(&mut sha1.state, &mut sha256.state.0, blocks);
        sha1.buffer.skip(blocks);
        sha256.buffer.skip(blocks);
    }
    sha1.update(tail);
    sha256.update(tail);
}
