//! A file of the web whose digest nobody says: what it is known by, what it is held against, and for how long that holds.
//!
//! The rule: what a file's own name or its server proves is right for good. Else the first node that draws a version (a
//! URL, and a strong ETag that is asked for at each use) says for the fleet which bytes it is, and is believed for a day,
//! or for as long as the server's own answer says (`max-age`); then it is drawn anew, and the newer wins.

use std::time::Duration;

use hash::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use origin::{FileHead, Home};
use url::Url;

/// How long what nothing proves is believed at least.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which file is meant.
#[derive(Debug, Clone)]
pub(crate) struct Meant {
    pub(crate) url: Url,
    /// What it is known by: its URL, and where it may change what tells this version.
    pub(crate) key: String,
    /// The checksum of the content object of OSTree that it holds, if it is one.
    pub(crate) object: Option<Digest>,
    /// Which version it is, if it may change.
    etag: Option<HeaderValue>,
    /// Its length in bytes, where its server has just said it.
    size: Option<u64>,
    /// How long it is believed which bytes it is.
    pub(crate) life: Duration,
}

impl Meant {
    /// A content object of OSTree, which is proven by its name.
    pub(crate) fn object(url: Url, name: Digest) -> Self {
        Self { object: Some(name), life: Duration::MAX, ..Self::fixed(url) }
    }

    /// A file that never changes.
    pub(crate) fn fixed(url: Url) -> Self {
        let key = format!("file {url}");
        Self { url, key, object: None, etag: None, size: None, life: DAY }
    }

    /// The version that a server has just told of.
    pub(crate) fn version(url: Url, etag: HeaderValue, head: &FileHead) -> Self {
        let key = format!("file {url} {}", String::from_utf8_lossy(etag.as_bytes()));
        let life = max_age(&head.headers).map_or(DAY, |life| life.max(DAY));
        Self { url, key, object: None, etag: Some(etag), size: head.size, life }
    }

    pub(crate) fn home(&self) -> Home {
        Home::Web(self.url.clone())
    }

    /// Whether an answer, or what is known of the file, has the length that its server has just said.
    pub(crate) fn has_length(&self, size: Option<u64>) -> bool {
        self.size.is_none() || size.is_none() || self.size == size
    }

    /// Whether an answer to nobody in particular is of this version, and may be kept.
    pub(crate) fn fits(&self, head: &FileHead) -> bool {
        let version = self.etag.is_none() || head.headers.get(header::ETAG) == self.etag.as_ref();
        version && self.has_length(head.size) && is_for_all(&head.headers)
    }
}

/// Whether an answer to nobody in particular is the same for everybody, and may be kept (RFC 9111 sections 3.5 and 4.1).
/// A file that is packed for the way, or made for who asks, is no file to be known by its bytes.
pub(crate) fn is_for_all(headers: &HeaderMap) -> bool {
    !is_private(headers)
        && words(headers, &header::VARY)
            .all(|word| matches!(word.as_str(), "" | "accept-encoding" | "origin"))
        && words(headers, &header::CONTENT_ENCODING).all(|word| matches!(word.as_str(), "" | "identity"))
}

/// Whether an answer is for who asked alone, whatever proves its bytes.
pub(crate) fn is_private(headers: &HeaderMap) -> bool {
    let kept_back = |word: &str| ["private", "no-store"].iter().any(|no| word.split('=').next() == Some(no));
    headers.contains_key(header::SET_COOKIE)
        || words(headers, &header::CACHE_CONTROL).any(|word| kept_back(&word))
}

/// How long an answer says that it stays right.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut words = words(headers, &header::CACHE_CONTROL);
    words.find_map(|word| word.strip_prefix("max-age=")?.parse().ok()).map(Duration::from_secs)
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + use<'a> {
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("*"));
    values.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().expect("a name"), HeaderValue::from_static(value))])
    }

    #[test]
    fn what_is_made_for_one_asker_is_not_for_all() {
        let of = |name, value| is_for_all(&headers(name, value));
        assert!(is_for_all(&HeaderMap::new()));
        for (name, value) in [
            ("cache-control", "public, max-age=60"),
            ("cache-control", "no-cache"),
            ("vary", "Accept-Encoding, Origin"),
            ("content-encoding", "identity"),
        ] {
            assert!(of(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("cache-control", "max-age=60, Private"),
            ("cache-control", "private=\"x\""),
            ("cache-control", "no-store"),
            ("vary", "*"),
            ("vary", "accept-encoding, accept"),
            ("content-encoding", "gzip"),
            ("set-cookie", "a=b"),
        ] {
            assert!(!of(name, value), "{name}: {value}");
            let is_of_the_way = matches!(name, "vary" | "content-encoding");
            assert_eq!(is_private(&headers(name, value)), !is_of_the_way, "{name}: {value}");
        }
    }

    #[test]
    fn what_nothing_proves_is_believed_for_a_day_or_as_long_as_its_server_says() {
        let url = Url::parse("http://a.test/x").expect("a URL");
        let life = |value: &'static str| {
            let head = FileHead { headers: headers("cache-control", value), ..FileHead::default() };
            Meant::version(url.clone(), HeaderValue::from_static("\"1\""), &head).life
        };
        for (value, days) in [
            ("no-cache", 1),
            ("max-age=0", 1),
            ("max-age=x", 1),
            ("public, Max-Age=864000", 10),
            ("max-age=99999999999999999999", 1),
        ] {
            assert_eq!(life(value), DAY * days, "{value}");
        }
        assert_eq!(Meant::fixed(url.clone()).life, DAY);
        assert_eq!(Meant::object(url, Digest::of(b"x")).life, Duration::MAX);
    }

    #[test]
    fn an_answer_of_another_length_or_version_is_not_what_is_meant() {
        let url = Url::parse("http://a.test/x").expect("a URL");
        let head = |etag, size| FileHead { size, headers: headers("etag", etag), ..FileHead::default() };
        let meant = Meant::version(url, HeaderValue::from_static("\"1\""), &head("\"1\"", Some(5)));
        assert!(meant.fits(&head("\"1\"", Some(5))) && meant.fits(&head("\"1\"", None)));
        assert!(!meant.fits(&head("\"1\"", Some(6))) && !meant.fits(&head("\"2\"", Some(5))));
    }
}
