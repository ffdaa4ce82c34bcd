//! A tracker's URL taken apart.

/// Where a tracker is, by its URL. Nothing is decoded or checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location<'a> {
    /// `http`, `https`, `udp`, or what else stands there.
    pub scheme: &'a str,
    /// Host and, where it is given, port; an IPv6 address in brackets. Without the user and password before it.
    pub authority: &'a str,
    /// Path, query and fragment.
    pub rest: &'a str,
}

impl<'a> Location<'a> {
    /// Of a URL; none of what has no scheme.
    pub fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let authority = authority.rsplit('@').next().unwrap_or_default();
        Some(Self { scheme, authority, rest })
    }

    /// Host and port; where none is given, HTTP's usual ones.
    pub fn host_and_port(&self) -> Option<String> {
        // The colons of an IPv6 address stand in brackets.
        if self.authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            return Some(self.authority.to_owned());
        }
        let port = match self.scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some(format!("{}:{port}", self.authority))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn where_a_tracker_listens_is_in_its_url() {
        for (url, address) in [
            ("http://t:6969/announce", Some("t:6969")),
            ("https://u:p@t/announce?key=a:b", Some("t:443")),
            ("http://[::1]/announce", Some("[::1]:80")),
            ("http://[::1]:6969", Some("[::1]:6969")),
            ("udp://u@t:6969/announce", Some("t:6969")),
            ("udp://t", None),
            ("t:6969", None),
        ] {
            let found = Location::of(url).and_then(|location| location.host_and_port());
            assert_eq!(found.as_deref(), address, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(text in "\\PC{0,40}|[a-z]{1,5}://[a-z@:/?#\\[\\]]{0,30}") {
            if let Some(location) = Location::of(&text) {
                prop_assert!(text.starts_with(location.scheme) && text.ends_with(location.rest));
                prop_assert!(!location.authority.contains(['@', '/', '?', '#']));
                let _ = location.host_and_port();
            }
        }
    }
}
