//! What can be set. The comments are the example file's, and a test holds them to be.

use std::{
    collections::HashSet,
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use etcd::{Address, AddressError, Password};
use serde::{Deserialize, Serialize};

use crate::{
    ClusterKey, Network,
    cluster::is_member,
    endpoint::{Listen, SocketMode},
    http::worker::WAITING,
};

/// The configuration file with every default, and what each setting means.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The tracker's configuration. The defaults are for a fleet in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen: addresses, and `unix:/path` for a socket that a reverse proxy connects to. `[::]` takes IPv4 as
    /// well; a machine without IPv6 falls back to `0.0.0.0`. Sockets that systemd hands over take the place of all these.
    pub listen: Vec<Listen>,

    /// Whether the same addresses and ports take UDP as well (BEP 15).
    pub udp: bool,

    /// Addresses to listen on for HTTPS.
    pub tls_listen: Vec<SocketAddr>,

    /// The file of the certificate for these, with the chain behind it (PEM). It is read anew with the configuration.
    pub tls_certificate: Option<PathBuf>,

    /// The file of its key (PEM), which `user` must be able to read.
    pub tls_key: Option<PathBuf>,

    /// Who may connect to unix sockets: the mode of their files, octal, as text. They are `user`'s and `group`'s.
    pub socket_mode: SocketMode,

    /// The user that the tracker becomes once it has bound its addresses, by name or number. Everything else is done
    /// as that user: files are read, also anew, and the directory is kept.
    pub user: Option<String>,

    /// The group that it then has; the user's own unless set.
    pub group: Option<String>,

    /// How many threads answer each protocol at each address; 0 for as many as there are cores.
    pub workers: usize,

    /// Seconds between two announces of a peer. Ten minutes: with tens of thousands of torrents per node, each
    /// announce costs, and nodes announce at once when something begins, completes or the tracker restarts.
    pub interval: u64,

    /// By how many percent that is made shorter or longer at random for each answer, so that a crowd that came at
    /// once does not come back at once.
    pub interval_spread: u64,

    /// Seconds that a peer must wait at least. Short, since in a flash crowd the newest peers matter.
    pub min_interval: u64,

    /// Seconds after which a peer that does not announce is forgotten. Longer than two intervals, so that
    /// one lost announce costs nothing.
    pub peer_age: u64,

    /// How many peers an answer holds when the asker does not say.
    pub numwant: u32,

    /// How many peers an answer holds at most.
    pub max_numwant: u32,

    /// Seconds that a UDP connection id holds. The protocol says two minutes, but clients keep theirs for hours, and
    /// do not take it well when it is refused.
    pub connection_id_age: u64,

    /// Bytes that the system keeps of UDP packets that come faster than they are answered, for each worker; granted
    /// as far as `net.core.rmem_max` goes.
    pub receive_buffer: usize,

    /// Whether peers' ids are kept, 20 bytes each, for clients that ask for peers not in compact form and with ids.
    pub peer_ids: bool,

    /// Whether a scrape that names no torrent is answered with all of them.
    pub full_scrape: bool,

    /// How many torrents are kept at most; announces of others are answered, but not kept.
    pub max_torrents: usize,

    /// How many peers are kept at most, over all torrents; 12 bytes each with IPv4, 24 with IPv6, and 170 for a
    /// torrent.
    pub max_peers: usize,

    /// Networks from which a peer may say by `ip=` at which address others reach it. By default this machine: a
    /// peer's own address here, 127.0.0.1, is of no use to others.
    pub ip_from: Vec<Network>,

    /// Networks of reverse proxies, which say in a header for whom they ask, and are refused announces where they do not.
    /// What connects to a unix socket is one in any case.
    pub trusted_proxies: Vec<Network>,

    /// Whether these proxies say for whom a connection is by the PROXY protocol (version 1 or 2). They then must, and
    /// nobody else may.
    pub proxy_protocol: bool,

    /// The header in which they do: `X-Real-IP`, `X-Forwarded-For`, or another.
    pub real_ip_header: String,

    /// A file of info-hashes, one on each line: only these torrents are served.
    pub allow: Option<PathBuf>,

    /// A file of info-hashes, one on each line: these torrents are not served.
    pub deny: Option<PathBuf>,

    /// Whether only torrents are served that the content directory knows, and those that `allow` lists. Keep the directory
    /// in a file or in etcd then: what is in memory is forgotten at a restart, and hosts cannot announce what they hold.
    pub registered_only: bool,

    /// A file of keys, one on each line. Announce URLs must then hold one of them: `/KEY/announce` or `/announce/KEY`.
    pub keys: Option<PathBuf>,

    /// Networks from which statistics, metrics and lists of torrents (the largest, full scrapes) may be seen. With none,
    /// the first two are for everybody, and the last for this machine: an info-hash is the key to a torrent's content.
    pub stats_from: Vec<Network>,

    /// How many announces and scrapes a second are answered to a source, by UDP and HTTP together; 0 for any number. Who
    /// asks more often is not answered over UDP, and is told so over HTTP. A fleet behind one address counts as one.
    pub rate_limit: u64,

    /// How many of them may come at once after a pause.
    pub rate_burst: u64,

    /// Networks to which no such limit applies.
    pub rate_exempt: Vec<Network>,

    /// How many bits of an IPv4 address make a source.
    pub rate_prefix_v4: u8,

    /// How many bits of an IPv6 address make a source. Whoever has an address has a network of 64 bits.
    pub rate_prefix_v6: u8,

    /// How many connections are open at most. For one more, one goes that has stood idle for long.
    pub max_connections: usize,

    /// How many of them one host may have: an IPv4 address, or an IPv6 network of 64 bits. A fleet behind one address
    /// counts as one. This machine and `trusted_proxies` may have any number.
    pub max_connections_per_host: usize,

    /// Seconds that a connection may stand idle between announces.
    pub idle_timeout: u64,

    /// A file that lists forwarders: trackers that are told of our peers, and whose peers ours are told of. YAML, each
    /// with `uri`, and where needed `name`, `ip`, `host`.
    pub forwarders: Option<PathBuf>,

    /// Seconds that a forwarder may take.
    pub forward_timeout: u64,

    /// The other trackers of the cluster, as `host:port` of their `cluster_listen`: all tell one another of their peers, so
    /// that a client may ask any of them. The same list may stand everywhere: a tracker knows itself in it.
    pub cluster: Vec<String>,

    /// Where the cluster's other trackers reach this one, over TCP.
    pub cluster_listen: Option<SocketAddr>,

    /// The file that holds the key which the cluster's trackers share, on one line, 32 characters or more. It may be in
    /// the variable `LONGSHORE_TRACKER_CLUSTER_KEY` instead.
    pub cluster_key_file: Option<PathBuf>,

    /// The key itself, which stands in no configuration file.
    #[serde(skip)]
    pub cluster_key: Option<ClusterKey>,

    /// Where the content directory is: a file, or etcd, which trackers share
    /// (`etcd://[user@]host:2379,host2:2379[/prefix]`, `etcds://…` over TLS). Without either the directory is in
    /// memory, and a restart costs the origin one more copy of what is pulled afterwards.
    pub directory: Option<Home>,

    /// With `etcds://`, the file of the certificates (PEM) by which etcd's are judged; without it, by the system's.
    pub directory_ca: Option<PathBuf>,

    /// The file that holds the password of etcd's user, on one line. It may be in the variable
    /// `LONGSHORE_TRACKER_DIRECTORY_PASSWORD` instead.
    pub directory_password_file: Option<PathBuf>,

    /// The password itself, which stands in no configuration file.
    #[serde(skip)]
    pub directory_password: Option<Password>,

    /// Seconds that a lease to fetch from the origin lasts unless it is renewed: how long a fleet waits when the
    /// node that fetches dies.
    pub lease_ttl: u64,

    /// The token that callers of the directory must show. Without one, anyone who reaches the tracker may publish.
    pub directory_token: Option<String>,

    /// How many blobs and how many tags the directory holds at most; in memory no more than a GiB of them either.
    pub max_entries: u64,

    /// How many claims wait at the same time at most, and a sixteenth of them those of one host; more are answered at once.
    pub max_waiting: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6969)).into()],
            udp: true,
            tls_listen: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            socket_mode: SocketMode::GROUP,
            user: None,
            group: None,
            workers: 0,
            interval: 600,
            interval_spread: 5,
            min_interval: 30,
            peer_age: 1500,
            numwant: 50,
            max_numwant: 200,
            connection_id_age: 6 * 3600,
            receive_buffer: 8 * 1024 * 1024,
            peer_ids: false,
            full_scrape: false,
            max_torrents: 2_000_000,
            max_peers: 20_000_000,
            ip_from: vec![Network::LOOPBACK_V4, Network::LOOPBACK_V6],
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            real_ip_header: "X-Real-IP".to_owned(),
            allow: None,
            deny: None,
            registered_only: false,
            keys: None,
            stats_from: Vec::new(),
            rate_limit: 0,
            rate_burst: 200,
            rate_exempt: vec![Network::LOOPBACK_V4, Network::LOOPBACK_V6],
            rate_prefix_v4: 32,
            rate_prefix_v6: 64,
            max_connections: 16_384,
            max_connections_per_host: 4096,
            idle_timeout: 60,
            forwarders: None,
            forward_timeout: 2,
            cluster: Vec::new(),
            cluster_listen: None,
            cluster_key_file: None,
            cluster_key: None,
            directory: None,
            directory_ca: None,
            directory_password_file: None,
            directory_password: None,
            lease_ttl: 10,
            directory_token: None,
            max_entries: 1_000_000,
            max_waiting: 16_384,
        }
    }
}

