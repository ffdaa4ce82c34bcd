//! Who we are to etcd, and the token that it gives us for that.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use reqwest::header::HeaderValue;
use tokio::sync::Semaphore;

/// A password. It is in no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// As it was given.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The user, and the token that all calls share.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Password,
    token: Mutex<Token>,
    /// One login at a time: checking a password is slow by design.
    pub(crate) turn: Semaphore,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// None yet, or none any more.
    Missing,
    /// Nobody needs one here.
    NotNeeded,
    Is(HeaderValue),
}

impl Login {
    pub(crate) fn new(user: String, password: Password) -> Self {
        Self { user, password, token: Mutex::new(Token::Missing), turn: Semaphore::new(1) }
    }

    pub(crate) fn token(&self) -> Token {
        self.lock().clone()
    }

    pub(crate) fn set(&self, token: Token) {
        *self.lock() = token;
    }

    /// Forgets a token that was refused, unless there is another by now.
    pub(crate) fn forget(&self, refused: &Token) {
        let mut token = self.lock();
        if *token == *refused {
            *token = Token::Missing;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Token> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown_and_a_newer_token_outlives_a_refusal() {
        let login = Login::new("u".to_owned(), Password::new("secret"));
        assert!(!format!("{login:?}").contains("secret"));
        let [old, new] = ["old", "new"].map(|text| Token::Is(HeaderValue::from_static(text)));
        login.set(new.clone());
        login.forget(&old);
        assert_eq!(login.token(), new);
        login.forget(&new);
        assert_eq!(login.token(), Token::Missing);
    }
}
