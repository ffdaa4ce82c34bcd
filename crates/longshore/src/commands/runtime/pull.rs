//! A pull of an image by a runtime itself, of which nothing is left.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::Runtime;
use tokio::process::Command;

use super::program::run;

/// How long a question to a runtime may take.
const QUESTION: Duration = Duration::from_secs(30);

/// Small images that everybody may have: the first that is not here yet is pulled.
pub(super) const IMAGES: [&str; 2] =
    ["docker.io/library/hello-world:latest", "docker.io/library/busybox:latest"];

/// The namespace of containerd in which we pull.
const NAMESPACE: &str = "longshore-check";

/// By what a runtime pulls.
pub(super) enum Puller {
    Docker,
    /// `ctr`, with the folder of its hosts.
    Containerd(PathBuf),
    Podman,
    Skopeo,
}

impl Puller {
    pub(super) const fn runtime(&self) -> Runtime {
        match self {
            Self::Docker => Runtime::Docker,
            Self::Containerd(_) => Runtime::Containerd,
            Self::Podman | Self::Skopeo => Runtime::Podman,
        }
    }

    /// The image to pull: the one that was named, or one that is not here.
    pub(super) async fn choose(&self, named: Option<&str>) -> Result<String, String> {
        if let Some(named) = named {
            let image = full(named);
            if self.has(&image).await? {
                return Err(format!(
                    "{image} is here already, so that pulling it proves nothing: name another with --image"
                ));
            }
            return Ok(image);
        }
        for image in IMAGES {
            if !self.has(image).await? {
                return Ok(image.to_owned());
            }
        }
        Err(format!(
            "{} are here already, so that pulling them proves nothing: name another with --image",
            IMAGES.join(" and ")
        ))
    }

    async fn has(&self, image: &str) -> Result<bool, String> {
        match self {
            Self::Docker => {
                let mut command = Command::new("docker");
                command.args(["image", "inspect", "--format", "{{.Id}}", image]);
                match run(&mut command, QUESTION).await {
                    Ok(_) => Ok(true),
                    Err(words) if words.to_ascii_lowercase().contains("no such image") => Ok(false),
                    Err(words) => Err(format!("whether {image} is here cannot be known: {words}")),
                }
            }
            Self::Containerd(_) => {
                // Namespaces share what they hold.
                let spaces =
                    run(Command::new("ctr").args(["namespaces", "list", "--quiet"]), QUESTION).await?;
                for space in spaces.split_whitespace() {
                    let mut command = Command::new("ctr");
                    command.args(["--namespace", space, "images", "list", "--quiet"]);
                    if run(&mut command, QUESTION).await?.lines().any(|line| line.trim() == image) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            // They pull into a folder of their own.
            Self::Podman | Self::Skopeo => Ok(false),
        }
    }

    /// Pulls, and removes what was pulled.
    pub(super) async fn pull(&self, image: &str, deadline: Duration) -> Result<(), String> {
        match self {
            Self::Docker => {
                let pulled = run(Command::new("docker").args(["pull", "--quiet", image]), deadline).await;
                // Also what a pull that failed may have left behind.
                let removed = run(Command::new("docker").args(["image", "rm", image]), QUESTION).await;
                pulled?;
                removed.map(drop)
            }
            Self::Containerd(hosts) => {
                let ctr = || {
                    let mut command = Command::new("ctr");
                    command.args(["--namespace", NAMESPACE]);
                    command
                };
                let mut fetch = ctr();
                fetch.args(["content", "fetch", "--hosts-dir"]).arg(hosts).arg(image);
                let fetched = run(&mut fetch, deadline).await;
                let removed = run(ctr().args(["images", "remove", "--sync", image]), QUESTION).await;
                // It goes once it is empty, and an empty one does no harm.
                let _ = run(Command::new("ctr").args(["namespaces", "remove", NAMESPACE]), QUESTION).await;
                fetched?;
                removed.map(drop)
            }
            Self::Podman => {
                let scratch = Scratch::new()?;
                let mut command = Command::new("podman");
                command.arg("--root").arg(scratch.0.join("root")).arg("--runroot").arg(scratch.0.join("run"));
                command.args(["--storage-driver=vfs", "pull", "--quiet", image]);
                run(&mut command, deadline).await.map(drop)
            }
            Self::Skopeo => {
                let scratch = Scratch::new()?;
                let mut command = Command::new("skopeo");
                command.args(["copy", "--quiet", &format!("docker://{image}")]);
                command.arg(format!("dir:{}", scratch.0.join("image").display()));
                run(&mut command, deadline).await.map(drop)
            }
        }
    }
}

/// The name as runtimes keep it: with its registry, and a tag.
fn full(name: &str) -> String {
    let first = name.split('/').next().unwrap_or_default();
    let registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let mut name = match (registry, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        name.push_str(":latest");
    }
    name
}

/// A folder that goes with its handle.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("longshore-check-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| format!("cannot make the folder {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_do() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("team/app:1"), "docker.io/team/app:1");
        assert_eq!(full("reg.test:5000/app"), "reg.test:5000/app:latest");
        assert_eq!(full("quay.io/a/b@sha256:00"), "quay.io/a/b@sha256:00");
    }
}
