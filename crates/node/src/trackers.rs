//! The configured trackers, and how the node gets on with each.

use std::{io, time::Duration};

use api::{DirectoryClient, directory::Run, node::TrackerStatus};
use engine::{Engine, TrackerState};
use futures_util::future::join_all;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often a tracker is tried that cannot be reached.
const TRY: Duration = Duration::from_secs(5);
/// How often it is looked whether a tracker was started anew; each time some seconds more or less, so that a fleet does
/// not announce at once.
const LOOK: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Their state now, in the order of the configuration; `since` makes seconds since 1970 of the engine's age.
pub(crate) fn status(
    urls: &[String],
    engine: &Engine,
    since: impl Fn(Duration) -> u64,
) -> Vec<TrackerStatus> {
    let mut states = engine.trackers();
    let status = urls.iter().map(|url| {
        let known = states.iter().position(|state| state.url == *url).map(|at| states.swap_remove(at));
        let TrackerState { last_answer, error, failing_since, .. } = known.unwrap_or_default();
        TrackerStatus {
            url: url.clone(),
            last_answer: last_answer.map(&since),
            error,
            failing_since: failing_since.map(&since),
        }
    });
    status.collect()
}

/// Tries the trackers that nothing was announced to yet, until each can be reached, so that a wrong address shows
/// before it is needed.
pub(crate) async fn watch(urls: Vec<String>, engine: Engine, stop: CancellationToken) {
    let mut ticks = interval(TRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut untried = urls;
    while !untried.is_empty() {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let tries = untried.into_iter().map(|url| async move { (try_connect(&url).await, url) });
        let tried = tokio::select! {
            () = stop.cancelled() => return,
            tried = join_all(tries) => tried,
        };
        untried = Vec::new();
        for (outcome, url) in tried {
            // An announce that came first knows better.
            if !engine.trackers().iter().any(|state| state.url == url && state.last_answer.is_some()) {
                let error = outcome.err().map(|error| error.to_string());
                if error.is_some() {
                    untried.push(url.clone());
                }
                engine.tried_tracker(url, error);
            }
        }
    }
}

/// Announces everything again when a tracker was started anew, since it has lost its peers. Without this they would be
/// back within the interval only, and a node that shares one torrent by one announce in ten minutes.
pub(crate) async fn watch_runs(directory: DirectoryClient, engine: Engine, stop: CancellationToken) {
    let mut known = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            seen = directory.runs() => if are_new(&mut known, seen) {
                tracing::info!("a tracker was started anew: everything is announced again");
                engine.announce_again().await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK.mul_f64(rand::random_range(0.75..1.25))) => {}
        }
    }
}

/// Whether one of those that are known is another now; takes note of all that are seen.
fn are_new(known: &mut Vec<Option<Run>>, seen: Vec<Option<Run>>) -> bool {
    known.resize(seen.len(), None);
    let mut new = false;
    for (known, seen) in known.iter_mut().zip(seen).filter(|(_, seen)| seen.is_some()) {
        new |= known.is_some() && *known != seen;
        *known = seen;
    }
    new
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
    fn a_tracker_that_was_started_anew_is_told_from_one_that_was_away() {
        let run = |name: &str| Some(Run { run: name.to_owned() });
        let mut known = Vec::new();
        for (seen, new) in [
            (vec![run("a"), None], false),
            (vec![None, run("b")], false),
            (vec![run("a"), run("b")], false),
            (vec![None, None], false),
            (vec![run("c"), run("b")], true),
            (vec![run("c"), run("b")], false),
        ] {
            assert_eq!(are_new(&mut known, seen.clone()), new, "{seen:?}");
        }
    }

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
}
