//! Why the tracker does not start, and why the directory does not answer.

use std::{io, path::PathBuf};

use hash::Digest;

use crate::{
    config::{ConfigError, Home},
    endpoint::Listen,
    policy::FileError,
    user::UserError,
};

/// Why the tracker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("the tracker's configuration is wrong: {0}")]
    Config(#[from] ConfigError),
    /// An address cannot be bound.
    #[error("cannot listen on {at}: {error}")]
    Listen {
        /// The address.
        at: Listen,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// A socket that was handed over is of no use.
    #[error("cannot use the inherited socket `{name}`: {error}")]
    Inherited {
        /// What it is called.
        name: String,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// The process cannot become the user that the configuration names.
    #[error(transparent)]
    User(#[from] UserError),
    /// Certificate or key are of no use.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The cluster's key cannot be read.
    #[error("`cluster_key_file`: cannot read {}: {error}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// The cluster's key is none.
    #[error(transparent)]
    Key(#[from] crate::KeyError),
    /// The system gives no thread, or no descriptor.
    #[error("the system refuses the tracker what it needs: {0}")]
    System(#[source] io::Error),
    /// A file that the configuration names is of no use.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no client for forwarders.
    #[error(transparent)]
    Client(#[from] tracker_client::SetupError),
    /// The directory cannot be opened.
    #[error("cannot open the content directory {}: {error}", home.as_ref().map_or("in memory".to_owned(), |home| format!("at {home}")))]
    Directory {
        /// Where it is to be.
        home: Option<Home>,
        /// What is wrong.
        #[source]
        error: Box<DirectoryError>,
    },
}

/// Why the directory cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// What was sent is wrong.
    #[error("{0}")]
    Invalid(String),
    /// No more room by configuration.
    #[error("the directory is full: it holds {0} entries, its `max_entries`")]
    Full(u64),
    /// No more room in memory.
    #[error("the directory is full: in memory it holds no more; keep it in a file or in etcd (`directory`)")]
    NoRoom,
    /// The disk takes nothing.
    #[error("the directory's disk takes nothing, and until it does the directory is only read: {0}")]
    Failing(String),
    /// Its file holds what the directory has not written.
    #[error("the directory's file is damaged: move it away, and start anew; nodes publish again ({0})")]
    Damaged(String),
    /// Nobody waits for the answer any more.
    #[error("the client has gone")]
    Gone,
    /// The tracker is going down.
    #[error("the tracker is shutting down")]
    Closing,
    /// The database reports an error.
    #[error("the directory's database failed: {0}")]
    Database(#[source] Box<redb::Error>),
    /// etcd cannot be called as configured.
    #[error("{0}")]
    Setup(#[source] etcd::SetupError),
    /// A file that goes with etcd cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// etcd does not do it.
    #[error("{0}")]
    Etcd(#[source] etcd::Error),
    /// Trackers take a blob's lease from one another.
    #[error("the lease of {0} changes hands all the time: try again")]
    Contended(Digest),
    /// A task was lost.
    #[error("the directory's work was cut short: {0}")]
    Lost(String),
}

impl DirectoryError {
    /// Whether the file is not the directory's at all, or is too broken to be it.
    pub fn is_no_database(&self) -> bool {
        use redb::Error::{Corrupted, TableIsMultimap, TableTypeMismatch, UpgradeRequired};
        let Self::Database(error) = self else { return false };
        match &**error {
            Corrupted(_) | TableIsMultimap(_) | TableTypeMismatch { .. } | UpgradeRequired(_) => true,
            // A file that ends too soon.
            redb::Error::Io(error) => {
                matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            _ => false,
        }
    }
}

impl DirectoryError {
    /// Whether this process may not read or write the file, or make it.
    pub fn is_forbidden(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let error = match self {
            Self::File { error, .. } => error,
            Self::Database(error) => match &**error {
                redb::Error::Io(error) => error,
                _ => return false,
            },
            _ => return false,
        };
        matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
    }

    /// Whether the database has found that it was written to by others.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Database(error) => matches!(**error, redb::Error::Corrupted(_)),
            _ => false,
        }
    }

    /// Whether the disk failed, after which the database refuses everything.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        use redb::Error::{Corrupted, DatabaseClosed, Io, PreviousIo};
        match self {
            Self::Database(error) => matches!(**error, Io(_) | PreviousIo | DatabaseClosed | Corrupted(_)),
            Self::Failing(_) | Self::Damaged(_) => true,
            _ => false,
        }
    }
}

impl<E: Into<redb::Error>> From<E> for DirectoryError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}
