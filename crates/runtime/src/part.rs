//! What is ours in a file, whatever the file's form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{containerd, daemon, hosts, registries, remotes, tables};

const BY_HAND: &str = "it is written in a way that cannot be added to: add it by hand";
const TANGLED: &str = "our part is no longer to be told from the rest: take it out by hand";

/// What is ours in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Part {
    /// In Docker's `daemon.json`: an entry of `registry-mirrors`.
    DockerMirror {
        /// The mirror, `http://ADDRESS`.
        url: String,
    },
    /// In containerd's `hosts.toml`: a `[host."…"]`, the first one.
    ContainerdHost {
        /// The mirror, `http://ADDRESS`.
        url: String,
    },
    /// In containerd's `config.toml`: `config_path` of the registry.
    ContainerdFolder {
        /// The folder with `_default/hosts.toml`.
        folder: String,
    },
    /// In a file of `registries.conf.d`: a `[[registry]]` with a mirror for each registry.
    RegistryMirrors {
        /// The mirror's `ADDRESS`, host and port.
        mirror: String,
        /// Names without a port.
        registries: Vec<String>,
    },
    /// In a file with OSTree's remotes: `contenturl` of some.
    OstreeContent {
        /// By remote, `http://ADDRESS/ostree/NAME`.
        urls: BTreeMap<String, String>,
    },
}

/// A text with our part: one stretch of the old one replaced, mostly an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edited {
    pub(crate) text: String,
    pub(crate) added: String,
    pub(crate) replaced: String,
}

impl Edited {
    /// Replaces `from..to` of `text`. Bounds that are none leave it as it is.
    pub(crate) fn replace(text: &str, from: usize, to: usize, added: String) -> Self {
        let (head, replaced, rest) = match (text.get(..from), text.get(from..to), text.get(to..)) {
            (Some(head), Some(replaced), Some(rest)) => (head, replaced, rest),
            _ => (text, "", ""),
        };
        Self { text: format!("{head}{added}{rest}"), replaced: replaced.to_owned(), added }
    }
}

/// Why a text cannot take our part, or give it back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// It is not of its format.
    #[error("line {line} cannot be understood: {what}")]
    Syntax {
        /// From 1.
        line: usize,
        /// The parser's words.
        what: String,
    },
    /// It is no text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// It says the same in a form that is not ours to change.
    #[error("{0}")]
    Form(String),
    /// What others have set there does not go together with ours.
    #[error("{0}")]
    Conflict(String),
}

impl Part {
    /// The text with our part; `None` if it has it.
    pub(crate) fn insert(&self, text: &str) -> Result<Option<Edited>, EditError> {
        let edited = match self {
            Self::DockerMirror { url } => daemon::insert(text, url)?,
            Self::ContainerdHost { url } => hosts::insert(text, url)?,
            Self::ContainerdFolder { folder } => containerd::insert(text, folder)?,
            Self::RegistryMirrors { mirror, registries } => registries::insert(text, mirror, registries)?,
            Self::OstreeContent { urls } => remotes::insert(text, urls)?,
        };
        if let Some(edited) = &edited {
            // What was there was understood, so that an error here is about what we have made of it.
            self.compare(text, &edited.text, true).map_err(|_| EditError::Form(BY_HAND.to_owned()))?;
        }
        Ok(edited)
    }

    /// The text without our part, `None` if it has none. `added` stood for `replaced` when we put it in.
    pub(crate) fn remove(
        &self,
        text: &str,
        added: &str,
        replaced: &str,
    ) -> Result<Option<String>, EditError> {
        if !self.stands_in(text)? {
            return Ok(None);
        }
        let without = match self {
            Self::DockerMirror { url } => daemon::remove(text, url, added.contains(daemon::KEY))?,
            _ => match tables::swap_once(text, added, replaced)
                .filter(|t| self.compare(text, t, false).is_ok())
            {
                Some(text) => text,
                None => match self {
                    Self::ContainerdHost { url } => hosts::remove(text, url)?,
                    Self::ContainerdFolder { folder } => containerd::remove(text, folder)?,
                    Self::RegistryMirrors { mirror, registries } => {
                        registries::remove(text, mirror, registries)?
                    }
                    Self::OstreeContent { urls } => remotes::remove(text, urls)?,
                    Self::DockerMirror { .. } => text.to_owned(),
                },
            },
        };
        self.compare(text, &without, false)?;
        Ok(Some(without))
    }

    /// Whether the text says nothing at all.
    pub(crate) fn is_nothing(&self, text: &str) -> bool {
        match self {
            Self::DockerMirror { .. } => daemon::is_nothing(text),
            _ => text.trim().is_empty(),
        }
    }

    fn stands_in(&self, text: &str) -> Result<bool, EditError> {
        match self {
            Self::DockerMirror { url } => daemon::is_named(text, url),
            Self::ContainerdHost { url } => hosts::is_named(text, url),
            Self::ContainerdFolder { folder } => containerd::is_named(text, folder),
            Self::RegistryMirrors { mirror, registries } => registries::is_named(text, mirror, registries),
            Self::OstreeContent { urls } => remotes::is_named(text, urls),
        }
    }

    /// Two texts must say the same but for our part, which the second has or has not.
    fn compare(&self, old: &str, new: &str, has: bool) -> Result<(), EditError> {
        let same = match self {
            Self::DockerMirror { url } => daemon::rest(old, url)? == daemon::rest(new, url)?,
            Self::ContainerdHost { url } => hosts::rest(old, url)? == hosts::rest(new, url)?,
            Self::ContainerdFolder { folder } => {
                containerd::rest(old, folder)? == containerd::rest(new, folder)?
            }
            Self::RegistryMirrors { mirror, registries } => {
                registries::rest(old, mirror, registries)? == registries::rest(new, mirror, registries)?
            }
            Self::OstreeContent { urls } => remotes::rest(old, urls)? == remotes::rest(new, urls)?,
        };
        let stands = self.stands_in(new)?;
        if same && stands == has { Ok(()) } else { Err(EditError::Form(TANGLED.to_owned())) }
    }
}
