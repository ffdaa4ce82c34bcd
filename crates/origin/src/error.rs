//! What can go wrong when an origin is asked.

use std::{fmt, time::Duration};

use crate::{Repository, UpstreamError};

/// What was asked: a registry, and mostly a repository in it. It stands in every error's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Registry name, `docker.io`.
    pub registry: String,
    /// Repository name, `library/busybox`; none when the registry itself was asked.
    pub repository: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repository {
            Some(repository) => write!(f, "{}/{repository}", self.registry),
            None => f.write_str(&self.registry),
        }
    }
}

impl From<&Repository> for Place {
    fn from(repository: &Repository) -> Self {
        Self { registry: repository.registry().into(), repository: Some(repository.name().into()) }
    }
}

/// How far it came with an origin that could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// To nothing: its name was not resolved, or not one of its addresses took a TCP connection. Said of listed
    /// registries only, and of no storage or token service that they lead to.
    Gone,
    /// To no answer in time, or not to the end of one: it is slow, breaks off, or is no server for TLS. Whoever asks
    /// may be the reason.
    Silent,
    /// To this status.
    Status(u16),
}

/// Why an origin did not give what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// 404 or 410: the registry says it has no such thing.
    #[error("{place} has no {what}")]
    NotFound {
        /// Who was asked.
        place: Place,
        /// Which manifest, blob or listing.
        what: String,
    },
    /// 401 that our credentials, or none, could not satisfy.
    #[error("{place} wants other credentials ({reason}): set or correct `credentials` of this upstream")]
    Unauthorized {
        /// Who was asked.
        place: Place,
        /// What was refused: the request or the token.
        reason: String,
        /// The registry's `WWW-Authenticate`, for a caller that relays it.
        challenge: Option<String>,
    },
    /// 403: known to the registry, and not allowed.
    #[error("{place} does not allow {what} to these credentials")]
    Denied {
        /// Who was asked.
        place: Place,
        /// Which manifest, blob or listing.
        what: String,
    },
    /// Could not be reached within the deadlines and retries: no connection, no answer, or only 5xx.
    #[error("{place} cannot be reached at {host}: {reason}")]
    Unreachable {
        /// Who was asked.
        place: Place,
        /// Host and port that was tried last.
        host: String,
        /// How far the last try came.
        cause: Cause,
        /// The last failure.
        reason: String,
    },
    /// 429, and it would not do to wait as long as asked.
    #[error("{place} asks for fewer requests: try again later, or set `credentials` for a higher allowance")]
    Throttled {
        /// Who was asked.
        place: Place,
        /// The registry's `Retry-After`, when it gave one.
        retry_after: Option<Duration>,
    },
    /// Answered, but with something that cannot be right: wrong bytes, wrong range, a forbidden redirect.
    #[error("{place} gave a wrong answer for {what}: {reason}")]
    Invalid {
        /// Who was asked.
        place: Place,
        /// Which manifest, blob or listing.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest, listing or token above the bound.
    #[error("{place} gave more than {limit} bytes for {what}")]
    TooLarge {
        /// Who was asked.
        place: Place,
        /// Which manifest or listing.
        what: String,
        /// The bound, in bytes.
        limit: usize,
    },
    /// A status that says none of the above, such as 400 or 405.
    #[error("{place} answered status {status} for {what}")]
    Unexpected {
        /// Who was asked.
        place: Place,
        /// Which manifest, blob or listing.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// The configuration does not let this registry, repository or address be asked.
    #[error("{place} is not asked: {reason}")]
    NotAllowed {
        /// Who would have been asked.
        place: Place,
        /// Why not, and what would allow it.
        reason: String,
    },
    /// The upstream's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] UpstreamError),
}

impl OriginError {
    /// Whether the origin may be in good order the next time: it was out of reach or busy.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Throttled { .. })
    }

    /// Whether a listed registry is down beyond doubt: [`Cause::Gone`]. That it is slow, or answers with errors, a client
    /// may have brought about.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Unreachable { cause: Cause::Gone, .. })
    }

    /// Whether a gateway answered for a registry that it did not reach: 502, 503 or 504.
    pub fn is_from_gateway(&self) -> bool {
        matches!(self, Self::Unreachable { cause: Cause::Status(502..=504), .. })
    }
}
