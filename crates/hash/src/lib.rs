//! SHA-1 and SHA-256: one-shot, incremental, resumable, and several streams at once.

mod digest;

pub use digest::{Digest, DigestError, from_hex, to_hex};

/// The SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(data).into()
}
