//! One client for all trackers.

use std::{net::IpAddr, time::Duration};

use announce::{AnnounceRequest, AnnounceResponse};
use tokio::time::timeout;

use crate::{
    Location,
    error::{SetupError, TrackerError},
    http, udp,
};

/// Asks trackers. Cheap to share; keeps HTTP connections open for the next question.
#[derive(Clone, Debug)]
pub struct TrackerClient {
    http: reqwest::Client,
    from: Option<IpAddr>,
}

/// What to ask, of whom.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The announce URL: `http://`, `https://` or `udp://`.
    pub tracker: &'a str,
    /// What it is told.
    pub request: &'a AnnounceRequest,
    /// The `Host` that an HTTP tracker is asked by, where that is not the URL's.
    pub host: Option<&'a str>,
    /// How long all of it may take.
    pub deadline: Duration,
}

impl TrackerClient {
    /// How the URL begins of a tracker that can be asked.
    pub const SCHEMES: &'static [&'static str] = &["http://", "https://", "udp://"];

    /// Whether the URL is one of a tracker that can be asked.
    pub fn can_ask(url: &str) -> bool {
        Self::SCHEMES.iter().any(|scheme| url.starts_with(scheme))
    }

    /// A client whose questions come from this address of the machine, if one is given: trackers tell others of the
    /// address that they were asked from.
    ///
    /// # Errors
    /// When the system's certificates cannot be read.
    pub fn new(from: Option<IpAddr>) -> Result<Self, SetupError> {
        let from = from.filter(|ip| !ip.is_unspecified());
        Ok(Self { http: http::client(from)?, from })
    }

    /// Announces, and gives the tracker's answer.
    ///
    /// # Errors
    /// [`TrackerError`], a refusal among them.
    pub async fn announce(&self, question: Question<'_>) -> Result<AnnounceResponse, TrackerError> {
        let ask = async {
            match Location::of(question.tracker) {
                Some(Location { scheme: "http" | "https", .. }) => {
                    http::announce(&self.http, &question).await
                }
                Some(at @ Location { scheme: "udp", .. }) => udp::announce(self.from, at, &question).await,
                _ => Err(TrackerError::Url("it must begin with http://, https:// or udp://")),
            }
        };
        timeout(question.deadline, ask).await.unwrap_or(Err(TrackerError::TimedOut))
    }
}