/// Where the content directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Home {
    /// A file, of this tracker alone.
    File(PathBuf),
    /// etcd.
    Etcd(Address),
}

/// Why a text is no home of the directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Nothing at all.
    #[error("it is empty: give a file, or etcd://…")]
    Empty,
    /// A URL, but not one of etcd.
    #[error("it is a URL of `{0}`: a tracker's directory is a file, or etcd://…")]
    Url(String),
    /// Meant for etcd.
    #[error(transparent)]
    Etcd(#[from] AddressError),
}

impl FromStr for Home {
    type Err = HomeError;

    fn from_str(text: &str) -> Result<Self, HomeError> {
        match text.split_once("://") {
            None if text.trim().is_empty() => Err(HomeError::Empty),
            None => Ok(Self::File(text.into())),
            Some(("etcd" | "etcds", _)) => Ok(Self::Etcd(text.parse()?)),
            Some((scheme, _)) => Err(HomeError::Url(scheme.to_owned())),
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Etcd(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for Home {
    type Error = HomeError;

    fn try_from(text: String) -> Result<Self, HomeError> {
        text.parse()
    }
}

impl From<Home> for String {
    fn from(home: Home) -> Self {
        home.to_string()
    }
}

/// The most trackers in a cluster: each tells every other.
const MOST_MEMBERS: usize = 32;

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The same place twice.
    #[error(
        "{0} is to be listened on twice: `listen`, `tls_listen` and `cluster_listen` must name different places"
    )]
    Twice(Listen),
    /// Nowhere to listen.
    #[error("`listen` is empty: give at least one address, such as \"[::]:6969\"")]
    NoListener,
    /// TLS, and nothing to show.
    #[error("HTTPS wants a certificate: give `tls_certificate` and `tls_key`")]
    NoCertificate,
    /// One without the other.
    #[error("`tls_certificate` and `tls_key` go together: give both, or none")]
    HalfCertificate,
    /// A group, and no user.
    #[error("`group` goes with `user`: give a user, or leave the group out")]
    NoUser,
    /// Nobody whose word on others is taken.
    #[error("`proxy_protocol` is for proxies: name their networks with `trusted_proxies`, or leave it out")]
    NoProxies,
    /// A number outside its range.
    #[error("`{name}` is {value}: it must be {must}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it is set to.
        value: u64,
        /// What it may be.
        must: &'static str,
    },
    /// Not the name of a header.
    #[error("`real_ip_header` is `{0}`: it must be the name of a header, such as X-Forwarded-For")]
    Header(String),
    /// A token that protects nothing.
    #[error("`directory_token` is empty: leave it out, or set one")]
    EmptyToken,
    /// A token that nobody can show.
    #[error(
        "`directory_token` holds a line break, a space or another character that cannot stand in a header: write \
         letters, digits and signs of ASCII alone"
    )]
    Token,
    /// Something for etcd, and no etcd.
    #[error("`{0}` is for a directory in etcd: set `directory` to etcd://… or etcds://…, or leave it out")]
    NoEtcd(&'static str),
    /// A user of etcd without a password.
    #[error(
        "`directory` names a user of etcd: give the password with `directory_password_file`, or in the variable \
         LONGSHORE_TRACKER_DIRECTORY_PASSWORD"
    )]
    NoPassword,
    /// Not an address of another tracker.
    #[error("`cluster` holds `{0}`: write each tracker as host:port, with the port of its `cluster_listen`")]
    Member(String),
    /// One of them twice.
    #[error("`cluster` holds `{0}` twice: name each tracker once")]
    MemberTwice(String),
    /// A door that nobody finds.
    #[error("`cluster_listen` has port 0: give the port by which the other trackers know this one")]
    ClusterPort,
    /// More trackers than a cluster has.
    #[error("`cluster` holds {0} trackers: at most {MOST_MEMBERS} are allowed")]
    Members(usize),
    /// A part of what a cluster needs.
    #[error(
        "a cluster takes `cluster` (the other trackers), `cluster_listen` (where they reach this one) and a key \
         (`cluster_key_file`, or the variable LONGSHORE_TRACKER_CLUSTER_KEY): {0} is missing"
    )]
    PartOfCluster(&'static str),
    /// Certificates, and no TLS.
    #[error("`directory_ca` is for TLS: write `directory` with etcds:// instead of etcd://, or leave it out")]
    NoTls,
}

