//! `longshore node`: runs the daemon of this host until a signal.

use std::{io, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use api::ClientError;
use node::{Config, Node, StartError};
use serde_json::json;

use crate::{
    failure::Failure,
    host::{Reload, StopSignals},
    quantity, screen, service, torrent_file,
};

/// What is most often set; all else stands in the configuration file.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file (TOML); `longshore config` prints one with every default [default: none]
    #[arg(short, long, value_name = "FILE", env = "LONGSHORE_CONFIG")]
    config: Option<PathBuf>,
    /// A tracker's announce URL; may be repeated, or hold commas [default: none]
    #[arg(short, long = "tracker", value_name = "URL", env = "LONGSHORE_TRACKERS", value_delimiter = ',')]
    trackers: Option<Vec<String>>,
    /// The URL of the content directory, such as http://TRACKER:6969; `none` for no directory [default: the trackers'
    /// hosts]
    #[arg(long, value_name = "URL", env = "LONGSHORE_DIRECTORY", value_delimiter = ',')]
    directory: Option<Vec<String>>,
    /// A file that holds the directory's token [default: none]
    #[arg(long, value_name = "FILE", env = "LONGSHORE_DIRECTORY_TOKEN_FILE")]
    directory_token_file: Option<PathBuf>,
    /// Where blobs are kept [default: /var/lib/longshore]
    #[arg(long, value_name = "DIR", env = "LONGSHORE_DATA")]
    data: Option<PathBuf>,
    /// The node's name in leases and logs [default: the host's name and a random part]
    #[arg(long, value_name = "NAME", env = "LONGSHORE_NAME")]
    name: Option<String>,
    /// Where to listen for peers [default: 0.0.0.0:6881]
    #[arg(long, value_name = "ADDR:PORT", env = "LONGSHORE_PEER_LISTEN", value_parser = node::parse_listen)]
    peer_listen: Option<SocketAddr>,
    /// Where the registry mirror listens; may be repeated, or hold commas [default: 127.0.0.1:5555]
    #[arg(long, value_name = "ADDR:PORT", env = "LONGSHORE_MIRROR_LISTEN", value_delimiter = ',', value_parser = node::parse_listen)]
    mirror_listen: Option<Vec<SocketAddr>>,
    /// The registry of requests that name none [default: docker.io]
    #[arg(long, value_name = "REGISTRY", env = "LONGSHORE_DEFAULT_REGISTRY")]
    default_registry: Option<String>,
    /// The unix socket of the API [default: /run/longshore/node.sock]
    #[arg(long, value_name = "PATH", env = "LONGSHORE_SOCKET")]
    socket: Option<PathBuf>,
    /// Where the API and the page are over TCP, such as 127.0.0.1:7070; may be repeated, or hold commas. Its token
    /// may be in the variable LONGSHORE_API_TOKEN [default: none]
    #[arg(long, value_name = "ADDR:PORT", env = "LONGSHORE_API_LISTEN", value_delimiter = ',', value_parser = node::parse_listen)]
    api_listen: Option<Vec<SocketAddr>>,
    /// Where the content of ordinary torrents goes [default: torrents/content below the data]
    #[arg(long, value_name = "DIR", env = "LONGSHORE_TORRENTS")]
    torrents: Option<PathBuf>,
    /// A folder to watch: torrent files in its `load` are added, those in its `start` also started; may be repeated, or
    /// hold commas [default: none]
    #[arg(long, value_name = "DIR", env = "LONGSHORE_WATCH", value_delimiter = ',')]
    watch: Option<Vec<PathBuf>>,
    /// A store of others on this host to borrow from, such as /var/lib/containerd/io.containerd.content.v1.content; may be
    /// repeated, or hold commas [default: none]
    #[arg(long, value_name = "DIR", env = "LONGSHORE_BORROW", value_delimiter = ',')]
    borrow: Option<Vec<PathBuf>>,
    /// Most content received from peers in a second, such as 2MiB; 0 for no limit [default: 0]
    #[arg(long, value_name = "RATE", env = "LONGSHORE_DOWN_LIMIT", value_parser = quantity::parse_size)]
    down_limit: Option<u32>,
    /// Most content sent to peers in a second; 0 for no limit [default: 0]
    #[arg(long, value_name = "RATE", env = "LONGSHORE_UP_LIMIT", value_parser = quantity::parse_size)]
    up_limit: Option<u32>,
    /// A registry that answers elsewhere than its name says, as NAME=URL; may be repeated [default: none]
    #[arg(long = "upstream", value_name = "NAME=URL", value_parser = upstream)]
    upstreams: Vec<(String, String)>,
    /// Print where it listens as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let signals = StopSignals::listen()?;
    let json = args.json;
    let node = Node::start(config(args)?).await.map_err(explain)?;
    serve(node, signals, json).await
}

