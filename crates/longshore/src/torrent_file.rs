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

/// Reads `create --tracker`: a tier of trackers that any client may know.
pub(crate) fn parse_any_tier(text: &str) -> Result<Vec<String>, String> {
    tier(text, &["http://", "https://", "udp://", "ws://", "wss://"])
}

fn tier(text: &str, schemes: &[&str]) -> Result<Vec<String>, String> {
    let urls = text.split(',').map(str::trim);
    urls.map(|url| tracker(url, schemes).map(|()| url.to_owned())).collect()
}

fn tracker(url: &str, schemes: &[&str]) -> Result<(), String> {
    let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
    // Not only a path: there must be a host.
    if rest.is_some_and(|rest| !rest.starts_with(['/', '?', '#', ':']) && !rest.is_empty()) {
        return Ok(());
    }
    let example = "such as http://tracker.example:6969/announce";
    Err(format!("`{url}` is no tracker's URL: it must begin with {}, {example}", schemes.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_stands_within_a_tier() {
        let tier = parse_tier("http://a/announce, https://b/announce").expect("two");
        assert_eq!(tier, ["http://a/announce", "https://b/announce"]);
        for wrong in ["", "http://", "http:///announce", "a/announce", "http://a,", "wss://a:1/announce"] {
            assert!(parse_tier(wrong).is_err(), "{wrong}");
        }
        assert!(parse_any_tier("udp://a:1/announce").is_ok());
    }
}
