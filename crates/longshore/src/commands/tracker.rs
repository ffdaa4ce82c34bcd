//! `longshore tracker`: runs a tracker until a signal.

use std::{
    fmt,
    io::{self, Read as _},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::Context as _;
use serde_json::json;
use tracker::{
    AddressError, ClusterKey, Config, ContentError, DirectoryError, Endpoint, Home, HomeError, Listen,
    Listeners, Network, Password, PemError, SocketMode, StartError, TlsError, Tracker,
};

use super::{retracker::Retracker, secret};
use crate::{
    failure::{self, Failure},
    given,
    host::{self, Reload, StopSignals},
    screen,
    service::{self, Watchdog},
};

/// Every setting of the tracker's configuration, to be given by a flag or, below it, the environment. What neither
/// gives is the file's, and then the default.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A configuration file (TOML); `longshore config tracker` prints one with every default
    #[arg(short, long, value_name = "FILE", env = "LONGSHORE_TRACKER_CONFIG")]
    config: Option<PathBuf>,
    /// Print where it listens as JSON
    #[arg(long)]
    json: bool,

    /// Where to listen: ADDR:PORT, or unix:PATH for a reverse proxy; may be repeated, or hold
    /// commas. Sockets that systemd hands over take the place of all these
    #[arg(long, value_name = "LISTEN", env = "LONGSHORE_TRACKER_LISTEN", value_delimiter = ',')]
    listen: Option<Vec<Listen>>,
    /// Whether the same addresses and ports take UDP as well
    #[arg(long, value_name = "BOOL", env = "LONGSHORE_TRACKER_UDP")]
    udp: Option<bool>,
    /// Where to listen for HTTPS; may be repeated, or hold commas
    #[arg(long, value_name = "ADDR:PORT", env = "LONGSHORE_TRACKER_TLS_LISTEN", value_delimiter = ',', value_parser = node::parse_listen)]
    tls_listen: Option<Vec<SocketAddr>>,
    /// The certificate for HTTPS with the chain behind it (PEM); SIGHUP reads it and its key anew
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_TLS_CERTIFICATE")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// The mode of unix sockets' files
    #[arg(long, value_name = "MODE", env = "LONGSHORE_TRACKER_SOCKET_MODE")]
    socket_mode: Option<SocketMode>,
    /// Started as root: the user to become once all addresses are bound; files are then read as that user
    #[arg(long, value_name = "USER", env = "LONGSHORE_TRACKER_USER")]
    user: Option<String>,
    /// The group to have then, instead of the user's own
    #[arg(long, value_name = "GROUP", env = "LONGSHORE_TRACKER_GROUP")]
    group: Option<String>,
    /// How many threads answer each protocol at each address; 0 for as many as there are cores
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_WORKERS")]
    workers: Option<usize>,
    /// Seconds between two announces of a peer; without --peer-age and --min-interval these are made to fit
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_INTERVAL")]
    interval: Option<u64>,
    /// By how many percent that is made shorter or longer at random
    #[arg(long, value_name = "PERCENT", env = "LONGSHORE_TRACKER_INTERVAL_SPREAD")]
    interval_spread: Option<u64>,
    /// Seconds that a peer must wait at least
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_MIN_INTERVAL")]
    min_interval: Option<u64>,
    /// Seconds after which a peer that does not announce is forgotten; without --interval that is made to fit
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_PEER_AGE")]
    peer_age: Option<u64>,
    /// How many peers an answer holds when the asker does not say
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_NUMWANT")]
    numwant: Option<u32>,
    /// How many peers an answer holds at most
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_NUMWANT")]
    max_numwant: Option<u32>,
    /// Seconds that a UDP connection id holds
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_CONNECTION_ID_AGE")]
    connection_id_age: Option<u64>,
    /// Bytes that the system keeps of UDP packets that come faster than they are answered, for each thread
    #[arg(long, value_name = "BYTES", env = "LONGSHORE_TRACKER_RECEIVE_BUFFER")]
    receive_buffer: Option<usize>,
    /// Whether peers' ids are kept, 20 bytes each, for clients that ask for them
    #[arg(long, value_name = "BOOL", env = "LONGSHORE_TRACKER_PEER_IDS")]
    peer_ids: Option<bool>,
    /// Whether a scrape that names no torrent is answered with all of them
    #[arg(long, value_name = "BOOL", env = "LONGSHORE_TRACKER_FULL_SCRAPE")]
    full_scrape: Option<bool>,
    /// How many torrents are kept at most
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_TORRENTS")]
    max_torrents: Option<usize>,
    /// How many peers are kept at most, over all torrents
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_PEERS")]
    max_peers: Option<usize>,
    /// Networks from which a peer may say at which address others reach it; this machine by default
    #[arg(long, value_name = "NETWORK", env = "LONGSHORE_TRACKER_IP_FROM", value_delimiter = ',')]
    ip_from: Option<Vec<Network>>,
    /// Networks of reverse proxies, which say in a header for whom they ask
    #[arg(long, value_name = "NETWORK", env = "LONGSHORE_TRACKER_TRUSTED_PROXIES", value_delimiter = ',')]
    trusted_proxies: Option<Vec<Network>>,
    /// Whether these proxies begin connections with the PROXY protocol (version 1 or 2); then nobody else may
    #[arg(long, value_name = "BOOL", env = "LONGSHORE_TRACKER_PROXY_PROTOCOL")]
    proxy_protocol: Option<bool>,
    /// The header in which proxies do
    #[arg(long, value_name = "NAME", env = "LONGSHORE_TRACKER_REAL_IP_HEADER")]
    real_ip_header: Option<String>,
    /// A list of info-hashes: only these torrents are served
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_ALLOW")]
    allow: Option<PathBuf>,
    /// A list of info-hashes: these torrents are not served
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_DENY")]
    deny: Option<PathBuf>,
    /// Whether only torrents are served that the content directory knows, and those that --allow lists
    #[arg(long, value_name = "BOOL", env = "LONGSHORE_TRACKER_REGISTERED_ONLY")]
    registered_only: Option<bool>,
    /// A list of keys, of which announce URLs must hold one: /KEY/announce
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_KEYS")]
    keys: Option<PathBuf>,
    /// Networks from which statistics, metrics and lists of torrents may be seen; by default the first two from
    /// everywhere, and lists (the largest torrents, full scrapes) from this machine
    #[arg(long, value_name = "NETWORK", env = "LONGSHORE_TRACKER_STATS_FROM", value_delimiter = ',')]
    stats_from: Option<Vec<Network>>,
    /// How many announces and scrapes a second are answered to a source; 0 for any number
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_RATE_LIMIT")]
    rate_limit: Option<u64>,
    /// How many of them may come at once after a pause
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_RATE_BURST")]
    rate_burst: Option<u64>,
    /// Networks to which no such limit applies; this machine by default
    #[arg(long, value_name = "NETWORK", env = "LONGSHORE_TRACKER_RATE_EXEMPT", value_delimiter = ',')]
    rate_exempt: Option<Vec<Network>>,
    /// How many bits of an IPv4 address make a source
    #[arg(long, value_name = "BITS", env = "LONGSHORE_TRACKER_RATE_PREFIX_V4")]
    rate_prefix_v4: Option<u8>,
    /// How many bits of an IPv6 address make a source
    #[arg(long, value_name = "BITS", env = "LONGSHORE_TRACKER_RATE_PREFIX_V6")]
    rate_prefix_v6: Option<u8>,
    /// How many connections are open at most
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// How many of them one host may have; this machine and trusted proxies may have any number
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_CONNECTIONS_PER_HOST")]
    max_connections_per_host: Option<usize>,
    /// Seconds that a connection may stand idle between announces
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_IDLE_TIMEOUT")]
    idle_timeout: Option<u64>,
    /// A list of other trackers to share peers with (YAML: uri, name, ip, host)
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_FORWARDERS")]
    forwarders: Option<PathBuf>,
    /// Seconds that another tracker may take
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_FORWARD_TIMEOUT")]
    forward_timeout: Option<u64>,
    /// The other trackers of the cluster, by their --cluster-listen: all tell one another of their peers
    #[arg(long, value_name = "HOST:PORT", env = "LONGSHORE_TRACKER_CLUSTER", value_delimiter = ',')]
    cluster: Option<Vec<String>>,
    /// Where the cluster's other trackers reach this one, over TCP
    #[arg(long, value_name = "ADDR:PORT", env = "LONGSHORE_TRACKER_CLUSTER_LISTEN", value_parser = node::parse_listen)]
    cluster_listen: Option<SocketAddr>,
    /// The file that holds the key which the cluster's trackers share; it may be in the variable
    /// LONGSHORE_TRACKER_CLUSTER_KEY instead
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_CLUSTER_KEY_FILE")]
    cluster_key_file: Option<PathBuf>,
    /// Where the content directory is kept: a file, or etcd, which several trackers share
    /// (`etcd://[user@]host:2379,host2:2379[/prefix]`, `etcds://…` over TLS); without it, in memory
    #[arg(long, value_name = "FILE|ETCD", env = "LONGSHORE_TRACKER_DIRECTORY")]
    directory: Option<String>,
    /// With `etcds://`, the file of the certificates (PEM) by which etcd's are judged, instead of the system's
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_DIRECTORY_CA")]
    directory_ca: Option<PathBuf>,
    /// The file that holds the password of etcd's user; it may be in the variable
    /// LONGSHORE_TRACKER_DIRECTORY_PASSWORD instead
    #[arg(long, value_name = "FILE", env = "LONGSHORE_TRACKER_DIRECTORY_PASSWORD_FILE")]
    directory_password_file: Option<PathBuf>,
    /// Seconds that a lease to fetch from the origin lasts unless it is renewed
    #[arg(long, value_name = "SECONDS", env = "LONGSHORE_TRACKER_LEASE_TTL")]
    lease_ttl: Option<u64>,
    /// The token that callers of the directory must show; better given by file or environment, as others on the
    /// machine can read arguments
    #[arg(long, value_name = "TOKEN", env = "LONGSHORE_TRACKER_DIRECTORY_TOKEN", hide_env_values = true)]
    directory_token: Option<String>,
    /// How many blobs and how many tags the directory holds at most
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_ENTRIES")]
    max_entries: Option<u64>,
    /// How many claims wait at the same time at most
    #[arg(long, value_name = "N", env = "LONGSHORE_TRACKER_MAX_WAITING")]
    max_waiting: Option<usize>,

    #[command(flatten)]
    pub(crate) retracker: Retracker,
}

