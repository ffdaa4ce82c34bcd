//! How a lab can fail.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{config::MAX_NODES, image::ImageError};

/// Why a lab did not come to its report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A speed for the registry, but no link that could have it.
    #[error("--origin-rate needs --netns: without it only nodes can be limited, by themselves")]
    OriginRateWithoutNamespaces,
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
    /// A torrent could not be made.
    #[error("{0}")]
    Content(String),
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
    /// A delay, but no links that could have it.
    #[error("--delay needs --netns: packets on loopback cannot be delayed for some of its addresses alone")]
    DelayWithoutNamespaces,
    /// The kernel cannot delay packets.
    #[error(
        "this kernel cannot delay packets (tc netem): load the module sch_netem (`modprobe sch_netem`; Debian's cloud \
         kernels leave it out), or leave --delay out"
    )]
    NoDelay,
    /// A topology that makes no sense.
    #[error("there cannot be such a lab: {0}")]
    Topology(String),
    /// Not a lab's name.
    #[error("`{name}` cannot be a lab's name: use up to 16 small letters and digits")]
    BadName {
        /// What was given.
        name: String,
    },
    /// The page where others could reach it.
    #[error(
        "the page has no log-in, and cannot be at {page}: give an address of loopback, such as 127.0.0.1:7070"
    )]
    OpenPage {
        /// What was given.
        page: SocketAddr,
    },
    /// The page's address is not free.
    #[error("the page cannot be at {page}: {source}; give another --page, or none for a free one")]
    Page {
        /// What was given.
        page: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// Another client is not installed.
    #[error("{program} is not installed (Debian: apt-get install {program})")]
    NoClient {
        /// The program, which Debian's package is called after.
        program: &'static str,
    },
    /// No lab.
    #[error("no lab runs{}: raise one with `longshore lab up`", .name.as_ref().map(|n| format!(" with the name {n}")).unwrap_or_default())]
    NoLab {
        /// The name that was asked for.
        name: Option<String>,
    },
    /// No such node.
    #[error("the lab {lab} has no node `{node}` that runs: it has {}", .nodes.join(", "))]
    NoNode {
        /// The lab's name.
        lab: String,
        /// The name that was asked for.
        node: String,
        /// All names.
        nodes: Vec<String>,
    },
    /// Which of several labs is not said.
    #[error("several labs run ({}): say which with --name, or LAB/HOST with --node", .names.join(", "))]
    WhichLab {
        /// All names.
        names: Vec<String>,
    },
    /// A lab that does not end.
    #[error("the lab {name} does not end: {reason}")]
    Stays {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A lab of this name runs.
    #[error(
        "a lab named {name} runs already: end it with `longshore lab down --name {name}`, or give another --name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// What a killed lab has left cannot be removed.
    #[error("{} is left of an earlier lab and cannot be removed: remove it by hand", path.display())]
    Remains {
        /// Its directory.
        path: PathBuf,
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
    /// A host of a lasting lab does not come to run.
    #[error("{name} could not be started: {reason}; the end of its log:\n{log}")]
    Start {
        /// The host.
        name: String,
        /// Why.
        reason: String,
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
    /// A node was to limit itself.
    #[error("{name} cannot be limited: {reason}")]
    Limit {
        /// The node.
        name: String,
        /// Why not.
        reason: String,
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

impl LabError {
    /// Whether what was given cannot be used, and another try needs other words.
    pub const fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::OriginRateWithoutNamespaces
                | Self::TooManyNodes { .. }
                | Self::NoLeecher
                | Self::NotEmpty { .. }
                | Self::Image(_)
                | Self::DelayWithoutNamespaces
                | Self::NoDelay
                | Self::Topology(_)
                | Self::BadName { .. }
                | Self::OpenPage { .. }
                | Self::Page { .. }
                | Self::NoClient { .. }
                | Self::NameTaken { .. }
                | Self::WhichLab { .. }
                | Self::NoNode { .. }
        )
    }
}
