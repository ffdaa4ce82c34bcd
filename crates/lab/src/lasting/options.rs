//! What a lasting lab is told at its start, and what it tells until it stands.

use std::{net::SocketAddr, path::PathBuf};

use api::lab::LabStatus;
use serde::{Deserialize, Serialize};

use crate::{
    LabError, Sources,
    image::ImageError,
    lasting::topology::{Foreign, Topology, is_name},
    links,
};

/// A lasting lab's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpConfig {
    /// Its name.
    pub name: String,
    /// The program that has the roles `tracker` and `node`.
    pub program: PathBuf,
    /// Who is in it, and what for.
    pub topology: Topology,
    /// What it is about where the topology names nothing: an image of these, and a torrent of them.
    pub own: Sources,
    /// A network namespace for each host. For root only.
    pub namespaces: bool,
    /// Delays were asked for by name, so a lab without them is none.
    pub must_delay: bool,
    /// Where the page is; none for the usual place, or a free one where that is taken.
    pub page: Option<SocketAddr>,
    /// The log filter of tracker and nodes.
    pub log: String,
}

/// What a lab tells until it stands, a JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "lowercase")]
pub enum News {
    /// Something begins.
    Step {
        /// What.
        what: String,
    },
    /// Every host runs.
    Ready {
        /// How it is.
        status: Box<LabStatus>,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// It could not be raised, and all is removed.
    Failed {
        /// Why.
        error: String,
        /// What was given cannot be used.
        bad_input: bool,
    },
}

impl UpConfig {
    /// Whether it makes sense here.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        // Namespaces are called after the lab, up to a hyphen.
        if !is_name(&self.name) || self.name.contains('-') {
            return Err(LabError::BadName { name: self.name.clone() });
        }
        self.topology.check()?;
        if let Some(page) = self.page.filter(|page| !page.ip().is_loopback()) {
            return Err(LabError::OpenPage { page });
        }
        let path = links::PATH;
        if self.namespaces {
            if !rustix::process::geteuid().is_root() {
                return Err(LabError::NotRoot);
            }
            links::expect_programs(["ip", "tc"], path)?;
        } else if self.must_delay {
            return Err(LabError::DelayWithoutNamespaces);
        }
        for client in &self.topology.foreign {
            if *client == Foreign::Transmission && !self.namespaces {
                let words = "transmission connects to no peer on loopback: give --netns, or leave it out";
                return Err(LabError::Topology(words.to_owned()));
            }
            if !links::has_program(client.program(), path) {
                return Err(LabError::NoClient { program: client.program() });
            }
        }
        if let Some(sources) = self.topology.sources.as_ref().or(self.own.directory.as_ref()) {
            let readable = std::fs::read_dir(sources).map(drop);
            readable.map_err(|error| ImageError::Io { path: sources.clone(), error })?;
        }
        self.check_registry()
    }

    fn check_registry(&self) -> Result<(), LabError> {
        let wrong = |words: &str| Err(LabError::Topology(words.to_owned()));
        for image in &self.topology.images {
            if let Err(error) = image.parse::<origin::Reference>() {
                return wrong(&format!("the image `{image}`: {error}"));
            }
        }
        match &self.topology.registry {
            Some(_) if self.topology.images.is_empty() => {
                wrong("--registry needs --image: name an image of it")
            }
            None if self.namespaces && !self.topology.images.is_empty() => wrong(
                "nodes in namespaces have no way out: give --registry with an http address, or leave --netns out",
            ),
            Some(url) if self.namespaces && relayed(url).is_none() => wrong(
                "with --netns the registry is reached through a relay: give it as http://HOST:PORT, without a path",
            ),
            _ => Ok(()),
        }
    }
}

/// `host:port` of a registry that a relay can stand for.
pub(crate) fn relayed(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?.trim_end_matches('/');
    let plain = !rest.is_empty() && !rest.contains(['/', '?', '#', '@']);
    let port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    plain.then(|| if port { rest.to_owned() } else { format!("{rest}:80") })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(seeders: usize, leechers: usize) -> UpConfig {
        UpConfig {
            name: "bay".into(),
            program: "longshore".into(),
            topology: Topology::star(seeders, leechers),
            own: Sources::default(),
            namespaces: false,
            must_delay: false,
            page: None,
            log: "info".into(),
        }
    }

    #[test]
    fn what_cannot_be_had_here_is_refused() {
        assert!(config(1, 2).check().is_ok());
        for name in ["", "Bay", "a-b", "a/b", "abcdefghijklmnopq"] {
            let wrong = UpConfig { name: name.into(), ..config(1, 2) };
            assert!(matches!(wrong.check(), Err(LabError::BadName { .. })), "{name}");
        }
        let open = UpConfig { page: "0.0.0.0:7070".parse().ok(), ..config(1, 2) };
        assert!(matches!(open.check(), Err(LabError::OpenPage { .. })));
        let late = UpConfig { must_delay: true, ..config(1, 2) };
        assert!(matches!(late.check(), Err(LabError::DelayWithoutNamespaces)));
        let mut wrong = config(1, 2);
        wrong.topology.images = vec!["no reference!".into()];
        assert!(matches!(wrong.check(), Err(LabError::Topology(_))));
    }

    #[test]
    fn a_relay_stands_for_plain_registries_only() {
        assert_eq!(relayed("http://r:5000").as_deref(), Some("r:5000"));
        assert_eq!(relayed("http://[::1]:5000/").as_deref(), Some("[::1]:5000"));
        assert_eq!(relayed("http://r").as_deref(), Some("r:80"));
        for url in ["https://r", "http://r/v2", "http://", "r:5000", "http://u@r"] {
            assert_eq!(relayed(url), None, "{url}");
        }
    }
}
