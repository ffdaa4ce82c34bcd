//! Why a tracker did not answer.

use std::{error::Error as _, io};

use announce::RetryIn;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the client for trackers: {0}")]
pub struct SetupError(#[from] pub(crate) reqwest::Error);

/// Why there is no answer to an announce. The words are for a line that names the tracker already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// Not an address that can be asked.
    #[error("it is no tracker's URL: {0}")]
    Url(&'static str),
    /// No connection, or it was lost.
    #[error("{0}")]
    Unreachable(String),
    /// The time was up.
    #[error("it does not answer in time")]
    TimedOut,
    /// It said no.
    #[error("it refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
        /// When to ask again (BEP 31).
        retry_in: Option<RetryIn>,
    },
    /// An HTTP status that is none of an answer.
    #[error("HTTP status {0}{hint}", hint = if *.0 == 404 { ": does the URL end in /announce?" } else { "" })]
    Status(u16),
    /// What it said cannot be understood.
    #[error("its answer cannot be read: {0}; is it a tracker, and does the URL end in /announce?")]
    Malformed(String),
}

impl TrackerError {
    /// Of reqwest's errors only the deepest cause says what happened; the URL may hold a secret.
    pub(crate) fn of(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = cause.to_string();
            source = cause.source();
        }
        Self::Unreachable(text)
    }
}

impl From<io::Error> for TrackerError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}
