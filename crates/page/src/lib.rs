//! The web page of nodes and labs: the files of `web/dist` inside the binary, and how they are served.
//!
//! [`find`] gives a file by the path of its request; [`answer`] is the whole service, to be a router's fallback:
//! `Router::new()….fallback(page::answer)`. Where the page was not built, it serves one that says how to get it.
//! [`Visitors`] tells the requests of that page, which may use the API beside it, from those of strange ones.
//!
//! Never here: the APIs that the page asks, tokens, reading files at run time, calling npm.
//!
//! Invariant: every answer carries [`HEADERS`], whose policy lets a page run only scripts and styles of this binary.
//!
//! Threads: nothing is kept between calls; any task may call.

mod answer;
mod visitors;

pub use answer::answer;
pub use visitors::{Refusal, Visitor, Visitors};

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Its media type, for `Content-Type`.
    pub content_type: &'static str,
    /// A strong entity tag, with its quotes.
    pub etag: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
    /// The same compressed with gzip, where that is worth it.
    pub gzip: Option<&'static [u8]>,
}

impl Asset {
    /// Whether its name has a hash of its content in it, so that a browser may keep it for good.
    fn is_lasting(path: &str) -> bool {
        path.starts_with("/assets/")
    }
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// What is served where the page was not built.
static WITHOUT: Asset = Asset {
    content_type: "text/html; charset=utf-8",
    etag: "\"none\"",
    bytes: include_bytes!("without.html"),
    gzip: None,
};

/// What every answer carries. The page asks nobody but the nodes that it is given, which may be anywhere.
pub const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
         connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Whether the page is in this binary.
pub const fn is_built() -> bool {
    !ASSETS.is_empty()
}

/// The file at a request's path; `/` is the page itself. `None` where there is none of that name.
pub fn find(path: &str) -> Option<Asset> {
    let path = if path == "/" { "/index.html" } else { path };
    if !is_built() {
        return (path == "/index.html").then_some(WITHOUT);
    }
    let place = ASSETS.binary_search_by(|(name, _)| (*name).cmp(path)).ok()?;
    ASSETS.get(place).map(|(_, asset)| *asset)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn there_is_always_a_page_and_nothing_beside_it() {
        let page = find("/").expect("a page");
        assert!(page.content_type.starts_with("text/html") && page.bytes.starts_with(b"<!doctype html>"));
        assert!(find("/../Cargo.toml").is_none() && find("/nothing").is_none() && find("").is_none());
        assert!(find("/assets/").is_none());
    }

    #[test]
    fn each_file_is_found_by_its_name_and_its_compressed_form_is_the_same() {
        for (name, asset) in ASSETS {
            let found = find(name).expect("is found");
            assert_eq!(found.etag, asset.etag, "{name}");
            assert!(
                asset.etag.len() > 10 && asset.etag.starts_with('"') && asset.etag.ends_with('"'),
                "{name}"
            );
            if let Some(packed) = asset.gzip {
                let mut text = Vec::new();
                flate2::read::GzDecoder::new(packed).read_to_end(&mut text).expect("unpacks");
                assert_eq!(text, asset.bytes, "{name}");
            }
        }
    }

    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for (name, asset) in ASSETS.iter().filter(|(name, _)| name.ends_with(".html")) {
            let text = std::str::from_utf8(asset.bytes).expect("is text");
            assert!(!text.contains("<style") && !text.contains(" style="), "{name} has styles in it");
            assert!(!text.contains("://"), "{name} points elsewhere");
            let inline = text.split("<script").skip(1).any(|rest| !rest.trim_start().contains("src="));
            assert!(!inline, "{name} has a script in it");
        }
    }

    #[test]
    fn the_first_load_is_small() {
        let sum: usize = ASSETS.iter().map(|(_, asset)| asset.gzip.unwrap_or(asset.bytes).len()).sum();
        assert!(sum < 200 * 1024, "{sum} bytes");
    }
}
