//! Which of the web is served: OSTree repositories, hosts of the proxy, and rules for what is kept of these.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use hash::Digest;
use http::{HeaderName, HeaderValue};
use origin::{WebConfig, below};
use ostree::File;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;

use crate::{
    access::put,
    config::Config,
    draw::{Draw, Proofs},
    pattern::{Pattern, PatternError},
};

/// How long it is remembered what a server said of a file, where there is no room.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How many deltas' parts are remembered.
const DELTAS: usize = 64;
/// How long they are taken for right: a delta may be made anew, and not every client asks for its superblock here.
const DELTA_LIFE: Duration = Duration::from_secs(60);

/// The mirror as a proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [proxy]")]
pub struct ProxyConfig {
    /// Whether the mirror's port is an HTTP proxy too, for these hosts and for the repositories of `[[ostree]]`.
    pub enabled: bool,
    /// `host`, `host:port`, `*.domain`, `*`: hosts at addresses of the public internet.
    pub hosts: Vec<String>,
    /// `host`, `host:port`: hosts that may have any address.
    pub private_hosts: Vec<String>,
    /// Where CONNECT may lead to at hosts that are listed without a port.
    pub connect_ports: Vec<u16>,
    /// How many tunnels may be open at once.
    pub max_tunnels: usize,
    /// Whether OSTree repositories of these hosts are known by their files' names.
    pub ostree: bool,
    /// How many MiB of files whose digest is not known before they are here may be on their way at once.
    pub spool_mib: u64,
    /// What is kept, and shared with the fleet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleConfig>,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            hosts: Vec::new(),
            private_hosts: Vec::new(),
            connect_ports: vec![443],
            max_tunnels: 512,
            ostree: false,
            spool_mib: 16 * 1024,
            rules: Vec::new(),
        }
    }
}

impl ProxyConfig {
    /// In bytes.
    pub(crate) const fn spool(&self) -> u64 {
        self.spool_mib.saturating_mul(1024 * 1024)
    }
}

/// Files that are kept and shared.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an entry [[proxy.rules]]")]
pub struct RuleConfig {
    /// A pattern of URLs: `*` for anything without a slash, `**` for anything, `{sha256}` for the file's digest.
    pub url: String,
    /// A header in which the server says the file's SHA-256, as 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_header: Option<String>,
    /// Whether, while the server cannot be reached, the last known file is given, with a warning.
    #[serde(default = "yes")]
    pub stale: bool,
}

/// An OSTree repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an entry [[ostree]]")]
pub struct OstreeConfig {
    /// Its name: the mirror serves it below `/ostree/NAME/`.
    pub name: String,
    /// Where it lies.
    pub url: String,
    /// A PEM file with certificates to trust besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether, while the server cannot be reached, the last known summary and refs are given, with a warning.
    #[serde(default = "yes")]
    pub stale: bool,
}

const fn yes() -> bool {
    true
}

/// Why the configuration's `[proxy]` or `[[ostree]]` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// A name that cannot stand in a path.
    #[error(
        "[[ostree]] `{0}`: a name has letters, digits, `.`, `-` and `_`, and none but one repository has it"
    )]
    Name(String),
    /// Not the URL of a folder.
    #[error("[[ostree]] `{name}`: the url cannot be used: {reason}")]
    Url {
        /// The repository's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A pattern.
    #[error("[[proxy.rules]]: {0}")]
    Pattern(#[from] PatternError),
    /// Not a header's name.
    #[error("[[proxy.rules]]: `{0}` is no header's name")]
    Header(String),
}

/// The SHA-256 of a delta's parts.
type Parts = Arc<Vec<Digest>>;

/// What the configuration says of the web, checked; and what is remembered of it.
pub(crate) struct Sites {
    pub(crate) proxy: bool,
    repositories: Vec<Repository>,
    rules: Vec<Rule>,
    /// By the hash of what the file is known by.
    seen: Mutex<HashMap<Digest, (Instant, Seen)>>,
    pub(crate) proofs: Proofs,
    deltas: Mutex<HashMap<Url, (Instant, Parts)>>,
    pub(crate) draws: Mutex<HashMap<String, Arc<Draw>>>,
    /// Bytes that the files which are drawn take, or will.
    pub(crate) spooled: AtomicU64,
    found: bool,
}

/// An OSTree repository.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    name: String,
    /// With a slash at its end.
    pub(crate) base: Url,
    ca: Option<PathBuf>,
    pub(crate) stale: bool,
}

/// A rule, checked.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pattern: Pattern,
    pub(crate) header: Option<HeaderName>,
    pub(crate) stale: bool,
}

/// What a server last said of a file, and which bytes it gave.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
    pub(crate) etag: Option<HeaderValue>,
    pub(crate) modified: Option<HeaderValue>,
    /// How old that is.
    pub(crate) age: Duration,
}

impl Seen {
    /// A file that is known by where it lies, and has just come.
    pub(crate) fn file(digest: Digest, media_type: Option<String>) -> Self {
        Self { digest, media_type, etag: None, modified: None, age: Duration::ZERO }
    }
}