/// Says where a node listens, and stops it at a signal.
pub(crate) async fn serve(node: Node, mut signals: StopSignals, json: bool) -> anyhow::Result<()> {
    if json {
        screen::say_json(&json!({
            "event": "listening",
            "mirrors": node.mirrors(),
            "peers": node.peers(),
            "pages": node.apis(),
        }));
    } else {
        for address in node.mirrors() {
            screen::say(&format!("registry mirror on http://{address}"));
        }
        screen::say(&format!("peers on {}", node.peers()));
        for address in node.apis() {
            screen::say(&format!("page on http://{address}/"));
        }
    }
    service::ready(&format!("peers on {}", node.peers()));
    tracing::info!(mirrors = ?node.mirrors(), peers = %node.peers(), "the node serves");
    let mut watchdog = service::Watchdog::new();
    let mut reload = Reload::listen()?;
    loop {
        tokio::select! {
            () = signals.wait() => break,
            () = reload.wait() => tracing::warn!(
                "SIGHUP changes nothing: a certificate that changes is taken up by itself, all else at a restart"
            ),
            () = watchdog.due() => {
                if node.lives().await {
                    service::alive();
                }
            }
        }
    }
    service::stopping();
    node.stop().await;
    Ok(())
}

/// The file, then environment and flags above it.
pub(crate) fn config(args: Args) -> anyhow::Result<Config> {
    let mut config = match &args.config {
        Some(path) => Config::read(path).context(Failure::bad_input("the node cannot start"))?,
        None => Config::default(),
    };
    let set = |slot: &mut Vec<String>, value: Option<Vec<String>>| {
        if let Some(value) = value {
            *slot = value;
        }
    };
    set(&mut config.trackers, args.trackers);
    set(&mut config.directory, args.directory);
    config.directory_token_file = args.directory_token_file.or(config.directory_token_file);
    config.data = args.data.unwrap_or(config.data);
    config.name = args.name.unwrap_or(config.name);
    config.peer.listen = args.peer_listen.unwrap_or(config.peer.listen);
    config.mirror.listen = args.mirror_listen.unwrap_or(config.mirror.listen);
    config.mirror.default_registry = args.default_registry.unwrap_or(config.mirror.default_registry);
    config.api.socket = args.socket.unwrap_or(config.api.socket);
    config.api.listen = args.api_listen.unwrap_or(config.api.listen);
    config.api.token = super::secret("LONGSHORE_API_TOKEN");
    config.torrents.folder = args.torrents.unwrap_or(config.torrents.folder);
    config.torrents.watch = args.watch.unwrap_or(config.torrents.watch);
    config.store.borrow = args.borrow.unwrap_or(config.store.borrow);
    config.peer.down_limit = args.down_limit.map_or(config.peer.down_limit, u64::from);
    config.peer.up_limit = args.up_limit.map_or(config.peer.up_limit, u64::from);
    for (registry, endpoint) in args.upstreams {
        config.set_upstream(&registry, &endpoint);
    }
    // An empty variable means none.
    config.trackers.retain(|url| !url.is_empty());
    config.torrents.watch.retain(|folder| !folder.as_os_str().is_empty());
    config.store.borrow.retain(|folder| !folder.as_os_str().is_empty());
    for url in &config.trackers {
        torrent_file::check_tracker(url).map_err(Failure::bad_input)?;
        torrent_file::warn_of_tracker(url);
    }
    Ok(config)
}

