//! What stands in etcd: the keys, and the values in their one version.
//!
//! | key under the prefix | value |
//! |---|---|
//! | `blobs/{digest}` | [`Blob`] as JSON |
//! | `torrents/{digest}/{n}` | the info dictionary, bencoded, cut into parts of [`PART`] bytes |
//! | `leases/{digest}` | [`Holder`] as JSON; bound to an etcd lease, which is its life |
//! | `tags/{name}` | [`Pointer`] as JSON |
//!
//! Torrents stand apart from blobs so that a watch of blobs and leases carries little. Others may write there too:
//! nothing is taken as it is found.

use api::directory::MAX_INFO;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use etcd::Range;
use hash::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of all values. A tracker ignores what is of another.
const VERSION: u8 = 1;

/// The longest value that is JSON, in bytes; texts in it are short ([`api::directory::MAX_TEXT`]), but escaped, and a
/// small blob ([`api::directory::MAX_CONTENT`]) is in base64.
const MAX_VALUE: usize = 48 * 1024;

/// How much of an info dictionary stands under one key, in bytes. etcd takes requests up to 1.5 MiB, unless it is
/// told otherwise. One part is the torrent of a blob of 300 GiB.
pub(crate) const PART: usize = 1024 * 1024;

/// How many parts the longest info dictionary has.
pub(crate) const MAX_PARTS: usize = MAX_INFO.div_ceil(PART);

/// The keys under a prefix.
#[derive(Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// Of what a watched key tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum About {
    Blob(Digest),
    Lease(Digest),
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(crate) fn blob(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.prefix)
    }

    /// The folder of a torrent's parts.
    pub(crate) fn torrent(&self, digest: &Digest) -> String {
        format!("{}/torrents/{digest}", self.prefix)
    }

    pub(crate) fn part(&self, digest: &Digest, number: usize) -> String {
        format!("{}/{number:02}", self.torrent(digest))
    }

    pub(crate) fn lease(&self, digest: &Digest) -> String {
        format!("{}/leases/{digest}", self.prefix)
    }

    pub(crate) fn tag(&self, name: &str) -> String {
        format!("{}/tags/{name}", self.prefix)
    }

    /// All blobs, tags and leases.
    pub(crate) fn all(&self) -> [Range; 3] {
        ["blobs", "tags", "leases"].map(|folder| Range::below(&format!("{}/{folder}", self.prefix)))
    }

    /// All blobs, or those behind a key.
    pub(crate) fn blobs(&self, after: Option<&str>) -> Range {
        // Nothing stands between a key and the same with a zero behind it.
        let from = after.map_or_else(|| format!("{}/blobs/", self.prefix), |key| format!("{key}\0"));
        Range::between(from, format!("{}/blobs0", self.prefix))
    }

    /// What those who wait want to hear of: blobs and leases, and what may stand between them.
    pub(crate) fn watched(&self) -> Range {
        // The 0 follows the slash.
        Range::between(format!("{}/blobs/", self.prefix), format!("{}/leases0", self.prefix))
    }

    pub(crate) fn about(&self, key: &[u8]) -> Option<About> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        match key.split_once('/')? {
            ("blobs", digest) => Some(About::Blob(digest.parse().ok()?)),
            ("leases", digest) => Some(About::Lease(digest.parse().ok()?)),
            _ => None,
        }
    }
}

/// What is published of a blob, beside its torrent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blob {
    v: u8,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    /// Of the torrent, in hexadecimal.
    pub(crate) info_hash: String,
    /// The length of the info dictionary, in bytes.
    pub(crate) info_length: usize,
    /// Whether anybody may have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) public: bool,
    /// All of a small one, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) content: String,
}

impl Blob {
    pub(crate) fn of(entry: &api::directory::Entry) -> Self {
        Self {
            v: VERSION,
            size: entry.size,
            media_type: entry.media_type.clone(),
            info_hash: entry.info_hash.to_string(),
            info_length: entry.info.len(),
            public: entry.public,
            content: STANDARD.encode(&entry.content),
        }
    }
}

/// Who holds a lease, and under which id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Holder {
    v: u8,
    pub(crate) node: String,
    pub(crate) lease: String,
}

impl Holder {
    /// The holder of the etcd lease `id`.
    pub(crate) fn new(node: &str, id: i64) -> Self {
        Self { v: VERSION, node: node.to_owned(), lease: format!("{id:016x}") }
    }

    /// The same by the lease's name, as a node gives it.
    pub(crate) fn named(node: &str, lease: &str) -> Self {
        Self { v: VERSION, node: node.to_owned(), lease: lease.to_owned() }
    }
}

/// Where a tag points.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pointer {
    v: u8,
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    /// When it was set, in seconds since 1970.
    pub(crate) updated: u64,
}

impl Pointer {
    pub(crate) fn to(tag: &api::directory::TagRequest, updated: u64) -> Self {
        Self {
            v: VERSION,
            digest: tag.digest.to_string(),
            media_type: tag.media_type.clone(),
            size: tag.size,
            updated,
        }
    }
}

pub(crate) fn write<T: Serialize>(value: &T) -> Vec<u8> {
    // Structs of texts and numbers: it does not fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a value, or says what is wrong with it.
pub(crate) fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u8,
    }
    if value.len() > MAX_VALUE {
        return Err(format!("it has {} bytes", value.len()));
    }
    let version: Versioned = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if version.v != VERSION {
        return Err(format!("it is of version {}, and only {VERSION} is known", version.v));
    }
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_of_another_version_is_not() {
        let holder = Holder::new("a\"b", 0x1234);
        let text = write(&holder);
        assert_eq!(text, br#"{"v":1,"node":"a\"b","lease":"0000000000001234"}"#);
        assert_eq!(read(&text), Ok(holder));
        for (text, why) in [
            (br#"{"v":2,"node":"a"}"#.as_slice(), "version 2"),
            (br#"{"v":1,"node":"a"}"#, "lease"),
            (br#"{"v":1,"node":"a","lease":"x","more":1}"#, "more"),
            (b"", "EOF"),
        ] {
            assert!(read::<Holder>(text).is_err_and(|error| error.contains(why)), "{why}");
        }
        let long = Holder::named(&"x".repeat(MAX_VALUE), "");
        assert!(read::<Holder>(&write(&long)).is_err());
    }

    #[test]
    fn watched_keys_are_told_from_each_other() {
        let (keys, digest) = (Keys::new("a/b"), Digest::of(b"x"));
        assert_eq!(keys.about(keys.blob(&digest).as_bytes()), Some(About::Blob(digest)));
        assert_eq!(keys.about(keys.lease(&digest).as_bytes()), Some(About::Lease(digest)));
        let part = keys.part(&digest, 7);
        assert!(part.ends_with("/07") && part.starts_with(&keys.torrent(&digest)));
        for other in [part.as_str(), "a/b/blobs/sha256:1", "a/blobs/x", "", "a/bblobs"] {
            assert_eq!(keys.about(other.as_bytes()), None);
        }
        assert_eq!(MAX_PARTS, 8);
    }

    proptest! {
        #[test]
        fn any_value_and_key_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read::<Blob>(&bytes);
            let _ = read::<Pointer>(&bytes);
            let _ = Keys::new("p").about(&bytes);
        }
    }
}
