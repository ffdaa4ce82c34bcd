//! `longshore torrent`: ordinary torrents on the node.

use std::{fs, path::Path};

use anyhow::Context as _;
use api::{
    node::{TorrentPhase, TorrentStatus},
    torrents::{AddRequest, Limits, TorrentAction},
};
use metainfo::InfoHash;
use serde_json::json;

use super::status::Connection;
use crate::{failure::Failure, quantity, screen, torrent_file};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show the node's torrents
    List {
        #[command(flatten)]
        connection: Connection,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a torrent
    Add {
        /// A torrent file, a magnet link, or the URL of a torrent file
        #[arg(value_name = "FILE|MAGNET|URL")]
        torrent: String,
        /// Where its content goes, below the folder of all torrents
        #[arg(long, value_name = "PATH", default_value = "")]
        folder: String,
        /// Do not start it yet
        #[arg(long)]
        stopped: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Get and give pieces
    Start(Named),
    /// Neither get nor give
    Stop(Named),
    /// Hash all that is on disk, and go on from that
    Verify(Named),
    /// Limit how fast it moves
    Limit {
        /// Most received per second, such as 512KiB; 0 for no limit
        #[arg(long, value_name = "RATE", value_parser = quantity::parse_size)]
        down: Option<u32>,
        /// Most sent per second; 0 for no limit
        #[arg(long, value_name = "RATE", value_parser = quantity::parse_size)]
        up: Option<u32>,
        /// The torrent; the whole node where none is named
        #[arg(value_name = "INFO-HASH")]
        torrent: Option<InfoHash>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Take it off the node; its files stay
    Remove {
        /// Delete its files too
        #[arg(long)]
        data: bool,
        #[command(flatten)]
        named: Named,
    },
}

#[derive(clap::Args)]
struct Named {
    /// The torrent
    #[arg(value_name = "INFO-HASH")]
    torrent: InfoHash,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::List { connection, json } => list(&connection, json).await,
        What::Add { torrent, folder, stopped, connection } => {
            add(&connection, &torrent, &folder, !stopped).await
        }
        What::Start(named) => act(&named, TorrentAction::Start).await,
        What::Stop(named) => act(&named, TorrentAction::Stop).await,
        What::Verify(named) => act(&named, TorrentAction::Verify).await,
        What::Limit { down, up, torrent, connection } => {
            if down.is_none() && up.is_none() {
                return Err(Failure::bad_input("nothing is to be limited")
                    .hint("give --down, --up or both")
                    .into());
            }
            let limits = Limits { down: down.map(u64::from), up: up.map(u64::from) };
            let limited = connection.client()?.limit(torrent.as_ref(), &limits).await;
            known(limited.map_err(|error| connection.explain(error))?, torrent)
        }
        What::Remove { data, named } => {
            let removed = named.connection.client()?.remove(&named.torrent, data).await;
            known(removed.map_err(|error| named.connection.explain(error))?, Some(named.torrent))
        }
    }
}

async fn act(named: &Named, action: TorrentAction) -> anyhow::Result<()> {
    let done = named.connection.client()?.act(&named.torrent, action).await;
    known(done.map_err(|error| named.connection.explain(error))?, Some(named.torrent))
}

fn known(answer: Option<()>, torrent: Option<InfoHash>) -> anyhow::Result<()> {
    let name = torrent.map_or_else(String::new, |torrent| torrent.to_string());
    answer.ok_or_else(|| {
        let what = format!("{name} is not among the node's torrents");
        Failure::bad_input(what).hint("`longshore torrent list` shows them").into()
    })
}

async fn add(connection: &Connection, torrent: &str, folder: &str, start: bool) -> anyhow::Result<()> {
    let client = connection.client()?;
    let added = if torrent.starts_with("http://") || torrent.starts_with("https://") {
        client.add(&AddRequest::Url(torrent.to_owned()), start).await
    } else if torrent.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:")) {
        client.add(&AddRequest::Magnet(torrent.to_owned()), start).await
    } else {
        let path = Path::new(torrent);
        // So that what is wrong with it is said of the file.
        torrent_file::read(path)?;
        let bytes = fs::read(path).with_context(|| format!("cannot read {torrent}"))?;
        client.add_torrent(bytes.into(), start, folder).await
    };
    let added = added.map_err(|error| connection.explain(error))?;
    screen::say(&format!("{}  {}", added.info_hash, added.name));
    Ok(())
}

async fn list(connection: &Connection, as_json: bool) -> anyhow::Result<()> {
    let mut torrents = connection.client()?.torrents().await.map_err(|error| connection.explain(error))?;
    torrents.sort_by(|a, b| (a.digest.is_some(), &a.name).cmp(&(b.digest.is_some(), &b.name)));
    if as_json {
        screen::say_json(&json!(torrents));
        return Ok(());
    }
    if torrents.is_empty() {
        screen::note("no torrents: `longshore torrent add` adds one");
    }
    for torrent in torrents {
        screen::say(&line(&torrent));
    }
    Ok(())
}

/// What it does, in a word.
pub(super) const fn phase(phase: TorrentPhase) -> &'static str {
    match phase {
        TorrentPhase::Metadata => "metadata",
        TorrentPhase::Checking => "checking",
        TorrentPhase::Downloading => "downloading",
        TorrentPhase::Seeding => "seeding",
        TorrentPhase::Stopped => "stopped",
        TorrentPhase::Failed => "failed",
    }
}

/// How much of it is here.
pub(super) fn percent(torrent: &TorrentStatus) -> f64 {
    if torrent.size == 0 { 0.0 } else { torrent.bytes_done as f64 / torrent.size as f64 * 100.0 }
}

fn line(torrent: &TorrentStatus) -> String {
    let state = phase(torrent.state);
    let mut line = format!(
        "{}  {state:<11} {:>5.1}% of {:>10}  down {:>12}  up {:>12}  {:>9}  {}",
        torrent.info_hash,
        percent(torrent),
        quantity::size(torrent.size),
        quantity::rate(torrent.down_rate as f64),
        quantity::rate(torrent.up_rate as f64),
        quantity::count(torrent.peers as usize, "peer"),
        torrent.name,
    );
    if let Some(error) = &torrent.error {
        line.push_str(&format!("\n    {error}"));
    }
    line
}
