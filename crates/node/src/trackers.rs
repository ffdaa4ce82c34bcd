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
use tracker_client::{Location, reach_udp, shown};

/// How often a tracker is tried that cannot be reached.
const TRY: Duration = Duration::from_secs(5);
/// Each how often of these times one is tried that could be reached.
const SELDOM: u32 = 6;
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
            url: shown(url),
            last_answer: last_answer.map(&since),
            error,
            failing_since: failing_since.map(&since),
        }
    });
    status.collect()
}

/// Tries whether trackers can be reached: until they can, so that a wrong address shows before it is needed, and then
/// now and then, since of one that is gone the announces would tell only in ten minutes.
pub(crate) async fn watch(urls: Vec<String>, engine: Engine, stop: CancellationToken) {
    watch_every(TRY, urls, engine, stop).await;
}

async fn watch_every(pause: Duration, urls: Vec<String>, engine: Engine, stop: CancellationToken) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether each could be reached, as far as was tried.
    let mut trackers: Vec<(String, bool)> = urls.into_iter().map(|url| (url, false)).collect();
    for round in 0u32.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let all = round.is_multiple_of(SELDOM);
        let tried = trackers.iter_mut().filter(|(_, reached)| all || !*reached);
        let tries = tried.map(async |(url, reached)| {
            let outcome = try_connect(url).await;
            let before = std::mem::replace(reached, outcome.is_ok());
            // Where it can be reached as before, announces know better how it gets on.
            let known = engine.trackers().into_iter().find(|state| state.url == *url);
            if outcome.is_err()
                || !before && known.is_none_or(|known| known.error.is_some() || known.last_answer.is_none())
            {
                engine.tried_tracker(url.clone(), outcome.err().map(|error| error.to_string()));
            }
        });
        tokio::select! {
            () = stop.cancelled() => return,
            _ = join_all(tries) => {}
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

/// Whether something listens where the URL says. Of other schemes than HTTP's and UDP's nothing is known before an
/// announce.
async fn try_connect(url: &str) -> io::Result<()> {
    let Some(tracker) = Location::of(url) else { return Ok(()) };
    let address = match tracker.scheme {
        "udp" => return reach_udp(tracker.authority, CONNECT).await.map_err(io::Error::other),
        "http" | "https" => tracker.host_and_port(),
        _ => None,
    };
    let Some(address) = address else { return Ok(()) };
    match timeout(CONNECT, TcpStream::connect(&address)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} cannot be reached"))),
    }
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

    #[tokio::test]
    async fn a_tracker_that_died_between_two_announces_is_not_told_of_as_well() {
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = Engine::start(engine::Config { listen: local, ..engine::Config::default() }, None);
        let engine = engine.await.expect("starts");
        let listener = tokio::net::TcpListener::bind(local).await.expect("a port");
        let url = format!("http://{}/announce", listener.local_addr().expect("bound"));
        let stop = CancellationToken::new();
        let pause = Duration::from_millis(10);
        let watching = tokio::spawn(watch_every(pause, vec![url.clone()], engine.clone(), stop.clone()));
        let error = || {
            let states = status(std::slice::from_ref(&url), &engine, |since| since.as_secs());
            states.into_iter().next().and_then(|state| state.error)
        };
        listener.accept().await.expect("it is tried");
        assert_eq!(error(), None);
        drop(listener);
        while error().is_none() {
            sleep(pause).await;
        }
        stop.cancel();
        watching.await.expect("ends");
        engine.stop().await;
    }

    #[tokio::test]
    async fn a_udp_tracker_is_seen_to_be_gone_before_the_next_announce() {
        let tracker = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("udp://{}/announce", tracker.local_addr().expect("bound"));
        let answers = async {
            let mut packet = [0; 16];
            let (_, from) = tracker.recv_from(&mut packet).await.expect("asked");
            // The action and the transaction of BEP 15, and then an id.
            let answer = [&packet[8..16], &[7; 8]].concat();
            tracker.send_to(&answer, from).await.expect("answers");
        };
        let (reached, ()) = tokio::join!(try_connect(&url), answers);
        reached.expect("it answers");
        drop(tracker);
        assert!(try_connect(&url).await.is_err());
    }
}
