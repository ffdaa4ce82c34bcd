//! Which registries there are, where they answer, and how long to wait for them.

use std::{collections::HashMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{DEFAULT_REGISTRY, Repository, Secret, login::Login};

/// Where Docker Hub answers; its name in references is `docker.io`.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// Everything an [`Origin`](crate::Origin) is told at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the table [origin]")]
pub struct OriginConfig {
    /// Registries that need more than their name says.
    pub upstreams: Vec<Upstream>,
    /// Whether registries that are not listed are asked too, at `https://NAME`, as long as their addresses are of the
    /// public internet. Without it, only those of `upstreams` are.
    pub unlisted: bool,
    /// Deadlines and retries; not in the configuration file.
    #[serde(skip)]
    pub patience: Patience,
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self { upstreams: Vec::new(), unlisted: true, patience: Patience::default() }
    }
}

/// One registry of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an entry [[origin.upstreams]]")]
pub struct Upstream {
    /// The registry's name in references: `docker.io`, `registry.example:5000`.
    pub registry: String,
    /// Where it answers, `https://host:port`; a path before `/v2` may follow. Without a scheme it is https, on
    /// loopback addresses http. Left out, it is derived from the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A PEM file with certificates to trust besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// What to log in with, for all clients of this host; left out, each client shows its own rights, and what
    /// anybody may have needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Repositories that may be asked for; a name, or with `/*` at its end all below it. Left out: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// How often it is asked again what a tag points at.
    #[serde(default)]
    pub tags: Freshness,
    /// Whether a tag that cannot be asked for is answered with what it last pointed at.
    #[serde(default = "yes")]
    pub stale_tags: bool,
    /// Who gets content that is not public while the registry is down, and cannot say who may.
    #[serde(default)]
    pub when_down: WhenDown,
}

const fn yes() -> bool {
    true
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            registry: String::new(),
            endpoint: None,
            ca: None,
            credentials: None,
            repositories: Vec::new(),
            tags: Freshness::default(),
            stale_tags: true,
            when_down: WhenDown::default(),
        }
    }
}

/// How often it is asked again what a tag points at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FreshnessText", into = "FreshnessText")]
pub enum Freshness {
    /// At each use, by HEAD: `"always"`.
    #[default]
    Always,
    /// When it was last asked longer ago than this: a number of seconds.
    After(Duration),
    /// Never, once it is known: `"pinned"`.
    Pinned,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FreshnessText {
    Seconds(u64),
    Word(String),
}

impl TryFrom<FreshnessText> for Freshness {
    type Error = String;

    fn try_from(text: FreshnessText) -> Result<Self, String> {
        match text {
            FreshnessText::Seconds(seconds) => Ok(Self::After(Duration::from_secs(seconds))),
            FreshnessText::Word(word) if word == "always" => Ok(Self::Always),
            FreshnessText::Word(word) if word == "pinned" => Ok(Self::Pinned),
            FreshnessText::Word(word) => Err(format!(
                "`{word}` is not how often tags are asked for: write \"always\", \"pinned\", or seconds"
            )),
        }
    }
}

impl From<Freshness> for FreshnessText {
    fn from(freshness: Freshness) -> Self {
        match freshness {
            Freshness::Always => Self::Word("always".into()),
            Freshness::Pinned => Self::Word("pinned".into()),
            Freshness::After(time) => Self::Seconds(time.as_secs()),
        }
    }
}

/// Who gets content that is not public while the registry is down, and cannot say who may:
/// [`OriginError::is_down`](crate::OriginError::is_down), and for whom it allowed lately also
/// [`OriginError::is_from_gateway`](crate::OriginError::is_from_gateway).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenDown {
    /// Nobody.
    Deny,
    /// Whom the registry allowed the same content within the last day.
    #[default]
    Lately,
    /// Everybody who reaches the mirror.
    All,
}

/// What to log in with at a registry or its token service: a user with one of the three passwords, or one of the other
/// two.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table { user = \"…\", password_file = \"…\" }")]
pub struct Credentials {
    /// User name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The password or access token itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file that holds it; a line end at its end is dropped. Read anew every few minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The variable of the environment that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// What `docker login` writes, with the helpers that it names. Read anew every few
    /// minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config: Option<PathBuf>,
    /// A credential helper of Docker: `ecr-login` for the program `docker-credential-ecr-login`. Asked every few minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
}