/// Adds to the help of each option what holds without it.
pub(crate) fn with_defaults(command: clap::Command) -> clap::Command {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    command.mut_args(|argument| {
        let Some(default) = defaults.get(argument.get_id().as_str()) else { return argument };
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let default = match default {
            serde_json::Value::Null => "none".to_owned(),
            serde_json::Value::Array(values) if values.is_empty() => "none".to_owned(),
            serde_json::Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
            value => text(value),
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        argument.help(format!("{help} [default: {default}]"))
    })
}

/// Takes what only root may have before there are threads, and goes on without.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let inherited = service::sockets()?;
    let config = config(&args)?;
    let listeners = Listeners::bind(&config, inherited).map_err(explain)?;
    host::block_on(serve(args, config, listeners))
}

async fn serve(args: Args, config: Config, listeners: Listeners) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let mut reload = Reload::listen()?;
    let mut watchdog = Watchdog::new();
    warn_of_file_limit(&config);
    let mut tracker = Tracker::serve(config, listeners).await.map_err(explain)?;
    tell(tracker.endpoints(), args.json);
    let listens: Vec<String> = tracker.endpoints().iter().map(Endpoint::to_string).collect();
    service::ready(&format!("serves {}", listens.join(", ")));
    loop {
        tokio::select! {
            () = signals.wait() => break,
            () = reload.wait() => {
                service::reloading();
                service::ready(&again(&mut tracker, &args));
            }
            // A tracker with a dead thread is started again, by whoever watches.
            () = watchdog.due() => if tracker.is_well() {
                service::alive();
            }
        }
    }
    service::stopping();
    tracker.shutdown().await;
    Ok(())
}

