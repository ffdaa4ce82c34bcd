//! Content-addressed blobs on disk.
//!
//! ```text
//! DIR/lock                       held while a process has the store open
//! DIR/index.redb                 a row per blob: size, media type, info-hash, times; its info dictionary
//! DIR/blobs/sha256/ab/<hex>      whole blobs, read-only; a borrowed one is a link to its owner's file
//! DIR/partial/<hex>              a blob that is being fetched, at its full length, with holes
//! DIR/partial/<hex>.journal      which of its pieces are proven, and by what
//! DIR/partial/<hex>.note         its torrent and media type, once known
//! ```
//!
//! A blob is begun, its pieces are written and marked as proven in any order, and it is committed; small
//! ones are put in one go. [`Journal`] is public by itself, for torrents that are not blobs.
//!
//! **Never:** the network, a hash over a blob that is already visible (but for one that a crash left without
//! its row), a guess. The store does not hash pieces either: whoever marks a piece as proven has checked it.
//! Only what it borrows it hashes itself.
//!
//! **The invariant:** what is visible (has a row, and lies under `blobs/`) is whole and proven.
//! [`Partial::commit`] takes no one's word for it: the evidence of all pieces must join up to one chain,
//! from SHA-256's initial state to the digest.
//!
//! **Threads:** everything blocks; async code calls from `spawn_blocking`. [`Store`] is shared as
//! `Arc<Store>` and safe from any thread. One process at a time.
//!
//! # What a crash can lose
//!
//! *The process dies* (`kill -9`, out of memory): nothing that was marked or committed. What was written to
//! files lies in the kernel's cache, which outlives the process. A mark that was being written is cut off:
//! that piece is fetched again. A commit that was cut off is either not visible, and the blob is still a
//! resumable partial, or its file lies under `blobs/` without a row; then [`Store::open`] hashes it and
//! completes the row from the note. Last-use times of the last [`Store::TOUCH_BATCH`] touches are lost.
//!
//! *The machine dies* (power, kernel panic): committed blobs stay, since the file is flushed before its
//! rename, and directory and row before `commit` returns. Marks of partial blobs become doubtful, as journal
//! and data are not flushed in order: a journal knows in which boot each mark was made, and gives those of
//! other boots as [`Opened::doubtful`], to be hashed again. A file system that loses unflushed data without
//! a reboot (a network file server that restarts, a disk that is pulled) is not noticed before the commit's
//! flush fails, or not at all; keep the store on a local disk.
//!
//! *The disk is full*: the operation fails with a `NoSpace` of its own, and what was there stays usable.

mod borrowed;
mod disk;
mod error;
mod evidence;
mod index;
mod journal;
mod note;
mod partial;
mod recovery;
mod store;

pub use error::{
    BeginError, BorrowError, CommitError, IndexError, JournalError, OpenError, PutError, RemoveError,
};
pub use evidence::{ChainError, Evidence};
pub use journal::{Journal, JournalSpec, Opened};
pub use partial::{Partial, PartialSummary};
pub use store::{Blob, BlobSummary, MAX_INFO, Store};
