//! Where etcd is, as people write it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;

/// The port of etcd's clients, where none is given.
const PORT: u16 = 2379;

/// The prefix of all keys, where none is given.
const PREFIX: &str = "longshore";

/// The most members that may be named, and the longest prefix in bytes.
const MAX_MEMBERS: usize = 32;
const MAX_PREFIX: usize = 200;

/// `etcd://[user@]host[:port],host[:port],…[/prefix]`; with `etcds://` over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    members: Vec<Url>,
    user: Option<String>,
    prefix: String,
}

/// Why a text is no address of etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Another scheme, or none.
    #[error("an address of etcd begins with etcd:// or, for TLS, etcds://")]
    Scheme,
    /// A password beside the user. The text is not repeated.
    #[error("a password does not belong in etcd's address, where others can read it")]
    Password,
    /// `@` with nothing before it.
    #[error("etcd's address has an `@` with no user before it")]
    User,
    /// Not `host` or `host:port`.
    #[error("`{0}` is no member of etcd: expected host or host:port")]
    Member(String),
    /// None, or too many.
    #[error("etcd's address names {0} members: expected 1 to {MAX_MEMBERS}, with commas between")]
    Count(usize),
    /// A prefix that is more than a plain path.
    #[error(
        "`{0}` is no prefix for keys in etcd: expected letters, digits and any of `.-_/`, at most {MAX_PREFIX}"
    )]
    Prefix(String),
}

impl Address {
    /// The members' base URLs, `http://host:port/` or `https://host:port/`; one at least.
    pub fn members(&self) -> &[Url] {
        &self.members
    }

    /// Who calls, if etcd asks for a user.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// What all keys begin with, without a slash at either end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether to speak TLS.
    pub fn tls(&self) -> bool {
        self.members.first().is_some_and(|member| member.scheme() == "https")
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("etcd", rest)) => ("http", rest),
            Some(("etcds", rest)) => ("https", rest),
            _ => return Err(AddressError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, members) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(AddressError::Password),
            Some(("", _)) => return Err(AddressError::User),
            Some((user, members)) => (Some(user.to_owned()), members),
            None => (None, authority),
        };
        let members = members.split(',').map(|text| member(scheme, text)).collect::<Result<Vec<_>, _>>()?;
        if members.len() > MAX_MEMBERS {
            return Err(AddressError::Count(members.len()));
        }
        let prefix = match path.trim_matches('/') {
            "" => PREFIX,
            prefix => prefix,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if prefix.len() > MAX_PREFIX || !prefix.chars().all(plain) {
            return Err(AddressError::Prefix(prefix.to_owned()));
        }
        Ok(Self { members, user, prefix: prefix.to_owned() })
    }
}

fn member(scheme: &str, text: &str) -> Result<Url, AddressError> {
    let bad = || AddressError::Member(text.to_owned());
    // Under a scheme that has no port by default, a port that is written is never taken for the default.
    let plain = Url::parse(&format!("etcd://{text}")).map_err(|_| bad())?;
    let alone = plain.path().is_empty() && plain.query().is_none() && plain.fragment().is_none();
    let host = plain.host_str().filter(|host| alone && !host.is_empty()).ok_or_else(bad)?;
    let port = plain.port().unwrap_or(PORT);
    Url::parse(&format!("{scheme}://{host}:{port}/")).map_err(|_| bad())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls() { "etcds://" } else { "etcd://" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        for (number, member) in self.members.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let (host, port) = (member.host_str().unwrap_or_default(), member.port_or_known_default());
            write!(f, "{comma}{host}:{}", port.unwrap_or(PORT))?;
        }
        write!(f, "/{}", self.prefix)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        let short: Address = "etcd://a,10.0.0.2:80,[::1]:4001".parse().expect("good");
        let members: Vec<_> = short.members().iter().map(Url::as_str).collect();
        assert_eq!(members, ["http://a:2379/", "http://10.0.0.2/", "http://[::1]:4001/"]);
        assert_eq!((short.prefix(), short.user(), short.tls()), ("longshore", None, false));
        let long: Address = "etcds://root@a:1/fleet/one/".parse().expect("good");
        assert_eq!(long.members()[0].as_str(), "https://a:1/");
        assert_eq!((long.prefix(), long.user(), long.tls()), ("fleet/one", Some("root"), true));
        assert_eq!(long.to_string(), "etcds://root@a:1/fleet/one");
        assert_eq!(short.to_string(), "etcd://a:2379,10.0.0.2:80,[::1]:4001/longshore");
    }

    #[test]
    fn what_is_no_address_is_refused_and_a_password_is_not_repeated() {
        for bad in [
            "",
            "etcd",
            "http://a",
            "etcd://",
            "etcd://a,,b",
            "etcd://a:x",
            "etcd://@a",
            "etcd://a?tls",
            "etcd://a/p?q",
            "etcd://a/p q",
            "etcd://a b",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        let error = "etcd://root:secret@a".parse::<Address>().expect_err("a password");
        assert!(!error.to_string().contains("secret"));
        let many = format!("etcd://{}", vec!["a"; 33].join(","));
        assert_eq!(many.parse::<Address>(), Err(AddressError::Count(33)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_and_read_the_same(text in "(etcds?://)?[a-z0-9@:,/.?\\[\\]-]{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
