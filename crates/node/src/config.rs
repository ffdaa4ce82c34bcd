//! Everything a node is told at its start.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use mirror::{Limits, MirrorConfig};
use origin::{OriginConfig, Upstream};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::site::{OstreeConfig, ProxyConfig};

/// The configuration file with every default, and what each setting means.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A node's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Announce URLs, each a tier of its own.
    pub trackers: Vec<String>,
    /// Base URLs of the content directory; empty for the trackers' hosts, `["none"]` for no directory.
    pub directory: Vec<String>,
    /// A file with the directory's token.
    pub directory_token_file: Option<PathBuf>,
    /// Where blobs are kept.
    pub data: PathBuf,
    /// The node's name in leases; empty for one of its own making.
    pub name: String,
    /// How much is kept of it.
    pub store: StoreConfig,
    /// The engine.
    pub peer: PeerConfig,
    /// The registry mirror.
    pub mirror: MirrorSection,
    /// The API.
    pub api: ApiConfig,
    /// The content service.
    pub content: ContentConfig,
    /// Ordinary torrents.
    pub torrents: TorrentsConfig,
    /// Registries.
    pub origin: OriginConfig,
    /// The mirror as a proxy.
    pub proxy: ProxyConfig,
    /// OSTree repositories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ostree: Vec<OstreeConfig>,
}

/// The part of the configuration about how much is kept. What was used least lately goes first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [store]")]
pub struct StoreConfig {
    /// The most that all blobs may take, in MiB; 0 for no limit.
    pub limit_mib: u64,
    /// How much of the disk stays free, in percent; 0 for nothing.
    #[serde(deserialize_with = "percent")]
    pub free_percent: u8,
    /// What was not used for so many days goes; 0 for never.
    pub unused_days: u64,
    /// What was used within so many minutes stays in any case.
    pub keep_minutes: u64,
    /// Stores of others on this host, whose blobs are borrowed: containerd's content store, OCI layouts, other nodes'.
    pub borrow: Vec<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { limit_mib: 0, free_percent: 10, unused_days: 0, keep_minutes: 10, borrow: Vec::new() }
    }
}

/// The part of the configuration about peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [peer]")]
pub struct PeerConfig {
    /// Where to listen.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// Most connections for all blobs together, half of them for those that others make to us.
    pub max_connections: usize,
    /// Most connections that one host may make to us.
    pub max_per_host: usize,
    /// Most connections for one blob.
    pub max_peers: usize,
    /// How many peers are served at once, per blob.
    pub upload_slots: usize,
    /// Most content bytes received per second; 0 for no limit.
    pub down_limit: u64,
    /// Most content bytes sent per second; 0 for no limit.
    pub up_limit: u64,
    /// Whether peers are looked for in the local network too.
    pub local_discovery: bool,
}

/// The part of the configuration about ordinary torrents.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [torrents]")]
pub struct TorrentsConfig {
    /// Where their content goes; empty for `torrents/content` in the node's data.
    pub folder: PathBuf,
    /// Folders that are watched for torrent files.
    pub watch: Vec<PathBuf>,
}

/// The part of the configuration about the mirror.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [mirror]")]
pub struct MirrorSection {
    /// Where to listen.
    #[serde(deserialize_with = "listen_all")]
    pub listen: Vec<SocketAddr>,
    /// The registry of requests that name none.
    pub default_registry: String,
    /// How many connections are served at once.
    pub max_connections: usize,
    /// Whether clients are asked to log in at once, as the default registry asks them.
    pub challenge: bool,
    /// Files of a certificate and its key, in PEM: then https is spoken on the same port as http.
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's key.
    pub tls_key: Option<PathBuf>,
    /// Whether a certificate is made where none is given.
    pub tls_own: bool,
}

/// The part of the configuration about the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [api]")]
pub struct ApiConfig {
    /// The unix socket.
    pub socket: PathBuf,
    /// Where it is over TCP as well, with the page.
    #[serde(deserialize_with = "listen_all")]
    pub listen: Vec<SocketAddr>,
    /// A file with the token that is asked for over TCP.
    pub token_file: Option<PathBuf>,
    /// The token itself, which stands in no file and is shown nowhere. It goes before that of `token_file`.
    #[serde(skip)]
    pub token: Option<String>,
    /// Origins of pages of other nodes that may use it.
    pub origins: Vec<String>,
}

