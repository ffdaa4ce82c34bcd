//! `WWW-Authenticate`: what a registry asks for (RFC 9110 section 11.6.1).

/// Longest header that is read; the rest of a longer one is nobody's challenge.
const LENGTH_LIMIT: usize = 8 * 1024;
/// How many challenges, and parameters of one, are read.
const COUNT_LIMIT: usize = 16;

/// One scheme that would do, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `bearer`, `basic`, … in lower case.
    pub scheme: String,
    /// Names in lower case, and values without their quotes, in the order given.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of the first parameter called `name` (lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header. What cannot be understood ends the reading: the challenges before it stand,
/// the one it belongs to is dropped.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    if header.len() > LENGTH_LIMIT {
        return challenges;
    }
    let mut cursor = Cursor { rest: header };
    while challenges.len() < COUNT_LIMIT {
        cursor.skip(|c| c == ',' || is_space(c));
        let Some(challenge) = cursor.challenge() else { break };
        challenges.push(challenge);
    }
    challenges
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn challenge(&mut self) -> Option<Challenge> {
        let scheme = self.token()?.to_ascii_lowercase();
        if !self.rest.is_empty() && !self.rest.starts_with([',', ' ', '\t']) {
            return None;
        }
        let mut parameters = Vec::new();
        loop {
            let before = self.rest;
            self.skip(|c| c == ',' || is_space(c));
            if self.rest.is_empty() {
                return Some(Challenge { scheme, parameters });
            }
            let comma = before[..before.len() - self.rest.len()].contains(',');
            if !parameters.is_empty() && !comma {
                return None;
            }
            let name = self.token()?;
            self.skip(is_space);
            if !self.rest.starts_with('=') {
                // After a comma a bare word is the scheme of the next challenge. Right behind the scheme it would be
                // a token68, which no registry sends.
                self.rest = before;
                return comma.then_some(Challenge { scheme, parameters });
            }
            self.rest = &self.rest[1..];
            self.skip(is_space);
            let value = if self.rest.starts_with('"') { self.quoted()? } else { self.token()?.to_owned() };
            if parameters.len() >= COUNT_LIMIT {
                return None;
            }
            parameters.push((name.to_ascii_lowercase(), value));
        }
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(what);
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                c if c.is_control() && c != '\t' => return None,
                c => value.push(c),
            }
        }
        None
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bearer_challenge_is_read_with_commas_inside_quotes() {
        let header = r#"Bearer realm="https://auth.test/token?x=1,2",service="reg.test",scope="repository:a/b:pull,push""#;
        let challenges = parse_challenges(header);
        assert_eq!(challenges.len(), 1);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].get("realm"), Some("https://auth.test/token?x=1,2"));
        assert_eq!(challenges[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenges[0].get("error"), None);
    }

    #[test]
    fn several_challenges_and_loose_spacing_are_read() {
        let challenges =
            parse_challenges("BASIC Realm = \"a \\\"b\\\"\" , charset=UTF-8,, Bearer realm=\"r\"");
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].scheme, "basic");
        assert_eq!(challenges[0].get("realm"), Some("a \"b\""));
        assert_eq!(challenges[0].get("charset"), Some("UTF-8"));
        assert_eq!(challenges[1].scheme, "bearer");
        let bare = parse_challenges("Negotiate, Basic realm=\"r\"");
        assert_eq!(bare.iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(), ["negotiate", "basic"]);
        assert_eq!(parse_challenges("Basic").len(), 1);
    }

    #[test]
    fn what_cannot_be_understood_is_dropped() {
        for bad in [
            "",
            ",",
            "Bearer realm=\"open",
            "Bearer realm=",
            "Bearer =x",
            "Bearer a b",
            "\"x\"",
            "Bearer realm=\"\\",
        ] {
            assert!(parse_challenges(bad).is_empty(), "{bad:?}");
        }
        assert!(parse_challenges(&"a,".repeat(LENGTH_LIMIT)).is_empty());
        assert_eq!(parse_challenges(&"a,".repeat(100)).len(), COUNT_LIMIT);
    }

    proptest! {
        #[test]
        fn any_header_is_read_within_bounds(header in "\\PC{0,200}|[A-Za-z=\", \\\\]{0,200}") {
            let challenges = parse_challenges(&header);
            prop_assert!(challenges.len() <= COUNT_LIMIT);
            prop_assert!(challenges.iter().all(|c| !c.scheme.is_empty() && c.parameters.len() <= COUNT_LIMIT));
        }

        #[test]
        fn what_is_quoted_comes_back(value in "[ -~]{0,60}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse_challenges(&format!("Bearer realm=\"{quoted}\", service=\"s\""));
            prop_assert_eq!(challenges[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[0].get("service"), Some("s"));
        }
    }
}