/// How many files are open besides connections and those who wait for a place, at most.
const OTHER_FILES: u64 = 256;

/// Says so when the system lets the process have fewer connections than are allowed.
fn warn_of_file_limit(config: &Config) {
    let Some(files) = host::file_limit() else { return };
    let (connections, others) = (config.max_connections, config.max_newcomers() as u64 + OTHER_FILES);
    if files < connections as u64 + others {
        let most = files.saturating_sub(others).max(1);
        tracing::warn!(
            "the system lets this process open {files} files, too few for {connections} connections: raise that \
             limit (LimitNOFILE= in its unit, `ulimit -n` in a shell), or lower --max-connections to {most}"
        );
    }
}

/// Says where it listens: each address that takes HTTP with the UDP beside it on a line.
fn tell(endpoints: &[Endpoint], json: bool) {
    if json {
        let (mut http, mut https, mut udp, mut unix) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for endpoint in endpoints {
            match endpoint {
                Endpoint::Http(Listen::Address(address)) => http.push(address),
                Endpoint::Http(Listen::Unix(path)) => unix.push(path.display().to_string()),
                Endpoint::Https(address) => https.push(address),
                Endpoint::Udp(address) => udp.push(address),
                _ => {}
            }
        }
        screen::say_json(&json!({
            "event": "listening", "addresses": http, "https": https, "udp": udp, "unix": unix,
        }));
        return;
    }
    let mut endpoints = endpoints.iter().peekable();
    while let Some(endpoint) = endpoints.next() {
        let beside = match (endpoint, endpoints.peek()) {
            (Endpoint::Http(Listen::Address(http)), Some(Endpoint::Udp(udp))) if http == udp => {
                endpoints.next()
            }
            _ => None,
        };
        let beside = beside.map_or_else(String::new, |udp| format!(" and {udp}"));
        screen::say(&format!("tracker on {endpoint}{beside}"));
    }
}