/// How long to wait, and how often to try again. Every wait of this crate is one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection and its TLS handshake.
    pub connect: Duration,
    /// For the head of one answer; counted from the start of the request, with `connect` on top.
    pub first_byte: Duration,
    /// For the next bytes of a body.
    pub idle: Duration,
    /// For a whole request up to the head of its last answer: tokens, redirects, retries and waits between them.
    pub head: Duration,
    /// For the whole of a manifest, listing or token.
    pub document: Duration,
    /// How often one request is sent at most, and how often in a row a blob that makes no headway is taken up again.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles from there, and a random part of up to a half is taken off, so
    /// that a fleet does not come back all at once.
    pub backoff: Duration,
    /// The longest wait between attempts. A `Retry-After` above it is not waited for.
    pub backoff_limit: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            idle: Duration::from_secs(20),
            head: Duration::from_secs(40),
            document: Duration::from_secs(60),
            attempts: 4,
            backoff: Duration::from_millis(200),
            backoff_limit: Duration::from_secs(10),
        }
    }
}

/// What of the configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Not a registry name.
    #[error(
        "upstream `{0}`: this is not a registry name; write it as in an image reference, such as `docker.io`"
    )]
    Name(String),
    /// Two entries for one registry.
    #[error("upstream `{0}` is listed twice: keep one entry")]
    Twice(String),
    /// Not an http(s) URL of a host.
    #[error("upstream `{registry}`: endpoint `{endpoint}` cannot be used: {reason}")]
    Endpoint {
        /// The registry's name.
        registry: String,
        /// The endpoint as far as it may be shown.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The CA file or the TLS set-up cannot be used.
    #[error("upstream `{registry}`: {reason}")]
    Tls {
        /// The registry's name.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// A pattern that no repository's name can fit.
    #[error(
        "upstream `{registry}`: `{pattern}` in `repositories` is no repository name, nor one with `/*` at its end"
    )]
    Repositories {
        /// The registry's name.
        registry: String,
        /// The pattern.
        pattern: String,
    },
    /// No password, two, or a file that cannot be read.
    #[error("upstream `{registry}`: {reason}")]
    Credentials {
        /// The registry's name.
        registry: String,
        /// What is wrong.
        reason: String,
    },
}

/// The registries of the configuration by name, checked, and the rule for all others.
#[derive(Debug, Clone)]
pub struct Upstreams {
    listed: HashMap<String, Endpoint>,
    /// Whether others are asked too.
    unlisted: bool,
}

/// Where and how a registry is asked.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The URL before `/v2/`, without a slash at its end in [`Endpoint::url`].
    pub base: Url,
    /// A PEM file to trust besides the system's certificates.
    pub ca: Option<PathBuf>,
    /// What this host logs in with.
    pub login: Option<Arc<Login>>,
    /// Whether the configuration lists this registry. One that is not has public addresses only.
    pub listed: bool,
    /// See [`Upstream::repositories`].
    pub repositories: Vec<String>,
    /// See [`Upstream::tags`].
    pub tags: Freshness,
    /// See [`Upstream::stale_tags`].
    pub stale_tags: bool,
    /// See [`Upstream::when_down`].
    pub when_down: WhenDown,
}

impl Upstreams {
    /// Checks the entries and reads the password files.
    pub fn new(upstreams: &[Upstream], unlisted: bool) -> Result<Self, UpstreamError> {
        let mut listed = HashMap::with_capacity(upstreams.len());
        for upstream in upstreams {
            let name = registry_name(&upstream.registry)?;
            let base = match &upstream.endpoint {
                Some(endpoint) => parse_endpoint(&name, endpoint)?,
                None => derive_endpoint(&name)?,
            };
            let login = upstream.credentials.as_ref().map(|c| read_login(&name, c)).transpose()?;
            let endpoint = Endpoint {
                base,
                ca: upstream.ca.clone(),
                login,
                listed: true,
                repositories: patterns(&name, &upstream.repositories)?,
                tags: upstream.tags,
                stale_tags: upstream.stale_tags,
                when_down: upstream.when_down,
            };
            if listed.insert(name.clone(), endpoint).is_some() {
                return Err(UpstreamError::Twice(name));
            }
        }
        Ok(Self { listed, unlisted })
    }

