//! Names of images: registry, repository, tag or digest (OCI distribution spec, "Pulling manifests").

use std::{fmt, str::FromStr};

use hash::{Digest, DigestError};

/// The registry that a name without one means.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// Longest repository name and registry name that is taken.
const NAME_LIMIT: usize = 255;
/// Longest tag, by the spec's grammar.
const TAG_LIMIT: usize = 128;

/// A whole name, as people type it: `busybox`, `quay.io/org/app:1.2`, `localhost:5000/app@sha256:…`.
///
/// Parsed as Docker does: without a registry it is `docker.io`, there a single word gets `library/`, and without tag
/// and digest the tag is `latest`. When both are given the digest decides and the tag is dropped.
/// `Display` writes the whole name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Registry and repository.
    pub repository: Repository,
    /// Tag or digest.
    pub target: Target,
}

/// A repository in a registry, both checked against the grammar, so that either can stand in a URL as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    registry: String,
    name: String,
}

/// Which manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A tag: what it means may change.
    Tag(String),
    /// A digest: what it means cannot change.
    Digest(Digest),
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Not `host`, `host:port` or `[address]:port`.
    #[error("`{0}` is not a registry: expected a host name, with a port if need be")]
    Registry(String),
    /// Not lower-case words between slashes.
    #[error(
        "`{0}` is not a repository: expected lower-case letters, digits, and `.`, `_`, `-` inside, between slashes"
    )]
    Repository(String),
    /// Not a tag.
    #[error("`{0}` is not a tag: expected up to 128 letters, digits, `_`, `.` and `-`")]
    Tag(String),
    /// Not a digest that can be used.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Repository {
    /// `name` in `registry`, put into its one form: the registry in lower case, `index.docker.io` as `docker.io`, and
    /// a single word there with `library/`.
    pub fn new(registry: &str, name: &str) -> Result<Self, ReferenceError> {
        let registry = normal_registry(registry)?;
        let name = if registry == DEFAULT_REGISTRY && !name.contains('/') {
            format!("library/{name}")
        } else {
            name.to_owned()
        };
        if !is_repository(&name) {
            return Err(ReferenceError::Repository(shorten(&name)));
        }
        Ok(Self { registry, name })
    }

    /// `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/busybox`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        match text.split_once('/') {
            Some((first, rest)) if is_registry(first) => Self::new(first, rest),
            _ => Self::new(DEFAULT_REGISTRY, text),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = ReferenceError;

    /// A tag cannot hold a colon and a digest must, so the two are never mistaken.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        if !is_tag(text) {
            return Err(ReferenceError::Tag(shorten(text)));
        }
        Ok(Self::Tag(text.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Target::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it is a registry's port.
        let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[after_slash..].split_once(':') {
            Some((last, tag)) => (&rest[..after_slash + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(shorten(tag)));
        }
        let repository = name.parse()?;
        let target = match digest {
            Some(digest) => Target::Digest(digest),
            None => Target::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { repository, target })
    }
}

/// Whether the first word of a path names a registry rather than a part of a repository: it has a dot or a colon, or
/// is `localhost`. This is Docker's rule, and the mirror's for path prefixes.
pub fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn normal_registry(text: &str) -> Result<String, ReferenceError> {
    let registry = text.to_ascii_lowercase();
    if !is_host_and_port(&registry) {
        return Err(ReferenceError::Registry(shorten(text)));
    }
    Ok(if registry == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { registry })
}

fn is_host_and_port(text: &str) -> bool {
    if text.len() > NAME_LIMIT {
        return false;
    }
    let is_port = |port: &str| {
        !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|p| p > 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    port.is_none_or(is_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
fn is_repository(name: &str) -> bool {
    name.len() <= NAME_LIMIT && name.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = |b: Option<&u8>| b.is_some_and(|&b| is_word(b));
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.chunk_by(|&a, &b| is_word(a) == is_word(b)).all(|run| match run {
            [b'.'] | [b'_'] | [b'_', b'_'] => true,
            run => run.iter().all(|&b| is_word(b)) || run.iter().all(|&b| b == b'-'),
        })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    text.len() <= TAG_LIMIT
        && !text.is_empty()
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What an error quotes of a text that a stranger chose.
fn shorten(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_become_whole_as_docker_has_them() {
        assert_eq!(whole("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(whole("org/app:1.2"), "docker.io/org/app:1.2");
        assert_eq!(whole("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(whole("localhost/app"), "localhost/app:latest");
        assert_eq!(whole("localhost:5000/app"), "localhost:5000/app:latest");
        assert_eq!(whole("Quay.IO/org/a/b:X_1"), "quay.io/org/a/b:X_1");
        assert_eq!(whole("[::1]:5000/app"), "[::1]:5000/app:latest");
        let digest = Digest::of(b"x");
        assert_eq!(whole(&format!("a:1@{digest}")), format!("docker.io/library/a@{digest}"));
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/../b",
            ".a/b",
            "quay.io/",
            "quay.io/.a",
            "a___b",
            "a._b",
            "a-",
            "-a",
            "a:",
            "a:-x",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "a b",
            "a\n",
            "quay.io:0/a",
            "quay.io:99999/a",
            "x.:1/a",
            "localhost:/a",
            "[::1/a",
            "ä/b",
            "a%2f/b",
            "user@host.example/a",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was taken");
        }
        assert!("a".repeat(NAME_LIMIT + 1).parse::<Repository>().is_err());
        assert!("t".repeat(TAG_LIMIT).parse::<Target>().is_ok());
        assert!("t".repeat(TAG_LIMIT + 1).parse::<Target>().is_err());
    }

    #[test]
    fn separators_are_taken_where_the_spec_has_them() {
        for good in ["a.b", "a_b", "a__b", "a---b", "0/1/2", "a-b.c_d"] {
            assert!(is_repository(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_back_the_same(text in "\\PC{0,60}|[a-z0-9./:@_-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let written = reference.to_string();
                prop_assert_eq!(written.parse::<Reference>().unwrap(), reference.clone());
                let name = reference.repository.name();
                prop_assert!(!name.contains("..") && !name.starts_with('/') && !name.ends_with('/'));
            }
        }
    }
}
