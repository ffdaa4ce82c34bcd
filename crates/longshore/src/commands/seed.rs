//! `longshore seed`: serves what a torrent describes, until stopped.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use engine::{Engine, Layout, TorrentSpec, TorrentState};
use metainfo::{FileKind, Torrent};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    failure::Failure,
    host::{self, StopSignals},
    quantity, screen, torrent_file,
    traffic::Traffic,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The torrent file
    #[arg(value_name = "FILE.torrent")]
    torrent: PathBuf,
    /// The folder that holds the torrent's file, or its folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Address and port for peers [default: any address, port 6881 or a free one]
    #[arg(long, value_name = "ADDR:PORT", value_parser = node::parse_listen)]
    listen: Option<SocketAddr>,
    /// A further tracker, as in `create`
    #[arg(short, long = "tracker", value_name = "URL", value_parser = torrent_file::parse_tier)]
    trackers: Vec<Vec<String>>,
    /// Believe that the data is right. Peers check it anyway, and ban whoever sends wrong pieces
    #[arg(long)]
    no_check: bool,
    /// Serve what is there of incomplete data, and fetch the rest into DIR. Wrong pieces are overwritten
    #[arg(long, conflicts_with = "no_check")]
    partial: bool,
    /// Print a line of JSON each second
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut torrent = torrent_file::read(&args.torrent)?;
    torrent.trackers.splice(0..0, args.trackers.iter().cloned());
    let mut signals = StopSignals::listen()?;
    let found = tokio::select! {
        found = find(&torrent, &args) => found?,
        () = signals.wait() => return Ok(()),
    };
    let engine = host::start_engine(args.listen).await?;
    let running = engine.add(found).await?;
    announce_start(&engine, &torrent, args.json);
    let outcome = serve(&running, &mut signals, args.json).await;
    engine.stop().await;
    outcome
}

/// Makes sure that the data is there.
async fn find(torrent: &Torrent, args: &Args) -> anyhow::Result<TorrentSpec> {
    let missing = |what: String| {
        let hint = format!(
            "DIR is the folder in which `{}` lies; --partial serves what is there and fetches the rest",
            torrent.info.name
        );
        Failure::bad_input(what).hint(hint)
    };
    if let Some(lacking) = lacking_file(torrent, args) {
        if !args.partial {
            return Err(missing(lacking).into());
        }
        fs::create_dir_all(&args.folder).with_context(|| format!("cannot make {}", args.folder.display()))?;
    }
    if args.no_check {
        let layout = Layout::seed(&torrent.info, &args.folder);
        return Ok(TorrentSpec::seed(torrent.clone(), layout));
    }
    let bar = screen::byte_bar("checking", torrent.info.geometry.total(), args.json);
    let (torrent, folder, partial) = (torrent.clone(), args.folder.clone(), args.partial);
    let show = bar.clone();
    let found = host::blocking(move || {
        if partial {
            let place = node::open_place(&torrent, &folder, true, |done, _| {
                show.set_position(done);
                true
            });
            let node::Place { layout, have, log } = place.map_err(host::explain_place)?;
            return anyhow::Ok(TorrentSpec {
                torrent,
                layout,
                have,
                log: Box::new(log),
                rests: false,
                open: true,
            });
        }
        let layout = Layout::seed(&torrent.info, &folder);
        let have = engine::check(&torrent.info, &layout, |bytes| {
            show.inc(bytes);
            true
        })?;
        Ok(TorrentSpec { log: Box::new(engine::NoLog), torrent, layout, have, rests: false, open: true })
    })
    .await?;
    bar.finish_and_clear();
    let found = found?;
    let (right, all) = (found.have.count(), found.torrent.info.geometry.piece_count());
    if right < all && !args.partial {
        let folder = args.folder.display();
        return Err(missing(format!(
            "{folder} does not hold the content: {right} of {all} pieces are right"
        ))
        .into());
    }
    Ok(found)
}

/// The first file that is missing or not as long as it should be.
fn lacking_file(torrent: &Torrent, args: &Args) -> Option<String> {
    let files = torrent.info.files.iter().enumerate();
    files.filter(|(_, file)| file.kind == FileKind::Regular && file.length > 0).find_map(|(index, file)| {
        let path = args.folder.join(torrent.info.relative_path(index)?);
        match fs::metadata(&path) {
            Err(error) => Some(format!("cannot read {}: {error}", path.display())),
            Ok(meta) if meta.len() != file.length => {
                let (is, should) = (meta.len(), file.length);
                Some(format!("{} is {is} bytes long, and should be {should}", path.display()))
            }
            Ok(_) => None,
        }
    })
}

fn announce_start(engine: &Engine, torrent: &Torrent, json: bool) {
    if json {
        screen::say_json(&json!({
            "event": "seeding",
            "info_hash": torrent.info_hash.to_string(),
            "name": torrent.info.name,
            "listen": engine.listen(),
        }));
    } else {
        let name = &torrent.info.name;
        screen::say(&format!("seeding {name} ({}) on {}", torrent.info_hash, engine.listen()));
    }
}

/// Shows how it goes until a signal comes.
async fn serve(torrent: &Arc<engine::Torrent>, signals: &mut StopSignals, json: bool) -> anyhow::Result<()> {
    let line = screen::spinner("seeding", json);
    let mut traffic = Traffic::default();
    let mut status = torrent.status();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.wait() => break,
            _ = tick.tick() => {}
        }
        let now = traffic.look(torrent);
        let (state, have) = {
            let status = status.borrow_and_update();
            (status.state.clone(), status.bytes)
        };
        if let TorrentState::Failed(failure) = state {
            line.finish_and_clear();
            return Err(failure).context("seeding ended");
        }
        if json {
            screen::say_json(&json!({
                "event": "status",
                "peers": now.peers,
                "uploaded": now.uploaded,
                "up_rate": now.up_rate as u64,
                "down_rate": now.down_rate as u64,
                "have": have,
            }));
        } else {
            line.set_message(format!(
                "{}, up {} ({} in all)",
                quantity::count(now.peers, "peer"),
                quantity::rate(now.up_rate),
                quantity::size(now.uploaded)
            ));
        }
    }
    line.finish_and_clear();
    let uploaded = traffic.look(torrent).uploaded;
    if json {
        screen::say_json(&json!({ "event": "stopped", "uploaded": uploaded }));
    } else {
        screen::say(&format!("stopped after {} uploaded", quantity::size(uploaded)));
    }
    Ok(())
}