    /// Where `registry` is asked: its entry, or else derived from its name. None where it may not be asked.
    pub fn endpoint(&self, registry: &str) -> Result<Option<Endpoint>, UpstreamError> {
        let name = registry_name(registry)?;
        if let Some(endpoint) = self.listed.get(&name) {
            return Ok(Some(endpoint.clone()));
        }
        if !self.unlisted {
            return Ok(None);
        }
        let rest = Upstream::default();
        Ok(Some(Endpoint {
            base: derive_endpoint(&name)?,
            ca: None,
            login: None,
            listed: false,
            repositories: rest.repositories,
            tags: rest.tags,
            stale_tags: rest.stale_tags,
            when_down: rest.when_down,
        }))
    }

    /// Whether the configuration has an entry for `registry`.
    pub fn is_listed(&self, registry: &str) -> bool {
        registry_name(registry).is_ok_and(|name| self.listed.contains_key(&name))
    }

    /// The listed registries.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.listed.iter().map(|(name, endpoint)| (name.as_str(), endpoint))
    }
}

impl Endpoint {
    /// Whether the configuration lets this repository be asked for.
    pub fn allows(&self, repository: &str) -> bool {
        self.repositories.is_empty()
            || self.repositories.iter().any(|pattern| match pattern.strip_suffix("/*") {
                Some(above) => repository.strip_prefix(above).is_some_and(|below| below.starts_with('/')),
                None => repository == pattern,
            })
    }

    /// The URL of `path`, which begins with `/v2/` and is made of checked names, with an optional query.
    pub fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        url.set_query(query);
        url
    }
}

/// Patterns of repositories in the one form of their names: `busybox` of Docker Hub is `library/busybox`.
fn patterns(registry: &str, patterns: &[String]) -> Result<Vec<String>, UpstreamError> {
    let checked = patterns.iter().map(|pattern| {
        let outcome = match pattern.strip_suffix("/*") {
            // Of no registry in particular, so that a single word stays one.
            Some(above) => Repository::new("a.test", above).map(|_| pattern.clone()),
            None => Repository::new(registry, pattern).map(|repository| repository.name().to_owned()),
        };
        let pattern = || pattern.chars().take(80).collect();
        outcome.map_err(|_| UpstreamError::Repositories { registry: registry.to_owned(), pattern: pattern() })
    });
    checked.collect()
}

fn registry_name(registry: &str) -> Result<String, UpstreamError> {
    Repository::new(registry, "a/a")
        .map(|r| r.registry().to_owned())
        .map_err(|_| UpstreamError::Name(registry.chars().take(80).collect()))
}

fn derive_endpoint(name: &str) -> Result<Url, UpstreamError> {
    parse_endpoint(name, if name == DEFAULT_REGISTRY { DOCKER_HUB } else { name })
}