impl Config {
    /// Whether the values make sense together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let require = |good: bool, name, value, must| {
            if good { Ok(()) } else { Err(ConfigError::Range { name, value, must }) }
        };
        self.check_listeners()?;
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::HalfCertificate);
        }
        if !self.tls_listen.is_empty() && self.tls_certificate.is_none() {
            return Err(ConfigError::NoCertificate);
        }
        if self.group.is_some() && self.user.is_none() {
            return Err(ConfigError::NoUser);
        }
        match self.directory_token.as_deref() {
            Some("") => return Err(ConfigError::EmptyToken),
            Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(ConfigError::Token);
            }
            _ => {}
        }
        self.check_directory()?;
        self.check_cluster()?;
        let day = 1..=86_400;
        require(day.contains(&self.interval), "interval", self.interval, "1 to 86400 seconds")?;
        require(self.min_interval <= self.interval, "min_interval", self.min_interval, "at most `interval`")?;
        let spread = self.interval_spread;
        require(spread <= 50, "interval_spread", spread, "at most 50 percent")?;
        let peer_age = self.interval + 1..=7 * 86_400;
        require(
            peer_age.contains(&self.peer_age),
            "peer_age",
            self.peer_age,
            "more than `interval`, and at most 7 days",
        )?;
        let most = u64::from(self.max_numwant);
        require((1..=1000).contains(&most), "max_numwant", most, "1 to 1000")?;
        let numwant = (1..=self.max_numwant).contains(&self.numwant);
        require(numwant, "numwant", self.numwant.into(), "1 to `max_numwant`")?;
        require((1..=3600).contains(&self.lease_ttl), "lease_ttl", self.lease_ttl, "1 to 3600 seconds")?;
        let id_age = self.connection_id_age;
        require((60..=86_400).contains(&id_age), "connection_id_age", id_age, "60 to 86400 seconds")?;
        let buffer = self.receive_buffer as u64;
        require((1 << 12..=1 << 30).contains(&buffer), "receive_buffer", buffer, "4096 bytes to 1 GiB")?;
        require(self.workers <= 1024, "workers", self.workers as u64, "at most 1024")?;
        let forward = self.forward_timeout;
        require((1..=60).contains(&forward), "forward_timeout", forward, "1 to 60 seconds")?;
        if ::http::HeaderName::from_bytes(self.real_ip_header.as_bytes()).is_err() {
            return Err(ConfigError::Header(self.real_ip_header.clone()));
        }
        let (rate, burst) = (self.rate_limit, self.rate_burst);
        require(rate <= 100_000, "rate_limit", rate, "at most 100000 a second")?;
        require((1..=1_000_000).contains(&burst), "rate_burst", burst, "1 to 1000000")?;
        let (v4, v6) = (self.rate_prefix_v4, self.rate_prefix_v6);
        require((8..=32).contains(&v4), "rate_prefix_v4", v4.into(), "8 to 32 bits")?;
        require((16..=128).contains(&v6), "rate_prefix_v6", v6.into(), "16 to 128 bits")?;
        let idle = self.idle_timeout;
        require((1..=3600).contains(&idle), "idle_timeout", idle, "1 to 3600 seconds")?;
        let connections = self.max_connections as u64;
        require((1..=1 << 20).contains(&connections), "max_connections", connections, "1 to 1048576")?;
        let per_host = self.max_connections_per_host as u64;
        require((1..=1 << 20).contains(&per_host), "max_connections_per_host", per_host, "1 to 1048576")?;
        require(self.max_torrents > 0, "max_torrents", 0, "at least 1")?;
        require(self.max_peers > 0, "max_peers", 0, "at least 1")?;
        require(self.max_entries > 0, "max_entries", 0, "at least 1")
    }

    fn check_listeners(&self) -> Result<(), ConfigError> {
        let addresses = self.tls_listen.iter().chain(&self.cluster_listen).copied().map(Listen::from);
        let mut seen = HashSet::new();
        for at in self.listen.iter().cloned().chain(addresses) {
            // Port 0 is another each time.
            let is_one = at.address().is_none_or(|address| address.port() != 0);
            if is_one && !seen.insert(at.clone()) {
                return Err(ConfigError::Twice(at));
            }
        }
        Ok(())
    }

    /// The settings that differ in `other`, and that hold from the start to the end.
    pub(crate) fn fixed_that_differ(&self, other: &Self) -> Vec<&'static str> {
        macro_rules! differ {
            ($($setting:ident),*) => {
                [$((stringify!($setting), self.$setting != other.$setting)),*]
            };
        }
        let settings = differ!(
            listen,
            udp,
            tls_listen,
            socket_mode,
            user,
            group,
            workers,
            peer_age,
            numwant,
            max_numwant,
            connection_id_age,
            receive_buffer,
            peer_ids,
            full_scrape,
            max_torrents,
            max_peers,
            max_connections,
            max_connections_per_host,
            idle_timeout,
            cluster,
            cluster_listen,
            cluster_key_file,
            directory,
            directory_ca,
            directory_password_file,
            lease_ttl,
            directory_token,
            max_entries,
            max_waiting
        );
        settings.into_iter().filter_map(|(setting, differs)| differs.then_some(setting)).collect()
    }

    /// How many threads answer each protocol at each address.
    pub(crate) fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }

    /// How many connections may wait for a place at most, beside those that have one.
    pub fn max_newcomers(&self) -> usize {
        WAITING * self.workers() * self.listen.len().max(1)
    }

    fn check_cluster(&self) -> Result<(), ConfigError> {
        if let Some(member) = self.cluster.iter().find(|member| !is_member(member)) {
            return Err(ConfigError::Member(member.chars().take(100).collect()));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.cluster.iter().find(|member| !seen.insert(member.to_ascii_lowercase())) {
            return Err(ConfigError::MemberTwice(twice.clone()));
        }
        if self.cluster_listen.is_some_and(|address| address.port() == 0) {
            return Err(ConfigError::ClusterPort);
        }
        if self.cluster.len() > MOST_MEMBERS {
            return Err(ConfigError::Members(self.cluster.len()));
        }
        let (listens, key) =
            (self.cluster_listen.is_some(), self.cluster_key_file.is_some() || self.cluster_key.is_some());
        match (self.cluster.is_empty(), listens, key) {
            // A key alone is no wish for a cluster: it may be in the environment.
            (true, false, _) if self.cluster_key_file.is_none() => Ok(()),
            (true, ..) => Err(ConfigError::PartOfCluster("`cluster`")),
            (false, false, _) => Err(ConfigError::PartOfCluster("`cluster_listen`")),
            (false, true, false) => Err(ConfigError::PartOfCluster("the key")),
            (false, true, true) => Ok(()),
        }
    }

    fn check_directory(&self) -> Result<(), ConfigError> {
        let (ca, password_file) = (self.directory_ca.is_some(), self.directory_password_file.is_some());
        match &self.directory {
            Some(Home::Etcd(address)) => {
                if address.user().is_some() && !password_file && self.directory_password.is_none() {
                    return Err(ConfigError::NoPassword);
                }
                if ca && !address.tls() { Err(ConfigError::NoTls) } else { Ok(()) }
            }
            _ if ca => Err(ConfigError::NoEtcd("directory_ca")),
            _ if password_file => Err(ConfigError::NoEtcd("directory_password_file")),
            _ => Ok(()),
        }
    }

    pub(crate) const fn lease_ttl(&self) -> Duration {
        Duration::from_secs(self.lease_ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let bad = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        assert!(bad(|c| c.peer_age = 600).is_err_and(|e| e.contains("peer_age")));
        assert!(bad(|c| c.interval = 0).is_err_and(|e| e.contains("interval")));
        assert!(bad(|c| c.tls_listen.push(([127, 0, 0, 1], 0).into())).is_err_and(|e| e.contains("tls_key")));
        assert!(bad(|c| c.tls_key = Some("k".into())).is_err_and(|e| e.contains("tls_certificate")));
        assert!(bad(|c| c.group = Some("g".into())).is_err_and(|e| e.contains("`user`")));
        assert!(bad(|c| c.directory_token = Some(String::new())).is_err());
        let none: [fn(&mut Config); 3] = [|c| c.max_peers = 0, |c| c.max_torrents = 0, |c| c.max_entries = 0];
        for none in none {
            assert!(bad(none).is_err_and(|e| e.contains("must be at least 1")));
        }
        let lacking = ConfigError::PartOfCluster("the key").to_string();
        assert!(!lacking.contains("  "), "{lacking}");
    }

    /// What is changed to something wrong, and a word of what is said then.
    type Bad = (fn(&mut Config), &'static str);

    #[test]
    fn what_was_taken_and_could_not_work_is_refused() {
        let bad: [Bad; 12] = [
            (|c| c.real_ip_header = "X:".to_owned(), "real_ip_header"),
            (|c| c.real_ip_header = "X(Y)".to_owned(), "real_ip_header"),
            (|c| c.cluster = vec!["a:1".to_owned(), "b:1".to_owned(), "A:1".to_owned()], "`A:1` twice"),
            (|c| c.cluster_listen = Some(([127, 0, 0, 1], 0).into()), "port 0"),
            (|c| c.directory_token = Some("secret\n".to_owned()), "`directory_token` holds"),
            (|c| c.directory_token = Some("two words".to_owned()), "`directory_token` holds"),
            (|c| c.directory_token = Some("schlüssel".to_owned()), "`directory_token` holds"),
            (|c| c.directory_token = Some("\u{7}".to_owned()), "`directory_token` holds"),
            (|c| c.numwant = 0, "numwant"),
            (|c| c.max_numwant = 0, "max_numwant"),
            (|c| c.idle_timeout = 0, "idle_timeout"),
            (|c| c.max_connections = 0, "max_connections"),
        ];
        for (change, words) in bad {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{error}");
        }
        assert_eq!("   ".parse::<Home>(), Err(HomeError::Empty));
    }

    #[test]
    fn one_place_is_listened_on_once() {
        let config = |listen: &[&str], tls: &[&str], cluster: Option<&str>| Config {
            listen: listen.iter().map(|text| text.parse().expect("a place")).collect(),
            tls_listen: tls.iter().map(|text| text.parse().expect("an address")).collect(),
            cluster_listen: cluster.map(|text| text.parse().expect("an address")),
            ..Config::default()
        };
        for twice in [
            config(&["127.0.0.1:1", "127.0.0.1:1"], &[], None),
            config(&["unix:/run/a", "unix:/run/a"], &[], None),
            config(&["127.0.0.1:1"], &["127.0.0.1:1"], None),
            config(&[":1"], &[], Some("[::]:1")),
        ] {
            assert!(matches!(twice.check_listeners(), Err(ConfigError::Twice(_))), "{twice:?}");
        }
        let good = config(&["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:1"], &["127.0.0.1:2"], None);
        assert_eq!(good.check_listeners(), Ok(()));
    }

    #[test]
    fn the_example_says_every_setting_its_default_and_what_it_means() {
        let example: Config = toml::from_str(EXAMPLE).expect("valid");
        assert_eq!(example, Config::default());
        // What has no default is shown, and can be used as it stands.
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let all: Config = toml::from_str(&all).expect("valid");
        let all = serde_json::to_value(&all).expect("a tree");
        for (key, value) in all.as_object().expect("a table") {
            assert!(!value.is_null(), "{key} is not in the example");
        }
        // The words are those that stand above.
        let words = |text: &str, mark: &str| -> Vec<String> {
            let mut blocks = vec![String::new()];
            for line in text.lines().map(str::trim) {
                match (line.strip_prefix(mark), blocks.last_mut()) {
                    (Some(words), Some(block)) => block.push_str(&format!(" {}", words.trim())),
                    (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
                    _ => {}
                }
            }
            blocks
        };
        let said = words(EXAMPLE, "#");
        let (_, config) = include_str!("config.rs").split_once("pub struct Config {").expect("there");
        let (config, _) = config.split_once("\n}").expect("its end");
        for words in
            words(config, "///").iter().filter(|words| !words.contains("stands in no configuration file"))
        {
            assert!(said.iter().any(|said| said.starts_with(words.as_str())), "not in the example:{words}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_and_a_missing_one_has_its_default() {
        let config: Config = serde_json::from_str(r#"{"interval": 60}"#).expect("parses");
        assert_eq!((config.interval, config.numwant), (60, 50));
        assert!(serde_json::from_str::<Config>(r#"{"intervall": 60}"#).is_err());
    }

    #[test]
    fn the_directory_is_a_file_or_etcd_and_what_goes_with_etcd_goes_with_it_alone() {
        let home = |text: &str| text.parse::<Home>();
        assert_eq!(home("/var/lib/d.redb"), Ok(Home::File("/var/lib/d.redb".into())));
        assert!(matches!(home("etcd://a,b/p"), Ok(Home::Etcd(_))));
        assert_eq!(home("http://a"), Err(HomeError::Url("http".to_owned())));
        assert!(matches!(home("etcd://"), Err(HomeError::Etcd(_))) && home("") == Err(HomeError::Empty));
        let text = r#"{"directory": "etcds://u@a:1/p", "directory_ca": "ca"}"#;
        let mut config: Config = serde_json::from_str(text).expect("parses");
        assert_eq!(config.check(), Err(ConfigError::NoPassword));
        config.directory_password = Some(Password::new("secret"));
        assert_eq!(config.check(), Ok(()));
        assert!(!format!("{config:?}").contains("secret"));
        let written = serde_json::to_string(&config).expect("writes");
        assert!(written.contains("etcds://u@a:1/p") && !written.contains("secret"), "{written}");
        config.directory = home("etcd://a").ok();
        assert_eq!(config.check(), Err(ConfigError::NoTls));
        config.directory = None;
        assert_eq!(config.check(), Err(ConfigError::NoEtcd("directory_ca")));
    }
}
