//! `longshore get`: fetches a torrent's content from its swarm.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use engine::{Engine, MetadataError, TorrentSpec, TorrentState, TrackerState};
use metainfo::{Magnet, Torrent};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    failure::Failure,
    host::{self, StopSignals},
    quantity, screen,
    torrent_file::{self, Named},
    traffic::{Moment, SourceLine, Traffic},
};

/// How long a magnet link's metadata is looked for, unless there is a deadline.
const METADATA_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// After how many seconds without a peer it is said why there may be none.
const ALONE: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The torrent file or magnet link
    #[arg(value_name = "FILE.torrent|MAGNET")]
    torrent: String,
    /// The folder to put the content into
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Address and port for peers [default: any address, port 6881 or a free one]
    #[arg(long, value_name = "ADDR:PORT", value_parser = node::parse_listen)]
    listen: Option<SocketAddr>,
    /// A peer to fetch from, besides those that trackers name; may be repeated
    #[arg(long = "peer", value_name = "ADDR:PORT")]
    peers: Vec<SocketAddr>,
    /// A further tracker, as in `create`
    #[arg(short, long = "tracker", value_name = "URL", value_parser = torrent_file::parse_tier)]
    trackers: Vec<Vec<String>>,
    /// Hash what is on disk even if a journal says which pieces are proven
    #[arg(long)]
    check: bool,
    /// Keep seeding afterwards, until stopped
    #[arg(long)]
    seed: bool,
    /// Give up after so many seconds; what was fetched stays
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u64>,
    /// Print lines of JSON: one each second, and the result
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let named = torrent_file::find(&args.torrent)?;
    if matches!(&named, Named::Torrent(_)) && args.folder.is_file() {
        return Err(Failure::bad_input(format!("{} is no folder", args.folder.display())).into());
    }
    let mut signals = StopSignals::listen()?;
    let engine = host::start_engine(args.listen).await?;
    let outcome = tokio::select! {
        outcome = fetch(&engine, named, &args) => outcome,
        () = signals.wait() => Err(stopped()),
        () = deadline(args.deadline) => Err(late(args.deadline)),
    };
    let outcome = match outcome {
        Ok(running) if args.seed => seed(&running, &mut signals, args.json).await,
        outcome => outcome.map(drop),
    };
    engine.stop().await;
    outcome
}

/// Fetches until complete, and says so.
async fn fetch(engine: &Engine, named: Named, args: &Args) -> anyhow::Result<Arc<engine::Torrent>> {
    let start = host::now();
    let mut torrent = match named {
        Named::Torrent(torrent) => *torrent,
        Named::Magnet(magnet) => metadata(engine, magnet, args).await?,
    };
    torrent.trackers.splice(0..0, args.trackers.iter().cloned());
    if torrent.trackers.is_empty() && args.peers.is_empty() {
        tracing::warn!("the torrent names no tracker: only peers that connect by themselves can give it");
    }
    let place = look(&torrent, args).await?;
    let log = place.log.clone();
    let total = torrent.info.geometry.total();
    let spec = TorrentSpec {
        torrent,
        layout: place.layout,
        have: place.have,
        log: Box::new(place.log),
        rests: false,
        open: true,
    };
    let running = engine.add(spec).await?;
    let resumed = running.status().borrow().bytes;
    if resumed < total {
        running.add_peers(args.peers.iter().copied());
    }
    let mut traffic = Traffic::default();
    watch(engine, &running, &mut traffic, args.json).await?;
    log.finish()?;
    summary(&running, &traffic, resumed, start.elapsed(), args.json);
    Ok(running)
}

async fn metadata(engine: &Engine, mut magnet: Magnet, args: &Args) -> anyhow::Result<Torrent> {
    magnet.trackers.extend(args.trackers.iter().flatten().cloned());
    magnet.peers.extend(args.peers.iter().map(ToString::to_string));
    let line = screen::spinner("asking peers for the torrent", args.json);
    let patience = args.deadline.map_or(METADATA_PATIENCE, Duration::from_secs);
    let got = engine.metadata(&magnet, patience).await;
    line.finish_and_clear();
    got.map_err(|error| match error {
        MetadataError::NobodyToAsk => anyhow::Error::new(error).context(
            Failure::bad_input("the magnet link leads nowhere").hint("give a --tracker or a --peer"),
        ),
        MetadataError::Torrent(_) => anyhow::Error::new(error)
            .context(Failure::bad_input("the magnet link leads to a torrent that cannot be used")),
        error => error.into(),
    })
}

/// Finds what is on disk already.
async fn look(torrent: &Torrent, args: &Args) -> anyhow::Result<node::Place> {
    let bar = screen::byte_bar("checking", torrent.info.geometry.total(), args.json);
    let (torrent, folder, check, show) = (torrent.clone(), args.folder.clone(), args.check, bar.clone());
    let place = host::blocking(move || {
        node::open_place(&torrent, &folder, check, |done, total| {
            show.set_length(total);
            show.set_position(done);
            true
        })
    })
    .await;
    bar.finish_and_clear();
    place?.map_err(host::explain_place)
}

