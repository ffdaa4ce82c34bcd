//! SHA-1 and SHA-256: one-shot, incremental, resumable from a chaining state, and several streams at once.
//!
//! One stream leaves most of a core's SHA unit idle, as each round waits for the one before. Four streams in
//! one loop keep it busy, at about twice the speed. So whoever has several pieces to check hands them over
//! together: [`sha1_many`], [`sha256_segments`]; and [`update_both`] fills the gaps of one hash with the other.
//!
//! What it never does: start a thread, allocate by anything but the number of messages, or depend on what the
//! processor can do for its results. It is the only crate that may use `unsafe`, and does so in
//! `kernel::x86` alone.
//!
//! The invariant: every path gives the same bytes as the `sha1` and `sha2` crates. Everything runs on the
//! caller's thread.

mod both;
mod digest;
mod kernel;
mod lanes;
mod sha1;
mod sha256;

pub use both::update_both;
pub use digest::{Digest, DigestError, from_hex, to_hex};
pub use sha1::{Sha1, sha1, sha1_many};
pub use sha256::{Segment, Sha256, Sha256State, sha256, sha256_segments};