impl Sites {
    pub(crate) fn new(config: &Config) -> Result<Self, SiteError> {
        let mut repositories: Vec<Repository> = Vec::new();
        for ostree in &config.ostree {
            let repository = Repository::new(ostree)?;
            if repositories.iter().any(|known| known.name == repository.name) {
                return Err(SiteError::Name(repository.name));
            }
            repositories.push(repository);
        }
        Ok(Self {
            proxy: config.proxy.enabled,
            repositories,
            rules: config.proxy.rules.iter().map(Rule::new).collect::<Result<_, _>>()?,
            seen: Mutex::default(),
            proofs: Proofs::default(),
            deltas: Mutex::default(),
            draws: Mutex::default(),
            spooled: AtomicU64::new(0),
            found: config.proxy.ostree,
        })
    }

    /// Whom the web's client may ask.
    pub(crate) fn web(&self, config: &Config) -> WebConfig {
        let bases = self.repositories.iter().map(|known| (known.base.clone(), known.ca.clone()));
        let proxy = &config.proxy;
        // Where there is no proxy, its lists are of no use.
        let hosts = |list: &[String]| if proxy.enabled { list.to_vec() } else { Vec::new() };
        WebConfig {
            bases: bases.collect(),
            hosts: hosts(&proxy.hosts),
            private_hosts: hosts(&proxy.private_hosts),
            connect_ports: proxy.connect_ports.clone(),
            patience: config.origin.patience,
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repository| repository.name == name)
    }

    /// The repository that a URL lies in.
    pub(crate) fn around(&self, url: &Url) -> Option<&Repository> {
        self.repositories.iter().find(|repository| below(&repository.base, url))
    }

    /// The repository that a URL must lie in by what its file is called, and what the file is. Of files that others
    /// have too, such as `config`, it says nothing.
    pub(crate) fn found(&self, url: &Url) -> Option<(Repository, String, File)> {
        if !self.found || url.query().is_some() {
            return None;
        }
        let starts = ["/objects/", "/deltas/"].iter().filter_map(|folder| url.path().rfind(folder));
        let (folder, path) = url.path().split_at_checked(starts.max()? + 1)?;
        let file = File::of(path).ok()?;
        let known = match &file {
            File::Object(_) | File::Content(_) | File::Part { .. } => true,
            File::Optional => path.ends_with("/superblock"),
            File::Config | File::Other => false,
        };
        let mut base = url.clone();
        base.set_path(folder);
        let repository = Repository { name: String::new(), base, ca: None, stale: true };
        known.then(|| (repository, path.to_owned(), file))
    }

    /// The first rule that fits, and the digest that the URL says.
    pub(crate) fn rule(&self, url: &Url) -> Option<(&Rule, Option<Digest>)> {
        self.rules.iter().find_map(|rule| Some((rule, rule.pattern.fits(url.as_str())?)))
    }

    /// What was last said of a file, and how old that is now.
    pub(crate) fn seen(&self, key: &str) -> Option<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, seen) = seen.get(&Digest::of(key.as_bytes()))?;
        Some(Seen { age: at.elapsed().saturating_add(seen.age), ..seen.clone() })
    }

    pub(crate) fn see(&self, key: &str, seen: Seen) {
        put(&self.seen, Digest::of(key.as_bytes()), seen, |_| LIFE);
    }

    /// Forgets that a file was seen as this.
    pub(crate) fn unsee(&self, key: &str, digest: Digest) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Digest::of(key.as_bytes());
        if seen.get(&key).is_some_and(|(_, seen)| seen.digest == digest) {
            seen.remove(&key);
        }
    }

    /// The parts of the delta with this superblock, if it was seen; and whether that was just now.
    pub(crate) fn parts(&self, superblock: &Url) -> Option<(Parts, bool)> {
        let deltas = self.deltas.lock().unwrap_or_else(PoisonError::into_inner);
        deltas.get(superblock).map(|(at, parts)| (parts.clone(), at.elapsed() < DELTA_LIFE))
    }

    pub(crate) fn set_parts(&self, superblock: Url, parts: Vec<Digest>) {
        let mut deltas = self.deltas.lock().unwrap_or_else(PoisonError::into_inner);
        if deltas.len() >= DELTAS
            && !deltas.contains_key(&superblock)
            && let Some(oldest) = deltas.iter().min_by_key(|(_, (at, _))| *at).map(|(url, _)| url.clone())
        {
            deltas.remove(&oldest);
        }
        #[allow(clippy::disallowed_methods, reason = "the node is a driver")]
        deltas.insert(superblock, (Instant::now(), Arc::new(parts)));
    }
}

