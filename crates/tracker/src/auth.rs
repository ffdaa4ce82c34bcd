//! Whether a caller shows the token.

use ::http::{HeaderMap, header::AUTHORIZATION};

/// What callers must show, if anything.
#[derive(Clone)]
pub(crate) struct Auth {
    /// Hashes are compared, so that the time it takes says nothing about the token.
    token: Option<[u8; 32]>,
}

impl Auth {
    pub(crate) fn new(token: Option<&str>) -> Self {
        Self { token: token.map(|token| hash::sha256(token.as_bytes())) }
    }

    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token else { return true };
        let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let shown = shown.and_then(|value| {
            let (scheme, token) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
        });
        shown.is_some_and(|shown| hash::sha256(shown) == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            headers
        };
        let auth = Auth::new(Some("secret"));
        assert!(auth.allows(&with("Bearer secret")) && auth.allows(&with("bearer secret")));
        for bad in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "Basic secret", ""] {
            assert!(!auth.allows(&with(bad)), "{bad}");
        }
        assert!(!auth.allows(&HeaderMap::new()));
        assert!(Auth::new(None).allows(&HeaderMap::new()));
    }
}
