//! Which files a runtime reads, and what has to stand in each for it to pull through a mirror.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    containerd, hosts,
    part::{EditError, Part},
    place::Root,
    registries::{self, Claim},
    remotes::{self, OstreeRemote},
    tables,
};

/// A runtime, or several that read the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// Docker Engine.
    Docker,
    /// containerd: Kubernetes, ctr, nerdctl.
    Containerd,
    /// Podman, skopeo, Buildah, CRI-O.
    Podman,
    /// OSTree, and what updates systems by it.
    Ostree,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Docker, Self::Containerd, Self::Podman, Self::Ostree];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Ostree => "ostree",
        }
    }

    /// Programs of which one is there where it is installed.
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["dockerd"],
            Self::Containerd => &["containerd"],
            Self::Podman => &["podman", "skopeo", "buildah", "crio"],
            Self::Ostree => &["ostree", "rpm-ostree"],
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What has to stand in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file, below the root.
    pub path: PathBuf,
    /// What has to stand in it.
    pub part: Part,
}

/// A mirror for runtimes.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where it answers.
    pub mirror: SocketAddr,
    /// For which registries, where a runtime has to be told each. Names without a port.
    pub registries: Vec<String>,
    /// OSTree repositories that the mirror has: the name that each has there, and its URL.
    pub repositories: Vec<(String, String)>,
}

/// Where records are kept unless another place is given: not with the node's content, which belongs to the node's
/// user, while what is recorded here is put back with root's rights.
pub fn default_state(root: &Path) -> PathBuf {
    root.join("var/lib/longshore-runtime")
}

const DAEMON: &str = "/etc/docker/daemon.json";
const CONTAINERD: &str = "/etc/containerd/config.toml";
/// The folder of `hosts.toml` files, unless another is set.
pub const CERTS: &str = "/etc/containerd/certs.d";
const REGISTRIES: &str = "/etc/containers/registries.conf";
const DROP_INS: &str = "/etc/containers/registries.conf.d";
/// The system's OSTree repository, and files with remotes besides its own.
const REPOSITORY: &str = "/ostree/repo/config";
const REMOTES: &str = "/etc/ostree/remotes.d";

impl Setup {
    /// What has to stand in a runtime's files, in the order in which it is to be written; and what a person should
    /// know of them.
    ///
    /// # Errors
    /// A file that is there cannot be read, or says what does not go together with the mirror.
    pub fn changes(&self, runtime: Runtime, root: &Root) -> Result<(Vec<Change>, Vec<String>), SetupError> {
        match runtime {
            Runtime::Docker => Ok((
                vec![Change { path: DAEMON.into(), part: Part::DockerMirror { url: self.url() } }],
                vec![],
            )),
            Runtime::Containerd => self.containerd(root),
            Runtime::Podman => self.podman(root).map(|change| (vec![change], vec![])),
            Runtime::Ostree => self.ostree(root),
        }
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.mirror)
    }

    fn containerd(&self, root: &Root) -> Result<(Vec<Change>, Vec<String>), SetupError> {
        let values = read(root, Path::new(CONTAINERD))?.unwrap_or_default();
        let set = containerd::folder_of(&values);
        let folder = set.as_deref().and_then(|set| set.split(':').next()).unwrap_or(CERTS).to_owned();
        let mut notes = Vec::new();
        let default = Path::new(&folder).join("_default/hosts.toml");
        for entry in list(root, Path::new(&folder))? {
            let file = entry.join("hosts.toml");
            if file == default {
                continue;
            }
            let text = root.read(&file).ok().flatten();
            if text.is_some_and(|text| !hosts::is_named(&text, &self.url()).unwrap_or(false)) {
                let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
                notes.push(format!(
                    "{} stands for {name} in place of {}: {name} is not pulled through the mirror unless it has \
                     the same block",
                    file.display(),
                    default.display()
                ));
            }
        }
        let mut changes = vec![Change { path: default, part: Part::ContainerdHost { url: self.url() } }];
        if containerd::is_off(&values) {
            notes.push(format!(
                "{CONTAINERD} has the plugin for Kubernetes switched off, so that config_path need not be set \
                 there; ctr and nerdctl are given the folder with --hosts-dir"
            ));
        } else {
            changes.push(Change { path: CONTAINERD.into(), part: Part::ContainerdFolder { folder } });
        }
        Ok((changes, notes))
    }

    fn podman(&self, root: &Root) -> Result<Change, SetupError> {
        if self.mirror.is_ipv6() {
            return Err(SetupError::Address(self.mirror));
        }
        if let Some(name) = self.registries.iter().find(|name| !is_plain(name)) {
            return Err(SetupError::Registry(name.clone()));
        }
        let mirror = self.mirror.to_string();
        let ours = Path::new(DROP_INS).join("longshore.conf");
        let mut files = vec![PathBuf::from(REGISTRIES)];
        files.extend(list(root, Path::new(DROP_INS))?);
        for file in files.into_iter().filter(|f| *f != ours && f.extension().is_some_and(|e| e == "conf")) {
            let values = read(root, &file)?.unwrap_or_default();
            let claimed = |name: &&String| matches!(registries::claim(&values, &mirror, name), Claim::Others);
            if let Some(name) = self.registries.iter().find(claimed) {
                return Err(SetupError::Claimed { path: file, name: name.clone(), mirror });
            }
        }
        Ok(Change { path: ours, part: Part::RegistryMirrors { mirror, registries: self.registries.clone() } })
    }

    /// Content of remotes is asked for at the mirror where it has the repository at their URL.
    fn ostree(&self, root: &Root) -> Result<(Vec<Change>, Vec<String>), SetupError> {
        let (mut changes, mut notes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (path, found) in remotes_of(root)? {
            let mut urls = BTreeMap::new();
            for remote in found {
                let Some((name, _)) =
                    self.repositories.iter().find(|(_, url)| remotes::same(url, &remote.url))
                else {
                    others.push(format!("{} ({})", remote.name, remote.url));
                    continue;
                };
                if remote.proxied {
                    notes.push(format!(
                        "{} of {} has a proxy, which is asked for the mirror too: it has to lead there",
                        remote.name,
                        path.display()
                    ));
                }
                urls.insert(remote.name, format!("{}/ostree/{name}", self.url()));
            }
            if !urls.is_empty() {
                changes.push(Change { path, part: Part::OstreeContent { urls } });
            }
        }
        if changes.is_empty() {
            return Err(SetupError::NoRemote(others));
        }
        Ok((changes, notes))
    }
}

