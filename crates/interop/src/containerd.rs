//! containerd, with everything in a folder of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{PYTHON, Process, wait_until};

/// A containerd that has nothing yet, asked by `ctr` or as Kubernetes does. Wants root.
#[derive(Debug)]
pub struct Containerd {
    place: TempDir,
    _process: Process,
}

impl Containerd {
    /// Starts one that knows the hosts of one registry, or of `_default`, by the text of its `hosts.toml`.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(registry: &str, hosts: &str) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| path(&place, name);
        let certs = place.path().join("certs").join(registry);
        fs::create_dir_all(&certs).expect("made");
        fs::write(certs.join("hosts.toml"), hosts).expect("written");
        let config = Self::config(place.path())
            + &format!(
                "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"{}\"\n",
                at("certs")
            );
        fs::write(at("config.toml"), config).expect("written");
        let process = Process::start(Command::new("containerd").args(["-c", &at("config.toml")]));
        let this = Self { _process: process, place };
        wait_until("containerd answers", || this.ctr(&["version"]).status.success());
        this
    }

    /// A configuration with everything in a folder: `root`, `state` and `sock` there.
    pub fn config(folder: &Path) -> String {
        let at = |name: &str| folder.join(name).display().to_string();
        // No overlays upon overlays.
        format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\n  address = \"{}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"native\"\n",
            at("root"),
            at("state"),
            at("sock"),
        )
    }

    /// Where something of its folder is.
    pub fn at(&self, name: &str) -> String {
        path(&self.place, name)
    }

    /// What `ctr` says.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ctr(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("starts")
    }

    /// `ctr images pull` with the hosts that are known; the image's name, and what else there is, may be added.
    pub fn pull(&self) -> Command {
        let pull = ["images", "pull", "--snapshotter", "native", "--hosts-dir", &self.at("certs")];
        self.command(&pull)
    }

    /// A pull as Kubernetes asks for it.
    pub fn cri_pull(&self, image: &str) -> Command {
        let mut command = Command::new(PYTHON);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cri_pull.py"));
        command.args([&self.at("sock"), image]);
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["-a", &self.at("sock")]).args(arguments);
        command
    }
}

fn path(place: &TempDir, name: &str) -> String {
    place.path().join(name).display().to_string()
}