/// The part of the configuration about content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [content]")]
pub struct ContentConfig {
    /// Seconds without a byte from the swarm before the origin is asked; a fifth of them where there is no peer.
    pub stall_seconds: u64,
    /// Seconds to wait for another node's lease before asking the origin all the same.
    pub lease_patience_seconds: u64,
    /// Seconds for which a registry's word holds that somebody may have what is not public.
    pub consent_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trackers: Vec::new(),
            directory: Vec::new(),
            directory_token_file: None,
            data: PathBuf::from("/var/lib/longshore"),
            name: String::new(),
            store: StoreConfig::default(),
            peer: PeerConfig::default(),
            mirror: MirrorSection::default(),
            api: ApiConfig::default(),
            content: ContentConfig::default(),
            torrents: TorrentsConfig::default(),
            origin: OriginConfig::default(),
            proxy: ProxyConfig::default(),
            ostree: Vec::new(),
        }
    }
}

impl Default for PeerConfig {
    fn default() -> Self {
        let engine = engine::Config::default();
        Self {
            listen: engine.listen,
            max_connections: engine.max_connections,
            max_per_host: engine.max_per_host,
            max_peers: engine.max_peers,
            upload_slots: engine.upload_slots,
            down_limit: engine.down_limit,
            up_limit: engine.up_limit,
            local_discovery: engine.local_discovery,
        }
    }
}

impl Default for MirrorSection {
    fn default() -> Self {
        let mirror = MirrorConfig::default();
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 5555))],
            default_registry: mirror.default_registry,
            max_connections: mirror.max_connections,
            challenge: false,
            tls_certificate: None,
            tls_key: None,
            tls_own: false,
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/longshore/node.sock"),
            listen: Vec::new(),
            token_file: None,
            token: None,
            origins: Vec::new(),
        }
    }
}

impl Default for ContentConfig {
    fn default() -> Self {
        Self { stall_seconds: 10, lease_patience_seconds: 240, consent_seconds: 300 }
    }
}

impl Config {
    /// Reads a configuration file; what it leaves out keeps its default, what is not known is refused.
    ///
    /// # Errors
    /// What is wrong, and where in the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// Says where a registry answers, above what the file says of it.
    pub fn set_upstream(&mut self, registry: &str, endpoint: &str) {
        let upstreams = &mut self.origin.upstreams;
        if let Some(known) = upstreams.iter_mut().find(|upstream| upstream.registry == registry) {
            known.endpoint = Some(endpoint.to_owned());
        } else {
            let (registry, endpoint) = (registry.to_owned(), Some(endpoint.to_owned()));
            upstreams.push(Upstream { registry, endpoint, ..Upstream::default() });
        }
    }

    /// Base URLs of the directory, from the trackers where none are given; empty for no directory.
    pub(crate) fn directories(&self) -> Vec<String> {
        match self.directory.as_slice() {
            [none] if none == "none" => Vec::new(),
            [] => {
                let base = |of: &str, scheme: &str| {
                    let bases = self.trackers.iter().filter_map(|tracker| {
                        let rest = tracker.strip_prefix(of)?;
                        Some(format!("{scheme}{}", rest.split('/').next()?))
                    });
                    bases.collect::<Vec<_>>()
                };
                let mut bases = base("http://", "http://");
                bases.extend(base("https://", "https://"));
                // A tracker of ours answers both at one port.
                if bases.is_empty() { base("udp://", "http://") } else { bases }
            }
            given => given.to_vec(),
        }
    }

    /// Where the content of ordinary torrents goes.
    pub(crate) fn torrents_folder(&self) -> PathBuf {
        match &self.torrents.folder {
            folder if folder.as_os_str().is_empty() => self.data.join("torrents").join("content"),
            folder => folder.clone(),
        }
    }

    pub(crate) fn engine(&self) -> engine::Config {
        engine::Config {
            listen: self.peer.listen,
            max_connections: self.peer.max_connections,
            max_per_host: self.peer.max_per_host,
            max_peers: self.peer.max_peers,
            upload_slots: self.peer.upload_slots,
            down_limit: self.peer.down_limit,
            up_limit: self.peer.up_limit,
            local_discovery: self.peer.local_discovery,
            ..engine::Config::default()
        }
    }

    pub(crate) fn mirror(&self) -> MirrorConfig {
        let defaults = Limits::default();
        // While another node fetches a blob, its clients here are given nothing.
        let body_stall = defaults.body_stall + self.content.lease_patience();
        MirrorConfig {
            default_registry: self.mirror.default_registry.clone(),
            max_connections: self.mirror.max_connections,
            max_tunnels: self.proxy.max_tunnels,
            limits: Limits { body_stall, ..defaults },
        }
    }
}