/// Shows how it goes until every piece is proven.
async fn watch(
    engine: &Engine,
    running: &Arc<engine::Torrent>,
    traffic: &mut Traffic,
    json: bool,
) -> anyhow::Result<()> {
    let total = running.meta().info.geometry.total();
    let mut alone = 0_u32;
    let bar = screen::byte_bar(&running.meta().info.name, total, json);
    let mut status = running.status();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        let (state, bytes) = {
            let status = status.borrow_and_update();
            (status.state.clone(), status.bytes)
        };
        bar.set_position(bytes);
        match state {
            TorrentState::Downloading => {}
            TorrentState::Complete => break Ok(()),
            TorrentState::Failed(failure) => break Err(explain(failure)),
            TorrentState::Stopped => break Err(stopped()),
        }
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    break Err(stopped());
                }
                continue;
            }
            _ = tick.tick() => {}
        }
        let now = traffic.look(running);
        if json {
            screen::say_json(&status_line(&now, bytes, total));
        } else {
            let peers = quantity::count(now.peers, "peer");
            bar.set_message(format!("{} from {peers}", quantity::rate(now.down_rate)));
            alone = if now.peers == 0 { alone + 1 } else { 0 };
            if alone == ALONE {
                screen::note(&nobody(engine));
            }
        }
    };
    // For the names of those who came since.
    traffic.look(running);
    bar.finish_and_clear();
    outcome
}

/// Why there may be no peers.
fn nobody(engine: &Engine) -> String {
    let trackers = engine.trackers();
    let fails = |tracker: &TrackerState| Some(format!("{}: {}", tracker.url, tracker.error.as_ref()?));
    let failing: Vec<String> = trackers.iter().filter_map(fails).collect();
    let why = match (failing.as_slice(), trackers.as_slice()) {
        ([], []) => "no tracker is known".to_owned(),
        ([], _) => "the trackers know no peer that can be reached".to_owned(),
        (failing, _) => failing.join("; "),
    };
    format!("no peer so far ({why}); it goes on looking until it is stopped")
}

fn status_line(now: &Moment, bytes: u64, total: u64) -> serde_json::Value {
    json!({
        "event": "status",
        "bytes": bytes,
        "total": total,
        "peers": now.peers,
        "down_rate": now.down_rate as u64,
        "up_rate": now.up_rate as u64,
        "uploaded": now.uploaded,
    })
}

fn explain(failure: engine::Failure) -> anyhow::Error {
    let words = match &failure {
        engine::Failure::Disk { full: true, .. } => Failure::new("the disk is full")
            .hint("make room, and run the same command again: it goes on from here"),
        engine::Failure::Unprovable(_) => Failure::new("the torrent is wrong"),
        _ => Failure::new("the download cannot go on"),
    };
    anyhow::Error::new(failure).context(words)
}

/// One line: what came from whom.
fn summary(running: &engine::Torrent, traffic: &Traffic, resumed: u64, took: Duration, json: bool) {
    let meta = running.meta();
    let sources = traffic.sources(&running.provenance());
    let fetched: u64 = sources.iter().map(|source| source.bytes).sum();
    let wasted: u64 = sources.iter().map(|source| source.wasted).sum();
    if json {
        screen::say_json(&json!({
            "event": "complete",
            "info_hash": meta.info_hash.to_string(),
            "name": meta.info.name,
            "bytes": meta.info.geometry.total(),
            "resumed": resumed,
            "fetched": fetched,
            "wasted": wasted,
            "seconds": took.as_secs_f64(),
            "sources": sources.iter().map(SourceLine::json).collect::<Vec<_>>(),
        }));
        return;
    }
    let mut parts = Vec::new();
    if resumed > 0 {
        parts.push(format!("{} were on disk", quantity::size(resumed)));
    }
    parts.extend(sources.iter().map(SourceLine::text));
    let name = &meta.info.name;
    let (size, seconds) = (quantity::size(meta.info.geometry.total()), took.as_secs_f64());
    screen::say(&format!("{name}: {size}, every piece proven, in {seconds:.1} s; {}", parts.join(", ")));
}

/// Seeds what is complete until a signal comes.
async fn seed(running: &Arc<engine::Torrent>, signals: &mut StopSignals, json: bool) -> anyhow::Result<()> {
    let line = screen::spinner("seeding", json);
    let mut traffic = Traffic::default();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let total = running.meta().info.geometry.total();
    loop {
        tokio::select! {
            () = signals.wait() => break,
            _ = tick.tick() => {}
        }
        let now = traffic.look(running);
        if json {
            screen::say_json(&status_line(&now, total, total));
        } else {
            let peers = quantity::count(now.peers, "peer");
            line.set_message(format!("{peers}, up {}", quantity::rate(now.up_rate)));
        }
    }
    line.finish_and_clear();
    Ok(())
}

async fn deadline(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}

fn stopped() -> anyhow::Error {
    Failure::new("stopped before it was complete")
        .hint("run the same command again: it goes on from the proven pieces")
        .into()
}

fn late(seconds: Option<u64>) -> anyhow::Error {
    Failure::new(format!("not complete after {} s", seconds.unwrap_or(0)))
        .hint("run the same command again: it goes on from the proven pieces")
        .into()
}
