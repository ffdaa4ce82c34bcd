//! A tracker's URL for people's eyes.

use crate::Location;

/// A tracker's URL without what may be a secret in it: user and password, a query, and all of the path but its last
/// word where that is `announce`, since what stands before is somebody's key.
pub fn shown(url: &str) -> String {
    let Some(Location { scheme, authority, rest }) = Location::of(url) else { return "…".to_owned() };
    let (path, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let path = match path {
        "" | "/" | "/announce" => path,
        path if path.ends_with("/announce") => "/…/announce",
        _ => "/…",
    };
    let query = if query.is_empty() { "" } else { "?…" };
    format!("{scheme}://{authority}{path}{query}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_secret_of_a_url_is_shown() {
        for (url, text) in [
            ("http://t:6969/announce", "http://t:6969/announce"),
            ("udp://[::1]:6969", "udp://[::1]:6969"),
            ("http://user:word@t/announce", "http://t/announce"),
            ("https://t/KEY/announce", "https://t/…/announce"),
            ("https://t/announce/KEY", "https://t/…"),
            ("http://t/announce?passkey=KEY", "http://t/announce?…"),
            ("http://t?KEY", "http://t?…"),
            ("http://t#KEY@x", "http://t?…"),
            ("KEY", "…"),
        ] {
            assert_eq!(shown(url), text, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_key_is_shown_wherever_it_stands(before in "[a-z/?#@:.]{0,12}", after in "[a-z/?#@:.]{0,12}") {
            let text = shown(&format!("http://host/{before}KEY{after}"));
            prop_assert!(!text.contains("KEY"), "{}", text);
        }
    }
}