fn explain(error: StartError) -> anyhow::Error {
    let start = "the tracker cannot start";
    let failure = match &error {
        StartError::Config(_) | StartError::User(_) | StartError::Key(_) => bad_setting(start, &error),
        StartError::Listen { at: Listen::Unix(_), error } => no_socket(start, error),
        StartError::Listen { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new(start).hint("start it as root with --user, or choose another port, above 1023")
        }
        StartError::Listen { .. } => {
            let name = |setting| variable_of(setting).unwrap_or_else(|| flag_of(setting));
            let names = ["listen", "tls_listen", "cluster_listen"].map(name).join(", ");
            Failure::new(start).hint(format!("choose another address ({names})"))
        }
        StartError::File(file) => match &file.error {
            ContentError::Io(error) if !is_given_wrong(error) => unreadable(start, error),
            _ => bad_setting(start, file),
        },
        StartError::Tls(TlsError::File { error: PemError::Io(error), .. })
        | StartError::KeyFile { error, .. }
            if !is_given_wrong(error) =>
        {
            unreadable(start, error)
        }
        StartError::KeyFile { .. } => Failure::bad_input(start),
        StartError::Tls(TlsError::File { .. } | TlsError::Pair { .. }) => Failure::bad_input(start),
        StartError::Directory { .. } => {
            let StartError::Directory { home, error } = error else { return error.into() };
            return unusable_directory(home, *error);
        }
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(failure)
}

/// Something is set wrong, which the error names: by which variables of the environment, if it was by some.
fn bad_setting(start: &str, error: &dyn fmt::Display) -> Failure {
    let error = error.to_string();
    let variables: Vec<String> = error.split('`').skip(1).step_by(2).filter_map(variable_of).collect();
    let failure = Failure::bad_input(start);
    if variables.is_empty() {
        failure
    } else {
        failure.hint(format!("it is set by {}", variables.join(", ")))
    }
}

/// The variable by which a setting is given, ours before retracker's.
fn variable_of(setting: &str) -> Option<String> {
    let ours = format!("LONGSHORE_TRACKER_{}", setting.to_uppercase());
    let theirs = match setting {
        "listen" => Some(("-l", "LISTEN_ADDR")),
        "peer_age" => Some(("-a", "PEER_AGE")),
        "interval" => Some(("-i", "ANNOUNCE_INTERVAL")),
        "forwarders" => Some(("-f", "FORWARDS_FILE")),
        "forward_timeout" => Some(("-t", "FORWARD_TIMEOUT")),
        _ => None,
    };
    let mut flags = vec![flag_of(setting)];
    if given::is_by_variable(&flags, &ours).is_some() {
        return Some(ours);
    }
    let (flag, theirs) = theirs?;
    flags.push(flag.to_owned());
    given::is_by_variable(&flags, theirs).map(|_| theirs.to_owned())
}

fn flag_of(setting: &str) -> String {
    format!("--{}", setting.replace('_', "-"))
}

/// A unix socket that cannot be made: where its path is of no use, that is what was given.
fn no_socket(start: &str, error: &io::Error) -> Failure {
    use io::ErrorKind::{AddrInUse, AlreadyExists, InvalidInput, NotADirectory, NotFound};
    let other = "name another socket with --listen unix:PATH";
    match error.kind() {
        NotFound | NotADirectory => Failure::bad_input(start).hint(format!("make its folder, or {other}")),
        AlreadyExists => Failure::bad_input(start).hint(format!("remove that file, or {other}")),
        InvalidInput => Failure::bad_input(start).hint(other),
        AddrInUse => Failure::new(start).hint(other),
        _ => Failure::new(start)
            .hint(format!("whoever starts the tracker must be able to make it; or {other}")),
    }
}

/// Who may not read it today may not tomorrow: that is what was given, too.
fn unreadable(start: &str, error: &io::Error) -> Failure {
    let forbidden = error.kind() == io::ErrorKind::PermissionDenied;
    let failure = if forbidden { Failure::bad_input } else { Failure::new };
    failure(start).hint("with --user, that user must be able to read it")
}

/// Reads configuration, lists and certificate anew, at SIGHUP, and says how that went. What cannot be used changes
/// nothing.
fn again(tracker: &mut Tracker, args: &Args) -> String {
    let reloaded = config(args).and_then(|config| {
        let fixed = tracker.reload(&config)?;
        Ok((files(args, &config), fixed))
    });
    let outcome = match &reloaded {
        Ok((files, _)) if files.is_empty() => {
            "there is no file to be read anew, and nothing changes".to_owned()
        }
        Ok((files, fixed)) if fixed.is_empty() => {
            format!("read anew: {}; all peers are kept", files.join(", "))
        }
        Ok((files, fixed)) => {
            let (files, fixed) = (files.join(", "), fixed.join(", "));
            format!("read anew: {files}; all peers are kept; for these restart: {fixed}")
        }
        Err(error) => format!("nothing is changed: {}", failure::in_one_line(error)),
    };
    match &reloaded {
        // Shown unless less is asked for: see `log`.
        Ok((_, fixed)) if fixed.is_empty() => tracing::info!(target: "longshore::reload", "{outcome}"),
        Ok(_) => tracing::warn!("{outcome}"),
        Err(_) => tracing::error!("{outcome}"),
    }
    outcome
}

/// The files that are read anew at a reload.
fn files(args: &Args, config: &Config) -> Vec<String> {
    let Config { allow, deny, keys, forwarders, tls_certificate, tls_key, .. } = config;
    let files = [&args.config, allow, deny, keys, forwarders, tls_certificate, tls_key];
    files.into_iter().flatten().map(|path| path.display().to_string()).collect()
}

/// Whether a file that cannot be read is one that should not have been named.
fn is_given_wrong(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), InvalidData | InvalidInput | IsADirectory | NotADirectory | NotFound)
}

