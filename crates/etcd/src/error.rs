//! How a call to etcd can fail, sorted by what the caller does about it.

use std::time::Duration;

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A user and no password.
    #[error("etcd's address names the user {0}, but there is no password for that user")]
    NoPassword(String),
    /// The authority's certificate cannot be used.
    #[error("the certificate of etcd's authority cannot be used: {0}")]
    Authority(#[source] reqwest::Error),
    /// No certificate in it at all.
    #[error("the file of etcd's authority holds no certificate (PEM)")]
    NoAuthority,
    /// The HTTP client itself.
    #[error("setting up the HTTP client failed: {0}")]
    Http(#[source] reqwest::Error),
}

/// Why a call has no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers there, or nothing that is complete.
    #[error("etcd cannot be reached at {member}: {reason}")]
    Unreachable {
        /// Whom it was.
        member: String,
        /// The cause, down to the system's words.
        reason: String,
    },
    /// No answer in time, from whomever.
    #[error("etcd did not answer within {0:?}")]
    TimedOut(Duration),
    /// The member is there and cannot: no leader, an election, too much to do.
    #[error("etcd at {member} cannot serve now: {reason}")]
    Unavailable {
        /// Whom it was.
        member: String,
        /// Its words.
        reason: String,
    },
    /// The token is none, not one any more, or of before a change of rights. The client then asks for another.
    #[error("etcd at {member} asks for a login: {reason}; name a user in its address, and give the password")]
    Login {
        /// Whom it was.
        member: String,
        /// Its words.
        reason: String,
    },
    /// Wrong user or password, or too few rights.
    #[error("etcd at {member} refuses: {reason}; check the user, the password and the user's role")]
    Denied {
        /// Whom it was.
        member: String,
        /// Its words.
        reason: String,
    },
    /// The database has reached its quota: it takes nothing more until it is compacted and the alarm is disarmed.
    #[error(
        "etcd at {member} is full: {reason}; see its --quota-backend-bytes and --auto-compaction-retention"
    )]
    Full {
        /// Whom it was.
        member: String,
        /// Its words.
        reason: String,
    },
    /// A lease that does not exist.
    #[error("etcd at {0} does not know this lease")]
    NoLease(String),
    /// A lease that exists.
    #[error("etcd at {0} has a lease of this name already")]
    LeaseExists(String),
    /// What was sent is wrong, or too large.
    #[error("etcd at {member} does not accept the call: {reason}")]
    Rejected {
        /// Whom it was.
        member: String,
        /// Its words.
        reason: String,
    },
    /// An answer that is not of this API: another server, or etcd without its gateway.
    #[error("{member} answers as no etcd with its JSON gateway (/v3) does: {reason}")]
    BadAnswer {
        /// Whom it was.
        member: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl Error {
    /// Whether the same call may succeed with another member, or later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut(_) | Self::Unavailable { .. })
    }
}

/// The gateway's answer to a call that failed, by the code of gRPC that it names.
pub(crate) fn refusal(member: &str, code: i64, reason: &str) -> Error {
    let (member, reason) = (member.to_owned(), reason.to_owned());
    match code {
        // Cancelled, deadline exceeded, unavailable.
        1 | 4 | 14 => Error::Unavailable { member, reason },
        8 if reason.contains("too many requests") => Error::Unavailable { member, reason },
        8 if reason.contains("space exceeded") => Error::Full { member, reason },
        // Somebody who has not said who he is, or whose word is from before the last change of rights.
        3 if reason.contains("user name is empty") || reason.contains("auth store is old") => {
            Error::Login { member, reason }
        }
        16 => Error::Login { member, reason },
        3 if reason.contains("authentication failed") => Error::Denied { member, reason },
        7 => Error::Denied { member, reason },
        5 if reason.contains("lease not found") => Error::NoLease(member),
        9 if reason.contains("lease already exists") => Error::LeaseExists(member),
        _ => Error::Rejected { member, reason },
    }
}
