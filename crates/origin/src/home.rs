//! Where content lives.

use std::fmt;

use url::Url;

use crate::{Place, Repository};

/// Where content lives, and is asked for when nobody of the fleet has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Home {
    /// A repository of a registry, under its digest.
    Registry(Repository),
    /// A web server, at this URL. Anybody may have it: what is asked for with rights is not kept.
    Web(Url),
}

impl Home {
    /// The registry, or the server's host.
    pub fn host(&self) -> &str {
        match self {
            Self::Registry(repository) => repository.registry(),
            Self::Web(url) => url.host_str().unwrap_or_default(),
        }
    }
}

impl From<&Repository> for Home {
    fn from(repository: &Repository) -> Self {
        Self::Registry(repository.clone())
    }
}

impl From<&Home> for Place {
    fn from(home: &Home) -> Self {
        match home {
            Home::Registry(repository) => repository.into(),
            Home::Web(_) => Self { registry: home.host().to_owned(), repository: None },
        }
    }
}

/// A URL is said without its query, which may be a signature.
impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(repository) => repository.fmt(f),
            Self::Web(url) => write!(f, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}