fn upstream(text: &str) -> Result<(String, String), String> {
    let (name, url) =
        text.split_once('=').ok_or("expected NAME=URL, such as docker.io=http://10.0.0.5:5000")?;
    Ok((name.to_owned(), url.to_owned()))
}

/// Whether the system does not let this user do it.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    error.downcast_ref().is_some_and(denied) || error.source().is_some_and(is_denied)
}

pub(crate) fn explain(error: StartError) -> anyhow::Error {
    let failure = match &error {
        StartError::Directory(ClientError::BadAddress { .. }) => Failure::bad_input("the node cannot start")
            .hint("--directory is a URL here, a tracker's mostly; its file is for `longshore tracker --directory`"),
        StartError::Upstream(_)
        | StartError::Certificate(_)
        | StartError::DefaultRegistry(_)
        | StartError::OpenApi(_)
        | StartError::NoToken
        | StartError::Directory(_) => Failure::bad_input("the node cannot start"),
        StartError::Engine(engine::StartError::Listen { .. }) => {
            Failure::new("the node cannot start").hint("choose another address with --peer-listen")
        }
        StartError::Mirror { .. } => {
            Failure::new("the node cannot start").hint("choose another address with --mirror-listen")
        }
        StartError::Api { .. } => {
            Failure::new("the node cannot start").hint("choose another address with --api-listen")
        }
        StartError::Socket { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new("the node cannot start")
                .hint("run it as root, or choose another path with --socket (and --data)")
        }
        StartError::Socket { .. } => {
            Failure::new("the node cannot start").hint("choose another path with --socket")
        }
        StartError::Store(store) if is_denied(store) => Failure::new("the node cannot start")
            .hint("run it as root, or with folders of your own: --data DIR --socket DIR/node.sock"),
        StartError::Store(_) => Failure::new("the node cannot start").hint("choose another with --data"),
        _ => Failure::new("the node cannot start"),
    };
    anyhow::Error::new(error).context(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    #[test]
    fn the_help_says_every_default_as_it_is() {
        let help = Args::augment_args(clap::Command::new("node")).render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let Config { data, peer, mirror, api, .. } = Config::default();
        let listen: Vec<_> = mirror.listen.iter().map(ToString::to_string).collect();
        for default in [
            data.display().to_string(),
            peer.listen.to_string(),
            listen.join(","),
            mirror.default_registry,
            api.socket.display().to_string(),
        ] {
            assert!(help.contains(&format!("[default: {default}]")), "{default} in {help}");
        }
        // All but --json and --help.
        let options = help.matches(" --").count() - 2;
        assert_eq!(help.matches("[default: ").count(), options, "{help}");
    }

    #[test]
    fn flags_stand_above_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.toml");
        std::fs::write(&path, "trackers = [\"http://a/announce\"]\nname = \"n\"\n").expect("written");
        let command = Args::augment_args(clap::Command::new("node"));
        let line = [
            "node",
            "--config",
            path.to_str().expect("text"),
            "-t",
            "http://b/announce",
            "--upstream",
            "r=http://c",
        ];
        let args = Args::from_arg_matches(&command.get_matches_from(line)).expect("good");
        let config = config(args).expect("good");
        assert_eq!(
            (config.trackers.as_slice(), config.name.as_str()),
            (&["http://b/announce".to_owned()][..], "n")
        );
        assert_eq!(config.origin.upstreams.first().and_then(|u| u.endpoint.as_deref()), Some("http://c"));
    }
}
