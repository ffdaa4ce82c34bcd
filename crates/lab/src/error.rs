//! How a lab can fail.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{config::MAX_NODES, image::ImageError};

/// Why a lab did not come to its report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A speed, but no links that could have it.
    #[error(
        "--rate and --origin-rate need --netns: loopback addresses share one link, whose speed cannot be set"
    )]
    RateWithoutNamespaces,
    /// Not root.
    #[error("--netns needs root, to make network namespaces: run it with sudo, or without --netns")]
    NotRoot,
    /// `ip` or `tc` is not there.
    #[error("--netns needs the program `{program}`: install iproute2 (Debian: apt-get install iproute2)")]
    NoProgram {
        /// Which one.
        program: &'static str,
    },
    /// More nodes than addresses are planned for.
    #[error("{asked} nodes are too many: seeders and leechers together may be {MAX_NODES}")]
    TooManyNodes {
        /// How many were asked for.
        asked: usize,
    },
    /// Nobody pulls.
    #[error("a lab needs at least one leecher: give --leechers")]
    NoLeecher,
    /// The working directory is not empty.
    #[error("{} is not empty: choose another directory, or empty it", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The image could not be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file or directory.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// An address that is not free.
    #[error("{what} cannot listen on {address}: {source}; does another lab run?")]
    Listen {
        /// Who wanted it.
        what: String,
        /// Where.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// All blocks of addresses are other labs'.
    #[error("too many labs run on this machine: end one of them, or use --netns")]
    TooManyLabs,
    /// `ip` or `tc` failed, or is not there.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        reason: String,
    },
    /// A namespace that cannot be entered.
    #[error("cannot enter the network namespace {name}: {source}")]
    Namespace {
        /// Its name.
        name: String,
        /// The system's words.
        source: io::Error,
    },
    /// A process could not be started.
    #[error("cannot start {name}: {source}")]
    Spawn {
        /// The process.
        name: String,
        /// The system's words.
        source: io::Error,
    },
    /// A process ended before its time.
    #[error("{name} has ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// The process.
        name: String,
        /// How.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// A process does not answer.
    #[error("{name} is not ready after {after:?}: {reason}; the end of its log:\n{log}")]
    NotReady {
        /// The process.
        name: String,
        /// How long it had.
        after: Duration,
        /// What it last said.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// A node that should hold the image could not get it.
    #[error("{name} could not pull the image: {reason}; the end of its log:\n{log}")]
    Seeder {
        /// The node.
        name: String,
        /// Why.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The client of a node's API.
    #[error("a client cannot be made: {0}")]
    Client(String),
    /// A thread ended before its time.
    #[error("a thread of the lab ended before its time")]
    Thread,
    /// Told to stop before there was a report.
    #[error("stopped before it was done; everything is removed")]
    Stopped,
}
