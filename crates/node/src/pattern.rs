//! Patterns of URLs: `*` is anything without a slash, `**` anything, `{sha256}` the hexadecimal digest of the file.
//! Neither `*` nor `**` goes into a query, which may be a right to the file: a pattern has to have it in so many words.

use hash::Digest;

/// The longest pattern.
const LENGTH: usize = 1024;
/// The most places of a pattern that fit more than one text.
const WILD: usize = 16;
/// The longest URL that is held against patterns.
const URL_LENGTH: usize = 4096;

/// A pattern of URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Anything, with slashes or without.
    Any {
        slashes: bool,
    },
    Sha256,
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern `{pattern}` cannot be used: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: &'static str,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, PatternError> {
        let refuse = |reason| PatternError { pattern: text.chars().take(120).collect(), reason };
        if text.len() > LENGTH {
            return Err(refuse("it is too long"));
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err(refuse("it begins with http:// or https:// and a host"));
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['*', '{', '}']) {
            let (before, special) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (piece, length) = if special.starts_with("**") {
                (Piece::Any { slashes: true }, 2)
            } else if special.starts_with('*') {
                (Piece::Any { slashes: false }, 1)
            } else if special.starts_with("{sha256}") {
                (Piece::Sha256, "{sha256}".len())
            } else {
                return Err(refuse("of what stands in braces, only {sha256} is known"));
            };
            pieces.push(piece);
            rest = special.get(length..).unwrap_or_default();
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.iter().filter(|piece| matches!(piece, Piece::Any { .. })).count() > WILD {
            return Err(refuse("it has too many *"));
        }
        if pieces.iter().filter(|piece| **piece == Piece::Sha256).count() > 1 {
            return Err(refuse("{sha256} stands in it more than once"));
        }
        Ok(Self(pieces))
    }

    /// Whether it fits all of a URL, and the digest that it finds there. Where it fits in more than one way, the digest
    /// is that of one of them.
    #[allow(clippy::option_option, reason = "a pattern that fits need not hold a digest")]
    pub(crate) fn fits(&self, url: &str) -> Option<Option<Digest>> {
        if url.len() > URL_LENGTH || !url.is_ascii() {
            return None;
        }
        // For each place in the URL: whether the pieces so far fit what is before it, and with which digest. So the
        // work is the pattern's length times the URL's, whatever they are.
        let mut reached: Vec<Option<Option<Digest>>> = vec![None; url.len() + 1];
        reached[0] = Some(None);
        for piece in &self.0 {
            let mut next = vec![None; url.len() + 1];
            match piece {
                Piece::Text(text) => {
                    for (at, digest) in places(&reached) {
                        if url.get(at..).is_some_and(|rest| rest.starts_with(text)) {
                            put(&mut next, at + text.len(), digest);
                        }
                    }
                }
                Piece::Any { slashes } => {
                    let mut running = None;
                    for (at, byte) in url.bytes().map(Some).chain([None]).enumerate() {
                        running = reached.get(at).copied().flatten().or(running);
                        if let Some(digest) = running {
                            put(&mut next, at, digest);
                        }
                        if byte == Some(b'?') || byte == Some(b'/') && !slashes {
                            running = None;
                        }
                    }
                }
                Piece::Sha256 => {
                    for (at, _) in places(&reached) {
                        let digest = url.get(at..at + 64).and_then(|hex| Digest::from_hex(hex).ok());
                        if digest.is_some() {
                            put(&mut next, at + 64, digest);
                        }
                    }
                }
            }
            reached = next;
        }
        reached.pop().flatten()
    }
}

fn places(reached: &[Option<Option<Digest>>]) -> impl Iterator<Item = (usize, Option<Digest>)> + '_ {
    reached.iter().enumerate().filter_map(|(at, digest)| digest.map(|digest| (at, digest)))
}

fn put(reached: &mut [Option<Option<Digest>>], at: usize, digest: Option<Digest>) {
    if let Some(place) = reached.get_mut(at) {
        *place = Some(digest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, url: &str) -> Option<Option<Digest>> {
        Pattern::new(pattern).expect(pattern).fits(url)
    }

    #[test]
    fn patterns_fit_whole_urls() {
        assert_eq!(fits("http://a.test/pool/**.deb", "http://a.test/pool/m/x/x_1.deb"), Some(None));
        assert_eq!(fits("http://a.test/*/x", "http://a.test/pool/x"), Some(None));
        assert_eq!(fits("http://*.test/x", "http://a.b.test/x"), Some(None));
        for (pattern, url) in [
            ("http://a.test/*/x", "http://a.test/pool/m/x"),
            ("http://a.test/*", "http://a.test/pool/"),
            ("http://a.test/", "http://a.test/x"),
            ("http://*.test/x", "http://evil/a.test/x"),
            ("http://a.test/**.deb", "http://a.test/x.deb2"),
            ("http://a.test/**", "http://a.test/x?signature=1"),
        ] {
            assert_eq!(fits(pattern, url), None, "{pattern} {url}");
        }
    }

    #[test]
    fn a_digest_is_found_where_the_pattern_says() {
        let digest = Digest::of(b"x");
        let url = format!("http://a.test/by-hash/SHA256/{}", digest.hex());
        assert_eq!(fits("http://a.test/**/SHA256/{sha256}", &url), Some(Some(digest)));
        assert_eq!(fits("http://a.test/**", &url), Some(None));
        assert_eq!(fits("http://a.test/**/SHA256/{sha256}", &url[..url.len() - 1]), None);
        assert_eq!(fits("http://a.test/**/SHA256/{sha256}", &format!("{url}0")), None);
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        let error = |text: &str| Pattern::new(text).expect_err(text).to_string();
        assert!(error("ftp://a/").contains("begins with"));
        assert!(error("http://a/{md5}").contains("{sha256}"));
        assert!(error("http://a/{sha256}{sha256}").contains("more than once"));
        assert!(error(&format!("http://a/{}", "*/".repeat(WILD + 1))).contains("too many"));
        assert!(error(&format!("http://{}", "a".repeat(LENGTH))).contains("too long"));
    }

    /// The plain way to say what fits, slow as it may be.
    fn plainly(pieces: &[Piece], url: &str) -> bool {
        match pieces {
            [] => url.is_empty(),
            [Piece::Text(text), rest @ ..] => {
                url.strip_prefix(text.as_str()).is_some_and(|url| plainly(rest, url))
            }
            [Piece::Any { slashes }, rest @ ..] => (0..=url.len())
                .take_while(|at| !url[..*at].contains('?') && (*slashes || !url[..*at].contains('/')))
                .any(|at| plainly(rest, &url[at..])),
            [Piece::Sha256, rest @ ..] => {
                url.get(..64).is_some_and(|hex| Digest::from_hex(hex).is_ok()) && plainly(rest, &url[64..])
            }
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_refused_or_fits_what_it_plainly_should(
            pattern in "http://[ab/?*]{0,9}|\\PC{0,30}", url in "http://[ab/?]{0,12}",
        ) {
            if let Ok(pattern) = Pattern::new(&pattern) {
                prop_assert_eq!(pattern.fits(&url).is_some(), plainly(&pattern.0, &url));
            }
        }
    }
}
