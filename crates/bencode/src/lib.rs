//! Bencode: strict, zero-copy, depth-limited, with raw spans.