impl ContentConfig {
    pub(crate) const fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }

    pub(crate) const fn lease_patience(&self) -> Duration {
        Duration::from_secs(self.lease_patience_seconds)
    }

    pub(crate) const fn consent(&self) -> Duration {
        Duration::from_secs(self.consent_seconds)
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let percent = u8::deserialize(deserializer)?;
    if percent > 100 {
        return Err(D::Error::custom("a share of the disk is at most 100 percent"));
    }
    Ok(percent)
}

/// Reads an address to listen on: `0.0.0.0:6881`, `[::1]:5555`.
///
/// # Errors
/// What is wrong with it, and how it is written.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    // As in many programs, a port alone is that port everywhere.
    if let Some(port) = text.trim().strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    text.trim().parse().map_err(|_| {
        format!("`{text}` is no address to listen on: write an IP address and a port, such as {}", like(text))
    })
}

/// An example, with the port that was given if there is one.
fn like(text: &str) -> String {
    let port = text.rsplit(':').next().and_then(|port| port.trim().parse().ok()).unwrap_or(6881);
    if text.starts_with("localhost") { format!("127.0.0.1:{port}") } else { format!("0.0.0.0:{port}") }
}

fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    parse_listen(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn listen_all<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse_listen(text).map_err(D::Error::custom)).collect()
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// It does not parse, or holds what is not known.
    #[error("the configuration {} is wrong: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: toml::de::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_says_the_defaults_and_every_setting() {
        let example: Config = toml::from_str(EXAMPLE).expect("valid");
        let (example, default) = (toml::to_string(&example), toml::to_string(&Config::default()));
        assert_eq!(example.expect("serialises"), default.clone().expect("serialises"));
        let keys = default.expect("serialises");
        for key in keys.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            assert!(EXAMPLE.contains(key), "{key} is not in the example");
        }
    }

    /// What an example that is commented out says.
    fn example_of(table: &str) -> Config {
        let (_, example) = EXAMPLE.split_once(&format!("# {table}")).expect("there");
        let block = example.lines().skip(1).take_while(|line| !line.is_empty());
        let block: String =
            block.map(|line| line.strip_prefix("# ").unwrap_or(line).to_owned() + "\n").collect();
        toml::from_str(&format!("{table}\n{block}")).expect("valid")
    }

    #[test]
    fn the_examples_of_the_web_are_such() {
        let rule = example_of("[[proxy.rules]]").proxy.rules.pop().expect("one");
        assert!(rule.digest_header.is_some() && rule.stale);
        let config = example_of("[[ostree]]");
        let ostree = config.ostree.first().expect("one");
        assert!(ostree.ca.is_some() && ostree.stale);
        assert!(crate::site::Sites::new(&config).is_ok());
    }

    #[test]
    fn the_example_of_an_upstream_is_one() {
        let config = example_of("[[origin.upstreams]]");
        let upstream = config.origin.upstreams.first().expect("one");
        assert!(upstream.endpoint.is_some() && upstream.ca.is_some() && upstream.credentials.is_some());
        assert_eq!(upstream.repositories.len(), 2);
        let defaults = Upstream::default();
        assert_eq!(
            (upstream.tags, upstream.stale_tags, upstream.when_down),
            (defaults.tags, defaults.stale_tags, defaults.when_down)
        );
    }

    #[test]
    fn errors_speak_of_tables_and_keys_and_not_of_the_programs_insides() {
        let error = |text: &str| toml::from_str::<Config>(text).expect_err(text).to_string();
        for table in ["peer", "mirror", "api", "content", "origin"] {
            let words = error(&format!("{table} = 1"));
            assert!(words.contains(&format!("the table [{table}]")) && !words.contains("struct"), "{words}");
        }
        for text in ["[origin]\nupstreams = [1]", "[[origin.upstreams]]\nregistry = \"a\"\ncredentials = 1"] {
            assert!(!error(text).contains("struct"), "{}", error(text));
        }
        assert!(error("[peer]\nlisten = \"6881\"").contains("such as 0.0.0.0:6881"));
        assert!(error("[mirror]\nlisten = [\"localhost:5555\"]").contains("such as 127.0.0.1:5555"));
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(toml::from_str::<Config>("trakers = []").is_err());
        assert!(toml::from_str::<Config>("[peer]\nport = 1").is_err());
    }

    #[test]
    fn the_directory_is_where_the_trackers_are() {
        let mut config = Config { trackers: vec!["http://t:6969/announce".into()], ..Config::default() };
        assert_eq!(config.directories(), ["http://t:6969"]);
        config.directory = vec!["none".into()];
        assert!(config.directories().is_empty());
        config.directory = vec!["http://d:1".into()];
        assert_eq!(config.directories(), ["http://d:1"]);
    }
}
