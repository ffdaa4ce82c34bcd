//! What a user names: a torrent file, a magnet link, a tracker's URL.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::Context as _;
use metainfo::{Magnet, Torrent};

use crate::failure::Failure;

/// The largest torrent file that is read, in bytes: room for the most pieces and files that a torrent may have.
const LARGEST: u64 = 256 * 1024 * 1024;

/// A torrent or a link to one.
pub(crate) enum Named {
    Torrent(Box<Torrent>),
    Magnet(Magnet),
}

/// Reads a magnet link, or the torrent file of that name.
pub(crate) fn find(name: &str) -> anyhow::Result<Named> {
    if name.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:")) {
        let magnet = name.parse().context(Failure::bad_input("the magnet link cannot be used"))?;
        return Ok(Named::Magnet(magnet));
    }
    Ok(Named::Torrent(Box::new(read(Path::new(name))?)))
}

/// Reads a torrent file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Torrent> {
    let unusable = || Failure::bad_input(format!("cannot use the torrent {}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(unusable)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(unusable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(unusable().hint("it is larger than any torrent: is it the content itself?").into());
    }
    Torrent::parse(&bytes).with_context(unusable)
}

/// How the URL of a tracker begins that the engine can announce to.
const ANNOUNCED: &[&str] = &["http://", "https://", "udp://"];

/// Reads `--tracker`: a tier of trackers that are announced to.
pub(crate) fn parse_tier(text: &str) -> Result<Vec<String>, String> {
    tier(text, ANNOUNCED)
}

/// Refuses a tracker that cannot be announced to.
pub(crate) fn check_tracker(url: &str) -> Result<(), String> {
    tracker(url, ANNOUNCED)
}

/// Says at the start when a tracker's URL has no path. It is asked as it stands, since trackers may be anywhere.
pub(crate) fn warn_of_tracker(url: &str) {
    if let Some(likely) = likely(url) {
        tracing::warn!("the tracker's URL `{url}` has no path, and is asked as it stands: is it {likely}?");
    }
}

/// The announce URL that is meant by one without a path: that of most trackers over HTTP, ours among them.
fn likely(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let bare = rest.strip_suffix('/').unwrap_or(rest);
    // One with a login is not to be written anywhere.
    (!bare.contains(['/', '?', '#', '@'])).then(|| format!("{}/announce", url.trim_end_matches('/')))
}

/// Reads `create --tracker`: a tier of trackers that any client may know.
pub(crate) fn parse_any_tier(text: &str) -> Result<Vec<String>, String> {
    tier(text, &["http://", "https://", "udp://", "ws://", "wss://"])
}

/// Reads `--web-seed`: where clients can fetch the content over HTTP (BEP 19).
pub(crate) fn parse_web_seed(url: &str) -> Result<String, String> {
    let host = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let good = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'));
    if good && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(url.to_owned());
    }
    Err(format!("`{url}` is no URL of a web seed: it must begin with http:// or https://, and name a host"))
}

fn tier(text: &str, schemes: &[&str]) -> Result<Vec<String>, String> {
    let urls = text.split(',').map(str::trim);
    urls.map(|url| tracker(url, schemes).map(|()| url.to_owned())).collect()
}

fn tracker(url: &str, schemes: &[&str]) -> Result<(), String> {
    let (scheme, rest) = schemes.iter().find_map(|scheme| Some((scheme, url.strip_prefix(scheme)?))).unzip();
    let host = rest.and_then(|rest: &str| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    // Not only a path: there must be a host.
    let has_host =
        !host.is_empty() && !host.starts_with(':') && url.bytes().all(|byte| byte.is_ascii_graphic());
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if has_host && scheme == Some(&"udp://") && port.is_none() {
        return Err(format!(
            "`{url}` has no port: a UDP tracker's URL is like udp://tracker.example:6969/announce"
        ));
    }
    if has_host {
        return Ok(());
    }
    let example = "such as http://tracker.example:6969/announce";
    Err(format!("`{url}` is no tracker's URL: it must begin with {}, {example}", schemes.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_is_not_that_of_most_trackers() {
        for url in ["http://t:6969", "http://t:6969/"] {
            assert_eq!(likely(url).as_deref(), Some("http://t:6969/announce"));
        }
        assert_eq!(likely("https://[::1]").as_deref(), Some("https://[::1]/announce"));
        for given in [
            "http://t/announce",
            "http://t//",
            "http://t?key",
            "http://t/?key",
            "udp://t:6969",
            "http://u:p@t",
        ] {
            assert_eq!(likely(given), None, "{given}");
        }
    }

    #[test]
    fn a_comma_stands_within_a_tier() {
        let tier = parse_tier("http://a/announce, https://b/announce").expect("two");
        assert_eq!(tier, ["http://a/announce", "https://b/announce"]);
        for wrong in [
            "",
            "http://",
            "http:///announce",
            "a/announce",
            "http://a,",
            "wss://a:1/announce",
            "udp://a/announce",
            "udp://[::1]",
            "http://a b/announce",
        ] {
            assert!(parse_tier(wrong).is_err(), "{wrong}");
        }
        assert!(parse_web_seed("https://mirror.example/pub/").is_ok());
        for wrong in ["foo", "http://", "http:///x", "ftp://x/", "http://a b"] {
            assert!(parse_web_seed(wrong).is_err(), "{wrong}");
        }
        assert!(parse_any_tier("udp://a:1/announce").is_ok());
    }
}
