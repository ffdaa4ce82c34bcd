//! How the store's operations fail. A full disk is always a case of its own.

use std::{io, path::PathBuf};

use hash::Digest;

use crate::{disk, evidence::ChainError};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store at {} is in use by another process{}: stop that one, or use another directory",
        dir.display(), .holder.as_ref().map(|pid| format!(" ({pid})")).unwrap_or_default())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// The other's process id, if it could be read.
        holder: Option<String>,
    },
    /// The disk is full.
    #[error("the disk is full: the store at {} cannot be opened", .0.display())]
    NoSpace(PathBuf),
    /// A file or directory cannot be used.
    #[error("{what} {} failed: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// The index cannot be used.
    #[error("opening the store's index failed: {0}")]
    Index(#[from] IndexError),
}

/// Why the index cannot answer or take a change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The disk is full.
    #[error("the disk is full: the store's index cannot be written")]
    NoSpace,
    /// It was written by a version that this one does not know.
    #[error(
        "the store's index has format {found}, and this program knows only {known}: use the program that wrote it, or remove index.redb to have it built anew from the blobs"
    )]
    Version {
        /// The format found.
        found: u64,
        /// The format that this program writes.
        known: u64,
    },
    /// The database reports an error.
    #[error("the store's index failed: {0}")]
    Database(#[source] Box<redb::Error>),
    /// Another thread's batch held this change and failed.
    #[error("the store's index failed: {0}")]
    Batch(String),
}

/// Why a journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The disk is full.
    #[error("the disk is full: the journal {} cannot be written", .0.display())]
    NoSpace(PathBuf),
    /// No such piece.
    #[error("piece {piece} is none of the {count} pieces of this journal")]
    OutOfRange {
        /// The piece.
        piece: u32,
        /// How many there are.
        count: u32,
    },
    /// No such torrent: the piece length is 0, or there are too many pieces.
    #[error("{total} bytes cannot be cut into pieces of {piece_length}")]
    Geometry {
        /// The torrent's length.
        total: u64,
        /// The piece length.
        piece_length: u32,
    },
    /// The file cannot be used.
    #[error("{what} the journal {} failed: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The journal.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

/// Why a blob cannot be begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// It is there already: nothing to fetch.
    #[error("{0} is in the store already")]
    Present(Digest),
    /// Someone else in this process is at it.
    #[error("{0} is being written already")]
    Busy(Digest),
    /// The piece length does not suit SHA-256's blocks, or there would be more than
    /// [`metainfo::MAX_PIECES`] pieces.
    #[error(
        "{size} bytes cannot be cut into pieces of {piece_length}: that must be a multiple of 64, and give at most {} pieces",
        metainfo::MAX_PIECES
    )]
    Geometry {
        /// The blob's length.
        size: u64,
        /// The piece length.
        piece_length: u32,
    },
    /// The blob does not fit on the disk.
    #[error("the disk is full: {digest} needs {size} bytes")]
    NoSpace {
        /// The blob.
        digest: Digest,
        /// Its length.
        size: u64,
    },
    /// Its journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The index cannot answer.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file cannot be used.
    #[error("{what} {} failed: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

/// Why a blob does not become visible. What was fetched of it is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The evidence does not prove the blob.
    #[error("{digest} is not proven: {reason}")]
    Unproven {
        /// The blob.
        digest: Digest,
        /// What is amiss.
        #[source]
        reason: ChainError,
    },
    /// The disk is full.
    #[error("the disk is full: {0} cannot be completed")]
    NoSpace(Digest),
    /// The index did not take the row.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file cannot be used.
    #[error("{what} {} failed: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

/// Why bytes are not put into the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// They are another blob.
    #[error("the bytes are {found}, not {expected}")]
    Digest {
        /// The blob that was to be put.
        expected: Digest,
        /// What the bytes are.
        found: Digest,
    },
    /// Someone else in this process is at it.
    #[error("{0} is being written already")]
    Busy(Digest),
    /// As for a blob that was fetched.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why a file of somebody else's is not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BorrowError {
    /// It is another blob.
    #[error("{} is {found}, not {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The blob that it was to be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is no regular file, or was changed within the last two seconds.
    #[error("{} is no file, or is being written", .0.display())]
    Unsettled(PathBuf),
    /// Someone in this process is writing the blob.
    #[error("{0} is being written already")]
    Busy(Digest),
    /// The index did not take the row.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file cannot be used.
    #[error("{what} {} failed: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

/// Why a blob is not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// Someone in this process is writing it.
    #[error("{0} is being written and cannot be removed now")]
    Busy(Digest),
    /// The index did not take the change.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The file cannot be removed.
    #[error("removing {} failed: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        if disk::is_full(&error) { Self::NoSpace(path) } else { Self::Io { what, path, error } }
    }
}

impl JournalError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        if disk::is_full(&error) { Self::NoSpace(path) } else { Self::Io { what, path, error } }
    }
}

impl CommitError {
    pub(crate) fn io(
        digest: &Digest,
        what: &'static str,
        path: impl Into<PathBuf>,
        error: io::Error,
    ) -> Self {
        if disk::is_full(&error) {
            Self::NoSpace(*digest)
        } else {
            Self::Io { what, path: path.into(), error }
        }
    }
}

impl<E: Into<redb::Error>> From<E> for IndexError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if disk::is_full(&error) => Self::NoSpace,
            error => Self::Database(Box::new(error)),
        }
    }
}