fn parse_endpoint(registry: &str, text: &str) -> Result<Url, UpstreamError> {
    let refuse = |reason: &str| UpstreamError::Endpoint {
        registry: registry.to_owned(),
        // Whatever stands before an `@` may be a password.
        endpoint: text.rsplit('@').next().unwrap_or_default().to_owned(),
        reason: reason.to_owned(),
    };
    let bare = !text.contains("://");
    let mut url = Url::parse(&if bare { format!("https://{text}") } else { text.to_owned() })
        .map_err(|e| refuse(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("only http and https are known"));
    }
    if !url.has_host() {
        return Err(refuse("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("put user and password into `credentials`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("a query or fragment has no meaning here"));
    }
    if bare && is_loopback(&url) {
        url = Url::parse(&format!("http://{text}")).map_err(|e| refuse(&e.to_string()))?;
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

fn read_login(registry: &str, credentials: &Credentials) -> Result<Arc<Login>, UpstreamError> {
    let refuse = |reason| UpstreamError::Credentials { registry: registry.to_owned(), reason };
    Login::new(registry, credentials).map(Arc::new).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> String {
        Upstreams::new(&[], true).unwrap().endpoint(text).unwrap().unwrap().base.to_string()
    }

    #[test]
    fn unlisted_registries_are_asked_by_name() {
        assert_eq!(base("docker.io"), "https://registry-1.docker.io/");
        assert_eq!(base("index.docker.io"), "https://registry-1.docker.io/");
        assert_eq!(base("quay.io"), "https://quay.io/");
        assert_eq!(base("localhost:5000"), "http://localhost:5000/");
        assert_eq!(base("127.0.0.9:5000"), "http://127.0.0.9:5000/");
        assert_eq!(base("[::1]:5000"), "http://[::1]:5000/");
        assert_eq!(base("10.0.0.1:5000"), "https://10.0.0.1:5000/");
        assert!(Upstreams::new(&[], true).unwrap().endpoint("a b").is_err());
        assert!(Upstreams::new(&[], false).unwrap().endpoint("quay.io").unwrap().is_none());
    }

    #[test]
    fn entries_are_read_and_unknown_keys_refused() {
        let text = r#"{"upstreams":[{"registry":"reg.test","endpoint":"http://10.0.0.1:5000/sub/",
            "credentials":{"user":"u","password":"hunter2"}}]}"#;
        let config: OriginConfig = serde_json::from_str(text).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let endpoint =
            Upstreams::new(&config.upstreams, true).unwrap().endpoint("REG.test").unwrap().unwrap();
        assert!(!format!("{endpoint:?}").contains("hunter2"));
        assert_eq!(
            endpoint.url("/v2/a/tags/list", Some("n=1")).as_str(),
            "http://10.0.0.1:5000/sub/v2/a/tags/list?n=1"
        );
        assert!(endpoint.login.is_some());
        assert!(serde_json::from_str::<Upstream>(r#"{"registry":"a.b","mirror":1}"#).is_err());
    }

    #[test]
    fn bad_entries_are_refused_without_showing_a_password() {
        let with = |endpoint: &str| {
            let upstream = Upstream {
                registry: "reg.test".into(),
                endpoint: Some(endpoint.into()),
                ..Upstream::default()
            };
            Upstreams::new(&[upstream], true)
        };
        for bad in ["ftp://x", "http://", "https://x?y=1", "https://u:hunter2@x", "https://x#y"] {
            let error = with(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let twice = Upstream { registry: "docker.io".into(), ..Upstream::default() };
        let again = Upstream { registry: "index.docker.io".into(), ..Upstream::default() };
        assert_eq!(
            Upstreams::new(&[twice, again], true).unwrap_err(),
            UpstreamError::Twice("docker.io".into())
        );
    }

    #[test]
    fn repositories_are_allowed_by_name_or_by_what_is_above_them() {
        let with = |patterns: &[&str]| {
            let repositories = patterns.iter().map(|p| (*p).to_owned()).collect();
            let upstream = Upstream { registry: "docker.io".into(), repositories, ..Upstream::default() };
            Ok(Upstreams::new(&[upstream], true)?.endpoint("docker.io")?.unwrap())
        };
        let endpoint = with(&["busybox", "org/*"]).unwrap();
        for (name, allowed) in [
            ("library/busybox", true),
            ("org/a", true),
            ("org/a/b", true),
            ("org", false),
            ("organ/a", false),
        ] {
            assert_eq!(endpoint.allows(name), allowed, "{name}");
        }
        assert!(with(&[]).unwrap().allows("any/thing"));
        for bad in ["*", "a*", "/*", "A/*", "a/*/b", ""] {
            assert!(matches!(with(&[bad]), Err(UpstreamError::Repositories { .. })), "{bad}");
        }
    }

    #[test]
    fn policies_are_words_or_seconds() {
        let read = |text: &str| upstream(text).map(|u| (u.tags, u.stale_tags, u.when_down));
        assert_eq!(read("").unwrap(), (Freshness::Always, true, WhenDown::Lately));
        let set = r#","tags":300,"stale_tags":false,"when_down":"deny""#;
        assert_eq!(read(set).unwrap(), (Freshness::After(Duration::from_secs(300)), false, WhenDown::Deny));
        assert_eq!(read(r#","tags":"pinned""#).unwrap().0, Freshness::Pinned);
        assert!(read(r#","tags":"often""#).unwrap_err().to_string().contains("\"always\""));
    }

    fn upstream(rest: &str) -> serde_json::Result<Upstream> {
        serde_json::from_str(&format!(r#"{{"registry":"a.b"{rest}}}"#))
    }
}
