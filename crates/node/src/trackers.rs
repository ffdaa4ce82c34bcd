//! The configured trackers, and how the node gets on with each.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::node::TrackerStatus;
use engine::{Engine, TrackerState};
use futures_util::future::join_all;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::content::now;

/// How often the trackers are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// All of them, in the order of the configuration.
pub(crate) struct Trackers(Mutex<Vec<Tracker>>);

struct Tracker {
    url: String,
    /// It has been heard of, by an announce or a connection: there is no need to try.
    known: bool,
    failing: Option<Failing>,
}

struct Failing {
    /// Seconds since 1970.
    since: u64,
    error: String,
}

impl Trackers {
    pub(crate) fn new(urls: &[String]) -> Arc<Self> {
        let new = |url: &String| Tracker { url: url.clone(), known: false, failing: None };
        Arc::new(Self(Mutex::new(urls.iter().map(new).collect())))
    }

    /// Their state now; `since` makes seconds since 1970 of the engine's age.
    pub(crate) fn status(&self, engine: &Engine, since: impl Fn(Duration) -> u64) -> Vec<TrackerStatus> {
        let states = engine.trackers();
        let mut all = self.lock();
        let status = all.iter_mut().map(|tracker| {
            let state = states.iter().find(|state| state.url == tracker.url);
            tracker.take(state);
            TrackerStatus {
                url: tracker.url.clone(),
                last_answer: state.and_then(|state| state.last_answer).map(&since),
                error: tracker.failing.as_ref().map(|failing| failing.error.clone()),
                failing_since: tracker.failing.as_ref().map(|failing| failing.since),
            }
        });
        status.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tracker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracker {
    /// Takes over what announces have shown, if there were any.
    fn take(&mut self, state: Option<&TrackerState>) {
        if let Some(state) = state {
            self.known = true;
            self.note(state.error.as_deref());
        }
    }

    /// Tells once that it fails, and once that it does no more.
    fn note(&mut self, error: Option<&str>) {
        match (error, &mut self.failing) {
            (Some(error), Some(failing)) => error.clone_into(&mut failing.error),
            (Some(error), failing) => {
                tracing::warn!(tracker = self.url, "the tracker does not answer: {error}");
                *failing = Some(Failing { since: now(), error: error.to_owned() });
            }
            (None, failing) => {
                if let Some(Failing { since, .. }) = failing.take() {
                    // A warning too: whoever has read of the beginning must read of the end.
                    let after = now().saturating_sub(since);
                    tracing::warn!(tracker = self.url, "the tracker answers again after {after} s");
                }
            }
        }
    }
}

/// Looks at the trackers until `stop`. One that nothing was announced to yet is tried, so that a wrong address shows
/// before it is needed.
pub(crate) async fn watch(trackers: Arc<Trackers>, engine: Engine, stop: CancellationToken) {
    if trackers.lock().is_empty() {
        tracing::warn!(
            "no tracker is configured: this node finds no peers, and all content comes from registries"
        );
        return;
    }
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let states = engine.trackers();
        let unknown: Vec<String> = {
            let mut all = trackers.lock();
            for tracker in all.iter_mut() {
                tracker.take(states.iter().find(|state| state.url == tracker.url));
            }
            all.iter().filter(|tracker| !tracker.known).map(|tracker| tracker.url.clone()).collect()
        };
        let tries = unknown.into_iter().map(|url| async move { (try_connect(&url).await, url) });
        let tried = tokio::select! {
            () = stop.cancelled() => return,
            tried = join_all(tries) => tried,
        };
        let mut all = trackers.lock();
        for (outcome, url) in tried {
            // An announce may have come first, and knows better.
            if let Some(tracker) = all.iter_mut().find(|tracker| tracker.url == url && !tracker.known) {
                tracker.known = outcome.is_ok();
                tracker.note(outcome.err().map(|error| error.to_string()).as_deref());
            }
        }
    }
}

/// Whether something listens where the URL says. Of other schemes than HTTP's nothing is known before an announce.
async fn try_connect(url: &str) -> io::Result<()> {
    let Some(address) = host_and_port(url) else { return Ok(()) };
    match timeout(CONNECT, TcpStream::connect(&address)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} cannot be reached"))),
    }
}

fn host_and_port(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    // The colons of an IPv6 address stand in brackets.
    let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    Some(if has_port { host.to_owned() } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_tracker_listens_is_in_its_url() {
        for (url, address) in [
            ("http://t:6969/announce", "t:6969"),
            ("https://u:p@t/announce?key=a:b", "t:443"),
            ("http://[::1]/announce", "[::1]:80"),
            ("http://[::1]:6969", "[::1]:6969"),
        ] {
            assert_eq!(host_and_port(url).as_deref(), Some(address));
        }
        assert_eq!(host_and_port("udp://t:6969"), None);
    }

    #[test]
    fn an_outage_keeps_its_beginning_and_shows_the_last_error() {
        let mut tracker = Tracker { url: "http://t".into(), known: false, failing: None };
        let state = |error: Option<&str>| TrackerState {
            url: "http://t".into(),
            last_answer: None,
            error: error.map(str::to_owned),
        };
        tracker.take(None);
        assert!(tracker.failing.is_none() && !tracker.known, "nothing was announced yet");
        tracker.take(Some(&state(Some("first"))));
        tracker.failing.as_mut().expect("fails").since = 7;
        tracker.take(Some(&state(Some("second"))));
        let failing = tracker.failing.as_ref().expect("fails");
        assert_eq!((failing.since, failing.error.as_str()), (7, "second"));
        tracker.take(Some(&state(None)));
        assert!(tracker.failing.is_none());
    }
}