/// The content directory cannot be opened. Of a missing folder the database says only that something is missing.
fn unusable_directory(home: Option<Home>, error: DirectoryError) -> anyhow::Error {
    let failure = match home {
        Some(Home::File(path)) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
            if let Some(folder) = folder {
                let what =
                    format!("there is no folder {} for the content directory's file", folder.display());
                return Failure::bad_input(what)
                    .hint("make the folder, or name another file with --directory")
                    .into();
            }
            if error.is_damage() {
                let what = format!("the directory file {} is damaged", path.display());
                let hint = "move it away, and start the tracker anew: nodes publish again";
                // What the error itself says to do is the hint.
                let error = match error {
                    DirectoryError::Damaged(why) => anyhow::anyhow!(why),
                    error => error.into(),
                };
                return error.context(Failure::bad_input(what).hint(hint));
            }
            if error.is_forbidden() {
                let what = format!("cannot use {} for the content directory", path.display());
                let hint = "with --user, that user must be able to read and write the file, and to write into \
                            its folder";
                return anyhow::Error::new(error).context(Failure::bad_input(what).hint(hint));
            }
            let bad = error.is_no_database() || (path.exists() && !path.is_file());
            let failure = if bad { Failure::bad_input } else { Failure::new };
            failure(format!("cannot use {} for the content directory", path.display()))
                .hint("name another file with --directory")
        }
        Some(home @ Home::Etcd(_)) => {
            let what = format!("cannot use {home} for the content directory");
            match error {
                DirectoryError::File { .. } | DirectoryError::Setup(_) => Failure::bad_input(what),
                _ => Failure::new(what),
            }
        }
        None => Failure::new("cannot keep the content directory in memory"),
    };
    anyhow::Error::new(error).context(failure)
}