/// The remotes that a system's OSTree has.
///
/// # Errors
/// A file with remotes cannot be read.
pub fn ostree_remotes(root: &Root) -> Result<Vec<OstreeRemote>, SetupError> {
    Ok(remotes_of(root)?.into_iter().flat_map(|(_, remotes)| remotes).collect())
}

fn remotes_of(root: &Root) -> Result<Vec<(PathBuf, Vec<OstreeRemote>)>, SetupError> {
    let mut files = vec![PathBuf::from(REPOSITORY)];
    let others = list(root, Path::new(REMOTES))?.into_iter();
    files.extend(others.filter(|file| file.extension().is_some_and(|extension| extension == "conf")));
    let read = |path: PathBuf| {
        let text = root.read(&path).map_err(|source| SetupError::Read { path: path.clone(), source })?;
        match remotes::remotes(&text.unwrap_or_default()) {
            Ok(remotes) => Ok((path, remotes)),
            Err(source) => Err(SetupError::Edit { path, source }),
        }
    };
    files.into_iter().map(read).collect()
}

/// Whether a name can stand in a mirror's location.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

fn read(root: &Root, path: &Path) -> Result<Option<toml::Table>, SetupError> {
    let text = root.read(path).map_err(|source| SetupError::Read { path: path.to_owned(), source })?;
    let values = text.map(|text| tables::values(&text)).transpose();
    values.map_err(|source| SetupError::Edit { path: path.to_owned(), source })
}

fn list(root: &Root, folder: &Path) -> Result<Vec<PathBuf>, SetupError> {
    root.list(folder).map_err(|source| SetupError::Read { path: folder.to_owned(), source })
}

/// Why a mirror cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder, below the root.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file cannot be understood.
    #[error("{}: {source}", path.display())]
    Edit {
        /// The file, below the root.
        path: PathBuf,
        /// What is the matter.
        source: EditError,
    },
    /// The name has a port, or is none.
    #[error(
        "`{0}` cannot stand in a mirror's location: give the registry a name without a port in the node's \
             configuration (`registry` and `endpoint` of [[origin.upstreams]]), and use that"
    )]
    Registry(String),
    /// None of OSTree's remotes is one whose repository the node knows.
    #[error(
        "no remote of OSTree has the URL of an [[ostree]] repository in the node's configuration (remotes: {})",
        if .0.is_empty() { "none".to_owned() } else { .0.join(", ") }
    )]
    NoRemote(Vec<String>),
    /// These runtimes know no IPv6 there.
    #[error(
        "Podman, skopeo, Buildah and CRI-O take no IPv6 address as a mirror ({0}): have the node listen on \
             127.0.0.1 too"
    )]
    Address(SocketAddr),
    /// Another file has a block for the registry, which ours would replace.
    #[error("{} has a block for {name}, which ours would replace: add a [[registry.mirror]] with \
             `location = \"{mirror}/{name}\"` and `insecure = true` to it by hand, or leave {name} out", path.display())]
    Claimed {
        /// That file.
        path: PathBuf,
        /// The registry.
        name: String,
        /// The mirror's address.
        mirror: String,
    },
}
