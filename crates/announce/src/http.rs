//! Announce and scrape over HTTP: requests as query strings, replies as bencode, the heads around requests, and what proxies say before them.

pub mod head;
pub mod preface;
mod query;
mod reply;
mod request;

pub use reply::{PeerFormat, ReplyError, encode_failure};
pub use request::{AnnounceError, append_to_url};

/// Where a tracker answers scrapes: where the text behind the last slash begins with `announce`, that is replaced
/// by `scrape`; otherwise it does not (BEP 48).
pub fn scrape_url(announce_url: &str) -> Option<String> {
    let (front, last) = announce_url.rsplit_once('/')?;
    Some(format!("{front}/scrape{}", last.strip_prefix("announce")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrape_urls_by_the_convention() {
        for (announce, scrape) in [
            ("http://example.com/announce", Some("http://example.com/scrape")),
            ("http://example.com/x/announce", Some("http://example.com/x/scrape")),
            ("http://example.com/announce.php", Some("http://example.com/scrape.php")),
            ("http://example.com/a", None),
            ("http://example.com/announce?x2%0644", Some("http://example.com/scrape?x2%0644")),
            ("http://example.com/announce?x=2/4", None),
            ("http://example.com/x%064announce", None),
            ("nonsense", None),
        ] {
            assert_eq!(scrape_url(announce).as_deref(), scrape);
        }
    }
}
