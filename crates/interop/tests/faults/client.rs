//! Container clients, each with settings of its own in a folder of its own, with a mirror or without.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use longshore_interop::{Containerd, Faulty, Process, require, require_python, skip, wait_until};

use super::image::Image;

/// The registry's name in references.
pub(crate) const REGISTRY: &str = "reg.test";

/// A client of registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Skopeo,
    Podman,
    Buildah,
    Docker,
    Ctr,
    /// containerd as Kubernetes asks it.
    Cri,
}

/// How a pull ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// The client is content with another image than there is: it cannot tell, having asked by tag.
    Deceived,
    Failed,
    /// It was not over at the end of our patience.
    Waiting,
}

/// A pull that was tried.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) took: Duration,
    /// The client's last words.
    pub(crate) said: String,
}

/// Where a pull goes.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    /// The registry.
    pub(crate) front: &'a Faulty,
    /// The mirror before it.
    pub(crate) mirror: Option<&'a str>,
    /// A certificate's authority, for Docker: the front is its Docker Hub.
    pub(crate) authority: &'a Path,
}

impl Client {
    pub(crate) const ALL: [Self; 6] =
        [Self::Skopeo, Self::Podman, Self::Buildah, Self::Docker, Self::Ctr, Self::Cri];

    /// Whether it can run here.
    pub(crate) fn is_here(self) -> bool {
        if self != Self::Skopeo && !rustix::process::geteuid().is_root() {
            skip(&format!("{self} wants root"));
            return false;
        }
        match self {
            Self::Skopeo => require("skopeo", "skopeo"),
            Self::Podman => require("podman", "podman"),
            Self::Buildah => require("buildah", "buildah"),
            Self::Docker => {
                require("dockerd", "docker.io")
                    && require("docker", "docker.io")
                    && require("haproxy", "haproxy")
            }
            Self::Ctr => require("containerd", "containerd") && require("ctr", "containerd"),
            Self::Cri => require("containerd", "containerd") && require_python("grpc", "python3-grpcio"),
        }
    }

    /// Pulls the image anew, within `patience`, and looks whether it is the right one.
    pub(crate) fn pull(self, way: Way<'_>, image: &Image, patience: Duration) -> Outcome {
        let place = tempfile::tempdir().expect("a folder");
        let place = place.path();
        match self {
            Self::Skopeo => {
                let mut command = Command::new("skopeo");
                command.arg("--registries-conf").arg(registries(place, way));
                command.args(["copy", "--quiet", &format!("docker://{REGISTRY}/team/app:1")]);
                command.arg(format!("dir:{}", place.join("copy").display()));
                let outcome = run(&mut command, patience);
                outcome.checked(|| image.is_copied_to(&place.join("copy")))
            }
            Self::Podman | Self::Buildah => {
                let program = if self == Self::Podman { "podman" } else { "buildah" };
                let command = || {
                    let mut command = Command::new(program);
                    command.env("CONTAINERS_REGISTRIES_CONF", place.join("registries.conf"));
                    command.arg("--root").arg(place.join("root")).arg("--runroot").arg(place.join("run"));
                    command.arg("--storage-driver=vfs");
                    command
                };
                registries(place, way);
                let outcome =
                    run(command().args(["pull", "--quiet", &format!("{REGISTRY}/team/app:1")]), patience);
                outcome.checked(|| {
                    let listed =
                        command().args(["images", "--quiet", "--no-trunc"]).output().expect("starts");
                    String::from_utf8_lossy(&listed.stdout).contains(&image.config)
                })
            }
            Self::Docker => docker(place, way, image, patience),
            Self::Ctr | Self::Cri => self.containerd(way, image, patience),
        }
    }

    fn containerd(self, way: Way<'_>, image: &Image, patience: Duration) -> Outcome {
        let mut hosts = format!("server = \"http://{}\"\n", way.front.address());
        for host in way.mirror.map(str::to_owned).into_iter().chain([way.front.address().to_string()]) {
            hosts += &format!("[host.\"http://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        }
        let daemon = Containerd::start(REGISTRY, &hosts);
        let reference = format!("{REGISTRY}/team/app:1");
        let (mut command, namespace) = if self == Self::Ctr {
            let mut command = daemon.pull();
            command.arg(&reference);
            (command, "default")
        } else {
            (daemon.cri_pull(&reference), "k8s.io")
        };
        run(&mut command, patience).checked(|| {
            let listed = daemon.ctr(&["--namespace", namespace, "images", "list"]);
            String::from_utf8_lossy(&listed.stdout).contains(&image.manifest)
        })
    }
}

/// `registries.conf`, as `longshore runtime install` writes it but for the registry's own address.
fn registries(place: &Path, way: Way<'_>) -> PathBuf {
    let mut config = format!(
        "unqualified-search-registries = []\n[[registry]]\nprefix = \"{REGISTRY}\"\nlocation = \"{}\"\ninsecure = true\n",
        way.front.address()
    );
    if let Some(mirror) = way.mirror {
        config += &format!("[[registry.mirror]]\nlocation = \"{mirror}/{REGISTRY}\"\ninsecure = true\n");
    }
    let path = place.join("registries.conf");
    fs::write(&path, config).expect("written");
    path
}

/// A dockerd with the front as Docker Hub: it is reached as a proxy for https, and haproxy speaks TLS before it.
fn docker(place: &Path, way: Way<'_>, image: &Image, patience: Duration) -> Outcome {
    let at = |name: &str| place.join(name).display().to_string();
    let socket = format!("unix://{}", at("sock"));
    let mut command = Command::new("dockerd");
    command.env("HTTPS_PROXY", format!("http://{}", way.front.address()));
    command.env("SSL_CERT_FILE", way.authority);
    // No bridge and no filter rules: the machine's network stays as it is.
    command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
    command.args(["-H", &socket, "--data-root", &at("data"), "--exec-root", &at("exec"), "-p", &at("pid")]);
    if let Some(mirror) = way.mirror {
        command.args(["--registry-mirror", &format!("http://{mirror}")]);
    }
    let _daemon = Process::start(&mut command);
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", place).args(["-H", &socket]).args(arguments);
        command
    };
    wait_until("dockerd answers", || docker(&["version"]).output().expect("starts").status.success());
    run(&mut docker(&["pull", "--quiet", "team/app:1"]), patience).checked(|| {
        let listed = docker(&["images", "--quiet", "--no-trunc"]).output().expect("starts");
        String::from_utf8_lossy(&listed.stdout).contains(&image.config)
    })
}

fn run(command: &mut Command, patience: Duration) -> Outcome {
    let begun = Instant::now();
    let mut process = Process::start(command);
    while process.is_running() && begun.elapsed() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed();
    if process.is_running() {
        return Outcome { end: End::Waiting, took, said: process.stderr() };
    }
    let end = if process.wait().success() { End::Done } else { End::Failed };
    Outcome { end, took, said: process.stderr() }
}

impl Outcome {
    fn checked(mut self, right: impl FnOnce() -> bool) -> Self {
        if self.end == End::Done && !right() {
            self.end = End::Deceived;
        }
        self
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skopeo => "skopeo",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
            Self::Docker => "docker",
            Self::Ctr => "ctr",
            Self::Cri => "cri",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f32();
        match self.end {
            End::Done => write!(f, "ok {seconds:.1}"),
            End::Deceived => write!(f, "other image {seconds:.1}"),
            End::Failed => write!(f, "fails {seconds:.1}"),
            End::Waiting => write!(f, "waits > {seconds:.0}"),
        }
    }
}