/// Parsed here and not by clap, whose words would repeat a password that does not belong there.
fn home(text: &str) -> anyhow::Result<Home> {
    text.parse().map_err(|error| {
        let name = variable_of("directory").unwrap_or_else(|| flag_of("directory"));
        let failure = Failure::bad_input(format!("cannot use {name}"));
        let failure = match error {
            HomeError::Url(_) => failure.hint("it is `longshore node --directory` that takes a tracker's URL"),
            HomeError::Etcd(AddressError::Password) => failure.hint(
                "leave the user, and put the password into a file (--directory-password-file) or the variable \
                 LONGSHORE_TRACKER_DIRECTORY_PASSWORD",
            ),
            _ => failure,
        };
        anyhow::Error::new(error).context(failure)
    })
}

fn cluster_key() -> anyhow::Result<Option<ClusterKey>> {
    let key = secret("LONGSHORE_TRACKER_CLUSTER_KEY").map(|text| ClusterKey::new(text.as_bytes()));
    key.transpose().with_context(|| Failure::bad_input("cannot use LONGSHORE_TRACKER_CLUSTER_KEY"))
}

/// Where one of age and interval is given above the file, what is not is made to fit: with two announces and a half
/// within the age, one that is lost costs nothing.
fn fit_times(args: &Args, config: &mut Config) {
    let has_age = args.peer_age.is_some() || args.retracker.has_age();
    let has_interval = args.interval.is_some() || args.retracker.has_interval();
    if has_age && !has_interval {
        config.interval = config.interval.min(config.peer_age.saturating_mul(2) / 5).max(1);
    }
    if has_interval && !has_age {
        config.peer_age = config.peer_age.max(config.interval.saturating_mul(5) / 2);
    }
    if (has_age || has_interval) && args.min_interval.is_none() {
        config.min_interval = config.min_interval.min(config.interval);
    }
}

/// The longest configuration file, in bytes.
const MAX_CONFIG: u64 = 1024 * 1024;