impl Repository {
    fn new(config: &OstreeConfig) -> Result<Self, SiteError> {
        let name = config.name.clone();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
            return Err(SiteError::Name(name.chars().take(80).collect()));
        }
        let refuse = |reason: &str| SiteError::Url { name: name.clone(), reason: reason.to_owned() };
        let mut base = Url::parse(&config.url).map_err(|error| refuse(&error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(refuse("it begins with http:// or https:// and a host"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refuse("what wants a login is not kept; leave user and password out"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(refuse("a query or fragment has no meaning here"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { name, base, ca: config.ca.clone(), stale: config.stale })
    }

    /// The URL of a file that [`ostree::File`] knows.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }
}

impl Rule {
    fn new(config: &RuleConfig) -> Result<Self, SiteError> {
        let header = config.digest_header.as_ref().map(|name| {
            name.parse::<HeaderName>().map_err(|_| SiteError::Header(name.chars().take(80).collect()))
        });
        Ok(Self { pattern: Pattern::new(&config.url)?, header: header.transpose()?, stale: config.stale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(text: &str) -> Result<Sites, SiteError> {
        Sites::new(&toml::from_str(text).expect("valid"))
    }

    #[test]
    fn a_repository_is_found_by_name_and_by_what_lies_in_it() {
        let sites = sites("[[ostree]]\nname = \"os\"\nurl = \"http://a.test/repo\"").expect("valid");
        let os = sites.named("os").expect("listed");
        assert_eq!(os.url("refs/heads/x").as_str(), "http://a.test/repo/refs/heads/x");
        assert_eq!(os.url("deltas/a/b+c").as_str(), "http://a.test/repo/deltas/a/b+c");
        let inside = |url: &str| sites.around(&Url::parse(url).expect("a URL")).is_some();
        assert!(inside("http://a.test/repo/config") && !inside("http://a.test/repository/config"));
    }

    #[test]
    fn repositories_of_others_are_found_by_what_their_files_are_called() {
        let sites = |found: bool| sites(&format!("[proxy]\nostree = {found}")).expect("valid");
        let url = |path: &str| Url::parse(&format!("http://a.test{path}")).expect("a URL");
        let hex = "0".repeat(62);
        let found = |path: &str| sites(true).found(&url(path)).map(|(found, path, _)| (found.base, path));
        let (base, path) = found(&format!("/a/objects/x/objects/12/{hex}.filez")).expect("one");
        assert_eq!((base.path(), path), ("/a/objects/x/", format!("objects/12/{hex}.filez")));
        assert!(found("/repo/deltas/ab/c/0").is_some() && found("/deltas/ab/c/superblock").is_some());
        for path in ["/repo/config", "/repo/summary", "/repo/refs/heads/a", "/deltas/x", "/a/objects/b.deb"] {
            assert!(found(path).is_none(), "{path}");
        }
        assert!(sites(true).found(&url("/deltas/ab/c/0?x")).is_none());
        assert!(sites(false).found(&url("/deltas/ab/c/0")).is_none());
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let url = |url: &str| sites(&format!("[[ostree]]\nname = \"a\"\nurl = \"{url}\"")).err();
        for bad in ["ftp://a/", "repo", "http://u:p@a/", "http://a/?x", "http://a/#x"] {
            assert!(matches!(url(bad), Some(SiteError::Url { .. })), "{bad}");
        }
        let name = |name: &str| sites(&format!("[[ostree]]\nname = \"{name}\"\nurl = \"http://a/\"")).err();
        for bad in ["", "a/b", "a b"] {
            assert!(matches!(name(bad), Some(SiteError::Name(_))), "{bad}");
        }
        let twice = "[[ostree]]\nname = \"a\"\nurl = \"http://a/\"\n".repeat(2);
        assert!(matches!(sites(&twice), Err(SiteError::Name(_))));
        let rule = |rest: &str| sites(&format!("[[proxy.rules]]\n{rest}")).err();
        assert!(matches!(rule("url = \"a\""), Some(SiteError::Pattern(_))));
        let header = rule("url = \"http://a/\"\ndigest_header = \"a b\"");
        assert!(matches!(header, Some(SiteError::Header(_))));
    }

    #[test]
    fn remembered_deltas_have_a_bound() {
        let sites = sites("").expect("valid");
        let url = |n: usize| Url::parse(&format!("http://a.test/{n}")).expect("a URL");
        for n in 0..2 * DELTAS {
            sites.set_parts(url(n), Vec::new());
        }
        assert!(sites.parts(&url(2 * DELTAS - 1)).is_some());
        assert_eq!((0..2 * DELTAS).filter(|n| sites.parts(&url(*n)).is_some()).count(), DELTAS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_grows_old_and_is_forgotten_as_what_it_was() {
        let (sites, hour) = (sites("").expect("valid"), Duration::from_secs(3600));
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        sites.see("a", Seen { age: hour, ..Seen::file(one, None) });
        tokio::time::advance(hour).await;
        assert_eq!(sites.seen("a").map(|seen| seen.age), Some(2 * hour));
        sites.unsee("a", two);
        assert!(sites.seen("a").is_some());
        sites.unsee("a", one);
        assert!(sites.seen("a").is_none());
    }
}
