//! How a call can fail, sorted by what the caller does about it.

use std::time::Duration;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorBody {
    /// What failed and what to do about it, in a sentence.
    pub error: String,
}

impl ErrorBody {
    /// A body that says `error`.
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into() }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No address at all.
    #[error("no address given: expected at least one like http://host:6969")]
    NoAddress,
    /// An address that is no `http` or `https` URL.
    #[error("`{url}` is not an http or https address: {reason}")]
    BadAddress {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A token that cannot stand in a header.
    #[error("the token holds characters that an HTTP header cannot carry")]
    BadToken,
    /// The HTTP client itself could not be set up (certificates, mostly).
    #[error("setting up the HTTP client failed: {0}")]
    Setup(#[source] reqwest::Error),
}

/// Why a call has no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody answered at the address: it is down, or the network is. Go on without it.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The address called.
        url: String,
        /// The cause, down to the system's words.
        reason: String,
    },
    /// The system does not let this user connect: the node's socket belongs to another.
    #[error("the system does not allow a connection to {url}: {reason}")]
    NotAllowed {
        /// The address called.
        url: String,
        /// The system's words.
        reason: String,
    },
    /// No whole answer within the time the call had.
    #[error("{url} did not answer within {after:?}")]
    TimedOut {
        /// The address called.
        url: String,
        /// How long it was given.
        after: Duration,
    },
    /// It has failed a moment ago, and slowly, and is not asked again yet. Go on without it.
    #[error("{url} did not answer a moment ago, and is left alone for {} s", left.as_secs() + 1)]
    LeftAlone {
        /// The address that would have been called.
        url: String,
        /// For how much longer.
        left: Duration,
    },
    /// 401 or 403: the token is missing or wrong. Asking again will not help.
    #[error("{url} refused the call ({status}): {reason}; check the token")]
    Refused {
        /// The address called.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        reason: String,
    },
    /// Another 4xx: what was sent is wrong, or conflicts with what is there.
    #[error("{url} did not accept the call ({status}): {reason}")]
    Rejected {
        /// The address called.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        reason: String,
    },
    /// 5xx or 429: the server is there but cannot now. Asking later may help.
    #[error("{url} cannot serve the call now ({status}): {reason}")]
    Unavailable {
        /// The address called.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        reason: String,
    },
    /// An answer that is not of this API: a wrong address, or a server of another version.
    #[error("{url} answered something that cannot be understood: {reason}")]
    BadAnswer {
        /// The address called.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl CallError {
    /// Whether the same call may succeed later or at another address.
    pub fn is_transient(&self) -> bool {
        use CallError::{LeftAlone, TimedOut, Unavailable, Unreachable};
        matches!(self, Unreachable { .. } | LeftAlone { .. } | TimedOut { .. } | Unavailable { .. })
    }
}