/// The file, then environment and flags above it.
fn config(args: &Args) -> anyhow::Result<Config> {
    let mut config = match &args.config {
        Some(path) => {
            let unusable = || Failure::bad_input(format!("cannot use the configuration {}", path.display()));
            let mut text = String::new();
            let file = tracker::open_ordinary(path).with_context(unusable)?;
            if file.take(MAX_CONFIG + 1).read_to_string(&mut text).with_context(unusable)? as u64 > MAX_CONFIG
            {
                let what = format!("the configuration {} is too long to be one", path.display());
                return Err(Failure::bad_input(what).into());
            }
            toml::from_str(&text).with_context(unusable)?
        }
        None => Config::default(),
    };
    args.retracker.apply(&mut config)?;
    // A variable of retracker's gives way to our flag; of two flags none is left out in silence.
    if args.listen.is_some()
        && let Some(listen) = args.retracker.listen()
        && secret("LISTEN_ADDR").as_deref() != Some(listen)
    {
        let what = format!("both -l {listen} and --listen are given");
        return Err(Failure::bad_input(what).hint("give all addresses with --listen").into());
    }
    macro_rules! overlay {
        ($($setting:ident),*) => {
            $(if let Some(value) = &args.$setting {
                config.$setting.clone_from(value);
            })*
        };
    }
    overlay!(
        listen,
        udp,
        tls_listen,
        socket_mode,
        proxy_protocol,
        workers,
        interval,
        interval_spread,
        min_interval,
        peer_age,
        numwant,
        max_numwant,
        connection_id_age,
        receive_buffer,
        peer_ids,
        full_scrape,
        max_torrents,
        max_peers,
        ip_from,
        trusted_proxies,
        real_ip_header,
        registered_only,
        stats_from,
        rate_limit,
        rate_burst,
        rate_exempt,
        rate_prefix_v4,
        rate_prefix_v6,
        max_connections,
        max_connections_per_host,
        idle_timeout,
        forward_timeout,
        cluster,
        lease_ttl,
        max_entries,
        max_waiting
    );
    macro_rules! overlay_optional {
        ($($setting:ident),*) => {
            $(if args.$setting.is_some() {
                config.$setting.clone_from(&args.$setting);
            })*
        };
    }
    overlay_optional!(
        allow,
        deny,
        keys,
        tls_certificate,
        tls_key,
        user,
        group,
        forwarders,
        cluster_listen,
        cluster_key_file,
        directory_ca,
        directory_password_file,
        directory_token
    );
    fit_times(args, &mut config);
    if let Some(directory) = &args.directory {
        config.directory = Some(home(directory)?);
    }
    config.directory_password = secret("LONGSHORE_TRACKER_DIRECTORY_PASSWORD").map(Password::new);
    config.cluster_key = cluster_key()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn parsed(line: &[&str]) -> anyhow::Result<Config> {
        let command = Args::augment_args(clap::Command::new("tracker"));
        let matches = command.try_get_matches_from([&["tracker"], line].concat())?;
        config(&Args::from_arg_matches(&matches)?)
    }

    #[test]
    fn every_setting_has_its_flag_and_its_variable() {
        let command = Args::augment_args(clap::Command::new("tracker"));
        let settings = serde_json::to_value(Config::default()).expect("a tree");
        for setting in settings.as_object().expect("a table").keys() {
            let argument = command.get_arguments().find(|argument| argument.get_id() == setting.as_str());
            let argument = argument.unwrap_or_else(|| panic!("{setting} has no flag"));
            assert_eq!(argument.get_long(), Some(setting.replace('_', "-").as_str()));
            let variable = format!("LONGSHORE_TRACKER_{}", setting.to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        }
    }

    #[test]
    fn the_help_says_every_default() {
        let command = with_defaults(Args::augment_args(clap::Command::new("tracker")));
        let settings = serde_json::to_value(Config::default()).expect("a tree");
        for setting in settings.as_object().expect("a table").keys() {
            let argument = command.get_arguments().find(|argument| argument.get_id() == setting.as_str());
            let own = argument.and_then(|argument| argument.get_help()).map(ToString::to_string);
            assert!(own.as_ref().is_some_and(|own| own.contains(" [default: ")), "{setting}: {own:?}");
        }
        let help = command.clone().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for default in ["[default: [::]:6969]", "[default: 600]", "[default: 127.0.0.0/8,::1/128]"] {
            assert!(help.contains(default), "{default}");
        }
    }

    #[test]
    fn retrackers_command_line_means_what_it_means_there() {
        let line =
            ["-l", ":8080", "-d", "-x", "-p", "-a", "0.5", "-i", "10", "-t", "3", "-f", "forwarders.yml"];
        let config = parsed(&line).expect("good");
        assert_eq!(config.listen, ["[::]:8080".parse().expect("an address")]);
        assert_eq!((config.peer_age, config.interval, config.forward_timeout), (30, 10, 3));
        assert_eq!(config.trusted_proxies, Network::EVERYWHERE);
        assert_eq!(config.forwarders, Some("forwarders.yml".into()));
        assert_eq!(config.check(), Ok(()));
        let both = parsed(&["-l", "127.0.0.1:1", "--listen", "127.0.0.1:2"]).expect_err("two");
        assert!(both.to_string().contains("-l 127.0.0.1:1"), "{both:#}");
        assert!(parsed(&["-a", "-1"]).is_err() && parsed(&["-l", "8080"]).is_err());
        let command = Args::augment_args(clap::Command::new("tracker"));
        for variable in [
            "LISTEN_ADDR",
            "PEER_AGE",
            "DEBUG_MODE",
            "X_REAL_IP",
            "FORWARD_TIMEOUT",
            "ENABLE_PROMETHEUS",
            "ANNOUNCE_INTERVAL",
            "FORWARDS_FILE",
        ] {
            assert!(
                command.get_arguments().any(|a| a.get_env().is_some_and(|env| env == variable)),
                "{variable}"
            );
        }
    }

    #[test]
    fn flags_stand_above_the_file_and_the_file_above_defaults() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tracker.toml");
        std::fs::write(&path, "interval = 60\nnumwant = 7\nlisten = [\"127.0.0.1:1\"]\n").expect("written");
        let file = path.to_str().expect("text");
        let config = parsed(&["--config", file, "--interval", "90"]).expect("good");
        assert_eq!((config.interval, config.numwant, config.max_numwant), (90, 7, 200));
        assert_eq!(config.listen, ["127.0.0.1:1".parse().expect("an address")]);
        let config = parsed(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0"]).expect("good");
        assert_eq!(config.listen.len(), 2);
        std::fs::write(&path, "interval = 60\nmin_interval = 50\npeer_age = 100\n").expect("written");
        for (flag, value, fitting) in [
            ("--interval", "20", (20, 20, 100)),
            ("--interval", "600", (600, 50, 1500)),
            ("--peer-age", "30", (12, 12, 30)),
            ("--peer-age", "3000", (60, 50, 3000)),
        ] {
            let config = parsed(&["--config", file, flag, value]).expect("good");
            assert_eq!((config.interval, config.min_interval, config.peer_age), fitting, "{flag} {value}");
            assert_eq!(config.check(), Ok(()));
        }
        let config = parsed(&["--interval", "20", "--min-interval", "30"]).expect("read");
        assert!(config.check().is_err(), "what is given is not changed");
        std::fs::write(&path, "intervall = 60\n").expect("written");
        let error = parsed(&["--config", file]).expect_err("an unknown key");
        assert!(format!("{error:#}").contains("intervall"), "{error:#}");
    }
    #[test]
    fn the_directory_is_a_file_or_etcd_and_a_password_in_it_is_not_repeated() {
        let config = parsed(&["--directory", "etcd://a,b:1/p"]).expect("good");
        assert_eq!(config.directory.map(|home| home.to_string()).as_deref(), Some("etcd://a:2379,b:1/p"));
        let config = parsed(&["--directory", "d.redb"]).expect("good");
        assert_eq!(config.directory, Some(Home::File("d.redb".into())));
        let error = parsed(&["--directory", "http://a:6969"]).expect_err("a tracker's URL");
        assert!(format!("{error:#}").contains("etcd://"), "{error:#}");
        let error = parsed(&["--directory", "etcd://root:secret@a"]).expect_err("a password");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
